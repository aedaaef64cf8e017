//! Effects: what a released decision does in the world, and what the world says to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use engine::{Engine, EngineError, Known, Launch, Readiness, TaskSpec};
use jiff::Timestamp;
use metrics::{counter, histogram};
use scheduler::ids::{Epoch, TaskId};
use scheduler::notice::{NoticeId, Sent};
use scheduler::run::RunState;
use scheduler::{Effect, TaskNews};
use tokio::sync::{OwnedRwLockReadGuard, RwLock, Semaphore, mpsc};
use tracing::{debug, info, warn};

use crate::wire::task_spec;

/// An order that has not reached its engine by then is stale: the leader that gave it may be deposed.
const ORDER_VALID: Duration = Duration::from_secs(10);
/// Before an engine that did not answer is asked again.
const ENGINE_RETRY: Duration = Duration::from_secs(1);
/// Between two tries to end a task, after some: its node may be dead.
const KILL_RETRY_MAX: Duration = Duration::from_secs(8);
/// Before a task that nobody could tell anything about is asked for again.
const UNKNOWN_RETRY: Duration = Duration::from_secs(5);
/// After so long a term has launched what was due when it began.
const ADOPTED_WITHIN: Duration = Duration::from_secs(5);
/// The same reason why nothing is launched, or ended, is told again after so long.
const REFUSAL_TOLD_EVERY: Duration = Duration::from_secs(60);
/// At the end of a term orders that may begin a task are waited for so long: one that is lost with this process leaves a task
/// of which nobody can tell while the node is away.
const BEGUN_WITHIN: Duration = Duration::from_secs(2);
/// And all others for so long, a small part of what a planned hand-over may take: whoever leads next gives them again, and
/// they may go to a node that is dead.
const DONE_WITHIN: Duration = Duration::from_millis(100);
/// Orders on their way to an engine at once.
const ORDERS_MAX: usize = 512;
/// Tasks in one reconciliation.
const RECONCILE_MAX: usize = 256;

/// What comes back from the world.
pub(super) enum Report {
    /// The engine, in this incarnation, follows this term.
    Follows { incarnation: u64 },
    /// What became of an order to launch, given to this incarnation of the engine.
    Launched { task: TaskId, news: TaskNews, incarnation: u64 },
    /// Something is known of a task.
    News(TaskId, TaskNews),
    /// What became of sending a notice.
    Sent(NoticeId, Sent),
    /// The engine follows a later term.
    Deposed(String),
}

/// Carries effects out, for one term.
#[derive(Clone)]
pub(super) struct Effects {
    engine: Arc<dyn Engine>,
    epoch: Epoch,
    grace: Duration,
    reports: mpsc::UnboundedSender<Report>,
    /// Of each engine by its place, so that none waits behind another.
    orders: Arc<Mutex<BTreeMap<usize, Arc<Semaphore>>>>,
    /// Shared by the orders under way that may begin a task.
    beginning: Arc<RwLock<()>>,
    /// Shared by all others.
    ending: Arc<RwLock<()>>,
    open: Arc<Mutex<Open>>,
}

/// What the engine has not settled yet. Orders, questions and their answers overtake each other on their way.
#[derive(Default)]
struct Open {
    /// Launches that were released and whose fate is not known yet. Each is settled by who gave the order: to ask for it
    /// while it may still be on its way would take "never began" for "never will".
    launches: BTreeSet<TaskId>,
    /// Number of the last question.
    asked: u64,
    /// The last question about each task. Only its answer counts: that of an older one may be from before the launch
    /// that came of the other's.
    questions: BTreeMap<TaskId, u64>,
    /// Tasks that are to be ended, and have not been yet.
    kills: BTreeSet<TaskId>,
    /// Why the engine refused a launch, and a kill, last.
    refused: Told,
    unended: Told,
}

/// What the log was told of refusals, so that it is not told the same once a second.
#[derive(Default)]
struct Told(Option<(String, Instant)>);

impl Told {
    /// Whether the log has not been told so lately.
    fn is_news(&mut self, problem: &EngineError) -> bool {
        let problem = problem.to_string();
        let known = self.0.as_ref();
        let news = known.is_none_or(|(last, at)| *last != problem || at.elapsed() >= REFUSAL_TOLD_EVERY);
        if news {
            self.0 = Some((problem, Instant::now()));
        }
        news
    }
}

impl Open {
    fn ask(&mut self, tasks: &[TaskId]) -> u64 {
        self.asked += 1;
        self.questions.extend(tasks.iter().map(|task| (task.clone(), self.asked)));
        self.asked
    }

    fn is_last(&self, question: u64, task: &TaskId) -> bool {
        self.questions.get(task) == Some(&question)
    }

    /// Whether the answer of this question counts; if it is definite, the question is settled.
    fn answered(&mut self, question: u64, task: &TaskId, known: &Known) -> bool {
        let counts = self.is_last(question, task);
        if counts && *known != Known::Unknown {
            self.questions.remove(task);
        }
        counts
    }

    /// A launch answers all questions that were asked before it.
    fn launch(&mut self, task: &TaskId) {
        self.questions.remove(task);
        self.launches.insert(task.clone());
    }
}

impl Effects {
    pub(super) fn new(
        engine: Arc<dyn Engine>,
        epoch: Epoch,
        grace: Duration,
        reports: mpsc::UnboundedSender<Report>,
    ) -> Self {
        let (orders, beginning, ending, open) = Default::default();
        Self { engine, epoch, grace, reports, orders, beginning, ending, open }
    }

    /// Whether a launch of this task was released and is not settled yet.
    pub(super) fn is_unanswered(&self, task: &TaskId) -> bool {
        self.open().launches.contains(task)
    }

    /// Its launch has come to an end; from here on it is asked for like any other task.
    pub(super) fn settle(&self, task: &TaskId) {
        self.open().launches.remove(task);
    }

    /// Asks for a task, whatever was heard of it.
    pub(super) fn ask_for(&self, task: TaskId) {
        let this = self.clone();
        tokio::spawn(async move { this.ask(vec![task]).await });
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        lock(&self.open)
    }

    /// Tells the engine of the term, for as long as it takes, then asks for these tasks: those of former terms, or
    /// after the engine has started anew, those whose launch was answered before.
    pub(super) fn begin_term(&self, open: Vec<TaskId>) {
        let this = self.clone();
        tokio::spawn(async move {
            while !this.reports.is_closed() {
                let incarnation = this.engine.incarnation();
                match this.engine.begin_term(this.epoch).await {
                    // Who was told may have been followed by another, who was not.
                    Ok(()) if this.engine.incarnation() != incarnation => {}
                    Ok(()) => {
                        this.report(Report::Follows { incarnation });
                        return this.ask(open).await;
                    }
                    Err(problem) => {
                        if this.ends_term(&problem) {
                            return;
                        }
                        warn!(engine = this.engine.name(), %problem, "the engine does not take part yet");
                        tokio::time::sleep(ENGINE_RETRY).await;
                    }
                }
            }
        });
    }

    /// Asks for tasks that this term may not know, once it has had time to launch, and thereby adopt, those that it wants:
    /// the scheduler has the others ended when it hears of them.
    pub(super) fn end_strays(&self, tasks: Vec<TaskId>) {
        if !tasks.is_empty() {
            let question = self.open().ask(&tasks);
            tokio::spawn(self.clone().ask_again(question, tasks, ADOPTED_WITHIN));
        }
    }

    /// Waits until the orders that were released have reached their engines, but not long.
    pub(super) async fn finish(&self) {
        let begun = tokio::time::timeout(BEGUN_WITHIN, self.beginning.write());
        let done = tokio::time::timeout(DONE_WITHIN, self.ending.write());
        let _ = tokio::join!(begun, done);
    }

    /// Carries out what does not go to a user. An order is stale so long after it was decided, however long it waited.
    pub(super) fn release(&self, effect: Effect, decided: Duration) {
        match effect {
            Effect::Launch { run, job } => {
                let RunState::Running(live) = &run.state else { return };
                let launch = Launch {
                    task: live.task.clone(),
                    spec: Arc::new(task_spec(&job, &run, live.attempt)),
                    not_after: decided + ORDER_VALID,
                };
                // What the job's jitter asks for is no lag.
                let lag = Timestamp::now().duration_since(job.rules.starts_at(&run));
                let lag = (live.attempt == 0).then(|| Duration::try_from(lag).unwrap_or_default());
                if self.engine.readiness_of(&launch.spec) == Readiness::Ready {
                    counter!("chronos_launches_total").increment(1);
                    info!(epoch = self.epoch.0, job = %run.job, run = %run.key, due = %run.due, attempt = live.attempt, task = %live.task, "launched task");
                } else {
                    // Once a second, until its engine is back.
                    debug!(job = %run.job, run = %run.key, task = %live.task, "launched task, though its engine is not ready");
                }
                self.open().launch(&launch.task);
                self.order_launch(launch, lag);
            }
            Effect::GoAhead { task, node } => self.order_to_go_ahead(task, node, decided + ORDER_VALID),
            Effect::Kill { task } => self.order_kill(task),
            Effect::Acknowledge { task } => {
                // Best effort: an end that was not acknowledged is told again.
                let (orders, under_way) = (self.orders_to(&task, None), share(&self.ending));
                let this = self.clone();
                tokio::spawn(async move {
                    let _under_way = under_way;
                    let Ok(_permit) = orders.acquire().await else { return };
                    if let Err(problem) = this.engine.acknowledge(std::slice::from_ref(&task)).await {
                        warn!(%task, %problem, "could not acknowledge an end");
                    }
                });
            }
            Effect::Answer { .. } | Effect::Send { .. } => {}
        }
    }

    /// What bounds the orders to the engine that has to do with the task.
    fn orders_to(&self, task: &TaskId, spec: Option<&TaskSpec>) -> Arc<Semaphore> {
        let place = self.engine.place_of(task, spec);
        let mut orders = lock(&self.orders);
        orders.entry(place).or_insert_with(|| Arc::new(Semaphore::new(ORDERS_MAX))).clone()
    }

    fn order_launch(&self, launch: Launch, lag: Option<Duration>) {
        let (orders, under_way) = (self.orders_to(&launch.task, Some(&launch.spec)), share(&self.beginning));
        let this = self.clone();
        tokio::spawn(async move {
            let _under_way = under_way;
            let Ok(_permit) = orders.acquire().await else { return };
            this.launch(launch, lag).await;
        });
    }

    /// `lag` is counted once it is certain that no other order for the attempt will follow.
    async fn launch(&self, launch: Launch, lag: Option<Duration>) {
        let (task, not_after) = (launch.task.clone(), launch.not_after);
        let incarnation = self.engine.incarnation();
        let outcome = self.engine.launch(self.epoch, launch).await;
        if let (Ok(_), Some(lag)) = (&outcome, lag) {
            histogram!("chronos_launch_lag_seconds").record(lag);
        }
        match outcome {
            Ok(known) => self.report(Report::Launched { task, news: news_of(known), incarnation }),
            Err(EngineError::Unknown(problem)) => {
                warn!(%task, problem, "the engine did not answer to a launch");
                // The order may still arrive. Only once it is stale does "never began" mean that it never will.
                let stale_in = not_after.saturating_sub(engine::since_boot());
                let this = self.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(stale_in + ENGINE_RETRY).await;
                    this.settle(&task);
                    this.ask(vec![task]).await;
                });
            }
            Err(problem) => {
                if !self.ends_term(&problem) {
                    // An engine that is away refuses every task once a second.
                    if self.open().refused.is_news(&problem) {
                        warn!(%task, %problem, "the engine did not launch the task");
                    }
                    self.report(Report::Launched { task, news: TaskNews::NeverBegan, incarnation });
                }
            }
        }
    }

    /// Its place is durable. Where the answer is lost, its news or a question will tell.
    fn order_to_go_ahead(&self, task: TaskId, node: Arc<str>, not_after: Duration) {
        let (orders, under_way) = (self.orders_to(&task, None), share(&self.beginning));
        let this = self.clone();
        tokio::spawn(async move {
            let _under_way = under_way;
            let Ok(_permit) = orders.acquire().await else { return };
            if let Err(problem) = this.engine.go_ahead(this.epoch, &task, &node, not_after).await
                && !this.ends_term(&problem)
            {
                debug!(%task, %node, %problem, "the task did not begin at its place");
            }
        });
    }

    /// Tries until it is done, the term is over, or nobody wants it any more.
    fn order_kill(&self, task: TaskId) {
        if !self.open().kills.insert(task.clone()) {
            return;
        }
        let (orders, mut under_way) = (self.orders_to(&task, None), share(&self.ending));
        let this = self.clone();
        tokio::spawn(async move {
            let mut pause = ENGINE_RETRY;
            while !this.reports.is_closed() && this.open().kills.contains(&task) {
                // Not held until the next try.
                let done = match orders.acquire().await {
                    Ok(_permit) => this.kill(&task).await,
                    Err(_) => true,
                };
                drop(under_way.take());
                if done {
                    break;
                }
                tokio::time::sleep(pause).await;
                pause = KILL_RETRY_MAX.min(pause * 2);
            }
            this.open().kills.remove(&task);
        });
    }

    /// Whether kills are on their way, or tried again.
    pub(super) fn kills(&self) -> bool {
        !self.open().kills.is_empty()
    }

    /// What became of the task is recorded: nobody waits for its end any more. If it is heard of once more and runs, it is to be
    /// ended anew.
    pub(super) fn let_be(&self, task: &TaskId) {
        self.open().kills.remove(task);
    }

    /// Whether no other try is needed.
    async fn kill(&self, task: &TaskId) -> bool {
        let not_after = engine::since_boot() + ORDER_VALID;
        match self.engine.kill(self.epoch, task, self.grace, not_after).await {
            Ok(()) => info!(%task, "ended task"),
            Err(problem) if self.ends_term(&problem) => {}
            Err(problem) => {
                // A node that is away refuses the end of each of its tasks again and again.
                if self.open().unended.is_news(&problem) {
                    warn!(%task, %problem, "could not end a task; trying again");
                }
                return false;
            }
        }
        true
    }

    /// Asks each engine for its own, so that the answer of none waits for that of another.
    async fn ask(&self, tasks: Vec<TaskId>) {
        let mut places: BTreeMap<usize, Vec<TaskId>> = BTreeMap::new();
        for task in tasks {
            places.entry(self.engine.place_of(&task, None)).or_default().push(task);
        }
        for tasks in places.into_values() {
            let this = self.clone();
            tokio::spawn(async move { this.ask_one_engine(tasks).await });
        }
    }

    async fn ask_one_engine(&self, tasks: Vec<TaskId>) {
        for chunk in tasks.chunks(RECONCILE_MAX) {
            if self.reports.is_closed() {
                return;
            }
            let question = self.open().ask(chunk);
            match self.engine.reconcile(self.epoch, chunk).await {
                Ok(answers) => {
                    let mut unknown = Vec::new();
                    for (task, known) in chunk.iter().zip(answers) {
                        if !self.open().answered(question, task, &known) {
                            continue;
                        }
                        if known == Known::Unknown {
                            unknown.push(task.clone());
                        }
                        self.report(Report::News(task.clone(), news_of(known)));
                    }
                    if !unknown.is_empty() {
                        tokio::spawn(self.clone().ask_again(question, unknown, UNKNOWN_RETRY));
                    }
                }
                Err(problem) if self.ends_term(&problem) => return,
                Err(problem) => {
                    warn!(%problem, "could not reconcile; trying again");
                    tokio::spawn(self.clone().ask_again(question, chunk.to_vec(), ENGINE_RETRY));
                }
            }
        }
    }

    /// Asks once more for those that nobody has launched or asked for since. Boxed, because `ask` comes back to it.
    fn ask_again(
        self,
        question: u64,
        mut tasks: Vec<TaskId>,
        after: Duration,
    ) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            tokio::time::sleep(after).await;
            {
                let open = self.open();
                tasks.retain(|task| open.is_last(question, task));
            }
            self.ask(tasks).await;
        })
    }

    /// Whether the engine has said that another leads.
    fn ends_term(&self, problem: &EngineError) -> bool {
        let deposed = matches!(problem, EngineError::Deposed { .. });
        if deposed {
            self.report(Report::Deposed(problem.to_string()));
        }
        deposed
    }

    fn report(&self, report: Report) {
        let _ = self.reports.send(report); // Nobody listens once the term is over.
    }
}

/// One order more is under way, until this is dropped. It is counted when it is given: what was spawned may not have run yet
/// when somebody waits for all. Nothing is given while that is so.
fn share(orders: &Arc<RwLock<()>>) -> Option<OwnedRwLockReadGuard<()>> {
    orders.clone().try_read_owned().ok()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while one is held, so a poisoned one is still whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an engine knows, as the scheduler hears it.
pub(super) fn news_of(known: Known) -> TaskNews {
    match known {
        Known::Waiting => TaskNews::Waiting,
        Known::Placed { node } => TaskNews::Placed { node },
        Known::Running => TaskNews::Running,
        Known::Ended(end) => TaskNews::Ended(end),
        Known::GivenUp { message } => TaskNews::GivenUp { message },
        Known::NeverBegan => TaskNews::NeverBegan,
        Known::Unknown => TaskNews::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::atomic::{AtomicU64, Ordering};

    use async_trait::async_trait;
    use engine::fake::{Behaviour, FakeMachine};
    use engine::router::Router;
    use engine::{Container, Output, Stream, TaskEvent};
    use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, SharedString, Unit};
    use scheduler::run::{AttemptEnd, Live};
    use store::samples;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    fn launch(id: &str, container: Option<Container>) -> Launch {
        let spec = TaskSpec { container, ..TaskSpec::default() };
        let task = TaskId::parse(id).expect("a task id");
        Launch { task, spec: Arc::new(spec), not_after: engine::since_boot() + LONG }
    }

    /// What is told next of a task, within the patience of whoever waits for it.
    async fn told(reports: &mut mpsc::UnboundedReceiver<Report>, of: &str) -> TaskNews {
        let news = async {
            loop {
                match reports.recv().await {
                    Some(Report::Launched { task, news, .. } | Report::News(task, news))
                        if task.as_str() == of =>
                    {
                        return news;
                    }
                    Some(_) => {}
                    None => panic!("the term is over"),
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(120), news).await.expect("it is told")
    }

    /// Says nothing, whatever it is asked; or refuses to end tasks, and notes which.
    #[derive(Default)]
    struct Silent {
        refused: Option<Mutex<Vec<TaskId>>>,
    }

    #[async_trait]
    impl Engine for Silent {
        fn name(&self) -> &'static str {
            "silent"
        }
        async fn begin_term(&self, _: Epoch) -> Result<(), EngineError> {
            Ok(())
        }
        async fn launch(&self, _: Epoch, _: Launch) -> Result<Known, EngineError> {
            pending().await
        }
        async fn kill(&self, _: Epoch, task: &TaskId, _: Duration, _: Duration) -> Result<(), EngineError> {
            let Some(refused) = &self.refused else { return pending().await };
            lock(refused).push(task.clone());
            Err(EngineError::Unknown("its node is dead".into()))
        }
        async fn reconcile(&self, _: Epoch, _: &[TaskId]) -> Result<Vec<Known>, EngineError> {
            pending().await
        }
        async fn events(&self) -> Vec<TaskEvent> {
            pending().await
        }
        async fn acknowledge(&self, _: &[TaskId]) -> Result<(), EngineError> {
            pending().await
        }
        async fn output(&self, _: &TaskId, _: Stream, _: u64) -> Result<Output, EngineError> {
            pending().await
        }
        fn readiness(&self) -> Readiness {
            Readiness::Ready
        }
        fn holds(&self, task: &TaskId) -> bool {
            task.as_str().starts_with("boxed")
        }
    }

    #[tokio::test]
    async fn an_engine_that_hangs_keeps_no_task_of_another_waiting() {
        let local = FakeMachine::new();
        let engine = Arc::new(Router::new(Arc::new(local.engine()), Arc::new(Silent::default())));
        engine.begin_term(Epoch(1)).await.expect("it begins");
        let (reports, mut told_of) = mpsc::unbounded_channel();
        let effects = Effects::new(engine, Epoch(1), Duration::ZERO, reports);
        let container = Container { image: "i".into(), ..Container::default() };
        for i in 0..ORDERS_MAX {
            effects.order_launch(launch(&format!("boxed-{i}"), Some(container.clone())), None);
        }
        effects.order_launch(launch("plain-0", None), None);
        assert_eq!(told(&mut told_of, "plain-0").await, TaskNews::Ended(AttemptEnd::Succeeded));
        effects.ask(["boxed-0", "plain-1"].map(|id| TaskId::parse(id).expect("a task id")).to_vec()).await;
        assert_eq!(told(&mut told_of, "plain-1").await, TaskNews::NeverBegan);
    }

    /// An engine whose term has not begun refuses everything.
    #[tokio::test]
    async fn kills_that_are_tried_again_keep_no_order_waiting() {
        let (reports, mut told_of) = mpsc::unbounded_channel();
        let engine = Arc::new(FakeMachine::new().engine());
        let effects = Effects::new(engine, Epoch(1), Duration::ZERO, reports);
        for i in 0..ORDERS_MAX {
            effects.order_kill(TaskId::parse(&format!("plain-{i}")).expect("a task id"));
        }
        effects.order_launch(launch("late-0", None), None);
        assert_eq!(told(&mut told_of, "late-0").await, TaskNews::NeverBegan);
    }

    /// Who was killed on a node that is dead, and is recorded as lost, is not to be ended for ever.
    #[tokio::test(start_paused = true)]
    async fn what_is_recorded_is_not_to_be_ended_any_more() {
        let (reports, _told_of) = mpsc::unbounded_channel();
        let engine = Arc::new(Silent { refused: Some(Mutex::default()) });
        let effects = Effects::new(engine.clone(), Epoch(1), Duration::ZERO, reports);
        let [dead, other] = ["dead-0", "other-0"].map(|id| TaskId::parse(id).expect("a task id"));
        for task in [&dead, &dead, &other] {
            effects.order_kill(task.clone());
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
        let tries = |task: &TaskId| {
            let refused = engine.refused.as_ref().expect("it refuses");
            lock(refused).iter().filter(|one| *one == task).count()
        };
        // After 0, 1, 3, 7 s, and then each 8.
        assert_eq!((tries(&dead), tries(&other)), (10, 10));
        effects.let_be(&dead);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!((tries(&dead), effects.kills()), (10, true));
        assert!(tries(&other) > 16);
        effects.order_kill(dead.clone());
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(tries(&dead) > 10, "it was heard of once more");
    }

    /// An order of a job's first attempt, as the driver releases it.
    fn effect(number: u64) -> (Effect, TaskId) {
        let mut run = samples::run(number, 0);
        let task = TaskId::of(&run.job, run.key, 0);
        run.state = RunState::Running(Live {
            attempt: 0,
            task: task.clone(),
            launched: run.due,
            node: "a".into(),
            started: None,
            unknown_since: None,
            kill: None,
            elements: 0,
        });
        (Effect::Launch { run: run.into(), job: samples::job(number).into() }, task)
    }

    /// A process that was paused between the decision and the order, or whose orders waited, gives no order that looks
    /// fresh: another may lead by then.
    #[tokio::test]
    async fn an_order_is_stale_by_when_it_was_decided() {
        let (reports, mut told_of) = mpsc::unbounded_channel();
        let engine = Arc::new(FakeMachine::new().engine());
        engine.begin_term(Epoch(1)).await.expect("it begins");
        let effects = Effects::new(engine, Epoch(1), Duration::ZERO, reports);
        let now = engine::since_boot();
        let (late, of_late) = effect(1);
        effects.release(late, now.saturating_sub(ORDER_VALID + Duration::from_secs(1)));
        assert_eq!(told(&mut told_of, of_late.as_str()).await, TaskNews::NeverBegan);
        let (timely, of_timely) = effect(2);
        effects.release(timely, now);
        assert_eq!(told(&mut told_of, of_timely.as_str()).await, TaskNews::Ended(AttemptEnd::Succeeded));
    }

    /// Counts what is recorded, of whatever.
    #[derive(Default)]
    struct Recorded(AtomicU64);

    impl HistogramFn for Recorded {
        fn record(&self, _: f64) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    struct Recorder(Arc<Recorded>);

    impl metrics::Recorder for Recorder {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
            Counter::noop()
        }
        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::noop()
        }
        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            self.0.clone().into()
        }
    }

    /// An engine that is full or away refuses the same attempt again and again.
    #[tokio::test]
    async fn the_lag_of_an_attempt_is_counted_once() {
        let recorded = Arc::new(Recorded::default());
        let recorder = Recorder(recorded.clone());
        let _recording = metrics::set_default_local_recorder(&recorder);
        let (reports, mut told_of) = mpsc::unbounded_channel();
        let machine = FakeMachine::new();
        machine.script(|_| Behaviour::Refuse("full".into()));
        let engine = Arc::new(machine.engine());
        engine.begin_term(Epoch(1)).await.expect("it begins");
        let effects = Effects::new(engine, Epoch(1), Duration::ZERO, reports);
        for news in [TaskNews::NeverBegan, TaskNews::NeverBegan, TaskNews::Running] {
            if news == TaskNews::Running {
                machine.script(|_| Behaviour::Run);
            }
            let (launch, task) = effect(1);
            effects.release(launch, engine::since_boot());
            assert_eq!(told(&mut told_of, task.as_str()).await, news);
        }
        assert_eq!(recorded.0.load(Ordering::Relaxed), 1);
    }

    /// How long it takes to wait for the orders that are under way.
    async fn finished(effects: &Effects) -> Duration {
        let begun = tokio::time::Instant::now();
        effects.finish().await;
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_hand_over_waits_for_what_may_begin_and_not_for_who_does_not_answer() {
        let local = FakeMachine::new();
        let engine = Arc::new(Router::new(Arc::new(local.engine()), Arc::new(Silent::default())));
        engine.begin_term(Epoch(1)).await.expect("it begins");
        let (reports, _told) = mpsc::unbounded_channel();
        let effects = Effects::new(engine, Epoch(1), Duration::ZERO, reports);
        let id = |id| TaskId::parse(id).expect("a task id");
        let now = engine::since_boot();
        local.script(|_| Behaviour::Run);
        effects.order_launch(launch("plain-0", None), None);
        assert_eq!(finished(&effects).await, Duration::ZERO);
        assert_eq!(local.running(), [id("plain-0")], "it was on its way");
        for task in ["boxed-0", "plain-0"].map(id) {
            effects.release(Effect::Kill { task }, now);
        }
        effects.release(Effect::Acknowledge { task: id("boxed-1") }, now);
        let took = finished(&effects).await;
        assert!(took < Duration::from_millis(500), "{took:?}, and another could lead");
        assert_eq!(local.running(), [], "who answers has it before");
        let slow = Duration::from_secs(1);
        local.script(move |_| Behaviour::Delay(slow, Box::new(Behaviour::Run)));
        effects.order_launch(launch("plain-1", None), None);
        let took = finished(&effects).await;
        assert!((slow..BEGUN_WITHIN).contains(&took), "{took:?}");
        assert_eq!(local.running(), [id("plain-1")]);
        let container = Container { image: "i".into(), ..Container::default() };
        effects.order_launch(launch("boxed-2", Some(container)), None);
        let took = finished(&effects).await;
        assert!((BEGUN_WITHIN..2 * BEGUN_WITHIN).contains(&took), "{took:?}, and not for ever");
    }

    fn task() -> TaskId {
        TaskId::parse("report-1-i5-0").expect("a task id")
    }

    #[test]
    fn of_several_questions_about_a_task_the_last_one_counts() {
        let (mut open, task) = (Open::default(), task());
        let first = open.ask(std::slice::from_ref(&task));
        let second = open.ask(std::slice::from_ref(&task));
        assert!(!open.answered(first, &task, &Known::NeverBegan), "asked before the other");
        assert!(open.answered(second, &task, &Known::Unknown) && open.is_last(second, &task));
        assert!(open.answered(second, &task, &Known::NeverBegan));
        assert!(!open.answered(second, &task, &Known::NeverBegan), "settled");
    }

    #[test]
    fn a_launch_answers_the_questions_before_it() {
        let (mut open, task) = (Open::default(), task());
        let question = open.ask(std::slice::from_ref(&task));
        open.launch(&task);
        assert!(!open.answered(question, &task, &Known::NeverBegan), "it may be about to begin");
        assert!(!open.is_last(question, &task), "nor is it asked again");
    }
}
