//! Runs tasks on a Mesos cluster, as a framework of the v1 scheduler API.
//!
//! The engine has no disk: the node keeps for it where tasks are and under which id it is known, see [`Memory`].
//! **At most once.** A task waits here until an offer fits; where it is to run is told and made durable under the epoch that
//! leads; only then the offer is accepted. So a deposed leader sends no task, and whoever leads next knows of every task
//! that may be on an agent, and asks for it there.
//! **One subscription.** The epoch is confirmed before every one; the master ends that of a former leader.
//! **Its end** is what Mesos says, told until it is acknowledged, and acknowledged to Mesos only then.
//!
//! In reading order: `tasks.rs` decides, `connection.rs` speaks with the master, `matching.rs` finds places.

mod backoff;
mod connection;
pub mod constraints;
mod examine;
pub mod master;
pub mod matching;
pub mod misfit;
pub mod operator;
mod options;
pub mod place;
mod recordio;
pub mod resources;
pub mod sandbox;
mod status;
pub mod task_info;
mod tasks;
mod wire;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use scheduler::ids::{Epoch, TaskId};
use scheduler::run::AttemptEnd;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

pub use self::master::{Masters, NoMaster};
pub use self::options::{MesosLogin, MesosOptions, OldTasks};

use self::place::Place;
use self::tasks::{Act, Manners, Table};
use crate::{
    EVENTS_MAX, Engine, EngineError, Finding, Known, Launch, Memory, Output, Readiness, Stream, TaskEvent,
    since_boot,
};

/// The name that tasks are launched under which have no place yet.
pub const UNPLACED: &str = tasks::UNPLACED;

/// How often it is looked what is due.
const TICK: Duration = Duration::from_millis(250);
/// Who has not looked for so long was stopped, and another may lead by now: shorter than any lease, and longer than a busy
/// machine keeps anybody waiting.
const STOPPED_AFTER: Duration = Duration::from_secs(3);

/// The engine, as the server sees it. Dropping it ends the subscription and leaves tasks alone.
pub struct MesosEngine {
    shared: Arc<Shared>,
    ticking: JoinHandle<()>,
    /// The subscription of the present term.
    subscription: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

/// What the parts of the engine share.
struct Shared {
    options: MesosOptions,
    memory: Arc<dyn Memory>,
    http: reqwest::Client,
    sandboxes: sandbox::Sandboxes,
    state: Mutex<State>,
    /// There is news for the node.
    arrived: Notify,
    /// There is something to tell the master.
    stirred: Notify,
}

struct State {
    epoch: Option<Epoch>,
    /// A later epoch leads, as the store says.
    deposed: Option<EngineError>,
    table: Table,
    events: VecDeque<TaskEvent>,
    calls: VecDeque<Act>,
    /// Where the master is that listens, and our id there.
    subscribed: Option<(String, String)>,
    not_ready: String,
    /// When the master gave a sign of life last, since boot.
    heard: Option<Duration>,
    /// When it was looked last what is due, since boot.
    looked: Duration,
    /// This process was stopped since the last subscription.
    stopped: bool,
}

impl MesosEngine {
    /// Begins nothing before the first term. To be called in a tokio runtime.
    /// # Errors
    /// If no TLS can be had.
    pub fn open(options: MesosOptions, memory: Arc<dyn Memory>) -> std::io::Result<Self> {
        let http = connection::client().map_err(std::io::Error::other)?;
        let sandboxes = sandbox::Sandboxes::new(options.login.clone()).map_err(std::io::Error::other)?;
        let manners = Manners {
            decline_for: options.decline_for,
            revive_every: options.revive_every,
            reconcile_every: options.reconcile_every,
            share: options.share,
            kill_grace: options.kill_grace,
            old_tasks: options.old_tasks,
        };
        let state = State {
            epoch: None,
            deposed: None,
            table: Table::new(manners),
            events: VecDeque::new(),
            calls: VecDeque::new(),
            subscribed: None,
            not_ready: format!("it has not looked for a master at {} yet", options.masters),
            heard: None,
            looked: since_boot(),
            stopped: false,
        };
        let shared = Arc::new(Shared {
            options,
            memory,
            http,
            sandboxes,
            state: Mutex::new(state),
            arrived: Notify::new(),
            stirred: Notify::new(),
        });
        let ticking = tokio::spawn(tick(shared.clone()));
        Ok(Self { shared, ticking, subscription: tokio::sync::Mutex::new(None) })
    }
}

impl Drop for MesosEngine {
    fn drop(&mut self) {
        self.ticking.abort();
        if let Some(subscription) = self.subscription.get_mut().take() {
            subscription.abort();
        }
    }
}

async fn tick(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(TICK).await;
        shared.was_stopped();
        shared.change(|table, now| table.tick(now));
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // The table is whole between two changes, and nothing panics within one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the table, and sees to what comes of it.
    fn change<T>(&self, change: impl FnOnce(&mut Table, Duration) -> T) -> T {
        let mut state = self.state();
        let done = change(&mut state.table, since_boot());
        self.see_to(&mut state);
        done
    }

    fn see_to(&self, state: &mut State) {
        for act in state.table.take() {
            match act {
                Act::Tell(event) => state.events.push_back(event),
                act => state.calls.push_back(act),
            }
        }
        if !state.events.is_empty() {
            self.arrived.notify_one();
        }
        if !state.calls.is_empty() {
            self.stirred.notify_one();
        }
    }

    /// The next thing to tell the master. Cancel-safe.
    async fn next_call(&self) -> Act {
        loop {
            if let Some(act) = self.state().calls.pop_front() {
                return act;
            }
            self.stirred.notified().await;
        }
    }

    fn subscribed(&self, framework: &str, master: &str) {
        let mut state = self.state();
        state.subscribed = Some((master.to_owned(), framework.to_owned()));
        state.heard = Some(since_boot());
        state.stopped = false;
        state.table.subscribed(since_boot(), framework);
        self.see_to(&mut state);
    }

    /// Whether this process was stopped since the last subscription, for as long as somebody else may lead by now.
    fn was_stopped(&self) -> bool {
        let mut state = self.state();
        let now = since_boot();
        state.stopped |= now.saturating_sub(state.looked) > STOPPED_AFTER;
        state.looked = now;
        state.stopped
    }

    fn heard(&self) {
        self.state().heard = Some(since_boot());
    }

    /// Something that was not sent after all: with the rest that never will be, see [`Self::unsubscribed`].
    fn give_back(&self, act: Act) {
        self.state().calls.push_front(act);
    }

    /// The master listens no more. What was not sent yet never will be.
    fn unsubscribed(&self) {
        let mut state = self.state();
        state.subscribed = None;
        let calls = std::mem::take(&mut state.calls);
        state.table.unsubscribed();
        for act in calls {
            if let Act::Accept { tasks, .. } = act {
                state.table.not_accepted(since_boot(), &tasks, None);
            }
        }
        self.see_to(&mut state);
    }

    fn not_ready(&self, why: String) {
        self.state().not_ready = why;
    }

    fn deposed(&self, epoch: Epoch, deposed: EngineError) {
        let mut state = self.state();
        if state.epoch == Some(epoch) {
            state.not_ready = deposed.to_string();
            state.deposed = Some(deposed);
        }
    }

    fn check(&self, ours: Epoch) -> Result<(), EngineError> {
        let state = self.state();
        match state.epoch {
            Some(newest) if ours < newest => Err(EngineError::Deposed { ours, newest }),
            Some(newest) if ours == newest => state.deposed.clone().map_or(Ok(()), Err),
            _ => Err(EngineError::Refused("the term has not begun here".into())),
        }
    }

    /// Under which id the master knows us, or did.
    fn framework(&self) -> Option<String> {
        let subscribed = self.state().subscribed.as_ref().map(|(_, framework)| framework.clone());
        subscribed.or_else(|| self.memory.recall().map(|note| note.to_string())).filter(|id| !id.is_empty())
    }

    /// What is known of a task that the table does not have, by where the node says that it is.
    async fn known_elsewhere(&self, task: &TaskId) -> Result<Known, EngineError> {
        let Some(node) = self.memory.node_of(task).await? else {
            // Nobody has launched it. Should it be there all the same, its news come.
            self.change(|table, _| table.ask_for_stray(task));
            return Ok(Known::NeverBegan);
        };
        if *node == *UNPLACED {
            // No former leader can place it any more, and this one has not.
            return Ok(Known::NeverBegan);
        }
        let Ok(place) = node.parse::<Place>() else {
            // It was launched on another engine.
            return Ok(Known::Unknown);
        };
        if let Some(framework) = self.framework().filter(|framework| *framework != place.framework) {
            let message = format!(
                "it was of the framework {}, which Mesos has removed; this one is {framework}",
                place.framework
            );
            let end = AttemptEnd::Lost { message: message.into() };
            self.change(|table, _| table.ended(task, end.clone()));
            return Ok(Known::Ended(end));
        }
        self.change(|table, _| {
            table.ask(task, &place);
            Ok(table.known(task).unwrap_or(Known::Unknown))
        })
    }

    async fn known(&self, task: &TaskId) -> Result<Known, EngineError> {
        let known = self.state().table.known(task);
        match known {
            Some(known) => Ok(known),
            None => self.known_elsewhere(task).await,
        }
    }
}

#[async_trait]
impl Engine for MesosEngine {
    fn name(&self) -> &'static str {
        "mesos"
    }

    async fn begin_term(&self, epoch: Epoch) -> Result<(), EngineError> {
        let mut subscription = self.subscription.lock().await;
        let before = self.shared.state().epoch;
        if let Some(newest) = before.filter(|newest| epoch < *newest) {
            return Err(EngineError::Deposed { ours: epoch, newest });
        }
        self.shared.memory.remember(epoch, None).await?;
        let runs = subscription.as_ref().is_some_and(|running| !running.is_finished());
        if before == Some(epoch) && runs {
            self.shared.change(|table, _| table.tell_open_ends());
            return Ok(());
        }
        if let Some(running) = subscription.take() {
            running.abort();
            let _ = running.await; // It was aborted, or had ended.
        }
        {
            let mut state = self.shared.state();
            (state.epoch, state.deposed, state.subscribed) = (Some(epoch), None, None);
            state.calls.clear();
            state.events.clear();
            state.table.begin_term();
            self.shared.see_to(&mut state);
        }
        *subscription = Some(tokio::spawn(connection::for_ever(self.shared.clone(), epoch)));
        Ok(())
    }

    async fn end_term(&self, epoch: Epoch) {
        let mut subscription = self.subscription.lock().await;
        if self.shared.state().epoch != Some(epoch) {
            return;
        }
        if let Some(running) = subscription.take() {
            running.abort();
            let _ = running.await; // It was aborted, or had ended.
            self.shared.unsubscribed();
            self.shared
                .not_ready("this node leads no more, and another server speaks with the master".into());
        }
    }

    async fn launch(&self, epoch: Epoch, launch: Launch) -> Result<Known, EngineError> {
        self.shared.check(epoch)?;
        match self.shared.known(&launch.task).await? {
            Known::NeverBegan => {}
            Known::Unknown => {
                return Err(EngineError::Unknown("it may be where it was placed before".into()));
            }
            known => return Ok(known),
        }
        if since_boot() > launch.not_after {
            return Err(EngineError::TooLate);
        }
        if let Err(unable) = task_info::check(&launch.spec) {
            let end = AttemptEnd::failed(format!("{}: {}", unable.message, unable.hint));
            self.shared.change(|table, _| table.ended(&launch.task, end.clone()));
            return Ok(Known::Ended(end));
        }
        Ok(self.shared.change(|table, now| table.launch(now, &launch.task, launch.spec)))
    }

    async fn go_ahead(
        &self,
        epoch: Epoch,
        task: &TaskId,
        node: &str,
        not_after: Duration,
    ) -> Result<(), EngineError> {
        self.shared.check(epoch)?;
        if since_boot() > not_after {
            return Err(EngineError::TooLate);
        }
        self.shared.change(|table, now| table.go_ahead(now, task, node, not_after));
        Ok(())
    }

    async fn kill(
        &self,
        epoch: Epoch,
        task: &TaskId,
        grace: Duration,
        not_after: Duration,
    ) -> Result<(), EngineError> {
        self.shared.check(epoch)?;
        if since_boot() > not_after {
            return Err(EngineError::TooLate);
        }
        self.shared.known(task).await?;
        self.shared.change(|table, now| table.kill(now, task, grace));
        Ok(())
    }

    async fn reconcile(&self, epoch: Epoch, tasks: &[TaskId]) -> Result<Vec<Known>, EngineError> {
        self.shared.check(epoch)?;
        let mut answers = Vec::with_capacity(tasks.len());
        for task in tasks {
            answers.push(self.shared.known(task).await?);
        }
        self.shared.change(|table, now| table.ask_due(now));
        Ok(answers)
    }

    async fn events(&self) -> Vec<TaskEvent> {
        loop {
            {
                let events = &mut self.shared.state().events;
                let count = events.len().min(EVENTS_MAX);
                if count > 0 {
                    return events.drain(..count).collect();
                }
            }
            self.shared.arrived.notified().await;
        }
    }

    async fn acknowledge(&self, tasks: &[TaskId]) -> Result<(), EngineError> {
        self.shared.change(|table, _| tasks.iter().for_each(|task| table.acknowledge(task)));
        Ok(())
    }

    async fn output(&self, task: &TaskId, stream: Stream, offset: u64) -> Result<Output, EngineError> {
        let gone = || EngineError::NoSuchTask(task.clone());
        let node = self.shared.memory.node_of(task).await?.ok_or_else(gone)?;
        if *node == *UNPLACED {
            return Ok(Output { next: offset, ..Output::default() });
        }
        let place = node.parse::<Place>().map_err(|_| gone())?;
        // What runs was asked for at the begin of the term, and is in the table.
        let known = self.shared.state().table.known(task);
        let writer = match known {
            None | Some(Known::Ended(_) | Known::NeverBegan) => sandbox::Writer::Gone,
            Some(_) => sandbox::Writer::Alive,
        };
        self.shared.sandboxes.output(task, &place, stream, offset, writer).await
    }

    fn readiness(&self) -> Readiness {
        let state = self.shared.state();
        match &state.subscribed {
            Some(_) => Readiness::Ready,
            None => Readiness::NotReady { reason: state.not_ready.clone() },
        }
    }

    fn notes(&self) -> Vec<String> {
        self.shared.state().table.notes()
    }

    async fn examine(&self) -> Vec<Finding> {
        examine::examine(&self.shared).await
    }

    fn holds(&self, task: &TaskId) -> bool {
        self.shared.state().table.holds(task)
    }

    fn unplaced(&self) -> Option<&'static str> {
        Some(UNPLACED)
    }

    fn has_place(&self, node: &str) -> bool {
        node == UNPLACED || node.parse::<Place>().is_ok()
    }

    fn waits_for(&self, task: &TaskId) -> Vec<String> {
        let state = self.shared.state();
        let mut told = state.table.waits_for(task);
        if told.is_empty() && !state.table.holds(task) {
            return told;
        }
        let heard = state.heard.map(|heard| since_boot().saturating_sub(heard).as_secs());
        told.push(match (&state.subscribed, heard) {
            (Some((master, _)), Some(heard)) => format!("the master at {master} was heard {heard} s ago"),
            (_, Some(heard)) => format!("{}; a master was heard {heard} s ago", state.not_ready),
            (_, None) => state.not_ready.clone(),
        });
        told
    }
}
