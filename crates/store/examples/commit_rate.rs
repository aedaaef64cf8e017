//! How many launches a second a store can make durable, beside what the disk can do.
//!
//! `cargo run --release -p store --example commit_rate -- [jobs] [launches per batch] [seconds] [folder]`
//! `cargo run --release -p store --features postgres --example commit_rate -- postgres URL [jobs] [..] [seconds]`
//! `cargo run --release -p store --features zookeeper --example commit_rate -- zookeeper HOSTS [jobs] [..] [seconds]`
//!
//! A launch is five changes in two batches: progress and run, then the run's end, its record and progress. Batches
//! are encoded by the caller and at most 8 are in flight, as with the driver.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use scheduler::ids::{JobUid, RunKey, Seq, TaskId};
use scheduler::job::Progress;
use scheduler::run::{Attempt, AttemptEnd, EndedRun, Live, Outcome, Record, Run, RunState};
use scheduler::schedule::{Nominal, Slot};
use scheduler::state::Change;
use store::sqlite::{SqliteOptions, SqliteStore};
use store::{Candidate, HistoryQuery, OutcomeKind, Store, samples};

const IN_FLIGHT_MAX: usize = 8;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let kind = arguments.first().filter(|kind| ["postgres", "zookeeper"].contains(&&***kind)).cloned();
    let url = kind.as_ref().map(|kind| {
        assert!(arguments.len() > 1, "{kind} URL");
        arguments.drain(..2).nth(1).expect("there are two")
    });
    let number =
        |n: usize, default: u64| arguments.get(n).map_or(default, |text| text.parse().expect("a number"));
    let (jobs, per_batch, seconds) = (number(0, 100_000), number(1, 250), number(2, 10));
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let dir = arguments.get(3).map_or(temporary.path().to_owned(), Into::into);
    println!("disk: {:.0} fdatasync/s of 4 KiB each, before", fdatasync_rate(&dir));

    let place = match url {
        None => Place::Folder(dir.clone()),
        Some(hosts) if kind.as_deref() == Some("zookeeper") => Place::ensemble(&hosts),
        Some(url) => Place::database(&url),
    };
    let store = place.open();
    let term = store.begin_term(&Candidate::default()).await.expect("nobody leads");
    let mut bench =
        Bench { store: store.clone(), term, next: term.seq.0 + 1, calls: tokio::task::JoinSet::new() };

    let begun = Instant::now();
    for first in (1..=jobs).step_by(500) {
        let uids = first..(first + 500).min(jobs + 1);
        bench.commit(uids.flat_map(|uid| [put_job(uid), progress(uid, 0)]).collect()).await;
    }
    bench.settle().await;
    println!("import: {:.0} jobs/s", jobs as f64 / begun.elapsed().as_secs_f64());

    let (begun, used) = (Instant::now(), processor_time());
    let mut launches = 0;
    let mut latencies = Vec::new();
    while begun.elapsed() < Duration::from_secs(seconds) {
        // A stride that is no divisor spreads the jobs over all pages.
        let due: Vec<(u64, u64)> =
            (launches..launches + per_batch).map(|n| (n * 7919 % jobs + 1, n)).collect();
        let asked = Instant::now();
        bench.commit(due.iter().flat_map(|(uid, n)| launch(*uid, *n)).collect()).await;
        bench.commit(due.iter().flat_map(|(uid, n)| end(*uid, *n)).collect()).await;
        latencies.push(asked.elapsed());
        launches += per_batch;
    }
    bench.settle().await;
    let time = begun.elapsed().as_secs_f64();
    latencies.sort();
    println!(
        "commit: {:.0} launches/s, {:.0} changes/s",
        launches as f64 / time,
        launches as f64 * 5.0 / time
    );
    println!("  processor: {:.1} µs a launch", (processor_time() - used) * 1e6 / launches as f64);
    println!(
        "  waiting for room in flight: p50 {:?}, p99 {:?}",
        percentile(&latencies, 50),
        percentile(&latencies, 99)
    );

    one_at_a_time(&mut bench, jobs).await;
    at_a_thousand(&mut bench, jobs, seconds).await;
    println!("disk: {:.0} fdatasync/s of 4 KiB each, after", fdatasync_rate(&dir));
    for query in [
        HistoryQuery::default(),
        HistoryQuery { outcomes: vec![OutcomeKind::Failed], ..HistoryQuery::default() },
        HistoryQuery { job: Some(JobUid(7)), ..HistoryQuery::default() },
    ] {
        let begun = Instant::now();
        let page = store.history(&query).await.expect("history can be read");
        println!("history: {} records in {:?} ({query:?})", page.records.len(), begun.elapsed());
    }
    store.resign().await;
    drop(bench);
    drop(store);

    let (begun, used) = (Instant::now(), processor_time());
    let store = place.open();
    store.begin_term(&Candidate::default()).await.expect("nobody leads");
    let (state, _) = store.load().await.expect("it can be loaded");
    let (time, used) = (begun.elapsed(), processor_time() - used);
    println!(
        "cold start: {} jobs in {time:?}, {used:.1} s of processor, {} MiB resident",
        state.jobs.len(),
        resident()
    );
    let begun = Instant::now();
    let last = store.last_runs().await.expect("it can be read").len();
    println!("last runs: {last} in {:?}", begun.elapsed());
}

/// Batches of one launch each, one after the other: what a lone job waits.
async fn one_at_a_time(bench: &mut Bench, jobs: u64) {
    let mut latencies = Vec::new();
    for n in 0..500 {
        let asked = Instant::now();
        bench.commit(launch(n % jobs + 1, 1_000_000_000 + n)).await;
        bench.settle().await;
        latencies.push(asked.elapsed());
        bench.commit(end(n % jobs + 1, 1_000_000_000 + n)).await;
        bench.settle().await;
    }
    latencies.sort();
    println!("alone: p50 {:?}, p99 {:?}", percentile(&latencies, 50), percentile(&latencies, 99));
}

/// A thousand launches a second, five every 5 ms: how long each waits until it is durable.
async fn at_a_thousand(bench: &mut Bench, jobs: u64, seconds: u64) {
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    let mut calls = tokio::task::JoinSet::new();
    for tick in 0..seconds * 200 {
        ticks.tick().await;
        let asked = Instant::now();
        let due: Vec<(u64, u64)> =
            (0..5).map(|n| 2_000_000_000 + tick * 5 + n).map(|n| (n * 7919 % jobs + 1, n)).collect();
        let mut changes: Vec<Change> = due.iter().flat_map(|(uid, n)| launch(*uid, *n)).collect();
        // What was launched 100 ms ago ends now.
        let past = due.iter().map(|(_, n)| n - 100).filter(|n| *n >= 2_000_000_000);
        changes.extend(past.flat_map(|n| end(n * 7919 % jobs + 1, n)));
        let (store, epoch, seq) = (bench.store.clone(), bench.term.epoch, Seq(bench.next));
        bench.next += 1;
        calls.spawn(async move {
            store.commit(epoch, seq, &changes).await.expect("this node leads");
            asked.elapsed()
        });
    }
    let mut latencies = calls.join_all().await;
    latencies.sort();
    println!(
        "at 1,000 launches/s: p50 {:?}, p99 {:?}",
        percentile(&latencies, 50),
        percentile(&latencies, 99)
    );
}

struct Bench {
    store: Arc<dyn Store>,
    term: store::Term,
    next: u64,
    calls: tokio::task::JoinSet<()>,
}

impl Bench {
    async fn commit(&mut self, changes: Vec<Change>) {
        while self.calls.len() >= IN_FLIGHT_MAX {
            self.calls.join_next().await.expect("there are some").expect("it is applied");
        }
        let (store, epoch, seq) = (self.store.clone(), self.term.epoch, Seq(self.next));
        self.next += 1;
        self.calls.spawn(async move { store.commit(epoch, seq, &changes).await.expect("this node leads") });
        tokio::task::yield_now().await;
    }

    async fn settle(&mut self) {
        while let Some(done) = self.calls.join_next().await {
            done.expect("it is applied");
        }
    }
}

/// Where the store is.
enum Place {
    Folder(PathBuf),
    #[cfg(feature = "postgres")]
    Database(store::postgres::PostgresOptions),
    #[cfg(feature = "zookeeper")]
    Ensemble(store::zookeeper::Options),
}

impl Place {
    #[cfg(feature = "postgres")]
    fn database(url: &str) -> Self {
        // A schema of its own, which stays for those who want to look at it.
        let schema = format!("commit_rate_{}", std::process::id());
        println!("schema: {schema}");
        Self::Database(store::postgres::PostgresOptions {
            schema,
            ..store::postgres::PostgresOptions::new(url)
        })
    }

    #[cfg(not(feature = "postgres"))]
    fn database(_: &str) -> Self {
        panic!("built without PostgreSQL: give cargo `--features postgres`")
    }

    #[cfg(feature = "zookeeper")]
    fn ensemble(hosts: &str) -> Self {
        // A path of its own, which stays likewise.
        let path = format!("/commit-rate-{}/state", std::process::id());
        println!("path: {path}");
        Self::Ensemble(store::zookeeper::Options { path, ..store::zookeeper::Options::new(hosts) })
    }

    #[cfg(not(feature = "zookeeper"))]
    fn ensemble(_: &str) -> Self {
        panic!("built without ZooKeeper: give cargo `--features zookeeper`")
    }

    fn open(&self) -> Arc<dyn Store> {
        match self {
            Self::Folder(dir) => {
                let options = SqliteOptions { dir: dir.clone(), force_network_fs: false };
                Arc::new(SqliteStore::open(&options).expect("a local folder"))
            }
            #[cfg(feature = "postgres")]
            Self::Database(options) => Arc::new(store::postgres::open(options).expect("a good URL")),
            #[cfg(feature = "zookeeper")]
            Self::Ensemble(options) => {
                Arc::new(store::zookeeper::open(options.clone()).expect("they can be meant"))
            }
        }
    }
}

fn put_job(uid: u64) -> Change {
    let mut job = samples::job(uid);
    job.body = format!(
        r#"{{"command":"/usr/bin/report --customer {uid}","owner":"ops@example.com","description":"{}"}}"#,
        "x".repeat(220)
    )
    .into();
    Change::PutJob(Arc::new(job))
}

fn progress(uid: u64, n: u64) -> Change {
    let mut progress = Progress::new(samples::at(0));
    let slot = |k: u64| Slot { nominal: Nominal::Index(k), due: samples::at(k.cast_signed() * 1000) };
    (progress.mark, progress.next, progress.successes) = (Some(slot(n)), Some(slot(n + 1)), n);
    progress.last_success = Some(samples::at(n.cast_signed()).into());
    Change::PutProgress(JobUid(uid), Arc::new(progress))
}

fn launch(uid: u64, n: u64) -> Vec<Change> {
    let mut run: Run = samples::run(uid, n);
    run.state = RunState::Running(Live {
        attempt: 0,
        task: TaskId::of(&run.job, run.key, 0),
        launched: run.due,
        node: "node-7f3a".into(),
        started: None,
        unknown_since: None,
        kill: None,
        elements: 0,
    });
    vec![progress(uid, n), Change::PutRun(Arc::new(run))]
}

fn end(uid: u64, n: u64) -> Vec<Change> {
    let Run { key, job, cycle, due, created, .. } = samples::run(uid, n);
    let attempt = Attempt {
        number: 0,
        launched: due,
        started: Some(due),
        ended: due,
        node: "node-7f3a".into(),
        end: AttemptEnd::Succeeded,
        elements: 0,
    };
    let outcome = if n.is_multiple_of(1000) { Outcome::Failed } else { Outcome::Succeeded };
    let record = EndedRun {
        key,
        job,
        cycle,
        due,
        created,
        ended: due,
        outcome,
        arguments: None,
        attempts: vec![attempt],
    };
    let key: RunKey = record.key;
    vec![Change::RemoveRun(key), Change::Append(Arc::new(Record::Run(record))), progress(uid, n)]
}

/// What the disk does with nothing in between: the yardstick for all other figures of the run.
fn fdatasync_rate(dir: &Path) -> f64 {
    let path = dir.join("yardstick");
    let mut file = File::create(&path).expect("a file can be made");
    let begun = Instant::now();
    let mut count = 0;
    while begun.elapsed() < Duration::from_secs(1) {
        file.write_all(&[0x5a; 4096]).expect("it can be written");
        file.sync_data().expect("it can be synced");
        count += 1;
    }
    let rate = f64::from(count) / begun.elapsed().as_secs_f64();
    std::fs::remove_file(path).expect("it can be removed");
    rate
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() - 1) * percent / 100]
}

/// Seconds of processor time so far: what a figure would be without the neighbours of a busy machine.
fn processor_time() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    // utime and stime, in hundredths of a second.
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}
