//! Who leads: an attempt takes the lease that nobody holds, and what is no longer wanted is given back.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use scheduler::ids::{Epoch, Seq};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::columns::Parameter;
use super::connect::from_pool;
use super::lease::since_boot;
use super::questions::{self, LEASE_LEFT};
use super::schema::{self, Found, NEXT};
use super::writer::{Command, Tenure, millis};
use super::{Present, Shared};
use crate::rows::LogSizes;
use crate::{Candidate, StoreError, Term, format};

/// How often a candidate looks whether the lease is free, and a follower whether something was written, which is the same
/// question: a planned hand-over takes half of that on average, within half a second in all.
pub(super) const POLL: Duration = Duration::from_millis(200);
/// The same while the database cannot be reached.
const POLL_MAX: Duration = Duration::from_secs(1);

/// What is not released within this time runs out by itself.
const RELEASE: Duration = Duration::from_secs(2);

/// Begins a term, however long that takes.
pub(super) async fn begin(shared: &Arc<Shared>, candidate: &Candidate) -> Result<Term, StoreError> {
    // A new term ends the old one.
    shared.end().await;
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| StoreError::Unavailable(error.to_string()))?;
    let token = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut attempt = Attempt { shared: shared.clone(), token, work: None };
    let mut pause = POLL;
    loop {
        let done = match attempt.next(candidate).await {
            Ok(Some(term)) => {
                shared.trouble_is_over();
                attempt.succeed();
                return Ok(term);
            }
            Ok(None) => {
                shared.trouble_is_over();
                pause = POLL;
                shared.until_free().await
            }
            Err(error) => Err(error),
        };
        match done {
            Ok(()) => continue,
            Err(error @ (StoreError::Newer { .. } | StoreError::Damaged(_))) => return Err(error),
            Err(error) => {
                shared.trouble(&error);
                pause = POLL_MAX.min(pause * 2);
            }
        }
        tokio::time::sleep(pause).await;
    }
}

impl Shared {
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
        let (token, known) = (token.to_owned(), HashSet::new());
        leading.token.clone_from(&token);
        self.order(Command::Lead(Tenure { epoch, token, began, last: began, asked, log, known }))?;
        self.ending.send_replace(None);
        self.applied.send_replace(began);
        leading.present =
            Some(Present { epoch: term.epoch, candidate: candidate.clone(), until: self.lease.until(asked) });
        Ok(Some(term))
    }

    /// Ends the present term, if there is one, after everything that came before.
    pub(super) async fn end(&self) {
        let (reply, done) = oneshot::channel();
        self.ending.send_replace(Some(tokio::time::Instant::now()));
        if self.order(Command::Resign(reply)).is_ok() {
            // An error means that the store is being closed, which ends the term too.
            let _ = done.await;
        }
    }

    /// Lets another begin at once, instead of when the lease runs out.
    pub(super) async fn release(&self, token: &str) {
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
