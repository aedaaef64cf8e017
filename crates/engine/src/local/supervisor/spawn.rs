//! Starts the processes of tasks.
//!
//! `std` spawns by `posix_spawn` as long as nothing is to be run between fork and exec. That is why tasks have no
//! parent-death signal: if the supervisor dies, the next one ends them, by their mark and by their recorded pids.
//! No process can slip through in between: until a child has become its program it holds the lock of the folder, too.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use scheduler::ids::TaskId;

use super::journal::SpawnRecord;
use super::processes::MARK;
use crate::local::formats::Spec;
use crate::local::layout::task_folder;
use crate::since_boot;

/// One process to start.
pub(super) struct SpawnOrder {
    pub(super) task: TaskId,
    pub(super) spec: Spec,
    pub(super) not_after: Duration,
}

/// A process that was started.
pub(super) struct Spawned {
    pub(super) record: SpawnRecord,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// Why none was.
pub(super) enum NotSpawned {
    /// Its time had passed; nothing was made.
    TooLate,
    /// It cannot be started, which is its end.
    Failed(String),
    /// Its folder was there: it may have run before.
    Known,
}

/// What all tasks of a supervisor share.
pub(super) struct Spawner {
    pub(super) root: PathBuf,
    /// The mark's first half.
    pub(super) folder: String,
    /// Our environment without our configuration, which may hold secrets.
    pub(super) inherited: Vec<(OsString, OsString)>,
    /// The limit of descriptors as we found it; we raise our own.
    pub(super) descriptors: Rlimit,
}

impl Spawner {
    /// The environment for tasks: ours without `CHRONOS_*`.
    pub(super) fn inherited() -> Vec<(OsString, OsString)> {
        std::env::vars_os().filter(|(name, _)| !name.as_encoded_bytes().starts_with(b"CHRONOS_")).collect()
    }

    /// Makes the task's folder, exclusively, and starts its process.
    pub(super) fn spawn(&self, order: &SpawnOrder) -> Result<Spawned, NotSpawned> {
        if since_boot() > order.not_after {
            return Err(NotSpawned::TooLate);
        }
        let folder = task_folder(&self.root, &order.task);
        match make(&folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(NotSpawned::Known),
            Err(error) => return Err(failed("its folder could not be made", &error)),
            Ok(()) => {}
        }
        let work = folder.join("work");
        fs::create_dir(&work).map_err(|error| failed("its folder could not be made", &error))?;
        let mut command = self.command(order, &work)?;
        let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|error| failed("it got no pipe", &error.into()));
        let ((stdout, stdout_of_task), (stderr, stderr_of_task)) = (pipe()?, pipe()?);
        command.stdin(Stdio::null()).stdout(stdout_of_task).stderr(stderr_of_task);
        let after = since_boot();
        let child = command.spawn().map_err(|error| {
            failed(&format!("`{}` could not be started", command.get_program().to_string_lossy()), &error)
        })?;
        let before = since_boot();
        let pid = child.id().cast_signed();
        if let Some(pid) = Pid::from_raw(pid) {
            let _ = prlimit(Some(pid), Resource::Nofile, self.descriptors);
        }
        let (after_ms, before_ms) = (after.as_millis() as u64, before.as_millis() as u64);
        Ok(Spawned { record: SpawnRecord { pid, after_ms, before_ms }, stdout, stderr })
    }

    fn command(&self, order: &SpawnOrder, work: &Path) -> Result<Command, NotSpawned> {
        let SpawnOrder { task, spec, .. } = order;
        let mut command = if spec.shell {
            let mut command = Command::new("/bin/sh");
            command.arg("-c").arg(&spec.command).arg("sh");
            command
        } else {
            let mut command = Command::new(self.find(spec)?);
            command.arg0(&spec.command);
            command
        };
        command.args(&spec.arguments).current_dir(work).process_group(0).env_clear();
        command.envs(self.inherited.iter().map(|(name, value)| (name, value)));
        command.envs(spec.variables());
        command.env("CHRONOS_TASK_ID", task.as_str()).env(MARK, format!("{}/{task}", self.folder));
        Ok(command)
    }

    /// Finds the program in the `PATH` of the task. Done here, since `std` would give up `posix_spawn` to do so.
    fn find(&self, spec: &Spec) -> Result<PathBuf, NotSpawned> {
        if spec.command.contains('/') {
            return Ok(PathBuf::from(&spec.command));
        }
        let own = spec.variables().find(|(name, _)| *name == "PATH").map(|(_, value)| OsStr::new(value));
        let inherited =
            || self.inherited.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_os_str());
        let path = own.or_else(inherited).unwrap_or(OsStr::new("/usr/local/bin:/usr/bin:/bin"));
        let runs = |file: &PathBuf| {
            fs::metadata(file).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
        };
        std::env::split_paths(path).map(|folder| folder.join(&spec.command)).find(runs).ok_or_else(|| {
            NotSpawned::Failed(format!(
                "there is no program `{}` in {}",
                spec.command,
                path.to_string_lossy()
            ))
        })
    }
}

/// Makes a folder that nobody else may enter: output may hold secrets.
fn make(folder: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    match builder.create(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(parent) = folder.parent() {
                fs::create_dir_all(parent)?;
            }
            builder.create(folder)
        }
        outcome => outcome,
    }
}

fn failed(what: &str, error: &io::Error) -> NotSpawned {
    NotSpawned::Failed(format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The journal's sync may have taken long, so the time is looked at again, last of all.
    #[test]
    fn an_order_that_is_late_by_now_makes_nothing() {
        let root = tempfile::tempdir().expect("a folder");
        let descriptors = Rlimit { current: Some(1024), maximum: None };
        let spawner =
            Spawner { root: root.path().into(), folder: "f".into(), inherited: vec![], descriptors };
        let (command, arguments, environment) = (":".to_owned(), vec![], vec![]);
        let spec = Spec { command, shell: true, arguments, environment, output_max: 0 };
        let task = TaskId::parse("late-0").expect("valid");
        let order = SpawnOrder { task: task.clone(), spec, not_after: Duration::ZERO };
        assert!(matches!(spawner.spawn(&order), Err(NotSpawned::TooLate)));
        assert!(!task_folder(root.path(), &task).exists());
    }
}
