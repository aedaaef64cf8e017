//! What a job was: its versions, and the way back to one.

use std::io::IsTerminal;

use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Client, job_name};
use super::failure::{Failure, printable};
use super::queries::{pages, text, time};
use super::table::Table;
use super::{ClientArgs, Format, at_least_one};

#[derive(Debug, Args)]
pub(super) struct HistoryArgs {
    /// Name of the job, a deleted one too
    job: String,
    /// Instead of the list: in what this version differs from another one
    #[arg(value_name = "VERSION", conflicts_with_all = ["how", "by", "sort", "limit"])]
    one: Option<u32>,
    /// The other one; the newest if left out
    #[arg(value_name = "OTHER")]
    other: Option<u32>,
    /// Of an earlier creation of the job, which was deleted; the list of a restored job names them
    #[arg(long, value_name = "UID")]
    uid: Option<String>,
    /// Only versions that came about so: created, replaced, patched, applied, rolledBack, restored, deleted, inherited,
    /// disabled; may be repeated
    #[arg(long, value_name = "HOW")]
    how: Vec<String>,
    /// Only versions by this user
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// `-version`, the newest first, or `version`
    #[arg(long, value_name = "FIELD", allow_hyphen_values = true)]
    sort: Option<String>,
    /// At most so many
    #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 50, value_parser = at_least_one)]
    limit: usize,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) const HISTORY_HELP: &str = "\
Examples:
  chronos history nightly
  chronos history nightly 3
  chronos history nightly 3 5
  chronos show nightly --version 3";

pub(super) const ROLLBACK_HELP: &str = "\
Examples:
  chronos history nightly
  chronos rollback nightly 3 --dry-run
  chronos rollback nightly 3";

#[derive(Debug, Args)]
pub(super) struct RollbackArgs {
    /// Name of the job
    job: String,
    /// The version to bring back, as `chronos history` lists it
    version: u32,
    /// Of an earlier creation of the job, as `chronos history` names it
    #[arg(long, value_name = "UID")]
    uid: Option<String>,
    /// Only tell what would change
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) async fn history(args: &HistoryArgs) -> Result<(), Failure> {
    let client = &super::client(&args.client)?;
    if let Some(one) = args.one {
        return compare(args, client, one).await;
    }
    let path = ["v1", "jobs", job_name(&args.job)?, "versions"];
    let mut query = Vec::new();
    if !args.how.is_empty() {
        query.push(("how", args.how.join(",")));
    }
    query.extend(args.by.iter().map(|by| ("by", by.clone())));
    query.extend(args.sort.iter().map(|sort| ("sort", sort.clone())));
    query.extend(args.uid.iter().map(|uid| ("uid", uid.clone())));
    let versions = pages(client, &path, query, "versions", args.limit).await?;
    if args.client.output == Format::Json {
        return Ok(super::out_json(&Value::Array(versions))?);
    }
    let mut table = Table::new(&["version", "when", "how", "by", "changed"]);
    for version in &versions {
        let how = match version["of"].as_u64() {
            Some(of) => format!("rolled back to {of}"),
            None => text(&version["how"]),
        };
        let changed: Vec<_> = version["changed"].as_array().into_iter().flatten().map(text).collect();
        let number = text(&version["version"]);
        table.row([number, time(&version["at"]), how, text(&version["by"]), changed.join(", ")]);
    }
    table.print()?;
    if args.uid.is_none() && versions.iter().any(|version| version["how"] == "restored") {
        tell_former(client, &path).await?;
    }
    Ok(())
}

/// Where the versions are that a job had before it was deleted and restored.
async fn tell_former(client: &Client, path: &[&str]) -> Result<(), Failure> {
    let page = client.get(path, &[("limit", "1".into())]).await?;
    for former in page["former"].as_array().into_iter().flatten() {
        let (uid, version, at) = (text(&former["uid"]), text(&former["version"]), time(&former["at"]));
        super::out(
            format!("before it was deleted, up to version {version} ({at}): --uid {uid}\n").as_bytes(),
        )?;
    }
    Ok(())
}

/// In what two versions differ, from the first to the second.
async fn compare(args: &HistoryArgs, client: &Client, one: u32) -> Result<(), Failure> {
    let job = job_name(&args.job)?;
    let mut query: Vec<_> = args.other.iter().map(|other| ("with", other.to_string())).collect();
    query.extend(args.uid.iter().map(|uid| ("uid", uid.clone())));
    let diff = client.get(&["v1", "jobs", job, "versions", &one.to_string(), "diff"], &query).await?;
    if args.client.output == Format::Json {
        return Ok(super::out_json(&diff)?);
    }
    let (from, to) = (text(&diff["from"]), text(&diff["to"]));
    let told = match diff["changes"].as_array() {
        Some(changes) if changes.is_empty() => {
            format!("versions {from} and {to} of job `{job}` say the same\n")
        }
        _ => format!("job `{job}` from version {from} to version {to}\n{}", lines(&diff["changes"])),
    };
    Ok(super::out(told.as_bytes())?)
}

pub(super) async fn rollback(args: &RollbackArgs) -> Result<(), Failure> {
    let client = &super::client(&args.client)?;
    let (job, version) = (job_name(&args.job)?, args.version);
    let path = ["v1", "jobs", job, "rollback"];
    // What the server would refuse is not foretold as if it were done.
    let mut body = json!({ "version": version });
    if let Some(uid) = &args.uid {
        body["uid"] = uid.as_str().into();
    }
    let mut trial = body.clone();
    trial["dryRun"] = true.into();
    let foretold = client.change(Method::POST, &path, &[], Some(&trial)).await?.body;
    let answer = if args.dry_run {
        foretold.clone()
    } else {
        client.change(Method::POST, &path, &[], Some(&body)).await?.body
    };
    if args.client.output == Format::Json {
        return Ok(super::out_json(&answer)?);
    }
    let now = answer["version"].as_u64().unwrap_or_default();
    let changes = lines(&foretold["changes"]);
    let told = match answer["result"].as_str() {
        Some("unchanged") => format!("job `{job}` is as version {version} was already\n"),
        _ if args.dry_run => {
            let present = now.saturating_sub(1);
            format!("job `{job}` would go from version {present} to what version {version} was\n{changes}")
        }
        _ => format!("rolled back job `{job}` to version {version}, as version {now}\n{changes}"),
    };
    Ok(super::out(told.as_bytes())?)
}

/// A difference, field by field; in colour where people read it.
pub(crate) fn lines(changes: &Value) -> String {
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let painted =
        |code: &str, line: String| if colour { format!("\x1b[{code}m{line}\x1b[0m\n") } else { line + "\n" };
    let mut told = String::new();
    for change in changes.as_array().into_iter().flatten() {
        let field = text(&change["field"]);
        for (side, sign, code) in [("from", "-", "31"), ("to", "+", "32")] {
            if let Some(value) = change.get(side) {
                told.push_str(&painted(code, printable(&format!("  {sign} {field}: {value}"))));
            }
        }
    }
    told
}
