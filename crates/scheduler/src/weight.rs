//! What changes weigh: a step stays within what one batch of a store may hold.

use crate::audit::Act;
use crate::job::{Job, Plan, Rules};
use crate::run::{Attempt, AttemptEnd, Outcome, Record, Skipped};
use crate::state::Change;

impl Change {
    /// About how many bytes it takes in a batch of a store; never less than it does.
    pub fn weight(&self) -> usize {
        const ATTEMPT: usize = 300;
        const NOTE: usize = 900;
        match self {
            Change::PutJob(job) => job_weight(job),
            Change::Revise(revision) => {
                let names: usize = revision.parents.iter().map(|name| name.as_str().len() + 3).sum();
                job_weight(&revision.job) + names + 200
            }
            Change::Note(entry) => match &entry.act {
                Act::Paused { before, after } => {
                    let reasons = before.as_ref().map_or(0, |pause| pause.reason.len()) + after.reason.len();
                    NOTE + reasons * 2
                }
                Act::Resumed { before } => NOTE + before.reason.len() * 2,
                Act::NodeForgotten { node, .. } => NOTE + node.len() * 2,
                Act::HeardLate { node, end, .. } => NOTE + (node.len() + message_len(end)) * 2,
                _ => NOTE,
            },
            Change::PutRun(run) => {
                let arguments = run.arguments.as_ref().map_or(0, |text| text.len() * 2);
                900 + arguments + attempts_weight(&run.attempts, ATTEMPT)
            }
            Change::Append(record) => match &**record {
                Record::Run(run) => {
                    900 + reason_weight(&run.outcome) + attempts_weight(&run.attempts, ATTEMPT)
                }
                Record::Range(range) => 900 + reason_weight(&range.outcome),
            },
            Change::PutBackfill(backfill) => {
                1200 + backfill.except.len() * 40 + backfill.under_way.len() * 40
            }
            Change::PutJoin(join) => 400 + join.parents.len() * 40,
            Change::PutProgress(_, progress) => {
                let reason = progress.paused.as_ref().map_or(0, |pause| pause.reason.len() * 2);
                let given_up: usize = progress.given_up.iter().map(|one| 150 + one.node.len() * 2).sum();
                700 + reason + progress.flags.len() * 80 + given_up
            }
            Change::PutNotice(notice) => 900 + notice.alerts.len() * 1000,
            Change::Meta(_) => 600,
            Change::Stage(definition) => 700 + definition.bytes() * 2 + tags_weight(&definition.rules),
            Change::PutReceipt(_) => 700,
            _ => 200,
        }
    }
}

fn job_weight(job: &Job) -> usize {
    let parents = if let Plan::Parents(parents) = &job.plan { parents.len() } else { 0 };
    1500 + job.body.len() * 2 + parents * 24 + tags_weight(&job.rules)
}

fn tags_weight(rules: &Rules) -> usize {
    let labels: usize = rules.labels().iter().map(|(key, value)| key.len() + value.len() + 8).sum();
    (rules.owner().len() + labels) * 2
}

fn reason_weight(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Skipped(Skipped::Paused { reason }) => reason.len() * 2,
        _ => 0,
    }
}

fn attempts_weight(attempts: &[Attempt], each: usize) -> usize {
    attempts.iter().map(|a| each + message_len(&a.end) * 2).sum()
}

fn message_len(end: &AttemptEnd) -> usize {
    match end {
        AttemptEnd::Failed { message, .. } | AttemptEnd::Lost { message } => message.len(),
        AttemptEnd::Succeeded | AttemptEnd::Killed | AttemptEnd::TimedOut => 0,
    }
}
