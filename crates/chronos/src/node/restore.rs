//! A backup takes the place of what a leader has: at the end of a term, between its last batch and the next term.
//!
//! The driver decides nothing more, waits until all that it has decided is durable, writes down what is there (the way
//! back), and gives the store the staged content as one more batch. The term ends with it; the next one loads anew.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use scheduler::audit::{Act, Author, Entry};
use scheduler::ids::{Epoch, RunKey, Seq, TaskId};
use scheduler::restore::{CarriedOver, carry_over};
use scheduler::run::RunState;
use scheduler::state::{Change, State};
use store::backup::{Extent, Staged};
use store::{Store, StoreError};
use tokio::sync::{mpsc, oneshot};
use tracing::info;

/// Begins with the name of every backup that a restore leaves behind.
const UNDO: &str = "before-restore-";
/// So many of them are kept: the latest mistakes.
const UNDO_KEPT: usize = 3;
/// Pieces on their way to the file.
const PIECES: usize = 8;

/// What a node is asked to put in the place of everything.
pub(crate) struct Restore {
    pub(crate) staged: Staged,
    pub(crate) occupied: Occupied,
    /// Where to write what was there before, if there are jobs; `None` if nobody wants it.
    pub(crate) undo: Option<PathBuf>,
    /// Who asks for it.
    pub(crate) author: Author,
    pub(crate) answer: oneshot::Sender<Result<Restored, RestoreError>>,
}

/// What to do where there are jobs. Decided when nothing more comes: while a backup is sent others may make some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Occupied {
    Refuse,
    Replace,
}

/// What became of it.
#[derive(Clone, Debug)]
pub(crate) struct Restored {
    /// The batch that it was.
    pub(crate) seq: Seq,
    /// How many jobs were there before.
    pub(crate) replaced: usize,
    /// The backup of what was there before.
    pub(crate) undo: Option<PathBuf>,
}

/// Why nothing was restored; nothing has changed, unless it says otherwise.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreError {
    /// This node does not lead.
    #[error("this node does not lead")]
    NotLeading,
    /// The term ended before it was confirmed: it may or may not have been done.
    #[error("the outcome is unknown: leadership ended before the restore was confirmed")]
    OutcomeUnknown,
    /// Another one waits or is under way.
    #[error("another restore is under way")]
    Busy,
    /// There are so many jobs, and nobody said that they are to be replaced.
    #[error("there are {0} jobs here, which the backup would replace")]
    Occupied(usize),
    /// What is there could not be written down.
    #[error("cannot write down what is there before it is replaced")]
    Undo(#[source] anyhow::Error),
    /// The store could not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a restore is done with.
pub(super) struct Place<'a> {
    pub(super) store: &'a dyn Store,
    /// The state after the last batch, which is durable.
    pub(super) present: &'a State,
    pub(super) epoch: Epoch,
    pub(super) seq: Seq,
}

/// Does it, and says which tasks are to be looked after in the next term.
pub(super) async fn restore(
    place: Place<'_>,
    order: (Staged, Occupied, Option<PathBuf>),
    author: Author,
) -> Result<(Restored, Vec<TaskId>), RestoreError> {
    let Place { store, present, epoch, seq } = place;
    let (staged, occupied, undo) = order;
    let replaced = present.jobs.len();
    if replaced > 0 && occupied == Occupied::Refuse {
        return Err(RestoreError::Occupied(replaced));
    }
    let undo = match undo.filter(|_| replaced > 0) {
        Some(folder) => Some(keep(store, &folder).await.map_err(RestoreError::Undo)?),
        None => None,
    };
    let live = present.runs.values().filter(|run| matches!(run.state, RunState::Running(_)));
    let (staged, content) = look(staged, live.map(|run| run.key).collect()).await?;
    let (state, ended) = content;
    let CarriedOver { mut changes, strays } = carry_over(present, &state, |run| ended.contains(&run));
    drop(state);
    let next = Seq(seq.0 + 1);
    let (taken, records) = (staged.header.taken, staged.records);
    // What was done since the backup was taken is not known there; that it was restored is.
    let act = Act::StoreRestored { taken, lines: staged.header.lines };
    changes.push(Change::Note(Arc::new(Entry { at: super::driver::now(), author, job: None, act })));
    store.restore(epoch, next, staged, &changes).await?;
    info!(%taken, records, seq = next.0, strays = strays.len(), "restored a backup");
    Ok((Restored { seq: next, replaced, undo }, strays))
}

/// What was staged: its state, and which of these runs have ended in it.
async fn look(staged: Staged, runs: Vec<RunKey>) -> Result<(Staged, (State, Vec<RunKey>)), StoreError> {
    let work = move || {
        let content = (staged.state()?, staged.ended(&runs)?);
        Ok((staged, content))
    };
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(StoreError::Unavailable(format!("reading stopped: {error}"))))
}

/// Writes a backup into a folder, and removes those that are too many.
async fn keep(store: &dyn Store, folder: &Path) -> anyhow::Result<PathBuf> {
    let path = folder.join(format!("{UNDO}{}.jsonl.gz", Timestamp::now().strftime("%Y%m%dT%H%M%S%.3fZ")));
    let draft = path.with_extension("gz.new");
    let (to, mut from) = mpsc::channel::<Vec<u8>>(PIECES);
    let (written, folder) = (draft.clone(), folder.to_owned());
    let writing = tokio::task::spawn_blocking(move || -> anyhow::Result<()> {
        let mut file = GzEncoder::new(std::fs::File::create(&written)?, Compression::fast());
        while let Some(piece) = from.blocking_recv() {
            file.write_all(&piece)?;
        }
        Ok(file.finish()?.sync_all()?)
    });
    let (read, written) = tokio::join!(store.backup(Extent::Everything, to), writing);
    let done = written.map_err(anyhow::Error::from).and_then(|written| written);
    // Where the disk is full both fail, and the one who wrote knows why.
    if let Err(error) = done.and(read.map_err(Into::into)).and_then(|()| Ok(std::fs::rename(&draft, &path)?))
    {
        let _ = std::fs::remove_file(&draft);
        return Err(error.context(format!("`{}`", path.display())));
    }
    tidy(&folder);
    Ok(path)
}

/// Keeps the newest; their names begin with the time.
fn tidy(folder: &Path) {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.path());
    let ours = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(UNDO));
    let mut found: Vec<PathBuf> = files.filter(ours).collect();
    found.sort();
    let surplus = found.len().saturating_sub(UNDO_KEPT);
    // One that cannot be removed takes room and does no other harm.
    found.iter().take(surplus).for_each(|path| drop(std::fs::remove_file(path)));
}
