//! A stand-in for masters of Mesos and one agent, for tests: no part of Mesos, and no more of it than an engine meets.
//!
//! It speaks the v1 scheduler API over HTTP, makes offers, runs commands with `/bin/sh`, keeps a table of tasks and sends
//! each status until it is acknowledged, as an agent does. And it misbehaves on command: it leads elsewhere, is not ready
//! yet, lets nobody in, ends connections, falls silent, forgets frameworks, drops tasks, removes their files. With a
//! certificate it speaks HTTPS, its agent too.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Between two looks at what is to be offered and repeated.
const TICK: Duration = Duration::from_millis(10);
/// A status that nobody acknowledges is sent again after so long.
const REPEAT: Duration = Duration::from_millis(200);
/// Between two signs of life. Whoever listens misses some before it gives up: not because a busy machine has other things
/// to do.
const HEARTBEAT: Duration = Duration::from_secs(10);
const AGENT: &str = "standin-S0";

/// What runs until it is dropped, tasks too.
pub(crate) struct StandIn {
    world: Arc<Mutex<World>>,
    running: Vec<JoinHandle<()>>,
}

struct World {
    masters: Vec<SocketAddr>,
    leader: usize,
    folder: PathBuf,
    heartbeat: Duration,
    /// Who is let in, if not everybody.
    login: Option<String>,
    not_ready: bool,
    refusal: Option<Refusal>,
    silent: bool,
    tls: bool,
    /// There is nothing to offer.
    barren: bool,
    shown: Option<(String, bool)>,
    /// So many launches from now on do not reach the agent.
    drops: usize,
    frameworks: u64,
    removed: BTreeSet<String>,
    subscription: Option<Subscription>,
    subscriptions: usize,
    calls: Vec<Value>,
    last: u64,
    cpus: f64,
    offers: BTreeMap<String, f64>,
    filtered: Option<(Instant, f64)>,
    suppressed: bool,
    tasks: BTreeMap<String, Row>,
}

/// Why nobody is let in.
pub(crate) enum Refusal {
    /// As the answer itself, with these words.
    Status(u16, &'static str),
    /// As an event of a subscription that was taken.
    Event(&'static str),
}

struct Subscription {
    framework: String,
    stream: String,
    events: mpsc::UnboundedSender<Bytes>,
    beat: Instant,
}

struct Row {
    cpus: f64,
    state: &'static str,
    message: String,
    pid: Option<i32>,
    killed: bool,
    /// What is to be told, in order; each until it is acknowledged.
    updates: VecDeque<(String, &'static str, String)>,
    sent: Option<Instant>,
}

impl Row {
    fn is_over(&self) -> bool {
        !matches!(self.state, "TASK_STAGING" | "TASK_RUNNING")
    }
}

type Shared = (Arc<Mutex<World>>, usize);

impl StandIn {
    /// So many masters, the first of which leads, and an agent with so many processors.
    pub(crate) async fn start(masters: usize, cpus: f64, folder: &Path) -> Self {
        Self::start_with(masters, cpus, folder, None).await
    }

    /// The same, with this certificate.
    pub(crate) async fn start_with(
        masters: usize,
        cpus: f64,
        folder: &Path,
        tls: Option<TlsAcceptor>,
    ) -> Self {
        let world = World {
            masters: Vec::new(),
            leader: 0,
            folder: folder.to_owned(),
            heartbeat: HEARTBEAT,
            login: None,
            not_ready: false,
            refusal: None,
            silent: false,
            tls: tls.is_some(),
            barren: false,
            shown: None,
            drops: 0,
            frameworks: 0,
            removed: BTreeSet::new(),
            subscription: None,
            subscriptions: 0,
            calls: Vec::new(),
            last: 0,
            cpus,
            offers: BTreeMap::new(),
            filtered: None,
            suppressed: false,
            tasks: BTreeMap::new(),
        };
        let world = Arc::new(Mutex::new(world));
        let mut running = Vec::new();
        for index in 0..masters {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            lock(&world).masters.push(listener.local_addr().expect("an address"));
            let router = Router::new()
                .route("/api/v1/scheduler", post(call))
                .route("/master/frameworks", get(frameworks))
                .route("/api/v1", post(agent))
                .with_state((world.clone(), index));
            running.push(match tls.clone() {
                None => tokio::spawn(async move { drop(axum::serve(listener, router).await) }),
                Some(acceptor) => {
                    let listener = Secured { listener, acceptor };
                    tokio::spawn(async move { drop(axum::serve(listener, router).await) })
                }
            });
        }
        let ticking = world.clone();
        running.push(tokio::spawn(async move {
            loop {
                tokio::time::sleep(TICK).await;
                lock(&ticking).tick();
            }
        }));
        Self { world, running }
    }

    pub(crate) fn address(&self, master: usize) -> String {
        self.world().masters[master].to_string()
    }

    /// Another master leads; whoever listened to the last one has lost it. Tasks go on.
    pub(crate) fn lead(&self, master: usize) {
        let mut world = self.world();
        world.leader = master;
        world.forget_subscription();
    }

    /// The master that leads starts anew.
    pub(crate) fn restart(&self) {
        self.world().forget_subscription();
    }

    /// The registry is not recovered yet, or is.
    pub(crate) fn set_ready(&self, ready: bool) {
        self.world().not_ready = !ready;
    }

    /// Those who subscribe from now on may expect a sign of life that often.
    pub(crate) fn beat_every(&self, heartbeat: Duration) {
        self.world().heartbeat = heartbeat;
    }

    /// Nothing is sent any more, though connections stay; or again.
    pub(crate) fn set_silent(&self, silent: bool) {
        self.world().silent = silent;
    }

    /// Only this principal is let in, with this secret.
    pub(crate) fn demand(&self, header: &str) {
        self.world().login = Some(header.to_owned());
    }

    /// From now on nobody is let in, or everybody is again.
    pub(crate) fn refuse(&self, refusal: Option<Refusal>) {
        self.world().refusal = refusal;
    }

    /// The agent removes the files of all tasks.
    pub(crate) fn remove_files(&self) {
        let folder = self.world().folder.join("sandboxes");
        std::fs::remove_dir_all(folder).expect("there are files");
    }

    /// A task that an earlier framework of the same id began.
    pub(crate) fn plant(&self, task: &str) {
        let shared = self.world.clone();
        let info = json!({"command": {"value": "sleep 1000"}});
        lock(&shared).run(task, &info, &shared);
    }

    /// Whether offers are made.
    pub(crate) fn make_offers(&self, made: bool) {
        self.world().barren = !made;
    }

    /// What it shows of the framework that is subscribed.
    pub(crate) fn show_as(&self, name: &str, active: bool) {
        self.world().shown = Some((name.to_owned(), active));
    }

    /// What a task has come to.
    pub(crate) fn state_of(&self, task: &str) -> &'static str {
        self.world().tasks.get(task).map_or("none", |row| row.state)
    }

    /// The next launches do not reach the agent.
    pub(crate) fn drop_launches(&self, count: usize) {
        self.world().drops = count;
    }

    /// The framework is no more, and its tasks with it.
    pub(crate) fn remove_framework(&self) {
        let mut world = self.world();
        let Some(subscription) = world.subscription.take() else { return };
        world.removed.insert(subscription.framework);
        for row in world.tasks.values().filter(|row| !row.is_over()) {
            signal(row.pid, rustix::process::Signal::KILL);
        }
        world.tasks.clear();
        world.offers.clear();
    }

    /// Calls of this type that came, in order.
    pub(crate) fn calls(&self, kind: &str) -> Vec<Value> {
        self.world().calls.iter().filter(|call| call["type"] == kind).cloned().collect()
    }

    pub(crate) fn subscriptions(&self) -> usize {
        self.world().subscriptions
    }

    /// Whether anybody listens.
    pub(crate) fn has_listener(&self) -> bool {
        self.world().subscription.as_ref().is_some_and(|subscription| !subscription.events.is_closed())
    }

    /// Whether the agent waits for the acknowledgement of the end of this task.
    pub(crate) fn awaits_acknowledgement(&self, task: &str) -> bool {
        self.world().tasks.get(task).is_some_and(|row| row.is_over() && !row.updates.is_empty())
    }

    fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.world)
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.running.iter().for_each(JoinHandle::abort);
        for row in self.world().tasks.values().filter(|row| !row.is_over()) {
            signal(row.pid, rustix::process::Signal::KILL);
        }
    }
}

fn lock(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

fn signal(pid: Option<i32>, signal: rustix::process::Signal) {
    if let Some(group) = pid.and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process_group(group, signal);
    }
}

async fn call(State((world, master)): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let call: Value = serde_json::from_slice(&body).unwrap_or_default();
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let shared = world.clone();
    let mut world = lock(&world);
    if world.leader != master {
        // Without a scheme, as masters do.
        let location = format!("//{}/api/v1/scheduler", world.masters[world.leader]);
        return (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, location)]).into_response();
    }
    if world.not_ready {
        return (StatusCode::SERVICE_UNAVAILABLE, "Master has not finished recovery").into_response();
    }
    if world.login.is_some() && header("authorization") != world.login {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    world.calls.push(call.clone());
    if let Some(Refusal::Status(status, words)) = &world.refusal {
        return (StatusCode::from_u16(*status).expect("a status"), *words).into_response();
    }
    if call["type"] == "SUBSCRIBE" {
        return world.subscribe(&call);
    }
    let ours = world.subscription.as_ref().map(|subscription| subscription.stream.clone());
    if ours.is_none() {
        return (StatusCode::FORBIDDEN, "Framework is not subscribed").into_response();
    }
    if ours != header("mesos-stream-id") {
        let text = "The stream ID included in this request didn't match the stream ID currently associated";
        return (StatusCode::BAD_REQUEST, text).into_response();
    }
    world.take(&call, &shared);
    StatusCode::ACCEPTED.into_response()
}

/// What it shows of frameworks: the one that is subscribed.
async fn frameworks(State((world, _)): State<Shared>) -> Response {
    let world = lock(&world);
    let one = |subscription: &Subscription| {
        let subscribed = world.calls.iter().rfind(|call| call["type"] == "SUBSCRIBE").cloned();
        let name = subscribed.unwrap_or_default()["subscribe"]["framework_info"]["name"].clone();
        let (name, active) = world.shown.clone().map_or((name, true), |(name, active)| (json!(name), active));
        json!({"id": subscription.framework, "name": name, "active": active, "tasks": []})
    };
    let list: Vec<Value> = world.subscription.iter().map(one).collect();
    json!({"frameworks": list, "completed_frameworks": []}).to_string().into_response()
}

/// The agent shows what a task wrote.
async fn agent(State((world, _)): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let call: Value = serde_json::from_slice(&body).unwrap_or_default();
    let (login, folder) = {
        let world = lock(&world);
        (world.login.clone(), world.folder.join("sandboxes"))
    };
    let shown = headers.get("authorization").and_then(|value| value.to_str().ok());
    if login.is_some() && shown != login.as_deref() {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let asked = &call["read_file"];
    let path: Vec<&str> = asked["path"].as_str().unwrap_or_default().split('/').collect();
    let ["", "frameworks", _, "executors", task, "runs", "latest", file] = path[..] else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let Ok(bytes) = std::fs::read(folder.join(task).join(file)) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let from = bytes.len().min(usize::try_from(asked["offset"].as_u64().unwrap_or(0)).unwrap_or(usize::MAX));
    let length = usize::try_from(asked["length"].as_u64().unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    let piece = &bytes[from..bytes.len().min(from.saturating_add(length))];
    let told = json!({"size": bytes.len(), "data": BASE64_STANDARD.encode(piece)});
    json!({"type": "READ_FILE", "read_file": told}).to_string().into_response()
}

/// Connections of HTTPS, one handshake after the other.
struct Secured {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for Secured {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((stream, peer)) = self.listener.accept().await else { continue };
            // Who does not trust the certificate goes away.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, peer);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl World {
    fn subscribe(&mut self, call: &Value) -> Response {
        let id = call["framework_id"]["value"].as_str().map(str::to_owned);
        let (events, receiver) = mpsc::unbounded_channel::<Bytes>();
        self.last += 1;
        let stream = format!("stream-{}", self.last);
        let answer = [("mesos-stream-id", stream.clone()), ("content-type", "application/json".into())];
        let body = futures_util::stream::unfold(receiver, |mut receiver| async {
            let next = receiver.recv().await?;
            Some((Ok::<_, std::convert::Infallible>(next), receiver))
        });
        let removed = id.as_ref().is_some_and(|id| self.removed.contains(id));
        let refused = match &self.refusal {
            Some(Refusal::Event(words)) => Some(*words),
            _ => removed.then_some("Framework has been removed"),
        };
        if let Some(words) = refused {
            let _ = events.send(record(&json!({"type": "ERROR", "error": {"message": words}})));
            return (answer, Body::from_stream(body)).into_response();
        }
        let framework = id.unwrap_or_else(|| {
            self.frameworks += 1;
            format!("standin-{:04}", self.frameworks)
        });
        if let Some(former) = self.subscription.take() {
            let _ = former.events.send(record(&json!({
                "type": "ERROR", "error": {"message": "Framework failed over"},
            })));
        }
        self.subscriptions += 1;
        (self.suppressed, self.filtered) = (false, None);
        self.offers.clear();
        self.subscription =
            Some(Subscription { framework: framework.clone(), stream, events, beat: Instant::now() });
        self.tell(json!({"type": "SUBSCRIBED", "subscribed": {
            "framework_id": {"value": framework},
            "heartbeat_interval_seconds": self.heartbeat.as_secs_f64(),
            "master_info": {"capabilities": [{"type": "AGENT_UPDATE"}, {}]},
        }}));
        for row in self.tasks.values_mut() {
            row.sent = None;
        }
        (answer, Body::from_stream(body)).into_response()
    }

    fn forget_subscription(&mut self) {
        self.subscription = None;
        self.offers.clear();
    }

    fn tell(&mut self, event: Value) {
        if !self.silent
            && let Some(subscription) = &self.subscription
            && subscription.events.send(record(&event)).is_err()
        {
            self.forget_subscription();
        }
    }

    fn tick(&mut self) {
        if let Some(subscription) = &mut self.subscription
            && subscription.beat.elapsed() > self.heartbeat
        {
            subscription.beat = Instant::now();
            self.tell(json!({"type": "HEARTBEAT"}));
        }
        self.offer();
        let due = |row: &Row| row.sent.is_none_or(|sent| sent.elapsed() > REPEAT) && !row.updates.is_empty();
        let due: Vec<String> =
            self.tasks.iter().filter(|(_, row)| due(row)).map(|(id, _)| id.clone()).collect();
        for task in due {
            self.send_update(&task);
        }
    }

    fn offer(&mut self) {
        let used: f64 = self.tasks.values().filter(|row| !row.is_over()).map(|row| row.cpus).sum();
        let free = self.cpus - used - self.offers.values().sum::<f64>();
        let filtered =
            self.filtered.is_some_and(|(until, cpus)| Instant::now() < until && free <= cpus + 1e-6);
        if self.subscription.is_none() || self.barren || self.suppressed || filtered || free < 0.01 {
            return;
        }
        self.last += 1;
        let id = format!("standin-O{}", self.last);
        self.offers.insert(id.clone(), free);
        let (scheme, port) = (if self.tls { "https" } else { "http" }, self.masters[0].port());
        let scalar = |name: &str, value: f64| json!({"name": name, "type": "SCALAR", "scalar": {"value": value}, "allocation_info": {"role": "*"}});
        self.tell(json!({"type": "OFFERS", "offers": {"offers": [{
            "id": {"value": id}, "agent_id": {"value": AGENT}, "hostname": "standin.local",
            "framework_id": {"value": "x"}, "allocation_info": {"role": "*"},
            "url": {"scheme": scheme, "address": {"hostname": "localhost", "ip": "127.0.0.1", "port": port}},
            "resources": [scalar("cpus", free), scalar("mem", 1e6), scalar("disk", 1e6)],
            "attributes": [{"name": "rack", "type": "TEXT", "text": {"value": "r1"}}],
        }]}}));
    }

    fn take(&mut self, call: &Value, shared: &Arc<Mutex<World>>) {
        match call["type"].as_str().unwrap_or_default() {
            "ACCEPT" => self.accept(&call["accept"], shared),
            "DECLINE" => {
                let refuse = call["decline"]["filters"]["refuse_seconds"].as_f64().unwrap_or(5.0);
                let offers = ids(&call["decline"]["offer_ids"]);
                let free: f64 = offers.iter().filter_map(|offer| self.offers.remove(offer)).sum();
                self.filtered = Some((Instant::now() + Duration::from_secs_f64(refuse), free));
            }
            "REVIVE" => (self.suppressed, self.filtered) = (false, None),
            "SUPPRESS" => self.suppressed = true,
            "KILL" => {
                let task = call["kill"]["task_id"]["value"].as_str().unwrap_or_default();
                let grace = call["kill"]["kill_policy"]["grace_period"]["nanoseconds"].as_u64().unwrap_or(0);
                self.kill(task, Duration::from_nanos(grace), shared);
            }
            "RECONCILE" => {
                let asked = call["reconcile"]["tasks"].as_array().cloned().unwrap_or_default();
                for asked in &asked {
                    let task = asked["task_id"]["value"].as_str().unwrap_or_default().to_owned();
                    self.answer(&task, asked["agent_id"]["value"].is_string());
                }
                if asked.is_empty() {
                    let living = self.tasks.iter().filter(|(_, row)| !row.is_over());
                    let all: Vec<String> = living.map(|(task, _)| task.clone()).collect();
                    all.iter().for_each(|task| self.answer(task, true));
                }
            }
            "ACKNOWLEDGE" => {
                let told = &call["acknowledge"];
                let task = told["task_id"]["value"].as_str().unwrap_or_default().to_owned();
                if let Some(row) = self.tasks.get_mut(&task)
                    && row.updates.front().is_some_and(|(uuid, ..)| *uuid == told["uuid"])
                {
                    row.updates.pop_front();
                    row.sent = None;
                    self.send_update(&task);
                }
            }
            other => panic!("the stand-in does not know the call {other}"),
        }
    }

    fn answer(&mut self, task: &str, has_agent: bool) {
        let (state, message) = match self.tasks.get(task) {
            Some(row) => (row.state, row.message.clone()),
            None if has_agent => ("TASK_GONE", "Reconciliation: Task is unknown to the agent".into()),
            None => ("TASK_UNKNOWN", "Reconciliation: Task is unknown".into()),
        };
        self.tell(status(task, state, &message, Some("REASON_RECONCILIATION"), None));
    }

    fn accept(&mut self, accept: &Value, shared: &Arc<Mutex<World>>) {
        let offers = ids(&accept["offer_ids"]);
        let valid = offers.iter().all(|offer| self.offers.contains_key(offer));
        self.offers.retain(|offer, _| !offers.contains(offer));
        for operation in accept["operations"].as_array().into_iter().flatten() {
            for info in operation["launch"]["task_infos"].as_array().into_iter().flatten() {
                let task = info["task_id"]["value"].as_str().unwrap_or_default().to_owned();
                if !valid || self.drops > 0 {
                    self.drops = self.drops.saturating_sub(1);
                    let update = status(
                        &task,
                        "TASK_DROPPED",
                        "it did not get there",
                        Some("REASON_INVALID_OFFERS"),
                        None,
                    );
                    self.tell(update);
                } else if self.tasks.contains_key(&task) {
                    let message = format!("Task has duplicate ID: {task}");
                    self.tell(status(&task, "TASK_ERROR", &message, Some("REASON_TASK_INVALID"), None));
                } else {
                    self.run(&task, info, shared);
                }
            }
        }
    }

    fn run(&mut self, task: &str, info: &Value, shared: &Arc<Mutex<World>>) {
        let scalar = |resource: &Value| resource["scalar"]["value"].as_f64().unwrap_or(0.0);
        let resources = info["resources"].as_array().cloned().unwrap_or_default();
        let cpus = resources.iter().filter(|resource| resource["name"] == "cpus").map(scalar).sum();
        let sandbox = self.folder.join("sandboxes").join(task);
        std::fs::create_dir_all(&sandbox).expect("a sandbox");
        let file = |name: &str| std::fs::File::create(sandbox.join(name)).expect("a file");
        let command = &info["command"];
        let mut process = tokio::process::Command::new("/bin/sh");
        process.arg("-c").arg(command["value"].as_str().unwrap_or_default()).env("STANDIN_TASK", task);
        for variable in command["environment"]["variables"].as_array().into_iter().flatten() {
            let text = |key: &str| variable[key].as_str().unwrap_or_default().to_owned();
            process.env(text("name"), text("value"));
        }
        process.current_dir(&sandbox).stdin(Stdio::null()).process_group(0);
        process.stdout(file("stdout")).stderr(file("stderr"));
        let mut child = process.spawn().expect("a shell");
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let row = Row {
            cpus,
            state: "TASK_STAGING",
            message: String::new(),
            pid,
            killed: false,
            updates: VecDeque::new(),
            sent: None,
        };
        self.tasks.insert(task.to_owned(), row);
        self.note(task, "TASK_RUNNING", String::new());
        let (world, task) = (shared.clone(), task.to_owned());
        tokio::spawn(async move {
            let status = child.wait().await.expect("a status");
            let mut world = lock(&world);
            let Some(row) = world.tasks.get(&task) else { return };
            let (state, message) = match (row.killed, status.code()) {
                (true, _) => ("TASK_KILLED", "Command terminated with signal 15".into()),
                (_, Some(0)) => ("TASK_FINISHED", "Command exited with status 0".into()),
                (_, Some(code)) => ("TASK_FAILED", format!("Command exited with status {code}")),
                (_, None) => ("TASK_FAILED", "Command terminated with signal 9".into()),
            };
            world.note(&task, state, message);
        });
    }

    /// A task has come so far.
    fn note(&mut self, task: &str, state: &'static str, message: String) {
        self.last += 1;
        let uuid = format!("dXVpZA{}", self.last);
        let Some(row) = self.tasks.get_mut(task) else { return };
        (row.state, row.message) = (state, message.clone());
        row.updates.push_back((uuid, state, message));
        if row.updates.len() == 1 {
            self.send_update(task);
        }
    }

    fn send_update(&mut self, task: &str) {
        let Some(row) = self.tasks.get_mut(task) else { return };
        let Some((uuid, state, message)) = row.updates.front().cloned() else { return };
        row.sent = Some(Instant::now());
        self.tell(status(task, state, &message, None, Some(&uuid)));
    }

    fn kill(&mut self, task: &str, grace: Duration, shared: &Arc<Mutex<World>>) {
        let Some(row) = self.tasks.get_mut(task) else {
            return self.answer(task, true);
        };
        if row.is_over() || std::mem::replace(&mut row.killed, true) {
            return;
        }
        signal(row.pid, rustix::process::Signal::TERM);
        let (world, task) = (shared.clone(), task.to_owned());
        tokio::spawn(async move {
            tokio::time::sleep(grace).await;
            if let Some(row) = lock(&world).tasks.get(&task).filter(|row| !row.is_over()) {
                signal(row.pid, rustix::process::Signal::KILL);
            }
        });
    }
}

fn ids(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|id| id["value"].as_str()).map(str::to_owned).collect()
}

fn status(task: &str, state: &str, message: &str, reason: Option<&str>, uuid: Option<&str>) -> Value {
    let mut status = json!({
        "task_id": {"value": task}, "agent_id": {"value": AGENT}, "state": state, "message": message,
        "timestamp": 1.5, "source": "SOURCE_EXECUTOR",
    });
    if let Some(reason) = reason {
        status["reason"] = json!(reason);
    }
    if let Some(uuid) = uuid {
        status["uuid"] = json!(uuid);
    }
    json!({"type": "UPDATE", "update": {"status": status}})
}

/// In RecordIO.
fn record(event: &Value) -> Bytes {
    let text = event.to_string();
    format!("{}\n{text}", text.len()).into()
}
