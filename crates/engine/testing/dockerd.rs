//! A Docker Engine for tests, by `testing/docker-local`. Included by the tests that use one.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock};

/// A daemon of its own, which ends with this value or with the process.
pub(crate) struct Dockerd {
    host: String,
    /// Closed at the end, which the daemon's keeper takes as the order to end it.
    orders: Option<ChildStdin>,
    said: BufReader<ChildStdout>,
    keeper: Child,
    _folder: tempfile::TempDir,
}

impl Dockerd {
    /// Starts one; or why it cannot run here.
    pub(crate) fn start() -> Result<Self, String> {
        let folder =
            tempfile::Builder::new().prefix("chronos-docker-").tempdir().map_err(|e| e.to_string())?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testing/docker-local");
        let mut command = Command::new(script);
        command.arg(folder.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut keeper = command.spawn().map_err(|e| e.to_string())?;
        let orders = keeper.stdin.take();
        let said = BufReader::new(keeper.stdout.take().expect("piped"));
        let mut this = Self { host: String::new(), orders, said, keeper, _folder: folder };
        this.host = this.listening()?;
        Ok(this)
    }

    /// What it says next: where it listens, or why not.
    fn listening(&mut self) -> Result<String, String> {
        let mut line = String::new();
        self.said.read_line(&mut line).map_err(|e| e.to_string())?;
        match line.trim().split_once(' ') {
            Some(("listening", host)) => Ok(host.into()),
            Some((_, reason)) => Err(reason.into()),
            None => Err("dockerd does not start here".into()),
        }
    }

    /// `unix://...`, of a daemon that has an image `chronos-test`.
    pub(crate) fn host(&self) -> String {
        self.host.clone()
    }

    /// Kills the daemon.
    #[allow(dead_code, clippy::allow_attributes, reason = "not by all who include this")]
    pub(crate) fn kill(&mut self) {
        let mut orders = self.orders.as_ref().expect("it was not ended");
        orders.write_all(b"kill\n").expect("its keeper lives");
        let mut line = String::new();
        self.said.read_line(&mut line).expect("its keeper speaks text");
        assert!(line.starts_with("killed"), "{line}");
    }

    /// Starts the daemon that was killed.
    #[allow(dead_code, clippy::allow_attributes, reason = "not by all who include this")]
    pub(crate) fn start_again(&mut self) {
        let mut orders = self.orders.as_ref().expect("it was not ended");
        orders.write_all(b"start\n").expect("its keeper lives");
        self.listening().expect("it starts again");
    }
}

impl Dockerd {
    /// Starts registries of the same images beside it: one for all, one with a password.
    #[allow(dead_code, clippy::allow_attributes, reason = "not by all who include this")]
    pub(crate) fn registries(&mut self) -> Result<[String; 2], String> {
        let mut orders = self.orders.as_ref().expect("it was not ended");
        orders.write_all(b"registry\n").expect("its keeper lives");
        let said = self.listening()?;
        let (open, closed) = said.split_once(' ').ok_or("it does not say where")?;
        Ok([open.into(), closed.into()])
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ = self.keeper.wait();
    }
}

/// The one that the tests of a process share, started by the first who asks; or why there is none.
pub(crate) fn shared() -> Result<String, String> {
    static SHARED: OnceLock<Mutex<Result<Dockerd, String>>> = OnceLock::new();
    let shared = SHARED.get_or_init(|| Mutex::new(Dockerd::start()));
    let shared = shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    shared.as_ref().map(Dockerd::host).map_err(Clone::clone)
}

/// The command line of Docker, for looks from outside. Its output.
#[allow(dead_code, clippy::allow_attributes, reason = "not by all who include this")]
pub(crate) fn docker(host: &str, args: &[&str]) -> String {
    let output = Command::new("docker").arg("-H").arg(host).args(args).output().expect("docker is here");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
