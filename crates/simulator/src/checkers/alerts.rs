//! People are told: each run that failed and each range of slots that was missed is counted once for every address, in
//! the same step; and what was told arrives, under one id always the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use scheduler::ids::JobUid;
use scheduler::job::Rules;
use scheduler::notice::{Address, AlertKind, Channel, Notice, NoticeId, NoticeState};
use scheduler::run::{Outcome, Record};
use scheduler::state::{Change, State};

use super::Verdict;

pub(crate) struct Alerts {
    /// The notices that there have been, as they were last.
    notices: BTreeMap<NoticeId, Arc<Notice>>,
    /// What receivers have seen, by id.
    received: BTreeMap<NoticeId, Arc<Notice>>,
    /// The last notice that began before all healed; jobs that fail for ever have new ones for ever.
    healed: NoticeId,
}

/// How many alerts of a kind went to an address; disabled counts as failed.
type Counts = BTreeMap<(Address, AlertKind), u64>;

impl Default for Alerts {
    fn default() -> Self {
        Self { notices: BTreeMap::new(), received: BTreeMap::new(), healed: NoticeId(0) }
    }
}

impl Alerts {
    /// Takes a step, before its changes have become part of `state`.
    pub(crate) fn step(&mut self, changes: &[Change], state: &State) -> Verdict {
        // A job may be created and miss slots in one step.
        let mut put: BTreeMap<JobUid, &Rules> = BTreeMap::new();
        let (mut expected, mut found) = (Counts::new(), Counts::new());
        for change in changes {
            match change {
                Change::PutJob(job) => {
                    put.insert(job.uid, &job.rules);
                }
                Change::Append(record) => {
                    let (uid, outcome) = match &**record {
                        Record::Run(run) => (run.key.job, &run.outcome),
                        Record::Range(range) => (range.job, &range.outcome),
                    };
                    let kind = match outcome {
                        Outcome::Failed | Outcome::TimedOut | Outcome::Lost => AlertKind::Failed,
                        Outcome::Missed(_) => AlertKind::Missed,
                        _ => continue,
                    };
                    // What ends after its job was deleted has no owner any more.
                    let known = || state.jobs.get(&uid).map(|job| &*job.rules);
                    for address in put.get(&uid).copied().or_else(known).map(addresses).unwrap_or_default() {
                        *expected.entry((address, kind)).or_default() += 1;
                    }
                }
                Change::PutNotice(notice) => {
                    let before = self.notices.insert(notice.id, notice.clone());
                    let seen = self.received.contains_key(&notice.id);
                    for (kind, count) in &notice.counts {
                        let before = before.as_ref().and_then(|n| n.counts.get(kind)).copied().unwrap_or(0);
                        if seen && *count != before {
                            return Err(format!("notice {} was added to after it was sent", notice.id.0));
                        }
                        let kind = match kind {
                            AlertKind::Failed | AlertKind::Disabled => AlertKind::Failed,
                            AlertKind::Missed => AlertKind::Missed,
                            _ => continue,
                        };
                        if *count > before {
                            *found.entry((notice.address.clone(), kind)).or_default() += count - before;
                        }
                    }
                }
                _ => {}
            }
        }
        if expected == found {
            return Ok(());
        }
        Err(format!("of what happened {expected:?} should be told, and {found:?} is"))
    }

    /// A receiver has taken a message.
    pub(crate) fn received(&mut self, notice: &Arc<Notice>) -> Verdict {
        let same = |earlier: &Notice| earlier.alerts == notice.alerts && earlier.counts == notice.counts;
        match self.received.insert(notice.id, notice.clone()) {
            Some(earlier) if !same(&earlier) => {
                Err(format!("notice {} was sent twice with different contents", notice.id.0))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn healed(&mut self, state: &State) {
        self.healed = NoticeId(state.meta.notices);
    }

    pub(crate) fn waits(&self, state: &State) -> Option<String> {
        let mut old = state.notices.range(..=self.healed).map(|(_, notice)| notice);
        let waiting = old.find(|notice| !notice.is_settled())?;
        Some(format!("notice {} is {:?}", waiting.id.0, waiting.state))
    }

    /// What the store calls delivered has been received, as it is.
    pub(crate) fn finish(&self) -> Verdict {
        for (id, notice) in &self.notices {
            let received = self.received.get(id).is_some_and(|seen| seen.counts == notice.counts);
            if matches!(notice.state, NoticeState::Delivered { .. }) && !received {
                return Err(format!("notice {} counts as delivered, and nobody has it", id.0));
            }
        }
        Ok(())
    }
}

/// Everybody who shall hear of failures and misses: all rules of this simulation ask for both.
fn addresses(rules: &Rules) -> Vec<Address> {
    let mail = rules.recipients().iter().map(|to| Address { channel: Channel::Mail, to: to.clone() });
    mail.chain([Address { channel: Channel::Webhook, to: "".into() }]).collect()
}
