//! The machine's clock is set by hours while the server runs.
//!
//! A stand-in: nobody sets the machine's clock for a test. Debian's `faketime` library moves what the server reads as
//! the wall clock, by a file that is written anew at run time; the boot clock stays what it is.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::fleet::Fleet;
use crate::server::{Folder, TestServer, by_hand, server_command};
use crate::skip::skip;
use crate::wait;

/// A stepped clock is believed after 60 s of agreement; the rest is for a busy machine.
const HELD_MAX: Duration = Duration::from_secs(180);
const THREE_HOURS: SignedDuration = SignedDuration::from_hours(3);

/// Where Debian puts the library, whatever the machine's architecture.
fn library() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.flatten();
    folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.exists())
}

/// Written elsewhere and renamed: the library must never read half of it.
fn set_clock(file: &Path, offset: &str) {
    let draft = file.with_extension("new");
    std::fs::write(&draft, format!("{offset}\n")).unwrap();
    std::fs::rename(draft, file).unwrap();
}

/// What this command starts reads the clock that the file says; it is the true one at first.
fn fake_clock(library: &Path, folder: &Folder, command: &mut Command) -> PathBuf {
    let clock = folder.path().join("clock");
    set_clock(&clock, "+0");
    command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", &clock);
    command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    clock
}

fn time(value: &Value) -> Timestamp {
    value.as_str().unwrap().parse().unwrap()
}

/// What happened for slots: the runs, and the rows of those that never became one.
fn slots(server: &TestServer, job: &str) -> (Vec<Value>, Vec<Value>) {
    let of_slots = server.runs(job).into_iter().filter(|run| run["cause"] == "slot");
    of_slots.partition(|run| run["count"].is_null())
}

#[test]
fn jumps_of_hours_hold_launches_forward_and_repeat_nothing_backward() {
    let Some(library) = library() else {
        return skip("clock-jumps", "the faketime library is not installed");
    };
    let folder = Folder::new();
    let mut command = server_command(&folder, &[]);
    let clock = fake_clock(&library, &folder, &mut command);
    let server = TestServer::launch_command(folder, command);
    server.wait_ready();
    let begun = Timestamp::from_second(Timestamp::now().as_second()).unwrap();
    let first = begun.checked_add(SignedDuration::from_mins(10)).unwrap();
    server.put(json!({"name": "half-hourly", "command": "true", "schedule": format!("R/{first}/PT30M")}));
    server.put(json!({"name": "ticker", "command": "true", "schedule": "R//PT5S"}));
    server.wait_for("ticker", "succeeded");

    // Forward: six slots of `half-hourly` seem to have passed, but nothing is decided by such a clock.
    set_clock(&clock, "+10800");
    let troubles = wait::until("launching holds", || {
        server.get("/ready").filter(|ready| ready.status == 503).map(|ready| ready.json().to_string())
    });
    assert!(troubles.contains("clock"), "{troubles}");
    assert_eq!(slots(&server, "half-hourly"), (vec![], vec![]));
    wait::within(HELD_MAX, "launching goes on", || {
        server.get("/ready").filter(|ready| ready.status == 200).map(drop)
    });
    // The latest of the six runs, the others are missed.
    server.wait_for("half-hourly", "succeeded");
    let (runs, rows) = slots(&server, "half-hourly");
    let due = first.checked_add(SignedDuration::from_mins(150)).unwrap();
    assert_eq!(runs.iter().map(|run| time(&run["due"])).collect::<Vec<_>>(), [due]);
    assert_eq!(
        rows.iter().map(|row| (&row["count"], &row["outcome"])).collect::<Vec<_>>(),
        [(&json!(5), &json!("missed"))]
    );
    let later = begun.checked_add(THREE_HOURS).unwrap();
    wait::until("the ticker goes on by the new clock", || {
        slots(&server, "ticker")
            .0
            .iter()
            .any(|run| time(&run["due"]) > later && run["outcome"] == "succeeded")
            .then_some(())
    });

    // Backward: the server goes on at once, and no slot that was behind it comes again.
    set_clock(&clock, "+0");
    wait::until("a run is made by the old clock", || {
        server.cli(["run", "half-hourly"]).success();
        let runs = server.runs("half-hourly");
        runs.iter().any(|run| run["cause"] == "trigger" && time(&run["created"]) < later).then_some(())
    });
    let back: Vec<Value> = slots(&server, "ticker").0;
    wait::until("the runs by hand end", || {
        let runs = server.runs("half-hourly");
        runs.iter().all(|run| !run["outcome"].is_null()).then_some(())
    });
    assert_eq!(server.get("/ready").map(|ready| ready.status), Some(200));
    let (runs, _) = slots(&server, "ticker");
    let dues: BTreeSet<Timestamp> = runs.iter().map(|run| time(&run["due"])).collect();
    assert_eq!(dues.len(), runs.len(), "a slot came twice: {runs:?}");
    assert_eq!(runs.len(), back.len(), "a slot that was behind came again: {runs:?}");
    assert_eq!(slots(&server, "half-hourly").0.len(), 1);
}

#[test]
fn who_is_more_than_five_seconds_from_the_clock_of_the_store_does_not_lead() {
    Fleet::new().iter().for_each(does_not_lead);
}

#[test]
fn who_is_more_than_five_seconds_from_the_clock_of_zookeeper_does_not_lead() {
    Fleet::on_zookeeper().iter().for_each(does_not_lead);
}

/// It says so, another leads, and it stands by like any other.
fn does_not_lead(fleet: &Fleet) {
    let Some(library) = library() else {
        return skip("clock-jumps", "the faketime library is not installed");
    };
    let folder = Folder::new();
    let mut command = fleet.command(&folder, &[]);
    let clock = fake_clock(&library, &folder, &mut command);
    let drifts = Fleet::joined_by(folder, command);
    drifts.wait_ready();
    let right = fleet.joined(&[]);
    set_clock(&clock, "+8");
    right.wait_ready();
    wait::until("it says what is the matter", || {
        let told = drifts.get("/ready")?.json();
        (told["role"] == "standby" && told["reasons"].to_string().contains("ahead of that of the store"))
            .then_some(())
    });
    drifts.put(by_hand("a", "true"));
    drifts.cli(["doctor"]).says("that of the store");
    // Alone and with a clock that is behind it does not lead either; with one that is almost right it does.
    set_clock(&clock, "-8");
    drop(right);
    wait::until("it says so", || {
        let told = drifts.get("/ready")?.json()["reasons"].to_string();
        (told.contains("s behind that of the store") && told.contains("nobody leads")).then_some(())
    });
    assert_eq!(drifts.log().matches("elected").count(), 1, "{}", drifts.log());
    set_clock(&clock, "-4");
    drifts.wait_ready();
}
