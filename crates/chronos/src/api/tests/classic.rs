//! The endpoints of Chronos that the other tests do not speak of.

use std::io::Read as _;

use flate2::read::GzDecoder;

use super::*;

const PREFIXES: [&str; 2] = ["/v1/scheduler", "/scheduler"];

impl Server {
    async fn with(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answered {
        let request = Request::builder().method(method).uri(path);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        self.send(request.body(Body::from(body.to_owned())).expect("a request")).await
    }

    /// Runs a job and waits until that run has ended.
    async fn run(&self, job: &str) -> Value {
        let started = self.change(Method::PUT, &format!("/v1/scheduler/job/{job}")).await;
        let key = started.header("x-chronos-run").to_owned();
        self.until_get(&format!("/v1/runs/{key}"), |run| run["state"] == "ended").await
    }

    /// The id of the task that a job runs.
    async fn task(&self, job: &str) -> String {
        let runs = format!("/v1/runs?job={job}&outcome=running");
        let page = self.until_get(&runs, |page| page["runs"][0]["attempts"][0].is_object()).await;
        page["runs"][0]["attempts"][0]["task"].as_str().expect("text").to_owned()
    }
}

/// Fails `false`, goes on with `sleep`, succeeds with all else.
fn as_commanded(launch: &engine::Launch) -> Behaviour {
    match launch.spec.command.as_str() {
        "false" => Behaviour::End(AttemptEnd::failed("no")),
        "sleep" => Behaviour::Run,
        _ => Behaviour::End(AttemptEnd::Succeeded),
    }
}

#[tokio::test]
async fn both_prefixes_answer_and_both_methods_put() {
    let server = Server::start(succeed).await;
    for (i, prefix) in PREFIXES.into_iter().enumerate() {
        for method in [Method::POST, Method::PUT] {
            let (root, child) = (format!("root{i}{method}"), format!("child{i}{method}"));
            let jobs = [
                ("iso8601", json!({"name": root, "command": "x", "schedule": FAR})),
                ("dependency", json!({"name": child, "command": "x", "parents": [root]})),
            ];
            for (door, job) in jobs {
                let json = [("content-type", "application/json")];
                let path = format!("{prefix}/{door}");
                let answer = server.with(method.clone(), &path, &json, &job.to_string()).await;
                assert_eq!((answer.status, answer.text.as_str()), (StatusCode::NO_CONTENT, ""), "{path}");
                let name = job["name"].as_str().expect("text");
                let read = server.get(&format!("{prefix}/job/{name}")).await;
                assert_eq!(read.status, StatusCode::OK, "what is answered can be read");
            }
        }
        for path in ["jobs", "jobs/summary", "jobs/search", "job/stat/root0POST", "graph/dot", "graph/csv"] {
            assert_eq!(server.get(&format!("{prefix}/{path}")).await.status, StatusCode::OK, "{path}");
        }
        for path in ["stats/median", "leader"] {
            assert_eq!(server.get(&format!("{prefix}/{path}")).await.status, StatusCode::OK, "{path}");
        }
        let marked = server.change(Method::PUT, &format!("{prefix}/job/success/root0POST")).await;
        assert_eq!(marked.text, "marked job root0POST as successful: true");
        for (method, path) in [
            (Method::PUT, "job/root0POST"),
            (Method::DELETE, "task/kill/root0POST"),
            (Method::DELETE, "task/all"),
            (Method::DELETE, &format!("job/child{i}POST")),
        ] {
            let answer = server.change(method, &format!("{prefix}/{path}")).await;
            assert_eq!((answer.status, answer.text.as_str()), (StatusCode::NO_CONTENT, ""), "{path}");
        }
    }
}

#[tokio::test]
async fn a_replacement_keeps_what_the_server_has_counted() {
    let server = Server::start(succeed).await;
    server.create(json!({"name": "a", "command": "x", "schedule": FAR})).await;
    server.run("a").await;
    let counted = server.get("/v1/scheduler/job/a").await.json();
    assert_eq!(counted["successCount"], json!(1));
    let counters = json!({"name": "a", "command": "y", "schedule": FAR, "successCount": 40, "lastSuccess": "",
        "errorCount": 7, "errorsSinceLastSuccess": 7, "lastError": "2030-01-01T00:00:00.000Z"});
    server.create(counters).await;
    let after = server.get("/v1/scheduler/job/a").await.json();
    for key in ["successCount", "errorCount", "errorsSinceLastSuccess", "lastSuccess", "lastError"] {
        assert_eq!(after[key], counted[key], "{key}");
    }
    assert_eq!(after["command"], json!("y"));
}

#[tokio::test]
async fn statistics_are_made_of_what_was() {
    let server = Server::start(as_commanded).await;
    server.create(json!({"name": "fine", "command": "true", "schedule": FAR})).await;
    server.create(json!({"name": "bad", "command": "false", "retries": 0, "schedule": FAR})).await;
    server.create(json!({"name": "long", "command": "sleep", "schedule": FAR})).await;
    for _ in 0..6 {
        server.run("fine").await;
    }
    server.run("bad").await;
    server.change(Method::PUT, "/v1/scheduler/job/long").await;
    let task = server.task("long").await;

    let stat = server.get("/v1/scheduler/job/stat/fine").await.json();
    let keys: Vec<_> = stat["histogram"].as_object().expect("an object").keys().cloned().collect();
    assert_eq!(
        keys,
        ["75thPercentile", "95thPercentile", "98thPercentile", "99thPercentile", "median", "mean", "count"]
    );
    assert_eq!(stat["histogram"]["count"], json!(6));
    let tasks = stat["taskStatHistory"].as_array().expect("a list");
    assert_eq!(tasks.len(), 5, "the newest five");
    let first = &tasks[0];
    assert_eq!(
        (&first["jobName"], &first["slaveId"], &first["status"], &first["duration"]),
        (&json!("fine"), &json!("here"), &json!("Success"), &json!("0s"))
    );
    assert!(first["taskId"].as_str().is_some_and(|id| TaskId::parse(id).is_some()), "{first}");
    let time = first["startTime"].as_str().expect("text").to_owned();
    assert!(jiff::civil::DateTime::strptime("%m/%d/%y %H:%M:%S", &time).is_ok(), "{time}");

    let stat = server.get("/v1/scheduler/job/stat/bad").await.json();
    assert_eq!(
        (&stat["histogram"]["count"], &stat["taskStatHistory"][0]["status"]),
        (&json!(0), &json!("Fail"))
    );
    let running = server
        .until_get("/v1/scheduler/job/stat/long", |stat| stat["taskStatHistory"][0]["status"] == "Running")
        .await;
    let shown = &running["taskStatHistory"][0];
    assert_eq!((&shown["taskId"], &shown["endTime"]), (&json!(task), &json!("N/A")));
    assert!(shown.get("duration").is_none() && shown.get("numElementsProcessed").is_none(), "{shown}");

    let times = server.get("/v1/scheduler/stats/99thPercentile").await.json();
    let labels: Vec<_> =
        times.as_array().expect("a list").iter().map(|row| row["jobNameLabel"].clone()).collect();
    assert_eq!(labels.len(), 3, "all jobs, {times}");
    assert!(times.as_array().expect("a list").iter().all(|row| row["time"].is_number()), "{times}");
    let counts = server.get("/v1/scheduler/stats/count").await.json();
    assert_eq!(counts[0], json!({"jobNameLabel": "fine", "time": 0.006}));
    assert_eq!(server.get("/v1/scheduler/stats/50thPercentile").await.text, "[]");
    let unknown = server.get("/v1/scheduler/job/stat/none").await;
    assert_eq!((unknown.status, &unknown.json()["code"]), (StatusCode::NOT_FOUND, &json!("no_such_job")));
}

#[tokio::test]
async fn a_task_says_how_far_it_is() {
    let server = Server::start(as_commanded).await;
    let job =
        |data: bool| json!({"name": "a", "command": "sleep", "schedule": FAR, "dataProcessingJobType": data});
    server.create(job(true)).await;
    server.change(Method::PUT, "/v1/scheduler/job/a").await;
    let task = server.task("a").await;
    let path = format!("/v1/scheduler/job/a/task/{task}/progress");
    let say = async |body: Value| server.post(&path, body).await;
    for n in [5, 7] {
        let said = say(json!({"numAdditionalElementsProcessed": n, "other": 1})).await;
        assert_eq!((said.status, said.text.as_str()), (StatusCode::NO_CONTENT, ""));
    }
    assert_eq!(say(json!({})).await.status, StatusCode::NO_CONTENT);
    let shown = async || server.get("/v1/scheduler/job/stat/a").await.json()["taskStatHistory"][0].clone();
    assert_eq!(shown().await["numElementsProcessed"], json!(12));

    let once = [("content-type", "application/json"), ("idempotency-key", "k")];
    for _ in 0..2 {
        let said = server.with(Method::POST, &path, &once, r#"{"numAdditionalElementsProcessed":1}"#).await;
        assert!(said.status.is_success(), "{}", said.text);
    }
    assert_eq!(shown().await["numElementsProcessed"], json!(13), "with a key it is added once");

    let refused = async |path: &str, body: Value, status: u16, field: &str| {
        let answer = server.post(path, &body).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["field"]), (status, &json!(field)), "{body}");
    };
    refused(&path, json!({"numAdditionalElementsProcessed": -1}), 400, "numAdditionalElementsProcessed")
        .await;
    let said = server.post("/v1/scheduler/job/b/task/x/progress", "{}").await;
    assert_eq!((said.status, &said.json()["code"]), (StatusCode::NOT_FOUND, &json!("no_such_job")));
    let said = server.post("/v1/scheduler/job/a/task/ct:1893456000000:0:a:/progress", "{}").await;
    assert_eq!((said.status, &said.json()["code"]), (StatusCode::NOT_FOUND, &json!("no_such_task")));

    server.change(Method::DELETE, "/v1/scheduler/task/kill/a").await;
    server.until_get("/v1/runs?job=a&outcome=killed", |page| page["runs"][0].is_object()).await;
    assert_eq!(shown().await["numElementsProcessed"], json!(13), "it is kept in the history");
    let run = server.get("/v1/runs?job=a").await.json()["runs"][0].clone();
    assert_eq!(run["attempts"][0]["elements"], json!(13));
    let late = say(json!({"numAdditionalElementsProcessed": 1})).await;
    assert_eq!((late.status, &late.json()["code"]), (StatusCode::NOT_FOUND, &json!("no_such_task")));
    server.create(job(false)).await;
    refused(&path, json!({"numAdditionalElementsProcessed": 1}), 400, "dataProcessingJobType").await;
    assert!(shown().await.get("numElementsProcessed").is_none(), "only of jobs that process data");
}

#[tokio::test]
async fn what_a_task_says_of_its_end_is_checked_against_what_the_engine_knows() {
    let server = Server::start(as_commanded).await;
    for (name, command) in [("a-1", "true"), ("b", "false"), ("c", "sleep")] {
        server.create(json!({"name": name, "command": command, "retries": 0, "schedule": FAR})).await;
    }
    let task = |run: &Value| run["attempts"][0]["task"].as_str().expect("text").to_owned();
    let (fine, bad) = (task(&server.run("a-1").await), task(&server.run("b").await));
    server.change(Method::PUT, "/v1/scheduler/job/c").await;
    let running = server.task("c").await;
    let say = async |task: &str, body: &str| {
        let json = [("content-type", "application/json")];
        let answer = server.with(Method::PUT, &format!("/scheduler/task/{task}"), &json, body).await;
        let code = if answer.text.is_empty() { Value::Null } else { answer.json()["code"].clone() };
        (answer.status.as_u16(), code)
    };
    let (good, failed) = (r#"{"statusCode":0}"#, r#"{"statusCode":"1"}"#);
    for (task, body, status, code) in [
        (&*fine, good, 204, Value::Null),
        (&*bad, failed, 204, Value::Null),
        (&*running, good, 204, Value::Null),
        (&*fine, failed, 409, json!("contradicted")),
        (&*bad, good, 409, json!("contradicted")),
        (&*running, failed, 409, json!("contradicted")),
        (&*fine, "{}", 400, json!("invalid")),
        (&*fine, "{", 400, json!("malformed")),
        ("ct:1:0:a:", good, 404, json!("no_such_task")),
        ("x-1-t99-0", good, 404, json!("no_such_task")),
    ] {
        assert_eq!(say(task, body).await, (status, code), "{task} {body}");
    }
    assert!(server.get("/v1/runs?job=c&outcome=running").await.json()["runs"][0].is_object(), "it goes on");
}

#[tokio::test]
async fn a_purge_ends_what_waits_and_nothing_else() {
    let server = Server::start(as_commanded).await;
    server.create(json!({"name": "long", "command": "sleep", "schedule": FAR})).await;
    server.create(json!({"name": "bad", "command": "false", "schedule": FAR})).await;
    for job in ["long", "long", "bad"] {
        server.change(Method::PUT, &format!("/v1/scheduler/job/{job}")).await;
    }
    server.task("long").await;
    server.until_get("/v1/runs?outcome=waiting", |page| page["runs"][0]["job"] == "bad").await;
    let purged = server.change(Method::DELETE, "/scheduler/task/all").await;
    assert_eq!((purged.status, purged.text.as_str()), (StatusCode::NO_CONTENT, ""));
    let live = server.get("/v1/runs?outcome=live").await.json();
    let states: Vec<_> =
        live["runs"].as_array().expect("a list").iter().map(|run| run["state"].clone()).collect();
    assert_eq!(states, ["running"]);
    let page = server.get("/v1/runs?outcome=skipped,killed").await.json();
    assert_eq!(page["runs"].as_array().map(Vec::len), Some(2), "each has its outcome: {page}");
}

#[tokio::test]
async fn the_framework_answers_in_json_too() {
    let server = Server::start(succeed).await;
    server.create(json!({"name": "a", "command": "x", "schedule": FAR})).await;
    let check = async |method: Method, path: &str, accept: &str, status: u16, code: &str| {
        let answer = server.with(method, path, &[("accept", accept)], "").await;
        assert_eq!((answer.status.as_u16(), &answer.json()["code"]), (status, &json!(code)), "{path}");
        assert_eq!(answer.header("content-type"), "application/json", "{path}");
    };
    for prefix in PREFIXES {
        let at = |path: &str| format!("{prefix}/{path}");
        check(Method::GET, &at("jobs"), "text/html", 406, "not_acceptable").await;
        check(Method::PUT, &at("job/a"), "image/png, application/json;q=0", 406, "not_acceptable").await;
        check(Method::GET, &at("graph/csv"), "application/json", 406, "not_acceptable").await;
        check(Method::GET, &at("nothing"), "*/*", 404, "not_found").await;
        check(Method::PATCH, &at("job/a"), "*/*", 405, "method_not_allowed").await;
        for accept in ["*/*", "application/json", "text/html, application/*;q=0.1"] {
            assert_eq!(server.with(Method::GET, &at("jobs"), &[("accept", accept)], "").await.status, 200);
        }
    }
    let none = server.get("/v1/runs").await.json()["runs"].as_array().map(Vec::len);
    assert_eq!(none, Some(0), "what is not acceptable is not done");
}

#[tokio::test]
async fn options_say_what_a_path_knows_and_allow_nothing_to_other_sites() {
    let server = Server::start(succeed).await;
    for (path, methods) in [
        ("/v1/scheduler/iso8601", vec!["OPTIONS", "POST", "PUT"]),
        ("/scheduler/job/a", vec!["DELETE", "GET", "HEAD", "OPTIONS", "PUT"]),
        ("/ping", vec!["GET", "HEAD", "OPTIONS"]),
    ] {
        let asked = [("origin", "http://evil.example"), ("access-control-request-method", "POST")];
        let answer = server.with(Method::OPTIONS, path, &asked, "").await;
        assert_eq!((answer.status, answer.text.as_str()), (StatusCode::NO_CONTENT, ""), "{path}");
        let mut allowed: Vec<_> = answer.header("allow").split(',').collect();
        allowed.sort_unstable();
        assert_eq!(allowed, methods, "{path}");
        assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("access-control")), "{path}");
    }
    assert_eq!(server.with(Method::OPTIONS, "/nothing", &[], "").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn answers_are_compressed_for_those_who_can_read_them() {
    let server = Server::start(succeed).await;
    for i in 0..20 {
        server.create(json!({"name": format!("job{i:02}"), "command": "x", "schedule": FAR})).await;
    }
    let plain = server.get("/v1/scheduler/jobs").await;
    assert_eq!(plain.header("content-encoding"), "");
    let request = Request::get("/v1/scheduler/jobs").header("accept-encoding", "gzip, deflate");
    let response = server.app.clone().oneshot(request.body(Body::empty()).expect("a request")).await;
    let response = response.expect("infallible");
    assert_eq!(response.headers()["content-encoding"], "gzip");
    assert_eq!(response.headers()["vary"], "accept-encoding");
    let bytes = to_bytes(response.into_body(), 1 << 24).await.expect("a body");
    assert!(bytes.len() * 5 < plain.text.len(), "{} of {} bytes", bytes.len(), plain.text.len());
    let mut text = String::new();
    GzDecoder::new(&bytes[..]).read_to_string(&mut text).expect("gzip");
    assert_eq!(text, plain.text);
}

#[tokio::test]
async fn what_comes_in_pieces_is_compressed_to_its_end() {
    let server = Server::start(succeed).await;
    server.create(json!({"name": "a", "command": "x", "schedule": FAR})).await;
    let run = server.run("a").await;
    let task = TaskId::parse(run["attempts"][0]["task"].as_str().expect("text")).expect("a task id");
    server.machine.write(&task, Stream::Stdout, &b"line of output\n".repeat(20_000));
    for path in ["/v1/backup".to_owned(), format!("/v1/runs/{}/output", run["key"].as_str().expect("text"))] {
        let plain = server.get(&path).await.text;
        let request = Request::get(&path).header("accept-encoding", "gzip");
        let response = server.app.clone().oneshot(request.body(Body::empty()).expect("a request")).await;
        let response = response.expect("infallible");
        assert_eq!(response.headers()["content-encoding"], "gzip", "{path}");
        let bytes = to_bytes(response.into_body(), 1 << 24).await.expect("a body");
        let mut text = String::new();
        GzDecoder::new(&bytes[..]).read_to_string(&mut text).expect("gzip to its end");
        assert_eq!(text.lines().count(), plain.lines().count(), "{path}");
    }
}

#[tokio::test]
async fn metrics_have_the_names_of_chronos_for_those_who_want_them() {
    let server = Server::start(as_commanded).await;
    server.create(json!({"name": "fine", "command": "true", "schedule": FAR})).await;
    server.create(json!({"name": "bad", "command": "false", "retries": 0, "schedule": FAR})).await;
    server.create(json!({"name": "long", "command": "sleep", "highPriority": true, "schedule": FAR})).await;
    server.run("fine").await;
    server.run("bad").await;
    server.change(Method::PUT, "/v1/scheduler/job/long").await;
    server.task("long").await;
    server.change(Method::PUT, "/v1/scheduler/job/long").await;
    let json = [("accept", "application/json")];
    let answer = server.with(Method::GET, "/metrics", &json, "").await;
    assert_eq!(answer.header("content-type"), "application/json");
    let told = answer.json();
    let keys: Vec<_> = told.as_object().expect("an object").keys().cloned().collect();
    assert_eq!(keys, ["version", "gauges", "counters", "histograms", "meters", "timers"]);
    assert_eq!(
        told["counters"],
        json!({"jobs.run.failure.bad": {"count": 1}, "jobs.run.success.fine": {"count": 1}})
    );
    let manager = "org.apache.mesos.chronos.scheduler.jobs.TaskManager";
    assert_eq!(told["gauges"][format!("{manager}.highQueueSize")], json!({"value": 1}));
    assert_eq!(told["gauges"][format!("{manager}.queueSize")], json!({"value": 0}));
    let histogram = &told["histograms"]["jobs.run.time.fine"];
    assert_eq!(histogram["count"], json!(1));
    for key in ["max", "mean", "min", "p50", "p75", "p95", "p98", "p99", "p999", "stddev"] {
        assert!(histogram[key].is_number(), "{key}: {histogram}");
    }
    assert_eq!(server.get("/metrics").await.json()["version"], json!("3.0.0"), "who does not say is of old");
    let pretty = server.get("/metrics?pretty=true").await;
    assert!(pretty.text.lines().count() > 20 && pretty.json()["counters"] == told["counters"]);
    for accept in ["*/*", "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"] {
        let text = server.with(Method::GET, "/metrics", &[("accept", accept)], "").await;
        assert_eq!(text.header("content-type"), "text/plain; version=0.0.4; charset=utf-8", "{accept}");
    }
}

#[tokio::test]
async fn what_has_no_effect_is_kept_and_said_wherever_someone_looks() {
    let server = Server::start(succeed).await;
    let definition = json!({"name": "a", "command": "x", "schedule": FAR, "constraints": [["rack", "EQUALS", "r1"]],
        "executor": "/bin/executor", "taskInfoData": "data", "disk": 1024.0, "async": true});
    let answer = server.post("/scheduler/iso8601?verbose=true", &definition).await;
    let told = answer.json()["warnings"].clone();
    let about: Vec<_> = told
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|told| told.as_str()?.split(": ").next())
        .collect();
    assert_eq!(about, ["`executor`, `taskInfoData`", "`constraints`", "`disk`", "`async`"]);
    assert_eq!(serde_json::from_str::<Value>(answer.header("x-chronos-warnings")).expect("JSON"), told);
    let job = server.get("/v1/jobs/a").await.json();
    assert_eq!(job["warnings"], told);
    for (key, value) in definition.as_object().expect("an object") {
        assert_eq!(&job["definition"][key], value, "{key} is kept");
    }
    let why = server.get("/v1/jobs/a/why").await.json();
    let reasons = why["reasons"].as_array().expect("a list").iter();
    let reasons: Vec<_> =
        reasons.filter(|r| r["code"] == "no_effect").map(|r| r["message"].clone()).collect();
    assert_eq!(json!(reasons), told);
    let body = definition.to_string();
    let put = server.with(Method::PUT, "/v1/jobs/a", &[("content-type", "application/json")], &body).await;
    assert_eq!(put.json()["warnings"], told, "at the new endpoint too");
    let set = server.post("/v1/apply", json!({"jobs": [definition], "dryRun": true})).await.json();
    assert_eq!(set["jobs"][0]["warnings"], told, "and in a set");
}

#[tokio::test]
async fn a_zone_of_java_is_shown_as_written_where_it_was_written() {
    let server = Server::start(succeed).await;
    let schedule = "R/2099-07-01T03:00:00Z/P1D";
    let definition = json!({"name": "a", "command": "x", "schedule": schedule, "scheduleTimeZone": "PST"});
    let answer = server.post("/v1/scheduler/iso8601", &definition).await;
    assert!(answer.header("x-chronos-warnings").contains("America/Los_Angeles"), "{}", answer.text);
    let zone = async |path: &str, pointer: &str| {
        server.get(path).await.json().pointer(pointer).cloned().unwrap_or_default()
    };
    assert_eq!(zone("/scheduler/job/a", "/scheduleTimeZone").await, json!("PST"));
    assert_eq!(zone("/scheduler/jobs", "/0/scheduleTimeZone").await, json!("PST"));
    let region = json!("America/Los_Angeles");
    assert_eq!(zone("/v1/jobs/a", "/definition/scheduleTimeZone").await, region);
    assert_eq!(zone("/v1/definitions?job=a", "/definitions/0/scheduleTimeZone").await, region);
    assert_eq!(zone("/v1/jobs/a/next?count=1", "/slots/0/due").await, json!("2099-07-01T10:00:00.000Z"));
    let read = async || server.get("/v1/scheduler/job/a").await.text;
    let send = async |text: String| server.post("/v1/scheduler/iso8601?verbose=true", text).await.json();
    send(read().await).await;
    let before = read().await;
    assert_eq!(send(before.clone()).await["result"], json!("unchanged"), "what was read can be sent back");
    assert_eq!(read().await, before);
}

#[tokio::test]
async fn children_of_a_deleted_job_lose_nothing() {
    let server = Server::start(succeed).await;
    server.create(json!({"name": "root", "command": "x", "schedule": FAR, "scheduleTimeZone": "UTC"})).await;
    let child = json!({"name": "child", "command": "y", "parents": ["root"], "shell": false, "arguments": ["-v"],
        "description": "d", "ownerName": "o", "runAsUser": "nobody", "concurrent": true,
        "constraints": [["rack", "EQUALS", "r1"]], "dataProcessingJobType": true, "maxCompletionTime": 60,
        "environmentVariables": [{"name": "A", "value": "1"}], "container": {"image": "busybox"}});
    server.create(child).await;
    let before = server.get("/v1/scheduler/job/child").await.json();
    server.change(Method::DELETE, "/v1/scheduler/job/root").await;
    let after = server.get("/v1/scheduler/job/child").await.json();
    for (key, value) in before.as_object().expect("an object") {
        if key != "parents" {
            assert_eq!(&after[key], value, "{key}");
        }
    }
    assert_eq!(
        (&after["schedule"], &after["scheduleTimeZone"], after.get("parents")),
        (&json!(FAR), &json!("UTC"), None)
    );
}

#[tokio::test]
async fn a_manual_run_uses_up_no_repetition() {
    let server = Server::start(succeed).await;
    server.create(json!({"name": "a", "command": "x", "schedule": "R1/2099-01-01T00:00:00Z/P1D"})).await;
    server.run("a").await;
    let job = server.get("/v1/jobs/a").await.json();
    assert_eq!((&job["remaining"], &job["next"]), (&json!(1), &json!("2099-01-01T00:00:00.000Z")));
    assert_eq!(job["disabled"], json!(false));
}

#[tokio::test]
async fn a_job_that_is_disabled_while_it_runs_stays_so_when_it_fails() {
    let server = Server::start(as_commanded).await;
    let job = |disabled: bool| json!({"name": "a", "command": "sleep", "retries": 0, "schedule": FAR, "disabled": disabled});
    server.create(job(false)).await;
    server.change(Method::PUT, "/v1/scheduler/job/a").await;
    let task = server.task("a").await;
    server.create(job(true)).await;
    server.machine.end(&TaskId::parse(&task).expect("a task id"), AttemptEnd::failed("no"));
    server.until_get("/v1/scheduler/job/a", |job| job["errorCount"] == 1).await;
    assert_eq!(server.get("/v1/scheduler/job/a").await.json()["disabled"], json!(true));
}

/// How many runs of a job have begun by its schedule.
async fn slots_of(server: &Server, job: &str, expected: usize) {
    let runs = format!("/v1/runs?job={job}&cause=slot&outcome=succeeded");
    server.until_get(&runs, |page| page["runs"].as_array().map(Vec::len) == Some(expected)).await;
}

#[tokio::test]
async fn a_job_without_a_schedule_runs_at_every_post() {
    let server = Server::start(succeed).await;
    for (n, command) in (1..).zip(["x", "x", "y"]) {
        server.create(json!({"name": "a", "command": command})).await;
        slots_of(&server, "a", n).await;
    }
    let mut job = server.get("/scheduler/job/a").await.json();
    assert!(job["schedule"].as_str().is_some_and(|text| text.starts_with("R1/2")), "{job}");
    assert_eq!((&job["command"], &job["disabled"]), (&json!("y"), &json!(true)));
    // What was read has a schedule, which is over.
    job["disabled"] = json!(false);
    server.create(job).await;
    server.change(Method::PUT, "/scheduler/job/a").await;
    server
        .until_get("/v1/runs?job=a&cause=trigger&outcome=succeeded", |page| page["runs"][0].is_object())
        .await;
    slots_of(&server, "a", 3).await;
}

#[tokio::test]
async fn a_schedule_that_is_over_begins_anew_with_another_one() {
    let server = Server::start(succeed).await;
    let job = |schedule: &str| json!({"name": "a", "command": "x", "schedule": schedule, "disabled": false});
    let is_over = async || server.get("/scheduler/job/a").await.json()["disabled"].clone();
    server.create(job("R0/2099-01-01T00:00:00Z/P1D")).await;
    assert_eq!(is_over().await, json!(true), "it has no slot");
    server.create(job("R1/2024-01-01T00:00:00Z/P1D")).await;
    slots_of(&server, "a", 1).await;
    assert_eq!(is_over().await, json!(true));
    server.create(job("R2/2099-01-01T00:00:00Z/P1D")).await;
    assert_eq!(is_over().await, json!(false));
    assert_eq!(server.get("/v1/jobs/a").await.json()["remaining"], json!(2));
}

#[tokio::test]
async fn what_is_refused_changes_nothing_and_a_job_may_become_of_the_other_kind() {
    let server = Server::start(succeed).await;
    server.create(json!({"name": "a", "command": "x", "schedule": FAR})).await;
    server.create(json!({"name": "b", "command": "x", "schedule": FAR})).await;
    server.create(json!({"name": "c", "command": "x", "parents": ["a"]})).await;
    let before = server.get("/scheduler/jobs").await;
    assert!(!before.text.contains('\n'), "chronos-sync reads the first line alone");
    for (job, code) in [
        (json!({"name": "c", "parents": ["b", "gone"]}), "missing_parents"),
        (json!({"name": "c", "parents": ["b", "c"]}), "cycle"),
        (json!({"name": "c", "parents": []}), "no_parents"),
        (json!({"name": "c", "schedule": FAR}), "invalid"),
        (json!({"name": "a", "parents": ["b", "c"]}), "cycle"),
        (json!({"name": "b", "parents": ["gone"]}), "missing_parents"),
        (json!({"name": "new", "parents": ["new"]}), "cycle"),
    ] {
        let answer = server.post("/scheduler/dependency", &job).await;
        assert_eq!((answer.status, &answer.json()["code"]), (StatusCode::BAD_REQUEST, &json!(code)), "{job}");
    }
    assert_eq!(server.get("/scheduler/jobs").await.text, before.text);
    server.create(json!({"name": "b", "command": "x", "parents": ["c"]})).await;
    server.create(json!({"name": "c", "command": "x", "schedule": FAR})).await;
    let plans = async |name: &str| {
        let job = server.get(&format!("/scheduler/job/{name}")).await.json();
        (job.get("schedule").cloned(), job.get("parents").cloned())
    };
    assert_eq!(plans("b").await, (None, Some(json!(["c"]))));
    assert_eq!(plans("c").await, (Some(json!(FAR)), None));
}
