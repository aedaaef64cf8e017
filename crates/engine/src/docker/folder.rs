//! What must not be forgotten, in the data folder.
//!
//! ```text
//! lock             held for the moment in which the epoch is raised
//! id               by which our containers are known: a label of each
//! epoch            the highest that has spoken
//! open/<id>        one empty file for each task whose end is not acknowledged
//! tasks/<xx>/<id>/ one task:
//!   begun-<id>     that container of it may have been started; durable before Docker is asked to
//!   killed         somebody wanted it dead; durable before it hears of that
//!   end            how it ended, as JSON; durable before anyone is told
//!   removed        its container is gone, by us
//!   stdout, stderr, kept   its output, and how far it was taken; see `output.rs`
//! ```
//!
//! Each fact is a file of its own, so that none is lost by writing another, and two servers cannot undo each other's.
//! What these files do not say, the container does: see `life.rs`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use scheduler::ids::{Epoch, TaskId};

use crate::EngineError;
use crate::end::End;
use crate::task_folders::{FAN, TASKS, fan_folder, task_folder};

/// Begins the names of files that name a container.
const BEGUN: &str = "begun-";

/// The folder.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    root: PathBuf,
    id: String,
}

/// What somebody has noted of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fact {
    Killed,
    Removed,
}

impl Fact {
    fn file(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::Removed => "removed",
        }
    }
}

impl Folder {
    /// Opens the folder, and makes what is not there.
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root.join("open"))?;
        // All at once: the entry of one that is made later would have to be synced with the first task in it.
        for fan in 0..FAN {
            fs::create_dir_all(fan_folder(root, fan))?;
        }
        sync(&root.join(TASKS))?;
        let path = root.join("id");
        let known = match fs::read_to_string(&path) {
            Ok(text) => Some(text.trim().to_owned()).filter(|id| !id.is_empty()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let id = match known {
            Some(id) => id,
            None => new_id(root)?,
        };
        Ok(Self { root: root.to_owned(), id })
    }

    /// By which our containers are known.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The highest epoch that has spoken.
    fn epoch(&self) -> io::Result<Epoch> {
        match fs::read_to_string(self.root.join("epoch")) {
            Ok(text) => text.trim().parse().map(Epoch).map_err(|_| {
                io::Error::other(format!("`{}` does not hold a number", self.root.join("epoch").display()))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Epoch(0)),
            Err(error) => Err(error),
        }
    }

    /// From here on, lower ones are refused.
    /// # Errors
    /// [`EngineError::Deposed`] if a higher one was here; [`EngineError::Unknown`] if that cannot be told or kept.
    pub(super) fn raise(&self, ours: Epoch) -> Result<(), EngineError> {
        let _lock = lock(&self.root).map_err(|error| self.trouble(&error))?;
        let newest = self.epoch().map_err(|error| self.trouble(&error))?;
        match newest.cmp(&ours) {
            std::cmp::Ordering::Greater => Err(EngineError::Deposed { ours, newest }),
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Less => {
                replace(&self.root, "epoch", &ours.0.to_string()).map_err(|error| self.trouble(&error))
            }
        }
    }

    /// Whether an order of this epoch is to be followed.
    /// # Errors
    /// [`EngineError::Deposed`], [`EngineError::Refused`] if its term has not begun here, [`EngineError::Unknown`].
    pub(super) fn check(&self, ours: Epoch) -> Result<(), EngineError> {
        let newest = self.epoch().map_err(|error| self.trouble(&error))?;
        match newest.cmp(&ours) {
            std::cmp::Ordering::Greater => Err(EngineError::Deposed { ours, newest }),
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Less => Err(EngineError::Refused("the term has not begun here".into())),
        }
    }

    /// The folder of a task.
    pub(super) fn task(&self, task: &TaskId) -> PathBuf {
        task_folder(&self.root, task)
    }

    /// All tasks of which something is known.
    pub(super) fn tasks(&self) -> impl Iterator<Item = TaskId> {
        (0..FAN).flat_map(|fan| names(&fan_folder(&self.root, fan)))
    }

    /// The tasks whose end is not acknowledged.
    pub(super) fn open_tasks(&self) -> Vec<TaskId> {
        names(&self.root.join("open"))
    }

    /// Whether anything is known of the task.
    pub(super) fn has(&self, task: &TaskId) -> bool {
        self.task(task).exists()
    }

    pub(super) fn is_open(&self, task: &TaskId) -> bool {
        self.open_file(task).exists()
    }

    /// This container of the task may be about to start, so its end will have to be told.
    pub(super) fn begin(&self, task: &TaskId, container: &str) -> io::Result<()> {
        File::create(self.open_file(task))?.sync_all()?;
        sync(&self.root.join("open"))?;
        self.mark(task, &begun(container))
    }

    /// This container has not started and never will.
    pub(super) fn unbegin(&self, task: &TaskId, container: &str) -> io::Result<()> {
        absent(fs::remove_file(self.task(task).join(begun(container))))
    }

    /// The containers of the task that may have been started: one, but for crashes.
    pub(super) fn begun(&self, task: &TaskId) -> Vec<String> {
        let entries = fs::read_dir(self.task(task)).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| Some(entry.file_name().to_str()?.strip_prefix(BEGUN)?.to_owned()))
            .collect()
    }

    /// It has not begun, and nothing of it is to be told.
    pub(super) fn withdraw(&self, task: &TaskId) -> io::Result<()> {
        absent(fs::remove_file(self.open_file(task)))?;
        absent(fs::remove_dir_all(self.task(task)))
    }

    pub(super) fn note(&self, task: &TaskId, fact: Fact) -> io::Result<()> {
        self.mark(task, fact.file())
    }

    fn mark(&self, task: &TaskId, name: &str) -> io::Result<()> {
        let folder = self.task(task);
        fs::create_dir_all(&folder)?;
        File::create(folder.join(name))?.sync_all()?;
        sync(&folder)?;
        sync_parent(&folder)
    }

    pub(super) fn is(&self, task: &TaskId, fact: Fact) -> bool {
        self.task(task).join(fact.file()).exists()
    }

    /// How it ended, where that is known. What cannot be read is not known, so its container is asked again.
    pub(super) fn end(&self, task: &TaskId) -> Option<End> {
        serde_json::from_slice(&fs::read(self.task(task).join("end")).ok()?).ok()
    }

    /// Keeps how it ended, and that it must be told.
    pub(super) fn put_end(&self, task: &TaskId, end: &End) -> io::Result<()> {
        File::create(self.open_file(task))?.sync_all()?;
        sync(&self.root.join("open"))?;
        let folder = self.task(task);
        fs::create_dir_all(&folder)?;
        replace(&folder, "end", &serde_json::to_string(end)?)?;
        sync_parent(&folder)
    }

    /// When it ended, as far as the file system knows.
    pub(super) fn ended_for(&self, task: &TaskId) -> Option<Duration> {
        let changed = fs::metadata(self.task(task).join("end")).ok()?.modified().ok()?;
        SystemTime::now().duration_since(changed).ok()
    }

    /// Its end is known elsewhere. Not synced: it would be told again, which does no harm.
    pub(super) fn acknowledge(&self, task: &TaskId) -> io::Result<()> {
        if self.end(task).is_none() {
            return Ok(());
        }
        absent(fs::remove_file(self.open_file(task)))
    }

    /// Removes all that is known of it.
    pub(super) fn forget(&self, task: &TaskId) -> io::Result<()> {
        absent(fs::remove_dir_all(self.task(task)))
    }

    fn open_file(&self, task: &TaskId) -> PathBuf {
        self.root.join("open").join(task.as_str())
    }

    fn trouble(&self, error: &io::Error) -> EngineError {
        EngineError::Unknown(format!("`{}`: {error}", self.root.display()))
    }
}

/// Of two who open a new folder at once, the second takes the id of the first.
fn new_id(root: &Path) -> io::Result<String> {
    let _lock = lock(root)?;
    if let Ok(text) = fs::read_to_string(root.join("id"))
        && !text.trim().is_empty()
    {
        return Ok(text.trim().to_owned());
    }
    let id = fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().replace('-', "");
    replace(root, "id", &id)?;
    Ok(id)
}

fn begun(container: &str) -> String {
    format!("{BEGUN}{container}")
}

fn names(folder: &Path) -> Vec<TaskId> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| TaskId::parse(entry.file_name().to_str()?)).collect()
}

fn lock(root: &Path) -> io::Result<File> {
    let file = File::options().create(true).truncate(false).write(true).open(root.join("lock"))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)?;
    Ok(file)
}

/// Writes a whole file or leaves the one that is there.
fn replace(folder: &Path, name: &str, text: &str) -> io::Result<()> {
    let draft = folder.join(format!("{name}.new"));
    let mut file = File::create(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, folder.join(name))?;
    sync(folder)
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Makes the entry of a folder itself durable.
fn sync_parent(folder: &Path) -> io::Result<()> {
    folder.parent().map_or(Ok(()), sync)
}

fn absent(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All later versions must find what this one wrote.
    #[test]
    fn files_stay_where_they_are() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = Folder::open(root.path()).expect("opened");
        let task = TaskId::parse("report-1-c0-0").expect("valid");
        assert_eq!(folder.task(&task), root.path().join("tasks/7b/report-1-c0-0"));
        folder.begin(&task, "c1").expect("noted");
        assert_eq!(folder.begun(&task), ["c1"]);
        assert!(folder.task(&task).join("begun-c1").exists());
        let end = End::Failed { exit: Some(3), signal: None, message: "exit status 3".into() };
        folder.put_end(&task, &end).expect("kept");
        let text = fs::read_to_string(folder.task(&task).join("end")).expect("read");
        assert_eq!(text, r#"{"failed":{"exit":3,"signal":null,"message":"exit status 3"}}"#);
        assert_eq!((folder.end(&task), folder.open_tasks()), (Some(end), vec![task.clone()]));
        folder.acknowledge(&task).expect("acknowledged");
        assert_eq!(folder.open_tasks(), []);
        assert_eq!(Folder::open(root.path()).expect("opened again").id(), folder.id());
    }

    #[test]
    fn the_highest_epoch_stays() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = Folder::open(root.path()).expect("opened");
        assert_eq!(folder.raise(Epoch(7)), Ok(()));
        let folder = Folder::open(root.path()).expect("opened again");
        let deposed = EngineError::Deposed { ours: Epoch(6), newest: Epoch(7) };
        assert_eq!((folder.raise(Epoch(6)), folder.check(Epoch(6))), (Err(deposed.clone()), Err(deposed)));
        assert_eq!((folder.raise(Epoch(7)), folder.check(Epoch(7))), (Ok(()), Ok(())));
        assert!(matches!(folder.check(Epoch(8)), Err(EngineError::Refused(_))));
        fs::write(root.path().join("epoch"), "seven").expect("damaged");
        assert!(
            matches!(folder.raise(Epoch(9)), Err(EngineError::Unknown(_))),
            "nobody knows which was here"
        );
    }
}
