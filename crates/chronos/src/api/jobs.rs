//! Jobs: lists for people, everything about one, pauses, and why it does not run.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use jiff::{SignedDuration, Timestamp};
use scheduler::job::Pause;
use scheduler::request::Request;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::HistoryQuery;
use store::projection::Projection;
use utoipa::{IntoParams, ToSchema};

use crate::wire::duration;
use crate::wire::shape::{SPAN_MAX, Shape, optional};

use super::choice::{self, Choice, Chosen, JobField, Selected};
use super::conditions::{self, Conditions};
use super::error::{ApiError, ErrorBody, defect};
use super::extract::{self, Document, Params, limit};
use super::lists::{Order, Way};
use super::next::{schedule, upcoming};
use super::view::{JobRow, JobView, RunView};
use super::why::{Facts, Reason};
use super::{ApiContext, Changed, changed};

/// Which page of a list of jobs.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// By which field, with a `-` before it for the other way round: `name` (if absent), `state` (running ones first),
    /// `lastOutcome` (the worst first), `lastEnded`, `lastSuccess`, `lastError`, `next`, `owner`, `errors` (since the
    /// last success), `created`, `changed`. Jobs without a value come last either way; ties are sorted by name.
    pub(super) sort: Option<String>,
    /// At most so many; 1 to 1000, 100 if absent.
    pub(super) limit: Option<usize>,
    /// `next` of the page before, with the same `sort`. In the order of names, the name of any job.
    pub(super) cursor: Option<String>,
}

/// A page of jobs.
#[derive(Serialize, ToSchema)]
pub(super) struct Jobs {
    /// In the order that was asked for.
    jobs: Vec<JobRow>,
    /// How many match on all pages.
    total: usize,
    /// Cursor of the next page, if there is one.
    next: Option<String>,
}

/// Jobs for people: with state, last outcome and next slot.
#[utoipa::path(
    get, path = "/v1/jobs", tag = "jobs", params(Wanted, Chosen),
    responses((status = 200, body = Jobs), (status = 400, body = ErrorBody))
)]
pub(super) async fn list(
    State(ctx): State<ApiContext>,
    Params(wanted): Params<Wanted>,
    Params(chosen): Params<Chosen>,
) -> Result<Json<Jobs>, ApiError> {
    let now = Timestamp::now();
    let page = move |Selected { jobs, total, next }, projection: &Projection| {
        let row = |uid| {
            let job = projection.state().jobs.get(uid)?;
            Some(JobRow::of(projection, job, projection.state().progress.get(uid)?, now))
        };
        Jobs { jobs: jobs.iter().filter_map(row).collect(), total, next }
    };
    page_of(ctx, &wanted, &chosen, now, page).await.map(Json)
}

/// A page of a list of jobs, as `tell` writes it.
pub(super) async fn page_of<T: Send + 'static>(
    ctx: ApiContext,
    wanted: &Wanted,
    chosen: &Chosen,
    now: Timestamp,
    tell: impl FnOnce(Selected, &Projection) -> T + Send + 'static,
) -> Result<T, ApiError> {
    let limit = limit(wanted.limit, 100, 1000)?;
    let order = Order::of(wanted.sort.as_deref(), (JobField::Name, Way::Up))?;
    let (choice, cursor) = (Choice::of(chosen, now)?, wanted.cursor.clone());
    let work = move || {
        let handle = &ctx.node.projection;
        let selected = choice::select(handle, &choice, order, cursor.as_deref(), limit)?;
        Ok(tell(selected, &handle.read()))
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| defect())?
}

/// What ended last that is shown with a job.
const LAST: usize = 5;

/// Everything about a job. `ETag` names its version: it changes with the definition, not with what the job does.
#[utoipa::path(
    get, path = "/v1/jobs/{name}", tag = "jobs", params(("name" = String, Path)),
    responses((status = 200, body = JobView), (status = 404, body = ErrorBody))
)]
pub(super) async fn show(
    State(ctx): State<ApiContext>,
    extract::Job(name): extract::Job,
) -> Result<Response, ApiError> {
    let now = Timestamp::now();
    let (job, progress) = ctx.job(&name)?;
    let retry_delay = ctx.settings.retry_delay;
    let mut view = JobView::of(&ctx.node.projection.read(), &job, &progress, now, retry_delay);
    view.slots = upcoming(&ctx.node.zones, &job, &progress, now).take(LAST).collect();
    let query = HistoryQuery { job: Some(job.uid), limit: LAST, ..HistoryQuery::default() };
    let mut unread = None;
    let (last, kept) = tokio::join!(ctx.node.store.history(&query), ctx.node.store.kept_since(job.uid));
    match (last, kept) {
        (Ok(last), Ok(kept)) => {
            view.last = last.records.iter().map(RunView::of).collect();
            if let Some(kept) = kept.filter(|kept| *kept > progress.accounted_since) {
                view.accounted_since = crate::wire::job::instant(kept);
            }
        }
        // What is known of the job is worth showing, most of all then.
        (Err(problem), _) | (_, Err(problem)) => unread = Some(problem),
    }
    if let Some(schedule) = schedule(&ctx.node.zones, &job) {
        view.warnings = schedule.lints().iter().map(ToString::to_string).collect();
        view.schedule_resolved = schedule.resolved().map(Into::into);
    }
    view.warnings.extend(ctx.unhonoured(&job.body));
    view.warnings.extend(unread.map(|problem| format!("its history cannot be read now: {problem}")));
    Ok((conditions::etag(job.uid, job.version), Json(view)).into_response())
}

/// Reasons.
#[derive(Serialize, ToSchema)]
pub(super) struct Why {
    /// Name of the job.
    pub(super) job: String,
    /// Key of the run, where one was asked about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) run: Option<String>,
    /// The most telling first.
    pub(super) reasons: Vec<Reason>,
}

/// Why a job does not run now, and what it waits for.
#[utoipa::path(
    get, path = "/v1/jobs/{name}/why", tag = "jobs", params(("name" = String, Path)),
    responses((status = 200, body = Why), (status = 404, body = ErrorBody))
)]
pub(super) async fn why(
    State(ctx): State<ApiContext>,
    extract::Job(name): extract::Job,
) -> Result<Json<Why>, ApiError> {
    let (job, progress) = ctx.job(&name)?;
    let query = HistoryQuery { job: Some(job.uid), limit: 1, ..HistoryQuery::default() };
    // Without the history there is still most of it to say.
    let (last, unread) = match ctx.node.store.history(&query).await {
        Ok(page) => (page.records, None),
        Err(problem) => (Vec::new(), Some(format!("its history cannot be read now: {problem}"))),
    };
    let status = ctx.node.status();
    let projection = ctx.node.projection.read();
    let (state, limits) = (projection.state(), &ctx.settings.limits);
    let engine = super::why::engine_of(&ctx.node, &job);
    let waits_for = &|task: &_| ctx.node.engine.waits_for(task);
    let now = Timestamp::now();
    let facts = Facts { now, state, status: &status, limits, engine, waits_for, last: &last };
    let mut reasons = facts.of_job(&job, &progress);
    reasons.extend(ctx.unhonoured(&job.body).into_iter().map(|told| Reason::new("no_effect", told)));
    reasons.extend(unread.map(|told| Reason::new("store_unavailable", told)));
    Ok(Json(Why { job: name.to_string(), run: None, reasons }))
}

/// A pause as it is asked for.
#[derive(ToSchema)]
#[expect(dead_code, reason = "says in the document what the body looks like; it is read by its shape")]
pub(super) struct PauseBody {
    /// For the others who look at it; at most 1024 bytes.
    reason: Option<String>,
    /// When the job resumes by itself.
    until: Option<String>,
    /// Instead of `until`: after so long, as in `2h`.
    r#for: Option<String>,
}

/// Stops slots and parents from starting a job; running tasks go on.
#[utoipa::path(
    post, path = "/v1/jobs/{name}/pause", tag = "jobs", params(("name" = String, Path)), request_body = PauseBody,
    responses((status = 200, body = Changed), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 412, body = ErrorBody))
)]
pub(super) async fn pause(
    State(ctx): State<ApiContext>,
    extract::Job(job): extract::Job,
    conditions: Conditions,
    Document(body): Document,
) -> Result<Response, ApiError> {
    let (reason, until) = pause_of(&body, Timestamp::now())?;
    let pause = Request::Pause { job: job.clone(), reason: reason.into(), until };
    let (_, seq) = ctx.ask(conditions.on(&job, pause)).await?;
    Ok(changed(seq))
}

fn pause_of(body: &[u8], now: Timestamp) -> Result<(String, Option<Timestamp>), ApiError> {
    const FOR: Shape = Shape::Span(std::time::Duration::from_secs(1), SPAN_MAX);
    let fields = [optional("reason", Shape::Text), optional("until", Shape::Text), optional("for", FOR)];
    let read = extract::object(body, &fields)?;
    let text = |key: &str| read.get(key).and_then(Value::as_str);
    let reason = text("reason").unwrap_or_default();
    if reason.len() > Pause::REASON_MAX {
        return Err(ApiError::invalid(
            "reason",
            format!("`reason` has more than {} bytes", Pause::REASON_MAX),
        ));
    }
    let until = match (text("until"), text("for").and_then(duration::parse)) {
        (Some(_), Some(_)) => {
            return Err(
                ApiError::invalid("until", "`until` and `for` are both given").hint("remove one of the two")
            );
        }
        (Some(until), None) => Some(extract::instant("until", until)?),
        (None, Some(length)) => {
            let end = SignedDuration::try_from(length).ok().and_then(|length| now.checked_add(length).ok());
            Some(end.ok_or_else(|| ApiError::invalid("for", "`for` ends beyond the calendar"))?)
        }
        (None, None) => None,
    };
    // Stored times have whole milliseconds.
    let until = until.map(|t| Timestamp::from_millisecond(t.as_millisecond()).unwrap_or(t));
    Ok((reason.to_owned(), until))
}

/// Ends a pause.
#[utoipa::path(
    post, path = "/v1/jobs/{name}/resume", tag = "jobs", params(("name" = String, Path)),
    responses((status = 200, body = Changed), (status = 404, body = ErrorBody), (status = 412, body = ErrorBody))
)]
pub(super) async fn resume(
    State(ctx): State<ApiContext>,
    extract::Job(job): extract::Job,
    conditions: Conditions,
) -> Result<Response, ApiError> {
    let (_, seq) = ctx.ask(conditions.on(&job, Request::Resume(job.clone()))).await?;
    Ok(changed(seq))
}
