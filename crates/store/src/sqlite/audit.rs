//! Questions about who did what.

use rusqlite::Connection;
use scheduler::ids::JobName;

use super::history::{ReadError, bytes};
use crate::rows::{small, whole_ms};
use crate::{AuditPage, AuditQuery, HistoryOrder, Retention, format};

/// Entries removed in one transaction.
const REMOVE_MAX: usize = 500;

pub(super) fn page(connection: &Connection, query: &AuditQuery) -> Result<AuditPage, ReadError> {
    // One statement for each kind of question, so that each has its index; what else is wanted is found on the way.
    let which = match (&query.name, &query.by) {
        (None, None) => "",
        (Some(_), None) => "AND name = ?6 ",
        (None, Some(_)) => "AND by = ?7 ",
        (Some(_), Some(_)) => "AND name = ?6 AND by = ?7 ",
    };
    // Of some hours of a year only the index of times is read, and not all that came after them. Pages of what came before
    // a time go on in the table itself: it begins where the cursor is.
    let timed = query.from.is_some() || (query.to.is_some() && query.cursor.is_none());
    let by_time = timed && query.name.is_none() && query.by.is_none();
    // What has a sign before it is no reason to go through the table.
    let id = if by_time { "+id" } else { "id" };
    let (beyond, way, start) = match query.order {
        HistoryOrder::NewestFirst => ("<", "DESC", i64::MAX),
        HistoryOrder::OldestFirst => (">", "ASC", i64::MIN),
    };
    let sql = format!(
        "SELECT id, value FROM audit WHERE id IN (SELECT id FROM audit WHERE {id} {beyond} ?1 {which}AND at >= ?3 AND at < ?4 \
         AND (?5 = '' OR instr(?5, ',' || act || ',') > 0) ORDER BY {id} {way} LIMIT ?2) ORDER BY id {way}"
    );
    let start = query.cursor.and_then(|cursor| i64::try_from(cursor).ok()).unwrap_or(start);
    let limit = query.limit();
    let from = query.from.map_or(i64::MIN, whole_ms);
    let to = query.to.map_or(i64::MAX, whole_ms);
    let acts = if query.acts.is_empty() { String::new() } else { format!(",{},", query.acts.join(",")) };
    let (name, by) = (query.name.as_ref().map(JobName::as_str), query.by.as_deref());
    let mut statement = connection.prepare_cached(&sql)?;
    let wanted: [(usize, &dyn rusqlite::ToSql); 7] =
        [(1, &start), (2, &small(limit + 1)), (3, &from), (4, &to), (5, &acts), (6, &name), (7, &by)];
    let places = statement.parameter_count();
    for (place, value) in wanted.iter().filter(|(place, _)| *place <= places) {
        statement.raw_bind_parameter(*place, value)?;
    }
    let mut rows = statement.raw_query();
    let (mut entries, mut last, mut next) = (Vec::new(), None, None);
    while let Some(row) = rows.next()? {
        if entries.len() == limit {
            next = last;
            break;
        }
        entries.push(format::read_entry(bytes(row, 1)?)?);
        last = Some(row.get::<_, i64>(0)?.cast_unsigned());
    }
    Ok(AuditPage { entries, next })
}

/// Up to which entry the oldest ones go, as far as one transaction takes them.
pub(super) fn surplus(
    connection: &Connection,
    keep: Retention,
    now: jiff::Timestamp,
) -> rusqlite::Result<Option<i64>> {
    let oldest = whole_ms(now.checked_sub(keep.audit_age_max).unwrap_or(jiff::Timestamp::MIN));
    let (first, last): (Option<i64>, Option<i64>) = connection.query_row(
        "SELECT (SELECT min(id) FROM audit), (SELECT max(id) FROM audit)",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let (Some(first), Some(last)) = (first, last) else { return Ok(None) };
    // Ids have no gaps but where a transaction was rolled back.
    let too_many = i64::try_from(keep.audit_count_max).map_or(i64::MIN, |count| last.saturating_sub(count));
    // They are in the order of time but for clocks that went back: the first that is young enough ends it.
    let mut statement = connection.prepare_cached("SELECT id, at FROM audit ORDER BY id LIMIT ?1")?;
    let mut rows = statement.query([small(REMOVE_MAX)])?;
    let mut removed = None;
    while let Some(row) = rows.next()? {
        let (id, at): (i64, i64) = (row.get(0)?, row.get(1)?);
        if at >= oldest && id > too_many {
            break;
        }
        removed = Some(id);
    }
    Ok(removed.filter(|id| *id >= first))
}
