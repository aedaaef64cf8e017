//! Tasks that former leaders left on their nodes, as the next leader asks for them there.

use axum::Json;
use axum::routing::{get, post};
use chronos::cluster::Cluster as Others;
use chronos::cluster::spread::Spread;
use futures_util::future::BoxFuture;
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
        store.announce(&candidate, "{}").await.unwrap();
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
        self.machine.script(|_| Behaviour::Run);
        let (leader, task) = self.start(node);
        leads(&leader).await;
        for job in jobs {
            leader.ask(put(job, "R1//PT1H")).await.unwrap();
            let runs = || self.machine.running().iter().any(|task| of(task.as_str(), job));
            eventually("it runs", || async { runs() }).await;
        }
        // What runs is known to run.
        let is_known = |run: &scheduler::run::Run| matches!(&run.state, scheduler::run::RunState::Running(live) if live.started.is_some());
        let known = || leader.projection.read().state().runs.values().all(|run| is_known(run));
        eventually("that is recorded", || async { known() }).await;
        task.shutdown().await;
    }

    /// A node with an engine of its own, which asks the others.
    fn join(&self, name: &str, machine: &FakeMachine) -> (Node, NodeTask, Others) {
        let store = Arc::new(self.store.another());
        let spread = Spread::new(Arc::new(machine.engine()), name.into(), store, None);
        let (node, task) = self.start_with(name, spread.clone());
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(ring)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let others = Others::start(&node, spread, tls, None, false).unwrap();
        (node, task, others)
    }
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
    let (node, task, _others) = cluster.join("n2", &here);
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
    cluster.store.fell_silent("n1", Duration::from_secs(60));
    let (second, second_task, _others) = cluster.join("n2", &FakeMachine::new());
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
    let (third, third_task, _others) = cluster.join("n3", &FakeMachine::new());
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
    let (node, task, _others) = cluster.join("n3", &FakeMachine::new());
    leads(&node).await;
    let asked_meanwhile = || hangs.lock().unwrap().is_some_and(|before| other.asked_for("b") >= before + 3);
    eventually("the other is asked meanwhile", || async { asked_meanwhile() }).await;
    task.shutdown().await;
}
