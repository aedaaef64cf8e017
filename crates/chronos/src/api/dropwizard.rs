//! `/metrics` in the form of Dropwizard, under the names that Chronos gave: for what has watched it so far.
//!
//! What there was of the Java machine, of Jetty and of Jersey is not here. Counts are those of the jobs themselves, so
//! they neither begin anew with a process nor differ between nodes.

use scheduler::run::RunState;
use serde_json::{Map, Value, json};
use store::StoreError;

use super::ApiContext;
use super::sample::Sample;
use super::statistics::run_times;
use super::view;

/// The newest successful runs that the histograms are made of.
const SAMPLE_MAX: usize = 10_000;
/// The form is that of this version of the library's module for JSON.
const VERSION: &str = "3.0.0";
const TASK_MANAGER: &str = "org.apache.mesos.chronos.scheduler.jobs.TaskManager";

/// All that is told.
pub(super) async fn told(ctx: &ApiContext) -> Result<Value, StoreError> {
    let mut samples = run_times(&*ctx.node.store, None, SAMPLE_MAX).await?;
    let (mut counters, mut histograms) = (Map::new(), Map::new());
    view::each_job(&ctx.node.projection, |projection, job| {
        let Some(progress) = projection.state().progress.get(&job.uid) else { return };
        let counted = [("success", progress.successes), ("failure", progress.errors)];
        for (word, count) in counted.into_iter().filter(|(_, count)| *count > 0) {
            counters.insert(format!("jobs.run.{word}.{}", job.name), json!({ "count": count }));
        }
        if let Some(times) = samples.remove(&job.uid) {
            histograms.insert(format!("jobs.run.time.{}", job.name), histogram(&Sample::new(Some(times))));
        }
    });
    let (high, normal) = queued(ctx);
    Ok(json!({
        "version": VERSION,
        "gauges": {
            format!("{TASK_MANAGER}.highQueueSize"): { "value": high },
            format!("{TASK_MANAGER}.queueSize"): { "value": normal },
        },
        "counters": counters,
        "histograms": histograms,
        "meters": {},
        "timers": {},
    }))
}

/// Runs that wait for their turn: of jobs with high priority, and of the others.
fn queued(ctx: &ApiContext) -> (usize, usize) {
    let projection = ctx.node.projection.read();
    let state = projection.state();
    let queued = state.runs.values().filter(|run| run.state == RunState::Queued);
    let high = |job| state.jobs.get(&job).is_some_and(|job| job.rules.high_priority);
    let (high, normal): (Vec<bool>, Vec<bool>) = queued.map(|run| high(run.key.job)).partition(|high| *high);
    (high.len(), normal.len())
}

fn histogram(sample: &Sample) -> Value {
    json!({
        "count": sample.count(),
        "max": sample.most(),
        "mean": sample.mean(),
        "min": sample.least(),
        "p50": sample.quantile(0.5),
        "p75": sample.quantile(0.75),
        "p95": sample.quantile(0.95),
        "p98": sample.quantile(0.98),
        "p99": sample.quantile(0.99),
        "p999": sample.quantile(0.999),
        "stddev": sample.deviation(),
    })
}
