//! One term: events in, decisions to the store, effects out. Durable before visible.
//!
//! Takes every event that waits (or the time when the scheduler wants to wake), steps each, commits their changes
//! as one batch, and releases the effects behind it once it is applied, while the next batch is being decided. A
//! refused commit ends the term, and nothing after it is done.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use engine::{Known, Readiness, TaskEvent};
use futures_util::stream::{FuturesOrdered, StreamExt};
use jiff::Timestamp;
use metrics::{counter, gauge, histogram};
use scheduler::audit::{Act, Entry};
use scheduler::clock::ClockGuard;
use scheduler::ids::{Seq, TaskId};
use scheduler::job::Progress;
use scheduler::request::RequestId;
use scheduler::run::{Outcome, Record, RunState};
use scheduler::state::{Change, State};
use scheduler::{Effect, Event, QuickFailures, Scheduler, Settings, TaskNews};
use store::{Applied, Deposed, OutcomeKind, StoreError, Term};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, info, warn};

use super::courier::Courier;
use super::effects::{Effects, Report, news_of};
use super::life::{Life, stopped};
use super::restore::{self, Place};
use super::{Ask, AskError, Restore, RestoreError, Role, pulse};
use crate::wire::outcome;

/// Batches that may be on their way to the store while further ones are decided.
const IN_FLIGHT_MAX: usize = 8;
/// A batch is closed at this size; one step more still fits the store's bound.
const BATCH_FULL: usize = 128 * 1024;
/// Events that may wait to be decided; whatever else comes stays where it comes from.
const BACKLOG_MAX: usize = 1024;
/// Steps are wanted soon after each other under load; an idle leader looks at its clocks at least so often.
const GLANCE: Duration = Duration::from_secs(1);

/// Why a term ended.
pub(super) enum Ended {
    /// The node is being stopped.
    Stopped,
    /// Another leads, or may.
    Deposed(String),
    /// Something else is in the store now; this node still leads.
    Restored,
}

type Reply = oneshot::Sender<Result<(scheduler::request::Answer, Seq), AskError>>;

/// A batch whose commit is in flight, and what waits for it.
struct Pending {
    applied: Arc<Applied>,
    effects: Vec<Effect>,
    /// When it was decided, since boot. A process that is paused before it releases them must not send orders that look
    /// fresh: another may lead by then.
    decided: Duration,
}

struct Driver<'a> {
    life: &'a mut Life,
    term: Term,
    core: Scheduler,
    effects: Effects,
    courier: Courier,
    clock: ClockGuard,
    clock_trusted: bool,
    /// What the core was told of the clock: while jobs are awaited, it is to take no slot either.
    may_begin: bool,
    /// Which incarnation of the engine has joined this term.
    engine_follows: Option<u64>,
    engine_ready: bool,
    replies: BTreeMap<RequestId, Reply>,
    last_request: u64,
    seq: Seq,
    /// Events that are to be decided when there is room for their batches.
    backlog: VecDeque<Event>,
    pending: VecDeque<Pending>,
}

/// Leads until deposed or stopped.
pub(super) async fn lead(life: &mut Life, state: State, term: Term) -> Ended {
    let settings = Settings {
        node: life.options.engine.unplaced().unwrap_or(&life.options.identity.node).into(),
        zones: life.options.zones.clone(),
        disable_after_failures: life.options.disable_after_failures,
        retry_delay: life.options.retry_delay,
        limits: life.options.limits.clone(),
        set_batch: scheduler::SET_BATCH,
        channels: life.options.notifier.channels(),
    };
    let core = Scheduler::new(state, settings);
    let (reports, mut reported) = mpsc::unbounded_channel();
    let courier = Courier::new(life, reports.clone());
    let effects = Effects::new(life.options.engine.clone(), term.epoch, life.options.kill_grace, reports);
    effects.begin_term(core.open_tasks());
    effects.end_strays(std::mem::take(&mut life.strays));
    let mut driver = Driver {
        core,
        effects,
        courier,
        clock: ClockGuard::default(),
        clock_trusted: true,
        may_begin: true,
        engine_follows: None,
        engine_ready: false,
        replies: BTreeMap::new(),
        last_request: 0,
        seq: term.seq,
        backlog: VecDeque::new(),
        pending: VecDeque::new(),
        life,
        term,
    };
    driver.say();
    let ended = driver.run(&mut reported).await;
    gauge!("chronos_leader").set(0.0);
    ended
}

impl Driver<'_> {
    async fn run(&mut self, reported: &mut mpsc::UnboundedReceiver<Report>) -> Ended {
        gauge!("chronos_leader").set(1.0);
        let store = self.life.options.store.clone();
        let engine = self.life.options.engine.clone();
        let mut stop = self.life.stop.clone();
        let mut deposed = std::pin::pin!(store.deposed(self.term.epoch));
        let mut commits = FuturesOrdered::new();
        let mut stopping = false;
        let mut restoring = None;
        let pulse = self.life.pulse.clone();
        loop {
            pulse.beat();
            if commits.is_empty()
                && self.backlog.is_empty()
                && let Some(order) = restoring.take()
                && let Some(ended) = pulse.during(self.restore(order)).await
            {
                return ended;
            }
            let free = if stopping { 0 } else { IN_FLIGHT_MAX - commits.len() };
            let room = free > 0 && restoring.is_none() && self.backlog.len() < BACKLOG_MAX;
            let wait = self.until_wake();
            tokio::select! {
                biased;
                Some(done) = commits.next(), if !commits.is_empty() => {
                    if let Err(deposed) = self.applied(done) {
                        return Ended::Deposed(deposed.reason);
                    }
                    if stopping && commits.is_empty() {
                        pulse.during(self.effects.finish()).await;
                        return Ended::Stopped;
                    }
                    continue;
                }
                Deposed { reason } = &mut deposed => return Ended::Deposed(reason),
                () = stopped(&mut stop), if !stopping => {
                    stopping = true;
                    if commits.is_empty() {
                        pulse.during(self.effects.finish()).await;
                        return Ended::Stopped;
                    }
                    continue;
                }
                Some(order) = self.life.restores.recv(), if room => {
                    restoring = Some(order);
                    continue;
                }
                Some(report) = reported.recv(), if room => {
                    if let Some(ended) = self.report(report) {
                        return ended;
                    }
                }
                news = engine.events(), if room && self.engine_follows.is_some() => {
                    news.into_iter().for_each(|event| self.engine_says(event));
                }
                Some(ask) = self.life.asks.recv(), if room && !self.core.is_applying() => {
                    let request = self.request(ask);
                    self.backlog.push_back(request);
                }
                () = std::future::ready(()), if free > 0 && !self.backlog.is_empty() => {}
                () = tokio::time::sleep(wait), if room => {}
                // It waits for the store, and lives.
                () = tokio::time::sleep(pulse::EVERY), if !room => continue,
            }
            self.look_around();
            if let Err(unfit) = self.life.outlook.borrow().fit() {
                return Ended::Deposed(unfit);
            }
            // Once something is to be restored, only what is here already is decided before it.
            let listens = restoring.is_none();
            while listens
                && self.backlog.len() < BACKLOG_MAX
                && let Ok(report) = reported.try_recv()
            {
                if let Some(ended) = self.report(report) {
                    return ended;
                }
            }
            for batch in self.decide(free, listens) {
                self.seq = Seq(self.seq.0 + 1);
                let applied = Applied { seq: self.seq, epoch: self.term.epoch, changes: batch.0 };
                let applied = Arc::new(applied);
                let decided = engine::since_boot();
                self.pending.push_back(Pending { applied: applied.clone(), effects: batch.1, decided });
                let store = store.clone();
                let begun = std::time::Instant::now();
                commits.push_back(async move {
                    let result = store.commit(applied.epoch, applied.seq, &applied.changes).await;
                    histogram!("chronos_commit_seconds").record(begun.elapsed());
                    result
                });
            }
            debug_assert!(commits.len() <= IN_FLIGHT_MAX, "{} batches in flight", commits.len());
        }
    }

    /// All that was decided is durable: now another content may take its place. `None` if it was not to be.
    async fn restore(&mut self, order: Restore) -> Option<Ended> {
        self.effects.finish().await;
        let store = self.life.options.store.clone();
        let place =
            Place { store: &*store, present: self.core.state(), epoch: self.term.epoch, seq: self.seq };
        let Restore { staged, occupied, undo, author, answer: asker } = order;
        let (answer, ended) = match restore::restore(place, (staged, occupied, undo), author).await {
            Ok((restored, strays)) => {
                self.life.strays = strays;
                (Ok(restored), Some(Ended::Restored))
            }
            Err(RestoreError::Store(StoreError::Deposed(Deposed { reason }))) => {
                (Err(RestoreError::OutcomeUnknown), Some(Ended::Deposed(reason)))
            }
            Err(problem) => {
                warn!(%problem, "nothing was restored");
                (Err(problem), None)
            }
        };
        let _ = asker.send(answer); // The asker may have gone.
        ended
    }

    /// Steps the events, then whatever else waits, into as many batches as their sizes need and the store has room for.
    fn decide(&mut self, room: usize, listens: bool) -> Vec<(Vec<Change>, Vec<Effect>)> {
        let mut batches = Vec::new();
        let (mut changes, mut effects, mut size) = (Vec::new(), Vec::new(), 0);
        let mut ticked = false;
        while batches.len() < room {
            let event = if let Some(event) = self.backlog.pop_front() {
                event
            } else if let Some(ask) = self.another_ask(listens && batches.is_empty()) {
                self.request(ask)
            } else if !ticked {
                Event::Tick
            } else {
                break;
            };
            ticked = true;
            let step = self.core.step(now(), event);
            size += step.changes.iter().map(Change::weight).sum::<usize>();
            changes.extend(step.changes);
            effects.extend(step.effects);
            if size >= BATCH_FULL {
                batches.push((std::mem::take(&mut changes), std::mem::take(&mut effects)));
                size = 0;
            }
        }
        if !changes.is_empty() || !effects.is_empty() {
            batches.push((changes, effects));
        }
        batches
    }

    fn request(&mut self, ask: Ask) -> Event {
        self.last_request += 1;
        let id = RequestId(self.last_request);
        self.replies.insert(id, ask.answer);
        Event::Request { id, request: ask.request }
    }

    /// What else is asked, as long as there is room for it and it would not be refused.
    fn another_ask(&mut self, room: bool) -> Option<Ask> {
        if room && !self.core.is_applying() { self.life.asks.try_recv().ok() } else { None }
    }

    fn until_wake(&self) -> Duration {
        let Some(at) = self.core.wake_at() else { return GLANCE };
        Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default().min(GLANCE)
    }

    /// Looks at what comes without an event: clocks and the engine's readiness.
    fn look_around(&mut self) {
        let trusted = self.clock.observe(Timestamp::now(), engine::since_boot());
        if trusted != self.clock_trusted {
            self.clock_trusted = trusted;
            warn!(trusted, "the wall clock has stepped");
        }
        let may_begin = trusted && !self.awaits_jobs();
        if may_begin != self.may_begin {
            self.may_begin = may_begin;
            self.backlog.push_front(Event::Clock { trusted: may_begin });
        }
        self.follow_engine();
        let ready = self.engine_follows.is_some() && self.life.options.engine.readiness() == Readiness::Ready;
        if ready != self.engine_ready {
            self.engine_ready = ready;
            self.backlog.push_back(Event::Engine { ready });
        }
        self.say();
    }

    /// Whether jobs of an old Chronos are still to come.
    fn awaits_jobs(&self) -> bool {
        self.life.options.heritage.as_ref().is_some_and(|heritage| heritage.is_awaited())
    }

    /// An engine that may have started anew is told of the term again, and asked for all tasks that it was known to have.
    /// Launches that are still on their way are left out: see [`Effects::is_unanswered`].
    fn follow_engine(&mut self) {
        let incarnation = self.life.options.engine.incarnation();
        if self.engine_follows.is_none_or(|followed| followed == incarnation) {
            return;
        }
        warn!(
            engine = self.life.options.engine.name(),
            incarnation, "the engine may have started anew; asking it again"
        );
        self.engine_follows = None;
        let mut open = self.core.open_tasks();
        let decided: BTreeSet<&TaskId> = self.launches_decided().collect();
        open.retain(|task| !decided.contains(task) && !self.effects.is_unanswered(task));
        self.effects.begin_term(open);
    }

    /// Tasks whose launch is released once it is durable.
    fn launches_decided(&self) -> impl Iterator<Item = &TaskId> {
        self.pending.iter().flat_map(|batch| &batch.effects).filter_map(launched)
    }

    /// Whether a launch of the task is on its way: what it comes to will be told, and what was known before is old.
    fn is_coming(&self, task: &TaskId) -> bool {
        self.effects.is_unanswered(task) || self.launches_decided().any(|decided| decided == task)
    }

    /// What an engine says by itself. That a task never began is old once its launch has been decided: the engine has not
    /// heard of that one yet. Once it was released the engine is believed, which may have dropped it since.
    fn engine_says(&mut self, TaskEvent { task, known }: TaskEvent) {
        let is_old = known == Known::NeverBegan && self.launches_decided().any(|decided| *decided == task);
        if !is_old {
            hear(&mut self.backlog, task, news_of(known));
        }
    }

    fn launch_answered(&mut self, task: TaskId, news: TaskNews, incarnation: u64) {
        self.effects.settle(&task);
        if matches!(news, TaskNews::Running | TaskNews::Waiting)
            && incarnation != self.life.options.engine.incarnation()
        {
            // Who said so may be gone, and the task with it; and when all tasks were asked for, this one was left out.
            self.effects.ask_for(task.clone());
        }
        hear(&mut self.backlog, task, news);
    }

    fn say(&self) {
        let mut troubles = Vec::new();
        if !self.clock_trusted {
            troubles.push(
                "the wall clock stepped forward by more than 60 s; launching resumes once it has agreed with the boot clock for 60 s"
                    .to_owned(),
            );
        }
        troubles.extend(self.life.options.heritage.as_ref().and_then(|heritage| heritage.trouble()));
        if let Readiness::NotReady { reason } = self.life.options.engine.readiness() {
            troubles.push(format!("the {} engine is not ready: {reason}", self.life.options.engine.name()));
        } else if self.engine_follows.is_none() {
            troubles
                .push(format!("the {} engine has not joined this term yet", self.life.options.engine.name()));
        }
        troubles.extend(self.life.options.store.trouble());
        self.life.say(Role::Leading(self.term.epoch), troubles);
    }

    fn report(&mut self, report: Report) -> Option<Ended> {
        match report {
            Report::Follows { incarnation } => self.engine_follows = Some(incarnation),
            Report::Launched { task, news, incarnation } => self.launch_answered(task, news, incarnation),
            Report::News(task, TaskNews::NeverBegan) if self.is_coming(&task) => {}
            Report::News(task, news) => hear(&mut self.backlog, task, news),
            Report::Sent(id, sent) => self.backlog.push_back(Event::Notice { id, sent }),
            Report::Deposed(reason) => return Some(Ended::Deposed(reason)),
        }
        None
    }

    /// Says once of each launch loop that it has begun, before readers see it.
    fn tell_of_loops(&self, changes: &[Change]) {
        let in_loop =
            |progress: &Progress| progress.quick_failures.as_ref().is_some_and(|failures| failures.is_loop());
        for change in changes {
            let Change::PutProgress(uid, progress) = change else { continue };
            if !in_loop(progress) {
                continue;
            }
            let projection = self.life.projection.read();
            let state = projection.state();
            if let (Some(job), Some(before)) = (state.jobs.get(uid), state.progress.get(uid))
                && !in_loop(before)
            {
                counter!("chronos_launch_loops_total").increment(1);
                warn!(job = %job.name, failures = QuickFailures::LOOP, "the job fails as soon as it is launched; it is slowed down");
            }
        }
    }

    /// The oldest batch in flight has its verdict: show it to readers, release what waited for it.
    fn applied(&mut self, verdict: Result<(), Deposed>) -> Result<(), Deposed> {
        verdict?;
        let Some(Pending { applied, effects, decided }) = self.pending.pop_front() else { return Ok(()) };
        self.tell_of_loops(&applied.changes);
        if let Err(gap) = self.life.projection.apply(&applied) {
            return Err(Deposed { reason: format!("the projection has a gap: {gap}") });
        }
        if self.effects.kills() {
            applied.changes.iter().filter_map(ended).for_each(|task| self.effects.let_be(&task));
        }
        for change in &applied.changes {
            match change {
                Change::Append(record) => tell(record),
                Change::Note(entry) => tell_late(entry),
                _ => {}
            }
        }
        for effect in effects {
            match effect {
                Effect::Answer { id, answer } => {
                    if let Some(reply) = self.replies.remove(&id) {
                        let answer = answer.map(|answer| (answer, applied.seq)).map_err(AskError::Refused);
                        let _ = reply.send(answer); // The asker may have gone.
                    }
                }
                Effect::Send { notice } => self.courier.send(notice),
                effect => self.effects.release(effect, decided),
            }
        }
        Ok(())
    }
}

/// Times have whole milliseconds everywhere: what is decided is what is stored.
pub(super) fn now() -> Timestamp {
    Timestamp::from_millisecond(Timestamp::now().as_millisecond()).unwrap_or_default()
}

/// The task that an effect launches.
fn launched(effect: &Effect) -> Option<&TaskId> {
    match effect {
        Effect::Launch { run, .. } => match &run.state {
            RunState::Running(live) => Some(&live.task),
            _ => None,
        },
        _ => None,
    }
}

/// The task whose end a change records, if it is about one.
fn ended(change: &Change) -> Option<TaskId> {
    let (job, key, attempts) = match change {
        Change::PutRun(run) => (&run.job, run.key, &run.attempts),
        Change::Append(record) => match &**record {
            Record::Run(run) => (&run.job, run.key, &run.attempts),
            Record::Range(_) => return None,
        },
        _ => return None,
    };
    attempts.last().map(|last| TaskId::of(job, key, last.number))
}

/// That a task never began is heard once: two questions may have been answered so before either is decided, and by the
/// second word the task may have been launched again.
fn hear(backlog: &mut VecDeque<Event>, task: TaskId, news: TaskNews) {
    let never = news == TaskNews::NeverBegan;
    let event = Event::Task { task, news };
    if !(never && backlog.contains(&event)) {
        backlog.push_back(event);
    }
}

/// Says what was heard too late for the history, to the log and the metrics.
fn tell_late(entry: &Entry) {
    let (Act::HeardLate { run, attempt, node, lost, end }, Some((_, job))) = (&entry.act, &entry.job) else {
        return;
    };
    counter!("chronos_late_outcomes_total").increment(1);
    let outcome = outcome::word_of_end(end);
    warn!(%job, %run, attempt, %node, %lost, outcome, "heard how an attempt ended that is recorded as lost");
}

/// Says what was recorded, to the log and the metrics.
fn tell(record: &Record) {
    match record {
        Record::Run(run) => {
            counter!("chronos_runs_total", "outcome" => word(&run.outcome)).increment(1);
            let (job, key, due) = (&run.job, run.key, run.due);
            let ended = outcome::word(OutcomeKind::of(&run.outcome));
            let reason = outcome::why(run);
            match run.outcome {
                Outcome::Succeeded => debug!(%job, run = %key, %due, "run succeeded"),
                // Not an error of anybody's.
                Outcome::Skipped(_) | Outcome::Missed(_) => {
                    info!(%job, run = %key, %due, outcome = ended, reason, "run did not begin");
                }
                _ => info!(%job, run = %key, %due, outcome = ended, reason, "run ended without success"),
            }
        }
        Record::Range(range) => {
            counter!("chronos_runs_total", "outcome" => word(&range.outcome)).increment(range.count);
            info!(
                job = %range.name, first = %range.first_due, last = %range.last_due, count = range.count,
                outcome = outcome::word(OutcomeKind::of(&range.outcome)), reason = outcome::reason(&range.outcome),
                "slots did not run"
            );
        }
    }
}

/// What the metrics call outcomes.
pub(crate) const OUTCOMES: [&str; 7] =
    ["succeeded", "failed", "killed", "timed_out", "lost", "skipped", "missed"];

fn word(outcome: &Outcome) -> &'static str {
    OUTCOMES[match outcome {
        Outcome::Succeeded => 0,
        Outcome::Failed => 1,
        Outcome::Killed(_) => 2,
        Outcome::TimedOut => 3,
        Outcome::Lost => 4,
        Outcome::Skipped(_) => 5,
        Outcome::Missed(_) => 6,
    }]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a record is to the log, one line, in JSON without its time.
    fn told(record: &Record) -> serde_json::Value {
        #[derive(Clone, Default)]
        struct Lines(Arc<std::sync::Mutex<Vec<u8>>>);
        impl std::io::Write for Lines {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().expect("no panic").write(bytes)
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let (lines, log) = (Lines::default(), tracing_subscriber::fmt().json().with_target(false));
        let writer = lines.clone();
        let log = log.without_time().with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(log, || tell(record));
        let lines = lines.0.lock().expect("no panic");
        serde_json::from_slice(&lines).expect("one line of JSON")
    }

    #[test]
    fn the_log_says_what_became_of_a_run_in_the_words_of_the_api() {
        use scheduler::run::Skipped;
        use store::samples;

        let due = samples::ended(1, 2, Outcome::Failed);
        let Record::Run(due) = due else { panic!("a run") };
        let (job, due) = (due.job.to_string(), due.due.to_string());
        let superseded = Outcome::Skipped(Skipped::Superseded(samples::slot(1, 1)));
        let line = told(&samples::ended(1, 2, superseded));
        let fields = serde_json::json!({
            "job": job, "run": samples::slot(1, 2).to_string(), "due": due, "outcome": "skipped",
            "reason": format!("run {} was waiting already", samples::slot(1, 1)), "message": "run did not begin",
        });
        assert_eq!(line["fields"], fields);
        let line = told(&samples::ended(1, 2, Outcome::TimedOut));
        assert_eq!(line["fields"]["outcome"], "timedOut");
        assert_eq!(line["fields"]["message"], "run ended without success");
        let range = scheduler::run::SlotRange {
            job: scheduler::ids::JobUid(1),
            name: samples::name(1),
            first: scheduler::schedule::Nominal::Index(1),
            first_due: samples::at(0),
            last: scheduler::schedule::Nominal::Index(3),
            last_due: samples::at(2000),
            count: 3,
            recorded: samples::at(3000),
            outcome: Outcome::Skipped(Skipped::Paused { reason: "move".into() }),
        };
        let line = told(&Record::Range(range));
        let fields = serde_json::json!({
            "job": job, "first": samples::at(0).to_string(), "last": samples::at(2000).to_string(), "count": 3,
            "outcome": "skipped", "reason": "the job was paused: move", "message": "slots did not run",
        });
        assert_eq!(line["fields"], fields);
    }

    #[test]
    fn that_a_task_never_began_is_heard_once() {
        let (mut backlog, task) = (VecDeque::new(), TaskId::parse("report-1-i5-0").expect("a task id"));
        for news in [TaskNews::NeverBegan, TaskNews::Running, TaskNews::NeverBegan, TaskNews::Running] {
            hear(&mut backlog, task.clone(), news);
        }
        let heard: Vec<Event> = backlog.into();
        let expected = [TaskNews::NeverBegan, TaskNews::Running, TaskNews::Running];
        assert_eq!(heard, expected.map(|news| Event::Task { task: task.clone(), news }));
    }
}
