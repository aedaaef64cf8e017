//! Jobs: lists for people, everything about one, its next slots, pauses, and why it does not run.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use jiff::{SignedDuration, Timestamp};
use scheduler::ids::JobName;
use scheduler::job::{Job, Pause, Plan, Progress};
use scheduler::request::Request;
use scheduler::schedule::{Schedule, Slot, Zones};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::HistoryQuery;
use store::projection::Projection;
use utoipa::{IntoParams, ToSchema};

use crate::wire::duration;
use crate::wire::shape::{Shape, optional};

use super::classic::no_such_job;
use super::conditions;
use super::error::{ApiError, ErrorBody};
use super::extract::{self, Document, Params, limit};
use super::view::{self, JobRow, JobView, RunView, SlotView};
use super::why::{Facts, Reason};
use super::{ApiContext, seq_header};

/// Which jobs of a list.
#[derive(Deserialize, IntoParams)]
pub(super) struct Wanted {
    /// Occurs in name, command, owner or labels, without regard to case.
    #[serde(default)]
    search: String,
    /// `live`, `idle`, `disabled`, `paused` or `failing`.
    state: Option<String>,
    /// At most so many; 1 to 1000, 100 if absent.
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// A page of jobs.
#[derive(Serialize, ToSchema)]
pub(super) struct Jobs {
    /// Sorted by name.
    jobs: Vec<JobRow>,
    /// How many match on all pages.
    total: usize,
    /// Cursor of the next page, if there is one.
    next: Option<String>,
}

/// Jobs for people: with state, last outcome and next slot.
#[utoipa::path(
    get, path = "/v1/jobs", tag = "jobs", params(Wanted),
    responses((status = 200, body = Jobs), (status = 400, body = ErrorBody))
)]
pub(super) async fn list(
    State(ctx): State<ApiContext>,
    Params(wanted): Params<Wanted>,
) -> Result<Json<Jobs>, ApiError> {
    let limit = limit(wanted.limit, 100, 1000)?;
    let after = match &wanted.cursor {
        Some(cursor) => Some(JobName::new(cursor).map_err(|e| ApiError::invalid("cursor", e.to_string()))?),
        None => None,
    };
    let state = match wanted.state.as_deref() {
        None | Some("") => None,
        Some(word) => Some(StateWord::parse(word).ok_or_else(|| {
            ApiError::invalid("state", "`state`: expected live, idle, disabled, paused or failing")
        })?),
    };
    let text = wanted.search.trim().to_lowercase();
    let now = Timestamp::now();
    let page = move || {
        let handle = &ctx.node.projection;
        let row = |projection: &Projection, job: &Job| {
            let progress = projection.state().progress.get(&job.uid)?;
            Some(JobRow::of(projection, job, progress, now))
        };
        if text.is_empty() && state.is_none() {
            // No need to look at the others.
            let projection = handle.read();
            let mut rest = projection.jobs_after(after.as_ref());
            let jobs = rest.by_ref().take(limit).filter_map(|job| row(&projection, job)).collect();
            return page_of(jobs, projection.state().jobs.len(), rest.next().is_some());
        }
        let (mut jobs, mut total, mut more) = (Vec::new(), 0, false);
        view::each_job(handle, |projection, job| {
            let holds = |state: StateWord| {
                let live = projection.runs_of(job.uid).next().is_some();
                projection.state().progress.get(&job.uid).is_some_and(|p| state.holds(job, p, live, now))
            };
            if !(state.is_none_or(holds) && (text.is_empty() || view::mentions(job, &text))) {
                return;
            }
            total += 1;
            if after.as_ref().is_none_or(|after| job.name > *after) {
                if jobs.len() < limit { jobs.extend(row(projection, job)) } else { more = true }
            }
        });
        page_of(jobs, total, more)
    };
    tokio::task::spawn_blocking(page).await.map(Json).map_err(|_| defect())
}

fn page_of(jobs: Vec<JobRow>, total: usize, more: bool) -> Jobs {
    let next = jobs.last().filter(|_| more).map(|job| job.name.clone());
    Jobs { jobs, total, next }
}

pub(super) fn defect() -> ApiError {
    ApiError::new(
        axum::http::StatusCode::INTERNAL_SERVER_ERROR,
        "internal",
        "this request met a defect of the server",
    )
}

#[derive(Clone, Copy)]
enum StateWord {
    Live,
    Idle,
    Disabled,
    Paused,
    Failing,
}

impl StateWord {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "live" => Self::Live,
            "idle" => Self::Idle,
            "disabled" => Self::Disabled,
            "paused" => Self::Paused,
            "failing" => Self::Failing,
            _ => return None,
        })
    }

    fn holds(self, job: &Job, progress: &Progress, live: bool, now: Timestamp) -> bool {
        match self {
            Self::Live => live,
            Self::Idle => !live,
            Self::Disabled => job.rules.disabled || crate::wire::job::is_exhausted(job, progress),
            Self::Paused => progress.paused.as_ref().is_some_and(|p| p.until.is_none_or(|until| until > now)),
            Self::Failing => progress.errors_in_a_row > 0,
        }
    }
}

pub(super) type Found = (Arc<Job>, Arc<Progress>);

pub(super) fn find(ctx: &ApiContext, name: &JobName) -> Result<Found, ApiError> {
    let projection = ctx.node.projection.read();
    let found = projection
        .job(name)
        .and_then(|job| Some((job.clone(), projection.state().progress.get(&job.uid)?.clone())));
    found.ok_or_else(|| no_such_job(name))
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
    let (job, progress) = find(&ctx, &name)?;
    let mut view = JobView::of(&ctx.node.projection.read(), &job, &progress, now);
    view.slots = upcoming(&ctx.node.zones, &job, &progress, now).take(LAST).collect();
    let query = HistoryQuery { job: Some(job.uid), limit: LAST, ..HistoryQuery::default() };
    let (last, kept) = tokio::join!(ctx.node.store.history(&query), ctx.node.store.kept_since(job.uid));
    view.last = last?.records.iter().map(RunView::of).collect();
    if let Some(kept) = kept?.filter(|kept| *kept > progress.accounted_since) {
        view.accounted_since = crate::wire::job::instant(kept);
    }
    if let Some(schedule) = schedule(&ctx.node.zones, &job) {
        view.warnings = schedule.lints().iter().map(ToString::to_string).collect();
        view.schedule_resolved = schedule.resolved().map(Into::into);
    }
    Ok((conditions::etag(job.uid, job.version), Json(view)).into_response())
}

/// The schedule of a job; it was read when it was posted, so it can be read again.
fn schedule(zones: &Zones, job: &Job) -> Option<Schedule> {
    match &job.plan {
        Plan::Schedule(timetable) => timetable.schedule(zones, &job.name).ok(),
        Plan::Parents(_) => None,
    }
}

/// The slots that will be, as far as is known now.
fn upcoming(zones: &Zones, job: &Job, progress: &Progress, now: Timestamp) -> impl Iterator<Item = SlotView> {
    let schedule = schedule(zones, job);
    let first = progress.next.filter(|_| !job.rules.disabled);
    let zone = view::zone(zones, job);
    let remaining = progress.remaining.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
    let slots = std::iter::successors(first, move |slot: &Slot| schedule.as_ref()?.after(slot.nominal))
        .take(remaining);
    slots.map(move |slot| view::slot(job, &zone, &slot, note(progress, &slot, now)))
}

fn note(progress: &Progress, slot: &Slot, now: Timestamp) -> Option<String> {
    let paused =
        progress.paused.as_ref().is_some_and(|p| p.until.is_none_or(|until| until > slot.due && until > now));
    match paused {
        true => Some("the job is paused".into()),
        false => (slot.due <= now).then(|| "due now".into()),
    }
}

/// How many slots.
#[derive(Deserialize, IntoParams)]
pub(super) struct Count {
    /// At most so many; 1 to 1000, 10 if absent.
    count: Option<usize>,
    /// Only those due at or before this.
    until: Option<String>,
}

/// Slots that are to come.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Slots {
    /// Of one job whose schedule has an `H`: the schedule with each `H` replaced by what it stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule_resolved: Option<String>,
    /// In the order in which they are due.
    slots: Vec<SlotView>,
}

/// The next slots of a job.
#[utoipa::path(
    get, path = "/v1/jobs/{name}/next", tag = "jobs", params(("name" = String, Path), Count),
    responses((status = 200, body = Slots), (status = 404, body = ErrorBody))
)]
pub(super) async fn next(
    State(ctx): State<ApiContext>,
    extract::Job(name): extract::Job,
    Params(count): Params<Count>,
) -> Result<Json<Slots>, ApiError> {
    let (job, progress) = find(&ctx, &name)?;
    let until = count.until.as_deref().map(|text| extract::instant("until", text)).transpose()?;
    let count = slots_limit(count.count)?;
    // The text of a time of one form compares like the time.
    let until = until.map(crate::wire::job::instant);
    let slots = upcoming(&ctx.node.zones, &job, &progress, Timestamp::now());
    let slots = slots.take_while(|slot| until.as_ref().is_none_or(|until| slot.due <= *until)).take(count);
    let schedule_resolved =
        schedule(&ctx.node.zones, &job).and_then(|schedule| schedule.resolved().map(Into::into));
    Ok(Json(Slots { schedule_resolved, slots: slots.collect() }))
}

fn slots_limit(count: Option<usize>) -> Result<usize, ApiError> {
    limit(count, 10, 1000).map_err(|mut e| {
        e.body.field = "count".into();
        e.body.message = e.body.message.replace("`limit`", "`count`");
        e
    })
}

/// The next slots of all jobs.
#[utoipa::path(get, path = "/v1/next", tag = "jobs", params(Count), responses((status = 200, body = Slots)))]
pub(super) async fn fleet(
    State(ctx): State<ApiContext>,
    Params(count): Params<Count>,
) -> Result<Json<Slots>, ApiError> {
    let until = match count.until.as_deref() {
        Some(text) => extract::instant("until", text)?,
        None => Timestamp::MAX,
    };
    let count = slots_limit(count.count)?;
    let jobs: Vec<(Found, Slot)> = {
        let projection = ctx.node.projection.read();
        let state = projection.state();
        let jobs = state.jobs.values().filter(|job| !job.rules.disabled).filter_map(|job| {
            let progress = state.progress.get(&job.uid)?;
            Some(((job.clone(), progress.clone()), progress.next.filter(|next| next.due <= until)?))
        });
        jobs.collect()
    };
    let zones = ctx.node.zones.clone();
    let slots = tokio::task::spawn_blocking(move || merged(&zones, &jobs, count, until))
        .await
        .map_err(|_| defect())?;
    Ok(Json(Slots { schedule_resolved: None, slots }))
}

/// The earliest `count` slots of all jobs. Schedules are read only of jobs that take part.
fn merged(zones: &Zones, jobs: &[(Found, Slot)], count: usize, until: Timestamp) -> Vec<SlotView> {
    let now = Timestamp::now();
    let mut heads: BinaryHeap<_> =
        jobs.iter().enumerate().map(|(i, (_, next))| Reverse((next.due, i))).collect();
    let mut rows = std::collections::BTreeMap::new();
    let mut slots = Vec::new();
    while let Some(Reverse((_, i))) = heads.pop().filter(|_| slots.len() < count) {
        let ((job, progress), _) = &jobs[i];
        let zone = view::zone(zones, job);
        let row = rows.entry(i).or_insert_with(|| {
            let schedule = schedule(zones, job);
            let left = progress.remaining.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
            std::iter::successors(progress.next, move |slot| schedule.as_ref()?.after(slot.nominal))
                .take(left)
                .peekable()
        });
        let Some(slot) = row.next() else { continue };
        slots.push(view::slot(job, &zone, &slot, note(progress, &slot, now)));
        if let Some(next) = row.peek().filter(|next| next.due <= until) {
            heads.push(Reverse((next.due, i)));
        }
    }
    slots
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
    let (job, progress) = find(&ctx, &name)?;
    let query = HistoryQuery { job: Some(job.uid), limit: 1, ..HistoryQuery::default() };
    let last = ctx.node.store.history(&query).await?.records;
    let status = ctx.node.status();
    let projection = ctx.node.projection.read();
    let (state, limits) = (projection.state(), &ctx.settings.limits);
    let facts = Facts { now: Timestamp::now(), state, status: &status, limits, last: &last };
    Ok(Json(Why { job: name.to_string(), run: None, reasons: facts.of_job(&job, &progress) }))
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

/// A change was made.
#[derive(Serialize, ToSchema)]
pub(super) struct Changed {
    /// Number of the change.
    pub(super) seq: u64,
}

/// Stops slots and parents from starting a job; running tasks go on.
#[utoipa::path(
    post, path = "/v1/jobs/{name}/pause", tag = "jobs", params(("name" = String, Path)), request_body = PauseBody,
    responses((status = 200, body = Changed), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody))
)]
pub(super) async fn pause(
    State(ctx): State<ApiContext>,
    extract::Job(job): extract::Job,
    Document(body): Document,
) -> Result<Response, ApiError> {
    let (reason, until) = pause_of(&body, Timestamp::now())?;
    let (_, seq) = ctx.ask(Request::Pause { job, reason: reason.into(), until }).await?;
    Ok(([seq_header(seq)], Json(Changed { seq: seq.0 })).into_response())
}

fn pause_of(body: &[u8], now: Timestamp) -> Result<(String, Option<Timestamp>), ApiError> {
    const FOR: Shape =
        Shape::Span(std::time::Duration::from_secs(1), std::time::Duration::from_secs(3660 * 86_400));
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
    responses((status = 200, body = Changed), (status = 404, body = ErrorBody))
)]
pub(super) async fn resume(
    State(ctx): State<ApiContext>,
    extract::Job(job): extract::Job,
) -> Result<Response, ApiError> {
    let (_, seq) = ctx.ask(Request::Resume(job)).await?;
    Ok(([seq_header(seq)], Json(Changed { seq: seq.0 })).into_response())
}
