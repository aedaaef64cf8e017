//! What the conformance suite is run on. Included by the tests that run it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use store::Store;
use store::conformance::Backing;
use store::postgres::PostgresOptions;

/// A schema of its own in a database that all share.
pub(crate) struct Schema {
    options: PostgresOptions,
}

impl Schema {
    pub(crate) fn new(url: &str) -> Self {
        static SCHEMAS: AtomicU32 = AtomicU32::new(0);
        let schema = format!("conformance_{}", SCHEMAS.fetch_add(1, Ordering::Relaxed));
        // What ends a term is to be the suite's doing: a busy machine keeps nobody from its lease for so long.
        let lease = std::time::Duration::from_secs(30);
        Self { options: PostgresOptions { schema, lease, ..PostgresOptions::new(url) } }
    }

    async fn admin(&self) -> tokio_postgres::Client {
        let connected = tokio_postgres::connect(&self.options.url, tokio_postgres::NoTls).await;
        let (client, connection) = connected.expect("it is up");
        tokio::spawn(connection);
        client
    }
}

#[async_trait::async_trait]
impl Backing for Schema {
    async fn node(&self) -> Arc<dyn Store> {
        Arc::new(store::postgres::open(&self.options).expect("good options"))
    }

    async fn usurp(&self) {
        let client = self.admin().await;
        let sql = format!("UPDATE {}.term SET lease_until = '-infinity'", self.options.schema);
        assert_eq!(client.execute_typed(&sql, &[]).await.expect("there is a store"), 1);
    }

    async fn meant(&self, id: &str) -> Option<Arc<dyn Store>> {
        let options = PostgresOptions { expected: Some(id.into()), ..self.options.clone() };
        Some(Arc::new(store::postgres::open(&options).expect("good options")))
    }

    async fn is_empty(&self) -> bool {
        let sql = format!("SELECT 1 FROM pg_namespace WHERE nspname = '{}'", self.options.schema);
        self.admin().await.query_typed(&sql, &[]).await.expect("it can be asked").is_empty()
    }
}
