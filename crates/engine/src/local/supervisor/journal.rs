//! What must not be forgotten: the epoch, the tasks that began, the ends nobody has acknowledged.
//!
//! A file of JSON lines, appended to and synced in groups by a thread of its own, so that thousands of launches a
//! second share a few syncs. What is durable when:
//! - `begin` before the spawn, so that "never began" is definite even after the loss of power;
//! - `end` before it is told, together with the task's file `end`, which answers for the task once it is acknowledged;
//! - `epoch` before its term begins; `spawned`, `acknowledged` and `forgotten` at leisure.
//!
//! Behind the records are zeros, written ahead of time: a sync has then only what was written to take to the disk, and not
//! that the file has grown, which costs several times as much.
//!
//! When the journal has grown, or could not be written, it is written anew from memory (after a `syncfs`, so that
//! the files `end` can do without it) and put in its place by rename.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use scheduler::ids::TaskId;

use crate::local::formats::{EndFile, Record};
use crate::local::layout::{JOURNAL, task_folder};

/// Size at which the journal is written anew: some 100,000 tasks, read in well under a second.
const LENGTH_MAX: u64 = 32 * 1024 * 1024;
/// Zeros written at once: room for some hundreds of tasks.
const ROOM: u64 = 256 * 1024;
/// The longest that who waits for a record is kept for others to share its sync.
const GATHER_MAX: Duration = Duration::from_millis(2);

/// What was known when the last supervisor ended.
#[derive(Default)]
pub(super) struct Replayed {
    pub(super) boot: Option<String>,
    pub(super) epoch: u64,
    /// Tasks that began and whose end is not acknowledged.
    pub(super) open: BTreeMap<TaskId, OpenTask>,
}

/// A task of the journal.
pub(super) struct OpenTask {
    pub(super) output_max: u64,
    pub(super) spawned: Option<SpawnRecord>,
    pub(super) end: Option<EndFile>,
}

/// Which process a task was: its pid, and between which times since boot, in milliseconds, it started.
#[derive(Clone, Copy)]
pub(super) struct SpawnRecord {
    pub(super) pid: i32,
    pub(super) after_ms: u64,
    pub(super) before_ms: u64,
}

/// Who waits for a record to be durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    /// The answer to this call of this connection.
    Epoch { connection: u64, call: u64 },
    /// The spawn of this task.
    Begin(TaskId),
    /// The telling of its end.
    End(TaskId),
}

/// An order to the journal's thread; carried out in order.
pub(super) enum Order {
    /// Adds records; syncs if anyone waits.
    Append { records: Vec<Record>, waiting: Vec<Waiting> },
    /// Replaces all by these.
    Rewrite { records: Vec<Record>, waiting: Vec<Waiting> },
}

/// What became of an order.
pub(super) enum Report {
    /// These are durable. `grown`: time for an [`Order::Rewrite`].
    Durable { waiting: Vec<Waiting>, grown: bool },
    /// These are not, and nothing will be until an [`Order::Rewrite`] succeeds.
    Failed { waiting: Vec<Waiting>, reason: String },
}

/// Reads the journal, and sees to it that every end in it is in its task's folder too.
/// # Errors
/// If the disk does not do as told. A line cut short by the loss of power is not an error: nobody was told of it. Nor are
/// zeros behind the last.
pub(super) fn replay(root: &Path) -> io::Result<Replayed> {
    let mut replayed = Replayed::default();
    let text = match fs::read(root.join(JOURNAL)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(replayed),
        Err(error) => return Err(error),
    };
    let mut ends = BTreeMap::new();
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let Some(record) = line.strip_suffix(b"\n").and_then(|line| serde_json::from_slice(line).ok()) else {
            break;
        };
        replayed.take(record, &mut ends);
    }
    for (task, end) in ends {
        put_end(root, &task, &end)?;
    }
    Ok(replayed)
}

impl Replayed {
    fn take(&mut self, record: Record, ends: &mut BTreeMap<TaskId, EndFile>) {
        let parse = |text: &str| TaskId::parse(text);
        match record {
            Record::Boot(boot) => self.boot = Some(boot),
            Record::Epoch(epoch) => self.epoch = self.epoch.max(epoch),
            Record::Begin { task, output_max } => {
                if let Some(task) = parse(&task) {
                    self.open.insert(task, OpenTask { output_max, spawned: None, end: None });
                }
            }
            Record::Spawned { task, pid, after_ms, before_ms } => {
                if let Some(open) = parse(&task).and_then(|task| self.open.get_mut(&task)) {
                    open.spawned = Some(SpawnRecord { pid, after_ms, before_ms });
                }
            }
            Record::End { task, file } => {
                if let Some(task) = parse(&task) {
                    ends.insert(task.clone(), file.clone());
                    if let Some(open) = self.open.get_mut(&task) {
                        open.end = Some(file);
                    }
                }
            }
            Record::Withdrawn(task) | Record::Acknowledged(task) => {
                parse(&task).and_then(|task| self.open.remove(&task));
            }
            Record::Forgotten(task) => {
                parse(&task).and_then(|task| ends.remove(&task));
            }
        }
    }
}

/// Writes the journal anew from these records, durably, before anything else is done.
/// # Errors
/// If it could not be made durable; the old one is then still in place.
pub(super) fn rewrite(root: &Path, records: &[Record]) -> io::Result<(File, u64)> {
    let (path, new) = (root.join(JOURNAL), root.join("journal.new"));
    let bytes = encode(records)?;
    let mut file = private(&new)?;
    file.write_all(&bytes)?;
    rustix::fs::syncfs(&file)?;
    file.sync_all()?;
    fs::rename(&new, &path)?;
    File::open(root)?.sync_all()?;
    let file = OpenOptions::new().write(true).open(&path)?;
    Ok((file, bytes.len() as u64))
}

/// Writes a task's file `end`. Not synced: the journal has the same until then.
fn put_end(root: &Path, task: &TaskId, end: &EndFile) -> io::Result<()> {
    let folder = task_folder(root, task);
    let text = serde_json::to_vec(end).map_err(io::Error::other)?;
    let path = folder.join("end");
    let write = || private(&path)?.write_all(&text);
    match write() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(&folder)?;
            write()
        }
        outcome => outcome,
    }
}

/// Makes a file for our user's eyes only: other users may go through the folders to their tasks' working directories.
fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn encode(records: &[Record]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for record in records {
        serde_json::to_writer(&mut bytes, record).map_err(io::Error::other)?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}

/// The thread's side.
pub(super) struct Writer {
    root: PathBuf,
    /// `None` after a failure: what a failed sync left behind nobody can tell, so the file is not trusted again.
    file: Option<File>,
    /// Bytes of records in it, and of the whole of it.
    end: u64,
    room_until: u64,
    /// How much it has grown.
    length: u64,
    /// How long the last sync took.
    synced_in: Duration,
}

impl Writer {
    pub(super) fn new(root: PathBuf, (file, length): (File, u64)) -> Self {
        Self { root, file: Some(file), end: length, room_until: length, length, synced_in: Duration::ZERO }
    }

    /// Carries out orders until there can be none any more.
    pub(super) fn run(mut self, orders: &mpsc::Receiver<Order>, report: impl Fn(Report)) {
        let mut next = orders.recv().ok();
        // Whether orders have come while the last ones were carried out.
        let mut is_busy = false;
        while let Some(order) = next.take() {
            let (mut records, mut waiting) = match order {
                Order::Append { records, waiting } => (records, waiting),
                Order::Rewrite { records, waiting } => {
                    let outcome = self.rewrite(&records, &waiting);
                    self.report(outcome, waiting, &report);
                    next = orders.recv().ok();
                    continue;
                }
            };
            // Who is busy waits for as long as a sync takes, as more will come that can share the next one.
            let pause = if is_busy { self.synced_in.min(GATHER_MAX) } else { Duration::ZERO };
            let until = Instant::now() + pause;
            while let Ok(order) = orders.recv_timeout(until.saturating_duration_since(Instant::now())) {
                match order {
                    Order::Append { records: more, waiting: too } => {
                        records.extend(more);
                        waiting.extend(too);
                    }
                    rewrite @ Order::Rewrite { .. } => {
                        next = Some(rewrite);
                        break;
                    }
                }
            }
            let outcome = self.append(&records, !waiting.is_empty());
            self.report(outcome, waiting, &report);
            if next.is_none() {
                next = orders.try_recv().ok();
                is_busy = next.is_some();
                next = next.or_else(|| orders.recv().ok());
            }
        }
    }

    fn report(&mut self, outcome: io::Result<()>, waiting: Vec<Waiting>, report: &impl Fn(Report)) {
        match outcome {
            Ok(()) => report(Report::Durable { waiting, grown: self.length > LENGTH_MAX }),
            Err(error) => {
                self.file = None;
                let reason = format!("the journal of local tasks could not be written: {error}");
                report(Report::Failed { waiting, reason });
            }
        }
    }

    fn append(&mut self, records: &[Record], sync: bool) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Err(io::Error::other("it failed before")) };
        for record in records {
            if let Record::End { task, file } = record {
                let task = TaskId::parse(task).ok_or(io::ErrorKind::InvalidData)?;
                put_end(&self.root, &task, file)?;
            }
        }
        let bytes = encode(records)?;
        let end = self.end + bytes.len() as u64;
        if end > self.room_until {
            let until = end.next_multiple_of(ROOM);
            let zeros = usize::try_from(until - self.room_until).map_err(io::Error::other)?;
            // On a disk that is almost full there may be none for what is to come, and still some for what is.
            if file.write_all_at(&vec![0; zeros], self.room_until).is_ok() {
                self.room_until = until;
            }
        }
        file.write_all_at(&bytes, self.end)?;
        (self.end, self.length) = (end, self.length + bytes.len() as u64);
        if sync {
            let begun = Instant::now();
            rustix::fs::fdatasync(&*file)?;
            self.synced_in = begun.elapsed();
        }
        Ok(())
    }

    fn rewrite(&mut self, records: &[Record], waiting: &[Waiting]) -> io::Result<()> {
        if !waiting.is_empty() {
            for record in records {
                if let Record::End { task, file } = record {
                    let task = TaskId::parse(task).ok_or(io::ErrorKind::InvalidData)?;
                    put_end(&self.root, &task, file)?;
                }
            }
        }
        let (file, length) = rewrite(&self.root, records)?;
        self.file = Some(file);
        (self.end, self.room_until) = (length, length);
        // Growth is counted from here, so that many open tasks do not have it written anew at every turn.
        self.length = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::formats::{End, Written};

    fn end() -> EndFile {
        EndFile { end: End::Killed, output_max: 9, stdout: Written::default(), stderr: Written::default() }
    }

    fn begin(task: &str) -> Record {
        Record::Begin { task: task.into(), output_max: 9 }
    }

    #[test]
    fn what_was_told_is_known_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        let records = [
            Record::Boot("b".into()),
            Record::Epoch(3),
            begin("open-0"),
            Record::Spawned { task: "open-0".into(), pid: 7, after_ms: 1, before_ms: 2 },
            begin("ended-0"),
            Record::End { task: "ended-0".into(), file: end() },
            begin("done-0"),
            Record::End { task: "done-0".into(), file: end() },
            Record::Acknowledged("done-0".into()),
            begin("gone-0"),
            Record::End { task: "gone-0".into(), file: end() },
            Record::Acknowledged("gone-0".into()),
            Record::Forgotten("gone-0".into()),
            begin("late-0"),
            Record::Withdrawn("late-0".into()),
        ];
        let mut bytes = encode(&records).expect("encoded");
        // Torn by the loss of power: nobody was told.
        bytes.extend_from_slice(br#"{"begin":{"task":"torn-0""#);
        fs::write(root.join(JOURNAL), bytes).expect("written");
        let replayed = replay(root).expect("read");
        assert_eq!((replayed.boot.as_deref(), replayed.epoch), (Some("b"), 3));
        let open: Vec<_> = replayed.open.iter().map(|(id, open)| (id.as_str(), open.end.is_some())).collect();
        assert_eq!(open, [("ended-0", true), ("open-0", false)]);
        let has_end = |id: &str| task_folder(root, &TaskId::parse(id).expect("valid")).join("end").exists();
        assert!(has_end("done-0") && has_end("ended-0") && !has_end("gone-0") && !has_end("open-0"));
    }

    #[test]
    fn zeros_behind_the_records_are_room_for_more() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        let journal = rewrite(root, &[Record::Boot("b".into()), Record::Epoch(3)]).expect("written");
        let mut writer = Writer::new(root.to_owned(), journal);
        let length = || fs::metadata(root.join(JOURNAL)).expect("it is there").len();
        let (mut begun, mut lengths) = (0, std::collections::BTreeSet::new());
        while lengths.len() < 3 {
            let records: Vec<_> = (begun..begun + 100).map(|n| begin(&format!("t{n}-0"))).collect();
            writer.append(&records, begun % 1000 == 0).expect("written");
            begun += records.len();
            lengths.insert(length());
            let replayed = replay(root).expect("read");
            assert_eq!((replayed.epoch, replayed.open.len()), (3, begun));
        }
        assert!(lengths.iter().all(|length| length % ROOM == 0), "{lengths:?}");
        // As after a restart: what is known is written anew, and the next records stand right behind it.
        writer.rewrite(&[Record::Boot("b".into()), Record::Epoch(4)], &[]).expect("written");
        writer.append(&[begin("last-0")], true).expect("written");
        let replayed = replay(root).expect("read");
        assert_eq!((replayed.epoch, replayed.open.len()), (4, 1));
    }
}
