//! Promise 3, for what takes more than one batch or is asked for more than once: a set of jobs is put whole once it is
//! decided, nothing begins meanwhile, and a request with a key is done once.

use std::sync::Arc;

use jiff::Timestamp;
use scheduler::job::Job;
use scheduler::receipt::Receipt;
use scheduler::run::{Run, RunState};
use scheduler::state::{Change, State};

use super::Verdict;

/// Takes the changes of one step; `before` is the state before it.
pub(crate) fn step(changes: &[Change], before: &State) -> Verdict {
    for change in changes {
        if let Change::PutReceipt(receipt) = change
            && let Some(old) = before.receipts.get(&receipt.once.key)
            && age(old.at, receipt.at) < i128::try_from(Receipt::AGE_MAX.as_millis()).unwrap_or(0)
        {
            return Err(format!("the request {} was done twice: {old:?}, {receipt:?}", receipt.once.key));
        }
    }
    if before.meta.applying.is_none() {
        return Ok(());
    }
    let mut left = before.staged.clone();
    for change in changes {
        match change {
            // What waited for a parent that the set takes away may come into the queue, and stays there until all is put.
            Change::PutRun(run) if runs(run) && !before.runs.get(&run.key).is_some_and(|run| runs(run)) => {
                return Err(format!("run {} is launched while a set is being put", run.key));
            }
            Change::Unstage(name) => {
                let Some(definition) = left.remove(name) else { continue };
                let put = changes.iter().rev().find_map(|change| match change {
                    Change::PutJob(job) if job.name == *name => Some(job),
                    _ => None,
                });
                let as_decided = |job: &&Arc<Job>| {
                    job.name == *name && job.body == definition.body && *job.rules == definition.rules
                };
                if put.or_else(|| before.jobs.values().find(as_decided)).filter(as_decided).is_none() {
                    return Err(format!("job {name} of a decided set is not as it was decided"));
                }
            }
            Change::Meta(meta) if meta.applying.is_none() && !left.is_empty() => {
                let names: Vec<_> = left.keys().collect();
                return Err(format!("a decided set is over, but {names:?} were not put"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn runs(run: &Run) -> bool {
    matches!(run.state, RunState::Running(_))
}

fn age(from: Timestamp, to: Timestamp) -> i128 {
    to.as_millisecond() as i128 - from.as_millisecond() as i128
}
