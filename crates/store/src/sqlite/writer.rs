//! The one thread that writes: takes all batches that wait, and makes one transaction of them.
//!
//! Every transaction begins by reading the term record, so a doubt about the one before it is settled by the same
//! look that fences: a batch that is there already is answered, one of a deposed term is refused.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};
use scheduler::ids::{Epoch, Seq};
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::Shared;
use super::backup::{self, StagedFile};
use super::checkpoints::Checkpoints;
use super::damage::Reach;
use super::lock::LeaderLock;
use super::open::{Schema, migrate};
use super::rows::{Ledger, RowWriter, forget_jobs, remove_entries, remove_records, remove_revisions};
use crate::rows::Batch;
use crate::{Deposed, StoreError, Term};

/// Batches in one transaction, and their bytes: so that those who wait for the first one wait for milliseconds.
const GROUP_BATCHES_MAX: usize = 64;
const GROUP_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Batches that may wait for a missing predecessor. A driver has at most 8 in flight.
const WAITING_MAX: usize = 64;
/// Pauses between tries while the disk is full or failing.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// With nothing to do for so long, memory is given back and the log is copied into the database.
const IDLE: Duration = Duration::from_secs(5);

/// What the writer is asked to do.
pub(super) enum Command {
    /// Apply a batch.
    Commit(Commit),
    /// Begin a term; the lock comes back with it, so that it is gone when nobody waits any more.
    Raise { lock: LeaderLock, reply: oneshot::Sender<Result<(Term, LeaderLock), StoreError>> },
    /// Remove records of the history.
    Remove { surplus: Surplus, reply: oneshot::Sender<Result<u64, StoreError>> },
    /// Put staged content in the place of everything.
    Restore(Restore),
    /// End the term after everything that came before.
    Resign { reply: oneshot::Sender<()> },
    /// The store is being dropped.
    Stop,
    /// A defect.
    #[cfg(test)]
    Panic,
}

/// What retention removes in one transaction.
#[derive(Default)]
pub(super) struct Surplus {
    /// Records of the history.
    pub(super) ids: Vec<i64>,
    /// Deleted jobs without history.
    pub(super) forget: Vec<i64>,
    /// Deleted jobs whose revisions go.
    pub(super) revisions_of: Vec<i64>,
    /// Entries of the audit up to this one go.
    pub(super) audit_to: Option<i64>,
}

/// A batch that waits to be applied.
pub(super) struct Commit {
    pub(super) epoch: Epoch,
    pub(super) seq: Seq,
    pub(super) batch: Batch,
    pub(super) reply: oneshot::Sender<Result<(), Deposed>>,
}

/// Staged content, and the batch that makes it current.
pub(super) struct Restore {
    pub(super) epoch: Epoch,
    pub(super) seq: Seq,
    pub(super) staged: StagedFile,
    pub(super) batch: Batch,
    pub(super) reply: oneshot::Sender<Result<(), StoreError>>,
}

/// What waits for the writer.
#[derive(Default)]
pub(super) struct Inbox {
    waiting: Mutex<Waiting>,
    came: Condvar,
}

#[derive(Default)]
struct Waiting {
    commands: VecDeque<Command>,
    /// Nobody will take any more.
    closed: bool,
}

impl Inbox {
    /// Nothing is kept once the writer has ended: whoever waits for an answer learns that there will be none.
    pub(super) fn put(&self, command: Command) {
        let mut waiting = self.waiting();
        if !waiting.closed {
            waiting.commands.push_back(command);
            self.came.notify_one();
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that has come; waits for something, at most so long.
    fn take(&self, at_most: Option<Duration>) -> VecDeque<Command> {
        let empty = |waiting: &mut Waiting| waiting.commands.is_empty();
        let mut waiting = match at_most {
            None => self.came.wait_while(self.waiting(), empty).unwrap_or_else(PoisonError::into_inner),
            Some(time) => {
                let waited = self.came.wait_timeout_while(self.waiting(), time, empty);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        std::mem::take(&mut waiting.commands)
    }

    /// Waits so long, or until someone wants the term to end. Returns whether someone does.
    fn is_ending_within(&self, time: Duration) -> bool {
        let going_on = |waiting: &mut Waiting| {
            let ends =
                |c: &Command| matches!(c, Command::Resign { .. } | Command::Stop | Command::Raise { .. });
            !waiting.commands.iter().any(ends)
        };
        let waited = self.came.wait_timeout_while(self.waiting(), time, going_on);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Drops what waits, and all that comes.
    fn close(&self) {
        let left = {
            let mut waiting = self.waiting();
            waiting.closed = true;
            std::mem::take(&mut waiting.commands)
        };
        drop(left);
    }
}

/// Goes with the thread, however that ends: nobody waits for one that is gone.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.lead_no_more(&StoreError::Unavailable(WRITER_GONE.into()));
        }
        self.0.inbox.close();
    }
}

/// What is said of a writer that has ended without being told to.
pub(super) const WRITER_GONE: &str = "the thread that writes it has ended by a defect, which its log names: start the server again, and report it";

/// Starts the thread.
pub(super) fn start(
    shared: Arc<Shared>,
    connection: Connection,
    checkpoints: Checkpoints,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    let ending = Ending(shared.clone());
    let writer = Writer { shared, connection, checkpoints, waiting: BTreeMap::new(), ledger: None };
    std::thread::Builder::new().name("store-writer".into()).spawn(move || {
        let _ending = ending;
        writer.run();
    })
}

struct Writer {
    shared: Arc<Shared>,
    connection: Connection,
    checkpoints: Checkpoints,
    /// By seq; a batch may be sent twice.
    waiting: BTreeMap<u64, Vec<Commit>>,
    /// `None` after a transaction that was rolled back: to be read again.
    ledger: Option<Ledger>,
}

impl Writer {
    fn run(mut self) {
        let mut rested = true;
        loop {
            let commands = self.shared.inbox.take(if rested { None } else { Some(IDLE) });
            rested = commands.is_empty();
            if rested {
                self.rest();
            }
            for command in commands {
                match command {
                    Command::Commit(commit) => self.accept(commit),
                    Command::Raise { lock, reply } => self.raise(lock, reply),
                    Command::Remove { surplus, reply } => {
                        self.flush();
                        // Whoever asked may have gone; the records are removed all the same.
                        let _ = reply.send(self.remove(&surplus));
                    }
                    Command::Restore(order) => {
                        self.flush();
                        let done = self.restore(&order);
                        // Whoever asked may have gone; it is done all the same.
                        let _ = order.reply.send(done);
                    }
                    Command::Resign { reply } => {
                        self.flush();
                        self.depose("this node has resigned");
                        if let Some(leading) = self.shared.end_term() {
                            leading.lock.release();
                        }
                        let _ = reply.send(());
                    }
                    Command::Stop => {
                        self.flush();
                        self.depose("the store was closed");
                        return;
                    }
                    #[cfg(test)]
                    Command::Panic => panic!("planted"),
                }
            }
            self.flush();
            self.checkpoints.copy_rest(&self.connection);
        }
    }

    fn accept(&mut self, commit: Commit) {
        if self.waiting.len() >= WAITING_MAX {
            // Most of them wait for nothing but their turn.
            self.flush();
        }
        if self.waiting.len() >= WAITING_MAX {
            let reason = format!("{WAITING_MAX} batches wait for one that never came");
            let _ = commit.reply.send(Err(Deposed { reason }));
            return;
        }
        self.waiting.entry(commit.seq.0).or_default().push(commit);
    }

    /// Applies what can be applied, and keeps trying while the disk does not let us.
    fn flush(&mut self) {
        let mut pause = PAUSE_MIN;
        while !self.waiting.is_empty() {
            match self.group() {
                Ok(answered) => {
                    pause = PAUSE_MIN;
                    if answered == 0 {
                        return;
                    }
                }
                Err(error) => {
                    self.ledger = None;
                    let meaning = self.shared.met(Reach::Present, self.shared.place.meaning(&error));
                    if matches!(meaning, StoreError::Damaged(_)) {
                        self.depose(&meaning.to_string());
                        return;
                    }
                    self.shared.trouble(&meaning);
                    if self.shared.inbox.is_ending_within(pause) {
                        self.depose(&format!("the term ended before the batch could be written: {meaning}"));
                        return;
                    }
                    pause = PAUSE_MAX.min(pause * 2);
                }
            }
        }
    }

    /// One transaction. Returns how many batches were answered.
    fn group(&mut self) -> rusqlite::Result<usize> {
        let Some(epoch) = self.shared.leads() else {
            // `commit` had found it: something has ended the term since.
            let refusal = self.shared.refusal("the right to lead is gone".into());
            return Ok(self.depose(&refusal.reason));
        };
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let record = TermRecord::read(&transaction)?;
        if record.epoch != epoch.0 {
            drop(transaction);
            self.shared.end_term();
            return Ok(self.depose(&format!("epoch {} has begun", record.epoch)));
        }
        let ledger = match &mut self.ledger {
            Some(ledger) => ledger,
            none => none.insert(Ledger::read(&transaction)?),
        };
        let mut last = record.seq;
        let mut writer = RowWriter::new(&transaction, ledger)?;
        let (mut batches, mut bytes) = (0, 0);
        while let Some(commit) = self.waiting.get(&(last + 1)).and_then(|same| record.next_of(same)) {
            if batches == GROUP_BATCHES_MAX || (batches > 0 && bytes + commit.batch.bytes() > GROUP_BYTES_MAX)
            {
                break;
            }
            last += 1;
            writer.write(last.cast_signed(), epoch.0.cast_signed(), &commit.batch)?;
            batches += 1;
            bytes += commit.batch.bytes();
        }
        writer.finish()?;
        if batches > 0 {
            record.advance(&transaction, last)?;
            transaction.commit()?;
            self.checkpoints.committed(bytes);
            self.shared.applied.send_replace(last);
        } else {
            drop(transaction);
        }
        // Before anybody hears of success.
        self.shared.trouble_is_over();
        Ok(self.answer(record, last))
    }

    /// Answers everything up to `last`, and what belongs to no batch of this term.
    fn answer(&mut self, record: TermRecord, last: u64) -> usize {
        let mut answered = 0;
        let mut keep = BTreeMap::new();
        for (seq, same) in std::mem::take(&mut self.waiting) {
            for commit in same {
                let verdict = if commit.epoch.0 != record.epoch || seq <= record.began {
                    let TermRecord { epoch, began, .. } = record;
                    let ours = commit.epoch.0;
                    Err(Deposed {
                        reason: format!(
                            "batch {seq} of epoch {ours}: epoch {epoch} began with batch {began}"
                        ),
                    })
                } else if seq <= last {
                    Ok(())
                } else {
                    keep.entry(seq).or_insert_with(Vec::new).push(commit);
                    continue;
                };
                answered += 1;
                // Whoever sent it may have stopped waiting.
                let _ = commit.reply.send(verdict);
            }
        }
        self.waiting = keep;
        answered
    }

    /// Refuses everything that waits.
    fn depose(&mut self, reason: &str) -> usize {
        let waiting = std::mem::take(&mut self.waiting).into_values().flatten();
        waiting.fold(0, |refused, commit| {
            // Whoever sent it may have stopped waiting.
            let _ = commit.reply.send(Err(Deposed { reason: reason.into() }));
            refused + 1
        })
    }

    /// Begins a term as soon as the disk lets us, unless nobody wants it any more.
    fn raise(&mut self, lock: LeaderLock, reply: oneshot::Sender<Result<(Term, LeaderLock), StoreError>>) {
        self.depose("a new term begins");
        let mut pause = PAUSE_MIN;
        while !reply.is_closed() {
            match self.begin() {
                Ok(term) => {
                    self.shared.trouble_is_over();
                    self.shared.applied.send_replace(term.seq.0);
                    // Not taken means dropped, and with it the lock.
                    let _ = reply.send(Ok((term, lock)));
                    return;
                }
                Err(error @ (StoreError::Newer { .. } | StoreError::Damaged(_))) => {
                    let _ = reply.send(Err(self.shared.met(Reach::Present, error)));
                    return;
                }
                Err(error) => self.shared.trouble(&error),
            }
            if self.shared.inbox.is_ending_within(pause) {
                return;
            }
            pause = PAUSE_MAX.min(pause * 2);
        }
    }

    fn begin(&mut self) -> Result<Term, StoreError> {
        let place = self.shared.place.clone();
        if !place.is_same_file() {
            return Err(
                place.damaged("another file was put in its place while this server ran: start it again")
            );
        }
        let meaning = |error: rusqlite::Error| place.meaning(&error);
        if place.check(&self.connection)? == Schema::Older {
            migrate(&mut self.connection).map_err(meaning)?;
        }
        self.ledger = None;
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(meaning)?;
        let record = TermRecord::read(&transaction).map_err(meaning)?.raise(&transaction).map_err(meaning)?;
        let mut ledger = Ledger::read(&transaction).map_err(meaning)?;
        let mut writer = RowWriter::new(&transaction, &mut ledger).map_err(meaning)?;
        let empty = Batch::encode(&[]);
        let (epoch, seq) = (record.epoch.cast_signed(), record.seq.cast_signed());
        writer.write(seq, epoch, &empty).and_then(|()| writer.finish()).map_err(meaning)?;
        transaction.commit().map_err(meaning)?;
        self.ledger = Some(ledger);
        Ok(Term { epoch: Epoch(record.epoch), seq: Seq(record.seq) })
    }

    fn remove(&mut self, surplus: &Surplus) -> Result<u64, StoreError> {
        let Surplus { ids, forget, revisions_of, audit_to } = surplus;
        let gone = || Deposed { reason: "only the leader removes history".into() };
        let epoch = self.shared.leads().ok_or_else(gone)?;
        let place = self.shared.place.clone();
        let mut work = || {
            let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            if TermRecord::read(&transaction)?.epoch != epoch.0 {
                return Ok(None);
            }
            let removed = remove_records(&transaction, ids)?;
            forget_jobs(&transaction, forget)?;
            remove_revisions(&transaction, revisions_of)?;
            if let Some(last) = audit_to {
                remove_entries(&transaction, *last)?;
            }
            transaction.commit()?;
            Ok(Some(removed))
        };
        // What cannot be removed stays; no commit is kept from anything.
        let removed =
            work().map_err(|error: rusqlite::Error| self.shared.met(Reach::Past, place.meaning(&error)))?;
        if !forget.is_empty() {
            // A forgotten job may come back, and would have to be written down again.
            self.ledger = None;
        }
        Ok(removed.ok_or_else(gone)?)
    }

    /// One transaction: all of the old content goes, all of the staged one comes, and the term record moves.
    fn restore(&mut self, order: &Restore) -> Result<(), StoreError> {
        let epoch = self.shared.leads().filter(|epoch| *epoch == order.epoch);
        let epoch = epoch.ok_or_else(|| Deposed { reason: "only the leader restores".into() })?;
        let place = self.shared.place.clone();
        self.ledger = None;
        let done = backup::swap(&mut self.connection, &order.staged, |transaction| {
            let record = TermRecord::read(transaction)?;
            let next = Seq(record.seq + 1);
            if record.epoch != epoch.0 || order.seq != next {
                return Ok(Err(Deposed {
                    reason: format!("batch {} of epoch {} is not the next one", order.seq.0, epoch.0),
                }));
            }
            backup::copy(transaction)?;
            let mut ledger = Ledger::read(transaction)?;
            let mut writer = RowWriter::new(transaction, &mut ledger)?;
            writer.write_rows(&order.batch)?;
            writer.finish()?;
            record.advance(transaction, next.0)?;
            Ok(Ok(()))
        });
        done.map_err(|error: rusqlite::Error| place.meaning(&error))??;
        self.shared.damage.past_is_replaced();
        self.shared.applied.send_replace(order.seq.0);
        Ok(())
    }

    /// Makes use of a quiet moment. What fails here is tried again at the next one.
    fn rest(&mut self) {
        if self.shared.leads().is_some() {
            let _ = self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        }
        let _ = self.connection.execute_batch("PRAGMA shrink_memory");
    }
}

/// The record that every batch moves.
#[derive(Clone, Copy)]
struct TermRecord {
    epoch: u64,
    began: u64,
    seq: u64,
}

impl TermRecord {
    fn read(connection: &Connection) -> rusqlite::Result<Self> {
        connection.prepare_cached("SELECT epoch, began, seq FROM term")?.query_row([], |row| {
            let number = |column| row.get::<_, i64>(column).map(i64::cast_unsigned);
            Ok(Self { epoch: number(0)?, began: number(1)?, seq: number(2)? })
        })
    }

    /// Of batches with the same number, the one of this term.
    fn next_of<'c>(&self, same: &'c [Commit]) -> Option<&'c Commit> {
        same.iter().find(|commit| commit.epoch.0 == self.epoch)
    }

    /// Moves the record on. The transaction has held the write lock since it was read, so this compare-and-set
    /// cannot fail; were that ever wrong, nothing would be written.
    fn advance(self, connection: &Connection, last: u64) -> rusqlite::Result<()> {
        let moved = connection
            .prepare_cached("UPDATE term SET seq = ?1 WHERE epoch = ?2 AND seq = ?3")?
            .execute([last, self.epoch, self.seq].map(u64::cast_signed))?;
        if moved == 1 { Ok(()) } else { Err(rusqlite::Error::StatementChangedRows(moved)) }
    }

    fn raise(self, connection: &Connection) -> rusqlite::Result<Self> {
        let next = Self { epoch: self.epoch + 1, began: self.seq + 1, seq: self.seq + 1 };
        connection
            .prepare_cached("UPDATE term SET epoch = ?1, began = ?2, seq = ?3")?
            .execute([next.epoch, next.began, next.seq].map(u64::cast_signed))?;
        Ok(next)
    }
}

impl Shared {
    /// Remembers what is wrong, for `/ready`, and says so once.
    fn trouble(&self, error: &StoreError) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.is_none() {
            warn!(%error, "cannot write the store, trying again");
        }
        *trouble = Some(error.to_string());
    }

    fn trouble_is_over(&self) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.take().is_some() {
            info!("the store can be written again");
        }
    }
}

#[cfg(test)]
mod tests {
    use scheduler::ids::Seq;

    use super::super::{SqliteOptions, SqliteStore};
    use super::*;
    use crate::{Candidate, Store};

    #[tokio::test]
    async fn damage_that_another_has_met_is_told_to_whoever_waits() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let options = SqliteOptions { dir: dir.path().into(), force_network_fs: false };
        let store = SqliteStore::open(&options).expect("a local folder");
        let term = store.begin_term(&Candidate::default()).await.expect("nobody leads");
        let waits = store.commit(term.epoch, Seq(term.seq.0 + 2), &[]);
        let breaks = async {
            store.shared.lead_no_more(&StoreError::Damaged("page 7 is broken".into()));
            store.resign().await;
        };
        let (refused, ()) = tokio::join!(waits, breaks);
        let refused = refused.expect_err("nobody writes to what is broken");
        assert!(refused.reason.contains("page 7 is broken"), "{refused}");
    }

    #[tokio::test]
    async fn nobody_waits_for_a_writer_that_has_ended() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let options = SqliteOptions { dir: dir.path().into(), force_network_fs: false };
        let store = SqliteStore::open(&options).expect("a local folder");
        let term = store.begin_term(&Candidate::default()).await.expect("nobody leads");
        // It waits for a batch that never comes.
        let waits = store.commit(term.epoch, Seq(term.seq.0 + 2), &[]);
        let panics = async { store.shared.inbox.put(Command::Panic) };
        let both = async { tokio::join!(waits, panics) };
        let (refused, ()) =
            tokio::time::timeout(Duration::from_secs(60), both).await.expect("it is answered");
        assert!(refused.expect_err("nobody has written it").reason.contains(WRITER_GONE));
        tokio::time::timeout(Duration::from_secs(60), async {
            while store.trouble().is_none() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("it is said");
        assert!(store.trouble().is_some_and(|trouble| trouble.contains(WRITER_GONE)));
        let later = tokio::time::timeout(Duration::from_secs(60), async {
            let commit = store.commit(term.epoch, Seq(term.seq.0 + 1), &[]).await;
            store.resign().await;
            (commit, store.begin_term(&Candidate::default()).await)
        });
        let (commit, begun) = later.await.expect("nobody waits");
        assert!(commit.expect_err("nobody writes").reason.contains(WRITER_GONE));
        assert!(begun.is_err_and(|error| error.to_string().contains(WRITER_GONE)));
        assert_eq!(store.leader().await, None, "another may lead");
    }
}
