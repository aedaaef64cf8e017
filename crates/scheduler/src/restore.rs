//! What a restored state must take over from the one whose place it takes: what the world has seen cannot be unseen.
//!
//! Engines know tasks by their ids, and ids follow from numbers. So no number may be given out a second time for
//! something else, and no task that is alive may be forgotten.

use std::sync::Arc;

use crate::ids::{BackfillId, Cause, JobUid, RunKey, TaskId};
use crate::job::{Job, Plan, Progress};
use crate::run::{KillReason, Live, Run, RunState};
use crate::state::{Change, Meta, State};

/// Of a job that the present state does not know, nobody can tell how far its numbers have come since the backup was
/// taken. They go on this much later: more than a job is triggered by hand, and small enough for thousands of restores.
pub const NUMBERS_SKIPPED: u32 = 1_000_000;

/// What is taken over.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CarriedOver {
    /// To be applied to the restored state, together with it.
    pub changes: Vec<Change>,
    /// Tasks of the present state that the restored one may launch again, and thereby adopt. Those that it does not are
    /// to be ended.
    pub strays: Vec<TaskId>,
}

/// Compares the state that is there with the one that is to take its place. `ended` says whether a run has ended in the
/// latter.
pub fn carry_over(present: &State, restored: &State, ended: impl Fn(RunKey) -> bool) -> CarriedOver {
    let mut carried = CarriedOver::default();
    let meta = meta(&present.meta, &restored.meta);
    if meta != restored.meta {
        carried.changes.push(Change::Meta(meta));
    }
    for (uid, job) in &restored.jobs {
        let known = present.jobs.get(uid).zip(present.progress.get(uid));
        carried.number(job, restored.progress.get(uid), known);
    }
    for run in present.runs.values() {
        if let RunState::Running(live) = &run.state {
            carried.live(run, live, restored, &ended);
        }
    }
    carried
}

/// Counters go on behind both. Uids of another store have another salt, and never meet ours.
fn meta(present: &Meta, restored: &Meta) -> Meta {
    let salt = |uid: u64| uid >> JobUid::COUNTER_BITS;
    let next_uid = if salt(present.next_uid) == salt(restored.next_uid) {
        present.next_uid.max(restored.next_uid)
    } else {
        present.next_uid
    };
    let graph = present.graph.max(restored.graph);
    let notices = present.notices.max(restored.notices);
    // An engine goes on as it is: its tasks are those of the present.
    let engine_note = present.engine_note.clone().or_else(|| restored.engine_note.clone());
    Meta { next_uid, graph, notices, engine_note, ..restored.clone() }
}

impl CarriedOver {
    /// Numbers of a job go on behind those that were given out.
    fn number(
        &mut self,
        job: &Arc<Job>,
        progress: Option<&Arc<Progress>>,
        known: Option<(&Arc<Job>, &Arc<Progress>)>,
    ) {
        let version = match known {
            Some((present, _)) => job.version.max(present.version),
            None => job.version.saturating_add(NUMBERS_SKIPPED),
        };
        if version != job.version {
            self.changes.push(Change::PutJob(Arc::new(Job { version, ..(**job).clone() })));
        }
        let Some(progress) = progress else { return };
        let sequence = match known {
            Some((_, present)) => progress.sequence.max(present.sequence),
            None => progress.sequence.saturating_add(NUMBERS_SKIPPED),
        };
        if sequence != progress.sequence {
            let progress = Progress { sequence, ..(**progress).clone() };
            self.changes.push(Change::PutProgress(job.uid, Arc::new(progress)));
        }
    }

    /// A run that an engine may have.
    fn live(&mut self, run: &Arc<Run>, live: &Live, restored: &State, ended: &impl Fn(RunKey) -> bool) {
        match restored.runs.get(&run.key) {
            // It has come further since: the engine has the later attempt.
            Some(then) if then.attempts.len() <= run.attempts.len() => {
                if then != run {
                    self.changes.push(Change::PutRun(run.clone()));
                }
            }
            Some(_) => self.strays.push(live.task.clone()),
            None if ended(run.key) || may_come_again(run.key, restored) => {
                self.strays.push(live.task.clone())
            }
            None => {
                let kill = live.kill.clone().or(Some(KillReason::Restored));
                let state = RunState::Running(Live { kill, ..live.clone() });
                self.changes.push(Change::PutRun(Arc::new(Run { state, ..(**run).clone() })));
            }
        }
    }
}

/// Whether the restored state may make this very run: of a slot that it has not come to, of a backfill that goes
/// on, or of parents that it runs again.
fn may_come_again(key: RunKey, restored: &State) -> bool {
    let plan = restored.jobs.get(&key.job).map(|job| &job.plan);
    match (key.cause, plan) {
        (Cause::Slot { plan, .. }, Some(Plan::Schedule(table))) => table.plan == plan,
        (Cause::Join { .. }, Some(Plan::Parents(_))) => true,
        (Cause::Backfill { number, .. }, Some(_)) => {
            let backfill = restored.backfills.get(&BackfillId { job: key.job, number });
            backfill.is_some_and(|backfill| backfill.next.is_some())
        }
        (Cause::Slot { .. } | Cause::Trigger(_) | Cause::Join { .. } | Cause::Backfill { .. }, _) => false,
    }
}
