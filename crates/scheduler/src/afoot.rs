//! What lives of the cycles of backfills, and which backfills have to be looked at because something moved.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{BackfillId, Cycle, JobUid};
use crate::state::{Change, State};

/// Follows the changes of a state. Costs nothing while there is no backfill.
#[derive(Clone, Debug, Default)]
pub(crate) struct Afoot {
    /// Live runs and runs whose children are to be told, by cycle; only cycles of backfills.
    lives: BTreeMap<Cycle, usize>,
    /// Backfills that may be able to go on.
    pub(crate) stirred: BTreeSet<BackfillId>,
    /// Backfills that may be complete: the last of a cycle has ended, or no more begins.
    pub(crate) over: BTreeSet<BackfillId>,
}

/// Whether something of a cycle begins or ends to live.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    Begins,
    Ends,
    Stays,
}

impl Life {
    fn of(before: bool, after: bool) -> Self {
        match (before, after) {
            (false, true) => Self::Begins,
            (true, false) => Self::Ends,
            _ => Self::Stays,
        }
    }
}

impl Afoot {
    pub(crate) fn new(state: &State) -> Self {
        let mut afoot = Self::default();
        if state.backfills.is_empty() {
            return afoot;
        }
        let runs = state.runs.values().map(|run| run.cycle);
        let fanouts = state.fanouts.values().map(|fanout| fanout.cycle);
        for cycle in runs.chain(fanouts) {
            afoot.live(state, cycle, Life::Begins);
        }
        let open = state.backfills.values().filter(|backfill| backfill.ended.is_none());
        afoot.stirred = open.map(|backfill| backfill.id).collect();
        afoot.over = afoot.stirred.clone();
        afoot
    }

    /// Whether anything lives of the cycle.
    pub(crate) fn lives(&self, cycle: Cycle) -> bool {
        self.lives.contains_key(&cycle)
    }

    pub(crate) fn same_lives(&self, other: &Self) -> bool {
        self.lives == other.lives
    }

    /// Takes a change that is about to be made of `state`.
    pub(crate) fn note(&mut self, state: &State, change: &Change) {
        match change {
            Change::PutBackfill(backfill) if backfill.ended.is_none() => {
                self.stirred.insert(backfill.id);
                if backfill.next.is_none() {
                    self.over.insert(backfill.id);
                }
            }
            Change::PutBackfill(backfill) => self.forget(backfill.id),
            Change::RemoveBackfill(id) => {
                self.forget(*id);
                self.lives.retain(|cycle, _| BackfillId::of_cycle(*cycle) != *id);
            }
            _ if state.backfills.is_empty() => {}
            Change::PutJob(job) => self.stir_job(state, job.uid),
            Change::PutProgress(uid, _) => self.stir_job(state, *uid),
            Change::PutRun(run) => {
                self.stir_job(state, run.key.job);
                self.live(state, run.cycle, Life::of(state.runs.contains_key(&run.key), true));
            }
            Change::RemoveRun(key) => {
                self.stir_job(state, key.job);
                let cycle = state.runs.get(key).map(|run| run.cycle);
                cycle.into_iter().for_each(|cycle| self.live(state, cycle, Life::Ends));
            }
            Change::PutFanout(fanout) => {
                self.live(state, fanout.cycle, Life::of(state.fanouts.contains_key(&fanout.run), true));
            }
            Change::RemoveFanout(run) => {
                let cycle = state.fanouts.get(run).map(|fanout| fanout.cycle);
                cycle.into_iter().for_each(|cycle| self.live(state, cycle, Life::Ends));
            }
            // A join waits for something that lives, or for what will never come since the graph was edited.
            _ => {}
        }
    }

    fn forget(&mut self, id: BackfillId) {
        self.stirred.remove(&id);
        self.over.remove(&id);
    }

    fn stir_job(&mut self, state: &State, job: JobUid) {
        let open = state.backfills_of(job).filter(|backfill| backfill.ended.is_none());
        self.stirred.extend(open.map(|backfill| backfill.id));
    }

    fn live(&mut self, state: &State, cycle: Cycle, life: Life) {
        let Some(backfill) = state.backfills.get(&BackfillId::of_cycle(cycle)) else { return };
        match life {
            Life::Stays => return,
            Life::Begins => *self.lives.entry(cycle).or_default() += 1,
            Life::Ends => {
                if let Some(count) = self.lives.get_mut(&cycle) {
                    *count -= 1;
                    if *count == 0 {
                        self.lives.remove(&cycle);
                    }
                }
            }
        }
        if backfill.ended.is_none() {
            self.stirred.insert(backfill.id);
            if !self.lives.contains_key(&cycle) {
                self.over.insert(backfill.id);
            }
        }
    }
}
