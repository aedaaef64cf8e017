//! One run of a job: the states it passes through, its attempts, and how it can end.

use std::sync::Arc;

use jiff::Timestamp;

use crate::ids::{Cycle, GraphVersion, JobName, JobUid, RunKey, TaskId};
use crate::schedule::Nominal;

/// What happens for one cause. Hot state: kept until it ends, then it becomes a [`Record`] in the history.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Its identity.
    pub key: RunKey,
    /// Name of its job; a live run outlives its deleted job.
    pub job: JobName,
    /// The cycle its success or failure counts for.
    pub cycle: Cycle,
    /// The version of the graph in which its cycle began.
    pub graph: GraphVersion,
    /// When it should have started: the slot's due time, or when it was triggered or its parents completed.
    pub due: Timestamp,
    /// The commit that made it.
    pub created: Timestamp,
    /// Whether it repeats something that its cycle has already seen (a re-run, a mark, or a descendant of one).
    pub again: bool,
    /// Arguments of a manual run; replace those of the job in every attempt.
    pub arguments: Option<Arc<str>>,
    /// Where it is in its life.
    pub state: RunState,
    /// The attempts that have ended, oldest first; at most `Retry::MAX` + 1.
    pub attempts: Vec<Attempt>,
    /// What its owner has been told already.
    pub told: Told,
}

/// What the owner of a run has been told already, so that it is told once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// That it has not started in time.
    pub late: bool,
    /// That it runs long.
    pub long_running: bool,
}

/// Where a run is in its life. `Ended` is not among them: an ended run is a [`Record`].
#[derive(Clone, Debug, PartialEq)]
pub enum RunState {
    /// Due, not yet promised to an engine.
    Queued,
    /// Recorded as launched, so possibly on an engine. From here only the engine knows how it ends.
    Running(Live),
    /// The next attempt may start at `until`: one has failed, or it is the first and its jitter has not passed.
    Waiting {
        /// Number of the attempt to come.
        attempt: u32,
        /// Not before this.
        until: Timestamp,
    },
}

/// An attempt that an engine may have.
#[derive(Clone, Debug, PartialEq)]
pub struct Live {
    /// Counted from 0.
    pub attempt: u32,
    /// What the engine calls it.
    pub task: TaskId,
    /// When its launch became durable.
    pub launched: Timestamp,
    /// The node whose engine was told, or the place that the engine found: who to ask for its end and its output.
    pub node: Arc<str>,
    /// When the engine first said that it runs.
    pub started: Option<Timestamp>,
    /// Since when nobody can tell how it goes.
    pub unknown_since: Option<Timestamp>,
    /// Set once someone wants it dead; stays until it is.
    pub kill: Option<KillReason>,
    /// What it has said itself of its progress, added up: elements of data that it has processed.
    pub elements: u64,
}

/// Why a running attempt is being ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KillReason {
    /// A user asked.
    Asked,
    /// It ran longer than `maxCompletionTime`.
    TimedOut,
    /// `overlap: replace`, and a newer run is waiting.
    Replaced,
    /// Its job was deleted.
    Deleted,
    /// A backup was restored that does not know this run.
    Restored,
}

/// One ended attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// Counted from 0.
    pub number: u32,
    /// When its launch became durable.
    pub launched: Timestamp,
    /// When the engine first said that it ran, if it ever did.
    pub started: Option<Timestamp>,
    /// When its end became known.
    pub ended: Timestamp,
    /// The node whose engine had it, or the place that the engine had found.
    pub node: Arc<str>,
    /// How it ended.
    pub end: AttemptEnd,
    /// What it had said itself of its progress; see [`Live::elements`].
    pub elements: u64,
}

/// How an attempt ended, as an engine tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptEnd {
    /// Exit status 0.
    Succeeded,
    /// Anything else that the task itself, or the attempt to start it, came to.
    Failed {
        /// Exit status, where there is one.
        exit: Option<i32>,
        /// Signal that ended it, where one did.
        signal: Option<i32>,
        /// For people; at most [`AttemptEnd::MESSAGE_MAX`] bytes.
        message: Arc<str>,
    },
    /// Ended because we asked for it.
    Killed,
    /// Ended because it ran longer than its job allows.
    TimedOut,
    /// Nobody can tell how it ended, and nobody will.
    Lost {
        /// What is known about the circumstances.
        message: Arc<str>,
    },
}

impl AttemptEnd {
    /// Longest message; longer ones are cut where they enter.
    pub const MESSAGE_MAX: usize = 1024;

    /// As much of a message as is kept: cut between characters.
    pub fn cut(message: &str) -> &str {
        &message[..message.floor_char_boundary(Self::MESSAGE_MAX)]
    }

    /// A failure with nothing but a message.
    pub fn failed(message: impl Into<Arc<str>>) -> Self {
        Self::Failed { exit: None, signal: None, message: message.into() }
    }
}

/// How a run, or a slot that never became one, ended. Every slot gets exactly one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An attempt succeeded, or a user marked it so.
    Succeeded,
    /// All attempts failed.
    Failed,
    /// A user, a replacement or a deletion ended it.
    Killed(KillReason),
    /// The last attempt ran longer than allowed.
    TimedOut,
    /// Nobody can tell how the last attempt ended.
    Lost,
    /// A rule said that it must not run.
    Skipped(Skipped),
    /// Nobody could start it in time.
    Missed(Missed),
}

/// The rule that forbade a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Skipped {
    /// The job was still busy: `overlap: skip`.
    Overlaps(RunKey),
    /// An earlier run of the job was already waiting its turn.
    Superseded(RunKey),
    /// A newer run took its place: `overlap: replace`.
    Replaced(RunKey),
    /// A parent ended its run of the cycle without success.
    Upstream {
        /// Name of the parent that failed.
        parent: Arc<str>,
    },
    /// The join gave way: too many were open, or a second success came before it fired.
    JoinSuperseded,
    /// The job was paused.
    Paused {
        /// What the user gave as reason.
        reason: Arc<str>,
    },
    /// The job was deleted, disabled or given another schedule before it could start.
    Withdrawn,
    /// It was still waiting when a user killed it.
    Cancelled,
}

/// Why nobody could start a run in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missed {
    /// More than epsilon after its due time.
    Epsilon,
    /// A later slot came first: `catchUp: latest`.
    GaveWay,
    /// `catchUp: none`, and nobody was there at its due time.
    NoCatchUp,
    /// `catchUp: all`, and it was beyond the bound of count or age.
    CatchUpBound,
}

/// A line of the ledger: what became of a run, or of a range of slots that never became runs.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// A run that ended, or was forbidden before it began.
    Run(EndedRun),
    /// Consecutive slots that shared one fate.
    Range(SlotRange),
}

/// A run in the history.
#[derive(Clone, Debug, PartialEq)]
pub struct EndedRun {
    /// Its identity.
    pub key: RunKey,
    /// Name of its job at the time.
    pub job: JobName,
    /// The cycle it counted for.
    pub cycle: Cycle,
    /// When it should have started.
    pub due: Timestamp,
    /// The commit that made it.
    pub created: Timestamp,
    /// The commit that ended it.
    pub ended: Timestamp,
    /// How it ended.
    pub outcome: Outcome,
    /// Arguments of a manual run, so that it can be run again with them.
    pub arguments: Option<Arc<str>>,
    /// Its attempts, oldest first.
    pub attempts: Vec<Attempt>,
}

/// Slots of one job, in a row, that ended the same way without becoming runs.
#[derive(Clone, Debug, PartialEq)]
pub struct SlotRange {
    /// Whose slots.
    pub job: JobUid,
    /// Name of the job at the time.
    pub name: JobName,
    /// The first slot.
    pub first: Nominal,
    /// Its due time.
    pub first_due: Timestamp,
    /// The last slot.
    pub last: Nominal,
    /// Its due time.
    pub last_due: Timestamp,
    /// How many slots, both included.
    pub count: u64,
    /// The commit that recorded them.
    pub recorded: Timestamp,
    /// What became of each of them.
    pub outcome: Outcome,
}
