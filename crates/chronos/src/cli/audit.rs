//! `chronos audit`: who did what.

use clap::Args;
use serde_json::{Map, Value};

use super::backfill::instant;
use super::client::{Client, job_name};
use super::failure::Failure;
use super::queries::{pages, text, time};
use super::table::Table;
use super::{ClientArgs, Format, at_least_one};

pub(super) const HELP: &str = "\
What users changed, and what the scheduler changed in definitions by itself, is listed with who,
from where, and in which fields. Values of environment variables and passwords in URLs are not told.
How a run that is recorded as lost had ended in truth is here too (heardLate), once that is heard.

Examples:
  chronos audit -n 20
  chronos audit nightly --from 2030-01-01T00:00:00Z
  chronos audit --by ops --act deleted,killed
  chronos audit --output json | jq '.[] | select(.act == \"replaced\") | .after'";

#[derive(Debug, Args)]
pub(super) struct AuditArgs {
    /// Only what was done to this job
    job: Option<String>,
    /// Only by this user
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// Only what was done so, such as created, replaced, deleted, triggered, killed or paused; may be repeated
    #[arg(long, value_name = "ACT", value_delimiter = ',')]
    act: Vec<String>,
    /// Only at or after this
    #[arg(long, value_name = "TIME", value_parser = instant)]
    from: Option<jiff::Timestamp>,
    /// Only before this
    #[arg(long, value_name = "TIME", value_parser = instant)]
    to: Option<jiff::Timestamp>,
    /// `-time`, the newest first, or `time`
    #[arg(long, value_name = "FIELD", allow_hyphen_values = true)]
    sort: Option<String>,
    /// At most so many
    #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 100, value_parser = at_least_one)]
    limit: usize,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) async fn run(args: &AuditArgs) -> Result<(), Failure> {
    let client = Client::of(&args.client.at)?;
    let mut query = Vec::new();
    if let Some(job) = &args.job {
        query.push(("job", job_name(job)?.to_owned()));
    }
    query.extend(args.by.iter().map(|by| ("by", by.clone())));
    if !args.act.is_empty() {
        query.push(("act", args.act.join(",")));
    }
    query.extend(args.from.map(|from| ("from", from.to_string())));
    query.extend(args.to.map(|to| ("to", to.to_string())));
    query.extend(args.sort.iter().map(|sort| ("sort", sort.clone())));
    let entries = pages(&client, &["v1", "audit"], query, "entries", args.limit).await?;
    if args.client.output == Format::Json {
        return Ok(super::out_json(&Value::Array(entries))?);
    }
    let mut table = Table::new(&["at", "by", "address", "act", "job", "what"]);
    for entry in &entries {
        table.row([
            time(&entry["at"]),
            text(&entry["by"]),
            text(&entry["address"]),
            text(&entry["act"]),
            text(&entry["job"]),
            what(entry),
        ]);
    }
    Ok(table.print()?)
}

/// What was changed, in a few words.
fn what(entry: &Value) -> String {
    let (before, after) = (&entry["before"], &entry["after"]);
    let version = |side: &Value| side["version"].as_u64();
    match (version(before), version(after)) {
        (Some(from), Some(to)) => {
            let fields = |side: &Value| side["definition"].as_object().cloned().unwrap_or_default();
            format!("version {from} to {to}: {}", changes(&fields(before), &fields(after)))
        }
        (None, Some(to)) => format!("version {to}"),
        (Some(from), None) => format!("it was at version {from}"),
        (None, None) => plain(after).or_else(|| plain(before)).unwrap_or_default(),
    }
}

/// Each field with both its values.
fn changes(before: &Map<String, Value>, after: &Map<String, Value>) -> String {
    let gone = before.keys().filter(|field| !after.contains_key(*field));
    let shown =
        |side: &Map<String, Value>, field: &String| side.get(field).map_or("nothing".to_owned(), short);
    let each = after
        .keys()
        .chain(gone)
        .map(|field| format!("{field} {} to {}", shown(before, field), shown(after, field)));
    each.collect::<Vec<_>>().join(", ")
}

/// The facts of a state, one after the other.
fn plain(side: &Value) -> Option<String> {
    let facts = side.as_object()?.iter().filter(|(_, value)| !value.is_null() && *value != "");
    let facts = facts.map(|(name, value)| format!("{name} {}", short(value)));
    Some(facts.collect::<Vec<_>>().join(", "))
}

/// Enough of a value to know it again.
fn short(value: &Value) -> String {
    const MAX: usize = 40;
    let whole = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if whole.chars().count() <= MAX {
        return whole;
    }
    whole.chars().take(MAX - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_changed_is_said_in_a_few_words() {
        let check = |entry: Value, says: &str| assert_eq!(what(&entry), says);
        check(json!({"after": {"version": 1}}), "version 1");
        check(
            json!({
                "before": {"version": 1, "definition": {"command": "a", "owner": "o"}},
                "after": {"version": 2, "definition": {"command": "b"}},
            }),
            "version 1 to 2: command a to b, owner o to nothing",
        );
        check(json!({"before": {"version": 4, "definition": {}}}), "it was at version 4");
        check(json!({"after": {"run": "1-m1", "runs": 1}}), "run 1-m1, runs 1");
        check(json!({"before": {"since": "x", "reason": "", "until": null}}), "since x");
        check(json!({"before": {"node": "3f9a", "runs": 2}}), "node 3f9a, runs 2");
        check(json!({}), "");
    }
}
