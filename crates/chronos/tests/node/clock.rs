//! Whose clock is off leads nobody.

use super::*;

#[tokio::test]
async fn who_is_too_far_from_the_clock_of_the_store_does_not_stand_for_election() {
    for (ahead, told) in [(6, Some("6.0 s ahead of")), (-6, Some("6.0 s behind")), (4, None), (-4, None)] {
        let cluster = Cluster::new();
        let store = cluster.store.another();
        store.set_clock_ahead(Ok(SignedDuration::from_secs(ahead)));
        let (node, task) = Cluster::start_on(store, "n1", Arc::new(cluster.machine.engine()));
        match told {
            Some(told) => {
                says(&node, told).await;
                assert_eq!(cluster.store.present().await.unwrap().epoch, Epoch(0), "it was elected first");
            }
            None => leads(&node).await,
        }
        task.shutdown().await;
    }
}

/// It has a successor at once, and does not stand again before its clock is right.
#[tokio::test]
async fn a_leader_whose_clock_drifts_off_hands_over() {
    let cluster = Cluster::new();
    let (drifts, other) = (Arc::new(cluster.store.another()), Arc::new(cluster.store.another()));
    let clock = |store: &MemoryStore, ahead| store.set_clock_ahead(Ok(SignedDuration::from_secs(ahead)));
    clock(&drifts, 4);
    clock(&other, 0);
    let start = |store: &Arc<MemoryStore>, name| {
        Cluster::start_as(Acquaintance::default(), store.clone(), name, Arc::new(cluster.machine.engine()))
    };
    let (first, first_task) = start(&drifts, "n1");
    leads(&first).await;
    first.ask(put("a", "R1//PT1H")).await.unwrap();
    let (second, second_task) = start(&other, "n2");
    eventually("the second follows", || async { cluster.store.loads() == 2 }).await;
    clock(&drifts, 6);
    leads(&second).await;
    says(&first, "6.0 s ahead of that of the store").await;
    assert_eq!(first.status().role, Role::Standby);
    second.ask(put("b", "R1//PT1H")).await.unwrap();
    // Now both are, each in its own way: nobody leads, though both are well otherwise.
    clock(&other, -6);
    says(&second, "6.0 s behind that of the store").await;
    let (before, role) = (cluster.store.present().await.unwrap().epoch, second.status().role);
    assert_eq!((cluster.store.leader().await, role), (None, Role::Standby));
    clock(&drifts, -4);
    leads(&first).await;
    assert_eq!(cluster.store.present().await.unwrap().epoch, Epoch(before.0 + 1), "it stood once");
    second_task.shutdown().await;
    first_task.shutdown().await;
}

/// A store that was away has told it nothing of the clock, or something that is no longer so.
#[tokio::test]
async fn who_is_elected_looks_at_the_clock_before_it_leads() {
    let cluster = Cluster::new();
    let (leader, leading) = cluster.start("n1");
    leads(&leader).await;
    let store = Arc::new(cluster.store.another());
    store.set_clock_ahead(Err(StoreError::Unavailable("it is away".into())));
    let engine = Arc::new(cluster.machine.engine());
    let (node, task) = Cluster::start_as(Acquaintance::default(), store.clone(), "n2", engine);
    eventually("it follows", || async { node.outlook().current_at.is_some() }).await;
    // Right after another look: the next one comes a second later, and it is elected before.
    let looked = node.outlook().current_at;
    eventually("it looks again", || async { node.outlook().current_at != looked }).await;
    let mut status = node.watch_status();
    let led = tokio::spawn(async move {
        status.wait_for(|status| matches!(status.role, Role::Leading(_))).await.is_ok()
    });
    store.set_clock_ahead(Ok(SignedDuration::from_hours(1)));
    cluster.store.expire();
    says(&node, "3600.0 s ahead of that of the store").await;
    assert!(!led.is_finished(), "it led by a clock that is an hour off");
    led.abort();
    task.shutdown().await;
    leading.shutdown().await;
}
