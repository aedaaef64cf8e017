//! Tasks of this framework that are none of ours: an old Chronos began them, whose id we go by, and whose names for tasks
//! are not those that we give. Nobody here waits for them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::options::OldTasks;
use super::super::status::Meaning;
use super::super::wire::{Call, Status};
use super::KILL_AGAIN;

/// So many are remembered: more than an old Chronos had running at once. Of others nothing is told, and they run on.
const FOREIGN_MAX: usize = 10_000;
/// Names in one sentence.
const NAMES_MAX: usize = 5;

/// Those that run, as far as the master has told.
#[derive(Default)]
pub(super) struct Foreign(BTreeMap<String, One>);

struct One {
    agent: String,
    /// When its end was asked for last, since boot.
    killed: Option<Duration>,
}

impl Foreign {
    /// The master has told of one.
    pub(super) fn update(&mut self, status: &Status, meaning: &Meaning) {
        let (task, agent) = (&status.task_id.value, &status.agent_id.value);
        match meaning {
            Meaning::Runs if self.0.contains_key(task) || self.0.len() < FOREIGN_MAX => {
                let one =
                    self.0.entry(task.clone()).or_insert_with(|| One { agent: String::new(), killed: None });
                if !agent.is_empty() {
                    one.agent.clone_from(agent);
                }
            }
            Meaning::Ended(_) | Meaning::NeverBegan => drop(self.0.remove(task)),
            // It may be there yet.
            Meaning::Runs | Meaning::Unknown | Meaning::Duplicate => {}
        }
    }

    /// Orders to end those that run, each again after a while.
    pub(super) fn kills(&mut self, now: Duration, grace: Duration) -> Vec<Call> {
        let mut calls = Vec::new();
        for (task, one) in &mut self.0 {
            if one.killed.is_none_or(|killed| now >= killed + KILL_AGAIN) {
                one.killed = Some(now);
                calls.push(Call::Kill { task: task.clone(), agent: one.agent.clone(), grace });
            }
        }
        calls
    }

    /// A sentence for operators, if there are any.
    pub(super) fn note(&self, policy: OldTasks) -> Option<String> {
        let names: Vec<&str> = self.0.keys().take(NAMES_MAX).map(String::as_str).collect();
        let more = self.0.len() - names.len();
        let (names, more) =
            (names.join("`, `"), if more == 0 { String::new() } else { format!(" and {more} more") });
        let count = match self.0.len() {
            0 => return None,
            1 => "1 task that an old Chronos began runs".to_owned(),
            count => format!("{count} tasks that an old Chronos began run"),
        };
        Some(match policy {
            OldTasks::Keep => format!(
                "{count} to the end beside those of this server: `{names}`{more}; nobody waits for them, and `--mesos_old_tasks kill` ends them"
            ),
            OldTasks::Kill => {
                format!("{count} yet and will be ended, as --mesos_old_tasks says: `{names}`{more}")
            }
        })
    }
}
