//! Which folders of ended tasks are kept: the young ones, and of the others as many as fit.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use scheduler::ids::TaskId;

use super::layout::{fan_folder, task_folder};
use super::{LocalEngine, listed};
use crate::task_folders::bytes_below;
use crate::{EngineError, Forgotten, Keep};

/// Most tasks forgotten by one call: some seconds of work; the next call goes on.
const FORGET_MAX: usize = 10_000;

/// A task that has a folder.
struct Kept {
    task: TaskId,
    changed: SystemTime,
    bytes: u64,
}

/// Removes what goes beyond `keep`, the oldest first. Who runs or is not acknowledged is left alone by the supervisor.
pub(super) async fn forget_old(engine: &LocalEngine, keep: Keep) -> Result<Forgotten, EngineError> {
    let mut kept = Vec::new();
    for part in 0..LocalEngine::LIST_PARTS {
        let dir = engine.options.dir.clone();
        let read = tokio::task::spawn_blocking(move || folders(&dir, part)).await;
        kept.extend(read.map_err(|error| EngineError::Unknown(error.to_string()))?);
    }
    kept.sort_by_key(|kept| kept.changed);
    let mut total: u64 = kept.iter().map(|kept| kept.bytes).sum();
    let now = SystemTime::now();
    let mut forgotten = Forgotten::default();
    for Kept { task, changed, bytes } in kept {
        let age = now.duration_since(changed).unwrap_or_default();
        let beyond = age > keep.age_max || total > keep.bytes_max;
        if age < keep.age_min || !beyond || forgotten.tasks >= FORGET_MAX as u64 {
            break;
        }
        match engine.forget(&task).await {
            Ok(()) => {
                total -= bytes;
                forgotten.tasks += 1;
                forgotten.bytes += bytes;
            }
            // It runs, or its end is not acknowledged; or it has gone meanwhile.
            Err(EngineError::Refused(_) | EngineError::NoSuchTask(_)) => {}
            Err(problem) => return Err(problem),
        }
    }
    Ok(forgotten)
}

fn folders(dir: &Path, part: u32) -> Vec<Kept> {
    let entries = fs::read_dir(fan_folder(dir, part)).into_iter().flatten().flatten();
    let kept = entries.filter_map(|entry| {
        let listed = listed(&entry)?;
        let bytes = bytes_below(task_folder(dir, &listed.task));
        Some(Kept { task: listed.task, changed: listed.changed, bytes })
    });
    kept.collect()
}
