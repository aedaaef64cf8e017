//! The table of tasks: who waits, who has a place, who is on an agent, whose end is still to be told. A pure state machine:
//! orders, events of the master and the time go in; calls to the master and news for the node come out.
//!
//! A task's life: it **waits**; an offer fits, and it is **placed**, which is told; when that is durable it gets its
//! **go-ahead**, and with all others of the same offers it is sent to its agent; from then on only Mesos knows, and it
//! **has begun** for all we can tell; until it **has ended**, which is told until somebody acknowledges it, and only then
//! acknowledged to Mesos.
//!
//! `holds.rs` has the same table's dealings with offers, `index.rs` finds a task by its name and by when it is due.

mod foreign;
mod holds;
mod index;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use scheduler::ids::TaskId;
use scheduler::run::AttemptEnd;

use self::foreign::Foreign;
use self::holds::Offers;
pub(super) use self::holds::Supply;
use self::index::Tasks;
use super::matching::Placement;
use super::options::OldTasks;
use super::place::Place;
use super::status::{Meaning, meaning};
use super::wire::{Call, Status};
use crate::{Known, Share, TaskEvent, TaskSpec};

/// The name that a task is launched under which has no place yet.
pub(super) const UNPLACED: &str = "mesos";

/// A place is held so long for a go-ahead: beyond the time in which an order arrives or is stale.
const HELD_MAX: Duration = Duration::from_secs(15);
/// An unanswered kill is sent again after so long.
const KILL_AGAIN: Duration = Duration::from_secs(10);
/// What nothing was heard of is asked for again after so long.
const ASK_AGAIN: Duration = Duration::from_secs(15);
/// A task that was sent to its agent is not asked for before: it is on its way.
const UNHEARD_MAX: Duration = Duration::from_secs(30);
/// A new leader has launched what it wants after so long.
const WANTED_WITHIN: Duration = Duration::from_secs(10);
/// Why a master says something that it was asked for.
const RECONCILIATION: &str = "REASON_RECONCILIATION";
/// Tasks in one question to the master.
const QUESTION_MAX: usize = 1000;
/// Ends that are remembered after they were acknowledged, for those who ask once more.
const ENDED_MAX: usize = 10_000;

/// How offers are dealt with.
#[derive(Clone, Debug)]
pub(super) struct Manners {
    pub(super) decline_for: Duration,
    pub(super) revive_every: Duration,
    pub(super) reconcile_every: Duration,
    /// What tasks get that do not say.
    pub(super) share: Share,
    pub(super) kill_grace: Duration,
    pub(super) old_tasks: OldTasks,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Act {
    /// In this order.
    Call(Call),
    /// The tasks of an accepted hold; not after this time since boot. Then [`Table::accepted`] or [`Table::not_accepted`].
    Accept {
        tasks: Vec<TaskId>,
        call: Call,
        not_after: Duration,
    },
    Tell(TaskEvent),
}

/// See the module.
pub(super) struct Table {
    manners: Manners,
    tasks: Tasks,
    offers: Offers,
    /// Tasks that were told to have never begun, until they end.
    dropped: BTreeMap<TaskId, Dropped>,
    /// Acknowledged ends, the oldest first.
    ended: VecDeque<TaskId>,
    /// Of which nothing is known here and which may be on the cluster all the same.
    strays: BTreeSet<TaskId>,
    /// Tasks of ours that the master has told of and nobody here knows, each to be told when this time has come.
    strangers: VecDeque<(Duration, TaskId)>,
    /// Of the framework, but not of ours.
    foreign: Foreign,
    /// Id of the framework, while the master listens to it.
    framework: Option<String>,
    /// Number of the last task in the queue, and of the last hold.
    last: u64,
    asked_all: Duration,
    acts: Vec<Act>,
}

struct Task {
    state: State,
    /// Of those that have not begun.
    spec: Option<Arc<TaskSpec>>,
    /// Its place in the queue.
    order: u64,
    /// Places that were told of it.
    told: u32,
    kill: Option<KillOrder>,
}

impl Task {
    /// One that waits, or of which nothing but its end will be known.
    fn new(order: u64, told: u32, spec: Option<Arc<TaskSpec>>) -> Self {
        Self { state: State::Waiting, spec, order, told, kill: None }
    }

    /// When something is to be done about it, unless something comes of it before.
    fn due(&self) -> Option<Duration> {
        match &self.state {
            State::Placed { since, go: None, .. } => Some(*since + HELD_MAX),
            State::Begun(begun) => {
                let killed = self.kill.as_ref().map(KillOrder::due);
                begun.asked_again().into_iter().chain(killed).min()
            }
            State::Waiting | State::Placed { .. } | State::Ended { .. } => None,
        }
    }
}

struct KillOrder {
    grace: Duration,
    sent: Option<Duration>,
}

impl KillOrder {
    fn due(&self) -> Duration {
        self.sent.map_or(Duration::ZERO, |sent| sent + KILL_AGAIN)
    }

    fn call(&mut self, now: Duration, id: &TaskId, begun: &Begun) -> Call {
        self.sent = Some(now);
        Call::Kill { task: id.to_string(), agent: begun.agent.clone(), grace: self.grace }
    }
}

/// What is remembered of a task that was told to have never begun.
struct Dropped {
    /// Places that were told of it.
    told: u32,
    /// Of the update that said so.
    uuid: String,
}

enum State {
    Waiting,
    Placed { placement: Box<Placement>, node: Arc<str>, hold: u64, since: Duration, go: Option<Duration> },
    Begun(Begun),
    Ended { end: AttemptEnd, agent: String, uuid: String, acknowledged: bool },
}

/// A task, and its agent where that is known.
type Question = (String, Option<String>);

struct Begun {
    agent: String,
    /// What was heard of it last.
    heard: Option<Heard>,
    origin: Origin,
    /// When it was asked for last, or else sent to its agent; since boot.
    asked: Option<Duration>,
}

impl Begun {
    fn question(&mut self, now: Duration, id: &TaskId) -> Question {
        self.asked = Some(now);
        (id.to_string(), Some(self.agent.clone()).filter(|agent| !agent.is_empty()))
    }

    /// When it is to be asked for, if nothing is heard of it before.
    fn asked_again(&self) -> Option<Duration> {
        let patience = match (self.heard, self.origin) {
            (Some(Heard::Runs), _) | (_, Origin::Sent) => return None,
            (None, Origin::Accepted) => UNHEARD_MAX,
            _ => ASK_AGAIN,
        };
        Some(self.asked.map_or(Duration::ZERO, |asked| asked + patience))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Heard {
    Runs,
    Unknown,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// We sent it; whether the master has it is not known yet. It is not asked for: the question might overtake it.
    Sent,
    /// We sent it, and the master has it; or it lost its way to a master that is gone.
    Accepted,
    /// Somebody before us.
    Before,
}

impl Table {
    pub(super) fn new(manners: Manners) -> Self {
        Self {
            manners,
            tasks: Tasks::default(),
            offers: Offers::default(),
            dropped: BTreeMap::new(),
            ended: VecDeque::new(),
            strays: BTreeSet::new(),
            strangers: VecDeque::new(),
            foreign: Foreign::default(),
            framework: None,
            last: 0,
            asked_all: Duration::ZERO,
            acts: Vec::new(),
        }
    }

    /// What is to be done since it was asked last.
    pub(super) fn take(&mut self) -> Vec<Act> {
        std::mem::take(&mut self.acts)
    }

    /// A new term: what former ones have not sent to an agent never will be, and what they have is for the node to ask for.
    pub(super) fn begin_term(&mut self) {
        self.unsubscribed();
        for (id, _) in self.tasks.iter().filter(|(_, task)| matches!(task.state, State::Waiting)) {
            self.offers.forget(id);
        }
        self.tasks.retain(|task| matches!(task.state, State::Ended { .. }));
        self.strays.clear();
        self.strangers.clear();
        self.dropped.clear();
        self.tell_open_ends();
    }

    /// All ends that nobody has acknowledged, once more.
    pub(super) fn tell_open_ends(&mut self) {
        for (id, task) in self.tasks.iter() {
            if let State::Ended { end, acknowledged: false, .. } = &task.state {
                let known = Known::Ended(end.clone());
                self.acts.push(Act::Tell(TaskEvent { task: id.clone(), known }));
            }
        }
    }

    /// Takes a task that is not known, to find it a place.
    pub(super) fn launch(&mut self, now: Duration, id: &TaskId, spec: Arc<TaskSpec>) -> Known {
        match self.known(id) {
            None | Some(Known::NeverBegan) => {}
            Some(known) => return known,
        }
        self.last += 1;
        let told = self.dropped.get(id).map_or(0, |dropped| dropped.told);
        self.tasks.insert(id.clone(), Task::new(self.last, told, Some(spec)));
        self.strays.remove(id);
        self.enqueue(id);
        self.settle(now);
        self.known(id).unwrap_or(Known::Waiting)
    }

    /// What is known of a task; `None` if nothing is.
    pub(super) fn known(&self, id: &TaskId) -> Option<Known> {
        let Some(task) = self.tasks.get(id) else {
            return self.dropped.contains_key(id).then_some(Known::NeverBegan);
        };
        Some(match &task.state {
            State::Waiting | State::Placed { .. } => Known::Waiting,
            State::Begun(Begun { heard: Some(Heard::Runs), .. }) => Known::Running,
            State::Begun(Begun { heard: None, origin: Origin::Sent | Origin::Accepted, .. }) => {
                Known::Waiting
            }
            State::Begun(_) => Known::Unknown,
            State::Ended { end, .. } => Known::Ended(end.clone()),
        })
    }

    /// Wants the task dead.
    pub(super) fn kill(&mut self, now: Duration, id: &TaskId, grace: Duration) {
        let Some(mut task) = self.tasks.get_mut(id) else { return };
        match &task.state {
            State::Ended { .. } => {}
            State::Waiting => {
                drop(task);
                self.offers.forget(id);
                self.end(id, AttemptEnd::Killed, String::new(), String::new());
            }
            State::Placed { hold, .. } => {
                let hold = *hold;
                drop(task);
                self.leave(id, hold);
                self.end(id, AttemptEnd::Killed, String::new(), String::new());
                self.accept_if_complete(now, hold);
                self.settle(now);
            }
            State::Begun(begun) => {
                let mut order = KillOrder { grace, sent: None };
                if self.framework.is_some() {
                    self.acts.push(Act::Call(order.call(now, id, begun)));
                }
                task.kill = Some(order);
            }
        }
    }

    /// A task that somebody before us sent to this place is to be asked for; see [`Table::ask_due`].
    pub(super) fn ask(&mut self, id: &TaskId, place: &Place) {
        if self.tasks.contains(id) {
            return;
        }
        let begun = Begun { agent: place.agent.clone(), heard: None, origin: Origin::Before, asked: None };
        self.tasks.insert(id.clone(), Task { state: State::Begun(begun), ..Task::new(0, 0, None) });
        self.strays.remove(id);
    }

    /// A task that nobody launched as far as is known is asked for all the same, wherever it may be.
    pub(super) fn ask_for_stray(&mut self, id: &TaskId) {
        if !self.tasks.contains(id) && self.strays.len() < ENDED_MAX {
            self.strays.insert(id.clone());
            if self.framework.is_some() {
                self.acts.push(Act::Call(Call::Reconcile { tasks: vec![(id.to_string(), None)] }));
            }
        }
    }

    /// It is known otherwise how this task ended.
    pub(super) fn ended(&mut self, id: &TaskId, end: AttemptEnd) {
        if !self.tasks.contains(id) {
            self.end(id, end, String::new(), String::new());
        }
    }

    /// The end of the task is durable elsewhere.
    pub(super) fn acknowledge(&mut self, id: &TaskId) {
        let Some(mut task) = self.tasks.get_mut(id) else { return };
        let State::Ended { agent, uuid, acknowledged, .. } = &mut task.state else { return };
        if !uuid.is_empty() {
            let call =
                Call::Acknowledge { task: id.to_string(), agent: agent.clone(), uuid: std::mem::take(uuid) };
            self.acts.push(Act::Call(call));
        }
        let before = std::mem::replace(acknowledged, true);
        drop(task);
        if !before {
            self.ended.push_back(id.clone());
            if self.ended.len() > ENDED_MAX
                && let Some(oldest) = self.ended.pop_front()
            {
                self.tasks.remove(&oldest);
            }
        }
    }

    /// The master listens to us, by this id. All that has begun is asked for.
    pub(super) fn subscribed(&mut self, now: Duration, framework: &str) {
        self.unsubscribed();
        self.framework = Some(framework.to_owned());
        self.offers.subscribed(now);
        self.foreign = Foreign::default();
        self.ask_all(now);
        // And for all that there is of this framework, whoever began it.
        self.acts.push(Act::Call(Call::Reconcile { tasks: Vec::new() }));
        for stray in &self.strays {
            self.acts.push(Act::Call(Call::Reconcile { tasks: vec![(stray.to_string(), None)] }));
        }
        self.tasks.change_each(|_, task| {
            if let Some(kill) = &mut task.kill {
                kill.sent = None;
            }
        });
        self.see_to_due(now);
    }

    /// The framework is no more: its tasks were ended with it, and it begins under another id.
    pub(super) fn framework_removed(&mut self) {
        let gone: Vec<TaskId> = self
            .tasks
            .iter()
            .filter(|(_, task)| matches!(task.state, State::Begun(_)))
            .map(|(id, _)| id.clone())
            .collect();
        for id in gone {
            let message = "Mesos has removed the framework and ended its tasks".into();
            self.end(&id, AttemptEnd::Lost { message }, String::new(), String::new());
        }
    }

    /// The master is away: no offer is good any more, and what has no go-ahead waits again.
    pub(super) fn unsubscribed(&mut self) {
        self.framework = None;
        self.offers.unsubscribed();
        let placed: Vec<TaskId> = self
            .tasks
            .iter()
            .filter(|(_, task)| matches!(task.state, State::Placed { .. }))
            .map(|(id, _)| id.clone())
            .collect();
        for id in placed {
            self.enqueue(&id);
        }
        self.tasks.change_each(|_, task| {
            if let State::Begun(begun) = &mut task.state
                && begun.origin == Origin::Sent
            {
                // What the old master has not heard by now it never will: its stream is gone.
                begun.origin = Origin::Accepted;
            }
        });
    }

    /// News of a task, from its agent or from the master.
    pub(super) fn update(&mut self, now: Duration, status: Status) {
        let meaning = meaning(&status);
        let acknowledge = |status: &Status| {
            let (task, agent) = (status.task_id.value.clone(), status.agent_id.value.clone());
            let call = Call::Acknowledge { task, agent, uuid: status.uuid.clone() };
            (!status.uuid.is_empty()).then_some(Act::Call(call))
        };
        let Some(id) = TaskId::parse(&status.task_id.value) else {
            self.acts.extend(acknowledge(&status));
            self.foreign.update(&status, &meaning);
            self.end_foreign(now);
            return;
        };
        let asked = self.strays.remove(&id);
        let state = self.tasks.get(&id).map(|task| &task.state);
        if let Some(State::Ended { acknowledged, uuid, .. }) = state {
            match (&meaning, acknowledged) {
                // Repeated, because the acknowledgement did not arrive, or is still to come.
                (Meaning::Ended(_), false) if !status.uuid.is_empty() => {
                    let again = uuid.is_empty();
                    if let Some(mut task) = self.tasks.get_mut(&id)
                        && let State::Ended { uuid, agent, end, .. } = &mut task.state
                    {
                        (*uuid, *agent) = (status.uuid, status.agent_id.value);
                        if !again {
                            let known = Known::Ended(end.clone());
                            self.acts.push(Act::Tell(TaskEvent { task: id.clone(), known }));
                        }
                    }
                }
                _ => self.acts.extend(acknowledge(&status)),
            }
            return;
        }
        match meaning {
            // An answer about what was here before, or never: what waits or is on its way has not begun.
            Meaning::Ended(AttemptEnd::Lost { .. }) if !self.can_be_lost(&id, &status) => {
                self.acts.extend(acknowledge(&status));
            }
            Meaning::Ended(end) => {
                self.leave_any(&id);
                self.end(&id, end, status.agent_id.value, status.uuid);
                self.settle(now);
            }
            Meaning::NeverBegan => {
                self.acts.extend(acknowledge(&status));
                if self.is_dropped_now(&id, &status) {
                    let told = self.tasks.remove(&id).map_or(0, |task| task.told);
                    if self.dropped.len() >= ENDED_MAX {
                        self.dropped.pop_first();
                    }
                    self.dropped.insert(id.clone(), Dropped { told, uuid: status.uuid });
                    self.acts.push(Act::Tell(TaskEvent { task: id, known: Known::NeverBegan }));
                }
            }
            // Whoever has just begun to lead may want it, and have it by launching it; if not, it is told that it is there.
            Meaning::Runs if state.is_none() && !asked && status.reason == RECONCILIATION => {
                let begun = Begun {
                    agent: status.agent_id.value,
                    heard: Some(Heard::Runs),
                    origin: Origin::Before,
                    asked: Some(now),
                };
                self.tasks.insert(id.clone(), Task { state: State::Begun(begun), ..Task::new(0, 0, None) });
                self.strangers.push_back((now + WANTED_WITHIN, id));
            }
            Meaning::Runs => {
                self.acts.extend(acknowledge(&status));
                self.heard(now, id, status.agent_id.value, Heard::Runs);
            }
            Meaning::Unknown => {
                self.acts.extend(acknowledge(&status));
                // Of what waits here, or was never here, the master need not know.
                if matches!(state, Some(State::Begun(_))) {
                    self.heard(now, id, status.agent_id.value, Heard::Unknown);
                }
            }
            Meaning::Duplicate => {
                self.acts.extend(acknowledge(&status));
                self.heard(now, id.clone(), status.agent_id.value, Heard::Unknown);
                if self.framework.is_some() {
                    self.acts.push(Act::Call(Call::Reconcile { tasks: vec![(id.to_string(), None)] }));
                }
            }
        }
    }

    /// Whether this is about the task as it is on its way now. An agent repeats what it dropped until it hears that we know,
    /// and by then the task may have been sent again, there or elsewhere: it must not be sent a third time.
    fn is_dropped_now(&self, id: &TaskId, status: &Status) -> bool {
        let before = self.dropped.get(id);
        match self.tasks.get(id).map(|task| &task.state) {
            None => before.is_none(),
            Some(State::Begun(begun)) => {
                let agent = &status.agent_id.value;
                let repeated =
                    before.is_some_and(|before| before.uuid == status.uuid) && !status.uuid.is_empty();
                !repeated && (agent.is_empty() || begun.agent.is_empty() || *agent == begun.agent)
            }
            // A place that is still held has nothing to do with what came of the last one.
            Some(State::Waiting | State::Placed { .. } | State::Ended { .. }) => false,
        }
    }

    fn can_be_lost(&self, id: &TaskId, status: &Status) -> bool {
        match self.tasks.get(id).map(|task| &task.state) {
            None | Some(State::Waiting | State::Placed { .. }) => false,
            Some(State::Begun(Begun { heard: None, origin: Origin::Sent, .. })) => {
                status.reason != RECONCILIATION
            }
            Some(State::Begun(_) | State::Ended { .. }) => true,
        }
    }

    /// What is due by now.
    pub(super) fn tick(&mut self, now: Duration) {
        for number in self.offers.gathered(now) {
            self.accept(now, number);
        }
        if self.framework.is_some() {
            if now >= self.asked_all + self.manners.reconcile_every {
                self.ask_all(now);
            }
            self.see_to_due(now);
            self.end_foreign(now);
            self.tell_strangers(now);
        }
        self.settle(now);
    }

    /// What is due of single tasks: places that nobody wanted, questions, kills.
    fn see_to_due(&mut self, now: Duration) {
        let mut questions = Vec::new();
        for id in self.tasks.due(now) {
            let Some(mut changing) = self.tasks.get_mut(&id) else { continue };
            let task = &mut *changing;
            match &mut task.state {
                State::Placed { hold, .. } => {
                    let hold = *hold;
                    drop(changing);
                    self.lapse(now, &id, hold);
                }
                State::Begun(begun) => {
                    if begun.asked_again().is_some_and(|again| now >= again) {
                        questions.push(begun.question(now, &id));
                    }
                    if let Some(kill) = task.kill.as_mut().filter(|kill| now >= kill.due()) {
                        self.acts.push(Act::Call(kill.call(now, &id, begun)));
                    }
                }
                State::Waiting | State::Ended { .. } => {}
            }
        }
        self.ask_master(&questions);
    }

    fn tell_strangers(&mut self, now: Duration) {
        while let Some((_, id)) = self.strangers.pop_front_if(|(due, _)| now >= *due) {
            if self.known(&id) == Some(Known::Running) {
                self.acts.push(Act::Tell(TaskEvent { task: id, known: Known::Running }));
            }
        }
    }

    fn end_foreign(&mut self, now: Duration) {
        if self.manners.old_tasks == OldTasks::Kill {
            self.acts.extend(self.foreign.kills(now, self.manners.kill_grace).into_iter().map(Act::Call));
        }
    }

    /// What there is to say of tasks of an old Chronos.
    pub(super) fn notes(&self) -> Vec<String> {
        self.foreign.note(self.manners.old_tasks).into_iter().collect()
    }

    /// What there is to say of offers.
    pub(super) fn supply(&self) -> Supply {
        self.offers.supply()
    }

    /// Why a task has not begun.
    pub(super) fn waits_for(&self, id: &TaskId) -> Vec<String> {
        let Some(task) = self.tasks.get(id) else { return Vec::new() };
        match &task.state {
            State::Waiting => self.offers.misfit(id).map(|misfit| misfit.to_string()).into_iter().collect(),
            State::Placed { placement, .. } => {
                vec![format!("agent {} has room for it; that is being recorded", placement.hostname)]
            }
            State::Begun(Begun { heard: None, agent, .. }) => {
                vec![format!("it was sent to agent {agent}, which has not said anything of it yet")]
            }
            _ => Vec::new(),
        }
    }

    /// Whether anything is known of the task.
    pub(super) fn holds(&self, id: &TaskId) -> bool {
        self.tasks.contains(id)
    }

    fn end(&mut self, id: &TaskId, end: AttemptEnd, agent: String, uuid: String) {
        self.dropped.remove(id);
        let known = Known::Ended(end.clone());
        let state = State::Ended { end, agent, uuid, acknowledged: false };
        let mut task = self.tasks.get_or_new(id);
        (task.state, task.spec, task.kill) = (state, None, None);
        drop(task);
        self.acts.push(Act::Tell(TaskEvent { task: id.clone(), known }));
    }

    fn heard(&mut self, now: Duration, id: TaskId, agent: String, heard: Heard) {
        self.leave_any(&id);
        let mut task = self.tasks.get_or_new(&id);
        let before = match &task.state {
            State::Begun(begun) => begun.heard,
            _ => None,
        };
        let agent = match &task.state {
            State::Begun(begun) if agent.is_empty() => begun.agent.clone(),
            _ => agent,
        };
        task.state =
            State::Begun(Begun { agent, heard: Some(heard), origin: Origin::Accepted, asked: Some(now) });
        if heard == Heard::Runs {
            task.spec = None;
        }
        drop(task);
        if before != Some(heard) {
            let known = if heard == Heard::Runs { Known::Running } else { Known::Unknown };
            self.acts.push(Act::Tell(TaskEvent { task: id, known }));
        }
    }

    fn ask_all(&mut self, now: Duration) {
        self.asked_all = now;
        let mut questions = Vec::new();
        self.tasks.change_each(|id, task| {
            if let State::Begun(begun) = &mut task.state
                && begun.origin != Origin::Sent
            {
                questions.push(begun.question(now, id));
            }
        });
        self.ask_master(&questions);
    }

    /// Asks for those of which nothing is known for too long.
    pub(super) fn ask_due(&mut self, now: Duration) {
        if self.framework.is_some() {
            self.see_to_due(now);
        }
    }

    fn ask_master(&mut self, questions: &[Question]) {
        for tasks in questions.chunks(QUESTION_MAX) {
            self.acts.push(Act::Call(Call::Reconcile { tasks: tasks.to_vec() }));
        }
    }
}

#[cfg(test)]
mod tests;
