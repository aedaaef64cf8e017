//! Definitions as their authors wrote them: what `chronos export` reads.

use axum::Json;
use axum::extract::State;
use scheduler::ids::JobName;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::ApiContext;
use super::classic::no_such_job;
use super::error::{ApiError, ErrorBody};
use super::extract::{Params, limit};
use super::view::name_of;
use crate::wire::job::as_written;

/// Which definitions.
#[derive(Deserialize, IntoParams)]
pub(super) struct Wanted {
    /// Only of this job.
    job: Option<String>,
    /// At most so many; 1 to 1000, 100 if absent.
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// A page of definitions.
#[derive(Serialize, ToSchema)]
pub(super) struct Definitions {
    /// Sorted by name; each can be sent back as it is.
    definitions: Vec<Value>,
    /// Cursor of the next page, if there is one.
    next: Option<String>,
}

/// Definitions of jobs, without counters and without defaults.
#[utoipa::path(
    get, path = "/v1/definitions", tag = "jobs", params(Wanted),
    responses((status = 200, body = Definitions), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody))
)]
pub(super) async fn list(
    State(ctx): State<ApiContext>,
    Params(wanted): Params<Wanted>,
) -> Result<Json<Definitions>, ApiError> {
    let limit = limit(wanted.limit, 100, 1000)?;
    let name = |field: &str, text: &Option<String>| match text {
        Some(text) => JobName::new(text).map(Some).map_err(|e| ApiError::invalid(field, e.to_string())),
        None => Ok(None),
    };
    let (only, after) = (name("job", &wanted.job)?, name("cursor", &wanted.cursor)?);
    let projection = ctx.node.projection.read();
    let written = |job| Value::Object(as_written(job, |uid| name_of(&projection, uid)));
    if let Some(name) = only {
        let job = projection.job(&name).ok_or_else(|| no_such_job(&name))?;
        return Ok(Json(Definitions { definitions: vec![written(job)], next: None }));
    }
    let mut rest = projection.jobs_after(after.as_ref());
    let page: Vec<_> = rest.by_ref().take(limit).collect();
    let more = rest.next().is_some();
    let next = page.last().filter(|_| more).map(|job| job.name.to_string());
    Ok(Json(Definitions { definitions: page.into_iter().map(|job| written(job)).collect(), next }))
}
