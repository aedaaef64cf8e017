//! Backfills and re-runs: asked for, listed, waited for, cancelled.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Client, job_name};
use super::failure::{Exit, Failure, printable};
use super::progress::{Progress, Show, Unit};
use super::queries::{pages, text, time};
use super::requests::{is_run_key, tell};
use super::table::Table;
use super::{ClientArgs, Format, at_least_one};

pub(super) const HELP: &str = "\
The slots are those of the job's present schedule, also from before the job existed; none is in
the future. Their runs wait for what is due now and are never in its way. More than 100 slots are
asked about on a terminal.

Examples:
  chronos backfill report --from 2029-12-01 --to 2030-01-01 --dry-run
  chronos backfill report --from 2029-12-01 --to 2030-01-01 --only-missing --parallel 4 --rate 10/m
  chronos backfill report --from 2029-12-01T06:00:00Z --to 2029-12-02 --order newest --wait
  chronos backfill --cancel 1-b3 --kill";

#[derive(Debug, Args)]
pub(super) struct BackfillArgs {
    /// Name of the job
    #[arg(required_unless_present = "cancel")]
    job: Option<String>,
    /// Slots due at or after this: a time, or a date in UTC
    #[arg(long, value_name = "TIME", value_parser = instant, required_unless_present = "cancel")]
    from: Option<jiff::Timestamp>,
    /// Slots due before this
    #[arg(long, value_name = "TIME", value_parser = instant, required_unless_present = "cancel")]
    to: Option<jiff::Timestamp>,
    /// Which end comes first: `oldest` or `newest`
    #[arg(long, value_name = "ORDER", hide_possible_values = true, default_value = "oldest")]
    order: Order,
    /// Slots under way at once, with all that descends from them; 1 to 64
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    parallel: u32,
    /// How fast slots begin, such as 10/m or 1/30s
    #[arg(long, value_name = "RATE")]
    rate: Option<String>,
    /// Leave out slots that have succeeded, as far as the history knows
    #[arg(long)]
    only_missing: bool,
    /// The children of the job do not follow
    #[arg(long)]
    no_children: bool,
    /// Only say what would run
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Wait until all of it is over; fails if a run did not succeed
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// With --wait: do not show how far it has come
    #[arg(long, requires = "wait")]
    quiet: bool,
    /// Begin no further slot of this backfill
    #[arg(long, value_name = "ID", conflicts_with_all = ["job", "from", "to", "wait", "dry_run"])]
    cancel: Option<String>,
    /// With --cancel: kill what has begun
    #[arg(long, requires = "cancel")]
    kill: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
pub(super) struct BackfillsArgs {
    /// Only of this job
    job: Option<String>,
    /// Only in this state: underWay, over, cancelled; may be repeated
    #[arg(long, value_name = "STATE")]
    state: Vec<String>,
    /// Only backfills of `slots`, or only each `rerun`
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// By created, ended, job, state or left; `-created`, the newest first, if not given
    #[arg(long, value_name = "FIELD", allow_hyphen_values = true)]
    sort: Option<String>,
    /// At most so many; all, if not given
    #[arg(long, short = 'n', value_name = "COUNT", value_parser = at_least_one)]
    limit: Option<usize>,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) const RERUN_HELP: &str = "\
The new run has the due time and the arguments of the old one. All that comes after it in its
chain runs again too; joins wait for what descends from it.

Examples:
  chronos rerun 1-i5
  chronos rerun 1-i5 --only";

#[derive(Debug, Args)]
pub(super) struct RerunArgs {
    /// Key of a run that has ended
    run: String,
    /// Only this run, without what comes after it
    #[arg(long)]
    only: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// More slots than this are asked about on a terminal.
const ASK_ABOVE: u64 = 100;
/// Between two looks at how far it has come.
const LOOK: Duration = Duration::from_millis(500);

/// Which end comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Order {
    /// As they were due.
    Oldest,
    /// The other way round.
    Newest,
}

/// Reads a time, or a date that means its midnight in UTC.
pub(crate) fn instant(given: &str) -> Result<Timestamp, String> {
    let midnight = |date: Date| date.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
    // A date with a time but without an offset would be read as that date: what is meant is not known.
    let date = || given.parse().ok().filter(|_| given.len() == "2030-01-01".len()).and_then(midnight);
    let read = given.parse().ok().or_else(date);
    read.ok_or_else(|| "expected a time such as 2030-01-01T06:00:00Z, or a date such as 2030-01-01".into())
}

pub(super) async fn run(args: &BackfillArgs) -> Result<(), Failure> {
    let client = &super::client(&args.client)?;
    if let Some(id) = &args.cancel {
        return cancel(client, id, args).await;
    }
    // The flags are required unless `--cancel` is there.
    let job = job_name(args.job.as_deref().unwrap_or_default())?;
    let path = ["v1", "jobs", job, "backfills"];
    let body = body(args);
    if args.dry_run {
        let preview = preview(client, &path, &body).await?;
        return show_preview(&preview, args.client.output);
    }
    if !args.yes && std::io::stdin().is_terminal() && std::io::stderr().is_terminal() {
        let preview = preview(client, &path, &body).await?;
        if preview["slots"].as_u64().is_some_and(|slots| slots > ASK_ABOVE) && !agreed(&preview)? {
            return Err(Failure::new(Exit::Failed, anyhow::anyhow!("nothing has begun")));
        }
    }
    let answer = client.change(Method::POST, &path, &[], Some(&body)).await?;
    let id = text(&answer.body["id"]);
    let line = format!("backfilling {} slots of job `{job}`: {id}", text(&answer.body["slots"]));
    if !args.wait {
        return tell(&answer, args.client.output, &line);
    }
    if args.client.output == Format::Table {
        super::out(format!("{line}\n").as_bytes())?;
    }
    wait(client, &id, args).await
}

fn body(args: &BackfillArgs) -> Value {
    let mut body = json!({
        "from": args.from.map(|at| at.to_string()),
        "to": args.to.map(|at| at.to_string()),
        "order": if args.order == Order::Newest { "newest" } else { "oldest" },
        "parallel": args.parallel,
        "children": if args.no_children { "none" } else { "follow" },
        "onlyMissing": args.only_missing,
    });
    if let Some(rate) = &args.rate {
        body["rate"] = rate.as_str().into();
    }
    body
}

async fn preview(client: &Client, path: &[&str], body: &Value) -> Result<Value, Failure> {
    let mut body = body.clone();
    body["dryRun"] = true.into();
    Ok(client.change(Method::POST, path, &[], Some(&body)).await?.body)
}

fn lines_of(preview: &Value) -> String {
    let left_out = preview["leftOut"].as_u64().unwrap_or(0);
    let mut lines = format!(
        "{} slots of job `{}` would run: first {}, last {}\n",
        text(&preview["slots"]),
        text(&preview["job"]),
        time(&preview["first"]),
        time(&preview["last"]),
    );
    if left_out > 0 {
        lines += &format!("{left_out} slots are left out\n");
    }
    lines += &format!(
        "{} of the slots in this range have succeeded already, by the history since {}\n",
        text(&preview["succeeded"]),
        time(&preview["historySince"])
    );
    if let Some(estimate) = preview["estimate"].as_str() {
        lines += &format!("this would take about {estimate}\n");
    }
    for note in preview["notes"].as_array().into_iter().flatten() {
        lines += &format!("note: {}\n", printable(&text(note)));
    }
    lines
}

fn show_preview(preview: &Value, format: Format) -> Result<(), Failure> {
    match format {
        Format::Json => super::out_json(preview)?,
        Format::Table => super::out(lines_of(preview).as_bytes())?,
    }
    Ok(())
}

/// Asks whoever sits at the terminal.
fn agreed(preview: &Value) -> Result<bool, Failure> {
    let mut stderr = std::io::stderr();
    write!(stderr, "{}begin? [y/N] ", lines_of(preview))?;
    stderr.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// Looks on until it is over.
async fn wait(client: &Client, id: &str, args: &BackfillArgs) -> Result<(), Failure> {
    let mut progress = Progress::new("backfill", Unit::Things("slots"), None, Show::unless(args.quiet));
    let mut shown = 0;
    let over = loop {
        let now = client.get(&["v1", "backfills", id], &[]).await?;
        let count = |key: &str| now[key].as_u64().unwrap_or(0);
        if shown == 0 {
            progress.set_total(count("slots"));
        }
        let done = count("succeeded") + count("failed");
        progress.add(done.saturating_sub(shown));
        shown = done;
        if !now["ended"].is_null() {
            break now;
        }
        tokio::time::sleep(LOOK).await;
    };
    drop(progress);
    let (slots, succeeded) = (over["slots"].as_u64().unwrap_or(0), over["succeeded"].as_u64().unwrap_or(0));
    match args.client.output {
        Format::Json => super::out_json(&over)?,
        Format::Table => super::out(format!("{succeeded} of {slots} slots have succeeded\n").as_bytes())?,
    }
    if succeeded == slots {
        return Ok(());
    }
    let failure = anyhow::anyhow!("backfill {id} is over; {} slots have not succeeded", slots - succeeded);
    let job = text(&over["job"]);
    Err(Failure::new(Exit::Failed, failure).hint(format!("`chronos runs {job}` lists its runs")))
}

async fn cancel(client: &Client, id: &str, args: &BackfillArgs) -> Result<(), Failure> {
    let id = checked(id)?;
    let running = if args.kill { "kill" } else { "goOn" };
    let query = [("running", running.to_owned())];
    let answer = client.change(Method::DELETE, &["v1", "backfills", id], &query, None).await?;
    tell(&answer, args.client.output, &format!("cancelled backfill {id}"))
}

/// An id becomes part of a URL.
fn checked(id: &str) -> Result<&str, Failure> {
    match id.parse::<scheduler::ids::BackfillId>() {
        Ok(_) => Ok(id),
        Err(()) => {
            let shown = printable(id);
            Err(Failure::usage(format!("`{shown}` is not the id of a backfill"))
                .hint("`chronos backfills` lists them; they look like 1-b3"))
        }
    }
}

pub(super) async fn list(args: &BackfillsArgs) -> Result<(), Failure> {
    let client = &super::client(&args.client)?;
    let one = [("job", &args.job), ("kind", &args.kind), ("sort", &args.sort)];
    let one = one.into_iter().filter_map(|(name, value)| Some((name, value.clone()?)));
    let mut query: Vec<_> = one.collect();
    if !args.state.is_empty() {
        query.push(("state", args.state.join(",")));
    }
    let limit = args.limit.unwrap_or(usize::MAX);
    let all = pages(client, &["v1", "backfills"], query, "backfills", limit).await?;
    if args.client.output == Format::Json {
        return Ok(super::out_json(&Value::Array(all))?);
    }
    let mut table =
        Table::new(&["id", "job", "what", "state", "slots", "begun", "succeeded", "failed", "why"]);
    for it in &all {
        let what = match it["run"].as_str() {
            Some(run) => format!("again {run}"),
            None => format!("{} to {}", time(&it["from"]), time(&it["to"])),
        };
        let [slots, begun, succeeded, failed] =
            ["slots", "begun", "succeeded", "failed"].map(|key| text(&it[key]));
        let (id, job, state, why) = (text(&it["id"]), text(&it["job"]), text(&it["state"]), text(&it["why"]));
        table.row([id, job, what, state, slots, begun, succeeded, failed, why]);
    }
    Ok(table.print()?)
}

pub(super) async fn rerun(args: &RerunArgs) -> Result<(), Failure> {
    let client = &super::client(&args.client)?;
    if !is_run_key(&args.run) {
        let shown = printable(&args.run);
        return Err(Failure::usage(format!("`{shown}` is not the key of a run"))
            .hint("`chronos runs` lists them; they look like 1-i5"));
    }
    let body = json!({ "downwards": !args.only });
    let answer = client.change(Method::POST, &["v1", "runs", &args.run, "rerun"], &[], Some(&body)).await?;
    let what = if args.only { "again" } else { "again, with all that comes after it" };
    tell(
        &answer,
        args.client.output,
        &format!("running {} {what}: run {}", args.run, text(&answer.body["run"])),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_its_midnight_in_utc() {
        for (given, says) in [
            ("2030-01-01", "2030-01-01T00:00:00Z"),
            ("2030-01-01T06:00:00Z", "2030-01-01T06:00:00Z"),
            ("2030-01-01T06:00:00+02:00", "2030-01-01T04:00:00Z"),
        ] {
            assert_eq!(instant(given).map(|at| at.to_string()), Ok(says.into()));
        }
        for wrong in ["", "tomorrow", "2030-13-01", "2030-01-01T06:00"] {
            assert!(instant(wrong).is_err(), "{wrong}");
        }
    }
}
