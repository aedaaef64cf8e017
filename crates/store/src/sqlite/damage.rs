//! What is known to be broken in the file, and what follows from it.
//!
//! Jobs do without their past, so damage in the history stops nobody: it is told, and they go on. Damage in what a term
//! lives of, or under a batch that is being written, ends the leadership of this process for good: each further write
//! might lay waste what is still whole. Reasons: decision 45.

use std::sync::{Mutex, OnceLock, PoisonError};

use tracing::error;

use super::Shared;
use crate::{Deposed, StoreError};

/// How far damage reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// History, revisions, audit.
    Past,
    /// What a term lives of, and whatever a batch is written to.
    Present,
}

/// What has been met so far.
#[derive(Debug, Default)]
pub(super) struct Damage {
    past: Mutex<Option<String>>,
    present: OnceLock<StoreError>,
}

impl Damage {
    /// What is broken of the past.
    pub(super) fn past(&self) -> Option<String> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why this process will not lead any more.
    pub(super) fn present(&self) -> Option<&StoreError> {
        self.present.get()
    }

    /// All of the past was replaced.
    pub(super) fn past_is_replaced(&self) {
        *self.past.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Shared {
    /// Remembers what an error tells of damage, and says so once; other errors tell of none.
    pub(super) fn met(&self, reach: Reach, error: StoreError) -> StoreError {
        if matches!(error, StoreError::Damaged(_)) {
            match reach {
                Reach::Past => self.past_is_broken(&error),
                Reach::Present => self.lead_no_more(&error),
            }
        }
        error
    }

    /// This process writes no further batch, and says why to whoever wants it to lead.
    pub(super) fn lead_no_more(&self, why: &StoreError) {
        if self.damage.present.set(why.clone()).is_ok() {
            error!(%why, "nothing more is written to the store by this server");
        }
        self.end_term();
    }

    /// The answer to a batch of a term that is over: what has ended it says more than that it is.
    pub(super) fn refusal(&self, otherwise: String) -> Deposed {
        Deposed { reason: self.damage.present().map_or(otherwise, ToString::to_string) }
    }

    fn past_is_broken(&self, why: &StoreError) {
        let mut past = self.damage.past.lock().unwrap_or_else(PoisonError::into_inner);
        if past.is_none() {
            error!(%why, "part of the history cannot be read; jobs go on");
            *past = Some(why.to_string());
        }
    }
}
