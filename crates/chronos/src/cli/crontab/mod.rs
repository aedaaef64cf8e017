//! `chronos import crontab`: makes jobs of the lines of crontabs, and accounts for every line.

mod convert;
mod keep;
mod lines;
pub(super) mod naming;
mod sources;
mod surroundings;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Args;
use jiff::Timestamp;
use scheduler::request::Manner;
use serde_json::{Map, Value, json};

use super::apply::put_definitions;
use super::client::Client;
use super::export::write_job;
use super::failure::{Exit, Failure};
use super::progress::{Progress, Show, Unit};
use super::queries::pages;
use super::table::Table;
use super::{ClientArgs, Format};
use convert::{Reading, Told, Verdict, convert};
use keep::kept;
use lines::Form;
use sources::{Source, Unread};

pub(super) const HELP: &str = "\
Every line is listed: with the job that it became, or with the reason why it became none. Nothing
is changed, neither here nor in the crontab, unless --apply or --output_dir says so. A crontab can
be imported again: jobs keep their names, and those that have not changed stay as they are. So does
what was edited since and no line says; --apply --dry_run tells which fields would change.

Examples:
  crontab -l | chronos import crontab -
  crontab -l | chronos import crontab - --user joe --apply
  crontab -l | chronos import crontab - --user joe --apply --dry_run
  chronos import crontab --system /etc --output_dir jobs
  chronos import crontab old.crontab --zone Europe/Berlin --prefix web1-

When the jobs are there and look right (`chronos jobs`, `chronos next`), comment the lines out of
the crontab, so that nothing runs twice.";

#[derive(Debug, Args)]
pub(super) struct CrontabArgs {
    /// A crontab, `-` for standard input, or with --system a folder such as /etc
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The lines name a user after the times, as in /etc/crontab and /etc/cron.d
    #[arg(long)]
    system: bool,
    /// Whose crontab it is; the jobs run as this user
    #[arg(long, value_name = "NAME", conflicts_with = "system")]
    user: Option<String>,
    /// Put this before every name
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    prefix: String,
    /// Zone of the times where there is no CRON_TZ, instead of that of this machine
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
    /// Create the jobs on the server
    #[arg(long)]
    apply: bool,
    /// Take everything from the crontab again; otherwise what was edited since and no line says stays, such as `retries`,
    /// `overlap`, `owner` and `alerts`
    #[arg(long, requires = "apply")]
    overwrite: bool,
    /// Write each job into a file of this folder, ready for `chronos apply`
    #[arg(long = "output_dir", value_name = "FOLDER")]
    output_dir: Option<PathBuf>,
    /// Only tell, whatever else is asked for
    #[arg(long = "dry_run")]
    dry_run: bool,
    /// Show no progress
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// A line of the report.
#[derive(Default)]
struct Row {
    origin: String,
    line: Option<usize>,
    result: &'static str,
    job: String,
    /// The file that it was written into.
    path: Option<String>,
    /// What it came to on the server, or would.
    change: Option<String>,
    /// The fields that change there, with their values.
    changes: Value,
    notes: Vec<String>,
}

pub(super) async fn run(args: &CrontabArgs) -> Result<(), Failure> {
    let of_the_machine = args.system || sources::is_of_the_machine(&args.file);
    let form = if of_the_machine { Form::System } else { Form::User };
    let found = sources::find(&args.file, form);
    if found.is_empty() {
        let message = format!("there are no crontabs in `{}`", args.file.display());
        return Err(Failure::usage(message).hint("name /etc, a folder such as /etc/cron.d, or a file"));
    }
    let zone = args.zone.clone().or_else(sources::local_zone);
    if zone.is_none() {
        super::warn("nobody says in which zone this machine is: times are taken for UTC; say it with --zone");
    }
    if let [Source { shown, content: Err(Unread::Failed(why)), .. }] = found.as_slice() {
        return Err(Failure::usage(format!("`{shown}` cannot be read: {why}"))
            .hint("name a crontab, `-` for standard input, or with --system a folder such as /etc"));
    }
    let mut rows = Vec::new();
    let mut jobs = Vec::new();
    for source in &found {
        let reading = Reading {
            form,
            user: args.user.clone(),
            prefix: args.prefix.clone(),
            zone: zone.clone().unwrap_or_else(|| "UTC".into()),
            origin: source.path.as_ref().map(|path| path.display().to_string()),
        };
        read(source, &reading, &mut rows, &mut jobs);
    }
    tell_twins(&mut jobs);
    let delivered = deliver(args, &jobs, &mut rows).await;
    report(args, &rows)?;
    // What was done before the server fell silent has been told.
    delivered?;
    if args.apply && !args.dry_run {
        tell_left(args, &found, &jobs).await?;
    }
    verdict(args, &rows)
}

/// A job and the row that tells of it.
type Made = (usize, String, Value);

fn read(source: &Source, reading: &Reading, rows: &mut Vec<Row>, jobs: &mut Vec<Made>) {
    let origin = &source.shown;
    let bytes = match &source.content {
        Ok(bytes) => bytes,
        Err(unread) => {
            let (result, why) = match unread {
                Unread::ByCron(why) => ("ignored", (*why).to_owned()),
                Unread::BySome(why) => ("attention", (*why).to_owned()),
                Unread::Failed(why) => ("attention", format!("it cannot be read: {why}")),
            };
            rows.push(Row { origin: origin.clone(), result, notes: vec![why], ..Row::default() });
            return;
        }
    };
    for Told { number, verdict, mut notes } in convert(bytes, reading, Timestamp::now()) {
        let (result, job) = match verdict {
            Verdict::Job { name, definition } => {
                notes.extend(command(&definition).and_then(told_of_run_parts));
                jobs.push((rows.len(), name.clone(), definition));
                ("job", name)
            }
            Verdict::Setting => ("setting", String::new()),
            Verdict::Ignored => ("ignored", String::new()),
            Verdict::Attention => ("attention", String::new()),
        };
        let line = Some(number);
        rows.push(Row { origin: origin.clone(), line, result, job, notes, ..Row::default() });
    }
}

/// What the shell of a job is given, whichever it is.
fn command(definition: &Value) -> Option<&str> {
    definition["arguments"][1].as_str().or(definition["command"].as_str())
}

fn told_of_run_parts(command: &str) -> Option<String> {
    let (folder, scripts) = sources::run_parts(command)?;
    let folder = folder.display();
    Some(match scripts.len() {
        0 => format!("runs the scripts in {folder}; there are none here"),
        1 => format!("runs 1 script in {folder}: {}", scripts[0]),
        n => format!("runs {n} scripts in {folder}: {}", scripts.join(", ")),
    })
}

/// The same command in two files gets the same name: the second is told apart by a number.
fn tell_twins(jobs: &mut [Made]) {
    let mut given = BTreeSet::new();
    for (_, name, definition) in jobs {
        let numbered = (2..).map(|count| format!("{name}-{count}"));
        let free = std::iter::once(name.clone()).chain(numbered).find(|name| !given.contains(name));
        *name = free.unwrap_or_default();
        definition["name"] = json!(name);
        given.insert(name.clone());
    }
}

/// Writes the jobs, or sends them, as asked.
async fn deliver(args: &CrontabArgs, jobs: &[Made], rows: &mut [Row]) -> Result<(), Failure> {
    if let Some(folder) = args.output_dir.as_ref().filter(|_| !args.dry_run) {
        for (row, name, definition) in jobs {
            let path = write_job(folder, name, definition)?;
            rows[*row].path = Some(path.display().to_string());
        }
    }
    if !args.apply {
        return Ok(());
    }
    let client = super::client(&args.client)?;
    let manner = if args.dry_run { Manner::DryRun } else { Manner::Do };
    let count = Some(jobs.len() as u64);
    let mut progress = Progress::new("import", Unit::Things("jobs"), count, Show::unless(args.quiet));
    for (row, name, definition) in jobs {
        let (definition, left) = match there(&client, name).await?.filter(|_| !args.overwrite) {
            Some(there) => kept(definition, &there),
            None => (definition.clone(), Vec::new()),
        };
        let row = &mut rows[*row];
        match put_definitions(&client, &[&definition], manner).await {
            Ok(mut answer) => {
                let applied = answer.body.pointer_mut("/jobs/0").map(Value::take).unwrap_or_default();
                row.taken(applied, &left, manner);
            }
            Err(failure) if failure.exit == Exit::Refused => {
                (row.result, row.job) = ("attention", String::new());
                row.notes.insert(0, format!("the server refuses `{name}`: {}", failure.chain()));
            }
            Err(failure) => return Err(failure),
        }
        progress.add(1);
    }
    Ok(())
}

/// The definition that the server has, if it has one.
async fn there(client: &Client, name: &str) -> Result<Option<Map<String, Value>>, Failure> {
    let query = vec![("job", name.to_owned())];
    let found = match pages(client, &["v1", "definitions"], query, "definitions", 1).await {
        Ok(mut found) => found.pop(),
        Err(failure) if failure.exit == Exit::Refused => None,
        Err(failure) => return Err(failure),
    };
    Ok(found.and_then(|found| match found {
        Value::Object(fields) => Some(fields),
        _ => None,
    }))
}

impl Row {
    /// What became of its job, with what the server has to say of it.
    fn taken(&mut self, mut applied: Value, left: &[String], manner: Manner) {
        let word = applied["result"].as_str().unwrap_or("updated");
        self.change = Some(match manner {
            Manner::DryRun if word != "unchanged" => format!("would be {word}"),
            _ => word.to_owned(),
        });
        self.changes = applied.get_mut("changes").map(Value::take).unwrap_or_default();
        let changed = self.changes.as_array().into_iter().flatten();
        let changed = listed(changed.filter_map(|change| change["field"].as_str()));
        if !changed.is_empty() {
            self.note(format!("changes {changed}"));
        }
        if !left.is_empty() {
            let left = listed(left.iter().map(String::as_str));
            self.note(format!("left as it was edited: {left}; --overwrite takes what cron does"));
        }
        for warning in applied["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            self.note(warning.to_owned());
        }
    }

    /// Says it, once.
    fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}

fn listed<'a>(fields: impl Iterator<Item = &'a str>) -> String {
    fields.map(|field| format!("`{field}`")).collect::<Vec<_>>().join(", ")
}

/// Names of jobs that a warning shows.
const LEFT_SHOWN: usize = 20;

/// Tells of jobs that were made of lines which are there no longer: they still run.
async fn tell_left(args: &CrontabArgs, found: &[Source], jobs: &[Made]) -> Result<(), Failure> {
    let client = super::client(&args.client)?;
    let made: BTreeSet<&str> = jobs.iter().map(|(_, name, _)| name.as_str()).collect();
    // Labels that are asked for are separated by commas.
    let paths = found.iter().filter_map(|source| source.path.as_ref()).map(|path| path.display().to_string());
    for path in paths.filter(|path| !path.contains(',')) {
        let mut query = vec![("label", format!("crontab={path}"))];
        query.extend(Some(("prefix", args.prefix.clone())).filter(|(_, prefix)| !prefix.is_empty()));
        let there = pages(&client, &["v1", "definitions"], query, "definitions", usize::MAX).await?;
        let left: Vec<&str> =
            there.iter().filter_map(|job| job["name"].as_str()).filter(|name| !made.contains(name)).collect();
        if left.is_empty() {
            continue;
        }
        let more = left.len().saturating_sub(LEFT_SHOWN);
        let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
        super::warn(&format!(
            "made of a crontab of this name before, and of no line of `{path}` now: {}{rest}; `chronos delete` ends them",
            left[..left.len() - more].join(", ")
        ));
    }
    Ok(())
}

fn report(args: &CrontabArgs, rows: &[Row]) -> Result<(), Failure> {
    if args.client.output == Format::Json {
        let lines = rows.iter().map(|row| {
            json!({
                "file": row.origin, "line": row.line, "result": row.result, "notes": row.notes,
                "job": Some(&row.job).filter(|job| !job.is_empty()), "path": row.path, "change": row.change, "changes": row.changes,
            })
        });
        return Ok(super::out_json(&lines.collect())?);
    }
    let many = rows.iter().any(|row| row.origin != rows[0].origin);
    let mut table = Table::new(&["line", "result", "job", "notes"]);
    for row in rows {
        let line = row.line.map_or_else(String::new, |line| line.to_string());
        let place = match (many, row.line) {
            (true, Some(_)) => format!("{}:{line}", row.origin),
            (true, None) => row.origin.clone(),
            (false, _) => line,
        };
        let job = match (&row.change, &row.path) {
            (Some(change), _) => format!("{} ({change})", row.job),
            (None, Some(path)) => path.clone(),
            (None, None) => row.job.clone(),
        };
        table.row([place, row.result.into(), job, row.notes.join("; ")]);
    }
    Ok(table.print()?)
}

/// The sum, which is that of all lines, and what to do next.
fn verdict(args: &CrontabArgs, rows: &[Row]) -> Result<(), Failure> {
    let count = |result: &str| rows.iter().filter(|row| row.result == result).count();
    let attention = count("attention");
    if args.client.output == Format::Table {
        super::out(
            format!(
                "{} lines: {} jobs, {} settings, {} ignored, {attention} need attention\n",
                rows.len(),
                count("job"),
                count("setting"),
                count("ignored"),
            )
            .as_bytes(),
        )?;
        super::out(next_step(args, count("job")).as_bytes())?;
    }
    if attention == 0 {
        return Ok(());
    }
    let of = if rows.iter().all(|row| row.line.is_some()) { "lines" } else { "lines and files" };
    let message = format!("{attention} of {} {of} could not be taken", rows.len());
    Err(Failure::new(Exit::Failed, anyhow::anyhow!(message))
        .hint("the notes say why, and what to do instead"))
}

fn next_step(args: &CrontabArgs, jobs: usize) -> String {
    match (&args.output_dir, args.apply && !args.dry_run) {
        _ if jobs == 0 => String::new(),
        _ if args.apply && args.dry_run => "nothing was changed\n".into(),
        (_, true) => {
            "next: look at `chronos next`, then comment the lines that are jobs out of the crontab\n".into()
        }
        (Some(folder), false) if !args.dry_run => {
            let folder: &Path = folder;
            format!(
                "next: chronos apply {}, then comment the lines that are jobs out of the crontab\n",
                folder.display()
            )
        }
        _ => {
            "nothing was changed: add --apply to create the jobs, or --output_dir to write them down\n".into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_says_is_told_once() {
        let mut row = Row { notes: vec!["a".into()], ..Row::default() };
        let applied = json!({ "result": "updated", "warnings": ["a", "b", "b"],
            "changes": [{ "field": "schedule", "from": 1, "to": 2 }, { "field": "owner" }] });
        row.taken(applied, &["retries".to_owned()], Manner::DryRun);
        assert_eq!(row.change.as_deref(), Some("would be updated"));
        let left = "left as it was edited: `retries`; --overwrite takes what cron does";
        assert_eq!(row.notes, ["a", "changes `schedule`, `owner`", left, "b"]);
        row.taken(json!({ "result": "unchanged", "warnings": [] }), &[], Manner::DryRun);
        assert_eq!(row.change.as_deref(), Some("unchanged"));
    }

    /// Two lines that are the same, in two files.
    #[test]
    fn no_two_jobs_of_all_files_have_one_name() {
        let made = |name: &str| (0, name.to_owned(), json!({ "name": name }));
        let mut jobs = ["a", "a-2", "a", "a-2"].map(made);
        tell_twins(&mut jobs);
        let names: Vec<_> = jobs.iter().map(|(_, name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "a-2", "a-3", "a-2-2"]);
        assert!(jobs.iter().all(|(_, name, definition)| definition["name"] == **name));
    }
}
