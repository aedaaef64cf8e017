//! What a job is: its definition as the scheduler sees it, and how far it has come.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::given_up::GivenUp;
use crate::ids::{Cycle, GraphVersion, JobName, JobUid};
use crate::launch_loop::QuickFailures;
use crate::limits::Label;
use crate::moment::Moment;
use crate::notice::{AlertKind, AlertKinds, AlertRules};
use crate::schedule::{DstPolicy, Nominal, Slot};

/// A named definition of what to run, when, and with what.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// New at each creation, kept by replace.
    pub uid: JobUid,
    /// Counts replacements, from 1.
    pub version: u32,
    /// When it was created.
    pub created: Timestamp,
    /// When it was last replaced.
    pub changed: Timestamp,
    /// The version of the graph that its parents came with: cycles that began in an earlier one open no joins of it.
    pub joins_from: GraphVersion,
    /// Unique among the jobs of a store.
    pub name: JobName,
    /// What makes it run.
    pub plan: Plan,
    /// How it runs. Most jobs have the rules of others, so copies are shared where they are met: see [`Rules::shared`].
    pub rules: Arc<Rules>,
    /// The rest of the definition, which the scheduler keeps but never reads.
    pub body: Arc<str>,
}

/// What makes a job run.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// Time does.
    Schedule(Timetable),
    /// Other jobs do; sorted, without repeats, never empty.
    Parents(Vec<JobUid>),
}

/// A schedule as it is kept: texts, read again when they are needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timetable {
    /// As the user wrote it.
    pub text: Arc<str>,
    /// As the user wrote it; empty for none.
    pub zone: Arc<str>,
    /// What to do where the wall clock jumps.
    pub dst: DstPolicy,
    /// Stands in for an empty start: when this text was first posted.
    pub anchor: Timestamp,
    /// The version of the job that brought it; part of the identity of its slots.
    pub plan: u32,
}

/// How a job runs. Durations have whole milliseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// No slots, and parents do not start it.
    pub disabled: bool,
    /// Before all others in the queue.
    pub high_priority: bool,
    /// What becomes of slots that passed while nobody could start them.
    pub catch_up: CatchUp,
    /// Start deadline of a run, from its due time and the part of its jitter that falls to it.
    pub epsilon: Option<Duration>,
    /// Each slot starts up to so much later than due; at most [`Rules::JITTER_MAX`].
    pub jitter: Option<Duration>,
    /// What a new run does while an earlier one is busy.
    pub overlap: Overlap,
    /// What a failed attempt leads to.
    pub retry: Retry,
    /// Whether an attempt of unknown fate may be launched again.
    pub guarantee: Guarantee,
    /// How long an attempt may be of unknown fate before it is given up.
    pub lost_after: Duration,
    /// How long an attempt may run; `maxCompletionTime`.
    pub run_max: Option<Duration>,
    /// A failure counts as a success for the children.
    pub soft_error: bool,
    /// Whose it is and what it is called by, if anybody has said so.
    pub tags: Option<Arc<Tags>>,
    /// What is told to whom; `None`, which costs a million jobs nothing, for the default and nobody.
    pub alerts: Option<Arc<AlertRules>>,
}

/// Whose a job is, and its labels. Shared by jobs that agree in them, as a million jobs have few owners.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tags {
    /// Who answers for it; empty for nobody.
    pub owner: Arc<str>,
    /// As the user wrote them; no key twice.
    pub labels: Box<[Label]>,
}

impl Tags {
    /// The tags as they are kept: none where they say nothing.
    pub fn kept(self) -> Option<Arc<Self>> {
        (self != Self::default()).then(|| Arc::new(self))
    }
}

impl Rules {
    /// Who answers for the job; empty for nobody.
    pub fn owner(&self) -> Arc<str> {
        self.tags.as_ref().map_or_else(Arc::default, |tags| tags.owner.clone())
    }

    /// The job's labels.
    pub fn labels(&self) -> &[Label] {
        self.tags.as_ref().map_or(&[], |tags| &tags.labels)
    }
}

impl Rules {
    /// Whether it shall be told, to whom it may concern.
    pub fn wants(&self, kind: AlertKind) -> bool {
        self.alerts.as_ref().map_or(AlertKinds::default().contains(kind), |alerts| alerts.wants(kind))
    }

    /// Who is told by mail.
    pub fn recipients(&self) -> &[Arc<str>] {
        self.alerts.as_ref().map_or(&[], |alerts| &alerts.to)
    }
}

impl Rules {
    /// Rules that came lately and are kept for sharing, by each thread: jobs of one import or one owner agree in theirs.
    const LATELY_MAX: usize = 16;

    /// These rules in a place that the jobs share which agree in them and come one after the other. A million jobs are some
    /// 200 MiB smaller for it.
    pub fn shared(mut self) -> Arc<Self> {
        // A cache, so it decides nothing.
        thread_local!(static LATELY: RefCell<Vec<Arc<Rules>>> = const { RefCell::new(Vec::new()) });
        LATELY.with_borrow_mut(|lately| {
            if let Some(at) = lately.iter().rposition(|known| **known == self) {
                return lately[at].clone();
            }
            if let Some(known) = lately.iter().find(|known| known.tags == self.tags) {
                self.tags.clone_from(&known.tags);
            }
            if lately.len() == Self::LATELY_MAX {
                lately.remove(0);
            }
            let shared = Arc::new(self);
            lately.push(shared.clone());
            shared
        })
    }
}

impl Default for Rules {
    /// The defaults of Chronos, where it had any.
    fn default() -> Self {
        Self {
            disabled: false,
            high_priority: false,
            catch_up: CatchUp::Latest,
            epsilon: None,
            jitter: None,
            overlap: Overlap::Queue,
            retry: Retry::default(),
            guarantee: Guarantee::AtMostOnce,
            lost_after: Duration::from_secs(3600),
            run_max: None,
            soft_error: false,
            tags: None,
            alerts: None,
        }
    }
}

/// What becomes of slots that passed while nobody could start them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatchUp {
    /// The most recent one runs, the others are missed. What Chronos did.
    Latest,
    /// All of them run, one after the other, within bounds; older ones are missed.
    All {
        /// At most this many; 1 to [`CatchUp::COUNT_MAX`].
        count_max: u64,
        /// At most this old.
        age_max: Duration,
    },
    /// None of them runs.
    None,
}

impl CatchUp {
    /// Bound of `All`: a week of one slot a minute.
    pub const COUNT_MAX: u64 = 10_080;
    /// How late a slot may be noticed under `None` and still run, where the job has no epsilon: what Chronos
    /// called the default epsilon.
    pub const PUNCTUAL: Duration = Duration::from_secs(60);
}

/// What a new run does while an earlier one is busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlap {
    /// One waits; later ones are skipped.
    Queue,
    /// It is skipped.
    Skip,
    /// The earlier one is killed; the new one starts when that has ended.
    Replace,
    /// Up to `max` run at once; beyond that as `Queue`.
    Allow {
        /// At least 1, at most [`Overlap::CONCURRENT_MAX`].
        max: u32,
    },
}

impl Overlap {
    /// Bound on the live runs of one job, so that no job can exhaust the others' room.
    pub const CONCURRENT_MAX: u32 = 1000;
}

/// What a failed attempt leads to: a pure function of its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Attempts after the first; at most [`Retry::MAX`].
    pub max: u32,
    /// Before the first retry; at least [`Retry::DELAY_MIN`]. `None`: what the scheduler was told to wait.
    pub delay: Option<Duration>,
    /// Each further delay is this many hundredths of the one before; 100 is constant, at most 1000.
    pub factor_percent: u32,
    /// No delay is longer.
    pub delay_max: Duration,
}

impl Retry {
    /// Bound on retries: every attempt is kept in its run's record.
    pub const MAX: u32 = 100;
    /// A failing job must not storm.
    pub const DELAY_MIN: Duration = Duration::from_secs(1);
    /// Before the first retry where nobody says anything: as in Chronos.
    pub const DELAY: Duration = Duration::from_secs(60);

    /// How long to wait before attempt number `attempt` (1 is the first retry); `None` if there is none. `usual` is for
    /// jobs that do not say.
    pub fn delay_before(&self, attempt: u32, usual: Duration) -> Option<Duration> {
        if attempt == 0 || attempt > self.max {
            return None;
        }
        let mut millis = self.delay.unwrap_or(usual.min(self.delay_max)).as_millis();
        let cap = self.delay_max.as_millis().max(millis);
        for _ in 1..attempt {
            if millis >= cap {
                break;
            }
            millis = millis * u128::from(self.factor_percent) / 100;
        }
        Some(Duration::from_millis(u64::try_from(millis.min(cap)).unwrap_or(u64::MAX)))
    }
}

impl Default for Retry {
    /// Two retries, as in Chronos; growing delays are capped at an hour.
    fn default() -> Self {
        Self { max: 2, delay: None, factor_percent: 100, delay_max: Duration::from_secs(3600) }
    }
}

/// What matters more where both cannot be had: that nothing runs twice, or that everything runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guarantee {
    /// An attempt whose fate is unknown is not launched again.
    AtMostOnce,
    /// It is, as the next attempt, as far as the retries go.
    AtLeastOnce,
}

/// How far a job has come: all that changes as it runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// The last slot that was consumed: run, missed or skipped. No slot at or before its due time is ever considered
    /// again, not even of another schedule.
    pub mark: Option<Slot>,
    /// The next slot, computed when the mark moved. `None`: no more, or no schedule.
    pub next: Option<Slot>,
    /// Slots left of `Rn`; `None` for ever.
    pub remaining: Option<u64>,
    /// Every slot since then is in the ledger, as far as retention goes.
    pub accounted_since: Timestamp,
    /// Set while paused. In a place of its own, because hardly any job is.
    pub paused: Option<Box<Pause>>,
    /// The last number given to a trigger or a reopened join.
    pub sequence: u32,
    /// For a dependent with several roots: the parents that have succeeded since it last fired, sorted.
    pub flags: Vec<(JobUid, Cycle)>,
    /// Runs that succeeded.
    pub successes: u64,
    /// Runs that failed all attempts.
    pub errors: u64,
    /// Of those, since the last success.
    pub errors_in_a_row: u64,
    /// When a run last succeeded.
    pub last_success: Option<Moment>,
    /// When a run last failed.
    pub last_error: Option<Moment>,
    /// Set while its attempts fail as soon as they are launched. Boxed, because hardly any job is like that.
    pub quick_failures: Option<Box<QuickFailures>>,
    /// Attempts that were given up and may be heard of again, oldest first; at most [`GivenUp::COUNT_MAX`].
    pub given_up: Vec<GivenUp>,
}

impl Progress {
    /// Nothing has happened yet.
    pub fn new(now: Timestamp) -> Self {
        Self {
            mark: None,
            next: None,
            remaining: None,
            accounted_since: now,
            paused: None,
            sequence: 0,
            flags: Vec::new(),
            successes: 0,
            errors: 0,
            errors_in_a_row: 0,
            last_success: None,
            last_error: None,
            quick_failures: None,
            given_up: Vec::new(),
        }
    }

    /// When the first of what was given up is forgotten.
    pub(crate) fn given_up_until(&self) -> Option<Timestamp> {
        self.given_up.iter().map(GivenUp::until).min()
    }

    /// The identity of the last consumed slot.
    pub fn mark_nominal(&self) -> Option<Nominal> {
        self.mark.map(|slot| slot.nominal)
    }
}

/// A pause: slots that come are skipped, parents' successes too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Since when.
    pub since: Timestamp,
    /// For the others who look at it; at most [`Pause::REASON_MAX`] bytes.
    pub reason: Arc<str>,
    /// When it ends by itself.
    pub until: Option<Timestamp>,
}

impl Pause {
    /// Longest reason.
    pub const REASON_MAX: usize = 1024;
}
