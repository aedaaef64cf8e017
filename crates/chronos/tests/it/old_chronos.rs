//! A stand-in for an old Chronos, of which there is none here: it lists jobs as the reference says that one does, and
//! knows nothing else.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// Where it lists its jobs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    Two,
    Three,
}

/// What its jobs are at the moment of a question.
type Jobs = Box<dyn Fn() -> Value + Send>;

/// Answers until the process ends.
pub(crate) struct OldChronos {
    pub(crate) url: String,
    jobs: Arc<Mutex<Jobs>>,
    /// The requests that changed something, of which there must be none.
    pub(crate) writes: Arc<Mutex<Vec<String>>>,
}

impl OldChronos {
    /// `authorization` is what the header of that name must be.
    pub(crate) fn start(version: Version, authorization: Option<&str>, jobs: Value) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let jobs: Arc<Mutex<Jobs>> = Arc::new(Mutex::new(Box::new(move || jobs.clone())));
        let writes = Arc::default();
        let old = Self { url, jobs: jobs.clone(), writes: Arc::clone(&writes) };
        let authorization = authorization.map(|value| format!("authorization: {value}").to_lowercase());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let lines: Vec<String> = BufReader::new(&stream)
                    .lines()
                    .map_while(Result::ok)
                    .take_while(|line| !line.is_empty())
                    .collect();
                let list = if version == Version::Two { "/scheduler/jobs" } else { "/v1/scheduler/jobs" };
                let asked = lines.first().cloned().unwrap_or_default();
                let welcome = authorization
                    .as_ref()
                    .is_none_or(|wanted| lines.iter().any(|line| line.to_lowercase() == *wanted));
                if !asked.starts_with("GET ") {
                    writes.lock().unwrap().push(asked.clone());
                }
                let (status, body) = match (welcome, asked.split(' ').nth(1) == Some(list)) {
                    (false, _) => ("401 Unauthorized", "<html>401</html>".to_owned()),
                    (true, true) => ("200 OK", (jobs.lock().unwrap())().to_string()),
                    (true, false) => ("404 Not Found", "<html>404</html>".to_owned()),
                };
                let head = "Connection: close\r\nAccess-Control-Allow-Origin: *";
                let length = body.len();
                let _ =
                    write!(stream, "HTTP/1.1 {status}\r\n{head}\r\nContent-Length: {length}\r\n\r\n{body}");
            }
        });
        old
    }

    /// From now on it has these.
    pub(crate) fn has(&self, jobs: impl Fn() -> Value + Send + 'static) {
        *self.jobs.lock().unwrap() = Box::new(jobs);
    }
}

/// A job as Chronos 3 lists it, with every field, and with these set.
pub(crate) fn listed(fields: Value) -> Value {
    let mut job = json!({
        "name": "", "command": "true", "shell": true, "executor": "", "executorFlags": "", "taskInfoData": "",
        "retries": 2, "owner": "", "ownerName": "", "description": "", "successCount": 0, "errorCount": 0,
        "lastSuccess": "", "lastError": "", "cpus": 0.1, "disk": 256.0, "mem": 128.0, "disabled": false,
        "softError": false, "dataProcessingJobType": false, "errorsSinceLastSuccess": 0, "fetch": [], "uris": [],
        "environmentVariables": [], "arguments": [], "highPriority": false, "runAsUser": "root",
        "concurrent": false, "maxCompletionTime": 0, "constraints": [],
    });
    for (key, value) in fields.as_object().unwrap() {
        job[key] = value.clone();
    }
    job
}
