//! In from what an old Chronos keeps in ZooKeeper, and out again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use store::zookeeper::{Options, old};

use crate::fleet::ensemble;
use crate::golden::golden;
use crate::line::Line;
use crate::moving::{definitions, deployment, portable};
use crate::old_chronos::listed;
use crate::server::{Ended, Folder, TestServer, by_hand, client_command};
use crate::skip::skip;
use crate::wait;

/// A tree of its own in the ensemble that all share.
pub(crate) struct Tree {
    pub(crate) options: Options,
    runtime: tokio::runtime::Runtime,
}

impl Tree {
    /// `None`, and said so, where no ZooKeeper can run.
    pub(crate) fn new() -> Option<Self> {
        static TREES: AtomicU32 = AtomicU32::new(0);
        let hosts = ensemble::shared().map_err(|reason| skip("zookeeper", &reason)).ok()?;
        let path = format!("/old-{}/state", TREES.fetch_add(1, Ordering::Relaxed));
        let options = Options { path, session_timeout: Duration::from_secs(30), ..Options::new(hosts) };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        Some(Self { options, runtime: runtime.unwrap() })
    }

    /// Jobs as the old Chronos would have written them.
    fn write(&self, jobs: &[Value]) {
        self.write_as("fw-1", jobs);
    }

    /// The same, of a Chronos that Mesos knew as this framework.
    pub(crate) fn write_as(&self, framework: &str, jobs: &[Value]) {
        let named = |job: &Value| (job["name"].as_str().unwrap().to_owned(), job.to_string());
        let jobs = jobs.iter().map(named).collect();
        self.runtime.block_on(self.old().write(&jobs, Some(framework), old::Others::Kept)).unwrap();
    }

    fn plant(&self, node: &str, bytes: &[u8]) {
        self.runtime.block_on(old::plant(self.options.clone(), node, bytes)).unwrap();
    }

    fn old(&self) -> old::Place {
        old::Place::new(self.options.clone()).unwrap()
    }

    fn read(&self) -> old::Old {
        self.runtime.block_on(self.old().read()).unwrap()
    }

    /// Names and text of its jobs.
    fn jobs(&self) -> BTreeMap<String, Value> {
        let read = |job: old::OldJob| (job.name, serde_json::from_str(&job.json).unwrap());
        self.read().jobs.into_iter().map(read).collect()
    }

    /// `chronos import|export zookeeper` against a server.
    fn cli(&self, server: &TestServer, what: &str, more: &[&str]) -> Ended {
        let at = [what, "zookeeper", "--zk_hosts", &self.options.hosts, "--zk_path", &self.options.path];
        server.cli([&at[..], more].concat())
    }

    /// `chronos settle`, as an operator decides.
    fn settle(&self, which: &str) -> Ended {
        let at = ["--zk_hosts", &self.options.hosts, "--zk_path", &self.options.path];
        Ended::of(client_command().args(["settle", which]).args(at))
    }

    /// What users read, without what differs each time.
    fn told(&self, ended: &Ended) -> String {
        (ended.stdout_text() + &ended.stderr_text()).replace(&self.options.path, "/chronos/state")
    }
}

#[test]
fn what_an_old_chronos_kept_is_taken_over_and_every_node_is_accounted_for() {
    let Some(tree) = Tree::new() else { return };
    let server = TestServer::start();
    tree.cli(&server, "import", &[]).exit(2).says("there are no jobs below");
    tree.write(deployment().as_array().unwrap());
    tree.plant("J_raw", b"no protobuf");
    tree.plant("T_ct:1:0:extract:", b"whatever");
    tree.plant("stranger", b"hello");
    let before = tree.read();

    let told = tree.cli(&server, "import", &["--dry_run", "--output", "json"]).exit(3).json();
    assert_eq!(told["jobs"].as_array().unwrap().len(), deployment().as_array().unwrap().len() + 3);
    assert!(definitions(&server).is_empty(), "a dry run changes nothing");
    let told = tree.cli(&server, "import", &[]).exit(3);
    golden("import-zookeeper.txt", &tree.told(&told));
    let jobs = definitions(&server);
    assert_eq!(jobs.keys().collect::<Vec<_>>(), ["extract", "load", "my_report__2", "over"]);
    assert_eq!(jobs["load"]["parents"], json!(["extract", "my_report__2"]));
    tree.cli(&server, "import", &[]).exit(3).says("4 unchanged, 6 refused");
    assert_eq!(tree.read(), before, "the tree is only read");
}

#[test]
fn a_tree_that_cannot_be_asked_is_told() {
    let server = TestServer::start();
    let import = |hosts: &str| server.cli(["import", "zookeeper", "--zk_hosts", hosts]);
    import("zk1").exit(2).says("--zk_hosts");
    import("127.0.0.1:9").exit(4).says("--zk_hosts");
    server.cli(["import", "zookeeper"]).exit(2).says("--zk_hosts");
}

#[test]
fn what_goes_back_comes_in_again_the_same() {
    let Some(tree) = Tree::new() else { return };
    let first = TestServer::start();
    portable().into_iter().for_each(|job| first.put(job));
    let told = tree.cli(&first, "export", &[]).exit(2);
    told.says("would write 43 jobs below").says("nothing was written").says("--yes");
    assert_eq!(tree.read(), old::Old::default());
    let told = tree.cli(&first, "export", &["--yes"]).success();
    assert_eq!(tree.told(&told), "wrote 43 jobs below /chronos/state/state\n");
    golden("old-job.json", &format!("{}\n", tree.jobs()["rich"]));

    let second = TestServer::start();
    tree.cli(&second, "import", &[]).success().says("43 in all: 43 created");
    assert_eq!(definitions(&first), definitions(&second));
    let before = tree.jobs();
    tree.cli(&second, "export", &["--yes"]).success();
    assert_eq!(tree.jobs(), before);
    tree.cli(&first, "import", &[]).success().says("43 unchanged");
}

#[test]
fn jobs_that_are_not_the_servers_stay_or_go_as_the_operator_says() {
    let Some(tree) = Tree::new() else { return };
    tree.write(&[listed(json!({ "name": "my report #2", "parents": ["a"] }))]);
    tree.plant("J_raw", b"no protobuf");
    tree.plant("T_ct:1:0:a:", b"whatever");
    let server = TestServer::start();
    server.put(by_hand("a", "true"));
    server.put(json!({ "name": "cron", "command": "true", "schedule": "0 3 * * *" }));
    server.put(json!({ "name": "after-it", "command": "true", "parents": ["cron"] }));
    let told = tree.cli(&server, "export", &["--yes"]).exit(3);
    told.says("`my report #2`, `raw`").says("--others delete");
    assert_eq!(tree.jobs().into_keys().collect::<Vec<_>>(), ["my report #2"]);
    let told = tree.cli(&server, "export", &["--yes", "--others", "keep"]).exit(3);
    told.says("2 of 3 jobs were not written");
    assert_eq!(tree.jobs().into_keys().collect::<Vec<_>>(), ["a", "my report #2"]);
    let told = tree.cli(&server, "export", &["--yes", "--others", "delete"]).exit(3);
    golden("export-zookeeper.txt", &tree.told(&told));
    let left = tree.read();
    assert_eq!((left.jobs.len(), left.unread.len(), left.tasks.len()), (1, 0, 1));
    assert_eq!(left.framework_id.as_deref(), Some("fw-1"));
}

#[test]
fn nobody_writes_under_the_feet_of_another_leader() {
    let Some(tree) = Tree::new() else { return };
    let flags = ["--zk_hosts", &tree.options.hosts, "--zk_path", &tree.options.path];
    let ours = TestServer::launch(Folder::new(), &flags);
    ours.wait_ready();
    ours.put(by_hand("a", "true"));
    tree.cli(&ours, "export", &["--yes"]).success().says("wrote 1 job below");
    let other = TestServer::start();
    other.put(by_hand("b", "true"));
    let refused = tree.cli(&other, "export", &["--yes", "--others", "keep"]).exit(3);
    refused.says("another server, at").says("--beside_leader");
    assert_eq!(tree.jobs().into_keys().collect::<Vec<_>>(), ["a"]);
    tree.cli(&other, "export", &["--yes", "--others", "keep", "--beside_leader"]).success();
    assert_eq!(tree.jobs().into_keys().collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn an_old_leader_is_seen() {
    let Some(tree) = Tree::new() else { return };
    let server = TestServer::start();
    server.put(by_hand("a", "true"));
    let old = tree.runtime.block_on(old::stand_in(tree.options.clone(), "old.example.org:8080")).unwrap();
    let refused = tree.cli(&server, "export", &["--yes"]).exit(3);
    refused.says("an old Chronos at old.example.org:8080 leads there");
    assert_eq!(tree.read(), old::Old::default());
    drop(old);
    wait::until("it is gone", || {
        let leader = tree.runtime.block_on(tree.old().leader()).unwrap();
        leader.is_none().then_some(())
    });
    tree.cli(&server, "export", &["--yes"]).success();
}

/// A server of ours beside an old Chronos, which keeps more of its history than it would by itself.
fn beside(tree: &Tree, folder: Arc<Folder>) -> TestServer {
    let place = ["--zk_hosts", &tree.options.hosts, "--zk_path", &tree.options.path];
    let server = TestServer::launch(folder, &[&place[..], &["--history_count_max", "1000"]].concat());
    wait::until("it has read the store", || (server.get("/v1/jobs")?.status == 200).then_some(()));
    server
}

/// A job of every second, which the old Chronos would launch next at this second.
fn tick(next: &str) -> Value {
    listed(json!({ "name": "tick", "schedule": format!("R/{next}/PT1S"), "scheduleTimeZone": "" }))
}

/// It leads no more than it must to find out that it may not, and says why.
#[track_caller]
fn stands_aside(server: &TestServer) {
    wait::until("it says what is the matter", || {
        let ready = server.get("/ready")?.json();
        let says = ready["reasons"].to_string().contains("chronos settle");
        (says && ready["role"] == "standby").then_some(())
    });
    wait::until("it shows what it has", || (server.get("/v1/jobs")?.status == 200).then_some(()));
}

#[test]
fn the_first_leader_takes_over_what_is_there() {
    let Some(tree) = Tree::new() else { return };
    tree.write(deployment().as_array().unwrap());
    tree.plant("J_raw", b"no protobuf");
    let before = tree.read();
    let server = beside(&tree, Folder::new());
    server.wait_ready();
    assert_eq!(definitions(&server).keys().collect::<Vec<_>>(), ["extract", "load", "my_report__2", "over"]);
    let log = server.log();
    assert!(log.contains("took over the jobs of the old Chronos"), "{log}");
    for lost in ["zombie", "ring-a", "broken", "J_raw"] {
        let told = log.lines().any(|line| line.contains("could not take over a job") && line.contains(lost));
        assert!(told, "{lost}: {log}");
    }
    let notes = server.get_json("/ready")["notes"].to_string();
    let left = "6 job(s) of the old Chronos could not be taken over: broken, of-the-zombie, ring-a, ring-b, zombie and 1 more";
    assert!(notes.contains(left), "{notes}");
    server.cli(["doctor"]).says("could not be taken over").says("import zookeeper --dry_run");
    server.cli(["audit", "extract"]).success().says("import");
    server.cli(["delete", "extract", "load"]).success();
    assert_eq!(tree.read(), before, "the tree is only read");

    // A later leader goes on with what is here, whatever has become of it.
    server.cli(["delete", "over"]).success();
    let (folder, _) = server.terminate();
    let server = beside(&tree, folder);
    server.wait_ready();
    assert!(!definitions(&server).contains_key("over"));
    assert_eq!(server.log().matches("took over the jobs").count(), 1);
    tree.settle("keep").exit(3).says("nothing to decide");
}

/// However long that takes: a bound on all of it would keep every server from leading, for ever.
#[test]
fn many_old_jobs_behind_a_slow_line_are_taken_over_all_the_same() {
    let Some(tree) = Tree::new() else { return };
    let large =
        |n| listed(json!({ "name": format!("job-{n}"), "command": format!("true {}", "x".repeat(40_000)) }));
    let jobs: Vec<Value> = (0..60).map(large).collect();
    tree.write(&jobs);
    let line = Line::before(&tree.options.hosts);
    line.slow(40);
    let flags = ["--zk_hosts", &line.address, "--zk_path", &tree.options.path];
    let server = TestServer::launch(Folder::new(), &flags);
    let looks = || (server.get("/ready")?.json()["role"] == "preparing").then_some(());
    wait::until("it looks", looks);
    // What there is takes the line so long and half as long again.
    let begun = Instant::now();
    wait::until("it looks for a while", || looks().filter(|()| begun.elapsed() > Duration::from_secs(16)));
    line.go_on();
    server.wait_ready();
    wait::until("all is here", || (definitions(&server).len() == jobs.len()).then_some(()));
    assert_eq!(server.log().matches("elected").count(), 1, "{}", server.log());
}

#[test]
fn an_old_chronos_that_has_led_since_is_noticed_and_somebody_must_decide() {
    let Some(tree) = Tree::new() else { return };
    let start = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.000Z").to_string();
    tree.write(&[tick(&start)]);
    let server = beside(&tree, Folder::new());
    server.wait_for("tick", "succeeded");
    let (folder, _) = server.terminate();

    // The old one leads for a while, and launches.
    tree.write(&[tick(&start)]);
    let server = beside(&tree, folder);
    stands_aside(&server);
    let old = OldLeader::elected(&tree);
    tree.settle("keep").exit(3).says("an old Chronos at old.example.org:8080 leads there");
    old.stop(&tree);
    let runs = server.runs("tick");
    tree.settle("keep").success().says("the jobs that are here count");
    server.wait_ready();
    server.wait_for_run("tick", "it goes on", |run| !runs.iter().any(|old| old["key"] == run["key"]));
    let (folder, _) = server.terminate();

    // Once more, and this time the old one counts: nothing is launched of what was due before its next slot.
    let stopped = Timestamp::now();
    let next = stopped + SignedDuration::from_secs(3600);
    let next = next.strftime("%Y-%m-%dT%H:%M:%S.000Z").to_string();
    tree.write(&[tick(&next)]);
    let server = beside(&tree, folder);
    stands_aside(&server);
    tree.settle("import").success();
    server.wait_ready();
    assert_eq!(definitions(&server)["tick"]["schedule"], format!("R/{next}/PT1S"));
    server.put(by_hand("now", "true"));
    server.cli(["run", "now"]).success();
    server.wait_for("now", "succeeded");
    for run in server.runs("tick") {
        let attempts = run["attempts"].as_array().unwrap();
        let launched = |attempt: &Value| attempt["launched"].as_str().unwrap().parse::<Timestamp>().unwrap();
        assert!(attempts.iter().all(|attempt| launched(attempt) < stopped), "of the old one is {run:#}");
    }
}

/// An old Chronos that leads, and launches as the reference says; see [`OldLeader::launch`].
struct OldLeader(old::StandIn);

impl OldLeader {
    fn elected(tree: &Tree) -> Self {
        let old = old::stand_in(tree.options.clone(), "old.example.org:8080");
        let old = Self(tree.runtime.block_on(old).unwrap());
        wait::until("it leads", || {
            let leader = tree.runtime.block_on(tree.old().leader()).unwrap()?;
            leader.node.is_empty().then_some(())
        });
        old
    }

    fn stop(self, tree: &Tree) {
        drop(self.0);
        wait::until("it is gone", || {
            let leader = tree.runtime.block_on(tree.old().leader()).unwrap();
            leader.is_none_or(|leader| !leader.node.is_empty()).then_some(())
        });
    }

    /// Launches what is due until there is enough, and writes the schedules back.
    fn lead(self, tree: &Tree, ledger: &mut Ledger, what: &str, enough: impl Fn(&Ledger) -> bool) {
        wait::until(what, || {
            let (mut jobs, now) = (tree.jobs(), Timestamp::now());
            let due =
                jobs.values_mut().filter_map(|job| Self::launch(job, now, ledger).then_some(job.clone()));
            let due: Vec<Value> = due.collect();
            if !due.is_empty() {
                tree.write(&due);
            }
            enough(ledger).then_some(())
        });
        self.stop(tree);
    }

    /// Launches a job if it is due: once for all slots that have passed, and moves its schedule on. Notes each of them.
    fn launch(job: &mut Value, now: Timestamp, ledger: &mut Ledger) -> bool {
        let Some(schedule) = job["schedule"].as_str().filter(|_| job["disabled"] != true) else {
            return false;
        };
        let parts: Vec<&str> = schedule.split('/').collect();
        let (left, start) = (parts[0][1..].parse::<u64>().ok(), parts[1].parse::<Timestamp>().unwrap());
        let seconds = parts[2].strip_prefix("PT").and_then(|text| text.strip_suffix('S')).unwrap();
        let (period, late) = (seconds.parse::<i64>().unwrap(), now.duration_since(start));
        if left == Some(0) || late <= SignedDuration::ZERO {
            return false;
        }
        let passed = late.as_secs() / period + 1;
        let slot = |number: i64| start + SignedDuration::from_secs(number * period);
        let name = job["name"].as_str().unwrap().to_owned();
        (0..passed).for_each(|number| ledger.0.push((name.clone(), slot(number), "old")));
        let left = left.map_or(String::new(), |left| (left - 1).to_string());
        job["schedule"] = format!("R{left}/{:.3}/{}", slot(passed), parts[2]).into();
        true
    }
}

/// Which slot of which job was launched by whom.
#[derive(Debug, Default)]
struct Ledger(Vec<(String, Timestamp, &'static str)>);

impl Ledger {
    fn of(&self, job: &str, by: &str) -> usize {
        self.0.iter().filter(|(name, _, who)| name == job && *who == by).count()
    }

    /// Everything that ours have launched, from their history.
    fn read(&mut self, server: &TestServer) {
        let page = server.get_json("/v1/runs?limit=1000");
        assert_eq!(page["next"], Value::Null, "one page holds them all");
        let slots = page["runs"].as_array().unwrap().iter().filter(|run| {
            run["cause"] == "slot" && run["attempts"].as_array().is_some_and(|attempts| !attempts.is_empty())
        });
        self.0.extend(slots.map(|run| (run["job"].as_str().unwrap().to_owned(), due(run).unwrap(), "ours")));
    }

    #[track_caller]
    fn has_no_slot_twice(&self) {
        let mut slots: Vec<_> = self.0.iter().map(|(job, slot, _)| (job, slot)).collect();
        slots.sort();
        let twice = slots.windows(2).find(|pair| pair[0] == pair[1]);
        assert_eq!(twice, None, "{self:#?}");
    }
}

/// Old, new, old by way of an export, and new again.
#[test]
fn from_one_to_the_other_and_back_no_slot_is_launched_twice() {
    let Some(tree) = Tree::new() else { return };
    let mut ledger = Ledger::default();
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.000Z").to_string();
    let every_second = |name: &str, repeats: &str| {
        listed(json!({ "name": name, "schedule": format!("{repeats}/{now}/PT1S"), "scheduleTimeZone": "" }))
    };
    tree.write(&[every_second("tick", "R"), every_second("some", "R8"), every_second("once", "R1")]);
    let enough = |ledger: &Ledger| ledger.of("tick", "old") >= 3;
    OldLeader::elected(&tree).lead(&tree, &mut ledger, "the old one launches", enough);

    let server = beside(&tree, Folder::new());
    server.wait_for("some", "succeeded");
    server.put(json!({ "name": "held", "command": "true", "schedule": "R//PT1S" }));
    server.put(json!({ "name": "ours", "command": "true", "schedule": "R1//PT1S" }));
    server.wait_for("ours", "succeeded");
    server.wait_for("held", "succeeded");
    server.cli(["pause", "held"]).success();
    wait::until("the slots of `some` are used up", || {
        (server.get_json("/v1/jobs/some")["exhausted"] == true).then_some(())
    });
    let folder = hand_over(&tree, server);
    OldLeader::elected(&tree)
        .lead(&tree, &mut ledger, "it launches again", |ledger| ledger.of("tick", "old") >= 6);
    assert_eq!((ledger.of("held", "old"), ledger.of("ours", "old")), (0, 0));

    let last = ledger.0.iter().map(|(_, slot, _)| *slot).max().unwrap();
    let server = beside(&tree, folder);
    stands_aside(&server);
    tree.settle("import").success();
    server.wait_ready();
    server.wait_for_run("tick", "it goes on", |run| due(run) > Some(last) && run["outcome"] == "succeeded");
    assert_eq!(definitions(&server)["held"]["disabled"], true);
    ledger.read(&server);
    assert!(["tick", "some", "held", "ours"].iter().all(|job| ledger.of(job, "ours") > 0), "{ledger:#?}");
    ledger.has_no_slot_twice();
}

/// Of a run; a row of slots that never became runs has none.
fn due(run: &Value) -> Option<Timestamp> {
    Some(run["due"].as_str()?.parse().unwrap())
}

/// Exports and stops the server as the guide says: before the old one begins, or all of it is done once more.
fn hand_over(tree: &Tree, mut server: TestServer) -> Arc<Folder> {
    for seconds in [15, 30, 60, 120] {
        let until = Timestamp::from_second(Timestamp::now().as_second() + seconds).unwrap();
        let told = tree.cli(&server, "export", &["--yes", &format!("--advance={until}")]).success();
        let exported = Timestamp::now();
        told.says("job `held`: it is paused")
            .says("job `ours`: its schedule is over")
            .says("stop this server before that");
        // What it launches after the export is not for the old one either.
        server.wait_for_run("tick", "it goes on", |run| due(run) > Some(exported));
        let (folder, _) = server.terminate();
        if Timestamp::now() < until {
            return folder;
        }
        server = beside(tree, folder);
        server.wait_ready();
    }
    panic!("it was never stopped in time");
}

/// What a server that is ended in the midst of it leaves: some of the jobs, or all, and an order that still stands.
#[test]
fn a_takeover_that_was_cut_is_completed_by_the_next_leader() {
    let Some(tree) = Tree::new() else { return };
    let job = |name: &str, schedule: &str| {
        listed(json!({ "name": name, "schedule": schedule, "scheduleTimeZone": "" }))
    };
    tree.write(&[
        job("first", "R1/2020-01-01T00:00:00.000Z/P1D"),
        job("second", "R/2099-01-01T00:00:00.000Z/P1D"),
    ]);
    let server = beside(&tree, Folder::new());
    server.wait_ready();
    server.wait_for("first", "succeeded");
    server.cli(["delete", "second"]).success();
    let folder = server.kill();
    let remembered = tree.runtime.block_on(tree.old().recall()).unwrap();
    let place = tree.old();
    let ordered = place.remember(remembered, old::Standing::Import);
    tree.runtime.block_on(ordered).unwrap();

    let server = beside(&tree, folder);
    wait::until("it is done", || {
        (server.log().matches("took over the jobs of the old Chronos").count() == 2).then_some(())
    });
    server.wait_ready();
    assert_eq!(definitions(&server).keys().collect::<Vec<_>>(), ["first", "second"]);
    assert_eq!(server.get_json("/v1/jobs/first")["version"], 1);
    assert_eq!(server.runs("first").len(), 1);
    tree.settle("keep").exit(3).says("nothing to decide");
}

#[test]
fn an_export_beside_a_store_of_ours_is_no_old_chronos() {
    let Some(tree) = Tree::new() else { return };
    let server = beside(&tree, Folder::new());
    server.wait_ready();
    server.put(by_hand("a", "true"));
    tree.cli(&server, "export", &["--yes"]).success();
    let (folder, _) = server.terminate();
    beside(&tree, folder).wait_ready();
}
