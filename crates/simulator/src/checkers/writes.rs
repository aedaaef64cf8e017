//! Promise 3: an acknowledged write survives. What a user was told is in the log, in the batch that the answer names.

use std::collections::{BTreeMap, BTreeSet};

use scheduler::ids::Seq;
use scheduler::job::Plan;
use scheduler::receipt::RequestKey;
use scheduler::request::{Answer, Edit, PlanText, Refusal, Request};
use scheduler::revision::Deed;
use scheduler::run::{Outcome, Record, Run, RunState};
use scheduler::state::Change;

use super::Verdict;
use super::ledger::{Ledger, Position};

#[derive(Default)]
pub(crate) struct Writes {
    asked: BTreeMap<u64, Request>,
    /// The batches whose effects users have been told of.
    told: Vec<(u64, Seq)>,
    /// Keys of requests of which somebody was told that they had been done just now.
    done: BTreeSet<RequestKey>,
}

impl Writes {
    pub(crate) fn asked(&mut self, number: u64, request: Request) {
        self.asked.insert(number, request);
    }

    pub(crate) fn answered(
        &mut self,
        number: u64,
        seq: Seq,
        answer: &Result<Answer, Refusal>,
        ledger: &Ledger,
    ) -> Verdict {
        let Ok(answer) = answer else { return Ok(()) };
        let request = self.asked.get(&number).ok_or("an answer to nothing")?;
        let Some((begin, changes)) = ledger.batches.get(&seq) else {
            return Err(format!(
                "request {number} was answered {answer:?}, and its batch {} is not applied",
                seq.0
            ));
        };
        self.told.push((number, seq));
        if let (Request::Once { once, .. }, false) = (request, matches!(answer, Answer::Before(_)))
            && !self.done.insert(once.key.clone())
        {
            return Err(format!("request {number} was done, and not for the first time"));
        }
        if in_effect(request, answer, *begin, changes, ledger) {
            return Ok(());
        }
        Err(format!(
            "request {number}, {request:?}, was answered {answer:?}; batch {} does not say so: {changes:?}",
            seq.0
        ))
    }

    /// The log has all that was told.
    pub(crate) fn finish(&self, ledger: &Ledger) -> Verdict {
        match self.told.iter().find(|(_, seq)| !ledger.batches.contains_key(seq)) {
            None => Ok(()),
            Some((number, seq)) => {
                Err(format!("request {number} was answered, and its batch {} is lost", seq.0))
            }
        }
    }
}

/// Whether the batch does what the answer says, or, where nothing had to change, the state was so already.
fn in_effect(
    request: &Request,
    answer: &Answer,
    begin: Position,
    changes: &[Change],
    ledger: &Ledger,
) -> bool {
    let any = |is: &dyn Fn(&Change) -> bool| changes.iter().any(is);
    match (request, answer) {
        // When it was done is told by its receipt; that it is there only once, by the checker of sets.
        (Request::Once { once, .. }, Answer::Before(_)) => ledger.state.receipts.contains_key(&once.key),
        (Request::Once { request, .. }, answer) => in_effect(request, answer, begin, changes, ledger),
        (Request::When { then, .. }, answer) => in_effect(then, answer, begin, changes, ledger),
        (Request::Edit { edit: Edit::RollBack { to }, .. }, Answer::Put { uid, version, changed: true })
            if !any(&|change| {
                matches!(change, Change::Revise(revision) if revision.deed == (Deed::RolledBack { to: *to })
                    && revision.job.uid == *uid && revision.job.version == *version)
            }) =>
        {
            false
        }
        (
            Request::Put(definition) | Request::Edit { definition, .. },
            Answer::Put { uid, version, changed: true },
        ) => any(&|change| {
            matches!(change, Change::PutJob(job) if job.uid == *uid && job.version == *version
                && job.name == definition.name && job.body == definition.body && *job.rules == definition.rules
                && same_plan(&job.plan, &definition.plan))
        }),
        (Request::Put(_) | Request::Edit { .. }, Answer::Put { uid, changed: false, .. }) => {
            ledger.state.jobs.contains_key(uid) || ledger.removed.contains(uid)
        }
        // All of a set is there, or none. A large one is put by several batches, of which this is the last.
        (Request::Apply { definitions, .. }, Answer::Applied(verdicts)) => {
            verdicts.len() == definitions.len()
                && definitions.iter().zip(verdicts).all(|(definition, verdict)| {
                    let put = |change: &Change| {
                        matches!(change, Change::PutJob(job) if Some(job.uid) == verdict.uid
                            && job.version == verdict.version && job.name == definition.name
                            && job.body == definition.body && *job.rules == definition.rules)
                    };
                    let mut lately = ledger.batches.values().rev().take(64);
                    !verdict.changed || any(&put) || lately.any(|(_, changes)| changes.iter().any(put))
                })
        }
        (Request::Delete(_), Answer::Deleted { .. }) => any(&|change| matches!(change, Change::RemoveJob(_))),
        (Request::Trigger { .. } | Request::Rerun { .. }, Answer::Triggered(key)) => {
            any(&|change| match change {
                Change::PutRun(run) => run.key == *key,
                Change::Append(record) => matches!(&**record, Record::Run(run) if run.key == *key),
                _ => false,
            })
        }
        // Its end is wanted, or has come.
        (Request::KillRun(key), Answer::Killed { .. }) => {
            ledger.state.runs.get(key).is_none_or(|run| dying(run))
        }
        (Request::KillJob(name), Answer::Killed { .. }) => {
            // Those that came to live later are others.
            !ledger.live_since(begin).any(|run| run.job == *name && !dying(run))
        }
        (Request::MarkSuccess { .. }, Answer::Marked(key)) => any(&|change| {
            matches!(change, Change::Append(record) if matches!(&**record, Record::Run(run)
                if run.key == *key && run.outcome == Outcome::Succeeded))
        }),
        (Request::Pause { .. }, Answer::Paused) => {
            any(&|change| matches!(change, Change::PutProgress(_, progress) if progress.paused.is_some()))
        }
        (Request::Resume(_), Answer::Resumed) => true,
        (Request::Backfill(order), Answer::Backfilling { id, slots }) => any(&|change| {
            matches!(change, Change::PutBackfill(backfill) if backfill.id == *id && backfill.slots == *slots
                && backfill.parallel == order.parallel && backfill.children == order.children)
        }),
        (Request::CancelBackfill { id, .. }, Answer::Cancelled { .. }) => {
            let kept = ledger.state.backfills.get(id);
            kept.is_none_or(|backfill| backfill.ended.is_some() || backfill.left() == 0 && backfill.cancelled)
        }
        _ => false,
    }
}

/// Whether the job starts as its user wrote it. Parents are held against their names elsewhere.
fn same_plan(plan: &Plan, asked: &PlanText) -> bool {
    match (plan, asked) {
        (Plan::Schedule(table), PlanText::Schedule { text, zone, dst }) => {
            (&table.text, &table.zone, table.dst) == (text, zone, *dst)
        }
        (Plan::Parents(_), PlanText::Parents(_)) => true,
        _ => false,
    }
}

fn dying(run: &Run) -> bool {
    matches!(&run.state, RunState::Running(live) if live.kill.is_some())
}
