//! Whether the file is whole: what a term lives of before anything is written, the rest beside it and without haste.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::types::Value;
use rusqlite::{Connection, params};
use scheduler::state::State;

use super::Shared;
use super::backup::HOT;
use super::damage::Reach;
use super::history::{self, ReadError};
use super::open::{Place, VERSION};
use super::rows::Ledger;
use crate::{StoreError, Term};

/// Records read at once, and their bytes: some milliseconds, for as long as which the log cannot begin anew.
const PIECE_ROWS: i64 = 4096;
const PIECE_BYTES: usize = 1024 * 1024;
/// Between two pieces, so that at most 20 MiB are read in a second: nobody notices, and 10 GiB take ten minutes.
const PAUSE: Duration = Duration::from_millis(50);
/// Between two readings of everything. Disks decay slowly.
const EVERY: Duration = Duration::from_secs(24 * 3600);

/// All that a term lives of, read and understood; the state only where the schema is ours.
pub(super) fn whole(place: &Place, connection: &Connection) -> Result<Option<(State, Term)>, ReadError> {
    frame(place, connection)?;
    let found: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found == VERSION {
        return Ok(Some(history::load(connection)?));
    }
    hot(connection)?;
    Ok(None)
}

/// Every page that a term lives of, read.
pub(super) fn present(place: &Place, connection: &Connection) -> Result<(), ReadError> {
    frame(place, connection)?;
    hot(connection)
}

/// What the hot state stands on: as many pages as there should be, which of them are free, the log for followers, and
/// the end of the history.
fn frame(place: &Place, connection: &Connection) -> Result<(), ReadError> {
    let snapshot = connection.unchecked_transaction()?;
    complete(place, &snapshot)?;
    // Looks at the schema and the list of free pages: what is wrongly called free would be written over.
    let fault: String = snapshot.query_row("PRAGMA quick_check(sqlite_schema)", [], |row| row.get(0))?;
    if fault != "ok" {
        return Err(StoreError::Damaged(fault.replace('\n', " ")).into());
    }
    read_through(&snapshot, "SELECT changes FROM applied")?;
    Ledger::read(&snapshot)?;
    Ok(())
}

fn hot(connection: &Connection) -> Result<(), ReadError> {
    let snapshot = connection.unchecked_transaction()?;
    let exists = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?1";
    for (sql, _) in HOT {
        let table = sql.split_once("FROM ").and_then(|(_, rest)| rest.split(' ').next());
        // An older schema has fewer of them.
        if snapshot.query_row(exists, [table], |row| row.get::<_, i64>(0))? > 0 {
            read_through(&snapshot, sql)?;
        }
    }
    Ok(())
}

fn read_through(snapshot: &Connection, sql: &str) -> rusqlite::Result<()> {
    let mut statement = snapshot.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        history::bytes(row, 0)?;
    }
    Ok(())
}

/// Whether every page that should be there is in the file or in its log. Within a transaction, during which the log
/// does not begin anew.
fn complete(place: &Place, snapshot: &Connection) -> Result<(), ReadError> {
    let number = |sql: &str| snapshot.query_row(sql, [], |row| row.get::<_, i64>(0)).map(i64::cast_unsigned);
    let (size, pages) = (number("PRAGMA page_size")?, number("PRAGMA page_count")?);
    let unreadable = |error: io::Error| {
        ReadError::Store(StoreError::Unavailable(format!("cannot read `{}`: {error}", place.path.display())))
    };
    let bytes = place.path.metadata().map_err(unreadable)?.len();
    let there = bytes / size;
    if there >= pages {
        return Ok(());
    }
    let logged = pages_in_log(place, size).map_err(unreadable)?;
    // One page is never written: the locks are on its bytes.
    let locks = (1 << 30) / size + 1;
    match (there + 1..=pages).find(|page| *page != locks && !logged.contains(page)) {
        None => Ok(()),
        Some(page) => Err(StoreError::Damaged(format!(
            "it is cut off after {bytes} bytes: page {page} of {pages} is missing"
        ))
        .into()),
    }
}

/// Pages of which the write-ahead log has a copy.
/// Source: <https://sqlite.org/fileformat2.html#the_write_ahead_log>
fn pages_in_log(place: &Place, page_size: u64) -> io::Result<HashSet<u64>> {
    let mut pages = HashSet::new();
    let mut log = match File::open(place.path.with_extension("db-wal")) {
        Ok(file) => BufReader::new(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(pages),
        Err(error) => return Err(error),
    };
    let mut header = [0; 32];
    let mut frame = [0; 24];
    if log.read_exact(&mut header).is_err() {
        return Ok(pages);
    }
    // A frame with other salts was left by an earlier round through the file.
    while log.read_exact(&mut frame).is_ok() && frame[8..16] == header[16..24] {
        pages.insert(u64::from(u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]])));
        io::copy(&mut Read::by_ref(&mut log).take(page_size), &mut io::sink())?;
    }
    Ok(pages)
}

/// A way through a table or an index, from the row after (?1, ?2) on.
struct Walk {
    /// Where a row is, and perhaps its value.
    columns: &'static str,
    rows: &'static str,
    begin: Begin,
}

/// What is before every row.
#[derive(Clone, Copy)]
enum Begin {
    Number,
    Text,
}

const fn walk(begin: Begin, columns: &'static str, rows: &'static str) -> Walk {
    Walk { columns, rows, begin }
}

/// The past: every table, and its indices as far as a row has something there.
const PAST: &[Walk] = &[
    walk(Begin::Number, "id, 0, value", "history WHERE id > ?1 ORDER BY id"),
    walk(
        Begin::Number,
        "job, id",
        "history INDEXED BY history_of_job WHERE (job, id) > (?1, ?2) ORDER BY job, id",
    ),
    walk(
        Begin::Text,
        "key, id",
        "history INDEXED BY history_by_key WHERE key IS NOT NULL AND (key, id) > (?1, ?2) ORDER BY key, id",
    ),
    walk(Begin::Number, "block, 0", "history_blocks WHERE block > ?1 ORDER BY block"),
    walk(Begin::Number, "job, 0, name", "history_jobs WHERE job > ?1 ORDER BY job"),
    walk(
        Begin::Text,
        "name, job",
        "history_jobs INDEXED BY history_jobs_by_name WHERE (name, job) > (?1, ?2) ORDER BY name, job",
    ),
    walk(Begin::Number, "id, 0, value", "revisions WHERE id > ?1 ORDER BY id"),
    walk(
        Begin::Number,
        "job, version",
        "revisions INDEXED BY revisions_of_job WHERE (job, version) > (?1, ?2) ORDER BY job, version",
    ),
    walk(
        Begin::Text,
        "name, id",
        "revisions INDEXED BY revisions_by_name WHERE (name, id) > (?1, ?2) ORDER BY name, id",
    ),
    walk(Begin::Number, "id, 0, value", "audit WHERE id > ?1 ORDER BY id"),
    walk(
        Begin::Text,
        "name, id",
        "audit INDEXED BY audit_by_name WHERE (name, id) > (?1, ?2) ORDER BY name, id",
    ),
    walk(Begin::Text, "by, id", "audit INDEXED BY audit_by_author WHERE (by, id) > (?1, ?2) ORDER BY by, id"),
    walk(Begin::Number, "at, id", "audit INDEXED BY audit_by_time WHERE (at, id) > (?1, ?2) ORDER BY at, id"),
];

/// The thread that reads everything now and then.
#[derive(Debug)]
pub(super) struct Examiner {
    closing: Arc<Closing>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Closing {
    closes: Mutex<bool>,
    changed: Condvar,
}

impl Closing {
    /// Waits for so long. Returns whether the store is being closed.
    fn within(&self, time: Duration) -> bool {
        let closes = self.closes.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(closes, time, |closes| !*closes);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Examiner {
    pub(super) fn start(shared: Arc<Shared>) -> io::Result<Self> {
        let closing = Arc::<Closing>::default();
        let theirs = closing.clone();
        let thread = std::thread::Builder::new().name("store-examiner".into());
        let thread = thread.spawn(move || while !examine(&shared, &theirs) && !theirs.within(EVERY) {})?;
        Ok(Self { closing, thread: Some(thread) })
    }
}

impl Drop for Examiner {
    fn drop(&mut self) {
        *self.closing.closes.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.closing.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // Its panic was printed when it happened.
            let _ = thread.join();
        }
    }
}

/// Reads everything once, piece by piece. What is found is remembered. Returns whether the store is being closed.
fn examine(shared: &Shared, closing: &Closing) -> bool {
    for walk in PAST {
        let mut at = Some((Value::Null, Value::Null));
        while let Some(from) = at {
            // A piece that cannot be read ends its walk: one broken page is told as loudly as ten.
            at =
                shared.read(Reach::Past, move |connection| piece(connection, walk, from)).unwrap_or_default();
            if at.is_some() && closing.within(PAUSE) {
                return true;
            }
        }
    }
    if closing.within(Duration::ZERO) {
        return true;
    }
    let place = shared.place.clone();
    // What this means was remembered; what could not be asked is asked the next time.
    let _ = shared.read(Reach::Present, move |connection| present(&place, connection));
    closing.within(Duration::ZERO)
}

/// Reads one piece of a walk; where to go on, if there is more.
fn piece(
    connection: &Connection,
    walk: &Walk,
    from: (Value, Value),
) -> Result<Option<(Value, Value)>, ReadError> {
    let Walk { columns, rows, begin } = walk;
    let mut statement = connection.prepare_cached(&format!("SELECT {columns} FROM {rows} LIMIT ?3"))?;
    let first = match (from.0, begin) {
        (Value::Null, Begin::Number) => Value::Integer(i64::MIN),
        (Value::Null, Begin::Text) => Value::Text(String::new()),
        (value, _) => value,
    };
    let second = if from.1 == Value::Null { Value::Integer(i64::MIN) } else { from.1 };
    let width = statement.column_count();
    let mut rows = statement.query(params![first, second, PIECE_ROWS])?;
    let (mut read, mut bytes, mut last) = (0, 0, None);
    while let Some(row) = rows.next()? {
        read += 1;
        if width > 2 {
            bytes += history::bytes(row, 2)?.len();
        }
        if read == PIECE_ROWS || bytes >= PIECE_BYTES {
            last = Some((row.get(0)?, row.get(1)?));
            break;
        }
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_on_some_way() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let place = Place::prepare(dir.path(), false).expect("a local folder");
        let reader = place.reader().expect("it is there");
        for walk in PAST {
            let read = piece(&reader, walk, (Value::Null, Value::Null));
            assert!(matches!(read, Ok(None)), "{}: {read:?}", walk.rows);
        }
        let mut names = reader
            .prepare("SELECT name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'")
            .expect("a schema");
        let names = names.query_map([], |row| row.get::<_, String>(0)).expect("a schema");
        for name in names.map(|name| name.expect("a text")) {
            let hot = HOT.iter().any(|(sql, _)| sql.contains(&format!("FROM {name}")));
            let past = PAST.iter().any(|walk| {
                walk.rows.starts_with(&format!("{name} WHERE"))
                    || walk.rows.contains(&format!("INDEXED BY {name} "))
            });
            let rare = "revisions_deleted";
            assert!(hot || past || ["term", "applied", rare].contains(&&*name), "nobody reads `{name}`");
        }
    }
}
