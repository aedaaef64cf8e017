//! Effects: what a released decision does in the world, and what the world says to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use engine::{Engine, EngineError, Known, Launch, Readiness};
use jiff::Timestamp;
use metrics::{counter, histogram};
use scheduler::ids::{Epoch, TaskId};
use scheduler::notice::{NoticeId, Sent};
use scheduler::run::RunState;
use scheduler::{Effect, TaskNews};
use tokio::sync::{Semaphore, mpsc};
use tracing::{debug, info, warn};

use crate::wire::task_spec;

/// An order that has not reached its engine by then is stale: the leader that gave it may be deposed.
const ORDER_VALID: Duration = Duration::from_secs(10);
/// Before an engine that did not answer is asked again.
const ENGINE_RETRY: Duration = Duration::from_secs(1);
/// Before a task that nobody could tell anything about is asked for again.
const UNKNOWN_RETRY: Duration = Duration::from_secs(5);
/// After so long a term has launched what was due when it began.
const ADOPTED_WITHIN: Duration = Duration::from_secs(5);
/// The same reason why nothing is launched is told again after so long.
const REFUSAL_TOLD_EVERY: Duration = Duration::from_secs(60);
/// Orders on their way to the engine at once.
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
    orders: Arc<Semaphore>,
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
    /// Why the engine refused last, and when that was told.
    refused: Option<(String, Instant)>,
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

    /// Whether the log has not been told so lately.
    fn is_news(&mut self, problem: &EngineError) -> bool {
        let problem = problem.to_string();
        let known = self.refused.as_ref();
        let news = known.is_none_or(|(last, at)| *last != problem || at.elapsed() >= REFUSAL_TOLD_EVERY);
        if news {
            self.refused = Some((problem, Instant::now()));
        }
        news
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
        let (orders, open) = (Arc::new(Semaphore::new(ORDERS_MAX)), Arc::default());
        Self { engine, epoch, grace, reports, orders, open }
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
        // Nothing panics while it is held, so a poisoned one is still whole.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Waits until all orders that were released have reached the engine, but not long.
    pub(super) async fn finish(&self) {
        let all = u32::try_from(ORDERS_MAX).unwrap_or(u32::MAX);
        let _ = tokio::time::timeout(Duration::from_secs(2), self.orders.acquire_many(all)).await;
    }

    /// Carries out what does not go to a user.
    pub(super) fn release(&self, effect: Effect) {
        match effect {
            Effect::Launch { run, job } => {
                let RunState::Running(live) = &run.state else { return };
                let launch = Launch {
                    task: live.task.clone(),
                    spec: Arc::new(task_spec(&job, &run, live.attempt)),
                    not_after: engine::since_boot() + ORDER_VALID,
                };
                if self.engine.readiness_of(&launch.spec) == Readiness::Ready {
                    if live.attempt == 0 {
                        // What the job's jitter asks for is no lag.
                        let starts = job.rules.starts_at(&run);
                        let lag =
                            Duration::try_from(Timestamp::now().duration_since(starts)).unwrap_or_default();
                        histogram!("chronos_launch_lag_seconds").record(lag);
                    }
                    counter!("chronos_launches_total").increment(1);
                    info!(epoch = self.epoch.0, job = %run.job, run = %run.key, due = %run.due, attempt = live.attempt, task = %live.task, "launched task");
                } else {
                    // Once a second, until its engine is back.
                    debug!(job = %run.job, run = %run.key, task = %live.task, "launched task, though its engine is not ready");
                }
                self.open().launch(&launch.task);
                self.order(move |this| async move { this.launch(launch).await });
            }
            Effect::Kill { task } => self.order(move |this| async move { this.kill(task).await }),
            Effect::Acknowledge { task } => {
                // Best effort: an end that was not acknowledged is told again.
                self.order(move |this| async move {
                    if let Err(problem) = this.engine.acknowledge(std::slice::from_ref(&task)).await {
                        warn!(%task, %problem, "could not acknowledge an end");
                    }
                });
            }
            Effect::Answer { .. } | Effect::Send { .. } => {}
        }
    }

    fn order<F: Future<Output = ()> + Send + 'static>(
        &self,
        carry_out: impl FnOnce(Self) -> F + Send + 'static,
    ) {
        let this = self.clone();
        tokio::spawn(async move {
            let Ok(_permit) = this.orders.clone().acquire_owned().await else { return };
            carry_out(this.clone()).await;
        });
    }

    async fn launch(&self, launch: Launch) {
        let (task, not_after) = (launch.task.clone(), launch.not_after);
        let incarnation = self.engine.incarnation();
        match self.engine.launch(self.epoch, launch).await {
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
                    if self.open().is_news(&problem) {
                        warn!(%task, %problem, "the engine did not launch the task");
                    }
                    self.report(Report::Launched { task, news: TaskNews::NeverBegan, incarnation });
                }
            }
        }
    }

    async fn kill(&self, task: TaskId) {
        while !self.reports.is_closed() {
            let not_after = engine::since_boot() + ORDER_VALID;
            match self.engine.kill(self.epoch, &task, self.grace, not_after).await {
                Ok(()) => return info!(%task, "ended task"),
                Err(problem) if self.ends_term(&problem) => return,
                Err(problem) => warn!(%task, %problem, "could not end a task; trying again"),
            }
            tokio::time::sleep(ENGINE_RETRY).await;
        }
    }

    async fn ask(&self, tasks: Vec<TaskId>) {
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

/// What an engine knows, as the scheduler hears it.
pub(super) fn news_of(known: Known) -> TaskNews {
    match known {
        Known::Running => TaskNews::Running,
        Known::Ended(end) => TaskNews::Ended(end),
        Known::NeverBegan => TaskNews::NeverBegan,
        Known::Unknown => TaskNews::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
