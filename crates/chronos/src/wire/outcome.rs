//! What became of a run, in the words that the API, pages and logs share.

use scheduler::ids::Cause;
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

/// The word for the end of an attempt.
pub fn word_of_end(end: &AttemptEnd) -> &'static str {
    word(match end {
        AttemptEnd::Succeeded => OutcomeKind::Succeeded,
        AttemptEnd::Failed { .. } => OutcomeKind::Failed,
        AttemptEnd::Killed => OutcomeKind::Killed,
        AttemptEnd::TimedOut => OutcomeKind::TimedOut,
        AttemptEnd::Lost { .. } => OutcomeKind::Lost,
    })
}

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
            Skipped::JoinSuperseded => "too many joins were open, or it has other parents now".into(),
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

/// Why a run ended as it did: what came before its end says more than the outcome alone.
pub fn why(run: &EndedRun) -> Option<String> {
    let failure = || run.attempts.last().and_then(failure);
    match (&run.outcome, run.key.cause) {
        // Whoever gave up an attempt knows more of it.
        (lost @ Outcome::Lost, _) => failure().or_else(|| reason(lost)),
        // It has no joins, and is the root of what its parents lead to.
        (Outcome::Skipped(Skipped::JoinSuperseded), Cause::Join { cycle, .. })
            if cycle.origin == run.key.job =>
        {
            Some("a parent succeeded again before all others had: of its successes the last one counts".into())
        }
        // There was a node, since there was a run.
        (Outcome::Missed(Missed::Epsilon), _) => {
            Some("it waited in vain to be started within epsilon: behind another run of its job, a limit or the engine".into())
        }
        (outcome, _) => reason(outcome).or_else(failure),
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

#[cfg(test)]
mod tests {
    use scheduler::ids::{Cycle, JobUid, RunKey};
    use scheduler::run::Record;
    use store::samples;

    use super::*;

    #[test]
    fn one_outcome_of_several_reasons_says_which() {
        let of = |origin: u64, outcome: Outcome| {
            let Record::Run(mut run) = samples::ended(3, 2, outcome) else { panic!("a run") };
            let cycle = Cycle { due: run.due, origin: JobUid(origin), seq: 0 };
            run.key = RunKey { job: JobUid(3), cause: Cause::Join { cycle, round: 0 } };
            run.attempts.clear();
            why(&run).unwrap_or_default()
        };
        let gave_way = Outcome::Skipped(Skipped::JoinSuperseded);
        assert!(of(1, gave_way.clone()).starts_with("too many joins were open"), "it joins by cycle");
        assert!(of(3, gave_way).starts_with("a parent succeeded again"), "it keeps a success of each parent");
        let epsilon = Outcome::Missed(Missed::Epsilon);
        assert!(of(1, epsilon.clone()).starts_with("it waited in vain"));
        assert_eq!(reason(&epsilon).as_deref(), Some("nobody could start it within epsilon"), "of slots");
    }
}
