//! `chronos logs`: the raw bytes that a run wrote, also while it writes them.

use super::client::Client;
use super::failure::Failure;
use super::queries::{Latest, run_of};
use super::{LogsArgs, out};

pub(crate) async fn run(client: &Client, args: &LogsArgs) -> Result<(), Failure> {
    let latest = if args.follow { Latest::BegunOrLive } else { Latest::Begun };
    let key = run_of(client, &args.target, latest).await?;
    let stream = if args.stderr { "stderr" } else { "stdout" };
    let mut query = vec![("stream", stream.to_owned()), ("follow", args.follow.to_string())];
    query.extend(args.attempt.map(|attempt| ("attempt", attempt.to_string())));
    let mut output = client.bytes(&["v1", "runs", &key, "output"], &query).await?;
    let dropped =
        output.headers().get("x-chronos-output-dropped").and_then(|count| count.to_str().ok()?.parse().ok());
    while let Some(piece) = client.piece(&mut output).await? {
        out(&piece)?;
    }
    if let Some(bytes) = dropped.filter(|bytes: &u64| *bytes > 0) {
        super::warn(&format!(
            "the run wrote more than is kept: {bytes} bytes between head and tail are gone"
        ));
    }
    Ok(())
}
