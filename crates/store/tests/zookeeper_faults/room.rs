//! What does not fit: quotas, batches larger than a request, histories that grow.

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
    let (record, _) = raw.get_data(&format!("{base}/term")).await.expect("it is there");
    let mut record: serde_json::Value = serde_json::from_slice(&record).expect("it is JSON");
    assert_eq!(record["seq"], last.0);
    record["unfinished"] = last.0.into();
    raw.set_data(&format!("{base}/term"), record.to_string().as_bytes(), None).await.expect("it is there");
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
    let (record, _) = raw.get_data(&format!("{base}/term")).await.expect("it is there");
    let mut record: serde_json::Value = serde_json::from_slice(&record).expect("it is JSON");
    record["unfinished"] = (term.seq.0 + 2).into();
    raw.set_data(&format!("{base}/term"), record.to_string().as_bytes(), None).await.expect("it is there");
    let open = CreateMode::Persistent.with_acls(Acls::anyone_all());
    raw.create(&path, &value, &open).await.expect("it is not there");
    let (other, third) = (node(&options), node(&options));
    assert!(within(other.load()).await.expect("it can be loaded").0.runs.is_empty());
    let next = begin(&other, "b").await;
    within(other.commit(next.epoch, Seq(next.seq.0 + 1), &[])).await.expect("it leads");
    assert!(within(third.load()).await.expect("it can be loaded").0.runs.is_empty(), "it has come back");
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
