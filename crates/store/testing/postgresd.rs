//! A PostgreSQL server for tests, by `testing/postgres-local/run`. Included by the tests that use one.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock};

/// A server of its own, which ends with this value or with the process.
#[allow(dead_code, clippy::allow_attributes, reason = "not all of it by all who include this")]
pub(crate) struct Postgresd {
    url: String,
    /// Closed at the end, which the server's keeper takes as the order to end it.
    orders: Option<ChildStdin>,
    said: BufReader<ChildStdout>,
    keeper: Child,
    folder: tempfile::TempDir,
}

#[allow(dead_code, clippy::allow_attributes, reason = "not all of it by all who include this")]
impl Postgresd {
    /// Starts one; or why it cannot run here.
    pub(crate) fn start() -> Result<Self, String> {
        let folder =
            tempfile::Builder::new().prefix("chronos-postgres-").tempdir().map_err(|e| e.to_string())?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testing/postgres-local/run");
        let mut command = Command::new(script);
        // All of it, as its keeper removes it: one that a process shares is never dropped.
        command.arg(folder.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        // The server may run as another user, who must get to its folder.
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))
            .map_err(|e| e.to_string())?;
        let mut keeper = command.spawn().map_err(|e| e.to_string())?;
        let orders = keeper.stdin.take();
        let said = BufReader::new(keeper.stdout.take().expect("piped"));
        let mut this = Self { url: String::new(), orders, said, keeper, folder };
        this.url = this.answer()?.strip_prefix("listening ").expect("it says where").into();
        Ok(this)
    }

    /// What it says next.
    fn answer(&mut self) -> Result<String, String> {
        let mut line = String::new();
        self.said.read_line(&mut line).map_err(|e| e.to_string())?;
        match line.trim().split_once(' ') {
            Some(("cannot", reason)) => Err(reason.into()),
            _ if line.is_empty() => Err("postgres does not start here".into()),
            _ => Ok(line.trim().into()),
        }
    }

    /// Gives an order, see the script. Its answer.
    pub(crate) fn order(&mut self, order: &str) -> Result<String, String> {
        let orders = self.orders.as_mut().expect("it was not ended");
        writeln!(orders, "{order}").expect("its keeper lives");
        self.answer()
    }

    /// Where it listens, for its administrator.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Where its files are.
    pub(crate) fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }
}

impl Drop for Postgresd {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ = self.keeper.wait();
    }
}

/// Where the one listens that the tests of a process share, started by the first who asks; or why there is none.
#[allow(dead_code, clippy::allow_attributes, reason = "not all of it by all who include this")]
pub(crate) fn shared() -> Result<String, String> {
    static SHARED: OnceLock<Mutex<Result<Postgresd, String>>> = OnceLock::new();
    let shared = SHARED.get_or_init(|| Mutex::new(Postgresd::start()));
    let shared = shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    shared.as_ref().map(|server| server.url().to_owned()).map_err(Clone::clone)
}

/// The same; what cannot be tested is said, not passed over.
#[allow(dead_code, clippy::allow_attributes, reason = "not all of it by all who include this")]
pub(crate) fn shared_or_skip(suite: &str) -> Option<String> {
    shared().map_err(|reason| skip(suite, &reason)).ok()
}

#[allow(dead_code, clippy::allow_attributes, reason = "not all of it by all who include this")]
pub(crate) fn skip(suite: &str, reason: &str) {
    let line = format!("SKIPPED {suite}: {reason}\n");
    let _ = match std::env::var_os("CHRONOS_SKIPS") {
        Some(file) => std::fs::File::options()
            .append(true)
            .create(true)
            .open(file)
            .and_then(|mut file| file.write_all(line.as_bytes())),
        None => std::io::stderr().write_all(line.as_bytes()),
    };
}
