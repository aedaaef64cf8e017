//! A backup of the file while it is written, and content that waits in a file of its own to take its place.
//!
//! Staged content is a database like ours, filled aside, without a log and without waiting for the disk: if the machine
//! goes down it is only garbage. It becomes current in one transaction of our own database, which copies it.

use std::borrow::Cow;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior, params};
use scheduler::ids::{JobUid, RunKey};
use scheduler::state::{Change, State};
use tokio::sync::mpsc;

use super::history::{self, ReadError};
use super::open::{Place, fill};
use super::rows::{Ledger, RowWriter};
use crate::backup::{Content, Extent, Header, Line, Reader, StageError, Staged, Writer};
use crate::rows::Batch;
use crate::{StoreError, format};

/// Hot state: the tables whose rows are a backup's lines, and the tag of each. A test compares the list with the schema.
pub(super) const HOT: &[(&str, &str)] = &[
    ("SELECT value FROM meta WHERE name = 'counters'", "meta"),
    ("SELECT value FROM jobs ORDER BY uid", "job"),
    ("SELECT value FROM progress ORDER BY uid", "progress"),
    ("SELECT value FROM runs", "run"),
    ("SELECT value FROM joins", "join"),
    ("SELECT value FROM fanouts", "fanout"),
    ("SELECT value FROM backfills", "backfill"),
    ("SELECT value FROM notices ORDER BY id", "notice"),
    ("SELECT value FROM receipts", "receipt"),
    ("SELECT value FROM staged", "staged"),
];
/// The history, of runs and of definitions.
const PAST: &[(&str, &str)] = &[
    ("SELECT value FROM history ORDER BY id", "record"),
    ("SELECT value FROM revisions ORDER BY id", "revision"),
    ("SELECT value FROM audit ORDER BY id", "audit"),
];
/// Since when the history of a job is whole.
const KEPT: &str = "SELECT job, name, kept_since FROM history_jobs WHERE kept_since IS NOT NULL ORDER BY job";
/// The same for a backup without it: what is left out was removed.
const KEPT_WITHOUT: &str = "SELECT j.job, j.name, max(coalesce(j.kept_since, h.last + 1), coalesce(h.last + 1, j.kept_since)) \
     FROM history_jobs j LEFT JOIN (SELECT job, max(last_due) AS last FROM history GROUP BY job) h USING (job) \
     WHERE j.job IN (SELECT uid FROM jobs) AND coalesce(j.kept_since, h.last) IS NOT NULL ORDER BY j.job";
/// The same where the history cannot be read: what is left out is all until now.
fn kept_since(now: Timestamp) -> String {
    format!("SELECT uid, value ->> 'name', {} FROM jobs ORDER BY uid", now.as_millisecond())
}
/// What belongs to this store and this moment, and is neither in a backup nor replaced by one.
const OURS: &[&str] = &["term", "meta", "applied"];

/// Begins with the name of every staged file.
const STAGED: &str = "chronos.db.staged-";
/// A staged file that is older was left behind by a server that is gone.
const STAGED_AGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Lines written to a staged file at once.
const STAGED_LINES: usize = 1000;

/// Writes everything as of one moment.
pub(super) fn write(
    connection: &Connection,
    extent: Extent,
    to: &mpsc::Sender<Vec<u8>>,
) -> Result<(), ReadError> {
    let snapshot = connection.unchecked_transaction()?;
    let past = if extent == Extent::Everything { PAST } else { &[] };
    let taken = Timestamp::from_millisecond(Timestamp::now().as_millisecond()).unwrap_or_default();
    let count = |sql: &str| {
        let sql = format!("SELECT count(*) FROM ({sql})");
        snapshot.query_row(&sql, [], |row| row.get::<_, i64>(0)).map(i64::cast_unsigned)
    };
    let mut kept = Cow::Borrowed(if extent == Extent::Everything { KEPT } else { KEPT_WITHOUT });
    let mut lines = match count(&kept) {
        // Of a damaged store, the part that jobs need can be saved.
        Err(error)
            if extent != Extent::Everything
                && error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt) =>
        {
            kept = Cow::Owned(kept_since(taken));
            count(&kept)?
        }
        counted => counted?,
    };
    for (sql, _) in HOT.iter().chain(past) {
        lines += count(sql)?;
    }
    let header = Header {
        format: format::VERSION,
        kind: "sqlite".into(),
        term: history::term(&snapshot)?,
        taken,
        program: env!("CARGO_PKG_VERSION").into(),
        lines,
        extent,
    };
    let gone = |gone| ReadError::Store(StoreError::from(gone));
    let mut writer = Writer::begin(&header, to).map_err(gone)?;
    for (sql, tag) in HOT.iter().chain(past) {
        let mut statement = snapshot.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            writer.value(tag, history::bytes(row, 0)?).map_err(gone)?;
        }
    }
    let mut statement = snapshot.prepare(&kept)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let job = JobUid(row.get::<_, i64>(0)?.cast_unsigned());
        writer.kept(job, &row.get::<_, String>(1)?, row.get(2)?).map_err(gone)?;
    }
    writer.end().map_err(gone)
}

/// A database that waits to be copied. Removed when dropped.
#[derive(Debug)]
pub(crate) struct StagedFile {
    place: Place,
    path: PathBuf,
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        // What stays behind is removed by the next one that is staged.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl StagedFile {
    fn open(&self) -> Result<Connection, StoreError> {
        Connection::open(&self.path).map_err(|error| self.place.meaning(&error))
    }

    fn read<T>(&self, question: impl FnOnce(&Connection) -> Result<T, ReadError>) -> Result<T, StoreError> {
        question(&self.open()?).map_err(|error| match error {
            ReadError::Sqlite(error) => self.place.meaning(&error),
            ReadError::Format(error) => StoreError::Unavailable(error.to_string()),
            ReadError::Store(error) => error,
        })
    }

    /// The hot state in it.
    pub(crate) fn state(&self) -> Result<State, StoreError> {
        self.read(history::load).map(|(state, _)| state)
    }

    /// Which of these runs have ended in it.
    pub(crate) fn ended(&self, runs: &[RunKey]) -> Result<Vec<RunKey>, StoreError> {
        self.read(|connection| {
            let mut find = connection.prepare("SELECT 1 FROM history WHERE key = ?1 LIMIT 1")?;
            let mut ended = Vec::new();
            for run in runs {
                if find.query_row([run.to_string()], |_| Ok(())).optional()?.is_some() {
                    ended.push(*run);
                }
            }
            Ok(ended)
        })
    }
}

/// Reads a backup whole into a file beside the database.
pub(super) fn stage(place: &Place, mut from: mpsc::Receiver<Vec<u8>>) -> Result<Staged, StageError> {
    tidy(place);
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| StoreError::Unavailable(error.to_string()))?;
    let id: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let staged = StagedFile { place: place.clone(), path: place.dir.join(format!("{STAGED}{id}")) };
    let meaning = |error: rusqlite::Error| StageError::Store(place.meaning(&error));
    fill(&staged.path, &id, 0).map_err(meaning)?;
    let mut connection = staged.open()?;
    // Nobody else sees it, and nobody misses it.
    connection.execute_batch("PRAGMA journal_mode = off; PRAGMA synchronous = off").map_err(meaning)?;
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(meaning)?;
    let mut ledger = Ledger::read(&transaction).map_err(meaning)?;
    let mut writer = RowWriter::new(&transaction, &mut ledger).map_err(meaning)?;
    let (mut reader, mut changes, mut records) = (Reader::default(), Vec::new(), 0);
    while let Some(piece) = from.blocking_recv() {
        reader.feed(&piece, |_, line| match line {
            Line::Record(change) => {
                records += u64::from(matches!(change, Change::Append(_)));
                changes.push(change);
                if changes.len() < STAGED_LINES {
                    return Ok(());
                }
                let batch = Batch::encode(&std::mem::take(&mut changes));
                writer.write_rows(&batch).map_err(meaning)
            }
            Line::Kept(job, name, since) => writer.keep(job, &name, since).map_err(meaning),
        })?;
    }
    let header = reader.finish()?;
    writer.write_rows(&Batch::encode(&changes)).map_err(meaning)?;
    writer.finish().map_err(meaning)?;
    transaction.commit().map_err(meaning)?;
    drop(connection);
    Ok(Staged { header, records, content: Content::Sqlite(staged) })
}

/// Removes what servers that are gone have left behind.
fn tidy(place: &Place) {
    let old = |path: &PathBuf| {
        let age = path.metadata().and_then(|found| found.modified()).ok();
        age.and_then(|at| SystemTime::now().duration_since(at).ok()).is_some_and(|age| age > STAGED_AGE_MAX)
    };
    let files = std::fs::read_dir(&place.dir).into_iter().flatten().flatten();
    let ours = files.filter(|file| file.file_name().to_string_lossy().starts_with(STAGED));
    // One that cannot be removed takes room and does no other harm.
    ours.map(|file| file.path()).filter(old).for_each(|path| drop(std::fs::remove_file(path)));
}

/// Does `work` in one transaction that can see the staged content as `staged`; keeps it if `work` says so.
pub(super) fn swap<E>(
    connection: &mut Connection,
    staged: &StagedFile,
    work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<Result<(), E>>,
) -> rusqlite::Result<Result<(), E>> {
    connection.execute("ATTACH ?1 AS staged", params![staged.path.to_string_lossy()])?;
    let done = in_transaction(connection, work);
    connection.flush_prepared_statement_cache();
    let detached = connection.execute_batch("DETACH staged");
    let done = done?;
    detached.map(|()| done)
}

fn in_transaction<E>(
    connection: &mut Connection,
    work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<Result<(), E>>,
) -> rusqlite::Result<Result<(), E>> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let done = work(&transaction)?;
    if done.is_ok() {
        transaction.commit()?;
    }
    Ok(done)
}

/// Puts the staged content in the place of ours.
pub(super) fn copy(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    for table in replaced(transaction)? {
        transaction.execute_batch(&format!(
            "DELETE FROM main.{table}; INSERT INTO main.{table} SELECT * FROM staged.{table}"
        ))?;
    }
    // From here on nobody can follow: what they have is of another past.
    transaction.execute_batch(
        "DELETE FROM main.applied; UPDATE main.meta SET value = \
         (SELECT value FROM staged.meta WHERE name = 'counters') WHERE name = 'counters'",
    )
}

fn replaced(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut tables =
        connection.prepare("SELECT name FROM main.sqlite_schema WHERE type = 'table' ORDER BY name")?;
    let names = tables.query_map([], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(names
        .into_iter()
        .filter(|name| !OURS.contains(&name.as_str()) && !name.starts_with("sqlite_"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tables that follow from others, or are written as lines of another kind.
    const DERIVED: &[&str] = &["history_blocks", "history_jobs"];

    #[test]
    fn no_table_is_forgotten() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let place = Place::prepare(dir.path(), false).expect("a local folder");
        let tables = replaced(&place.reader().expect("it is there")).expect("a schema");
        for table in tables.iter().filter(|table| !DERIVED.contains(&table.as_str())) {
            let read = |(sql, _): &(&str, &str)| sql.contains(&format!("FROM {table}"));
            assert!(HOT.iter().chain(PAST).any(read), "`{table}` is in no backup");
        }
    }
}
