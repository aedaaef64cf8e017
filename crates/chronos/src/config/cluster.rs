//! The settings about several nodes: where they share their state, how they find each other, and what becomes of tasks
//! whose node is cut off.

use std::path::PathBuf;
use std::time::Duration;

use super::values::{Folder, Length, OnIsolation, StoreKind, Texts};
use super::{ConfigError, ConfigFile, Layers, Manner, Source};
use crate::cluster::address::Address;
use crate::notify::settings::{Secret, host_and_port};

/// Where state lives, and how it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreSettings {
    /// A file in the data folder.
    Sqlite,
    /// A PostgreSQL server.
    Postgres {
        /// `postgresql://user:password@host:port/database`.
        url: Secret,
        /// The schema in it that is Chronos's.
        schema: String,
        /// How long a leader that cannot be reached may go on.
        lease: Duration,
    },
    /// A ZooKeeper ensemble.
    ZooKeeper {
        /// `host:port` of its servers.
        hosts: Vec<String>,
        /// The tree that Chronos had, beside which ours is.
        path: String,
        /// How long a session that cannot be reached is kept.
        timeout: Duration,
        /// `user:password`, of the scheme digest.
        auth: Option<Secret>,
    },
}

impl StoreSettings {
    /// How many runs of each job it keeps unless that is said: servers of ZooKeeper have every record in memory.
    pub(super) fn history_count_max(&self) -> u64 {
        match self {
            Self::Sqlite | Self::Postgres { .. } => 1000,
            Self::ZooKeeper { .. } => 20,
        }
    }
}

/// How a node takes part in a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterSettings {
    /// Where state lives.
    pub store: StoreSettings,
    /// Id of the only store that this node works on.
    pub expect_store: Option<String>,
    /// Where others reach this node, best first, before what is found out.
    pub advertise: Vec<Advertised>,
    /// What becomes of the tasks of a node that cannot reach the store.
    pub on_isolation: OnIsolation,
}

/// An address under which others reach this node; without a port, that which is listened on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advertised {
    /// As it is.
    Whole(Address),
    /// A name or an IP address.
    Host(String),
}

/// As written, or empty.
pub(super) struct ClusterTexts {
    store: Option<StoreKind>,
    database_url: Secret,
    database_url_file: PathBuf,
    database_schema: String,
    database_lease: Duration,
    zk_hosts: String,
    zk_path: String,
    zk_timeout: u64,
    zk_auth: Secret,
    expect_store: String,
    advertise: Vec<String>,
    on_isolation: OnIsolation,
}

/// Shortest time after which a leader that cannot be reached is replaced: below, a busy machine looks dead.
const LEASE_MIN: Duration = Duration::from_secs(4);
/// Longest one: so long nothing is launched when a leader dies.
const LEASE_MAX: Duration = Duration::from_secs(300);
/// Addresses of one node.
const ADVERTISED_MAX: usize = 8;

impl ClusterTexts {
    pub(super) fn pick<F: Fn(&str) -> Source>(
        layers: &mut Layers<F>,
        flags: &ConfigFile,
        file: &ConfigFile,
        manner: Manner,
    ) -> Self {
        macro_rules! pick {
            ($name:ident, $default:expr) => {
                layers.pick(stringify!($name), flags.$name.clone(), file.$name.clone(), $default)
            };
            ($name:ident, as $wrapper:ident, $default:expr) => {{
                let (flag, file) = (flags.$name.clone().map($wrapper), file.$name.clone().map($wrapper));
                layers.pick(stringify!($name), flag, file, $wrapper($default)).0
            }};
        }
        let chosen = flags.store.or(file.store);
        let given = |flag: bool, file: bool| flag || file;
        let postgres = given(
            flags.database_url.is_some() || flags.database_url_file.is_some(),
            file.database_url.is_some() || file.database_url_file.is_some(),
        );
        let zookeeper = given(flags.zk_hosts.is_some(), file.zk_hosts.is_some());
        let meant = match (postgres, zookeeper) {
            (true, _) => StoreKind::Postgres,
            (false, true) => StoreKind::ZooKeeper,
            (false, false) => match manner {
                Manner::Server => StoreKind::Sqlite,
                Manner::RunJar => StoreKind::ZooKeeper,
            },
        };
        let store = layers.pick("store", flags.store, file.store, meant);
        Self {
            store: Some(store).filter(|_| chosen.is_some() || !(postgres && zookeeper)),
            database_url: pick!(database_url, Secret::default()),
            database_url_file: pick!(database_url_file, as Folder, PathBuf::new()),
            database_schema: pick!(database_schema, "chronos".to_owned()),
            database_lease: pick!(database_lease, Length(Duration::from_secs(10))).0,
            zk_hosts: pick!(zk_hosts, "localhost:2181".to_owned()),
            zk_path: pick!(zk_path, "/chronos/state".to_owned()),
            zk_timeout: pick!(zk_timeout, 10_000),
            zk_auth: pick!(zk_auth, Secret::default()),
            expect_store: pick!(expect_store, String::new()),
            advertise: pick!(advertise_address, as Texts, Vec::new()),
            on_isolation: pick!(on_isolation, OnIsolation::Kill),
        }
    }

    pub(super) fn meant(self, manner: Manner) -> Result<ClusterSettings, ConfigError> {
        let store = match self.store {
            None => {
                let rule = "there is --zk_hosts too: say with --store which one is meant";
                return bounds("database_url", "***".into(), rule);
            }
            Some(StoreKind::Sqlite) => StoreSettings::Sqlite,
            Some(StoreKind::Postgres) => self.postgres()?,
            Some(StoreKind::ZooKeeper) => self.zookeeper(manner)?,
        };
        let mut advertise = Vec::new();
        for text in &self.advertise {
            let named = |host: &str| !host.is_empty() && super::is_host(host);
            advertise.push(match text.parse() {
                Ok(address) => Advertised::Whole(address),
                Err(_) if named(text) => Advertised::Host(text.clone()),
                Err(_) => {
                    let rule = "an address is wanted, as in `10.0.0.1`, `a.example.org:4400` or `https://a.example.org:8443`";
                    return bounds("advertise_address", format!("`{text}`"), rule);
                }
            });
        }
        if advertise.len() > ADVERTISED_MAX {
            let found = format!("a list of {}", advertise.len());
            return bounds("advertise_address", found, "at most 8 addresses are allowed");
        }
        Ok(ClusterSettings {
            store,
            expect_store: Some(self.expect_store).filter(|id| !id.is_empty()),
            advertise,
            on_isolation: self.on_isolation,
        })
    }

    fn postgres(&self) -> Result<StoreSettings, ConfigError> {
        let url = match super::notify::file("database_url_file", &self.database_url_file)? {
            Some(_) if !self.database_url.0.is_empty() => {
                return bounds("database_url", "***".into(), "it is given twice: here and as a file");
            }
            Some(text) => text,
            None => self.database_url.clone(),
        };
        if !url.0.starts_with("postgresql://") && !url.0.starts_with("postgres://") {
            let shown = if url.0.is_empty() { "empty" } else { "***" };
            let rule = "a URL is wanted, as in postgresql://user:password@db.example.org:5432/chronos";
            return bounds("database_url", shown.into(), rule);
        }
        let schema = &self.database_schema;
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if schema.is_empty() || schema.len() > 40 || !schema.chars().all(plain) || schema.starts_with("pg_") {
            let rule = "1 to 40 of a-z, 0-9 and _ are wanted, not beginning with pg_";
            return bounds("database_schema", format!("`{schema}`"), rule);
        }
        let lease = self.database_lease;
        if !(LEASE_MIN..=LEASE_MAX).contains(&lease) {
            return bounds("database_lease", Length(lease).to_string(), "4s to 5m are allowed");
        }
        Ok(StoreSettings::Postgres { url, schema: schema.clone(), lease })
    }

    fn zookeeper(&self, manner: Manner) -> Result<StoreSettings, ConfigError> {
        let text = self.zk_hosts.trim();
        // As Chronos read it: what comes after the hosts is for Mesos.
        let list = text.strip_prefix("zk://").unwrap_or(text);
        let list = list.split('/').next().unwrap_or_default();
        let hosts: Vec<String> = list.split(',').map(|host| host.trim().to_owned()).collect();
        if hosts.iter().any(|host| host_and_port(host).is_none()) {
            let rule = "a list of host:port is wanted, as in a.example.org:2181,b.example.org:2181";
            return bounds("zk_hosts", format!("`{}`", self.zk_hosts), rule);
        }
        let path = self.zk_path.trim_end_matches('/');
        let sane = |part: &str| {
            !part.is_empty() && part != "." && part != ".." && !part.chars().any(char::is_control)
        };
        if !path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(sane)) || path.len() > 255 {
            let rule = "a path is wanted, as in /chronos/state";
            return bounds("zk_path", format!("`{}`", self.zk_path), rule);
        }
        let mut timeout = Duration::from_millis(self.zk_timeout);
        if manner == Manner::RunJar {
            // To Chronos it was how long to wait at the start, of any length.
            timeout = timeout.clamp(LEASE_MIN, LEASE_MAX);
        }
        if !(LEASE_MIN..=LEASE_MAX).contains(&timeout) {
            let rule = "4000 to 300000 are allowed, in milliseconds";
            return bounds("zk_timeout", self.zk_timeout.to_string(), rule);
        }
        let auth = Some(self.zk_auth.clone()).filter(|auth| !auth.0.is_empty());
        if auth.as_ref().is_some_and(|auth| !auth.0.contains(':')) {
            return bounds("zk_auth", "***".into(), "a name and a password are wanted, as in user:password");
        }
        Ok(StoreSettings::ZooKeeper { hosts, path: path.into(), timeout, auth })
    }
}

fn bounds<T>(name: &'static str, value: String, rule: &'static str) -> Result<T, ConfigError> {
    Err(ConfigError::Bounds { name, value, rule })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn hosts_are_read_as_chronos_read_them() {
        let hosts = |zk_hosts: &str| {
            let file: ConfigFile =
                serde_norway::from_str(&format!("{{store: zookeeper, zk_hosts: '{zk_hosts}'}}"))
                    .expect("settings");
            let config = Config::new(
                ConfigFile::default(),
                |_| Source::Flag,
                Some(("f".into(), file)),
                Manner::Server,
            );
            match config.map(|config| config.cluster.store) {
                Ok(StoreSettings::ZooKeeper { hosts, .. }) => hosts.join(" "),
                Ok(other) => format!("{other:?}"),
                Err(error) => error.to_string(),
            }
        };
        for (text, read) in [
            ("a:2181", "a:2181"),
            ("a:2181, b.example.org:2182", "a:2181 b.example.org:2182"),
            ("zk://a:2181,b:2181/mesos", "a:2181 b:2181"),
        ] {
            assert_eq!(hosts(text), read, "{text}");
        }
        for bad in ["a", "a:2181,b", "zk:///mesos", "a:port"] {
            assert!(hosts(bad).contains("a list of host:port is wanted"), "{bad}: {}", hosts(bad));
        }
    }
}
