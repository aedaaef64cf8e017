//! Who did what.

use std::sync::atomic::{AtomicU64, Ordering};

use jiff::SignedDuration;

use super::access_tests::login;
use super::*;
use crate::cluster::spread::Spread;

impl Server {
    async fn as_ops(&self, method: Method, path: &str, body: Value) -> Answered {
        let login = login("ops:hun:ter2");
        let headers = [
            ("authorization", login.as_str()),
            ("content-type", "application/json"),
            ("x-request-id", "r-1"),
        ];
        self.ask(method, path, &headers, body).await
    }

    async fn audit(&self, query: &str) -> Value {
        let answer = self.as_ops(Method::GET, &format!("/v1/audit{query}"), Value::Null).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        answer.json()
    }
}

fn words(audit: &Value) -> Vec<&str> {
    audit["entries"].as_array().into_iter().flatten().filter_map(|entry| entry["act"].as_str()).collect()
}

fn job(command: &str) -> Value {
    let variables = json!([{"name": "TOKEN", "value": format!("secret of {command}")}]);
    json!({"name": "a", "command": command, "schedule": FAR, "owner": "o@example.org", "environmentVariables": variables})
}

#[tokio::test]
async fn every_change_is_there_with_who_and_what_and_without_secrets() {
    let server = Server::guarded(&[]).await;
    let post = "/v1/scheduler/iso8601";
    assert_eq!(server.as_ops(Method::POST, post, job("one")).await.status, StatusCode::NO_CONTENT);
    assert_eq!(server.as_ops(Method::POST, post, job("one")).await.status, StatusCode::NO_CONTENT);
    assert_eq!(server.as_ops(Method::POST, post, job("two")).await.status, StatusCode::NO_CONTENT);
    let audit = server.audit("").await;
    assert_eq!(words(&audit), ["replaced", "created"], "what changes nothing is not there");
    let entry = &audit["entries"][0];
    assert_eq!((&entry["by"], &entry["request"], &entry["job"]), (&json!("ops"), &json!("r-1"), &json!("a")));
    assert_eq!((&entry["before"]["version"], &entry["after"]["version"]), (&json!(1), &json!(2)));
    let (before, after) = (&entry["before"]["definition"], &entry["after"]["definition"]);
    assert_eq!((&before["command"], &after["command"]), (&json!("one"), &json!("two")));
    assert_eq!(before["owner"], Value::Null, "only what differs");
    assert_ne!(before["environmentVariables"], after["environmentVariables"], "that they differ is told");
    assert!(!audit.to_string().contains("secret of"), "{audit}");

    assert_eq!(
        server.as_ops(Method::PUT, "/v1/scheduler/job/a", Value::Null).await.status,
        StatusCode::NO_CONTENT
    );
    let pause = json!({"reason": "holidays"});
    assert_eq!(server.as_ops(Method::POST, "/v1/jobs/a/pause", pause).await.status, StatusCode::OK);
    assert_eq!(server.as_ops(Method::POST, "/v1/jobs/a/resume", Value::Null).await.status, StatusCode::OK);
    assert_eq!(server.as_ops(Method::DELETE, "/v1/jobs/a", Value::Null).await.status, StatusCode::OK);
    let audit = server.audit("").await;
    assert_eq!(words(&audit), ["deleted", "resumed", "paused", "triggered", "replaced", "created"]);
    assert_eq!(audit["entries"][0]["before"]["definition"]["command"], "two");
    assert_eq!(audit["entries"][2]["after"]["reason"], "holidays");
    assert!(audit["entries"][3]["after"]["run"].is_string());
    assert!(!audit.to_string().contains("secret of"), "{audit}");
    let versions = server.as_ops(Method::GET, "/v1/jobs/a/versions", Value::Null).await.json();
    assert_eq!(versions["versions"][0]["by"], "ops");
}

#[tokio::test]
async fn who_gave_up_which_node_is_there() {
    let store = MemoryStore::new(MemoryCore::new(7));
    let server = Server::guarded_on(store.another(), &[]).await;
    store.announce(&candidate("gone"), "{}").await.expect("it can speak");
    let forget = || server.as_ops(Method::DELETE, "/v1/nodes/gone", Value::Null);
    assert_eq!(forget().await.status, StatusCode::CONFLICT, "it has said something");
    assert_eq!(words(&server.audit("").await), Vec::<&str>::new(), "what is refused is not there");
    store.fell_silent("gone", Duration::from_secs(60));
    assert_eq!(forget().await.status, StatusCode::NO_CONTENT);
    assert_eq!(forget().await.status, StatusCode::NOT_FOUND);
    let audit = server.audit("?act=forgotNode").await;
    assert_eq!(words(&audit), ["forgotNode"]);
    let entry = &audit["entries"][0];
    assert_eq!(
        (&entry["by"], &entry["request"], &entry["job"]),
        (&json!("ops"), &json!("r-1"), &Value::Null)
    );
    assert_eq!((&entry["before"], &entry["after"]), (&json!({"node": "gone", "runs": 0}), &Value::Null));
}

/// As after a fail-over of the store to another machine.
#[tokio::test]
async fn the_clock_of_the_store_gives_no_node_up_and_keeps_none() {
    let store = MemoryStore::new(MemoryCore::new(7));
    store.announce(&candidate("gone"), "{}").await.expect("it can speak");
    let seconds = Arc::new(AtomicU64::new(1000));
    let clock = seconds.clone();
    let server = Server::among(access::Access::default(), store.another(), succeed, |node| {
        let now = move || Duration::from_secs(clock.load(Ordering::SeqCst));
        let spread = Spread::new(node.engine.clone(), "here".into(), Arc::new(store.another()), None, now);
        Cluster::start(node, spread, crate::tls::unused(), None, false).expect("a client")
    });
    server.until(|node| matches!(node.status().role, Role::Leading(_))).await;
    let forget = || server.ask(Method::DELETE, "/v1/nodes/gone", &[], Value::Null);
    store.step_clock(SignedDuration::from_hours(1));
    let refused = forget().await;
    assert_eq!((refused.status, &refused.json()["code"]), (StatusCode::CONFLICT, &json!("alive")));
    store.step_clock(SignedDuration::from_hours(-2));
    seconds.fetch_add(11, Ordering::SeqCst);
    assert_eq!(forget().await.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn it_is_paged_and_filtered() {
    let server = Server::guarded(&[]).await;
    for n in 0..5 {
        server.as_ops(Method::POST, "/v1/scheduler/iso8601", job(&n.to_string())).await;
    }
    server.as_ops(Method::PUT, "/v1/scheduler/job/a", Value::Null).await;
    for (sort, last) in [("", "created"), ("&sort=-time", "created"), ("&sort=time", "triggered")] {
        let mut seen = Vec::new();
        let mut query = format!("?limit=2{sort}");
        loop {
            let page = server.audit(&query).await;
            seen.extend(page["entries"].as_array().expect("a list").iter().map(|entry| entry["act"].clone()));
            let Some(next) = page["next"].as_str() else { break };
            query = format!("?limit=2{sort}&cursor={next}");
        }
        assert_eq!((seen.len(), seen.last()), (6, Some(&json!(last))), "{sort}");
    }
    assert_eq!(words(&server.audit("?act=triggered,created").await), ["triggered", "created"]);
    assert_eq!(words(&server.audit("?by=nobody").await), Vec::<&str>::new());
    assert_eq!(words(&server.audit("?by=ops&job=a").await).len(), 6);
    assert_eq!(words(&server.audit("?job=b").await).len(), 0);
    assert_eq!(words(&server.audit("?to=2000-01-01T00:00:00Z").await).len(), 0);
    for bad in ["?act=eaten", "?cursor=x", "?limit=0", "?from=x", "?job=a%20b", "?sort=by"] {
        let answer = server.as_ops(Method::GET, &format!("/v1/audit{bad}"), Value::Null).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{bad}");
    }
}

#[tokio::test]
async fn a_page_of_large_definitions_is_cut_and_the_next_one_goes_on() {
    let server = Server::start(succeed).await;
    let command = |n: u32| format!("true {n} {}", "x".repeat(60_000));
    for n in 0..90 {
        server.create(json!({"name": "a", "command": command(n), "schedule": FAR})).await;
    }
    let (mut seen, mut pages, mut query) = (0, 0, "?limit=1000".to_owned());
    loop {
        let answer = server.get(&format!("/v1/audit{query}")).await;
        assert!(answer.text.len() < 10 << 20, "a page of {} bytes", answer.text.len());
        let page = answer.json();
        seen += words(&page).len();
        pages += 1;
        let Some(next) = page["next"].as_str() else { break };
        query = format!("?limit=1000&cursor={next}");
    }
    assert_eq!((seen, pages), (90, 2));
}

#[tokio::test]
async fn where_nobody_logs_in_nobody_is_named() {
    let server = Server::start(succeed).await;
    server.create(json!({"name": "a", "command": "x", "schedule": FAR})).await;
    let audit = server.get("/v1/audit").await.json();
    assert_eq!((words(&audit), &audit["entries"][0]["by"]), (vec!["created"], &Value::Null));
    assert!(audit["entries"][0]["request"].is_string());
}
