//! Backfills: past slots of a job that are to run, what that would be, and how far it has come.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use jiff::{RoundMode, Timestamp, TimestampRound, Unit};
use scheduler::backfill::{Backfill, Children, Order, Preview, Redo};
use scheduler::ids::{BackfillId, Cause, JobName};
use scheduler::job::{Job, Overlap, Plan};
use scheduler::request::{Answer, BackfillOrder, Refusal, Remains, Request};
use scheduler::run::Record;
use scheduler::schedule::Schedule;
use scheduler::state::State as Known;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::{HistoryQuery, OutcomeKind};
use utoipa::{IntoParams, ToSchema};

use crate::wire::job::instant;
use crate::wire::shape::{Field, Shape, optional, required};
use crate::wire::{duration, rate};

use super::conditions::Unconditional;
use super::error::{ApiError, ErrorBody, defect};
use super::extract::{self, Document, Params, limit};
use super::lists::{self, Page, Way, words};
use super::{ApiContext, Changed, changed, seq_header};

/// Successes looked through for slots that need not run again: as many as a backfill has slots.
const SUCCESSES_MAX: usize = 100_000;
/// Runs that say how long a run takes.
const TYPICAL_OF: usize = 20;

/// A backfill as it is asked for.
#[derive(ToSchema)]
#[expect(dead_code, reason = "says in the document what the body looks like; it is read by its shape")]
#[schema(rename_all = "camelCase")]
pub(super) struct BackfillBody {
    /// Slots due at or after this.
    from: String,
    /// Slots due before this, and not after now.
    to: String,
    /// `oldest` (default) or `newest` first.
    order: Option<String>,
    /// Slots under way at once, with all that descends from them; 1 to 64, 1 if absent.
    parallel: Option<u32>,
    /// How fast slots begin, such as `10/m` or `1/30s`; as fast as they can if absent.
    rate: Option<String>,
    /// `follow` (default): the children run too, in the cycles of these slots; `none`: they do not.
    children: Option<String>,
    /// Leave out slots that the history has a success of, and those that run now.
    only_missing: Option<bool>,
    /// Only say what would be.
    dry_run: Option<bool>,
}

const FIELDS: [Field; 8] = [
    required("from", Shape::Text),
    required("to", Shape::Text),
    optional("order", Shape::Word(&["oldest", "newest"])),
    optional("parallel", Shape::Whole(1, Backfill::PARALLEL_MAX as i64)),
    optional("rate", Shape::Text),
    optional("children", Shape::Word(&["follow", "none"])),
    optional("onlyMissing", Shape::Bool),
    optional("dryRun", Shape::Bool),
];

/// Whether slots that have succeeded run again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Again {
    All,
    OnlyMissing,
}

/// Whether anything happens.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Real,
    DryRun,
}

fn read(job: JobName, body: &[u8]) -> Result<(BackfillOrder, Again, Mode), ApiError> {
    let read = extract::object(body, &FIELDS)?;
    let text = |key: &str| read.get(key).and_then(Value::as_str);
    let flag = |key: &str| read.get(key).and_then(Value::as_bool).unwrap_or(false);
    // Due times have whole milliseconds: what lies between belongs to the next.
    let whole = TimestampRound::new().smallest(Unit::Millisecond).mode(RoundMode::Ceil);
    let time = |key: &str| {
        let at = extract::instant(key, text(key).unwrap_or_default())?;
        Ok::<_, ApiError>(at.round(whole).unwrap_or(at))
    };
    let wrong_rate = || ApiError::invalid("rate", format!("`rate`: expected {}", rate::EXPECTED));
    let order = BackfillOrder {
        job,
        from: time("from")?,
        to: time("to")?,
        order: if text("order") == Some("newest") { Order::NewestFirst } else { Order::OldestFirst },
        parallel: read.get("parallel").and_then(Value::as_u64).and_then(|n| n.try_into().ok()).unwrap_or(1),
        rate: text("rate").map(|text| rate::parse(text).ok_or_else(wrong_rate)).transpose()?,
        children: if text("children") == Some("none") { Children::Stay } else { Children::Follow },
        except: Vec::new(),
    };
    let again = if flag("onlyMissing") { Again::OnlyMissing } else { Again::All };
    Ok((order, again, if flag("dryRun") { Mode::DryRun } else { Mode::Real }))
}

/// What a backfill would be.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct PreviewView {
    /// Name of the job.
    job: String,
    /// Always true: nothing has begun.
    dry_run: bool,
    /// Where the range ends: never after now.
    to: String,
    /// Slots that would run.
    slots: u64,
    /// Slots that would be left out, with `onlyMissing`.
    left_out: u64,
    /// Slots in the range that the history has a success of.
    succeeded: usize,
    /// Since when the history of the job is whole; what is older may have succeeded and be forgotten.
    history_since: String,
    /// Due time of the slot that would begin first.
    first: String,
    /// Due time of the slot that would begin last.
    last: String,
    /// About how long it would take, without the children; absent where nothing is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    estimate: Option<String>,
    /// What the estimate is made of, and what is not certain.
    notes: Vec<String>,
}

/// A backfill has begun.
#[derive(Serialize, ToSchema)]
pub(super) struct Begun {
    /// Its identity, for GET and DELETE.
    id: String,
    /// How many slots it is about.
    slots: u64,
    /// Number of the change.
    seq: u64,
}

/// Runs past slots of a job, each once, for their own due times. With `dryRun` it only says what that would be.
#[utoipa::path(
    post, path = "/v1/jobs/{name}/backfills", tag = "runs", params(("name" = String, Path)), request_body = BackfillBody,
    responses(
        (status = 200, body = PreviewView, description = "With `dryRun`"), (status = 201, body = Begun),
        (status = 400, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
    )
)]
pub(super) async fn begin(
    State(ctx): State<ApiContext>,
    extract::Job(name): extract::Job,
    _: Unconditional,
    Document(body): Document,
) -> Result<Response, ApiError> {
    let (mut order, again, mode) = read(name.clone(), &body)?;
    let (job, progress) = ctx.job(&name)?;
    let Plan::Schedule(table) = &job.plan else { return Err(Refusal::NoSchedule(name).into()) };
    let schedule = table
        .schedule(&ctx.node.zones, &name)
        .map_err(|cause| Refusal::Schedule { job: name.clone(), cause })?;
    let mut known = 0;
    if again == Again::OnlyMissing || mode == Mode::DryRun {
        let (done, live) = (successes(&ctx, &job, &order).await?, live(&ctx, &job, &order));
        known = done.len();
        if again == Again::OnlyMissing {
            let (schedule, dues) = (schedule.clone(), [done, live].concat());
            let pieces = tokio::task::spawn_blocking(move || pieces(&schedule, dues)).await;
            order.except = pieces.map_err(|_| defect())?;
        }
    }
    if mode == Mode::Real {
        let (answer, seq) = ctx.ask(Request::Backfill(order)).await?;
        let Answer::Backfilling { id, slots } = answer else { return Err(defect()) };
        let begun = Begun { id: id.to_string(), slots, seq: seq.0 };
        return Ok((StatusCode::CREATED, [seq_header(seq)], Json(begun)).into_response());
    }
    let range = (order.from, order.to);
    let preview = Redo::preview(&schedule, range, Timestamp::now(), order.order, &order.except)
        .map_err(|cause| Refusal::Range { job: name, cause })?;
    let typical = typical(&ctx, &job).await?;
    let kept = ctx.node.store.kept_since(job.uid).await?;
    let since = kept.unwrap_or(job.created).max(progress.accounted_since);
    let view = preview_view(&job, &order, &preview, known, typical, since);
    Ok(Json(view).into_response())
}

fn preview_view(
    job: &Job,
    order: &BackfillOrder,
    preview: &Preview,
    succeeded: usize,
    typical: Option<(Duration, u32)>,
    since: Timestamp,
) -> PreviewView {
    let room = match job.rules.overlap {
        Overlap::Allow { max } if max > 1 => max - 1,
        _ => 1,
    };
    let at_once = order.parallel.min(room);
    let mut notes = Vec::new();
    if at_once < order.parallel {
        notes.push(format!("the rules of the job let {at_once} of its past slots run at once"));
    }
    let slots = u32::try_from(preview.slots).unwrap_or(u32::MAX);
    let by_work = typical.map(|(length, _)| length * slots.div_ceil(at_once));
    let by_rate = order.rate.map(|rate| rate.spacing() * slots.saturating_sub(1));
    let took = |length| duration::text(rounded(length));
    notes.push(match typical {
        Some((length, 1)) => format!("the last run that succeeded took {}", took(length)),
        Some((length, runs)) => {
            format!("a run took {} on average, of the last {runs} that succeeded", took(length))
        }
        None => "no run has succeeded lately, so nobody knows how long one takes".into(),
    });
    if order.children == Children::Follow {
        notes.push(
            "the children follow before the next slot begins; their time is not in the estimate".into(),
        );
    }
    PreviewView {
        job: job.name.to_string(),
        dry_run: true,
        to: instant(preview.to),
        slots: preview.slots,
        left_out: preview.left_out,
        succeeded,
        history_since: instant(since),
        first: instant(preview.first.due),
        last: instant(preview.last.due),
        estimate: by_work.max(by_rate).map(|estimate| duration::text(rounded(estimate))),
        notes,
    }
}

/// To the second, where there are some.
fn rounded(length: Duration) -> Duration {
    if length.as_secs() == 0 {
        Duration::from_millis(length.as_millis() as u64)
    } else {
        Duration::from_secs(length.as_secs())
    }
}

/// Due times of the slots in the range that the history has a success of, whatever made their runs; each of them once.
async fn successes(ctx: &ApiContext, job: &Job, order: &BackfillOrder) -> Result<Vec<Timestamp>, ApiError> {
    let mut query = HistoryQuery {
        job: Some(job.uid),
        outcomes: vec![OutcomeKind::Succeeded],
        from: Some(order.from),
        to: Some(order.to),
        limit: HistoryQuery::LIMIT_MAX,
        ..HistoryQuery::default()
    };
    let mut found = Vec::new();
    loop {
        let page = ctx.node.store.history(&query).await?;
        let of_slots = page.records.iter().filter_map(|record| match record {
            Record::Run(run) if is_slot(run.key.cause) => Some(run.due),
            _ => None,
        });
        found.extend(of_slots);
        query.cursor = page.next;
        if query.cursor.is_none() {
            found.sort_unstable();
            found.dedup();
            return Ok(found);
        }
        if found.len() > SUCCESSES_MAX {
            let message = format!("the history has more than {SUCCESSES_MAX} successes in this range");
            return Err(ApiError::invalid("from", message).hint("ask for a shorter range"));
        }
    }
}

/// Due times of the slots in the range that have not ended their run.
fn live(ctx: &ApiContext, job: &Job, order: &BackfillOrder) -> Vec<Timestamp> {
    let projection = ctx.node.projection.read();
    let within = |due: &Timestamp| (order.from..order.to).contains(due);
    let runs = projection.runs_of(job.uid).filter(|run| is_slot(run.key.cause));
    runs.map(|run| run.due).filter(within).collect()
}

fn is_slot(cause: Cause) -> bool {
    matches!(cause, Cause::Slot { .. } | Cause::Backfill { .. })
}

/// These slots as pieces of slots in a row, in the order of time.
fn pieces(schedule: &Schedule, mut dues: Vec<Timestamp>) -> Vec<(Timestamp, Timestamp)> {
    dues.sort_unstable();
    dues.dedup();
    let mut pieces: Vec<(Timestamp, Timestamp)> = Vec::new();
    for due in dues {
        match pieces.last_mut() {
            Some((_, last)) if schedule.first_after(*last).is_some_and(|slot| slot.due == due) => *last = due,
            _ => pieces.push((due, due)),
        }
    }
    pieces
}

/// How long the last attempts that succeeded took, on average, and how many they are.
async fn typical(ctx: &ApiContext, job: &Job) -> Result<Option<(Duration, u32)>, ApiError> {
    let outcomes = vec![OutcomeKind::Succeeded];
    let query = HistoryQuery { job: Some(job.uid), outcomes, limit: TYPICAL_OF, ..HistoryQuery::default() };
    let records = ctx.node.store.history(&query).await?.records;
    let lengths: Vec<Duration> = records.iter().filter_map(length).collect();
    let count = u32::try_from(lengths.len()).unwrap_or(u32::MAX);
    Ok(lengths.iter().sum::<Duration>().checked_div(count).map(|length| (length, count)))
}

/// How long the last attempt of a run took.
pub(super) fn length(record: &Record) -> Option<Duration> {
    let Record::Run(run) = record else { return None };
    let attempt = run.attempts.last()?;
    attempt.ended.duration_since(attempt.started.unwrap_or(attempt.launched)).try_into().ok()
}

// ---- progress

/// A backfill, or a re-run with all that comes after it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct BackfillView {
    /// Its identity.
    id: String,
    /// Name of the job.
    job: String,
    /// `slots` of a range, or a `rerun`.
    kind: &'static str,
    /// Key of the run that runs again.
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<String>,
    /// Slots due at or after this.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    /// Slots due before this.
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    /// Which end comes first: `oldest` or `newest`.
    #[serde(skip_serializing_if = "Option::is_none")]
    order: Option<&'static str>,
    /// `underWay`, `over` or `cancelled`.
    state: &'static str,
    /// Slots under way at once.
    parallel: u32,
    /// How fast slots begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<String>,
    /// Whether the children `follow`, or `none` do.
    children: &'static str,
    /// When it was asked for.
    created: String,
    /// When the last of it was over.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<String>,
    /// Slots in all.
    slots: u64,
    /// Slots that have begun.
    begun: u64,
    /// Runs that succeeded.
    succeeded: u64,
    /// Runs that ended otherwise.
    failed: u64,
    /// Due time of the slot that begins next.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    /// Due times of the slots that are under way, the children of which may be what lasts.
    under_way: Vec<String>,
    /// What it waits for, in a sentence; absent once it is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

fn view_of(known: &Known, backfill: &Backfill, job: &JobName) -> BackfillView {
    let (run, from, to, order) = match &backfill.what {
        Redo::Slots { from, to, order, .. } => {
            let order = if *order == Order::NewestFirst { "newest" } else { "oldest" };
            (None, Some(instant(*from)), Some(instant(*to)), Some(order))
        }
        Redo::Run(key) => (Some(key.to_string()), None, None, None),
    };
    BackfillView {
        id: backfill.id.to_string(),
        job: job.to_string(),
        kind: kind_of(backfill),
        run,
        from,
        to,
        order,
        state: state_of(backfill),
        parallel: backfill.parallel,
        rate: backfill.rate.map(rate::text),
        children: if backfill.children == Children::Stay { "none" } else { "follow" },
        created: instant(backfill.created),
        ended: backfill.ended.map(instant),
        slots: backfill.slots,
        begun: backfill.begun,
        succeeded: backfill.succeeded,
        failed: backfill.failed,
        next: backfill.next.map(|slot| instant(slot.due)),
        under_way: backfill.under_way.iter().map(|due| instant(*due)).collect(),
        why: backfill.ended.is_none().then(|| why(known, backfill)),
    }
}

/// What a backfill waits for.
pub(super) fn why(known: &Known, backfill: &Backfill) -> String {
    let uid = backfill.id.job;
    let Some(next) = backfill.next else {
        return match backfill.under_way.len() {
            1 => format!("the last slot, due {}, is under way", instant(backfill.under_way[0])),
            n => format!("the last {n} slots are under way"),
        };
    };
    let next = instant(next.due);
    let disabled = known.jobs.get(&uid).is_none_or(|job| job.rules.disabled);
    let paused = known.progress.get(&uid).is_some_and(|progress| progress.paused.is_some());
    match (disabled, paused, backfill.hold) {
        (true, ..) => format!("the slot of {next} waits: the job is disabled"),
        (_, true, _) => format!("the slot of {next} waits: the job is paused"),
        (.., Some(hold)) => format!("the slot of {next} waits for its rate, until {}", instant(hold)),
        _ if backfill.under_way.len() >= backfill.parallel as usize => {
            let slots: Vec<String> = backfill.under_way.iter().take(3).map(|due| instant(*due)).collect();
            format!(
                "the slot of {next} waits until all that came of an earlier one is over: {}",
                slots.join(", ")
            )
        }
        _ => {
            let since = instant(backfill.last.unwrap_or(backfill.created));
            format!(
                "the slot of {next} waits until the job has room: what is due now comes first; none has begun since {since}"
            )
        }
    }
}

fn name(known: &Known, id: BackfillId) -> Option<JobName> {
    known.jobs.get(&id.job).map(|job| job.name.clone())
}

/// A page of backfills.
#[derive(Serialize, ToSchema)]
pub(super) struct Backfills {
    /// The newest first, or in the order that was asked for; at most 256 are kept, and those that are over go first.
    backfills: Vec<BackfillView>,
    /// Cursor of the next page, if there is one.
    next: Option<String>,
}

/// Which backfills.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// Only of this job.
    job: Option<String>,
    /// Only in one of these states, separated by commas: `underWay`, `over`, `cancelled`.
    state: Option<String>,
    /// `slots` or `rerun`.
    kind: Option<String>,
    /// `-created` (if absent: the newest first), `ended`, `job`, `state`, `left` (slots that have not begun); with a `-`
    /// for the other way round.
    sort: Option<String>,
    /// At most so many; 1 to 1000, all of them if absent.
    limit: Option<usize>,
    /// `next` of the page before, with the same `sort`.
    cursor: Option<String>,
}

/// What backfills are sorted by.
#[derive(Clone, Copy, PartialEq)]
enum BackfillField {
    Created,
    Ended,
    Job,
    State,
    Left,
}

impl lists::Field for BackfillField {
    const ALL: &'static [(&'static str, Self)] = &[
        ("created", Self::Created),
        ("ended", Self::Ended),
        ("job", Self::Job),
        ("state", Self::State),
        ("left", Self::Left),
    ];
}

const STATES: [&str; 3] = ["underWay", "over", "cancelled"];

fn state_of(backfill: &Backfill) -> &'static str {
    match (backfill.cancelled, backfill.ended) {
        (true, _) => STATES[2],
        (false, Some(_)) => STATES[1],
        (false, None) => STATES[0],
    }
}

fn kind_of(backfill: &Backfill) -> &'static str {
    if matches!(backfill.what, Redo::Run(_)) { "rerun" } else { "slots" }
}

/// Backfills and re-runs, those under way and the last ones that are over.
#[utoipa::path(
    get, path = "/v1/backfills", tag = "runs", params(Wanted),
    responses((status = 200, body = Backfills), (status = 400, body = ErrorBody))
)]
pub(super) async fn list(
    State(ctx): State<ApiContext>,
    Params(wanted): Params<Wanted>,
) -> Result<Json<Backfills>, ApiError> {
    let order = lists::Order::of(wanted.sort.as_deref(), (BackfillField::Created, Way::Down))?;
    let place = order.place(wanted.cursor.as_deref(), |id| id.parse::<BackfillId>().ok())?;
    let mut page = Page::new(place, limit(wanted.limit, 1000, 1000)?);
    let states = words("state", wanted.state.as_deref(), &STATES.map(|word| (word, word)))?;
    let kinds = words("kind", wanted.kind.as_deref(), &[("slots", "slots"), ("rerun", "rerun")])?;
    let projection = ctx.node.projection.read();
    let known = projection.state();
    for backfill in known.backfills.values() {
        let Some(job) = name(known, backfill.id) else { continue };
        let (state, kind) = (state_of(backfill), kind_of(backfill));
        let meant = (states.is_empty() || states.contains(&state))
            && (kinds.is_empty() || kinds.contains(&kind))
            && wanted.job.as_deref().is_none_or(|wanted| job.as_str() == wanted);
        let key = match order.field {
            BackfillField::Created => order.time(Some(backfill.created)),
            BackfillField::Ended => order.time(backfill.ended),
            BackfillField::Job => order.text_of(&job.as_str().into()),
            BackfillField::State => order.number(STATES.iter().position(|s| *s == state).map(|n| n as i64)),
            BackfillField::Left => order.number(i64::try_from(backfill.left()).ok()),
        };
        if meant {
            page.offer(key, &backfill.id, || view_of(known, backfill, &job));
        }
    }
    let (backfills, next) = page.told(order);
    Ok(Json(Backfills { backfills, next }))
}

/// How far a backfill has come.
#[utoipa::path(
    get, path = "/v1/backfills/{id}", tag = "runs", params(("id" = String, Path)),
    responses((status = 200, body = BackfillView), (status = 404, body = ErrorBody))
)]
pub(super) async fn show(
    State(ctx): State<ApiContext>,
    extract::Backfill(id): extract::Backfill,
) -> Result<Json<BackfillView>, ApiError> {
    let projection = ctx.node.projection.read();
    let known = projection.state();
    let found = known.backfills.get(&id).zip(name(known, id));
    let (backfill, job) = found.ok_or(Refusal::NoSuchBackfill(id))?;
    Ok(Json(view_of(known, backfill, &job)))
}

/// What becomes of the runs that have begun.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Running {
    /// `goOn` (default) to their end, or `kill`.
    running: Option<String>,
}

/// Begins no further slot of a backfill.
#[utoipa::path(
    delete, path = "/v1/backfills/{id}", tag = "runs", params(("id" = String, Path), Running),
    responses((status = 200, body = Changed), (status = 404, body = ErrorBody))
)]
pub(super) async fn cancel(
    State(ctx): State<ApiContext>,
    extract::Backfill(id): extract::Backfill,
    Params(running): Params<Running>,
    _: Unconditional,
) -> Result<Response, ApiError> {
    let remains = match running.running.as_deref() {
        None | Some("goOn") => Remains::GoOn,
        Some("kill") => Remains::Die,
        Some(_) => return Err(ApiError::invalid("running", "`running`: expected goOn or kill")),
    };
    let (_, seq) = ctx.ask(Request::CancelBackfill { id, remains }).await?;
    Ok(changed(seq))
}

/// What a job's `why` says of its backfills.
pub(super) fn reasons(known: &Known, job: &Job) -> Vec<(String, Timestamp)> {
    let open = known.backfills_of(job.uid).filter(|backfill| backfill.ended.is_none());
    let reason = |backfill: &Arc<Backfill>| {
        let Backfill { id, begun, slots, succeeded, failed, .. } = &**backfill;
        let counts = format!("{begun} of {slots} slots have begun, {succeeded} succeeded, {failed} did not");
        (format!("backfill {id}: {counts}; {}", why(known, backfill)), backfill.created)
    };
    open.map(reason).collect()
}

#[cfg(test)]
mod tests {
    use scheduler::schedule::{DstPolicy, Spread, Zones};

    use super::*;

    #[test]
    fn slots_in_a_row_are_one_piece() {
        let at = |hour: i64| Timestamp::from_second(1_900_000_800 + hour * 3600).expect("a time");
        let schedule = Schedule::parse(
            &Zones::bundled(),
            "0 * * * *",
            "",
            DstPolicy::default(),
            at(0),
            Spread::of("report"),
        )
        .expect("a schedule");
        let dues = [5, 3, 1, 2, 9, 9, 10].map(at).to_vec();
        assert_eq!(pieces(&schedule, dues), [(at(1), at(3)), (at(5), at(5)), (at(9), at(10))]);
        assert_eq!(pieces(&schedule, Vec::new()), []);
    }
}
