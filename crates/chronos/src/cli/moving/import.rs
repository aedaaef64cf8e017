//! `chronos import chronos` and `chronos import zookeeper`: takes over the jobs of an old Chronos, and accounts for every
//! one of them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;
use scheduler::request::Manner;
use scheduler::schedule::Zones;
use serde_json::{Map, Value, json};

use super::folder::{self, File};
use super::old::OldChronos;
use super::plan::{Fate, Plan, Row, Starts};
use super::tree::{self, TreeArgs};
use crate::cli::client::Client;
use crate::cli::failure::{Exit, Failure};
use crate::cli::queries::pages;
use crate::cli::table::Table;
use crate::cli::{ClientArgs, Format};
use crate::notify::settings::Secret;

pub(in crate::cli) const HELP: &str = "\
Every job is listed: as created, replaced, unchanged or refused, with the reason. Names that cannot
be kept (Chronos 2 had some with blanks and `#`) become others, and parents follow. The old Chronos
is only read. It can be imported again: jobs that have not changed stay as they are, also where the
old Chronos has moved a start on to its next slot. Counters and history begin anew.

Examples:
  chronos import chronos --from http://chronos.example.org:8080 --dry_run
  CHRONOS_FROM_USER=ops:secret chronos import chronos --from http://chronos.example.org:8080
  chronos import chronos config/ --advance
  curl http://old:8080/v1/scheduler/jobs > jobs.json && chronos import chronos jobs.json
  chronos import chronos config/ --output json | jq '.jobs[] | select(.result == \"refused\")'";

#[derive(Debug, Args)]
pub(in crate::cli) struct ChronosArgs {
    /// A folder of chronos-sync (`scheduled` and `dependent`, a job in a file), a file with the list of an old Chronos, or
    /// `-` for the standard input
    #[arg(value_name = "PATH", required_unless_present = "from", conflicts_with = "from")]
    path: Option<PathBuf>,
    /// URL of an old Chronos that answers, version 2 or 3
    #[arg(long, value_name = "URL")]
    from: Option<String>,
    /// Name at the old Chronos, and the password, which is better in the environment or in ~/.netrc
    #[arg(long = "from_user", env = "CHRONOS_FROM_USER", value_name = "NAME[:PASSWORD]", requires = "from")]
    from_user: Option<Secret>,
    #[command(flatten)]
    how: How,
}

pub(in crate::cli) const ZOOKEEPER_HELP: &str = "\
As `chronos import chronos`, of a Chronos that need not run: what it keeps in ZooKeeper is read, and
never written. Every node below PATH/state has a line in the report; what cannot be read is refused
with the reason, and tasks that Chronos 2 has left are ignored.

Examples:
  chronos import zookeeper --zk_hosts zk1:2181,zk2:2181,zk3:2181 --dry_run
  chronos import zookeeper --zk_hosts zk1:2181 --zk_path /chronos/state --advance";

#[derive(Debug, Args)]
pub(in crate::cli) struct ZookeeperArgs {
    #[command(flatten)]
    tree: TreeArgs,
    #[command(flatten)]
    how: How,
}

/// How jobs are taken over, wherever they come from.
#[derive(Debug, Args)]
struct How {
    /// Let schedules whose start has passed begin with their next slot; otherwise their latest slot is due at once,
    /// as at Chronos
    #[arg(long)]
    advance: bool,
    /// Only tell what would change, field by field
    #[arg(long = "dry_run")]
    dry_run: bool,
    #[command(flatten)]
    client: ClientArgs,
}

pub(in crate::cli) async fn run(args: &ChronosArgs) -> Result<(), Failure> {
    let client = crate::cli::client(&args.how.client)?;
    let files = find(args).await?;
    if files.is_empty() {
        return Err(Failure::usage("there are no jobs there").hint("is it the right folder or URL?"));
    }
    take_over(files, &client, &args.how).await
}

pub(in crate::cli) async fn from_zookeeper(args: &ZookeeperArgs) -> Result<(), Failure> {
    let client = crate::cli::client(&args.how.client)?;
    let files = tree::files(args.tree.read().await?);
    if files.is_empty() {
        let message = format!("there are no jobs below `{}`", args.tree.place());
        return Err(Failure::usage(message).hint("is it the --zk_path of the old Chronos?"));
    }
    take_over(files, &client, &args.how).await
}

async fn take_over(files: Vec<File>, client: &Client, args: &How) -> Result<(), Failure> {
    let present = present(client).await?;
    let starts = if args.advance { Starts::Advanced } else { Starts::AsWritten };
    let mut plan = Plan::new(files, &present, starts, &Zones::bundled(), Timestamp::now());
    let manner = if args.dry_run { Manner::DryRun } else { Manner::Do };
    let sent = plan.send(client, manner).await;
    match args.client.output {
        Format::Json => crate::cli::out_json(&document(args, &plan))?,
        Format::Table => {
            table(args, &plan.rows).print()?;
            crate::cli::out(closing(args, &plan).as_bytes())?;
        }
    }
    sent?;
    match plan.count(Fate::Refused) {
        0 => Ok(()),
        count => {
            let message = format!("{count} of {} could not be taken over", plan.rows.len());
            Err(Failure::new(Exit::Refused, anyhow::anyhow!(message)).hint("the notes say why"))
        }
    }
}

async fn find(args: &ChronosArgs) -> Result<Vec<File>, Failure> {
    let Some(url) = &args.from else {
        return folder::read(args.path.as_deref().unwrap_or(".".as_ref()));
    };
    let jobs =
        OldChronos::new(url, args.from_user.as_ref(), args.how.client.at.ca_file.as_deref())?.jobs().await?;
    let mut files: Vec<File> = jobs
        .into_iter()
        .enumerate()
        .map(|(i, job)| {
            let origin = format!("job {} of the list", i + 1);
            match job {
                Value::Object(definition) => File::Job { definition, origin, notes: Vec::new() },
                _ => File::Refused { origin, why: "it is not a job".into() },
            }
        })
        .collect();
    // The old Chronos lists them in no order.
    files.sort_by_cached_key(|file| match file {
        File::Job { definition, .. } => definition.get("name").map(ToString::to_string),
        _ => None,
    });
    Ok(files)
}

/// The definitions that the server has, by name.
async fn present(client: &Client) -> Result<BTreeMap<String, Map<String, Value>>, Failure> {
    let all = pages(client, &["v1", "definitions"], Vec::new(), "definitions", usize::MAX).await?;
    let named = |definition: Value| match definition {
        Value::Object(fields) => Some((fields.get("name")?.as_str()?.to_owned(), fields)),
        _ => None,
    };
    Ok(all.into_iter().filter_map(named).collect())
}

fn table(args: &How, rows: &[Row]) -> Table {
    let renamed = rows.iter().any(|row| row.renamed.is_some());
    let columns: &[&str] =
        if renamed { &["job", "here", "result", "notes"] } else { &["job", "result", "notes"] };
    let mut table = Table::new(columns);
    for row in rows {
        let name = if row.name.is_empty() { &row.origin } else { &row.name };
        let result = match (args.dry_run, row.fate) {
            (true, Fate::Created | Fate::Replaced) => format!("would be {}", row.fate.word()),
            (true, Fate::Unchanged) => "would stay".into(),
            (_, fate) => fate.word().to_owned(),
        };
        let here = row.renamed.clone().unwrap_or_default();
        let notes = row.notes.join("; ");
        if renamed {
            table.row([name.clone(), here, result, notes]);
        } else {
            table.row([name.clone(), result, notes]);
        }
    }
    table
}

/// What changes, the sum, and what is true of all of them.
fn closing(args: &How, plan: &Plan) -> String {
    let mut told = String::new();
    for row in plan.rows.iter().filter(|row| args.dry_run && row.fate == Fate::Replaced) {
        let name = row.renamed.as_ref().unwrap_or(&row.name);
        let lines = crate::cli::versions::lines(&row.changes);
        told.push_str(&format!("job `{name}` would be replaced\n{lines}"));
    }
    let counts: Vec<_> = Fate::ALL
        .into_iter()
        .filter(|fate| *fate != Fate::Open || plan.count(*fate) > 0)
        .map(|fate| format!("{} {}", plan.count(fate), fate.word()))
        .collect();
    let renamed = plan.rows.iter().filter(|row| row.renamed.is_some()).count();
    told.push_str(&format!("{} in all: {}", plan.rows.len(), counts.join(", ")));
    told.push_str(&match renamed {
        0 => "\n".to_owned(),
        n => format!("; {n} with another name here\n"),
    });
    for note in notes(args, plan) {
        told.push_str(&format!("note: {note}\n"));
    }
    told
}

/// What is true of many, said once.
fn notes(args: &How, plan: &Plan) -> Vec<String> {
    let mut notes = vec!["counters and history are not taken over: they begin anew".to_owned()];
    if plan.roots > 0 {
        let jobs = jobs(plan.roots);
        notes.push(format!(
            "`runAsUser: root`, which Chronos writes into every job, is taken as not set (in {jobs})"
        ));
    }
    if plan.at_once() > 0 {
        let (jobs, due) = (jobs(plan.at_once()), if args.dry_run { "would be" } else { "are" });
        notes.push(format!(
            "slots in the past {due} due at once (of {jobs}); --advance begins with the next ones"
        ));
    }
    if args.dry_run {
        notes.push("nothing was changed".into());
    }
    notes
}

fn jobs(count: usize) -> String {
    if count == 1 { "1 job".into() } else { format!("{count} jobs") }
}

fn document(args: &How, plan: &Plan) -> Value {
    let jobs: Vec<Value> = plan
        .rows
        .iter()
        .map(|row| {
            json!({
                "name": Some(&row.name).filter(|name| !name.is_empty()),
                "job": row.renamed.as_ref().or(Some(&row.name)).filter(|name| !name.is_empty()),
                "origin": row.origin, "result": row.fate.word(), "renamed": row.renamed.is_some(),
                "notes": row.notes, "changes": row.changes,
            })
        })
        .collect();
    json!({ "dryRun": args.dry_run, "jobs": jobs, "notes": notes(args, plan) })
}
