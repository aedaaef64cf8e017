//! How runs begin and end: what a new run does while an earlier one is busy, and what its end leads to.

use std::sync::Arc;

use jiff::Timestamp;

use crate::backfill::Children;
use crate::ids::{Cause, Cycle, GraphVersion, JobUid, RunKey};
use crate::job::{Job, Overlap};
use crate::revision::Deed;
use crate::run::{EndedRun, KillReason, Outcome, Record, Run, RunState, Skipped, Told};
use crate::scheduler::Scheduler;
use crate::state::Fanout;

/// A run that is about to be.
pub(crate) struct NewRun {
    pub(crate) cause: Cause,
    pub(crate) cycle: Cycle,
    /// The version of the graph in which the cycle began.
    pub(crate) graph: GraphVersion,
    pub(crate) due: Timestamp,
    pub(crate) again: bool,
    pub(crate) arguments: Option<Arc<str>>,
}

/// What an end meant for the counters of its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counted {
    /// Nothing.
    Neither,
    /// A success, after so many errors in a row.
    Success { errors_before: u64 },
    /// An error.
    Error,
    /// An error, the last of so many in a row: the job is disabled now.
    Disabled { errors: u64 },
}

impl Scheduler {
    /// The version of the graph in which a cycle begins now.
    pub(crate) fn graph_now(&self) -> GraphVersion {
        self.book.state().meta.graph
    }

    /// Makes the run, or records why a rule forbids it.
    pub(crate) fn spawn(&mut self, job: &Job, new: NewRun) -> RunKey {
        let key = RunKey { job: job.uid, cause: new.cause };
        if let Some(why) = self.forbidden(job, key, new.cycle) {
            self.skip(job, &new, why);
            return key;
        }
        let mut run = Run {
            key,
            job: job.name.clone(),
            cycle: new.cycle,
            graph: new.graph,
            due: new.due,
            created: self.now,
            again: new.again,
            arguments: new.arguments,
            state: RunState::Queued,
            attempts: Vec::new(),
            told: Told::default(),
        };
        if job.rules.overlap == Overlap::Replace && self.book.backfill_of(new.cycle).is_none() {
            self.make_way(job.uid, key);
        }
        self.clip_loop_pause(job.uid);
        // While it waits the job is busy. Where the job is busy anyway, its turn comes before its jitter is looked at.
        let room = self.book.active(job.uid) + self.book.queued(job.uid).0 < self.book.room(job.uid);
        if let Some(wait) = self.jitter(job, &run).filter(|_| room) {
            run.state = wait;
        }
        self.book.put_run(run);
        key
    }

    /// The state of a run that has to wait until its part of the jitter has passed. A run that was made later than now,
    /// by a clock that has gone back since, has waited enough.
    pub(crate) fn jitter(&self, job: &Job, run: &Run) -> Option<RunState> {
        let until = job.rules.starts_at(run);
        let waits = run.attempts.is_empty() && until > self.now && run.created <= self.now;
        waits.then_some(RunState::Waiting { attempt: 0, until })
    }

    /// The rule that forbids another run of the job now, if any.
    fn forbidden(&self, job: &Job, key: RunKey, cycle: Cycle) -> Option<Skipped> {
        let manual = matches!(key.cause, Cause::Trigger(_));
        if !manual && let Some(pause) = self.book.progress(job.uid).paused {
            return Some(Skipped::Paused { reason: pause.reason });
        }
        // What belongs to a backfill waits its turn, and no other run gives way to it: its bound is `parallel`.
        if self.book.backfill_of(cycle).is_some() {
            return None;
        }
        let first_queued = self.book.first_queued_of_its_own(job.uid);
        match job.rules.overlap {
            Overlap::Replace => None,
            Overlap::Skip => {
                let mut runs = self.book.state().runs_of(job.uid);
                runs.find(|run| self.book.backfill_of(run.cycle).is_none())
                    .map(|run| Skipped::Overlaps(run.key))
            }
            // What a user asks for by hand waits its turn, up to a bound that the door knows.
            Overlap::Queue | Overlap::Allow { .. } if manual => None,
            Overlap::Queue | Overlap::Allow { .. } => {
                let busy = self.book.active(job.uid) + self.book.queued(job.uid).0;
                first_queued.filter(|_| busy >= self.book.room(job.uid)).map(Skipped::Superseded)
            }
        }
    }

    /// `overlap: replace`: ends all that went before, for the sake of the newer run.
    fn make_way(&mut self, job: JobUid, newer: RunKey) {
        for run in self.live_runs(job) {
            match run.state {
                // The newer run waits for it: a past slot is not made stale by a later one.
                _ if self.book.backfill_of(run.cycle).is_some() => {}
                RunState::Running(_) => self.order_kill(&run, KillReason::Replaced),
                _ if run.attempts.is_empty() => self.finish(&run, Outcome::Skipped(Skipped::Replaced(newer))),
                _ => self.finish(&run, Outcome::Killed(KillReason::Replaced)),
            }
        }
    }

    pub(crate) fn live_runs(&self, job: JobUid) -> Vec<Arc<Run>> {
        self.book.state().runs_of(job).cloned().collect()
    }

    /// Records a run that never was, because a rule forbids it.
    pub(crate) fn skip(&mut self, job: &Job, new: &NewRun, why: Skipped) {
        let key = RunKey { job: job.uid, cause: new.cause };
        self.book.append(Record::Run(EndedRun {
            key,
            job: job.name.clone(),
            cycle: new.cycle,
            due: new.due,
            created: self.now,
            ended: self.now,
            outcome: Outcome::Skipped(why),
            arguments: new.arguments.clone(),
            attempts: Vec::new(),
        }));
        // The children of a skipped slot never hear of its cycle. Within a cycle that has begun, they must.
        if matches!(new.cause, Cause::Join { .. }) {
            let NewRun { cycle, graph, again, .. } = *new;
            self.fan_out(Fanout { run: key, cycle, graph, succeeded: false, again, after: None });
        }
    }

    /// Ends a live run: its one outcome, its job's counters, and what its children make of it.
    pub(crate) fn finish(&mut self, run: &Run, outcome: Outcome) {
        let uid = run.key.job;
        let failed = matches!(outcome, Outcome::Failed | Outcome::TimedOut | Outcome::Lost);
        let succeeded = outcome == Outcome::Succeeded;
        let record = EndedRun {
            key: run.key,
            job: run.job.clone(),
            cycle: run.cycle,
            due: run.due,
            created: run.created,
            ended: self.now,
            outcome,
            arguments: run.arguments.clone(),
            attempts: run.attempts.clone(),
        };
        self.book.end_run(run.key, Record::Run(record.clone()));
        let children = self.note_backfilled(run, succeeded);
        let Some(job) = self.book.job(uid).cloned() else { return };
        let counted = match run.key.cause {
            _ if !(succeeded || failed) => Counted::Neither,
            Cause::Backfill { .. } => self.count_backfilled(&job, succeeded),
            _ => self.count(&job, succeeded),
        };
        self.watch_end(&job, &record, counted);
        if children == Children::Stay {
            return;
        }
        let Run { key, cycle, graph, again, .. } = *run;
        let succeeded = succeeded || (failed && job.rules.soft_error);
        self.fan_out(Fanout { run: key, cycle, graph, succeeded, again, after: None });
    }

    /// Counts a success or an error, and disables a job that has failed too often.
    pub(crate) fn count(&mut self, job: &Job, succeeded: bool) -> Counted {
        let mut progress = self.book.progress(job.uid);
        let errors_before = progress.errors_in_a_row;
        if succeeded {
            progress.successes += 1;
            progress.errors_in_a_row = 0;
            progress.last_success = Some(self.now.into());
        } else {
            progress.errors += 1;
            progress.errors_in_a_row += 1;
            progress.last_error = Some(self.now.into());
        }
        let limit = self.settings.disable_after_failures;
        let disable = !succeeded && limit > 0 && progress.errors_in_a_row >= limit && !job.rules.disabled;
        self.book.put_progress(job.uid, progress);
        if disable {
            self.disable(job);
            return Counted::Disabled { errors: errors_before + 1 };
        }
        if succeeded { Counted::Success { errors_before } } else { Counted::Error }
    }

    /// Disables a job that fails too often, as its owner would: what is due, open or queued gets its outcome.
    fn disable(&mut self, job: &Job) {
        let mut progress = self.book.progress(job.uid);
        self.withdraw_slots(job, &mut progress);
        progress.flags.clear();
        self.book.put_progress(job.uid, progress);
        let mut disabled = job.clone();
        Arc::make_mut(&mut disabled.rules).disabled = true;
        disabled.version += 1;
        disabled.changed = self.now;
        // First of all, so that runs that end as failures now do not disable it once more.
        self.revise(disabled, Deed::Disabled);
        self.retire_joins(job, &Skipped::Withdrawn);
        self.withdraw(job.uid);
    }

    /// Ends the runs of a job that have not begun; those that wait for a retry end as their last attempt did.
    pub(crate) fn withdraw(&mut self, job: JobUid) {
        for run in self.live_runs(job) {
            match run.state {
                RunState::Running(_) => {}
                // The failure before it in this loop has disabled the job, which has withdrawn them all.
                _ if !self.book.state().runs.contains_key(&run.key) => {}
                _ if run.attempts.is_empty() => self.finish(&run, Outcome::Skipped(Skipped::Withdrawn)),
                _ => self.finish(&run, run.last_outcome()),
            }
        }
    }

    /// Lets the children of an ended run know, now or in the steps to come.
    pub(crate) fn fan_out(&mut self, news: Fanout) {
        if self.book.graph().has_children(news.run.job) {
            self.fanouts.push_back(news);
        }
    }
}
