//! Several servers on one PostgreSQL, or on one ZooKeeper.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::http::Response;
use crate::server::{Folder, TestServer};
use crate::wait;

#[path = "../../../store/testing/ensemble.rs"]
pub(crate) mod ensemble;

#[path = "../../../store/testing/mount.rs"]
pub(crate) mod mount;

#[path = "../../../store/testing/postgresd.rs"]
pub(crate) mod postgresd;

/// Nodes on one PostgreSQL server, each with a folder of its own.
pub(crate) struct Fleet {
    flags: Vec<String>,
}

impl Fleet {
    pub(crate) fn new() -> Option<Self> {
        Some(Self::on(&postgresd::shared_or_skip("cluster")?))
    }

    /// On this server.
    pub(crate) fn on(url: &str) -> Self {
        static SCHEMAS: AtomicU32 = AtomicU32::new(0);
        let schema = format!("cluster_{}", SCHEMAS.fetch_add(1, Ordering::Relaxed));
        // With the lease that the product has by itself: with the shortest there is, a busy machine may depose a leader by chance.
        let flags = ["--database_url", url, "--database_schema", &schema];
        Self { flags: flags.map(Into::into).to_vec() }
    }

    /// On the ensemble of ZooKeeper that tests share.
    pub(crate) fn on_zookeeper() -> Option<Self> {
        static PATHS: AtomicU32 = AtomicU32::new(0);
        let hosts = match ensemble::shared() {
            Ok(hosts) => hosts,
            Err(reason) => {
                ensemble::skip("cluster", &reason);
                return None;
            }
        };
        let path = format!("/it/{}/{}", std::process::id(), PATHS.fetch_add(1, Ordering::Relaxed));
        let flags = ["--zk_hosts", &hosts, "--zk_path", &path, "--zk_timeout", "10000"];
        Some(Self { flags: flags.map(Into::into).to_vec() })
    }

    pub(crate) fn node(&self, folder: Arc<Folder>, more: &[&str]) -> TestServer {
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
        TestServer::launch(folder, &flags)
    }

    /// One more that leads, or stands by and has found the leader.
    pub(crate) fn joined(&self, more: &[&str]) -> TestServer {
        let node = self.node(Folder::new(), more);
        wait::until("it has joined", || {
            let log = node.log();
            (log.contains("elected") || log.contains("the leader answers")).then_some(())
        });
        wait::until("it has read the store, and leads or stands by", || {
            let role = node.get("/ready")?.json()["role"].clone();
            ((role == "leading" || role == "standby") && node.get("/v1/jobs")?.status == 200).then_some(())
        });
        node
    }
}

/// A header of an answer.
pub(crate) fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}
