//! A store is taken and put back while the node goes on.

use std::convert::Infallible;

use futures_util::stream;
use tokio::sync::mpsc;

use super::*;

impl Server {
    async fn backup(&self) -> String {
        let taken = self.get("/v1/backup").await;
        assert_eq!((taken.status, taken.header("content-type")), (StatusCode::OK, "application/x-ndjson"));
        taken.text
    }

    async fn restore(&self, query: &str, backup: &str) -> Answered {
        let request =
            Request::post(format!("/v1/restore?{query}")).header("content-type", "application/x-ndjson");
        self.send(request.body(Body::from(backup.to_owned())).expect("a request")).await
    }

    async fn names(&self) -> Vec<String> {
        let jobs = self.get("/v1/jobs").await.json();
        let name = |job: &Value| job["name"].as_str().map(String::from);
        jobs["jobs"].as_array().into_iter().flatten().filter_map(name).collect()
    }
}

#[tokio::test]
async fn what_was_taken_comes_back_and_what_came_since_goes() {
    let server = Server::start(succeed).await;
    server.create(json!({"name": "old", "command": "true", "schedule": FAR})).await;
    server.change(Method::PUT, "/v1/scheduler/job/old").await;
    server.until_get("/v1/scheduler/job/old", |job| job["successCount"] == 1).await;
    let backup = server.backup().await;
    server.create(json!({"name": "new", "command": "true", "schedule": FAR})).await;
    server.change(Method::DELETE, "/v1/scheduler/job/old").await;

    let refused = server.restore("", &backup).await;
    assert_eq!((refused.status, &refused.json()["code"]), (StatusCode::CONFLICT, &json!("not_empty")));
    let checked = server.restore("dryRun=true", &backup).await.json();
    assert_eq!(
        (&checked["jobs"], &checked["records"], &checked["replaced"]),
        (&json!(1), &json!(1), &json!(1))
    );
    assert_eq!(server.names().await, ["new"], "nothing has changed so far");

    let restored = server.restore("replace=true", &backup).await;
    assert_eq!(restored.status, StatusCode::OK, "{}", restored.text);
    assert_eq!(server.names().await, ["old"]);
    assert_eq!(server.get("/v1/scheduler/job/old").await.json()["successCount"], json!(1));
    assert_eq!(server.get("/v1/runs").await.json()["runs"].as_array().map(Vec::len), Some(1));
    // It leads again, and goes on.
    server.until(|node| matches!(node.status().role, Role::Leading(_))).await;
    server.change(Method::PUT, "/v1/scheduler/job/old").await;
    let again = server.until_get("/v1/scheduler/job/old", |job| job["successCount"] == 2).await;
    assert_eq!(again["errorCount"], json!(0));
}

/// While the backup is on its way others go on.
#[tokio::test]
async fn a_job_that_is_made_while_a_backup_is_sent_is_not_replaced_unasked() {
    let server = Server::start(succeed).await;
    server.create(json!({"name": "old", "command": "true", "schedule": FAR})).await;
    let backup = server.backup().await;
    server.change(Method::DELETE, "/v1/scheduler/job/old").await;

    let (to, pieces) = mpsc::channel::<String>(1);
    let pieces = stream::unfold(pieces, |mut pieces| async move {
        Some((Ok::<_, Infallible>(pieces.recv().await?), pieces))
    });
    let request = Request::post("/v1/restore").header("content-type", "application/x-ndjson");
    let restoring = server.send(request.body(Body::from_stream(pieces)).expect("a request"));
    let (first, rest) = backup.split_at(backup.len() / 2);
    let meanwhile = async {
        to.send(first.into()).await.expect("it is read");
        // There is room for the next piece when the first has been taken: after the look at what is there.
        to.send(String::new()).await.expect("it is read");
        server.create(json!({"name": "new", "command": "true", "schedule": FAR})).await;
        to.send(rest.into()).await.expect("it is read");
        drop(to);
    };
    let (refused, ()) = tokio::join!(restoring, meanwhile);
    assert_eq!((refused.status, &refused.json()["code"]), (StatusCode::CONFLICT, &json!("not_empty")));
    assert_eq!(server.names().await, ["new"]);
    let restored = server.restore("replace=true", &backup).await.json();
    assert_eq!(restored["replaced"], json!(1), "{restored}");
}

#[tokio::test]
async fn a_task_that_the_backup_cannot_know_is_ended() {
    let server = Server::start(|_| Behaviour::Run).await;
    server.create(json!({"name": "job", "command": "true", "schedule": FAR})).await;
    let backup = server.backup().await;
    server.change(Method::PUT, "/v1/scheduler/job/job").await;
    let running = |job: &Value| job["state"] == "1 running";
    server.until_get("/v1/jobs/job", running).await;
    assert_eq!(server.restore("replace=true", &backup).await.status, StatusCode::OK);
    let runs = server.until_get("/v1/runs", |page| page["runs"][0]["outcome"] == "killed").await;
    assert_eq!(runs["runs"][0]["reason"], json!("a backup was restored that does not know it"));
}

#[tokio::test]
async fn a_backup_that_is_no_good_changes_nothing() {
    let server = Server::start(succeed).await;
    server.create(json!({"name": "a", "command": "true", "schedule": FAR})).await;
    server.create(json!({"name": "b", "command": "true", "parents": ["a"]})).await;
    let backup = server.backup().await;
    let lines: Vec<&str> = backup.lines().collect();
    let bad = [
        ("name: a\n".to_owned(), "not a backup"),
        (String::new(), "not a backup"),
        (lines[..lines.len() - 1].join("\n") + "\n", "it was cut"),
        (backup.replacen("true", "evil", 1), "checksum"),
        (backup.replacen("\"format\":", "\"format\":9", 1), "newer"),
    ];
    for (text, says) in bad {
        let refused = server.restore("replace=true", &text).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{}", refused.text);
        assert!(refused.json()["message"].as_str().is_some_and(|m| m.contains(says)), "{}", refused.text);
        assert_eq!(refused.json()["code"], json!("bad_backup"));
    }
    assert_eq!(server.names().await, ["a", "b"]);
    // No form and no script of another site can send one.
    let form = Request::post("/v1/restore?replace=true").header("content-type", "text/plain");
    let refused = server.send(form.body(Body::from(backup)).expect("a request")).await;
    assert_eq!(refused.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

#[tokio::test]
async fn a_node_that_does_not_lead_restores_nothing() {
    let store = MemoryStore::new(MemoryCore::new(7));
    let leader = store.another();
    leader.begin_term(&candidate("there")).await.expect("nobody leads");
    let server = Server::on(store, succeed);
    server.until(|node| node.status().role == Role::Standby && node.outlook().current_at.is_some()).await;
    let backup = server.backup().await;
    let refused = server.restore("replace=true", &backup).await;
    assert_eq!(
        (refused.status, &refused.json()["code"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("not_leading"))
    );
    assert_eq!(refused.json()["leader"], json!("there:4400"));
}

/// Whether it was done before the leader lost its place nobody here can know.
#[tokio::test]
async fn a_restore_that_outlives_the_lead_is_told_as_of_unknown_outcome() {
    let store = MemoryStore::new(MemoryCore::new(7));
    let hooks = store.another();
    let server = Server::on(store, succeed);
    server.until(|node| matches!(node.status().role, Role::Leading(_))).await;
    let backup = server.backup().await;
    hooks.set_stuck(&["restore"]);
    let deposes = async {
        server.until(|_| hooks.unanswered() > 0).await;
        hooks.expire();
        hooks.set_stuck(&[]);
    };
    let (told, ()) = tokio::join!(server.restore("replace=true", &backup), deposes);
    assert_eq!(
        (told.status, &told.json()["code"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("outcome_unknown"))
    );
}

/// What `export` reads is what was said, and can be said again.
#[tokio::test]
async fn a_definition_is_what_its_author_said() {
    let server = Server::start(succeed).await;
    let jobs = [
        json!({"name": "a", "command": "true", "shell": false, "retries": 0, "schedule": FAR, "scheduleTimeZone": "Europe/Berlin"}),
        json!({"name": "b", "command": "true", "disabled": true, "softError": true, "highPriority": true, "concurrent": true, "parents": ["a"]}),
        json!({"name": "c", "command": "", "arguments": [], "maxCompletionTime": 60, "schedule": "@daily", "overlap": "allow", "maxConcurrent": 3}),
        json!({"name": "d", "schedule": "R1/2020-01-01T00:00:00Z/PT1H", "catchUp": {"all": {"count": 3}}, "labels": {"x": "y"}}),
    ];
    for job in &jobs {
        server.create(job.clone()).await;
    }
    server.until_get("/v1/jobs/d", |job| job["exhausted"] == true).await;
    let page = server.get("/v1/definitions").await.json();
    let definitions = page["definitions"].as_array().expect("a list");
    let (far, daily) = (&page["progress"][0], &page["progress"][2]);
    assert!(far["next"].is_string() && daily["next"].is_string() && far["remaining"].is_null(), "{page}");
    assert_eq!((&page["progress"][1], &page["progress"][3]), (&json!({}), &json!({ "remaining": 0 })));
    for (job, definition) in jobs.iter().zip(definitions) {
        for (key, value) in job.as_object().expect("an object") {
            assert_eq!(&definition[key], value, "{definition}");
        }
        let door = if definition.get("parents").is_some() { "dependency" } else { "iso8601" };
        let again = server.post(&format!("/v1/scheduler/{door}?verbose=true"), definition).await;
        assert_eq!(again.json()["result"], json!("unchanged"), "{definition}");
    }
    assert_eq!(server.post("/v1/jobs/c/pause", &json!({ "reason": "x" })).await.status, StatusCode::OK);
    let one = server.get("/v1/definitions?job=c").await.json();
    assert_eq!(one["progress"][0]["paused"]["reason"], json!("x"));
    assert_eq!(one["definitions"][0]["name"], json!("c"));
    assert_eq!(server.get("/v1/definitions?job=none").await.status, StatusCode::NOT_FOUND);
    let first = server.get("/v1/definitions?limit=2").await.json();
    let next = server
        .get(&format!("/v1/definitions?limit=2&cursor={}", first["next"].as_str().unwrap_or("?")))
        .await;
    assert_eq!(next.json()["definitions"][0]["name"], json!("c"));
    assert_eq!(next.json()["next"], Value::Null);
}

/// No store has room for it by trying again.
#[test]
fn a_backup_that_is_too_large_is_refused_for_good() {
    let refused =
        ApiError::from(store::backup::StageError::Store(store::StoreError::TooLarge("300 MiB".into())));
    assert_eq!((refused.status, refused.body.code), (StatusCode::INSUFFICIENT_STORAGE, "store_full"));
    assert!(refused.body.message.contains("300 MiB"), "{}", refused.body.message);
}
