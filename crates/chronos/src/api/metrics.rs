//! What `/metrics` tells: the recorder of the process, and what is counted when somebody asks.

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use crate::node::OUTCOMES;

/// From half the lag that is promised (2 ms) to the minute that Chronos was content with.
const LAG_BUCKETS: [f64; 14] =
    [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0];

/// Installs the recorder of this process. The handle must be kept tidy: call its `run_upkeep` every few seconds.
/// # Errors
/// When there is one already.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let seconds = Matcher::Suffix("_seconds".into());
    let handle =
        PrometheusBuilder::new().set_buckets_for_metric(seconds, &LAG_BUCKETS)?.install_recorder()?;
    describe();
    begin();
    Ok(handle)
}

/// Counts to zero what has not happened yet. A counter that first shows itself at one has never been seen to rise, and
/// a standby that says nothing of leading looks like one that is not asked: no alert could be built on either.
fn begin() {
    use metrics::{counter, gauge, histogram};
    gauge!("chronos_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    gauge!("chronos_leader").set(0.0);
    for name in [
        "chronos_launches_total",
        "chronos_launch_loops_total",
        "chronos_late_outcomes_total",
        "chronos_logins_refused_total",
    ] {
        counter!(name).absolute(0);
    }
    for outcome in OUTCOMES {
        counter!("chronos_runs_total", "outcome" => outcome).absolute(0);
    }
    // Their buckets and counts; what is measured comes by itself.
    drop([histogram!("chronos_launch_lag_seconds"), histogram!("chronos_commit_seconds")]);
}

/// A handle that nothing is recorded to, for tests of the API.
#[cfg(test)]
pub(super) fn detached() -> PrometheusHandle {
    PrometheusBuilder::new().build_recorder().handle()
}

fn describe() {
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
    describe_histogram!(
        "chronos_launch_lag_seconds",
        Unit::Seconds,
        "From due time to launch, of first attempts"
    );
    describe_histogram!("chronos_commit_seconds", Unit::Seconds, "Time of one commit of the store");
    describe_histogram!("chronos_http_request_seconds", Unit::Seconds, "Time of one HTTP request");
    describe_counter!("chronos_launches_total", "Attempts launched by this node");
    describe_counter!("chronos_runs_total", "Runs and slots that ended while this node led, by outcome");
    describe_counter!("chronos_notices_total", "Notices sent by this node, by channel and result");
    describe_gauge!("chronos_notices", "Notices in the outbox, by state");
    describe_gauge!("chronos_alerts_lost", "Alerts that nobody was told of, because the outbox was full");
    describe_counter!("chronos_http_requests_total", "HTTP requests");
    describe_counter!("chronos_launch_loops_total", "Jobs that began to fail as soon as they were launched");
    describe_counter!(
        "chronos_late_outcomes_total",
        "Ends of attempts that were heard after they were recorded as lost"
    );
    describe_gauge!("chronos_held_runs", "Queued runs that a limit of this server holds back, by limit");
    describe_gauge!("chronos_jobs", "Jobs");
    describe_gauge!("chronos_live_runs", "Runs that have not ended, by state");
    describe_counter!("chronos_logins_refused_total", "Logins that were wrong");
    describe_gauge!("chronos_build_info", "1, with the version of this node");
    describe_gauge!("chronos_age_seconds", "How old what this node shows may be");
    describe_gauge!(
        "chronos_disk_free_bytes",
        "Bytes that are free where the store is, if that is a disk of this machine"
    );
    describe_gauge!("chronos_unstarted_attempts", "Attempts that were launched and not yet seen running");
    describe_gauge!("chronos_unstarted_longest_seconds", "How long the first of those has waited");
    describe_gauge!("chronos_unknown_attempts", "Attempts of which nobody can tell how they go");
    describe_gauge!("chronos_leader", "1 where this node leads");
    describe_gauge!("chronos_ready", "1 where this node is ready");
    describe_gauge!("chronos_seq", "The last change this node has seen");
}
