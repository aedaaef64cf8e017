//! What is kept of ended tasks: the container for a day, the output as long as that of any task.
//!
//! None is remembered, see [`Census`]: a first look counts, a second one finds what goes, no faster than it is removed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::RemoveContainerOptions;
use scheduler::ids::TaskId;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::folder::Fact;
use super::{Shared, output, sandbox};
use crate::census::{Census, Cut};
use crate::{EngineError, Forgotten, Keep};

/// Most containers that one call tries to remove, and most tasks that it forgets; the next goes on.
const TASKS_MAX: u64 = 1000;
/// Found and not yet removed: enough that nobody waits for the disk twice.
const FOUND_MAX: usize = 64;

/// A task of which something goes.
struct Old {
    task: TaskId,
    bytes: u64,
    container: bool,
    output: bool,
}

/// Removes containers that are old enough, and what goes beyond `keep`, the oldest first.
pub(super) async fn forget_old(shared: &Arc<Shared>, keep: Keep) -> Result<Forgotten, EngineError> {
    forget_up_to(TASKS_MAX, shared, keep).await
}

pub(super) async fn forget_up_to(
    most: u64,
    shared: &Arc<Shared>,
    keep: Keep,
) -> Result<Forgotten, EngineError> {
    let this = shared.clone();
    let census = spawn_blocking(move || count(&this, keep)).await;
    let cut = census.map_err(|error| EngineError::Unknown(error.to_string()))?.cut();
    // Nothing is known of containers while Docker is away.
    let docker = shared.docker().ok();
    let (found, mut finds) = mpsc::channel(FOUND_MAX);
    let (this, with_containers) = (shared.clone(), docker.is_some());
    spawn_blocking(move || find(&this, cut, with_containers, &found));
    let mut forgotten = Forgotten::default();
    let (mut tried, mut removed, mut unremoved) = (0, 0, None);
    while let Some(old) = finds.recv().await {
        if let Some(docker) = docker.as_ref().filter(|_| old.container) {
            // One that cannot be removed keeps no other: why it stays, of the first.
            if tried >= most {
                forgotten.more |= removed > 0;
            } else {
                tried += 1;
                match remove_containers_of(shared, docker, &old.task).await {
                    Ok(()) => removed += 1,
                    Err(reason) => {
                        let task = &old.task;
                        let told = || format!("the container of the ended task {task} stays: {reason}");
                        unremoved.get_or_insert_with(told);
                    }
                }
            }
        }
        if !old.output {
            continue;
        }
        if forgotten.tasks >= most {
            forgotten.more = true;
            break;
        }
        match forget(shared, &old).await {
            Ok(true) => {
                forgotten.tasks += 1;
                forgotten.bytes += old.bytes;
            }
            Ok(false) => {}
            // A container may leave files that are not ours to remove.
            Err(reason) => {
                let told = || format!("the files of the ended task {} stay: {reason}", old.task);
                unremoved.get_or_insert_with(told);
            }
        }
    }
    shared.state().unremoved = unremoved;
    Ok(forgotten)
}

/// Removes the output of a task, and all that is known of it once its container is gone. Whether there was anything.
async fn forget(shared: &Shared, old: &Old) -> Result<bool, String> {
    let (id, bytes) = (old.task.clone(), old.bytes);
    let removed = shared.on_disk(move |folder| {
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
    removed.await
}

fn count(shared: &Shared, keep: Keep) -> Census {
    let mut census = Census::new(keep);
    for (task, age) in ended(shared) {
        census.count(age, bytes_of(&shared.folder.task(&task)));
    }
    census
}

/// Finds what goes, until nobody wants to know more.
fn find(shared: &Shared, mut cut: Option<Cut>, with_containers: bool, found: &mpsc::Sender<Old>) {
    for (task, age) in ended(shared) {
        let aged = with_containers && age > shared.options.container_age_max;
        let container = aged && !shared.folder.is(&task, Fact::Removed);
        let mut old = Old { task, bytes: 0, container, output: false };
        if let Some(cut) = cut.as_mut().filter(|cut| cut.takes(age)) {
            old.bytes = bytes_of(&shared.folder.task(&old.task));
            old.output = true;
            cut.take(age, old.bytes);
        }
        if (old.container || old.output) && found.blocking_send(old).is_err() {
            return;
        }
    }
}

/// The tasks that have ended and whose end is acknowledged, and how long ago they ended.
fn ended(shared: &Shared) -> impl Iterator<Item = (TaskId, Duration)> {
    let settled = shared
        .folder
        .tasks()
        .filter(|task| !shared.folder.is_open(task) && !shared.state().live.contains_key(task));
    settled.filter_map(|task| {
        let age = shared.folder.ended_for(&task)?;
        Some((task, age))
    })
}

fn bytes_of(folder: &Path) -> u64 {
    let outputs = ["stdout", "stderr"].into_iter().filter_map(|name| fs::metadata(folder.join(name)).ok());
    outputs.map(|metadata| metadata.blocks() * 512).sum::<u64>() + sandbox::bytes(folder)
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
