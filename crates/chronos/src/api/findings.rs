//! What stands between the engine of the leader and its work, for `chronos doctor`.

use axum::Json;
use axum::extract::State;
use engine::{Finding, Grade};
use serde::Serialize;
use utoipa::ToSchema;

use super::ApiContext;

/// One of the things that an engine depends on.
#[derive(Serialize, ToSchema)]
pub(super) struct FindingView {
    /// Which, in one word.
    leg: &'static str,
    /// `good`, `look` or `wrong`.
    grade: &'static str,
    /// What was found.
    what: String,
    /// What to do about it; empty where there is nothing to do.
    advice: String,
}

impl From<Finding> for FindingView {
    fn from(Finding { leg, grade, what, advice }: Finding) -> Self {
        let grade = match grade {
            Grade::Good => "good",
            Grade::Look => "look",
            Grade::Wrong => "wrong",
        };
        Self { leg, grade, what, advice }
    }
}

/// All of them, in the order in which they depend on each other.
#[derive(Serialize, ToSchema)]
pub(super) struct Findings {
    /// Empty for an engine that depends on nothing else.
    findings: Vec<FindingView>,
}

/// What the engine of the leader depends on, looked at now: the supervisor of local tasks, and Docker where containers are
/// wanted; with Mesos the master, the framework there, offers, and the address that is shown for this server.
#[utoipa::path(get, path = "/v1/engine/findings", tag = "node", responses((status = 200, body = Findings)))]
pub(super) async fn list(State(ctx): State<ApiContext>) -> Json<Findings> {
    let findings = ctx.node.engine.examine().await.into_iter().map(FindingView::from).collect();
    Json(Findings { findings })
}
