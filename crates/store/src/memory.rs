//! A store in memory: the model that the others are measured by, and the store of the simulation.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use scheduler::audit::Entry;
use scheduler::ids::{Epoch, JobName, JobUid, RunKey, Seq};
use scheduler::revision::{Deed, Revision};
use scheduler::run::Record;
use scheduler::state::{Change, State};
use tokio::sync::{mpsc, watch};

use crate::backup::{
    BackupError, Content, Extent, Header, Line, Reader, ReaderGone, StageError, Staged, Writer,
};
use crate::facts::{Facts, first_uid};
use crate::{
    Applied, AuditPage, AuditQuery, Candidate, Deposed, HistoryOrder, HistoryPage, HistoryQuery, LastRun,
    Member, Retention, RevisionPage, RevisionQuery, Store, StoreError, Term, bounded,
};

/// Batches kept for followers: enough to bridge a pause, little enough to test what happens after one.
const LOG_BATCHES_MAX: usize = 4096;
/// What one answer to a follower holds at most; memory needs no bound in bytes.
const FOLLOW_BATCHES_MAX: usize = 256;
/// Records and entries of a backup that are in memory before those are left out that nobody keeps.
const STAGED_MIN: usize = 10_000;

/// What a store is, without time, threads or faults: a simulator brings its own. A clone is another store.
#[derive(Clone, Debug)]
pub struct MemoryCore {
    term: Term,
    /// The batch that began the term.
    began: Seq,
    state: State,
    log: VecDeque<Applied>,
    records: BTreeMap<u64, (Facts, Arc<Record>)>,
    records_of: BTreeMap<JobUid, BTreeSet<u64>>,
    by_key: BTreeMap<RunKey, u64>,
    kept_since: BTreeMap<JobUid, Timestamp>,
    next_record: u64,
    revisions: BTreeMap<u64, Arc<Revision>>,
    revision_of: BTreeMap<(JobUid, u32), u64>,
    audit: BTreeMap<u64, Arc<Entry>>,
    next_entry: u64,
}

/// At most so many records, and where they end if there are more.
fn page(mut found: impl Iterator<Item = (u64, Arc<Record>)>, limit: usize) -> HistoryPage {
    let page: Vec<_> = found.by_ref().take(limit).collect();
    let next = page.last().map(|(id, _)| *id).filter(|_| found.next().is_some());
    HistoryPage { records: page.into_iter().map(|(_, record)| Record::clone(&record)).collect(), next }
}

/// Why a batch was not applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It never will be.
    Deposed(Deposed),
    /// Its predecessor is missing; a store waits for it.
    Early {
        /// The batch that comes next.
        next: Seq,
    },
}

/// Whether a batch of the present term is the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// It has been applied.
    Past,
    /// It comes now.
    Now,
}

impl MemoryCore {
    /// An empty store. The salt (20 bits) tells its uids from those of other stores.
    pub fn new(salt: u32) -> Self {
        let mut state = State::default();
        state.meta.next_uid = first_uid(salt);
        Self {
            term: Term { epoch: Epoch(0), seq: Seq(0) },
            began: Seq(0),
            state,
            log: VecDeque::new(),
            records: BTreeMap::new(),
            records_of: BTreeMap::new(),
            by_key: BTreeMap::new(),
            kept_since: BTreeMap::new(),
            next_record: 1,
            revisions: BTreeMap::new(),
            revision_of: BTreeMap::new(),
            audit: BTreeMap::new(),
            next_entry: 1,
        }
    }

    /// The present term.
    pub fn term(&self) -> Term {
        self.term
    }

    /// Begins a term: raises the epoch, with an empty batch.
    pub fn begin_term(&mut self) -> Term {
        self.term = Term { epoch: Epoch(self.term.epoch.0 + 1), seq: Seq(self.term.seq.0 + 1) };
        self.began = self.term.seq;
        self.log(Vec::new());
        self.term
    }

    /// Applies a batch: all of it or nothing. The same batch sent again is applied once.
    /// # Errors
    /// [`Refusal`].
    pub fn commit(&mut self, epoch: Epoch, seq: Seq, changes: &[Change]) -> Result<(), Refusal> {
        if self.turn(epoch, seq)? == Turn::Now {
            self.term.seq = seq;
            self.make(changes);
            self.log(changes.to_vec());
        }
        Ok(())
    }

    /// Whether a batch is the next one.
    fn turn(&self, epoch: Epoch, seq: Seq) -> Result<Turn, Refusal> {
        if epoch != self.term.epoch || seq <= self.began {
            let Term { epoch: present, seq: last } = self.term;
            let reason = format!(
                "batch {} of epoch {} came in epoch {}, after batch {}",
                seq.0, epoch.0, present.0, last.0
            );
            return Err(Refusal::Deposed(Deposed { reason }));
        }
        if seq <= self.term.seq {
            return Ok(Turn::Past);
        }
        let next = Seq(self.term.seq.0 + 1);
        if seq == next { Ok(Turn::Now) } else { Err(Refusal::Early { next }) }
    }

    /// Everything, as of the last applied batch.
    pub fn load(&self) -> (State, Term) {
        (self.state.clone(), self.term)
    }

    /// The state, for those who only look.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Batches after `after`, oldest first; none when there are none yet.
    /// # Errors
    /// [`StoreError::Gone`] when they are no longer kept, or when `after` is not yet.
    pub fn applied_after(&self, after: Seq) -> Result<Vec<Applied>, StoreError> {
        let oldest = self.log.front().map_or(Seq(self.term.seq.0 + 1), |batch| batch.seq);
        if after > self.term.seq || after.0 + 1 < oldest.0 {
            return Err(StoreError::Gone { asked: Seq(after.0.saturating_add(1)), oldest });
        }
        let skip = usize::try_from(after.0 + 1 - oldest.0).unwrap_or(usize::MAX);
        Ok(self.log.iter().skip(skip).take(FOLLOW_BATCHES_MAX).cloned().collect())
    }

    /// See [`Store::history`].
    pub fn history(&self, query: &HistoryQuery) -> HistoryPage {
        let wanted = |(id, (facts, record)): (&u64, &(Facts, Arc<Record>))| {
            query.wants(facts).then(|| (*id, record.clone()))
        };
        match query.order {
            HistoryOrder::NewestFirst => {
                let before = query.cursor.unwrap_or(u64::MAX);
                page(self.records.range(..before).rev().filter_map(wanted), query.limit())
            }
            HistoryOrder::OldestFirst => {
                let after = query.cursor.map_or(Bound::Unbounded, Bound::Excluded);
                page(self.records.range((after, Bound::Unbounded)).filter_map(wanted), query.limit())
            }
        }
    }

    /// All records, oldest first: the ledger that a simulator audits.
    pub fn records(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.records.values().map(|(_, record)| record)
    }

    /// See [`Store::ended_run`].
    pub fn ended_run(&self, key: RunKey) -> Option<Arc<Record>> {
        self.by_key.get(&key).and_then(|id| self.records.get(id)).map(|(_, record)| record.clone())
    }

    /// See [`Store::revisions`].
    pub fn revisions(&self, query: &RevisionQuery) -> RevisionPage {
        let older = self.revisions.range(..query.cursor.unwrap_or(u64::MAX)).rev();
        let mut found = older.filter(|(_, revision)| query.wants(revision));
        let page: Vec<_> = found.by_ref().take(query.limit()).collect();
        let next = page.last().map(|(id, _)| **id).filter(|_| found.next().is_some());
        RevisionPage {
            revisions: page.into_iter().map(|(_, revision)| Revision::clone(revision)).collect(),
            next,
        }
    }

    /// See [`Store::revision`].
    pub fn revision(&self, job: JobUid, version: u32) -> Option<Arc<Revision>> {
        self.revision_of.get(&(job, version)).and_then(|id| self.revisions.get(id)).cloned()
    }

    /// See [`Store::audit`].
    pub fn audit(&self, query: &AuditQuery) -> AuditPage {
        let beyond: Box<dyn Iterator<Item = _>> = match query.order {
            HistoryOrder::NewestFirst => Box::new(self.audit.range(..query.cursor.unwrap_or(u64::MAX)).rev()),
            HistoryOrder::OldestFirst => {
                Box::new(self.audit.range(query.cursor.map_or(0, |cursor| cursor + 1)..))
            }
        };
        let mut found = beyond.filter(|(_, entry)| query.wants(entry));
        let page: Vec<_> = found.by_ref().take(query.limit()).collect();
        let next = page.last().map(|(id, _)| **id).filter(|_| found.next().is_some());
        AuditPage { entries: page.into_iter().map(|(_, entry)| Entry::clone(entry)).collect(), next }
    }

    /// See [`Store::last_runs`].
    pub fn last_runs(&self) -> Vec<LastRun> {
        let mut last = BTreeMap::new();
        for record in self.records() {
            if let Record::Run(run) = &**record {
                last.insert(run.key.job, LastRun::of(run));
            }
        }
        last.into_values().collect()
    }

    /// See [`Store::kept_since`].
    pub fn kept_since(&self, job: JobUid) -> Option<Timestamp> {
        self.kept_since.get(&job).copied()
    }

    /// A backup, see [`Store::backup`]. To be called on a thread for blocking work.
    fn backup(&self, extent: Extent, to: &mpsc::Sender<Vec<u8>>) -> Result<(), ReaderGone> {
        if extent == Extent::WithoutHistory {
            let mut without = self.clone();
            let retention = Retention { count_max: 0, ..Retention::UNBOUNDED };
            without.prune(retention, Timestamp::now());
            without.revisions.clear();
            without.revision_of.clear();
            without.audit.clear();
            return without.write_backup(extent, to);
        }
        self.write_backup(extent, to)
    }

    fn write_backup(&self, extent: Extent, to: &mpsc::Sender<Vec<u8>>) -> Result<(), ReaderGone> {
        let lines = self.lines();
        let header = Header {
            format: crate::format::VERSION,
            kind: "memory".into(),
            term: self.term,
            taken: Timestamp::from_millisecond(Timestamp::now().as_millisecond()).unwrap_or_default(),
            program: env!("CARGO_PKG_VERSION").into(),
            lines: lines.len() as u64,
            extent,
        };
        let mut writer = Writer::begin(&header, to)?;
        for line in &lines {
            match line {
                Line::Record(change) => writer.change(change)?,
                Line::Kept(job, name, since) => writer.kept(*job, name.as_str(), since.as_millisecond())?,
            }
        }
        writer.end()
    }

    /// Everything, as lines of a backup.
    pub(crate) fn lines(&self) -> Vec<Line> {
        // Named one by one: whoever adds a field is asked here whether it belongs into a backup.
        let Self {
            term: _,
            began: _,
            state,
            log: _,
            records,
            records_of: _,
            by_key: _,
            kept_since,
            next_record: _,
            revisions,
            revision_of: _,
            audit,
            next_entry: _,
        } = self;
        let mut lines: Vec<Line> = changes_of(state).into_iter().map(Line::Record).collect();
        lines.extend(records.values().map(|(_, record)| Line::Record(Change::Append(record.clone()))));
        lines.extend(revisions.values().map(|revision| Line::Record(Change::Revise(revision.clone()))));
        lines.extend(audit.values().map(|entry| Line::Record(Change::Note(entry.clone()))));
        for (job, since) in kept_since {
            let named =
                || records.values().find(|(facts, _)| facts.job == *job).map(|(facts, _)| facts.name.clone());
            let name = state.jobs.get(job).map(|job| job.name.clone()).or_else(named);
            let name = name.or_else(|| JobName::new("unnamed").ok());
            lines.extend(name.map(|name| Line::Kept(*job, name, *since)));
        }
        lines
    }

    /// Reads a backup whole, see [`Store::stage`]. Of the history of each job only the newest records are taken, by the
    /// number of jobs, and of the audit only the newest entries.
    pub(crate) async fn stage(
        mut from: mpsc::Receiver<Vec<u8>>,
        of_each: impl Fn(usize) -> u64,
        audit_max: u64,
    ) -> Result<Staged, StageError> {
        let mut content = Self::new(0);
        let mut reader = Reader::default();
        let mut bound = STAGED_MIN;
        while let Some(piece) = from.recv().await {
            reader.feed(&piece, |_, line| {
                content.add(line);
                Ok::<_, BackupError>(())
            })?;
            // On the way too: all of it may be more than there is memory for.
            if content.records.len() + content.audit.len() > bound {
                content.keep_newest(&of_each, audit_max);
                bound = STAGED_MIN.max(2 * (content.records.len() + content.audit.len()));
            }
        }
        let header = reader.finish()?;
        content.keep_newest(&of_each, audit_max);
        let records = content.records.len() as u64;
        Ok(Staged { header, records, content: Content::Memory(Box::new(content)) })
    }

    /// Takes the content of another store, see [`Store::restore`].
    fn replace(&mut self, content: Self, seq: Seq, changes: &[Change]) {
        let (term, began) = (Term { epoch: self.term.epoch, seq }, self.began);
        *self = Self { term, began, log: VecDeque::new(), ..content };
        self.make(changes);
    }

    /// Makes changes to state and history.
    fn make(&mut self, changes: &[Change]) {
        for change in changes {
            self.state.apply(change);
            match change {
                Change::Append(record) => self.append(record),
                Change::Revise(revision) => self.revise(revision),
                Change::Note(entry) => {
                    self.audit.insert(self.next_entry, entry.clone());
                    self.next_entry += 1;
                }
                _ => {}
            }
        }
    }

    /// Adds a line of a backup.
    fn add(&mut self, line: Line) {
        match line {
            Line::Record(change) => self.make(std::slice::from_ref(&change)),
            Line::Kept(job, _, since) => {
                // More of it may have been left out here.
                let whole = self.kept_since.entry(job).or_insert(since);
                *whole = since.max(*whole);
            }
        }
    }

    /// Leaves out what a store has no room for, see [`MemoryCore::stage`].
    fn keep_newest(&mut self, of_each: impl Fn(usize) -> u64, audit_max: u64) {
        // Those that are deleted have a history too.
        let jobs = self.state.jobs.len().max(self.records_of.len());
        self.remove_older(of_each(jobs));
        self.remove_older_entries(audit_max);
    }

    /// Of each job the newest so many records stay. Returns how many went.
    fn remove_older(&mut self, count_max: u64) -> u64 {
        let keep = usize::try_from(count_max).unwrap_or(usize::MAX);
        let surplus = self.records_of.values().flat_map(|ids| ids.iter().rev().skip(keep).copied());
        let surplus: Vec<u64> = surplus.collect();
        surplus.iter().for_each(|id| self.remove(*id));
        surplus.len() as u64
    }

    /// Of the audit the newest so many entries stay.
    fn remove_older_entries(&mut self, count_max: u64) {
        while self.audit.len() as u64 > count_max {
            self.audit.pop_first();
        }
    }

    /// See [`Store::prune`].
    pub fn prune(&mut self, retention: Retention, now: Timestamp) -> u64 {
        let oldest = now.checked_sub(retention.age_max).unwrap_or(Timestamp::MIN);
        let surplus = self.remove_older(retention.count_max);
        let old = self.records.iter().filter(|(_, (facts, _))| facts.recorded < oldest).map(|(id, _)| *id);
        let old: Vec<u64> = old.collect();
        old.iter().for_each(|id| self.remove(*id));
        // A deleted job is forgotten with its last record: nobody can ask for it any more.
        self.records_of.retain(|_, ids| !ids.is_empty());
        let Self { state, records_of, kept_since, .. } = self;
        kept_since.retain(|job, _| state.jobs.contains_key(job) || records_of.contains_key(job));
        let is_gone = |revision: &Revision| revision.deed == Deed::Deleted && revision.at < oldest;
        let gone_jobs: BTreeSet<JobUid> = self
            .revisions
            .values()
            .filter(|revision| is_gone(revision))
            .map(|revision| revision.job.uid)
            .collect();
        self.revisions.retain(|_, revision| !gone_jobs.contains(&revision.job.uid));
        self.revision_of.retain(|(job, _), _| !gone_jobs.contains(job));
        let oldest = now.checked_sub(retention.audit_age_max).unwrap_or(Timestamp::MIN);
        self.audit.retain(|_, entry| entry.at >= oldest);
        self.remove_older_entries(retention.audit_count_max);
        surplus + old.len() as u64
    }

    fn revise(&mut self, revision: &Arc<Revision>) {
        let (job, version) = (revision.job.uid, revision.job.version);
        let id = self.revisions.last_key_value().map_or(1, |(id, _)| id + 1);
        self.revisions.insert(id, revision.clone());
        let replaced = self.revision_of.insert((job, version), id);
        let kept = version.saturating_sub(Revision::KEPT - 1);
        let old: Vec<_> =
            self.revision_of.range((job, 0)..(job, kept)).map(|(key, id)| (*key, *id)).collect();
        for (key, id) in old {
            self.revision_of.remove(&key);
            self.revisions.remove(&id);
        }
        replaced.map(|id| self.revisions.remove(&id));
    }

    fn append(&mut self, record: &Arc<Record>) {
        let id = self.next_record;
        self.next_record += 1;
        let facts = Facts::of(record);
        self.records_of.entry(facts.job).or_default().insert(id);
        if let Some(key) = crate::format::record_key(record) {
            self.by_key.insert(key, id);
        }
        self.records.insert(id, (facts, record.clone()));
    }

    fn remove(&mut self, id: u64) {
        let Some((facts, record)) = self.records.remove(&id) else { return };
        if let Some(ids) = self.records_of.get_mut(&facts.job) {
            ids.remove(&id);
        }
        if let Some(key) = crate::format::record_key(&record)
            && self.by_key.get(&key) == Some(&id)
        {
            self.by_key.remove(&key);
        }
        let whole = crate::facts::after(facts.last_due);
        let since = self.kept_since.entry(facts.job).or_insert(whole);
        *since = whole.max(*since);
    }

    fn log(&mut self, changes: Vec<Change>) {
        self.log.push_back(Applied { seq: self.term.seq, epoch: self.term.epoch, changes });
        if self.log.len() > LOG_BATCHES_MAX {
            self.log.pop_front();
        }
    }
}

/// All of a state, as the changes that make it of nothing.
pub(crate) fn changes_of(state: &State) -> Vec<Change> {
    // Named one by one: whoever adds a field is asked here to add it.
    let State { meta, jobs, progress, runs, joins, fanouts, backfills, notices, receipts, staged } = state;
    let mut changes = vec![Change::Meta(meta.clone())];
    changes.extend(jobs.values().cloned().map(Change::PutJob));
    changes.extend(progress.iter().map(|(uid, progress)| Change::PutProgress(*uid, progress.clone())));
    changes.extend(runs.values().cloned().map(Change::PutRun));
    changes.extend(joins.values().cloned().map(Change::PutJoin));
    changes.extend(fanouts.values().cloned().map(Change::PutFanout));
    changes.extend(backfills.values().cloned().map(Change::PutBackfill));
    changes.extend(notices.values().cloned().map(Change::PutNotice));
    changes.extend(receipts.values().cloned().map(Change::PutReceipt));
    changes.extend(staged.values().cloned().map(Change::Stage));
    changes
}

/// One node's handle on a store in memory. Several handles contend as several nodes do.
#[derive(Debug)]
pub struct MemoryStore {
    node: u64,
    shared: Arc<Shared>,
    /// This node cannot read what others write.
    foreign: bool,
    /// What this node is answered when it asks for the clock.
    clock: Mutex<Result<Option<SignedDuration>, StoreError>>,
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    /// Moves with every change of `inner`; what waiters look at again after.
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    core: MemoryCore,
    nodes: u64,
    leader: Option<(u64, Candidate)>,
    /// What it says of its limits.
    full: Option<String>,
    /// Batches wait to be applied.
    held: bool,
    /// How many came since.
    waiting: u64,
    /// How often it was loaded.
    loads: u64,
    /// Questions that get no answer, by the names of their functions.
    stuck: &'static [&'static str],
    /// How many were asked since.
    unanswered: u64,
    /// By node.
    members: BTreeMap<String, (Candidate, String, Instant)>,
}

impl MemoryStore {
    /// The first handle on a new store.
    pub fn new(core: MemoryCore) -> Self {
        let inner = Mutex::new(Inner {
            core,
            nodes: 1,
            leader: None,
            full: None,
            held: false,
            waiting: 0,
            loads: 0,
            stuck: &[],
            unanswered: 0,
            members: BTreeMap::new(),
        });
        Self::handle(0, Arc::new(Shared { inner, changed: watch::Sender::new(0) }))
    }

    fn handle(node: u64, shared: Arc<Shared>) -> Self {
        Self { node, shared, foreign: false, clock: Mutex::new(Ok(None)) }
    }

    /// Nothing was heard of this node for so long, nor is it until it announces itself again.
    pub fn fell_silent(&self, node: &str, ago: Duration) {
        if let Some((_, _, at)) = self.inner().members.get_mut(node) {
            *at = at.checked_sub(ago).unwrap_or(*at);
        }
    }

    /// The clock by which it tells how long ago nodes have said something steps, forward or back.
    pub fn step_clock(&self, by: SignedDuration) {
        for (_, _, at) in self.inner().members.values_mut() {
            // A panic, where there is no such time.
            *at = if by.is_negative() { *at + by.unsigned_abs() } else { *at - by.unsigned_abs() };
        }
    }

    /// Another node's handle on the same store.
    pub fn another(&self) -> Self {
        let mut inner = self.inner();
        let node = inner.nodes;
        inner.nodes += 1;
        Self::handle(node, self.shared.clone())
    }

    /// Another node's handle, whose version cannot read what is there.
    pub fn another_version(&self) -> Self {
        let mut other = self.another();
        other.foreign = true;
        other
    }

    /// From here on the store has a clock, and this node's is so far ahead of it; or the question for it fails.
    pub fn set_clock_ahead(&self, ahead: Result<SignedDuration, StoreError>) {
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner) = ahead.map(Some);
    }

    /// Takes the right to lead from whoever has it, without telling: what an expired lease does.
    pub fn expire(&self) {
        self.inner().leader = None;
        self.tell();
    }

    /// Says from here on that no more jobs may be made, or that there is room again.
    pub fn set_full(&self, why: Option<&str>) {
        self.inner().full = why.map(Into::into);
    }

    /// From here on batches wait, as on a slow disk, or are applied again.
    pub fn set_held(&self, held: bool) {
        let mut inner = self.inner();
        (inner.held, inner.waiting) = (held, 0);
        drop(inner);
        self.tell();
    }

    /// How many batches came while it was held.
    pub fn waiting(&self) -> u64 {
        self.inner().waiting
    }

    /// From here on these questions are not answered before others are named: `load`, `store_id`, `announce`,
    /// `last_runs`, `restore`.
    pub fn set_stuck(&self, questions: &'static [&'static str]) {
        let mut inner = self.inner();
        (inner.stuck, inner.unanswered) = (questions, 0);
        drop(inner);
        self.tell();
    }

    /// How many of them were asked since.
    pub fn unanswered(&self) -> u64 {
        self.inner().unanswered
    }

    /// Waits until this question is answered.
    async fn answers(&self, question: &str) {
        {
            let mut inner = self.inner();
            inner.unanswered += u64::from(inner.stuck.contains(&question));
        }
        self.when(|inner| (!inner.stuck.contains(&question)).then_some(())).await;
    }

    /// How often all of it was loaded, by whichever node.
    pub fn loads(&self) -> u64 {
        self.inner().loads
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A panic of another holder is a failed test; what it left is still whole.
        self.shared.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.shared.changed.send_modify(|n| *n += 1);
    }

    /// Asks until there is an answer, after every change of the store.
    async fn when<T>(&self, mut ask: impl FnMut(&mut Inner) -> Option<T>) -> T {
        let mut changed = self.shared.changed.subscribe();
        loop {
            changed.mark_unchanged();
            if let Some(answer) = ask(&mut self.inner()) {
                return answer;
            }
            changed.changed().await.expect("the sender lives in `shared`, which we hold");
        }
    }

    fn let_go(&self) {
        let mut inner = self.inner();
        if inner.leader.as_ref().is_some_and(|(node, _)| *node == self.node) {
            inner.leader = None;
        }
        drop(inner);
        self.tell();
    }
}

impl Drop for MemoryStore {
    fn drop(&mut self) {
        self.let_go();
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn kind(&self) -> &'static str {
        "memory"
    }

    async fn begin_term(&self, candidate: &Candidate) -> Result<Term, StoreError> {
        let free = |inner: &mut Inner| match &inner.leader {
            Some((node, _)) if *node != self.node => None,
            _ => {
                inner.leader = Some((self.node, candidate.clone()));
                Some(inner.core.begin_term())
            }
        };
        let term = self.when(free).await;
        self.tell();
        Ok(term)
    }

    async fn resign(&self) {
        self.let_go();
    }

    async fn leader(&self) -> Option<Candidate> {
        self.inner().leader.as_ref().map(|(_, candidate)| candidate.clone())
    }

    async fn present(&self) -> Result<Term, StoreError> {
        Ok(self.inner().core.term())
    }

    async fn store_id(&self) -> Result<Option<String>, StoreError> {
        self.answers("store_id").await;
        Ok(None)
    }

    async fn announce(&self, candidate: &Candidate, news: &str) -> Result<(), StoreError> {
        bounded(news)?;
        self.answers("announce").await;
        let said = (candidate.clone(), news.to_owned(), Instant::now());
        self.inner().members.insert(candidate.node.clone(), said);
        Ok(())
    }

    async fn members(&self) -> Result<Vec<Member>, StoreError> {
        let member = |(candidate, news, at): &(Candidate, String, Instant)| Member {
            candidate: candidate.clone(),
            news: news.clone(),
            age: at.elapsed(),
        };
        Ok(self.inner().members.values().map(member).collect())
    }

    async fn forget_member(&self, node: &str) -> Result<bool, StoreError> {
        Ok(self.inner().members.remove(node).is_some())
    }

    async fn clock_ahead(&self) -> Result<Option<SignedDuration>, StoreError> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn load(&self) -> Result<(State, Term), StoreError> {
        self.answers("load").await;
        let mut inner = self.inner();
        inner.loads += 1;
        if self.foreign {
            return Err(StoreError::Damaged("a record of another version".into()));
        }
        Ok(inner.core.load())
    }

    async fn commit(&self, epoch: Epoch, seq: Seq, changes: &[Change]) -> Result<(), Deposed> {
        {
            let mut inner = self.inner();
            inner.waiting += u64::from(inner.held);
        }
        let verdict = self
            .when(|inner| {
                if inner.leader.as_ref().is_none_or(|(node, _)| *node != self.node) {
                    return Some(Err(Deposed { reason: "the right to lead is gone".into() }));
                }
                if inner.held {
                    return None;
                }
                match inner.core.commit(epoch, seq, changes) {
                    Ok(()) => Some(Ok(())),
                    Err(Refusal::Deposed(deposed)) => Some(Err(deposed)),
                    Err(Refusal::Early { .. }) => None,
                }
            })
            .await;
        self.tell();
        verdict
    }

    async fn follow(&self, after: Seq) -> Result<Vec<Applied>, StoreError> {
        self.when(|inner| match inner.core.applied_after(after) {
            Ok(batches) if batches.is_empty() => None,
            answer => Some(answer),
        })
        .await
    }

    async fn history(&self, query: &HistoryQuery) -> Result<HistoryPage, StoreError> {
        Ok(self.inner().core.history(query))
    }

    async fn ended_run(&self, key: RunKey) -> Result<Option<Record>, StoreError> {
        Ok(self.inner().core.ended_run(key).map(|record| Record::clone(&record)))
    }

    async fn revisions(&self, query: &RevisionQuery) -> Result<RevisionPage, StoreError> {
        Ok(self.inner().core.revisions(query))
    }

    async fn revision(&self, job: JobUid, version: u32) -> Result<Option<Revision>, StoreError> {
        Ok(self.inner().core.revision(job, version).map(|revision| Revision::clone(&revision)))
    }

    async fn audit(&self, query: &AuditQuery) -> Result<AuditPage, StoreError> {
        Ok(self.inner().core.audit(query))
    }

    async fn last_runs(&self) -> Result<Vec<LastRun>, StoreError> {
        self.answers("last_runs").await;
        Ok(self.inner().core.last_runs())
    }

    async fn kept_since(&self, job: JobUid) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.inner().core.kept_since(job))
    }

    async fn backup(&self, extent: Extent, to: mpsc::Sender<Vec<u8>>) -> Result<(), StoreError> {
        let core = self.inner().core.clone();
        let work = tokio::task::spawn_blocking(move || core.backup(extent, &to));
        let done =
            work.await.map_err(|error| StoreError::Unavailable(format!("reading stopped: {error}")))?;
        Ok(done?)
    }

    async fn stage(&self, from: mpsc::Receiver<Vec<u8>>) -> Result<Staged, StageError> {
        MemoryCore::stage(from, |_| u64::MAX, u64::MAX).await
    }

    async fn restore(
        &self,
        epoch: Epoch,
        seq: Seq,
        staged: Staged,
        changes: &[Change],
    ) -> Result<(), StoreError> {
        self.answers("restore").await;
        let mut content = Some(staged.content.in_memory()?);
        let verdict = self
            .when(|inner| {
                if inner.leader.as_ref().is_none_or(|(node, _)| *node != self.node) {
                    return Some(Err(Deposed { reason: "the right to lead is gone".into() }));
                }
                match inner.core.turn(epoch, seq) {
                    Ok(Turn::Past) => Some(Ok(())),
                    Ok(Turn::Now) => {
                        inner.core.replace(*content.take()?, seq, changes);
                        Some(Ok(()))
                    }
                    Err(Refusal::Deposed(deposed)) => Some(Err(deposed)),
                    Err(Refusal::Early { .. }) => None,
                }
            })
            .await;
        self.tell();
        Ok(verdict?)
    }

    fn full(&self) -> Option<String> {
        self.inner().full.clone()
    }

    async fn prune(&self, retention: Retention, now: Timestamp) -> Result<u64, StoreError> {
        let mut inner = self.inner();
        if inner.leader.as_ref().is_none_or(|(node, _)| *node != self.node) {
            return Err(Deposed { reason: "only the leader removes history".into() }.into());
        }
        Ok(inner.core.prune(retention, now))
    }
}
