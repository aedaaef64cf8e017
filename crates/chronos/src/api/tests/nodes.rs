//! What a node tells of itself and of others.

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
