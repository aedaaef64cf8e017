//! What a server says of itself, judged.

use std::time::Duration;

use jiff::Timestamp;
use scheduler::state::ZoneData;
use serde_json::Value;
use store::Disk;

use super::finding::{Finding, Grade, good, look, wrong};
use crate::cli::progress::bytes;

/// A clock that differs by more is worth a look: people compare times of several machines.
pub(super) const CLOCK_MAX: Duration = Duration::from_secs(5);
/// Less room than this is gone within a day of a busy server.
const FREE_MIN: u64 = 1 << 30;
/// Less room than this may be gone within the hour.
const FREE_LEAST: u64 = 100 << 20;

/// What a server says of itself, asked and answered at these times of our own clock. What was found out of its `engine` by
/// looking is not told twice.
pub(super) fn of_status(
    server: &str,
    status: &Value,
    engine: &[Finding],
    asked: Timestamp,
    answered: Timestamp,
) -> Vec<Finding> {
    let text = |key: &str| status[key].as_str().unwrap_or_default();
    let ours = env!("CARGO_PKG_VERSION");
    let mut findings = vec![if text("version") == ours {
        good("server", format!("{server} answers: Chronos {ours}, node {}", text("node")))
    } else {
        let what = format!("{server} answers: Chronos {}, but this is {ours}", text("version"));
        look("server", what, "use the same version on both sides: commands may not fit the server")
    }];
    let is_found =
        |told: &&str| engine.iter().any(|found| found.grade == Grade::Wrong && told.ends_with(&found.what));
    let reasons: Vec<&str> =
        status["reasons"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let is_well = reasons.is_empty();
    // That is told by itself.
    let reasons: Vec<&str> =
        reasons.into_iter().filter(|reason| *reason != "nobody leads" && !is_found(reason)).collect();
    findings.push(match (text("role"), status["leader"].as_str()) {
        ("leading", _) => good("leader", format!("it leads, in term {}", status["epoch"])),
        ("standby", Some(leader)) => good("leader", format!("it stands by; {leader} leads")),
        ("standby", None) => {
            let advice = match &reasons[..] {
                [] => "this node is about to: ask again when the lease of the last leader has run out, 10 s if nobody said \
                       otherwise; if it stays so, see its log",
                _ => "mend what the lines below say: it keeps the nodes from leading",
            };
            wrong("leader", "nobody leads, so nothing is started", advice)
        }
        (role, _) => look("leader", format!("it is {role}"), "ask again in a moment; if it stays so, see its log"),
    });
    let (store, engine) = (text("store"), text("engine"));
    let damage = status["storeDamage"].as_str();
    if is_well {
        let id = status["storeId"].as_str().map(|id| format!(" (id {id})")).unwrap_or_default();
        let what = match damage {
            Some(_) => format!("engine {engine} works, and commits of store {store} are applied"),
            None => format!("store {store}{id} and engine {engine} work"),
        };
        findings.push(good("ready", what));
    }
    let (of_store, others): (Vec<&str>, Vec<&str>) =
        reasons.into_iter().partition(|reason| store_advice(store, reason).is_some());
    for reason in of_store {
        let advice = store_advice(store, reason).unwrap_or_default();
        findings.push(wrong("store", format!("{store}: {reason}"), advice));
    }
    if !others.is_empty() {
        let advice = "until that is mended, runs wait; `chronos why JOB` says so of each";
        findings.push(wrong("ready", others.join("; "), advice));
    }
    if let Some(damage) = damage {
        let what = format!("part of the history cannot be read: {damage}");
        let advice = "jobs go on; what they need can still be saved: `chronos backup --no_history`";
        findings.push(wrong("history", what, advice));
    }
    // What it says it does without, each with what to do about it.
    let notes = status["notes"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let notes = notes.filter(|note| damage.is_none_or(|damage| !note.ends_with(damage)) && !is_found(note));
    findings.extend(notes.map(|note| look("note", note, "the server is ready nevertheless: jobs run")));
    if let (Some(used), Some(free)) = (status["storeBytes"].as_u64(), status["diskFree"].as_u64()) {
        findings.push(room(Disk { used, free }));
    }
    findings.extend(clock(text("time"), asked, answered));
    let (theirs, zones) = (text("zoneData"), ZoneData::compiled_in().name());
    findings.push(if theirs == zones {
        good("zones", format!("zone data {theirs}"))
    } else {
        let what = format!("the server computes with zone data {theirs}, this program with {zones}");
        look("zones", what, "times that this program works out itself may differ; use the same version")
    });
    findings
}

/// What to do about a store that is not as it should be, which the reason names; `None` where that is about something else.
pub(super) fn store_advice(store: &str, reason: &str) -> Option<&'static str> {
    let about_store = ["the store ", "this is the store ", "there is no store ", "this store is empty"];
    if !about_store.iter().any(|begin| reason.starts_with(begin))
        || reason.contains("not been heard from yet")
    {
        return None;
    }
    let has = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    let where_it_is = match store {
        "postgres" => {
            "see that --database_url is right, that the database runs, and that its port is open to this machine"
        }
        "zookeeper" => {
            "see that --zk_hosts is right, that most of the ensemble run, and that their port is open to this machine"
        }
        _ => "see that the data folder is there, that its disk has room, and that this user may write to it",
    };
    Some(if has(&["--expect_store"]) {
        "correct the address or the path of the store, or --expect_store, and start this node again"
    } else if has(&["newer than"]) {
        "use the newer version of Chronos that wrote it"
    } else if has(&["damaged"]) {
        "keep what is there, and `chronos restore` a backup into an empty store"
    } else if has(&["password", "authentication", "role \"", "permission denied", "--zk_auth"]) {
        "see the name and the password in --database_url or --zk_auth, and what they may do there"
    } else if has(&["database \""]) {
        "make that database, or correct its name in --database_url"
    } else if has(&["lookup", "resolve", "not known"]) {
        "correct the name of the host, or see that this machine can look it up"
    } else if has(&["certificate", "TLS", "SSL"]) {
        "see `sslmode` and `sslrootcert` in --database_url, and the certificate of the database"
    } else {
        where_it_is
    })
}

/// What the engine of the leader found about what it depends on.
pub(super) fn of_engine(answer: &Value) -> Vec<Finding> {
    let found = |told: &Value| {
        let text = |key: &str| told[key].as_str().unwrap_or_default().to_owned();
        let grade = match told["grade"].as_str() {
            Some("good") => Grade::Good,
            Some("wrong") => Grade::Wrong,
            _ => Grade::Look,
        };
        Finding { leg: text("leg").into(), grade, what: text("what"), advice: text("advice") }
    };
    answer["findings"].as_array().into_iter().flatten().map(found).collect()
}

pub(super) fn room(Disk { used, free }: Disk) -> Finding {
    let what = format!("the store has {}, {} are free", bytes(used), bytes(free));
    let advice = "make room: without it no run can be recorded, and so none is started";
    match free {
        free if free < FREE_LEAST => wrong("disk", what, advice),
        free if free < FREE_MIN => look("disk", what, advice),
        _ => good("disk", what),
    }
}

/// The server read its clock between asking and answering.
fn clock(theirs: &str, asked: Timestamp, answered: Timestamp) -> Option<Finding> {
    let theirs: Timestamp = theirs.parse().ok()?;
    let off = if theirs < asked { asked.duration_since(theirs) } else { theirs.duration_since(answered) };
    Some(if off.unsigned_abs() > CLOCK_MAX && off.is_positive() {
        let way = if theirs < asked { "behind" } else { "ahead of" };
        let what = format!("its clock is {} s {way} the one here", off.as_secs());
        look("clock", what, "slots are due by the clock of the server: see that its time service runs")
    } else {
        good("clock", "it agrees with the one here")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn status() -> Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"), "node": "n", "role": "leading", "epoch": 3, "reasons": [],
            "leader": "here:1", "store": "sqlite", "engine": "local", "time": "2030-01-01T00:00:00Z",
            "zoneData": ZoneData::compiled_in().name(), "storeBytes": 4096, "diskFree": 1u64 << 40,
        })
    }

    #[track_caller]
    fn check(change: &[(&str, Value)], leg: &str, grade: Grade, said: &str) {
        let mut status = status();
        for (key, value) in change {
            status[*key] = value.clone();
        }
        let now = at("2030-01-01T00:00:00Z");
        let findings = of_status("http://x", &status, &[], now, now);
        let found = findings.iter().find(|finding| finding.leg == leg).expect("it is looked at");
        assert_eq!((found.grade, found.what.contains(said)), (grade, true), "{found:?}");
        assert_eq!(found.advice.is_empty(), grade == Grade::Good, "{found:?}");
        let worst = findings.iter().filter(|finding| finding.leg != leg).map(|finding| finding.grade).max();
        assert!(worst <= Some(Grade::Good), "{findings:?}");
    }

    #[test]
    fn each_leg_by_itself() {
        check(&[], "server", Grade::Good, "answers");
        check(&[("version", json!("0.0.1"))], "server", Grade::Look, "0.0.1");
        check(&[("role", json!("standby"))], "leader", Grade::Good, "here:1 leads");
        let nobody =
            [("role", json!("standby")), ("leader", Value::Null), ("reasons", json!(["nobody leads"]))];
        check(&nobody, "leader", Grade::Wrong, "nobody leads");
        check(&[("role", json!("preparing"))], "leader", Grade::Look, "preparing");
        check(&[("reasons", json!(["disk full"]))], "ready", Grade::Wrong, "disk full");
        let away = "the store is not available: PostgreSQL at a:1/d: Connection refused (os error 111)";
        check(&[("reasons", json!([away]))], "store", Grade::Wrong, "a:1/d: Connection refused");
        check(&[("notes", json!(["no memory limits here"]))], "note", Grade::Look, "no memory limits");
        let told = [("storeDamage", json!("page 7")), ("notes", json!(["cannot be read: page 7"]))];
        check(&told, "history", Grade::Wrong, "page 7");
        check(&[("diskFree", json!(1u64 << 29))], "disk", Grade::Look, "512.00 MiB are free");
        check(&[("diskFree", json!(1u64 << 20))], "disk", Grade::Wrong, "1.00 MiB are free");
        check(&[("time", json!("2030-01-01T00:01:00Z"))], "clock", Grade::Look, "60 s ahead of");
        check(&[("time", json!("2029-12-31T23:59:00Z"))], "clock", Grade::Look, "60 s behind");
        check(&[("time", json!("2030-01-01T00:00:03Z"))], "clock", Grade::Good, "agrees");
        check(&[("zoneData", json!("1999a"))], "zones", Grade::Look, "1999a");
    }

    #[test]
    fn each_trouble_of_a_store_has_its_advice() {
        let check = |store, reason: &str, advice: &str| {
            let told = store_advice(store, reason);
            assert!(told.is_some_and(|told| told.contains(advice)), "{reason}: {told:?}");
        };
        check(
            "postgres",
            "the store is not available: PostgreSQL at a:1/d: Connection refused",
            "--database_url is right",
        );
        check(
            "postgres",
            "the store is not available: .. password authentication failed for user \"u\"",
            "password in",
        );
        check(
            "postgres",
            "the store is not available: .. database \"d\" does not exist",
            "make that database",
        );
        check(
            "postgres",
            "the store is not available: .. failed to lookup address information",
            "look it up",
        );
        check("postgres", "the store has format 9, which is newer than 4, the newest ..", "newer version");
        check(
            "zookeeper",
            "the store is not available: no server of the ensemble `a:1` answers; see --zk_hosts",
            "--zk_hosts is",
        );
        check("zookeeper", "the store has not answered within 5 s", "most of the ensemble");
        check("zookeeper", "this is the store a, and --expect_store wants b: see ..", "--expect_store");
        check("sqlite", "the store is damaged: ..", "restore");
        for other in
            ["nobody leads", "the store has not been heard from yet", "the local engine is not ready: .."]
        {
            assert_eq!(store_advice("postgres", other), None, "{other}");
        }
    }

    #[test]
    fn what_was_found_of_the_engine_is_not_told_twice() {
        let reason = "no supervisor of local tasks can be reached in /x";
        let mut status = status();
        status["reasons"] = json!([format!("the local engine is not ready: {reason}"), "disk full"]);
        status["notes"] = json!([format!("jobs with a container wait: {reason}")]);
        let now = at("2030-01-01T00:00:00Z");
        let told = |engine: &[Finding]| -> Vec<String> {
            let found = of_status("http://x", &status, engine, now, now);
            found.into_iter().filter(|found| found.grade != Grade::Good).map(|found| found.what).collect()
        };
        let found = [good("docker", "Docker answers"), wrong("local", reason, "see its log")];
        assert_eq!(told(&found), ["disk full"]);
        assert_eq!(told(&found[..1]).len(), 2);
    }

    #[test]
    fn what_the_engine_depends_on() {
        assert_eq!(of_engine(&json!({ "findings": [] })), []);
        let told = json!({ "findings": [
            { "leg": "master", "grade": "good", "what": "it leads", "advice": "" },
            { "leg": "webui", "grade": "look", "what": "nobody answers", "advice": "--webui_url" },
            { "leg": "framework", "grade": "wrong", "what": "not listed", "advice": "restart" },
        ]});
        assert_eq!(
            of_engine(&told),
            [
                good("master", "it leads"),
                look("webui", "nobody answers", "--webui_url"),
                wrong("framework", "not listed", "restart"),
            ]
        );
    }
}
