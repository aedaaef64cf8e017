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
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use scheduler::ids::TaskId;

use super::cgroup::{Cgroups, TaskCgroup};
use super::journal::SpawnRecord;
use super::processes::MARK;

use crate::local::formats::Spec;
use crate::local::launch::{self, Choice, Instructions, LOGIN};
use crate::local::layout::task_folder;
use crate::secrets::{self, is_for_all};
use crate::since_boot;

/// One process to start.
pub(super) struct SpawnOrder {
    pub(super) number: u64,
    pub(super) task: TaskId,
    pub(super) spec: Spec,
    pub(super) not_after: Duration,
}

/// A process that was started.
pub(super) struct Spawned {
    pub(super) record: SpawnRecord,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    pub(super) cgroup: TaskCgroup,
    /// Where its first stage says why it failed, if it has one.
    pub(super) first_stage: Option<UnixStream>,
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
    pub(super) cgroups: Cgroups,
    /// What makes this program the first stage of a task.
    pub(super) launcher_args: Vec<OsString>,
}

/// A process that is ready to be spawned.
struct Prepared {
    command: Command,
    /// What to tell the first stage, and where, if it is one.
    first_stage: Option<(UnixStream, Instructions)>,
    /// What is named when it cannot be started.
    name: OsString,
}

impl Spawner {
    /// The environment for tasks: ours without what sets up the server, and without secrets, which are asked for.
    pub(super) fn inherited() -> Vec<(OsString, OsString)> {
        std::env::vars_os().filter(|(name, _)| is_for_all(name.as_encoded_bytes())).collect()
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
        let cgroup = self.cgroups.make(order.task.as_str(), order.spec.limits);
        let cgroup = cgroup.map_err(|error| failed("its memory could not be limited", &error))?;
        let spawned = self.spawn_in(order, &work, cgroup.clone());
        if spawned.is_err() {
            cgroup.remove();
        }
        spawned
    }

    fn spawn_in(&self, order: &SpawnOrder, work: &Path, cgroup: TaskCgroup) -> Result<Spawned, NotSpawned> {
        let Prepared { mut command, first_stage, name } = self.prepare(order, work, &cgroup)?;
        let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|error| failed("it got no pipe", &error.into()));
        let ((stdout, stdout_of_task), (stderr, stderr_of_task)) = (pipe()?, pipe()?);
        command.stdout(stdout_of_task).stderr(stderr_of_task);
        let after = since_boot();
        let child = command
            .spawn()
            .map_err(|error| failed(&format!("`{}` could not be started", name.to_string_lossy()), &error))?;
        let before = since_boot();
        // Or the first stage would not hear that its supervisor has gone.
        drop(command);
        let pid = child.id().cast_signed();
        let first_stage = match first_stage {
            // If it is gone already, its end says so.
            Some((mut stage, instructions)) => {
                let _ = launch::tell(&mut stage, &instructions);
                Some(stage)
            }
            // What it has forked by now is found by its mark.
            None => {
                cgroup.add(pid);
                None
            }
        };
        if let Some(pid) = Pid::from_raw(pid) {
            let _ = prlimit(Some(pid), Resource::Nofile, self.descriptors);
        }
        let (after_ms, before_ms) = (after.as_millis() as u64, before.as_millis() as u64);
        let record = SpawnRecord { pid, after_ms, before_ms };
        Ok(Spawned { record, stdout, stderr, cgroup, first_stage })
    }

    fn prepare(&self, order: &SpawnOrder, work: &Path, cgroup: &TaskCgroup) -> Result<Prepared, NotSpawned> {
        let SpawnOrder { task, spec, .. } = order;
        let secrets = secrets::resolve(&spec.secrets()).map_err(NotSpawned::Failed)?;
        let user = match launch::choose(spec.user.as_deref().unwrap_or_default()) {
            Ok(Choice::Stay) => None,
            Ok(Choice::Become(user)) => Some(user),
            Err(reason) => return Err(NotSpawned::Failed(reason)),
        };
        let ours = [
            ("CHRONOS_TASK_ID".into(), task.as_str().into()),
            (MARK.into(), format!("{}/{task}", self.folder).into()),
        ];
        let own = spec.variables().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let secrets = secrets.into_iter().map(|(name, value)| (name.into(), value));
        // Who becomes another user has that user's home, not ours.
        let of_ours = |name: &OsString| user.is_some() && LOGIN.iter().any(|of_login| name == of_login);
        let inherited = self.inherited.iter().filter(|(name, _)| !of_ours(name)).cloned();
        let environment = inherited.chain(own).chain(secrets).chain(ours.clone());
        let (program, name, mut arguments): (OsString, OsString, Vec<OsString>) = if spec.shell {
            ("/bin/sh".into(), "/bin/sh".into(), vec!["-c".into(), (&spec.command).into(), "sh".into()])
        } else {
            (self.find(spec)?.into(), (&spec.command).into(), Vec::new())
        };
        arguments.extend(spec.arguments.iter().map(OsString::from));
        if user.is_none() && spec.fetches.is_empty() && !cgroup.limits_memory() {
            let mut command = Command::new(&program);
            command.arg0(&name).args(&arguments).env_clear().envs(environment).stdin(Stdio::null());
            command.current_dir(work).process_group(0);
            return Ok(Prepared { command, first_stage: None, name: program });
        }
        let environment = environment.collect();
        let (doors, fetches) = (cgroup.doors(), spec.fetches.clone());
        let instructions = Instructions { doors, user, fetches, program, name, arguments, environment };
        let (stage, stage_of_task) =
            UnixStream::pair().map_err(|error| failed("its first stage got no socket", &error))?;
        // This very program, even if its file has been replaced.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("chronos").args(&self.launcher_args).env_clear();
        // Not the task's variables: they are for its program, and may be meant to change what a program does.
        command.envs(self.inherited.iter().cloned()).envs(ours).stdin(OwnedFd::from(stage_of_task));
        command.current_dir(work).process_group(0);
        Ok(Prepared { command, first_stage: Some((stage, instructions)), name: "/proc/self/exe".into() })
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
                // Other users may go through to their own, and not look around.
                DirBuilder::new().recursive(true).mode(0o711).create(parent)?;
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
    use crate::TaskSpec;

    /// The journal's sync may have taken long, so the time is looked at again, last of all.
    #[test]
    fn an_order_that_is_late_by_now_makes_nothing() {
        let root = tempfile::tempdir().expect("a folder");
        let descriptors = Rlimit { current: Some(1024), maximum: None };
        let spawner = Spawner {
            root: root.path().into(),
            folder: "f".into(),
            inherited: vec![],
            descriptors,
            cgroups: Cgroups::default(),
            launcher_args: vec![],
        };
        let spec = Spec::from(TaskSpec { command: ":".into(), shell: true, ..TaskSpec::default() });
        let task = TaskId::parse("late-0").expect("valid");
        let order = SpawnOrder { number: 1, task: task.clone(), spec, not_after: Duration::ZERO };
        assert!(matches!(spawner.spawn(&order), Err(NotSpawned::TooLate)));
        assert!(!task_folder(root.path(), &task).exists());
    }
}
