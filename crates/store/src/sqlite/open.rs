//! Opening the file: making it, refusing what is not ours or newer, and what its errors mean.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior, params};
use scheduler::state::{Change, Meta};

use super::history::ReadError;
use super::mounts::network_kind;
use crate::StoreError;
use crate::facts::first_uid;

/// Name of the database.
pub(super) const FILE: &str = "chronos.db";

/// "Chrn": tells our files from other programs' (`application_id` in SQLite's header).
const APPLICATION: u32 = 0x4368_726e;

/// What makes version n of n - 1.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001-begin.sql"),
    include_str!("migrations/0002-comfort.sql"),
    include_str!("migrations/0003-receipts.sql"),
    include_str!("migrations/0004-audit.sql"),
];

/// The version that this binary writes.
pub(super) const VERSION: u32 = MIGRATIONS.len() as u32;

/// Another process may be making a checkpoint, or looking at the file with SQLite's shell.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// A log this long, 256 MiB, is copied into the database by whoever commits. Only a bound: `checkpoints.rs` copies long
/// before.
const CHECKPOINT_PAGES: u32 = 65_536;
/// Of a file of the log that begins anew, so much is kept, to be written over.
const LOG_KEPT: u32 = 32 * 1024 * 1024;
/// What the writer keeps of the database in memory, KiB. Commits touch the end of a few tables and the rows of jobs that
/// are due; the kernel has the rest. SQLite fills a larger one with pages that nobody asks for again, as long as the file grows.
const WRITER_CACHE_KIB: i64 = 16 * 1024;

/// Where the file is, and which file it was when it was opened.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) dir: PathBuf,
    pub(super) path: PathBuf,
    device: u64,
    inode: u64,
}

impl Place {
    /// Finds the database in `dir`, or makes an empty one. A file that is not ours, newer or broken is not touched.
    pub(super) fn prepare(dir: &Path, force_network_fs: bool) -> Result<Self, StoreError> {
        let path = dir.join(FILE);
        std::fs::create_dir_all(dir).map_err(|error| {
            let dir = dir.display();
            StoreError::Unavailable(format!(
                "cannot make the folder `{dir}`: {error}; make its parent writable"
            ))
        })?;
        if let Some(kind) = network_kind(dir)
            && !force_network_fs
        {
            return Err(StoreError::Unavailable(format!(
                "`{}` is on a network file system ({kind}), where SQLite's locks are not safe: use a folder on a local \
                 disk, or PostgreSQL or ZooKeeper for several machines",
                dir.display()
            )));
        }
        if !path.try_exists().map_err(|error| cannot_open(&path, &error))? {
            create(dir, &path)?;
        }
        Self::existing(dir)
    }

    /// The database in `dir`, which is there.
    pub(super) fn existing(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(FILE);
        check_header(&path)?;
        let found = path.metadata().map_err(|error| cannot_open(&path, &error))?;
        let place = Self { dir: dir.into(), device: found.dev(), inode: found.ino(), path };
        let reader = place.reader()?;
        place.check(&reader)?;
        Ok(place)
    }

    /// Whether the file at our path is still the one that we have open.
    pub(super) fn is_same_file(&self) -> bool {
        self.path.metadata().is_ok_and(|found| found.dev() == self.device && found.ino() == self.inode)
    }

    /// A connection that cannot write.
    pub(super) fn reader(&self) -> Result<Connection, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let setup = || {
            let connection = Connection::open_with_flags(&self.path, flags)?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            connection.pragma_update(None, "cache_size", -2048)?;
            Ok(connection)
        };
        setup().map_err(|error| self.meaning(&error))
    }

    /// The connection that writes.
    pub(super) fn writer(&self) -> Result<Connection, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let setup = || {
            let connection = Connection::open_with_flags(&self.path, flags)?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            connection.pragma_update(None, "journal_mode", "wal")?;
            // Every commit waits for the disk: an acknowledged batch survives the loss of power.
            connection.pragma_update(None, "synchronous", "full")?;
            connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
            connection.pragma_update(None, "journal_size_limit", LOG_KEPT)?;
            // Given back when there is nothing to do.
            connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
            connection.set_prepared_statement_cache_capacity(64);
            Ok(connection)
        };
        let connection = setup().map_err(|error| self.meaning(&error))?;
        if connection.is_readonly("main").map_err(|error| self.meaning(&error))? {
            return Err(self.not_writable("it, or its folder, is read-only"));
        }
        Ok(connection)
    }

    /// The connection that copies the log into the database, see `checkpoints.rs`.
    pub(super) fn copier(&self) -> Result<Connection, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let setup = || {
            let connection = Connection::open_with_flags(&self.path, flags)?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            // The copy is safe on the disk before the log may be written over.
            connection.pragma_update(None, "synchronous", "full")?;
            connection.pragma_update(None, "cache_size", -256)?;
            Ok(connection)
        };
        setup().map_err(|error| self.meaning(&error))
    }

    /// Refuses a newer version; says whether this one is older and waits for a leader to migrate it.
    pub(super) fn check(&self, connection: &Connection) -> Result<Schema, StoreError> {
        let read = || {
            let found: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
            if found == VERSION {
                connection.query_row("SELECT seq FROM term", [], |row| row.get::<_, i64>(0))?;
            }
            Ok(found)
        };
        match read().map_err(|error| self.meaning(&error))? {
            found if found > VERSION => Err(StoreError::Newer { found, ours: VERSION }),
            found if found < VERSION => Ok(Schema::Older),
            _ => Ok(Schema::Ours),
        }
    }

    /// What an error of SQLite means to the caller, and what to do about it.
    pub(super) fn meaning(&self, error: &rusqlite::Error) -> StoreError {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => self.damaged(&error.to_string()),
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
                self.not_writable(&error.to_string())
            }
            // A table that is not there: the schema says it should be.
            Some(ErrorCode::Unknown) => self.damaged(&error.to_string()),
            _ => StoreError::Unavailable(format!("`{}`: {error}", self.path.display())),
        }
    }

    /// What it means that a question could not be answered.
    pub(super) fn meaning_of_reading(&self, error: ReadError) -> StoreError {
        match error {
            ReadError::Sqlite(error) => self.meaning(&error),
            ReadError::Format(error) => self.damaged(&error.to_string()),
            ReadError::Store(StoreError::Damaged(why)) => self.damaged(&why),
            ReadError::Store(error) => error,
        }
    }

    /// The file cannot be read.
    pub(super) fn damaged(&self, why: &str) -> StoreError {
        damaged(&self.path, why)
    }

    fn not_writable(&self, why: &str) -> StoreError {
        StoreError::Unavailable(format!(
            "cannot write `{}`: {why}; make the folder `{}` and the files in it writable for this user",
            self.path.display(),
            self.dir.display()
        ))
    }
}

/// Whether the schema is that of this binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Schema {
    Ours,
    /// The next leader migrates it.
    Older,
}

/// Makes the schema that of this binary. Only the leader may: others would pull it from under an older leader.
pub(super) fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    apply_migrations(&transaction)?;
    transaction.commit()
}

fn apply_migrations(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let found: u32 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    for migration in MIGRATIONS.iter().skip(found as usize) {
        transaction.execute_batch(migration)?;
    }
    if found < VERSION {
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    Ok(())
}

/// Makes a new store under another name and moves it in place when it is whole, so that an empty file is never ours.
fn create(dir: &Path, path: &Path) -> Result<(), StoreError> {
    let log = path.with_extension("db-wal");
    if log.metadata().is_ok_and(|log| log.len() > 0) {
        return Err(damaged(path, "it is gone, but its write-ahead log `chronos.db-wal` is still there"));
    }
    let mut random = [0; 20];
    getrandom::fill(&mut random).map_err(|error| cannot_open(path, &io::Error::other(error)))?;
    let id: String = random[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    let salt = u32::from_le_bytes([random[16], random[17], random[18], random[19]]);
    let draft = dir.join(format!("chronos.db.new-{id}"));
    let made = fill(&draft, &id, salt).map_err(io::Error::other).and_then(|()| {
        File::open(&draft)?.sync_all()?;
        // A link fails where the name is taken: two nodes that start at once agree on one store.
        match std::fs::hard_link(&draft, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            // Some file systems have no links. Then the race remains, which needs two first starts in one moment.
            Err(_) if !path.exists() => std::fs::rename(&draft, path),
            done => done,
        }?;
        File::open(dir)?.sync_all()
    });
    let _ = std::fs::remove_file(&draft);
    made.map_err(|error| cannot_open(path, &error))
}

/// Makes an empty database.
pub(super) fn fill(draft: &Path, id: &str, salt: u32) -> rusqlite::Result<()> {
    let mut connection = Connection::open(draft)?;
    connection.pragma_update(None, "application_id", APPLICATION)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    apply_migrations(&transaction)?;
    let mut line = Vec::new();
    let meta = Meta { next_uid: first_uid(salt), ..Meta::default() };
    let value = crate::format::write_change(&mut line, &Change::Meta(meta));
    let counters = String::from_utf8_lossy(&line[value]);
    transaction.execute("INSERT INTO meta VALUES ('store', ?1), ('counters', ?2)", params![id, counters])?;
    transaction.commit()?;
    connection.close().map_err(|(_, error)| error)
}

/// Reads the header as bytes, before SQLite sees the file: what is refused here was not even opened.
/// Source: <https://sqlite.org/fileformat2.html#the_database_header>
fn check_header(path: &Path) -> Result<(), StoreError> {
    let mut header = [0; 100];
    let mut file = File::open(path).map_err(|error| cannot_open(path, &error))?;
    file.read_exact(&mut header).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => damaged(path, "it is cut off within its first 100 bytes"),
        _ => cannot_open(path, &error),
    })?;
    let number = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if !header.starts_with(b"SQLite format 3\0") {
        return Err(damaged(path, "it is not a SQLite database"));
    }
    if number(68) != APPLICATION {
        return Err(StoreError::Damaged(format!(
            "`{}` is a SQLite database of another program (application id {:#x}); move it away, or choose another \
             data folder",
            path.display(),
            number(68)
        )));
    }
    if number(60) > VERSION {
        return Err(StoreError::Newer { found: number(60), ours: VERSION });
    }
    Ok(())
}

fn damaged(path: &Path, why: &str) -> StoreError {
    StoreError::Damaged(format!(
        "`{}`: {why}; stop the server, keep a copy of the folder, and restore a backup into an empty one, or try \
         `sqlite3 {} .recover` on the copy",
        path.display(),
        path.display()
    ))
}

fn cannot_open(path: &Path, error: &io::Error) -> StoreError {
    let dir = path.parent().unwrap_or(path).display();
    StoreError::Unavailable(format!(
        "cannot open `{}`: {error}; make the folder `{dir}` and the files in it readable and writable for this user",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No kill of a process can show this; only the loss of power would.
    #[test]
    fn every_commit_waits_for_the_disk() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let writer =
            Place::prepare(dir.path(), false).and_then(|place| place.writer()).expect("a local folder");
        let synchronous: u8 =
            writer.pragma_query_value(None, "synchronous", |row| row.get(0)).expect("a setting");
        let journal: String =
            writer.pragma_query_value(None, "journal_mode", |row| row.get(0)).expect("a setting");
        assert_eq!((synchronous, journal.as_str()), (2, "wal"));
    }
}
