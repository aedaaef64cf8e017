//! Jobs run, and what they wrote can be read.

use serde_json::json;

use crate::server::{TestServer, by_hand, is_alive};
use crate::wait;

#[test]
fn an_applied_job_runs_and_its_output_can_be_read() {
    let server = TestServer::start();
    server.folder.file("hello.yaml", "name: hello\nschedule: R1//PT1M\ncommand: echo hi; echo oops >&2\n");
    server.cli(["apply", "hello.yaml"]).stdout("created job `hello`\n").success();
    server.wait_for("hello", "succeeded");
    server.cli(["logs", "hello"]).stdout("hi\n").success();
    server.cli(["logs", "hello", "--stderr"]).stdout("oops\n").success();
    server.cli(["logs", "hello", "-f"]).stdout("hi\n").success();
    server.cli(["apply", "hello.yaml"]).stdout("unchanged job `hello`\n").success();
    server.folder.file("hello.yaml", "name: hello\nschedule: R1//PT1M\ncommand: echo ho\n");
    server.cli(["apply", "hello.yaml"]).stdout("updated job `hello`\n").success();
}

#[test]
fn output_can_be_followed_while_it_is_written() {
    let server = TestServer::start();
    let go = server.folder.path().join("go");
    let command = format!("echo begun; until [ -e '{}' ]; do sleep 0.05; done; echo over", go.display());
    server.put(by_hand("slow", &command));
    server.cli(["run", "slow"]).says("started job `slow`").success();
    server.wait_for_run("slow", "it runs", |run| run["state"] == "running");
    let folder = server.folder.clone();
    let opener = std::thread::spawn(move || {
        wait::until("it has begun to write", || {
            let tasks = std::process::Command::new("grep")
                .args(["-rqs", "begun"])
                .arg(folder.data().join("engine/tasks"))
                .status();
            tasks.is_ok_and(|status| status.success()).then_some(())
        });
        std::fs::write(go, "").unwrap();
    });
    server.cli(["logs", "-f", "slow"]).stdout("begun\nover\n").success();
    opener.join().unwrap();
}

#[test]
fn a_failing_job_is_retried_and_told_its_slot_and_attempt() {
    let server = TestServer::start();
    let mut job = by_hand(
        "flaky",
        "echo $CHRONOS_JOB_RUN_ATTEMPT $CHRONOS_JOB_RUN_TIME; [ $CHRONOS_JOB_RUN_ATTEMPT = 2 ]",
    );
    job["retries"] = json!(5);
    job["retryDelay"] = json!("1s");
    job["schedule"] = json!("R1/2020-01-01T00:00:00Z/P1D");
    server.put(job);
    let run = server.wait_for("flaky", "succeeded");
    assert_eq!(run["attempts"].as_array().map(Vec::len), Some(3), "{run}");
    let due: jiff::Timestamp = run["due"].as_str().unwrap().parse().unwrap();
    assert_eq!(due.as_second() % 86_400, 0, "a slot of the schedule, not the moment of the launch: {due}");
    server.cli(["logs", "flaky"]).stdout(&format!("2 {}\n", due.as_millisecond())).success();
    server
        .cli(["logs", "flaky", "--attempt", "0"])
        .stdout(&format!("0 {}\n", due.as_millisecond()))
        .success();
}

#[test]
fn a_job_that_fails_every_attempt_has_failed() {
    let server = TestServer::start();
    let mut job = by_hand("broken", "exit 3");
    job["retries"] = json!(1);
    job["retryDelay"] = json!("1s");
    server.put(job);
    server.cli(["run", "broken"]).success();
    let run = server.wait_for("broken", "failed");
    assert_eq!(run["attempts"].as_array().map(Vec::len), Some(2), "{run}");
    server.cli(["runs", "broken", "--outcome", "failed"]).says("failed").success();
    server.cli(["why", "broken"]).success();
}

#[test]
fn arguments_of_a_manual_run_reach_the_command() {
    let server = TestServer::start();
    server.put(by_hand("greet", "printf '%s\\n'"));
    server.cli(["run", "greet", "--arguments", "$(id) ;x"]).success();
    server.wait_for("greet", "succeeded");
    server.cli(["logs", "greet"]).stdout("$(id)\n;x\n").success();
}

#[test]
fn a_run_can_be_killed_with_all_that_it_started() {
    let server = TestServer::start();
    // Forks, and neither parent nor child heed TERM.
    let pids = server.folder.path().join("pids");
    let stubborn = "trap '' TERM; while :; do sleep 1; done";
    let command = format!("sh -c \"{stubborn}\" & echo $! $$ > '{}'; {stubborn}", pids.display());
    let server = {
        // A short grace, so that the test does not wait for the long one.
        let (folder, _) = server.terminate();
        let server = TestServer::launch(folder, &["--kill_grace", "1s"]);
        server.wait_ready();
        server
    };
    server.put(by_hand("stubborn", &command));
    server.cli(["run", "stubborn"]).success();
    let pids = wait::until("it runs", || {
        let text = std::fs::read_to_string(&pids).ok()?;
        let pids: Vec<u32> = text.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
        (pids.len() == 2).then_some(pids)
    });
    server.cli(["kill", "stubborn"]).stdout("killing 1 run of job `stubborn`\n").success();
    server.wait_for("stubborn", "killed");
    wait::until("its processes are gone", || pids.iter().all(|pid| !is_alive(*pid)).then_some(()));
    server.cli(["kill", "stubborn"]).stdout("job `stubborn` has no live runs\n").success();
}

#[test]
fn a_run_that_takes_too_long_is_ended() {
    let server = TestServer::start();
    let mut job = by_hand("slow", "sleep 600");
    job["maxCompletionTime"] = json!(1);
    server.put(job);
    server.cli(["run", "slow"]).success();
    server.wait_for("slow", "timedOut");
}

#[test]
fn a_paused_job_has_no_runs_until_it_is_resumed() {
    let server = TestServer::start();
    server.put(json!({ "name": "tick", "schedule": "R//PT1S", "command": "true", "retries": 0 }));
    server.wait_for("tick", "succeeded");
    server.cli(["pause", "tick", "--reason", "full moon"]).stdout("paused job `tick`\n").success();
    server.cli(["why", "tick"]).says("full moon").success();
    server.cli(["jobs"]).says("paused").success();
    server.cli(["resume", "tick"]).stdout("resumed job `tick`\n").success();
    server.wait_for_run("tick", "slots during the pause are skipped or it runs again", |run| {
        run["outcome"] == "succeeded"
    });
    server.cli(["pause", "tick", "--for", "1s"]).says("paused job `tick` until ").success();
    let skipped = server.wait_for("tick", "skipped");
    let since = skipped["recorded"].as_str().or(skipped["ended"].as_str()).unwrap_or_default().to_owned();
    server.wait_for_run("tick", "it resumes by itself", |run| {
        run["outcome"] == "succeeded" && run["created"].as_str().unwrap_or_default() > since.as_str()
    });
    server.cli(["pause", "tick", "--until", "2001-01-01T00:00:00Z"]).exit(3).says("past");
}

#[test]
fn deleting_a_job_kills_its_runs_and_keeps_its_history() {
    let server = TestServer::start();
    server.put(by_hand("doomed", "echo last words; sleep 600"));
    server.cli(["run", "doomed"]).success();
    wait::until("it has written", || {
        server.cli(["logs", "doomed"]).stdout_text().contains("words").then_some(())
    });
    server.cli(["delete", "doomed"]).stdout("deleted job `doomed`\n").success();
    server.wait_for("doomed", "killed");
    server.cli(["logs", "doomed"]).stdout("last words\n").success();
    server.cli(["show", "doomed"]).exit(3).says("there is no job `doomed`");
    server.cli(["delete", "doomed"]).exit(3).says("there is no job `doomed`");
}

#[test]
fn a_run_that_waits_uses_the_definition_of_its_start() {
    let server = TestServer::start();
    let go = server.folder.path().join("go");
    server.put(by_hand("job", &format!("until [ -e '{}' ]; do sleep 0.05; done; echo old", go.display())));
    server.cli(["run", "job"]).success();
    server.wait_for_run("job", "it runs", |run| run["state"] == "running");
    server.cli(["run", "job"]).success();
    server.wait_for_run("job", "the second waits", |run| run["state"] == "queued");
    server.cli(["why", "job"]).success();
    server.put(by_hand("job", "echo new"));
    std::fs::write(go, "").unwrap();
    wait::until("both have run", || {
        (server.runs("job").iter().filter(|run| run["outcome"] == "succeeded").count() == 2).then_some(())
    });
    server.cli(["logs", "job"]).stdout("new\n").success();
}
