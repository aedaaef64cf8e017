//! Making the tables, and refusing what a newer program has made of them.

use scheduler::state::{Change, Meta};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, Row};

use super::connect::Place;
use crate::facts::first_uid;
use crate::{StoreError, format};

const FRAME: &str = include_str!("frame.sql");
const CONTENT: &str = include_str!("content.sql");

/// The version of the tables and functions that this binary makes. A newer one converts an older one when it begins to
/// lead; the first has nothing to convert.
pub(super) const VERSION: u32 = 1;

/// What is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// No table of ours.
    Nothing,
    /// Ours.
    Ours,
    /// Ours, with values that an older program wrote last.
    Older,
}

/// Columns that say which store and which versions are there, for [`found`]: a question that asks for them as well need not
/// be one more.
pub(super) const VERSIONS: &str = "(SELECT value FROM chronos.meta WHERE name = 'schema'), (SELECT value FROM chronos.meta WHERE \
                                   name = 'format'), (SELECT value FROM chronos.meta WHERE name = 'store')";
/// The column after those of [`VERSIONS`].
pub(super) const NEXT: usize = 3;

/// Looks at which store this is, and at the versions.
pub(super) async fn check(client: &Client, place: &Place) -> Result<Found, StoreError> {
    let sql = place.sql(&format!("SELECT {VERSIONS}"));
    match client.query_typed_one(&sql, &[]).await {
        Ok(row) => found(&row, place),
        Err(error) if is_missing(&error) => {
            crate::wanted(place.expected(), None)?;
            Ok(Found::Nothing)
        }
        Err(error) => Err(place.meaning(&error)),
    }
}

/// What a row says that begins with [`VERSIONS`].
pub(super) fn found(row: &Row, place: &Place) -> Result<Found, StoreError> {
    let number = |column| row.get::<_, Option<&str>>(column).and_then(|text| text.parse::<u32>().ok());
    let (Some(schema), Some(values)) = (number(0), number(1)) else {
        return Err(place.damaged("its table `meta` does not say which version it has"));
    };
    for (found, ours) in [(values, format::VERSION), (schema, VERSION)] {
        if found > ours {
            return Err(StoreError::Newer { found, ours });
        }
    }
    crate::wanted(place.expected(), row.get(2))?;
    Ok(if values < format::VERSION { Found::Older } else { Found::Ours })
}

fn is_missing(error: &Error) -> bool {
    error.code().is_some_and(|code| [SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME].contains(code))
}

/// Makes an empty store, unless one is there. One message to the server, and one transaction, in which others wait. Where
/// nobody would lead on it none is made.
pub(super) async fn make(client: &Client, place: &Place) -> Result<(), StoreError> {
    check_settings(client, place).await?;
    let mut random = [0; 20];
    getrandom::fill(&mut random).map_err(|error| StoreError::Unavailable(error.to_string()))?;
    let id: String = random[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    let salt = u32::from_le_bytes([random[16], random[17], random[18], random[19]]);
    let mut line = Vec::new();
    let meta = Meta { next_uid: first_uid(salt), ..Meta::default() };
    let value = format::write_change(&mut line, &Change::Meta(meta));
    let counters = String::from_utf8_lossy(&line[value]);
    let (schema, format) = (place.schema(), format::VERSION);
    // A schema that a database administrator has made is used as it is, without the right to make one. Quotes of the body
    // within the body: the frame has functions of its own.
    let make = place.sql(&format!(
        "DO $make$
        BEGIN
          PERFORM pg_advisory_xact_lock({LOCK}, hashtext('{schema}'));
          IF to_regnamespace('\"{schema}\"') IS NULL THEN
            CREATE SCHEMA \"{schema}\";
          END IF;
          IF to_regclass('chronos.meta') IS NULL THEN
            {FRAME}
            {CONTENT}
            INSERT INTO chronos.live VALUES ('meta', '', '{counters}');
            INSERT INTO chronos.meta VALUES ('store', '{id}'), ('schema', '{VERSION}'), ('format', '{format}');
          END IF;
        END $make$"
    ));
    client.batch_execute(&make).await.map_err(|error| place.meaning(&error))
}

/// Ours among the advisory locks of a database: "Chrn".
pub(super) const LOCK: i32 = 0x4368_726e;

/// Notes that values of our version are written from here on.
pub(super) async fn raise_format(client: &Client, place: &Place) -> Result<(), StoreError> {
    let sql = place.sql("UPDATE chronos.meta SET value = $1 WHERE name = 'format'");
    let ours = format::VERSION.to_string();
    client.execute_typed(&sql, &[(&ours, Type::TEXT)]).await.map(drop).map_err(|error| place.meaning(&error))
}

/// The tables of content once more, with other names: see `backup.rs`.
pub(super) fn staged(place: &Place, prefix: &str) -> String {
    place.staged_sql(CONTENT, prefix)
}

/// Whether what is set lets an acknowledged commit survive; else what to do.
pub(super) async fn check_settings(client: &Client, place: &Place) -> Result<(), StoreError> {
    let sql = "SELECT current_setting('synchronous_commit'), current_setting('fsync'), \
               current_setting('server_encoding'), pg_is_in_recovery()";
    let row = client.query_typed_one(sql, &[]).await.map_err(|error| place.meaning(&error))?;
    let (synchronous, fsync, encoding): (&str, &str, &str) = (row.get(0), row.get(1), row.get(2));
    let why = if synchronous == "off" {
        "`synchronous_commit` is off, so an acknowledged change may be lost; set it to `on` for this database or role \
         (ALTER ROLE .. SET synchronous_commit = on)"
    } else if fsync == "off" {
        "`fsync` is off, so everything may be lost; set it to `on` in postgresql.conf"
    } else if encoding != "UTF8" {
        return Err(place.unavailable(&format!(
            "the database has the encoding {encoding}, which does not have all characters; make one with ENCODING 'UTF8'"
        )));
    } else if row.get(3) {
        "this server is a standby, on which nothing can be written; name the primary, or both with \
         `target_session_attrs=read-write`"
    } else {
        return Ok(());
    };
    Err(place.unavailable(&format!("this node does not lead: {why}")))
}
