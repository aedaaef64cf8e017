//! Tasks that were given up: nobody could tell how they ended, so they are recorded as lost. What was recorded stays as it
//! is, but they may be heard of again: one that runs is ended, and how one has ended in truth is noted in the audit, once.
//!
//! Whoever leads asks for them where they were, so they are kept with the progress of their job. In the state each is by
//! itself; that it is gone from there and that its end is noted is one batch, so no leader notes it a second time.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::audit::Act;
use crate::book::later;
use crate::ids::{JobName, JobUid, RunKey, TaskId};
use crate::job::Progress;
use crate::run::{AttemptEnd, Live};
use crate::scheduler::{Effect, Scheduler, TaskNews};
use crate::state::State;

/// An attempt that is recorded as lost, and that may be heard of again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenUp {
    /// Whose attempt.
    pub run: RunKey,
    /// Which, counted from 0.
    pub attempt: u32,
    /// Where it was: who is asked for it.
    pub node: Arc<str>,
    /// When it was recorded as lost.
    pub at: Timestamp,
}

impl GivenUp {
    /// So many of one job are kept, the newest: each end of a run of the job writes them again.
    pub const COUNT_MAX: usize = 32;
    /// None is kept longer. A machine that was away for longer has more to explain than a task.
    pub const AGE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

    /// What its engine calls it; `job` is the name of its job.
    pub fn task(&self, job: &JobName) -> TaskId {
        TaskId::of(job, self.run, self.attempt)
    }

    /// When it is forgotten.
    pub(crate) fn until(&self) -> Timestamp {
        later(self.at, Self::AGE_MAX)
    }
}

impl State {
    /// The attempt of this name, if it was given up and nothing has been heard of it since.
    pub fn given_up(&self, task: &TaskId) -> Option<&GivenUp> {
        task.keys().find_map(|key| {
            let (job, progress) = (self.jobs.get(&key.job)?, self.progress.get(&key.job)?);
            progress.given_up.iter().find(|given_up| given_up.task(&job.name) == *task)
        })
    }

    /// All of them, by the names that their engines know.
    pub fn all_given_up(&self) -> impl Iterator<Item = (TaskId, &GivenUp)> {
        self.progress.iter().flat_map(|(uid, progress)| {
            let job = self.jobs.get(uid);
            let named = move |given_up| Some((GivenUp::task(given_up, &job?.name), given_up));
            progress.given_up.iter().filter_map(named)
        })
    }
}

impl Scheduler {
    /// The attempt is about to be recorded as lost, and nobody has stated that it has ended.
    pub(crate) fn give_up(&mut self, run: RunKey, live: &Live) {
        let Some(before) = self.book.state().progress.get(&run.job) else { return };
        let mut given_up = before.given_up.clone();
        if given_up.len() >= GivenUp::COUNT_MAX {
            given_up.remove(0);
        }
        given_up.push(GivenUp { run, attempt: live.attempt, node: live.node.clone(), at: self.now });
        self.book.put_progress(run.job, Progress { given_up, ..(**before).clone() });
    }

    /// Takes news of a task that no run waits for: it was given up, or what it says has been recorded.
    pub(crate) fn heard_again(&mut self, task: TaskId, news: TaskNews) {
        match news {
            TaskNews::Ended(end) => {
                let lost = matches!(end, AttemptEnd::Lost { .. });
                if let Some(GivenUp { run, attempt, node, at }) = self.settle_given_up(&task)
                    && !lost
                {
                    self.note_of(run.job, Act::HeardLate { run, attempt, node, lost: at, end });
                }
                self.effects.push(Effect::Acknowledge { task });
            }
            TaskNews::Running | TaskNews::Waiting | TaskNews::Placed { .. } => {
                self.effects.push(Effect::Kill { task });
            }
            // Nothing more will be heard of it.
            TaskNews::NeverBegan => drop(self.settle_given_up(&task)),
            TaskNews::GivenUp { .. } | TaskNews::Unknown => {}
        }
    }

    /// Lets go of it, if it was given up.
    fn settle_given_up(&mut self, task: &TaskId) -> Option<GivenUp> {
        let settled = self.book.state().given_up(task).cloned()?;
        self.keep_given_up(settled.run.job, |given_up| *given_up != settled);
        Some(settled)
    }

    /// Some of what was given up of a job is too old to be asked for.
    pub(crate) fn forget_given_up(&mut self, uid: JobUid) {
        let now = self.now;
        self.keep_given_up(uid, |given_up| given_up.until() > now);
    }

    fn keep_given_up(&mut self, uid: JobUid, keep: impl Fn(&GivenUp) -> bool) {
        let Some(before) = self.book.state().progress.get(&uid) else { return };
        let given_up = before.given_up.iter().filter(|given_up| keep(given_up)).cloned().collect();
        self.book.put_progress(uid, Progress { given_up, ..(**before).clone() });
    }
}
