//! Everything into a file, and back: whole or not at all.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::golden::golden;
use crate::server::{Folder, TestServer, by_hand, client_command};
use crate::wait;

/// Definitions and history, as users see them.
fn content(server: &TestServer) -> (Value, Value) {
    let runs = server.cli(["runs", "--limit", "1000", "--output", "json"]).success().json();
    (server.cli(["export", "-o", "json"]).success().json(), runs)
}

#[test]
fn a_store_moves_to_another_server() {
    let server = TestServer::start();
    server.put(by_hand("parent", "echo hello"));
    server.put(serde_json::json!({ "name": "child", "command": "true", "parents": ["parent"] }));
    server.cli(["run", "parent"]).success();
    server.wait_for("child", "succeeded");
    let told = server.cli(["backup", "all.jsonl.gz"]).success().stdout_text();
    assert!(told.starts_with("wrote all.jsonl.gz: "), "{told}");
    let plain = server.cli(["backup", "-"]).success();
    let file = server.folder.file("all.jsonl", &plain.stdout_text());
    assert!(
        std::fs::read(server.folder.path().join("all.jsonl.gz")).unwrap().len() < plain.stdout_bytes().len()
    );

    let other = TestServer::start();
    let compressed = server.folder.path().join("all.jsonl.gz");
    let compressed = compressed.to_str().unwrap();
    other
        .cli(["restore", compressed, "--dry-run"])
        .success()
        .says("the backup is good: 2 jobs and 2 records");
    assert_eq!(content(&other).0, serde_json::json!([]));
    other.cli(["restore", compressed]).success().says("restored 2 jobs and 2 records");
    assert_eq!(content(&other), content(&server));

    // A server that has jobs is asked for more than a name.
    other.put(by_hand("later", "true"));
    let refused = other.cli(["restore", file.to_str().unwrap()]).exit(3);
    golden("restore-not-empty.txt", &refused.stderr_text());
    other.cli(["restore", file.to_str().unwrap(), "--yes"]).success().says("what was there before is in ");
    assert_eq!(content(&other), content(&server));
    // And back again.
    let mut undo = std::fs::read_dir(other.folder.data()).unwrap().flatten().map(|file| file.path());
    let undo = undo.find(|path| path.to_string_lossy().contains("before-restore-")).unwrap();
    other.cli(["restore", undo.to_str().unwrap(), "--yes"]).success().says("restored 3 jobs");
}

#[test]
fn what_is_no_backup_is_refused() {
    let server = TestServer::start();
    server.put(by_hand("kept", "true"));
    let text = server.cli(["backup", "-", "--no-history"]).success().stdout_text();
    let folder = &server.folder;
    let cut = folder.file("cut", &text[..text.len() / 2]);
    let changed = folder.file("changed", &text.replacen("kept", "evil", 1));
    for (file, says) in
        [(cut, "it was cut"), (changed, "checksum"), (folder.file("x", "name: a\n"), "not a backup")]
    {
        server.cli(["restore", file.to_str().unwrap(), "--yes"]).exit(3).says(says).says("hint: ");
    }
    // A compressed one that was cut cannot even be read.
    server.cli(["backup", "all.gz"]).success();
    let whole = std::fs::read(folder.path().join("all.gz")).unwrap();
    std::fs::write(folder.path().join("all.gz"), &whole[..whole.len() / 2]).unwrap();
    server
        .cli(["restore", "all.gz", "--yes"])
        .exit(1)
        .says("cannot read `all.gz`")
        .says("nothing was restored");
    server.cli(["restore", "none"]).exit(2).says("cannot read `none`");
    server.cli(["backup", "no/such/folder/x"]).exit(1).says("cannot write").says("hint: ");
    server.cli(["jobs"]).success().says("kept");
}

/// The process dies at any moment of a restore; afterwards there is all of the one or all of the other.
#[test]
fn a_crash_in_the_middle_leaves_one_or_the_other() {
    let files = Folder::new();
    let backup_of = |prefix: &str| {
        let jobs: String =
            (0..200).map(|n| by_hand(&format!("{prefix}-{n}"), "true").to_string() + "\n").collect();
        let server = TestServer::start();
        let path = server.folder.file("jobs.json", &jobs);
        server.cli(["apply", path.to_str().unwrap()]).success();
        let backup = files.path().join(prefix);
        server.cli(["backup", backup.to_str().unwrap()]).success();
        backup
    };
    let backups = [backup_of("even"), backup_of("odd")];
    let mut server = TestServer::start();
    server.cli(["restore", backups[0].to_str().unwrap()]).success();
    // How long a whole one takes here says which moments are within it.
    let begun = std::time::Instant::now();
    server.cli(["restore", backups[1].to_str().unwrap(), "--yes"]).success();
    let whole = begun.elapsed();
    let (mut present, mut changed) = (1, 0);
    for eighth in 1..=9 {
        let mut restore = client_command()
            .args(["restore", backups[1 - present].to_str().unwrap(), "--yes", "--server"])
            .arg(format!("http://{}", server.address))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Not a wait for something: the moment of the crash is the case.
        std::thread::sleep(whole * eighth / 8);
        let folder = server.kill();
        wait::until("the client sees it", || restore.try_wait().unwrap());
        server = TestServer::start_in(folder);
        let jobs = server.cli(["export", "-o", "json"]).success().json();
        let names = jobs.as_array().unwrap().iter().map(|job| job["name"].as_str().unwrap().to_owned());
        let (even, odd): (Vec<_>, Vec<_>) = names.partition(|name| name.starts_with("even-"));
        let found = match (even.len(), odd.len()) {
            (200, 0) => 0,
            (0, 200) => 1,
            other => panic!("after {eighth}/8 of a restore there are {other:?} jobs of two times 200"),
        };
        changed += usize::from(found != present);
        present = found;
    }
    eprintln!("{changed} of 9 restores were done when the process died");
}

#[test]
fn progress_is_for_terminals_and_completions_are_scripts() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = crate::server::Ended::of(client_command().args(["completions", shell])).success();
        assert!(script.stdout_text().contains("CHRONOS_COMPLETE"), "{shell}");
    }
    // The script is one that bash can read.
    let script = crate::server::Ended::of(client_command().args(["completions", "bash"])).success();
    let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
    bash.stdin.take().unwrap().write_all(script.stdout_bytes()).unwrap();
    assert!(bash.wait().unwrap().success());
    let server = TestServer::start();
    let quiet = server.cli(["backup", "x", "--quiet"]).success();
    assert_eq!(quiet.stderr_text(), "");
}
