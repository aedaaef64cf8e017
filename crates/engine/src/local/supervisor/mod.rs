//! The supervisor: one process per data folder, the parent of all its tasks, which outlives the server.
//!
//! It has a session of its own, so that no terminal and no restart of the server ends it. It ends by itself when it has
//! had neither tasks nor a server for [`Supervise::idle_exit`]; on SIGTERM as soon as it has no tasks; SIGHUP and SIGINT
//! it ignores. All it knows is on disk: the next one goes on where it ended.
//!
//! If it dies with tasks running, they are ended by the next one, which the server starts at once, and settled as
//! lost. Threads: this one decides; one writes the journal; some spawn; one looks at `/proc`.

mod cgroup;
mod core;
mod journal;
mod output;
mod processes;
mod spawn;

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use scheduler::ids::TaskId;
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;

use self::cgroup::{Cgroups, TaskCgroup};
use self::core::{Core, Message, Outgoing, Parts, SweepOrder, ended_without_output, log};
use self::journal::{Replayed, Writer};
use self::spawn::{SpawnOrder, Spawner};
use super::formats::{End, EndFile, FromServer, FromSupervisor, Record};
use super::layout::{ID, LOCK, LOG, SOCKET, TASKS, TRASH};
use super::wire::{self, FrameReader, PROTOCOL};

/// Most requests of one server that are being answered at once; it bounds what is held for a server that does not read.
const CALLS_MAX: usize = 1024;
/// Most servers at once: the leader, its predecessor, someone who looks.
const CONNECTIONS_MAX: usize = 64;
/// Most descriptors we ask for; each task needs six.
const DESCRIPTORS_MAX: u64 = 65_536;
/// Most bytes of log that a new supervisor leaves in place.
const LOG_MAX: u64 = 1024 * 1024;
/// How long to wait for the last supervisor, which may be ending.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// Messages taken before their records are written as one group.
const GROUP_MAX: usize = 1024;

/// What a supervisor is told.
#[derive(Clone, Debug)]
pub struct Supervise {
    /// Its folder, made if it is not there. One living supervisor each.
    pub dir: PathBuf,
    /// How long to stay without tasks and without a server.
    pub idle_exit: Duration,
    /// The arguments with which this very program calls [`super::launch::run`].
    pub launcher_args: Vec<OsString>,
}

/// Why there is no supervisor.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// Another one has the folder. Not a fault: two servers may have started one each.
    #[error("a supervisor is alive in {}", dir.display())]
    AlreadyRuns {
        /// Whose folder.
        dir: PathBuf,
    },
    /// A step of its start failed.
    #[error("{step} in {} failed", dir.display())]
    Start {
        /// Which.
        step: &'static str,
        /// Where.
        dir: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
}

impl Supervise {
    /// A supervisor of this folder that stays idle for a minute.
    pub fn new(dir: impl Into<PathBuf>, launcher_args: impl IntoIterator<Item = OsString>) -> Self {
        let launcher_args = launcher_args.into_iter().collect();
        Self { dir: dir.into(), idle_exit: Duration::from_secs(60), launcher_args }
    }
}

/// Is the supervisor of the folder until it has nothing more to do. Takes the process over: its working directory,
/// its session, its standard streams (the log is `supervisor.log` in the folder), its signals, all its children.
/// # Errors
/// [`SuperviseError`], before anything was started.
pub fn run(supervise: &Supervise) -> Result<(), SuperviseError> {
    let at = |step: &'static str| {
        let dir = supervise.dir.clone();
        move |cause: io::Error| SuperviseError::Start { step, dir, cause }
    };
    close_inherited();
    let lock = enter(&supervise.dir).map_err(at("opening the folder"))?;
    take_lock(&lock, &supervise.dir)?;
    detach().map_err(at("detaching from the server"))?;
    let root = Path::new(".");
    let descriptors = raise_descriptors();
    let folder = folder_id(root).map_err(at("reading the id"))?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(at("reading the boot id"))?;
    let boot = boot.trim().to_owned();
    let replayed = journal::replay(root).map_err(at("reading the journal"))?;
    let epoch = replayed.epoch;
    let ended = settle(replayed, &folder, &boot);
    let cgroups = Cgroups::detect(root, &folder);
    let journal =
        journal::rewrite(root, &records_of(&boot, epoch, &ended)).map_err(at("writing the journal"))?;
    let writer = Writer::new(root.to_owned(), journal);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(at("starting the runtime"))?;
    let start = Start { folder, boot, epoch, ended, writer, descriptors, cgroups: cgroups.clone() };
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, serve(supervise, start)).map_err(at("listening"))?;
    cgroups.leave();
    drop(lock);
    Ok(())
}

/// What was found and made before the first server is heard.
struct Start {
    folder: String,
    boot: String,
    epoch: u64,
    ended: Vec<(TaskId, EndFile)>,
    writer: Writer,
    descriptors: Rlimit,
    cgroups: Cgroups,
}

/// Makes the folder, goes there and opens the lock. Being there also makes the socket's path short enough.
fn enter(dir: &Path) -> io::Result<File> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    std::env::set_current_dir(dir)?;
    if rustix::process::geteuid().is_root() {
        // Tasks of other users must get to their working directories: they may go through, and not look around.
        fs::set_permissions(".", fs::Permissions::from_mode(0o711))?;
    }
    fs::create_dir_all(TASKS)?;
    fs::create_dir_all(TRASH)?;
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(LOCK)
}

/// The lock is held by this process and, until they have become their programs, by its children: who gets it can
/// be sure that every process of the last supervisor bears its mark.
fn take_lock(lock: &File, dir: &Path) -> Result<(), SuperviseError> {
    let until = std::time::Instant::now() + LOCK_PATIENCE;
    loop {
        match flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) if std::os::unix::net::UnixStream::connect(SOCKET).is_ok() => {
                return Err(SuperviseError::AlreadyRuns { dir: dir.to_owned() });
            }
            Err(_) if std::time::Instant::now() < until => std::thread::sleep(Duration::from_millis(10)),
            Err(_) => return Err(SuperviseError::AlreadyRuns { dir: dir.to_owned() }),
        }
    }
}

/// Closes what our parent did not mean to give us, and what would else go on to every task. All that is opened in
/// this process is to be closed on exec; what is not was there before.
fn close_inherited() {
    let entries = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let descriptors: Vec<i32> =
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for descriptor in descriptors.into_iter().filter(|descriptor| *descriptor > 2) {
        #[expect(unsafe_code, reason = "there is no safe way to name a descriptor that nobody owns")]
        // SAFETY: only the flags are read, which is harmless for any number, an owned or a closed one too.
        let flags = rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(descriptor) });
        if flags.is_ok_and(|flags| !flags.contains(rustix::io::FdFlags::CLOEXEC)) {
            #[expect(unsafe_code, reason = "there is no safe way to close a descriptor that nobody owns")]
            // SAFETY: it came through exec, so no value of this process owns it.
            drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
        }
    }
}

/// Leaves the server's session and streams, and asks for the orphans of tasks.
fn detach() -> io::Result<()> {
    // Fails for the leader of a group, which a shell makes us when started by hand; then the terminal stays ours.
    let _ = rustix::process::setsid();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    if fs::metadata(LOG).is_ok_and(|log| log.len() > LOG_MAX) {
        fs::remove_file(LOG)?;
    }
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(LOG)?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(rustix::stdio::dup2_stderr(&log)?)
}

/// Raises the limit of descriptors and returns the old one, which tasks get.
fn raise_descriptors() -> Rlimit {
    let before = getrlimit(Resource::Nofile);
    let most = before.maximum.unwrap_or(DESCRIPTORS_MAX).min(DESCRIPTORS_MAX);
    if before.current.is_some_and(|current| current < most) {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: before.maximum });
    }
    before
}

/// The name of this folder, which marks its processes: made once, and random, so that a copied folder is the only
/// way to get it twice.
fn folder_id(root: &Path) -> io::Result<String> {
    let path = root.join(ID);
    match fs::read_to_string(&path) {
        Ok(id) if !id.trim().is_empty() => Ok(id.trim().to_owned()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => {
            let id = fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned();
            fs::write(root.join("id.new"), &id)?;
            File::open(root.join("id.new"))?.sync_all()?;
            fs::rename(root.join("id.new"), path)?;
            Ok(id)
        }
    }
}

/// Ends what the last supervisor left running, and settles its tasks.
fn settle(replayed: Replayed, folder: &str, boot: &str) -> Vec<(TaskId, EndFile)> {
    let rebooted = replayed.boot.as_deref().is_some_and(|last| last != boot);
    if !rebooted {
        let unsettled = replayed.open.values().filter(|task| task.end.is_none());
        unsettled.filter_map(|task| task.spawned).for_each(processes::end_recorded);
    }
    let since = std::time::Instant::now();
    while processes::end_all(folder) > 0 && since.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let why =
        if rebooted { "the machine was restarted while it ran" } else { "its supervisor died while it ran" };
    let settled = replayed.open.into_iter().map(|(id, task)| {
        let lost = || {
            log(&format!("task {id} is lost: {why}"));
            lost(&id, End::lost(why), task.output_max)
        };
        let file = task.end.unwrap_or_else(lost);
        (id, file)
    });
    settled.collect()
}

/// A lost task keeps the output it had. If a stream had outgrown its bound, where its tail begins nobody knows.
fn lost(id: &TaskId, end: End, output_max: u64) -> EndFile {
    let folder = super::layout::task_folder(Path::new("."), id);
    let written = |name: &str| {
        let total = fs::metadata(folder.join(name)).map_or(0, |file| file.len());
        let kept_until = (total >= output_max).then_some(output_max / 2);
        super::formats::Written { total, kept_until }
    };
    let (stdout, stderr) = (written("stdout"), written("stderr"));
    EndFile { stdout, stderr, ..ended_without_output(end, output_max) }
}

fn records_of(boot: &str, epoch: u64, ended: &[(TaskId, EndFile)]) -> Vec<Record> {
    let mut records = vec![Record::Boot(boot.to_owned()), Record::Epoch(epoch)];
    for (id, file) in ended {
        records.push(Record::Begin { task: id.to_string(), output_max: file.output_max });
        records.push(Record::End { task: id.to_string(), file: file.clone() });
    }
    records
}

/// Starts the threads, then takes messages until there is nothing more to do.
async fn serve(supervise: &Supervise, start: Start) -> io::Result<()> {
    let root = PathBuf::from(".");
    let (to_core, mut messages) = unbounded_channel();
    let (journal, journal_orders) = mpsc::channel();
    let (spawner, spawn_orders) = mpsc::channel();
    let (sweeper, sweep_orders) = mpsc::channel();
    // Handlers, not SIG_IGN: a program begins with the default for what its parent handled.
    let mut children = signal(SignalKind::child())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let _ignored: Vec<Signal> = [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::quit()]
        .into_iter()
        .chain([SignalKind::user_defined1(), SignalKind::user_defined2(), SignalKind::alarm()])
        .map(signal)
        .collect::<io::Result<_>>()?;
    start_journal(start.writer, journal_orders, to_core.clone());
    let inherited = Spawner::inherited();
    let folder = start.folder.clone();
    let descriptors = start.descriptors;
    let notes = start.cgroups.notes().to_vec();
    let (cgroups, launcher_args) = (start.cgroups, supervise.launcher_args.clone());
    let spawner_of = Spawner { root: root.clone(), folder, inherited, descriptors, cgroups, launcher_args };
    start_spawners(spawner_of, spawn_orders, &to_core);
    start_sweeper(start.folder, sweep_orders, to_core.clone());
    let mut core = Core::new(Parts {
        root,
        boot: start.boot,
        epoch: start.epoch,
        ended: start.ended,
        journal,
        spawner,
        sweeper,
        to_self: to_core.clone(),
        descriptors: getrlimit(Resource::Nofile).current.unwrap_or(DESCRIPTORS_MAX),
        notes,
        trash: start_trash(),
    });
    listen(to_core)?;
    log(&format!("supervisor {} is ready", std::process::id()));
    let reason = main_loop(supervise, &mut core, &mut messages, &mut children, &mut terminate).await;
    log(reason);
    let _ = fs::remove_file(SOCKET);
    Ok(())
}

/// Takes messages until it is time to end; says why.
async fn main_loop(
    supervise: &Supervise,
    core: &mut Core,
    messages: &mut UnboundedReceiver<Message>,
    children: &mut Signal,
    terminate: &mut Signal,
) -> &'static str {
    let mut terminating = false;
    let mut busy_at = Instant::now();
    let mut slow_at = Instant::now();
    let mut tick_at = Instant::now();
    loop {
        tokio::select! {
            Some(message) = messages.recv() => {
                core.take(message);
                for _ in 0..GROUP_MAX {
                    let Ok(message) = messages.try_recv() else { break };
                    core.take(message);
                }
            }
            Some(()) = children.recv() => core.reap(),
            Some(()) = terminate.recv() => {
                log("told to end; will do so when no task runs");
                terminating = true;
            }
            () = tokio::time::sleep_until(tick_at.min(slow_at)) => {}
        }
        let now = Instant::now();
        if now >= tick_at {
            core.tick();
            tick_at = now + core.tick_after();
        }
        tick_at = tick_at.min(now + core.tick_after());
        if now >= slow_at {
            core.slow_tick();
            slow_at = now + Duration::from_secs(1);
        }
        core.flush();
        if !core.is_idle() || !core.is_alone() {
            busy_at = now;
        }
        if core.is_idle() && terminating {
            return "ends as told";
        }
        if now >= busy_at + supervise.idle_exit {
            return "ends: no task and no server";
        }
    }
}

fn start_journal(writer: Writer, orders: mpsc::Receiver<journal::Order>, to_core: UnboundedSender<Message>) {
    std::thread::spawn(move || writer.run(&orders, |report| drop(to_core.send(Message::Journal(report)))));
}

/// Removes what is in the trash, now and whenever it is told of more. What is still to be removed is on the disk alone,
/// however much it is.
fn start_trash() -> mpsc::SyncSender<()> {
    let (trash, more) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        loop {
            for folder in fs::read_dir(TRASH).into_iter().flatten().flatten() {
                let _ = fs::remove_dir_all(folder.path());
            }
            if more.recv().is_err() {
                return;
            }
        }
    });
    trash
}

/// More than one, since a spawn waits for the kernel most of its time; few, since more only get into each other's way.
fn start_spawners(spawner: Spawner, orders: mpsc::Receiver<SpawnOrder>, to_core: &UnboundedSender<Message>) {
    let (spawner, orders) = (Arc::new(spawner), Arc::new(Mutex::new(orders)));
    let count = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 4);
    for _ in 0..count {
        let (spawner, orders, to_core) = (spawner.clone(), orders.clone(), to_core.clone());
        std::thread::spawn(move || {
            loop {
                let order = orders.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok(order) = order else { return };
                let outcome = spawner.spawn(&order);
                let SpawnOrder { number, task, .. } = order;
                if to_core.send(Message::Spawned { task, order: number, outcome }).is_err() {
                    return;
                }
            }
        });
    }
}

fn start_sweeper(folder: String, orders: mpsc::Receiver<SweepOrder>, to_core: UnboundedSender<Message>) {
    std::thread::spawn(move || {
        let mut seen = std::collections::HashSet::new();
        let mut full: Vec<TaskCgroup> = Vec::new();
        while let Ok(order) = orders.recv() {
            match order {
                SweepOrder::Tasks { targets, number } => {
                    let (ids, targets): (Vec<_>, Vec<_>) = targets.into_iter().unzip();
                    let tasks = ids.into_iter().zip(processes::sweep(&folder, &targets)).collect();
                    let _ = to_core.send(Message::Swept { tasks, number });
                }
                SweepOrder::Strays { living, as_of } => {
                    processes::end_strays(&folder, &living, as_of, &mut seen)
                }
                // What could not be ended at once is tried again with the next.
                SweepOrder::Remove(cgroup) => full.push(cgroup),
            }
            full.retain(|cgroup| !cgroup.remove());
        }
    });
}

/// Listens at the socket, for processes of the same user only.
fn listen(to_core: UnboundedSender<Message>) -> io::Result<()> {
    match fs::remove_file(SOCKET) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(SOCKET)?;
    fs::set_permissions(SOCKET, fs::Permissions::from_mode(0o600))?;
    tokio::task::spawn_local(async move {
        let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        for connection in 0.. {
            let Ok(permit) = free.clone().acquire_owned().await else { return };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    log(&format!("a connection could not be accepted: {error}"));
                    // Out of descriptors, most likely; at once it would fail again.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let to_core = to_core.clone();
            tokio::task::spawn_local(async move {
                if let Err(error) = connection_of(stream, connection, &to_core).await {
                    log(&format!("connection {connection} was closed: {error}"));
                }
                let _ = to_core.send(Message::Closed { connection });
                drop(permit);
            });
        }
    });
    Ok(())
}

/// One server, from hello to the end.
async fn connection_of(
    stream: UnixStream,
    connection: u64,
    to_core: &UnboundedSender<Message>,
) -> io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    let own = rustix::process::geteuid().as_raw();
    if peer != own && peer != 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("user {peer} is not {own}")));
    }
    let (read, mut write) = stream.into_split();
    let mut frames = FrameReader::new(read);
    let mut hello = Vec::new();
    wire::put(&mut hello, &FromSupervisor::Hello { protocol: PROTOCOL, pid: std::process::id() }, &[])?;
    write.write_all(&hello).await?;
    let first = tokio::time::timeout(Duration::from_secs(10), frames.next()).await?;
    match first? {
        Some((FromServer::Hello { protocol: PROTOCOL }, _)) => {}
        Some((FromServer::Hello { protocol }, _)) => {
            return Err(io::Error::other(format!("it speaks protocol {protocol}, not {PROTOCOL}")));
        }
        Some((FromServer::Call { .. }, _)) => return Err(io::Error::other("it did not say hello")),
        None => return Ok(()),
    }
    let (out, outgoing) = unbounded_channel();
    let _ = to_core.send(Message::Opened { connection, out });
    let calls = Semaphore::new(CALLS_MAX);
    tokio::select! {
        outcome = read_calls(&mut frames, connection, to_core, &calls) => outcome,
        outcome = write_frames(write, outgoing, &calls) => outcome,
    }
}

async fn read_calls(
    frames: &mut FrameReader<tokio::net::unix::OwnedReadHalf>,
    connection: u64,
    to_core: &UnboundedSender<Message>,
    calls: &Semaphore,
) -> io::Result<()> {
    while let Some((message, _)) = frames.next().await? {
        let FromServer::Call { id: call, request } = message else {
            return Err(io::Error::other("it said hello twice"));
        };
        if let Ok(permit) = calls.acquire().await {
            permit.forget();
        }
        let _ = to_core.send(Message::Called { connection, call, request });
    }
    Ok(())
}

/// Writes what there is in few writes. Every answer gives its place to the next call.
async fn write_frames(
    mut write: tokio::net::unix::OwnedWriteHalf,
    mut outgoing: UnboundedReceiver<Outgoing>,
    calls: &Semaphore,
) -> io::Result<()> {
    while let Some(first) = outgoing.recv().await {
        let (mut buffer, mut answers) = (first.frame, usize::from(first.answers));
        while buffer.len() < 256 * 1024
            && let Ok(next) = outgoing.try_recv()
        {
            buffer.extend_from_slice(&next.frame);
            answers += usize::from(next.answers);
        }
        write.write_all(&buffer).await?;
        calls.add_permits(answers);
    }
    Ok(())
}
