//! Waiting until something holds, with a bound.

use std::time::{Duration, Instant};

/// Long enough for the slowest machine that runs these tests; reached only by failures.
pub(crate) const BOUND: Duration = Duration::from_secs(120);

/// Asks again and again until there is an answer.
#[track_caller]
pub(crate) fn until<T>(what: &str, answer: impl FnMut() -> Option<T>) -> T {
    within(BOUND, what, answer)
}

/// As [`until`], with a bound of its own.
#[track_caller]
pub(crate) fn within<T>(bound: Duration, what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = answer() {
            return answer;
        }
        assert!(begun.elapsed() < bound, "waited {bound:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
