//! What executes attempts: one contract, and the engines behind it.
//!
//! An engine knows tasks, not jobs: it is told a [`TaskId`] and a [`TaskSpec`], starts the task at most once,
//! and repeats what became of it until that is acknowledged. Start at [`Engine`]; [`conformance`] says in tests
//! what every implementation must do.
//! **Invariant:** knows nothing of stores, schedules or HTTP.

pub mod addresses;
#[cfg(any(feature = "local", feature = "docker"))]
mod capped;
#[cfg(any(feature = "local", feature = "docker"))]
mod census;
mod clock;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
mod container;
#[cfg(feature = "docker")]
pub mod docker;
#[cfg(any(feature = "local", feature = "docker"))]
mod end;
#[cfg(any(test, feature = "testing"))]
pub mod fake;
#[cfg(feature = "local")]
pub mod local;
#[cfg(feature = "mesos")]
pub mod mesos;
pub mod router;
#[cfg(any(feature = "local", feature = "docker"))]
mod secrets;
pub mod shadow;
mod share;
#[cfg(any(feature = "local", feature = "docker"))]
mod task_folders;
#[cfg(any(feature = "local", feature = "mesos"))]
mod tls;
pub mod yardstick;

pub use clock::since_boot;
pub use container::{Container, ContainerKind, NO_MESOS, NO_MESOS_HINT, Network, Port, Volume, VolumeSource};
#[cfg(any(feature = "local", feature = "docker"))]
pub use secrets::{is_setting, values as secret_values};
pub use share::{Constraint, Operator, Share, Thousandths};

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use scheduler::ids::{Epoch, TaskId};
use scheduler::run::AttemptEnd;

/// What to run. Everything an engine may need to know about an attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskSpec {
    /// Command line for the shell, or the program where `shell` is false. No NUL; checked at the door.
    pub command: String,
    /// Whether `/bin/sh -c` reads the command.
    pub shell: bool,
    /// Arguments of the program. With `shell` they become `$1`, `$2`, ... and are never pasted into the command.
    pub arguments: Vec<String>,
    /// Added to the environment of the engine, in order; the first of a name wins.
    pub environment: Vec<(String, String)>,
    /// Bytes of output kept per stream; what comes after the bound is counted and dropped (head and tail are kept).
    pub output_max: u64,
    /// The user it runs as; `None` for whom the engine runs as.
    pub user: Option<String>,
    /// What it may use.
    pub limits: Limits,
    /// Files that are there before its command begins, in order.
    pub fetches: Vec<Fetch>,
    /// Variables whose values the engine finds where the task begins. None is also in `environment`.
    pub secrets: Vec<Secret>,
    /// What it runs in; `None` for the machine itself.
    pub container: Option<Container>,
    /// What is set aside for it, where an engine sets aside.
    pub share: Share,
    /// Which machines will do, where there is a choice: all of these must hold.
    pub constraints: Vec<Constraint>,
    /// What people call it where an engine shows tasks.
    pub title: String,
    /// What it can be found by where an engine shows tasks.
    pub labels: Vec<(String, String)>,
    /// The user it runs as on machines that are not this one, where root is a user like others: as its author wrote it.
    pub user_elsewhere: Option<String>,
    /// What runs it instead of its command, where an engine knows such things.
    pub executor: Option<Executor>,
}

/// A program that is told of tasks by Mesos and does with them what it will.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executor {
    /// Command line for the shell that starts it.
    pub command: String,
    /// What it is told of the task.
    pub data: String,
    /// Files that are there before it starts. Those of the task itself may have been found in its command, which is only
    /// data here.
    pub fetches: Vec<Fetch>,
}

/// What a task may use, where the engine can see to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Thousandths of a processor: a share while there is not enough for all, and no ceiling.
    pub cpu_millis: Option<u32>,
    /// Bytes of memory; a task that exceeds them is ended.
    pub memory_max: Option<u64>,
}

/// A file for a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// Where it comes from.
    pub uri: String,
    /// Whether it becomes executable; it is then not unpacked.
    pub executable: bool,
    /// Whether it is unpacked, if its name is that of an archive.
    pub extract: bool,
    /// Its path in the working directory; the last part of the URI if absent.
    pub output_file: Option<String>,
    /// Whether the machine may keep it for other tasks, where an engine can.
    pub cache: bool,
}

/// A variable of a task's environment whose value is known only where the task begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// Its name.
    pub name: String,
    /// Where its value is.
    pub source: SecretSource,
}

/// Where a secret value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// In this file, an absolute path; a newline at its end is not part of it.
    File(String),
    /// In this variable of the engine's environment.
    Env(String),
}

/// One order to start a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Its name; an engine that knows it answers with what is known and starts nothing.
    pub task: TaskId,
    /// What to run.
    pub spec: Arc<TaskSpec>,
    /// Time since boot ([`since_boot`]) after which the order is stale and must be refused: a paused leader's late launch.
    pub not_after: Duration,
}

/// What an engine knows of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// It has been taken and waits for a place; it has not begun.
    Waiting,
    /// There is a place for it, which is held until [`Engine::go_ahead`]; it has not begun. Only as news, in the order in
    /// which places were found, and each told once: what is told last is where it is looked for.
    Placed {
        /// Names the place for ever after: the task is asked for there, by whoever leads. At most [`PLACE_BYTES_MAX`].
        node: Arc<str>,
    },
    /// It is being started or runs.
    Running,
    /// It is over.
    Ended(AttemptEnd),
    /// Nobody can tell, and nobody waits for it any longer: it counts as ended, and may be heard of again.
    GivenUp {
        /// Why, for people; at most [`AttemptEnd::MESSAGE_MAX`] bytes.
        message: Arc<str>,
    },
    /// It never began, and under the present epoch it never will unless launched again.
    NeverBegan,
    /// Not to be had now; it may run or may have ended.
    Unknown,
}

/// News of a task. Repeated by [`Engine::events`] until acknowledged, where it is an end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskEvent {
    /// Whose news.
    pub task: TaskId,
    /// [`Known::Waiting`], [`Known::Placed`], [`Known::Running`], [`Known::Ended`], or what it has come to that nobody
    /// knew before: [`Known::NeverBegan`], [`Known::GivenUp`], [`Known::Unknown`].
    pub known: Known,
}

/// Which of a task's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A piece of a task's output. Offsets count all that the task wrote, kept or not: `next` minus the length of `bytes`
/// is where the piece begins, and is beyond the offset asked for where bytes in between were dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Raw bytes, whatever they are; not always UTF-8.
    pub bytes: Vec<u8>,
    /// Offset at which the next piece begins.
    pub next: u64,
    /// Bytes that the task wrote beyond the bound and that were not kept, known so far.
    pub dropped: u64,
    /// Whether the task has ended and nothing follows after `next`.
    pub complete: bool,
}

/// What an engine keeps of tasks that have ended and whose end is acknowledged: output and working directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Nothing younger is removed, whatever it takes: orders for it may still be on their way, and someone may look.
    pub age_min: Duration,
    /// What is older is removed.
    pub age_max: Duration,
    /// What goes beyond, all together, is removed, the oldest first.
    pub bytes_max: u64,
}

impl Keep {
    /// Nothing is ever removed.
    pub const EVERYTHING: Self = Self { age_min: Duration::MAX, age_max: Duration::MAX, bytes_max: u64::MAX };
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// So many tasks.
    pub tasks: u64,
    /// About so many bytes.
    pub bytes: u64,
    /// Whether this was the bound of one call, and the next one finds more.
    pub more: bool,
}

/// Whether an engine can start tasks, and if not, why. Shown by `/ready` and `why`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It can.
    Ready,
    /// It cannot now; it keeps trying.
    NotReady {
        /// For the operator: what failed, where, and what to do.
        reason: String,
    },
}

/// How good it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grade {
    /// As it should be.
    Good,
    /// Worth a look.
    Look,
    /// Wrong.
    Wrong,
}

/// One of the things between an engine and its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which, in one word.
    pub leg: &'static str,
    /// How good it is.
    pub grade: Grade,
    /// What was found.
    pub what: String,
    /// What to do about it; empty where there is nothing to do.
    pub advice: String,
}

/// Why an engine did not do as told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// A later epoch has spoken to this engine: the caller has been deposed.
    #[error("the engine follows epoch {}, which is later than {}", newest.0, ours.0)]
    Deposed {
        /// What we said.
        ours: Epoch,
        /// What the engine knows.
        newest: Epoch,
    },
    /// The order came after its `not_after`. Nothing was done, and this order will not be carried out later.
    #[error("the order came too late and was not carried out")]
    TooLate,
    /// No answer: it may or may not have been done.
    #[error("the engine did not answer: {0}")]
    Unknown(String),
    /// It was not done, and this order will not be carried out later.
    #[error("the engine cannot do this: {0}")]
    Refused(String),
    /// There is no such task or no such output (any more).
    #[error("the engine knows nothing of task {0}")]
    NoSuchTask(TaskId),
    /// The task wrote something, and whoever had it has removed it: a sentence for people.
    #[error("{0}")]
    OutputGone(String),
}

/// Most events of one call: enough to amortise a call and the commit that follows.
pub const EVENTS_MAX: usize = 256;
/// Most bytes of a note that an engine has the node keep.
pub const NOTE_BYTES_MAX: usize = 512;
/// Most bytes of the name of a place.
pub const PLACE_BYTES_MAX: usize = 300;
/// Most bytes of one piece of output.
pub const OUTPUT_PIECE_MAX: usize = 64 * 1024;

/// What executes attempts.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// Its name in logs, `why` and metrics.
    fn name(&self) -> &'static str;

    /// Precedes everything else of a term: from its answer on, orders of earlier epochs are refused, and a task
    /// that has not begun by then never will unless this epoch launches it. Survives a restart of the engine.
    /// # Errors
    /// [`EngineError::Deposed`] if a later epoch was here, [`EngineError::Unknown`] if there was no answer.
    async fn begin_term(&self, epoch: Epoch) -> Result<(), EngineError>;

    /// This node leads no more in this epoch: what is kept open for the term is closed, so that the next leader finds
    /// nobody in its way. Tasks live on. A courtesy: a leader that dies says nothing, and orders of the epoch that come
    /// afterwards all the same are no concern of ours.
    async fn end_term(&self, epoch: Epoch) {
        let _ = epoch;
    }

    /// Starts the task, unless the id is known: then says what is known of it.
    /// A task that cannot be started (no such program, no space) is `Ended(Failed)`, with the reason.
    /// # Errors
    /// [`EngineError::Deposed`], [`EngineError::TooLate`], [`EngineError::Refused`]: it did not begin.
    /// [`EngineError::Unknown`]: reconcile to find out.
    async fn launch(&self, epoch: Epoch, launch: Launch) -> Result<Known, EngineError>;

    /// The place that was told of ([`Known::Placed`]) is durable: the task may begin there. An engine that no longer holds
    /// that place for it does nothing; it tells of another.
    /// # Errors
    /// As [`Engine::launch`]; with [`EngineError::Unknown`] the task is asked for at its place.
    async fn go_ahead(
        &self,
        epoch: Epoch,
        task: &TaskId,
        node: &str,
        not_after: Duration,
    ) -> Result<(), EngineError> {
        let _ = (epoch, task, node, not_after);
        Ok(())
    }

    /// Ends the task: politely, and after `grace` by force, with all processes it started. Returns when the
    /// order is taken; the end comes as an event. Killing what has ended or never began is not an error.
    /// # Errors
    /// As [`Engine::launch`].
    async fn kill(
        &self,
        epoch: Epoch,
        task: &TaskId,
        grace: Duration,
        not_after: Duration,
    ) -> Result<(), EngineError>;

    /// What is known of these tasks, in their order.
    /// # Errors
    /// [`EngineError::Deposed`], [`EngineError::Unknown`].
    async fn reconcile(&self, epoch: Epoch, tasks: &[TaskId]) -> Result<Vec<Known>, EngineError>;

    /// Waits for news; at most [`EVENTS_MAX`] at once. An end is told again after a reconnect, a restart of the server
    /// and each [`Engine::begin_term`] until it is acknowledged; a caller must take repeats. Cancel-safe.
    async fn events(&self) -> Vec<TaskEvent>;

    /// The ends of these tasks are durable elsewhere. Their output stays readable.
    /// # Errors
    /// [`EngineError::Unknown`]: acknowledge again when the end is repeated.
    async fn acknowledge(&self, tasks: &[TaskId]) -> Result<(), EngineError>;

    /// Output from byte `offset` on, at most [`OUTPUT_PIECE_MAX`]. Returns at once, with no bytes when there is nothing new.
    /// # Errors
    /// [`EngineError::NoSuchTask`] if there is no (more) output of that task here, [`EngineError::OutputGone`] where it is
    /// known who removed it.
    async fn output(&self, task: &TaskId, stream: Stream, offset: u64) -> Result<Output, EngineError>;

    /// Until this time since boot ([`since_boot`]) this node counts as alive for the others. An engine whose tasks would
    /// live on without it ends them then, and starts none: others may run them again. `None`: there are no others.
    /// # Errors
    /// [`EngineError::Unknown`]: the lease is what it was before.
    async fn renew_lease(&self, until: Option<Duration>) -> Result<(), EngineError> {
        let _ = until;
        Ok(())
    }

    /// Whether tasks can be started now.
    fn readiness(&self) -> Readiness;

    /// Removes what is kept of old tasks, a bounded part of it at once: who gets [`Forgotten::more`] calls again. An id of
    /// which nothing is kept is unknown. Engines that keep nothing remove nothing. Takes a fixed amount of memory, however
    /// much is kept. Cancel-safe.
    /// # Errors
    /// [`EngineError::Unknown`]: try again later.
    async fn forget_old(&self, _keep: Keep) -> Result<Forgotten, EngineError> {
        Ok(Forgotten::default())
    }

    /// A number that changes whenever what is behind this handle may be another than before, having started anew or
    /// having been out of reach. After a change [`Engine::begin_term`] and [`Engine::reconcile`] are due again: nobody
    /// else would ever tell of a task that went with its engine. An engine that cannot start anew keeps to 0.
    fn incarnation(&self) -> u64 {
        0
    }

    /// What this engine cannot do where it is, though it is ready: one sentence each, with what to do about it.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// Whether this engine has, or had, a task of that name, as far as it can tell without asking anybody. By this the
    /// [`router`] finds the engine of a task that it did not launch itself.
    fn holds(&self, _task: &TaskId) -> bool {
        false
    }

    /// Which of several engines has to do with a task, counted from 0; `spec`, if it is to be launched. Orders and questions
    /// to one must not wait behind those to another.
    fn place_of(&self, _task: &TaskId, _spec: Option<&TaskSpec>) -> usize {
        0
    }

    /// The name under which tasks are launched that have no place yet, in place of the node's: with engines that find
    /// places ([`Known::Placed`]).
    fn unplaced(&self) -> Option<&'static str> {
        None
    }

    /// Whether what is at this place, by its name, is of this engine, whichever node asks.
    fn has_place(&self, _node: &str) -> bool {
        false
    }

    /// Why a task that was taken has not begun yet: one sentence each, the first the most telling.
    fn waits_for(&self, _task: &TaskId) -> Vec<String> {
        Vec::new()
    }

    /// What stands between this engine and its work, looked at anew and one thing after the other, as far as an operator can
    /// mend it; nothing where there is nothing to look at. Within a few seconds.
    async fn examine(&self) -> Vec<Finding> {
        Vec::new()
    }

    /// Whether a task like this one can be started now. Another task may have to wait although the engine is ready.
    fn readiness_of(&self, _spec: &TaskSpec) -> Readiness {
        self.readiness()
    }
}

/// What an engine that has no disk of its own has the node keep, and the node's word on who leads.
#[async_trait]
pub trait Memory: Send + Sync + 'static {
    /// Where the task was placed ([`Known::Placed`]), or the name that it was launched under if it was not; `None` if
    /// nobody knows it. Also of tasks that have ended, as long as the history has them.
    /// # Errors
    /// [`EngineError::Unknown`]: nobody could tell now.
    async fn node_of(&self, task: &TaskId) -> Result<Option<Arc<str>>, EngineError>;

    /// The note that was kept last.
    fn recall(&self) -> Option<Arc<str>>;

    /// What somebody before us has left that means the same, for an engine that has never kept a note.
    fn inherited(&self) -> Option<Arc<str>> {
        None
    }

    /// Keeps another note, at most [`NOTE_BYTES_MAX`], or with `None` the one that is there. Either way it is
    /// confirmed that this epoch still leads: nothing that a later one writes is older than the answer.
    /// # Errors
    /// [`EngineError::Deposed`]: it does not. [`EngineError::Unknown`]: nobody could tell now.
    async fn remember(&self, epoch: Epoch, note: Option<&str>) -> Result<(), EngineError>;
}
