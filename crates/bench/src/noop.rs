//! An engine that starts nothing: every task has ended as soon as it is launched. Remembers when each launch came,
//! measured against its due time.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use engine::{Engine, EngineError, Known, Launch, Output, Readiness, Stream, TaskEvent};
use jiff::Timestamp;
use scheduler::ids::{Epoch, TaskId};
use scheduler::run::AttemptEnd;

/// A launch that arrived.
#[derive(Clone, Copy)]
pub(crate) struct Launched {
    /// Since the epoch of Unix, like the due time.
    pub(crate) at: Duration,
    pub(crate) due: Duration,
}

impl Launched {
    pub(crate) fn lag_ms(&self) -> f64 {
        (self.at.as_secs_f64() - self.due.as_secs_f64()) * 1000.0
    }
}

#[derive(Default)]
pub(crate) struct NoopEngine {
    launched: Mutex<Vec<Launched>>,
}

impl NoopEngine {
    /// All launches so far, in the order in which they came.
    pub(crate) fn launched(&self) -> Vec<Launched> {
        self.launched.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.launched.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

#[async_trait]
impl Engine for NoopEngine {
    fn name(&self) -> &'static str {
        "noop"
    }

    async fn begin_term(&self, _: Epoch) -> Result<(), EngineError> {
        Ok(())
    }

    async fn launch(&self, _: Epoch, launch: Launch) -> Result<Known, EngineError> {
        let at = Timestamp::now().as_duration().unsigned_abs();
        let of_run = launch.spec.environment.iter().find(|(name, _)| name == "CHRONOS_JOB_RUN_TIME");
        let due = of_run.and_then(|(_, millis)| millis.parse().ok()).map(Duration::from_millis);
        let due = due.ok_or_else(|| EngineError::Refused("a task is told when its run was due".into()))?;
        self.launched.lock().unwrap_or_else(PoisonError::into_inner).push(Launched { at, due });
        Ok(Known::Ended(AttemptEnd::Succeeded))
    }

    async fn kill(&self, _: Epoch, _: &TaskId, _: Duration, _: Duration) -> Result<(), EngineError> {
        Ok(())
    }

    async fn reconcile(&self, _: Epoch, tasks: &[TaskId]) -> Result<Vec<Known>, EngineError> {
        Ok(vec![Known::NeverBegan; tasks.len()])
    }

    async fn events(&self) -> Vec<TaskEvent> {
        // All was said in the answer to the launch.
        std::future::pending().await
    }

    async fn acknowledge(&self, _: &[TaskId]) -> Result<(), EngineError> {
        Ok(())
    }

    async fn output(&self, task: &TaskId, _: Stream, _: u64) -> Result<Output, EngineError> {
        Err(EngineError::NoSuchTask(task.clone()))
    }

    fn readiness(&self) -> Readiness {
        Readiness::Ready
    }
}
