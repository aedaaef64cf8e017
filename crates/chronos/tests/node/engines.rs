//! Engines that are not ready, lose orders or answers, and start anew.

use super::*;

#[tokio::test]
async fn while_the_engine_is_not_ready_runs_wait_and_the_status_says_why() {
    let cluster = Cluster::new();
    cluster.machine.set_readiness(Readiness::NotReady { reason: "on holiday".into() });
    let (node, task) = cluster.start("n1");
    leads(&node).await;
    node.ask(put("a", "R1//PT1H")).await.unwrap();
    eventually("it says why", || async { node.status().troubles.iter().any(|t| t.contains("on holiday")) })
        .await;
    assert!(cluster.machine.begun().is_empty());
    cluster.machine.set_readiness(Readiness::Ready);
    eventually("it succeeds", || async { cluster.outcomes("a").await == [Outcome::Succeeded] }).await;
    task.shutdown().await;
}

#[tokio::test]
async fn a_launch_whose_order_or_answer_was_lost_is_settled_without_a_second_start() {
    let cluster = Cluster::new();
    cluster.machine.script(|launch| match launch.task.as_str().starts_with("order") {
        true => Behaviour::LoseOrder,
        false => Behaviour::LoseAnswer,
    });
    let (node, task) = cluster.start("n1");
    leads(&node).await;
    node.ask(put("order", "R1//PT1H")).await.unwrap();
    node.ask(put("answer", "R1//PT1H")).await.unwrap();
    eventually("both orders are given", || async { cluster.machine.running().len() == 1 }).await;
    cluster.machine.script(|_| Behaviour::Run);
    eventually("the lost order is repeated", || async { cluster.machine.running().len() == 2 }).await;
    assert_eq!(cluster.machine.begun().len(), 2);
    task.shutdown().await;
}

/// The order is refused by its age, so that "never began" may be believed, and the run is ordered anew.
#[tokio::test]
async fn a_launch_that_arrives_late_is_refused_and_the_run_is_started_once() {
    let cluster = Cluster::new();
    let late = Duration::from_millis(10_200);
    let orders = Mutex::new(HashMap::new());
    cluster.machine.script(move |launch| {
        let mut orders = orders.lock().unwrap();
        let number: &mut u32 = orders.entry(launch.task.clone()).or_default();
        *number += 1;
        match (*number, launch.task.as_str().starts_with("slow")) {
            (1, true) => Behaviour::Late(late, Box::new(Behaviour::Run)),
            // In time, but after the answer was given up: it runs, and that is found out.
            (1, false) => Behaviour::Late(late / 20, Box::new(Behaviour::Run)),
            _ => Behaviour::Run,
        }
    });
    let (node, task) = cluster.start("n1");
    leads(&node).await;
    node.ask(put("slow", "R1//PT1H")).await.unwrap();
    node.ask(put("fast", "R1//PT1H")).await.unwrap();
    eventually("the late order arrives", || async { cluster.machine.too_late().len() == 1 }).await;
    eventually("both run", || async { cluster.machine.running().len() == 2 }).await;
    let begun = cluster.machine.begun();
    assert_eq!(begun.len(), 2, "{begun:?}");
    assert!(cluster.machine.too_late()[0].as_str().starts_with("slow"));
    task.shutdown().await;
}

#[tokio::test]
async fn an_engine_that_starts_anew_is_told_of_the_term_and_asked_for_its_tasks() {
    let cluster = Cluster::new();
    cluster.machine.script(|_| Behaviour::Run);
    let (node, task) = cluster.start("n1");
    leads(&node).await;
    node.ask(put("a", "R1//PT1H")).await.unwrap();
    eventually("it runs", || async { cluster.machine.running().len() == 1 }).await;
    cluster.machine.restart_without_memory();
    eventually("what never began is begun", || async { cluster.machine.running().len() == 1 }).await;
    node.ask(put("b", "R1//PT1H")).await.unwrap();
    eventually("later jobs run", || async { cluster.machine.running().len() == 2 }).await;
    assert_eq!(cluster.machine.begun().len(), 3);
    task.shutdown().await;
}

/// What an engine says of a task by itself while its launch is on its way to the store is about the time before it.
#[tokio::test]
async fn what_is_being_launched_was_not_missed_by_its_engine() {
    let cluster = Cluster::new();
    cluster.machine.script(|_| Behaviour::Run);
    let engine = Directed::new(cluster.machine.engine());
    let (node, task) = cluster.start_with("n1", engine.clone());
    leads(&node).await;
    node.ask(put("a", "R1/2100-01-01T00:00:00Z/PT1H")).await.unwrap();
    let uid = node.projection.read().job(&name("a")).unwrap().uid;
    let run = scheduler::ids::RunKey { job: uid, cause: scheduler::ids::Cause::Trigger(1) };
    let launched = TaskId::of(&name("a"), run, 0);
    cluster.store.set_held(true);
    let asker = node.clone();
    let asked = tokio::spawn(async move {
        asker.ask(Request::Trigger { job: name("a"), arguments: None }).await.unwrap().0
    });
    eventually("its launch is decided", || async { cluster.store.waiting() > 0 }).await;
    engine.says.send(TaskEvent { task: launched.clone(), known: Known::NeverBegan }).unwrap();
    eventually("the engine is heard", || async { engine.heard.load(Ordering::SeqCst) > 0 }).await;
    assert!(cluster.machine.begun().is_empty(), "before that is durable");
    cluster.store.set_held(false);
    assert_eq!(asked.await.unwrap(), Answer::Triggered(run));
    eventually("it runs", || async { !cluster.machine.running().is_empty() }).await;
    let known = |node: &Node| match node.projection.read().state().runs.get(&run).map(|run| &run.state) {
        Some(scheduler::run::RunState::Running(live)) => live.task == launched && live.started.is_some(),
        _ => false,
    };
    let is_over = || cluster.machine.running().is_empty();
    eventually("its engine is heard again", || async { known(&node) || is_over() }).await;
    assert!(!is_over(), "it was ended for what was said before it began");
    cluster.machine.end(&launched, AttemptEnd::Succeeded);
    eventually("it succeeds", || async { cluster.outcomes("a").await == [Outcome::Succeeded] }).await;
    assert_eq!(cluster.machine.begun().len(), 1);
    task.shutdown().await;
}

/// Starts anew while it launches a task, and says that it runs only when it has been told of the term again.
#[derive(Default)]
struct Mortal {
    terms: AtomicU64,
    followed: tokio::sync::Notify,
    lives: AtomicU64,
    tidied: AtomicU64,
}

#[async_trait]
impl Engine for Mortal {
    fn name(&self) -> &'static str {
        "mortal"
    }

    fn incarnation(&self) -> u64 {
        self.lives.load(Ordering::SeqCst)
    }

    async fn begin_term(&self, _: Epoch) -> Result<(), EngineError> {
        if self.terms.fetch_add(1, Ordering::SeqCst) > 0 {
            self.followed.notify_one();
        }
        Ok(())
    }

    async fn launch(&self, _: Epoch, _: Launch) -> Result<Known, EngineError> {
        self.lives.fetch_add(1, Ordering::SeqCst);
        self.followed.notified().await;
        Ok(Known::Running)
    }

    async fn kill(&self, _: Epoch, _: &TaskId, _: Duration, _: Duration) -> Result<(), EngineError> {
        Ok(())
    }

    async fn reconcile(&self, _: Epoch, tasks: &[TaskId]) -> Result<Vec<Known>, EngineError> {
        Ok(vec![Known::Ended(AttemptEnd::Lost { message: "its engine is gone".into() }); tasks.len()])
    }

    async fn events(&self) -> Vec<TaskEvent> {
        std::future::pending().await
    }

    async fn acknowledge(&self, _: &[TaskId]) -> Result<(), EngineError> {
        Ok(())
    }

    async fn output(&self, task: &TaskId, _: Stream, _: u64) -> Result<Output, EngineError> {
        Err(EngineError::NoSuchTask(task.clone()))
    }

    async fn forget_old(&self, _: Keep) -> Result<Forgotten, EngineError> {
        self.tidied.fetch_add(1, Ordering::SeqCst);
        Ok(Forgotten::default())
    }

    fn readiness(&self) -> Readiness {
        Readiness::Ready
    }
}

#[tokio::test]
async fn a_task_whose_engine_starts_anew_while_it_is_launched_is_asked_for() {
    let cluster = Cluster::new();
    let (node, task) = cluster.start_with("n1", Arc::new(Mortal::default()));
    leads(&node).await;
    let Request::Put(definition) = put("a", "R1//PT1H") else { unreachable!() };
    let rules = Rules { retry: Retry { max: 0, ..Retry::default() }, ..definition.rules };
    node.ask(Request::Put(Definition { rules, ..definition })).await.unwrap();
    let lost = || async { cluster.outcomes("a").await == [Outcome::Lost] };
    eventually("nobody waits for it for ever", lost).await;
    task.shutdown().await;
}

/// What it has of the tasks of its last term is there for as long as elsewhere.
#[tokio::test]
async fn old_output_is_removed_where_nobody_leads_too() {
    let cluster = Cluster::new();
    let (leader, leading) = cluster.start("n1");
    leads(&leader).await;
    let engine = Arc::new(Mortal::default());
    let (standby, standing) = cluster.start_with("n2", engine.clone());
    eventually("it is looked for", || async { engine.tidied.load(Ordering::SeqCst) > 0 }).await;
    assert!(!matches!(standby.status().role, Role::Leading(_)));
    standing.shutdown().await;
    leading.shutdown().await;
}
