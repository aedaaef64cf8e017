//! What is wrong is found, told, and said what to do about.

use crate::server::{Ended, Folder, TestServer, by_hand, client_command};

fn grades(report: &serde_json::Value) -> Vec<(String, String)> {
    let text = |finding: &serde_json::Value, key: &str| finding[key].as_str().unwrap().to_owned();
    report.as_array().unwrap().iter().map(|f| (text(f, "leg"), text(f, "grade"))).collect()
}

#[test]
fn a_server_in_health() {
    let server = TestServer::start();
    server.put(by_hand("job", "true"));
    let told = server.cli(["doctor"]).success();
    told.says("✓ server").stdout_text();
    let report = server.cli(["doctor", "--output", "json"]).success().json();
    // What this machine cannot do, and whether Docker is here, is its own business.
    let found: Vec<_> =
        grades(&report).into_iter().filter(|(leg, _)| leg != "note" && leg != "docker").collect();
    let legs: Vec<_> = found.iter().map(|(leg, _)| leg.as_str()).collect();
    assert_eq!(legs, ["server", "leader", "ready", "disk", "clock", "zones", "local", "notices", "jobs"]);
    assert!(found.iter().all(|(leg, grade)| grade == "good" || leg == "disk"), "{report}");
}

#[test]
fn no_server_and_something_else() {
    let url = format!("http://127.0.0.1:{}", crate::port::unused());
    Ended::of(client_command().args(["doctor", "--server", &url]))
        .exit(4)
        .says("✗ server")
        .says("chronos server");
    let server = TestServer::start();
    let elsewhere = format!("http://{}/nowhere", server.address);
    Ended::of(client_command().args(["doctor", "--server", &elsewhere])).exit(1).says("✗ server");
}

#[test]
fn a_folder_without_a_server() {
    let server = TestServer::start();
    server.put(by_hand("job", "true"));
    let data = server.folder.data();
    let data = data.to_str().unwrap().to_owned();
    let doctor = |folder: &str| {
        // A server that is known by a variable is none that was asked for.
        let at_nobody = ("CHRONOS_SERVER", "http://127.0.0.1:1");
        Ended::of(client_command().env(at_nobody.0, at_nobody.1).args(["doctor", "--data_dir", folder]))
    };
    doctor(&data).success().says("leads here").says("1 jobs").says("finds the file whole");
    let (folder, _) = server.terminate();
    doctor(&data).success().says("no server leads here");
    let empty = Folder::new();
    doctor(empty.path().to_str().unwrap()).exit(6).says("there is no store").says("--data_dir");
    assert_eq!(std::fs::read_dir(empty.path()).unwrap().count(), 0, "nothing was made");
    let path = folder.data().join("chronos.db");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[..16].fill(b'x');
    std::fs::write(&path, &bytes).unwrap();
    doctor(&data).exit(6).says("damaged").says("restore");
}
