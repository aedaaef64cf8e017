//! Backfills, re-runs and the forecast.

use super::*;

const DAILY: &str = "R/2020-01-01T00:00:00Z/P1D";

/// A daily job whose latest slot has run, and its backfill of the first days of 2024.
async fn with_report(script: impl Fn(&engine::Launch) -> Behaviour + Send + Sync + 'static) -> Server {
    let server = Server::start(script).await;
    server.create(json!({"name": "report", "command": "x", "schedule": DAILY, "retries": 0})).await;
    server
}

async fn ended(server: &Server, job: &str, count: usize) -> Vec<Value> {
    let path = format!("/v1/runs?job={job}");
    let all = |runs: &Value| {
        let runs = runs["runs"].as_array().expect("a list");
        runs.len() == count && runs.iter().all(|run| run["state"] == "ended")
    };
    let runs = server.until_get(&path, all).await;
    runs["runs"].as_array().expect("a list").clone()
}

#[tokio::test]
async fn past_slots_run_for_their_own_days() {
    let server = with_report(succeed).await;
    ended(&server, "report", 1).await;
    let path = "/v1/jobs/report/backfills";
    let mut body = json!({"from": "2024-01-01T00:00:00Z", "to": "2024-01-06T00:00:00Z", "dryRun": true, "rate": "600/m"});
    let preview = server.post(path, &body).await;
    assert_eq!(preview.status, StatusCode::OK, "{}", preview.text);
    let preview = preview.json();
    assert_eq!(
        (&preview["slots"], &preview["succeeded"], &preview["leftOut"]),
        (&json!(5), &json!(0), &json!(0))
    );
    assert_eq!(preview["first"], "2024-01-01T00:00:00.000Z");
    assert_eq!(preview["last"], "2024-01-05T00:00:00.000Z");
    assert!(preview["estimate"].is_string(), "{preview}");
    let note = preview["notes"][0].as_str().unwrap_or_default();
    assert!(note.starts_with("the last run that succeeded took "), "there is one: {preview}");
    assert_eq!(server.get("/v1/backfills").await.json()["backfills"], json!([]), "nothing has begun");

    body["dryRun"] = false.into();
    let begun = server.post(path, &body).await;
    assert_eq!(begun.status, StatusCode::CREATED, "{}", begun.text);
    assert_eq!(begun.json()["slots"], 5);
    let id = begun.json()["id"].as_str().expect("an id").to_owned();
    let over = server.until_get(&format!("/v1/backfills/{id}"), |now| now["state"] == "over").await;
    assert_eq!((&over["begun"], &over["succeeded"], &over["failed"]), (&json!(5), &json!(5), &json!(0)));
    assert_eq!(
        (&over["kind"], &over["order"], &over["rate"]),
        (&json!("slots"), &json!("oldest"), &json!("600/m"))
    );
    let runs = ended(&server, "report", 6).await;
    let mut days: Vec<&str> =
        runs.iter().filter(|run| run["cause"] == "backfill").filter_map(|run| run["due"].as_str()).collect();
    days.sort_unstable();
    assert_eq!((days.len(), days[0], days[4]), (5, "2024-01-01T00:00:00.000Z", "2024-01-05T00:00:00.000Z"));

    // A slot that has succeeded twice is one slot.
    let first = json!({"from": "2024-01-01T00:00:00Z", "to": "2024-01-01T00:00:00.0000001Z"});
    let twice = server.post(path, &first).await.json();
    assert_eq!(twice["slots"], 1, "the end is after that slot: {twice}");
    let id = twice["id"].as_str().expect("an id").to_owned();
    server.until_get(&format!("/v1/backfills/{id}"), |now| now["state"] == "over").await;
    let after = json!({"from": "2024-01-01T00:00:00.0000001Z", "to": "2024-01-03T00:00:00Z", "dryRun": true});
    let preview = server.post(path, &after).await.json();
    assert_eq!((&preview["slots"], &preview["first"]), (&json!(1), &json!("2024-01-02T00:00:00.000Z")));

    // What has succeeded is left out.
    let missing = json!({"from": "2023-12-31T00:00:00Z", "to": "2024-01-08T00:00:00Z", "onlyMissing": true, "dryRun": true});
    let preview = server.post(path, &missing).await.json();
    assert_eq!(
        (&preview["slots"], &preview["succeeded"], &preview["leftOut"]),
        (&json!(3), &json!(5), &json!(5))
    );
    let all = json!({"from": "2024-01-01T00:00:00Z", "to": "2024-01-06T00:00:00Z", "onlyMissing": true});
    let refused = server.post(path, &all).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert_eq!(refused.json()["code"], "invalid_range", "{}", refused.text);
}

#[tokio::test]
async fn a_backfill_says_what_it_waits_for_and_can_be_cancelled() {
    let server = with_report(|_| Behaviour::Run).await;
    let body = json!({"from": "2024-01-01T00:00:00Z", "to": "2024-03-01T00:00:00Z", "order": "newest"});
    let id = server.post("/v1/jobs/report/backfills", &body).await.json()["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    // The slot of today runs, and comes first.
    let path = format!("/v1/backfills/{id}");
    let waits = server.until_get(&path, |now| now["why"].is_string()).await;
    assert_eq!((&waits["state"], &waits["begun"]), (&json!("underWay"), &json!(0)));
    assert!(waits["why"].as_str().is_some_and(|why| why.contains("until the job has room")), "{waits}");
    let why = server.get("/v1/jobs/report/why").await.json();
    let told = why["reasons"].as_array().expect("a list").iter().find(|reason| reason["code"] == "backfill");
    assert!(
        told.is_some_and(|told| told["message"].as_str().is_some_and(|m| m.contains("0 of 60 slots"))),
        "{why}"
    );
    assert_eq!(server.change(Method::DELETE, "/v1/runs/nonsense").await.status, StatusCode::BAD_REQUEST);
    server.change(Method::DELETE, "/v1/scheduler/task/kill/report").await;
    server.until_get(&path, |now| now["begun"] == 1 && now["next"] == "2024-02-28T00:00:00.000Z").await;
    assert_eq!(
        server.change(Method::DELETE, &format!("{path}?running=later")).await.status,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(server.change(Method::DELETE, &format!("{path}?running=kill")).await.status, StatusCode::OK);
    let over = server.until_get(&path, |now| !now["ended"].is_null()).await;
    assert_eq!(
        (&over["state"], &over["begun"], &over["failed"]),
        (&json!("cancelled"), &json!(1), &json!(1))
    );
}

#[tokio::test]
async fn what_cannot_be_backfilled_is_refused_with_the_reason() {
    let server = with_report(succeed).await;
    server.create(json!({"name": "child", "command": "x", "parents": ["report"]})).await;
    let (from, to) = ("2024-01-01T00:00:00Z", "2024-01-06T00:00:00Z");
    for (job, body, status, code, field) in [
        ("report", json!({"to": to}), 400, "invalid", "from"),
        ("report", json!({"from": from, "to": to, "dry_run": true}), 400, "invalid", "dry_run"),
        ("report", json!({"from": "yesterday", "to": to}), 400, "invalid", "from"),
        ("report", json!({"from": from, "to": to, "rate": "fast"}), 400, "invalid", "rate"),
        ("report", json!({"from": from, "to": to, "parallel": 65}), 400, "invalid", "parallel"),
        ("report", json!({"from": from, "to": to, "order": "any"}), 400, "invalid", "order"),
        ("report", json!({"from": to, "to": from}), 400, "invalid_range", "from"),
        (
            "report",
            json!({"from": "2098-01-01T00:00:00Z", "to": "2099-01-01T00:00:00Z"}),
            400,
            "invalid_range",
            "from",
        ),
        ("report", json!([]), 400, "invalid", ""),
        ("child", json!({"from": from, "to": to}), 409, "no_schedule", ""),
        ("nobody", json!({"from": from, "to": to}), 404, "no_such_job", ""),
    ] {
        let refused = server.post(&format!("/v1/jobs/{job}/backfills"), &body).await;
        let told = refused.json();
        assert_eq!((refused.status.as_u16(), &told["code"]), (status, &json!(code)), "{body}: {told}");
        assert_eq!(told["field"].as_str().unwrap_or_default(), field, "{body}: {told}");
    }
    assert_eq!(server.get("/v1/backfills/1-b99").await.json()["code"], "no_such_backfill");
    assert_eq!(server.get("/v1/backfills/x").await.json()["code"], "invalid");
}

#[tokio::test]
async fn a_run_runs_again_with_all_that_comes_after_it() {
    let server = with_report(succeed).await;
    server.create(json!({"name": "left", "command": "x", "parents": ["report"]})).await;
    server.create(json!({"name": "right", "command": "x", "parents": ["report"]})).await;
    server.create(json!({"name": "both", "command": "x", "parents": ["left", "right"]})).await;
    server.change(Method::PUT, "/v1/scheduler/job/report?arguments=--full").await;
    let first = ended(&server, "both", 1).await;
    let runs = ended(&server, "report", 2).await;
    let by_hand = runs.iter().find(|run| run["cause"] == "trigger").expect("it was asked for");
    assert_eq!(by_hand["arguments"], "--full");
    let key = by_hand["key"].as_str().expect("a key");

    let made = server.post(&format!("/v1/runs/{key}/rerun"), "").await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let again = ended(&server, "both", 2).await;
    assert!(again.iter().all(|run| run["cycle"] == first[0]["cycle"]), "{again:?}");
    let made = server.get(&format!("/v1/runs/{}", made.json()["run"].as_str().expect("a key"))).await.json();
    assert_eq!((&made["due"], &made["arguments"]), (&by_hand["due"], &json!("--full")));
    let kept = server.get("/v1/backfills").await.json();
    assert_eq!((&kept["backfills"][0]["kind"], &kept["backfills"][0]["run"]), (&json!("rerun"), &json!(key)));

    server.post(&format!("/v1/runs/{key}/rerun"), json!({"downwards": false})).await;
    ended(&server, "report", 4).await;
    server
        .until_get("/v1/backfills", |all| {
            all["backfills"].as_array().is_some_and(|all| all.iter().all(|it| it["state"] == "over"))
        })
        .await;
    assert_eq!(ended(&server, "both", 2).await.len(), 2);
    assert_eq!(server.post("/v1/runs/1-t999/rerun", "").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_forecast_counts_slots_and_estimates_what_follows() {
    let server = Server::start(succeed).await;
    for n in 0..3 {
        server.create(json!({"name": format!("hourly{n}"), "command": "x", "schedule": "0 * * * *"})).await;
    }
    server.create(json!({"name": "dense", "command": "x", "schedule": "R/2020-01-01T00:00:00Z/PT1S", "disabled": true})).await;
    server.create(json!({"name": "child", "command": "x", "parents": ["hourly0"]})).await;
    server.create(json!({"name": "far", "command": "x", "schedule": FAR})).await;
    let forecast = server.get("/v1/forecast?hours=6&bucket=1h").await.json();
    assert_eq!((&forecast["slots"], &forecast["dependents"]), (&json!(18), &json!(6)), "{forecast}");
    assert_eq!(forecast["buckets"].as_array().map(Vec::len), Some(6));
    assert_eq!(forecast["together"][0]["jobs"], 3);
    assert_eq!((&forecast["silent"]["disabled"], &forecast["silent"]["later"]), (&json!(1), &json!(1)));
    assert_eq!(forecast["silent"]["jobs"], json!(["dense"]));
    let child = server.get("/v1/forecast?hours=6&bucket=1h&kind=dependent").await.json();
    assert_eq!(
        (&child["slots"], &child["dependents"], &child["silent"]["later"]),
        (&json!(0), &json!(6), &json!(0))
    );
    for query in ["hours=0", "hours=169", "bucket=1s", "bucket=x", "hours=168&bucket=1m"] {
        let refused = server.get(&format!("/v1/forecast?{query}")).await;
        assert_eq!(
            (refused.status, &refused.json()["code"]),
            (StatusCode::BAD_REQUEST, &json!("invalid")),
            "{query}"
        );
    }
}
