//! Questions. None of them needs the right to lead.
//!
//! ZooKeeper has no snapshots. What is read record by record while batches are applied is a mixture of moments; made
//! whole it is by the log: all batches between the first look at the term and the last one, applied to the mixture in
//! their order, make it the state after the last of them, because changes put and remove whole records.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use scheduler::audit::Entry as AuditEntry;
use scheduler::ids::{Epoch, JobUid, RunKey, Seq};
use scheduler::revision::Revision;
use scheduler::run::Record;
use scheduler::state::{Change, State};
use tokio::time::timeout;
use zookeeper_client::{Client, Error, SessionState, Stat};

use super::ledger::{Names, names_of};
use super::listing::{Listed, Listing};
use super::record::{Entry, StoredKept, TermRecord, applied, read};
use super::session::{Sessions, children, data, data_of_all, patiently};
use super::tree::{Ended, Kind, Noted, Paths, Revised, Tree};
use crate::format::{self, FormatError};
use crate::{
    Applied, AuditPage, AuditQuery, HistoryOrder, HistoryPage, HistoryQuery, LastRun, RevisionPage,
    RevisionQuery, StoreError, Term,
};

/// What one answer to a follower holds at most.
const FOLLOW_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The same in batches, of which many may be empty.
const FOLLOW_BATCHES_MAX: usize = 1024;
/// Entries of the log read at a time by who is far behind.
const FOLLOW_CHUNK: usize = 64;
/// Entries of the audit looked into at a time.
const AUDIT_CHUNK: usize = 256;
/// How often everything is read anew because the log was not kept long enough to make it whole.
const LOADS_MAX: usize = 5;

/// Who asks.
pub(super) struct Reader<'a> {
    pub(super) sessions: &'a Sessions,
    pub(super) paths: &'a Paths,
    pub(super) client: &'a Client,
}

impl Reader<'_> {
    fn meaning(&self, error: &Error) -> StoreError {
        self.sessions.meaning(error)
    }

    /// The term record, with all that was applied anywhere before this was asked.
    pub(super) async fn term(&self) -> Result<(TermRecord, Stat), StoreError> {
        let path = self.paths.term();
        patiently(self.client, || self.client.sync(&path)).await.map_err(|error| self.meaning(&error))?;
        self.term_as_seen().await
    }

    /// The term record as the server has it that this session is connected to.
    async fn term_as_seen(&self) -> Result<(TermRecord, Stat), StoreError> {
        let path = self.paths.term();
        let (data, stat) = patiently(self.client, || self.client.get_data(&path))
            .await
            .map_err(|error| self.meaning(&error))?;
        Ok((read("term", &data)?, stat))
    }

    async fn tree(&self) -> Result<Tree, StoreError> {
        Ok(self.paths.tree(self.term().await?.0.generation))
    }

    async fn names(&self, tree: &Tree, kind: Kind) -> Result<Vec<String>, StoreError> {
        names_of(self.client, tree, kind).await.map_err(|error| self.meaning(&error))
    }

    /// Names in the directory that a job's records are in, with those of other jobs.
    async fn names_near(&self, tree: &Tree, kind: Kind, job: JobUid) -> Result<Vec<String>, StoreError> {
        let dir = tree.dir(kind, kind.dir_of(job));
        children(self.client, &dir).await.map_err(|error| self.meaning(&error))
    }

    async fn values(&self, paths: &[String]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        data_of_all(self.client, paths).await.map_err(|error| self.meaning(&error))
    }

    /// Everything hot, as of the last applied batch.
    pub(super) async fn load(&self) -> Result<Loaded, StoreError> {
        for _ in 0..LOADS_MAX {
            let (first, _) = self.term().await?;
            let (mut state, mut names) = self.mixture(&self.paths.tree(first.generation)).await?;
            let (last, _) = self.term_as_seen().await?;
            if last.generation != first.generation {
                continue;
            }
            // One that was not finished is in the log, and only in some of its records.
            let from = first.unfinished.map_or(first.seq, |unfinished| unfinished - 1);
            let Some(between) = self.between(from, last.seq).await? else { continue };
            for batch in &between {
                batch.changes.iter().for_each(|change| state.apply(change));
                names.follow(batch.seq.0, &batch.changes);
            }
            return Ok(Loaded { state, names, record: last });
        }
        Err(StoreError::Unavailable("batches come faster than everything can be read: try again".into()))
    }

    async fn mixture(&self, tree: &Tree) -> Result<(State, Names), StoreError> {
        let (mut state, mut names) = (State::default(), Names::default());
        for kind in Kind::HOT {
            let found = self.names(tree, kind).await?;
            let paths: Vec<String> =
                found.iter().map(|name| tree.record(kind, kind.dir(name), name)).collect();
            for (name, value) in found.iter().zip(self.values(&paths).await?) {
                // One that went between the two questions is gone in the log too.
                let Some(value) = value else { continue };
                add(&mut state, kind, &value).map_err(|error| damaged(kind, name, &error))?;
                names.put(kind, name, value.len());
            }
        }
        for name in self.names(tree, Kind::Revisions).await? {
            if let Some(revised) = Revised::read(&name) {
                names.revised(revised);
            }
        }
        let meta = data(self.client, &tree.meta()).await.map_err(|error| self.meaning(&error))?;
        let (meta, _) = meta.ok_or_else(|| StoreError::Damaged(format!("`{}` is missing", tree.meta())))?;
        state.meta = format::read_meta(&meta).map_err(|error| StoreError::Damaged(error.to_string()))?;
        Ok((state, names))
    }

    /// Batches after `from` up to `to`, if the log has all of them.
    pub(super) async fn between(&self, from: u64, to: u64) -> Result<Option<Vec<Applied>>, StoreError> {
        let mut found = Vec::new();
        let mut last = from;
        while last < to {
            match self.after(last).await? {
                After::Batches(batches) => {
                    last = batches.last().map_or(to, |batch| batch.seq.0);
                    found.extend(batches);
                }
                After::Gone(_) => return Ok(None),
            }
        }
        found.retain(|batch| batch.seq.0 <= to);
        Ok(Some(found))
    }

    /// What the log has after a batch that is not the last one.
    async fn after(&self, after: u64) -> Result<After, StoreError> {
        let entry = async |seq| data(self.client, &self.paths.entry(seq)).await;
        let found = entry(after + 1).await.map_err(|error| self.meaning(&error))?;
        // Most who ask stand at the end of an entry; whoever stands within one finds it here.
        let first = match found {
            Some((found, _)) => Some(found),
            None => self.entry_with(after + 1).await?,
        };
        let mut taken = Taken { last: after, bytes: 0, batches: Vec::new() };
        let Some(first) = first else { return Ok(After::Gone(self.oldest().await?)) };
        if let Some(restored) = taken.take(&first)? {
            return Ok(After::Gone(Seq(restored.0 + 1)));
        }
        // Most have missed one entry; those that have missed more have missed many.
        let next = entry(taken.last + 1).await.map_err(|error| self.meaning(&error))?;
        if let Some((next, _)) = next
            && taken.take(&next)?.is_none()
        {
            let log = self.log().await?;
            let rest: Vec<String> = log
                .iter()
                .filter(|first| **first > taken.last)
                .map(|first| self.paths.entry(*first))
                .collect();
            for chunk in rest.chunks(FOLLOW_CHUNK) {
                if taken.is_enough() {
                    break;
                }
                let entries = self.values(chunk).await?;
                for entry in entries {
                    // What follows is no longer there, is of another past, or is for the next answer.
                    let Some(entry) = entry else { return Ok(After::Batches(taken.batches)) };
                    if taken.is_enough() || taken.take(&entry)?.is_some() {
                        return Ok(After::Batches(taken.batches));
                    }
                }
            }
        }
        Ok(After::Batches(taken.batches))
    }

    /// Numbers that entries of the log begin with, oldest first.
    pub(super) async fn log(&self) -> Result<Vec<u64>, StoreError> {
        let names = children(self.client, &self.paths.log()).await.map_err(|error| self.meaning(&error))?;
        let mut firsts: Vec<u64> =
            names.iter().filter_map(|name| u64::from_str_radix(name, 16).ok()).collect();
        firsts.sort_unstable();
        Ok(firsts)
    }

    async fn entry_with(&self, seq: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let log = self.log().await?;
        let Some(first) = log.iter().rev().find(|first| **first <= seq) else { return Ok(None) };
        let found = data(self.client, &self.paths.entry(*first)).await;
        let Some((found, _)) = found.map_err(|error| self.meaning(&error))? else { return Ok(None) };
        let has = match Entry::read(&found)? {
            Entry::Batches(batches) => batches.last().is_some_and(|(last, ..)| last.0 >= seq),
            Entry::Restored(last) => last.0 >= seq,
        };
        Ok(has.then_some(found))
    }

    async fn oldest(&self) -> Result<Seq, StoreError> {
        let first = self.log().await?.first().copied();
        let Some(first) = first else { return Ok(Seq(self.term_as_seen().await?.0.seq + 1)) };
        let entry =
            data(self.client, &self.paths.entry(first)).await.map_err(|error| self.meaning(&error))?;
        Ok(match entry.map(|(data, _)| Entry::read(&data)).transpose()? {
            Some(Entry::Restored(seq)) => Seq(seq.0 + 1),
            _ => Seq(first),
        })
    }

    /// See [`crate::Store::follow`].
    pub(super) async fn follow(&self, after: Seq) -> Result<Vec<Applied>, StoreError> {
        loop {
            let next = self.paths.entry(after.0.saturating_add(1));
            let (found, watcher) = patiently(self.client, || self.client.check_and_watch_stat(&next))
                .await
                .map_err(|error| self.meaning(&error))?;
            if found.is_none() {
                let mut seen = self.term_as_seen().await?.0.seq;
                if seen < after.0 {
                    // Another session may have seen more than this server has.
                    seen = self.term().await?.0.seq;
                }
                if seen == after.0 {
                    let event = watcher.changed().await;
                    if event.session_state != SessionState::SyncConnected {
                        let why = "the session with ZooKeeper has ended".into();
                        return Err(StoreError::Unavailable(why));
                    }
                    continue;
                }
                if seen < after.0 {
                    let (asked, oldest) = (Seq(after.0.saturating_add(1)), self.oldest().await?);
                    return Err(StoreError::Gone { asked, oldest });
                }
            }
            return match self.after(after.0).await? {
                After::Batches(batches) => Ok(batches),
                After::Gone(oldest) => Err(StoreError::Gone { asked: Seq(after.0 + 1), oldest }),
            };
        }
    }

    /// Records of the history that a question may be about, oldest first.
    async fn ended(&self, tree: &Tree, job: Option<JobUid>) -> Result<Vec<Ended>, StoreError> {
        let names = match job {
            Some(job) => self.names_near(tree, Kind::History, job).await?,
            None => self.names(tree, Kind::History).await?,
        };
        let mut ended: Vec<Ended> = names.iter().filter_map(|name| Ended::read(name)).collect();
        ended.sort_unstable_by_key(|record| record.number);
        Ok(ended)
    }

    pub(super) async fn all_ended(&self) -> Result<Vec<Ended>, StoreError> {
        let tree = self.tree().await?;
        self.ended(&tree, None).await
    }

    pub(super) async fn history(
        &self,
        query: &HistoryQuery,
        listed: &Listed,
    ) -> Result<HistoryPage, StoreError> {
        let (record, _) = self.term().await?;
        let tree = self.paths.tree(record.generation);
        // A batch that goes in parts is not in all of its records yet.
        let seq = record.unfinished.map_or(record.seq, |first| first - 1);
        let (found, more) = match query.job {
            Some(job) => {
                // One directory is listed as of one moment, which may be later than the look at the term.
                let names = self.names_near(&tree, Kind::History, job).await?;
                Listing::new(record.generation, u64::MAX, names).page(query)
            }
            None => match listed.page(query, record.generation, seq) {
                Some(page) => page,
                None => {
                    let names = self.names(&tree, Kind::History).await?;
                    let listing = Arc::new(Listing::new(record.generation, seq, names));
                    listed.keep(listing.clone());
                    listing.page(query)
                }
            },
        };
        let next = found.last().map(|record| record.number).filter(|_| more);
        let paths: Vec<String> =
            found.iter().map(|record| tree.record(Kind::History, record.dir(), &record.name)).collect();
        let values = self.values(&paths).await?;
        // What retention has just removed is left out.
        let records = values.iter().flatten().map(|value| read_record(value));
        Ok(HistoryPage { records: records.collect::<Result<_, _>>()?, next })
    }

    pub(super) async fn ended_run(&self, key: RunKey) -> Result<Option<Record>, StoreError> {
        let tree = self.tree().await?;
        let found = self.ended(&tree, Some(key.job)).await?;
        let Some(last) = found.iter().rev().find(|record| record.key == Some(key)) else { return Ok(None) };
        let values = self.values(&[tree.record(Kind::History, last.dir(), &last.name)]).await?;
        values.iter().flatten().next().map(|value| read_record(value)).transpose()
    }

    pub(super) async fn last_runs(&self) -> Result<Vec<LastRun>, StoreError> {
        let mut last = BTreeMap::new();
        for record in self.all_ended().await? {
            if let Some(key) = record.key {
                let (outcome, ended) = (record.facts.outcome, record.facts.recorded);
                last.insert(key.job, LastRun { key, outcome, ended });
            }
        }
        Ok(last.into_values().collect())
    }

    pub(super) async fn kept_since(&self, job: JobUid) -> Result<Option<Timestamp>, StoreError> {
        let tree = self.tree().await?;
        let path = tree.record(Kind::Kept, Kind::Kept.dir_of(job), &job.to_string());
        let Some((found, _)) = data(self.client, &path).await.map_err(|error| self.meaning(&error))? else {
            return Ok(None);
        };
        let kept: StoredKept = read("kept", &found)?;
        let since = Timestamp::from_millisecond(kept.since);
        since.map(Some).map_err(|error| StoreError::Damaged(error.to_string()))
    }

    pub(super) async fn revised(&self, tree: &Tree, job: Option<JobUid>) -> Result<Vec<Revised>, StoreError> {
        let names = match job {
            Some(job) => self.names_near(tree, Kind::Revisions, job).await?,
            None => self.names(tree, Kind::Revisions).await?,
        };
        let mut revised: Vec<Revised> = names.iter().filter_map(|name| Revised::read(name)).collect();
        revised.sort_unstable_by_key(|revision| std::cmp::Reverse(revision.number));
        Ok(revised)
    }

    pub(super) async fn all_revised(&self) -> Result<Vec<Revised>, StoreError> {
        let tree = self.tree().await?;
        self.revised(&tree, None).await
    }

    pub(super) async fn revisions(&self, query: &RevisionQuery) -> Result<RevisionPage, StoreError> {
        let tree = self.tree().await?;
        let mut found = self.revised(&tree, query.job).await?;
        found.retain(|revision| {
            query.job.is_none_or(|job| job == revision.job)
                && query.name.as_ref().is_none_or(|name| *name == revision.of)
                && query.cursor.is_none_or(|cursor| revision.number < cursor)
        });
        let more = found.len() > query.limit();
        found.truncate(query.limit());
        let next = found.last().map(|revision| revision.number).filter(|_| more);
        let paths: Vec<String> =
            found.iter().map(|one| tree.record(Kind::Revisions, one.dir(), &one.name)).collect();
        let values = self.values(&paths).await?;
        let revisions = values.iter().flatten().map(|value| read_revision(value));
        Ok(RevisionPage { revisions: revisions.collect::<Result<_, _>>()?, next })
    }

    pub(super) async fn revision(&self, job: JobUid, version: u32) -> Result<Option<Revision>, StoreError> {
        let tree = self.tree().await?;
        let found = self.revised(&tree, Some(job)).await?;
        let wanted = found.iter().find(|one| one.job == job && one.version == version);
        let Some(one) = wanted else { return Ok(None) };
        let values = self.values(&[tree.record(Kind::Revisions, one.dir(), &one.name)]).await?;
        values.iter().flatten().next().map(|value| read_revision(value)).transpose()
    }

    /// Entries of the audit, newest first.
    pub(super) async fn noted(&self, tree: &Tree) -> Result<Vec<Noted>, StoreError> {
        let names = self.names(tree, Kind::Audit).await?;
        let mut noted: Vec<Noted> = names.iter().filter_map(|name| Noted::read(name)).collect();
        noted.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.number));
        Ok(noted)
    }

    pub(super) async fn all_noted(&self) -> Result<Vec<Noted>, StoreError> {
        let tree = self.tree().await?;
        self.noted(&tree).await
    }

    pub(super) async fn audit(&self, query: &AuditQuery) -> Result<AuditPage, StoreError> {
        let tree = self.tree().await?;
        let mut noted = self.noted(&tree).await?;
        match query.order {
            HistoryOrder::NewestFirst => {
                noted.retain(|entry| query.cursor.is_none_or(|cursor| entry.number < cursor))
            }
            HistoryOrder::OldestFirst => {
                noted.retain(|entry| query.cursor.is_none_or(|cursor| entry.number > cursor));
                noted.reverse();
            }
        }
        let mut page = AuditPage::default();
        let mut last = None;
        for chunk in noted.chunks(AUDIT_CHUNK) {
            let paths: Vec<String> =
                chunk.iter().map(|entry| tree.record(Kind::Audit, entry.dir(), &entry.name)).collect();
            for (noted, value) in chunk.iter().zip(self.values(&paths).await?) {
                let Some(value) = value else { continue };
                let entry: AuditEntry =
                    format::read_entry(&value).map_err(|error| StoreError::Damaged(error.to_string()))?;
                if !query.wants(&entry) {
                    continue;
                }
                if page.entries.len() == query.limit() {
                    page.next = last;
                    return Ok(page);
                }
                page.entries.push(entry);
                last = Some(noted.number);
            }
        }
        Ok(page)
    }
}

/// Everything hot.
pub(super) struct Loaded {
    pub(super) state: State,
    pub(super) names: Names,
    pub(super) record: TermRecord,
}

impl Loaded {
    pub(super) fn term(&self) -> Term {
        Term { epoch: Epoch(self.record.epoch), seq: Seq(self.record.seq) }
    }
}

/// What was taken of the log so far.
struct Taken {
    last: u64,
    bytes: usize,
    batches: Vec<Applied>,
}

impl Taken {
    fn is_enough(&self) -> bool {
        self.bytes >= FOLLOW_BYTES_MAX || self.batches.len() >= FOLLOW_BATCHES_MAX
    }

    /// Takes the next entry; or says that it begins another past.
    fn take(&mut self, entry: &[u8]) -> Result<Option<Seq>, StoreError> {
        match Entry::read(entry)? {
            Entry::Restored(seq) => return Ok(Some(seq)),
            Entry::Batches(batches) => {
                for (seq, epoch, text) in batches {
                    if seq.0 > self.last {
                        self.last = seq.0;
                        self.bytes += text.len();
                        self.batches.push(applied((seq, epoch, text))?);
                    }
                }
            }
        }
        Ok(None)
    }
}

enum After {
    Batches(Vec<Applied>),
    /// The oldest that is kept.
    Gone(Seq),
}

fn add(state: &mut State, kind: Kind, value: &[u8]) -> Result<(), FormatError> {
    let change = match kind {
        Kind::Jobs => Change::PutJob(format::read_job(value)?.into()),
        Kind::Progress => {
            let (uid, progress) = format::read_progress(value)?;
            Change::PutProgress(uid, progress.into())
        }
        Kind::Runs => Change::PutRun(format::read_run(value)?.into()),
        Kind::Joins => Change::PutJoin(format::read_join(value)?.into()),
        Kind::Fanouts => Change::PutFanout(format::read_fanout(value)?.into()),
        Kind::Backfills => Change::PutBackfill(format::read_backfill(value)?.into()),
        Kind::Notices => Change::PutNotice(format::read_notice(value)?.into()),
        Kind::Receipts => Change::PutReceipt(format::read_receipt(value)?.into()),
        Kind::Staged => Change::Stage(format::read_staged(value)?.into()),
        Kind::History | Kind::Revisions | Kind::Audit | Kind::Kept => return Ok(()),
    };
    state.apply(&change);
    Ok(())
}

fn damaged(kind: Kind, name: &str, error: &FormatError) -> StoreError {
    StoreError::Damaged(format!("record `{name}` of {}: {error}; restore a backup", kind.word()))
}

fn read_record(value: &[u8]) -> Result<Record, StoreError> {
    format::read_record(value).map_err(|error| StoreError::Damaged(error.to_string()))
}

fn read_revision(value: &[u8]) -> Result<Revision, StoreError> {
    format::read_revision(value).map_err(|error| StoreError::Damaged(error.to_string()))
}

/// Who leads, if that is known soon.
pub(super) async fn soon<T>(work: impl Future<Output = Option<T>>) -> Option<T> {
    timeout(std::time::Duration::from_secs(2), work).await.ok().flatten()
}
