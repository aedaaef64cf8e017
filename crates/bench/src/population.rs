//! Stores with many jobs, made by the scheduler itself: definitions go through the door, slots are computed, and the
//! changes are committed as a driver would, only without a server in between.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use chronos::wire::{Door, job};
use jiff::Timestamp;
use scheduler::ids::Seq;
use scheduler::limits::Limits;
use scheduler::notice::Channels;
use scheduler::request::{Definition, Request, RequestId};
use scheduler::schedule::Zones;
use scheduler::{Event, Scheduler, Settings};
use store::postgres::PostgresOptions;
use store::sqlite::{SqliteOptions, SqliteStore};
use store::{Candidate, Store, zookeeper};
use tokio::task::JoinSet;

/// As the driver.
const IN_FLIGHT_MAX: usize = 8;
/// Jobs in a batch: far below the store's bound.
const BATCH: usize = 200;

/// A definition of 300 bytes of JSON, which is what the target speaks of.
pub(crate) fn document(name: &str, schedule: &str) -> String {
    let frame = |filling: &str| {
        format!(
            r#"{{"name":"{name}","schedule":"{schedule}","command":"/usr/bin/report --of {name}","owner":"ops@example.com","description":"{filling}"}}"#
        )
    };
    let filling = "x".repeat(300_usize.saturating_sub(frame("").len()));
    frame(&filling)
}

pub(crate) fn definition(name: &str, schedule: &str) -> anyhow::Result<Definition> {
    read(&document(name, schedule))
}

/// One whose command matters; without quotes in it.
pub(crate) fn definition_of(name: &str, schedule: &str, command: &str) -> anyhow::Result<Definition> {
    read(&format!(r#"{{"name":"{name}","schedule":"{schedule}","command":"{command}"}}"#))
}

fn read(document: &str) -> anyhow::Result<Definition> {
    let read = job::read(document.as_bytes(), Door::Any, &Zones::bundled(), Timestamp::now());
    Ok(read.map_err(|problem| anyhow::anyhow!("{}", problem.message))?.definition)
}

/// Due daily, first at a time of its own that is years away.
pub(crate) fn far_away(number: usize) -> String {
    let second = 4_102_444_800 + i64::try_from(number).unwrap_or(0);
    format!("R/{}/P1D", Timestamp::from_second(second).unwrap_or(Timestamp::MAX))
}

/// Due every second from `begin` on, so many milliseconds after it.
pub(crate) fn each_second(begin: Timestamp, after: Duration) -> anyhow::Result<String> {
    Ok(format!("R/{}/PT1S", begin.checked_add(after)?))
}

/// Where state is.
#[derive(Clone)]
pub(crate) enum Place {
    /// SQLite in a folder.
    Folder(PathBuf),
    /// A schema of a database.
    Postgres { url: String, schema: String },
    /// A path of an ensemble.
    ZooKeeper { hosts: String, path: String },
}

impl Place {
    pub(crate) fn open(&self) -> anyhow::Result<Arc<dyn Store>> {
        Ok(match self {
            Self::Folder(dir) => Arc::new(open(dir)?),
            Self::Postgres { url, schema } => {
                let options = PostgresOptions { schema: schema.clone(), ..PostgresOptions::new(url) };
                Arc::new(store::postgres::open(&options)?)
            }
            Self::ZooKeeper { hosts, path } => {
                let options = zookeeper::Options { path: path.clone(), ..zookeeper::Options::new(hosts) };
                Arc::new(zookeeper::open(options)?)
            }
        })
    }

    /// What a server is told, to have its state there; its tasks are in `dir`.
    pub(crate) fn flags(&self, dir: &Path) -> Vec<OsString> {
        let mut flags: Vec<OsString> = vec!["--data_dir".into(), dir.into()];
        let more = match self {
            Self::Folder(_) => return flags,
            Self::Postgres { url, schema } => ["--database_url", url, "--database_schema", schema],
            Self::ZooKeeper { hosts, path } => ["--zk_hosts", hosts, "--zk_path", path],
        };
        flags.extend(more.map(Into::into));
        flags
    }
}

pub(crate) fn open(dir: &Path) -> anyhow::Result<SqliteStore> {
    let options = SqliteOptions { dir: dir.into(), force_network_fs: false };
    SqliteStore::open(&options).context("the folder for benchmarks cannot be used")
}

/// Fills an empty store with jobs.
pub(crate) async fn fill(
    place: &Place,
    jobs: impl Iterator<Item = anyhow::Result<Definition>>,
) -> anyhow::Result<()> {
    let store = place.open()?;
    let term = store.begin_term(&Candidate::default()).await?;
    let (state, _) = store.load().await?;
    let settings = Settings {
        node: "bench".into(),
        zones: Zones::bundled(),
        disable_after_failures: 0,
        retry_delay: scheduler::job::Retry::DELAY,
        limits: Limits::default(),
        set_batch: scheduler::SET_BATCH,
        channels: Channels::default(),
    };
    let mut core = Scheduler::new(state, settings);
    let mut seq = term.seq.0;
    let mut commits: JoinSet<Result<(), store::Deposed>> = JoinSet::new();
    let mut jobs = jobs.peekable();
    while jobs.peek().is_some() {
        let mut changes = Vec::new();
        for definition in jobs.by_ref().take(BATCH) {
            let event = Event::Request { id: RequestId(0), request: Request::Put(definition?) };
            changes.extend(core.step(Timestamp::now(), event).changes);
        }
        while commits.len() >= IN_FLIGHT_MAX {
            commits.join_next().await.context("there are some")???;
        }
        seq += 1;
        let (store, epoch, seq) = (store.clone(), term.epoch, Seq(seq));
        commits.spawn(async move { store.commit(epoch, seq, &changes).await });
    }
    while let Some(done) = commits.join_next().await {
        done??;
    }
    store.resign().await;
    Ok(())
}
