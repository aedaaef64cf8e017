//! What bounds the launches of a server: tasks at once, in all and by label, and launches in a second.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::book::later;

/// A label of a job: key and value.
pub type Label = (Arc<str>, Arc<str>);

/// What bounds the launches of a server. By default, nothing does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Launches in a second, on average; at most a second's worth at one instant.
    pub launch_rate_max: Option<NonZeroU32>,
    /// Tasks at once.
    pub running_max: Option<NonZeroU32>,
    /// Tasks at once of jobs with a label; at most [`Limits::LABELS_MAX`].
    pub running_max_by_label: Vec<LabelLimit>,
}

/// How many tasks of jobs with a label may run at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelLimit {
    /// Key of the label.
    pub key: Arc<str>,
    /// Its value; without one, the limit holds for each value by itself.
    pub value: Option<Arc<str>>,
    /// How many.
    pub max: NonZeroU32,
}

impl Limits {
    /// Bound on label limits: each is looked at for every label of a run that is queued.
    pub const LABELS_MAX: usize = 64;

    /// The limit that holds for a label: one for its value goes before one for each value.
    pub fn of_label(&self, (key, value): &Label) -> Option<&LabelLimit> {
        let of_key = || self.running_max_by_label.iter().filter(|limit| limit.key == *key);
        of_key()
            .find(|limit| limit.value.as_ref() == Some(value))
            .or_else(|| of_key().find(|limit| limit.value.is_none()))
    }

    /// Whether nothing is bounded.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for LabelLimit {
    /// As it is written in a flag: `team=etl:8`, or `team:8` for each value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value}:{}", self.key, self.max),
            None => write!(f, "{}:{}", self.key, self.max),
        }
    }
}

/// The bucket of the launch rate: full, it holds what may be launched in a second.
#[derive(Clone, Debug)]
pub(crate) struct Rate {
    per_second: Option<NonZeroU32>,
    /// When the bucket will be full again. None before the term has begun.
    full_at: Option<Timestamp>,
}

const SECOND: Duration = Duration::from_secs(1);
const NANOS: i128 = 1_000_000_000;

impl Rate {
    pub(crate) fn new(per_second: Option<NonZeroU32>) -> Self {
        Self { per_second, full_at: None }
    }

    /// Takes the time. A term begins with an empty bucket, as nobody knows what the leader before it has just
    /// launched; and a clock that has gone back makes nobody wait for more than a full bucket.
    pub(crate) fn observe(&mut self, now: Timestamp) {
        let full_at = later(now, SECOND);
        self.full_at = Some(self.full_at.map_or(full_at, |at| at.min(full_at)));
    }

    /// How many launches are allowed now.
    pub(crate) fn room(&self, now: Timestamp) -> u32 {
        let Some(rate) = self.per_second else { return u32::MAX };
        let missing = self.full_at.map_or(NANOS, |at| at.as_nanosecond() - now.as_nanosecond());
        let filled = NANOS - missing.clamp(0, NANOS);
        u32::try_from(filled * i128::from(rate.get()) / NANOS).unwrap_or(u32::MAX)
    }

    /// One launch happens.
    pub(crate) fn spend(&mut self, now: Timestamp) {
        if let Some(rate) = self.per_second {
            let from = self.full_at.map_or(now, |at| at.max(now));
            self.full_at = Some(later(from, share(rate)));
        }
    }

    /// When the next launch is allowed.
    pub(crate) fn ready_at(&self, now: Timestamp) -> Timestamp {
        let (Some(rate), Some(full_at)) = (self.per_second, self.full_at) else { return now };
        let from = full_at.as_nanosecond() - NANOS;
        let share = i128::try_from(share(rate).as_nanos()).unwrap_or(NANOS);
        // Up to a whole millisecond, as all times have.
        let millis = (from + share + 999_999).div_euclid(1_000_000);
        let at = i64::try_from(millis).ok().and_then(|at| Timestamp::from_millisecond(at).ok());
        at.map_or(now, |at| at.max(now))
    }
}

/// The time in which one launch becomes allowed; rounded up, so that the rate is never exceeded.
fn share(rate: NonZeroU32) -> Duration {
    Duration::from_nanos(1_000_000_000_u64.div_ceil(u64::from(rate.get())))
}
