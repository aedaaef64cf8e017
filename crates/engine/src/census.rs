//! How much is kept of how old tasks, in a fixed number of bytes however many there are. From it follows what goes: a
//! second look at the folders finds it, so that nobody has to remember them all at once.

use std::time::Duration;

use crate::Keep;

/// Ages of one kind differ by no more than one part in so many: with a day, by six minutes. Among those of one kind it is
/// chance which goes first.
const PARTS: u64 = 256;
/// A power of two of milliseconds has so many kinds of age, and there are so many of them.
const KINDS: usize = (u64::BITS - PARTS.ilog2() + 1) as usize * PARTS as usize;

/// What there is, after a first look.
pub(crate) struct Census {
    keep: Keep,
    total: u64,
    /// Whether there is something that goes whatever it takes.
    too_old: bool,
    /// Bytes of what may go, by the kind of age.
    by_age: Vec<u64>,
}

impl Census {
    pub(crate) fn new(keep: Keep) -> Self {
        Self { keep, total: 0, too_old: false, by_age: vec![0; KINDS] }
    }

    /// Counts what an ended task takes.
    pub(crate) fn count(&mut self, age: Duration, bytes: u64) {
        self.total = self.total.saturating_add(bytes);
        if age >= self.keep.age_min {
            self.by_age[kind(age)] += bytes;
            self.too_old |= age > self.keep.age_max;
        }
    }

    /// Counts what a task takes that cannot go: all others have to make room for it.
    pub(crate) fn count_fixed(&mut self, bytes: u64) {
        self.total = self.total.saturating_add(bytes);
    }

    /// What has to go, if anything: all that is too old, and of the rest the oldest, until what is left fits.
    pub(crate) fn cut(self) -> Option<Cut> {
        let mut over = self.total.saturating_sub(self.keep.bytes_max);
        let (mut at, mut left) = (KINDS, 0);
        while over > 0 && at > 0 {
            at -= 1;
            left = over;
            over = over.saturating_sub(self.by_age[at]);
        }
        (self.too_old || left > 0).then_some(Cut { keep: self.keep, at, left })
    }
}

/// What goes.
pub(crate) struct Cut {
    keep: Keep,
    /// Ages beyond this kind go.
    at: usize,
    /// Of this kind, so many bytes.
    left: u64,
}

impl Cut {
    /// Whether something of this age goes.
    pub(crate) fn takes(&self, age: Duration) -> bool {
        let kind = kind(age);
        let oldest = kind > self.at || (kind == self.at && self.left > 0);
        age >= self.keep.age_min && (age > self.keep.age_max || oldest)
    }

    /// Something of this age goes.
    pub(crate) fn take(&mut self, age: Duration, bytes: u64) {
        if kind(age) == self.at {
            self.left = self.left.saturating_sub(bytes);
        }
    }
}

/// Short ages have each a kind of their own; with each power of two beyond, kinds are twice as wide.
fn kind(age: Duration) -> usize {
    let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    let powers = u64::from((age / PARTS).checked_ilog2().map_or(0, |power| power + 1));
    let within = age >> powers.saturating_sub(1);
    let kind = if powers == 0 { within } else { powers * PARTS + (within - PARTS) };
    usize::try_from(kind).map_or(KINDS - 1, |kind| kind.min(KINDS - 1))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn older_is_never_of_a_younger_kind() {
        let mut last = 0;
        for age in
            (0..64).flat_map(|power| [(1u64 << power) - 1, 1 << power, (1 << power) + (1 << power) / 3])
        {
            let kind = kind(Duration::from_millis(age));
            assert!(kind >= last && kind < KINDS, "{age} ms: {kind}, after {last}");
            last = kind;
        }
        assert_eq!(kind(Duration::MAX), kind(Duration::from_millis(u64::MAX)));
        assert_eq!(kind(Duration::MAX), KINDS - 1);
    }

    proptest! {
        /// Whatever there is and in whatever order it is found the second time.
        #[test]
        fn what_is_left_is_what_was_promised(
            tasks in vec((0u64..100_000, 0u64..1000), 0..60),
            fixed in 0u64..3000,
            age_min in 0u64..50_000,
            age_more in 0u64..60_000,
            bytes_max in 0u64..20_000,
        ) {
            let (age_min, age_max) = (seconds(age_min), seconds(age_min + age_more));
            let keep = Keep { age_min, age_max, bytes_max };
            let mut census = Census::new(keep);
            census.count_fixed(fixed);
            tasks.iter().for_each(|(age, bytes)| census.count(seconds(*age), *bytes));
            let mut cut = census.cut();
            let (mut kept, mut gone) = (Vec::new(), Vec::new());
            for (age, bytes) in tasks {
                if let Some(cut) = cut.as_mut().filter(|cut| cut.takes(seconds(age))) {
                    cut.take(seconds(age), bytes);
                    gone.push((age, bytes));
                } else {
                    kept.push((age, bytes));
                }
            }
            let left = fixed + kept.iter().map(|(_, bytes)| bytes).sum::<u64>();
            for (age, _) in &kept {
                prop_assert!(seconds(*age) < age_min || seconds(*age) <= age_max, "{age} s are too old");
            }
            let may_go = kept.iter().filter(|(age, bytes)| seconds(*age) >= age_min && *bytes > 0).count();
            prop_assert!(left <= bytes_max || may_go == 0, "{left} bytes are left of {bytes_max}");
            for (age, _) in &gone {
                prop_assert!(seconds(*age) >= age_min, "{age} s are too young to go");
                let older = kept.iter().find(|(other, _)| *other > age + age / PARTS + 1);
                let too_old = seconds(*age) > age_max;
                prop_assert!(too_old || older.is_none(), "{older:?} stayed, and {age} s went");
            }
            // Of the youngest that went, not all went for nothing.
            if let Some(youngest) = gone.iter().map(|(age, _)| kind(seconds(*age))).min() {
                let last = gone.iter().filter(|(age, _)| kind(seconds(*age)) == youngest);
                let needed = |(age, bytes): &(u64, u64)| seconds(*age) > age_max || left + bytes > bytes_max;
                prop_assert!(last.clone().any(needed), "{:?} went for nothing", last.collect::<Vec<_>>());
            }
        }
    }
}
