//! Two engines as one keep the contract, and neither is held up by the other.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use engine::conformance::{Lab, ends_of, order, task};
use engine::fake::{Behaviour, FakeMachine};
use engine::router::Router;
use engine::{Container, ContainerKind, Engine, EngineError, Known, Launch, Readiness, TaskSpec, since_boot};
use scheduler::ids::{Epoch, TaskId};
use scheduler::run::AttemptEnd;

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
