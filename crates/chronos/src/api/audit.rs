//! Who did what: everything that users have changed, and what the scheduler has changed in definitions by itself.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use engine::addresses;
use scheduler::audit::{Act, Entry};
use scheduler::ids::{JobUid, TaskId};
use scheduler::job::Pause;
use scheduler::revision::{Deed, Revision};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use store::AuditQuery;
use utoipa::{IntoParams, ToSchema};

use super::access::origin_of;
use super::error::{ApiError, ErrorBody};
use super::extract::{Params, instant_of, job_of, limit};
use super::lists::{Field, Order, Way, words, wrong_cursor};
use super::view::details;
use super::{ApiContext, versions};
use crate::wire::job::instant;
use crate::wire::outcome::word_of_end;
use crate::wire::patch::diff;

/// Which entries.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// Only of jobs of this name, deleted ones too.
    job: Option<String>,
    /// Only by this user; empty for those who did not have to log in, and the scheduler itself.
    by: Option<String>,
    /// Only what was done so, separated by commas: `created`, `replaced`, `patched`, `applied`, `rolledBack`, `restored`,
    /// `deleted`, `inherited`, `disabled`, `triggered`, `killed`, `markedSuccess`, `paused`, `resumed`, `backfilled`,
    /// `cancelledBackfill`, `reran`, `retriedNotice`, `forgotNode`, `heardLate`, `restoredStore`.
    act: Option<String>,
    /// Only at or after this.
    from: Option<String>,
    /// Only before this.
    to: Option<String>,
    /// `-time`, the newest first, if absent; or `time`.
    sort: Option<String>,
    /// At most so many; 1 to 1000, 100 if absent. Fewer come where their definitions are large: `next` says whether there
    /// are more.
    limit: Option<usize>,
    /// `next` of the page before, with the same `sort`.
    cursor: Option<String>,
}

/// One thing that was done.
#[derive(Serialize, ToSchema)]
pub(super) struct EntryView {
    at: String,
    /// The user; left out for those who did not have to log in, and for the scheduler itself.
    #[serde(skip_serializing_if = "String::is_empty")]
    by: String,
    /// The address that the request came from.
    #[serde(skip_serializing_if = "String::is_empty")]
    address: String,
    /// `X-Request-Id` of the request.
    #[serde(skip_serializing_if = "String::is_empty")]
    request: String,
    /// What was done.
    act: &'static str,
    /// To which job, where it was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<String>,
    /// Which creation of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<String>,
    /// How it was: of a definition the version and the fields that were different, as far as both versions are kept; of a
    /// pause all of it; of a node that was given up which, and how many runs had a task there; of an attempt that is recorded
    /// as lost since when, and on which node it was.
    #[schema(value_type = Option<Object>)]
    #[serde(skip_serializing_if = "Value::is_null")]
    before: Value,
    /// How it is since: the same, or the run, the backfill or the notice that came of it; of an attempt how it had ended in
    /// truth, which is heard late and changes nothing. Values of environment variables,
    /// passwords in URLs and what follows `?` in those of files are not told.
    #[schema(value_type = Option<Object>)]
    #[serde(skip_serializing_if = "Value::is_null")]
    after: Value,
}

/// A page of the audit.
#[derive(Serialize, ToSchema)]
pub(super) struct Audit {
    /// In the order that was asked for.
    entries: Vec<EntryView>,
    /// Cursor of the next page, if there is one.
    next: Option<String>,
}

/// What the audit is sorted by.
#[derive(Clone, Copy, PartialEq)]
enum AuditField {
    /// When it was done: entries are in the order in which they were written.
    Time,
}

impl Field for AuditField {
    const ALL: &'static [(&'static str, Self)] = &[("time", Self::Time)];
}

/// Who did what, the newest first unless `sort` says otherwise. Every change that a user asks for is here as soon as it is made, with what it changed.
#[utoipa::path(
    get, path = "/v1/audit", tag = "node", params(Wanted),
    responses((status = 200, body = Audit), (status = 400, body = ErrorBody))
)]
pub(super) async fn list(
    State(ctx): State<ApiContext>,
    Params(wanted): Params<Wanted>,
) -> Result<Json<Audit>, ApiError> {
    let name = job_of(wanted.job.as_deref())?;
    let cursor = wanted.cursor.as_deref().map(str::parse).transpose().map_err(|_| wrong_cursor())?;
    let most = limit(wanted.limit, 100, 1000)?;
    let order = Order::of(wanted.sort.as_deref(), (AuditField::Time, Way::Down))?;
    let mut query = AuditQuery {
        name,
        by: wanted.by,
        acts: words(
            "act",
            wanted.act.as_deref(),
            &Act::words().map(|word| (word, word)).collect::<Vec<_>>(),
        )?,
        from: instant_of("from", &wanted.from)?,
        to: instant_of("to", &wanted.to)?,
        order: order.way.into(),
        cursor,
        limit: most.min(AT_ONCE),
    };
    let mut kept = Definitions::default();
    let (mut entries, mut bytes) = (Vec::new(), 0);
    loop {
        let page = ctx.node.store.audit(&query).await?;
        for entry in &page.entries {
            let told = view(&ctx, &mut kept, entry).await?;
            bytes += size(&told.before) + size(&told.after);
            entries.push(told);
        }
        query.cursor = page.next;
        query.limit = (most - entries.len()).min(AT_ONCE);
        if page.next.is_none() || query.limit == 0 || bytes >= BYTES_MAX {
            return Ok(Json(Audit { entries, next: page.next.map(|next| next.to_string()) }));
        }
    }
}

/// About so much of a page is definitions; what is beyond is on the next one. A thousand of the largest would be 128 MB.
const BYTES_MAX: usize = 1 << 20;
/// Entries looked at before that is asked again: of the largest definitions some 8 MB. A store may have to look at a list
/// of all entries each time.
const AT_ONCE: usize = 64;

/// About as many bytes as the value has when it is written.
fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(size).sum(),
        Value::Object(fields) => fields.iter().map(|(key, value)| key.len() + 4 + size(value)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
    }
}

/// Definitions that a page has come across: what one change made, the next one changed.
#[derive(Default)]
struct Definitions(BTreeMap<(JobUid, u32), Option<Map<String, Value>>>);

impl Definitions {
    /// Pages are read from the newest: what was looked at long ago is not looked at again.
    const KEPT_MAX: usize = 64;

    async fn of(
        &mut self,
        ctx: &ApiContext,
        uid: JobUid,
        version: u32,
    ) -> Result<Option<Map<String, Value>>, ApiError> {
        if let Some(known) = self.0.get(&(uid, version)) {
            return Ok(known.clone());
        }
        let revision: Option<Revision> = ctx.node.store.revision(uid, version).await?;
        let fields = revision.map(|revision| told(versions::fields(&revision)));
        if self.0.len() >= Self::KEPT_MAX {
            self.0.clear();
        }
        self.0.insert((uid, version), fields.clone());
        Ok(fields)
    }
}

async fn view(ctx: &ApiContext, kept: &mut Definitions, entry: &Entry) -> Result<EntryView, ApiError> {
    let (before, after) = match (&entry.act, &entry.job) {
        (Act::Defined { deed, version }, Some((uid, _))) => defined(ctx, kept, *uid, *deed, *version).await?,
        (Act::HeardLate { run, attempt, node, lost, end }, Some((_, name))) => {
            let task = TaskId::of(name, *run, *attempt).to_string();
            let (exit, signal, message) = details(end);
            let before = json!({ "outcome": "lost", "at": instant(*lost), "node": &**node });
            let after = json!({
                "run": run.to_string(), "attempt": attempt, "task": task, "outcome": word_of_end(end), "exit": exit,
                "signal": signal, "message": message,
            });
            (before, after)
        }
        (act, _) => states(act),
    };
    let (address, request) = origin_of(&entry.author);
    Ok(EntryView {
        at: instant(entry.at),
        by: entry.author.name().to_string(),
        address: address.to_owned(),
        request: request.to_owned(),
        act: entry.act.word(),
        job: entry.job.as_ref().map(|(_, name)| name.to_string()),
        uid: entry.job.as_ref().map(|(uid, _)| uid.to_string()),
        before,
        after,
    })
}

/// A definition before and after a change, in the fields that are not the same.
async fn defined(
    ctx: &ApiContext,
    kept: &mut Definitions,
    uid: JobUid,
    deed: Deed,
    version: u32,
) -> Result<(Value, Value), ApiError> {
    let old = match version.checked_sub(1).filter(|old| *old > 0) {
        Some(old) => kept.of(ctx, uid, old).await?.map(|fields| (old, fields)),
        None => None,
    };
    let new = kept.of(ctx, uid, version).await?;
    let numbered = |version: u32, definition: Map<String, Value>| json!({ "version": version, "definition": definition });
    // The revision of a deletion says what was deleted.
    if deed == Deed::Deleted {
        return Ok((
            new.map_or(Value::Null, |fields| numbered(version.saturating_sub(1), fields)),
            Value::Null,
        ));
    }
    let (Some((old_version, old)), Some(new)) = (&old, &new) else {
        let before = if version > 1 { json!({ "version": version - 1 }) } else { Value::Null };
        return Ok((
            before,
            new.map_or_else(|| json!({ "version": version }), |fields| numbered(version, fields)),
        ));
    };
    let (mut from, mut to) = (Map::new(), Map::new());
    for change in diff(old, new) {
        from.extend(change.from.map(|value| (change.field.clone(), value)));
        to.extend(change.to.map(|value| (change.field, value)));
    }
    Ok((numbered(*old_version, from), numbered(version, to)))
}

fn states(act: &Act) -> (Value, Value) {
    let after = match act {
        // Not without a job, and told above.
        Act::Defined { version, .. } => json!({ "version": version }),
        Act::HeardLate { run, attempt, .. } => json!({ "run": run.to_string(), "attempt": attempt }),
        Act::Triggered { run } | Act::Marked { run } => json!({ "run": run.to_string() }),
        Act::Killed { run: Some(run), runs } => json!({ "run": run.to_string(), "runs": runs }),
        Act::Killed { run: None, runs } => json!({ "runs": runs }),
        Act::Paused { before, after } => {
            return (before.as_ref().map_or(Value::Null, paused), paused(after));
        }
        Act::Resumed { before } => return (paused(before), Value::Null),
        Act::Backfilled { id, slots } => json!({ "backfill": id.to_string(), "slots": slots }),
        Act::Cancelled { id, runs } => json!({ "backfill": id.to_string(), "runs": runs }),
        Act::Reran { run, again } => {
            return (json!({ "run": run.to_string() }), json!({ "run": again.to_string() }));
        }
        Act::NoticeRetried { id } => json!({ "notice": id.0 }),
        // It was there before.
        Act::NodeForgotten { node, runs } => return (json!({ "node": &**node, "runs": runs }), Value::Null),
        Act::StoreRestored { taken, lines } => json!({ "taken": instant(*taken), "lines": lines }),
    };
    (Value::Null, after)
}

fn paused(pause: &Pause) -> Value {
    json!({ "since": instant(pause.since), "reason": &*pause.reason, "until": pause.until.map(instant) })
}

/// A definition without what may be secret in it.
fn told(mut fields: Map<String, Value>) -> Map<String, Value> {
    for variable in fields.get_mut("environmentVariables").and_then(Value::as_array_mut).into_iter().flatten()
    {
        if let Some(value) = variable.get_mut("value") {
            *value = covered(value);
        }
    }
    let options = fields.get_mut("container").and_then(|container| container.get_mut("parameters"));
    for option in options.and_then(Value::as_array_mut).into_iter().flatten() {
        // `-e NAME=value`: a variable like the others.
        let key = option.get("key").and_then(Value::as_str).unwrap_or_default().trim_start_matches('-');
        if ["e", "env"].contains(&key)
            && let Some(value) = option.get_mut("value")
        {
            *value = covered(value);
        }
    }
    fields.values_mut().for_each(without_passwords);
    let listed = fields.get_mut("uris").and_then(Value::as_array_mut).into_iter().flatten();
    listed.for_each(without_query);
    let fetched = fields.get_mut("fetch").and_then(Value::as_array_mut).into_iter().flatten();
    fetched.filter_map(|fetch| fetch.get_mut("uri")).for_each(without_query);
    // A command may be nothing but the address of a script.
    let command = fields.get_mut("command");
    command.filter(|command| command.as_str().is_some_and(is_address)).into_iter().for_each(without_query);
    fields
}

fn is_address(text: &str) -> bool {
    text.contains("://") && !text.trim().contains(char::is_whitespace)
}

/// The address of a file without what follows `?`, which signs it for whoever has the whole.
fn without_query(uri: &mut Value) {
    let Some((path, query)) = uri.as_str().and_then(|text| text.split_once('?')) else { return };
    let covered = covered(&query.into());
    *uri = format!("{path}?{}", covered.as_str().unwrap_or_default()).into();
}

/// That two values differ can be seen; what they are cannot: neither can be guessed without the key of this process.
fn covered(value: &Value) -> Value {
    use std::sync::OnceLock;
    static KEY: OnceLock<Option<ring::hmac::Key>> = OnceLock::new();
    let key = KEY.get_or_init(|| {
        ring::hmac::Key::generate(ring::hmac::HMAC_SHA256, &ring::rand::SystemRandom::new()).ok()
    });
    let Some(key) = key else { return "***".into() };
    let tag = ring::hmac::sign(key, value.to_string().as_bytes());
    let mark: String = tag.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("*** ({mark})").into()
}

/// Addresses in any text of a value lose their passwords.
fn without_passwords(value: &mut Value) {
    match value {
        Value::String(text) => {
            if text.contains("://") && text.contains('@') {
                *text = addresses::without_passwords(text);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(without_passwords),
        Value::Object(fields) => fields.values_mut().for_each(without_passwords),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_covered() {
        let fields = json!({
            "command": "curl https://u:hunter2@h/x?y=@ ssh://git@h http://h/a:b@c",
            "environmentVariables": [{"name": "TOKEN", "value": "hunter2"}],
            "fetch": [{"uri": "ftp://u:hunter2@h/f"}, {"uri": "https://h/f?X-Amz-Signature=hunter2"}],
            "uris": ["https://h/f?sig=hunter2"],
            "container": {"image": "x", "parameters": [{"key": "--env", "value": "TOKEN=hunter2"}, {"key": "e", "value": "T=hunter2"}]},
            "description": "http://a/,http://u:hunter2@h and https://hunter2@h",
        });
        let told = told(fields.as_object().expect("an object").clone());
        let text = Value::Object(told.clone()).to_string();
        assert!(!text.contains("hunter2"), "{text}");
        assert_eq!(told["command"], "curl https://u:***@h/x?y=@ ssh://git@h http://h/a:b@c");
        assert_eq!(told["fetch"][0]["uri"], "ftp://u:***@h/f");
        assert!(told["uris"][0].as_str().is_some_and(|uri| uri.starts_with("https://h/f?*** (")), "{text}");
        assert_eq!(told["environmentVariables"][0]["name"], "TOKEN");
        assert_eq!(covered(&"a".into()), covered(&"a".into()));
        assert_ne!(covered(&"a".into()), covered(&"b".into()), "that it changed is seen");
        let address = json!({ "command": "https://h/run.sh?sig=hunter2" });
        let told = super::told(address.as_object().expect("an object").clone());
        assert!(told["command"].as_str().is_some_and(|text| text.starts_with("https://h/run.sh?*** (")));
    }
}
