//! The real server on folders of real size: how long a start takes, what memory it holds, how fast the API answers,
//! and how long nobody leads while one server hands over to another.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use reqwest::{Client, StatusCode};
use tokio::task::JoinSet;

use super::Bench;
use super::population::{Place, definition, document, far_away, fill};
use super::table::{Line, Target, percentile};

/// Nothing here takes longer, or it has failed.
const PATIENCE: Duration = Duration::from_secs(120);
/// After a start memory settles, and what begins later has begun.
const SETTLE: Duration = Duration::from_secs(3);

/// A small installation with nothing to do, and its successor.
pub(crate) async fn small(bench: &mut Bench) -> anyhow::Result<()> {
    const JOBS: usize = 1000;
    let dir = bench.folder("small")?;
    let place = Place::Folder(dir.clone());
    fill(&place, jobs(JOBS)).await?;
    let first = Server::start(&bench.program, &place, &dir)?;
    first.leads().await?;
    tokio::time::sleep(SETTLE).await;
    bench.small_resident = first.resident()?;
    let memory = bench.small_resident / 1024.0 / 1024.0;
    bench.tell(Line::new("idle footprint, 1,000 jobs", memory, "MiB resident", Target::AtMost(20.0)));

    let second = Server::start(&bench.program, &place, &dir)?;
    second.answers("/ping").await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let begun = Instant::now();
    first.terminate()?;
    second.leads().await?;
    let gap = begun.elapsed().as_secs_f64() * 1000.0;
    bench.tell(Line::new(
        "planned hand-over, SIGTERM until the other leads",
        gap,
        "ms",
        Target::AtMost(500.0),
    ));
    Ok(())
}

/// A million jobs.
pub(crate) async fn large(bench: &mut Bench) -> anyhow::Result<()> {
    const JOBS: usize = 1_000_000;
    let dir = bench.folder("large")?;
    let place = Place::Folder(dir.clone());
    let begun = Instant::now();
    fill(&place, jobs(JOBS)).await?;
    let rate = JOBS as f64 / begun.elapsed().as_secs_f64();
    bench.tell(Line::new("a million jobs made through the core and the store", rate, "jobs/s", Target::None));
    let begun = Instant::now();
    let server = Server::start(&bench.program, &place, &dir)?;
    server.leads().await?;
    let time = begun.elapsed().as_secs_f64();
    bench.tell(Line::new("cold start with 1,000,000 jobs, until it leads", time, "s", Target::AtMost(10.0)));
    tokio::time::sleep(SETTLE).await;
    let resident = server.resident()?;
    let each = (resident - bench.small_resident) / JOBS as f64;
    bench.tell(Line::new("memory of one of 1,000,000 jobs", each, "bytes", Target::AtMost(1024.0)));
    Ok(())
}

/// The API with many jobs.
pub(crate) async fn api(bench: &mut Bench) -> anyhow::Result<()> {
    const JOBS: usize = 100_000;
    let dir = bench.folder("api")?;
    let place = Place::Folder(dir.clone());
    fill(&place, jobs(JOBS)).await?;
    let server = Server::start(&bench.program, &place, &dir)?;
    server.leads().await?;
    let questions = [
        ("page in the middle", "/v1/jobs?cursor=job-0050000&limit=100"),
        ("page sorted by next slot", "/v1/jobs?sort=next&limit=100"),
        (
            "last names first, in the middle",
            "/v1/jobs?sort=-name&limit=100&cursor=-name~=job-0050000~job-0050000",
        ),
        (
            "page by state, sorted by last outcome",
            "/v1/jobs?state=enabled&kind=schedule&sort=lastOutcome&limit=100",
        ),
        ("page of a label, of which there is none", "/v1/jobs?label=team%3Detl&sort=-lastSuccess&limit=100"),
        ("one job", "/v1/jobs/job-0050000"),
        ("one job as of old", "/v1/scheduler/job/job-0050000"),
        ("search", "/v1/jobs?search=77777&limit=100"),
        ("search, sorted by next slot", "/v1/jobs?search=7777&sort=-next&limit=100"),
        ("next slots of the fleet", "/v1/next?limit=100"),
        ("forecast of an hour of the fleet", "/v1/forecast?hours=1"),
        ("graph of one job", "/v1/graph?job=job-0050000"),
        ("search as of old", "/v1/scheduler/jobs/search?name=77777"),
    ];
    for (what, path) in questions {
        let mut times = Vec::new();
        for _ in 0..50 {
            let begun = Instant::now();
            server.answers(path).await?;
            times.push(begun.elapsed().as_secs_f64() * 1000.0);
        }
        times.sort_by(f64::total_cmp);
        let what = format!("API with 100,000 jobs: {what}, p99");
        bench.tell(Line::new(what, percentile(&times, 99), "ms", Target::AtMost(50.0)));
    }
    let times = server.create(1000, Duration::from_secs(10)).await?;
    let sync = 1000.0 / bench.machine.fdatasyncs;
    let line = |percent, target| {
        let what = format!("API with 100,000 jobs: create at 1,000/s, p{percent}");
        Line::new(what, percentile(&times, percent), "ms", target).beside("one fdatasync, ms", sync)
    };
    bench.tell(line(50, Target::None));
    bench.tell(line(99, Target::AtMost(10.0)));
    Ok(())
}

pub(crate) fn jobs(count: usize) -> impl Iterator<Item = anyhow::Result<scheduler::request::Definition>> {
    (0..count).map(|n| definition(&format!("job-{n:07}"), &far_away(n)))
}

/// A running server; killed when dropped, its supervisor too.
pub(crate) struct Server {
    child: Child,
    pub(crate) url: String,
    http: Client,
}

impl Server {
    /// Its tasks are in `dir`.
    pub(crate) fn start(program: &Path, place: &Place, dir: &Path) -> anyhow::Result<Self> {
        Self::start_with(program, place, dir, &[])
    }

    /// The same, with more flags.
    pub(crate) fn start_with(
        program: &Path,
        place: &Place,
        dir: &Path,
        flags: &[&str],
    ) -> anyhow::Result<Self> {
        let mut child = Command::new(program)
            .args(["server", "--http_port", "0", "--log_level", "warn"])
            .args(place.flags(dir))
            .args(flags)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("it is piped")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let url = line.trim().strip_prefix("listening on ").context("the server did not start")?;
        Ok(Self { child, url: url.into(), http: Client::builder().no_proxy().build()? })
    }

    pub(crate) async fn leads(&self) -> anyhow::Result<()> {
        self.is("leading").await
    }

    /// And has read the store itself: until then it hands reads on to the leader, and is ready all the same.
    pub(crate) async fn stands_by(&self) -> anyhow::Result<()> {
        self.is("standby").await?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ping = self.http.get(format!("{}/ping", self.url)).send().await?;
            if ping.headers().contains_key("x-chronos-age-ms") {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < deadline, "the standby does not read the store");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn is(&self, role: &str) -> anyhow::Result<()> {
        let wanted = format!(r#""role":"{role}""#);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ready = self.http.get(format!("{}/ready", self.url)).send().await;
            if let Ok(ready) = ready
                && ready.status() == StatusCode::OK
                && ready.text().await?.contains(&wanted)
            {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < deadline, "the server is not {role}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(crate) async fn answers(&self, path: &str) -> anyhow::Result<()> {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await?.error_for_status()?;
        answer.bytes().await?;
        Ok(())
    }

    pub(crate) async fn json(&self, path: &str) -> anyhow::Result<serde_json::Value> {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await?.error_for_status()?;
        Ok(answer.json().await?)
    }

    pub(crate) async fn post(&self, path: &str, body: String) -> anyhow::Result<()> {
        let request =
            self.http.post(format!("{}{path}", self.url)).header("content-type", "application/json");
        request.body(body).send().await?.error_for_status()?;
        Ok(())
    }

    /// Starts so many runs of a job, some requests beside each other.
    pub(crate) async fn start_runs(&self, job: &str, count: usize) -> anyhow::Result<()> {
        const AT_ONCE: usize = 8;
        let mut asking = JoinSet::new();
        for n in 0..count {
            if n >= AT_ONCE {
                asking.join_next().await.context("one is on its way")???;
            }
            let request = self.http.put(format!("{}/v1/scheduler/job/{job}", self.url));
            asking.spawn(async move { request.send().await?.error_for_status() });
        }
        asking.join_all().await.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(())
    }

    /// Every run has ended.
    pub(crate) async fn no_run_is_open(&self, patience: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        while self.json("/v1/runs?outcome=live&limit=1").await?["runs"]
            .as_array()
            .is_none_or(|runs| !runs.is_empty())
        {
            anyhow::ensure!(Instant::now() < deadline, "runs are open after {patience:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Creates so many jobs a second for so long; how long each answer took from when it was due to be asked for, in
    /// milliseconds, sorted: a client that is held up does not hide it.
    async fn create(&self, rate: u32, time: Duration) -> anyhow::Result<Vec<f64>> {
        let mut answers = JoinSet::new();
        let begun = tokio::time::Instant::now();
        for n in 0..rate * u32::try_from(time.as_secs())? {
            let at = begun + Duration::from_secs(1) * n / rate;
            tokio::time::sleep_until(at).await;
            let name = format!("new-{n:06}");
            let body = document(&name, &far_away(n as usize));
            let request = self.http.post(format!("{}/v1/scheduler/iso8601", self.url));
            let request = request.header("content-type", "application/json").body(body);
            answers.spawn(async move {
                request.send().await?.error_for_status()?;
                Ok::<_, reqwest::Error>(at.elapsed().as_secs_f64() * 1000.0)
            });
        }
        let mut times = answers.join_all().await.into_iter().collect::<Result<Vec<f64>, _>>()?;
        times.sort_by(f64::total_cmp);
        Ok(times)
    }

    /// Bytes of memory that the server holds.
    pub(crate) fn resident(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()).context("a process has memory")?;
        Ok(kib.parse::<f64>()? * 1024.0)
    }

    pub(crate) fn terminate(&self) -> anyhow::Result<()> {
        // Every shell has it built in; a small Debian has no program of that name.
        let told = Command::new("sh").args(["-c", "kill -TERM $0", &self.child.id().to_string()]).status()?;
        anyhow::ensure!(told.success(), "the server cannot be told to end");
        Ok(())
    }
}

impl Server {
    /// Without a word to it.
    pub(crate) fn kill(&mut self) {
        // It may have ended already, as it was told.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
