//! The right to lead: a lock on a file beside the database, held by an open file and gone with it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::{Candidate, format};

/// Name of the file.
pub(super) const FILE: &str = "leader.lock";

/// Held while this node leads; dropping it lets another lead. The standard library opens files such that children
/// do not inherit them, so a task that outlives the server does not keep the lock.
#[derive(Debug)]
pub(super) struct LeaderLock {
    file: File,
    path: PathBuf,
}

impl LeaderLock {
    /// Takes the lock if it is free and writes down who did; `None` when another has it.
    pub(super) fn try_take(dir: &Path, candidate: &Candidate) -> io::Result<Option<Self>> {
        let path = dir.join(FILE);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let mut lock = Self { file, path };
        // Between opening and locking, another may have put a new file in its place.
        if !lock.holds() {
            return Ok(None);
        }
        lock.write(candidate)?;
        Ok(Some(lock))
    }

    /// Whether the file that we hold is still the one that others would try to lock.
    pub(super) fn holds(&self) -> bool {
        match (self.file.metadata(), self.path.metadata()) {
            (Ok(ours), Ok(theirs)) => ours.dev() == theirs.dev() && ours.ino() == theirs.ino(),
            _ => false,
        }
    }

    /// Lets go in good order: nobody is named any more.
    pub(super) fn release(self) {
        if self.holds() {
            // Whoever looks tries the lock first, so a name that stays behind misleads nobody.
            let _ = self.file.set_len(0);
        }
    }

    fn write(&mut self, candidate: &Candidate) -> io::Result<()> {
        let line = format::write_candidate(candidate) + "\n";
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(line.as_bytes())
    }
}

/// Who holds the lock; `None` when it is free.
///
/// To know whether it is held, it is tried for a moment (shared, so that lookers do not mislead each other). A
/// candidate that tries in that very moment tries again a little later.
pub(super) fn holder(dir: &Path) -> Option<Candidate> {
    let mut file = File::open(dir.join(FILE)).ok()?;
    let mut line = String::new();
    Read::by_ref(&mut file).take(64 * 1024).read_to_string(&mut line).ok()?;
    let candidate = format::read_candidate(&line)?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => Some(candidate),
        _ => None,
    }
}
