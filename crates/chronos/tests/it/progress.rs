//! Long work shows how far it has come to whoever looks on, and nothing of that to a script.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::server::{BINARY, Ended, TestServer, by_hand};
use crate::skip::skip;

/// Between command line and server: what is answered comes piece by piece, each of them late.
struct SlowLine {
    address: String,
}

/// How late each piece is: a few of them are longer than a command waits before it shows anything.
const LATE: Duration = Duration::from_millis(100);
const PIECE: usize = 64 * 1024;

impl SlowLine {
    fn to(server: &TestServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let far = server.address.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(&far)) else { return };
                let (asks, asked) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut &asks, &mut &asked);
                    let _ = asked.shutdown(Shutdown::Write);
                });
                std::thread::spawn(move || trickle(server, client));
            }
        });
        Self { address }
    }

    /// A line of a shell, with the command line on this line as `chronos`: on a terminal, and with its streams in pipes.
    fn shell(&self, server: &TestServer, line: &str) -> (Ended, Ended) {
        let line = line.replace("chronos ", &format!("'{BINARY}' "));
        let run = |program: &str, args: &[&str]| {
            let mut command = Command::new(program);
            command.args(args).current_dir(server.folder.path()).env_clear();
            command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
            command.env("CHRONOS_SERVER", format!("http://{}", self.address)).env("TERM", "xterm");
            Ended::of(&mut command)
        };
        (run("script", &["-qec", &line, "/dev/null"]), run("sh", &["-c", &line]))
    }
}

fn trickle(mut from: TcpStream, mut to: TcpStream) {
    let mut piece = vec![0; PIECE];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        // Not a wait for something: that it comes late is the case.
        std::thread::sleep(LATE);
        if to.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

#[test]
fn long_work_has_a_bar_on_a_terminal_and_none_in_a_pipe() {
    if Command::new("script").arg("--version").output().is_err() {
        return skip("terminal", "script of util-linux is not here");
    }
    let server = TestServer::start();
    let line = SlowLine::to(&server);
    // Each of them is large, so that a backup is several pieces.
    let padding = "x".repeat(10_000);
    let mut jobs: Vec<_> =
        (0..60).map(|i| by_hand(&format!("job-{i}"), &format!("true {padding}"))).collect();
    server.folder.file("good.json", &json!(jobs).to_string());
    server.cli(["apply", "good.json"]).success();
    server.cli(["backup", "whole"]).success();
    // One that is refused, so that the others are applied one by one.
    jobs = (0..300).map(|i| by_hand(&format!("small-{i}"), "true")).collect();
    jobs.push(json!({ "name": "orphan", "command": "true", "parents": ["nowhere"] }));
    server.folder.file("most.json", &json!(jobs).to_string());
    let lines: String = (0..10).map(|i| format!("{i} 3 * * * echo {i}\n")).collect();
    server.folder.file("crontab", &lines);

    let slowly = "(head -c 100000 whole; sleep 1; tail -c +100001 whole) | chronos restore - --yes";
    let cases = [
        ("chronos backup copy-$$", 0, "wrote copy-", ["backup [", " records, "]),
        (slowly, 0, "restored 60 jobs", ["restore ", " KiB"]),
        ("chronos apply most.json", 3, "job `small-299`", ["apply [", "/301 jobs, "]),
        (
            "chronos import crontab crontab --user root --zone UTC --apply",
            0,
            "echo-9",
            ["import [", "/10 jobs, "],
        ),
    ];
    for (command, code, told, bar) in cases {
        let (terminal, pipes) = line.shell(&server, command);
        let (terminal, pipes) = (terminal.exit(code).says(told), pipes.exit(code).says(told));
        let (seen, errors) = (terminal.stdout_text(), pipes.stderr_text());
        let shows = seen.split('\r').any(|drawn| bar.iter().all(|part| drawn.contains(part)));
        assert!(shows, "{command}: {bar:?} are not in {seen:?}");
        for sign in [bar[0], "\r", "\u{1b}"] {
            assert!(!errors.contains(sign) && !pipes.stdout_text().contains(sign), "{command}: {errors:?}");
        }
        let (quiet, _) = line.shell(&server, &format!("{command} --quiet"));
        assert!(!quiet.stdout_text().contains(bar[0]), "{command} --quiet: {}", quiet.stdout_text());
    }
}
