//! What every store must do, as tests. Each function is one promise; [`conformance_tests`](crate::conformance_tests)
//! makes a test of each.
//!
//! A store is compared with [`MemoryCore`], to which the same batches are given. Nothing sleeps: what must happen is
//! waited for, at most [`PATIENCE`].

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use scheduler::audit::Act;
use scheduler::ids::{Cause, Cycle, Epoch, JobUid, Seq};
use scheduler::revision::{Deed, Revision};
use scheduler::run::{Missed, Outcome, Record, Skipped};
use scheduler::schedule::Nominal;
use scheduler::state::{Change, Meta, State};

use crate::backup::{BackupError, Extent, Line, Reader, StageError, Staged};
use crate::memory::MemoryCore;
use crate::samples::{any_batches, at, ended, entry, every_change, job, outcomes, revision, run, slot};
use crate::{
    Applied, AuditPage, AuditQuery, BATCH_BYTES_MAX, Candidate, CauseKind, Deposed, HistoryOrder,
    HistoryPage, HistoryQuery, Member, NEWS_BYTES_MAX, OutcomeKind, Retention, RevisionPage, RevisionQuery,
    Store, StoreError, Term, format,
};

/// How long anything may take before it counts as never; generous, as tests share their cores.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A fresh store that several nodes may use.
#[async_trait]
pub trait Backing: Send + Sync + 'static {
    /// A handle as another node has it.
    async fn node(&self) -> Arc<dyn Store>;

    /// Takes the right to lead from whoever has it, without telling: an expired lease, a lock that was deleted.
    async fn usurp(&self);
}

/// One test for each promise, on a fresh store each: `conformance_tests!(make)`, where `make` is an async function
/// that returns a [`Backing`]; `conformance_tests!(try make)`, where it returns none if there can be none here, and has said so.
#[macro_export]
macro_rules! conformance_tests {
    (try $make:path) => {
        $crate::conformance_tests!(all $make().await);
    };
    (all $made:expr) => {
        $crate::conformance_tests!($made;
            a_new_store_is_empty terms_rise one_leads_and_another_waits a_cancelled_candidate_does_not_lead
            a_deposed_leader_writes_nothing only_batches_of_the_present_term_are_taken
            a_batch_sent_again_is_applied_once overlapping_batches_apply_in_order
            a_batch_waits_for_its_predecessor a_flood_of_batches_is_taken resigning_settles_what_is_in_flight
            an_empty_batch_asks_whether_the_epoch_holds the_largest_batch_is_taken
            the_state_is_what_the_changes_make_it followers_see_every_batch_in_order
            a_follower_waits_for_the_next_batch a_follower_far_behind_is_told history_is_found
            pages_are_stable_while_history_grows retention_removes_what_it_says only_the_leader_removes_history
            a_backup_is_a_state_that_was a_restored_backup_is_equal a_backup_may_leave_the_history_out
            a_damaged_backup_is_refused only_the_leader_restores followers_of_another_past_load_again
            revisions_are_found_and_bounded revisions_of_deleted_jobs_go_with_retention
            the_audit_is_found the_audit_is_bounded the_present_is_told nodes_know_of_each_other
        );
    };
    ($made:expr; $($promise:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                if let Some(backing) = $made {
                    $crate::conformance::$promise(&backing).await;
                }
            }
        )*
    };
    ($make:path) => {
        $crate::conformance_tests!(all Some($make().await));
    };
}

/// A leader and the model that is told the same.
struct Leader {
    store: Arc<dyn Store>,
    term: Term,
    model: MemoryCore,
}

impl Leader {
    async fn of(backing: &impl Backing) -> Self {
        let store = backing.node().await;
        let term = within(store.begin_term(&candidate("a"))).await.expect("a fresh store has no leader");
        let mut model = MemoryCore::new(0);
        assert_eq!(model.begin_term(), term);
        let mut leader = Self { store, term, model };
        // The uids of a new store are random; from here on they are not.
        leader.commit(&[Change::Meta(Meta { next_uid: 1, ..Meta::default() })]).await;
        leader
    }

    fn next(&self) -> Seq {
        Seq(self.model.term().seq.0 + 1)
    }

    async fn commit(&mut self, changes: &[Change]) {
        let (epoch, seq) = (self.term.epoch, self.next());
        within(self.store.commit(epoch, seq, changes)).await.expect("this node leads");
        self.model.commit(epoch, seq, changes).expect("the model is told the same");
    }

    async fn append(&mut self, records: impl IntoIterator<Item = Record>) {
        let changes: Vec<Change> =
            records.into_iter().map(|record| Change::Append(Arc::new(record))).collect();
        for batch in changes.chunks(500) {
            self.commit(batch).await;
        }
    }

    /// Everything that can be asked about the state has the model's answer, whichever node is asked.
    async fn check(&self, other: &Arc<dyn Store>) {
        for store in [&self.store, other] {
            let (state, term) = within(store.load()).await.expect("it can be loaded");
            assert_eq!(term, self.model.term());
            assert_eq!(&state, self.model.state());
        }
        self.check_revisions(&RevisionQuery { limit: 1000, ..RevisionQuery::default() }).await;
        self.check_audit(&AuditQuery { limit: 1000, ..AuditQuery::default() }).await;
    }

    /// All pages of a query, which must be those of the model.
    async fn check_audit(&self, query: &AuditQuery) {
        let (mut ours, mut models) = (query.clone(), query.clone());
        loop {
            let page = within(self.store.audit(&ours)).await.expect("the audit can be read");
            let AuditPage { entries, next } = self.model.audit(&models);
            assert_eq!(page.entries, entries, "{query:?}");
            assert_eq!(page.next.is_some(), next.is_some(), "{query:?}");
            (ours.cursor, models.cursor) = (page.next, next);
            if next.is_none() {
                return;
            }
        }
    }

    /// All pages of a query, which must be those of the model.
    async fn check_revisions(&self, query: &RevisionQuery) {
        let (mut ours, mut models) = (query.clone(), query.clone());
        loop {
            let page = within(self.store.revisions(&ours)).await.expect("revisions can be read");
            let RevisionPage { revisions, next } = self.model.revisions(&models);
            assert_eq!(page.revisions, revisions, "{query:?}");
            assert_eq!(page.next.is_some(), next.is_some(), "{query:?}");
            // Cursors may differ from store to store: each goes on where it ended.
            (ours.cursor, models.cursor) = (page.next, next);
            if next.is_none() {
                return;
            }
        }
    }

    /// All pages of a query, which must be those of the model.
    async fn check_history(&self, query: &HistoryQuery) {
        let mut query = query.clone();
        loop {
            let page = within(self.store.history(&query)).await.expect("history can be read");
            let HistoryPage { records, next } = self.model.history(&query);
            assert_eq!(page.records, records, "{query:?}");
            assert_eq!(page.next.is_some(), next.is_some(), "{query:?}");
            // Cursors may differ from store to store: each goes on where it ended.
            let Some(next) = next else { return };
            let from_model = self.model.history(&HistoryQuery { cursor: Some(next), ..query.clone() });
            let ours = HistoryQuery { cursor: page.next, ..query.clone() };
            let from_store = within(self.store.history(&ours)).await.expect("history can be read");
            assert_eq!(from_store.records, from_model.records, "{ours:?}");
            if page.next != Some(next) {
                return;
            }
            query.cursor = Some(next);
        }
    }
}

/// A whole backup.
async fn backup_of(store: &Arc<dyn Store>, extent: Extent) -> Vec<u8> {
    let (to, mut from) = tokio::sync::mpsc::channel(2);
    let reader = async {
        let mut bytes = Vec::new();
        while let Some(piece) = from.recv().await {
            bytes.extend(piece);
        }
        bytes
    };
    let (done, bytes) = within(async { tokio::join!(store.backup(extent, to), reader) }).await;
    done.expect("it is taken whole");
    bytes
}

/// Puts a backup beside a store, in pieces of odd sizes.
async fn stage(store: &Arc<dyn Store>, bytes: &[u8]) -> Result<Staged, StageError> {
    let (to, from) = tokio::sync::mpsc::channel(2);
    let writer = async move {
        for piece in bytes.chunks(777) {
            if to.send(piece.to_vec()).await.is_err() {
                return; // It has been refused already.
            }
        }
    };
    within(async { tokio::join!(store.stage(from), writer) }).await.0
}

/// What a store holds: state, history (oldest first), and since when that of each job is whole.
type Content = (State, Vec<Record>, Vec<(JobUid, Timestamp)>);

async fn content_of(store: &Arc<dyn Store>) -> Content {
    let (state, _) = within(store.load()).await.expect("it can be loaded");
    let mut records = Vec::new();
    let mut query = HistoryQuery { limit: 1000, ..HistoryQuery::default() };
    loop {
        let page = within(store.history(&query)).await.expect("history can be read");
        records.extend(page.records);
        let Some(next) = page.next else { break };
        query.cursor = Some(next);
    }
    records.reverse();
    let mut kept = Vec::new();
    for uid in (0..20).map(JobUid) {
        kept.extend(within(store.kept_since(uid)).await.expect("it is known").map(|since| (uid, since)));
    }
    (state, records, kept)
}

/// The state and the records that a backup holds, and after which batch it was taken.
fn read_backup(bytes: &[u8]) -> (Seq, State, Vec<Record>) {
    let (mut state, mut records, mut reader) = (State::default(), Vec::new(), Reader::default());
    let done = reader.feed(bytes, |_, line| {
        match line {
            Line::Record(Change::Append(record)) => records.push(Record::clone(&record)),
            Line::Record(change) => state.apply(&change),
            Line::Kept(..) => {}
        }
        Ok::<_, BackupError>(())
    });
    done.expect("it is whole");
    (reader.finish().expect("it has its end").term.seq, state, records)
}

/// While batches are applied, every backup is the state after one of them, and no batch waits for a backup.
pub async fn a_backup_is_a_state_that_was(backing: &impl Backing) {
    let mut leader = Leader::of(backing).await;
    let mut was = std::collections::BTreeMap::new();
    was.insert(leader.model.term().seq, (leader.model.state().clone(), leader.model.records().count()));
    let store = leader.store.clone();
    let applied = Arc::new(AtomicU64::new(0));
    let seen = applied.clone();
    let taking = tokio::spawn(async move {
        let mut taken = Vec::new();
        // A disk that is busy lets many be taken of one state.
        while taken.len() < 8 || seen.load(Ordering::Relaxed) < 20 {
            taken.push(backup_of(&store, Extent::Everything).await);
        }
        taken
    });
    let mut n = 0;
    while !taking.is_finished() {
        n += 1;
        let (uid, k) = (n % 5 + 1, n);
        let changes = [
            Change::PutJob(Arc::new(job(uid))),
            Change::PutRun(Arc::new(run(uid, k))),
            Change::Append(Arc::new(ended(uid, k, Outcome::Succeeded))),
        ];
        leader.commit(&changes).await;
        applied.fetch_add(1, Ordering::Relaxed);
        let records = leader.model.records().count();
        was.insert(leader.model.term().seq, (leader.model.state().clone(), records));
        // Keeps what is remembered here within bounds.
        if was.len() > 5000 {
            was.pop_first();
        }
        tokio::task::yield_now().await;
    }
    let mut compared = 0;
    for bytes in taking.await.expect("backups are taken") {
        let (seq, state, records) = read_backup(&bytes);
        if let Some((then, count)) = was.get(&seq) {
            assert_eq!((&state, records.len()), (then, *count), "after batch {}", seq.0);
            compared += 1;
        }
    }
    assert!(compared > 0, "no backup was taken of a state that was looked at");
}

/// Whatever a store holds, restored into another one, empty or not, it is there again, and the other goes on with it.
pub async fn a_restored_backup_is_equal(backing: &impl Backing) {
    let mut leader = Leader::of(backing).await;
    let mut runner = TestRunner::deterministic();
    let mut taken = Vec::new();
    for round in 0..4u64 {
        let batches = any_batches().new_tree(&mut runner).expect("a generator").current();
        for batch in batches {
            leader.commit(&batch).await;
        }
        leader.append((0..round * 400).map(|k| ended(k % 7 + 1, k, Outcome::Failed))).await;
        let retention =
            Retention { age_max: Duration::from_secs(1 << 40), count_max: 50, ..Retention::UNBOUNDED };
        within(leader.store.prune(retention, at(0))).await.expect("this node leads");
        let bytes = backup_of(&leader.store, Extent::Everything).await;
        taken.push((bytes, content_of(&leader.store).await));
    }
    // The latest first, so that each restore has to take things away.
    for (bytes, content) in taken.iter().rev().chain(&taken) {
        let staged = stage(&leader.store, bytes).await.expect("it is whole");
        assert_eq!(
            (staged.state().expect("it can be read"), staged.records),
            (content.0.clone(), content.1.len() as u64)
        );
        let carried = Change::PutRun(Arc::new(run(99, 1)));
        let (epoch, seq) = (leader.term.epoch, within(leader.store.load()).await.expect("it leads").1.seq);
        let seq = Seq(seq.0 + 1);
        within(leader.store.restore(epoch, seq, staged, std::slice::from_ref(&carried)))
            .await
            .expect("it leads");
        let other = backing.node().await;
        for store in [&leader.store, &other] {
            let (mut state, records, kept) = content_of(store).await;
            assert!(state.runs.remove(&slot(99, 1)).is_some());
            assert_eq!((&state, &records, &kept), (&content.0, &content.1, &content.2));
            assert_eq!(within(store.load()).await.expect("it can be loaded").1, Term { epoch, seq });
        }
        // It goes on where it is.
        let more =
            [Change::Append(Arc::new(ended(1, 777_777, Outcome::Lost))), Change::RemoveRun(slot(99, 1))];
        within(leader.store.commit(epoch, Seq(seq.0 + 1), &more)).await.expect("it leads");
        assert_eq!(content_of(&other).await.1.last(), Some(&ended(1, 777_777, Outcome::Lost)));
    }
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

/// Without the history a backup is small, and says that what is left out is not known to it.
pub async fn a_backup_may_leave_the_history_out(backing: &impl Backing) {
    let mut leader = Leader::of(backing).await;
    leader.commit(&[Change::PutJob(Arc::new(job(1)))]).await;
    leader.append((0..10).map(|k| ended(1, k, Outcome::Succeeded))).await;
    let Record::Run(last) = ended(1, 9, Outcome::Succeeded) else { panic!("it is a run") };
    let bytes = backup_of(&leader.store, Extent::WithoutHistory).await;
    let staged = stage(&leader.store, &bytes).await.expect("it is whole");
    within(leader.store.restore(leader.term.epoch, leader.next(), staged, &[])).await.expect("it leads");
    let (state, records, kept) = content_of(&leader.store).await;
    assert_eq!((state.jobs.len(), records.len()), (1, 0));
    assert!(matches!(kept[..], [(JobUid(1), since)] if since > last.due), "{kept:?}");
}

/// What was cut, changed, or written by a newer program is refused, and nothing has changed.
pub async fn a_damaged_backup_is_refused(backing: &impl Backing) {
    let mut leader = Leader::of(backing).await;
    leader.commit(&every_change().into_iter().map(|(_, change)| change).collect::<Vec<_>>()).await;
    let whole = backup_of(&leader.store, Extent::Everything).await;
    let before = content_of(&leader.store).await;
    let mut bad: Vec<Vec<u8>> = Vec::new();
    let step = whole.len() / 23 + 1;
    bad.extend((0..whole.len()).step_by(step).chain([whole.len() - 1]).map(|cut| whole[..cut].to_vec()));
    for place in (0..whole.len()).step_by(step) {
        let mut flipped = whole.clone();
        flipped[place] ^= 1;
        bad.push(flipped);
    }
    let text = String::from_utf8(whole.clone()).expect("JSON is UTF-8");
    let lines: Vec<&str> = text.lines().collect();
    let without = |n: usize| [&lines[..n], &lines[n + 1..]].concat().join("\n") + "\n";
    bad.extend([0, 1, 2, lines.len() - 2, lines.len() - 1].map(|n| without(n).into_bytes()));
    bad.push((text.clone() + lines[1] + "\n").into_bytes());
    bad.push(text.replacen(&format!("\"format\":{}", format::VERSION), "\"format\":999", 1).into_bytes());
    bad.push(b"name: a job file\n".to_vec());
    bad.push(vec![b'x'; 3 * BATCH_BYTES_MAX]);
    for bytes in &bad {
        let refused = stage(&leader.store, bytes).await;
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]);
        assert!(matches!(refused, Err(StageError::Backup(_))), "{refused:?}: {shown}");
    }
    assert!(stage(&leader.store, &whole).await.is_ok(), "the whole one is taken");
    assert_eq!(content_of(&leader.store).await, before);
}

/// A node that does not lead, or whose batch is not the next, restores nothing.
pub async fn only_the_leader_restores(backing: &impl Backing) {
    let mut leader = Leader::of(backing).await;
    leader.commit(&[Change::PutJob(Arc::new(job(1)))]).await;
    let bytes = backup_of(&leader.store, Extent::Everything).await;
    leader.commit(&[Change::PutJob(Arc::new(job(2)))]).await;
    let before = content_of(&leader.store).await;
    let other = backing.node().await;
    let (epoch, next) = (leader.term.epoch, leader.next());
    for (store, epoch) in [(&other, epoch), (&leader.store, Epoch(epoch.0 + 1))] {
        let staged = stage(store, &bytes).await.expect("anyone may look");
        let refused = within(store.restore(epoch, next, staged, &[])).await;
        assert!(matches!(refused, Err(StoreError::Deposed(_))), "{refused:?}");
    }
    backing.usurp().await;
    let staged = stage(&leader.store, &bytes).await.expect("anyone may look");
    let refused = within(leader.store.restore(epoch, next, staged, &[])).await;
    assert!(matches!(refused, Err(StoreError::Deposed(_))), "{refused:?}");
    assert_eq!(content_of(&other).await, before);
}

/// A follower cannot go on from what is no longer the past.
pub async fn followers_of_another_past_load_again(backing: &impl Backing) {
    let mut leader = Leader::of(backing).await;
    leader.commit(&[Change::PutJob(Arc::new(job(1)))]).await;
    let bytes = backup_of(&leader.store, Extent::Everything).await;
    leader.commit(&[Change::PutJob(Arc::new(job(2)))]).await;
    let other = backing.node().await;
    let (epoch, last) = (leader.term.epoch, leader.model.term().seq);
    let following = {
        let other = other.clone();
        tokio::spawn(async move { other.follow(last).await })
    };
    let staged = stage(&leader.store, &bytes).await.expect("it is whole");
    let seq = leader.next();
    within(leader.store.restore(epoch, seq, staged, &[])).await.expect("it leads");
    let told = within(following).await.expect("it is told");
    assert!(matches!(told, Err(StoreError::Gone { .. })), "{told:?}");
    let more = [Change::RemoveJob(JobUid(1))];
    within(leader.store.commit(epoch, Seq(seq.0 + 1), &more)).await.expect("it leads");
    let followed = within(other.follow(seq)).await.expect("from here on it can follow");
    assert_eq!(followed, [Applied { seq: Seq(seq.0 + 1), epoch, changes: more.to_vec() }]);
}

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

/// Every condition of a query, alone and with others, finds what the model finds.
pub async fn history_is_found(backing: &impl Backing) {
    let mut leader = Leader::of(backing).await;
    // One by one, ever earlier, each with another outcome: what a store says of many must take in each.
    for (n, outcome) in (0..).zip(outcomes()) {
        leader.append([ended(n % 4 + 1, 900 - n * 40, outcome)]).await;
    }
    leader.append((0..1500).map(sample_record)).await;
    let whole = HistoryQuery::default();
    let mut queries = vec![
        whole.clone(),
        HistoryQuery { limit: 1000, ..whole.clone() },
        HistoryQuery { limit: 0, outcomes: vec![OutcomeKind::Lost], ..whole.clone() },
        HistoryQuery { name: Some("nobody".into()), ..whole.clone() },
        HistoryQuery { job: Some(JobUid(99)), ..whole.clone() },
        HistoryQuery { job: Some(JobUid(1)), name: Some("job-1".into()), ..whole.clone() },
        HistoryQuery { job: Some(JobUid(1)), name: Some("job-2".into()), ..whole.clone() },
        HistoryQuery { name: Some("job-2".into()), outcomes: vec![OutcomeKind::Failed], ..whole.clone() },
    ];
    for job in [None, Some(JobUid(1)), Some(JobUid(3))] {
        for outcomes in [vec![], vec![OutcomeKind::Failed], vec![OutcomeKind::Missed, OutcomeKind::Skipped]] {
            for (from, to) in [(None, None), (Some(700), None), (None, Some(90)), (Some(300), Some(320))] {
                let second = |s: i64| at(s * 1000);
                let (from, to) = (from.map(second), to.map(second));
                queries.push(HistoryQuery {
                    job,
                    outcomes: outcomes.clone(),
                    from,
                    to,
                    limit: 40,
                    ..whole.clone()
                });
            }
        }
    }
    for causes in
        [vec![CauseKind::Slot], vec![CauseKind::Trigger, CauseKind::Join], vec![CauseKind::Backfill]]
    {
        for job in [None, Some(JobUid(2))] {
            queries.push(HistoryQuery { job, causes: causes.clone(), limit: 40, ..whole.clone() });
        }
    }
    for query in queries {
        leader.check_history(&query).await;
        leader.check_history(&HistoryQuery { order: HistoryOrder::OldestFirst, ..query }).await;
    }
}

/// A cursor goes on exactly where its page ended, whatever has come since.
pub async fn pages_are_stable_while_history_grows(backing: &impl Backing) {
    let mut leader = Leader::of(backing).await;
    leader.append((0..300).map(sample_record)).await;
    for base in [HistoryQuery::default(), HistoryQuery { job: Some(JobUid(2)), ..HistoryQuery::default() }] {
        let all = leader.model.history(&HistoryQuery { limit: 1000, ..base.clone() }).records;
        let mut query = HistoryQuery { limit: 17, ..base };
        let mut seen = Vec::new();
        loop {
            let page = within(leader.store.history(&query)).await.expect("history can be read");
            seen.extend(page.records);
            let Some(next) = page.next else { break };
            query.cursor = Some(next);
            leader.append((0..20).map(sample_record)).await;
        }
        assert_eq!(seen, all);
    }
}

/// Retention removes what is too old and too much, nothing else, and says since when the rest is whole.
pub async fn retention_removes_what_it_says(backing: &impl Backing) {
    let mut leader = Leader::of(backing).await;
    leader.commit(&(1..=4).map(put).collect::<Vec<_>>()).await;
    leader.append((0..1400).map(sample_record)).await;
    let rules = [
        (Duration::from_secs(1 << 30), u64::MAX, 2000),
        (Duration::from_secs(1000), u64::MAX, 1300),
        (Duration::from_secs(1 << 30), 90, 2000),
        (Duration::from_secs(600), 70, 1400),
        (Duration::from_secs(1 << 30), 0, 2000),
    ];
    for (age_max, count_max, now) in rules {
        let (retention, now) = (Retention { age_max, count_max, ..Retention::UNBOUNDED }, at(now * 1000));
        let before: Vec<Arc<Record>> = leader.model.records().cloned().collect();
        let removed = within(leader.store.prune(retention, now)).await.expect("this node leads");
        assert_eq!(removed, leader.model.prune(retention, now), "{retention:?}");
        leader.check_history(&HistoryQuery { limit: 1000, ..HistoryQuery::default() }).await;
        leader
            .check_history(&HistoryQuery { outcomes: vec![OutcomeKind::Failed], ..HistoryQuery::default() })
            .await;
        for job in (1..=4).map(JobUid) {
            let since = within(leader.store.kept_since(job)).await.expect("it can be read");
            assert_eq!(since, leader.model.kept_since(job), "{retention:?}");
            let query = HistoryQuery { job: Some(job), from: since, limit: 1000, ..HistoryQuery::default() };
            let whole = before.iter().filter(|record| query.wants(&crate::Facts::of(record))).count();
            let kept = within(leader.store.history(&query)).await.expect("history can be read").records.len();
            assert_eq!(kept, whole, "what was said to be whole is not: {job} since {since:?}");
        }
    }
    leader.append((1400..1410).map(sample_record)).await;
    leader.check_history(&HistoryQuery::default()).await;
    // A deleted job is forgotten with its last record.
    leader.commit(&[Change::RemoveJob(JobUid(1))]).await;
    let retention = Retention { age_max: Duration::ZERO, count_max: 0, ..Retention::UNBOUNDED };
    within(leader.store.prune(retention, at(0))).await.expect("this node leads");
    leader.model.prune(retention, at(0));
    for job in (1..=4).map(JobUid) {
        let since = within(leader.store.kept_since(job)).await.expect("it can be read");
        assert_eq!(since, leader.model.kept_since(job));
        assert_eq!(since.is_none(), job == JobUid(1));
    }
}

/// The newest of each job are there, whole, by job, by name and by version.
pub async fn revisions_are_found_and_bounded(backing: &impl Backing) {
    let mut leader = Leader::of(backing).await;
    let revised = |uid, version, deed| Change::Revise(Arc::new(revision(uid, version, deed)));
    for version in 1..=Revision::KEPT + 20 {
        leader.commit(&[revised(1, version, Deed::Replaced), revised(2, version, Deed::Applied)]).await;
    }
    leader.commit(&[revised(3, 1, Deed::Created), revised(3, 2, Deed::RolledBack { to: 1 })]).await;
    for limit in [1, 7, 1000] {
        let all = RevisionQuery { limit, ..RevisionQuery::default() };
        leader.check_revisions(&all).await;
        for uid in 1..=4 {
            leader.check_revisions(&RevisionQuery { job: Some(JobUid(uid)), ..all.clone() }).await;
            let name = Some(crate::samples::name(uid));
            leader.check_revisions(&RevisionQuery { name: name.clone(), ..all.clone() }).await;
            leader.check_revisions(&RevisionQuery { job: Some(JobUid(uid)), name, ..all.clone() }).await;
        }
    }
    for (version, kept) in [(0, false), (20, false), (21, true), (70, true), (71, false)] {
        let found = within(leader.store.revision(JobUid(1), version)).await.expect("it can be read");
        let wanted = kept.then(|| revision(1, version, Deed::Replaced));
        assert_eq!(found, wanted, "version {version}");
    }
}

/// A deleted job can be brought back until its deletion is older than the history is kept; others keep theirs.
pub async fn revisions_of_deleted_jobs_go_with_retention(backing: &impl Backing) {
    let mut leader = Leader::of(backing).await;
    let revised = |uid, version, deed| Change::Revise(Arc::new(revision(uid, version, deed)));
    for uid in 1..=60 {
        leader.commit(&[put(uid), revised(uid, 1, Deed::Created)]).await;
        if uid > 1 {
            // Later ones last longer.
            let version = u32::try_from(uid).expect("a small number");
            leader.commit(&[Change::RemoveJob(JobUid(uid)), revised(uid, version, Deed::Deleted)]).await;
        }
    }
    let retention = Retention { age_max: Duration::from_secs(3600), count_max: 1, ..Retention::UNBOUNDED };
    for seconds in [0, 3600 + 30, 3600 + 31, 7200] {
        let now = at(seconds * 1000);
        within(leader.store.prune(retention, now)).await.expect("this node leads");
        leader.model.prune(retention, now);
        leader.check_revisions(&RevisionQuery::default()).await;
    }
    let left = leader.model.revisions(&RevisionQuery::default()).revisions;
    assert_eq!(left, [revision(1, 1, Deed::Created)]);
}

/// By job, by author, by act, by time, and by all of them; newest first.
pub async fn the_audit_is_found(backing: &impl Backing) {
    let mut leader = Leader::of(backing).await;
    for n in 0..60_u32 {
        let by = ["ops", "dev", ""][n as usize % 3];
        let act = match n % 4 {
            0 => Act::Defined { deed: Deed::Replaced, version: n },
            1 => Act::Triggered { run: slot(1, n.into()) },
            _ => Act::Killed { run: None, runs: n.into() },
        };
        // Clocks go back.
        let second = if n % 9 == 8 { n - 8 } else { n };
        let mut entry = entry(u64::from(n % 5), second.into(), by, act);
        if n % 7 == 0 {
            entry.job = None;
        }
        leader.commit(&[Change::Note(Arc::new(entry))]).await;
    }
    let job = Some(crate::samples::name(3));
    let all = AuditQuery::default();
    let times = AuditQuery { from: Some(at(10_000)), to: Some(at(40_000)), ..all.clone() };
    for limit in [1, 7, 1000] {
        for query in [
            all.clone(),
            AuditQuery { name: job.clone(), ..all.clone() },
            AuditQuery { by: Some("ops".into()), ..all.clone() },
            AuditQuery { by: Some(String::new()), ..all.clone() },
            AuditQuery { acts: vec!["killed", "triggered"], ..all.clone() },
            AuditQuery { acts: vec!["kill"], ..all.clone() },
            times.clone(),
            AuditQuery { from: None, ..times.clone() },
            AuditQuery { to: None, acts: vec!["killed"], ..times.clone() },
            AuditQuery { name: job.clone(), by: Some("dev".into()), acts: vec!["killed"], ..times.clone() },
        ] {
            leader.check_audit(&AuditQuery { limit, ..query }).await;
        }
    }
}

/// By age and by number, oldest first; and in no backup without history.
pub async fn the_audit_is_bounded(backing: &impl Backing) {
    let mut leader = Leader::of(backing).await;
    let noted = |n| Change::Note(Arc::new(entry(1, n, "ops", Act::Triggered { run: slot(1, 1) })));
    let changes: Vec<Change> = (0..1200).map(noted).collect();
    for batch in changes.chunks(400) {
        leader.commit(batch).await;
    }
    let bounds = [(1000, 2000), (1000, 1000), (500, 1000), (500, 100), (500, 0)];
    for (seconds, count) in bounds {
        let (audit_age_max, audit_count_max) = (Duration::from_secs(seconds), count);
        let retention = Retention { audit_age_max, audit_count_max, ..Retention::UNBOUNDED };
        let now = at(1300 * 1000);
        within(leader.store.prune(retention, now)).await.expect("this node leads");
        leader.model.prune(retention, now);
        leader.check_audit(&AuditQuery { limit: 1000, ..AuditQuery::default() }).await;
    }
    assert_eq!(leader.model.audit(&AuditQuery::default()).entries, []);
}

/// Others may read the history, not remove it.
pub async fn only_the_leader_removes_history(backing: &impl Backing) {
    let mut leader = Leader::of(backing).await;
    leader.append((0..10).map(sample_record)).await;
    let retention = Retention { age_max: Duration::ZERO, count_max: 0, ..Retention::UNBOUNDED };
    let other = backing.node().await;
    assert!(matches!(within(other.prune(retention, at(9_000_000))).await, Err(StoreError::Deposed(_))));
    backing.usurp().await;
    within(other.begin_term(&candidate("b"))).await.expect("the right to lead was taken");
    assert!(matches!(
        within(leader.store.prune(retention, at(9_000_000))).await,
        Err(StoreError::Deposed(_))
    ));
    leader.model.begin_term();
    leader.check_history(&HistoryQuery::default()).await;
}

/// Records of four jobs with outcomes of all kinds, some rare; some late, some of many slots.
fn sample_record(n: u64) -> Record {
    let uid = n % 4 + 1;
    let outcome = match n {
        _ if n.is_multiple_of(97) => outcomes().into_iter().cycle().nth(n as usize).expect("it never ends"),
        _ if n.is_multiple_of(7) => Outcome::Failed,
        _ if n.is_multiple_of(11) => Outcome::Skipped(Skipped::Withdrawn),
        _ if n.is_multiple_of(13) => Outcome::Missed(Missed::Epsilon),
        _ => Outcome::Succeeded,
    };
    let mut record = ended(uid, n, outcome.clone());
    if n.is_multiple_of(31)
        && let Record::Run(run) = &mut record
    {
        run.due = at(n.cast_signed() * 500);
    }
    if let Record::Run(run) = &mut record {
        let (number, nominal) = (n as u32, Nominal::Index(n));
        let cycle = Cycle { due: at(n.cast_signed() * 1000), origin: JobUid(1), seq: 0 };
        run.key.cause = match n {
            _ if n.is_multiple_of(17) => Cause::Trigger(number),
            _ if n.is_multiple_of(19) => Cause::Join { cycle, round: 0 },
            _ if n.is_multiple_of(23) => Cause::Backfill { number, nominal },
            _ => run.key.cause,
        };
    }
    if n.is_multiple_of(29) {
        let (_, range) =
            every_change().into_iter().find(|(title, _)| *title == "record: range").expect("a sample");
        let Change::Append(range) = range else { unreachable!("a record") };
        let Record::Range(mut range) = Record::clone(&range) else { unreachable!("a range") };
        (range.job, range.name) = (JobUid(uid), crate::samples::name(uid));
        range.first_due = at(n.cast_signed() * 1000 - 60_000);
        range.last_due = at(n.cast_signed() * 1000);
        range.recorded = at(n.cast_signed() * 1000 + 500);
        range.outcome = outcome;
        record = Record::Range(range);
    }
    record
}

fn candidate(node: &str) -> Candidate {
    Candidate {
        node: node.into(),
        addresses: vec!["10.0.0.1:4400".into(), "[::1]:4400".into()],
        pid: 42,
        version: "0.1.0".into(),
    }
}

fn put(uid: u64) -> Change {
    Change::PutJob(Arc::new(job(uid)))
}

/// Batches after `from` up to `to`, as a follower gets them.
async fn followed(store: &Arc<dyn Store>, from: Seq, to: Seq) -> Vec<Applied> {
    let mut seen: Vec<Applied> = Vec::new();
    let mut last = from;
    while last < to {
        let batches = within(store.follow(last)).await.expect("they are kept");
        assert!(!batches.is_empty(), "a follower is told when there is something");
        for batch in batches {
            assert_eq!(batch.seq.0, last.0 + 1, "a follower sees each batch once, in order");
            last = batch.seq;
            seen.push(batch);
        }
    }
    seen
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("it takes too long")
}

async fn until(holds: impl AsyncFn() -> bool) {
    within(async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// One look at work in progress.
fn poll<F: Future + ?Sized>(work: &mut Pin<&mut F>) -> Option<F::Output> {
    match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    }
}
