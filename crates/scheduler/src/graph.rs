//! Who follows whom: children, roots and cycles of the graph of jobs. Always acyclic and complete.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::ids::JobUid;
use crate::job::{Job, Plan};

type Upward = BTreeMap<JobUid, Vec<JobUid>>;
type Downward = BTreeMap<JobUid, BTreeSet<JobUid>>;

/// The graph of jobs, by uid. Walks are loops, not recursion: a chain may be as long as there are jobs.
pub(crate) struct Graph {
    parents: Upward,
    children: Downward,
    /// Roots found so far; forgotten whenever an edge changes.
    roots: BTreeMap<JobUid, JobUid>,
}

impl Graph {
    pub(crate) fn new(jobs: &BTreeMap<JobUid, Arc<Job>>) -> Self {
        let mut graph = Self { parents: BTreeMap::new(), children: BTreeMap::new(), roots: BTreeMap::new() };
        jobs.values().for_each(|job| graph.insert(job));
        graph
    }

    pub(crate) fn insert(&mut self, job: &Job) {
        self.roots.remove(&job.uid);
        if let Plan::Parents(parents) = &job.plan {
            for parent in parents {
                self.children.entry(*parent).or_default().insert(job.uid);
            }
            self.parents.insert(job.uid, parents.clone());
            self.roots.clear();
        }
    }

    pub(crate) fn remove(&mut self, job: &Job) {
        self.roots.remove(&job.uid);
        for parent in self.parents.remove(&job.uid).unwrap_or_default() {
            self.roots.clear();
            if let Some(children) = self.children.get_mut(&parent) {
                children.remove(&job.uid);
                if children.is_empty() {
                    self.children.remove(&parent);
                }
            }
        }
    }

    /// All edges, from both sides.
    pub(crate) fn edges(&self) -> (&Upward, &Downward) {
        (&self.parents, &self.children)
    }

    pub(crate) fn parents(&self, job: JobUid) -> &[JobUid] {
        self.parents.get(&job).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn has_children(&self, job: JobUid) -> bool {
        self.children.contains_key(&job)
    }

    pub(crate) fn children(&self, job: JobUid) -> impl Iterator<Item = JobUid> {
        self.children.get(&job).into_iter().flatten().copied()
    }

    /// The next child in the order in which children are told.
    pub(crate) fn child_after(&self, job: JobUid, after: Option<JobUid>) -> Option<JobUid> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.children.get(&job)?.range((from, Unbounded)).next().copied()
    }

    /// The only root of all parents of a dependent, or `None` where there are several: then it keeps flags and is a
    /// root itself.
    pub(crate) fn single_root(&mut self, child: JobUid) -> Option<JobUid> {
        let parents = self.parents(child).to_vec();
        let mut roots = parents.iter().map(|parent| self.root(*parent));
        let first = roots.next()?;
        roots.all(|root| root == first).then_some(first)
    }

    /// The root of the chain that ends in this job: itself if it has no parents or several roots above.
    fn root(&mut self, job: JobUid) -> JobUid {
        let mut stack = vec![job];
        while let Some(&top) = stack.last() {
            if self.roots.contains_key(&top) {
                stack.pop();
                continue;
            }
            let parents = self.parents(top);
            let unknown: Vec<JobUid> =
                parents.iter().filter(|p| !self.roots.contains_key(p)).copied().collect();
            if unknown.is_empty() {
                let mut roots = parents.iter().filter_map(|p| self.roots.get(p)).copied();
                let first = roots.next();
                let root = first.filter(|first| roots.all(|root| root == *first)).unwrap_or(top);
                self.roots.insert(top, root);
                stack.pop();
            } else {
                stack.extend(unknown);
            }
        }
        self.roots.get(&job).copied().unwrap_or(job)
    }

    /// Whether `job` is `ancestor` or comes after it.
    pub(crate) fn descends(&self, job: JobUid, ancestor: JobUid) -> bool {
        self.path_down(ancestor, job).is_some()
    }

    /// A path from `ancestor` down to `job`, both included; `None` if there is none.
    pub(crate) fn path_down(&self, ancestor: JobUid, job: JobUid) -> Option<Vec<JobUid>> {
        let mut below: BTreeMap<JobUid, JobUid> = BTreeMap::new();
        let mut stack = vec![job];
        while let Some(at) = stack.pop() {
            if at == ancestor {
                let mut path = vec![at];
                while let Some(next) =
                    path.last().filter(|last| **last != job).and_then(|last| below.get(last))
                {
                    path.push(*next);
                }
                return Some(path);
            }
            for parent in self.parents(at) {
                if *parent != job && !below.contains_key(parent) {
                    below.insert(*parent, at);
                    stack.push(*parent);
                }
            }
        }
        None
    }
}
