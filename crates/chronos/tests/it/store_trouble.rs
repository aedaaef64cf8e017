//! What servers do while their store is away or full: they step down or wait, show what they have, and try for ever.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::fleet::mount::Mount;
use crate::fleet::postgresd::{Postgresd, skip};
use crate::fleet::{Fleet, header};
use crate::server::{Folder, TestServer, by_hand, is_alive};
use crate::wait;

#[test]
fn without_its_store_a_cluster_shows_what_it_has_and_comes_back() {
    let mut postgres = match Postgresd::start() {
        Ok(postgres) => postgres,
        Err(reason) => return skip("cluster", &reason),
    };
    let fleet = Fleet::on(postgres.url());
    let (first, second) = (fleet.joined(&[]), fleet.joined(&[]));
    second.put(by_hand("kept", "true"));
    assert_eq!(postgres.order("stop").as_deref(), Ok("stopped"));
    for node in [&first, &second] {
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
            assert_eq!(ready.status, 200, "it serves reads: {told:#}");
            (told["role"] == "standby" && told["reasons"].to_string().contains("PostgreSQL")).then_some(())
        });
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
        node.cli(["doctor"]).exit(1).says("nobody leads").says("PostgreSQL at");
    }
    // One that begins now waits as well.
    let third = fleet.node(Folder::new(), &[]);
    let ready = third.get("/ready").expect("it answers");
    assert_eq!(ready.status, 503, "it has nothing to show");
    assert_eq!(third.get("/v1/jobs").map(|answer| answer.status), Some(503));
    wait::until("it says why", || {
        third.get("/ready")?.json()["reasons"].to_string().contains("PostgreSQL").then_some(())
    });
    let told =
        third.cli(["doctor"]).exit(1).says("see that --database_url is right").says("cannot be looked at");
    assert!(!told.stdout_text().contains("0 s old"), "{}", told.stdout_text());
    assert!(postgres.order("start").is_ok_and(|told| told.starts_with("listening")));
    let leads = |node: &TestServer| node.get("/ready").is_some_and(|ready| ready.json()["role"] == "leading");
    let all = [&first, &second, &third];
    wait::until("one leads again", || all.iter().any(|node| leads(node)).then_some(()));
    for node in all {
        wait::until("it is asked in vain no more", || {
            let job = by_hand(&format!("by-{}", node.pid()), "true").to_string();
            (node.post("/v1/scheduler/iso8601", job.as_bytes())?.status == 204).then_some(())
        });
        assert!(is_alive(node.pid()));
        assert_eq!(node.get("/v1/jobs/kept").map(|answer| answer.status), Some(200));
    }
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
    let orders =
        [&*place, "CREATE ROLE small SUPERUSER LOGIN", "ALTER ROLE small SET default_tablespace = small"];
    let orders = orders.iter().flat_map(|sql| ["-c", sql]);
    let done =
        Command::new("psql").arg(postgres.url()).args(["-q", "-v", "ON_ERROR_STOP=1"]).args(orders).status();
    assert!(done.unwrap().success());
    let fleet = Fleet::on(&postgres.url().replacen("postgres@", "small@", 1));
    let (first, second) = (fleet.joined(&[]), fleet.joined(&[]));
    first.put(by_hand("before", "true"));
    let ballast = mount.fill();
    // Nothing that could be compressed.
    let noise: String = (0..8000_u32).map(|n| format!("{:x}", n.wrapping_mul(2_654_435_761))).collect();
    let says = |node: &TestServer| {
        assert_eq!(node.get("/ping").map(|answer| answer.status), Some(200));
        assert_eq!(node.get("/v1/jobs/before").map(|answer| answer.status), Some(200));
        node.get("/ready").is_some_and(|ready| String::from_utf8_lossy(&ready.body).contains("no room"))
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
    wait::until("so does whoever leads two leases later", || {
        (says_when_asked() && begun.elapsed() > Duration::from_secs(25)).then_some(())
    });
    std::fs::remove_file(&ballast).unwrap();
    for node in [&first, &second] {
        wait::until("it goes on by itself", || {
            let job = by_hand(&format!("by-{}", node.pid()), "true").to_string();
            (node.post("/v1/scheduler/iso8601", job.as_bytes())?.status == 204).then_some(())
        });
        assert!(is_alive(node.pid()));
        assert_eq!(node.get("/v1/jobs/before").map(|answer| answer.status), Some(200), "nothing is lost");
    }
    first.cli(["run", "before"]).success();
    first.wait_for("before", "succeeded");
}
