//! `chronos doctor`: looks at one leg after the other, and says what to do about what does not hold.

mod finding;
mod folder;
mod jobs;
mod nodes;
mod status;

use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;
use store::sqlite::inspect;

use super::ClientArgs;
use super::client::Client;
use super::failure::{Exit, Failure};
use super::queries::pages;
use finding::{Finding, Grade, tell, unreachable, unseen, wrong};
use folder::of_folder;
use jobs::{of_channels, of_jobs, of_notices};
use nodes::of_nodes;
use status::{of_engine, of_status};

pub(super) const HELP: &str = "\
Each line is good (✓), worth a look (!) or wrong (✗), and says what to do.

Exit codes:
  0 nothing is wrong   1 something is   4 no server answers   6 the data folder is not usable

Examples:
  chronos doctor
  chronos doctor --server http://chronos.example.org:4400 --output json
  chronos doctor --data_dir /var/lib/chronos      (without a server)";

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Look at this data folder instead of asking a server
    // No conflict with `--server`, which a variable may have set.
    #[arg(long = "data_dir", value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    client: ClientArgs,
}

/// Jobs looked at; beyond, a sample is enough to see that something is wrong.
const JOBS_MAX: usize = 200_000;
/// Notices looked at: more than are kept.
const NOTICES_MAX: usize = 1000;

pub(super) async fn run(args: &DoctorArgs) -> Result<(), Failure> {
    let (findings, exit) = match &args.data_dir {
        Some(folder) => {
            let found = inspect(folder);
            let exit = if found.is_err() { Exit::Data } else { Exit::Failed };
            (of_folder(folder, found), exit)
        }
        None => match of_server(&args.client).await {
            Ok(findings) => (findings, Exit::Failed),
            Err(failure) if failure.exit == Exit::Unreachable => {
                (vec![unreachable(&failure)], Exit::Unreachable)
            }
            Err(failure) => return Err(failure),
        },
    };
    tell(&findings, args.client.output)?;
    let wrong = findings.iter().filter(|finding| finding.grade == Grade::Wrong).count();
    if wrong == 0 {
        return Ok(());
    }
    let what = if wrong == 1 { "1 thing is wrong".into() } else { format!("{wrong} things are wrong") };
    Err(Failure::new(exit, anyhow::anyhow!("{what}")).hint("the lines marked ✗ say what to do"))
}

async fn of_server(args: &ClientArgs) -> Result<Vec<Finding>, Failure> {
    let client = Client::of(&args.at)?;
    let asked = Timestamp::now();
    let status = match client.get(&["v1", "status"], &[]).await {
        Err(failure) if failure.exit != Exit::Unreachable => {
            let advice = "is there a Chronos server of this version at this URL, and not something else?";
            return Ok(vec![wrong("server", format!("{}: {}", client.shown(), failure.error), advice)]);
        }
        status => status?,
    };
    let answered = Timestamp::now();
    // A leg that cannot be looked at says so, and the next one is looked at.
    let engine = match client.get(&["v1", "engine", "findings"], &[]).await {
        Ok(told) => of_engine(&told),
        Err(failure) if failure.exit == Exit::Unreachable => vec![unseen("engine", &failure)],
        // A version before this one has nothing to say there; that it is another is told above.
        Err(_) => Vec::new(),
    };
    let mut findings = of_status(&client.shown(), &status, &engine, asked, answered);
    findings.extend(engine);
    findings.extend(match client.get(&["v1", "nodes"], &[("ask", "true".into())]).await {
        Ok(told) => of_nodes(&told, &status),
        Err(failure) => vec![unseen("nodes", &failure)],
    });
    let query = vec![("state", "givenUp".into())];
    findings.push(match pages(&client, &["v1", "notices"], query, "notices", NOTICES_MAX).await {
        Ok(given_up) => of_notices(&given_up),
        Err(failure) => unseen("notices", &failure),
    });
    match pages(&client, &["v1", "jobs"], Vec::new(), "jobs", JOBS_MAX).await {
        Ok(jobs) => {
            findings.extend(of_channels(&status, &jobs));
            findings.extend(of_jobs(&jobs, answered));
        }
        Err(failure) => findings.push(unseen("jobs", &failure)),
    }
    Ok(findings)
}
