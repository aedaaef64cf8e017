//! Followers: what they see, and what they are told they have missed.

use super::*;

/// A follower gets each batch once, in order, whoever wrote it.
pub async fn followers_see_every_batch_in_order(backing: &impl Backing) {
    let mut leader = Leader::of(backing).await;
    let follower = backing.node().await;
    let from = leader.model.term().seq;
    let to = Seq(from.0 + 21);
    let seen = tokio::spawn(async move { followed(&follower, from, to).await });
    for n in 0..10 {
        leader.commit(&[put(n + 1), Change::PutRun(Arc::new(run(n + 1, n)))]).await;
    }
    within(leader.store.resign()).await;
    leader.store = backing.node().await;
    leader.term = within(leader.store.begin_term(&candidate("b"))).await.expect("nobody leads");
    assert_eq!(leader.model.begin_term(), leader.term);
    for n in 0..10 {
        leader.commit(&[Change::RemoveJob(JobUid(n + 1))]).await;
    }
    let seen = within(seen).await.expect("the follower lives");
    assert_eq!(seen, leader.model.applied_after(from).expect("the model keeps them"));
    assert_eq!(seen.last().map(|batch| batch.epoch), Some(leader.term.epoch));
}

/// With nothing new, a follower waits; then it is told.
pub async fn a_follower_waits_for_the_next_batch(backing: &impl Backing) {
    let mut leader = Leader::of(backing).await;
    let follower = backing.node().await;
    for store in [leader.store.clone(), follower] {
        let after = leader.model.term().seq;
        let mut waiting = pin!(store.follow(after));
        for _ in 0..20 {
            assert!(poll(&mut waiting).is_none());
            tokio::task::yield_now().await;
        }
        leader.commit(&[put(1)]).await;
        let seen = within(waiting).await.expect("there is a batch");
        assert_eq!(seen, leader.model.applied_after(after).expect("the model keeps them"));
    }
}

/// What is no longer kept is not left out silently, and neither is what has never been.
pub async fn a_follower_far_behind_is_told(backing: &impl Backing) {
    let leader = Leader::of(backing).await;
    let (epoch, first) = (leader.term.epoch, leader.next());
    let begin = Seq(first.0 - 1);
    let beyond = within(leader.store.follow(Seq(first.0 + 1_000_000))).await;
    assert!(matches!(beyond, Err(StoreError::Gone { .. })), "{beyond:?}");
    let mut next = first.0;
    // More rounds than any store keeps batches for.
    for _ in 0..2000 {
        let mut calls = tokio::task::JoinSet::new();
        for seq in next..next + 60 {
            let store = leader.store.clone();
            calls.spawn(async move { store.commit(epoch, Seq(seq), &[]).await });
        }
        next += 60;
        for answer in within(calls.join_all()).await {
            answer.expect("this node leads");
        }
        match within(leader.store.follow(begin)).await {
            Ok(batches) => assert_eq!(batches[0].seq, first),
            Err(StoreError::Gone { asked, oldest }) => {
                assert_eq!(asked, first);
                assert!(oldest > asked);
                let kept = within(leader.store.follow(Seq(oldest.0 - 1))).await.expect("the oldest is there");
                assert_eq!(kept[0].seq, oldest);
                return;
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the log has no bound");
}
