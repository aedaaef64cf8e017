//! What the node keeps for an engine that has no disk of its own, and its word on who leads.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use engine::{EngineError, Memory};
use scheduler::ids::{Epoch, TaskId};
use scheduler::request::Request;
use scheduler::run::{Attempt, Record, Run, RunState};
use tokio::sync::watch;
use tokio::time::timeout;

use super::{AskError, Heritage, Node, Role};

/// A node that is about to lead does so within this, and confirms it.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(10);

/// See the module. The engine is there before the node is.
pub struct NodeMemory {
    node: watch::Sender<Option<Node>>,
    heritage: Option<Arc<Heritage>>,
}

impl NodeMemory {
    /// `heritage` is what an old Chronos may have left.
    pub fn new(heritage: Option<Arc<Heritage>>) -> Self {
        Self { node: watch::Sender::new(None), heritage }
    }

    /// From here on there is something to remember.
    pub fn begin(&self, node: &Node) {
        self.node.send_replace(Some(node.clone()));
    }

    async fn node(&self) -> Result<Node, EngineError> {
        let mut node = self.node.subscribe();
        let begun = timeout(CONFIRMED_WITHIN, node.wait_for(Option::is_some)).await;
        let node = begun.ok().and_then(Result::ok).and_then(|node| node.clone());
        node.ok_or_else(|| unknown("this node has not begun"))
    }
}

fn unknown(why: &str) -> EngineError {
    EngineError::Unknown(why.into())
}

#[async_trait]
impl Memory for NodeMemory {
    async fn node_of(&self, task: &TaskId) -> Result<Option<Arc<str>>, EngineError> {
        let node = self.node().await?;
        for key in task.keys() {
            let live = node.projection.read().state().runs.get(&key).cloned();
            let found = match live {
                Some(run) => of_live(&run, task),
                None => match node.store.ended_run(key).await {
                    Ok(Some(Record::Run(run))) => {
                        of_attempts(task, &run.attempts, |number| TaskId::of(&run.job, key, number))
                    }
                    Ok(_) => None,
                    Err(problem) => return Err(EngineError::Unknown(problem.to_string())),
                },
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    fn recall(&self) -> Option<Arc<str>> {
        self.node.borrow().as_ref()?.projection.read().state().meta.engine_note.clone()
    }

    /// The id of the framework that an old Chronos was.
    fn inherited(&self) -> Option<Arc<str>> {
        self.heritage.as_ref()?.framework_id()
    }

    async fn remember(&self, epoch: Epoch, note: Option<&str>) -> Result<(), EngineError> {
        let node = self.node().await?;
        leads(&node, epoch).await?;
        let asked = node.ask(Request::EngineNote(note.map(Into::into)));
        match timeout(CONFIRMED_WITHIN, asked).await {
            Err(_) => Err(unknown("the store has not confirmed in time that this node leads")),
            // Terms only grow: what was confirmed between two looks at the same one was confirmed in it.
            Ok(Ok(_)) => leads(&node, epoch).await,
            Ok(Err(AskError::NotLeading)) => {
                leads(&node, epoch).await?;
                Err(unknown("this node did not lead just now"))
            }
            Ok(Err(problem)) => Err(EngineError::Unknown(problem.to_string())),
        }
    }
}

/// Whether the node leads in this epoch; one that is about to is waited for.
async fn leads(node: &Node, ours: Epoch) -> Result<(), EngineError> {
    let mut status = node.watch_status();
    let settled = status.wait_for(|status| status.role != Role::Preparing(ours));
    let Ok(settled) = timeout(CONFIRMED_WITHIN, settled).await else {
        return Err(unknown("this node is still about to lead"));
    };
    let role = settled.map(|status| status.role.clone()).unwrap_or(Role::Standby);
    match role {
        Role::Leading(epoch) if epoch == ours => Ok(()),
        Role::Leading(newest) | Role::Preparing(newest) if newest > ours => {
            Err(EngineError::Deposed { ours, newest })
        }
        // A term that is over does not come back.
        _ => {
            let seen = node.projection.read().term().epoch;
            Err(EngineError::Deposed { ours, newest: seen.max(Epoch(ours.0 + 1)) })
        }
    }
}

fn of_live(run: &Run, task: &TaskId) -> Option<Arc<str>> {
    match &run.state {
        RunState::Running(live) if live.task == *task => Some(live.node.clone()),
        _ => of_attempts(task, &run.attempts, |number| TaskId::of(&run.job, run.key, number)),
    }
}

fn of_attempts(task: &TaskId, attempts: &[Attempt], name: impl Fn(u32) -> TaskId) -> Option<Arc<str>> {
    attempts.iter().find(|attempt| name(attempt.number) == *task).map(|attempt| attempt.node.clone())
}
