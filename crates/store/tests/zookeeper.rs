//! ZooKeeper keeps the promises of all stores, on a real ensemble of three.
#![cfg(feature = "zookeeper")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use store::Store;
use store::conformance::Backing;
use store::zookeeper::{Options, open};
use zookeeper_client::Client;

#[path = "../testing/ensemble.rs"]
mod ensemble;

/// A path of its own in the ensemble that all share.
struct Path(Options);

impl Path {
    /// `None`, and said so, where no ZooKeeper can run.
    fn new() -> Option<Self> {
        static PATHS: AtomicU64 = AtomicU64::new(0);
        match ensemble::shared() {
            Ok(hosts) => {
                let path = format!("/test-{}/state", PATHS.fetch_add(1, Ordering::Relaxed));
                let session_timeout = Duration::from_secs(30);
                let (history_per_job, audit_max) = (u64::MAX, u64::MAX);
                let options =
                    Options { path, session_timeout, history_per_job, audit_max, ..Options::new(hosts) };
                Some(Self(options))
            }
            Err(reason) => {
                ensemble::skip("zookeeper", &reason);
                None
            }
        }
    }
}

#[async_trait::async_trait]
impl Backing for Path {
    async fn node(&self) -> Arc<dyn Store> {
        Arc::new(open(self.0.clone()).expect("they can be meant"))
    }

    async fn usurp(&self) {
        let client = Client::connect(&self.0.hosts).await.expect("it runs");
        let dir = format!("{}/candidate", self.0.path);
        let mut members = client.list_children(&dir).await.expect("somebody was there");
        members.sort_by_key(|name| name.rsplit('-').next().map(str::to_owned));
        client.delete(&format!("{dir}/{}", members[0]), None).await.expect("somebody leads");
    }

    async fn meant(&self, id: &str) -> Option<Arc<dyn Store>> {
        let options = Options { expected: Some(id.into()), ..self.0.clone() };
        Some(Arc::new(open(options).expect("they can be meant")))
    }

    async fn is_empty(&self) -> bool {
        let client = Client::connect(&self.0.hosts).await.expect("it runs");
        let root = self.0.path.trim_end_matches("/state");
        client.sync(root).await.expect("it answers");
        client.check_stat(root).await.expect("it answers").is_none()
    }
}

async fn make() -> Option<Path> {
    Path::new()
}

store::conformance_tests!(try make);
