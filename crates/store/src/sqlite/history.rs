//! Questions to the file, each on a connection that cannot write.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use jiff::Timestamp;
use rusqlite::{CachedStatement, Connection, OptionalExtension, params};
use scheduler::ids::{Epoch, JobUid, RunKey, Seq};
use scheduler::run::Record;
use scheduler::state::State;

use super::rows::BLOCK;
use crate::format::{self, FormatError};
use crate::rows::{code, integer, letters, outcome, small, whole_ms};
use crate::{Applied, HistoryOrder, HistoryPage, HistoryQuery, LastRun, Retention, StoreError, Term};

/// What one answer to a follower holds at most.
const FOLLOW_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Why a question was not answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error(transparent)]
    Format(#[from] FormatError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

pub(super) fn term(connection: &Connection) -> rusqlite::Result<Term> {
    connection.prepare_cached("SELECT epoch, seq FROM term")?.query_row([], |row| {
        Ok(Term {
            epoch: Epoch(row.get::<_, i64>(0)?.cast_unsigned()),
            seq: Seq(row.get::<_, i64>(1)?.cast_unsigned()),
        })
    })
}

/// Everything, as of one moment.
pub(super) fn load(connection: &Connection) -> Result<(State, Term), ReadError> {
    let snapshot = connection.unchecked_transaction()?;
    let term = term(&snapshot)?;
    let mut meta = None;
    each(&snapshot, "SELECT value FROM meta WHERE name = 'counters'", |value| {
        meta = Some(format::read_meta(value)?);
        Ok(())
    })?;
    let state = State {
        meta: meta.ok_or_else(|| StoreError::Damaged("it has no counters".into()))?,
        jobs: all(&snapshot, "SELECT value FROM jobs ORDER BY uid", |value| {
            format::read_job(value).map(|job| (job.uid, Arc::new(job)))
        })?,
        progress: all(&snapshot, "SELECT value FROM progress ORDER BY uid", |value| {
            format::read_progress(value).map(|(uid, progress)| (uid, Arc::new(progress)))
        })?,
        runs: all(&snapshot, "SELECT value FROM runs", |value| {
            format::read_run(value).map(|run| (run.key, Arc::new(run)))
        })?,
        joins: all(&snapshot, "SELECT value FROM joins", |value| {
            format::read_join(value).map(|join| ((join.child, join.cycle), Arc::new(join)))
        })?,
        notices: all(&snapshot, "SELECT value FROM notices", |value| {
            format::read_notice(value).map(|notice| (notice.id, Arc::new(notice)))
        })?,
        fanouts: all(&snapshot, "SELECT value FROM fanouts", |value| {
            format::read_fanout(value).map(|fanout| (fanout.run, Arc::new(fanout)))
        })?,
        receipts: all(&snapshot, "SELECT value FROM receipts", |value| {
            format::read_receipt(value).map(|receipt| (receipt.once.key.clone(), Arc::new(receipt)))
        })?,
        staged: all(&snapshot, "SELECT value FROM staged", |value| {
            format::read_staged(value).map(|definition| (definition.name.clone(), Arc::new(definition)))
        })?,
        backfills: all(&snapshot, "SELECT value FROM backfills", |value| {
            format::read_backfill(value).map(|backfill| (backfill.id, Arc::new(backfill)))
        })?,
    };
    Ok((state, term))
}

/// A table as a map. Reading a million records is mostly decoding, so large tables are decoded by other threads.
/// The pairs are collected first: a map is built of sorted pairs far faster than pair by pair.
fn all<K: Ord + Send, V: Send>(
    connection: &Connection,
    sql: &str,
    read: impl Fn(&[u8]) -> Result<(K, V), FormatError> + Sync,
) -> Result<BTreeMap<K, V>, ReadError> {
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut chunk = Chunk::default();
    chunk.fill(&mut rows)?;
    if chunk.ends.len() < CHUNK_ROWS {
        return Ok(chunk.values().map(read).collect::<Result<_, _>>()?);
    }
    let (sender, receiver) = mpsc::sync_channel::<Chunk>(2 * DECODERS);
    let receiver = Mutex::new(receiver);
    let decode = || {
        let mut decoded = Ok(Vec::new());
        // After an error it goes on taking, so that the reader is not left waiting.
        while let Ok(chunk) = next(&receiver) {
            if let Ok(pieces) = &mut decoded {
                match chunk.values().map(&read).collect::<Result<Vec<(K, V)>, _>>() {
                    Ok(pairs) => pieces.push((chunk.number, pairs)),
                    Err(error) => decoded = Err(error),
                }
            }
        }
        decoded
    };
    let mut pieces = std::thread::scope(|scope| {
        let decoders = [(); DECODERS].map(|()| scope.spawn(decode));
        let mut read_on = || {
            while !chunk.ends.is_empty() {
                let following = Chunk { number: chunk.number + 1, ..Chunk::default() };
                // Refused only when no decoder is left, and then the error is theirs.
                let _ = sender.send(std::mem::replace(&mut chunk, following));
                chunk.fill(&mut rows)?;
            }
            Ok::<_, ReadError>(())
        };
        let all_read = read_on();
        drop(sender);
        let mut pieces = Vec::new();
        for decoder in decoders {
            pieces.extend(decoder.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        all_read.map(|()| pieces)
    })?;
    pieces.sort_unstable_by_key(|(number, _)| *number);
    Ok(pieces.into_iter().flat_map(|(_, pairs)| pairs).collect())
}

/// Threads that decode; the machine of the targets has two cores.
const DECODERS: usize = 2;
/// Records handed to a decoder at once.
const CHUNK_ROWS: usize = 4096;

/// Records as they are in the file.
#[derive(Default)]
struct Chunk {
    number: usize,
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Chunk {
    fn fill(&mut self, rows: &mut rusqlite::Rows<'_>) -> rusqlite::Result<()> {
        while self.ends.len() < CHUNK_ROWS
            && let Some(row) = rows.next()?
        {
            self.bytes.extend_from_slice(bytes(row, 0)?);
            self.ends.push(self.bytes.len());
        }
        Ok(())
    }

    fn values(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.bytes[start..*end])
    }
}

fn next(receiver: &Mutex<mpsc::Receiver<Chunk>>) -> Result<Chunk, mpsc::RecvError> {
    receiver.lock().unwrap_or_else(PoisonError::into_inner).recv()
}

fn each(
    connection: &Connection,
    sql: &str,
    mut take: impl FnMut(&[u8]) -> Result<(), FormatError>,
) -> Result<(), ReadError> {
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        take(bytes(row, 0)?)?;
    }
    Ok(())
}

pub(super) fn bytes<'r>(row: &'r rusqlite::Row<'_>, column: usize) -> rusqlite::Result<&'r [u8]> {
    row.get_ref(column)?.as_bytes().map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
    })
}

/// Batches after `after`; none when there are none yet.
pub(super) fn applied_after(connection: &Connection, after: Seq) -> Result<Vec<Applied>, ReadError> {
    let snapshot = connection.unchecked_transaction()?;
    let Term { seq: last, .. } = term(&snapshot)?;
    let oldest: Option<i64> = snapshot.query_row("SELECT min(seq) FROM applied", [], |row| row.get(0))?;
    let oldest = Seq(oldest.map_or(last.0 + 1, i64::cast_unsigned));
    if after > last || after.0 + 1 < oldest.0 {
        return Err(StoreError::Gone { asked: Seq(after.0.saturating_add(1)), oldest }.into());
    }
    let mut statement =
        snapshot.prepare_cached("SELECT seq, epoch, changes FROM applied WHERE seq > ?1 ORDER BY seq")?;
    let mut rows = statement.query([after.0.cast_signed()])?;
    let (mut batches, mut size) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let batch = bytes(row, 2)?;
        size += batch.len();
        if size > FOLLOW_BYTES_MAX && !batches.is_empty() {
            break;
        }
        batches.push(Applied {
            seq: Seq(row.get::<_, i64>(0)?.cast_unsigned()),
            epoch: Epoch(row.get::<_, i64>(1)?.cast_unsigned()),
            changes: format::read_batch(batch)?,
        });
    }
    Ok(batches)
}

/// The conditions of a query that are looked for in columns.
struct Conditions {
    /// One bit for each outcome that is wanted.
    outcomes: i64,
    /// What the cause in a key may begin with.
    causes: String,
    from: i64,
    to: i64,
    order: HistoryOrder,
    /// Records with a lower id, or with a higher one where the oldest come first.
    beyond: i64,
    /// One more than the page holds, to know whether there is a next one.
    limit: i64,
}

impl Conditions {
    fn of(query: &HistoryQuery) -> Self {
        let every = (1 << 7) - 1;
        let outcomes = query.outcomes.iter().fold(0, |bits, outcome| bits | 1 << code(*outcome));
        let start = if query.order == HistoryOrder::NewestFirst { i64::MAX } else { i64::MIN };
        Self {
            outcomes: if query.outcomes.is_empty() { every } else { outcomes },
            causes: letters(&query.causes),
            from: query.from.map_or(i64::MIN, whole_ms),
            to: query.to.map_or(i64::MAX, whole_ms),
            order: query.order,
            beyond: query.cursor.and_then(|cursor| i64::try_from(cursor).ok()).unwrap_or(start),
            limit: small(query.limit()) + 1,
        }
    }

    /// The statement that finds ids `of` something; the first parameters of both ends are the same.
    fn sql(&self, of: &str) -> String {
        let (beyond, way) = match self.order {
            HistoryOrder::NewestFirst => ("<", "DESC"),
            HistoryOrder::OldestFirst => (">", "ASC"),
        };
        // Most questions do not ask for causes, and need not look at keys.
        let causes = match &*self.causes {
            "" => "?6 = ''",
            // Rows of slots have no key: they are of slots.
            _ => "instr(?6, coalesce(substr(key, instr(key, '-') + 1, 1), 'i')) > 0",
        };
        format!(
            "SELECT id FROM history WHERE {of} AND id {beyond} ?1 AND (1 << outcome) & ?2 <> 0 AND last_due >= ?3 \
             AND first_due < ?4 AND {causes} ORDER BY id {way} LIMIT ?5"
        )
    }
}

pub(super) fn page(connection: &Connection, query: &HistoryQuery) -> Result<HistoryPage, ReadError> {
    let snapshot = connection.unchecked_transaction()?;
    let wanted = Conditions::of(query);
    let mut stopped = None;
    let mut ids = match (query.job, &query.name) {
        (None, None) => {
            let found = ids_of_all(&snapshot, &wanted)?;
            stopped = found.stopped;
            found.ids
        }
        (job, name) => {
            let mut ids = Vec::new();
            for job in jobs(&snapshot, job, name.as_deref())? {
                ids.extend(ids_of_job(&snapshot, job, &wanted)?);
            }
            ids
        }
    };
    match query.order {
        HistoryOrder::NewestFirst => ids.sort_unstable_by(|a, b| b.cmp(a)),
        HistoryOrder::OldestFirst => ids.sort_unstable(),
    }
    let more = ids.len() > query.limit();
    ids.truncate(query.limit());
    let mut find = snapshot.prepare_cached("SELECT value FROM history WHERE id = ?1")?;
    let records = ids.iter().map(|id| find.query_row([id], |row| Ok(format::read_record(bytes(row, 0)?))));
    let records = records.map(|read| Ok(read??)).collect::<Result<Vec<Record>, ReadError>>()?;
    let next = if more { ids.last().copied() } else { stopped };
    Ok(HistoryPage { records, next: next.map(i64::cast_unsigned) })
}

/// The jobs that a query is about: a name may have belonged to several, one after the other.
fn jobs(connection: &Connection, job: Option<JobUid>, name: Option<&str>) -> rusqlite::Result<Vec<i64>> {
    let sql = match (job, name) {
        (Some(job), None) => return Ok(vec![integer(job)]),
        (None, _) => "SELECT job FROM history_jobs WHERE name = ?2",
        (Some(_), _) => "SELECT job FROM history_jobs WHERE job = ?1 AND name = ?2",
    };
    connection.prepare_cached(sql)?.query_map(params![job.map(integer), name], |row| row.get(0))?.collect()
}

fn ids_of_job(connection: &Connection, job: i64, wanted: &Conditions) -> rusqlite::Result<Vec<i64>> {
    let mut statement = connection.prepare_cached(&wanted.sql("job = ?7"))?;
    let Conditions { outcomes, causes, from, to, beyond, limit, .. } = wanted;
    ids(&mut statement, params![beyond, outcomes, from, to, limit, causes, job])
}

/// Blocks of records that one question looks into, some 65,000 records: a tenth of a second. What is rarer than that
/// is found by asking on.
const BLOCKS_MAX: usize = 256;

/// Ids, in order.
struct Found {
    ids: Vec<i64>,
    /// Where the search was given up for now.
    stopped: Option<i64>,
}

fn ids_of_all(connection: &Connection, wanted: &Conditions) -> rusqlite::Result<Found> {
    let Conditions { outcomes, causes, from, to, beyond, limit, order } = wanted;
    let (side, way) = match order {
        HistoryOrder::NewestFirst => ("<=", "DESC"),
        HistoryOrder::OldestFirst => (">=", "ASC"),
    };
    let mut blocks = connection.prepare_cached(&format!(
        "SELECT block FROM history_blocks WHERE block {side} ?1 AND outcomes & ?2 <> 0 AND due_max >= ?3 \
         AND due_min < ?4 ORDER BY block {way}"
    ))?;
    let mut within = connection.prepare_cached(&wanted.sql("id >= ?7 AND id < ?8"))?;
    let mut found = Found { ids: Vec::new(), stopped: None };
    let mut rows = blocks.query(params![beyond.div_euclid(BLOCK), outcomes, from, to])?;
    let mut looked_into = 0;
    while let Some(row) = rows.next()? {
        let first = row.get::<_, i64>(0)? * BLOCK;
        if looked_into == BLOCKS_MAX {
            let before_first = *order == HistoryOrder::OldestFirst;
            found.stopped = Some(if before_first { first - 1 } else { first + BLOCK });
            return Ok(found);
        }
        let left = limit - small(found.ids.len());
        let asked = params![beyond, outcomes, from, to, left, causes, first, first + BLOCK];
        found.ids.extend(ids(&mut within, asked)?);
        if small(found.ids.len()) == *limit {
            break;
        }
        looked_into += 1;
    }
    Ok(found)
}

fn ids(statement: &mut CachedStatement<'_>, params: impl rusqlite::Params) -> rusqlite::Result<Vec<i64>> {
    statement.query_map(params, |row| row.get(0))?.collect()
}

pub(super) fn ended_run(connection: &Connection, key: RunKey) -> Result<Option<Record>, ReadError> {
    let mut statement =
        connection.prepare_cached("SELECT value FROM history WHERE key = ?1 ORDER BY id DESC LIMIT 1")?;
    let found =
        statement.query_row([key.to_string()], |row| Ok(format::read_record(bytes(row, 0)?))).optional()?;
    Ok(found.transpose()?)
}

pub(super) fn last_runs(connection: &Connection) -> Result<Vec<LastRun>, ReadError> {
    let mut statement = connection.prepare_cached(
        "SELECT h.key, h.outcome, h.recorded FROM history_jobs AS j JOIN history AS h ON h.id = \
         (SELECT id FROM history WHERE job = j.job AND key IS NOT NULL ORDER BY id DESC LIMIT 1)",
    )?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let text: String = row.get(0)?;
        let last =
            text.parse().ok().zip(outcome(row.get(1)?)).zip(Timestamp::from_millisecond(row.get(2)?).ok());
        let ((key, outcome), ended) =
            last.ok_or_else(|| StoreError::Damaged(format!("the record of run `{text}` cannot be read")))?;
        found.push(LastRun { key, outcome, ended });
    }
    Ok(found)
}

pub(super) fn kept_since(connection: &Connection, job: JobUid) -> Result<Option<Timestamp>, ReadError> {
    let mut statement = connection.prepare_cached("SELECT kept_since FROM history_jobs WHERE job = ?1")?;
    let since: Option<Option<i64>> = statement.query_row([integer(job)], |row| row.get(0)).optional()?;
    let since = since.flatten().map(Timestamp::from_millisecond).transpose();
    Ok(since.map_err(|error| StoreError::Damaged(error.to_string()))?)
}

/// Where a search for what retention removes goes on: to count the records of all jobs takes seconds where there are
/// millions, and is not done again for each few that are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Search {
    /// Records that are too old.
    Old,
    /// Records that are too many: of this job so many more, and of the jobs after it.
    Many { job: i64, left: i64 },
}

/// What retention removes, oldest first, at most `limit` ids, and where to go on; nothing at the end.
pub(super) fn surplus(
    connection: &Connection,
    keep: Retention,
    now: Timestamp,
    limit: usize,
    search: Search,
) -> rusqlite::Result<(Vec<i64>, Search)> {
    let (job, left) = match search {
        Search::Old => {
            let found = too_old(connection, keep, now, limit)?;
            if !found.is_empty() {
                return Ok((found, Search::Old));
            }
            (i64::MIN, 0)
        }
        Search::Many { job, left } => (job, left),
    };
    too_many(connection, keep, limit, job, left)
}

fn too_old(
    connection: &Connection,
    keep: Retention,
    now: Timestamp,
    limit: usize,
) -> rusqlite::Result<Vec<i64>> {
    let oldest = whole_ms(now.checked_sub(keep.age_max).unwrap_or(Timestamp::MIN));
    let mut blocks = connection
        .prepare_cached("SELECT block FROM history_blocks WHERE recorded_min < ?1 ORDER BY block")?;
    let mut old = connection.prepare_cached(
        "SELECT id FROM history WHERE id >= ?1 AND id < ?2 AND recorded < ?3 ORDER BY id LIMIT ?4",
    )?;
    let mut found = Vec::new();
    let mut rows = blocks.query([oldest])?;
    while let Some(row) = rows.next()? {
        let first = row.get::<_, i64>(0)? * BLOCK;
        found.extend(ids(&mut old, params![first, first + BLOCK, oldest, small(limit - found.len())])?);
        if found.len() == limit {
            break;
        }
    }
    Ok(found)
}

/// What came while records were removed is left for the next time.
fn too_many(
    connection: &Connection,
    keep: Retention,
    limit: usize,
    mut job: i64,
    mut left: i64,
) -> rusqlite::Result<(Vec<i64>, Search)> {
    let count_max = i64::try_from(keep.count_max).unwrap_or(i64::MAX);
    let mut of_job =
        connection.prepare_cached("SELECT id FROM history WHERE job = ?1 ORDER BY id LIMIT ?2")?;
    let mut found = ids(&mut of_job, params![job, left.min(small(limit))])?;
    left -= small(found.len());
    if found.len() < limit {
        let mut many = connection.prepare_cached(
            "SELECT job, count(*) FROM history WHERE job > ?1 GROUP BY job HAVING count(*) > ?2",
        )?;
        let mut rows = many.query([job, count_max])?;
        while let Some(row) = rows.next()? {
            job = row.get(0)?;
            left = row.get::<_, i64>(1)? - count_max;
            let some = ids(&mut of_job, params![job, left.min(small(limit - found.len()))])?;
            left -= small(some.len());
            found.extend(some);
            if found.len() == limit {
                break;
            }
        }
    }
    Ok((found, Search::Many { job, left }))
}

/// Deleted jobs of which the history has no record left.
pub(super) fn forgotten(connection: &Connection, limit: usize) -> rusqlite::Result<Vec<i64>> {
    let mut statement = connection.prepare_cached(
        "SELECT job FROM history_jobs AS j WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE uid = j.job) \
         AND NOT EXISTS (SELECT 1 FROM history WHERE job = j.job) LIMIT ?1",
    )?;
    ids(&mut statement, params![small(limit)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::open::Place;

    /// Each look goes on where the one before it ended, also within a job.
    #[test]
    fn a_search_for_what_is_too_many_goes_on() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let place = Place::prepare(dir.path(), false).expect("a local folder");
        let writer = place.writer().expect("a local folder");
        let add = |job: i64, records: i64| {
            let sql = "INSERT INTO history (job, outcome, first_due, last_due, recorded, value) VALUES (?1, 0, 0, 0, 0, '')";
            (0..records).for_each(|_| drop(writer.execute(sql, [job])));
        };
        (1..=4).for_each(|job| add(job, if job == 3 { 2 } else { 7 }));
        let keep = Retention { count_max: 2, ..Retention::UNBOUNDED };
        let mut search = Search::Old;
        let mut removed = Vec::new();
        // One that began anew each time would not end.
        for _ in 0..20 {
            let (ids, next) = surplus(&writer, keep, Timestamp::UNIX_EPOCH, 3, search).expect("it is found");
            if ids.is_empty() {
                break;
            }
            for id in ids {
                let sql = "DELETE FROM history WHERE id = ?1 RETURNING job";
                removed.push(writer.query_row(sql, [id], |row| row.get::<_, i64>(0)).expect("it is there"));
            }
            // Of jobs that were counted nobody counts again what comes.
            add(1, 1);
            search = next;
        }
        assert_eq!(removed, [1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 4, 4, 4, 4, 4]);
    }
}
