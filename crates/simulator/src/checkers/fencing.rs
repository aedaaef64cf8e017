//! Promise 4: a deposed leader is harmless. It writes nothing, and starts nothing.

use scheduler::ids::{Epoch, Seq, TaskId};
use store::Term;

use super::Verdict;
use crate::calendar::Millis;
use crate::model_engine::LaunchOrder;

#[derive(Default)]
pub(crate) struct Fencing {
    epoch: Epoch,
    seq: Seq,
    engine: Epoch,
}

impl Fencing {
    pub(crate) fn term_began(&mut self, term: Term) {
        self.epoch = term.epoch;
        self.seq = term.seq;
    }

    pub(crate) fn applied(&mut self, epoch: Epoch, seq: Seq) -> Verdict {
        let expected = Seq(self.seq.0 + 1);
        if epoch != self.epoch {
            return Err(format!("batch {} of term {} was applied in term {}", seq.0, epoch.0, self.epoch.0));
        }
        if seq != expected {
            return Err(format!("batch {} was applied where {} comes next", seq.0, expected.0));
        }
        self.seq = seq;
        Ok(())
    }

    pub(crate) fn engine_term(&mut self, epoch: Epoch) {
        self.engine = self.engine.max(epoch);
    }

    /// The engine has taken an order to start a task that it did not know.
    pub(crate) fn launched(&self, now: Millis, epoch: Epoch, order: &LaunchOrder) -> Verdict {
        self.in_time(now, order.not_after, &format!("the launch of {}", order.task))?;
        self.started(epoch, &order.task)
    }

    /// The engine has taken an order to kill.
    pub(crate) fn killed(&self, now: Millis, epoch: Epoch, task: &TaskId, not_after: Millis) -> Verdict {
        self.in_time(now, not_after, &format!("the kill of {task}"))?;
        if epoch < self.engine {
            let (ours, newest) = (epoch.0, self.engine.0);
            return Err(format!("{task} was killed for term {ours}, when the engine followed term {newest}"));
        }
        Ok(())
    }

    fn in_time(&self, now: Millis, not_after: Millis, what: &str) -> Verdict {
        if now <= not_after {
            return Ok(());
        }
        Err(format!("{what} was taken {} ms after its time", now - not_after))
    }

    pub(crate) fn started(&self, epoch: Epoch, task: &TaskId) -> Verdict {
        if epoch < self.engine {
            let (ours, newest) = (epoch.0, self.engine.0);
            return Err(format!(
                "{task} was started for term {ours}, when the engine followed term {newest}"
            ));
        }
        Ok(())
    }
}
