//! History, revisions and audit: found, and bounded.

use super::*;

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
    // However many were deleted since the last time.
    let passing: Vec<u64> = (1001..=1600).collect();
    for some in passing.chunks(300) {
        leader.commit(&some.iter().map(|uid| put(*uid)).collect::<Vec<_>>()).await;
        leader.append(some.iter().map(|uid| ended(*uid, 1, Outcome::Succeeded))).await;
        leader.commit(&some.iter().map(|uid| Change::RemoveJob(JobUid(*uid))).collect::<Vec<_>>()).await;
    }
    within(leader.store.prune(retention, at(0))).await.expect("this node leads");
    leader.model.prune(retention, at(0));
    for job in passing.into_iter().map(JobUid) {
        let since = within(leader.store.kept_since(job)).await.expect("it can be read");
        assert_eq!((since, leader.model.kept_since(job)), (None, None), "{job}");
    }
}

/// A task may outlive its job and everything that was kept of it: what comes late is found as ever.
pub async fn late_records_of_forgotten_jobs_are_found(backing: &impl Backing) {
    let mut leader = Leader::of(backing).await;
    leader.commit(&[put(1), put(2)]).await;
    leader.append((0..4).map(|n| ended(n % 2 + 1, n, Outcome::Succeeded))).await;
    leader.commit(&[Change::RemoveJob(JobUid(1))]).await;
    let retention = Retention { age_max: Duration::ZERO, count_max: 0, ..Retention::UNBOUNDED };
    within(leader.store.prune(retention, at(0))).await.expect("this node leads");
    leader.model.prune(retention, at(0));
    leader.append([ended(1, 9, Outcome::Failed), ended(2, 9, Outcome::Succeeded)]).await;
    for uid in [1, 2] {
        let (job, name) = (Some(JobUid(uid)), Some(crate::samples::name(uid).to_string()));
        let all = HistoryQuery::default();
        leader.check_history(&HistoryQuery { job, ..all.clone() }).await;
        leader.check_history(&HistoryQuery { name: name.clone(), ..all.clone() }).await;
        leader.check_history(&HistoryQuery { job, name, ..all }).await;
        let since = within(leader.store.kept_since(JobUid(uid))).await.expect("it can be read");
        assert_eq!(since, leader.model.kept_since(JobUid(uid)), "job {uid}");
    }
    let last = within(leader.store.last_runs()).await.expect("they can be read");
    assert!(last.iter().any(|last| last.key.job == JobUid(1)), "{last:?}");
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
        let (run, lost, end) = (slot(1, n.into()), at(0), scheduler::run::AttemptEnd::Succeeded);
        let act = match n % 8 {
            0 | 4 => Act::Defined { deed: Deed::Replaced, version: n },
            1 | 5 => Act::Triggered { run },
            2 | 6 => Act::NodeForgotten { node: format!("node-{n}").into(), runs: n.into() },
            3 => Act::HeardLate { run, attempt: n, node: "node".into(), lost, end },
            _ => Act::Killed { run: None, runs: n.into() },
        };
        // Clocks go back.
        let second = if n % 9 == 8 { n - 8 } else { n };
        let mut entry = entry(u64::from(n % 5), second.into(), by, act);
        if n % 7 == 0 || matches!(entry.act, Act::NodeForgotten { .. }) {
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
            AuditQuery { acts: vec!["forgotNode"], ..all.clone() },
            AuditQuery { acts: vec!["heardLate"], ..all.clone() },
            times.clone(),
            AuditQuery { from: None, ..times.clone() },
            AuditQuery { to: None, acts: vec!["killed"], ..times.clone() },
            AuditQuery { name: job.clone(), by: Some("dev".into()), acts: vec!["killed"], ..times.clone() },
        ] {
            for order in [HistoryOrder::NewestFirst, HistoryOrder::OldestFirst] {
                leader.check_audit(&AuditQuery { limit, order, ..query.clone() }).await;
            }
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
