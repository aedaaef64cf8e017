//! What servers do while their store is away, slow, full, another one's or too new: they step down or wait, show what they
//! have, say why, and try for ever.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use store::zookeeper::{Options, planted};

use crate::fleet::ensemble::{self, Ensemble};
use crate::fleet::mount::Mount;
use crate::fleet::postgresd::{Postgresd, skip};
use crate::fleet::{Fleet, header, leads, wait_until_read_by};
use crate::line::Line;
use crate::server::{Folder, TestServer, by_hand, is_alive};
use crate::wait;

/// What the administrator of a database does.
fn sql(postgres: &Postgresd, orders: &[&str]) {
    let orders = orders.iter().flat_map(|sql| ["-c", sql]);
    let mut psql = Command::new("psql");
    let done = psql.arg(postgres.url()).args(["-q", "-v", "ON_ERROR_STOP=1"]).args(orders);
    let done = done.stdout(Stdio::null()).status();
    assert!(done.unwrap().success());
}

/// Writes a node of ZooKeeper, as its administrator does.
fn plant(fleet: &Fleet, path: &str, bytes: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let options = Options::new(fleet.flag("--zk_hosts"));
    runtime.block_on(planted::plant(options, path, bytes.as_bytes())).unwrap();
}

/// Why it does not do all of its part.
fn reasons(node: &TestServer) -> String {
    node.get("/ready").map(|ready| ready.json()["reasons"].to_string()).unwrap_or_default()
}

/// What a store is called where it is away, and the flag that says where it is.
struct Words {
    store: &'static str,
    flag: &'static str,
}

const POSTGRESQL: Words = Words { store: "PostgreSQL at", flag: "--database_url" };
const ZOOKEEPER: Words = Words { store: "no server of the ensemble", flag: "--zk_hosts" };

#[test]
fn without_its_store_a_cluster_shows_what_it_has_and_comes_back() {
    let mut postgres = match Postgresd::start() {
        Ok(postgres) => postgres,
        Err(reason) => return skip("cluster", &reason),
    };
    let fleet = Fleet::on(postgres.url());
    is_survived(&fleet, &POSTGRESQL, |order| drop(postgres.order(order).unwrap()));
}

#[test]
fn without_a_majority_of_zookeeper_a_cluster_shows_what_it_has_and_comes_back() {
    let mut servers = match Ensemble::start() {
        Ok(servers) => servers,
        Err(reason) => return ensemble::skip("cluster", &reason),
    };
    let fleet = Fleet::on_ensemble(&servers.hosts());
    is_survived(&fleet, &ZOOKEEPER, |order| {
        let order = if order == "stop" { "kill" } else { order };
        (1..=2).for_each(|n| drop(servers.order(&format!("{order} {n}"))));
    });
}

/// `order` is given "stop" and "start".
fn is_survived(fleet: &Fleet, words: &Words, mut order: impl FnMut(&str)) {
    let (first, second) = (fleet.joined(&[]), fleet.joined(&[]));
    second.put(by_hand("kept", "true"));
    second.put(json!({ "name": "tick", "command": "true", "schedule": "R//PT1S" }));
    second.wait_for("tick", "succeeded");
    let before = newest(&second);
    order("stop");
    for node in [&first, &second] {
        shows_what_it_has(node, words.store);
        // The quickest of some: the machine may do other things at times, not always.
        let took = [(); 3].map(|()| {
            let asked = Instant::now();
            let refused = node.post("/v1/scheduler/iso8601", by_hand("new", "true").to_string().as_bytes());
            assert_eq!(refused.map(|answer| answer.status), Some(503), "it changes nothing");
            asked.elapsed()
        });
        assert!(
            took.iter().any(|took| *took < Duration::from_secs(5)),
            "nobody waits for a leader while the store is away: {took:?}"
        );
        let refused = node.post("/v1/scheduler/iso8601", by_hand("new", "true").to_string().as_bytes());
        let refused = refused.expect("it answers").json();
        let why = refused["message"].as_str().unwrap_or_default();
        assert!(why.starts_with("nobody leads: ") && refused["leader"].is_null(), "{refused:#}");
        assert_eq!(node.get_json("/v1/scheduler/leader")["leader"], "", "who led does not name itself");
        node.cli(["doctor"]).exit(1).says("nobody leads").says(words.store);
    }
    // One that begins now waits as well.
    let third = fleet.node(Folder::new(), &[]);
    let ready = third.get("/ready").expect("it answers");
    assert_eq!(ready.status, 503, "it has nothing to show");
    assert_eq!(third.get("/v1/jobs").map(|answer| answer.status), Some(503));
    wait::until("it says why", || reasons(&third).contains(words.store).then_some(()));
    let told = third.cli(["doctor"]).exit(1).says(words.flag).says("cannot be looked at");
    assert!(!told.stdout_text().contains("0 s old"), "{}", told.stdout_text());
    order("start");
    comes_back(&[&first, &second, &third]);
    wait::until("the clock goes on", || (newest(&third) > before).then_some(()));
    let dues: Vec<_> = third.runs("tick").into_iter().map(|run| run["due"].to_string()).collect();
    assert_eq!(dues.iter().collect::<BTreeSet<_>>().len(), dues.len(), "a slot ran twice: {dues:?}");
}

/// The newest slot of `tick` that has ended.
fn newest(node: &TestServer) -> String {
    let runs = node.runs("tick");
    let ended = runs.iter().find(|run| run["outcome"] == "succeeded");
    ended.map(|run| run["due"].to_string()).unwrap_or_default()
}

/// While its store is away, for this reason.
fn shows_what_it_has(node: &TestServer, reason: &str) {
    let answer = wait::until("what it shows is marked as old", || {
        let answer = node.get("/v1/jobs/kept")?;
        (header(&answer, "x-chronos-stale") == Some("true")).then_some(answer)
    });
    assert_eq!(answer.status, 200, "{answer:?}");
    let age: u64 = header(&answer, "x-chronos-age-ms").expect("it says how old").parse().unwrap();
    assert!(age >= 10_000, "{age}");
    wait::until("it stands by, serves reads, and says what is the matter", || {
        let ready = node.get("/ready").expect("it answers");
        let told = ready.json();
        assert_eq!(ready.status, if told["role"] == "standby" { 200 } else { 503 }, "{told:#}");
        (told["role"] == "standby" && told["reasons"].to_string().contains(reason)).then_some(())
    });
}

/// All is well again: the same processes, one of which leads, and nothing is lost.
fn comes_back(nodes: &[&TestServer]) {
    wait::until("one leads again", || nodes.iter().any(|node| leads(node)).then_some(()));
    for node in nodes {
        wait::until("it is asked in vain no more", || {
            let job = by_hand(&format!("by-{}", node.pid()), "true").to_string();
            (node.post("/v1/scheduler/iso8601", job.as_bytes())?.status == 204).then_some(())
        });
        assert!(is_alive(node.pid()));
        wait::until("what it shows is the present", || {
            let answer = node.get("/v1/jobs/kept")?;
            (answer.status == 200 && header(&answer, "x-chronos-stale").is_none()).then_some(())
        });
        wait::until("it has nothing to complain of", || (reasons(node) == "[]").then_some(()));
    }
}

#[test]
fn a_slow_database_is_led_on() {
    let url = match crate::fleet::postgresd::shared_or_skip("cluster") {
        Some(url) => url,
        None => return,
    };
    let place = url.split_once('@').unwrap().1.split_once('/').unwrap().0;
    let line = Line::before(place);
    is_led_slowly(&Fleet::on(&url.replacen(place, &line.address, 1)), &line);
}

#[test]
fn a_slow_ensemble_is_led_on() {
    let line = match ensemble::shared() {
        Ok(hosts) => Line::before(&hosts),
        Err(reason) => return ensemble::skip("cluster", &reason),
    };
    is_led_slowly(&Fleet::on_ensemble(&line.address), &line);
}

fn is_led_slowly(fleet: &Fleet, line: &Line) {
    let (first, second) = (fleet.joined(&[]), fleet.joined(&[]));
    wait_until_read_by(&second);
    first.put(json!({ "name": "tick", "command": "true", "schedule": "R//PT1S" }));
    line.slow(300);
    second.put(by_hand("kept", "true"));
    second.cli(["run", "kept"]).success();
    second.wait_for("kept", "succeeded");
    let before = newest(&first);
    wait::until("slots are run", || (newest(&first) > before).then_some(()));
    let elections = |node: &TestServer| node.log().matches("elected").count();
    assert_eq!((elections(&first), elections(&second)), (1, 0), "{}", first.log());
    line.go_on();
    assert_eq!(second.get("/v1/jobs/kept").map(|answer| answer.status), Some(200));
}

/// A balancer asks every second, and takes out who does not answer soon: with a database that is stuck, all of them.
#[test]
fn a_database_that_is_stuck_keeps_nobody_waiting_who_asks_how_a_node_is() {
    let mut postgres = match Postgresd::start() {
        Ok(postgres) => postgres,
        Err(reason) => return skip("cluster", &reason),
    };
    let fleet = Fleet::on(postgres.url());
    let (first, second) = (fleet.joined(&[]), fleet.joined(&[]));
    wait_until_read_by(&second);
    assert_eq!(postgres.order("pause").as_deref(), Ok("paused"));
    // Before anybody has noticed, and so before the store is told to be silent.
    std::thread::scope(|scope| {
        for node in [&first, &second] {
            for path in ["/ready", "/v1/status", "/v1/nodes", "/v1/scheduler/leader"] {
                scope.spawn(move || {
                    let asked = Instant::now();
                    let answer = node.get(path).expect("it answers");
                    assert_eq!(answer.status, 200, "{path}: {answer:?}");
                    assert!(asked.elapsed() < Duration::from_secs(20), "{path} took {:?}", asked.elapsed());
                    let told = answer.json();
                    // Who asks the store now is told nothing, and takes that for nobody.
                    let knows =
                        told["leader"].is_string() || told["reasons"].to_string().contains("the store ");
                    assert!(path != "/ready" || knows, "{told:#}");
                });
            }
        }
    });
    wait::until("it says that the store is silent", || {
        let ready = second.get("/ready")?;
        assert_eq!(ready.status, 200, "it serves reads: {ready:?}");
        let reasons = ready.json()["reasons"].to_string();
        (reasons.contains("the store has not answered") || reasons.contains("PostgreSQL at")).then_some(())
    });
    second.cli(["nodes"]).success().says("other nodes are not listed: the store ");
    assert_eq!(postgres.order("go on").as_deref(), Ok("going on"));
    wait::until("one leads again", || [&first, &second].into_iter().any(leads).then_some(()));
}

/// For longer than its lease the leader cannot write, whoever that is by then.
#[test]
fn a_full_database_stops_nothing_for_good() {
    let Some(mount) = Mount::new("size=24m") else {
        return skip("cluster-full-database", "a small file system can only be mounted by root");
    };
    let postgres = match Postgresd::start() {
        Ok(postgres) => postgres,
        Err(reason) => return skip("cluster", &reason),
    };
    let owned = Command::new("chown").arg("postgres").arg(mount.path()).status();
    assert!(owned.unwrap().success(), "where root starts it, the database is this user's");
    let place = format!("CREATE TABLESPACE small LOCATION '{}'", mount.path().display());
    let role = "ALTER ROLE small SET default_tablespace = small";
    sql(&postgres, &[&place, "CREATE ROLE small SUPERUSER LOGIN", role]);
    let fleet = Fleet::on(&postgres.url().replacen("postgres@", "small@", 1));
    let mut ballast = None;
    stops_nothing_for_good(&fleet, "no room", Duration::from_secs(25), |order| match order {
        "fill" => ballast = Some(mount.fill()),
        _ => std::fs::remove_file(ballast.take().unwrap()).unwrap(),
    });
}

/// A quota ends no term.
#[test]
fn a_full_ensemble_stops_nothing_for_good() {
    let Some(fleet) = Fleet::on_zookeeper() else { return };
    let quota = format!("/zookeeper/quota{}", fleet.flag("--zk_path"));
    let limit = |limit: &str| plant(&fleet, &format!("{quota}/zookeeper_limits"), limit);
    plant(&fleet, &format!("{quota}/zookeeper_stats"), "count=0,bytes=0");
    stops_nothing_for_good(&fleet, "quota", Duration::from_secs(3), |order| match order {
        "fill" => limit("count=-1,bytes=-1=;byteHardLimit=0"),
        _ => limit("count=-1,bytes=-1"),
    });
}

/// `order` is given "fill" and "empty", so long apart at least.
fn stops_nothing_for_good(fleet: &Fleet, word: &str, full_for: Duration, mut order: impl FnMut(&str)) {
    let (first, second) = (fleet.joined(&[]), fleet.joined(&[]));
    first.put(by_hand("before", "true"));
    order("fill");
    // Nothing that could be compressed.
    let noise: String = (0..8000_u32).map(|n| format!("{:x}", n.wrapping_mul(2_654_435_761))).collect();
    let says = |node: &TestServer| {
        assert_eq!(node.get("/ping").map(|answer| answer.status), Some(200));
        assert_eq!(node.get("/v1/jobs/before").map(|answer| answer.status), Some(200));
        node.get("/ready").is_some_and(|ready| String::from_utf8_lossy(&ready.body).contains(word))
    };
    let mut sent = 0;
    let mut says_when_asked = || {
        sent += 1;
        let job = by_hand("during", &format!("{sent} {noise}")).to_string();
        let unanswered = crate::http::send_for(&first.address, Duration::from_millis(300), &job).is_none();
        unanswered && (says(&first) || says(&second))
    };
    wait::until("it says that there is no room", || says_when_asked().then_some(()));
    let begun = Instant::now();
    wait::until("so does whoever leads then", || {
        (says_when_asked() && begun.elapsed() > full_for).then_some(())
    });
    order("empty");
    for node in [&first, &second] {
        wait::until("it goes on by itself", || {
            let job = by_hand(&format!("by-{}", node.pid()), "true").to_string();
            (node.post("/v1/scheduler/iso8601", job.as_bytes())?.status == 204).then_some(())
        });
        assert!(is_alive(node.pid()));
        assert_eq!(node.get("/v1/jobs/before").map(|answer| answer.status), Some(200), "nothing is lost");
        wait::until("it says so no more", || (!reasons(node).contains(word)).then_some(()));
    }
    first.cli(["run", "before"]).success();
    first.wait_for("before", "succeeded");
}

#[test]
fn a_store_of_a_newer_program_is_left_alone_and_told() {
    let postgres = match Postgresd::start() {
        Ok(postgres) => postgres,
        Err(reason) => return skip("cluster", &reason),
    };
    let fleet = Fleet::on(postgres.url());
    let schema = fleet.flag("--database_schema");
    let mut ours = String::new();
    is_left_alone(&fleet, |order| {
        let table = format!("{schema}.meta");
        match order {
            "newer" => {
                let kept = format!("CREATE TABLE {schema}.ours AS SELECT * FROM {table}");
                let newer = format!("UPDATE {table} SET value = '999' WHERE name = 'schema'");
                sql(&postgres, &[&kept, &newer]);
                ours = format!(
                    "UPDATE {table} AS m SET value = o.value FROM {schema}.ours AS o WHERE o.name = m.name"
                );
            }
            _ => sql(&postgres, &[&ours]),
        }
    });
}

#[test]
fn an_ensemble_of_a_newer_program_is_left_alone_and_told() {
    let Some(fleet) = Fleet::on_zookeeper() else { return };
    let about = format!("{}/store/about", fleet.flag("--zk_path"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut ours = String::new();
    is_left_alone(&fleet, |order| match order {
        "newer" => {
            let there = planted::look(Options::new(fleet.flag("--zk_hosts")), &about);
            ours = String::from_utf8(runtime.block_on(there).unwrap().unwrap()).unwrap();
            let mut newer: serde_json::Value = serde_json::from_str(&ours).unwrap();
            newer["layout"] = json!(999);
            plant(&fleet, &about, &newer.to_string());
        }
        _ => plant(&fleet, &about, &ours),
    });
}

/// `order` is given "newer", and "ours" for what was before.
fn is_left_alone(fleet: &Fleet, mut order: impl FnMut(&str)) {
    let node = fleet.joined(&[]);
    node.put(by_hand("kept", "true"));
    let (folder, _) = node.terminate();
    order("newer");
    let node = fleet.node(folder, &[]);
    wait::until("it says what is the matter", || {
        let ready = node.get("/ready")?;
        assert_eq!(ready.status, 503, "it has nothing to show");
        let told = reasons(&node);
        (told.contains("format 999, which is newer than 1")).then_some(())
    });
    assert_eq!(node.get("/v1/jobs").map(|answer| answer.status), Some(503));
    node.cli(["doctor"]).exit(1).says("newer");
    order("ours");
    node.wait_ready();
    assert_eq!(node.get("/v1/jobs/kept").map(|answer| answer.status), Some(200));
}

#[test]
fn a_wrong_password_of_zookeeper_is_told_by_its_flag_and_never_shown() {
    let Some(fleet) = Fleet::on_zookeeper() else { return };
    let right = fleet.joined(&["--zk_auth", "ops:correct-horse"]);
    right.put(by_hand("kept", "true"));
    let wrong = fleet.node(Folder::new(), &["--zk_auth", "ops:battery-staple"]);
    wait::until("it names the flag", || reasons(&wrong).contains("--zk_auth").then_some(()));
    wait::until("everybody may look", || (wrong.get("/v1/jobs/kept")?.status == 200).then_some(()));
    // It does not stand in the way of those who know.
    let (folder, _) = right.terminate();
    let right = fleet.node(folder, &["--zk_auth", "ops:correct-horse"]);
    right.wait_ready();
    assert!(is_alive(wrong.pid()));
    let told = wrong.cli(["doctor"]).says("--zk_auth");
    let told = told.stdout_text() + &told.stderr_text() + &reasons(&wrong) + &wrong.log() + &right.log();
    assert!(!told.contains("correct-horse") && !told.contains("battery-staple"), "{told}");
}

#[test]
fn a_wrong_password_of_postgresql_is_told_and_never_shown() {
    let postgres = match Postgresd::start() {
        Ok(postgres) => postgres,
        Err(reason) => return skip("cluster", &reason),
    };
    let set = |password: &str| format!("ALTER ROLE keeper PASSWORD '{password}'");
    let orders = ["CREATE ROLE keeper LOGIN", "GRANT CREATE ON DATABASE postgres TO keeper"];
    let scram = "ALTER SYSTEM SET password_encryption = 'scram-sha-256'";
    let hosts = "host all keeper 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n";
    std::fs::write(postgres.folder().join("data/pg_hba.conf"), hosts).unwrap();
    sql(&postgres, &[orders[0], orders[1], scram, "SELECT pg_reload_conf()"]);
    sql(&postgres, &[&set("correct-horse")]);
    let with = |password: &str| postgres.url().replacen("postgres@", &format!("keeper:{password}@"), 1);
    let fleet = Fleet::on(&with("correct-horse"));
    let right = fleet.joined(&[]);
    right.put(by_hand("kept", "true"));
    right.cli(["run", "kept"]).success();
    right.wait_for("kept", "succeeded");
    let wrong = fleet.with("--database_url", &with("battery-staple"));
    let wrong = wrong.node(Folder::new(), &[]);
    wait::until("it says what is the matter", || {
        reasons(&wrong).contains("password authentication failed for user").then_some(())
    });
    let told = wrong.cli(["doctor"]).exit(1).says("password authentication failed");
    let told = told.stdout_text() + &told.stderr_text() + &reasons(&wrong) + &wrong.log() + &right.log();
    assert!(!told.contains("correct-horse") && !told.contains("battery-staple"), "{told}");
    sql(&postgres, &[&set("battery-staple")]);
    wait::until("it takes part by itself", || (wrong.get("/v1/jobs/kept")?.status == 200).then_some(()));
}
