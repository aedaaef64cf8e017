//! A look at a folder that changes nothing: for `doctor`, whether a server runs there or not.

use std::path::Path;

use rustix::fs::{Access, access};
use scheduler::ids::Seq;

use super::open::{FILE, Place, VERSION};
use super::{disk, history, lock};
use crate::{Candidate, Disk, StoreError};

/// What is found in a folder.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// Who leads there now.
    pub holder: Option<Candidate>,
    /// The version of the schema.
    pub version: u32,
    /// The newest version that this binary knows; with an older one the next leader converts it.
    pub newest: u32,
    /// What SQLite finds wrong with the file; empty when it is whole.
    pub faults: Vec<String>,
    /// The last applied batch.
    pub seq: Seq,
    /// Jobs in it.
    pub jobs: u64,
    /// Whether this user may write there.
    pub writable: bool,
    /// How much it occupies.
    pub disk: Option<Disk>,
}

/// Looks at the store in a folder.
/// # Errors
/// [`StoreError::Unavailable`] when there is none or it cannot be read; [`StoreError::Newer`], [`StoreError::Damaged`].
pub fn inspect(dir: &Path) -> Result<Inspection, StoreError> {
    let path = dir.join(FILE);
    if !path.exists() {
        return Err(StoreError::Unavailable(format!("there is no store in `{}`", dir.display())));
    }
    let place = Place::existing(dir)?;
    let connection = place.reader()?;
    let meaning = |error: rusqlite::Error| place.meaning(&error);
    let faults = || {
        let mut check = connection.prepare("PRAGMA integrity_check(20)")?;
        let lines = check.query_map([], |row| row.get::<_, String>(0))?;
        lines.filter(|line| !matches!(line, Ok(line) if line == "ok")).collect::<rusqlite::Result<Vec<_>>>()
    };
    let number =
        |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map(i64::cast_unsigned);
    Ok(Inspection {
        holder: lock::holder(dir),
        version: connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(meaning)?,
        newest: VERSION,
        faults: faults().map_err(meaning)?,
        seq: history::term(&connection).map_err(meaning)?.seq,
        jobs: number("SELECT count(*) FROM jobs").map_err(meaning)?,
        writable: access(dir, Access::WRITE_OK).is_ok() && access(&path, Access::WRITE_OK).is_ok(),
        disk: disk::of(dir),
    })
}
