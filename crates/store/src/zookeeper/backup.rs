//! Backups of the tree, and content as parts of a new generation.

use std::collections::BTreeMap;

use jiff::Timestamp;
use scheduler::ids::JobUid;
use scheduler::state::Change;
use tokio::sync::mpsc;

use super::batch::Batch;
use super::ledger::kept_of;
use super::reader::Reader;
use super::record::StoredKept;
use super::session::data_of_all;
use super::tree::{Ended, Kind, Revised, batch_of, number, place_of};
use crate::backup::{Extent, Header, Line, Writer};
use crate::facts::after;
use crate::memory::{MemoryCore, changes_of};
use crate::{StoreError, Term, format};

/// Bytes of a part, as changes.
const PART_BYTES: usize = 200 * 1024;

/// Everything, as of one moment.
pub(super) struct Whole {
    pub(super) term: Term,
    state: Vec<Change>,
    /// By number; what is not asked for is empty.
    history: BTreeMap<u64, Vec<u8>>,
    revisions: BTreeMap<u64, Vec<u8>>,
    audit: BTreeMap<u64, Vec<u8>>,
    kept: BTreeMap<u64, StoredKept>,
}

impl Whole {
    /// Reads everything.
    pub(super) async fn read(reader: &Reader<'_>, extent: Extent) -> Result<Self, StoreError> {
        let meaning = |error: zookeeper_client::Error| reader.sessions.meaning(&error);
        // The cold records come first, so that the batches that are applied to the hot ones complete these too.
        let (first, _) = reader.term().await?;
        let tree = reader.paths.tree(first.generation);
        let (ended, revised, noted, kept) = match extent {
            Extent::Everything => {
                let kept = kept_of(reader.client, &tree).await.map_err(meaning)?;
                (
                    reader.all_ended().await?,
                    reader.revised(&tree, None).await?,
                    reader.noted(&tree).await?,
                    kept,
                )
            }
            Extent::WithoutHistory => {
                let kept = kept_of(reader.client, &tree).await.map_err(meaning)?;
                (reader.all_ended().await?, Vec::new(), Vec::new(), kept)
            }
        };
        let mut kept: BTreeMap<u64, StoredKept> = kept.into_iter().map(|kept| (kept.job, kept)).collect();
        let mut history: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let values = async |kind: Kind, named: Vec<(u64, u16, &str)>| {
            let paths: Vec<String> =
                named.iter().map(|(_, dir, name)| tree.record(kind, *dir, name)).collect();
            let found = data_of_all(reader.client, &paths).await.map_err(meaning)?;
            let found = named.iter().zip(found).filter_map(|((number, ..), value)| Some((*number, value?)));
            Ok::<BTreeMap<u64, Vec<u8>>, StoreError>(found.collect())
        };
        if extent == Extent::Everything {
            let named = ended.iter().map(|one| (one.number, one.dir(), &*one.name)).collect();
            history = values(Kind::History, named).await?;
        }
        let named = revised.iter().map(|one| (one.number, one.dir(), &*one.name)).collect();
        let mut revisions = values(Kind::Revisions, named).await?;
        let named = noted.iter().map(|one| (one.number, one.dir(), &*one.name)).collect();
        let mut audit = values(Kind::Audit, named).await?;
        let mut versions: BTreeMap<(JobUid, u32), u64> =
            revised.iter().map(|one| ((one.job, one.version), one.number)).collect();

        let loaded = reader.load().await?;
        if loaded.record.generation != first.generation {
            return Err(StoreError::Unavailable("everything was replaced meanwhile: try again".into()));
        }
        let term = loaded.term();
        let Some(between) = reader.between(first.seq, term.seq.0).await? else {
            return Err(StoreError::Unavailable(
                "batches come faster than everything can be read: try again".into(),
            ));
        };
        let mut forgotten: Vec<Ended> = if extent == Extent::WithoutHistory { ended } else { Vec::new() };
        for batch in &between {
            for (place, change) in batch.changes.iter().enumerate() {
                let number = number(batch.seq.0, place);
                let mut value = Vec::new();
                let range = format::write_change(&mut value, change);
                let value = || value[range].to_vec();
                match change {
                    Change::Append(_) if extent == Extent::Everything => {
                        history.insert(number, value());
                    }
                    Change::Append(record) => {
                        let (key, facts) = (format::record_key(record), crate::Facts::of(record));
                        forgotten.push(Ended::new(number, key, facts));
                    }
                    Change::Revise(revision) if extent == Extent::Everything => {
                        let one = Revised::new(number, revision);
                        let first = one.version.saturating_sub(scheduler::revision::Revision::KEPT - 1);
                        let old: Vec<_> =
                            versions.range((one.job, 0)..(one.job, first)).map(|(key, _)| *key).collect();
                        for key in old.into_iter().chain([(one.job, one.version)]) {
                            if let Some(number) = versions.remove(&key) {
                                revisions.remove(&number);
                            }
                        }
                        versions.insert((one.job, one.version), number);
                        revisions.insert(number, value());
                    }
                    Change::Note(_) if extent == Extent::Everything => {
                        audit.insert(number, value());
                    }
                    _ => {}
                }
            }
        }
        for record in forgotten {
            let (job, since) = (record.facts.job, after(record.facts.last_due).as_millisecond());
            let name = record.facts.name.to_string();
            let kept = kept.entry(job.0).or_insert(StoredKept { job: job.0, name, since });
            kept.since = kept.since.max(since);
        }
        if extent == Extent::WithoutHistory {
            // Of a deleted job nothing is left.
            kept.retain(|job, _| loaded.state.jobs.contains_key(&JobUid(*job)));
        }
        Ok(Self { term, state: changes_of(&loaded.state), history, revisions, audit, kept })
    }

    /// Writes it. To be called on a thread for blocking work.
    pub(super) fn write(&self, extent: Extent, to: &mpsc::Sender<Vec<u8>>) -> Result<(), StoreError> {
        let Self { term, state, history, revisions, audit, kept } = self;
        let lines = state.len() + history.len() + revisions.len() + audit.len() + kept.len();
        let header = Header {
            format: format::VERSION,
            kind: "zookeeper".into(),
            term: *term,
            taken: Timestamp::from_millisecond(Timestamp::now().as_millisecond()).unwrap_or_default(),
            program: env!("CARGO_PKG_VERSION").into(),
            lines: lines as u64,
            extent,
        };
        let mut writer = Writer::begin(&header, to)?;
        for change in state {
            writer.change(change)?;
        }
        for (kind, values) in [(Kind::History, history), (Kind::Revisions, revisions), (Kind::Audit, audit)] {
            for value in values.values() {
                writer.value(kind.tag(), value)?;
            }
        }
        for kept in kept.values() {
            writer.kept(JobUid(kept.job), &kept.name, kept.since)?;
        }
        Ok(writer.end()?)
    }
}

/// A part of what is restored.
#[derive(Default)]
pub(super) struct Part {
    pub(super) batch: Batch,
    pub(super) kept: Vec<StoredKept>,
}

/// Content in parts, numbered as if it had come with the batch `seq` and, where that has not so many places, those before.
pub(super) fn parts(content: &MemoryCore, seq: u64) -> impl Iterator<Item = (u64, Part)> {
    let lines = content.lines();
    let mut next = number(seq + 1, 0).saturating_sub(lines.len() as u64);
    let mut lines = lines.into_iter().peekable();
    std::iter::from_fn(move || {
        lines.peek()?;
        let (mut changes, mut kept, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut scratch = Vec::new();
        while bytes < PART_BYTES
            && let Some(line) = lines.next()
        {
            match line {
                Line::Record(change) => {
                    scratch.clear();
                    format::write_change(&mut scratch, &change);
                    bytes += scratch.len() + 100;
                    changes.push(change);
                }
                Line::Kept(job, name, since) => {
                    bytes += 100;
                    let since = since.as_millisecond();
                    kept.push(StoredKept { job: job.0, name: name.to_string(), since });
                }
            }
        }
        let mut batch = Batch::encode(&changes);
        batch.first_place = place_of(next);
        let seq = batch_of(next);
        next += changes.len() as u64;
        Some((seq, Part { batch, kept }))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use scheduler::ids::Seq;
    use scheduler::run::Outcome;

    use super::*;
    use crate::samples::ended;

    #[test]
    fn what_is_restored_is_numbered_before_what_comes_next() {
        let mut content = MemoryCore::new(1);
        let term = content.begin_term();
        let records = (0..3000).map(|n| Change::Append(Arc::new(ended(1, n, Outcome::Succeeded))));
        content.commit(term.epoch, Seq(term.seq.0 + 1), &records.collect::<Vec<_>>()).expect("it is next");
        let mut next = number(8, 0) - 3001;
        let mut count = 0;
        for (seq, part) in parts(&content, 7) {
            assert_eq!(number(seq, part.batch.first_place), next);
            next += part.batch.rows.len() as u64;
            count += 1;
        }
        assert!(count > 1, "all of it is one part");
        assert_eq!(next, number(8, 0));
        // More than a batch has places: none is that of another record, and they sort.
        assert_eq!(number(7, 1 << 20), number(8, 0));
        assert_eq!(number(batch_of(next - 1), place_of(next - 1) + 5), number(8, 4));
    }
}
