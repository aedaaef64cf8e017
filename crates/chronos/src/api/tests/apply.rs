//! Sets of jobs.

use super::*;

#[tokio::test]
async fn a_set_is_applied_in_any_order_with_its_differences() {
    let server = Server::start(succeed).await;
    server.create(json!({"name": "a", "command": "1", "schedule": FAR})).await;
    let set = json!([
        {"name": "c", "command": "3", "parents": ["b"], "retrys": 1},
        {"name": "b", "command": "2", "parents": ["a"]},
        {"name": "a", "command": "0", "schedule": FAR},
    ]);
    let dry = server.post("/v1/apply", json!({"jobs": set, "dryRun": true})).await;
    assert_eq!(dry.status, StatusCode::OK, "{}", dry.text);
    assert_eq!(dry.json()["dryRun"], json!(true));
    assert_eq!(server.get("/v1/jobs").await.json()["total"], json!(1));
    let done = server.post("/v1/apply", &set).await;
    assert_eq!(done.json()["jobs"], dry.json()["jobs"], "what was foretold is what was done");
    let told: Vec<_> =
        done.json()["jobs"].as_array().expect("a list").iter().map(|j| j["result"].clone()).collect();
    assert_eq!(told, ["created", "created", "updated"]);
    assert_eq!(done.json()["jobs"][2]["changes"], json!([{"field": "command", "from": "1", "to": "0"}]));
    assert!(done.json()["jobs"][0]["warnings"][0].as_str().is_some_and(|w| w.contains("retrys")));
    assert_eq!(server.get("/v1/jobs/c").await.json()["parents"], json!(["b"]));
    assert_eq!(server.get("/v1/jobs/a/versions").await.json()["versions"][0]["how"], json!("applied"));
    let again = server.post("/v1/apply", &set).await.json();
    assert!(again["jobs"].as_array().is_some_and(|jobs| jobs.iter().all(|job| job["result"] == "unchanged")));
}

#[tokio::test]
async fn what_is_wrong_in_a_set_is_named_and_nothing_is_done() {
    let server = Server::start(succeed).await;
    let good = json!({"name": "good", "command": "1", "schedule": FAR});
    for (bad, code, field) in [
        (json!({"name": "x", "schedule": "nonsense"}), "invalid", "jobs[1].schedule"),
        (json!({"name": "x", "schedule": FAR, "cpus": "many"}), "invalid", "jobs[1].cpus"),
        (json!(7), "invalid", "jobs[1]"),
        (json!({"name": "x", "parents": ["none"]}), "missing_parents", "parents"),
        (json!({"name": "x", "parents": ["x"]}), "cycle", "parents"),
        (good.clone(), "twice", "jobs"),
    ] {
        let refused = server.post("/v1/apply", json!([good, bad])).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{}", refused.text);
        assert_eq!((&refused.json()["code"], &refused.json()["field"]), (&json!(code), &json!(field)));
    }
    let many: Vec<_> = (0..10_001).map(|n| json!({"name": format!("m{n}"), "schedule": FAR})).collect();
    let refused = server.post("/v1/apply", json!({"jobs": many})).await;
    assert_eq!(
        (refused.status, &refused.json()["code"]),
        (StatusCode::PAYLOAD_TOO_LARGE, &json!("set_too_large"))
    );
    for body in [json!({}), json!({"jobs": {}}), json!({"jobs": [], "dryRun": "yes"})] {
        assert_eq!(server.post("/v1/apply", body).await.status, StatusCode::BAD_REQUEST);
    }
    let refused = server.post("/v1/apply", json!({"jobs": [good], "dry_run": true})).await.json();
    assert_eq!(
        (&refused["field"], &refused["hint"]),
        (&json!("dry_run"), &json!("did you mean `dryRun`?")),
        "it was not meant to be done: {refused}"
    );
    let torn = server.post("/v1/apply", "[{").await;
    assert_eq!((torn.status, &torn.json()["code"]), (StatusCode::BAD_REQUEST, &json!("malformed")));
    assert_eq!(server.get("/v1/jobs").await.json()["total"], json!(0));
}

#[tokio::test]
async fn a_dry_run_says_of_each_job_what_would_become_of_it() {
    let server = Server::start(succeed).await;
    server.create(json!({"name": "old", "command": "1", "schedule": FAR})).await;
    let good = json!({"name": "good", "command": "1", "schedule": FAR});
    let set = json!([
        good,
        {"name": "old", "schedule": "nonsense"},
        {"name": "child", "command": "1", "parents": ["old"]},
        {"name": "grandchild", "command": "1", "parents": ["child", "good"]},
        {"name": "orphan", "command": "1", "parents": ["nobody"]},
        {"name": "hen", "command": "1", "parents": ["egg"]},
        {"name": "egg", "command": "1", "parents": ["hen"]},
        {"name": "twin", "command": "1", "schedule": FAR},
        {"name": "twin", "command": "2", "schedule": FAR},
        7,
        {"name": "last", "command": "1", "parents": ["good"]},
    ]);
    let dry = server.post("/v1/apply", json!({"jobs": set, "dryRun": true})).await;
    let told = dry.json();
    assert_eq!((dry.status, &told["refused"]), (StatusCode::OK, &json!(9)), "{told}");
    let fates: Vec<_> = told["jobs"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|job| json!([job["job"], job["result"], job["version"], job["error"]["code"]]))
        .collect();
    assert_eq!(
        json!(fates),
        json!([
            ["good", "created", 1, null],
            ["old", "refused", 1, "invalid"],
            ["child", "refused", 0, "parent_refused"],
            ["grandchild", "refused", 0, "parent_refused"],
            ["orphan", "refused", 0, "missing_parents"],
            ["hen", "refused", 0, "cycle"],
            ["egg", "refused", 0, "cycle"],
            ["twin", "refused", 0, "twice"],
            ["twin", "refused", 0, "twice"],
            ["?", "refused", 0, "invalid"],
            ["last", "created", 1, null],
        ])
    );
    assert_eq!(server.get("/v1/jobs").await.json()["total"], json!(1));
}

#[tokio::test]
async fn the_refusal_of_a_set_names_all_that_is_to_be_mended() {
    let server = Server::start(succeed).await;
    let good = json!({"name": "good", "command": "1", "schedule": FAR});
    let set = json!([
        good,
        {"name": "hen", "command": "1", "parents": ["egg"]},
        {"name": "egg", "command": "1", "parents": ["hen"]},
        {"name": "chick", "command": "1", "parents": ["hen"]},
        {"name": "orphan", "command": "1", "parents": ["nobody"]},
    ]);
    let refused = server.post("/v1/apply", &set).await;
    let told = refused.json()["message"].as_str().expect("a message").to_owned();
    assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{told}");
    assert!(told.starts_with("job `"), "the first is told as if it were the only one: {told}");
    for named in ["waits for itself", "there is no parent `nobody`", "; 1 more is refused: "] {
        assert_eq!(told.matches(named).count(), 1, "`{named}` in {told}");
    }
    assert!(!told.contains("chick"), "what follows from others need not be mended: {told}");
    let bad = (0..100).map(|n| json!({"name": format!("bad{n}"), "schedule": "nonsense"}));
    let many: Vec<_> = [good].into_iter().chain(bad).collect();
    let refused = server.post("/v1/apply", json!(many)).await.json();
    assert_eq!(refused["field"], json!("jobs[1].schedule"));
    let told = refused["message"].as_str().expect("a message");
    assert!(told.starts_with("job `bad0`: ") && told.ends_with("; and 89 more"), "{told}");
    assert!(told.contains("99 more are refused") && told.len() < 4000, "{told}");
    // A key that was refused may be used for what is mended.
    let keyed = |jobs: Value| {
        let request = Request::post("/v1/apply").header("content-type", "application/json");
        let request = request.header("idempotency-key", "k").body(Body::from(jobs.to_string()));
        server.send(request.expect("a request"))
    };
    assert_eq!(keyed(set).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(server.get("/v1/jobs").await.json()["total"], json!(0), "nothing was done");
    assert_eq!(keyed(json!([many[0]])).await.status, StatusCode::OK);
}

/// A set of an import has thousands of owners.
#[tokio::test]
async fn that_nobody_can_be_told_is_said_once() {
    let server = Server::start(succeed).await;
    let job =
        |name: &str, owner: &str| json!({"name": name, "command": "1", "schedule": FAR, "owner": owner});
    let set = json!([job("a", ""), job("b", "ops@example.org"), job("c", "dev@example.org")]);
    let told = server.post("/v1/apply", &set).await.json();
    let untold = |i: usize| told["jobs"][i]["warnings"].to_string().contains("nobody is told");
    assert_eq!([0, 1, 2].map(untold), [false, true, false], "{told}");
    assert!(told.to_string().contains("as in 1 more of these jobs"), "{told}");
    assert_eq!(server.get("/v1/status").await.json()["channels"], json!([]));
}
