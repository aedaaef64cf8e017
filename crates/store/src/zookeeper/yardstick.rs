//! What an ensemble does with nothing of ours in between.

use std::time::{Duration, Instant};

use futures_util::stream::{FuturesOrdered, StreamExt};
use zookeeper_client::{Acls, CreateMode, Error};

use super::Options;
use super::session::Sessions;
use crate::StoreError;

/// Bytes of one record: about those of a job's progress, or of a run.
const RECORD: usize = 300;
/// Records in one multi, which is about 512 KiB then.
const RECORDS: usize = 1500;
/// Multis on their way, as our own writer has them.
const FLIGHTS: usize = 2;

/// How many records an ensemble sets in a second, in multis of 512 KiB, asked for `time`. Leaves nothing behind.
/// # Errors
/// [`StoreError::Unavailable`].
pub async fn multi_rate(hosts: &str, time: Duration) -> Result<f64, StoreError> {
    let sessions = Sessions::new(Options::new(hosts));
    let client = sessions.leading().await?;
    let base = format!("/chronos-yardstick-{}", std::process::id());
    let work = async {
        let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
        client.create(&base, &[], &options).await?;
        let paths: Vec<String> = (0..RECORDS).map(|n| format!("{base}/{n:06}")).collect();
        let data = [b'x'; RECORD];
        let mut multi = client.new_multi_writer();
        for path in &paths {
            multi.add_create(path, &data, &options)?;
        }
        multi.commit().await?;
        let set = || {
            let mut multi = client.new_multi_writer();
            paths.iter().try_for_each(|path| multi.add_set_data(path, &data, None))?;
            Ok::<_, Error>(multi.commit())
        };
        let mut flying = FuturesOrdered::new();
        let begun = Instant::now();
        let mut count = 0;
        while begun.elapsed() < time {
            while flying.len() < FLIGHTS {
                flying.push_back(set()?);
            }
            if let Some(done) = flying.next().await {
                done?;
                count += RECORDS;
            }
        }
        let rate = count as f64 / begun.elapsed().as_secs_f64();
        while let Some(done) = flying.next().await {
            done?;
        }
        let mut multi = client.new_multi_writer();
        paths.iter().try_for_each(|path| multi.add_delete(path, None))?;
        multi.add_delete(&base, None)?;
        multi.commit().await?;
        Ok(rate)
    };
    work.await.map_err(|error: Error| sessions.meaning(&error))
}
