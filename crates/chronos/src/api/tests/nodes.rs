//! What is told of nodes, and which may be forgotten.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::cluster::{Cluster, NODE, Way};

/// Answers every request as this process.
async fn answers_as(instance: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = format!(
                "HTTP/1.1 200 OK\r\n{NODE}: {instance}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            );
            let mut asked = [0; 1024];
            if stream.read(&mut asked).await.is_ok() {
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        }
    });
    address
}

fn listening(name: &str, address: SocketAddr) -> Candidate {
    Candidate { addresses: vec![address.to_string()], ..candidate(name) }
}

/// What a list says of one node.
fn of(list: &Value, node: &str) -> Value {
    let nodes = list["nodes"].as_array().expect("a list");
    nodes.iter().find(|told| told["node"] == node).cloned().unwrap_or_default()
}

/// One that is cut off from the store is as silent as one that is off, and its tasks may go on.
#[tokio::test]
async fn a_silent_node_that_still_answers_is_not_forgotten() {
    let store = MemoryStore::new(MemoryCore::new(7));
    let server = Server::on(store.another(), succeed);
    server.until(|node| matches!(node.status().role, Role::Leading(_))).await;
    // As a later process than the one that has told of itself.
    let cut_off = answers_as("cut-off.2").await;
    let taken = answers_as("another.1").await;
    for (name, address) in [("cut-off", cut_off), ("gone", taken), ("lately", cut_off)] {
        store.announce(&listening(name, address), "{}").await.expect("it can speak");
        if name != "lately" {
            store.fell_silent(name, Duration::from_secs(60));
        }
    }
    let list = server.get("/v1/nodes?ask=true").await.json();
    assert_eq!(of(&list, "cut-off")["answersAt"], json!(cut_off.to_string()), "{list:#}");
    assert_eq!(of(&list, "gone")["answersAt"], Value::Null, "another node has its address: {list:#}");
    assert_eq!(of(&list, "lately")["answersAt"], Value::Null, "who is heard of is not asked: {list:#}");
    let list = server.get("/v1/nodes").await.json();
    assert_eq!(of(&list, "cut-off")["answersAt"], Value::Null, "nobody said that it is to be asked");

    let forget = |node: &'static str| server.change(Method::DELETE, node);
    let refused = forget("/v1/nodes/cut-off").await;
    assert_eq!((refused.status, &refused.json()["code"]), (StatusCode::CONFLICT, &json!("alive")));
    assert!(refused.text.contains(&format!("still answers at {cut_off}")), "{}", refused.text);
    assert!(refused.text.contains("end it first, or say --force"), "{}", refused.text);
    assert_eq!(forget("/v1/nodes/gone").await.status, StatusCode::NO_CONTENT);
    assert_eq!(
        forget("/v1/nodes/lately?force=true").await.status,
        StatusCode::CONFLICT,
        "it is heard of again and again"
    );
    assert_eq!(forget("/v1/nodes/cut-off?force=true").await.status, StatusCode::NO_CONTENT);
    let list = server.get("/v1/nodes").await.json();
    assert_eq!(of(&list, "cut-off"), Value::Null, "{list:#}");
}

#[tokio::test]
async fn what_nobody_has_said_of_a_node_is_left_out() {
    let store = MemoryStore::new(MemoryCore::new(7));
    let server = Server::on(store.another(), succeed);
    server.until(|node| matches!(node.status().role, Role::Leading(_))).await;
    server.create(json!({"name": "a", "command": "1", "schedule": FAR})).await;
    let said =
        r#"{"role":"standby","epoch":1,"seq":1,"ageMs":900,"clockAheadMs":-200,"leaderAt":"here:4400"}"#;
    store.announce(&candidate("behind"), said).await.expect("it can speak");
    store.announce(&candidate("garbled"), "of another version").await.expect("it can speak");
    let list = server.get("/v1/nodes").await.json();
    let seq = server.get("/v1/status").await.json()["seq"].as_u64().expect("a number");
    assert!(seq > 1, "{seq}");
    let here = of(&list, "here");
    assert_eq!(
        [&here["role"], &here["epoch"], &here["seq"], &here["behind"], &here["this"]],
        [&json!("leading"), &json!(1), &json!(seq), &json!(0), &json!(true)],
        "{list:#}"
    );
    let told = |mut node: Value| {
        let said = node["saidMs"].take();
        assert!(said.as_u64().is_some_and(|ms| ms < 60_000), "{said}");
        node
    };
    assert_eq!(
        told(of(&list, "behind")),
        json!({
            "node": "behind", "pid": 1, "version": "0", "addresses": ["behind:4400"], "this": false, "heard": true,
            "saidMs": null, "role": "standby", "epoch": 1, "seq": 1, "behind": seq - 1, "ageMs": 900,
            "clockAheadMs": -200, "leaderAt": "here:4400", "troubles": [],
        })
    );
    assert_eq!(
        told(of(&list, "garbled")),
        json!({
            "node": "garbled", "pid": 1, "version": "0", "addresses": ["garbled:4400"], "this": false, "heard": true,
            "saidMs": null, "role": "", "troubles": [],
        })
    );
    assert_eq!(list["omitted"], Value::Null, "all who have ever said something are there");
}

/// As on a store of one machine, which says who leads and nothing else.
#[tokio::test]
async fn of_a_leader_that_says_nothing_of_itself_no_more_is_told_than_that() {
    let other = MemoryStore::new(MemoryCore::new(7));
    other.begin_term(&candidate("other")).await.expect("nobody leads");
    let server = Server::on(other.another(), succeed);
    server.until(|node| node.outlook().leader == Some(candidate("other"))).await;
    let list = server.get("/v1/nodes").await.json();
    assert_eq!(
        list["nodes"][0],
        json!({
            "node": "other", "pid": 1, "version": "0", "addresses": ["other:4400"], "this": false, "heard": true,
            "role": "leading", "troubles": [],
        })
    );
    assert_eq!(of(&list, "here")["this"], json!(true), "{list:#}");
}

/// Whoever asks it is answered by the leader; without that it has nothing to show.
#[tokio::test]
async fn a_follower_that_has_read_nothing_is_ready_as_long_as_it_hands_reads_on() {
    let other = MemoryStore::new(MemoryCore::new(7));
    other.begin_term(&candidate("other")).await.expect("nobody leads");
    let leader = answers_as("other.1").await;
    let found = Way::Found(candidate("other"), leader.to_string().parse().expect("an address"));
    let (way, seen) = tokio::sync::watch::channel(found);
    // It cannot read what the other writes.
    let store = other.another_version();
    let server = Server::among(access::Access::default(), store, succeed, |node| {
        Cluster::by(node, seen).expect("a client")
    });
    server.until(|node| node.status().role == Role::Standby && node.outlook().leader.is_some()).await;
    assert!(server.node.outlook().current_at.is_none(), "it has read something");
    let ready = server.get("/ready").await;
    assert_eq!(
        (ready.status, &ready.json()["leader"]),
        (StatusCode::OK, &json!("other:4400")),
        "{}",
        ready.text
    );
    assert!(ready.json()["notes"].to_string().contains("hands reads on to the leader"), "{}", ready.text);
    assert_eq!(
        server.get("/v1/jobs").await.header("x-chronos-node"),
        "other.1",
        "a read is answered by the leader"
    );
    way.send_replace(Way::Lost(candidate("other"), "it is away".into()));
    let ready = server.get("/ready").await;
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE, "{}", ready.text);
    assert!(ready.json()["reasons"].to_string().contains("has not read the store yet"), "{}", ready.text);
}
