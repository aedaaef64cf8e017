//! What a node is made of: its store, its engine, who is told of things, and its id.

use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use engine::docker::{DockerEngine, DockerOptions, Fetcher};
use engine::local::{LocalEngine, LocalOptions};
use engine::mesos::{MesosEngine, MesosOptions};
use engine::router::Router as Engines;
use engine::shadow::ShadowEngine;
use engine::{Engine, Keep};
use scheduler::audit::Entry;
use scheduler::schedule::Zones;
use store::postgres::{self, PostgresOptions};
use store::sqlite::{SqliteOptions, SqliteStore};
use store::zookeeper;
use store::{Candidate, Retention, Store, StoreError};

use super::failed;
use super::listening::{Listening, addresses, listened, webui};
use crate::cli::failure::{Exit, Failure};
use crate::cli::shadow::{self, Kind};
use crate::cluster::spread::Spread;
use crate::config::{Config, StoreSettings};
use crate::node::{self, Acquaintance, Heritage, Node, NodeMemory, NodeOptions, NodeTask};
use crate::notify::Notifier;
use crate::notify::settings::{NotifySettings, Secret};

/// Younger output stays, whatever it takes: long beyond any order that is on its way, and enough to look at it.
const OUTPUT_AGE_MIN: Duration = Duration::from_secs(600);

/// A node and its parts.
pub(super) struct Started {
    pub(super) node: Node,
    pub(super) task: NodeTask,
    pub(super) spread: Arc<Spread>,
    pub(super) heritage: Option<Arc<Heritage>>,
}

pub(super) fn start_node(
    config: &Config,
    mesos: Option<MesosOptions>,
    listening: &Listening,
    zones: Zones,
) -> Result<Started, Failure> {
    let kind = Kind::of(config);
    shadow::claim(&config.data_dir, kind)?;
    let (store, heritage) = open_store(config)?;
    let data_dir = config.data_dir.canonicalize()?;
    let memory = Arc::new(NodeMemory::new(heritage.clone()));
    let listened = listened(config, listening);
    let engine: Arc<dyn Engine> = match (kind, mesos) {
        (Kind::Real, Some(mut mesos)) => {
            // Whoever leads subscribes, and so the master shows where the leader is.
            mesos.webui_url = mesos.webui_url.or_else(|| webui(config, &listened));
            Arc::new(MesosEngine::open(mesos, memory.clone())?)
        }
        (Kind::Real, None) => Arc::new(engines(config, &data_dir)?),
        (Kind::Shadow, _) => Arc::new(ShadowEngine::default()),
    };
    let identity = Candidate {
        node: kind.node(node_id(&data_dir).map_err(failed)?),
        addresses: addresses(config, &listened),
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").into(),
    };
    let acquaintance = Acquaintance {
        file: (config.cluster.store != StoreSettings::Sqlite).then(|| data_dir.join("store")),
        expected: config.cluster.expect_store.clone(),
    };
    let login = config.access.credentials.clone();
    let spread = Spread::new(engine, identity.node.clone(), store.clone(), login, engine::since_boot);
    let (node, task) = node::start(NodeOptions {
        identity,
        store,
        acquaintance,
        heritage: heritage.clone(),
        engine: spread.clone(),
        zones,
        retention: Retention {
            age_max: config.history_age_max,
            count_max: config.history_count_max,
            audit_age_max: config.audit_age_max,
            audit_count_max: Entry::KEPT_MAX,
        },
        output: Keep {
            age_min: OUTPUT_AGE_MIN,
            age_max: config.output_age_max,
            bytes_max: config.output_bytes_max,
        },
        kill_grace: config.kill_grace,
        disable_after_failures: config.disable_after_failures,
        retry_delay: config.retry_delay,
        limits: config.limits.clone(),
        notifier: Arc::new(notifier(config)?),
    });
    memory.begin(&node);
    Ok(Started { node, task, spread, heritage })
}

/// A store, and what an old Chronos may have left beside it.
type Opened = (Arc<dyn Store>, Option<Arc<Heritage>>);

/// Where state lives. Of the data folder only what belongs to this node is used where that is elsewhere.
fn open_store(config: &Config) -> Result<Opened, Failure> {
    let refused = |error| data_failure(config, error);
    match &config.cluster.store {
        StoreSettings::Sqlite => {
            let options = SqliteOptions { dir: config.data_dir.clone(), force_network_fs: false };
            Ok((Arc::new(SqliteStore::open(&options).map_err(refused)?), None))
        }
        StoreSettings::Postgres { url, schema, lease } => {
            own_folder(&config.data_dir)?;
            let options = PostgresOptions {
                url: url.0.clone(),
                schema: schema.clone(),
                lease: *lease,
                expected: config.cluster.expect_store.clone(),
            };
            let store = postgres::open(&options).map_err(|error| {
                Failure::usage(error)
                    .hint("--database_url, --database_schema and --database_lease say where and how")
            })?;
            Ok((Arc::new(store), None))
        }
        StoreSettings::ZooKeeper { hosts, path, timeout, auth } => {
            own_folder(&config.data_dir)?;
            let options = zookeeper::Options {
                expected: config.cluster.expect_store.clone(),
                history_per_job: config.history_count_max,
                ..ensemble(hosts, path, *timeout, auth.as_ref())
            };
            let store = zookeeper::open(options).map_err(|error| {
                Failure::usage(error)
                    .hint("--zk_hosts, --zk_path, --zk_timeout and --zk_auth say where and how")
            })?;
            let heritage = Heritage::new(store.old());
            Ok((Arc::new(store), Some(Arc::new(heritage))))
        }
    }
}

/// How an ensemble is reached.
pub(in crate::cli) fn ensemble(
    hosts: &[String],
    path: &str,
    timeout: Duration,
    auth: Option<&Secret>,
) -> zookeeper::Options {
    zookeeper::Options {
        path: path.into(),
        session_timeout: timeout,
        auth: auth.map(|auth| auth.0.clone()),
        ..zookeeper::Options::new(hosts.join(","))
    }
}

/// Where the logins of registries are: where it was said, or where Docker has those of this user.
fn logins(said: &Path) -> Option<PathBuf> {
    let folder =
        |variable: &str| std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    if !said.as_os_str().is_empty() {
        return Some(said.to_owned());
    }
    let folder = folder("DOCKER_CONFIG").or_else(|| Some(folder("HOME")?.join(".docker")))?;
    Some(folder.join("config.json"))
}

/// What belongs to this node alone: its id, its tasks and their output.
fn own_folder(folder: &Path) -> Result<(), Failure> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|cause| unusable(folder, cause))
}

fn unusable(folder: &Path, cause: io::Error) -> Failure {
    Failure::new(Exit::Data, cause)
        .context(format!("cannot use the data folder `{}`", folder.display()))
        .hint("choose another folder with --data_dir, or see to it that this user may write there")
}

/// Looks whether any server could use a data folder, by making another one beside or in it, which is removed again. That
/// this user may not says nothing of the one that will run the server.
pub(super) fn possible(folder: &Path) -> Result<(), Failure> {
    let there = folder.ancestors().find(|at| at.as_os_str().is_empty() || at.exists());
    let there = there.filter(|at| !at.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let probe = there.join(format!(".chronos-check-{}", std::process::id()));
    match std::fs::create_dir(&probe) {
        Ok(()) => std::fs::remove_dir(&probe).map_err(|cause| unusable(folder, cause)),
        Err(cause) if cause.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        Err(cause) => Err(unusable(folder, cause)),
    }
}

/// What runs tasks: processes of this machine, and containers.
fn engines(config: &Config, data_dir: &Path) -> Result<Engines, Failure> {
    let program = std::env::current_exe().context("cannot find this program").map_err(failed)?;
    let containers = DockerOptions {
        container_age_max: config.docker_container_age_max,
        fetcher: Some(Fetcher { program: program.clone(), args: vec!["launch".into()] }),
        logins: logins(&config.docker_config).into_iter().collect(),
        ..DockerOptions::new(data_dir.join("docker"), config.docker_host.clone())
    };
    let containers = DockerEngine::open(containers)
        .with_context(|| format!("cannot use the folder `{}`", data_dir.join("docker").display()))
        .map_err(failed)?;
    let dir = data_dir.join("engine");
    let local = LocalEngine::open(LocalOptions {
        supervisor_program: program,
        supervisor_args: vec!["supervise".into(), "--dir".into(), dir.clone().into()],
        dir,
    });
    Ok(Engines::new(Arc::new(local), Arc::new(containers)))
}

/// A shadow tells nobody.
fn notifier(config: &Config) -> Result<Notifier, Failure> {
    let settings = match Kind::of(config) {
        Kind::Real => config.notify.clone(),
        Kind::Shadow => NotifySettings::default(),
    };
    Notifier::new(settings).map_err(|what| {
        Failure::usage(format!("people cannot be told of things: {what}"))
            .hint("`chronos server --help` describes each setting")
    })
}

fn data_failure(config: &Config, error: StoreError) -> Failure {
    let hint = match &error {
        StoreError::Newer { .. } => {
            "start the newer version of Chronos that wrote it, or choose another folder with --data_dir"
        }
        StoreError::Damaged(_) => "nothing was changed; when you have put it right, start again",
        _ => "choose another folder with --data_dir, or see to it that this user may write there",
    };
    Failure::new(Exit::Data, error)
        .context(format!("cannot use the data folder `{}`", config.data_dir.display()))
        .hint(hint)
}

/// Whether no server has begun in this folder yet. It tells by what every server keeps there, wherever its state is.
pub(super) fn is_new(data_dir: &Path) -> bool {
    !data_dir.join(NODE_FILE).exists()
}

/// Where the id of a folder's node is.
const NODE_FILE: &str = "node";

/// The id of this folder's node: random, made once, never an address.
fn node_id(data_dir: &Path) -> anyhow::Result<String> {
    let path = data_dir.join(NODE_FILE);
    let read = || -> std::io::Result<Option<String>> {
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim().to_owned()).filter(|id| !id.is_empty())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    };
    let shown = || format!("cannot keep the id of this node in `{}`", path.display());
    if let Some(id) = read().with_context(shown)? {
        return Ok(id);
    }
    let id = format!("{:016x}", rand::random::<u64>());
    // Written elsewhere and linked: of two servers that start at once, the second takes the id of the first.
    let draft = data_dir.join(format!("node.new-{id}"));
    std::fs::File::create(&draft)
        .and_then(|mut file| file.write_all(format!("{id}\n").as_bytes()).and_then(|()| file.sync_all()))
        .with_context(shown)?;
    let linked = std::fs::hard_link(&draft, &path);
    // No links can be made here, or what is there is empty, as power that is lost leaves it.
    if linked.is_err() && read().with_context(shown)?.is_none() {
        std::fs::rename(&draft, &path).with_context(shown)?;
    }
    let _ = std::fs::remove_file(&draft);
    read().with_context(shown)?.with_context(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_cannot_be_is_told_from_one_that_is_not_there_yet() {
        let above = tempfile::tempdir().expect("a temporary folder");
        let file = above.path().join("file");
        std::fs::write(&file, "").expect("a writable folder");
        for fine in [above.path().to_owned(), above.path().join("a/b"), "not-there-yet".into()] {
            assert!(possible(&fine).is_ok(), "{}", fine.display());
        }
        for wrong in [file.clone(), file.join("a"), "/proc/nope".into()] {
            let told = possible(&wrong).expect_err("nobody can use it").to_text();
            assert!(told.starts_with("error: cannot use the data folder `"), "{told}");
        }
        let left: Vec<_> = std::fs::read_dir(above.path()).expect("a readable folder").collect();
        assert_eq!(left.len(), 1, "nothing stays: {left:?}");
    }

    #[test]
    fn an_id_that_was_lost_with_the_power_is_made_anew() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert!(is_new(folder.path()));
        let first = node_id(folder.path()).expect("a writable folder");
        assert!(!is_new(folder.path()), "in every store, not in that of SQLite alone");
        assert_eq!(node_id(folder.path()).expect("it is there"), first);
        std::fs::write(folder.path().join("node"), "").expect("a writable folder");
        let second = node_id(folder.path()).expect("an empty file is no id");
        assert!(second.len() == 16 && second != first, "{second}");
        let names: Vec<_> = std::fs::read_dir(folder.path())
            .expect("a readable folder")
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        assert_eq!(names, ["node"], "no draft stays");
    }
}
