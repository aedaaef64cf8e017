//! Runs tasks as processes of this machine, behind a supervisor that outlives the server.
//!
//! [`LocalEngine`] is the server's side: it starts the supervisor if none is alive, and connects, again and again, for
//! ever. [`supervisor::run`] is the other side, a process of its own: see there for what a task is given and how it ends.
//!
//! **A task** runs in `work/` of its folder, in a process group of its own, with an empty standard input, and has the
//! environment of the supervisor without `CHRONOS_*` and `MESOSPHERE_*`, over it that of its spec (the first of a name wins), over it
//! `CHRONOS_TASK_ID` and `CHRONOS_TASK_MARK`.
//! **Its end** is the end of its main process. What it left behind in the background gets TERM, a second later KILL, and
//! only then is the end told. A kill also takes processes that left the group, as far as they can be found
//! (by mark and ancestry; a cgroup would find all).
//! **Its output** goes through pipes into files of bounded size, head and tail: see `supervisor/output.rs`.
//! **What is known** of it stays known until [`LocalEngine::forget`].

mod client;
mod formats;
pub mod launch;
mod layout;
mod retention;
pub mod supervisor;
mod wire;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use scheduler::ids::{Epoch, TaskId};

use self::client::Client;
use self::formats::{Answer, Request};
use crate::{
    Engine, EngineError, Finding, Forgotten, Grade, Keep, Known, Launch, Output, Readiness, Stream, TaskEvent,
};

/// Most ids in one message; a message is at most 1 MiB, an id at most 63 bytes.
const IDS_MAX: usize = 4096;

/// Where the engine is, and how its supervisor is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalOptions {
    /// The folder of its supervisor, on a local disk; made if it is not there. May be longer than a socket's path.
    pub dir: PathBuf,
    /// The program that calls [`supervisor::run`] with the same folder: this very binary.
    pub supervisor_program: PathBuf,
    /// Its arguments, such as `supervise --dir <dir>`.
    pub supervisor_args: Vec<OsString>,
}

/// The engine, as the server sees it. Dropping it leaves supervisor and tasks alone.
pub struct LocalEngine {
    options: LocalOptions,
    client: Arc<Client>,
    connector: tokio::task::JoinHandle<()>,
}

/// A task that has a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Which.
    pub task: TaskId,
    /// When its folder last changed: it began, or it ended.
    pub changed: SystemTime,
}

/// A supervisor that does not answer a question about nothing within this is stuck.
const EXAMINED_WITHIN: Duration = Duration::from_secs(3);

/// Between the polite and the forced end of the tasks of a node whose lease is over.
pub const LEASE_GRACE: Duration = Duration::from_secs(5);

impl LocalEngine {
    /// How many parts [`LocalEngine::list`] has.
    pub const LIST_PARTS: u32 = layout::FAN;

    /// Opens the engine and begins to connect. To be called in a tokio runtime.
    pub fn open(options: LocalOptions) -> Self {
        let client = Arc::new(Client::new(&options.dir));
        let connector = tokio::spawn(client.clone().connect_for_ever(options.clone()));
        Self { options, client, connector }
    }

    /// The tasks that are being started or run.
    /// # Errors
    /// [`EngineError::Unknown`]: no answer.
    pub async fn running_tasks(&self) -> Result<Vec<TaskId>, EngineError> {
        match self.ask(&Request::Running, None).await? {
            Answer::Tasks(tasks) => Ok(tasks.iter().filter_map(|task| TaskId::parse(task)).collect()),
            answer => Err(odd(&answer)),
        }
    }

    /// One part of all tasks that have a folder: those that run and those that ended and were not forgotten.
    /// Parts are counted from 0 to [`LocalEngine::LIST_PARTS`], so that no answer grows with the whole.
    /// # Errors
    /// [`EngineError::Unknown`]: the folder cannot be read.
    pub async fn list(&self, part: u32) -> Result<Vec<Listed>, EngineError> {
        let folder = layout::fan_folder(&self.options.dir, part);
        let read = move || match std::fs::read_dir(folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(EngineError::Unknown(error.to_string())),
            Ok(entries) => Ok(entries.flatten().filter_map(|entry| listed(&entry)).collect()),
        };
        tokio::task::spawn_blocking(read).await.map_err(|error| EngineError::Unknown(error.to_string()))?
    }

    /// Removes all that is known of an ended and acknowledged task, its output and its working directory included.
    /// From then on its id is unknown: whoever forgets must know that nobody will launch it again.
    /// # Errors
    /// [`EngineError::Refused`]: it runs, or its end is not acknowledged. [`EngineError::NoSuchTask`],
    /// [`EngineError::Unknown`].
    pub async fn forget(&self, task: &TaskId) -> Result<(), EngineError> {
        done(self.ask(&Request::Forget { task: task.to_string() }, Some(task)).await?)
    }

    async fn ask(&self, request: &Request, task: Option<&TaskId>) -> Result<Answer, EngineError> {
        self.client.ask(request).await?.0.into_result(task)
    }
}

impl Drop for LocalEngine {
    fn drop(&mut self) {
        self.connector.abort();
    }
}

#[async_trait]
impl Engine for LocalEngine {
    fn name(&self) -> &'static str {
        "local"
    }

    async fn begin_term(&self, epoch: Epoch) -> Result<(), EngineError> {
        done(self.ask(&Request::BeginTerm { epoch: epoch.0 }, None).await?)
    }

    async fn launch(&self, epoch: Epoch, launch: Launch) -> Result<Known, EngineError> {
        if launch.spec.container.is_some() {
            return Err(EngineError::Refused("it runs no containers".into()));
        }
        match self.ask(&Request::launch(epoch, &launch), Some(&launch.task)).await? {
            Answer::Known(mut known) if known.len() == 1 => Ok(known.remove(0).into()),
            answer => Err(odd(&answer)),
        }
    }

    async fn kill(
        &self,
        epoch: Epoch,
        task: &TaskId,
        grace: Duration,
        not_after: Duration,
    ) -> Result<(), EngineError> {
        let request = Request::Kill { epoch: epoch.0, task: task.to_string(), grace, not_after };
        done(self.ask(&request, Some(task)).await?)
    }

    async fn reconcile(&self, epoch: Epoch, tasks: &[TaskId]) -> Result<Vec<Known>, EngineError> {
        let mut all = Vec::with_capacity(tasks.len());
        for tasks in tasks.chunks(IDS_MAX) {
            let names: Vec<String> = tasks.iter().map(ToString::to_string).collect();
            match self.ask(&Request::Reconcile { epoch: epoch.0, tasks: names }, None).await? {
                Answer::Known(known) if known.len() == tasks.len() => {
                    all.extend(known.into_iter().map(Known::from))
                }
                answer => return Err(odd(&answer)),
            }
        }
        Ok(all)
    }

    async fn events(&self) -> Vec<TaskEvent> {
        self.client.events().await
    }

    async fn acknowledge(&self, tasks: &[TaskId]) -> Result<(), EngineError> {
        for tasks in tasks.chunks(IDS_MAX) {
            let tasks = tasks.iter().map(ToString::to_string).collect();
            done(self.ask(&Request::Acknowledge { tasks }, None).await?)?;
        }
        Ok(())
    }

    async fn output(&self, task: &TaskId, stream: Stream, offset: u64) -> Result<Output, EngineError> {
        let (answer, bytes) = self.client.ask(&Request::output(task, stream, offset)).await?;
        match answer.into_result(Some(task))? {
            Answer::Output { next, dropped, complete } => Ok(Output { bytes, next, dropped, complete }),
            answer => Err(odd(&answer)),
        }
    }

    async fn renew_lease(&self, until: Option<Duration>) -> Result<(), EngineError> {
        self.client.set_lease(until);
        done(self.ask(&Request::Lease { until }, None).await?)
    }

    fn readiness(&self) -> Readiness {
        match self.client.not_ready() {
            None => Readiness::Ready,
            Some(reason) => Readiness::NotReady { reason },
        }
    }

    async fn forget_old(&self, keep: Keep) -> Result<Forgotten, EngineError> {
        retention::forget_old(self, keep).await
    }

    fn incarnation(&self) -> u64 {
        self.client.connections()
    }

    fn notes(&self) -> Vec<String> {
        self.client.notes()
    }

    async fn examine(&self) -> Vec<Finding> {
        let problem = match self.client.not_ready() {
            Some(reason) => Some(reason),
            None => {
                let nothing = Request::Acknowledge { tasks: Vec::new() };
                let answer = tokio::time::timeout(EXAMINED_WITHIN, self.ask(&nothing, None)).await;
                match answer {
                    Ok(answer) => answer.err().map(|problem| problem.to_string()),
                    Err(_) => Some(format!(
                        "the supervisor of local tasks does not answer within {} s (in {})",
                        EXAMINED_WITHIN.as_secs(),
                        self.options.dir.display()
                    )),
                }
            }
        };
        vec![match problem {
            None => Finding {
                leg: "local",
                grade: Grade::Good,
                what: format!("the supervisor of local tasks answers in {}", self.options.dir.display()),
                advice: String::new(),
            },
            Some(what) => Finding {
                leg: "local",
                grade: Grade::Wrong,
                what,
                advice: "nothing begins until it is well: see on the node that leads that its data folder can be written to and \
                         its disk has room, what its log says, and whether the process `chronos supervise` is stopped"
                    .into(),
            },
        }]
    }

    fn holds(&self, task: &TaskId) -> bool {
        layout::task_folder(&self.options.dir, task).exists()
    }
}

fn listed(entry: &std::fs::DirEntry) -> Option<Listed> {
    let task = TaskId::parse(entry.file_name().to_str()?)?;
    Some(Listed { task, changed: entry.metadata().ok()?.modified().ok()? })
}

fn done(answer: Answer) -> Result<(), EngineError> {
    if answer == Answer::Done { Ok(()) } else { Err(odd(&answer)) }
}

fn odd(answer: &Answer) -> EngineError {
    EngineError::Unknown(format!("the supervisor gave an answer that does not fit: {answer:?}"))
}
