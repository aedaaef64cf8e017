//! What a real Docker does too seldom to wait for it, played by one that answers as it is told.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use bollard::{API_DEFAULT_VERSION, Docker};
use scheduler::ids::Epoch;

use super::{DockerOptions, Shared, life, lock};
use crate::conformance::task;

/// A Docker that answers each request, as in `GET /containers/c1/json`, with a status and a body, or never.
struct Scripted {
    folder: tempfile::TempDir,
    asked: Arc<Mutex<Vec<String>>>,
}

type Answer = Option<(u16, String)>;

impl Scripted {
    fn new(script: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(folder.path().join("socket")).expect("bound");
        let (asked, script) = (Arc::new(Mutex::new(Vec::new())), Arc::new(script));
        let noted = asked.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (noted, script) = (noted.clone(), script.clone());
                thread::spawn(move || serve(stream, &noted, &*script));
            }
        });
        Self { folder, asked }
    }

    fn options(&self) -> DockerOptions {
        let host = format!("unix://{}/socket", self.folder.path().display());
        DockerOptions {
            answer_within: Duration::from_secs(300),
            ..DockerOptions::new(self.folder.path().join("docker"), host)
        }
    }

    fn docker(&self) -> Docker {
        let socket = self.folder.path().join("socket");
        Docker::connect_with_unix(&socket.display().to_string(), 120, API_DEFAULT_VERSION).expect("a client")
    }

    /// What an engine consists of that is connected and in its first term, without what connects it.
    fn shared(&self) -> Arc<Shared> {
        let shared = Shared::open(self.options()).expect("opened");
        shared.folder.raise(Epoch(1)).expect("raised");
        shared.docker.send_replace(Some(self.docker()));
        shared.state().not_ready = None;
        Arc::new(shared)
    }

    /// How often something was asked that begins so.
    fn asked(&self, request: &str) -> usize {
        lock(&self.asked).iter().filter(|asked| asked.starts_with(request)).count()
    }
}

fn serve(stream: UnixStream, asked: &Mutex<Vec<String>>, script: &dyn Fn(&str) -> Answer) {
    let mut reader = BufReader::new(&stream);
    let (mut line, mut bytes) = (String::new(), 0);
    let _ = reader.read_line(&mut line);
    let mut words = line.split_whitespace();
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return };
    // Paths begin with the version of the API, as in `/v1.50`.
    let path = path.strip_prefix("/v").and_then(|path| path.find('/').map(|at| &path[at..])).unwrap_or(path);
    let request = format!("{method} {path}");
    loop {
        let mut line = String::new();
        let _ = reader.read_line(&mut line);
        let Some((name, value)) = line.split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            bytes = value.trim().parse().unwrap_or_default();
        }
    }
    let _ = reader.read_exact(&mut vec![0; bytes]);
    let answer = script(&request);
    lock(asked).push(request);
    match answer {
        Some((status, body)) => {
            let head =
                format!("HTTP/1.1 {status} Told\r\ncontent-type: application/json\r\nconnection: close\r\n");
            // To 204 and 304 no body belongs, and so no length.
            let length = if body.is_empty() && status != 200 {
                String::new()
            } else {
                format!("content-length: {}\r\n", body.len())
            };
            let _ = (&stream).write_all(format!("{head}{length}\r\n{body}").as_bytes());
        }
        // Until who asked goes.
        None => drop((&stream).read(&mut [0])),
    }
}

fn told(status: u16, message: &str) -> Answer {
    Some((status, format!(r#"{{"message":"{message}"}}"#)))
}

/// What is told of a container in this state.
fn container(status: &str, started: bool) -> Answer {
    let at = if started { "2026-01-01T00:00:00Z" } else { "0001-01-01T00:00:00Z" };
    let state = format!(
        r#"{{"Status":"{status}","Running":{},"ExitCode":0,"StartedAt":"{at}"}}"#,
        status == "running"
    );
    Some((200, format!(r#"{{"Id":"c1","State":{state}}}"#)))
}

#[tokio::test]
async fn what_never_started_has_not_succeeded() {
    for (status, started, expected) in [
        ("created", false, "Made"),
        ("dead", false, "Made"),
        ("removing", false, "Gone"),
        ("running", true, "Runs"),
        ("exited", true, "Ended"),
        ("dead", true, "Ended"),
        ("removing", true, "Ended"),
    ] {
        let scripted = Scripted::new(move |_| container(status, started));
        let (found, _) = life::look(&scripted.docker(), "c1").await.expect("told");
        assert!(format!("{found:?}").starts_with(expected), "{status}, started {started}: {found:?}");
    }
}

/// Docker says so of one that runs, and of one that somebody else is removing.
#[tokio::test]
async fn a_conflict_on_removal_is_looked_at() {
    for (status, started, expected) in
        [("running", true, Ok(false)), ("exited", true, Ok(false)), ("removing", false, Ok(true))]
    {
        let scripted = Scripted::new(move |request| match request.starts_with("DELETE") {
            true => told(409, "conflict"),
            false => container(status, started),
        });
        let (shared, id) = (scripted.shared(), task("report-0"));
        shared.folder.begin(&id, "c1").expect("noted");
        let discarded = life::discard(&shared, &scripted.docker(), &id, "c1").await;
        assert_eq!(discarded, expected, "{status}");
        assert_eq!(scripted.asked("DELETE"), 1);
        assert_eq!(shared.folder.begun(&id).is_empty(), expected == Ok(true), "{status}");
    }
}
