//! The projection is always what its batches make it, and those who wait for a batch are told.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use scheduler::ids::{Epoch, JobName, JobUid, Seq};
use scheduler::job::Plan;
use scheduler::run::Outcome;
use scheduler::state::{Change, State};
use store::projection::{OutOfOrder, Projection, ProjectionHandle};
use store::{Applied, LastRun, OutcomeKind, Term, samples};

fn batch(seq: u64, changes: Vec<Change>) -> Arc<Applied> {
    Arc::new(Applied { seq: Seq(seq), epoch: Epoch(1), changes })
}

fn empty() -> Projection {
    Projection::new(State::default(), Term { epoch: Epoch(1), seq: Seq(0) })
}

fn put(uid: u64, plan: Option<Plan>) -> Change {
    let mut job = samples::job(uid);
    job.plan = plan.unwrap_or(job.plan);
    Change::PutJob(Arc::new(job))
}

fn append(uid: u64, k: u64, outcome: Outcome) -> Change {
    Change::Append(Arc::new(samples::ended(uid, k, outcome)))
}

#[test]
fn jobs_are_found_by_name_and_parent() {
    let mut projection = empty();
    let child = |parents: &[u64]| Some(Plan::Parents(parents.iter().copied().map(JobUid).collect()));
    let changes = vec![put(3, child(&[1, 2])), put(1, None), put(2, None), put(10, child(&[1]))];
    projection.apply(&batch(1, changes)).expect("it is the next");
    let names = |after: Option<&JobName>| -> Vec<String> {
        projection.jobs_after(after).map(|job| job.name.to_string()).collect()
    };
    assert_eq!(names(None), ["job-1", "job-10", "job-2", "job-3"]);
    assert_eq!(names(Some(&samples::name(10))), ["job-2", "job-3"]);
    assert_eq!(projection.children(JobUid(1)).collect::<Vec<_>>(), [JobUid(3), JobUid(10)]);
    projection
        .apply(&batch(2, vec![put(3, child(&[2])), Change::RemoveJob(JobUid(10))]))
        .expect("it is the next");
    assert_eq!(projection.children(JobUid(1)).count(), 0);
    assert_eq!(projection.children(JobUid(2)).collect::<Vec<_>>(), [JobUid(3)]);
    assert!(projection.job(&samples::name(10)).is_none());
    assert_eq!(projection.job(&samples::name(3)).map(|job| job.uid), Some(JobUid(3)));
}

#[test]
fn a_name_that_passes_to_another_job_is_the_others() {
    let mut projection = empty();
    let mut heir = samples::job(2);
    heir.name = samples::name(1);
    let heir = Change::PutJob(Arc::new(heir));
    projection
        .apply(&batch(1, vec![put(1, None), heir, Change::RemoveJob(JobUid(1))]))
        .expect("it is the next");
    assert_eq!(projection.job(&samples::name(1)).map(|job| job.uid), Some(JobUid(2)));
}

#[test]
fn the_last_run_is_the_newest_known() {
    let mut projection = empty();
    let last = |uid, k, outcome| LastRun {
        key: samples::slot(uid, k),
        outcome,
        ended: samples::at(k as i64 * 1000 + 500),
    };
    let changes =
        vec![put(1, None), put(2, None), append(1, 5, Outcome::Failed), append(9, 1, Outcome::Failed)];
    projection.apply(&batch(1, changes)).expect("it is the next");
    // What is asked of the history late does not replace what has happened since.
    let old =
        [last(1, 4, OutcomeKind::Succeeded), last(2, 3, OutcomeKind::Lost), last(9, 1, OutcomeKind::Failed)];
    projection.learn(old.to_vec());
    assert_eq!(projection.last_run(JobUid(1)), Some(&last(1, 5, OutcomeKind::Failed)));
    assert_eq!(projection.last_run(JobUid(2)), Some(&old[1]));
    assert_eq!(projection.last_run(JobUid(9)), None, "a deleted job is remembered");
    projection.apply(&batch(2, vec![Change::RemoveJob(JobUid(1))])).expect("it is the next");
    assert_eq!(projection.last_run(JobUid(1)), None);
}

#[test]
fn batches_come_in_order() {
    let mut projection = empty();
    projection.apply(&batch(1, vec![put(1, None)])).expect("it is the next");
    let before = projection.clone();
    projection.apply(&batch(1, vec![put(2, None)])).expect("it was applied");
    assert_eq!(projection.apply(&batch(3, vec![put(3, None)])), Err(OutOfOrder { came: Seq(3), at: Seq(1) }));
    assert_eq!(projection, before);
}

#[tokio::test]
async fn readers_wait_for_a_batch_and_listeners_get_each() {
    let handle = ProjectionHandle::new(empty());
    let mut events = handle.events();
    let reader = handle.clone();
    let waiting = tokio::spawn(async move { reader.wait_for(Seq(2), Duration::from_secs(60)).await });
    let (one, two) = (batch(1, vec![put(1, None)]), batch(2, vec![put(2, None)]));
    for applied in [&one, &one, &two] {
        handle.apply(applied).expect("it is the next");
    }
    assert!(waiting.await.expect("no panic"));
    assert_eq!(handle.read().state().jobs.len(), 2);
    assert_eq!((events.recv().await, events.recv().await), (Ok(one), Ok(two)));
    assert!(events.try_recv().is_err());
    assert!(!handle.wait_for(Seq(3), Duration::ZERO).await);
    handle.replace(Projection::new(State::default(), Term { epoch: Epoch(2), seq: Seq(9) }));
    assert!(handle.wait_for(Seq(3), Duration::ZERO).await);
    assert_eq!(handle.seq(), Seq(9));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Going on batch by batch leads to the same as starting from the state that they make.
    #[test]
    fn indices_follow_from_the_state(batches in samples::any_batches()) {
        let mut projection = empty();
        for (seq, changes) in (1..).zip(batches) {
            projection.apply(&batch(seq, changes)).expect("it is the next");
        }
        let anew = Projection::new(projection.state().clone(), projection.term());
        prop_assert!(projection.jobs_after(None).eq(anew.jobs_after(None)));
        for uid in (0..100).map(JobUid) {
            prop_assert!(projection.children(uid).eq(anew.children(uid)));
        }
    }
}
