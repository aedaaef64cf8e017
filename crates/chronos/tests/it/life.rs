//! Servers come and go; tasks stay.

use std::time::{Duration, Instant};

use crate::http;
use crate::server::{Ended, Folder, TestServer, by_hand};
use crate::wait;

/// A job that runs until the file `go` is there.
fn gated(server: &TestServer) -> std::path::PathBuf {
    let go = server.folder.path().join("go");
    let command = format!("echo begun; until [ -e '{}' ]; do sleep 0.05; done; echo over", go.display());
    server.put(by_hand("gated", &command));
    server.cli(["run", "gated"]).success();
    server.wait_for_run("gated", "it runs", |run| {
        run["state"] == "running" && run["attempts"][0]["started"].is_string()
    });
    go
}

#[test]
fn a_polite_end_is_quick_and_leaves_tasks_running() {
    let mut server = TestServer::start();
    let go = gated(&server);
    // The quickest of some: the machine may do other things at times, not always.
    let mut took = Vec::new();
    while took.len() < 5 && took.iter().all(|took| *took >= Duration::from_secs(3)) {
        let begun = Instant::now();
        let (folder, code) = server.terminate();
        took.push(begun.elapsed());
        assert_eq!(code, Some(0));
        server = TestServer::start_in(folder);
    }
    assert!(took.iter().any(|took| *took < Duration::from_secs(3)), "it took {took:?}");
    std::fs::write(go, "").unwrap();
    let run = server.wait_for("gated", "succeeded");
    assert_eq!(run["attempts"].as_array().map(Vec::len), Some(1), "{run}");
    server.cli(["logs", "gated"]).stdout("begun\nover\n").success();
}

#[test]
fn a_killed_server_leaves_tasks_running_and_the_next_one_learns_of_their_end() {
    let server = TestServer::start();
    let go = gated(&server);
    let folder = server.kill();
    // It ends while nobody is there.
    std::fs::write(go, "").unwrap();
    let supervisor = folder.supervisor().expect("the supervisor is alive");
    wait::until("the task has ended", || (folder.processes() == [supervisor]).then_some(()));
    let server = TestServer::start_in(folder);
    let run = server.wait_for("gated", "succeeded");
    assert_eq!(run["attempts"].as_array().map(Vec::len), Some(1), "{run}");
    server.cli(["logs", "gated"]).stdout("begun\nover\n").success();
}

#[test]
fn tasks_of_a_dead_supervisor_are_lost_and_the_server_goes_on() {
    let server = TestServer::start();
    gated(&server);
    let supervisor = server.folder.supervisor().expect("the supervisor is alive");
    crate::server::signal_process(supervisor, "-KILL");
    server.wait_for_run("gated", "its fate is told", |run| {
        run["outcome"] == "lost" || run["outcome"] == "failed"
    });
    server.put(by_hand("after", "true"));
    server.cli(["run", "after"]).success();
    server.wait_for("after", "succeeded");
}

#[test]
fn a_second_server_waits_and_takes_over_when_the_first_is_killed() {
    let first = TestServer::start();
    counts_as_leader(&first, 1);
    let go = gated(&first);
    let second = TestServer::launch(first.folder.clone(), &[]);
    let log = wait::until("it says who leads", || {
        Some(second.log()).filter(|log| log.contains("waiting as standby"))
    });
    assert!(log.contains(&format!("pid={}", first.pid())), "{log}");
    assert!(log.contains(&first.address), "{log}");
    assert_eq!(second.get("/ping").map(|response| response.status), Some(200));
    wait::until("it answers reads", || second.cli(["jobs"]).stdout_text().contains("gated").then_some(()));
    counts_as_leader(&second, 0);
    first.kill();
    second.wait_ready();
    counts_as_leader(&second, 1);
    std::fs::write(go, "").unwrap();
    second.wait_for("gated", "succeeded");
    second.cli(["run", "gated"]).success();
}

/// By what alerts are built on.
fn counts_as_leader(server: &TestServer, leads: u8) {
    wait::until("the metrics say whether it leads", || {
        let metrics = http::send(&server.address, "GET", "/metrics", &["Accept: text/plain"], b"")?;
        let told = String::from_utf8(metrics.body).expect("text");
        told.lines().any(|line| line == format!("chronos_leader {leads}")).then_some(())
    });
}

#[test]
fn a_port_that_is_taken_is_said() {
    let server = TestServer::start();
    let port = server.address.rsplit(':').next().unwrap();
    let folder = Folder::new();
    let mut command = crate::server::client_command();
    command.args(["server", "--http_port", port, "--data_dir"]).arg(folder.data());
    Ended::of(&mut command)
        .exit(1)
        .says(&format!("cannot listen on 127.0.0.1:{port}"))
        .says("hint: is another server running?");
    assert!(!folder.data().exists(), "nothing was touched");
}
