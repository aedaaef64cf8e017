//! Runs tasks in containers of this machine's Docker Engine.
//!
//! The container is the task: it is named by it, so Docker itself refuses to make it twice, and it outlives the server.
//! What Docker cannot keep (epochs, who wanted a task dead, whose end was told) is in a folder: see `folder.rs`.
//!
//! **At most once.** A container is made, noted as begun, the epoch is looked at once more, and then one single request to
//! start it is ever sent, by the id of that very container. Who raises the epoch writes it before looking at containers.
//! So a deposed server either sees the new epoch and starts nothing, or its container is seen: one that has not started
//! is removed, and a request to start it that is still on its way finds nothing.
//! **Its end** is what Docker says of its first process, once its output has been taken.
//! **What is known** of it stays known from the folder, and from the container for as long as
//! [`DockerOptions::container_age_max`].
//!
//! An order is taken in time or not at all. What then takes long (images are fetched, many start at once) goes on behind
//! the answer [`Known::Running`]; it ends unbegun if a later epoch comes meanwhile.

mod folder;
mod life;
mod logins;
mod output;
mod parameters;
mod plan;
mod retention;
mod sandbox;
mod start;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bollard::Docker;
use futures_util::StreamExt;
use scheduler::ids::{Epoch, TaskId};
use tokio::sync::{Notify, Semaphore, watch as channel};
use tokio::task::spawn_blocking;

use self::folder::Folder;
use self::logins::Login;
use self::output::Taking;
use crate::{
    EVENTS_MAX, Engine, EngineError, Finding, Forgotten, Grade, Keep, Known, Launch, Output, Readiness,
    Stream, TaskEvent, TaskSpec, since_boot,
};

pub use self::plan::{Refusal, check};
pub use self::sandbox::Fetcher;

/// A Docker that does not answer within this whether it is there is stuck.
const EXAMINED_WITHIN: Duration = Duration::from_secs(3);
/// Containers that are made and started at once: Docker does most of it one after the other.
const STARTS_MAX: usize = 8;
/// Tasks whose files are fetched at once, each by a process.
const FETCHES_MAX: usize = 16;
/// Containers whose output is taken as they write. That of others is taken at their end.
const FOLLOWED_MAX: usize = 512;

/// Tasks that Docker is asked about at once: of some it may not answer for long.
const QUESTIONS_MAX: usize = 16;

/// Where Docker is, and how it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerOptions {
    /// The folder of what must not be forgotten, on a local disk; made if it is not there.
    pub dir: PathBuf,
    /// Where Docker listens: `unix:///var/run/docker.sock`.
    pub host: String,
    /// How long the container of an ended task is kept. Its name keeps the task from being launched again by who has
    /// lost the folder, and people look into it.
    pub container_age_max: Duration,
    /// Stands before the task's name in that of its container. Several folders that use the same names may then share a
    /// Docker, as in tests; names of tasks of different stores differ anyway.
    pub name_prefix: String,
    /// How long a launch is waited for before it is answered with [`Known::Running`].
    pub answer_within: Duration,
    /// What fetches files for containers; without, tasks that want some fail.
    pub fetcher: Option<Fetcher>,
    /// Where logins of registries are, in the form of Docker's `config.json`; the first that has one counts.
    pub logins: Vec<PathBuf>,
}

impl DockerOptions {
    /// As a server uses it.
    pub fn new(dir: PathBuf, host: String) -> Self {
        Self {
            dir,
            host,
            container_age_max: Duration::from_secs(24 * 3600),
            name_prefix: String::new(),
            answer_within: Duration::from_secs(2),
            fetcher: None,
            logins: Vec::new(),
        }
    }
}

/// Whether this names a Unix socket, where alone Docker is looked for.
pub fn is_host(host: &str) -> bool {
    socket_of(host).is_some_and(|path| path.starts_with('/'))
}

fn socket_of(host: &str) -> Option<&str> {
    match host.strip_prefix("unix://") {
        Some(path) => Some(path),
        None if host.contains("://") => None,
        None => Some(host),
    }
}

/// The engine, as the server sees it. Dropping it leaves containers alone.
pub struct DockerEngine {
    shared: Arc<Shared>,
    watcher: tokio::task::JoinHandle<()>,
}

/// What the parts of the engine share.
struct Shared {
    options: DockerOptions,
    folder: Folder,
    state: Mutex<State>,
    /// The connection, while Docker can be reached.
    docker: channel::Sender<Option<Docker>>,
    arrived: Notify,
    starts: Semaphore,
    fetches: Semaphore,
    followed: Arc<Semaphore>,
    /// Whether anybody has wanted a container of us.
    wanted: AtomicBool,
    /// Tells all that goes on in the background that the handle is gone.
    closed: channel::Sender<bool>,
}

#[derive(Default)]
struct State {
    live: HashMap<TaskId, Live>,
    /// What the last of them was called.
    last_number: u64,
    events: VecDeque<TaskEvent>,
    /// Why nothing can be started.
    not_ready: Option<String>,
    /// Why an end could not be kept.
    disk: Option<String>,
    /// What this Docker cannot do.
    notes: Vec<String>,
    /// Why it cannot be told what became of a task of before.
    unsettled: Option<String>,
    /// Why a container stays that is old enough to go.
    unremoved: Option<String>,
    /// Images that are being fetched; who comes second waits for the first.
    pulls: BTreeMap<Pull, channel::Receiver<Option<Result<(), String>>>>,
}

/// An image that is fetched, and as whom: another may be refused it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pull {
    image: String,
    platform: String,
    login: Option<Login>,
}

/// A task that is being started or runs, as far as this handle has to do with it.
struct Live {
    /// Tells two of the same name apart: a launch that was given up and the next.
    number: u64,
    stage: Stage,
    /// Something happened to its container.
    stirred: Arc<Notify>,
}

enum Stage {
    /// On its way, for this epoch.
    Starting { epoch: Epoch, killed: Arc<Mutex<Option<Duration>>> },
    /// In this container, which may have ended.
    Running { container: String, output: Arc<Mutex<Taking>> },
}

impl DockerEngine {
    /// Opens the engine and begins to connect. To be called in a tokio runtime.
    /// # Errors
    /// If the folder cannot be made or read.
    pub fn open(options: DockerOptions) -> io::Result<Self> {
        let shared = Arc::new(Shared::open(options)?);
        shared.tell_open_ends();
        let watcher = tokio::spawn(watch::for_ever(shared.clone()));
        Ok(Self { shared, watcher })
    }
}

impl Drop for DockerEngine {
    fn drop(&mut self) {
        self.watcher.abort();
        self.shared.closed.send_replace(true);
    }
}

impl Shared {
    fn open(options: DockerOptions) -> io::Result<Self> {
        let folder = Folder::open(&options.dir)?;
        let not_ready = Some(format!("Docker at {} has not been reached yet", options.host));
        Ok(Self {
            options,
            folder,
            state: Mutex::new(State { not_ready, ..State::default() }),
            docker: channel::Sender::new(None),
            arrived: Notify::new(),
            starts: Semaphore::new(STARTS_MAX),
            fetches: Semaphore::new(FETCHES_MAX),
            followed: Arc::new(Semaphore::new(FOLLOWED_MAX)),
            wanted: AtomicBool::new(false),
            closed: channel::Sender::new(false),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The connection, or why there is none.
    fn docker(&self) -> Result<Docker, String> {
        let docker = self.docker.borrow().clone();
        docker.ok_or_else(|| self.not_ready().unwrap_or_else(|| "Docker cannot be reached".into()))
    }

    /// Where nobody uses containers, nobody misses Docker.
    fn is_missed(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) || !self.state().live.is_empty()
    }

    fn not_ready(&self) -> Option<String> {
        let state = self.state();
        let disk = || Some(format!("`{}`: {}", self.folder.root().display(), state.disk.as_ref()?));
        state.not_ready.clone().or_else(disk)
    }

    /// Does something in the folder that may have to wait for the disk, where nobody waits behind it.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Folder) -> io::Result<T> + Send + 'static,
    ) -> Result<T, String> {
        let folder = self.folder.clone();
        match spawn_blocking(move || work(&folder)).await {
            Ok(done) => done.map_err(|error| format!("`{}`: {error}", self.folder.root().display())),
            Err(error) => Err(error.to_string()),
        }
    }

    /// What the container of a task is called.
    fn name_of(&self, task: &TaskId) -> String {
        format!("{}{task}", self.options.name_prefix)
    }

    fn tell(&self, task: &TaskId, known: Known) {
        self.state().events.push_back(TaskEvent { task: task.clone(), known });
        self.arrived.notify_one();
    }

    /// All ends that nobody has acknowledged, anew.
    fn tell_open_ends(&self) {
        let open = self.folder.open_tasks();
        let ends = open.into_iter().filter_map(|task| {
            let end = self.folder.end(&task)?;
            Some(TaskEvent { task, known: Known::Ended(end.into()) })
        });
        let ends: VecDeque<_> = ends.collect();
        self.state().events = ends;
        self.arrived.notify_one();
    }
}

#[async_trait]
impl Engine for DockerEngine {
    fn name(&self) -> &'static str {
        "docker"
    }

    async fn begin_term(&self, epoch: Epoch) -> Result<(), EngineError> {
        let folder = self.shared.folder.clone();
        let raised = spawn_blocking(move || folder.raise(epoch)).await;
        raised.map_err(|error| EngineError::Unknown(error.to_string()))??;
        self.shared.tell_open_ends();
        // What earlier epochs were about to start goes by itself: it looks at the epoch before it starts anything.
        Ok(())
    }

    async fn launch(&self, epoch: Epoch, launch: Launch) -> Result<Known, EngineError> {
        let shared = &self.shared;
        shared.wanted.store(true, Ordering::Relaxed);
        shared.folder.check(epoch)?;
        match shared.known(epoch, &launch.task).await {
            Ok(Known::NeverBegan) => {}
            Ok(known) => return Ok(known),
            // It may have begun.
            Err(problem) => return Err(EngineError::Unknown(problem)),
        }
        if since_boot() > launch.not_after {
            return Err(EngineError::TooLate);
        }
        if let Some(reason) = shared.not_ready() {
            return Err(EngineError::Refused(reason));
        }
        start::launch(shared, epoch, launch).await
    }

    async fn kill(
        &self,
        epoch: Epoch,
        task: &TaskId,
        grace: Duration,
        not_after: Duration,
    ) -> Result<(), EngineError> {
        self.shared.folder.check(epoch)?;
        if since_boot() > not_after {
            return Err(EngineError::TooLate);
        }
        life::kill(&self.shared, task, grace).await
    }

    async fn reconcile(&self, epoch: Epoch, tasks: &[TaskId]) -> Result<Vec<Known>, EngineError> {
        self.shared.folder.check(epoch)?;
        let answers = tasks.iter().cloned().map(|task| {
            let shared = self.shared.clone();
            async move { shared.known(epoch, &task).await.unwrap_or(Known::Unknown) }
        });
        Ok(futures_util::stream::iter(answers).buffered(QUESTIONS_MAX).collect().await)
    }

    async fn events(&self) -> Vec<TaskEvent> {
        loop {
            {
                let events = &mut self.shared.state().events;
                let count = events.len().min(EVENTS_MAX);
                if count > 0 {
                    return events.drain(..count).collect();
                }
            }
            self.shared.arrived.notified().await;
        }
    }

    async fn acknowledge(&self, tasks: &[TaskId]) -> Result<(), EngineError> {
        let tasks = tasks.to_vec();
        let done =
            self.shared.on_disk(move |folder| tasks.iter().try_for_each(|task| folder.acknowledge(task)));
        done.await.map_err(EngineError::Unknown)
    }

    async fn output(&self, task: &TaskId, stream: Stream, offset: u64) -> Result<Output, EngineError> {
        self.shared.output(task, stream, offset)
    }

    fn readiness(&self) -> Readiness {
        match self.shared.not_ready() {
            None => Readiness::Ready,
            Some(reason) => Readiness::NotReady { reason },
        }
    }

    async fn forget_old(&self, keep: Keep) -> Result<Forgotten, EngineError> {
        retention::forget_old(&self.shared, keep).await
    }

    fn notes(&self) -> Vec<String> {
        let is_missed = self.shared.is_missed();
        let state = self.shared.state();
        match &state.not_ready {
            Some(_) if !is_missed => Vec::new(),
            Some(reason) => vec![format!("jobs with a container wait: {reason}")],
            None => {
                let more = state.unsettled.iter().chain(&state.unremoved);
                state.notes.iter().chain(more).cloned().collect()
            }
        }
    }

    async fn examine(&self) -> Vec<Finding> {
        let host = &self.shared.options.host;
        let problem = match (self.shared.not_ready(), self.shared.docker()) {
            (Some(reason), _) | (None, Err(reason)) => Some(reason),
            (None, Ok(docker)) => {
                let reason = match tokio::time::timeout(EXAMINED_WITHIN, docker.ping()).await {
                    Ok(answer) => answer.err().map(|problem| problem.to_string()),
                    Err(_) => Some(format!("no answer within {} s", EXAMINED_WITHIN.as_secs())),
                };
                reason.map(|reason| format!("Docker at {host}: {reason}"))
            }
        };
        let found =
            |grade, what, advice: &str| vec![Finding { leg: "docker", grade, what, advice: advice.into() }];
        match problem {
            None => found(Grade::Good, format!("Docker at {host} answers"), ""),
            Some(_) if !self.shared.is_missed() => Vec::new(),
            Some(reason) => {
                let advice = "jobs with a container wait: see on the node that leads that Docker runs, that --docker_host names \
                              its socket, that the user of the server may use that, and that its disk has room";
                found(Grade::Wrong, reason, advice)
            }
        }
    }

    fn holds(&self, task: &TaskId) -> bool {
        self.shared.state().live.contains_key(task) || self.shared.folder.has(task)
    }

    fn readiness_of(&self, spec: &TaskSpec) -> Readiness {
        match &spec.container {
            Some(_) => self.readiness(),
            None => Readiness::NotReady { reason: "it has no container".into() },
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
