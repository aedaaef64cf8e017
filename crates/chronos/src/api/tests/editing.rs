//! Edits by several people, and the ways back.

use super::*;

impl Server {
    async fn edit(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Value) -> Answered {
        let mut request = Request::builder().method(method).uri(path);
        if !body.is_null() {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        self.send(request.body(body).expect("a request")).await
    }

    async fn put(&self, name: &str, headers: &[(&str, &str)], body: Value) -> Answered {
        self.edit(Method::PUT, &format!("/v1/jobs/{name}"), headers, body).await
    }

    async fn patch(&self, name: &str, headers: &[(&str, &str)], body: Value) -> Answered {
        self.edit(Method::PATCH, &format!("/v1/jobs/{name}"), headers, body).await
    }

    async fn definition(&self, name: &str) -> Value {
        self.get(&format!("/v1/scheduler/job/{name}")).await.json()
    }
}

#[tokio::test]
async fn of_two_who_edit_one_job_the_second_is_told() {
    let server = Server::start(succeed).await;
    let absent = [("if-none-match", "*")];
    let created = server.put("a", &absent, json!({"command": "1", "schedule": FAR})).await;
    assert_eq!(
        (created.status, created.header("location")),
        (StatusCode::CREATED, "/v1/jobs/a"),
        "{}",
        created.text
    );
    let first = created.header("etag").to_owned();
    assert_eq!(server.get("/v1/jobs/a").await.header("etag"), first);
    assert_eq!(server.get("/v1/scheduler/job/a").await.header("etag"), first);
    let seen = [("if-match", first.as_str())];
    let changed = server.put("a", &seen, json!({"command": "2", "schedule": FAR})).await;
    assert_eq!((changed.status, &changed.json()["version"]), (StatusCode::OK, &json!(2)), "{}", changed.text);
    let second = changed.header("etag").to_owned();
    let refused = [
        server.put("a", &seen, json!({"command": "3", "schedule": FAR})).await,
        server.put("a", &absent, json!({"command": "3", "schedule": FAR})).await,
        server.patch("a", &seen, json!({"command": "3"})).await,
        server.edit(Method::DELETE, "/v1/jobs/a", &seen, Value::Null).await,
        server.edit(Method::DELETE, "/v1/scheduler/job/a", &seen, Value::Null).await,
        server
            .edit(Method::POST, "/v1/scheduler/iso8601", &seen, json!({"name": "a", "schedule": FAR}))
            .await,
        server.edit(Method::POST, "/v1/jobs/a/rollback", &seen, json!({"version": 1})).await,
        server.put("b", &[("if-match", "*")], json!({"command": "3", "schedule": FAR})).await,
    ];
    for (n, refused) in refused.iter().enumerate() {
        let told = (refused.status, refused.json()["code"].clone());
        assert_eq!(
            told,
            (StatusCode::PRECONDITION_FAILED, json!("version_mismatch")),
            "{n}: {}",
            refused.text
        );
    }
    assert!(refused[0].json()["message"].as_str().is_some_and(|m| m.contains(second.trim_matches('"'))));
    assert_eq!(server.definition("a").await["command"], json!("2"));
    let either = format!("{first}, {second}");
    let gone = server.edit(Method::DELETE, "/v1/jobs/a", &[("if-match", &either)], Value::Null).await;
    assert_eq!(gone.status, StatusCode::OK, "{}", gone.text);
    for (name, value) in [("if-match", "no quotes"), ("if-none-match", "\"1-1\"")] {
        let wrong = server.put("a", &[(name, value)], json!({"schedule": FAR})).await;
        assert_eq!((wrong.status, &wrong.json()["code"]), (StatusCode::BAD_REQUEST, &json!("invalid")));
    }
}

/// Who sends a condition believes that it holds.
#[tokio::test]
async fn no_condition_is_left_aside() {
    let server = Server::start(succeed).await;
    let first =
        server.put("a", &[], json!({"command": "1", "schedule": FAR})).await.header("etag").to_owned();
    let second =
        server.put("a", &[], json!({"command": "2", "schedule": FAR})).await.header("etag").to_owned();
    let (stale, fresh) = ([("if-match", first.as_str())], [("if-match", second.as_str())]);
    let held = [
        (Method::POST, "/v1/jobs/a/pause", json!({})),
        (Method::POST, "/v1/jobs/a/resume", json!({})),
        (Method::PUT, "/v1/scheduler/job/a", Value::Null),
        (Method::PUT, "/scheduler/job/success/a", Value::Null),
        (Method::DELETE, "/v1/scheduler/task/kill/a", Value::Null),
    ];
    for (method, path, body) in held {
        let refused = server.edit(method.clone(), path, &stale, body.clone()).await;
        assert_eq!(refused.status, StatusCode::PRECONDITION_FAILED, "{path}: {}", refused.text);
        let done = server.edit(method, path, &fresh, body).await;
        assert!(done.status.is_success(), "{path}: {}", done.text);
    }
    let set = json!([{"name": "a", "command": "3", "schedule": FAR}]);
    let range = json!({"from": "2020-01-01T00:00:00Z", "to": "2020-01-02T00:00:00Z"});
    for (method, path, body) in [
        (Method::POST, "/v1/apply", set),
        (Method::POST, "/v1/jobs/a/backfills", range),
        (Method::POST, "/v1/jobs/a/restore", json!({})),
        (Method::POST, "/v1/runs/1-i0/rerun", json!({})),
        (Method::DELETE, "/v1/runs/1-i0", Value::Null),
    ] {
        for condition in [("if-match", second.as_str()), ("if-none-match", "*")] {
            let refused = server.edit(method.clone(), path, &[condition], body.clone()).await;
            let told = refused.json();
            assert_eq!(
                (refused.status, &told["code"]),
                (StatusCode::BAD_REQUEST, &json!("invalid")),
                "{path}: {told}"
            );
            assert!(told["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{told}");
        }
    }
    assert_eq!(server.definition("a").await["command"], json!("2"));
}

#[tokio::test]
async fn a_patch_changes_what_it_names_and_nothing_else() {
    let server = Server::start(succeed).await;
    server.create(json!({"name": "p", "command": "x", "schedule": FAR})).await;
    server
        .create(json!({
            "name": "a", "command": "1", "parents": ["p"], "owner": "ops", "concurrent": true, "maxConcurrent": 4,
            "labels": {"team": "red", "tier": "1"}, "retryDelay": "7s", "epsilon": "1h", "softError": true,
            "environmentVariables": [{"name": "A", "value": "1"}], "constraints": [["rack", "EQUALS", "1"]],
        }))
        .await;
    let before = server.definition("a").await;
    let nothing = server.patch("a", &[], json!({})).await;
    assert_eq!(nothing.json()["result"], json!("unchanged"), "{}", nothing.text);
    let patched =
        server.patch("a", &[], json!({"owner": "dev", "labels": {"tier": null}, "retryDelay": "9s"})).await;
    assert_eq!((patched.status, &patched.json()["result"]), (StatusCode::OK, &json!("updated")));
    let mut expected = before.clone();
    expected["owner"] = json!("dev");
    expected["labels"] = json!({"team": "red"});
    expected["retryDelay"] = json!("9s");
    assert_eq!(server.definition("a").await, expected);
    // The two forms of one fact do not stand in each other's way.
    assert_eq!(server.patch("a", &[], json!({"overlap": "skip"})).await.status, StatusCode::OK);
    assert_eq!(server.definition("a").await["concurrent"], json!(false));
    let merge = [("content-type", "application/merge-patch+json")];
    let request =
        Request::patch("/v1/jobs/a").header(merge[0].0, merge[0].1).body(Body::from("{\"epsilon\":null}"));
    assert_eq!(server.send(request.expect("a request")).await.status, StatusCode::OK);
    assert_eq!(server.definition("a").await["epsilon"], Value::Null);

    let renamed = server.patch("a", &[], json!({"name": "b"})).await.json();
    assert_eq!((&renamed["code"], &renamed["field"]), (&json!("invalid"), &json!("name")));
    assert_eq!(server.patch("a", &[], json!([])).await.json()["code"], json!("malformed"));
    assert_eq!(server.patch("none", &[], json!({})).await.status, StatusCode::NOT_FOUND);
    let form = Request::post("/v1/jobs/a/pause").header(merge[0].0, merge[0].1).body(Body::from("{}"));
    assert_eq!(server.send(form.expect("a request")).await.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

/// A schedule that is over shows `disabled`, which a patch must not make true.
#[tokio::test]
async fn a_patch_of_a_job_whose_schedule_is_over_does_not_disable_it() {
    let server = Server::start(succeed).await;
    server.create(json!({"name": "once", "command": "x", "schedule": "R1/2020-01-01T00:00:00Z/PT1H"})).await;
    server.until_get("/v1/jobs/once", |job| job["exhausted"] == true).await;
    server.patch("once", &[], json!({"owner": "me", "schedule": FAR})).await;
    assert_eq!(server.definition("once").await["disabled"], json!(false));
}

#[tokio::test]
async fn patches_at_the_same_time_all_count() {
    let server = Server::start(succeed).await;
    server.create(json!({"name": "a", "command": "x", "schedule": FAR})).await;
    let names: Vec<String> = (0..50).map(|n| format!("l{n}")).collect();
    let patches = names.iter().map(|name| server.patch("a", &[], json!({"labels": {name: "1"}})));
    for answer in futures_util::future::join_all(patches).await {
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    }
    let labels = server.definition("a").await["labels"].clone();
    assert_eq!(labels.as_object().map(serde_json::Map::len), Some(50), "{labels}");
}

/// Without schedule and parents a definition runs once, now: nobody means that who takes them away.
#[tokio::test]
async fn a_patch_that_takes_away_what_makes_a_job_run_is_refused() {
    let server = Server::start(succeed).await;
    server.create(json!({"name": "p", "command": "x", "schedule": FAR})).await;
    server.create(json!({"name": "a", "command": "x", "parents": ["p"]})).await;
    for (job, patch, field) in [
        ("p", json!({"schedule": null}), "schedule"),
        ("p", json!({"schedule": null, "parents": []}), "schedule"),
        ("p", json!({"schedule": ""}), "schedule"),
        ("a", json!({"parents": null}), "parents"),
        ("a", json!({"parents": []}), "parents"),
    ] {
        let before = server.definition(job).await;
        let refused = server.patch(job, &[], patch.clone()).await;
        let told = refused.json();
        assert_eq!(
            (refused.status, &told["field"]),
            (StatusCode::BAD_REQUEST, &json!(field)),
            "{patch}: {told}"
        );
        assert!(told["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{told}");
        assert_eq!(server.definition(job).await, before, "{patch}");
    }
    let hint = server.patch("a", &[], json!({"parents": null})).await.json()["hint"].clone();
    assert!(hint.as_str().is_some_and(|hint| hint.contains("/v1/jobs/a/pause")), "{hint}");
    // One for the other is a change like any.
    let other = server.patch("a", &[], json!({"parents": null, "schedule": FAR})).await;
    assert_eq!(other.status, StatusCode::OK, "{}", other.text);
    let back = server.patch("a", &[], json!({"parents": ["p"], "schedule": null})).await;
    assert_eq!(back.status, StatusCode::OK, "{}", back.text);
}

#[tokio::test]
async fn every_version_is_kept_compared_and_brought_back() {
    let server = Server::start(succeed).await;
    server.create(json!({"name": "p", "command": "x", "schedule": FAR})).await;
    server.put("a", &[], json!({"command": "1", "parents": ["p"]})).await;
    server.put("a", &[], json!({"command": "2", "parents": ["p"]})).await;
    server.patch("a", &[], json!({"owner": "ops"})).await;
    let versions = server.get("/v1/jobs/a/versions").await.json();
    let shown: Vec<_> = versions["versions"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|v| json!([v["version"], v["how"], v["changed"]]))
        .collect();
    assert_eq!(
        shown,
        [json!([3, "patched", ["owner"]]), json!([2, "replaced", ["command"]]), json!([1, "created", []])]
    );
    let page = server.get("/v1/jobs/a/versions?limit=1").await.json();
    assert_eq!(page["versions"][0], versions["versions"][0], "what a page ends with is compared too");
    let rest = format!("/v1/jobs/a/versions?cursor={}", page["next"].as_str().expect("a cursor"));
    assert_eq!(server.get(&rest).await.json()["versions"][0]["version"], json!(2));

    let first = server.get("/v1/jobs/a/versions/1").await.json();
    assert_eq!(
        (&first["definition"]["command"], &first["definition"]["parents"]),
        (&json!("1"), &json!(["p"]))
    );
    let diff = server.get("/v1/jobs/a/versions/1/diff").await.json();
    assert_eq!((&diff["from"], &diff["to"]), (&json!(1), &json!(3)));
    let changes =
        json!([{"field": "command", "from": "1", "to": "2"}, {"field": "owner", "from": "", "to": "ops"}]);
    assert_eq!(diff["changes"], changes);
    assert_eq!(server.get("/v1/jobs/a/versions/2/diff?with=2").await.json()["changes"], json!([]));
    for path in ["/v1/jobs/a/versions/9", "/v1/jobs/a/versions/1/diff?with=9"] {
        let missing = server.get(path).await;
        assert_eq!(
            (missing.status, &missing.json()["code"]),
            (StatusCode::NOT_FOUND, &json!("no_such_version"))
        );
    }

    let back = server.post("/v1/jobs/a/rollback", json!({"version": 1})).await;
    assert_eq!((back.status, &back.json()["version"]), (StatusCode::OK, &json!(4)), "{}", back.text);
    assert_eq!(server.definition("a").await["command"], json!("1"));
    let newest = server.get("/v1/jobs/a/versions?limit=1").await.json()["versions"][0].clone();
    assert_eq!((&newest["how"], &newest["of"]), (&json!("rolledBack"), &json!(1)));
    assert_eq!(server.post("/v1/jobs/a/rollback", json!({})).await.json()["field"], json!("version"));

    // A deleted job keeps its versions, and comes back as a new one.
    server.edit(Method::DELETE, "/v1/jobs/a", &[], Value::Null).await;
    let deleted = server.get("/v1/jobs/a/versions?limit=1").await.json();
    assert_eq!(deleted["versions"][0]["how"], json!("deleted"));
    let hint = server.post("/v1/jobs/a/rollback", json!({"version": 1})).await.json();
    assert!(hint["hint"].as_str().is_some_and(|hint| hint.contains("restore")), "{hint}");
    let restored = server.post("/v1/jobs/a/restore", json!({})).await;
    assert_eq!(
        (restored.status, &restored.json()["version"]),
        (StatusCode::CREATED, &json!(1)),
        "{}",
        restored.text
    );
    assert_eq!(server.definition("a").await["command"], json!("1"));
    assert_eq!(server.post("/v1/jobs/a/restore", json!({})).await.status, StatusCode::PRECONDITION_FAILED);
    // What it was before is still to be had.
    let listed = server.get("/v1/jobs/a/versions").await.json();
    assert_eq!(
        (listed["versions"].as_array().map(Vec::len), &listed["versions"][0]["how"]),
        (Some(1), &json!("restored"))
    );
    let uid = listed["former"][0]["uid"].as_str().expect("the creation before").to_owned();
    assert_eq!(
        (&listed["former"][0]["version"], listed["former"].as_array().map(Vec::len)),
        (&json!(5), Some(1))
    );
    let former = server.get(&format!("/v1/jobs/a/versions?uid={uid}")).await.json();
    assert_eq!(
        (former["versions"].as_array().map(Vec::len), &former["versions"][0]["how"]),
        (Some(5), &json!("deleted"))
    );
    let second = server.get(&format!("/v1/jobs/a/versions/2?uid={uid}")).await.json();
    assert_eq!(second["definition"]["command"], json!("2"));
    let diff = server.get(&format!("/v1/jobs/a/versions/1/diff?with=2&uid={uid}")).await.json();
    assert_eq!(diff["changes"][0]["field"], json!("command"));
    let back = server.post("/v1/jobs/a/rollback", json!({"version": 2, "uid": uid})).await;
    assert_eq!((back.status, &back.json()["version"]), (StatusCode::OK, &json!(2)), "{}", back.text);
    assert_eq!(server.definition("a").await["command"], json!("2"));
    for path in [format!("/v1/jobs/p/versions/1?uid={uid}"), "/v1/jobs/a/versions/1?uid=zzz".into()] {
        assert_eq!(server.get(&path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(server.get("/v1/jobs/a/versions?uid=-").await.json()["field"], json!("uid"));

    // Parents that are gone are named.
    server.put("b", &[], json!({"command": "1", "parents": ["p"]})).await;
    server.put("b", &[], json!({"command": "1", "schedule": FAR})).await;
    server.edit(Method::DELETE, "/v1/jobs/p", &[], Value::Null).await;
    assert_eq!(
        server.post("/v1/jobs/b/rollback", json!({"version": 1})).await.json()["code"],
        json!("missing_parents")
    );
    assert_eq!(server.get("/v1/jobs/none/versions").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_store_at_its_limit_takes_no_more_jobs_and_lets_the_others_be_changed() {
    let store = MemoryStore::new(MemoryCore::new(7));
    let limits = store.another();
    let server = Server::on(store, succeed);
    server.until(|node| matches!(node.status().role, Role::Leading(_))).await;
    let job = |name: &str, command: &str| json!({"name": name, "command": command, "schedule": FAR});
    server.create(job("a", "true")).await;
    limits.set_full(Some("it has 100000 jobs"));
    for (method, path, body) in [
        (Method::POST, "/v1/scheduler/iso8601", job("b", "true")),
        (Method::PUT, "/v1/jobs/b", job("b", "true")),
        (Method::POST, "/v1/apply", json!({"jobs": [job("a", "true"), job("b", "true")]})),
    ] {
        let refused = server.ask(method, path, &[("content-type", "application/json")], body).await;
        let told = refused.json();
        assert_eq!(
            (refused.status, &told["code"]),
            (StatusCode::INSUFFICIENT_STORAGE, &json!("store_full")),
            "{told}"
        );
        assert!(told["message"].as_str().is_some_and(|message| message.contains("100000 jobs")), "{told}");
    }
    server.create(job("a", "false")).await;
    limits.set_full(None);
    server.create(job("b", "true")).await;
}

/// Whoever asks what would happen does not want it to happen, wherever and however it is asked.
#[tokio::test]
async fn a_dry_run_changes_nothing_and_tells_what_would_be_done() {
    let server = Server::start(succeed).await;
    server.create(json!({"name": "p", "command": "x", "schedule": FAR})).await;
    server.put("a", &[], json!({"command": "1", "parents": ["p"]})).await;
    server.put("a", &[], json!({"command": "2", "schedule": FAR})).await;
    let before = server.definition("a").await;
    let back = json!([
        {"field": "command", "from": "2", "to": "1"},
        {"field": "parents", "from": null, "to": ["p"]},
        {"field": "schedule", "from": FAR, "to": null},
    ]);
    let by = |method: Method, path: &'static str, body: Value| server.edit(method, path, &[], body);
    let new_command = json!({"command": "3"});
    for (n, (answer, changed)) in [
        (by(Method::PATCH, "/v1/jobs/a?dryRun=true", new_command.clone()).await, json!(["command"])),
        (
            by(Method::PUT, "/v1/jobs/a?dryRun=true", json!({"command": "2", "schedule": FAR, "owner": "o"}))
                .await,
            json!(["owner"]),
        ),
        (
            by(Method::POST, "/v1/jobs/a/rollback?dryRun=true", json!({"version": 1})).await,
            json!(["command", "parents", "schedule", "scheduleTimeZone"]),
        ),
        (
            by(Method::POST, "/v1/jobs/a/rollback", json!({"version": 1, "dryRun": true})).await,
            json!(["command", "parents", "schedule", "scheduleTimeZone"]),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let told = answer.json();
        let said = (answer.status, &told["dryRun"], &told["result"], &told["version"]);
        assert_eq!(said, (StatusCode::OK, &json!(true), &json!("updated"), &json!(3)), "{n}: {told}");
        let mut fields: Vec<_> = told["changes"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|change| change["field"].clone())
            .collect();
        fields.sort_by_key(ToString::to_string);
        assert_eq!(json!(fields), changed, "{n}: {told}");
        assert_eq!(answer.header("etag"), "", "{n}: there is no such version");
    }
    let by_field =
        by(Method::POST, "/v1/jobs/a/rollback", json!({"version": 1, "dryRun": true})).await.json();
    let named = |field: &str| {
        let changes = by_field["changes"].as_array().expect("a list");
        let change = changes.iter().find(|change| change["field"] == field).cloned().unwrap_or_default();
        json!({"field": field, "from": change["from"], "to": change["to"]})
    };
    assert_eq!(json!(["command", "parents", "schedule"].map(named)), back);
    let set = json!([{"name": "a", "command": "3", "schedule": FAR}]);
    let applied = by(Method::POST, "/v1/apply?dryRun=true", set.clone()).await.json();
    assert_eq!((&applied["dryRun"], &applied["jobs"][0]["result"]), (&json!(true), &json!("updated")));
    let created = by(Method::PUT, "/v1/jobs/new?dryRun=true", json!({"command": "1", "schedule": FAR})).await;
    assert_eq!((created.status, &created.json()["result"]), (StatusCode::OK, &json!("created")));
    assert_eq!(server.get("/v1/jobs/new").await.status, StatusCode::NOT_FOUND);

    // What is not understood is not done.
    for (method, path, body, field) in [
        (Method::POST, "/v1/jobs/a/rollback", json!({"version": 1, "dry_run": true}), "dry_run"),
        (Method::POST, "/v1/jobs/a/rollback", json!({"version": 1, "dryrun": true}), "dryrun"),
        (Method::PATCH, "/v1/jobs/a", json!({"command": "3", "dryRun": true}), "dryRun"),
        (Method::PUT, "/v1/jobs/a", json!({"command": "3", "schedule": FAR, "dry_run": true}), "dry_run"),
        (Method::POST, "/v1/apply", json!({"jobs": set, "dry-run": true}), "dry-run"),
    ] {
        let refused = by(method, path, body).await;
        assert_eq!(
            (refused.status, &refused.json()["field"]),
            (StatusCode::BAD_REQUEST, &json!(field)),
            "{path}"
        );
        assert!(
            refused.json()["hint"].as_str().is_some_and(|hint| hint.contains("dryRun")),
            "{}",
            refused.text
        );
    }
    assert_eq!(server.definition("a").await, before);

    // It says what the change itself would say.
    let stale = [("if-match", "\"1-1\"")];
    let stale = server.edit(Method::PATCH, "/v1/jobs/a?dryRun=true", &stale, new_command).await;
    assert_eq!(stale.status, StatusCode::PRECONDITION_FAILED);
    server.edit(Method::DELETE, "/v1/jobs/p", &[], Value::Null).await;
    let refused = by(Method::POST, "/v1/jobs/a/rollback", json!({"version": 1, "dryRun": true})).await;
    assert_eq!(refused.json()["code"], json!("missing_parents"));

    // A key is for what is done.
    let keyed = [("idempotency-key", "k")];
    let body = json!({"version": 1, "dryRun": true});
    server.edit(Method::POST, "/v1/jobs/a/rollback", &keyed, body).await;
    let done = server.edit(Method::PATCH, "/v1/jobs/a", &keyed, json!({"command": "4"})).await;
    assert_eq!(done.status, StatusCode::OK, "{}", done.text);
}

/// Of two jobs that were written into one object only the second would be left.
#[tokio::test]
async fn what_is_written_twice_is_refused_and_where_chronos_took_it_told() {
    let server = Server::start(succeed).await;
    let raw = |method: Method, path: &str, body: &'static str| {
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        server.send(request.body(Body::from(body)).expect("a request"))
    };
    let twice = r#"{"schedule": "R/2099-01-01T00:00:00Z/P1D", "command": "1", "command": "2"}"#;
    let nested =
        r#"[{"name": "x", "schedule": "R/2099-01-01T00:00:00Z/P1D", "labels": {"a": "1", "a": "2"}}]"#;
    for (method, path, body, field) in [
        (Method::PUT, "/v1/jobs/x", twice, "command"),
        (Method::PATCH, "/v1/jobs/x", twice, "command"),
        (Method::POST, "/v1/apply", nested, "[0].labels.a"),
        (Method::POST, "/v1/apply", r#"{"jobs": [{"name": "b", "name": "c"}]}"#, "jobs[0].name"),
        (Method::POST, "/v1/jobs/x/rollback", r#"{"version": 1, "version": 2}"#, "version"),
        (Method::POST, "/v1/jobs/x/pause", r#"{"for": "1h", "for": "2h"}"#, "for"),
    ] {
        let refused = raw(method, path, body).await;
        let told = refused.json();
        assert_eq!(
            (refused.status, &told["field"]),
            (StatusCode::BAD_REQUEST, &json!(field)),
            "{path}: {told}"
        );
        assert!(told["message"].as_str().is_some_and(|message| message.contains("twice")), "{told}");
    }
    assert_eq!(server.get("/v1/jobs").await.json()["total"], json!(0));
    let body = r#"{"name": "b", "name": "c", "schedule": "R/2099-01-01T00:00:00Z/P1D", "command": "1"}"#;
    let taken = raw(Method::POST, "/v1/scheduler/iso8601", body).await;
    assert_eq!(taken.status, StatusCode::NO_CONTENT, "{}", taken.text);
    assert_eq!(taken.header("x-chronos-warnings"), r#"["`name` is written twice; the last one counts"]"#);
    assert_eq!(server.definition("c").await["command"], json!("1"));
}
