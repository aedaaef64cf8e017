//! What does not fit: quotas, batches larger than a request, histories that grow.

use scheduler::audit::{Act, Entry};
use scheduler::ids::JobUid;
use scheduler::revision::Deed;
use store::backup::{Extent, StageError, Staged};
use store::memory::{MemoryCore, MemoryStore};
use store::zookeeper::Limits;
use store::{AuditQuery, RevisionQuery};

use super::*;

/// A quota of the ensemble that is used up, by bytes or by records: what there is no room for waits, the term goes on, and so
/// does the election; it is said why, and all goes on by itself when the quota is raised.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_ensemble_loses_nothing() {
    for limit in ["byteHardLimit", "countHardLimit"] {
        let Some(options) = options() else { return };
        let raw = Client::connect(&options.hosts).await.expect("it runs");
        let quota = format!("/zookeeper/quota{}", options.path);
        let open_to_all = CreateMode::Persistent.with_acls(Acls::anyone_all());
        let limits = format!("count=-1,bytes=-1=;{limit}=0").into_bytes();
        let (store, other) = (node(&options), node(&options));
        let term = begin(&store, "a").await;
        // So that the number of the next one has one more digit than that of the last: the term record grows as well.
        let (last, _) = drive(store.clone(), term, 99 - term.seq.0).await;
        assert_eq!(last, Seq(99));
        raw.mkdir(&quota, &open_to_all).await.expect("it can be made");
        let set = format!("{quota}/zookeeper_limits");
        raw.create(&set, &limits, &open_to_all).await.expect("it can be made");
        let used = format!("{quota}/zookeeper_stats");
        raw.create(&used, b"count=0,bytes=0", &open_to_all).await.expect("it can be made");
        // Who leads the ensemble may apply it last, and is who refuses.
        let probe = format!("{}/probe", options.path);
        within(async {
            while raw.create(&probe, b"x", &open_to_all).await.is_ok() {
                raw.delete(&probe, None).await.expect("it is there");
            }
        })
        .await;
        let stuck = tokio::spawn(drive(store.clone(), Term { seq: last, ..term }, 20));
        let told = |store: &Arc<ZookeeperStore>| {
            store.trouble().is_some_and(|why| why.contains("quota") && why.contains(&options.path))
        };
        until(|| told(&store)).await;
        let (_, present) = within(store.load()).await.expect("reading needs no room");
        assert_eq!(present.seq, last);
        let waiting = tokio::spawn({
            let other = other.clone();
            async move { other.begin_term(&candidate("b")).await }
        });
        until(|| told(&other)).await;
        assert!(!stuck.is_finished() && !waiting.is_finished());
        raw.delete(&set, None).await.expect("it is there");
        let (reached, deposed) = within(stuck).await.expect("it runs");
        assert!(!deposed && reached == Seq(119), "{limit}: {reached:?}");
        until(|| store.trouble().is_none() && other.trouble().is_none()).await;
        audit(&options, term.seq, reached).await;
        raw.create(&set, &limits, &open_to_all).await.expect("it can be made");
        let stuck = tokio::spawn(drive(store.clone(), Term { seq: Seq(119), ..term }, 1000));
        until(|| told(&store)).await;
        within(store.resign()).await;
        let (reached, deposed) = within(stuck).await.expect("it runs");
        assert!(deposed, "{limit}: nobody waits for room to resign");
        audit(&options, term.seq, reached).await;
        raw.delete(&set, None).await.expect("it is there");
        let next = within(waiting).await.expect("it runs").expect("it leads");
        assert_eq!(next.seq.0, reached.0 + 1, "{limit}");
    }
}

/// A batch whose operations do not fit one request, though it is no larger than a batch may be, is applied all the
/// same; and one that is larger is refused, with nothing done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_a_request_goes_in_parts() {
    let Some(options) = options() else { return };
    let (store, other) = (node(&options), node(&options));
    let term = begin(&store, "a").await;
    let many = |of: fn(u64) -> Change| {
        let changes: Vec<Change> = (0..12_000).map(of).collect();
        assert!(format::write_batch(&changes).len() < store::BATCH_BYTES_MAX);
        changes
    };
    let mut seq = term.seq.0;
    let mut state = scheduler::state::State::default();
    for n in 0..24 {
        let runs: Vec<Change> =
            (n * 500..n * 500 + 500).map(|k| Change::PutRun(Arc::new(samples::run(1, k)))).collect();
        seq += 1;
        runs.iter().for_each(|change| state.apply(change));
        within(store.commit(term.epoch, Seq(seq), &runs)).await.expect("it leads");
    }
    let from = seq;
    let gone = many(|k| Change::RemoveRun(samples::slot(1, k)));
    let wide: Vec<Change> = (0..3).map(|n| Change::PutJob(Arc::new(samples::job(n + 1)))).collect();
    let (parts, beside) =
        (store.commit(term.epoch, Seq(seq + 1), &gone), store.commit(term.epoch, Seq(seq + 2), &wide));
    let (parts, beside) = within(async { tokio::join!(parts, beside) }).await;
    parts.expect("it leads");
    beside.expect("it leads");
    seq += 2;
    for change in gone.iter().chain(&wide) {
        state.apply(change);
    }
    for looker in [&store, &other] {
        let (mut found, at) = within(looker.load()).await.expect("it can be loaded");
        found.meta = state.meta.clone();
        assert_eq!((found, at), (state.clone(), Term { epoch: term.epoch, seq: Seq(seq) }));
    }
    let followed = within(other.follow(Seq(from))).await.expect("it is kept");
    assert_eq!(
        followed.iter().map(|batch| batch.changes.len()).collect::<Vec<_>>(),
        [gone.len(), wide.len()]
    );

    let mut large = samples::job(9);
    large.body = "x".repeat(store::BATCH_BYTES_MAX).into();
    let refused = within(store.commit(term.epoch, Seq(seq + 1), &[Change::PutJob(Arc::new(large))])).await;
    let reason = refused.expect_err("it is too large").reason;
    assert!(reason.contains("too large"), "{reason}");
    within(store.commit(term.epoch, Seq(seq + 1), &[])).await.expect("nothing was done, and it still leads");
}

/// Marks the last batch, which brought the store to `last`, as one that its leader had begun and not finished.
async fn leave_unfinished(raw: &Client, base: &str, last: Seq) {
    let path = format!("{base}/term");
    let (record, _) = raw.get_data(&path).await.expect("it is there");
    let mut record: serde_json::Value = serde_json::from_slice(&record).expect("it is JSON");
    assert_eq!(record["seq"], last.0, "it is not the last one");
    record["unfinished"] = last.0.into();
    raw.set_data(&path, record.to_string().as_bytes(), None).await.expect("it is there");
}

/// A leader that dies between the parts of a batch leaves it in the log alone: whoever loads has it all the same, and
/// the next leader finishes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_in_parts_is_finished_by_the_next_leader() {
    let Some(options) = options() else { return };
    let store = node(&options);
    let term = begin(&store, "a").await;
    let (last, _) = drive(store.clone(), term, 9).await;
    let whole = within(store.load()).await.expect("it can be loaded").0;
    within(store.resign()).await;
    // As if the last batch had only reached the log.
    let raw = Client::connect(&options.hosts).await.expect("it runs");
    let base = format!("{}/store", options.path);
    leave_unfinished(&raw, &base, last).await;
    let run = samples::slot(last.0 % 5 + 1, last.0).to_string();
    let mut removed = 0;
    for dir in raw.list_children(&format!("{base}/g1/runs")).await.expect("it is there") {
        let path = format!("{base}/g1/runs/{dir}/{run}");
        removed += usize::from(raw.delete(&path, None).await.is_ok());
    }
    assert_eq!(removed, 1);
    let other = node(&options);
    assert_eq!(within(other.load()).await.expect("it can be loaded").0, whole);
    let next = begin(&other, "b").await;
    within(other.commit(next.epoch, Seq(next.seq.0 + 1), &[])).await.expect("it leads");
    assert_eq!(within(other.load()).await.expect("it can be loaded").0, whole);
    let (record, _) = raw.get_data(&format!("{base}/term")).await.expect("it is there");
    assert!(!String::from_utf8_lossy(&record).contains("unfinished"), "it is not finished");
    let history = within(other.history(&HistoryQuery::default())).await.expect("it can be read").records;
    assert_eq!(history.len(), 9, "a record was written twice, or not at all");
}

/// The same for what such a batch removes, when the next leader has followed it: it knows the record to be gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_batch_in_parts_removes_goes_with_the_next_leader() {
    let Some(options) = options() else { return };
    let store = node(&options);
    let term = begin(&store, "a").await;
    let run = samples::run(1, 1);
    let change = Change::PutRun(Arc::new(run.clone()));
    within(store.commit(term.epoch, Seq(term.seq.0 + 1), &[change])).await.expect("it leads");
    let raw = Client::connect(&options.hosts).await.expect("it runs");
    let base = format!("{}/store", options.path);
    let dirs = raw.list_children(&format!("{base}/g1/runs")).await.expect("it is there");
    let path = format!("{base}/g1/runs/{}/{}", dirs[0], run.key);
    let (value, _) = raw.get_data(&path).await.expect("it is there");
    let gone = [Change::RemoveRun(run.key)];
    within(store.commit(term.epoch, Seq(term.seq.0 + 2), &gone)).await.expect("it leads");
    within(store.resign()).await;
    // As if that had only reached the log.
    leave_unfinished(&raw, &base, Seq(term.seq.0 + 2)).await;
    let open = CreateMode::Persistent.with_acls(Acls::anyone_all());
    raw.create(&path, &value, &open).await.expect("it is not there");
    let (other, third) = (node(&options), node(&options));
    assert!(within(other.load()).await.expect("it can be loaded").0.runs.is_empty());
    let next = begin(&other, "b").await;
    within(other.commit(next.epoch, Seq(next.seq.0 + 1), &[])).await.expect("it leads");
    assert!(within(third.load()).await.expect("it can be loaded").0.runs.is_empty(), "it has come back");
}

/// And for what it puts: whoever has followed it knows that to be there. What is there decides, its directory included.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_batch_in_parts_puts_comes_with_the_next_leader() {
    let Some(options) = options() else { return };
    let store = node(&options);
    let term = begin(&store, "a").await;
    let run = samples::run(1, 1);
    let revision = samples::revision(7, 1, Deed::Created);
    let changes = [Change::PutRun(Arc::new(run.clone())), Change::Revise(Arc::new(revision.clone()))];
    within(store.commit(term.epoch, Seq(term.seq.0 + 1), &changes)).await.expect("it leads");
    let (other, third) = (node(&options), node(&options));
    let (whole, _) = within(other.load()).await.expect("it can be loaded");
    within(store.resign()).await;
    // As if the revision alone had got beyond the log.
    let raw = Client::connect(&options.hosts).await.expect("it runs");
    let base = format!("{}/store", options.path);
    leave_unfinished(&raw, &base, Seq(term.seq.0 + 1)).await;
    let dirs = raw.list_children(&format!("{base}/g1/runs")).await.expect("it is there");
    let dir = format!("{base}/g1/runs/{}", dirs[0]);
    raw.delete(&format!("{dir}/{}", run.key), None).await.expect("it is there");
    raw.delete(&dir, None).await.expect("it is empty");
    let next = begin(&other, "b").await;
    within(other.commit(next.epoch, Seq(next.seq.0 + 1), &[])).await.expect("it leads");
    assert_eq!(within(third.load()).await.expect("it can be loaded").0, whole);
    let query = RevisionQuery { job: Some(JobUid(7)), ..RevisionQuery::default() };
    let found = within(third.revisions(&query)).await.expect("they can be read").revisions;
    assert_eq!(found, [revision]);
}

/// Without retention's help, in the course of commits: of each job the last ones stay, and it is known since when.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_is_bounded_while_it_is_written() {
    let Some(options) = options() else { return };
    let store = node(&Options { history_per_job: 20, ..options });
    let term = begin(&store, "a").await;
    // What was there before is known when retention has had its turn.
    within(store.prune(Retention::UNBOUNDED, samples::at(0))).await.expect("it leads");
    for n in 0..100 {
        let changes: Vec<Change> =
            (1..=3).map(|uid| Change::Append(Arc::new(samples::ended(uid, n, Outcome::Succeeded)))).collect();
        within(store.commit(term.epoch, Seq(term.seq.0 + 1 + n), &changes)).await.expect("it leads");
    }
    for uid in 1..=3 {
        let query =
            HistoryQuery { job: Some(scheduler::ids::JobUid(uid)), limit: 1000, ..HistoryQuery::default() };
        let found = within(store.history(&query)).await.expect("it can be read").records;
        assert!((20..=30).contains(&found.len()), "{} records of job {uid}", found.len());
        let newest: Vec<_> =
            (0..100).rev().take(found.len()).map(|n| samples::ended(uid, n, Outcome::Succeeded)).collect();
        assert_eq!(found, newest);
        let since = within(store.kept_since(scheduler::ids::JobUid(uid))).await.expect("it can be read");
        let last_gone =
            store::Facts::of(&samples::ended(uid, 99 - found.len() as u64, Outcome::Succeeded)).last_due;
        assert_eq!(since, Some(last_gone.checked_add(Duration::from_millis(1)).expect("a time")));
    }
}

/// What a new leader cannot list keeps no commit waiting, only what removes some of it; and that goes on by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_that_cannot_be_listed_holds_up_its_bounds_alone() {
    let Some(options) = options() else { return };
    let store = node(&options);
    let term = begin(&store, "a").await;
    let (last, _) = drive(store.clone(), term, 20).await;
    within(store.resign()).await;
    let raw = Client::connect(&options.hosts).await.expect("it runs");
    let base = format!("{}/store/g1/history", options.path);
    let dirs = raw.list_children(&base).await.expect("it is there");
    let allow = async |what: Permission| {
        for dir in &dirs {
            let acl = [Acl::new(what, AuthId::anyone())];
            raw.set_acl(&format!("{base}/{dir}"), &acl, None).await.expect("it is there");
        }
    };
    allow(Permission::WRITE | Permission::CREATE | Permission::DELETE | Permission::ADMIN).await;
    let next = node(&Options { history_per_job: 2, ..options.clone() });
    let term = begin(&next, "b").await;
    let pruning = tokio::spawn({
        let next = next.clone();
        async move { next.prune(Retention::UNBOUNDED, samples::at(0)).await }
    });
    let (reached, deposed) = drive(next.clone(), term, 20).await;
    assert_eq!(
        (reached, deposed),
        (Seq(term.seq.0 + 20), false),
        "it waits for the history, from {last:?} on"
    );
    assert!(!pruning.is_finished(), "it removes what it does not know");
    allow(Permission::ALL).await;
    let removed = within(pruning).await.expect("it runs").expect("it leads");
    assert!(removed > 0, "all of it went with commits");
    let query = HistoryQuery { limit: 1000, ..HistoryQuery::default() };
    let found = within(next.history(&query)).await.expect("it can be read").records;
    assert_eq!(found.len(), 5 * 2, "two of each job");
}

/// Limits that are soon reached.
fn limited(options: Options, limits: Limits) -> Options {
    Options { limits, ..options }
}

/// A store that holds what it is meant for says so to whoever asks whether there is room, and takes what is committed all the
/// same; and says no more when something has gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_store_says_so_and_loses_nothing() {
    let large = |uid: u64| {
        let mut job = samples::job(uid);
        job.body = "x".repeat(300 * 1024).into();
        Change::PutJob(Arc::new(job))
    };
    let small = |uid: u64| Change::PutJob(Arc::new(samples::job(uid)));
    type Put = fn(u64) -> Change;
    let cases: [(Limits, Put, u64, &str); 2] = [
        (Limits { jobs: 3, ..Limits::default() }, small, 3, "holds 3 jobs, and is meant for 3 at most"),
        (Limits { bytes: 1 << 20, ..Limits::default() }, large, 4, "holds 1 MiB, and is meant for 1 MiB"),
    ];
    for (limits, put, fill, said) in cases {
        let Some(options) = options() else { return };
        let options = limited(options, limits);
        let store = node(&options);
        let term = begin(&store, "a").await;
        let mut seq = term.seq.0;
        let mut commit = async |change: Change| {
            seq += 1;
            within(store.commit(term.epoch, Seq(seq), &[change])).await.expect("it leads");
        };
        for uid in 1..fill {
            commit(put(uid)).await;
        }
        assert_eq!(store.full(), None);
        commit(put(fill)).await;
        let why = store.full().expect("there is no more room");
        assert!(why.contains(said) && why.contains("PostgreSQL"), "{why}");
        commit(put(fill + 1)).await;
        // Whoever leads next knows it from the beginning.
        let next = node(&options);
        within(next.load()).await.expect("it can be loaded");
        within(store.resign()).await;
        let term = begin(&next, "b").await;
        assert!(next.full().is_some(), "a new leader does not know");
        for (seq, uid) in (term.seq.0 + 1..).zip(1..=2) {
            let gone = [Change::RemoveJob(JobUid(uid))];
            within(next.commit(term.epoch, Seq(seq), &gone)).await.expect("it leads");
        }
        assert_eq!(next.full(), None, "{said}");
        assert_eq!(within(next.load()).await.expect("it can be loaded").0.jobs.len() as u64, fill - 1);
    }
}

/// The more jobs there are, the less of its history each keeps: what is too much goes as they write, and by retention where
/// they do not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_history_of_all_is_bounded_as_jobs_come() {
    let Some(options) = options() else { return };
    let store = node(&limited(options, Limits { history: 40, ..Limits::default() }));
    let term = begin(&store, "a").await;
    within(store.prune(Retention::UNBOUNDED, samples::at(0))).await.expect("it leads");
    let mut seq = term.seq.0;
    let mut commit = async |changes: Vec<Change>| {
        seq += 1;
        within(store.commit(term.epoch, Seq(seq), &changes)).await.expect("it leads");
    };
    let append = |uid, n| Change::Append(Arc::new(samples::ended(uid, n, Outcome::Succeeded)));
    let put = |uid| Change::PutJob(Arc::new(samples::job(uid)));
    let held = async |uid| {
        let query = HistoryQuery { job: Some(JobUid(uid)), limit: 1000, ..HistoryQuery::default() };
        within(store.history(&query)).await.expect("it can be read").records
    };
    let newest = |uid, end: u64, count: u64| -> Vec<_> {
        (0..end).rev().take(count as usize).map(|n| samples::ended(uid, n, Outcome::Succeeded)).collect()
    };
    commit(vec![put(1), put(2)]).await;
    for n in 0..20 {
        commit(vec![append(1, n), append(2, n)]).await;
    }
    for uid in [1, 2] {
        assert_eq!(held(uid).await, newest(uid, 20, 20), "20 for each of two");
        assert_eq!(within(store.kept_since(JobUid(uid))).await, Ok(None));
    }
    // Of eight each keeps five, and half as many again for a while. Job 2 writes nothing more.
    commit((3..=8).map(put).collect()).await;
    for n in 20..30 {
        commit(vec![append(1, n)]).await;
    }
    let left = held(1).await;
    assert!((5..=8).contains(&left.len()), "{} of job 1", left.len());
    assert_eq!(left, newest(1, 30, left.len() as u64));
    assert_eq!(held(2).await.len(), 20, "nobody has asked for job 2");
    // Retention goes by the jobs that have a history.
    commit((3..=8).map(|uid| append(uid, 0)).collect()).await;
    within(store.prune(Retention::UNBOUNDED, samples::at(0))).await.expect("it leads");
    for uid in [1, 2] {
        assert_eq!(held(uid).await, newest(uid, if uid == 1 { 30 } else { 20 }, 5));
    }
    let last_gone = store::Facts::of(&samples::ended(2, 14, Outcome::Succeeded)).last_due;
    let since = last_gone.checked_add(Duration::from_millis(1)).expect("a time");
    assert_eq!(within(store.kept_since(JobUid(2))).await, Ok(Some(since)));
}

/// A backup of a store that keeps more, of jobs with these numbers of records; of those with most the oldest is gone there too.
async fn backup_of(jobs: &[(u64, u64)], more: impl Iterator<Item = Change>) -> Vec<u8> {
    let mut core = MemoryCore::new(1);
    let term = core.begin_term();
    let put = jobs.iter().map(|(uid, _)| Change::PutJob(Arc::new(samples::job(*uid))));
    let records = jobs.iter().flat_map(|(uid, count)| (0..*count).map(|n| (*uid, n)));
    let records =
        records.map(|(uid, n)| Change::Append(Arc::new(samples::ended(uid, n, Outcome::Succeeded))));
    let changes: Vec<Change> = put.chain(more).chain(records).collect();
    core.commit(term.epoch, Seq(term.seq.0 + 1), &changes).expect("it is the next");
    let most = jobs.iter().map(|(_, count)| *count).max().unwrap_or_default();
    core.prune(Retention { count_max: most.saturating_sub(1), ..Retention::UNBOUNDED }, samples::at(0));
    let (to, mut from) = tokio::sync::mpsc::channel(64);
    let other = MemoryStore::new(core);
    let reading = async {
        let mut bytes = Vec::new();
        while let Some(piece) = from.recv().await {
            bytes.extend(piece);
        }
        bytes
    };
    let (taken, bytes) = within(async { tokio::join!(other.backup(Extent::Everything, to), reading) }).await;
    taken.expect("it is taken");
    bytes
}

async fn stage(store: &ZookeeperStore, backup: Vec<u8>) -> Result<Staged, StageError> {
    let (to, from) = tokio::sync::mpsc::channel(1);
    let sending = async move {
        for piece in backup.chunks(64 * 1024) {
            if to.send(piece.to_vec()).await.is_err() {
                return;
            }
        }
    };
    within(async { tokio::join!(store.stage(from), sending) }).await.0
}

/// What comes from a store that keeps more of the past is cut to what this one keeps: the newest of each job and of the audit,
/// and it is known since when the rest is whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_with_more_of_the_past_is_restored_without_it() {
    let Some(options) = options() else { return };
    let limits = Limits { history: 90, ..Limits::default() };
    let options = Options { history_per_job: 40, audit_max: 5, ..limited(options, limits) };
    let store = node(&options);
    let term = begin(&store, "a").await;
    let entry = |n| -> Entry { samples::entry(1, n, "ops", Act::Killed { run: None, runs: 1 }) };
    let notes = (0..12).map(|n| Change::Note(Arc::new(entry(n))));
    // So many that those of the first job are left out while the second's are read.
    let backup = backup_of(&[(1, 12_000), (2, 12_000), (3, 29)], notes).await;
    let staged = stage(&store, backup).await.expect("it fits");
    assert_eq!(staged.records, 30 + 30 + 29);
    let seq = Seq(term.seq.0 + 1);
    within(store.restore(term.epoch, seq, staged, &[])).await.expect("it leads");
    let looker = node(&options);
    for (uid, was, kept) in [(1, 12_000, 30), (2, 12_000, 30), (3, 29, 29)] {
        let query = HistoryQuery { job: Some(JobUid(uid)), limit: 1000, ..HistoryQuery::default() };
        let found = within(looker.history(&query)).await.expect("it can be read").records;
        let newest = (was - kept..was).rev().map(|n| samples::ended(uid, n, Outcome::Succeeded));
        assert_eq!(found, newest.collect::<Vec<_>>(), "job {uid}");
        let last_gone = (was > kept)
            .then(|| store::Facts::of(&samples::ended(uid, was - kept - 1, Outcome::Succeeded)).last_due);
        let since = last_gone.map(|due| due.checked_add(Duration::from_millis(1)).expect("a time"));
        assert_eq!(within(looker.kept_since(JobUid(uid))).await, Ok(since), "job {uid}");
    }
    let query = AuditQuery { limit: 1000, ..AuditQuery::default() };
    let audit = within(looker.audit(&query)).await.expect("it can be read").entries;
    assert_eq!(audit, (7..12).rev().map(entry).collect::<Vec<_>>());
    assert_eq!(store.full(), None);
}

/// What the store is not meant for is refused before anything is touched, and it is said what to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_is_too_large_is_refused() {
    let Some(options) = options() else { return };
    let refused = async |limits: Limits, backup: Vec<u8>| {
        let store = node(&limited(options.clone(), limits));
        match stage(&store, backup).await {
            Err(StageError::Store(StoreError::TooLarge(why))) => why,
            other => panic!("{other:?}"),
        }
    };
    let few = || backup_of(&[(1, 10), (2, 10), (3, 10)], std::iter::empty());
    let why = refused(Limits { jobs: 2, ..Limits::default() }, few().await).await;
    assert!(why.contains("3 jobs") && why.contains("2 at most") && why.contains("PostgreSQL"), "{why}");
    // By what its jobs take, or by their history.
    let large = || {
        (11..15).map(|uid| {
            let mut job = samples::job(uid);
            job.body = "x".repeat(300 * 1024).into();
            Change::PutJob(Arc::new(job))
        })
    };
    let one_mib = Limits { bytes: 1 << 20, ..Limits::default() };
    for backup in [backup_of(&[], large()).await, backup_of(&[(1, 3000)], std::iter::empty()).await] {
        let why = refused(one_mib, backup).await;
        assert!(why.contains("1 MiB") && why.contains("--no_history"), "{why}");
    }
    for limits in [Limits { jobs: 3, ..Limits::default() }, one_mib] {
        stage(&node(&limited(options.clone(), limits)), few().await).await.expect("it fits");
    }
}
