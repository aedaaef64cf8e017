//! The fake engine keeps the contract, and does as scripted.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use engine::conformance::{Lab, ends_of, order, task};
use engine::fake::{Behaviour, FakeMachine};
use engine::{Engine, EngineError, Known, Readiness, Stream};
use scheduler::ids::{Epoch, TaskId};
use scheduler::run::AttemptEnd;

struct FakeLab(FakeMachine);

impl FakeLab {
    fn new() -> Self {
        let machine = FakeMachine::new();
        machine.script(|launch| match launch.spec.command.as_str() {
            "true" => Behaviour::End(AttemptEnd::Succeeded),
            "exit 3" => {
                Behaviour::End(AttemptEnd::Failed { exit: Some(3), signal: None, message: "".into() })
            }
            _ => Behaviour::Run,
        });
        Self(machine)
    }
}

#[async_trait]
impl Lab for FakeLab {
    async fn open(&self) -> Box<dyn Engine> {
        Box::new(self.0.engine())
    }

    fn command(&self, command: &str) -> String {
        command.into()
    }

    fn starts(&self, task: &TaskId) -> usize {
        self.0.begun().iter().filter(|(_, begun)| begun == task).count()
    }

    async fn restart(&self) {}

    fn scratch(&self) -> PathBuf {
        PathBuf::new()
    }
}

engine::contract_tests!(FakeLab::new());

#[tokio::test]
async fn orders_and_answers_are_lost_on_command() {
    let machine = FakeMachine::new();
    let engine = machine.engine();
    engine.begin_term(Epoch(1)).await.expect("begins");
    machine.script(|_| Behaviour::LoseOrder);
    assert!(matches!(engine.launch(Epoch(1), order("a-0", "")).await, Err(EngineError::Unknown(_))));
    machine.script(|_| Behaviour::LoseAnswer);
    assert!(matches!(engine.launch(Epoch(1), order("b-0", "")).await, Err(EngineError::Unknown(_))));
    machine.script(|_| Behaviour::Refuse("full".into()));
    assert_eq!(engine.launch(Epoch(1), order("c-0", "")).await, Err(EngineError::Refused("full".into())));
    let known = engine.reconcile(Epoch(1), &[task("a-0"), task("b-0"), task("c-0")]).await;
    assert_eq!(known, Ok(vec![Known::NeverBegan, Known::Running, Known::NeverBegan]));
    machine.end(&task("b-0"), AttemptEnd::failed("on command"));
    assert_eq!(ends_of(&engine, &["b-0"]).await, [AttemptEnd::failed("on command")]);
    assert_eq!(machine.begun(), [(Epoch(1), task("b-0"))]);
}

#[tokio::test]
async fn a_delayed_order_is_checked_on_arrival() {
    let machine = FakeMachine::new();
    let now = Arc::new(AtomicU64::new(10));
    let clock = now.clone();
    machine.clock(move || Duration::from_secs(clock.load(Ordering::SeqCst)));
    let delay = Duration::from_millis(20);
    machine.script(move |_| Behaviour::Delay(delay, Box::new(Behaviour::Run)));
    let engine = machine.engine();
    engine.begin_term(Epoch(1)).await.expect("begins");
    let mut launch = order("a-0", "");
    launch.not_after = Duration::from_secs(11);
    let (late, ()) = tokio::join!(engine.launch(Epoch(1), launch), async { now.store(12, Ordering::SeqCst) });
    assert_eq!(late, Err(EngineError::TooLate));
    assert!(machine.begun().is_empty());
}

#[tokio::test]
async fn a_stubborn_task_ends_after_its_grace() {
    let machine = FakeMachine::new();
    machine.script(|_| Behaviour::RunStubbornly);
    let engine = machine.engine();
    engine.begin_term(Epoch(1)).await.expect("begins");
    let launch = order("a-0", "");
    let soon = launch.not_after;
    engine.launch(Epoch(1), launch).await.expect("launched");
    engine.kill(Epoch(1), &task("a-0"), Duration::from_millis(5), soon).await.expect("taken");
    assert_eq!(machine.running(), [task("a-0")]);
    assert_eq!(ends_of(&engine, &["a-0"]).await, [AttemptEnd::Killed]);
}

#[tokio::test]
async fn output_and_readiness_are_as_told() {
    let machine = FakeMachine::new();
    machine.script(|_| Behaviour::Run);
    let engine = machine.engine();
    engine.begin_term(Epoch(1)).await.expect("begins");
    engine.launch(Epoch(1), order("a-0", "")).await.expect("launched");
    machine.write(&task("a-0"), Stream::Stdout, b"hello");
    let output = engine.output(&task("a-0"), Stream::Stdout, 1).await.expect("there");
    assert_eq!((output.bytes.as_slice(), output.next, output.complete), (&b"ello"[..], 5, false));
    machine.set_readiness(Readiness::NotReady { reason: "no disk".into() });
    assert_eq!(engine.readiness(), Readiness::NotReady { reason: "no disk".into() });
}
