//! One job by its name: put, patched, deleted, each on a condition where the client has one.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use scheduler::ids::{JobName, JobUid, Seq};
use scheduler::request::{Answer, Definition, Edit, Expect, Manner, Refusal, Request, Verdict};
use scheduler::schedule::Zones;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::{Mutex, MutexGuard};
use utoipa::{IntoParams, ToSchema};

use crate::node::AskError;
use crate::wire::job::{self, Door, Reading};
use crate::wire::patch::{self, FieldChange};
use crate::wire::twice;

use super::apply::changes;
use super::conditions::{self, Conditions};
use super::error::{ApiError, ErrorBody, defect, no_such_job};
use super::extract::{self, Document, Params};
use super::{ApiContext, seq_header, view};

/// How often a patch without a condition is made again when the job is edited otherwise at the same time.
const TRIES: usize = 8;
/// How long a patch waits for its turn: with the time that its change may take, no longer than a node waits that has
/// handed it on.
const TURN_WITHIN: Duration = Duration::from_secs(8);

/// Patches of one job take turns: each is made of what the one before it has left, so that however many come at once
/// none is made in vain. Names share turns, so that there need not be one for each.
#[derive(Clone, Debug)]
pub struct Turns(Arc<[Mutex<()>]>);

impl Default for Turns {
    fn default() -> Self {
        Self((0..Self::COUNT).map(|_| Mutex::default()).collect())
    }
}

impl Turns {
    /// More than are patched at once, most of the time.
    const COUNT: usize = 64;

    async fn of(&self, name: &JobName) -> Result<MutexGuard<'_, ()>, ApiError> {
        let mut hasher = DefaultHasher::new();
        name.as_str().hash(&mut hasher);
        let place = usize::try_from(hasher.finish() % Self::COUNT as u64).unwrap_or(0);
        let turn = tokio::time::timeout(TURN_WITHIN, self.0[place].lock()).await;
        turn.map_err(|_| contended(name))
    }
}

/// Nobody's fault: the same again may well be done.
fn contended(name: &JobName) -> ApiError {
    let message = format!("job `{name}` is edited by many at once");
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "contended", message)
        .retry_after(Duration::ZERO)
        .hint("nothing has changed; send it again in a moment")
}

/// Whether anything is done.
#[derive(Clone, Copy, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
pub(super) struct Trial {
    /// `true`: only tell what would change.
    #[serde(default)]
    dry_run: bool,
}

impl Trial {
    pub(super) fn manner(self) -> Manner {
        if self.dry_run { Manner::DryRun } else { Manner::Do }
    }

    /// What the query and the body say together: nothing is done if either of them says so.
    pub(super) fn or(self, within: Option<bool>) -> Self {
        Self { dry_run: self.dry_run || within == Some(true) }
    }
}

/// What a definition came to, or would come to.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Written {
    /// Name of the job.
    pub(super) job: String,
    /// New with each creation; empty where a dry run would create the job.
    pub(super) uid: String,
    /// `created`, `updated` or `unchanged`.
    pub(super) result: &'static str,
    /// Counts replacements, from 1.
    pub(super) version: u32,
    /// What the author should know, one sentence each.
    pub(super) warnings: Vec<String>,
    /// Number of the change.
    pub(super) seq: u64,
    /// True where it was a dry run, and nothing was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) dry_run: Option<bool>,
    /// Of a dry run: what would change, field by field; empty for a new job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) changes: Option<Vec<FieldChange>>,
}

impl Written {
    pub(super) fn of(name: &JobName, answer: &Answer, seq: Seq, warnings: Vec<String>) -> (JobUid, Self) {
        let (uid, version, changed) = match *answer {
            Answer::Put { uid, version, changed } => (uid, version, changed),
            _ => (JobUid(0), 0, true),
        };
        let result = result(version, changed);
        let job = name.to_string();
        let (seq, uid_text) = (seq.0, uid.to_string());
        let told = Self { job, uid: uid_text, result, version, warnings, seq, dry_run: None, changes: None };
        (uid, told)
    }

    /// What a dry run found.
    fn foretold(verdict: Verdict, seq: Seq, changes: Vec<FieldChange>, warnings: Vec<String>) -> Self {
        let Verdict { job, uid, version, changed } = verdict;
        let result = result(version, changed);
        Self {
            job: job.to_string(),
            uid: uid.map(|uid| uid.to_string()).unwrap_or_default(),
            result,
            version,
            warnings,
            seq: seq.0,
            dry_run: Some(true),
            changes: Some(if result == "updated" { changes } else { Vec::new() }),
        }
    }
}

/// How a definition is put.
#[derive(Clone, Copy)]
pub(super) enum Put {
    /// As a whole, by its author.
    Whole,
    /// As what an edit makes of what is there.
    Edited(Edit),
}

/// Puts a definition, or tells what that would come to. Says of a refusal what it was.
pub(super) async fn write(
    ctx: &ApiContext,
    trial: Trial,
    put: Put,
    definition: Definition,
    expect: Option<Expect>,
    warnings: Vec<String>,
) -> Result<Result<Response, AskError>, ApiError> {
    let name = definition.name.clone();
    let conditions = Conditions(expect);
    if trial.manner() == Manner::DryRun {
        let changes = changes(ctx, &definition);
        let set = Request::Apply { definitions: vec![definition], manner: Manner::DryRun };
        return Ok(match ctx.foretell(conditions.on(&name, set)).await? {
            Ok((mut verdicts, seq)) => {
                let verdict = verdicts.pop().ok_or_else(defect)?;
                let told = Written::foretold(verdict, seq, changes, warnings);
                Ok(([seq_header(seq)], Json(told)).into_response())
            }
            Err(refused) => Err(refused),
        });
    }
    let request = match put {
        Put::Whole => Request::Put(definition),
        Put::Edited(edit) => Request::Edit { definition, edit },
    };
    let answer = ctx.try_ask(conditions.on(&name, request)).await?;
    Ok(answer.map(|(answer, seq)| written(&name, &answer, seq, warnings)))
}

/// `created`, `updated` or `unchanged`.
pub(super) fn result(version: u32, changed: bool) -> &'static str {
    match (changed, version) {
        (false, _) => "unchanged",
        (true, 1) => "created",
        (true, _) => "updated",
    }
}

/// The body is not what it must be.
pub(super) fn malformed(message: String) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "malformed", message)
}

/// Answers a write of one definition.
pub(super) fn written(name: &JobName, answer: &Answer, seq: Seq, warnings: Vec<String>) -> Response {
    let (uid, body) = Written::of(name, answer, seq, warnings);
    let status = if body.result == "created" { StatusCode::CREATED } else { StatusCode::OK };
    let mut response =
        (status, [seq_header(seq)], conditions::etag(uid, body.version), Json(body)).into_response();
    if status == StatusCode::CREATED
        && let Ok(location) = format!("/v1/jobs/{name}").try_into()
    {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// Creates or replaces a job; with `If-None-Match: *` only creates, with `If-Match` only replaces that version.
#[utoipa::path(
    put, path = "/v1/jobs/{name}", tag = "jobs", params(("name" = String, Path), Trial), request_body = Object,
    responses((status = 200, body = Written), (status = 201, body = Written), (status = 400, body = ErrorBody),
        (status = 409, body = ErrorBody), (status = 412, body = ErrorBody))
)]
pub(super) async fn put(
    State(ctx): State<ApiContext>,
    extract::Job(name): extract::Job,
    Params(trial): Params<Trial>,
    Conditions(expect): Conditions,
    Document(body): Document,
) -> Result<Response, ApiError> {
    let mut document = definition_fields(&body)?;
    document.entry("name").or_insert_with(|| json!(name.as_str()));
    let Reading { definition, mut warnings, .. } = read(Value::Object(document), &name, &ctx.node.zones)?;
    warnings.extend(ctx.unhonoured(&definition.body));
    Ok(write(&ctx, trial, Put::Whole, definition, expect, warnings).await??)
}

/// Changes the fields that the body names, and no others: a JSON merge patch (RFC 7396), where null takes a field away.
#[utoipa::path(
    patch, path = "/v1/jobs/{name}", tag = "jobs", params(("name" = String, Path), Trial),
    request_body(content((Object = "application/merge-patch+json"), (Object = "application/json"))),
    responses((status = 200, body = Written), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody), (status = 412, body = ErrorBody))
)]
pub(super) async fn patch(
    State(ctx): State<ApiContext>,
    extract::Job(name): extract::Job,
    Params(trial): Params<Trial>,
    Conditions(expect): Conditions,
    Document(body): Document,
) -> Result<Response, ApiError> {
    let fields = definition_fields(&body)?;
    let _turn = ctx.turns.of(&name).await?;
    for _ in 0..TRIES {
        let (uid, version, definition) = {
            let projection = ctx.node.projection.read();
            let job = projection.job(&name).ok_or_else(|| no_such_job(&name))?;
            let definition = job::as_written(job, |uid| view::name_of(&projection, uid));
            (job.uid, job.version, definition)
        };
        let refuse = |job| ApiError::from(Refusal::VersionMismatch { job, present: Some((uid, version)) });
        match &expect {
            Some(Expect::Absent) => return Err(refuse(name)),
            Some(Expect::OneOf(versions)) if !versions.contains(&(uid, version)) => return Err(refuse(name)),
            _ => {}
        }
        let patched = patch::patched(definition, &fields);
        refuse_aimless(&name, &fields, &patched)?;
        let Reading { definition, mut warnings, .. } = read(patched, &name, &ctx.node.zones)?;
        warnings.extend(ctx.unhonoured(&definition.body));
        // What was patched is what is there, or nothing is done.
        let seen = Some(Expect::OneOf(vec![(uid, version)]));
        match write(&ctx, trial, Put::Edited(Edit::Patch), definition, seen, warnings).await? {
            Err(AskError::Refused(Refusal::VersionMismatch { .. }))
                if !matches!(expect, Some(Expect::OneOf(_))) =>
            {
                // This node may not have heard yet of what came between.
                tokio::task::yield_now().await;
            }
            answer => return Ok(answer?),
        }
    }
    Err(contended(&name))
}

/// Deletes a job and kills its runs. Its children inherit its parents or its schedule.
#[utoipa::path(
    delete, path = "/v1/jobs/{name}", tag = "jobs", params(("name" = String, Path)),
    responses((status = 200), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
        (status = 412, body = ErrorBody))
)]
pub(super) async fn delete(
    State(ctx): State<ApiContext>,
    extract::Job(name): extract::Job,
    conditions: Conditions,
) -> Result<Response, ApiError> {
    let (answer, seq) = ctx.ask(conditions.on(&name, Request::Delete(name.clone()))).await?;
    let runs = if let Answer::Deleted { live } = answer { live } else { 0 };
    Ok(([seq_header(seq)], Json(json!({ "runs": runs, "seq": seq.0 }))).into_response())
}

/// A definition of the job that the path names, with its lints among the warnings.
fn read(document: Value, name: &JobName, zones: &Zones) -> Result<Reading, ApiError> {
    let mut reading = job::read_value(&document, Door::Any, zones, Timestamp::now())?;
    if reading.definition.name != *name {
        let message = format!(
            "`name` is `{}`, but the path names `{name}`: a job is not renamed",
            reading.definition.name
        );
        return Err(ApiError::invalid("name", message)
            .hint("create a job of the new name and delete this one, or leave `name` out"));
    }
    reading.warnings.extend(reading.lints.iter().map(ToString::to_string));
    Ok(reading)
}

/// Refuses a patch that takes away what makes a job run. A definition that comes without it runs once, now, which nobody
/// means who takes it away.
fn refuse_aimless(name: &JobName, fields: &Map<String, Value>, patched: &Value) -> Result<(), ApiError> {
    let has_schedule = patched.get("schedule").is_some();
    let is_none = |parents: &Value| parents.as_array().is_some_and(Vec::is_empty);
    let has_parents = patched.get("parents").is_some_and(|parents| !is_none(parents));
    if has_schedule || has_parents {
        return Ok(());
    }
    let field = if fields.contains_key("schedule") { "schedule" } else { "parents" };
    let message = format!("without `{field}` nothing would make job `{name}` run");
    Err(ApiError::invalid(field, message).hint(format!(
        "to keep it from running, patch `disabled` to true or POST /v1/jobs/{name}/pause; \
         to run it once, PUT /v1/scheduler/job/{name}"
    )))
}

/// The fields of a definition. Those that are not known are left out with a warning, but whoever asks for a dry run at the
/// wrong place does not want it done.
fn definition_fields(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    let fields = object(body)?;
    let is_dry_run = |key: &&String| key.replace(['_', '-'], "").eq_ignore_ascii_case("dryrun");
    match fields.keys().find(is_dry_run) {
        None => Ok(fields),
        Some(key) => Err(ApiError::invalid(key, format!("`{key}` is not a field of a job"))
            .hint("to be told what would change, ask in the query: `?dryRun=true`")),
    }
}

/// The fields of a body.
pub(super) fn object(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    let malformed = |message| malformed(message).hint("send one JSON object");
    let document =
        twice::Document::of_json(body).map_err(|e| malformed(format!("the body is not valid JSON: {e}")))?;
    match document.once()? {
        Value::Object(fields) => Ok(fields),
        _ => Err(malformed("the body is not a JSON object".into())),
    }
}
