//! The files that are fetched for a container: into a folder of this machine, which the container sees.
//!
//! As under Mesos it is a mount of its own in the container and no matter of the image, and a variable says where. Only
//! a job that has something fetched has one: a server that is itself in a container need not share its data folder with
//! Docker for the others.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use scheduler::ids::TaskId;

use super::Shared;
use super::output::Taking;
use crate::TaskSpec;
use crate::local::launch;
use crate::task_folders::bytes_below;

/// Where the container sees it.
pub(super) const PATH: &str = "/mnt/mesos/sandbox";
/// The variable that says so.
pub(super) const VARIABLE: &str = "MESOS_SANDBOX";
/// Its name in the folder of the task.
const NAME: &str = "sandbox";

/// The program that fetches, and its arguments: one that calls [`launch::run`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetcher {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
}

/// Fetches what the task wants; the folder, if it wants anything. What is told of that is in the task's output. To be
/// dropped when the task is killed: what fetches ends with it.
pub(super) async fn fill(shared: &Shared, task: &TaskId, spec: &TaskSpec) -> Result<Option<PathBuf>, String> {
    if spec.fetches.is_empty() {
        return Ok(None);
    }
    let Some(Fetcher { program, args }) = &shared.options.fetcher else {
        return Err("nothing can be fetched here: the engine was not told how".into());
    };
    let id = task.clone();
    let folder = shared.on_disk(move |folder| renew(&folder.task(&id))).await?;
    let _permit = shared.fetches.acquire().await;
    let (told, outcome) = launch::fetch_into(&folder, program, args, &spec.fetches).await;
    let (id, output_max) = (task.clone(), spec.output_max);
    shared.on_disk(move |folder| Taking::say(&folder.task(&id), output_max, &told)).await?;
    outcome.map(|()| Some(folder))
}

/// An empty one. Whoever may still be filling an older one keeps that.
fn renew(task: &Path) -> io::Result<PathBuf> {
    let (folder, old) = (task.join(NAME), task.join("sandbox.old"));
    if folder.exists() {
        remove_all(&old)?;
        fs::rename(&folder, &old)?;
        let _ = fs::remove_dir_all(&old);
    }
    fs::create_dir_all(&folder)?;
    fs::canonicalize(folder)
}

/// What it takes on the disk.
pub(super) fn bytes(task: &Path) -> u64 {
    bytes_below(task.join(NAME))
}

/// Removes it, of a task that has ended.
pub(super) fn remove(task: &Path) -> io::Result<()> {
    remove_all(&task.join(NAME))
}

fn remove_all(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Files of the old convention, in which a job brings the logins of its registry along.
pub(super) fn logins(folder: &Path) -> [PathBuf; 2] {
    [folder.join(".docker/config.json"), folder.join(".dockercfg")]
}
