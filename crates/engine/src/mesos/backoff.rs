//! Pauses between tries: longer each time up to a bound, and never of the same length for all who wait.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    first: Duration,
    bound: Duration,
    next: Duration,
    random: u64,
}

impl Backoff {
    /// Pauses from half of `first` to `bound`. The same `seed` makes the same pauses.
    pub(super) fn new(first: Duration, bound: Duration, seed: u64) -> Self {
        Self { first, bound, next: first, random: seed | 1 }
    }

    /// As different from others as the machine can make it.
    pub(super) fn any(first: Duration, bound: Duration) -> Self {
        Self::new(first, bound, RandomState::new().build_hasher().finish())
    }

    /// The next pause: between half and all of a time that doubles.
    pub(super) fn pause(&mut self) -> Duration {
        // Xorshift: nobody is to guess it, and all it has to be is different.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let pause =
            self.next / 2 + (self.next / 2).mul_f64(f64::from(self.random as u32) / f64::from(u32::MAX));
        self.next = self.bound.min(self.next * 2);
        pause
    }

    /// What was tried has worked.
    pub(super) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(100);
    const BOUND: Duration = Duration::from_secs(5);

    #[test]
    fn pauses_double_up_to_their_bound_and_begin_anew() {
        for seed in 0..200 {
            let mut backoff = Backoff::new(FIRST, BOUND, seed);
            let mut most = FIRST;
            for n in 0..40 {
                let pause = backoff.pause();
                assert!(pause >= most / 2 && pause <= most, "seed {seed}, pause {n}: {pause:?} of {most:?}");
                most = BOUND.min(most * 2);
            }
            assert_eq!(most, BOUND);
            backoff.reset();
            assert!(backoff.pause() <= FIRST);
        }
    }

    #[test]
    fn two_that_begin_together_do_not_stay_together() {
        let pauses = |seed| {
            let mut backoff = Backoff::new(FIRST, BOUND, seed);
            (0..8).map(|_| backoff.pause()).collect::<Vec<_>>()
        };
        assert_ne!(pauses(0x1234_5678), pauses(0x8765_4321));
        assert_eq!(pauses(7), pauses(7));
    }
}
