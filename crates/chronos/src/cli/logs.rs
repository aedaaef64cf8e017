//! `chronos logs`: the raw bytes that a run wrote, also while it writes them.

use clap::Args;

use super::failure::Failure;
use super::queries::{Latest, run_of};
use super::{ClientArgs, out};

pub(super) const HELP: &str = "\
Examples:
  chronos logs nightly
  chronos logs -f nightly
  chronos logs 1-i5 --stderr";

#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    /// Name of a job, or key of a run
    #[arg(value_name = "JOB|RUN")]
    target: String,
    /// Go on until the run has ended
    #[arg(short, long)]
    follow: bool,
    /// What the run wrote to stderr, instead of stdout
    #[arg(long)]
    stderr: bool,
    /// Of this attempt, counted from 0, instead of the latest
    #[arg(long, value_name = "NUMBER")]
    attempt: Option<u32>,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) async fn run(args: &LogsArgs) -> Result<(), Failure> {
    let client = &super::client(&args.client)?;
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
