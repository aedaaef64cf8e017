//! Where state lives: one contract, and the stores behind it.
//!
//! A store keeps the hot [`State`] and the history of ended runs. Only the leader of the present term writes, in
//! batches that apply in order or not at all. Start at [`Store`]; `conformance` (feature `testing`) says in tests
//! what every implementation must do. [`projection`] is what answers reads; [`mod@format`] is what is on disk.
//! **Invariant:** knows nothing of engines or HTTP, and decides nothing: what a change means is said by
//! [`State::apply`].

pub mod backup;
mod facts;
pub mod format;
pub mod memory;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod projection;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "zookeeper"))]
#[cfg_attr(
    not(any(feature = "sqlite", feature = "postgres")),
    expect(dead_code, reason = "ZooKeeper has no tables, but writes outcomes as they do")
)]
mod rows;
#[cfg(feature = "sqlite")]
pub mod sqlite;
#[cfg(feature = "sqlite")]
pub mod yardstick;
#[cfg(feature = "zookeeper")]
pub mod zookeeper;

#[cfg(feature = "testing")]
pub mod conformance;
#[cfg(feature = "testing")]
pub mod samples;

pub use facts::Facts;

use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use scheduler::audit::Entry;
use scheduler::ids::{Epoch, JobName, JobUid, RunKey, Seq};
use scheduler::revision::Revision;
use scheduler::run::Record;
use scheduler::state::{Change, State};
use tokio::sync::mpsc;

use crate::backup::{Extent, StageError, Staged};

/// Who leads or wants to. Shown to users and to the other nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidate {
    /// Random, made once per data folder; never an address.
    pub node: String,
    /// Where others may reach its API, best first: `host:port`.
    pub addresses: Vec<String>,
    /// Process id on its machine.
    pub pid: u32,
    /// Version of its binary.
    pub version: String,
}

impl Candidate {
    /// Names the process: two servers on one data folder are one node, and yet not the same.
    pub fn instance(&self) -> String {
        format!("{}.{}", self.node, self.pid)
    }
}

/// A node of the cluster, as it said of itself to the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who it is.
    pub candidate: Candidate,
    /// How it is doing, at most [`NEWS_BYTES_MAX`]; stores do not read it.
    pub news: String,
    /// How long ago it said so, by the clock of the store.
    pub age: Duration,
}

/// A term of leadership, as far as it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// Its number.
    pub epoch: Epoch,
    /// The last applied batch of all.
    pub seq: Seq,
}

/// One applied batch, for followers.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// Its number.
    pub seq: Seq,
    /// The term it was written in.
    pub epoch: Epoch,
    /// What it changed.
    pub changes: Vec<Change>,
}

/// This node no longer leads: a later epoch has written, or the right to lead was lost. Drop the term, release no
/// effect that waits for an unapplied batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("deposed: {reason}")]
pub struct Deposed {
    /// For the log.
    pub reason: String,
}

/// Why a store did not answer a question, or does not let this node lead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached or does not work now; trying again makes sense.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// Written by a newer binary; nothing was touched.
    #[error("the store has format {found}, which is newer than {ours}, the newest that this binary knows")]
    Newer {
        /// What the store says.
        found: u32,
        /// What we can read.
        ours: u32,
    },
    /// Its content cannot be read. Where it is refused at the start, nothing was touched.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// Not the store that was asked for, or none where that should be; nothing was made and nothing was touched.
    #[error("{}", strange(.found.as_deref(), .wanted))]
    Strange {
        /// The id of what is there.
        found: Option<String>,
        /// The id that is wanted.
        wanted: String,
    },
    /// A batch or record beyond the stated bounds.
    #[error("too large for the store: {0}")]
    TooLarge(String),
    /// The follower asked for a batch that is no longer kept; load again.
    #[error("batch {} is no longer kept; the oldest is {}", asked.0, oldest.0)]
    Gone {
        /// What was asked for.
        asked: Seq,
        /// The oldest that is there.
        oldest: Seq,
    },
    /// This node has been deposed.
    #[error(transparent)]
    Deposed(#[from] Deposed),
}

fn strange(found: Option<&str>, wanted: &str) -> String {
    let (what, advice) = match found {
        Some(id) => (format!("this is the store {id}"), ""),
        None => ("there is no store here yet".into(), "; without --expect_store a new one is made"),
    };
    format!(
        "{what}, and --expect_store wants {wanted}: see that the address and the path of the store are right{advice}"
    )
}

/// Refuses a store, or the place where one could be made, if another one is wanted.
#[cfg(any(feature = "postgres", feature = "zookeeper"))]
fn wanted(expected: Option<&str>, found: Option<&str>) -> Result<(), StoreError> {
    match expected {
        Some(wanted) if found != Some(wanted) => {
            Err(StoreError::Strange { found: found.map(Into::into), wanted: wanted.into() })
        }
        _ => Ok(()),
    }
}

/// Largest batch, encoded: half of ZooKeeper's default packet, so that one bound serves all stores.
pub const BATCH_BYTES_MAX: usize = 512 * 1024;

/// Most that a node says of itself. Every node says it every few seconds, and each reads what all say.
pub const NEWS_BYTES_MAX: usize = 32 * 1024;

/// What is beyond [`NEWS_BYTES_MAX`] is refused by every store alike.
fn bounded(news: &str) -> Result<(), StoreError> {
    match news.len() {
        0..=NEWS_BYTES_MAX => Ok(()),
        n => Err(StoreError::TooLarge(format!("news of {n} bytes, of which {NEWS_BYTES_MAX} are allowed"))),
    }
}

/// Which records of the history are wanted: all conditions hold.
#[derive(Clone, Debug, PartialEq)]
pub struct HistoryQuery {
    /// Only of this job.
    pub job: Option<JobUid>,
    /// Only of jobs that had this name (also of deleted ones).
    pub name: Option<String>,
    /// Only with one of these outcomes; empty for all.
    pub outcomes: Vec<OutcomeKind>,
    /// Only with one of these causes; empty for all.
    pub causes: Vec<CauseKind>,
    /// Only records whose (last) due time is at or after this.
    pub from: Option<Timestamp>,
    /// Only records whose (first) due time is before this.
    pub to: Option<Timestamp>,
    /// Which end comes first.
    pub order: HistoryOrder,
    /// Where the page before this one ended.
    pub cursor: Option<u64>,
    /// At most so many; 1 to 1000.
    pub limit: usize,
}

impl Default for HistoryQuery {
    fn default() -> Self {
        Self {
            job: None,
            name: None,
            outcomes: Vec::new(),
            causes: Vec::new(),
            from: None,
            to: None,
            order: HistoryOrder::NewestFirst,
            cursor: None,
            limit: 100,
        }
    }
}

/// Which end of the history comes first: records are in the order in which they were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistoryOrder {
    /// The last one that was written.
    NewestFirst,
    /// The first one that is kept.
    OldestFirst,
}

/// A cause without what it names. A row of slots that never became runs is of slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CauseKind {
    /// See [`scheduler::ids::Cause`]; likewise the others.
    Slot,
    /// Someone asked for it.
    Trigger,
    /// Parents succeeded.
    Join,
    /// A past slot.
    Backfill,
}

/// An outcome without its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OutcomeKind {
    /// See [`scheduler::run::Outcome`]; likewise the others.
    Succeeded,
    /// All attempts failed.
    Failed,
    /// Ended on purpose.
    Killed,
    /// Ran too long.
    TimedOut,
    /// Nobody can tell.
    Lost,
    /// A rule forbade it.
    Skipped,
    /// Nobody could start it in time.
    Missed,
}

impl OutcomeKind {
    /// All of them. Stores write an outcome as its place here, so the list only grows.
    pub const ALL: [Self; 7] = [
        Self::Succeeded,
        Self::Failed,
        Self::Killed,
        Self::TimedOut,
        Self::Lost,
        Self::Skipped,
        Self::Missed,
    ];
}

/// How the latest run of a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastRun {
    /// Which run.
    pub key: RunKey,
    /// How it ended.
    pub outcome: OutcomeKind,
    /// When.
    pub ended: Timestamp,
}

/// A page of the history.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HistoryPage {
    /// In the order that was asked for. Where what is wanted is rare there may be fewer than were asked for, or none,
    /// before the end.
    pub records: Vec<Record>,
    /// Give it to the next query; `None` at the end.
    pub next: Option<u64>,
}

/// Which revisions are wanted: all conditions hold, newest first.
#[derive(Clone, Debug, PartialEq)]
pub struct RevisionQuery {
    /// Only of this job.
    pub job: Option<JobUid>,
    /// Only of jobs of this name, deleted ones too.
    pub name: Option<JobName>,
    /// Where the page before this one ended.
    pub cursor: Option<u64>,
    /// At most so many; 1 to 1000.
    pub limit: usize,
}

impl Default for RevisionQuery {
    fn default() -> Self {
        Self { job: None, name: None, cursor: None, limit: 100 }
    }
}

/// A page of revisions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RevisionPage {
    /// Newest first.
    pub revisions: Vec<Revision>,
    /// Give it to the next query; `None` at the end.
    pub next: Option<u64>,
}

/// Which entries of the audit are wanted: all conditions hold, newest first.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditQuery {
    /// Only of jobs of this name, deleted ones too.
    pub name: Option<JobName>,
    /// Only by authors of this name.
    pub by: Option<String>,
    /// Only acts of these words; empty for all.
    pub acts: Vec<&'static str>,
    /// Only at or after this.
    pub from: Option<Timestamp>,
    /// Only before this.
    pub to: Option<Timestamp>,
    /// Which end comes first.
    pub order: HistoryOrder,
    /// Where the page before this one ended.
    pub cursor: Option<u64>,
    /// At most so many; 1 to 1000.
    pub limit: usize,
}

impl Default for AuditQuery {
    fn default() -> Self {
        let (acts, order) = (Vec::new(), HistoryOrder::NewestFirst);
        Self { name: None, by: None, acts, from: None, to: None, order, cursor: None, limit: 100 }
    }
}

/// A page of the audit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AuditPage {
    /// In the order that was asked for.
    pub entries: Vec<Entry>,
    /// Give it to the next query; `None` at the end.
    pub next: Option<u64>,
}

/// How much history is kept. What is removed is known to be removed: see [`Store::kept_since`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Records older than this go.
    pub age_max: Duration,
    /// Of each job only the newest so many stay.
    pub count_max: u64,
    /// Entries of the audit older than this go.
    pub audit_age_max: Duration,
    /// Of the audit only the newest so many stay.
    pub audit_count_max: u64,
}

impl Retention {
    /// Everything is kept.
    pub const UNBOUNDED: Self = Self {
        age_max: Duration::MAX,
        count_max: u64::MAX,
        audit_age_max: Duration::MAX,
        audit_count_max: u64::MAX,
    };
}

/// What a store occupies on a disk of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Its own bytes.
    pub used: u64,
    /// Bytes that may still be written.
    pub free: u64,
}

/// Where state lives. Only the leader writes to it.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Its kind in logs, metrics and `doctor`: `sqlite`, `postgres`, `zookeeper`, `memory`.
    fn kind(&self) -> &'static str;

    /// Waits until this node may lead, then begins a term: raises the epoch with an empty batch, before anything
    /// is loaded. Tries for ever. Cancel-safe: when dropped, this node does not lead.
    /// # Errors
    /// Only what trying again cannot mend: [`StoreError::Newer`], [`StoreError::Damaged`]; and a defect of ours.
    async fn begin_term(&self, candidate: &Candidate) -> Result<Term, StoreError>;

    /// Gives up the right to lead, so that another may begin at once. In-flight commits are waited for.
    async fn resign(&self);

    /// Who leads, as far as this node can see; `None` for nobody.
    async fn leader(&self) -> Option<Candidate>;

    /// The last applied batch of all, whoever applied it: what a follower that has seen it knows to be the present.
    /// Asks those who must agree, not the nearest.
    /// # Errors
    /// See [`StoreError`].
    async fn present(&self) -> Result<Term, StoreError>;

    /// The random id that the store got when it was made, by which a node knows it again. A store without one is not kept.
    /// # Errors
    /// See [`StoreError`]; [`StoreError::Unavailable`] also where nobody has made it yet.
    async fn store_id(&self) -> Result<Option<String>, StoreError> {
        Ok(None)
    }

    /// Tells the other nodes how this one is; in the place of what it said before. It is kept until it is forgotten:
    /// a node that says nothing any more is one to look after. Stores of one machine have nobody to tell.
    /// # Errors
    /// See [`StoreError`]; [`StoreError::TooLarge`].
    async fn announce(&self, candidate: &Candidate, news: &str) -> Result<(), StoreError> {
        let _ = (candidate, news);
        Ok(())
    }

    /// All nodes that have ever announced themselves and were not forgotten, by id.
    /// # Errors
    /// See [`StoreError`].
    async fn members(&self) -> Result<Vec<Member>, StoreError> {
        Ok(Vec::new())
    }

    /// Forgets a node, until it announces itself again. Whether it was known.
    /// # Errors
    /// See [`StoreError`].
    async fn forget_member(&self, node: &str) -> Result<bool, StoreError> {
        let _ = node;
        Ok(false)
    }

    /// How far the clock of this machine is ahead of the store's (negative: behind it), as well as one question can tell;
    /// `None` where the store has no clock of its own. Terms of different nodes must agree about the time.
    /// # Errors
    /// See [`StoreError`].
    async fn clock_ahead(&self) -> Result<Option<SignedDuration>, StoreError> {
        Ok(None)
    }

    /// Everything, as of the last applied batch.
    /// # Errors
    /// See [`StoreError`].
    async fn load(&self) -> Result<(State, Term), StoreError>;

    /// Applies batch `seq` of term `epoch`: all of `changes`, or nothing; and moves the term record from `seq - 1`
    /// to `seq` with it, by compare-and-set. Returns once it would survive the loss of power. Settles every
    /// doubt itself: after anything but a verdict it reads the term record and, if the batch is missing and the epoch
    /// still ours, sends it again. A full disk is a doubt too. Calls may overlap; they apply in order of `seq`.
    /// An empty batch is a question: does this epoch still hold?
    /// # Errors
    /// [`Deposed`]: a later epoch has written, or the right to lead is gone.
    async fn commit(&self, epoch: Epoch, seq: Seq, changes: &[Change]) -> Result<(), Deposed>;

    /// Waits until there are batches after `seq`, then returns them in order, at most 4 MiB.
    /// # Errors
    /// [`StoreError::Gone`] when they are no longer kept: load again.
    async fn follow(&self, after: Seq) -> Result<Vec<Applied>, StoreError>;

    /// Records of the history.
    /// # Errors
    /// See [`StoreError`].
    async fn history(&self, query: &HistoryQuery) -> Result<HistoryPage, StoreError>;

    /// The record of one ended run.
    /// # Errors
    /// See [`StoreError`].
    async fn ended_run(&self, key: RunKey) -> Result<Option<Record>, StoreError>;

    /// What definitions were, of which the newest [`Revision::KEPT`] of each job are there; those of a deleted job until
    /// its deletion is older than the history is kept.
    /// # Errors
    /// See [`StoreError`].
    async fn revisions(&self, query: &RevisionQuery) -> Result<RevisionPage, StoreError>;

    /// One revision of a job.
    /// # Errors
    /// See [`StoreError`].
    async fn revision(&self, job: JobUid, version: u32) -> Result<Option<Revision>, StoreError>;

    /// Who did what, as far as retention has left it.
    /// # Errors
    /// See [`StoreError`].
    async fn audit(&self, query: &AuditQuery) -> Result<AuditPage, StoreError>;

    /// The run of each job that ended last, as far as the history reaches; in no order. It may take seconds, so a
    /// node asks after it has begun to answer, see [`projection::Projection::learn`].
    /// # Errors
    /// See [`StoreError`].
    async fn last_runs(&self) -> Result<Vec<LastRun>, StoreError>;

    /// Since when the history of a job is whole: all records whose (last) due time is at or after this are there,
    /// the others may have been removed by retention. `None`: none was.
    /// # Errors
    /// See [`StoreError`].
    async fn kept_since(&self, job: JobUid) -> Result<Option<Timestamp>, StoreError>;

    /// Removes old history, in small transactions. Returns how many records went. A deleted job is forgotten with
    /// its last record, [`Store::kept_since`] included. Revisions of deleted jobs and the audit are not counted.
    /// # Errors
    /// See [`StoreError`]; [`StoreError::Deposed`] on a node that does not lead.
    async fn prune(&self, retention: Retention, now: Timestamp) -> Result<u64, StoreError>;

    /// Hands a backup to whoever reads the other end, piece by piece: everything as of one moment, however many
    /// batches are applied meanwhile. Without its last line it is not whole; see [`backup`].
    /// # Errors
    /// See [`StoreError`]; [`StoreError::Unavailable`] also when nobody takes the pieces.
    async fn backup(&self, extent: Extent, to: mpsc::Sender<Vec<u8>>) -> Result<(), StoreError>;

    /// Reads a backup whole and keeps it beside the store, where nobody sees it. Pieces may be cut anywhere.
    /// # Errors
    /// [`StageError`]; nothing is kept then.
    async fn stage(&self, from: mpsc::Receiver<Vec<u8>>) -> Result<Staged, StageError>;

    /// As batch `seq` of term `epoch`, as [`Store::commit`] would apply it: makes the staged content the content of the
    /// store, then applies `changes` to it; all of that or nothing, and not before all batches up to `seq - 1`.
    /// Followers are told [`StoreError::Gone`]. The id of the store and its term stay; the leader loads anew.
    /// # Errors
    /// [`StoreError::Deposed`], [`StoreError::Unavailable`] where the disk is full or failing: nothing has changed.
    async fn restore(
        &self,
        epoch: Epoch,
        seq: Seq,
        staged: Staged,
        changes: &[Change],
    ) -> Result<(), StoreError>;

    /// Waits until the right to lead in this epoch is known to be gone, also while nothing is committed: a lease that
    /// could not be renewed in time. A store whose right cannot go without anybody's doing never answers.
    async fn deposed(&self, _epoch: Epoch) -> Deposed {
        std::future::pending().await
    }

    /// How much the store occupies, and how much room is left; `None` where nobody on this machine can tell.
    fn disk(&self) -> Option<Disk> {
        None
    }

    /// Why no more jobs may be made, with advice: the store has reached a stated limit. For the door, as a batch that is
    /// decided is applied. `None`: there is room.
    fn full(&self) -> Option<String> {
        None
    }

    /// What of the past is broken while jobs go on, with advice. `None`: nothing that anybody has met.
    fn damage(&self) -> Option<String> {
        None
    }

    /// What keeps commits from being applied just now, such as a full disk; for `/ready`. `None`: nothing.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// What is worth a look while everything works, with advice; one sentence each.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}
