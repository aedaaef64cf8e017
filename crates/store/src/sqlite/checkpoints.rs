//! Copies the write-ahead log into the database beside the thread that writes, so that no commit waits for it.
//!
//! SQLite would do it within the commit that makes the log long: tens of MiB are written and synced while everybody
//! behind that commit waits. Here a second connection copies. The log begins anew only at a moment when all of it is
//! copied, and under load that moment never comes by itself, so the writer copies what came during the copying: a
//! short rest, between two transactions.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use rusqlite::Connection;

use super::open::Place;
use crate::StoreError;

/// A log of about this many bytes is copied: long enough that a page which changes often is copied once, short enough
/// that syncing the copy does not hold up the disk for long.
const LOG_BYTES: usize = 16 * 1024 * 1024;
/// What a transaction adds to the log besides its batches: the pages of some tables and indices.
const TRANSACTION_BYTES: usize = 48 * 1024;
/// A rest of so many pages is left to the writer, which needs a millisecond or two for it.
const REST_PAGES: i64 = 256;
/// How often the copying begins anew for what came meanwhile. Each round is a small part of the one before.
const ROUNDS_MAX: usize = 4;

/// Where a copying stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The log is short.
    Idle,
    /// The other thread is to copy, or does.
    Copying,
    /// It has; the rest is the writer's.
    Rest,
    /// The store is being closed.
    Closing,
}

#[derive(Debug)]
struct Shared {
    stage: Mutex<Stage>,
    changed: Condvar,
}

/// The writer's side.
#[derive(Debug)]
pub(super) struct Checkpoints {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// About how long the log has become since it was last copied.
    bytes: usize,
}

impl Checkpoints {
    pub(super) fn start(place: &Place) -> Result<Self, StoreError> {
        let connection = place.copier()?;
        let shared = Arc::new(Shared { stage: Mutex::new(Stage::Idle), changed: Condvar::new() });
        let theirs = shared.clone();
        let thread = std::thread::Builder::new().name("store-copier".into());
        let thread = thread
            .spawn(move || copy_for_ever(&theirs, &connection))
            .map_err(|error| StoreError::Unavailable(format!("cannot start a thread: {error}")))?;
        Ok(Self { shared, thread: Some(thread), bytes: 0 })
    }

    /// A transaction of so many bytes of batches was committed.
    pub(super) fn committed(&mut self, batches: usize) {
        // Every change is written twice: as a row and as a line for followers.
        self.bytes += TRANSACTION_BYTES + 2 * batches;
        if self.bytes >= LOG_BYTES && self.shared.advance(Stage::Idle, Stage::Copying) {
            self.bytes = 0;
        }
    }

    /// Between two transactions: copies the rest, if the other thread has left one.
    pub(super) fn copy_rest(&self, connection: &Connection) {
        if self.shared.advance(Stage::Rest, Stage::Idle) {
            // What fails here is copied the next time.
            let _ = copy(connection);
        }
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        self.shared.set(Stage::Closing);
        if let Some(thread) = self.thread.take() {
            // Its panic was printed when it happened.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn set(&self, stage: Stage) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
        self.changed.notify_one();
    }

    /// Goes on from one stage to the next. Returns whether it was at the first.
    fn advance(&self, from: Stage, to: Stage) -> bool {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        let was = *stage == from;
        if was {
            *stage = to;
            self.changed.notify_one();
        }
        was
    }

    /// Waits until there is something to copy; false when the store is being closed.
    fn is_wanted(&self) -> bool {
        let stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = |stage: &mut Stage| matches!(stage, Stage::Idle | Stage::Rest);
        *self.changed.wait_while(stage, idle).unwrap_or_else(PoisonError::into_inner) == Stage::Copying
    }
}

fn copy_for_ever(shared: &Shared, connection: &Connection) {
    while shared.is_wanted() {
        for _ in 0..ROUNDS_MAX {
            // A failing disk is noticed, and told, by whoever commits.
            if copy(connection).is_ok_and(|left| left > REST_PAGES) {
                continue;
            }
            break;
        }
        shared.advance(Stage::Copying, Stage::Rest);
    }
}

/// Copies what is in the log now, without holding up anybody. Returns how many pages are left in it.
fn copy(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
        let (log, copied): (i64, i64) = (row.get(1)?, row.get(2)?);
        Ok(log - copied)
    })
}
