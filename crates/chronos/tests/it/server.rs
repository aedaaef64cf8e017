//! A server of the real binary in a temporary folder, and its command line.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http::{self, Response};
use crate::wait;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_chronos");

/// A folder for a server's data and files; everything that lives of it ends with it.
pub(crate) struct Folder {
    dir: TempDir,
}

impl Folder {
    pub(crate) fn new() -> Arc<Self> {
        Self::below(&std::env::temp_dir())
    }

    /// On another file system.
    pub(crate) fn below(parent: &Path) -> Arc<Self> {
        let parent = parent.canonicalize().unwrap();
        Arc::new(Self { dir: tempfile::Builder::new().prefix("chronos-it-").tempdir_in(parent).unwrap() })
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    /// Writes a file, for jobs or for what they need.
    pub(crate) fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Processes that work below this folder: the supervisor and its tasks.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let below = |pid: &u32| {
            std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(self.data()))
        };
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(below).collect()
    }

    /// The living supervisor.
    pub(crate) fn supervisor(&self) -> Option<u32> {
        let is_supervisor = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| word == b"supervise")
        };
        self.processes().into_iter().find(is_supervisor)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // The supervisor first, so that it starts nothing new; then what it leaves behind.
        self.supervisor().into_iter().for_each(|pid| signal_process(pid, "-KILL"));
        for _ in 0..100 {
            let left = self.processes();
            if left.is_empty() {
                return remove_control_groups(&self.data());
            }
            left.into_iter().for_each(|pid| signal_process(pid, "-KILL"));
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// What the supervisor would have removed, had it not been killed.
fn remove_control_groups(data: &Path) {
    for place in std::fs::read_to_string(data.join("engine/cgroups")).unwrap_or_default().lines() {
        for group in std::fs::read_dir(place).into_iter().flatten().flatten() {
            let _ = std::fs::remove_dir(group.path());
        }
        let _ = std::fs::remove_dir(place);
    }
}

/// A running server. Killed when dropped.
pub(crate) struct TestServer {
    pub(crate) folder: Arc<Folder>,
    child: Child,
    /// `127.0.0.1:port`.
    pub(crate) address: String,
}

impl TestServer {
    /// In a folder of its own, leading.
    pub(crate) fn start() -> Self {
        Self::start_in(Folder::new())
    }

    /// In this folder, leading.
    #[track_caller]
    pub(crate) fn start_in(folder: Arc<Folder>) -> Self {
        let server = Self::launch(folder, &[]);
        server.wait_ready();
        server
    }

    /// In this folder, whether it leads or not, with more flags.
    #[track_caller]
    pub(crate) fn launch(folder: Arc<Folder>, flags: &[&str]) -> Self {
        let command = server_command(&folder, flags);
        Self::launch_command(folder, command)
    }

    /// By a command of [`server_command`] that was given more than flags.
    #[track_caller]
    pub(crate) fn launch_command(folder: Arc<Folder>, mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let Some(address) = line.trim().strip_prefix("listening on http://") else {
            let _ = child.kill();
            panic!("the server said {line:?}; its log:\n{}", log_of(&folder));
        };
        Self { address: address.into(), folder, child }
    }

    #[track_caller]
    pub(crate) fn wait_ready(&self) {
        wait::until("the server leads", || {
            let ready = self.get("/ready")?;
            (ready.status == 200 && ready.json()["role"] == "leading").then_some(())
        });
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn log(&self) -> String {
        log_of(&self.folder)
    }

    /// As a power cut would.
    pub(crate) fn kill(mut self) -> Arc<Folder> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.folder.clone()
    }

    /// As a service manager would. Returns the exit code.
    pub(crate) fn terminate(mut self) -> (Arc<Folder>, Option<i32>) {
        signal_process(self.pid(), "-TERM");
        let status = wait::until("the server ends", || self.child.try_wait().unwrap());
        (self.folder.clone(), status.code())
    }

    pub(crate) fn get(&self, path: &str) -> Option<Response> {
        http::send(&self.address, "GET", path, &[], b"")
    }

    #[track_caller]
    pub(crate) fn get_json(&self, path: &str) -> Value {
        let response = self.get(path).expect("the server answers");
        assert_eq!(response.status, 200, "GET {path}: {}", String::from_utf8_lossy(&response.body));
        response.json()
    }

    pub(crate) fn post(&self, path: &str, body: &[u8]) -> Option<Response> {
        http::send(&self.address, "POST", path, &["Content-Type: application/json"], body)
    }

    /// Creates or replaces a job, which must be accepted.
    #[track_caller]
    pub(crate) fn put(&self, job: Value) {
        let kind = if job.get("parents").is_some() { "dependency" } else { "iso8601" };
        let path = format!("/v1/scheduler/{kind}");
        let response = self.post(&path, job.to_string().as_bytes()).expect("the server answers");
        assert!((200..300).contains(&response.status), "{job}: {}", String::from_utf8_lossy(&response.body));
    }

    /// The command line, as a script would use it.
    pub(crate) fn cli<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ended {
        let mut command = client_command();
        command
            .args(args)
            .env("CHRONOS_SERVER", format!("http://{}", self.address))
            .current_dir(self.folder.path());
        Ended::of(&mut command)
    }

    /// Runs of a job, the newest first.
    #[track_caller]
    pub(crate) fn runs(&self, job: &str) -> Vec<Value> {
        let answer = self.get_json(&format!("/v1/runs?job={job}&limit=100"));
        answer["runs"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until the newest ended run of a job has this outcome, and returns it.
    #[track_caller]
    pub(crate) fn wait_for(&self, job: &str, outcome: &str) -> Value {
        self.wait_for_run(job, &format!("{job} ends {outcome}"), |run| run["outcome"] == outcome)
    }

    /// Waits until some run of a job is as wanted, and returns it.
    #[track_caller]
    pub(crate) fn wait_for_run(&self, job: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        wait::until(what, || self.runs(job).into_iter().find(|run| wanted(run)))
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of the server\n{}", self.log());
        }
    }
}

/// The server on a free port in this folder; its log goes to the file `log` there.
pub(crate) fn server_command(folder: &Folder, flags: &[&str]) -> Command {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.path().join("log")).unwrap();
    let mut command = client_command();
    command.arg("server").arg("--data_dir").arg(folder.data()).args(flags);
    if !flags.contains(&"--http_port") {
        command.args(["--http_port", "0"]);
    }
    command.current_dir(folder.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    command
}

/// The binary without what the environment of the tests may say to it.
pub(crate) fn client_command() -> Command {
    let mut command = Command::new(BINARY);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"CHRONOS_"))
    {
        command.env_remove(name);
    }
    command.env("NO_COLOR", "1");
    command
}

pub(crate) fn log_of(folder: &Folder) -> String {
    String::from_utf8_lossy(&std::fs::read(folder.path().join("log")).unwrap_or_default()).into_owned()
}

/// A job that runs only when asked to: its first slot is far away.
pub(crate) fn by_hand(name: &str, command: &str) -> Value {
    json!({ "name": name, "command": command, "schedule": "R1/2099-01-01T00:00:00Z/P1D", "retries": 0 })
}

pub(crate) fn signal_process(pid: u32, signal: &str) {
    // Every shell has it built in; a small Debian has no program of that name.
    let mut shell = Command::new("sh");
    let told = shell.args(["-c", "kill $0 $1", signal, &pid.to_string()]).stderr(Stdio::null()).status();
    assert!(told.is_ok(), "sh is there: {told:?}");
}

pub(crate) fn is_alive(pid: u32) -> bool {
    // A zombie has ended; only its parent does not know yet.
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

/// A command that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    output: Output,
    line: String,
}

impl Ended {
    pub(crate) fn of(command: &mut Command) -> Self {
        let line = format!("{command:?}");
        Self { output: command.stdin(Stdio::null()).output().unwrap(), line }
    }

    pub(crate) fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    pub(crate) fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    pub(crate) fn stdout_bytes(&self) -> &[u8] {
        &self.output.stdout
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.output.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    #[track_caller]
    pub(crate) fn exit(self, code: i32) -> Self {
        let (found, out, err) = (self.output.status, self.stdout_text(), self.stderr_text());
        assert_eq!(found.code(), Some(code), "{}\n{out}{err}", self.line);
        self
    }

    #[track_caller]
    pub(crate) fn success(self) -> Self {
        self.exit(0)
    }

    #[track_caller]
    pub(crate) fn stdout(self, expected: &str) -> Self {
        assert_eq!(self.stdout_text(), expected, "{}\n{}", self.line, self.stderr_text());
        self
    }

    #[track_caller]
    pub(crate) fn says(self, part: &str) -> Self {
        let text = self.stdout_text() + &self.stderr_text();
        assert!(text.contains(part), "{}\nit does not say {part:?} but\n{text}", self.line);
        self
    }
}
