//! What the machine is, and what it can do with nothing of ours in between.

use std::path::Path;
use std::time::Duration;

/// A second or two of each, at the begin and at the end of a run.
const TIME: Duration = Duration::from_secs(2);

/// The raw limits.
#[derive(Clone, Copy)]
pub(crate) struct Machine {
    /// A second, of 4 KiB each, one after the other.
    pub(crate) fdatasyncs: f64,
    /// A second, of one row each, one after the other.
    pub(crate) sqlite_commits: f64,
    /// Processes a second, 64 at once.
    pub(crate) spawns: f64,
}

impl Machine {
    pub(crate) fn measure(dir: &Path) -> std::io::Result<Self> {
        Ok(Self {
            fdatasyncs: store::yardstick::fdatasync_rate(dir, TIME)?,
            sqlite_commits: store::yardstick::sqlite_commit_rate(dir, TIME)?,
            spawns: engine::yardstick::spawn_rate(Path::new("/bin/true"), 64, TIME)?,
        })
    }

    pub(crate) fn text(&self) -> String {
        let Self { fdatasyncs, sqlite_commits, spawns } = self;
        format!(
            "{fdatasyncs:.0} fdatasync/s, {sqlite_commits:.0} SQLite commits/s, {spawns:.0} posix_spawn/s"
        )
    }
}

/// In words: cores, memory, kernel, what else is going on.
pub(crate) fn description(dir: &Path) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = read("/proc/meminfo");
    let total = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let gib =
        total.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0) / 1048576.0;
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    format!(
        "{cores} cores, {gib:.0} GiB of memory, Linux {}, data in {}, load {load} at the start",
        kernel.trim(),
        dir.display()
    )
}
