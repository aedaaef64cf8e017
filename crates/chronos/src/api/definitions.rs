//! Definitions as their authors wrote them: what `chronos export` reads.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use scheduler::job::{Job, Progress};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::projection::Projection;
use utoipa::{IntoParams, ToSchema};

use super::ApiContext;
use super::choice::{Chosen, Selected};
use super::error::{ApiError, ErrorBody, no_such_job};
use super::extract::{Params, job_of};
use super::jobs::{Wanted, page_of};
use super::view::{PauseView, name_of};
use crate::wire::job::{as_written, instant};

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
    /// How far each of these jobs has come, in the same order.
    progress: Vec<ProgressView>,
    /// Cursor of the next page, if there is one.
    next: Option<String>,
}

/// What a definition does not say, and who goes on with the job elsewhere must know.
#[derive(Serialize, ToSchema)]
pub(super) struct ProgressView {
    /// Slots left of `Rn`.
    #[serde(skip_serializing_if = "Option::is_none")]
    remaining: Option<u64>,
    /// The next slot; absent for a disabled job, and where the schedule is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    /// Whether it is paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    paused: Option<PauseView>,
}

/// Definitions of jobs, without counters and without defaults; and beside them how far the jobs have come.
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
    let now = Timestamp::now();
    if let Some(name) = job_of(only.job.as_deref())? {
        let projection = ctx.node.projection.read();
        let job = projection.job(&name).ok_or_else(|| no_such_job(&name))?;
        return Ok(Json(page(&projection, [job], None, now)));
    }
    let tell = move |Selected { jobs, next, .. }, projection: &Projection| {
        let jobs = jobs.iter().filter_map(|uid| projection.state().jobs.get(uid));
        page(projection, jobs, next, now)
    };
    page_of(ctx, &wanted, &chosen, now, tell).await.map(Json)
}

fn page<'a>(
    projection: &Projection,
    jobs: impl IntoIterator<Item = &'a Arc<Job>>,
    next: Option<String>,
    now: Timestamp,
) -> Definitions {
    let told = jobs.into_iter().filter_map(|job| {
        let progress = projection.state().progress.get(&job.uid)?;
        let definition = as_written(job, |uid| name_of(projection, uid));
        Some((Value::Object(definition), ProgressView::of(job, progress, now)))
    });
    let (definitions, progress) = told.unzip();
    Definitions { definitions, progress, next }
}

impl ProgressView {
    fn of(job: &Job, progress: &Progress, now: Timestamp) -> Self {
        Self {
            remaining: progress.remaining,
            next: progress.next.filter(|_| !job.rules.disabled).map(|slot| instant(slot.due)),
            paused: PauseView::of(progress, now),
        }
    }
}
