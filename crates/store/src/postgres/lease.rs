//! How long this node may believe that it leads.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The shortest lease: less would be lost to a pause of the machine or one lost packet.
pub const LEASE_MIN: Duration = Duration::from_secs(4);
/// What is promised if nobody says otherwise.
pub const LEASE: Duration = Duration::from_secs(10);

/// A lease, as this node counts it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    /// What the server grants from when it answers.
    pub(super) granted: Duration,
}

impl Lease {
    /// Until when what was asked for at `asked` is certain. The server counts from later, but its clock and ours may not run
    /// alike: a tenth is left to that.
    pub(super) fn until(self, asked: Duration) -> Duration {
        asked + self.granted - self.granted / 10
    }

    /// When it is to be renewed: early enough to try a few times.
    pub(super) fn renew_at(self, asked: Duration) -> Duration {
        asked + self.granted / 4
    }

    /// How long one statement may take before another connection is tried.
    pub(super) fn answer_within(self) -> Duration {
        self.granted / 3
    }
}

/// Time since the machine was started, the time it slept included: no step of the wall clock moves it.
pub(super) fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}
