//! Which waiting task is placed on which machine: best fit, in the order of the queue, past what does not fit.
//!
//! Pure: offers and tasks in, placements out; who cannot be placed can be asked why. A cycle costs about what is placed
//! and how many kinds of task wait, not how many tasks: those that ask for the same are one kind, and where one does not
//! fit, no other of its kind is tried, since a cycle only takes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use scheduler::ids::TaskId;

use super::constraints::{Constraints, NoPattern};
use super::misfit::{Best, Broken, Lack, Misfit};
use super::place::AgentUrl;
use super::resources::{Amount, Attribute, Demand, Offer, Resource, Thousandths};
use crate::Constraint;

/// Machines of which it is remembered what they put up last, for who asks why a task waits.
const SEEN_MAX: usize = 20_000;

/// Of each of [`Demand::NAMES`].
type Amounts = [u64; 3];

/// Where a task can go.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    /// Which task.
    pub task: TaskId,
    /// Its place in the queue, should it have to go back.
    pub order: u64,
    /// The offers that it takes from, all of one agent and put up to one role; what is accepted together has the offers
    /// of all.
    pub offers: Vec<String>,
    /// Id of the agent.
    pub agent: String,
    /// What the agent calls itself.
    pub hostname: String,
    /// Where the agent answers.
    pub url: AgentUrl,
    /// What it takes, as it is sent to Mesos.
    pub resources: Vec<Resource>,
}

/// Tasks that wait for a place.
#[derive(Default)]
pub struct Queue {
    kinds: HashMap<u64, Kind>,
    ids: HashMap<Demand, u64>,
    of: HashMap<TaskId, (u64, u64)>,
    /// Many kinds have the same constraints, whose patterns are costly to make.
    constraints: HashMap<Vec<Constraint>, Arc<Constraints>>,
    next: u64,
}

/// Tasks that ask for the same.
struct Kind {
    demand: Demand,
    constraints: Arc<Constraints>,
    /// By their place in the queue.
    waiting: BTreeMap<u64, TaskId>,
}

impl Queue {
    /// Adds a task. Those of a lower `order`, which is one task's alone, come first. A task that is there stays where it is.
    /// # Errors
    /// A constraint that is no pattern; the task is not added.
    pub fn push(&mut self, order: u64, task: TaskId, demand: Demand) -> Result<(), NoPattern> {
        if self.of.contains_key(&task) {
            return Ok(());
        }
        let id = match self.ids.get(&demand) {
            Some(id) => *id,
            None => {
                let constraints = match self.constraints.get(&demand.constraints) {
                    Some(known) => known.clone(),
                    None => {
                        let new = Arc::new(Constraints::new(&demand.constraints)?);
                        self.constraints.insert(demand.constraints.clone(), new.clone());
                        new
                    }
                };
                let id = self.next;
                self.next += 1;
                self.kinds.insert(id, Kind { demand: demand.clone(), constraints, waiting: BTreeMap::new() });
                self.ids.insert(demand, id);
                id
            }
        };
        if let Some(kind) = self.kinds.get_mut(&id) {
            kind.waiting.insert(order, task.clone());
            self.of.insert(task, (id, order));
        }
        Ok(())
    }

    /// Removes a task; whether it was there.
    pub fn remove(&mut self, task: &TaskId) -> bool {
        let Some((id, order)) = self.of.remove(task) else { return false };
        if let Some(kind) = self.kinds.get_mut(&id) {
            kind.waiting.remove(&order);
            if kind.waiting.is_empty() {
                self.ids.remove(&kind.demand);
                // Ours, and that of the kind.
                if Arc::strong_count(&kind.constraints) == 2 {
                    self.constraints.remove(&kind.demand.constraints);
                }
                self.kinds.remove(&id);
            }
        }
        true
    }

    /// Whether the task waits.
    pub fn contains(&self, task: &TaskId) -> bool {
        self.of.contains_key(task)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.of.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// Why a task has no place, judged by what was last put up; `None` if it does not wait.
    pub fn misfit(&self, task: &TaskId, pool: &Pool) -> Option<Misfit> {
        let kind = self.kinds.get(&self.of.get(task)?.0)?;
        Some(pool.misfit(&kind.demand, &kind.constraints))
    }
}

/// Offers that may be used, by machine. Several of one machine are one, if they are put up to the same role.
#[derive(Default)]
pub struct Pool {
    machines: Vec<Machine>,
    /// Machines without offers, to be used again.
    vacant: Vec<usize>,
    by_key: HashMap<(String, String), usize>,
    by_offer: HashMap<String, usize>,
    /// Machines with offers, the smallest first.
    free: Vec<Free>,
    seen: BTreeMap<(String, String), Seen>,
}

struct Machine {
    agent: String,
    role: String,
    hostname: String,
    url: AgentUrl,
    attributes: Vec<Attribute>,
    offers: Vec<Held>,
    left: Amounts,
}

struct Held {
    offer: Offer,
    /// What of it can be divided and has not been taken.
    left: Vec<Resource>,
    taken: bool,
}

/// What a machine has left; kept together and in order, because every search goes over them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Free {
    size: u64,
    machine: usize,
    left: Amounts,
}

/// What a machine put up last, less what was placed there since.
struct Seen {
    hostname: String,
    attributes: Vec<Attribute>,
    left: Amounts,
    at: Duration,
}

/// One number for what a machine has: what more fits into has more of it. A processor counts as 4 GiB of memory or as
/// 64 GiB of disk, as on many machines; where that is wrong, only the choice among machines that fit is worse.
fn size([cpus, mem, disk]: Amounts) -> u64 {
    cpus.saturating_add(mem / 4096).saturating_add(disk / 65_536)
}

fn fits(need: Amounts, left: Amounts) -> bool {
    need.iter().zip(left).all(|(need, left)| *need <= left)
}

impl Pool {
    /// Adds an offer. One that is there is replaced.
    pub fn insert(&mut self, offer: Offer) {
        self.remove(&offer.id);
        let key = (offer.agent.clone(), offer.role.clone());
        let index = match self.by_key.get(&key) {
            Some(index) => *index,
            None => {
                let index = self.vacant.pop().unwrap_or(self.machines.len());
                let machine = Machine::of(&offer);
                if index == self.machines.len() {
                    self.machines.push(machine);
                } else {
                    self.machines[index] = machine;
                }
                self.by_key.insert(key, index);
                index
            }
        };
        self.by_offer.insert(offer.id.clone(), index);
        let at = offer.received;
        self.change(index, |machine| {
            machine.add(offer);
            machine.count();
        });
        self.remember(index, Some(at));
    }

    /// Removes an offer, which was rescinded, declined or accepted.
    pub fn remove(&mut self, id: &str) -> Option<Offer> {
        let index = self.by_offer.remove(id)?;
        let mut removed = None;
        self.change(index, |machine| {
            let place = machine.offers.iter().position(|held| held.offer.id == id);
            removed = place.map(|place| machine.offers.remove(place).offer);
            machine.count();
        });
        let machine = &mut self.machines[index];
        if machine.offers.is_empty() {
            self.by_key.remove(&(std::mem::take(&mut machine.agent), std::mem::take(&mut machine.role)));
            self.vacant.push(index);
        }
        removed
    }

    /// All offers.
    pub fn offers(&self) -> impl Iterator<Item = &Offer> {
        self.held().map(|held| &held.offer)
    }

    /// Offers from which nothing was taken: to be kept or declined.
    pub fn untouched(&self) -> impl Iterator<Item = &Offer> {
        self.held().filter(|held| !held.taken).map(|held| &held.offer)
    }

    /// How many agents have put something up so far.
    pub fn agents(&self) -> usize {
        self.seen.keys().map(|(agent, _)| agent).collect::<std::collections::BTreeSet<_>>().len()
    }

    /// How many offers there are.
    pub fn len(&self) -> usize {
        self.by_offer.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_offer.is_empty()
    }

    /// What a placement took is there again, as far as its offers still are.
    pub fn give_back(&mut self, placement: &Placement) {
        let Some(&index) = placement.offers.iter().find_map(|id| self.by_offer.get(id)) else { return };
        self.change(index, |machine| {
            machine.give_back(placement);
            machine.count();
        });
        self.remember(index, None);
    }

    fn held(&self) -> impl Iterator<Item = &Held> {
        self.machines.iter().flat_map(|machine| &machine.offers)
    }

    /// Changes a machine, and keeps its place among the others true.
    fn change(&mut self, index: usize, change: impl FnOnce(&mut Machine)) {
        let free = |machine: &Machine| Free { size: size(machine.left), machine: index, left: machine.left };
        let machine = &mut self.machines[index];
        let before = self.free.binary_search(&free(machine));
        change(machine);
        let after = free(machine);
        match (before, machine.offers.is_empty()) {
            (Ok(place), true) => {
                self.free.remove(place);
            }
            (Ok(place), false) if after <= self.free[place] => {
                // Not far, most of the time: only those in between are moved.
                let to = self.free[..place].partition_point(|other| *other < after);
                self.free[to..=place].rotate_right(1);
                self.free[to] = after;
            }
            (Ok(place), false) => {
                let to = place + self.free[place + 1..].partition_point(|other| *other < after);
                self.free[place..=to].rotate_left(1);
                self.free[to] = after;
            }
            (Err(_), true) => {}
            (Err(_), false) => {
                let to = self.free.partition_point(|other| *other < after);
                self.free.insert(to, after);
            }
        }
    }

    /// Keeps in mind what the machine has. `at`: it has said so itself.
    fn remember(&mut self, index: usize, at: Option<Duration>) {
        if at.is_some() && self.seen.len() >= SEEN_MAX {
            self.forget_half();
        }
        let Machine { agent, role, hostname, attributes, left, .. } = &self.machines[index];
        let key = (agent.clone(), role.clone());
        match at {
            Some(at) => {
                let (hostname, attributes) = (hostname.clone(), attributes.clone());
                self.seen.insert(key, Seen { hostname, attributes, left: *left, at });
            }
            None => {
                if let Some(seen) = self.seen.get_mut(&key) {
                    seen.left = *left;
                }
            }
        }
    }

    /// The half that has not been heard of for longest.
    fn forget_half(&mut self) {
        let mut times: Vec<_> = self.seen.values().map(|seen| seen.at).collect();
        let middle = times.len() / 2;
        let (_, middle, _) = times.select_nth_unstable(middle);
        let middle = *middle;
        self.seen.retain(|_, seen| seen.at > middle);
    }

    /// The smallest machine that has enough and where the constraints hold. `verdicts` are what is known of them.
    fn best(&self, constraints: &Constraints, need: Amounts, verdicts: &mut Verdicts) -> Option<usize> {
        let from = self.free.partition_point(|free| free.size < size(need));
        let mut able = self.free[from..].iter().filter(|free| fits(need, free.left)).map(|free| free.machine);
        if constraints.is_empty() {
            return able.next();
        }
        able.find(|index| verdicts.of(constraints, *index, &self.machines[*index]))
    }

    fn misfit(&self, demand: &Demand, constraints: &Constraints) -> Misfit {
        let need = demand.amounts();
        let mut broken: Vec<Broken> = Vec::new();
        let mut best: Option<(f64, &Seen)> = None;
        for seen in self.seen.values() {
            let mut holds = true;
            for constraint in constraints.broken(&seen.hostname, &seen.attributes) {
                holds = false;
                match broken.iter_mut().find(|broken| broken.constraint == *constraint) {
                    Some(broken) => broken.agents += 1,
                    None => broken.push(Broken { constraint: constraint.clone(), agents: 1 }),
                }
            }
            let lacking = lacking(need, seen.left);
            if holds && best.is_none_or(|(least, _)| lacking < least) {
                best = Some((lacking, seen));
            }
        }
        broken.sort_by_key(|broken| Reverse(broken.agents));
        let best = best.map(|(_, seen)| {
            let lack = |(n, name): (usize, &&'static str)| {
                let (wanted, had) = (Thousandths(need[n]), Thousandths(seen.left[n]));
                (had < wanted).then_some(Lack { name, wanted, had })
            };
            let lacks = Demand::NAMES.iter().enumerate().filter_map(lack).collect();
            Best { hostname: seen.hostname.clone(), seen: seen.at, lacks }
        });
        Misfit { agents: self.seen.len(), best, broken }
    }
}

/// How far a machine is from enough: the sum of the missing fractions.
fn lacking(need: Amounts, left: Amounts) -> f64 {
    let missing = |(need, left): (u64, u64)| {
        let (need, left) = (Thousandths(need).number(), Thousandths(left).number());
        if left >= need { 0.0 } else { (need - left) / need }
    };
    need.into_iter().zip(left).map(missing).sum()
}

impl Machine {
    fn of(offer: &Offer) -> Self {
        Self {
            agent: offer.agent.clone(),
            role: offer.role.clone(),
            hostname: offer.hostname.clone(),
            url: offer.url.clone(),
            attributes: offer.attributes.clone(),
            offers: Vec::new(),
            left: Amounts::default(),
        }
    }

    fn add(&mut self, offer: Offer) {
        self.hostname.clone_from(&offer.hostname);
        self.url.clone_from(&offer.url);
        self.attributes.clone_from(&offer.attributes);
        let ours = |resource: &&Resource| Demand::NAMES.contains(&resource.name.as_str());
        let divisible = |resource: &&Resource| resource.divisible(&offer.role).is_some();
        let mut left: Vec<_> = offer.resources.iter().filter(ours).filter(divisible).cloned().collect();
        // What is reserved for us first: the rest is of use to others too.
        left.sort_by_key(|resource| resource.role == Resource::ANYONE);
        self.offers.push(Held { offer, left, taken: false });
    }

    fn count(&mut self) {
        self.left = Amounts::default();
        for resource in self.offers.iter().flat_map(|held| &held.left) {
            let place = Demand::NAMES.iter().position(|name| *name == resource.name);
            if let (Some(place), Amount::Scalar(amount)) = (place, &resource.amount) {
                self.left[place] = self.left[place].saturating_add(amount.0);
            }
        }
    }

    /// Takes what is needed, which is there.
    fn take(&mut self, need: Amounts) -> (Vec<String>, Vec<Resource>) {
        for (left, need) in self.left.iter_mut().zip(need) {
            *left = left.saturating_sub(need);
        }
        let (mut offers, mut parts) = (Vec::new(), Vec::new());
        for (name, mut need) in Demand::NAMES.into_iter().zip(need) {
            // Of all offers, first what is reserved for us.
            for reserved in [true, false] {
                for held in &mut self.offers {
                    for resource in &mut held.left {
                        let wanted = resource.name == name && (resource.role != Resource::ANYONE) == reserved;
                        let Amount::Scalar(left) = &mut resource.amount else { continue };
                        let part = need.min(left.0);
                        if !wanted || part == 0 {
                            continue;
                        }
                        left.0 -= part;
                        need -= part;
                        held.taken = true;
                        parts.push(resource.part(Thousandths(part)));
                        if !offers.contains(&held.offer.id) {
                            offers.push(held.offer.id.clone());
                        }
                    }
                }
            }
        }
        (offers, parts)
    }

    fn give_back(&mut self, placement: &Placement) {
        for held in self.offers.iter_mut().filter(|held| placement.offers.contains(&held.offer.id)) {
            for part in &placement.resources {
                let whole = held.offer.resources.iter().find(|whole| whole.is_of(part)).map_or(0, scalar);
                if let Some(Resource { amount: Amount::Scalar(left), .. }) =
                    held.left.iter_mut().find(|left| left.is_of(part))
                {
                    left.0 = whole.min(left.0.saturating_add(scalar(part)));
                }
            }
            let whole = |left: &Resource| held.offer.resources.contains(left);
            held.taken = !held.left.iter().all(whole);
        }
    }
}

fn scalar(resource: &Resource) -> u64 {
    match resource.amount {
        Amount::Scalar(amount) => amount.0,
        _ => 0,
    }
}

/// On which machines certain constraints hold; each is asked once a cycle.
#[derive(Default)]
struct Verdicts(Vec<Option<bool>>);

impl Verdicts {
    fn of(&mut self, constraints: &Constraints, index: usize, machine: &Machine) -> bool {
        if self.0.len() <= index {
            self.0.resize(index + 1, None);
        }
        *self.0[index].get_or_insert_with(|| constraints.hold(&machine.hostname, &machine.attributes))
    }
}

/// Places as many of the queue as there is room for; those leave it. Afterwards nothing that waits fits anything that is
/// left.
pub fn place(pool: &mut Pool, queue: &mut Queue) -> Vec<Placement> {
    let mut placements = Vec::new();
    let mut turns: BinaryHeap<_> = queue
        .kinds
        .iter()
        .filter_map(|(id, kind)| Some(Reverse((*kind.waiting.first_key_value()?.0, *id))))
        .collect();
    let mut verdicts: HashMap<*const Constraints, Verdicts> = HashMap::new();
    let mut touched = vec![false; pool.machines.len()];
    while let Some(Reverse((order, id))) = turns.pop() {
        let Some(kind) = queue.kinds.get(&id) else { continue };
        let need = kind.demand.amounts();
        let verdicts = verdicts.entry(Arc::as_ptr(&kind.constraints)).or_default();
        let Some(index) = pool.best(&kind.constraints, need, verdicts) else { continue };
        let Some(task) = kind.waiting.get(&order).cloned() else { continue };
        let mut taken = Default::default();
        pool.change(index, |machine| taken = machine.take(need));
        touched[index] = true;
        let machine = &pool.machines[index];
        let (offers, resources) = taken;
        queue.remove(&task);
        if let Some((next, _)) = queue.kinds.get(&id).and_then(|kind| kind.waiting.first_key_value()) {
            turns.push(Reverse((*next, id)));
        }
        placements.push(Placement {
            task,
            order,
            offers,
            agent: machine.agent.clone(),
            hostname: machine.hostname.clone(),
            url: machine.url.clone(),
            resources,
        });
    }
    for (index, _) in touched.into_iter().enumerate().filter(|(_, touched)| *touched) {
        pool.remember(index, None);
    }
    placements
}

#[cfg(test)]
mod tests;
