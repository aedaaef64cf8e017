//! What servers do while their store is away: they step down, show what they have, and try for ever.

use std::time::{Duration, Instant};

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
