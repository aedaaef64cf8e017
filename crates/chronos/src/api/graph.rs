//! The graph of jobs: which start which, and how they are. The whole of it, or what is above and below one job.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use scheduler::ids::JobUid;
use scheduler::job::Plan;
use serde::{Deserialize, Serialize};
use store::projection::Projection;
use utoipa::{IntoParams, ToSchema};

use super::ApiContext;
use super::choice::{self, Choice, Chosen};
use super::error::{ApiError, ErrorBody, defect, no_such_job};
use super::extract::{Params, job_of};
use super::lists::words;
use super::view::JobRow;

/// Jobs in one graph; beyond that nobody sees anything in it, and programs read /v1/jobs page by page.
const NODES_MAX: usize = 100_000;

/// Which part of the graph.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// Only this job and what it is connected with; the conditions on jobs do not count then.
    job: Option<String>,
    /// From that job `up` to what starts it, `down` to what it starts, or `both` (if absent).
    direction: Option<String>,
    /// At most so many steps away from that job.
    depth: Option<u32>,
}

/// Jobs and what starts them.
#[derive(Serialize, ToSchema)]
pub(super) struct Graph {
    /// Sorted by name.
    nodes: Vec<Node>,
    /// From parents to children, sorted; both ends are among the nodes.
    edges: Vec<Edge>,
    /// Whether something more is connected with these jobs than is told.
    more: bool,
}

/// A job in the graph.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Node {
    /// Its name.
    job: String,
    /// `idle`, `queued` or `<n> running`.
    state: String,
    /// By its definition, or because its schedule is over.
    disabled: bool,
    /// Whether it is paused.
    paused: bool,
    /// How the run that ended last ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_outcome: Option<&'static str>,
    /// Its schedule, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule: Option<String>,
    /// Its next slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    /// Parents in all, told or not.
    parents: usize,
    /// Children in all, told or not.
    children: usize,
}

/// A job starts another.
#[derive(PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
pub(super) struct Edge {
    /// The parent.
    from: String,
    /// The child.
    to: String,
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Up,
    Down,
    Both,
}

/// The graph of jobs, or a part of it.
#[utoipa::path(
    get, path = "/v1/graph", tag = "jobs", params(Wanted, Chosen),
    responses((status = 200, body = Graph), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody))
)]
pub(super) async fn graph(
    State(ctx): State<ApiContext>,
    Params(wanted): Params<Wanted>,
    Params(chosen): Params<Chosen>,
) -> Result<Json<Graph>, ApiError> {
    let now = Timestamp::now();
    let known = [("up", Direction::Up), ("down", Direction::Down), ("both", Direction::Both)];
    let direction = words("direction", wanted.direction.as_deref(), &known)?;
    let from = job_of(wanted.job.as_deref())?;
    let (choice, depth) = (Choice::of(&chosen, now)?, wanted.depth.unwrap_or(u32::MAX));
    let work = move || {
        let handle = &ctx.node.projection;
        let uids = match &from {
            Some(name) => {
                let projection = handle.read();
                let root = projection.job(name).ok_or_else(|| no_such_job(name))?.uid;
                around(&projection, root, direction.first().copied().unwrap_or(Direction::Both), depth)
            }
            None => {
                let mut uids = Vec::new();
                choice::each(handle, |_, of| {
                    if choice.takes(of) {
                        uids.push(of.job.uid);
                    }
                });
                uids
            }
        };
        if uids.len() > NODES_MAX {
            let message = format!("the graph has {} jobs, more than {NODES_MAX}", uids.len());
            return Err(
                ApiError::invalid("job", message).hint("ask for a part of it: `job`, `label`, `owner`")
            );
        }
        Ok(told(&handle.read(), &uids, now))
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| defect())?.map(Json)
}

/// A job, what starts it, and what it starts; up and down from it, but not down again from what is above.
fn around(projection: &Projection, root: JobUid, direction: Direction, depth: u32) -> Vec<JobUid> {
    let mut found = BTreeSet::from([root]);
    for way in [Direction::Up, Direction::Down] {
        if direction != Direction::Both && direction != way {
            continue;
        }
        let mut open = VecDeque::from([(root, 0)]);
        while let Some((uid, steps)) = open.pop_front() {
            let neighbours: Vec<JobUid> = match way {
                _ if steps == depth => Vec::new(),
                Direction::Up => parents(projection, uid).to_vec(),
                _ => projection.children(uid).collect(),
            };
            for next in neighbours {
                if found.insert(next) {
                    open.push_back((next, steps + 1));
                }
            }
        }
    }
    found.into_iter().collect()
}

fn parents(projection: &Projection, uid: JobUid) -> &[JobUid] {
    match projection.state().jobs.get(&uid).map(|job| &job.plan) {
        Some(Plan::Parents(parents)) => parents,
        _ => &[],
    }
}

fn told(projection: &Projection, uids: &[JobUid], now: Timestamp) -> Graph {
    let mut names = BTreeMap::new();
    let mut nodes = Vec::new();
    for uid in uids {
        let Some(job) = projection.state().jobs.get(uid) else { continue };
        let Some(progress) = projection.state().progress.get(uid) else { continue };
        let row = JobRow::of(projection, job, progress, now);
        names.insert(*uid, row.name.clone());
        nodes.push(Node {
            job: row.name,
            state: row.state,
            disabled: row.disabled,
            paused: row.paused.is_some(),
            last_outcome: row.last_outcome,
            schedule: row.schedule,
            next: row.next,
            parents: row.parents.map_or(0, |parents| parents.len()),
            children: projection.children(*uid).count(),
        });
    }
    let edges = names.iter().flat_map(|(uid, to)| {
        let known = parents(projection, *uid).iter().filter_map(|parent| names.get(parent));
        known.map(|from| Edge { from: from.clone(), to: to.clone() })
    });
    let mut edges: Vec<Edge> = edges.collect();
    edges.sort();
    nodes.sort_by(|a, b| a.job.cmp(&b.job));
    let more = nodes.iter().map(|node| node.parents + node.children).sum::<usize>() > 2 * edges.len();
    Graph { nodes, edges, more }
}
