//! What an old Chronos has left beside our store: its jobs are taken over at the first leadership, and whether it has led
//! since is looked at in every later one, as what it has launched we do not know.

use std::sync::{Arc, Mutex, PoisonError};

use store::StoreError;
use store::zookeeper::Options;
use store::zookeeper::old::{self, Mark, Old, Standing};
use tokio::sync::watch;

/// Where it is, and what of it is to be taken over in this term.
#[derive(Debug)]
pub struct Heritage {
    options: Options,
    orders: watch::Sender<Option<Arc<Old>>>,
    framework_id: Mutex<Option<Arc<str>>>,
}

impl Heritage {
    /// That beside this store.
    pub fn new(options: Options) -> Self {
        Self { options, orders: watch::Sender::new(None), framework_id: Mutex::default() }
    }

    /// Under which id Mesos knew the old Chronos, as it was found when this node was elected last.
    pub(super) fn framework_id(&self) -> Option<Arc<str>> {
        self.framework_id.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Jobs that are to be taken over: until they are, nothing is launched.
    pub fn orders(&self) -> watch::Receiver<Option<Arc<Old>>> {
        self.orders.subscribe()
    }

    /// The jobs of an order are here.
    /// # Errors
    /// They are, but the store does not know it: they are taken over once more, which changes nothing.
    pub async fn is_taken(&self, order: &Arc<Old>) -> Result<(), StoreError> {
        let is_it = |present: &Option<Arc<Old>>| present.as_ref().is_some_and(|it| Arc::ptr_eq(it, order));
        // A later term has looked anew, and has an order of its own.
        if !is_it(&self.orders.borrow()) {
            return Ok(());
        }
        let remembered = old::recall(self.options.clone()).await?;
        old::remember(self.options.clone(), remembered, Standing::Settled(order.mark)).await?;
        self.orders.send_if_modified(|present| {
            let is_it = is_it(present);
            if is_it {
                *present = None;
            }
            is_it
        });
        Ok(())
    }

    pub(super) fn is_awaited(&self) -> bool {
        self.orders.borrow().is_some()
    }

    /// Looks before a term, whose store has jobs or has none. Takes as long as there are old jobs to be read: a bound on
    /// all of it would keep whoever has many of them and slow servers from ever leading. Each question has one of its own.
    /// # Errors
    /// Why nothing may be launched, and what to do.
    pub(super) async fn look(&self, has_jobs: bool) -> Result<(), String> {
        self.orders.send_replace(None);
        match self.ask(has_jobs).await {
            Ok(verdict) => verdict,
            Err(problem) => Err(format!("cannot look at what an old Chronos has left: {problem}")),
        }
    }

    async fn ask(&self, has_jobs: bool) -> Result<Result<(), String>, StoreError> {
        let found = old::read(self.options.clone()).await?;
        *self.framework_id.lock().unwrap_or_else(PoisonError::into_inner) =
            found.framework_id.as_deref().map(Arc::from);
        let remembered = old::recall(self.options.clone()).await?;
        let jobs = if has_jobs { Jobs::Some } else { Jobs::None };
        match verdict(remembered.standing, &found, jobs) {
            Verdict::Lead => {}
            Verdict::Settle => {
                old::remember(self.options.clone(), remembered, Standing::Settled(found.mark)).await?;
            }
            Verdict::Import => {
                if remembered.standing != Standing::Import {
                    old::remember(self.options.clone(), remembered, Standing::Import).await?;
                }
                self.orders.send_replace(Some(Arc::new(found)));
            }
            Verdict::Ask => {
                return Ok(Err(format!(
                    "an old Chronos has written below `{}/state` since its jobs were taken over here, so nothing is launched \
                     until you say which jobs count: `chronos settle import` takes its jobs over again, `chronos settle keep` \
                     goes on with those that are here",
                    self.options.path
                )));
            }
        }
        Ok(Ok(()))
    }
}

/// Whether our store has jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Jobs {
    None,
    Some,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Lead,
    /// Lead, and remember what there is.
    Settle,
    /// Lead, and take its jobs over first.
    Import,
    /// An operator must say.
    Ask,
}

fn verdict(standing: Standing, found: &Old, ours: Jobs) -> Verdict {
    match standing {
        Standing::Import => Verdict::Import,
        Standing::New if !found.has_jobs() => Verdict::Settle,
        Standing::New if ours == Jobs::None => Verdict::Import,
        Standing::New => Verdict::Ask,
        Standing::Settled(mark) if mark == found.mark => Verdict::Lead,
        // Without jobs there or here before, it is the first import that comes late.
        Standing::Settled(Mark { nodes: 0, .. }) if ours == Jobs::None && found.has_jobs() => Verdict::Import,
        Standing::Settled(_) => Verdict::Ask,
    }
}

#[cfg(test)]
mod tests {
    use store::zookeeper::old::OldJob;

    use super::*;

    fn found(jobs: usize, newest: i64) -> Old {
        let job = |n| OldJob { name: format!("j{n}"), json: "{}".into(), mzxid: newest };
        Old { jobs: (0..jobs).map(job).collect(), mark: Mark { nodes: jobs, newest }, ..Old::default() }
    }

    #[test]
    fn an_old_chronos_that_has_led_is_noticed() {
        let settled = |nodes, newest| Standing::Settled(Mark { nodes, newest });
        for (standing, found, ours, expected) in [
            (Standing::New, found(0, 0), Jobs::None, Verdict::Settle),
            (Standing::New, found(0, 0), Jobs::Some, Verdict::Settle),
            (Standing::New, found(2, 7), Jobs::None, Verdict::Import),
            (Standing::New, found(2, 7), Jobs::Some, Verdict::Ask),
            (Standing::Import, found(2, 7), Jobs::Some, Verdict::Import),
            (settled(2, 7), found(2, 7), Jobs::Some, Verdict::Lead),
            (settled(2, 7), found(2, 7), Jobs::None, Verdict::Lead),
            (settled(2, 7), found(2, 8), Jobs::Some, Verdict::Ask),
            (settled(2, 7), found(1, 7), Jobs::Some, Verdict::Ask),
            (settled(2, 7), found(2, 8), Jobs::None, Verdict::Ask),
            (settled(0, 0), found(1, 8), Jobs::None, Verdict::Import),
            (settled(0, 0), found(1, 8), Jobs::Some, Verdict::Ask),
        ] {
            assert_eq!(verdict(standing, &found, ours), expected, "{standing:?} {found:?} {ours:?}");
        }
    }
}
