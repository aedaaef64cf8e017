//! An engine of pure memory that obeys the contract, misbehaves on command and keeps a ledger of what it began.
//!
//! A [`FakeMachine`] is what outlives a server: its tasks, its highest epoch. [`FakeMachine::engine`] opens a handle on
//! it; a second handle is a server that was restarted, or a rival.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use scheduler::ids::{Epoch, TaskId};
use scheduler::run::AttemptEnd;
use tokio::sync::Notify;

use crate::{
    EVENTS_MAX, Engine, EngineError, Forgotten, Keep, Known, Launch, OUTPUT_PIECE_MAX, Output, Readiness,
    Stream, TaskEvent, since_boot,
};

/// Most old tasks that one call forgets.
const FORGET_MAX: u64 = 10;

/// What the machine does with one order to launch, after epoch, age and id were found good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Begins it, and it ends at once.
    End(AttemptEnd),
    /// Begins it; it runs until [`FakeMachine::end`] or a kill.
    Run,
    /// Begins it as [`Behaviour::Run`]; only KILL ends it, so a kill takes until its grace has passed.
    RunStubbornly,
    /// Does not begin it and says so.
    Refuse(String),
    /// The order is lost on its way: it does not begin, and the caller learns nothing.
    LoseOrder,
    /// It begins and runs, but the answer is lost: the caller learns nothing.
    LoseAnswer,
    /// The order arrives this much later, and then does as told. Its age is checked on arrival.
    Delay(Duration, Box<Behaviour>),
    /// The caller learns nothing, at once; the order is still on its way and arrives this much later, as [`Behaviour::Delay`].
    Late(Duration, Box<Behaviour>),
}

type Script = Box<dyn Fn(&Launch) -> Behaviour + Send + Sync>;
type Clock = Box<dyn Fn() -> Duration + Send + Sync>;

/// What outlives a server: the tasks and the highest epoch. Cloning gives another view of the same machine.
#[derive(Clone)]
pub struct FakeMachine {
    shared: Arc<Shared>,
}

struct Shared {
    machine: Mutex<Machine>,
    script: Mutex<Script>,
    clock: Mutex<Clock>,
}

#[derive(Default)]
struct Machine {
    epoch: Epoch,
    tasks: HashMap<TaskId, Task>,
    /// Ends nobody has acknowledged, in the order in which they came.
    untold: BTreeMap<u64, TaskId>,
    sequence: u64,
    begun: Vec<(Epoch, TaskId)>,
    too_late: Vec<TaskId>,
    incarnation: u64,
    not_ready: Option<String>,
    /// Why no output can be read.
    unread: Option<String>,
    old: u64,
    handles: Vec<std::sync::Weak<Mailbox>>,
}

struct Task {
    known: Known,
    stubborn: bool,
    sequence: u64,
    output_max: u64,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

#[derive(Default)]
struct Mailbox {
    events: Mutex<VecDeque<TaskEvent>>,
    arrived: Notify,
}

/// One server's connection to a [`FakeMachine`].
pub struct FakeEngine {
    machine: FakeMachine,
    mailbox: Arc<Mailbox>,
}

impl Default for FakeMachine {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeMachine {
    /// A machine on which every task succeeds at once.
    pub fn new() -> Self {
        let script: Script = Box::new(|_| Behaviour::End(AttemptEnd::Succeeded));
        let clock: Clock = Box::new(since_boot);
        let shared =
            Shared { machine: Mutex::default(), script: Mutex::new(script), clock: Mutex::new(clock) };
        Self { shared: Arc::new(shared) }
    }

    /// What to do with launches from now on.
    pub fn script(&self, script: impl Fn(&Launch) -> Behaviour + Send + Sync + 'static) {
        *lock(&self.shared.script) = Box::new(script);
    }

    /// The clock that `not_after` is compared with; [`since_boot`] unless set.
    pub fn clock(&self, clock: impl Fn() -> Duration + Send + Sync + 'static) {
        *lock(&self.shared.clock) = Box::new(clock);
    }

    /// Opens a handle. Ends that nobody has acknowledged are told to it.
    pub fn engine(&self) -> FakeEngine {
        let mailbox = Arc::new(Mailbox::default());
        let mut machine = self.lock();
        machine.handles.retain(|handle| handle.strong_count() > 0);
        machine.handles.push(Arc::downgrade(&mailbox));
        machine.tell_all_to(&mailbox);
        FakeEngine { machine: self.clone(), mailbox }
    }

    /// Ends a running task. Nothing happens to one that does not run.
    pub fn end(&self, task: &TaskId, end: AttemptEnd) {
        self.lock().end(task, end);
    }

    /// Has the task write these bytes.
    pub fn write(&self, task: &TaskId, stream: Stream, bytes: &[u8]) {
        if let Some(task) = self.lock().tasks.get_mut(task) {
            match stream {
                Stream::Stdout => task.stdout.extend_from_slice(bytes),
                Stream::Stderr => task.stderr.extend_from_slice(bytes),
            }
        }
    }

    /// The ledger: every task that began, in order, with the epoch that launched it.
    pub fn begun(&self) -> Vec<(Epoch, TaskId)> {
        self.lock().begun.clone()
    }

    /// Orders that were refused because they arrived after their time.
    pub fn too_late(&self) -> Vec<TaskId> {
        self.lock().too_late.clone()
    }

    /// The engine starts anew and knows nothing of before, neither tasks nor epoch. Only its ledger stays.
    pub fn restart_without_memory(&self) {
        let mut machine = self.lock();
        (machine.epoch, machine.incarnation) = (Epoch::default(), machine.incarnation + 1);
        machine.tasks.clear();
        machine.untold.clear();
    }

    /// The tasks that run now, in no order.
    pub fn running(&self) -> Vec<TaskId> {
        let machine = self.lock();
        machine
            .tasks
            .iter()
            .filter(|(_, task)| task.known == Known::Running)
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// Says why nothing can be started, or that it can again. Orders are taken all the same; see [`Behaviour::Refuse`].
    pub fn set_readiness(&self, readiness: Readiness) {
        self.lock().not_ready = match readiness {
            Readiness::Ready => None,
            Readiness::NotReady { reason } => Some(reason),
        };
    }

    /// From here on no output can be read.
    pub fn set_unread(&self, why: &str) {
        self.lock().unread = Some(why.into());
    }

    /// Keeps so many old tasks; one call forgets ten of them.
    pub fn set_old(&self, tasks: u64) {
        self.lock().old = tasks;
    }

    /// How many of them are left.
    pub fn old(&self) -> u64 {
        self.lock().old
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        lock(&self.shared.machine)
    }

    fn now(&self) -> Duration {
        lock(&self.shared.clock)()
    }
}

impl Machine {
    fn check(&self, ours: Epoch) -> Result<(), EngineError> {
        match ours.cmp(&self.epoch) {
            std::cmp::Ordering::Less => Err(EngineError::Deposed { ours, newest: self.epoch }),
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Greater => Err(EngineError::Refused("the term has not begun here".into())),
        }
    }

    fn begin(&mut self, epoch: Epoch, launch: &Launch, stubborn: bool) {
        let task = Task {
            known: Known::Running,
            stubborn,
            sequence: 0,
            output_max: launch.spec.output_max,
            stdout: Vec::new(),
            stderr: Vec::new(),
        };
        self.tasks.insert(launch.task.clone(), task);
        self.begun.push((epoch, launch.task.clone()));
    }

    fn end(&mut self, id: &TaskId, end: AttemptEnd) {
        let Some(task) = self.tasks.get_mut(id).filter(|task| task.known == Known::Running) else { return };
        self.sequence += 1;
        task.sequence = self.sequence;
        task.known = Known::Ended(end);
        self.untold.insert(self.sequence, id.clone());
        let event = TaskEvent { task: id.clone(), known: task.known.clone() };
        for mailbox in self.handles.iter().filter_map(std::sync::Weak::upgrade) {
            mailbox.put(event.clone());
        }
    }

    fn tell_all_to(&self, mailbox: &Mailbox) {
        for id in self.untold.values() {
            if let Some(task) = self.tasks.get(id) {
                mailbox.put(TaskEvent { task: id.clone(), known: task.known.clone() });
            }
        }
    }
}

impl Mailbox {
    fn put(&self, event: TaskEvent) {
        lock(&self.events).push_back(event);
        self.arrived.notify_one();
    }
}

impl FakeEngine {
    /// The second half of a launch, on arrival.
    fn arrive(&self, epoch: Epoch, launch: &Launch, behaviour: Behaviour) -> Result<Known, EngineError> {
        let mut machine = self.machine.lock();
        machine.check(epoch)?;
        if let Some(task) = machine.tasks.get(&launch.task) {
            return Ok(task.known.clone());
        }
        if self.machine.now() > launch.not_after {
            machine.too_late.push(launch.task.clone());
            return Err(EngineError::TooLate);
        }
        match behaviour {
            Behaviour::End(end) => {
                machine.begin(epoch, launch, false);
                machine.end(&launch.task, end);
                Ok(machine.tasks[&launch.task].known.clone())
            }
            Behaviour::Run | Behaviour::Delay(..) | Behaviour::Late(..) => {
                machine.begin(epoch, launch, false);
                Ok(Known::Running)
            }
            Behaviour::RunStubbornly => {
                machine.begin(epoch, launch, true);
                Ok(Known::Running)
            }
            Behaviour::Refuse(reason) => Err(EngineError::Refused(reason)),
            Behaviour::LoseOrder => Err(EngineError::Unknown("the order was lost".into())),
            Behaviour::LoseAnswer => {
                machine.begin(epoch, launch, false);
                Err(EngineError::Unknown("the answer was lost".into()))
            }
        }
    }
}

#[async_trait]
impl Engine for FakeEngine {
    fn name(&self) -> &'static str {
        "fake"
    }

    async fn begin_term(&self, epoch: Epoch) -> Result<(), EngineError> {
        let mut machine = self.machine.lock();
        if epoch < machine.epoch {
            return Err(EngineError::Deposed { ours: epoch, newest: machine.epoch });
        }
        machine.epoch = epoch;
        machine.tell_all_to(&self.mailbox);
        Ok(())
    }

    async fn launch(&self, epoch: Epoch, launch: Launch) -> Result<Known, EngineError> {
        {
            let machine = self.machine.lock();
            machine.check(epoch)?;
            if let Some(task) = machine.tasks.get(&launch.task) {
                return Ok(task.known.clone());
            }
        }
        let mut behaviour = lock(&self.machine.shared.script)(&launch);
        if let Behaviour::Late(time, then) = behaviour {
            let on_its_way = Self { machine: self.machine.clone(), mailbox: self.mailbox.clone() };
            tokio::spawn(async move {
                tokio::time::sleep(time).await;
                drop(on_its_way.arrive(epoch, &launch, *then));
            });
            return Err(EngineError::Unknown("the answer was lost, and the order is late".into()));
        }
        while let Behaviour::Delay(time, then) = behaviour {
            tokio::time::sleep(time).await;
            behaviour = *then;
        }
        self.arrive(epoch, &launch, behaviour)
    }

    async fn kill(
        &self,
        epoch: Epoch,
        task: &TaskId,
        grace: Duration,
        not_after: Duration,
    ) -> Result<(), EngineError> {
        let mut machine = self.machine.lock();
        machine.check(epoch)?;
        if self.machine.now() > not_after {
            return Err(EngineError::TooLate);
        }
        if machine.tasks.get(task).is_some_and(|task| task.stubborn) {
            let (machine, task) = (self.machine.clone(), task.clone());
            tokio::spawn(async move {
                tokio::time::sleep(grace).await;
                machine.end(&task, AttemptEnd::Killed);
            });
        } else {
            machine.end(task, AttemptEnd::Killed);
        }
        Ok(())
    }

    async fn reconcile(&self, epoch: Epoch, tasks: &[TaskId]) -> Result<Vec<Known>, EngineError> {
        let machine = self.machine.lock();
        machine.check(epoch)?;
        let known = |id| machine.tasks.get(id).map_or(Known::NeverBegan, |task: &Task| task.known.clone());
        Ok(tasks.iter().map(known).collect())
    }

    async fn events(&self) -> Vec<TaskEvent> {
        loop {
            {
                let mut events = lock(&self.mailbox.events);
                let count = events.len().min(EVENTS_MAX);
                if count > 0 {
                    return events.drain(..count).collect();
                }
            }
            self.mailbox.arrived.notified().await;
        }
    }

    async fn acknowledge(&self, tasks: &[TaskId]) -> Result<(), EngineError> {
        let mut machine = self.machine.lock();
        for id in tasks {
            if let Some(sequence) = machine.tasks.get(id).map(|task| task.sequence) {
                machine.untold.remove(&sequence);
            }
        }
        Ok(())
    }

    /// Keeps the head only: the fake's bound is on what is told, not on memory.
    async fn output(&self, task: &TaskId, stream: Stream, offset: u64) -> Result<Output, EngineError> {
        let machine = self.machine.lock();
        if let Some(why) = &machine.unread {
            return Err(EngineError::Unknown(why.clone()));
        }
        let task = machine.tasks.get(task).ok_or_else(|| EngineError::NoSuchTask(task.clone()))?;
        let written = match stream {
            Stream::Stdout => &task.stdout,
            Stream::Stderr => &task.stderr,
        };
        let kept = written.len().min(usize::try_from(task.output_max).unwrap_or(usize::MAX));
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(kept);
        let to = (from + OUTPUT_PIECE_MAX).min(kept);
        let complete = to == kept && task.known != Known::Running;
        let dropped = (written.len() - kept) as u64;
        Ok(Output { bytes: written[from..to].to_vec(), next: to as u64, dropped, complete })
    }

    fn holds(&self, task: &TaskId) -> bool {
        self.machine.lock().tasks.contains_key(task)
    }

    fn readiness(&self) -> Readiness {
        match self.machine.lock().not_ready.clone() {
            None => Readiness::Ready,
            Some(reason) => Readiness::NotReady { reason },
        }
    }

    async fn forget_old(&self, _: Keep) -> Result<Forgotten, EngineError> {
        let mut machine = self.machine.lock();
        let tasks = machine.old.min(FORGET_MAX);
        machine.old -= tasks;
        Ok(Forgotten { tasks, bytes: tasks, more: machine.old > 0 })
    }

    fn incarnation(&self) -> u64 {
        self.machine.lock().incarnation
    }
}

/// Nothing here panics while it holds a lock, so a poisoned one is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
