//! One term of a leader: batches that wait are grouped into multis, a few of which are on their way at a time.
//!
//! Each multi first asks whether our member of the latch and the mark of our epoch are there, then moves the term record
//! from one version to the next, and only then changes anything. The chain of versions is what makes it safe to send
//! the next one before the last is answered: when one is cut on the wire, those behind it fail, even if they are
//! delivered over the next connection.
//!
//! After anything but a server's verdict the term record is read, behind a `sync`: what it has seen is applied, and the
//! rest is sent again, the same operations: `doubt`. What no multi has room for goes in `parts`.

mod doubt;
mod parts;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesOrdered, StreamExt};
use scheduler::ids::{Epoch, JobUid, Seq};
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};
use zookeeper_client::{Client, Error, MultiWriteError, MultiWriteResult, MultiWriter};

use self::doubt::expired;
use super::Shared;
use super::batch::Batch;
use super::latch::Member;
use super::ledger::{Before, Ledger, Op};
use super::record::{Entry, TermRecord, json};
use super::session::{Pause, all, answered, ended, patiently};
use super::tree::{Ended, Kind, Noted, Paths, Revised, Tree};
use crate::memory::MemoryCore;
use crate::{BATCH_BYTES_MAX, Deposed, StoreError};

/// Multis on their way at the same time; what comes meanwhile becomes one. More would make them smaller, and a server
/// does more with few large ones.
const FLIGHTS_MAX: usize = 2;
/// Batches in one multi, and about what they take there: few multis are cheaper than many, as each waits for the disks
/// of a majority.
const GROUP_BATCHES_MAX: usize = 64;
const GROUP_BYTES_MAX: usize = 600 * 1024;
/// A server reads requests of up to 1,048,575 bytes (its `jute.maxbuffer`), and closes the connection at others.
const MULTI_BYTES_MAX: usize = 1_000_000;
/// Batches that may wait for a missing predecessor. A driver has at most 8 in flight.
const WAITING_MAX: usize = 1024;
/// Entries of the log that are kept for followers: what a standby may miss while it is paused.
const LOG_ENTRIES_MAX: usize = 1000;
/// The same in bytes.
const LOG_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Entries of the log that one commit removes beside its own work.
const LOG_REMOVED_MAX: usize = 100;
/// A version of the term record from which on it is made anew, with version 0: versions are 31 bits wide.
const VERSION_MAX: i32 = 1 << 30;

/// What the leader is asked to do.
pub(super) enum Command {
    Commit(Commit),
    /// Remove what retention does not keep.
    Remove {
        surplus: Surplus,
        reply: oneshot::Sender<Result<u64, StoreError>>,
    },
    /// Put other content in the place of everything.
    Restore(Box<Restore>),
    /// What was there before the term is known.
    Learn(Before),
    /// End the term after everything that came before.
    Resign {
        reply: oneshot::Sender<()>,
    },
}

/// A batch that waits to be applied.
pub(super) struct Commit {
    pub(super) epoch: Epoch,
    pub(super) seq: Seq,
    pub(super) batch: Batch,
    pub(super) reply: oneshot::Sender<Result<(), Deposed>>,
}

/// What retention removes.
#[derive(Default)]
pub(super) struct Surplus {
    pub(super) records: Vec<Ended>,
    pub(super) revisions: Vec<Revised>,
    pub(super) audit: Vec<Noted>,
    /// Deleted jobs without history.
    pub(super) forget: Vec<JobUid>,
}

/// Content, and the batch that makes it current.
pub(super) struct Restore {
    pub(super) epoch: Epoch,
    pub(super) seq: Seq,
    pub(super) content: Box<MemoryCore>,
    pub(super) batch: Batch,
    pub(super) reply: oneshot::Sender<Result<(), StoreError>>,
}

/// A term that has just begun.
pub(super) struct Begun {
    pub(super) client: Client,
    pub(super) member: Member,
    pub(super) record: TermRecord,
    pub(super) version: i32,
    pub(super) ledger: Ledger,
    pub(super) log: VecDeque<(u64, usize)>,
    /// Generations that a restore has left behind.
    pub(super) stale: Vec<Tree>,
}

type Answer = Result<Vec<MultiWriteResult>, MultiWriteError>;
type Replies = Vec<oneshot::Sender<Result<(), Deposed>>>;

/// A group of batches on its way.
struct Flight {
    first: u64,
    last: u64,
    ops: Vec<Op>,
    /// By batch, in their order; kept to compose them anew if need be.
    batches: Vec<(Batch, Replies)>,
    /// What else the term record says with it.
    generation: u64,
    unfinished: Option<u64>,
}

/// Why a term ends.
struct Over(String);

/// What becomes of what was sent.
enum Verdict {
    Over(Over),
    /// Nobody knows: look.
    Doubt(String),
    /// The server refuses it as it is, for now: an authentication, a quota.
    Refused(StoreError),
    /// What is there is not what we thought.
    Conflict(String),
}

struct Writer<'c> {
    shared: Arc<Shared>,
    client: &'c Client,
    paths: Paths,
    member: String,
    mark: String,
    /// As of the last group that was sent; `seq` is its last batch.
    record: TermRecord,
    /// The version of the term record before the next group.
    version: i32,
    applied: u64,
    ledger: Ledger,
    log: VecDeque<(u64, usize)>,
    log_bytes: usize,
    waiting: BTreeMap<u64, Vec<Commit>>,
    sent: VecDeque<Flight>,
    answers: FuturesOrdered<BoxFuture<'c, Answer>>,
    commands: mpsc::UnboundedReceiver<Command>,
    /// Commands that came while something had to be settled.
    backlog: VecDeque<Command>,
    /// What is to be removed once the history is known.
    put_off: Vec<Command>,
    conflicts: u32,
    /// Nothing has been applied since an answer was missing.
    in_doubt: bool,
    /// Somebody wants the term to end.
    ending: bool,
}

/// Leads until the term is over.
pub(super) async fn lead(
    shared: Arc<Shared>,
    begun: Begun,
    commands: mpsc::UnboundedReceiver<Command>,
    again: mpsc::WeakUnboundedSender<Command>,
) {
    let Begun { client, member, record, version, ledger, log, stale } = begun;
    let (tree, epoch) = (ledger.tree.clone(), record.epoch);
    let looking = tokio::spawn(learn(shared.clone(), tree, again));
    let sweeping = tokio::spawn(sweep(client.clone(), stale));
    let mut writer = Writer {
        client: &client,
        paths: shared.paths.clone(),
        member: member.path().into(),
        mark: shared.paths.epoch(epoch),
        applied: record.seq,
        record,
        version,
        ledger,
        log_bytes: log.iter().map(|(_, bytes)| bytes).sum(),
        log,
        waiting: BTreeMap::new(),
        sent: VecDeque::new(),
        answers: FuturesOrdered::new(),
        commands,
        backlog: VecDeque::new(),
        put_off: Vec::new(),
        conflicts: 0,
        in_doubt: false,
        ending: false,
        shared: shared.clone(),
    };
    let (reason, resigned) = match writer.run().await {
        Ok(reply) => ("this node has resigned".to_owned(), reply),
        Err(Over(reason)) => {
            warn!(epoch, reason, "the right to lead is gone");
            (reason, None)
        }
    };
    shared.end_term(epoch);
    let mut resigned: Vec<_> = resigned.into_iter().collect();
    resigned.extend(writer.depose(&reason));
    drop(writer);
    looking.abort();
    sweeping.abort();
    // A session that is cut off ends by itself.
    member.leave(shared.sessions.options.session_timeout).await;
    for reply in resigned {
        // Whoever asked may have gone.
        let _ = reply.send(());
    }
}

/// Lists the history while the term goes on: it is needed only to bound it. Not over the leader's session, whose commits
/// would wait behind the answers.
async fn learn(shared: Arc<Shared>, tree: Tree, again: mpsc::WeakUnboundedSender<Command>) {
    let mut pause = Pause::new();
    loop {
        let listed = async {
            let client = shared.sessions.looking().await?;
            let meaning = |error: Error| shared.meaning(&error);
            // Its server may lag behind the one that let the term begin.
            patiently(&client, || client.sync(&tree.path)).await.map_err(meaning)?;
            Before::list(&client, &tree).await.map_err(meaning)
        };
        match listed.await {
            Ok(before) => {
                if let Some(commands) = again.upgrade() {
                    // The term may be over.
                    let _ = commands.send(Command::Learn(before));
                }
                return;
            }
            Err(_) => pause.wait().await,
        }
    }
}

/// Removes generations that are past.
pub(super) async fn sweep(client: Client, stale: Vec<Tree>) {
    for tree in stale {
        // What is left by an error is removed in the next term.
        if let Err(error) = remove_all(&client, &tree).await {
            info!(%error, generation = tree.generation, "a past generation of records was not removed whole");
        }
    }
}

async fn remove_all(client: &Client, tree: &Tree) -> Result<(), Error> {
    let remove = async |path: String| match patiently(client, || client.delete(&path, None)).await {
        Err(Error::NoNode) => Ok(()),
        done => done,
    };
    for kind in Kind::HOT.into_iter().chain(Kind::COLD) {
        for dir in super::ledger::dirs_of(client, tree, kind).await? {
            let dir = tree.dir(kind, dir);
            let names = super::session::children(client, &dir).await?;
            all(names, async |name| remove(format!("{dir}/{name}")).await).await?;
            remove(dir).await?;
        }
        remove(tree.kind(kind)).await?;
    }
    remove(tree.meta()).await?;
    remove(tree.path.clone()).await
}

impl<'c> Writer<'c> {
    /// Until the term is over, or somebody ends it.
    async fn run(&mut self) -> Result<Option<oneshot::Sender<()>>, Over> {
        if self.record.unfinished.is_some() {
            self.finish().await?;
        }
        let session = ended(self.client);
        tokio::pin!(session);
        loop {
            self.send_ready().await?;
            let command = match self.backlog.pop_front() {
                Some(command) => Some(command),
                None => tokio::select! {
                    biased;
                    Some(answer) = self.answers.next(), if !self.sent.is_empty() => {
                        self.answered(answer).await?;
                        continue;
                    }
                    // Who has nothing to write is told by nothing else.
                    () = &mut session => return Err(expired()),
                    command = self.commands.recv() => command,
                },
            };
            match command {
                Some(Command::Commit(commit)) => self.accept(commit),
                Some(Command::Learn(before)) => {
                    self.ledger.learn(before);
                    self.shared.measure(&self.ledger);
                    self.backlog.extend(self.put_off.drain(..));
                }
                Some(command @ Command::Remove { .. }) if !self.ledger.is_whole() => {
                    self.put_off.push(command);
                }
                Some(Command::Remove { surplus, reply }) => {
                    self.settle_all().await?;
                    let done = self.remove(&surplus).await?;
                    // Whoever asked may have gone; it is removed all the same.
                    let _ = reply.send(done);
                }
                Some(Command::Restore(order)) => {
                    self.settle_all().await?;
                    self.restore(*order).await?;
                    self.backlog.extend(self.put_off.drain(..));
                }
                Some(Command::Resign { reply }) => {
                    self.ending = true;
                    self.settle_all().await?;
                    return Ok(Some(reply));
                }
                None => {
                    self.ending = true;
                    self.settle_all().await?;
                    return Ok(None);
                }
            }
        }
    }

    fn accept(&mut self, commit: Commit) {
        let Commit { epoch, seq, batch, reply } = commit;
        let TermRecord { epoch: present, began, .. } = self.record;
        // Whoever sent it may have stopped waiting; likewise below.
        if epoch.0 != present || seq.0 <= began {
            let reason =
                format!("batch {} of epoch {}: epoch {present} began with batch {began}", seq.0, epoch.0);
            let _ = reply.send(Err(Deposed { reason }));
        } else if seq.0 <= self.applied {
            let _ = reply.send(Ok(()));
        } else if let Some(flight) = self.sent.iter_mut().find(|flight| flight.last >= seq.0) {
            let place = usize::try_from(seq.0 - flight.first).unwrap_or(0);
            flight.batches[place].1.push(reply);
        } else if batch.text.len() > BATCH_BYTES_MAX {
            let bytes = batch.text.len();
            let too_large =
                StoreError::TooLarge(format!("batch {} has {bytes} bytes, of {BATCH_BYTES_MAX}", seq.0));
            let _ = reply.send(Err(Deposed { reason: too_large.to_string() }));
        } else if self.waiting.len() >= WAITING_MAX {
            let reason = format!("{WAITING_MAX} batches wait for one that never came");
            let _ = reply.send(Err(Deposed { reason }));
        } else {
            self.waiting.entry(seq.0).or_default().push(Commit { epoch, seq, batch, reply });
        }
    }

    /// Sends what can be sent.
    async fn send_ready(&mut self) -> Result<(), Over> {
        while self.sent.len() < FLIGHTS_MAX && self.waiting.contains_key(&(self.record.seq + 1)) {
            let first = self.record.seq + 1;
            let (mut batches, mut bytes) = (Vec::new(), 0);
            while batches.len() < GROUP_BATCHES_MAX
                && let Some(same) = self.waiting.first_entry()
                && *same.key() == first + batches.len() as u64
            {
                let size = same.get().first().map_or(0, |commit| commit.batch.size());
                if !batches.is_empty() && bytes + size > GROUP_BYTES_MAX {
                    break;
                }
                bytes += size;
                let mut batch = Batch::default();
                let mut replies = Vec::new();
                for commit in same.remove().into_iter().rev() {
                    batch = commit.batch;
                    replies.push(commit.reply);
                }
                batches.push((batch, replies));
            }
            let flight = self.compose(first, batches);
            if flight.ops.iter().map(Op::bytes).sum::<usize>() > MULTI_BYTES_MAX {
                self.send_in_parts(flight).await?;
            } else {
                self.send(flight);
            }
        }
        Ok(())
    }

    /// Makes operations of batches: their records, their entry in the log, and what else there is to tidy up.
    fn compose(&mut self, first: u64, batches: Vec<(Batch, Replies)>) -> Flight {
        let numbered = || batches.iter().zip(first..).map(|((batch, _), seq)| (seq, batch));
        let mut ops = self.ledger.compose(numbered());
        let epoch = self.record.epoch;
        let entry = Entry::write(numbered().map(|(seq, batch)| (seq, epoch, &*batch.text)));
        self.log_entry(first, entry, &mut ops);
        if ops.iter().map(Op::bytes).sum::<usize>() < MULTI_BYTES_MAX / 2 {
            ops.extend(self.ledger.trim());
        }
        let last = first + batches.len() as u64 - 1;
        Flight { first, last, ops, batches, generation: self.record.generation, unfinished: None }
    }

    fn log_entry(&mut self, first: u64, entry: Vec<u8>, ops: &mut Vec<Op>) {
        self.log.push_back((first, entry.len()));
        self.log_bytes += entry.len();
        ops.push(Op::Create(self.paths.entry(first), entry));
        for _ in 0..LOG_REMOVED_MAX {
            if self.log.len() <= LOG_ENTRIES_MAX && (self.log_bytes <= LOG_BYTES_MAX || self.log.len() < 2) {
                break;
            }
            let Some((old, bytes)) = self.log.pop_front() else { break };
            self.log_bytes -= bytes;
            ops.push(Op::Delete(self.paths.entry(old)));
        }
    }

    /// Sends a group; its place in the chain follows from the one before it.
    fn send(&mut self, flight: Flight) {
        let Flight { last, generation, unfinished, .. } = flight;
        let record = TermRecord { seq: last, generation, unfinished, ..self.record.clone() };
        let answer = self.send_multi(Some(&record), &flight.ops);
        self.record = record;
        self.answers.push_back(answer);
        self.sent.push_back(flight);
    }

    /// Sends operations, guarded by the latch and the epoch, and, with a record, as the next of the chain.
    fn send_multi(&mut self, record: Option<&TermRecord>, ops: &[Op]) -> BoxFuture<'c, Answer> {
        let client = self.client;
        let mut multi = client.new_multi_writer();
        let version = self.version;
        let add = |multi: &mut MultiWriter<'c>| -> Result<i32, Error> {
            multi.add_check_version(&self.member, -1)?;
            multi.add_check_version(&self.mark, -1)?;
            let mut next = version;
            if let Some(record) = record {
                let (path, data) = (self.paths.term(), json(record));
                if version < VERSION_MAX {
                    multi.add_set_data(&path, &data, Some(version))?;
                    next += 1;
                } else {
                    multi.add_delete(&path, Some(version))?;
                    multi.add_create(&path, &data, &self.shared.sessions.persistent())?;
                    next = 0;
                }
            }
            for op in ops {
                match op {
                    Op::Create(path, data) => {
                        multi.add_create(path, data, &self.shared.sessions.persistent())?;
                    }
                    Op::Set(path, data) => multi.add_set_data(path, data, None)?,
                    Op::Delete(path) => multi.add_delete(path, None)?,
                }
            }
            Ok(next)
        };
        match add(&mut multi) {
            Ok(next) => {
                self.version = next;
                // Sent from here on, in this order.
                Box::pin(answered(multi))
            }
            Err(error) => Box::pin(std::future::ready(Err(error.into()))),
        }
    }

    /// The group that was sent first is applied.
    fn acknowledge(&mut self) {
        let Some(flight) = self.sent.pop_front() else { return };
        self.applied = flight.last;
        self.shared.newest.saw(flight.last);
        (self.conflicts, self.in_doubt) = (0, false);
        // Before anybody hears of success.
        self.shared.trouble_is_over();
        self.shared.measure(&self.ledger);
        for reply in flight.batches.into_iter().flat_map(|(_, replies)| replies) {
            // Whoever sent it may have stopped waiting.
            let _ = reply.send(Ok(()));
        }
    }

    /// Takes what has come without doing it, to see whether the term is to end.
    fn peek(&mut self) {
        loop {
            match self.commands.try_recv() {
                Ok(command) => {
                    self.ending |= matches!(command, Command::Resign { .. });
                    self.backlog.push_back(command);
                }
                Err(mpsc::error::TryRecvError::Empty) => return,
                Err(mpsc::error::TryRecvError::Disconnected) => {
                    self.ending = true;
                    return;
                }
            }
        }
    }

    /// Sends all that can be sent, and waits for its answers.
    async fn settle_all(&mut self) -> Result<(), Over> {
        loop {
            self.send_ready().await?;
            if self.sent.is_empty() {
                return Ok(());
            }
            let Some(answer) = self.answers.next().await else { return Ok(()) };
            self.answered(answer).await?;
        }
    }

    /// Refuses everything that waits. Returns whom to tell that the term is over.
    fn depose(&mut self, reason: &str) -> Vec<oneshot::Sender<()>> {
        let mut resigned = Vec::new();
        let waiting = std::mem::take(&mut self.waiting).into_values().flatten().map(|commit| commit.reply);
        let sent = std::mem::take(&mut self.sent).into_iter().flat_map(|flight| flight.batches);
        let mut replies: Replies = waiting.chain(sent.flat_map(|(_, replies)| replies)).collect();
        self.peek();
        self.backlog.extend(self.put_off.drain(..));
        for command in std::mem::take(&mut self.backlog) {
            let deposed = || Deposed { reason: reason.into() };
            match command {
                Command::Commit(commit) => replies.push(commit.reply),
                // Whoever asked may have gone; likewise below.
                Command::Remove { reply, .. } => drop(reply.send(Err(deposed().into()))),
                Command::Restore(order) => drop(order.reply.send(Err(deposed().into()))),
                Command::Resign { reply } => resigned.push(reply),
                Command::Learn(_) => {}
            }
        }
        for reply in replies {
            let _ = reply.send(Err(Deposed { reason: reason.into() }));
        }
        resigned
    }
}

/// The nodes that a generation has before it has records.
pub(super) fn empty_generation(tree: &Tree) -> Vec<Op> {
    let mut ops = vec![Op::Create(tree.path.clone(), Vec::new()), Op::Create(tree.meta(), b"{}".to_vec())];
    ops.extend(Kind::HOT.into_iter().chain(Kind::COLD).map(|kind| Op::Create(tree.kind(kind), Vec::new())));
    ops
}

/// Entries of the log with their sizes, oldest first.
pub(super) async fn log_sizes(client: &Client, paths: &Paths) -> Result<VecDeque<(u64, usize)>, Error> {
    let names = super::session::children(client, &paths.log()).await?;
    let mut firsts: Vec<u64> = names.iter().filter_map(|name| u64::from_str_radix(name, 16).ok()).collect();
    firsts.sort_unstable();
    let sizes = all(&firsts, async |first| {
        let path = paths.entry(*first);
        Ok(patiently(client, || client.check_stat(&path)).await?.map_or(0, |stat| stat.data_length))
    });
    let sizes = sizes.await?.into_iter().map(|bytes| usize::try_from(bytes).unwrap_or(0));
    Ok(firsts.iter().copied().zip(sizes).collect())
}
