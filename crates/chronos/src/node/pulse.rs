//! Whether the scheduler lives: beats of the very task in which it decides.
//!
//! A watchdog that is fed by a timer of its own tells only that the timer lives. Here a beat is a turn of the driver's
//! loop, or, where a node does not lead, a poll of what it waits for. So a step that does not come back, a lock that
//! nobody opens and a runtime without a free thread are silence; a store that does not answer is not, as the node waits
//! for it, and to start it anew would not bring it back.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How often who lives says so at least.
pub(super) const EVERY: Duration = Duration::from_secs(1);

/// The last beat.
#[derive(Debug)]
pub struct Pulse(Mutex<Instant>);

impl Pulse {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    pub(super) fn beat(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// How long ago the last beat was.
    pub fn silence(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Beats while `waiting` is waited for, in the task that does.
    pub(super) async fn during<T>(&self, waiting: impl Future<Output = T>) -> T {
        let mut waiting = std::pin::pin!(waiting);
        loop {
            self.beat();
            tokio::select! {
                done = &mut waiting => return done,
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }
}
