//! Commands that only look: tables for people, the server's own JSON for scripts.

use clap::Args;
use serde_json::{Value, json};

use super::backfill::instant;
use super::client::{Client, job_name};
use super::failure::{Exit, Failure, printable, printable_line};
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
    #[arg(long, value_name = "TIME", value_parser = instant)]
    from: Option<jiff::Timestamp>,
    /// Only with a due time before this
    #[arg(long, value_name = "TIME", value_parser = instant)]
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
    #[arg(long, value_name = "TIME", value_parser = instant)]
    from: Option<jiff::Timestamp>,
    /// Only those due at or before this
    #[arg(long, value_name = "TIME", value_parser = instant)]
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
    if let Some(job) = args.job.as_deref().filter(|_| runs.is_empty())
        && !is_known(client, job).await?
    {
        let hint =
            format!("neither a job nor a run of `{job}` is known; `chronos jobs TEXT` looks for names");
        super::warn(&hint);
    }
    if args.client.output == Format::Json {
        return Ok(super::out_json(&Value::Array(runs))?);
    }
    let mut table = Table::new(&["run", "job", "due", "ended", "outcome", "attempts", "why"]);
    for run in &runs {
        table.row(row_of(run));
    }
    Ok(table.print()?)
}

/// Whether there is a job of that name, or a run of one that was deleted.
async fn is_known(client: &Client, job: &str) -> Result<bool, Failure> {
    match client.get(&["v1", "jobs", job_name(job)?], &[]).await {
        Err(failure) if is_unknown_job(&failure) => {
            let query = vec![("job", job.to_owned())];
            Ok(!pages(client, &["v1", "runs"], query, "runs", 1).await?.is_empty())
        }
        answer => answer.map(|_| true),
    }
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
    let table = slot_table(slots, args.job.as_deref());
    table.print()?;
    if let Some(resolved) = answer["scheduleResolved"].as_str() {
        super::out(format!("each H stands for a value of its own: {}\n", printable(resolved)).as_bytes())?;
    }
    Ok(())
}

/// Slots with what is known of them; a column that would be empty is left out.
fn slot_table(slots: &[Value], job: Option<&str>) -> Table {
    let any = |key: &str| slots.iter().any(|slot| !slot[key].is_null());
    let (jittered, noted) = (any("starts"), any("note"));
    let columns = [("due", true), ("starts", jittered), ("local", true), ("job", true), ("note", noted)];
    let shown = |(heading, shown): &(&'static str, bool)| shown.then_some(*heading);
    let headings: Vec<_> = columns.iter().filter_map(shown).collect();
    let mut table = Table::new(&headings);
    for slot in slots {
        let cell = |heading: &&str| match *heading {
            "due" => time(&slot["due"]),
            "starts" if slot["starts"].is_null() => time(&slot["due"]),
            "starts" => time(&slot["starts"]),
            "job" => job.map_or_else(|| text(&slot["job"]), Into::into),
            heading => text(&slot[heading]),
        };
        table.row(headings.iter().map(cell));
    }
    table
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
        super::out(format!("{}\n", line_of(reason)).as_bytes())?;
    }
    Ok(())
}

/// One line for one reason, with its bounds where the message does not name them.
fn line_of(reason: &Value) -> String {
    let mut line = printable_line(&text(&reason["message"]));
    for bound in ["since", "until"] {
        let instant = text(&reason[bound]);
        if !instant.is_empty() && !line.contains(&instant) {
            line.push_str(&format!(", {bound} {}", time(&reason[bound])));
        }
    }
    line
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
    let [found] = columns(client, path, query, [items], limit).await?;
    Ok(found)
}

/// The same of lists that stand beside each other on every page; the first one counts.
pub(super) async fn columns<const N: usize>(
    client: &Client,
    path: &[&str],
    query: Vec<(&str, String)>,
    items: [&str; N],
    limit: usize,
) -> Result<[Vec<Value>; N], Failure> {
    let (mut found, mut cursor) = ([const { Vec::new() }; N], None::<String>);
    while found[0].len() < limit {
        let mut query = query.clone();
        query.push(("limit", (limit - found[0].len()).min(PAGE_MAX).to_string()));
        query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
        let mut page = client.get(path, &query).await?;
        for (found, items) in found.iter_mut().zip(items) {
            if let Some(Value::Array(more)) = page.get_mut(items).map(Value::take) {
                found.extend(more);
            }
        }
        match &page["next"] {
            Value::Null => break,
            next => cursor = Some(next.as_str().map_or_else(|| next.to_string(), Into::into)),
        }
    }
    found.iter_mut().for_each(|found| found.truncate(limit));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_shown_with_what_is_known_of_them() {
        let slot =
            json!({ "job": "a", "due": "2030-03-31T01:30:00.000Z", "local": "2030-03-31 03:30:00 CEST" });
        let plain = "DUE                   LOCAL                     JOB\n\
                     2030-03-31T01:30:00Z  2030-03-31 03:30:00 CEST  a\n";
        assert_eq!(slot_table(std::slice::from_ref(&slot), None).render(None), plain);
        let mut paused = slot.clone();
        paused["note"] = "the job is paused".into();
        paused["starts"] = "2030-03-31T01:31:00.000Z".into();
        let all = "DUE                   STARTS                LOCAL                     JOB  NOTE\n\
                   2030-03-31T01:30:00Z  2030-03-31T01:31:00Z  2030-03-31 03:30:00 CEST  b    the job is paused\n\
                   2030-03-31T01:30:00Z  2030-03-31T01:30:00Z  2030-03-31 03:30:00 CEST  b\n";
        assert_eq!(slot_table(&[paused, slot], Some("b")).render(None), all);
    }

    #[test]
    fn a_reason_is_one_line_and_says_each_time_once() {
        let due = "2030-01-01T08:00:00.603Z";
        let line = |message: &str| line_of(&json!({ "message": message, "until": due }));
        assert_eq!(line("paused"), "paused, until 2030-01-01T08:00:00Z");
        let next = format!("the next slot is due at {due}");
        assert_eq!(line(&next), next);
        let since = json!({ "message": "runs", "since": "2030-01-01T00:00:00.000Z", "until": due });
        assert_eq!(line_of(&since), "runs, since 2030-01-01T00:00:00Z, until 2030-01-01T08:00:00Z");
        let forged = json!({ "message": "the job is paused: a\nrun 1-i0: attempt 0 runs on node n\u{1b}" });
        assert_eq!(line_of(&forged), "the job is paused: a\\nrun 1-i0: attempt 0 runs on node n\\u{1b}");
    }
}
