//! Commands that only look: tables for people, the server's own JSON for scripts.

use clap::Args;
use serde_json::{Value, json};

use super::client::{Client, job_name};
use super::failure::{Exit, Failure, printable};
use super::requests::{is_run_key, is_unknown_job};
use super::table::Table;
use super::{ChosenArgs, ClientArgs, Format, TargetArgs, at_least_one};

pub(super) const JOBS_HELP: &str = "\
Examples:
  chronos jobs nightly
  chronos jobs --state failing --sort -lastError
  chronos jobs --label team=etl --kind schedule --sort next --limit 20
  chronos jobs --state paused --output json | jq -r '.[].name'";

#[derive(Debug, Args)]
pub(super) struct JobsArgs {
    /// Only jobs with this text in their name, command, owner or labels
    #[arg(value_name = "TEXT")]
    search: Option<String>,
    #[command(flatten)]
    chosen: ChosenArgs,
    /// By name, state, lastOutcome, lastEnded, lastSuccess, lastError, next, owner, errors, created or changed; a `-`
    /// before it turns the order round
    #[arg(long, value_name = "FIELD", allow_hyphen_values = true)]
    sort: Option<String>,
    /// At most so many; all, if not given
    #[arg(long, short = 'n', value_name = "COUNT", value_parser = at_least_one)]
    limit: Option<usize>,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) const RUNS_HELP: &str = "\
Examples:
  chronos runs
  chronos runs --cause trigger --sort time
  chronos runs nightly --outcome failed --outcome missed --limit 20
  chronos runs --output json | jq -r '.[].key'";

#[derive(Debug, Args)]
pub(super) struct RunsArgs {
    /// Only of this job
    job: Option<String>,
    /// Only with this outcome: succeeded, failed, killed, timedOut, lost, skipped, missed, or `live`; may be repeated
    #[arg(long, value_name = "OUTCOME")]
    outcome: Vec<String>,
    /// Only for this cause: slot, trigger, join, backfill; may be repeated
    #[arg(long, value_name = "CAUSE")]
    cause: Vec<String>,
    /// Only with a due time at or after this
    #[arg(long, value_name = "TIME")]
    from: Option<jiff::Timestamp>,
    /// Only with a due time before this
    #[arg(long, value_name = "TIME")]
    to: Option<jiff::Timestamp>,
    /// `-time`, the newest first, or `time`
    #[arg(long, value_name = "FIELD", allow_hyphen_values = true)]
    sort: Option<String>,
    /// At most so many
    #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 50, value_parser = at_least_one)]
    limit: usize,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) const NEXT_HELP: &str = "\
Examples:
  chronos next -n 20
  chronos next nightly --from 2030-01-01T00:00:00Z
  chronos next --label team=etl --until 2030-01-01T08:00:00Z -n 1000";

#[derive(Debug, Args)]
pub(super) struct NextArgs {
    /// Only of this job
    #[arg(conflicts_with = "ChosenArgs")]
    job: Option<String>,
    #[command(flatten)]
    chosen: ChosenArgs,
    /// Only those due at or after this
    #[arg(long, value_name = "TIME")]
    from: Option<jiff::Timestamp>,
    /// Only those due at or before this
    #[arg(long, value_name = "TIME")]
    until: Option<jiff::Timestamp>,
    /// At most so many
    #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 10, value_parser = at_least_one)]
    limit: usize,
    #[command(flatten)]
    client: ClientArgs,
}

/// Most that one page of the API holds.
const PAGE_MAX: usize = 1000;
/// Runs looked through for one that has begun; the others were skipped or missed.
const RUNS_SEARCHED: usize = 1000;

pub(super) async fn jobs(args: &JobsArgs) -> Result<(), Failure> {
    let client = &super::client(&args.client)?;
    let mut query = args.chosen.query();
    query.extend(args.search.iter().map(|text| ("search", text.clone())));
    query.extend(args.sort.iter().map(|sort| ("sort", sort.clone())));
    let jobs = pages(client, &["v1", "jobs"], query, "jobs", args.limit.unwrap_or(usize::MAX)).await?;
    if args.client.output == Format::Json {
        return Ok(super::out_json(&Value::Array(jobs))?);
    }
    let mut table = Table::new(&["job", "state", "last outcome", "next", "when", "command"]);
    for job in &jobs {
        let when = match job["schedule"].as_str() {
            Some(schedule) => schedule.to_owned(),
            None => format!("after {}", names(&job["parents"]).join(", ")),
        };
        let last = text(&job["lastOutcome"]);
        table.row([text(&job["name"]), state_of(job), last, time(&job["next"]), when, text(&job["command"])]);
    }
    Ok(table.print()?)
}

/// What it does, and what keeps it from being started.
fn state_of(job: &Value) -> String {
    let state = text(&job["state"]);
    let held = match (!job["paused"].is_null(), job["exhausted"] == true, job["disabled"] == true) {
        (true, _, _) => "paused",
        (_, true, _) => "exhausted",
        (_, _, true) => "disabled",
        _ => return state,
    };
    if state == "idle" { held.into() } else { format!("{state}, {held}") }
}

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// Name of the job
    job: String,
    /// As this version was, of a deleted job too; `chronos history` lists them
    #[arg(long, value_name = "VERSION")]
    version: Option<u32>,
    /// Of an earlier creation of the job, as `chronos history` names it
    #[arg(long, value_name = "UID", requires = "version")]
    uid: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) async fn show(args: &ShowArgs) -> Result<(), Failure> {
    let client = super::client(&args.client)?;
    if let Some(version) = args.version {
        let path = ["v1", "jobs", job_name(&args.job)?, "versions", &version.to_string()];
        let query: Vec<_> = args.uid.iter().map(|uid| ("uid", uid.clone())).collect();
        let version = client.get(&path, &query).await?;
        return Ok(super::out_json(&version["definition"])?);
    }
    let job = client.get(&["v1", "scheduler", "job", job_name(&args.job)?], &[]).await?;
    Ok(super::out_json(&job)?)
}

pub(super) async fn runs(args: &RunsArgs) -> Result<(), Failure> {
    let client = &super::client(&args.client)?;
    let mut query = Vec::new();
    if let Some(job) = &args.job {
        query.push(("job", job_name(job)?.to_owned()));
    }
    if !args.outcome.is_empty() {
        query.push(("outcome", args.outcome.join(",")));
    }
    if !args.cause.is_empty() {
        query.push(("cause", args.cause.join(",")));
    }
    query.extend(args.sort.iter().map(|sort| ("sort", sort.clone())));
    query.extend(args.from.iter().map(|time| ("from", time.to_string())));
    query.extend(args.to.iter().map(|time| ("to", time.to_string())));
    let runs = pages(client, &["v1", "runs"], query, "runs", args.limit).await?;
    if args.client.output == Format::Json {
        return Ok(super::out_json(&Value::Array(runs))?);
    }
    let mut table = Table::new(&["run", "job", "due", "ended", "outcome", "attempts", "why"]);
    for run in &runs {
        table.row(row_of(run));
    }
    Ok(table.print()?)
}

pub(super) async fn next(args: &NextArgs) -> Result<(), Failure> {
    let client = &super::client(&args.client)?;
    let mut query = args.chosen.query();
    query.extend(args.from.iter().map(|time| ("from", time.to_string())));
    query.extend(args.until.iter().map(|time| ("until", time.to_string())));
    let mut answer = json!({});
    let path = match &args.job {
        Some(job) => {
            let path = vec!["v1", "jobs", job_name(job)?, "next"];
            // Says also what an `H` stands for.
            answer = client.get(&path, &[("limit", "1".into())]).await?;
            path
        }
        None => vec!["v1", "next"],
    };
    answer["slots"] = Value::Array(pages(client, &path, query, "slots", args.limit).await?);
    if let Some(answer) = answer.as_object_mut() {
        answer.shift_remove("next");
    }
    if args.client.output == Format::Json {
        return Ok(super::out_json(&answer)?);
    }
    let slots = answer["slots"].as_array().map_or(&[][..], Vec::as_slice);
    let jittered = slots.iter().any(|slot| !slot["starts"].is_null());
    let mut table = Table::new(if jittered { &["due", "starts", "job"] } else { &["due", "job"] });
    for slot in slots {
        let job = args.job.clone().unwrap_or_else(|| text(&slot["job"]));
        let starts = if slot["starts"].is_null() { &slot["due"] } else { &slot["starts"] };
        if jittered {
            table.row([time(&slot["due"]), time(starts), job]);
        } else {
            table.row([time(&slot["due"]), job]);
        }
    }
    table.print()?;
    if let Some(resolved) = answer["scheduleResolved"].as_str() {
        super::out(format!("each H stands for a value of its own: {}\n", printable(resolved)).as_bytes())?;
    }
    Ok(())
}

pub(super) async fn why(args: &TargetArgs) -> Result<(), Failure> {
    let client = &super::client(&args.client)?;
    let answer = match client.get(&["v1", "jobs", job_name(&args.target)?, "why"], &[]).await {
        Err(failure) if is_unknown_job(&failure) && is_run_key(&args.target) => {
            client.get(&["v1", "runs", &args.target, "why"], &[]).await?
        }
        answer => answer?,
    };
    if args.client.output == Format::Json {
        return Ok(super::out_json(&answer)?);
    }
    for reason in answer["reasons"].as_array().into_iter().flatten() {
        let bounds = [(" since ", time(&reason["since"])), (" until ", time(&reason["until"]))];
        let bounds: String = bounds
            .iter()
            .filter(|(_, time)| !time.is_empty())
            .map(|(word, time)| format!(",{word}{time}"))
            .collect();
        super::out(format!("{}{bounds}\n", printable(&text(&reason["message"]))).as_bytes())?;
    }
    Ok(())
}

/// Which of a job's runs has the output that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Latest {
    /// The latest that has begun.
    Begun,
    /// The latest that has begun or still may.
    BegunOrLive,
}

/// The key of the run that is meant by a key, or by the name of a job, deleted ones too.
pub(super) async fn run_of(client: &Client, target: &str, latest: Latest) -> Result<String, Failure> {
    let job = job_name(target)?;
    let query = vec![("job", job.to_owned())];
    let runs = pages(client, &["v1", "runs"], query, "runs", RUNS_SEARCHED).await?;
    let fits = |run: &&Value| {
        let begun = run["attempts"].as_array().is_some_and(|attempts| !attempts.is_empty());
        begun || (latest == Latest::BegunOrLive && run["outcome"].is_null())
    };
    match runs.iter().find(fits).and_then(|run| run["key"].as_str()) {
        Some(key) => Ok(key.into()),
        None if is_run_key(target) => Ok(target.into()),
        None => {
            // Says whether there is such a job.
            client.get(&["v1", "jobs", job, "why"], &[]).await?;
            let failure =
                Failure::new(Exit::Refused, anyhow::anyhow!("no run of job `{target}` has begun yet"));
            Err(failure.hint(format!("`chronos why {target}` says what it waits for")))
        }
    }
}

/// At most `limit` items of all pages.
pub(super) async fn pages(
    client: &Client,
    path: &[&str],
    query: Vec<(&str, String)>,
    items: &str,
    limit: usize,
) -> Result<Vec<Value>, Failure> {
    let (mut found, mut cursor) = (Vec::new(), None::<String>);
    while found.len() < limit {
        let mut query = query.clone();
        query.push(("limit", (limit - found.len()).min(PAGE_MAX).to_string()));
        query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
        let mut page = client.get(path, &query).await?;
        if let Some(Value::Array(more)) = page.get_mut(items).map(Value::take) {
            found.extend(more);
        }
        match &page["next"] {
            Value::Null => break,
            next => cursor = Some(next.as_str().map_or_else(|| next.to_string(), Into::into)),
        }
    }
    found.truncate(limit);
    Ok(found)
}

fn row_of(run: &Value) -> [String; 7] {
    let attempts = run["attempts"].as_array().map_or(0, Vec::len).to_string();
    let outcome = if run["outcome"].is_null() { text(&run["state"]) } else { text(&run["outcome"]) };
    let (key, due) = match run["count"].as_u64() {
        Some(count) => {
            (format!("{count} slots"), format!("{} to {}", time(&run["firstDue"]), time(&run["lastDue"])))
        }
        None => (text(&run["key"]), time(&run["due"])),
    };
    [key, text(&run["job"]), due, time(&run["ended"]), outcome, attempts, text(&run["reason"])]
}

pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// To the second, which is what people read.
pub(crate) fn time(value: &Value) -> String {
    let text = text(value);
    match text.split_once('.') {
        Some((seconds, fraction)) if fraction.ends_with('Z') => format!("{seconds}Z"),
        _ => text,
    }
}

pub(crate) fn names(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(text).collect()
}
