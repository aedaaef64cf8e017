//! A node as the product's is (`chronos`, `node/driver.rs`), as a model: follows until elected, leads until deposed, takes
//! events, commits what they change as a batch, and releases effects behind applied batches only, in order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
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
use store::projection::Projection;
use store::{Applied, Term};

use crate::calendar::{Millis, instant};
use crate::cluster::{Cluster, Happening, NodeId, Stage};
use crate::model_engine::{LaunchOrder, Order};
use crate::model_store::{Decided, Question, Start, Verdict};

/// Batches that may be on their way to the store while further ones are decided.
const IN_FLIGHT_MAX: usize = 8;
/// Events of one batch.
const EVENTS_MAX: usize = 256;
/// A standby that has seen all asks for more after so long, on average.
const FOLLOW_EVERY: Millis = 700;
/// What a node waits for an answer of the store before it asks again.
const PATIENCE: Millis = 2_000;
/// An order that has not reached the engine by then is stale.
const ORDER_VALID: Millis = 10_000;
/// Before an engine that did not answer is asked again.
const ENGINE_RETRY: Millis = 1_000;

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
    /// The store has not told a candidate what it is behind by.
    CatchUpSilent,
    /// Time to ask for what others have done.
    Follow,
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
    /// The order came too late, or before its term had begun there: it was not carried out and will not be.
    EngineRefuses(Order),
    /// The connection is gone.
    EngineGone,
    /// Time to connect again.
    Connect,
    News(TaskId, News),
    /// What came of an order to launch.
    Launched(Box<LaunchOrder>, News),
    /// A launch that nobody answered for is stale by now: it can be asked for.
    Settle(TaskId),
    Reconciled(u64, Vec<(TaskId, News)>),
    /// The order to kill has been taken.
    Killed,
    /// Time to order a kill again that was not taken.
    KillAgain(TaskId),
    /// Time to ask again for tasks, unless somebody has done so since the question of this number.
    AskAgain(u64, Vec<TaskId>),
    Asked(u64, Request),
    /// What became of sending a notice.
    Sent(NoticeId, Sent),
}

pub(crate) struct Node {
    pub(crate) up: bool,
    pub(crate) paused_until: Millis,
    /// Wall clock minus true time, besides what it is always off by.
    pub(crate) wall_offset: Millis,
    /// What its clock is off by, all its life.
    skew: Millis,
    /// Whether it keeps up with the leader while it is none.
    follows: bool,
    /// A state that the store was in, from which batches lead to the present one.
    pub(crate) followed: Option<Projection>,
    /// Grows with every change of role: what belongs to an older one is dropped.
    pub(crate) stage: Stage,
    pub(crate) role: Role,
    not_before: Millis,
}

pub(crate) enum Role {
    Standby,
    /// Has the lock, and its term once the store has answered.
    Candidate(Option<Term>),
    Leader(Box<Office>),
}

/// A term in office.
pub(crate) struct Office {
    pub(crate) epoch: Epoch,
    pub(crate) core: Scheduler,
    seq: Seq,
    inbox: VecDeque<Event>,
    in_flight: VecDeque<Batch>,
    outbox: VecDeque<(Effect, Seq)>,
    requests: BTreeMap<RequestId, u64>,
    calls: Calls,
    /// Counts the connections to the engine.
    incarnation: u64,
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
    applied: bool,
}

/// What the engine has not settled yet; the product's `Open`. Orders, questions and their answers overtake each other.
#[derive(Default)]
struct Calls {
    /// Launches that were released and whose fate is not known yet.
    launches: BTreeSet<TaskId>,
    /// Number of the last question.
    asked: u64,
    /// The last question about each task: only its answer counts.
    questions: BTreeMap<TaskId, u64>,
}

impl Calls {
    fn ask(&mut self, tasks: &[TaskId]) -> u64 {
        self.asked += 1;
        self.questions.extend(tasks.iter().map(|task| (task.clone(), self.asked)));
        self.asked
    }

    fn is_last(&self, question: u64, task: &TaskId) -> bool {
        self.questions.get(task) == Some(&question)
    }

    /// Whether the answer counts; a definite one settles the question.
    fn answered(&mut self, question: u64, task: &TaskId, news: &News) -> bool {
        let counts = self.is_last(question, task);
        if counts && !is_open(news) {
            self.questions.remove(task);
        }
        counts
    }

    /// A launch answers all questions that were asked before it.
    fn launch(&mut self, task: &TaskId) {
        self.questions.remove(task);
        self.launches.insert(task.clone());
    }
}

impl Office {
    /// Each task with where the state says that it is.
    fn with_places(&self, tasks: Vec<TaskId>) -> Vec<(TaskId, Arc<str>)> {
        let state = self.core.state();
        let live = state.runs.values().filter_map(|run| match &run.state {
            RunState::Running(live) => Some((live.task.clone(), live.node.clone())),
            _ => None,
        });
        let given_up = state.all_given_up().map(|(task, given_up)| (task, given_up.node.clone()));
        let places: BTreeMap<TaskId, Arc<str>> = live.chain(given_up).collect();
        let place = |task: &TaskId| places.get(task).cloned().unwrap_or_else(|| "nowhere".into());
        tasks.into_iter().map(|task| (task.clone(), place(&task))).collect()
    }

    /// Whether a launch of the task is on its way: what was known of it before is old.
    fn is_coming(&self, task: &TaskId) -> bool {
        let decided = self.in_flight.iter().flat_map(|batch| &batch.effects);
        let mut effects = decided.chain(self.outbox.iter().map(|(effect, _)| effect));
        let launches = |effect: &Effect| matches!(effect, Effect::Launch { run, .. } if matches!(&run.state, RunState::Running(live) if live.task == *task));
        self.calls.launches.contains(task) || effects.any(launches)
    }
}

impl Node {
    pub(crate) fn new(stage: Stage, skew: Millis, follows: bool) -> Self {
        Self {
            up: true,
            paused_until: 0,
            wall_offset: 0,
            skew,
            follows,
            followed: None,
            stage,
            role: Role::Standby,
            not_before: 0,
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
            Message::CatchUpSilent => self.load_instead(node),
            Message::Follow => self.follow(node),
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
            Message::EngineRefuses(order) => self.engine_refuses(node, order),
            Message::EngineGone => {
                if let Some(office) = self.office(node) {
                    office.incarnation += 1;
                }
                self.tell_core(node, Event::Engine { ready: false });
                let after = self.random.between(500, 3_000);
                self.send_self(node, after, Message::Connect);
            }
            Message::Connect => self.order(node, Order::BeginTerm),
            // Places are told in the order in which they were found, also to a node that was paused: the last one counts.
            Message::News(task, News::Placed { node: place }) if !self.engine.holds(&task, &place) => {
                self.say(|| format!("node {node}: {task} is not at {place} any more"));
            }
            Message::News(task, news) => self.tell_core(node, Event::Task { task, news }),
            Message::Launched(order, news) => self.launch_answered(node, &order, news),
            Message::Settle(task) => {
                self.settle(node, &task);
                self.reconcile(node, vec![task]);
            }
            Message::Reconciled(number, known) => self.reconciled(node, number, known),
            Message::Killed => {}
            Message::KillAgain(task) => self.kill(node, task),
            Message::AskAgain(number, tasks) => self.ask_again(node, number, tasks),
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
        match (&self.nodes[node].role, start) {
            (Role::Candidate(None), Start::Began(term)) => {
                self.nodes[node].role = Role::Candidate(Some(term));
                self.catch_up(node);
            }
            (Role::Candidate(Some(ours)), Start::Loaded(state, term)) if term.epoch == ours.epoch => {
                if self.nodes[node].follows {
                    self.nodes[node].followed = Some(Projection::new((*state).clone(), term));
                }
                self.take_office(node, *state, term);
            }
            (Role::Candidate(Some(_)), Start::Loaded(..)) => self.step_down(node, "a later term has begun"),
            (Role::Candidate(Some(_)), Start::Followed(batches)) => {
                self.go_on(node, batches);
                self.catch_up(node);
            }
            (Role::Standby, Start::Loaded(state, term)) => {
                self.nodes[node].followed = Some(Projection::new(*state, term));
            }
            (Role::Standby, Start::Followed(batches)) => self.go_on(node, batches),
            _ => {}
        }
    }

    /// Keeps a standby's state warm.
    fn follow(&mut self, node: NodeId) {
        if !matches!(self.nodes[node].role, Role::Standby) {
            return;
        }
        let after = self.random.between(50, 2 * FOLLOW_EVERY);
        self.send_self(node, after, Message::Follow);
        let followed = self.nodes[node].followed.as_ref();
        let question = followed.map_or(Question::Load, |followed| Question::Follow(followed.term().seq));
        self.ask_store(node, self.nodes[node].stage, question);
    }

    /// Goes on by what others have done; where that is not to be had any more, everything has to be loaded.
    fn go_on(&mut self, node: NodeId, batches: Option<Vec<Applied>>) {
        let Some(followed) = &mut self.nodes[node].followed else { return };
        let gone = batches.is_none();
        let gap = batches.into_iter().flatten().any(|batch| followed.apply(&batch).is_err());
        if gone || gap {
            self.nodes[node].followed = None;
            self.say(|| format!("node {node}: is too far behind to follow"));
        }
    }

    /// Goes from what has been followed to the first batch of the term, or loads everything.
    fn catch_up(&mut self, node: NodeId) {
        let Role::Candidate(Some(term)) = self.nodes[node].role else { return };
        let stage = self.nodes[node].stage;
        match &self.nodes[node].followed {
            Some(followed) if followed.term().seq < term.seq => {
                let after = followed.term().seq;
                self.ask_store(node, stage, Question::Follow(after));
                self.send_self(node, PATIENCE, Message::CatchUpSilent);
            }
            Some(followed) if followed.term() == term => {
                let state = followed.state().clone();
                self.say(|| format!("node {node}: has followed to batch {}", term.seq.0));
                self.take_office(node, state, term);
            }
            _ => self.ask_store(node, stage, Question::Load),
        }
    }

    fn load_instead(&mut self, node: NodeId) {
        if matches!(self.nodes[node].role, Role::Candidate(Some(_))) {
            self.nodes[node].followed = None;
            self.ask_store(node, self.nodes[node].stage, Question::Load);
        }
    }

    fn take_office(&mut self, node: NodeId, state: State, term: Term) {
        self.audit.takes_office(term, &state);
        let settings = Settings {
            node: format!("node{node}").into(),
            zones: Zones::bundled(),
            disable_after_failures: self.disable_after_failures,
            retry_delay: scheduler::job::Retry::DELAY,
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
            calls: Calls::default(),
            incarnation: 0,
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
        if self.nodes[node].follows && matches!(self.nodes[node].role, Role::Standby) {
            self.send_self(node, 250, Message::Follow);
        }
    }

    // ---- from events to batches

    fn tell_core(&mut self, node: NodeId, event: Event) {
        if let Some(office) = self.office(node) {
            office.inbox.push_back(event);
            let after = self.random.between(0, 3);
            self.turn_in(node, after);
        }
    }

    /// That a task never began is heard once: by the second word it may have been launched again.
    fn hear(&mut self, node: NodeId, task: TaskId, news: News) {
        let never = news == News::NeverBegan;
        let event = Event::Task { task, news };
        if !(never && self.office(node).is_some_and(|office| office.inbox.contains(&event))) {
            self.tell_core(node, event);
        }
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
        self.now + self.nodes[node].wall_offset + self.nodes[node].skew
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
        let Some(office) = self.office(node) else { return };
        office.seq = Seq(office.seq.0 + 1);
        let seq = office.seq;
        office.in_flight.push_back(Batch { seq, steps: Arc::new(steps), effects, applied: false });
        if self.random.below(64) == 0 {
            self.compare(node);
        }
        self.send_batch(node, seq);
        self.send_self(node, PATIENCE, Message::VerdictSilent(seq));
    }

    /// Holds the leader's state against what its successor would load once all is durable, if it is to be.
    fn compare(&mut self, node: NodeId) {
        let durable = self.store.core.term();
        let Role::Leader(office) = &self.nodes[node].role else { return };
        if office.epoch == durable.epoch {
            let on_their_way = office.in_flight.iter().filter(|batch| batch.seq > durable.seq);
            let changes = on_their_way.flat_map(|batch| batch.steps.iter()).flat_map(|(_, changes)| changes);
            self.audit.decided(changes, office.core.state());
        }
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
        let (before, mut applied) = (office.outbox.len(), Vec::new());
        while let Some(batch) = office.in_flight.pop_front_if(|batch| batch.applied) {
            office.outbox.extend(batch.effects.into_iter().map(|effect| (effect, batch.seq)));
            applied.push(Applied {
                seq: batch.seq,
                epoch: office.epoch,
                changes: batch.steps.iter().flat_map(|(_, changes)| changes).cloned().collect(),
            });
        }
        let releases = office.outbox.len() > before;
        self.go_on(node, Some(applied));
        if releases {
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
            let Some((effect, seq)) = self.office(node).and_then(|office| office.outbox.pop_front()) else {
                return;
            };
            self.effect(node, effect, seq);
        }
        self.send_self(node, 1, Message::Release);
    }

    fn effect(&mut self, node: NodeId, effect: Effect, seq: Seq) {
        match effect {
            Effect::Launch { run, job } => {
                let RunState::Running(live) = &run.state else { return };
                let (task, attempt) = (live.task.clone(), live.attempt);
                let not_after = self.now + ORDER_VALID;
                let Some(office) = self.office(node) else { return };
                office.calls.launch(&task);
                let incarnation = office.incarnation;
                let order = LaunchOrder { task, run: run.key, attempt, job, not_after, incarnation };
                self.order(node, Order::Launch(Box::new(order)));
            }
            Effect::GoAhead { task, node: place } => {
                self.order(node, Order::GoAhead(task, place, self.now + ORDER_VALID));
            }
            Effect::Kill { task } => self.kill(node, task),
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
        if !tasks.is_empty() {
            let number = office.calls.ask(&tasks);
            let tasks = office.with_places(tasks);
            self.order(node, Order::Reconcile(number, tasks));
        }
    }

    fn ask_again(&mut self, node: NodeId, number: u64, mut tasks: Vec<TaskId>) {
        let Some(office) = self.office(node) else { return };
        tasks.retain(|task| office.calls.is_last(number, task));
        self.reconcile(node, tasks);
    }

    fn kill(&mut self, node: NodeId, task: TaskId) {
        self.order(node, Order::Kill(task, self.now + ORDER_VALID));
    }

    /// The launch has come to an end: from here on its task is asked for like any other.
    fn settle(&mut self, node: NodeId, task: &TaskId) {
        if let Some(office) = self.office(node) {
            office.calls.launches.remove(task);
        }
    }

    // ---- what the engine says

    fn engine_follows(&mut self, node: NodeId) {
        let Some(office) = self.office(node) else { return };
        // Those whose launch is on its way are settled by that.
        let mut open = office.core.open_tasks();
        open.retain(|task| !office.is_coming(task));
        self.reconcile(node, open);
        self.tell_core(node, Event::Engine { ready: true });
    }

    fn launch_answered(&mut self, node: NodeId, order: &LaunchOrder, news: News) {
        self.settle(node, &order.task);
        let present = self.office(node).map(|office| office.incarnation);
        if matches!(news, News::Running | News::Waiting) && present != Some(order.incarnation) {
            // When all tasks were asked for anew, this one was left out.
            self.reconcile(node, vec![order.task.clone()]);
        }
        self.hear(node, order.task.clone(), news);
    }

    fn reconciled(&mut self, node: NodeId, number: u64, known: Vec<(TaskId, News)>) {
        let mut unknown = Vec::new();
        for (task, news) in known {
            let Some(office) = self.office(node) else { return };
            if !office.calls.answered(number, &task, &news) {
                continue;
            }
            if news == News::NeverBegan && office.is_coming(&task) {
                continue;
            }
            if is_open(&news) {
                unknown.push(task.clone());
            }
            self.hear(node, task, news);
        }
        if !unknown.is_empty() {
            let after = self.random.between(2_000, 8_000);
            self.send_self(node, after, Message::AskAgain(number, unknown));
        }
    }

    fn engine_silent_to(&mut self, node: NodeId, order: Order) {
        match order {
            Order::BeginTerm => self.send_self(node, ENGINE_RETRY, Message::Connect),
            Order::Launch(launch) => {
                // It may still arrive. Only once it is stale does "never began" mean that it never will.
                let stale_in = (launch.not_after - self.now).max(0);
                self.send_self(node, stale_in + ENGINE_RETRY, Message::Settle(launch.task));
            }
            Order::Reconcile(number, tasks) => {
                let tasks = tasks.into_iter().map(|(task, _)| task).collect();
                self.send_self(node, ENGINE_RETRY, Message::AskAgain(number, tasks));
            }
            Order::Kill(task, _) => self.send_self(node, ENGINE_RETRY, Message::KillAgain(task)),
            Order::Acknowledge(_) | Order::GoAhead(..) => {}
        }
    }

    fn engine_refuses(&mut self, node: NodeId, order: Order) {
        match order {
            Order::Launch(launch) => self.launch_answered(node, &launch, News::NeverBegan),
            order => self.engine_silent_to(node, order),
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
        Effect::GoAhead { task, node } => format!("go ahead of {task} at {node}"),
        Effect::Send { notice } => format!("send notice {}, {} alerts", notice.id.0, notice.count()),
        Effect::Acknowledge { task } => format!("acknowledge {task}"),
        Effect::Answer { id, answer } => format!("answer to request {}: {answer:?}", id.0),
    }
}

/// Whether more is to be heard: what counts as ended is asked for too, until it is heard of.
fn is_open(news: &News) -> bool {
    matches!(news, News::Unknown | News::GivenUp { .. })
}

/// Why a task counts as ended whose machine is cut off.
pub(crate) const CUT_OFF: &str = "its node was cut off, and ends its tasks then";

/// Whether nobody has stated that the task has ended: it was given up.
pub(crate) fn given_up(end: &AttemptEnd) -> bool {
    matches!(end, AttemptEnd::Lost { message } if message.contains("lostAfter") || &**message == CUT_OFF)
}
