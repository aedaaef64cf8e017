//! `chronos notify`: whether people can be told of things, and what they have been told.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::failure::{Exit, Failure, printable};
use super::queries::{pages, text, time};
use super::table::Table;
use super::{ClientArgs, Format, at_least_one};

pub(super) const HELP: &str = "\
Examples:
  chronos notify test --to me@example.org
  chronos notify list --state givenUp
  chronos notify retry 17";

/// What there is to do about notices.
#[derive(Debug, Subcommand)]
pub(super) enum Notify {
    /// Send a test message at once, and show how each step went
    #[command(after_help = TEST_HELP)]
    Test(NotifyTestArgs),
    /// List notices and whether they arrived, the newest first
    #[command(after_help = super::examples::NOTIFY_LIST_HELP)]
    List(NoticesArgs),
    /// Send a notice again that has not arrived
    #[command(after_help = super::examples::NOTIFY_RETRY_HELP)]
    Retry(RetryArgs),
}

pub(super) const TEST_HELP: &str = "\
Examples:
  chronos notify test --to me@example.org
  chronos notify test --channel webhook";

#[derive(Debug, Args)]
pub(super) struct NotifyTestArgs {
    /// Whom a mail goes to
    #[arg(long, value_name = "ADDRESS")]
    to: Option<String>,
    /// `mail`, `webhook`, `slack`, `mattermost` or `sentry`; the first of them that the server has, if not given
    #[arg(long, value_name = "CHANNEL")]
    channel: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
pub(super) struct NoticesArgs {
    /// Only in this state: waiting, sending, delivered, givenUp; may be repeated
    #[arg(long, value_name = "STATE")]
    state: Vec<String>,
    /// Only by `mail`, `webhook`, `slack`, `mattermost` or `sentry`
    #[arg(long, value_name = "CHANNEL")]
    channel: Option<String>,
    /// Only to this address
    #[arg(long, value_name = "ADDRESS")]
    to: Option<String>,
    /// Only those that tell of this job
    #[arg(long, value_name = "JOB")]
    job: Option<String>,
    /// By id, state, attempts or settled; `-id`, the newest first, if not given
    #[arg(long, value_name = "FIELD", allow_hyphen_values = true)]
    sort: Option<String>,
    /// At most so many
    #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 50, value_parser = at_least_one)]
    limit: usize,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
pub(super) struct RetryArgs {
    /// Number of the notice
    id: u64,
    #[command(flatten)]
    client: ClientArgs,
}

/// Sends a message, and shows each step of the conversation.
pub(super) async fn test(args: &NotifyTestArgs) -> Result<(), Failure> {
    let client = &super::client(&args.client)?;
    let mut body = json!({});
    if let Some(channel) = &args.channel {
        body["channel"] = channel.as_str().into();
    }
    if let Some(to) = &args.to {
        body["to"] = to.as_str().into();
    }
    let answer = client.change(Method::POST, &["v1", "notify", "test"], &[], Some(&body)).await?.body;
    let delivered = answer["delivered"] == true;
    if args.client.output == Format::Json {
        super::out_json(&answer)?;
    } else {
        for step in answer["steps"].as_array().into_iter().flatten() {
            let mark = if step["ok"] == true { "ok    " } else { "FAILED" };
            let line = format!("{mark}  {:<12}  {}", text(&step["step"]), text(&step["detail"]));
            super::out(format!("{}\n", printable(line.trim_end())).as_bytes())?;
        }
    }
    if delivered {
        return Ok(());
    }
    let failure = Failure::new(Exit::Failed, anyhow::anyhow!("the test message was not delivered"));
    let hint = text(&answer["hint"]);
    Err(if hint.is_empty() { failure } else { failure.hint(hint) })
}

pub(super) async fn list(args: &NoticesArgs) -> Result<(), Failure> {
    let client = &super::client(&args.client)?;
    let one = [("channel", &args.channel), ("to", &args.to), ("job", &args.job), ("sort", &args.sort)];
    let one = one.into_iter().filter_map(|(name, value)| Some((name, value.clone()?)));
    let mut query: Vec<_> = one.collect();
    if !args.state.is_empty() {
        query.push(("state", args.state.join(",")));
    }
    let notices = pages(client, &["v1", "notices"], query, "notices", args.limit).await?;
    if args.client.output == Format::Json {
        return Ok(super::out_json(&Value::Array(notices))?);
    }
    let mut table = Table::new(&["id", "state", "channel", "to", "created", "next", "attempts", "about"]);
    for notice in &notices {
        table.row([
            text(&notice["id"]),
            text(&notice["state"]),
            text(&notice["channel"]),
            text(&notice["to"]),
            time(&notice["created"]),
            time(&notice["next"]),
            text(&notice["attempts"]),
            about(notice),
        ]);
    }
    Ok(table.print()?)
}

/// What went wrong, and what it is about.
fn about(notice: &Value) -> String {
    let counts = notice["counts"].as_object().into_iter().flatten();
    let counts = counts.map(|(kind, count)| format!("{count} {kind}")).collect::<Vec<_>>().join(", ");
    let mut jobs: Vec<String> =
        notice["alerts"].as_array().into_iter().flatten().map(|alert| text(&alert["job"])).collect();
    jobs.dedup();
    let about = format!("{counts}: {}", jobs.join(", "));
    match text(&notice["error"]) {
        error if error.is_empty() => about,
        error => format!("{about} ({error})"),
    }
}

pub(super) async fn retry(args: &RetryArgs) -> Result<(), Failure> {
    let client = &super::client(&args.client)?;
    let id = args.id.to_string();
    let answer = client.change(Method::POST, &["v1", "notices", &id, "retry"], &[], Some(&json!({}))).await?;
    match args.client.output {
        Format::Table => super::out(format!("sending notice {id} again\n").as_bytes())?,
        Format::Json => super::out_json(&answer.body)?,
    }
    Ok(())
}
