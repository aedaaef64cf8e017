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
            warn!(problem = problem.to_text().trim_end(), "cannot take over the jobs of the old Chronos yet");
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

fn tell(row: &Row) {
    let (name, notes) = (if row.name.is_empty() { &row.origin } else { &row.name }, row.notes.join("; "));
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
