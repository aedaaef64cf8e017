//! The one task that writes: takes all batches that wait, and makes one statement of them.
//!
//! Every statement begins with the conditional move of the term record, so a doubt about the one before it is settled by the
//! same look that fences: what has been applied already is answered, a batch of a deposed term is refused. One statement is
//! on its way at a time; what comes meanwhile goes with the next one.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use scheduler::ids::{Epoch, Seq};
use tokio::sync::{mpsc, oneshot};
use tokio_postgres::error::Severity;
use tokio_postgres::types::Type;
use tracing::{info, warn};

use super::Shared;
use super::columns::{COLUMNS, Columns, Notices, Parameter, call};
use super::connect::{Connection, Limits};
use super::lease::since_boot;
use crate::rows::{Batch, KNOWN_MAX, LogSizes};
use crate::{Deposed, StoreError};

/// Batches in one statement, and their bytes: so that those who wait for the first one wait for milliseconds.
const GROUP_BATCHES_MAX: usize = 64;
const GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Batches that may wait for a missing predecessor. A driver has at most 8 in flight.
const WAITING_MAX: usize = 64;
/// Pauses between tries while the database cannot be reached.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// A node that resigns waits so long for an answer, if the database does not give it.
const RESIGN: Duration = Duration::from_secs(1);

/// What the writer is asked to do.
pub(super) enum Command {
    /// A term has begun.
    Lead(Tenure),
    /// Apply a batch.
    Commit(Commit),
    /// Put staged tables in the place of ours.
    Restore(Restore),
    /// Jobs were forgotten that the writer may take for known.
    Forgot(oneshot::Sender<()>),
    /// End the term after everything that came before.
    Resign(oneshot::Sender<()>),
}

/// A term, as its writer knows it.
pub(super) struct Tenure {
    pub(super) epoch: i64,
    /// Of the attempt that it came of. A database that has lost the beginning of a term in a fail-over may begin another one
    /// of the same epoch.
    pub(super) token: String,
    /// The batch that began it.
    pub(super) began: u64,
    /// The last batch that was applied.
    pub(super) last: u64,
    /// When the server was last asked for the lease that we have.
    pub(super) asked: Duration,
    /// What is kept for followers.
    pub(super) log: LogSizes,
    /// Jobs that the history knows.
    pub(super) known: HashSet<i64>,
}

/// A batch that waits to be applied.
pub(super) struct Commit {
    pub(super) epoch: Epoch,
    pub(super) seq: Seq,
    pub(super) batch: Batch,
    pub(super) reply: oneshot::Sender<Result<(), Deposed>>,
}

/// Staged tables, and the batch that makes them current.
pub(super) struct Restore {
    pub(super) epoch: Epoch,
    pub(super) seq: Seq,
    pub(super) prefix: String,
    /// What the last record, revision or entry in them is numbered.
    pub(super) ids: i64,
    pub(super) reply: oneshot::Sender<Result<(), StoreError>>,
}

/// What the server says to a statement that moves the term record. `moved` also where an attempt before has moved it,
/// whose answer was lost.
struct Verdict {
    moved: bool,
    epoch: i64,
    began: i64,
    seq: u64,
    /// Whether the lease has not run out.
    held: bool,
    /// Whether the term is that of our attempt.
    ours: bool,
}

/// A statement of a term; it may be sent again.
enum Statement<'a> {
    /// Batches from one to another.
    Apply { after: u64, last: u64, batches: Vec<&'a [u8]>, forget: i64, columns: &'a Columns<'a> },
    /// Nothing but the lease.
    Renew,
    /// Staged tables in the place of ours.
    Swap { after: u64, prefix: &'a str, ids: i64 },
}

impl Statement<'_> {
    /// The batch that it moves the term record to.
    fn moves_to(&self) -> Option<u64> {
        match self {
            Self::Apply { last, .. } => Some(*last),
            Self::Renew => None,
            Self::Swap { after, .. } => Some(after + 1),
        }
    }
}

/// Why there was no verdict.
enum Unsettled {
    /// Nor will there be.
    Deposed(Deposed),
    /// The server refused the statement, and every attempt before: nothing has changed.
    Refused(StoreError),
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    inbox: mpsc::UnboundedReceiver<Command>,
    connection: Option<Connection>,
    tenure: Option<Tenure>,
    /// By seq; a batch may be sent twice.
    waiting: BTreeMap<u64, Vec<Commit>>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, inbox: mpsc::UnboundedReceiver<Command>) -> Self {
        Self { shared, inbox, connection: None, tenure: None, waiting: BTreeMap::new() }
    }

    /// Until the store is dropped.
    pub(super) async fn run(mut self) {
        loop {
            let renew = self.renew_in();
            if !self.can_apply() {
                tokio::select! {
                    command = self.inbox.recv() => match command {
                        Some(command) => self.take(command).await,
                        None => break,
                    },
                    () = tokio::time::sleep(renew.unwrap_or(Duration::MAX)), if renew.is_some() => {}
                }
            }
            while let Ok(command) = self.inbox.try_recv() {
                self.take(command).await;
            }
            if self.can_apply() {
                self.apply().await;
            } else if self.renew_in().is_some_and(|time| time.is_zero()) {
                self.renew().await;
            }
        }
        self.finish().await;
        self.end("the store was closed");
    }

    async fn take(&mut self, command: Command) {
        match command {
            Command::Lead(tenure) => {
                self.refuse("a new term begins");
                self.connection = None;
                self.tenure = Some(tenure);
            }
            Command::Commit(commit) => {
                if self.waiting.len() >= WAITING_MAX {
                    // Most of them wait for nothing but their turn.
                    self.finish().await;
                }
                if self.waiting.len() >= WAITING_MAX {
                    let reason = format!("{WAITING_MAX} batches wait for one that never came");
                    let _ = commit.reply.send(Err(Deposed { reason }));
                    return;
                }
                self.waiting.entry(commit.seq.0).or_default().push(commit);
                self.answer();
            }
            Command::Restore(order) => {
                self.finish().await;
                let done = self.restore(&order).await;
                // Whoever asked may have gone; it is done all the same.
                let _ = order.reply.send(done);
            }
            Command::Forgot(reply) => {
                if let Some(tenure) = &mut self.tenure {
                    tenure.known.clear();
                }
                let _ = reply.send(());
            }
            Command::Resign(reply) => {
                self.finish().await;
                self.end("this node has resigned");
                self.connection = None;
                let _ = reply.send(());
            }
        }
    }

    /// When the lease is to be renewed; `None` while there is none.
    fn renew_in(&self) -> Option<Duration> {
        let at = self.shared.lease.renew_at(self.tenure.as_ref()?.asked);
        Some(at.saturating_sub(since_boot()))
    }

    /// Whether the next batch is there.
    fn can_apply(&self) -> bool {
        self.tenure.as_ref().is_some_and(|tenure| self.waiting.contains_key(&(tenure.last + 1)))
    }

    async fn finish(&mut self) {
        while self.can_apply() {
            self.apply().await;
        }
    }

    /// One statement with all batches that wait for nothing but their turn, as far as it takes them.
    async fn apply(&mut self) {
        let Some(mut tenure) = self.tenure.take() else { return };
        let waiting = std::mem::take(&mut self.waiting);
        let (mut batches, mut bytes) = (Vec::new(), 0);
        // What belongs to no batch of this term was answered when it came.
        while let Some(commit) =
            waiting.get(&(tenure.last + 1 + batches.len() as u64)).and_then(|same| same.first())
        {
            bytes += commit.batch.bytes();
            if batches.len() == GROUP_BATCHES_MAX || (!batches.is_empty() && bytes > GROUP_BYTES_MAX) {
                break;
            }
            batches.push(&commit.batch);
        }
        let after = tenure.last;
        let last = after + batches.len() as u64;
        for (seq, batch) in (after + 1..).zip(&batches) {
            tenure.log.push(seq.cast_signed(), batch.bytes());
        }
        let forget = tenure.log.trim().unwrap_or(0);
        let notices = Notices::of(&batches);
        let columns = Columns::of(&batches, &notices, &tenure.known);
        let texts = batches.iter().map(|batch| batch.text.as_bytes()).collect();
        let statement = Statement::Apply { after, last, batches: texts, forget, columns: &columns };
        let settled = self.settle(&mut tenure, &statement).await;
        let known = columns.known;
        self.waiting = waiting;
        match settled {
            Ok(verdict) if verdict.moved => {
                tenure.last = last;
                if tenure.known.len() + known.len() > KNOWN_MAX {
                    tenure.known.clear();
                }
                tenure.known.extend(known);
                self.shared.wrote(&tenure);
                self.tenure = Some(tenure);
                self.answer();
            }
            Ok(verdict) => {
                let reason = format!("batch {last} could not follow batch {}", verdict.seq);
                self.end(&reason);
            }
            Err(Unsettled::Deposed(deposed)) => self.end(&deposed.reason),
            Err(Unsettled::Refused(error)) => self.end(&error.to_string()),
        }
    }

    async fn renew(&mut self) {
        let Some(mut tenure) = self.tenure.take() else { return };
        match self.settle(&mut tenure, &Statement::Renew).await {
            Ok(verdict) if verdict.seq == tenure.last => self.tenure = Some(tenure),
            // Somebody has moved it in our name, or the database has gone back to an older past.
            Ok(verdict) => {
                let reason = format!("the last batch is {}, and not {}", verdict.seq, tenure.last);
                self.end(&reason);
            }
            Err(Unsettled::Deposed(deposed)) => self.end(&deposed.reason),
            Err(Unsettled::Refused(error)) => self.end(&error.to_string()),
        }
    }

    async fn restore(&mut self, order: &Restore) -> Result<(), StoreError> {
        let gone = |reason: String| StoreError::Deposed(Deposed { reason });
        let Some(mut tenure) = self.tenure.take() else {
            return Err(gone("only the leader restores".into()));
        };
        let (epoch, after) = (tenure.epoch, tenure.last);
        if order.epoch.0 != epoch.cast_unsigned() || order.seq.0 != after + 1 {
            self.tenure = Some(tenure);
            return Err(gone(format!(
                "batch {} of epoch {} is not the next one",
                order.seq.0, order.epoch.0
            )));
        }
        let statement = Statement::Swap { after, prefix: &order.prefix, ids: order.ids };
        match self.settle(&mut tenure, &statement).await {
            Ok(verdict) if verdict.moved => {
                tenure.last = order.seq.0;
                (tenure.log, tenure.known) = (LogSizes::default(), HashSet::new());
                self.shared.wrote(&tenure);
                self.tenure = Some(tenure);
                Ok(())
            }
            Ok(verdict) => {
                let reason = format!("batch {} could not follow batch {}", order.seq.0, verdict.seq);
                self.end(&reason);
                Err(gone(reason))
            }
            Err(Unsettled::Deposed(deposed)) => {
                self.end(&deposed.reason);
                Err(deposed.into())
            }
            Err(Unsettled::Refused(error)) => {
                self.tenure = Some(tenure);
                Err(error)
            }
        }
    }

    /// Sends a statement until the server has given its verdict, or the lease is over. A swap that it refuses is not
    /// sent again, unless one that was sent before may have been done.
    async fn settle(&mut self, tenure: &mut Tenure, statement: &Statement<'_>) -> Result<Verdict, Unsettled> {
        let (shared, lease) = (self.shared.clone(), self.shared.lease);
        let mut pause = PAUSE_MIN;
        let mut last_error = None;
        // When the first attempt was begun that may have been done, or may still be.
        let mut in_doubt = None;
        loop {
            let left = lease.until(tenure.asked).saturating_sub(since_boot());
            if left.is_zero() {
                let why =
                    last_error.map_or_else(|| "it came too late".to_owned(), |error| format!("{error}"));
                let reason = format!("the lease could not be renewed in time: {why}");
                return Err(Unsettled::Deposed(Deposed { reason }));
            }
            let asked = since_boot();
            let attempt = tokio::time::timeout(left.min(lease.answer_within()), self.send(tenure, statement));
            let answer = tokio::select! {
                answer = attempt => answer,
                () = shared.given_up(RESIGN) => {
                    self.connection = None;
                    let reason = "this node resigned before the database answered".into();
                    return Err(Unsettled::Deposed(Deposed { reason }));
                }
            };
            let error = match answer {
                Ok(Ok(mut verdict)) => {
                    shared.trouble_is_over();
                    if verdict.epoch != tenure.epoch || !verdict.ours || !verdict.held {
                        return Err(Unsettled::Deposed(verdict.deposes(tenure.epoch)));
                    }
                    // Not moved now, but where it is to be: it was done before, only the answer was lost, and the lease
                    // is of then.
                    let before = in_doubt.filter(|_| statement.moves_to() == Some(verdict.seq));
                    if let Some(asked) = if verdict.moved { Some(asked) } else { before } {
                        verdict.moved = true;
                        tenure.asked = asked;
                        shared.renewed(tenure.epoch, lease.until(asked));
                    }
                    return Ok(verdict);
                }
                Ok(Err(Failed::Answered(error)))
                    if in_doubt.is_none() && matches!(statement, Statement::Swap { .. }) =>
                {
                    return Err(Unsettled::Refused(error));
                }
                Ok(Err(Failed::NotSent(error) | Failed::Answered(error))) => error,
                Ok(Err(Failed::Unknown(error))) => {
                    in_doubt.get_or_insert(asked);
                    error
                }
                Err(_) => {
                    if self.connection.is_some() {
                        in_doubt.get_or_insert(asked);
                    }
                    let within = lease.answer_within().as_secs_f32();
                    shared.place.unavailable(&format!("no answer within {within:.1} s"))
                }
            };
            // Whatever it was, another connection may find another server. What is still on its way on this one finds the
            // record moved, or waits for its row and then finds it moved.
            self.connection = None;
            shared.trouble(&error);
            last_error = Some(error);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shared.given_up(Duration::ZERO) => {
                    let reason = "this node resigned while the database could not be reached".into();
                    return Err(Unsettled::Deposed(Deposed { reason }));
                }
            }
            pause = PAUSE_MAX.min(pause * 2);
        }
    }

    async fn send(&mut self, tenure: &Tenure, statement: &Statement<'_>) -> Result<Verdict, Failed> {
        let (shared, epoch, token) = (&self.shared, tenure.epoch, &*tenure.token);
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(shared.place.connect(Limits::Statement).await.map_err(Failed::NotSent)?),
        };
        let granted = millis(shared.lease.granted);
        let number = u64::cast_signed;
        let nothing: Vec<&[u8]> = Vec::new();
        let row = match statement {
            Statement::Apply { after, last, batches, forget, columns } => {
                let (after, last) = (number(*after), number(*last));
                let mut asked: Vec<Parameter<'_>> = Vec::with_capacity(8 + COLUMNS);
                asked.extend::<[Parameter<'_>; 8]>([
                    (&token, Type::TEXT),
                    (&epoch, Type::INT8),
                    (&after, Type::INT8),
                    (&last, Type::INT8),
                    (&granted, Type::INT8),
                    (&columns.ids, Type::INT8),
                    (batches, Type::BYTEA_ARRAY),
                    (forget, Type::INT8),
                ]);
                asked.extend(columns.parameters());
                connection.client.query_typed_one(&shared.statements.apply, &asked).await
            }
            Statement::Renew => {
                let asked: [Parameter<'_>; 3] =
                    [(&token, Type::TEXT), (&epoch, Type::INT8), (&granted, Type::INT8)];
                connection.client.query_typed_one(&shared.statements.renew, &asked).await
            }
            Statement::Swap { after, prefix, ids } => {
                let (after, last) = (number(*after), number(after + 1));
                let asked: [Parameter<'_>; 10] = [
                    (&token, Type::TEXT),
                    (&epoch, Type::INT8),
                    (&after, Type::INT8),
                    (&last, Type::INT8),
                    (&granted, Type::INT8),
                    (&0_i64, Type::INT8),
                    (&nothing, Type::BYTEA_ARRAY),
                    (&0_i64, Type::INT8),
                    (prefix, Type::TEXT),
                    (ids, Type::INT8),
                ];
                connection.client.query_typed_one(&shared.statements.swap, &asked).await
            }
        };
        let row = row.map_err(|error| {
            let meaning = shared.place.meaning(&error);
            if did_nothing(&error) { Failed::Answered(meaning) } else { Failed::Unknown(meaning) }
        })?;
        Ok(Verdict {
            moved: row.get("moved"),
            epoch: row.get("epoch"),
            began: row.get("began"),
            seq: row.get::<_, i64>("seq").cast_unsigned(),
            held: row.get("held"),
            ours: row.get("ours"),
        })
    }

    /// Answers everything that has been applied, and what belongs to no batch of this term.
    fn answer(&mut self) {
        let term =
            self.tenure.as_ref().map(|tenure| (tenure.epoch.cast_unsigned(), tenure.began, tenure.last));
        for (seq, same) in std::mem::take(&mut self.waiting) {
            for commit in same {
                let verdict = match term {
                    Some((epoch, began, _)) if commit.epoch.0 != epoch || seq <= began => Err(Deposed {
                        reason: format!(
                            "batch {seq} of epoch {}: epoch {epoch} began with batch {began}",
                            commit.epoch.0
                        ),
                    }),
                    Some((_, _, last)) if seq <= last => Ok(()),
                    Some(_) => {
                        self.waiting.entry(seq).or_default().push(commit);
                        continue;
                    }
                    None => {
                        Err(Deposed { reason: format!("this node does not lead epoch {}", commit.epoch.0) })
                    }
                };
                // Whoever sent it may have stopped waiting.
                let _ = commit.reply.send(verdict);
            }
        }
    }

    /// Ends the term and refuses everything that waits.
    fn end(&mut self, reason: &str) {
        if let Some(epoch) = self.shared.end_term(reason) {
            info!(epoch, reason, "the term is over");
        }
        self.tenure = None;
        self.refuse(reason);
    }

    fn refuse(&mut self, reason: &str) {
        for commit in std::mem::take(&mut self.waiting).into_values().flatten() {
            // Whoever sent it may have stopped waiting.
            let _ = commit.reply.send(Err(Deposed { reason: reason.into() }));
        }
    }
}

/// Why a statement has no verdict.
enum Failed {
    /// There was no connection to send it on.
    NotSent(StoreError),
    /// The server says that it did nothing.
    Answered(StoreError),
    /// It may or may not have been done.
    Unknown(StoreError),
}

/// Whether the server itself says that it has undone a statement. One that is being stopped, or a pooler that has lost
/// it, cannot tell.
fn did_nothing(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some_and(|error| {
        error.parsed_severity() == Some(Severity::Error) && !error.code().code().starts_with("08")
    })
}

impl Verdict {
    fn deposes(&self, ours: i64) -> Deposed {
        let Self { epoch, began, .. } = self;
        let reason = if *epoch == ours && !self.ours {
            format!(
                "our term of epoch {ours} is gone: it was given back, or the database has lost its beginning and \
                 another leads in that epoch"
            )
        } else if *epoch == ours {
            format!("the lease of epoch {ours} had run out")
        } else {
            format!("epoch {epoch} began with batch {began}")
        };
        Deposed { reason }
    }
}

/// What the writer says, with the names of our schema.
pub(super) struct Statements {
    apply: String,
    renew: String,
    swap: String,
}

impl Statements {
    pub(super) fn new(place: &super::connect::Place) -> Self {
        let moved = "m.moved, m.epoch, m.began, m.seq, m.held, coalesce(t.token = $1, false) AS ours";
        // No record has the epoch NULL. Who changes the token meanwhile changes the epoch, or ends the lease.
        let epoch = "CASE WHEN t.token = $1 THEN $2 END";
        let from = |function: &str, rest: &str| {
            format!("FROM chronos.term AS t, chronos.{function}({epoch}, {rest}) AS m")
        };
        let move_to = from("move", "$3, $4, $5, $6, $7, $8");
        Self {
            apply: place.sql(&format!(
                "SELECT {moved}, CASE WHEN m.moved THEN chronos.apply(m.base, {}) END {move_to}",
                call(9)
            )),
            swap: place
                .sql(&format!("SELECT {moved}, CASE WHEN m.moved THEN chronos.swap($9, $10) END {move_to}")),
            renew: place.sql(&format!("SELECT {moved} {}", from("renew", "$3"))),
        }
    }
}

pub(super) fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

impl Shared {
    /// Tells of all that was applied in this term.
    fn wrote(&self, tenure: &Tenure) {
        let epoch = Epoch(tenure.epoch.cast_unsigned());
        self.past.wrote(epoch, &tenure.token, Seq(tenure.began), Seq(tenure.last));
        self.applied.send_replace(tenure.last);
    }

    /// Remembers what is wrong, for `/ready`, and says so once.
    pub(super) fn trouble(&self, error: &StoreError) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.is_none() {
            warn!(%error, "cannot use the store, trying again");
        }
        *trouble = Some(error.to_string());
    }

    pub(super) fn trouble_is_over(&self) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.take().is_some() {
            info!("the store can be used again");
        }
    }
}
