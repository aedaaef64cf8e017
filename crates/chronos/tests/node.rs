//! A node on a store in memory and a fake engine: what the driver adds to the rules. Here terms and hand-overs; in `node/`
//! the rest, by who makes trouble.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use chronos::node::{Acquaintance, AskError, Node, NodeOptions, NodeTask, Role, start};
use engine::fake::{Behaviour, FakeMachine};
use engine::{Engine, EngineError, Forgotten, Keep, Known, Launch, Output, Readiness, Stream, TaskEvent};
use jiff::SignedDuration;
use scheduler::audit::Author;
use scheduler::ids::{Epoch, JobName, TaskId};
use scheduler::job::{Retry, Rules};
use scheduler::limits::Limits;
use scheduler::request::{Answer, Definition, Manner, PlanText, Refusal, Request};
use scheduler::run::{AttemptEnd, Outcome, Record};
use scheduler::schedule::DstPolicy;
use store::memory::{MemoryCore, MemoryStore};
use store::sqlite::{SqliteOptions, SqliteStore};
use store::{Candidate, HistoryQuery, Retention, Store, StoreError};

#[path = "node/clock.rs"]
mod clock;
#[path = "node/engines.rs"]
mod engines;
#[path = "node/spread.rs"]
mod spread;

struct Cluster {
    machine: FakeMachine,
    store: MemoryStore,
}

impl Cluster {
    fn new() -> Self {
        Self { machine: FakeMachine::new(), store: MemoryStore::new(MemoryCore::new(1)) }
    }

    fn start(&self, name: &str) -> (Node, NodeTask) {
        self.start_with(name, Arc::new(self.machine.engine()))
    }

    fn start_with(&self, name: &str, engine: Arc<dyn Engine>) -> (Node, NodeTask) {
        Self::start_on(self.store.another(), name, engine)
    }

    fn start_on(store: MemoryStore, name: &str, engine: Arc<dyn Engine>) -> (Node, NodeTask) {
        Self::start_as(Acquaintance::default(), Arc::new(store), name, engine)
    }

    fn start_as(
        acquaintance: Acquaintance,
        store: Arc<dyn Store>,
        name: &str,
        engine: Arc<dyn Engine>,
    ) -> (Node, NodeTask) {
        start(NodeOptions {
            identity: Candidate { node: name.into(), ..Candidate::default() },
            store,
            acquaintance,
            heritage: None,
            engine,
            zones: scheduler::schedule::Zones::bundled(),
            retention: Retention {
                age_max: Duration::from_secs(3600),
                count_max: 1000,
                ..Retention::UNBOUNDED
            },
            output: Keep::EVERYTHING,
            kill_grace: Duration::from_secs(1),
            disable_after_failures: 0,
            retry_delay: scheduler::job::Retry::DELAY,
            limits: Limits::default(),
            notifier: Arc::default(),
        })
    }

    async fn outcomes(&self, job: &str) -> Vec<Outcome> {
        let query = HistoryQuery { name: Some(job.into()), ..HistoryQuery::default() };
        let records = self.store.history(&query).await.unwrap().records;
        let outcome = |record| match record {
            Record::Run(run) => run.outcome,
            Record::Range(range) => range.outcome,
        };
        records.into_iter().map(outcome).collect()
    }
}

/// Waits until it holds, with a bound, looking again after every change of nothing in particular.
async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    for _ in 0..24_000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not within two minutes: {what}");
}

async fn leads(node: &Node) {
    eventually("the node leads", || async { matches!(node.status().role, Role::Leading(_)) }).await;
}

fn name(text: &str) -> JobName {
    JobName::new(text).unwrap()
}

fn put(job: &str, schedule: &str) -> Request {
    let plan = PlanText::Schedule { text: schedule.into(), zone: "".into(), dst: DstPolicy::default() };
    Request::Put(Definition {
        name: name(job),
        plan,
        rules: Rules::default(),
        body: "{\"command\":\"true\"}".into(),
    })
}

/// Who asks beside the API, as whoever takes over the jobs of an old Chronos does, is told as well that there is no room.
#[tokio::test]
async fn a_full_store_takes_no_more_jobs_whoever_asks() {
    let cluster = Cluster::new();
    let (node, task) = cluster.start("n1");
    leads(&node).await;
    node.ask(put("a", "R1/2100-01-01T00:00:00Z/PT1H")).await.unwrap();
    cluster.store.set_full(Some("it has 1 job"));
    let Request::Put(b) = put("b", "R1/2100-01-01T00:00:00Z/PT1H") else { unreachable!("it is one") };
    let set = Request::Apply { definitions: vec![b.clone()], manner: Manner::Do };
    let by = Request::By { author: Author::new("import", "from ZooKeeper"), request: Box::new(set) };
    for request in [Request::Put(b.clone()), by.clone()] {
        assert_eq!(node.ask(request).await, Err(AskError::Full("it has 1 job".into())));
    }
    node.ask(put("a", "R1/2101-01-01T00:00:00Z/PT1H")).await.unwrap();
    node.ask(Request::Delete(name("a"))).await.unwrap();
    cluster.store.set_full(None);
    node.ask(by).await.unwrap();
    task.shutdown().await;
}

#[tokio::test]
async fn a_job_runs_and_its_answer_is_visible_to_reads_that_wait_for_it() {
    let cluster = Cluster::new();
    let (node, task) = cluster.start("n1");
    leads(&node).await;
    let (answer, seq) = node.ask(put("a", "R1//PT1H")).await.unwrap();
    assert!(matches!(answer, Answer::Put { version: 1, changed: true, .. }), "{answer:?}");
    assert!(node.projection.wait_for(seq, Duration::from_secs(60)).await);
    assert!(node.projection.read().job(&name("a")).is_some());
    eventually("it succeeds", || async { cluster.outcomes("a").await == [Outcome::Succeeded] }).await;
    let refused = node.ask(Request::Delete(name("b"))).await;
    assert_eq!(refused, Err(AskError::Refused(Refusal::NoSuchJob(name("b")))));
    task.shutdown().await;
    assert_eq!(node.ask(put("c", "R1//PT1H")).await, Err(AskError::NotLeading));
    assert!(cluster.store.leader().await.is_none(), "a stopped node resigns");
}

#[tokio::test]
async fn a_standby_takes_over_from_what_it_has_followed() {
    let cluster = Cluster::new();
    let (first, first_task) = cluster.start("n1");
    leads(&first).await;
    let (second, second_task) = cluster.start("n2");
    eventually("the second follows", || async { cluster.store.loads() == 2 }).await;
    let (_, seq) = first.ask(put("a", "R1//PT1H")).await.unwrap();
    assert!(second.projection.wait_for(seq, Duration::from_secs(60)).await);
    first_task.shutdown().await;
    leads(&second).await;
    assert_eq!(
        cluster.store.loads(),
        2,
        "the first loaded at its election, the second as it began to follow"
    );
    let (state, _) = cluster.store.load().await.unwrap();
    assert_eq!(second.projection.read().state(), &state);
    let (answer, _) = second.ask(put("a", "R1//PT2H")).await.unwrap();
    assert!(matches!(answer, Answer::Put { version: 2, .. }), "{answer:?}");
    second_task.shutdown().await;
}

/// As in the middle of an upgrade, if a format has changed: who cannot read does not hold up those who can.
#[tokio::test]
async fn who_cannot_read_the_store_leaves_it_to_others() {
    let cluster = Cluster::new();
    let engine = Arc::new(cluster.machine.engine());
    let (old, old_task) = Cluster::start_on(cluster.store.another_version(), "old", engine);
    eventually("it says why it does not lead", || async {
        old.status().troubles.iter().any(|why| why.contains("a record of another version"))
    })
    .await;
    let (new, new_task) = cluster.start("new");
    leads(&new).await;
    new.ask(put("a", "R1//PT1H")).await.unwrap();
    new_task.shutdown().await;
    old_task.shutdown().await;
}

/// A term is written down, and is the work of whoever won: a node that is to work on another store does not stand.
#[tokio::test]
async fn who_expects_another_store_begins_no_term() {
    let (cluster, folder) = (Cluster::new(), tempfile::tempdir().unwrap());
    let options = SqliteOptions { dir: folder.path().into(), force_network_fs: false };
    let store = Arc::new(SqliteStore::open(&options).unwrap());
    let id = store.store_id().await.unwrap().unwrap();
    let before = store.present().await.unwrap();
    let start = |expected: &str| {
        let acquaintance = Acquaintance { file: None, expected: Some(expected.into()) };
        Cluster::start_as(acquaintance, store.clone(), "n1", Arc::new(cluster.machine.engine()))
    };
    let (wrong, wrong_task) = start("0123");
    eventually("it says why it does not lead", || async {
        wrong
            .status()
            .troubles
            .iter()
            .any(|why| why.contains(&id) && why.contains("--expect_store wants 0123"))
    })
    .await;
    assert_eq!(store.present().await, Ok(before), "it was elected first");
    wrong_task.shutdown().await;
    let (right, right_task) = start(&id);
    leads(&right).await;
    right_task.shutdown().await;
}

/// As it says by itself in `/ready`.
async fn says(node: &Node, what: &str) {
    let says = || async { node.status().troubles.iter().any(|why| why.contains(what)) };
    eventually(&format!("it says: {what}"), says).await;
}

#[tokio::test]
async fn a_deposed_node_steps_down_and_its_successor_adopts_what_runs() {
    let cluster = Cluster::new();
    cluster.machine.script(|_| Behaviour::Run);
    let (first, first_task) = cluster.start("n1");
    leads(&first).await;
    let (second, second_task) = cluster.start("n2");
    first.ask(put("a", "R1//PT1H")).await.unwrap();
    eventually("it runs", || async { cluster.machine.running().len() == 1 }).await;

    let epoch = |node: &Node| if let Role::Leading(epoch) = node.status().role { epoch.0 } else { 0 };
    let before = epoch(&first);
    cluster.store.expire();
    eventually("another term begins", || async { epoch(&second).max(epoch(&first)) > before }).await;
    let late = first.ask(put("late", "R1//PT1H")).await;
    if epoch(&second) > before {
        assert!(matches!(late, Err(AskError::NotLeading | AskError::OutcomeUnknown)), "{late:?}");
    }
    for task in cluster.machine.running() {
        cluster.machine.end(&task, AttemptEnd::Succeeded);
    }
    eventually("it succeeds", || async { cluster.outcomes("a").await == [Outcome::Succeeded] }).await;
    let begun: Vec<_> =
        cluster.machine.begun().into_iter().filter(|(_, t)| t.as_str().starts_with("a-")).collect();
    assert_eq!(begun.len(), 1, "{begun:?}");
    first_task.shutdown().await;
    second_task.shutdown().await;
}

/// Says by itself what it is given to say; while its gate is held it does not say how it is, and keeps who asks waiting,
/// thread and all.
struct Directed<E> {
    engine: E,
    gate: Mutex<()>,
    says: tokio::sync::mpsc::UnboundedSender<TaskEvent>,
    said: tokio::sync::Mutex<tokio::sync::mpsc::UnboundedReceiver<TaskEvent>>,
    /// How often it has said something.
    told: AtomicU64,
    /// How often it was asked for more since.
    heard: AtomicU64,
    /// Kills that it was ordered, where it answers none.
    deaf: Option<AtomicU64>,
    /// Whether it takes no lease now.
    is_away: AtomicBool,
    /// Those that it was given, or was to take.
    leases: Mutex<Vec<Option<Duration>>>,
    /// Whether the next question for its readiness ends who asks.
    is_broken: AtomicBool,
}

impl<E> Directed<E> {
    fn new(engine: E) -> Arc<Self> {
        let (says, said) = tokio::sync::mpsc::unbounded_channel();
        let said = tokio::sync::Mutex::new(said);
        let never = || AtomicU64::new(0);
        Arc::new(Self {
            engine,
            gate: Mutex::default(),
            says,
            said,
            told: never(),
            heard: never(),
            deaf: None,
            is_away: AtomicBool::default(),
            leases: Mutex::default(),
            is_broken: AtomicBool::default(),
        })
    }

    /// Says what its engine says, and answers no kill.
    fn deaf(engine: E) -> Arc<Self> {
        let mut this = Self::new(engine);
        Arc::get_mut(&mut this).unwrap().deaf = Some(AtomicU64::new(0));
        this
    }
}

#[async_trait]
impl<E: Engine> Engine for Directed<E> {
    fn name(&self) -> &'static str {
        self.engine.name()
    }

    async fn begin_term(&self, epoch: Epoch) -> Result<(), EngineError> {
        self.engine.begin_term(epoch).await
    }

    async fn launch(&self, epoch: Epoch, launch: Launch) -> Result<Known, EngineError> {
        self.engine.launch(epoch, launch).await
    }

    async fn kill(&self, epoch: Epoch, task: &TaskId, a: Duration, b: Duration) -> Result<(), EngineError> {
        if let Some(kills) = &self.deaf {
            kills.fetch_add(1, Ordering::SeqCst);
            std::future::pending().await
        }
        self.engine.kill(epoch, task, a, b).await
    }

    async fn reconcile(&self, epoch: Epoch, tasks: &[TaskId]) -> Result<Vec<Known>, EngineError> {
        self.engine.reconcile(epoch, tasks).await
    }

    async fn events(&self) -> Vec<TaskEvent> {
        if self.told.load(Ordering::SeqCst) > 0 {
            self.heard.fetch_add(1, Ordering::SeqCst);
        }
        let mut said = self.said.lock().await;
        tokio::select! {
            biased;
            Some(event) = said.recv() => {
                self.told.fetch_add(1, Ordering::SeqCst);
                vec![event]
            }
            events = self.engine.events() => events,
        }
    }

    async fn acknowledge(&self, tasks: &[TaskId]) -> Result<(), EngineError> {
        self.engine.acknowledge(tasks).await
    }

    async fn output(&self, task: &TaskId, stream: Stream, from: u64) -> Result<Output, EngineError> {
        self.engine.output(task, stream, from).await
    }

    async fn renew_lease(&self, until: Option<Duration>) -> Result<(), EngineError> {
        self.leases.lock().unwrap().push(until);
        if self.is_away.load(Ordering::SeqCst) {
            return Err(EngineError::Unknown("it is away".into()));
        }
        self.engine.renew_lease(until).await
    }

    fn readiness(&self) -> Readiness {
        assert!(!self.is_broken.load(Ordering::SeqCst), "a defect, for the test");
        drop(self.gate.lock());
        self.engine.readiness()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_that_does_not_come_back_is_silent() {
    let cluster = Cluster::new();
    let engine = Directed::new(cluster.machine.engine());
    let (node, task) = cluster.start_with("n1", engine.clone());
    leads(&node).await;
    let is_silent = |seconds| node.pulse.silence() > Duration::from_secs(seconds);
    let begun = std::time::Instant::now();
    let later = || begun.elapsed() > Duration::from_secs(3);
    eventually("an idle one beats, three seconds on", || async { later() && !is_silent(2) }).await;
    let (open, opened) = std::sync::mpsc::channel::<()>();
    let closed = std::thread::spawn(move || {
        let _closed = engine.gate.lock().unwrap();
        opened.recv()
    });
    // A thread that is held may be the one that looks after the timers: this one waits by itself.
    let waited = std::time::Instant::now();
    while !is_silent(3) {
        assert!(waited.elapsed() < Duration::from_secs(120), "a step that does not come back is not noticed");
        std::thread::sleep(Duration::from_millis(5));
    }
    open.send(()).unwrap();
    closed.join().unwrap().unwrap();
    eventually("it beats again", || async { !is_silent(1) }).await;
    task.shutdown().await;
}

/// It keeps nothing that another node could use, and says what is to be done.
#[tokio::test]
async fn a_scheduler_that_ends_by_a_defect_lets_others_lead() {
    let cluster = Cluster::new();
    let engine = Directed::new(cluster.machine.engine());
    let (first, first_task) = cluster.start_with("n1", engine.clone());
    leads(&first).await;
    let (second, second_task) = cluster.start("n2");
    engine.is_broken.store(true, Ordering::SeqCst);
    leads(&second).await;
    says(&first, "ended by a defect").await;
    assert_eq!(first.status().role, Role::Standby);
    second_task.shutdown().await;
    first_task.shutdown().await;
}

/// Whoever leads no more says so before it asks anything of a store that may not answer.
#[tokio::test]
async fn who_is_deposed_says_so_at_once() {
    let cluster = Cluster::new();
    let (node, task) = cluster.start("n1");
    leads(&node).await;
    node.ask(put("a", "R1//PT1H")).await.unwrap();
    let other = cluster.store.another();
    cluster.store.set_stuck(&["store_id"]);
    cluster.store.expire();
    other.begin_term(&Candidate { node: "n2".into(), ..Candidate::default() }).await.unwrap();
    node.ask(put("b", "R1//PT1H")).await.unwrap_err();
    eventually("it says so", || async { node.status().role == Role::Standby }).await;
    cluster.store.set_stuck(&[]);
    task.shutdown().await;
}

/// What a standby was asking for when it was elected, and what was not answered at first, is shown in the end.
#[tokio::test]
async fn how_jobs_have_ended_is_learned_by_who_is_elected_meanwhile() {
    let cluster = Cluster::new();
    let (first, first_task) = cluster.start("n1");
    leads(&first).await;
    first.ask(put("a", "R1//PT1H")).await.unwrap();
    eventually("it has run", || async { cluster.outcomes("a").await == [Outcome::Succeeded] }).await;
    cluster.store.set_stuck(&["last_runs"]);
    let (second, second_task) = cluster.start("n2");
    eventually("it asks how jobs have ended", || async { cluster.store.unanswered() > 0 }).await;
    first_task.shutdown().await;
    leads(&second).await;
    cluster.store.set_stuck(&[]);
    let shown = || {
        let projection = second.projection.read();
        projection.job(&name("a")).is_some_and(|job| projection.last_run(job.uid).is_some())
    };
    eventually("it is shown", || async { shown() }).await;
    second_task.shutdown().await;
}

/// A node that is dead is not heard of for as long as its connections are tried.
#[tokio::test(start_paused = true)]
async fn who_does_not_answer_holds_up_no_planned_hand_over() {
    let cluster = Cluster::new();
    cluster.machine.script(|_| Behaviour::Run);
    let engine = Directed::deaf(cluster.machine.engine());
    let (node, task) = cluster.start_with("n1", engine.clone());
    leads(&node).await;
    node.ask(put("a", "R1//PT1H")).await.unwrap();
    eventually("it runs", || async { cluster.machine.running().len() == 1 }).await;
    node.ask(Request::KillJob(name("a"))).await.unwrap();
    let kills = || engine.deaf.as_ref().is_some_and(|kills| kills.load(Ordering::SeqCst) > 0);
    eventually("it is to be ended", || async { kills() }).await;
    let begun = tokio::time::Instant::now();
    task.shutdown().await;
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_flood_of_requests_is_answered_whole() {
    let cluster = Cluster::new();
    let (node, task) = cluster.start("n1");
    leads(&node).await;
    let asks = (0..2000).map(|n| {
        let node = node.clone();
        tokio::spawn(async move { node.ask(put(&format!("j{n}"), "R/2100-01-01T00:00:00Z/P1D")).await })
    });
    let mut highest = 0;
    for ask in asks.collect::<Vec<_>>() {
        let (_, seq) = ask.await.unwrap().unwrap();
        highest = highest.max(seq.0);
    }
    assert_eq!(node.projection.read().state().jobs.len(), 2000);
    assert!(highest < 2000, "requests that wait together share a commit: {highest}");
    task.shutdown().await;
}

/// All due at one instant: the ends of the first come while the last are being launched, and each makes room for more.
#[tokio::test]
async fn a_herd_does_not_depose_its_leader() {
    const HERD: usize = 4000;
    let cluster = Cluster::new();
    let (node, task) = cluster.start("n1");
    leads(&node).await;
    let term = node.status().role;
    let due = jiff::Timestamp::now().checked_add(Duration::from_secs(5)).unwrap();
    let definition = |n| match put(&format!("herd-{n}"), &format!("R1/{due}/P1D")) {
        Request::Put(definition) => definition,
        other => unreachable!("{other:?}"),
    };
    for first in (0..HERD).step_by(100) {
        let definitions = (first..first + 100).map(definition).collect();
        node.ask(Request::Apply { definitions, manner: Manner::Do }).await.unwrap();
    }
    eventually("all have succeeded", || async {
        let projection = node.projection.read();
        projection.state().progress.values().map(|progress| progress.successes).sum::<u64>() == HERD as u64
    })
    .await;
    assert_eq!(node.status().role, term, "one term saw it through");
    assert_eq!(cluster.machine.begun().len(), HERD, "each was started once");
    task.shutdown().await;
}
