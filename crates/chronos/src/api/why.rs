//! Why a job or a run is not running, or what became of it: one pure function of what is known.

use jiff::Timestamp;
use scheduler::ids::JobUid;
use scheduler::job::{Job, Overlap, Plan, Progress};
use scheduler::run::{Record, Run, RunState};
use scheduler::state::{Arrival, Join, State};
use serde::Serialize;
use utoipa::ToSchema;

use crate::node::{Role, Status};
use crate::wire::job::{instant, is_exhausted};

use super::view;

/// One reason, the most telling first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Reason {
    /// For programs; never changes.
    pub code: &'static str,
    /// For people.
    pub message: String,
    /// Since when it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// When it will end by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

impl Reason {
    fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), since: None, until: None }
    }

    fn since(mut self, t: Timestamp) -> Self {
        self.since = Some(instant(t));
        self
    }

    fn until(mut self, t: Timestamp) -> Self {
        self.until = Some(instant(t));
        self
    }
}

/// What is known when the question is asked.
pub(super) struct Facts<'a> {
    pub(super) now: Timestamp,
    pub(super) state: &'a State,
    pub(super) status: &'a Status,
    /// What ended last, newest first.
    pub(super) last: &'a [Record],
}

/// How many live runs and open joins of a job are explained; the others have the same reasons.
const EXPLAINED_MAX: usize = 10;

impl Facts<'_> {
    /// Why the job does not run now, and what it waits for.
    pub(super) fn of_job(&self, job: &Job, progress: &Progress) -> Vec<Reason> {
        let mut reasons = Vec::new();
        for run in self.state.runs_of(job.uid).take(EXPLAINED_MAX) {
            reasons.extend(self.of_live(run, Some(job)));
        }
        reasons.extend(self.rules(job, progress));
        match &job.plan {
            Plan::Schedule(_) => reasons.extend(self.slots(job, progress)),
            Plan::Parents(parents) => reasons.extend(self.joins(job, progress, parents)),
        }
        if reasons.iter().all(|r| r.code != "cluster" && r.code != "not_leading") {
            reasons.extend(self.cluster());
        }
        reasons.extend(self.last.first().map(|record| self.ended(record)));
        reasons
    }

    /// Why a live run is not over yet. `job` is absent when it was deleted.
    pub(super) fn of_live(&self, run: &Run, job: Option<&Job>) -> Vec<Reason> {
        let mut reasons = Vec::new();
        match &run.state {
            RunState::Running(live) => {
                let begun = if live.started.is_some() {
                    "runs"
                } else {
                    "has been launched and not yet been seen running"
                };
                let message =
                    format!("run {}: attempt {} {begun} on node {}", run.key, live.attempt, live.node);
                reasons.push(Reason::new("running", message).since(live.started.unwrap_or(live.launched)));
                if let Some(since) = live.unknown_since {
                    let message = format!(
                        "run {}: nobody can tell how attempt {} goes; it blocks the job until the engine knows, or is lost",
                        run.key, live.attempt
                    );
                    let reason = Reason::new("unknown_fate", message).since(since);
                    let lost = job.and_then(|job| since.checked_add(job.rules.lost_after).ok());
                    reasons.push(match lost {
                        Some(lost) => reason.until(lost),
                        None => reason,
                    });
                }
                if live.kill.is_some() {
                    reasons.push(Reason::new(
                        "killing",
                        format!("run {}: attempt {} is being ended", run.key, live.attempt),
                    ));
                }
            }
            RunState::Waiting { attempt, until } => {
                let message = format!(
                    "run {}: an attempt failed; attempt {attempt} may start at {}",
                    run.key,
                    instant(*until)
                );
                reasons.push(Reason::new("retry", message).until(*until));
                if *until <= self.now {
                    reasons.extend(self.held(run, job));
                }
            }
            RunState::Queued => {
                reasons.push(
                    Reason::new("queued", format!("run {} is waiting to be started", run.key))
                        .since(run.created),
                );
                reasons.extend(self.held(run, job));
                let deadline = job
                    .and_then(|job| job.rules.epsilon)
                    .and_then(|epsilon| run.due.checked_add(epsilon).ok());
                if let Some(deadline) = deadline {
                    let message = format!(
                        "run {} is missed unless it starts by {} (epsilon)",
                        run.key,
                        instant(deadline)
                    );
                    reasons.push(Reason::new("deadline", message).until(deadline));
                }
            }
        }
        reasons
    }

    /// What became of a run that is over.
    pub(super) fn ended(&self, record: &Record) -> Reason {
        let view = view::RunView::of(record);
        let outcome = view.outcome.unwrap_or_default();
        let what = match (&view.key, view.count) {
            (Some(key), _) => format!("run {key}, due {},", view.due.unwrap_or_default()),
            (None, Some(1)) => format!("the slot of {}", view.first_due.unwrap_or_default()),
            (None, count) => format!(
                "{} slots from {} to {}",
                count.unwrap_or_default(),
                view.first_due.unwrap_or_default(),
                view.last_due.unwrap_or_default()
            ),
        };
        let why = view.reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        Reason { since: view.ended, ..Reason::new("ended", format!("{what} {outcome}{why}")) }
    }

    /// What keeps a run that might start from starting.
    fn held(&self, run: &Run, job: Option<&Job>) -> Vec<Reason> {
        let others = self
            .state
            .runs_of(run.key.job)
            .filter(|other| other.key != run.key && !matches!(other.state, RunState::Queued));
        let room = match job.map(|job| job.rules.overlap) {
            Some(Overlap::Allow { max }) => max as usize,
            _ => 1,
        };
        let mut reasons = Vec::new();
        let busy: Vec<_> = others.collect();
        if let Some(other) = busy.first().filter(|_| busy.len() >= room) {
            let message = match busy.len() {
                1 => format!("run {} waits until run {} of the same job is over", run.key, other.key),
                n => format!(
                    "run {} waits until one of {n} runs of the same job is over, such as {}",
                    run.key, other.key
                ),
            };
            reasons.push(Reason::new("overlap", message).since(other.created));
        }
        reasons.extend(self.cluster());
        reasons
    }

    /// What keeps every job from running.
    fn cluster(&self) -> Vec<Reason> {
        let message = match self.status.role {
            Role::Leading(_) => {
                return self
                    .status
                    .troubles
                    .iter()
                    .map(|t| Reason::new("cluster", format!("nothing is launched: {t}")))
                    .collect();
            }
            Role::Preparing(_) => "this node has just been elected and is preparing to lead",
            Role::Standby => "this node does not lead; ask the one that does",
            Role::Starting => "this node is starting and has not heard from the store yet",
        };
        vec![Reason::new("not_leading", message)]
    }

    fn rules(&self, job: &Job, progress: &Progress) -> Vec<Reason> {
        let mut reasons = Vec::new();
        if job.rules.disabled {
            reasons.push(Reason::new(
                "disabled",
                "the job is disabled: it has no slots, and its parents do not start it",
            ));
        } else if is_exhausted(job, progress) {
            reasons.push(Reason::new("exhausted", "the schedule is over: all its slots have been"));
        }
        if let Some(pause) = progress.paused.as_ref().filter(|p| p.until.is_none_or(|until| until > self.now))
        {
            let why = if pause.reason.is_empty() { String::new() } else { format!(": {}", pause.reason) };
            let reason = Reason::new("paused", format!("the job is paused{why}")).since(pause.since);
            reasons.push(match pause.until {
                Some(until) => reason.until(until),
                None => reason,
            });
        }
        reasons
    }

    fn slots(&self, job: &Job, progress: &Progress) -> Vec<Reason> {
        let Some(next) = progress.next.filter(|_| !job.rules.disabled) else { return Vec::new() };
        if next.due > self.now {
            let message = format!("the next slot is due at {}", instant(next.due));
            return vec![Reason::new("not_due", message).until(next.due)];
        }
        let message =
            format!("a slot has been due since {} and has not been taken up yet", instant(next.due));
        let mut reasons = vec![Reason::new("due", message).since(next.due)];
        reasons.extend(self.cluster());
        reasons
    }

    fn joins(&self, job: &Job, progress: &Progress, parents: &[JobUid]) -> Vec<Reason> {
        let open = self.state.joins_of(job.uid).filter(|join| !join.skipped).take(EXPLAINED_MAX);
        let mut reasons: Vec<_> = open.map(|join| self.join(join)).collect();
        if reasons.is_empty() {
            let arrived: Vec<_> = progress.flags.iter().map(|(parent, _)| *parent).collect();
            let missing: Vec<_> = parents.iter().copied().filter(|p| !arrived.contains(p)).collect();
            let mut message = format!("waits until {} succeeded", self.have(&missing));
            if !arrived.is_empty() {
                message.push_str(&format!(" (arrived: {})", self.names(&arrived)));
            }
            reasons.push(Reason::new("waiting_for_parents", message));
        }
        for parent in parents {
            let (Some(parent), Some(progress)) =
                (self.state.jobs.get(parent), self.state.progress.get(parent))
            else {
                continue;
            };
            for reason in self.rules(parent, progress) {
                let message = format!("parent {}: {}", parent.name, reason.message);
                reasons.push(Reason { code: "parent", message, ..reason });
            }
        }
        reasons
    }

    fn join(&self, join: &Join) -> Reason {
        let of = |arrival| {
            join.parents.iter().filter(|(_, a)| *a == arrival).map(|(uid, _)| *uid).collect::<Vec<_>>()
        };
        let (awaited, arrived, failed) = (of(Arrival::Awaited), of(Arrival::Succeeded), of(Arrival::Failed));
        let mut message =
            format!("cycle {}: waits until {} succeeded", instant(join.cycle.due), self.have(&awaited));
        let told: Vec<_> = [("arrived", arrived), ("failed", failed)]
            .iter()
            .filter(|(_, who)| !who.is_empty())
            .map(|(word, who)| format!("{word}: {}", self.names(who)))
            .collect();
        if !told.is_empty() {
            message.push_str(&format!(" ({})", told.join("; ")));
        }
        Reason::new("waiting_for_parents", message).since(join.opened)
    }

    fn have(&self, who: &[JobUid]) -> String {
        format!("{} {}", self.names(who), if who.len() == 1 { "has" } else { "have" })
    }

    fn names(&self, who: &[JobUid]) -> String {
        let mut names: Vec<_> = who
            .iter()
            .map(|uid| {
                self.state.jobs.get(uid).map_or_else(|| "a deleted job".into(), |j| j.name.to_string())
            })
            .collect();
        names.sort();
        let more = names.len().saturating_sub(EXPLAINED_MAX);
        names.truncate(EXPLAINED_MAX);
        let names = names.join(", ");
        if more == 0 { names } else { format!("{names} and {more} more") }
    }
}
