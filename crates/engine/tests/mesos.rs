//! The engine of Mesos keeps the contract, on a stand-in for master and agent (see `testing/master.rs`); and it behaves to
//! a master as it should. What it does on a real cluster is tested with the whole server.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use engine::conformance::{Lab, MemoryForTests, WithNode, ends_of, order, task, until};
use engine::mesos::{Masters, MesosEngine, MesosLogin, MesosOptions, UNPLACED};
use engine::{Engine, EngineError, Known, Readiness, Share, Thousandths, since_boot};
use scheduler::ids::{Epoch, TaskId};
use scheduler::run::AttemptEnd;

#[path = "../testing/master.rs"]
mod master;

use master::StandIn;

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
    engine.launch(Epoch(1), order("a-0", "true")).await.expect("launched");
    assert_eq!(ends_of(&engine, &["a-0"]).await, [AttemptEnd::Succeeded]);
    assert_eq!(lab.cluster.subscriptions(), 2);
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

#[tokio::test]
async fn a_silent_master_is_left_and_found_again() {
    let lab = MesosLab::new().await;
    let engine = lab.first_term().await;
    engine.launch(Epoch(1), order("run-0", "sleep 1000")).await.expect("launched");
    lab.cluster.set_silent(true);
    not_ready_because(&engine, "sign of life").await;
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
    assert!(node.starts_with("mesos://127.0.0.1:1/standin-S0/standin-0001"), "{node}");
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
