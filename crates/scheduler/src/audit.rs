//! The audit: who did what. One entry for everything that a user asked for and that changed something, for every
//! change of a definition, whoever made it, and for what was heard too late for the history. Durable with the change; kept by the stores and never read by the core.

use std::sync::Arc;

use jiff::Timestamp;

use crate::ids::{BackfillId, JobName, JobUid, RunKey};
use crate::job::Pause;
use crate::notice::{NoticeId, clipped};
use crate::request::{Answer, Refusal, Request};
use crate::revision::Deed;
use crate::run::AttemptEnd;
use crate::scheduler::Scheduler;

/// Who asks. What the texts mean is known at the door of the server; here they are only kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Author {
    /// What it is called; empty for nobody in particular, and for the scheduler itself.
    name: Arc<str>,
    /// What else is known of it and of its request.
    via: Arc<str>,
}

impl Author {
    /// Longest name, in bytes: many entries of one batch carry it.
    pub const NAME_MAX: usize = 64;
    /// Longest rest.
    pub const VIA_MAX: usize = 128;

    /// The author of these texts, of which what is too long is cut off.
    pub fn new(name: &str, via: &str) -> Self {
        Self { name: clipped(name, Self::NAME_MAX), via: clipped(via, Self::VIA_MAX) }
    }

    /// What it is called.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// What else is known.
    pub fn via(&self) -> &Arc<str> {
        &self.via
    }
}

/// One thing that was done.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// When.
    pub at: Timestamp,
    /// By whom.
    pub author: Author,
    /// To which job, where it was one.
    pub job: Option<(JobUid, JobName)>,
    /// What.
    pub act: Act,
}

impl Entry {
    /// The stores keep so many, the newest: as many as anyone can search through, and some hundred megabytes.
    pub const KEPT_MAX: u64 = 1_000_000;
}

/// What was done, with what is needed to tell what was before and what after. No definition, argument or secret is in it:
/// definitions are in the revisions.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// A definition became another: the revision of this version says what, the one before it from what.
    Defined {
        /// How.
        deed: Deed,
        /// The version after it; 1 for a new job.
        version: u32,
    },
    /// A run was asked for.
    Triggered {
        /// Which.
        run: RunKey,
    },
    /// Live runs were told to end.
    Killed {
        /// The run; `None` for all of the job.
        run: Option<RunKey>,
        /// How many.
        runs: u64,
    },
    /// Children were let go on.
    Marked {
        /// In the name of which run.
        run: RunKey,
    },
    /// The job was paused.
    Paused {
        /// How it was before.
        before: Option<Pause>,
        /// How it is now.
        after: Pause,
    },
    /// A pause was ended.
    Resumed {
        /// How it was.
        before: Pause,
    },
    /// Past slots were asked for.
    Backfilled {
        /// As which backfill.
        id: BackfillId,
        /// How many.
        slots: u64,
    },
    /// A backfill was cancelled.
    Cancelled {
        /// Which.
        id: BackfillId,
        /// So many of its runs were told to end.
        runs: u64,
    },
    /// Something that had ended was asked for once more.
    Reran {
        /// What.
        run: RunKey,
        /// As which run.
        again: RunKey,
    },
    /// A notice was sent again.
    NoticeRetried {
        /// Which.
        id: NoticeId,
    },
    /// A node was said not to come back, so its tasks count as ended.
    NodeForgotten {
        /// Which, at most [`Act::NODE_MAX`] bytes of it.
        node: Arc<str>,
        /// How many runs had a task there.
        runs: u64,
    },
    /// How an attempt had ended in truth was heard after it had been recorded as lost, which it stays. Nobody asked.
    HeardLate {
        /// Of which run.
        run: RunKey,
        /// Which attempt, counted from 0.
        attempt: u32,
        /// Where it was.
        node: Arc<str>,
        /// When it had been recorded as lost.
        lost: Timestamp,
        /// How it ended, as its engine tells it.
        end: AttemptEnd,
    },
    /// A backup took the place of everything.
    StoreRestored {
        /// When it had been taken.
        taken: Timestamp,
        /// How many lines it had.
        lines: u64,
    },
}

impl Act {
    /// Longest id of a node in an entry.
    pub const NODE_MAX: usize = 64;

    /// Its word, in stores, the API and on the command line.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Defined { deed, .. } => deed.word(),
            Self::Triggered { .. } => "triggered",
            Self::Killed { .. } => "killed",
            Self::Marked { .. } => "markedSuccess",
            Self::Paused { .. } => "paused",
            Self::Resumed { .. } => "resumed",
            Self::Backfilled { .. } => "backfilled",
            Self::Cancelled { .. } => "cancelledBackfill",
            Self::Reran { .. } => "reran",
            Self::NoticeRetried { .. } => "retriedNotice",
            Self::NodeForgotten { .. } => "forgotNode",
            Self::HeardLate { .. } => "heardLate",
            Self::StoreRestored { .. } => "restoredStore",
        }
    }

    /// All words but those of definitions, which are [`Deed::WORDS`].
    const OTHERS: [&'static str; 12] = [
        "triggered",
        "killed",
        "markedSuccess",
        "paused",
        "resumed",
        "backfilled",
        "cancelledBackfill",
        "reran",
        "retriedNotice",
        "forgotNode",
        "heardLate",
        "restoredStore",
    ];

    /// All words, for those who ask for some of them.
    pub fn words() -> impl Iterator<Item = &'static str> {
        Deed::WORDS.into_iter().chain(Self::OTHERS)
    }
}

impl Scheduler {
    /// Answers a request in the name of its author.
    pub(crate) fn ask_as(
        &mut self,
        author: Author,
        ask: impl FnOnce(&mut Self) -> Option<Result<Answer, Refusal>>,
    ) -> Option<Result<Answer, Refusal>> {
        self.author = author;
        let answer = ask(self);
        self.author = Author::default();
        answer
    }

    /// Notes what was done to a job.
    pub(crate) fn note(&mut self, job: Option<(JobUid, JobName)>, act: Act) {
        self.book.note(Entry { at: self.now, author: self.author.clone(), job, act });
    }

    /// Notes it, with the name that the job has now.
    pub(crate) fn note_of(&mut self, uid: JobUid, act: Act) {
        let job = self.book.job(uid).map(|job| (uid, job.name.clone()));
        self.note(job, act);
    }
}

/// A request and its author.
pub(crate) fn authored(request: Request) -> (Author, Request) {
    match request {
        Request::By { author, request } => (author, *request),
        request => (Author::default(), request),
    }
}
