//! Every list: its order, its conditions, its pages.

use jiff::Timestamp;

use super::*;

/// Names on all pages of a list of jobs, by pages of this size.
async fn names(server: &Server, query: &str, limit: usize) -> Vec<String> {
    let pages = pages(server, &format!("/v1/jobs?{query}&limit={limit}"), "jobs").await;
    pages.iter().map(|job| job["name"].as_str().expect("a name").to_owned()).collect()
}

async fn pages(server: &Server, path: &str, items: &str) -> Vec<Value> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    for _ in 0..100 {
        let answer = server.get(&format!("{path}{cursor}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text);
        let page = answer.json();
        all.extend(page[items].as_array().expect("a list").iter().cloned());
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={}", next.replace('=', "%3D").replace(' ', "%20")),
            None => return all,
        }
    }
    panic!("{path} has no end");
}

/// Creates a job, and waits for the next millisecond: before that, the next one would be as old.
async fn created(server: &Server, definition: Value) {
    server.create(definition).await;
    let at = Timestamp::now().as_millisecond();
    while Timestamp::now().as_millisecond() == at {
        tokio::task::yield_now().await;
    }
}

/// `ok` has succeeded, `bad` failed, `slow` runs; `off` is disabled, `held` paused, `child` waits for `ok`.
async fn fleet() -> Server {
    let server = Server::start(|launch| match launch.task.as_str() {
        task if task.starts_with("bad-") => Behaviour::End(AttemptEnd::failed("no")),
        task if task.starts_with("slow-") => Behaviour::Run,
        _ => Behaviour::End(AttemptEnd::Succeeded),
    })
    .await;
    let at = |year: u32| format!("R/{year}-01-01T00:00:00Z/P1D");
    created(&server, json!({"name": "ok", "command": "c", "schedule": at(2093), "owner": "ann", "labels": {"team": "etl"}})).await;
    created(
        &server,
        json!({"name": "bad", "command": "c", "schedule": at(2091), "owner": "bob, ann", "retries": 0}),
    )
    .await;
    created(
        &server,
        json!({"name": "slow", "command": "c", "schedule": at(2092), "labels": {"team": "web"}}),
    )
    .await;
    created(&server, json!({"name": "off", "command": "c", "schedule": at(2090), "disabled": true})).await;
    created(&server, json!({"name": "held", "command": "c", "schedule": at(2094)})).await;
    created(&server, json!({"name": "child", "command": "c", "parents": ["ok"]})).await;
    assert_eq!(server.post("/v1/jobs/held/pause", "{}").await.status, StatusCode::OK);
    for name in ["ok", "bad", "slow"] {
        assert_eq!(server.change(Method::PUT, &format!("/v1/scheduler/job/{name}")).await.status, 204);
    }
    server.until_get("/v1/jobs?state=running", |page| page["total"] == 1).await;
    server.until_get("/v1/jobs?outcome=succeeded,failed", |page| page["total"] == 3).await;
    server
}

#[tokio::test]
async fn jobs_in_every_order() {
    let server = fleet().await;
    for (sort, all) in [
        ("", "bad child held off ok slow"),
        ("-name", "slow ok off held child bad"),
        ("next", "bad slow ok held child off"),
        ("-next", "held ok slow bad child off"),
        ("state", "slow bad child ok held off"),
        ("lastOutcome", "bad child ok held off slow"),
        ("-owner", "bad ok child held off slow"),
        ("-errors", "bad child held off ok slow"),
        ("created", "ok bad slow off held child"),
    ] {
        for limit in [1, 2, 5, 6, 100] {
            assert_eq!(
                names(&server, &format!("sort={sort}"), limit).await.join(" "),
                all,
                "{sort} by {limit}"
            );
        }
    }
    let last = names(&server, "sort=-lastSuccess", 2).await;
    assert_eq!((&last[..2], last.len()), (&["child".to_owned(), "ok".to_owned()][..], 6));
}

#[tokio::test]
async fn jobs_by_what_they_are() {
    let server = fleet().await;
    for (query, all) in [
        ("state=enabled", "bad child held ok slow"),
        ("state=disabled,paused", "held off"),
        ("state=failing", "bad"),
        ("state=live", "slow"),
        ("state=queued", ""),
        ("kind=dependent", "child"),
        ("kind=schedule&state=idle&sort=-name", "ok off held bad"),
        ("owner=ann", "bad ok"),
        ("owner=bob", "bad"),
        ("label=team", "ok slow"),
        ("label=team%3Detl", "ok"),
        ("label=team%3Detl,team%3Dweb", ""),
        ("outcome=failed", "bad"),
        ("search=SL", "slow"),
        ("prefix=o", "off ok"),
    ] {
        assert_eq!(names(&server, query, 1).await.join(" "), all, "{query}");
        let definitions = pages(&server, &format!("/v1/definitions?{query}&limit=2"), "definitions").await;
        let defined: Vec<_> = definitions.iter().map(|job| job["name"].as_str().expect("a name")).collect();
        assert_eq!(defined.join(" "), all, "{query}");
    }
    let page = server.get("/v1/jobs?state=enabled&limit=2").await.json();
    assert_eq!(page["total"], 5);
    let ok = server.get("/v1/jobs?search=ok").await.json();
    assert_eq!((&ok["jobs"][0]["owner"], &ok["jobs"][0]["labels"]), (&json!("ann"), &json!({"team": "etl"})));
}

#[tokio::test]
async fn a_parameter_that_is_not_known_is_refused_where_it_was_never_overlooked() {
    let server = Server::start(succeed).await;
    server.create(json!({"name": "job", "command": "c", "schedule": FAR})).await;
    for (path, field, hint) in [
        ("/v1/runs?jobs=zzz&outcom=failed", "jobs", "did you mean `job`?"),
        ("/v1/runs?job=zzz&outcom=failed", "outcom", "did you mean `outcome`?"),
        ("/v1/jobs?colour=red", "colour", "known are "),
        ("/v1/jobs/job?limit=1", "limit", "this endpoint knows none"),
        ("/v1/next?label=a%3Db&untill=2030-01-01T00:00:00Z", "untill", "did you mean `until`?"),
    ] {
        let answer = server.get(path).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path}: {}", answer.text);
        let error = answer.json();
        assert_eq!((&error["code"], &error["field"]), (&json!("invalid"), &json!(field)), "{path}");
        assert!(error["hint"].as_str().is_some_and(|said| said.starts_with(hint)), "{path}: {error}");
    }
    for prefix in ["/v1/scheduler", "/scheduler"] {
        let answer = server.get(&format!("{prefix}/jobs?limt=1")).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        let told = json!(["unknown parameter `limt` was ignored; did you mean `limit`?"]);
        assert_eq!(answer.header("x-chronos-warnings"), told.to_string());
    }
    // Whoever probes may add what keeps it from being cached.
    assert_eq!(server.get("/ping?_=1").await.status, StatusCode::OK);
}

#[tokio::test]
async fn what_a_list_does_not_know_is_refused_with_what_it_does() {
    let server = Server::start(succeed).await;
    server.create(json!({"name": "job", "command": "c", "schedule": FAR})).await;
    for (path, field, says) in [
        ("/v1/jobs?sort=size", "sort", "name, state, lastOutcome"),
        ("/v1/jobs?state=broken", "state", "enabled, disabled"),
        ("/v1/jobs?kind=x", "kind", "schedule, dependent"),
        ("/v1/jobs?outcome=x", "outcome", "succeeded, failed"),
        ("/v1/jobs?label=%3Dx", "label", "key=value"),
        ("/v1/jobs?sort=-next&cursor=job", "cursor", "same `sort`"),
        ("/v1/jobs?limit=0", "limit", "1 to 1000"),
        ("/v1/definitions?sort=size", "sort", "name, state"),
        ("/v1/runs?sort=due", "sort", "none of time"),
        ("/v1/runs?cause=x", "cause", "slot, trigger, join, backfill"),
        ("/v1/runs?outcome=x", "outcome", "live"),
        ("/v1/runs?sort=time&cursor=-time~~h7", "cursor", "same `sort`"),
        ("/v1/next?sort=-due", "sort", "due"),
        ("/v1/next?cursor=job", "cursor", "same `sort`"),
        ("/v1/jobs/job/next?until=soon", "until", "2030-01-01"),
        ("/v1/jobs/job/versions?how=x", "how", "created, replaced"),
        ("/v1/jobs/job/versions?sort=at", "sort", "version"),
        ("/v1/notices?state=x", "state", "waiting, sending"),
        ("/v1/notices?channel=x", "channel", "mail, webhook"),
        ("/v1/notices?sort=x", "sort", "id, state"),
        ("/v1/backfills?state=x", "state", "underWay, over, cancelled"),
        ("/v1/backfills?sort=x", "sort", "created, ended"),
        ("/v1/forecast?kind=x", "kind", "schedule, dependent"),
        ("/v1/events?kind=x", "kind", "removed, progress"),
        ("/v1/graph?direction=x", "direction", "up, down, both"),
    ] {
        let answer = server.get(path).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path}: {}", answer.text);
        let error = answer.json();
        assert_eq!(error["field"], field, "{path}");
        assert!(answer.text.contains(says), "{path}: {}", answer.text);
    }
}

#[tokio::test]
async fn runs_either_way_and_by_cause() {
    let server = fleet().await;
    for _ in 0..4 {
        server.change(Method::PUT, "/v1/scheduler/job/ok").await;
        server
            .until_get("/v1/runs?outcome=live", |page| page["runs"].as_array().map(Vec::len) == Some(1))
            .await;
    }
    let keys = |runs: Vec<Value>| -> Vec<String> {
        runs.iter().map(|run| run["key"].as_str().expect("a key").to_owned()).collect()
    };
    let mut newest = keys(pages(&server, "/v1/runs?limit=1000", "runs").await);
    assert_eq!(newest.len(), 12);
    for limit in [1, 2, 3, 11, 12] {
        assert_eq!(
            keys(pages(&server, &format!("/v1/runs?limit={limit}"), "runs").await),
            newest,
            "by {limit}"
        );
    }
    newest.reverse();
    for limit in [1, 2, 3, 11, 12] {
        let path = format!("/v1/runs?sort=time&limit={limit}");
        assert_eq!(keys(pages(&server, &path, "runs").await), newest, "by {limit}");
    }
    for (query, count) in [
        ("cause=trigger", 7),
        ("cause=join", 5),
        ("cause=trigger,join&job=ok", 5),
        ("cause=backfill", 0),
        ("cause=trigger&outcome=live", 1),
        ("cause=join&outcome=live", 0),
        ("sort=time&outcome=running", 1),
    ] {
        assert_eq!(
            pages(&server, &format!("/v1/runs?limit=2&{query}"), "runs").await.len(),
            count,
            "{query}"
        );
    }
}

#[tokio::test]
async fn slots_page_by_page() {
    let server = fleet().await;
    // Two that are due together, one of which has only three slots.
    for (name, schedule) in
        [("twin-a", "R/2093-01-01T00:00:00Z/P1D"), ("twin-b", "R3/2093-01-01T00:00:00Z/P1D")]
    {
        server.create(json!({"name": name, "command": "c", "schedule": schedule})).await;
    }
    let slots = |slots: Vec<Value>| -> Vec<String> {
        slots
            .iter()
            .map(|s| format!("{} {}", s["due"].as_str().expect("a time"), s["job"].as_str().expect("a name")))
            .collect()
    };
    let path = "/v1/next?from=2093-01-01T00:00:00Z&until=2093-01-05T00:00:00Z";
    let all = slots(pages(&server, &format!("{path}&limit=1000"), "slots").await);
    // `bad`, `slow`, `ok` and `twin-a` have five slots each, `twin-b` three.
    assert_eq!(all.len(), 23, "{all:?}");
    assert!(all.is_sorted(), "{all:?}");
    for limit in [1, 2, 4, 22, 23] {
        assert_eq!(slots(pages(&server, &format!("{path}&limit={limit}"), "slots").await), all, "by {limit}");
    }
    let of_team = slots(pages(&server, &format!("{path}&label=team&limit=3"), "slots").await);
    assert_eq!(of_team.len(), 10);
    let twin = slots(pages(&server, "/v1/jobs/twin-b/next?limit=1", "slots").await);
    assert_eq!(
        twin,
        [
            "2093-01-01T00:00:00.000Z twin-b",
            "2093-01-02T00:00:00.000Z twin-b",
            "2093-01-03T00:00:00.000Z twin-b"
        ]
    );
    let late = server.get("/v1/jobs/twin-b/next?from=2093-01-02T12:00:00Z").await.json();
    assert_eq!(late["slots"].as_array().map(Vec::len), Some(1), "{late}");
    let old = server.get("/v1/next?count=2").await.json();
    assert_eq!(old["slots"].as_array().map(Vec::len), Some(2), "as it was called before");
}

#[tokio::test]
async fn versions_notices_and_backfills_have_pages_too() {
    let server = Server::start(succeed).await;
    for command in ["one", "two", "three"] {
        server.create(json!({"name": "job", "command": command, "schedule": FAR})).await;
    }
    let versions = |versions: Vec<Value>| -> Vec<u64> {
        versions.iter().map(|version| version["version"].as_u64().expect("a number")).collect()
    };
    for (query, all) in [("", vec![3, 2, 1]), ("&sort=version", vec![1, 2, 3]), ("&how=replaced", vec![3, 2])]
    {
        for limit in [1, 2, 3] {
            let path = format!("/v1/jobs/job/versions?limit={limit}{query}");
            let page = pages(&server, &path, "versions").await;
            assert!(page.iter().all(|v| v["version"] == 1 || v["changed"] == json!(["command"])), "{page:?}");
            assert_eq!(versions(page), all, "{query} by {limit}");
        }
    }
    let range = |from: u32| json!({"from": format!("2020-01-0{from}T00:00:00Z"), "to": format!("2020-01-0{}T12:00:00Z", from + 1)});
    server.create(json!({"name": "past", "command": "c", "schedule": "R/2020-01-01T00:00:00Z/P1D"})).await;
    for from in [1, 3, 5] {
        let begun = server.post("/v1/jobs/past/backfills", range(from)).await;
        assert_eq!(begun.status, StatusCode::CREATED, "{}", begun.text);
    }
    let firsts = |list: Vec<Value>| -> String {
        list.iter().map(|b| &b["from"].as_str().expect("a time")[9..10]).collect()
    };
    for (query, all) in [
        ("", "531"),
        ("&sort=created", "135"),
        ("&kind=rerun", ""),
        ("&job=past&kind=slots", "531"),
        ("&job=job", ""),
    ] {
        for limit in [1, 2, 3] {
            let path = format!("/v1/backfills?limit={limit}{query}");
            assert_eq!(firsts(pages(&server, &path, "backfills").await), all, "{query} by {limit}");
        }
    }
    assert_eq!(pages(&server, "/v1/notices?limit=1&sort=-settled", "notices").await, [] as [Value; 0]);
}

#[tokio::test]
async fn the_graph_whole_and_around_a_job() {
    let server = Server::start(succeed).await;
    for name in ["a", "b", "alone"] {
        server.create(json!({"name": name, "command": "c", "schedule": FAR, "owner": name})).await;
    }
    for (name, parents) in [("c", json!(["a", "b"])), ("d", json!(["c"])), ("e", json!(["d", "a"]))] {
        server.create(json!({"name": name, "command": "c", "parents": parents})).await;
    }
    let graph = async |query: &str| {
        let graph = server.get(&format!("/v1/graph?{query}")).await.json();
        let list = |key: &str| graph[key].as_array().expect("a list").clone();
        let nodes: String =
            list("nodes").iter().map(|n| n["job"].as_str().expect("a name").to_owned()).collect();
        let edges: Vec<_> = list("edges")
            .iter()
            .map(|e| format!("{}{}", e["from"].as_str().expect("a name"), e["to"].as_str().expect("a name")))
            .collect();
        format!("{nodes} {} {}", edges.join(","), graph["more"])
    };
    assert_eq!(graph("").await, "aalonebcde ac,ae,bc,cd,de false");
    assert_eq!(graph("job=c").await, "abcde ac,ae,bc,cd,de false");
    assert_eq!(graph("job=d&direction=up").await, "abcd ac,bc,cd true");
    assert_eq!(graph("job=c&direction=down&depth=1").await, "cd cd true");
    assert_eq!(graph("job=alone").await, "alone  false");
    assert_eq!(graph("owner=a").await, "a  true");
    assert_eq!(server.get("/v1/graph?job=none").await.status, StatusCode::NOT_FOUND);
    let node = &server.get("/v1/graph?job=c&depth=0").await.json()["nodes"][0];
    assert_eq!((&node["parents"], &node["children"], &node["state"]), (&json!(2), &json!(1), &json!("idle")));
}
