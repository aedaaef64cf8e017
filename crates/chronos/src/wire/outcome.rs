//! What became of a run, in the words that the API, pages and logs share.

use scheduler::run::{Attempt, AttemptEnd, EndedRun, KillReason, Missed, Outcome, Skipped};
use store::OutcomeKind;

/// The word for an outcome in URLs, events and pages.
pub fn word(kind: OutcomeKind) -> &'static str {
    match kind {
        OutcomeKind::Succeeded => "succeeded",
        OutcomeKind::Failed => "failed",
        OutcomeKind::Killed => "killed",
        OutcomeKind::TimedOut => "timedOut",
        OutcomeKind::Lost => "lost",
        OutcomeKind::Skipped => "skipped",
        OutcomeKind::Missed => "missed",
    }
}

/// All kinds of outcomes.
pub const KINDS: [OutcomeKind; 7] = [
    OutcomeKind::Succeeded,
    OutcomeKind::Failed,
    OutcomeKind::Killed,
    OutcomeKind::TimedOut,
    OutcomeKind::Lost,
    OutcomeKind::Skipped,
    OutcomeKind::Missed,
];

/// The reason of an outcome, where it has one.
pub fn reason(outcome: &Outcome) -> Option<String> {
    Some(match outcome {
        Outcome::Succeeded | Outcome::Failed => return None,
        Outcome::TimedOut => "it ran longer than maxCompletionTime".into(),
        Outcome::Lost => "nobody could tell how it ended".into(),
        Outcome::Killed(reason) => match reason {
            KillReason::Asked => "a user asked for it".into(),
            KillReason::TimedOut => "it ran longer than maxCompletionTime".into(),
            KillReason::Replaced => "a newer run took its place".into(),
            KillReason::Deleted => "its job was deleted".into(),
            KillReason::Restored => "a backup was restored that does not know it".into(),
        },
        Outcome::Skipped(rule) => match rule {
            Skipped::Overlaps(run) => format!("run {run} was still busy"),
            Skipped::Superseded(run) => format!("run {run} was waiting already"),
            Skipped::Replaced(run) => format!("run {run} took its place"),
            Skipped::Upstream { parent } => format!("upstream {parent} failed"),
            Skipped::JoinSuperseded => {
                "too many joins were open, or its parents succeeded again before it fired".into()
            }
            Skipped::Paused { reason } if reason.is_empty() => "the job was paused".into(),
            Skipped::Paused { reason } => format!("the job was paused: {reason}"),
            Skipped::Withdrawn => "the job was deleted, disabled or given another schedule".into(),
            Skipped::Cancelled => "a user killed it while it was waiting".into(),
        },
        Outcome::Missed(why) => match why {
            Missed::Epsilon => "nobody could start it within epsilon".into(),
            Missed::GaveWay => "a later slot came first (catchUp: latest)".into(),
            Missed::NoCatchUp => "nobody was there at its due time (catchUp: none)".into(),
            Missed::CatchUpBound => "it was beyond the bounds of catchUp: all".into(),
        },
    })
}

/// Why a run ended as it did. Whoever gave up an attempt knows more of it than the outcome says.
pub fn why(run: &EndedRun) -> Option<String> {
    let failure = || run.attempts.last().and_then(failure);
    match &run.outcome {
        lost @ Outcome::Lost => failure().or_else(|| reason(lost)),
        outcome => reason(outcome).or_else(failure),
    }
}

/// What went wrong with an attempt, also where the outcome of the run would say it.
pub fn fault(attempt: &Attempt) -> Option<String> {
    match &attempt.end {
        AttemptEnd::TimedOut => reason(&Outcome::TimedOut),
        AttemptEnd::Lost { .. } => failure(attempt).or_else(|| reason(&Outcome::Lost)),
        _ => failure(attempt),
    }
}

/// How the last attempt failed, in one line.
fn failure(attempt: &Attempt) -> Option<String> {
    match &attempt.end {
        AttemptEnd::Failed { exit, signal, message } => Some(match (exit, signal) {
            _ if !message.is_empty() => message.to_string(),
            (Some(exit), _) => format!("exit status {exit}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => return None,
        }),
        AttemptEnd::Lost { message } if !message.is_empty() => Some(message.to_string()),
        _ => None,
    }
}
