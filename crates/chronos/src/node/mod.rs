//! One node: leads when it may, follows otherwise, and gives the API one handle for both.

mod acquaintance;
mod courier;
mod driver;
mod effects;
mod heritage;
mod life;
mod memory;
mod outlook;
mod pulse;
mod restore;
mod standing;

pub use acquaintance::Acquaintance;
pub(crate) use driver::OUTCOMES;
pub use heritage::Heritage;
pub use life::{NodeOptions, NodeTask, start};
pub use memory::NodeMemory;
pub use outlook::Outlook;
pub use pulse::Pulse;
pub(crate) use restore::{Occupied, Restore, RestoreError, Restored};

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use crate::notify::Notifier;
use engine::Engine;
use scheduler::audit::Author;
use scheduler::ids::{Epoch, JobName, Seq};
use scheduler::request::{Answer, Definition, Refusal, Request};
use scheduler::schedule::Zones;
use store::backup::Staged;
use store::projection::{Projection, ProjectionHandle};
use store::{Candidate, Store};
use tokio::sync::{mpsc, oneshot, watch};

/// What the API holds of a node. Cheap to clone.
#[derive(Clone)]
pub struct Node {
    /// Who this is.
    pub identity: Arc<Candidate>,
    /// Answers all reads of hot state; built of applied batches only.
    pub projection: ProjectionHandle,
    /// Answers questions about the history.
    pub store: Arc<dyn Store>,
    /// The zones in which schedules are read.
    pub zones: Zones,
    /// Answers questions about output and readiness.
    pub engine: Arc<dyn Engine>,
    /// Sends test messages.
    pub notifier: Arc<Notifier>,
    /// Whether its scheduler lives.
    pub pulse: Arc<Pulse>,
    /// What is strange about the store that it works on, once it has seen that.
    strange: Arc<OnceLock<String>>,
    /// What an old Chronos has left beside the store, where that may be.
    heritage: Option<Arc<Heritage>>,
    status: watch::Receiver<Status>,
    outlook: watch::Receiver<Outlook>,
    asks: mpsc::Sender<Ask>,
    restores: mpsc::Sender<Restore>,
}

/// A request on its way to the driver.
pub(crate) struct Ask {
    pub(crate) request: Request,
    pub(crate) answer: oneshot::Sender<Result<(Answer, Seq), AskError>>,
}

/// How a node is doing. What `/ready` and `why` tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Whether it leads.
    pub role: Role,
    /// Why no run is launched now although this node leads, one sentence each: clock held, engine not ready, store in
    /// trouble. Empty when all is well.
    pub troubles: Vec<String>,
}

/// Whether a node leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It has not heard from the store yet.
    Starting,
    /// Another one leads, or nobody does; this one waits for its turn.
    Standby,
    /// It has been elected and prepares its term.
    Preparing(Epoch),
    /// It schedules.
    Leading(Epoch),
}

impl Role {
    /// As it is shown to users and to other nodes.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Standby => "standby",
            Self::Preparing(_) => "preparing",
            Self::Leading(_) => "leading",
        }
    }
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AskError {
    /// It was refused; nothing has changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// This node does not lead; nothing has changed here.
    #[error("this node does not lead")]
    NotLeading,
    /// More requests wait than the node takes in; nothing has changed.
    #[error("too many requests are waiting")]
    Busy,
    /// The store takes no more jobs, for this reason; nothing has changed.
    #[error("{0}")]
    Full(String),
    /// The term ended before the answer was durable: it may or may not have happened.
    #[error("the outcome is unknown: leadership ended before the change was confirmed")]
    OutcomeUnknown,
}

impl Node {
    /// Requests that may wait for the driver. A bound, so that a flood is told so instead of growing the process.
    pub(crate) const ASKS_MAX: usize = 4096;

    /// Asks the leader's scheduler; the answer is durable, and visible to reads that wait for its number.
    /// # Errors
    /// See [`AskError`].
    pub async fn ask(&self, request: Request) -> Result<(Answer, Seq), AskError> {
        // Here, as what has been decided is applied.
        if let Some(why) = self.store.full()
            && makes_jobs(&self.projection.read(), &request)
        {
            return Err(AskError::Full(why));
        }
        let (answer, reply) = oneshot::channel();
        self.asks.try_send(Ask { request, answer }).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => AskError::Busy,
            mpsc::error::TrySendError::Closed(_) => AskError::NotLeading,
        })?;
        reply.await.unwrap_or(Err(AskError::OutcomeUnknown))
    }

    /// Puts a backup in the place of everything. Ends the term: requests under way may learn that their outcome is
    /// unknown, and the next term begins at once.
    /// # Errors
    /// See [`RestoreError`].
    pub(crate) async fn restore(
        &self,
        staged: Staged,
        occupied: Occupied,
        undo: Option<PathBuf>,
        author: Author,
    ) -> Result<Restored, RestoreError> {
        let (answer, reply) = oneshot::channel();
        let order = Restore { staged, occupied, undo, author, answer };
        self.restores.try_send(order).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => RestoreError::Busy,
            mpsc::error::TrySendError::Closed(_) => RestoreError::NotLeading,
        })?;
        reply.await.unwrap_or(Err(RestoreError::OutcomeUnknown))
    }

    /// What is strange about the store that it works on, and what to do about it, if anything is.
    pub(crate) fn strange(&self) -> Option<&str> {
        self.strange.get().map(String::as_str)
    }

    /// Which jobs of an old Chronos were not taken over, if there are any, and what to do.
    pub(crate) fn left_behind(&self) -> Option<String> {
        let projection = self.projection.read();
        let is_here = |name: &str| JobName::new(name).is_ok_and(|name| projection.job(&name).is_some());
        self.heritage.as_ref()?.note(is_here)
    }

    /// What the node sees around it.
    pub fn outlook(&self) -> Outlook {
        self.outlook.borrow().clone()
    }

    /// Who leads, as far as this node knows without asking: it looks once a second.
    pub fn leader(&self) -> Option<Candidate> {
        if matches!(self.status.borrow().role, Role::Preparing(_) | Role::Leading(_)) {
            return Some((*self.identity).clone());
        }
        let seen = self.outlook.borrow();
        // Who led when the store was last heard may not lead any more: this very node, for one.
        let leader = seen.leader.as_ref().filter(|_| seen.silent.is_none());
        leader.filter(|leader| leader.instance() != self.identity.instance()).cloned()
    }

    /// To wait for another look.
    pub fn watch_outlook(&self) -> watch::Receiver<Outlook> {
        self.outlook.clone()
    }

    /// How the node is doing now.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// To wait for a change of the status.
    pub fn watch_status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }
}

/// Whether there would be more jobs than before.
fn makes_jobs(projection: &Projection, request: &Request) -> bool {
    let is_new = |definition: &Definition| projection.job(&definition.name).is_none();
    match request {
        Request::Put(definition) | Request::Edit { definition, .. } => is_new(definition),
        Request::Apply { definitions, .. } => definitions.iter().any(is_new),
        Request::When { then: request, .. } | Request::By { request, .. } | Request::Once { request, .. } => {
            makes_jobs(projection, request)
        }
        _ => false,
    }
}
