//! SQLite keeps the promises of all stores.
#![cfg(feature = "sqlite")]

use std::path::Path;
use std::sync::Arc;

use store::Store;
use store::conformance::Backing;
use store::sqlite::{SqliteOptions, SqliteStore};

struct Folder(tempfile::TempDir);

fn open(dir: &Path) -> SqliteStore {
    SqliteStore::open(&SqliteOptions { dir: dir.into(), force_network_fs: false }).expect("a local folder")
}

#[async_trait::async_trait]
impl Backing for Folder {
    async fn node(&self) -> Arc<dyn Store> {
        Arc::new(open(self.0.path()))
    }

    async fn usurp(&self) {
        std::fs::remove_file(self.0.path().join("leader.lock")).expect("somebody leads");
    }

    fn courses(&self) -> u64 {
        40
    }
}

async fn make() -> Folder {
    Folder(tempfile::tempdir().expect("a temporary folder"))
}

store::conformance_tests!(make);
