//! Promise 5, for chains: each child of each cycle has one outcome, and it fired if all its parents let it. Looked at
//! where the graph stood still meanwhile: what an edit means to a cycle under way is for tables of the core.

use std::collections::{BTreeMap, BTreeSet};

use scheduler::ids::{Cause, Cycle, JobUid, RunKey};
use scheduler::job::{Job, Plan};
use scheduler::run::{Outcome, Skipped};
use scheduler::state::State;

use super::Verdict;
use super::ledger::{Ended, Ledger, Position};

/// The graph as it is at the end.
struct Graph<'a> {
    state: &'a State,
    roots: BTreeMap<JobUid, JobUid>,
}

impl<'a> Graph<'a> {
    fn parents(&self, job: JobUid) -> &'a [JobUid] {
        match self.state.jobs.get(&job).map(|job| &job.plan) {
            Some(Plan::Parents(parents)) => parents,
            _ => &[],
        }
    }

    /// The single root of all parents, if they have one.
    fn single_root(&mut self, child: JobUid) -> Option<JobUid> {
        let roots: BTreeSet<JobUid> = self.parents(child).iter().map(|parent| self.root(*parent)).collect();
        if roots.len() == 1 { roots.first().copied() } else { None }
    }

    fn root(&mut self, job: JobUid) -> JobUid {
        if let Some(root) = self.roots.get(&job) {
            return *root;
        }
        let root = self.single_root(job).unwrap_or(job);
        self.roots.insert(job, root);
        root
    }

    /// The job and all that is above it.
    fn lineage(&self, job: JobUid) -> BTreeSet<JobUid> {
        let (mut all, mut todo) = (BTreeSet::new(), vec![job]);
        while let Some(job) = todo.pop() {
            if all.insert(job) {
                todo.extend(self.parents(job));
            }
        }
        all
    }
}

/// Whether the children of an ended run heard of it for the first time, in its own cycle.
fn heard(ended: &Ended) -> bool {
    let key = ended.run.key;
    if !ended.told {
        return false;
    }
    match key.cause {
        Cause::Join { round, .. } if round > 0 => false,
        Cause::Join { cycle, .. } => ended.created.is_some() || cycle.origin != key.job,
        Cause::Slot { .. } | Cause::Backfill { .. } => ended.created.is_some(),
        Cause::Trigger(number) => {
            let own = ended.run.cycle.origin == key.job && ended.run.cycle.seq == number;
            own && (ended.created.is_some() || ended.run.outcome == Outcome::Succeeded)
        }
    }
}

/// Whether it let its children go on.
fn succeeded(ended: &Ended) -> bool {
    let soft = ended.job.as_ref().is_some_and(|job| job.rules.soft_error);
    match ended.run.outcome {
        Outcome::Succeeded => true,
        Outcome::Failed | Outcome::TimedOut | Outcome::Lost => soft,
        _ => false,
    }
}

pub(crate) fn finish(state: &State, ledger: &Ledger, cycles: &BTreeSet<Cycle>) -> Verdict {
    let mut graph = Graph { state, roots: BTreeMap::new() };
    let mut heard_of: BTreeMap<(JobUid, Cycle), &Ended> = BTreeMap::new();
    let mut again: BTreeSet<Cycle> = BTreeSet::new();
    let mut began: BTreeMap<Cycle, Position> = BTreeMap::new();
    for ended in ledger.ended.values() {
        let cycle = ended.run.cycle;
        if heard(ended) {
            heard_of.insert((ended.run.key.job, cycle), ended);
        } else if ended.told && !matches!(ended.run.key.cause, Cause::Slot { .. }) {
            again.insert(cycle);
        }
        let first = began.entry(cycle).or_insert(ended.at);
        *first = (*first).min(ended.created.unwrap_or(ended.at));
    }
    let mut children: BTreeMap<JobUid, Vec<&Job>> = BTreeMap::new();
    for job in state.jobs.values().filter(|job| !job.rules.disabled) {
        graph.parents(job.uid).iter().for_each(|parent| children.entry(*parent).or_default().push(job));
    }
    for ((parent, cycle), ended) in &heard_of {
        let since = began.get(cycle).copied().unwrap_or(ended.at);
        if !cycles.contains(cycle) {
            continue;
        }
        for child in children.get(parent).into_iter().flatten() {
            let stood = |job: &JobUid| ledger.settled_since(*job, since);
            let still = graph.lineage(child.uid).iter().all(stood);
            let joins = graph.parents(child.uid).len() > 1;
            if !still || (joins && graph.single_root(child.uid).is_none()) {
                continue;
            }
            let parts: Vec<JobUid> = if joins { part(&mut graph, child.uid, *cycle) } else { vec![*parent] };
            let ends: Option<Vec<bool>> =
                parts.iter().map(|p| heard_of.get(&(*p, *cycle)).map(|ended| succeeded(ended))).collect();
            let failed =
                parts.iter().any(|p| heard_of.get(&(*p, *cycle)).is_some_and(|ended| !succeeded(ended)));
            let fires = if failed { Some(false) } else { ends.map(|_| true) };
            if let Some(fires) = fires {
                outcome(child, *cycle, fires, again.contains(cycle), state, ledger)?;
            }
        }
    }
    for job in state.jobs.values() {
        if graph.parents(job.uid).len() > 1 && graph.single_root(job.uid).is_none() {
            flags(&graph, job, state, ledger)?;
        }
    }
    Ok(())
}

/// In a cycle that began in the middle of the graph, only what descends from there takes part.
fn part(graph: &mut Graph<'_>, child: JobUid, cycle: Cycle) -> Vec<JobUid> {
    let parents = graph.parents(child);
    if graph.single_root(child) == Some(cycle.origin) {
        return parents.to_vec();
    }
    parents.iter().copied().filter(|parent| graph.lineage(*parent).contains(&cycle.origin)).collect()
}

/// The child has its outcome for the cycle, and it is the right one.
fn outcome(child: &Job, cycle: Cycle, fires: bool, again: bool, state: &State, ledger: &Ledger) -> Verdict {
    let key = RunKey { job: child.uid, cause: Cause::Join { cycle, round: 0 } };
    let what = if fires { "let it go on" } else { "did not let it go on" };
    let skipped = |outcome: &Outcome| matches!(outcome, Outcome::Skipped(Skipped::Upstream { .. }));
    let gave_way = |outcome: &Outcome| matches!(outcome, Outcome::Skipped(Skipped::JoinSuperseded));
    match ledger.ended.get(&key) {
        // A re-run or a mark takes part in a round of its own.
        _ if again => Ok(()),
        Some(ended) if gave_way(&ended.run.outcome) || skipped(&ended.run.outcome) != fires => Ok(()),
        None if fires && state.runs.contains_key(&key) => Ok(()),
        Some(ended) => Err(format!(
            "job {}, cycle {cycle:?}: its parents {what}, but it ended {:?}",
            child.name, ended.run.outcome
        )),
        None => {
            Err(format!("job {}, cycle {cycle:?}: its parents {what}, but it has no outcome", child.name))
        }
    }
}

/// A job with several roots consumes every success of its parents once.
fn flags(graph: &Graph<'_>, job: &Job, state: &State, ledger: &Ledger) -> Verdict {
    let parents = graph.parents(job.uid);
    let since = ledger.unsettled.get(&job.uid).copied().unwrap_or(0);
    let ends = || ledger.ended.values().filter(|ended| parents.contains(&ended.run.key.job));
    let still =
        graph.lineage(job.uid).iter().all(|above| *above == job.uid || ledger.settled_since(*above, since))
            && job.version == 1
            && !job.rules.disabled;
    let marked = ledger.ended.values().any(|ended| {
        ended.run.key.job == job.uid && ended.created.is_none() && ended.run.outcome == Outcome::Succeeded
    });
    let telling = state.fanouts.values().any(|fanout| parents.contains(&fanout.run.job));
    if !still || marked || telling || ends().any(|ended| ended.at < since) {
        return Ok(());
    }
    let told =
        |ended: &&Ended| ended.told && (ended.created.is_some() || ended.run.outcome == Outcome::Succeeded);
    let successes = ends().filter(told).filter(|ended| succeeded(ended)).count();
    let own = |key: &RunKey| {
        key.job == job.uid && matches!(key.cause, Cause::Join { cycle, .. } if cycle.origin == job.uid)
    };
    let gave_way = |ended: &Ended| ended.run.outcome == Outcome::Skipped(Skipped::JoinSuperseded);
    let (superseded, fired): (Vec<&Ended>, Vec<&Ended>) =
        ledger.ended.values().filter(|ended| own(&ended.run.key)).partition(|ended| gave_way(ended));
    let fired = fired.len() + state.runs.keys().filter(|key| own(key)).count();
    let raised = state.progress.get(&job.uid).map_or(0, |progress| progress.flags.len());
    let consumed = fired * parents.len() + superseded.len() + raised;
    if consumed != successes {
        return Err(format!(
            "job {}: its parents succeeded {successes} times; it fired {fired} times for {} parents, {} were superseded, {raised} are kept",
            job.name,
            parents.len(),
            superseded.len()
        ));
    }
    Ok(())
}
