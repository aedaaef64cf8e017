//! What a task of the local engine may be given beside its command: another user, bounds, files, secrets.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use engine::conformance::processes::{alive, pids};
use engine::conformance::{Lab, ends_of, order, read_all, task, until};
use engine::local::{LocalEngine, LocalOptions};
use engine::{
    Engine, EngineError, Fetch, Forgotten, Keep, Known, Launch, Limits, Readiness, Secret, SecretSource,
    Stream, TaskSpec,
};
use scheduler::ids::{Epoch, TaskId};
use scheduler::run::AttemptEnd;

#[path = "../testing/settle.rs"]
mod settle;
#[path = "../testing/skip.rs"]
mod skip;

use skip::skip;

/// A folder with a supervisor, which ends with the test.
struct Machine {
    folder: tempfile::TempDir,
    dir: PathBuf,
    engine: LocalEngine,
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_supervise-for-tests");

impl Machine {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        // Other users must get to their tasks' folders.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).expect("ours");
        let dir = folder.path().join("engine");
        // A secret in the supervisor's environment, as the server leaves it there; a login, as one of before left it; and
        // what the user has whose server it is.
        let script = r#"CHRONOS_SECRET_TOKEN=token-4711 MESOSPHERE_HTTP_CREDENTIALS=joe:open \
            HOME=/of-the-server SHELL=/of-the-server USER=of-the-server LOGNAME=of-the-server exec "$0" "$@""#;
        let supervisor_args =
            vec!["-c".into(), script.into(), PROGRAM.into(), dir.clone().into(), "60000".into()];
        let options =
            LocalOptions { dir: dir.clone(), supervisor_program: "/bin/sh".into(), supervisor_args };
        let engine = LocalEngine::open(options);
        until("the engine is ready", || engine.readiness() == Readiness::Ready).await;
        engine.begin_term(Epoch(1)).await.expect("the first term begins");
        Self { folder, dir, engine }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs it to its end: how it ended, and what it wrote.
    async fn run(&self, launch: Launch) -> (AttemptEnd, String, String) {
        let id = launch.task.clone();
        let known = self.engine.launch(Epoch(1), launch).await.expect("launched");
        assert!(matches!(known, Known::Running | Known::Ended(_)), "{known:?}");
        let end = ends_of(&self.engine, &[id.as_str()]).await.remove(0);
        (end, self.output(&id, Stream::Stdout).await, self.output(&id, Stream::Stderr).await)
    }

    async fn output(&self, id: &TaskId, stream: Stream) -> String {
        match self.engine.output(id, stream, 0).await {
            Ok(_) => String::from_utf8_lossy(&read_all(&self.engine, id, stream, 0).await.bytes).into_owned(),
            Err(_) => String::new(),
        }
    }

    /// Whether control groups can be had here.
    fn limits_memory(&self) -> bool {
        !self.engine.notes().iter().any(|note| note.contains("memory"))
    }

    fn holds(&self) -> bool {
        !self.engine.notes().iter().any(|note| note.contains("may outlive"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let of_us =
            |pid: &String| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == self.dir);
        let entries = std::fs::read_dir("/proc").expect("proc is mounted").flatten();
        for pid in entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(of_us) {
            // Every shell has it built in; a small Debian has no program of that name.
            let _ = Command::new("sh").args(["-c", "kill -KILL $0", &pid]).status();
            while alive(&pid) {
                std::thread::yield_now();
            }
        }
        settle::settle(&self.dir);
    }
}

fn with(id: &str, command: impl Into<String>, change: impl FnOnce(&mut TaskSpec)) -> Launch {
    let mut launch = order(id, command);
    change(Arc::make_mut(&mut launch.spec));
    launch
}

fn failed(end: &AttemptEnd) -> &str {
    match end {
        AttemptEnd::Failed { message, .. } => message,
        other => panic!("{other:?}"),
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

#[tokio::test]
async fn who_exceeds_its_memory_is_ended_and_the_end_says_so() {
    let machine = Machine::start().await;
    if !machine.limits_memory() {
        return skip("memory-limit", "no memory control group can be made");
    }
    let limit = |spec: &mut TaskSpec| spec.limits.memory_max = Some(64 << 20);
    let (end, ..) = machine.run(with("greedy-0", "head -c 200000000 /dev/zero | tail", limit)).await;
    assert_eq!(failed(&end), "out of memory: exceeded 64 MiB");
    // A shell that goes on makes no success of it.
    let survivor = "head -c 200000000 /dev/zero | tail; true";
    let (end, ..) = machine.run(with("survivor-0", survivor, limit)).await;
    assert_eq!(failed(&end), "out of memory: exceeded 64 MiB");
    let (end, out, _) = machine.run(with("modest-0", "echo fine", limit)).await;
    assert_eq!((end, out.as_str()), (AttemptEnd::Succeeded, "fine\n"));
    let (end, ..) = machine.run(with("other-0", "exit 3", limit)).await;
    assert_eq!(failed(&end), "exit status 3");
}

#[tokio::test]
async fn a_share_of_the_processor_is_no_ceiling_and_no_hindrance() {
    let machine = Machine::start().await;
    let cpus = |spec: &mut TaskSpec| spec.limits = Limits { cpu_millis: Some(100), memory_max: None };
    // What it is given is looked at from inside, once it is there, as its group goes with it: 100 of the 1,024 shares of a
    // processor, and where version 2 has the controller, the same in its terms.
    let one = std::path::Path::new("/sys/fs/cgroup/cpu").exists();
    let (group, file) = if one {
        (r"s/^[0-9]+:([^:]*,)?cpu(,[^:]*)?:(.*chronos-.*)/\3/p", "/sys/fs/cgroup/cpu$g/cpu.shares")
    } else {
        (r"s/^0::(.*chronos-.*)/\1/p", "/sys/fs/cgroup$g/cpu.weight")
    };
    let look =
        format!("until g=$(sed -nE '{group}' /proc/self/cgroup) && [ -n \"$g\" ]; do :; done; cat {file}");
    let command = if machine.holds() { &look } else { "true" };
    let (end, stdout, _) = machine.run(with("share-0", command, cpus)).await;
    assert_eq!(end, AttemptEnd::Succeeded);
    if machine.holds() {
        assert_eq!(stdout.trim(), if one { "102" } else { "10" });
    }
}

/// Two forks, a session of its own, an empty environment: neither group nor mark nor ancestry lead to it. It waits until
/// its shell has been put into its control group, which a task without bounds is only after it has begun.
const HIDE: &str = "until grep -q chronos- /proc/self/cgroup; do :; done; \
                    env -i setsid sh -c '(setsid sleep 1000 & echo $! > %) &' &";

#[tokio::test]
async fn a_process_that_hides_on_purpose_ends_with_its_task() {
    let machine = Machine::start().await;
    if !machine.holds() {
        return skip("control-groups", "no control group can be made");
    }
    let hide = |name: &str| HIDE.replace('%', &machine.path(name).display().to_string());
    let wait = |name: &str| format!("while ! test -s {}; do :; done;", machine.path(name).display());
    let lab = Scratch(machine.folder.path().to_owned());

    let command = format!("{} {} sleep 1000", hide("killed"), wait("killed"));
    machine.engine.launch(Epoch(1), order("hider-0", command)).await.expect("launched");
    let hidden = pids(&lab, "killed", 1).await.remove(0);
    let far = Duration::MAX;
    machine.engine.kill(Epoch(1), &task("hider-0"), Duration::from_secs(1), far).await.expect("killed");
    assert_eq!(ends_of(&machine.engine, &["hider-0"]).await, [AttemptEnd::Killed]);
    assert!(!alive(&hidden), "it outlived the kill");

    let (end, ..) = machine.run(order("leaver-0", format!("{} {}", hide("left"), wait("left")))).await;
    assert_eq!(end, AttemptEnd::Succeeded);
    assert!(!alive(&pids(&lab, "left", 1).await[0]), "it outlived its task");
}

#[tokio::test]
async fn what_hid_from_a_dead_supervisor_is_ended_by_the_next() {
    let machine = Machine::start().await;
    if !machine.holds() {
        return skip("control-groups", "no control group can be made");
    }
    let command = format!("{} sleep 1000", HIDE.replace('%', &machine.path("pid").display().to_string()));
    machine.engine.launch(Epoch(1), order("orphan-0", command)).await.expect("launched");
    let hidden = pids(&Scratch(machine.folder.path().to_owned()), "pid", 1).await.remove(0);
    drop(machine);
    assert!(!alive(&hidden));
}

/// Only for [`pids`].
struct Scratch(PathBuf);

#[async_trait::async_trait]
impl Lab for Scratch {
    async fn open(&self) -> Box<dyn Engine> {
        unreachable!("nothing is opened here")
    }
    fn command(&self, command: &str) -> String {
        command.into()
    }
    fn starts(&self, _: &TaskId) -> usize {
        0
    }
    async fn restart(&self) {}
    fn scratch(&self) -> PathBuf {
        self.0.clone()
    }
}

#[tokio::test]
async fn a_task_can_be_another_user() {
    if !is_root() {
        return skip("run-as-user", "only root may become another user");
    }
    let machine = Machine::start().await;
    let nobody = |spec: &mut TaskSpec| spec.user = Some("nobody".into());
    let command = "id -un; echo $USER $LOGNAME; case $HOME$SHELL in *of-the-server*) echo wrong;; esac; umask; test -O . && touch made && cat \"$PWD/made\" && \
                   stat -c %U made; cat ../end ../../../../journal 2>/dev/null; ls ../.. 2>/dev/null; \
                   grep -c . /proc/self/status > /dev/null; id -G | wc -w";
    let (end, out, err) = machine.run(with("nobody-0", command, nobody)).await;
    assert_eq!(
        (&end, out.as_str()),
        (&AttemptEnd::Succeeded, "nobody\nnobody nobody\n0022\nnobody\n1\n"),
        "{err}"
    );
    let own_home = |spec: &mut TaskSpec| {
        spec.user = Some("nobody".into());
        spec.environment = vec![("HOME".into(), "/of-the-job".into())];
    };
    assert_eq!(machine.run(with("home-0", "echo $HOME", own_home)).await.1, "/of-the-job\n");
    let unknown = |spec: &mut TaskSpec| spec.user = Some("no-such-user".into());
    let (end, ..) = machine.run(with("unknown-0", "true", unknown)).await;
    assert_eq!(failed(&end), "it cannot run as user `no-such-user`: there is no such user on this machine");
    // What every exported job says.
    let root = |spec: &mut TaskSpec| spec.user = Some("root".into());
    assert_eq!(machine.run(with("root-0", "true", root)).await.0, AttemptEnd::Succeeded);
}

/// With it, a task could ask the server for whatever its owner may.
#[tokio::test]
async fn what_sets_up_the_server_is_for_no_task() {
    let machine = Machine::start().await;
    let (_, out, _) = machine.run(with("env-0", "env", |_| ())).await;
    assert!(out.contains("HOME=/of-the-server\n") && !out.contains("joe:open"), "{out}");
    let asks = |spec: &mut TaskSpec| {
        let source = SecretSource::Env("CHRONOS_SECRET_TOKEN".into());
        spec.secrets = vec![Secret { name: "TOKEN".into(), source }];
        spec.user = is_root().then(|| "nobody".into());
    };
    let (_, out, _) = machine.run(with("env-1", "env", asks)).await;
    assert!(out.contains("TOKEN=token-4711\n") && !out.contains("joe:open"), "{out}");
}

#[tokio::test]
async fn a_first_stage_leaves_nothing_of_itself_to_the_task() {
    let machine = Machine::start().await;
    let source = machine.path("file");
    std::fs::write(&source, "x").expect("written");
    let fetch = |spec: &mut TaskSpec| {
        spec.fetches = vec![fetch(&source.display().to_string())];
        spec.environment = vec![("OWN".into(), "1".into())];
    };
    // No pipe: while a shell makes one, its descriptors are open in the shell, too.
    let command = "set -- /proc/$$/fd/*; echo $#; readlink /proc/$$/fd/0; echo $OWN; cat /proc/$$/comm";
    // Whoever runs this test may leave open files to the supervisor, and so to every task.
    let plain = |spec: &mut TaskSpec| spec.environment = vec![("OWN".into(), "1".into())];
    let (_, expected, _) = machine.run(with("plain-0", command, plain)).await;
    assert!(expected.ends_with("\n/dev/null\n1\nsh\n"), "{expected}");
    let (end, out, err) = machine.run(with("clean-0", command, fetch)).await;
    assert_eq!((&end, out), (&AttemptEnd::Succeeded, expected), "{err}");
    let missing = |spec: &mut TaskSpec| {
        fetch(spec);
        spec.shell = false;
    };
    let (end, ..) = machine.run(with("missing-0", "./none", missing)).await;
    assert!(failed(&end).starts_with("`./none` could not be started: No such file"), "{end:?}");
}

fn fetch(uri: &str) -> Fetch {
    Fetch { uri: uri.into(), executable: false, extract: true, output_file: None, cache: false }
}

#[tokio::test]
async fn files_are_there_before_the_command_begins() {
    let machine = Machine::start().await;
    let packed = machine.path("packed");
    std::fs::create_dir(&packed).expect("made");
    std::fs::write(packed.join("inner"), "from the archive\n").expect("written");
    std::fs::write(machine.path("tool"), "#!/bin/sh\necho tool\n").expect("written");
    let mut names = vec!["a.tar", "b.tar.gz"];
    for (name, program) in [("c.tar.bz2", "bzip2"), ("d.tar.xz", "xz")] {
        match Command::new(program).arg("--help").output() {
            Ok(_) => names.push(name),
            Err(_) => skip("fetch-archives", &format!("{program} is not here")),
        }
    }
    for name in &names {
        // It tells by the end of the name how to pack.
        let tar = Command::new("tar")
            .arg("-caf")
            .arg(machine.path(name))
            .arg("-C")
            .arg(&packed)
            .arg("inner")
            .status();
        assert!(tar.expect("tar is there").success());
    }
    let path = |name: &str| machine.path(name).display().to_string();
    for name in names {
        let fetches = vec![fetch(&format!("file://{}", path(name)))];
        let id = format!("unpack-{}", &name[..1]);
        let (end, out, err) = machine.run(with(&id, "cat inner", |spec| spec.fetches = fetches)).await;
        assert_eq!((&end, out.as_str()), (&AttemptEnd::Succeeded, "from the archive\n"), "{name}: {err}");
    }
    let fetches = vec![
        Fetch { executable: true, ..fetch(&path("tool")) },
        Fetch { extract: false, output_file: Some("sub/x".into()), ..fetch(&path("b.tar.gz")) },
    ];
    let (end, out, err) = machine
        .run(with("tool-0", "./tool && test -s sub/x && ! test -e inner", |spec| spec.fetches = fetches))
        .await;
    assert_eq!((&end, out.as_str()), (&AttemptEnd::Succeeded, "tool\n"), "{err}");
    assert!(err.contains("chronos: fetched /"), "{err}");
}

/// Answers one request after the other with what the closure says, and counts them.
fn serve(answer: impl Fn(usize, &str) -> String + Send + 'static) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 4096];
            let length = stream.read(&mut request).unwrap_or(0);
            let text = String::from_utf8_lossy(&request[..length]).into_owned();
            let number = counted.fetch_add(1, Ordering::SeqCst);
            let _ = stream.write_all(answer(number, text.lines().next().unwrap_or_default()).as_bytes());
        }
    });
    (format!("127.0.0.1:{}", address.port()), count)
}

fn http(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn http_is_tried_again_when_the_server_is_in_trouble_and_not_for_ever() {
    let machine = Machine::start().await;
    let (host, asked) = serve(|number, line| match (number, line.contains("/gone")) {
        (_, true) => http("404 Not Found", ""),
        (0, _) => http("503 Service Unavailable", ""),
        (1, _) => "HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\ncut".into(),
        (2, _) => {
            "HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".into()
        }
        _ => http("200 OK", "hello\n"),
    });
    let fetches = vec![fetch(&format!("http://me:secret-pw@{host}/greeting?token=secret-t"))];
    let (end, out, err) = machine.run(with("http-0", "cat greeting", |spec| spec.fetches = fetches)).await;
    assert_eq!((&end, out.as_str()), (&AttemptEnd::Succeeded, "hello\n"), "{err}");
    assert_eq!(asked.load(Ordering::SeqCst), 4);
    let fetches = vec![fetch(&format!("http://me:secret-pw@{host}/gone?token=secret-t"))];
    let (end, _, more) = machine.run(with("gone-0", "touch ran", |spec| spec.fetches = fetches)).await;
    assert_eq!(
        failed(&end),
        format!("cannot fetch http://me:***@{host}/gone?***: the server answered 404 Not Found")
    );
    assert_eq!(asked.load(Ordering::SeqCst), 5, "what lasts is not tried again");
    assert!(!format!("{err}{more}").contains("secret-"), "{err}{more}");
}

/// The download is part of the task: it is ended with it.
#[tokio::test]
async fn a_kill_ends_a_download() {
    let machine = Machine::start().await;
    let (host, asked) = serve(|_, _| {
        std::thread::park();
        String::new()
    });
    let fetches = vec![fetch(&format!("http://{host}/never"))];
    let launch = with("never-0", "true", |spec| spec.fetches = fetches);
    machine.engine.launch(Epoch(1), launch).await.expect("launched");
    until("the server is asked", || asked.load(Ordering::SeqCst) == 1).await;
    machine
        .engine
        .kill(Epoch(1), &task("never-0"), Duration::from_secs(5), Duration::MAX)
        .await
        .expect("killed");
    assert_eq!(ends_of(&machine.engine, &["never-0"]).await, [AttemptEnd::Killed]);
}

#[tokio::test]
async fn secrets_reach_the_task_and_nothing_else() {
    let machine = Machine::start().await;
    let file = machine.path("password");
    std::fs::write(&file, "hunter2-word\n").expect("written");
    let secrets = vec![
        Secret { name: "PASSWORD".into(), source: SecretSource::File(file.display().to_string()) },
        Secret { name: "TOKEN".into(), source: SecretSource::Env("CHRONOS_SECRET_TOKEN".into()) },
    ];
    let command = "echo ${#PASSWORD} ${#TOKEN} ${CHRONOS_SECRET_TOKEN-unset}; ls -d . > /dev/null";
    let given = secrets.clone();
    let (end, out, err) = machine.run(with("secret-0", command, |spec| spec.secrets = given)).await;
    assert_eq!((&end, out.as_str()), (&AttemptEnd::Succeeded, "12 10 unset\n"), "{err}");
    // By way of a first stage too.
    let copy = machine.path("tool");
    std::fs::write(&copy, "").expect("written");
    let fetches = vec![fetch(&copy.display().to_string())];
    let given = secrets.clone();
    let both = |spec: &mut TaskSpec| (spec.secrets, spec.fetches) = (given, fetches);
    let (end, out, err) = machine.run(with("secret-1", command, both)).await;
    assert_eq!((&end, out.as_str()), (&AttemptEnd::Succeeded, "12 10 unset\n"), "{err}");
    for value in ["hunter2-word", "token-4711"] {
        assert_eq!(files_with(&machine.dir, value), Vec::<PathBuf>::new());
    }
    std::fs::remove_file(&file).expect("removed");
    let (end, ..) = machine.run(with("secret-2", "true", |spec| spec.secrets = secrets)).await;
    assert!(failed(&end).starts_with("the value of `PASSWORD` cannot be had: file `"), "{end:?}");
}

#[tokio::test]
async fn what_is_kept_of_ended_tasks_is_bounded_and_what_lives_is_left_alone() {
    let machine = Machine::start().await;
    for id in ["old-0", "old-1", "open-0"] {
        machine.run(order(id, "head -c 100000 /dev/zero > file; echo said")).await;
    }
    machine.engine.acknowledge(&[task("old-0"), task("old-1")]).await.expect("acknowledged");
    machine.engine.launch(Epoch(1), order("alive-0", "sleep 1000")).await.expect("launched");
    let keep = |age_min, age_max, bytes_max| Keep { age_min, age_max, bytes_max };
    let (none, long) = (Duration::ZERO, Duration::from_secs(3600));
    for keep in [keep(long, none, 0), keep(none, long, u64::MAX)] {
        assert_eq!(
            machine.engine.forget_old(keep).await,
            Ok(Forgotten::default()),
            "too young, or room enough"
        );
    }
    // Room for all but the oldest.
    let forgotten = machine.engine.forget_old(keep(none, long, 300_000)).await.expect("done");
    assert_eq!(forgotten.tasks, 1, "{forgotten:?}");
    assert!(forgotten.bytes > 100_000, "{forgotten:?}");
    assert_eq!(
        machine.engine.output(&task("old-0"), Stream::Stdout, 0).await,
        Err(EngineError::NoSuchTask(task("old-0")))
    );
    assert_eq!(machine.output(&task("old-1"), Stream::Stdout).await, "said\n");
    assert_eq!(machine.engine.forget_old(keep(none, none, 0)).await.map(|forgotten| forgotten.tasks), Ok(1));
    let known = machine.engine.reconcile(Epoch(1), &[task("open-0"), task("alive-0")]).await.expect("known");
    assert_eq!(known, [Known::Ended(AttemptEnd::Succeeded), Known::Running]);
    until("the trash is empty", || {
        machine.dir.join("trash").read_dir().is_ok_and(|mut left| left.next().is_none())
    })
    .await;
}

/// The files below a folder that hold the text.
fn files_with(folder: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let kind = entry.file_type().expect("there");
        if kind.is_dir() {
            found.extend(files_with(&entry.path(), text));
        } else if kind.is_file() {
            let bytes = std::fs::read(entry.path()).unwrap_or_default();
            if bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
                found.push(entry.path());
            }
        }
    }
    found
}
