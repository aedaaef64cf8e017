//! Launch loops: a job whose attempts fail as soon as they are launched, again and again, is slowed down.

use std::time::Duration;

use jiff::Timestamp;

use crate::book::later;
use crate::ids::JobUid;
use crate::job::Progress;
use crate::run::{AttemptEnd, Live};
use crate::scheduler::Scheduler;

/// Attempts of a job that failed at once, without another end between them. Kept with the job's progress, so that a new
/// leader goes on where the one before it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuickFailures {
    /// How many; of attempts that were under way together, one counts.
    pub count: u32,
    /// When the last one failed.
    pub last: Timestamp,
    /// Before this the job launches nothing; None where it may, which it does one at a time.
    pub until: Option<Timestamp>,
}

impl QuickFailures {
    /// An attempt that fails within this of its launch has failed at once.
    pub const WITHIN: Duration = Duration::from_secs(1);
    /// So many of them are a loop. Fewer are what a retry policy with short delays may well ask for.
    pub const LOOP: u32 = 5;
    /// The longest pause between launches of a job in a loop: it is tried often enough to notice that it was mended.
    pub const PAUSE_MAX: Duration = Duration::from_secs(60);

    /// Whether they are so many that the job is slowed.
    pub fn is_loop(&self) -> bool {
        self.count >= Self::LOOP
    }

    /// How long the job pauses after the last of them: 1 s, doubling.
    pub fn pause(&self) -> Duration {
        let doublings = self.count.saturating_sub(Self::LOOP).min(6);
        Duration::from_secs(1 << doublings).min(Self::PAUSE_MAX)
    }
}

impl Scheduler {
    /// Takes notice of how soon an attempt ended.
    pub(crate) fn watch_for_loop(&mut self, uid: JobUid, live: &Live, end: &AttemptEnd) {
        let Some(before) = self.book.state().progress.get(&uid) else { return };
        let at_once = self.now <= later(live.launched, QuickFailures::WITHIN);
        let failed = matches!(end, AttemptEnd::Failed { .. });
        let quick_failures = match &before.quick_failures {
            None if !(at_once && failed) => return,
            // It was launched before the last of them failed, so it tells nothing new.
            Some(known) if at_once && failed && live.launched < known.last => return,
            known if at_once && failed => {
                let count = known.as_ref().map_or(0, |known| known.count).saturating_add(1);
                let now = QuickFailures { count, last: self.now, until: None };
                let until = now.is_loop().then(|| later(self.now, now.pause()));
                Some(Box::new(QuickFailures { until, ..now }))
            }
            // Somebody ended it, or nobody knows how it ended: that says nothing about the job.
            Some(_) if at_once && *end != AttemptEnd::Succeeded => return,
            _ => None,
        };
        let progress = Progress { quick_failures, ..(**before).clone() };
        self.book.put_progress(uid, progress);
    }

    /// The pause of a job in a loop is over: it may try one launch.
    pub(crate) fn end_loop_pause(&mut self, uid: JobUid) {
        self.set_loop_pause(uid, |_| None);
    }

    /// After the clock has gone back, no pause lasts longer than it would have.
    pub(crate) fn clip_loop_pause(&mut self, uid: JobUid) {
        let now = self.now;
        self.set_loop_pause(uid, |loops| loops.until.map(|until| until.min(later(now, loops.pause()))));
    }

    fn set_loop_pause(&mut self, uid: JobUid, until: impl FnOnce(&QuickFailures) -> Option<Timestamp>) {
        let Some(before) = self.book.state().progress.get(&uid) else { return };
        let Some(loops) = before.quick_failures.as_deref() else { return };
        let until = until(loops);
        if until != loops.until {
            let quick_failures = Some(Box::new(QuickFailures { until, ..loops.clone() }));
            let progress = Progress { quick_failures, ..(**before).clone() };
            self.book.put_progress(uid, progress);
        }
    }
}
