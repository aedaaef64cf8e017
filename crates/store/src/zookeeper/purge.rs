//! The end of a tree: what is there is looked at without making anything, and removed while nobody takes part.
//!
//! A mark says that it is being removed, made in one step with the end of the latch's directory, which fails where anybody
//! is in it. The mark goes last, with the root: what is cut in between goes on from there.

use std::sync::Arc;

use tokio::time::timeout;
use zookeeper_client::{Client, Error, MultiWriteError};

use super::Options;
use super::ledger::names_of;
use super::old;
use super::reader::Reader;
use super::session::{Sessions, all, children, data, is_doubt, patiently};
use super::tree::{Kind, Paths};
use crate::{StoreError, format};

/// How long an ensemble may take to answer a question.
const ANSWER: std::time::Duration = std::time::Duration::from_secs(60);
/// How often it is begun anew where nodes came meanwhile, or answers were lost.
const PASSES_MAX: usize = 8;
/// What may be below the path of Chronos, old or ours.
const OURS: [&str; 4] = ["candidate", "state", "store", MARK];
const MARK: &str = "purging";

/// What is below the path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remains {
    /// Whether there is such a node at all.
    pub there: bool,
    /// Whether a store is there that can be read, and backed up.
    pub whole: bool,
    /// The framework for which it is being removed already.
    pub purging: Option<String>,
    /// How many jobs a whole store has.
    pub jobs: usize,
    /// Under which id the engine is known, as the store has it.
    pub note: Option<String>,
    /// The framework id that an old Chronos has left.
    pub old_framework: Option<String>,
    /// What no Chronos has made, by path: the path may be another program's.
    pub strange: Vec<String>,
}

/// Why it was not removed, or not whole. Doing it again goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// Somebody takes part.
    #[error("still in the latch: {}", .0.join(", "))]
    Occupied(Vec<String>),
    /// It is another program's.
    #[error("there is what no Chronos has made: {}", .0.join(", "))]
    Strange(Vec<String>),
    /// ZooKeeper.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A tree that may be removed.
pub struct Tree {
    sessions: Arc<Sessions>,
    paths: Paths,
}

impl Tree {
    /// Connects to nothing yet.
    /// # Errors
    /// [`StoreError::Unavailable`] where the options cannot be meant so, naming the flag.
    pub fn new(options: Options) -> Result<Self, StoreError> {
        let options = options.checked()?;
        let paths = Paths::new(&options.path);
        Ok(Self { sessions: Arc::new(Sessions::new(options)), paths })
    }

    /// The path, as it was meant.
    pub fn path(&self) -> &str {
        &self.sessions.options.path
    }

    fn mark(&self) -> String {
        format!("{}/{MARK}", self.path())
    }

    fn meaning(&self, error: Error) -> StoreError {
        self.sessions.meaning(&error)
    }

    async fn client(&self) -> Result<Client, StoreError> {
        let silent = |_| StoreError::Unavailable(format!("no answer within {} s", ANSWER.as_secs()));
        timeout(ANSWER, self.sessions.looking()).await.map_err(silent)?
    }

    /// What is there. Makes nothing.
    /// # Errors
    /// [`StoreError::Unavailable`]; [`StoreError::Damaged`], [`StoreError::Newer`] of a store.
    pub async fn look(&self) -> Result<Remains, StoreError> {
        let client = self.client().await?;
        let meaning = |error| self.meaning(error);
        let path = self.path();
        if data(&client, path).await.map_err(meaning)?.is_none() {
            return Ok(Remains::default());
        }
        let mut remains =
            Remains { there: true, strange: self.strange(&client).await?, ..Remains::default() };
        if let Some((whose, _)) = data(&client, &self.mark()).await.map_err(meaning)? {
            remains.purging = Some(String::from_utf8_lossy(&whose).into_owned());
            return Ok(remains);
        }
        remains.old_framework = old::Place::seen_by(&self.sessions).read().await?.framework_id;
        if data(&client, &self.paths.about()).await.map_err(meaning)?.is_none() {
            return Ok(remains);
        }
        let reader = Reader { sessions: &self.sessions, paths: &self.paths, client: &client };
        let tree = self.paths.tree(reader.term().await?.0.generation);
        if let Some((meta, _)) = data(&client, &tree.meta()).await.map_err(meaning)? {
            let meta = format::read_meta(&meta).map_err(|error| StoreError::Damaged(error.to_string()))?;
            remains.note = meta.engine_note.as_deref().map(Into::into);
        }
        remains.jobs = names_of(&client, &tree, Kind::Jobs).await.map_err(meaning)?.len();
        remains.whole = true;
        Ok(remains)
    }

    /// Who takes part, by address: whatever is in the latch's directory.
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn candidates(&self) -> Result<Vec<String>, StoreError> {
        let client = self.client().await?;
        let dir = self.paths.candidates();
        // What this server has not heard of yet may be there.
        match patiently(&client, || client.sync(&dir)).await {
            Ok(()) | Err(Error::NoNode) => {}
            Err(error) => return Err(self.meaning(error)),
        }
        let mut names = children(&client, &dir).await.map_err(|error| self.meaning(error))?;
        names.sort();
        let mut found = Vec::with_capacity(names.len());
        for name in names {
            let path = format!("{dir}/{name}");
            if let Some((address, _)) = data(&client, &path).await.map_err(|error| self.meaning(error))? {
                let address = String::from_utf8_lossy(&address).into_owned();
                found.push(if address.is_empty() { name } else { address });
            }
        }
        Ok(found)
    }

    /// Nodes that no Chronos has made.
    async fn strange(&self, client: &Client) -> Result<Vec<String>, StoreError> {
        let path = self.path();
        let top = children(client, path).await.map_err(|error| self.meaning(error))?;
        let state = format!("{path}/state");
        let old = children(client, &state).await.map_err(|error| self.meaning(error))?;
        let top = top.iter().filter(|name| !OURS.contains(&name.as_str()));
        let old = old.iter().filter(|name| !old::is_name(name));
        let mut strange: Vec<_> = top.map(|name| format!("{path}/{name}")).collect();
        strange.extend(old.map(|name| format!("{state}/{name}")));
        strange.sort();
        Ok(strange)
    }

    /// Removes all of it, the path too, and nothing above. `told` hears how many nodes are gone.
    /// # Errors
    /// [`RemoveError`]; what is gone by then stays gone, and doing it again goes on.
    pub async fn remove(&self, framework: &str, mut told: impl FnMut(u64)) -> Result<u64, RemoveError> {
        let client = self.client().await?;
        let strange = self.strange(&client).await?;
        if !strange.is_empty() {
            return Err(RemoveError::Strange(strange));
        }
        let mut gone = 0;
        for _ in 0..PASSES_MAX {
            if data(&client, self.path()).await.map_err(|error| self.meaning(error))?.is_none() {
                return Ok(gone);
            }
            self.close(&client, framework).await?;
            let candidates = self.candidates().await?;
            if !candidates.is_empty() {
                return Err(RemoveError::Occupied(candidates));
            }
            let mark = self.mark();
            let below = self.below(&client).await?;
            let below: Vec<_> = below.into_iter().filter(|path| *path != mark).collect();
            for some in below.chunks(1000) {
                let removed =
                    all(some, async |path| match patiently(&client, || client.delete(path, None)).await {
                        // What came meanwhile is met by the next pass.
                        Ok(()) | Err(Error::NoNode | Error::NotEmpty) => Ok(()),
                        Err(error) => Err(error),
                    });
                removed.await.map_err(|error| self.meaning(error))?;
                gone += some.len() as u64;
                told(gone);
            }
            match self.finish(&client, &mark).await? {
                true => return Ok(gone + 1),
                false => continue,
            }
        }
        Err(StoreError::Unavailable(format!("nodes come below `{}` while it is being removed", self.path()))
            .into())
    }

    /// Marks the tree as being removed; from here on nobody is in the latch who was before.
    async fn close(&self, client: &Client, framework: &str) -> Result<(), RemoveError> {
        for _ in 0..PASSES_MAX {
            let meaning = |error| self.meaning(error);
            if data(client, &self.mark()).await.map_err(meaning)?.is_some() {
                return Ok(());
            }
            let dir = self.paths.candidates();
            let latch = data(client, &dir).await.map_err(meaning)?.is_some();
            let done = async {
                let mut multi = client.new_multi_writer();
                if latch {
                    multi.add_delete(&dir, None)?;
                }
                multi.add_create(&self.mark(), framework.as_bytes(), &self.sessions.persistent())?;
                multi.commit().await.map(drop)
            };
            match done.await {
                Ok(()) => return Ok(()),
                Err(MultiWriteError::OperationFailed { source: Error::NotEmpty, .. }) => {
                    return Err(RemoveError::Occupied(self.candidates().await?));
                }
                // Somebody does the same, or our own answer was lost.
                Err(MultiWriteError::OperationFailed {
                    source: Error::NoNode | Error::NodeExists, ..
                }) => {}
                Err(error) => {
                    let source = Error::from(error);
                    if !is_doubt(&source) || client.state().is_terminated() {
                        return Err(meaning(source).into());
                    }
                }
            }
        }
        Err(StoreError::Unavailable(format!("`{}` changes while it is looked at", self.path())).into())
    }

    /// All nodes below the path, children before their parents: requests of a session are answered in their order.
    async fn below(&self, client: &Client) -> Result<Vec<String>, StoreError> {
        let mut found = Vec::new();
        let mut level = vec![self.path().to_owned()];
        while !level.is_empty() {
            let lists = all(&level, async |path| {
                let names = children(client, path).await?;
                Ok(names.into_iter().map(|name| format!("{path}/{name}")).collect::<Vec<_>>())
            });
            level = lists.await.map_err(|error| self.meaning(error))?.into_iter().flatten().collect();
            found.extend_from_slice(&level);
        }
        found.reverse();
        Ok(found)
    }

    /// Removes the mark and the path; not where something has come below it.
    async fn finish(&self, client: &Client, mark: &str) -> Result<bool, StoreError> {
        let done = async {
            let mut multi = client.new_multi_writer();
            multi.add_delete(mark, None)?;
            multi.add_delete(self.path(), None)?;
            multi.commit().await.map(drop)
        };
        match done.await {
            Ok(()) => Ok(true),
            Err(MultiWriteError::OperationFailed { source: Error::NotEmpty | Error::NoNode, .. }) => {
                Ok(false)
            }
            Err(error) => {
                let source = Error::from(error);
                if !is_doubt(&source) || client.state().is_terminated() {
                    return Err(self.meaning(source));
                }
                Ok(false)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_has_a_path_below_the_root() {
        let tree = |path: &str| {
            Tree::new(Options { path: path.into(), ..Options::new("a:2181") })
                .map(|tree| tree.path().to_owned())
        };
        assert_eq!(tree("/chronos/state/").ok(), Some("/chronos/state".into()));
        for path in ["", "/", "//", "chronos", "/a/../b"] {
            assert!(tree(path).is_err(), "{path}");
        }
    }
}
