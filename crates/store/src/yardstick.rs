//! What the disk of a folder can do with nothing of ours in between: the yardsticks that our own figures are held
//! against, in the same run, because a figure alone says more about the machine than about the program.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};

/// One page of SQLite, and of most file systems.
const PIECE: [u8; 4096] = [0x5a; 4096];

/// How often a second the disk of `dir` keeps 4 KiB more of a file safe, one after the other, asked for `time`.
/// # Errors
/// The folder cannot be written.
pub fn fdatasync_rate(dir: &Path, time: Duration) -> io::Result<f64> {
    let scratch = Scratch::new(dir, "yardstick.bytes");
    let mut file = File::create(&scratch.0)?;
    rate(time, || {
        file.write_all(&PIECE)?;
        file.sync_data()
    })
}

/// How many commits a second SQLite makes durable in `dir`, of one row each, one after the other, with the settings
/// of our own store (write-ahead log, `synchronous = full`).
/// # Errors
/// The folder cannot be written.
pub fn sqlite_commit_rate(dir: &Path, time: Duration) -> io::Result<f64> {
    let scratch = Scratch::new(dir, "yardstick.db");
    let connection = Connection::open(&scratch.0).map_err(io::Error::other)?;
    let setup = || {
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "full")?;
        connection.execute_batch("CREATE TABLE rows (id INTEGER PRIMARY KEY, value TEXT NOT NULL)")
    };
    setup().map_err(io::Error::other)?;
    let text = "x".repeat(200);
    let mut insert = connection.prepare("INSERT INTO rows (value) VALUES (?1)").map_err(io::Error::other)?;
    rate(time, || insert.execute(params![text]).map(drop).map_err(io::Error::other))
}

/// How often a second it can be done, one after the other.
fn rate(time: Duration, mut work: impl FnMut() -> io::Result<()>) -> io::Result<f64> {
    let begun = Instant::now();
    let mut count = 0_u32;
    while begun.elapsed() < time {
        work()?;
        count += 1;
    }
    Ok(f64::from(count) / begun.elapsed().as_secs_f64())
}

/// A file that goes with its value, and what SQLite puts beside it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(dir: &Path, name: &str) -> Self {
        Self(dir.join(format!("{name}-{}", std::process::id())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for suffix in ["", "-wal", "-shm"] {
            let mut path = self.0.clone().into_os_string();
            path.push(suffix);
            // Not there is as good as removed, and nobody could do anything about the rest.
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_leaves_nothing_behind() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let time = Duration::from_millis(20);
        assert!(fdatasync_rate(dir.path(), time).expect("a writable folder") > 0.0);
        assert!(sqlite_commit_rate(dir.path(), time).expect("a writable folder") > 0.0);
        assert_eq!(dir.path().read_dir().expect("a folder").count(), 0);
    }
}
