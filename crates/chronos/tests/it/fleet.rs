//! Several servers on one PostgreSQL, or on one ZooKeeper.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::http::Response;
use crate::server::{Folder, TestServer, server_command};
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
        match ensemble::shared() {
            Ok(hosts) => Some(Self::on_ensemble(&hosts)),
            Err(reason) => {
                ensemble::skip("cluster", &reason);
                None
            }
        }
    }

    /// On these servers of ZooKeeper, below a path of its own.
    pub(crate) fn on_ensemble(hosts: &str) -> Self {
        static PATHS: AtomicU32 = AtomicU32::new(0);
        let path = format!("/it/{}/{}", std::process::id(), PATHS.fetch_add(1, Ordering::Relaxed));
        let flags = ["--zk_hosts", hosts, "--zk_path", &path, "--zk_timeout", "10000"];
        Self { flags: flags.map(Into::into).to_vec() }
    }

    /// What its nodes are told by a flag.
    pub(crate) fn flag(&self, name: &str) -> &str {
        let at = self.flags.iter().position(|flag| flag == name).expect("it is one of its flags");
        &self.flags[at + 1]
    }

    /// The same, but for one of its flags.
    pub(crate) fn with(&self, name: &str, value: &str) -> Self {
        let mut flags = self.flags.clone();
        let at = flags.iter().position(|flag| flag == name).expect("it is one of its flags");
        flags[at + 1] = value.into();
        Self { flags }
    }

    /// What starts a node.
    pub(crate) fn command(&self, folder: &Folder, more: &[&str]) -> Command {
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
        server_command(folder, &flags)
    }

    pub(crate) fn node(&self, folder: Arc<Folder>, more: &[&str]) -> TestServer {
        let command = self.command(&folder, more);
        TestServer::launch_command(folder, command)
    }

    /// One more that leads, or stands by and has found the leader.
    pub(crate) fn joined(&self, more: &[&str]) -> TestServer {
        let folder = Folder::new();
        let command = self.command(&folder, more);
        Self::joined_by(folder, command)
    }

    /// The same, by a command that was given more than flags.
    pub(crate) fn joined_by(folder: Arc<Folder>, command: Command) -> TestServer {
        let node = TestServer::launch_command(folder, command);
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

/// Whether it leads.
pub(crate) fn leads(node: &TestServer) -> bool {
    node.get("/ready").is_some_and(|ready| ready.json()["role"] == "leading")
}

/// Waits until a node that stands by has read the store itself: until then it hands reads on, and is ready all the same.
pub(crate) fn wait_until_read_by(node: &TestServer) {
    wait::until("it has read the store", || header(&node.get("/ping")?, "x-chronos-age-ms").map(drop));
}

/// A header of an answer.
pub(crate) fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}
