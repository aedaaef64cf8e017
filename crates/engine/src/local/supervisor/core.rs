//! The supervisor's state and what it does with every message. One thread, no waiting for anything.
//!
//! A task is beginning (its `begin` is on its way to the disk), spawning, running, or ended until its end is
//! acknowledged. After that, or if it never began, its folder answers for it.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, kill_process_group, test_kill_process_group, wait,
};
use scheduler::ids::TaskId;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::journal::{Order, Report, SpawnRecord, Waiting};
use super::output::{Capture, Window};
use super::processes::{Target, has_other_children};
use super::spawn::{NotSpawned, SpawnOrder, Spawned};
use crate::local::formats::{Answer, End, EndFile, FromSupervisor, Record, Request, Spec, What, Written};
use crate::local::layout::{TRASH, task_folder};
use crate::local::wire;
use crate::{EVENTS_MAX, Output, since_boot};

/// How long what a task leaves behind may take to end after TERM. Its end is told only then, so that no next attempt
/// meets it.
const LEFTOVER_GRACE: Duration = Duration::from_secs(1);
/// How often tasks that are being ended are looked after.
const STOPPING_TICK: Duration = Duration::from_millis(10);
/// How often the rest is: a broken journal, a full disk, strays.
const TICK: Duration = Duration::from_secs(1);
/// How long a process may refuse even KILL (it waits for a disk, say) before its task is over all the same: it will
/// never again run a line of its program.
const UNKILLABLE: Duration = Duration::from_secs(10);
/// Descriptors that a task needs here: two pipes, two files, two in passing.
const DESCRIPTORS_PER_TASK: u64 = 6;

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
    /// A process was started, or not.
    Spawned(TaskId, Result<Spawned, NotSpawned>),
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
    /// Exits of children that no spawn has claimed yet.
    early: HashMap<i32, WaitStatus>,
    spawning: usize,
    stopping: BTreeSet<TaskId>,
    sweeps: u64,
    sweep_out: bool,
    strays_possible: bool,
    records: Vec<Record>,
    waiting: Vec<Waiting>,
    journal: Sender<Order>,
    journal_broken: Option<String>,
    rewriting: bool,
    disk_full: Option<String>,
    told_health: Option<String>,
    spawner: Sender<SpawnOrder>,
    sweeper: Sender<SweepOrder>,
    to_self: UnboundedSender<Message>,
    buffer: Rc<RefCell<Vec<u8>>>,
    tasks_max: usize,
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
            early: HashMap::new(),
            spawning: 0,
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
            told_health: None,
            spawner: parts.spawner,
            sweeper: parts.sweeper,
            to_self: parts.to_self,
            buffer: Rc::new(RefCell::new(vec![0; 64 * 1024])),
            tasks_max: usize::try_from(parts.descriptors.saturating_sub(64) / DESCRIPTORS_PER_TASK)
                .unwrap_or(1),
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
            Message::Spawned(task, outcome) => self.spawned(task, outcome),
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
        let health = self.journal_broken.clone().or_else(|| self.disk_full.clone());
        if health != self.told_health {
            log(health.as_deref().unwrap_or("all is well again"));
            self.told_health.clone_from(&health);
            self.broadcast(&FromSupervisor::Health { reason: health });
        }
    }

    /// Reaps every child that has ended.
    pub(super) fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            match self.by_pid.remove(&pid) {
                Some(task) => self.exited(&task, status),
                None if self.spawning > 0 => {
                    self.early.insert(pid, status);
                }
                // An orphan that a task left to us.
                None => {}
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

/// What servers ask.
impl Core {
    fn opened(&mut self, connection: u64, out: UnboundedSender<Outgoing>) {
        self.connections.insert(connection, out);
        self.send(connection, &FromSupervisor::Health { reason: self.told_health.clone() }, &[]);
        self.tell_all(connection);
    }

    fn called(&mut self, asked: Asked, request: Request) {
        let answer = match request {
            Request::BeginTerm { epoch } => self.begin_term(asked, epoch),
            Request::Launch { epoch, task, spec, not_after } => {
                valid(&task).and_then(|task| self.launch(asked, epoch, task, spec, not_after))
            }
            Request::Kill { epoch, task, grace, not_after } => {
                valid(&task).and_then(|task| self.kill(epoch, &task, grace, not_after)).map(Some)
            }
            Request::Reconcile { epoch, tasks } => self.reconcile(epoch, &tasks).map(Some),
            Request::Acknowledge { tasks } => {
                tasks.iter().filter_map(|task| TaskId::parse(task)).for_each(|task| self.acknowledge(&task));
                Ok(Some(Answer::Done))
            }
            Request::Output { task, stderr, offset } => {
                match valid(&task).and_then(|task| self.output(&task, stderr, offset)) {
                    Err(answer) => Err(answer),
                    Ok(Output { bytes, next, dropped, complete }) => {
                        return self.answer(asked, Answer::Output { next, dropped, complete }, &bytes);
                    }
                }
            }
            Request::Forget { task } => valid(&task).and_then(|task| self.forget(&task)).map(Some),
            Request::Running => {
                let active = self.tasks.iter().filter(|(_, task)| !matches!(task.phase, Phase::Ended { .. }));
                Ok(Some(Answer::Tasks(active.map(|(id, _)| id.to_string()).collect())))
            }
        };
        if let Some(answer) = answer.unwrap_or_else(Some) {
            self.answer(asked, answer, &[]);
        }
    }

    fn check(&self, ours: u64) -> Result<(), Answer> {
        match ours.cmp(&self.epoch) {
            std::cmp::Ordering::Less => Err(Answer::Deposed { ours, newest: self.epoch }),
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Greater => Err(Answer::Refused("the term has not begun here".into())),
        }
    }

    /// From here on the epoch counts; the answer waits until it does so for ever.
    fn begin_term(&mut self, asked: Asked, epoch: u64) -> Result<Option<Answer>, Answer> {
        if epoch < self.epoch {
            return Err(Answer::Deposed { ours: epoch, newest: self.epoch });
        }
        if let Some(reason) = &self.journal_broken {
            return Err(Answer::Unknown(reason.clone()));
        }
        self.epoch = epoch;
        let waiting = Waiting::Epoch { connection: asked.connection, call: asked.call };
        self.write(Record::Epoch(epoch), Some(waiting));
        Ok(None)
    }

    fn launch(
        &mut self,
        asked: Asked,
        epoch: u64,
        id: TaskId,
        spec: Spec,
        not_after: Duration,
    ) -> Result<Option<Answer>, Answer> {
        self.check(epoch)?;
        let known = self.known(&id)?;
        if known != What::NeverBegan {
            return Ok(Some(Answer::Known(vec![known])));
        }
        if since_boot() > not_after {
            return Err(Answer::TooLate);
        }
        if let Some(reason) = &self.journal_broken {
            return Err(Answer::Refused(reason.clone()));
        }
        if self.active >= self.tasks_max {
            return Err(Answer::Refused(format!(
                "{} tasks run, and the limit of open files (ulimit -n) allows no more",
                self.active
            )));
        }
        let output_max = spec.output_max;
        self.write(Record::Begin { task: id.to_string(), output_max }, Some(Waiting::Begin(id.clone())));
        self.active += 1;
        let phase = Phase::Beginning { spec, not_after, asked, kill: None };
        self.tasks.insert(id, Task { output_max, phase });
        Ok(None)
    }

    fn kill(
        &mut self,
        epoch: u64,
        id: &TaskId,
        grace: Duration,
        not_after: Duration,
    ) -> Result<Answer, Answer> {
        self.check(epoch)?;
        if since_boot() > not_after {
            return Err(Answer::TooLate);
        }
        // What has ended by itself is not killed.
        self.reap();
        match self.tasks.get_mut(id).map(|task| &mut task.phase) {
            Some(Phase::Beginning { kill, .. } | Phase::Spawning { kill, .. }) => {
                *kill = Some(kill.map_or(grace, |before| before.min(grace)));
            }
            Some(Phase::Running(_)) => self.stop(id, grace),
            Some(Phase::Ended { .. }) | None => {}
        }
        Ok(Answer::Done)
    }

    fn reconcile(&mut self, epoch: u64, ids: &[String]) -> Result<Answer, Answer> {
        self.check(epoch)?;
        let known: Result<_, _> = ids.iter().map(|id| self.known(&valid(id)?)).collect();
        known.map(Answer::Known)
    }

    fn acknowledge(&mut self, id: &TaskId) {
        if matches!(self.tasks.get(id), Some(Task { phase: Phase::Ended { durable: true, .. }, .. })) {
            self.tasks.remove(id);
            self.write(Record::Acknowledged(id.to_string()), None);
        }
    }

    fn output(&mut self, id: &TaskId, stderr: bool, offset: u64) -> Result<Output, Answer> {
        let folder = task_folder(&self.root, id);
        let path = folder.join(if stderr { "stderr" } else { "stdout" });
        let pick =
            |file: &EndFile| Window::new(file.output_max, if stderr { file.stderr } else { file.stdout });
        let (window, ended) = match self.tasks.get(id).map(|task| &task.phase) {
            Some(Phase::Beginning { .. } | Phase::Spawning { .. }) => return Ok(Output::default()),
            Some(Phase::Running(running)) => (running.captures[usize::from(stderr)].window(), false),
            Some(Phase::Ended { file, .. }) => (pick(file), true),
            None => match read_end(&folder) {
                Ok(Some(file)) => (pick(&file), true),
                Ok(None) => return Err(Answer::NoSuchTask),
                Err(error) => return Err(Answer::Unknown(format!("{}: {error}", folder.display()))),
            },
        };
        window.read(&path, offset, ended).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Answer::NoSuchTask,
            _ => Answer::Unknown(format!("{}: {error}", path.display())),
        })
    }

    fn forget(&mut self, id: &TaskId) -> Result<Answer, Answer> {
        if self.tasks.contains_key(id) {
            return Err(Answer::Refused("it runs, or its end is not acknowledged".into()));
        }
        let trash = self.root.join(TRASH).join(id.as_str());
        match fs::rename(task_folder(&self.root, id), &trash) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Answer::NoSuchTask),
            Err(error) => return Err(Answer::Refused(format!("its folder could not be removed: {error}"))),
            Ok(()) => {}
        }
        self.write(Record::Forgotten(id.to_string()), None);
        std::thread::spawn(move || fs::remove_dir_all(trash));
        Ok(Answer::Done)
    }

    /// What may be told of a task: an end only once it is durable.
    fn known(&self, id: &TaskId) -> Result<What, Answer> {
        match self.tasks.get(id).map(|task| &task.phase) {
            Some(Phase::Ended { file, durable: true, .. }) => Ok(What::Ended(file.end.clone())),
            Some(_) => Ok(What::Running),
            None => match read_end(&task_folder(&self.root, id)) {
                Ok(Some(file)) => Ok(What::Ended(file.end)),
                Ok(None) => Ok(What::NeverBegan),
                Err(error) => {
                    Err(Answer::Unknown(format!("the folder of task {id} cannot be read: {error}")))
                }
            },
        }
    }
}

/// The life of a task.
impl Core {
    fn durable(&mut self, waiting: Vec<Waiting>, grown: bool) {
        self.journal_broken = None;
        self.rewriting = false;
        let mut ends = Vec::new();
        for waiting in waiting {
            match waiting {
                Waiting::Epoch { connection, call } => {
                    self.answer(Asked { connection, call }, Answer::Done, &[]);
                    self.tell_all(connection);
                }
                Waiting::Begin(id) => self.begun(id),
                Waiting::End(id) => {
                    let Some(Task { phase: Phase::Ended { file, durable, asked }, .. }) =
                        self.tasks.get_mut(&id)
                    else {
                        continue;
                    };
                    if std::mem::replace(durable, true) {
                        continue;
                    }
                    let (end, asked) = (file.end.clone(), asked.take());
                    self.active -= 1;
                    if let Some(asked) = asked {
                        self.answer(asked, Answer::Known(vec![What::Ended(end.clone())]), &[]);
                    }
                    ends.push((id.to_string(), end));
                }
            }
        }
        for chunk in ends.chunks(EVENTS_MAX) {
            self.broadcast(&FromSupervisor::Ends(chunk.to_vec()));
        }
        if grown {
            self.rewrite();
        }
    }

    fn not_durable(&mut self, waiting: Vec<Waiting>, reason: String) {
        for waiting in waiting {
            match waiting {
                Waiting::Epoch { connection, call } => {
                    self.answer(Asked { connection, call }, Answer::Unknown(reason.clone()), &[]);
                }
                Waiting::Begin(id) => self.withdraw(&id, Answer::Refused(reason.clone())),
                // Kept in memory, and in the next rewrite.
                Waiting::End(_) => {}
            }
        }
        // The first reason is the true one: after it, nothing is tried until the next rewrite.
        self.journal_broken.get_or_insert(reason);
        self.rewriting = false;
    }

    /// Its `begin` is durable: it may be spawned, if it is still time.
    fn begun(&mut self, id: TaskId) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let Phase::Beginning { spec, not_after, asked, kill } = &task.phase else { return };
        let (spec, not_after, asked, kill) = (spec.clone(), *not_after, *asked, *kill);
        if kill.is_some() {
            let file = ended_without_output(End::Killed, task.output_max);
            return self.end(&id, file, Some(asked));
        }
        task.phase = Phase::Spawning { asked, kill };
        self.spawning += 1;
        let _ = self.spawner.send(SpawnOrder { task: id, spec, not_after });
    }

    /// It was not begun after all.
    fn withdraw(&mut self, id: &TaskId, answer: Answer) {
        let Some(task) = self.tasks.remove(id) else { return };
        if let Phase::Beginning { asked, .. } | Phase::Spawning { asked, .. } = task.phase {
            self.active -= 1;
            self.write(Record::Withdrawn(id.to_string()), None);
            self.answer(asked, answer, &[]);
        }
    }

    fn spawned(&mut self, id: TaskId, outcome: Result<Spawned, NotSpawned>) {
        self.spawning -= 1;
        let Some(Task { output_max, phase: Phase::Spawning { asked, kill } }) = self.tasks.get(&id) else {
            return;
        };
        let (output_max, asked, kill) = (*output_max, *asked, *kill);
        match outcome {
            Ok(spawned) => match self.running(&id, output_max, spawned) {
                Ok(()) => {
                    self.answer(asked, Answer::Known(vec![What::Running]), &[]);
                    if let Some(grace) = kill {
                        self.stop(&id, grace);
                    }
                }
                Err(error) => {
                    let end = End::failed(format!("its output could not be taken: {error}"));
                    self.end(&id, ended_without_output(end, output_max), Some(asked));
                }
            },
            Err(NotSpawned::TooLate) => self.withdraw(&id, Answer::TooLate),
            Err(NotSpawned::Failed(message)) => {
                self.end(&id, ended_without_output(End::failed(message), output_max), Some(asked));
            }
            Err(NotSpawned::Known) => {
                let end = End::lost("its folder was there already, so it may have run before");
                self.end(&id, ended_without_output(end, output_max), Some(asked));
            }
        }
        if self.spawning == 0 {
            self.early.clear();
        }
    }

    fn running(&mut self, id: &TaskId, output_max: u64, spawned: Spawned) -> io::Result<()> {
        let SpawnRecord { pid, after_ms, before_ms } = spawned.record;
        self.write(Record::Spawned { task: id.to_string(), pid, after_ms, before_ms }, None);
        let leader = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidData)?;
        let folder = task_folder(&self.root, id);
        let capture = |pipe, name| Capture::new(pipe, folder.join(name), output_max).map(Rc::new);
        let both =
            capture(spawned.stdout, "stdout").and_then(|out| Ok([out, capture(spawned.stderr, "stderr")?]));
        let captures = both.inspect_err(|_| {
            let _ = kill_process_group(leader, Signal::KILL);
        })?;
        let followers = [0, 1].map(|stream: usize| {
            let (capture, buffer, to_self) =
                (captures[stream].clone(), self.buffer.clone(), self.to_self.clone());
            tokio::task::spawn_local(async move {
                capture.follow(&buffer, |error| drop(to_self.send(Message::DiskFull(error)))).await;
            })
        });
        let running =
            Running { record: spawned.record, pid: leader, captures, followers, exit: None, stopping: None };
        self.tasks.insert(id.clone(), Task { output_max, phase: Phase::Running(Box::new(running)) });
        match self.early.remove(&pid) {
            Some(status) => self.exited(id, status),
            None => {
                self.by_pid.insert(pid, id.clone());
            }
        }
        Ok(())
    }

    /// The main process is over. If others of its group are not, they are ended first.
    fn exited(&mut self, id: &TaskId, status: WaitStatus) {
        self.strays_possible = true;
        let Some(running) = running_mut(&mut self.tasks, id) else { return };
        running.exit = Some(status);
        let empty = is_empty(running.pid);
        if running.stopping.is_none() && empty {
            return self.finish(id);
        }
        if running.stopping.is_none() {
            signal(running.pid, Signal::TERM);
            let force_at = Instant::now() + LEFTOVER_GRACE;
            let stopping = Stopping { ordered: false, force_at, offered: true, gone_at_sweep: None };
            running.stopping = Some(stopping);
            self.stopping.insert(id.clone());
        }
        self.press(id);
        self.sweep();
    }

    /// Takes the order to end a task. A second order can only shorten the grace.
    fn stop(&mut self, id: &TaskId, grace: Duration) {
        let Some(running) = running_mut(&mut self.tasks, id) else { return };
        let force_at = Instant::now() + grace.min(Duration::from_secs(30 * 86_400));
        match &mut running.stopping {
            Some(stopping) => stopping.force_at = stopping.force_at.min(force_at),
            None => {
                if grace.is_zero() {
                    signal(running.pid, Signal::KILL);
                } else {
                    signal(running.pid, Signal::TERM);
                    // A stopped process hears TERM only when it goes on.
                    signal(running.pid, Signal::CONT);
                }
                running.stopping =
                    Some(Stopping { ordered: true, force_at, offered: false, gone_at_sweep: None });
                self.stopping.insert(id.clone());
            }
        }
        self.sweep();
    }

    /// Looks after a task that is being ended.
    fn press(&mut self, id: &TaskId) {
        let Some(running) = running_mut(&mut self.tasks, id) else {
            self.stopping.remove(id);
            return;
        };
        let Some(stopping) = &mut running.stopping else { return };
        let forced = Instant::now() >= stopping.force_at;
        if forced {
            signal(running.pid, Signal::KILL);
        }
        if running.exit.is_none() {
            return;
        }
        // KILL reaches all of a group at once, forks included; who has got it runs no more.
        if !stopping.ordered && (forced || is_empty(running.pid)) {
            return self.finish(id);
        }
        if stopping.ordered && stopping.gone_at_sweep.is_none() && (forced || is_empty(running.pid)) {
            stopping.gone_at_sweep = Some(self.sweeps + 1);
        }
        if Instant::now() >= stopping.force_at + UNKILLABLE {
            self.finish(id);
        }
    }

    /// Has the processes of all tasks that were ordered to end looked for, wherever they are. One look at a time.
    fn sweep(&mut self) {
        if self.sweep_out {
            return;
        }
        let mut targets = Vec::new();
        for id in &self.stopping {
            let Some(running) = running_mut(&mut self.tasks, id) else { continue };
            let Some(stopping) = running.stopping.as_mut().filter(|stopping| stopping.ordered) else {
                continue;
            };
            let forced = Instant::now() >= stopping.force_at;
            let offer = !std::mem::replace(&mut stopping.offered, true);
            let signal = if forced { Some(Signal::KILL) } else { offer.then_some(Signal::TERM) };
            targets.push((id.clone(), Target { task: id.to_string(), leader: running.record.pid, signal }));
        }
        if !targets.is_empty() {
            self.sweeps += 1;
            self.sweep_out = true;
            let _ = self.sweeper.send(SweepOrder::Tasks { targets, number: self.sweeps });
        }
    }

    fn swept(&mut self, tasks: &[(TaskId, usize)], number: u64) {
        self.sweep_out = false;
        for (id, alive) in tasks {
            let Some(running) = running_mut(&mut self.tasks, id) else { continue };
            let gone = running.stopping.as_ref().and_then(|stopping| stopping.gone_at_sweep);
            if *alive == 0 && gone.is_some_and(|since| number >= since) {
                self.finish(id);
            }
        }
    }

    /// All of the task is over: takes the rest of its output and writes down its end.
    fn finish(&mut self, id: &TaskId) {
        self.stopping.remove(id);
        let Some(Task { output_max, phase: Phase::Running(running) }) = self.tasks.get(id) else { return };
        running.followers.iter().for_each(JoinHandle::abort);
        let killed = running.stopping.as_ref().is_some_and(|stopping| stopping.ordered);
        let end = match running.exit {
            Some(_) if killed => End::Killed,
            Some(status) => end_of(status),
            None => End::Killed,
        };
        let on_full = |error| drop(self.to_self.send(Message::DiskFull(error)));
        let [stdout, stderr] =
            [0, 1].map(|stream: usize| running.captures[stream].drain(&self.buffer, on_full));
        let file = EndFile { end, output_max: *output_max, stdout, stderr };
        self.end(id, file, None);
    }

    fn end(&mut self, id: &TaskId, file: EndFile, asked: Option<Asked>) {
        let record = Record::End { task: id.to_string(), file: file.clone() };
        self.write(record, Some(Waiting::End(id.clone())));
        if let Some(task) = self.tasks.get_mut(id) {
            task.phase = Phase::Ended { file, durable: false, asked };
        }
    }
}

/// The journal and the connections.
impl Core {
    fn write(&mut self, record: Record, waiting: Option<Waiting>) {
        self.records.push(record);
        self.waiting.extend(waiting);
    }

    /// Has the journal written anew from all that is known.
    fn rewrite(&mut self) {
        if std::mem::replace(&mut self.rewriting, true) {
            return;
        }
        self.flush();
        let mut records = vec![Record::Boot(self.boot.clone()), Record::Epoch(self.epoch)];
        let mut waiting = Vec::new();
        for (id, task) in &self.tasks {
            let name = id.to_string();
            records.push(Record::Begin { task: name.clone(), output_max: task.output_max });
            match &task.phase {
                Phase::Beginning { .. } | Phase::Spawning { .. } => {}
                Phase::Running(running) => {
                    let SpawnRecord { pid, after_ms, before_ms } = running.record;
                    records.push(Record::Spawned { task: name, pid, after_ms, before_ms });
                }
                Phase::Ended { file, durable, .. } => {
                    records.push(Record::End { task: name, file: file.clone() });
                    if !durable {
                        waiting.push(Waiting::End(id.clone()));
                    }
                }
            }
        }
        let _ = self.journal.send(Order::Rewrite { records, waiting });
    }

    /// Tells one connection every end that nobody has acknowledged.
    fn tell_all(&self, connection: u64) {
        let ends = self.tasks.iter().filter_map(|(id, task)| match &task.phase {
            Phase::Ended { file, durable: true, .. } => Some((id.to_string(), file.end.clone())),
            _ => None,
        });
        for chunk in ends.collect::<Vec<_>>().chunks(EVENTS_MAX) {
            self.send(connection, &FromSupervisor::Ends(chunk.to_vec()), &[]);
        }
    }

    fn answer(&self, asked: Asked, answer: Answer, payload: &[u8]) {
        self.send(asked.connection, &FromSupervisor::Answer { id: asked.call, answer }, payload);
    }

    fn broadcast(&self, message: &FromSupervisor) {
        self.connections.keys().for_each(|connection| self.send(*connection, message, &[]));
    }

    fn send(&self, connection: u64, message: &FromSupervisor, payload: &[u8]) {
        let Some(out) = self.connections.get(&connection) else { return };
        let mut frame = Vec::new();
        match wire::put(&mut frame, message, payload) {
            Ok(()) => {
                let answers = matches!(message, FromSupervisor::Answer { .. });
                drop(out.send(Outgoing { frame, answers }));
            }
            Err(error) => log(&format!("a message could not be sent: {error}")),
        }
    }
}

fn running_mut<'a>(tasks: &'a mut HashMap<TaskId, Task>, id: &TaskId) -> Option<&'a mut Running> {
    match &mut tasks.get_mut(id)?.phase {
        Phase::Running(running) => Some(running),
        _ => None,
    }
}

/// Whether nobody is left in the group. Asked in one breath with the reaping of its leader, and then without a pause:
/// the number is not given away as long as one member lives, and not soon after.
fn is_empty(group: Pid) -> bool {
    test_kill_process_group(group) == Err(rustix::io::Errno::SRCH)
}

fn signal(group: Pid, signal: Signal) {
    let _ = kill_process_group(group, signal);
}

fn end_of(status: WaitStatus) -> End {
    let (exit, signal) = (status.exit_status(), status.terminating_signal());
    let message = match (exit, signal) {
        (Some(0), _) => return End::Succeeded,
        (Some(exit), _) => format!("exit status {exit}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => "ended in an unknown way".into(),
    };
    End::Failed { exit, signal, message }
}

pub(super) fn ended_without_output(end: End, output_max: u64) -> EndFile {
    EndFile { end, output_max, stdout: Written::default(), stderr: Written::default() }
}

/// How a task ended that is not in memory; `None` if it has no folder.
fn read_end(folder: &Path) -> io::Result<Option<EndFile>> {
    match fs::read(folder.join("end")) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !folder.try_exists()? => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let end = End::lost("its folder is there, but nothing says how it ended");
            Ok(Some(ended_without_output(end, 0)))
        }
        Err(error) => Err(error),
    }
}

/// Whether a page can be written.
fn probe(root: &Path) -> io::Result<()> {
    let path = root.join("probe");
    let outcome = fs::write(&path, [1; 4096]);
    let _ = fs::remove_file(path);
    outcome
}

fn valid(id: &str) -> Result<TaskId, Answer> {
    TaskId::parse(id).ok_or_else(|| Answer::Refused("not a task id".into()))
}

/// To `supervisor.log`. A full disk is no reason to die, as it would be for `eprintln`.
pub(super) fn log(message: &str) {
    let _ = writeln!(io::stderr(), "{} s since boot: {message}", since_boot().as_secs());
}
