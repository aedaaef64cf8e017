//! The supervisor's state and what it does with every message. One thread, no waiting for anything.
//!
//! A task is beginning (its `begin` is on its way to the disk), spawning, running, or ended until its end is
//! acknowledged. After that, or if it never began, its folder answers for it.

mod life;
mod records;
mod requests;
mod room;
mod unclaimed;

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc::{Sender, SyncSender};
use std::time::Duration;

use rustix::process::{Pid, WaitOptions, WaitStatus, wait};
use scheduler::ids::TaskId;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::room::Room;
use self::unclaimed::Unclaimed;
use super::cgroup::TaskCgroup;
use super::journal::{Order, Report, SpawnRecord, Waiting};
use super::output::Capture;
use super::processes::{Target, has_other_children};
use super::spawn::{NotSpawned, SpawnOrder, Spawned};
use crate::local::LEASE_GRACE;
use crate::local::formats::{End, EndFile, FromSupervisor, Record, Request, Spec, Written};
use crate::since_boot;

/// How often tasks that are being ended are looked after.
const STOPPING_TICK: Duration = Duration::from_millis(10);
/// How often the rest is: a broken journal, a full disk, strays.
const TICK: Duration = Duration::from_secs(1);

/// Why nothing runs on a node that is cut off.
const ISOLATED: &str =
    "this node has not been in touch with the store for too long, so its tasks are ended and none is started";

/// A frame for a server.
pub(super) struct Outgoing {
    pub(super) frame: Vec<u8>,
    /// Whether it answers a call.
    pub(super) answers: bool,
}

/// What the supervisor hears.
pub(super) enum Message {
    /// A server said hello; what is sent to `out` goes to it.
    Opened { connection: u64, out: UnboundedSender<Outgoing> },
    /// It is gone.
    Closed { connection: u64 },
    /// It asks.
    Called { connection: u64, call: u64, request: Request },
    /// The journal did as told, or did not.
    Journal(Report),
    /// A process was started by the order of this number, or not.
    Spawned { task: TaskId, order: u64, outcome: Result<Spawned, NotSpawned> },
    /// A look at the processes of tasks that are being ended: begun after this many orders, and who was alive.
    Swept { tasks: Vec<(TaskId, usize)>, number: u64 },
    /// Output could not be kept.
    DiskFull(io::Error),
}

/// An order to the thread that looks at processes.
pub(super) enum SweepOrder {
    /// Looks for these tasks' processes.
    Tasks { targets: Vec<(TaskId, Target)>, number: u64 },
    /// Ends those of all tasks but these.
    Strays { living: HashSet<String>, as_of: Duration },
    /// Removes the control group of a task that is over.
    Remove(TaskCgroup),
}

/// Who waits for the answer to a launch.
#[derive(Clone, Copy)]
struct Asked {
    connection: u64,
    call: u64,
}

enum Phase {
    Beginning { spec: Spec, not_after: Duration, asked: Asked, kill: Option<Duration> },
    Spawning { asked: Asked, kill: Option<Duration> },
    Running(Box<Running>),
    Ended { file: EndFile, durable: bool, asked: Option<Asked> },
}

struct Task {
    output_max: u64,
    phase: Phase,
}

struct Running {
    record: SpawnRecord,
    pid: Pid,
    captures: [Rc<Capture>; 2],
    followers: [JoinHandle<()>; 2],
    exit: Option<WaitStatus>,
    stopping: Option<Stopping>,
    cgroup: TaskCgroup,
    /// Where its first stage says why it failed, if it has one.
    first_stage: Option<UnixStream>,
}

/// A task that is being ended, or whose main process has left others behind.
struct Stopping {
    /// Whether someone ordered it: then its end is `Killed`, and processes outside of its group are looked for.
    ordered: bool,
    /// From when on it is done by force.
    force_at: Instant,
    /// Whether the processes outside of its group have been sent TERM.
    offered: bool,
    /// The number of the first sweep that began after its group was gone.
    gone_at_sweep: Option<u64>,
}

/// See the module.
pub(super) struct Core {
    root: PathBuf,
    boot: String,
    epoch: u64,
    tasks: HashMap<TaskId, Task>,
    by_pid: HashMap<i32, TaskId>,
    connections: HashMap<u64, UnboundedSender<Outgoing>>,
    /// Started and not over; what keeps the supervisor from ending.
    active: usize,
    unclaimed: Unclaimed<WaitStatus>,
    stopping: BTreeSet<TaskId>,
    sweeps: u64,
    sweep_out: bool,
    strays_possible: bool,
    records: Vec<Record>,
    waiting: Vec<Waiting>,
    journal: Sender<Order>,
    journal_broken: Option<String>,
    /// Until when the server is in touch with the store, if that matters here.
    lease: Option<Duration>,
    isolation_told: bool,
    rewriting: bool,
    disk_full: Option<String>,
    /// What the log was told last of what is wrong.
    logged: Option<String>,
    told_health: Option<String>,
    /// Tasks whose folder could not be read when they were last asked for, as the log was told.
    unreadable: HashSet<String>,
    spawner: Sender<SpawnOrder>,
    sweeper: Sender<SweepOrder>,
    to_self: UnboundedSender<Message>,
    buffer: Rc<RefCell<Vec<u8>>>,
    room: Room,
    notes: Vec<String>,
    /// Tells a thread of its own that there is something in the trash. A word that waits already says so for all.
    trash: SyncSender<()>,
}

/// What the core is made of.
pub(super) struct Parts {
    pub(super) root: PathBuf,
    pub(super) boot: String,
    pub(super) epoch: u64,
    pub(super) ended: Vec<(TaskId, EndFile)>,
    pub(super) journal: Sender<Order>,
    pub(super) spawner: Sender<SpawnOrder>,
    pub(super) sweeper: Sender<SweepOrder>,
    pub(super) to_self: UnboundedSender<Message>,
    pub(super) descriptors: u64,
    pub(super) notes: Vec<String>,
    pub(super) trash: SyncSender<()>,
}

impl Core {
    pub(super) fn new(parts: Parts) -> Self {
        let ended = parts.ended.into_iter().map(|(id, file)| {
            let output_max = file.output_max;
            (id, Task { output_max, phase: Phase::Ended { file, durable: true, asked: None } })
        });
        Self {
            root: parts.root,
            boot: parts.boot,
            epoch: parts.epoch,
            tasks: ended.collect(),
            by_pid: HashMap::new(),
            connections: HashMap::new(),
            active: 0,
            unclaimed: Unclaimed::new(),
            stopping: BTreeSet::new(),
            sweeps: 0,
            sweep_out: false,
            strays_possible: false,
            records: Vec::new(),
            waiting: Vec::new(),
            journal: parts.journal,
            journal_broken: None,
            rewriting: false,
            disk_full: None,
            logged: None,
            told_health: None,
            unreadable: HashSet::new(),
            lease: None,
            isolation_told: false,
            spawner: parts.spawner,
            sweeper: parts.sweeper,
            to_self: parts.to_self,
            buffer: Rc::new(RefCell::new(vec![0; 64 * 1024])),
            room: Room::new(parts.descriptors),
            notes: parts.notes,
            trash: parts.trash,
        }
    }

    /// Whether nothing runs and nothing is on its way to the disk.
    pub(super) fn is_idle(&self) -> bool {
        self.active == 0 && self.records.is_empty()
    }

    /// Whether no server is there.
    pub(super) fn is_alone(&self) -> bool {
        self.connections.is_empty()
    }

    /// When to call [`Core::tick`].
    pub(super) fn tick_after(&self) -> Duration {
        if self.stopping.is_empty() { TICK } else { STOPPING_TICK }
    }

    /// Takes one message.
    pub(super) fn take(&mut self, message: Message) {
        match message {
            Message::Opened { connection, out } => self.opened(connection, out),
            Message::Closed { connection } => {
                self.connections.remove(&connection);
            }
            Message::Called { connection, call, request } => self.called(Asked { connection, call }, request),
            Message::Journal(Report::Durable { waiting, grown }) => self.durable(waiting, grown),
            Message::Journal(Report::Failed { waiting, reason }) => self.not_durable(waiting, reason),
            Message::Spawned { task, order, outcome } => {
                self.unclaimed.told(order);
                self.spawned(task, outcome);
            }
            Message::Swept { tasks, number } => self.swept(&tasks, number),
            Message::DiskFull(error) => {
                let reason = format!("output of local tasks cannot be kept: {error}");
                self.disk_full.get_or_insert(reason);
            }
        }
    }

    /// Hands over what the messages since the last call have to write, as one group, and tells a change of health.
    pub(super) fn flush(&mut self) {
        if !self.records.is_empty() {
            let (records, waiting) = (std::mem::take(&mut self.records), std::mem::take(&mut self.waiting));
            let _ = self.journal.send(Order::Append { records, waiting });
        }
        let wrong = self.journal_broken.clone().or_else(|| self.disk_full.clone());
        if wrong != self.logged {
            log(wrong.as_deref().unwrap_or("all is well again"));
            self.logged.clone_from(&wrong);
        }
        // Being full is nothing wrong, and may come and go many times a minute.
        let full = self.room.look(self.active);
        let health = wrong.or(full);
        if health != self.told_health {
            self.told_health.clone_from(&health);
            self.broadcast(&FromSupervisor::Health { reason: health, notes: self.notes.clone() });
        }
    }

    /// Reaps every child that has ended.
    pub(super) fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            match self.by_pid.remove(&pid) {
                Some(task) => self.exited(&task, status),
                // Not told of yet, or an orphan that a task left to us.
                None => self.unclaimed.put(pid, status, since_boot()),
            }
        }
    }

    /// What is to be done from time to time.
    pub(super) fn tick(&mut self) {
        for task in self.stopping.iter().cloned().collect::<Vec<_>>() {
            self.press(&task);
        }
        self.sweep();
    }

    /// What is to be done every [`TICK`].
    pub(super) fn slow_tick(&mut self) {
        self.look_at_lease();
        self.unclaimed.expire();
        if self.journal_broken.is_some() {
            self.rewrite();
        }
        if self.disk_full.is_some() && probe(&self.root).is_ok() {
            self.disk_full = None;
        }
        if self.strays_possible {
            self.strays_possible = has_other_children(|pid| self.by_pid.contains_key(&pid));
            if self.strays_possible {
                let living = self.tasks.iter().filter(|(_, task)| !matches!(task.phase, Phase::Ended { .. }));
                let living = living.map(|(id, _)| id.to_string()).collect();
                let _ = self.sweeper.send(SweepOrder::Strays { living, as_of: since_boot() });
            }
        }
    }
}

impl Core {
    /// Whether the server has had a lease and has lost it.
    fn is_isolated(&self) -> bool {
        self.lease.is_some_and(|until| since_boot() > until)
    }

    /// Ends everything once the lease is over: others may run it again, and count on it.
    fn look_at_lease(&mut self) {
        if !self.is_isolated() {
            self.isolation_told = false;
            return;
        }
        if !std::mem::replace(&mut self.isolation_told, true) {
            log(ISOLATED);
        }
        let all: Vec<TaskId> = self.tasks.keys().cloned().collect();
        for id in all {
            match self.tasks.get_mut(&id).map(|task| &mut task.phase) {
                Some(Phase::Beginning { kill, .. } | Phase::Spawning { kill, .. }) => {
                    *kill = Some(Duration::ZERO);
                }
                Some(Phase::Running(running))
                    if running.stopping.as_ref().is_none_or(|stopping| !stopping.ordered) =>
                {
                    self.stop(&id, LEASE_GRACE);
                }
                Some(Phase::Running(running)) => {
                    // Someone wants it dead already, and may want to wait for longer.
                    let force_at = Instant::now() + LEASE_GRACE;
                    if let Some(stopping) = &mut running.stopping {
                        stopping.force_at = stopping.force_at.min(force_at);
                    }
                }
                Some(Phase::Ended { .. }) | None => {}
            }
        }
    }
}

pub(super) fn ended_without_output(end: End, output_max: u64) -> EndFile {
    EndFile { end, output_max, stdout: Written::default(), stderr: Written::default() }
}

/// Whether a page can be written.
fn probe(root: &Path) -> io::Result<()> {
    let path = root.join("probe");
    let outcome = fs::write(&path, [1; 4096]);
    let _ = fs::remove_file(path);
    outcome
}

/// To `supervisor.log`. A full disk is no reason to die, as it would be for `eprintln`.
pub(super) fn log(message: &str) {
    let _ = writeln!(io::stderr(), "{} s since boot: {message}", since_boot().as_secs());
}
