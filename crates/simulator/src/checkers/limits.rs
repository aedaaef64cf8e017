//! Promise 7: no job can hurt the others. No launch takes the server, a label or a second beyond what the operator allows,
//! whoever leads.

use std::collections::VecDeque;

use scheduler::ids::RunKey;
use scheduler::limits::Limits;
use scheduler::run::{Run, RunState};
use scheduler::state::{Change, State};

use super::Verdict;
use crate::calendar::Millis;

#[derive(Default)]
pub(crate) struct Checker {
    limits: Limits,
    /// Whether the clocks of all leaders agree, so that a second is the same for all.
    clocks_right: bool,
    recent: VecDeque<Millis>,
}

/// The runs that these changes launch.
pub(crate) fn launched(state: &State, changes: &[Change]) -> Vec<RunKey> {
    let runs = |run: &Run| matches!(run.state, RunState::Running(_));
    let launch = |change: &Change| match change {
        Change::PutRun(run) if runs(run) && !state.runs.get(&run.key).is_some_and(|old| runs(old)) => {
            Some(run.key)
        }
        _ => None,
    };
    changes.iter().filter_map(launch).collect()
}

impl Checker {
    pub(crate) fn begin(&mut self, limits: Limits, clocks_right: bool) {
        (self.limits, self.clocks_right) = (limits, clocks_right);
    }

    /// Holds what a step has launched against what runs after it.
    pub(crate) fn step(&mut self, state: &State, launched: &[RunKey]) -> Verdict {
        if launched.is_empty() || self.limits == Limits::default() {
            return Ok(());
        }
        let tasks = || state.runs.values().filter(|run| matches!(run.state, RunState::Running(_)));
        if let Some(max) = self.limits.running_max
            && tasks().count() > max.get() as usize
        {
            return Err(format!("{launched:?} were launched: {} tasks, {max} are allowed", tasks().count()));
        }
        let labels = |key: &RunKey| state.jobs.get(&key.job).map_or(&[][..], |job| job.rules.labels());
        for (key, value) in launched.iter().flat_map(labels) {
            let of_key = || self.limits.running_max_by_label.iter().filter(|limit| limit.key == *key);
            let own = of_key().find(|limit| limit.value.as_ref() == Some(value));
            let Some(limit) = own.or(of_key().find(|limit| limit.value.is_none())) else { continue };
            let has =
                |run: &&std::sync::Arc<Run>| labels(&run.key).iter().any(|(k, v)| (k, v) == (key, value));
            let count = tasks().filter(has).count();
            if count > limit.max.get() as usize {
                return Err(format!(
                    "{count} tasks with {key}={value} after {launched:?}; the limit is {limit}"
                ));
            }
        }
        launched.iter().filter_map(|key| state.runs.get(key)).try_for_each(|run| self.in_rate(run))
    }

    /// A bucket that holds a second's worth of launches: twice that in any one second.
    fn in_rate(&mut self, run: &Run) -> Verdict {
        let (Some(max), RunState::Running(live), true) =
            (self.limits.launch_rate_max, &run.state, self.clocks_right)
        else {
            return Ok(());
        };
        let now = live.launched.as_millisecond();
        self.recent.push_back(now);
        while self.recent.front().is_some_and(|at| *at <= now - 1_000) {
            self.recent.pop_front();
        }
        if self.recent.len() > 2 * max.get() as usize {
            return Err(format!(
                "{} launches within a second; {max} a second are allowed",
                self.recent.len()
            ));
        }
        Ok(())
    }
}
