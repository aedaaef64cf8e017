//! What tasks say of themselves, and the end of all that waits: endpoints of Chronos about tasks.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures_util::future::join_all;
use scheduler::ids::{JobName, RunKey, TaskId};
use scheduler::request::{Refusal, Request};
use scheduler::run::{Attempt, AttemptEnd, Record, Run, RunState};
use serde_json::Value;
use utoipa::ToSchema;

use super::access;
use super::error::{self, ApiError, ErrorBody, no_such_job};
use super::extract::{self, Document, Segments};
use super::{ANSWER_WITHIN, ApiContext, SHOWN_WITHIN, seq_header};
use crate::node::AskError;
use crate::wire::job::is_data_job;
use crate::wire::shape::{Shape, optional, required};

/// What a task has done since it last said so.
#[derive(ToSchema)]
#[expect(dead_code, reason = "says in the document what the body looks like; it is read by its shape")]
pub(super) struct ProgressBody {
    /// Elements of data that it has processed; nothing is kept without it.
    #[schema(rename = "numAdditionalElementsProcessed", minimum = 0)]
    num_additional_elements_processed: Option<i64>,
}

/// Adds to what a running task has processed; for jobs with `dataProcessingJobType`. The sum is shown with the task.
///
/// Tasks find their ids in the variable `mesos_task_id`. Not to be repeated without an `Idempotency-Key`.
#[utoipa::path(
    post, path = "/job/{name}/task/{task}/progress", tag = "chronos",
    params(("name" = String, Path), ("task" = String, Path)), request_body = ProgressBody,
    responses((status = 204), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody))
)]
pub(super) async fn progress(
    State(ctx): State<ApiContext>,
    Segments((name, task)): Segments<(String, String)>,
    Document(body): Document,
) -> Result<Response, ApiError> {
    let fields = [optional("numAdditionalElementsProcessed", Shape::Whole(0, i64::MAX))];
    let said = extract::lenient_object(&body, &fields)?;
    let name = extract::job_name("name", &name)?;
    let known = {
        let projection = ctx.node.projection.read();
        let job = projection.job(&name).cloned().ok_or_else(|| no_such_job(&name))?;
        if !is_data_job(&job) {
            let message = format!("job `{name}` is not a data processing job, so its tasks have no progress");
            return Err(ApiError::invalid("dataProcessingJobType", message)
                .hint("replace it with `dataProcessingJobType: true`"));
        }
        TaskId::parse(&task).filter(|task| projection.runs_of(job.uid).any(|run| has(run, task)))
    };
    let task = known.ok_or_else(|| no_such_task(&task))?;
    let elements = said.get("numAdditionalElementsProcessed").and_then(Value::as_u64);
    let Some(elements) = elements else { return Ok(StatusCode::NO_CONTENT.into_response()) };
    let (_, seq) = ctx.ask(Request::Report { task, elements }).await?;
    Ok((StatusCode::NO_CONTENT, [seq_header(seq)]).into_response())
}

fn has(run: &Run, task: &TaskId) -> bool {
    matches!(&run.state, RunState::Running(live) if live.task == *task)
}

fn no_such_task(task: &str) -> ApiError {
    let clipped: String = task.chars().take(80).collect();
    ApiError::new(StatusCode::NOT_FOUND, "no_such_task", format!("there is no running task `{clipped}`"))
        .hint("tasks find their names in the variable mesos_task_id; what has ended reports nothing")
}

/// How a task says that it ended.
#[derive(ToSchema)]
#[expect(dead_code, reason = "says in the document what the body looks like; it is read by its shape")]
pub(super) struct StatusBody {
    /// 0: it has succeeded.
    #[schema(rename = "statusCode")]
    status_code: i32,
}

/// Takes note of how a task says that it ended, as the `async` jobs of Chronos 2 did.
///
/// Here the engine knows how a task ends, so nothing changes: what agrees with it is taken, what does not is refused.
#[utoipa::path(
    put, path = "/task/{task}", tag = "chronos", params(("task" = String, Path)), request_body = StatusBody,
    responses((status = 204), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody))
)]
pub(super) async fn ended(
    State(ctx): State<ApiContext>,
    Segments(text): Segments<String>,
    Document(body): Document,
) -> Result<StatusCode, ApiError> {
    let fields = [required("statusCode", Shape::Whole(i32::MIN.into(), i32::MAX.into()))];
    let succeeded =
        extract::lenient_object(&body, &fields)?.get("statusCode").and_then(Value::as_i64) == Some(0);
    let task = TaskId::parse(&text).ok_or_else(|| no_such_task(&text))?;
    let known = match known_of(&ctx, &task).await?.ok_or_else(|| no_such_task(&text))? {
        Known::Running if succeeded => return Ok(StatusCode::NO_CONTENT),
        Known::Ended(end) if succeeded == (end == AttemptEnd::Succeeded) => {
            return Ok(StatusCode::NO_CONTENT);
        }
        Known::Running => "is still running",
        Known::Ended(AttemptEnd::Succeeded) => "has succeeded",
        Known::Ended(_) => "has not succeeded",
    };
    let message = format!("task `{task}` {known}, as its engine knows; nothing has changed");
    Err(ApiError::new(StatusCode::CONFLICT, "contradicted", message)
        .field("statusCode")
        .hint("let the command of the job end with the status that is meant"))
}

enum Known {
    Running,
    Ended(AttemptEnd),
}

/// What is known of a task, live or in the history.
async fn known_of(ctx: &ApiContext, task: &TaskId) -> Result<Option<Known>, ApiError> {
    let end_of = |job: &JobName, key, attempts: &[Attempt]| {
        let ours = attempts.iter().find(|attempt| TaskId::of(job, key, attempt.number) == *task);
        ours.map(|attempt| Known::Ended(attempt.end.clone()))
    };
    for key in task.keys() {
        let live = ctx.node.projection.read().state().runs.get(&key).cloned();
        let known = match live {
            Some(run) if has(&run, task) => Some(Known::Running),
            Some(run) => end_of(&run.job, key, &run.attempts),
            None => match ctx.node.store.ended_run(key).await? {
                Some(Record::Run(run)) => end_of(&run.job, key, &run.attempts),
                _ => None,
            },
        };
        if known.is_some() {
            return Ok(known);
        }
    }
    Ok(None)
}

/// Cancels all runs that wait, for their turn or for another attempt. What runs goes on.
#[utoipa::path(
    delete, path = "/task/all", tag = "chronos", responses((status = 204), (status = 503, body = ErrorBody))
)]
pub(super) async fn purge(State(ctx): State<ApiContext>) -> Result<Response, ApiError> {
    /// What is asked at once, so that others come in between.
    const AT_ONCE: usize = 256;
    let waiting: Vec<RunKey> = {
        let projection = ctx.node.projection.read();
        let waits = |run: &&Arc<Run>| !matches!(run.state, RunState::Running(_));
        projection.state().runs.values().filter(waits).map(|run| run.key).collect()
    };
    let mut last = ctx.node.projection.seq();
    let author = access::author();
    let cancel = |key: &RunKey| {
        let request = Box::new(Request::CancelRun(*key));
        ctx.node.ask(Request::By { author: author.clone(), request })
    };
    for keys in waiting.chunks(AT_ONCE) {
        // Without the key that the request may have: it stands for one change, and this may be done again.
        let asked = join_all(keys.iter().map(cancel));
        let answers = tokio::time::timeout(ANSWER_WITHIN, asked)
            .await
            .map_err(|_| error::outcome_unknown("not all runs were confirmed to be cancelled"))?;
        for answer in answers {
            match answer {
                Ok((_, seq)) => last = last.max(seq),
                // It has ended by itself, or runs now.
                Err(AskError::Refused(Refusal::NoSuchRun(_))) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    ctx.node.projection.wait_for(last, SHOWN_WITHIN).await;
    Ok((StatusCode::NO_CONTENT, [seq_header(last)]).into_response())
}
