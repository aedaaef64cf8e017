//! What is handed to a leader that does not answer.

use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::*;
use crate::cluster::{Cluster, Way};

/// A follower of node `other`, which leads and never answers: it takes connections as a stopped process does.
struct Follower {
    server: Server,
    other: MemoryStore,
    silent: TcpListener,
    way: watch::Sender<Way>,
}

impl Follower {
    async fn start() -> Self {
        let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = silent.local_addr().expect("an address").to_string().parse().expect("an address");
        let other = MemoryStore::new(MemoryCore::new(7));
        other.begin_term(&candidate("other")).await.expect("nobody leads");
        let (way, seen) = watch::channel(Way::Found(candidate("other"), at));
        let server = Server::among(access::Access::default(), other.another(), succeed, |node| {
            Cluster::by(node, seen).expect("a client")
        });
        server
            .until(|node| {
                let seen = node.outlook();
                seen.current_at.is_some() && seen.leader == Some(candidate("other"))
            })
            .await;
        Self { server, other, silent, way }
    }

    /// A request on its way, once it has come to the leader; the connection is kept and nothing is said.
    async fn has_come(&self) -> TcpStream {
        let (mut stream, _) = self.silent.accept().await.expect("a request");
        stream.read_u8().await.expect("something of it");
        stream
    }
}

#[tokio::test]
async fn a_read_goes_to_the_next_leader_where_the_first_is_silent() {
    let follower = Follower::start().await;
    let read = follower.server.get("/v1/engine/findings");
    let fail_over = async {
        let held = follower.has_come().await;
        follower.other.resign().await;
        // This node is the next to lead, and then knows of no other.
        follower.server.until(|node| matches!(node.status().role, Role::Leading(_))).await;
        follower.way.send_replace(Way::None);
        held
    };
    let (answer, _held) = tokio::join!(read, fail_over);
    assert_eq!(
        (answer.status, answer.header("x-chronos-node")),
        (StatusCode::OK, "here.1"),
        "{}",
        answer.text
    );
}

/// Whoever was just elected and has to load first does not say that there is nothing.
#[tokio::test]
async fn who_leads_before_it_has_read_answers_once_it_has() {
    let store = MemoryStore::new(MemoryCore::new(7));
    let Server { app, task, .. } = {
        let first = Server::on(store.another(), succeed);
        first.until(|node| matches!(node.status().role, Role::Leading(_))).await;
        first.create(json!({"name": "there", "command": "1", "schedule": FAR})).await;
        first
    };
    task.shutdown().await;
    drop(app);
    store.set_stuck(&["load"]);
    let (_way, seen) = watch::channel(Way::None);
    let next = Server::among(access::Access::default(), store.another(), succeed, |node| {
        Cluster::by(node, seen).expect("a client")
    });
    next.until(|node| matches!(node.status().role, Role::Preparing(_))).await;
    let opened = async { store.set_stuck(&[]) };
    let (all, one, ()) = tokio::join!(next.get("/v1/jobs"), next.get("/v1/jobs/there"), opened);
    assert_eq!((all.status, &all.json()["total"]), (StatusCode::OK, &json!(1)), "{}", all.text);
    assert_eq!(one.status, StatusCode::OK, "{}", one.text);
}

#[tokio::test]
async fn the_fate_of_a_change_is_told_as_unknown_once_another_leads() {
    let follower = Follower::start().await;
    let began = std::time::Instant::now();
    let change =
        follower.server.post("/v1/scheduler/iso8601", json!({"name": "a", "command": "1", "schedule": FAR}));
    let fail_over = async {
        let held = follower.has_come().await;
        follower.other.resign().await;
        held
    };
    let (answer, _held) = tokio::join!(change, fail_over);
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.text);
    assert_eq!(
        (&answer.json()["code"], answer.header("retry-after")),
        (&json!("outcome_unknown"), "1"),
        "{}",
        answer.text
    );
    assert!(answer.text.contains("another one leads now"), "{}", answer.text);
    assert!(began.elapsed() < Duration::from_secs(15), "it waited until {:?}", began.elapsed());
}
