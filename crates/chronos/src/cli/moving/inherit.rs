//! A server that comes to lead beside what an old Chronos has left takes its jobs over, before it launches anything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use scheduler::audit::Author;
use scheduler::request::{Answer, Manner, Refusal, Request};
use serde_json::{Value, json};
use store::zookeeper::old::Old;
use tracing::{info, warn};

use super::plan::{Fate, Plan, Row, Starts};
use super::tree;
use crate::cli::failure::{Exit, Failure};
use crate::node::{AskError, Heritage, Node, Role};
use crate::wire::honour::{self, Surroundings};
use crate::wire::job::{self, Door, Reading};

/// Before it is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Takes over whatever is to be taken over, for as long as the node lives.
pub(in crate::cli) async fn inherit(node: &Node, heritage: &Heritage) {
    let mut orders = heritage.orders();
    let mut status = node.watch_status();
    loop {
        let Ok(order) = orders.wait_for(Option::is_some).await.map(|order| order.clone()) else { return };
        let Some(order) = order else { continue };
        if status.wait_for(|status| matches!(status.role, Role::Leading(_))).await.is_err() {
            return;
        }
        if let Err(problem) = take_over(node, heritage, &order).await {
            let advice = problem.hint.map(|hint| format!("; {hint}")).unwrap_or_default();
            let problem = format!("{:#}{advice}", problem.error);
            if heritage.fails(&problem) {
                warn!(problem, "cannot take over the jobs of the old Chronos yet");
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

async fn take_over(node: &Node, heritage: &Heritage, order: &Arc<Old>) -> Result<(), Failure> {
    // Starts as they are there, whatever is here: a slot before them was launched there.
    let files = tree::files((**order).clone());
    let mut plan = Plan::new(files, &BTreeMap::new(), Starts::AsWritten, &node.zones, Timestamp::now());
    plan.put(async |set| put(node, set).await).await?;
    heritage.is_taken(order).await.map_err(|problem| Failure::new(Exit::Unreachable, problem))?;
    let refused = plan.rows.iter().filter(|row| row.fate == Fate::Refused);
    heritage.leaves(refused.map(|row| old_name(row).clone()).collect());
    plan.rows.iter().for_each(tell);
    let count = |fate| plan.count(fate);
    info!(
        created = count(Fate::Created),
        replaced = count(Fate::Replaced),
        unchanged = count(Fate::Unchanged),
        refused = count(Fate::Refused),
        ignored = count(Fate::Ignored),
        "took over the jobs of the old Chronos"
    );
    Ok(())
}

/// Its name at the old Chronos, or where it is if it has none.
fn old_name(row: &Row) -> &String {
    if row.name.is_empty() { &row.origin } else { &row.name }
}

fn tell(row: &Row) {
    let (name, notes) = (old_name(row), row.notes.join("; "));
    match row.fate {
        Fate::Refused => warn!(old = name, why = notes, "could not take over a job of the old Chronos"),
        Fate::Ignored => info!(old = name, why = notes, "left something of the old Chronos where it is"),
        fate => {
            let job = row.renamed.as_ref().unwrap_or(name);
            info!(job, old = name, notes, "{} a job of the old Chronos", fate.word());
        }
    }
}

/// Applies a set as the API would.
async fn put(node: &Node, set: &[&Value]) -> Result<Vec<Value>, Failure> {
    let refused = |message: String| Failure::new(Exit::Refused, anyhow::anyhow!(message));
    let (mut definitions, mut warnings) = (Vec::new(), Vec::new());
    for document in set {
        let read = job::read_value(document, Door::Any, &node.zones, Timestamp::now());
        let Reading { definition, warnings: mut told, lints } = read.map_err(|problem| {
            refused(format!("job `{}`: {}", document["name"].as_str().unwrap_or("?"), problem.message))
        })?;
        told.extend(lints.iter().map(ToString::to_string));
        told.extend(honour::unhonoured(&definition.body, Surroundings::of(node.engine.name())));
        definitions.push(definition);
        warnings.push(told);
    }
    let author = Author::new("import", "from ZooKeeper");
    let request = Box::new(Request::Apply { definitions, manner: Manner::Do });
    let verdicts = match node.ask(Request::By { author, request }).await {
        Ok((Answer::Applied(verdicts), _)) => verdicts,
        Ok((other, _)) => {
            return Err(Failure::new(Exit::Failed, anyhow::anyhow!("a strange answer: {other:?}")));
        }
        Err(AskError::Refused(refusal)) if refusal != Refusal::SetUnderWay => {
            return Err(refused(refusal.to_string()));
        }
        Err(AskError::Full(why)) => return Err(refused(why)),
        Err(problem) => return Err(Failure::new(Exit::Unreachable, problem)),
    };
    let told = verdicts.into_iter().zip(warnings).map(|(verdict, warnings)| {
        let result = match (verdict.changed, verdict.version) {
            (false, _) => "unchanged",
            (true, 1) => "created",
            (true, _) => "updated",
        };
        json!({ "result": result, "warnings": warnings })
    });
    Ok(told.collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use engine::Keep;
    use engine::fake::FakeMachine;
    use scheduler::SET_BYTES_MAX;
    use scheduler::limits::Limits;
    use scheduler::schedule::Zones;
    use store::memory::{MemoryCore, MemoryStore};
    use store::{Candidate, Retention, Store};

    use super::super::folder::File;
    use super::*;
    use crate::node::{Acquaintance, NodeOptions, NodeTask};

    /// A node that leads on this store.
    async fn leader(store: MemoryStore, machine: &FakeMachine) -> (Node, NodeTask) {
        let (node, task) = crate::node::start(NodeOptions {
            identity: Candidate { node: "n".into(), ..Candidate::default() },
            store: Arc::new(store),
            acquaintance: Acquaintance::default(),
            heritage: None,
            engine: Arc::new(machine.engine()),
            zones: Zones::bundled(),
            retention: Retention { count_max: 1000, ..Retention::UNBOUNDED },
            output: Keep::EVERYTHING,
            kill_grace: Duration::from_secs(1),
            disable_after_failures: 0,
            retry_delay: scheduler::job::Retry::DELAY,
            limits: Limits::default(),
            notifier: Arc::default(),
        });
        let mut status = node.watch_status();
        let leads = status.wait_for(|status| matches!(status.role, Role::Leading(_))).await.map(drop);
        leads.expect("it lives");
        (node, task)
    }

    /// More jobs than one set holds, the first of them due at once.
    fn files() -> Vec<File> {
        let command = format!("true #{}", "x".repeat(60_000));
        let job = |i: usize| {
            let start = if i == 0 { "R1/2020-01-01T00:00:00Z/P1D" } else { "R/2099-01-01T00:00:00Z/P1D" };
            let definition = json!({ "name": format!("j{i}"), "command": command, "schedule": start });
            let definition = definition.as_object().cloned().expect("an object");
            File::Job { definition, origin: format!("J_j{i}"), notes: Vec::new() }
        };
        (0..=SET_BYTES_MAX / 60_000).map(job).collect()
    }

    fn plan() -> Plan {
        Plan::new(files(), &BTreeMap::new(), Starts::AsWritten, &Zones::bundled(), Timestamp::now())
    }

    #[tokio::test]
    async fn a_takeover_that_is_cut_between_two_sets_is_completed_by_the_next_leader() {
        let (machine, store) = (FakeMachine::new(), MemoryStore::new(MemoryCore::new(1)));
        let (node, task) = leader(store.another(), &machine).await;
        let mut cut = plan();
        let done = cut.put(async |set: &[&Value]| match cut_after_first(&node) {
            true => Err(Failure::new(Exit::Unreachable, anyhow::anyhow!("the server has ended"))),
            false => put(&node, set).await,
        });
        assert!(done.await.is_err());
        let (all, first) = (cut.rows.len(), cut.count(Fate::Created));
        assert!(0 < first && first < all, "{first} of {all}");
        task.shutdown().await;

        let (node, task) = leader(store.another(), &machine).await;
        let mut whole = plan();
        whole
            .put(async |set| put(&node, set).await)
            .await
            .unwrap_or_else(|failure| panic!("{}", failure.chain()));
        assert_eq!((whole.count(Fate::Unchanged), whole.count(Fate::Created)), (first, all - first));
        // A second launch would be decided by the time at which the first is known to have ended.
        for _ in 0..6000 {
            if node.projection.read().state().progress.values().any(|progress| progress.successes > 0) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        task.shutdown().await;
        let (state, _) = store.another().load().await.expect("a store in memory");
        assert_eq!(state.progress.values().map(|progress| progress.successes).sum::<u64>(), 1);
        let names: BTreeSet<_> = state.jobs.values().map(|job| job.name.to_string()).collect();
        assert_eq!((state.jobs.len(), names.len()), (all, all));
        assert!(state.jobs.values().all(|job| job.version == 1));
        assert_eq!(machine.begun().len(), 1, "what was due at once is launched once: {:?}", machine.begun());
    }

    /// Whether there are jobs, as there are after the first set.
    fn cut_after_first(node: &Node) -> bool {
        !node.projection.read().state().jobs.is_empty()
    }
}
