//! What is kept of work that may be cut: how far it has come, and what would be lost otherwise.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cli::failure::{Exit, Failure};

const JOURNAL: &str = "journal.json";

/// How far it has come: all up to this is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Step {
    Begun,
    BackedUp,
    Stopped,
    TornDown,
    Removed,
    Started,
    Done,
}

/// A folder for one piece of work.
#[derive(Debug)]
pub(super) struct Kept {
    folder: PathBuf,
    journal: Journal,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Journal {
    work: String,
    step: Step,
    at: String,
}

impl Kept {
    /// Reads what is known of this work; makes nothing.
    pub(super) fn open(folder: &Path, work: &str) -> Result<Self, Failure> {
        let new = Journal { work: work.into(), step: Step::Begun, at: Timestamp::now().to_string() };
        let mut kept = Self { folder: folder.into(), journal: new };
        let Some(known) = kept.read(JOURNAL)? else { return Ok(kept) };
        let known: Journal = serde_json::from_value(known).map_err(|error| {
            Failure::usage(format!("`{}` cannot be read: {error}", kept.path(JOURNAL).display()))
                .hint("name another folder with --keep")
        })?;
        if known.work != work {
            let (folder, other) = (folder.display(), &known.work);
            return Err(Failure::usage(format!("`{folder}` belongs to other work: {other}"))
                .hint("name another folder with --keep"));
        }
        kept.journal = known;
        Ok(kept)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(super) fn step(&self) -> Step {
        self.journal.step
    }

    /// When it got there.
    pub(super) fn at(&self) -> &str {
        &self.journal.at
    }

    /// Whether there is work that was cut.
    pub(super) fn is_under_way(&self) -> bool {
        self.path(JOURNAL).exists() && self.step() != Step::Done
    }

    /// It has come so far; it never goes back but to begin anew.
    pub(super) fn reach(&mut self, step: Step) -> Result<(), Failure> {
        if step < self.journal.step && step != Step::Begun {
            return Ok(());
        }
        let journal = Journal { step, at: Timestamp::now().to_string(), ..self.journal.clone() };
        let value = serde_json::to_value(&journal).map_err(|error| Failure::new(Exit::Failed, error))?;
        self.write(JOURNAL, &value)?;
        self.journal = journal;
        Ok(())
    }

    /// Removes what a backup that was cut has left.
    pub(super) fn sweep(&self, of: &str) {
        let draft = format!("{of}.new-");
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&draft) {
                // Where it cannot be removed it is only in the way of nobody.
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    /// The folder, for its owner alone: a backup may have secrets in it.
    pub(super) fn make(&self) -> Result<(), Failure> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder).map_err(|cause| {
            let shown = format!("cannot make the folder `{}`", self.folder.display());
            Failure::from(cause).context(shown).hint("name another one with --keep; nothing was done")
        })
    }

    /// Whole or not there.
    pub(super) fn write(&self, name: &str, value: &Value) -> Result<(), Failure> {
        self.make()?;
        let (path, draft) = (self.path(name), self.path(&format!(".{name}.new")));
        let written = || -> std::io::Result<()> {
            let mut options = OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
            file.write_all(format!("{value:#}\n").as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&draft, &path)?;
            File::open(&self.folder)?.sync_all()
        };
        written().map_err(|cause| {
            let shown = format!("cannot write `{}`", path.display());
            Failure::from(cause).context(shown).hint("name another folder with --keep")
        })
    }

    pub(super) fn read(&self, name: &str) -> Result<Option<Value>, Failure> {
        let path = self.path(name);
        let shown = || format!("cannot read `{}`", path.display());
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::from(error).context(shown())),
        };
        let value =
            serde_json::from_str(&text).map_err(|error| Failure::new(Exit::Usage, error).context(shown()))?;
        Ok(Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_was_cut_goes_on_where_it_was() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path().join("kept");
        let mut kept = Kept::open(&folder, "purge of a").expect("nothing is there");
        assert!(!kept.is_under_way() && kept.step() == Step::Begun && !folder.exists());
        kept.reach(Step::Stopped).expect("written");
        kept.reach(Step::BackedUp).expect("no step back");
        let kept = Kept::open(&folder, "purge of a").expect("the same work");
        assert!(kept.is_under_way() && kept.step() == Step::Stopped);
        let refused = Kept::open(&folder, "purge of b").expect_err("other work").to_text();
        assert!(refused.contains("belongs to other work: purge of a"), "{refused}");
        std::fs::write(folder.join(JOURNAL), "{\"work\":").expect("written");
        assert!(Kept::open(&folder, "purge of a").is_err(), "what cannot be read is not guessed");
    }
}
