//! The state of a cluster, as whoever ends it sees it: in ZooKeeper or in PostgreSQL.

use std::fmt;
use std::path::Path;

use serde_json::Value;
use store::backup::{BackupError, Extent, Header, Line, Reader};
use store::postgres::{self, PostgresOptions};
use store::zookeeper::purge::{RemoveError, Tree};
use store::zookeeper::{self, Options, old};
use store::{Store, StoreError};
use tokio::sync::mpsc;

use crate::cli::backup::{Target, damaged, target_failure};
use crate::cli::failure::{Exit, Failure};
use crate::cli::progress::{Progress, Show, Unit};
use crate::config::StoreSettings;

/// Pieces between the store and the disk.
const PIECES: usize = 8;

/// Where the state is.
pub(super) enum Place {
    ZooKeeper { tree: Tree, options: Options },
    Postgres { tables: Box<postgres::purge::Tables>, options: PostgresOptions },
}

/// What is there.
#[derive(Clone, Debug, Default)]
pub(super) struct Remains {
    /// Whether there is anything.
    pub(super) there: bool,
    /// Whether there is a store that can be backed up.
    pub(super) whole: bool,
    pub(super) jobs: usize,
    pub(super) note: Option<String>,
    pub(super) old_framework: Option<String>,
    pub(super) removing: Option<String>,
}

impl Place {
    pub(super) fn new(settings: &StoreSettings) -> Result<Self, Failure> {
        match settings {
            StoreSettings::Sqlite => Err(Failure::usage(
                "the state is in a file of one machine, not in a cluster",
            )
            .hint("--zk_hosts or --database_url say where it is, or --config names the file of the servers")),
            StoreSettings::ZooKeeper { hosts, path, timeout, auth } => {
                let options = crate::cli::server::ensemble(hosts, path, *timeout, auth.as_ref());
                let tree = Tree::new(options.clone()).map_err(Failure::usage)?;
                Ok(Self::ZooKeeper { tree, options })
            }
            StoreSettings::Postgres { url, schema, lease } => {
                let options = PostgresOptions {
                    schema: schema.clone(),
                    lease: *lease,
                    ..PostgresOptions::new(url.0.clone())
                };
                let tables = postgres::purge::Tables::new(&options).map_err(Failure::usage)?;
                Ok(Self::Postgres { tables: Box::new(tables), options })
            }
        }
    }

    /// What is there; refused where it is another program's.
    pub(super) async fn look(&self) -> Result<Remains, Failure> {
        match self {
            Self::ZooKeeper { tree, .. } => {
                let found = tree.look().await.map_err(failure)?;
                if !found.strange.is_empty() {
                    return Err(strange(self, &found.strange));
                }
                Ok(Remains {
                    there: found.there,
                    whole: found.whole,
                    jobs: found.jobs,
                    note: found.note,
                    old_framework: found.old_framework,
                    removing: found.purging,
                })
            }
            Self::Postgres { tables, .. } => {
                let found = tables.look().await.map_err(failure)?;
                let (there, jobs, note) = (found.there, found.jobs, found.note);
                Ok(Remains { there, whole: there, jobs, note, ..Remains::default() })
            }
        }
    }

    /// Who still takes part, by address. In PostgreSQL only the leader can be seen.
    pub(super) async fn candidates(&self) -> Result<Vec<String>, Failure> {
        match self {
            Self::ZooKeeper { tree, .. } => tree.candidates().await.map_err(failure),
            Self::Postgres { tables, .. } => {
                Ok(tables.look().await.map_err(failure)?.leads.into_iter().collect())
            }
        }
    }

    /// Writes a backup of the store into a file, checked as it is written.
    pub(super) async fn backup(&self, file: &Path) -> Result<Header, Failure> {
        let store: Box<dyn Store> = match self {
            Self::ZooKeeper { options, .. } => {
                Box::new(zookeeper::open(options.clone()).map_err(Failure::usage)?)
            }
            Self::Postgres { options, .. } => Box::new(postgres::open(options).map_err(Failure::usage)?),
        };
        let (to, mut from) = mpsc::channel::<Vec<u8>>(PIECES);
        let write = async {
            let mut target = Target::create(file)?;
            let mut progress = Progress::new("backup", Unit::Things("records"), None, Show::Progress);
            let mut reader = Reader::default();
            while let Some(piece) = from.recv().await {
                let mut lines = 0;
                let read = reader.feed(&piece, |_: &Header, _: Line| {
                    lines += 1;
                    Ok::<_, BackupError>(())
                });
                read.map_err(damaged)?;
                progress.add(lines);
                target.write_all(&piece).map_err(|cause| target_failure(file, cause))?;
            }
            Ok::<_, Failure>((target, reader))
        };
        let (taken, written) = tokio::join!(store.backup(Extent::Everything, to), write);
        // Why it was cut says more than that it was.
        taken.map_err(failure)?;
        let (target, reader) = written?;
        let header = reader.finish().map_err(damaged)?;
        target.finish().map_err(|cause| target_failure(file, cause))?;
        Ok(header)
    }

    /// The jobs that an old Chronos has left beside the store, as it kept them.
    pub(super) async fn old_jobs(&self) -> Result<Vec<Value>, Failure> {
        let Self::ZooKeeper { options, .. } = self else { return Ok(Vec::new()) };
        let place = old::Place::new(options.clone()).map_err(failure)?;
        let old = place.read().await.map_err(failure)?;
        Ok(old.jobs.into_iter().filter_map(|job| serde_json::from_str(&job.json).ok()).collect())
    }

    /// Removes all of it. Says what is gone.
    pub(super) async fn remove(&self, framework: &str) -> Result<String, Failure> {
        match self {
            Self::ZooKeeper { tree, .. } => {
                let mut progress = Progress::new("remove", Unit::Things("nodes"), None, Show::Progress);
                let mut before = 0;
                let gone = tree.remove(framework, |gone| {
                    progress.add(gone - before);
                    before = gone;
                });
                let gone = gone.await.map_err(|error| match error {
                    RemoveError::Occupied(who) => {
                        occupied(&who, "the framework is over, and not all is removed")
                    }
                    RemoveError::Strange(what) => strange(self, &what),
                    RemoveError::Store(error) => failure(error),
                })?;
                Ok(format!("{} of {self}", super::count(usize::try_from(gone).unwrap_or(usize::MAX), "node")))
            }
            Self::Postgres { tables, .. } => {
                tables.remove().await.map_err(failure)?;
                Ok(format!("the tables of {self}"))
            }
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ZooKeeper { tree, options } => {
                write!(f, "{} in ZooKeeper at {}", tree.path(), options.hosts)
            }
            Self::Postgres { tables, .. } => write!(f, "schema `{}` in PostgreSQL", tables.schema()),
        }
    }
}

/// An instance lives.
pub(super) fn occupied(who: &[String], so_far: &str) -> Failure {
    let message = format!("an instance is still alive: {}; {so_far}", who.join(", "));
    Failure::new(Exit::Refused, anyhow::anyhow!(message))
        .hint("stop it, and what starts it again; then the same command goes on from here")
}

fn strange(place: &Place, what: &[String]) -> Failure {
    const SHOWN: usize = 5;
    let more = what.len().saturating_sub(SHOWN);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    let shown = what.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    Failure::usage(format!("{place} is not Chronos's alone: it has {shown}{more}"))
        .hint("see whether --zk_path is right; if it is, remove these by hand first")
}

fn failure(error: StoreError) -> Failure {
    match error {
        StoreError::Unavailable(_) => Failure::new(Exit::Unreachable, error),
        _ => Failure::new(Exit::Refused, error),
    }
}
