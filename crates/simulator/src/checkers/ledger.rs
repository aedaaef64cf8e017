//! The store's log as the checkers keep it, and what every ledger must be: no run ends twice, none vanishes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use scheduler::audit::{Act, Entry};
use scheduler::backfill::Children;
use scheduler::ids::{BackfillId, Cause, JobUid, RunKey, Seq, TaskId};
use scheduler::job::{Job, Plan};
use scheduler::revision::Deed;
use scheduler::run::{Attempt, AttemptEnd, EndedRun, Record, Run, RunState};
use scheduler::state::{Change, State};

use super::Verdict;
use crate::model_store::Decided;
use crate::node::given_up;

/// A moment in the log: changes, counted.
pub(crate) type Position = usize;

pub(crate) struct Ended {
    pub(crate) run: EndedRun,
    pub(crate) at: Position,
    /// When it came to live, if it ever did.
    pub(crate) created: Option<Position>,
    /// Its job at the time, unless that was deleted or disabled in the same step.
    pub(crate) job: Option<Arc<Job>>,
    /// Whether its children may hear of it: not where a backfill or a re-run was asked for without them.
    pub(crate) told: bool,
}

#[derive(Default)]
pub(crate) struct Ledger {
    pub(crate) at: Position,
    /// The log, played back.
    pub(crate) state: State,
    pub(crate) ended: BTreeMap<RunKey, Ended>,
    created: BTreeMap<RunKey, Position>,
    /// When each job was last created, or got another plan or another answer to whether it is enabled; and when it went.
    pub(crate) unsettled: BTreeMap<JobUid, Position>,
    pub(crate) removed: BTreeSet<JobUid>,
    /// Tasks that the log says may have been launched.
    pub(crate) intents: BTreeSet<TaskId>,
    /// How attempts had ended in truth that were given up, once that was heard.
    pub(crate) late: BTreeMap<(RunKey, u32), AttemptEnd>,
    /// Each batch, and where it begins.
    pub(crate) batches: BTreeMap<Seq, (Position, Vec<Change>)>,
}

impl Ledger {
    pub(crate) fn new(state: &State) -> Self {
        Self { state: state.clone(), ..Self::default() }
    }

    pub(crate) fn batch(&mut self, seq: Seq, steps: &[Decided]) {
        let changes: Vec<Change> = steps.iter().flat_map(|(_, changes)| changes).cloned().collect();
        self.batches.insert(seq, (self.at - changes.len(), changes));
    }

    /// Takes one change of a step.
    pub(crate) fn apply(&mut self, change: &Change, step: &[Change]) -> Verdict {
        self.at += 1;
        let verdict = match change {
            Change::PutJob(job) => {
                let plan = |job: &Job| job.plan.clone();
                let same =
                    self.state.jobs.get(&job.uid).is_some_and(|old| {
                        plan(old) == plan(job) && old.rules.disabled == job.rules.disabled
                    });
                if !same {
                    self.unsettled.insert(job.uid, self.at);
                }
                let before = self.state.jobs.get(&job.uid).map(|old| old.version);
                let kept = |change: &Change| matches!(change, Change::Revise(kept) if kept.job == *job);
                if before == Some(job.version) || step.iter().any(kept) {
                    Ok(())
                } else {
                    Err(format!("version {} of job {} left no revision", job.version, job.name))
                }
            }
            Change::Revise(kept) => {
                let noted = |change: &Change| {
                    matches!(change, Change::Note(entry)
                        if entry.act == Act::Defined { deed: kept.deed, version: kept.job.version }
                            && entry.job.as_ref().is_some_and(|(uid, _)| *uid == kept.job.uid)
                            && *entry.author.name() == kept.by)
                };
                if step.iter().any(noted) {
                    Ok(())
                } else {
                    Err(format!("version {} of job {} is not in the audit", kept.job.version, kept.job.name))
                }
            }
            Change::RemoveJob(uid) => {
                self.unsettled.insert(*uid, self.at);
                self.removed.insert(*uid);
                let deleted = |change: &Change| matches!(change, Change::Revise(kept) if kept.job.uid == *uid && kept.deed == Deed::Deleted);
                if step.iter().any(deleted) { Ok(()) } else { Err(format!("job {uid} left no revision")) }
            }
            Change::PutRun(run) => {
                if let RunState::Running(live) = &run.state {
                    self.intents.insert(live.task.clone());
                }
                self.created.entry(run.key).or_insert(self.at);
                if self.ended.contains_key(&run.key) {
                    Err(format!("run {} of {} has ended and is live again", run.key, run.job))
                } else {
                    Ok(())
                }
            }
            Change::RemoveRun(key) => {
                let told = |change: &Change| matches!(change, Change::Append(record) if matches!(&**record, Record::Run(run) if run.key == *key));
                if step.iter().any(told) {
                    Ok(())
                } else {
                    Err(format!("run {key} vanished without an outcome"))
                }
            }
            Change::Append(record) => self.append(record, step),
            Change::Note(entry) => self.note(entry),
            _ => Ok(()),
        };
        self.state.apply(change);
        verdict
    }

    fn append(&mut self, record: &Record, step: &[Change]) -> Verdict {
        let Record::Run(run) = record else { return Ok(()) };
        let goes = |change: &Change| match change {
            Change::PutJob(job) => job.uid == run.key.job && job.rules.disabled,
            Change::RemoveJob(uid) => *uid == run.key.job,
            _ => false,
        };
        let job = self.state.jobs.get(&run.key.job).filter(|_| !step.iter().any(goes)).cloned();
        let created = self.created.get(&run.key).copied();
        let backfill = self.state.backfills.get(&BackfillId::of_cycle(run.cycle));
        let number = match run.key.cause {
            Cause::Backfill { number, .. } | Cause::Trigger(number) => Some(number),
            Cause::Slot { .. } | Cause::Join { .. } => None,
        };
        let root = run.key.job == run.cycle.origin && number == Some(run.cycle.seq);
        let told = !(root && backfill.is_some_and(|backfill| backfill.children == Children::Stay));
        let ended = Ended { run: run.clone(), at: self.at, created, job, told };
        match self.ended.insert(run.key, ended) {
            None => Ok(()),
            Some(before) => Err(format!(
                "run {} of {} has two outcomes: {:?} and {:?}",
                run.key, run.job, before.run.outcome, run.outcome
            )),
        }
    }

    fn note(&mut self, entry: &Entry) -> Verdict {
        let Act::HeardLate { run, attempt, end, .. } = &entry.act else { return Ok(()) };
        let what = format!("attempt {attempt} of run {run}");
        let recorded = self.attempts_of(run).and_then(|all| all.iter().find(|a| a.number == *attempt));
        if !recorded.is_some_and(|recorded| given_up(&recorded.end)) {
            return Err(format!("{what} was not given up, and its end was heard late: {recorded:?}"));
        }
        match self.late.insert((*run, *attempt), end.clone()) {
            None => Ok(()),
            Some(before) => Err(format!("the end of {what} was heard late twice: {before:?} and {end:?}")),
        }
    }

    /// The attempts of a run that have ended.
    pub(crate) fn attempts_of(&self, run: &RunKey) -> Option<&Vec<Attempt>> {
        let live = self.state.runs.get(run).map(|run| &run.attempts);
        live.or_else(|| self.ended.get(run).map(|ended| &ended.run.attempts))
    }

    /// Whether the log has an attempt of this name that has not ended.
    pub(crate) fn is_live(&self, task: &TaskId) -> bool {
        self.state
            .runs
            .values()
            .any(|run| matches!(&run.state, RunState::Running(live) if live.task == *task))
    }

    /// Whether the log has an attempt of this name that has not ended and that nobody wants dead.
    pub(crate) fn is_wanted(&self, task: &TaskId) -> bool {
        self.state.runs.values().any(
            |run| matches!(&run.state, RunState::Running(live) if live.task == *task && live.kill.is_none()),
        )
    }

    /// The runs that came to live by then and still are.
    pub(crate) fn live_since(&self, by: Position) -> impl Iterator<Item = &Run> {
        let old = move |run: &&Arc<Run>| self.created.get(&run.key).is_some_and(|at| *at <= by);
        self.state.runs.values().filter(old).map(|run| &**run)
    }

    /// The job has had this plan, and this answer to whether it is enabled, since before.
    pub(crate) fn settled_since(&self, job: JobUid, before: Position) -> bool {
        self.unsettled.get(&job).is_none_or(|at| *at < before)
    }

    pub(crate) fn finish(&self, state: &State) -> Verdict {
        if self.state != *state {
            return Err("the state is not what the log makes of it".into());
        }
        for key in self.created.keys() {
            if !self.ended.contains_key(key) && !state.runs.contains_key(key) {
                return Err(format!("run {key} was there, and is neither live nor in the ledger"));
            }
        }
        for uid in state.jobs.keys() {
            if !state.progress.contains_key(uid) {
                return Err(format!("job {uid} has no progress"));
            }
        }
        for job in state.jobs.values() {
            if let Plan::Parents(parents) = &job.plan
                && let Some(gone) = parents.iter().find(|parent| !state.jobs.contains_key(parent))
            {
                return Err(format!("job {} has a parent {gone} that does not exist", job.name));
            }
        }
        Ok(())
    }
}
