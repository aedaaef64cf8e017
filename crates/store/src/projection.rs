//! What answers reads: the state as of an applied batch, with the indices that questions need.
//!
//! It is built of applied batches only, so it never shows what may yet be lost, and it shares its records with
//! whoever else holds them. A node keeps one [`ProjectionHandle`], whether it leads or follows.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Deref};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use scheduler::ids::{Cause, JobName, JobUid, RunKey, Seq};
use scheduler::job::{Job, Plan, Progress};
use scheduler::run::{Record, Run, RunState};
use scheduler::schedule::Nominal;
use scheduler::state::{Change, State};
use tokio::sync::{broadcast, watch};

use crate::{Applied, LastRun, Term};

/// How many batches a reader of the event stream may be behind before it has to look at everything again.
const EVENTS_MAX: usize = 1024;

/// The state as of an applied batch, and indices over it.
#[derive(Clone, Debug, PartialEq)]
pub struct Projection {
    state: State,
    term: Term,
    by_name: BTreeMap<JobName, JobUid>,
    /// (parent, child).
    children: BTreeSet<(JobUid, JobUid)>,
    last: BTreeMap<JobUid, LastRun>,
}

/// A job with what lists show and sort by.
#[derive(Clone, Copy, Debug)]
pub struct Overview<'a> {
    /// Its definition.
    pub job: &'a Arc<Job>,
    /// How far it has come.
    pub progress: &'a Arc<Progress>,
    /// The run that ended last.
    pub last: Option<&'a LastRun>,
    /// Live runs with an attempt on an engine.
    pub running: usize,
    /// The other live runs.
    pub waiting: usize,
}

/// A batch that does not follow the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("batch {} does not follow batch {}: load again", came.0, at.0)]
pub struct OutOfOrder {
    /// What came.
    pub came: Seq,
    /// What was there.
    pub at: Seq,
}

impl Projection {
    /// A projection of what a store has loaded.
    pub fn new(state: State, term: Term) -> Self {
        let by_name = state.jobs.values().map(|job| (job.name.clone(), job.uid)).collect();
        let children = state.jobs.values().flat_map(|job| edges(job)).collect();
        Self { state, term, by_name, children, last: BTreeMap::new() }
    }

    /// Goes on by one batch. One that was applied before changes nothing.
    /// # Errors
    /// [`OutOfOrder`] when one between is missing; nothing is changed.
    pub fn apply(&mut self, batch: &Applied) -> Result<(), OutOfOrder> {
        if batch.seq <= self.term.seq {
            return Ok(());
        }
        if batch.seq.0 != self.term.seq.0 + 1 {
            return Err(OutOfOrder { came: batch.seq, at: self.term.seq });
        }
        for change in &batch.changes {
            self.change(change);
        }
        self.term = Term { epoch: batch.epoch, seq: batch.seq };
        Ok(())
    }

    /// Adds what the history knows of jobs that have not ended a run since this projection began.
    pub fn learn(&mut self, last_runs: Vec<LastRun>) {
        for last in last_runs {
            if self.state.jobs.contains_key(&last.key.job) {
                self.last.entry(last.key.job).or_insert(last);
            }
        }
    }

    /// All that the core knows.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// As of which batch.
    pub fn term(&self) -> Term {
        self.term
    }

    /// A job by its name.
    pub fn job(&self, name: &JobName) -> Option<&Arc<Job>> {
        self.by_name.get(name).and_then(|uid| self.state.jobs.get(uid))
    }

    /// Jobs by name, those after `after` first; for pages and, as names with a prefix are neighbours, for search.
    pub fn jobs_after(&self, after: Option<&JobName>) -> impl Iterator<Item = &Arc<Job>> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.by_name
            .range::<JobName, _>((start, Bound::Unbounded))
            .filter_map(|(_, uid)| self.state.jobs.get(uid))
    }

    /// The same the other way, those before `before` first.
    pub fn jobs_before(&self, before: Option<&JobName>) -> impl Iterator<Item = &Arc<Job>> {
        let end = before.map_or(Bound::Unbounded, Bound::Excluded);
        let names = self.by_name.range::<JobName, _>((Bound::Unbounded, end)).rev();
        names.filter_map(|(_, uid)| self.state.jobs.get(uid))
    }

    /// All jobs after `after` in the order of their uids, each with what lists show and sort by. Goes through the
    /// records side by side instead of looking each up, which is what makes a look at 100,000 of them cheap.
    pub fn overviews(&self, after: Option<JobUid>) -> impl Iterator<Item = Overview<'_>> {
        let from = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let mut progress = self.state.progress.range(from).peekable();
        let mut last = self.last.range(from).peekable();
        // No key of a job is before this one.
        let cause = Cause::Slot { plan: 0, nominal: Nominal::Index(0) };
        let first = RunKey { job: after.map_or(JobUid(0), |uid| JobUid(uid.0 + 1)), cause };
        let mut runs = self.state.runs.range(first..).map(|(_, run)| run).peekable();
        self.state.jobs.range(from).filter_map(move |(uid, job)| {
            while progress.next_if(|(other, _)| *other < uid).is_some() {}
            while last.next_if(|(other, _)| *other < uid).is_some() {}
            while runs.next_if(|run| run.key.job < *uid).is_some() {}
            let mut overview = Overview {
                job,
                progress: progress.next_if(|(other, _)| *other == uid)?.1,
                last: last.next_if(|(other, _)| *other == uid).map(|(_, last)| last),
                running: 0,
                waiting: 0,
            };
            while let Some(run) = runs.next_if(|run| run.key.job == *uid) {
                match run.state {
                    RunState::Running(_) => overview.running += 1,
                    RunState::Queued | RunState::Waiting { .. } => overview.waiting += 1,
                }
            }
            Some(overview)
        })
    }

    /// The jobs that wait for this one, by uid.
    pub fn children(&self, parent: JobUid) -> impl Iterator<Item = JobUid> {
        self.children.range((parent, JobUid(0))..=(parent, JobUid(u64::MAX))).map(|(_, child)| *child)
    }

    /// The live runs of a job, by key.
    pub fn runs_of(&self, job: JobUid) -> impl Iterator<Item = &Arc<Run>> {
        self.state.runs_of(job)
    }

    /// The run of a job that ended last.
    pub fn last_run(&self, job: JobUid) -> Option<&LastRun> {
        self.last.get(&job)
    }

    fn change(&mut self, change: &Change) {
        match change {
            Change::PutJob(job) => {
                self.forget(job.uid);
                self.by_name.insert(job.name.clone(), job.uid);
                self.children.extend(edges(job));
            }
            Change::RemoveJob(uid) => {
                self.forget(*uid);
                self.last.remove(uid);
            }
            Change::Append(record) => {
                if let Record::Run(run) = &**record
                    && self.state.jobs.contains_key(&run.key.job)
                {
                    self.last.insert(run.key.job, LastRun::of(run));
                }
            }
            _ => {}
        }
        self.state.apply(change);
    }

    /// Takes a job out of the indices, as they were made when it came.
    fn forget(&mut self, uid: JobUid) {
        let Some(job) = self.state.jobs.get(&uid) else { return };
        if self.by_name.get(&job.name) == Some(&uid) {
            self.by_name.remove(&job.name);
        }
        for edge in edges(job) {
            self.children.remove(&edge);
        }
    }
}

fn edges(job: &Job) -> impl Iterator<Item = (JobUid, JobUid)> {
    let parents: &[JobUid] = match &job.plan {
        Plan::Parents(parents) => parents,
        Plan::Schedule(_) => &[],
    };
    parents.iter().map(|parent| (*parent, job.uid))
}

/// A projection that many read while one writes. Clones are the same projection.
#[derive(Clone, Debug)]
pub struct ProjectionHandle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    projection: RwLock<Projection>,
    seq: watch::Sender<Seq>,
    events: broadcast::Sender<Arc<Applied>>,
}

/// A projection while it is read.
#[derive(Debug)]
pub struct Reading<'a> {
    projection: RwLockReadGuard<'a, Projection>,
    #[cfg(debug_assertions)]
    _once: once::Once,
}

impl Deref for Reading<'_> {
    type Target = Projection;

    fn deref(&self) -> &Projection {
        &self.projection
    }
}

/// Which projections a thread reads at the moment, each of them once.
#[cfg(debug_assertions)]
mod once {
    use std::cell::RefCell;

    thread_local! {
        static READ: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
    }

    #[derive(Debug)]
    pub(super) struct Once(usize);

    impl Once {
        pub(super) fn of(projection: usize) -> Self {
            READ.with_borrow_mut(|read| {
                assert!(!read.contains(&projection), "a thread reads a projection twice at a time");
                read.push(projection);
            });
            Self(projection)
        }
    }

    impl Drop for Once {
        fn drop(&mut self) {
            READ.with_borrow_mut(|read| read.retain(|other| *other != self.0));
        }
    }
}

impl ProjectionHandle {
    /// Shares a projection.
    pub fn new(projection: Projection) -> Self {
        let seq = watch::Sender::new(projection.term.seq);
        let events = broadcast::Sender::new(EVENTS_MAX);
        Self { shared: Arc::new(Shared { projection: RwLock::new(projection), seq, events }) }
    }

    /// For reading. Copy out what is needed and let go: writers wait, and so does everybody after them. Who reads twice at
    /// a time waits for a writer that waits for it: where defects are looked for, that is a panic at once.
    pub fn read(&self) -> Reading<'_> {
        #[cfg(debug_assertions)]
        let once = once::Once::of(std::ptr::from_ref(&*self.shared).addr());
        // A projection is whole between any two changes, so one left by a panic is still an older truth.
        let projection = self.shared.projection.read().unwrap_or_else(PoisonError::into_inner);
        Reading {
            projection,
            #[cfg(debug_assertions)]
            _once: once,
        }
    }

    /// Goes on by one batch, then tells those who wait for it and those who listen.
    /// # Errors
    /// [`OutOfOrder`]: load again and [`ProjectionHandle::replace`].
    pub fn apply(&self, batch: &Arc<Applied>) -> Result<(), OutOfOrder> {
        {
            let mut projection = self.write();
            if batch.seq <= projection.term.seq {
                return Ok(());
            }
            projection.apply(batch)?;
        }
        self.shared.seq.send_replace(batch.seq);
        // Nobody listening is not an error.
        let _ = self.shared.events.send(batch.clone());
        Ok(())
    }

    /// Starts anew from what was loaded. Listeners see a gap in the numbers of batches.
    pub fn replace(&self, projection: Projection) {
        let seq = projection.term.seq;
        let old = std::mem::replace(&mut *self.write(), projection);
        self.shared.seq.send_replace(seq);
        // A million jobs take a while to drop; by now nobody waits for the lock.
        drop(old);
    }

    /// See [`Projection::learn`].
    pub fn learn(&self, last_runs: Vec<LastRun>) {
        self.write().learn(last_runs);
    }

    /// The last batch that is in.
    pub fn seq(&self) -> Seq {
        *self.shared.seq.borrow()
    }

    /// Waits until batch `seq` is in, at most so long. Returns whether it is.
    pub async fn wait_for(&self, seq: Seq, at_most: Duration) -> bool {
        let mut present = self.shared.seq.subscribe();
        let arrived = tokio::time::timeout(at_most, present.wait_for(|present| *present >= seq)).await;
        matches!(arrived, Ok(Ok(_)))
    }

    /// Batches as they are applied, for event streams. Whoever is more than 1024 batches behind is told how many
    /// were left out.
    pub fn events(&self) -> broadcast::Receiver<Arc<Applied>> {
        self.shared.events.subscribe()
    }

    fn write(&self) -> RwLockWriteGuard<'_, Projection> {
        self.shared.projection.write().unwrap_or_else(PoisonError::into_inner)
    }
}
