//! Every line of the project's targets that one machine can show, measured on the release build, with the
//! target and the machine's raw limits of the same run beside it.
//!
//! `make bench`, or with some of its parts `make bench ARGS='lag api'`. `CHRONOS_BENCH_DIR` names a folder on the disk to be measured; a temporary one otherwise.
//!
//! A figure alone says little: read the ratios.

mod clusters;
mod keeper;
mod launching;
mod machine;
mod matching;
mod mesos;
mod noop;
mod population;
mod processes;
mod serving;
mod table;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use keeper::Keeper;
use machine::Machine;
use table::Line;

const PARTS: [&str; 11] = [
    "sustained",
    "lag",
    "herd",
    "processes",
    "small",
    "large",
    "api",
    "mesos-matching",
    "mesos",
    "postgres",
    "zookeeper",
];

/// What the parts of a run share.
pub(crate) struct Bench {
    dir: tempfile::TempDir,
    /// This very program, which is the product where it is called as that.
    pub(crate) program: PathBuf,
    pub(crate) machine: Machine,
    lines: Vec<Line>,
    /// Bytes of memory of a server with few jobs; 0 where that was not measured.
    pub(crate) small_resident: f64,
}

impl Bench {
    /// A folder for one part.
    pub(crate) fn folder(&self, name: &str) -> anyhow::Result<PathBuf> {
        let folder = self.dir.path().join(name);
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// Servers of a store, started by the script of this name; what cannot run here is said, and the rest goes on.
    pub(crate) fn keeper(&self, script: &str, dir: &Path) -> Option<Keeper> {
        match Keeper::start(script, dir) {
            Ok(keeper) => Some(keeper),
            Err(reason) => {
                println!("SKIPPED {reason:#}");
                None
            }
        }
    }

    pub(crate) fn tell(&mut self, line: Line) {
        eprintln!("  {}", line.short());
        self.lines.push(line);
    }
}

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    // The product is a library with a line of `main`: with its words this program is the server and the supervisor
    // that are measured, from the same build.
    if wanted.first().is_some_and(|word| ["server", "supervise"].contains(&word.as_str())) {
        return chronos::cli::main();
    }
    match measure(&wanted) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(wanted: &[String]) -> anyhow::Result<()> {
    if let Some(unknown) = wanted.iter().find(|word| !PARTS.contains(&word.as_str())) {
        anyhow::bail!("there is no part `{unknown}`; there are {}", PARTS.join(", "));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(wanted))
}

async fn run(wanted: &[String]) -> anyhow::Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default(); // Nobody else has.
    let program = std::env::current_exe()?;
    let parent = std::env::var_os("CHRONOS_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::Builder::new().prefix("chronos-bench-").tempdir_in(parent)?;
    // A database may run as another user, who has to get to its folder.
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
    println!("{}", machine::description(dir.path()));
    let machine = Machine::measure(dir.path())?;
    println!("before: {}", machine.text());
    let mut bench = Bench { dir, program, machine, lines: Vec::new(), small_resident: 0.0 };
    for part in PARTS {
        if !wanted.is_empty() && !wanted.iter().any(|word| word == part) {
            continue;
        }
        eprintln!("{part} ...");
        match part {
            "sustained" => launching::sustained(&mut bench).await?,
            "lag" => launching::lag(&mut bench).await?,
            "herd" => launching::herd(&mut bench).await?,
            "processes" => processes::rate(&mut bench).await?,
            "small" => serving::small(&mut bench).await?,
            "large" => serving::large(&mut bench).await?,
            "mesos" => mesos::rate(&mut bench).await?,
            "mesos-matching" => matching::cycles(&mut bench)?,
            "api" => serving::api(&mut bench).await?,
            "postgres" => clusters::postgres(&mut bench).await?,
            _ => clusters::zookeeper(&mut bench).await?,
        }
    }
    println!("after: {}", Machine::measure(bench.dir.path())?.text());
    println!("\n{}", table::text(&bench.lines));
    Ok(())
}
