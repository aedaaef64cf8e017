//! What the leader knows of the records: which are there, so that it can say in advance whether a batch creates or
//! sets them. ZooKeeper has no operation that does either.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use jiff::Timestamp;
use scheduler::ids::JobUid;
use scheduler::revision::Revision;
use scheduler::state::Change;
use zookeeper_client::{Client, Error};

use super::batch::{Batch, Row};
use super::options::Keep;
use super::record::{StoredKept, json};
use super::session::{all, children, data_of_all};
use super::tree::{Ended, Kind, Noted, Revised, Tree, hot_name, number};
use crate::facts::after;
use crate::format;
use crate::memory::{MemoryCore, changes_of};

/// Records of the history that one commit removes beside its own work.
const TRIM_MAX: usize = 200;
/// What a record of the history is taken for in sums: its size is not known without reading it.
const RECORD_BYTES: u64 = 400;
/// The same for a hot record of which only the name is known.
const NAMED_BYTES: usize = 300;

/// One operation of a multi.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Create(String, Vec<u8>),
    Set(String, Vec<u8>),
    Delete(String),
}

impl Op {
    /// Its size on the wire: what goes with path and data is at most that, ACLs included.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Create(path, data) => 100 + path.len() + data.len(),
            Self::Set(path, data) => 21 + path.len() + data.len(),
            Self::Delete(path) => 17 + path.len(),
        }
    }
}

/// Names of hot records and of revisions: what a standby can keep by following, so that it need not list them when it
/// comes to lead.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    /// With the size of each, by kind.
    hot: HashMap<Kind, HashMap<Box<str>, u32>>,
    bytes: u64,
    revisions: HashMap<JobUid, BTreeMap<u32, Box<str>>>,
}

impl Names {
    pub(super) fn jobs(&self) -> usize {
        self.hot.get(&Kind::Jobs).map_or(0, HashMap::len)
    }

    pub(super) fn has(&self, kind: Kind, name: &str) -> bool {
        self.hot.get(&kind).is_some_and(|names| names.contains_key(name))
    }

    fn size(&self, kind: Kind, name: &str) -> Option<usize> {
        self.hot.get(&kind)?.get(name).and_then(|bytes| usize::try_from(*bytes).ok())
    }

    pub(super) fn put(&mut self, kind: Kind, name: &str, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let names = self.hot.entry(kind).or_default();
        let was = match names.get_mut(name) {
            Some(was) => std::mem::replace(was, bytes),
            None => names.insert(name.into(), bytes).unwrap_or(0),
        };
        self.bytes = self.bytes + u64::from(bytes) - u64::from(was);
    }

    pub(super) fn remove(&mut self, kind: Kind, name: &str) {
        let was = self.hot.get_mut(&kind).and_then(|names| names.remove(name));
        self.bytes -= u64::from(was.unwrap_or(0));
    }

    pub(super) fn revised(&mut self, revision: Revised) {
        self.revisions.entry(revision.job).or_default().insert(revision.version, revision.name.into());
    }

    /// This one may not be there.
    fn unrevised(&mut self, revision: &Revised) {
        if let Some(versions) = self.revisions.get_mut(&revision.job)
            && versions.get(&revision.version).is_some_and(|name| **name == *revision.name)
        {
            versions.remove(&revision.version);
        }
    }

    /// Revisions that give way to this one.
    fn outdated(&mut self, job: JobUid, version: u32) -> Vec<Box<str>> {
        let versions = self.revisions.entry(job).or_default();
        let first = version.saturating_sub(Revision::KEPT - 1);
        let kept = versions.split_off(&first);
        let mut gone: Vec<Box<str>> = std::mem::replace(versions, kept).into_values().collect();
        gone.extend(versions.remove(&version));
        gone
    }

    /// Follows a batch that somebody has applied.
    pub(super) fn follow(&mut self, seq: u64, changes: &[Change]) {
        for (place, change) in changes.iter().enumerate() {
            match change {
                Change::RemoveJob(uid) => {
                    let name = uid.to_string();
                    self.remove(Kind::Jobs, &name);
                    self.remove(Kind::Progress, &name);
                }
                Change::Revise(revision) => {
                    self.outdated(revision.job.uid, revision.job.version);
                    self.revised(Revised::new(number(seq, place), revision));
                }
                change => match hot_name(change) {
                    Some((kind, name)) if puts(change) => {
                        // Sizes matter in sums alone: that of the last reading is near enough.
                        let bytes = self.size(kind, &name).unwrap_or(NAMED_BYTES);
                        self.put(kind, &name, bytes);
                    }
                    Some((kind, name)) => self.remove(kind, &name),
                    None => {}
                },
            }
        }
    }

    /// Asks for all of them.
    pub(super) async fn list(client: &Client, tree: &Tree) -> Result<Self, Error> {
        let mut names = Self::default();
        for kind in Kind::HOT {
            for name in names_of(client, tree, kind).await? {
                names.put(kind, &name, NAMED_BYTES);
            }
        }
        for name in names_of(client, tree, Kind::Revisions).await? {
            if let Some(revision) = Revised::read(&name) {
                names.revised(revision);
            }
        }
        Ok(names)
    }
}

fn puts(change: &Change) -> bool {
    matches!(
        change,
        Change::PutJob(_)
            | Change::PutProgress(..)
            | Change::PutRun(_)
            | Change::PutJoin(_)
            | Change::PutFanout(_)
            | Change::PutBackfill(_)
            | Change::PutNotice(_)
            | Change::PutReceipt(_)
            | Change::Stage(_)
    )
}

/// Directories of a kind.
pub(super) async fn dirs_of(client: &Client, tree: &Tree, kind: Kind) -> Result<Vec<u16>, Error> {
    let dirs = children(client, &tree.kind(kind)).await?;
    Ok(dirs.iter().filter_map(|dir| u16::from_str_radix(dir, 16).ok()).collect())
}

/// Names of all records of a kind.
pub(super) async fn names_of(client: &Client, tree: &Tree, kind: Kind) -> Result<Vec<String>, Error> {
    let dirs = dirs_of(client, tree, kind).await?;
    let lists = all(dirs, async |dir| children(client, &tree.dir(kind, dir)).await).await?;
    Ok(lists.into_iter().flatten().collect())
}

/// The history of the jobs, as far as it has to be known to bound it.
#[derive(Debug, Default)]
struct Past {
    of: HashMap<JobUid, BTreeMap<u64, Box<str>>>,
    /// Since when what is left is whole, in milliseconds.
    kept: HashMap<JobUid, i64>,
    records: u64,
    /// Whether what was there before the term is among them.
    known: bool,
    /// Jobs with more than they keep.
    surplus: BTreeSet<JobUid>,
}

impl Past {
    fn add(&mut self, job: JobUid, number: u64, name: &str) -> usize {
        let of = self.of.entry(job).or_default();
        if of.insert(number, name.into()).is_none() {
            self.records += 1;
        }
        of.len()
    }

    fn forget(&mut self, job: JobUid, number: u64) {
        if let Some(of) = self.of.get_mut(&job) {
            if of.remove(&number).is_some() {
                self.records -= 1;
            }
            if of.is_empty() {
                self.of.remove(&job);
            }
        }
    }
}

/// What was there before a term, asked for while it goes on.
pub(super) struct Before {
    generation: u64,
    records: Vec<Ended>,
    kept: Vec<StoredKept>,
}

impl Before {
    pub(super) async fn list(client: &Client, tree: &Tree) -> Result<Self, Error> {
        let records = names_of(client, tree, Kind::History).await?;
        Ok(Self {
            generation: tree.generation,
            records: records.iter().filter_map(|name| Ended::read(name)).collect(),
            kept: kept_of(client, tree).await?,
        })
    }
}

/// Since when the history of each job is whole, of those that have lost some of it.
pub(super) async fn kept_of(client: &Client, tree: &Tree) -> Result<Vec<StoredKept>, Error> {
    let names = names_of(client, tree, Kind::Kept).await?;
    let paths: Vec<String> =
        names.iter().map(|name| tree.record(Kind::Kept, Kind::Kept.dir(name), name)).collect();
    let found = data_of_all(client, &paths).await?;
    Ok(found.iter().flatten().filter_map(|data| serde_json::from_slice(data).ok()).collect())
}

/// What content would take, as [`Ledger::bytes`] says it when it is there.
pub(super) fn bytes_of(content: &MemoryCore) -> u64 {
    let mut text = Vec::new();
    let values = changes_of(content.state()).into_iter().filter(puts).map(|change| {
        text.clear();
        format::write_change(&mut text, &change).len() as u64
    });
    values.sum::<u64>() + content.records().count() as u64 * RECORD_BYTES
}

/// What the leader knows.
pub(super) struct Ledger {
    pub(super) tree: Tree,
    names: Names,
    dirs: HashSet<(Kind, u16)>,
    past: Past,
    keep: Keep,
}

impl Ledger {
    pub(super) async fn new(client: &Client, tree: Tree, names: Names, keep: Keep) -> Result<Self, Error> {
        let mut dirs = HashSet::new();
        for kind in Kind::HOT.into_iter().chain(Kind::COLD) {
            dirs.extend(dirs_of(client, &tree, kind).await?.into_iter().map(|dir| (kind, dir)));
        }
        Ok(Self { tree, names, dirs, past: Past::default(), keep })
    }

    /// Another generation, of which nothing is there yet but its kinds.
    pub(super) fn empty(tree: Tree, keep: Keep) -> Self {
        let past = Past { known: true, ..Past::default() };
        Self { tree, names: Names::default(), dirs: HashSet::new(), past, keep }
    }

    pub(super) fn names(&self) -> &Names {
        &self.names
    }

    pub(super) fn jobs(&self) -> usize {
        self.names.jobs()
    }

    /// What all records are about to take.
    pub(super) fn bytes(&self) -> u64 {
        self.names.bytes + self.past.records * RECORD_BYTES
    }

    /// Takes in what was there before the term.
    pub(super) fn learn(&mut self, before: Before) {
        if before.generation != self.tree.generation {
            return;
        }
        for record in before.records {
            let count = self.past.add(record.facts.job, record.number, &record.name);
            self.note_surplus(record.facts.job, count);
        }
        self.past.kept.extend(before.kept.iter().map(|kept| (JobUid(kept.job), kept.since)));
        self.past.known = true;
    }

    /// Whoever has followed these batches knows what they put to be there, and what they remove to be gone; each may be so or not, as
    /// nobody has finished them. Afterwards they are composed as if none of that were done: what is there decides then.
    pub(super) fn doubt<'b>(&mut self, group: impl Iterator<Item = (u64, &'b Batch)>) {
        let mut gone = HashSet::new();
        for (seq, batch) in group {
            for (place, row) in batch.rows.iter().enumerate() {
                match row {
                    Row::Put(kind, name, _) => {
                        gone.remove(&(*kind, &**name));
                        self.names.remove(*kind, name);
                    }
                    Row::Remove(kind, name) => {
                        gone.insert((*kind, &**name));
                    }
                    Row::RemoveJob(name) => {
                        gone.extend([Kind::Jobs, Kind::Progress].map(|kind| (kind, &**name)));
                    }
                    Row::Revise(revision, _) => {
                        self.names.unrevised(&Revised::new(number(seq, batch.first_place + place), revision));
                    }
                    Row::Counters(_) | Row::Append(..) | Row::Note(..) => {}
                }
            }
        }
        for (kind, name) in gone {
            self.names.put(kind, name, 0);
        }
    }

    /// The operations that make these batches of what is there, which from here on counts as done. What several of
    /// them do to one hot record is done once.
    pub(super) fn compose<'b>(&mut self, group: impl Iterator<Item = (u64, &'b Batch)>) -> Vec<Op> {
        let mut ops = Vec::new();
        let mut counters = None;
        let mut hot: BTreeMap<(Kind, &str), Option<&[u8]>> = BTreeMap::new();
        let mut gone_jobs: Vec<&str> = Vec::new();
        for (seq, batch) in group {
            for (place, row) in batch.rows.iter().enumerate() {
                let number = number(seq, batch.first_place + place);
                match row {
                    Row::Counters(value) => counters = Some(batch.value(value)),
                    Row::Put(kind, name, value) => {
                        hot.insert((*kind, name), Some(batch.value(value)));
                    }
                    Row::Remove(kind, name) => {
                        hot.insert((*kind, name), None);
                    }
                    Row::RemoveJob(name) => {
                        // Unless it is put again, it and what was put of it before go at the end.
                        for kind in [Kind::Jobs, Kind::Progress] {
                            hot.remove(&(kind, &**name));
                        }
                        gone_jobs.push(name);
                    }
                    Row::Append(record, value) => {
                        let (key, facts) = &**record;
                        let ended = Ended::new(number, *key, facts.clone());
                        self.create(Kind::History, ended.dir(), &ended.name, batch.value(value), &mut ops);
                        let count = self.past.add(facts.job, number, &ended.name);
                        self.note_surplus(facts.job, count);
                    }
                    Row::Revise(revision, value) => {
                        let revised = Revised::new(number, revision);
                        let dir = revised.dir();
                        for name in self.names.outdated(revised.job, revised.version) {
                            ops.push(Op::Delete(self.tree.record(Kind::Revisions, dir, &name)));
                        }
                        self.create(Kind::Revisions, dir, &revised.name, batch.value(value), &mut ops);
                        self.names.revised(revised);
                    }
                    Row::Note(entry, value) => {
                        let noted = Noted::new(number, entry);
                        self.create(Kind::Audit, noted.dir(), &noted.name, batch.value(value), &mut ops);
                    }
                }
            }
        }
        for name in gone_jobs {
            for kind in [Kind::Jobs, Kind::Progress] {
                hot.entry((kind, name)).or_insert(None);
            }
        }
        for ((kind, name), value) in hot {
            let dir = kind.dir(name);
            match (self.names.has(kind, name), value) {
                (true, Some(value)) => {
                    ops.push(Op::Set(self.tree.record(kind, dir, name), value.to_vec()));
                    self.names.put(kind, name, value.len());
                }
                (false, Some(value)) => {
                    self.create(kind, dir, name, value, &mut ops);
                    self.names.put(kind, name, value.len());
                }
                (true, None) => {
                    ops.push(Op::Delete(self.tree.record(kind, dir, name)));
                    self.names.remove(kind, name);
                }
                (false, None) => {}
            }
        }
        if let Some(value) = counters {
            ops.push(Op::Set(self.tree.meta(), value.to_vec()));
        }
        ops
    }

    fn create(&mut self, kind: Kind, dir: u16, name: &str, value: &[u8], ops: &mut Vec<Op>) {
        self.make_dir(kind, dir, ops);
        ops.push(Op::Create(self.tree.record(kind, dir, name), value.to_vec()));
    }

    fn make_dir(&mut self, kind: Kind, dir: u16, ops: &mut Vec<Op>) {
        if self.dirs.insert((kind, dir)) {
            ops.push(Op::Create(self.tree.dir(kind, dir), Vec::new()));
        }
    }

    /// How many records each job keeps.
    fn keeps(&self) -> usize {
        usize::try_from(self.keep.each_of(self.jobs())).unwrap_or(usize::MAX)
    }

    /// A job may have half as much again, so that what is removed is removed many at a time.
    fn note_surplus(&mut self, job: JobUid, count: usize) {
        let keeps = self.keeps();
        if count > keeps.saturating_add(keeps / 2) {
            self.past.surplus.insert(job);
        }
    }

    /// Removes some of the history that is more than jobs keep, as [`Ledger::compose`] does its work.
    pub(super) fn trim(&mut self) -> Vec<Op> {
        let mut ops = Vec::new();
        let keeps = self.keeps();
        while self.past.known
            && ops.len() < TRIM_MAX
            && let Some(job) = self.past.surplus.pop_first()
        {
            let Some(of) = self.past.of.get(&job) else { continue };
            let too_many = of.len().saturating_sub(keeps);
            let gone: Vec<Ended> =
                of.values().take(too_many.min(TRIM_MAX)).filter_map(|name| Ended::read(name)).collect();
            ops.extend(self.remove(&gone));
            if gone.len() < too_many {
                self.past.surplus.insert(job);
            }
        }
        ops
    }

    /// Removes records of the history of one job or several, and says since when the rest is whole.
    pub(super) fn remove(&mut self, gone: &[Ended]) -> Vec<Op> {
        let mut ops = Vec::new();
        let mut whole: BTreeMap<JobUid, (&Ended, Timestamp)> = BTreeMap::new();
        for record in gone {
            let path = self.tree.record(Kind::History, record.dir(), &record.name);
            ops.push(Op::Delete(path));
            self.past.forget(record.facts.job, record.number);
            let since = after(record.facts.last_due);
            let latest = whole.entry(record.facts.job).or_insert((record, since));
            if since > latest.1 {
                *latest = (record, since);
            }
        }
        for (job, (record, since)) in whole {
            let since = since.as_millisecond();
            let kept = StoredKept { job: job.0, name: record.facts.name.to_string(), since };
            self.keep(job, &kept, &mut ops);
        }
        ops
    }

    /// Notes since when the history of a job is whole, if that is later than what is noted.
    pub(super) fn keep(&mut self, job: JobUid, kept: &StoredKept, ops: &mut Vec<Op>) {
        let (name, dir) = (job.to_string(), Kind::Kept.dir_of(job));
        match self.past.kept.get_mut(&job) {
            Some(was) if *was >= kept.since => {}
            Some(was) => {
                *was = kept.since;
                ops.push(Op::Set(self.tree.record(Kind::Kept, dir, &name), json(kept)));
            }
            None => {
                self.past.kept.insert(job, kept.since);
                self.create(Kind::Kept, dir, &name, &json(kept), ops);
            }
        }
    }

    /// A job of which nothing is left is not known any more.
    pub(super) fn forget_kept(&mut self, job: JobUid) -> Op {
        self.past.kept.remove(&job);
        Op::Delete(self.tree.record(Kind::Kept, Kind::Kept.dir_of(job), &job.to_string()))
    }

    /// Whether all of the history is known, so that it can be bounded.
    pub(super) fn is_whole(&self) -> bool {
        self.past.known
    }

    pub(super) fn forget_revisions(&mut self, job: JobUid) {
        self.names.revisions.remove(&job);
    }
}
