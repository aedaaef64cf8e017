//! Promise 5: fail-over owes nothing. What was under way goes on, what was wanted dead dies, retries happen, and in the end
//! the ledger says of every attempt what the engine's own log says.

use std::collections::{BTreeMap, BTreeSet};

use scheduler::ids::{Cause, Cycle, JobUid, RunKey, TaskId};
use scheduler::job::Guarantee;
use scheduler::run::{Attempt, AttemptEnd, Outcome, Run, RunState};
use scheduler::state::State;

use super::Verdict;
use super::ledger::{Ended, Ledger};
use crate::calendar::Millis;
use crate::model_engine::{ModelEngine, Phase};
use crate::node::given_up;

/// After all has healed, this is enough to elect a leader, repeat a kill, and hear of the end.
const KILL_TIME: Millis = 90_000;

#[derive(Default)]
pub(crate) struct Failover {
    healed: Millis,
    live: BTreeSet<RunKey>,
    wanted_dead: BTreeSet<TaskId>,
    /// What had begun before all healed: every run of them must end.
    pub(crate) cycles: BTreeSet<Cycle>,
}

impl Failover {
    pub(crate) fn healed(&mut self, now: Millis, state: &State, ledger: &Ledger) {
        self.healed = now;
        self.live = state.runs.keys().copied().collect();
        let dying = |run: &std::sync::Arc<Run>| match &run.state {
            RunState::Running(live) if live.kill.is_some() => Some(live.task.clone()),
            _ => None,
        };
        self.wanted_dead = state.runs.values().filter_map(dying).collect();
        self.cycles = ledger.ended.values().map(|ended| ended.run.cycle).collect();
        self.cycles.extend(state.runs.values().map(|run| run.cycle));
        self.cycles.extend(state.fanouts.values().map(|fanout| fanout.cycle));
    }

    pub(crate) fn overdue(&self, now: Millis, state: &State) -> Verdict {
        if now <= self.healed + KILL_TIME {
            return Ok(());
        }
        let dying = |run: &&std::sync::Arc<Run>| matches!(&run.state, RunState::Running(live) if self.wanted_dead.contains(&live.task));
        match state.runs.values().find(dying) {
            None => Ok(()),
            Some(run) => {
                Err(format!("run {} was to be killed before all healed, and is still live", run.key))
            }
        }
    }

    pub(crate) fn waits(&self, state: &State) -> Option<String> {
        let held = |uid: JobUid| state.progress.get(&uid).is_some_and(|progress| progress.paused.is_some());
        for run in state.runs.values() {
            let ours = self.live.contains(&run.key) || self.cycles.contains(&run.cycle);
            let paused = !matches!(run.state, RunState::Running(_)) && held(run.key.job);
            if ours && !paused && !gives_way(run, state) {
                return Some(format!("run {} of {} is still {:?}", run.key, run.job, run.state));
            }
        }
        // All machines can be reached again.
        if let Some((task, given_up)) = state.all_given_up().next() {
            return Some(format!("{task} was given up at {}, and nobody has heard of it", given_up.at));
        }
        let fanout = state.fanouts.values().find(|fanout| self.cycles.contains(&fanout.cycle))?;
        Some(format!("the children of run {} have not all been told", fanout.run))
    }

    pub(crate) fn finish(&self, state: &State, ledger: &Ledger, engine: &ModelEngine) -> Verdict {
        for ended in ledger.ended.values() {
            whole(ended)?;
            retried(ended)?;
            for attempt in &ended.run.attempts {
                let task = TaskId::of(&ended.run.job, ended.run.key, attempt.number);
                let known = engine.tasks.get(&task);
                if known.is_none() && !given_up(&attempt.end) {
                    return Err(format!("the ledger has {task}, {:?}; the engine never had it", attempt.end));
                }
            }
        }
        // Of what has not begun only a later term need not hear.
        for (task, held) in engine.tasks.iter().filter(|(_, held)| held.has_begun()) {
            self.agrees(task, held.run(), held.attempt(), &held.phase, state, ledger)?;
        }
        counted(state, ledger)
    }

    /// The ledger says of an attempt what the engine says.
    fn agrees(
        &self,
        task: &TaskId,
        key: RunKey,
        number: u32,
        phase: &Phase,
        state: &State,
        ledger: &Ledger,
    ) -> Verdict {
        if state
            .runs
            .get(&key)
            .is_some_and(|run| matches!(&run.state, RunState::Running(live) if live.task == *task))
        {
            return Ok(());
        }
        let Some(attempt) = ledger.attempts_of(&key).and_then(|all| all.iter().find(|a| a.number == number))
        else {
            return Err(format!("the engine had {task}, {phase:?}; the ledger does not know the attempt"));
        };
        if given_up(&attempt.end) {
            return heard_late(task, (key, number), phase, state, ledger);
        }
        let same = matches!(
            (phase, &attempt.end),
            (Phase::Ended(AttemptEnd::Succeeded), AttemptEnd::Succeeded)
                | (Phase::Ended(AttemptEnd::Lost { .. }), AttemptEnd::Lost { .. })
                | (
                    Phase::Ended(AttemptEnd::Failed { .. } | AttemptEnd::Killed),
                    AttemptEnd::Failed { .. } | AttemptEnd::Killed | AttemptEnd::TimedOut,
                )
        );
        if same { Ok(()) } else { Err(format!("{task} is {phase:?}; the ledger says {:?}", attempt.end)) }
    }
}

/// What was given up has ended by now, and how is noted; of a job that is gone it need not be.
fn heard_late(
    task: &TaskId,
    attempt: (RunKey, u32),
    phase: &Phase,
    state: &State,
    ledger: &Ledger,
) -> Verdict {
    let late = ledger.late.get(&attempt);
    let agrees = match (phase, late) {
        (Phase::Ended(AttemptEnd::Lost { .. }), late) => late.is_none(),
        (Phase::Ended(end), Some(late)) => late == end,
        (_, late) => late.is_none() && !state.jobs.contains_key(&attempt.0.job),
    };
    if agrees {
        Ok(())
    } else {
        Err(format!("{task} was given up and is {phase:?}; heard late was {late:?}"))
    }
}

/// A past slot that has not begun waits while its job is busy with what is due, or others are that may share a limit with it, for ever
/// if they always are.
fn gives_way(run: &Run, state: &State) -> bool {
    let past = |run: &Run| matches!(run.key.cause, Cause::Backfill { .. }) && run.attempts.is_empty();
    let labels = |uid: &JobUid| state.jobs.get(uid).into_iter().flat_map(|job| job.rules.labels());
    let ours: Vec<_> = labels(&run.key.job).collect();
    let in_its_way = |other: &Run| {
        other.key.job == run.key.job || labels(&other.key.job).any(|label| ours.contains(&label))
    };
    let waits = run.state == RunState::Queued && past(run);
    waits && state.runs.values().any(|other| !past(other) && in_its_way(other))
}

/// Attempts are numbered without a gap, and the outcome is that of the last.
fn whole(ended: &Ended) -> Verdict {
    let run = &ended.run;
    for (n, attempt) in run.attempts.iter().enumerate() {
        if attempt.number as usize != n {
            return Err(format!("run {}: attempt {} is in place {n}", run.key, attempt.number));
        }
    }
    let last: Option<&Attempt> = run.attempts.last();
    let marked = matches!(run.key.cause, Cause::Trigger(_)) && last.is_none();
    let fits = match &run.outcome {
        Outcome::Succeeded => marked || last.is_some_and(|a| a.end == AttemptEnd::Succeeded),
        Outcome::Failed => {
            last.is_some_and(|a| matches!(a.end, AttemptEnd::Failed { .. } | AttemptEnd::Killed))
        }
        Outcome::TimedOut => last.is_some_and(|a| a.end == AttemptEnd::TimedOut),
        Outcome::Lost => last.is_some_and(|a| matches!(a.end, AttemptEnd::Lost { .. })),
        Outcome::Skipped(_) | Outcome::Missed(_) => last.is_none(),
        Outcome::Killed(_) => last.is_none_or(|a| a.end != AttemptEnd::Succeeded),
    };
    if fits {
        Ok(())
    } else {
        Err(format!("run {} ended {:?} after {:?}", run.key, run.outcome, run.attempts))
    }
}

/// A run that failed has used up its retries.
fn retried(ended: &Ended) -> Verdict {
    let (run, Some(job)) = (&ended.run, &ended.job) else { return Ok(()) };
    let failed = matches!(run.outcome, Outcome::Failed | Outcome::TimedOut | Outcome::Lost);
    let patient =
        job.rules.guarantee == Guarantee::AtMostOnce && run.attempts.last().is_some_and(|a| given_up(&a.end));
    if failed && !patient && !job.rules.disabled && run.attempts.len() <= job.rules.retry.max as usize {
        return Err(format!(
            "run {} of {} ended {:?} after {} attempts; its job has {} retries",
            run.key,
            run.job,
            run.outcome,
            run.attempts.len(),
            job.rules.retry.max
        ));
    }
    Ok(())
}

/// Successes and errors of a job are those of its ledger: none is counted twice.
fn counted(state: &State, ledger: &Ledger) -> Verdict {
    let mut counts: BTreeMap<JobUid, (u64, u64)> = BTreeMap::new();
    for ended in ledger.ended.values() {
        let count = counts.entry(ended.run.key.job).or_default();
        match ended.run.outcome {
            Outcome::Succeeded => count.0 += 1,
            Outcome::Failed | Outcome::TimedOut | Outcome::Lost => count.1 += 1,
            _ => {}
        }
    }
    for (uid, progress) in &state.progress {
        let ledger = counts.get(uid).copied().unwrap_or_default();
        if ledger != (progress.successes, progress.errors) {
            return Err(format!(
                "job {uid} counts {} successes and {} errors; its ledger has {ledger:?}",
                progress.successes, progress.errors
            ));
        }
    }
    Ok(())
}
