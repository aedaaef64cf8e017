//! Much of everything.

use serde_json::json;

use crate::fleet::header;
use crate::http;
use crate::server::{Folder, TestServer, by_hand};
use crate::wait;

/// What is kept of a stream, as `docs/guides/local-tasks.md` says.
const OUTPUT_MAX: u64 = 10 << 20;

/// More than 32 bits can count: what is kept is bounded, what is not is counted to the byte, and nobody holds it in memory.
#[test]
fn output_beyond_the_bound_is_dropped_and_the_job_goes_on() {
    const ZEROS: u64 = (1 << 32) + 1_000_003;
    let written = ZEROS + b"head\n".len() as u64 + b"tail\n".len() as u64;
    let server = TestServer::start();
    server.put(by_hand("chatty", &format!("echo head; head -c {ZEROS} /dev/zero; echo tail")));
    server.cli(["run", "chatty"]).success();
    let run = server.wait_for("chatty", "succeeded");
    let supervisor = server.folder.supervisor().expect("it keeps running");
    for (who, pid) in [("supervisor", supervisor), ("server", server.pid())] {
        let most = most_memory(pid);
        assert!(most < 128 << 20, "the {who} had {most} bytes in memory");
    }
    let path = format!("/v1/runs/{}/output", run["key"].as_str().expect("a key"));
    let output = server.get(&path).expect("the server answers");
    let dropped = header(&output, "x-chronos-output-dropped").and_then(|count| count.parse().ok());
    assert_eq!(dropped, Some(written - OUTPUT_MAX), "{}", output.head);
    let logs = server.cli(["logs", "chatty"]).success();
    let bytes = logs.stdout_bytes();
    assert_eq!(bytes.len() as u64, OUTPUT_MAX);
    assert!(bytes.starts_with(b"head\n\0") && bytes.ends_with(b"\0tail\n"));
    logs.says(&format!("{} bytes between head and tail are gone", written - OUTPUT_MAX));
    let kept: u64 = disk_use(&server.folder.data().join("engine/tasks"));
    assert!(kept < OUTPUT_MAX + (1 << 20), "{kept} bytes on the disk");
}

#[test]
fn output_need_not_be_text() {
    let server = TestServer::start();
    server.put(by_hand("binary", r"printf '\377\000\200x\n'"));
    server.cli(["run", "binary"]).success();
    server.wait_for("binary", "succeeded");
    let logs = server.cli(["logs", "binary"]).success();
    assert_eq!(logs.stdout_bytes(), b"\xff\x00\x80x\n");
}

#[test]
fn ten_thousand_jobs_can_be_created_at_once() {
    let server = TestServer::start();
    let jobs: Vec<_> = (0..10_000).map(|i| by_hand(&format!("job-{i}"), "true")).collect();
    server.folder.file("many.json", &json!(jobs).to_string());
    let applied = server.cli(["apply", "many.json"]).success();
    assert_eq!(applied.stdout_text().lines().count(), 10_000);
    let listed = server.cli(["jobs", "--output", "json"]).success().json();
    assert_eq!(listed.as_array().map(Vec::len), Some(10_000));
    // It still does what it is for.
    server.cli(["run", "job-9999"]).success();
    server.wait_for("job-9999", "succeeded");
}

/// It asks in parts, and a child is told of with its parents, wherever they are written.
#[test]
fn a_dry_run_may_be_of_more_jobs_than_are_applied_at_once() {
    let server = TestServer::start();
    let mut jobs: Vec<_> = (0..10_000).map(|i| by_hand(&format!("job-{i}"), "true")).collect();
    jobs.push(json!({ "name": "child", "command": "true", "parents": ["job-9999", "job-0"] }));
    jobs.push(json!({ "name": "orphan", "command": "true", "parents": ["nowhere"] }));
    server.folder.file("many.json", &json!(jobs).to_string());
    let told = server.cli(["apply", "many.json", "--dry-run"]).exit(3).says("parent `nowhere`");
    let (told, problems) = (told.stdout_text(), told.stderr_text());
    let names: Vec<&str> = jobs[..10_001].iter().filter_map(|job| job["name"].as_str()).collect();
    let expected: String = names.iter().map(|name| format!("job `{name}` would be created\n")).collect();
    assert!(told == expected, "{} lines\n{problems}", told.lines().count());
    assert!(problems.contains("not everything would be applied: 1 error"), "{problems}");
    let told = server.cli(["apply", "many.json", "--dry-run", "--output", "json"]).exit(3).json();
    assert_eq!((&told["refused"], told["jobs"].as_array().map(Vec::len)), (&json!(1), Some(10_002)));
    // As applying them so would be.
    server.cli(["apply", "many.json", "--dry-run", "--atomic"]).exit(3).says("at most 10,000 jobs");
    assert_eq!(server.cli(["jobs", "--output", "json"]).success().json(), json!([]));
}

/// Nothing is lost and nothing happens twice: what the commands wrote says so, and the history says the same.
#[test]
fn ten_thousand_slots_at_one_instant_all_run() {
    const JOBS: usize = 10_000;
    let server = TestServer::start();
    let start = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second() + 10).expect("a near one");
    let names: Vec<String> = (0..JOBS).map(|i| format!("herd-{i:04}")).collect();
    let ran = server.folder.path().join("ran");
    let job = |name: &String| {
        let command = format!("echo {name} >> '{}'", ran.display());
        json!({ "name": name, "schedule": format!("R1/{start}/P1D"), "command": command })
    };
    server.folder.file("herd.json", &json!(names.iter().map(job).collect::<Vec<_>>()).to_string());
    server.cli(["apply", "herd.json", "--atomic"]).success();
    wait::within(3 * wait::BOUND, "all have ended", || {
        let metrics = http::send(&server.address, "GET", "/metrics", &["Accept: text/plain"], b"")?;
        let line = format!("chronos_runs_total{{outcome=\"succeeded\"}} {JOBS}");
        String::from_utf8(metrics.body).ok()?.lines().any(|told| told == line).then_some(())
    });
    let ran = std::fs::read_to_string(ran).expect("they have written");
    let mut ran: Vec<&str> = ran.lines().collect();
    ran.sort_unstable();
    assert_eq!(ran, names);
    let told = server.cli(["runs", "--limit", "20000", "--output", "json"]).success().json();
    let told = told.as_array().expect("a list");
    let mut told: Vec<_> = told.iter().map(|run| (&run["job"], &run["outcome"], &run["due"])).collect();
    told.sort_unstable_by_key(|(job, ..)| job.as_str());
    let due = json!(format!("{start:.3}"));
    assert_eq!(told.len(), JOBS);
    for (name, (job, outcome, at)) in names.iter().zip(told) {
        assert_eq!((job, outcome, at), (&json!(name), &json!("succeeded"), &due));
    }
}

#[test]
fn a_limit_holds_runs_and_says_so() {
    let server = TestServer::launch(Folder::new(), &["--running_max", "2"]);
    server.wait_ready();
    for name in ["a", "b", "c"] {
        server.put(by_hand(name, "sleep 600"));
    }
    for name in ["a", "b"] {
        server.cli(["run", name]).success();
        server.wait_for_run(name, "running", |run| run["state"] == "running");
    }
    server.cli(["run", "c"]).success();
    wait::until("the limit is named", || {
        let why = server.cli(["why", "c"]).success().stdout_text();
        why.contains("waits: 2 of 2 tasks are running (--running_max 2)").then_some(())
    });
    let metrics = http::send(&server.address, "GET", "/metrics", &["Accept: text/plain"], b"");
    let metrics = String::from_utf8(metrics.expect("an answer").body).expect("text");
    // What has not happened yet is told too, or nobody would see it happen for the first time.
    for line in [
        "chronos_held_runs{limit=\"running_max 2\"} 1",
        "chronos_runs_total{outcome=\"missed\"} 0",
        "chronos_launch_loops_total 0",
        "chronos_late_outcomes_total 0",
        "chronos_unknown_attempts 0",
        "chronos_age_seconds 0",
    ] {
        assert!(metrics.lines().any(|told| told == line), "{line}: {metrics}");
    }
    server.cli(["kill", "a"]).success();
    server.wait_for_run("c", "running", |run| run["state"] == "running");
}

/// The limits of a label and of the rate hold runs of the real program, too, and `why` names them.
#[test]
fn limits_of_labels_and_of_the_rate_hold_runs_too() {
    let server = TestServer::launch(
        Folder::new(),
        &["--running_max_by_label", "team=etl:1", "--launch_rate_max", "1"],
    );
    server.wait_ready();
    let labelled = |name: &str, team: &str| {
        let mut job = by_hand(name, "sleep 600");
        job["labels"] = serde_json::json!({ "team": team });
        job
    };
    for (name, team) in [("a", "etl"), ("b", "etl"), ("c", "web")] {
        server.put(labelled(name, team));
    }
    server.cli(["run", "a"]).success();
    server.wait_for_run("a", "running", |run| run["state"] == "running");
    server.cli(["run", "b"]).success();
    wait::until("the limit of the label is named", || {
        let why = server.cli(["why", "b"]).success().stdout_text();
        why.contains("with label team=etl are running (--running_max_by_label team=etl:1)").then_some(())
    });
    // Another label has its own.
    server.cli(["run", "c"]).success();
    server.wait_for_run("c", "running", |run| run["state"] == "running");
    server.cli(["kill", "a"]).success();
    server.wait_for_run("b", "running", |run| run["state"] == "running");
    // Five at once take four seconds at least: one is launched at once, and one in each second.
    for n in 0..5 {
        server.put(by_hand(&format!("quick-{n}"), "true"));
    }
    for n in 0..5 {
        server.cli(["run", &format!("quick-{n}")]).success();
    }
    let begun: Vec<jiff::Timestamp> = (0..5)
        .map(|n| server.wait_for(&format!("quick-{n}"), "succeeded"))
        .map(|run| run["attempts"][0]["launched"].as_str().expect("a time").parse().expect("a time"))
        .collect();
    let (first, last) = (begun.iter().min().expect("some"), begun.iter().max().expect("some"));
    assert!(last.duration_since(*first).as_millis() >= 3_500, "{begun:?}");
}

fn disk_use(path: &std::path::Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else {
        return path.metadata().map(|file| file.len()).unwrap_or_default();
    };
    entries.flatten().map(|entry| disk_use(&entry.path())).sum()
}

/// The most that a process has had in memory at once.
fn most_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel says it");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib << 10
}
