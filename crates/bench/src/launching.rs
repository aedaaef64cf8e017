//! A whole node (driver, store, projection) with an engine that starts nothing: how many launches
//! a second it sustains, how fast it works off a herd, and how long after its due time a launch reaches the engine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use chronos::node::{self, Node, NodeOptions, NodeTask, Role};
use jiff::Timestamp;
use scheduler::ids::JobUid;
use scheduler::run::RunState;
use scheduler::schedule::Zones;
use scheduler::state::Change;
use store::{Candidate, Retention};
use tokio::sync::broadcast::error::RecvError;

use super::Bench;
use super::noop::{Launched, NoopEngine};
use super::population::{Place, definition, each_second, fill};
use super::table::{Line, Target, percentile};

/// Between the making of jobs and their first slot: the node is up by then.
const HEAD_START: Duration = Duration::from_secs(3);

/// More slots a second than the target, each a job's own, for so long.
pub(crate) async fn sustained(bench: &mut Bench) -> anyhow::Result<()> {
    const OFFERED: u32 = 12_000;
    const TIME: Duration = Duration::from_secs(20);
    let place = Place::Folder(bench.folder("sustained")?);
    let rate = rate_offered(&place, OFFERED, TIME).await?;
    let what = format!("sustained launches, no-op engine, durable ({OFFERED} slots/s offered)");
    let line = Line::new(what, rate, "launches/s", Target::AtLeast(10_000.0));
    let commits = bench.machine.sqlite_commits;
    bench.tell(line.beside("SQLite commits/s", commits));
    Ok(())
}

/// Launches a second while so many slots are due each second for so long.
pub(crate) async fn rate_offered(place: &Place, offered: u32, time: Duration) -> anyhow::Result<f64> {
    let launched = every_second(place, offered, time).await?;
    // The first and the last second are the edges of the measurement.
    let within = |l: &&Launched| l.at >= launched.begin + secs(1) && l.at < launched.begin + time - secs(1);
    let count = launched.all.iter().filter(within).count();
    Ok(count as f64 / (time - secs(2)).as_secs_f64())
}

/// A thousand slots a second, one each millisecond.
pub(crate) async fn lag(bench: &mut Bench) -> anyhow::Result<()> {
    let place = Place::Folder(bench.folder("lag")?);
    let lags = lags(&place, 1000, Duration::from_secs(30)).await?;
    let sync = 1000.0 / bench.machine.fdatasyncs;
    let line = |percent, target| {
        let what = format!("lag due to launched at 1,000/s, p{percent}");
        Line::new(what, percentile(&lags, percent), "ms", target).beside("one fdatasync, ms", sync)
    };
    bench.tell(line(50, Target::AtMost(2.0)));
    bench.tell(line(99, Target::AtMost(20.0)));
    bench.tell(line(100, Target::None));
    Ok(())
}

/// How late each launch was while so many slots are due each second for so long, in milliseconds, sorted.
pub(crate) async fn lags(place: &Place, offered: u32, time: Duration) -> anyhow::Result<Vec<f64>> {
    let launched = every_second(place, offered, time).await?;
    let mut lags: Vec<f64> = launched.all.iter().map(Launched::lag_ms).collect();
    lags.sort_by(f64::total_cmp);
    Ok(lags)
}

/// A hundred thousand jobs due at one instant.
pub(crate) async fn herd(bench: &mut Bench) -> anyhow::Result<()> {
    const JOBS: usize = 100_000;
    let place = Place::Folder(bench.folder("herd")?);
    // Making them takes a few seconds; the instant has to lie behind that.
    let due = whole_second(Timestamp::now(), Duration::from_secs(25))?;
    let schedule = format!("R1/{due}/P1D");
    fill(&place, (0..JOBS).map(|n| definition(&format!("herd-{n:06}"), &schedule))).await?;
    let engine = Arc::new(NoopEngine::default());
    let (node, task) = start(&place, engine.clone()).await?;
    anyhow::ensure!(Timestamp::now() < due, "this machine is too slow to make the herd in time");
    let order = tokio::spawn(launches_in_order(node.clone(), JOBS));
    let deadline = Instant::now() + until(due) + Duration::from_secs(60);
    while engine.count() < JOBS && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let launched = engine.launched();
    let last = launched.iter().map(Launched::lag_ms).fold(0.0, f64::max);
    let in_order = order.await?;
    task.shutdown().await;
    let line = Line::new(
        "herd of 100,000 slots at one instant: the last is launched",
        last / 1000.0,
        "s",
        Target::AtMost(10.0),
    );
    let commits = bench.machine.sqlite_commits;
    bench.tell(line);
    let rate = JOBS as f64 / (last / 1000.0);
    bench.tell(
        Line::new("herd: launches/s", rate, "launches/s", Target::None).beside("SQLite commits/s", commits),
    );
    bench.tell(Line::new("herd: launches lost", (JOBS - launched.len()) as f64, "", Target::AtMost(0.0)));
    bench.tell(Line::new("herd: launches out of order", in_order as f64, "", Target::AtMost(0.0)));
    Ok(())
}

/// What came of slots that were offered.
struct Series {
    begin: Duration,
    all: Vec<Launched>,
}

/// So many slots a second, evenly spread, for so long.
async fn every_second(place: &Place, jobs: u32, time: Duration) -> anyhow::Result<Series> {
    // Stores on other machines take longer to fill.
    let made_each_second = if matches!(place, Place::Folder(_)) { 10_000 } else { 500 };
    let begin = whole_second(Timestamp::now(), HEAD_START + secs(u64::from(jobs / made_each_second)))?;
    let definitions = (0..jobs).map(|n| {
        let schedule = each_second(begin, secs(1) * n / jobs)?;
        definition(&format!("job-{n:06}"), &schedule)
    });
    fill(place, definitions).await?;
    let engine = Arc::new(NoopEngine::default());
    let (_node, task) = start(place, engine.clone()).await?;
    anyhow::ensure!(Timestamp::now() < begin, "this machine is too slow to make the jobs in time");
    tokio::time::sleep(until(begin) + time).await;
    let all = engine.launched();
    task.shutdown().await;
    Ok(Series { begin: begin.as_duration().unsigned_abs(), all })
}

async fn start(place: &Place, engine: Arc<NoopEngine>) -> anyhow::Result<(Node, NodeTask)> {
    let (node, task) = node::start(NodeOptions {
        identity: Candidate { node: "bench".into(), ..Candidate::default() },
        store: place.open()?,
        acquaintance: chronos::node::Acquaintance::default(),
        heritage: None,
        engine,
        zones: Zones::bundled(),
        retention: Retention {
            age_max: Duration::from_secs(86_400),
            count_max: 1000,
            ..Retention::UNBOUNDED
        },
        output: engine::Keep::EVERYTHING,
        kill_grace: Duration::from_secs(1),
        disable_after_failures: 0,
        retry_delay: scheduler::job::Retry::DELAY,
        limits: scheduler::limits::Limits::default(),
        notifier: Arc::default(),
    });
    let leads = async {
        let mut status = node.watch_status();
        status.wait_for(|status| matches!(status.role, Role::Leading(_))).await.map(drop)
    };
    tokio::time::timeout(Duration::from_secs(60), leads).await.context("the node does not lead")??;
    Ok((node, task))
}

/// Follows the applied batches until so many launches were made durable; how many came after one of a later job.
async fn launches_in_order(node: Node, count: usize) -> usize {
    let mut events = node.projection.events();
    let (mut seen, mut last, mut disorder) = (0, JobUid(0), 0);
    while seen < count {
        let batch = match tokio::time::timeout(Duration::from_secs(60), events.recv()).await {
            Ok(Ok(batch)) => batch,
            // What was not seen cannot be called ordered.
            Ok(Err(RecvError::Lagged(_) | RecvError::Closed)) | Err(_) => return disorder + count - seen,
        };
        for change in &batch.changes {
            if let Change::PutRun(run) = change
                && matches!(run.state, RunState::Running(_))
            {
                seen += 1;
                disorder += usize::from(run.key.job < last);
                last = run.key.job;
            }
        }
    }
    disorder
}

fn whole_second(now: Timestamp, after: Duration) -> anyhow::Result<Timestamp> {
    Ok(Timestamp::from_second(now.checked_add(after)?.as_second() + 1)?)
}

fn until(at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default()
}

fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}
