//! Several nodes: a database of PostgreSQL, in which one of them holds a lease.
//!
//! Nothing lives on a connection: no prepared statements, no settings, no locks. So a pooler may stand in between, and a
//! connection that is lost takes nothing along. Writing is done by one task (`writer.rs`), reading by a few connections.

mod backup;
mod columns;
mod connect;
mod election;
mod lease;
mod options;
mod past;
pub mod purge;
mod questions;
mod retention;
mod schema;
mod tls;
mod writer;
mod yardstick;

pub(crate) use self::backup::StagedTables;
pub use self::lease::{LEASE, LEASE_MIN};
pub use self::options::{OptionsError, PostgresOptions};
pub use self::yardstick::commit_rate;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use deadpool_postgres::Pool;
use jiff::{SignedDuration, Timestamp};
use scheduler::ids::{Epoch, JobUid, RunKey, Seq};
use scheduler::revision::Revision;
use scheduler::run::Record;
use scheduler::state::{Change, State};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use self::columns::Parameter;
use self::connect::{Limits, Place, SharedPlace, from_pool};
use self::election::POLL;
use self::lease::{Lease, since_boot};
use self::past::Past;
use self::questions::{Followed, ReadError, patient};
use self::schema::{Found, NEXT, VERSIONS};
use self::writer::{Command, Commit, Restore, Statements, Writer};
use crate::backup::{Content, Extent, StageError, Staged};
use crate::rows::Batch;
use crate::{
    Applied, AuditPage, AuditQuery, Candidate, Deposed, HistoryPage, HistoryQuery, LastRun, Member,
    Retention, RevisionPage, RevisionQuery, Store, StoreError, Term, bounded, format,
};

/// A question takes at most so long; loading and backups have no bound, but each answer and each row of theirs has.
const ANSWER: Duration = Duration::from_secs(30);
/// Backups taken at the same time; more wait.
const BACKUPS_MAX: usize = 2;

/// A handle on a store in PostgreSQL; one node's.
#[derive(Debug)]
pub struct PostgresStore {
    shared: Arc<Shared>,
}

/// Opens a store. Nothing is connected to yet: a database that cannot be reached is waited for by whoever needs it. To be
/// called within a runtime of tokio, on which the store's tasks then live.
/// # Errors
/// [`OptionsError`].
pub fn open(options: &PostgresOptions) -> Result<PostgresStore, OptionsError> {
    if options.lease < LEASE_MIN {
        return Err(OptionsError::Lease(options.lease));
    }
    let place = Place::new(&options.url, &options.schema, options.lease)?;
    let place = Arc::new(place.expecting(options.expected.clone()));
    let (orders, inbox) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared {
        pool: place.pool()?,
        statements: Statements::new(&place),
        place,
        lease: Lease { granted: options.lease },
        orders: Mutex::new(Some(orders)),
        leading: Mutex::new(Leading::default()),
        term: watch::Sender::new(()),
        ending: watch::Sender::new(None),
        applied: watch::Sender::new(0),
        lease_seen: watch::Sender::new(None),
        past: Past::default(),
        trouble: Mutex::new(None),
        backups: Semaphore::new(BACKUPS_MAX),
    });
    tokio::spawn(Writer::new(shared.clone(), inbox).run());
    Ok(PostgresStore { shared })
}

/// What the tasks of a handle share.
struct Shared {
    place: SharedPlace,
    pool: Pool,
    statements: Statements,
    lease: Lease,
    /// To the writer; gone when the store is dropped, which ends it.
    orders: Mutex<Option<mpsc::UnboundedSender<Command>>>,
    leading: Mutex<Leading>,
    /// Moves when a term ends.
    term: watch::Sender<()>,
    /// Since when someone wants the present term to end.
    ending: watch::Sender<Option<tokio::time::Instant>>,
    /// The last batch that this handle has written.
    applied: watch::Sender<u64>,
    /// When somebody has looked at the lease, and how long it then was good for.
    lease_seen: watch::Sender<Option<(Instant, Duration)>>,
    /// What whoever follows goes on from.
    past: Past,
    trouble: Mutex<Option<String>>,
    backups: Semaphore,
}

/// Whether this handle leads.
#[derive(Default)]
struct Leading {
    present: Option<Present>,
    /// Of the last attempt that became a term: its lease may still be ours.
    token: String,
    /// Why the last term ended.
    ended: String,
}

/// This handle's term.
struct Present {
    epoch: Epoch,
    candidate: Candidate,
    /// On the boot clock.
    until: Duration,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Shared {
    fn leading(&self) -> MutexGuard<'_, Leading> {
        self.leading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The epoch of our term, as long as the lease is certain.
    fn leads(&self) -> Option<Epoch> {
        let leading = self.leading();
        leading.present.as_ref().filter(|present| since_boot() < present.until).map(|present| present.epoch)
    }

    fn renewed(&self, epoch: i64, until: Duration) {
        if let Some(present) = &mut self.leading().present
            && present.epoch.0 == epoch.cast_unsigned()
        {
            present.until = until;
        }
    }

    fn end_term(&self, reason: &str) -> Option<u64> {
        let mut leading = self.leading();
        let present = leading.present.take()?;
        leading.ended = reason.into();
        drop(leading);
        self.term.send_replace(());
        Some(present.epoch.0)
    }

    /// When someone has wanted the term to end for so long.
    async fn given_up(&self, after: Duration) {
        let mut ending = self.ending.subscribe();
        let since = loop {
            if let Some(since) = *ending.borrow_and_update() {
                break since;
            }
            if ending.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::time::sleep_until(since + after).await;
    }

    fn order(&self, command: Command) -> Result<(), StoreError> {
        let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = orders.as_ref().and_then(|orders| orders.send(command).ok());
        sent.ok_or_else(|| StoreError::Unavailable("the store is being closed".into()))
    }

    /// Looks at the version, and asks a question.
    async fn read<T>(
        &self,
        question: impl AsyncFnOnce(&Client, &Place) -> Result<T, ReadError>,
    ) -> Result<T, StoreError> {
        self.ask(async |client, place| {
            readable(client, place).await?;
            question(client, place).await
        })
        .await
    }

    /// Asks a question.
    async fn ask<T>(
        &self,
        question: impl AsyncFnOnce(&Client, &Place) -> Result<T, ReadError>,
    ) -> Result<T, StoreError> {
        let place = &*self.place;
        let client = from_pool(&self.pool, place).await?;
        match tokio::time::timeout(ANSWER, question(&client, place)).await {
            Ok(answer) => answer.map_err(|error| error.meaning(place)),
            Err(_) => {
                // Its answer may still come: the connection is of no use to the next question.
                drop(deadpool_postgres::Object::take(client));
                Err(place.unavailable(&format!("no answer within {} s", ANSWER.as_secs())))
            }
        }
    }

    /// Asks a question of one row that begins with the versions, in the same statement. `t` is the term record.
    async fn term_row(&self, columns: &str) -> Result<Row, StoreError> {
        let sql = self.place.sql(&format!("SELECT {VERSIONS}, {columns} FROM chronos.term AS t"));
        self.ask(async |client, place| {
            let row = client.query_typed_one(&sql, &[]).await?;
            schema::found(&row, place)?;
            Ok(row)
        })
        .await
    }
}

/// A newer program may have led since the connection was made.
async fn readable(client: &Client, place: &Place) -> Result<(), StoreError> {
    match schema::check(client, place).await? {
        Found::Ours | Found::Older => Ok(()),
        Found::Nothing => Err(place.unavailable(&format!(
            "there is no store in the schema `{}` yet; it is made when a node leads",
            place.schema()
        ))),
    }
}

impl PostgresStore {
    /// The random id of the store: another id means another store, whatever its name.
    /// # Errors
    /// [`StoreError::Unavailable`] also where no node has led yet.
    pub async fn id(&self) -> Result<String, StoreError> {
        self.shared
            .read(async |client, place| {
                let sql = place.sql("SELECT value FROM chronos.meta WHERE name = 'store'");
                Ok(client.query_typed_one(&sql, &[]).await?.get(0))
            })
            .await
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        // The writer does what was asked for, and ends.
        self.shared.orders.lock().unwrap_or_else(PoisonError::into_inner).take();
        let token = std::mem::take(&mut self.shared.leading().token);
        let shared = self.shared.clone();
        // Without a runtime the process is ending, and the lease runs out.
        if let Ok(runtime) = tokio::runtime::Handle::try_current()
            && shared.end_term("the store was closed").is_some()
        {
            runtime.spawn(async move { shared.release(&token).await });
        }
    }
}

#[async_trait]
impl Store for PostgresStore {
    fn kind(&self) -> &'static str {
        "postgres"
    }

    async fn begin_term(&self, candidate: &Candidate) -> Result<Term, StoreError> {
        election::begin(&self.shared, candidate).await
    }

    async fn resign(&self) {
        self.shared.end().await;
        let token = std::mem::take(&mut self.shared.leading().token);
        if !token.is_empty() {
            self.shared.release(&token).await;
        }
    }

    async fn leader(&self) -> Option<Candidate> {
        if self.shared.leads().is_some() {
            return self.shared.leading().present.as_ref().map(|present| present.candidate.clone());
        }
        let row = self.shared.term_row("t.lease_until > clock_timestamp(), t.holder").await.ok()?;
        let holder: Option<&str> = if row.get(NEXT) { row.get(NEXT + 1) } else { None };
        format::read_candidate(holder?)
    }

    async fn store_id(&self) -> Result<Option<String>, StoreError> {
        self.id().await.map(Some)
    }

    async fn present(&self) -> Result<Term, StoreError> {
        Ok(questions::term_of(&self.shared.term_row("t.epoch, t.seq").await?, NEXT))
    }

    async fn announce(&self, candidate: &Candidate, news: &str) -> Result<(), StoreError> {
        bounded(news)?;
        let said = format::write_candidate(candidate);
        let tell = async |client: &Client, place: &Place| {
            // A node may be the first to come, and not lead.
            if schema::check(client, place).await? == Found::Nothing {
                schema::make(client, place).await?;
            }
            let sql = place.sql(
                "INSERT INTO chronos.members VALUES ($1, $2, $3, clock_timestamp()) ON CONFLICT (node) DO UPDATE SET \
                 candidate = excluded.candidate, news = excluded.news, at = excluded.at",
            );
            let told: [Parameter<'_>; 3] =
                [(&candidate.node, Type::TEXT), (&said, Type::TEXT), (&news, Type::TEXT)];
            Ok(client.execute_typed(&sql, &told).await.map(drop)?)
        };
        self.shared.ask(tell).await
    }

    async fn members(&self) -> Result<Vec<Member>, StoreError> {
        let question = async |client: &Client, place: &Place| {
            let sql = place.sql(
                "SELECT candidate, news, (extract(epoch FROM clock_timestamp() - at) * 1000)::bigint \
                 FROM chronos.members ORDER BY node",
            );
            let rows = questions::query(client, &sql, &[]).await?;
            // Of a newer version, which says who it is in another way.
            let known = rows.iter().filter_map(|row| Some((format::read_candidate(row.get(0))?, row)));
            let member = |(candidate, row): (Candidate, &tokio_postgres::Row)| Member {
                candidate,
                news: row.get(1),
                age: Duration::from_millis(u64::try_from(row.get::<_, i64>(2)).unwrap_or(0)),
            };
            Ok(known.map(member).collect())
        };
        self.shared.read(question).await
    }

    async fn forget_member(&self, node: &str) -> Result<bool, StoreError> {
        self.shared
            .read(async |client, place| {
                let sql = place.sql("DELETE FROM chronos.members WHERE node = $1");
                Ok(client.execute_typed(&sql, &[(&node, Type::TEXT)]).await? > 0)
            })
            .await
    }

    async fn clock_ahead(&self) -> Result<Option<SignedDuration>, StoreError> {
        self.shared
            .ask(async |client, _| {
                let (wall, begun) = (Timestamp::now(), since_boot());
                let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";
                let row = client.query_typed_one(sql, &[]).await?;
                let Ok(theirs) = Timestamp::from_millisecond(row.get(0)) else { return Ok(None) };
                // It looked at its clock somewhere in between.
                let half = SignedDuration::try_from((since_boot() - begun) / 2).unwrap_or_default();
                Ok(Some(wall.duration_since(theirs) + half))
            })
            .await
    }

    async fn load(&self) -> Result<(State, Term), StoreError> {
        let place = &*self.shared.place;
        let mut connection = self.shared.place.connect(Limits::None).await?;
        let work = async {
            patient(readable(&connection.client, place)).await?;
            let names = |text: &str| place.sql(text);
            let snapshot = questions::snapshot(&mut connection, questions::lock(names)).await?;
            let (term, led) = questions::term(&snapshot, place).await?;
            let state = questions::state(&snapshot, names).await?;
            patient(snapshot.commit()).await?;
            Ok((state, term, led))
        };
        let (state, term, led) = work.await.map_err(|error: ReadError| error.meaning(place))?;
        self.shared.past.loaded(term, led);
        Ok((state, term))
    }

    async fn commit(&self, epoch: Epoch, seq: Seq, changes: &[Change]) -> Result<(), Deposed> {
        if self.shared.leads() != Some(epoch) {
            return Err(Deposed { reason: format!("this node does not lead epoch {}", epoch.0) });
        }
        let batch = Batch::encode(changes);
        let (reply, answer) = oneshot::channel();
        let ordered = self.shared.order(Command::Commit(Commit { epoch, seq, batch, reply }));
        ordered.map_err(|error| Deposed { reason: error.to_string() })?;
        answer.await.unwrap_or_else(|_| Err(Deposed { reason: "the store was closed".into() }))
    }

    async fn follow(&self, after: Seq) -> Result<Vec<Applied>, StoreError> {
        let mut applied = self.shared.applied.subscribe();
        loop {
            applied.mark_unchanged();
            let past = &self.shared.past;
            let question = async |client: &Client, place: &Place| {
                questions::applied_after(client, place, after, past).await
            };
            let Followed { batches, left, led } = self.shared.ask(question).await?;
            self.shared.lease_seen.send_replace(Some((Instant::now(), left)));
            if !batches.is_empty() {
                past.told(after, &batches);
                past.goes_on_in(led);
                return Ok(batches);
            }
            // Our own writer tells; another node's does not.
            let _ = tokio::time::timeout(POLL, applied.changed()).await;
        }
    }

    async fn history(&self, query: &HistoryQuery) -> Result<HistoryPage, StoreError> {
        self.shared.read(async |client, place| questions::page(client, place, query).await).await
    }

    async fn ended_run(&self, key: RunKey) -> Result<Option<Record>, StoreError> {
        self.shared.read(async |client, place| questions::ended_run(client, place, key).await).await
    }

    async fn revisions(&self, query: &RevisionQuery) -> Result<RevisionPage, StoreError> {
        self.shared.read(async |client, place| questions::revisions(client, place, query).await).await
    }

    async fn revision(&self, job: JobUid, version: u32) -> Result<Option<Revision>, StoreError> {
        self.shared.read(async |client, place| questions::revision(client, place, job, version).await).await
    }

    async fn audit(&self, query: &AuditQuery) -> Result<AuditPage, StoreError> {
        self.shared.read(async |client, place| questions::audit(client, place, query).await).await
    }

    async fn last_runs(&self) -> Result<Vec<LastRun>, StoreError> {
        self.shared.read(async |client, place| questions::last_runs(client, place).await).await
    }

    async fn kept_since(&self, job: JobUid) -> Result<Option<Timestamp>, StoreError> {
        self.shared.read(async |client, place| questions::kept_since(client, place, job).await).await
    }

    async fn prune(&self, retention: Retention, now: Timestamp) -> Result<u64, StoreError> {
        self.shared.prune(retention, now).await
    }

    async fn backup(&self, extent: Extent, to: mpsc::Sender<Vec<u8>>) -> Result<(), StoreError> {
        let _permit = self.shared.backups.acquire().await.expect("the semaphore is never closed");
        backup::write(&self.shared.place, extent, to).await
    }

    async fn stage(&self, from: mpsc::Receiver<Vec<u8>>) -> Result<Staged, StageError> {
        backup::stage(&self.shared.place, from).await
    }

    async fn restore(
        &self,
        epoch: Epoch,
        seq: Seq,
        staged: Staged,
        changes: &[Change],
    ) -> Result<(), StoreError> {
        if self.shared.leads() != Some(epoch) {
            return Err(Deposed { reason: "only the leader restores".into() }.into());
        }
        let Content::Postgres(mut staged) = staged.content else {
            return Err(StoreError::Unavailable("this was staged beside another store".into()));
        };
        staged.apply(changes).await?;
        let (reply, answer) = oneshot::channel();
        let (prefix, ids) = (staged.prefix().to_owned(), staged.ids());
        self.shared.order(Command::Restore(Restore { epoch, seq, prefix, ids, reply }))?;
        answer.await.unwrap_or_else(|_| Err(StoreError::Unavailable("the store was closed".into())))
    }

    async fn deposed(&self, epoch: Epoch) -> Deposed {
        let mut term = self.shared.term.subscribe();
        loop {
            term.mark_unchanged();
            {
                let leading = self.shared.leading();
                if leading.present.as_ref().is_none_or(|present| present.epoch != epoch) {
                    return Deposed { reason: leading.ended.clone() };
                }
            }
            if term.changed().await.is_err() {
                return Deposed { reason: "the store was closed".into() };
            }
        }
    }

    fn trouble(&self) -> Option<String> {
        self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
