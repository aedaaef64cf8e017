//! The rows of a batch, written.

use std::collections::HashSet;

use jiff::Timestamp;
use rusqlite::{CachedStatement, Connection, OptionalExtension, params};
use scheduler::audit::Entry as AuditEntry;
use scheduler::ids::{JobName, JobUid};
use scheduler::revision::{Deed, Revision};

use crate::OutcomeKind;
use crate::facts::Facts;
use crate::rows::{Batch, Entry, KNOWN_MAX, LogSizes, RevisionRow, Row, code, integer, outcome};

/// Records in a block of the history. Small enough to read through, large enough to make blocks few.
pub(super) const BLOCK: i64 = 256;

/// What the writer knows about the tables that only it writes. Read from them at the beginning of a term, and again
/// after every transaction that was rolled back.
pub(super) struct Ledger {
    next_id: i64,
    /// Jobs that are in `history_jobs`.
    known: HashSet<i64>,
    /// What is in `applied`.
    log: LogSizes,
}

impl Ledger {
    pub(super) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let next_id =
            connection.query_row("SELECT coalesce(max(id), 0) + 1 FROM history", [], |row| row.get(0))?;
        let mut statement = connection.prepare("SELECT seq, length(changes) FROM applied ORDER BY seq")?;
        let size = |bytes: i64| usize::try_from(bytes).unwrap_or(0);
        let mut rows = statement.query([])?;
        let mut log = LogSizes::default();
        while let Some(row) = rows.next()? {
            log.push(row.get(0)?, size(row.get(1)?));
        }
        Ok(Self { next_id, known: HashSet::new(), log })
    }
}

/// Writes batches within one transaction.
pub(super) struct RowWriter<'c> {
    connection: &'c Connection,
    ledger: &'c mut Ledger,
    block: Option<Block>,
    counters: CachedStatement<'c>,
    put_job: CachedStatement<'c>,
    put_progress: CachedStatement<'c>,
    remove_job: CachedStatement<'c>,
    remove_progress: CachedStatement<'c>,
    put_notice: CachedStatement<'c>,
    remove_notice: CachedStatement<'c>,
    put: [CachedStatement<'c>; 6],
    remove: [CachedStatement<'c>; 6],
    append: CachedStatement<'c>,
    know: CachedStatement<'c>,
    revise: CachedStatement<'c>,
    forget_revisions: CachedStatement<'c>,
    note: CachedStatement<'c>,
    merge_block: CachedStatement<'c>,
    log: CachedStatement<'c>,
    forget: CachedStatement<'c>,
}

impl<'c> RowWriter<'c> {
    pub(super) fn new(connection: &'c Connection, ledger: &'c mut Ledger) -> rusqlite::Result<Self> {
        let sql = |text| connection.prepare_cached(text);
        Ok(Self {
            connection,
            ledger,
            block: None,
            counters: sql("UPDATE meta SET value = ?1 WHERE name = 'counters'")?,
            put_job: sql("INSERT OR REPLACE INTO jobs VALUES (?1, ?2)")?,
            put_progress: sql("INSERT OR REPLACE INTO progress VALUES (?1, ?2)")?,
            remove_job: sql("DELETE FROM jobs WHERE uid = ?1")?,
            remove_progress: sql("DELETE FROM progress WHERE uid = ?1")?,
            put_notice: sql("INSERT OR REPLACE INTO notices VALUES (?1, ?2)")?,
            remove_notice: sql("DELETE FROM notices WHERE id = ?1")?,
            put: [
                sql("INSERT OR REPLACE INTO runs VALUES (?1, ?2)")?,
                sql("INSERT OR REPLACE INTO joins VALUES (?1, ?2)")?,
                sql("INSERT OR REPLACE INTO fanouts VALUES (?1, ?2)")?,
                sql("INSERT OR REPLACE INTO backfills VALUES (?1, ?2)")?,
                sql("INSERT OR REPLACE INTO receipts VALUES (?1, ?2)")?,
                sql("INSERT OR REPLACE INTO staged VALUES (?1, ?2)")?,
            ],
            remove: [
                sql("DELETE FROM runs WHERE key = ?1")?,
                sql("DELETE FROM joins WHERE key = ?1")?,
                sql("DELETE FROM fanouts WHERE key = ?1")?,
                sql("DELETE FROM backfills WHERE key = ?1")?,
                sql("DELETE FROM receipts WHERE key = ?1")?,
                sql("DELETE FROM staged WHERE key = ?1")?,
            ],
            append: sql("INSERT INTO history VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?,
            know: sql("INSERT OR IGNORE INTO history_jobs (job, name) VALUES (?1, ?2)")?,
            revise: sql(
                "INSERT OR REPLACE INTO revisions (job, version, name, at, deleted, value) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?,
            forget_revisions: sql("DELETE FROM revisions WHERE job = ?1 AND version < ?2")?,
            note: sql("INSERT INTO audit (at, name, by, act, value) VALUES (?1, ?2, ?3, ?4, ?5)")?,
            merge_block: sql(
                "INSERT INTO history_blocks VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (block) DO UPDATE SET \
                 outcomes = outcomes | excluded.outcomes, due_min = min(due_min, excluded.due_min), \
                 due_max = max(due_max, excluded.due_max), recorded_min = min(recorded_min, excluded.recorded_min)",
            )?,
            log: sql("INSERT INTO applied VALUES (?1, ?2, ?3)")?,
            forget: sql("DELETE FROM applied WHERE seq <= ?1")?,
        })
    }

    /// Writes one batch and its entry in the log.
    pub(super) fn write(&mut self, seq: i64, epoch: i64, batch: &Batch) -> rusqlite::Result<()> {
        self.write_rows(batch)?;
        self.log.execute(params![seq, epoch, batch.text.as_bytes()])?;
        self.ledger.log.push(seq, batch.bytes());
        Ok(())
    }

    /// Writes one batch that followers do not hear of.
    pub(super) fn write_rows(&mut self, batch: &Batch) -> rusqlite::Result<()> {
        for row in &batch.rows {
            match row {
                Row::Counters(value) => self.counters.execute(params![&batch.text[value.clone()]])?,
                Row::PutJob(uid, value) => self.put_job.execute(params![uid, &batch.text[value.clone()]])?,
                Row::PutProgress(uid, value) => {
                    self.put_progress.execute(params![uid, &batch.text[value.clone()]])?
                }
                Row::RemoveJob(uid) => {
                    self.remove_job.execute([uid])?;
                    self.remove_progress.execute([uid])?
                }
                Row::PutNotice(id, value) => {
                    self.put_notice.execute(params![id, &batch.text[value.clone()]])?
                }
                Row::RemoveNotice(id) => self.remove_notice.execute([id])?,
                Row::Put(table, key, value) => self.put[*table as usize]
                    .execute(params![&batch.keys[key.clone()], &batch.text[value.clone()]])?,
                Row::Remove(table, key) => {
                    self.remove[*table as usize].execute(params![&batch.keys[key.clone()]])?
                }
                Row::Append(entry) => self.append(entry, batch)?,
                Row::Revise(row) => self.revise(row, batch)?,
                Row::Note(entry, value) => self.note(entry, &batch.text[value.clone()])?,
            };
        }
        Ok(())
    }

    /// Notes since when the history of a job is whole.
    pub(super) fn keep(&self, job: JobUid, name: &JobName, since: Timestamp) -> rusqlite::Result<()> {
        let sql =
            "INSERT INTO history_jobs VALUES (?1, ?2, ?3) ON CONFLICT (job) DO UPDATE SET kept_since = ?3";
        let values = params![integer(job), name.as_str(), since.as_millisecond()];
        self.connection.prepare_cached(sql)?.execute(values)?;
        Ok(())
    }

    /// Writes what the batches have in common.
    pub(super) fn finish(mut self) -> rusqlite::Result<()> {
        self.write_block()?;
        if let Some(seq) = self.ledger.log.trim() {
            self.forget.execute([seq])?;
        }
        Ok(())
    }

    fn append(&mut self, entry: &Entry, batch: &Batch) -> rusqlite::Result<usize> {
        let id = self.ledger.next_id;
        self.ledger.next_id += 1;
        let Facts { job, name, first_due, last_due, recorded, outcome, .. } = &entry.facts;
        let job = integer(*job);
        if !self.ledger.known.contains(&job) {
            self.know.execute(params![job, name.as_str()])?;
            if self.ledger.known.len() == KNOWN_MAX {
                self.ledger.known.clear();
            }
            self.ledger.known.insert(job);
        }
        let times = [first_due, last_due, recorded].map(|at: &Timestamp| at.as_millisecond());
        if self.block.as_ref().is_none_or(|block| block.number != id / BLOCK) {
            self.write_block()?;
        }
        self.block.get_or_insert_with(|| Block::new(id / BLOCK)).add(*outcome, times);
        let [first_due, last_due, recorded] = times;
        let key = entry.key.clone().map(|key| &batch.keys[key]);
        let value = &batch.text[entry.value.clone()];
        self.append.execute(params![id, job, key, code(*outcome), first_due, last_due, recorded, value])
    }

    fn revise(&mut self, row: &RevisionRow, batch: &Batch) -> rusqlite::Result<usize> {
        let RevisionRow { revision, value } = row;
        let (job, version) = (integer(revision.job.uid), revision.job.version);
        let deleted = revision.deed == Deed::Deleted;
        let (name, at) = (revision.job.name.as_str(), revision.at.as_millisecond());
        self.revise.execute(params![job, version, name, at, deleted, &batch.text[value.clone()]])?;
        match version.saturating_sub(Revision::KEPT - 1) {
            0 | 1 => Ok(1),
            kept => self.forget_revisions.execute(params![job, kept]),
        }
    }

    fn note(&mut self, entry: &AuditEntry, value: &str) -> rusqlite::Result<usize> {
        let name = entry.job.as_ref().map(|(_, name)| name.as_str());
        let (at, by) = (entry.at.as_millisecond(), &**entry.author.name());
        self.note.execute(params![at, name, by, entry.act.word(), value])
    }

    fn write_block(&mut self) -> rusqlite::Result<()> {
        let Some(Block { number, outcomes, due_min, due_max, recorded_min }) = self.block.take() else {
            return Ok(());
        };
        self.merge_block.execute(params![number, outcomes, due_min, due_max, recorded_min])?;
        Ok(())
    }
}

/// What the records of a block have in common.
struct Block {
    number: i64,
    /// One bit for each outcome that occurs.
    outcomes: i64,
    due_min: i64,
    due_max: i64,
    recorded_min: i64,
}

impl Block {
    fn new(number: i64) -> Self {
        Self { number, outcomes: 0, due_min: i64::MAX, due_max: i64::MIN, recorded_min: i64::MAX }
    }

    fn add(&mut self, outcome: OutcomeKind, [first_due, last_due, recorded]: [i64; 3]) {
        self.outcomes |= 1 << code(outcome);
        self.due_min = self.due_min.min(first_due);
        self.due_max = self.due_max.max(last_due);
        self.recorded_min = self.recorded_min.min(recorded);
    }
}

/// Removes records of the history and says since when what is left is whole. Returns how many there were.
pub(super) fn remove_records(connection: &Connection, ids: &[i64]) -> rusqlite::Result<u64> {
    let mut find = connection.prepare_cached("SELECT job, last_due FROM history WHERE id = ?1")?;
    let mut delete = connection.prepare_cached("DELETE FROM history WHERE id = ?1")?;
    let mut floor = connection.prepare_cached(
        "UPDATE history_jobs SET kept_since = max(coalesce(kept_since, ?2), ?2) WHERE job = ?1",
    )?;
    let mut removed = 0;
    for id in ids {
        let found =
            find.query_row([id], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))).optional()?;
        let Some((job, last_due)) = found else { continue };
        delete.execute([id])?;
        floor.execute([job, last_due + 1])?;
        removed += 1;
    }
    let mut blocks: Vec<i64> = ids.iter().map(|id| id / BLOCK).collect();
    blocks.sort_unstable();
    blocks.dedup();
    for block in blocks {
        sum_up(connection, block)?;
    }
    Ok(removed)
}

/// Forgets deleted jobs of which no record is left.
pub(super) fn forget_jobs(connection: &Connection, jobs: &[i64]) -> rusqlite::Result<()> {
    let mut delete = connection.prepare_cached(
        "DELETE FROM history_jobs WHERE job = ?1 AND NOT EXISTS (SELECT 1 FROM jobs WHERE uid = ?1) \
         AND NOT EXISTS (SELECT 1 FROM history WHERE job = ?1)",
    )?;
    for job in jobs {
        delete.execute([job])?;
    }
    Ok(())
}

/// Removes entries of the audit, up to this one.
pub(super) fn remove_entries(connection: &Connection, last: i64) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM audit WHERE id <= ?1")?.execute([last])?;
    Ok(())
}

/// Removes the revisions of jobs that are gone.
pub(super) fn remove_revisions(connection: &Connection, jobs: &[i64]) -> rusqlite::Result<()> {
    let mut delete = connection.prepare_cached("DELETE FROM revisions WHERE job = ?1")?;
    for job in jobs {
        delete.execute([job])?;
    }
    Ok(())
}

/// Writes a block anew from the records that are left in it.
fn sum_up(connection: &Connection, block: i64) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM history_blocks WHERE block = ?1")?.execute([block])?;
    let mut left = connection.prepare_cached(
        "SELECT outcome, first_due, last_due, recorded FROM history WHERE id >= ?1 AND id < ?2",
    )?;
    let mut rows = left.query([block * BLOCK, (block + 1) * BLOCK])?;
    let mut sum = None;
    while let Some(row) = rows.next()? {
        let times = [row.get(1)?, row.get(2)?, row.get(3)?];
        if let Some(outcome) = outcome(row.get(0)?) {
            sum.get_or_insert_with(|| Block::new(block)).add(outcome, times);
        }
    }
    if let Some(Block { number, outcomes, due_min, due_max, recorded_min }) = sum {
        connection.prepare_cached("INSERT INTO history_blocks VALUES (?1, ?2, ?3, ?4, ?5)")?.execute([
            number,
            outcomes,
            due_min,
            due_max,
            recorded_min,
        ])?;
    }
    Ok(())
}
