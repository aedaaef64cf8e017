//! A node as the product's is (`chronos`, `node/driver.rs`), as a model: follows until elected, leads until deposed, takes
//! events, commits what they change as a batch, and releases effects behind applied batches only, in order.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use scheduler::audit::Author;
use scheduler::clock::ClockGuard;
use scheduler::ids::{Epoch, Seq, TaskId};
use scheduler::notice::{Channels, Notice, NoticeId, Sent};
use scheduler::request::{Request, RequestId};
use scheduler::run::{AttemptEnd, RunState};
use scheduler::schedule::Zones;
use scheduler::state::State;
use scheduler::{Effect, Event, Scheduler, Settings, TaskNews};
use store::Term;

use crate::calendar::{Millis, instant};
use crate::cluster::{Cluster, Happening, NodeId, Stage};
use crate::model_engine::{LaunchOrder, Order};
use crate::model_store::{Decided, Question, Start, Verdict};

/// Batches that may be on their way to the store while further ones are decided.
const IN_FLIGHT_MAX: usize = 8;
/// Events of one batch.
const EVENTS_MAX: usize = 256;
/// What a node waits for an answer of the store before it asks again.
const PATIENCE: Millis = 2_000;
/// An order that has not reached the engine by then is stale.
const ORDER_VALID: Millis = 10_000;

/// What an engine says of a task; the words of the contract.
pub(crate) type News = TaskNews;

/// What reaches a node. All but [`Message::Poll`] belong to a stage of its life and are dropped after it.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    /// Time to look at the lock.
    Poll,
    Start(Start),
    /// The store has not answered a candidate.
    StartSilent,
    /// Time to see what waits.
    Turn,
    /// Time to carry out the next effects.
    Release,
    Verdict {
        epoch: Epoch,
        seq: Seq,
        verdict: Verdict,
    },
    /// No verdict on this batch has come in time.
    VerdictSilent(Seq),
    /// Time to send a batch again whose predecessor was missing.
    Again(Seq),
    EngineFollows,
    EngineDeposed,
    EngineSilent(Order),
    /// The connection is gone.
    EngineGone,
    /// Time to connect again.
    Connect,
    News(TaskId, News),
    Reconciled(u64, Vec<(TaskId, News)>),
    /// The order to kill has been taken.
    Killed,
    /// Time to ask again for tasks that nobody could tell anything about.
    AskAgain(Vec<TaskId>),
    Asked(u64, Request),
    /// What became of sending a notice.
    Sent(NoticeId, Sent),
}

pub(crate) struct Node {
    pub(crate) up: bool,
    pub(crate) paused_until: Millis,
    /// Wall clock minus true time.
    pub(crate) wall_offset: Millis,
    /// Grows with every change of role: what belongs to an older one is dropped.
    pub(crate) stage: Stage,
    pub(crate) role: Role,
    not_before: Millis,
    /// When the last order reaches the engine, and its last answer the node: channels keep their order.
    pub(crate) to_engine: Millis,
    pub(crate) from_engine: Millis,
}

pub(crate) enum Role {
    Standby,
    /// Has the lock, and its epoch once the store has answered.
    Candidate(Option<Epoch>),
    Leader(Box<Office>),
}

/// A term in office.
pub(crate) struct Office {
    pub(crate) epoch: Epoch,
    pub(crate) core: Scheduler,
    seq: Seq,
    inbox: VecDeque<Event>,
    in_flight: VecDeque<Batch>,
    outbox: VecDeque<(Effect, Seq, Millis)>,
    requests: BTreeMap<RequestId, u64>,
    /// Number of the last launch or question to the engine.
    number: u64,
    /// Numbers of the launches; without bound while one is decided and not yet sent.
    launched: BTreeMap<TaskId, u64>,
    idle_ticks: u32,
    clock: ClockGuard,
    clock_trusted: bool,
    /// When the next turn is planned; later ones that are still under way are dropped.
    next_turn: Millis,
}

struct Batch {
    seq: Seq,
    steps: Arc<Vec<Decided>>,
    effects: Vec<Effect>,
    sent: Millis,
    applied: bool,
}

impl Node {
    pub(crate) fn new(stage: Stage) -> Self {
        Self {
            up: true,
            paused_until: 0,
            wall_offset: 0,
            stage,
            role: Role::Standby,
            not_before: 0,
            to_engine: 0,
            from_engine: 0,
        }
    }

    fn office_mut(&mut self) -> Option<&mut Office> {
        match &mut self.role {
            Role::Leader(office) => Some(office),
            _ => None,
        }
    }
}

impl Cluster {
    fn send_self(&mut self, node: NodeId, after: Millis, message: Message) {
        let (at, stage) = (self.now + after, self.nodes[node].stage);
        self.at(at, Happening::Node { node, stage, message });
    }

    fn office(&mut self, node: NodeId) -> Option<&mut Office> {
        self.nodes[node].office_mut()
    }

    pub(crate) fn node_hears(&mut self, node: NodeId, message: Message) {
        match message {
            Message::Poll => self.poll(node),
            Message::Start(start) => self.start(node, start),
            Message::StartSilent => {
                if matches!(self.nodes[node].role, Role::Candidate(_)) {
                    self.step_down(node, "the store does not answer");
                }
            }
            Message::Turn => self.turn(node),
            Message::Release => self.carry_out(node),
            Message::Verdict { epoch, seq, verdict } => self.verdict(node, epoch, seq, verdict),
            Message::VerdictSilent(seq) => {
                if self.in_doubt(node, seq) {
                    self.ask_store(node, self.nodes[node].stage, Question::ReadTerm);
                    self.send_self(node, PATIENCE, Message::VerdictSilent(seq));
                }
            }
            Message::Again(seq) => self.send_batch(node, seq),
            Message::EngineDeposed => self.step_down(node, "the engine follows a later term"),
            Message::EngineFollows => self.engine_follows(node),
            Message::EngineSilent(order) => self.engine_silent_to(node, order),
            Message::EngineGone => {
                self.tell_core(node, Event::Engine { ready: false });
                let after = self.random.between(500, 3_000);
                self.send_self(node, after, Message::Connect);
            }
            Message::Connect => self.order(node, Order::BeginTerm),
            Message::News(task, news) => self.tell_news(node, task, news),
            Message::Reconciled(number, known) => self.reconciled(node, number, known),
            Message::Killed => {}
            Message::AskAgain(tasks) => self.reconcile(node, tasks),
            Message::Sent(id, sent) => self.tell_core(node, Event::Notice { id, sent }),
            Message::Asked(number, request) => self.asked(node, number, request),
        }
    }

    // ---- election

    fn poll(&mut self, node: NodeId) {
        let after = 1_000 + self.random.between(0, 300);
        let stage = self.nodes[node].stage;
        self.at(self.now + after, Happening::Node { node, stage, message: Message::Poll });
        let holds = self.store.lock.is_some_and(|(holder, _)| holder == node);
        match self.nodes[node].role {
            Role::Standby => self.stand(node),
            _ if holds => {
                self.store.take_lock(node, self.now);
            }
            // It may take long until a leader hears that it is none any more.
            _ if self.healed || self.random.permille(200) => self.step_down(node, "the lock is gone"),
            _ => {}
        }
    }

    /// Tries to lead.
    fn stand(&mut self, node: NodeId) {
        if self.now >= self.nodes[node].not_before && self.store.take_lock(node, self.now) {
            self.advance_stage(node, Role::Candidate(None));
            self.ask_store(node, self.nodes[node].stage, Question::BeginTerm);
            self.send_self(node, 2 * PATIENCE, Message::StartSilent);
        }
    }

    fn start(&mut self, node: NodeId, start: Start) {
        let Role::Candidate(ours) = self.nodes[node].role else { return };
        match start {
            Start::Began(term) => {
                self.nodes[node].role = Role::Candidate(Some(term.epoch));
                self.ask_store(node, self.nodes[node].stage, Question::Load);
            }
            Start::Loaded(state, term) if Some(term.epoch) == ours => self.take_office(node, *state, term),
            Start::Loaded(..) => self.step_down(node, "a later term has begun"),
        }
    }

    fn take_office(&mut self, node: NodeId, state: State, term: Term) {
        let settings = Settings {
            node: format!("node{node}").into(),
            zones: Zones::bundled(),
            disable_after_failures: self.disable_after_failures,
            limits: self.limits.clone(),
            // So small that sets of a few jobs are staged.
            set_batch: 2,
            channels: Channels { mail: true, webhook: true, ..Channels::default() },
        };
        let office = Office {
            epoch: term.epoch,
            core: Scheduler::new(state, settings),
            seq: term.seq,
            inbox: VecDeque::new(),
            in_flight: VecDeque::new(),
            outbox: VecDeque::new(),
            requests: BTreeMap::new(),
            number: 0,
            launched: BTreeMap::new(),
            idle_ticks: 0,
            clock: ClockGuard::default(),
            clock_trusted: true,
            next_turn: Millis::MAX,
        };
        self.say(|| format!("node {node}: leads term {}", term.epoch.0));
        self.advance_stage(node, Role::Leader(Box::new(office)));
        self.send_self(node, 0, Message::Connect);
        self.turn_in(node, 0);
    }

    /// Drops the term: nothing that waits is done any more.
    pub(crate) fn step_down(&mut self, node: NodeId, why: &str) {
        self.say(|| format!("node {node}: steps down: {why}"));
        self.store.release_lock(node);
        self.advance_stage(node, Role::Standby);
        self.nodes[node].not_before = self.now + self.random.between(200, 4_000);
    }

    /// Leaves behind all that was under way.
    pub(crate) fn advance_stage(&mut self, node: NodeId, role: Role) {
        self.stages += 1;
        let stage = self.stages;
        self.nodes[node].stage = stage;
        self.nodes[node].role = role;
        let after = self.random.between(50, 1_000);
        self.send_self(node, after, Message::Poll);
    }

    // ---- from events to batches

    fn tell_core(&mut self, node: NodeId, event: Event) {
        if let Some(office) = self.office(node) {
            office.inbox.push_back(event);
            let after = self.random.between(0, 3);
            self.turn_in(node, after);
        }
    }

    /// That a task has not begun is told once: after the first time it may have been launched again.
    fn tell_news(&mut self, node: NodeId, task: TaskId, news: News) {
        let never = news == News::NeverBegan;
        let event = Event::Task { task, news };
        if never && self.office(node).is_some_and(|office| office.inbox.contains(&event)) {
            return;
        }
        self.tell_core(node, event);
    }

    pub(crate) fn turn_in(&mut self, node: NodeId, after: Millis) {
        let at = self.now + after;
        let Some(office) = self.office(node) else { return };
        if at < office.next_turn {
            office.next_turn = at;
            self.send_self(node, after, Message::Turn);
        }
    }

    fn asked(&mut self, node: NodeId, number: u64, request: Request) {
        let Some(office) = self.office(node) else { return };
        let id = RequestId(number);
        office.requests.insert(id, number);
        let author = Author::new(&format!("user-{}", number % 3), "");
        let request = Request::By { author, request: Box::new(request) };
        self.tell_core(node, Event::Request { id, request });
    }

    /// The wall clock of a node, in whole milliseconds.
    pub(crate) fn wall(&self, node: NodeId) -> Millis {
        self.now + self.nodes[node].wall_offset
    }

    fn look_at_clocks(&mut self, node: NodeId) {
        let wall = self.wall(node);
        let boot = Duration::from_millis((self.now - self.began).unsigned_abs() + 1_000_000);
        let Some(office) = self.office(node) else { return };
        let trusted = office.clock.observe(instant(wall), boot);
        if trusted != office.clock_trusted {
            office.clock_trusted = trusted;
            office.inbox.push_front(Event::Clock { trusted });
            self.say(|| format!("node {node}: clock trusted: {trusted}"));
        }
        if !trusted {
            self.turn_in(node, 1_000);
        }
    }

    fn turn(&mut self, node: NodeId) {
        let (now, wall) = (self.now, self.wall(node));
        let Some(office) = self.office(node) else { return };
        if now < office.next_turn {
            return;
        }
        office.next_turn = Millis::MAX;
        self.look_at_clocks(node);
        let Some(office) = self.office(node) else { return };
        if office.in_flight.len() >= IN_FLIGHT_MAX {
            return;
        }
        let mut events: Vec<Event> = Vec::new();
        while events.len() < EVENTS_MAX
            && let Some(event) = office.inbox.pop_front()
        {
            events.push(event);
        }
        let due = office.core.wake_at().is_some_and(|at| at.as_millisecond() <= wall);
        if events.is_empty() && due {
            events.push(Event::Tick);
        }
        let (mut steps, mut effects) = (Vec::new(), Vec::new());
        for event in events {
            let (changes, step_effects) = self.step(node, wall, event);
            steps.push((wall, changes));
            effects.extend(step_effects);
        }
        let something = !effects.is_empty() || steps.iter().any(|(_, changes)| !changes.is_empty());
        if something {
            self.commit(node, steps, effects);
        }
        self.release_applied(node);
        self.plan_turn(node);
    }

    fn step(
        &mut self,
        node: NodeId,
        wall: Millis,
        event: Event,
    ) -> (Vec<scheduler::state::Change>, Vec<Effect>) {
        let tick = event == Event::Tick;
        if self.trace.is_some() {
            let wakes = self.office(node).and_then(|office| office.core.wake_at());
            self.say(|| format!("node {node}: at {}, wakes {wakes:?}: {event:?}", instant(wall)));
        }
        let probe = self.random.below(64) == 0;
        let Some(office) = self.nodes[node].office_mut() else { return Default::default() };
        let step = office.core.step(instant(wall), event);
        if tick {
            let idle = step.changes.is_empty() && step.effects.is_empty();
            office.idle_ticks = if idle { office.idle_ticks + 1 } else { 0 };
        }
        for effect in &step.effects {
            if let Effect::Launch { run, .. } = effect
                && let RunState::Running(live) = &run.state
            {
                office.launched.insert(live.task.clone(), u64::MAX);
            }
        }
        self.audit.stepped(&office.core, &step, probe, office.idle_ticks);
        self.mark((step.changes.len() as u64) << 8 | step.effects.len() as u64);

        if self.trace.is_some() {
            for effect in &step.effects {
                self.say(|| format!("node {node}:   decides {}", short(effect)));
            }
        }
        (step.changes, step.effects)
    }

    fn commit(&mut self, node: NodeId, steps: Vec<Decided>, effects: Vec<Effect>) {
        let sent = self.now;
        let Some(office) = self.office(node) else { return };
        office.seq = Seq(office.seq.0 + 1);
        let seq = office.seq;
        office.in_flight.push_back(Batch { seq, steps: Arc::new(steps), effects, sent, applied: false });
        self.send_batch(node, seq);
        self.send_self(node, PATIENCE, Message::VerdictSilent(seq));
    }

    fn send_batch(&mut self, node: NodeId, seq: Seq) {
        let stage = self.nodes[node].stage;
        let Some(office) = self.office(node) else { return };
        let Some(batch) = office.in_flight.iter().find(|batch| batch.seq == seq && !batch.applied) else {
            return;
        };
        let question = Question::Commit { epoch: office.epoch, seq, steps: batch.steps.clone() };
        self.ask_store(node, stage, question);
    }

    /// Looks again when the scheduler wants to, or at once where events are left.
    fn plan_turn(&mut self, node: NodeId) {
        let wall = self.wall(node);
        let Some(office) = self.office(node) else { return };
        if office.in_flight.len() >= IN_FLIGHT_MAX {
            return;
        }
        let wait = if office.inbox.is_empty() {
            office.core.wake_at().map(|at| at.as_millisecond().saturating_sub(wall).max(1))
        } else {
            Some(1)
        };
        if let Some(wait) = wait {
            // A clock may step meanwhile, so no wait is long.
            self.turn_in(node, wait.min(60_000));
        }
    }

    // ---- verdicts

    fn in_doubt(&mut self, node: NodeId, seq: Seq) -> bool {
        self.office(node).is_some_and(|office| office.in_flight.iter().any(|b| b.seq == seq && !b.applied))
    }

    fn verdict(&mut self, node: NodeId, epoch: Epoch, seq: Seq, verdict: Verdict) {
        let Some(office) = self.office(node) else { return };
        match verdict {
            Verdict::Deposed => self.step_down(node, "the store has refused a batch"),
            Verdict::Applied => self.applied(node, seq),
            Verdict::Early => {
                let after = self.random.between(20, 200);
                self.send_self(node, after, Message::Again(seq));
            }
            Verdict::Term(_) if office.epoch != epoch => self.step_down(node, "the store has a later term"),
            Verdict::Term(term) => {
                let doubtful: Vec<Seq> =
                    office.in_flight.iter().filter(|b| !b.applied).map(|b| b.seq).collect();
                for seq in doubtful {
                    if seq <= term.seq { self.applied(node, seq) } else { self.send_batch(node, seq) }
                }
            }
        }
    }

    fn applied(&mut self, node: NodeId, seq: Seq) {
        let Some(office) = self.office(node) else { return };
        if let Some(batch) = office.in_flight.iter_mut().find(|batch| batch.seq == seq) {
            batch.applied = true;
        }
        self.release_applied(node);
        self.turn_in(node, 0);
    }

    /// Effects leave behind their batch, in the order of batches.
    fn release_applied(&mut self, node: NodeId) {
        let Some(office) = self.office(node) else { return };
        let before = office.outbox.len();
        while let Some(batch) = office.in_flight.pop_front_if(|batch| batch.applied) {
            let (seq, sent) = (batch.seq, batch.sent);
            office.outbox.extend(batch.effects.into_iter().map(|effect| (effect, seq, sent)));
        }
        if office.outbox.len() > before {
            // Here a process may stop for a while: decided, durable, and not yet done.
            if self.unlucky(10) {
                let pause = self.random.between(500, 40_000);
                self.pause(node, pause);
            }
            let after = self.random.between(0, 2);
            self.send_self(node, after, Message::Release);
        }
    }

    // ---- effects

    fn carry_out(&mut self, node: NodeId) {
        let some = 1 + self.random.below(40);
        for _ in 0..some {
            let Some((effect, seq, sent)) = self.office(node).and_then(|office| office.outbox.pop_front())
            else {
                return;
            };
            self.effect(node, effect, seq, sent);
        }
        self.send_self(node, 1, Message::Release);
    }

    fn effect(&mut self, node: NodeId, effect: Effect, seq: Seq, sent: Millis) {
        match effect {
            Effect::Launch { run, job } => {
                let RunState::Running(live) = &run.state else { return };
                let (task, attempt) = (live.task.clone(), live.attempt);
                if let Some(office) = self.office(node) {
                    office.number += 1;
                    office.launched.insert(task.clone(), office.number);
                }
                let order = LaunchOrder { task, run: run.key, attempt, job, not_after: sent + ORDER_VALID };
                self.order(node, Order::Launch(Box::new(order)));
            }
            Effect::Kill { task } => self.order(node, Order::Kill(task)),
            Effect::Acknowledge { task } => self.order(node, Order::Acknowledge(task)),
            Effect::Send { notice } => self.post(node, &notice),
            Effect::Answer { id, answer } => {
                let Some(number) = self.office(node).and_then(|office| office.requests.remove(&id)) else {
                    return;
                };
                self.say(|| format!("user: request {number} is answered: {answer:?}"));
                self.audit.answered(number, seq, &answer);
            }
        }
    }

    /// A message may get lost on its way, and so may the word that it arrived.
    fn post(&mut self, node: NodeId, notice: &Arc<Notice>) {
        let arrives = !self.unlucky(100);
        if arrives {
            self.audit.received(notice);
        }
        let sent = match (arrives, self.unlucky(50)) {
            (true, false) => Sent::Delivered,
            _ => Sent::Later { error: "the answer is lost".into(), after: None },
        };
        let after = self.random.between(5, 2_000);
        self.send_self(node, after, Message::Sent(notice.id, sent));
    }

    fn order(&mut self, node: NodeId, order: Order) {
        let stage = self.nodes[node].stage;
        let Some(epoch) = self.office(node).map(|office| office.epoch) else { return };
        self.order_engine(node, stage, epoch, order);
    }

    fn reconcile(&mut self, node: NodeId, tasks: Vec<TaskId>) {
        let Some(office) = self.office(node) else { return };
        office.number += 1;
        let number = office.number;
        if !tasks.is_empty() {
            self.order(node, Order::Reconcile(number, tasks));
        }
    }

    // ---- what the engine says

    fn engine_follows(&mut self, node: NodeId) {
        let Some(office) = self.office(node) else { return };
        let open = office.core.open_tasks();
        self.reconcile(node, open);
        self.tell_core(node, Event::Engine { ready: true });
    }

    fn reconciled(&mut self, node: NodeId, number: u64, known: Vec<(TaskId, News)>) {
        let mut unknown = Vec::new();
        for (task, news) in known {
            // Asked before the launch that is now under way, it says nothing about that.
            let stale =
                self.office(node).is_some_and(|o| o.launched.get(&task).is_some_and(|at| *at > number));
            if stale && news == News::NeverBegan {
                continue;
            }
            if news == News::Unknown {
                unknown.push(task.clone());
            }
            self.tell_news(node, task, news);
        }
        if !unknown.is_empty() {
            let after = self.random.between(2_000, 8_000);
            self.send_self(node, after, Message::AskAgain(unknown));
        }
    }

    fn engine_silent_to(&mut self, node: NodeId, order: Order) {
        match order {
            Order::BeginTerm => self.send_self(node, 1_000, Message::Connect),
            Order::Launch(launch) => {
                self.tell_core(node, Event::Task { task: launch.task.clone(), news: News::Unknown });
                self.send_self(node, 1_000, Message::AskAgain(vec![launch.task]));
            }
            Order::Reconcile(_, tasks) => self.send_self(node, 1_000, Message::AskAgain(tasks)),
            Order::Kill(task) => self.order(node, Order::Kill(task)),
            Order::Acknowledge(_) => {}
        }
    }
}

pub(crate) fn short(effect: &Effect) -> String {
    match effect {
        Effect::Launch { run, .. } => match &run.state {
            RunState::Running(live) => format!("launch {}", live.task),
            _ => "launch of nothing".into(),
        },
        Effect::Kill { task } => format!("kill {task}"),
        Effect::Send { notice } => format!("send notice {}, {} alerts", notice.id.0, notice.count()),
        Effect::Acknowledge { task } => format!("acknowledge {task}"),
        Effect::Answer { id, answer } => format!("answer to request {}: {answer:?}", id.0),
    }
}

/// Whether the task was given up by the scheduler, not by its engine.
pub(crate) fn given_up(end: &AttemptEnd) -> bool {
    matches!(end, AttemptEnd::Lost { message } if message.contains("lostAfter"))
}
