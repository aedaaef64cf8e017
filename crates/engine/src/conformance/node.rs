//! The node's part in the life of a task, for engines that have no disk of their own: every order comes behind a commit
//! of its epoch, places are kept before tasks begin there, and what has ended is known without asking.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use scheduler::ids::{Epoch, TaskId};
use scheduler::run::AttemptEnd;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::PATIENCE;
use crate::{Engine, EngineError, Known, Launch, Memory, Output, Readiness, Stream, TaskEvent, since_boot};

/// What a store would keep. Cloning gives another view of the same.
#[derive(Clone, Default)]
pub struct MemoryForTests(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    epoch: Epoch,
    note: Option<Arc<str>>,
    inherited: Option<Arc<str>>,
    nodes: BTreeMap<TaskId, Arc<str>>,
    ends: BTreeMap<TaskId, AttemptEnd>,
}

impl MemoryForTests {
    /// Another epoch leads from now on.
    /// # Errors
    /// [`EngineError::Deposed`] if a later one does.
    pub fn lead(&self, epoch: Epoch) -> Result<(), EngineError> {
        self.confirm(epoch)?;
        self.kept().epoch = epoch;
        Ok(())
    }

    /// Keeps where a task is, or under which name it was launched.
    /// # Errors
    /// [`EngineError::Deposed`] if a later epoch leads.
    pub fn place(&self, epoch: Epoch, task: &TaskId, node: &str) -> Result<(), EngineError> {
        self.confirm(epoch)?;
        self.kept().nodes.insert(task.clone(), node.into());
        Ok(())
    }

    /// What somebody before us has left.
    pub fn inherit(&self, note: &str) {
        self.kept().inherited = Some(note.into());
    }

    fn confirm(&self, ours: Epoch) -> Result<(), EngineError> {
        let newest = self.kept().epoch;
        if ours < newest { Err(EngineError::Deposed { ours, newest }) } else { Ok(()) }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Memory for MemoryForTests {
    async fn node_of(&self, task: &TaskId) -> Result<Option<Arc<str>>, EngineError> {
        Ok(self.kept().nodes.get(task).cloned())
    }

    fn recall(&self) -> Option<Arc<str>> {
        self.kept().note.clone()
    }

    fn inherited(&self) -> Option<Arc<str>> {
        self.kept().inherited.clone()
    }

    async fn remember(&self, epoch: Epoch, note: Option<&str>) -> Result<(), EngineError> {
        self.confirm(epoch)?;
        if let Some(note) = note {
            self.kept().note = Some(note.into());
        }
        Ok(())
    }
}

/// An engine, and the node that it is a part of. Whoever asks it is answered once there is something to say.
pub struct WithNode {
    engine: Arc<dyn Engine>,
    memory: MemoryForTests,
    told: tokio::sync::Mutex<mpsc::UnboundedReceiver<TaskEvent>>,
    listening: JoinHandle<()>,
    unplaced: &'static str,
    /// What was launched, should the engine say that it never began.
    launched: Arc<Mutex<BTreeMap<TaskId, (Epoch, Launch)>>>,
}

impl WithNode {
    /// An engine that finds places.
    pub fn new(engine: Arc<dyn Engine>, memory: MemoryForTests) -> Self {
        let unplaced = engine.unplaced().unwrap_or_default();
        let (tell, told) = mpsc::unbounded_channel();
        let launched = Arc::default();
        let listening =
            tokio::spawn(listen(engine.clone(), memory.clone(), unplaced, Arc::clone(&launched), tell));
        Self { engine, memory, told: tokio::sync::Mutex::new(told), listening, unplaced, launched }
    }

    async fn settled(&self, epoch: Epoch, tasks: &[TaskId]) -> Result<Vec<Known>, EngineError> {
        let patience = since_boot() + PATIENCE;
        loop {
            let known = self.engine.reconcile(epoch, tasks).await?;
            let open = known.iter().any(|known| matches!(known, Known::Unknown | Known::Waiting));
            if !open || since_boot() > patience {
                return Ok(known);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for WithNode {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn listen(
    engine: Arc<dyn Engine>,
    memory: MemoryForTests,
    unplaced: &'static str,
    launched: Arc<Mutex<BTreeMap<TaskId, (Epoch, Launch)>>>,
    tell: mpsc::UnboundedSender<TaskEvent>,
) {
    loop {
        for event in engine.events().await {
            let order = launched.lock().unwrap_or_else(PoisonError::into_inner).get(&event.task).cloned();
            match (&event.known, order) {
                (Known::Placed { node }, Some((epoch, launch))) => {
                    if memory.place(epoch, &event.task, node).is_ok() {
                        let _ = engine.go_ahead(epoch, &event.task, node, launch.not_after).await;
                    }
                }
                (Known::NeverBegan, Some((epoch, launch))) => {
                    if memory.place(epoch, &event.task, unplaced).is_ok() {
                        let _ = engine.launch(epoch, launch).await;
                    }
                }
                _ => drop(tell.send(event)),
            }
        }
    }
}

#[async_trait]
impl Engine for WithNode {
    fn name(&self) -> &'static str {
        self.engine.name()
    }

    async fn begin_term(&self, epoch: Epoch) -> Result<(), EngineError> {
        self.memory.lead(epoch)?;
        self.engine.begin_term(epoch).await?;
        let patience = since_boot() + PATIENCE;
        while self.engine.readiness() != Readiness::Ready && since_boot() < patience {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    async fn end_term(&self, epoch: Epoch) {
        self.engine.end_term(epoch).await;
    }

    async fn launch(&self, epoch: Epoch, launch: Launch) -> Result<Known, EngineError> {
        self.memory.confirm(epoch)?;
        let task = launch.task.clone();
        {
            let mut kept = self.memory.kept();
            if let Some(end) = kept.ends.get(&task) {
                return Ok(Known::Ended(end.clone()));
            }
            if epoch == kept.epoch {
                kept.nodes.entry(task.clone()).or_insert_with(|| self.unplaced.into());
            }
        }
        self.launched
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(task.clone(), (epoch, launch.clone()));
        match self.engine.launch(epoch, launch).await {
            Ok(Known::Waiting) | Err(EngineError::Unknown(_)) => {
                Ok(self.settled(epoch, &[task]).await?.remove(0))
            }
            answer => answer,
        }
    }

    async fn kill(
        &self,
        epoch: Epoch,
        task: &TaskId,
        grace: Duration,
        not_after: Duration,
    ) -> Result<(), EngineError> {
        self.memory.confirm(epoch)?;
        self.engine.kill(epoch, task, grace, not_after).await
    }

    async fn reconcile(&self, epoch: Epoch, tasks: &[TaskId]) -> Result<Vec<Known>, EngineError> {
        self.memory.confirm(epoch)?;
        self.settled(epoch, tasks).await
    }

    async fn events(&self) -> Vec<TaskEvent> {
        match self.told.lock().await.recv().await {
            Some(event) => vec![event],
            None => std::future::pending().await,
        }
    }

    async fn acknowledge(&self, tasks: &[TaskId]) -> Result<(), EngineError> {
        let epoch = self.memory.kept().epoch;
        if let Ok(known) = self.engine.reconcile(epoch, tasks).await {
            let ends = tasks.iter().zip(known).filter_map(|(task, known)| match known {
                Known::Ended(end) => Some((task.clone(), end)),
                _ => None,
            });
            self.memory.kept().ends.extend(ends);
        }
        self.engine.acknowledge(tasks).await
    }

    async fn output(&self, task: &TaskId, stream: Stream, offset: u64) -> Result<Output, EngineError> {
        self.engine.output(task, stream, offset).await
    }

    fn readiness(&self) -> Readiness {
        self.engine.readiness()
    }

    fn holds(&self, task: &TaskId) -> bool {
        self.engine.holds(task)
    }

    fn unplaced(&self) -> Option<&'static str> {
        self.engine.unplaced()
    }

    fn waits_for(&self, task: &TaskId) -> Vec<String> {
        self.engine.waits_for(task)
    }
}
