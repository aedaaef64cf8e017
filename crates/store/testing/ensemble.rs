//! A ZooKeeper ensemble for tests, by `testing/zookeeper-local`. Included by the tests that use one.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Three servers of their own, which end with this value or with the process.
pub(crate) struct Ensemble {
    hosts: String,
    /// Closed at the end, which the servers' keeper takes as the order to end them.
    orders: Option<ChildStdin>,
    said: BufReader<ChildStdout>,
    keeper: Child,
    _folder: tempfile::TempDir,
}

impl Ensemble {
    /// Starts one; or why it cannot run here.
    pub(crate) fn start() -> Result<Self, String> {
        let folder =
            tempfile::Builder::new().prefix("chronos-zookeeper-").tempdir().map_err(|e| e.to_string())?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testing/zookeeper-local/run");
        let mut command = Command::new(script);
        // All of it, as its keeper removes it: one that a process shares is never dropped.
        command.arg(folder.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut keeper = command.spawn().map_err(|e| e.to_string())?;
        let orders = keeper.stdin.take();
        let said = BufReader::new(keeper.stdout.take().expect("piped"));
        let mut this = Self { hosts: String::new(), orders, said, keeper, _folder: folder };
        let line = this.line();
        match line.split_once(' ') {
            Some(("listening", hosts)) => this.hosts = hosts.into(),
            Some((_, reason)) => return Err(reason.into()),
            None => return Err("zookeeper does not start here".into()),
        }
        Ok(this)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).expect("its keeper speaks text");
        line.trim().into()
    }

    /// `host:port` of each server, with commas between them.
    pub(crate) fn hosts(&self) -> String {
        self.hosts.clone()
    }

    /// Gives an order, see the script; returns when it has come true, with what there is to say.
    #[allow(dead_code, clippy::allow_attributes, reason = "not by all who include this")]
    pub(crate) fn order(&mut self, order: &str) -> String {
        let orders = self.orders.as_mut().expect("it was not ended");
        writeln!(orders, "{order}").expect("its keeper lives");
        let answer = self.line();
        let said = answer.strip_prefix("done");
        said.unwrap_or_else(|| panic!("{order}: {answer}")).trim().into()
    }
}

impl Drop for Ensemble {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ = self.keeper.wait();
    }
}

/// The one that the tests of a process share, started by the first who asks; or why there is none.
pub(crate) fn shared() -> Result<String, String> {
    static SHARED: OnceLock<Mutex<Result<Ensemble, String>>> = OnceLock::new();
    let shared = SHARED.get_or_init(|| Mutex::new(Ensemble::start()));
    let shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
    shared.as_ref().map(Ensemble::hosts).map_err(Clone::clone)
}

/// Whether its servers are of Debian's version, which can lose what it has acknowledged.
#[allow(dead_code, clippy::allow_attributes, reason = "not by all who include this")]
pub(crate) fn is_old() -> bool {
    std::env::var("ZOOKEEPER_LOCAL_VERSION").unwrap_or_else(|_| "debian".into()) == "debian"
}

/// Says that a suite cannot run here.
pub(crate) fn skip(suite: &str, reason: &str) {
    let line = format!("SKIPPED {suite}: {reason}\n");
    let done = match std::env::var_os("CHRONOS_SKIPS") {
        Some(file) => std::fs::File::options()
            .append(true)
            .create(true)
            .open(file)
            .and_then(|mut file| file.write_all(line.as_bytes())),
        None => std::io::stderr().write_all(line.as_bytes()),
    };
    done.expect("a skipped suite is told");
}
