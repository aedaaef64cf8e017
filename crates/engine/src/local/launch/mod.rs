//! The first stage of a task that needs more than to be spawned: another user, bounds on memory, files fetched for it.
//!
//! A process of this same binary, with the pid, the group, the output and the control groups of the task: whoever kills
//! the task kills its first stage too, and what it has to say is in the task's output. It is told what to do on its
//! standard input, a socket on which it also says why it failed, and then becomes the task's program.
//! Rejected: doing so between fork and exec, which needs `unsafe` and costs every task the cheap `posix_spawn`.

mod fetch;
mod unpack;
mod user;

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
#[cfg(feature = "docker")]
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
#[cfg(feature = "docker")]
use std::path::Path;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use serde::{Deserialize, Serialize};

use super::formats::Fetch;

pub use user::refusal as user_refusal;
pub(super) use user::{Choice, LOGIN, choose};

/// What the first stage is told. Never written to disk: variables may be secret, and URIs may bear passwords.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Instructions {
    /// The files to write 0 to: the doors of the control groups.
    pub(super) doors: Vec<PathBuf>,
    /// Whom to become.
    pub(super) user: Option<String>,
    /// What to fetch into the working directory.
    pub(super) fetches: Vec<Fetch>,
    /// The program; none where it is all about what is fetched.
    pub(super) program: OsString,
    /// What it is called.
    pub(super) name: OsString,
    /// Its arguments.
    pub(super) arguments: Vec<OsString>,
    /// Its whole environment.
    pub(super) environment: Vec<(OsString, OsString)>,
}

/// The exit status of a first stage that failed; nobody is told of it, since it also says why.
const FAILED: u8 = 125;
/// Most bytes of a reason.
const REASON_MAX: u64 = 4096;
/// Most bytes of what is told of fetching.
#[cfg(feature = "docker")]
const TOLD_MAX: u64 = 64 * 1024;

/// Is the first stage of a task. Only a supervisor may call it, by starting this program with the arguments of
/// [`super::supervisor::Supervise::launcher_args`]. Returns only if the task's program could not be started.
pub fn run() -> ExitCode {
    let told = io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from);
    let Ok(mut supervisor) = told else { return ExitCode::from(FAILED) };
    let reason = match become_task(&mut supervisor) {
        Ok(never) => match never {},
        Err(reason) => reason,
    };
    let _ = writeln!(io::stderr(), "chronos: {reason}");
    let _ = supervisor.write_all(reason.as_bytes());
    ExitCode::from(FAILED)
}

fn become_task(supervisor: &mut UnixStream) -> Result<Infallible, String> {
    let mut text = Vec::new();
    supervisor.read_to_end(&mut text).map_err(|error| format!("it was not told what to do: {error}"))?;
    let told: Instructions =
        serde_json::from_slice(&text).map_err(|error| format!("it was not told what to do: {error}"))?;
    for door in &told.doors {
        fs::write(door, "0").map_err(|error| format!("its control group `{}`: {error}", door.display()))?;
    }
    let mut command = Command::new(&told.program);
    command.arg0(&told.name).args(&told.arguments).env_clear().envs(told.environment.iter().cloned());
    if let Some(name) = &told.user {
        let given = |name: &str| told.environment.iter().any(|(given, _)| given == name);
        for (name, value) in user::become_user(name)? {
            if !given(name) {
                command.env(name, value);
            }
        }
    }
    if !told.fetches.is_empty() {
        fetch::all(&told.fetches)?;
    }
    if told.program.is_empty() {
        std::process::exit(0);
    }
    let null = File::open("/dev/null").map_err(|error| format!("/dev/null: {error}"))?;
    rustix::stdio::dup2_stdin(&null).map_err(|error| format!("/dev/null: {error}"))?;
    let error = command.exec();
    Err(format!("`{}` could not be started: {error}", told.program.display()))
}

/// Fetches files into a folder, by a process of its own that ends with this future; what it had to tell, and why it
/// failed if it did. `program` with `args` calls [`run`].
#[cfg(feature = "docker")]
pub(crate) async fn fetch_into(
    folder: &Path,
    program: &Path,
    args: &[OsString],
    fetches: &[crate::Fetch],
) -> (Vec<u8>, Result<(), String>) {
    let mut told = Vec::new();
    let fetched = fetch_and_tell(folder, program, args, fetches, &mut told).await;
    (told, fetched.unwrap_or_else(|error| Err(format!("`{}`: {error}", program.display()))))
}

#[cfg(feature = "docker")]
async fn fetch_and_tell(
    folder: &Path,
    program: &Path,
    args: &[OsString],
    fetches: &[crate::Fetch],
    told: &mut Vec<u8>,
) -> io::Result<Result<(), String>> {
    use std::process::Stdio;
    use tokio::io::AsyncReadExt;

    let (mut ours, theirs) = UnixStream::pair()?;
    let mut stage = tokio::process::Command::new(program)
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let instructions = Instructions {
        doors: Vec::new(),
        user: None,
        fetches: fetches.iter().cloned().map(Fetch::from).collect(),
        program: OsString::new(),
        name: OsString::new(),
        arguments: Vec::new(),
        environment: Vec::new(),
    };
    // At most a definition, which the socket takes at once.
    tell(&mut ours, &instructions)?;
    if let Some(mut stderr) = stage.stderr.take() {
        (&mut stderr).take(TOLD_MAX).read_to_end(told).await?;
        tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await?;
    }
    let status = stage.wait().await?;
    Ok(match failure(&ours) {
        Some(reason) => Err(reason),
        None if status.success() => Ok(()),
        None => Err(format!("what fetches its files ended with {status}")),
    })
}

/// Tells a first stage what to do.
/// # Errors
/// If it is gone.
pub(super) fn tell(stage: &mut UnixStream, instructions: &Instructions) -> io::Result<()> {
    stage.write_all(&serde_json::to_vec(instructions)?)?;
    stage.shutdown(std::net::Shutdown::Write)
}

/// Why a first stage that has ended did not become its program, if it did not. Never waits.
pub(super) fn failure(stage: &UnixStream) -> Option<String> {
    let mut said = Vec::new();
    stage.set_nonblocking(true).ok()?;
    // An error here is that of reading on where nothing is left.
    let _ = stage.take(REASON_MAX).read_to_end(&mut said);
    (!said.is_empty()).then(|| String::from_utf8_lossy(&said).into_owned())
}
