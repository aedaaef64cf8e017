//! How this node is doing: for load balancers, operators and Prometheus.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use engine::Readiness;
use jiff::Timestamp;
use scheduler::notice::{Channel, Notice};
use scheduler::run::RunState;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::error::ApiError;
use super::extract::Params;
use super::load::Load;
use super::{ApiContext, dropwizard, extract};
use crate::cluster::{self, Way};
use crate::node::Role;
use crate::wire::job::instant;

/// A store that does not say within this which it is, is not waited for: what the node knows by itself is wanted now.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Answers here, always.
#[utoipa::path(get, path = "/ping", tag = "node", responses((status = 200, body = String)))]
pub(super) async fn ping() -> Response {
    (
        [(header::CONTENT_TYPE, "text/plain"), (header::CACHE_CONTROL, "must-revalidate,no-cache,no-store")],
        "pong\n",
    )
        .into_response()
}

/// The process lives.
#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    /// Always true.
    healthy: bool,
}

/// Whether the process lives. Says nothing of store or engine: a restart would not mend those.
#[utoipa::path(get, path = "/health", tag = "node", responses((status = 200, body = Health)))]
pub(super) async fn health() -> Json<Health> {
    Json(Health { healthy: true })
}

/// Whether this node does its part.
#[derive(Serialize, ToSchema)]
pub(super) struct Ready {
    ready: bool,
    /// `starting`, `standby`, `preparing` or `leading`.
    role: &'static str,
    /// Why it is not ready; on a standby, which is ready as long as it can answer reads, also what else is wrong; one
    /// sentence each.
    reasons: Vec<String>,
    /// What it does without although it is ready, and what to do about it; one sentence each.
    notes: Vec<String>,
    /// `host:port` of the leader, if one is known.
    leader: Option<String>,
}

/// A scheduler that lives says so every second or two.
const STOPPED_AFTER: Duration = Duration::from_secs(15);

/// Asks nobody: a balancer that waits for the answer takes the node out, and with a store that is stuck all of them.
fn readiness(ctx: &ApiContext) -> Ready {
    let (status, seen, leader) = (ctx.node.status(), ctx.node.outlook(), ctx.node.leader());
    let (mut reasons, mut notes) = (status.troubles, Vec::new());
    let mut serves = false;
    match status.role {
        Role::Starting => reasons.push("the store has not been heard from yet".into()),
        Role::Preparing(_) => reasons.push("elected, and preparing to lead".into()),
        Role::Standby => {
            let (way, shows) = (ctx.cluster.way(), seen.current_at.is_some());
            let hands_on = matches!(way, Way::Found(..));
            // Who shows something, be it old, or hands reads on, does its part, whatever keeps it from leading.
            serves = shows || hands_on;
            match (shows, hands_on) {
                (true, _) => {}
                (false, true) => {
                    notes.push(
                        "this node has not read the store yet, and hands reads on to the leader".into(),
                    );
                }
                (false, false) => reasons.push("this node has not read the store yet".into()),
            }
            if let Some(silent) = &seen.silent {
                // The store says the same of itself.
                reasons.retain(|reason| reason != silent);
                reasons.push(silence(silent, seen.age()));
            }
            if leader.is_none() {
                reasons.push("nobody leads".into());
            }
            if let Way::Lost(_, why) = way {
                reasons.push(format!("cannot reach the leader: {why}"));
            }
            reasons.extend(ctx.cluster.login());
        }
        Role::Leading(_) => {
            if let Readiness::NotReady { reason } = ctx.node.engine.readiness() {
                let told = format!("the {} engine is not ready: {reason}", ctx.node.engine.name());
                if !reasons.contains(&told) {
                    reasons.push(told);
                }
            }
        }
    }
    let still = ctx.node.pulse.silence();
    if still > STOPPED_AFTER {
        serves = false;
        reasons.push(format!(
            "the scheduler of this node has not moved for {} s: restart this process",
            still.as_secs()
        ));
    }
    let leader = leader.and_then(|leader| cluster::address::first(&leader.addresses));
    notes.extend(ctx.node.engine.notes());
    notes.extend(ctx.node.store.notes());
    notes.extend(
        ctx.node.store.damage().map(|damage| format!("part of the history cannot be read: {damage}")),
    );
    notes.extend(ctx.node.strange().map(Into::into));
    notes.extend(ctx.node.left_behind());
    notes.extend(untold(ctx.node.projection.read().state()));
    Ready { ready: serves || reasons.is_empty(), role: status.role.word(), reasons, notes, leader }
}

/// Why the store does not answer, and how old what is shown is, if anything is.
fn silence(why: &str, age: Option<Duration>) -> String {
    match age {
        Some(age) => format!("{why}; what is shown is {} s old", age.as_secs()),
        None => why.into(),
    }
}

/// Whether people can be told of things. A mail server that is down keeps no job from running.
fn untold(state: &scheduler::state::State) -> Vec<String> {
    let mut notes = Vec::new();
    let stuck = |notice: &&Arc<Notice>| !notice.is_settled() && notice.error.is_some();
    let mut waiting = state.notices.values().filter(stuck);
    if let Some(first) = waiting.next() {
        let error = first.error.as_deref().unwrap_or_default();
        let n = 1 + waiting.count();
        notes.push(format!("{n} notice(s) could not be sent yet; the first because of: {error}"));
    }
    if state.meta.alerts_lost > 0 {
        let n = state.meta.alerts_lost;
        notes.push(format!("{n} alert(s) were told to nobody, because the outbox was full"));
    }
    notes
}

/// Whether this node does its part: leads and launches, or stands by for one that leads.
#[utoipa::path(get, path = "/ready", tag = "node", responses((status = 200, body = Ready), (status = 503, body = Ready)))]
pub(super) async fn ready(State(ctx): State<ApiContext>) -> (StatusCode, Json<Ready>) {
    let ready = readiness(&ctx);
    let status = if ready.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(ready))
}

/// Runs that have not ended.
#[derive(Default, Serialize, ToSchema)]
struct Live {
    queued: usize,
    running: usize,
    waiting: usize,
}

impl Live {
    fn of(ctx: &ApiContext) -> Self {
        let mut live = Self::default();
        for run in ctx.node.projection.read().state().runs.values() {
            match run.state {
                RunState::Queued => live.queued += 1,
                RunState::Running(_) => live.running += 1,
                RunState::Waiting { .. } => live.waiting += 1,
            }
        }
        live
    }
}

/// Attempts that were launched and of which nobody has heard that they run.
#[derive(Default)]
struct Unstarted {
    attempts: usize,
    /// How long the one waits that was launched first.
    longest: Duration,
    /// How many there are, begun or not, of which nobody can tell how they go.
    unknown: usize,
}

impl Unstarted {
    fn of(state: &scheduler::state::State, now: Timestamp) -> Self {
        let mut told = Self::default();
        for run in state.runs.values() {
            let RunState::Running(live) = &run.state else { continue };
            told.unknown += usize::from(live.unknown_since.is_some());
            if live.started.is_none() {
                told.attempts += 1;
                let waits = Duration::try_from(now.duration_since(live.launched)).unwrap_or_default();
                told.longest = told.longest.max(waits);
            }
        }
        told
    }
}

/// This node and what it knows of the cluster.
#[derive(Serialize, ToSchema)]
pub(super) struct StatusView {
    /// Its id: random, never an address.
    node: String,
    version: String,
    pid: u32,
    #[serde(flatten)]
    ready: Ready,
    /// Number of the term, where it leads.
    epoch: Option<u64>,
    /// The last change it has seen.
    seq: u64,
    jobs: usize,
    runs: Live,
    /// Kind of the store.
    store: &'static str,
    /// Its id, as in --expect_store; not there while the store does not answer.
    #[serde(rename = "storeId", skip_serializing_if = "Option::is_none")]
    store_id: Option<String>,
    /// What of its history cannot be read, with advice; jobs go on without it. Not there while nobody has met such a thing.
    #[serde(rename = "storeDamage", skip_serializing_if = "Option::is_none")]
    store_damage: Option<String>,
    /// Kind of the engine.
    engine: &'static str,
    /// How people can be told of things: `mail`, `webhook`, `slack`, `mattermost`, `sentry`.
    channels: Vec<&'static str>,
    /// What its clock says.
    time: String,
    /// The zone data that due times are computed with.
    #[serde(rename = "zoneData")]
    zone_data: String,
    /// What the store occupies on a disk of this machine, in bytes.
    #[serde(rename = "storeBytes")]
    store_bytes: Option<u64>,
    /// Bytes that are free on that disk.
    #[serde(rename = "diskFree")]
    disk_free: Option<u64>,
}

/// This node and what it knows of the cluster.
#[utoipa::path(get, path = "/v1/status", tag = "node", responses((status = 200, body = StatusView)))]
pub(super) async fn status(State(ctx): State<ApiContext>) -> Json<StatusView> {
    let ready = readiness(&ctx);
    let epoch = match ctx.node.status().role {
        Role::Leading(epoch) | Role::Preparing(epoch) => Some(epoch.0),
        Role::Starting | Role::Standby => None,
    };
    let node = &ctx.node;
    let channels = node.notifier.channels();
    let disk = node.store.disk();
    let store_id = match node.outlook().silent {
        Some(_) => None,
        None => {
            let told = tokio::time::timeout(AT_ONCE, node.store.store_id()).await;
            told.ok().and_then(Result::ok).flatten()
        }
    };
    // Let go before the next question to it.
    let jobs = node.projection.read().state().jobs.len();
    Json(StatusView {
        node: node.identity.node.clone(),
        version: node.identity.version.clone(),
        pid: node.identity.pid,
        ready,
        epoch,
        seq: node.projection.seq().0,
        jobs,
        runs: Live::of(&ctx),
        store: node.store.kind(),
        store_id,
        store_damage: node.store.damage(),
        engine: node.engine.name(),
        channels: Channel::ALL
            .into_iter()
            .filter(|channel| channels.has(*channel))
            .map(Channel::word)
            .collect(),
        time: instant(Timestamp::now()),
        zone_data: node.zones.data().name(),
        store_bytes: disk.map(|disk| disk.used),
        disk_free: disk.map(|disk| disk.free),
    })
}

/// How metrics are written.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Form {
    /// `true`: JSON with line breaks, for people.
    #[serde(default)]
    pretty: bool,
}

/// Metrics: in the text format of Prometheus, or in the form of Chronos for those who accept JSON or do not say what
/// they accept.
#[utoipa::path(
    get, path = "/metrics", tag = "node", params(Form),
    responses((status = 200, content((String = "text/plain"), (Object = "application/json"))))
)]
pub(super) async fn metrics(
    State(ctx): State<ApiContext>,
    extract::Accept(accept): extract::Accept,
    Params(form): Params<Form>,
) -> Result<Response, ApiError> {
    let [json, text] = ["application/json", "text/plain"].map(|form| extract::quality(&accept, form));
    // Whatever reads the format of Prometheus says so; what was written for Chronos hardly ever says anything.
    if accept.is_empty() || json > text {
        let told = dropwizard::told(&ctx).await?;
        let body = if form.pretty { format!("{told:#}") } else { told.to_string() };
        return Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response());
    }
    Ok(prometheus(&ctx))
}

fn prometheus(ctx: &ApiContext) -> Response {
    use metrics::gauge;
    let ready = readiness(ctx);
    let live = Live::of(ctx);
    gauge!("chronos_ready").set(f64::from(u8::from(ready.ready)));
    #[expect(clippy::cast_precision_loss, reason = "what a gauge can show")]
    let count = |n: usize| n as f64;
    for (state, n) in [("queued", live.queued), ("running", live.running), ("waiting", live.waiting)] {
        gauge!("chronos_live_runs", "state" => state).set(count(n));
    }
    let unstarted = Unstarted::of(ctx.node.projection.read().state(), Timestamp::now());
    gauge!("chronos_unstarted_attempts").set(count(unstarted.attempts));
    gauge!("chronos_unstarted_longest_seconds").set(unstarted.longest.as_secs_f64());
    gauge!("chronos_unknown_attempts").set(count(unstarted.unknown));
    let held = Load::of(ctx.node.projection.read().state(), &ctx.settings.limits).held();
    for (limit, n) in held {
        gauge!("chronos_held_runs", "limit" => limit).set(count(n));
    }
    gauge!("chronos_jobs").set(count(ctx.node.projection.read().state().jobs.len()));
    for (state, n) in super::notices::counted(ctx.node.projection.read().state()) {
        gauge!("chronos_notices", "state" => state).set(count(n));
    }
    #[expect(clippy::cast_precision_loss, reason = "what a gauge can show")]
    gauge!("chronos_alerts_lost").set(ctx.node.projection.read().state().meta.alerts_lost as f64);
    // A leader shows the present; who has shown nothing yet has no age.
    let age = match ctx.node.status().role {
        Role::Leading(_) => Some(0.0),
        _ => ctx.node.outlook().age().map(|age| age.as_secs_f64()),
    };
    if let Some(age) = age {
        gauge!("chronos_age_seconds").set(age);
    }
    if let Some(disk) = ctx.node.store.disk() {
        #[expect(clippy::cast_precision_loss, reason = "what a gauge can show")]
        gauge!("chronos_disk_free_bytes").set(disk.free as f64);
    }
    #[expect(clippy::cast_precision_loss, reason = "what a gauge can show")]
    gauge!("chronos_seq").set(ctx.node.projection.seq().0 as f64);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], ctx.metrics.render())
        .into_response()
}

#[cfg(test)]
mod tests {
    use scheduler::ids::{Cause, Cycle, GraphVersion, JobName, JobUid, RunKey, TaskId};
    use scheduler::run::{Live, Run, Told};
    use scheduler::state::State;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_900_000_000 + second).expect("a time")
    }

    /// A run of which an attempt was launched then, has been seen running since, and is not heard of since.
    fn run(state: &mut State, launched: i64, started: Option<i64>, unknown: Option<i64>) {
        let key = RunKey { job: JobUid(1), cause: Cause::Trigger(u32::try_from(launched).expect("small")) };
        let live = Live {
            attempt: 0,
            task: TaskId::parse("report-1-i5-0").expect("a task id"),
            launched: at(launched),
            node: "n".into(),
            started: started.map(at),
            unknown_since: unknown.map(at),
            kill: None,
            elements: 0,
        };
        let run = Run {
            key,
            job: JobName::new("report").expect("a name"),
            cycle: Cycle { due: at(0), origin: JobUid(1), seq: 0 },
            graph: GraphVersion(0),
            due: at(0),
            created: at(0),
            again: false,
            arguments: None,
            state: RunState::Running(live),
            attempts: Vec::new(),
            told: Told::default(),
        };
        state.runs.insert(key, Arc::new(run));
    }

    #[test]
    fn only_what_is_shown_has_an_age() {
        assert_eq!(
            silence("it is away", Some(Duration::from_secs(7))),
            "it is away; what is shown is 7 s old"
        );
        assert_eq!(silence("it is away", None), "it is away");
    }

    #[test]
    fn what_was_launched_and_does_not_begin_is_counted() {
        let mut state = State::default();
        let none = Unstarted::of(&state, at(100));
        assert_eq!((none.attempts, none.longest, none.unknown), (0, Duration::ZERO, 0));
        run(&mut state, 10, Some(11), None);
        run(&mut state, 20, None, None);
        run(&mut state, 30, None, Some(40));
        run(&mut state, 5, Some(6), Some(50));
        let found = Unstarted::of(&state, at(100));
        assert_eq!((found.attempts, found.longest, found.unknown), (2, Duration::from_secs(80), 2));
        let back = Unstarted::of(&state, at(0));
        assert_eq!(back.longest, Duration::ZERO, "a clock that went back makes nothing wait");
    }
}
