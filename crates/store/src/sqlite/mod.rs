//! One machine: a SQLite file in the data folder, and a lock beside it.
//!
//! Several servers may open the same folder; one leads, the others follow through the file. Writing is done by one
//! thread (`writer.rs`), reading by a few connections that cannot write.

mod audit;
mod backup;
mod checkpoints;
mod disk;
mod history;
mod inspect;
mod lock;
mod mounts;
mod open;
mod revisions;
mod rows;
mod writer;

pub(crate) use self::backup::StagedFile;
pub use self::inspect::{Inspection, inspect};

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::Connection;
use scheduler::ids::{Epoch, JobUid, RunKey, Seq};
use scheduler::revision::Revision;
use scheduler::run::Record;
use scheduler::state::{Change, State};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use self::checkpoints::Checkpoints;
use self::history::ReadError;
use self::lock::LeaderLock;
use self::open::{Place, Schema};
use self::writer::{Command, Commit, Inbox, Restore, Surplus};
use crate::backup::{Content, Extent, StageError, Staged};
use crate::rows::Batch;
use crate::{
    Applied, AuditPage, AuditQuery, Candidate, Deposed, Disk, HistoryPage, HistoryQuery, LastRun, Retention,
    RevisionPage, RevisionQuery, Store, StoreError, Term,
};

/// How often a candidate looks whether the lock is free, and a follower whether another process has written.
const POLL: Duration = Duration::from_millis(200);
/// Questions answered at the same time; more wait. Two cores need no more, and each costs up to 2 MiB.
const READERS_MAX: usize = 4;
/// Backups taken at the same time; more wait.
const BACKUPS_MAX: usize = 2;
/// Connections kept open between questions.
const READERS_IDLE: usize = 2;
/// Records removed in one transaction: some milliseconds, so that commits hardly notice.
const REMOVE_MAX: usize = 500;

/// Where the store is.
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    /// The data folder; made if it is not there.
    pub dir: PathBuf,
    /// Open it even on a network file system, where nothing guards against two writers.
    pub force_network_fs: bool,
}

/// A handle on a store in a SQLite file; one node's.
#[derive(Debug)]
pub struct SqliteStore {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

/// What the threads of a handle share.
struct Shared {
    place: Place,
    id: String,
    inbox: Inbox,
    leading: Mutex<Option<Leading>>,
    /// The last batch that this handle has written.
    applied: watch::Sender<u64>,
    trouble: Mutex<Option<String>>,
    idle_readers: Mutex<Vec<Connection>>,
    readers: Semaphore,
    /// Backups that are being taken. Each keeps the log from being copied into the database for as long.
    backups: Semaphore,
}

/// This handle's term.
struct Leading {
    epoch: Epoch,
    candidate: Candidate,
    lock: LeaderLock,
}

impl SqliteStore {
    /// Opens the store in a folder, or makes an empty one.
    /// # Errors
    /// [`StoreError::Newer`], [`StoreError::Damaged`] (also for a database of another program), with nothing touched;
    /// [`StoreError::Unavailable`] where the folder cannot be used.
    pub fn open(options: &SqliteOptions) -> Result<Self, StoreError> {
        let place = Place::prepare(&options.dir, options.force_network_fs)?;
        let connection = place.writer()?;
        let id = connection
            .query_row("SELECT value FROM meta WHERE name = 'store'", [], |row| row.get(0))
            .map_err(|error| place.meaning(&error))?;
        let shared = Arc::new(Shared {
            place,
            id,
            inbox: Inbox::default(),
            leading: Mutex::new(None),
            applied: watch::Sender::new(0),
            trouble: Mutex::new(None),
            idle_readers: Mutex::new(Vec::new()),
            readers: Semaphore::new(READERS_MAX),
            backups: Semaphore::new(BACKUPS_MAX),
        });
        let checkpoints = Checkpoints::start(&shared.place)?;
        let writer = writer::start(shared.clone(), connection, checkpoints)
            .map_err(|error| StoreError::Unavailable(format!("cannot start a thread: {error}")))?;
        Ok(Self { shared, writer: Some(writer) })
    }

    /// The random id of the store: another id means another store, whatever its path.
    pub fn id(&self) -> &str {
        &self.shared.id
    }

    /// Takes the lock if it is free, and begins a term with it.
    async fn try_begin(&self, candidate: &Candidate) -> Result<Option<Term>, StoreError> {
        let dir = &self.shared.place.dir;
        let taken = LeaderLock::try_take(dir, candidate);
        let taken = taken.map_err(|error| {
            let path = dir.join(lock::FILE);
            StoreError::Unavailable(format!("cannot lock `{}`: {error}; make it writable", path.display()))
        })?;
        let Some(lock) = taken else { return Ok(None) };
        let (term, lock) = self.ask(|reply| Command::Raise { lock, reply }).await??;
        *self.shared.leading() = Some(Leading { epoch: term.epoch, candidate: candidate.clone(), lock });
        Ok(Some(term))
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.shared.inbox.put(command(reply));
        answer.await.map_err(|_| StoreError::Unavailable("the store is being closed".into()))
    }

    /// Answers a question on a thread for blocking work.
    async fn read<T, F>(&self, question: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, ReadError> + Send + 'static,
    {
        let shared = self.shared.clone();
        let _permit = self.shared.readers.acquire().await.expect("the semaphore is never closed");
        let work = tokio::task::spawn_blocking(move || shared.read(question));
        work.await.unwrap_or_else(|error| Err(StoreError::Unavailable(format!("reading stopped: {error}"))))
    }
}

impl Shared {
    fn leading(&self) -> std::sync::MutexGuard<'_, Option<Leading>> {
        self.leading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The epoch of our term, as long as the lock and the database are still the files that we hold.
    fn leads(&self) -> Option<Epoch> {
        let mut leading = self.leading();
        let present = leading.as_ref()?;
        if present.lock.holds() && self.place.is_same_file() {
            return Some(present.epoch);
        }
        *leading = None;
        None
    }

    fn end_term(&self) -> Option<Leading> {
        self.leading().take()
    }

    fn read<T>(&self, question: impl FnOnce(&Connection) -> Result<T, ReadError>) -> Result<T, StoreError> {
        let idle = self.idle_readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = idle.map_or_else(|| self.place.reader(), Ok)?;
        let (answer, connection) = self.read_with(connection, question)?;
        let mut idle = self.idle_readers.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < READERS_IDLE {
            idle.push(connection);
        }
        Ok(answer)
    }

    fn read_with<T>(
        &self,
        connection: Connection,
        question: impl FnOnce(&Connection) -> Result<T, ReadError>,
    ) -> Result<(T, Connection), StoreError> {
        if self.place.check(&connection)? == Schema::Older {
            let why = "the store has an older format; it is converted when a node of this version leads";
            return Err(StoreError::Unavailable(why.into()));
        }
        let answer = question(&connection).map_err(|error| match error {
            ReadError::Sqlite(error) => self.place.meaning(&error),
            ReadError::Format(error) => self.place.damaged(&error.to_string()),
            ReadError::Store(StoreError::Damaged(why)) => self.place.damaged(&why),
            ReadError::Store(error) => error,
        })?;
        Ok((answer, connection))
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("place", &self.place).field("id", &self.id).finish_non_exhaustive()
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.shared.inbox.put(Command::Stop);
        if let Some(writer) = self.writer.take() {
            // Its panic was printed when it happened.
            let _ = writer.join();
        }
        self.shared.end_term();
    }
}

#[async_trait]
impl Store for SqliteStore {
    fn kind(&self) -> &'static str {
        "sqlite"
    }

    async fn begin_term(&self, candidate: &Candidate) -> Result<Term, StoreError> {
        // A new term ends the old one, and gives others their chance.
        self.shared.end_term();
        loop {
            match self.try_begin(candidate).await {
                Ok(Some(term)) => return Ok(term),
                Err(error @ (StoreError::Newer { .. } | StoreError::Damaged(_))) => return Err(error),
                Ok(None) | Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    async fn resign(&self) {
        // An error means that the store is being closed, which ends the term too.
        let _ = self.ask(|reply| Command::Resign { reply }).await;
    }

    async fn leader(&self) -> Option<Candidate> {
        let ours = self.shared.leading().as_ref().map(|leading| leading.candidate.clone());
        ours.or_else(|| lock::holder(&self.shared.place.dir))
    }

    async fn store_id(&self) -> Result<Option<String>, StoreError> {
        Ok(Some(self.shared.id.clone()))
    }

    async fn present(&self) -> Result<Term, StoreError> {
        self.read(|connection| Ok(history::term(connection)?)).await
    }

    async fn load(&self) -> Result<(State, Term), StoreError> {
        self.read(history::load).await
    }

    async fn commit(&self, epoch: Epoch, seq: Seq, changes: &[Change]) -> Result<(), Deposed> {
        if self.shared.leading().as_ref().is_none_or(|leading| leading.epoch != epoch) {
            return Err(Deposed { reason: format!("this node does not lead epoch {}", epoch.0) });
        }
        let batch = Batch::encode(changes);
        let answer = self.ask(|reply| Command::Commit(Commit { epoch, seq, batch, reply })).await;
        answer.unwrap_or_else(|error| Err(Deposed { reason: error.to_string() }))
    }

    async fn follow(&self, after: Seq) -> Result<Vec<Applied>, StoreError> {
        let mut applied = self.shared.applied.subscribe();
        loop {
            applied.mark_unchanged();
            let batches = self.read(move |connection| history::applied_after(connection, after)).await?;
            if !batches.is_empty() {
                return Ok(batches);
            }
            // Our own writer tells; another process's does not.
            let _ = tokio::time::timeout(POLL, applied.changed()).await;
        }
    }

    async fn history(&self, query: &HistoryQuery) -> Result<HistoryPage, StoreError> {
        let query = query.clone();
        self.read(move |connection| history::page(connection, &query)).await
    }

    async fn ended_run(&self, key: RunKey) -> Result<Option<Record>, StoreError> {
        self.read(move |connection| history::ended_run(connection, key)).await
    }

    async fn revisions(&self, query: &RevisionQuery) -> Result<RevisionPage, StoreError> {
        let query = query.clone();
        self.read(move |connection| revisions::page(connection, &query)).await
    }

    async fn revision(&self, job: JobUid, version: u32) -> Result<Option<Revision>, StoreError> {
        self.read(move |connection| revisions::one(connection, job, version)).await
    }

    async fn audit(&self, query: &AuditQuery) -> Result<AuditPage, StoreError> {
        let query = query.clone();
        self.read(move |connection| audit::page(connection, &query)).await
    }

    async fn last_runs(&self) -> Result<Vec<LastRun>, StoreError> {
        self.read(history::last_runs).await
    }

    async fn kept_since(&self, job: JobUid) -> Result<Option<Timestamp>, StoreError> {
        self.read(move |connection| history::kept_since(connection, job)).await
    }

    async fn prune(&self, retention: Retention, now: Timestamp) -> Result<u64, StoreError> {
        let mut removed = 0;
        loop {
            let find =
                move |connection: &Connection| Ok(history::surplus(connection, retention, now, REMOVE_MAX)?);
            let ids = self.read(find).await?;
            if ids.is_empty() {
                break;
            }
            let surplus = Surplus { ids, ..Surplus::default() };
            removed += self.ask(|reply| Command::Remove { surplus, reply }).await??;
        }
        loop {
            let find = move |connection: &Connection| Ok(revisions::surplus(connection, retention, now)?);
            let revisions_of = self.read(find).await?;
            if revisions_of.is_empty() {
                break;
            }
            let surplus = Surplus { revisions_of, ..Surplus::default() };
            self.ask(|reply| Command::Remove { surplus, reply }).await??;
        }
        loop {
            let find = move |connection: &Connection| Ok(audit::surplus(connection, retention, now)?);
            let audit_to = self.read(find).await?;
            if audit_to.is_none() {
                break;
            }
            let surplus = Surplus { audit_to, ..Surplus::default() };
            self.ask(|reply| Command::Remove { surplus, reply }).await??;
        }
        loop {
            let forget = self.read(|connection| Ok(history::forgotten(connection, REMOVE_MAX)?)).await?;
            let all = forget.len() < REMOVE_MAX;
            // Also with nothing to do: it says whether this node leads.
            let surplus = Surplus { forget, ..Surplus::default() };
            self.ask(|reply| Command::Remove { surplus, reply }).await??;
            if all {
                break;
            }
        }
        Ok(removed)
    }

    async fn backup(&self, extent: Extent, to: mpsc::Sender<Vec<u8>>) -> Result<(), StoreError> {
        let _permit = self.shared.backups.acquire().await.expect("the semaphore is never closed");
        let shared = self.shared.clone();
        let work = tokio::task::spawn_blocking(move || {
            // A connection of its own: the others answer questions meanwhile.
            shared.read_with(shared.place.reader()?, |connection| backup::write(connection, extent, &to))?;
            Ok(())
        });
        work.await.unwrap_or_else(|error| Err(StoreError::Unavailable(format!("reading stopped: {error}"))))
    }

    async fn stage(&self, from: mpsc::Receiver<Vec<u8>>) -> Result<Staged, StageError> {
        let place = self.shared.place.clone();
        let work = tokio::task::spawn_blocking(move || backup::stage(&place, from));
        work.await
            .unwrap_or_else(|error| Err(StoreError::Unavailable(format!("reading stopped: {error}")).into()))
    }

    async fn restore(
        &self,
        epoch: Epoch,
        seq: Seq,
        staged: Staged,
        changes: &[Change],
    ) -> Result<(), StoreError> {
        let Content::Sqlite(staged) = staged.content else {
            return Err(StoreError::Unavailable("this was staged beside another store".into()));
        };
        let batch = Batch::encode(changes);
        self.ask(|reply| Command::Restore(Restore { epoch, seq, staged, batch, reply })).await?
    }

    fn disk(&self) -> Option<Disk> {
        disk::of(&self.shared.place.dir)
    }

    fn trouble(&self) -> Option<String> {
        self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
