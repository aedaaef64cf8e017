//! Which store a node has worked on, so that it does not take an empty one for it.
//!
//! A wrong path, a lost volume or a database that was made anew look like a store without jobs. A leader that took it for
//! the truth would run nothing and say that all is well.

use std::io;
use std::path::PathBuf;

/// What a node knows of its store from before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acquaintance {
    /// Where it is kept; `None` where it is not, as the store is in the same folder.
    pub file: Option<PathBuf>,
    /// The id of the only store that the operator wants.
    pub expected: Option<String>,
}

impl Acquaintance {
    /// Whether this node may lead on the store with this id, which has jobs or has none.
    /// # Errors
    /// Why not, and what to do.
    pub(super) fn admits(&self, id: &str, has_jobs: bool) -> Result<(), String> {
        match &self.expected {
            Some(expected) if expected == id => return Ok(()),
            Some(expected) => {
                return Err(format!(
                    "this is the store {id}, and --expect_store wants {expected}: see that the address and the path of the \
                     store are right"
                ));
            }
            None => {}
        }
        let Some(file) = &self.file else { return Ok(()) };
        let known = match std::fs::read_to_string(file) {
            Ok(known) => known.trim().to_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(format!("cannot read `{}`: {error}", file.display())),
        };
        if known == id || has_jobs {
            return Ok(());
        }
        Err(format!(
            "this store is empty and has the id {id}, and this node has worked on store {known}, which had jobs: see that the \
             address and the path of the store are right; if it is meant to be empty, start with --expect_store {id} and \
             restore a backup"
        ))
    }

    /// What is strange about working on the store with this id from here, though the node may: who has taken the folder of
    /// another cluster, or the address of its store, is to hear of it.
    pub(super) fn strange(&self, id: &str) -> Option<String> {
        let file = self.file.as_ref().filter(|_| self.expected.is_none())?;
        let known = std::fs::read_to_string(file).ok()?;
        let known = known.trim();
        (known != id).then(|| {
            let folder = file.parent().unwrap_or(file).display();
            format!(
                "the data folder `{folder}` has been used with store {known}, and this is store {id}: see that neither the \
                 folder nor the address of the store is that of another cluster; --expect_store {id} says that all is as \
                 it should be"
            )
        })
    }

    /// Remembers a store that has jobs.
    pub(super) fn remember(&self, id: &str) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        if std::fs::read_to_string(file).is_ok_and(|known| known.trim() == id) {
            return Ok(());
        }
        let draft = file.with_extension("new");
        std::fs::write(&draft, format!("{id}\n"))?;
        std::fs::rename(draft, file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_store_is_not_taken_for_the_one_that_had_jobs() {
        let folder = tempfile::tempdir().expect("a folder");
        let known = Acquaintance { file: Some(folder.path().join("store")), expected: None };
        assert_eq!(known.admits("a", false), Ok(()), "it has known none");
        known.remember("a").expect("it is written");
        assert_eq!(known.admits("a", false), Ok(()), "all its jobs were deleted");
        assert_eq!(known.admits("b", true), Ok(()), "a restored one");
        assert_eq!(known.strange("a"), None);
        let told = known.strange("b").expect("it says so all the same");
        assert!(told.contains("with store a, and this is store b"), "{told}");
        let refused = known.admits("b", false).expect_err("another, and empty");
        assert!(refused.contains("worked on store a") && refused.contains("--expect_store b"), "{refused}");
        let told = Acquaintance { expected: Some("b".into()), ..known.clone() };
        assert_eq!(told.admits("b", false), Ok(()), "the operator says so");
        assert_eq!(told.strange("b"), None);
        let refused = told.admits("a", true).expect_err("not the one that was meant");
        assert!(refused.contains("--expect_store wants b"), "{refused}");
        known.remember("b").expect("it is written");
        assert_eq!(known.admits("b", false), Ok(()));
    }
}
