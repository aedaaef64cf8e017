//! Promise 1, for the past: a backfill makes a run of each of its slots, in its order, none twice and none left out, and
//! never has more of them under way than it may.

use std::collections::BTreeMap;

use scheduler::backfill::{Backfill, Order, Redo};
use scheduler::ids::{BackfillId, Cause, RunKey};
use scheduler::run::{Record, Run};
use scheduler::schedule::Nominal;
use scheduler::state::{Change, State};

use super::Verdict;
use crate::calendar::Phrasebook;

/// What is still to come of one backfill, the next one last.
#[derive(Default)]
pub(crate) struct Backfills {
    to_come: BTreeMap<BackfillId, Vec<Nominal>>,
    made: BTreeMap<RunKey, BackfillId>,
}

impl Backfills {
    /// Takes the changes of one step; `state` is that before it.
    pub(crate) fn step(&mut self, changes: &[Change], phrases: &Phrasebook, state: &State) -> Verdict {
        // A step keeps only the last of each record, so a backfill comes before its runs or after them.
        for change in changes {
            match change {
                Change::PutBackfill(backfill) if !self.to_come.contains_key(&backfill.id) => {
                    self.to_come.insert(backfill.id, slots(backfill, phrases, state)?);
                }
                Change::RemoveBackfill(id) => {
                    self.to_come.remove(id);
                }
                _ => {}
            }
        }
        for change in changes {
            match change {
                Change::PutRun(run) => self.run(run.key)?,
                Change::Append(record) => {
                    if let Record::Run(run) = &**record {
                        self.run(run.key)?;
                    }
                }
                Change::PutBackfill(backfill) => within(backfill, changes, state)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn run(&mut self, key: RunKey) -> Verdict {
        let Cause::Backfill { number, nominal } = key.cause else { return Ok(()) };
        let id = BackfillId { job: key.job, number };
        if self.made.insert(key, id).is_some() {
            return Ok(());
        }
        let Some(to_come) = self.to_come.get_mut(&id) else {
            return Err(format!("run {key} is of a backfill that does not exist"));
        };
        match to_come.pop() {
            Some(next) if next == nominal => Ok(()),
            next => Err(format!("backfill {id}: slot {nominal:?} began; next was {next:?}")),
        }
    }

    pub(crate) fn finish(&self, state: &State) -> Verdict {
        for (id, to_come) in &self.to_come {
            let Some(backfill) = state.backfills.get(id) else { continue };
            if backfill.ended.is_some() && !backfill.cancelled && !to_come.is_empty() {
                return Err(format!("backfill {id} is over and has left out {to_come:?}"));
            }
            let made = self.made.values().filter(|of| *of == id).count() as u64;
            if matches!(backfill.what, Redo::Slots { .. }) && made != backfill.begun {
                return Err(format!("backfill {id} counts {} runs and has made {made}", backfill.begun));
            }
        }
        Ok(())
    }
}

/// All slots of a backfill as a list of the calendar has them, the first to begin last.
fn slots(backfill: &Backfill, phrases: &Phrasebook, state: &State) -> Result<Vec<Nominal>, String> {
    let Redo::Slots { table, from, to, order } = &backfill.what else { return Ok(Vec::new()) };
    let job = state.jobs.get(&backfill.id.job).ok_or("a backfill of nobody's")?;
    let meaning = phrases.find(table, job.name.as_str()).ok_or("a schedule of nobody's")?;
    let (anchor, to) = (table.anchor.as_millisecond(), to.as_millisecond());
    let (mut all, mut at) = (Vec::new(), from.as_millisecond() - 1);
    while let Some((nominal, due)) = meaning.next(anchor, at).filter(|(_, due)| *due < to) {
        all.push(nominal);
        at = due;
    }
    if all.len() as u64 != backfill.slots {
        return Err(format!(
            "backfill {} says {} slots; there are {}",
            backfill.id,
            backfill.slots,
            all.len()
        ));
    }
    if *order == Order::OldestFirst {
        all.reverse();
    }
    Ok(all)
}

/// No more of its runs live than it may have under way.
fn within(backfill: &Backfill, changes: &[Change], state: &State) -> Verdict {
    let of_it = |run: &Run| {
        run.key.job == backfill.id.job
            && matches!(run.key.cause, Cause::Backfill { number, .. } if number == backfill.id.number)
    };
    let ended =
        |key: RunKey| changes.iter().any(|change| matches!(change, Change::RemoveRun(gone) if *gone == key));
    let before = state.runs_of(backfill.id.job).filter(|run| of_it(run) && !ended(run.key)).count();
    let new = changes.iter().filter(|change| {
        matches!(change, Change::PutRun(run) if of_it(run) && !state.runs.contains_key(&run.key) && !ended(run.key))
    });
    let live = before + new.count();
    if live > backfill.parallel as usize {
        return Err(format!(
            "backfill {} has {live} runs alive; it may have {}",
            backfill.id, backfill.parallel
        ));
    }
    Ok(())
}

/// A backfill that is not over although nothing of it lives, and nothing holds it: neither its owner nor a run of its
/// job that comes first.
pub(crate) fn waits(state: &State) -> Option<String> {
    let open = state.backfills.values().filter(|backfill| backfill.ended.is_none());
    for backfill in open {
        let job = backfill.id.job;
        let disabled = state.jobs.get(&job).is_none_or(|job| job.rules.disabled);
        let paused = state.progress.get(&job).is_some_and(|progress| progress.paused.is_some());
        let busy = state.runs_of(job).next().is_some();
        let lives = state.runs.values().any(|run| BackfillId::of_cycle(run.cycle) == backfill.id);
        if !disabled && !paused && !busy && !lives {
            return Some(format!("backfill {} is not over: {backfill:?}", backfill.id));
        }
    }
    None
}
