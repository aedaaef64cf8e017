//! PostgreSQL under bad conditions: lost answers, restarts, silence, a pooler in between, settings that would lose data.
#![cfg(feature = "postgres")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use scheduler::ids::{JobUid, Seq};
use scheduler::state::{Change, State};
use store::conformance::PATIENCE;
use store::postgres::{OptionsError, PostgresOptions, PostgresStore};
use store::{Candidate, Deposed, Store, StoreError, Term, samples};
use tokio::time::timeout;
use tokio_postgres::NoTls;

#[path = "../testing/mount.rs"]
mod mount;
#[path = "../testing/postgresd.rs"]
mod postgresd;
#[path = "../testing/proxy.rs"]
mod proxy;

use postgresd::{Postgresd, skip};
use proxy::{Cut, Proxy};

/// The shortest there is: tests wait for it to run out.
const LEASE: Duration = store::postgres::LEASE_MIN;
/// Where none is to run out, however busy the machine is.
const LONG: Duration = Duration::from_secs(60);

fn options(url: &str) -> PostgresOptions {
    static SCHEMAS: AtomicU32 = AtomicU32::new(0);
    let schema = format!("faults_{}", SCHEMAS.fetch_add(1, Ordering::Relaxed));
    PostgresOptions { schema, lease: LONG, ..PostgresOptions::new(url) }
}

/// With a lease that runs out.
fn short_options(url: &str) -> PostgresOptions {
    PostgresOptions { lease: LEASE, ..options(url) }
}

/// The same store by another way.
fn by(url: &str, options: &PostgresOptions) -> PostgresOptions {
    PostgresOptions { url: url.into(), ..options.clone() }
}

fn open(options: &PostgresOptions) -> Arc<PostgresStore> {
    Arc::new(store::postgres::open(options).expect("good options"))
}

/// What the server says to its administrator.
async fn admin(url: &str, sql: &str) -> Vec<tokio_postgres::SimpleQueryMessage> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("it is up");
    tokio::spawn(connection);
    client.simple_query(sql).await.expect("it can be done")
}

fn candidate(node: &str) -> Candidate {
    Candidate { node: node.into(), addresses: Vec::new(), pid: std::process::id(), version: "0.1.0".into() }
}

async fn lead(store: &PostgresStore, node: &str) -> Term {
    within(store.begin_term(&candidate(node))).await.expect("it leads in the end")
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.expect("it takes too long")
}

/// How long this process was kept from running, as a thread sees it that does nothing but sleep: no time of ours.
struct Stalls {
    lost: Arc<AtomicU64>,
}

impl Stalls {
    fn watched() -> Self {
        const NAP: Duration = Duration::from_millis(10);
        let lost = Arc::new(AtomicU64::new(0));
        let is_watched = Arc::downgrade(&lost);
        std::thread::spawn(move || {
            let mut woke = Instant::now();
            while let Some(lost) = is_watched.upgrade() {
                std::thread::sleep(NAP);
                let late = woke.elapsed().saturating_sub(NAP);
                woke = Instant::now();
                if late > 5 * NAP {
                    lost.fetch_add(u64::try_from(late.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
                }
            }
        });
        Self { lost }
    }

    fn so_far(&self) -> Duration {
        Duration::from_millis(self.lost.load(Ordering::Relaxed))
    }
}

/// A batch that follows from its number, and of which it shows if it was made twice or not at all.
fn batch_of(seq: Seq) -> Vec<Change> {
    let outcome = scheduler::run::Outcome::Succeeded;
    vec![
        Change::PutJob(Arc::new(samples::job(seq.0))),
        Change::Append(Arc::new(samples::ended(seq.0, seq.0, outcome))),
    ]
}

/// The jobs of `batch_of` that are there: one for each batch that was applied, without a hole, and as many records.
async fn batches_in(store: &PostgresStore) -> (Vec<u64>, Term) {
    let (State { jobs, .. }, term) = within(store.load()).await.expect("it can be loaded");
    let jobs: Vec<u64> = jobs.keys().map(|JobUid(uid)| *uid).collect();
    let query =
        store::HistoryQuery { limit: 1000, order: store::HistoryOrder::OldestFirst, ..Default::default() };
    let records = within(store.history(&query)).await.expect("it can be read").records;
    let recorded: Vec<u64> = records.iter().map(|record| store::Facts::of(record).job.0).collect();
    assert_eq!(recorded, jobs, "a record came twice or not at all");
    (jobs, term)
}

/// Sends batches at once, as a driver does, and says which were applied.
async fn send(
    store: &Arc<PostgresStore>,
    term: Term,
    numbers: std::ops::Range<u64>,
) -> Vec<(u64, Result<(), Deposed>)> {
    let mut calls = tokio::task::JoinSet::new();
    for seq in numbers {
        let store = store.clone();
        calls.spawn(async move { (seq, store.commit(term.epoch, Seq(seq), &batch_of(Seq(seq))).await) });
    }
    let mut answers = within(calls.join_all()).await;
    answers.sort_by_key(|(seq, _)| *seq);
    answers
}

/// The server has done it, and nobody hears of it: it is done once.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_is_asked_for_again() {
    let Some(url) = postgresd::shared_or_skip("store-postgres") else { return };
    is_done_once(&url, &url, Cut::Answer).await;
}

/// It never came: it is sent again, and what came after it does not overtake it.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_lost_leaves_no_hole() {
    let Some(url) = postgresd::shared_or_skip("store-postgres") else { return };
    is_done_once(&url, &url, Cut::Question).await;
}

/// A pooler does to the end what a client has begun that is gone.
#[tokio::test(flavor = "multi_thread")]
async fn neither_is_lost_or_done_twice_through_a_pooler() {
    let mut server = match Postgresd::start() {
        Ok(server) => server,
        Err(reason) => return skip("store-postgres", &reason),
    };
    let pooler = match server.order("pooler") {
        Ok(answer) => answer.strip_prefix("listening ").expect("it says where").to_owned(),
        Err(reason) => return skip("store-postgres-pooler", &reason),
    };
    for cut in [Cut::Answer, Cut::Question] {
        is_done_once(&pooler, server.url(), cut).await;
    }
}

/// Batches that are sent to `through`, of which some are cut; looked at where nothing is in between.
async fn is_done_once(through: &str, url: &str, cut: Cut) {
    let proxy = Proxy::before(through).await;
    let options = options(&proxy.url);
    let store = open(&options);
    let term = lead(&store, "a").await;
    for round in 0..5 {
        let first = term.seq.0 + 1 + round * 8;
        proxy.cut_next(cut);
        for (seq, answer) in send(&store, term, first..first + 8).await {
            answer.unwrap_or_else(|error| panic!("batch {seq}: {error}"));
        }
        assert_eq!(proxy.cuts(), round + 1, "nothing was cut");
    }
    let (jobs, loaded) = batches_in(&open(&by(url, &options))).await;
    assert_eq!(jobs, (term.seq.0 + 1..=term.seq.0 + 40).collect::<Vec<_>>());
    assert_eq!(loaded, Term { epoch: term.epoch, seq: Seq(term.seq.0 + 40) });
}

/// What was sent, held up on its way, and comes when another leads, changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_comes_late_changes_nothing() {
    let Some(url) = postgresd::shared_or_skip("store-postgres") else { return };
    let proxy = Proxy::before(&url).await;
    let options = short_options(&proxy.url);
    let store = open(&options);
    let term = lead(&store, "a").await;
    let first = term.seq.0 + 1;
    send(&store, term, first..first + 1).await.pop().expect("one").1.expect("it leads");
    proxy.hold();
    let (begun, stalls) = (Instant::now(), Stalls::watched());
    let (held, gone) =
        tokio::join!(send(&store, term, first + 1..first + 4), within(store.deposed(term.epoch)));
    let believed = begun.elapsed().saturating_sub(stalls.so_far());
    assert!(held.iter().all(|(_, answer)| answer.is_err()), "{held:?}");
    assert!(believed < LEASE + Duration::from_secs(2), "it believed for {believed:?}");
    assert!(gone.reason.contains("renewed"), "{gone}");
    assert_eq!(store.trouble().map(|trouble| trouble.contains("no answer")), Some(true));
    let other = open(&PostgresOptions { lease: LONG, ..by(&url, &options) });
    let later = lead(&other, "b").await;
    assert_eq!(later.epoch.0, term.epoch.0 + 1);
    send(&other, later, later.seq.0 + 1..later.seq.0 + 2).await.pop().expect("one").1.expect("it leads");
    // What was held gets through now.
    proxy.go_on();
    assert!(within(store.commit(term.epoch, Seq(first + 1), &[])).await.is_err());
    until_passed(&proxy).await;
    send(&other, later, later.seq.0 + 2..later.seq.0 + 3).await.pop().expect("one").1.expect("it leads");
    let (jobs, loaded) = batches_in(&other).await;
    let all = vec![first, later.seq.0 + 1, later.seq.0 + 2];
    assert_eq!((jobs, loaded), (all, Term { seq: Seq(later.seq.0 + 2), ..later }));
    // And the first leads again when the second lets it.
    other.resign().await;
    let again = lead(&store, "a").await;
    assert_eq!(again.seq.0, later.seq.0 + 3);
    assert_eq!(store.trouble(), None);
}

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

/// A leader whose term record is not where it left it is not the only one who writes, or its database has gone back.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_was_moved_deposes() {
    let Some(url) = postgresd::shared_or_skip("store-postgres") else { return };
    for by in ["+ 1", "- 1"] {
        let options = short_options(&url);
        let store = open(&options);
        let term = lead(&store, "a").await;
        admin(&url, &format!("UPDATE {}.term SET seq = seq {by}", options.schema)).await;
        let gone = within(store.deposed(term.epoch)).await;
        assert!(gone.reason.contains("the last batch is"), "{gone}");
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

/// Epoch, number and lease each fence alone: whichever of them a misfortune takes, the others hold.
#[tokio::test(flavor = "multi_thread")]
async fn the_term_moves_for_its_leader_alone() {
    let Some(url) = postgresd::shared_or_skip("store-postgres") else { return };
    let options = options(&url);
    let Term { epoch, seq } = lead(&open(&options), "a").await;
    let (schema, epoch, seq) = (&options.schema, epoch.0, seq.0);
    for (epoch, after, lease, moves) in [
        (epoch - 1, seq, "1 hour", false),
        (epoch + 1, seq, "1 hour", false),
        (epoch, seq - 1, "1 hour", false),
        (epoch, seq + 1, "1 hour", false),
        (epoch, seq, "-1 second", false),
        (epoch, seq, "1 hour", true),
    ] {
        let sql = format!(
            "UPDATE {schema}.term SET lease_until = clock_timestamp() + '{lease}'; \
             SELECT moved FROM {schema}.move({epoch}, {after}, {}, 10000, 0, ARRAY[''::bytea], 0)",
            after + 1
        );
        let moved = admin(&url, &sql).await.into_iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(|moved| moved == "t"),
            _ => None,
        });
        assert_eq!(moved, Some(moves), "epoch {epoch}, after {after}, lease of {lease}");
    }
}

/// Everything that the proxy had held has been answered by the server.
async fn until_passed(proxy: &Proxy) {
    within(async {
        while proxy.holds() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Who waits to lead and follows meanwhile asks both in one, and a few times a second: nodes may be many, and the database
/// is not theirs alone.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_asks_little() {
    let Some(url) = postgresd::shared_or_skip("store-postgres") else { return };
    let proxy = Proxy::before(&url).await;
    let options = options(&proxy.url);
    let leader = open(&by(&url, &options));
    lead(&leader, "a").await;
    let standby = open(&options);
    let (_, loaded) = within(standby.load()).await.expect("it can be loaded");
    let following = standby.clone();
    let following = tokio::spawn(async move {
        let mut seen = loaded.seq;
        while let Ok(batches) = following.follow(seen).await {
            seen = batches.last().map_or(seen, |batch| batch.seq);
        }
    });
    let waiting = standby.clone();
    let waiting = tokio::spawn(async move { waiting.begin_term(&candidate("b")).await });
    let asked = async |more: u64| {
        let enough = proxy.asked() + more;
        within(async {
            while proxy.asked() < enough {
                tokio::task::yield_now().await;
            }
        })
        .await;
    };
    // An attempt to lead, and connections.
    asked(15).await;
    let begun = Instant::now();
    asked(20).await;
    assert!(begun.elapsed() > Duration::from_secs(2), "20 questions in {:?}", begun.elapsed());
    assert!(!waiting.is_finished(), "another leads");
    leader.resign().await;
    within(waiting).await.expect("it does not panic").expect("it leads in the end");
    following.abort();
}

/// A fail-over that lost the last batches, of which a follower has been told, and a leader has written them: when
/// another leads, their numbers are other batches, and both load anew instead of going on from what is no more.
#[tokio::test(flavor = "multi_thread")]
async fn a_past_that_is_gone_is_not_gone_on_from() {
    let Some(url) = postgresd::shared_or_skip("store-postgres") else { return };
    let options = options(&url);
    let (store, other) = (open(&options), open(&options));
    let (follower, loader, newcomer) = (open(&options), open(&options), open(&options));
    let term = lead(&store, "a").await;
    let last = term.seq.0 + 5;
    send(&store, term, term.seq.0 + 1..last + 1).await.pop().expect("some").1.expect("it leads");
    let mut seen = term.seq;
    while seen < Seq(last) {
        let batches = within(follower.follow(seen)).await.expect("they are kept");
        seen = batches.last().expect("there is one").seq;
    }
    assert_eq!(within(loader.load()).await.expect("it can be loaded").1, Term { seq: Seq(last), ..term });
    within(store.resign()).await;
    let lost = format!(
        "DELETE FROM {0}.changes WHERE seq > {1}; UPDATE {0}.term SET seq = {1}",
        options.schema,
        last - 2
    );
    admin(&url, &lost).await;
    // Its first batch is the one before the last that was told.
    let later = lead(&other, "b").await;
    assert_eq!(later, Term { epoch: scheduler::ids::Epoch(term.epoch.0 + 1), seq: Seq(last - 1) });
    send(&other, later, last..last + 3).await.pop().expect("some").1.expect("it leads");
    for store in [&follower, &loader, &store] {
        let told = within(store.follow(Seq(last))).await;
        assert!(matches!(told, Err(StoreError::Gone { .. })), "{told:?}");
        let (_, loaded) = within(store.load()).await.expect("it can be loaded");
        assert_eq!(loaded, Term { seq: Seq(last + 2), ..later });
    }
    let more = send(&other, later, last + 3..last + 4).await.pop().expect("one").1;
    more.expect("it leads");
    for store in [&follower, &loader, &store] {
        let batches = within(store.follow(Seq(last + 2))).await.expect("from here on it can follow");
        assert_eq!(batches.last().map(|batch| batch.seq), Some(Seq(last + 3)));
    }
    // Whoever was told nothing cannot know.
    assert!(within(newcomer.follow(Seq(last))).await.is_ok());
}

/// Where a fail-over has lost even the beginning of a term, the next one has its epoch, and may come to its numbers. Who led
/// before writes nothing into it, and nobody goes on from what was.
#[tokio::test(flavor = "multi_thread")]
async fn two_terms_of_one_epoch_are_told_from_each_other() {
    let Some(url) = postgresd::shared_or_skip("store-postgres") else { return };
    let options = options(&url);
    let (store, other) = (open(&options), open(&options));
    let (follower, loader, idle) = (open(&options), open(&options), open(&options));
    let before = lead(&idle, "idle").await;
    within(idle.resign()).await;
    let term = lead(&store, "a").await;
    let last = term.seq.0 + 3;
    send(&store, term, term.seq.0 + 1..last + 1).await.pop().expect("some").1.expect("it leads");
    let mut seen = before.seq;
    while seen < Seq(last) {
        let batches = within(follower.follow(seen)).await.expect("they are kept");
        seen = batches.last().expect("there is one").seq;
    }
    assert_eq!(within(loader.load()).await.expect("it can be loaded").1, Term { seq: Seq(last), ..term });
    let lost = format!(
        "DELETE FROM {0}.changes WHERE seq > {2}; UPDATE {0}.term SET epoch = {1}, began = {2}, seq = {2}, \
         lease_until = '-infinity', token = NULL, holder = NULL",
        options.schema, before.epoch.0, before.seq.0
    );
    admin(&url, &lost).await;
    let later = lead(&other, "b").await;
    assert_eq!(later, term);
    send(&other, later, later.seq.0 + 1..last + 1).await.pop().expect("some").1.expect("it leads");
    let refused = send(&store, term, last + 1..last + 2).await.pop().expect("one").1;
    let refused = refused.expect_err("it does not lead any more");
    assert!(refused.reason.contains("another leads in epoch"), "{refused}");
    send(&other, later, last + 1..last + 2).await.pop().expect("one").1.expect("it leads");
    for store in [&follower, &loader, &store] {
        let told = within(store.follow(Seq(last))).await;
        assert!(matches!(told, Err(StoreError::Gone { .. })), "{told:?}");
        let (_, loaded) = within(store.load()).await.expect("it can be loaded");
        assert_eq!(loaded, Term { seq: Seq(last + 1), ..later });
    }
}

/// A server that stops for longer than the lease: nobody leads meanwhile, then one of those who wait does.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_deposes() {
    let mut server = match Postgresd::start() {
        Ok(server) => server,
        Err(reason) => return skip("store-postgres", &reason),
    };
    let options = short_options(server.url());
    let (store, other) = (open(&options), open(&PostgresOptions { lease: LONG, ..options.clone() }));
    let term = lead(&store, "a").await;
    send(&store, term, term.seq.0 + 1..term.seq.0 + 2).await.pop().expect("one").1.expect("it leads");
    server.order("pause").expect("it stops");
    let waiting = tokio::spawn({
        let other = other.clone();
        async move { other.begin_term(&candidate("b")).await }
    });
    let held = send(&store, term, term.seq.0 + 2..term.seq.0 + 4).await;
    assert!(held.iter().all(|(_, answer)| answer.is_err()), "{held:?}");
    assert!(!waiting.is_finished());
    server.order("go on").expect("it goes on");
    let later = within(waiting).await.expect("no panic").expect("it leads");
    assert!(store.commit(term.epoch, Seq(term.seq.0 + 2), &[]).await.is_err());
    let (jobs, loaded) = batches_in(&other).await;
    assert_eq!(loaded.epoch, later.epoch);
    // The first batch, and perhaps what the server had got before it stopped; never one without its predecessor.
    assert_eq!(jobs, (term.seq.0 + 1..).take(jobs.len()).collect::<Vec<_>>());
}

/// A crash of the server shorter than the lease costs time and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_the_server_is_survived() {
    let mut server = match Postgresd::start() {
        Ok(server) => server,
        Err(reason) => return skip("store-postgres", &reason),
    };
    let store = open(&options(server.url()));
    let term = lead(&store, "a").await;
    let (mut acknowledged, mut next) = (0, term.seq.0 + 1);
    for _ in 0..3 {
        let sending = tokio::spawn({
            let store = store.clone();
            async move {
                let mut answers = Vec::new();
                for first in (next..next + 64).step_by(8) {
                    answers.extend(send(&store, term, first..first + 8).await);
                }
                answers
            }
        });
        while within(store.present()).await.is_ok_and(|present| present.seq.0 < next + 8) {}
        server.order("stop").expect("it stops");
        server.order("start").expect("it starts");
        for (seq, answer) in within(sending).await.expect("no panic") {
            answer.unwrap_or_else(|error| panic!("batch {seq}: {error}"));
            acknowledged = acknowledged.max(seq);
        }
        next += 64;
    }
    let (jobs, loaded) = batches_in(&store).await;
    assert_eq!(jobs, (term.seq.0 + 1..=acknowledged).collect::<Vec<_>>());
    assert_eq!(loaded, Term { epoch: term.epoch, seq: Seq(acknowledged) });
}

/// What has no room waits until there is some, and says why. Whoever leads meanwhile reads on, and nobody waits for the
/// disk to resign.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_loses_nothing() {
    let Some(mount) = mount::Mount::new("size=6m") else {
        return skip("store-postgres-full", "a small file system can only be mounted by root");
    };
    let server = match Postgresd::start() {
        Ok(server) => server,
        Err(reason) => return skip("store-postgres", &reason),
    };
    let owner = std::process::Command::new("chown").arg("postgres").arg(mount.path()).status();
    assert!(owner.expect("chown is there").success(), "the server runs as this user where root starts it");
    let make = format!(
        "CREATE TABLESPACE small LOCATION '{}'; CREATE ROLE small SUPERUSER LOGIN; \
         ALTER ROLE small SET default_tablespace = small",
        mount.path().display()
    );
    // Each by itself: a tablespace is made in no transaction.
    for sql in make.split(';') {
        admin(server.url(), sql).await;
    }
    let options = options(&server.url().replacen("postgres@", "small@", 1));
    let store = open(&options);
    let term = lead(&store, "a").await;
    let first = term.seq.0 + 1;
    send(&store, term, first..first + 2).await.pop().expect("some").1.expect("it leads");
    let mut next = first + 2;
    // Until the disk is full, with batches that need room for themselves; what is applied, and the one that waits.
    let fill = async |next: &mut u64| loop {
        let (store_of_call, seq) = (store.clone(), Seq(*next));
        let mut call =
            tokio::spawn(async move { store_of_call.commit(term.epoch, seq, &large_batch_of(seq)).await });
        let applied = within(async {
            loop {
                match timeout(Duration::from_millis(1), &mut call).await {
                    Ok(done) => break Some(done.expect("no panic")),
                    Err(_) if store.trouble().is_some() => break None,
                    Err(_) => {}
                }
            }
        });
        let Some(applied) = applied.await else { break call };
        applied.expect("it leads");
        *next += 1;
    };
    let ballast = mount.fill();
    let stuck = fill(&mut next).await;
    let trouble = store.trouble().expect("the disk is full");
    assert!(trouble.contains("no room") && trouble.contains("No space left"), "{trouble}");
    let (jobs, loaded) = batches_in(&store).await;
    assert_eq!((jobs, loaded.seq), ((first..next).collect(), Seq(next - 1)), "reading needs no room");
    std::fs::remove_file(&ballast).expect("it is there");
    within(stuck).await.expect("no panic").expect("it goes on by itself, in its term");
    assert_eq!(store.trouble(), None);
    assert_eq!(batches_in(&store).await, ((first..=next).collect(), Term { seq: Seq(next), ..term }));
    next += 1;
    let ballast = mount.fill();
    let stuck = fill(&mut next).await;
    within(store.resign()).await;
    assert!(within(stuck).await.expect("no panic").is_err(), "it was not applied");
    std::fs::remove_file(&ballast).expect("it is there");
    let other = open(&options);
    let later = lead(&other, "b").await;
    send(&other, later, later.seq.0 + 1..later.seq.0 + 2).await.pop().expect("one").1.expect("it leads");
    assert_eq!(batches_in(&other).await.0, (first..next).chain([later.seq.0 + 1]).collect::<Vec<_>>());
}

/// The same with a job that takes more room than tables have left over.
fn large_batch_of(seq: Seq) -> Vec<Change> {
    let mut job = samples::job(seq.0);
    // Nothing that could be compressed.
    let noise = (0..4000_u64).map(|n| (n * n + seq.0).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20);
    job.body = noise.map(|n| format!("{n:x}")).collect::<String>().into();
    let mut changes = batch_of(seq);
    changes[0] = Change::PutJob(Arc::new(job));
    changes
}

/// A leader that is not heard of any more is followed by another when its lease has run out, and not before.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_nobody_renews_runs_out() {
    let Some(url) = postgresd::shared_or_skip("store-postgres") else { return };
    let proxy = Proxy::before(&url).await;
    let options = short_options(&proxy.url);
    let (store, other) = (open(&options), open(&by(&url, &options)));
    let term = lead(&store, "a").await;
    // Every batch renews it.
    let (begun, stalls) = (Instant::now(), Stalls::watched());
    within(store.commit(term.epoch, Seq(term.seq.0 + 1), &[])).await.expect("it leads");
    proxy.hold();
    let (later, gone) = tokio::join!(lead(&other, "b"), within(store.deposed(term.epoch)));
    assert_eq!(later.epoch.0, term.epoch.0 + 1, "{gone}");
    let took = begun.elapsed();
    assert!(took > LEASE - Duration::from_millis(100), "{took:?}");
    // It may have been renewed until a while after that, by itself.
    assert!(took.saturating_sub(stalls.so_far()) < LEASE + Duration::from_secs(3), "{took:?}");
}

/// While nothing is committed, the lease is renewed.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_leader_keeps_its_lease() {
    let Some(url) = postgresd::shared_or_skip("store-postgres") else { return };
    // So long that a busy machine keeps nobody from three renewals in turn.
    let options = PostgresOptions { lease: 2 * LEASE, ..options(&url) };
    let (store, other) = (open(&options), open(&options));
    let term = lead(&store, "a").await;
    let waiting = timeout(options.lease * 2, other.begin_term(&candidate("b"))).await;
    assert!(waiting.is_err(), "two lead");
    within(store.commit(term.epoch, Seq(term.seq.0 + 1), &[])).await.expect("it leads");
}

/// Nobody waits for the end of a lease that was given back.
#[tokio::test(flavor = "multi_thread")]
async fn who_resigns_is_followed_at_once() {
    let Some(url) = postgresd::shared_or_skip("store-postgres") else { return };
    let options = options(&url);
    let (store, other) = (open(&options), open(&options));
    let term = lead(&store, "a").await;
    let begun = Instant::now();
    let ((), later) = tokio::join!(store.resign(), lead(&other, "b"));
    assert_eq!(later.epoch.0, term.epoch.0 + 1);
    assert!(begun.elapsed() < LONG / 3, "{:?}", begun.elapsed());
}

/// A commit that the server would forget is none.
#[tokio::test(flavor = "multi_thread")]
async fn settings_that_lose_commits_are_refused() {
    let Some(url) = postgresd::shared_or_skip("store-postgres") else { return };
    let options = options(&url);
    // A role of its own, so that no other test meets the setting.
    let role = format!("role_{}", options.schema);
    admin(
        &url,
        &format!("CREATE ROLE {role} SUPERUSER LOGIN; ALTER ROLE {role} SET synchronous_commit = off"),
    )
    .await;
    let store = open(&by(&url.replacen("postgres@", &format!("{role}@"), 1), &options));
    let (waiting, trouble) = refused(&store).await;
    assert!(trouble.contains("synchronous_commit") && trouble.contains("ALTER ROLE"), "{trouble}");
    admin(&url, &format!("ALTER ROLE {role} SET synchronous_commit = on")).await;
    let term = within(waiting).await.expect("no panic").expect("it leads");
    assert_eq!(store.trouble(), None);
    // Turned off while it leads, it is turned on for every commit.
    admin(&url, &format!("ALTER ROLE {role} SET synchronous_commit = off")).await;
    let sql = format!(
        "SET synchronous_commit = off; BEGIN; SELECT \"{}\".durable(); SHOW synchronous_commit; COMMIT",
        options.schema
    );
    let shown = admin(&url, &sql).await.into_iter().filter_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => {
            row.try_get("synchronous_commit").ok().flatten().map(str::to_owned)
        }
        _ => None,
    });
    assert_eq!(shown.collect::<Vec<_>>(), ["on"]);
    within(store.commit(term.epoch, Seq(term.seq.0 + 1), &[])).await.expect("it leads");
}

/// Stands for election, and says why it cannot lead.
async fn refused(store: &Arc<PostgresStore>) -> (tokio::task::JoinHandle<Result<Term, StoreError>>, String) {
    let standing = store.clone();
    let waiting = tokio::spawn(async move { standing.begin_term(&candidate("a")).await });
    let trouble = within(async {
        loop {
            match store.trouble() {
                Some(trouble) => break trouble,
                None => tokio::task::yield_now().await,
            }
        }
    })
    .await;
    assert!(!waiting.is_finished());
    (waiting, trouble)
}

/// Whether there are tables of this store.
async fn is_made(url: &str, options: &PostgresOptions) -> bool {
    let sql = format!("SELECT 1 FROM pg_namespace WHERE nspname = '{}'", options.schema);
    let found = admin(url, &sql).await;
    found.iter().any(|message| matches!(message, tokio_postgres::SimpleQueryMessage::Row(_)))
}

/// Commits that no disk has are none; nothing is made there, and it leads once that is mended.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_wait_for_its_disk_is_refused() {
    let server = match Postgresd::start() {
        Ok(server) => server,
        Err(reason) => return skip("store-postgres", &reason),
    };
    let set = async |value: &str| {
        admin(server.url(), &format!("ALTER SYSTEM SET fsync = {value}")).await;
        admin(server.url(), "SELECT pg_reload_conf()").await;
        // A connection may begin before the server has read it.
        within(async {
            loop {
                let shown =
                    admin(server.url(), "SHOW fsync").await.into_iter().any(|message| match message {
                        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0) == Some(value),
                        _ => false,
                    });
                if shown {
                    break;
                }
            }
        })
        .await;
    };
    set("off").await;
    let options = options(server.url());
    let store = open(&options);
    let (waiting, trouble) = refused(&store).await;
    assert!(trouble.contains("`fsync` is off"), "{trouble}");
    assert!(!is_made(server.url(), &options).await, "it was made before it was refused");
    set("on").await;
    within(waiting).await.expect("no panic").expect("it leads");
}

/// There are characters that such a database cannot hold.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_does_not_have_all_characters_is_refused() {
    let Some(url) = postgresd::shared_or_skip("store-postgres") else { return };
    let options = options(&url);
    let database = format!("latin_{}", options.schema);
    admin(&url, &format!("CREATE DATABASE {database} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")).await;
    let latin = format!("{}/{database}", url.rsplit_once('/').expect("a database").0);
    let (waiting, trouble) = refused(&open(&by(&latin, &options))).await;
    assert!(trouble.contains("the encoding LATIN1") && trouble.contains("ENCODING 'UTF8'"), "{trouble}");
    assert!(!is_made(&latin, &options).await, "it was made before it was refused");
    waiting.abort();
}

/// On a replica nothing can be written: it can be read, whoever names it is told, and leads once it is promoted.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_read_and_not_led_on() {
    let mut server = match Postgresd::start() {
        Ok(server) => server,
        Err(reason) => return skip("store-postgres", &reason),
    };
    let options = options(server.url());
    let store = open(&options);
    let term = lead(&store, "a").await;
    send(&store, term, term.seq.0 + 1..term.seq.0 + 3).await.pop().expect("some").1.expect("it leads");
    within(store.resign()).await;
    server.order("stop").expect("it stops");
    // What a base backup has, and no address of a primary: it waits for one for ever.
    std::fs::write(server.folder().join("data/standby.signal"), "").expect("it can be written");
    server.order("start").expect("it starts");
    let (waiting, trouble) = refused(&store).await;
    assert!(
        trouble.contains("this server is a standby") && trouble.contains("target_session_attrs"),
        "{trouble}"
    );
    assert_eq!(batches_in(&store).await.0.len(), 2, "it can be read");
    let empty = open(&PostgresOptions { schema: "nothing_there".into(), ..options.clone() });
    let (in_vain, trouble) = refused(&empty).await;
    assert!(trouble.contains("this server is a standby"), "where there is no store as well: {trouble}");
    in_vain.abort();
    admin(server.url(), "SELECT pg_promote()").await;
    let later = within(waiting).await.expect("no panic").expect("it leads");
    assert_eq!(later.epoch.0, term.epoch.0 + 1);
}

/// What a newer program has written is not touched, nor read.
#[tokio::test(flavor = "multi_thread")]
async fn a_newer_store_is_refused() {
    let Some(url) = postgresd::shared_or_skip("store-postgres") else { return };
    for (what, ours) in [("format", store::format::VERSION), ("schema", 1)] {
        let options = options(&url);
        let store = open(&options);
        lead(&store, "a").await;
        store.resign().await;
        let sql = format!("UPDATE {}.meta SET value = '999' WHERE name = '{what}'", options.schema);
        admin(&url, &sql).await;
        let newer = StoreError::Newer { found: 999, ours };
        assert_eq!(within(store.begin_term(&candidate("a"))).await, Err(newer.clone()));
        assert_eq!(within(store.load()).await.map(drop), Err(newer.clone()));
        assert_eq!(within(store.follow(Seq(0))).await.map(drop), Err(newer));
    }
}

/// What an older program has written is read, and is ours from when this one leads.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_store_is_taken_over() {
    let Some(url) = postgresd::shared_or_skip("store-postgres") else { return };
    let options = options(&url);
    let (store, other) = (open(&options), open(&options));
    lead(&store, "a").await;
    admin(&url, &format!("UPDATE {}.meta SET value = '1' WHERE name = 'format'", options.schema)).await;
    assert!(timeout(Duration::from_secs(1), other.begin_term(&candidate("b"))).await.is_err(), "two lead");
    let format = async || {
        let sql = format!("SELECT value FROM {}.meta WHERE name = 'format'", options.schema);
        let found = admin(&url, &sql).await.into_iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        found.expect("it is there")
    };
    within(other.load()).await.expect("it can be read");
    assert_eq!(format().await, "1", "only who leads may change it");
    store.resign().await;
    lead(&other, "b").await;
    assert_eq!(format().await, store::format::VERSION.to_string());
}

/// Nobody there: questions are answered with that, and a candidate tries for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_be_reached_is_waited_for() {
    let Some(url) = postgresd::shared_or_skip("store-postgres") else { return };
    let proxy = Proxy::before(&url).await;
    proxy.refuse();
    let store = open(&options(&proxy.url));
    let error = within(store.load()).await.expect_err("nobody is there");
    assert!(matches!(&error, StoreError::Unavailable(why) if why.contains("127.0.0.1")), "{error}");
    assert!(matches!(within(store.present()).await, Err(StoreError::Unavailable(_))));
    assert_eq!(within(store.leader()).await, None);
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.begin_term(&candidate("a")).await }
    });
    within(async {
        while store.trouble().is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(!waiting.is_finished());
    proxy.go_on();
    within(waiting).await.expect("no panic").expect("it leads");
    assert_eq!(store.trouble(), None);
    assert_eq!(store.id().await.expect("it is there").len(), 32);
}

/// The first of two hosts takes connections and says nothing: the second one is found in time for every question, and
/// for the shortest lease.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_silent_keeps_nobody_from_the_next() {
    let Some(url) = postgresd::shared_or_skip("store-postgres") else { return };
    // Connections wait there to be accepted.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let first = silent.local_addr().expect("it is bound");
    let both = url.replacen('@', &format!("@{first},"), 1);
    let options = short_options(&both);
    let store = open(&options);
    let term = lead(&store, "a").await;
    send(&store, term, term.seq.0 + 1..term.seq.0 + 2).await.pop().expect("one").1.expect("it leads");
    let (jobs, loaded) = batches_in(&store).await;
    assert_eq!((jobs, loaded), (vec![term.seq.0 + 1], Term { seq: Seq(term.seq.0 + 1), ..term }));
    let (head, database) = url.rsplit_once('/').expect("a database");
    let other = open(&by(&format!("{head},{first}/{database}"), &options));
    assert_eq!(within(other.present()).await, Ok(loaded));
    drop(silent);
}

/// Nothing comes back, and nobody is told: who loads, or takes a backup, is told in the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_nothing_is_not_loaded_from_for_ever() {
    let Some(url) = postgresd::shared_or_skip("store-postgres") else { return };
    let proxy = Proxy::before(&url).await;
    let store = open(&options(&proxy.url));
    lead(&store, "a").await;
    proxy.hold();
    let (to, _from) = tokio::sync::mpsc::channel(1);
    let (loaded, taken) =
        within(async { tokio::join!(store.load(), store.backup(store::backup::Extent::Everything, to)) })
            .await;
    for told in [loaded.map(drop), taken] {
        assert!(matches!(&told, Err(StoreError::Unavailable(why)) if why.contains("within 3 s")), "{told:?}");
    }
    proxy.go_on();
    within(store.load()).await.expect("it can be loaded");
}

/// A lease that is too short, or a URL of something else, is refused before anything is done.
#[tokio::test]
async fn wrong_options_are_refused() {
    let good = PostgresOptions::new("postgres://u@127.0.0.1/d");
    let short = PostgresOptions { lease: Duration::from_secs(3), ..good.clone() };
    assert!(matches!(store::postgres::open(&short), Err(OptionsError::Lease(_))));
    assert!(matches!(store::postgres::open(&by("mysql://h/d", &good)), Err(OptionsError::Url(_))));
    assert!(!format!("{:?}", by("postgres://u:secret@h/d", &good)).contains("secret"));
    assert!(store::postgres::open(&good).is_ok(), "nothing is connected to");
}

/// A user who may not make a schema uses the one that was made for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_is_given_is_used() {
    let Some(url) = postgresd::shared_or_skip("store-postgres") else { return };
    let options = options(&url);
    let role = format!("role_{}", options.schema);
    admin(&url, &format!("CREATE ROLE {role} LOGIN")).await;
    let ours = by(&url.replacen("postgres@", &format!("{role}@"), 1), &options);
    let store = open(&ours);
    let (waiting, trouble) = refused(&store).await;
    assert!(trouble.contains("permission denied"), "{trouble}");
    admin(&url, &format!("CREATE SCHEMA {} AUTHORIZATION {role}", options.schema)).await;
    let term = within(waiting).await.expect("no panic").expect("it leads");
    let answers = send(&store, term, term.seq.0 + 1..term.seq.0 + 4).await;
    assert!(answers.iter().all(|(_, answer)| answer.is_ok()), "{answers:?}");
}

/// A schema with tables and nothing in them that says whose is not ours.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_store_is_refused() {
    let Some(url) = postgresd::shared_or_skip("store-postgres") else { return };
    let options = options(&url);
    let store = open(&options);
    lead(&store, "a").await;
    store.resign().await;
    admin(&url, &format!("UPDATE {}.live SET value = 'x' WHERE kind = 'meta'", options.schema)).await;
    assert!(matches!(within(store.load()).await, Err(StoreError::Damaged(why)) if why.contains("counter")));
    admin(&url, &format!("DELETE FROM {}.meta", options.schema)).await;
    assert!(matches!(within(store.begin_term(&candidate("a"))).await, Err(StoreError::Damaged(_))));
}
