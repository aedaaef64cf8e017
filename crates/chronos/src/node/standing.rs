//! Whether a node may stand for election on the store that is there. It is asked before: whoever is elected has begun a
//! term, and a node that is not to work on a store shall not do even that.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use store::Store;
use store::projection::ProjectionHandle;
use tracing::{error, warn};

use super::Acquaintance;

/// A store that does not say which it is within this is asked again when it has let this node lead.
const TOLD_WITHIN: Duration = Duration::from_secs(5);

/// What it takes to tell.
pub(super) struct Standing {
    pub(super) store: Arc<dyn Store>,
    pub(super) acquaintance: Acquaintance,
    pub(super) projection: ProjectionHandle,
    /// Whether the projection shows what is in the store.
    pub(super) warm: Arc<AtomicBool>,
    /// What is strange about a store that the node works on all the same.
    pub(super) strange: Arc<OnceLock<String>>,
    /// Why it does not stand, as it was told last.
    pub(super) refused: Mutex<Option<String>>,
}

impl Standing {
    /// Whether this node may stand, as far as the store says which it is.
    /// # Errors
    /// Why not, and what to do.
    pub(super) async fn check(&self) -> Result<(), String> {
        let told = tokio::time::timeout(TOLD_WITHIN, self.store.store_id()).await;
        let fit = match told {
            Ok(Ok(Some(id))) => {
                let followed = self.warm.load(Ordering::Relaxed);
                let may_have_jobs = !followed || !self.projection.read().state().jobs.is_empty();
                let admitted = self.acquaintance.admits(&id, may_have_jobs);
                if admitted.is_ok() {
                    self.notice(&id);
                }
                admitted
            }
            _ => Ok(()),
        };
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if *refused != fit.clone().err() {
            *refused = fit.clone().err();
            if let Some(reason) = &*refused {
                error!(reason, "does not stand for election");
            }
        }
        fit
    }

    /// Why this node does not stand.
    pub(super) fn refused(&self) -> Option<String> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says, once, what is strange about the store with this id.
    pub(super) fn notice(&self, id: &str) {
        if self.strange.get().is_none()
            && let Some(reason) = self.acquaintance.strange(id)
        {
            warn!(reason, "works on another store than before");
            let _ = self.strange.set(reason);
        }
    }
}
