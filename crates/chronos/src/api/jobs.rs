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
use store::projection::{Projection, ProjectionHandle};
use utoipa::{IntoParams, ToSchema};

use crate::wire::duration;
use crate::wire::shape::{Shape, optional};

use super::choice::{self, Choice, Chosen, JobField, Selected};
use super::classic::no_such_job;
use super::conditions;
use super::error::{ApiError, ErrorBody};
use super::extract::{self, Document, Params, limit};
use super::lists::{Field, Key, Order, Page, Way, wrong_cursor};
use super::view::{self, JobRow, JobView, RunView, SlotView};
use super::why::{Facts, Reason};
use super::{ApiContext, seq_header};

/// Which page of a list of jobs.
#[derive(Deserialize, IntoParams)]
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

pub(super) fn defect() -> ApiError {
    ApiError::new(
        axum::http::StatusCode::INTERNAL_SERVER_ERROR,
        "internal",
        "this request met a defect of the server",
    )
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

/// The schedule of a job; it was read when it was posted, so it can be read again.
fn schedule(zones: &Zones, job: &Job) -> Option<Schedule> {
    match &job.plan {
        Plan::Schedule(timetable) => timetable.schedule(zones, &job.name).ok(),
        Plan::Parents(_) => None,
    }
}

/// The slots that will be, as far as is known now.
fn upcoming(zones: &Zones, job: &Job, progress: &Progress, now: Timestamp) -> impl Iterator<Item = SlotView> {
    let zone = view::zone(zones, job);
    slots_from(zones, job, progress, Timestamp::MIN)
        .map(move |slot| view::slot(job, &zone, &slot, note(progress, &slot, now)))
}

/// The slots of a job that are due at or after an instant, without a walk through those before it.
fn slots_from(
    zones: &Zones,
    job: &Job,
    progress: &Progress,
    from: Timestamp,
) -> impl Iterator<Item = Slot> + use<> {
    let schedule = schedule(zones, job);
    let mut left = progress.remaining.unwrap_or(u64::MAX);
    let mut first = progress.next.filter(|_| !job.rules.disabled);
    if let (Some(next), Some(schedule)) = (first.filter(|next| next.due < from), &schedule) {
        let just_before = from.checked_sub(SignedDuration::from_millis(1)).unwrap_or(from);
        first = schedule.first_after(just_before);
        if progress.remaining.is_some() {
            let passed = schedule.span(next.nominal, just_before).map_or(0, |span| span.count) + 1;
            left = left.saturating_sub(passed);
        }
    }
    std::iter::successors(first, move |slot: &Slot| schedule.as_ref()?.after(slot.nominal))
        .take(usize::try_from(left).unwrap_or(usize::MAX))
}

fn note(progress: &Progress, slot: &Slot, now: Timestamp) -> Option<String> {
    let paused =
        progress.paused.as_ref().is_some_and(|p| p.until.is_none_or(|until| until > slot.due && until > now));
    match paused {
        true => Some("the job is paused".into()),
        false => (slot.due <= now).then(|| "due now".into()),
    }
}

/// Which slots.
#[derive(Deserialize, IntoParams)]
pub(super) struct Coming {
    /// At most so many; 1 to 1000, 10 if absent.
    limit: Option<usize>,
    /// The same, as it was called before.
    count: Option<usize>,
    /// Only those due at or after this.
    from: Option<String>,
    /// Only those due at or before this.
    until: Option<String>,
    /// `due`, the only order there is.
    sort: Option<String>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// The same, read: slots from `after` on, which is where the page before ended.
struct Stretch {
    limit: usize,
    from: Timestamp,
    until: Timestamp,
    after: Option<(Timestamp, JobName)>,
}

/// What lists of slots are sorted by.
#[derive(Clone, Copy, PartialEq)]
enum SlotField {
    Due,
}

impl Field for SlotField {
    const ALL: &'static [(&'static str, Self)] = &[("due", Self::Due)];
}

const BY_DUE: Order<SlotField> = Order { field: SlotField::Due, way: Way::Up };

impl Stretch {
    fn of(coming: &Coming) -> Result<Self, ApiError> {
        let instant = |field, text: &Option<String>, absent| match text {
            Some(text) => extract::instant(field, text),
            None => Ok(absent),
        };
        let order: Order<SlotField> = Order::of(coming.sort.as_deref(), (SlotField::Due, Way::Up))?;
        if order != BY_DUE {
            return Err(ApiError::invalid("sort", "`sort`: slots have no end to begin with; expected due"));
        }
        let limit = limit(coming.limit.or(coming.count), 10, 1000)?;
        let place = BY_DUE.place(coming.cursor.as_deref(), |text| JobName::new(text).ok())?;
        let after = match place {
            None => None,
            Some((Key::Number(ms), name)) => {
                Some((Timestamp::from_millisecond(ms).map_err(|_| wrong_cursor())?, name))
            }
            Some(_) => return Err(wrong_cursor()),
        };
        let from = instant("from", &coming.from, Timestamp::MIN)?;
        let from = after.as_ref().map_or(from, |(due, _)| from.max(*due));
        Ok(Self { limit, from, until: instant("until", &coming.until, Timestamp::MAX)?, after })
    }

    /// Whether a slot is on this page or a later one; those at the place where the page before ended are told by name.
    fn takes(&self, due: Timestamp, name: &JobName) -> bool {
        (self.from..=self.until).contains(&due)
            && self.after.as_ref().is_none_or(|(at, last)| (due, name) > (*at, last))
    }
}

/// Slots that are to come.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Slots {
    /// Of one job whose schedule has an `H`: the schedule with each `H` replaced by what it stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule_resolved: Option<String>,
    /// In the order in which they are due, and at one instant by the name of the job.
    slots: Vec<SlotView>,
    /// Cursor of the next page, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// The next slots of a job.
#[utoipa::path(
    get, path = "/v1/jobs/{name}/next", tag = "jobs", params(("name" = String, Path), Coming),
    responses((status = 200, body = Slots), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody))
)]
pub(super) async fn next(
    State(ctx): State<ApiContext>,
    extract::Job(name): extract::Job,
    Params(coming): Params<Coming>,
) -> Result<Json<Slots>, ApiError> {
    let stretch = Stretch::of(&coming)?;
    let found = find(&ctx, &name)?;
    let schedule_resolved =
        schedule(&ctx.node.zones, &found.0).and_then(|schedule| schedule.resolved().map(Into::into));
    let (slots, next) = merged(&ctx.node.zones, &[found], &stretch);
    Ok(Json(Slots { schedule_resolved, slots, next }))
}

/// The next slots of all jobs, or of those that are chosen.
#[utoipa::path(
    get, path = "/v1/next", tag = "jobs", params(Coming, Chosen),
    responses((status = 200, body = Slots), (status = 400, body = ErrorBody))
)]
pub(super) async fn fleet(
    State(ctx): State<ApiContext>,
    Params(coming): Params<Coming>,
    Params(chosen): Params<Chosen>,
) -> Result<Json<Slots>, ApiError> {
    let stretch = Stretch::of(&coming)?;
    let choice = Choice::of(&chosen, Timestamp::now())?;
    let work = move || {
        let jobs = taking_part(&ctx.node.projection, &choice, &stretch);
        let (slots, next) = merged(&ctx.node.zones, &jobs, &stretch);
        Slots { schedule_resolved: None, slots, next }
    };
    tokio::task::spawn_blocking(work).await.map(Json).map_err(|_| defect())
}

/// The jobs whose slots may be on the page: those whose next slot lies before it, which have to be looked at, and of the
/// others those that come first, one for each slot of the page at most.
fn taking_part(handle: &ProjectionHandle, choice: &Choice, stretch: &Stretch) -> Vec<Found> {
    let mut before = Vec::new();
    let mut first = Page::new(None, stretch.limit);
    choice::each(handle, |_, of| {
        let next = of.progress.next.filter(|next| next.due <= stretch.until && !of.job.rules.disabled);
        let Some(next) = next.filter(|_| choice.takes(of)) else { return };
        if stretch.takes(next.due, &of.job.name) {
            first.offer(BY_DUE.time(Some(next.due)), &of.job.name, || (of.job.clone(), of.progress.clone()));
        } else {
            before.push((of.job.clone(), of.progress.clone()));
        }
    });
    before.extend(first.rows());
    before
}

/// The earliest slots of all these jobs, and the cursor of what comes after them. Schedules are read only of jobs that
/// take part.
fn merged(zones: &Zones, jobs: &[Found], stretch: &Stretch) -> (Vec<SlotView>, Option<String>) {
    let now = Timestamp::now();
    let mut rows: Vec<_> = Vec::new();
    let mut heads = BinaryHeap::new();
    for (job, progress) in jobs {
        // Most begin at the slot that is known, and need no schedule before it is their turn.
        let head = progress.next.filter(|next| !job.rules.disabled && stretch.takes(next.due, &job.name));
        let mut row = None;
        let head = head.or_else(|| {
            let mut slots = slots_from(zones, job, progress, stretch.from);
            let first = slots.find(|slot| slot.due > stretch.until || stretch.takes(slot.due, &job.name));
            row = Some(slots);
            first
        });
        if let Some(slot) = head.filter(|slot| slot.due <= stretch.until) {
            heads.push(Reverse((slot.due, &job.name, rows.len())));
            rows.push((job, progress, slot, row));
        }
    }
    let (mut slots, mut last) = (Vec::new(), None);
    while let Some(Reverse((due, name, i))) = heads.pop() {
        if slots.len() == stretch.limit {
            let next =
                last.map(|(due, name): (Timestamp, &JobName)| BY_DUE.cursor(&BY_DUE.time(Some(due)), name));
            return (slots, next);
        }
        let (job, progress, slot, row) = &mut rows[i];
        slots.push(view::slot(job, &view::zone(zones, job), slot, note(progress, slot, now)));
        last = Some((due, name));
        let following = row.get_or_insert_with(|| {
            let mut slots = slots_from(zones, job, progress, due);
            slots.next();
            slots
        });
        if let Some(next) = following.next().filter(|next| next.due <= stretch.until) {
            *slot = next;
            heads.push(Reverse((next.due, name, i)));
        }
    }
    (slots, None)
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
