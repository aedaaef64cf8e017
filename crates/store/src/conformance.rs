//! What every store must do, as tests. Each function is one promise; [`conformance_tests`](crate::conformance_tests)
//! makes a test of each.
//!
//! A store is compared with [`MemoryCore`], to which the same batches are given. Nothing sleeps: what must happen is
//! waited for, at most [`PATIENCE`].

mod backups;
mod batches;
mod following;
mod history;
mod leading;

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

pub use backups::*;
pub use batches::*;
pub use following::*;
pub use history::*;
pub use leading::*;

/// How long anything may take before it counts as never; generous, as tests share their cores.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A fresh store that several nodes may use.
#[async_trait]
pub trait Backing: Send + Sync + 'static {
    /// A handle as another node has it.
    async fn node(&self) -> Arc<dyn Store>;

    /// Takes the right to lead from whoever has it, without telling: an expired lease, a lock that was deleted.
    async fn usurp(&self);

    /// How many courses of events a property is tried with. Few where each needs a store on a server.
    fn courses(&self) -> u64 {
        4
    }

    /// A handle that is to work on the store with this id and on no other. `None` where a store takes no such order: then the
    /// node asks for the id before it stands for election.
    async fn meant(&self, _id: &str) -> Option<Arc<dyn Store>> {
        None
    }

    /// Whether nothing has been made yet, where [`Backing::meant`] gives a handle.
    async fn is_empty(&self) -> bool {
        unreachable!("asked only where an order can be given")
    }
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
            late_records_of_forgotten_jobs_are_found
            a_backup_is_a_state_that_was a_restored_backup_is_equal a_backup_may_leave_the_history_out
            a_damaged_backup_is_refused only_the_leader_restores followers_of_another_past_load_again
            revisions_are_found_and_bounded revisions_of_deleted_jobs_go_with_retention
            the_audit_is_found the_audit_is_bounded the_present_is_told nodes_know_of_each_other
            only_the_store_that_is_meant_is_used
        );

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn a_backup_of_any_moment_is_restored_whole() {
            $crate::conformance::a_backup_of_any_moment_is_restored_whole(async || $made).await;
        }
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
