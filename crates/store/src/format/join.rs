//! Joins and fan-outs, as stored.

use scheduler::ids::GraphVersion;
use scheduler::state::{Arrival, Fanout, Join, Stage};
use serde::{Deserialize, Serialize};

use super::value::{Key, Ms, StoredCycle, Uid, is_default};

/// See [`Join`].
#[derive(Serialize, Deserialize)]
pub(super) struct StoredJoin {
    child: Uid,
    cycle: StoredCycle,
    #[serde(default, skip_serializing_if = "is_default")]
    graph: u32,
    opened: Ms,
    parents: Vec<(Uid, StoredArrival)>,
    #[serde(default, skip_serializing_if = "is_default")]
    skipped: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    superseded: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    again: bool,
}

/// Which join.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredJoinKey {
    pub(super) child: Uid,
    pub(super) cycle: StoredCycle,
}

/// See [`Arrival`].
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredArrival {
    Awaited,
    Succeeded,
    Failed,
}

/// See [`Fanout`].
#[derive(Serialize, Deserialize)]
pub(super) struct StoredFanout {
    run: Key,
    cycle: StoredCycle,
    #[serde(default, skip_serializing_if = "is_default")]
    graph: u32,
    #[serde(default, skip_serializing_if = "is_default")]
    succeeded: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    again: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after: Option<Uid>,
}

impl From<&Join> for StoredJoin {
    fn from(Join { child, cycle, graph, opened, parents, stage, again }: &Join) -> Self {
        let arrival = |arrival: &Arrival| match arrival {
            Arrival::Awaited => StoredArrival::Awaited,
            Arrival::Succeeded => StoredArrival::Succeeded,
            Arrival::Failed => StoredArrival::Failed,
        };
        Self {
            child: Uid(*child),
            cycle: cycle.into(),
            graph: graph.0,
            opened: Ms(*opened),
            parents: parents.iter().map(|(parent, a)| (Uid(*parent), arrival(a))).collect(),
            skipped: *stage == Stage::Skipped,
            superseded: *stage == Stage::Superseded,
            again: *again,
        }
    }
}

impl From<StoredJoin> for Join {
    fn from(
        StoredJoin { child, cycle, graph, opened, parents, skipped, superseded, again }: StoredJoin,
    ) -> Self {
        let arrival = |stored| match stored {
            StoredArrival::Awaited => Arrival::Awaited,
            StoredArrival::Succeeded => Arrival::Succeeded,
            StoredArrival::Failed => Arrival::Failed,
        };
        let parents = parents.into_iter().map(|(parent, a)| (parent.0, arrival(a))).collect();
        let stage = match (skipped, superseded) {
            (_, true) => Stage::Superseded,
            (true, false) => Stage::Skipped,
            (false, false) => Stage::Open,
        };
        let graph = GraphVersion(graph);
        Self { child: child.0, cycle: cycle.into(), graph, opened: opened.0, parents, stage, again }
    }
}

impl From<&Fanout> for StoredFanout {
    fn from(Fanout { run, cycle, graph, succeeded, again, after }: &Fanout) -> Self {
        let after = after.map(Uid);
        let (run, cycle) = (Key(*run), cycle.into());
        Self { run, cycle, graph: graph.0, succeeded: *succeeded, again: *again, after }
    }
}

impl From<StoredFanout> for Fanout {
    fn from(StoredFanout { run, cycle, graph, succeeded, again, after }: StoredFanout) -> Self {
        let after = after.map(|uid| uid.0);
        Self { run: run.0, cycle: cycle.into(), graph: GraphVersion(graph), succeeded, again, after }
    }
}
