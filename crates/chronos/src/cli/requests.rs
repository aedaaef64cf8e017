//! Commands that change something: one request each, one line of answer.

use clap::Args;
use jiff::{SignedDuration, Timestamp, Unit};
use reqwest::Method;
use serde_json::{Value, json};

use super::backfill::instant;
use super::client::{Answer, job_name};
use super::failure::{Exit, Failure};
use super::{ClientArgs, Format, JobArgs, TargetArgs};
use crate::config::Length;

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Name of the job
    job: String,
    /// Instead of the job's own arguments
    #[arg(long, value_name = "TEXT")]
    arguments: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
pub(super) struct DeleteArgs {
    /// Names of the jobs
    #[arg(required = true, value_name = "JOB")]
    jobs: Vec<String>,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) const PAUSE_HELP: &str = "\
Examples:
  chronos pause nightly --reason 'disk is being replaced' --for 2h
  chronos pause nightly --until 2030-01-01T08:00:00Z";

#[derive(Debug, Args)]
pub(super) struct PauseArgs {
    /// Name of the job
    job: String,
    /// Why, for the others who look at it
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// When it resumes by itself, such as 2030-01-01T08:00:00Z
    #[arg(long, value_name = "TIME", value_parser = instant, conflicts_with = "length")]
    until: Option<jiff::Timestamp>,
    /// After how long it resumes by itself, such as 2h
    #[arg(long = "for", value_name = "DURATION")]
    length: Option<Length>,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) async fn run(args: &RunArgs) -> Result<(), Failure> {
    let client = &super::client(&args.client)?;
    let path = ["v1", "scheduler", "job", job_name(&args.job)?];
    let query: Vec<_> = args.arguments.iter().map(|text| ("arguments", text.clone())).collect();
    let answer = client.change(Method::PUT, &path, &query, None).await?;
    let run = answer.body["run"].as_str().unwrap_or_default();
    tell(&answer, args.client.output, &format!("started job `{}`: run {run}", args.job))
}

pub(super) async fn kill(args: &TargetArgs) -> Result<(), Failure> {
    let client = &super::client(&args.client)?;
    let output = args.client.output;
    let path = ["v1", "scheduler", "task", "kill", job_name(&args.target)?];
    let answer = match client.change(Method::DELETE, &path, &[], None).await {
        Err(failure) if is_unknown_job(&failure) && is_run_key(&args.target) => {
            let answer = client.change(Method::DELETE, &["v1", "runs", &args.target], &[], None).await?;
            return tell(&answer, output, &format!("killing run {}", args.target));
        }
        answer => answer?,
    };
    let runs = answer.body["runs"].as_u64().unwrap_or_default();
    let what = match runs {
        0 => format!("job `{}` has no live runs", args.target),
        1 => format!("killing 1 run of job `{}`", args.target),
        n => format!("killing {n} runs of job `{}`", args.target),
    };
    tell(&answer, output, &what)
}

/// Goes on after a refusal, so that one name that is gone does not keep the others.
pub(super) async fn delete(args: &DeleteArgs) -> Result<(), Failure> {
    let client = &super::client(&args.client)?;
    let mut worst = None;
    for name in &args.jobs {
        let path = ["v1", "scheduler", "job", job_name(name)?];
        match client.change(Method::DELETE, &path, &[], None).await {
            Ok(answer) => tell(&answer, args.client.output, &format!("deleted job `{name}`"))?,
            Err(failure) if failure.exit == Exit::Refused => worst = remember(worst, failure),
            Err(failure) => return Err(failure),
        }
    }
    worst.map_or(Ok(()), Err)
}

pub(super) async fn pause(args: &PauseArgs) -> Result<(), Failure> {
    let client = &super::client(&args.client)?;
    let after = |length: &Length| end_of(length, Timestamp::now());
    let until = args.length.as_ref().map(after).transpose()?.or(args.until);
    let mut body = json!({ "reason": args.reason });
    if let Some(until) = until {
        body["until"] = until.to_string().into();
    }
    let path = ["v1", "jobs", job_name(&args.job)?, "pause"];
    let answer = client.change(Method::POST, &path, &[], Some(&body)).await?;
    let until = until.map_or(String::new(), |until| format!(" until {until}"));
    tell(&answer, args.client.output, &format!("paused job `{}`{until}", args.job))
}

/// When a pause of some length ends: at the next whole second, as that is what people read, and not before its time.
fn end_of(length: &Length, now: Timestamp) -> Result<Timestamp, Failure> {
    let span = SignedDuration::try_from(length.0).map_err(|e| Failure::new(Exit::Usage, e))?;
    let end = now.checked_add(span).and_then(|end| {
        end.round(jiff::TimestampRound::new().smallest(Unit::Second).mode(jiff::RoundMode::Ceil))
    });
    end.map_err(|e| Failure::new(Exit::Usage, e).context("--for is too long"))
}

pub(super) async fn resume(args: &JobArgs) -> Result<(), Failure> {
    let client = &super::client(&args.client)?;
    let path = ["v1", "jobs", job_name(&args.job)?, "resume"];
    let answer = client.change(Method::POST, &path, &[], Some(&json!({}))).await?;
    tell(&answer, args.client.output, &format!("resumed job `{}`", args.job))
}

pub(super) async fn mark_success(args: &JobArgs) -> Result<(), Failure> {
    let client = &super::client(&args.client)?;
    let path = ["v1", "scheduler", "job", "success", job_name(&args.job)?];
    let answer = client.change(Method::PUT, &path, &[], None).await?;
    tell(&answer, args.client.output, &format!("marked job `{}` as successful", args.job))
}

pub(crate) fn tell(answer: &Answer, format: Format, line: &str) -> Result<(), Failure> {
    match format {
        Format::Table => super::out(format!("{line}\n").as_bytes())?,
        Format::Json if answer.body == Value::Null => super::out_json(&json!({}))?,
        Format::Json => super::out_json(&answer.body)?,
    }
    Ok(())
}

/// Prints all failures but the last, which ends the command.
fn remember(earlier: Option<Failure>, failure: Failure) -> Option<Failure> {
    if let Some(earlier) = earlier {
        earlier.print();
    }
    Some(failure)
}

/// Whether the server knows no job of that name.
pub(crate) fn is_unknown_job(failure: &Failure) -> bool {
    failure.code.as_deref() == Some("no_such_job")
}

pub(crate) fn is_run_key(text: &str) -> bool {
    text.parse::<scheduler::ids::RunKey>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_ends_at_a_whole_second() {
        let now: Timestamp = "2030-01-01T08:00:00.123456789Z".parse().expect("a time");
        let end = end_of(&Length(std::time::Duration::from_secs(7200)), now).expect("an end");
        assert_eq!(end.to_string(), "2030-01-01T10:00:01Z");
        assert!(end_of(&Length(std::time::Duration::from_secs(u64::MAX)), now).is_err());
    }
}
