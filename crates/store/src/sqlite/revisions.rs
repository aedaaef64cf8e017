//! Questions about what definitions were.

use rusqlite::{Connection, OptionalExtension, params};
use scheduler::ids::{JobName, JobUid};
use scheduler::revision::Revision;

use super::history::{ReadError, bytes};
use crate::rows::{integer, small, whole_ms};
use crate::{Retention, RevisionPage, RevisionQuery, format};

/// Deleted jobs whose revisions are removed in one transaction: at most so many times [`Revision::KEPT`] rows.
const REMOVE_MAX: usize = 20;

pub(super) fn page(connection: &Connection, query: &RevisionQuery) -> Result<RevisionPage, ReadError> {
    // One statement for each kind of question, so that each has its index.
    let sql = match (query.job, &query.name) {
        (None, None) => "SELECT id, value FROM revisions WHERE id < ?1 ORDER BY id DESC LIMIT ?2",
        (Some(_), None) => {
            "SELECT id, value FROM revisions WHERE id < ?1 AND job = ?3 ORDER BY id DESC LIMIT ?2"
        }
        (None, Some(_)) => {
            "SELECT id, value FROM revisions WHERE id < ?1 AND name = ?4 ORDER BY id DESC LIMIT ?2"
        }
        (Some(_), Some(_)) => {
            "SELECT id, value FROM revisions WHERE id < ?1 AND job = ?3 AND name = ?4 ORDER BY id DESC LIMIT ?2"
        }
    };
    let before = query.cursor.and_then(|cursor| i64::try_from(cursor).ok()).unwrap_or(i64::MAX);
    let limit = query.limit();
    let mut statement = connection.prepare_cached(sql)?;
    let name = query.name.as_ref().map(JobName::as_str);
    let wanted: [(usize, &dyn rusqlite::ToSql); 4] =
        [(1, &before), (2, &small(limit + 1)), (3, &query.job.map(integer)), (4, &name)];
    let places = statement.parameter_count();
    for (place, value) in wanted.iter().filter(|(place, _)| *place <= places) {
        statement.raw_bind_parameter(*place, value)?;
    }
    let mut rows = statement.raw_query();
    let (mut revisions, mut last, mut next) = (Vec::new(), None, None);
    while let Some(row) = rows.next()? {
        if revisions.len() == limit {
            next = last;
            break;
        }
        revisions.push(format::read_revision(bytes(row, 1)?)?);
        last = Some(row.get::<_, i64>(0)?.cast_unsigned());
    }
    Ok(RevisionPage { revisions, next })
}

pub(super) fn one(connection: &Connection, job: JobUid, version: u32) -> Result<Option<Revision>, ReadError> {
    let mut statement =
        connection.prepare_cached("SELECT value FROM revisions WHERE job = ?1 AND version = ?2")?;
    let found = statement
        .query_row(params![integer(job), version], |row| Ok(format::read_revision(bytes(row, 0)?)))
        .optional()?;
    Ok(found.transpose()?)
}

/// Deleted jobs whose revisions have been kept long enough, oldest first.
pub(super) fn surplus(
    connection: &Connection,
    keep: Retention,
    now: jiff::Timestamp,
) -> rusqlite::Result<Vec<i64>> {
    let oldest = whole_ms(now.checked_sub(keep.age_max).unwrap_or(jiff::Timestamp::MIN));
    let mut statement = connection
        .prepare_cached("SELECT job FROM revisions WHERE deleted = 1 AND at < ?1 ORDER BY at LIMIT ?2")?;
    statement.query_map(params![oldest, small(REMOVE_MAX)], |row| row.get(0))?.collect()
}
