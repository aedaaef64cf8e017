//! Definitions as their authors wrote them: what `chronos export` reads.

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use scheduler::job::Job;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::projection::Projection;
use utoipa::{IntoParams, ToSchema};

use super::ApiContext;
use super::choice::{Chosen, Selected};
use super::error::{ApiError, ErrorBody, no_such_job};
use super::extract::{Params, job_of};
use super::jobs::{Wanted, page_of};
use super::view::name_of;
use crate::wire::job::as_written;

/// Which definitions, beside the conditions on jobs.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Only {
    /// Only of this job; the other conditions do not count then.
    job: Option<String>,
}

/// A page of definitions.
#[derive(Serialize, ToSchema)]
pub(super) struct Definitions {
    /// In the order that was asked for; each can be sent back as it is.
    definitions: Vec<Value>,
    /// Cursor of the next page, if there is one.
    next: Option<String>,
}

/// Definitions of jobs, without counters and without defaults.
#[utoipa::path(
    get, path = "/v1/definitions", tag = "jobs", params(Only, Wanted, Chosen),
    responses((status = 200, body = Definitions), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody))
)]
pub(super) async fn list(
    State(ctx): State<ApiContext>,
    Params(only): Params<Only>,
    Params(wanted): Params<Wanted>,
    Params(chosen): Params<Chosen>,
) -> Result<Json<Definitions>, ApiError> {
    if let Some(name) = job_of(only.job.as_deref())? {
        let projection = ctx.node.projection.read();
        let job = projection.job(&name).ok_or_else(|| no_such_job(&name))?;
        return Ok(Json(Definitions { definitions: vec![written(&projection, job)], next: None }));
    }
    let page = move |Selected { jobs, next, .. }, projection: &Projection| {
        let jobs = jobs.iter().filter_map(|uid| projection.state().jobs.get(uid));
        Definitions { definitions: jobs.map(|job| written(projection, job)).collect(), next }
    };
    page_of(ctx, &wanted, &chosen, Timestamp::now(), page).await.map(Json)
}

fn written(projection: &Projection, job: &Job) -> Value {
    Value::Object(as_written(job, |uid| name_of(projection, uid)))
}
