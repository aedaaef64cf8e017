//! Data folders with many jobs, made by the scheduler itself: definitions go through the door, slots are computed,
//! and the changes are committed as a driver would, only without a server in between.

use std::path::Path;
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
use store::sqlite::{SqliteOptions, SqliteStore};
use store::{Candidate, Store};
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
    let read = job::read(document(name, schedule).as_bytes(), Door::Any, &Zones::bundled(), Timestamp::now());
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

pub(crate) fn open(dir: &Path) -> anyhow::Result<SqliteStore> {
    let options = SqliteOptions { dir: dir.into(), force_network_fs: false };
    SqliteStore::open(&options).context("the folder for benchmarks cannot be used")
}

/// Fills the store in `dir` with jobs.
pub(crate) async fn fill(
    dir: &Path,
    jobs: impl Iterator<Item = anyhow::Result<Definition>>,
) -> anyhow::Result<()> {
    let store = Arc::new(open(dir)?);
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
