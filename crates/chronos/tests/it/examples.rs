//! The job files that the first start applies.

use std::path::Path;

use crate::server::{Folder, TestServer};

fn examples() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples"))
}

#[test]
fn all_examples_can_be_applied() {
    let server = TestServer::start();
    let applied = server.cli(["apply".as_ref(), examples().as_os_str()]).success();
    assert_eq!(applied.stderr_text(), "", "no warnings");
    for line in applied.stdout_text().lines() {
        assert!(line.starts_with("created job `"), "{line}");
    }
    server.wait_for("hello", "succeeded");
    server.wait_for("load", "succeeded");
    server.wait_for("report-mail", "succeeded");
}

#[test]
fn the_first_start_applies_them_and_the_second_does_not() {
    let examples = examples().to_str().unwrap();
    let server = TestServer::launch(Folder::new(), &["--examples", examples]);
    server.wait_ready();
    server.wait_for("hello", "succeeded");
    server.cli(["delete", "hello"]).success();
    let (folder, _) = server.terminate();
    let server = TestServer::launch(folder, &["--examples", examples]);
    server.wait_ready();
    server.cli(["show", "good-morning"]).success();
    server.cli(["show", "hello"]).exit(3);
}
