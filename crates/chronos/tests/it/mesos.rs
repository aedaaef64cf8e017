//! The real binary on a real cluster: masters and agents of Mesos, by `testing/mesos-local`.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};

use crate::fleet::Fleet;
use crate::http;
use crate::server::{Folder, TestServer, by_hand, signal_process};
use crate::skip::skip;
use crate::wait;

#[path = "../../../engine/testing/mesosd.rs"]
mod mesosd;

use mesosd::Mesos;

/// As many as a page shows.
const TASKS: usize = 1000;
/// How long they may take where the machine has other things to do: here it starts some ten a second.
const SHORT_TASKS: Duration = Duration::from_secs(300);
/// Two agents, each a rack.
const AGENTS: [&str; 4] = ["--agents", "2", "--agent-flag=--attributes=rack:r{}", "--zk"];

fn begin(options: &[&str]) -> Option<Mesos> {
    Mesos::start(options).map_err(|reason| skip("mesos", &reason)).ok()
}

/// The one that tests share that do it no harm.
fn shared() -> Option<&'static Mesos> {
    static SHARED: OnceLock<Option<Mesos>> = OnceLock::new();
    SHARED.get_or_init(|| begin(&AGENTS)).as_ref()
}

/// Flags of a server that runs tasks there, as a framework of this name.
fn flags<'a>(address: &'a str, name: &'a str) -> Vec<&'a str> {
    let mut flags = vec!["--master", address, "--mesos_framework_name", name];
    flags.extend([
        "--mesos_task_mem",
        "32",
        "--mesos_task_disk",
        "16",
        "--min_revive_offers_interval",
        "500",
    ]);
    flags
}

fn server(mesos: &Mesos, name: &str) -> TestServer {
    let address = mesos.address();
    let server = TestServer::launch(Folder::new(), &flags(&address, name));
    server.wait_ready();
    server
}

/// What the leading master says.
fn ask(mesos: &Mesos, path: &str) -> Option<Value> {
    let (_, address) = mesos.leader()?;
    let answer = http::send(&address, "GET", path, &[], b"")?;
    (answer.status == 200).then(|| answer.json())
}

/// A framework as the leading master shows it, one that is over included.
fn frameworks(mesos: &Mesos, name: &str) -> Vec<Value> {
    let all = ask(mesos, "/master/frameworks").unwrap_or_default();
    let of = |key: &str| all[key].as_array().cloned().unwrap_or_default();
    let mut found = [of("frameworks"), of("completed_frameworks")].concat();
    found.retain(|framework| framework["name"] == name);
    found
}

/// Tasks of these frameworks that the master has not seen end: ids, with agents.
fn living(mesos: &Mesos, name: &str) -> Vec<(String, String)> {
    let text = |task: &Value, key: &str| task[key].as_str().unwrap_or_default().to_owned();
    let all = frameworks(mesos, name);
    let tasks = all.iter().filter_map(|framework| framework["tasks"].as_array()).flatten();
    tasks
        .filter(|task| task["state"] == "TASK_RUNNING")
        .map(|task| (text(task, "id"), text(task, "slave_id")))
        .collect()
}

/// A job whose tasks write down that they began, wait for a file, and end.
fn gated(folder: &Folder, name: &str) -> Value {
    let dir = folder.path().display();
    let command = format!(
        "echo $CHRONOS_TASK_ID >> {dir}/begun; echo begun; until [ -e {dir}/{name}.go ]; do sleep 0.05; done; echo done"
    );
    by_hand(name, &command)
}

/// Tasks that wrote down that they began, and how often each did.
fn begun(folder: &Folder) -> BTreeMap<String, usize> {
    let text = std::fs::read_to_string(folder.path().join("begun")).unwrap_or_default();
    let mut times = BTreeMap::new();
    text.lines().for_each(|task| *times.entry(task.to_owned()).or_default() += 1);
    times
}

#[track_caller]
fn none_began_twice(folder: &Folder, count: usize) {
    let begun = begun(folder);
    assert!(
        begun.len() == count && begun.values().all(|times| *times == 1),
        "{count} are wanted: {begun:#?}"
    );
}

fn start_gated(server: &TestServer, folder: &Folder, name: &str) {
    let before = begun(folder).len();
    server.put(gated(folder, name));
    server.cli(["run", name]).success();
    server.wait_for_run(name, "it runs", |run| run["state"] == "running");
    let count = || begun(folder).len();
    wait::until("it writes", || (count() > before).then_some(()));
}

fn only_attempt(run: &Value) -> &Value {
    let attempts = run["attempts"].as_array().expect("attempts");
    assert_eq!(attempts.len(), 1, "{run:#}");
    &attempts[0]
}

#[test]
fn a_task_and_its_end() {
    let Some(mesos) = shared() else { return };
    let server = server(mesos, "one");
    server.put(by_hand("hello", "echo out; echo err >&2; echo $CHRONOS_JOB_NAME"));
    server.put(by_hand("bad", "exit 3"));
    let mut slow = by_hand("slow", "sleep 600");
    slow["maxCompletionTime"] = json!(1);
    server.put(slow);
    server.put(by_hand("endless", "trap 'exit 0' TERM; sleep 600 & wait"));
    for job in ["hello", "bad", "slow", "endless"] {
        server.cli(["run", job]).success();
    }
    let hello = server.wait_for("hello", "succeeded");
    let node = only_attempt(&hello)["node"].as_str().unwrap_or_default();
    assert!(node.starts_with("mesos://127.0.0.1:"), "{hello:#}");
    let bad = server.wait_for("bad", "failed");
    let message = only_attempt(&bad)["message"].as_str().unwrap_or_default();
    assert!(message.contains('3'), "{bad:#}");
    server.wait_for("slow", "timedOut");
    server.wait_for_run("endless", "it runs", |run| run["state"] == "running");
    server.cli(["kill", "endless"]).success();
    server.wait_for("endless", "killed");
    wait::until("the master has seen the end of all", || living(mesos, "one").is_empty().then_some(()));
    let [framework] = &frameworks(mesos, "one")[..] else { panic!("{:#?}", frameworks(mesos, "one")) };
    assert_eq!((&framework["active"], &framework["user"]), (&json!(true), &json!("root")));
}

/// While it runs, and afterwards, from the agent that has it.
#[test]
fn output_is_read_from_the_agent() {
    let Some(mesos) = shared() else { return };
    let server = server(mesos, "talking");
    let common = Folder::new();
    server.put(by_hand("hello", "echo out; echo err >&2; echo $CHRONOS_JOB_NAME"));
    server.cli(["run", "hello"]).success();
    server.wait_for("hello", "succeeded");
    server.cli(["logs", "hello"]).success().stdout("out\nhello\n");
    // Among what the executor says of itself.
    let errors = server.cli(["logs", "hello", "--stderr"]).success().stdout_text();
    assert!(errors.contains("\nerr\n"), "{errors}");
    start_gated(&server, &common, "long");
    wait::until("its first line is there", || {
        (server.cli(["logs", "long"]).stdout_text() == "begun\n").then_some(())
    });
    common.file("long.go", "");
    server.wait_for("long", "succeeded");
    server.cli(["logs", "long"]).success().stdout("begun\ndone\n");
}

#[test]
fn a_run_that_does_not_fit_says_why_and_holds_up_nobody() {
    let Some(mesos) = shared() else { return };
    let server = server(mesos, "picky");
    let mut big = by_hand("big", "true");
    big["cpus"] = json!(1000);
    let mut nowhere = by_hand("nowhere", "true");
    nowhere["constraints"] = json!([["rack", "EQUALS", "r7"]]);
    for job in [big, nowhere] {
        let name = job["name"].as_str().unwrap().to_owned();
        server.put(job);
        server.cli(["run", &name]).success();
    }
    for (name, operator, value, attribute) in [
        ("first", "EQUALS", "r0", "rack"),
        ("second", "LIKE", "r[1-9]", "rack"),
        ("third", "UNLIKE", "r0", "rack"),
        ("any", "LIKE", "127.*", "hostname"),
    ] {
        let mut job = by_hand(name, "pwd");
        job["constraints"] = json!([[attribute, operator, value]]);
        server.put(job);
        server.cli(["run", name]).success();
    }
    for (name, agents) in [("first", &[0][..]), ("second", &[1]), ("third", &[1]), ("any", &[0, 1])] {
        let run = server.wait_for(name, "succeeded");
        let place = only_attempt(&run)["node"].as_str().unwrap_or_default().to_owned();
        assert!(agents.iter().any(|n| place.contains(&mesos.agent(*n))), "{name}: {place}");
    }
    wait::until("why tells what was lacking", || {
        let why = server.cli(["why", "big"]).stdout_text();
        (why.contains("1000") && why.contains("cpus")).then_some(())
    });
    wait::until("why tells which constraint failed", || {
        let why = server.cli(["why", "nowhere"]).stdout_text();
        (why.contains("rack") && why.contains("r7")).then_some(())
    });
    assert!(living(mesos, "picky").is_empty());
}

/// Two frameworks on one cluster: who has nothing to do holds nothing.
#[test]
fn two_frameworks_share_the_cluster() {
    // Its own, as it wants all that is there.
    let Some(mesos) = begin(&["--agents", "1"]) else { return };
    let (first, second) = (server(&mesos, "first"), server(&mesos, "second"));
    for round in 0..3 {
        for server in [&first, &second] {
            let mut whole = by_hand("whole", "true");
            // All of the agent: nothing of it may be offered to the other meanwhile.
            whole["cpus"] = json!(4);
            whole["description"] = json!(round.to_string());
            server.put(whole);
            server.cli(["run", "whole"]).success();
            wait::until("it has run", || {
                let runs = server.runs("whole");
                (runs.iter().filter(|run| run["outcome"] == "succeeded").count() == round + 1).then_some(())
            });
        }
    }
    wait::until("neither is offered anything", || {
        let offered = |name: &str| frameworks(&mesos, name)[0]["offered_resources"]["cpus"].as_f64();
        (offered("first") == Some(0.0) && offered("second") == Some(0.0)).then_some(())
    });
    let log = mesos.log();
    assert!(log.contains("SUPPRESS") && log.contains("REVIVE"), "{log}");
}

/// Three servers, one framework: whoever leads takes over its tasks, and none begins twice.
#[test]
fn tasks_outlive_their_leader() {
    let (Some(mesos), Some(fleet)) = (shared(), Fleet::new()) else { return };
    let address = mesos.address();
    let flags = flags(&address, "fleet");
    let common = Folder::new();
    let mut nodes: Vec<_> = (0..3).map(|_| fleet.joined(&flags)).collect();
    let leads = |node: &TestServer| node.get("/ready").is_some_and(|ready| ready.json()["role"] == "leading");
    let leader = |nodes: &[TestServer]| wait::until("one leads", || nodes.iter().position(leads));
    let first = leader(&nodes);
    for job in ["long", "longer"] {
        start_gated(&nodes[first], &common, job);
    }
    let id = frameworks(mesos, "fleet")[0]["id"].clone();
    // As a power cut would, and as a service manager would.
    let folder = nodes.remove(first).kill();
    let second = leader(&nodes);
    nodes[second].wait_for_run("long", "it runs", |run| run["state"] == "running");
    common.file("long.go", "");
    let ended = nodes[second].wait_for("long", "succeeded");
    only_attempt(&ended);
    nodes.push(fleet.node(folder, &flags));
    let (_, code) = nodes.remove(second).terminate();
    assert_eq!(code, Some(0));
    let third = leader(&nodes);
    common.file("longer.go", "");
    let ended = nodes[third].wait_for("longer", "succeeded");
    only_attempt(&ended);
    none_began_twice(&common, 2);
    let known = frameworks(mesos, "fleet");
    assert!(known.len() == 1 && known[0]["id"] == id, "one framework: {known:#?}");
}

/// A leader that was stopped in the middle of its work wakes when another leads: it says nothing to the master.
#[test]
fn a_leader_that_wakes_too_late_is_silent() {
    let Some(mesos) = begin(&["--agents", "2"]) else { return };
    let Some(fleet) = Fleet::new() else { return };
    let address = mesos.address();
    let flags = flags(&address, "zombie");
    let common = Folder::new();
    let (first, second) = (fleet.joined(&flags), fleet.joined(&flags));
    start_gated(&first, &common, "long");
    // It has work to do at every moment, also when it is stopped and when it wakes.
    let dir = common.path().display();
    let mut often = by_hand("often", &format!("echo $CHRONOS_TASK_ID >> {dir}/begun"));
    often["schedule"] = json!("R/2020-01-01T00:00:00Z/PT1S");
    often["concurrent"] = json!(true);
    first.put(often);
    wait::until("it launches", || (begun(&common).len() > 3).then_some(()));
    signal_process(first.pid(), "-STOP");
    second.wait_ready();
    wait::until("the other launches", || {
        let count = begun(&common).len();
        let mine = second.runs("often").iter().filter(|run| run["outcome"] == "succeeded").count();
        (mine > 3 && count > 6).then_some(())
    });
    let calls = |mesos: &Mesos| {
        // Who subscribes is told of with its framework; other calls are not told apart by who sent them, but a stream that
        // is not the current one is refused.
        let log = mesos.log();
        let count = |words: &str| log.lines().filter(|line| line.contains(words)).count();
        (count("Received subscription request for HTTP framework"), count("didn't match the stream ID"))
    };
    let before = calls(&mesos);
    assert!(before.0 >= 2, "the log tells of both subscriptions: {before:?}");
    signal_process(first.pid(), "-CONT");
    wait::until("it knows that it is deposed", || {
        let ready = first.get("/ready")?;
        (ready.json()["role"] == "standby").then_some(())
    });
    wait::until("the other goes on", || (begun(&common).len() > 12).then_some(()));
    assert_eq!(calls(&mesos), before, "it neither subscribed nor spoke");
    common.file("long.go", "");
    only_attempt(&second.wait_for("long", "succeeded"));
    second.cli(["pause", "often"]).success();
    wait::until("all is over", || {
        let live = second.get_json("/v1/runs?outcome=live&limit=100");
        live["runs"].as_array().is_some_and(Vec::is_empty).then_some(())
    });
    let begun = begun(&common);
    assert!(begun.values().all(|times| *times == 1), "{begun:#?}");
    let ledger: Vec<Value> = second.runs("often");
    for run in ledger.iter().filter(|run| run["outcome"] == "succeeded") {
        let task = only_attempt(run)["task"].as_str().unwrap_or_default();
        assert!(begun.contains_key(task), "{run:#}");
    }
}

/// The operator has torn the framework down: its tasks are over, and it comes again under another id.
#[test]
fn a_framework_that_was_torn_down_comes_again() {
    let Some(mesos) = shared() else { return };
    let server = server(mesos, "torn");
    let common = Folder::new();
    start_gated(&server, &common, "long");
    let id = frameworks(mesos, "torn")[0]["id"].as_str().unwrap().to_owned();
    let (_, address) = mesos.leader().expect("one leads");
    let torn = http::send(&address, "POST", "/master/teardown", &[], format!("frameworkId={id}").as_bytes());
    assert_eq!(torn.map(|answer| answer.status), Some(200));
    server.wait_for("long", "lost");
    server.put(by_hand("after", "true"));
    server.cli(["run", "after"]).success();
    server.wait_for("after", "succeeded");
    let known = frameworks(mesos, "torn");
    assert!(
        known.len() == 2
            && known.iter().any(|framework| framework["id"] != *id && framework["active"] == true),
        "{known:#?}"
    );
    none_began_twice(&common, 1);
    // The new id is durable.
    let (folder, _) = server.terminate();
    let address = mesos.address();
    let server = TestServer::launch(folder, &flags(&address, "torn"));
    server.wait_ready();
    server.cli(["run", "after"]).success();
    wait::until("it runs again", || {
        (server.runs("after").iter().filter(|run| run["outcome"] == "succeeded").count() == 2).then_some(())
    });
    assert_eq!(frameworks(mesos, "torn").len(), 2);
}

/// Masters and agents die, fall silent and come again, while a task runs that nobody may lose or double.
#[test]
fn masters_and_agents_come_and_go() {
    let Some(mesos) = begin(&["--masters", "3", "--agents", "2"]) else { return };
    let server = server(&mesos, "steady");
    let common = Folder::new();
    let after = |what: &str, count: usize| {
        server.put(by_hand("after", "true"));
        server.cli(["run", "after"]).success();
        wait::within(wait::BOUND, &format!("a task runs after: {what}"), || {
            let runs = server.runs("after");
            (runs.iter().filter(|run| run["outcome"] == "succeeded").count() == count).then_some(())
        });
    };
    start_gated(&server, &common, "long");
    let (task, agent) = living(&mesos, "steady").pop().expect("it runs");

    // The leading master is killed: another leads.
    let (leader, _) = mesos.leader().expect("one leads");
    mesos.order(&format!("kill {leader}"));
    server.put(by_hand("early", "true"));
    server.cli(["run", "early"]).success();
    server.wait_for("early", "succeeded");
    wait::until("the new one knows the task", || {
        living(&mesos, "steady").iter().any(|(id, _)| *id == task).then_some(())
    });
    mesos.order(&format!("start {leader}"));

    // All masters are killed and start again: nothing runs meanwhile, and readiness says so.
    for n in 0..3 {
        mesos.order(&format!("kill master-{n}"));
    }
    wait::until("readiness tells of the master", || {
        let ready = server.get("/ready")?.json();
        ready.to_string().contains("master").then_some(())
    });
    for n in 0..3 {
        mesos.order(&format!("start master-{n}"));
    }
    after("all masters were away", 1);

    // Its agent is silent for longer than the master waits: nobody can tell, and it is not run again.
    let slaves = wait::until("the master has its agents", || {
        let slaves = ask(&mesos, "/master/slaves")?["slaves"].as_array().cloned()?;
        (slaves.len() == 2).then_some(slaves)
    });
    let port = |slave: &Value| slave["port"].as_u64().expect("a port");
    let first = slaves.iter().map(port).min().expect("two");
    let mine = slaves.iter().find(|slave| slave["id"] == agent).expect("it is there");
    let name = format!("agent-{}", port(mine) - first);
    mesos.order(&format!("pause {name}"));
    wait::until("its fate is open", || {
        let why = server.cli(["why", "long"]).stdout_text();
        why.contains("nobody can tell").then_some(())
    });
    after("an agent is silent", 2);
    mesos.order(&format!("resume {name}"));
    server.wait_for_run("long", "it runs", |run| run["state"] == "running");
    wait::until("it is known again", || {
        (!server.cli(["why", "long"]).stdout_text().contains("nobody can tell")).then_some(())
    });

    // The agent is killed and started: with checkpoints its task goes on.
    mesos.order(&format!("kill {name}"));
    mesos.order(&format!("start {name}"));
    after("an agent was killed", 3);
    common.file("long.go", "");
    only_attempt(&server.wait_for("long", "succeeded"));
    none_began_twice(&common, 1);

    // The agent comes again without its disk: what it ran is lost, and said to be.
    start_gated(&server, &common, "forgotten");
    let (_, agent) = living(&mesos, "steady").pop().expect("it runs");
    let mine = slaves.iter().find(|slave| slave["id"] == agent).expect("it is there");
    mesos.order(&format!("unclean agent-{}", port(mine) - first));
    server.wait_for("forgotten", "lost");
    after("an agent was lost", 4);
}

/// Every run of a thousand begins once, and ends once.
#[test]
fn a_thousand_short_tasks() {
    let Some(mesos) = shared() else { return };
    let server = server(mesos, "busy");
    let folder = Folder::new();
    let dir = folder.path().display();
    let mut job = by_hand("short", &format!("echo $CHRONOS_TASK_ID >> {dir}/begun"));
    job["concurrent"] = json!(true);
    job["cpus"] = json!(0.05);
    server.put(job);
    let ask = |count: usize| {
        for _ in 0..count {
            let started = http::send(&server.address, "PUT", "/v1/scheduler/job/short", &[], b"");
            assert_eq!(started.map(|answer| answer.status), Some(204));
        }
    };
    std::thread::scope(|scope| {
        (0..4).for_each(|_| drop(scope.spawn(|| ask(TASKS / 4))));
    });
    let open = || {
        let live = server.get_json("/v1/runs?job=short&outcome=live&limit=1");
        live["runs"].as_array().is_some_and(|runs| !runs.is_empty())
    };
    wait::within(SHORT_TASKS, "all are over", || (!open()).then_some(()));
    let ended = server.get_json("/v1/runs?job=short&limit=1000&outcome=succeeded");
    assert_eq!(ended["runs"].as_array().map(Vec::len), Some(TASKS));
    none_began_twice(&folder, TASKS);
}
