//! How much room the store takes, and how much is left.

use std::path::Path;

use super::open::FILE;
use crate::Disk;

/// `None` when the folder is gone.
pub(super) fn of(dir: &Path) -> Option<Disk> {
    let size = |name: &str| dir.join(name).metadata().map_or(0, |file| file.len());
    let used = size(FILE) + size(&format!("{FILE}-wal"));
    let room = rustix::fs::statvfs(dir).ok()?;
    Some(Disk { used, free: room.f_bavail.saturating_mul(room.f_frsize) })
}
