//! Data folders that cannot be used: the server refuses to start, says what to do, and loses nothing.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::Arc;

use store::sqlite::{SqliteOptions, SqliteStore};

use crate::server::{Ended, Folder, TestServer, by_hand, server_command};
use crate::skip::skip;
use crate::wait;

/// Starts a server that must not start.
fn refused(folder: &Folder) -> Ended {
    let mut command = server_command(folder, &[]);
    command.stderr(Stdio::piped());
    Ended::of(&mut command).exit(6).says("hint: ")
}

/// A folder in which a server has been.
fn used() -> Arc<Folder> {
    let server = TestServer::start();
    server.put(by_hand("kept", "true"));
    ended(server)
}

/// Ends a server in good order, and leaves nothing in the log of its database.
fn ended(server: TestServer) -> Arc<Folder> {
    let folder = server.terminate().0;
    let options = SqliteOptions { dir: folder.data(), force_network_fs: false };
    drop(SqliteStore::open(&options).unwrap());
    folder
}

#[test]
fn a_database_that_is_no_database_is_left_alone() {
    let folder = used();
    let path = folder.data().join("chronos.db");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[..16].fill(b'x');
    std::fs::write(&path, &bytes).unwrap();
    refused(&folder).says("damaged").says("chronos.db");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

const PAGE: usize = 4096;

/// Where the first leaf page of a table begins. A table with one page has no other.
fn first_leaf(bytes: &[u8], table: &str) -> usize {
    let page = |number: u32| (number as usize - 1) * PAGE;
    // An entry of the schema: type, name, name of the table, number of the root page.
    let entry = format!("table{table}{table}");
    let mut entries = (0..bytes.len() - entry.len()).filter(|at| bytes[*at..].starts_with(entry.as_bytes()));
    let root = bytes[entries.next().expect("the schema names it") + entry.len()];
    let root = page(root.into());
    match bytes[root] {
        5 => {
            let first = root + usize::from(u16::from_be_bytes([bytes[root + 12], bytes[root + 13]]));
            page(u32::from_be_bytes(bytes[first..first + 4].try_into().unwrap()))
        }
        10 | 13 => root,
        kind => panic!("`{table}` begins with a page of kind {kind}"),
    }
}

fn break_first_leaf(folder: &Folder, table: &str) -> Vec<u8> {
    let path = folder.data().join("chronos.db");
    let mut bytes = std::fs::read(&path).unwrap();
    let at = first_leaf(&bytes, table);
    bytes[at..at + PAGE].fill(0xA5);
    std::fs::write(&path, &bytes).unwrap();
    bytes
}

#[test]
fn a_database_with_one_broken_page_of_what_it_runs_by_is_left_alone() {
    for table in ["jobs", "progress"] {
        let folder = used();
        let bytes = break_first_leaf(&folder, table);
        refused(&folder).says("damaged").says("restore a backup").says("nothing was changed");
        assert_eq!(std::fs::read(folder.data().join("chronos.db")).unwrap(), bytes, "{table}");
    }
}

#[test]
fn a_database_that_is_cut_off_is_left_alone() {
    let server = TestServer::start();
    server.put(by_hand("kept", "true"));
    // With its log, as a machine that went down leaves it.
    let folder = server.kill();
    let path = folder.data().join("chronos.db");
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(5000).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    refused(&folder).says("damaged").says("restore a backup");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn jobs_go_on_where_only_the_past_is_broken_and_everybody_says_so() {
    let server = TestServer::start();
    server.put(by_hand("kept", "true"));
    for n in 1..=30 {
        server.cli(["run", "kept"]).success();
        wait::until("it has run", || {
            let ended = server.runs("kept").iter().filter(|run| run["outcome"] == "succeeded").count();
            (ended >= n).then_some(())
        });
    }
    let folder = ended(server);
    break_first_leaf(&folder, "history");
    let server = TestServer::start_in(folder.clone());
    let told = wait::until("it is found by nobody's asking", || {
        let ready = server.get("/ready")?.json();
        ready["notes"].to_string().contains("history cannot be read").then_some(ready)
    });
    assert!(told["ready"] == true && told["role"] == "leading", "{told:#}");
    server.cli(["doctor"]).exit(1).says("history cannot be read").says("--no_history");
    server.put(by_hand("after", "true"));
    server.cli(["run", "after"]).success();
    server.wait_for("after", "succeeded");
    // What jobs need is saved without what is broken.
    let saved = folder.path().join("saved");
    server.cli(["backup", "--no_history", saved.to_str().unwrap()]).success();
    assert_eq!(server.log().matches("part of the history cannot be read").count(), 1);
    drop(server);
    let fresh = TestServer::start();
    fresh.cli(["restore", saved.to_str().unwrap(), "--yes"]).success();
    fresh.cli(["show", "kept"]).success();
}

#[test]
fn a_database_with_broken_pages_is_left_alone() {
    let folder = used();
    let path = folder.data().join("chronos.db");
    let mut bytes = std::fs::read(&path).unwrap();
    // All but the header: the schema cannot be read.
    bytes[100..].fill(0xA5);
    std::fs::write(&path, &bytes).unwrap();
    refused(&folder).says("damaged");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_database_of_a_newer_version_is_left_alone() {
    let folder = used();
    let path = folder.data().join("chronos.db");
    let mut bytes = std::fs::read(&path).unwrap();
    let version = u32::from_be_bytes(bytes[60..64].try_into().unwrap());
    bytes[60..64].copy_from_slice(&(version + 1).to_be_bytes());
    std::fs::write(&path, &bytes).unwrap();
    refused(&folder).says("newer");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    // Put back, it is as it was.
    bytes[60..64].copy_from_slice(&version.to_be_bytes());
    std::fs::write(&path, &bytes).unwrap();
    TestServer::start_in(folder).cli(["show", "kept"]).success();
}

#[test]
fn a_folder_that_is_read_only_is_said() {
    let folder = Folder::new();
    std::fs::create_dir(folder.data()).unwrap();
    if is_root() {
        // Root may write everywhere but on a file system that is mounted read-only.
        let Some(_mount) = Mount::new(&["-t", "tmpfs", "-o", "ro", "tmpfs"], &folder.data()) else {
            return skip("read-only folder", "root may write everywhere, and nothing can be mounted here");
        };
        refused(&folder).says("data folder");
        return;
    }
    std::fs::set_permissions(folder.data(), std::fs::Permissions::from_mode(0o555)).unwrap();
    refused(&folder).says("data folder");
    std::fs::set_permissions(folder.data(), std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_full_disk_stops_nothing_for_good() {
    let folder = Folder::new();
    std::fs::create_dir(folder.data()).unwrap();
    let mount =
        is_root().then(|| Mount::new(&["-t", "tmpfs", "-o", "size=24m", "tmpfs"], &folder.data())).flatten();
    let Some(_mount) = mount else {
        return skip("full disk", "a small file system can only be mounted by root");
    };
    let server = TestServer::start_in(folder.clone());
    server.put(by_hand("before", "echo before"));
    let filler = folder.data().join("filler");
    fill(&filler);
    // It lives and answers; what it cannot keep it does not acknowledge.
    assert_eq!(server.get("/ping").map(|response| response.status), Some(200));
    wait::until("it says that the disk is full", || {
        let large = by_hand("during", &"x".repeat(50_000)).to_string();
        let sent = crate::http::send_for(&server.address, std::time::Duration::from_millis(300), &large);
        let ready = server.get("/ready")?;
        let text = String::from_utf8_lossy(&ready.body).into_owned();
        (sent.is_none() && ready.status == 503 && text.contains("full")).then_some(())
    });
    std::fs::remove_file(&filler).unwrap();
    server.wait_ready();
    server.put(by_hand("after", "echo after"));
    server.cli(["run", "after"]).success();
    server.wait_for("after", "succeeded");
    server.cli(["show", "before"]).success();
    drop(server);
}

/// Writes until nothing more fits.
fn fill(path: &std::path::Path) {
    use std::io::Write;
    let mut file = std::fs::File::create(path).unwrap();
    for size in [1 << 20, 1 << 12, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// A mounted file system; unmounted when dropped.
struct Mount(std::path::PathBuf);

impl Mount {
    fn new(options: &[&str], at: &std::path::Path) -> Option<Self> {
        let done = Command::new("mount").args(options).arg(at).stderr(Stdio::null()).status();
        done.is_ok_and(|status| status.success()).then(|| Self(at.into()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: the supervisor still has it as its working directory.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
