//! Batches: in order, once, whole.

use super::*;

/// The same batch again is answered as the first time, and changes nothing.
pub async fn a_batch_sent_again_is_applied_once(backing: &impl Backing) {
    let mut leader = Leader::of(backing).await;
    let batch = [Change::Append(Arc::new(ended(1, 1, Outcome::Succeeded)))];
    let (epoch, seq) = (leader.term.epoch, leader.next());
    leader.commit(&batch).await;
    within(leader.store.commit(epoch, seq, &batch)).await.expect("it was applied");
    leader.commit(&[put(1)]).await;
    within(leader.store.commit(epoch, seq, &batch)).await.expect("it was applied");
    let twice = leader.next();
    let again = [Change::Append(Arc::new(ended(1, 2, Outcome::Succeeded)))];
    let (one, two) =
        tokio::join!(leader.store.commit(epoch, twice, &again), leader.store.commit(epoch, twice, &again));
    assert_eq!((one, two), (Ok(()), Ok(())));
    leader.model.commit(epoch, twice, &again).expect("the model is told the same");
    leader.check(&backing.node().await).await;
    leader.check_history(&HistoryQuery::default()).await;
}

/// Batches that are sent at the same time, in any order, apply in theirs.
pub async fn overlapping_batches_apply_in_order(backing: &impl Backing) {
    let mut leader = Leader::of(backing).await;
    let follower = backing.node().await;
    let mut runner = TestRunner::deterministic();
    for _ in 0..20 {
        let from = leader.model.term().seq;
        let batches: Vec<(Seq, Vec<Change>)> =
            (0..8).map(|n| (Seq(from.0 + 1 + n), vec![put(n % 3 + 1)])).collect();
        let order = proptest::strategy::Just(batches.clone()).prop_shuffle();
        let shuffled = order.new_tree(&mut runner).expect("it can be shuffled").current();
        let mut calls = tokio::task::JoinSet::new();
        for (seq, changes) in shuffled {
            let (store, epoch) = (leader.store.clone(), leader.term.epoch);
            calls.spawn(async move { store.commit(epoch, seq, &changes).await });
        }
        for answer in within(calls.join_all()).await {
            answer.expect("this node leads");
        }
        for (seq, changes) in &batches {
            leader.model.commit(leader.term.epoch, *seq, changes).expect("the model is told the same");
        }
        let seen = followed(&follower, from, leader.model.term().seq).await;
        assert_eq!(seen.into_iter().map(|batch| (batch.seq, batch.changes)).collect::<Vec<_>>(), batches);
    }
    leader.check(&follower).await;
}

/// A batch whose predecessor has not come is not applied, but kept until it has.
pub async fn a_batch_waits_for_its_predecessor(backing: &impl Backing) {
    let mut leader = Leader::of(backing).await;
    let (epoch, first, second) = (leader.term.epoch, leader.next(), Seq(leader.next().0 + 1));
    let store = leader.store.clone();
    let (early, late) = ([put(2)], [put(1)]);
    let mut waiting = pin!(store.commit(epoch, second, &early));
    assert!(poll(&mut waiting).is_none());
    let keep_all = Retention { age_max: Duration::from_secs(1 << 30), ..Retention::UNBOUNDED };
    // Whatever the store does in order, it has done with the early batch after this.
    within(store.prune(keep_all, at(0))).await.expect("this node leads");
    leader.check(&backing.node().await).await;
    assert!(poll(&mut waiting).is_none(), "a batch without its predecessor was answered");
    leader.commit(&late).await;
    assert_eq!(leader.model.term().seq, first);
    within(waiting).await.expect("its predecessor has come");
    leader.model.commit(epoch, second, &early).expect("the model is told the same");
    leader.check(&backing.node().await).await;
}

/// However many are sent at once, in order: a leader that has much to say is not deposed for it.
pub async fn a_flood_of_batches_is_taken(backing: &impl Backing) {
    const FLOOD: u64 = 500;
    let mut leader = Leader::of(backing).await;
    let (store, epoch, from) = (leader.store.clone(), leader.term.epoch, leader.model.term().seq);
    let batches: Vec<Vec<Change>> = (1..=FLOOD).map(|n| vec![put(n)]).collect();
    let sent = batches.iter().zip(1..).map(|(batch, n)| store.commit(epoch, Seq(from.0 + n), batch));
    let mut sent: Vec<_> = sent.collect();
    let answered: Vec<_> = sent.iter_mut().map(|commit| poll(&mut commit.as_mut())).collect();
    for (commit, answered) in sent.into_iter().zip(answered) {
        let verdict = match answered {
            Some(verdict) => verdict,
            None => within(commit).await,
        };
        verdict.expect("this node leads");
    }
    for (batch, n) in batches.iter().zip(1..) {
        leader.model.commit(epoch, Seq(from.0 + n), batch).expect("the model is told the same");
    }
    leader.check(&backing.node().await).await;
}

/// After resigning, every batch is either applied and said so, or neither; a hole is never filled.
pub async fn resigning_settles_what_is_in_flight(backing: &impl Backing) {
    let mut leader = Leader::of(backing).await;
    let store = leader.store.clone();
    let epoch = leader.term.epoch;
    let (next, after_a_hole) = (leader.next(), Seq(leader.next().0 + 5));
    let (one, two) = ([put(1)], [put(2)]);
    let mut whole = pin!(store.commit(epoch, next, &one));
    let mut holed = pin!(store.commit(epoch, after_a_hole, &two));
    let early = poll(&mut whole);
    assert!(poll(&mut holed).is_none());
    within(store.resign()).await;
    let answer = early.or_else(|| poll(&mut whole)).expect("it is settled when the node has resigned");
    let refused = poll(&mut holed).expect("it is settled when the node has resigned");
    assert!(refused.is_err(), "a batch was applied after a hole");
    if answer.is_ok() {
        leader.model.commit(epoch, next, &one).expect("the model is told the same");
    }
    let other = backing.node().await;
    leader.check(&other).await;
    assert!(within(store.commit(epoch, leader.next(), &[put(3)])).await.is_err(), "it has resigned");
    let term = within(other.begin_term(&candidate("b"))).await.expect("nobody leads");
    assert_eq!(term, leader.model.begin_term());
    leader.check(&other).await;
}

/// An empty batch is applied like any other, and refused like any other.
pub async fn an_empty_batch_asks_whether_the_epoch_holds(backing: &impl Backing) {
    let mut leader = Leader::of(backing).await;
    for _ in 0..3 {
        leader.commit(&[]).await;
    }
    leader.check(&backing.node().await).await;
    backing.usurp().await;
    let new = backing.node().await;
    within(new.begin_term(&candidate("b"))).await.expect("the right to lead was taken");
    assert!(within(leader.store.commit(leader.term.epoch, leader.next(), &[])).await.is_err());
}

/// A batch of the largest size is one batch.
pub async fn the_largest_batch_is_taken(backing: &impl Backing) {
    let mut leader = Leader::of(backing).await;
    let mut changes = Vec::new();
    let mut bytes = 0;
    for uid in 1.. {
        let mut job = job(uid);
        job.body = "x".repeat(60_000).into();
        let change = Change::PutJob(Arc::new(job));
        bytes += format::write_batch(std::slice::from_ref(&change)).len();
        if bytes > BATCH_BYTES_MAX {
            break;
        }
        changes.push(change);
    }
    leader.commit(&changes).await;
    leader.check(&backing.node().await).await;
}

/// What is loaded is what all changes make of an empty state, and the history is what was appended.
pub async fn the_state_is_what_the_changes_make_it(backing: &impl Backing) {
    let mut leader = Leader::of(backing).await;
    let follower = backing.node().await;
    let from = leader.model.term().seq;
    leader.commit(&every_change().into_iter().map(|(_, change)| change).collect::<Vec<_>>()).await;
    leader.check(&follower).await;
    let mut runner = TestRunner::deterministic();
    for _ in 0..12 {
        for batch in any_batches().new_tree(&mut runner).expect("a sample").current() {
            leader.commit(&batch).await;
        }
        leader.check(&follower).await;
    }
    let seen = followed(&follower, from, leader.model.term().seq).await;
    assert_eq!(seen, leader.model.applied_after(from).expect("the model keeps them"));
    leader.check_history(&HistoryQuery { limit: 7, ..HistoryQuery::default() }).await;
    for record in leader.model.records() {
        if let Some(key) = format::record_key(record) {
            let found = within(follower.ended_run(key)).await.expect("history can be read");
            assert_eq!(found, leader.model.ended_run(key).map(|record| Record::clone(&record)));
        }
    }
    assert_eq!(within(follower.ended_run(slot(9, 9))).await, Ok(None));
    let mut last = within(follower.last_runs()).await.expect("history can be read");
    last.sort_by_key(|last| last.key);
    assert_eq!(last, leader.model.last_runs());
}
