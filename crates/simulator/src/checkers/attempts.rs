//! Promise 2: no attempt is launched twice, and no run has two attempts alive; and none starts before its intent is
//! durable, beside more of its job than its rules allow, or after its start deadline.

use std::collections::{BTreeMap, BTreeSet};

use scheduler::ids::{Cause, RunKey, TaskId};
use scheduler::job::{Job, Overlap};
use scheduler::run::{Attempt, RunState};

use super::Verdict;
use super::ledger::Ledger;
use crate::calendar::Millis;
use crate::model_engine::LaunchOrder;
use crate::node::given_up;

#[derive(Default)]
pub(crate) struct Attempts {
    /// No clock steps in this history, so that the time between attempts can be foretold.
    pub(crate) clocks_right: bool,
    started: BTreeMap<(RunKey, u32), TaskId>,
    /// When the last attempt of a run ended: the next must keep its distance.
    ended: BTreeMap<RunKey, Millis>,
    runs: BTreeMap<TaskId, RunKey>,
    tasks: BTreeSet<TaskId>,
}

impl Attempts {
    pub(crate) fn started(
        &mut self,
        now: Millis,
        order: &LaunchOrder,
        alive: &[(RunKey, TaskId)],
        ledger: &Ledger,
    ) -> Verdict {
        let LaunchOrder { task, run: key, attempt, job, .. } = order;
        if !ledger.intents.contains(task) {
            return Err(format!("{task} was started before its launch was durable"));
        }
        if !self.tasks.insert(task.clone()) {
            return Err(format!("{task} was started twice"));
        }
        if let Some(before) = self.started.insert((*key, *attempt), task.clone()) {
            return Err(format!(
                "attempt {attempt} of run {key} was started twice: as {before} and as {task}"
            ));
        }
        self.runs.insert(task.clone(), *key);
        let forgiven = !self.clocks_right && given_up_in(ledger, key, task);
        if !ledger.is_live(task) && !forgiven {
            return Err(format!(
                "{task} was started when its attempt was over: a late order of a leader of old"
            ));
        }
        let lost = |task: &TaskId, run: &RunKey| given_up_in(ledger, run, task);
        for (run, other) in alive.iter().filter(|(run, _)| run == key) {
            if order.at_most_once() || !lost(other, run) {
                return Err(format!("{task} was started while {other} of the same run was alive"));
            }
        }
        // The rules may have changed while the order was under way.
        let now_allowed = ledger.state.jobs.get(&key.job).map_or(1, |job| room(job));
        let room = room(job).max(now_allowed);
        let others: Vec<_> = alive.iter().filter(|(run, task)| run != key && !lost(task, run)).collect();
        if others.len() >= room {
            return Err(format!("{task} was started beside {others:?}; the job has room for {room}"));
        }
        if let Some(ended) = self.ended.get(key)
            && self.clocks_right
            && !ledger
                .state
                .runs
                .get(key)
                .and_then(|run| run.attempts.last())
                .is_some_and(|a| given_up(&a.end))
            && now < ended + 900
        {
            return Err(format!(
                "{task} was started {} ms after the attempt before it: a storm",
                now - ended
            ));
        }
        self.in_time(order, ledger)
    }

    /// The first attempt of a slot's run must have been launched by its start deadline, as the leader's clock had it.
    fn in_time(&self, order: &LaunchOrder, ledger: &Ledger) -> Verdict {
        let (Cause::Slot { .. }, Some(epsilon), 0) =
            (order.run.cause, order.job.rules.epsilon, order.attempt)
        else {
            return Ok(());
        };
        let Some(run) = ledger.state.runs.get(&order.run) else { return Ok(()) };
        let RunState::Running(live) = &run.state else { return Ok(()) };
        let late = live.launched.as_millisecond() - run.due.as_millisecond();
        let jitter = order.job.rules.jitter.unwrap_or_default();
        let limit = i64::try_from((epsilon + jitter).as_millis()).unwrap_or(i64::MAX);
        if late > limit {
            return Err(format!(
                "{} was launched {late} ms after its due time; epsilon and jitter are {limit} ms",
                order.task
            ));
        }
        Ok(())
    }

    /// What a leader kills, late or not, is to be dead: wanted so, or given up.
    pub(crate) fn killed(&self, task: &TaskId, ledger: &Ledger) -> Verdict {
        if ledger.is_wanted(task) {
            Err(format!("{task} was killed, and nobody wanted that"))
        } else {
            Ok(())
        }
    }

    pub(crate) fn ended(&mut self, now: Millis, task: &TaskId, ledger: &Ledger) {
        // An end that comes after the attempt was given up is no start of a delay.
        if let Some(run) = self.runs.get(task)
            && ledger.is_live(task)
        {
            self.ended.insert(*run, now);
        }
    }
}

/// How many runs of the job may be alive at once.
fn room(job: &Job) -> usize {
    match job.rules.overlap {
        Overlap::Allow { max } => max as usize,
        _ => 1,
    }
}

/// Whether the log says that nobody could tell what became of the task for as long as its job has patience.
fn given_up_in(ledger: &Ledger, run: &RunKey, task: &TaskId) -> bool {
    let lost = |attempts: &[Attempt], name: &scheduler::ids::JobName| {
        attempts.iter().any(|a| given_up(&a.end) && TaskId::of(name, *run, a.number) == *task)
    };
    ledger.state.runs.get(run).is_some_and(|live| lost(&live.attempts, &live.job))
        || ledger.ended.get(run).is_some_and(|ended| lost(&ended.run.attempts, &ended.run.job))
}
