//! Attempts: how they are launched, what an engine's news of them means, and what their end leads to.

use std::sync::Arc;
use std::time::Duration;

use crate::book::{Book, later};
use crate::ids::{RunKey, TaskId};
use crate::job::Guarantee;
use crate::run::{Attempt, AttemptEnd, KillReason, Live, Missed, Outcome, Run, RunState, Skipped};
use crate::scheduler::{Effect, Scheduler, TaskNews};

/// A launch that did not begin is repeated at once, but not faster than this: an engine that refuses everything
/// must not make the scheduler spin.
const RELAUNCH_DELAY: Duration = Duration::from_secs(1);

impl Run {
    /// The outcome if nothing more happens: that of the last attempt.
    pub(crate) fn last_outcome(&self) -> Outcome {
        match self.attempts.last().map(|attempt| &attempt.end) {
            Some(AttemptEnd::Succeeded) => Outcome::Succeeded,
            Some(AttemptEnd::TimedOut) => Outcome::TimedOut,
            Some(AttemptEnd::Lost { .. }) => Outcome::Lost,
            Some(AttemptEnd::Failed { .. } | AttemptEnd::Killed) | None => Outcome::Failed,
        }
    }

    /// The attempt that an engine has under this name, if the run is still at it.
    pub(crate) fn live(&self, task: &TaskId) -> Option<Live> {
        match &self.state {
            RunState::Running(live) if live.task == *task => Some(live.clone()),
            _ => None,
        }
    }
}

impl Scheduler {
    /// Launches what may start, in the order of the queue.
    pub(crate) fn launch_ready(&mut self, budget: &mut usize) {
        while let Some(key) = self.book.next_ready(self.now, budget) {
            let Some(run) = self.book.state().runs.get(&key).cloned() else { break };
            let Some(job) = self.book.job(key.job).cloned() else { break };
            *budget -= 1;
            if Book::deadline(&run, &job.rules).is_some_and(|deadline| deadline < self.now) {
                self.finish(&run, Outcome::Missed(Missed::Epsilon));
                self.charge(budget);
                continue;
            }
            if let Some(state) = self.jitter(&job, &run) {
                self.book.put_run(Run { state, ..(*run).clone() });
                self.charge(budget);
                continue;
            }
            let attempt = run.attempts.len().try_into().unwrap_or(u32::MAX);
            let task = TaskId::of(&run.job, key, attempt);
            let node = self.settings.node.clone();
            let live = Live {
                attempt,
                task,
                launched: self.now,
                node,
                started: None,
                unknown_since: None,
                kill: None,
                elements: 0,
            };
            let mut run = Run { state: RunState::Running(live), ..(*run).clone() };
            self.watch_launch(&job, &mut run);
            self.book.put_run(run.clone());
            self.book.spend_launch(self.now);
            self.effects.push(Effect::Launch { run: run.into(), job });
            self.charge(budget);
        }
    }

    /// Takes what an engine says.
    pub(crate) fn task_news(&mut self, task: TaskId, news: TaskNews) {
        let run = self.book.run_of_task(&task).cloned();
        let Some((run, live)) = run.and_then(|run| run.live(&task).map(|live| (run, live))) else {
            return self.heard_again(task, news);
        };
        match news {
            TaskNews::Waiting => self.task_waits(&run, live),
            TaskNews::Placed { node } => self.task_placed(&run, live, node),
            TaskNews::Running => self.task_runs(&run, live),
            TaskNews::Ended(end) => {
                self.attempt_ended(&run, live, end);
                self.effects.push(Effect::Acknowledge { task });
            }
            TaskNews::GivenUp { message } => {
                self.give_up(run.key, &live);
                self.attempt_ended(&run, live, AttemptEnd::Lost { message });
            }
            TaskNews::NeverBegan => self.never_began(&run, live),
            TaskNews::Unknown => {
                if live.unknown_since.is_none() {
                    self.set_live(&run, Live { unknown_since: Some(self.now), ..live });
                }
            }
        }
    }

    /// The engine has it and has not begun it.
    fn task_waits(&mut self, run: &Run, live: Live) {
        self.kill_again(&live);
        if live.unknown_since.is_some() {
            self.set_live(run, Live { unknown_since: None, ..live });
        }
    }

    /// The engine has a place for it. Where it runs is durable before it runs there: whoever leads next asks there.
    fn task_placed(&mut self, run: &Run, live: Live, node: Arc<str>) {
        // What runs already has its place.
        if live.started.is_some() {
            return;
        }
        self.kill_again(&live);
        if live.kill.is_none() {
            self.effects.push(Effect::GoAhead { task: live.task.clone(), node: node.clone() });
        }
        if live.node != node || live.unknown_since.is_some() {
            self.set_live(run, Live { node, unknown_since: None, ..live });
        }
    }

    /// A kill that a former leader ordered may have been lost with it; one of ours may have overtaken the launch.
    fn kill_again(&mut self, live: &Live) {
        if live.kill.is_some() && (self.kills.insert(live.task.clone()) || live.started.is_none()) {
            self.effects.push(Effect::Kill { task: live.task.clone() });
        }
    }

    fn task_runs(&mut self, run: &Run, live: Live) {
        self.kill_again(&live);
        if live.started.is_none() || live.unknown_since.is_some() {
            let started = live.started.or(Some(self.now));
            self.set_live(run, Live { started, unknown_since: None, ..live });
        }
    }

    pub(crate) fn set_live(&mut self, run: &Run, live: Live) {
        self.book.put_run(Run { state: RunState::Running(live), ..run.clone() });
    }

    /// The engine is certain that the attempt did not begin: it is launched again, under the same name.
    fn never_began(&mut self, run: &Run, live: Live) {
        self.kills.remove(&live.task);
        if let Some(reason) = live.kill {
            return self.finish(run, Outcome::Killed(reason));
        }
        match self.book.job(run.key.job) {
            None => return self.finish(run, Outcome::Killed(KillReason::Deleted)),
            Some(job) if job.rules.disabled && run.attempts.is_empty() => {
                return self.finish(run, Outcome::Skipped(Skipped::Withdrawn));
            }
            Some(_) => {}
        }
        let until = later(live.launched, RELAUNCH_DELAY);
        let state = if until <= self.now {
            RunState::Queued
        } else {
            RunState::Waiting { attempt: live.attempt, until }
        };
        self.book.put_run(Run { state, ..run.clone() });
    }

    fn attempt_ended(&mut self, run: &Run, live: Live, end: AttemptEnd) {
        self.kills.remove(&live.task);
        let end = match (end, &live.kill) {
            (AttemptEnd::Killed | AttemptEnd::Failed { .. }, Some(KillReason::TimedOut)) => {
                AttemptEnd::TimedOut
            }
            (AttemptEnd::Failed { .. }, Some(_)) => AttemptEnd::Killed,
            (AttemptEnd::Killed, None) => AttemptEnd::failed("killed from outside"),
            (end, _) => end,
        };
        self.watch_for_loop(run.key.job, &live, &end);
        let attempt = Attempt {
            number: live.attempt,
            launched: live.launched,
            started: live.started,
            ended: self.now,
            node: live.node,
            end: end.clone(),
            elements: live.elements,
        };
        let mut run = run.clone();
        run.attempts.push(attempt);
        match (end, live.kill) {
            (AttemptEnd::Succeeded, _) => self.finish(&run, Outcome::Succeeded),
            (AttemptEnd::Killed, Some(reason)) => self.finish(&run, Outcome::Killed(reason)),
            (AttemptEnd::Lost { .. }, Some(reason)) if reason != KillReason::TimedOut => {
                self.finish(&run, Outcome::Killed(reason));
            }
            _ => self.retry(run),
        }
    }

    /// Waits for the next attempt, if the job's policy has one; else the run ends as its last attempt did.
    fn retry(&mut self, mut run: Run) {
        let next = run.attempts.len().try_into().unwrap_or(u32::MAX);
        let job = self.book.job(run.key.job).filter(|job| !job.rules.disabled);
        let usual = self.settings.retry_delay;
        match job.and_then(|job| job.rules.retry.delay_before(next, usual)) {
            Some(delay) => {
                run.state = RunState::Waiting { attempt: next, until: later(self.now, delay) };
                self.book.put_run(run);
            }
            None => self.finish(&run, run.last_outcome()),
        }
    }

    /// Wants the task dead. Durable: a later leader goes on wanting it.
    pub(crate) fn order_kill(&mut self, run: &Run, reason: KillReason) {
        let RunState::Running(live) = &run.state else { return };
        // What runs too long may be tried again; what a user wants dead may not.
        if matches!(live.kill, None | Some(KillReason::TimedOut)) && live.kill.as_ref() != Some(&reason) {
            self.set_live(run, Live { kill: Some(reason), ..live.clone() });
        }
        self.kills.insert(live.task.clone());
        self.effects.push(Effect::Kill { task: live.task.clone() });
    }

    /// Cuts what a run waits for to what it may be from now on.
    pub(crate) fn clip_wait(&mut self, key: RunKey) {
        self.clip_loop_pause(key.job);
        let Some(run) = self.book.state().runs.get(&key).cloned() else { return };
        let now = self.now;
        let state = match &run.state {
            RunState::Queued => return,
            RunState::Waiting { attempt, until } => {
                let rules = self.book.rules(key.job);
                let delay = match run.attempts.is_empty() {
                    true => rules.offset_of(key),
                    false => {
                        rules.retry.delay_before(*attempt, self.settings.retry_delay).unwrap_or_default()
                    }
                };
                let until = (*until).min(later(now, delay.max(RELAUNCH_DELAY)));
                RunState::Waiting { attempt: *attempt, until }
            }
            RunState::Running(live) => {
                let (started, unknown_since) =
                    (live.started.map(|t| t.min(now)), live.unknown_since.map(|t| t.min(now)));
                RunState::Running(Live {
                    launched: live.launched.min(now),
                    started,
                    unknown_since,
                    ..live.clone()
                })
            }
        };
        if state != run.state {
            self.book.put_run(Run { state, ..(*run).clone() });
        }
    }

    /// A run's deadline has passed: to start, to wait, to run, or to be heard of.
    pub(crate) fn pass_deadline(&mut self, key: RunKey) {
        let Some(run) = self.book.state().runs.get(&key).cloned() else { return };
        match &run.state {
            RunState::Queued => self.finish(&run, Outcome::Missed(Missed::Epsilon)),
            RunState::Waiting { .. } => self.book.put_run(Run { state: RunState::Queued, ..(*run).clone() }),
            RunState::Running(live) => {
                let rules = self.book.rules(key.job);
                match live.unknown_since {
                    Some(since) if later(since, rules.lost_after) <= self.now => {
                        self.lose(&run, live, rules.guarantee)
                    }
                    _ => self.order_kill(&run, KillReason::TimedOut),
                }
            }
        }
    }

    /// Nobody has been able to tell for so long that the attempt is given up.
    fn lose(&mut self, run: &Run, live: &Live, guarantee: Guarantee) {
        self.kills.remove(&live.task);
        self.give_up(run.key, live);
        let mut run = run.clone();
        let message = "nobody could tell how it ended within `lostAfter`".into();
        run.attempts.push(Attempt {
            number: live.attempt,
            launched: live.launched,
            started: live.started,
            ended: self.now,
            node: live.node.clone(),
            end: AttemptEnd::Lost { message },
            elements: live.elements,
        });
        match (guarantee, &live.kill) {
            (_, Some(reason)) if *reason != KillReason::TimedOut => {
                self.finish(&run, Outcome::Killed(reason.clone()));
            }
            (Guarantee::AtMostOnce, _) => self.finish(&run, Outcome::Lost),
            (Guarantee::AtLeastOnce, _) => self.retry(run),
        }
    }
}
