//! `chronos notify`: whether people can be told of things, and what they have been told.

use reqwest::Method;
use serde_json::{Value, json};

use super::client::Client;
use super::failure::{Exit, Failure, printable};
use super::queries::{pages, text, time};
use super::table::Table;
use super::{Format, NoticesArgs, NotifyTestArgs, RetryArgs};

/// Sends a message, and shows each step of the conversation.
pub(crate) async fn test(client: &Client, args: &NotifyTestArgs) -> Result<(), Failure> {
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

pub(crate) async fn list(client: &Client, args: &NoticesArgs) -> Result<(), Failure> {
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

pub(crate) async fn retry(client: &Client, args: &RetryArgs) -> Result<(), Failure> {
    let id = args.id.to_string();
    let answer = client.change(Method::POST, &["v1", "notices", &id, "retry"], &[], Some(&json!({}))).await?;
    match args.client.output {
        Format::Table => super::out(format!("sending notice {id} again\n").as_bytes())?,
        Format::Json => super::out_json(&answer.body)?,
    }
    Ok(())
}
