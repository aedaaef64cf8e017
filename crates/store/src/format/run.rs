//! Runs and records of the history, as stored.

use scheduler::ids::{Cycle, GraphVersion, RunKey};
use scheduler::run::{
    Attempt, AttemptEnd, EndedRun, KillReason, Live, Missed, Outcome, Record, Run, RunState, Skipped,
    SlotRange, Told,
};
use scheduler::schedule::Slot;
use serde::{Deserialize, Serialize};

use super::value::{Key, Ms, Name, Shared, StoredCycle, StoredSlot, Task, Text, Uid, is_default};

/// See [`Run`].
#[derive(Serialize, Deserialize)]
pub(super) struct StoredRun {
    key: Key,
    name: Name,
    /// Left out when the run is the root of its own cycle, as every slot is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cycle: Option<StoredCycle>,
    #[serde(default, skip_serializing_if = "is_default")]
    graph: u32,
    due: Ms,
    created: Ms,
    #[serde(default, skip_serializing_if = "is_default")]
    again: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    arguments: Option<Text>,
    #[serde(default, skip_serializing_if = "StoredRunState::is_queued")]
    state: StoredRunState,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    attempts: Vec<StoredAttempt>,
    #[serde(default, skip_serializing_if = "is_default")]
    told: StoredTold,
}

/// See [`Told`].
#[derive(Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct StoredTold {
    #[serde(skip_serializing_if = "is_default")]
    late: bool,
    #[serde(skip_serializing_if = "is_default")]
    long_running: bool,
}

/// See [`RunState`].
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredRunState {
    #[default]
    Queued,
    Running(StoredLive),
    Waiting {
        attempt: u32,
        until: Ms,
    },
}

/// See [`Live`].
#[derive(Serialize, Deserialize)]
struct StoredLive {
    attempt: u32,
    task: Task,
    launched: Ms,
    node: Shared,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    started: Option<Ms>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unknown_since: Option<Ms>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kill: Option<StoredKillReason>,
    #[serde(default, skip_serializing_if = "is_default")]
    elements: u64,
}

/// See [`KillReason`].
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredKillReason {
    Asked,
    TimedOut,
    Replaced,
    Deleted,
    /// Since version 2.
    Restored,
}

/// See [`Attempt`].
#[derive(Serialize, Deserialize)]
struct StoredAttempt {
    number: u32,
    launched: Ms,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    started: Option<Ms>,
    ended: Ms,
    node: Shared,
    end: StoredAttemptEnd,
    #[serde(default, skip_serializing_if = "is_default")]
    elements: u64,
}

/// See [`AttemptEnd`].
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StoredAttemptEnd {
    Succeeded,
    Failed {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exit: Option<i32>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<i32>,
        #[serde(default, skip_serializing_if = "is_default")]
        message: Text,
    },
    Killed,
    TimedOut,
    Lost {
        #[serde(default, skip_serializing_if = "is_default")]
        message: Text,
    },
}

/// See [`Outcome`].
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredOutcome {
    Succeeded,
    Failed,
    Killed(StoredKillReason),
    TimedOut,
    Lost,
    Skipped(StoredSkipped),
    Missed(StoredMissed),
}

/// See [`Skipped`].
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredSkipped {
    Overlaps(Key),
    Superseded(Key),
    Replaced(Key),
    Upstream { parent: Text },
    JoinSuperseded,
    Paused { reason: Text },
    Withdrawn,
    Cancelled,
}

/// See [`Missed`].
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredMissed {
    Epsilon,
    GaveWay,
    NoCatchUp,
    CatchUpBound,
}

/// See [`Record`].
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StoredRecord {
    Run(StoredEndedRun),
    Range(StoredSlotRange),
}

/// See [`EndedRun`].
#[derive(Serialize, Deserialize)]
pub(super) struct StoredEndedRun {
    key: Key,
    name: Name,
    /// Left out as in [`StoredRun`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cycle: Option<StoredCycle>,
    due: Ms,
    created: Ms,
    ended: Ms,
    outcome: StoredOutcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    arguments: Option<Text>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    attempts: Vec<StoredAttempt>,
}

/// See [`SlotRange`].
#[derive(Serialize, Deserialize)]
pub(super) struct StoredSlotRange {
    job: Uid,
    name: Name,
    first: StoredSlot,
    last: StoredSlot,
    count: u64,
    recorded: Ms,
    outcome: StoredOutcome,
}

/// The cycle of a run that is the root of its own.
fn own_cycle(key: RunKey, due: jiff::Timestamp) -> Cycle {
    Cycle { due, origin: key.job, seq: 0 }
}

fn unless_own(cycle: &Cycle, key: RunKey, due: jiff::Timestamp) -> Option<StoredCycle> {
    (*cycle != own_cycle(key, due)).then(|| cycle.into())
}

impl StoredRunState {
    fn is_queued(&self) -> bool {
        matches!(self, Self::Queued)
    }
}

impl From<&Run> for StoredRun {
    fn from(
        Run { key, job, cycle, graph, due, created, again, arguments, state, attempts, told }: &Run,
    ) -> Self {
        Self {
            key: Key(*key),
            name: Name(job.clone()),
            cycle: unless_own(cycle, *key, *due),
            graph: graph.0,
            due: Ms(*due),
            created: Ms(*created),
            again: *again,
            arguments: arguments.clone().map(Text),
            state: state.into(),
            attempts: attempts.iter().map(StoredAttempt::from).collect(),
            told: StoredTold { late: told.late, long_running: told.long_running },
        }
    }
}

impl From<StoredRun> for Run {
    fn from(stored: StoredRun) -> Self {
        let (key, due) = (stored.key.0, stored.due.0);
        Self {
            key,
            job: stored.name.0,
            cycle: stored.cycle.map_or_else(|| own_cycle(key, due), Cycle::from),
            graph: GraphVersion(stored.graph),
            due,
            created: stored.created.0,
            again: stored.again,
            arguments: stored.arguments.map(|text| text.0),
            state: stored.state.into(),
            attempts: stored.attempts.into_iter().map(Attempt::from).collect(),
            told: Told { late: stored.told.late, long_running: stored.told.long_running },
        }
    }
}

impl From<&RunState> for StoredRunState {
    fn from(state: &RunState) -> Self {
        match state {
            RunState::Queued => Self::Queued,
            RunState::Running(Live {
                attempt,
                task,
                launched,
                node,
                started,
                unknown_since,
                kill,
                elements,
            }) => Self::Running(StoredLive {
                attempt: *attempt,
                task: Task(task.clone()),
                launched: Ms(*launched),
                node: Shared(node.clone()),
                started: started.map(Ms),
                unknown_since: unknown_since.map(Ms),
                kill: kill.as_ref().map(StoredKillReason::from),
                elements: *elements,
            }),
            RunState::Waiting { attempt, until } => Self::Waiting { attempt: *attempt, until: Ms(*until) },
        }
    }
}

impl From<StoredRunState> for RunState {
    fn from(stored: StoredRunState) -> Self {
        match stored {
            StoredRunState::Queued => Self::Queued,
            StoredRunState::Running(live) => Self::Running(Live {
                attempt: live.attempt,
                task: live.task.0,
                launched: live.launched.0,
                node: live.node.0,
                started: live.started.map(|at| at.0),
                unknown_since: live.unknown_since.map(|at| at.0),
                kill: live.kill.map(KillReason::from),
                elements: live.elements,
            }),
            StoredRunState::Waiting { attempt, until } => Self::Waiting { attempt, until: until.0 },
        }
    }
}

impl From<&KillReason> for StoredKillReason {
    fn from(reason: &KillReason) -> Self {
        match reason {
            KillReason::Asked => Self::Asked,
            KillReason::TimedOut => Self::TimedOut,
            KillReason::Replaced => Self::Replaced,
            KillReason::Deleted => Self::Deleted,
            KillReason::Restored => Self::Restored,
        }
    }
}

impl From<StoredKillReason> for KillReason {
    fn from(stored: StoredKillReason) -> Self {
        match stored {
            StoredKillReason::Asked => Self::Asked,
            StoredKillReason::TimedOut => Self::TimedOut,
            StoredKillReason::Replaced => Self::Replaced,
            StoredKillReason::Deleted => Self::Deleted,
            StoredKillReason::Restored => Self::Restored,
        }
    }
}

impl From<&Attempt> for StoredAttempt {
    fn from(Attempt { number, launched, started, ended, node, end, elements }: &Attempt) -> Self {
        Self {
            number: *number,
            launched: Ms(*launched),
            started: started.map(Ms),
            ended: Ms(*ended),
            node: Shared(node.clone()),
            end: end.into(),
            elements: *elements,
        }
    }
}

impl From<StoredAttempt> for Attempt {
    fn from(stored: StoredAttempt) -> Self {
        Self {
            number: stored.number,
            launched: stored.launched.0,
            started: stored.started.map(|at| at.0),
            ended: stored.ended.0,
            node: stored.node.0,
            end: stored.end.into(),
            elements: stored.elements,
        }
    }
}

impl From<&AttemptEnd> for StoredAttemptEnd {
    fn from(end: &AttemptEnd) -> Self {
        match end {
            AttemptEnd::Succeeded => Self::Succeeded,
            AttemptEnd::Failed { exit, signal, message } => {
                Self::Failed { exit: *exit, signal: *signal, message: Text(message.clone()) }
            }
            AttemptEnd::Killed => Self::Killed,
            AttemptEnd::TimedOut => Self::TimedOut,
            AttemptEnd::Lost { message } => Self::Lost { message: Text(message.clone()) },
        }
    }
}

impl From<StoredAttemptEnd> for AttemptEnd {
    fn from(stored: StoredAttemptEnd) -> Self {
        match stored {
            StoredAttemptEnd::Succeeded => Self::Succeeded,
            StoredAttemptEnd::Failed { exit, signal, message } => {
                Self::Failed { exit, signal, message: message.0 }
            }
            StoredAttemptEnd::Killed => Self::Killed,
            StoredAttemptEnd::TimedOut => Self::TimedOut,
            StoredAttemptEnd::Lost { message } => Self::Lost { message: message.0 },
        }
    }
}

impl From<&Outcome> for StoredOutcome {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Succeeded => Self::Succeeded,
            Outcome::Failed => Self::Failed,
            Outcome::Killed(reason) => Self::Killed(reason.into()),
            Outcome::TimedOut => Self::TimedOut,
            Outcome::Lost => Self::Lost,
            Outcome::Skipped(skipped) => Self::Skipped(skipped.into()),
            Outcome::Missed(missed) => Self::Missed(match missed {
                Missed::Epsilon => StoredMissed::Epsilon,
                Missed::GaveWay => StoredMissed::GaveWay,
                Missed::NoCatchUp => StoredMissed::NoCatchUp,
                Missed::CatchUpBound => StoredMissed::CatchUpBound,
            }),
        }
    }
}

impl From<StoredOutcome> for Outcome {
    fn from(stored: StoredOutcome) -> Self {
        match stored {
            StoredOutcome::Succeeded => Self::Succeeded,
            StoredOutcome::Failed => Self::Failed,
            StoredOutcome::Killed(reason) => Self::Killed(reason.into()),
            StoredOutcome::TimedOut => Self::TimedOut,
            StoredOutcome::Lost => Self::Lost,
            StoredOutcome::Skipped(skipped) => Self::Skipped(skipped.into()),
            StoredOutcome::Missed(missed) => Self::Missed(match missed {
                StoredMissed::Epsilon => Missed::Epsilon,
                StoredMissed::GaveWay => Missed::GaveWay,
                StoredMissed::NoCatchUp => Missed::NoCatchUp,
                StoredMissed::CatchUpBound => Missed::CatchUpBound,
            }),
        }
    }
}

impl From<&Skipped> for StoredSkipped {
    fn from(skipped: &Skipped) -> Self {
        match skipped {
            Skipped::Overlaps(key) => Self::Overlaps(Key(*key)),
            Skipped::Superseded(key) => Self::Superseded(Key(*key)),
            Skipped::Replaced(key) => Self::Replaced(Key(*key)),
            Skipped::Upstream { parent } => Self::Upstream { parent: Text(parent.clone()) },
            Skipped::JoinSuperseded => Self::JoinSuperseded,
            Skipped::Paused { reason } => Self::Paused { reason: Text(reason.clone()) },
            Skipped::Withdrawn => Self::Withdrawn,
            Skipped::Cancelled => Self::Cancelled,
        }
    }
}

impl From<StoredSkipped> for Skipped {
    fn from(stored: StoredSkipped) -> Self {
        match stored {
            StoredSkipped::Overlaps(key) => Self::Overlaps(key.0),
            StoredSkipped::Superseded(key) => Self::Superseded(key.0),
            StoredSkipped::Replaced(key) => Self::Replaced(key.0),
            StoredSkipped::Upstream { parent } => Self::Upstream { parent: parent.0 },
            StoredSkipped::JoinSuperseded => Self::JoinSuperseded,
            StoredSkipped::Paused { reason } => Self::Paused { reason: reason.0 },
            StoredSkipped::Withdrawn => Self::Withdrawn,
            StoredSkipped::Cancelled => Self::Cancelled,
        }
    }
}

impl From<&Record> for StoredRecord {
    fn from(record: &Record) -> Self {
        match record {
            Record::Run(run) => {
                let EndedRun { key, job, cycle, due, created, ended, outcome, arguments, attempts } = run;
                Self::Run(StoredEndedRun {
                    key: Key(*key),
                    name: Name(job.clone()),
                    cycle: unless_own(cycle, *key, *due),
                    due: Ms(*due),
                    created: Ms(*created),
                    ended: Ms(*ended),
                    outcome: outcome.into(),
                    arguments: arguments.clone().map(Text),
                    attempts: attempts.iter().map(StoredAttempt::from).collect(),
                })
            }
            Record::Range(range) => {
                let SlotRange { job, name, first, first_due, last, last_due, count, recorded, outcome } =
                    range;
                Self::Range(StoredSlotRange {
                    job: Uid(*job),
                    name: Name(name.clone()),
                    first: StoredSlot(Slot { nominal: *first, due: *first_due }),
                    last: StoredSlot(Slot { nominal: *last, due: *last_due }),
                    count: *count,
                    recorded: Ms(*recorded),
                    outcome: outcome.into(),
                })
            }
        }
    }
}

impl From<StoredRecord> for Record {
    fn from(stored: StoredRecord) -> Self {
        match stored {
            StoredRecord::Run(run) => {
                let (key, due) = (run.key.0, run.due.0);
                Self::Run(EndedRun {
                    key,
                    job: run.name.0,
                    cycle: run.cycle.map_or_else(|| own_cycle(key, due), Cycle::from),
                    due,
                    created: run.created.0,
                    ended: run.ended.0,
                    outcome: run.outcome.into(),
                    arguments: run.arguments.map(|text| text.0),
                    attempts: run.attempts.into_iter().map(Attempt::from).collect(),
                })
            }
            StoredRecord::Range(range) => Self::Range(SlotRange {
                job: range.job.0,
                name: range.name.0,
                first: range.first.0.nominal,
                first_due: range.first.0.due,
                last: range.last.0.nominal,
                last_due: range.last.0.due,
                count: range.count,
                recorded: range.recorded.0,
                outcome: range.outcome.into(),
            }),
        }
    }
}
