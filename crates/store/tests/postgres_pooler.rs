//! PostgreSQL keeps the promises of all stores also behind a pooler that gives every transaction another connection.
#![cfg(feature = "postgres")]

use std::sync::{Mutex, OnceLock, PoisonError};

#[path = "../testing/postgresd.rs"]
mod postgresd;
#[path = "../testing/schema.rs"]
mod schema;

use postgresd::Postgresd;
use schema::Schema;

async fn make() -> Option<Schema> {
    static SHARED: OnceLock<Mutex<Result<(Postgresd, String), String>>> = OnceLock::new();
    let shared = SHARED.get_or_init(|| {
        Mutex::new(Postgresd::start().and_then(|mut server| {
            let answer = server.order("pooler")?;
            Ok((server, answer.strip_prefix("listening ").expect("it says where").into()))
        }))
    });
    let shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
    match &*shared {
        Ok((_, url)) => Some(Schema::new(url)),
        Err(reason) => {
            postgresd::skip("store-postgres-pooler", reason);
            None
        }
    }
}

store::conformance_tests!(try make);
