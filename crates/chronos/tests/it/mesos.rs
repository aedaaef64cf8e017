//! The real binary on a real cluster: masters and agents of Mesos, by `testing/mesos-local`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};

use crate::docker;
use crate::fleet::{Fleet, leads};
use crate::http;
use crate::old_zookeeper::Tree;
use crate::server::{Folder, TestServer, by_hand, server_command, signal_process};
use crate::skip::skip;
use crate::wait;

#[path = "../../../engine/testing/mesosd.rs"]
mod mesosd;

use mesosd::Mesos;

/// As many as a page shows.
const TASKS: usize = 1000;
/// How long they may take where the machine has other things to do: here it starts some ten a second.
const SHORT_TASKS: Duration = Duration::from_secs(900);
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
    let mut flags = vec!["--master", address, "--mesos_framework_name", name, "--user", me()];
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

/// The user of this test: agents that are not root run tasks of their own user alone, and drop those of others.
fn me() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let told = std::process::Command::new("id").arg("-un").output().expect("`id` is there");
        String::from_utf8_lossy(&told.stdout).trim().to_owned()
    })
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
    assert_eq!((&framework["active"], &framework["user"]), (&json!(true), &json!(me())));
}

/// What Chronos told every task in its environment.
#[test]
fn a_task_knows_what_it_is() {
    let Some(mesos) = shared() else { return };
    let server = server(mesos, "telling");
    let mut job = by_hand("told", "env");
    job["owner"] = json!("ops@example.org");
    job["environmentVariables"] =
        json!([{"name": "MODE", "value": "full"}, {"name": "CHRONOS_JOB_NAME", "value": "another"}]);
    server.put(job);
    server.cli(["run", "told"]).success();
    let run = server.wait_for("told", "succeeded");
    let task = only_attempt(&run)["task"].as_str().unwrap();
    let output = server.cli(["logs", "told"]).success().stdout_text();
    let told: BTreeMap<&str, &str> = output.lines().filter_map(|line| line.split_once('=')).collect();
    for (name, value) in [
        ("mesos_task_id", task),
        ("MESOS_TASK_ID", task),
        ("CHRONOS_TASK_ID", task),
        ("CHRONOS_JOB_OWNER", "ops@example.org"),
        ("CHRONOS_JOB_NAME", "told"),
        ("HOST", "127.0.0.1"),
        ("CHRONOS_RESOURCE_MEM", "32.0"),
        ("CHRONOS_RESOURCE_CPU", "0.1"),
        ("CHRONOS_RESOURCE_DISK", "16.0"),
        ("CHRONOS_JOB_RUN_ATTEMPT", "0"),
        ("MODE", "full"),
    ] {
        assert_eq!(told.get(name), Some(&value), "{name} of {output}");
    }
    let due: jiff::Timestamp = run["due"].as_str().unwrap().parse().unwrap();
    let due = due.as_millisecond().to_string();
    assert_eq!(told.get("CHRONOS_JOB_RUN_TIME"), Some(&due.as_str()));
}

/// Folders of this name, with what agents keep below.
fn folders_of(below: &Path, name: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(below).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let of = |entry: std::fs::DirEntry| match entry.file_name().to_str() {
        Some(found) if found == name => vec![entry.path()],
        _ => folders_of(&entry.path(), name),
    };
    folders.flat_map(of).collect()
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
    // The agent removes the files of ended tasks in the end.
    let task = only_attempt(&server.wait_for("hello", "succeeded"))["task"].as_str().unwrap().to_owned();
    let removed =
        (0..2).flat_map(|n| folders_of(&mesos.file(&format!("agent-{n}/slaves")), &task)).collect::<Vec<_>>();
    assert!(!removed.is_empty(), "there is a sandbox of {task}");
    removed.iter().for_each(|folder| std::fs::remove_dir_all(folder).unwrap());
    for follow in [&["logs", "hello"][..], &["logs", "hello", "--follow"]] {
        server.cli(follow).exit(3).says("has removed what this attempt wrote").says("--gc_delay");
    }
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
    wait::until("the master has seen the end of all", || living(mesos, "picky").is_empty().then_some(()));
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

/// What is not a command: containers of Docker, and executors of somebody's own.
#[test]
fn containers_and_executors_run_on_agents() {
    let Some(docker) = docker::host() else { return };
    let socket = format!("--agent-flag=--docker_socket={}", docker.trim_start_matches("unix://"));
    let Some(mesos) = begin(&["--agents", "1", "--containerizers", "docker,mesos", &socket]) else { return };
    let server = server(&mesos, "forms");
    let common = Folder::new();
    let fetched = common.file("fetched.txt", "fetched\n");
    common.file("mounted.txt", "mounted\n");
    let in_container = |name: &str, command: &str| {
        let mut job = by_hand(name, command);
        let volume = json!({"containerPath": "/common", "hostPath": common.path(), "mode": "RO"});
        let hostname = json!({"key": "hostname", "value": "box"});
        job["container"] = json!({"type": "DOCKER", "image": "chronos-test", "network": "NONE",
            "volumes": [volume], "parameters": [hostname]});
        job["environmentVariables"] = json!([{"name": "BOX", "value": "a box"}]);
        job["fetch"] = json!([{"uri": fetched}]);
        job
    };
    let look = "echo $CHRONOS_JOB_NAME in $BOX; hostname; cat /common/mounted.txt $MESOS_SANDBOX/fetched.txt; \
                touch /common/x 2>/dev/null || echo read-only";
    server.put(in_container("boxed", look));
    server.put(in_container("wrong", "exit 4"));
    server.put(in_container("endless", "echo begun; sleep 1000"));
    let executor = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testing/mesos-local/custom-executor");
    let mut own = by_hand("own", "the command");
    own["executor"] = json!(format!("python3 -B {}", executor.canonicalize().unwrap().display()));
    own["executorFlags"] = json!("--quiet");
    server.put(own);
    for job in ["boxed", "wrong", "endless", "own"] {
        server.cli(["run", job]).success();
    }
    server.wait_for("boxed", "succeeded");
    let told = "boxed in a box\nbox\nmounted\nfetched\nread-only\n";
    server.cli(["logs", "boxed"]).success().stdout(told);
    let wrong = server.wait_for("wrong", "failed");
    assert_eq!(only_attempt(&wrong)["exit"], 4, "{wrong:#}");
    server.wait_for("own", "succeeded");
    server.cli(["logs", "own"]).success().stdout("told --quiet|the command of own\n");
    wait::until("it has begun", || {
        (server.cli(["logs", "endless"]).stdout_text() == "begun\n").then_some(())
    });
    let running = || docker::docker(&docker, &["ps", "--quiet", "--filter", "name=mesos-"]);
    wait::until("its container is the only one that is left", || {
        (running().lines().count() == 1).then_some(())
    });
    server.cli(["kill", "endless"]).success();
    server.wait_for("endless", "killed");
    wait::until("its container is gone", || running().is_empty().then_some(()));
}

/// What stands between a server and the cluster is found, leg by leg.
#[test]
fn the_doctor_looks_at_the_cluster() {
    let Some(mesos) = shared() else { return };
    let server = server(mesos, "healthy");
    server.put(by_hand("hello", "true"));
    server.cli(["run", "hello"]).success();
    server.wait_for("hello", "succeeded");
    let id = frameworks(mesos, "healthy")[0]["id"].as_str().unwrap().to_owned();
    let (_, leader) = mesos.leader().expect("one leads");
    server
        .cli(["doctor"])
        .says(&format!("✓ master    the master at http://{leader} leads (found by {})", mesos.address()))
        .says(&format!("✓ framework `healthy` is active there, as {id}"))
        .says("✓ offers    ")
        .says(&format!("✓ webui     http://{} answers", server.address));
    // Marathon says in the environment of a task where it is found from outside; nobody is there here.
    let address = mesos.address();
    let folder = Folder::new();
    let inside = ["--http_address", "0.0.0.0", "--hostname", "172.17.0.2"];
    let flags = [&flags(&address, "contained")[..], &inside].concat();
    let mut command = server_command(&folder, &flags);
    command.envs([("MARATHON_APP_ID", "/chronos"), ("HOST", "agent-7.example.org"), ("PORT0", "31007")]);
    let contained = TestServer::launch_command(folder, command);
    contained.wait_ready();
    assert_eq!(frameworks(mesos, "contained")[0]["webui_url"], "http://agent-7.example.org:31007");
    contained.cli(["doctor"]).says("! webui     the master shows http://agent-7.example.org:31007 as ours");
    let nowhere = TestServer::launch(Folder::new(), &["--master", "127.0.0.1:9"]);
    wait::until("it has looked", || nowhere.get("/ready")?.json()["role"].eq("leading").then_some(()));
    nowhere.cli(["doctor"]).exit(1).says("✗ master    ").says("see --master");
}

/// A framework that speaks for itself, as an old Chronos would, for as long as it is kept: its id, and its stream.
struct OldFramework {
    id: String,
    stream: String,
    address: String,
    events: BufReader<TcpStream>,
}

impl OldFramework {
    fn subscribe(address: &str, name: &str) -> Self {
        let info = json!({"name": name, "user": me(), "checkpoint": true, "failover_timeout": 3600.0, "roles": ["*"],
            "capabilities": [{"type": "MULTI_ROLE"}]});
        let body = json!({"type": "SUBSCRIBE", "subscribe": {"framework_info": info}}).to_string();
        let mut connection = TcpStream::connect(address).expect("the master is there");
        write!(
            connection,
            "POST /api/v1/scheduler HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
             Accept: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .expect("it listens");
        let mut events = BufReader::new(connection);
        let mut stream = String::new();
        loop {
            let mut line = String::new();
            events.read_line(&mut line).expect("an answer");
            if let Some(value) = line.strip_prefix("Mesos-Stream-Id:") {
                stream = value.trim().into();
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut this = Self { id: String::new(), stream, address: address.into(), events };
        let subscribed = this.next("SUBSCRIBED");
        this.id = subscribed["subscribed"]["framework_id"]["value"].as_str().expect("an id").to_owned();
        this
    }

    /// The next event of a kind: one is one chunk here.
    fn next(&mut self, kind: &str) -> Value {
        loop {
            let mut length = String::new();
            self.events.read_line(&mut length).expect("a chunk");
            let length = usize::from_str_radix(length.trim(), 16).expect("its length");
            let mut chunk = vec![0; length + 2];
            self.events.read_exact(&mut chunk).expect("all of it");
            let text = String::from_utf8_lossy(&chunk);
            let record = text.trim().split_once('\n').map_or("", |(_, record)| record);
            let event: Value = serde_json::from_str(record).unwrap_or_default();
            if event["type"] == kind {
                return event;
            }
        }
    }

    /// Has a task begin under a name of old.
    fn begin(&mut self, task: &str, command: &str) {
        let offers = self.next("OFFERS");
        let offer = &offers["offers"]["offers"][0];
        let scalar = |name: &str, value: f64| json!({"name": name, "type": "SCALAR", "scalar": {"value": value}, "allocation_info": {"role": "*"}});
        let info = json!({"name": "ChronosTask:report", "task_id": {"value": task}, "agent_id": offer["agent_id"],
            "resources": [scalar("cpus", 0.1), scalar("mem", 32.0)], "command": {"shell": true, "value": command}});
        let accept = json!({"offer_ids": [offer["id"]], "filters": {"refuse_seconds": 3600.0},
            "operations": [{"type": "LAUNCH", "launch": {"task_infos": [info]}}]});
        self.call("ACCEPT", "accept", &accept);
        loop {
            let status = self.next("UPDATE")["update"]["status"].clone();
            match status["state"].as_str() {
                Some("TASK_RUNNING") => return,
                Some("TASK_STAGING" | "TASK_STARTING") => {}
                _ => panic!("it does not run: {status}"),
            }
            let told =
                json!({"agent_id": status["agent_id"], "task_id": status["task_id"], "uuid": status["uuid"]});
            self.call("ACKNOWLEDGE", "acknowledge", &told);
        }
    }

    fn call(&self, kind: &str, name: &str, body: &Value) {
        let call = json!({"framework_id": {"value": self.id}, "type": kind, name: body});
        let stream = format!("Mesos-Stream-Id: {}", self.stream);
        let headers = ["Content-Type: application/json", &stream];
        let body = call.to_string();
        let answer = http::send(&self.address, "POST", "/api/v1/scheduler", &headers, body.as_bytes());
        assert_eq!(answer.map(|answer| answer.status), Some(202));
    }
}

/// Who begins where an old Chronos was is the same framework to Mesos, and has its tasks.
#[test]
fn the_framework_of_an_old_chronos_is_taken_over() {
    let (Some(mesos), Some(tree)) = (shared(), Tree::new()) else { return };
    let (_, leader) = mesos.leader().expect("one leads");
    let mut old = OldFramework::subscribe(&leader, "inherited");
    let task = "ct:1893456000000:0:report:";
    old.begin(task, "sleep 1000");
    let id = old.id.clone();
    // It ends: its task does not.
    drop(old);
    let report = json!({ "name": "report", "command": "true", "schedule": "R/2099-01-01T00:00:00Z/P1D" });
    tree.write_as(&id, &[report]);
    let address = mesos.address();
    let at = ["--zk_hosts", &tree.options.hosts, "--zk_path", &tree.options.path];
    let flags = [&flags(&address, "inherited")[..], &at[..]].concat();
    let server = TestServer::launch(Folder::new(), &flags);
    server.wait_ready();
    wait::until("the job is here", || {
        server.get("/v1/scheduler/jobs").filter(|jobs| jobs.json()[0]["name"] == "report")
    });
    let [framework] = &frameworks(mesos, "inherited")[..] else {
        panic!("{:#?}", frameworks(mesos, "inherited"))
    };
    assert_eq!((&framework["id"], &framework["active"]), (&json!(id), &json!(true)));
    server.cli(["run", "report"]).success();
    server.wait_for("report", "succeeded");
    assert!(living(mesos, "inherited").iter().any(|(living, _)| living == task), "it runs on");
    wait::until("the server tells of it", || {
        server.cli(["doctor"]).stdout_text().contains(task).then_some(())
    });
    let (folder, _) = server.terminate();
    let server = TestServer::launch(folder, &[&flags[..], &["--mesos_old_tasks", "kill"]].concat());
    server.wait_ready();
    wait::until("it is ended", || living(mesos, "inherited").is_empty().then_some(()));
    assert_eq!(frameworks(mesos, "inherited").len(), 1);
}

/// Three servers, one framework: whoever leads takes over its tasks, and none begins twice.
#[test]
fn tasks_outlive_their_leader() {
    let (Some(mesos), Some(fleet)) = (shared(), Fleet::new()) else { return };
    let address = mesos.address();
    let flags = flags(&address, "fleet");
    let common = Folder::new();
    let mut nodes: Vec<_> = (0..3).map(|_| fleet.joined(&flags)).collect();
    let leader = |nodes: &[TestServer]| wait::until("one leads", || nodes.iter().position(leads));
    let first = leader(&nodes);
    for job in ["long", "longer"] {
        start_gated(&nodes[first], &common, job);
    }
    let id = frameworks(mesos, "fleet")[0]["id"].clone();
    // What the master shows as our address is the leader's, whoever that is.
    let shown = || frameworks(mesos, "fleet")[0]["webui_url"].as_str().unwrap_or_default().to_owned();
    assert_eq!(shown(), format!("http://{}", nodes[first].address));
    // As a power cut would, and as a service manager would.
    let folder = nodes.remove(first).kill();
    let second = leader(&nodes);
    nodes[second].wait_for_run("long", "it runs", |run| run["state"] == "running");
    wait::until("the master shows its address", || {
        (shown() == format!("http://{}", nodes[second].address)).then_some(())
    });
    // Whoever is asked, the leader looks.
    let standby = nodes.iter().position(|node| !leads(node)).expect("one stands by");
    nodes[standby].cli(["doctor"]).says("✓ webui").says(&format!("http://{} answers", nodes[second].address));
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
    // The master's log tells of every call, subscriptions too, and which process made it.
    let calls = |pid: u32| {
        let (log, by) = (mesos.log(), format!("(pid {pid})"));
        log.lines().filter(|line| line.contains("/api/v1/scheduler") && line.contains(&by)).count()
    };
    let words = "Received subscription request for HTTP framework";
    let subscriptions = mesos.log().lines().filter(|line| line.contains(words)).count();
    let before = calls(first.pid());
    assert!(
        before > 3 && subscriptions >= 2,
        "the log tells of its {before} calls and of both subscriptions: {subscriptions}"
    );
    let of_the_other = calls(second.pid());
    // What it is to do first, when it wakes.
    let mut asked = TcpStream::connect(&first.address).expect("the kernel takes it");
    let kill = format!(
        "DELETE /v1/scheduler/task/kill/long HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        first.address
    );
    asked.write_all(kill.as_bytes()).expect("the kernel takes it");
    signal_process(first.pid(), "-CONT");
    wait::until("it knows that it is deposed", || {
        let ready = first.get("/ready")?;
        (ready.json()["role"] == "standby").then_some(())
    });
    wait::until("the other goes on", || (begun(&common).len() > 12).then_some(()));
    // It hands that on, or refuses it; what is killed is killed by the other.
    let mut answer = String::new();
    asked.read_to_string(&mut answer).expect("it is answered, or refused");
    assert_eq!(calls(first.pid()), before, "it neither subscribed nor spoke");
    assert!(calls(second.pid()) > of_the_other, "the other's calls are counted");
    common.file("long.go", "");
    let long = second.wait_for_run("long", "it is over", |run| run["state"] == "ended");
    only_attempt(&long);
    second.cli(["pause", "often"]).success();
    // What nobody has heard of is asked for after half a minute, and again: on a busy machine that comes to more than one.
    wait::within(3 * wait::BOUND, "all is over", || {
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
    // An executor that an agent does not hear of in time when it is back is ended: a busy machine takes its time.
    let patience = "--agent-flag=--executor_reregistration_timeout=15secs";
    let Some(mesos) = begin(&["--masters", "3", "--agents", "2", patience]) else { return };
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
    // The task of a job's only run, and the agent that has it, once the master knows of it.
    let place = |job: &str| {
        let task = only_attempt(&server.runs(job)[0])["task"].as_str().unwrap().to_owned();
        wait::until("the master knows that it runs", || {
            living(&mesos, "steady").into_iter().find(|(id, _)| *id == task)
        })
    };
    start_gated(&server, &common, "long");
    let (task, agent) = place("long");

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
    let (_, agent) = place("forgotten");
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
