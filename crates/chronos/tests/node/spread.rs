//! Tasks that former leaders left on their nodes, as the next leader asks for them there, and what it makes of silence.

use axum::Json;
use axum::routing::{get, post};
use chronos::cluster::Cluster as Others;
use chronos::cluster::spread::Spread;
use chronos::config::OnIsolation;
use engine::since_boot;
use futures_util::future::BoxFuture;
use jiff::SignedDuration;
use serde_json::{Value, json};

use super::*;

/// Answers as another node does, by a script.
struct Remote {
    /// The tasks that it was asked for, one after the other.
    asked: Arc<Mutex<Vec<String>>>,
    acknowledged: Arc<Mutex<Vec<String>>>,
    killed: Arc<Mutex<Vec<String>>>,
}

type Script = dyn Fn(String) -> BoxFuture<'static, Value> + Send + Sync;
/// The same, of a task and those that were to be killed.
type ScriptOfKills = dyn Fn(String, &[String]) -> BoxFuture<'static, Value> + Send + Sync;

impl Remote {
    async fn start(node: &str, store: &MemoryStore, script: Box<Script>) -> Self {
        Self::start_with(node, store, Box::new(move |task, _| script(task))).await
    }

    async fn start_with(node: &str, store: &MemoryStore, script: Box<ScriptOfKills>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = vec![listener.local_addr().unwrap().to_string()];
        let candidate = Candidate { node: node.into(), addresses, pid: 1, ..Candidate::default() };
        let remote = Self { asked: Arc::default(), acknowledged: Arc::default(), killed: Arc::default() };
        let (asked, acknowledged, killed, script) =
            (remote.asked.clone(), remote.acknowledged.clone(), remote.killed.clone(), Arc::new(script));
        let names = |body: &Value, field: &str| -> Vec<String> {
            let names = body[field].as_array().into_iter().flatten();
            names.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let told = move |Json(body): Json<Value>| async move {
            acknowledged.lock().unwrap().extend(names(&body, "acknowledge"));
            killed.lock().unwrap().extend(names(&body, "kill"));
            let mut known = Vec::new();
            for task in names(&body, "reconcile") {
                asked.lock().unwrap().push(task.clone());
                let answer = script(task, &killed.lock().unwrap());
                known.push(answer.await);
            }
            Json(json!({ "known": known }))
        };
        let instance = candidate.instance();
        let routes = axum::Router::new()
            .route("/ping", get(move || async move { ([("x-chronos-node", instance)], "") }))
            .route("/v1/engine", post(told));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        // Its word is that of the node whose place it takes.
        let members = store.members().await.unwrap();
        let said = members.into_iter().find(|member| member.candidate.node == node).unwrap().news;
        store.announce(&candidate, &said).await.unwrap();
        remote
    }

    /// How often it was asked for a task of this job.
    fn asked_for(&self, job: &str) -> usize {
        count(&self.asked, job)
    }
}

fn count(tasks: &Mutex<Vec<String>>, job: &str) -> usize {
    tasks.lock().unwrap().iter().filter(|task| of(task, job)).count()
}

fn of(task: &str, job: &str) -> bool {
    task.strip_prefix(job).is_some_and(|rest| rest.starts_with('-'))
}

impl Cluster {
    /// A task of each of these jobs, left behind by a node that led.
    async fn leave_behind(&self, node: &str, jobs: &[&str]) {
        self.leave_behind_and(OnIsolation::Keep, node, jobs).await;
    }

    /// The same by a node that does so with its tasks when it is cut off.
    async fn leave_behind_and(&self, on_isolation: OnIsolation, node: &str, jobs: &[&str]) {
        self.machine.script(|_| Behaviour::Run);
        let engine = Arc::new(self.machine.engine());
        let Joined { node: leader, task, .. } = self.join_with(node, engine, on_isolation, since_boot);
        leads(&leader).await;
        for job in jobs {
            let Request::Put(definition) = put(job, "R1//PT1H") else { unreachable!() };
            let rules = Rules { retry: Retry { max: 0, ..Retry::default() }, ..definition.rules };
            leader.ask(Request::Put(Definition { rules, ..definition })).await.unwrap();
            let runs = || self.machine.running().iter().any(|task| of(task.as_str(), job));
            eventually("it runs", || async { runs() }).await;
        }
        // What runs is known to run.
        let is_known = |run: &scheduler::run::Run| matches!(&run.state, scheduler::run::RunState::Running(live) if live.started.is_some());
        let known = || leader.projection.read().state().runs.values().all(|run| is_known(run));
        eventually("that is recorded", || async { known() }).await;
        let word = async || self.word_of(node).await.is_some_and(|word| promises(&word, on_isolation));
        eventually("it has said so", word).await;
        task.shutdown().await;
    }

    /// What a node said last.
    async fn word_of(&self, node: &str) -> Option<Value> {
        let members = self.store.members().await.unwrap();
        let member = members.into_iter().find(|member| member.candidate.node == node)?;
        Some(serde_json::from_str(&member.news).unwrap())
    }

    /// A node with an engine of its own, which asks the others.
    fn join(&self, name: &str, machine: &FakeMachine) -> Joined {
        self.join_with(name, Arc::new(machine.engine()), OnIsolation::Keep, since_boot)
    }

    fn join_with(
        &self,
        name: &str,
        engine: Arc<dyn Engine>,
        on_isolation: OnIsolation,
        clock: impl Fn() -> Duration + Send + Sync + 'static,
    ) -> Joined {
        let store = Arc::new(self.store.another());
        let spread = Spread::new(engine, name.into(), store, None, clock);
        let (node, task) = self.start_with(name, spread.clone());
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(ring)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let leased = on_isolation == OnIsolation::Kill;
        let _others = Others::start(&node, spread.clone(), tls, None, leased).unwrap();
        Joined { node, task, spread, _others }
    }
}

/// A node among others.
struct Joined {
    node: Node,
    task: NodeTask,
    spread: Arc<Spread>,
    _others: Others,
}

/// Whether this is the word of a node that does so with its tasks.
fn promises(word: &Value, on_isolation: OnIsolation) -> bool {
    // The 60 s of an isolated node, and what it takes until the last of them has ended.
    let promised = if on_isolation == OnIsolation::Kill { json!(75_000) } else { Value::Null };
    word["tasksEndAfterMs"] == promised
}

#[tokio::test]
async fn what_never_began_elsewhere_is_launched_here_and_asked_for_there_no_more() {
    let cluster = Cluster::new();
    cluster.leave_behind("n1", &["a", "b"]).await;
    let here = FakeMachine::new();
    here.script(|_| Behaviour::Run);
    let runs_here = here.clone();
    let says = move |task: String| {
        let known = match (of(&task, "a"), runs_here.running().is_empty()) {
            (true, true) => json!("neverBegan"),
            (true, false) => json!({"lost": {"message": "nobody has ever heard of it"}}),
            (false, _) => json!("running"),
        };
        Box::pin(std::future::ready(known)) as BoxFuture<'static, Value>
    };
    let remote = Remote::start("n1", &cluster.store, Box::new(says)).await;
    let Joined { node, task, .. } = cluster.join("n2", &here);
    leads(&node).await;
    eventually("it runs here", || async { !here.running().is_empty() }).await;
    let (asked, before) = (remote.asked_for("a"), remote.asked_for("b"));
    eventually("the other is asked for again", || async { remote.asked_for("b") >= before + 3 }).await;
    assert_eq!(remote.asked_for("a"), asked);
    here.end(&here.running()[0], AttemptEnd::Succeeded);
    eventually("it ends", || async { cluster.outcomes("a").await == [Outcome::Succeeded] }).await;
    let before = remote.asked_for("b");
    eventually("the other is asked for again", || async { remote.asked_for("b") >= before + 2 }).await;
    assert_eq!(count(&remote.acknowledged, "a"), 0, "its end came from here");
    assert_eq!(here.begun().len(), 1, "once");
    task.shutdown().await;
}

impl Cluster {
    /// The ends that were heard late, as the audit has them.
    async fn heard_late(&self) -> Vec<AttemptEnd> {
        let query = store::AuditQuery { acts: vec!["heardLate"], ..store::AuditQuery::default() };
        let entries = self.store.audit(&query).await.unwrap().entries;
        let end = |entry: scheduler::audit::Entry| match entry.act {
            scheduler::audit::Act::HeardLate { end, .. } => Some(end),
            _ => None,
        };
        entries.into_iter().filter_map(end).collect()
    }
}

/// Its node had promised that its tasks end, and did not keep it: the next leader finds what runs on, ends it, and hears
/// what became of it.
#[tokio::test]
async fn what_a_former_leader_gave_up_is_ended_by_the_next() {
    let cluster = Cluster::new();
    cluster.leave_behind("n1", &["a"]).await;
    let gone = Candidate { node: "n1".into(), pid: 1, ..Candidate::default() };
    cluster.store.announce(&gone, r#"{"tasksEndAfterMs":1000}"#).await.unwrap();
    let Joined { node: second, task: second_task, .. } = cluster.join("n2", &FakeMachine::new());
    leads(&second).await;
    let given_up = |node: &Node| node.projection.read().state().all_given_up().count();
    eventually("it is given up", || async { given_up(&second) == 1 }).await;
    second_task.shutdown().await;

    // It ends once that was asked for.
    let says = |task: String, killed: &[String]| {
        let known = json!(if killed.contains(&task) { "killed" } else { "running" });
        Box::pin(std::future::ready(known)) as BoxFuture<'static, Value>
    };
    let remote = Remote::start_with("n1", &cluster.store, Box::new(says)).await;
    let Joined { node: third, task: third_task, .. } = cluster.join("n3", &FakeMachine::new());
    leads(&third).await;
    eventually("its end is noted", || async { cluster.heard_late().await == [AttemptEnd::Killed] }).await;
    eventually("where it was that is known", || async { count(&remote.acknowledged, "a") > 0 }).await;
    assert_eq!(given_up(&third), 0);
    third_task.shutdown().await;
}

/// A question that is not answered, until whoever asked waits no longer.
struct Hung(Arc<Mutex<Option<usize>>>);

impl Drop for Hung {
    fn drop(&mut self) {
        *self.0.lock().unwrap() = None;
    }
}

#[tokio::test]
async fn a_node_that_hangs_keeps_no_other_waiting() {
    let cluster = Cluster::new();
    cluster.leave_behind("n1", &["a"]).await;
    cluster.leave_behind("n2", &["b"]).await;
    // How often the other had been asked when a question to this one began that has no answer yet.
    let hangs: Arc<Mutex<Option<usize>>> = Arc::default();
    let other = Remote::start(
        "n2",
        &cluster.store,
        Box::new(|_: String| Box::pin(std::future::ready(json!("running")))),
    )
    .await;
    let (asked, hung) = (other.asked.clone(), hangs.clone());
    let never = move |_: String| {
        let hung = Hung(hung.clone());
        *hung.0.lock().unwrap() = Some(count(&asked, "b"));
        Box::pin(async move {
            let _hung = hung;
            std::future::pending().await
        }) as BoxFuture<'static, Value>
    };
    let _remote = Remote::start("n1", &cluster.store, Box::new(never)).await;
    let Joined { node, task, .. } = cluster.join("n3", &FakeMachine::new());
    leads(&node).await;
    let asked_meanwhile = || hangs.lock().unwrap().is_some_and(|before| other.asked_for("b") >= before + 3);
    eventually("the other is asked meanwhile", || async { asked_meanwhile() }).await;
    task.shutdown().await;
}

/// A boot clock that can be put forward.
#[derive(Clone, Default)]
struct Clock(Arc<AtomicU64>);

impl Clock {
    fn now(&self) -> Duration {
        since_boot() + Duration::from_millis(self.0.load(Ordering::SeqCst))
    }
}

/// After this its tasks have ended, where a node has promised that.
const PROMISED: Duration = Duration::from_secs(75);

/// A node that led, and that answers no question any more, and the one that leads now.
struct Judged {
    cluster: Cluster,
    silent: Remote,
    clock: Clock,
    /// It has said nothing since.
    since: Duration,
    judge: Joined,
}

impl Judged {
    /// It has left behind a task of job `a`.
    async fn that(on_isolation: OnIsolation) -> Self {
        let (cluster, clock) = (Cluster::new(), Clock::default());
        cluster.leave_behind_and(on_isolation, "n1", &["a"]).await;
        let since = clock.now();
        // An answer that makes no sense is none.
        let nothing = |_: String| Box::pin(std::future::ready(Value::Null)) as BoxFuture<'static, Value>;
        let silent = Remote::start("n1", &cluster.store, Box::new(nothing)).await;
        let engine = Arc::new(FakeMachine::new().engine());
        let now = clock.clone();
        let judge = cluster.join_with("n2", engine, OnIsolation::Kill, move || now.now());
        leads(&judge.node).await;
        let this = Self { cluster, silent, clock, since, judge };
        this.looks_again().await;
        this
    }

    async fn is_lost(&self) -> bool {
        self.cluster.outcomes("a").await == [Outcome::Lost]
    }

    /// So much time passes for the one that leads.
    fn pass(&self, time: Duration) {
        self.clock.0.fetch_add(u64::try_from(time.as_millis()).unwrap(), Ordering::SeqCst);
    }

    /// The node is asked again and again, and each time what its silence means is looked at.
    async fn looks_again(&self) {
        let before = self.silent.asked_for("a");
        let looked = async || self.silent.asked_for("a") >= before + 2 || self.is_lost().await;
        eventually("it is asked again", looked).await;
    }

    /// On a machine that has other things to do the time may be over by now.
    async fn is_not_lost_before(&self, time: Duration) {
        self.looks_again().await;
        assert!(!self.is_lost().await || self.clock.now() - self.since > time, "it may still run");
    }

    async fn is_lost_in_the_end(&self) {
        eventually("its task has ended", || self.is_lost()).await;
    }
}

#[tokio::test]
async fn tasks_of_a_node_that_is_cut_off_have_ended_after_the_time_that_it_has_promised() {
    let judged = Judged::that(OnIsolation::Kill).await;
    judged.pass(Duration::from_secs(55));
    judged.is_not_lost_before(PROMISED).await;
    judged.pass(Duration::from_secs(21));
    judged.is_lost_in_the_end().await;
    judged.judge.task.shutdown().await;
}

#[tokio::test]
async fn tasks_of_a_node_that_keeps_them_end_when_an_operator_says_so() {
    let judged = Judged::that(OnIsolation::Keep).await;
    for _ in 0..3 {
        judged.pass(10 * PROMISED);
        judged.is_not_lost_before(Duration::MAX).await;
    }
    judged.judge.spread.forget("n1");
    // That the clock of the store goes back is no sign of life.
    judged.cluster.store.step_clock(SignedDuration::from_hours(-1));
    judged.is_lost_in_the_end().await;
    judged.judge.task.shutdown().await;
}

/// Nobody knows any more whether its task was begun as a container, which no lease ends.
#[tokio::test]
async fn a_task_of_a_job_that_was_changed_since_may_be_a_container() {
    let judged = Judged::that(OnIsolation::Kill).await;
    let Request::Put(definition) = put("a", "R1/2099-01-01T00:00:00Z/PT1H") else { unreachable!() };
    let rules = Rules { retry: Retry { max: 0, ..Retry::default() }, ..definition.rules };
    judged.judge.node.ask(Request::Put(Definition { rules, ..definition })).await.unwrap();
    judged.pass(10 * PROMISED);
    judged.is_not_lost_before(Duration::MAX).await;
    judged.judge.spread.forget("n1");
    judged.is_lost_in_the_end().await;
    judged.judge.task.shutdown().await;
}

/// As after a fail-over of the store to another machine.
#[tokio::test]
async fn the_clock_of_the_store_neither_ends_tasks_nor_keeps_them() {
    let judged = Judged::that(OnIsolation::Kill).await;
    judged.cluster.store.step_clock(SignedDuration::from_hours(1));
    judged.is_not_lost_before(PROMISED).await;
    judged.cluster.store.step_clock(SignedDuration::from_hours(-2));
    judged.is_not_lost_before(PROMISED).await;
    judged.pass(PROMISED + Duration::from_secs(1));
    judged.is_lost_in_the_end().await;
    judged.judge.task.shutdown().await;
}

/// What the others count on is known to who has to do it.
#[tokio::test]
async fn a_node_promises_what_its_engine_has_taken_on() {
    let cluster = Cluster::new();
    let engine = Directed::new(cluster.machine.engine());
    engine.is_away.store(true, Ordering::SeqCst);
    let Joined { task, .. } = cluster.join_with("n1", engine.clone(), OnIsolation::Kill, since_boot);
    let leases = || engine.leases.lock().unwrap().clone();
    let says = async |what| cluster.word_of("n1").await.is_some_and(|word| promises(&word, what));
    let in_vain = async || leases().len() > 1 && says(OnIsolation::Keep).await;
    eventually("it has said something, and its engine was asked in vain", in_vain).await;
    engine.is_away.store(false, Ordering::SeqCst);
    eventually("it promises", || says(OnIsolation::Kill)).await;
    let said_at = cluster.word_of("n1").await.unwrap()["saidAtMs"].as_u64().unwrap();
    let lease = Some(Duration::from_millis(said_at) + Duration::from_secs(60));
    let in_ms = |lease: Duration| lease.as_millis();
    let is_given = || leases().iter().any(|given| given.map(in_ms) == lease.map(in_ms));
    eventually("it may go on from when it began to say so", || async { is_given() }).await;
    task.shutdown().await;
}

/// Its tasks may be those of an earlier process, from whose last word the others count.
#[tokio::test]
async fn a_node_that_nobody_has_heard_takes_no_lease() {
    let cluster = Cluster::new();
    cluster.store.set_stuck(&["announce"]);
    let engine = Directed::new(cluster.machine.engine());
    let Joined { task, .. } = cluster.join_with("n1", engine.clone(), OnIsolation::Kill, since_boot);
    eventually("it says something", || async { cluster.store.unanswered() > 0 }).await;
    assert_eq!(*engine.leases.lock().unwrap(), [], "nobody has heard it");
    cluster.store.set_stuck(&[]);
    let promised =
        async || cluster.word_of("n1").await.is_some_and(|word| promises(&word, OnIsolation::Kill));
    eventually("it promises", promised).await;
    task.shutdown().await;
}

#[tokio::test]
async fn a_node_that_keeps_its_tasks_has_no_lease() {
    let cluster = Cluster::new();
    let engine = Directed::new(cluster.machine.engine());
    let Joined { task, .. } = cluster.join_with("n1", engine.clone(), OnIsolation::Keep, since_boot);
    eventually("its engine was told", || async { !engine.leases.lock().unwrap().is_empty() }).await;
    assert!(engine.leases.lock().unwrap().iter().all(Option::is_none));
    assert!(promises(&cluster.word_of("n1").await.unwrap(), OnIsolation::Keep));
    task.shutdown().await;
}
