//! The HTTP side: the API of Chronos, the endpoints beside it, a page, metrics.
//!
//! Reads are answered by the projection and the history, writes by asking the node. Start at [`router`]. Each module is
//! a group of endpoints, but for [`error`], [`view`], [`why`], what `guard` does for all of them, and what several share:
//! `choice`, `lists`, `mention`, `sample`, `throttle`.
//! **Invariant:** every answer that is not 2xx is JSON of the form [`error::ErrorBody`].

pub mod access;
mod apply;
mod audit;
mod backfills;
mod backup;
mod choice;
mod classic;
mod conditions;
mod definitions;
mod dropwizard;
pub mod editing;
pub mod error;
mod events;
mod extract;
mod findings;
mod forecast;
mod forward;
mod graph;
mod guard;
mod health;
mod jobs;
mod lists;
mod load;
mod mention;
mod methods;
pub mod metrics;
mod next;
mod nodes;
mod notices;
mod once;
mod orders;
mod output;
mod page;
mod refusals;
mod runs;
mod sample;
mod statistics;
mod tasks;
mod throttle;
mod versions;
pub mod view;
pub mod why;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use scheduler::ids::{JobName, Seq};
use scheduler::job::{Job, Progress, Retry};
use scheduler::limits::Limits;
use scheduler::request::{Answer, Request, Verdict};
use serde::Serialize;
use tower_http::CompressionLevel;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use utoipa::{OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::cluster::{self, Cluster};
use crate::node::{AskError, Node};
use crate::wire::honour::{self, Surroundings};
use error::{ApiError, no_such_job};
use methods::Methods;

/// What the handlers hold.
#[derive(Clone)]
pub struct ApiContext {
    /// Answers and decides.
    pub node: Node,
    /// Where the leader is.
    pub cluster: Cluster,
    /// What `/metrics` tells.
    pub metrics: PrometheusHandle,
    /// How the API behaves.
    pub settings: Arc<Settings>,
    /// Whose turn it is to patch a job.
    pub turns: editing::Turns,
}

/// How the API behaves.
#[derive(Debug)]
pub struct Settings {
    /// Who may ask.
    pub access: access::Access,
    /// Whether it listens on a loopback address: then only the names of this machine and `hosts` are answered.
    pub loopback: bool,
    /// Further names, without port, that requests may come by.
    pub hosts: Vec<String>,
    /// What bounds the launches of this node where it leads; for `why` and the metrics.
    pub limits: Limits,
    /// How long this node waits between attempts of jobs that do not say, where it leads.
    pub retry_delay: Duration,
    /// How many tasks the statistics of a job list.
    pub tasks_listed: usize,
    /// Whether answers are compressed for who can read that.
    pub compresses: bool,
    /// Where the server keeps what is its own.
    pub data_dir: Option<PathBuf>,
}

impl Settings {
    /// As many as Chronos listed.
    pub const TASKS_LISTED: usize = 5;
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            access: access::Access::default(),
            loopback: false,
            hosts: Vec::new(),
            limits: Limits::default(),
            retry_delay: Retry::DELAY,
            tasks_listed: Self::TASKS_LISTED,
            compresses: true,
            data_dir: None,
        }
    }
}

/// How long a write may take. The store tries for ever; a client does not.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How long an answer waits for its own projection, so that whoever reads next sees what was written.
const SHOWN_WITHIN: Duration = Duration::from_secs(1);

/// A job, and how far it has come.
type Found = (Arc<Job>, Arc<Progress>);

impl ApiContext {
    fn job(&self, name: &JobName) -> Result<Found, ApiError> {
        let projection = self.node.projection.read();
        let found = projection
            .job(name)
            .and_then(|job| Some((job.clone(), projection.state().progress.get(&job.uid)?.clone())));
        found.ok_or_else(|| no_such_job(name))
    }

    /// What of a definition has no effect here; one sentence each.
    fn unhonoured(&self, body: &str) -> Vec<String> {
        honour::unhonoured(body, Surroundings::of(self.node.engine.name()))
    }

    /// `host:port` of the leader, if one is known.
    fn leader(&self) -> Option<String> {
        cluster::address::first(&self.node.leader()?.addresses)
    }

    /// Nothing was done, as this node does not lead; who does, or why nobody is known to.
    fn not_leading(&self) -> ApiError {
        if let Some(leader) = self.leader() {
            return ApiError::from(AskError::NotLeading).leader(Some(leader));
        }
        let (why, hint) = match self.node.outlook().silent {
            Some(silent) => {
                (format!("nobody leads: {silent}"), "`chronos doctor` says what is wrong with the store")
            }
            None => ("nobody leads now".into(), "another node leads soon, or `chronos doctor` says why not"),
        };
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "not_leading", format!("{why}; nothing was done"))
            .hint(format!("ask again later; {hint}"))
    }

    /// Asks for a change. When it is done it is durable, and visible on this node.
    async fn ask(&self, request: Request) -> Result<(Answer, Seq), ApiError> {
        Ok(self.try_ask(request).await??)
    }

    /// The same, for those who know what to do about a refusal.
    async fn try_ask(&self, request: Request) -> Result<Result<(Answer, Seq), AskError>, ApiError> {
        let answer = self.hear(once::keyed(request)).await?;
        if let Ok((_, seq)) = &answer {
            self.node.projection.wait_for(*seq, SHOWN_WITHIN).await;
        }
        Ok(answer.map(|(answer, seq)| (once::opened(answer), seq)))
    }

    /// Asks for a dry run. Not under the key of the request: what is not done need not be done once, and a key
    /// that it took would keep the change itself from being made.
    async fn foretell(&self, request: Request) -> Result<Result<(Vec<Verdict>, Seq), AskError>, ApiError> {
        Ok(match self.hear(request).await? {
            Ok((Answer::Applied(verdicts), seq)) => Ok((verdicts, seq)),
            Ok(_) => return Err(error::defect()),
            Err(refused) => Err(refused),
        })
    }

    /// Notes what is done beside the jobs. Not under the key of the request: that it is noted does not say that it is done.
    async fn note(&self, request: Request) -> Result<(), ApiError> {
        self.hear(request).await??;
        Ok(())
    }

    /// What the node answers, within the time that a client waits.
    async fn hear(&self, request: Request) -> Result<Result<(Answer, Seq), AskError>, ApiError> {
        let authored = Request::By { author: access::author(), request: Box::new(request) };
        match tokio::time::timeout(ANSWER_WITHIN, self.node.ask(authored)).await {
            Err(_) => {
                let message = format!("the change was not confirmed within {} s", ANSWER_WITHIN.as_secs());
                Err(error::outcome_unknown(message))
            }
            Ok(Err(AskError::NotLeading)) => Err(self.not_leading()),
            Ok(answer) => Ok(answer),
        }
    }
}

/// The header that says which change a write became.
fn seq_header(seq: Seq) -> (HeaderName, HeaderValue) {
    (forward::SEQ, HeaderValue::from(seq.0))
}

/// A change was made.
#[derive(Serialize, ToSchema)]
struct Changed {
    /// Number of the change.
    seq: u64,
}

/// Answers that a change was made.
fn changed(seq: Seq) -> Response {
    ([seq_header(seq)], Json(Changed { seq: seq.0 })).into_response()
}

/// What is said of the API as a whole.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Chronos",
        description = "Cron for a fleet. The endpoints under `/v1/scheduler` are those of Chronos, and are served under \
            `/scheduler` too; the others are new. All times are RFC 3339 in UTC. Every answer that is not 2xx has an \
            `ErrorBody`. A write answers with `X-Chronos-Seq`; a read that sends it back sees that write. A write with an \
            `Idempotency-Key` of the client's own is done once, however often it is sent within a day; a repetition is \
            answered as the first one was, with `Idempotency-Replayed: true`."
    ),
    components(schemas(error::ErrorBody)),
    tags(
        (name = "chronos", description = "The API of Chronos"),
        (name = "jobs", description = "Jobs"),
        (name = "runs", description = "Runs and their output"),
        (name = "notices", description = "What people are told"),
        (name = "node", description = "This node and the cluster"),
    )
)]
struct Document;

/// The endpoints of Chronos, relative to their prefix.
fn classic_routes() -> OpenApiRouter<ApiContext> {
    OpenApiRouter::new()
        .routes(routes!(classic::post_iso8601, classic::put_iso8601))
        .routes(routes!(classic::post_dependency, classic::put_dependency))
        .routes(routes!(classic::jobs))
        .routes(routes!(classic::search))
        .routes(routes!(classic::summary))
        .routes(routes!(classic::job, classic::trigger, classic::delete))
        .routes(routes!(statistics::stat))
        .routes(routes!(statistics::percentile))
        .routes(routes!(tasks::progress))
        .routes(routes!(tasks::purge))
        .routes(routes!(tasks::ended))
        .routes(routes!(classic::kill))
        .routes(routes!(classic::mark_success))
        .routes(routes!(classic::dot))
        .routes(routes!(classic::csv))
        .routes(routes!(classic::leader))
}

/// All that is in the document.
fn documented() -> OpenApiRouter<ApiContext> {
    OpenApiRouter::with_openapi(Document::openapi())
        .nest("/v1/scheduler", classic_routes())
        .routes(routes!(apply::apply))
        .routes(routes!(jobs::list))
        .routes(routes!(jobs::show, editing::put, editing::patch, editing::delete))
        .routes(routes!(versions::list))
        .routes(routes!(versions::show))
        .routes(routes!(versions::compare))
        .routes(routes!(versions::rollback))
        .routes(routes!(versions::restore))
        .routes(routes!(next::next))
        .routes(routes!(next::fleet))
        .routes(routes!(jobs::why))
        .routes(routes!(jobs::pause))
        .routes(routes!(jobs::resume))
        .routes(routes!(definitions::list))
        .routes(routes!(graph::graph))
        .routes(routes!(runs::list))
        .routes(routes!(runs::show, runs::kill))
        .routes(routes!(runs::why))
        .routes(routes!(runs::rerun))
        .routes(routes!(backfills::begin))
        .routes(routes!(backfills::list))
        .routes(routes!(backfills::show, backfills::cancel))
        .routes(routes!(forecast::forecast))
        .routes(routes!(output::read))
        .routes(routes!(events::stream))
        .routes(routes!(backup::take))
        .routes(routes!(backup::restore))
        .routes(routes!(audit::list))
        .routes(routes!(notices::list))
        .routes(routes!(notices::retry))
        .routes(routes!(notices::test))
        .routes(routes!(health::status))
        .routes(routes!(nodes::list))
        .routes(routes!(nodes::forget))
        .routes(routes!(orders::tell))
        .routes(routes!(findings::list))
        .routes(routes!(health::ping))
        .routes(routes!(health::health))
        .routes(routes!(health::ready))
        .routes(routes!(health::metrics))
}

/// The OpenAPI document, as it is served and checked in.
pub fn openapi() -> utoipa::openapi::OpenApi {
    refusals::added(documented().into_openapi())
}

/// All endpoints.
pub fn router(ctx: ApiContext) -> Router {
    let compresses = ctx.settings.compresses;
    let (documented, document) = documented().split_for_parts();
    let (old_prefix, _) = classic_routes().split_for_parts();
    let methods = Arc::new(Methods::of(&document));
    let document = serde_json::to_string(&refusals::added(document)).unwrap_or_default();
    let json = [("content-type", "application/json")];
    let endpoints = Router::new()
        .merge(documented)
        .nest("/scheduler", old_prefix)
        .route("/openapi.json", get(move || async move { (json, document) }))
        .route("/", get(page::page))
        .fallback(|| async {
            ApiError::new(StatusCode::NOT_FOUND, "not_found", "there is no such endpoint")
                .hint("see /openapi.json")
        })
        .method_not_allowed_fallback(|| async {
            ApiError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "this endpoint does not know that method",
            )
            .hint("see /openapi.json")
        })
        // The last layer is the first to see a request.
        .layer(from_fn_with_state(ctx.clone(), guard::catch_up))
        .layer(from_fn_with_state(ctx.clone(), once::around))
        .layer(from_fn_with_state(ctx.clone(), forward::forward))
        .layer(from_fn_with_state((ctx.clone(), methods), guard::admit))
        .layer(from_fn_with_state(ctx.clone(), access::identify))
        .layer(CatchPanicLayer::custom(guard::panicked))
        .layer(from_fn(guard::measure))
        .layer(from_fn(guard::harden))
        .with_state(ctx);
    // Around the whole: which methods a path knows is said outside of its own layers.
    Router::new()
        .fallback_service(endpoints)
        .layer(from_fn(guard::options))
        // The fastest: a list of 100,000 jobs becomes a tenth in less time than it takes to write it.
        .layer(CompressionLayer::new().gzip(compresses).quality(CompressionLevel::Fastest))
}

#[cfg(test)]
mod tests;
