//! A set of definitions, applied whole or not at all: in any order, as parents may come after their children.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::door::Origin;
use crate::ids::JobName;
use crate::job::Plan;
use crate::request::{Answer, Definition, Manner, PlanText, Refusal, Verdict};
use crate::scheduler::Scheduler;

/// Jobs in one set: while it is put among the others nothing else happens, and that must not take long.
pub const SET_MAX: usize = 10_000;
/// Bytes of their definitions.
pub const SET_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Jobs that change in one batch; larger sets are staged first. Each is up to 4 KiB of records beside its definition: the job,
/// its revision and who made it, with names of 255 bytes.
pub const SET_BATCH: usize = 128;
/// Bytes of their definitions: each is written twice, as the job and as its revision, in a batch that others share.
pub(crate) const BATCH_BYTES_MAX: usize = 64 * 1024;
/// Runs and joins that may end in one batch, with the plans that the set takes away.
pub(crate) const ENDS_MAX: usize = 200;

/// The definitions of a set by name.
pub(crate) type Set = BTreeMap<JobName, Arc<Definition>>;

impl Scheduler {
    /// Applies a set that fits one batch, or checks one of any size.
    pub(crate) fn apply_set(
        &mut self,
        definitions: Vec<Definition>,
        manner: Manner,
    ) -> Result<Answer, Refusal> {
        let names: Vec<JobName> = definitions.iter().map(|definition| definition.name.clone()).collect();
        if manner == Manner::Do && !self.fits_one_batch(&definitions) {
            return Err(too_large(&definitions));
        }
        let mut set = fitting(definitions)?;
        let order = self.check_set(&set)?;
        if manner == Manner::DryRun {
            let verdicts = names.into_iter().map(|name| self.verdict(&set[&name])).collect();
            return Ok(Answer::Applied(verdicts));
        }
        // Everything that could be refused has been looked at, so from here on nothing is.
        let mut verdicts = BTreeMap::new();
        for name in order {
            let Some(definition) = set.remove(&name) else { continue };
            if let Answer::Put { uid, version, changed } =
                self.put(Arc::unwrap_or_clone(definition), Origin::Set)?
            {
                verdicts.insert(name.clone(), Verdict { job: name, uid: Some(uid), version, changed });
            }
        }
        Ok(Answer::Applied(names.iter().filter_map(|name| verdicts.remove(name)).collect()))
    }

    pub(crate) fn fits_one_batch(&self, definitions: &[Definition]) -> bool {
        definitions.len() <= self.settings.set_batch
            && definitions.iter().map(Definition::bytes).sum::<usize>() <= BATCH_BYTES_MAX
            && definitions.iter().map(|definition| self.ends_with(definition)).sum::<usize>() <= ENDS_MAX
    }

    /// Checks the whole set against what is there, and gives the order in which every job comes after its parents.
    pub(crate) fn check_set(&mut self, set: &Set) -> Result<Vec<JobName>, Refusal> {
        for definition in set.values() {
            match &definition.plan {
                PlanText::Schedule { .. } => {
                    let old = self.book.job_named(&definition.name).cloned();
                    self.plan(definition, old.as_deref())?;
                }
                PlanText::Parents(parents) => self.check_parents(&definition.name, parents, set)?,
            }
            let count = self.ends_with(definition);
            if count > ENDS_MAX {
                return Err(Refusal::TooManyEnds { job: definition.name.clone(), count });
            }
        }
        self.order(set)
    }

    fn check_parents(&self, job: &JobName, parents: &[JobName], set: &Set) -> Result<(), Refusal> {
        if parents.is_empty() {
            return Err(Refusal::NoParents(job.clone()));
        }
        let distinct: BTreeSet<&JobName> = parents.iter().collect();
        if distinct.len() > Definition::PARENTS_MAX {
            return Err(Refusal::TooManyParents { job: job.clone(), count: distinct.len() });
        }
        let there = |name: &&JobName| set.contains_key(*name) || self.book.job_named(name).is_some();
        let missing: Vec<JobName> = distinct.into_iter().filter(|name| !there(name)).cloned().collect();
        if missing.is_empty() { Ok(()) } else { Err(Refusal::MissingParents { job: job.clone(), missing }) }
    }

    /// Runs and joins that end when this definition takes the place of another.
    pub(crate) fn ends_with(&self, definition: &Definition) -> usize {
        let Some(old) = self.book.job_named(&definition.name) else { return 0 };
        if self.says_the_same(definition) {
            return 0;
        }
        let state = self.book.state();
        state.runs_of(old.uid).count() + state.joins_of(old.uid).count()
    }

    fn verdict(&self, definition: &Definition) -> Verdict {
        let name = definition.name.clone();
        match self.book.job_named(&name) {
            None => Verdict { job: name, uid: None, version: 1, changed: true },
            Some(old) => {
                let changed = !self.says_the_same(definition);
                Verdict { job: name, uid: Some(old.uid), version: old.version + u32::from(changed), changed }
            }
        }
    }

    /// Whether the job of this name is defined so already.
    fn says_the_same(&self, definition: &Definition) -> bool {
        let Some(old) = self.book.job_named(&definition.name) else { return false };
        let same_plan = match (&definition.plan, &old.plan) {
            (PlanText::Schedule { text, zone, dst }, Plan::Schedule(table)) => {
                (text, zone, dst) == (&table.text, &table.zone, &table.dst)
            }
            (PlanText::Parents(parents), Plan::Parents(_)) => {
                let (new, old) = (parents.iter().collect::<BTreeSet<_>>(), self.names_of_parents(old));
                new == old.iter().collect()
            }
            _ => false,
        };
        same_plan && (&definition.rules, &definition.body) == (&*old.rules, &old.body)
    }

    /// The set in an order in which every job comes after all that it descends from, also through jobs that are not in
    /// the set: then no job on the way is ever its own ancestor, whatever it was before.
    pub(crate) fn order(&self, set: &Set) -> Result<Vec<JobName>, Refusal> {
        let mut done: BTreeSet<JobName> = BTreeSet::new();
        let mut order = Vec::new();
        for start in set.keys() {
            // The way up from `start`, and of each job on it the parents that are still to be looked at.
            let mut way: Vec<(JobName, Vec<JobName>)> = Vec::new();
            let mut on_way: BTreeSet<JobName> = BTreeSet::new();
            if !done.contains(start) {
                way.push((start.clone(), self.parents_in(start, set)));
                on_way.insert(start.clone());
            }
            while let Some((job, left)) = way.last_mut() {
                match left.pop() {
                    Some(parent) if on_way.contains(&parent) => {
                        let from = way.iter().position(|(job, _)| *job == parent).unwrap_or(0);
                        // From parent to child, as it runs.
                        let ring = way[from..].iter().rev().map(|(job, _)| job.clone());
                        let path = [parent.clone()].into_iter().chain(ring).collect();
                        return Err(Refusal::Cycle { path });
                    }
                    Some(parent) if done.contains(&parent) => {}
                    Some(parent) => {
                        on_way.insert(parent.clone());
                        let parents = self.parents_in(&parent, set);
                        way.push((parent, parents));
                    }
                    None => {
                        let job = job.clone();
                        way.pop();
                        on_way.remove(&job);
                        if set.contains_key(&job) {
                            order.push(job.clone());
                        }
                        done.insert(job);
                    }
                }
            }
        }
        Ok(order)
    }

    /// The parents that a job will have.
    fn parents_in(&self, job: &JobName, set: &Set) -> Vec<JobName> {
        match set.get(job).map(|definition| &definition.plan) {
            Some(PlanText::Parents(parents)) => parents.clone(),
            Some(PlanText::Schedule { .. }) => Vec::new(),
            None => self.book.job_named(job).map_or_else(Vec::new, |job| self.names_of_parents(job)),
        }
    }
}

/// The set by name, within its bounds.
pub(crate) fn fitting(definitions: Vec<Definition>) -> Result<Set, Refusal> {
    let bytes: usize = definitions.iter().map(Definition::bytes).sum();
    if definitions.len() > SET_MAX || bytes > SET_BYTES_MAX {
        return Err(too_large(&definitions));
    }
    let mut set = Set::new();
    for definition in definitions {
        let name = definition.name.clone();
        if set.insert(name.clone(), Arc::new(definition)).is_some() {
            return Err(Refusal::Twice(name));
        }
    }
    Ok(set)
}

fn too_large(definitions: &[Definition]) -> Refusal {
    let bytes = definitions.iter().map(Definition::bytes).sum();
    Refusal::SetTooLarge { jobs: definitions.len(), bytes }
}
