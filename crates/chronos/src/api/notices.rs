//! What people are told: notices on their way and those that are settled, and messages to try it out.

use axum::Json;
use axum::extract::State as Context;
use axum::http::StatusCode;
use axum::response::Response;
use scheduler::notice::{Channel, Notice, NoticeId, NoticeState};
use scheduler::request::Request;
use scheduler::state::State;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use super::error::{ApiError, ErrorBody};
use super::extract::{self, Document, Params, Segments, limit};
use super::lists::{Field, Key, Order, Page, Way, words};
use super::{ApiContext, Changed, changed};
use crate::notify::{Tested, alert_json, message_id};
use crate::wire::job::instant;
use crate::wire::shape::{Shape, optional};

/// Which notices of a list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// Only in one of these states, separated by commas: `waiting`, `sending`, `delivered`, `givenUp`.
    state: Option<String>,
    /// Only by one of these, separated by commas: `mail`, `webhook`, `slack`, `mattermost`, `sentry`.
    channel: Option<String>,
    /// Only to this address.
    to: Option<String>,
    /// Only those that tell of this job, as far as they name it.
    job: Option<String>,
    /// `-id` (if absent: the newest first), `id`, `state`, `attempts`, `settled`; with a `-` for the other way round.
    sort: Option<String>,
    /// At most so many; 1 to 1000, 100 if absent.
    limit: Option<usize>,
    /// `next` of the page before, with the same `sort`.
    cursor: Option<String>,
}

/// What notices are sorted by.
#[derive(Clone, Copy, PartialEq)]
enum NoticeField {
    Id,
    State,
    Attempts,
    Settled,
}

impl Field for NoticeField {
    const ALL: &'static [(&'static str, Self)] =
        &[("id", Self::Id), ("state", Self::State), ("attempts", Self::Attempts), ("settled", Self::Settled)];
}

fn key(order: Order<NoticeField>, notice: &Notice) -> Key {
    match order.field {
        NoticeField::Id => order.number(i64::try_from(notice.id.0).ok()),
        NoticeField::State => order.number(Some(match notice.state {
            NoticeState::Sending => 0,
            NoticeState::Waiting { .. } => 1,
            NoticeState::GivenUp { .. } => 2,
            NoticeState::Delivered { .. } => 3,
        })),
        NoticeField::Attempts => order.number(Some(notice.attempts.into())),
        NoticeField::Settled => order.time(match notice.state {
            NoticeState::Delivered { at } | NoticeState::GivenUp { at } => Some(at),
            NoticeState::Waiting { .. } | NoticeState::Sending => None,
        }),
    }
}

/// A message to one address.
#[derive(Serialize, ToSchema)]
pub(super) struct NoticeView {
    id: u64,
    /// By which receivers tell a repeat: part of the Message-ID of a mail, `X-Chronos-Notice-Id` of a web hook.
    message: String,
    /// `mail`, `webhook`, `slack`, `mattermost` or `sentry`.
    channel: &'static str,
    /// Whom it goes to; empty for all but mail.
    to: String,
    /// `waiting`, `sending`, `delivered` or `givenUp`.
    state: &'static str,
    created: String,
    /// When it is sent next, where it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    /// When it was delivered or given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    settled: Option<String>,
    /// How often it has been sent.
    attempts: u32,
    /// Why it did not arrive the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// How many alerts it tells of.
    count: u64,
    /// The same by kind.
    #[schema(value_type = Object)]
    counts: Map<String, Value>,
    /// The first 10 of them: `kind`, `job`, `run`, `due`, `at`, `slots`, `detail`.
    #[schema(value_type = Vec<Object>)]
    alerts: Vec<Value>,
}

impl NoticeView {
    fn of(notice: &Notice) -> Self {
        let (next, settled) = match notice.state {
            NoticeState::Waiting { until } => (Some(until), None),
            NoticeState::Sending => (None, None),
            NoticeState::Delivered { at } | NoticeState::GivenUp { at } => (None, Some(at)),
        };
        Self {
            id: notice.id.0,
            message: message_id(notice),
            channel: notice.address.channel.word(),
            to: notice.address.to.to_string(),
            state: word(notice),
            created: instant(notice.created),
            next: next.map(instant),
            settled: settled.map(instant),
            attempts: notice.attempts,
            error: notice.error.as_deref().map(Into::into),
            count: notice.count(),
            counts: notice.counts.iter().map(|(kind, n)| (kind.word().to_owned(), (*n).into())).collect(),
            alerts: notice.alerts.iter().map(alert_json).collect(),
        }
    }
}

const STATES: [&str; 4] = ["waiting", "sending", "delivered", "givenUp"];

fn word(notice: &Notice) -> &'static str {
    match notice.state {
        NoticeState::Waiting { .. } => STATES[0],
        NoticeState::Sending => STATES[1],
        NoticeState::Delivered { .. } => STATES[2],
        NoticeState::GivenUp { .. } => STATES[3],
    }
}

/// How many notices there are in each state, for the metrics.
pub(super) fn counted(state: &State) -> [(&'static str, usize); 4] {
    STATES.map(|word| (word, state.notices.values().filter(|notice| self::word(notice) == word).count()))
}

/// A page of notices.
#[derive(Serialize, ToSchema)]
pub(super) struct Notices {
    /// The newest first, or in the order that was asked for.
    notices: Vec<NoticeView>,
    /// Cursor of the next page, if there is one.
    next: Option<String>,
    /// Alerts that nobody was told of, because too many notices were on their way.
    lost: u64,
}

/// What people are told, the newest first. Settled notices are kept for 7 days, and at most 1000 of them.
#[utoipa::path(
    get, path = "/v1/notices", tag = "notices", params(Wanted),
    responses((status = 200, body = Notices), (status = 400, body = ErrorBody))
)]
pub(super) async fn list(
    Context(ctx): Context<ApiContext>,
    Params(wanted): Params<Wanted>,
) -> Result<Json<Notices>, ApiError> {
    let order = Order::of(wanted.sort.as_deref(), (NoticeField::Id, Way::Down))?;
    let place = order.place(wanted.cursor.as_deref(), |id| id.parse::<u64>().ok())?;
    let mut page = Page::new(place, limit(wanted.limit, 100, 1000)?);
    let states = words("state", wanted.state.as_deref(), &STATES.map(|word| (word, word)))?;
    let known = Channel::ALL.map(|channel| (channel.word(), channel));
    let channels = words("channel", wanted.channel.as_deref(), &known)?;
    let projection = ctx.node.projection.read();
    for notice in projection.state().notices.values() {
        let meant = (states.is_empty() || states.contains(&word(notice)))
            && (channels.is_empty() || channels.contains(&notice.address.channel))
            && wanted.to.as_deref().is_none_or(|to| *notice.address.to == *to)
            && wanted
                .job
                .as_deref()
                .is_none_or(|job| notice.alerts.iter().any(|alert| alert.name.as_str() == job));
        if meant {
            page.offer(key(order, notice), &notice.id.0, || notice.clone());
        }
    }
    let lost = projection.state().meta.alerts_lost;
    drop(projection);
    let (notices, next) = page.told(order);
    Ok(Json(Notices { notices: notices.iter().map(|notice| NoticeView::of(notice)).collect(), next, lost }))
}

/// Sends a notice at once that has not arrived, also one that was given up, and tries for another day.
#[utoipa::path(
    post, path = "/v1/notices/{id}/retry", tag = "notices", params(("id" = u64, Path)),
    responses((status = 200, body = Changed), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody))
)]
pub(super) async fn retry(
    Context(ctx): Context<ApiContext>,
    Segments(id): Segments<String>,
) -> Result<Response, ApiError> {
    let id = id.parse().map_err(|_| ApiError::invalid("id", "`id` is not the number of a notice"))?;
    let (_, seq) = ctx.ask(Request::RetryNotice(NoticeId(id))).await?;
    Ok(changed(seq))
}

/// A test as it is asked for.
#[derive(ToSchema)]
#[expect(dead_code, reason = "says in the document what the body looks like; it is read by its shape")]
pub(super) struct TestBody {
    /// `mail`, `webhook`, `slack`, `mattermost` or `sentry`; the first of them that there is, if absent.
    channel: Option<String>,
    /// Whom a mail goes to.
    to: Option<String>,
}

/// One step of a test.
#[derive(Serialize, ToSchema)]
struct StepView {
    step: &'static str,
    ok: bool,
    /// What came of it.
    detail: String,
}

/// How a test went.
#[derive(Serialize, ToSchema)]
pub(super) struct TestView {
    channel: &'static str,
    /// Whether the other side has taken the message.
    delivered: bool,
    /// In order; the last one is what failed, if something did.
    steps: Vec<StepView>,
    /// What to do about it.
    #[serde(skip_serializing_if = "String::is_empty")]
    hint: String,
}

/// Sends a message about nothing from this node, at once, and says how each step went.
#[utoipa::path(
    post, path = "/v1/notify/test", tag = "notices", request_body = TestBody,
    responses((status = 200, body = TestView), (status = 400, body = ErrorBody), (status = 409, body = ErrorBody))
)]
pub(super) async fn test(
    Context(ctx): Context<ApiContext>,
    Document(body): Document,
) -> Result<Json<TestView>, ApiError> {
    const FIELDS: [crate::wire::shape::Field; 2] = [
        optional("channel", Shape::Word(&["mail", "webhook", "slack", "mattermost", "sentry"])),
        optional("to", Shape::Text),
    ];
    let read = extract::object(&body, &FIELDS)?;
    let text = |key: &str| read.get(key).and_then(Value::as_str);
    let notifier = &ctx.node.notifier;
    let there = notifier.channels();
    let named =
        text("channel").and_then(|word| Channel::ALL.into_iter().find(|channel| channel.word() == word));
    let first = || Channel::ALL.into_iter().find(|channel| there.has(*channel));
    let channel = named.or_else(first).unwrap_or(Channel::Mail);
    let name = channel.word();
    let to = text("to").unwrap_or_default();
    if channel == Channel::Mail && there.mail && to.is_empty() {
        return Err(ApiError::invalid("to", "`to` is missing: a mail needs a recipient"));
    }
    let tested = notifier.test(channel, to).await.ok_or_else(|| no_channel(channel))?;
    Ok(Json(view(name, tested)))
}

fn no_channel(channel: Channel) -> ApiError {
    let (what, hint) = match channel {
        Channel::Mail => ("this server has no mail server", "start it with --mail_server and --mail_from"),
        Channel::Webhook => ("this server has no URL to post to", "start it with --http_notification_url"),
        Channel::Slack => ("this server has no channel of Slack", "start it with --slack_url"),
        Channel::Mattermost => ("this server has no channel of Mattermost", "start it with --mattermost_url"),
        Channel::Sentry => ("this server has no project of Sentry", "start it with --raven_dsn"),
    };
    ApiError::new(StatusCode::CONFLICT, "no_channel", what).hint(hint)
}

fn view(channel: &'static str, tested: Tested) -> TestView {
    let done =
        tested.steps.into_iter().map(|step| StepView { step: step.name, ok: true, detail: step.detail });
    let (delivered, hint) = (
        tested.trouble.is_none(),
        tested.trouble.as_ref().map(|trouble| trouble.hint.to_string()).unwrap_or_default(),
    );
    let failed =
        tested.trouble.map(|trouble| StepView { step: trouble.step, ok: false, detail: trouble.what });
    TestView { channel, delivered, steps: done.chain(failed).collect(), hint }
}
