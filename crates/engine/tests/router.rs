//! Two engines as one keep the contract, and neither is held up by the other.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use engine::conformance::{Lab, ends_of, order, task};
use engine::fake::{Behaviour, FakeEngine, FakeMachine};
use engine::router::Router;
use engine::{
    Container, ContainerKind, Engine, EngineError, Known, Launch, Output, Readiness, Stream, TaskEvent,
    TaskSpec, since_boot,
};
use scheduler::ids::{Epoch, TaskId};
use scheduler::run::AttemptEnd;
use tokio::time::timeout;

/// Commands of the contract suite, played by a fake.
fn play(launch: &Launch) -> Behaviour {
    match launch.spec.command.as_str() {
        "true" => Behaviour::End(AttemptEnd::Succeeded),
        "exit 3" => Behaviour::End(AttemptEnd::Failed {
            exit: Some(3),
            signal: None,
            message: "exit status 3".into(),
        }),
        _ => Behaviour::Run,
    }
}

struct Machines {
    local: FakeMachine,
    containers: FakeMachine,
    scratch: tempfile::TempDir,
}

impl Machines {
    fn new() -> Self {
        let machine = || {
            let machine = FakeMachine::new();
            machine.script(play);
            machine
        };
        Self { local: machine(), containers: machine(), scratch: tempfile::tempdir().expect("a folder") }
    }

    fn router(&self) -> Router {
        Router::new(Arc::new(self.local.engine()), Arc::new(self.containers.engine()))
    }
}

#[async_trait]
impl Lab for Machines {
    async fn open(&self) -> Box<dyn Engine> {
        Box::new(self.router())
    }
    fn command(&self, command: &str) -> String {
        command.into()
    }
    fn starts(&self, task: &TaskId) -> usize {
        let begun = self.local.begun().into_iter().chain(self.containers.begun());
        begun.filter(|(_, begun)| begun == task).count()
    }
    async fn restart(&self) {}
    fn scratch(&self) -> PathBuf {
        self.scratch.path().to_owned()
    }
}

engine::contract_tests!(Machines::new());

fn boxed(id: &str, command: &str, kind: ContainerKind) -> Launch {
    let launch = order(id, command);
    let container = Container { kind, image: "i".into(), ..Container::default() };
    let spec = TaskSpec { container: Some(container), ..(*launch.spec).clone() };
    Launch { spec: Arc::new(spec), ..launch }
}

#[tokio::test]
async fn each_task_goes_to_its_engine_and_is_found_there() {
    let machines = Machines::new();
    let router = machines.router();
    router.begin_term(Epoch(1)).await.expect("the term begins");
    router.launch(Epoch(1), order("plain-0", "sleep 1000")).await.expect("launched");
    router.launch(Epoch(1), boxed("boxed-0", "sleep 1000", ContainerKind::Docker)).await.expect("launched");
    assert_eq!(machines.local.running(), [task("plain-0")]);
    assert_eq!(machines.containers.running(), [task("boxed-0")]);

    // The next server knows no spec any more.
    let router = machines.router();
    router.begin_term(Epoch(2)).await.expect("the term begins");
    let ids = ["none-0", "boxed-0", "plain-0", "boxed-0"].map(task);
    let known = router.reconcile(Epoch(2), &ids).await;
    assert_eq!(known, Ok(vec![Known::NeverBegan, Known::Running, Known::Running, Known::Running]));
    let soon = since_boot() + Duration::from_secs(3600);
    for id in ["boxed-0", "plain-0"] {
        router.kill(Epoch(2), &task(id), Duration::ZERO, soon).await.expect("taken");
    }
    assert_eq!(ends_of(&router, &["boxed-0", "plain-0"]).await, [AttemptEnd::Killed, AttemptEnd::Killed]);
}

/// Of the one that is away only its own tasks hear.
#[tokio::test]
async fn tasks_without_a_container_do_not_wait_for_one() {
    let machines = Machines::new();
    let router = machines.router();
    router.begin_term(Epoch(1)).await.expect("the term begins");
    let away = Readiness::NotReady { reason: "away".into() };
    machines.containers.set_readiness(away.clone());
    machines.containers.script(|_| Behaviour::Refuse("away".into()));
    let (plain, inside) = (order("plain-0", "true"), boxed("boxed-0", "true", ContainerKind::Docker));
    assert_eq!(router.readiness(), Readiness::Ready);
    assert_eq!(
        [router.readiness_of(&plain.spec), router.readiness_of(&inside.spec)],
        [Readiness::Ready, away]
    );
    let refused = router.launch(Epoch(1), inside).await;
    assert!(matches!(refused, Err(EngineError::Refused(_))), "{refused:?}");
    router.launch(Epoch(1), plain).await.expect("launched");
    assert_eq!(ends_of(&router, &["plain-0"]).await, [AttemptEnd::Succeeded]);
}

#[tokio::test]
async fn a_container_of_mesos_is_a_failure_that_says_so() {
    let machines = Machines::new();
    let router = machines.router();
    router.begin_term(Epoch(1)).await.expect("the term begins");
    let known = router.launch(Epoch(1), boxed("mesos-0", "true", ContainerKind::Mesos)).await;
    assert!(
        matches!(&known, Ok(Known::Ended(AttemptEnd::Failed { message, .. })) if message.contains("MESOS")),
        "{known:?}"
    );
    assert_eq!((machines.local.begun(), machines.containers.begun()), (Vec::new(), Vec::new()));
}

/// What an engine has become of which nothing is to be had.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Odd {
    No,
    Fails,
    SaysNothing,
}

/// An engine whose disk or daemon may be odd.
struct OddEngine {
    engine: FakeEngine,
    odd: Arc<Mutex<Odd>>,
}

impl OddEngine {
    async fn odd(&self) -> Result<(), EngineError> {
        let odd = *self.odd.lock().expect("not poisoned");
        match odd {
            Odd::No => Ok(()),
            Odd::Fails => Err(EngineError::Unknown("the disk is full".into())),
            Odd::SaysNothing => std::future::pending().await,
        }
    }
}

#[async_trait]
impl Engine for OddEngine {
    fn name(&self) -> &'static str {
        "odd"
    }
    async fn begin_term(&self, epoch: Epoch) -> Result<(), EngineError> {
        self.odd().await?;
        self.engine.begin_term(epoch).await
    }
    async fn launch(&self, epoch: Epoch, launch: Launch) -> Result<Known, EngineError> {
        self.odd().await?;
        self.engine.launch(epoch, launch).await
    }
    async fn kill(&self, epoch: Epoch, id: &TaskId, by: Duration, at: Duration) -> Result<(), EngineError> {
        self.odd().await?;
        self.engine.kill(epoch, id, by, at).await
    }
    async fn reconcile(&self, epoch: Epoch, tasks: &[TaskId]) -> Result<Vec<Known>, EngineError> {
        self.odd().await?;
        self.engine.reconcile(epoch, tasks).await
    }
    async fn events(&self) -> Vec<TaskEvent> {
        self.engine.events().await
    }
    async fn acknowledge(&self, tasks: &[TaskId]) -> Result<(), EngineError> {
        self.odd().await?;
        self.engine.acknowledge(tasks).await
    }
    async fn output(&self, task: &TaskId, stream: Stream, offset: u64) -> Result<Output, EngineError> {
        self.engine.output(task, stream, offset).await
    }
    fn readiness(&self) -> Readiness {
        self.engine.readiness()
    }
    fn holds(&self, task: &TaskId) -> bool {
        self.engine.holds(task)
    }
}

impl Machines {
    /// The two as one, of which that of containers is odd at will.
    fn odd_router(&self) -> (Router, Arc<Mutex<Odd>>) {
        let odd = Arc::new(Mutex::new(Odd::No));
        let containers = OddEngine { engine: self.containers.engine(), odd: odd.clone() };
        (Router::new(Arc::new(self.local.engine()), Arc::new(containers)), odd)
    }
}

const LONG: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn an_engine_that_does_not_take_the_term_keeps_only_its_own_tasks() {
    for trouble in [Odd::Fails, Odd::SaysNothing] {
        let machines = Machines::new();
        let (router, odd) = machines.odd_router();
        router.begin_term(Epoch(1)).await.expect("the term begins");
        router
            .launch(Epoch(1), boxed("boxed-0", "sleep 1000", ContainerKind::Docker))
            .await
            .expect("launched");
        *odd.lock().expect("not poisoned") = trouble;
        timeout(LONG, router.begin_term(Epoch(2))).await.expect("in time").expect("of one it begins");
        router.launch(Epoch(2), order("plain-0", "sleep 1000")).await.expect("launched");
        let ids = ["boxed-0", "plain-0", "none-0"].map(task);
        let known = timeout(LONG, router.reconcile(Epoch(2), &ids)).await.expect("in time");
        assert_eq!(known, Ok(vec![Known::Unknown, Known::Running, Known::Unknown]));
        let launch = boxed("late-0", "true", ContainerKind::Docker);
        let late = timeout(LONG, router.launch(Epoch(2), launch.clone())).await.expect("in time");
        assert!(matches!(late, Err(EngineError::Unknown(_))), "{late:?}");

        *odd.lock().expect("not poisoned") = Odd::No;
        let launched = router.launch(Epoch(2), launch).await;
        assert_eq!(launched, Ok(Known::Ended(AttemptEnd::Succeeded)), "it is told of the term first");
        let known = router.reconcile(Epoch(2), &ids).await;
        assert_eq!(known, Ok(vec![Known::Running, Known::Running, Known::NeverBegan]));
    }
}

#[tokio::test]
async fn of_an_engine_that_cannot_answer_only_its_part_is_unknown() {
    let machines = Machines::new();
    let (router, odd) = machines.odd_router();
    router.begin_term(Epoch(1)).await.expect("the term begins");
    router.launch(Epoch(1), boxed("boxed-0", "true", ContainerKind::Docker)).await.expect("launched");
    router.launch(Epoch(1), order("plain-0", "true")).await.expect("launched");
    *odd.lock().expect("not poisoned") = Odd::Fails;
    let ids = ["boxed-0", "plain-0"].map(task);
    let known = router.reconcile(Epoch(1), &ids).await;
    assert_eq!(known, Ok(vec![Known::Unknown, Known::Ended(AttemptEnd::Succeeded)]));
    assert!(router.acknowledge(&ids).await.is_err(), "one of them is told again");
    router.begin_term(Epoch(2)).await.expect("the term begins");
    *odd.lock().expect("not poisoned") = Odd::No;
    router.reconcile(Epoch(2), &ids).await.expect("told of the term");
    let told = ends_of(&router, &["boxed-0"]).await;
    assert_eq!(told, [AttemptEnd::Succeeded]);
    assert!(
        timeout(Duration::from_millis(10), machines.local.engine().events()).await.is_err(),
        "acknowledged"
    );
}

/// The job had another container, or none, when this very task was launched before.
#[tokio::test]
async fn what_another_engine_knows_is_not_launched_again() {
    let machines = Machines::new();
    let router = machines.router();
    router.begin_term(Epoch(1)).await.expect("the term begins");
    let (plain, inside) = (order("a-0", "sleep 1000"), boxed("a-0", "sleep 1000", ContainerKind::Docker));
    router.launch(Epoch(1), plain).await.expect("launched");
    for kind in [ContainerKind::Docker, ContainerKind::Mesos] {
        assert_eq!(router.launch(Epoch(1), boxed("a-0", "true", kind)).await, Ok(Known::Running));
    }
    router.launch(Epoch(1), Launch { task: task("b-0"), ..inside }).await.expect("launched");
    assert_eq!(router.launch(Epoch(1), order("b-0", "true")).await, Ok(Known::Running));
    assert_eq!((machines.local.begun().len(), machines.containers.begun().len()), (1, 1));
}
