//! What the table does with offers: tasks are placed on them, and they are accepted, declined, asked for or not wanted.
//!
//! Offers that tasks were placed on are a **hold**. With the first go-ahead it closes: its offers are accepted together,
//! once all of its tasks have theirs or [`GATHER`] is over, and nothing else is placed there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use scheduler::ids::TaskId;
use scheduler::run::AttemptEnd;

use super::super::matching::{self, Placement, Pool, Queue};
use super::super::misfit::Misfit;
use super::super::place::Place;
use super::super::resources::{Demand, Offer};
use super::super::task_info::task_info;
use super::super::wire::Call;
use super::{Act, Begun, Origin, State, Table, Task};
use crate::{Known, TaskEvent};

/// After the first go-ahead of a hold, the others are awaited so long.
const GATHER: Duration = Duration::from_secs(2);
/// Offers of no use now are kept so long after there was work: more may come.
const KEPT_FOR: Duration = Duration::from_secs(5);
/// So many of them; others can use the rest.
const KEPT_MAX: usize = 4;
/// While something waits, all that was declined is asked for again after so long.
const REVIVE_AGAIN: Duration = Duration::from_secs(60);

/// What was offered and what was placed there, and what waits for more.
#[derive(Default)]
pub(super) struct Offers {
    queue: Queue,
    pool: Pool,
    holds: BTreeMap<u64, Hold>,
    /// Of which hold each offer is.
    held: HashMap<String, u64>,
    suppressed: bool,
    /// Something was declined, or has come into the queue, since offers were asked for last.
    wanted: bool,
    declined: bool,
    revived: Option<Duration>,
    /// When there was work last.
    worked: Option<Duration>,
    /// When an offer came last.
    seen: Option<Duration>,
}

/// What there is to say of offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Supply {
    /// So many agents have put something up so far.
    pub(in super::super) agents: usize,
    /// When one did last, since boot.
    pub(in super::super) seen: Option<Duration>,
    /// So many tasks wait for more.
    pub(in super::super) waiting: usize,
}

#[derive(Default)]
struct Hold {
    offers: BTreeSet<String>,
    tasks: BTreeSet<TaskId>,
    /// Once it is closed: since when, and the offers that are kept for it.
    closed: Option<(Duration, Vec<Offer>)>,
}

impl Offers {
    /// What waits of this task waits no more.
    pub(super) fn forget(&mut self, id: &TaskId) {
        self.queue.remove(id);
    }

    /// The master makes offers to whoever subscribes, until it is told otherwise.
    pub(super) fn subscribed(&mut self, now: Duration) {
        (self.suppressed, self.declined, self.wanted) = (false, false, false);
        // Offers come by themselves; but who finds that there is nothing to do may change its mind at once.
        self.revived = (!self.queue.is_empty()).then_some(now);
    }

    /// No offer is good any more.
    pub(super) fn unsubscribed(&mut self) {
        let offers: Vec<String> = self.pool.offers().map(|offer| offer.id.clone()).collect();
        for offer in offers {
            self.pool.remove(&offer);
        }
        self.holds.clear();
        self.held.clear();
    }

    /// The holds that have waited long enough for all of their tasks.
    pub(super) fn gathered(&self, now: Duration) -> Vec<u64> {
        let late = |hold: &Hold| hold.closed.as_ref().is_some_and(|(since, _)| now >= *since + GATHER);
        self.holds.iter().filter(|(_, hold)| late(hold)).map(|(number, _)| *number).collect()
    }

    pub(super) fn supply(&self) -> Supply {
        Supply { agents: self.pool.agents(), seen: self.seen, waiting: self.queue.len() }
    }

    /// Why a task that waits has no place.
    pub(super) fn misfit(&self, id: &TaskId) -> Option<Misfit> {
        self.queue.misfit(id, &self.pool)
    }

    /// Whether there is work, or was a moment ago.
    fn is_busy(&self, now: Duration) -> bool {
        !self.holds.is_empty() || self.worked.is_some_and(|worked| now < worked + KEPT_FOR)
    }

    /// They are as good as before.
    fn take_back(&mut self, offers: Option<(Duration, Vec<Offer>)>) {
        offers.into_iter().flat_map(|(_, offers)| offers).for_each(|offer| self.pool.insert(offer));
    }

    /// Nothing more is placed there.
    fn close(&mut self, now: Duration, number: u64) {
        let Some(hold) = self.holds.get_mut(&number).filter(|hold| hold.closed.is_none()) else { return };
        let offers = hold.offers.iter().filter_map(|offer| self.pool.remove(offer)).collect();
        hold.closed = Some((now, offers));
    }

    fn dissolve(&mut self, number: u64) -> Option<Hold> {
        let hold = self.holds.remove(&number)?;
        for offer in &hold.offers {
            self.held.remove(offer);
        }
        Some(hold)
    }

    /// What is of no use goes to others. While there was work lately a little is kept, because more may come.
    fn decline(&mut self, now: Duration) -> Vec<String> {
        let kept = if self.queue.is_empty() && self.is_busy(now) { KEPT_MAX } else { 0 };
        let offers: Vec<String> = self.pool.untouched().map(|offer| offer.id.clone()).skip(kept).collect();
        offers.iter().for_each(|offer| drop(self.pool.remove(offer)));
        self.declined |= !offers.is_empty();
        offers
    }

    /// Whether to want more of them, or none; asked for anew no oftener than `every`.
    fn want(&mut self, now: Duration, every: Duration) -> Option<Call> {
        if self.queue.is_empty() {
            let idle = !self.suppressed && !self.is_busy(now);
            self.suppressed |= idle;
            return idle.then_some(Call::Suppress);
        }
        let since = self.revived.map_or(Duration::MAX, |revived| now.saturating_sub(revived));
        let wanted = (self.wanted && (self.suppressed || self.declined))
            || (self.revived.is_some() && since >= REVIVE_AGAIN);
        if !(wanted || self.suppressed) || since < every {
            return None;
        }
        (self.suppressed, self.declined, self.wanted) = (false, false, false);
        self.revived = Some(now);
        Some(Call::Revive)
    }
}

impl Table {
    pub(in super::super) fn offers(&mut self, now: Duration, offers: Vec<Offer>) {
        if !self.offers.queue.is_empty() {
            // What waits has been made offers, asked for or not.
            self.offers.revived.get_or_insert(now);
        }
        self.offers.seen = Some(now);
        offers.into_iter().for_each(|offer| self.offers.pool.insert(offer));
        self.settle(now);
    }

    pub(in super::super) fn rescind(&mut self, now: Duration, offer: &str) {
        self.offers.pool.remove(offer);
        if let Some(number) = self.offers.held.get(offer).copied() {
            self.give_up(number, offer);
        }
        self.settle(now);
    }

    /// The place that was told of the task is durable.
    pub(in super::super) fn go_ahead(
        &mut self,
        now: Duration,
        id: &TaskId,
        durable: &str,
        not_after: Duration,
    ) {
        let Some(mut task) = self.tasks.get_mut(id) else { return };
        let State::Placed { node, go, hold, .. } = &mut task.state else { return };
        if **node != *durable {
            return;
        }
        *go = Some(not_after);
        let hold = *hold;
        drop(task);
        self.offers.close(now, hold);
        self.accept_if_complete(now, hold);
    }

    /// The master has taken these tasks.
    pub(in super::super) fn accepted(&mut self, tasks: &[TaskId]) {
        for id in tasks {
            if let Some(mut task) = self.tasks.get_mut(id)
                && let State::Begun(begun) = &mut task.state
                && begun.origin == Origin::Sent
            {
                begun.origin = Origin::Accepted;
            }
        }
    }

    /// The master has not taken these tasks, and will not: they wait again, or have failed for this reason.
    pub(in super::super) fn not_accepted(&mut self, now: Duration, tasks: &[TaskId], failed: Option<&str>) {
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

    /// Into the queue; one that was there before, at its old place.
    pub(super) fn enqueue(&mut self, id: &TaskId) {
        let Some(mut task) = self.tasks.get_mut(id) else { return };
        task.state = State::Waiting;
        let Some(spec) = &task.spec else { return };
        let demand = Demand::of(spec, self.manners.share);
        let queued = self.offers.queue.push(task.order, id.clone(), demand);
        drop(task);
        match queued {
            Ok(()) => self.offers.wanted = true,
            Err(problem) => {
                self.end(id, AttemptEnd::failed(problem.to_string()), String::new(), String::new());
            }
        }
    }

    /// Whatever it waited for here, it does no more.
    pub(super) fn leave_any(&mut self, id: &TaskId) {
        self.offers.forget(id);
        if let Some(Task { state: State::Placed { hold, .. }, .. }) = self.tasks.get(id) {
            let hold = *hold;
            self.leave(id, hold);
        }
    }

    /// Takes a placed task out of its hold; what it had is there for others again.
    pub(super) fn leave(&mut self, id: &TaskId, number: u64) {
        if let Some(Task { state: State::Placed { placement, .. }, .. }) = self.tasks.get(id) {
            self.offers.pool.give_back(placement);
        }
        let Some(hold) = self.offers.holds.get_mut(&number) else { return };
        hold.tasks.remove(id);
        if hold.tasks.is_empty()
            && let Some(Hold { closed, .. }) = self.offers.dissolve(number)
        {
            // Nobody has accepted them.
            self.offers.take_back(closed);
        }
    }

    /// Nobody wanted its place for too long: it waits again.
    pub(super) fn lapse(&mut self, now: Duration, id: &TaskId, number: u64) {
        self.leave(id, number);
        self.enqueue(id);
        self.accept_if_complete(now, number);
    }

    /// One of the offers of a hold is gone: its tasks wait again, the other offers are free.
    fn give_up(&mut self, number: u64, gone: &str) {
        let Some(hold) = self.offers.dissolve(number) else { return };
        for id in &hold.tasks {
            if let Some(Task { state: State::Placed { placement, .. }, .. }) = self.tasks.get(id) {
                self.offers.pool.give_back(placement);
            }
            self.enqueue(id);
        }
        for offer in hold.closed.into_iter().flat_map(|(_, offers)| offers).filter(|offer| offer.id != gone) {
            self.offers.pool.insert(offer);
        }
    }

    pub(super) fn accept_if_complete(&mut self, now: Duration, number: u64) {
        let gone_ahead = |id: &TaskId| {
            matches!(self.tasks.get(id), Some(Task { state: State::Placed { go: Some(_), .. }, .. }))
        };
        let complete = |hold: &Hold| hold.closed.is_some() && hold.tasks.iter().all(gone_ahead);
        if self.offers.holds.get(&number).is_some_and(complete) {
            self.accept(now, number);
        }
    }

    /// Sends the tasks of a hold that have their go-ahead and whose orders are not stale; the others wait again.
    pub(super) fn accept(&mut self, now: Duration, number: u64) {
        let Some(hold) = self.offers.dissolve(number) else { return };
        let (mut tasks, mut infos, mut until) = (Vec::new(), Vec::new(), Duration::MAX);
        for id in &hold.tasks {
            let Some(mut task) = self.tasks.get_mut(id) else { continue };
            let State::Placed { placement, go, .. } = &task.state else { continue };
            let (Some(not_after), Some(spec)) = (go.filter(|not_after| now <= *not_after), &task.spec) else {
                drop(task);
                self.enqueue(id);
                continue;
            };
            let Placement { agent, hostname, resources, .. } = &**placement;
            infos.push(task_info(id, spec, agent, hostname, resources, self.manners.kill_grace));
            let agent = agent.clone();
            until = until.min(not_after);
            tasks.push(id.clone());
            task.state = State::Begun(Begun { agent, heard: None, origin: Origin::Sent, asked: Some(now) });
        }
        self.offers.worked = Some(now);
        if tasks.is_empty() {
            // Nothing goes there now.
            self.offers.take_back(hold.closed);
        } else {
            let offers = hold.offers.into_iter().collect();
            let call = Call::Accept { offers, tasks: infos, refuse: Duration::ZERO };
            self.acts.push(Act::Accept { tasks, call, not_after: until });
        }
        self.settle(now);
    }

    /// Places what fits, and sees to it that offers are there when something waits and elsewhere when not.
    pub(super) fn settle(&mut self, now: Duration) {
        let Some(framework) = self.framework.clone() else { return };
        if !self.offers.queue.is_empty() {
            self.offers.worked = Some(now);
            for placement in matching::place(&mut self.offers.pool, &mut self.offers.queue) {
                self.place(now, placement, &framework);
            }
        }
        let offers = self.offers.decline(now);
        if !offers.is_empty() {
            self.acts.push(Act::Call(Call::Decline { offers, refuse: self.manners.decline_for }));
        }
        self.acts.extend(self.offers.want(now, self.manners.revive_every).map(Act::Call));
    }

    fn place(&mut self, now: Duration, placement: Placement, framework: &str) {
        let id = placement.task.clone();
        if !self.tasks.contains(&id) {
            return;
        }
        let hold = self.hold_of(&placement.offers);
        if let Some(hold) = self.offers.holds.get_mut(&hold) {
            hold.tasks.insert(id.clone());
        }
        let Some(mut task) = self.tasks.get_mut(&id) else { return };
        let place = Place {
            url: placement.url.clone(),
            agent: placement.agent.clone(),
            framework: framework.to_owned(),
        };
        // Told twice, a place is told apart: a late go-ahead of the first is none of the second.
        let node: Arc<str> =
            if task.told == 0 { place.to_string().into() } else { format!("{place}#{}", task.told).into() };
        task.told += 1;
        let placement = Box::new(placement);
        task.state = State::Placed { placement, node: node.clone(), hold, since: now, go: None };
        drop(task);
        self.acts.push(Act::Tell(TaskEvent { task: id, known: Known::Placed { node } }));
    }

    /// The hold of these offers, which are of one agent and are accepted together; if they were of several, these become one.
    fn hold_of(&mut self, offers: &[String]) -> u64 {
        let held = offers.iter().filter_map(|offer| self.offers.held.get(offer).copied());
        let known: BTreeSet<u64> = held.collect();
        let number = known.first().copied().unwrap_or_else(|| {
            self.last += 1;
            self.last
        });
        let mut offers: BTreeSet<String> = offers.iter().cloned().collect();
        let mut tasks = BTreeSet::new();
        for other in known.into_iter().skip(1) {
            if let Some(hold) = self.offers.holds.remove(&other) {
                offers.extend(hold.offers);
                tasks.extend(hold.tasks);
            }
        }
        for moved in &tasks {
            if let Some(mut task) = self.tasks.get_mut(moved)
                && let State::Placed { hold, .. } = &mut task.state
            {
                *hold = number;
            }
        }
        self.offers.held.extend(offers.iter().map(|offer| (offer.clone(), number)));
        let hold = self.offers.holds.entry(number).or_default();
        hold.offers.extend(offers);
        hold.tasks.extend(tasks);
        number
    }
}
