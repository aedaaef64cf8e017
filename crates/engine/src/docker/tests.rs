//! What a real Docker does too seldom to wait for it, played by one that answers as it is told.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

use bollard::{API_DEFAULT_VERSION, Docker};
use scheduler::ids::Epoch;

use tokio::time::timeout;

use super::{DockerEngine, DockerOptions, STARTS_MAX, Shared, life, lock, plan, retention, start};
use crate::conformance::{PATIENCE, order, task, until};
use crate::end::End;
use crate::{Container, Engine, EngineError, Keep, Known, Launch, Limits, Readiness, TaskSpec};

const LONG: Duration = Duration::from_secs(3600);

/// A Docker that answers each request, as in `GET /containers/c1/json`, with a status and a body, or never.
struct Scripted {
    folder: tempfile::TempDir,
    asked: Arc<Mutex<Vec<String>>>,
}

type Answer = Option<(u16, String)>;

impl Scripted {
    fn new(script: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(folder.path().join("socket")).expect("bound");
        let (asked, script) = (Arc::new(Mutex::new(Vec::new())), Arc::new(script));
        let noted = asked.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (noted, script) = (noted.clone(), script.clone());
                thread::spawn(move || serve(stream, &noted, &*script));
            }
        });
        Self { folder, asked }
    }

    fn options(&self) -> DockerOptions {
        let host = format!("unix://{}/socket", self.folder.path().display());
        DockerOptions {
            answer_within: Duration::from_secs(300),
            ..DockerOptions::new(self.folder.path().join("docker"), host)
        }
    }

    fn docker(&self) -> Docker {
        let socket = self.folder.path().join("socket");
        Docker::connect_with_unix(&socket.display().to_string(), 120, API_DEFAULT_VERSION).expect("a client")
    }

    /// What an engine consists of that is connected and in its first term, without what connects it.
    fn shared(&self) -> Arc<Shared> {
        self.with(self.options())
    }

    fn with(&self, options: DockerOptions) -> Arc<Shared> {
        let shared = Shared::open(options).expect("opened");
        shared.folder.raise(Epoch(1)).expect("raised");
        shared.docker.send_replace(Some(self.docker()));
        shared.state().not_ready = None;
        Arc::new(shared)
    }

    /// How often something was asked that begins so.
    fn asked(&self, request: &str) -> usize {
        lock(&self.asked).iter().filter(|asked| asked.starts_with(request)).count()
    }
}

fn serve(stream: UnixStream, asked: &Mutex<Vec<String>>, script: &dyn Fn(&str) -> Answer) {
    let mut reader = BufReader::new(&stream);
    let (mut line, mut bytes) = (String::new(), 0);
    let _ = reader.read_line(&mut line);
    let mut words = line.split_whitespace();
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return };
    // Paths begin with the version of the API, as in `/v1.50`.
    let path = path.strip_prefix("/v").and_then(|path| path.find('/').map(|at| &path[at..])).unwrap_or(path);
    let request = format!("{method} {path}");
    loop {
        let mut line = String::new();
        let _ = reader.read_line(&mut line);
        let Some((name, value)) = line.split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            bytes = value.trim().parse().unwrap_or_default();
        }
    }
    let _ = reader.read_exact(&mut vec![0; bytes]);
    let answer = script(&request);
    lock(asked).push(request);
    match answer {
        Some((status, body)) => {
            let head =
                format!("HTTP/1.1 {status} Told\r\ncontent-type: application/json\r\nconnection: close\r\n");
            // To 204 and 304 no body belongs, and so no length.
            let length = if body.is_empty() && status != 200 {
                String::new()
            } else {
                format!("content-length: {}\r\n", body.len())
            };
            let _ = (&stream).write_all(format!("{head}{length}\r\n{body}").as_bytes());
        }
        // Until who asked goes.
        None => drop((&stream).read(&mut [0])),
    }
}

fn told(status: u16, message: &str) -> Answer {
    Some((status, format!(r#"{{"message":"{message}"}}"#)))
}

/// What is told of a container in this state.
fn container(status: &str, started: bool) -> Answer {
    let at = if started { "2026-01-01T00:00:00Z" } else { "0001-01-01T00:00:00Z" };
    let state = format!(
        r#"{{"Status":"{status}","Running":{},"ExitCode":0,"StartedAt":"{at}"}}"#,
        status == "running"
    );
    Some((200, format!(r#"{{"Id":"c1","State":{state}}}"#)))
}

/// An order to run in a container of this image.
fn boxed(id: &str, image: &str) -> Launch {
    let launch = order(id, "true");
    let container = Container { image: image.into(), ..Container::default() };
    let spec = TaskSpec { container: Some(container), ..(*launch.spec).clone() };
    Launch { spec: Arc::new(spec), ..launch }
}

#[tokio::test]
async fn what_never_started_has_not_succeeded() {
    for (status, started, expected) in [
        ("created", false, "Made"),
        ("dead", false, "Made"),
        ("removing", false, "Gone"),
        ("running", true, "Runs"),
        ("exited", true, "Ended"),
        ("dead", true, "Ended"),
        ("removing", true, "Ended"),
    ] {
        let scripted = Scripted::new(move |_| container(status, started));
        let (found, _) = life::look(&scripted.docker(), "c1").await.expect("told");
        assert!(format!("{found:?}").starts_with(expected), "{status}, started {started}: {found:?}");
    }
}

/// Docker says so of one that runs, and of one that somebody else is removing.
#[tokio::test]
async fn a_conflict_on_removal_is_looked_at() {
    for (status, started, expected) in
        [("running", true, Ok(false)), ("exited", true, Ok(false)), ("removing", false, Ok(true))]
    {
        let scripted = Scripted::new(move |request| match request.starts_with("DELETE") {
            true => told(409, "conflict"),
            false => container(status, started),
        });
        let (shared, id) = (scripted.shared(), task("report-0"));
        shared.folder.begin(&id, "c1").expect("noted");
        let discarded = life::discard(&shared, &scripted.docker(), &id, "c1").await;
        assert_eq!(discarded, expected, "{status}");
        assert_eq!(scripted.asked("DELETE"), 1);
        assert_eq!(shared.folder.begun(&id).is_empty(), expected == Ok(true), "{status}");
    }
}

/// Fetching takes minutes; nobody else waits for that.
#[tokio::test]
async fn what_waits_for_its_image_keeps_no_other_from_starting() {
    let scripted = Scripted::new(|request| match request {
        create if create.starts_with("POST /containers/create?name=absent") => told(404, "no such image"),
        create if create.starts_with("POST /containers/create") => {
            Some((201, r#"{"Id":"c1","Warnings":[]}"#.into()))
        }
        "POST /containers/c1/start" => Some((204, String::new())),
        "GET /containers/c1/json" => container("running", true),
        _ => None,
    });
    let shared = scripted.shared();
    for i in 0..STARTS_MAX {
        let (shared, order) = (shared.clone(), boxed(&format!("absent-{i}"), "absent"));
        tokio::spawn(async move { start::launch(&shared, Epoch(1), order).await });
    }
    until("all are known to lack their image", || scripted.asked("POST /containers/create") == STARTS_MAX)
        .await;
    until("it is fetched", || scripted.asked("POST /images/create") == 1).await;
    let launched = timeout(PATIENCE, start::launch(&shared, Epoch(1), boxed("there-0", "there"))).await;
    assert_eq!(launched, Ok(Ok(Known::Running)));
}

#[tokio::test]
async fn a_container_that_cannot_be_removed_keeps_no_other() {
    let scripted = Scripted::new(|request| match request.contains("stuck") {
        true => told(500, "device or resource busy"),
        false => Some((204, String::new())),
    });
    let mut options = scripted.options();
    options.container_age_max = Duration::ZERO;
    let shared = scripted.with(options);
    let [stuck, free] = ["stuck", "free"].map(|name| {
        let id = task(&format!("{name}-0"));
        shared.folder.begin(&id, name).expect("noted");
        shared.folder.put_end(&id, &End::Succeeded).expect("kept");
        shared.folder.acknowledge(&id).expect("acknowledged");
        let ended = File::options().write(true).open(shared.folder.task(&id).join("end")).expect("there");
        let age = if name == "stuck" { 7200 } else { 3600 };
        ended.set_modified(SystemTime::now() - Duration::from_secs(age)).expect("made older");
        id
    });
    let keep = Keep { age_min: Duration::ZERO, age_max: Duration::from_secs(60), bytes_max: u64::MAX };
    let forgotten = retention::forget_old(&shared, keep).await;
    assert_eq!(forgotten.map(|forgotten| forgotten.tasks), Ok(1));
    assert_eq!([shared.folder.has(&stuck), shared.folder.has(&free)], [true, false]);
    let told = shared.state().unremoved.clone().expect("somebody must see to it");
    assert!(told.contains("stuck-0") && told.contains("resource busy"), "{told}");
}

#[tokio::test]
async fn what_goes_beyond_one_call_is_removed_by_the_next() {
    let scripted = Scripted::new(|_| Some((204, String::new())));
    let mut options = scripted.options();
    options.container_age_max = Duration::ZERO;
    let shared = scripted.with(options);
    for name in ["a", "b", "c"] {
        let id = task(&format!("{name}-0"));
        shared.folder.begin(&id, name).expect("noted");
        shared.folder.put_end(&id, &End::Succeeded).expect("kept");
        shared.folder.acknowledge(&id).expect("acknowledged");
        let ended = File::options().write(true).open(shared.folder.task(&id).join("end")).expect("there");
        ended.set_modified(SystemTime::now() - Duration::from_secs(60)).expect("made older");
    }
    let keep = Keep { age_min: Duration::from_secs(3600), age_max: Duration::MAX, bytes_max: u64::MAX };
    let mut more = Vec::new();
    for removed in [2, 3] {
        more.push(retention::forget_up_to(2, &shared, keep).await.expect("done").more);
        assert_eq!(scripted.asked("DELETE /containers/"), removed, "containers");
    }
    let keep = Keep { age_min: Duration::ZERO, age_max: Duration::from_secs(1), ..keep };
    for left in [1, 0] {
        more.push(retention::forget_up_to(2, &shared, keep).await.expect("done").more);
        assert_eq!(shared.folder.tasks().count(), left);
    }
    assert_eq!(more, [true, false, true, false]);
}

#[tokio::test]
async fn a_log_that_cannot_be_read_is_not_asked_for_again_and_again() {
    let scripted = Scripted::new(|request| match request {
        logs if logs.contains("/logs") => told(501, "the logging driver does not support reading"),
        _ => container("running", true),
    });
    let shared = scripted.shared();
    shared.adopt(&task("report-0"), "c1");
    until("it is looked at", || scripted.asked("GET /containers/c1/json") == 1).await;
    let again = async {
        while scripted.asked("GET /containers/c1/json") == 1 {
            tokio::task::yield_now().await;
        }
    };
    assert!(timeout(Duration::from_secs(1), again).await.is_err());
    assert_eq!(scripted.asked("GET /containers/c1/logs"), 1);
    shared.state().live[&task("report-0")].stirred.notify_one();
    until("it is looked at", || scripted.asked("GET /containers/c1/json") == 2).await;
}

/// After a crash there may be two of a task.
#[tokio::test]
async fn a_kill_reaches_all_containers_of_its_task() {
    let scripted = Scripted::new(|request| match request.starts_with("POST") {
        true => Some((204, String::new())),
        false => container("running", true),
    });
    let (shared, id) = (scripted.shared(), task("report-0"));
    for name in ["c1", "c2"] {
        shared.folder.begin(&id, name).expect("noted");
    }
    life::kill(&shared, &id, LONG).await.expect("taken");
    let killed = ["c1", "c2"].map(|name| scripted.asked(&format!("POST /containers/{name}/kill")));
    assert_eq!(killed, [1, 1]);
}

/// What is asked of a Docker when one connects to it, and by the server that has done so.
fn connecting(request: &str) -> Answer {
    match request {
        "GET /version" => Some((200, r#"{"ApiVersion":"1.44"}"#.into())),
        "GET /info" => Some((200, r#"{"OSType":"linux","MemoryLimit":true}"#.into())),
        list if list.starts_with("GET /containers/json") => Some((200, "[]".into())),
        _ => None,
    }
}

/// Docker says nothing of one container, or nothing at all: the others are there, and begin.
#[tokio::test]
async fn a_task_of_which_nothing_can_be_told_keeps_no_other_from_starting() {
    for unknown in [told(500, "layer not found"), None] {
        let answer = unknown.clone();
        let scripted = Scripted::new(move |request| match request {
            "GET /containers/odd/json" => answer.clone(),
            create if create.starts_with("POST /containers/create") => {
                Some((201, r#"{"Id":"c1","Warnings":[]}"#.into()))
            }
            "POST /containers/c1/start" => Some((204, String::new())),
            "GET /containers/c1/json" => container("running", true),
            request => connecting(request),
        });
        scripted.shared().folder.begin(&task("odd-0"), "odd").expect("noted");
        let engine = DockerEngine::open(scripted.options()).expect("opened");
        until("Docker is reached", || engine.readiness() == Readiness::Ready).await;
        engine.begin_term(Epoch(2)).await.expect("the term begins");
        let launched = timeout(PATIENCE, engine.launch(Epoch(2), boxed("there-0", "there"))).await;
        assert_eq!(launched, Ok(Ok(Known::Running)));
        if unknown.is_some() {
            let notes = engine.notes().join("");
            assert!(notes.contains("odd-0") && notes.contains("layer not found"), "{notes}");
            let known = engine.reconcile(Epoch(2), &[task("odd-0"), task("there-0")]).await;
            assert_eq!(known, Ok(vec![Known::Unknown, Known::Running]));
        }
    }
}

/// An order is given up, or it is answered that it runs; never both.
#[tokio::test]
async fn what_is_given_up_is_not_said_to_run() {
    let scripted = Scripted::new(|request| match request {
        create if create.starts_with("POST /containers/create") => told(409, "the name is taken"),
        _ => container("created", false),
    });
    // How long it takes until it is given up is up to the machine: it gets less and more until both have happened.
    let mut answers = [0, 0];
    for micros in [1000, 100, 5000, 25_000, 125_000, 625_000] {
        let mut options = scripted.options();
        (options.dir, options.answer_within) =
            (options.dir.join(micros.to_string()), Duration::from_micros(micros));
        let shared = scripted.with(options);
        for i in 0..300 {
            let launch = boxed(&format!("refused-{i}"), "there");
            let id = launch.task.clone();
            match start::launch(&shared, Epoch(1), launch).await {
                Ok(Known::Running) => {
                    answers[0] += 1;
                    assert!(shared.state().live.contains_key(&id) || shared.folder.end(&id).is_some());
                    until("it ends", || shared.folder.end(&id).is_some()).await;
                }
                Err(EngineError::Refused(_)) => {
                    answers[1] += 1;
                    assert!(!shared.folder.has(&id) && !shared.state().live.contains_key(&id));
                }
                other => panic!("{other:?}"),
            }
        }
        if answers.iter().all(|count| *count > 0) {
            break;
        }
    }
    assert!(answers.iter().all(|count| *count > 0), "each of them happens: {answers:?}");
}

/// The next leader has been told that it never began, and may have launched it.
#[tokio::test]
async fn a_deposed_server_writes_no_end() {
    let (fail, failing) = std::sync::mpsc::channel();
    let failing = Mutex::new(failing);
    let scripted = Scripted::new(move |request| match request {
        create if create.starts_with("POST /containers/create") => told(404, "no such image"),
        pull if pull.starts_with("POST /images/create") => {
            let () = lock(&failing).recv().expect("told when");
            told(404, "no such image anywhere")
        }
        _ => None,
    });
    let mut options = scripted.options();
    options.answer_within = Duration::from_millis(1);
    let shared = scripted.with(options);
    let id = task("report-0");
    let launched = start::launch(&shared, Epoch(1), boxed("report-0", "absent")).await;
    assert_eq!(launched, Ok(Known::Running));
    until("it is fetched", || shared.state().pulls.len() == 1).await;
    shared.folder.raise(Epoch(2)).expect("raised");
    assert_eq!(shared.known(Epoch(2), &id).await, Ok(Known::NeverBegan));
    fail.send(()).expect("still there");
    until("it is let go", || !shared.state().live.contains_key(&id)).await;
    assert_eq!((shared.folder.end(&id), shared.state().events.len()), (None, 0));
}

/// Another server may hold the folder's lock for as long as it is stopped.
#[tokio::test]
async fn nobody_waits_behind_who_waits_for_the_disk() {
    let scripted = Scripted::new(connecting);
    let engine = DockerEngine::open(scripted.options()).expect("opened");
    let lock = File::options().write(true).open(scripted.folder.path().join("docker/lock")).expect("there");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("locked");
    let (give_back, back) = std::sync::mpsc::channel::<()>();
    let holder = thread::spawn(move || {
        let in_time = back.recv_timeout(PATIENCE).is_ok();
        drop(lock);
        in_time
    });
    let begun = {
        let begin = engine.begin_term(Epoch(1));
        tokio::pin!(begin);
        assert!(timeout(Duration::from_millis(50), &mut begin).await.is_err(), "the lock is held");
        give_back.send(()).expect("it waits");
        begin.await
    };
    assert_eq!((begun, holder.join().expect("ended")), (Ok(()), true), "others went on meanwhile");
}

#[test]
fn shares_are_those_that_the_kernel_takes() {
    for (cpu_millis, shares) in [(1, 2), (1000, 1024), (256_000, 262_144), (u32::MAX, 262_144)] {
        let spec = TaskSpec {
            limits: Limits { cpu_millis: Some(cpu_millis), memory_max: None },
            ..(*boxed("report-0", "there").spec).clone()
        };
        let plan = plan::plan(&spec, "report-0", &Default::default(), Vec::new(), None).expect("possible");
        assert_eq!(plan.body.host_config.and_then(|host| host.cpu_shares), Some(shares), "{cpu_millis}");
    }
}
