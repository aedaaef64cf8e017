//! PostgreSQL under bad conditions: here lost and late answers, a pooler in between, leases and terms; in `postgres_faults/`
//! the rest, by what is wrong.
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
#[path = "postgres_faults/past.rs"]
mod past;
#[path = "../testing/postgresd.rs"]
mod postgresd;
#[path = "../testing/proxy.rs"]
mod proxy;
#[path = "postgres_faults/refused.rs"]
mod refused;
#[path = "postgres_faults/restores.rs"]
mod restores;
#[path = "postgres_faults/servers.rs"]
mod servers;

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
