//! What users ask of the scheduler, and what it answers.

use std::sync::Arc;

use jiff::Timestamp;

use crate::audit::Author;
use crate::backfill::{Backfill, Children, Order, RangeError, Rate};
use crate::ids::{BackfillId, GraphVersion, JobName, JobUid, RunKey, TaskId};
use crate::job::{Job, Plan, Rules, Timetable};
use crate::notice::NoticeId;
use crate::receipt::{Once, RequestKey};
use crate::run::EndedRun;
use crate::schedule::{DstPolicy, ScheduleError};

/// Ties an answer to its request. Given by the shell, unique within a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// A change that a user wants.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Creates the job, or replaces the one of that name.
    Put(Definition),
    /// Does the same in another manner.
    Edit {
        /// The whole definition.
        definition: Definition,
        /// How it came about.
        edit: Edit,
    },
    /// Puts all of these, in any order, or none.
    Apply {
        /// At most [`crate::SET_MAX`], of at most [`crate::SET_BYTES_MAX`] together.
        definitions: Vec<Definition>,
        /// Whether to do it.
        manner: Manner,
    },
    /// Does something to a job only if the job is as the asker believes.
    When {
        /// Which job.
        job: JobName,
        /// How it must be.
        expect: Expect,
        /// What to do then.
        then: Box<Request>,
    },
    /// Does something in somebody's name. Only the outermost counts.
    By {
        /// In whose.
        author: Author,
        /// What is asked.
        request: Box<Request>,
    },
    /// Does something unless it has been done: asked for again, it is answered as before.
    Once {
        /// Which request it is.
        once: Once,
        /// What is asked.
        request: Box<Request>,
    },
    /// Removes the job, kills its runs, and gives its children its parents or its schedule.
    Delete(JobName),
    /// Runs the job now, whatever its schedule says.
    Trigger {
        /// Which job.
        job: JobName,
        /// Instead of the job's own arguments.
        arguments: Option<Arc<str>>,
    },
    /// Ends all live runs of a job, waiting ones too.
    KillJob(JobName),
    /// Ends one run.
    KillRun(RunKey),
    /// Ends one run that waits, for its turn or for another attempt; one that runs goes on, and is not found.
    CancelRun(RunKey),
    /// Keeps what a running task says of its progress.
    Report {
        /// Which task.
        task: TaskId,
        /// Elements of data that it has processed since it last said so.
        elements: u64,
    },
    /// Keeps what the engine wants to be reminded of; with `None` only asks whether this term still writes.
    EngineNote(Option<Arc<str>>),
    /// Notes that an operator gives a node up; what becomes of its tasks the engine says.
    ForgetNode {
        /// Which.
        node: Arc<str>,
        /// How many runs have a task there.
        runs: u64,
    },
    /// Lets the children of the job go on as if it had succeeded: in the cycle of its last run if that failed,
    /// else in a cycle of its own.
    MarkSuccess {
        /// Which job.
        job: JobName,
        /// The cycle of a run that ended without success, found in the history by the shell.
        failed: Option<(RunKey, crate::ids::Cycle)>,
    },
    /// Stops slots and parents from starting the job; running tasks go on.
    Pause {
        /// Which job.
        job: JobName,
        /// At most [`crate::job::Pause::REASON_MAX`] bytes.
        reason: Arc<str>,
        /// When it resumes by itself.
        until: Option<Timestamp>,
    },
    /// Ends a pause.
    Resume(JobName),
    /// Sends a notice again that has not arrived.
    RetryNotice(NoticeId),
    /// Runs past slots of a job.
    Backfill(BackfillOrder),
    /// Begins no further slot of a backfill.
    CancelBackfill {
        /// Which.
        id: BackfillId,
        /// What becomes of the runs that have begun.
        remains: Remains,
    },
    /// Runs once more what has ended, for the same due time.
    Rerun {
        /// What the history says of it.
        run: Box<EndedRun>,
        /// Whether all that comes after it runs again too.
        children: Children,
    },
}

/// Which past slots are to run, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct BackfillOrder {
    /// Whose slots.
    pub job: JobName,
    /// Those due at or after this.
    pub from: Timestamp,
    /// Those due before this, and not after now.
    pub to: Timestamp,
    /// Which end first.
    pub order: Order,
    /// Slots under way at once; 1 to [`Backfill::PARALLEL_MAX`].
    pub parallel: u32,
    /// How fast slots begin.
    pub rate: Option<Rate>,
    /// Whether the children follow.
    pub children: Children,
    /// Slots to be left out, as first and last due time, in the order of time; at most [`Backfill::EXCEPT_MAX`].
    pub except: Vec<(Timestamp, Timestamp)>,
}

/// What becomes of the runs of a cancelled backfill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remains {
    /// They go on to their end.
    GoOn,
    /// They are killed, with all that has come of them.
    Die,
}

/// Whether something is done or only checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// It is done.
    Do,
    /// It is checked as if it were to be done, and what would change is told.
    DryRun,
}

/// What became, or would become, of one job of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Which.
    pub job: JobName,
    /// Its uid; `None` for one that would be created.
    pub uid: Option<JobUid>,
    /// Its version after that; 1 for a new one.
    pub version: u32,
    /// Whether anything differs from before.
    pub changed: bool,
}

/// Where a definition that replaces another comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// From the present one, but for some fields.
    Patch,
    /// From an earlier version of the job.
    RollBack {
        /// Which.
        to: u32,
    },
    /// From the last version of a deleted job.
    Restore,
}

/// How a job must be for a request to be done. Checked where it is done, so nothing can come between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// There is none of that name.
    Absent,
    /// There is one.
    Present,
    /// There is one, of one of these creations and versions.
    OneOf(Vec<(JobUid, u32)>),
}

/// A job as a user writes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// Which job.
    pub name: JobName,
    /// What makes it run.
    pub plan: PlanText,
    /// How it runs.
    pub rules: Rules,
    /// The rest, kept and not read.
    pub body: Arc<str>,
}

impl Definition {
    /// Largest definition at the door, as JSON.
    pub const BYTES_MAX: usize = 64 * 1024;
    /// Most parents of one job: an open join of all of them still fits a batch.
    pub const PARENTS_MAX: usize = 1000;

    /// The definition of a job whose parents have these names, as a user would write it.
    pub fn of(job: &Job, parents: Vec<JobName>) -> Self {
        let plan = match &job.plan {
            Plan::Schedule(table) => {
                PlanText::Schedule { text: table.text.clone(), zone: table.zone.clone(), dst: table.dst }
            }
            Plan::Parents(_) => PlanText::Parents(parents),
        };
        Self { name: job.name.clone(), plan, rules: Rules::clone(&job.rules), body: job.body.clone() }
    }

    /// The other way round, for whoever can write a job: one that has no uid yet, and the names of its parents.
    pub fn draft(&self) -> (Job, Vec<JobName>) {
        let Self { name, plan, rules, body } = self.clone();
        let now = Timestamp::UNIX_EPOCH;
        let (plan, parents) = match plan {
            PlanText::Schedule { text, zone, dst } => {
                (Plan::Schedule(Timetable { text, zone, dst, anchor: now, plan: 1 }), Vec::new())
            }
            PlanText::Parents(parents) => (Plan::Parents(Vec::new()), parents),
        };
        let (uid, version, joins_from) = (JobUid(0), 1, GraphVersion::default());
        let rules = rules.shared();
        (Job { uid, version, created: now, changed: now, joins_from, name, plan, rules, body }, parents)
    }

    /// About how large it is, written.
    pub fn bytes(&self) -> usize {
        let plan = match &self.plan {
            PlanText::Schedule { text, zone, .. } => text.len() + zone.len(),
            PlanText::Parents(parents) => parents.iter().map(|parent| parent.as_str().len() + 3).sum(),
        };
        self.body.len() + plan
    }
}

/// What makes a job run, by name and as text.
#[derive(Clone, Debug, PartialEq)]
pub enum PlanText {
    /// Time does.
    Schedule {
        /// ISO 8601 interval or cron expression.
        text: Arc<str>,
        /// Zone id; empty for none.
        zone: Arc<str>,
        /// What to do where the wall clock jumps.
        dst: DstPolicy,
    },
    /// Other jobs do.
    Parents(Vec<JobName>),
}

/// What became of a request. Sent once it is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The job is as asked.
    Put {
        /// Its uid.
        uid: JobUid,
        /// 1 when it was created.
        version: u32,
        /// Whether anything differs from before.
        changed: bool,
    },
    /// The jobs are as asked, or would be; in the order in which they were given.
    Applied(Vec<Verdict>),
    /// The job is gone; so many of its runs were told to end.
    Deleted {
        /// Runs that were live.
        live: usize,
    },
    /// The run exists.
    Triggered(RunKey),
    /// So many runs were told to end.
    Killed {
        /// How many.
        runs: usize,
    },
    /// It has been noted of this run: the children have been told in its name, or its progress is kept.
    Marked(RunKey),
    /// The job is paused.
    Paused,
    /// The job goes on.
    Resumed,
    /// The slots will run.
    Backfilling {
        /// Its identity.
        id: BackfillId,
        /// How many slots.
        slots: u64,
    },
    /// No further slot begins; so many runs were told to end.
    Cancelled {
        /// How many.
        runs: usize,
    },
    /// The notice is on its way again.
    NoticeRetried,
    /// It is kept: what the engine wants to be reminded of, or that a node is given up.
    Noted,
    /// It had been done before, and was answered so.
    Before(Box<Answer>),
}

/// Why a request was refused. Every variant is the asker's to mend.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// No job of that name.
    #[error("there is no job `{0}`")]
    NoSuchJob(JobName),
    /// No live run of that key.
    #[error("there is no live run `{0}`")]
    NoSuchRun(RunKey),
    /// No attempt of that name is with an engine.
    #[error("there is no running task `{0}`")]
    NoSuchTask(TaskId),
    /// The job is not as the asker believes.
    #[error("job `{job}` is not as expected: {}", match present {
        Some((uid, version)) => format!("it is at version {version} (`{uid}-{version}`)"),
        None => "there is no such job".to_owned(),
    })]
    VersionMismatch {
        /// Which.
        job: JobName,
        /// How it is.
        present: Option<(JobUid, u32)>,
    },
    /// The schedule cannot be read or never comes.
    #[error("job `{job}`: schedule is not valid: {cause}")]
    Schedule {
        /// Whose.
        job: JobName,
        /// Why.
        #[source]
        cause: ScheduleError,
    },
    /// A dependent without parents never runs.
    #[error("job `{0}`: `parents` is empty, so it would never run")]
    NoParents(JobName),
    /// Parents that do not exist.
    #[error("job `{job}`: there is no parent `{}`", missing.iter().map(JobName::as_str).collect::<Vec<_>>().join("`, `"))]
    MissingParents {
        /// Whose.
        job: JobName,
        /// Which.
        missing: Vec<JobName>,
    },
    /// More than [`Definition::PARENTS_MAX`].
    #[error("job `{job}`: {count} parents are more than the 1000 allowed")]
    TooManyParents {
        /// Whose.
        job: JobName,
        /// How many.
        count: usize,
    },
    /// The job would wait for itself. From the job, over its children, back to it.
    #[error("job `{}` waits for itself: {}", path[0], circle(path))]
    Cycle {
        /// At least two names; first and last are the same.
        path: Vec<JobName>,
    },
    /// A disabled job does not run, not even by hand.
    #[error("job `{0}` is disabled")]
    Disabled(JobName),
    /// More runs of one job wait than anyone will want.
    #[error("job `{job}` has {waiting} runs waiting already")]
    TooManyWaiting {
        /// Whose.
        job: JobName,
        /// How many.
        waiting: usize,
    },
    /// More children would have to be rewritten than fit one batch.
    #[error("job `{job}` has {children} children, too many to be rewritten together with its deletion")]
    TooManyHeirs {
        /// Which.
        job: JobName,
        /// How many.
        children: usize,
    },
    /// Only a schedule has slots.
    #[error("job `{0}` has no schedule, so it has no slots of its own")]
    NoSchedule(JobName),
    /// There is nothing to be run there.
    #[error("job `{job}`: {cause}")]
    Range {
        /// Whose.
        job: JobName,
        /// Why.
        #[source]
        cause: RangeError,
    },
    /// A number beyond its bounds.
    #[error("job `{0}`: `parallel` must be from 1 to 64, and a rate at least 1 in at most a day")]
    Pace(JobName),
    /// All that are kept are under way.
    #[error("{} backfills and re-runs are under way already", Backfill::KEPT_MAX)]
    TooManyBackfills,
    /// No backfill of that name.
    #[error("there is no backfill `{0}`")]
    NoSuchBackfill(BackfillId),
    /// Only what has ended can run again.
    #[error("run `{0}` has not ended")]
    StillLive(RunKey),
    /// A set has one job twice.
    #[error("job `{0}` is in the set twice")]
    Twice(JobName),
    /// More than changes in one batch.
    #[error("{jobs} jobs of {bytes} bytes are more than one set may hold")]
    SetTooLarge {
        /// How many.
        jobs: usize,
        /// How large.
        bytes: usize,
    },
    /// Another set that does not fit one batch is on its way.
    #[error("another large set of jobs is being applied")]
    SetUnderWay,
    /// More runs and joins would end at once than fit one batch.
    #[error("job `{job}` has {count} live runs and joins, too many to end together")]
    TooManyEnds {
        /// Whose.
        job: JobName,
        /// How many.
        count: usize,
    },
    /// It would resume before it pauses.
    #[error("job `{0}`: the pause would end in the past")]
    PauseOver(JobName),
    /// No notice of that id.
    #[error("there is no notice {}", .0.0)]
    NoSuchNotice(NoticeId),
    /// It has arrived.
    #[error("notice {} has been delivered", .0.0)]
    NoticeDelivered(NoticeId),
    /// Something else was done under this key.
    #[error("another request was done under the key `{0}`")]
    KeyReused(RequestKey),
}

/// The jobs of a circle in a row; of a long one its beginning and its end, which is where it was closed.
fn circle(path: &[JobName]) -> String {
    /// So many at each end.
    const SHOWN: usize = 5;
    let row = |path: &[JobName]| path.iter().map(JobName::as_str).collect::<Vec<_>>().join(" -> ");
    match (path.get(..SHOWN), path.get(SHOWN..path.len().saturating_sub(SHOWN))) {
        (Some(first), Some(between @ [_, ..])) => {
            let last = &path[path.len() - SHOWN..];
            format!("{} -> (and {} more) -> {}", row(first), between.len(), row(last))
        }
        _ => row(path),
    }
}

impl Refusal {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoSuchJob(_) => "list the jobs to see their names; names are case-sensitive",
            Self::NoSuchRun(_) => "it may have ended: look it up in the history",
            Self::NoSuchTask(_) => {
                "tasks find their names in the variable mesos_task_id; what has ended reports nothing"
            }
            Self::VersionMismatch { .. } => "read the job again, and decide with what it is now",
            Self::Schedule { .. } => {
                "write an ISO 8601 interval such as `R/2030-01-01T00:00:00Z/PT1H`, or a cron expression such as `0 3 * * *`"
            }
            Self::NoParents(_) => "name at least one parent, or give it a schedule",
            Self::MissingParents { .. } => "create the parents first, or correct their names",
            Self::TooManyParents { .. } => "put a job between them that gathers some of the parents",
            Self::Cycle { .. } => "remove one of these jobs from the `parents` of the next",
            Self::Disabled(_) => "enable it first: replace it with `disabled: false`",
            Self::TooManyWaiting { .. } => "wait until some have run, or kill them",
            Self::TooManyHeirs { .. } => "delete or replace some of its children first",
            Self::NoSchedule(_) => "backfill the scheduled job at the root of its chain: the children follow",
            Self::Range { cause: RangeError::TooMany { .. } | RangeError::TooScattered { .. }, .. } => {
                "ask for a shorter range, and for the rest afterwards"
            }
            Self::Range { .. } => "look at the range with a dry run first",
            Self::Pace(_) => "write something like `parallel: 4`, `rate: 10/m`",
            Self::TooManyBackfills => "wait until some are over, or cancel them",
            Self::NoSuchBackfill(_) => {
                "list the backfills; those that are over are forgotten when others begin"
            }
            Self::StillLive(_) => "wait until it has ended, or kill it",
            Self::Twice(_) => "keep one of them",
            Self::SetTooLarge { .. } => {
                "a set has at most 10,000 jobs and 8 MiB of definitions: apply it in several parts, parents first"
            }
            Self::SetUnderWay => "nothing has changed; ask again in a moment",
            Self::TooManyEnds { .. } => "wait until some of its runs have ended, or kill them",
            Self::PauseOver(_) => "give a time in the future",
            Self::NoSuchNotice(_) => "settled notices are kept for 7 days, and at most 1000 of them",
            Self::KeyReused(_) => {
                "use a new key for each request, and the same one only to repeat it unchanged"
            }
            Self::NoticeDelivered(_) => "a notice that may not have arrived can be sent again, this one has",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_circle_is_told_by_its_ends() {
        let told = |jobs: usize| {
            let names = (0..jobs).map(|i| JobName::new(&format!("j{i}")).expect("a name"));
            let path = names.chain([JobName::new("j0").expect("a name")]).collect();
            Refusal::Cycle { path }.to_string()
        };
        assert_eq!(told(1), "job `j0` waits for itself: j0 -> j0");
        assert!(!told(9).contains("more"), "{}", told(9));
        let ends = "job `j0` waits for itself: j0 -> j1 -> j2 -> j3 -> j4 -> (and 2991 more) -> j2996 -> j2997 -> j2998 -> j2999 -> j0";
        assert_eq!(told(3000), ends);
    }
}
