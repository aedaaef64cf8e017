//! The engine as a server on a network, as the contract of `engine` wants it: fenced by epoch, at most one start of a
//! task, ends repeated until acknowledged. Its tasks take time, fail, ignore TERM for a while, and die with it.
//!
//! In some histories it is one that finds places: what it has taken waits, is told a place, and begins there only once it
//! may go ahead. Of what it took in an older term it then knows only what it is asked for at its place.

use std::collections::BTreeMap;
use std::sync::Arc;

use scheduler::ids::{Epoch, RunKey, TaskId};
use scheduler::job::{Guarantee, Job};
use scheduler::run::AttemptEnd;

use crate::calendar::Millis;
use crate::cluster::{Cluster, Happening, NodeId, Stage};
use crate::node::{CUT_OFF, Message, News};
use crate::users::CANARY;

/// An order to start a task, with what the checkers want to know of it.
#[derive(Clone, Debug)]
pub(crate) struct LaunchOrder {
    pub(crate) task: TaskId,
    pub(crate) run: RunKey,
    pub(crate) attempt: u32,
    pub(crate) job: Arc<Job>,
    pub(crate) not_after: Millis,
    /// The connection by which it was sent: what the engine said by an older one may no longer be so.
    pub(crate) incarnation: u64,
}

impl LaunchOrder {
    pub(crate) fn at_most_once(&self) -> bool {
        self.job.rules.guarantee == Guarantee::AtMostOnce
    }
}

/// What a node tells or asks the engine. Orders overtake each other on their way, and so do the answers.
#[derive(Clone, Debug)]
pub(crate) enum Order {
    BeginTerm,
    Launch(Box<LaunchOrder>),
    /// With the time after which it is stale.
    Kill(TaskId, Millis),
    /// That the place is durable, with the time after which that is stale.
    GoAhead(TaskId, Arc<str>, Millis),
    /// With the number of the question, so that an answer can be told from an older one, and where each task is looked for.
    Reconcile(u64, Vec<(TaskId, Arc<str>)>),
    Acknowledge(TaskId),
}

/// Whether whoever gave an order still waits for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sender {
    Waits,
    HasGivenUp,
}

#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) phase: Phase,
    order: LaunchOrder,
    /// The term that launched it.
    epoch: Epoch,
    acknowledged: bool,
    /// Where it is to begin, or has begun.
    place: Option<Arc<str>>,
    begun: bool,
    /// Nobody hears of it before: the machine it runs on is cut off.
    hidden_until: Millis,
    /// Tells a planned end from one that was overtaken.
    ends_at: Millis,
}

impl Task {
    pub(crate) fn run(&self) -> RunKey {
        self.order.run
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.begun
    }

    pub(crate) fn attempt(&self) -> u32 {
        self.order.attempt
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Phase {
    /// Taken, not begun.
    Accepted,
    Running,
    Ended(AttemptEnd),
}

#[derive(Default)]
pub(crate) struct ModelEngine {
    /// The highest that has begun here; outlives a crash.
    epoch: Epoch,
    pub(crate) tasks: BTreeMap<TaskId, Task>,
    /// Those whose end nobody has acknowledged, and those that have not ended.
    pub(crate) open: std::collections::BTreeSet<TaskId>,
    /// Whether it is one that finds places.
    places: bool,
    /// How many it has found.
    found: u64,
    /// Who is told of ends: the node that began the present term here.
    listener: Option<(NodeId, Stage)>,
    down_until: Millis,
}

/// How often an end is told again.
pub(crate) const REPEAT: Millis = 5_000;
/// Longest time between the polite and the forced end of a task.
pub(crate) const GRACE: Millis = 5_000;
/// How long a place is held at most.
const HELD_MAX: Millis = 15_000;
/// What a node waits for an answer of the engine.
const PATIENCE: Millis = 2_000;
/// The longest that an order is under way: past its time, the right to lead of who gave it, and whole terms of others.
const LATE_MAX: Millis = 60_000;

impl ModelEngine {
    /// Whether this is the last place that was found for the task.
    pub(crate) fn holds(&self, task: &TaskId, place: &Arc<str>) -> bool {
        self.tasks.get(task).is_some_and(|task| task.place.as_ref() == Some(place))
    }

    pub(crate) fn new(places: bool) -> Self {
        Self { places, ..Self::default() }
    }
}

impl Cluster {
    /// Sends an order on its way. What is lost is answered as unknown, after a while; and so is what comes late.
    pub(crate) fn order_engine(&mut self, node: NodeId, stage: Stage, epoch: Epoch, order: Order) {
        if self.now < self.engine.down_until || self.unlucky(15) {
            self.say(|| format!("node {node}: {} is lost on its way to the engine", label(&order)));
            return self.engine_silent(node, stage, order);
        }
        let late = self.unlucky(15);
        let after = if late { self.random.between(PATIENCE, LATE_MAX) } else { self.latency() };
        let sender = if late { Sender::HasGivenUp } else { Sender::Waits };
        if late {
            self.say(|| format!("node {node}: {} will be under way for {after} ms", label(&order)));
            self.engine_silent(node, stage, order.clone());
        }
        self.at(self.now + after, Happening::Engine { node, stage, epoch, order, sender });
    }

    fn engine_silent(&mut self, node: NodeId, stage: Stage, order: Order) {
        let message = match order {
            // A place that is not taken lapses.
            Order::Acknowledge(_) | Order::GoAhead(..) => return,
            order => Message::EngineSilent(order),
        };
        let at = self.now + PATIENCE;
        self.at(at, Happening::Node { node, stage, message });
    }

    fn engine_answers(&mut self, node: NodeId, stage: Stage, order: Order, message: Message) {
        if self.now < self.engine.down_until || self.unlucky(15) {
            self.say(|| format!("engine: its answer to {} of node {node} is lost", label(&order)));
            return self.engine_silent(node, stage, order);
        }
        let at = self.now + self.latency();
        self.at(at, Happening::Node { node, stage, message });
    }

    pub(crate) fn engine_hears(
        &mut self,
        node: NodeId,
        stage: Stage,
        epoch: Epoch,
        order: Order,
        sender: Sender,
    ) {
        let waits = sender == Sender::Waits;
        if self.now < self.engine.down_until {
            if waits {
                self.engine_silent(node, stage, order);
            }
            return;
        }
        if let Some(answer) = self.engine_does(node, stage, epoch, &order)
            && waits
        {
            self.engine_answers(node, stage, order, answer);
        }
    }

    /// Does as it is told, unless the order is of an older term, of one that has not begun here, or stale.
    fn engine_does(&mut self, node: NodeId, stage: Stage, epoch: Epoch, order: &Order) -> Option<Message> {
        if let Order::Acknowledge(task) = order {
            self.engine_forgets(task);
            return None;
        }
        if let Order::GoAhead(task, place, not_after) = order {
            if epoch == self.engine.epoch && self.now <= *not_after {
                self.task_goes_ahead(task, place, epoch);
            }
            return None;
        }
        if epoch < self.engine.epoch {
            self.say(|| format!("engine: refuses {} of term {}", label(order), epoch.0));
            return Some(Message::EngineDeposed);
        }
        if epoch > self.engine.epoch && !matches!(order, Order::BeginTerm) {
            self.say(|| format!("engine: term {} has not begun here: {}", epoch.0, label(order)));
            return Some(Message::EngineRefuses(order.clone()));
        }
        if self.is_stale(order) {
            self.say(|| format!("engine: {} comes too late", label(order)));
            return Some(Message::EngineRefuses(order.clone()));
        }
        Some(match order {
            Order::BeginTerm => {
                self.engine_begins_term(node, stage, epoch);
                Message::EngineFollows
            }
            Order::Launch(launch) => Message::Launched(launch.clone(), self.engine_launches(epoch, launch)),
            Order::Kill(task, not_after) => {
                self.audit.killed(self.now, epoch, task, *not_after);
                self.engine_kills(task);
                Message::Killed
            }
            Order::Reconcile(number, tasks) => {
                let knows =
                    |(task, place): &(TaskId, Arc<str>)| (task.clone(), self.engine_knows(task, place));
                let known = tasks.iter().map(knows).collect();
                Message::Reconciled(*number, known)
            }
            Order::Acknowledge(_) | Order::GoAhead(..) => return None,
        })
    }

    /// Orders have their time, but to launch what is known already is only a question.
    fn is_stale(&self, order: &Order) -> bool {
        match order {
            Order::Launch(launch) => {
                self.now > launch.not_after && !self.engine.tasks.contains_key(&launch.task)
            }
            Order::Kill(_, not_after) => self.now > *not_after,
            Order::BeginTerm | Order::GoAhead(..) | Order::Reconcile(..) | Order::Acknowledge(_) => false,
        }
    }

    fn engine_forgets(&mut self, task: &TaskId) {
        if let Some(task) = self.engine.tasks.get_mut(task) {
            task.acknowledged = true;
        }
        self.engine.open.remove(task);
        self.audit.acknowledged(task);
    }

    /// From here on older terms are refused, and what they have not begun never will.
    fn engine_begins_term(&mut self, node: NodeId, stage: Stage, epoch: Epoch) {
        if epoch > self.engine.epoch {
            self.engine.epoch = epoch;
            self.engine_forgets_accepted();
        }
        self.say(|| format!("engine: follows term {} of node {node}", epoch.0));
        self.audit.engine_term(epoch);
        self.engine.listener = Some((node, stage));
        self.at(self.now + 1, Happening::Repeat { once: true });
    }

    fn engine_forgets_accepted(&mut self) {
        let open = self.engine.open.clone();
        for id in open {
            if self.engine.tasks.get(&id).is_some_and(|task| task.phase == Phase::Accepted) {
                self.engine.tasks.remove(&id);
                self.engine.open.remove(&id);
            }
        }
    }

    fn engine_launches(&mut self, epoch: Epoch, order: &LaunchOrder) -> News {
        if self.engine.tasks.contains_key(&order.task) {
            return self.engine_sees(&order.task);
        }
        if self.unlucky(10) {
            self.say(|| format!("engine: will not start {}", order.task));
            return News::NeverBegan;
        }
        let mut task = Task {
            phase: Phase::Accepted,
            order: order.clone(),
            epoch,
            acknowledged: false,
            place: None,
            begun: false,
            hidden_until: 0,
            ends_at: 0,
        };
        if self.unlucky(15) {
            // Cut off for longer than some jobs have patience.
            task.hidden_until = self.now + self.random.between(1_000, 400_000);
        }
        self.audit.launched(self.now, epoch, order);
        self.engine.tasks.insert(order.task.clone(), task);
        self.engine.open.insert(order.task.clone());
        if self.engine.places {
            // The canary fits everywhere.
            let large = order.job.name.as_str() != CANARY && !self.healed;
            let after = if large { self.random.pick(&[1, 50, 2_000, 40_000]) } else { 1 };
            self.at(self.now + after, Happening::TaskPlaced { task: order.task.clone(), epoch });
            return News::Waiting;
        }
        if self.unlucky(50) {
            let at = self.now + self.random.between(1, 800);
            self.at(at, Happening::TaskBegins { task: order.task.clone(), epoch });
        } else {
            self.task_begins(&order.task, epoch);
        }
        News::Running
    }

    /// There is a place for a task that waits, or another one, because nobody took the last.
    pub(crate) fn task_placed(&mut self, id: &TaskId, epoch: Epoch) {
        let found = self.engine.found + 1;
        let waits = |task: &&mut Task| task.phase == Phase::Accepted && task.epoch == epoch;
        let Some(task) = self.engine.tasks.get_mut(id).filter(waits) else { return };
        let place: Arc<str> = format!("place{found}").into();
        task.place = Some(place.clone());
        self.engine.found = found;
        self.say(|| format!("engine: {id} may begin at {place}"));
        // The engine that finds places is a part of the node: what it says may be lost with it, and is never out of order.
        if let Some((node, stage)) = self.engine.listener {
            let message = Message::News(id.clone(), News::Placed { node: place });
            self.at(self.now + 1, Happening::Node { node, stage, message });
        }
        let at = self.now + self.random.between(HELD_MAX / 2, HELD_MAX);
        self.at(at, Happening::TaskPlaced { task: id.clone(), epoch });
    }

    fn task_goes_ahead(&mut self, id: &TaskId, place: &Arc<str>, epoch: Epoch) {
        if self.engine.tasks.get(id).is_some_and(|task| task.place.as_ref() == Some(place)) {
            self.task_begins(id, epoch);
        }
    }

    pub(crate) fn task_begins(&mut self, id: &TaskId, epoch: Epoch) {
        let waits = |task: &&mut Task| task.phase == Phase::Accepted && task.epoch == epoch;
        let Some(task) = self.engine.tasks.get_mut(id).filter(waits) else { return };
        let mut words = task.order.job.body.split(' ').map(|word| word.parse::<i64>().unwrap_or(0));
        let (low, high) = (words.next().unwrap_or(0), words.next().unwrap_or(0));
        let at = self.now + self.random.between(low, high);
        task.phase = Phase::Running;
        task.begun = true;
        task.ends_at = at;
        let order = task.order.clone();
        self.say(|| format!("engine: {id} runs"));
        let alive = self.alive_of(&order);
        self.audit.started(self.now, epoch, &order, &alive);
        self.tell_listener(id, News::Running);
        self.at(at, Happening::TaskEnds { task: id.clone(), at });
    }

    /// The other tasks of the same job that run.
    fn alive_of(&self, order: &LaunchOrder) -> Vec<(RunKey, TaskId)> {
        let others = self.engine.open.iter().filter_map(|id| self.engine.tasks.get(id));
        let others =
            others.filter(|task| task.phase == Phase::Running && task.order.run.job == order.run.job);
        let others = others.filter(|task| task.order.task != order.task);
        others.map(|task| (task.order.run, task.order.task.clone())).collect()
    }

    /// A task comes to its own end, unless something else came first.
    pub(crate) fn task_ends(&mut self, id: &TaskId, at: Millis) {
        let Some(task) = self.engine.tasks.get(id) else { return };
        if task.phase != Phase::Running || task.ends_at != at {
            return;
        }
        let fails: u64 =
            task.order.job.body.split(' ').nth(2).and_then(|word| word.parse().ok()).unwrap_or(0);
        let end = if self.random.below(100) < fails {
            AttemptEnd::Failed { exit: Some(1), signal: None, message: "exit status 1".into() }
        } else {
            AttemptEnd::Succeeded
        };
        self.task_ended(id, end);
    }

    fn task_ended(&mut self, id: &TaskId, end: AttemptEnd) {
        let Some(task) = self.engine.tasks.get_mut(id) else { return };
        task.phase = Phase::Ended(end.clone());
        self.say(|| format!("engine: {id} ended: {end:?}"));
        self.audit.ended(self.now, id);
        self.tell_listener(id, News::Ended(end));
    }

    fn engine_kills(&mut self, id: &TaskId) {
        let Some(task) = self.engine.tasks.get_mut(id) else { return };
        match task.phase {
            Phase::Accepted => self.task_ended(id, AttemptEnd::Killed),
            Phase::Running => {
                let at = self.now + self.random.between(0, GRACE);
                if at < task.ends_at {
                    task.ends_at = at;
                    self.at(at, Happening::TaskKilled { task: id.clone(), at });
                }
            }
            Phase::Ended(_) => {}
        }
    }

    pub(crate) fn task_killed(&mut self, id: &TaskId, at: Millis) {
        let still =
            self.engine.tasks.get(id).is_some_and(|task| task.phase == Phase::Running && task.ends_at == at);
        if still {
            let by_signal =
                AttemptEnd::Failed { exit: None, signal: Some(15), message: "ended by signal 15".into() };
            let end = if self.random.permille(200) { by_signal } else { AttemptEnd::Killed };
            self.task_ended(id, end);
        }
    }

    /// What the answer to a question is. Where places are found, nothing but the place leads to what an older term began.
    fn engine_knows(&self, id: &TaskId, place: &Arc<str>) -> News {
        let ours = |task: &Task| task.epoch == self.engine.epoch || task.place.as_ref() == Some(place);
        if self.engine.places && !self.engine.tasks.get(id).is_some_and(ours) {
            return News::NeverBegan;
        }
        self.engine_sees(id)
    }

    fn engine_sees(&self, id: &TaskId) -> News {
        match self.engine.tasks.get(id) {
            None => News::NeverBegan,
            // The promise of some machines: what they run has ended when they are cut off, and nobody can tell how.
            Some(Task { phase: Phase::Ended(_), hidden_until, .. })
                if self.now < *hidden_until && hidden_until % 2 == 0 =>
            {
                News::GivenUp { message: CUT_OFF.into() }
            }
            Some(task) if self.now < task.hidden_until => News::Unknown,
            Some(task) => match &task.phase {
                Phase::Accepted if self.engine.places => News::Waiting,
                Phase::Accepted | Phase::Running => News::Running,
                Phase::Ended(end) => News::Ended(end.clone()),
            },
        }
    }

    /// Tells the present leader, if the news arrives.
    fn tell_listener(&mut self, id: &TaskId, news: News) {
        let Some((node, stage)) = self.engine.listener else { return };
        let hidden = self.engine.tasks.get(id).is_some_and(|task| self.now < task.hidden_until);
        if hidden || self.now < self.engine.down_until || self.unlucky(30) {
            return;
        }
        let late = if self.unlucky(30) { self.random.between(0, 20_000) } else { self.latency() };
        let message = Message::News(id.clone(), news);
        if self.unlucky(30) {
            let again = self.now + late + self.random.between(0, 5_000);
            self.at(again, Happening::Node { node, stage, message: message.clone() });
        }
        self.at(self.now + late, Happening::Node { node, stage, message });
    }

    /// Tells all ends again that nobody has acknowledged.
    pub(crate) fn engine_repeats(&mut self) {
        for id in self.engine.open.clone() {
            if let Some(Task { phase: Phase::Ended(end), acknowledged: false, .. }) =
                self.engine.tasks.get(&id)
            {
                let end = end.clone();
                self.tell_listener(&id, News::Ended(end));
            }
        }
    }

    /// The engine crashes: what it had not begun is forgotten, some of what ran is lost, and nobody is connected.
    pub(crate) fn engine_restarts(&mut self) {
        let down = self.random.between(500, 30_000);
        self.say(|| format!("fault: the engine crashes and is down for {down} ms"));
        self.engine.down_until = self.now + down;
        self.engine_forgets_accepted();
        for id in self.engine.open.clone() {
            let running = self.engine.tasks.get(&id).is_some_and(|task| task.phase == Phase::Running);
            if running && self.random.permille(500) {
                self.task_ended(&id, AttemptEnd::Lost { message: "the engine crashed".into() });
            }
        }
        if let Some((node, stage)) = self.engine.listener.take() {
            self.at(self.now + 100, Happening::Node { node, stage, message: Message::EngineGone });
        }
    }

    /// All machines can be reached again.
    pub(crate) fn engine_heals(&mut self) {
        self.engine.down_until = self.now;
        self.engine.tasks.values_mut().for_each(|task| task.hidden_until = 0);
    }
}

pub(crate) fn label(order: &Order) -> String {
    match order {
        Order::BeginTerm => "begin_term".into(),
        Order::Launch(launch) => format!("launch {}", launch.task),
        Order::Kill(task, _) => format!("kill {task}"),
        Order::GoAhead(task, place, _) => format!("go ahead of {task} at {place}"),
        Order::Reconcile(_, tasks) => format!("reconcile of {} tasks", tasks.len()),
        Order::Acknowledge(task) => format!("acknowledge {task}"),
    }
}
