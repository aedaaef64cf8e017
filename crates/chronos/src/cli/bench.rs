//! `chronos bench`: what this machine and the disk of a data folder can do, to size an installation. Works in a folder
//! of its own that goes with it, and leaves the data alone.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use engine::local::{LocalEngine, LocalOptions};
use jiff::Timestamp;
use scheduler::request::Request;
use scheduler::run::Record;
use scheduler::schedule::Zones;
use serde::Serialize;
use store::sqlite::{SqliteOptions, SqliteStore};
use store::{Candidate, HistoryQuery, Retention, Store};

use super::Format;
use super::failure::{Exit, Failure};
use super::table::Table;
use crate::node::{self, Node, NodeOptions, Role};
use crate::wire::{Door, job};

pub(super) const HELP: &str = "\
Works in a folder of its own below the data folder, which goes with it; the data are not touched, and a
server may run beside it, at the price of both.

Examples:
  chronos bench --data_dir /var/lib/chronos
  chronos bench --output json";

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// The folder whose disk is measured
    #[arg(long = "data_dir", env = "CHRONOS_DATA_DIR", value_name = "FOLDER", default_value = "data")]
    data_dir: PathBuf,
    /// `table` is for people, `json` for scripts
    #[arg(long, hide_possible_values = true, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

/// Each of the raw rates is measured for so long.
const RATE_TIME: Duration = Duration::from_secs(2);
/// Processes that are alive at once while they are counted.
const AT_ONCE: usize = 64;
/// A job runs every second for so many seconds, and as many jobs as that are due in each, one after the other.
const SECONDS: u64 = 5;
const JOBS: u64 = 10;
/// Time to make the jobs, and for their last runs to end.
const MARGIN: Duration = Duration::from_secs(2);
/// Nothing here takes longer, or it has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// What was measured.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Figures {
    fdatasync_per_second: f64,
    sqlite_commits_per_second: f64,
    spawns_per_second: f64,
    launches: usize,
    lag_p50_ms: f64,
    lag_max_ms: f64,
}

pub(super) async fn run(args: BenchArgs) -> Result<(), Failure> {
    let failed = |error: anyhow::Error| {
        let hint = "name a folder on the disk to be measured with --data_dir; it is made if it is not there";
        Failure::new(Exit::Failed, error).hint(hint)
    };
    let folder = Folder::new(&args.data_dir).map_err(failed)?;
    let figures = measure(&folder.0).await.map_err(failed)?;
    match args.output {
        Format::Json => {
            Ok(super::out_json(&serde_json::to_value(&figures).context("figures are JSON").map_err(failed)?)?)
        }
        Format::Table => Ok(figures.print()?),
    }
}

impl Figures {
    fn print(&self) -> std::io::Result<()> {
        let mut table = Table::new(&["what", "value", "bounds"]);
        let mut row = |what: &str, value: String, bounds: &str| {
            table.row([what.into(), value, bounds.into()]);
        };
        row(
            "fdatasync/s of 4 KiB",
            format!("{:.0}", self.fdatasync_per_second),
            "commits, of which each serves many events",
        );
        row(
            "SQLite commits/s",
            format!("{:.0}", self.sqlite_commits_per_second),
            "changes that come one after the other",
        );
        row(
            "processes/s",
            format!("{:.0}", self.spawns_per_second),
            "launches of the local engine; it reaches a good part",
        );
        let lag = format!("median {:.1} ms, longest {:.1} ms", self.lag_p50_ms, self.lag_max_ms);
        row("due until running", lag, &format!("of {} launches on the idle scheduler", self.launches));
        table.print()
    }
}

async fn measure(folder: &Path) -> anyhow::Result<Figures> {
    let dir = folder.to_owned();
    let raw = tokio::task::spawn_blocking(move || {
        let fdatasyncs = store::yardstick::fdatasync_rate(&dir, RATE_TIME)?;
        let commits = store::yardstick::sqlite_commit_rate(&dir, RATE_TIME)?;
        let spawns = engine::yardstick::spawn_rate(Path::new("/bin/true"), AT_ONCE, RATE_TIME)?;
        Ok::<_, std::io::Error>((fdatasyncs, commits, spawns))
    });
    let (fdatasync_per_second, sqlite_commits_per_second, spawns_per_second) =
        raw.await?.with_context(|| format!("cannot measure `{}`", folder.display()))?;
    let lags = lags(folder).await.context("cannot run jobs")?;
    Ok(Figures {
        fdatasync_per_second,
        sqlite_commits_per_second,
        spawns_per_second,
        launches: lags.len(),
        lag_p50_ms: lags.get(lags.len() / 2).copied().context("no job has run")?,
        lag_max_ms: lags.last().copied().unwrap_or_default(),
    })
}

/// Runs a few jobs on a node of its own; how long after its due time each ran, in milliseconds, sorted.
async fn lags(folder: &Path) -> anyhow::Result<Vec<f64>> {
    let engine_dir = folder.join("engine");
    let supervisor = Supervisor::start(&engine_dir)?;
    let store = Arc::new(SqliteStore::open(&SqliteOptions { dir: folder.into(), force_network_fs: false })?);
    let (node, task) = node::start(NodeOptions {
        identity: Candidate { node: "bench".into(), ..Candidate::default() },
        store: store.clone(),
        acquaintance: crate::node::Acquaintance::default(),
        heritage: None,
        engine: Arc::new(LocalEngine::open(LocalOptions {
            dir: engine_dir,
            supervisor_program: supervisor.program.clone(),
            supervisor_args: vec!["supervise".into(), "--dir".into(), folder.join("engine").into()],
        })),
        zones: Zones::bundled(),
        retention: Retention {
            age_max: Duration::from_secs(86_400),
            count_max: 1000,
            ..Retention::UNBOUNDED
        },
        output: engine::Keep::EVERYTHING,
        kill_grace: Duration::from_secs(1),
        disable_after_failures: 0,
        retry_delay: scheduler::job::Retry::DELAY,
        limits: scheduler::limits::Limits::default(),
        notifier: Arc::default(),
    });
    let ran = run_jobs(&node, &*store).await;
    task.shutdown().await;
    ran
}

async fn run_jobs(node: &Node, store: &dyn Store) -> anyhow::Result<Vec<f64>> {
    let leads = async {
        let ready =
            |status: &node::Status| matches!(status.role, Role::Leading(_)) && status.troubles.is_empty();
        node.watch_status().wait_for(ready).await.map(drop)
    };
    tokio::time::timeout(PATIENCE, leads).await.context("the scheduler does not begin")??;
    let begin = Timestamp::from_second(Timestamp::now().as_second())?.checked_add(MARGIN)?;
    for n in 0..JOBS {
        let at = begin.checked_add(Duration::from_secs(1).mul_f64(n as f64 / JOBS as f64))?;
        let document =
            format!(r#"{{"name":"bench-{n}","schedule":"R{SECONDS}/{at}/PT1S","command":"true"}}"#);
        let read = job::read(document.as_bytes(), Door::Any, &Zones::bundled(), Timestamp::now());
        let definition = read.map_err(|problem| anyhow::anyhow!("{}", problem.message))?.definition;
        node.ask(Request::Put(definition)).await?;
    }
    tokio::time::sleep(MARGIN + Duration::from_secs(SECONDS) + MARGIN).await;
    let query = HistoryQuery { limit: 1000, ..HistoryQuery::default() };
    let records = store.history(&query).await?.records;
    let mut lags: Vec<f64> = records.iter().filter_map(lag).collect();
    lags.sort_by(f64::total_cmp);
    Ok(lags)
}

/// From the due time until the engine said that the task runs.
fn lag(record: &Record) -> Option<f64> {
    let Record::Run(run) = record else { return None };
    let first = run.attempts.first()?;
    let running = first.started.unwrap_or(first.launched);
    Some(running.duration_since(run.due).as_secs_f64() * 1000.0)
}

/// The parent of the tasks; ends with the measurement, since nothing of it is to outlive it.
struct Supervisor {
    program: PathBuf,
    child: Child,
}

impl Supervisor {
    fn start(dir: &Path) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let child = Command::new(&program).args(["supervise", "--dir"]).arg(dir).spawn()?;
        Ok(Self { program, child })
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder below the data folder, on the same disk, that goes with its value.
struct Folder(PathBuf);

impl Folder {
    fn new(data_dir: &Path) -> anyhow::Result<Self> {
        let shown = || format!("cannot use `{}`", data_dir.display());
        std::fs::create_dir_all(data_dir).with_context(shown)?;
        let folder =
            data_dir.canonicalize().with_context(shown)?.join(format!("bench-{}", std::process::id()));
        std::fs::create_dir(&folder).with_context(shown)?;
        Ok(Self(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nobody could do anything about what is left.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
