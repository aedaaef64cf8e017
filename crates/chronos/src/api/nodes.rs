//! The nodes of the cluster, as each says of itself.

use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use futures_util::future::join_all;
use scheduler::ids::RunKey;
use scheduler::request::Request;
use scheduler::run::{Run, RunState};
use serde::{Deserialize, Serialize};
use store::{Candidate, Member};
use utoipa::{IntoParams, ToSchema};

use super::ApiContext;
use super::error::{ApiError, ErrorBody};
use super::extract::{Params, Segments};
use crate::cluster::TOLD_EVERY;
use crate::cluster::news::News;

/// Who has said nothing for so long is not there: several times what it takes to say it.
const SILENT_AFTER: Duration = TOLD_EVERY.saturating_mul(5);

/// A store that has not told by then who is there is silent; the node tells of itself.
const TOLD_WITHIN: Duration = Duration::from_secs(5);

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
    /// Whether it has said something lately, or the store has said that it leads.
    heard: bool,
    /// How long ago it said so, in milliseconds, by the clock of the store; not there where it said nothing itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    said_ms: Option<u64>,
    /// Where it answers although it has said nothing lately: it lives, is cut off from the store, and may run tasks. Only
    /// where `ask` was said.
    #[serde(skip_serializing_if = "Option::is_none")]
    answers_at: Option<String>,
    /// `starting`, `standby`, `preparing` or `leading`.
    role: String,
    /// The term that it knows; not there where it has not said so, as the two that follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<u64>,
    /// The last change that it has seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    /// How many changes it is behind the newest that any node has seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    behind: Option<u64>,
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
    /// Which others there may be that are not listed, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    omitted: Option<String>,
}

/// How nodes are listed.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Asking {
    /// `true`: nodes that have said nothing lately are asked whether they live, which takes up to 3 s.
    #[serde(default)]
    ask: bool,
}

/// The nodes of the cluster: what each said of itself last, and how long ago.
#[utoipa::path(
    get, path = "/v1/nodes", tag = "node", params(Asking),
    responses((status = 200, body = Nodes))
)]
pub(super) async fn list(State(ctx): State<ApiContext>, Params(asking): Params<Asking>) -> Json<Nodes> {
    let told = match ctx.node.outlook().silent {
        Some(silent) => Err(silent),
        None => match tokio::time::timeout(TOLD_WITHIN, ctx.node.store.members()).await {
            Ok(members) => members.map_err(|problem| problem.to_string()),
            Err(_) => Err(format!("the store has not answered within {} s", TOLD_WITHIN.as_secs())),
        },
    };
    // While the store is away this node still has something to say of itself.
    let (members, omitted) = match told {
        Err(silent) => (Vec::new(), Some(format!("other nodes are not listed: {silent}"))),
        Ok(members) => (members, (ctx.node.store.kind() == "sqlite").then(|| UNTOLD.into())),
    };
    let ours = &ctx.node.identity;
    // It knows better what it is than what it said.
    let others = members.into_iter().filter(|member| member.candidate.node != ours.node);
    let mut all: Vec<Seen> = others.map(Seen::from).collect();
    all.push(Seen {
        candidate: (**ours).clone(),
        age: Some(Duration::ZERO),
        news: News::of(&ctx.node, &ctx.cluster),
    });
    if let Some(leader) = ctx.node.leader()
        && !all.iter().any(|seen| seen.candidate.instance() == leader.instance())
    {
        all.push(Seen {
            candidate: leader,
            age: None,
            news: News { role: "leading".into(), ..News::default() },
        });
    }
    let newest = all.iter().filter_map(|seen| seen.news.seq).max().unwrap_or_default();
    let views = all.into_iter().map(async |seen| {
        let asked = asking.ask && !seen.is_heard();
        let answers_at = if asked { ctx.cluster.find(&seen.candidate).await } else { None };
        let this = seen.candidate.instance() == ours.instance();
        NodeView { this, answers_at: answers_at.map(|at| at.to_string()), ..seen.into_view(newest) }
    });
    let mut nodes = join_all(views).await;
    nodes.sort_by_cached_key(|node| (!(node.heard && node.role == "leading"), node.node.clone(), node.pid));
    Json(Nodes { nodes, omitted })
}

/// What a store of one machine leaves open.
const UNTOLD: &str =
    "nodes that stand by on the same data folder are not listed: its store does not tell of them";

/// A node, and what is known of it.
struct Seen {
    candidate: Candidate,
    /// How long ago it said so; `None` for one that leads and has said nothing.
    age: Option<Duration>,
    news: News,
}

impl From<Member> for Seen {
    fn from(Member { candidate, news, age }: Member) -> Self {
        Self { candidate, age: Some(age), news: News::read(&news) }
    }
}

impl Seen {
    fn is_heard(&self) -> bool {
        self.age.is_none_or(|age| age < SILENT_AFTER)
    }

    /// Without what others have to say of it.
    fn into_view(self, newest: u64) -> NodeView {
        let heard = self.is_heard();
        let Self { candidate, age, news } = self;
        NodeView {
            this: false,
            answers_at: None,
            heard,
            said_ms: age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            behind: news.seq.map(|seq| newest - seq),
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
        }
    }
}

/// Which nodes are forgotten.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Forgetting {
    /// `true`: also one that still answers. What runs there runs twice, unless it is ended there.
    #[serde(default)]
    force: bool,
}

/// Forgets a node that will not come back. Its tasks count as ended, so it has to be off: one that has said something lately,
/// or still answers at one of its addresses, is not forgotten.
#[utoipa::path(
    delete, path = "/v1/nodes/{node}", tag = "node",
    params(("node" = String, Path, description = "Its id"), Forgetting),
    responses(
        (status = 204), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody), (status = 503, body = ErrorBody)
    )
)]
pub(super) async fn forget(
    State(ctx): State<ApiContext>,
    Segments(node): Segments<String>,
    Params(forgetting): Params<Forgetting>,
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
    // One that is cut off from the store alone is as silent as one that is off, and its tasks go on.
    let found = if forgetting.force { None } else { ctx.cluster.find(&member.candidate).await };
    if let Some(at) = found {
        let message = format!("node `{node}` still answers at {at}: it lives, and is cut off from the store");
        let hint = "end it first, or say --force (`?force=true`): then its tasks are called lost, and what may run again runs \
            beside them";
        return Err(ApiError::new(StatusCode::CONFLICT, "alive", message).hint(hint));
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
