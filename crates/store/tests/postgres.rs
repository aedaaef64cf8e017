//! PostgreSQL keeps the promises of all stores.
#![cfg(feature = "postgres")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use store::Store;
use store::conformance::Backing;
use store::postgres::PostgresOptions;

#[path = "../testing/postgresd.rs"]
mod postgresd;

/// A schema of its own in a database that all share.
struct Schema {
    options: PostgresOptions,
}

#[async_trait::async_trait]
impl Backing for Schema {
    async fn node(&self) -> Arc<dyn Store> {
        Arc::new(store::postgres::open(&self.options).expect("good options"))
    }

    async fn usurp(&self) {
        let (client, connection) =
            tokio_postgres::connect(&self.options.url, tokio_postgres::NoTls).await.expect("it is up");
        tokio::spawn(connection);
        let sql = format!("UPDATE {}.term SET lease_until = '-infinity'", self.options.schema);
        assert_eq!(client.execute(&sql, &[]).await.expect("there is a store"), 1);
    }
}

async fn make() -> Option<Schema> {
    static SCHEMAS: AtomicU32 = AtomicU32::new(0);
    let url = postgresd::shared_or_skip("store-postgres")?;
    let schema = format!("conformance_{}", SCHEMAS.fetch_add(1, Ordering::Relaxed));
    Some(Schema { options: PostgresOptions { schema, ..PostgresOptions::new(url) } })
}

store::conformance_tests!(try make);
