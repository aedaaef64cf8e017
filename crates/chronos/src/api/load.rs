//! What the limits of the server have to do with what is live now: which of them hold a run back.

use std::collections::BTreeMap;

use jiff::Timestamp;
use scheduler::ids::{Cause, RunKey};
use scheduler::job::Job;
use scheduler::limits::{Label, Limits};
use scheduler::run::{Run, RunState};
use scheduler::state::State;

/// What runs and what waits, as the limits count it. Made by looking at every live run, for a question that is rare.
pub(super) struct Load<'a> {
    limits: &'a Limits,
    running: u32,
    by_label: BTreeMap<&'a Label, u32>,
    /// Runs that would start but for a limit, in order.
    queued: Vec<(Place, &'a Run, &'a Job)>,
}

/// Order in the queue: importance, 0 is the highest; due time; key.
type Place = (u8, Timestamp, RunKey);

fn place(run: &Run, job: &Job) -> Place {
    let rank = match run.key.cause {
        // Past slots that have not begun go behind all that is due now.
        Cause::Backfill { .. } if run.attempts.is_empty() => 2,
        _ => u8::from(!job.rules.high_priority),
    };
    (rank, run.due, run.key)
}

/// A limit that holds a run back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    /// The flag that set it, as one would write it.
    pub(super) flag: String,
    /// What it counts, for people.
    pub(super) what: String,
    /// Runs of at least its importance that are due earlier and that it holds back too.
    pub(super) before: usize,
}

/// One limit, for one label where it is about labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit<'a> {
    Running,
    Label(&'a Label),
    Rate,
}

impl<'a> Load<'a> {
    pub(super) fn of(state: &'a State, limits: &'a Limits) -> Self {
        let mut load = Self { limits, running: 0, by_label: BTreeMap::new(), queued: Vec::new() };
        if *limits == Limits::default() {
            return load;
        }
        for run in state.runs.values() {
            let job = state.jobs.get(&run.key.job);
            match (&run.state, job) {
                (RunState::Running(_), _) => {
                    load.running += 1;
                    for label in job.map_or(&[][..], |job| job.rules.labels()) {
                        *load.by_label.entry(label).or_default() += 1;
                    }
                }
                (RunState::Queued, Some(job)) => {
                    load.queued.push((place(run, job), run, job));
                }
                _ => {}
            }
        }
        load.queued.sort_unstable_by_key(|(place, ..)| *place);
        load
    }

    /// What holds a queued run of the job back, if a limit does.
    pub(super) fn hold(&self, run: &Run, job: &Job) -> Option<Hold> {
        let limit = self.limit(job)?;
        let place = place(run, job);
        let earlier = self.queued.iter().take_while(|(other, ..)| *other < place);
        let before = earlier.filter(|(_, _, other)| self.limit(other) == Some(limit)).count();
        Some(Hold { flag: self.flag(limit), what: self.what(limit), before })
    }

    /// How many runs each limit holds back, by the flag that set it.
    pub(super) fn held(&self) -> BTreeMap<String, usize> {
        let all = self.limits;
        let mut held: BTreeMap<_, _> = all
            .running_max_by_label
            .iter()
            .map(|limit| (format!("running_max_by_label {limit}"), 0))
            .collect();
        held.extend(all.running_max.map(|max| (format!("running_max {max}"), 0)));
        held.extend(all.launch_rate_max.map(|max| (format!("launch_rate_max {max}"), 0)));
        for (_, _, job) in &self.queued {
            if let Some(limit) = self.limit(job) {
                *held.entry(self.flag(limit)).or_default() += 1;
            }
        }
        held
    }

    fn limit<'b>(&self, job: &'b Job) -> Option<Limit<'b>> {
        if self.limits.running_max.is_some_and(|max| self.running >= max.get()) {
            return Some(Limit::Running);
        }
        let running = |label: &Label| self.by_label.get(label).copied().unwrap_or(0);
        let full = |label: &&Label| {
            self.limits.of_label(label).is_some_and(|limit| running(label) >= limit.max.get())
        };
        let label = job.rules.labels().iter().find(full).map(Limit::Label);
        label.or(self.limits.launch_rate_max.map(|_| Limit::Rate))
    }

    fn flag(&self, limit: Limit<'_>) -> String {
        match limit {
            Limit::Running => {
                format!("running_max {}", self.limits.running_max.map_or(0, |max| max.get()))
            }
            Limit::Label(label) => {
                let limit = self.limits.of_label(label).map(ToString::to_string).unwrap_or_default();
                format!("running_max_by_label {limit}")
            }
            Limit::Rate => {
                format!("launch_rate_max {}", self.limits.launch_rate_max.map_or(0, |max| max.get()))
            }
        }
    }

    fn what(&self, limit: Limit<'_>) -> String {
        match limit {
            Limit::Running => {
                let max = self.limits.running_max.map_or(0, |max| max.get());
                format!("{} of {max} tasks are running", self.running)
            }
            Limit::Label(label) => {
                let running = self.by_label.get(label).copied().unwrap_or(0);
                let max = self.limits.of_label(label).map_or(0, |limit| limit.max.get());
                format!("{running} of {max} tasks with label {}={} are running", label.0, label.1)
            }
            Limit::Rate => {
                let max = self.limits.launch_rate_max.map_or(0, |max| max.get());
                format!("no more than {max} tasks are launched in a second")
            }
        }
    }
}
