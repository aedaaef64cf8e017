//! The endpoints of Chronos, relative to their prefix, with their defects repaired.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use scheduler::ids::{JobName, JobUid, Seq};
use scheduler::job::{Job, Plan, Progress};
use scheduler::request::{Answer, Request};
use scheduler::run::{Outcome, Record, Skipped};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use store::HistoryQuery;
use store::projection::Projection;
use utoipa::{IntoParams, ToSchema};

use crate::wire::job::{self, Door, Reading, is_exhausted};

use super::conditions::{self, Conditions};
use super::editing::Written;
use super::error::{ApiError, ErrorBody, defect, no_such_job};
use super::extract::{self, Document, Params};
use super::{ApiContext, mention, seq_header, view};

/// How a write is answered.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Manner {
    /// `true`: answer 200 with what was done instead of 204.
    #[serde(default)]
    verbose: bool,
}

/// Creates or replaces a job with a schedule.
///
/// Without `schedule` the job runs once, now, at every post. Warnings come in the header `X-Chronos-Warnings`, a JSON list.
#[utoipa::path(
    post, path = "/iso8601", tag = "chronos", params(Manner), request_body = Object,
    responses((status = 204), (status = 200, body = Written), (status = 400, body = ErrorBody),
        (status = 412, body = ErrorBody), (status = 503, body = ErrorBody))
)]
pub(super) async fn post_iso8601(
    ctx: State<ApiContext>,
    manner: Params<Manner>,
    conditions: Conditions,
    body: Document,
) -> Result<Response, ApiError> {
    put(ctx, Door::Schedule, manner, conditions, body).await
}

/// The same by PUT, as Chronos 2 had it.
#[utoipa::path(
    put, path = "/iso8601", tag = "chronos", params(Manner), request_body = Object,
    responses((status = 204), (status = 200, body = Written), (status = 400, body = ErrorBody),
        (status = 412, body = ErrorBody), (status = 503, body = ErrorBody))
)]
pub(super) async fn put_iso8601(
    ctx: State<ApiContext>,
    manner: Params<Manner>,
    conditions: Conditions,
    body: Document,
) -> Result<Response, ApiError> {
    put(ctx, Door::Schedule, manner, conditions, body).await
}

/// Creates or replaces a job with parents.
#[utoipa::path(
    post, path = "/dependency", tag = "chronos", params(Manner), request_body = Object,
    responses((status = 204), (status = 200, body = Written), (status = 400, body = ErrorBody),
        (status = 412, body = ErrorBody), (status = 503, body = ErrorBody))
)]
pub(super) async fn post_dependency(
    ctx: State<ApiContext>,
    manner: Params<Manner>,
    conditions: Conditions,
    body: Document,
) -> Result<Response, ApiError> {
    put(ctx, Door::Dependency, manner, conditions, body).await
}

/// The same by PUT, as Chronos 2 had it.
#[utoipa::path(
    put, path = "/dependency", tag = "chronos", params(Manner), request_body = Object,
    responses((status = 204), (status = 200, body = Written), (status = 400, body = ErrorBody),
        (status = 412, body = ErrorBody), (status = 503, body = ErrorBody))
)]
pub(super) async fn put_dependency(
    ctx: State<ApiContext>,
    manner: Params<Manner>,
    conditions: Conditions,
    body: Document,
) -> Result<Response, ApiError> {
    put(ctx, Door::Dependency, manner, conditions, body).await
}

async fn put(
    State(ctx): State<ApiContext>,
    door: Door,
    Params(manner): Params<Manner>,
    conditions: Conditions,
    Document(body): Document,
) -> Result<Response, ApiError> {
    let Reading { definition, mut warnings, lints } =
        job::read(&body, door, &ctx.node.zones, Timestamp::now())?;
    warnings.extend(lints.iter().map(ToString::to_string));
    warnings.extend(ctx.unhonoured(&definition.body));
    let name = definition.name.clone();
    let (answer, seq) = ctx.ask(conditions.on(&name, Request::Put(definition))).await?;
    let (uid, body) = Written::of(&name, &answer, seq, warnings.clone());
    let mut headers = HeaderMap::from_iter(conditions::etag(uid, body.version));
    if !warnings.is_empty() {
        headers.insert(WARNINGS, ascii(&json!(warnings)));
    }
    Ok((headers, done(manner, seq, body)).into_response())
}

/// 204, or 200 with a body where it is asked for.
fn done(manner: Manner, seq: Seq, body: impl Serialize) -> Response {
    let headers = [seq_header(seq)];
    if manner.verbose {
        return (headers, Json(body)).into_response();
    }
    (StatusCode::NO_CONTENT, headers).into_response()
}

/// Where what a client should know is said, as a JSON list.
pub(super) const WARNINGS: HeaderName = HeaderName::from_static("x-chronos-warnings");

/// JSON as a header can carry it.
pub(super) fn ascii(value: &Value) -> HeaderValue {
    let mut text = String::new();
    for c in value.to_string().chars() {
        if (' '..='~').contains(&c) {
            text.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(text, "\\u{unit:04x}");
            }
        }
    }
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("[]"))
}

/// Which jobs of a list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Page {
    /// At most so many; all if absent.
    limit: Option<usize>,
    /// After so many.
    offset: Option<usize>,
}

/// A job, and what of others is needed to write it.
type Shared = (Arc<Job>, Arc<Progress>, Vec<(JobUid, JobName)>);

fn shared(projection: &Projection, job: &Arc<Job>) -> Option<Shared> {
    let progress = projection.state().progress.get(&job.uid)?;
    let parents: &[JobUid] = match &job.plan {
        Plan::Parents(parents) => parents,
        Plan::Schedule(_) => &[],
    };
    let names = parents.iter().filter_map(|uid| Some((*uid, view::name_of(projection, *uid)?))).collect();
    Some((job.clone(), progress.clone(), names))
}

fn written((job, progress, names): &Shared) -> Map<String, Value> {
    job::write_classic(job, progress, |uid| {
        names.iter().find(|(known, _)| *known == uid).map(|(_, name)| name.clone())
    })
}

/// Writes jobs on a thread where that may take its time: 100,000 of them take a second.
async fn listed(jobs: Vec<Shared>, total: usize) -> Result<Response, ApiError> {
    let text = tokio::task::spawn_blocking(move || {
        let mut text = String::from("[");
        for (i, job) in jobs.iter().enumerate() {
            if i > 0 {
                text.push(',');
            }
            text.push_str(&Value::Object(written(job)).to_string());
        }
        text.push(']');
        text
    });
    let text = text.await.map_err(|_| defect())?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (HeaderName::from_static("x-total-count"), HeaderValue::from(total)),
    ];
    Ok((headers, text).into_response())
}

/// All jobs, sorted by name.
#[utoipa::path(get, path = "/jobs", tag = "chronos", params(Page), responses((status = 200, body = Vec<Object>)))]
pub(super) async fn jobs(
    State(ctx): State<ApiContext>,
    Params(page): Params<Page>,
) -> Result<Response, ApiError> {
    let (offset, limit) = (page.offset.unwrap_or(0), page.limit.unwrap_or(usize::MAX));
    let (mut jobs, mut total) = (Vec::new(), 0);
    view::each_job(&ctx.node.projection, |projection, job| {
        if total >= offset && jobs.len() < limit {
            jobs.extend(shared(projection, job));
        }
        total += 1;
    });
    listed(jobs, total).await
}

/// What to search for.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Search {
    /// Occurs in the name, without regard to case.
    #[serde(default)]
    name: String,
    /// Occurs in the command.
    #[serde(default)]
    command: String,
    /// Occurs in either; added to what the others find.
    #[serde(default)]
    any: String,
    /// At most so many; 10 if absent.
    limit: Option<usize>,
    /// After so many.
    offset: Option<usize>,
}

/// Jobs by parts of their names and commands, sorted by name.
#[utoipa::path(get, path = "/jobs/search", tag = "chronos", params(Search), responses((status = 200, body = Vec<Object>)))]
pub(super) async fn search(
    State(ctx): State<ApiContext>,
    Params(search): Params<Search>,
) -> Result<Response, ApiError> {
    let wanted = [&search.name, &search.command, &search.any].map(|text| text.to_lowercase());
    let (offset, limit) = (search.offset.unwrap_or(0), search.limit.unwrap_or(10));
    let find = move || {
        let (mut page, mut total) = (Vec::new(), 0);
        view::each_job(&ctx.node.projection, |projection, job| {
            if !matches(job, &wanted) {
                return;
            }
            if total >= offset && page.len() < limit {
                page.extend(shared(projection, job));
            }
            total += 1;
        });
        (page, total)
    };
    let (page, total) = tokio::task::spawn_blocking(find).await.map_err(|_| defect())?;
    listed(page, total).await
}

fn matches(job: &Job, [name, command, any]: &[String; 3]) -> bool {
    let by_both = || {
        (name.is_empty() || mention::occurs(job.name.as_str(), name))
            && (command.is_empty() || mention::command_mentions(job, command))
    };
    let by_either = || mention::occurs(job.name.as_str(), any) || mention::command_mentions(job, any);
    match (name.is_empty() && command.is_empty(), any.is_empty()) {
        (true, true) => true,
        (true, false) => by_either(),
        (false, true) => by_both(),
        (false, false) => by_both() || by_either(),
    }
}

/// A job in the summary.
#[derive(Serialize, ToSchema)]
struct SummaryRow {
    name: String,
    status: &'static str,
    state: String,
    schedule: String,
    parents: Vec<String>,
    disabled: bool,
}

/// All jobs in short.
#[derive(Serialize, ToSchema)]
pub(super) struct Summary {
    jobs: Vec<SummaryRow>,
}

/// All jobs in short, sorted by name.
#[utoipa::path(get, path = "/jobs/summary", tag = "chronos", responses((status = 200, body = Summary)))]
pub(super) async fn summary(State(ctx): State<ApiContext>) -> Json<Summary> {
    let mut jobs = Vec::new();
    view::each_job(&ctx.node.projection, |projection, job| {
        let Some(progress) = projection.state().progress.get(&job.uid) else { return };
        let schedule = match &job.plan {
            Plan::Schedule(timetable) => timetable.text.to_string(),
            Plan::Parents(_) => String::new(),
        };
        jobs.push(SummaryRow {
            name: job.name.to_string(),
            status: view::status(progress),
            state: view::state(projection, job.uid),
            schedule,
            parents: view::texts(view::parents(projection, job).unwrap_or_default()),
            disabled: job.rules.disabled || is_exhausted(job, progress),
        });
    });
    Json(Summary { jobs })
}

/// One job.
#[utoipa::path(
    get, path = "/job/{name}", tag = "chronos", params(("name" = String, Path)),
    responses((status = 200, body = Object), (status = 404, body = ErrorBody))
)]
pub(super) async fn job(
    State(ctx): State<ApiContext>,
    extract::Job(name): extract::Job,
) -> Result<Response, ApiError> {
    let projection = ctx.node.projection.read();
    let found = projection.job(&name).and_then(|job| shared(&projection, job));
    let found = found.ok_or_else(|| no_such_job(&name))?;
    let tag = conditions::etag(found.0.uid, found.0.version);
    Ok((tag, Json(written(&found))).into_response())
}

/// How a job is started by hand.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Trigger {
    /// Words that replace the job's own arguments.
    arguments: Option<String>,
    /// `true`: answer 200 with the key of the run instead of 204.
    #[serde(default)]
    verbose: bool,
}

/// Longest arguments of a manual run.
const ARGUMENTS_MAX: usize = 8192;

/// Runs a job now. The key of the run comes in the header `X-Chronos-Run`.
#[utoipa::path(
    put, path = "/job/{name}", tag = "chronos", params(("name" = String, Path), Trigger),
    responses((status = 204), (status = 200), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
        (status = 412, body = ErrorBody))
)]
pub(super) async fn trigger(
    State(ctx): State<ApiContext>,
    extract::Job(job): extract::Job,
    Params(how): Params<Trigger>,
    conditions: Conditions,
) -> Result<Response, ApiError> {
    let arguments = how.arguments.filter(|text| !text.trim().is_empty());
    if let Some(text) = &arguments {
        if text.len() > ARGUMENTS_MAX {
            return Err(ApiError::invalid(
                "arguments",
                format!("`arguments` has more than {ARGUMENTS_MAX} bytes"),
            ));
        }
        if text.contains('\0') {
            return Err(ApiError::invalid(
                "arguments",
                "`arguments` contains a NUL character, which no process can be given",
            ));
        }
    }
    let trigger = Request::Trigger { job: job.clone(), arguments: arguments.map(Into::into) };
    let (answer, seq) = ctx.ask(conditions.on(&job, trigger)).await?;
    let Answer::Triggered(key) = answer else { return Ok(StatusCode::NO_CONTENT.into_response()) };
    let key = key.to_string();
    let headers = [("x-chronos-run", key.clone()), ("location", format!("/v1/runs/{key}"))];
    let body = json!({ "run": key, "seq": seq.0 });
    Ok((headers, done(Manner { verbose: how.verbose }, seq, body)).into_response())
}

/// Deletes a job and kills its runs. Its children inherit its parents or its schedule.
#[utoipa::path(
    delete, path = "/job/{name}", tag = "chronos", params(("name" = String, Path), Manner),
    responses((status = 204), (status = 200), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
        (status = 412, body = ErrorBody))
)]
pub(super) async fn delete(
    State(ctx): State<ApiContext>,
    extract::Job(job): extract::Job,
    Params(manner): Params<Manner>,
    conditions: Conditions,
) -> Result<Response, ApiError> {
    let (answer, seq) = ctx.ask(conditions.on(&job, Request::Delete(job.clone()))).await?;
    let runs = if let Answer::Deleted { live } = answer { live } else { 0 };
    Ok(done(manner, seq, json!({ "runs": runs, "seq": seq.0 })))
}

/// Kills all runs of a job, waiting ones too.
#[utoipa::path(
    delete, path = "/task/kill/{name}", tag = "chronos", params(("name" = String, Path), Manner),
    responses((status = 204), (status = 200), (status = 404, body = ErrorBody), (status = 412, body = ErrorBody))
)]
pub(super) async fn kill(
    State(ctx): State<ApiContext>,
    extract::Job(job): extract::Job,
    Params(manner): Params<Manner>,
    conditions: Conditions,
) -> Result<Response, ApiError> {
    let (answer, seq) = ctx.ask(conditions.on(&job, Request::KillJob(job.clone()))).await?;
    let runs = if let Answer::Killed { runs } = answer { runs } else { 0 };
    Ok(done(manner, seq, json!({ "runs": runs, "seq": seq.0 })))
}

/// Lets the children of a job go on as if it had succeeded.
#[utoipa::path(
    put, path = "/job/success/{name}", tag = "chronos", params(("name" = String, Path), Manner),
    responses((status = 200, body = String), (status = 404, body = ErrorBody), (status = 412, body = ErrorBody))
)]
pub(super) async fn mark_success(
    State(ctx): State<ApiContext>,
    extract::Job(job): extract::Job,
    Params(manner): Params<Manner>,
    conditions: Conditions,
) -> Result<Response, ApiError> {
    let uid = ctx.node.projection.read().job(&job).map(|job| job.uid).ok_or_else(|| no_such_job(&job))?;
    let last =
        ctx.node.store.history(&HistoryQuery { job: Some(uid), limit: 1, ..HistoryQuery::default() }).await?;
    let failed = last.records.first().and_then(|record| match record {
        Record::Run(run) if has_failed(&run.outcome) => Some((run.key, run.cycle)),
        _ => None,
    });
    let told = format!("marked job {job} as successful: true");
    let mark = Request::MarkSuccess { job: job.clone(), failed };
    let (answer, seq) = ctx.ask(conditions.on(&job, mark)).await?;
    match answer {
        Answer::Marked(run) if manner.verbose => {
            Ok(done(manner, seq, json!({ "run": run.to_string(), "seq": seq.0 })))
        }
        _ => Ok(([seq_header(seq)], told).into_response()),
    }
}

/// Whether the children of the run were told that it failed.
fn has_failed(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Failed | Outcome::Killed(_) | Outcome::TimedOut | Outcome::Lost => true,
        Outcome::Skipped(rule) => matches!(rule, Skipped::Upstream { .. }),
        Outcome::Succeeded | Outcome::Missed(_) => false,
    }
}

/// The graph of jobs for Graphviz.
#[utoipa::path(get, path = "/graph/dot", tag = "chronos", responses((status = 200, body = String)))]
pub(super) async fn dot(State(ctx): State<ApiContext>) -> String {
    let mut jobs = Vec::new();
    view::each_job(&ctx.node.projection, |_, job| jobs.push(job.clone()));
    let numbers: BTreeMap<JobUid, usize> = jobs.iter().map(|job| job.uid).zip(1..).collect();
    let mut text = String::from("digraph G {\n");
    for (i, job) in (1_usize..).zip(&jobs) {
        let _ = writeln!(text, "  {i} [ label=\"{}\" ];", job.name);
    }
    for job in &jobs {
        let Plan::Parents(parents) = &job.plan else { continue };
        for parent in parents.iter().filter_map(|uid| numbers.get(uid)) {
            let _ = writeln!(text, "  {parent} -> {};", numbers[&job.uid]);
        }
    }
    text.push_str("}\n");
    text
}

/// The graph of jobs as lines of text: `node,name,status,state`, then `link,parent,child`.
#[utoipa::path(get, path = "/graph/csv", tag = "chronos", responses((status = 200, body = String)))]
pub(super) async fn csv(State(ctx): State<ApiContext>) -> String {
    let (mut nodes, mut links) = (String::new(), String::new());
    view::each_job(&ctx.node.projection, |projection, job| {
        let Some(progress) = projection.state().progress.get(&job.uid) else { return };
        let (status, state) = (view::status(progress), view::state(projection, job.uid));
        let _ = writeln!(nodes, "node,{},{status},{state}", job.name);
        for parent in view::parents(projection, job).unwrap_or_default() {
            let _ = writeln!(links, "link,{parent},{}", job.name);
        }
    });
    nodes + &links
}

/// Who leads.
#[derive(Serialize, ToSchema)]
pub(super) struct Leader {
    /// `host:port`, or empty when nobody leads.
    leader: String,
}

/// Who leads.
#[utoipa::path(get, path = "/leader", tag = "chronos", responses((status = 200, body = Leader)))]
pub(super) async fn leader(State(ctx): State<ApiContext>) -> Json<Leader> {
    let leader = ctx.leader();
    Json(Leader { leader: leader.unwrap_or_default() })
}
