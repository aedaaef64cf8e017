//! What jobs and runs look like from outside.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use scheduler::ids::{Cause, JobName, JobUid, RunKey, TaskId};
use scheduler::job::{CatchUp, Guarantee, Job, Overlap, Pause, Plan, Progress, Rules};
use scheduler::run::{Attempt, AttemptEnd, EndedRun, KillReason, Record, Run, RunState, SlotRange};
use scheduler::schedule::{Slot, Zones};
use serde::Serialize;
use serde_json::{Map, Value};
use store::OutcomeKind;
use store::projection::{Projection, ProjectionHandle};
use utoipa::ToSchema;

use crate::wire::duration;
use crate::wire::job::{instant, is_exhausted};
pub(super) use crate::wire::outcome::{fault, word};
use crate::wire::outcome::{reason, why, word_of_end};

/// A run, or a row of slots that never became runs.
#[derive(Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunView {
    /// Identity of the run; absent for a row of slots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Name of its job.
    pub job: String,
    /// `queued`, `running`, `waiting` (for a retry) or `ended`.
    pub state: &'static str,
    /// `slot`, `trigger`, `join` or `backfill`.
    pub cause: &'static str,
    /// When it should have started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due: Option<String>,
    /// Due time of the root run of its chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cycle: Option<String>,
    /// When it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// When its outcome became known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// `succeeded`, `failed`, `killed`, `timedOut`, `lost`, `skipped` or `missed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<&'static str>,
    /// Why that outcome; while it waits for its next attempt, what was wrong with the one before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Arguments of a manual run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments: Option<String>,
    /// When the next attempt may start, while it waits for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Attempts, oldest first; the last one may be running.
    pub attempts: Vec<AttemptView>,
    /// Of a row of slots: how many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Of a row of slots: due time of the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_due: Option<String>,
    /// Of a row of slots: due time of the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_due: Option<String>,
}

/// One attempt of a run.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttemptView {
    /// Counted from 0.
    pub number: u32,
    /// What the engine calls it.
    pub task: String,
    /// The node whose engine has it.
    pub node: String,
    /// When its launch became durable.
    pub launched: String,
    /// When the engine first said that it ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    /// When its end became known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// `running`, `succeeded`, `failed`, `killed`, `timedOut` or `lost`.
    pub outcome: &'static str,
    /// Exit status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit: Option<i32>,
    /// The signal that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// What the engine says about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Since when nobody can tell how it goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown_since: Option<String>,
    /// Why it is being ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub killing: Option<&'static str>,
    /// Elements of data that it says it has processed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub elements: Option<u64>,
}

/// What an attempt has said of its progress, if it has.
fn elements(said: u64) -> Option<u64> {
    (said > 0).then_some(said)
}

fn cause(key: RunKey) -> &'static str {
    match key.cause {
        Cause::Slot { .. } => "slot",
        Cause::Trigger(_) => "trigger",
        Cause::Join { .. } => "join",
        Cause::Backfill { .. } => "backfill",
    }
}

impl RunView {
    /// A run that has not ended.
    pub(super) fn live(run: &Run) -> Self {
        let mut attempts: Vec<_> =
            run.attempts.iter().map(|a| AttemptView::ended(&run.job, run.key, a)).collect();
        let fault = match &run.state {
            RunState::Running(_) => None,
            RunState::Queued | RunState::Waiting { .. } => run.attempts.last().and_then(fault),
        };
        let (state, until) = match &run.state {
            RunState::Queued => ("queued", None),
            RunState::Waiting { until, .. } => ("waiting", Some(instant(*until))),
            RunState::Running(live) => {
                attempts.push(AttemptView {
                    number: live.attempt,
                    task: live.task.to_string(),
                    node: live.node.to_string(),
                    launched: instant(live.launched),
                    started: live.started.map(instant),
                    ended: None,
                    outcome: "running",
                    exit: None,
                    signal: None,
                    message: None,
                    unknown_since: live.unknown_since.map(instant),
                    killing: live.kill.as_ref().map(killing),
                    elements: elements(live.elements),
                });
                ("running", None)
            }
        };
        Self {
            key: Some(run.key.to_string()),
            job: run.job.to_string(),
            state,
            cause: cause(run.key),
            due: Some(instant(run.due)),
            cycle: Some(instant(run.cycle.due)),
            created: Some(instant(run.created)),
            reason: fault,
            arguments: run.arguments.as_ref().map(ToString::to_string),
            until,
            attempts,
            ..Self::default()
        }
    }

    /// A line of the ledger.
    pub(super) fn of(record: &Record) -> Self {
        match record {
            Record::Run(run) => Self::ended(run),
            Record::Range(range) => Self::range(range),
        }
    }

    fn ended(run: &EndedRun) -> Self {
        Self {
            key: Some(run.key.to_string()),
            job: run.job.to_string(),
            state: "ended",
            cause: cause(run.key),
            due: Some(instant(run.due)),
            cycle: Some(instant(run.cycle.due)),
            created: Some(instant(run.created)),
            ended: Some(instant(run.ended)),
            outcome: Some(word(OutcomeKind::of(&run.outcome))),
            reason: why(run),
            arguments: run.arguments.as_ref().map(ToString::to_string),
            attempts: run.attempts.iter().map(|a| AttemptView::ended(&run.job, run.key, a)).collect(),
            ..Self::default()
        }
    }

    fn range(range: &SlotRange) -> Self {
        Self {
            job: range.name.to_string(),
            state: "ended",
            cause: "slot",
            ended: Some(instant(range.recorded)),
            outcome: Some(word(OutcomeKind::of(&range.outcome))),
            reason: reason(&range.outcome),
            count: Some(range.count),
            first_due: Some(instant(range.first_due)),
            last_due: Some(instant(range.last_due)),
            ..Self::default()
        }
    }
}

fn killing(reason: &KillReason) -> &'static str {
    match reason {
        KillReason::Asked => "asked",
        KillReason::TimedOut => "timedOut",
        KillReason::Replaced => "replaced",
        KillReason::Deleted => "deleted",
        KillReason::Restored => "restored",
    }
}

/// Exit status, signal and message of an end, as far as it has them.
pub(super) fn details(end: &AttemptEnd) -> (Option<i32>, Option<i32>, Option<String>) {
    match end {
        AttemptEnd::Succeeded => (Some(0), None, None),
        AttemptEnd::Failed { exit, signal, message } => (*exit, *signal, Some(message.to_string())),
        AttemptEnd::Killed | AttemptEnd::TimedOut => (None, None, None),
        AttemptEnd::Lost { message } => (None, None, Some(message.to_string())),
    }
}

impl AttemptView {
    fn ended(job: &JobName, run: RunKey, attempt: &Attempt) -> Self {
        let (exit, signal, message) = details(&attempt.end);
        Self {
            number: attempt.number,
            task: TaskId::of(job, run, attempt.number).to_string(),
            node: attempt.node.to_string(),
            launched: instant(attempt.launched),
            started: attempt.started.map(instant),
            ended: Some(instant(attempt.ended)),
            outcome: word_of_end(&attempt.end),
            exit,
            signal,
            message: message.filter(|m| !m.is_empty()),
            unknown_since: None,
            killing: None,
            elements: elements(attempt.elements),
        }
    }
}

/// A pause.
#[derive(Debug, Serialize, ToSchema)]
pub struct PauseView {
    /// Since when.
    pub since: String,
    /// What the user said.
    pub reason: String,
    /// When it ends by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// The pause of a job, if it is not over.
pub(super) fn pause(progress: &Progress, now: Timestamp) -> Option<&Pause> {
    progress.paused.as_deref().filter(|pause| pause.until.is_none_or(|until| until > now))
}

impl PauseView {
    pub(super) fn of(progress: &Progress, now: Timestamp) -> Option<Self> {
        let pause = pause(progress, now)?;
        let until = pause.until.map(instant);
        Some(Self { since: instant(pause.since), reason: pause.reason.to_string(), until })
    }
}

/// Looks at all jobs in the order of their names, letting writers in now and then: commits wait for readers. What
/// changes meanwhile may be seen or not, but no job is seen twice.
pub(super) fn each_job(handle: &ProjectionHandle, mut look: impl FnMut(&Projection, &Arc<Job>)) {
    /// So many take about a millisecond.
    const AT_ONCE: usize = 1000;
    let mut last: Option<JobName> = None;
    loop {
        let projection = handle.read();
        let mut seen = None;
        for (i, job) in projection.jobs_after(last.as_ref()).take(AT_ONCE).enumerate() {
            look(&projection, job);
            seen = (i + 1 == AT_ONCE).then(|| job.name.clone());
        }
        if seen.is_none() {
            return;
        }
        last = seen;
    }
}

/// A job in a list.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobRow {
    /// Unique.
    pub name: String,
    /// New with each creation.
    pub uid: String,
    /// Its schedule, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// The zone of the schedule, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule_time_zone: Option<String>,
    /// Its parents, if it has some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parents: Option<Vec<String>>,
    /// Whose it is, if anybody has said so.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub owner: String,
    /// Its labels.
    #[serde(skip_serializing_if = "Map::is_empty")]
    #[schema(value_type = Object)]
    pub labels: Map<String, Value>,
    /// What it runs.
    pub command: String,
    /// `idle`, `queued` or `<n> running`.
    pub state: String,
    /// `fresh`, `success` or `failure`, as Chronos had it.
    pub status: &'static str,
    /// By its definition, or because its schedule is over.
    pub disabled: bool,
    /// Whether its schedule is over.
    pub exhausted: bool,
    /// Whether it is paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<PauseView>,
    /// The next slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// How the run that ended last ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_outcome: Option<&'static str>,
    /// When that was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_ended: Option<String>,
    /// Runs that have not ended.
    pub live: usize,
}

impl JobRow {
    pub(super) fn of(projection: &Projection, job: &Job, progress: &Progress, now: Timestamp) -> Self {
        let (schedule, zone) = match &job.plan {
            Plan::Schedule(timetable) => (Some(timetable.text.to_string()), Some(timetable.zone.to_string())),
            Plan::Parents(_) => (None, None),
        };
        let last = projection.last_run(job.uid);
        Self {
            name: job.name.to_string(),
            uid: job.uid.to_string(),
            schedule,
            schedule_time_zone: zone.filter(|z| !z.is_empty()),
            parents: parents(projection, job).map(texts),
            owner: job.rules.owner().to_string(),
            labels: job.rules.labels().iter().map(|(k, v)| (k.to_string(), v.to_string().into())).collect(),
            command: command(job),
            state: state(projection, job.uid),
            status: status(progress),
            disabled: job.rules.disabled || is_exhausted(job, progress),
            exhausted: is_exhausted(job, progress),
            paused: PauseView::of(progress, now),
            next: progress.next.filter(|_| !job.rules.disabled).map(|slot| instant(slot.due)),
            last_outcome: last.map(|last| word(last.outcome)),
            last_ended: last.map(|last| instant(last.ended)),
            live: projection.runs_of(job.uid).count(),
        }
    }
}

/// Names of the parents of a dependent, sorted.
pub(super) fn parents(projection: &Projection, job: &Job) -> Option<Vec<JobName>> {
    let Plan::Parents(parents) = &job.plan else { return None };
    let mut names: Vec<_> = parents.iter().filter_map(|uid| name_of(projection, *uid)).collect();
    names.sort();
    Some(names)
}

/// The same as text.
pub(super) fn texts(names: Vec<JobName>) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

pub(super) fn name_of(projection: &Projection, uid: JobUid) -> Option<JobName> {
    projection.state().jobs.get(&uid).map(|job| job.name.clone())
}

/// The command of a job.
pub(super) fn command(job: &Job) -> String {
    #[derive(serde::Deserialize, Default)]
    struct Command {
        #[serde(default)]
        command: String,
    }
    serde_json::from_str::<Command>(&job.body).unwrap_or_default().command
}

/// The state word of Chronos.
pub(super) fn state(projection: &Projection, job: JobUid) -> String {
    let mut queued = false;
    let mut running = 0;
    for run in projection.runs_of(job) {
        match run.state {
            RunState::Running(_) => running += 1,
            RunState::Queued | RunState::Waiting { .. } => queued = true,
        }
    }
    match running {
        0 if queued => "queued".into(),
        0 => "idle".into(),
        n => format!("{n} running"),
    }
}

/// The status word of Chronos.
pub(super) fn status(progress: &Progress) -> &'static str {
    match (progress.last_success, progress.last_error) {
        (None, None) => "fresh",
        (Some(_), None) => "success",
        (Some(success), Some(error)) if success > error => "success",
        _ => "failure",
    }
}

/// The rules of a job with all defaults filled in.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RulesView {
    /// `queue`, `skip`, `replace` or `allow`.
    pub overlap: &'static str,
    /// Under `allow`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent: Option<u32>,
    /// `latest`, `all` or `none`.
    pub catch_up: &'static str,
    /// Under `all`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub catch_up_count: Option<u64>,
    /// Under `all`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub catch_up_age: Option<String>,
    /// Start deadline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epsilon: Option<String>,
    /// Attempts after the first.
    pub retries: u32,
    /// Before the first retry.
    pub retry_delay: String,
    /// Each further delay is so many times the one before.
    pub retry_backoff: f64,
    /// No delay is longer.
    pub retry_delay_max: String,
    /// `atMostOnce` or `atLeastOnce`.
    pub guarantee: &'static str,
    /// How long an attempt may be of unknown fate.
    pub lost_after: String,
    /// How long an attempt may run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_completion_time: Option<String>,
}

impl RulesView {
    fn of(rules: &Rules, retry_delay: Duration) -> Self {
        let (overlap, max_concurrent) = match rules.overlap {
            Overlap::Queue => ("queue", None),
            Overlap::Skip => ("skip", None),
            Overlap::Replace => ("replace", None),
            Overlap::Allow { max } => ("allow", Some(max)),
        };
        let (catch_up, catch_up_count, catch_up_age) = match rules.catch_up {
            CatchUp::Latest => ("latest", None, None),
            CatchUp::None => ("none", None, None),
            CatchUp::All { count_max, age_max } => ("all", Some(count_max), Some(duration::text(age_max))),
        };
        Self {
            overlap,
            max_concurrent,
            catch_up,
            catch_up_count,
            catch_up_age,
            epsilon: rules.epsilon.map(duration::text),
            retries: rules.retry.max,
            retry_delay: duration::text(rules.retry.delay_before(1, retry_delay).unwrap_or(retry_delay)),
            retry_backoff: f64::from(rules.retry.factor_percent) / 100.0,
            retry_delay_max: duration::text(rules.retry.delay_max),
            guarantee: match rules.guarantee {
                Guarantee::AtMostOnce => "atMostOnce",
                Guarantee::AtLeastOnce => "atLeastOnce",
            },
            lost_after: duration::text(rules.lost_after),
            max_completion_time: rules.run_max.map(duration::text),
        }
    }
}

/// A slot that is to come.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SlotView {
    /// Whose.
    pub job: String,
    /// When it is due.
    pub due: String,
    /// The same instant on the wall clock of the job's zone.
    pub local: String,
    /// When it will start, where the job's jitter makes that another instant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub starts: Option<String>,
    /// What will keep it from running, as far as is known, and what a change of clocks does to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Everything about a job.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobView {
    /// What a list says about it.
    #[serde(flatten)]
    pub row: JobRow,
    /// Counts replacements, from 1.
    pub version: u32,
    /// When it was created.
    pub created: String,
    /// When it was last replaced.
    pub changed: String,
    /// The definition with counters, in the form of Chronos.
    #[schema(value_type = Object)]
    pub definition: Map<String, Value>,
    /// The rules with all defaults filled in.
    pub effective: RulesView,
    /// The schedule with each `H` replaced by what it stands for, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule_resolved: Option<String>,
    /// Slots left of `Rn`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining: Option<u64>,
    /// Every slot since then has an outcome in the history.
    pub accounted_since: String,
    /// Its next slots.
    pub slots: Vec<SlotView>,
    /// Its live runs.
    pub runs: Vec<RunView>,
    /// What ended last, newest first.
    pub last: Vec<RunView>,
    /// Jobs that wait for this one.
    pub children: Vec<String>,
    /// What its author may want to know about the schedule.
    pub warnings: Vec<String>,
}

impl JobView {
    /// All but what the history and the calendar say. Jobs that do not say wait `retry_delay` between attempts.
    pub(super) fn of(
        projection: &Projection,
        job: &Job,
        progress: &Progress,
        now: Timestamp,
        retry_delay: Duration,
    ) -> Self {
        let mut children: Vec<_> =
            projection.children(job.uid).filter_map(|child| name_of(projection, child)).collect();
        children.sort();
        Self {
            row: JobRow::of(projection, job, progress, now),
            version: job.version,
            created: instant(job.created),
            changed: instant(job.changed),
            definition: crate::wire::job::write(job, progress, |uid| name_of(projection, uid)),
            effective: RulesView::of(&job.rules, retry_delay),
            schedule_resolved: None,
            remaining: progress.remaining,
            accounted_since: instant(progress.accounted_since),
            slots: Vec::new(),
            runs: projection.runs_of(job.uid).take(LIVE_MAX).map(|run| RunView::live(run)).collect(),
            last: Vec::new(),
            children: texts(children),
            warnings: Vec::new(),
        }
    }
}

/// Live runs shown with a job; the list of runs has them all.
const LIVE_MAX: usize = 100;

/// The zone in which people read the slots of a job.
pub(super) fn zone(zones: &Zones, job: &Job) -> jiff::tz::TimeZone {
    let named = match &job.plan {
        Plan::Schedule(timetable) => zones.named(&timetable.zone).ok().map(|zone| zone.time_zone().clone()),
        Plan::Parents(_) => None,
    };
    named.unwrap_or(jiff::tz::TimeZone::UTC)
}

/// A slot as people see it.
pub(super) fn slot(job: &Job, zone: &jiff::tz::TimeZone, slot: &Slot, note: Option<String>) -> SlotView {
    let local = slot.due.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S %Z").to_string();
    let offset = job.rules.offset(job.uid, slot.nominal);
    let starts = slot.due.checked_add(offset).ok().filter(|_| !offset.is_zero()).map(instant);
    SlotView { job: job.name.to_string(), due: instant(slot.due), local, starts, note }
}

#[cfg(test)]
mod tests {
    use scheduler::run::Outcome;
    use store::samples;

    use super::*;

    #[test]
    fn a_run_that_waits_for_a_retry_says_what_was_wrong() {
        let Record::Run(ended) = samples::ended(1, 2, Outcome::Failed) else { panic!("a run") };
        let attempt = |number, end| Attempt {
            number,
            launched: ended.due,
            started: None,
            ended: ended.ended,
            node: "a".into(),
            end,
            elements: 0,
        };
        let mut run = samples::run(1, 2);
        let failed = AttemptEnd::Failed { exit: Some(3), signal: None, message: "".into() };
        run.attempts = vec![attempt(0, AttemptEnd::TimedOut), attempt(1, failed)];
        run.state = RunState::Waiting { attempt: 2, until: run.due };
        assert_eq!(RunView::live(&run).reason.as_deref(), Some("exit status 3"));
        run.attempts.pop();
        assert_eq!(RunView::live(&run).reason.as_deref(), Some("it ran longer than maxCompletionTime"));
        run.attempts.clear();
        assert_eq!(RunView::live(&run).reason, None);
    }

    #[test]
    fn the_reason_of_a_lost_run_is_that_of_its_attempt() {
        let Record::Run(mut run) = samples::ended(1, 2, Outcome::Lost) else { panic!("a run") };
        let told = |run: &EndedRun| RunView::ended(run).reason;
        assert_eq!(told(&run).as_deref(), Some("nobody could tell how it ended"));
        let cut_off = "node `b` was cut off for 75 s and has ended its tasks";
        for (message, reason) in [(cut_off, cut_off), ("", "nobody could tell how it ended")] {
            run.attempts = vec![Attempt {
                number: 0,
                launched: run.due,
                started: None,
                ended: run.ended,
                node: "b".into(),
                end: AttemptEnd::Lost { message: message.into() },
                elements: 0,
            }];
            assert_eq!(told(&run).as_deref(), Some(reason));
        }
    }
}
