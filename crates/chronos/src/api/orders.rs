//! The engine of this node, for the leader where that is another one: what a former leader began runs here still.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use engine::{EngineError, Stream};
use scheduler::ids::{Epoch, TaskId};

use super::ApiContext;
use super::error::{ApiError, ErrorBody};
use super::extract::Document;
use crate::cluster::orders::{Asked, Told};

/// Tasks in one call.
const TASKS_MAX: usize = 1024;

/// What the leader of the present term wants of this node's engine; nodes call it among themselves.
#[utoipa::path(
    post, path = "/v1/engine", tag = "node", request_body = Asked,
    responses((status = 200, body = Told), (status = 409, body = ErrorBody), (status = 503, body = ErrorBody))
)]
pub(super) async fn tell(
    State(ctx): State<ApiContext>,
    Document(body): Document,
) -> Result<Json<Told>, ApiError> {
    let asked: Asked = serde_json::from_slice(&body).map_err(|e| {
        ApiError::new(
            StatusCode::BAD_REQUEST,
            "malformed",
            format!("the body is not what nodes ask each other: {e}"),
        )
    })?;
    let epoch = Epoch(asked.epoch);
    // The engine would follow a term that never was for ever, and refuse all that come.
    let present = ctx.node.store.present().await?.epoch;
    if present != epoch {
        let message = format!("the store is in term {}, not in term {}", present.0, epoch.0);
        return Err(ApiError::new(StatusCode::CONFLICT, "wrong_term", message).field("epoch"));
    }
    let engine = ctx.cluster.local(&ctx.node.engine);
    if asked.begin_term {
        engine.begin_term(epoch).await.map_err(refused)?;
    }
    let grace = asked.grace();
    for task in tasks(&asked.kill, "kill")? {
        let not_after = engine::since_boot() + super::ANSWER_WITHIN;
        engine.kill(epoch, &task, grace, not_after).await.map_err(refused)?;
    }
    engine.acknowledge(&tasks(&asked.acknowledge, "acknowledge")?).await.map_err(refused)?;
    let asked_for = tasks(&asked.reconcile, "reconcile")?;
    let known = if asked_for.is_empty() {
        Vec::new()
    } else {
        engine.reconcile(epoch, &asked_for).await.map_err(refused)?
    };
    let output = match &asked.output {
        None => None,
        Some(piece) => {
            let task = task(&piece.task, "output.task")?;
            let stream = if piece.stderr { Stream::Stderr } else { Stream::Stdout };
            match engine.output(&task, stream, piece.offset).await {
                Ok(output) => Some(output.into()),
                Err(EngineError::NoSuchTask(_) | EngineError::OutputGone(_)) => None,
                Err(problem) => return Err(refused(problem)),
            }
        }
    };
    Ok(Json(Told { known: known.into_iter().map(Into::into).collect(), output }))
}

fn tasks(names: &[String], field: &str) -> Result<Vec<TaskId>, ApiError> {
    if names.len() > TASKS_MAX {
        let message = format!("{} tasks, of which {TASKS_MAX} are allowed in one call", names.len());
        return Err(ApiError::invalid(field, message));
    }
    names.iter().map(|name| task(name, field)).collect()
}

fn task(name: &str, field: &str) -> Result<TaskId, ApiError> {
    TaskId::parse(name).ok_or_else(|| ApiError::invalid(field, format!("`{field}`: not the id of a task")))
}

fn refused(problem: EngineError) -> ApiError {
    let (status, code) = match problem {
        EngineError::Deposed { .. } => (StatusCode::CONFLICT, "wrong_term"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "engine_unavailable"),
    };
    ApiError::new(status, code, problem.to_string())
}
