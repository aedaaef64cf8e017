//! Jitter: how much later than due a slot starts, so that jobs which are due at one instant do not start at one.

use std::time::Duration;

use jiff::Timestamp;

use crate::book::later;
use crate::ids::{Cause, JobUid, RunKey};
use crate::job::Rules;
use crate::run::Run;
use crate::schedule::Nominal;

impl Rules {
    /// Most jitter: a day. Beyond it nobody could tell a run that is late from one that is not.
    pub const JITTER_MAX: Duration = Duration::from_secs(86_400);

    /// How much later than due a slot of the job starts: the same for ever, as it follows from what the slot is, and
    /// spread evenly over the jitter.
    pub fn offset(&self, job: JobUid, slot: Nominal) -> Duration {
        let Some(millis) = self.jitter.map(|jitter| jitter.min(Self::JITTER_MAX).as_millis()) else {
            return Duration::ZERO;
        };
        let (kind, number) = match slot {
            Nominal::Index(k) => (0, k),
            Nominal::Civil { second, fold } => (1 + u64::from(fold), second.cast_unsigned()),
        };
        let hash = mix(mix(mix(job.0) ^ number) ^ kind);
        Duration::from_millis(u64::try_from(u128::from(hash) % (millis + 1)).unwrap_or(0))
    }

    /// Likewise for a run; what a user or a parent starts is not delayed.
    pub(crate) fn offset_of(&self, run: RunKey) -> Duration {
        match run.cause {
            Cause::Slot { nominal, .. } => self.offset(run.job, nominal),
            _ => Duration::ZERO,
        }
    }

    /// When a run of the job is to start. A slot that was taken late, after an outage, is delayed from then on: what
    /// is late in a herd is spread like what is in time. Where that would make it miss its start deadline, it starts
    /// when it would have without the outage, or at once.
    pub fn starts_at(&self, run: &Run) -> Timestamp {
        let offset = self.offset_of(run.key);
        if offset.is_zero() {
            return run.due;
        }
        let (planned, late) = (later(run.due, offset), later(run.due.max(run.created), offset));
        if self.start_deadline(run).is_none_or(|deadline| late < deadline) { late } else { planned }
    }

    /// After this the first attempt of a slot's run is too late. What a user or a parent starts is wanted whenever it
    /// can be had.
    pub fn start_deadline(&self, run: &Run) -> Option<Timestamp> {
        let epsilon = self.epsilon.filter(|_| matches!(run.key.cause, Cause::Slot { .. }))?;
        Some(later(later(run.due, self.offset_of(run.key)), epsilon))
    }
}

/// Makes of near numbers far ones (the finalizer of SplitMix64: Steele, Lea and Flood, 2014).
fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}
