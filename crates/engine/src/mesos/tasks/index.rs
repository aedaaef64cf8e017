//! The tasks by name, and by when each is to be looked at: whoever changes one changes that too.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use scheduler::ids::TaskId;

use super::Task;

/// See the module. However many there are, those that are due are found at once.
#[derive(Default)]
pub(super) struct Tasks {
    by_name: BTreeMap<TaskId, Task>,
    by_time: BTreeSet<(Duration, TaskId)>,
}

/// A task that may be changed.
pub(super) struct Changing<'a> {
    id: &'a TaskId,
    task: &'a mut Task,
    /// When it was due before.
    due: Option<Duration>,
    by_time: &'a mut BTreeSet<(Duration, TaskId)>,
}

impl Deref for Changing<'_> {
    type Target = Task;

    fn deref(&self) -> &Task {
        self.task
    }
}

impl DerefMut for Changing<'_> {
    fn deref_mut(&mut self) -> &mut Task {
        self.task
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        note(self.by_time, self.id, self.due, self.task.due());
    }
}

fn note(
    by_time: &mut BTreeSet<(Duration, TaskId)>,
    id: &TaskId,
    before: Option<Duration>,
    due: Option<Duration>,
) {
    if before == due {
        return;
    }
    if let Some(before) = before {
        by_time.remove(&(before, id.clone()));
    }
    if let Some(due) = due {
        by_time.insert((due, id.clone()));
    }
}

impl Tasks {
    pub(super) fn get(&self, id: &TaskId) -> Option<&Task> {
        self.by_name.get(id)
    }

    pub(super) fn contains(&self, id: &TaskId) -> bool {
        self.by_name.contains_key(id)
    }

    /// In the order of their names.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&TaskId, &Task)> {
        self.by_name.iter()
    }

    pub(super) fn get_mut<'a>(&'a mut self, id: &'a TaskId) -> Option<Changing<'a>> {
        let task = self.by_name.get_mut(id)?;
        let due = task.due();
        Some(Changing { id, task, due, by_time: &mut self.by_time })
    }

    /// One of which nothing is known yet, if there is none of that name.
    pub(super) fn get_or_new<'a>(&'a mut self, id: &'a TaskId) -> Changing<'a> {
        let task = self.by_name.entry(id.clone()).or_insert_with(|| Task::new(0, 0, None));
        let due = task.due();
        Changing { id, task, due, by_time: &mut self.by_time }
    }

    pub(super) fn change_each(&mut self, mut change: impl FnMut(&TaskId, &mut Task)) {
        for (id, task) in &mut self.by_name {
            let before = task.due();
            change(id, task);
            note(&mut self.by_time, id, before, task.due());
        }
    }

    pub(super) fn insert(&mut self, id: TaskId, task: Task) {
        self.remove(&id);
        note(&mut self.by_time, &id, None, task.due());
        self.by_name.insert(id, task);
    }

    pub(super) fn remove(&mut self, id: &TaskId) -> Option<Task> {
        let task = self.by_name.remove(id)?;
        note(&mut self.by_time, id, task.due(), None);
        Some(task)
    }

    pub(super) fn retain(&mut self, mut stays: impl FnMut(&Task) -> bool) {
        let by_time = &mut self.by_time;
        self.by_name.retain(|id, task| {
            let stays = stays(task);
            if !stays {
                note(by_time, id, task.due(), None);
            }
            stays
        });
    }

    /// Those that are due by now, the longest first.
    pub(super) fn due(&self, now: Duration) -> Vec<TaskId> {
        self.by_time.iter().take_while(|(at, _)| *at <= now).map(|(_, id)| id.clone()).collect()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether each is known to be due when it says so, and no other.
    #[cfg(test)]
    pub(super) fn is_whole(&self) -> bool {
        let due = self.by_name.iter().filter_map(|(id, task)| Some((task.due()?, id.clone())));
        due.collect::<BTreeSet<_>>() == self.by_time
    }
}
