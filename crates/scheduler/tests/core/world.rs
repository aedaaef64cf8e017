//! A scheduler with a clock that the test sets, a ledger, and an engine that only remembers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use scheduler::audit::Entry;
use scheduler::ids::{Cause, JobName, RunKey, TaskId};
use scheduler::job::{Job, Retry, Rules};
use scheduler::limits::Limits;
use scheduler::notice::{Channels, Notice};
use scheduler::request::{Answer, Definition, PlanText, Refusal, Request, RequestId};
use scheduler::revision::Revision;
use scheduler::run::{AttemptEnd, Outcome, Record, Run, RunState};
use scheduler::schedule::{DstPolicy, Zones};
use scheduler::state::{Change, State};
use scheduler::{Effect, Event, Scheduler, Settings, TaskNews};

pub(crate) struct World {
    pub(crate) core: Scheduler,
    pub(crate) now: Timestamp,
    /// The state as a store would have it: only changes, applied in order.
    pub(crate) stored: State,
    pub(crate) ledger: Vec<Record>,
    /// Launches in order: job name, due, attempt.
    pub(crate) launches: Vec<(String, Timestamp, u32)>,
    /// Tasks that were launched and have not been told to have ended.
    pub(crate) alive: BTreeMap<TaskId, RunKey>,
    /// Tasks that may begin, and where.
    pub(crate) may_begin: Vec<(TaskId, Arc<str>)>,
    pub(crate) kills: BTreeSet<TaskId>,
    pub(crate) acknowledged: BTreeSet<TaskId>,
    /// Notices in the order in which they were sent.
    pub(crate) sent: Vec<Arc<Notice>>,
    pub(crate) revisions: Vec<Revision>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) answer: Option<Result<Answer, Refusal>>,
    /// What the next leader is told.
    pub(crate) settings: Settings,
}

pub(crate) fn at(text: &str) -> Timestamp {
    text.parse().unwrap_or_else(|_| format!("2030-01-01T{text}Z").parse().unwrap())
}

pub(crate) fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn settings(limits: Limits) -> Settings {
    Settings {
        node: "n1".into(),
        zones: Zones::bundled(),
        disable_after_failures: 0,
        retry_delay: Retry::DELAY,
        limits,
        set_batch: scheduler::SET_BATCH,
        channels: Channels::default(),
    }
}

impl World {
    /// Midnight of 2030 in UTC, the engine ready.
    pub(crate) fn new() -> Self {
        Self::with(settings(Limits::default()))
    }

    /// The same under limits.
    pub(crate) fn limited(limits: Limits) -> Self {
        Self::with(settings(limits))
    }

    /// The same, where people can be told of things, and a job is disabled after three failures in a row.
    pub(crate) fn telling(channels: Channels) -> Self {
        Self::with(Settings { channels, disable_after_failures: 3, ..settings(Limits::default()) })
    }

    /// The same, where jobs are disabled after so many failures.
    pub(crate) fn disabling_after(failures: u64) -> Self {
        Self::with(Settings { disable_after_failures: failures, ..settings(Limits::default()) })
    }

    /// The same, where jobs that do not say wait so long between attempts.
    pub(crate) fn retrying_after(delay: Duration) -> Self {
        Self::with(Settings { retry_delay: delay, ..settings(Limits::default()) })
    }

    /// The same, where sets of more than two jobs do not fit a batch.
    pub(crate) fn staging() -> Self {
        Self::with(Settings { set_batch: 2, ..settings(Limits::default()) })
    }

    fn with(settings: Settings) -> Self {
        let mut world = Self {
            core: Scheduler::new(State::default(), settings.clone()),
            sent: Vec::new(),
            now: at("00:00:00"),
            stored: State::default(),
            ledger: Vec::new(),
            launches: Vec::new(),
            alive: BTreeMap::new(),
            may_begin: Vec::new(),
            kills: BTreeSet::new(),
            acknowledged: BTreeSet::new(),
            revisions: Vec::new(),
            entries: Vec::new(),
            answer: None,
            settings,
        };
        world.event(Event::Engine { ready: true });
        world
    }

    pub(crate) fn event(&mut self, event: Event) {
        let step = self.core.step(self.now, event);
        for change in &step.changes {
            self.stored.apply(change);
            match change {
                Change::Append(record) => self.ledger.push((**record).clone()),
                Change::Revise(revision) => self.revisions.push((**revision).clone()),
                Change::Note(entry) => self.entries.push((**entry).clone()),
                _ => {}
            }
        }
        assert_eq!(self.stored, *self.core.state(), "the changes must lead to the state");
        for effect in step.effects {
            match effect {
                Effect::Launch { run, job } => self.launched(&run, &job),
                Effect::GoAhead { task, node } => self.may_begin.push((task, node)),
                Effect::Kill { task } => {
                    self.kills.insert(task);
                }
                Effect::Acknowledge { task } => {
                    self.acknowledged.insert(task);
                }
                Effect::Send { notice } => self.sent.push(notice),
                Effect::Answer { answer, .. } => self.answer = Some(answer),
            }
        }
    }

    fn launched(&mut self, run: &Arc<Run>, job: &Arc<Job>) {
        let RunState::Running(live) = &run.state else { panic!("a launched run must be running: {run:?}") };
        assert!(live.task.as_str().len() <= TaskId::LEN_MAX);
        assert_eq!(TaskId::parse(live.task.as_str()).as_ref(), Some(&live.task));
        self.launches.push((job.name.to_string(), run.due, live.attempt));
        self.alive.insert(live.task.clone(), run.key);
    }

    /// Lets time pass, waking exactly when the scheduler wants to.
    pub(crate) fn until(&mut self, time: &str) {
        let end = at(time);
        for _ in 0..100_000 {
            match self.core.wake_at() {
                Some(wake) if wake <= end => {
                    self.now = self.now.max(wake);
                    self.event(Event::Tick);
                }
                _ => {
                    self.now = end;
                    return;
                }
            }
        }
        panic!("the scheduler does not come to rest before {time}");
    }

    /// An outage: the leader dies, time passes, the next one loads what was stored.
    pub(crate) fn fail_over(&mut self, time: &str) {
        self.now = at(time);
        self.core = Scheduler::new(self.stored.clone(), self.settings.clone());
        self.event(Event::Engine { ready: true });
    }

    pub(crate) fn ask(&mut self, request: Request) -> Result<Answer, Refusal> {
        self.event(Event::Request { id: RequestId(1), request });
        for _ in 0..10_000 {
            if let Some(answer) = self.answer.take() {
                return answer;
            }
            // A large set takes several steps.
            self.event(Event::Tick);
        }
        panic!("every request is answered")
    }

    #[track_caller]
    pub(crate) fn put(&mut self, name: &str, schedule: &str, rules: Rules) {
        let plan = PlanText::Schedule { text: schedule.into(), zone: "".into(), dst: DstPolicy::default() };
        self.define(name, plan, rules).unwrap();
    }

    #[track_caller]
    pub(crate) fn put_child(&mut self, name: &str, parents: &[&str], rules: Rules) {
        self.try_child(name, parents, rules).unwrap();
    }

    pub(crate) fn try_child(
        &mut self,
        name: &str,
        parents: &[&str],
        rules: Rules,
    ) -> Result<Answer, Refusal> {
        let parents = parents.iter().map(|parent| job(parent)).collect();
        self.define(name, PlanText::Parents(parents), rules)
    }

    pub(crate) fn define(&mut self, name: &str, plan: PlanText, rules: Rules) -> Result<Answer, Refusal> {
        self.ask(Request::Put(Definition { name: job(name), plan, rules, body: "{}".into() }))
    }

    pub(crate) fn trigger(&mut self, name: &str) -> Result<Answer, Refusal> {
        self.ask(Request::Trigger { job: job(name), arguments: None })
    }

    /// The live tasks of a job, oldest run first.
    pub(crate) fn tasks(&self, name: &str) -> Vec<TaskId> {
        let of_job = |key: &RunKey| self.stored.runs.get(key).is_some_and(|run| run.job.as_str() == name);
        self.alive.iter().filter(|(_, key)| of_job(key)).map(|(task, _)| task.clone()).collect()
    }

    #[track_caller]
    pub(crate) fn end(&mut self, name: &str, end: AttemptEnd) {
        let task = self.tasks(name).first().unwrap_or_else(|| panic!("{name} has no live task")).clone();
        self.alive.remove(&task);
        self.event(Event::Task { task: task.clone(), news: TaskNews::Ended(end) });
        assert!(self.acknowledged.contains(&task), "an end must be acknowledged");
    }

    #[track_caller]
    pub(crate) fn succeed(&mut self, name: &str) {
        self.end(name, AttemptEnd::Succeeded);
    }

    #[track_caller]
    pub(crate) fn fail(&mut self, name: &str) {
        self.end(name, AttemptEnd::failed("no"));
    }

    #[track_caller]
    pub(crate) fn news(&mut self, name: &str, news: TaskNews) {
        let task = self.tasks(name).first().unwrap_or_else(|| panic!("{name} has no live task")).clone();
        self.event(Event::Task { task, news });
    }

    /// What was launched of a job: due times as `HH:MM:SS`, with `#n` for retries.
    pub(crate) fn launched_of(&self, name: &str) -> String {
        let of_job = self.launches.iter().filter(|(job, ..)| job == name);
        let show = |(_, due, attempt): &(String, Timestamp, u32)| {
            let clock = due.strftime("%H:%M:%S").to_string();
            if *attempt == 0 { clock } else { format!("{clock}#{attempt}") }
        };
        of_job.map(show).collect::<Vec<_>>().join(" ")
    }

    /// The ledger of a job, oldest first: outcomes, ranges with their count.
    pub(crate) fn ledger_of(&self, name: &str) -> String {
        let line = |record: &Record| match record {
            Record::Run(run) if run.job.as_str() == name => Some(outcome(&run.outcome)),
            Record::Range(range) if range.name.as_str() == name => {
                Some(format!("{} x{}", outcome(&range.outcome), range.count))
            }
            _ => None,
        };
        self.ledger.iter().filter_map(line).collect::<Vec<_>>().join(", ")
    }

    /// Every identity in the ledger is there once.
    pub(crate) fn audit(&self) {
        let mut keys = BTreeSet::new();
        for record in &self.ledger {
            if let Record::Run(run) = record {
                assert!(keys.insert(run.key), "two outcomes for {} of {}", run.key, run.job);
                assert!(!self.stored.runs.contains_key(&run.key), "{} has ended and lives", run.key);
                assert_eq!(run.key.to_string().parse(), Ok(run.key), "a key must survive its text");
            }
        }
        let mut slots: BTreeMap<_, u64> = BTreeMap::new();
        for record in &self.ledger {
            let (job, first, last) = match record {
                Record::Run(run) if matches!(run.key.cause, Cause::Slot { .. }) => {
                    (run.key.job, run.due, run.due)
                }
                Record::Run(_) => continue,
                Record::Range(range) => (range.job, range.first_due, range.last_due),
            };
            assert!(first <= last, "a range must not be empty: {record:?}");
            *slots.entry((job, first)).or_default() += 1;
        }
        assert!(slots.values().all(|count| *count == 1), "a slot is in the ledger twice: {slots:?}");
    }
}

pub(crate) fn job(name: &str) -> JobName {
    JobName::new(name).unwrap()
}

fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Succeeded => "succeeded".into(),
        Outcome::Failed => "failed".into(),
        Outcome::Killed(reason) => format!("killed {reason:?}").to_lowercase(),
        Outcome::TimedOut => "timed out".into(),
        Outcome::Lost => "lost".into(),
        Outcome::Skipped(why) => {
            let why = format!("{why:?}");
            let word: String = why.chars().take_while(char::is_ascii_alphabetic).collect();
            format!("skipped {}", word.to_lowercase())
        }
        Outcome::Missed(why) => format!("missed {why:?}").to_lowercase(),
    }
}
