//! What is kept of the past: the leader removes the rest, some at a time.

use jiff::Timestamp;
use tokio::sync::oneshot;
use tokio_postgres::types::Type;

use super::Shared;
use super::columns::Parameter;
use super::questions;
use super::writer::Command;
use crate::rows::{small, whole_ms};
use crate::{Deposed, Retention, StoreError};

/// Records removed by one statement: some milliseconds.
const REMOVE_MAX: usize = 1000;

impl Shared {
    pub(super) async fn prune(&self, retention: Retention, now: Timestamp) -> Result<u64, StoreError> {
        let gone = || Deposed { reason: "only the leader removes history".into() };
        let epoch = self.leads().ok_or_else(gone)?.0.cast_signed();
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

    /// Forgets deleted jobs without a record, at most so many; how many. A task may outlive that, and its record come at
    /// any time: the writer, which does not write down twice what it knows, is told, and what it has written before it
    /// was told is made good.
    async fn forget(&self, epoch: i64, limit: i64) -> Result<u64, StoreError> {
        let asked: [Parameter<'_>; 2] = [(&epoch, Type::INT8), (&limit, Type::INT8)];
        let sql =
            among_ours(FORGOTTEN, "(SELECT array_agg(job) FROM gone), (SELECT array_agg(name) FROM gone)");
        type Row = (i64, Option<Vec<i64>>, Option<Vec<String>>);
        let (ours, jobs, names): Row = self
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
            self.order(Command::Forgot(reply))?;
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
