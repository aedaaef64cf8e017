//! Where things are in the folder of the local engine.
//!
//! ```text
//! lock             held by the living supervisor (flock)
//! id               what marks the processes of this folder
//! socket           where it listens
//! journal          what must not be forgotten; see `journal.rs`
//! supervisor.log   what it has to say
//! tasks/<xx>/<id>/ one task: work/ (its working directory), stdout, stderr, end
//! trash/           what is being removed
//! ```

use std::path::{Path, PathBuf};

use scheduler::ids::TaskId;

pub(super) const LOCK: &str = "lock";
pub(super) const ID: &str = "id";
pub(super) const SOCKET: &str = "socket";
pub(super) const JOURNAL: &str = "journal";
pub(super) const LOG: &str = "supervisor.log";
pub(super) const TASKS: &str = "tasks";
pub(super) const TRASH: &str = "trash";

/// Number of folders under `tasks`: at a million tasks kept, each holds four thousand.
pub(super) const FAN: u32 = 256;

/// The folder of a task below `root`.
pub(super) fn task_folder(root: &Path, task: &TaskId) -> PathBuf {
    fan_folder(root, fan_of(task)).join(task.as_str())
}

/// One of the [`FAN`] folders.
pub(super) fn fan_folder(root: &Path, fan: u32) -> PathBuf {
    root.join(TASKS).join(format!("{fan:02x}"))
}

/// FNV-1a, which is the same for ever; the hash of the standard library need not be.
fn fan_of(task: &TaskId) -> u32 {
    let hash = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    let hash = task.as_str().bytes().fold(0x811c_9dc5, hash);
    (hash ^ (hash >> 16)) % FAN
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder must be found by all later versions.
    #[test]
    fn folders_stay_where_they_are() {
        let task = TaskId::parse("report-1-c0-0").expect("valid");
        assert_eq!(task_folder(Path::new("d"), &task), Path::new("d/tasks/7b/report-1-c0-0"));
    }
}
