//! A set of jobs, applied whole or not at all.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use scheduler::SET_MAX;
use scheduler::ids::JobName;
use scheduler::request::{Answer, Definition, Manner, Refusal, Request, Verdict};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::wire::job::{self, Door, Reading, whole_definition};
use crate::wire::patch::{FieldChange, diff};
use crate::wire::shape::{Problem, stray};

use super::conditions::Unconditional;
use super::editing::{self, Trial};
use super::error::{ApiError, ErrorBody, defect};
use super::extract::{Document, Params};
use super::{ApiContext, seq_header, view};

/// A set of jobs.
#[derive(ToSchema)]
#[expect(dead_code, reason = "says in the document what the body looks like; it is read by its fields")]
pub(super) struct SetBody {
    /// Definitions, in any order: at most 10,000, of at most 8 MiB together.
    jobs: Vec<Object>,
    /// Only tell what would change; `dryRun=true` in the query says the same.
    #[schema(rename = "dryRun")]
    dry_run: Option<bool>,
}

/// Stands for a JSON object in the document.
type Object = Map<String, Value>;

/// What became, or would become, of one job.
#[derive(Serialize, ToSchema)]
struct AppliedJob {
    /// Name of the job.
    job: String,
    /// `created`, `updated` or `unchanged`.
    result: &'static str,
    /// Its version after that.
    version: u32,
    /// What changes, field by field; empty for a new job.
    changes: Vec<FieldChange>,
    /// What the author should know, one sentence each.
    warnings: Vec<String>,
}

/// What became, or would become, of a set.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct AppliedSet {
    /// Whether nothing was done.
    dry_run: bool,
    /// In the order in which they were given.
    jobs: Vec<AppliedJob>,
    /// Number of the change.
    seq: u64,
}

/// Creates or replaces all these jobs, or none. Parents may come after their children.
#[utoipa::path(
    post, path = "/v1/apply", tag = "jobs", params(Trial), request_body = SetBody,
    responses((status = 200, body = AppliedSet), (status = 400, body = ErrorBody), (status = 409, body = ErrorBody),
        (status = 413, body = ErrorBody))
)]
pub(super) async fn apply(
    State(ctx): State<ApiContext>,
    Params(trial): Params<Trial>,
    _: Unconditional,
    Document(body): Document,
) -> Result<Response, ApiError> {
    // Ten thousand definitions take a while.
    let context = ctx.clone();
    let read = tokio::task::spawn_blocking(move || Set::read(&context, &body, trial));
    let Set { definitions, manner, notes } = read.await.map_err(|_| defect())??;
    let names: Vec<JobName> = definitions.iter().map(|definition| definition.name.clone()).collect();
    let (answer, seq) = ctx.ask(Request::Apply { definitions, manner }).await?;
    let verdicts = match answer {
        Answer::Applied(verdicts) if verdicts.len() == names.len() => verdicts,
        // It had been applied before: what the jobs are now is what there is to tell.
        _ => present(&ctx, names),
    };
    let jobs = verdicts.into_iter().zip(notes).map(|(verdict, (warnings, changes))| {
        let Verdict { job, version, changed, .. } = verdict;
        let result = editing::result(version, changed);
        let changes = if result == "updated" { changes } else { Vec::new() };
        AppliedJob { job: job.to_string(), result, version, changes, warnings }
    });
    let set = AppliedSet { dry_run: manner == Manner::DryRun, jobs: jobs.collect(), seq: seq.0 };
    Ok(([seq_header(seq)], Json(set)).into_response())
}

/// A set that was understood.
struct Set {
    definitions: Vec<Definition>,
    manner: Manner,
    /// Warnings and changes, of each definition.
    notes: Vec<(Vec<String>, Vec<FieldChange>)>,
}

impl Set {
    fn read(ctx: &ApiContext, body: &[u8], trial: Trial) -> Result<Self, ApiError> {
        let (documents, within) = set_of(body)?;
        let manner = trial.or(within).manner();
        if documents.len() > SET_MAX {
            return Err(Refusal::SetTooLarge { jobs: documents.len(), bytes: body.len() }.into());
        }
        let now = Timestamp::now();
        let (mut definitions, mut notes) = (Vec::new(), Vec::new());
        for (i, document) in documents.iter().enumerate() {
            let Reading { definition, mut warnings, lints } =
                job::read_value(document, Door::Any, &ctx.node.zones, now)
                    .map_err(|problem| within(i, document, problem))?;
            warnings.extend(lints.iter().map(ToString::to_string));
            warnings.extend(ctx.unhonoured(&definition.body));
            let changes = changes(ctx, &definition);
            definitions.push(definition);
            notes.push((warnings, changes));
        }
        Ok(Self { definitions, manner, notes })
    }
}

/// The jobs as they are.
fn present(ctx: &ApiContext, names: Vec<JobName>) -> Vec<Verdict> {
    let projection = ctx.node.projection.read();
    let verdict = |name: JobName| {
        let job = projection.job(&name);
        let (uid, version) = (job.map(|job| job.uid), job.map_or(0, |job| job.version));
        Verdict { job: name, uid, version, changed: false }
    };
    names.into_iter().map(verdict).collect()
}

/// The definitions of a body, `{"jobs": [..]}` or a bare list, and whether it asks for a dry run.
fn set_of(body: &[u8]) -> Result<(Vec<Value>, Option<bool>), ApiError> {
    // A list is known by how it begins, so that no body is read twice.
    if body.trim_ascii_start().starts_with(b"[") {
        return match serde_json::from_slice(body) {
            Ok(jobs) => Ok((jobs, None)),
            Err(e) => Err(editing::malformed(format!("the body is not valid JSON: {e}"))),
        };
    }
    let mut fields = editing::object(body)?;
    if let Some(problem) = stray(&fields, &["jobs", "dryRun"]) {
        return Err(problem.into());
    }
    let dry_run = match fields.get("dryRun") {
        None => None,
        Some(Value::Bool(dry_run)) => Some(*dry_run),
        Some(_) => return Err(ApiError::invalid("dryRun", "`dryRun`: expected true or false")),
    };
    let wrong = || {
        ApiError::invalid("jobs", "`jobs`: expected a list of definitions")
            .hint("send {\"jobs\": [{..}, {..}]}")
    };
    match fields.swap_remove("jobs") {
        Some(Value::Array(jobs)) => Ok((jobs, dry_run)),
        _ => Err(wrong()),
    }
}

/// What is wrong with one job, as seen from the set.
fn within(i: usize, document: &Value, mut problem: Problem) -> Problem {
    let name = document.get("name").and_then(Value::as_str).unwrap_or("?");
    problem.message = format!("job `{name}`: {}", problem.message);
    problem.field =
        if problem.field.is_empty() { format!("jobs[{i}]") } else { format!("jobs[{i}].{}", problem.field) };
    problem
}

/// In what a definition differs from the job that is there.
pub(super) fn changes(ctx: &ApiContext, definition: &Definition) -> Vec<FieldChange> {
    let projection = ctx.node.projection.read();
    let Some(job) = projection.job(&definition.name) else { return Vec::new() };
    let (new, new_parents) = definition.draft();
    let parents = view::parents(&projection, job).unwrap_or_default();
    diff(&whole_definition(job, &parents), &whole_definition(&new, &new_parents))
}
