//! One machine: a SQLite file in the data folder, and a lock beside it.
//!
//! Several servers may open the same folder; one leads, the others follow through the file. Writing is done by one
//! thread (`writer.rs`), reading by a few connections that cannot write.

mod audit;
mod backup;
mod checkpoints;
mod damage;
mod disk;
mod examine;
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
use self::damage::{Damage, Reach};
use self::examine::Examiner;
use self::history::{ReadError, Search};
use self::lock::LeaderLock;
use self::open::{Place, Schema};
use self::writer::{Command, Commit, Inbox, Restore, Surplus, WRITER_GONE};
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
    /// What was read when the file was opened, for whoever loads first.
    opened: Mutex<Option<(State, Term)>>,
    /// Since this handle first led.
    examiner: Mutex<Option<Examiner>>,
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
    damage: Damage,
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
    /// Opens the store in a folder, or makes an empty one. All that a term lives of is read before anything is written.
    /// # Errors
    /// [`StoreError::Newer`], [`StoreError::Damaged`] (also for a database of another program), with nothing touched;
    /// [`StoreError::Unavailable`] where the folder cannot be used.
    pub fn open(options: &SqliteOptions) -> Result<Self, StoreError> {
        let place = Place::prepare(&options.dir, options.force_network_fs)?;
        let opened = place.reader().and_then(|reader| {
            examine::whole(&place, &reader).map_err(|error| place.meaning_of_reading(error))
        })?;
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
            damage: Damage::default(),
            idle_readers: Mutex::new(Vec::new()),
            readers: Semaphore::new(READERS_MAX),
            backups: Semaphore::new(BACKUPS_MAX),
        });
        let checkpoints = Checkpoints::start(&shared.place)?;
        let writer = writer::start(shared.clone(), connection, checkpoints)
            .map_err(|error| StoreError::Unavailable(format!("cannot start a thread: {error}")))?;
        let (opened, examiner) = (Mutex::new(opened), Mutex::new(None));
        Ok(Self { shared, opened, examiner, writer: Some(writer) })
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
        self.examine().await?;
        let (term, lock) = self.ask(|reply| Command::Raise { lock, reply }).await??;
        *self.shared.leading() = Some(Leading { epoch: term.epoch, candidate: candidate.clone(), lock });
        let mut examiner = self.examiner.lock().unwrap_or_else(PoisonError::into_inner);
        if examiner.is_none() {
            // Without it damage is found by whoever meets it.
            *examiner = Examiner::start(self.shared.clone()).ok();
        }
        Ok(Some(term))
    }

    /// Before a term is begun, and with it the file changed: reads what the term will live of, unless it was read when
    /// the file was opened and nobody has written since.
    async fn examine(&self) -> Result<(), StoreError> {
        let present = self.present().await;
        let seen = self.opened().as_ref().map(|(_, term)| *term);
        if present.is_ok() && present.ok() == seen {
            return Ok(());
        }
        // Of an older format too, which the new leader converts.
        self.on_thread(move |shared| {
            let connection = shared.place.reader()?;
            let read = examine::present(&shared.place, &connection);
            read.map_err(|error| shared.met(Reach::Present, shared.place.meaning_of_reading(error)))
        })
        .await
    }

    fn opened(&self) -> std::sync::MutexGuard<'_, Option<(State, Term)>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.shared.inbox.put(command(reply));
        answer.await.map_err(|_| StoreError::Unavailable(WRITER_GONE.into()))
    }

    /// Answers a question about so much on a thread for blocking work.
    async fn read<T, F>(&self, about: Reach, question: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, ReadError> + Send + 'static,
    {
        self.on_thread(move |shared| shared.read(about, question)).await
    }

    async fn on_thread<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Shared) -> Result<T, StoreError> + Send + 'static,
    {
        let shared = self.shared.clone();
        let _permit = self.shared.readers.acquire().await.expect("the semaphore is never closed");
        let work = tokio::task::spawn_blocking(move || work(&shared));
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

    fn read<T>(
        &self,
        about: Reach,
        question: impl FnOnce(&Connection) -> Result<T, ReadError>,
    ) -> Result<T, StoreError> {
        let idle = self.idle_readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = idle.map_or_else(|| self.place.reader(), Ok)?;
        let (answer, connection) = self.read_with(connection, about, question)?;
        let mut idle = self.idle_readers.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < READERS_IDLE {
            idle.push(connection);
        }
        Ok(answer)
    }

    fn read_with<T>(
        &self,
        connection: Connection,
        about: Reach,
        question: impl FnOnce(&Connection) -> Result<T, ReadError>,
    ) -> Result<(T, Connection), StoreError> {
        let schema = self.place.check(&connection).map_err(|error| self.met(Reach::Present, error))?;
        if schema == Schema::Older {
            let why = "the store has an older format; it is converted when a node of this version leads";
            return Err(StoreError::Unavailable(why.into()));
        }
        let answer = question(&connection);
        let answer = answer.map_err(|error| self.met(about, self.place.meaning_of_reading(error)))?;
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
        self.examiner.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        // The last connection that may write is the last of all, and leaves no log behind.
        self.shared.idle_readers.lock().unwrap_or_else(PoisonError::into_inner).clear();
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
            if let Some(why) = self.shared.damage.present() {
                return Err(why.clone());
            }
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
        self.read(Reach::Present, |connection| Ok(history::term(connection)?)).await
    }

    async fn load(&self) -> Result<(State, Term), StoreError> {
        let opened = self.opened().take();
        if let Some((state, seen)) = opened {
            let present = self.present().await?;
            // A term begins with an empty batch.
            let begun = Term { epoch: Epoch(seen.epoch.0 + 1), seq: Seq(seen.seq.0 + 1) };
            if present == seen || present == begun {
                return Ok((state, present));
            }
        }
        self.read(Reach::Present, history::load).await
    }

    async fn commit(&self, epoch: Epoch, seq: Seq, changes: &[Change]) -> Result<(), Deposed> {
        if self.shared.leading().as_ref().is_none_or(|leading| leading.epoch != epoch) {
            return Err(self.shared.refusal(format!("this node does not lead epoch {}", epoch.0)));
        }
        let batch = Batch::encode(changes);
        let answer = self.ask(|reply| Command::Commit(Commit { epoch, seq, batch, reply })).await;
        answer.unwrap_or_else(|error| Err(Deposed { reason: error.to_string() }))
    }

    async fn follow(&self, after: Seq) -> Result<Vec<Applied>, StoreError> {
        let mut applied = self.shared.applied.subscribe();
        loop {
            applied.mark_unchanged();
            let batches = self
                .read(Reach::Present, move |connection| history::applied_after(connection, after))
                .await?;
            if !batches.is_empty() {
                return Ok(batches);
            }
            // Our own writer tells; another process's does not.
            let _ = tokio::time::timeout(POLL, applied.changed()).await;
        }
    }

    async fn history(&self, query: &HistoryQuery) -> Result<HistoryPage, StoreError> {
        let query = query.clone();
        self.read(Reach::Past, move |connection| history::page(connection, &query)).await
    }

    async fn ended_run(&self, key: RunKey) -> Result<Option<Record>, StoreError> {
        self.read(Reach::Past, move |connection| history::ended_run(connection, key)).await
    }

    async fn revisions(&self, query: &RevisionQuery) -> Result<RevisionPage, StoreError> {
        let query = query.clone();
        self.read(Reach::Past, move |connection| revisions::page(connection, &query)).await
    }

    async fn revision(&self, job: JobUid, version: u32) -> Result<Option<Revision>, StoreError> {
        self.read(Reach::Past, move |connection| revisions::one(connection, job, version)).await
    }

    async fn audit(&self, query: &AuditQuery) -> Result<AuditPage, StoreError> {
        let query = query.clone();
        self.read(Reach::Past, move |connection| audit::page(connection, &query)).await
    }

    async fn last_runs(&self) -> Result<Vec<LastRun>, StoreError> {
        self.read(Reach::Past, history::last_runs).await
    }

    async fn kept_since(&self, job: JobUid) -> Result<Option<Timestamp>, StoreError> {
        self.read(Reach::Past, move |connection| history::kept_since(connection, job)).await
    }

    async fn prune(&self, retention: Retention, now: Timestamp) -> Result<u64, StoreError> {
        let (mut removed, mut search) = (0, Search::Old);
        loop {
            let find = move |connection: &Connection| {
                Ok(history::surplus(connection, retention, now, REMOVE_MAX, search)?)
            };
            let (ids, next) = self.read(Reach::Past, find).await?;
            search = next;
            if ids.is_empty() {
                break;
            }
            let surplus = Surplus { ids, ..Surplus::default() };
            removed += self.ask(|reply| Command::Remove { surplus, reply }).await??;
        }
        loop {
            let find = move |connection: &Connection| Ok(revisions::surplus(connection, retention, now)?);
            let revisions_of = self.read(Reach::Past, find).await?;
            if revisions_of.is_empty() {
                break;
            }
            let surplus = Surplus { revisions_of, ..Surplus::default() };
            self.ask(|reply| Command::Remove { surplus, reply }).await??;
        }
        loop {
            let find = move |connection: &Connection| Ok(audit::surplus(connection, retention, now)?);
            let audit_to = self.read(Reach::Past, find).await?;
            if audit_to.is_none() {
                break;
            }
            let surplus = Surplus { audit_to, ..Surplus::default() };
            self.ask(|reply| Command::Remove { surplus, reply }).await??;
        }
        loop {
            let forget =
                self.read(Reach::Past, |connection| Ok(history::forgotten(connection, REMOVE_MAX)?)).await?;
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
            let write = |connection: &Connection| backup::write(connection, extent, &to);
            // Of what is broken, it could not tell what it is.
            shared.read_with(shared.place.reader()?, Reach::Past, write)?;
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

    fn damage(&self) -> Option<String> {
        self.shared.damage.past()
    }

    fn trouble(&self) -> Option<String> {
        if let Some(why) = self.shared.damage.present() {
            return Some(why.to_string());
        }
        self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
