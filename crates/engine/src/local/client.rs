//! The server's connection to the supervisor: starts it, connects, and does both again for ever.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncWriteExt, WriteHalf};
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};

use scheduler::ids::TaskId;

use super::LocalOptions;
use super::formats::{Answer, FromServer, FromSupervisor, Request};
use super::layout::SOCKET;
use super::wire::{self, FrameReader, PROTOCOL};
use crate::secrets::is_setting;
use crate::{EVENTS_MAX, EngineError, Known, TaskEvent};

/// How long a request waits for a connection. A supervisor starts within some milliseconds.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// How long it waits for its answer: syncs of a busy disk take seconds, more means that the supervisor is stopped.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);
/// Pauses between attempts to connect: the first is about what a start takes.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Most requests on their way to the socket.
const QUEUE_MAX: usize = 1024;

type Reply = (Answer, Vec<u8>);

/// A request on its way, and who waits for its answer. Dropped without one, it is unknown what became of it.
struct Call {
    request: Vec<u8>,
    id: u64,
    reply: oneshot::Sender<Reply>,
}

/// See the module.
pub(super) struct Client {
    dir: PathBuf,
    /// Where to put requests, while there is a connection.
    connection: watch::Sender<Option<mpsc::Sender<Call>>>,
    events: Mutex<VecDeque<TaskEvent>>,
    arrived: Notify,
    /// Why nothing can be started.
    not_ready: Mutex<Option<String>>,
    /// What every supervisor is told first, if anything.
    lease: Mutex<Option<Duration>>,
    /// What the supervisor cannot do although all is well.
    notes: Mutex<Vec<String>>,
    next_id: std::sync::atomic::AtomicU64,
    /// How many connections there were: behind another one may be another supervisor.
    connections: std::sync::atomic::AtomicU64,
}

impl Client {
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            connection: watch::Sender::new(None),
            events: Mutex::default(),
            arrived: Notify::new(),
            not_ready: Mutex::new(Some("the supervisor of local tasks is being started".into())),
            lease: Mutex::default(),
            notes: Mutex::default(),
            next_id: std::sync::atomic::AtomicU64::new(1),
            connections: std::sync::atomic::AtomicU64::new(0),
        }
    }

    pub(super) fn not_ready(&self) -> Option<String> {
        lock(&self.not_ready).clone()
    }

    pub(super) fn set_lease(&self, until: Option<Duration>) {
        *lock(&self.lease) = until;
    }

    pub(super) fn notes(&self) -> Vec<String> {
        lock(&self.notes).clone()
    }

    pub(super) fn connections(&self) -> u64 {
        self.connections.load(std::sync::atomic::Ordering::Acquire)
    }

    /// Sends a request and waits for its answer.
    /// # Errors
    /// [`EngineError::Refused`] if an order was never sent, [`EngineError::Unknown`] if it may have been, and for questions.
    pub(super) async fn ask(&self, request: &Request) -> Result<Reply, EngineError> {
        let mut connection = self.connection.subscribe();
        let _ = timeout(CONNECT_PATIENCE, connection.wait_for(Option::is_some)).await.map(drop);
        let sender = connection.borrow().clone();
        let Some(sender) = sender else {
            let reason = self.not_ready().unwrap_or_else(|| "there is no connection".into());
            return Err(match request {
                Request::Launch { .. } | Request::Kill { .. } | Request::Forget { .. } => {
                    EngineError::Refused(reason)
                }
                _ => EngineError::Unknown(reason),
            });
        };
        let id = self.next_id.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut frame = Vec::new();
        let message = FromServer::Call { id, request: request.clone() };
        wire::put(&mut frame, &message, &[]).map_err(|error| EngineError::Refused(error.to_string()))?;
        let (reply, answer) = oneshot::channel();
        let unknown = |why: &str| EngineError::Unknown(format!("{why} ({})", self.dir.display()));
        let call = async {
            let call = Call { request: frame, id, reply };
            sender.send(call).await.map_err(|_| unknown("the connection to the supervisor broke"))?;
            answer.await.map_err(|_| unknown("the connection to the supervisor broke"))
        };
        timeout(ANSWER_PATIENCE, call)
            .await
            .unwrap_or_else(|_| Err(unknown("the supervisor does not answer")))
    }

    pub(super) async fn events(&self) -> Vec<TaskEvent> {
        loop {
            {
                let mut events = lock(&self.events);
                let count = events.len().min(EVENTS_MAX);
                if count > 0 {
                    return events.drain(..count).collect();
                }
            }
            self.arrived.notified().await;
        }
    }

    /// Connects, serves the connection until it breaks, and begins again; starts the supervisor when nobody listens.
    pub(super) async fn connect_for_ever(self: Arc<Self>, options: LocalOptions) {
        let starter = Arc::new(Starter::default());
        let mut pause = PAUSE_MIN;
        loop {
            match self.connect().await {
                Ok(stream) => match self.serve(stream).await {
                    Ok(()) => {
                        pause = PAUSE_MIN;
                        self.set_not_ready("the connection to the supervisor of local tasks was closed");
                    }
                    Err(error) => self.set_not_ready(&format!("the supervisor of local tasks: {error}")),
                },
                Err(error) => {
                    let failure = starter.start(&options);
                    let reason = failure.unwrap_or_else(|| error.to_string());
                    self.set_not_ready(&format!(
                        "no supervisor of local tasks can be reached in {}: {reason}",
                        self.dir.display()
                    ));
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// The folder is named by a descriptor, since the path of a socket has at most 107 bytes.
    async fn connect(&self) -> io::Result<UnixStream> {
        let folder = File::open(&self.dir)?;
        UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd())).await
    }

    async fn serve(&self, stream: UnixStream) -> io::Result<()> {
        let (read, mut write) = tokio::io::split(stream);
        let mut frames = FrameReader::new(read);
        let mut hello = Vec::new();
        wire::put(&mut hello, &FromServer::Hello { protocol: PROTOCOL }, &[])?;
        write.write_all(&hello).await?;
        let first = timeout(CONNECT_PATIENCE, frames.next()).await;
        match first.map_err(|_| io::Error::other("it does not answer"))?? {
            Some((FromSupervisor::Hello { protocol: PROTOCOL, .. }, _)) => {}
            Some((FromSupervisor::Hello { protocol, pid }, _)) => {
                return Err(io::Error::other(format!(
                    "process {pid} speaks protocol {protocol}, this server {PROTOCOL}: \
                     it ends by itself when its tasks have, or end it and them"
                )));
            }
            Some(_) => return Err(io::Error::other("it did not say hello")),
            None => return Ok(()),
        }
        let lease = *lock(&self.lease);
        if lease.is_some() {
            // Before any order, and whatever comes of it: nobody waits for the answer to call 0.
            let mut first = Vec::new();
            let message = FromServer::Call { id: 0, request: Request::Lease { until: lease } };
            wire::put(&mut first, &message, &[])?;
            write.write_all(&first).await?;
        }
        // All ends that still matter are told anew.
        lock(&self.events).clear();
        let (calls, queue) = mpsc::channel(QUEUE_MAX);
        let pending = Mutex::new(HashMap::new());
        *lock(&self.not_ready) = None;
        self.connections.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
        self.connection.send_replace(Some(calls));
        let outcome = tokio::select! {
            outcome = self.read_frames(&mut frames, &pending) => outcome,
            outcome = write_calls(&mut write, queue, &pending) => outcome,
        };
        self.connection.send_replace(None);
        // A connection that was good and broke: the supervisor ended, and the next one is started at once.
        match outcome {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(error),
            _ => Ok(()),
        }
    }

    async fn read_frames(
        &self,
        frames: &mut FrameReader<tokio::io::ReadHalf<UnixStream>>,
        pending: &Mutex<HashMap<u64, oneshot::Sender<Reply>>>,
    ) -> io::Result<()> {
        while let Some((message, payload)) = frames.next().await? {
            match message {
                FromSupervisor::Answer { id, answer } => {
                    if let Some(reply) = lock(pending).remove(&id) {
                        let _ = reply.send((answer, payload));
                    }
                }
                FromSupervisor::Ends(ends) => {
                    let ends = ends.into_iter().filter_map(|(task, end)| {
                        Some(TaskEvent { task: TaskId::parse(&task)?, known: Known::Ended(end.into()) })
                    });
                    lock(&self.events).extend(ends);
                    self.arrived.notify_one();
                }
                FromSupervisor::Health { reason, notes } => {
                    *lock(&self.notes) = notes;
                    let place = |reason| format!("{reason} (in {})", self.dir.display());
                    *lock(&self.not_ready) = reason.map(place);
                }
                FromSupervisor::Hello { .. } => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
        Ok(())
    }

    fn set_not_ready(&self, reason: &str) {
        *lock(&self.not_ready) = Some(reason.to_owned());
    }
}

/// Writes requests, many in one write. An entry is in `pending` before its request can be answered.
async fn write_calls(
    write: &mut WriteHalf<UnixStream>,
    mut queue: mpsc::Receiver<Call>,
    pending: &Mutex<HashMap<u64, oneshot::Sender<Reply>>>,
) -> io::Result<()> {
    let mut calls = Vec::new();
    while queue.recv_many(&mut calls, QUEUE_MAX).await > 0 {
        let mut buffer = Vec::new();
        for call in calls.drain(..) {
            buffer.extend_from_slice(&call.request);
            lock(pending).insert(call.id, call.reply);
        }
        write.write_all(&buffer).await?;
    }
    Ok(())
}

/// Starts supervisors, one at a time, and hears why they ended.
#[derive(Default)]
struct Starter {
    state: Arc<Mutex<Started>>,
}

#[derive(Default)]
struct Started {
    /// One has been started and has not ended.
    alive: bool,
    /// What the last one said when it failed.
    failure: Option<String>,
}

impl Starter {
    /// Starts one unless the last is still alive. Returns why the last one failed, if it did.
    fn start(&self, options: &LocalOptions) -> Option<String> {
        let mut state = lock(&self.state);
        if state.alive {
            return state.failure.clone();
        }
        let mut command = Command::new(&options.supervisor_program);
        command
            .args(&options.supervisor_args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        // Our configuration may hold secrets that are none of the tasks'.
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_ours(name.as_encoded_bytes())) {
            command.env_remove(name);
        }
        match command.spawn() {
            Err(error) => {
                let reason = format!("`{}` cannot be started: {error}", options.supervisor_program.display());
                state.failure = Some(reason);
            }
            Ok(child) => {
                state.alive = true;
                let shared = self.state.clone();
                // Its own thread: it waits as long as the supervisor lives, so that no zombie is left.
                std::thread::spawn(move || {
                    let outcome = child.wait_with_output();
                    let mut state = lock(&shared);
                    state.alive = false;
                    state.failure = match outcome {
                        Ok(output) if output.status.success() => None,
                        Ok(output) => {
                            let said = String::from_utf8_lossy(&output.stderr);
                            Some(format!("it ended with {}: {}", output.status, said.trim()))
                        }
                        Err(error) => Some(error.to_string()),
                    };
                });
            }
        }
        state.failure.clone()
    }
}

/// What a service manager says to the server alone: a task that finds it would speak as if it were the server.
const OF_THE_MANAGER: [&[u8]; 3] = [b"NOTIFY_SOCKET", b"WATCHDOG_PID", b"WATCHDOG_USEC"];

/// Whether a variable is for the server, and not for the supervisor.
fn is_ours(name: &[u8]) -> bool {
    is_setting(name) || OF_THE_MANAGER.contains(&name)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
