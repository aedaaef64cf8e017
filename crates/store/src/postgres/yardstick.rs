//! What a database does with nothing of ours in between.

use std::time::{Duration, Instant};

use super::connect::{Limits, Place};
use super::{LEASE, PostgresOptions};
use crate::StoreError;

/// How many commits of one row of 200 bytes a database makes durable in a second, one after the other over one
/// connection, asked for `time`. Leaves nothing behind.
/// # Errors
/// [`StoreError::Unavailable`].
pub async fn commit_rate(url: &str, time: Duration) -> Result<f64, StoreError> {
    let place = Place::new(url, PostgresOptions::SCHEMA, LEASE)
        .map_err(|error| StoreError::Unavailable(error.to_string()))?;
    let connection = place.connect(Limits::None).await?;
    let meaning = |error: tokio_postgres::Error| place.meaning(&error);
    let table = format!("chronos_yardstick_{}", std::process::id());
    let make = format!("CREATE TABLE {table} (id bigserial PRIMARY KEY, value text NOT NULL)");
    connection.client.batch_execute(&make).await.map_err(meaning)?;
    let insert = format!("INSERT INTO {table} (value) VALUES (repeat('x', 200))");
    let begun = Instant::now();
    let mut count = 0_u32;
    while begun.elapsed() < time {
        connection.client.execute_typed(&insert, &[]).await.map_err(meaning)?;
        count += 1;
    }
    let rate = f64::from(count) / begun.elapsed().as_secs_f64();
    connection.client.batch_execute(&format!("DROP TABLE {table}")).await.map_err(meaning)?;
    Ok(rate)
}
