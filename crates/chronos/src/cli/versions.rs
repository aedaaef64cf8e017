//! What a job was: its versions, and the way back to one.

use std::io::IsTerminal;

use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Client, job_name};
use super::failure::{Failure, printable};
use super::queries::{pages, text, time};
use super::table::Table;
use super::{Format, HistoryArgs, RollbackArgs};

pub(crate) async fn history(client: &Client, args: &HistoryArgs) -> Result<(), Failure> {
    let path = ["v1", "jobs", job_name(&args.job)?, "versions"];
    let mut query = Vec::new();
    if !args.how.is_empty() {
        query.push(("how", args.how.join(",")));
    }
    query.extend(args.by.iter().map(|by| ("by", by.clone())));
    query.extend(args.sort.iter().map(|sort| ("sort", sort.clone())));
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
    Ok(table.print()?)
}

pub(crate) async fn rollback(client: &Client, args: &RollbackArgs) -> Result<(), Failure> {
    let job = job_name(&args.job)?;
    let version = args.version.to_string();
    // From what is there to what was: the other way round than the path reads.
    let newest = client.get(&["v1", "jobs", job, "versions"], &[("limit", "1".into())]).await?;
    let present = text(&newest["versions"][0]["version"]);
    let with = [("with", version.clone())];
    let diff = client.get(&["v1", "jobs", job, "versions", &present, "diff"], &with).await?;
    if args.dry_run {
        return match args.client.output {
            Format::Json => Ok(super::out_json(&diff)?),
            Format::Table => Ok(super::out(
                format!(
                    "job `{job}` would go from version {present} to what version {version} was\n{}",
                    lines(&diff["changes"])
                )
                .as_bytes(),
            )?),
        };
    }
    let body = json!({ "version": args.version });
    let answer = client.change(Method::POST, &["v1", "jobs", job, "rollback"], &[], Some(&body)).await?;
    if args.client.output == Format::Json {
        return Ok(super::out_json(&answer.body)?);
    }
    let told = match answer.body["result"].as_str() {
        Some("unchanged") => format!("job `{job}` is as version {version} was already\n"),
        _ => {
            let now = text(&answer.body["version"]);
            format!(
                "rolled back job `{job}` to version {version}, as version {now}\n{}",
                lines(&diff["changes"])
            )
        }
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
