//! Restores and retention: large work beside commits.

use super::*;

/// A whole backup of a store, put beside it.
async fn staged(store: &PostgresStore) -> store::backup::Staged {
    let (to, mut from) = tokio::sync::mpsc::channel(2);
    let pieces = async {
        let mut pieces = Vec::new();
        while let Some(piece) = from.recv().await {
            pieces.push(piece);
        }
        pieces
    };
    let (done, pieces) = tokio::join!(store.backup(store::backup::Extent::Everything, to), pieces);
    done.expect("it is taken");
    let (to, from) = tokio::sync::mpsc::channel(pieces.len().max(1));
    for piece in pieces {
        to.try_send(piece).expect("there is room");
    }
    drop(to);
    within(store.stage(from)).await.expect("it is whole")
}

/// Who reads everything as of one moment is not pulled the tables from under; the restore is refused, and done when asked
/// again. Nothing stays behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_gives_way_to_a_backup() {
    let Some(url) = postgresd::shared_or_skip("store-postgres") else { return };
    let options = options(&url);
    let store = open(&options);
    let term = lead(&store, "a").await;
    let next = term.seq.0 + 1;
    send(&store, term, next..next + 4).await.pop().expect("some").1.expect("it leads");
    let (reader, connection) = tokio_postgres::connect(&url, NoTls).await.expect("it is up");
    tokio::spawn(connection);
    let lock = format!("BEGIN; LOCK TABLE {}.live IN ACCESS SHARE MODE", options.schema);
    reader.batch_execute(&lock).await.expect("it can be read");
    let content = staged(&store).await;
    let refused = within(store.restore(term.epoch, Seq(next + 4), content, &[])).await;
    assert!(matches!(&refused, Err(StoreError::Unavailable(why)) if why.contains("lock")), "{refused:?}");
    send(&store, term, next + 4..next + 5).await.pop().expect("one").1.expect("it still leads");
    reader.batch_execute("COMMIT").await.expect("it was read");
    let content = staged(&store).await;
    within(store.restore(term.epoch, Seq(next + 5), content, &[])).await.expect("it leads");
    let (jobs, loaded) = batches_in(&store).await;
    assert_eq!((jobs, loaded.seq), ((next..next + 5).collect(), Seq(next + 5)));
    within(async {
        loop {
            let sql = format!(
                "SELECT relname FROM pg_class WHERE relnamespace = '{0}'::regnamespace AND relkind = 'r' AND relname LIKE \
                 'staged%' UNION SELECT proname FROM pg_proc WHERE pronamespace = '{0}'::regnamespace AND proname LIKE 'staged%'",
                options.schema
            );
            let left = admin(&url, &sql).await;
            if !left.iter().any(|message| matches!(message, tokio_postgres::SimpleQueryMessage::Row(_))) {
                return;
            }
        }
    })
    .await;
}

/// The server is at the end of a restore, and no answer comes: what is asked again waits for a lock in vain, which says
/// nothing of the first attempt. It is not refused and done all the same, and what is acknowledged after it is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_without_an_answer_is_not_refused() {
    let Some(url) = postgresd::shared_or_skip("store-postgres") else { return };
    let options = PostgresOptions { lease: Duration::from_secs(10), ..options(&url) };
    let store = open(&options);
    let term = lead(&store, "a").await;
    let next = term.seq.0 + 1;
    send(&store, term, next..next + 3).await.pop().expect("some").1.expect("it leads");
    let content = staged(&store).await;
    // From its record on, records are not numbered as in the backup; that alone makes the trigger fire.
    send(&store, term, next + 3..next + 4).await.pop().expect("one").1.expect("it leads");
    // At the end of the transaction, where no time limit holds; longer than an answer or a lock is waited for.
    let sql = format!(
        "CREATE FUNCTION {0}.slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(6); RETURN NULL; END $$; \
         CREATE CONSTRAINT TRIGGER slow AFTER UPDATE ON {0}.term DEFERRABLE INITIALLY DEFERRED FOR EACH ROW \
         WHEN (OLD.ids IS DISTINCT FROM NEW.ids) EXECUTE FUNCTION {0}.slow()",
        options.schema
    );
    admin(&url, &sql).await;
    // All of a lease is left.
    within(store.commit(term.epoch, Seq(next + 4), &[])).await.expect("it leads");
    let restored = within(store.restore(term.epoch, Seq(next + 5), content, &[])).await;
    // One job without a record, for which the trigger does not fire.
    let job = Arc::new(samples::job(next + 6));
    let acknowledged = within(store.commit(term.epoch, Seq(next + 6), &[Change::PutJob(job)])).await;
    let (State { jobs, .. }, loaded) = within(open(&options).load()).await.expect("it can be loaded");
    let jobs: Vec<u64> = jobs.keys().map(|JobUid(uid)| *uid).collect();
    match restored {
        Ok(()) => {
            acknowledged.expect("it still leads");
            assert_eq!((jobs, loaded.seq), ((next..next + 3).chain([next + 6]).collect(), Seq(next + 6)));
        }
        // On a machine that is so busy that the lease runs out first.
        Err(StoreError::Deposed(_)) => assert!(acknowledged.is_err(), "it leads no more"),
        Err(error) => panic!("it is done, and refused: {error}"),
    }
}

/// Records that come as fast as they are removed are left for the next time: it ends with what it has found.
#[tokio::test(flavor = "multi_thread")]
async fn retention_ends_while_records_come() {
    let Some(url) = postgresd::shared_or_skip("store-postgres") else { return };
    let options = options(&url);
    let store = open(&options);
    let term = lead(&store, "a").await;
    let ended = |slot| Arc::new(samples::ended(1, slot, scheduler::run::Outcome::Succeeded));
    let mut changes = vec![Change::PutJob(Arc::new(samples::job(1)))];
    changes.extend((0..12).map(|slot| Change::Append(ended(slot))));
    within(store.commit(term.epoch, Seq(term.seq.0 + 1), &changes)).await.expect("it leads");
    // For each statement that removes something, one more record of that job.
    let sql = format!(
        "CREATE FUNCTION {0}.more() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO {0}.history SELECT \
         id + 1000000, job, key, outcome, first_due, last_due, recorded, value FROM gone ORDER BY id LIMIT 1; RETURN NULL; \
         END $$; \
         CREATE TRIGGER more AFTER DELETE ON {0}.history REFERENCING OLD TABLE AS gone FOR EACH STATEMENT \
         EXECUTE FUNCTION {0}.more()",
        options.schema
    );
    admin(&url, &sql).await;
    let keep = store::Retention { count_max: 5, ..store::Retention::UNBOUNDED };
    assert_eq!(within(store.prune(keep, jiff::Timestamp::now())).await, Ok(7));
    let records =
        within(store.history(&store::HistoryQuery::default())).await.expect("it can be read").records;
    assert_eq!(records.len(), 6);
    let since = within(store.kept_since(JobUid(1))).await.expect("it can be read");
    assert!(since.is_some(), "what is left is not all there was");
}
