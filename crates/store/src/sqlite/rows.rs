//! A batch as rows: encoded once, on the caller's thread; the writer only binds slices of it.

use std::collections::{HashSet, VecDeque};
use std::fmt::Write as _;
use std::ops::Range;

use jiff::Timestamp;
use rusqlite::{CachedStatement, Connection, OptionalExtension, params};
use scheduler::audit::Entry as AuditEntry;
use scheduler::ids::{Cycle, JobName, JobUid};
use scheduler::revision::{Deed, Revision};
use scheduler::state::Change;

use crate::facts::Facts;
use crate::{OutcomeKind, format};

/// Batches kept for followers in other processes: what a standby may miss while it is paused.
const LOG_BATCHES_MAX: usize = 20_000;
/// The same in bytes.
const LOG_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Records in a block of the history. Small enough to read through, large enough to make blocks few.
pub(super) const BLOCK: i64 = 256;
/// Jobs remembered as known to the history, so that most records need not say so again.
const KNOWN_MAX: usize = 65_536;

/// One encoded batch.
pub(super) struct Batch {
    /// The batch in the stored format, one change a line: what followers are given.
    text: String,
    /// Keys of rows, one after the other.
    keys: String,
    rows: Vec<Row>,
}

enum Row {
    Counters(Range<usize>),
    PutJob(i64, Range<usize>),
    RemoveJob(i64),
    PutProgress(i64, Range<usize>),
    PutNotice(i64, Range<usize>),
    RemoveNotice(i64),
    Put(Keyed, Range<usize>, Range<usize>),
    Remove(Keyed, Range<usize>),
    Append(Box<Entry>),
    Revise(Box<RevisionRow>),
    Note(std::sync::Arc<AuditEntry>, Range<usize>),
}

/// Tables whose keys are texts.
#[derive(Clone, Copy)]
enum Keyed {
    Runs,
    Joins,
    Fanouts,
    Backfills,
    Receipts,
    Staged,
}

/// A record of the history.
struct Entry {
    facts: Facts,
    key: Option<Range<usize>>,
    value: Range<usize>,
}

/// A revision of a definition.
struct RevisionRow {
    revision: std::sync::Arc<Revision>,
    value: Range<usize>,
}

impl Batch {
    pub(super) fn encode(changes: &[Change]) -> Self {
        let mut text = Vec::with_capacity(changes.len() * 256);
        let mut keys = String::new();
        let rows = changes.iter().map(|change| {
            let value = format::write_change(&mut text, change);
            text.push(b'\n');
            Row::of(change, value, &mut keys)
        });
        let rows = rows.collect();
        Self { text: String::from_utf8(text).expect("JSON is UTF-8"), keys, rows }
    }

    pub(super) fn bytes(&self) -> usize {
        self.text.len()
    }
}

impl Row {
    fn of(change: &Change, value: Range<usize>, keys: &mut String) -> Self {
        let mut key = |key: std::fmt::Arguments<'_>| {
            let start = keys.len();
            keys.write_fmt(key).expect("a String takes every character");
            start..keys.len()
        };
        match change {
            Change::Meta(_) => Self::Counters(value),
            Change::PutJob(job) => Self::PutJob(integer(job.uid), value),
            Change::RemoveJob(uid) => Self::RemoveJob(integer(*uid)),
            Change::PutProgress(uid, _) => Self::PutProgress(integer(*uid), value),
            Change::PutRun(run) => Self::Put(Keyed::Runs, key(format_args!("{}", run.key)), value),
            Change::RemoveRun(run) => Self::Remove(Keyed::Runs, key(format_args!("{run}"))),
            Change::PutFanout(fanout) => {
                Self::Put(Keyed::Fanouts, key(format_args!("{}", fanout.run)), value)
            }
            Change::RemoveFanout(run) => Self::Remove(Keyed::Fanouts, key(format_args!("{run}"))),
            Change::PutJoin(join) => {
                let Cycle { due, origin, seq } = join.cycle;
                let due = due.as_millisecond();
                Self::Put(Keyed::Joins, key(format_args!("{} {origin} {due} {seq}", join.child)), value)
            }
            Change::RemoveJoin(child, Cycle { due, origin, seq }) => {
                let due = due.as_millisecond();
                Self::Remove(Keyed::Joins, key(format_args!("{child} {origin} {due} {seq}")))
            }
            Change::PutBackfill(backfill) => {
                Self::Put(Keyed::Backfills, key(format_args!("{}", backfill.id)), value)
            }
            Change::RemoveBackfill(id) => Self::Remove(Keyed::Backfills, key(format_args!("{id}"))),
            Change::PutReceipt(receipt) => {
                Self::Put(Keyed::Receipts, key(format_args!("{}", receipt.once.key)), value)
            }
            Change::RemoveReceipt(request) => Self::Remove(Keyed::Receipts, key(format_args!("{request}"))),
            Change::Stage(definition) => {
                Self::Put(Keyed::Staged, key(format_args!("{}", definition.name)), value)
            }
            Change::Unstage(name) => Self::Remove(Keyed::Staged, key(format_args!("{name}"))),
            Change::PutNotice(notice) => Self::PutNotice(notice.id.0.cast_signed(), value),
            Change::RemoveNotice(id) => Self::RemoveNotice(id.0.cast_signed()),
            Change::Append(record) => {
                let run = format::record_key(record);
                let key = run.map(|run| key(format_args!("{run}")));
                Self::Append(Box::new(Entry { facts: Facts::of(record), key, value }))
            }
            Change::Revise(revision) => {
                Self::Revise(Box::new(RevisionRow { revision: revision.clone(), value }))
            }
            Change::Note(entry) => Self::Note(entry.clone(), value),
        }
    }
}

/// What the writer knows about the tables that only it writes. Read from them at the beginning of a term, and again
/// after every transaction that was rolled back.
pub(super) struct Ledger {
    next_id: i64,
    /// Jobs that are in `history_jobs`.
    known: HashSet<i64>,
    /// Sequence numbers and sizes of what is in `applied`.
    log: VecDeque<(i64, usize)>,
    log_bytes: usize,
}

impl Ledger {
    pub(super) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let next_id =
            connection.query_row("SELECT coalesce(max(id), 0) + 1 FROM history", [], |row| row.get(0))?;
        let mut statement = connection.prepare("SELECT seq, length(changes) FROM applied ORDER BY seq")?;
        let size = |bytes: i64| usize::try_from(bytes).unwrap_or(0);
        let log = statement.query_map([], |row| Ok((row.get(0)?, size(row.get(1)?))))?;
        let log = log.collect::<rusqlite::Result<VecDeque<(i64, usize)>>>()?;
        let log_bytes = log.iter().map(|(_, bytes)| bytes).sum();
        Ok(Self { next_id, known: HashSet::new(), log, log_bytes })
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
        self.ledger.log.push_back((seq, batch.text.len()));
        self.ledger.log_bytes += batch.text.len();
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
        let mut gone = None;
        let ledger = &mut *self.ledger;
        while ledger.log.len() > LOG_BATCHES_MAX || (ledger.log_bytes > LOG_BYTES_MAX && ledger.log.len() > 1)
        {
            let Some((seq, bytes)) = ledger.log.pop_front() else { break };
            ledger.log_bytes -= bytes;
            gone = Some(seq);
        }
        if let Some(seq) = gone {
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

/// SQLite's integers are signed; our numbers never have 64 bits.
pub(super) fn integer(uid: JobUid) -> i64 {
    uid.0.cast_signed()
}

const OUTCOMES: [OutcomeKind; 7] = [
    OutcomeKind::Succeeded,
    OutcomeKind::Failed,
    OutcomeKind::Killed,
    OutcomeKind::TimedOut,
    OutcomeKind::Lost,
    OutcomeKind::Skipped,
    OutcomeKind::Missed,
];

/// How an outcome is written: its place in the list above, which only grows.
pub(super) fn code(outcome: OutcomeKind) -> i64 {
    match outcome {
        OutcomeKind::Succeeded => 0,
        OutcomeKind::Failed => 1,
        OutcomeKind::Killed => 2,
        OutcomeKind::TimedOut => 3,
        OutcomeKind::Lost => 4,
        OutcomeKind::Skipped => 5,
        OutcomeKind::Missed => 6,
    }
}

pub(super) fn outcome(code: i64) -> Option<OutcomeKind> {
    usize::try_from(code).ok().and_then(|code| OUTCOMES.get(code)).copied()
}
