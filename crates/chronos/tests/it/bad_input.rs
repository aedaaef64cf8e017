//! What users may send by mistake: a clear error, and no harm.

use serde_json::{Value, json};

use crate::http::{Response, send};
use crate::server::{TestServer, by_hand};

/// Sends it, expects a refusal that says `part`, and that the server goes on.
#[track_caller]
fn refused(server: &TestServer, path: &str, body: &[u8], part: &str) -> Response {
    let response = server.post(path, body).expect("there is an answer");
    let text = String::from_utf8_lossy(&response.body).into_owned();
    assert!((400..500).contains(&response.status), "{} {text}", response.status);
    let error = response.json();
    assert!(
        error["message"].is_string() && error["code"].is_string() && error["status"].is_string(),
        "{text}"
    );
    assert!(text.contains(part), "it does not say {part:?} but {text}");
    response
}

#[track_caller]
fn schedule(server: &TestServer, schedule: &str, zone: &str, part: &str) {
    let job = json!({ "name": "bad", "command": "true", "schedule": schedule, "scheduleTimeZone": zone });
    refused(server, "/v1/scheduler/iso8601", job.to_string().as_bytes(), part);
}

#[test]
fn schedules_that_cannot_be() {
    let server = TestServer::start();
    schedule(&server, "R/2030-01-01T00:00:00Z/PT0S", "", "PT0S");
    schedule(&server, "R/2030-01-01T00:00:00Z/P-1D", "", "P-1D");
    schedule(&server, "R/1969-01-01T00:00:00Z/PT1H", "", "1970");
    schedule(&server, "R/12345-01-01T00:00:00Z/PT1H", "", "12345");
    schedule(&server, "R99999999999999999999/2030-01-01T00:00:00Z/PT1H", "", "99999999999999999999");
    schedule(&server, "R/2030-01-01T00:00:00Z/P99999999999999999999D", "", "P99999999999999999999D");
    schedule(&server, "R/2030-02-30T00:00:00Z/PT1H", "", "2030-02-30");
    schedule(&server, "sometimes", "", "sometimes");
    schedule(&server, "61 * * * *", "", "61");
    schedule(&server, "0 0 30 2 *", "", "0 0 30 2 *");
    schedule(&server, "0 3 * * *", "Europe/Berln", "Europe/Berlin");
    assert_eq!(server.get_json("/v1/scheduler/jobs"), json!([]), "nothing came of it");
}

#[test]
fn bodies_that_are_no_jobs() {
    let server = TestServer::start();
    let iso = "/v1/scheduler/iso8601";
    for body in ["", "{", "nonsense", "{\"name\":\"x\"", "[1,2", "\u{0}"] {
        refused(&server, iso, body.as_bytes(), "malformed");
    }
    refused(&server, iso, b"\xff\xfe{}", "malformed");
    for body in ["null", "7", "\"text\"", "[]"] {
        refused(&server, iso, body.as_bytes(), "message");
    }
    let with = |key: &str, value: Value| {
        let mut job = by_hand("bad", "true");
        job[key] = value;
        job.to_string().into_bytes()
    };
    refused(&server, iso, &with("retries", json!("many")), "retries");
    refused(&server, iso, &with("retries", json!(101)), "retries");
    refused(&server, iso, &with("command", json!({ "a": 1 })), "command");
    refused(&server, iso, &with("arguments", json!("x")), "arguments");
    refused(&server, iso, &with("environmentVariables", json!([{ "name": "A" }])), "environmentVariables");
    refused(&server, iso, &with("command", json!("echo a\u{0}b")), "NUL");
    refused(&server, iso, &with("parents", json!(["a"])), "parents");
    for name in ["", ".", "..", "a/b", "../../etc/passwd", "a b", "ä", "a\nb", "a\u{0}b", &"x".repeat(256)] {
        refused(&server, iso, &with("name", json!(name)), "name");
    }
    refused(&server, iso, br#"{"schedule":"R/2030-01-01T00:00:00Z/P1D","command":"true"}"#, "name");
    assert_eq!(server.get_json("/v1/scheduler/jobs"), json!([]), "nothing came of it");
}

#[test]
fn large_and_deep_bodies() {
    let server = TestServer::start();
    let iso = "/v1/scheduler/iso8601";
    let large = by_hand("large", &"x".repeat(70_000)).to_string();
    assert_eq!(refused(&server, iso, large.as_bytes(), "large").status, 413);
    let huge = by_hand("huge", &"x".repeat(64 << 20)).to_string();
    if let Some(response) = server.post(iso, huge.as_bytes()) {
        assert_eq!(response.status, 413);
    }
    for deep in ["[".repeat(50_000), "{\"a\":".repeat(10_000)] {
        refused(&server, iso, deep.as_bytes(), "malformed");
    }
    let mut job = by_hand("deep", "true");
    job["labels"] = json!({ "a": "b" });
    server.put(job);
    assert_eq!(server.get("/ping").map(|response| response.status), Some(200));
}

#[test]
fn unknown_fields_are_a_warning() {
    let server = TestServer::start();
    let mut job = by_hand("typo", "true");
    job["retrys"] = json!(3);
    server.folder.file("typo.json", &job.to_string());
    server
        .cli(["apply", "typo.json"])
        .success()
        .says("warning: job `typo`: ")
        .says("`retrys`")
        .says("`retries`");
}

#[test]
fn graphs_that_cannot_be() {
    let server = TestServer::start();
    let dependency = "/v1/scheduler/dependency";
    let child = |name: &str, parents: Value| {
        json!({ "name": name, "command": "true", "parents": parents }).to_string().into_bytes()
    };
    refused(&server, dependency, &child("a", json!(["a"])), "a");
    refused(&server, dependency, &child("a", json!(["nobody", "none"])), "nobody");
    refused(&server, dependency, &child("a", json!([])), "parents");
    server.put(by_hand("root", "true"));
    server.put(json!({ "name": "b", "parents": ["root"], "command": "true" }));
    server.put(json!({ "name": "c", "parents": ["b"], "command": "true" }));
    let cycle = refused(&server, dependency, &child("b", json!(["root", "c"])), "waits for itself");
    assert_eq!(cycle.message(), "job `b` waits for itself: b -> c -> b");
    let mut both = by_hand("both", "true");
    both["parents"] = json!(["root"]);
    refused(&server, "/v1/scheduler/iso8601", both.to_string().as_bytes(), "parents");
    // Chronos took it for a dependent, and so do its endpoints; no other does.
    let set = json!({ "jobs": [both] }).to_string();
    refused(&server, "/v1/apply", set.as_bytes(), "schedule");
    assert_eq!(server.get_json("/v1/scheduler/jobs").as_array().map(Vec::len), Some(3));
}

#[test]
fn paths_that_lead_nowhere() {
    let server = TestServer::start();
    for path in [
        "/v1/scheduler/job/none",
        "/v1/scheduler/job/..%2F..%2Fetc%2Fpasswd",
        "/v1/scheduler/job/%00",
        "/v1/scheduler/job/%ff",
        "/v1/runs/nonsense",
        "/v1/runs/1-i1",
        "/v1/runs/1-i1/output",
        "/v1/jobs/none/why",
        "/nothing/here",
        "/../../etc/passwd",
    ] {
        let response = server.get(path).expect("there is an answer");
        assert!((400..500).contains(&response.status), "{path}: {}", response.status);
        assert!(
            response.json()["message"].is_string(),
            "{path}: {}",
            String::from_utf8_lossy(&response.body)
        );
    }
    for query in ["limit=0", "limit=x", "limit=999999", "outcome=great", "from=yesterday", "cursor=%00"] {
        let response = server.get(&format!("/v1/runs?{query}")).expect("there is an answer");
        assert_eq!(response.status, 400, "{query}: {}", String::from_utf8_lossy(&response.body));
    }
    for method in ["POST", "DELETE", "PUT", "BREW"] {
        let response = send(&server.address, method, "/ping", &[], b"").expect("there is an answer");
        assert!((400..502).contains(&response.status), "{method}: {}", response.status);
    }
    let response =
        send(&server.address, "POST", "/v1/scheduler/iso8601", &["Content-Type: text/plain"], b"{}");
    assert_eq!(response.map(|response| response.status), Some(415));
}

#[test]
fn another_site_cannot_use_a_browser_to_reach_it() {
    let server = TestServer::start();
    let port = server.address.rsplit(':').next().unwrap();
    let request =
        format!("GET /v1/scheduler/jobs HTTP/1.1\r\nHost: evil.example:{port}\r\nConnection: close\r\n\r\n");
    let mut stream = std::net::TcpStream::connect(&server.address).unwrap();
    std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap_or_default();
    assert!(status.starts_with('4'), "{answer}");
    let plain = server.get("/v1/scheduler/jobs").unwrap();
    assert!(!plain.head.to_lowercase().contains("access-control-allow-origin"), "{}", plain.head);
}

#[test]
fn nonsense_instead_of_http() {
    use std::io::{Read, Write};
    let server = TestServer::start();
    for nonsense in [&b"\x16\x03\x01\x02\x00\x01\x00"[..], b"GET\r\n\r\n", b"\0\0\0\0", &[b'A'; 200_000]] {
        let mut stream = std::net::TcpStream::connect(&server.address).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
        let _ = stream.write_all(nonsense);
        let _ = stream.read(&mut [0; 1024]);
    }
    assert_eq!(server.get("/ping").map(|response| response.status), Some(200));
}
