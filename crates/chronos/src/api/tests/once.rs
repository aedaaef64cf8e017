//! `Idempotency-Key`.

use super::*;

impl Server {
    async fn keyed(&self, method: Method, path: &str, key: &str, body: Value) -> Answered {
        let request = Request::builder().method(method).uri(path).header("idempotency-key", key);
        let request = request.header("content-type", "application/json");
        self.send(request.body(Body::from(body.to_string())).expect("a request")).await
    }
}

#[tokio::test]
async fn a_request_is_done_once_under_its_key() {
    let server = Server::start(succeed).await;
    server.create(json!({"name": "a", "command": "1", "schedule": FAR})).await;
    let trigger = || server.keyed(Method::PUT, "/v1/scheduler/job/a?verbose=true", "k-1", json!({}));
    let first = trigger().await;
    assert_eq!((first.status, first.header("idempotency-replayed")), (StatusCode::OK, ""), "{}", first.text);
    let again = trigger().await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (StatusCode::OK, "true"));
    assert_eq!(again.json()["run"], first.json()["run"]);
    let runs = server.until_get("/v1/runs?job=a", |runs| runs["runs"][0]["outcome"] == "succeeded").await;
    assert_eq!(runs["runs"].as_array().map(Vec::len), Some(1), "{runs}");
}

#[tokio::test]
async fn a_key_is_of_one_request_and_of_a_form() {
    let server = Server::start(succeed).await;
    server.create(json!({"name": "a", "command": "1", "schedule": FAR})).await;
    let patch =
        |key, command: &str| server.keyed(Method::PATCH, "/v1/jobs/a", key, json!({ "command": command }));
    assert_eq!(patch("k", "2").await.status, StatusCode::OK);
    let other = patch("k", "3").await;
    assert_eq!(other.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        (&other.json()["code"], &other.json()["field"]),
        (&json!("idempotency_key_reused"), &json!("Idempotency-Key"))
    );
    assert_eq!(server.get("/v1/jobs/a").await.json()["command"], json!("2"));
    for wrong in ["", "a b", &"k".repeat(256)] {
        let refused = patch(wrong, "4").await;
        assert_eq!(
            (refused.status, &refused.json()["field"]),
            (StatusCode::BAD_REQUEST, &json!("Idempotency-Key"))
        );
    }
    let restore = server.keyed(Method::POST, "/v1/restore", "k2", json!({})).await;
    assert_eq!(restore.status, StatusCode::BAD_REQUEST, "no receipt outlives a restore");
}

/// Whoever asks again is told what was done, not that it cannot be done now.
#[tokio::test]
async fn what_has_happened_since_does_not_matter() {
    let server = Server::start(succeed).await;
    server.create(json!({"name": "a", "command": "1", "schedule": FAR})).await;
    let tag = server.get("/v1/jobs/a").await.header("etag").to_owned();
    let patch = || {
        let request = Request::builder().method(Method::PATCH).uri("/v1/jobs/a").header("if-match", &tag);
        let request = request.header("idempotency-key", "p").header("content-type", "application/json");
        server.send(request.body(Body::from(r#"{"command": "2"}"#)).expect("a request"))
    };
    let first = patch().await;
    assert_eq!(first.status, StatusCode::OK, "{}", first.text);
    let again = patch().await;
    assert_eq!((again.status, &again.json()["version"]), (StatusCode::OK, &json!(2)), "{}", again.text);
    let delete = || server.keyed(Method::DELETE, "/v1/jobs/a", "d", json!({}));
    assert_eq!(delete().await.status, StatusCode::OK);
    let gone = delete().await;
    assert_eq!((gone.status, gone.header("idempotency-replayed")), (StatusCode::OK, "true"));
    let again = patch().await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (StatusCode::OK, "true"));
    assert_eq!(again.json()["version"], json!(2), "{}", again.text);
}

#[tokio::test]
async fn a_set_is_applied_once_under_its_key() {
    let server = Server::start(succeed).await;
    // More than fit one batch.
    let set: Vec<_> =
        (0..450).map(|n| json!({"name": format!("j{n}"), "command": "1", "schedule": FAR})).collect();
    let apply = || server.keyed(Method::POST, "/v1/apply", "s", json!({ "jobs": set }));
    let first = apply().await;
    assert_eq!(first.status, StatusCode::OK, "{}", first.text);
    let results = |answer: &Answered, result: &str| {
        let jobs = answer.json()["jobs"].as_array().cloned().unwrap_or_default();
        jobs.iter().filter(|job| job["result"] == result).count()
    };
    assert_eq!(results(&first, "created"), 450);
    assert_eq!(server.get("/v1/jobs?limit=1").await.json()["total"], json!(450));
    server.keyed(Method::PATCH, "/v1/jobs/j7", "p", json!({"command": "of somebody else"})).await;
    let again = apply().await;
    assert_eq!((results(&again, "unchanged"), again.header("idempotency-replayed")), (450, "true"));
    assert_eq!(server.get("/v1/jobs/j7").await.json()["command"], json!("of somebody else"));
}
