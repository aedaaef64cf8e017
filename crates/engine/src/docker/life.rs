//! The life of a container that may have been started: how it is found again, followed, ended, and what its end means.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::models::{ContainerInspectResponse, ContainerState, ContainerStateStatusEnum as Status};
use bollard::query_parameters::{
    InspectContainerOptions, KillContainerOptions, LogsOptions, RemoveContainerOptions,
};
use futures_util::StreamExt;
use scheduler::ids::{Epoch, TaskId};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::folder::Fact;
use super::output::{self, Taking};
use super::{Live, Shared, Stage, lock};
use crate::end::End;
use crate::{EngineError, Known, Output, Stream};

/// How long the log may go on after its container is known to have ended, before it is read anew.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How often a container of which nothing is heard is looked at all the same.
const GLANCE: Duration = Duration::from_secs(30);
/// Before a log that gave nothing is asked for again, which is doubled up to [`GLANCE`]; one that Docker cannot read at
/// all is asked for less often.
const LISTEN_AGAIN: Duration = Duration::from_millis(100);
const LISTEN_AGAIN_UNREADABLE: Duration = Duration::from_secs(2);
/// Before something that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often it is noted how far output was taken, while it comes.
const SAVE_EVERY: Duration = Duration::from_millis(500);
/// How long who asks for a task waits until its end has been settled.
const SETTLED_WITHIN: Duration = Duration::from_secs(10);
/// What is kept of a task's output where nothing says how much was asked for.
const OUTPUT_MAX: u64 = 1024 * 1024;
/// The exit status of a container is that of its first process, or this and the number of the signal that ended it.
const SIGNAL_BASE: i64 = 128;
/// What Docker answers for the log of a driver that cannot be read back.
const NOT_IMPLEMENTED: u16 = 501;
/// Begins the time at which a container started that never did.
const NEVER: &str = "0001-";

/// What a container is at.
#[derive(Debug)]
pub(super) enum Found {
    /// Not there, or about to be gone without ever having started.
    Gone,
    /// Made and never started, and no start of it has failed.
    Made {
        folder: String,
    },
    /// Docker could not start it.
    Broken(String),
    Runs,
    Ended(Box<ContainerInspectResponse>),
}

/// Looks at a container, by its name or its id: what it is at, its id, and whose it is.
pub(super) async fn look(docker: &Docker, container: &str) -> Result<(Found, String), Error> {
    let seen = match docker.inspect_container(container, None::<InspectContainerOptions>).await {
        Ok(seen) => seen,
        Err(Error::DockerResponseServerError { status_code: 404, .. }) => {
            return Ok((Found::Gone, String::new()));
        }
        Err(error) => return Err(error),
    };
    let id = seen.id.clone().unwrap_or_default();
    let labels = seen.config.as_ref().and_then(|config| config.labels.as_ref());
    let folder = labels.and_then(|labels| labels.get(super::plan::LABEL_FOLDER)).cloned().unwrap_or_default();
    Ok((found(seen, folder), id))
}

fn found(seen: ContainerInspectResponse, folder: String) -> Found {
    let state = seen.state.clone().unwrap_or_default();
    // One that never started has the status 0 like one that succeeded, whatever becomes of it.
    let started = state.started_at.is_some_and(|at| !at.is_empty() && !at.starts_with(NEVER));
    match state.status {
        Some(Status::CREATED) => match state.error.filter(|error| !error.is_empty()) {
            Some(error) => Found::Broken(error),
            None => Found::Made { folder },
        },
        Some(Status::REMOVING) if !started => Found::Gone,
        // Docker could not remove it, and will not start it.
        Some(Status::DEAD) if !started => Found::Made { folder },
        Some(Status::EXITED | Status::DEAD | Status::REMOVING) => Found::Ended(Box::new(seen)),
        _ => Found::Runs,
    }
}

/// Whether a container was removed that has never been started. One that runs or did is not.
pub(super) async fn discard(
    shared: &Shared,
    docker: &Docker,
    task: &TaskId,
    container: &str,
) -> Result<bool, String> {
    // In this order: a container that nothing speaks of is removed by whoever meets it, a note of one that is not there
    // would be taken for a loss.
    let (id, noted) = (task.clone(), container.to_owned());
    shared.on_disk(move |folder| folder.unbegin(&id, &noted)).await?;
    let options = RemoveContainerOptions { v: true, force: false, link: false };
    let removed = match docker.remove_container(container, Some(options)).await {
        Ok(()) | Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(true),
        // It runs, or somebody else is removing it.
        Err(error @ Error::DockerResponseServerError { status_code: 409, .. }) => {
            match look(docker, container).await {
                Ok((Found::Gone, _)) => Ok(true),
                Ok((Found::Runs | Found::Ended(_), _)) => Ok(false),
                Ok((Found::Made { .. } | Found::Broken(_), _)) => Err(error.to_string()),
                Err(error) => Err(error.to_string()),
            }
        }
        Err(error) => Err(error.to_string()),
    };
    if removed != Ok(true) {
        let (id, noted) = (task.clone(), container.to_owned());
        shared.on_disk(move |folder| folder.begin(&id, &noted)).await?;
    }
    removed
}

impl Shared {
    /// What is known of a task, under this epoch.
    /// # Errors
    /// Why that cannot be told now.
    pub(super) async fn known(self: &Arc<Self>, epoch: Epoch, task: &TaskId) -> Result<Known, String> {
        if let Some(end) = self.folder.end(task) {
            return Ok(Known::Ended(end.into()));
        }
        match self.state().live.get(task).map(|live| &live.stage) {
            Some(Stage::Running { .. }) => return Ok(Known::Running),
            Some(Stage::Starting { epoch: theirs, .. }) if *theirs == epoch => return Ok(Known::Running),
            _ => {}
        }
        if self.folder.begun(task).is_empty() {
            // Nothing is started before it is noted as begun, and not without a look at the epoch in between.
            return Ok(Known::NeverBegan);
        }
        self.resolve(task).await
    }

    /// Asks Docker about a task that may have been started. What has not been is removed, so that it never will.
    pub(super) async fn resolve(self: &Arc<Self>, task: &TaskId) -> Result<Known, String> {
        let docker = self.docker()?;
        for container in self.folder.begun(task) {
            let (found, _) = look(&docker, &container).await.map_err(|error| self.trouble(&error))?;
            match found {
                Found::Gone => {}
                Found::Made { .. } => {
                    if !discard(self, &docker, task, &container).await? {
                        self.adopt(task, &container);
                        return Ok(Known::Running);
                    }
                }
                Found::Broken(error) => {
                    let end = End::failed(format!("Docker could not start its container: {error}"));
                    self.settle_as(task, end.clone()).await;
                    return Ok(Known::Ended(end.into()));
                }
                Found::Runs => {
                    self.adopt(task, &container);
                    return Ok(Known::Running);
                }
                Found::Ended(_) => {
                    self.adopt(task, &container);
                    return Ok(self.settled(task).await);
                }
            }
        }
        if let Some(end) = self.folder.end(task) {
            return Ok(Known::Ended(end.into()));
        }
        if self.folder.begun(task).is_empty() {
            let id = task.clone();
            self.on_disk(move |folder| folder.withdraw(&id)).await?;
            return Ok(Known::NeverBegan);
        }
        let end = self.removed_by_others(task);
        self.settle_as(task, end.clone()).await;
        Ok(Known::Ended(end.into()))
    }

    fn removed_by_others(&self, task: &TaskId) -> End {
        match self.folder.is(task, Fact::Killed) {
            true => End::Killed,
            false => End::lost("its container was removed by somebody before it was known how it ended"),
        }
    }

    /// Waits for the end of a container that has ended, while its output is taken.
    async fn settled(&self, task: &TaskId) -> Known {
        let settled = async {
            loop {
                if let Some(end) = self.folder.end(task) {
                    return Known::Ended(end.into());
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(SETTLED_WITHIN, settled).await.unwrap_or(Known::Unknown)
    }

    /// Has to do with this container from now on.
    pub(super) fn adopt(self: &Arc<Self>, task: &TaskId, container: &str) {
        let output = Arc::new(Mutex::new(Taking::open(&self.folder.task(task), OUTPUT_MAX)));
        let stirred = Arc::new(Notify::new());
        {
            let mut state = self.state();
            if let Some(Live { stage: Stage::Running { .. }, .. }) = state.live.get(task) {
                return;
            }
            state.last_number += 1;
            let stage = Stage::Running { container: container.to_owned(), output: output.clone() };
            let live = Live { number: state.last_number, stage, stirred: stirred.clone() };
            state.live.insert(task.clone(), live);
        }
        let follow =
            Follow { shared: self.clone(), task: task.clone(), container: container.into(), output, stirred };
        tokio::spawn(follow.run());
    }

    /// Keeps the end, tells it, and lets go of the task. Tries again for as long as the disk does not take it: an end
    /// that is told and then forgotten could be another one the next time. What is kept is told, even if nobody waits
    /// for that any more.
    pub(super) async fn settle_as(self: &Arc<Self>, task: &TaskId, end: End) {
        let (this, task) = (self.clone(), task.clone());
        let _ = tokio::spawn(async move { this.settle_now(&task, end).await }).await;
    }

    async fn settle_now(&self, task: &TaskId, end: End) {
        loop {
            let (id, kept) = (task.clone(), end.clone());
            match self.on_disk(move |folder| folder.put_end(&id, &kept)).await {
                Ok(()) => break,
                Err(error) => self.state().disk = Some(error),
            }
            if *self.closed.borrow() {
                return;
            }
            sleep(RETRY).await;
        }
        {
            let mut state = self.state();
            state.disk = None;
            state.live.remove(task);
        }
        self.tell(task, Known::Ended(end.into()));
    }

    /// A piece of output: of what is being taken, or of what was.
    pub(super) fn output(&self, task: &TaskId, stream: Stream, offset: u64) -> Result<Output, EngineError> {
        let unreadable = |error: std::io::Error| EngineError::Unknown(error.to_string());
        let (taking, lives) = match self.state().live.get(task).map(|live| &live.stage) {
            Some(Stage::Running { output, .. }) => (Some(output.clone()), true),
            Some(Stage::Starting { .. }) => (None, true),
            None => (None, false),
        };
        if let Some(taking) = taking {
            return lock(&taking).read(stream, offset).map_err(unreadable);
        }
        let ended = self.folder.end(task).is_some();
        let kept = output::read_kept(&self.folder.task(task), stream, offset, ended).map_err(unreadable)?;
        match kept {
            Some(output) => Ok(output),
            None if ended || lives => Ok(Output { next: offset, complete: ended, ..Output::default() }),
            None => Err(EngineError::NoSuchTask(task.clone())),
        }
    }

    pub(super) fn trouble(&self, error: &Error) -> String {
        format!("Docker at {}: {error}", self.options.host)
    }
}

/// Ends a task: politely, and after `grace` by force.
pub(super) async fn kill(shared: &Arc<Shared>, task: &TaskId, grace: Duration) -> Result<(), EngineError> {
    if shared.folder.end(task).is_some() {
        return Ok(());
    }
    let known = match shared.state().live.get(task) {
        Some(Live { stage: Stage::Running { container, .. }, .. }) => Some(container.clone()),
        Some(Live { stage: Stage::Starting { killed, .. }, stirred, .. }) => {
            // Who starts it looks here, before it does and after it did.
            *lock(killed) = Some(grace);
            stirred.notify_one();
            return Ok(());
        }
        None => None,
    };
    // After a crash there may be notes of several.
    let noted = shared.folder.begun(task).into_iter().filter(|noted| Some(noted) != known.as_ref());
    let containers: Vec<String> = noted.chain(known.clone()).collect();
    let mut ended = Ok(());
    for container in containers {
        ended = end_container(shared, task, &container, grace).await.and(ended);
    }
    ended
}

/// The same, of a container that may run.
pub(super) async fn end_container(
    shared: &Arc<Shared>,
    task: &TaskId,
    container: &str,
    grace: Duration,
) -> Result<(), EngineError> {
    let docker = shared.docker().map_err(EngineError::Unknown)?;
    let unknown = |error: Error| EngineError::Unknown(shared.trouble(&error));
    let seen = match docker.inspect_container(container, None::<InspectContainerOptions>).await {
        Ok(seen) => seen,
        Err(Error::DockerResponseServerError { status_code: 404, .. }) => return Ok(()),
        Err(error) => return Err(unknown(error)),
    };
    if !seen.state.as_ref().and_then(|state| state.running).unwrap_or(false) {
        return Ok(());
    }
    let id = task.clone();
    shared.on_disk(move |folder| folder.note(&id, Fact::Killed)).await.map_err(EngineError::Unknown)?;
    let stop = seen.config.and_then(|config| config.stop_signal).filter(|signal| !signal.is_empty());
    let polite = if grace.is_zero() { "SIGKILL".into() } else { stop.unwrap_or_else(|| "SIGTERM".into()) };
    send(&docker, container, &polite).await.map_err(unknown)?;
    let (shared, task, container) = (shared.clone(), task.clone(), container.to_owned());
    tokio::spawn(async move {
        sleep(grace).await;
        while !*shared.closed.borrow() && shared.folder.end(&task).is_none() {
            if let Ok(docker) = shared.docker() {
                let _ = send(&docker, &container, "SIGKILL").await;
            }
            sleep(RETRY).await;
        }
    });
    Ok(())
}

/// Sends a signal; one that does not run any more needs none.
async fn send(docker: &Docker, container: &str, signal: &str) -> Result<(), Error> {
    match docker.kill_container(container, Some(KillContainerOptions { signal: signal.into() })).await {
        Err(Error::DockerResponseServerError { status_code: 404 | 409, .. }) => Ok(()),
        sent => sent,
    }
}

/// Takes the output of a container that was started, until it has ended, and settles it.
struct Follow {
    shared: Arc<Shared>,
    task: TaskId,
    container: String,
    output: Arc<Mutex<Taking>>,
    stirred: Arc<Notify>,
}

impl Follow {
    async fn run(self) {
        let mut closed = self.shared.closed.subscribe();
        tokio::select! {
            _ = closed.wait_for(|closed| *closed) => {}
            () = self.until_settled() => {}
        }
        // What comes after is taken by the next server.
        let _ = lock(&self.output).save();
    }

    async fn until_settled(&self) {
        let mut pause = LISTEN_AGAIN;
        loop {
            let Ok(docker) = self.shared.docker() else {
                let mut connection = self.shared.docker.subscribe();
                let _ = connection.wait_for(Option::is_some).await;
                continue;
            };
            match self.shared.followed.clone().try_acquire_owned() {
                Ok(_permit) => {
                    pause = match self.follow(&docker).await {
                        Heard::Something => LISTEN_AGAIN,
                        Heard::Nothing => (pause * 2).min(GLANCE),
                        Heard::Unreadable => (pause * 2).clamp(LISTEN_AGAIN_UNREADABLE, GLANCE),
                    };
                }
                Err(_) => drop(timeout(GLANCE, self.stirred.notified()).await),
            }
            match self.look_for_end(&docker).await {
                Ok(true) => return,
                Ok(false) => drop(timeout(pause, self.stirred.notified()).await),
                Err(_) => sleep(RETRY).await,
            }
        }
    }

    /// Takes what is written until nothing more can come.
    async fn follow(&self, docker: &Docker) -> Heard {
        let mut log = Box::pin(docker.logs(&self.container, Some(self.options(true))));
        let (mut saved, mut deadline) = (tokio::time::Instant::now(), None);
        let (mut dirty, mut heard) = (false, Heard::Nothing);
        loop {
            let pause = match deadline {
                None => GLANCE,
                Some(deadline) => tokio::time::Instant::now().max(deadline) - tokio::time::Instant::now(),
            };
            let pause = if dirty { pause.min(SAVE_EVERY) } else { pause };
            tokio::select! {
                biased;
                message = log.next() => match message {
                    Some(Ok(message)) => (dirty, heard) = (self.take(message) || dirty, Heard::Something),
                    Some(Err(Error::DockerResponseServerError { status_code: NOT_IMPLEMENTED, .. })) => {
                        heard = Heard::Unreadable;
                        break;
                    }
                    Some(Err(_)) | None => break,
                },
                () = self.stirred.notified() => deadline = Some(tokio::time::Instant::now() + LAST_WORDS),
                () = sleep(pause) => {
                    if deadline.is_some_and(|deadline| deadline <= tokio::time::Instant::now()) { break }
                    // Nothing has been heard for long.
                    if !dirty && deadline.is_none() && self.has_ended(docker).await { break }
                }
            }
            if dirty && saved.elapsed() >= SAVE_EVERY {
                let _ = lock(&self.output).save();
                (saved, dirty) = (tokio::time::Instant::now(), false);
            }
        }
        let _ = lock(&self.output).save();
        heard
    }

    async fn has_ended(&self, docker: &Docker) -> bool {
        matches!(look(docker, &self.container).await, Ok((Found::Ended(_) | Found::Gone, _)))
    }

    fn options(&self, follow: bool) -> LogsOptions {
        let since = lock(&self.output).begin();
        LogsOptions {
            follow,
            stdout: true,
            stderr: true,
            since,
            until: 0,
            timestamps: true,
            tail: "all".into(),
        }
    }

    fn take(&self, message: LogOutput) -> bool {
        let (stream, bytes) = match &message {
            LogOutput::StdErr { message } => (Stream::Stderr, message),
            LogOutput::StdOut { message } | LogOutput::Console { message } => (Stream::Stdout, message),
            LogOutput::StdIn { .. } => return false,
        };
        lock(&self.output).take(stream, bytes)
    }

    /// Whether it has ended, and has been settled.
    async fn look_for_end(&self, docker: &Docker) -> Result<bool, Error> {
        let end = match look(docker, &self.container).await?.0 {
            Found::Runs | Found::Made { .. } => return Ok(false),
            Found::Gone => match self.shared.folder.end(&self.task) {
                Some(end) => end,
                None => self.shared.removed_by_others(&self.task),
            },
            Found::Broken(error) => End::failed(format!("Docker could not start its container: {error}")),
            Found::Ended(seen) => {
                self.take_rest(docker).await?;
                let killed = self.shared.folder.is(&self.task, Fact::Killed);
                end_of(&seen, killed)
            }
        };
        let _ = lock(&self.output).save();
        self.shared.settle_as(&self.task, end).await;
        Ok(true)
    }

    /// All that Docker has of its output and that was not taken. A log that cannot be read is no reason to wait.
    async fn take_rest(&self, docker: &Docker) -> Result<(), Error> {
        let mut log = Box::pin(docker.logs(&self.container, Some(self.options(false))));
        while let Some(message) = log.next().await {
            match message {
                Ok(message) => drop(self.take(message)),
                Err(Error::DockerResponseServerError { .. } | Error::DockerStreamError { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// What came of listening to a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    Something,
    Nothing,
    /// Docker says that it cannot read it.
    Unreadable,
}

/// What the end of a container means.
fn end_of(seen: &ContainerInspectResponse, killed: bool) -> End {
    let ContainerState { exit_code, oom_killed, error, .. } = seen.state.clone().unwrap_or_default();
    if killed {
        return End::Killed;
    }
    let code = exit_code.unwrap_or(-1);
    if code == 0 {
        return End::Succeeded;
    }
    let memory = seen.host_config.as_ref().and_then(|host| host.memory).filter(|bytes| *bytes > 0);
    let mut message = format!("exit status {code}");
    if oom_killed == Some(true) {
        message = match memory {
            Some(bytes) => format!("out of memory: exceeded {} MiB", bytes / (1024 * 1024)),
            None => "out of memory: the machine has no more".into(),
        };
    } else if let Some(signal) =
        (SIGNAL_BASE + 1..=SIGNAL_BASE + 64).contains(&code).then(|| code - SIGNAL_BASE)
    {
        message.push_str(&format!(", as after signal {signal}"));
    } else if code == 127 {
        message.push_str(": the command was not found in the image");
    } else if code == 126 {
        message.push_str(": the command cannot be executed in the image");
    } else if code == 255 {
        message.push_str("; Docker says this also where it or the machine was restarted while it ran");
    }
    if let Some(error) = error.filter(|error| !error.is_empty()) {
        message.push_str(&format!(": {error}"));
    }
    match End::failed(message) {
        End::Failed { message, .. } => End::Failed { exit: i32::try_from(code).ok(), signal: None, message },
        end => end,
    }
}
