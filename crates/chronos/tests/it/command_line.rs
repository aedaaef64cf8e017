//! What users read and scripts rely on: help, tables, exit codes.

use crate::golden::golden;
use crate::server::{Ended, Folder, TestServer, by_hand, client_command, log_of, server_command};
use crate::wait;

fn chronos(args: &[&str]) -> Ended {
    Ended::of(client_command().args(args))
}

#[test]
fn help_of_every_command() {
    let commands = [
        "server",
        "apply",
        "jobs",
        "show",
        "run",
        "kill",
        "delete",
        "pause",
        "resume",
        "runs",
        "logs",
        "why",
        "next",
        "history",
        "rollback",
        "mark-success",
        "bench",
        "completions",
        "backup",
        "restore",
        "export",
        "import",
        "doctor",
        "backfill",
        "backfills",
        "rerun",
        "forecast",
        "graph",
        "notify",
        "audit",
        "run_jar",
        "shadow",
        "settle",
        "cluster",
        "nodes",
        "node",
    ];
    golden("help.txt", &chronos(&["--help"]).success().stdout_text());
    for command in commands {
        golden(&format!("help-{command}.txt"), &chronos(&[command, "--help"]).success().stdout_text());
    }
    for command in [
        ["import", "chronos"],
        ["import", "zookeeper"],
        ["export", "zookeeper"],
        ["shadow", "compare"],
        ["cluster", "restart"],
        ["cluster", "purge"],
    ] {
        let help = chronos(&[&command[..], &["--help"]].concat()).success().stdout_text();
        golden(&format!("help-{}.txt", command.join("-")), &help);
    }
    golden("help-import-crontab.txt", &chronos(&["import", "crontab", "--help"]).success().stdout_text());
    for command in ["test", "list", "retry"] {
        let help = chronos(&["notify", command, "--help"]).success().stdout_text();
        golden(&format!("help-notify-{command}.txt"), &help);
    }
}

#[test]
fn what_is_set_and_by_whom() {
    let folder = Folder::new();
    let file = folder.file("chronos.yaml", "http_port: 4411\nkill_grace: 30s\nlog_format: json\n");
    let mut command = client_command();
    command.args(["server", "--check-config", "--log-format", "text", "--config"]).arg(&file);
    command.env("CHRONOS_HISTORY_AGE_MAX", "7d").env("CHRONOS_KILL_GRACE", "1m");
    let told = Ended::of(&mut command).success().stdout_text();
    golden("check-config.txt", &told.replace(folder.path().to_str().unwrap(), "FOLDER"));
    assert!(!folder.data().exists());
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let folder = Folder::new();
    let file = folder.file("chronos.yaml", "http_prot: 4411\n");
    let file = file.to_str().unwrap();
    chronos(&["server", "--config", file]).exit(2).says("unknown field `http_prot`").says("hint: ");
    chronos(&["server", "--config", "/nonexistent"]).exit(2).says("cannot read").says("hint: ");
    chronos(&["server", "--http_port", "70000"]).exit(2).says("--http_port");
    chronos(&["server", "--http_address", "0.0.0.0"])
        .exit(2)
        .says("run commands on this machine")
        .says("--allow_unauthenticated");
    chronos(&["server", "--kill_grace", "10"]).exit(2).says("duration");
    chronos(&["server", "--tzdata", "none"]).exit(2).says("[possible values: bundled, system]");
    // It would stand for election among servers that run tasks.
    let elsewhere = ["server", "--shadow", "--zk_hosts", "localhost:1", "--check_config"];
    chronos(&elsewhere).exit(2).says("folder of its own").says("--store sqlite");
    chronos(&["server", "--failure_retry", "999999999999999", "--check_config"]).exit(2).says("ten years");
    chronos(&["server", "--no-such-flag"]).exit(2);
    chronos(&["frobnicate"]).exit(2);
    chronos(&[]).exit(2);
}

#[test]
fn the_time_zones_of_the_machine_are_found_or_it_is_said_what_to_install() {
    let folder = Folder::new();
    let check = |tzdir: &str| {
        let mut command = client_command();
        command
            .args(["server", "--check_config", "--tzdata", "system"])
            .env("TZDIR", folder.path().join(tzdir));
        Ended::of(&mut command)
    };
    check("nowhere").exit(2).says("no time zones in").says("hint: install them (apt-get install tzdata)");
    // One zone, always at UTC, as the first version of the format has it (RFC 8536).
    let mut zone = b"TZif".to_vec();
    zone.extend([0; 32]);
    zone.extend([0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0]);
    zone.extend(b"XXX\0");
    std::fs::create_dir_all(folder.path().join("zones/Europe")).unwrap();
    std::fs::write(folder.path().join("zones/Europe/Berlin"), zone).unwrap();
    std::fs::write(folder.path().join("zones/tzdata.zi"), "# version 2031c\n").unwrap();
    check("zones").success().says("system (2031c)");
}

#[test]
fn dashes_and_underscores_in_flags_are_the_same() {
    let folder = Folder::new();
    let mut command = client_command();
    command.args(["server", "--check_config", "--http-port=4499", "--data-dir"]).arg(folder.data());
    Ended::of(&mut command).success().says("4499");
    let server = TestServer::start();
    server.folder.file(
        "job.yaml",
        "name: past\nschedule: R/2020-01-01T00:00:00Z/P1D\ncommand: 'true'\ndisabled: true\n",
    );
    for flag in ["--dry-run", "--dry_run"] {
        server.cli(["apply", "job.yaml", flag]).success().says("would be");
    }
    server.cli(["apply", "job.yaml"]).success();
    for (dry_run, only_missing) in [("--dry-run", "--only-missing"), ("--dry_run", "--only_missing")] {
        let range = ["--from", "2020-01-01", "--to", "2020-01-03"];
        server
            .cli([&["backfill", "past", dry_run, only_missing][..], &range].concat())
            .success()
            .says("2 slots");
        server.cli(["rollback", "past", "1", dry_run]).success();
    }
}

#[test]
fn lists_are_asked_for_what_is_wanted() {
    let server = TestServer::start();
    server.folder.file(
        "jobs.yaml",
        "name: nightly\nschedule: R/2099-01-01T03:00:00Z/P1D\ncommand: 'false'\nretries: 0\nlabels: {team: etl}\nowner: ann\n---\n\
         name: weekly\nschedule: R/2098-01-01T03:00:00Z/P7D\ncommand: 'true'\n---\nname: off\nschedule: R/2097-01-01T03:00:00Z/P7D\n\
         command: 'true'\ndisabled: true\n---\nname: child\nparents: [nightly, weekly]\ncommand: 'true'\n",
    );
    server.cli(["apply", "jobs.yaml"]).success();
    server.cli(["run", "nightly"]).success();
    server.wait_for("nightly", "failed");
    let names = |args: &[&str], key: &str| -> Vec<String> {
        let listed = server.cli([args, &["--output", "json"]].concat()).success().json();
        let rows = listed.as_array().or(listed["slots"].as_array()).cloned().unwrap_or_default();
        rows.iter().map(|row| row[key].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&["jobs", "--sort", "-name", "-n", "2"], "name"), ["weekly", "off"]);
    assert_eq!(names(&["jobs", "--sort=next", "--kind", "schedule"], "name"), ["weekly", "nightly", "off"]);
    assert_eq!(names(&["jobs", "--state", "failing", "--state", "disabled"], "name"), ["nightly", "off"]);
    assert_eq!(names(&["jobs", "--label", "team=etl", "--owner", "ann"], "name"), ["nightly"]);
    assert_eq!(names(&["jobs", "--outcome", "failed"], "name"), ["nightly"]);
    assert_eq!(names(&["runs", "--cause", "trigger", "--sort", "time"], "job"), ["nightly"]);
    assert_eq!(names(&["runs", "--cause", "slot,join"], "job"), [""; 0]);
    assert_eq!(names(&["runs", "--cause", "backfill"], "job"), [""; 0]);
    assert_eq!(names(&["next", "--label", "team", "-n", "1"], "job"), ["nightly"]);
    let late = ["next", "weekly", "--from", "2098-01-02T00:00:00Z", "--until", "2098-01-16T00:00:00Z"];
    assert_eq!(names(&late, "job"), ["weekly", "weekly"]);
    assert_eq!(
        names(&["history", "nightly", "--how", "created,applied", "--sort", "version"], "job"),
        ["nightly"]
    );
    server.cli(["export", "--owner", "ann"]).success().says("name: nightly");
    server.cli(["jobs", "--sort", "size"]).exit(3).says("none of name, state");
    server.cli(["next", "weekly", "--owner", "ann"]).exit(2);
    golden("graph.txt", &server.cli(["graph"]).success().stdout_text());
    golden("graph-of-a-job.txt", &server.cli(["graph", "weekly", "--down"]).success().stdout_text());
    golden("graph-dot.txt", &server.cli(["graph", "--output", "dot"]).success().stdout_text());
    assert_eq!(
        server.cli(["graph", "child", "--up", "--output", "json"]).success().json()["nodes"][2]["job"],
        "weekly"
    );
    server.cli(["graph", "none"]).exit(3).says("there is no job `none`");
    server.cli(["graph", "--up"]).exit(2);
}

/// What the script of a shell asks when a key is pressed after these words.
fn completed(words: &[&str], url: &str) -> Vec<String> {
    let mut command = client_command();
    command.args(["--", "chronos"]).args(words).env("CHRONOS_SERVER", url);
    command.env("CHRONOS_COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", words.len().to_string());
    let told = Ended::of(command.env("_CLAP_IFS", "\n")).success().stdout_text();
    told.lines().map(|line| line.trim_end().to_owned()).collect()
}

#[test]
fn names_of_jobs_are_completed_by_asking_the_server() {
    let server = TestServer::start();
    for name in ["nightly", "night-watch", "weekly"] {
        server.put(by_hand(name, "true"));
    }
    let url = format!("http://{}", server.address);
    assert_eq!(completed(&["show", "nig"], &url), ["night-watch", "nightly"]);
    assert_eq!(completed(&["graph", "w"], &url), ["weekly"]);
    assert_eq!(completed(&["jo"], &url), ["jobs"], "commands too");
    let nobody = "http://127.0.0.1:9";
    assert_eq!(completed(&["show", "nig"], nobody), [""; 0]);
    assert_eq!(
        completed(&["logs", "--server", &url, "weekl"], nobody),
        ["weekly"],
        "the one that the line names"
    );
    let script = chronos(&["completions", "bash"]).success().stdout_text();
    assert!(script.contains("CHRONOS_COMPLETE"), "{script}");
}

#[test]
fn the_log_can_be_json() {
    let server = TestServer::launch(Folder::new(), &["--log_format", "json"]);
    server.wait_ready();
    let (folder, _) = server.terminate();
    let log = log_of(&folder);
    for line in log.lines() {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(entry["level"].is_string() && entry["message"].is_string(), "{line}");
    }
    assert!(log.contains("\"message\":\"elected\""), "{log}");
}

#[test]
fn no_server_is_told_apart_from_a_refusal() {
    let url = format!("http://127.0.0.1:{}", crate::port::unused());
    let folder = Folder::new();
    let job = folder.file("job.json", &by_hand("job", "true").to_string());
    for args in [vec!["jobs"], vec!["run", "x"], vec!["logs", "x"], vec!["apply", job.to_str().unwrap()]] {
        let mut command = client_command();
        Ended::of(command.args(args).args(["--server", &url])).exit(4).says("does not answer").says("hint: ");
    }
    chronos(&["jobs", "--server", "ftp://x"]).exit(2).says("only http://");
    chronos(&["jobs", "--server", "nonsense"]).exit(2).says("hint: ");
}

#[test]
fn a_job_that_is_not_there() {
    let server = TestServer::start();
    for args in [
        &["show", "none"][..],
        &["run", "none"],
        &["kill", "none"],
        &["delete", "none"],
        &["pause", "none"],
        &["resume", "none"],
        &["logs", "none"],
        &["why", "none"],
        &["next", "none"],
        &["mark-success", "none"],
    ] {
        let ended = server.cli(args).exit(3).says("there is no job `none`");
        assert!(ended.stderr_text().starts_with("error: "), "{}", ended.stderr_text());
    }
    // Whoever reads a list of nothing should know that the name is at fault.
    server.cli(["runs", "none"]).success().says("neither a job nor a run of `none` is known");
    server.cli(["pause", "none", "--until", "1999-13-01"]).exit(2).says("such as 2030-01-01");
    for name in ["..", "a/b", "", "a b"] {
        server.cli(["show", name]).exit(2).says("error: ");
    }
}

#[test]
fn what_cannot_be_applied_is_listed_and_the_rest_is_applied() {
    let server = TestServer::start();
    let folder = &server.folder;
    std::fs::create_dir(folder.path().join("jobs")).unwrap();
    folder.file("jobs/good.yaml", "name: good\nschedule: R1/2099-01-01T00:00:00Z/P1D\ncommand: echo\n");
    folder.file("jobs/broken.yaml", "name: [\n");
    folder.file("jobs/broken.json", "{\"name\": \"x\",");
    folder.file("jobs/nameless.json", "{\"command\": \"true\"}");
    folder.file("jobs/cycle.yaml", "name: hen\nparents: [egg]\n---\nname: egg\nparents: [hen]\n");
    folder.file(
        "jobs/orphan.yaml",
        "name: orphan\nparents: [nobody]\n---\nname: grandchild\nparents: [orphan]\n",
    );
    folder.file("jobs/zero.yaml", "name: zero\nschedule: R/2030-01-01T00:00:00Z/PT0S\ncommand: echo\n");
    folder.file("jobs/good-again.json", "{\"name\": \"good\", \"schedule\": \"R//P1D\"}");
    folder.file("jobs/readme.txt", "not a job\n");
    let applied = server.cli(["apply", "jobs"]).exit(2);
    golden("apply-errors.txt", &(applied.stdout_text() + &applied.stderr_text()));
    server.cli(["apply", "nowhere"]).exit(2).says("cannot read `nowhere`");
    server.cli(["apply", "jobs/readme.txt"]).exit(2).says("not a job");
}

#[test]
fn jobs_come_from_standard_input_too() {
    use std::io::Write;
    let server = TestServer::start();
    let mut command = client_command();
    command.args(["apply", "-", "--server", &format!("http://{}", server.address)]);
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let job = by_hand("piped", "true").to_string();
    child.stdin.take().unwrap().write_all(job.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "created job `piped`\n");
    // What is shown can be applied again.
    server.folder.file("shown.json", &server.cli(["show", "piped"]).success().stdout_text());
    // The first time it gains the defaults that are shown.
    // Where the server is not root it says that their `root` means nothing.
    let told = server.cli(["apply", "shown.json"]).success().stderr_text();
    assert!(told.lines().all(|line| line.contains("`runAsUser`: root")), "{told}");
    server.cli(["apply", "shown.json"]).stdout("unchanged job `piped`\n").success();
}

#[test]
fn tables_and_json() {
    let server = TestServer::start();
    server.folder.file(
        "jobs.yaml",
        "name: nightly\nschedule: R/2099-01-01T03:00:00Z/P1D\ncommand: echo done\n---\nname: child\nparents: [nightly]\ncommand: echo child\n",
    );
    server.cli(["apply", "jobs.yaml", "--output", "json"]).success().says("\"result\": \"created\"");
    golden("jobs.txt", &server.cli(["jobs"]).success().stdout_text());
    golden("next.txt", &server.cli(["next", "nightly", "-n", "3"]).success().stdout_text());
    golden("why-idle.txt", &server.cli(["why", "nightly"]).success().stdout_text());
    server.cli(["run", "nightly"]).success();
    server.wait_for("child", "succeeded");
    golden("jobs-after.txt", &server.cli(["jobs"]).success().stdout_text());
    let runs = wait::until("both are in the history", || {
        let runs = server.cli(["runs", "--output", "json"]).success().json();
        (runs.as_array().map(Vec::len) == Some(2)).then_some(runs)
    });
    let key = runs[1]["key"].as_str().unwrap();
    assert_eq!(runs[1]["job"], "nightly", "the newest first");
    server.cli(["runs", "nightly"]).success().says(key).says("succeeded");
    server.cli(["logs", key]).stdout("done\n").success();
    server.cli(["why", key]).success();
    server.cli(["kill", key]).exit(3);
    assert_eq!(
        server.cli(["jobs", "night", "--output", "json"]).success().json().as_array().map(Vec::len),
        Some(1)
    );
    assert_eq!(server.cli(["next", "--output", "json"]).success().json()["slots"][0]["job"], "nightly");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let server = TestServer::start();
    server.put(by_hand("long", "seq 1 200000"));
    server.cli(["run", "long"]).success();
    server.wait_for("long", "succeeded");
    let mut child = client_command()
        .args(["logs", "long", "--server", &format!("http://{}", server.address)])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn a_server_with_two_signals_ends_once() {
    let folder = Folder::new();
    let mut child = server_command(&folder, &[]).spawn().unwrap();
    // In the middle of its start, which must not hang either.
    crate::server::signal_process(child.id(), "-TERM");
    crate::server::signal_process(child.id(), "-INT");
    wait::until("it has ended", || child.try_wait().unwrap());
}

/// The figures are the machine's business; that jobs ran, and that nothing is left behind, is ours.
#[test]
fn bench_measures_beside_the_data_and_leaves_nothing_behind() {
    let folder = Folder::new();
    let data = folder.data();
    let figures = chronos(&["bench", "--output", "json", "--data_dir", data.to_str().unwrap()]);
    let figures: serde_json::Value = serde_json::from_str(&figures.success().stdout_text()).unwrap();
    for name in ["fdatasyncPerSecond", "sqliteCommitsPerSecond", "spawnsPerSecond", "lagP50Ms"] {
        assert!(figures[name].as_f64().is_some_and(|value| value > 0.0), "{name}: {figures}");
    }
    assert!(figures["launches"].as_u64().is_some_and(|launches| launches > 0), "{figures}");
    assert_eq!(std::fs::read_dir(&data).unwrap().count(), 0);
    assert_eq!(folder.processes(), [0; 0]);
}

#[test]
fn a_set_is_shown_before_it_is_applied_and_brought_back_after() {
    let server = TestServer::start();
    let folder = Folder::new();
    let job = |name: &str, command: &str| {
        format!("name: {name}\ncommand: {command}\nschedule: R/2099-01-01T00:00:00Z/P1D\n")
    };
    let child = "name: child\ncommand: c\nparents: [root]\n";
    let first = folder.file("set.yaml", &format!("{child}---\n{}", job("root", "one")));
    let path = first.to_str().unwrap();
    server
        .cli(["apply", path, "--dry-run"])
        .success()
        .stdout("job `child` would be created\njob `root` would be created\n");
    server.cli(["apply", path]).success().stdout("created job `child`\ncreated job `root`\n");
    folder.file("set.yaml", &format!("{child}---\n{}", job("root", "two")));
    golden("apply-dry-run.txt", &server.cli(["apply", path, "--dry-run"]).success().stdout_text());
    server.cli(["apply", path]).success().stdout("unchanged job `child`\nupdated job `root`\n");
    let bad = folder.file("bad.yaml", &format!("{}---\nname: x\nparents: [none]\n", job("root", "three")));
    server
        .cli(["apply", bad.to_str().unwrap(), "--atomic"])
        .exit(3)
        .says("nothing was applied")
        .says("no parent `none`");
    server
        .cli(["apply", bad.to_str().unwrap(), "--dry-run"])
        .exit(3)
        .says("job `root` would be updated")
        .says("no parent `none`")
        .says("not everything would be applied: 1 error");
    let one = folder.file("one.yaml", "name: first\ncommand: a\nname: second\ncommand: b\n");
    server.cli(["apply", one.to_str().unwrap()]).exit(2).says("`name` is written twice");
    let history = server.cli(["history", "root", "--output", "json"]).success().stdout_text();
    let history: serde_json::Value = serde_json::from_str(&history).unwrap();
    assert_eq!(history.as_array().map(Vec::len), Some(2), "{history}");
    assert_eq!(history[0]["changed"], serde_json::json!(["command"]));
    golden(
        "rollback-dry-run.txt",
        &server.cli(["rollback", "root", "1", "--dry-run"]).success().stdout_text(),
    );
    golden("rollback.txt", &server.cli(["rollback", "root", "1"]).success().stdout_text());
    server.cli(["show", "root"]).success().says("\"command\": \"one\"");
    server.cli(["rollback", "root", "9"]).exit(3).says("version 9").says("hint: ");
    server
        .cli(["history", "root", "1", "2"])
        .success()
        .says("from version 1 to version 2")
        .says("+ command: \"two\"");
    server.cli(["show", "root", "--version", "2"]).success().says("\"command\": \"two\"");
}
