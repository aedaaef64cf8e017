//! PostgreSQL keeps the promises of all stores.
#![cfg(feature = "postgres")]

#[path = "../testing/postgresd.rs"]
mod postgresd;
#[path = "../testing/schema.rs"]
mod schema;

use schema::Schema;

async fn make() -> Option<Schema> {
    Some(Schema::new(&postgresd::shared_or_skip("store-postgres")?))
}

store::conformance_tests!(try make);
