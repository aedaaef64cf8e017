//! The store in memory keeps the promises of all stores.

use std::sync::Arc;

use store::Store;
use store::conformance::Backing;
use store::memory::{MemoryCore, MemoryStore};

struct Memory(MemoryStore);

#[async_trait::async_trait]
impl Backing for Memory {
    async fn node(&self) -> Arc<dyn Store> {
        Arc::new(self.0.another())
    }

    async fn usurp(&self) {
        self.0.expire();
    }

    fn courses(&self) -> u64 {
        100
    }
}

async fn make() -> Memory {
    Memory(MemoryStore::new(MemoryCore::new(0xabcde)))
}

store::conformance_tests!(make);
