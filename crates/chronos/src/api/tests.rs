//! The API over a real node with a store in memory and an engine without processes.

mod backup;

use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use engine::Stream;
use engine::fake::{Behaviour, FakeMachine};
use scheduler::ids::TaskId;
use scheduler::limits::Limits;
use scheduler::run::AttemptEnd;
use serde_json::{Value, json};
use store::memory::{MemoryCore, MemoryStore};
use store::{Candidate, Retention, Store};
use tower::ServiceExt;

mod backfills;

use super::*;

mod access_tests;
mod apply;
mod audit_tests;
mod classic;
mod editing;
mod forwarding;
mod hostile;
mod lists;
mod nodes;
mod once;

use crate::node::{self, NodeOptions, NodeTask, Role};

/// How often it is looked whether something has come true, every hundredth of a second: longer than the slowest machine needs.
const LOOKS: usize = 6000;

struct Server {
    app: Router,
    node: Node,
    machine: FakeMachine,
    task: NodeTask,
}

struct Answered {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Answered {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("ASCII"))
    }
}

fn candidate(name: &str) -> Candidate {
    Candidate { node: name.into(), addresses: vec![format!("{name}:4400")], pid: 1, version: "0".into() }
}

impl Server {
    /// A node that leads. Tasks succeed at once unless `script` says otherwise.
    async fn start(script: impl Fn(&engine::Launch) -> Behaviour + Send + Sync + 'static) -> Self {
        let server = Self::on(MemoryStore::new(MemoryCore::new(7)), script);
        server.until(|node| matches!(node.status().role, Role::Leading(_))).await;
        server
    }

    fn on(store: MemoryStore, script: impl Fn(&engine::Launch) -> Behaviour + Send + Sync + 'static) -> Self {
        Self::behind(access::Access::default(), store, script)
    }

    fn behind(
        access: access::Access,
        store: MemoryStore,
        script: impl Fn(&engine::Launch) -> Behaviour + Send + Sync + 'static,
    ) -> Self {
        Self::among(access, store, script, |node| Cluster::alone(node).expect("a client"))
    }

    fn among(
        access: access::Access,
        store: MemoryStore,
        script: impl Fn(&engine::Launch) -> Behaviour + Send + Sync + 'static,
        cluster: impl FnOnce(&Node) -> Cluster,
    ) -> Self {
        let machine = FakeMachine::new();
        machine.script(script);
        let (node, task) = node::start(NodeOptions {
            identity: candidate("here"),
            store: Arc::new(store),
            acquaintance: crate::node::Acquaintance::default(),
            heritage: None,
            engine: Arc::new(machine.engine()),
            zones: scheduler::schedule::Zones::bundled(),
            retention: Retention {
                age_max: Duration::from_secs(3600),
                count_max: 1000,
                ..Retention::UNBOUNDED
            },
            output: engine::Keep::EVERYTHING,
            kill_grace: Duration::from_secs(1),
            disable_after_failures: 0,
            retry_delay: scheduler::job::Retry::DELAY,
            limits: Limits::default(),
            notifier: Arc::default(),
        });
        let settings = Arc::new(Settings {
            loopback: true,
            hosts: vec!["known.example".into()],
            access,
            ..Settings::default()
        });
        let cluster = cluster(&node);
        let (metrics, turns) = (metrics::detached(), crate::api::editing::Turns::default());
        let app = router(ApiContext { node: node.clone(), cluster, metrics, settings, turns });
        Self { app, node, machine, task }
    }

    async fn until(&self, holds: impl Fn(&Node) -> bool) {
        for _ in 0..LOOKS {
            if holds(&self.node) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not in time; the node is {:?}", self.node.status());
    }

    /// Waits until a GET says so.
    async fn until_get(&self, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        for _ in 0..LOOKS {
            last = self.get(path).await.json();
            if holds(&last) {
                return last;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not in time: {path} says {last}");
    }

    async fn send(&self, request: Request<Body>) -> Answered {
        let response = self.app.clone().oneshot(request).await.expect("infallible");
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, 1 << 24).await.expect("a body");
        Answered {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8_lossy(&bytes).into(),
        }
    }

    async fn get(&self, path: &str) -> Answered {
        self.send(Request::get(path).header("host", "localhost:4400").body(Body::empty()).expect("a request"))
            .await
    }

    async fn change(&self, method: Method, path: &str) -> Answered {
        self.send(Request::builder().method(method).uri(path).body(Body::empty()).expect("a request")).await
    }

    async fn post(&self, path: &str, body: impl ToString) -> Answered {
        let request = Request::post(path).header("content-type", "application/json");
        self.send(request.body(Body::from(body.to_string())).expect("a request")).await
    }

    async fn create(&self, definition: Value) {
        let door = if definition.get("parents").is_some() { "dependency" } else { "iso8601" };
        let answer = self.post(&format!("/v1/scheduler/{door}"), definition).await;
        assert_eq!(answer.status, StatusCode::NO_CONTENT, "{}", answer.text);
    }
}

fn succeed(_: &engine::Launch) -> Behaviour {
    Behaviour::End(AttemptEnd::Succeeded)
}

/// Never due while a test runs.
const FAR: &str = "R/2099-01-01T00:00:00Z/P1D";

#[tokio::test]
async fn a_job_lives_from_creation_to_deletion() {
    let server = Server::start(succeed).await;
    let definition = json!({"name": "report", "command": "make-report", "schedule": FAR, "owner": "ops@example.org", "retrys": 1});
    let created = server.post("/v1/scheduler/iso8601", &definition).await;
    assert_eq!((created.status, created.text.as_str()), (StatusCode::NO_CONTENT, ""));
    assert_eq!(
        created.header("x-chronos-warnings"),
        r#"["unknown field `retrys` was ignored; did you mean `retries`?"]"#
    );
    assert!(created.header("x-chronos-seq").parse::<u64>().is_ok());

    let again = server.post("/scheduler/iso8601?verbose=true", &definition).await;
    assert_eq!((again.status, &again.json()["result"]), (StatusCode::OK, &json!("unchanged")));

    let job = server.get("/scheduler/job/report").await.json();
    assert_eq!(
        (&job["command"], &job["schedule"], &job["retries"]),
        (&json!("make-report"), &json!(FAR), &json!(2))
    );
    assert_eq!(server.get("/v1/scheduler/jobs").await.json(), json!([job]));
    assert_eq!(
        server.get("/v1/scheduler/jobs/summary").await.json(),
        json!({"jobs": [{"name": "report", "status": "fresh", "state": "idle", "schedule": FAR, "parents": [], "disabled": false}]})
    );

    let run = server.change(Method::PUT, "/v1/scheduler/job/report?arguments=-v").await;
    assert_eq!(run.status, StatusCode::NO_CONTENT, "{}", run.text);
    let key = run.header("x-chronos-run").to_owned();
    assert_eq!(run.header("location"), format!("/v1/runs/{key}"));
    let ended = server.until_get(&format!("/v1/runs/{key}"), |run| run["state"] == "ended").await;
    assert_eq!(
        (&ended["outcome"], &ended["cause"], &ended["job"]),
        (&json!("succeeded"), &json!("trigger"), &json!("report"))
    );
    assert_eq!(ended["attempts"][0]["number"], json!(0));
    let counted = server.get("/v1/scheduler/job/report").await.json();
    assert_eq!((&counted["successCount"], &counted["errorCount"]), (&json!(1), &json!(0)));

    let view = server.get("/v1/jobs/report").await.json();
    assert_eq!(
        (&view["status"], &view["lastOutcome"], &view["version"]),
        (&json!("success"), &json!("succeeded"), &json!(1))
    );
    assert_eq!(view["slots"][0]["due"], json!("2099-01-01T00:00:00.000Z"));
    assert_eq!(view["last"][0]["key"], json!(key));
    let next = server.get("/v1/jobs/report/next?count=2").await.json();
    assert_eq!(
        next["slots"][1],
        json!({"job": "report", "due": "2099-01-02T00:00:00.000Z", "local": "2099-01-02 00:00:00 UTC"})
    );
    assert_eq!(
        server.get("/v1/next?until=2099-01-02T00:00:00Z").await.json()["slots"].as_array().map(Vec::len),
        Some(2)
    );

    assert_eq!(
        server.change(Method::DELETE, "/v1/scheduler/job/report").await.status,
        StatusCode::NO_CONTENT
    );
    let gone = server.get("/v1/scheduler/job/report").await;
    assert_eq!((gone.status, &gone.json()["code"]), (StatusCode::NOT_FOUND, &json!("no_such_job")));
    let kept = server.get("/v1/runs?job=report").await.json();
    assert_eq!(kept["runs"][0]["key"], json!(key), "the history of a deleted job stays");
}

#[tokio::test]
async fn what_h_stands_for_is_shown_and_stays() {
    let server = Server::start(succeed).await;
    let definition = json!({"name": "report", "command": "x", "schedule": "H H * * *"});
    server.create(definition.clone()).await;
    let view = server.get("/v1/jobs/report").await.json();
    assert_eq!(
        (&view["schedule"], &view["scheduleResolved"]),
        (&json!("H H * * *"), &json!("50 19 * * *")),
        "the text is kept as written"
    );
    let next = server.get("/v1/jobs/report/next?count=1").await.json();
    assert_eq!(next["scheduleResolved"], json!("50 19 * * *"));
    assert!(next["slots"][0]["due"].as_str().is_some_and(|due| due.contains("T19:50:00")), "{next}");
    // Made anew under the same name, as by an import: the same minute.
    server.change(Method::DELETE, "/v1/scheduler/job/report").await;
    server.create(definition).await;
    assert_eq!(server.get("/v1/jobs/report").await.json()["scheduleResolved"], json!("50 19 * * *"));
    server.create(json!({"name": "plain", "command": "x", "schedule": "@daily"})).await;
    assert_eq!(server.get("/v1/jobs/plain").await.json()["scheduleResolved"], Value::Null);
    let every = json!({"name": "every", "command": "x", "schedule": "* H * * *"});
    let answer = server.post("/v1/scheduler/iso8601", every).await;
    assert!(answer.header("x-chronos-warnings").contains("write H there too"), "{}", answer.text);
}

#[tokio::test]
async fn chains_are_shown_and_kept_whole() {
    let server = Server::start(succeed).await;
    server.create(json!({"name": "a", "command": "x", "schedule": FAR})).await;
    server.create(json!({"name": "b", "command": "y", "parents": ["a"]})).await;
    assert_eq!(
        server.get("/v1/scheduler/graph/dot").await.text,
        "digraph G {\n  1 [ label=\"a\" ];\n  2 [ label=\"b\" ];\n  1 -> 2;\n}\n"
    );
    assert_eq!(
        server.get("/v1/scheduler/graph/csv").await.text,
        "node,a,fresh,idle\nnode,b,fresh,idle\nlink,a,b\n"
    );
    let cycle = server.post("/v1/scheduler/dependency", json!({"name": "a", "parents": ["b"]})).await;
    assert_eq!((cycle.status, &cycle.json()["code"]), (StatusCode::BAD_REQUEST, &json!("cycle")));
    assert_eq!(cycle.json()["message"], json!("job `a` waits for itself: a -> b -> a"));
    let itself = server.post("/v1/scheduler/dependency", json!({"name": "c", "parents": ["c"]})).await;
    assert_eq!(itself.json()["code"], json!("cycle"));
    let missing = server.post("/v1/scheduler/dependency", json!({"name": "c", "parents": ["a", "d"]})).await;
    assert_eq!(
        (&missing.json()["code"], &missing.json()["field"]),
        (&json!("missing_parents"), &json!("parents"))
    );
    let why = server.get("/v1/jobs/b/why").await.json();
    assert_eq!(why["reasons"][0]["code"], json!("waiting_for_parents"));
    let run = server.change(Method::PUT, "/v1/scheduler/job/a").await.header("x-chronos-run").to_owned();
    server
        .until_get("/v1/runs?job=b&outcome=succeeded", |page| {
            page["runs"].as_array().is_some_and(|r| r.len() == 1)
        })
        .await;
    assert!(!run.is_empty());
    assert_eq!(server.get("/v1/jobs/a").await.json()["children"], json!(["b"]));
}

#[tokio::test]
async fn search_filters_and_pages_in_order() {
    let server = Server::start(succeed).await;
    for (name, command) in [("Beta", "echo one"), ("alpha", "echo two"), ("gamma", "sleep ALPHA")] {
        server
            .create(json!({"name": name, "command": command, "schedule": FAR, "labels": {"team": name}}))
            .await;
    }
    let names = |answer: Answered| -> Vec<String> {
        let jobs = answer.json();
        jobs.as_array()
            .expect("a list")
            .iter()
            .map(|job| job["name"].as_str().expect("a name").to_owned())
            .collect()
    };
    let search = async |query: &str| names(server.get(&format!("/v1/scheduler/jobs/search?{query}")).await);
    assert_eq!(search("").await, ["Beta", "alpha", "gamma"]);
    assert_eq!(search("any=alpha").await, ["alpha", "gamma"], "any alone filters");
    assert_eq!(search("name=A&command=ECHO").await, ["Beta", "alpha"]);
    assert_eq!(search("name=beta&any=sleep").await, ["Beta", "gamma"]);
    assert_eq!(search("limit=1&offset=1").await, ["alpha"]);
    assert_eq!(search("name=nothing").await, Vec::<String>::new());
    let page = server.get("/v1/scheduler/jobs?limit=2&offset=1").await;
    assert_eq!(page.header("x-total-count"), "3");
    assert_eq!(names(page), ["alpha", "gamma"]);

    let first = server.get("/v1/jobs?limit=2").await.json();
    assert_eq!((&first["total"], &first["next"]), (&json!(3), &json!("alpha")));
    let second = server.get("/v1/jobs?limit=2&cursor=alpha").await.json();
    assert_eq!((&second["jobs"][0]["name"], &second["next"]), (&json!("gamma"), &Value::Null));
    let found = server.get("/v1/jobs?search=team%22:%22beta").await.json();
    assert_eq!((&found["total"], &found["jobs"][0]["name"]), (&json!(1), &json!("Beta")));
    assert_eq!(server.get("/v1/jobs?state=live").await.json()["total"], json!(0));
}

/// The node where it is may never come back: the run ends all the same, and so does the answer.
#[tokio::test]
async fn an_output_that_cannot_be_had_is_not_followed_for_ever() {
    let server = Server::start(succeed).await;
    server.create(json!({"name": "short", "command": "true", "schedule": FAR})).await;
    let key = server.change(Method::PUT, "/v1/scheduler/job/short").await.header("x-chronos-run").to_owned();
    server.until_get(&format!("/v1/runs/{key}"), |run| run["state"] == "ended").await;
    server.machine.set_unread("node n2: it is away");
    tokio::time::pause();
    let followed = server.get(&format!("/v1/runs/{key}/output?follow=true")).await;
    assert!(followed.text.contains("event: unread\n"), "{}", followed.text);
    assert!(followed.text.contains("node n2: it is away"), "{}", followed.text);
    assert!(followed.text.contains("event: end\ndata: {\"outcome\":\"succeeded\"}"), "{}", followed.text);
}

#[tokio::test]
async fn a_running_task_is_seen_followed_explained_and_killed() {
    let server = Server::start(|_| Behaviour::Run).await;
    server.create(json!({"name": "long", "command": "sleep", "schedule": FAR})).await;
    let key = server.change(Method::PUT, "/v1/scheduler/job/long").await.header("x-chronos-run").to_owned();
    let path = format!("/v1/runs/{key}");
    let running = server.until_get(&path, |run| run["state"] == "running").await;
    let task = TaskId::parse(running["attempts"][0]["task"].as_str().expect("text")).expect("a task id");
    server.until(|_| server.machine.running().contains(&task)).await;
    assert_eq!(server.get("/v1/scheduler/jobs/summary").await.json()["jobs"][0]["state"], json!("1 running"));

    server.machine.write(&task, Stream::Stdout, b"h\xc3\xa9llo \xff\n");
    server.machine.write(&task, Stream::Stderr, b"oops");
    assert_eq!(server.get(&format!("{path}/output")).await.text, "h\u{e9}llo \u{fffd}\n");
    assert_eq!(server.get(&format!("{path}/output?stream=stderr&offset=1")).await.text, "ops");
    let missing = server.get(&format!("{path}/output?attempt=7")).await;
    assert_eq!((missing.status, &missing.json()["code"]), (StatusCode::NOT_FOUND, &json!("no_such_output")));

    let second =
        server.change(Method::PUT, "/v1/scheduler/job/long").await.header("x-chronos-run").to_owned();
    let why = server.get(&format!("/v1/runs/{second}/why")).await.json();
    let codes: Vec<_> =
        why["reasons"].as_array().expect("a list").iter().map(|r| r["code"].clone()).collect();
    assert_eq!(codes, ["queued", "overlap"], "{why}");
    let live = server.get("/v1/runs?outcome=live&limit=1").await.json();
    assert_eq!(live["runs"][0]["key"], json!(second), "newest first");
    let rest = server
        .get(&format!("/v1/runs?outcome=live&cursor={}", live["next"].as_str().expect("a cursor")))
        .await
        .json();
    assert_eq!((&rest["runs"][0]["key"], &rest["next"]), (&json!(key), &Value::Null));

    let output = format!("{path}/output?follow=true");
    let followed = server.get(&output);
    let killed = async {
        assert_eq!(server.change(Method::DELETE, &format!("/v1/runs/{key}")).await.status, StatusCode::OK);
    };
    let (followed, ()) = tokio::join!(followed, killed);
    assert!(followed.text.contains("event: output\n"), "{}", followed.text);
    assert!(followed.text.contains(r#""offset":0,"text":"héllo �\n""#), "{}", followed.text);
    assert!(followed.text.contains("event: end\ndata: {\"outcome\":\"killed\"}"), "{}", followed.text);
    let ended = server.get(&path).await.json();
    assert_eq!((&ended["outcome"], &ended["reason"]), (&json!("killed"), &json!("a user asked for it")));
    let again = server.change(Method::DELETE, &format!("/v1/runs/{key}")).await;
    assert_eq!((again.status, &again.json()["code"]), (StatusCode::NOT_FOUND, &json!("no_such_run")));
    assert_eq!(server.get(&format!("{path}/why")).await.json()["reasons"][0]["code"], json!("ended"));
    let kill = server.change(Method::DELETE, "/v1/scheduler/task/kill/long").await;
    assert_eq!(kill.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn pauses_have_a_reason_and_an_end() {
    let server = Server::start(succeed).await;
    server.create(json!({"name": "a", "command": "x", "schedule": FAR})).await;
    let paused = server.post("/v1/jobs/a/pause", json!({"reason": "migration", "for": "2h"})).await;
    assert_eq!(paused.status, StatusCode::OK, "{}", paused.text);
    let why = server.get("/v1/jobs/a/why").await.json();
    assert_eq!(
        (&why["reasons"][0]["code"], &why["reasons"][0]["message"]),
        (&json!("paused"), &json!("the job is paused: migration"))
    );
    assert!(why["reasons"][0]["until"].is_string());
    assert_eq!(server.get("/v1/jobs?state=paused").await.json()["total"], json!(1));
    for (body, field) in [
        (json!({"until": "2000-01-01T00:00:00Z"}), "until"),
        (json!({"until": "soon"}), "until"),
        (json!({"for": "2"}), "for"),
        (json!({"for": "2h", "until": "2099-01-01T00:00:00Z"}), "until"),
        (json!({"reason": "x".repeat(2000)}), "reason"),
        (json!({"reason": []}), "reason"),
    ] {
        let refused = server.post("/v1/jobs/a/pause", &body).await;
        assert_eq!(
            (refused.status, &refused.json()["field"]),
            (StatusCode::BAD_REQUEST, &json!(field)),
            "{body}"
        );
    }
    let resumed = server.post("/v1/jobs/a/resume", "").await;
    assert_eq!(resumed.status, StatusCode::OK, "{}", resumed.text);
    assert_eq!(server.get("/v1/jobs/a/why").await.json()["reasons"][0]["code"], json!("not_due"));
}

#[tokio::test]
async fn bad_requests_are_told_what_is_wrong_and_harm_nothing() {
    let server = Server::start(succeed).await;
    server.create(json!({"name": "a", "command": "x", "schedule": FAR, "disabled": true})).await;
    let before = server.node.projection.read().state().clone();
    let json_type = [("content-type", "application/json")];
    let check =
        async |method: Method, path: &str, headers: &[(&str, &str)], body: &str, status: u16, code: &str| {
            let request = Request::builder().method(method.clone()).uri(path);
            let request =
                headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
            let request = request
                .header("content-length", body.len())
                .body(Body::from(body.to_owned()))
                .expect("a request");
            let answer = server.send(request).await;
            let shown = format!("{method} {path}: {}", answer.text);
            assert_eq!((answer.status.as_u16(), &answer.json()["code"]), (status, &json!(code)), "{shown}");
            assert_eq!(answer.header("content-type"), "application/json", "{shown}");
            assert_eq!(answer.json()["status"], json!(answer.status.canonical_reason()), "{shown}");
            assert!(answer.headers.get("access-control-allow-origin").is_none(), "{shown}");
        };
    let post = |body| (Method::POST, "/v1/scheduler/iso8601", body);
    let deep = "[".repeat(10_000);
    let large = format!(r#"{{"name":"b","command":"{}"}}"#, "x".repeat(100_000));
    let huge = " ".repeat(2 * 1024 * 1024);
    for (status, code, (method, path, body)) in [
        (400, "malformed", post("{")),
        (400, "malformed", post("")),
        (400, "malformed", post(&deep)),
        (413, "too_large", post(&large)),
        (413, "too_large", post(&huge)),
        (400, "invalid", post(r#"{"name":"b","retries":"many"}"#)),
        (400, "invalid", post(r#"{"name":"../b"}"#)),
        (400, "invalid", post(r#"{"name":"b","schedule":"R//PT0S"}"#)),
        (400, "invalid", post(r#"{"name":"b","schedule":"R//P1D","parents":["a"]}"#)),
        (400, "invalid", post(r#"{"name":"b","schedule":"R//P1D","scheduleTimeZone":"Mars"}"#)),
        (400, "no_parents", (Method::POST, "/v1/scheduler/dependency", r#"{"name":"b","parents":[]}"#)),
        (409, "disabled", (Method::PUT, "/v1/scheduler/job/a", "")),
        (404, "no_such_job", (Method::PUT, "/v1/scheduler/job/b", "")),
        (404, "no_such_job", (Method::DELETE, "/v1/scheduler/job/b", "")),
        (404, "no_such_job", (Method::DELETE, "/v1/scheduler/task/kill/b", "")),
        (404, "no_such_job", (Method::PUT, "/v1/scheduler/job/success/b", "")),
        (404, "no_such_job", (Method::GET, "/v1/jobs/b/why", "")),
        (404, "no_such_job", (Method::GET, "/v1/jobs/b/next", "")),
        (400, "invalid", (Method::GET, "/v1/scheduler/job/..", "")),
        (400, "invalid", (Method::GET, "/v1/scheduler/job/%2e%2e%2fetc%2fpasswd", "")),
        (400, "invalid", (Method::GET, "/v1/scheduler/job/a%00b", "")),
        (400, "invalid", (Method::GET, "/v1/scheduler/job/%ff", "")),
        (400, "invalid", (Method::GET, "/v1/scheduler/jobs/search?limit=x", "")),
        (400, "invalid", (Method::GET, "/v1/jobs?limit=0", "")),
        (400, "invalid", (Method::GET, "/v1/jobs?state=odd", "")),
        (400, "invalid", (Method::GET, "/v1/next?count=100000", "")),
        (400, "invalid", (Method::GET, "/v1/runs?outcome=fine", "")),
        (400, "invalid", (Method::GET, "/v1/runs?from=yesterday", "")),
        (400, "invalid", (Method::GET, "/v1/runs?cursor=x", "")),
        (400, "invalid", (Method::GET, "/v1/runs/nonsense", "")),
        (404, "no_such_run", (Method::GET, "/v1/runs/1-i0", "")),
        (404, "no_such_run", (Method::GET, "/v1/runs/1-i0/output?follow=true", "")),
        (404, "not_found", (Method::GET, "/v1/scheduler/nothing", "")),
        (404, "not_found", (Method::GET, "/leader", "")),
        (404, "not_found", (Method::GET, "/../etc/passwd", "")),
        (405, "method_not_allowed", (Method::DELETE, "/v1/scheduler/iso8601", "")),
    ] {
        let headers: &[_] = if method == Method::POST { &json_type } else { &[] };
        check(method, path, headers, body, status, code).await;
    }
    let form = ("content-type", "application/x-www-form-urlencoded");
    let valid = r#"{"name":"b","schedule":"R//P1D"}"#;
    for (status, code, headers, body) in [
        (415, "unsupported_media_type", vec![], valid),
        (415, "unsupported_media_type", vec![form], valid),
        (415, "unsupported_media_type", vec![("content-type", "text/plain")], valid),
        (403, "cross_site", vec![json_type[0], ("sec-fetch-site", "cross-site")], valid),
        (421, "unknown_host", vec![json_type[0], ("host", "evil.example")], valid),
        (421, "unknown_host", vec![json_type[0], ("host", "127.0.0.1.evil.example:4400")], valid),
    ] {
        check(Method::POST, "/v1/scheduler/iso8601", &headers, body, status, code).await;
    }
    check(Method::POST, "/v1/jobs/a/resume", &[], "", 415, "unsupported_media_type").await;
    check(Method::PUT, "/v1/scheduler/job/a", &[form], "", 415, "unsupported_media_type").await;
    assert_eq!(*server.node.projection.read().state(), before, "nothing has changed");
    for host in ["localhost", "LOCALHOST:1", "127.0.0.1:4400", "127.8.8.8", "[::1]:4400", "known.example:80"]
    {
        let answer = server
            .send(Request::get("/v1/status").header("host", host).body(Body::empty()).expect("a request"))
            .await;
        assert_eq!(answer.status, StatusCode::OK, "{host}");
    }
    let ping = server
        .send(Request::get("/ping").header("host", "evil").body(Body::empty()).expect("a request"))
        .await;
    assert_eq!((ping.text.as_str(), ping.header("content-type")), ("pong\n", "text/plain"));
}

#[tokio::test]
async fn a_node_that_does_not_lead_says_who_does() {
    let store = MemoryStore::new(MemoryCore::new(7));
    let other = store.another();
    other.begin_term(&candidate("other")).await.expect("leads");
    let server = Server::on(store, succeed);
    server.until(|node| node.status().role == Role::Standby && node.outlook().current_at.is_some()).await;
    let refused = server.post("/v1/scheduler/iso8601", json!({"name": "a", "schedule": FAR})).await;
    assert_eq!(
        (refused.status, &refused.json()["code"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("not_leading"))
    );
    assert_eq!((refused.json()["leader"].clone(), refused.header("retry-after")), (json!("other:4400"), "1"));
    assert_eq!(server.get("/v1/scheduler/leader").await.json(), json!({"leader": "other:4400"}));
    let ready = server.get("/ready").await;
    assert_eq!((ready.status, &ready.json()["role"]), (StatusCode::OK, &json!("standby")));
}

/// It owes slots from here on, and holds on to the right to lead.
#[tokio::test]
async fn a_node_whose_scheduler_stands_still_is_not_ready() {
    let server = Server::start(succeed).await;
    server.until_get("/ready", |ready| ready["ready"] == true).await;
    server.task.stand_still();
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(server.get("/ready").await.status, StatusCode::OK);
    tokio::time::advance(Duration::from_secs(10)).await;
    let ready = server.get("/ready").await;
    assert_eq!((ready.status, &ready.json()["role"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("leading")));
    assert!(ready.text.contains("the scheduler of this node has not moved for 2"), "{}", ready.text);
}

#[tokio::test]
async fn health_readiness_and_status_tell_the_truth() {
    let server = Server::start(succeed).await;
    assert_eq!(server.get("/health").await.json(), json!({"healthy": true}));
    server.until_get("/ready", |ready| ready["ready"] == true).await;
    server.machine.set_readiness(engine::Readiness::NotReady { reason: "no disk".into() });
    let ready = server.get("/ready").await;
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(ready.text.contains("no disk"), "{}", ready.text);
    let status = server.get("/v1/status").await.json();
    assert_eq!(
        (&status["role"], &status["store"], &status["node"]),
        (&json!("leading"), &json!("memory"), &json!("here"))
    );
    let page = server.get("/").await;
    assert!(page.header("content-security-policy").starts_with("default-src 'none'; script-src 'nonce-"));
    assert!(!page.text.contains("{{nonce}}") && page.text.contains("<script nonce="));
    assert_eq!(page.header("x-content-type-options"), "nosniff");
}

#[tokio::test]
async fn a_read_waits_for_the_write_it_names() {
    let server = Server::start(succeed).await;
    server.create(json!({"name": "a", "schedule": FAR})).await;
    let read = async |seq: &str| {
        let request = Request::get("/v1/jobs").header("x-chronos-seq", seq);
        server.send(request.body(Body::empty()).expect("a request")).await
    };
    assert_eq!(read(&server.node.projection.seq().0.to_string()).await.status, StatusCode::OK);
    assert_eq!(read("soon").await.json()["field"], json!("X-Chronos-Seq"));
    let ahead = (server.node.projection.seq().0 + 1).to_string();
    let write = async {
        server.create(json!({"name": "b", "schedule": FAR})).await;
    };
    let (seen, ()) = tokio::join!(read(&ahead), write);
    assert_eq!(seen.json()["total"], json!(2));
    let never = (server.node.projection.seq().0 + 1000).to_string();
    tokio::time::pause();
    let behind = read(&never).await;
    assert_eq!((behind.status, &behind.json()["code"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("behind")));
}

/// Reads a stream until `ends` is in it.
async fn read_until(server: &Server, request: Request<Body>, ends: &str) -> String {
    use futures_util::StreamExt as _;
    let response = server.app.clone().oneshot(request).await.expect("infallible");
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let (mut stream, mut text) = (response.into_body().into_data_stream(), String::new());
    while !text.contains(ends) {
        let piece = tokio::time::timeout(Duration::from_secs(60), stream.next()).await;
        let piece = piece.unwrap_or_else(|_| panic!("`{ends}` did not come: {text}"));
        text.push_str(&String::from_utf8_lossy(&piece.expect("goes on").expect("bytes")));
    }
    text
}

#[tokio::test]
async fn events_come_as_they_happen_and_after_a_reconnect() {
    let server = Server::start(succeed).await;
    server.create(json!({"name": "a", "command": "x", "schedule": FAR})).await;
    let before = server.node.projection.seq().0;
    let listen = read_until(
        &server,
        Request::get("/v1/events").body(Body::empty()).expect("a request"),
        "\"outcome\":\"succeeded\"",
    );
    let trigger = async {
        tokio::task::yield_now().await;
        server.change(Method::PUT, "/v1/scheduler/job/a").await
    };
    let (text, run) = tokio::join!(listen, trigger);
    let key = run.header("x-chronos-run");
    assert!(text.starts_with("event: hello\n"), "{text}");
    assert!(text.contains("event: run\n") && text.contains(&format!("\"run\":\"{key}\"")), "{text}");
    assert!(text.contains("event: outcome\n"), "{text}");

    server.create(json!({"name": "b", "command": "x", "schedule": FAR})).await;
    let missed = Request::get("/v1/events?job=b").header("last-event-id", before.to_string());
    let text = read_until(&server, missed.body(Body::empty()).expect("a request"), "event: job\n").await;
    assert!(!text.contains("\"job\":\"a\"") && text.contains("event: job\n"), "{text}");
    let outcomes = Request::get("/v1/events?kind=outcome,job").header("last-event-id", before.to_string());
    let text = read_until(&server, outcomes.body(Body::empty()).expect("a request"), "event: job\n").await;
    assert!(text.contains("event: outcome\n") && !text.contains("event: run\n"), "{text}");
    let stranger = Request::get("/v1/events").header("last-event-id", "999999");
    read_until(&server, stranger.body(Body::empty()).expect("a request"), "event: reset\n").await;
}

#[tokio::test]
async fn mark_success_lets_the_children_go_on() {
    let server = Server::start(|launch| {
        if launch.spec.command == "false" {
            Behaviour::End(AttemptEnd::failed("no"))
        } else {
            Behaviour::End(AttemptEnd::Succeeded)
        }
    })
    .await;
    server.create(json!({"name": "a", "command": "false", "retries": 0, "schedule": FAR})).await;
    server.create(json!({"name": "b", "command": "true", "parents": ["a"]})).await;
    server.change(Method::PUT, "/v1/scheduler/job/a").await;
    server
        .until_get("/v1/runs?job=b&outcome=skipped", |page| page["runs"][0]["reason"] == "upstream a failed")
        .await;
    let marked = server.change(Method::PUT, "/v1/scheduler/job/success/a").await;
    assert_eq!((marked.status, marked.text.as_str()), (StatusCode::OK, "marked job a as successful: true"));
    server
        .until_get("/v1/runs?job=b&outcome=succeeded", |page| {
            page["runs"].as_array().is_some_and(|r| r.len() == 1)
        })
        .await;
    let job = server.get("/scheduler/job/a").await.json();
    assert_eq!((&job["successCount"], &job["errorsSinceLastSuccess"]), (&json!(1), &json!(0)));
    assert_eq!((&job["errorCount"], &job["schedule"]), (&json!(1), &json!(FAR)));
}

/// A parameter whose place nobody says counts as one of the path, and would be refused in the query.
#[test]
fn the_document_says_where_each_parameter_stands() {
    let document = serde_json::to_value(openapi()).expect("JSON");
    for (path, operations) in document["paths"].as_object().expect("paths") {
        let operations = operations.as_object().into_iter().flat_map(|operations| operations.values());
        for parameter in
            operations.flat_map(|operation| operation["parameters"].as_array().into_iter().flatten())
        {
            let name = parameter["name"].as_str().expect("a name");
            let of_path = path.contains(&format!("{{{name}}}"));
            assert_eq!(parameter["in"] == "path", of_path, "{path}: {name}");
        }
    }
}

/// `UPDATE_GOLDEN=1` rewrites it.
#[test]
fn the_document_is_the_one_that_is_checked_in() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../openapi.json");
    let now = openapi().to_pretty_json().expect("JSON") + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &now).expect("writable");
    }
    let checked_in = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        now == checked_in,
        "openapi.json is not what the code says: run the tests with UPDATE_GOLDEN=1 and look at the difference"
    );
}
