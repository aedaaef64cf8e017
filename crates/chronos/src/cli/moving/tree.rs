//! What an old Chronos keeps in ZooKeeper: read for an import, written for a way back.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value};
use store::zookeeper::{self, old};
use store::{Candidate, Store, StoreError};

use super::folder::File;
use crate::cli::failure::{Exit, Failure};
use crate::notify::settings::Secret;

/// How long an ensemble may take to answer at all.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the tree is.
#[derive(Debug, Args)]
pub(in crate::cli) struct TreeArgs {
    /// ZooKeeper servers of the old Chronos, as in `a.example.org:2181,b.example.org:2181`
    #[arg(long = "zk_hosts", env = "CHRONOS_ZK_HOSTS", value_name = "HOST:PORT,..")]
    zk_hosts: String,
    /// Its --zk_path
    #[arg(long = "zk_path", env = "CHRONOS_ZK_PATH", value_name = "PATH", default_value = "/chronos/state")]
    zk_path: String,
    /// Its --zk_auth, which is better in the environment
    #[arg(long = "zk_auth", env = "CHRONOS_ZK_AUTH", value_name = "USER:PASSWORD")]
    zk_auth: Option<Secret>,
}

impl TreeArgs {
    /// As users know it.
    pub(in crate::cli) fn place(&self) -> String {
        format!("{}/state", self.zk_path.trim_end_matches('/'))
    }

    /// What is there.
    pub(super) async fn read(&self) -> Result<old::Old, Failure> {
        answer(self.old()?.read()).await
    }

    /// Writes what an old Chronos goes on from; see [`old::Place::write`].
    pub(super) async fn write(
        &self,
        jobs: &BTreeMap<String, String>,
        others: old::Others,
    ) -> Result<(), Failure> {
        answer(self.old()?.write(jobs, None, others)).await.map(drop).map_err(|failure| match failure.exit {
            Exit::Unreachable => Failure { exit: Exit::OutcomeUnknown, ..failure }
                .hint("the jobs may have been written in part: do it again before an old Chronos is started"),
            _ => failure,
        })
    }

    /// How our store beside it stands to it.
    pub(super) async fn recall(&self) -> Result<old::Remembered, Failure> {
        answer(self.old()?.recall()).await
    }

    /// Says it anew.
    pub(super) async fn remember(
        &self,
        before: old::Remembered,
        standing: old::Standing,
    ) -> Result<(), Failure> {
        answer(self.old()?.remember(before, standing)).await
    }

    /// Who leads in its latch.
    pub(super) async fn leader(&self) -> Result<Option<Candidate>, Failure> {
        answer(self.old()?.leader()).await
    }

    /// The id of the store of ours beside it, if there is one.
    pub(super) async fn store_id(&self) -> Result<Option<String>, Failure> {
        let store = zookeeper::open(self.options()).map_err(Failure::usage)?;
        answer(store.store_id()).await
    }

    fn old(&self) -> Result<old::Place, Failure> {
        old::Place::new(self.options()).map_err(Failure::usage)
    }

    /// As the store means it.
    fn options(&self) -> zookeeper::Options {
        let auth = self.zk_auth.as_ref().map(|auth| auth.0.clone());
        let path = self.zk_path.clone();
        zookeeper::Options { path, auth, ..zookeeper::Options::new(&self.zk_hosts) }
    }
}

/// What an ensemble says, or that it says nothing.
async fn answer<T>(asked: impl Future<Output = Result<T, StoreError>>) -> Result<T, Failure> {
    let silent = || StoreError::Unavailable(format!("no answer within {} s", PATIENCE.as_secs()));
    let answer = tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(silent()));
    answer.map_err(|error| match error {
        StoreError::Unavailable(_) => Failure::new(Exit::Unreachable, error),
        _ => Failure::new(Exit::Refused, error),
    })
}

/// Every node of the tree as a file of a folder, so that none goes without a word.
pub(super) fn files(old: old::Old) -> Vec<File> {
    let jobs = old.jobs.into_iter().map(|job| {
        let origin = format!("J_{}", job.name);
        match serde_json::from_str::<Map<String, Value>>(&job.json) {
            Ok(definition) => {
                let named = definition.get("name").and_then(Value::as_str) == Some(&job.name);
                let notes = if named { Vec::new() } else { vec![format!("its node is called `{origin}`")] };
                File::Job { definition, origin, notes }
            }
            Err(error) => File::Refused { origin, why: format!("its value is no JSON: {error}") },
        }
    });
    let node = |path: String| path.rsplit('/').next().unwrap_or_default().to_owned();
    let unread = old.unread.into_iter().map(|unread| match unread.is_job() {
        true => File::Refused { origin: node(unread.path), why: unread.why },
        false => File::Ignored { origin: node(unread.path), why: unread.why },
    });
    let why = "a task that Chronos 2 has left, which no later one reads";
    let tasks = old.tasks.into_iter().map(|path| File::Ignored { origin: node(path), why: why.into() });
    jobs.chain(unread).chain(tasks).collect()
}
