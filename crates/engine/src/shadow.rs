//! An engine that runs nothing: every task has succeeded as soon as it is launched.
//!
//! For a server that stands beside another scheduler and only works out what it would have launched. That nothing was
//! run must be plain to whoever looks: the engine's name, its notes and every task's output say so; the server that
//! uses it sees to it that the node's name in every attempt does too.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use scheduler::ids::{Epoch, TaskId};
use scheduler::run::AttemptEnd;

use crate::{Engine, EngineError, Known, Launch, Output, Readiness, Stream, TaskEvent, since_boot};

/// What is in the place of a task's output.
const SAID: &str = "nothing was run: this server is a shadow\n";

/// Runs nothing. It keeps nothing either: of a task that is not being launched it says that it never began.
#[derive(Debug, Default)]
pub struct ShadowEngine {
    epoch: Mutex<Epoch>,
}

impl ShadowEngine {
    /// Refuses whoever has been followed by another.
    fn check(&self, ours: Epoch) -> Result<(), EngineError> {
        // A number is whole at any time.
        let newest = *self.epoch.lock().unwrap_or_else(PoisonError::into_inner);
        if ours < newest { Err(EngineError::Deposed { ours, newest }) } else { Ok(()) }
    }
}

#[async_trait]
impl Engine for ShadowEngine {
    fn name(&self) -> &'static str {
        "shadow"
    }

    async fn begin_term(&self, epoch: Epoch) -> Result<(), EngineError> {
        self.check(epoch)?;
        let mut newest = self.epoch.lock().unwrap_or_else(PoisonError::into_inner);
        *newest = epoch.max(*newest);
        Ok(())
    }

    async fn launch(&self, epoch: Epoch, launch: Launch) -> Result<Known, EngineError> {
        self.check(epoch)?;
        if since_boot() > launch.not_after {
            return Err(EngineError::TooLate);
        }
        Ok(Known::Ended(AttemptEnd::Succeeded))
    }

    async fn kill(&self, epoch: Epoch, _: &TaskId, _: Duration, _: Duration) -> Result<(), EngineError> {
        self.check(epoch)
    }

    async fn reconcile(&self, epoch: Epoch, tasks: &[TaskId]) -> Result<Vec<Known>, EngineError> {
        self.check(epoch)?;
        Ok(vec![Known::NeverBegan; tasks.len()])
    }

    async fn events(&self) -> Vec<TaskEvent> {
        // Every end was the answer to its launch.
        std::future::pending().await
    }

    async fn acknowledge(&self, _: &[TaskId]) -> Result<(), EngineError> {
        Ok(())
    }

    async fn output(&self, _: &TaskId, stream: Stream, offset: u64) -> Result<Output, EngineError> {
        let said = if stream == Stream::Stdout { SAID.as_bytes() } else { b"" };
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(said.len());
        Ok(Output { bytes: said[from..].into(), next: said.len() as u64, dropped: 0, complete: true })
    }

    fn readiness(&self) -> Readiness {
        Readiness::Ready
    }

    fn notes(&self) -> Vec<String> {
        vec![
            "this server is a shadow: it runs nothing, tells nobody, and takes every task for succeeded as soon as it is \
             due"
                .into(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn launch() -> Launch {
        let task = TaskId::parse("report-1-i5-0").expect("a task id");
        Launch { task, spec: Arc::default(), not_after: since_boot() + Duration::from_secs(10) }
    }

    #[tokio::test]
    async fn what_is_launched_has_succeeded_and_nothing_was_run() {
        let engine = ShadowEngine::default();
        engine.begin_term(Epoch(2)).await.expect("nobody was here");
        assert_eq!(engine.launch(Epoch(2), launch()).await, Ok(Known::Ended(AttemptEnd::Succeeded)));
        let said = engine.output(&launch().task, Stream::Stdout, 0).await.expect("output");
        assert!(said.complete && String::from_utf8_lossy(&said.bytes).contains("nothing was run"));
        let rest = engine.output(&launch().task, Stream::Stdout, said.next).await.expect("output");
        assert_eq!((rest.bytes.len(), rest.next), (0, said.next));
    }

    #[tokio::test]
    async fn orders_of_an_earlier_term_and_stale_ones_are_refused() {
        let engine = ShadowEngine::default();
        engine.begin_term(Epoch(2)).await.expect("nobody was here");
        let deposed = EngineError::Deposed { ours: Epoch(1), newest: Epoch(2) };
        assert_eq!(engine.begin_term(Epoch(1)).await, Err(deposed.clone()));
        assert_eq!(engine.launch(Epoch(1), launch()).await, Err(deposed));
        let stale = Launch { not_after: Duration::ZERO, ..launch() };
        assert_eq!(engine.launch(Epoch(2), stale).await, Err(EngineError::TooLate));
    }
}
