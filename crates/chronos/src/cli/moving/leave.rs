//! `chronos export zookeeper`: the definitions of a server where an old Chronos goes on from them.

use std::collections::{BTreeMap, BTreeSet};

use clap::{Args, ValueEnum};
use serde_json::{Map, Value};
use store::zookeeper::old::{Old, Others, Standing};

use super::handover::{Handover, leaving};
use super::tree::TreeArgs;
use super::{definition, given};
use crate::cli::client::Client;
use crate::cli::failure::{Exit, Failure};

pub(in crate::cli) const HELP: &str = "\
The way back to an old Chronos: its jobs in ZooKeeper become those of this server, field by field as
it wrote them. Its framework id stays. Do it while no old Chronos leads there, as one that does has
its jobs in memory and writes over them. Jobs that the old Chronos cannot read are told and not
written; those that are paused here, or whose schedule is over, are written as disabled.

This server goes on launching until it is stopped, and the old one would launch those slots again:
give --advance a time, stop this server before it, and start the old one then.

Examples:
  chronos export zookeeper --zk_hosts zk1:2181,zk2:2181,zk3:2181 --advance=15m
  chronos export zookeeper --zk_hosts zk1:2181 --advance=15m --others delete --yes";

/// What becomes of jobs that are there and not on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Surplus {
    Keep,
    Delete,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct LeaveArgs {
    #[command(flatten)]
    tree: TreeArgs,
    /// `delete` or `keep`: what becomes of jobs that are there and not written; without it nothing is written where there
    /// are some
    #[arg(long, value_name = "WHAT", hide_possible_values = true)]
    others: Option<Surplus>,
    /// Let schedules begin with their first slot after WHEN, as in `10m` or 2030-01-01T08:00:00Z, by when this server is to
    /// be stopped; without WHEN, after now. The old Chronos runs a start that has passed at once
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_missing_value = Handover::NOW)]
    advance: Option<Handover>,
    /// Write although an old Chronos leads there, or another server than the one that is asked
    #[arg(long = "beside_leader")]
    beside_leader: bool,
    /// Write; without it, it is only told what would be
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    at: crate::cli::ServerAt,
}

pub(in crate::cli) async fn run(args: &LeaveArgs) -> Result<(), Failure> {
    let client = Client::of(&args.at)?;
    let jobs = leaving(&client, Vec::new(), usize::MAX).await?;
    let jobs = given::for_the_old(jobs, args.advance, definition::give)?;
    let all = jobs.len();
    let (jobs, refused) = readable(jobs);
    let before = args.tree.read().await?;
    let mark = before.mark;
    let others = others(before, &jobs);
    nobody_else_leads(args, &client).await?;
    let surplus = match (args.others, others.is_empty()) {
        (Some(Surplus::Delete), _) => Others::Deleted,
        (Some(Surplus::Keep), _) | (None, true) => Others::Kept,
        (None, false) => {
            let message = format!(
                "below `{}` are jobs that would not be written: {}",
                args.tree.place(),
                shown(&others)
            );
            return Err(Failure::new(Exit::Refused, anyhow::anyhow!(message))
                .hint("--others delete removes them; with --others keep the old Chronos runs them too"));
        }
    };
    for (name, why) in &refused {
        crate::cli::warn(&format!("job `{name}` is not written: {why}"));
    }
    let (verb, removed) = if args.yes { ("wrote", "deleted") } else { ("would write", "would delete") };
    let written = if jobs.len() == 1 { "1 job".into() } else { format!("{} jobs", jobs.len()) };
    let mut told = format!("{verb} {written} below {}", args.tree.place());
    match (surplus, others.len()) {
        (_, 0) => {}
        (Others::Deleted, _) => told.push_str(&format!("; {removed} {}", shown(&others))),
        (Others::Kept, _) => told.push_str(&format!("; kept {}", shown(&others))),
    }
    if !args.yes {
        crate::cli::out(format!("{told}\n").as_bytes())?;
        return Err(Failure::usage("nothing was written").hint("--yes writes"));
    }
    let remembered = args.tree.recall().await?;
    args.tree.write(&jobs, surplus).await?;
    // A store of ours beside it would take what has just been written for the work of an old Chronos.
    if remembered.standing == Standing::Settled(mark) {
        args.tree.remember(remembered, Standing::Settled(args.tree.read().await?.mark)).await?;
    }
    crate::cli::out(format!("{told}\n").as_bytes())?;
    match refused.len() {
        0 => Ok(()),
        count => {
            let message = format!("{count} of {all} jobs were not written");
            Err(Failure::new(Exit::Refused, anyhow::anyhow!(message)).hint("the warnings say why"))
        }
    }
}

/// An old leader would write over what is written here, and another cluster of ours has other jobs.
async fn nobody_else_leads(args: &LeaveArgs, client: &Client) -> Result<(), Failure> {
    let Some(leader) = args.tree.leader().await?.filter(|_| !args.beside_leader) else { return Ok(()) };
    let address = leader.addresses.first().map_or("?", String::as_str);
    let who = if leader.node.is_empty() {
        format!("an old Chronos at {address} leads there")
    } else {
        let status = client.get(&["v1", "status"], &[]).await?;
        if args.tree.store_id().await?.is_some_and(|id| status["storeId"] == *id) {
            return Ok(());
        }
        format!("another server, at {address}, leads there")
    };
    Err(Failure::new(Exit::Refused, anyhow::anyhow!("{who}, and may write over it"))
        .hint("stop it first; --beside_leader writes all the same"))
}

/// The jobs that an old Chronos can read, as it keeps them, and those that it cannot with the reason: it ends when it
/// meets one, and never shows those that come after it.
fn readable(jobs: Vec<Map<String, Value>>) -> (BTreeMap<String, String>, Vec<(String, String)>) {
    let text = |job: &Map<String, Value>, key: &str| job.get(key).and_then(Value::as_str).map(str::to_owned);
    let mut refused = Vec::new();
    let mut kept: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for job in jobs {
        let name = text(&job, "name").unwrap_or_default();
        match definition::unreadable(&job) {
            Some(why) => refused.push((name, why)),
            None => drop(kept.insert(name, job)),
        }
    }
    loop {
        let parents = |job: &Map<String, Value>| {
            let parents = job.get("parents").and_then(Value::as_array).cloned().unwrap_or_default();
            parents.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
        };
        let orphan =
            |job: &Map<String, Value>| parents(job).into_iter().find(|parent| !kept.contains_key(parent));
        let orphans: Vec<(String, String)> =
            kept.iter().filter_map(|(name, job)| Some((name.clone(), orphan(job)?))).collect();
        if orphans.is_empty() {
            break;
        }
        for (name, parent) in orphans {
            kept.remove(&name);
            refused.push((name, format!("its parent `{parent}` is not written")));
        }
    }
    (kept.into_iter().map(|(name, job)| (name, Value::Object(job).to_string())).collect(), refused)
}

/// Jobs that are there and not to be written, by their nodes.
fn others(old: Old, jobs: &BTreeMap<String, String>) -> BTreeSet<String> {
    let read = old.jobs.into_iter().map(|job| job.name);
    let unread = old.unread.into_iter().filter(|node| node.is_job());
    let unread = unread.filter_map(|node| Some(node.path.rsplit_once("/J_")?.1.to_owned()));
    read.chain(unread).filter(|name| !jobs.contains_key(name)).collect()
}

/// Names, as many as are read.
fn shown(names: &BTreeSet<String>) -> String {
    const SHOWN: usize = 20;
    let mut shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    if names.len() > SHOWN {
        shown.push(format!("and {} more", names.len() - SHOWN));
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_an_old_chronos_cannot_read_is_left_out_with_all_that_comes_after_it() {
        let jobs = json!([
            { "name": "a", "schedule": "R//P1D" },
            { "name": "b", "schedule": "0 3 * * *" },
            { "name": "c", "parents": ["d"] },
            { "name": "d", "parents": ["a", "b"] },
            { "name": "e", "parents": ["a"] },
            { "name": "f", "schedule": "R//P1D", "container": { "image": "x", "network": "NONE" } },
        ]);
        let jobs = jobs.as_array().into_iter().flatten().filter_map(Value::as_object).cloned().collect();
        let (kept, refused) = readable(jobs);
        assert_eq!(kept.keys().collect::<Vec<_>>(), ["a", "e"]);
        assert_eq!(kept["e"], r#"{"name":"e","parents":["a"]}"#);
        let refused: Vec<_> = refused.iter().map(|(name, why)| format!("{name}: {why}")).collect();
        assert_eq!(
            refused,
            [
                "b: the old Chronos cannot read the schedule `0 3 * * *`",
                "f: the old Chronos cannot read `container.network: NONE`",
                "d: its parent `b` is not written",
                "c: its parent `d` is not written",
            ]
        );
    }
}
