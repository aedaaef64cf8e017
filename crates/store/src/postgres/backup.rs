//! A backup of the database while it is written, and content that waits in tables of its own to take their place.
//!
//! Staged content is tables like ours with other names, filled aside. It becomes current in one statement, which gives them
//! our names: however much it is, nobody waits for it to be copied.

use std::collections::HashSet;
use std::pin::pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use scheduler::ids::{JobName, JobUid, RunKey};
use scheduler::state::{Change, State};
use tokio::sync::mpsc;
use tokio_postgres::Transaction;
use tokio_postgres::types::Type;

use super::columns::{Columns, Notices, Parameter, call};
use super::connect::{Connection, Limits, Place, SharedPlace};
use super::questions::{self, ReadError, patient};
use super::{readable, schema};
use crate::backup::{Content, Extent, Header, Line, Reader, StageError, Staged, Writer};
use crate::rows::{Batch, integer};
use crate::{StoreError, format};

/// Hot state: what is read for a backup's lines, and the tag of each.
const HOT: &[(&str, &str)] = &[
    ("SELECT value FROM chronos.live WHERE kind = 'meta'", "meta"),
    ("SELECT value FROM chronos.jobs ORDER BY uid", "job"),
    ("SELECT value FROM chronos.progress ORDER BY uid", "progress"),
    ("SELECT value FROM chronos.live WHERE kind = 'run'", "run"),
    ("SELECT value FROM chronos.live WHERE kind = 'join'", "join"),
    ("SELECT value FROM chronos.live WHERE kind = 'fanout'", "fanout"),
    ("SELECT value FROM chronos.live WHERE kind = 'backfill'", "backfill"),
    ("SELECT value FROM chronos.live WHERE kind = 'notice'", "notice"),
    ("SELECT value FROM chronos.live WHERE kind = 'receipt'", "receipt"),
    ("SELECT value FROM chronos.live WHERE kind = 'staged'", "staged"),
];
/// The history, of runs and of definitions.
const PAST: &[(&str, &str)] = &[
    ("SELECT value FROM chronos.history ORDER BY id", "record"),
    ("SELECT value FROM chronos.revisions ORDER BY id", "revision"),
    ("SELECT value FROM chronos.audit ORDER BY id", "audit"),
];
/// Since when the history of a job is whole.
const KEPT: &str =
    "SELECT job, name, kept_since FROM chronos.history_jobs WHERE kept_since IS NOT NULL ORDER BY job";
/// The same for a backup without it: what is left out was removed.
const KEPT_WITHOUT: &str = "SELECT j.job, j.name, greatest(j.kept_since, h.last + 1) FROM chronos.history_jobs AS j LEFT JOIN \
     (SELECT job, max(last_due) AS last FROM chronos.history GROUP BY job) AS h USING (job) \
     WHERE j.job IN (SELECT uid FROM chronos.jobs) AND coalesce(j.kept_since, h.last) IS NOT NULL ORDER BY j.job";

/// Lines that are on their way from the database to the backup.
const ON_THE_WAY: usize = 1000;
/// Begins with the name of every staged table; then comes when it was made, in seconds.
const STAGED: &str = "staged_";
/// Staged tables that are older were left behind by a node that is gone.
const STAGED_AGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Lines written to staged tables at once.
const STAGED_LINES: usize = 1000;

/// What goes from the connection to the thread that writes.
enum Piece {
    Value(&'static str, String),
    Kept(i64, String, i64),
}

/// Writes everything as of one moment.
pub(super) async fn write(
    place: &Place,
    extent: Extent,
    to: mpsc::Sender<Vec<u8>>,
) -> Result<(), StoreError> {
    // A connection of its own: the others answer questions meanwhile.
    let mut connection = place.connect(Limits::None).await?;
    let work = async {
        patient(readable(&connection.client, place)).await?;
        let snapshot = questions::snapshot(&mut connection, questions::lock(|text| place.sql(text))).await?;
        write_snapshot(&snapshot, place, extent, to).await?;
        patient(snapshot.commit()).await?;
        Ok(())
    };
    work.await.map_err(|error: ReadError| error.meaning(place))
}

async fn write_snapshot(
    snapshot: &Transaction<'_>,
    place: &Place,
    extent: Extent,
    to: mpsc::Sender<Vec<u8>>,
) -> Result<(), ReadError> {
    let past = if extent == Extent::Everything { PAST } else { &[] };
    let kept = if extent == Extent::Everything { KEPT } else { KEPT_WITHOUT };
    let mut lines = 0;
    for sql in HOT.iter().chain(past).map(|(sql, _)| *sql).chain([kept]) {
        let sql = place.sql(&format!("SELECT count(*) FROM ({sql}) AS lines"));
        lines += snapshot.query_typed_one(&sql, &[]).await?.get::<_, i64>(0).cast_unsigned();
    }
    let header = Header {
        format: format::VERSION,
        kind: "postgres".into(),
        term: questions::term(snapshot, place).await?.0,
        taken: Timestamp::from_millisecond(Timestamp::now().as_millisecond()).unwrap_or_default(),
        program: env!("CARGO_PKG_VERSION").into(),
        lines,
        extent,
    };
    let (pieces, mut come) = mpsc::channel(ON_THE_WAY);
    let writing = tokio::task::spawn_blocking(move || {
        let mut writer = Writer::begin(&header, &to)?;
        let mut ended = false;
        while let Some(piece) = come.blocking_recv() {
            match piece {
                Some(Piece::Value(tag, value)) => writer.value(tag, value.as_bytes())?,
                Some(Piece::Kept(job, name, since)) => {
                    writer.kept(JobUid(job.cast_unsigned()), &name, since)?
                }
                None => ended = true,
            }
        }
        // Without it the backup is not whole, and this one is not.
        if ended { writer.end() } else { Ok(()) }
    });
    let read = read(snapshot, place, past, kept, &pieces).await;
    drop(pieces);
    let written =
        writing.await.map_err(|error| StoreError::Unavailable(format!("writing stopped: {error}")))?;
    written.map_err(StoreError::from)?;
    read
}

/// Reads all lines, and says when they are all.
async fn read(
    snapshot: &Transaction<'_>,
    place: &Place,
    past: &[(&str, &'static str)],
    kept: &str,
    to: &mpsc::Sender<Option<Piece>>,
) -> Result<(), ReadError> {
    let gone = |_| StoreError::Unavailable("whoever asked for the backup does not take it".into());
    for (sql, tag) in HOT.iter().chain(past) {
        let none = std::iter::empty::<Parameter<'_>>();
        let mut rows = pin!(patient(snapshot.query_typed_raw(&place.sql(sql), none)).await?);
        while let Some(row) = questions::next(rows.as_mut()).await? {
            to.send(Some(Piece::Value(tag, row.get(0)))).await.map_err(gone)?;
        }
    }
    for row in snapshot.query_typed(&place.sql(kept), &[]).await? {
        to.send(Some(Piece::Kept(row.get(0), row.get(1), row.get(2)))).await.map_err(gone)?;
    }
    Ok(to.send(None).await.map_err(gone)?)
}

/// Tables that wait to take the place of ours. Removed when dropped.
pub(crate) struct StagedTables {
    place: SharedPlace,
    prefix: String,
    state: State,
    ids: i64,
    /// What the runtime is needed for where nothing is async.
    runtime: tokio::runtime::Handle,
}

impl std::fmt::Debug for StagedTables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StagedTables").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Drop for StagedTables {
    fn drop(&mut self) {
        let (place, prefix) = (self.place.clone(), std::mem::take(&mut self.prefix));
        // What stays behind is removed by the next one that is staged. Tables that have taken the place of ours have other
        // names by now.
        self.runtime.spawn(async move {
            if let Ok(connection) = place.connect(Limits::Statement).await {
                let _ = remove(&connection, &place, &prefix).await;
            }
        });
    }
}

/// Removes the staged tables with this prefix, and what belongs to them.
async fn remove(connection: &Connection, place: &Place, prefix: &str) -> Result<(), tokio_postgres::Error> {
    let tables = place.staged_sql(questions::CONTENT, prefix);
    // Its name is unique, so that its parameters need not be named.
    let sql = format!(
        "DROP TABLE IF EXISTS {tables}; DROP FUNCTION IF EXISTS {}",
        place.staged_sql("chronos.apply", prefix)
    );
    connection.client.batch_execute(&sql).await
}

impl StagedTables {
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// What the last record, revision or entry in them is numbered.
    pub(super) fn ids(&self) -> i64 {
        self.ids
    }

    /// The hot state in them.
    pub(crate) fn state(&self) -> State {
        self.state.clone()
    }

    /// Which of these runs have ended in them.
    pub(crate) fn ended(&self, runs: &[RunKey]) -> Result<Vec<RunKey>, StoreError> {
        let keys: Vec<String> = runs.iter().map(RunKey::to_string).collect();
        let question = async {
            let connection = self.place.connect(Limits::None).await?;
            let sql = "SELECT DISTINCT key FROM chronos.history WHERE key = ANY ($1)";
            let sql = self.place.staged_sql(sql, &self.prefix);
            let rows = patient(connection.client.query_typed(&sql, &[(&keys, Type::TEXT_ARRAY)])).await;
            let rows = rows.map_err(|error| error.meaning(&self.place))?;
            Ok::<HashSet<String>, StoreError>(rows.iter().map(|row| row.get(0)).collect())
        };
        // A thread that is not the runtime's may wait for it.
        let asking = std::thread::scope(|scope| scope.spawn(|| self.runtime.block_on(question)).join());
        let ended = asking.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(runs.iter().zip(keys).filter(|(_, key)| ended.contains(key)).map(|(run, _)| *run).collect())
    }

    /// Makes changes to what is staged.
    pub(super) async fn apply(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let connection = self.place.connect(Limits::None).await?;
        self.apply_on(&connection, changes).await
    }

    async fn apply_on(&mut self, connection: &Connection, changes: &[Change]) -> Result<(), StoreError> {
        let batch = Batch::encode(changes);
        let batches = [&batch];
        let notices = Notices::of(&batches);
        let columns = Columns::of(&batches, &notices, &HashSet::new());
        let sql = format!("SELECT chronos.apply($1, {})", call(2));
        let mut asked: Vec<Parameter<'_>> = vec![(&self.ids, Type::INT8)];
        asked.extend(columns.parameters());
        let sql = self.place.staged_sql(&sql, &self.prefix);
        let done = patient(connection.client.query_typed(&sql, &asked)).await;
        done.map_err(|error| error.meaning(&self.place))?;
        self.ids += columns.ids;
        changes.iter().for_each(|change| self.state.apply(change));
        Ok(())
    }

    /// Notes since when the histories of jobs are whole.
    async fn keep(
        &self,
        connection: &Connection,
        kept: &[(JobUid, JobName, Timestamp)],
    ) -> Result<(), StoreError> {
        let jobs: Vec<i64> = kept.iter().map(|(job, ..)| integer(*job)).collect();
        let names: Vec<&str> = kept.iter().map(|(_, name, _)| name.as_str()).collect();
        let since: Vec<i64> = kept.iter().map(|(.., since)| since.as_millisecond()).collect();
        let sql = "INSERT INTO chronos.history_jobs AS j SELECT DISTINCT ON (u.job) * FROM unnest($1, $2, $3) AS u(job, name, \
                   since) ON CONFLICT (job) DO UPDATE SET kept_since = excluded.kept_since";
        let asked: [Parameter<'_>; 3] =
            [(&jobs, Type::INT8_ARRAY), (&names, Type::TEXT_ARRAY), (&since, Type::INT8_ARRAY)];
        let sql = self.place.staged_sql(sql, &self.prefix);
        let done = patient(connection.client.execute_typed(&sql, &asked)).await;
        done.map(drop).map_err(|error| error.meaning(&self.place))
    }
}

/// Reads a backup whole into tables beside ours.
pub(super) async fn stage(
    place: &SharedPlace,
    mut from: mpsc::Receiver<Vec<u8>>,
) -> Result<Staged, StageError> {
    let connection = place.connect(Limits::None).await?;
    let look = patient(readable(&connection.client, place)).await;
    look.map_err(|error| error.meaning(place))?;
    tidy(&connection, place).await;
    let mut random = [0; 4];
    getrandom::fill(&mut random).map_err(|error| StoreError::Unavailable(error.to_string()))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut staged = StagedTables {
        place: place.clone(),
        prefix: format!("{STAGED}{now}_{:08x}_", u32::from_le_bytes(random)),
        state: State::default(),
        ids: 0,
        runtime: tokio::runtime::Handle::current(),
    };
    let make = schema::staged(place, &staged.prefix);
    patient(connection.client.batch_execute(&make)).await.map_err(|error| error.meaning(place))?;
    let (mut reader, mut changes, mut kept, mut records) = (Reader::default(), Vec::new(), Vec::new(), 0);
    while let Some(piece) = from.recv().await {
        reader.feed(&piece, |_, line| {
            match line {
                Line::Record(change) => {
                    records += u64::from(matches!(change, Change::Append(_)));
                    changes.push(change);
                }
                Line::Kept(job, name, since) => kept.push((job, name, since)),
            }
            Ok::<_, StageError>(())
        })?;
        if changes.len() >= STAGED_LINES {
            staged.apply_on(&connection, &std::mem::take(&mut changes)).await?;
        }
    }
    let header = reader.finish()?;
    staged.apply_on(&connection, &changes).await?;
    staged.keep(&connection, &kept).await?;
    Ok(Staged { header, records, content: Content::Postgres(Box::new(staged)) })
}

/// Removes what nodes that are gone have left behind. What cannot be removed takes room and does no other harm.
async fn tidy(connection: &Connection, place: &Place) {
    let sql = "SELECT c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace \
               WHERE n.nspname = $1 AND c.relkind = 'r' AND c.relname LIKE 'staged\\_%\\_jobs' \
               AND c.relname NOT LIKE '%\\_history\\_jobs'";
    let schema = place.schema();
    let asked: [Parameter<'_>; 1] = [(&schema, Type::TEXT)];
    let Ok(tables) = patient(connection.client.query_typed(sql, &asked)).await else { return };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    for table in tables {
        let name: &str = table.get(0);
        let made = name.strip_prefix(STAGED).and_then(|rest| rest.split_once('_')?.0.parse::<u64>().ok());
        let age = made.map(|made| now.saturating_sub(Duration::from_secs(made)));
        if age.is_some_and(|age| age > STAGED_AGE_MAX)
            && let Some(prefix) = name.strip_suffix("jobs")
        {
            let _ = patient(remove(connection, place, prefix)).await;
        }
    }
}
