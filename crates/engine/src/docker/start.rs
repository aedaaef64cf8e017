//! How a task is started: image, container, note, one look at the epoch, start.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bollard::auth::DockerCredentials;
use bollard::errors::Error;
use bollard::models::NetworkConnectRequest;
use bollard::query_parameters::{CreateContainerOptions, CreateImageOptions, StartContainerOptions};
use bollard::{BollardRequest, Docker};
use futures_util::StreamExt;
use scheduler::ids::Epoch;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::life::{self, Found};
use super::logins::Whose;
use super::output::Taking;
use super::plan::{self, LABEL_EPOCH, LABEL_FOLDER, LABEL_TASK, Plan};
use super::{Live, Pull, Shared, Stage, lock, logins, sandbox};
use crate::end::End;
use crate::secrets;
use crate::{EngineError, Known, Launch, since_boot};

/// How often something is begun anew that others or a lost connection have spoiled, before it is given up.
const ATTEMPTS_MAX: u32 = 20;

/// What came of it.
enum Outcome {
    /// The container was started; who follows it will tell its end.
    Begun,
    /// It cannot be started, and that is its end.
    Ended(End),
    /// It was not started, and will not be.
    NotBegun(EngineError),
}

/// What an order has come to. Decided once: by who waits for the answer or by who carries it out, whoever is first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It was answered that it runs, so it must come to an end.
    Taken,
    /// It was given up, and that will be the answer.
    GivenUp,
}

/// Starts a task that is not known, and waits for that, but not long.
pub(super) async fn launch(shared: &Arc<Shared>, epoch: Epoch, launch: Launch) -> Result<Known, EngineError> {
    let (answer, mut answered) = oneshot::channel();
    let fate = Arc::new(OnceLock::new());
    let start = {
        let (killed, stirred) = (Arc::new(Mutex::new(None)), Arc::new(Notify::new()));
        let mut state = shared.state();
        if let Some(Live { stage, .. }) = state.live.get(&launch.task) {
            match stage {
                Stage::Starting { epoch: theirs, .. } if *theirs < epoch => {}
                _ => return Ok(Known::Running),
            }
        }
        state.last_number += 1;
        let number = state.last_number;
        let stage = Stage::Starting { epoch, killed: killed.clone() };
        state.live.insert(launch.task.clone(), Live { number, stage, stirred: stirred.clone() });
        Start { shared: shared.clone(), epoch, launch, number, killed, stirred, fate: fate.clone() }
    };
    tokio::spawn(start.run(answer));
    let answer = match timeout(shared.options.answer_within, &mut answered).await {
        Err(_) if fate.set(Fate::Taken).is_ok() => return Ok(Known::Running),
        Err(_) => answered.await,
        Ok(answer) => answer,
    };
    answer.unwrap_or_else(|_| Err(EngineError::Unknown("the server is ending".into())))
}

struct Start {
    shared: Arc<Shared>,
    epoch: Epoch,
    launch: Launch,
    number: u64,
    /// Set when somebody wants it dead, to the grace that it has.
    killed: Arc<Mutex<Option<Duration>>>,
    stirred: Arc<Notify>,
    fate: Arc<OnceLock<Fate>>,
}

impl Start {
    async fn run(self, answer: oneshot::Sender<Result<Known, EngineError>>) {
        let mut closed = self.shared.closed.subscribe();
        let outcome = tokio::select! {
            // In mid-air it stays as it is: nothing is started without its note.
            _ = closed.wait_for(|closed| *closed) => return,
            outcome = self.outcome() => outcome,
        };
        let told = match outcome {
            Outcome::Begun => {
                let grace = *lock(&self.killed);
                if let Some(grace) = grace {
                    self.end_what_began(grace).await;
                }
                Ok(Known::Running)
            }
            Outcome::Ended(end) => match self.deposed() {
                None => {
                    self.shared.settle_as(&self.launch.task, end.clone()).await;
                    Ok(Known::Ended(end.into()))
                }
                Some(problem) => {
                    self.let_go();
                    Err(problem)
                }
            },
            Outcome::NotBegun(problem) => {
                if self.deposed().is_some() {
                    self.let_go();
                } else if self.fate.set(Fate::GivenUp).is_ok() {
                    self.withdraw().await;
                } else {
                    let end = End::failed(format!("its container could not be started: {problem}"));
                    self.shared.settle_as(&self.launch.task, end).await;
                }
                Err(problem)
            }
        };
        let _ = answer.send(told);
    }

    /// Whether a later epoch has come, to which all belongs that is to be said of the task.
    fn deposed(&self) -> Option<EngineError> {
        let problem = self.shared.folder.check(self.epoch).err()?;
        matches!(problem, EngineError::Deposed { .. }).then_some(problem)
    }

    /// It is not ours any more, unless another launch of the same task has taken its place.
    fn let_go(&self) {
        let mut state = self.shared.state();
        if state.live.get(&self.launch.task).is_some_and(|live| live.number == self.number) {
            state.live.remove(&self.launch.task);
        }
    }

    /// Nothing is known of it any more.
    async fn withdraw(&self) {
        let task = self.launch.task.clone();
        let withdrawn = self.shared.on_disk(move |folder| match folder.begun(&task).is_empty() {
            true => folder.withdraw(&task),
            false => Ok(()),
        });
        let _ = withdrawn.await;
        self.let_go();
    }

    async fn end_what_began(&self, grace: Duration) {
        let containers = self.shared.folder.begun(&self.launch.task);
        for container in containers {
            while let Err(EngineError::Unknown(_)) =
                life::end_container(&self.shared, &self.launch.task, &container, grace).await
            {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }

    async fn outcome(&self) -> Outcome {
        if let Some(outcome) = self.stopped() {
            return outcome;
        }
        let sandbox = tokio::select! {
            filled = sandbox::fill(&self.shared, &self.launch.task, &self.launch.spec) => match filled {
                Ok(sandbox) => sandbox,
                Err(reason) => return Outcome::Ended(End::failed(reason)),
            },
            () = self.stirred.notified() => return Outcome::Ended(End::Killed),
        };
        let plan = match self.plan(sandbox.as_deref()) {
            Ok(plan) => plan,
            Err(reason) => return Outcome::Ended(End::failed(reason)),
        };
        let of = |whose| move |file| logins::Source { file, whose };
        let mut logins: Vec<_> =
            sandbox.as_deref().map(sandbox::logins).into_iter().flatten().map(of(Whose::Job)).collect();
        logins.extend(self.shared.options.logins.iter().cloned().map(of(Whose::Server)));
        let (mut pulled, mut last) = (false, String::new());
        for _ in 0..ATTEMPTS_MAX {
            let docker = match self.connected().await {
                Ok(docker) => docker,
                Err(outcome) => return outcome,
            };
            if plan.force_pull && !pulled {
                if let Err(outcome) = self.pull(&docker, &plan, &logins).await {
                    return outcome;
                }
                pulled = true;
            }
            let attempt = {
                // Not held while an image is fetched, which may take minutes.
                let _permit = self.shared.starts.acquire().await;
                match self.stopped() {
                    Some(outcome) => Attempt::Done(outcome),
                    None => self.attempt(&docker, &plan, pulled).await,
                }
            };
            match attempt {
                Attempt::Done(outcome) => return outcome,
                Attempt::NoImage => {
                    if let Err(outcome) = self.pull(&docker, &plan, &logins).await {
                        return outcome;
                    }
                    pulled = true;
                }
                Attempt::Again(reason) => last = reason,
            }
        }
        Outcome::NotBegun(EngineError::Refused(format!("given up after {ATTEMPTS_MAX} attempts: {last}")))
    }

    fn plan(&self, sandbox: Option<&Path>) -> Result<Plan, String> {
        let spec = &self.launch.spec;
        let sandbox = sandbox.map(|sandbox| match sandbox.to_str() {
            Some(path) => Ok(path.to_owned()),
            None => Err(format!("`{}` is not UTF-8, which Docker's API cannot carry", sandbox.display())),
        });
        let values = secrets::resolve(&spec.secrets)?;
        let text = |(name, value): (String, std::ffi::OsString)| match value.into_string() {
            Ok(value) => Ok((name, value)),
            Err(_) => Err(format!("the value of `{name}` is not UTF-8, which Docker's API cannot carry")),
        };
        let values = values.into_iter().map(text).collect::<Result<_, _>>()?;
        let labels = BTreeMap::from([
            (LABEL_FOLDER, self.shared.folder.id().to_owned()),
            (LABEL_EPOCH, self.epoch.0.to_string()),
            (LABEL_TASK, self.launch.task.to_string()),
        ]);
        let plan = plan::plan(spec, self.launch.task.as_str(), &labels, values, sandbox.transpose()?);
        plan.map_err(|refusal| refusal.to_string())
    }

    /// What keeps it from going on: it was killed, or a later epoch has begun, or the order has become stale on its way.
    fn stopped(&self) -> Option<Outcome> {
        if lock(&self.killed).is_some() {
            return Some(Outcome::Ended(End::Killed));
        }
        if let Err(problem) = self.shared.folder.check(self.epoch) {
            return Some(Outcome::NotBegun(problem));
        }
        let late = since_boot() > self.launch.not_after && !self.is_taken();
        late.then_some(Outcome::NotBegun(EngineError::TooLate))
    }

    fn is_taken(&self) -> bool {
        self.fate.get() == Some(&Fate::Taken)
    }

    /// The connection. An order that has been taken waits for it, one that has not is refused.
    async fn connected(&self) -> Result<Docker, Outcome> {
        loop {
            if let Some(outcome) = self.stopped() {
                return Err(outcome);
            }
            match self.shared.docker() {
                Ok(docker) => return Ok(docker),
                Err(reason) if !self.is_taken() => {
                    return Err(Outcome::NotBegun(EngineError::Refused(reason)));
                }
                Err(_) => {}
            }
            let mut connection = self.shared.docker.subscribe();
            let _ = timeout(Duration::from_secs(1), connection.wait_for(Option::is_some)).await;
        }
    }

    async fn pull(&self, docker: &Docker, plan: &Plan, logins: &[logins::Source]) -> Result<(), Outcome> {
        let (image, sources) = (plan.image.clone(), logins.to_vec());
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = spawn_blocking(move || logins::find(&image, &sources, &path)).await;
        let (login, hint) = match found {
            Ok(logins::Found::Login(login)) => (Some(login), None),
            Ok(logins::Found::None(hint)) => (None, Some(hint)),
            Err(_) => (None, None),
        };
        let pull =
            Pull { image: plan.image.clone(), platform: plan.platform.clone().unwrap_or_default(), login };
        let mut pulled = self.shared.pull(docker, pull);
        let done = async { pulled.wait_for(Option::is_some).await.ok().and_then(|done| done.clone()) };
        tokio::select! {
            done = done => match done {
                Some(Ok(())) => Ok(()),
                Some(Err(reason)) => {
                    let hint = hint.filter(|_| wants_login(&reason)).map(|hint| format!(" ({hint})"));
                    let hint = hint.unwrap_or_default();
                    let message = format!("the image `{}` cannot be had: {reason}{hint}", plan.image);
                    Err(Outcome::Ended(End::failed(message)))
                }
                None => Err(Outcome::NotBegun(EngineError::Refused("the image is not fetched any more".into()))),
            },
            // Others may still want the image.
            () = self.stirred.notified() => Err(Outcome::Ended(End::Killed)),
        }
    }

    async fn attempt(&self, docker: &Docker, plan: &Plan, pulled: bool) -> Attempt {
        let task = &self.launch.task;
        let options = CreateContainerOptions {
            name: Some(self.shared.name_of(task)),
            platform: plan.platform.clone().unwrap_or_default(),
        };
        let container = match docker.create_container(Some(options), plan.body.clone()).await {
            Ok(created) => created.id,
            Err(Error::DockerResponseServerError { status_code: 404, .. }) if !pulled => {
                return Attempt::NoImage;
            }
            Err(Error::DockerResponseServerError { status_code: 409, message }) => {
                return self.name_is_taken(docker, message).await;
            }
            Err(Error::DockerResponseServerError { message, .. }) => {
                return Attempt::Done(Outcome::Ended(End::failed(format!(
                    "Docker refused its container: {message}"
                ))));
            }
            // Whether it is there shows the next time, by its name.
            Err(error) => return Attempt::Again(self.shared.trouble(&error)),
        };
        for network in &plan.more_networks {
            let request = NetworkConnectRequest { container: container.clone(), endpoint_config: None };
            if let Err(error) = docker.connect_network(network, request).await {
                let _ = life::discard(&self.shared, docker, task, &container).await;
                return match error {
                    Error::DockerResponseServerError { message, .. } => Attempt::Done(Outcome::Ended(
                        End::failed(format!("it cannot join the network `{network}`: {message}")),
                    )),
                    error => Attempt::Again(self.shared.trouble(&error)),
                };
            }
        }
        self.start(docker, &container).await
    }

    /// Somebody has made a container of this name before.
    async fn name_is_taken(&self, docker: &Docker, message: String) -> Attempt {
        let (task, name) = (&self.launch.task, self.shared.name_of(&self.launch.task));
        let (found, container) = match life::look(docker, &name).await {
            Ok(seen) => seen,
            Err(error) => return Attempt::Again(self.shared.trouble(&error)),
        };
        match found {
            Found::Gone => Attempt::Again(message),
            Found::Made { folder } if folder == self.shared.folder.id() => {
                match life::discard(&self.shared, docker, task, &container).await {
                    Ok(true) => Attempt::Again(message),
                    Ok(false) => self.begun(&container),
                    Err(reason) => Attempt::Again(reason),
                }
            }
            Found::Made { .. } => Attempt::Done(Outcome::NotBegun(EngineError::Refused(format!(
                "there is a container of the name `{name}` that is not ours; remove it with `docker rm {name}`"
            )))),
            // By its name it is this very task, and it has been started.
            Found::Broken(_) | Found::Runs | Found::Ended(_) => match self.note(&container).await {
                Ok(()) => self.begun(&container),
                Err(problem) => Attempt::Done(Outcome::NotBegun(EngineError::Unknown(problem))),
            },
        }
    }

    fn begun(&self, container: &str) -> Attempt {
        self.shared.adopt(&self.launch.task, container);
        Attempt::Done(Outcome::Begun)
    }

    async fn note(&self, container: &str) -> Result<(), String> {
        let (task, container) = (self.launch.task.clone(), container.to_owned());
        let output_max = self.launch.spec.output_max;
        let noted = self.shared.on_disk(move |folder| {
            folder.begin(&task, &container)?;
            Taking::prepare(&folder.task(&task), output_max)
        });
        noted.await
    }

    async fn start(&self, docker: &Docker, container: &str) -> Attempt {
        let task = &self.launch.task;
        let noted = self.note(container).await;
        // The look at the epoch comes after the note and before the start: see the head of `mod.rs`.
        let stopped = match noted {
            Ok(()) => self.stopped(),
            Err(reason) => Some(Outcome::NotBegun(EngineError::Refused(reason))),
        };
        if let Some(outcome) = stopped {
            let _ = life::discard(&self.shared, docker, task, container).await;
            return Attempt::Done(outcome);
        }
        let started = docker.start_container(container, None::<StartContainerOptions>).await;
        let error = match started {
            Ok(()) => return self.begun(container),
            Err(error) => error,
        };
        // Never a second request for this container: it might have ended meanwhile, and would run once more.
        let found = loop {
            let docker = match self.shared.docker() {
                Ok(docker) => docker,
                Err(_) => {
                    let mut connection = self.shared.docker.subscribe();
                    let _ = connection.wait_for(Option::is_some).await;
                    continue;
                }
            };
            match life::look(&docker, container).await {
                Ok((found, _)) => break found,
                Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
            }
        };
        match (found, error) {
            (Found::Runs | Found::Ended(_), _) => self.begun(container),
            (Found::Gone, error) => Attempt::Again(self.shared.trouble(&error)),
            (Found::Broken(message), _)
            | (Found::Made { .. }, Error::DockerResponseServerError { message, .. }) => Attempt::Done(
                Outcome::Ended(End::failed(format!("Docker could not start its container: {message}"))),
            ),
            (Found::Made { .. }, error) => match life::discard(&self.shared, docker, task, container).await {
                Ok(true) => Attempt::Again(self.shared.trouble(&error)),
                Ok(false) => self.begun(container),
                Err(reason) => Attempt::Again(reason),
            },
        }
    }
}

/// What came of one go at it.
enum Attempt {
    Done(Outcome),
    NoImage,
    Again(String),
}

type Pulled = watch::Receiver<Option<Result<(), String>>>;

impl Shared {
    /// Fetches an image, once for all who want it now.
    fn pull(self: &Arc<Self>, docker: &Docker, pull: Pull) -> Pulled {
        let mut state = self.state();
        if let Some(pulled) = state.pulls.get(&pull) {
            return pulled.clone();
        }
        let (done, pulled) = watch::channel(None);
        state.pulls.insert(pull.clone(), pulled.clone());
        let (shared, docker) = (self.clone(), docker.clone());
        let mut closed = self.closed.subscribe();
        tokio::spawn(async move {
            let outcome = tokio::select! {
                _ = closed.wait_for(|closed| *closed) => Err("the server is ending".into()),
                outcome = fetched(&docker, &pull) => outcome,
            };
            shared.state().pulls.remove(&pull);
            let _ = done.send(Some(outcome));
        });
        pulled
    }
}

/// Whether a registry says that it does not know us; some tell a stranger that there is no such image.
fn wants_login(reason: &str) -> bool {
    let reason = reason.to_lowercase();
    ["unauthorized", "authentication", "credentials", "denied", "docker login"]
        .iter()
        .any(|word| reason.contains(word))
}

/// Docker wants the alphabet of base64 that is safe in URLs, the client writes the other one, and Docker takes what it
/// cannot read for no login: every fourth password with punctuation would be refused.
fn with_login_as_docker_reads_it(mut request: BollardRequest) -> BollardRequest {
    if let Some(login) = request.headers_mut().get_mut("x-registry-auth")
        && let Ok(safe) = login.to_str().unwrap_or_default().replace('+', "-").replace('/', "_").parse()
    {
        *login = safe;
    }
    request
}

async fn fetched(docker: &Docker, Pull { image, platform, login }: &Pull) -> Result<(), String> {
    let name = image.rsplit_once('/').map_or(image.as_str(), |(_, name)| name);
    // Without one, Docker would fetch them all.
    let tag = (!name.contains([':', '@'])).then(|| "latest".to_owned());
    let options = CreateImageOptions {
        from_image: Some(image.clone()),
        tag,
        platform: platform.clone(),
        ..CreateImageOptions::default()
    };
    let login = login.clone().map(|login| DockerCredentials {
        username: Some(login.user),
        password: Some(login.password),
        serveraddress: Some(login.registry),
        identitytoken: login.token,
        ..DockerCredentials::default()
    });
    let docker = docker.clone().with_request_modifier(with_login_as_docker_reads_it);
    let mut progress = Box::pin(docker.create_image(Some(options), None, login));
    while let Some(step) = progress.next().await {
        let step = step.map_err(|error| error.to_string())?;
        if let Some(message) = step.error_detail.and_then(|detail| detail.message) {
            return Err(message);
        }
    }
    Ok(())
}
