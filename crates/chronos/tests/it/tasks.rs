//! What a job may state beside its command, with the real binary: bounds, secrets, files, a time limit.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::mail_server::certificate;
use crate::server::{Folder, TestServer, by_hand, is_alive, server_command};
use crate::skip::skip;
use crate::wait;

fn with(mut job: Value, fields: Value) -> Value {
    for (key, value) in fields.as_object().expect("an object") {
        job[key] = value.clone();
    }
    job
}

fn run(server: &TestServer, job: Value, outcome: &str) -> Value {
    let name = job["name"].as_str().expect("named").to_owned();
    server.put(job);
    server.cli(["run", &name]).success();
    server.wait_for(&name, outcome)
}

/// Whether the supervisor says that it goes without this.
fn goes_without(server: &TestServer, what: &str) -> bool {
    server.get_json("/ready")["notes"]
        .as_array()
        .expect("a list")
        .iter()
        .any(|note| note.to_string().contains(what))
}

#[test]
fn a_job_that_exceeds_its_memory_fails_and_says_so() {
    let server = TestServer::start();
    if goes_without(&server, "memory") {
        return skip("memory-limit", "no memory control group can be made");
    }
    let greedy = with(by_hand("greedy", "head -c 200000000 /dev/zero | tail"), json!({ "mem": 64 }));
    let run = run(&server, greedy, "failed");
    assert_eq!(run["attempts"][0]["message"], "out of memory: exceeded 64 MiB", "{run}");
    server.cli(["why", "greedy"]).success().says("out of memory: exceeded 64 MiB");
    // What Chronos wrote into every job bounds nothing.
    let modest = with(
        by_hand("modest", "head -c 200000000 /dev/zero | tail | wc -c"),
        json!({ "mem": 128, "cpus": 0.1 }),
    );
    self::run(&server, modest, "succeeded");
}

#[test]
fn a_time_limit_ends_all_of_a_task() {
    let server = TestServer::start();
    let pid = server.folder.path().join("pid");
    let command = format!("setsid sh -c 'echo $$ > {}; exec sleep 1000' & sleep 1000", pid.display());
    // On a busy machine a second may be over before the task has begun: then with more.
    let stray = [1, 10, 60].into_iter().find_map(|seconds| {
        let name = format!("endless-{seconds}");
        let run =
            run(&server, with(by_hand(&name, &command), json!({ "maxCompletionTime": seconds })), "timedOut");
        assert_eq!(run["attempts"].as_array().map(Vec::len), Some(1), "{run}");
        server.cli(["why", &name]).success().says("maxCompletionTime");
        std::fs::read_to_string(&pid).ok()?.trim().parse().ok()
    });
    assert!(!is_alive(stray.expect("it has begun")));
}

#[test]
fn files_are_fetched_and_a_failure_names_the_uri() {
    let server = TestServer::start();
    let tool = server.folder.file("tool", "#!/bin/sh\necho fetched\n");
    let fetch = json!([{ "uri": format!("file://{}", tool.display()), "executable": true }]);
    run(&server, with(by_hand("good", "./tool"), json!({ "fetch": fetch })), "succeeded");
    server.cli(["logs", "good"]).stdout("fetched\n").success();
    let run =
        run(&server, with(by_hand("bad", "true"), json!({ "uris": ["file:///no/such/file"] })), "failed");
    let message = run["attempts"][0]["message"].as_str().unwrap();
    assert!(message.starts_with("cannot fetch file:///no/such/file: No such file"), "{message}");
    server.cli(["logs", "bad", "--stderr"]).success().says("cannot fetch file:///no/such/file");
}

/// From a server with a certificate that the machine has an authority for, and from no other.
#[test]
fn a_file_is_fetched_over_https_from_whom_the_machine_trusts() {
    if std::process::Command::new("openssl").arg("version").output().is_err() {
        return skip("access", "openssl is not here");
    }
    let folder = Folder::new();
    let (ca, cert, key) = certificate(&folder);
    let port = crate::port::unused().to_string();
    let tls =
        ["--https_port", &port, "--tls_cert", cert.to_str().unwrap(), "--tls_key", key.to_str().unwrap()];
    let far = TestServer::launch(folder, &tls);
    far.wait_ready();
    let fetch = json!([{ "uri": format!("https://localhost:{port}/ping"), "output_file": "said" }]);
    let job = with(by_hand("secure", "cat said"), json!({ "fetch": fetch, "retries": 0 }));
    for (trusted, outcome) in [(Some(&ca), "succeeded"), (None, "failed")] {
        let near = Folder::new();
        let mut command = server_command(&near, &[]);
        command.envs(trusted.map(|ca| ("SSL_CERT_FILE", ca)));
        let server = TestServer::launch_command(near, command);
        server.wait_ready();
        let run = run(&server, job.clone(), outcome);
        if trusted.is_some() {
            server.cli(["logs", "secure"]).success().stdout("pong\n");
        } else {
            let message = run["attempts"][0]["message"].as_str().unwrap();
            assert!(
                message.contains("cannot fetch https://localhost") && message.contains("certificate"),
                "{message}"
            );
        }
    }
}

/// As small containers are: nothing that goes over plain HTTP needs one.
#[test]
fn a_machine_without_certificates_serves_and_fetches() {
    let without_certificates = |folder: &Folder, flags: &[&str]| {
        let mut command = server_command(folder, flags);
        command.env("SSL_CERT_FILE", folder.file("no-certificates", "")).env("SSL_CERT_DIR", folder.path());
        command
    };
    let folder = Folder::new();
    let server = TestServer::launch_command(folder.clone(), without_certificates(&folder, &[]));
    server.wait_ready();
    let fetch = json!([{ "uri": serve_once("tool", b"#!/bin/sh\necho fetched\n"), "executable": true }]);
    run(&server, with(by_hand("plain", "./tool"), json!({ "fetch": fetch })), "succeeded");
    drop(server);

    let folder = Folder::new();
    let command = without_certificates(&folder, &["--master", "127.0.0.1:1"]);
    let server = TestServer::launch_command(folder.clone(), command);
    wait::until("it answers without a master", || server.get("/ping").filter(|answer| answer.status == 200));
}

/// Answers one request, on a port of its own.
fn serve_once(name: &str, body: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a client");
        let mut lines = BufReader::new(&stream).lines();
        while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        (&stream).write_all(&[head.as_bytes(), body].concat()).expect("a client that reads");
    });
    format!("http://{address}/{name}")
}

/// By way of a file and of the server's environment, on both ways to start a task.
#[test]
fn a_secret_is_in_the_environment_of_its_task_and_nowhere_else() {
    const IN_FILE: &str = "correct-horse-battery";
    const IN_ENV: &str = "staple-4711-unique";
    let folder = Folder::new();
    let file = folder.file("secret", &format!("{IN_FILE}\n"));
    let mut command = server_command(&folder, &[]);
    command.env("CHRONOS_SECRET_TOKEN", IN_ENV);
    let server = TestServer::launch_command(folder.clone(), command);
    server.wait_ready();
    let tool = folder.file("tool", "");
    let go = folder.path().join("go");
    let variables = json!([
        { "name": "PASSWORD", "valueFrom": { "file": file } },
        { "name": "TOKEN", "valueFrom": { "env": "CHRONOS_SECRET_TOKEN" } },
    ]);
    let command =
        format!("echo ${{#PASSWORD}} ${{#TOKEN}}; until [ -e '{}' ]; do sleep 0.05; done", go.display());
    let plain = with(by_hand("plain", &command), json!({ "environmentVariables": variables }));
    let staged = with(
        by_hand("staged", &command),
        json!({ "environmentVariables": variables, "fetch": [{ "uri": tool }] }),
    );
    for job in [plain, staged] {
        let name = job["name"].as_str().unwrap().to_owned();
        server.put(job.clone());
        let shown = server.get_json(&format!("/v1/scheduler/job/{name}"));
        assert_eq!(shown["environmentVariables"], variables, "sources come back as they were given");
        server.cli(["run", &name]).success();
        wait::until("it has its secrets", || {
            server.cli(["logs", &name]).stdout_text().starts_with("21 18\n").then_some(())
        });
    }
    // While they run: command lines of all processes.
    for pid in folder.processes() {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        assert!(!holds(&line, IN_FILE) && !holds(&line, IN_ENV), "process {pid}");
    }
    std::fs::write(go, "").unwrap();
    server.wait_for("plain", "succeeded");
    server.wait_for("staged", "succeeded");
    for path in every_question(&server, "plain") {
        let body = server.get(&path).map(|answer| answer.body).unwrap_or_default();
        assert!(!body.is_empty() && !holds(&body, IN_FILE) && !holds(&body, IN_ENV), "{path}");
    }
    let exported = server.cli(["export"]).success().stdout_text();
    assert!(
        exported.contains("CHRONOS_SECRET_TOKEN")
            && !exported.contains(IN_FILE)
            && !exported.contains(IN_ENV)
    );
    std::fs::remove_file(folder.path().join("secret")).unwrap();
    let (folder, _) = server.terminate();
    // The log is among the files; so are store, journal and output.
    for secret in [IN_FILE, IN_ENV] {
        assert_eq!(files_with(folder.path(), secret), Vec::<PathBuf>::new());
    }
}

/// The paths of all that can be read and has an end, as `openapi.json` says, about a job and the newest run.
fn every_question(server: &TestServer, job: &str) -> Vec<String> {
    let document = server.get_json("/openapi.json");
    let run = server.get_json("/v1/runs?limit=1")["runs"][0]["key"].as_str().expect("a run").to_owned();
    let fill = |path: &str| {
        let known =
            [("{name}", job), ("{key}", &run), ("{version}", "1"), ("{percentile}", "99thPercentile")];
        known.iter().fold(path.to_owned(), |path, (part, value)| path.replace(part, value))
    };
    let paths = document["paths"].as_object().expect("paths").iter();
    let paths = paths.filter(|(path, methods)| methods.get("get").is_some() && *path != "/v1/events");
    // No backfill has an id here.
    let paths: Vec<_> = paths.map(|(path, _)| fill(path)).filter(|path| !path.contains("{id}")).collect();
    assert!(paths.len() > 30 && paths.iter().all(|path| !path.contains('{')), "{paths:?}");
    paths
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

fn files_with(folder: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(files_with(&entry.path(), text));
        } else if kind.is_file() && holds(&std::fs::read(entry.path()).unwrap_or_default(), text) {
            found.push(entry.path());
        }
    }
    found
}
