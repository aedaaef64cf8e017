//! The stored form of every change: one JSON line each, the same in every store and in backups.
//!
//! The types here are of their own: a change of the core's types shows up as a compile error or a golden file that
//! differs, never as a store that cannot be read. What equals a default is left out; the defaults are written
//! here and belong to the format. Reading is total: it fails, it never panics, and it ignores fields that it does
//! not know, so that a field may be added without a new version.

mod audit;
mod backfill;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "zookeeper"))]
mod candidate;
mod job;
mod join;
mod notice;
mod receipt;
mod revision;
mod run;
mod value;

use std::ops::Range;
use std::sync::Arc;

use scheduler::audit::{Author, Entry};
use scheduler::backfill::Backfill;
use scheduler::ids::{GraphVersion, RunKey};
use scheduler::job::{Job, Progress};
use scheduler::notice::{Notice, NoticeId};
use scheduler::receipt::Receipt;
use scheduler::request::Definition;
use scheduler::revision::Revision;
use scheduler::run::{Record, Run};
use scheduler::state::{Change, Fanout, Join, Meta, ZoneData};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "zookeeper"))]
pub(crate) use self::candidate::{read_candidate, write_candidate};
use self::value::{Key, Uid, is_default};

/// The version of the format. It grows when an older binary would misread what a newer one writes.
pub const VERSION: u32 = 4;

/// Stored bytes that are not what this version writes.
#[derive(Debug, thiserror::Error)]
#[error("cannot read a stored {what} (format {VERSION}): {cause}; it begins with `{begin}`")]
pub struct FormatError {
    /// What it should have been.
    pub what: &'static str,
    /// The first characters of what was found.
    pub begin: String,
    /// Where reading stopped, and why.
    pub cause: serde_json::Error,
}

/// Writes a change as one JSON object on one line, without the line's end. Returns where in `out` its value is:
/// the part after the tag, which stores keep as the record.
pub fn write_change(out: &mut Vec<u8>, change: &Change) -> Range<usize> {
    match change {
        Change::Meta(meta) => tagged(out, "meta", &StoredMeta::from(meta)),
        Change::PutJob(job) => tagged(out, "job", &job::StoredJob::from(&**job)),
        Change::RemoveJob(uid) => tagged(out, "job_gone", &Uid(*uid)),
        Change::PutProgress(uid, progress) => {
            tagged(out, "progress", &job::StoredProgress::of(*uid, progress))
        }
        Change::PutRun(run) => tagged(out, "run", &run::StoredRun::from(&**run)),
        Change::RemoveRun(key) => tagged(out, "run_gone", &Key(*key)),
        Change::PutJoin(join) => tagged(out, "join", &join::StoredJoin::from(&**join)),
        Change::RemoveJoin(child, cycle) => {
            tagged(out, "join_gone", &join::StoredJoinKey { child: Uid(*child), cycle: cycle.into() })
        }
        Change::PutFanout(fanout) => tagged(out, "fanout", &join::StoredFanout::from(&**fanout)),
        Change::RemoveFanout(run) => tagged(out, "fanout_gone", &Key(*run)),
        Change::PutBackfill(backfill) => {
            tagged(out, "backfill", &backfill::StoredBackfill::from(&**backfill))
        }
        Change::RemoveBackfill(id) => tagged(out, "backfill_gone", &backfill::StoredBackfillId::from(*id)),
        Change::PutNotice(notice) => tagged(out, "notice", &notice::StoredNotice::from(&**notice)),
        Change::RemoveNotice(id) => tagged(out, "notice_gone", &id.0),
        Change::PutReceipt(receipt) => tagged(out, "receipt", &receipt::StoredReceipt::from(&**receipt)),
        Change::RemoveReceipt(key) => tagged(out, "receipt_gone", &receipt::StoredKey::from(key)),
        Change::Stage(definition) => tagged(out, "staged", &receipt::StoredDefinition::from(&**definition)),
        Change::Unstage(name) => tagged(out, "staged_gone", &value::Name(name.clone())),
        Change::Append(record) => tagged(out, "record", &run::StoredRecord::from(&**record)),
        Change::Revise(revision) => tagged(out, "revision", &revision::StoredRevision::from(&**revision)),
        Change::Note(entry) => tagged(out, "audit", &audit::StoredEntry::from(&**entry)),
    }
}

/// Reads what [`write_change`] wrote.
/// # Errors
/// [`FormatError`] for anything else.
pub fn read_change(line: &[u8]) -> Result<Change, FormatError> {
    let stored: StoredChange = read("change", line)?;
    Ok(match stored {
        StoredChange::Meta(meta) => Change::Meta(meta.into()),
        StoredChange::Job(job) => Change::PutJob(Arc::new(valid("job", line, *job)?)),
        StoredChange::JobGone(uid) => Change::RemoveJob(uid.0),
        StoredChange::Progress(progress) => {
            let (uid, progress) = progress.into_parts();
            Change::PutProgress(uid, Arc::new(progress))
        }
        StoredChange::Run(run) => Change::PutRun(Arc::new((*run).into())),
        StoredChange::RunGone(key) => Change::RemoveRun(key.0),
        StoredChange::Join(join) => Change::PutJoin(Arc::new(join.into())),
        StoredChange::JoinGone(key) => Change::RemoveJoin(key.child.0, key.cycle.into()),
        StoredChange::Fanout(fanout) => Change::PutFanout(Arc::new(fanout.into())),
        StoredChange::FanoutGone(key) => Change::RemoveFanout(key.0),
        StoredChange::Backfill(backfill) => Change::PutBackfill(Arc::new((*backfill).into())),
        StoredChange::BackfillGone(id) => Change::RemoveBackfill(id.into()),
        StoredChange::Notice(notice) => Change::PutNotice(Arc::new((*notice).into())),
        StoredChange::NoticeGone(id) => Change::RemoveNotice(NoticeId(id)),
        StoredChange::Receipt(receipt) => Change::PutReceipt(Arc::new(valid("receipt", line, *receipt)?)),
        StoredChange::ReceiptGone(key) => Change::RemoveReceipt(valid("receipt", line, key)?),
        StoredChange::Staged(definition) => {
            Change::Stage(Arc::new(valid("staged definition", line, *definition)?))
        }
        StoredChange::StagedGone(name) => Change::Unstage(name.0),
        StoredChange::Record(record) => Change::Append(Arc::new((*record).into())),
        StoredChange::Revision(revision) => Change::Revise(Arc::new(valid("revision", line, *revision)?)),
        StoredChange::Audit(entry) => Change::Note(Arc::new((*entry).into())),
    })
}

/// Writes a batch: one line for each change, each with its end.
pub fn write_batch(changes: &[Change]) -> Vec<u8> {
    let mut out = Vec::with_capacity(changes.len() * 256);
    for change in changes {
        write_change(&mut out, change);
        out.push(b'\n');
    }
    out
}

/// Reads what [`write_batch`] wrote.
/// # Errors
/// [`FormatError`] for anything else.
pub fn read_batch(bytes: &[u8]) -> Result<Vec<Change>, FormatError> {
    bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty()).map(read_change).collect()
}

/// Reads the value of a `meta` line.
/// # Errors
/// [`FormatError`] for anything else; likewise the others.
pub fn read_meta(value: &[u8]) -> Result<Meta, FormatError> {
    read::<StoredMeta>("counter", value).map(Into::into)
}

/// Reads the value of a `job` line.
/// # Errors
/// [`FormatError`].
pub fn read_job(value: &[u8]) -> Result<Job, FormatError> {
    valid("job", value, read::<job::StoredJob>("job", value)?)
}

/// Reads the value of a `progress` line.
/// # Errors
/// [`FormatError`].
pub fn read_progress(value: &[u8]) -> Result<(scheduler::ids::JobUid, Progress), FormatError> {
    read::<job::StoredProgress>("progress", value).map(job::StoredProgress::into_parts)
}

/// Reads the value of a `run` line.
/// # Errors
/// [`FormatError`].
pub fn read_run(value: &[u8]) -> Result<Run, FormatError> {
    read::<run::StoredRun>("run", value).map(Into::into)
}

/// Reads the value of a `join` line.
/// # Errors
/// [`FormatError`].
pub fn read_join(value: &[u8]) -> Result<Join, FormatError> {
    read::<join::StoredJoin>("join", value).map(Into::into)
}

/// Reads the value of a `fanout` line.
/// # Errors
/// [`FormatError`].
pub fn read_fanout(value: &[u8]) -> Result<Fanout, FormatError> {
    read::<join::StoredFanout>("fan-out", value).map(Into::into)
}

/// Reads the value of a `backfill` line.
/// # Errors
/// [`FormatError`].
pub fn read_backfill(value: &[u8]) -> Result<Backfill, FormatError> {
    read::<backfill::StoredBackfill>("backfill", value).map(Into::into)
}

/// Reads the value of a `notice` line.
/// # Errors
/// [`FormatError`].
pub fn read_notice(value: &[u8]) -> Result<Notice, FormatError> {
    read::<notice::StoredNotice>("notice", value).map(Into::into)
}

/// Reads the value of a `receipt` line.
/// # Errors
/// [`FormatError`].
pub fn read_receipt(value: &[u8]) -> Result<Receipt, FormatError> {
    valid("receipt", value, read::<receipt::StoredReceipt>("receipt", value)?)
}

/// Reads the value of a `staged` line.
/// # Errors
/// [`FormatError`].
pub fn read_staged(value: &[u8]) -> Result<Definition, FormatError> {
    let what = "staged definition";
    valid(what, value, read::<receipt::StoredDefinition>(what, value)?)
}

/// Reads the value of a `record` line.
/// # Errors
/// [`FormatError`].
pub fn read_record(value: &[u8]) -> Result<Record, FormatError> {
    read::<run::StoredRecord>("record", value).map(Into::into)
}

/// Reads the value of a `revision` line.
/// # Errors
/// [`FormatError`].
pub fn read_revision(value: &[u8]) -> Result<Revision, FormatError> {
    valid("revision", value, read::<revision::StoredRevision>("revision", value)?)
}

/// Reads the value of an `audit` line.
/// # Errors
/// [`FormatError`].
pub fn read_entry(value: &[u8]) -> Result<Entry, FormatError> {
    read::<audit::StoredEntry>("entry of the audit", value).map(Into::into)
}

/// The key of a record of the history, where it has one.
pub fn record_key(record: &Record) -> Option<RunKey> {
    match record {
        Record::Run(run) => Some(run.key),
        Record::Range(_) => None,
    }
}

/// Counters, as stored.
#[derive(Serialize, Deserialize)]
struct StoredMeta {
    next_uid: u64,
    #[serde(default, skip_serializing_if = "value::is_default")]
    graph: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    zone_data: String,
    #[serde(default, skip_serializing_if = "is_default")]
    notices: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    alerts_lost: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    applying: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    applying_for: Option<audit::StoredAuthor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    engine_note: Option<String>,
}

impl From<&Meta> for StoredMeta {
    fn from(meta: &Meta) -> Self {
        let Meta { next_uid, graph, zone_data, notices, alerts_lost, applying, engine_note } = meta;
        Self {
            next_uid: *next_uid,
            graph: graph.0,
            zone_data: zone_data.name(),
            notices: *notices,
            alerts_lost: *alerts_lost,
            applying: applying.is_some(),
            applying_for: applying.as_deref().filter(|author| **author != Author::default()).map(Into::into),
            engine_note: engine_note.as_deref().map(Into::into),
        }
    }
}

impl From<StoredMeta> for Meta {
    fn from(stored: StoredMeta) -> Self {
        let StoredMeta {
            next_uid,
            graph,
            zone_data,
            notices,
            alerts_lost,
            applying,
            applying_for,
            engine_note,
        } = stored;
        // A version without an audit noted nobody.
        let author = applying_for.map(Author::from).unwrap_or_default();
        Self {
            next_uid,
            graph: GraphVersion(graph),
            zone_data: ZoneData::named(&zone_data),
            notices,
            alerts_lost,
            applying: applying.then(|| Arc::new(author)),
            engine_note: engine_note.map(Into::into),
        }
    }
}

/// What a line may be. Written by hand in [`write_change`], which needs to know where the value is.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredChange {
    Meta(StoredMeta),
    Job(Box<job::StoredJob>),
    JobGone(Uid),
    Progress(Box<job::StoredProgress>),
    Run(Box<run::StoredRun>),
    RunGone(Key),
    Join(join::StoredJoin),
    JoinGone(join::StoredJoinKey),
    Fanout(join::StoredFanout),
    FanoutGone(Key),
    Backfill(Box<backfill::StoredBackfill>),
    BackfillGone(backfill::StoredBackfillId),
    Notice(Box<notice::StoredNotice>),
    NoticeGone(u64),
    Receipt(Box<receipt::StoredReceipt>),
    ReceiptGone(receipt::StoredKey),
    Staged(Box<receipt::StoredDefinition>),
    StagedGone(value::Name),
    Record(Box<run::StoredRecord>),
    Revision(Box<revision::StoredRevision>),
    Audit(Box<audit::StoredEntry>),
}

fn tagged(out: &mut Vec<u8>, tag: &str, value: &impl Serialize) -> Range<usize> {
    out.extend_from_slice(b"{\"");
    out.extend_from_slice(tag.as_bytes());
    out.extend_from_slice(b"\":");
    let start = out.len();
    serde_json::to_writer(&mut *out, value)
        .expect("our own types have text keys, and a Vec takes every byte");
    let end = out.len();
    out.push(b'}');
    start..end
}

/// What was read, if its fields agree with each other.
fn valid<S: TryInto<T, Error = &'static str>, T>(
    what: &'static str,
    bytes: &[u8],
    stored: S,
) -> Result<T, FormatError> {
    stored.try_into().map_err(|cause| failed(what, bytes, serde::de::Error::custom(cause)))
}

fn read<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, FormatError> {
    serde_json::from_slice(bytes).map_err(|cause| failed(what, bytes, cause))
}

fn failed(what: &'static str, bytes: &[u8], cause: serde_json::Error) -> FormatError {
    let begin = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
    FormatError { what, begin, cause }
}
