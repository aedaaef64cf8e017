//! What a definition was: one revision for every change of it, kept by the stores and never read by the core.

use std::sync::Arc;

use jiff::Timestamp;

use crate::ids::JobName;
use crate::job::Job;
use crate::request::Definition;

/// A definition as it was from one change to the next. With the uid and version of the job it is unique.
#[derive(Clone, Debug, PartialEq)]
pub struct Revision {
    /// The job as it was after the change; of a deletion, as it was before, under the next version.
    pub job: Arc<Job>,
    /// Its parents by name, sorted: uids of deleted jobs say nothing to anyone.
    pub parents: Vec<JobName>,
    /// When.
    pub at: Timestamp,
    /// By whom; empty where nobody had to say.
    pub by: Arc<str>,
    /// How it came about.
    pub deed: Deed,
}

/// How a revision came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// A user created the job.
    Created,
    /// A user replaced the whole definition.
    Replaced,
    /// A user changed some fields.
    Patched,
    /// A user applied a set of jobs that this one was in.
    Applied,
    /// A user brought back an earlier version.
    RolledBack {
        /// Which.
        to: u32,
    },
    /// A user brought back a deleted job.
    Restored,
    /// A user deleted the job.
    Deleted,
    /// A parent was deleted, and the job got its parents or its schedule instead.
    Inherited,
    /// The job failed too often in a row, and was disabled.
    Disabled,
}

impl Deed {
    /// All words, for those who ask for some of them.
    pub const WORDS: [&'static str; 9] = [
        "created",
        "replaced",
        "patched",
        "applied",
        "rolledBack",
        "restored",
        "deleted",
        "inherited",
        "disabled",
    ];

    /// Its word, in the API and on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Replaced => "replaced",
            Self::Patched => "patched",
            Self::Applied => "applied",
            Self::RolledBack { .. } => "rolledBack",
            Self::Restored => "restored",
            Self::Deleted => "deleted",
            Self::Inherited => "inherited",
            Self::Disabled => "disabled",
        }
    }
}

impl Revision {
    /// The stores keep so many of each job, the newest: what anyone reads through, and at 64 KiB each still only some
    /// megabytes.
    pub const KEPT: u32 = 50;

    /// The definition as a user would write it.
    pub fn definition(&self) -> Definition {
        Definition::of(&self.job, self.parents.clone())
    }
}
