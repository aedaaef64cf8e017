//! Which folders of ended tasks are kept: the young ones, and of the others as many as fit.
//!
//! There may be a million of them, so none is remembered: a first look counts them by age, a second one finds what goes,
//! no faster than it is removed.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use scheduler::ids::TaskId;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::layout::{FAN, fan_folder, task_folder};
use super::{LocalEngine, listed};
use crate::census::{Census, Cut};
use crate::task_folders::bytes_below;
use crate::{EngineError, Forgotten, Keep};

/// Most tasks forgotten by one call: half a minute of work, as much as the two looks at a million folders take. The next
/// call goes on.
const FORGET_MAX: u64 = 100_000;
/// Found and not yet forgotten: enough that nobody waits for the disk twice.
const FOUND_MAX: usize = 64;

/// A task that goes.
struct Old {
    task: TaskId,
    bytes: u64,
}

/// Where to look, and what to leave alone there: the tasks that run, as many as there can be at once.
struct Folders {
    dir: PathBuf,
    running: HashSet<TaskId>,
}

/// Removes what goes beyond `keep`, the oldest first. Who runs or is not acknowledged is left alone by the supervisor.
pub(super) async fn forget_old(engine: &LocalEngine, keep: Keep) -> Result<Forgotten, EngineError> {
    let running = engine.running_tasks().await?.into_iter().collect();
    let folders = Folders { dir: engine.options.dir.clone(), running };
    forget_up_to(FORGET_MAX, folders, keep, |task| async move { engine.forget(&task).await }).await
}

async fn forget_up_to<F: Future<Output = Result<(), EngineError>>>(
    most: u64,
    folders: Folders,
    keep: Keep,
    forget: impl Fn(TaskId) -> F,
) -> Result<Forgotten, EngineError> {
    let folders = Arc::new(folders);
    let mut census = Census::new(keep);
    for part in 0..FAN {
        let folders = folders.clone();
        let counted = spawn_blocking(move || {
            folders.count(part, &mut census);
            census
        });
        census = counted.await.map_err(|error| EngineError::Unknown(error.to_string()))?;
    }
    let mut forgotten = Forgotten::default();
    let Some(cut) = census.cut() else { return Ok(forgotten) };
    let (found, mut finds) = mpsc::channel(FOUND_MAX);
    spawn_blocking(move || folders.find(cut, &found));
    while let Some(Old { task, bytes }) = finds.recv().await {
        if forgotten.tasks >= most {
            forgotten.more = true;
            break;
        }
        match forget(task).await {
            Ok(()) => {
                forgotten.tasks += 1;
                forgotten.bytes += bytes;
            }
            // It runs, or its end is not acknowledged; or it has gone meanwhile.
            Err(EngineError::Refused(_) | EngineError::NoSuchTask(_)) => {}
            Err(problem) => return Err(problem),
        }
    }
    Ok(forgotten)
}

impl Folders {
    fn count(&self, part: u32, census: &mut Census) {
        for (task, age) in tasks(&self.dir, part) {
            let bytes = bytes_below(task_folder(&self.dir, &task));
            if self.running.contains(&task) {
                census.count_fixed(bytes);
            } else {
                census.count(age, bytes);
            }
        }
    }

    /// Finds what goes, until nobody wants to know more.
    fn find(&self, mut cut: Cut, found: &mpsc::Sender<Old>) {
        for (task, age) in (0..FAN).flat_map(|part| tasks(&self.dir, part)) {
            if !cut.takes(age) || self.running.contains(&task) {
                continue;
            }
            let bytes = bytes_below(task_folder(&self.dir, &task));
            cut.take(age, bytes);
            if found.blocking_send(Old { task, bytes }).is_err() {
                return;
            }
        }
    }
}

/// The tasks that have a folder in this part, and for how long it has not changed.
fn tasks(dir: &Path, part: u32) -> impl Iterator<Item = (TaskId, Duration)> {
    let now = SystemTime::now();
    let entries = fs::read_dir(fan_folder(dir, part)).into_iter().flatten().flatten();
    entries.filter_map(move |entry| {
        let listed = listed(&entry)?;
        Some((listed.task, now.duration_since(listed.changed).unwrap_or_default()))
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs::File;

    use super::*;

    fn task(name: &str) -> TaskId {
        TaskId::parse(&format!("{name}-0")).expect("valid")
    }

    /// The folder of a task that has not changed for so many hours; what it takes.
    fn put(dir: &Path, name: &str, hours: u64) -> u64 {
        let folder = task_folder(dir, &task(name));
        fs::create_dir_all(&folder).expect("made");
        fs::write(folder.join("stdout"), [b'x'; 4096]).expect("written");
        let changed = SystemTime::now() - Duration::from_secs(hours * 3600);
        File::open(&folder).expect("there").set_modified(changed).expect("made older");
        bytes_below(folder)
    }

    struct Removed {
        forgotten: Forgotten,
        left: Vec<&'static str>,
    }

    /// Forgets, up to `most` at once, what goes of these tasks, of which `running` runs. `keep` counts tasks for bytes.
    async fn forget(tasks: &[(&'static str, u64)], running: &str, keep: Keep, most: u64) -> Removed {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path();
        let each = tasks.iter().map(|(name, hours)| put(dir, name, *hours)).max().expect("some");
        let keep = Keep { bytes_max: keep.bytes_max.saturating_mul(each), ..keep };
        let running = TaskId::parse(&format!("{running}-0")).into_iter().collect();
        let folders = Folders { dir: dir.to_owned(), running };
        let asked = Cell::new(0);
        let remove = |id: TaskId| {
            asked.set(asked.get() + 1);
            let removed = fs::remove_dir_all(task_folder(dir, &id));
            async move { removed.map_err(|_| EngineError::NoSuchTask(id)) }
        };
        let forgotten = forget_up_to(most, folders, keep, remove).await.expect("done");
        assert_eq!(asked.get(), forgotten.tasks, "nobody is asked for more than may go");
        assert_eq!(forgotten.bytes, forgotten.tasks * each);
        let there = |name: &&str| task_folder(dir, &task(name)).exists();
        Removed { forgotten, left: tasks.iter().map(|(name, _)| *name).filter(there).collect() }
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn the_oldest_go_until_the_rest_fits() {
        let all = [("a", 5), ("b", 1), ("c", 9), ("d", 3), ("e", 7)];
        let keep = Keep { age_min: HOUR * 2, age_max: HOUR * 100, bytes_max: 3 };
        let Removed { forgotten, left } = forget(&all, "", keep, 10).await;
        assert_eq!(left, ["a", "b", "d"]);
        assert_eq!((forgotten.tasks, forgotten.more), (2, false));
        let keep = Keep { bytes_max: 0, ..keep };
        assert_eq!(forget(&all, "", keep, 10).await.left, ["b"], "it is too young");
        let keep = Keep { age_max: HOUR * 4, bytes_max: u64::MAX, ..keep };
        assert_eq!(forget(&all, "", keep, 10).await.left, ["b", "d"]);
    }

    /// Others make room for what a task takes that runs for days.
    #[tokio::test]
    async fn what_runs_counts_and_stays() {
        let all = [("a", 5), ("b", 1), ("c", 9), ("d", 3)];
        let keep = Keep { age_min: HOUR / 2, age_max: HOUR * 2, bytes_max: 2 };
        assert_eq!(forget(&all, "c", Keep { age_max: HOUR * 100, ..keep }, 10).await.left, ["b", "c"]);
        assert_eq!(forget(&all, "c", keep, 10).await.left, ["b", "c"], "neither too old nor too large");
    }

    #[tokio::test]
    async fn who_reaches_the_bound_says_that_there_is_more() {
        let all = [("a", 5), ("b", 1), ("c", 9), ("d", 3)];
        let keep = Keep { age_min: HOUR / 2, age_max: HOUR * 2, bytes_max: u64::MAX };
        let Removed { forgotten, left } = forget(&all, "", keep, 2).await;
        assert_eq!((forgotten.tasks, forgotten.more, left.len()), (2, true, 2));
        let Removed { forgotten, left } = forget(&all, "", keep, 3).await;
        assert_eq!((forgotten.tasks, forgotten.more, left), (3, false, vec!["b"]));
    }
}
