//! Runs: those that live and those that are history, in one list.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use scheduler::backfill::Children;
use scheduler::ids::{JobName, RunKey};
use scheduler::request::{Answer, Refusal, Request};
use scheduler::run::{Record, Run, RunState};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::projection::Projection;
use store::{CauseKind, HistoryQuery, OutcomeKind};
use utoipa::{IntoParams, ToSchema};

use crate::wire::shape::{Shape, optional};

use super::conditions::Unconditional;
use super::error::{ApiError, ErrorBody, defect};
use super::extract::{self, Document, Params, instant_of, job_of, limit};
use super::jobs::Why;
use super::lists::{Field, Key, Order, Page, Way, words, wrong_cursor};
use super::view::{self, RunView};
use super::why::Facts;
use super::{ApiContext, Changed, changed, seq_header};

/// Which runs of a list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// Only of the job of this name, deleted ones too.
    job: Option<String>,
    /// Only with one of these outcomes or states, separated by commas: `succeeded`, `failed`, `killed`, `timedOut`,
    /// `lost`, `skipped`, `missed`; `queued`, `running`, `waiting`, `live` for all three.
    outcome: Option<String>,
    /// Only with one of these causes, separated by commas: `slot`, `trigger`, `join`, `backfill`.
    cause: Option<String>,
    /// Only those due at or after this.
    from: Option<String>,
    /// Only those due before this.
    to: Option<String>,
    /// `-time` (if absent): live ones first, by due time, then those that have ended, by when they ended; the newest
    /// first. `time`: the other way round.
    sort: Option<String>,
    /// At most so many; 1 to 1000, 100 if absent. Where what is asked for is rare, a page may hold fewer, or none,
    /// although there is a next one.
    limit: Option<usize>,
    /// `next` of the page before, with the same `sort`.
    cursor: Option<String>,
}

/// A page of runs.
#[derive(Serialize, ToSchema)]
pub(super) struct Runs {
    /// In the order that was asked for.
    runs: Vec<RunView>,
    /// Cursor of the next page, if there is one.
    next: Option<String>,
}

struct Filter {
    job: Option<JobName>,
    outcomes: Vec<OutcomeKind>,
    states: Vec<LiveState>,
    causes: Vec<CauseKind>,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
}

#[derive(Clone, Copy, PartialEq)]
enum LiveState {
    Queued,
    Running,
    Waiting,
}

/// What the outcome of a run may be asked for.
#[derive(Clone, Copy)]
enum Fate {
    Ended(OutcomeKind),
    In(LiveState),
    Live,
}

const LIVE: [(&str, Fate); 4] = [
    ("queued", Fate::In(LiveState::Queued)),
    ("running", Fate::In(LiveState::Running)),
    ("waiting", Fate::In(LiveState::Waiting)),
    ("live", Fate::Live),
];

const CAUSES: [(&str, CauseKind); 4] = [
    ("slot", CauseKind::Slot),
    ("trigger", CauseKind::Trigger),
    ("join", CauseKind::Join),
    ("backfill", CauseKind::Backfill),
];

impl Filter {
    fn of(wanted: &Wanted) -> Result<Self, ApiError> {
        let ended = OutcomeKind::ALL.map(|kind| (view::word(kind), Fate::Ended(kind)));
        let (mut outcomes, mut states) = (Vec::new(), Vec::new());
        for fate in words("outcome", wanted.outcome.as_deref(), &[&ended[..], &LIVE].concat())? {
            match fate {
                Fate::Ended(kind) => outcomes.push(kind),
                Fate::In(state) => states.push(state),
                Fate::Live => states.extend([LiveState::Queued, LiveState::Running, LiveState::Waiting]),
            }
        }
        Ok(Self {
            job: job_of(wanted.job.as_deref())?,
            outcomes,
            states,
            causes: words("cause", wanted.cause.as_deref(), &CAUSES)?,
            from: instant_of("from", &wanted.from)?,
            to: instant_of("to", &wanted.to)?,
        })
    }

    fn wants_live(&self) -> bool {
        !self.states.is_empty() || self.outcomes.is_empty()
    }

    fn wants_history(&self) -> bool {
        !self.outcomes.is_empty() || self.states.is_empty()
    }

    fn takes(&self, run: &Run) -> bool {
        let state = match run.state {
            RunState::Queued => LiveState::Queued,
            RunState::Running(_) => LiveState::Running,
            RunState::Waiting { .. } => LiveState::Waiting,
        };
        (self.states.is_empty() || self.states.contains(&state))
            && (self.causes.is_empty() || self.causes.contains(&CauseKind::of(run.key.cause)))
            && self.job.as_ref().is_none_or(|job| *job == run.job)
            && self.from.is_none_or(|from| run.due >= from)
            && self.to.is_none_or(|to| run.due < to)
    }

    fn query(&self, order: Order<RunField>, cursor: Option<u64>, limit: usize) -> HistoryQuery {
        HistoryQuery {
            job: None,
            name: self.job.as_ref().map(ToString::to_string),
            outcomes: self.outcomes.clone(),
            causes: self.causes.clone(),
            from: self.from,
            to: self.to,
            order: order.way.into(),
            cursor,
            limit,
        }
    }
}

/// What runs are sorted by.
#[derive(Clone, Copy, Debug, PartialEq)]
enum RunField {
    Time,
}

impl Field for RunField {
    const ALL: &'static [(&'static str, Self)] = &[("time", Self::Time)];
}

/// Where a page of live or ended runs ended.
#[derive(Debug, PartialEq)]
enum Cursor {
    /// `None`: before the first of them.
    Live(Option<(Key, RunKey)>),
    /// `None`: where the history begins.
    History(Option<u64>),
}

impl Cursor {
    /// What belongs to the history is marked, so that it is told from the place of a live run.
    fn parse(order: Order<RunField>, text: Option<&str>) -> Result<Self, ApiError> {
        let Some(text) = text else {
            return Ok(if order.way == Way::Down { Self::Live(None) } else { Self::History(None) });
        };
        let mark = |mark| order.cursor(&Key::Absent, &mark);
        match text.strip_prefix(&mark("h")) {
            Some("") => Ok(Self::History(None)),
            Some(number) => Ok(Self::History(Some(number.parse().map_err(|_| wrong_cursor())?))),
            None if text == mark("l") => Ok(Self::Live(None)),
            None => order.place(Some(text), |key| key.parse().ok()).map(Self::Live),
        }
    }
}

/// Runs, those that live and those that are history.
#[utoipa::path(
    get, path = "/v1/runs", tag = "runs", params(Wanted),
    responses((status = 200, body = Runs), (status = 400, body = ErrorBody))
)]
pub(super) async fn list(
    State(ctx): State<ApiContext>,
    Params(wanted): Params<Wanted>,
) -> Result<Json<Runs>, ApiError> {
    let filter = Filter::of(&wanted)?;
    let limit = limit(wanted.limit, 100, 1000)?;
    let order = Order::of(wanted.sort.as_deref(), (RunField::Time, Way::Down))?;
    let cursor = Cursor::parse(order, wanted.cursor.as_deref())?;
    let mark = |mark: String| order.cursor(&Key::Absent, &mark);
    // Live ones first, whatever comes first: what ends meanwhile is met again in the history, not lost between.
    let live_from = match &cursor {
        Cursor::Live(after) => after.clone(),
        Cursor::History(_) => None,
    };
    let looks_at_live = filter.wants_live() && (order.way == Way::Up || matches!(cursor, Cursor::Live(_)));
    let (mut live, live_next) = match looks_at_live {
        true => live(&ctx, &filter, order, live_from, limit),
        false => (Vec::new(), None),
    };
    if order.way == Way::Down {
        let told = |live: &[Arc<Run>]| live.iter().map(|run| RunView::live(run)).collect::<Vec<_>>();
        if live_next.is_some() || !filter.wants_history() {
            return Ok(Json(Runs { runs: told(&live), next: live_next }));
        }
        if live.len() == limit {
            return Ok(Json(Runs { runs: told(&live), next: Some(mark("h".into())) }));
        }
        let at = if let Cursor::History(at) = cursor { at } else { None };
        let page = ctx.node.store.history(&filter.query(order, at, limit - live.len())).await?;
        drop_ended(&mut live, &page.records);
        let mut runs = told(&live);
        runs.extend(page.records.iter().map(RunView::of));
        return Ok(Json(Runs { runs, next: page.next.map(|at| mark(format!("h{at}"))) }));
    }
    let mut runs = Vec::new();
    if let (Cursor::History(at), true) = (&cursor, filter.wants_history()) {
        let page = ctx.node.store.history(&filter.query(order, *at, limit)).await?;
        runs.extend(page.records.iter().map(RunView::of));
        if let Some(at) = page.next {
            return Ok(Json(Runs { runs, next: Some(mark(format!("h{at}"))) }));
        }
        drop_ended(&mut live, &page.records);
    }
    let (room, fits) = (limit - runs.len(), live.len());
    runs.extend(live.iter().take(room).map(|run| RunView::live(run)));
    let next = match live.get(..room).and_then(<[_]>::last).filter(|_| fits > room) {
        Some(last) => Some(order.cursor(&order.time(Some(last.due)), &last.key)),
        None if fits > room => Some(mark("l".into())),
        None => live_next,
    };
    Ok(Json(Runs { runs, next }))
}

/// What ended between the look at live runs and that at the history is told once.
fn drop_ended(live: &mut Vec<Arc<Run>>, records: &[Record]) {
    let key_of = |record: &Record| match record {
        Record::Run(run) => Some(run.key),
        Record::Range(_) => None,
    };
    let ended: BTreeSet<RunKey> = records.iter().filter_map(key_of).collect();
    live.retain(|run| !ended.contains(&run.key));
}

/// The first live runs after a place, and the cursor of what comes after them.
fn live(
    ctx: &ApiContext,
    filter: &Filter,
    order: Order<RunField>,
    after: Option<(Key, RunKey)>,
    limit: usize,
) -> (Vec<Arc<Run>>, Option<String>) {
    /// So many take about a millisecond; then whoever writes may go first.
    const AT_ONCE: usize = 5000;
    let mut page = Page::new(after, limit);
    let mut offer = |run: &Arc<Run>| {
        if filter.takes(run) {
            page.offer(order.time(Some(run.due)), &run.key, || run.clone());
        }
    };
    let of_job = |projection: &Projection, name| projection.job(name).map(|job| job.uid);
    let projection = ctx.node.projection.read();
    // The live runs of a deleted job are few, and soon gone.
    if let Some(job) = filter.job.as_ref().and_then(|name| of_job(&projection, name)) {
        projection.runs_of(job).for_each(&mut offer);
        return page.told(order);
    }
    drop(projection);
    let mut last = Bound::Unbounded;
    loop {
        let projection = ctx.node.projection.read();
        let mut count = 0;
        for (key, run) in projection.state().runs.range((last, Bound::Unbounded)).take(AT_ONCE) {
            offer(run);
            last = Bound::Excluded(*key);
            count += 1;
        }
        if count < AT_ONCE {
            return page.told(order);
        }
    }
}

/// A live run.
pub(super) fn find_live(ctx: &ApiContext, key: RunKey) -> Option<Arc<Run>> {
    ctx.node.projection.read().state().runs.get(&key).cloned()
}

pub(super) fn no_such_run(key: RunKey) -> ApiError {
    let mut error = ApiError::from(Refusal::NoSuchRun(key));
    error.body.message = format!("there is no run `{key}`");
    error.hint("it may have been removed by retention; GET /v1/runs lists what is there")
}

/// One run, live or ended.
#[utoipa::path(
    get, path = "/v1/runs/{key}", tag = "runs", params(("key" = String, Path)),
    responses((status = 200, body = RunView), (status = 404, body = ErrorBody))
)]
pub(super) async fn show(
    State(ctx): State<ApiContext>,
    extract::Run(key): extract::Run,
) -> Result<Json<RunView>, ApiError> {
    if let Some(run) = find_live(&ctx, key) {
        return Ok(Json(RunView::live(&run)));
    }
    let record = ctx.node.store.ended_run(key).await?;
    record.map(|record| Json(RunView::of(&record))).ok_or_else(|| no_such_run(key))
}

/// Kills a run; one that waits is cancelled.
#[utoipa::path(
    delete, path = "/v1/runs/{key}", tag = "runs", params(("key" = String, Path)),
    responses((status = 200, body = Changed), (status = 404, body = ErrorBody))
)]
pub(super) async fn kill(
    State(ctx): State<ApiContext>,
    extract::Run(key): extract::Run,
    _: Unconditional,
) -> Result<Response, ApiError> {
    let (_, seq) = ctx.ask(Request::KillRun(key)).await?;
    Ok(changed(seq))
}

/// A re-run as it is asked for.
#[derive(ToSchema)]
#[expect(dead_code, reason = "says in the document what the body looks like; it is read by its shape")]
pub(super) struct RerunBody {
    /// True (default): all that comes after the run in its chain runs again too. False: only the run itself.
    downwards: Option<bool>,
}

/// A run has been made.
#[derive(Serialize, ToSchema)]
pub(super) struct Made {
    /// Its key.
    run: String,
    /// Number of the change.
    seq: u64,
}

/// Runs once more what has ended, for the same due time and with the same arguments, and by default all that comes after
/// it. Where its children were told that it failed, their joins of the same cycle wait for the new run; else it begins a
/// cycle of its own, in which joins wait only for what descends from it.
#[utoipa::path(
    post, path = "/v1/runs/{key}/rerun", tag = "runs", params(("key" = String, Path)), request_body = RerunBody,
    responses((status = 201, body = Made), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody))
)]
pub(super) async fn rerun(
    State(ctx): State<ApiContext>,
    extract::Run(key): extract::Run,
    _: Unconditional,
    Document(body): Document,
) -> Result<Response, ApiError> {
    let read = extract::object(&body, &[optional("downwards", Shape::Bool)])?;
    let downwards = read.get("downwards").and_then(Value::as_bool).unwrap_or(true);
    let children = if downwards { Children::Follow } else { Children::Stay };
    if find_live(&ctx, key).is_some() {
        return Err(Refusal::StillLive(key).into());
    }
    let Some(Record::Run(run)) = ctx.node.store.ended_run(key).await? else { return Err(no_such_run(key)) };
    let (answer, seq) = ctx.ask(Request::Rerun { run: Box::new(run), children }).await?;
    let Answer::Triggered(made) = answer else { return Err(defect()) };
    let made = Made { run: made.to_string(), seq: seq.0 };
    Ok((StatusCode::CREATED, [seq_header(seq)], Json(made)).into_response())
}

/// Why a run is not over, or what became of it.
#[utoipa::path(
    get, path = "/v1/runs/{key}/why", tag = "runs", params(("key" = String, Path)),
    responses((status = 200, body = Why), (status = 404, body = ErrorBody))
)]
pub(super) async fn why(
    State(ctx): State<ApiContext>,
    extract::Run(key): extract::Run,
) -> Result<Json<Why>, ApiError> {
    let now = Timestamp::now();
    let status = ctx.node.status();
    if let Some(run) = find_live(&ctx, key) {
        let projection = ctx.node.projection.read();
        let (state, limits) = (projection.state(), &ctx.settings.limits);
        let job = projection.state().jobs.get(&key.job).map(|job| &**job);
        let engine = job.and_then(|job| super::why::engine_of(&ctx.node, job));
        let waits_for = &|task: &_| ctx.node.engine.waits_for(task);
        let facts = Facts { now, state, status: &status, limits, engine, waits_for, last: &[] };
        let reasons = facts.of_live(&run, job);
        return Ok(Json(Why { job: run.job.to_string(), run: Some(key.to_string()), reasons }));
    }
    let record = ctx.node.store.ended_run(key).await?.ok_or_else(|| no_such_run(key))?;
    let projection = ctx.node.projection.read();
    let (state, limits) = (projection.state(), &ctx.settings.limits);
    let facts =
        Facts { now, state, status: &status, limits, engine: None, waits_for: &|_| Vec::new(), last: &[] };
    let job = RunView::of(&record).job;
    Ok(Json(Why { job, run: Some(key.to_string()), reasons: vec![facts.ended(&record)] }))
}
