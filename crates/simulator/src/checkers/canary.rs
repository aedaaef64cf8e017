//! Promise 7: no job can hurt the others. The canary's runs start in time once the cluster is well, whatever the others do.

use std::collections::BTreeMap;

use scheduler::ids::{Cause, JobUid, RunKey};
use scheduler::run::{Outcome, Record};
use scheduler::state::Change;

use super::Verdict;
use crate::calendar::Millis;
use crate::model_engine::LaunchOrder;
use crate::users::CANARY;

/// After everything has healed, a leader is elected, believes its clock, and has caught up.
const RECOVERY: Millis = 90_000;
/// How long the canary is watched.
const WATCH: Millis = 30_000;
/// How late a run of it may start: two round trips to the store, and its predecessor.
const LATE: Millis = 1_500;

#[derive(Default)]
pub(crate) struct Canary {
    uid: Option<JobUid>,
    /// A limit of the server holds it back like all others, so it may be late; but it must have its share.
    pub(crate) may_wait: bool,
    /// What a leader's clock may be behind by: so much later is in time.
    pub(crate) skew: Millis,
    healed: Option<Millis>,
    started: u64,
    bad: Option<String>,
    due: BTreeMap<RunKey, Millis>,
}

impl Canary {
    fn watching(&self, now: Millis) -> bool {
        self.healed.is_some_and(|healed| now > healed + RECOVERY)
    }

    pub(crate) fn step(&mut self, now: Millis, changes: &[Change]) -> Verdict {
        for change in changes {
            match change {
                // Attempts that an engine lost are failures too: too many of them in a row disable even the canary.
                Change::PutJob(job) if job.name.as_str() == CANARY => {
                    self.uid = Some(job.uid).filter(|_| !job.rules.disabled);
                }
                // Only those that are made while it is watched: what was made by a wrong clock waits by it.
                Change::PutRun(run) if Some(run.key.job) == self.uid && self.watching(now) => {
                    self.due.entry(run.key).or_insert(run.due.as_millisecond());
                }
                Change::Append(record) if self.watching(now) && !self.may_wait => match &**record {
                    Record::Run(run)
                        if Some(run.key.job) == self.uid && run.outcome != Outcome::Succeeded =>
                    {
                        return Err(format!("the canary's run {} ended: {:?}", run.key, run.outcome));
                    }
                    Record::Range(range) if Some(range.job) == self.uid => {
                        return Err(format!(
                            "{} slots of the canary did not run: {:?}",
                            range.count, range.outcome
                        ));
                    }
                    _ => {}
                },
                _ => {}
            }
        }
        self.bad.take().map_or(Ok(()), Err)
    }

    pub(crate) fn started(&mut self, now: Millis, order: &LaunchOrder) {
        if Some(order.run.job) != self.uid || !self.watching(now) {
            return;
        }
        self.started += 1;
        let late = self.due.get(&order.run).map_or(0, |due| now - due);
        if matches!(order.run.cause, Cause::Slot { .. }) && late > LATE + self.skew && !self.may_wait {
            self.bad = Some(format!("the canary's run {} started {late} ms late", order.run));
        }
    }

    pub(crate) fn healed(&mut self, now: Millis) {
        self.healed = Some(now);
    }

    pub(crate) fn waits(&self, now: Millis) -> Option<String> {
        let healed = self.healed?;
        let over = now > healed + RECOVERY + WATCH && (self.started >= 3 || self.uid.is_none());
        (!over).then(|| format!("the canary has run {} times only", self.started))
    }

    pub(crate) fn finish(&mut self) -> Verdict {
        self.bad.take().map_or(Ok(()), Err)
    }
}
