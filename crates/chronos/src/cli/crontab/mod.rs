//! `chronos import crontab`: makes jobs of the lines of crontabs, and accounts for every line.

mod convert;
mod lines;
pub(super) mod naming;
mod sources;

use std::path::{Path, PathBuf};

use clap::Args;
use jiff::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};

use super::export::write_job;
use super::failure::{Exit, Failure};
use super::table::Table;
use super::{ClientArgs, Format};
use convert::{Reading, Told, Verdict, convert};
use lines::Form;
use sources::{Source, Unread};

pub(super) const HELP: &str = "\
Every line is listed: with the job that it became, or with the reason why it became none. Nothing
is changed, neither here nor in the crontab, unless --apply or --output_dir says so. A crontab can be
imported again: jobs keep their names, and those that have not changed stay as they are.

Examples:
  crontab -l | chronos import crontab -
  crontab -l | chronos import crontab - --user joe --apply
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
    /// Write each job into a file of this folder, ready for `chronos apply`
    #[arg(long = "output_dir", value_name = "FOLDER")]
    output_dir: Option<PathBuf>,
    /// Only tell, whatever else is asked for
    #[arg(long = "dry_run")]
    dry_run: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// A line of the report.
struct Row {
    origin: String,
    line: Option<usize>,
    result: &'static str,
    job: String,
    notes: Vec<String>,
}

pub(super) async fn run(args: &CrontabArgs) -> Result<(), Failure> {
    let form = if args.system { Form::System } else { Form::User };
    let found = sources::find(&args.file, form);
    if found.is_empty() {
        let message = format!("there are no crontabs in `{}`", args.file.display());
        return Err(Failure::usage(message).hint("name /etc, a folder such as /etc/cron.d, or a file"));
    }
    let zone = args.zone.clone().or_else(sources::local_zone);
    if zone.is_none() {
        super::warn("nobody says in which zone this machine is: times are taken for UTC; say it with --zone");
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
    if !args.dry_run {
        deliver(args, &jobs, &mut rows).await?;
    }
    report(args, &rows)?;
    verdict(args, &rows, jobs.len())
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
                Unread::Failed(why) => ("attention", format!("it cannot be read: {why}")),
            };
            let origin = origin.clone();
            rows.push(Row { origin, line: None, result, job: String::new(), notes: vec![why] });
            return;
        }
    };
    for Told { number, verdict, mut notes } in convert(bytes, reading, Timestamp::now()) {
        let (result, job) = match verdict {
            Verdict::Job { name, definition } => {
                notes.extend(definition["command"].as_str().and_then(told_of_run_parts));
                jobs.push((rows.len(), name.clone(), definition));
                ("job", name)
            }
            Verdict::Setting => ("setting", String::new()),
            Verdict::Ignored => ("ignored", String::new()),
            Verdict::Attention => ("attention", String::new()),
        };
        rows.push(Row { origin: origin.clone(), line: Some(number), result, job, notes });
    }
}

fn told_of_run_parts(command: &str) -> Option<String> {
    let (folder, scripts) = sources::run_parts(command)?;
    let folder = folder.display();
    Some(match scripts.len() {
        0 => format!("runs the scripts in {folder}; there are none here"),
        n => format!("runs {n} scripts in {folder}: {}", scripts.join(", ")),
    })
}

/// The same command in two files gets the same name: the second is told apart by a number.
fn tell_twins(jobs: &mut [Made]) {
    let mut seen = std::collections::BTreeMap::<String, usize>::new();
    for (_, name, definition) in jobs {
        let count = seen.entry(name.clone()).or_insert(0);
        *count += 1;
        if *count > 1 {
            *name = format!("{name}-{count}");
            definition["name"] = json!(name);
        }
    }
}

/// Writes the jobs, or sends them, as asked.
async fn deliver(args: &CrontabArgs, jobs: &[Made], rows: &mut [Row]) -> Result<(), Failure> {
    if let Some(folder) = &args.output_dir {
        for (row, name, definition) in jobs {
            let path = write_job(folder, name, definition)?;
            rows[*row].job = path.display().to_string();
        }
    }
    if !args.apply {
        return Ok(());
    }
    let client = super::client(&args.client)?;
    for (row, name, definition) in jobs {
        match client.change(Method::PUT, &["v1", "jobs", name], &[], Some(definition)).await {
            Ok(answer) => {
                let word = answer.body["result"].as_str().unwrap_or("updated");
                rows[*row].job = format!("{name} ({word})");
            }
            Err(failure) if failure.exit == Exit::Refused => {
                rows[*row].result = "attention";
                rows[*row].notes.insert(0, format!("the server refuses it: {}", failure.error));
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
}

fn report(args: &CrontabArgs, rows: &[Row]) -> Result<(), Failure> {
    if args.client.output == Format::Json {
        let lines = rows.iter().map(|row| {
            json!({
                "file": row.origin, "line": row.line, "result": row.result, "notes": row.notes,
                "job": Some(&row.job).filter(|job| !job.is_empty()),
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
        table.row([place, row.result.into(), row.job.clone(), row.notes.join("; ")]);
    }
    Ok(table.print()?)
}

/// The sum, which is that of all lines, and what to do next.
fn verdict(args: &CrontabArgs, rows: &[Row], jobs: usize) -> Result<(), Failure> {
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
        super::out(next_step(args, jobs).as_bytes())?;
    }
    if attention == 0 {
        return Ok(());
    }
    let message = format!("{attention} of {} lines could not be taken", rows.len());
    Err(Failure::new(Exit::Failed, anyhow::anyhow!(message))
        .hint("the notes say why, and what to do instead"))
}

fn next_step(args: &CrontabArgs, jobs: usize) -> String {
    match (&args.output_dir, args.apply && !args.dry_run) {
        _ if jobs == 0 => String::new(),
        (_, true) => "next: look at `chronos next`, then comment these lines out of the crontab\n".into(),
        (Some(folder), false) if !args.dry_run => {
            let folder: &Path = folder;
            format!("next: chronos apply {}, then comment these lines out of the crontab\n", folder.display())
        }
        _ => {
            "nothing was changed: add --apply to create the jobs, or --output_dir to write them down\n".into()
        }
    }
}
