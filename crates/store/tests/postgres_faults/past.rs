//! A database that has lost the end of its past in a fail-over, and who goes on from it.

use super::*;

/// A fail-over that lost the last batches, of which a follower has been told, and a leader has written them: when
/// another leads, their numbers are other batches, and both load anew instead of going on from what is no more.
#[tokio::test(flavor = "multi_thread")]
async fn a_past_that_is_gone_is_not_gone_on_from() {
    let Some(url) = postgresd::shared_or_skip("store-postgres") else { return };
    let options = options(&url);
    let (store, other) = (open(&options), open(&options));
    let (follower, loader, newcomer) = (open(&options), open(&options), open(&options));
    let term = lead(&store, "a").await;
    let last = term.seq.0 + 5;
    send(&store, term, term.seq.0 + 1..last + 1).await.pop().expect("some").1.expect("it leads");
    let mut seen = term.seq;
    while seen < Seq(last) {
        let batches = within(follower.follow(seen)).await.expect("they are kept");
        seen = batches.last().expect("there is one").seq;
    }
    assert_eq!(within(loader.load()).await.expect("it can be loaded").1, Term { seq: Seq(last), ..term });
    within(store.resign()).await;
    let lost = format!(
        "DELETE FROM {0}.changes WHERE seq > {1}; UPDATE {0}.term SET seq = {1}",
        options.schema,
        last - 2
    );
    admin(&url, &lost).await;
    // Its first batch is the one before the last that was told.
    let later = lead(&other, "b").await;
    assert_eq!(later, Term { epoch: scheduler::ids::Epoch(term.epoch.0 + 1), seq: Seq(last - 1) });
    send(&other, later, last..last + 3).await.pop().expect("some").1.expect("it leads");
    for store in [&follower, &loader, &store] {
        let told = within(store.follow(Seq(last))).await;
        assert!(matches!(told, Err(StoreError::Gone { .. })), "{told:?}");
        let (_, loaded) = within(store.load()).await.expect("it can be loaded");
        assert_eq!(loaded, Term { seq: Seq(last + 2), ..later });
    }
    let more = send(&other, later, last + 3..last + 4).await.pop().expect("one").1;
    more.expect("it leads");
    for store in [&follower, &loader, &store] {
        let batches = within(store.follow(Seq(last + 2))).await.expect("from here on it can follow");
        assert_eq!(batches.last().map(|batch| batch.seq), Some(Seq(last + 3)));
    }
    // Whoever was told nothing cannot know.
    assert!(within(newcomer.follow(Seq(last))).await.is_ok());
}

/// Where a fail-over has lost even the beginning of a term, the next one has its epoch, and may come to its numbers. Who led
/// before writes nothing into it, and nobody goes on from what was.
#[tokio::test(flavor = "multi_thread")]
async fn two_terms_of_one_epoch_are_told_from_each_other() {
    let Some(url) = postgresd::shared_or_skip("store-postgres") else { return };
    let options = options(&url);
    let (store, other) = (open(&options), open(&options));
    let (follower, loader, idle) = (open(&options), open(&options), open(&options));
    let before = lead(&idle, "idle").await;
    within(idle.resign()).await;
    let term = lead(&store, "a").await;
    let last = term.seq.0 + 3;
    send(&store, term, term.seq.0 + 1..last + 1).await.pop().expect("some").1.expect("it leads");
    let mut seen = before.seq;
    while seen < Seq(last) {
        let batches = within(follower.follow(seen)).await.expect("they are kept");
        seen = batches.last().expect("there is one").seq;
    }
    assert_eq!(within(loader.load()).await.expect("it can be loaded").1, Term { seq: Seq(last), ..term });
    let lost = format!(
        "DELETE FROM {0}.changes WHERE seq > {2}; UPDATE {0}.term SET epoch = {1}, began = {2}, seq = {2}, \
         lease_until = '-infinity', token = NULL, holder = NULL",
        options.schema, before.epoch.0, before.seq.0
    );
    admin(&url, &lost).await;
    let later = lead(&other, "b").await;
    assert_eq!(later, term);
    send(&other, later, later.seq.0 + 1..last + 1).await.pop().expect("some").1.expect("it leads");
    let refused = send(&store, term, last + 1..last + 2).await.pop().expect("one").1;
    let refused = refused.expect_err("it does not lead any more");
    assert!(refused.reason.contains("our term of epoch"), "{refused}");
    send(&other, later, last + 1..last + 2).await.pop().expect("one").1.expect("it leads");
    for store in [&follower, &loader, &store] {
        let told = within(store.follow(Seq(last))).await;
        assert!(matches!(told, Err(StoreError::Gone { .. })), "{told:?}");
        let (_, loaded) = within(store.load()).await.expect("it can be loaded");
        assert_eq!(loaded, Term { seq: Seq(last + 1), ..later });
    }
    send(&other, later, last + 2..last + 3).await.pop().expect("one").1.expect("it leads");
    for store in [&follower, &loader, &store] {
        let batches = within(store.follow(Seq(last + 1))).await.expect("from here on it can follow");
        assert_eq!(batches.last().map(|batch| batch.seq), Some(Seq(last + 2)));
    }
}

/// Who has nothing to commit does not renew the lease of another term for ever, though it has its epoch and its number, nor
/// removes what that one keeps.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_leader_does_not_renew_another_term_of_its_epoch() {
    let Some(url) = postgresd::shared_or_skip("store-postgres") else { return };
    let options = options(&url);
    let leader = open(&PostgresOptions { lease: LEASE, ..options.clone() });
    let term = lead(&leader, "a").await;
    let other = format!("UPDATE {}.term SET token = 'another', lease_until = 'infinity'", options.schema);
    admin(&url, &other).await;
    let pruned = within(leader.prune(store::Retention::UNBOUNDED, jiff::Timestamp::now())).await;
    assert!(matches!(pruned, Err(StoreError::Deposed(_))), "{pruned:?}");
    let deposed = within(leader.deposed(term.epoch)).await;
    assert!(!deposed.reason.is_empty());
    let left = format!("SELECT lease_until = 'infinity' FROM {}.term", options.schema);
    let untouched = admin(&url, &left).await.into_iter().any(
        |message| matches!(message, tokio_postgres::SimpleQueryMessage::Row(row) if row.get(0) == Some("t")),
    );
    assert!(untouched, "it has renewed the lease of another");
}
