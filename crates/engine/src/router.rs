//! Several engines as one: tasks with a container go to the one that runs containers, all others to the local one.
//!
//! Only the local engine decides whether a node is ready. The other may be away, refuse or say nothing for as long as it
//! likes: its tasks wait, and say so, see [`Engine::readiness_of`] and [`Engine::notes`]; nobody else does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use scheduler::ids::{Epoch, TaskId};
use scheduler::run::AttemptEnd;
use tokio::time::timeout;

use crate::{
    ContainerKind, Engine, EngineError, Finding, Forgotten, Keep, Known, Launch, NO_MESOS, NO_MESOS_HINT,
    Output, Readiness, Stream, TaskEvent, TaskSpec,
};

/// How long the engine of containers is waited for when a term begins: it notes a number on a disk.
const TERM_WITHIN: Duration = Duration::from_secs(5);

/// The two, behind one contract.
pub struct Router {
    local: Arc<dyn Engine>,
    containers: Arc<dyn Engine>,
    /// The term of which the engine of containers is still to be told. Until it follows, none of its tasks begins.
    owed: Mutex<Option<Epoch>>,
}

impl Router {
    /// `containers` must know at once which tasks it holds, see [`Engine::holds`], and take a term while it is not ready.
    pub fn new(local: Arc<dyn Engine>, containers: Arc<dyn Engine>) -> Self {
        Self { local, containers, owed: Mutex::default() }
    }

    fn of_spec(&self, spec: &TaskSpec) -> &Arc<dyn Engine> {
        if spec.container.is_some() { &self.containers } else { &self.local }
    }

    fn of_task(&self, task: &TaskId) -> &Arc<dyn Engine> {
        if self.containers.holds(task) { &self.containers } else { &self.local }
    }

    /// Those of the container engine, then the others, each with its place.
    fn split(&self, tasks: &[TaskId]) -> [(Vec<usize>, Vec<TaskId>); 2] {
        let placed = tasks.iter().cloned().enumerate();
        let (containers, local): (Vec<_>, Vec<_>) = placed.partition(|(_, task)| self.containers.holds(task));
        [containers.into_iter().unzip(), local.into_iter().unzip()]
    }

    fn owed(&self) -> MutexGuard<'_, Option<Epoch>> {
        // A number is whole at any time.
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the engine of containers of the term, where it has not taken it yet.
    async fn containers_follow(&self, epoch: Epoch) -> Result<(), EngineError> {
        if *self.owed() != Some(epoch) {
            return Ok(());
        }
        let told = timeout(TERM_WITHIN, self.containers.begin_term(epoch)).await;
        told.map_err(|_| EngineError::Unknown("the engine of containers says nothing".into()))??;
        self.owed().take_if(|owed| *owed == epoch);
        Ok(())
    }

    /// What is known of tasks that the engine of containers holds.
    async fn containers_know(&self, epoch: Epoch, tasks: &[TaskId]) -> Result<Vec<Known>, EngineError> {
        self.containers_follow(epoch).await?;
        if tasks.is_empty() { Ok(Vec::new()) } else { self.containers.reconcile(epoch, tasks).await }
    }

    /// What an engine knows of the task that will not be asked to launch it, if it knows it: the job has had a container
    /// since, or had one before.
    async fn known_elsewhere(&self, epoch: Epoch, launch: &Launch) -> Result<Option<Known>, EngineError> {
        let at = launch.spec.container.as_ref().map(|container| container.kind);
        if at != Some(ContainerKind::Docker) && self.containers.holds(&launch.task) {
            let known = self.containers_know(epoch, std::slice::from_ref(&launch.task)).await?;
            return Ok(known.into_iter().next());
        }
        if at.is_some() && self.local.holds(&launch.task) {
            let known = self.local.reconcile(epoch, std::slice::from_ref(&launch.task)).await?;
            return Ok(known.into_iter().next());
        }
        Ok(None)
    }
}

#[async_trait]
impl Engine for Router {
    fn name(&self) -> &'static str {
        self.local.name()
    }

    async fn begin_term(&self, epoch: Epoch) -> Result<(), EngineError> {
        *self.owed() = Some(epoch);
        let (containers, local) = tokio::join!(self.containers_follow(epoch), self.local.begin_term(epoch));
        match containers {
            Err(deposed @ EngineError::Deposed { .. }) => Err(deposed),
            _ => local,
        }
    }

    async fn end_term(&self, epoch: Epoch) {
        tokio::join!(self.containers.end_term(epoch), self.local.end_term(epoch));
    }

    async fn launch(&self, epoch: Epoch, launch: Launch) -> Result<Known, EngineError> {
        match self.known_elsewhere(epoch, &launch).await? {
            None | Some(Known::NeverBegan) => {}
            Some(Known::Unknown) => {
                return Err(EngineError::Unknown("it may run where the job had it run before".into()));
            }
            Some(known) => return Ok(known),
        }
        match &launch.spec.container {
            // No engine that has it, no memory of it: told again, it ends the same way.
            Some(container) if container.kind == ContainerKind::Mesos => {
                Ok(Known::Ended(AttemptEnd::failed(format!("{NO_MESOS}: {NO_MESOS_HINT}"))))
            }
            Some(_) => {
                self.containers_follow(epoch).await?;
                self.containers.launch(epoch, launch).await
            }
            None => self.local.launch(epoch, launch).await,
        }
    }

    async fn kill(
        &self,
        epoch: Epoch,
        task: &TaskId,
        grace: Duration,
        not_after: Duration,
    ) -> Result<(), EngineError> {
        let engine = self.of_task(task);
        if Arc::ptr_eq(engine, &self.containers) {
            self.containers_follow(epoch).await?;
        }
        engine.kill(epoch, task, grace, not_after).await
    }

    async fn reconcile(&self, epoch: Epoch, tasks: &[TaskId]) -> Result<Vec<Known>, EngineError> {
        let [(container_places, containers), (local_places, local)] = self.split(tasks);
        let (theirs, ours) = tokio::join!(self.containers_know(epoch, &containers), async {
            if local.is_empty() { Ok(Vec::new()) } else { self.local.reconcile(epoch, &local).await }
        });
        if let Err(deposed @ EngineError::Deposed { .. }) = theirs {
            return Err(deposed);
        }
        // Where it does not follow yet, somebody of before may still begin what nobody holds.
        let follows = *self.owed() != Some(epoch);
        let mut all = vec![Known::Unknown; tasks.len()];
        for (place, known) in container_places.into_iter().zip(theirs.unwrap_or_default()) {
            all[place] = known;
        }
        for (place, known) in local_places.into_iter().zip(ours?) {
            if follows || known != Known::NeverBegan {
                all[place] = known;
            }
        }
        Ok(all)
    }

    async fn events(&self) -> Vec<TaskEvent> {
        tokio::select! {
            events = self.local.events() => events,
            events = self.containers.events() => events,
        }
    }

    async fn acknowledge(&self, tasks: &[TaskId]) -> Result<(), EngineError> {
        let [(_, containers), (_, local)] = self.split(tasks);
        let of = |engine: &Arc<dyn Engine>, tasks: Vec<TaskId>| {
            let engine = engine.clone();
            async move { if tasks.is_empty() { Ok(()) } else { engine.acknowledge(&tasks).await } }
        };
        let (theirs, ours) = tokio::join!(of(&self.containers, containers), of(&self.local, local));
        ours.and(theirs)
    }

    async fn output(&self, task: &TaskId, stream: Stream, offset: u64) -> Result<Output, EngineError> {
        self.of_task(task).output(task, stream, offset).await
    }

    /// Containers live on whoever dies; nobody may count on their end.
    async fn renew_lease(&self, until: Option<Duration>) -> Result<(), EngineError> {
        self.local.renew_lease(until).await
    }

    fn readiness(&self) -> Readiness {
        self.local.readiness()
    }

    async fn forget_old(&self, keep: Keep) -> Result<Forgotten, EngineError> {
        let (containers, local) = tokio::join!(self.containers.forget_old(keep), self.local.forget_old(keep));
        let (containers, local) = (containers?, local?);
        Ok(Forgotten {
            tasks: containers.tasks + local.tasks,
            bytes: containers.bytes + local.bytes,
            more: containers.more || local.more,
        })
    }

    /// A change of either is one of the whole.
    fn incarnation(&self) -> u64 {
        self.local.incarnation() + self.containers.incarnation()
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = self.local.notes();
        notes.extend(self.containers.notes());
        notes
    }

    async fn examine(&self) -> Vec<Finding> {
        let (mut local, containers) = tokio::join!(self.local.examine(), self.containers.examine());
        local.extend(containers);
        local
    }

    fn holds(&self, task: &TaskId) -> bool {
        self.containers.holds(task) || self.local.holds(task)
    }

    fn place_of(&self, task: &TaskId, spec: Option<&TaskSpec>) -> usize {
        usize::from(spec.map_or_else(|| self.containers.holds(task), |spec| spec.container.is_some()))
    }

    fn readiness_of(&self, spec: &TaskSpec) -> Readiness {
        self.of_spec(spec).readiness_of(spec)
    }
}
