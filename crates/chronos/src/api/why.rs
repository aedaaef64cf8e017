//! Why a job or a run is not running, or what became of it: one pure function of what is known.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use scheduler::QuickFailures;
use scheduler::ids::{Cause, JobUid, TaskId};
use scheduler::job::{Job, Overlap, Plan, Progress};
use scheduler::limits::Limits;
use scheduler::run::{Record, Run, RunState};
use scheduler::state::{Arrival, Join, Stage, State};
use serde::Serialize;
use utoipa::ToSchema;

use crate::node::{Node, Role, Status};
use crate::wire::duration;
use crate::wire::job::{instant, is_exhausted};

use super::load::{Hold, Load};
use super::{backfills, view};

/// One reason, the most telling first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Reason {
    /// For programs; never changes.
    pub code: &'static str,
    /// For people.
    pub message: String,
    /// Since when it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// When it will end by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

impl Reason {
    pub(super) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), since: None, until: None }
    }

    fn since(mut self, t: Timestamp) -> Self {
        self.since = Some(instant(t));
        self
    }

    fn until(mut self, t: Timestamp) -> Self {
        self.until = Some(instant(t));
        self
    }
}

/// What is known when the question is asked.
pub(super) struct Facts<'a> {
    pub(super) now: Timestamp,
    pub(super) state: &'a State,
    pub(super) status: &'a Status,
    /// What bounds launches, where this node leads.
    pub(super) limits: &'a Limits,
    /// Why the engine of the job cannot start its tasks now, though others run.
    pub(super) engine: Option<String>,
    /// Why a task that the engine has taken has not begun; see [`engine::Engine::waits_for`].
    pub(super) waits_for: &'a dyn Fn(&TaskId) -> Vec<String>,
    /// What ended last, newest first.
    pub(super) last: &'a [Record],
}

/// Why the engine of a job cannot start its tasks now, where that is not why it starts none at all.
pub(super) fn engine_of(node: &Node, job: &Job) -> Option<String> {
    let container = crate::wire::task::container(job)?;
    let spec = engine::TaskSpec { container: Some(container), ..engine::TaskSpec::default() };
    match node.engine.readiness_of(&spec) {
        engine::Readiness::Ready => None,
        engine::Readiness::NotReady { reason } => Some(reason),
    }
}

/// How many live runs and open joins of a job are explained; the others have the same reasons.
const EXPLAINED_MAX: usize = 10;

impl Facts<'_> {
    /// Why the job does not run now, and what it waits for.
    pub(super) fn of_job(&self, job: &Job, progress: &Progress) -> Vec<Reason> {
        let mut reasons = Vec::new();
        for run in self.state.runs_of(job.uid).take(EXPLAINED_MAX) {
            reasons.extend(self.of_live(run, Some(job)));
        }
        reasons.extend(self.rules(job, progress));
        for (message, since) in backfills::reasons(self.state, job) {
            reasons.push(Reason::new("backfill", message).since(since));
        }
        match &job.plan {
            Plan::Schedule(_) => reasons.extend(self.slots(job, progress)),
            Plan::Parents(parents) => reasons.extend(self.joins(job, progress, parents)),
        }
        if reasons.iter().all(|r| r.code != "cluster" && r.code != "not_leading") {
            reasons.extend(self.cluster());
        }
        reasons.extend(self.last.first().map(|record| self.ended(record)));
        reasons
    }

    /// Why a live run is not over yet. `job` is absent when it was deleted.
    pub(super) fn of_live(&self, run: &Run, job: Option<&Job>) -> Vec<Reason> {
        let mut reasons = Vec::new();
        match &run.state {
            RunState::Running(live) => {
                let waits = if live.started.is_some() { Vec::new() } else { (self.waits_for)(&live.task) };
                for (n, why) in waits.iter().enumerate() {
                    let message = match n {
                        0 => format!("run {}: attempt {} has no place yet: {why}", run.key, live.attempt),
                        _ => why.clone(),
                    };
                    reasons.push(Reason::new("place", message).since(live.launched));
                }
                let begun = if live.started.is_some() {
                    "runs"
                } else {
                    "has been launched and not yet been seen running"
                };
                let message =
                    format!("run {}: attempt {} {begun} on node {}", run.key, live.attempt, live.node);
                if waits.is_empty() {
                    reasons
                        .push(Reason::new("running", message).since(live.started.unwrap_or(live.launched)));
                }
                if let Some(since) = live.unknown_since {
                    let message = format!(
                        "run {}: nobody can tell how attempt {} goes; it blocks the job until the engine knows, or is lost",
                        run.key, live.attempt
                    );
                    let reason = Reason::new("unknown_fate", message).since(since);
                    let lost = job.and_then(|job| since.checked_add(job.rules.lost_after).ok());
                    reasons.push(match lost {
                        Some(lost) => reason.until(lost),
                        None => reason,
                    });
                }
                if live.kill.is_some() {
                    reasons.push(Reason::new(
                        "killing",
                        format!("run {}: attempt {} is being ended", run.key, live.attempt),
                    ));
                }
            }
            RunState::Waiting { attempt: 0, until } => {
                reasons.push(self.not_begun(run, job, *until));
                reasons.extend(self.engine(run));
            }
            RunState::Waiting { attempt, until } => {
                let last = run.attempts.last();
                let before = last.map_or_else(
                    || "an attempt failed".into(),
                    |last| {
                        let how = view::fault(last).map(|how| format!(": {how}")).unwrap_or_default();
                        format!("attempt {} failed{how}", last.number)
                    },
                );
                let message =
                    format!("run {}: {before}; attempt {attempt} may start at {}", run.key, instant(*until));
                reasons.push(Reason::new("retry", message).until(*until));
                if *until <= self.now {
                    reasons.extend(self.held(run, job));
                }
            }
            RunState::Queued => {
                reasons.push(
                    Reason::new("queued", format!("run {} is waiting to be started", run.key))
                        .since(run.created),
                );
                reasons.extend(self.held(run, job));
                let deadline =
                    job.filter(|_| run.attempts.is_empty()).and_then(|job| job.rules.start_deadline(run));
                if let Some(deadline) = deadline {
                    let message = format!(
                        "run {} is missed unless it starts by {} (epsilon)",
                        run.key,
                        instant(deadline)
                    );
                    reasons.push(Reason::new("deadline", message).until(deadline));
                }
            }
        }
        reasons
    }

    /// What became of a run that is over.
    pub(super) fn ended(&self, record: &Record) -> Reason {
        let view = view::RunView::of(record);
        let outcome = view.outcome.unwrap_or_default();
        let what = match (&view.key, view.count) {
            (Some(key), _) => format!("run {key}, due {},", view.due.unwrap_or_default()),
            (None, Some(1)) => format!("the slot of {}", view.first_due.unwrap_or_default()),
            (None, count) => format!(
                "{} slots from {} to {}",
                count.unwrap_or_default(),
                view.first_due.unwrap_or_default(),
                view.last_due.unwrap_or_default()
            ),
        };
        let why = view.reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        Reason { since: view.ended, ..Reason::new("ended", format!("{what} {outcome}{why}")) }
    }

    /// What keeps a run that might start from starting.
    fn held(&self, run: &Run, job: Option<&Job>) -> Vec<Reason> {
        let others = self
            .state
            .runs_of(run.key.job)
            .filter(|other| other.key != run.key && !matches!(other.state, RunState::Queued));
        let room = match job.map(|job| job.rules.overlap) {
            Some(Overlap::Allow { max }) => max as usize,
            _ => 1,
        };
        let mut reasons = Vec::new();
        let busy: Vec<_> = others.collect();
        if let Some(other) = busy.first().filter(|_| busy.len() >= room) {
            let message = match busy.len() {
                1 => format!("run {} waits until run {} of the same job is over", run.key, other.key),
                n => format!(
                    "run {} waits until one of {n} runs of the same job is over, such as {}",
                    run.key, other.key
                ),
            };
            reasons.push(Reason::new("overlap", message).since(other.created));
        } else if let Some(other) = self.goes_before(run, room.saturating_sub(busy.len())) {
            let message =
                format!("run {} is of a past slot: what is due now comes first, run {}", run.key, other.key);
            reasons.push(Reason::new("overlap", message).since(other.created));
        } else if let Some(job) = job {
            reasons.extend(self.limit(run, job));
        }
        reasons.extend(self.engine(run));
        reasons.extend(self.cluster());
        reasons
    }

    /// What its engine lacks, where others do not.
    fn engine(&self, run: &Run) -> Option<Reason> {
        let reason = self.engine.as_ref()?;
        Some(Reason::new("engine", format!("run {} waits for its container: {reason}", run.key)))
    }

    /// The first of those queued runs of the same job that leave no room for one of a past slot, if they do.
    fn goes_before(&self, run: &Run, room: usize) -> Option<&Run> {
        let past = |run: &Run| matches!(run.key.cause, Cause::Backfill { .. }) && run.attempts.is_empty();
        let due = |other: &&Arc<Run>| other.state == RunState::Queued && !past(other);
        let others: Vec<&Arc<Run>> = self.state.runs_of(run.key.job).filter(due).collect();
        others.first().filter(|_| past(run) && others.len() >= room).map(|other| &***other)
    }

    /// The limit of the server that a run waits for.
    fn limit(&self, run: &Run, job: &Job) -> Option<Reason> {
        let Hold { flag, what, before } = Load::of(self.state, self.limits).hold(run, job)?;
        let others = match before {
            0 => String::new(),
            1 => "; 1 run is before it".into(),
            n => format!("; {n} runs are before it"),
        };
        Some(Reason::new("limit", format!("run {} waits: {what} (--{flag}){others}", run.key)))
    }

    /// A first attempt that may not start yet: because of jitter, or because the engine did not take it.
    fn not_begun(&self, run: &Run, job: Option<&Job>, until: Timestamp) -> Reason {
        let jitter = job.filter(|job| job.rules.starts_at(run) == until).and_then(|job| job.rules.jitter);
        let message = match jitter {
            Some(jitter) => {
                let part =
                    Duration::try_from(until.duration_since(run.due.max(run.created))).unwrap_or_default();
                let (part, jitter) = (duration::text(part), duration::text(jitter));
                format!("run {} starts at {}: {part} of its jitter of {jitter}", run.key, instant(until))
            }
            None => format!("run {} did not begin on the engine; it is launched again", run.key),
        };
        Reason::new(if jitter.is_some() { "jitter" } else { "relaunch" }, message).until(until)
    }

    /// What keeps every job from running.
    fn cluster(&self) -> Vec<Reason> {
        let message = match self.status.role {
            Role::Leading(_) => {
                return self
                    .status
                    .troubles
                    .iter()
                    .map(|t| Reason::new("cluster", format!("nothing is launched: {t}")))
                    .collect();
            }
            Role::Preparing(_) => "this node has just been elected and is preparing to lead",
            Role::Standby => "this node does not lead; ask the one that does",
            Role::Starting => "this node is starting and has not heard from the store yet",
        };
        vec![Reason::new("not_leading", message)]
    }

    fn rules(&self, job: &Job, progress: &Progress) -> Vec<Reason> {
        let mut reasons = Vec::new();
        if job.rules.disabled {
            reasons.push(Reason::new(
                "disabled",
                "the job is disabled: it has no slots, and its parents do not start it",
            ));
        } else if is_exhausted(job, progress) {
            let message = match self.state.runs_of(job.uid).next() {
                Some(_) => "no slot follows: the last one of the schedule has been taken up",
                None => "the schedule is over: all its slots have been",
            };
            reasons.push(Reason::new("exhausted", message));
        }
        if let Some(pause) = view::pause(progress, self.now) {
            let why = if pause.reason.is_empty() { String::new() } else { format!(": {}", pause.reason) };
            let reason = Reason::new("paused", format!("the job is paused{why}")).since(pause.since);
            reasons.push(match pause.until {
                Some(until) => reason.until(until),
                None => reason,
            });
        }
        if let Some(failures) = progress.quick_failures.as_ref().filter(|failures| failures.is_loop()) {
            let message = format!(
                "the last {} attempts failed within {} of their launch, so launches are {} apart until one succeeds or lives longer",
                failures.count,
                duration::text(QuickFailures::WITHIN),
                duration::text(failures.pause())
            );
            let reason = Reason::new("launch_loop", message).since(failures.last);
            reasons.push(match failures.until {
                Some(until) => reason.until(until),
                None => reason,
            });
        }
        reasons
    }

    fn slots(&self, job: &Job, progress: &Progress) -> Vec<Reason> {
        let Some(next) = progress.next.filter(|_| !job.rules.disabled) else { return Vec::new() };
        if let Some(pause) = view::pause(progress, self.now)
            && pause.until.is_none_or(|until| until > next.due)
        {
            let message = format!("the slot due at {} will be skipped, for the pause", instant(next.due));
            return vec![Reason::new("not_due", message)];
        }
        if next.due > self.now {
            let message = format!("the next slot is due at {}", instant(next.due));
            return vec![Reason::new("not_due", message).until(next.due)];
        }
        let message =
            format!("a slot has been due since {} and has not been taken up yet", instant(next.due));
        let mut reasons = vec![Reason::new("due", message).since(next.due)];
        reasons.extend(self.cluster());
        reasons
    }

    fn joins(&self, job: &Job, progress: &Progress, parents: &[JobUid]) -> Vec<Reason> {
        let open = self.state.joins_of(job.uid).filter(|join| join.stage == Stage::Open).take(EXPLAINED_MAX);
        let mut reasons: Vec<_> = open.map(|join| self.join(join)).collect();
        if reasons.is_empty() {
            let arrived: Vec<_> = progress.flags.iter().map(|(parent, _)| *parent).collect();
            let missing: Vec<_> = parents.iter().copied().filter(|p| !arrived.contains(p)).collect();
            let mut message = format!("waits until {} succeeded", self.have(&missing));
            if !arrived.is_empty() {
                message.push_str(&format!(" (arrived: {})", self.names(&arrived)));
            }
            reasons.push(Reason::new("waiting_for_parents", message));
        }
        for parent in parents {
            let (Some(parent), Some(progress)) =
                (self.state.jobs.get(parent), self.state.progress.get(parent))
            else {
                continue;
            };
            // What it does, before what will keep it from doing so again.
            let live = self.state.runs_of(parent.uid).next();
            let live = live.and_then(|run| self.of_live(run, Some(parent)).into_iter().next());
            for reason in live.into_iter().chain(self.rules(parent, progress)) {
                let message = format!("parent {}: {}", parent.name, reason.message);
                reasons.push(Reason { code: "parent", message, ..reason });
            }
        }
        reasons
    }

    fn join(&self, join: &Join) -> Reason {
        let of = |arrival| {
            join.parents.iter().filter(|(_, a)| *a == arrival).map(|(uid, _)| *uid).collect::<Vec<_>>()
        };
        let (awaited, arrived, failed) = (of(Arrival::Awaited), of(Arrival::Succeeded), of(Arrival::Failed));
        let mut message =
            format!("cycle {}: waits until {} succeeded", instant(join.cycle.due), self.have(&awaited));
        let told: Vec<_> = [("arrived", arrived), ("failed", failed)]
            .iter()
            .filter(|(_, who)| !who.is_empty())
            .map(|(word, who)| format!("{word}: {}", self.names(who)))
            .collect();
        if !told.is_empty() {
            message.push_str(&format!(" ({})", told.join("; ")));
        }
        Reason::new("waiting_for_parents", message).since(join.opened)
    }

    fn have(&self, who: &[JobUid]) -> String {
        format!("{} {}", self.names(who), if who.len() == 1 { "has" } else { "have" })
    }

    fn names(&self, who: &[JobUid]) -> String {
        let mut names: Vec<_> = who
            .iter()
            .map(|uid| {
                self.state.jobs.get(uid).map_or_else(|| "a deleted job".into(), |j| j.name.to_string())
            })
            .collect();
        names.sort();
        let more = names.len().saturating_sub(EXPLAINED_MAX);
        names.truncate(EXPLAINED_MAX);
        let names = names.join(", ");
        if more == 0 { names } else { format!("{names} and {more} more") }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use scheduler::ids::{Cycle, Epoch, GraphVersion, RunKey};
    use scheduler::job::{Pause, Rules, Tags, Timetable};
    use scheduler::limits::LabelLimit;
    use scheduler::run::{Attempt, AttemptEnd, KillReason, Live};
    use scheduler::schedule::{Nominal, Slot};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_900_000_000 + second).expect("a time")
    }

    /// Job `a` with a schedule; `c` with the parents `a` and `b`.
    fn state() -> State {
        let mut state = State::default();
        let timetable = Timetable {
            text: "R//PT1H".into(),
            zone: "".into(),
            dst: Default::default(),
            anchor: at(0),
            plan: 1,
        };
        let plans = [
            Plan::Schedule(timetable.clone()),
            Plan::Schedule(timetable),
            Plan::Parents(vec![JobUid(1), JobUid(2)]),
        ];
        for ((uid, name), plan) in (1..).zip(["a", "b", "c"]).zip(plans) {
            let job = Job {
                uid: JobUid(uid),
                version: 1,
                created: at(0),
                changed: at(0),
                joins_from: GraphVersion(0),
                name: scheduler::ids::JobName::new(name).expect("a name"),
                plan,
                rules: Rules::default().shared(),
                body: "{}".into(),
            };
            let next = Slot { nominal: Nominal::Index(1), due: at(3600) };
            state.jobs.insert(job.uid, Arc::new(job));
            state
                .progress
                .insert(JobUid(uid), Arc::new(Progress { next: Some(next), ..Progress::new(at(0)) }));
        }
        state
    }

    fn run(job: u64, number: u32, run_state: RunState) -> Arc<Run> {
        let key = RunKey { job: JobUid(job), cause: Cause::Trigger(number) };
        let cycle = Cycle { due: at(0), origin: JobUid(job), seq: number };
        let name = scheduler::ids::JobName::new("a").expect("a name");
        Arc::new(Run {
            key,
            job: name,
            cycle,
            graph: GraphVersion(0),
            due: at(0),
            created: at(0),
            again: false,
            arguments: None,
            state: run_state,
            attempts: Vec::new(),
            told: Default::default(),
        })
    }

    fn live(job: u64, number: u32, unknown: Option<Timestamp>, kill: Option<KillReason>) -> Arc<Run> {
        let task = TaskId::parse("a-1-t1-0").expect("a task");
        let live = Live {
            attempt: 0,
            task,
            launched: at(0),
            node: "n".into(),
            started: Some(at(1)),
            unknown_since: unknown,
            kill,
            elements: 0,
        };
        run(job, number, RunState::Running(live))
    }

    fn attempt(end: AttemptEnd) -> Attempt {
        let node = "n".into();
        Attempt { number: 0, launched: at(0), started: None, ended: at(1), node, end, elements: 0 }
    }

    const WELL: Status = Status { role: Role::Leading(Epoch(1)), troubles: Vec::new() };

    /// The codes of the reasons, and that one of the messages says so.
    #[track_caller]
    fn check(state: &State, status: &Status, job: u64, codes: &[&str], says: &str) {
        check_limited(state, &Limits::default(), status, job, codes, says);
    }

    #[track_caller]
    fn check_limited(state: &State, limits: &Limits, status: &Status, job: u64, codes: &[&str], says: &str) {
        let facts =
            Facts { now: at(10), state, status, limits, engine: None, waits_for: &|_| Vec::new(), last: &[] };
        let reasons = facts.of_job(&state.jobs[&JobUid(job)], &state.progress[&JobUid(job)]);
        let found: Vec<_> = reasons.iter().map(|r| r.code).collect();
        assert_eq!(found, codes, "{reasons:#?}");
        assert!(reasons.iter().any(|r| r.message.contains(says)), "{reasons:#?}");
    }

    #[test]
    fn a_task_without_a_place_says_what_it_lacks() {
        let task = TaskId::parse("a-1-t1-0").expect("a task");
        let live = Live {
            attempt: 0,
            task: task.clone(),
            launched: at(0),
            node: "mesos".into(),
            started: None,
            unknown_since: None,
            kill: None,
            elements: 0,
        };
        let run = run(1, 1, RunState::Running(live));
        let (state, limits) = (State::default(), Limits::default());
        let waits_for = &|asked: &TaskId| {
            assert_eq!(*asked, task);
            vec!["no agent has room for it".to_owned(), "the master was heard 1 s ago".to_owned()]
        };
        let facts = Facts {
            now: at(10),
            state: &state,
            status: &WELL,
            limits: &limits,
            engine: None,
            waits_for,
            last: &[],
        };
        let reasons = facts.of_live(&run, None);
        assert!(reasons.iter().all(|reason| reason.code == "place") && reasons.len() == 2, "{reasons:#?}");
        assert!(reasons[0].message.ends_with("has no place yet: no agent has room for it"), "{reasons:#?}");
    }

    fn with_rules(state: &mut State, job: u64, change: impl FnOnce(&mut Rules)) {
        let mut changed = Job::clone(&state.jobs[&JobUid(job)]);
        change(Arc::make_mut(&mut changed.rules));
        state.jobs.insert(JobUid(job), Arc::new(changed));
    }

    fn with_progress(state: &mut State, job: u64, change: impl FnOnce(&mut Progress)) {
        let mut changed = Progress::clone(&state.progress[&JobUid(job)]);
        change(&mut changed);
        state.progress.insert(JobUid(job), Arc::new(changed));
    }

    #[test]
    fn a_schedule_that_waits_says_for_what() {
        let mut s = state();
        check(&s, &WELL, 1, &["not_due"], "the next slot is due at 2030-03-17T18:46:40.000Z");
        let held = Status { troubles: vec!["the clock jumped".into()], ..WELL };
        check(&s, &held, 1, &["not_due", "cluster"], "nothing is launched: the clock jumped");
        check(&s, &Status { role: Role::Standby, ..WELL }, 1, &["not_due", "not_leading"], "does not lead");
        with_progress(&mut s, 1, |p| {
            p.paused = Some(Box::new(Pause { since: at(1), reason: "move".into(), until: Some(at(99)) }))
        });
        check(&s, &WELL, 1, &["paused", "not_due"], "the job is paused: move");
        check(&s, &WELL, 1, &["paused", "not_due"], "the next slot is due at");
        with_progress(&mut s, 1, |p| p.paused.as_mut().expect("a pause").until = None);
        let says = "the slot due at 2030-03-17T18:46:40.000Z will be skipped, for the pause";
        check(&s, &WELL, 1, &["paused", "not_due"], says);
        with_progress(&mut s, 1, |p| {
            p.paused = Some(Box::new(Pause { since: at(1), reason: "move".into(), until: Some(at(9)) }))
        });
        check(&s, &WELL, 1, &["not_due"], "due at");
        with_progress(&mut s, 1, |p| p.next = Some(Slot { nominal: Nominal::Index(0), due: at(5) }));
        check(&s, &held, 1, &["due", "cluster"], "has been due since");
        with_rules(&mut s, 1, |r| r.disabled = true);
        check(&s, &WELL, 1, &["disabled"], "disabled");
        let mut s = state();
        with_progress(&mut s, 1, |p| (p.next, p.remaining) = (None, Some(0)));
        check(&s, &WELL, 1, &["exhausted"], "over");
    }

    #[test]
    fn a_run_that_waits_says_for_what() {
        let mut s = state();
        s.runs.insert(live(1, 1, None, None).key, live(1, 1, None, None));
        check(&s, &WELL, 1, &["running", "not_due"], "attempt 0 runs on node n");
        let queued = run(1, 2, RunState::Queued);
        s.runs.insert(queued.key, queued);
        check(
            &s,
            &WELL,
            1,
            &["running", "queued", "overlap", "not_due"],
            "waits until run 1-t1 of the same job is over",
        );
        with_rules(&mut s, 1, |r| {
            (r.overlap, r.epsilon) = (Overlap::Allow { max: 2 }, Some(Duration::from_secs(60)))
        });
        check(&s, &WELL, 1, &["running", "queued", "not_due"], "is waiting to be started");
        let slot = RunKey { job: JobUid(1), cause: Cause::Slot { plan: 1, nominal: Nominal::Index(0) } };
        s.runs.insert(slot, Arc::new(Run { key: slot, ..Run::clone(&run(1, 2, RunState::Queued)) }));
        let codes = ["queued", "deadline", "running", "queued", "not_due"];
        check(&s, &WELL, 1, &codes, "is missed unless it starts by");
        s.runs.remove(&slot);
        let mut waiting = Run::clone(&run(1, 2, RunState::Waiting { attempt: 1, until: at(70) }));
        s.runs.insert(waiting.key, Arc::new(waiting.clone()));
        check(&s, &WELL, 1, &["running", "retry", "not_due"], "attempt 1 may start at");
        waiting.attempts = vec![attempt(AttemptEnd::TimedOut), attempt(AttemptEnd::failed("disk is full"))];
        waiting.attempts[1].number = 1;
        waiting.state = RunState::Waiting { attempt: 2, until: at(70) };
        s.runs.insert(waiting.key, Arc::new(waiting.clone()));
        let says =
            "run 1-t2: attempt 1 failed: disk is full; attempt 2 may start at 2030-03-17T17:47:50.000Z";
        check(&s, &WELL, 1, &["running", "retry", "not_due"], says);
        waiting.attempts.pop();
        waiting.state = RunState::Waiting { attempt: 1, until: at(70) };
        s.runs.insert(waiting.key, Arc::new(waiting));
        let says = "attempt 0 failed: it ran longer than maxCompletionTime; attempt 1 may";
        check(&s, &WELL, 1, &["running", "retry", "not_due"], says);
        let unknown = live(1, 1, Some(at(5)), Some(KillReason::Asked));
        s.runs.insert(unknown.key, unknown);
        check(&s, &WELL, 1, &["running", "unknown_fate", "killing", "retry", "not_due"], "nobody can tell");
    }

    #[test]
    fn a_run_that_a_limit_holds_names_it() {
        let mut s = state();
        let labels = |value: &str| {
            let labels = [("team".into(), value.into())].into();
            Tags { owner: "o".into(), labels }.kept()
        };
        with_rules(&mut s, 1, |r| r.tags = labels("etl"));
        with_rules(&mut s, 2, |r| r.tags = labels("etl"));
        s.runs.insert(live(1, 1, None, None).key, live(1, 1, None, None));
        for number in [1, 2] {
            let queued = run(2, number, RunState::Queued);
            s.runs.insert(queued.key, queued);
        }
        let one = std::num::NonZeroU32::MIN;
        let by_label = LabelLimit { key: "team".into(), value: None, max: one };
        let label = Limits { running_max_by_label: vec![by_label], ..Limits::default() };
        let codes = ["queued", "limit", "queued", "limit", "not_due"];
        let says = "run 2-t2 waits: 1 of 1 tasks with label team=etl are running (--running_max_by_label team:1); 1 run is before it";
        check_limited(&s, &label, &WELL, 2, &codes, says);
        let server = Limits { running_max: Some(one), ..label };
        check_limited(
            &s,
            &server,
            &WELL,
            2,
            &codes,
            "run 2-t1 waits: 1 of 1 tasks are running (--running_max 1)",
        );
        let rate = Limits { launch_rate_max: Some(one), ..Limits::default() };
        check_limited(
            &s,
            &rate,
            &WELL,
            2,
            &codes,
            "no more than 1 tasks are launched in a second (--launch_rate_max 1)",
        );
        // Of a past slot that has not begun, because what is due now of its job waits too.
        let cause = Cause::Backfill { number: 1, nominal: Nominal::Index(0) };
        let past = RunKey { job: JobUid(2), cause };
        s.runs.insert(past, Arc::new(Run { key: past, ..Run::clone(&run(2, 1, RunState::Queued)) }));
        let codes = ["queued", "limit", "queued", "limit", "queued", "overlap", "not_due"];
        check_limited(
            &s,
            &server,
            &WELL,
            2,
            &codes,
            "is of a past slot: what is due now comes first, run 2-t1",
        );
        s.runs.remove(&past);
        let held = Load::of(&s, &server).held();
        assert_eq!(
            held.into_iter().collect::<Vec<_>>(),
            [("running_max 1".into(), 2), ("running_max_by_label team:1".into(), 0)]
        );
    }

    #[test]
    fn jitter_and_launch_loops_say_until_when() {
        let mut s = state();
        with_rules(&mut s, 1, |r| r.jitter = Some(Duration::from_secs(300)));
        let slot = Nominal::Index(1);
        let key = RunKey { job: JobUid(1), cause: Cause::Slot { plan: 1, nominal: slot } };
        let mut waiting = Run { key, ..Run::clone(&run(1, 1, RunState::Queued)) };
        let until = s.jobs[&JobUid(1)].rules.starts_at(&waiting);
        waiting.state = RunState::Waiting { attempt: 0, until };
        s.runs.insert(key, Arc::new(waiting));
        check(&s, &WELL, 1, &["jitter", "not_due"], "of its jitter of 5m");
        with_progress(&mut s, 2, |p| {
            let failures = QuickFailures { count: 7, last: at(8), until: Some(at(12)) };
            p.quick_failures = Some(Box::new(failures));
        });
        let says = "the last 7 attempts failed within 1s of their launch, so launches are 4s apart";
        check(&s, &WELL, 2, &["launch_loop", "not_due"], says);
    }

    #[test]
    fn a_dependent_says_which_parents_it_waits_for() {
        let mut s = state();
        check(&s, &WELL, 3, &["waiting_for_parents"], "waits until a, b have succeeded");
        with_progress(&mut s, 3, |p| {
            p.flags = vec![(JobUid(2), Cycle { due: at(0), origin: JobUid(2), seq: 0 })]
        });
        check(&s, &WELL, 3, &["waiting_for_parents"], "waits until a has succeeded (arrived: b)");
        let cycle = Cycle { due: at(0), origin: JobUid(1), seq: 0 };
        let parents = vec![(JobUid(1), Arrival::Awaited), (JobUid(2), Arrival::Succeeded)];
        let (child, graph) = (JobUid(3), GraphVersion(0));
        let join = Join { child, cycle, graph, opened: at(2), parents, stage: Stage::Open, again: false };
        s.joins.insert((JobUid(3), cycle), Arc::new(join));
        with_rules(&mut s, 1, |r| r.disabled = true);
        check(
            &s,
            &WELL,
            3,
            &["waiting_for_parents", "parent"],
            "cycle 2030-03-17T17:46:40.000Z: waits until a has succeeded (arrived: b)",
        );
        check(&s, &WELL, 3, &["waiting_for_parents", "parent"], "parent a: the job is disabled");
    }

    /// Whoever reads that the schedule is over must not think that the child will never run.
    #[test]
    fn a_parent_that_runs_its_last_slot_is_said_to_run() {
        let mut s = state();
        with_progress(&mut s, 1, |p| (p.next, p.remaining) = (None, Some(0)));
        check(&s, &WELL, 3, &["waiting_for_parents", "parent"], "parent a: the schedule is over");
        s.runs.insert(live(1, 1, None, None).key, live(1, 1, None, None));
        let codes = ["waiting_for_parents", "parent", "parent"];
        check(&s, &WELL, 3, &codes, "parent a: run 1-t1: attempt 0 runs on node n");
        check(&s, &WELL, 3, &codes, "parent a: no slot follows");
        check(&s, &WELL, 1, &["running", "exhausted"], "no slot follows");
    }
}
