//! `chronos nodes`, `chronos node forget`: who is in the cluster.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::Value;

use super::client::Client;
use super::failure::{Failure, printable};
use super::queries::text;
use super::table::Table;
use super::{ClientArgs, Format};

pub(super) const HELP: &str = "\
`behind` counts the changes that a node has not seen yet, `age` says how old what it shows may be, `clock`
how far its clock is ahead of the store's; what nobody has told is empty. A node that has said nothing
for 10 s is `silent`: it may be off, or cut off from the store; `chronos doctor` asks it.

Examples:
  chronos nodes
  chronos nodes --output json | jq -r '.nodes[] | select(.leaderLost) | .node'";

pub(super) const FORGET_HELP: &str = "\
For a machine that will not come back: its tasks count as ended from then on, and are run again where
their jobs allow it. Be sure that it is off: what still runs there runs twice. A node that has said
something lately is not forgotten, nor is one that still answers at one of its addresses.

Examples:
  chronos node forget 3f9a2c0d11b7e845";

/// What there is to do about one node.
#[derive(Debug, Subcommand)]
pub(super) enum Node {
    /// Forget a node that will not come back
    #[command(after_help = FORGET_HELP)]
    Forget(ForgetArgs),
}

#[derive(Debug, Args)]
pub(super) struct ForgetArgs {
    /// Its id, as `chronos nodes` shows it
    node: String,
    /// Also if it still answers: what runs there runs twice, unless you end it there
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) async fn list(args: &ClientArgs) -> Result<(), Failure> {
    let answer = Client::of(&args.at)?.get(&["v1", "nodes"], &[]).await?;
    if args.output == Format::Json {
        return Ok(super::out_json(&answer)?);
    }
    let mut table =
        Table::new(&["node", "role", "address", "version", "term", "behind", "age", "clock", "says"]);
    for node in answer["nodes"].as_array().into_iter().flatten() {
        table.row([
            text(&node["node"]),
            role(node),
            text(&node["addresses"][0]),
            text(&node["version"]),
            text(&node["epoch"]),
            text(&node["behind"]),
            seconds(&node["ageMs"]),
            seconds(&node["clockAheadMs"]),
            says(node),
        ]);
    }
    table.print()?;
    match answer["omitted"].as_str() {
        Some(omitted) => Ok(super::out(format!("{}\n", printable(omitted)).as_bytes())?),
        None => Ok(()),
    }
}

pub(super) async fn forget(args: &ForgetArgs) -> Result<(), Failure> {
    let client = Client::of(&args.client.at)?;
    let query: &[_] = if args.force { &[("force", "true".to_owned())] } else { &[] };
    client.change(Method::DELETE, &["v1", "nodes", &args.node], query, None).await?;
    if args.client.output == Format::Json {
        return Ok(super::out_json(&serde_json::json!({ "forgotten": args.node }))?);
    }
    Ok(super::out(format!("forgot node {}\n", args.node).as_bytes())?)
}

fn role(node: &Value) -> String {
    match (&node["heard"], node["saidMs"].as_u64()) {
        (Value::Bool(false), Some(ms)) => format!("silent for {} s", ms / 1000),
        _ => text(&node["role"]),
    }
}

fn seconds(value: &Value) -> String {
    value.as_f64().map_or_else(String::new, |ms| format!("{:.1} s", ms / 1000.0))
}

/// What someone should know of it, in one line.
fn says(node: &Value) -> String {
    let lost = node["leaderLost"].as_str().map(|why| format!("cannot reach the leader: {why}"));
    let troubles =
        node["troubles"].as_array().into_iter().flatten().filter_map(Value::as_str).map(Into::into);
    lost.into_iter().chain(troubles).collect::<Vec<String>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_is_told_of_in_one_line() {
        let node = json!({
            "role": "standby", "heard": true, "saidMs": 900, "ageMs": 1200, "clockAheadMs": -300,
            "leaderLost": "10.0.0.1:4400: no answer", "troubles": ["the store is slow"],
        });
        assert_eq!((role(&node), seconds(&node["ageMs"])), ("standby".into(), "1.2 s".into()));
        assert_eq!(seconds(&node["clockAheadMs"]), "-0.3 s");
        assert_eq!(says(&node), "cannot reach the leader: 10.0.0.1:4400: no answer; the store is slow");
        let silent = json!({ "role": "leading", "heard": false, "saidMs": 61_000 });
        assert_eq!((role(&silent), says(&silent)), ("silent for 61 s".into(), String::new()));
        assert_eq!(seconds(&silent["ageMs"]), "");
    }
}
