//! The connection to the master: it is found, subscribed to, listened to and told things; and when it is lost, all begins
//! anew, for as long as the term lasts.
//!
//! Before every subscription the node's store confirms that the epoch still leads. What is told to the master goes over one
//! stream, in order; once another has subscribed in our place, the master refuses whatever comes from this one.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE, LOCATION};
use reqwest::{Client, Response, StatusCode};
use scheduler::ids::Epoch;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::Shared;
use super::backoff::Backoff;
use super::master::{Found, MasterUrl, Search};
use super::options::{MesosLogin, MesosOptions};
use super::recordio::Decoder;
use super::tasks::Act;
use super::wire::{self, Call, Event};
use crate::{EngineError, since_boot};

const PATH: &str = "/api/v1/scheduler";
const STREAM: &str = "Mesos-Stream-Id";
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// Longest pause between tries: a master that is there again is found soon, and a cluster full of us does not overrun it.
const RETRY_MAX: Duration = Duration::from_secs(5);
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// A master answers a call within this, or is in trouble.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Where the master does not say how often it gives a sign of life.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// After so many signs of life that did not come the connection counts as dead.
const BEATS_MISSED: u32 = 3;
/// Masters that lead to each other are not followed for ever.
const REDIRECTS_MAX: usize = 5;
/// Acknowledgements on their way at once: there are many, and their order does not matter.
const ACKNOWLEDGED_AT_ONCE: usize = 16;
/// What is refused is told with so much of what the master says.
const TOLD_MAX: usize = 300;

/// A client of masters and agents.
pub(super) fn client() -> reqwest::Result<Client> {
    Client::builder()
        .tls_backend_preconfigured(crate::tls::of_this_machine())
        // The master writes it into its log: of several servers of a machine it tells which one speaks.
        .user_agent(format!("chronos/{} (pid {})", env!("CARGO_PKG_VERSION"), std::process::id()))
        // Masters are told apart by where they are; and a cluster is not behind a proxy.
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .connect_timeout(CONNECT_MAX)
        .tcp_nodelay(true)
        .build()
}

/// Why there is no connection, or no more.
enum Trouble {
    /// For who looks at the readiness.
    Passing(String),
    /// The master has ended this framework; its id is of no more use.
    Removed(String),
    /// Another leads: this term is over.
    Deposed(EngineError),
}

impl From<String> for Trouble {
    fn from(reason: String) -> Self {
        Self::Passing(reason)
    }
}

/// Subscribes and listens, again and again, until another leads.
pub(super) async fn for_ever(shared: Arc<Shared>, epoch: Epoch) {
    let search = Search::begin(&shared.options.masters);
    let mut backoff = Backoff::any(RETRY_FIRST, RETRY_MAX);
    // `None` to be known as a new framework.
    let kept = shared.memory.recall().filter(|note| !note.is_empty());
    let mut framework = kept.or_else(|| shared.memory.inherited()).map(|id| id.to_string());
    loop {
        let (trouble, listened) = once(&shared, &search, epoch, &mut framework).await;
        shared.unsubscribed();
        if listened {
            backoff.reset();
        }
        match trouble {
            Trouble::Deposed(deposed) => {
                info!(epoch = epoch.0, "another leads; the subscription at the master of Mesos has ended");
                return shared.deposed(epoch, deposed);
            }
            Trouble::Removed(why) => {
                warn!(why, "Mesos has removed this framework, and its tasks; it begins as a new one");
                framework = None;
                shared.change(|table, _| table.framework_removed());
                shared.not_ready(why);
            }
            Trouble::Passing(why) => {
                if listened {
                    warn!(why, "the connection to the master of Mesos was lost");
                } else {
                    debug!(why, "not subscribed at a master of Mesos");
                }
                shared.not_ready(why);
            }
        }
        let mut found = search.found();
        tokio::select! {
            () = tokio::time::sleep(backoff.pause()) => {}
            Ok(()) = found.changed() => {}
        }
    }
}

/// One try: why it ended, and whether the master had listened.
async fn once(
    shared: &Arc<Shared>,
    search: &Search,
    epoch: Epoch,
    framework: &mut Option<String>,
) -> (Trouble, bool) {
    let mut found = search.found();
    let urls = match &*found.borrow_and_update() {
        Found::At(urls) => urls.clone(),
        Found::Nowhere(why) => return (format!("no master of Mesos is known: {why}").into(), false),
    };
    let mut refused = Vec::new();
    for url in urls {
        match subscribe(shared, epoch, &url, framework.as_deref()).await {
            Ok(session) => {
                let (trouble, listened) = tokio::select! {
                    ended = session.run(shared, epoch, framework) => ended,
                    () = leads_elsewhere(&mut found) => {
                        (format!("{url} leads no more, says whoever knows the masters").into(), true)
                    }
                };
                return (trouble, listened);
            }
            Err(Trouble::Passing(why)) => refused.push(why),
            Err(trouble) => return (trouble, false),
        }
    }
    (refused.join("; ").into(), false)
}

async fn leads_elsewhere(found: &mut tokio::sync::watch::Receiver<Found>) {
    loop {
        if found.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        if matches!(*found.borrow_and_update(), Found::At(_)) {
            return;
        }
    }
}

/// A stream of events, and what is sent with it.
struct Session {
    url: MasterUrl,
    stream: String,
    events: Response,
}

async fn subscribe(
    shared: &Shared,
    epoch: Epoch,
    url: &MasterUrl,
    framework: Option<&str>,
) -> Result<Session, Trouble> {
    let body = wire::subscribe(&shared.options, framework).to_string();
    let mut url = url.clone();
    for _ in 0..REDIRECTS_MAX {
        confirm(shared, epoch, None).await?;
        let sent = timeout(ANSWER_MAX, request(shared, &url, body.clone()).send()).await;
        let response = match sent {
            Err(_) => return Err(format!("the master at {url} does not answer").into()),
            Ok(Err(error)) => return Err(format!("no master answers at {url}: {}", described(&error)).into()),
            Ok(Ok(response)) => response,
        };
        match response.status() {
            StatusCode::OK => {
                let stream = response.headers().get(STREAM).and_then(|value| value.to_str().ok());
                let Some(stream) = stream.map(str::to_owned) else {
                    return Err(format!("what answers at {url} is no master of Mesos").into());
                };
                return Ok(Session { url, stream, events: response });
            }
            StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT | StatusCode::FOUND => {
                let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
                let Some(next) = location.and_then(|location| url.redirect(location)) else {
                    return Err(
                        format!("the master at {url} does not lead, and does not say who does").into()
                    );
                };
                debug!(from = %url, to = %next, "the master leads elsewhere");
                url = next;
            }
            status => return Err(refusal(&shared.options, &url, status, response).await.into()),
        }
    }
    Err(format!("the masters lead to each other, in the end to {url}").into())
}

async fn confirm(shared: &Shared, epoch: Epoch, note: Option<&str>) -> Result<(), Trouble> {
    match shared.memory.remember(epoch, note).await {
        Ok(()) => Ok(()),
        Err(deposed @ EngineError::Deposed { .. }) => Err(Trouble::Deposed(deposed)),
        Err(problem) => {
            Err(format!("not subscribed at Mesos, because the store does not confirm who leads: {problem}")
                .into())
        }
    }
}

fn request(shared: &Shared, url: &MasterUrl, body: String) -> reqwest::RequestBuilder {
    let request = shared
        .http
        .post(format!("{url}{PATH}"))
        .header(CONTENT_TYPE, "application/json")
        .header(ACCEPT, "application/json")
        .body(body);
    logged_in(request, shared.options.login.as_ref())
}

/// Says who asks, where that is known.
pub(super) fn logged_in(
    request: reqwest::RequestBuilder,
    login: Option<&MesosLogin>,
) -> reqwest::RequestBuilder {
    match login {
        Some(login) => request.basic_auth(&login.principal, Some(&login.secret)),
        None => request,
    }
}

/// Why a master would not have us, and what to do about it.
async fn refusal(options: &MesosOptions, url: &MasterUrl, status: StatusCode, response: Response) -> String {
    let said = said(response).await;
    match (status, &options.login) {
        (StatusCode::UNAUTHORIZED, None) => format!(
            "the master at {url} wants to know who asks ({status}); name a principal that it knows with \
             --mesos_authentication_principal and its secret with --mesos_authentication_secret_file"
        ),
        (StatusCode::UNAUTHORIZED, Some(login)) => format!(
            "the master at {url} does not know the principal `{}` by this secret ({status}); see \
             --mesos_authentication_principal, and whether the file of --mesos_authentication_secret_file is the \
             one that the master's --credentials have",
            login.principal
        ),
        (StatusCode::FORBIDDEN, login) => format!(
            "the master at {url} does not let {} be a framework of role `{}` ({status}{said}); its --acls have to \
             allow register_frameworks, or another role is named with --mesos_role",
            login.as_ref().map_or("nobody in particular".into(), |login| format!("`{}`", login.principal)),
            options.role
        ),
        (StatusCode::SERVICE_UNAVAILABLE, _) => format!(
            "the master at {url} is not ready yet ({status}{said}): it recovers what the last one knew, or none leads"
        ),
        _ => format!("the master at {url} refuses this framework ({status}{said})"),
    }
}

/// What an answer says, to be put behind something.
async fn said(response: Response) -> String {
    let body = timeout(ANSWER_MAX, response.text()).await;
    let text: String = body.ok().and_then(Result::ok).unwrap_or_default();
    let text = text.trim();
    if text.is_empty() {
        String::new()
    } else {
        format!(": {}", text.chars().take(TOLD_MAX).collect::<String>())
    }
}

impl Session {
    /// Until the connection is lost: why, and whether the master had listened at all.
    async fn run(
        mut self,
        shared: &Arc<Shared>,
        epoch: Epoch,
        framework: &mut Option<String>,
    ) -> (Trouble, bool) {
        let mut decoder = Decoder::default();
        let (id, heartbeat) = match self.welcome(shared, &mut decoder).await {
            Ok(welcome) => welcome,
            Err(trouble) => return (trouble, false),
        };
        // One that was inherited is not ours yet.
        let known = shared.memory.recall().as_deref() == Some(id.as_str());
        *framework = Some(id.clone());
        // Before any offer is used: whoever leads next must find the tasks by this id.
        if !known && let Err(trouble) = keep(shared, epoch, &id).await {
            return (trouble, false);
        }
        info!(master = %self.url, framework = id, epoch = epoch.0, "subscribed at the master of Mesos");
        shared.subscribed(&id, &self.url.to_string());
        let (url, stream) = (self.url.clone(), self.stream.clone());
        let trouble = tokio::select! {
            trouble = self.listen(shared, &mut decoder, heartbeat) => trouble,
            trouble = tell(shared, &url, &stream, &id) => trouble,
        };
        (trouble, true)
    }

    /// The first event: under which id the master knows us, and how often it gives a sign of life.
    async fn welcome(
        &mut self,
        shared: &Shared,
        decoder: &mut Decoder,
    ) -> Result<(String, Duration), Trouble> {
        loop {
            match self.next(decoder, ANSWER_MAX).await? {
                Event::Subscribed { framework, heartbeat } if !framework.is_empty() => {
                    return Ok((framework, heartbeat.unwrap_or(HEARTBEAT)));
                }
                Event::Error { message } => return Err(self.error(shared, &message)),
                _ => {}
            }
        }
    }

    async fn listen(&mut self, shared: &Shared, decoder: &mut Decoder, heartbeat: Duration) -> Trouble {
        loop {
            let event = match self.next(decoder, heartbeat * BEATS_MISSED).await {
                Ok(event) => event,
                Err(trouble) => return trouble,
            };
            shared.heard();
            match event {
                Event::Offers(offers) => shared.change(|table, now| table.offers(now, offers)),
                Event::Rescind { offer } => shared.change(|table, now| table.rescind(now, &offer)),
                Event::Update(status) => shared.change(|table, now| table.update(now, *status)),
                Event::Failure { agent } => info!(agent, "Mesos has lost an agent"),
                Event::Error { message } => return self.error(shared, &message),
                Event::Subscribed { .. } | Event::Heartbeat | Event::Other => {}
            }
        }
    }

    /// The next event that can be read.
    async fn next(&mut self, decoder: &mut Decoder, patience: Duration) -> Result<Event, Trouble> {
        loop {
            match decoder.next() {
                Err(problem) => {
                    return Err(
                        format!("what the master at {} sends makes no sense: {problem}", self.url).into()
                    );
                }
                Ok(Some(record)) => match Event::read(record, since_boot()) {
                    Ok(event) => return Ok(event),
                    Err(problem) => {
                        warn!(%problem, "an event of the master of Mesos cannot be read");
                        continue;
                    }
                },
                Ok(None) => {}
            }
            match timeout(patience, self.events.chunk()).await {
                Err(_) => {
                    return Err(format!(
                        "the master at {} has not given a sign of life for {patience:?}",
                        self.url
                    )
                    .into());
                }
                Ok(Ok(Some(bytes))) => decoder.push(&bytes),
                Ok(Ok(None)) => {
                    return Err(format!("the master at {} has ended the connection", self.url).into());
                }
                Ok(Err(error)) => {
                    return Err(format!(
                        "the connection to the master at {} was lost: {}",
                        self.url,
                        described(&error)
                    )
                    .into());
                }
            }
        }
    }

    fn error(&self, shared: &Shared, message: &str) -> Trouble {
        let small = message.to_ascii_lowercase();
        if ["has been removed", "completed framework", "torn down"].iter().any(|words| small.contains(words))
        {
            return Trouble::Removed(format!("the master at {} says: {message}", self.url));
        }
        let who = shared.options.login.as_ref();
        let who = who.map_or("nobody in particular".into(), |login| format!("`{}`", login.principal));
        let hint = if small.contains("not authorized") {
            format!(
                "; its --acls have to allow register_frameworks with role `{}` to {who}, or another role is named with \
                 --mesos_role",
                shared.options.role
            )
        } else if small.contains("principal") {
            format!(
                "; this framework asks as {who}, see --mesos_authentication_principal: it is the principal under which its \
                 id was registered first"
            )
        } else if small.contains("role") {
            format!("; see --mesos_role, which is `{}`", shared.options.role)
        } else {
            String::new()
        };
        Trouble::Passing(format!("the master at {} refuses this framework: {message}{hint}", self.url))
    }
}

/// Keeps the id of the framework, for as long as it takes.
async fn keep(shared: &Shared, epoch: Epoch, id: &str) -> Result<(), Trouble> {
    let mut backoff = Backoff::any(RETRY_FIRST, RETRY_MAX);
    loop {
        match confirm(shared, epoch, Some(id)).await {
            Err(Trouble::Passing(why)) => {
                shared.not_ready(why);
                tokio::time::sleep(backoff.pause()).await;
            }
            kept => return kept,
        }
    }
}

/// Tells the master what there is to tell, in order, until that fails.
async fn tell(shared: &Arc<Shared>, url: &MasterUrl, stream: &str, framework: &str) -> Trouble {
    let mut acknowledging: JoinSet<Result<(), Trouble>> = JoinSet::new();
    loop {
        let act = tokio::select! {
            biased;
            Some(done) = acknowledging.join_next(), if !acknowledging.is_empty() => match done {
                Ok(Err(trouble)) => return trouble,
                _ => continue,
            },
            act = shared.next_call(), if acknowledging.len() < ACKNOWLEDGED_AT_ONCE => act,
        };
        // What is not sent is made up for by the questions that follow the next subscription, which the store confirms.
        if shared.was_stopped() {
            shared.give_back(act);
            return format!("this process was stopped for a while, and says nothing to the master at {url} before it is known who leads").into();
        }
        match act {
            Act::Call(call @ Call::Acknowledge { .. }) => {
                let (shared, url, stream) = (shared.clone(), url.clone(), stream.to_owned());
                let body = call.to_json(framework);
                acknowledging.spawn(async move {
                    match send(&shared, &url, &stream, body).await {
                        Sent::Taken | Sent::Refused { lasting: true, .. } => Ok(()),
                        Sent::Refused { why, .. } | Sent::Lost(why) => Err(why.into()),
                    }
                });
            }
            Act::Call(call) => match send(shared, url, stream, call.to_json(framework)).await {
                Sent::Taken => {}
                Sent::Refused { why, lasting: true } => {
                    warn!(why, ?call, "the master of Mesos refuses a call")
                }
                Sent::Refused { why, .. } | Sent::Lost(why) => return why.into(),
            },
            Act::Accept { tasks, not_after, .. } if since_boot() > not_after => {
                warn!(tasks = tasks.len(), "too late to send tasks to their agent; they wait again");
                shared.change(|table, now| table.not_accepted(now, &tasks, None));
            }
            Act::Accept { tasks, call, .. } => match send(shared, url, stream, call.to_json(framework)).await
            {
                Sent::Taken => shared.change(|table, _| table.accepted(&tasks)),
                Sent::Refused { why, lasting } => {
                    shared.change(|table, now| table.not_accepted(now, &tasks, lasting.then_some(&why)));
                    if !lasting {
                        return why.into();
                    }
                }
                // The master may have it; it is asked as soon as it listens again.
                Sent::Lost(why) => return why.into(),
            },
            Act::Tell(_) => {}
        }
    }
}

/// What became of a call.
enum Sent {
    Taken,
    /// It was not done. `lasting`: nor would it be another time.
    Refused {
        why: String,
        lasting: bool,
    },
    /// Nobody knows.
    Lost(String),
}

async fn send(shared: &Shared, url: &MasterUrl, stream: &str, body: Value) -> Sent {
    let request = request(shared, url, body.to_string()).header(STREAM, stream);
    let response = match timeout(ANSWER_MAX, request.send()).await {
        Err(_) => return Sent::Lost(format!("the master at {url} does not answer")),
        Ok(Err(error)) => {
            return Sent::Lost(format!("the master at {url} cannot be told anything: {}", described(&error)));
        }
        Ok(Ok(response)) => response,
    };
    let status = response.status();
    if status.is_success() {
        return Sent::Taken;
    }
    let said = said(response).await;
    // Whether it is this call that is wrong, or the connection.
    let lasting = status == StatusCode::BAD_REQUEST && !said.to_ascii_lowercase().contains("stream");
    Sent::Refused {
        why: format!("the master at {url} has refused what it was told ({status}{said})"),
        lasting,
    }
}

/// The innermost cause, which says most.
pub(super) fn described(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
