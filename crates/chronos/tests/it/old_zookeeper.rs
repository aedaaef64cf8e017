//! In from what an old Chronos keeps in ZooKeeper, and out again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use store::zookeeper::{Options, old};

use crate::fleet::ensemble;
use crate::golden::golden;
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
        let written = old::write(self.options.clone(), &jobs, Some(framework), old::Others::Kept);
        self.runtime.block_on(written).unwrap();
    }

    fn plant(&self, node: &str, bytes: &[u8]) {
        self.runtime.block_on(old::plant(self.options.clone(), node, bytes)).unwrap();
    }

    fn read(&self) -> old::Old {
        self.runtime.block_on(old::read(self.options.clone())).unwrap()
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
        let leader = tree.runtime.block_on(old::leader(tree.options.clone())).unwrap();
        leader.is_none().then_some(())
    });
    tree.cli(&server, "export", &["--yes"]).success();
}

/// A server of ours beside an old Chronos.
fn beside(tree: &Tree, folder: Arc<Folder>) -> TestServer {
    let server =
        TestServer::launch(folder, &["--zk_hosts", &tree.options.hosts, "--zk_path", &tree.options.path]);
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
    server.cli(["audit", "extract"]).success().says("import");
    server.cli(["delete", "extract", "load"]);
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
    let old = tree.runtime.block_on(old::stand_in(tree.options.clone(), "old.example.org:8080")).unwrap();
    wait::until("it leads", || {
        let leader = tree.runtime.block_on(old::leader(tree.options.clone())).unwrap()?;
        leader.node.is_empty().then_some(())
    });
    tree.settle("keep").exit(3).says("an old Chronos at old.example.org:8080 leads there");
    drop(old);
    wait::until("it is gone", || {
        let leader = tree.runtime.block_on(old::leader(tree.options.clone())).unwrap();
        leader.is_none_or(|leader| !leader.node.is_empty()).then_some(())
    });
    let runs = server.runs("tick");
    tree.settle("keep").success().says("the jobs that are here count");
    server.wait_ready();
    server.wait_for_run("tick", "it goes on", |run| !runs.iter().any(|old| old["key"] == run["key"]));
    let (folder, _) = server.terminate();

    // Once more, and this time the old one counts: nothing is launched of what was due before its next slot.
    let next = Timestamp::now() + SignedDuration::from_secs(3600);
    let next = next.strftime("%Y-%m-%dT%H:%M:%S.000Z").to_string();
    tree.write(&[tick(&next)]);
    let server = beside(&tree, folder);
    stands_aside(&server);
    let runs = server.runs("tick");
    tree.settle("import").success();
    server.wait_ready();
    assert_eq!(definitions(&server)["tick"]["schedule"], format!("R/{next}/PT1S"));
    server.put(by_hand("now", "true"));
    server.cli(["run", "now"]).success();
    server.wait_for("now", "succeeded");
    let new: Vec<_> = server
        .runs("tick")
        .into_iter()
        .filter(|run| !runs.iter().any(|old| old["key"] == run["key"]))
        .collect();
    assert!(
        new.iter().all(|run| run["attempts"].as_array().is_none_or(Vec::is_empty)),
        "what the old one launched is not launched again: {new:#?}\n{runs:#?}"
    );
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
