//! The local engine keeps the contract with real processes, and survives what happens to supervisors and servers.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use engine::conformance::processes::{alive, pids};
use engine::conformance::{Lab, PATIENCE, ends_of, order, read_all, task, until};
use engine::local::{LocalEngine, LocalOptions};
use engine::{Engine, EngineError, Grade, Known, Launch, Readiness, Stream, TaskSpec, since_boot};
use scheduler::ids::{Epoch, TaskId};
use scheduler::run::AttemptEnd;

#[path = "../testing/settle.rs"]
mod settle;

/// Longer than any test.
const IDLE_EXIT_MS: &str = "60000";

/// A folder with a supervisor, which ends with the test.
struct LocalLab {
    folder: tempfile::TempDir,
    dir: PathBuf,
}

impl LocalLab {
    fn new() -> Self {
        Self::named("engine")
    }

    fn named(name: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self { dir: folder.path().join(name), folder }
    }

    fn options(&self) -> LocalOptions {
        // Through a shell that leaves a descriptor open, as careless parents do.
        let careless = r#"exec "$0" "$@" 7</dev/null"#;
        let program = env!("CARGO_BIN_EXE_supervise-for-tests");
        LocalOptions {
            dir: self.dir.clone(),
            supervisor_program: "/bin/sh".into(),
            supervisor_args: vec![
                "-c".into(),
                careless.into(),
                program.into(),
                self.dir.clone().into(),
                IDLE_EXIT_MS.into(),
            ],
        }
    }

    fn engine(&self) -> LocalEngine {
        LocalEngine::open(self.options())
    }

    /// Connected: nobody waits for ever for a supervisor to start, and on a busy machine that takes its time.
    async fn connected(&self) -> LocalEngine {
        let engine = self.engine();
        until("the engine is ready", || engine.readiness() == Readiness::Ready).await;
        engine
    }

    async fn first_term(&self) -> LocalEngine {
        let engine = self.connected().await;
        engine.begin_term(Epoch(1)).await.expect("the first term begins");
        engine
    }

    /// The living supervisor of this folder: who has its lock.
    fn supervisor(&self) -> Option<String> {
        let of_us = |pid: &String| {
            std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == self.dir)
                && std::fs::read_link(format!("/proc/{pid}/exe"))
                    .is_ok_and(|exe| exe == Path::new(env!("CARGO_BIN_EXE_supervise-for-tests")))
                && alive(pid)
        };
        let entries = std::fs::read_dir("/proc").expect("proc is mounted").flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).find(of_us)
    }

    fn signal_supervisor(&self, signal: &str) -> String {
        let pid = self.supervisor().expect("a supervisor is alive");
        send(&pid, signal);
        pid
    }

    /// Waits until a supervisor answers again after the last one was killed. Readiness may still be that of before.
    async fn reconnected(&self, engine: &LocalEngine) {
        let since = Instant::now();
        while engine.running_tasks().await.is_err() {
            assert!(since.elapsed() < PATIENCE, "{:?}", engine.readiness());
            tokio::task::yield_now().await;
        }
    }

    fn kill_supervisor(&self) {
        if let Some(pid) = self.supervisor() {
            send(&pid, "-KILL");
            let since = Instant::now();
            while alive(&pid) {
                assert!(since.elapsed() < PATIENCE, "the supervisor does not die");
                std::thread::yield_now();
            }
        }
    }
}

fn send(pid: &str, signal: &str) {
    // Every shell has it built in; a small Debian has no program of that name.
    Command::new("sh").args(["-c", "kill $0 $1", signal, pid]).status().expect("sh is there");
}

impl Drop for LocalLab {
    /// Ends the supervisor and, by way of a last one that settles them, its tasks.
    fn drop(&mut self) {
        self.kill_supervisor();
        settle::settle(&self.dir);
    }
}

#[async_trait]
impl Lab for LocalLab {
    async fn open(&self) -> Box<dyn Engine> {
        Box::new(self.connected().await)
    }

    fn command(&self, command: &str) -> String {
        format!("echo >> '{}'/\"$CHRONOS_TASK_ID\".starts; {command}", self.folder.path().display())
    }

    fn starts(&self, task: &TaskId) -> usize {
        let path = self.folder.path().join(format!("{task}.starts"));
        std::fs::read(path).map_or(0, |lines| lines.len())
    }

    async fn restart(&self) {
        self.kill_supervisor();
    }

    fn scratch(&self) -> PathBuf {
        self.folder.path().to_owned()
    }
}

engine::contract_tests!(LocalLab::new());
engine::process_tests!(LocalLab::new());

/// Kill -9 of the supervisor: the next one ends what it left, wherever it is, and settles all as lost.
#[tokio::test]
async fn tasks_of_a_dead_supervisor_are_ended_and_lost() {
    let lab = LocalLab::new();
    let engine = lab.first_term().await;
    let ids: Vec<String> = (0..20).map(|n| format!("lost-{n}")).collect();
    let file = lab.scratch().join("pids");
    let leaf =
        format!("sh -c 'trap \"\" TERM HUP; echo $$ >> {}; while :; do sleep 1; done'", file.display());
    for id in &ids {
        engine.launch(Epoch(1), order(id, format!("{leaf} & setsid {leaf} & wait"))).await.expect("launched");
    }
    let pids = pids(&lab, "pids", 40).await;
    lab.kill_supervisor();
    // The same handle reconnects, starts the next supervisor and hears the ends.
    let names: Vec<&str> = ids.iter().map(String::as_str).collect();
    let ends = ends_of(&engine, &names).await;
    assert!(ends.iter().all(|end| matches!(end, AttemptEnd::Lost { .. })), "{ends:?}");
    assert!(!pids.iter().any(|pid| alive(pid)), "told as lost while it runs");
    let known = engine.launch(Epoch(1), order("lost-0", "true")).await.expect("an answer");
    assert!(matches!(known, Known::Ended(AttemptEnd::Lost { .. })), "{known:?}");
}

/// Kill -9 in the middle of launching: whatever was begun is known, nothing began twice, no process is left.
#[tokio::test]
async fn a_crash_while_launching_leaves_nothing_undecided() {
    let lab = LocalLab::new();
    let engine = std::sync::Arc::new(lab.first_term().await);
    let ids: Vec<TaskId> = (0..200).map(|n| task(&format!("crash-{n}"))).collect();
    let mut orders = tokio::task::JoinSet::new();
    for id in &ids {
        let (engine, order) = (engine.clone(), order(id.as_str(), lab.command("sleep 1000")));
        orders.spawn(async move { engine.launch(Epoch(1), order).await });
    }
    let starts = || ids.iter().filter(|id| lab.starts(id) > 0).count();
    until("some run", || starts() > 20).await;
    lab.kill_supervisor();
    while orders.join_next().await.is_some() {}
    lab.reconnected(&engine).await;
    engine.begin_term(Epoch(2)).await.expect("the second term begins");
    let known = engine.reconcile(Epoch(2), &ids).await.expect("reconciled");
    for (id, known) in ids.iter().zip(&known) {
        match known {
            // Either it was lost in the crash, or it came after it and runs.
            Known::NeverBegan => assert_eq!(lab.starts(id), 0, "{id} never began, and started"),
            Known::Ended(AttemptEnd::Lost { .. }) | Known::Running => assert!(lab.starts(id) <= 1, "{id}"),
            other => panic!("{id}: {other:?}"),
        }
    }
    assert!(known.iter().any(|known| matches!(known, Known::Ended(AttemptEnd::Lost { .. }))));
    // What runs now was started by the present supervisor, and no other process of these tasks is there.
    let running = engine.running_tasks().await.expect("told").len();
    assert_eq!(running, known.iter().filter(|known| **known == Known::Running).count());
    let folder = std::fs::read_to_string(lab.dir.join("id")).expect("there");
    until("only running tasks have processes", || marked(&folder) <= 2 * running).await;
}

/// How many processes bear the mark of a folder.
fn marked(folder: &str) -> usize {
    let entries = std::fs::read_dir("/proc").expect("proc is mounted").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|pid| alive(pid));
    let environ = |pid: String| std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    pids.filter(|pid| String::from_utf8_lossy(&environ(pid.clone())).contains(folder)).count()
}

/// A server that is killed leaves the supervisor and the tasks alone; the next server finds both.
#[tokio::test]
async fn tasks_outlive_their_server() {
    let lab = LocalLab::new();
    let engine = lab.first_term().await;
    let go = lab.scratch().join("go");
    let command = format!("while [ ! -e {} ]; do sleep 0.01; done; echo done", go.display());
    engine.launch(Epoch(1), order("long-0", command)).await.expect("launched");
    let before = lab.supervisor();
    drop(engine);
    // As a terminal does with all of its group, or systemd with all of a cgroup.
    for signal in ["-HUP", "-INT", "-TERM"] {
        lab.signal_supervisor(signal);
    }
    let engine = lab.connected().await;
    engine.begin_term(Epoch(2)).await.expect("the second term begins");
    assert_eq!(engine.reconcile(Epoch(2), &[task("long-0")]).await, Ok(vec![Known::Running]));
    assert_eq!(lab.supervisor(), before);
    std::fs::write(go, "").expect("written");
    assert_eq!(ends_of(&engine, &["long-0"]).await, [AttemptEnd::Succeeded]);
    // It was told to end, and now nothing runs; the end and the output are known to the next one.
    until("it has ended", || lab.supervisor() != before).await;
    assert_eq!(read_all(&engine, &task("long-0"), Stream::Stdout, 0).await.bytes, b"done\n");
}

/// A supervisor is no child of a terminal: its session is its own, and it holds nothing of the server.
#[tokio::test]
async fn without_a_lease_nothing_runs_whoever_has_died() {
    let lab = LocalLab::new();
    let engine = lab.first_term().await;
    let hour = Duration::from_secs(3600);
    engine.renew_lease(Some(since_boot() + hour)).await.expect("it is renewed");
    engine.launch(Epoch(1), order("before-1-i1-0", "sleep 600")).await.expect("it runs");
    engine.renew_lease(Some(since_boot())).await.expect("it is over");
    assert_eq!(ends_of(&engine, &["before-1-i1-0"]).await, [AttemptEnd::Killed]);
    let refused = engine.launch(Epoch(1), order("after-1-i1-0", "true")).await;
    assert!(matches!(&refused, Err(EngineError::Refused(why)) if why.contains("in touch")), "{refused:?}");
    // Neither does the next supervisor run anything before there is a lease again.
    let first = lab.signal_supervisor("-KILL");
    until("another supervisor", || lab.supervisor().is_some_and(|pid| pid != first)).await;
    until("it is connected", || engine.readiness() == Readiness::Ready).await;
    engine.begin_term(Epoch(1)).await.expect("the term goes on");
    let refused = engine.launch(Epoch(1), order("after-1-i1-0", "true")).await;
    assert!(matches!(refused, Err(EngineError::Refused(_))), "{refused:?}");
    // A lease that nobody renews ends by itself, without a server.
    engine.renew_lease(Some(since_boot() + hour)).await.expect("it is renewed");
    engine.launch(Epoch(1), order("last-1-i1-0", "sleep 600")).await.expect("it runs");
    let folder = std::fs::read_to_string(lab.dir.join("id")).expect("there");
    until("it has begun", || marked(&folder) > 0).await;
    engine.renew_lease(Some(since_boot() + Duration::from_secs(2))).await.expect("it is renewed");
    drop(engine);
    until("it is ended", || marked(&folder) == 0).await;
}

#[tokio::test]
async fn a_supervisor_stands_alone() {
    let lab = LocalLab::new();
    let _engine = lab.first_term().await;
    let pid = lab.supervisor().expect("alive");
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("there");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    assert_eq!((fields[2], fields[3]), (pid.as_str(), pid.as_str()), "process group and session");
    let target = |fd: u32| std::fs::read_link(format!("/proc/{pid}/fd/{fd}")).expect("open");
    assert_eq!((target(0), target(1)), ("/dev/null".into(), "/dev/null".into()));
    assert_eq!(target(2), lab.dir.join("supervisor.log"));
}

/// Without tasks and servers it ends, even with ends to tell; the next one tells them.
#[tokio::test]
async fn an_idle_supervisor_ends_and_forgets_nothing() {
    let lab = LocalLab::new();
    let mut options = lab.options();
    // Longer than the engine pauses before it connects to one that it has started.
    *options.supervisor_args.last_mut().expect("the time is last") = "3000".into();
    let engine = LocalEngine::open(options.clone());
    until("the engine is ready", || engine.readiness() == Readiness::Ready).await;
    engine.begin_term(Epoch(4)).await.expect("the term begins");
    engine.launch(Epoch(4), order("a-0", "sleep 0.2; echo out")).await.expect("launched");
    drop(engine);
    until("it has ended", || lab.supervisor().is_none()).await;
    let engine = LocalEngine::open(options);
    assert_eq!(ends_of(&engine, &["a-0"]).await, [AttemptEnd::Succeeded]);
    assert_eq!(read_all(&engine, &task("a-0"), Stream::Stdout, 0).await.bytes, b"out\n");
    let deposed = EngineError::Deposed { ours: Epoch(3), newest: Epoch(4) };
    assert_eq!(engine.begin_term(Epoch(3)).await, Err(deposed));
}

/// One folder, one supervisor, however many are started.
#[tokio::test]
async fn a_second_supervisor_gives_way() {
    let lab = LocalLab::new();
    let _engine = lab.first_term().await;
    let first = lab.supervisor();
    let second = Command::new(env!("CARGO_BIN_EXE_supervise-for-tests")).arg(&lab.dir).arg("0").output();
    let second = second.expect("it starts");
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("AlreadyRuns"), "{second:?}");
    assert_eq!(lab.supervisor(), first);
}

/// A socket's path has at most 107 bytes; a folder's may be longer.
#[tokio::test]
async fn a_long_path_is_fine() {
    let lab = LocalLab::named(&["long"; 60].join("/"));
    let engine = lab.first_term().await;
    engine.launch(Epoch(1), order("a-0", "true")).await.expect("launched");
    assert_eq!(ends_of(&engine, &["a-0"]).await, [AttemptEnd::Succeeded]);
}

/// Whatever comes in at the socket, the others do not notice.
#[tokio::test]
async fn garbage_at_the_socket_hurts_nobody() {
    let lab = LocalLab::new();
    let engine = lab.first_term().await;
    let before = lab.supervisor();
    let frame = |json: &str| {
        let mut frame = Vec::new();
        frame.extend_from_slice(&(json.len() as u32 + 4).to_le_bytes());
        frame.extend_from_slice(&(json.len() as u32).to_le_bytes());
        frame.extend_from_slice(json.as_bytes());
        frame
    };
    let hello = frame(r#"{"hello":{"protocol":1}}"#);
    let mut after_hello = hello.clone();
    after_hello.extend(frame(r#"{"call":{"id":1,"request":{"kill":{"epoch":1,"task":"../../x"}}}}"#));
    let garbage = [
        vec![0xff; 100_000],
        vec![0; 100],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        frame(r#"{"hello":{"protocol":99}}"#),
        frame(r#"{"call":{"id":1,"request":"running"}}"#),
        frame("\u{0}"),
        after_hello,
    ];
    for bytes in garbage {
        let mut stream = UnixStream::connect(lab.dir.join("socket")).expect("connected");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
        let _ = stream.write_all(&bytes);
        let mut answer = Vec::new();
        // It closes the connection, with or without having read all.
        let _ = stream.read_to_end(&mut answer);
        assert!(stream.read(&mut [0]).map_or(true, |count| count == 0), "still open");
    }
    // Half a frame, and then nothing, held open.
    let mut half = UnixStream::connect(lab.dir.join("socket")).expect("connected");
    half.write_all(&hello[..7]).expect("written");
    engine.launch(Epoch(1), order("a-0", "true")).await.expect("launched");
    assert_eq!(ends_of(&engine, &["a-0"]).await, [AttemptEnd::Succeeded]);
    assert_eq!(lab.supervisor(), before);
}

/// Other versions are told apart, and the operator is told.
#[tokio::test]
async fn a_supervisor_of_another_version_is_a_reason() {
    let lab = LocalLab::new();
    std::fs::create_dir_all(&lab.dir).expect("made");
    let listener = std::os::unix::net::UnixListener::bind(lab.dir.join("socket")).expect("bound");
    let json = br#"{"hello":{"protocol":99,"pid":1}}"#;
    let mut frame = (json.len() as u32 + 4).to_le_bytes().to_vec();
    frame.extend_from_slice(&(json.len() as u32).to_le_bytes());
    frame.extend_from_slice(json);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.expect("accepted").write_all(&frame);
        }
    });
    let engine = lab.engine();
    let tells =
        |text: &str| matches!(engine.readiness(), Readiness::NotReady { reason } if reason.contains(text));
    until("it says why", || tells("protocol 99")).await;
}

/// A supervisor that cannot be started is a reason, and is tried again.
#[tokio::test]
async fn a_supervisor_that_cannot_start_is_a_reason() {
    let lab = LocalLab::new();
    let missing = LocalOptions { supervisor_program: "/no/such/supervisor".into(), ..lab.options() };
    let engine = LocalEngine::open(missing);
    let tells = |engine: &LocalEngine, text| matches!(engine.readiness(), Readiness::NotReady { reason } if reason.contains(text));
    until("it says why", || tells(&engine, "/no/such/supervisor")).await;
    let found = engine.examine().await;
    assert!(found[0].grade == Grade::Wrong && found[0].what.contains("/no/such/supervisor"), "{found:?}");
    // A file is in the way.
    std::fs::write(&lab.dir, "").expect("written");
    let engine = lab.engine();
    until("it says why", || tells(&engine, "opening the folder")).await;
    std::fs::remove_file(&lab.dir).expect("removed");
    until("it is ready", || engine.readiness() == Readiness::Ready).await;
}

/// What is forgotten is gone; what runs or is not acknowledged cannot be.
#[tokio::test]
async fn tasks_are_listed_until_they_are_forgotten() {
    let lab = LocalLab::new();
    let engine = lab.first_term().await;
    let all = async || {
        let mut all = Vec::new();
        for part in 0..LocalEngine::LIST_PARTS {
            all.extend(
                engine.list(part).await.expect("listed").into_iter().map(|listed| listed.task.to_string()),
            );
        }
        all.sort();
        all
    };
    engine.launch(Epoch(1), order("a-0", "echo hi; mkdir deep; touch deep/file")).await.expect("launched");
    engine.launch(Epoch(1), order("run-0", "sleep 1000")).await.expect("launched");
    ends_of(&engine, &["a-0"]).await;
    assert_eq!(all().await, ["a-0", "run-0"]);
    assert_eq!(engine.running_tasks().await, Ok(vec![task("run-0")]));
    for id in ["a-0", "run-0"] {
        assert!(matches!(engine.forget(&task(id)).await, Err(EngineError::Refused(_))), "{id}");
    }
    engine.acknowledge(&[task("a-0")]).await.expect("acknowledged");
    assert_eq!(engine.forget(&task("a-0")).await, Ok(()));
    let gone = EngineError::NoSuchTask(task("a-0"));
    assert_eq!(engine.forget(&task("a-0")).await, Err(gone.clone()));
    assert_eq!(engine.output(&task("a-0"), Stream::Stdout, 0).await, Err(gone));
    assert_eq!(all().await, ["run-0"]);
    lab.kill_supervisor();
    lab.reconnected(&engine).await;
    assert_eq!(engine.reconcile(Epoch(1), &[task("a-0")]).await, Ok(vec![Known::NeverBegan]));
}

/// A supervisor that is stopped answers nobody; an order that waits meanwhile is too late when it goes on.
#[tokio::test]
async fn an_order_that_waited_too_long_starts_nothing() {
    let lab = LocalLab::new();
    let engine = lab.first_term().await;
    let pid = lab.signal_supervisor("-STOP");
    let not_after = since_boot() + Duration::from_millis(50);
    let late = Launch { not_after, ..order("late-0", lab.command("true")) };
    let go_on = async {
        until("its time has passed", || since_boot() > not_after).await;
        send(&pid, "-CONT");
    };
    let (answer, ()) = tokio::join!(engine.launch(Epoch(1), late), go_on);
    assert_eq!(answer, Err(EngineError::TooLate));
    assert_eq!(engine.reconcile(Epoch(1), &[task("late-0")]).await, Ok(vec![Known::NeverBegan]));
    assert_eq!(lab.starts(&task("late-0")), 0);
}

/// One that is stopped is still connected, and says nothing any more.
#[tokio::test]
async fn a_supervisor_that_is_stuck_is_found_by_whoever_looks() {
    let lab = LocalLab::new();
    let engine = lab.first_term().await;
    let grades = async || engine.examine().await.iter().map(|found| found.grade).collect::<Vec<_>>();
    assert_eq!(grades().await, [Grade::Good]);
    let pid = lab.signal_supervisor("-STOP");
    assert_eq!(engine.readiness(), Readiness::Ready, "nobody has noticed");
    let found = engine.examine().await;
    assert_eq!(found[0].grade, Grade::Wrong);
    assert!(found[0].what.contains("does not answer within") && !found[0].advice.is_empty(), "{found:?}");
    send(&pid, "-CONT");
    let well = async { while grades().await != [Grade::Good] {} };
    tokio::time::timeout(PATIENCE, well).await.expect("it is well again");
}

/// A full disk: running tasks go on and their ends are kept, output is dropped, nothing new begins, and all is well
/// once there is room again.
#[tokio::test]
async fn a_full_disk_loses_no_end() {
    let lab = LocalLab::new();
    let Some(_disk) = SmallDisk::mount(&lab.dir) else {
        eprintln!("skipped: needs root, to mount a small tmpfs");
        return;
    };
    let engine = lab.first_term().await;
    let go = lab.scratch().join("go");
    let wait = format!("while [ ! -e {} ]; do sleep 0.01; done", go.display());
    engine
        .launch(Epoch(1), order("before-0", format!("echo early; {wait}; echo late; exit 5")))
        .await
        .expect("launched");
    let filler = lab.dir.join("filler");
    until("the early line is there", || {
        let fan = std::fs::read_dir(lab.dir.join("tasks")).expect("there").flatten();
        fan.map(|fan| fan.path().join("before-0/stdout")).any(|file| file.exists())
    })
    .await;
    let mut file = std::fs::File::create(&filler).expect("made");
    while file.write_all(&[0; 4096]).is_ok() {}
    drop(file);
    let mut answer = Ok(Known::NeverBegan);
    for n in 0..400 {
        // The journal has room that was made before; the ends of those that it takes have none.
        answer = engine.launch(Epoch(1), order(&format!("full-{n}"), "true")).await;
        if answer.is_err() {
            break;
        }
    }
    assert!(matches!(answer, Err(EngineError::Refused(_))), "{answer:?}");
    assert!(matches!(engine.readiness(), Readiness::NotReady { reason } if reason.contains("journal")));
    std::fs::write(&go, "").expect("written");
    let known = engine.reconcile(Epoch(1), &[task("before-0")]).await;
    assert_eq!(known, Ok(vec![Known::Running]), "an end that is not durable must not be told");
    std::fs::remove_file(&filler).expect("removed");
    let ends = ends_of(&engine, &["before-0"]).await;
    assert!(matches!(ends[0], AttemptEnd::Failed { exit: Some(5), .. }), "{ends:?}");
    until("it is ready", || engine.readiness() == Readiness::Ready).await;
    let output = read_all(&engine, &task("before-0"), Stream::Stdout, 0).await;
    assert!(output.bytes.starts_with(b"early\n"), "{output:?}");
    assert_eq!(output.bytes.len() as u64 + output.dropped, 11);
    engine.launch(Epoch(1), order("after-0", "true")).await.expect("launched");
    assert_eq!(ends_of(&engine, &["after-0"]).await, [AttemptEnd::Succeeded]);
    drop(engine);
    lab.kill_supervisor();
}

struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(dir: &Path) -> Option<Self> {
        std::fs::create_dir_all(dir).expect("made");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "none"]).arg(dir).output();
        mount.is_ok_and(|mount| mount.status.success()).then(|| Self(dir.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Not a test: spawns a second, against a loop of bare spawns. `cargo test --release -- --ignored rate --nocapture`
#[tokio::test]
#[ignore = "measures"]
async fn rate() {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    const COUNT: usize = 3000;
    let spec =
        TaskSpec { command: "/bin/true".into(), shell: false, output_max: 65536, ..TaskSpec::default() };
    let spec = std::sync::Arc::new(spec);
    let lab = LocalLab::new();
    let engine = std::sync::Arc::new(lab.first_term().await);
    for in_flight in [1, 4, 64] {
        let since = Instant::now();
        let mut children: Vec<Child> = Vec::new();
        for _ in 0..COUNT {
            children.push(Command::new("/bin/true").stdin(Stdio::null()).spawn().expect("spawned"));
            if children.len() >= in_flight {
                children.remove(0).wait().expect("ended");
            }
        }
        children.iter_mut().for_each(|child| drop(child.wait()));
        let bare = COUNT as f64 / since.elapsed().as_secs_f64();

        let since = Instant::now();
        let mut orders = tokio::task::JoinSet::new();
        let launch = |engine: std::sync::Arc<LocalEngine>, spec| async move {
            let task = task(&format!("rate-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
            engine.launch(Epoch(1), Launch { task, spec, not_after: Duration::MAX }).await.expect("launched");
        };
        let (mut launched, mut ended) = (0, 0);
        while ended < COUNT {
            while launched < COUNT && launched - ended < in_flight {
                orders.spawn(launch(engine.clone(), spec.clone()));
                launched += 1;
            }
            let events = engine.events().await;
            ended += events.len();
            let ids: Vec<TaskId> = events.into_iter().map(|event| event.task).collect();
            engine.acknowledge(&ids).await.expect("acknowledged");
        }
        let ours = COUNT as f64 / since.elapsed().as_secs_f64();
        println!("{in_flight} at once: bare {bare:.0}/s, engine {ours:.0}/s ({:.0} %)", 100.0 * ours / bare);
    }
}

#[tokio::test]
async fn a_task_that_cannot_be_read_keeps_no_other_from_being_known() {
    let lab = LocalLab::new();
    let engine = lab.first_term().await;
    for id in ["bad-0", "good-0"] {
        engine.launch(Epoch(1), order(id, "true")).await.expect("launched");
    }
    ends_of(&engine, &["bad-0", "good-0"]).await;
    engine.acknowledge(&[task("bad-0"), task("good-0")]).await.expect("acknowledged");
    let fans = std::fs::read_dir(lab.dir.join("tasks")).expect("there").flatten();
    let mut ends = fans.map(|fan| fan.path().join("bad-0/end"));
    std::fs::write(ends.find(|end| end.exists()).expect("it has ended"), "{").expect("damaged");
    let known = engine.reconcile(Epoch(1), &["bad-0", "good-0", "none-0"].map(task)).await;
    assert_eq!(known, Ok(vec![Known::Unknown, Known::Ended(AttemptEnd::Succeeded), Known::NeverBegan]));
    assert!(matches!(engine.launch(Epoch(1), order("bad-0", "true")).await, Err(EngineError::Unknown(_))));
    let log = std::fs::read_to_string(lab.dir.join("supervisor.log")).expect("there is one");
    assert!(log.contains("the folder of task bad-0 cannot be read: "), "{log}");
}

/// As few open files as allow twelve tasks, of which the last is for who was on the way.
#[tokio::test]
async fn who_is_full_says_so_until_there_is_room() {
    let lab = LocalLab::new();
    let mut options = lab.options();
    options.supervisor_args[1] = r#"ulimit -n 148; exec "$0" "$@""#.into();
    let engine = LocalEngine::open(options);
    until("the engine is ready", || engine.readiness() == Readiness::Ready).await;
    engine.begin_term(Epoch(1)).await.expect("the first term begins");
    let sleep = |n: u32| order(&format!("sleep-{n}"), "exec sleep 1000");
    for n in 0..11 {
        assert_eq!(engine.launch(Epoch(1), sleep(n)).await, Ok(Known::Running));
    }
    let full =
        |readiness| matches!(readiness, Readiness::NotReady { reason } if reason.contains("LimitNOFILE"));
    until("it says that it is full", || full(engine.readiness())).await;
    assert_eq!(engine.launch(Epoch(1), sleep(11)).await, Ok(Known::Running), "it was on its way");
    let refused = engine.launch(Epoch(1), sleep(12)).await;
    assert!(
        matches!(&refused, Err(EngineError::Refused(why)) if why.contains("11 local tasks")),
        "{refused:?}"
    );
    for n in [3, 4] {
        let soon = since_boot() + PATIENCE;
        engine.kill(Epoch(1), &task(&format!("sleep-{n}")), Duration::ZERO, soon).await.expect("taken");
    }
    until("there is room again", || engine.readiness() == Readiness::Ready).await;
    assert_eq!(engine.launch(Epoch(1), sleep(12)).await, Ok(Known::Running));
}
