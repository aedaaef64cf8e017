//! The engine of containers keeps the contract with a real Docker Engine, and does with a container what its job says.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use engine::conformance::{Lab, PATIENCE, ends_of, order, read_all, task, until};
use engine::docker::{DockerEngine, DockerOptions, Fetcher};
use engine::{
    Container, Engine, EngineError, Fetch, Forgotten, Grade, Keep, Known, Launch, Limits, Network, Output,
    Port, Readiness, Secret, SecretSource, Stream, TaskEvent, TaskSpec, Volume, VolumeSource, since_boot,
};
use scheduler::ids::{Epoch, TaskId};
use scheduler::run::AttemptEnd;

#[path = "../testing/dockerd.rs"]
mod dockerd;
#[path = "../testing/skip.rs"]
mod skip;

use dockerd::{Dockerd, docker};
use skip::skip;

const LONG: Duration = Duration::from_secs(3600);
const IMAGE: &str = "chronos-test";
const PROGRAM: &str = env!("CARGO_BIN_EXE_supervise-for-tests");

/// A folder, and containers with a prefix of their own, on a Docker that all share.
struct DockerLab {
    folder: tempfile::TempDir,
    host: String,
    prefix: String,
    /// Whether its containers see the machine's processes, so that tests know theirs by number.
    sees_processes: bool,
    /// Long enough for a machine with all else to do.
    answer_within: Duration,
}

impl DockerLab {
    /// `None`, and said so, where no Docker can run.
    fn new() -> Option<Self> {
        match dockerd::shared() {
            Ok(host) => Some(Self::at(host)),
            Err(reason) => {
                skip("docker", &reason);
                None
            }
        }
    }

    fn at(host: String) -> Self {
        static LABS: AtomicU64 = AtomicU64::new(0);
        let prefix = format!("lab{}-", LABS.fetch_add(1, Ordering::Relaxed));
        Self {
            folder: tempfile::tempdir().expect("a folder"),
            host,
            prefix,
            sees_processes: true,
            answer_within: Duration::from_secs(300),
        }
    }

    fn options(&self) -> DockerOptions {
        DockerOptions {
            name_prefix: self.prefix.clone(),
            fetcher: Some(Fetcher { program: PROGRAM.into(), args: vec!["--launch".into()] }),
            logins: vec![self.folder.path().join("logins.json")],
            answer_within: self.answer_within,
            ..DockerOptions::new(self.folder.path().join("docker"), self.host.clone())
        }
    }

    fn engine(&self) -> DockerEngine {
        DockerEngine::open(self.options()).expect("opened")
    }

    async fn first_term(&self) -> DockerEngine {
        let engine = self.engine();
        until("Docker is reached", || engine.readiness() == Readiness::Ready).await;
        engine.begin_term(Epoch(1)).await.expect("the first term begins");
        engine
    }

    /// A container that sees the lab's folder and the machine's processes.
    fn container(&self) -> Container {
        let scratch = self.folder.path().display().to_string();
        Container {
            volumes: vec![Volume {
                container_path: scratch.clone(),
                source: VolumeSource::Host(scratch),
                read_only: false,
            }],
            parameters: if self.sees_processes { parameters(&[("pid", "host")]) } else { Vec::new() },
            ..plain()
        }
    }

    fn among_its_own(mut self) -> Self {
        self.sees_processes = false;
        self
    }

    fn name(&self, id: &str) -> String {
        format!("{}{id}", self.prefix)
    }

    fn inspect(&self, id: &str, format: &str) -> String {
        docker(&self.host, &["inspect", "--format", format, &self.name(id)])
    }
}

impl Drop for DockerLab {
    fn drop(&mut self) {
        let ours = docker(&self.host, &["ps", "-aq", "--filter", &format!("name=^{}", self.prefix)]);
        let ours: Vec<&str> = ours.split_whitespace().collect();
        if !ours.is_empty() {
            docker(&self.host, &[&["rm", "--force", "--volumes"], &ours[..]].concat());
        }
    }
}

fn plain() -> Container {
    Container { image: IMAGE.into(), ..Container::default() }
}

/// The order, in this container.
fn within(container: Container, launch: Launch) -> Launch {
    with(launch, |spec| spec.container = Some(container))
}

fn with(launch: Launch, change: impl FnOnce(&mut TaskSpec)) -> Launch {
    let mut spec = (*launch.spec).clone();
    change(&mut spec);
    Launch { spec: Arc::new(spec), ..launch }
}

/// An engine whose every task is in a container.
struct InContainers {
    engine: DockerEngine,
    container: Container,
}

#[async_trait]
impl Engine for InContainers {
    fn name(&self) -> &'static str {
        self.engine.name()
    }
    async fn begin_term(&self, epoch: Epoch) -> Result<(), EngineError> {
        self.engine.begin_term(epoch).await
    }
    async fn launch(&self, epoch: Epoch, launch: Launch) -> Result<Known, EngineError> {
        self.engine.launch(epoch, within(self.container.clone(), launch)).await
    }
    async fn kill(
        &self,
        epoch: Epoch,
        task: &TaskId,
        grace: Duration,
        not_after: Duration,
    ) -> Result<(), EngineError> {
        self.engine.kill(epoch, task, grace, not_after).await
    }
    async fn reconcile(&self, epoch: Epoch, tasks: &[TaskId]) -> Result<Vec<Known>, EngineError> {
        self.engine.reconcile(epoch, tasks).await
    }
    async fn events(&self) -> Vec<TaskEvent> {
        self.engine.events().await
    }
    async fn acknowledge(&self, tasks: &[TaskId]) -> Result<(), EngineError> {
        self.engine.acknowledge(tasks).await
    }
    async fn output(&self, task: &TaskId, stream: Stream, offset: u64) -> Result<Output, EngineError> {
        self.engine.output(task, stream, offset).await
    }
    fn readiness(&self) -> Readiness {
        self.engine.readiness()
    }
    async fn forget_old(&self, keep: Keep) -> Result<Forgotten, EngineError> {
        self.engine.forget_old(keep).await
    }
}

#[async_trait]
impl Lab for DockerLab {
    async fn open(&self) -> Box<dyn Engine> {
        let engine = self.engine();
        until("Docker is reached", || engine.readiness() == Readiness::Ready).await;
        Box::new(InContainers { engine, container: self.container() })
    }

    fn command(&self, command: &str) -> String {
        format!("echo >> '{}'/\"$CHRONOS_TASK_ID\".starts; {command}", self.folder.path().display())
    }

    fn starts(&self, task: &TaskId) -> usize {
        let path = self.scratch().join(format!("{task}.starts"));
        std::fs::read(path).map_or(0, |lines| lines.len())
    }

    /// Docker is shared by all tests; that it starts anew has a test of its own.
    async fn restart(&self) {}

    fn scratch(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// Two or three containers are started in a second.
    fn many(&self) -> usize {
        40
    }
}

/// The cases of a suite, each with a lab of its own.
macro_rules! cases {
    ($module:ident: $($case:ident),+ $(,)?) => {
        $(#[tokio::test]
        async fn $case() {
            if let Some(lab) = DockerLab::new() {
                engine::conformance::$module::$case(&lab).await;
            }
        })+
    };
}

cases!(contract:
    a_task_runs_once_and_ends, a_failure_has_its_exit_status, a_known_id_starts_nothing,
    an_older_epoch_is_refused, epochs_survive_a_restart, unknown_ids_never_began,
    a_late_order_is_refused, ends_repeat_until_acknowledged, a_term_hears_all_open_ends,
    kill_ends_a_task, killing_what_does_not_run_is_fine, reconcile_keeps_the_order,
    a_launch_before_the_term_is_refused, output_of_the_unknown_is_none, many_tasks_at_once,
);

// Of the suite for processes: all but what a container does otherwise. Its exit status is 128 and the signal, its folder
// is that of its image, Docker counts output by what it keeps, and it survives a restart of Docker or not as Docker says.
cases!(processes:
    a_missing_program_is_a_failure, arguments_are_never_pasted, environment_is_given,
    output_is_raw_and_read_by_offset, output_keeps_head_and_tail, output_can_be_followed,
    term_comes_first, kill_takes_those_who_refuse, kill_takes_what_left_its_group,
    nothing_outlives_its_task, an_open_pipe_does_not_delay_the_end,
);

/// Among processes of its own, as containers are unless their job says otherwise.
#[tokio::test]
async fn a_fork_bomb_is_ended() {
    let Some(lab) = DockerLab::new() else { return };
    let lab = lab.among_its_own();
    engine::conformance::processes::a_fork_bomb_is_ended(&lab).await;
}

/// Stands between server and Docker, and holds up or breaks what it is told to.
struct Between {
    host: String,
    _folder: tempfile::TempDir,
    start: Arc<std::sync::Mutex<OnStart>>,
    /// Requests to start a container that have come.
    starts: Arc<AtomicU64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum OnStart {
    Pass,
    /// It stays on its way.
    Hold,
    /// It arrives, and its answer does not.
    LoseAnswer,
}

impl Between {
    fn new(docker: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("between.sock");
        let listener = UnixListener::bind(&path).expect("bound");
        let (start, starts) = (Arc::new(std::sync::Mutex::new(OnStart::Pass)), Arc::new(AtomicU64::new(0)));
        let docker = docker.trim_start_matches("unix://").to_owned();
        let (what, count) = (start.clone(), starts.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (what, count, docker) = (what.clone(), count.clone(), docker.clone());
                std::thread::spawn(move || Self::carry(client, &docker, &what, &count));
            }
        });
        Self { host: format!("unix://{}", path.display()), _folder: folder, start, starts }
    }

    fn set(&self, what: OnStart) {
        *self.start.lock().expect("not poisoned") = what;
    }

    fn carry(mut client: UnixStream, docker: &str, what: &std::sync::Mutex<OnStart>, count: &AtomicU64) {
        let mut first = vec![0; 64 * 1024];
        let Ok(length) = client.read(&mut first) else { return };
        let is_start = String::from_utf8_lossy(&first[..length])
            .lines()
            .next()
            .is_some_and(|line| line.contains("/start"));
        let mut lose = false;
        if is_start {
            count.fetch_add(1, Ordering::SeqCst);
            let now = || *what.lock().expect("not poisoned");
            while now() == OnStart::Hold {
                std::thread::sleep(Duration::from_millis(2));
            }
            lose = now() == OnStart::LoseAnswer;
        }
        let Ok(mut server) = UnixStream::connect(docker) else { return };
        if server.write_all(&first[..length]).is_err() {
            return;
        }
        if lose {
            let mut answer = [0; 1];
            let _ = server.read(&mut answer);
            return;
        }
        let (mut from, mut to) = (client.try_clone().expect("cloned"), server.try_clone().expect("cloned"));
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Write);
        });
        let _ = std::io::copy(&mut server, &mut client);
        let _ = client.shutdown(std::net::Shutdown::Both);
    }
}

/// A deposed server's request to start a container is still on its way when the next term begins.
#[tokio::test]
async fn a_late_start_of_a_deposed_server_starts_nothing() {
    let Some(mut lab) = DockerLab::new() else { return };
    let between = Between::new(&lab.host);
    let direct = std::mem::replace(&mut lab.host, between.host.clone());
    let old = Arc::new(lab.first_term().await);
    lab.host = direct;
    between.set(OnStart::Hold);
    let launch = |id: &str| within(lab.container(), order(id, lab.command("true")));
    let pending = {
        let (old, launches) = (old.clone(), [launch("asked-0"), launch("again-0")]);
        launches.map(|launch| {
            let old = old.clone();
            tokio::spawn(async move { old.launch(Epoch(1), launch).await })
        })
    };
    until("both are on their way", || between.starts.load(Ordering::SeqCst) == 2).await;

    let new = lab.engine();
    new.begin_term(Epoch(2)).await.expect("the second term begins");
    until("Docker is reached", || new.readiness() == Readiness::Ready).await;
    assert_eq!(new.reconcile(Epoch(2), &[task("asked-0")]).await, Ok(vec![Known::NeverBegan]));
    new.launch(Epoch(2), launch("again-0")).await.expect("launched");
    assert_eq!(ends_of(&new, &["again-0"]).await, [AttemptEnd::Succeeded]);

    between.set(OnStart::Pass);
    for answer in pending {
        let answer = answer.await.expect("no panic");
        assert!(!matches!(answer, Err(EngineError::Unknown(_))), "{answer:?}");
    }
    assert_eq!((lab.starts(&task("asked-0")), lab.starts(&task("again-0"))), (0, 1));
    assert_eq!(new.reconcile(Epoch(2), &[task("asked-0")]).await, Ok(vec![Known::NeverBegan]));
}

/// Docker starts the container and its answer is lost; the container has ended before anybody asks.
#[tokio::test]
async fn a_lost_answer_is_no_reason_to_start_again() {
    let Some(mut lab) = DockerLab::new() else { return };
    let between = Between::new(&lab.host);
    let direct = std::mem::replace(&mut lab.host, between.host.clone());
    let engine = lab.first_term().await;
    lab.host = direct;
    between.set(OnStart::LoseAnswer);
    let launch = within(lab.container(), order("once-0", lab.command("true")));
    assert_eq!(run(&engine, launch).await, AttemptEnd::Succeeded);
    assert_eq!((lab.starts(&task("once-0")), between.starts.load(Ordering::SeqCst)), (1, 1));
}

/// An order is taken in time or not at all, and one that was taken can be taken back until it begins.
#[tokio::test]
async fn a_kill_overtakes_a_start() {
    let Some(mut lab) = DockerLab::new() else { return };
    let between = Between::new(&lab.host);
    let direct = std::mem::replace(&mut lab.host, between.host.clone());
    let options = DockerOptions { answer_within: Duration::from_millis(1), ..lab.options() };
    let engine = DockerEngine::open(options).expect("opened");
    until("Docker is reached", || engine.readiness() == Readiness::Ready).await;
    engine.begin_term(Epoch(1)).await.expect("the first term begins");
    lab.host = direct;
    between.set(OnStart::Hold);
    let launch = || within(lab.container(), order("slow-0", lab.command("sleep 1000")));
    assert_eq!(engine.launch(Epoch(1), launch()).await, Ok(Known::Running));
    assert_eq!(engine.launch(Epoch(1), launch()).await, Ok(Known::Running));
    until("it is on its way", || between.starts.load(Ordering::SeqCst) == 1).await;
    engine.kill(Epoch(1), &task("slow-0"), Duration::ZERO, since_boot() + LONG).await.expect("taken");
    between.set(OnStart::Pass);
    assert_eq!(ends_of(&engine, &["slow-0"]).await, [AttemptEnd::Killed]);
    let known = engine.launch(Epoch(1), launch()).await;
    assert_eq!(known, Ok(Known::Ended(AttemptEnd::Killed)));
}

fn parameters(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

/// Runs it to its end.
async fn run(engine: &DockerEngine, launch: Launch) -> AttemptEnd {
    let id = launch.task.to_string();
    engine.launch(Epoch(1), launch).await.expect("launched");
    ends_of(engine, &[&id]).await.remove(0)
}

async fn stdout(engine: &DockerEngine, id: &str) -> String {
    String::from_utf8_lossy(&read_all(engine, &task(id), Stream::Stdout, 0).await.bytes).into_owned()
}

#[track_caller]
fn failed_because(end: &AttemptEnd, reasons: &[&str]) {
    let AttemptEnd::Failed { message, .. } = end else { panic!("{end:?}") };
    assert!(reasons.iter().all(|reason| message.contains(reason)), "{message}");
}

#[tokio::test]
async fn a_container_is_what_its_job_says() {
    let Some(lab) = DockerLab::new() else { return };
    let engine = lab.first_term().await;
    std::fs::write(lab.folder.path().join("given"), "from the machine\n").expect("written");
    let here = lab.folder.path().display().to_string();
    let volume = |path: &str, source, read_only| Volume { container_path: path.into(), source, read_only };
    let told = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let external = VolumeSource::External {
        name: lab.name("external"),
        driver: "local".into(),
        options: vec![told("type", "tmpfs"), told("device", "tmpfs"), told("o", "size=3m")],
    };
    let container = Container {
        network: Network::None,
        volumes: vec![
            volume("/ro", VolumeSource::Host(here.clone()), true),
            volume("/rw", VolumeSource::Host(here.clone()), false),
            volume("/empty", VolumeSource::Empty, false),
            volume("/named", VolumeSource::Host(lab.name("volume")), false),
            volume("/external", external, true),
        ],
        parameters: parameters(&[
            ("workdir", "/tmp"),
            ("user", "nobody"),
            ("hostname", "its-name"),
            ("env", "FROM_OPTION=yes"),
            ("env", "TAKEN=late"),
            ("label", "team=etl"),
            ("ulimit", "nofile=99:100"),
            ("tmpfs", "/scratch:size=1m"),
            ("add-host", "db:10.0.0.9"),
            ("shm-size", "8m"),
        ]),
        ..plain()
    };
    let command = "pwd; id -u; hostname; echo $FROM_OPTION $TAKEN $SECRET; ulimit -n; cat /ro/given; \
                   touch /ro/x 2>/dev/null || echo read-only; ls -d /empty /named /scratch; grep db /etc/hosts; \
                   ls /sys/class/net; grep ' /external ' /proc/mounts | sed -E 's/.*(tmpfs) r([ow]).*(size=[0-9]+k).*/\\1 \\2 \\3/'";
    let secret = lab.folder.path().join("secret");
    std::fs::write(&secret, "hush\n").expect("written");
    let launch = with(within(container, order("all-0", command)), |spec| {
        spec.environment = vec![("TAKEN".into(), "first".into())];
        spec.secrets =
            vec![Secret { name: "SECRET".into(), source: SecretSource::File(secret.display().to_string()) }];
        spec.limits = Limits { cpu_millis: Some(500), memory_max: Some(64 << 20) };
    });
    assert_eq!(run(&engine, launch).await, AttemptEnd::Succeeded);
    assert_eq!(
        stdout(&engine, "all-0").await,
        "/tmp\n65534\nits-name\nyes first hush\n99\nfrom the machine\nread-only\n/empty\n/named\n/scratch\n\
         10.0.0.9\tdb\nlo\ntmpfs o size=3072k\n"
    );
    let host = |field: &str| lab.inspect("all-0", &format!("{{{{.HostConfig.{field}}}}}"));
    assert_eq!([host("Memory"), host("MemorySwap"), host("CpuShares")], ["67108864", "67108864", "512"]);
    assert_eq!([host("RestartPolicy.Name"), host("AutoRemove")].map(|v| v.replace("no", "")), ["", "false"]);
    assert_eq!(lab.inspect("all-0", "{{index .Config.Labels \"team\"}}"), "etl");
    docker(&lab.host, &["rm", "--volumes", &lab.name("all-0")]);
    docker(&lab.host, &["volume", "rm", &lab.name("volume"), &lab.name("external")]);
}

#[tokio::test]
async fn networks_are_those_of_the_job() {
    let Some(lab) = DockerLab::new() else { return };
    let engine = lab.first_term().await;
    let in_network = |network, networks: &[&str]| Container {
        network,
        networks: networks.iter().map(|name| (*name).to_owned()).collect(),
        ..plain()
    };
    let mode = |id: &str| lab.inspect(id, "{{.HostConfig.NetworkMode}}");
    for (id, network, expected) in [("host-0", Network::Host, "host"), ("none-0", Network::None, "none")] {
        assert_eq!(
            run(&engine, within(in_network(network, &[]), order(id, "true"))).await,
            AttemptEnd::Succeeded
        );
        assert_eq!(mode(id), expected);
    }
    let unnamed = run(&engine, within(in_network(Network::User, &[]), order("user-0", "true"))).await;
    failed_because(&unnamed, &["container.networkName", "nothing says which"]);
    let missing =
        run(&engine, within(in_network(Network::User, &["no-such-net"]), order("user-1", "true"))).await;
    failed_because(&missing, &["no-such-net"]);
    if docker(&lab.host, &["network", "ls", "--format", "{{.Name}}"]).lines().all(|name| name != "bridge") {
        return skip("docker-bridge", "Docker has no bridge here");
    }
    let port = |container, protocol: &str| Port { host: 0, container, protocol: protocol.into() };
    let published =
        Container { ports: vec![port(8080, "tcp"), port(53, "UDP")], ..in_network(Network::Bridge, &[]) };
    let bridge = within(published, order("bridge-0", "ls /sys/class/net"));
    assert_eq!(run(&engine, bridge).await, AttemptEnd::Succeeded);
    assert_eq!(
        (stdout(&engine, "bridge-0").await.as_str(), mode("bridge-0").as_str()),
        ("eth0\nlo\n", "bridge")
    );
    assert_eq!(
        lab.inspect("bridge-0", "{{range $port, $_ := .HostConfig.PortBindings}}{{$port}} {{end}}"),
        "53/udp 8080/tcp"
    );
    let [one, two] = ["one", "two"].map(|name| lab.name(name));
    for name in [&one, &two] {
        docker(&lab.host, &["network", "create", name]);
    }
    let both = within(in_network(Network::User, &[&one, &two]), order("user-2", "ls /sys/class/net"));
    let end = run(&engine, both).await;
    let interfaces = stdout(&engine, "user-2").await;
    docker(&lab.host, &["rm", &lab.name("user-2")]);
    for name in [&one, &two] {
        docker(&lab.host, &["network", "rm", name]);
    }
    assert_eq!((end, interfaces.as_str()), (AttemptEnd::Succeeded, "eth0\neth1\nlo\n"));
}

/// Without a shell the image decides what command and arguments mean; without a command it decides all.
#[tokio::test]
async fn an_image_keeps_its_entry_point() {
    let Some(lab) = DockerLab::new() else { return };
    let engine = lab.first_term().await;
    let entry = || Container { image: "chronos-test-entry".into(), ..plain() };
    let words = |id: &str, command: &str, shell, arguments: &[&str]| {
        with(within(entry(), order(id, command)), |spec| {
            spec.shell = shell;
            spec.arguments = arguments.iter().map(|word| (*word).to_owned()).collect();
        })
    };
    for (id, command, shell, arguments, expected) in [
        ("e-0", "", false, &[][..], "entry command\n"),
        ("e-1", "", true, &[], "entry command\n"),
        ("e-2", "word", false, &["$HOME"], "entry word $HOME\n"),
        ("e-3", "", false, &["a b"], "entry a b\n"),
        ("e-4", "echo shell", true, &[], "shell\n"),
    ] {
        assert_eq!(run(&engine, words(id, command, shell, arguments)).await, AttemptEnd::Succeeded, "{id}");
        assert_eq!(stdout(&engine, id).await, expected, "{id}");
    }
    // The image says with which signal it ends well.
    let command = "trap 'echo quit; exit 0' QUIT; echo up; while :; do sleep 0.05; done";
    engine.launch(Epoch(1), within(entry(), order("q-0", command))).await.expect("launched");
    until("it is up", || docker(&lab.host, &["logs", &lab.name("q-0")]) == "up").await;
    engine.kill(Epoch(1), &task("q-0"), LONG, since_boot() + LONG).await.expect("taken");
    assert_eq!(ends_of(&engine, &["q-0"]).await, [AttemptEnd::Killed]);
    assert_eq!(stdout(&engine, "q-0").await, "up\nquit\n");
}

/// What cannot be done is a failure that says so, and no container is made without it.
#[tokio::test]
async fn what_docker_cannot_do_is_a_reason() {
    let Some(lab) = DockerLab::new() else { return };
    let engine = lab.first_term().await;
    let told = |key: &str, value: &str| Container { parameters: parameters(&[(key, value)]), ..plain() };
    let image = |image: &str| Container { image: image.into(), ..plain() };
    for (id, container, reasons) in [
        ("no-0", told("colour", "blue"), &["container.parameters[0]", "`colour`", "not known here"][..]),
        ("no-1", told("restart", "always"), &["container.parameters[0]", "`restart`", "one attempt"]),
        ("no-2", told("memory", "lots"), &["`memory` is `lots`", "512m"]),
        ("no-3", image("registry.invalid/none:1"), &["registry.invalid/none:1", "cannot be had"]),
        ("no-4", image("not an image"), &["container.image", "does not name an image"]),
        ("no-5", Container { force_pull: true, ..image("registry.invalid/none:2") }, &["cannot be had"]),
        ("no-6", told("device", "/dev/none"), &["/dev/none"]),
    ] {
        let end = run(&engine, within(container, order(id, "true"))).await;
        failed_because(&end, reasons);
        // It stays known, for the next server too.
        let again = engine.launch(Epoch(1), within(plain(), order(id, "true"))).await;
        assert_eq!(again, Ok(Known::Ended(end)));
    }
    let fetches = with(within(plain(), order("no-7", "true")), |spec| spec.fetches = vec![fetch("/no/such")]);
    failed_because(&run(&engine, fetches).await, &["cannot fetch /no/such"]);
    drop(engine);
    let engine = lab.engine();
    let told = ends_of(&engine, &["no-0", "no-3", "no-7"]).await;
    failed_because(&told[0], &["`colour`"]);
}

#[tokio::test]
async fn exit_statuses_and_memory_are_named() {
    let Some(lab) = DockerLab::new() else { return };
    let engine = lab.first_term().await;
    let greedy = with(within(plain(), order("oom-0", "head -c 300000000 /dev/zero | tail")), |spec| {
        spec.limits.memory_max = Some(32 << 20);
    });
    failed_because(&run(&engine, greedy).await, &["out of memory: exceeded 32 MiB"]);
    let hit = run(&engine, within(plain(), order("hit-0", "kill -9 $$"))).await;
    assert!(matches!(&hit, AttemptEnd::Failed { exit: Some(137), .. }), "{hit:?}");
    failed_because(&hit, &["signal 9"]);
    let missing = run(&engine, within(plain(), order("none-0", "no-such-program"))).await;
    failed_because(&missing, &["exit status 127", "not found in the image"]);
}

/// More output than anybody keeps: bounded on the disk, its beginning and its end there, others not held up.
#[tokio::test]
async fn a_flood_of_output_is_bounded() {
    let Some(lab) = DockerLab::new() else { return };
    let engine = lab.first_term().await;
    let flood = "echo begin; i=0; while [ $i -lt 200 ]; do head -c 1000000 /dev/zero; i=$((i+1)); done; echo; echo end";
    engine.launch(Epoch(1), within(plain(), order("flood-0", flood))).await.expect("launched");
    engine.launch(Epoch(1), within(plain(), order("other-0", "echo hi"))).await.expect("launched");
    let ends = ends_of(&engine, &["flood-0", "other-0"]).await;
    assert_eq!(ends, [AttemptEnd::Succeeded, AttemptEnd::Succeeded]);
    let all = read_all(&engine, &task("flood-0"), Stream::Stdout, 0).await;
    assert_eq!(all.bytes.len(), 64 * 1024);
    let (head, tail) = (&all.bytes[..8], &all.bytes[all.bytes.len() - 6..]);
    assert_eq!((head, tail), (&b"begin\n\0\0"[..], &b"\0\nend\n"[..]), "{}", all.next);
    assert!(all.next <= 200_000_011, "{}", all.next);
    let log = lab.inspect("flood-0", "{{.HostConfig.LogConfig.Config}}");
    assert!(log.contains("max-file:2") && log.contains("max-size:"), "{log}");
    assert_eq!(stdout(&engine, "other-0").await, "hi\n");
    // Docker cuts long lines into parts.
    let lines = "for n in 16383 16384 16385 50000; do head -c $n /dev/zero | tr '\\0' x; echo; done";
    let kept = with(within(plain(), order("long-0", lines)), |spec| spec.output_max = 200_000);
    assert_eq!(run(&engine, kept).await, AttemptEnd::Succeeded);
    let lengths: Vec<usize> = stdout(&engine, "long-0").await.lines().map(str::len).collect();
    assert_eq!(lengths, [16383, 16384, 16385, 50000]);
}

/// The server is gone while a container writes and ends: nothing is lost, nothing is told twice, nothing starts again.
#[tokio::test]
async fn the_next_server_takes_over() {
    let Some(lab) = DockerLab::new() else { return };
    let engine = lab.first_term().await;
    let (go, dir) = (lab.folder.path().join("go"), lab.folder.path().display().to_string());
    let command = |name: &str| {
        format!(
            "echo start >> {dir}/{name}; echo before; echo error >&2; while [ ! -e {dir}/go ]; do sleep 0.02; done; \
             echo after; while [ ! -e {dir}/{name}.end ]; do sleep 0.02; done; echo last"
        )
    };
    for id in ["ends-0", "runs-0"] {
        engine.launch(Epoch(1), within(lab.container(), order(id, command(id)))).await.expect("launched");
        let seen = async {
            while engine.output(&task(id), Stream::Stdout, 0).await.expect("there").bytes != b"before\n" {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, seen).await.expect("its output is followed");
    }
    drop(engine);
    std::fs::write(&go, "").expect("written");
    std::fs::write(lab.folder.path().join("ends-0.end"), "").expect("written");
    until("it ends meanwhile", || lab.inspect("ends-0", "{{.State.Status}}") == "exited").await;

    let engine = lab.engine();
    engine
        .begin_term(Epoch(2))
        .await
        .expect("the second term begins, whether Docker has been reached or not");
    assert_eq!(ends_of(&engine, &["ends-0"]).await, [AttemptEnd::Succeeded]);
    let ids = [task("ends-0"), task("runs-0")];
    let known = engine.reconcile(Epoch(2), &ids).await;
    assert_eq!(known, Ok(vec![Known::Ended(AttemptEnd::Succeeded), Known::Running]));
    for id in ["ends-0", "runs-0"] {
        let again = engine.launch(Epoch(2), within(lab.container(), order(id, command(id)))).await;
        assert!(matches!(again, Ok(Known::Running | Known::Ended(AttemptEnd::Succeeded))), "{again:?}");
    }
    assert_eq!(stdout(&engine, "ends-0").await, "before\nafter\nlast\n");
    std::fs::write(lab.folder.path().join("runs-0.end"), "").expect("written");
    assert_eq!(ends_of(&engine, &["runs-0"]).await, [AttemptEnd::Succeeded]);
    assert_eq!(stdout(&engine, "runs-0").await, "before\nafter\nlast\n");
    assert_eq!(read_all(&engine, &ids[1], Stream::Stderr, 0).await.bytes, b"error\n");
    for id in ["ends-0", "runs-0"] {
        assert_eq!(std::fs::read_to_string(lab.folder.path().join(id)).expect("started"), "start\n", "{id}");
    }
}

/// A server that died between making a container and starting it: the container has never begun, and never will.
#[tokio::test]
async fn a_container_that_was_only_made_never_began() {
    let Some(lab) = DockerLab::new() else { return };
    drop(lab.first_term().await);
    let id = std::fs::read_to_string(lab.folder.path().join("docker/id")).expect("read");
    let make = |task: &str| {
        let labels =
            [format!("chronos.folder={id}"), format!("chronos.task={task}"), "chronos.epoch=1".into()];
        let [folder, task_label, epoch] = labels.each_ref().map(String::as_str);
        let (name, host) = (lab.name(task), lab.host.clone());
        let args = [
            "create", "--name", &name, "--label", folder, "--label", task_label, "--label", epoch, IMAGE,
            "true",
        ];
        docker(&host, &args)
    };
    make("swept-0");
    let engine = lab.engine();
    until("Docker is reached", || engine.readiness() == Readiness::Ready).await;
    assert_eq!(lab.inspect("swept-0", "{{.Id}}"), "", "removed when Docker was reached");
    engine.begin_term(Epoch(2)).await.expect("the second term begins");
    // One that comes later, by a server that does not know yet that it is deposed.
    let late = make("late-0");
    assert_eq!(engine.reconcile(Epoch(2), &[task("late-0")]).await, Ok(vec![Known::NeverBegan]));
    let launch = within(lab.container(), order("late-0", lab.command("true")));
    engine.launch(Epoch(2), launch).await.expect("launched");
    assert_eq!(ends_of(&engine, &["late-0"]).await, [AttemptEnd::Succeeded]);
    assert_eq!(lab.starts(&task("late-0")), 1);
    assert_ne!(lab.inspect("late-0", "{{.Id}}"), late);
}

#[tokio::test]
async fn a_container_that_others_removed_is_lost() {
    let Some(lab) = DockerLab::new() else { return };
    let engine = lab.first_term().await;
    for id in ["gone-0", "gone-1"] {
        engine.launch(Epoch(1), within(plain(), order(id, "sleep 1000"))).await.expect("launched");
    }
    docker(&lab.host, &["rm", "--force", &lab.name("gone-0")]);
    let end = ends_of(&engine, &["gone-0"]).await.remove(0);
    // It was killed before it was removed, and either may be seen.
    assert!(matches!(end, AttemptEnd::Lost { .. } | AttemptEnd::Failed { exit: Some(137), .. }), "{end:?}");
    drop(engine);
    docker(&lab.host, &["rm", "--force", &lab.name("gone-1")]);
    let engine = lab.engine();
    assert!(matches!(ends_of(&engine, &["gone-1"]).await[..], [AttemptEnd::Lost { .. }]));
    until("Docker is reached", || engine.readiness() == Readiness::Ready).await;
    engine.begin_term(Epoch(2)).await.expect("the second term begins");
    let known = engine.launch(Epoch(2), within(plain(), order("gone-1", "true"))).await;
    assert!(matches!(known, Ok(Known::Ended(AttemptEnd::Lost { .. }))), "{known:?}");
}

/// The container goes after its time, and what is known of the task stays as long as its output.
#[tokio::test]
async fn tombstones_are_removed_in_their_time() {
    let Some(lab) = DockerLab::new() else { return };
    let old = DockerOptions { container_age_max: Duration::ZERO, ..lab.options() };
    let engine = DockerEngine::open(old).expect("opened");
    until("Docker is reached", || engine.readiness() == Readiness::Ready).await;
    engine.begin_term(Epoch(1)).await.expect("the first term begins");
    let launch = || within(plain(), order("old-0", "echo out"));
    assert_eq!(run(&engine, launch()).await, AttemptEnd::Succeeded);
    let exists = || !lab.inspect("old-0", "{{.Id}}").is_empty();
    engine.forget_old(Keep::EVERYTHING).await.expect("nothing to do");
    assert!(exists(), "its end is not acknowledged");
    engine.acknowledge(&[task("old-0")]).await.expect("acknowledged");
    let keep = Keep { age_min: Duration::from_secs(600), age_max: Duration::ZERO, bytes_max: 0 };
    assert_eq!(engine.forget_old(keep).await, Ok(Forgotten::default()));
    assert!(!exists());
    assert_eq!(stdout(&engine, "old-0").await, "out\n");
    assert_eq!(engine.launch(Epoch(1), launch()).await, Ok(Known::Ended(AttemptEnd::Succeeded)));
    let keep = Keep { age_min: Duration::ZERO, ..keep };
    assert_eq!(engine.forget_old(keep).await.expect("done").tasks, 1);
    let none = engine.output(&task("old-0"), Stream::Stdout, 0).await;
    assert_eq!(none, Err(EngineError::NoSuchTask(task("old-0"))));
}

/// Kill -9 of Docker itself: the server waits for it, and tells of all that ran.
#[tokio::test]
async fn docker_may_start_anew() {
    let mut dockerd = match Dockerd::start() {
        Ok(dockerd) => dockerd,
        Err(reason) => return skip("docker-restart", &reason),
    };
    let lab = DockerLab::at(dockerd.host());
    let engine = lab.first_term().await;
    engine.launch(Epoch(1), within(plain(), order("done-0", "echo out"))).await.expect("launched");
    engine
        .launch(Epoch(1), within(plain(), order("runs-0", "echo out; sleep 1000")))
        .await
        .expect("launched");
    ends_of(&engine, &["done-0"]).await;
    let followed = async {
        while engine.output(&task("runs-0"), Stream::Stdout, 0).await.expect("there").bytes.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, followed).await.expect("its output is followed");
    let found = engine.examine().await;
    assert_eq!(found.iter().map(|found| found.grade).collect::<Vec<_>>(), [Grade::Good], "{found:?}");
    // It stays away until it has been missed, however long that takes.
    dockerd.kill();
    until("it is missed", || matches!(engine.readiness(), Readiness::NotReady { .. })).await;
    let refused = engine.launch(Epoch(1), within(plain(), order("late-0", "true"))).await;
    assert!(matches!(refused, Err(EngineError::Refused(_))), "{refused:?}");
    assert!(engine.notes()[0].contains("jobs with a container wait"), "{:?}", engine.notes());
    let found = engine.examine().await;
    assert!(found[0].grade == Grade::Wrong && found[0].advice.contains("--docker_host"), "{found:?}");
    let restarted = tokio::task::spawn_blocking(move || {
        dockerd.start_again();
        dockerd
    });
    let dockerd = restarted.await.expect("restarted");
    // Whether Docker ended it or goes on with it is Docker's to say; that it is told is ours.
    until("Docker is reached", || engine.readiness() == Readiness::Ready).await;
    let known = engine.reconcile(Epoch(1), &[task("done-0"), task("runs-0")]).await.expect("an answer");
    assert_eq!(known[0], Known::Ended(AttemptEnd::Succeeded));
    if known[1] == Known::Running {
        engine.kill(Epoch(1), &task("runs-0"), Duration::ZERO, since_boot() + LONG).await.expect("taken");
    }
    ends_of(&engine, &["runs-0"]).await;
    assert_eq!(stdout(&engine, "runs-0").await, "out\n");
    assert_eq!(run(&engine, within(plain(), order("late-0", "true"))).await, AttemptEnd::Succeeded);
    drop((engine, lab, dockerd));
}

/// Where no Docker is, orders are refused and nothing else happens.
#[tokio::test]
async fn without_docker_tasks_wait() {
    let folder = tempfile::tempdir().expect("a folder");
    let host = format!("unix://{}", folder.path().join("none.sock").display());
    let engine =
        DockerEngine::open(DockerOptions::new(folder.path().join("docker"), host.clone())).expect("opened");
    engine.begin_term(Epoch(3)).await.expect("the term is kept all the same");
    assert_eq!(engine.notes(), Vec::<String>::new(), "nobody has wanted a container");
    let refused = engine.launch(Epoch(3), within(plain(), order("x-0", "true"))).await;
    assert!(matches!(&refused, Err(EngineError::Refused(reason)) if reason.contains(&host)), "{refused:?}");
    assert_eq!(engine.reconcile(Epoch(3), &[task("x-0")]).await, Ok(vec![Known::NeverBegan]));
    assert_eq!(engine.kill(Epoch(3), &task("x-0"), LONG, since_boot() + LONG).await, Ok(()));
    assert!(engine.notes()[0].contains(&host));
    let deposed = EngineError::Deposed { ours: Epoch(2), newest: Epoch(3) };
    assert_eq!(engine.begin_term(Epoch(2)).await, Err(deposed));
}

fn fetch(uri: impl Into<String>) -> Fetch {
    Fetch { uri: uri.into(), executable: false, extract: true, output_file: None, cache: false }
}

/// A server that counts who asks, and answers once told to.
struct Files {
    address: String,
    asked: Arc<AtomicU64>,
}

impl Files {
    /// Answers to all with this text; with none, never.
    fn serve(text: Option<&'static str>) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = listener.local_addr().expect("bound").to_string();
        let asked = Arc::new(AtomicU64::new(0));
        let count = asked.clone();
        std::thread::spawn(move || {
            let mut silent = Vec::new();
            for mut client in listener.incoming().flatten() {
                let _ = client.read(&mut [0; 4096]);
                count.fetch_add(1, Ordering::SeqCst);
                match text {
                    Some(text) => {
                        let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n";
                        let _ = write!(client, "{head}content-length: {}\r\n\r\n{text}", text.len());
                    }
                    None => silent.push(client),
                }
            }
        });
        Self { address, asked }
    }
}

#[tokio::test]
async fn files_are_fetched_into_the_sandbox() {
    let Some(lab) = DockerLab::new() else { return };
    let engine = lab.first_term().await;
    let files = Files::serve(Some("echo from a file"));
    let archive = lab.folder.path().join("a.tar");
    std::fs::write(lab.folder.path().join("inner"), "from an archive\n").expect("written");
    let tar = std::process::Command::new("tar")
        .args(["-C", &lab.folder.path().display().to_string(), "-cf"])
        .arg(&archive)
        .arg("inner")
        .status();
    assert!(tar.expect("there is tar").success());
    let script = Fetch { executable: true, ..fetch(format!("http://me:pw@{}/run.sh?t=1", files.address)) };
    let command = r#"cd "$MESOS_SANDBOX" && pwd && ./run.sh && cat inner && echo left > here"#;
    let launch = with(within(plain(), order("files-0", command)), |spec| {
        spec.fetches = vec![script, fetch(archive.display().to_string())];
    });
    engine.launch(Epoch(1), launch).await.expect("launched");
    assert_eq!(ends_of(&engine, &["files-0"]).await, [AttemptEnd::Succeeded]);
    let said = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let out = said(read_all(&engine, &task("files-0"), Stream::Stdout, 0).await.bytes);
    assert_eq!(out, "/mnt/mesos/sandbox\nfrom a file\nfrom an archive\n");
    let err = said(read_all(&engine, &task("files-0"), Stream::Stderr, 0).await.bytes);
    assert!(err.contains("run.sh?*** (16 bytes)") && err.contains("a.tar") && !err.contains("pw"), "{err}");

    // It goes with the output, even before its container.
    engine.acknowledge(&[task("files-0")]).await.expect("acknowledged");
    let here = || walk(&lab.folder.path().join("docker")).iter().any(|path| path.ends_with("sandbox/here"));
    assert!(here());
    let keep = Keep { age_min: Duration::ZERO, age_max: Duration::ZERO, bytes_max: 0 };
    assert_eq!(engine.forget_old(keep).await.map(|forgotten| forgotten.tasks), Ok(1));
    assert!(!here());
    assert_eq!(engine.forget_old(keep).await, Ok(Forgotten::default()), "nothing is left of it");
}

fn walk(folder: &std::path::Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .flat_map(|entry| match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            true => walk(&entry.path()),
            false => vec![entry.path()],
        })
        .collect()
}

#[tokio::test]
async fn what_cannot_be_fetched_fails_and_says_so() {
    let Some(lab) = DockerLab::new() else { return };
    let engine = lab.first_term().await;
    let launch = with(within(plain(), order("none-0", lab.command("true"))), |spec| {
        spec.fetches = vec![fetch("/no/such/file")];
    });
    failed_because(&run(&engine, launch).await, &["/no/such/file", "No such file"]);
    let told = read_all(&engine, &task("none-0"), Stream::Stderr, 0).await.bytes;
    assert!(String::from_utf8_lossy(&told).contains("/no/such/file"));
    assert_eq!(lab.starts(&task("none-0")), 0);
}

/// What is being fetched for a task that is killed is not waited for, and nothing goes on.
#[tokio::test]
async fn a_kill_ends_what_is_being_fetched() {
    let Some(mut lab) = DockerLab::new() else { return };
    lab.answer_within = Duration::from_millis(10);
    let engine = lab.first_term().await;
    let files = Files::serve(None);
    let launch = with(within(plain(), order("slow-0", lab.command("true"))), |spec| {
        spec.fetches = vec![fetch(format!("http://{}/file", files.address))];
    });
    let id = launch.task.clone();
    assert_eq!(engine.launch(Epoch(1), launch).await, Ok(Known::Running));
    until("it is asked for", || files.asked.load(Ordering::SeqCst) == 1).await;
    let fetching = || {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let works_there = |entry: std::fs::DirEntry| {
            std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(lab.folder.path()))
        };
        entries.filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok()).any(works_there)
    };
    assert!(fetching());
    engine.kill(Epoch(1), &id, LONG, since_boot() + LONG).await.expect("taken");
    assert_eq!(ends_of(&engine, &["slow-0"]).await, [AttemptEnd::Killed]);
    until("what fetched has ended", || !fetching()).await;
    assert_eq!(lab.starts(&id), 0);
}

/// Registries of their own: others must not find images in the Docker that all share.
#[tokio::test]
async fn images_are_fetched_with_and_without_a_password() {
    let mut dockerd = match Dockerd::start() {
        Ok(dockerd) => dockerd,
        Err(reason) => return skip("docker-registry", &reason),
    };
    let [open, closed] = match dockerd.registries() {
        Ok(registries) => registries,
        Err(reason) => return skip("docker-registry", &reason),
    };
    let lab = DockerLab::at(dockerd.host());
    // `ops:s3cret?~>`
    let logins = format!(r#"{{"auths": {{"{closed}": {{"auth": "b3BzOnMzY3JldD9+Pg=="}}}}}}"#);
    let folder = lab.folder.path().join("cli");
    std::fs::create_dir_all(&folder).expect("made");
    std::fs::write(folder.join("config.json"), &logins).expect("written");
    let image = |registry: &str, tag: &str| format!("{registry}/tools/busybox:{tag}");
    for tag in ["1", "2"] {
        let (image, config) = (image(&closed, tag), folder.display().to_string());
        docker(&lab.host, &["tag", IMAGE, &image]);
        docker(&lab.host, &["--config", &config, "push", &image]);
        docker(&lab.host, &["rmi", &image]);
    }
    let engine = lab.first_term().await;
    let run = async |id: &str, image: String, fetches: Vec<Fetch>| {
        let launch = with(order(id, "true"), |spec| {
            spec.container = Some(Container { image, ..plain() });
            spec.fetches = fetches;
        });
        engine.launch(Epoch(1), launch).await.expect("taken");
        ends_of(&engine, &[id]).await.remove(0)
    };
    assert_eq!(run("open-0", image(&open, "1"), Vec::new()).await, AttemptEnd::Succeeded);
    let end = run("closed-0", image(&closed, "1"), Vec::new()).await;
    let AttemptEnd::Failed { message, .. } = end else { panic!("{end:?}") };
    assert!(message.contains("credentials") && message.contains("there is no login for"), "{message}");
    // As jobs bring it along themselves, in the form of old.
    let old = lab.folder.path().join(".dockercfg");
    std::fs::write(&old, format!(r#"{{"http://{closed}/v1/": {{"auth": "b3BzOnMzY3JldD9+Pg=="}}}}"#))
        .expect("written");
    let brought = vec![fetch(old.display().to_string())];
    assert_eq!(run("brought-0", image(&closed, "1"), brought).await, AttemptEnd::Succeeded);
    // And as the server's user has it.
    std::fs::write(lab.folder.path().join("logins.json"), &logins).expect("written");
    assert_eq!(run("known-0", image(&closed, "2"), Vec::new()).await, AttemptEnd::Succeeded);
    // A name that means another image by now: what is here is taken, unless it is to be fetched anew.
    let moving = image(&open, "moving");
    docker(&lab.host, &["tag", "chronos-test-entry", &moving]);
    docker(&lab.host, &["push", &moving]);
    docker(&lab.host, &["tag", IMAGE, &moving]);
    let id_of = |image: &str| docker(&lab.host, &["image", "inspect", "--format", "{{.Id}}", image]);
    for (id, force_pull, expected) in [("kept-0", false, IMAGE), ("anew-0", true, "chronos-test-entry")] {
        let container = Container { image: moving.clone(), force_pull, ..plain() };
        engine.launch(Epoch(1), within(container, order(id, "true"))).await.expect("taken");
        assert_eq!(ends_of(&engine, &[id]).await, [AttemptEnd::Succeeded]);
        assert_eq!(lab.inspect(id, "{{.Image}}"), id_of(expected).trim(), "{id}");
    }
    let absent = run("absent-0", image(&closed, "3"), Vec::new()).await;
    assert!(
        matches!(&absent, AttemptEnd::Failed { message, .. } if message.contains("not found") && !message.contains("login")),
        "{absent:?}"
    );
}
