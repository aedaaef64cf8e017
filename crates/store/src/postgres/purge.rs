//! The end of a store: what is there is looked at without making anything, and removed while nobody leads.

use super::connect::{Limits, Place};
use super::schema::{self, Found, LOCK};
use super::{OptionsError, PostgresOptions};
use crate::{StoreError, format};

/// What the tables tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remains {
    /// Whether there is a store.
    pub there: bool,
    /// How many jobs it has.
    pub jobs: usize,
    /// Under which id the engine is known, as the store has it.
    pub note: Option<String>,
    /// Who holds the lease, if it has not run out.
    pub leads: Option<String>,
}

/// Tables that may be removed.
pub struct Tables {
    place: Place,
}

impl Tables {
    /// Connects to nothing yet.
    /// # Errors
    /// [`OptionsError`].
    pub fn new(options: &PostgresOptions) -> Result<Self, OptionsError> {
        Ok(Self { place: Place::new(&options.url, &options.schema, options.lease)? })
    }

    /// The schema.
    pub fn schema(&self) -> &str {
        self.place.schema()
    }

    /// What is there. Makes nothing.
    /// # Errors
    /// See [`StoreError`].
    pub async fn look(&self) -> Result<Remains, StoreError> {
        let connection = self.place.connect(Limits::Statement).await?;
        if schema::check(&connection.client, &self.place).await? == Found::Nothing {
            return Ok(Remains::default());
        }
        let sql = self.place.sql(
            "SELECT (SELECT count(*) FROM chronos.jobs), (SELECT value FROM chronos.live WHERE kind = 'meta'),
               (SELECT coalesce(holder, '?') FROM chronos.term WHERE lease_until > clock_timestamp())",
        );
        let row = connection.client.query_typed_one(&sql, &[]).await;
        let row = row.map_err(|error| self.place.meaning(&error))?;
        let (jobs, meta, leads) =
            (row.get::<_, i64>(0), row.get::<_, Option<&str>>(1), row.get::<_, Option<&str>>(2));
        let meta = meta.map(|meta| format::read_meta(meta.as_bytes())).transpose();
        let meta = meta.map_err(|error| self.place.damaged(&error.to_string()))?;
        let note = meta.and_then(|meta| meta.engine_note).as_deref().map(Into::into);
        let leads = leads.map(|holder| {
            let candidate = format::read_candidate(holder);
            candidate.and_then(|it| it.addresses.first().cloned()).unwrap_or_else(|| holder.to_owned())
        });
        Ok(Remains { there: true, jobs: usize::try_from(jobs).unwrap_or(0), note, leads })
    }

    /// Removes what a store has made, all at once or nothing, and leaves the schema, which may be an administrator's. From
    /// here on a node that comes makes an empty store.
    /// # Errors
    /// [`StoreError::Unavailable`], also where somebody holds the lease.
    pub async fn remove(&self) -> Result<(), StoreError> {
        let connection = self.place.connect(Limits::Statement).await?;
        let schema = self.place.schema();
        // Those that a staged backup has left begin with a word of their own.
        let sql = self.place.sql(&format!(
            "DO $purge$
            DECLARE
              thing record;
            BEGIN
              PERFORM pg_advisory_xact_lock({LOCK}, hashtext('{schema}'));
              IF to_regclass('chronos.term') IS NULL THEN
                RETURN;
              END IF;
              LOCK TABLE chronos.term IN ACCESS EXCLUSIVE MODE;
              PERFORM 1 FROM chronos.term WHERE lease_until > clock_timestamp();
              IF FOUND THEN
                RAISE EXCEPTION 'somebody leads: stop all nodes first';
              END IF;
              FOR thing IN SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname = '{schema}' AND c.relkind = 'r' AND (c.relname = ANY (ARRAY['jobs', 'progress', 'live',
                  'history', 'history_jobs', 'revisions', 'audit', 'meta', 'term', 'changes', 'members'])
                  OR c.relname LIKE 'staged\\_%') LOOP
                EXECUTE format('DROP TABLE %I.%I', '{schema}', thing.relname);
              END LOOP;
              FOR thing IN SELECT p.oid::regprocedure AS name FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                WHERE n.nspname = '{schema}' AND (p.proname = ANY (ARRAY['durable', 'begin_term', 'move', 'renew', 'swap',
                  'apply']) OR p.proname LIKE 'staged\\_%') LOOP
                EXECUTE 'DROP FUNCTION ' || thing.name;
              END LOOP;
            END $purge$"
        ));
        connection.client.batch_execute(&sql).await.map_err(|error| self.place.meaning(&error))
    }
}
