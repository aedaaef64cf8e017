//! What is kept of ended tasks: the container for a day, the output as long as that of any task.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::RemoveContainerOptions;
use scheduler::ids::TaskId;

use super::folder::Fact;
use super::{Shared, output, sandbox};
use crate::{EngineError, Forgotten, Keep};

/// Most tasks treated by one call; the next goes on.
const TASKS_MAX: u64 = 1000;

struct Kept {
    task: TaskId,
    age: Duration,
    bytes: u64,
}

/// Removes containers that are old enough, then what goes beyond `keep`, the oldest first.
pub(super) async fn forget_old(shared: &Arc<Shared>, keep: Keep) -> Result<Forgotten, EngineError> {
    let this = shared.clone();
    let kept = tokio::task::spawn_blocking(move || ended(&this)).await;
    let mut kept = kept.map_err(|error| EngineError::Unknown(error.to_string()))?;
    kept.sort_by_key(|kept| std::cmp::Reverse(kept.age));
    let unremoved = remove_containers(shared, &kept).await;
    shared.state().unremoved = unremoved;
    let mut total: u64 = kept.iter().map(|kept| kept.bytes).sum();
    let mut forgotten = Forgotten::default();
    for Kept { task, age, bytes } in kept {
        let beyond = age > keep.age_max || total > keep.bytes_max;
        if age < keep.age_min || !beyond || forgotten.tasks >= TASKS_MAX {
            break;
        }
        let id = task.clone();
        let done = shared.on_disk(move |folder| {
            if folder.is(&id, Fact::Removed) {
                return folder.forget(&id).map(|()| true);
            }
            // As long as its container is there, it stays known how it ended.
            if bytes > 0 {
                output::remove(&folder.task(&id));
                sandbox::remove(&folder.task(&id))?;
            }
            Ok(bytes > 0)
        });
        match done.await {
            Ok(true) => {
                total -= bytes;
                forgotten.tasks += 1;
                forgotten.bytes += bytes;
            }
            Ok(false) => {}
            // A container may leave files that are not ours to remove.
            Err(reason) => {
                let reason = format!("the files of the ended task {task} stay: {reason}");
                shared.state().unremoved.get_or_insert(reason);
            }
        }
    }
    Ok(forgotten)
}

/// The tasks that have ended and whose end is acknowledged.
fn ended(shared: &Shared) -> Vec<Kept> {
    let tasks = shared.folder.tasks();
    let settled =
        tasks.filter(|task| !shared.folder.is_open(task) && !shared.state().live.contains_key(task));
    let kept = settled.filter_map(|task| {
        let age = shared.folder.ended_for(&task)?;
        let bytes = bytes_of(&shared.folder.task(&task));
        Some(Kept { task, age, bytes })
    });
    kept.collect()
}

fn bytes_of(folder: &Path) -> u64 {
    let outputs = ["stdout", "stderr"].into_iter().filter_map(|name| fs::metadata(folder.join(name)).ok());
    outputs.map(|metadata| metadata.blocks() * 512).sum::<u64>() + sandbox::bytes(folder)
}

/// Removes the containers that are old enough. One that cannot be removed keeps no other: why it stays, of the first.
async fn remove_containers(shared: &Arc<Shared>, kept: &[Kept]) -> Option<String> {
    let Ok(docker) = shared.docker() else { return None };
    let mut unremoved = None;
    let old = kept.iter().filter(|kept| kept.age > shared.options.container_age_max);
    let old = old.filter(|kept| !shared.folder.is(&kept.task, Fact::Removed));
    for Kept { task, .. } in old.take(TASKS_MAX as usize) {
        if let Err(reason) = remove_containers_of(shared, &docker, task).await {
            unremoved
                .get_or_insert_with(|| format!("the container of the ended task {task} stays: {reason}"));
        }
    }
    unremoved
}

async fn remove_containers_of(shared: &Shared, docker: &Docker, task: &TaskId) -> Result<(), String> {
    let options = RemoveContainerOptions { v: true, force: false, link: false };
    for container in shared.folder.begun(task) {
        match docker.remove_container(&container, Some(options.clone())).await {
            Ok(()) | Err(Error::DockerResponseServerError { status_code: 404, .. }) => {}
            Err(error) => return Err(shared.trouble(&error)),
        }
    }
    let task = task.clone();
    shared.on_disk(move |folder| folder.note(&task, Fact::Removed)).await
}
