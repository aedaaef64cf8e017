//! The life of a node: follows while another leads, leads when elected, and begins again when deposed. For ever.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use engine::{Engine, Keep, Readiness};
use futures_util::FutureExt as _;
use jiff::Timestamp;
use scheduler::ids::{Epoch, Seq, TaskId};
use scheduler::limits::Limits;
use scheduler::schedule::Zones;
use scheduler::state::State;
use store::projection::{Projection, ProjectionHandle};
use store::{Candidate, Retention, Store, StoreError, Term};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, error, info, warn};

use crate::notify::Notifier;

use super::driver::{self, Ended};
use super::heritage::Heritage;
use super::outlook::{self, Outlook};
use super::pulse::Pulse;
use super::standing::Standing;
use super::{Acquaintance, Ask, AskError, Node, Restore, RestoreError, Role, Status};

/// What a node is made of.
pub struct NodeOptions {
    /// Who it is.
    pub identity: Candidate,
    /// Where state lives.
    pub store: Arc<dyn Store>,
    /// Which store it has worked on.
    pub acquaintance: Acquaintance,
    /// What an old Chronos has left beside the store, where that may be.
    pub heritage: Option<Arc<Heritage>>,
    /// What runs tasks.
    pub engine: Arc<dyn Engine>,
    /// The zones in which schedules are read.
    pub zones: Zones,
    /// How much history is kept.
    pub retention: Retention,
    /// How much of their output and working directories is kept.
    pub output: Keep,
    /// Time between the polite and the forced end of a killed task.
    pub kill_grace: Duration,
    /// A job that fails so often in a row is disabled; 0 for never.
    pub disable_after_failures: u64,
    /// Between attempts of jobs that do not say how long to wait.
    pub retry_delay: Duration,
    /// What bounds its launches.
    pub limits: Limits,
    /// How people are told of things.
    pub notifier: Arc<Notifier>,
}

/// A started node, for whoever ends it.
pub struct NodeTask {
    stop: watch::Sender<bool>,
    life: JoinHandle<()>,
}

impl NodeTask {
    /// Finishes the commits that are in flight, releases what waits for them, gives up leadership. Tasks go on.
    pub async fn shutdown(self) {
        self.stop.send_replace(true);
        if let Err(panic) = self.life.await {
            error!(%panic, "the node ended with a defect");
        }
    }

    /// Goes no further, as where a step does not come back.
    #[cfg(test)]
    pub(crate) fn stand_still(&self) {
        self.life.abort();
    }
}

/// How long to wait before a question is put again to a store that did not answer.
const STORE_RETRY: Duration = Duration::from_secs(1);
/// How long a node that may not lead on a store leaves it to others before it looks again.
const ASIDE: Duration = Duration::from_secs(5);
/// Most elections are won at once, and then what a follower would load is loaded for nothing, beside what the leader
/// loads. A server that stays standby can wait for so long.
const FOLLOW_AFTER: Duration = Duration::from_millis(250);
/// A store that has begun our term has the batches before it at hand; else all is loaded.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(5);
/// The engine is told that the term is over, and not waited for longer: its successor does without.
const ENDED_WITHIN: Duration = Duration::from_secs(1);
/// How often old history and old output are removed.
const PRUNE_EVERY: Duration = Duration::from_secs(600);
/// Who has just been started has more urgent things to do than to look at every folder: by then it has launched what was
/// due, if it leads.
const TIDY_AFTER: Duration = Duration::from_secs(5);

/// Everything one life shares with its terms.
pub(super) struct Life {
    pub(super) options: NodeOptions,
    pub(super) projection: ProjectionHandle,
    pub(super) status: watch::Sender<Status>,
    pub(super) outlook: watch::Receiver<Outlook>,
    pub(super) asks: mpsc::Receiver<Ask>,
    pub(super) restores: mpsc::Receiver<Restore>,
    /// Tasks that the term before a restore knew, and that nobody may know any more.
    pub(super) strays: Vec<TaskId>,
    /// Whether the projection is a state that the store was in, from which batches lead to the present one.
    warm: Arc<AtomicBool>,
    standing: Arc<Standing>,
    pub(super) pulse: Arc<Pulse>,
    pub(super) stop: watch::Receiver<bool>,
}

/// Starts a node. It answers reads at once, from what it has, and keeps trying to lead.
pub fn start(options: NodeOptions) -> (Node, NodeTask) {
    let nothing = Projection::new(State::default(), Term { epoch: Epoch(0), seq: Seq(0) });
    let projection = ProjectionHandle::new(nothing);
    let (status, status_now) = watch::channel(Status { role: Role::Starting, troubles: Vec::new() });
    let (looking, outlook) = watch::channel(Outlook::default());
    tokio::spawn(outlook::look(options.store.clone(), projection.clone(), looking));
    let (asks, asked) = mpsc::channel(Node::ASKS_MAX);
    // One may wait behind the one that is under way; who comes then is told so.
    let (restores, restored) = mpsc::channel(1);
    let (stop, stopped) = watch::channel(false);
    let pulse = Arc::new(Pulse::new());
    let strange = Arc::<OnceLock<String>>::default();
    let node = Node {
        identity: Arc::new(options.identity.clone()),
        projection: projection.clone(),
        store: options.store.clone(),
        engine: options.engine.clone(),
        zones: options.zones.clone(),
        notifier: options.notifier.clone(),
        pulse: pulse.clone(),
        strange: strange.clone(),
        heritage: options.heritage.clone(),
        status: status_now,
        outlook: outlook.clone(),
        asks,
        restores,
    };
    let warm = Arc::<AtomicBool>::default();
    let standing = Arc::new(Standing {
        store: options.store.clone(),
        acquaintance: options.acquaintance.clone(),
        projection: projection.clone(),
        warm: warm.clone(),
        strange,
        refused: Mutex::default(),
    });
    let life = Life {
        options,
        projection,
        status,
        outlook,
        asks: asked,
        restores: restored,
        strays: Vec::new(),
        warm,
        standing,
        pulse,
        stop: stopped,
    };
    (node, NodeTask { stop, life: tokio::spawn(live(life)) })
}

/// Lives. Whoever ends by a defect keeps no other node from leading, and says that it does nothing any more.
async fn live(life: Life) {
    let (status, store) = (life.status.clone(), life.options.store.clone());
    if let Err(defect) = AssertUnwindSafe(life.run()).catch_unwind().await {
        let told = "the scheduler of this node has ended by a defect: restart this process";
        error!("{told}");
        status.send_replace(Status { role: Role::Standby, troubles: vec![told.into()] });
        store.resign().await;
        resume_unwind(defect);
    }
}

impl Life {
    async fn run(mut self) {
        let (pulse, store) = (self.pulse.clone(), self.options.store.clone());
        let tidying = tokio::spawn(tidy(self.options.engine.clone(), self.options.output));
        while !*self.stop.borrow() {
            let Some(term) = pulse.during(self.wait_for_term()).await else {
                // A place in line that nobody holds any more would keep others waiting.
                pulse.during(store.resign()).await;
                break;
            };
            info!(epoch = term.epoch.0, "elected");
            self.say(Role::Preparing(term.epoch), Vec::new());
            let loaded = pulse.during(self.load(term)).await;
            let fit = match &loaded {
                Ok(Some((state, _))) => pulse.during(self.may_lead(!state.jobs.is_empty())).await,
                Ok(None) => Ok(()),
                Err(unreadable) => Err(unreadable.clone()),
            };
            if let Err(strange) = fit {
                error!(reason = strange, "does not lead");
                pulse.during(store.resign()).await;
                pulse.during(self.stand_aside(strange)).await;
                continue;
            }
            let ended = match loaded.unwrap_or_default() {
                // Who is stopped while it looks has not looked to the end.
                Some((state, term)) if !*self.stop.borrow() => {
                    let pruning = tokio::spawn(prune(self.options.store.clone(), self.options.retention));
                    let ended = driver::lead(&mut self, state, term).await;
                    pruning.abort();
                    ended
                }
                _ => Ended::Stopped,
            };
            let deposed = match ended {
                Ended::Restored => {
                    // Leads on: what it has learned about tasks is not to be had elsewhere.
                    self.warm.store(false, Ordering::Relaxed);
                    self.say(Role::Preparing(term.epoch), Vec::new());
                    continue;
                }
                Ended::Stopped => false,
                Ended::Deposed(reason) => {
                    warn!(epoch = term.epoch.0, reason, "deposed");
                    true
                }
            };
            self.say(Role::Standby, Vec::new());
            pulse.during(store.resign()).await;
            let ended = tokio::time::timeout(ENDED_WITHIN, self.options.engine.end_term(term.epoch));
            let _ = pulse.during(ended).await;
            if !deposed {
                info!(epoch = term.epoch.0, "resigned");
            }
            pulse.during(self.notes_store()).await;
        }
        tidying.abort();
    }

    /// Whether the clock is that of the store, this is the store that the node means to work on, and nobody else has worked
    /// for it in between.
    async fn may_lead(&self, has_jobs: bool) -> Result<(), String> {
        // While a store is away nobody knows how its clock goes, and the first to come back to it may win: what it saw
        // before, if anything, may no longer be so.
        if let Ok(clock_ahead) = self.options.store.clock_ahead().await {
            Outlook { clock_ahead, ..Outlook::default() }.fit()?;
        }
        self.knows(has_jobs).await?;
        let Some(heritage) = &self.options.heritage else { return Ok(()) };
        let mut stop = self.stop.clone();
        tokio::select! {
            fit = heritage.look(has_jobs) => fit,
            () = stopped(&mut stop) => Ok(()),
        }
    }

    /// Whether this is the store that the node means to work on.
    async fn knows(&self, has_jobs: bool) -> Result<(), String> {
        let id = match self.options.store.store_id().await {
            Ok(Some(id)) => id,
            Ok(None) => return Ok(()),
            Err(problem) => return Err(problem.to_string()),
        };
        let acquaintance = &self.options.acquaintance;
        acquaintance.admits(&id, has_jobs)?;
        self.standing.notice(&id);
        if has_jobs && let Err(problem) = acquaintance.remember(&id) {
            warn!(%problem, "cannot note which store this is");
        }
        Ok(())
    }

    /// Notes which store this is, if jobs have come since it was looked at. A store that says nothing is waited for by who
    /// has nothing better to do.
    async fn notes_store(&self) {
        let has_jobs = !self.projection.read().state().jobs.is_empty();
        if !has_jobs {
            return;
        }
        let mut stop = self.stop.clone();
        let in_time = async {
            stopped(&mut stop).await;
            tokio::time::sleep(ENDED_WITHIN).await;
        };
        tokio::select! {
            noted = self.knows(has_jobs) => {
                if let Err(problem) = noted {
                    debug!(problem, "cannot note which store this is");
                }
            }
            () = in_time => {}
        }
    }

    /// Does nothing for a while but say why.
    async fn stand_aside(&mut self, reason: String) {
        self.say(Role::Standby, vec![reason]);
        let mut stop = self.stop.clone();
        let over = tokio::time::sleep(ASIDE);
        tokio::pin!(over);
        loop {
            tokio::select! {
                () = &mut over => return,
                () = stopped(&mut stop) => return,
                Some(ask) = self.asks.recv() => { let _ = ask.answer.send(Err(AskError::NotLeading)); }
                Some(order) = self.restores.recv() => { let _ = order.answer.send(Err(RestoreError::NotLeading)); }
            }
        }
    }

    pub(super) fn say(&self, role: Role, troubles: Vec<String>) {
        let status = Status { role, troubles };
        self.status.send_if_modified(|now| {
            let changed = *now != status;
            *now = status;
            changed
        });
    }

    /// Follows until this node is elected; `None` when it is stopped.
    async fn wait_for_term(&mut self) -> Option<Term> {
        let store = self.options.store.clone();
        let candidate = self.options.identity.clone();
        let standing = self.standing.clone();
        let following = tokio::spawn(follow(store.clone(), self.projection.clone(), self.warm.clone()));
        let (mut told, mut refused) = (None, None);
        let mut stop = self.stop.clone();
        let mut outlook = self.outlook.clone();
        let elected = 'attempts: loop {
            let attempt = async {
                // Nobody is known to be fit who has not looked.
                let _ = outlook.wait_for(|seen| seen.looked && seen.fit().is_ok()).await;
                if standing.check().await.is_err() {
                    return Ok(None);
                }
                store.begin_term(&candidate).await.map(Some)
            };
            tokio::pin!(attempt);
            let result = loop {
                tokio::select! {
                    result = &mut attempt => break result,
                    () = stopped(&mut stop) => break Err(StoreError::Unavailable("stopped".into())),
                    Some(ask) = self.asks.recv() => { let _ = ask.answer.send(Err(AskError::NotLeading)); }
                    Some(order) = self.restores.recv() => { let _ = order.answer.send(Err(RestoreError::NotLeading)); }
                    Ok(()) = self.outlook.changed() => {
                        let seen = self.outlook.borrow_and_update().clone();
                        let leader = seen.leader.clone().filter(|leader| leader.instance() != candidate.instance());
                        if leader.is_some() && leader != told {
                            let l = leader.clone().unwrap_or_default();
                            info!(leader = l.node, pid = l.pid, addresses = ?l.addresses, "another server holds this store; waiting as standby");
                            told = leader;
                        }
                        let unfit = seen.fit().err();
                        let waits = unfit.is_some();
                        let troubles = store.trouble().into_iter().chain(standing.refused()).chain(unfit);
                        self.say(Role::Standby, troubles.collect());
                        if waits {
                            continue 'attempts;
                        }
                    }
                }
            };
            if *self.stop.borrow() {
                break None;
            }
            match result {
                Ok(Some(term)) => break Some(term),
                // It may be put right while this node runs.
                Ok(None) => self.stand_aside(standing.refused().unwrap_or_default()).await,
                Err(problem) => {
                    self.say(Role::Standby, vec![problem.to_string()]);
                    // Once: it is looked at again, and mostly the same is found.
                    if refused.as_ref() != Some(&problem) {
                        error!(%problem, "cannot lead");
                        refused = Some(problem);
                    }
                    tokio::time::sleep(STORE_RETRY).await;
                }
            }
        };
        following.abort();
        // It may be about to show an older state.
        let _ = following.await;
        elected
    }

    /// The state that the term begins with, shown to readers: what this node has followed so far and the batches since,
    /// or all of it from the store; `None` where another term or the end of this node came first.
    /// # Errors
    /// Why trying again is of no use here. Another node, of another version, may be able to read it.
    async fn load(&mut self, term: Term) -> Result<Option<(State, Term)>, String> {
        if self.warm.load(Ordering::Relaxed) && self.catch_up(term).await {
            let projection = self.projection.read();
            return Ok(Some((projection.state().clone(), projection.term())));
        }
        self.warm.store(false, Ordering::Relaxed);
        while !*self.stop.borrow() {
            match self.options.store.load().await {
                Ok((state, loaded)) if loaded.epoch == term.epoch => {
                    self.projection.replace(Projection::new(state.clone(), loaded));
                    self.warm.store(true, Ordering::Relaxed);
                    tokio::spawn(learn(Arc::downgrade(&self.options.store), self.projection.clone()));
                    return Ok(Some((state, loaded)));
                }
                Ok((_, loaded)) => {
                    warn!(
                        ours = term.epoch.0,
                        theirs = loaded.epoch.0,
                        "a later term has begun before ours could"
                    );
                    return Ok(None);
                }
                Err(problem @ (StoreError::Damaged(_) | StoreError::Newer { .. })) => {
                    return Err(problem.to_string());
                }
                Err(problem) => {
                    warn!(%problem, "cannot load the state; trying again");
                    self.say(Role::Preparing(term.epoch), vec![problem.to_string()]);
                    tokio::time::sleep(STORE_RETRY).await;
                }
            }
        }
        Ok(None)
    }

    /// Goes from what this node has followed to the first batch of the term; whether it came there.
    async fn catch_up(&self, term: Term) -> bool {
        while self.projection.seq() < term.seq {
            let batches =
                tokio::time::timeout(CATCH_UP_WITHIN, self.options.store.follow(self.projection.seq()));
            let Ok(Ok(batches)) = batches.await else { return false };
            if batches.into_iter().any(|batch| self.projection.apply(&Arc::new(batch)).is_err()) {
                return false;
            }
        }
        self.projection.read().term() == term
    }
}

/// Waits until the node is to stop.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that whoever would stop the node is gone, which stops it too.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Keeps a standby's projection warm.
async fn follow(store: Arc<dyn Store>, projection: ProjectionHandle, warm: Arc<AtomicBool>) {
    tokio::time::sleep(FOLLOW_AFTER).await;
    loop {
        if !warm.load(Ordering::Relaxed) {
            match store.load().await {
                Ok((state, term)) => {
                    projection.replace(Projection::new(state, term));
                    warm.store(true, Ordering::Relaxed);
                    tokio::spawn(learn(Arc::downgrade(&store), projection.clone()));
                }
                Err(_) => tokio::time::sleep(STORE_RETRY).await,
            }
            continue;
        }
        match store.follow(projection.seq()).await {
            Ok(batches) => {
                if batches.into_iter().any(|batch| projection.apply(&Arc::new(batch)).is_err()) {
                    warm.store(false, Ordering::Relaxed);
                }
            }
            Err(StoreError::Gone { .. }) => warm.store(false, Ordering::Relaxed),
            Err(_) => tokio::time::sleep(STORE_RETRY).await,
        }
    }
}

/// Reads how the last run of each job has ended, which takes seconds where there are many: until it is told, or nobody
/// has the store any more. Whoever is elected meanwhile goes on with it.
async fn learn(store: Weak<dyn Store>, projection: ProjectionHandle) {
    let mut told = false;
    while let Some(store) = store.upgrade() {
        match store.last_runs().await {
            Ok(last_runs) => return projection.learn(last_runs),
            Err(problem) if !told => {
                told = true;
                warn!(%problem, "cannot read the last outcomes; trying again");
            }
            Err(_) => {}
        }
        drop(store);
        tokio::time::sleep(STORE_RETRY).await;
    }
}

/// Removes old history now and then, while this node leads.
async fn prune(store: Arc<dyn Store>, retention: Retention) {
    let mut every = tokio::time::interval(PRUNE_EVERY);
    loop {
        every.tick().await;
        match store.prune(retention, Timestamp::now()).await {
            Ok(0) => {}
            Ok(removed) => info!(removed, "removed old history"),
            Err(problem) => warn!(%problem, "cannot remove old history"),
        }
    }
}

/// Removes old output now and then, whoever leads: what a node has of its last term is there for as long as elsewhere.
async fn tidy(engine: Arc<dyn Engine>, output: Keep) {
    let mut every = tokio::time::interval_at(Instant::now() + TIDY_AFTER, PRUNE_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        forget_old(&*engine, output).await;
    }
}

/// Removes all output that is old, however many calls that takes.
async fn forget_old(engine: &dyn Engine, output: Keep) {
    loop {
        match engine.forget_old(output).await {
            Ok(forgotten) => {
                if forgotten.tasks > 0 {
                    info!(tasks = forgotten.tasks, bytes = forgotten.bytes, "removed old output");
                }
                if !forgotten.more {
                    return;
                }
            }
            Err(problem) => {
                // An engine that is away says so itself.
                if engine.readiness() == Readiness::Ready {
                    warn!(engine = engine.name(), %problem, "cannot remove old output");
                } else {
                    debug!(engine = engine.name(), %problem, "cannot remove old output");
                }
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use engine::fake::FakeMachine;

    use super::*;

    /// So many tasks may have become old since the last time that one call does not do.
    #[tokio::test(start_paused = true)]
    async fn all_that_is_old_is_removed_each_time_and_not_with_the_start() {
        let machine = FakeMachine::new();
        machine.set_old(25);
        let tidying = tokio::spawn(tidy(Arc::new(machine.engine()), Keep::EVERYTHING));
        let after = async |time| {
            tokio::time::sleep(time).await;
            machine.old()
        };
        assert_eq!(after(TIDY_AFTER / 2).await, 25);
        assert_eq!(after(TIDY_AFTER).await, 0);
        machine.set_old(35);
        assert_eq!(after(PRUNE_EVERY).await, 0);
        tidying.abort();
    }
}
