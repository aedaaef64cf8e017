//! Terms, who leads, and what the others know of it.

use super::*;

/// A new store has nothing in it, and its first uid has the salt above its counter.
pub async fn a_new_store_is_empty(backing: &impl Backing) {
    let store = backing.node().await;
    let term = within(store.begin_term(&candidate("a"))).await.expect("nobody leads");
    let (state, loaded) = within(store.load()).await.expect("it can be loaded");
    assert_eq!(loaded, term);
    assert!(state.jobs.is_empty() && state.progress.is_empty() && state.runs.is_empty());
    assert!(state.joins.is_empty() && state.fanouts.is_empty() && state.backfills.is_empty());
    assert!(state.notices.is_empty());
    assert_eq!(state.meta.next_uid & u64::from(u32::MAX), 1);
    assert!(state.meta.next_uid < 1 << JobUid::BITS);
    assert_eq!(within(store.history(&HistoryQuery::default())).await, Ok(HistoryPage::default()));
}

/// Each term has a higher epoch, and begins with a batch of its own.
pub async fn terms_rise(backing: &impl Backing) {
    let (a, b) = (backing.node().await, backing.node().await);
    let mut last = within(a.begin_term(&candidate("a"))).await.expect("nobody leads");
    for store in [&a, &b, &b, &a] {
        a.resign().await;
        let term = within(store.begin_term(&candidate("again"))).await.expect("nobody leads");
        assert!(term.epoch > last.epoch);
        assert_eq!(term.seq.0, last.seq.0 + 1);
        assert_eq!(within(store.load()).await.expect("it can be loaded").1, term);
        last = term;
        if Arc::ptr_eq(store, &b) {
            b.resign().await;
        }
    }
}

/// While one leads, others wait; when it resigns, one of them leads at once. All know who.
pub async fn one_leads_and_another_waits(backing: &impl Backing) {
    let (a, b) = (backing.node().await, backing.node().await);
    assert_eq!(a.leader().await, None);
    let first = within(a.begin_term(&candidate("a"))).await.expect("nobody leads");
    let candidate_b = candidate("b");
    let mut waiting = pin!(b.begin_term(&candidate_b));
    for _ in 0..20 {
        assert!(poll(&mut waiting).is_none(), "two lead");
        tokio::task::yield_now().await;
    }
    assert_eq!(a.leader().await, Some(candidate("a")));
    until(async || b.leader().await == Some(candidate("a"))).await;
    a.resign().await;
    let second = within(waiting).await.expect("it can lead");
    assert!(second.epoch > first.epoch);
    until(async || a.leader().await == Some(candidate("b"))).await;
    b.resign().await;
    until(async || a.leader().await.is_none()).await;
}

/// A candidate that stops waiting does not lead, at whatever moment it stops.
pub async fn a_cancelled_candidate_does_not_lead(backing: &impl Backing) {
    let (a, b) = (backing.node().await, backing.node().await);
    let mut epoch = within(a.begin_term(&candidate("a"))).await.expect("nobody leads").epoch;
    for moments in 0..30 {
        {
            let candidate = candidate("b");
            let mut waiting = pin!(b.begin_term(&candidate));
            for moment in 0..moments {
                if moment == moments / 2 {
                    a.resign().await;
                }
                if let Some(led) = poll(&mut waiting) {
                    epoch = led.expect("nobody leads").epoch;
                    b.resign().await;
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        let term = within(a.begin_term(&candidate("a"))).await.expect("nobody leads");
        assert!(term.epoch > epoch);
        epoch = term.epoch;
        within(a.commit(term.epoch, Seq(term.seq.0 + 1), &[])).await.expect("nobody has deposed it");
    }
}

/// A leader that does not know that it is none any more can write nothing.
pub async fn a_deposed_leader_writes_nothing(backing: &impl Backing) {
    let mut old = Leader::of(backing).await;
    old.commit(&[put(1)]).await;
    backing.usurp().await;
    let new = backing.node().await;
    let term = within(new.begin_term(&candidate("b"))).await.expect("the right to lead was taken");
    for seq in [old.next(), Seq(old.next().0 + 1), Seq(old.next().0 + 2)] {
        let refused: Result<(), Deposed> = within(old.store.commit(old.term.epoch, seq, &[put(2)])).await;
        assert!(refused.is_err(), "batch {} of a deposed leader was taken", seq.0);
    }
    old.model.begin_term();
    old.check(&new).await;
    let mut led = Leader { store: new, term, ..old };
    led.commit(&[put(3)]).await;
    led.check(&backing.node().await).await;
}

/// A batch names its epoch and its place; one that belongs to another term is refused.
pub async fn only_batches_of_the_present_term_are_taken(backing: &impl Backing) {
    let mut leader = Leader::of(backing).await;
    leader.commit(&[put(1)]).await;
    let old = leader.term;
    within(leader.store.resign()).await;
    leader.term = within(leader.store.begin_term(&candidate("a"))).await.expect("nobody leads");
    assert_eq!(leader.model.begin_term(), leader.term);
    let Term { epoch, seq } = leader.term;
    let others = [
        (old.epoch, Seq(seq.0 + 1)),
        (Epoch(epoch.0 + 1), Seq(seq.0 + 1)),
        (epoch, seq),
        (epoch, Seq(seq.0 - 1)),
        (epoch, Seq(0)),
    ];
    for (epoch, seq) in others {
        let refused = within(leader.store.commit(epoch, seq, &[put(2)])).await;
        assert!(refused.is_err(), "batch {} of epoch {} was taken", seq.0, epoch.0);
    }
    leader.commit(&[put(3)]).await;
    leader.check(&backing.node().await).await;
}

/// Every node can ask how far the leader is, without loading anything.
pub async fn the_present_is_told(backing: &impl Backing) {
    let other = backing.node().await;
    let mut leader = Leader::of(backing).await;
    for uid in 1..=3 {
        leader.commit(&[Change::PutJob(Arc::new(job(uid)))]).await;
        for store in [&leader.store, &other] {
            assert_eq!(within(store.present()).await.expect("it can be asked"), leader.model.term());
        }
    }
    within(leader.store.resign()).await;
    let later = within(other.begin_term(&candidate("b"))).await.expect("nobody leads");
    assert_eq!(within(leader.store.present()).await.expect("it can be asked"), later);
}

/// What a node says of itself is heard by the others until it says something else or is forgotten; whoever leads.
/// A store that all its nodes have on one machine may know of nobody.
pub async fn nodes_know_of_each_other(backing: &impl Backing) {
    // Some stores are made by the first leader.
    let _leader = Leader::of(backing).await;
    let (a, b) = (backing.node().await, backing.node().await);
    let told = |node: &str, news: &str| Member {
        candidate: candidate(node),
        news: news.into(),
        age: Duration::ZERO,
    };
    let known = async |store: &Arc<dyn Store>| {
        let mut members = within(store.members()).await.expect("they can be asked for");
        for member in &mut members {
            assert!(member.age < PATIENCE, "{member:?}");
            member.age = Duration::ZERO;
        }
        members
    };
    within(b.announce(&candidate("b"), "well")).await.expect("it can be said");
    within(a.announce(&candidate("a"), "")).await.expect("it can be said");
    if known(&a).await.is_empty() {
        assert!(known(&b).await.is_empty() && !within(a.forget_member("b")).await.expect("it can be asked"));
        return;
    }
    within(b.announce(&candidate("b"), "not so well")).await.expect("it can be said");
    let longest = "x".repeat(NEWS_BYTES_MAX);
    within(a.announce(&candidate("a"), &longest)).await.expect("it can be said");
    for store in [&a, &b] {
        assert_eq!(known(store).await, [told("a", &longest), told("b", "not so well")]);
    }
    let longer = within(a.announce(&candidate("a"), &"x".repeat(NEWS_BYTES_MAX + 1))).await;
    assert!(matches!(longer, Err(StoreError::TooLarge(_))), "{longer:?}");
    assert!(within(a.forget_member("b")).await.expect("it can be forgotten"));
    assert!(!within(a.forget_member("b")).await.expect("it can be asked"));
    assert_eq!(known(&b).await, [told("a", &longest)]);
    within(b.announce(&candidate("b"), "back")).await.expect("it can be said");
    assert_eq!(known(&a).await, [told("a", &longest), told("b", "back")]);
}

/// Where another store is than the one that is meant, or none, nothing is made, read or written, and nobody leads.
pub async fn only_the_store_that_is_meant_is_used(backing: &impl Backing) {
    let Some(wrong) = backing.meant("0123").await else { return };
    let says = async |found: Option<&str>| {
        let what = StoreError::Strange { found: found.map(Into::into), wanted: "0123".into() };
        let candidate = candidate("wrong");
        let mut waiting = pin!(wrong.begin_term(&candidate));
        within(async {
            while wrong.trouble() != Some(what.to_string()) {
                assert!(poll(&mut waiting).is_none(), "it leads on a store that is not meant");
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!(within(wrong.load()).await.map(drop), Err(what.clone()));
        assert_eq!(within(wrong.announce(&candidate, "{}")).await, Err(what));
    };
    says(None).await;
    assert!(backing.is_empty().await, "it has made something");
    let store = backing.node().await;
    let term = within(store.begin_term(&candidate("a"))).await.expect("nobody leads");
    store.resign().await;
    let id = within(store.store_id()).await.expect("it can be asked").expect("it has one");
    says(Some(&id)).await;
    assert_eq!(within(store.present()).await, Ok(term), "it has begun a term");
    assert_eq!(within(store.members()).await, Ok(Vec::new()), "it has written who it is");
    assert_eq!(within(store.leader()).await, None, "it stands for election");
    let right = backing.meant(&id).await.expect("as before");
    within(right.begin_term(&candidate("b"))).await.expect("it is the one that is meant");
}
