//! Backup and restore.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::any;
use proptest::test_runner::{Config, RngAlgorithm, TestRng};
use scheduler::audit::Entry;

use super::*;
use crate::memory::MemoryStore;
use crate::samples::any_change;

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

/// All that a store holds: its content, every revision and the audit.
type Whole = (Content, Vec<Revision>, Vec<Entry>);

async fn whole_of(store: &Arc<dyn Store>) -> Whole {
    let (mut revisions, mut entries) = (Vec::new(), Vec::new());
    let mut query = RevisionQuery { limit: 1000, ..RevisionQuery::default() };
    loop {
        let page = within(store.revisions(&query)).await.expect("revisions can be read");
        revisions.extend(page.revisions);
        query.cursor = page.next;
        if query.cursor.is_none() {
            break;
        }
    }
    let mut query = AuditQuery { limit: 1000, ..AuditQuery::default() };
    loop {
        let page = within(store.audit(&query)).await.expect("the audit can be read");
        entries.extend(page.entries);
        query.cursor = page.next;
        if query.cursor.is_none() {
            break;
        }
    }
    (content_of(store).await, revisions, entries)
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
    let mut was = BTreeMap::new();
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

/// What befalls a store: batches, and before one of them a backup begins.
#[derive(Debug)]
struct Course {
    /// Records that are there already, so that a backup is more than one piece.
    old: u64,
    /// How many of each job are kept of those.
    kept: u64,
    batches: Vec<Vec<Change>>,
    begins: usize,
}

impl Course {
    fn of(seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let mut runner = TestRunner::new_with_rng(Config::default(), random);
        let batches = vec(vec(any_change(), 0..12), 1..25);
        let any_course = (0u64..600, 0u64..150, batches, any::<proptest::sample::Index>());
        let (old, kept, batches, begins) = any_course.new_tree(&mut runner).expect("a generator").current();
        Self { old, kept, begins: begins.index(batches.len()), batches }
    }
}

/// Says which seed it was, if the test ends here.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay: CHRONOS_BACKUP_SEED={} CHRONOS_BACKUP_CASES=1", self.0);
        }
    }
}

/// A number of the environment.
fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}={text}")))
}

/// A backup of any moment, while batches are applied, is the whole store after one of them; and so is every store that it
/// is restored into, of the same kind or another, whatever was there. `CHRONOS_BACKUP_SEED` is where seeds begin,
/// `CHRONOS_BACKUP_CASES` how many there are.
pub async fn a_backup_of_any_moment_is_restored_whole<B: Backing>(make: impl AsyncFn() -> Option<B>) {
    let first = number("CHRONOS_BACKUP_SEED").unwrap_or(0);
    let (mut seed, mut overtaken, mut cases) = (first, 0, 1);
    while seed - first < cases {
        let (Some(source), Some(target)) = (make().await, make().await) else { return };
        cases = number("CHRONOS_BACKUP_CASES").unwrap_or(source.courses());
        let _replay = Replay(seed);
        overtaken += u64::from(run_course(Course::of(seed), &source, &target).await);
        seed += 1;
    }
    eprintln!("in {overtaken} of {cases} cases batches were applied after the moment of the backup");
}

/// Whether batches were applied after the moment of the backup.
async fn run_course(course: Course, source: &impl Backing, target: &impl Backing) -> bool {
    let mut leader = Leader::of(source).await;
    leader.append((0..course.old).map(|k| ended(k % 7 + 1, k, Outcome::Failed))).await;
    let retention = Retention { count_max: course.kept, ..Retention::UNBOUNDED };
    within(leader.store.prune(retention, at(0))).await.expect("this node leads");
    leader.model.prune(retention, at(0));
    let mut was = BTreeMap::from([(leader.model.term().seq, leader.model.clone())]);
    let mut taking = None;
    for (n, batch) in course.batches.iter().enumerate() {
        if n == course.begins {
            let store = leader.store.clone();
            taking = Some(tokio::spawn(async move { backup_of(&store, Extent::Everything).await }));
            tokio::task::yield_now().await;
        }
        leader.commit(batch).await;
        was.insert(leader.model.term().seq, leader.model.clone());
    }
    let bytes = taking.expect("it begins before one of the batches").await.expect("it is taken");
    let last = leader.model.clone();
    assert_eq!(whole_of(&leader.store).await, whole_of(&of_model(last.clone())).await, "the store itself");

    let (seq, ..) = read_backup(&bytes);
    let then = was.remove(&seq).unwrap_or_else(|| panic!("the backup is of {seq:?}, before it began"));
    let then = whole_of(&of_model(then)).await;
    let other_kind: Arc<dyn Store> = Arc::new(MemoryStore::new(MemoryCore::new(1)));
    let elsewhere = backup_after_restore(&other_kind, &bytes, &then).await;
    let same_kind = target.node().await;
    let again = backup_after_restore(&same_kind, &bytes, &then).await;
    // What has come through another kind of store, and what has been restored before, is the same still.
    backup_after_restore(&same_kind, &elsewhere, &then).await;
    backup_after_restore(&other_kind, &again, &then).await;
    seq < last.term().seq
}

fn of_model(model: MemoryCore) -> Arc<dyn Store> {
    Arc::new(MemoryStore::new(model))
}

/// Restores into a store that holds something else, compares all of it with what it should be, and takes a backup of that.
async fn backup_after_restore(store: &Arc<dyn Store>, bytes: &[u8], expected: &Whole) -> Vec<u8> {
    let Term { epoch, seq } = within(store.begin_term(&candidate("b"))).await.expect("nobody else leads");
    let something: Vec<Change> = every_change().into_iter().map(|(_, change)| change).collect();
    within(store.commit(epoch, Seq(seq.0 + 1), &something)).await.expect("it leads");
    let staged = stage(store, bytes).await.expect("it is whole");
    within(store.restore(epoch, Seq(seq.0 + 2), staged, &[])).await.expect("it leads");
    assert!(whole_of(store).await == *expected, "restored: {:#?}\nwas: {expected:#?}", whole_of(store).await);
    let again = backup_of(store, Extent::Everything).await;
    within(store.resign()).await;
    again
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
