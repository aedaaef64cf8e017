//! The SQLite file under bad conditions: killed writers, other processes, broken files, full and read-only disks.
#![cfg(feature = "sqlite")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use scheduler::ids::{JobUid, Seq};
use scheduler::job::Progress;
use scheduler::run::Outcome;
use scheduler::state::{Change, State};
use store::conformance::PATIENCE;
use store::sqlite::{SqliteOptions, SqliteStore};
use store::{Candidate, HistoryQuery, Store, StoreError, samples};
use tokio::time::timeout;

#[path = "../testing/mount.rs"]
mod mount;

use mount::Mount;

/// Set for the child process of a test: the folder of its store.
const CHILD: &str = "CHRONOS_STORE_CHILD";

fn options(dir: &Path) -> SqliteOptions {
    SqliteOptions { dir: dir.into(), force_network_fs: false }
}

fn open(dir: &Path) -> SqliteStore {
    SqliteStore::open(&options(dir)).expect("a local folder")
}

fn refusal(dir: &Path) -> StoreError {
    SqliteStore::open(&options(dir)).expect_err("it must be refused")
}

fn candidate(node: &str) -> Candidate {
    Candidate { node: node.into(), addresses: Vec::new(), pid: std::process::id(), version: "0.1.0".into() }
}

/// A batch that follows from its number, with a change in every table.
fn batch_of(seq: Seq) -> Vec<Change> {
    let (uid, n) = (seq.0 % 20 + 1, seq.0);
    let mut job = samples::job(uid);
    job.version = u32::try_from(n).expect("a small number");
    let mut progress = Progress::new(samples::at(n.cast_signed()));
    progress.successes = n;
    vec![
        Change::PutJob(Arc::new(job)),
        Change::PutProgress(JobUid(uid), Arc::new(progress)),
        Change::PutRun(Arc::new(samples::run(uid, n))),
        Change::RemoveRun(samples::slot(uid, n.saturating_sub(20))),
        Change::Append(Arc::new(samples::ended(uid, n, Outcome::Succeeded))),
    ]
}

/// How many batches a child commits before it waits to be killed: some more than are asked of it, and not so many that
/// followers could not be told of those of all children, should this process be slow.
const CHILD_BATCHES: usize = 400;

/// What a child does until it is killed: it leads, commits one numbered batch after the other, up to 8 at a time,
/// and writes the number of each when it is applied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "is run as the child of other tests"]
async fn child() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let store = Arc::new(open(Path::new(&dir)));
    let term = store.begin_term(&candidate("child")).await.expect("it may lead");
    println!("leads {}", term.seq.0);
    let mut calls = tokio::task::JoinSet::new();
    for seq in (term.seq.0 + 1..).take(CHILD_BATCHES) {
        let (store, epoch) = (store.clone(), term.epoch);
        calls.spawn(async move {
            store.commit(epoch, Seq(seq), &batch_of(Seq(seq))).await.expect("it leads");
            println!("applied {seq}");
        });
        if calls.len() == 8 {
            calls.join_next().await.expect("there are some").expect("it is applied");
        }
    }
    calls.join_all().await;
    std::future::pending().await
}

/// A child process that leads, and is killed when dropped.
struct ChildLeader {
    process: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl ChildLeader {
    fn start(dir: &Path) -> Self {
        let mut process = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "child", "--ignored", "--nocapture"])
            .env(CHILD, dir)
            .stdout(Stdio::piped())
            .spawn()
            .expect("it can be started");
        let lines = BufReader::new(process.stdout.take().expect("it is piped")).lines();
        Self { process, lines }
    }

    /// The next number that it writes after this word.
    fn next(&mut self, word: &str) -> Option<u64> {
        for line in self.lines.by_ref() {
            if let Some((_, number)) = line.ok()?.split_once(&format!("{word} ")) {
                return number.parse().ok();
            }
        }
        None
    }

    /// Kills it; what it still wrote before is the last word.
    fn kill(mut self) -> Vec<u64> {
        self.process.kill().expect("it can be killed");
        let rest = std::iter::from_fn(|| self.next("applied")).collect();
        self.process.wait().expect("it was ours");
        rest
    }
}

impl Drop for ChildLeader {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn an_acknowledged_batch_survives_the_death_of_its_writer() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut acknowledged = 0;
    for round in 0..20_u64 {
        let mut leader = ChildLeader::start(dir.path());
        let began = leader.next("leads").expect("it leads");
        assert!(began > acknowledged, "an acknowledged batch was forgotten");
        // Killed after a number of answers that differs from round to round, with others in flight.
        for _ in 0..round * 37 % 150 {
            acknowledged = acknowledged.max(leader.next("applied").expect("it goes on"));
        }
        acknowledged = leader.kill().into_iter().fold(acknowledged, u64::max);
    }
    let store = open(dir.path());
    let (state, term) = store.load().await.expect("it can be loaded");
    assert!(term.seq.0 >= acknowledged, "batch {acknowledged} was acknowledged; {} is the last", term.seq.0);
    let mut made = State { meta: state.meta.clone(), ..State::default() };
    let (mut at, mut epochs, mut records) = (Seq(0), BTreeMap::new(), 0);
    while at < term.seq {
        for batch in store.follow(at).await.expect("it is kept") {
            assert_eq!(batch.seq.0, at.0 + 1);
            at = batch.seq;
            // The first of each epoch began a term.
            let first = *epochs.entry(batch.epoch).or_insert(batch.seq) == batch.seq;
            assert_eq!(batch.changes, if first { Vec::new() } else { batch_of(batch.seq) });
            records += usize::from(!first);
            batch.changes.iter().for_each(|change| made.apply(change));
        }
    }
    assert_eq!(epochs.len(), 20);
    assert_eq!(state, made, "the tables are not what the batches make them");
    let mut query = HistoryQuery { limit: 1000, ..HistoryQuery::default() };
    let mut found = 0;
    loop {
        let page = store.history(&query).await.expect("it can be read");
        found += page.records.len();
        let Some(next) = page.next else { break };
        query.cursor = Some(next);
    }
    assert_eq!(found, records);
}

#[tokio::test]
async fn processes_lead_one_after_the_other() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut leader = ChildLeader::start(dir.path());
    leader.next("leads").expect("it leads");
    let store = open(dir.path());
    let seen = timeout(PATIENCE, store.follow(Seq(0))).await.expect("it writes").expect("it is kept");
    assert_eq!(seen[0].seq, Seq(1));
    let named = store.leader().await.expect("the child leads");
    assert_eq!((named.node.as_str(), named.pid), ("child", leader.process.id()));
    let us = candidate("us");
    let mut waiting = std::pin::pin!(store.begin_term(&us));
    let early = timeout(Duration::ZERO, &mut waiting).await;
    assert!(early.is_err(), "two processes lead");
    leader.kill();
    let term = timeout(PATIENCE, waiting).await.expect("nobody leads").expect("it may lead");
    assert_eq!(term.epoch.0, 2);
    assert_eq!(store.leader().await, Some(us.clone()));
}

#[tokio::test]
async fn a_task_that_outlives_the_server_does_not_keep_the_lock() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = open(dir.path());
    store.begin_term(&candidate("a")).await.expect("nobody leads");
    let mut task = Command::new("sleep").arg("600").spawn().expect("it can be started");
    drop(store);
    let next = open(dir.path());
    let led = timeout(PATIENCE, next.begin_term(&candidate("b"))).await;
    task.kill().expect("it can be killed");
    task.wait().expect("it was ours");
    led.expect("the task has kept the lock").expect("it may lead");
}

#[tokio::test]
async fn a_store_keeps_its_id() {
    let (one, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let id = open(one.path()).id().to_owned();
    assert_eq!(id.len(), 32);
    assert_eq!(open(one.path()).id(), id);
    assert_ne!(open(other.path()).id(), id);
    let drafts = fs::read_dir(one.path()).expect("it can be listed").filter_map(Result::ok);
    assert!(!drafts.into_iter().any(|file| file.file_name().to_string_lossy().contains("new-")));
}

/// A folder whose store has some thousand records, and was closed.
async fn filled() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = open(dir.path());
    let term = store.begin_term(&candidate("a")).await.expect("nobody leads");
    for seq in term.seq.0 + 1..200 {
        store.commit(term.epoch, Seq(seq), &batch_of(Seq(seq))).await.expect("it leads");
    }
    drop(store);
    let file = dir.path().join("chronos.db");
    (dir, file)
}

/// Bytes at a place of the file are replaced, and then nothing else may change it.
fn overwrite(file: &Path, at: u64, bytes: &[u8]) {
    let mut file = fs::OpenOptions::new().write(true).open(file).expect("it can be opened");
    file.seek(SeekFrom::Start(at)).expect("it can be moved");
    file.write_all(bytes).expect("it can be written");
}

#[tokio::test]
async fn a_newer_store_is_refused_and_not_touched() {
    let (dir, file) = filled().await;
    overwrite(&file, 60, &99_u32.to_be_bytes());
    let before = fs::read(&file).expect("it can be read");
    assert_eq!(refusal(dir.path()), StoreError::Newer { found: 99, ours: 4 });
    assert_eq!(fs::read(&file).expect("it can be read"), before);
    assert!(!file.with_extension("db-wal").exists());
}

#[tokio::test]
async fn a_store_that_becomes_newer_is_not_led() {
    let (dir, file) = filled().await;
    let store = open(dir.path());
    let newer = rusqlite::Connection::open(&file).expect("it can be opened");
    newer.pragma_update(None, "user_version", 5).expect("it can be written");
    let newer = StoreError::Newer { found: 5, ours: 4 };
    assert_eq!(store.begin_term(&candidate("a")).await, Err(newer.clone()));
    assert_eq!(store.load().await, Err(newer.clone()));
    drop(store);
    assert_eq!(refusal(dir.path()), newer);
}

#[tokio::test]
async fn a_database_of_another_program_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("chronos.db");
    let other = rusqlite::Connection::open(&file).expect("it can be made");
    other.execute_batch("CREATE TABLE bookmarks (url TEXT)").expect("it can be written");
    drop(other);
    let before = fs::read(&file).expect("it can be read");
    let error = refusal(dir.path()).to_string();
    assert!(error.contains("another program") && error.contains("chronos.db"), "{error}");
    assert_eq!(fs::read(&file).expect("it can be read"), before);
}

/// Opens a broken file, which must be refused at the door, and left as it is.
#[track_caller]
fn check_damaged(dir: &Path, what: &str) {
    let file = dir.join("chronos.db");
    let before = fs::read(&file).ok();
    let error = SqliteStore::open(&options(dir)).expect_err(what);
    let text = error.to_string();
    assert!(matches!(error, StoreError::Damaged(_)), "{what}: {text}");
    assert!(text.contains("chronos.db") && text.contains("restore a backup"), "{what}: {text}");
    assert_eq!(fs::read(&file).ok(), before, "{what}: the file was changed");
}

#[test]
fn a_damaged_file_is_named_and_left_as_it_is() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    type Break = (&'static str, fn(&Path));
    let breaks: [Break; 9] = [
        ("empty", |file| fs::write(file, b"").expect("it can be written")),
        ("cut off in the header", |file| {
            fs::OpenOptions::new().write(true).open(file).expect("open").set_len(50).expect("cut")
        }),
        ("cut off in the middle", |file| {
            let file = fs::OpenOptions::new().write(true).open(file).expect("open");
            file.set_len(3 * 4096).expect("cut");
        }),
        ("not a database", |file| fs::write(file, "hello ".repeat(1000)).expect("it can be written")),
        ("a header of nonsense", |file| overwrite(file, 16, &[0xff; 40])),
        ("pages of nonsense", |file| {
            let size = file.metadata().expect("it is there").len();
            overwrite(file, 4096, &vec![0xa5; usize::try_from(size - 4096).expect("a small file")]);
        }),
        ("a record of nonsense", |file| {
            let bytes = fs::read(file).expect("it can be read");
            let mark = br#""accounted_since":"#;
            // All of them, as some copies are in free pages.
            let places: Vec<usize> =
                (0..bytes.len() - mark.len()).filter(|at| bytes[*at..].starts_with(mark)).collect();
            assert!(!places.is_empty());
            for at in places {
                overwrite(file, at as u64, b"#accounted");
            }
        }),
        ("a list of free pages of nonsense", |file| overwrite(file, 36, &99_u32.to_be_bytes())),
        ("gone, but for its log", |file| {
            fs::remove_file(file).expect("it is there");
            fs::write(file.with_extension("db-wal"), [1; 4096]).expect("it can be written");
        }),
    ];
    for (what, make_broken) in breaks {
        let (dir, file) = runtime.block_on(filled());
        make_broken(&file);
        check_damaged(dir.path(), what);
    }
}

/// Leaf pages of a table or an index, in the order of its rows.
fn leaves(file: &Path, name: &str) -> Vec<u64> {
    let connection = rusqlite::Connection::open(file).expect("it can be opened");
    let sql = "SELECT pageno FROM dbstat WHERE name = ?1 AND pagetype = 'leaf' ORDER BY path";
    let mut pages = connection.prepare(sql).expect("it counts pages");
    let pages = pages.query_map([name], |row| row.get::<_, i64>(0)).expect("it counts pages");
    let pages: Vec<u64> = pages.map(|page| page.expect("a number").cast_unsigned()).collect();
    assert!(!pages.is_empty(), "{name} has no pages");
    pages
}

fn break_page(file: &Path, page: u64) {
    overwrite(file, (page - 1) * 4096, &[0xa5; 4096]);
}

/// One page that a term lives of is enough to refuse the start, before anything is written.
#[tokio::test]
async fn a_broken_page_of_what_a_term_lives_of_is_refused() {
    for table in ["jobs", "progress", "runs", "joins", "receipts", "meta", "term", "applied"] {
        let (dir, file) = filled().await;
        let pages = leaves(&file, table);
        break_page(&file, pages[pages.len() / 2]);
        let before = fs::read(&file).expect("it can be read");
        let error = refusal(dir.path());
        assert!(matches!(error, StoreError::Damaged(_)), "{table}: {error}");
        assert_eq!(fs::read(&file).expect("it can be read"), before, "{table}: the file was changed");
        let log = file.with_extension("db-wal").metadata().map_or(0, |log| log.len());
        assert_eq!(log, 0, "{table}: something was written");
    }
}

/// A server that was killed leaves its log; what is missing in the file and is not in the log is missed.
#[tokio::test]
async fn a_file_that_is_cut_off_is_refused_and_one_whose_pages_are_in_the_log_is_not() {
    let (dir, _) = filled().await;
    let store = open(dir.path());
    let term = store.begin_term(&candidate("a")).await.expect("nobody leads");
    for seq in term.seq.0 + 1..term.seq.0 + 50 {
        store.commit(term.epoch, Seq(seq), &large_batch_of(Seq(seq))).await.expect("it leads");
    }
    let killed = || {
        let copy = tempfile::tempdir().expect("a temporary folder");
        for name in ["chronos.db", "chronos.db-wal"] {
            fs::copy(dir.path().join(name), copy.path().join(name)).expect("it can be copied");
        }
        copy
    };
    let (whole, cut) = (killed(), killed());
    assert_eq!(load_again(whole.path()).await.0, store.load().await.expect("it can be loaded").0);
    let file = cut.path().join("chronos.db");
    fs::OpenOptions::new().write(true).open(&file).expect("open").set_len(5000).expect("cut");
    let before = fs::read(&file).expect("it can be read");
    let error = refusal(cut.path());
    assert!(matches!(&error, StoreError::Damaged(why) if why.contains("cut off")), "{error}");
    assert_eq!(fs::read(&file).expect("it can be read"), before);
}

/// Waits until the store says that its past is broken.
async fn past_is_broken(store: &SqliteStore) -> String {
    let told = async {
        loop {
            if let Some(damage) = store.damage() {
                return damage;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, told).await.expect("it reads everything")
}

/// Jobs do without their past: it is told, found by nobody's asking too, and they go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_page_of_the_past_stops_no_job() {
    let (dir, file) = filled().await;
    // New records are written to the end.
    break_page(&file, leaves(&file, "history")[1]);
    let store = open(dir.path());
    let term = store.begin_term(&candidate("a")).await.expect("jobs do without their past");
    let damage = past_is_broken(&store).await;
    assert!(damage.contains("chronos.db") && damage.contains("restore a backup"), "{damage}");
    for seq in term.seq.0 + 1..term.seq.0 + 20 {
        assert_eq!(store.commit(term.epoch, Seq(seq), &batch_of(Seq(seq))).await, Ok(()));
    }
    assert_eq!(store.trouble(), None);
    let all = HistoryQuery { limit: 1000, ..HistoryQuery::default() };
    assert!(matches!(store.history(&all).await, Err(StoreError::Damaged(_))));
    let last = HistoryQuery { limit: 5, ..HistoryQuery::default() };
    assert_eq!(store.history(&last).await.expect("what is whole can be read").records.len(), 5);
}

/// Where a batch would be written to what is broken, nothing is written any more, by no later term either.
#[tokio::test]
async fn damage_under_a_batch_ends_the_lead_for_good() {
    let (dir, file) = filled().await;
    let store = open(dir.path());
    let term = store.begin_term(&candidate("a")).await.expect("nobody leads");
    let size = file.metadata().expect("it is there").len();
    overwrite(&file, 4096, &vec![0xa5; usize::try_from(size - 4096).expect("a small file")]);
    let next = Seq(term.seq.0 + 1);
    let refused = store.commit(term.epoch, next, &batch_of(next)).await.expect_err("it cannot be written");
    assert!(refused.reason.contains("damaged"), "{refused}");
    assert!(store.trouble().is_some_and(|trouble| trouble.contains("restore a backup")));
    assert_eq!(store.leader().await, None);
    let (before, log) =
        (fs::read(&file).expect("read"), fs::read(file.with_extension("db-wal")).expect("read"));
    for _ in 0..3 {
        let error =
            timeout(PATIENCE, store.begin_term(&candidate("a"))).await.expect("it does not try for ever");
        assert!(matches!(error, Err(StoreError::Damaged(_))), "{error:?}");
    }
    assert_eq!(fs::read(&file).expect("read"), before);
    assert_eq!(fs::read(file.with_extension("db-wal")).expect("read"), log);
}

/// Who has waited for long looks again before it leads.
#[tokio::test]
async fn a_standby_does_not_begin_a_term_on_a_file_that_broke_meanwhile() {
    let (dir, file) = filled().await;
    let (first, second) = (open(dir.path()), open(dir.path()));
    let term = first.begin_term(&candidate("a")).await.expect("nobody leads");
    let next = Seq(term.seq.0 + 1);
    first.commit(term.epoch, next, &batch_of(next)).await.expect("it leads");
    drop(first);
    let other = rusqlite::Connection::open(&file).expect("it can be opened");
    other.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("nobody reads");
    drop(other);
    for page in leaves(&file, "progress") {
        break_page(&file, page);
    }
    let log = fs::read(file.with_extension("db-wal")).expect("the second has it open");
    let error = second.begin_term(&candidate("b")).await;
    assert!(matches!(error, Err(StoreError::Damaged(_))), "{error:?}");
    assert_eq!(fs::read(file.with_extension("db-wal")).expect("read"), log, "a term was begun");
}

/// Large tables are decoded by several threads, which must neither mix them up nor hide what they cannot read.
#[tokio::test]
async fn a_large_state_is_loaded_whole() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = open(dir.path());
    let term = store.begin_term(&candidate("a")).await.expect("nobody leads");
    let mut made = State { meta: store.load().await.expect("it can be loaded").0.meta, ..State::default() };
    for n in 1..=21 {
        let jobs = (n * 500..n * 500 + 500).map(|uid| Change::PutJob(Arc::new(samples::job(uid))));
        let batch: Vec<Change> = jobs.collect();
        store.commit(term.epoch, Seq(term.seq.0 + n), &batch).await.expect("it leads");
        batch.iter().for_each(|change| made.apply(change));
    }
    assert!(store.load().await.expect("it can be loaded").0 == made);
    let other = rusqlite::Connection::open(dir.path().join("chronos.db")).expect("it can be opened");
    other.execute("UPDATE jobs SET value = 'x' WHERE uid IN (600, 10000)", []).expect("it can be written");
    let error = store.load().await.expect_err("two jobs cannot be read");
    assert!(matches!(&error, StoreError::Damaged(why) if why.contains("stored job")), "{error}");
}

/// The log is copied while batches keep coming, and begins anew: it does not grow with what is written.
#[tokio::test]
async fn the_log_stays_short_under_load() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = open(dir.path());
    let term = store.begin_term(&candidate("one")).await.expect("it may lead");
    let mut written = 0;
    let mut seq = term.seq;
    while written < 32 * 1024 * 1024 {
        seq = Seq(seq.0 + 1);
        let batch = large_batch_of(seq);
        written += batch
            .iter()
            .map(|change| if let Change::PutJob(job) = change { job.body.len() } else { 0 })
            .sum::<usize>();
        store.commit(term.epoch, seq, &batch).await.expect("it leads");
    }
    let log = dir.path().join("chronos.db-wal").metadata().expect("there is a log").len();
    assert!(log < 64 * 1024 * 1024, "{log} bytes of log");
    drop(store);
    let (state, loaded) = load_again(dir.path()).await;
    assert_eq!(loaded.seq.0, seq.0 + 1);
    assert!(!state.jobs.is_empty());
}

async fn load_again(dir: &Path) -> (State, store::Term) {
    let store = open(dir);
    store.begin_term(&candidate("two")).await.expect("it may lead");
    store.load().await.expect("it can be loaded")
}

#[tokio::test]
async fn another_file_in_its_place_ends_the_term() {
    let (dir, file) = filled().await;
    let store = open(dir.path());
    let term = store.begin_term(&candidate("a")).await.expect("nobody leads");
    let (_other, restored) = filled().await;
    fs::rename(&restored, &file).expect("both are in the temporary folder");
    let refused = store.commit(term.epoch, Seq(term.seq.0 + 1), &batch_of(Seq(1))).await;
    assert!(refused.is_err(), "a batch went into a file that nobody sees");
    let error = store.begin_term(&candidate("a")).await.expect_err("it is another file").to_string();
    assert!(error.contains("start it again"), "{error}");
}

/// The lock and the term record each fence alone: whichever of the two a misfortune takes, the other holds.
#[tokio::test]
async fn a_later_epoch_in_the_file_ends_the_term() {
    let (dir, file) = filled().await;
    let store = open(dir.path());
    let term = store.begin_term(&candidate("a")).await.expect("nobody leads");
    let next = Seq(term.seq.0 + 1);
    let other = rusqlite::Connection::open(&file).expect("it can be opened");
    other.execute("UPDATE term SET epoch = epoch + 1", []).expect("it can be written");
    let before = store.load().await.expect("it can be loaded");
    assert!(store.commit(term.epoch, next, &batch_of(next)).await.is_err(), "the epoch does not fence");
    assert!(store.commit(term.epoch, next, &[]).await.is_err(), "the epoch does not fence");
    assert_eq!(store.load().await.expect("it can be loaded"), before);
    assert_eq!(store.leader().await, None, "a deposed leader keeps the lock");
}

#[tokio::test]
async fn a_lock_file_that_is_gone_ends_the_term() {
    let (dir, _) = filled().await;
    let store = open(dir.path());
    let term = store.begin_term(&candidate("a")).await.expect("nobody leads");
    let next = Seq(term.seq.0 + 1);
    fs::remove_file(dir.path().join("leader.lock")).expect("it is there");
    assert!(store.commit(term.epoch, next, &batch_of(next)).await.is_err(), "the lock does not fence");
    assert_eq!(store.load().await.expect("it can be loaded").1, term);
    assert_eq!(store.leader().await, None);
}

/// What could not be tested is said, not passed over.
fn skip(what: &str) {
    let line = format!("SKIPPED {what}\n");
    eprint!("{line}");
    if let Some(path) = std::env::var_os("CHRONOS_SKIPS") {
        let file = fs::OpenOptions::new().append(true).create(true).open(path);
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("CHRONOS_SKIPS names a file");
    }
}

#[tokio::test]
async fn a_full_disk_loses_nothing() {
    let Some(mount) = Mount::new("size=3m") else { return skip("store-disk-full: needs root") };
    let dir = mount.path().join("data");
    let store = Arc::new(open(&dir));
    let ballast = dir.join("ballast");
    fs::write(&ballast, vec![0; 1 << 20]).expect("there is room");
    let term = store.begin_term(&candidate("a")).await.expect("nobody leads");
    let mut made = State { meta: store.load().await.expect("it can be loaded").0.meta, ..State::default() };
    let mut next = term.seq.0 + 1;
    let stuck = loop {
        let (store_of_call, epoch, seq) = (store.clone(), term.epoch, Seq(next));
        let mut call =
            tokio::spawn(async move { store_of_call.commit(epoch, seq, &large_batch_of(seq)).await });
        let begun = Instant::now();
        let applied = loop {
            assert!(begun.elapsed() < PATIENCE, "neither applied nor in trouble");
            match timeout(Duration::from_millis(1), &mut call).await {
                Ok(done) => break Some(done.expect("no panic")),
                Err(_) if store.trouble().is_some() => break None,
                Err(_) => {}
            }
        };
        let Some(applied) = applied else { break call };
        applied.expect("this node leads");
        large_batch_of(seq).iter().for_each(|change| made.apply(change));
        next += 1;
    };
    let trouble = store.trouble().expect("the disk is full");
    assert!(trouble.contains("full") && trouble.contains("chronos.db"), "{trouble}");
    let (state, loaded) = store.load().await.expect("reading needs no room");
    assert_eq!(loaded.seq, Seq(next - 1));
    assert!(state == made, "a torn batch can be seen");
    // Room again: the batch that waits goes through, and the trouble is over.
    fs::remove_file(&ballast).expect("it is there");
    timeout(PATIENCE, stuck).await.expect("it goes on").expect("no panic").expect("this node leads");
    large_batch_of(Seq(next)).iter().for_each(|change| made.apply(change));
    assert_eq!(store.trouble(), None);
    assert!(store.load().await.expect("it can be loaded").0 == made);
    // Full again: a leader that resigns is not held up, and what was not applied is not.
    next += 1;
    fs::write(&ballast, []).expect("an empty file needs no room");
    let mut fill = fs::OpenOptions::new().append(true).open(&ballast).expect("it is there");
    while fill.write_all(&[0; 4096]).is_ok() {}
    let (store_of_call, epoch, seq) = (store.clone(), term.epoch, Seq(next));
    let call = tokio::spawn(async move { store_of_call.commit(epoch, seq, &large_batch_of(seq)).await });
    while store.trouble().is_none() && !call.is_finished() {
        tokio::task::yield_now().await;
    }
    assert!(!call.is_finished(), "there was room left");
    timeout(PATIENCE, store.resign()).await.expect("it need not wait for the disk");
    let refused = timeout(PATIENCE, call).await.expect("it is answered").expect("no panic");
    assert!(refused.is_err());
    drop(store);
    fs::remove_file(&ballast).expect("it is there");
    assert!(open(&dir).load().await.expect("it can be loaded").0 == made);
}

/// The same jobs again and again, so that reading the state stays cheap while the files grow.
fn large_batch_of(seq: Seq) -> Vec<Change> {
    let mut changes = batch_of(seq);
    let mut job = samples::job(21);
    job.body = format!("{seq:?}{}", "x".repeat(20_000)).into();
    changes.push(Change::PutJob(Arc::new(job)));
    changes
}

#[tokio::test]
async fn a_read_only_folder_is_named() {
    let is_root = fs::metadata("/proc/self").expect("this is Linux").uid() == 0;
    let check = |dir: &Path| {
        let error = refusal(dir);
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
        let text = error.to_string();
        assert!(text.contains(&*dir.to_string_lossy()) && text.contains("writable"), "{text}");
    };
    if is_root {
        let Some(mount) = Mount::new("size=3m") else { return skip("store-read-only: needs mount") };
        let dir = mount.path().join("data");
        drop(open(&dir));
        mount.remount("ro");
        check(&dir);
        check(&mount.path().join("new"));
    } else {
        let (dir, _) = filled().await;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o555)).expect("it is ours");
        check(dir.path());
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    }
}
