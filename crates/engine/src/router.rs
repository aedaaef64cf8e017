//! Several engines as one: tasks with a container go to the one that runs containers, all others to the local one.
//!
//! Only the local engine decides whether a node is ready. The other may be away for as long as it likes: its tasks wait,
//! and say so, see [`Engine::readiness_of`] and [`Engine::notes`]; nobody else does.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use scheduler::ids::{Epoch, TaskId};
use scheduler::run::AttemptEnd;

use crate::{
    ContainerKind, Engine, EngineError, Forgotten, Keep, Known, Launch, Output, Readiness, Stream, TaskEvent,
    TaskSpec,
};

/// The two, behind one contract.
pub struct Router {
    local: Arc<dyn Engine>,
    containers: Arc<dyn Engine>,
}

impl Router {
    /// `containers` must know at once which tasks it holds, see [`Engine::holds`], and take a term while it is not ready.
    pub fn new(local: Arc<dyn Engine>, containers: Arc<dyn Engine>) -> Self {
        Self { local, containers }
    }

    fn of_spec(&self, spec: &TaskSpec) -> &Arc<dyn Engine> {
        if spec.container.is_some() { &self.containers } else { &self.local }
    }

    fn of_task(&self, task: &TaskId) -> &Arc<dyn Engine> {
        if self.containers.holds(task) { &self.containers } else { &self.local }
    }

    /// Those of the container engine, then the others, each with its place.
    fn split(&self, tasks: &[TaskId]) -> [Vec<(usize, TaskId)>; 2] {
        let placed = tasks.iter().cloned().enumerate();
        let (containers, local) = placed.partition(|(_, task)| self.containers.holds(task));
        [containers, local]
    }
}

#[async_trait]
impl Engine for Router {
    fn name(&self) -> &'static str {
        self.local.name()
    }

    async fn begin_term(&self, epoch: Epoch) -> Result<(), EngineError> {
        self.containers.begin_term(epoch).await?;
        self.local.begin_term(epoch).await
    }

    async fn launch(&self, epoch: Epoch, launch: Launch) -> Result<Known, EngineError> {
        match &launch.spec.container {
            Some(container) if container.kind == ContainerKind::Mesos => {
                // No engine that has it, no memory of it: told again, it ends the same way.
                let message = "containers of the kind MESOS are made by Mesos, and no Mesos runs tasks here; \
                               write DOCKER, the image is the same";
                Ok(Known::Ended(AttemptEnd::failed(message)))
            }
            _ => self.of_spec(&launch.spec).launch(epoch, launch).await,
        }
    }

    async fn kill(
        &self,
        epoch: Epoch,
        task: &TaskId,
        grace: Duration,
        not_after: Duration,
    ) -> Result<(), EngineError> {
        self.of_task(task).kill(epoch, task, grace, not_after).await
    }

    async fn reconcile(&self, epoch: Epoch, tasks: &[TaskId]) -> Result<Vec<Known>, EngineError> {
        let mut all = vec![Known::Unknown; tasks.len()];
        for (engine, part) in [&self.containers, &self.local].into_iter().zip(self.split(tasks)) {
            if part.is_empty() {
                continue;
            }
            let (places, part): (Vec<usize>, Vec<TaskId>) = part.into_iter().unzip();
            for (place, known) in places.into_iter().zip(engine.reconcile(epoch, &part).await?) {
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
        for (engine, part) in [&self.containers, &self.local].into_iter().zip(self.split(tasks)) {
            if !part.is_empty() {
                let part: Vec<TaskId> = part.into_iter().map(|(_, task)| task).collect();
                engine.acknowledge(&part).await?;
            }
        }
        Ok(())
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
        let (containers, local) = (self.containers.forget_old(keep).await, self.local.forget_old(keep).await);
        let (containers, local) = (containers?, local?);
        Ok(Forgotten { tasks: containers.tasks + local.tasks, bytes: containers.bytes + local.bytes })
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

    fn holds(&self, task: &TaskId) -> bool {
        self.containers.holds(task) || self.local.holds(task)
    }

    fn readiness_of(&self, spec: &TaskSpec) -> Readiness {
        self.of_spec(spec).readiness_of(spec)
    }
}
