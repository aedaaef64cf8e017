//! Questions to the database. Each is a statement of its own, but for those that need everything as of one moment.

use std::collections::{BTreeMap, VecDeque};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use jiff::Timestamp;
use scheduler::ids::{Epoch, JobName, JobUid, RunKey, Seq};
use scheduler::revision::Revision;
use scheduler::run::Record;
use scheduler::state::State;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, IsolationLevel, Row, RowStream, Transaction};

use super::ANSWER;
use super::columns::Parameter;
use super::connect::{Connection, Place};
use super::past::{Led, Past};
use super::schema::{self, NEXT, VERSIONS};
use crate::format::{self, FormatError};
use crate::rows::{code, integer, letters, outcome, small, whole_ms};
use crate::{
    Applied, AuditPage, AuditQuery, HistoryOrder, HistoryPage, HistoryQuery, LastRun, RevisionPage,
    RevisionQuery, StoreError, Term,
};

/// What one answer to a follower holds at most.
const FOLLOW_BYTES_MAX: i64 = 4 * 1024 * 1024;
/// Batches that one answer to a follower looks at.
const FOLLOW_BATCHES_MAX: i64 = 1000;
/// Records that one question about all jobs looks into: a tenth of a second. What is rarer is found by asking on.
const LOOKED_INTO_MAX: i64 = 65_536;
/// Records that are decoded at once, on a thread for such work.
const CHUNK_ROWS: usize = 4096;
/// A row that follows another one comes within this time.
const ROW: Duration = Duration::from_secs(30);
/// Chunks that are being decoded while further ones are read.
const DECODERS: usize = 2;

/// Why a question was not answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Format(#[from] FormatError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("no answer within {} s", ANSWER.as_secs())]
    Silent,
}

impl ReadError {
    pub(super) fn meaning(self, place: &Place) -> StoreError {
        match self {
            Self::Postgres(error) => place.meaning(&error),
            Self::Format(error) => place.damaged(&error.to_string()),
            Self::Store(error) => error,
            Self::Silent => place.unavailable(&self.to_string()),
        }
    }
}

/// Waits for one answer, not for ever: a server that is stuck, or cut off, may keep a connection open and say nothing.
pub(super) async fn patient<T, E>(answer: impl Future<Output = Result<T, E>>) -> Result<T, ReadError>
where
    ReadError: From<E>,
{
    match tokio::time::timeout(ANSWER, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(ReadError::Silent),
    }
}

/// The tables of content, as a statement names them.
pub(super) const CONTENT: &str = "chronos.jobs, chronos.progress, chronos.live, chronos.history, chronos.history_jobs, \
                                  chronos.revisions, chronos.audit";

/// Begins to read everything as of one moment. The tables are locked against being replaced before the moment is taken: what
/// was put in their place later would look empty.
pub(super) async fn snapshot(
    connection: &mut Connection,
    lock: String,
) -> Result<Transaction<'_>, ReadError> {
    let begin = connection.client.build_transaction();
    let begin = begin.isolation_level(IsolationLevel::RepeatableRead).read_only(true);
    let transaction = patient(begin.start()).await?;
    patient(transaction.batch_execute(&lock)).await?;
    Ok(transaction)
}

/// The statement that locks the tables that `names` makes of ours.
pub(super) fn lock(names: impl Fn(&str) -> String) -> String {
    names(&format!("LOCK TABLE {CONTENT} IN ACCESS SHARE MODE"))
}

/// How far it has come, and in whose term.
pub(super) async fn term(client: &Transaction<'_>, place: &Place) -> Result<(Term, Option<Led>), ReadError> {
    let sql = place.sql("SELECT epoch, seq, token FROM chronos.term");
    let row = patient(client.query_typed_one(&sql, &[])).await?;
    Ok((term_of(&row, 0), led_of(&row, 0, 2)))
}

/// Whose term it is, by the columns of epoch and token; nobody's where it was given back.
fn led_of(row: &Row, epoch: usize, token: usize) -> Option<Led> {
    let token = row.get::<_, Option<String>>(token)?;
    Some(Led { epoch: Epoch(number(row, epoch)), token })
}

/// Epoch and seq, in two columns.
pub(super) fn term_of(row: &Row, first: usize) -> Term {
    Term { epoch: Epoch(number(row, first)), seq: Seq(number(row, first + 1)) }
}

fn number(row: &Row, column: usize) -> u64 {
    row.get::<_, i64>(column).cast_unsigned()
}

fn text(row: &Row, column: usize) -> &[u8] {
    row.get::<_, &str>(column).as_bytes()
}

/// The hot state in the tables that `names` makes of ours.
pub(super) async fn state(
    client: &Transaction<'_>,
    names: impl Fn(&str) -> String,
) -> Result<State, ReadError> {
    let live = |kind: &str| names(&format!("SELECT value FROM chronos.live WHERE kind = '{kind}'"));
    let counters = patient(client.query_typed(&live("meta"), &[])).await?;
    let counters = counters.first().ok_or_else(|| StoreError::Damaged("it has no counters".into()))?;
    Ok(State {
        meta: format::read_meta(text(counters, 0))?,
        jobs: all(client, &names("SELECT value FROM chronos.jobs ORDER BY uid"), |value| {
            format::read_job(value).map(|job| (job.uid, Arc::new(job)))
        })
        .await?,
        progress: all(client, &names("SELECT value FROM chronos.progress ORDER BY uid"), |value| {
            format::read_progress(value).map(|(uid, progress)| (uid, Arc::new(progress)))
        })
        .await?,
        runs: all(client, &live("run"), |value| format::read_run(value).map(|run| (run.key, Arc::new(run))))
            .await?,
        joins: all(client, &live("join"), |value| {
            format::read_join(value).map(|join| ((join.child, join.cycle), Arc::new(join)))
        })
        .await?,
        fanouts: all(client, &live("fanout"), |value| {
            format::read_fanout(value).map(|fanout| (fanout.run, Arc::new(fanout)))
        })
        .await?,
        backfills: all(client, &live("backfill"), |value| {
            format::read_backfill(value).map(|backfill| (backfill.id, Arc::new(backfill)))
        })
        .await?,
        notices: all(client, &live("notice"), |value| {
            format::read_notice(value).map(|notice| (notice.id, Arc::new(notice)))
        })
        .await?,
        receipts: all(client, &live("receipt"), |value| {
            format::read_receipt(value).map(|receipt| (receipt.once.key.clone(), Arc::new(receipt)))
        })
        .await?,
        staged: all(client, &live("staged"), |value| {
            format::read_staged(value).map(|definition| (definition.name.clone(), Arc::new(definition)))
        })
        .await?,
    })
}

/// A table as a map. Reading a million records is mostly decoding, so large tables are decoded by other threads. The pairs
/// are collected first: a map is built of sorted pairs far faster than pair by pair.
async fn all<K, V, F>(client: &Transaction<'_>, sql: &str, read: F) -> Result<BTreeMap<K, V>, ReadError>
where
    K: Ord + Send + 'static,
    V: Send + 'static,
    F: Fn(&[u8]) -> Result<(K, V), FormatError> + Copy + Send + 'static,
{
    let decode =
        move |rows: Vec<Row>| rows.iter().map(|row| read(text(row, 0))).collect::<Result<Vec<_>, _>>();
    let none = std::iter::empty::<Parameter<'_>>();
    let mut rows = pin!(patient(client.query_typed_raw(sql, none)).await?);
    let (mut chunk, mut pairs, mut decoding) = (Vec::new(), Vec::new(), VecDeque::new());
    while let Some(row) = next(rows.as_mut()).await? {
        chunk.push(row);
        if chunk.len() == CHUNK_ROWS {
            let chunk = std::mem::take(&mut chunk);
            decoding.push_back(tokio::task::spawn_blocking(move || decode(chunk)));
        }
        if decoding.len() > DECODERS
            && let Some(done) = decoding.pop_front()
        {
            pairs.extend(done.await.map_err(stopped)??);
        }
    }
    for done in decoding {
        pairs.extend(done.await.map_err(stopped)??);
    }
    pairs.extend(decode(chunk)?);
    Ok(pairs.into_iter().collect())
}

/// The next row. A server that has stopped is not waited for: it may hold up a node that wants to lead.
pub(super) async fn next(rows: Pin<&mut RowStream>) -> Result<Option<Row>, ReadError> {
    let mut rows = rows;
    match tokio::time::timeout(ROW, rows.next()).await {
        Ok(row) => Ok(row.transpose()?),
        Err(_) => {
            let why = format!("PostgreSQL has stopped in the middle of an answer for {} s", ROW.as_secs());
            Err(StoreError::Unavailable(why).into())
        }
    }
}

fn stopped(error: tokio::task::JoinError) -> StoreError {
    StoreError::Unavailable(format!("reading stopped: {error}"))
}

/// What a follower is told.
pub(super) struct Followed {
    pub(super) batches: Vec<Applied>,
    /// Until the lease runs out.
    pub(super) left: Duration,
    pub(super) led: Option<Led>,
}

/// Batches after `after`, which `past` may know; none when there are none yet.
pub(super) async fn applied_after(
    client: &Client,
    place: &Place,
    after: Seq,
    past: &Past,
) -> Result<Followed, ReadError> {
    let told = past.epoch_of(after);
    // One statement, so that term, batches and versions are of one moment; it has one row at least.
    let sql = place.sql(&format!(
        "SELECT {VERSIONS}, {LEASE_LEFT}, t.seq, (SELECT min(seq) FROM chronos.changes), (SELECT epoch FROM chronos.changes \
         WHERE seq = $1), t.epoch, t.token, c.seq, c.epoch, c.batch FROM chronos.term AS t LEFT JOIN (SELECT seq, epoch, batch, \
         sum(octet_length(batch)) OVER (ORDER BY seq) AS total FROM chronos.changes WHERE seq > $1 AND seq <= $2) AS c \
         ON c.total <= $3 OR c.seq = $4 ORDER BY c.seq",
    ));
    let first = integer_of(after.0).saturating_add(1);
    let last = integer_of(after.0).saturating_add(FOLLOW_BATCHES_MAX);
    let asked: [Parameter<'_>; 4] = [
        (&(first - 1), Type::INT8),
        (&last, Type::INT8),
        (&FOLLOW_BYTES_MAX, Type::INT8),
        (&first, Type::INT8),
    ];
    let rows = query(client, &sql, &asked).await?;
    // Of the one term record, so the same in every row.
    let led = rows.first().and_then(|row| led_of(row, NEXT + 4, NEXT + 5));
    let is_another_term = led.as_ref().is_some_and(|led| past.is_another(led));
    let mut followed = Followed { batches: Vec::with_capacity(rows.len()), left: Duration::ZERO, led };
    for row in &rows {
        // A newer program may have led since the last question.
        schema::found(row, place)?;
        followed.left = lease_left(row, NEXT);
        let last = number(row, NEXT + 1);
        let oldest = Seq(row.get::<_, Option<i64>>(NEXT + 2).map_or(last + 1, i64::cast_unsigned));
        let epoch = row.get::<_, Option<i64>>(NEXT + 3).map(|epoch| Epoch(epoch.cast_unsigned()));
        // A batch of another epoch than the one that was told is of another past, though it has its number.
        let is_another = is_another_term || (told.is_some() && epoch.is_some() && told != epoch);
        if after.0 > last || after.0 + 1 < oldest.0 || is_another {
            return Err(StoreError::Gone { asked: Seq(after.0.saturating_add(1)), oldest }.into());
        }
        if let Some(seq) = row.get::<_, Option<i64>>(NEXT + 6) {
            followed.batches.push(Applied {
                seq: Seq(seq.cast_unsigned()),
                epoch: Epoch(number(row, NEXT + 7)),
                changes: format::read_batch(row.get(NEXT + 8))?,
            });
        }
    }
    Ok(followed)
}

/// Milliseconds until the lease of `t`, the term record, runs out; 0 when it has.
pub(super) const LEASE_LEFT: &str = "CASE WHEN t.lease_until > clock_timestamp() THEN (extract(epoch FROM t.lease_until - \
                                     clock_timestamp()) * 1000)::bigint ELSE 0 END";

/// What a column says that is [`LEASE_LEFT`].
pub(super) fn lease_left(row: &Row, column: usize) -> Duration {
    Duration::from_millis(u64::try_from(row.get::<_, i64>(column)).unwrap_or(0))
}

/// Databases count with signed numbers; ours never have 64 bits, those that are asked for may.
fn integer_of(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A question without anything that is kept on the connection.
pub(super) async fn query(
    client: &Client,
    sql: &str,
    asked: &[Parameter<'_>],
) -> Result<Vec<Row>, ReadError> {
    let asked = asked.iter().map(|(value, kind)| (*value, kind.clone()));
    let mut rows = pin!(client.query_typed_raw(sql, asked).await?);
    let mut found = Vec::new();
    while let Some(row) = rows.next().await {
        found.push(row?);
    }
    Ok(found)
}

/// A page of the history.
pub(super) async fn page(
    client: &Client,
    place: &Place,
    wanted: &HistoryQuery,
) -> Result<HistoryPage, ReadError> {
    let newest_first = wanted.order == HistoryOrder::NewestFirst;
    let (beyond, way) = if newest_first { ("<", "DESC") } else { (">", "ASC") };
    // What is looked for in a row; `$1` is where the page before ended.
    let conditions = "(1 << outcome::int) & $2 <> 0 AND last_due >= $3 AND first_due < $4 AND ($5 = '' OR \
                      strpos($5, coalesce(substr(key, strpos(key, '-') + 1, 1), 'i')) > 0)";
    let of_all = wanted.job.is_none() && wanted.name.is_none();
    let sql = if of_all {
        format!(
            "SELECT id, value FROM (SELECT * FROM chronos.history WHERE id {beyond} $1 ORDER BY id {way} LIMIT $7) AS h \
             WHERE {conditions} ORDER BY id {way} LIMIT $6"
        )
    } else {
        // Each of the jobs by its own index: a name may have belonged to several, one after the other.
        let jobs = match (wanted.job, &wanted.name) {
            (Some(_), None) => "SELECT $7::bigint AS job WHERE $8::text IS NULL",
            (None, _) => "SELECT job FROM chronos.history_jobs WHERE name = $8 AND $7::bigint IS NULL",
            (Some(_), Some(_)) => "SELECT job FROM chronos.history_jobs WHERE name = $8 AND job = $7",
        };
        format!(
            "SELECT h.id, h.value FROM ({jobs}) AS j CROSS JOIN LATERAL (SELECT id, value FROM chronos.history \
             WHERE job = j.job AND id {beyond} $1 AND {conditions} ORDER BY id {way} LIMIT $6) AS h \
             ORDER BY h.id {way} LIMIT $6"
        )
    };
    let every = (1 << 7) - 1;
    let bits = wanted.outcomes.iter().fold(0, |bits, outcome| bits | 1 << code(*outcome));
    let outcomes: i32 = if wanted.outcomes.is_empty() { every } else { bits };
    let start = if newest_first { i64::MAX } else { i64::MIN };
    let start = wanted.cursor.and_then(|cursor| i64::try_from(cursor).ok()).unwrap_or(start);
    let (from, to) = (wanted.from.map_or(i64::MIN, whole_ms), wanted.to.map_or(i64::MAX, whole_ms));
    let causes = letters(&wanted.causes);
    // One more than the page holds, to know whether there is a next one.
    let limit = small(wanted.limit()) + 1;
    let job = wanted.job.map(integer);
    let name = wanted.name.as_deref().filter(|name| is_text(name));
    if wanted.name.is_some() && name.is_none() {
        return Ok(HistoryPage::default());
    }
    let mut asked: Vec<Parameter<'_>> = vec![
        (&start, Type::INT8),
        (&outcomes, Type::INT4),
        (&from, Type::INT8),
        (&to, Type::INT8),
        (&causes, Type::TEXT),
        (&limit, Type::INT8),
    ];
    if of_all {
        asked.push((&LOOKED_INTO_MAX, Type::INT8));
    } else {
        asked.extend([(&job as _, Type::INT8), (&name as _, Type::TEXT)]);
    }
    let mut rows = query(client, &place.sql(&sql), &asked).await?;
    let more = rows.len() > wanted.limit();
    rows.truncate(wanted.limit());
    let records = rows.iter().map(|row| format::read_record(text(row, 1))).collect::<Result<Vec<_>, _>>()?;
    let next = match rows.last() {
        Some(last) if more => Some(number(last, 0)),
        _ if of_all => looked_up_to(client, place, start, beyond, way).await?,
        _ => None,
    };
    Ok(HistoryPage { records, next })
}

/// PostgreSQL has no text with this character in it; nothing is named so.
fn is_text(name: &str) -> bool {
    !name.contains('\0')
}

/// Where a question about all jobs stopped looking; `None` if it has seen all.
async fn looked_up_to(
    client: &Client,
    place: &Place,
    start: i64,
    beyond: &str,
    way: &str,
) -> Result<Option<u64>, ReadError> {
    let sql = place.sql(&format!(
        "SELECT id FROM chronos.history WHERE id {beyond} $1 ORDER BY id {way} OFFSET $2 LIMIT 2"
    ));
    let asked: [Parameter<'_>; 2] = [(&start, Type::INT8), (&(LOOKED_INTO_MAX - 1), Type::INT8)];
    // The last one that was looked at, and one more.
    let rows = query(client, &sql, &asked).await?;
    Ok(if rows.len() == 2 { Some(number(&rows[0], 0)) } else { None })
}

pub(super) async fn ended_run(
    client: &Client,
    place: &Place,
    key: RunKey,
) -> Result<Option<Record>, ReadError> {
    let sql = place.sql("SELECT value FROM chronos.history WHERE key = $1 ORDER BY id DESC LIMIT 1");
    let found = query(client, &sql, &[(&key.to_string(), Type::TEXT)]).await?;
    Ok(found.first().map(|row| format::read_record(text(row, 0))).transpose()?)
}

pub(super) async fn last_runs(client: &Client, place: &Place) -> Result<Vec<LastRun>, ReadError> {
    let sql = place.sql(
        "SELECT h.key, h.outcome, h.recorded FROM chronos.history_jobs AS j CROSS JOIN LATERAL (SELECT key, outcome, \
         recorded FROM chronos.history WHERE job = j.job AND key IS NOT NULL ORDER BY id DESC LIMIT 1) AS h",
    );
    let mut found = Vec::new();
    for row in query(client, &sql, &[]).await? {
        let text: &str = row.get(0);
        let last = text
            .parse()
            .ok()
            .zip(outcome(row.get::<_, i16>(1).into()))
            .zip(Timestamp::from_millisecond(row.get(2)).ok());
        let ((key, outcome), ended) =
            last.ok_or_else(|| place.damaged(&format!("the record of run `{text}` cannot be read")))?;
        found.push(LastRun { key, outcome, ended });
    }
    Ok(found)
}

pub(super) async fn kept_since(
    client: &Client,
    place: &Place,
    job: JobUid,
) -> Result<Option<Timestamp>, ReadError> {
    let sql = place.sql("SELECT kept_since FROM chronos.history_jobs WHERE job = $1");
    let found = query(client, &sql, &[(&integer(job), Type::INT8)]).await?;
    let since = found.first().and_then(|row| row.get::<_, Option<i64>>(0));
    let since = since.map(Timestamp::from_millisecond).transpose();
    Ok(since.map_err(|error| place.damaged(&error.to_string()))?)
}

pub(super) async fn revisions(
    client: &Client,
    place: &Place,
    wanted: &RevisionQuery,
) -> Result<RevisionPage, ReadError> {
    let before = wanted.cursor.and_then(|cursor| i64::try_from(cursor).ok()).unwrap_or(i64::MAX);
    let limit = small(wanted.limit() + 1);
    let (job, name) = (wanted.job.map(integer), wanted.name.as_ref().map(JobName::as_str));
    let mut asked: Vec<Parameter<'_>> = vec![(&before, Type::INT8), (&limit, Type::INT8)];
    // One statement for each kind of question, so that each has its index.
    let mut sql = "SELECT id, value FROM chronos.revisions WHERE id < $1".to_owned();
    if job.is_some() {
        asked.push((&job, Type::INT8));
        sql += &format!(" AND job = ${}", asked.len());
    }
    if name.is_some() {
        asked.push((&name, Type::TEXT));
        sql += &format!(" AND name = ${}", asked.len());
    }
    let mut rows = query(client, &place.sql(&(sql + " ORDER BY id DESC LIMIT $2")), &asked).await?;
    let more = rows.len() > wanted.limit();
    rows.truncate(wanted.limit());
    let revisions = rows.iter().map(|row| format::read_revision(text(row, 1))).collect::<Result<_, _>>()?;
    Ok(RevisionPage { revisions, next: rows.last().filter(|_| more).map(|row| number(row, 0)) })
}

pub(super) async fn revision(
    client: &Client,
    place: &Place,
    job: JobUid,
    version: u32,
) -> Result<Option<Revision>, ReadError> {
    let sql = place.sql("SELECT value FROM chronos.revisions WHERE job = $1 AND version = $2");
    let asked: [Parameter<'_>; 2] = [(&integer(job), Type::INT8), (&i64::from(version), Type::INT8)];
    let found = query(client, &sql, &asked).await?;
    Ok(found.first().map(|row| format::read_revision(text(row, 0))).transpose()?)
}

pub(super) async fn audit(
    client: &Client,
    place: &Place,
    wanted: &AuditQuery,
) -> Result<AuditPage, ReadError> {
    let (beyond, way, start) = match wanted.order {
        HistoryOrder::NewestFirst => ("<", "DESC", i64::MAX),
        HistoryOrder::OldestFirst => (">", "ASC", i64::MIN),
    };
    let start = wanted.cursor.and_then(|cursor| i64::try_from(cursor).ok()).unwrap_or(start);
    let limit = small(wanted.limit() + 1);
    let (from, to) = (wanted.from.map_or(i64::MIN, whole_ms), wanted.to.map_or(i64::MAX, whole_ms));
    let acts = &wanted.acts;
    let (name, by) = (wanted.name.as_ref().map(JobName::as_str), wanted.by.as_deref());
    if by.is_some_and(|by| !is_text(by)) {
        return Ok(AuditPage::default());
    }
    let mut asked: Vec<Parameter<'_>> = vec![
        (&start, Type::INT8),
        (&limit, Type::INT8),
        (&from, Type::INT8),
        (&to, Type::INT8),
        (acts, Type::TEXT_ARRAY),
    ];
    let mut sql = format!(
        "SELECT id, value FROM chronos.audit WHERE id {beyond} $1 AND at >= $3 AND at < $4 \
         AND (cardinality($5) = 0 OR act = ANY ($5))"
    );
    if name.is_some() {
        asked.push((&name, Type::TEXT));
        sql += &format!(" AND name = ${}", asked.len());
    }
    if by.is_some() {
        asked.push((&by, Type::TEXT));
        sql += &format!(" AND author = ${}", asked.len());
    }
    let mut rows = query(client, &place.sql(&format!("{sql} ORDER BY id {way} LIMIT $2")), &asked).await?;
    let more = rows.len() > wanted.limit();
    rows.truncate(wanted.limit());
    let entries = rows.iter().map(|row| format::read_entry(text(row, 1))).collect::<Result<_, _>>()?;
    Ok(AuditPage { entries, next: rows.last().filter(|_| more).map(|row| number(row, 0)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_not_waited_for_for_ever() {
        let never = patient(std::future::pending::<Result<(), StoreError>>()).await;
        assert!(matches!(never, Err(ReadError::Silent)), "{never:?}");
        let late = async {
            tokio::time::sleep(ANSWER / 2).await;
            Ok::<_, StoreError>(1)
        };
        assert!(matches!(patient(late).await, Ok(1)));
    }
}
