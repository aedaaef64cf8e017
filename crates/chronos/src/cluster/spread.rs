//! The engines of all nodes as one: tasks begin on the node that leads, and what former leaders began is asked for where it
//! runs.
//!
//! A node that answers is told of the term first, so that a late order of a former leader is refused there too. Of one
//! that does not answer nothing is known, unless it has said that its tasks end when it is cut off, and has been silent
//! for long enough: then they have ended, and nobody knows how. What is known of them is in `table`, how long each node has
//! been silent in `heard`.

mod heard;
mod table;

pub(crate) use heard::Neighbour;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use engine::{
    EVENTS_MAX, Engine, EngineError, Finding, Forgotten, Keep, Known, Launch, Output, Readiness, Stream,
    TaskEvent, TaskSpec,
};
use futures_util::future::join_all;
use scheduler::GivenUp;
use scheduler::ids::{Epoch, TaskId};
use scheduler::run::RunState;
use store::{Store, StoreError};
use tokio::sync::Notify;

use super::address::Address;
use super::orders::{Asked, Piece, Told};
use super::{TO, TOLD_EVERY, reach};
use crate::config::Credentials;
use crate::node::Node;
use heard::Heard;
use table::{Place, Question, Silence, Table};

/// How often tasks that run elsewhere are asked for.
const ASKED_EVERY: Duration = Duration::from_secs(1);
/// Tasks in one question.
const TASKS_MAX: usize = 256;
/// Outputs of which it is remembered where they are.
const OUTPUTS_MAX: usize = 1024;
/// What the store says of the nodes is believed for so long.
const NEIGHBOURS_FOR: Duration = Duration::from_secs(1);
/// Another node answers within this, or does not.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// The engines of other nodes are counted from here on: more than there are on one node.
const OTHERS_FROM: usize = 64;

/// See the module.
pub struct Spread {
    local: Arc<dyn Engine>,
    /// The id of this node.
    here: String,
    store: Arc<dyn Store>,
    login: Option<Credentials>,
    /// The time since boot.
    clock: Box<dyn Fn() -> Duration + Send + Sync>,
    others: OnceLock<Others>,
    state: Arc<Mutex<State>>,
    arrived: Notify,
}

/// What is known once the node has begun.
struct Others {
    node: Node,
    http: reqwest::Client,
}

#[derive(Default)]
struct State {
    epoch: Option<Epoch>,
    table: Table,
    /// The nodes that follow the present term, by process.
    follow: BTreeSet<String>,
    /// Where each process was reached last.
    found: BTreeMap<String, Address>,
    /// On which node the output of a task was found.
    outputs: BTreeMap<TaskId, String>,
    /// What each node says, and since when.
    heard: Heard,
    /// What that was when the store was asked last, and when since boot.
    neighbours: Option<(Duration, Arc<Vec<Neighbour>>)>,
    /// The other nodes whose engines were spoken of, by their numbers.
    numbers: Vec<Arc<str>>,
}

impl Spread {
    /// `here` is the id of this node, whose engine is `local`; `login` is what other nodes want to hear; `clock` tells the
    /// time since boot.
    pub fn new(
        local: Arc<dyn Engine>,
        here: String,
        store: Arc<dyn Store>,
        login: Option<Credentials>,
        clock: impl Fn() -> Duration + Send + Sync + 'static,
    ) -> Arc<Self> {
        let (others, state, arrived) = (OnceLock::new(), Arc::default(), Notify::new());
        Arc::new(Self { local, here, store, login, clock: Box::new(clock), others, state, arrived })
    }

    /// From here on the other nodes can be asked.
    pub fn begin(self: &Arc<Self>, node: &Node, http: reqwest::Client) {
        let _ = self.others.set(Others { node: node.clone(), http });
        tokio::spawn(watch(Arc::downgrade(self)));
        tokio::spawn(listen(Arc::downgrade(self)));
    }

    /// Whether nodes log in to each other.
    pub(super) fn has_login(&self) -> bool {
        self.login.is_some()
    }

    /// The engine of this node, for those that ask from elsewhere.
    pub fn local(&self) -> &Arc<dyn Engine> {
        &self.local
    }

    /// An operator says that this node will not come back: its tasks count as ended, unless it is heard of again.
    pub fn forget(&self, node: &str) {
        let now = self.now();
        let mut state = self.state();
        state.table.forget(node, now);
        // What was heard before is not to hide a sign of life.
        state.neighbours = None;
    }

    /// Whether that is still so.
    pub(crate) fn is_forgotten(&self, node: &str) -> bool {
        self.state().table.is_forgotten(node)
    }

    /// The ends of all tasks of this node are durable.
    pub(crate) fn is_settled(&self, node: &str) {
        self.state().table.is_settled(node);
    }

    /// For how long a node has said nothing new; not at all where it is not known.
    pub(crate) async fn silent_for(&self, node: &str) -> Result<Duration, StoreError> {
        let neighbours = self.neighbours().await?;
        let known = neighbours.iter().find(|neighbour| neighbour.candidate.node == node);
        Ok(known.map_or(Duration::ZERO, |neighbour| neighbour.silent_for))
    }

    fn now(&self) -> Duration {
        (self.clock)()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held, so a poisoned one is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the state has a task.
    fn place(&self, task: &TaskId) -> Place {
        let Some(others) = self.others.get() else { return Place::Here };
        let projection = others.node.projection.read();
        let state = projection.state();
        for run in task.keys().filter_map(|key| state.runs.get(&key)) {
            let RunState::Running(live) = &run.state else { continue };
            if live.task != *task {
                continue;
            }
            if *live.node == *self.here || self.local.has_place(&live.node) {
                return Place::Here;
            }
            // A job that is gone, that cannot be read, or that was changed since, may have had one.
            let contained = state
                .jobs
                .get(&run.key.job)
                .is_none_or(|job| job.changed > live.launched || job.body.contains("\"container\""));
            return Place::There { node: live.node.clone(), contained };
        }
        match state.given_up(task) {
            Some(GivenUp { node, .. }) if **node == *self.here || self.local.has_place(node) => Place::Here,
            Some(GivenUp { node, .. }) => Place::GivenUp { node: node.clone() },
            None => Place::Nowhere,
        }
    }

    /// The other node that has to do with a task: where it is, or where it was when it was given up.
    fn other_node(&self, task: &TaskId) -> Option<Arc<str>> {
        match self.place(task) {
            Place::Here => None,
            Place::There { node, .. } | Place::GivenUp { node } => Some(node),
            Place::Nowhere => self.state().table.node_of(task).cloned(),
        }
    }

    /// All nodes that have said something, and how long each has been silent.
    /// # Errors
    /// What the store says.
    pub(super) async fn neighbours(&self) -> Result<Arc<Vec<Neighbour>>, StoreError> {
        let asked = self.now();
        if let Some((at, neighbours)) = &self.state().neighbours
            && asked.saturating_sub(*at) < NEIGHBOURS_FOR
        {
            return Ok(neighbours.clone());
        }
        let members = self.store.members().await?;
        let answered = self.now();
        let mut state = self.state();
        let neighbours = Arc::new(state.heard.hear(members, asked, answered));
        let silences = neighbours.iter().map(|it| (&*it.candidate.node, it.silent_for));
        state.table.heard(silences, asked);
        state.neighbours = Some((asked, neighbours.clone()));
        Ok(neighbours)
    }

    /// Tells another node something, or asks it. It is told of the term first.
    async fn tell(&self, node: &str, asked: &Asked) -> Result<Told, EngineError> {
        let unknown = |why: String| EngineError::Unknown(format!("node {node}: {why}"));
        let others = self.others.get().ok_or_else(|| unknown("this node has just begun".into()))?;
        let neighbours = self.neighbours().await.map_err(|problem| unknown(problem.to_string()))?;
        let known = neighbours.iter().find(|neighbour| neighbour.candidate.node == node);
        let candidate = &known.ok_or_else(|| unknown("it has never said anything".into()))?.candidate;
        let instance = candidate.instance();
        let last = self.state().found.get(&instance).cloned();
        let at = reach::reach(&others.http, candidate, last.as_ref(), self.login.is_some())
            .await
            .map_err(unknown)?;
        self.state().found.insert(instance.clone(), at.clone());
        if !self.state().follow.contains(&instance) {
            let term = Asked { begin_term: true, ..Asked::of(Epoch(asked.epoch)) };
            self.send(others, &at, &instance, &term).await?;
            self.state().follow.insert(instance.clone());
        }
        let told = self.send(others, &at, &instance, asked).await;
        if told.is_err() {
            // It may have begun anew.
            self.state().follow.remove(&instance);
        }
        told
    }

    async fn send(
        &self,
        others: &Others,
        at: &Address,
        instance: &str,
        asked: &Asked,
    ) -> Result<Told, EngineError> {
        let unknown = |why: String| EngineError::Unknown(format!("node {instance} at {at}: {why}"));
        let mut request =
            others.http.post(format!("{}/v1/engine", at.base())).header(TO, instance).json(asked);
        if let Some(Credentials { user, both }) = &self.login {
            request = request.basic_auth(user, both.0.split_once(':').map(|(_, password)| password));
        }
        let answer =
            request.timeout(ANSWER_WITHIN).send().await.map_err(|e| unknown(e.without_url().to_string()))?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(|e| unknown(e.without_url().to_string()))?;
        if !status.is_success() {
            let text = String::from_utf8_lossy(&body);
            return Err(unknown(format!("{status}: {}", text.chars().take(200).collect::<String>())));
        }
        serde_json::from_slice(&body).map_err(|e| unknown(format!("its answer makes no sense: {e}")))
    }

    /// What is known of tasks of another node.
    async fn ask(&self, epoch: Epoch, node: &Arc<str>, tasks: &[(TaskId, Place)]) -> Vec<Known> {
        let names: Vec<TaskId> = tasks.iter().map(|(task, _)| task.clone()).collect();
        let asked = Asked { reconcile: Asked::names(&names), ..Asked::of(epoch) };
        let left_alone = self.state().table.leaves_alone(node, self.now());
        let told = if left_alone {
            Err(EngineError::Unknown("it is not asked now".into()))
        } else {
            self.tell(node, &asked).await
        };
        match told {
            Ok(told) if told.known.len() == tasks.len() => {
                told.known.into_iter().map(|known| known.into()).collect()
            }
            Ok(_) => vec![Known::Unknown; tasks.len()],
            Err(problem) => {
                if !left_alone {
                    self.state().table.falls_silent(node, self.now());
                }
                let silence = self.silence(node).await;
                tracing::debug!(%problem, ?silence, "a node was asked for its tasks");
                tasks.iter().map(|(_, place)| silence.known(node, place)).collect()
            }
        }
    }

    /// What it means that a node does not answer.
    async fn silence(&self, node: &str) -> Silence {
        let Ok(neighbours) = self.neighbours().await else { return Silence::Open };
        if self.is_forgotten(node) {
            return Silence::Forgotten;
        }
        let known = neighbours.iter().find(|neighbour| neighbour.candidate.node == node);
        if known.is_some_and(Neighbour::has_ended_its_tasks) { Silence::CutOff } else { Silence::Open }
    }

    /// Asks another node, and goes on asking until the ends of these tasks are acknowledged.
    async fn ask_and_watch(&self, epoch: Epoch, node: &Arc<str>, tasks: &[(TaskId, Place)]) -> Vec<Known> {
        let answers = self.ask(epoch, node, tasks).await;
        let mut state = self.state();
        if state.epoch == Some(epoch) {
            for ((task, _), known) in tasks.iter().zip(&answers) {
                // One that was launched here meanwhile is so in the state before it is launched.
                state.table.note(task, node, known, &self.place(task));
            }
        }
        answers
    }

    /// Output that is not here, of whichever node has it.
    async fn output_elsewhere(
        &self,
        task: &TaskId,
        stream: Stream,
        offset: u64,
    ) -> Result<Output, EngineError> {
        let nothing = || EngineError::NoSuchTask(task.clone());
        let Some(epoch) = self.state().epoch else { return Err(nothing()) };
        let piece = Piece { task: task.to_string(), stderr: stream == Stream::Stderr, offset };
        let asked = Asked { output: Some(piece), ..Asked::of(epoch) };
        let mut silent = None;
        // Where it was found last comes first.
        let last = self.state().outputs.get(task).cloned();
        let neighbours =
            self.neighbours().await.map_err(|problem| EngineError::Unknown(problem.to_string()))?;
        let others = neighbours.iter().map(|neighbour| neighbour.candidate.node.clone());
        let others = others.filter(|node| *node != self.here && Some(node) != last.as_ref());
        for node in last.iter().cloned().chain(others) {
            match self.tell(&node, &asked).await {
                Ok(Told { output: Some(output), .. }) => {
                    let mut state = self.state();
                    if state.outputs.len() >= OUTPUTS_MAX {
                        state.outputs.clear();
                    }
                    state.outputs.insert(task.clone(), node);
                    return Ok(output.into());
                }
                Ok(_) => {}
                Err(problem) => silent = Some(problem),
            }
        }
        // It may be where nobody answers.
        Err(silent.unwrap_or_else(nothing))
    }

    /// Asks for everything that is watched. No node waits for the answer of another.
    fn look(self: &Arc<Self>) {
        let (epoch, questions) = {
            let mut state = self.state();
            let Some(epoch) = state.epoch else { return };
            (epoch, state.table.questions(|task| self.place(task)))
        };
        for (node, tasks) in questions {
            let spread = self.clone();
            tokio::spawn(async move {
                for tasks in tasks.chunks(TASKS_MAX) {
                    spread.look_at(epoch, &node, tasks).await;
                }
                let mut state = spread.state();
                if state.epoch == Some(epoch) {
                    state.table.has_been_asked(&node);
                }
            });
        }
    }

    /// Asks for some of what is watched, and tells what is new.
    async fn look_at(&self, epoch: Epoch, node: &Arc<str>, tasks: &[(TaskId, Place)]) {
        let known = self.ask(epoch, node, tasks).await;
        let mut state = self.state();
        // What was heard in the name of another term may be old.
        if state.epoch != Some(epoch) {
            return;
        }
        for ((task, _), known) in tasks.iter().zip(known) {
            state.table.answered(task, node, known);
        }
        if state.table.has_news() {
            self.arrived.notify_one();
        }
    }

    /// What is new of tasks of other nodes.
    fn news(&self) -> Vec<TaskEvent> {
        self.state().table.take(EVENTS_MAX, |task| self.place(task))
    }
}

/// Looks for ever.
async fn watch(spread: std::sync::Weak<Spread>) {
    loop {
        tokio::time::sleep(ASKED_EVERY).await;
        let Some(spread) = spread.upgrade() else { return };
        spread.look();
    }
}

/// Listens for ever, whoever leads: who comes to lead knows by then how long each of the others has been silent. Why the
/// store does not answer is told elsewhere.
async fn listen(spread: std::sync::Weak<Spread>) {
    while let Some(spread) = spread.upgrade() {
        let _ = spread.neighbours().await;
        drop(spread);
        tokio::time::sleep(TOLD_EVERY).await;
    }
}

#[async_trait]
impl Engine for Spread {
    fn name(&self) -> &'static str {
        self.local.name()
    }

    async fn begin_term(&self, epoch: Epoch) -> Result<(), EngineError> {
        {
            let mut state = self.state();
            if state.epoch != Some(epoch) {
                let mut table = std::mem::take(&mut state.table);
                table.begin_term();
                let heard = std::mem::take(&mut state.heard);
                *state = State { epoch: Some(epoch), table, heard, ..State::default() };
            }
        }
        self.local.begin_term(epoch).await
    }

    async fn end_term(&self, epoch: Epoch) {
        self.local.end_term(epoch).await;
    }

    async fn launch(&self, epoch: Epoch, launch: Launch) -> Result<Known, EngineError> {
        self.state().table.launched(&launch.task);
        self.local.launch(epoch, launch).await
    }

    async fn go_ahead(
        &self,
        epoch: Epoch,
        task: &TaskId,
        node: &str,
        not_after: Duration,
    ) -> Result<(), EngineError> {
        self.local.go_ahead(epoch, task, node, not_after).await
    }

    async fn kill(
        &self,
        epoch: Epoch,
        task: &TaskId,
        grace: Duration,
        not_after: Duration,
    ) -> Result<(), EngineError> {
        let Some(node) = self.other_node(task) else {
            return self.local.kill(epoch, task, grace, not_after).await;
        };
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let asked = Asked { kill: vec![task.to_string()], grace_ms, ..Asked::of(epoch) };
        self.tell(&node, &asked).await.map(drop)
    }

    async fn reconcile(&self, epoch: Epoch, tasks: &[TaskId]) -> Result<Vec<Known>, EngineError> {
        if self.others.get().is_none() {
            return Err(EngineError::Unknown("this node has just begun".into()));
        }
        let mut here = Vec::new();
        let mut there: BTreeMap<Arc<str>, Question> = BTreeMap::new();
        for task in tasks {
            let place = self.place(task);
            match place.elsewhere() {
                Some(node) => there.entry(node.clone()).or_default().push((task.clone(), place)),
                None => here.push(task.clone()),
            }
        }
        let others = join_all(there.iter().map(|(node, tasks)| self.ask_and_watch(epoch, node, tasks)));
        // Of what is on other nodes it need not be asked.
        let local =
            async { if here.is_empty() { Ok(Vec::new()) } else { self.local.reconcile(epoch, &here).await } };
        let (local, others) = tokio::join!(local, others);
        let mut known: BTreeMap<&TaskId, Known> = here.iter().zip(local?).collect();
        for (tasks, answers) in there.values().zip(others) {
            known.extend(tasks.iter().map(|(task, _)| task).zip(answers));
        }
        Ok(tasks.iter().map(|task| known.get(task).cloned().unwrap_or(Known::Unknown)).collect())
    }

    async fn events(&self) -> Vec<TaskEvent> {
        loop {
            let news = self.news();
            if !news.is_empty() {
                return news;
            }
            tokio::select! {
                events = self.local.events() => return events,
                () = self.arrived.notified() => {}
            }
        }
    }

    async fn acknowledge(&self, tasks: &[TaskId]) -> Result<(), EngineError> {
        let mut by_node: BTreeMap<Arc<str>, Vec<TaskId>> = BTreeMap::new();
        let mut here = Vec::new();
        let epoch = {
            let mut state = self.state();
            for task in tasks {
                match state.table.acknowledged(task) {
                    Some(node) => by_node.entry(node).or_default().push(task.clone()),
                    None => here.push(task.clone()),
                }
            }
            state.epoch
        };
        for (node, tasks) in by_node {
            let Some(epoch) = epoch else { continue };
            let asked = Asked { acknowledge: Asked::names(&tasks), ..Asked::of(epoch) };
            // It tells them again to whoever asks next.
            if let Err(problem) = self.tell(&node, &asked).await {
                tracing::debug!(%problem, "an end was not acknowledged where it came from");
            }
        }
        if here.is_empty() { Ok(()) } else { self.local.acknowledge(&here).await }
    }

    async fn output(&self, task: &TaskId, stream: Stream, offset: u64) -> Result<Output, EngineError> {
        match self.local.output(task, stream, offset).await {
            Err(EngineError::NoSuchTask(_)) => self.output_elsewhere(task, stream, offset).await,
            answer => answer,
        }
    }

    async fn renew_lease(&self, until: Option<Duration>) -> Result<(), EngineError> {
        self.local.renew_lease(until).await
    }

    fn readiness(&self) -> Readiness {
        self.local.readiness()
    }

    async fn forget_old(&self, keep: Keep) -> Result<Forgotten, EngineError> {
        self.local.forget_old(keep).await
    }

    fn incarnation(&self) -> u64 {
        self.local.incarnation()
    }

    fn notes(&self) -> Vec<String> {
        self.local.notes()
    }

    async fn examine(&self) -> Vec<Finding> {
        self.local.examine().await
    }

    fn holds(&self, task: &TaskId) -> bool {
        self.local.holds(task)
    }

    fn place_of(&self, task: &TaskId, spec: Option<&TaskSpec>) -> usize {
        // Tasks are launched here.
        let other = if spec.is_none() { self.other_node(task) } else { None };
        let Some(node) = other else { return self.local.place_of(task, spec) };
        let mut state = self.state();
        let numbers = &mut state.numbers;
        let number = numbers.iter().position(|known| *known == node).unwrap_or_else(|| {
            numbers.push(node);
            numbers.len() - 1
        });
        OTHERS_FROM + number
    }

    fn unplaced(&self) -> Option<&'static str> {
        self.local.unplaced()
    }

    fn has_place(&self, node: &str) -> bool {
        self.local.has_place(node)
    }

    fn waits_for(&self, task: &TaskId) -> Vec<String> {
        self.local.waits_for(task)
    }

    fn readiness_of(&self, spec: &TaskSpec) -> Readiness {
        self.local.readiness_of(spec)
    }
}
