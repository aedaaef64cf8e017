//! The table of tasks: who waits, who has a place, who is on an agent, whose end is still to be told. A pure state machine:
//! orders, events of the master and the time go in; calls to the master and news for the node come out.
//!
//! A task's life: it **waits**; an offer fits, and it is **placed**, which is told; when that is durable it gets its
//! **go-ahead**, and with all others of the same offers it is sent to its agent; from then on only Mesos knows, and it
//! **has begun** for all we can tell; until it **has ended**, which is told until somebody acknowledges it, and only then
//! acknowledged to Mesos.
//!
//! Offers that tasks were placed on are a **hold**. With the first go-ahead it closes: its offers are accepted together,
//! once all of its tasks have theirs or [`GATHER`] is over, and nothing else is placed there.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use scheduler::ids::TaskId;
use scheduler::run::AttemptEnd;

use super::matching::{self, Placement, Pool, Queue};
use super::place::Place;
use super::resources::{Demand, Offer};
use super::status::{Meaning, meaning};
use super::task_info::task_info;
use super::wire::{Call, Status};
use crate::{Known, Share, TaskEvent, TaskSpec};

/// The name that a task is launched under which has no place yet.
pub(super) const UNPLACED: &str = "mesos";

/// A place is held so long for a go-ahead: beyond the time in which an order arrives or is stale.
const HELD_MAX: Duration = Duration::from_secs(15);
/// After the first go-ahead of a hold, the others are awaited so long.
const GATHER: Duration = Duration::from_secs(2);
/// An unanswered kill is sent again after so long.
const KILL_AGAIN: Duration = Duration::from_secs(10);
/// What nothing was heard of is asked for again after so long.
const ASK_AGAIN: Duration = Duration::from_secs(15);
/// A task that was sent to its agent is not asked for before: it is on its way.
const UNHEARD_MAX: Duration = Duration::from_secs(30);
/// Tasks in one question to the master.
const QUESTION_MAX: usize = 1000;
/// Ends that are remembered after they were acknowledged, for those who ask once more.
const ENDED_MAX: usize = 10_000;
/// Offers of no use now are kept so long after there was work: more may come.
const KEPT_FOR: Duration = Duration::from_secs(5);
/// So many of them; others can use the rest.
const KEPT_MAX: usize = 4;
/// While something waits, all that was declined is asked for again after so long.
const REVIVE_AGAIN: Duration = Duration::from_secs(60);

/// How offers are dealt with.
#[derive(Clone, Debug)]
pub(super) struct Manners {
    pub(super) decline_for: Duration,
    pub(super) revive_every: Duration,
    pub(super) reconcile_every: Duration,
    /// What tasks get that do not say.
    pub(super) share: Share,
    pub(super) kill_grace: Duration,
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
    tasks: BTreeMap<TaskId, Task>,
    /// How many places were told of tasks that were told to have never begun.
    told: BTreeMap<TaskId, u32>,
    queue: Queue,
    pool: Pool,
    holds: BTreeMap<u64, Hold>,
    /// Of which hold each offer is.
    held: HashMap<String, u64>,
    /// Acknowledged ends, the oldest first.
    ended: VecDeque<TaskId>,
    /// Of which nothing is known here and which may be on the cluster all the same.
    strays: BTreeSet<TaskId>,
    /// Id of the framework, while the master listens to it.
    framework: Option<String>,
    /// Number of the last task in the queue, and of the last hold.
    last: u64,
    suppressed: bool,
    /// Something was declined, or has come into the queue, since offers were asked for last.
    wants_offers: bool,
    declined: bool,
    revived: Option<Duration>,
    asked_all: Duration,
    worked: Option<Duration>,
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

struct KillOrder {
    grace: Duration,
    sent: Option<Duration>,
}

impl KillOrder {
    fn call(&mut self, now: Duration, id: &TaskId, begun: &Begun) -> Call {
        self.sent = Some(now);
        Call::Kill { task: id.to_string(), agent: begun.agent.clone(), grace: self.grace }
    }
}

enum State {
    Waiting,
    Placed { placement: Box<Placement>, node: Arc<str>, hold: u64, since: Duration, go: Option<Duration> },
    Begun(Begun),
    Ended { end: AttemptEnd, agent: String, uuid: String, acknowledged: bool },
}

struct Begun {
    agent: String,
    /// What was heard of it last.
    heard: Option<Heard>,
    origin: Origin,
    /// When it was asked for last, or else sent to its agent; since boot.
    asked: Option<Duration>,
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

struct Hold {
    offers: BTreeSet<String>,
    tasks: BTreeSet<TaskId>,
    /// Once it is closed: since when, and the offers that are kept for it.
    closed: Option<(Duration, Vec<Offer>)>,
}

impl Table {
    pub(super) fn new(manners: Manners) -> Self {
        Self {
            manners,
            tasks: BTreeMap::new(),
            told: BTreeMap::new(),
            queue: Queue::default(),
            pool: Pool::default(),
            holds: BTreeMap::new(),
            held: HashMap::new(),
            ended: VecDeque::new(),
            strays: BTreeSet::new(),
            framework: None,
            last: 0,
            suppressed: false,
            wants_offers: false,
            declined: false,
            revived: None,
            asked_all: Duration::ZERO,
            worked: None,
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
        for task in self.tasks.iter().filter(|(_, task)| matches!(task.state, State::Waiting)) {
            self.queue.remove(task.0);
        }
        self.tasks.retain(|_, task| matches!(task.state, State::Ended { .. }));
        self.strays.clear();
        self.told.clear();
        self.tell_open_ends();
    }

    /// All ends that nobody has acknowledged, once more.
    pub(super) fn tell_open_ends(&mut self) {
        for (id, task) in &self.tasks {
            if let State::Ended { end, acknowledged: false, .. } = &task.state {
                let known = Known::Ended(end.clone());
                self.acts.push(Act::Tell(TaskEvent { task: id.clone(), known }));
            }
        }
    }

    /// Takes a task that is not known, to find it a place.
    pub(super) fn launch(&mut self, now: Duration, id: &TaskId, spec: Arc<TaskSpec>) -> Known {
        if let Some(known) = self.known(id) {
            return known;
        }
        self.last += 1;
        let told = self.told.remove(id).unwrap_or(0);
        let task = Task { state: State::Waiting, spec: Some(spec), order: self.last, told, kill: None };
        self.tasks.insert(id.clone(), task);
        self.strays.remove(id);
        self.enqueue(id);
        self.settle(now);
        self.known(id).unwrap_or(Known::Waiting)
    }

    /// What is known of a task; `None` if nothing is.
    pub(super) fn known(&self, id: &TaskId) -> Option<Known> {
        Some(match &self.tasks.get(id)?.state {
            State::Waiting | State::Placed { .. } => Known::Waiting,
            State::Begun(Begun { heard: Some(Heard::Runs), .. }) => Known::Running,
            State::Begun(Begun { heard: None, origin: Origin::Sent | Origin::Accepted, .. }) => {
                Known::Waiting
            }
            State::Begun(_) => Known::Unknown,
            State::Ended { end, .. } => Known::Ended(end.clone()),
        })
    }

    /// The place that was told of the task is durable.
    pub(super) fn go_ahead(&mut self, now: Duration, id: &TaskId, durable: &str, not_after: Duration) {
        let Some(Task { state: State::Placed { node, go, hold, .. }, .. }) = self.tasks.get_mut(id) else {
            return;
        };
        if **node != *durable {
            return;
        }
        *go = Some(not_after);
        let hold = *hold;
        self.close(now, hold);
        self.accept_if_complete(now, hold);
    }

    /// Wants the task dead.
    pub(super) fn kill(&mut self, now: Duration, id: &TaskId, grace: Duration) {
        let Some(task) = self.tasks.get_mut(id) else { return };
        match &task.state {
            State::Ended { .. } => {}
            State::Waiting => {
                self.queue.remove(id);
                self.end(id, AttemptEnd::Killed, String::new(), String::new());
            }
            State::Placed { hold, .. } => {
                let hold = *hold;
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
        if self.tasks.contains_key(id) {
            return;
        }
        let begun = Begun { agent: place.agent.clone(), heard: None, origin: Origin::Before, asked: None };
        let task = Task { state: State::Begun(begun), spec: None, order: 0, told: 0, kill: None };
        self.tasks.insert(id.clone(), task);
        self.strays.remove(id);
    }

    /// A task that nobody launched as far as is known is asked for all the same, wherever it may be.
    pub(super) fn ask_for_stray(&mut self, id: &TaskId) {
        if !self.tasks.contains_key(id) && self.strays.len() < ENDED_MAX {
            self.strays.insert(id.clone());
            if self.framework.is_some() {
                self.acts.push(Act::Call(Call::Reconcile { tasks: vec![(id.to_string(), None)] }));
            }
        }
    }

    /// It is known otherwise how this task ended.
    pub(super) fn ended(&mut self, id: &TaskId, end: AttemptEnd) {
        if !self.tasks.contains_key(id) {
            let state = State::Waiting;
            self.tasks.insert(id.clone(), Task { state, spec: None, order: 0, told: 0, kill: None });
            self.end(id, end, String::new(), String::new());
        }
    }

    /// The end of the task is durable elsewhere.
    pub(super) fn acknowledge(&mut self, id: &TaskId) {
        let Some(Task { state: State::Ended { agent, uuid, acknowledged, .. }, .. }) = self.tasks.get_mut(id)
        else {
            return;
        };
        if !uuid.is_empty() {
            let call =
                Call::Acknowledge { task: id.to_string(), agent: agent.clone(), uuid: std::mem::take(uuid) };
            self.acts.push(Act::Call(call));
        }
        if !std::mem::replace(acknowledged, true) {
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
        self.suppressed = false;
        self.declined = false;
        self.wants_offers = false;
        // Offers come by themselves; but who finds that there is nothing to do may change its mind at once.
        self.revived = (!self.queue.is_empty()).then_some(now);
        self.ask_all(now);
        for stray in &self.strays {
            self.acts.push(Act::Call(Call::Reconcile { tasks: vec![(stray.to_string(), None)] }));
        }
        for task in self.tasks.values_mut() {
            if let Some(kill) = &mut task.kill {
                kill.sent = None;
            }
        }
        self.send_kills(now);
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
        let offers: Vec<String> = self.pool.offers().map(|offer| offer.id.clone()).collect();
        for offer in offers {
            self.pool.remove(&offer);
        }
        self.holds.clear();
        self.held.clear();
        let placed: Vec<TaskId> = self
            .tasks
            .iter()
            .filter(|(_, task)| matches!(task.state, State::Placed { .. }))
            .map(|(id, _)| id.clone())
            .collect();
        for id in placed {
            self.enqueue(&id);
        }
        for task in self.tasks.values_mut() {
            if let State::Begun(begun) = &mut task.state
                && begun.origin == Origin::Sent
            {
                // What the old master has not heard by now it never will: its stream is gone.
                begun.origin = Origin::Accepted;
            }
        }
    }

    pub(super) fn offers(&mut self, now: Duration, offers: Vec<Offer>) {
        if !self.queue.is_empty() {
            // What waits has been made offers, asked for or not.
            self.revived.get_or_insert(now);
        }
        for offer in offers {
            self.pool.insert(offer);
        }
        self.settle(now);
    }

    pub(super) fn rescind(&mut self, now: Duration, offer: &str) {
        self.pool.remove(offer);
        if let Some(number) = self.held.get(offer).copied() {
            self.give_up(number, offer);
        }
        self.settle(now);
    }

    /// The master has taken these tasks.
    pub(super) fn accepted(&mut self, tasks: &[TaskId]) {
        for id in tasks {
            if let Some(Task { state: State::Begun(begun), .. }) = self.tasks.get_mut(id)
                && begun.origin == Origin::Sent
            {
                begun.origin = Origin::Accepted;
            }
        }
    }

    /// The master has not taken these tasks, and will not: they wait again, or have failed for this reason.
    pub(super) fn not_accepted(&mut self, now: Duration, tasks: &[TaskId], failed: Option<&str>) {
        for id in tasks {
            let Some(Task { state: State::Begun(Begun { heard: None, .. }), .. }) = self.tasks.get(id) else {
                continue;
            };
            match failed {
                None => self.enqueue(id),
                Some(reason) => self.end(id, AttemptEnd::failed(reason), String::new(), String::new()),
            }
        }
        self.settle(now);
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
            // Not of a name that we give: a task of an old Chronos. It ends by itself, and nobody waits for it.
            self.acts.extend(acknowledge(&status));
            return;
        };
        self.strays.remove(&id);
        let state = self.tasks.get(&id).map(|task| &task.state);
        if let Some(State::Ended { acknowledged, uuid, .. }) = state {
            match (&meaning, acknowledged) {
                // Repeated, because the acknowledgement did not arrive, or is still to come.
                (Meaning::Ended(_), false) if !status.uuid.is_empty() => {
                    let again = uuid.is_empty();
                    if let Some(Task { state: State::Ended { uuid, agent, end, .. }, .. }) =
                        self.tasks.get_mut(&id)
                    {
                        (*uuid, *agent) = (status.uuid, status.agent_id.value);
                        if !again {
                            let known = Known::Ended(end.clone());
                            self.acts.push(Act::Tell(TaskEvent { task: id, known }));
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
                // A place that is still held has nothing to do with what came of the last one.
                if !matches!(state, Some(State::Waiting | State::Placed { .. })) {
                    if let Some(task) = self.tasks.remove(&id)
                        && self.told.len() < ENDED_MAX
                    {
                        self.told.insert(id.clone(), task.told);
                    }
                    self.acts.push(Act::Tell(TaskEvent { task: id, known: Known::NeverBegan }));
                }
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

    fn can_be_lost(&self, id: &TaskId, status: &Status) -> bool {
        match self.tasks.get(id).map(|task| &task.state) {
            None | Some(State::Waiting | State::Placed { .. }) => false,
            Some(State::Begun(Begun { heard: None, origin: Origin::Sent, .. })) => {
                status.reason != "REASON_RECONCILIATION"
            }
            Some(State::Begun(_) | State::Ended { .. }) => true,
        }
    }

    /// What is due by now.
    pub(super) fn tick(&mut self, now: Duration) {
        let gathered = |hold: &Hold| hold.closed.as_ref().is_some_and(|(since, _)| now >= *since + GATHER);
        let late: Vec<u64> =
            self.holds.iter().filter(|(_, hold)| gathered(hold)).map(|(number, _)| *number).collect();
        for number in late {
            self.accept(now, number);
        }
        let lapsed: Vec<(TaskId, u64)> = self
            .tasks
            .iter()
            .filter_map(|(id, task)| match &task.state {
                State::Placed { since, hold, go: None, .. } if now >= *since + HELD_MAX => {
                    Some((id.clone(), *hold))
                }
                _ => None,
            })
            .collect();
        for (id, hold) in lapsed {
            self.leave(&id, hold);
            self.enqueue(&id);
            self.accept_if_complete(now, hold);
        }
        if self.framework.is_some() {
            if now >= self.asked_all + self.manners.reconcile_every {
                self.ask_all(now);
            }
            self.ask_due(now);
            self.send_kills(now);
        }
        self.settle(now);
    }

    /// Why a task has not begun.
    pub(super) fn waits_for(&self, id: &TaskId) -> Vec<String> {
        let Some(task) = self.tasks.get(id) else { return Vec::new() };
        match &task.state {
            State::Waiting => {
                self.queue.misfit(id, &self.pool).map(|misfit| misfit.to_string()).into_iter().collect()
            }
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
        self.tasks.contains_key(id)
    }

    /// Into the queue; one that was there before, at its old place.
    fn enqueue(&mut self, id: &TaskId) {
        let Some(task) = self.tasks.get_mut(id) else { return };
        task.state = State::Waiting;
        let Some(spec) = task.spec.clone() else { return };
        let demand = Demand::of(&spec, self.manners.share);
        match self.queue.push(task.order, id.clone(), demand) {
            Ok(()) => self.wants_offers = true,
            Err(problem) => {
                self.end(id, AttemptEnd::failed(problem.to_string()), String::new(), String::new())
            }
        }
    }

    fn end(&mut self, id: &TaskId, end: AttemptEnd, agent: String, uuid: String) {
        let known = Known::Ended(end.clone());
        let state = State::Ended { end, agent, uuid, acknowledged: false };
        match self.tasks.get_mut(id) {
            Some(task) => (task.state, task.spec, task.kill) = (state, None, None),
            None => {
                self.tasks.insert(id.clone(), Task { state, spec: None, order: 0, told: 0, kill: None });
            }
        }
        self.acts.push(Act::Tell(TaskEvent { task: id.clone(), known }));
    }

    fn heard(&mut self, now: Duration, id: TaskId, agent: String, heard: Heard) {
        self.leave_any(&id);
        let task = self.tasks.entry(id.clone()).or_insert_with(|| Task {
            state: State::Waiting,
            spec: None,
            order: 0,
            told: 0,
            kill: None,
        });
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
        if before != Some(heard) {
            let known = if heard == Heard::Runs { Known::Running } else { Known::Unknown };
            self.acts.push(Act::Tell(TaskEvent { task: id, known }));
        }
    }

    /// Whatever it waited for here, it does no more.
    fn leave_any(&mut self, id: &TaskId) {
        self.queue.remove(id);
        if let Some(Task { state: State::Placed { hold, .. }, .. }) = self.tasks.get(id) {
            let hold = *hold;
            self.leave(id, hold);
        }
    }

    /// Takes a placed task out of its hold; what it had is there for others again.
    fn leave(&mut self, id: &TaskId, number: u64) {
        if let Some(Task { state: State::Placed { placement, .. }, .. }) = self.tasks.get(id) {
            self.pool.give_back(placement);
        }
        let Some(hold) = self.holds.get_mut(&number) else { return };
        hold.tasks.remove(id);
        if hold.tasks.is_empty()
            && let Some(Hold { closed: Some((_, offers)), .. }) = self.dissolve(number)
        {
            // Nobody has accepted them; they are as good as before.
            offers.into_iter().for_each(|offer| self.pool.insert(offer));
        }
    }

    /// One of the offers of a hold is gone: its tasks wait again, the other offers are free.
    fn give_up(&mut self, number: u64, gone: &str) {
        let Some(hold) = self.dissolve(number) else { return };
        for id in &hold.tasks {
            if let Some(Task { state: State::Placed { placement, .. }, .. }) = self.tasks.get(id) {
                self.pool.give_back(placement);
            }
            self.enqueue(id);
        }
        for offer in hold.closed.into_iter().flat_map(|(_, offers)| offers).filter(|offer| offer.id != gone) {
            self.pool.insert(offer);
        }
    }

    fn dissolve(&mut self, number: u64) -> Option<Hold> {
        let hold = self.holds.remove(&number)?;
        for offer in &hold.offers {
            self.held.remove(offer);
        }
        Some(hold)
    }

    /// Nothing more is placed there.
    fn close(&mut self, now: Duration, number: u64) {
        let Some(hold) = self.holds.get_mut(&number).filter(|hold| hold.closed.is_none()) else { return };
        let offers = hold.offers.iter().filter_map(|offer| self.pool.remove(offer)).collect();
        hold.closed = Some((now, offers));
    }

    fn accept_if_complete(&mut self, now: Duration, number: u64) {
        let gone_ahead = |id: &TaskId| {
            matches!(self.tasks.get(id), Some(Task { state: State::Placed { go: Some(_), .. }, .. }))
        };
        if self
            .holds
            .get(&number)
            .is_some_and(|hold| hold.closed.is_some() && hold.tasks.iter().all(gone_ahead))
        {
            self.accept(now, number);
        }
    }

    /// Sends the tasks of a hold that have their go-ahead and whose orders are not stale; the others wait again.
    fn accept(&mut self, now: Duration, number: u64) {
        let Some(hold) = self.dissolve(number) else { return };
        let (mut tasks, mut infos, mut until) = (Vec::new(), Vec::new(), Duration::MAX);
        for id in &hold.tasks {
            let Some(task) = self.tasks.get_mut(id) else { continue };
            let State::Placed { placement, go, .. } = &task.state else { continue };
            let (Some(not_after), Some(spec)) = (go.filter(|not_after| now <= *not_after), &task.spec) else {
                self.enqueue(id);
                continue;
            };
            let Placement { agent, hostname, resources, .. } = &**placement;
            infos.push(task_info(id, spec, agent, hostname, resources, self.manners.kill_grace));
            let agent = placement.agent.clone();
            until = until.min(not_after);
            tasks.push(id.clone());
            task.state = State::Begun(Begun { agent, heard: None, origin: Origin::Sent, asked: Some(now) });
        }
        self.worked = Some(now);
        if tasks.is_empty() {
            // Nothing goes there now; the offers are as good as before.
            for offer in hold.closed.into_iter().flat_map(|(_, offers)| offers) {
                self.pool.insert(offer);
            }
            self.settle(now);
            return;
        }
        let call =
            Call::Accept { offers: hold.offers.into_iter().collect(), tasks: infos, refuse: Duration::ZERO };
        self.acts.push(Act::Accept { tasks, call, not_after: until });
        self.settle(now);
    }

    /// Places what fits, and sees to it that offers are there when something waits and elsewhere when not.
    fn settle(&mut self, now: Duration) {
        let Some(framework) = self.framework.clone() else { return };
        if !self.queue.is_empty() {
            self.worked = Some(now);
            for placement in matching::place(&mut self.pool, &mut self.queue) {
                self.place(now, placement, &framework);
            }
        }
        self.decline(now);
        self.ask_for_offers(now);
    }

    fn place(&mut self, now: Duration, placement: Placement, framework: &str) {
        let id = placement.task.clone();
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let place = Place {
            url: placement.url.clone(),
            agent: placement.agent.clone(),
            framework: framework.to_owned(),
        };
        // Told twice, a place is told apart: a late go-ahead of the first is none of the second.
        let node: Arc<str> =
            if task.told == 0 { place.to_string().into() } else { format!("{place}#{}", task.told).into() };
        task.told += 1;
        let number = self.hold_of(&placement.offers);
        if let Some(hold) = self.holds.get_mut(&number) {
            hold.tasks.insert(id.clone());
        }
        if let Some(task) = self.tasks.get_mut(&id) {
            let placement = Box::new(placement);
            task.state = State::Placed { placement, node: node.clone(), hold: number, since: now, go: None };
        }
        self.acts.push(Act::Tell(TaskEvent { task: id, known: Known::Placed { node } }));
    }

    /// The hold of these offers, which are of one agent and are accepted together; if they were of several, these become one.
    fn hold_of(&mut self, offers: &[String]) -> u64 {
        let mut known: Vec<u64> = offers.iter().filter_map(|offer| self.held.get(offer).copied()).collect();
        known.sort_unstable();
        known.dedup();
        let number = known.first().copied().unwrap_or_else(|| {
            self.last += 1;
            self.last
        });
        let mut offers: BTreeSet<String> = offers.iter().cloned().collect();
        let mut tasks = BTreeSet::new();
        for other in known.into_iter().skip(1) {
            if let Some(hold) = self.holds.remove(&other) {
                offers.extend(hold.offers);
                tasks.extend(hold.tasks);
            }
        }
        for moved in &tasks {
            if let Some(Task { state: State::Placed { hold, .. }, .. }) = self.tasks.get_mut(moved) {
                *hold = number;
            }
        }
        self.held.extend(offers.iter().map(|offer| (offer.clone(), number)));
        let hold = self.holds.entry(number).or_insert_with(|| Hold {
            offers: BTreeSet::new(),
            tasks: BTreeSet::new(),
            closed: None,
        });
        hold.offers.extend(offers);
        hold.tasks.extend(tasks);
        number
    }

    /// What is of no use goes to others. While there was work lately a little is kept, because more may come.
    fn decline(&mut self, now: Duration) {
        let kept = if self.queue.is_empty() && self.is_busy(now) { KEPT_MAX } else { 0 };
        let offers: Vec<String> = self.pool.untouched().map(|offer| offer.id.clone()).skip(kept).collect();
        if !offers.is_empty() {
            offers.iter().for_each(|offer| drop(self.pool.remove(offer)));
            self.declined = true;
            self.acts.push(Act::Call(Call::Decline { offers, refuse: self.manners.decline_for }));
        }
    }

    /// Whether there is work, or was a moment ago.
    fn is_busy(&self, now: Duration) -> bool {
        !self.holds.is_empty() || self.worked.is_some_and(|worked| now < worked + KEPT_FOR)
    }

    fn ask_for_offers(&mut self, now: Duration) {
        if self.queue.is_empty() {
            if !self.suppressed && !self.is_busy(now) {
                self.suppressed = true;
                self.acts.push(Act::Call(Call::Suppress));
            }
            return;
        }
        let since = self.revived.map_or(Duration::MAX, |revived| now.saturating_sub(revived));
        let wanted = (self.wants_offers && (self.suppressed || self.declined))
            || (self.revived.is_some() && since >= REVIVE_AGAIN);
        if (wanted || self.suppressed) && since >= self.manners.revive_every {
            (self.suppressed, self.declined, self.wants_offers) = (false, false, false);
            self.revived = Some(now);
            self.acts.push(Act::Call(Call::Revive));
        }
    }

    fn ask_all(&mut self, now: Duration) {
        self.asked_all = now;
        self.question(now, |_| true);
    }

    /// Asks for those of which nothing is known for too long.
    pub(super) fn ask_due(&mut self, now: Duration) {
        self.question(now, |begun| match (begun.heard, begun.origin) {
            (Some(Heard::Runs), _) => false,
            (None, Origin::Accepted) => begun.asked.is_none_or(|asked| now >= asked + UNHEARD_MAX),
            _ => begun.asked.is_none_or(|asked| now >= asked + ASK_AGAIN),
        });
    }

    fn question(&mut self, now: Duration, which: impl Fn(&Begun) -> bool) {
        if self.framework.is_none() {
            return;
        }
        let mut tasks = Vec::new();
        for (id, task) in &mut self.tasks {
            if let State::Begun(begun) = &mut task.state
                && begun.origin != Origin::Sent
                && which(begun)
            {
                begun.asked = Some(now);
                let agent = Some(begun.agent.clone()).filter(|agent| !agent.is_empty());
                tasks.push((id.to_string(), agent));
            }
        }
        for tasks in tasks.chunks(QUESTION_MAX) {
            self.acts.push(Act::Call(Call::Reconcile { tasks: tasks.to_vec() }));
        }
    }

    fn send_kills(&mut self, now: Duration) {
        if self.framework.is_none() {
            return;
        }
        for (id, task) in &mut self.tasks {
            if let (State::Begun(begun), Some(kill)) = (&task.state, &mut task.kill)
                && kill.sent.is_none_or(|sent| now >= sent + KILL_AGAIN)
            {
                self.acts.push(Act::Call(kill.call(now, id, begun)));
            }
        }
    }
}

#[cfg(test)]
mod tests;
