//! Runs: those that live and those that are history, in one list.

use std::cmp::Reverse;
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
use store::{HistoryQuery, OutcomeKind};
use utoipa::{IntoParams, ToSchema};

use crate::wire::shape::{Shape, optional};

use super::error::{ApiError, ErrorBody};
use super::extract::{self, Document, Params, limit};
use super::jobs::{Changed, Why};
use super::view::{self, RunView};
use super::why::Facts;
use super::{ApiContext, seq_header};

/// Which runs of a list.
#[derive(Deserialize, IntoParams)]
pub(super) struct Wanted {
    /// Only of the job of this name, deleted ones too.
    job: Option<String>,
    /// Only with one of these outcomes or states, separated by commas: `succeeded`, `failed`, `killed`, `timedOut`,
    /// `lost`, `skipped`, `missed`; `queued`, `running`, `waiting`, `live` for all three.
    outcome: Option<String>,
    /// Only those due at or after this.
    from: Option<String>,
    /// Only those due before this.
    to: Option<String>,
    /// At most so many; 1 to 1000, 100 if absent.
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// A page of runs.
#[derive(Serialize, ToSchema)]
pub(super) struct Runs {
    /// Live ones first, each newest first.
    runs: Vec<RunView>,
    /// Cursor of the next page, if there is one.
    next: Option<String>,
}

struct Filter {
    job: Option<JobName>,
    outcomes: Vec<OutcomeKind>,
    states: Vec<&'static str>,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
}

const STATES: [&str; 3] = ["queued", "running", "waiting"];

impl Filter {
    fn of(wanted: &Wanted) -> Result<Self, ApiError> {
        let job = wanted.job.as_deref().map(JobName::new).transpose();
        let instant = |field, text: &Option<String>| {
            text.as_deref().map(|text| extract::instant(field, text)).transpose()
        };
        let (mut outcomes, mut states) = (Vec::new(), Vec::new());
        for word in
            wanted.outcome.as_deref().unwrap_or_default().split(',').map(str::trim).filter(|w| !w.is_empty())
        {
            let kind = view::KINDS.into_iter().find(|kind| view::word(*kind).eq_ignore_ascii_case(word));
            match (kind, STATES.into_iter().find(|state| *state == word)) {
                (Some(kind), _) => outcomes.push(kind),
                (_, Some(state)) => states.push(state),
                _ if word == "live" => states.extend(STATES),
                _ => {
                    let known = view::KINDS.map(view::word).join(", ");
                    let clipped: String = word.chars().take(40).collect();
                    let message =
                        format!("`outcome`: `{clipped}` is none of {known}, {}, live", STATES.join(", "));
                    return Err(ApiError::invalid("outcome", message));
                }
            }
        }
        Ok(Self {
            job: job.map_err(|e| ApiError::invalid("job", e.to_string()))?,
            outcomes,
            states,
            from: instant("from", &wanted.from)?,
            to: instant("to", &wanted.to)?,
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
            RunState::Queued => "queued",
            RunState::Running(_) => "running",
            RunState::Waiting { .. } => "waiting",
        };
        (self.states.is_empty() || self.states.contains(&state))
            && self.job.as_ref().is_none_or(|job| *job == run.job)
            && self.from.is_none_or(|from| run.due >= from)
            && self.to.is_none_or(|to| run.due < to)
    }
}

/// Where a page of live or ended runs ended.
enum Cursor {
    Start,
    Live(i64, RunKey),
    /// `None`: where the history begins.
    History(Option<u64>),
}

impl Cursor {
    fn parse(text: Option<&str>) -> Result<Self, ApiError> {
        let read = |text: &str| {
            if let Some(number) = text.strip_prefix('h') {
                return if number.is_empty() {
                    Some(Self::History(None))
                } else {
                    number.parse().ok().map(|n| Self::History(Some(n)))
                };
            }
            let (due, key) = text.strip_prefix('l')?.split_once('.')?;
            Some(Self::Live(due.parse().ok()?, key.parse().ok()?))
        };
        text.map_or(Ok(Self::Start), |text| {
            read(text).ok_or_else(|| ApiError::invalid("cursor", "`cursor` is none of ours"))
        })
    }
}

/// Runs, live ones first, then the history; newest first.
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
    let cursor = Cursor::parse(wanted.cursor.as_deref())?;
    let mut runs = Vec::new();
    if !matches!(cursor, Cursor::History(_)) && filter.wants_live() {
        let page = live(&ctx, &filter, &cursor, limit + 1);
        runs.extend(page.iter().take(limit).map(|run| RunView::live(run)));
        if page.len() > limit {
            let last = &page[limit - 1];
            return Ok(Json(Runs {
                runs,
                next: Some(format!("l{}.{}", last.due.as_millisecond(), last.key)),
            }));
        }
    }
    if !filter.wants_history() {
        return Ok(Json(Runs { runs, next: None }));
    }
    if runs.len() == limit {
        return Ok(Json(Runs { runs, next: Some("h".into()) }));
    }
    let query = HistoryQuery {
        job: None,
        name: filter.job.map(|job| job.to_string()),
        outcomes: filter.outcomes,
        from: filter.from,
        to: filter.to,
        cursor: match cursor {
            Cursor::History(at) => at,
            _ => None,
        },
        limit: limit - runs.len(),
        ..HistoryQuery::default()
    };
    let page = ctx.node.store.history(&query).await?;
    runs.extend(page.records.iter().map(RunView::of));
    Ok(Json(Runs { runs, next: page.next.map(|at| format!("h{at}")) }))
}

/// The first `count` live runs after the cursor, newest first.
fn live(ctx: &ApiContext, filter: &Filter, cursor: &Cursor, count: usize) -> Vec<Arc<Run>> {
    let order = |run: &Run| (Reverse(run.due.as_millisecond()), run.key);
    let after = match cursor {
        Cursor::Live(due, key) => Some((Reverse(*due), *key)),
        _ => None,
    };
    let projection = ctx.node.projection.read();
    let runs = projection.state().runs.values().filter(|run| filter.takes(run));
    let mut runs: Vec<_> = runs.filter(|run| after.is_none_or(|after| order(run) > after)).collect();
    if runs.len() > count {
        runs.select_nth_unstable_by_key(count, |run| order(run));
        runs.truncate(count);
    }
    runs.sort_by_key(|run| order(run));
    runs.into_iter().cloned().collect()
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
) -> Result<Response, ApiError> {
    let (_, seq) = ctx.ask(Request::KillRun(key)).await?;
    Ok(([seq_header(seq)], Json(Changed { seq: seq.0 })).into_response())
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
    let Answer::Triggered(made) = answer else { return Err(super::jobs::defect()) };
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
        let facts = Facts { now, state, status: &status, limits, last: &[] };
        let job = projection.state().jobs.get(&key.job).map(|job| &**job);
        let reasons = facts.of_live(&run, job);
        return Ok(Json(Why { job: run.job.to_string(), run: Some(key.to_string()), reasons }));
    }
    let record = ctx.node.store.ended_run(key).await?.ok_or_else(|| no_such_run(key))?;
    let projection = ctx.node.projection.read();
    let (state, limits) = (projection.state(), &ctx.settings.limits);
    let facts = Facts { now, state, status: &status, limits, last: &[] };
    let job = RunView::of(&record).job;
    Ok(Json(Why { job, run: Some(key.to_string()), reasons: vec![facts.ended(&record)] }))
}
