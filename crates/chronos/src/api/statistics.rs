//! Statistics in the form of Chronos: how long the runs of a job take, and which tasks it had.
//!
//! They are made of the history when somebody asks, so every node has them, and they outlive a restart.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use scheduler::ids::{JobUid, TaskId};
use scheduler::run::{Attempt, AttemptEnd, EndedRun, Record, Run, RunState};
use serde::Serialize;
use store::{HistoryQuery, OutcomeKind, Store, StoreError};
use utoipa::ToSchema;

use super::error::{ApiError, ErrorBody, no_such_job};
use super::sample::Sample;
use super::{ApiContext, extract, view};
use crate::wire::job::is_data_job;

/// The newest runs of one job that its statistics are made of; Chronos kept a sample of 1028.
const SAMPLE_MAX: usize = 1000;
/// The newest runs of all jobs together that theirs are made of: read in a fraction of a second.
const FLEET_MAX: usize = 10_000;
/// Pages of the history that are looked through for tasks, where most records are of runs that never had one.
const PAGES_MAX: usize = 20;

/// How long the successful runs of a job took, in milliseconds.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
pub(super) struct Histogram {
    #[serde(rename = "75thPercentile")]
    p75: f64,
    #[serde(rename = "95thPercentile")]
    p95: f64,
    #[serde(rename = "98thPercentile")]
    p98: f64,
    #[serde(rename = "99thPercentile")]
    p99: f64,
    median: f64,
    mean: f64,
    /// Of how many runs.
    count: usize,
}

/// A task, as Chronos listed it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct TaskStat {
    task_id: String,
    job_name: String,
    /// The node whose engine has it.
    slave_id: String,
    /// `MM/DD/YY HH:MM:SS` in UTC, or `N/A`.
    start_time: String,
    /// Likewise.
    end_time: String,
    /// As in `1h1m5s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration: Option<String>,
    /// `Success`, `Fail`, `Running` or `Idle`.
    status: &'static str,
    /// What it says it has processed; only of jobs with `dataProcessingJobType`, and only where it has said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    num_elements_processed: Option<u64>,
}

/// What is known of the runs of a job.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct JobStat {
    histogram: Histogram,
    /// The newest first.
    task_stat_history: Vec<TaskStat>,
}

/// How long the runs of a job take, and its newest tasks.
#[utoipa::path(
    get, path = "/job/stat/{name}", tag = "chronos", params(("name" = String, Path)),
    responses((status = 200, body = JobStat), (status = 404, body = ErrorBody))
)]
pub(super) async fn stat(
    State(ctx): State<ApiContext>,
    extract::Job(name): extract::Job,
) -> Result<Json<JobStat>, ApiError> {
    let (job, live) = {
        let projection = ctx.node.projection.read();
        let job = projection.job(&name).cloned().ok_or_else(|| no_such_job(&name))?;
        let live: Vec<_> = projection.runs_of(job.uid).cloned().collect();
        (job, live)
    };
    let store = &*ctx.node.store;
    let sample = Sample::new(run_times(store, Some(job.uid), SAMPLE_MAX).await?.remove(&job.uid));
    let mut tasks: Vec<_> = live.iter().flat_map(|run| of_live(run)).collect();
    let most = ctx.settings.tasks_listed;
    tasks.extend(ended_tasks(store, job.uid, most).await?);
    tasks.sort_by_key(|(launched, _)| std::cmp::Reverse(*launched));
    let tasks = tasks.into_iter().take(most).map(|(_, mut task)| {
        task.num_elements_processed = task.num_elements_processed.filter(|_| is_data_job(&job));
        task
    });
    Ok(Json(JobStat { histogram: sample.histogram(), task_stat_history: tasks.collect() }))
}

/// One job among all.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct JobTime {
    job_name_label: String,
    /// In seconds.
    time: f64,
}

/// All jobs by how long their runs take, the longest first; those that have not succeeded lately take no time.
///
/// `percentile` is `75thPercentile`, `95thPercentile`, `98thPercentile`, `99thPercentile`, `median`, `mean` or `count`,
/// which is divided by 1000 too; the list of any other is empty.
#[utoipa::path(
    get, path = "/stats/{percentile}", tag = "chronos", params(("percentile" = String, Path)),
    responses((status = 200, body = Vec<JobTime>))
)]
pub(super) async fn percentile(
    State(ctx): State<ApiContext>,
    extract::Segments(percentile): extract::Segments<String>,
) -> Result<Json<Vec<JobTime>>, ApiError> {
    if Sample::new(None).named(&percentile).is_none() {
        return Ok(Json(Vec::new()));
    }
    let mut samples = run_times(&*ctx.node.store, None, FLEET_MAX).await?;
    let mut times = Vec::new();
    view::each_job(&ctx.node.projection, |_, job| {
        let sample = Sample::new(samples.remove(&job.uid));
        let time = sample.named(&percentile).unwrap_or_default() / 1000.0;
        times.push(JobTime { job_name_label: job.name.to_string(), time });
    });
    times.sort_by(|a, b| b.time.total_cmp(&a.time));
    Ok(Json(times))
}

impl Sample {
    fn histogram(&self) -> Histogram {
        Histogram {
            p75: self.quantile(0.75),
            p95: self.quantile(0.95),
            p98: self.quantile(0.98),
            p99: self.quantile(0.99),
            median: self.quantile(0.5),
            mean: self.mean(),
            count: self.count(),
        }
    }

    /// One value of the histogram by its key.
    fn named(&self, key: &str) -> Option<f64> {
        Some(match key {
            "75thPercentile" => self.quantile(0.75),
            "95thPercentile" => self.quantile(0.95),
            "98thPercentile" => self.quantile(0.98),
            "99thPercentile" => self.quantile(0.99),
            "median" => self.quantile(0.5),
            "mean" => self.mean(),
            #[expect(clippy::cast_precision_loss, reason = "a sample has at most thousands")]
            "count" => self.count() as f64,
            _ => return None,
        })
    }
}

/// How long the newest successful runs took, by job.
pub(super) async fn run_times(
    store: &dyn Store,
    job: Option<JobUid>,
    max: usize,
) -> Result<BTreeMap<JobUid, Vec<f64>>, StoreError> {
    let outcomes = vec![OutcomeKind::Succeeded];
    let mut query = HistoryQuery { job, outcomes, limit: max.min(1000), ..HistoryQuery::default() };
    let (mut times, mut left) = (BTreeMap::<_, Vec<_>>::new(), max);
    loop {
        let page = store.history(&query).await?;
        for record in &page.records {
            if let Record::Run(run) = record
                && let Some(time) = time_of(run)
            {
                times.entry(run.key.job).or_default().push(time);
            }
        }
        left = left.saturating_sub(query.limit);
        query.cursor = page.next;
        if left == 0 || page.next.is_none() {
            return Ok(times);
        }
    }
}

/// How long the attempt ran that succeeded, in milliseconds, without the time it waited; `None` where a user marked the
/// run so.
fn time_of(run: &EndedRun) -> Option<f64> {
    let last = run.attempts.last().filter(|attempt| attempt.end == AttemptEnd::Succeeded)?;
    let begun = last.started.unwrap_or(last.launched);
    #[expect(clippy::cast_precision_loss, reason = "no task runs for 285,000 years")]
    let millis = last.ended.duration_since(begun).as_millis().max(0) as f64;
    Some(millis)
}

type Launched = (Timestamp, TaskStat);

/// The newest tasks of a job that have ended.
async fn ended_tasks(store: &dyn Store, job: JobUid, most: usize) -> Result<Vec<Launched>, StoreError> {
    use OutcomeKind::{Failed, Killed, Lost, Succeeded, TimedOut};
    let outcomes = vec![Succeeded, Failed, Killed, TimedOut, Lost];
    let mut query =
        HistoryQuery { job: Some(job), outcomes, limit: (4 * most).max(1), ..HistoryQuery::default() };
    let mut tasks = Vec::new();
    for _ in 0..PAGES_MAX {
        let page = store.history(&query).await?;
        for record in &page.records {
            if let Record::Run(run) = record {
                tasks.extend(
                    run.attempts
                        .iter()
                        .map(|a| of_ended(TaskId::of(&run.job, run.key, a.number), run.job.as_str(), a)),
                );
            }
        }
        query.cursor = page.next;
        if tasks.len() >= most || page.next.is_none() {
            break;
        }
    }
    Ok(tasks)
}

fn of_ended(task: TaskId, job: &str, attempt: &Attempt) -> Launched {
    let seconds = attempt.ended.duration_since(attempt.started.unwrap_or(attempt.launched)).as_secs();
    let stat = TaskStat {
        task_id: task.to_string(),
        job_name: job.into(),
        slave_id: attempt.node.to_string(),
        start_time: time(Some(attempt.started.unwrap_or(attempt.launched))),
        end_time: time(Some(attempt.ended)),
        duration: Some(duration(seconds.max(0).unsigned_abs())),
        status: if attempt.end == AttemptEnd::Succeeded { "Success" } else { "Fail" },
        num_elements_processed: Some(attempt.elements).filter(|n| *n > 0),
    };
    (attempt.launched, stat)
}

fn of_live(run: &Run) -> Vec<Launched> {
    let ended =
        run.attempts.iter().map(|a| of_ended(TaskId::of(&run.job, run.key, a.number), run.job.as_str(), a));
    let mut tasks: Vec<_> = ended.collect();
    if let RunState::Running(live) = &run.state {
        let stat = TaskStat {
            task_id: live.task.to_string(),
            job_name: run.job.to_string(),
            slave_id: live.node.to_string(),
            start_time: time(live.started),
            end_time: time(None),
            duration: None,
            status: if live.started.is_some() { "Running" } else { "Idle" },
            num_elements_processed: Some(live.elements).filter(|n| *n > 0),
        };
        tasks.push((live.launched, stat));
    }
    tasks
}

fn time(t: Option<Timestamp>) -> String {
    t.map_or_else(|| "N/A".into(), |t| t.strftime("%m/%d/%y %H:%M:%S").to_string())
}

/// `1h1m5s`; the seconds are always there, and there are no days.
fn duration(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let part = |n: u64, unit| if n == 0 { String::new() } else { format!("{n}{unit}") };
    format!("{}{}{seconds}s", part(hours, 'h'), part(minutes, 'm'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_chronos_wrote_them() {
        for (seconds, text) in [(0, "0s"), (65, "1m5s"), (3605, "1h5s"), (90_061, "25h1m1s"), (3600, "1h0s")]
        {
            assert_eq!(duration(seconds), text);
        }
    }
}
