//! The connection to Docker: made again and again, for ever; and what Docker tells of our containers.

use std::collections::HashMap;
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bollard::models::ContainerSummaryStateEnum as State;
use bollard::query_parameters::{EventsOptions, ListContainersOptions};
use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::StreamExt;
use scheduler::ids::TaskId;
use tokio::time::{Instant, sleep};

use super::plan::{LABEL_EPOCH, LABEL_FOLDER, LABEL_TASK};
use super::{Shared, Stage, life, socket_of};

/// Pauses between attempts to connect.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long it is waited for what became of tasks of before, until all others may begin.
const SETTLED_WITHIN: Duration = Duration::from_secs(5);
/// Most time before what could not be told of them is asked for again.
const SETTLE_AGAIN_MAX: Duration = Duration::from_secs(60);
/// How long Docker may take to answer: starting a container on a busy machine takes seconds.
const ANSWER_SECONDS: u64 = 120;
/// Without news for so long, it is asked whether it is there.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Events are asked for from so long before we looked at the containers, so that none falls in between.
const OVERLAP: Duration = Duration::from_secs(5);

pub(super) async fn for_ever(shared: Arc<Shared>) {
    let mut pause = PAUSE_MIN;
    loop {
        let since = Instant::now();
        let reason = match serve(&shared).await {
            Ok(()) => "the connection was closed".to_owned(),
            Err(reason) => reason,
        };
        shared.docker.send_replace(None);
        shared.state().not_ready =
            Some(format!("Docker at {} cannot be reached: {reason}", shared.options.host));
        // A connection that was good for a while and broke: Docker is being restarted.
        pause = if since.elapsed() > PAUSE_MAX { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
        sleep(pause).await;
    }
}

/// Connects, settles what happened meanwhile, and hears what happens, until the connection breaks.
async fn serve(shared: &Arc<Shared>) -> Result<(), String> {
    let path = socket_of(&shared.options.host).ok_or("it is not a Unix socket")?;
    let told = |error: bollard::errors::Error| error.to_string();
    let docker = Docker::connect_with_unix(path, ANSWER_SECONDS, API_DEFAULT_VERSION).map_err(told)?;
    let docker = docker.negotiate_version().await.map_err(told)?;
    let info = docker.info().await.map_err(told)?;
    if info.os_type.as_deref().is_some_and(|os| os != "linux") {
        return Err("it runs no Linux containers".into());
    }
    let mut notes = Vec::new();
    if info.memory_limit == Some(false) {
        notes.push(
            "Docker cannot limit the memory of containers here: `mem` of their jobs has no effect".into(),
        );
    }
    let from = SystemTime::now().checked_sub(OVERLAP).unwrap_or(SystemTime::UNIX_EPOCH);
    shared.docker.send_replace(Some(docker.clone()));
    shared.state().notes = notes;
    tokio::select! {
        heard = hear(shared, &docker, from) => heard,
        Err(reason) = settle_all(shared, &docker) => Err(reason),
        // One container of which Docker does not say anything keeps no others from starting.
        () = async { sleep(SETTLED_WITHIN).await; ready(shared); pending().await } => Ok(()),
    }
}

fn ready(shared: &Shared) {
    shared.state().not_ready = None;
}

/// Settles what is open, again and again where that cannot be done.
async fn settle_all(shared: &Arc<Shared>, docker: &Docker) -> Result<(), String> {
    let mut pause = PAUSE_MIN;
    loop {
        let unsettled = settle(shared, docker).await?;
        ready(shared);
        let done = unsettled.is_none();
        shared.state().unsettled = unsettled;
        if done {
            return Ok(());
        }
        sleep(pause).await;
        pause = (pause * 2).min(SETTLE_AGAIN_MAX);
    }
}

/// Looks at all that was open, and removes containers that were made and will never be started. Why that cannot be done
/// with one of them, of the first.
/// # Errors
/// Docker does not even say which containers there are.
async fn settle(shared: &Arc<Shared>, docker: &Docker) -> Result<Option<String>, String> {
    let mut unsettled = None;
    let mut note = |task: &TaskId, reason: String| {
        unsettled.get_or_insert_with(|| format!("it cannot be told what became of task {task}: {reason}"));
    };
    for task in shared.folder.open_tasks() {
        let in_hand = shared.state().live.contains_key(&task);
        if !in_hand
            && shared.folder.end(&task).is_none()
            && let Err(reason) = shared.resolve(&task).await
        {
            note(&task, reason);
        }
    }
    let ours = format!("{LABEL_FOLDER}={}", shared.folder.id());
    let filters = HashMap::from([
        ("label".to_owned(), vec![ours]),
        ("status".to_owned(), vec!["created".to_owned(), "running".to_owned(), "paused".to_owned()]),
    ]);
    let options = ListContainersOptions { all: true, filters: Some(filters), ..Default::default() };
    let found = docker.list_containers(Some(options)).await.map_err(|error| error.to_string())?;
    for container in found {
        let labels = container.labels.unwrap_or_default();
        let task = labels.get(LABEL_TASK).and_then(|task| TaskId::parse(task));
        let (Some(task), Some(id)) = (task, container.id) else { continue };
        let epoch = labels.get(LABEL_EPOCH).and_then(|epoch| epoch.parse::<u64>().ok());
        let in_hand = match shared.state().live.get(&task).map(|live| &live.stage) {
            Some(Stage::Running { .. }) => true,
            Some(Stage::Starting { epoch: theirs, .. }) => Some(theirs.0) == epoch,
            None => false,
        };
        if in_hand || shared.folder.end(&task).is_some() {
            continue;
        }
        let settled = match container.state {
            Some(State::CREATED) => life::discard(shared, docker, &task, &id).await.map(drop),
            // The folder was put back as it was before this one began.
            _ => {
                let (begun, noted) = (task.clone(), id.clone());
                let noted = shared.on_disk(move |folder| folder.begin(&begun, &noted)).await;
                noted.map(|()| shared.adopt(&task, &id))
            }
        };
        if let Err(reason) = settled {
            note(&task, reason);
        }
    }
    Ok(unsettled)
}

/// Stirs who follows a container when something happens to it.
async fn hear(shared: &Arc<Shared>, docker: &Docker, from: SystemTime) -> Result<(), String> {
    let since = from.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let filters = HashMap::from([
        ("type".to_owned(), vec!["container".to_owned()]),
        ("label".to_owned(), vec![format!("{LABEL_FOLDER}={}", shared.folder.id())]),
        ("event".to_owned(), vec!["die".to_owned(), "destroy".to_owned()]),
    ]);
    let options = EventsOptions { since: Some(since.to_string()), until: None, filters: Some(filters) };
    let mut events = Box::pin(docker.events(Some(options)));
    loop {
        tokio::select! {
            event = events.next() => {
                let event = match event {
                    Some(Ok(event)) => event,
                    Some(Err(error)) => return Err(error.to_string()),
                    None => return Ok(()),
                };
                let attributes = event.actor.and_then(|actor| actor.attributes).unwrap_or_default();
                let task = attributes.get(LABEL_TASK).and_then(|task| TaskId::parse(task));
                let Some(task) = task else { continue };
                let state = shared.state();
                if let Some(live) = state.live.get(&task).filter(|live| matches!(live.stage, Stage::Running { .. })) {
                    live.stirred.notify_one();
                }
            }
            () = sleep(SILENCE_MAX) => drop(docker.ping().await.map_err(|error| error.to_string())?),
        }
    }
}
