//! The nodes of the cluster, as each says of itself.

use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use scheduler::ids::RunKey;
use scheduler::request::Request;
use scheduler::run::{Run, RunState};
use serde::Serialize;
use store::Member;
use utoipa::ToSchema;

use super::ApiContext;
use super::error::{ApiError, ErrorBody};
use super::extract::Segments;
use crate::cluster::TOLD_EVERY;
use crate::cluster::news::News;

/// Who has said nothing for so long is not there: several times what it takes to say it.
const SILENT_AFTER: Duration = TOLD_EVERY.saturating_mul(5);

/// By then the ends of tasks of a node that was forgotten are recorded, or something is wrong. Whoever hands the request on
/// waits for longer.
const SETTLED_WITHIN: Duration = Duration::from_secs(20);

/// A node, as it said of itself.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct NodeView {
    /// Its id: random, never an address.
    node: String,
    pid: u32,
    version: String,
    /// Where others may reach it, best first.
    addresses: Vec<String>,
    /// Whether it is the one that answers.
    this: bool,
    /// Whether it has said something lately.
    heard: bool,
    /// How long ago it said so, in milliseconds, by the clock of the store.
    said_ms: u64,
    /// `starting`, `standby`, `preparing` or `leading`.
    role: String,
    /// The term that it knows.
    epoch: u64,
    /// The last change that it has seen.
    seq: u64,
    /// How many changes it is behind the newest that any node has seen.
    behind: u64,
    /// How old what it shows may be, in milliseconds; not there where it leads or cannot tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    age_ms: Option<u64>,
    /// How far its clock is ahead of the store's, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    clock_ahead_ms: Option<i64>,
    /// Where it reaches the leader, if that is another node.
    #[serde(skip_serializing_if = "Option::is_none")]
    leader_at: Option<String>,
    /// Why it does not reach the leader.
    #[serde(skip_serializing_if = "Option::is_none")]
    leader_lost: Option<String>,
    /// Why it does not do its part, one sentence each.
    troubles: Vec<String>,
}

/// All nodes that are known.
#[derive(Serialize, ToSchema)]
pub(super) struct Nodes {
    /// The leader first, then by id.
    nodes: Vec<NodeView>,
}

/// The nodes of the cluster: what each said of itself last, and how long ago.
#[utoipa::path(
    get, path = "/v1/nodes", tag = "node",
    responses((status = 200, body = Nodes), (status = 503, body = ErrorBody))
)]
pub(super) async fn list(State(ctx): State<ApiContext>) -> Result<Json<Nodes>, ApiError> {
    // While the store is away this node still has something to say of itself.
    let silent = ctx.node.outlook().silent.is_some();
    let mut members = if silent { Vec::new() } else { ctx.node.store.members().await? };
    // It knows better what it is than what it said; and a store of one machine tells of nobody.
    let ours = &ctx.node.identity;
    members.retain(|member| member.candidate.node != ours.node);
    let news = News::of(&ctx.node, &ctx.cluster);
    let this = Member { candidate: (**ours).clone(), news: String::new(), age: Duration::ZERO };
    let mut all: Vec<(Member, News)> = members
        .into_iter()
        .map(|member| {
            let news = News::read(&member.news);
            (member, news)
        })
        .collect();
    all.push((this, news));
    if !silent
        && let Some(leader) = ctx.node.store.leader().await
        && !all.iter().any(|(member, _)| member.candidate.instance() == leader.instance())
    {
        let news = News { role: "leading".into(), ..News::default() };
        all.push((Member { candidate: leader, news: String::new(), age: Duration::ZERO }, news));
    }
    let newest = all.iter().map(|(_, news)| news.seq).max().unwrap_or_default();
    let mut nodes: Vec<NodeView> = all
        .into_iter()
        .map(|(Member { candidate, age, .. }, news)| NodeView {
            this: candidate.instance() == ours.instance(),
            heard: age < SILENT_AFTER,
            said_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
            behind: newest - news.seq,
            node: candidate.node,
            pid: candidate.pid,
            version: candidate.version,
            addresses: candidate.addresses,
            role: news.role,
            epoch: news.epoch,
            seq: news.seq,
            age_ms: news.age_ms,
            clock_ahead_ms: news.clock_ahead_ms,
            leader_at: news.leader_at,
            leader_lost: news.leader_lost,
            troubles: news.troubles,
        })
        .collect();
    nodes.sort_by_cached_key(|node| (!(node.heard && node.role == "leading"), node.node.clone(), node.pid));
    Ok(Json(Nodes { nodes }))
}

/// Forgets a node that will not come back. Its tasks count as ended.
#[utoipa::path(
    delete, path = "/v1/nodes/{node}", tag = "node", params(("node" = String, Path, description = "Its id")),
    responses(
        (status = 204), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody), (status = 503, body = ErrorBody)
    )
)]
pub(super) async fn forget(
    State(ctx): State<ApiContext>,
    Segments(node): Segments<String>,
) -> Result<StatusCode, ApiError> {
    let members = ctx.node.store.members().await?;
    let Some(member) = members.iter().find(|member| member.candidate.node == node) else {
        let hint = "GET /v1/nodes and `chronos nodes` list them";
        return Err(ApiError::new(
            StatusCode::NOT_FOUND,
            "no_such_node",
            format!("there is no node `{node}`"),
        )
        .hint(hint));
    };
    // By no clock of the store, which may have stepped.
    let silent_for = match ctx.cluster.spread() {
        Some(spread) => spread.silent_for(&node).await?,
        None => member.age,
    };
    if silent_for < SILENT_AFTER {
        let message = format!("node `{node}` has been silent for {} s only", silent_for.as_secs());
        return Err(ApiError::new(StatusCode::CONFLICT, "alive", message).hint("stop it first"));
    }
    let begun = Instant::now();
    let open = runs_at(&ctx, &node);
    let runs = u64::try_from(open.len()).unwrap_or(u64::MAX);
    // Before anything is given up, as every change is.
    ctx.note(Request::ForgetNode { node: node.as_str().into(), runs }).await?;
    // Then its tasks: once nobody knows of it any more, nobody can tell that they have ended. And that they have is known
    // to this process alone until it is recorded.
    if let Some(spread) = ctx.cluster.spread() {
        spread.forget(&node);
        let left = settle(&ctx, &node, open, SETTLED_WITHIN.saturating_sub(begun.elapsed())).await;
        if left > 0 {
            return Err(unsettled(&node, left, spread.is_forgotten(&node)));
        }
        spread.is_settled(&node);
    }
    ctx.node.store.forget_member(&node).await?;
    let author = super::access::author();
    let (address, _) = super::access::origin_of(&author);
    tracing::info!(node, runs, by = &**author.name(), address, "forgot a node");
    Ok(StatusCode::NO_CONTENT)
}

/// Runs that have a task on a node. Where it is silent nothing more is launched.
fn runs_at(ctx: &ApiContext, node: &str) -> Vec<RunKey> {
    let projection = ctx.node.projection.read();
    projection.state().runs.values().filter(|run| is_at(run, node)).map(|run| run.key).collect()
}

fn is_at(run: &Run, node: &str) -> bool {
    matches!(&run.state, RunState::Running(live) if *live.node == *node)
}

/// Waits until no task of a node that was forgotten is awaited any more; how many still are when that takes too long.
async fn settle(ctx: &ApiContext, node: &str, mut left: Vec<RunKey>, within: Duration) -> usize {
    let projection = &ctx.node.projection;
    let mut batches = projection.events();
    let settled = async {
        loop {
            {
                let projection = projection.read();
                left.retain(|key| projection.state().runs.get(key).is_some_and(|run| is_at(run, node)));
            }
            if left.is_empty() {
                return;
            }
            // However many batches were missed, what is shown now counts.
            let _ = batches.recv().await;
        }
    };
    let _ = tokio::time::timeout(within, settled).await;
    left.len()
}

fn unsettled(node: &str, left: usize, is_forgotten: bool) -> ApiError {
    if !is_forgotten {
        let message = format!("node `{node}` has come back; it is asked for its tasks");
        return ApiError::new(StatusCode::CONFLICT, "alive", message).hint("stop it first");
    }
    let message = format!(
        "the ends of {left} tasks of node `{node}` were not recorded within {} s",
        SETTLED_WITHIN.as_secs()
    );
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "not_settled", message)
        .hint("say it again; until it is answered with success a new leader would not know of it")
}
