//! Programs of other people against the real server: the Python client of Chronos, and schemathesis with the document.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::server::{Ended, TestServer};
use crate::skip::skip;

/// The client as its users have it.
const CHRONOS_PYTHON: &str = "chronos-python==1.2.1";
/// How long schemathesis may think of something.
const SECONDS: &str = "60";

fn testing(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testing").join(path)
}

/// A folder below `target/` that a suite keeps its environment in.
fn environment(name: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it is below target/");
    target.join("python").join(name)
}

/// Puts packages from PyPI into an environment; says so where they cannot be had.
fn install(suite: &str, packages: &[&str]) -> Option<PathBuf> {
    let folder = environment(suite);
    let installed = Ended::of(Command::new(testing("pypi")).arg(&folder).args(packages));
    if folder.join("complete").exists() {
        return Some(folder);
    }
    eprintln!("{}", installed.stderr_text());
    skip(suite, "its packages cannot be had from PyPI");
    None
}

#[test]
fn the_python_client_of_chronos_works_unmodified() {
    let Some(folder) = install("chronos-python", &[CHRONOS_PYTHON]) else { return };
    let server = TestServer::start();
    let mut drive = Command::new(folder.join("bin/python"));
    drive.arg("-B").arg(testing("clients/chronos_python.py")).arg(&server.address);
    Ended::of(&mut drive).success().says("calls of chronos, all as they were");
}

#[test]
fn no_request_is_answered_in_a_way_that_the_document_does_not_say() {
    let folder = environment("schemathesis");
    if install("schemathesis", &["schemathesis==4.32.5"]).is_none() {
        return;
    }
    let server = TestServer::start();
    let url = format!("http://{}", server.address);
    let ended = Ended::of(Command::new(testing("schemathesis/run")).arg(&url).arg(SECONDS).arg(&folder));
    println!("{}", ended.stdout_text());
    ended.success();
    assert_eq!(server.get("/ready").expect("it lives").status, 200);
}
