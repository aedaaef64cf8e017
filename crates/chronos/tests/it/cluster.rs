//! Several servers on one store: any of them answers.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::{Value, json};

use crate::fleet::postgresd::{Postgresd, skip};
use crate::fleet::{Fleet, header, leads, wait_until_read_by};
use crate::http;
use crate::server::{Folder, TestServer, by_hand, client_command};
use crate::wait;

/// A server that leads and one that stands by on the same folder and has found it.
fn pair(flags: &[&str]) -> (TestServer, TestServer) {
    let first = TestServer::launch(Folder::new(), flags);
    wait::until("the first leads", || first.log().contains("elected").then_some(()));
    let second = TestServer::launch(Arc::clone(&first.folder), flags);
    wait::until("the second finds it", || second.log().contains("the leader answers").then_some(()));
    wait_until_read_by(&second);
    (first, second)
}

fn instance(server: &TestServer) -> String {
    let ping = server.get("/ping").expect("it answers");
    header(&ping, "x-chronos-node").expect("it says who it is").to_owned()
}

const JSON: &str = "Content-Type: application/json";

#[test]
fn a_standby_hands_on_what_only_the_leader_can_do() {
    let (first, second) = pair(&[]);
    // What follows its output is there, or it does not wait for ever.
    let go = first.folder.path().join("go");
    let wait = format!(
        "for n in $(seq 200); do [ -e '{0}' ] && break; sleep 0.1; done; [ -e '{0}' ] && echo two",
        go.display()
    );
    let job = by_hand("far", &format!("echo one; {wait}")).to_string();
    let made = second.post("/v1/scheduler/iso8601", job.as_bytes()).expect("it answers");
    assert_eq!(made.status, 204, "{made:?}");
    assert_eq!(header(&made, "x-chronos-node"), Some(&*instance(&first)), "the leader answered");
    let seq = header(&made, "x-chronos-seq").expect("a change has a number");
    // A read here that has seen the change waits for it.
    let seen =
        || http::send(&second.address, "GET", "/v1/jobs/far", &[&format!("X-Chronos-Seq: {seq}")], b"");
    let here = instance(&second);
    wait::until("what it shows is young", || {
        let seen = seen().expect("it answers");
        // Who has not heard of that batch in time says so, instead of what was before.
        assert_eq!(header(&seen, "x-chronos-node"), Some(&*here));
        assert!(seen.status == 200 || seen.json()["code"] == "behind", "{seen:?}");
        let age = header(&seen, "x-chronos-age-ms").expect("a follower says how old it is");
        let is_young = age.parse::<u64>().unwrap() < 10_000;
        assert!(!is_young || header(&seen, "x-chronos-stale").is_none(), "{}", seen.head);
        (seen.status == 200 && is_young).then_some(())
    });
    // Errors come as they are.
    let [here, there] = [&first, &second].map(|server| {
        let answer = server.post("/v1/scheduler/iso8601", br#"{"name":"x","schedule":7}"#).unwrap();
        (answer.status, answer.json())
    });
    assert_eq!(here, there);
    assert_eq!(here.0, 400);
    // The whole command line works here: what is asked for is done there, and output comes as it is written.
    second.cli(["run", "far"]).success();
    let mut follows = client_command()
        .args(["logs", "-f", "far"])
        .env("CHRONOS_SERVER", format!("http://{}", second.address))
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(follows.stdout.take().expect("it has one")).lines();
    assert_eq!(lines.next().expect("a line").expect("it can be read"), "one");
    std::fs::write(&go, "").expect("there is room");
    assert_eq!(lines.next().expect("a line").expect("it can be read"), "two");
    assert!(lines.next().is_none() && follows.wait().expect("it ends").success());
    second.cli(["why", "far"]).success();
    second.wait_for("far", "succeeded");
    second.cli(["pause", "far"]).success();
    assert!(first.get_json("/v1/jobs/far")["paused"].is_object());
    second.cli(["delete", "far"]).success();
    assert_eq!(first.get("/v1/jobs/far").map(|answer| answer.status), Some(404));
    wait::until("both are told of, and who leads", || (roles(&second) == [1, 1]).then_some(()));
    second.cli(["nodes"]).success().says("standby").says("leading").says("are not listed");
    // A backup is read from the one and restored through the other.
    second.cli(["backup", "whole.jsonl"]).success();
    first.put(by_hand("later", "true"));
    second.cli(["restore", "whole.jsonl", "--yes"]).success();
    wait::until("it is gone", || (first.get("/v1/jobs/later")?.status == 404).then_some(()));
}

/// How many nodes lead, and how many do not, as one of them tells.
fn roles(node: &TestServer) -> [usize; 2] {
    let nodes = node.get_json("/v1/nodes");
    let nodes = nodes["nodes"].as_array().unwrap();
    let leads = nodes.iter().filter(|node| node["role"] == "leading").count();
    [leads, nodes.len() - leads]
}

#[test]
fn a_request_is_handed_on_once_and_to_whom_it_is_meant_for() {
    let (first, second) = pair(&[]);
    let ask = |server: &TestServer, headers: &[&str]| {
        let headers: Vec<&str> = headers.iter().copied().chain([JSON]).collect();
        let body = by_hand("a", "true").to_string();
        let answer = http::send(&server.address, "POST", "/v1/scheduler/iso8601", &headers, body.as_bytes());
        let answer = answer.expect("it answers");
        (answer.status, answer.json()["code"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(ask(&second, &["X-Chronos-Via: other.1 for 10.0.0.1"]), (503, "not_leading".into()));
    assert_eq!(ask(&first, &["X-Chronos-To: other.1"]), (421, "wrong_node".into()));
    assert_eq!(ask(&first, &["X-Chronos-Term: 99"]), (503, "not_leading".into()));
    assert_eq!(first.get_json("/v1/jobs")["jobs"], json!([]), "nothing was done");
    let to = format!("X-Chronos-To: {}", instance(&first));
    assert_eq!(ask(&first, &[&to, "X-Chronos-Via: other.1 for 10.0.0.1"]), (204, String::new()));
    let audit = first.get_json("/v1/audit");
    assert_eq!(audit["entries"][0]["address"], "10.0.0.1,127.0.0.1", "{audit:#}");
}

#[test]
fn who_asks_is_known_to_the_leader() {
    let (first, second) = pair(&["--http_credentials", "ops:right"]);
    let ask = |password: &str| {
        let login = base64::engine::general_purpose::STANDARD.encode(format!("ops:{password}"));
        let headers = [JSON, &format!("Authorization: Basic {login}"), "X-Request-Id: from-the-client"];
        let body = by_hand("a", "true").to_string();
        http::send(&second.address, "POST", "/v1/scheduler/iso8601", &headers, body.as_bytes())
            .expect("it answers")
    };
    assert_eq!(ask("wrong").status, 401);
    let made = ask("right");
    assert_eq!((made.status, header(&made, "x-request-id")), (204, Some("from-the-client")));
    let url = format!("http://ops:right@{}", first.address);
    let audit = first.cli(["audit", "--output", "json", "--server", &url]).success().json();
    let Value::Array(entries) = audit else { panic!("{audit}") };
    let [made] = &entries[..] else { panic!("{entries:#?}") };
    assert_eq!(
        (&made["by"], &made["address"], &made["request"]),
        (&json!("ops"), &json!("127.0.0.1,127.0.0.1"), &json!("from-the-client"))
    );
}

#[test]
fn a_leader_that_cannot_be_reached_is_told_of() {
    // Nobody listens on port 1.
    let (first, second) = {
        let first = TestServer::launch(Folder::new(), &["--advertise_address", "127.0.0.1:1"]);
        wait::until("the first leads", || first.log().contains("elected").then_some(()));
        let second = TestServer::launch(Arc::clone(&first.folder), &[]);
        (first, second)
    };
    // It listens on loopback as well, and is found there.
    wait::until("it is found", || second.log().contains("the leader answers").then_some(()));
    crate::server::signal_process(first.pid(), "-STOP");
    let answer = wait::until("it is missed", || {
        let answer = second.post("/v1/scheduler/iso8601", by_hand("a", "true").to_string().as_bytes())?;
        (answer.json()["code"] == "leader_unreachable").then_some(answer)
    });
    assert_eq!(answer.status, 503);
    assert!(answer.message().contains("127.0.0.1:1: "), "{}", answer.message());
    assert!(second.get_json("/v1/jobs")["jobs"].is_array(), "reads go on");
    assert_eq!(second.get("/ready").map(|ready| ready.status), Some(200), "it serves reads");
    crate::server::signal_process(first.pid(), "-CONT");
    wait::until("it is found again", || {
        let answer = second.post("/v1/scheduler/iso8601", by_hand("a", "true").to_string().as_bytes())?;
        (answer.status == 204).then_some(())
    });
}

#[test]
fn a_change_that_comes_while_nobody_leads_waits_for_the_next_leader() {
    let Some(fleet) = Fleet::new() else { return };
    // A request waits for a quarter of a minute: the less of it the dead one's lease takes, the more is left for a busy machine.
    let short = ["--database_lease", "4s"];
    let (first, second) = (fleet.joined(&short), fleet.joined(&short));
    second.put(by_hand("early", "true"));
    first.kill();
    // The follower still takes the dead one for the leader, then knows of none, then leads. It is asked once.
    let made = second.post("/v1/scheduler/iso8601", by_hand("late", "true").to_string().as_bytes());
    let made = made.expect("it answers");
    assert_eq!((made.status, header(&made, "x-chronos-node")), (204, Some(&*instance(&second))), "{made:?}");
    let why = second.get_json("/v1/jobs/late/why");
    assert_eq!(why["job"], "late", "{why:#}");
}

#[test]
fn a_task_outlives_the_leader_that_began_it() {
    Fleet::new().iter().for_each(outlives);
}

#[test]
fn a_task_outlives_the_leader_that_began_it_on_zookeeper() {
    Fleet::on_zookeeper().iter().for_each(outlives);
}

fn outlives(fleet: &Fleet) {
    let (first, second) = (fleet.joined(&[]), fleet.joined(&[]));
    let gate = first.folder.path().join("gate");
    let command = format!("echo begun; until [ -e {} ]; do sleep 0.05; done; echo done", gate.display());
    second.put(by_hand("gated", &command));
    second.cli(["run", "gated"]).success();
    let begun = || (second.cli(["logs", "gated"]).stdout_text() == "begun\n").then_some(());
    wait::until("it has begun, and its output is read from the node where it is", begun);
    let folder = first.kill();
    second.wait_ready();
    let run = |wanted: &dyn Fn(&Value) -> bool| second.runs("gated").into_iter().find(|run| wanted(run));
    // Nobody can tell, so it counts as running, and is not run again.
    wait::until("its fate is open", || {
        let why = second.cli(["why", "gated"]).stdout_text();
        why.contains("nobody can tell").then_some(())
    });
    second.put(by_hand("other", "true"));
    second.cli(["run", "other"]).success();
    second.wait_for("other", "succeeded");
    assert!(run(&|run| !run["outcome"].is_null()).is_none(), "it is open");
    // The node is back, follows, and is asked.
    let first = fleet.node(folder, &[]);
    wait::until("it follows", || first.log().contains("the leader answers").then_some(()));
    std::fs::write(&gate, "").unwrap();
    let ended = second.wait_for("gated", "succeeded");
    assert_eq!(ended["attempts"].as_array().map(Vec::len), Some(1), "{ended:#}");
    second.cli(["logs", "gated"]).success().stdout("begun\ndone\n");
    // What is to be killed is killed where it runs.
    std::fs::remove_file(&gate).unwrap();
    drop(second);
    first.wait_ready();
    let third = fleet.joined(&[]);
    third.cli(["run", "gated"]).success();
    third.wait_for_run("gated", "it runs", |run| run["state"] == "running");
    let (folder, _) = first.terminate();
    third.wait_ready();
    let back = fleet.node(folder, &[]);
    third.cli(["kill", "gated"]).success();
    third.wait_for("gated", "killed");
    drop(back);
}

/// Processes of tasks below a folder.
fn tasks(folder: &Folder) -> Vec<u32> {
    let supervisor = folder.supervisor();
    folder.processes().into_iter().filter(|pid| Some(*pid) != supervisor).collect()
}

/// With the minute that a node has for it.
#[test]
fn a_node_that_is_cut_off_ends_its_tasks_and_one_that_keeps_them_does_not() {
    let mut postgres = match Postgresd::start() {
        Ok(postgres) => postgres,
        Err(reason) => return skip("cluster", &reason),
    };
    let fleet = Fleet::on(postgres.url());
    let keep = ["--on_isolation", "keep"];
    let keeps = fleet.joined(&keep);
    let gate = keeps.folder.path().join("gate");
    let begin = |node: &TestServer, job: &str| {
        let command = format!("until [ -e {} ]; do sleep 0.05; done", gate.display());
        node.put(by_hand(job, &command));
        node.cli(["run", job]).success();
        node.wait_for_run(job, "it runs", |run| run["state"] == "running");
    };
    begin(&keeps, "kept");
    // Tasks begin on the node that leads.
    let kills = fleet.joined(&[]);
    let (folder, _) = keeps.terminate();
    kills.wait_ready();
    begin(&kills, "ended");
    let keeps = fleet.node(folder, &keep);
    wait::until("both are told of, and who leads", || (roles(&keeps) == [1, 1]).then_some(()));
    wait::until("it stands by", || keeps.log().contains("the leader answers").then_some(()));
    assert!(!tasks(&kills.folder).is_empty() && !tasks(&keeps.folder).is_empty());
    assert_eq!(postgres.order("stop").as_deref(), Ok("stopped"));
    let cut = Instant::now();
    wait::until("its task has ended", || tasks(&kills.folder).is_empty().then_some(()));
    // How long before the cut it was heard last depends on what else the machine does.
    assert!(cut.elapsed() > Duration::from_secs(30), "a short cut does no harm: {:?}", cut.elapsed());
    // The lease, the grace, and what a supervisor may take to look.
    let over = Duration::from_secs(60 + 5 + 5);
    wait::until("no lease of before the cut is left", || (cut.elapsed() > over).then_some(()));
    assert!(!tasks(&keeps.folder).is_empty(), "nobody was to end it");
    assert!(postgres.order("start").is_ok_and(|told| told.starts_with("listening")));
    // Until somebody leads again, questions are refused.
    let end_of = |job: &str| {
        wait::until("its end is recorded", || {
            let runs = kills.get(&format!("/v1/runs?job={job}"))?.json()["runs"].clone();
            runs.as_array()?.iter().find(|run| !run["outcome"].is_null()).cloned()
        })
    };
    let ended = end_of("ended");
    assert_eq!((&ended["outcome"], &ended["reason"]), (&json!("failed"), &json!("killed from outside")));
    std::fs::write(&gate, "").unwrap();
    let kept = end_of("kept");
    assert_eq!(kept["outcome"], "succeeded", "{kept:#}");
    assert_eq!(kept["attempts"].as_array().map(Vec::len), Some(1), "{kept:#}");
}

#[test]
fn nodes_that_all_advertise_one_address_find_each_other() {
    let Some(fleet) = Fleet::new() else { return };
    // One that nobody takes while the first is away.
    let port = crate::port::unused().to_string();
    let first = fleet.joined(&["--http_port", &port]);
    let address = first.address.clone();
    let flags = ["--advertise_address", &*address];
    let (second, third) = (fleet.joined(&flags), fleet.joined(&flags));
    let (folder, _) = first.terminate();
    wait::until("another leads", || [&second, &third].into_iter().any(leads).then_some(()));
    // Somebody else answers at the address that both advertise first.
    let first = fleet.node(folder, &["--http_port", &port]);
    wait::until("it stands by", || first.log().contains("the leader answers").then_some(()));
    for node in [&first, &second, &third] {
        let name = format!("by-{}", node.pid());
        let ask = || {
            let job = by_hand(&name, "true").to_string();
            let answer = node.post("/v1/scheduler/iso8601", job.as_bytes())?;
            (answer.status == 204).then_some(())
        };
        wait::until("it is taken", ask);
    }
    wait::until("all are told of, and who leads", || (roles(&third) == [1, 2]).then_some(()));
}

#[test]
fn a_node_that_will_not_come_back_is_forgotten() {
    let Some(fleet) = Fleet::new() else { return };
    let (first, second) = (fleet.joined(&[]), fleet.joined(&[]));
    let node = first.get_json("/v1/status")["node"].as_str().unwrap().to_owned();
    second.put(by_hand("endless", "sleep 600"));
    second.cli(["run", "endless"]).success();
    second.wait_for_run("endless", "it runs", |run| run["state"] == "running");
    second.cli(["node", "forget", &node]).exit(3).says("stop it first");
    // The machine is gone, with all that ran on it.
    drop(first.kill());
    second.wait_ready();
    wait::until("it is forgotten", || {
        let forgotten = second.cli(["node", "forget", &node]);
        forgotten.stdout_text().contains("forgot node").then_some(())
    });
    let runs = second.runs("endless");
    let [lost] = &runs[..] else { panic!("{runs:#?}") };
    assert_eq!(lost["outcome"], "lost", "what was answered is recorded: {lost:#}");
    let message = lost["attempts"][0]["message"].as_str().unwrap_or_default();
    assert!(message.contains("will not come back"), "{lost:#}");
    assert_eq!(lost["reason"], message, "the reason of a run says no less");
    let entries = &second.get_json("/v1/audit?act=forgotNode")["entries"];
    assert_eq!(entries[0]["before"], serde_json::json!({ "node": node, "runs": 1 }), "{entries:#}");
    second.cli(["audit", "--act", "forgotNode"]).success().says(&format!("node {node}, runs 1"));
    second.cli(["node", "forget", "nobody"]).exit(3).says("there is no node `nobody`");
}

/// It was forgotten too soon: what it did meanwhile is told, and what was recorded stays.
#[test]
fn what_became_of_a_task_that_is_recorded_as_lost_is_heard_when_its_node_is_back() {
    let Some(fleet) = Fleet::new() else { return };
    // Its tasks outlive the server, and nobody counts on their end.
    let keep = ["--on_isolation", "keep"];
    let (first, second) = (fleet.joined(&keep), fleet.joined(&[]));
    let node = first.get_json("/v1/status")["node"].as_str().unwrap().to_owned();
    let flag = Folder::new();
    let done = flag.path().join("done");
    let command = format!("until [ -e {} ]; do sleep 0.1; done", done.display());
    second.put(by_hand("away", &command));
    second.cli(["run", "away"]).success();
    second.wait_for_run("away", "it runs", |run| run["state"] == "running");
    let folder = first.kill();
    second.wait_ready();
    wait::until("it is forgotten", || {
        second.cli(["node", "forget", &node]).stdout_text().contains("forgot node").then_some(())
    });
    let recorded = second.wait_for("away", "lost");
    let heard = |server: &TestServer| server.get_json("/v1/audit?job=away&act=heardLate")["entries"].clone();
    assert_eq!(heard(&second), json!([]));
    std::fs::write(&done, "").expect("the flag can be written");
    let _back = fleet.node(folder, &keep);
    let entries =
        wait::until("its end is heard", || Some(heard(&second)).filter(|heard| *heard != json!([])));
    assert_eq!(entries.as_array().map(Vec::len), Some(1), "{entries:#}");
    let (entry, attempt) = (&entries[0], &recorded["attempts"][0]);
    assert_eq!(entry["before"], json!({ "outcome": "lost", "at": attempt["ended"], "node": node }));
    assert_eq!(entry["after"]["outcome"], "succeeded", "{entry:#}");
    assert_eq!(
        (&entry["after"]["run"], &entry["after"]["task"]),
        (&recorded["key"], &attempt["task"]),
        "{entry:#}"
    );
    second.cli(["audit", "away"]).success().says("heardLate").says("outcome succeeded");
    assert_eq!(second.runs("away"), [recorded], "what was recorded stays");
    let job = second.get_json("/scheduler/job/away");
    assert_eq!((&job["successCount"], &job["errorCount"]), (&json!(0), &json!(1)), "{job:#}");
}

#[test]
fn each_node_tells_how_far_it_is() {
    let Some(fleet) = Fleet::new() else { return };
    let (first, second) = (fleet.joined(&[]), fleet.joined(&[]));
    let node = second.get_json("/v1/status")["node"].clone();
    let told = |path: &str| {
        let list = first.get_json(path);
        let nodes = list["nodes"].as_array().cloned().unwrap_or_default();
        (nodes[0].clone(), nodes.iter().find(|told| told["node"] == node).cloned().unwrap_or_default())
    };
    first.put(by_hand("a", "true"));
    let (leads, follows) = wait::until("the follower has seen all, and has said so", || {
        let told = told("/v1/nodes");
        (told.1["leaderAt"].is_string() && told.1["behind"] == 0).then_some(told)
    });
    let epoch = first.get_json("/v1/status")["epoch"].clone();
    assert!(epoch.as_u64().is_some_and(|epoch| epoch > 0), "{epoch}");
    for (told, role) in [(&leads, "leading"), (&follows, "standby")] {
        assert_eq!([&told["role"], &told["heard"]], [&json!(role), &json!(true)], "{told:#}");
        assert_eq!(
            [&told["epoch"], &told["version"]],
            [&epoch, &json!(env!("CARGO_PKG_VERSION"))],
            "{told:#}"
        );
        let ahead = told["clockAheadMs"].as_i64().expect("the store has a clock");
        assert!(ahead.abs() < 5000, "one machine has one clock: {told:#}");
    }
    assert!(
        leads["seq"].as_u64() >= follows["seq"].as_u64() && follows["seq"].as_u64() > Some(0),
        "{leads:#}"
    );
    assert_eq!(leads["ageMs"], Value::Null, "what the leader shows has no age");
    assert!(follows["ageMs"].is_u64(), "{follows:#}");
    assert_eq!(follows["leaderAt"].as_str(), Some(&*first.address));

    crate::server::signal_process(second.pid(), "-STOP");
    first.put(by_hand("b", "true"));
    wait::until("it lags", || (told("/v1/nodes").1["behind"].as_u64()? > 0).then_some(()));
    wait::until("it is silent", || (told("/v1/nodes").1["heard"] == false).then_some(()));
    assert_eq!(told("/v1/nodes?ask=true").1["answersAt"], Value::Null, "it is stopped");
    first.cli(["doctor"]).says("and does not answer").says("be sure that it is off");
    first.cli(["nodes"]).success().says("silent for");
    crate::server::signal_process(second.pid(), "-CONT");
    wait::until("it has caught up", || (told("/v1/nodes").1["behind"] == 0).then_some(()));
}

#[test]
fn an_empty_store_is_not_taken_for_the_one_that_had_jobs() {
    let (Some(fleet), Some(other)) = (Fleet::new(), Fleet::new()) else { return };
    is_not_taken_for(&fleet, &other);
}

#[test]
fn an_empty_store_is_not_taken_for_the_one_that_had_jobs_on_zookeeper() {
    let (Some(fleet), Some(other)) = (Fleet::on_zookeeper(), Fleet::on_zookeeper()) else { return };
    is_not_taken_for(&fleet, &other);
}

fn is_not_taken_for(fleet: &Fleet, other: &Fleet) {
    let node = fleet.joined(&[]);
    node.put(by_hand("precious", "true"));
    // Just after its election a node has not asked the new store again.
    let known = wait::until("it knows its store", || {
        node.get_json("/v1/status")["storeId"].as_str().map(str::to_owned)
    });
    let (folder, _) = node.terminate();
    let strange = other.node(Arc::clone(&folder), &[]);
    let reasons = wait::until("it says why it does not lead", || {
        let reasons = strange.get("/ready")?.json()["reasons"].to_string();
        reasons.contains("worked on store").then_some(reasons)
    });
    assert!(reasons.contains(&known), "{reasons}");
    let id =
        reasons.split("--expect_store ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().to_owned();
    let (folder, _) = strange.terminate();
    // Nobody else is kept from it, nor is who says that it is meant.
    let meant = other.node(folder, &["--expect_store", &id]);
    meant.wait_ready();
    assert_eq!(meant.get_json("/ready")["notes"].to_string().matches("has been used with").count(), 0);
}

#[test]
fn a_folder_that_was_used_with_another_store_is_told() {
    let (Some(fleet), Some(other)) = (Fleet::new(), Fleet::new()) else { return };
    let (node, theirs) = (fleet.joined(&[]), other.joined(&[]));
    node.put(by_hand("ours", "true"));
    theirs.put(by_hand("theirs", "true"));
    let id_of = |node: &TestServer| {
        wait::until("it knows its store", || {
            node.get_json("/v1/status")["storeId"].as_str().map(str::to_owned)
        })
    };
    let ids = [id_of(&node), id_of(&theirs)];
    let (folder, _) = node.terminate();
    let strange = other.node(folder, &[]);
    let notes = wait::until("it says so", || {
        let notes = strange.get("/ready")?.json()["notes"].to_string();
        notes.contains("has been used with store").then_some(notes)
    });
    assert!(ids.iter().all(|id| notes.contains(id)), "{notes}");
    strange.cli(["doctor"]).says(&ids[0]).says(&ids[1]);
}

#[test]
fn who_expects_another_store_makes_nothing_of_it_and_says_so() {
    Fleet::new().iter().for_each(expects_another);
}

#[test]
fn who_expects_another_store_makes_nothing_of_it_and_says_so_on_zookeeper() {
    Fleet::on_zookeeper().iter().for_each(expects_another);
}

fn expects_another(fleet: &Fleet) {
    let wrong = fleet.node(Folder::new(), &["--expect_store", "0123"]);
    let says = |what: &str| {
        wait::until("it says why it does not take part", || {
            let reasons = wrong.get("/ready")?.json()["reasons"].to_string();
            (reasons.contains(what) && reasons.contains("--expect_store wants 0123")).then_some(())
        });
    };
    says("there is no store here yet");
    let first = fleet.joined(&[]);
    says("this is the store");
    wrong.cli(["doctor"]).exit(1).says("--expect_store wants 0123").says("correct the address");
    wrong.cli(["nodes"]).says("--expect_store wants 0123");
    let nodes = first.get_json("/v1/nodes")["nodes"].clone();
    assert_eq!(nodes.as_array().map(Vec::len), Some(1), "{nodes:#}");
}
