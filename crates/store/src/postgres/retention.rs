//! What is kept of the past: the leader removes the rest, some at a time.

use jiff::Timestamp;
use tokio::sync::oneshot;
use tokio_postgres::types::Type;

use super::Shared;
use super::columns::Parameter;
use super::questions;
use super::writer::Command;
use crate::rows::whole_ms;
use crate::{Deposed, Retention, StoreError};

/// Records removed by one statement: some milliseconds.
const REMOVE_MAX: u64 = 1000;

impl Shared {
    pub(super) async fn prune(&self, retention: Retention, now: Timestamp) -> Result<u64, StoreError> {
        let gone = || Deposed { reason: "only the leader removes history".into() };
        self.leads().ok_or_else(gone)?;
        let token = &*self.leading().token.clone();
        let oldest = |age| whole_ms(now.checked_sub(age).unwrap_or(Timestamp::MIN));
        let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let (recorded, count_max) = (oldest(retention.age_max), count(retention.count_max));
        let (noted, noted_max) = (oldest(retention.audit_age_max), count(retention.audit_count_max));
        let limit = REMOVE_MAX.cast_signed();
        let limited = async |which: &str, bound: &i64| {
            self.remove(token, which, &[(bound, Type::INT8), (&limit, Type::INT8)]).await
        };
        let mut removed = 0;
        loop {
            let some = limited(OLD, &recorded).await?;
            removed += some;
            if some < REMOVE_MAX {
                break;
            }
        }
        // Counted once: what comes meanwhile is left for the next time, however fast it comes.
        for (jobs, counts) in slices(&self.surplus(count_max).await?) {
            let slice: [Parameter<'_>; 3] =
                [(&jobs, Type::INT8_ARRAY), (&counts, Type::INT8_ARRAY), (&limit, Type::INT8)];
            removed += self.remove(token, MANY, &slice).await?;
        }
        for (which, bound) in [(OLD_REVISIONS, &recorded), (OLD_ENTRIES, &noted), (MANY_ENTRIES, &noted_max)]
        {
            while limited(which, bound).await? >= REMOVE_MAX {}
        }
        while self.forget(token, limit).await? >= REMOVE_MAX {}
        Ok(removed)
    }

    /// The jobs with more than so many records, and how many more.
    async fn surplus(&self, count_max: i64) -> Result<Vec<(i64, i64)>, StoreError> {
        self.read(async |client, place| {
            let rows = questions::query(client, &place.sql(SURPLUS), &[(&count_max, Type::INT8)]).await?;
            Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
        })
        .await
    }

    /// Forgets deleted jobs without a record, at most so many; how many. A task may outlive that, and its record come at
    /// any time: the writer, which does not write down twice what it knows, is told, and what it has written before it
    /// was told is made good.
    async fn forget(&self, token: &str, limit: i64) -> Result<u64, StoreError> {
        let asked: [Parameter<'_>; 2] = [(&token, Type::TEXT), (&limit, Type::INT8)];
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
            self.remove(token, REMEMBERED, &back).await?;
        }
        Ok(jobs.len() as u64)
    }

    /// Removes what `sql` finds, as long as this node leads. It is about what `ours` says, which goes by the token: two terms
    /// may have one epoch.
    async fn remove(&self, token: &str, sql: &str, more: &[Parameter<'_>]) -> Result<u64, StoreError> {
        let sql = among_ours(sql, "(SELECT count(*) FROM gone)");
        let mut asked: Vec<Parameter<'_>> = vec![(&token, Type::TEXT)];
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

/// Jobs, and how many records of each are to go, for statements of at most [`REMOVE_MAX`] records each.
fn slices(surplus: &[(i64, i64)]) -> Vec<(Vec<i64>, Vec<i64>)> {
    let mut slices: Vec<(Vec<i64>, Vec<i64>)> = Vec::new();
    let mut room = 0;
    for &(job, mut count) in surplus {
        while count > 0 {
            if room == 0 {
                slices.push(Default::default());
                room = REMOVE_MAX.cast_signed();
            }
            let some = count.min(room);
            if let Some((jobs, counts)) = slices.last_mut() {
                jobs.push(job);
                counts.push(some);
            }
            (count, room) = (count - some, room - some);
        }
    }
    slices
}

/// A statement that does `sql` as long as this node leads, and answers whether it does, and more.
fn among_ours(sql: &str, more: &str) -> String {
    format!(
        "WITH ours AS (SELECT FROM chronos.term WHERE token = $1 AND lease_until > clock_timestamp()), {sql} \
         SELECT (SELECT count(*) FROM ours), {more}"
    )
}

/// Records older than `$2`, and since when what is left is whole.
const OLD: &str = "gone AS (DELETE FROM chronos.history WHERE EXISTS (SELECT FROM ours) AND id IN (SELECT id FROM \
     chronos.history WHERE recorded < $2 ORDER BY recorded LIMIT $3) RETURNING job, last_due), floor AS (UPDATE \
     chronos.history_jobs AS j SET kept_since = greatest(j.kept_since, g.due + 1) FROM (SELECT job, max(last_due) AS due \
     FROM gone GROUP BY job) AS g WHERE j.job = g.job)";
/// The jobs with more than `$1` records, and how many more: a look at all of the history.
const SURPLUS: &str =
    "SELECT job, count(*) - $1 FROM chronos.history GROUP BY job HAVING count(*) > $1 ORDER BY job";
/// Of each job of `$2` the oldest so many as `$3` says, likewise. They are not more than `$4`, which tells the planner
/// that it need not read all of the history.
const MANY: &str = "gone AS (DELETE FROM chronos.history WHERE EXISTS (SELECT FROM ours) AND id IN (SELECT h.id FROM \
     unnest($2, $3) AS s(job, n) CROSS JOIN LATERAL (SELECT id FROM chronos.history WHERE job = s.job ORDER BY id LIMIT \
     s.n) AS h LIMIT $4) RETURNING job, last_due), floor AS (UPDATE chronos.history_jobs AS j SET kept_since = \
     greatest(j.kept_since, g.due + 1) FROM (SELECT job, max(last_due) AS due FROM gone GROUP BY job) AS g WHERE j.job = \
     g.job)";
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

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(surplus: &[(i64, i64)], expected: &[&[(i64, i64)]]) {
        let slices = slices(surplus).into_iter();
        let slices: Vec<Vec<_>> =
            slices.map(|(jobs, counts)| jobs.into_iter().zip(counts).collect()).collect();
        assert_eq!(slices, expected);
    }

    #[test]
    fn what_is_too_much_goes_in_slices() {
        check(&[], &[]);
        check(&[(1, 3), (2, 4)], &[&[(1, 3), (2, 4)]]);
        check(&[(1, 1000), (2, 1)], &[&[(1, 1000)], &[(2, 1)]]);
        check(&[(1, 2500), (2, 600)], &[&[(1, 1000)], &[(1, 1000)], &[(1, 500), (2, 500)], &[(2, 100)]]);
    }
}
