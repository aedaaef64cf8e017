//! Whether the wall clock can be believed: its steps, held against a clock that nobody sets.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// Watches the wall clock. A step forward of more than [`ClockGuard::STEP_MAX`] would make slots due that are not,
/// and those decisions would be durable; so nothing is decided until the clock has agreed with itself for a while.
/// A step backward needs no guard: no slot at or before the mark is considered again.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClockGuard {
    state: Option<Watch>,
}

#[derive(Clone, Copy, Debug)]
struct Watch {
    /// Wall clock minus boot clock, as last believed; small drifts are followed.
    believed: SignedDuration,
    /// The same, as last seen.
    seen: SignedDuration,
    /// Since when, on the boot clock, the wall clock has kept to `seen`, while it is not believed.
    held_since: Option<Duration>,
}

impl ClockGuard {
    /// The largest step forward that is believed at once. Time servers slew less than this, suspended machines are
    /// seen by the boot clock too.
    pub const STEP_MAX: Duration = Duration::from_secs(60);
    /// How long a stepped clock must agree with the boot clock before it is believed.
    pub const AGREEMENT: Duration = Duration::from_secs(60);

    /// Takes both clocks as they are now and says whether the wall clock can be believed.
    pub fn observe(&mut self, wall: Timestamp, since_boot: Duration) -> bool {
        let since_boot_signed = SignedDuration::try_from(since_boot).unwrap_or(SignedDuration::MAX);
        let offset = wall.duration_since(Timestamp::UNIX_EPOCH).saturating_sub(since_boot_signed);
        let limit = SignedDuration::try_from(Self::STEP_MAX).unwrap_or(SignedDuration::MAX);
        let Some(mut watch) = self.state else {
            self.state = Some(Watch { believed: offset, seen: offset, held_since: None });
            return true;
        };
        let stepped = offset.saturating_sub(watch.seen).abs() > limit;
        watch.seen = offset;
        if offset.saturating_sub(watch.believed) <= limit {
            // In agreement, behind, or set right again.
            watch.believed = offset;
            watch.held_since = None;
        } else {
            let since = watch.held_since.filter(|_| !stepped).unwrap_or(since_boot);
            let agreed = since_boot.saturating_sub(since) >= Self::AGREEMENT;
            watch.held_since = (!agreed).then_some(since);
            if agreed {
                watch.believed = offset;
            }
        }
        let trusted = watch.held_since.is_none();
        self.state = Some(watch);
        trusted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds of (wall, boot) in turn, and what is said of each.
    #[track_caller]
    fn check(steps: &[(i64, u64, bool)]) {
        let mut guard = ClockGuard::default();
        for (at, (wall, boot, trusted)) in steps.iter().enumerate() {
            let wall = Timestamp::from_second(*wall).unwrap();
            assert_eq!(guard.observe(wall, Duration::from_secs(*boot)), *trusted, "step {at}");
        }
    }

    #[test]
    fn a_clock_that_runs_evenly_is_believed() {
        check(&[(1000, 10, true), (1030, 40, true), (5030, 4040, true)]);
    }

    #[test]
    fn a_step_forward_holds_until_it_has_lasted() {
        check(&[(1000, 10, true), (8000, 11, false), (8030, 41, false), (8061, 72, true), (8062, 73, true)]);
    }

    #[test]
    fn another_step_begins_the_wait_anew() {
        check(&[
            (1000, 10, true),
            (8000, 11, false),
            (9000, 41, false),
            (9031, 72, false),
            (9060, 101, true),
        ]);
    }

    #[test]
    fn a_step_that_is_taken_back_is_forgiven() {
        check(&[(1000, 10, true), (8000, 11, false), (1002, 12, true)]);
    }

    #[test]
    fn backward_is_believed_and_small_drift_is_followed() {
        check(&[(9000, 10, true), (1000, 11, true), (1050, 20, true), (1100, 30, true), (1150, 40, true)]);
    }
}
