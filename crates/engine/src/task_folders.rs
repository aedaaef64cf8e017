//! Where the folders of tasks are, in the data folder of an engine: `tasks/<xx>/<task id>`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use scheduler::ids::TaskId;

pub(crate) const TASKS: &str = "tasks";

/// Number of folders under `tasks`: at a million tasks kept, each holds four thousand.
pub(crate) const FAN: u32 = 256;

/// Most files of one task that are counted: a folder with more is large enough by those.
const FILES_MAX: usize = 100_000;

/// The folder of a task below `root`.
pub(crate) fn task_folder(root: &Path, task: &TaskId) -> PathBuf {
    fan_folder(root, fan_of(task)).join(task.as_str())
}

/// One of the [`FAN`] folders.
pub(crate) fn fan_folder(root: &Path, fan: u32) -> PathBuf {
    root.join(TASKS).join(format!("{fan:02x}"))
}

/// FNV-1a, which is the same for ever; the hash of the standard library need not be.
fn fan_of(task: &TaskId) -> u32 {
    let hash = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    let hash = task.as_str().bytes().fold(0x811c_9dc5, hash);
    (hash ^ (hash >> 16)) % FAN
}

/// What the folder takes on the disk, itself included. Links are not followed: they are the task's own.
pub(crate) fn bytes_below(folder: PathBuf) -> u64 {
    let own = fs::symlink_metadata(&folder).map_or(0, |metadata| metadata.blocks() * 512);
    let (mut bytes, mut files, mut folders) = (own, 0, vec![folder]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            files += 1;
            if files > FILES_MAX {
                return bytes;
            }
            let Ok(metadata) = entry.metadata() else { continue };
            bytes += metadata.blocks() * 512;
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    bytes
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
