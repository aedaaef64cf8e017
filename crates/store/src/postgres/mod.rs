//! Several nodes: a database of PostgreSQL, in which one of them holds a lease.
//!
//! Nothing lives on a connection: no prepared statements, no settings, no locks. So a pooler may stand in between, and a
//! connection that is lost takes nothing along. Writing is done by one task (`writer.rs`), reading by a few connections.

mod backup;
mod columns;
mod connect;
mod lease;
pub mod purge;
mod questions;
mod schema;
mod tls;
mod writer;
mod yardstick;

pub(crate) use self::backup::StagedTables;
pub use self::lease::{LEASE, LEASE_MIN};
pub use self::yardstick::commit_rate;

use std::collections::HashSet;
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
use tokio::task::JoinHandle;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use self::columns::Parameter;
use self::connect::{Limits, Place, SharedPlace, from_pool};
use self::lease::{Lease, since_boot};
use self::questions::{LEASE_LEFT, ReadError};
use self::schema::{Found, NEXT, VERSIONS};
use self::writer::{Command, Commit, Restore, Statements, Tenure, Writer, millis};
use crate::backup::{Content, Extent, StageError, Staged};
use crate::rows::{Batch, LogSizes, small, whole_ms};
use crate::{
    Applied, AuditPage, AuditQuery, Candidate, Deposed, HistoryPage, HistoryQuery, LastRun, Member,
    Retention, RevisionPage, RevisionQuery, Store, StoreError, Term, bounded, format,
};

/// How often a candidate looks whether the lease is free, and a follower whether something was written, which is the same
/// question: a planned hand-over takes half of that on average, within half a second in all.
const POLL: Duration = Duration::from_millis(200);
/// The same while the database cannot be reached.
const POLL_MAX: Duration = Duration::from_secs(1);
/// A question takes at most so long; loading and backups have no bound, but each row of theirs has.
const ANSWER: Duration = Duration::from_secs(30);
/// Backups taken at the same time; more wait.
const BACKUPS_MAX: usize = 2;
/// Records removed by one statement: some milliseconds.
const REMOVE_MAX: usize = 1000;

/// Where the store is.
#[derive(Clone)]
pub struct PostgresOptions {
    /// `postgres://user:password@host:port/database?sslmode=verify-full&sslrootcert=/etc/ca.pem`, as libpq takes them.
    pub url: String,
    /// The schema that the tables are in; made if it is not there.
    pub schema: String,
    /// How long a leader that is not heard of keeps the right to lead; at least [`LEASE_MIN`].
    pub lease: Duration,
    /// The id of the only store that is meant; another one is not touched, and none is made.
    pub expected: Option<String>,
}

impl PostgresOptions {
    /// The schema that is used if nobody says otherwise.
    pub const SCHEMA: &'static str = "chronos";

    /// The usual schema and lease.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), schema: Self::SCHEMA.into(), lease: LEASE, expected: None }
    }
}

impl std::fmt::Debug for PostgresOptions {
    /// The URL has a password in it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { url: _, schema, lease, .. } = self;
        f.debug_struct("PostgresOptions")
            .field("schema", schema)
            .field("lease", lease)
            .finish_non_exhaustive()
    }
}

/// What is wrong with the options. Nothing was connected to yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// Not one of PostgreSQL.
    #[error(
        "the URL of the database is not valid: {0}; it is like postgres://user:password@host:5432/database"
    )]
    Url(String),
    /// Another word.
    #[error("`sslmode={0}` is not known; it is one of disable, prefer, require, verify-ca, verify-full")]
    SslMode(String),
    /// Certificates or a key.
    #[error("TLS to the database cannot be set up: {0}")]
    Tls(String),
    /// A name that would need quoting.
    #[error(
        "`{0}` is no name for a schema here; it is at most 40 of a-z, 0-9 and _, begins with a letter, and not with pg_"
    )]
    Schema(String),
    /// Too short.
    #[error("a lease of {0:?} is too short; the shortest is {LEASE_MIN:?}")]
    Lease(Duration),
}

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

    /// Waits until the lease may be free: whoever attempts to lead asks much more. A follower, where there is one, looks
    /// anyway.
    async fn until_free(&self) -> Result<(), StoreError> {
        let mut seen = self.lease_seen.subscribe();
        loop {
            let known = seen.borrow_and_update().filter(|(at, _)| at.elapsed() < POLL * 2);
            let (at, left) = match known {
                Some(known) => known,
                None => {
                    let row = self.term_row(LEASE_LEFT).await?;
                    (Instant::now(), questions::lease_left(&row, NEXT))
                }
            };
            if left.is_zero() {
                // What comes of the attempt is another matter than what was seen before it.
                self.lease_seen.send_replace(None);
                return Ok(());
            }
            self.trouble_is_over();
            let again = at + if known.is_some() { POLL * 2 } else { POLL };
            let runs_out = at + left;
            tokio::select! {
                () = tokio::time::sleep_until(again.min(runs_out).into()) => {
                    if runs_out <= again {
                        self.lease_seen.send_replace(None);
                    }
                }
                _ = seen.changed() => {}
            }
        }
    }

    /// Begins a term if nobody else holds the lease.
    async fn try_begin(&self, token: &str, candidate: &Candidate) -> Result<Option<Term>, StoreError> {
        let place = &*self.place;
        let client = from_pool(&self.pool, place).await?;
        let fresh = async {
            let found = schema::check(&client, place).await?;
            if found == Found::Nothing {
                schema::make(&client, place).await?;
            }
            schema::check_settings(&client, place).await?;
            let begun = self.take_lease(&client, token, candidate).await?;
            // Not before: while an older program leads, its followers still read.
            if begun.is_some() && found == Found::Older {
                schema::raise_format(&client, place).await?;
            }
            Ok(begun)
        };
        let done = tokio::time::timeout(self.lease.granted / 2, fresh).await;
        let done = done.unwrap_or_else(|_| {
            Err(place
                .unavailable(&format!("no answer within {:.1} s", self.lease.granted.as_secs_f32() / 2.0)))
        });
        if done.is_err() {
            // Settings of roles and databases are those of the moment at which a connection was made.
            drop(deadpool_postgres::Object::take(client));
        }
        done
    }

    async fn take_lease(
        &self,
        client: &Client,
        token: &str,
        candidate: &Candidate,
    ) -> Result<Option<Term>, StoreError> {
        let place = &*self.place;
        let meaning = |error: tokio_postgres::Error| place.meaning(&error);
        let ours = vec![token.to_owned(), self.leading().token.clone()];
        let holder = format::write_candidate(candidate);
        let sql = place.sql("SELECT epoch, seq FROM chronos.begin_term($1, $2, $3, $4)");
        let asked = since_boot();
        let begun: [Parameter<'_>; 4] = [
            (&token, Type::TEXT),
            (&ours, Type::TEXT_ARRAY),
            (&holder, Type::TEXT),
            (&millis(self.lease.granted), Type::INT8),
        ];
        let Some(row) = client.query_typed_opt(&sql, &begun).await.map_err(meaning)? else { return Ok(None) };
        let (epoch, seq): (i64, i64) = (row.get(0), row.get(1));
        let sizes = place.sql("SELECT seq, octet_length(batch) FROM chronos.changes ORDER BY seq");
        let mut log = LogSizes::default();
        for row in client.query_typed(&sizes, &[]).await.map_err(meaning)? {
            log.push(row.get(0), usize::try_from(row.get::<_, i32>(1)).unwrap_or(0));
        }
        let began = seq.cast_unsigned();
        let term = Term { epoch: Epoch(epoch.cast_unsigned()), seq: Seq(began) };
        let mut leading = self.leading();
        if leading.present.as_ref().is_some_and(|present| present.epoch > term.epoch) {
            // This attempt was given up, and a later one was faster.
            return Ok(None);
        }
        self.order(Command::Lead(Tenure { epoch, began, last: began, asked, log, known: HashSet::new() }))?;
        self.ending.send_replace(None);
        self.applied.send_replace(began);
        leading.token = token.into();
        leading.present =
            Some(Present { epoch: term.epoch, candidate: candidate.clone(), until: self.lease.until(asked) });
        Ok(Some(term))
    }

    /// Ends the present term, if there is one, after everything that came before.
    async fn end(&self) {
        let (reply, done) = oneshot::channel();
        self.ending.send_replace(Some(tokio::time::Instant::now()));
        if self.order(Command::Resign(reply)).is_ok() {
            // An error means that the store is being closed, which ends the term too.
            let _ = done.await;
        }
    }

    /// Lets another begin at once, instead of when the lease runs out.
    async fn release(&self, token: &str) {
        let sql = self.place.sql(
            "UPDATE chronos.term SET lease_until = '-infinity', token = NULL, holder = NULL WHERE token = $1",
        );
        let work = async {
            let client = from_pool(&self.pool, &self.place).await?;
            client
                .execute_typed(&sql, &[(&token, Type::TEXT)])
                .await
                .map_err(|error| self.place.meaning(&error))
        };
        // Not done means that others wait until the lease has run out, and nothing worse.
        let _ = tokio::time::timeout(RELEASE, work).await;
    }
}

/// What is not released within this time runs out by itself.
const RELEASE: Duration = Duration::from_secs(2);

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

/// An attempt to lead. Given up when dropped, whatever may have come of it.
struct Attempt {
    shared: Arc<Shared>,
    token: String,
    work: Option<JoinHandle<Result<Option<Term>, StoreError>>>,
}

impl Attempt {
    async fn next(&mut self, candidate: &Candidate) -> Result<Option<Term>, StoreError> {
        let (shared, token, candidate) = (self.shared.clone(), self.token.clone(), candidate.clone());
        let work = self.work.insert(tokio::spawn(async move { shared.try_begin(&token, &candidate).await }));
        let done = work.await;
        self.work = None;
        done.unwrap_or_else(|error| {
            Err(StoreError::Unavailable(format!("the attempt to lead stopped: {error}")))
        })
    }

    /// It has become a term.
    fn succeed(mut self) {
        self.token.clear();
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let token = std::mem::take(&mut self.token);
        if token.is_empty() {
            return;
        }
        let (shared, work) = (self.shared.clone(), self.work.take());
        // Without a runtime the process is ending, and the lease runs out.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            if let Some(work) = work {
                let _ = work.await;
            }
            if shared.leading().token == token {
                shared.end().await;
            }
            shared.release(&token).await;
        });
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

    /// Forgets deleted jobs without a record, at most so many; how many. A task may outlive that, and its record come at
    /// any time: the writer, which does not write down twice what it knows, is told, and what it has written before it
    /// was told is made good.
    async fn forget(&self, epoch: i64, limit: i64) -> Result<u64, StoreError> {
        let asked: [Parameter<'_>; 2] = [(&epoch, Type::INT8), (&limit, Type::INT8)];
        let sql =
            among_ours(FORGOTTEN, "(SELECT array_agg(job) FROM gone), (SELECT array_agg(name) FROM gone)");
        type Row = (i64, Option<Vec<i64>>, Option<Vec<String>>);
        let (ours, jobs, names): Row = self
            .shared
            .read(async |client, place| {
                let rows = questions::query(client, &place.sql(&sql), &asked).await?;
                Ok((rows[0].get(0), rows[0].get(1), rows[0].get(2)))
            })
            .await?;
        if ours == 0 {
            return Err(Deposed { reason: "only the leader removes history".into() }.into());
        }
        let (jobs, names) = (jobs.unwrap_or_default(), names.unwrap_or_default());
        if !jobs.is_empty() {
            let (reply, told) = oneshot::channel();
            self.shared.order(Command::Forgot(reply))?;
            told.await.map_err(|_| StoreError::Unavailable("the store was closed".into()))?;
            let back: [Parameter<'_>; 2] = [(&jobs, Type::INT8_ARRAY), (&names, Type::TEXT_ARRAY)];
            self.remove(epoch, REMEMBERED, &back).await?;
        }
        Ok(jobs.len() as u64)
    }

    /// Removes what `sql` finds, as long as this node leads. It is about what `ours` says.
    async fn remove(&self, epoch: i64, sql: &str, more: &[Parameter<'_>]) -> Result<u64, StoreError> {
        let sql = among_ours(sql, "(SELECT count(*) FROM gone)");
        let mut asked: Vec<Parameter<'_>> = vec![(&epoch, Type::INT8)];
        asked.extend(more.iter().map(|(value, kind)| (*value, kind.clone())));
        let (ours, gone): (i64, i64) = self
            .shared
            .read(async |client, place| {
                let rows = questions::query(client, &place.sql(&sql), &asked).await?;
                Ok((rows[0].get(0), rows[0].get(1)))
            })
            .await?;
        if ours == 0 {
            return Err(Deposed { reason: "only the leader removes history".into() }.into());
        }
        Ok(gone.cast_unsigned())
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
        // A new term ends the old one.
        self.shared.end().await;
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let token = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut attempt = Attempt { shared: self.shared.clone(), token, work: None };
        let mut pause = POLL;
        loop {
            let done = match attempt.next(candidate).await {
                Ok(Some(term)) => {
                    self.shared.trouble_is_over();
                    attempt.succeed();
                    return Ok(term);
                }
                Ok(None) => {
                    self.shared.trouble_is_over();
                    pause = POLL;
                    self.shared.until_free().await
                }
                Err(error) => Err(error),
            };
            match done {
                Ok(()) => continue,
                Err(error @ (StoreError::Newer { .. } | StoreError::Damaged(_))) => return Err(error),
                Err(error) => {
                    self.shared.trouble(&error);
                    pause = POLL_MAX.min(pause * 2);
                }
            }
            tokio::time::sleep(pause).await;
        }
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
        readable(&connection.client, place).await?;
        let work = async {
            let names = |text: &str| place.sql(text);
            let snapshot = questions::snapshot(&mut connection, questions::lock(names)).await?;
            let term = questions::term(&snapshot, place).await?;
            let state = questions::state(&snapshot, names).await?;
            snapshot.commit().await?;
            Ok((state, term))
        };
        work.await.map_err(|error: ReadError| error.meaning(place))
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
            let question =
                async |client: &Client, place: &Place| questions::applied_after(client, place, after).await;
            let (batches, left) = self.shared.ask(question).await?;
            self.shared.lease_seen.send_replace(Some((Instant::now(), left)));
            if !batches.is_empty() {
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
        let gone = || Deposed { reason: "only the leader removes history".into() };
        let epoch = self.shared.leads().ok_or_else(gone)?.0.cast_signed();
        let oldest = |age| whole_ms(now.checked_sub(age).unwrap_or(Timestamp::MIN));
        let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let (recorded, count_max) = (oldest(retention.age_max), count(retention.count_max));
        let (noted, noted_max) = (oldest(retention.audit_age_max), count(retention.audit_count_max));
        let limit = small(REMOVE_MAX);
        let mut removed = 0;
        for (which, bound) in [(OLD, &recorded), (MANY, &count_max)] {
            loop {
                let some = self.remove(epoch, which, &[(bound, Type::INT8), (&limit, Type::INT8)]).await?;
                removed += some;
                if some == 0 {
                    break;
                }
            }
        }
        for (which, bound) in [(OLD_REVISIONS, &recorded), (OLD_ENTRIES, &noted), (MANY_ENTRIES, &noted_max)]
        {
            while self.remove(epoch, which, &[(bound, Type::INT8), (&limit, Type::INT8)]).await? > 0 {}
        }
        while self.forget(epoch, limit).await? > 0 {}
        Ok(removed)
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

/// A statement that does `sql` as long as this node leads, and answers whether it does, and more.
fn among_ours(sql: &str, more: &str) -> String {
    format!(
        "WITH ours AS (SELECT FROM chronos.term WHERE epoch = $1 AND lease_until > clock_timestamp()), {sql} \
         SELECT (SELECT count(*) FROM ours), {more}"
    )
}

/// Records older than `$2`, and since when what is left is whole.
const OLD: &str = "gone AS (DELETE FROM chronos.history WHERE EXISTS (SELECT FROM ours) AND id IN (SELECT id FROM \
     chronos.history WHERE recorded < $2 ORDER BY recorded LIMIT $3) RETURNING job, last_due), floor AS (UPDATE \
     chronos.history_jobs AS j SET kept_since = greatest(j.kept_since, g.due + 1) FROM (SELECT job, max(last_due) AS due \
     FROM gone GROUP BY job) AS g WHERE j.job = g.job)";
/// Of each job all but the newest `$2`, likewise.
const MANY: &str = "gone AS (DELETE FROM chronos.history WHERE EXISTS (SELECT FROM ours) AND id IN (SELECT h.id FROM \
     (SELECT job, count(*) AS n FROM chronos.history GROUP BY job HAVING count(*) > $2) AS s CROSS JOIN LATERAL (SELECT id \
     FROM chronos.history WHERE job = s.job ORDER BY id LIMIT s.n - $2) AS h LIMIT $3) RETURNING job, last_due), floor AS \
     (UPDATE chronos.history_jobs AS j SET kept_since = greatest(j.kept_since, g.due + 1) FROM (SELECT job, max(last_due) \
     AS due FROM gone GROUP BY job) AS g WHERE j.job = g.job)";
/// Revisions of jobs whose deletion is older than `$2`.
const OLD_REVISIONS: &str = "gone AS (DELETE FROM chronos.revisions WHERE EXISTS (SELECT FROM ours) AND job IN (SELECT job \
     FROM chronos.revisions WHERE deleted AND at < $2 LIMIT $3) RETURNING 1)";
/// Entries of the audit older than `$2`.
const OLD_ENTRIES: &str = "gone AS (DELETE FROM chronos.audit WHERE EXISTS (SELECT FROM ours) AND id IN (SELECT id FROM \
     chronos.audit WHERE at < $2 ORDER BY id LIMIT $3) RETURNING 1)";
/// All but the newest `$2`.
const MANY_ENTRIES: &str = "gone AS (DELETE FROM chronos.audit WHERE EXISTS (SELECT FROM ours) AND id IN (SELECT id FROM \
     chronos.audit WHERE id <= (SELECT id FROM chronos.audit ORDER BY id DESC OFFSET $2 LIMIT 1) ORDER BY id LIMIT $3) \
     RETURNING 1)";
/// Deleted jobs of which the history has no record left.
const FORGOTTEN: &str = "gone AS (DELETE FROM chronos.history_jobs WHERE EXISTS (SELECT FROM ours) AND job IN (SELECT job \
     FROM chronos.history_jobs AS j WHERE NOT EXISTS (SELECT FROM chronos.jobs WHERE uid = j.job) AND NOT EXISTS (SELECT \
     FROM chronos.history WHERE job = j.job) LIMIT $2) RETURNING job, name)";
/// Of these jobs, those that have a record nevertheless.
const REMEMBERED: &str = "gone AS (INSERT INTO chronos.history_jobs (job, name) SELECT u.job, u.name FROM unnest($2, $3) AS \
     u(job, name) WHERE EXISTS (SELECT FROM ours) AND EXISTS (SELECT FROM chronos.history WHERE job = u.job) ON CONFLICT \
     (job) DO NOTHING RETURNING 1)";
