//! What is worth telling: which ends of runs, which waits. Said once, and durable with what caused it.

use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;

use crate::book::later;
use crate::ids::RunKey;
use crate::job::Job;
use crate::notice::{Alert, AlertKind, clipped};
use crate::run::{Attempt, AttemptEnd, EndedRun, KillReason, Missed, Outcome, Run, RunState, SlotRange};
use crate::scheduler::Scheduler;
use crate::spawn::Counted;

impl Scheduler {
    /// A run of the job has ended.
    pub(crate) fn watch_end(&mut self, job: &Job, run: &EndedRun, counted: Counted) {
        let kind = match (&run.outcome, counted) {
            (Outcome::Succeeded, Counted::Success { errors_before: 1.. }) => AlertKind::Recovered,
            (Outcome::Failed | Outcome::TimedOut | Outcome::Lost, Counted::Disabled { .. })
                if job.rules.wants(AlertKind::Disabled) =>
            {
                AlertKind::Disabled
            }
            (Outcome::Failed | Outcome::TimedOut | Outcome::Lost, _) => AlertKind::Failed,
            (Outcome::Missed(_), _) => AlertKind::Missed,
            (Outcome::Killed(_), _) => AlertKind::Killed,
            (Outcome::Succeeded | Outcome::Skipped(_), _) => return,
        };
        if !self.is_wanted(job, kind) {
            return;
        }
        let detail = match (kind, counted) {
            (AlertKind::Recovered, Counted::Success { errors_before }) => {
                format!("succeeded after {}", times(errors_before, "failed run"))
            }
            (AlertKind::Disabled, Counted::Disabled { errors }) => {
                format!("disabled after {} in a row; the last {}", times(errors, "failed run"), end_of(run))
            }
            _ => end_of(run),
        };
        self.alert_about(job, kind, (Some(run.key), run.due), 1, &detail);
    }

    /// Slots of the job have passed without becoming runs.
    pub(crate) fn watch_slots(&mut self, job: &Job, range: &SlotRange) {
        let Outcome::Missed(why) = range.outcome else { return };
        if !self.is_wanted(job, AlertKind::Missed) {
            return;
        }
        let detail = format!("{} not run: {}", times(range.count, "slot"), missed(why));
        self.alert_about(job, AlertKind::Missed, (None, range.last_due), range.count, &detail);
    }

    /// The job is about to be gone, and its runs with it.
    pub(crate) fn watch_deletion(&mut self, job: &Job, live: usize) {
        if !self.is_wanted(job, AlertKind::Deleted) {
            return;
        }
        let mut detail = "the job was deleted".to_owned();
        if !self.author.name().is_empty() {
            let _ = write!(detail, " by {}", self.author.name());
        }
        if live > 0 {
            let _ = write!(detail, "; {} killed", times(live as u64, "live run"));
        }
        self.alert_about(job, AlertKind::Deleted, (None, self.now), 0, &detail);
    }

    /// The last slot of the schedule has been taken.
    pub(crate) fn watch_exhaustion(&mut self, job: &Job, last: Timestamp) {
        if self.is_wanted(job, AlertKind::Exhausted) {
            let detail = "its schedule has no repetition left: give it another one, or delete it";
            self.alert_about(job, AlertKind::Exhausted, (None, last), 0, detail);
        }
    }

    /// A run is about to be launched: too late, if the timer has not been able to say so.
    pub(crate) fn watch_launch(&mut self, job: &Job, run: &mut Run) {
        let Some(after) = job.rules.alerts.as_ref().and_then(|alerts| alerts.late_after) else { return };
        if run.told.late || !run.attempts.is_empty() || self.now <= later(run.due, after) {
            return;
        }
        run.told.late = true;
        let behind = Duration::try_from(self.now.duration_since(run.due)).unwrap_or_default();
        let detail = format!("started {} after its due time, more than {}", length(behind), length(after));
        if self.is_wanted(job, AlertKind::Late) {
            self.alert_about(job, AlertKind::Late, (Some(run.key), run.due), 1, &detail);
        }
    }

    /// A run has waited, or has been running, for as long as its job finds worth telling.
    pub(crate) fn watch_wait(&mut self, key: RunKey) {
        let Some(run) = self.book.state().runs.get(&key).cloned() else { return };
        let Some(job) = self.book.job(key.job).cloned() else { return };
        let Some(rules) = job.rules.alerts.as_ref() else { return };
        let mut run = (*run).clone();
        let (kind, detail) = match (&run.state, rules.late_after, rules.long_running_after) {
            (RunState::Queued, Some(after), _) => {
                run.told.late = true;
                (AlertKind::Late, format!("has not started {} after its due time", length(after)))
            }
            (RunState::Running(live), _, Some(after)) => {
                run.told.long_running = true;
                let attempt = live.attempt;
                (AlertKind::LongRunning, format!("attempt {attempt} has been running for {}", length(after)))
            }
            _ => return,
        };
        let about = (Some(run.key), run.due);
        self.book.put_run(run);
        if self.is_wanted(&job, kind) {
            self.alert_about(&job, kind, about, 1, &detail);
        }
    }

    /// Tells something that is wanted, of a run or of slots that never became one.
    fn alert_about(
        &mut self,
        job: &Job,
        kind: AlertKind,
        (run, due): (Option<RunKey>, Timestamp),
        slots: u64,
        detail: &str,
    ) {
        let alert = Alert {
            kind,
            job: job.uid,
            name: job.name.clone(),
            run,
            due,
            at: self.now,
            slots,
            detail: clipped(detail, Alert::DETAIL_MAX),
        };
        self.alert(job, &alert);
    }
}

/// How a run ended, as part of a sentence.
fn end_of(run: &EndedRun) -> String {
    let word = match &run.outcome {
        Outcome::Succeeded => "succeeded".to_owned(),
        Outcome::Failed => "failed".into(),
        Outcome::TimedOut => "timed out".into(),
        Outcome::Lost => "was lost: nobody can tell how it ended".into(),
        Outcome::Killed(reason) => format!("was killed: {}", killed(reason)),
        Outcome::Missed(why) => format!("was not run: {}", missed(*why)),
        Outcome::Skipped(_) => "was skipped".into(),
    };
    let mut text = word;
    if let Some(last) = run.attempts.last() {
        let _ = write!(text, " after {}", times(run.attempts.len() as u64, "attempt"));
        text.push_str(&why(last));
    }
    text
}

fn why(attempt: &Attempt) -> String {
    match &attempt.end {
        AttemptEnd::Failed { exit: Some(exit), .. } => format!(": exit status {exit}"),
        AttemptEnd::Failed { signal: Some(signal), .. } => format!(": signal {signal}"),
        AttemptEnd::Failed { message, .. } | AttemptEnd::Lost { message } if !message.is_empty() => {
            format!(": {message}")
        }
        _ => String::new(),
    }
}

fn killed(reason: &KillReason) -> &'static str {
    match reason {
        KillReason::Asked => "somebody asked for it",
        KillReason::TimedOut => "it ran too long",
        KillReason::Replaced => "a newer run took its place",
        KillReason::Deleted => "its job was deleted",
        KillReason::Restored => "a backup was restored that does not know it",
    }
}

fn missed(why: Missed) -> &'static str {
    match why {
        Missed::Epsilon => "nobody could start it within its epsilon",
        Missed::GaveWay => "a later slot came before anybody could start it",
        Missed::NoCatchUp => "nobody was there at its due time",
        Missed::CatchUpBound => "it was beyond the bounds of catching up",
    }
}

fn times(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// A length of time in its largest whole unit.
fn length(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0 => format!("{} ms", span.as_millis()),
        n if n % 3600 == 0 => format!("{} h", n / 3600),
        n if n % 60 == 0 => format!("{} min", n / 60),
        n => format!("{n} s"),
    }
}
