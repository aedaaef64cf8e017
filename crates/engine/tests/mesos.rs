//! The engine of Mesos keeps the contract, on a stand-in for master and agent (see `testing/master.rs`); and it behaves to
//! a master as it should. What it does on a real cluster is tested with the whole server.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use engine::conformance::{Lab, MemoryForTests, WithNode, ends_of, order, task, until};
use engine::mesos::{Masters, MesosEngine, MesosLogin, MesosOptions, OldTasks, UNPLACED};
use engine::{Engine, EngineError, Grade, Known, Readiness, Share, Stream, Thousandths, since_boot};
use scheduler::ids::{Epoch, TaskId};
use scheduler::run::AttemptEnd;

#[path = "../testing/master.rs"]
mod master;
#[path = "../testing/skip.rs"]
mod skip;

use master::{Refusal, StandIn};

const LONG: Duration = Duration::from_secs(3600);

/// A cluster, and what a store would keep.
struct MesosLab {
    folder: tempfile::TempDir,
    cluster: StandIn,
    memory: MemoryForTests,
}

impl MesosLab {
    async fn new() -> Self {
        Self::of(1).await
    }

    async fn of(masters: usize) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let cluster = StandIn::start(masters, 4.0, folder.path()).await;
        Self { folder, cluster, memory: MemoryForTests::default() }
    }

    /// With the certificate of this folder.
    async fn secured(certificates: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let cluster = StandIn::start_with(2, 4.0, folder.path(), Some(acceptor(certificates))).await;
        Self { folder, cluster, memory: MemoryForTests::default() }
    }

    fn options(&self, masters: &str) -> MesosOptions {
        let masters = Masters::parse(masters).expect("masters");
        let share = Share { cpus: Some(Thousandths(100)), mem: Some(Thousandths(1000)), disk: None };
        MesosOptions { share, revive_every: Duration::from_millis(200), ..MesosOptions::new(masters) }
    }

    /// Without a node around it.
    fn engine(&self, options: MesosOptions) -> MesosEngine {
        MesosEngine::open(options, Arc::new(self.memory.clone())).expect("opened")
    }

    fn with_node(&self, options: MesosOptions) -> WithNode {
        WithNode::new(Arc::new(self.engine(options)), self.memory.clone())
    }

    async fn first_term(&self) -> WithNode {
        let engine = self.with_node(self.options(&self.cluster.address(0)));
        engine.begin_term(Epoch(1)).await.expect("the first term begins");
        engine
    }
}

#[async_trait]
impl Lab for MesosLab {
    async fn open(&self) -> Box<dyn Engine> {
        Box::new(self.with_node(self.options(&self.cluster.address(0))))
    }

    fn command(&self, command: &str) -> String {
        format!("echo x >> {}/starts-$STANDIN_TASK; {command}", self.folder.path().display())
    }

    fn starts(&self, task: &TaskId) -> usize {
        let path = self.folder.path().join(format!("starts-{task}"));
        std::fs::read_to_string(path).map_or(0, |text| text.lines().count())
    }

    async fn restart(&self) {
        self.cluster.restart();
    }

    fn scratch(&self) -> PathBuf {
        self.folder.path().to_owned()
    }
}

engine::contract_tests!(MesosLab::new().await);

async fn not_ready_because(engine: &dyn Engine, words: &str) {
    let told = || match engine.readiness() {
        Readiness::NotReady { reason } => reason,
        Readiness::Ready => String::new(),
    };
    until(words, || told().contains(words)).await;
}

#[tokio::test]
async fn a_master_that_does_not_lead_shows_who_does() {
    let lab = MesosLab::of(3).await;
    let engine = lab.with_node(lab.options(&lab.cluster.address(2)));
    engine.begin_term(Epoch(1)).await.expect("begins");
    assert_eq!(engine.readiness(), Readiness::Ready);
    lab.cluster.lead(1);
    // A task that is on its way to the one before meanwhile may be lost with it.
    until("it is subscribed again", || lab.cluster.subscriptions() == 2).await;
    engine.launch(Epoch(1), order("a-0", "true")).await.expect("launched");
    assert_eq!(ends_of(&engine, &["a-0"]).await, [AttemptEnd::Succeeded]);
}

#[tokio::test]
async fn a_master_that_recovers_is_waited_for() {
    let lab = MesosLab::new().await;
    lab.cluster.set_ready(false);
    let engine = lab.engine(lab.options(&format!("127.0.0.1:1,{}", lab.cluster.address(0))));
    engine.begin_term(Epoch(1)).await.expect("a term does not wait for the master");
    not_ready_because(&engine, "Master has not finished recovery").await;
    not_ready_because(&engine, "no master answers at http://127.0.0.1:1").await;
    lab.cluster.set_ready(true);
    until("it is subscribed", || engine.readiness() == Readiness::Ready).await;
}

#[tokio::test]
async fn who_is_not_let_in_says_what_to_do() {
    let lab = MesosLab::new().await;
    // As `chronos:geheim`.
    lab.cluster.demand("Basic Y2hyb25vczpnZWhlaW0=");
    let options = lab.options(&lab.cluster.address(0));
    let nobody = lab.engine(options.clone());
    nobody.begin_term(Epoch(1)).await.expect("begins");
    not_ready_because(&nobody, "--mesos_authentication_principal").await;
    drop(nobody);
    let login = |secret: &str| Some(MesosLogin { principal: "chronos".into(), secret: secret.into() });
    let wrong = lab.engine(MesosOptions { login: login("falsch"), ..options.clone() });
    wrong.begin_term(Epoch(1)).await.expect("begins");
    not_ready_because(&wrong, "does not know the principal `chronos` by this secret").await;
    drop(wrong);
    let right = lab.engine(MesosOptions { login: login("geheim"), ..options });
    right.begin_term(Epoch(1)).await.expect("begins");
    until("it is subscribed", || right.readiness() == Readiness::Ready).await;
}

/// However often it is refused, and however that is said: it says why, and is there as soon as it may be.
#[tokio::test]
async fn who_may_not_be_a_framework_says_so_and_asks_for_ever() {
    let lab = MesosLab::new().await;
    let login = MesosLogin { principal: "chronos".into(), secret: "geheim".into() };
    let options = MesosOptions { login: Some(login), ..lab.options(&lab.cluster.address(0)) };
    let engine = lab.engine(MesosOptions { role: "ops".into(), ..options });
    lab.cluster.refuse(Some(Refusal::Status(403, "Not today")));
    engine.begin_term(Epoch(1)).await.expect("begins");
    not_ready_because(&engine, "does not let `chronos` be a framework of role `ops`").await;
    not_ready_because(&engine, "403 Forbidden: Not today").await;
    for (words, hint) in [
        (
            "Not authorized to use roles '{ ops }'",
            "--acls have to allow register_frameworks with role `ops` to `chronos`",
        ),
        ("Changing framework's principal is not allowed.", "this framework asks as `chronos`"),
        ("Role 'ops' is not present in the master's --roles", "see --mesos_role, which is `ops`"),
    ] {
        lab.cluster.refuse(Some(Refusal::Event(words)));
        not_ready_because(&engine, words).await;
        not_ready_because(&engine, hint).await;
    }
    let tries = lab.cluster.calls("SUBSCRIBE").len();
    until("it asks again", || lab.cluster.calls("SUBSCRIBE").len() > tries).await;
    lab.cluster.refuse(None);
    until("it is subscribed", || engine.readiness() == Readiness::Ready).await;
}

/// It follows the framework that an old Chronos was; and keeps its id, whatever becomes of what the old one left.
#[tokio::test]
async fn the_id_of_an_old_chronos_is_taken_over_with_its_tasks() {
    let lab = MesosLab::new().await;
    let old = "ct:1893456000000:0:report:";
    lab.cluster.plant(old);
    lab.memory.inherit("old-0007");
    let options = lab.options(&lab.cluster.address(0));
    let engine = lab.with_node(options.clone());
    engine.begin_term(Epoch(1)).await.expect("begins");
    let asked = &lab.cluster.calls("SUBSCRIBE")[0];
    assert_eq!(asked["framework_id"]["value"], "old-0007");
    use engine::Memory;
    until("the id is kept", || lab.memory.recall().as_deref() == Some("old-0007")).await;
    engine.launch(Epoch(1), order("a-0", "true")).await.expect("launched");
    assert_eq!(ends_of(&engine, &["a-0"]).await, [AttemptEnd::Succeeded]);
    assert_eq!(lab.cluster.state_of(old), "TASK_RUNNING");
    drop(engine);

    lab.memory.inherit("another");
    let engine = lab.engine(MesosOptions { old_tasks: OldTasks::Kill, ..options });
    lab.memory.lead(Epoch(2)).expect("leads");
    engine.begin_term(Epoch(2)).await.expect("begins");
    until("it is ended", || lab.cluster.state_of(old) == "TASK_KILLED").await;
    let asked = lab.cluster.calls("SUBSCRIBE");
    assert_eq!(asked.last().expect("asked")["framework_id"]["value"], "old-0007");
}

#[tokio::test]
async fn who_leads_no_more_leaves_the_master() {
    let lab = MesosLab::new().await;
    let engine = lab.first_term().await;
    engine.end_term(Epoch(7)).await;
    assert!(lab.cluster.has_listener(), "of another term");
    engine.end_term(Epoch(1)).await;
    not_ready_because(&engine, "leads no more").await;
    until("nobody listens", || !lab.cluster.has_listener()).await;
    assert_eq!(lab.cluster.subscriptions(), 1);
}

#[tokio::test]
async fn what_stands_between_it_and_the_cluster_is_found() {
    let lab = MesosLab::new().await;
    let options = lab.options(&format!("{},127.0.0.1:1", lab.cluster.address(0)));
    // Nobody listens on port 1.
    let nobody = Some("http://127.0.0.1:1".to_owned());
    let engine = lab.engine(MesosOptions { webui_url: nobody, ..options.clone() });
    let found = async |engine: &MesosEngine| {
        let found = engine.examine().await;
        found.iter().map(|one| format!("{} {:?} {}", one.leg, one.grade, one.what)).collect::<Vec<_>>()
    };
    let before = engine.examine().await;
    assert!(matches!(&before[..], [one] if one.leg == "master" && one.grade == Grade::Wrong), "{before:?}");
    lab.cluster.make_offers(false);
    engine.begin_term(Epoch(1)).await.expect("begins");
    until("it is subscribed", || engine.readiness() == Readiness::Ready).await;
    let master = lab.cluster.address(0);
    let told = found(&engine).await;
    assert!(
        told[0].starts_with(&format!(
            "master Good the master at http://{master} leads (named as http://{master},"
        ))
    );
    assert_eq!(told[1], "framework Good `chronos` is active there, as standin-0001");
    assert_eq!(told[2], "offers Look no agent has made an offer to role `*` yet; nothing waits for more");
    assert!(told[3].starts_with("webui Look the master shows http://127.0.0.1:1"), "{told:#?}");
    lab.cluster.make_offers(true);
    engine.launch(Epoch(1), order("a-0", "true")).await.expect("launched");
    let events = tokio::time::timeout(LONG, engine.events()).await.expect("told");
    assert!(matches!(events[0].known, Known::Placed { .. }), "{events:?}");
    let told = found(&engine).await;
    assert!(told[2].starts_with("offers Good offers of 1 agent(s) have come, the last "), "{told:#?}");
    drop(engine);

    // What answers is the master itself; and the framework that it shows goes by another name.
    let options = MesosOptions { webui_url: Some(format!("http://{master}/")), ..options };
    let engine = lab.engine(options);
    lab.memory.lead(Epoch(2)).expect("leads");
    engine.begin_term(Epoch(2)).await.expect("begins");
    until("it is subscribed", || engine.readiness() == Readiness::Ready).await;
    lab.cluster.show_as("cron", false);
    let told = found(&engine).await;
    assert_eq!(told[1], "framework Wrong the master lists standin-0001 as `cron`, but not as active");
    assert!(told[3].starts_with("webui Good "), "{told:#?}");
    lab.cluster.show_as("cron", true);
    let told = found(&engine).await;
    assert_eq!(told[1], "framework Look standin-0001 is active there, but as `cron` and not as `chronos`");
}

/// What a task wrote, until its agent has removed it.
async fn check_output(lab: &MesosLab, engine: &WithNode) {
    engine.launch(Epoch(1), order("a-0", "echo out; echo err >&2")).await.expect("launched");
    assert_eq!(ends_of(engine, &["a-0"]).await, [AttemptEnd::Succeeded]);
    let output = engine.output(&task("a-0"), Stream::Stderr, 0).await.expect("it is there");
    assert_eq!((&output.bytes[..], output.next, output.complete), (&b"err\n"[..], 4, true));
    let rest = engine.output(&task("a-0"), Stream::Stdout, 2).await.expect("it is there");
    assert_eq!(rest.bytes, b"t\n");
    lab.cluster.remove_files();
    let gone = engine.output(&task("a-0"), Stream::Stdout, 0).await;
    assert!(matches!(&gone, Err(EngineError::OutputGone(why)) if why.contains("--gc_delay")), "{gone:?}");
}

#[tokio::test]
async fn output_is_read_with_a_login_and_its_removal_is_told() {
    let lab = MesosLab::new().await;
    // As `chronos:geheim`.
    lab.cluster.demand("Basic Y2hyb25vczpnZWhlaW0=");
    let login = |secret: &str| Some(MesosLogin { principal: "chronos".into(), secret: secret.into() });
    let options = MesosOptions { login: login("geheim"), ..lab.options(&lab.cluster.address(0)) };
    let engine = lab.with_node(options.clone());
    engine.begin_term(Epoch(1)).await.expect("begins");
    engine.launch(Epoch(1), order("b-0", "true")).await.expect("launched");
    assert_eq!(ends_of(&engine, &["b-0"]).await, [AttemptEnd::Succeeded]);
    // One that the agent does not know.
    let stranger = lab.engine(MesosOptions { login: login("falsch"), ..options });
    let refused = stranger.output(&task("b-0"), Stream::Stdout, 0).await;
    assert!(
        matches!(&refused, Err(EngineError::Unknown(why)) if why.contains("does not show files to `chronos`")),
        "{refused:?}"
    );
    check_output(&lab, &engine).await;
}

/// Where the certificates are that the test below makes for the one that it starts.
const CERTIFICATES: &str = "ENGINE_TEST_CERTIFICATES";

fn acceptor(certificates: &Path) -> tokio_rustls::TlsAcceptor {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let _ = rustls::crypto::ring::default_provider().install_default();
    let certificate = CertificateDer::from_pem_file(certificates.join("server.crt")).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(certificates.join("server.key")).expect("a key");
    let config =
        rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key);
    tokio_rustls::TlsAcceptor::from(Arc::new(config.expect("they fit")))
}

/// Whom a process trusts is said by its environment, so what is to be seen is seen in one of its own.
#[test]
fn masters_and_agents_may_speak_https() {
    let folder = tempfile::tempdir().expect("a folder");
    let openssl = |line: &str| {
        let done = Command::new("openssl").args(line.split_whitespace()).current_dir(folder.path()).output();
        done.is_ok_and(|done| done.status.success())
    };
    if !openssl("version") {
        return skip::skip("mesos-https", "openssl is not here");
    }
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 2";
    assert!(openssl(&format!(
        "req -x509 {key} -subj /CN=authority -keyout authority.key -out authority.crt"
    )));
    assert!(openssl(&format!(
        "req -x509 {key} -subj /CN=server -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE \
         -CA authority.crt -CAkey authority.key -keyout server.key -out server.crt"
    )));
    let mut inner = Command::new(std::env::current_exe().expect("this program"));
    inner.args(["--exact", "https_is_spoken_where_it_is_trusted", "--nocapture"]);
    inner.env(CERTIFICATES, folder.path()).env("SSL_CERT_FILE", folder.path().join("authority.crt"));
    let done = inner.output().expect("it runs");
    let said = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && said.contains("1 passed"), "{said}");
}

/// Does nothing but where [`masters_and_agents_may_speak_https`] starts it.
#[tokio::test]
async fn https_is_spoken_where_it_is_trusted() {
    let Some(certificates) = std::env::var_os(CERTIFICATES).map(PathBuf::from) else { return };
    let lab = MesosLab::secured(&certificates).await;
    let named = |master| lab.cluster.address(master).replace("127.0.0.1", "https://localhost");
    // The certificate is for no address.
    let options = lab.options(&format!("https://{}", lab.cluster.address(0)));
    let mistaken = lab.engine(options);
    mistaken.begin_term(Epoch(1)).await.expect("begins");
    not_ready_because(&mistaken, "not valid for name").await;
    let plain = lab.engine(lab.options(&lab.cluster.address(0)));
    plain.begin_term(Epoch(1)).await.expect("begins");
    not_ready_because(&plain, "no master answers").await;
    drop((mistaken, plain));
    let engine = lab.with_node(lab.options(&named(0)));
    engine.begin_term(Epoch(1)).await.expect("begins");
    assert_eq!(engine.readiness(), Readiness::Ready);
    check_output(&lab, &engine).await;
    use engine::Memory;
    let place = lab.memory.node_of(&task("a-0")).await.expect("known").expect("placed");
    assert!(place.starts_with("mesos+https://localhost:"), "{place}");
}

#[tokio::test]
async fn a_silent_master_is_left_and_found_again() {
    let lab = MesosLab::new().await;
    lab.cluster.beat_every(Duration::from_millis(500));
    let engine = lab.first_term().await;
    engine.launch(Epoch(1), order("run-0", "sleep 1000")).await.expect("launched");
    lab.cluster.set_silent(true);
    not_ready_because(&engine, "sign of life").await;
    lab.cluster.beat_every(Duration::from_secs(10));
    lab.cluster.set_silent(false);
    until("it is subscribed again", || engine.readiness() == Readiness::Ready).await;
    assert_eq!(engine.reconcile(Epoch(1), &[task("run-0")]).await, Ok(vec![Known::Running]));
}

#[tokio::test]
async fn a_removed_framework_begins_as_a_new_one_and_its_tasks_are_lost() {
    let lab = MesosLab::new().await;
    let engine = lab.first_term().await;
    engine.launch(Epoch(1), order("run-0", "sleep 1000")).await.expect("launched");
    lab.cluster.remove_framework();
    let ends = ends_of(&engine, &["run-0"]).await;
    assert!(matches!(&ends[..], [AttemptEnd::Lost { .. }]), "{ends:?}");
    engine.launch(Epoch(1), order("a-0", "true")).await.expect("launched");
    assert_eq!(ends_of(&engine, &["a-0"]).await, [AttemptEnd::Succeeded]);
    use engine::Memory;
    assert_eq!(lab.memory.recall().as_deref(), Some("standin-0002"));
    drop(engine);

    // A server that knows of the task only by its place, which names the framework of before.
    let engine = lab.with_node(lab.options(&lab.cluster.address(0)));
    engine.begin_term(Epoch(2)).await.expect("begins");
    let known = engine.reconcile(Epoch(2), &[task("run-0")]).await.expect("asked");
    assert!(matches!(&known[..], [Known::Ended(AttemptEnd::Lost { .. })]), "{known:?}");
}

#[tokio::test]
async fn a_deposed_leader_subscribes_no_more() {
    let lab = MesosLab::new().await;
    let engine = lab.engine(lab.options(&lab.cluster.address(0)));
    lab.memory.lead(Epoch(1)).expect("leads");
    engine.begin_term(Epoch(1)).await.expect("begins");
    until("it is subscribed", || engine.readiness() == Readiness::Ready).await;
    lab.memory.lead(Epoch(2)).expect("another leads");
    lab.cluster.restart();
    let deposed = EngineError::Deposed { ours: Epoch(1), newest: Epoch(2) };
    until(
        "it knows",
        || matches!(engine.readiness(), Readiness::NotReady { reason } if reason.contains("later than 1")),
    )
    .await;
    assert_eq!(engine.launch(Epoch(1), order("a-0", "true")).await, Err(deposed.clone()));
    assert_eq!(engine.kill(Epoch(1), &task("a-0"), LONG, since_boot() + LONG).await, Err(deposed));
    assert_eq!((lab.cluster.subscriptions(), lab.cluster.has_listener()), (1, false));
}

/// As after SIGSTOP: what it was about to say is not said before the store has told who leads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_stopped_says_nothing_before_it_is_known_who_leads() {
    let lab = MesosLab::new().await;
    let (options, memory) = (lab.options(&lab.cluster.address(0)), lab.memory.clone());
    // On a thread of its own, which stands still while the master and the store go on.
    let stopped = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let engine = MesosEngine::open(options, Arc::new(memory.clone())).expect("opened");
            let engine = WithNode::new(Arc::new(engine), memory.clone());
            engine.begin_term(Epoch(1)).await.expect("the first term begins");
            engine.launch(Epoch(1), order("run-0", "sleep 1000")).await.expect("launched");
            let running =
                async || engine.reconcile(Epoch(1), &[task("run-0")]).await == Ok(vec![Known::Running]);
            while !running().await {
                tokio::task::yield_now().await;
            }
            let told = engine.kill(Epoch(1), &task("run-0"), Duration::ZERO, since_boot() + LONG).await;
            assert_eq!(told, Ok(()), "it is to be said, and nobody has come to say it yet");
            memory.lead(Epoch(2)).expect("another leads");
            std::thread::sleep(Duration::from_millis(3500));
            not_ready_because(&engine, "later than 1").await;
        });
    });
    tokio::task::spawn_blocking(|| stopped.join()).await.expect("joined").expect("all was as it should be");
    assert!(lab.cluster.calls("KILL").is_empty());
    assert_eq!(lab.cluster.subscriptions(), 1);
}

/// The place is told and nobody says that it is durable: nothing is sent to an agent.
#[tokio::test]
async fn nothing_begins_without_a_go_ahead() {
    let lab = MesosLab::new().await;
    let engine = lab.engine(lab.options(&lab.cluster.address(0)));
    engine.begin_term(Epoch(1)).await.expect("begins");
    lab.memory.place(Epoch(1), &task("a-0"), UNPLACED).expect("kept");
    assert_eq!(engine.launch(Epoch(1), order("a-0", lab.command("true"))).await, Ok(Known::Waiting));
    let events = tokio::time::timeout(LONG, engine.events()).await.expect("told");
    let Known::Placed { node } = &events[0].known else { panic!("{events:?}") };
    let place = format!("mesos://{}/standin-S0/standin-0001", lab.cluster.address(0));
    assert!(node.starts_with(&place), "{node}");
    // Somebody else's place is not this one, and an order that is late is none.
    let soon = since_boot() + LONG;
    engine.go_ahead(Epoch(1), &task("a-0"), "mesos://h:1/S/F", soon).await.expect("taken");
    let late = engine.go_ahead(Epoch(1), &task("a-0"), node, Duration::ZERO).await;
    assert_eq!(late, Err(EngineError::TooLate));
    assert!(lab.cluster.calls("ACCEPT").is_empty());
    engine.go_ahead(Epoch(1), &task("a-0"), node, soon).await.expect("taken");
    assert_eq!(ends_of(&engine, &["a-0"]).await, [AttemptEnd::Succeeded]);
    assert_eq!(lab.starts(&task("a-0")), 1);
}

#[tokio::test]
async fn an_end_is_acknowledged_to_mesos_once_it_is_durable() {
    let lab = MesosLab::new().await;
    let engine = lab.first_term().await;
    engine.launch(Epoch(1), order("a-0", "true")).await.expect("launched");
    ends_of(&engine, &["a-0"]).await;
    assert!(lab.cluster.awaits_acknowledgement("a-0"));
    // The agent tells it again, and so does the engine.
    ends_of(&engine, &["a-0"]).await;
    engine.acknowledge(&[task("a-0")]).await.expect("acknowledged");
    until("the agent knows", || !lab.cluster.awaits_acknowledgement("a-0")).await;
}

#[tokio::test]
async fn a_task_that_did_not_reach_its_agent_is_launched_again() {
    let lab = MesosLab::new().await;
    let engine = lab.first_term().await;
    lab.cluster.drop_launches(2);
    engine.launch(Epoch(1), order("a-0", lab.command("true"))).await.expect("launched");
    assert_eq!(ends_of(&engine, &["a-0"]).await, [AttemptEnd::Succeeded]);
    assert_eq!((lab.starts(&task("a-0")), lab.cluster.calls("ACCEPT").len()), (1, 3));
}

#[tokio::test]
async fn who_has_nothing_to_do_wants_no_offers() {
    let lab = MesosLab::new().await;
    let engine = lab.first_term().await;
    until("offers are refused", || !lab.cluster.calls("SUPPRESS").is_empty()).await;
    let declined = lab.cluster.calls("DECLINE");
    assert_eq!(declined[0]["decline"]["filters"]["refuse_seconds"], 300.0);
    assert!(lab.cluster.calls("REVIVE").is_empty());
    engine.launch(Epoch(1), order("a-0", "true")).await.expect("launched");
    assert_eq!(ends_of(&engine, &["a-0"]).await, [AttemptEnd::Succeeded]);
    assert_eq!(lab.cluster.calls("REVIVE").len(), 1);
}

#[tokio::test]
async fn what_does_not_fit_holds_up_nobody_and_says_why() {
    let lab = MesosLab::new().await;
    let engine = lab.engine(lab.options(&lab.cluster.address(0)));
    engine.begin_term(Epoch(1)).await.expect("begins");
    let mut large = order("large-0", "true");
    let share = Share { cpus: Some(Thousandths(64_000)), ..Share::default() };
    large.spec = Arc::new(engine::TaskSpec { share, ..(*large.spec).clone() });
    lab.memory.place(Epoch(1), &task("large-0"), UNPLACED).expect("kept");
    assert_eq!(engine.launch(Epoch(1), large).await, Ok(Known::Waiting));
    until("it says why", || {
        engine.waits_for(&task("large-0")).iter().any(|told| told.contains("64 cpus, there are 4"))
    })
    .await;
    lab.memory.place(Epoch(1), &task("a-0"), UNPLACED).expect("kept");
    engine.launch(Epoch(1), order("a-0", "true")).await.expect("launched");
    let events = tokio::time::timeout(LONG, engine.events()).await.expect("told");
    assert!(matches!(&events[..], [event] if event.task == task("a-0")), "{events:?}");
    engine.kill(Epoch(1), &task("large-0"), LONG, since_boot() + LONG).await.expect("taken");
    assert_eq!(ends_of(&engine, &["large-0"]).await, [AttemptEnd::Killed]);
}
