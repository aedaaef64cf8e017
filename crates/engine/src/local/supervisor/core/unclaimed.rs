//! Exits of children that no spawn has claimed yet.
//!
//! A process may be over before its spawner has told of it. What tasks leave behind is reaped here too, though, and its
//! number may soon be that of another process: an exit is only for a process that began before it, and only as long as
//! an order is out that was given before it.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// See the module. `S` is how a process ended.
pub(super) struct Unclaimed<S> {
    /// Number of the last order to spawn.
    given: u64,
    /// The orders that nothing has been told of.
    out: BTreeSet<u64>,
    exits: HashMap<i32, Exit<S>>,
}

struct Exit<S> {
    status: S,
    /// When it was reaped, since boot.
    at: Duration,
    /// The last order that was given before.
    given: u64,
}

impl<S> Unclaimed<S> {
    pub(super) fn new() -> Self {
        Self { given: 0, out: BTreeSet::new(), exits: HashMap::new() }
    }

    /// The number of an order that is given now.
    pub(super) fn order(&mut self) -> u64 {
        self.given += 1;
        self.out.insert(self.given);
        self.given
    }

    /// It is told what became of this order; an exit of its process is claimed before the next [`Unclaimed::expire`].
    pub(super) fn told(&mut self, order: u64) {
        self.out.remove(&order);
    }

    /// A child has ended that nobody knows yet.
    pub(super) fn put(&mut self, pid: i32, status: S, at: Duration) {
        if !self.out.is_empty() {
            self.exits.insert(pid, Exit { status, at, given: self.given });
        }
    }

    /// How the process ended that began `after` then, if it has.
    pub(super) fn claim(&mut self, pid: i32, after: Duration) -> Option<S> {
        let exit = self.exits.remove(&pid)?;
        (exit.at >= after).then_some(exit.status)
    }

    /// Drops what no order that is out can claim.
    pub(super) fn expire(&mut self) {
        let oldest = self.out.first().copied();
        self.exits.retain(|_, exit| oldest.is_some_and(|oldest| oldest <= exit.given));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_process_may_be_over_before_it_is_told_of() {
        let mut unclaimed = Unclaimed::new();
        let order = unclaimed.order();
        unclaimed.put(7, "mine", at(20));
        unclaimed.expire();
        unclaimed.told(order);
        assert_eq!(unclaimed.claim(7, at(20)), Some("mine"));
        assert_eq!(unclaimed.claim(7, at(20)), None, "once");
    }

    /// Under unbroken spawning, too.
    #[test]
    fn the_exit_of_an_orphan_is_not_that_of_who_gets_its_number() {
        let mut unclaimed = Unclaimed::new();
        let first = unclaimed.order();
        unclaimed.put(7, "an orphan", at(20));
        let second = unclaimed.order();
        unclaimed.told(first);
        unclaimed.told(second);
        assert_eq!(unclaimed.claim(7, at(30)), None);
    }

    #[test]
    fn an_exit_that_nobody_can_claim_is_dropped() {
        let mut unclaimed = Unclaimed::new();
        unclaimed.put(6, "before all", at(10));
        let first = unclaimed.order();
        unclaimed.put(7, "an orphan", at(20));
        let second = unclaimed.order();
        unclaimed.put(8, "an orphan", at(30));
        unclaimed.told(first);
        unclaimed.expire();
        assert_eq!(unclaimed.exits.keys().collect::<Vec<_>>(), [&8], "no order from before 7 is out");
        unclaimed.told(second);
        unclaimed.expire();
        assert!(unclaimed.exits.is_empty());
    }
}
