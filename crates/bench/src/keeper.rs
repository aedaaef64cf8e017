//! Real servers of the stores of several nodes, started by the project's own scripts in `testing/`.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::Context;

/// What a server of ZooKeeper needs for 100,000 jobs with their history: with the 128 MB of the tests it dies of 5,000
/// launches a second.
const ZOOKEEPER_HEAP: &str = "-Xmx1g";

/// Servers of a store, which end with this value or with the process.
pub(crate) struct Keeper {
    /// Where they listen.
    pub(crate) at: String,
    /// Closed at the end, which the keeper takes as the order to end them.
    orders: Option<ChildStdin>,
    keeper: Child,
}

impl Keeper {
    /// Starts them in a folder of their own in `dir`, by the script of this name; or says why that cannot be here.
    pub(crate) fn start(script: &str, dir: &Path) -> anyhow::Result<Self> {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testing").join(script).join("run");
        let mut keeper = Command::new(&program)
            .arg(dir.join("servers"))
            .env("ZOOKEEPER_LOCAL_SYNC", "yes")
            .env("ZOOKEEPER_LOCAL_JVM", ZOOKEEPER_HEAP)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("`{}` cannot be run", program.display()))?;
        let orders = keeper.stdin.take();
        let mut line = String::new();
        let mut said = BufReader::new(keeper.stdout.take().context("it is piped")?);
        said.read_line(&mut line)?;
        // It says nothing more unless it is asked, and is not.
        std::thread::spawn(move || said.read_to_end(&mut Vec::new()));
        let this =
            Self { at: line.trim().strip_prefix("listening ").unwrap_or_default().into(), orders, keeper };
        anyhow::ensure!(!this.at.is_empty(), "{script}: {}", line.trim().trim_start_matches("cannot "));
        Ok(this)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ = self.keeper.wait();
    }
}
