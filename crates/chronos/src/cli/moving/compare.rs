//! `chronos shadow compare`: what a shadow recorded beside what an old Chronos tells of its runs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use scheduler::schedule::Zones;
use serde_json::{Map, Value, json};

use super::definition;
use super::names;
use super::old::OldChronos;
use super::watch::{Comparison, Counts, Recorded, Watch, Watches};
use crate::cli::client::Client;
use crate::cli::failure::{Exit, Failure};
use crate::cli::queries::pages;
use crate::cli::table::Table;
use crate::cli::{ClientArgs, Format};
use crate::config::Length;
use crate::notify::settings::Secret;
use crate::wire::duration;

pub(in crate::cli) const HELP: &str = "\
The API of the old Chronos has no list of runs: it tells how often each job succeeded and failed,
and when it last did. So it is asked again and again, for as long as --for says (Ctrl-C ends it with
what is known by then), and what ended meanwhile is put beside what the shadow launched. Before the
first look only the last end of each job is known. The next slots are compared too, which needs no
waiting.

A task of a shadow takes no time and never fails: dependents come earlier than at the old Chronos,
nothing is retried, and no run is left out because the one before it still goes on.

Exit code 1 says that there are differences.

Examples:
  chronos shadow compare --old http://chronos.example.org:8080
  chronos shadow compare --old http://chronos.example.org:8080 --for 24h --longest 2h
  chronos shadow compare --old http://old:8080 --output json | jq '.jobs[] | select(.same | not)'";

/// More runs than that are not compared: they would take gigabytes.
const RUNS_MAX: usize = 1_000_000;

#[derive(Debug, Args)]
pub(in crate::cli) struct CompareArgs {
    /// URL of the old Chronos
    #[arg(long, value_name = "URL")]
    old: String,
    /// Name at the old Chronos, and the password, which is better in the environment or in ~/.netrc
    #[arg(long = "old_user", env = "CHRONOS_OLD_USER", value_name = "NAME[:PASSWORD]")]
    old_user: Option<Secret>,
    /// How long to look; once, if not given
    #[arg(long = "for", value_name = "DURATION")]
    length: Option<Length>,
    /// Between two looks
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    every: Length,
    /// Only what was due at or after this, and not before the jobs were imported; now, if not given
    #[arg(long, value_name = "TIME")]
    since: Option<Timestamp>,
    /// How long a run may take at the old Chronos: what was due within it and has not ended there is open
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    longest: Length,
    #[command(flatten)]
    client: ClientArgs,
}

/// How a job is seen at both.
struct Row {
    /// Its name at the old Chronos, or here if it is not there.
    name: String,
    comparison: Comparison,
    /// The next slot at the old Chronos, and here.
    next: [Option<Timestamp>; 2],
    notes: Vec<String>,
    same: bool,
}

pub(in crate::cli) async fn run(args: &CompareArgs) -> Result<(), Failure> {
    let client = crate::cli::client(&args.client)?;
    let old = OldChronos::new(&args.old, args.old_user.as_ref(), args.client.at.ca_file.as_deref())?;
    let is_shadow = client.get(&["v1", "status"], &[]).await?["engine"] == "shadow";
    if !is_shadow {
        crate::cli::warn("this server is no shadow: it runs its tasks itself");
    }
    let looked = look(args, &old).await?;
    let rows = compare(args, &client, &looked).await?;
    match args.client.output {
        Format::Json => crate::cli::out_json(&document(&looked, &rows))?,
        Format::Table => {
            table(&rows).print()?;
            crate::cli::out(sum(&looked, &rows).as_bytes())?;
        }
    }
    match rows.iter().filter(|row| !row.same).count() {
        0 => Ok(()),
        count => {
            let message = format!("{count} of {} jobs differ", rows.len());
            Err(Failure::new(Exit::Failed, anyhow::anyhow!(message)))
        }
    }
}

/// What was seen of the old Chronos.
struct Looked {
    since: Timestamp,
    first: Timestamp,
    last: Timestamp,
    looks: usize,
    /// Looks that got no answer. What ended meanwhile shows at the next.
    failed: usize,
    watches: Watches,
    /// The jobs as they were last listed, by name.
    jobs: BTreeMap<String, Map<String, Value>>,
}

/// Asks the old Chronos until the time is over. Only the first look must succeed.
async fn look(args: &CompareArgs, old: &OldChronos) -> Result<Looked, Failure> {
    let jobs = listed(old).await?;
    let first = Timestamp::now();
    let since = args.since.unwrap_or(first);
    let begin = |job: &Map<String, Value>| Watch::begin(first, since, counts(job));
    let watches = jobs.iter().map(|(name, job)| (name.clone(), begin(job))).collect();
    let mut looked = Looked { since, first, last: first, looks: 1, failed: 0, watches, jobs };
    let Some(Length(length)) = args.length else { return Ok(looked) };
    let until = tokio::time::Instant::now() + length;
    // One for all rounds: a signal that comes between two of them is not lost.
    let mut stop = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        let next = tokio::time::Instant::now() + args.every.0.max(Duration::from_millis(100));
        let listing = async {
            tokio::time::sleep_until(next.min(until)).await;
            listed(old).await
        };
        let answer = tokio::select! {
            answer = listing => answer,
            _ = &mut stop => return Ok(looked),
        };
        match answer {
            Ok(jobs) => looked.take(jobs, Timestamp::now()),
            Err(failure) => {
                looked.failed += 1;
                failure.print();
            }
        }
        if tokio::time::Instant::now() >= until {
            return Ok(looked);
        }
    }
}

impl Looked {
    fn take(&mut self, jobs: BTreeMap<String, Map<String, Value>>, at: Timestamp) {
        for (name, job) in &jobs {
            let counts = counts(job);
            match self.watches.get_mut(name) {
                Some(watch) => watch.look(at, counts),
                None => {
                    self.watches.insert(name.clone(), Watch::begin(at, self.since, counts));
                }
            }
        }
        self.jobs = jobs;
        self.last = at;
        self.looks += 1;
    }
}

async fn listed(old: &OldChronos) -> Result<BTreeMap<String, Map<String, Value>>, Failure> {
    let named = |job: Value| match job {
        Value::Object(job) => Some((job.get("name")?.as_str()?.to_owned(), job)),
        _ => None,
    };
    Ok(old.jobs().await?.into_iter().filter_map(named).collect())
}

fn counts(job: &Map<String, Value>) -> Counts {
    let number = |key: &str| job.get(key).and_then(Value::as_u64).unwrap_or_default();
    let time = |key: &str| job.get(key).and_then(Value::as_str).and_then(|text| text.parse().ok());
    Counts {
        successes: number("successCount"),
        errors: number("errorCount"),
        last_success: time("lastSuccess"),
        last_error: time("lastError"),
    }
}

/// What the shadow launched, by job.
async fn recorded(client: &Client, from: Timestamp) -> Result<BTreeMap<String, Vec<Recorded>>, Failure> {
    let query = vec![("from", from.to_string()), ("sort", "time".to_owned())];
    let runs = pages(client, &["v1", "runs"], query, "runs", RUNS_MAX).await?;
    if runs.len() == RUNS_MAX {
        return Err(Failure::usage(format!(
            "the shadow has recorded more than {RUNS_MAX} runs since {from}"
        ))
        .hint("compare a shorter time"));
    }
    let mut recorded: BTreeMap<String, Vec<Recorded>> = BTreeMap::new();
    for run in &runs {
        let time = |value: &Value| value.as_str().and_then(|text| text.parse().ok());
        let (Some(due), Some(launched)) = (time(&run["due"]), time(&run["attempts"][0]["launched"])) else {
            continue;
        };
        let job = run["job"].as_str().unwrap_or_default().to_owned();
        recorded.entry(job).or_default().push(Recorded { due, launched });
    }
    Ok(recorded)
}

async fn compare(args: &CompareArgs, client: &Client, looked: &Looked) -> Result<Vec<Row>, Failure> {
    let longest = SignedDuration::try_from(args.longest.0).unwrap_or(SignedDuration::MAX);
    let from = looked.since.checked_sub(longest).unwrap_or(Timestamp::UNIX_EPOCH);
    // First what is next, then what was: a slot that passes in between is seen to have passed.
    let here: BTreeMap<String, Value> = pages(client, &["v1", "jobs"], Vec::new(), "jobs", usize::MAX)
        .await?
        .into_iter()
        .filter_map(|job| Some((job["name"].as_str()?.to_owned(), job)))
        .collect();
    let recorded = recorded(client, from).await?;
    let mapped = names::mapped(looked.watches.keys().map(String::as_str));
    let zones = Zones::bundled();
    let mut rows = Vec::new();
    let mut seen = BTreeSet::new();
    for (name, watch) in &looked.watches {
        let name_here = mapped.get(name).unwrap_or(name);
        seen.insert(name_here.as_str());
        let mut notes = Vec::new();
        let runs = recorded.get(name_here).map_or(&[][..], Vec::as_slice);
        let comparison = watch.compare(runs, longest);
        let next_old = looked.jobs.get(name).and_then(|job| next_of(job, &zones, looked.last));
        let mut next = [next_old, None];
        let mut same = comparison.is_same();
        match here.get(name_here) {
            None => {
                notes.push("it is not here".to_owned());
                same = false;
            }
            Some(job) => {
                next[1] = job["next"].as_str().and_then(|text| text.parse().ok());
                if name_here != name {
                    notes.push(format!("`{name_here}` here"));
                }
                // Where we have launched a slot and the old Chronos is about to, it still shows that one.
                let about = next[0].is_some_and(|next| runs.iter().any(|run| run.due == next));
                if next[0] != next[1] && !about {
                    same = false;
                    notes.push(format!("next slot: {} there, {} here", shown(next[0]), shown(next[1])));
                }
            }
        }
        if !looked.jobs.contains_key(name) {
            notes.push("it was deleted there meanwhile".into());
        }
        if watch.reset {
            notes.push("its counters began anew there: someone has posted it".into());
        }
        rows.push(Row { name: name.clone(), comparison, next, notes, same });
    }
    for name in here.keys().filter(|name| !seen.contains(name.as_str())) {
        let notes = vec!["it is not at the old Chronos".to_owned()];
        let comparison =
            Comparison { only_here: recorded.get(name).map_or(0, Vec::len), ..Comparison::default() };
        rows.push(Row { name: name.clone(), comparison, next: [None; 2], notes, same: false });
    }
    Ok(rows)
}

/// The slot that the old Chronos comes to next, which it has written into the job.
fn next_of(job: &Map<String, Value>, zones: &Zones, now: Timestamp) -> Option<Timestamp> {
    if job.get("disabled") == Some(&json!(true)) || job.contains_key("parents") {
        return None;
    }
    let mut job = job.clone();
    job.insert("name".into(), json!("job"));
    let taken = definition::take(job, zones, now).ok()?;
    let schedule = definition::schedule(&taken.definition, zones, now)?;
    Some(schedule.first_after(Timestamp::MIN)?.due)
}

fn shown(next: Option<Timestamp>) -> String {
    next.map_or_else(|| "none".into(), |next| format!("{next:.0}"))
}

fn table(rows: &[Row]) -> Table {
    let mut table =
        Table::new(&["job", "agreed", "only old", "only here", "open", "ended after", "next", "notes"]);
    for row in rows {
        let Comparison { agreed, only_old, only_here, open, .. } = row.comparison;
        let after = row.comparison.spread().map(|(middle, longest)| {
            let text = |span: SignedDuration| {
                let sign = if span.is_negative() { "-" } else { "" };
                let seconds = Duration::from_secs(span.unsigned_abs().as_secs());
                format!("{sign}{}", duration::text(seconds))
            };
            format!("{}, at most {}", text(middle), text(longest))
        });
        let next = if row.next[0] == row.next[1] { shown(row.next[0]) } else { "differs".into() };
        let [agreed, only_old, only_here, open] =
            [agreed, only_old, only_here, open].map(|count| count.to_string());
        let notes = row.notes.join("; ");
        table.row([
            row.name.clone(),
            agreed,
            only_old,
            only_here,
            open,
            after.unwrap_or_default(),
            next,
            notes,
        ]);
    }
    table
}

fn sum(looked: &Looked, rows: &[Row]) -> String {
    let total = |of: fn(&Comparison) -> usize| rows.iter().map(|row| of(&row.comparison)).sum::<usize>();
    let differ = rows.iter().filter(|row| !row.same).count();
    let mut told = format!(
        "{} jobs: {} alike, {differ} differ; {} runs agreed, {} only at the old Chronos, {} only here, {} open\n",
        rows.len(),
        rows.len() - differ,
        total(|c| c.agreed),
        total(|c| c.only_old),
        total(|c| c.only_here),
        total(|c| c.open),
    );
    let failed =
        if looked.failed == 0 { String::new() } else { format!(", {} without an answer", looked.failed) };
    told.push_str(&format!(
        "looked at {} times from {:.0} to {:.0}{failed}\n",
        looked.looks, looked.first, looked.last
    ));
    if looked.looks == 1 {
        told.push_str("note: one look shows the last run of each job alone; --for 1h looks for longer\n");
    }
    told
}

fn document(looked: &Looked, rows: &[Row]) -> Value {
    let jobs: Vec<Value> = rows
        .iter()
        .map(|row| {
            let Comparison { agreed, only_old, only_here, open, .. } = row.comparison;
            let spread = row.comparison.spread();
            json!({
                "name": row.name, "same": row.same, "agreed": agreed, "onlyOld": only_old, "onlyHere": only_here,
                "open": open, "endedAfterSeconds": spread.map(|(middle, longest)| {
                    json!({ "middle": middle.as_secs_f64(), "longest": longest.as_secs_f64() })
                }),
                "nextOld": row.next[0].map(crate::wire::job::instant),
                "nextHere": row.next[1].map(crate::wire::job::instant),
                "notes": row.notes,
            })
        })
        .collect();
    json!({
        "since": looked.since.to_string(), "first": looked.first.to_string(), "last": looked.last.to_string(),
        "looks": looked.looks, "unanswered": looked.failed, "jobs": jobs,
    })
}
