//! The stores of several nodes, on real servers beside us: what one node sustains with them, how late it launches, and
//! how long nothing is launched while another takes over, after a word or without.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

use super::Bench;
use super::launching::{lags, rate_offered};
use super::population::{Place, definition_of, each_second, fill};
use super::serving::{Server, jobs};
use super::table::{Line, Target, percentile};

/// How long a leader that says nothing keeps the right to lead: the default of both stores.
const RIGHT: Duration = Duration::from_secs(10);
/// `tickTime` of the servers that `testing/zookeeper-local` starts: sessions end at whole ticks.
const TICK: Duration = Duration::from_millis(500);
/// What a new leader may take beside that.
const BESIDE: Duration = Duration::from_secs(2);
/// Leaders killed, and leaders told to end, for one line.
const TIMES: usize = 3;
/// Nothing here takes longer, or it has failed.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) async fn postgres(bench: &mut Bench) -> anyhow::Result<()> {
    let dir = bench.folder("postgres")?;
    let Some(keeper) = bench.keeper("postgres-local", &dir) else { return Ok(()) };
    let bare = store::postgres::commit_rate(&keeper.at, Duration::from_secs(3)).await?;
    let url = keeper.at.clone();
    let place = |name: &str| Place::Postgres { url: url.clone(), schema: name.replace('-', "_") };
    let cluster = Cluster { name: "PostgreSQL", dir, right: RIGHT, yardstick: ("bare commits/s", bare) };
    cluster.measure(bench, place).await?;
    let after = store::postgres::commit_rate(&keeper.at, Duration::from_secs(3)).await?;
    bench.tell(Line::new("PostgreSQL: bare commits of one row, after", after, "commits/s", Target::None));
    Ok(())
}

pub(crate) async fn zookeeper(bench: &mut Bench) -> anyhow::Result<()> {
    let dir = bench.folder("zookeeper")?;
    let Some(keeper) = bench.keeper("zookeeper-local", &dir) else { return Ok(()) };
    let bare = store::zookeeper::multi_rate(&keeper.at, Duration::from_secs(5)).await?;
    let hosts = keeper.at.clone();
    let place = |name: &str| Place::ZooKeeper { hosts: hosts.clone(), path: format!("/{name}/state") };
    let cluster = Cluster {
        name: "ZooKeeper",
        dir,
        right: RIGHT + TICK,
        yardstick: ("bare operations/s in multis of 512 KiB", bare),
    };
    cluster.measure(bench, place).await?;
    let after = store::zookeeper::multi_rate(&keeper.at, Duration::from_secs(5)).await?;
    let what = "ZooKeeper: bare operations in multis of 512 KiB, after";
    bench.tell(Line::new(what, after, "operations/s", Target::None));
    Ok(())
}

/// A store that several nodes share.
struct Cluster {
    name: &'static str,
    dir: PathBuf,
    /// After so long without a word another may lead.
    right: Duration,
    yardstick: (&'static str, f64),
}

impl Cluster {
    async fn measure(&self, bench: &mut Bench, place: impl Fn(&str) -> Place) -> anyhow::Result<()> {
        const OFFERED: u32 = 6000;
        let Self { name, .. } = self;
        let rate = rate_offered(&place("sustained"), OFFERED, Duration::from_secs(20)).await?;
        let what = format!("{name}: sustained launches, no-op engine, durable ({OFFERED} slots/s offered)");
        let line = Line::new(what, rate, "launches/s", Target::AtLeast(5000.0));
        bench.tell(line.beside(self.yardstick.0, self.yardstick.1));

        let lags = lags(&place("lag"), 1000, Duration::from_secs(30)).await?;
        let sync = 1000.0 / bench.machine.fdatasyncs;
        for (percent, target) in [(50, Target::None), (99, Target::AtMost(100.0)), (100, Target::None)] {
            let what = format!("{name}: lag due to launched at 1,000/s, p{percent}");
            let line = Line::new(what, percentile(&lags, percent), "ms", target);
            bench.tell(line.beside("one fdatasync, ms", sync));
        }

        self.fail_over(bench, &place("fail-over"), "fail-over", "").await?;
        for count in [100, 10_000, 100_000] {
            let place = place(&format!("jobs-{count}"));
            let begun = Instant::now();
            fill(&place, jobs(count)).await?;
            let made = count as f64 / begun.elapsed().as_secs_f64();
            let mut pair = self.pair(bench, &place, &format!("jobs-{count}")).await?;
            let what = |what: &str| format!("{name} with {} jobs: {what}", thousands(count));
            bench.tell(Line::new(what("made through the core and the store"), made, "jobs/s", Target::None));
            let load = pair.load.as_secs_f64();
            bench.tell(Line::new(what("cold start, until it leads"), load, "s", Target::None));
            let mut gaps = Vec::new();
            for _ in 0..TIMES {
                gaps.push(pair.hand_over().await?.as_secs_f64() * 1000.0);
            }
            gaps.sort_by(f64::total_cmp);
            let hand_over =
                what(&format!("planned hand-over, SIGTERM until the other leads, longest of {TIMES}"));
            bench.tell(Line::new(hand_over, percentile(&gaps, 100), "ms", Target::AtMost(500.0)));
        }
        // Those that are there now, and not due.
        self.fail_over(bench, &place("jobs-100000"), "fail-over-beside", " beside 100,000 jobs").await
    }

    /// Two servers, of which the second has caught up with the first.
    async fn pair<'a>(&self, bench: &Bench, place: &'a Place, name: &str) -> anyhow::Result<Pair<'a>> {
        let dirs = self.dir.join(name);
        let program = bench.program.clone();
        let begun = Instant::now();
        let leader = Server::start(&program, place, &dirs.join("0"))?;
        leader.leads().await?;
        let load = begun.elapsed();
        let standby = Server::start(&program, place, &dirs.join("1"))?;
        standby.stands_by().await?;
        Ok(Pair { program, place, dirs, started: 2, leader, standby, load })
    }

    /// Kills leaders, and tells the longest time until the other launched something.
    async fn fail_over(
        &self,
        bench: &mut Bench,
        place: &Place,
        folder: &str,
        beside: &str,
    ) -> anyhow::Result<()> {
        const JOBS: u32 = 20;
        let told = self.dir.join(format!("launched-{folder}"));
        std::fs::write(&told, "")?;
        let begin = Timestamp::now();
        let command = format!("echo $(date +%s%N) $PWD >>{}", told.display());
        let definitions = (0..JOBS).map(|n| {
            let schedule = each_second(begin, Duration::from_secs(1) * n / JOBS)?;
            definition_of(&format!("often-{n:02}"), &schedule, &command)
        });
        fill(place, definitions).await?;
        let mut pair = self.pair(bench, place, folder).await?;
        let mut longest: f64 = 0.0;
        for _ in 0..TIMES {
            // It works, and its successor knows.
            first_launch(&told, &pair.dir_of_leader(), SystemTime::now()).await?;
            pair.standby.stands_by().await?;
            let killed = SystemTime::now();
            pair.kill().await?;
            let launched = first_launch(&told, &pair.dir_of_leader(), killed).await?;
            longest = longest.max(launched.duration_since(killed)?.as_secs_f64());
        }
        let what =
            format!("{}: fail-over after kill -9 to the first launch{beside}, longest of {TIMES}", self.name);
        let most = (self.right + BESIDE).as_secs_f64();
        bench.tell(Line::new(what, longest, "s", Target::AtMost(most)));
        Ok(())
    }
}

/// Two servers on one store.
struct Pair<'a> {
    program: PathBuf,
    place: &'a Place,
    dirs: PathBuf,
    /// Servers so far; each has a folder of its own.
    started: usize,
    leader: Server,
    standby: Server,
    /// How long the first took to lead, from the start of its process.
    load: Duration,
}

impl Pair<'_> {
    fn dir_of_leader(&self) -> PathBuf {
        self.dirs.join((self.started - 2).to_string())
    }

    /// The leader is told to end; how long it takes until the other leads.
    async fn hand_over(&mut self) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        self.leader.terminate()?;
        self.standby.leads().await?;
        let gap = begun.elapsed();
        self.go_on().await?;
        Ok(gap)
    }

    /// The leader is killed, without a word.
    async fn kill(&mut self) -> anyhow::Result<()> {
        self.leader.kill();
        self.standby.leads().await?;
        self.go_on().await
    }

    /// The standby leads; another takes its place.
    async fn go_on(&mut self) -> anyhow::Result<()> {
        let next = Server::start(&self.program, self.place, &self.dirs.join(self.started.to_string()))?;
        self.started += 1;
        self.leader = std::mem::replace(&mut self.standby, next);
        self.standby.stands_by().await
    }
}

/// When a server with this data folder has first launched something after `after`.
async fn first_launch(told: &Path, dir: &Path, after: SystemTime) -> anyhow::Result<SystemTime> {
    let dir = dir.canonicalize()?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = std::fs::read_to_string(told)?;
        let times = text.lines().filter_map(|line| {
            let (nanos, folder) = line.split_once(' ')?;
            Path::new(folder).starts_with(&dir).then(|| nanos.parse::<u64>().ok())?
        });
        let times = times.map(|nanos| UNIX_EPOCH + Duration::from_nanos(nanos));
        if let Some(first) = times.filter(|at| *at > after).min() {
            return Ok(first);
        }
        anyhow::ensure!(Instant::now() < deadline, "nothing is launched in {}", dir.display());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn thousands(count: usize) -> String {
    if count < 1000 { count.to_string() } else { format!("{},{:03}", count / 1000, count % 1000) }
}
