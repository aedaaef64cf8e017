//! A tree in ZooKeeper is removed whole or goes on where it was cut, and nothing else is removed.
#![cfg(feature = "zookeeper")]

use std::time::Duration;

use scheduler::ids::Seq;
use scheduler::state::{Change, Meta};
use store::zookeeper::purge::{RemoveError, Tree};
use store::zookeeper::{Options, open};
use store::{Candidate, Store, samples};
use tokio::time::timeout;
use zookeeper_client::{Acls, Client, CreateMode};

#[path = "../testing/ensemble.rs"]
mod ensemble;

/// A path of its own, and who looks at it as another program would.
async fn place(name: &str) -> Option<(Options, Tree, Client)> {
    let hosts = match ensemble::shared() {
        Ok(hosts) => hosts,
        Err(reason) => {
            ensemble::skip("zookeeper", &reason);
            return None;
        }
    };
    let client = Client::connect(&hosts).await.expect("it runs");
    let options = Options { path: format!("/purge-{name}/state"), ..Options::new(hosts) };
    let tree = Tree::new(options.clone()).expect("it can be meant");
    Some((options, tree, client))
}

async fn make(client: &Client, path: &str, data: &[u8]) {
    let open = CreateMode::Persistent.with_acls(Acls::anyone_all());
    let above = path.rsplit_once('/').map_or("", |(above, _)| above);
    if !above.is_empty() {
        client.mkdir(above, &open).await.expect("it can be made");
    }
    client.create(path, data, &open).await.expect("it can be made");
}

/// Ten jobs, and the id of a framework.
async fn fill(options: &Options) -> impl Store {
    let store = open(options.clone()).expect("they can be meant");
    let candidate =
        Candidate { node: "a".into(), addresses: vec!["a:4400".into()], pid: 1, version: "0".into() };
    let term = store.begin_term(&candidate).await.expect("it can lead");
    let mut changes: Vec<_> = (1..=10).map(|uid| Change::PutJob(samples::job(uid).into())).collect();
    changes.push(Change::Meta(Meta { engine_note: Some("f-1".into()), ..Meta::default() }));
    store.commit(term.epoch, Seq(term.seq.0 + 1), &changes).await.expect("it leads");
    store
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_on_wherever_it_was_cut_and_takes_nothing_else_along() {
    let Some((options, tree, client)) = place("cut").await else { return };
    let remains = tree.look().await.expect("it answers");
    assert!(!remains.there && client.check_stat(&options.path).await.expect("it answers").is_none());
    assert_eq!(tree.remove("f-1", |_| ()).await.expect("nothing is there"), 0);
    let store = fill(&options).await;
    make(&client, "/purge-cut/neighbour", b"").await;
    make(&client, &format!("{}/state/J_old", options.path), b"no protobuf").await;
    let remains = tree.look().await.expect("it answers");
    assert!(remains.there && remains.whole && remains.purging.is_none(), "{remains:?}");
    assert_eq!((remains.jobs, remains.note.as_deref()), (10, Some("f-1")));

    // While somebody takes part all of it stays.
    assert_eq!(tree.candidates().await.expect("it answers"), ["a:4400"]);
    let refused = tree.remove("f-1", |_| ()).await.expect_err("somebody leads");
    assert!(matches!(&refused, RemoveError::Occupied(who) if who == &["a:4400"]), "{refused}");
    assert_eq!(tree.look().await.expect("it answers"), remains);
    store.resign().await;
    drop(store);
    assert!(tree.candidates().await.expect("it answers").is_empty());

    let mut cuts = 0;
    // How long it takes until there is something to cut is up to the machine, and so is how long one can be late.
    for _ in 0..50 {
        let mut bound = Duration::from_micros(500);
        while timeout(bound, tree.remove("f-1", |_| ()))
            .await
            .map(|done| done.expect("nobody is there"))
            .is_err()
        {
            let remains = tree.look().await.expect("it answers");
            assert!(
                !remains.there || remains.whole || remains.purging.as_deref() == Some("f-1"),
                "{remains:?}"
            );
            cuts += u32::from(remains.purging.is_some());
            bound = bound * 5 / 4;
        }
        if cuts > 0 {
            break;
        }
        assert!(!tree.look().await.expect("it answers").there);
        fill(&options).await.resign().await;
    }
    assert!(cuts > 0, "it was never cut half way");
    assert!(!tree.look().await.expect("it answers").there);
    assert_eq!(client.list_children("/purge-cut").await.expect("it is there"), ["neighbour"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_have_made_is_left() {
    let Some((options, tree, client)) = place("strange").await else { return };
    drop(fill(&options).await);
    for path in ["json.info_0000000001", "state/someones"] {
        let path = format!("{}/{path}", options.path);
        make(&client, &path, b"").await;
        let refused = tree.remove("f-1", |_| ()).await.expect_err("it is not Chronos's");
        assert!(
            matches!(&refused, RemoveError::Strange(what) if what == std::slice::from_ref(&path)),
            "{refused}"
        );
        assert_eq!(tree.look().await.expect("it answers").strange, std::slice::from_ref(&path));
        client.delete(&path, None).await.expect("it is there");
    }
}
