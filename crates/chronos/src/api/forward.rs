//! Any node answers: what only the leader can do is handed to it, and its answer handed back as it is.
//!
//! A change is handed on once, and never repeated: where its fate is not known the client is told so. A read goes to the
//! next leader where the one that was asked falls silent. Bodies, errors, streams and who asks go along unchanged. While
//! nobody leads a request waits for who will; nothing of it is done before.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt as _;
use scheduler::ids::Seq;
use store::Candidate;
use tokio::sync::{SemaphorePermit, watch};
use tokio::time::Instant;

use super::ApiContext;
use super::error::{self, ApiError};
use crate::cluster::address::Address;
use crate::cluster::{self, Way};
use crate::node::{Outlook, Role, Status};
use crate::tls::listener::Peer;

/// Carries the number of the batch that a write became, and that a read wants to have seen.
pub(super) const SEQ: HeaderName = HeaderName::from_static("x-chronos-seq");
/// Who answers.
const NODE: HeaderName = HeaderName::from_static(cluster::NODE);
/// Whom a request is meant for.
const TO: HeaderName = HeaderName::from_static(cluster::TO);
/// Which node handed it on, and for whom.
const VIA: HeaderName = HeaderName::from_static(cluster::VIA);
/// The term that the answer knows.
const TERM: HeaderName = HeaderName::from_static(cluster::TERM);
/// How old what a follower shows may be, in milliseconds.
const AGE: HeaderName = HeaderName::from_static("x-chronos-age-ms");
/// `true` on an answer of a follower that has not heard from the store for [`STALE_AFTER`].
const STALE: HeaderName = HeaderName::from_static("x-chronos-stale");
/// A follower in health is a second or two behind at most.
const STALE_AFTER: Duration = Duration::from_secs(10);
/// The leader gives up a change earlier, and says so.
const ANSWER_WITHIN: Duration = Duration::from_secs(40);
/// How long a request waits for who leads, and for an answer of who is not reached any more: as long as a lease of the
/// usual length, and an election after it.
const LED_WITHIN: Duration = Duration::from_secs(15);
/// The answer of a leader that has just given way may be on its way still.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How often it looks by itself: an address that took no connection may take one without any other news.
const LOOKS_EVERY: Duration = Duration::from_secs(1);
/// Headers that are about one connection and not about what goes over it.
const OF_ONE_CONNECTION: [HeaderName; 8] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// Whether only the leader can answer: it changes something, or asks what its engine knows.
fn is_for_the_leader(method: &Method, path: &str) -> bool {
    match *method {
        Method::GET | Method::HEAD => {
            path.starts_with("/v1/")
                && !path.starts_with("/v1/scheduler/")
                && (path.ends_with("/why") || path.ends_with("/output") || path == "/v1/engine/findings")
        }
        Method::OPTIONS => false,
        // It is for this very node.
        _ => path != "/v1/engine",
    }
}

/// Whether the answer is made of what is in the store.
fn is_of_the_store(path: &str) -> bool {
    match path.strip_prefix("/v1/") {
        Some("status" | "nodes" | "engine" | "engine/findings" | "scheduler/leader") => false,
        Some(_) => true,
        None => path.starts_with("/scheduler/") && path != "/scheduler/leader",
    }
}

fn unread() -> ApiError {
    let message = "this node has not read the store yet, and knows of no leader that it could ask";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "behind", message)
        .hint("GET /ready says what it waits for")
}

/// Answers here, or hands on to the leader.
pub(super) async fn forward(State(ctx): State<ApiContext>, request: Request, next: Next) -> Response {
    let answer = match received(&ctx, request.headers()) {
        Err(refused) => Answered::Here(refused.into_response()),
        Ok(handed_on) => answer(&ctx, handed_on, request, next).await,
    };
    match answer {
        Answered::ByLeader(response) => response,
        Answered::Here(mut response) => {
            sign(&ctx, response.headers_mut());
            response
        }
    }
}

fn leads(ctx: &ApiContext) -> bool {
    matches!(ctx.node.status().role, Role::Leading(_) | Role::Preparing(_))
}

/// Whose the answer is.
enum Answered {
    Here(Response),
    ByLeader(Response),
}

async fn answer(ctx: &ApiContext, handed_on: bool, mut request: Request, next: Next) -> Answered {
    let wanted = is_for_the_leader(request.method(), request.uri().path());
    let until = Instant::now() + LED_WITHIN;
    let mut patience = None;
    loop {
        let (leads, has_read) = (leads(ctx), ctx.node.outlook().current_at.is_some());
        let is_of_the_store = is_of_the_store(request.uri().path());
        // Who has read nothing yet does not say that there is nothing, be it the next to lead.
        let is_cold = !has_read && matches!(ctx.node.status().role, Role::Preparing(_));
        let is_unread = !has_read && !leads && is_of_the_store;
        let refused = match ctx.cluster.way() {
            _ if is_cold && (wanted || is_of_the_store) => Some(unread()),
            _ if leads || !(wanted || is_unread) => return Answered::Here(next.run(request).await),
            // Writes are refused by the node itself, which knows why.
            _ if handed_on && wanted => return Answered::Here(next.run(request).await),
            Way::None if wanted => None,
            Way::None => return Answered::Here(unread().into_response()),
            _ if handed_on => return Answered::Here(unread().into_response()),
            Way::Lost(leader, why) => Some(lost(&leader, &why)),
            // The way to it is looked for.
            Way::Found(leader, _) if another_leads(&ctx.node.outlook(), &leader) => {
                Some(lost(&leader, "another node leads now, and has not been found yet"))
            }
            Way::Found(leader, at) => match hand_on(ctx, &leader, &at, request, until).await {
                Ok(response) => return Answered::ByLeader(response),
                Err(Failed::Over(refused)) => return Answered::Here(refused.into_response()),
                Err(Failed::Unsent(unsent, refused)) => {
                    request = *unsent;
                    Some(refused)
                }
            },
        };
        if !patience.get_or_insert_with(|| Patience::new(ctx, until)).is_worth_it().await {
            return Answered::Here(match refused {
                Some(refused) => refused.into_response(),
                None => next.run(request).await,
            });
        }
    }
}

/// Waits for a leader, on behalf of one request.
struct Patience<'a> {
    ctx: &'a ApiContext,
    until: Instant,
    way: watch::Receiver<Way>,
    status: watch::Receiver<Status>,
    place: Option<SemaphorePermit<'a>>,
}

impl<'a> Patience<'a> {
    fn new(ctx: &'a ApiContext, until: Instant) -> Self {
        let mut status = ctx.node.watch_status();
        status.mark_unchanged();
        Self {
            ctx,
            until,
            way: ctx.cluster.watch_way(),
            status,
            place: ctx.cluster.waiting.try_acquire().ok(),
        }
    }

    /// Waits until there is news; false where nobody will lead soon, or too many wait.
    async fn is_worth_it(&mut self) -> bool {
        if self.place.is_none() || self.ctx.node.outlook().silent.is_some() {
            return false;
        }
        tokio::select! {
            // Who has ended brings no more news.
            news = self.way.changed() => news.is_ok(),
            news = self.status.changed() => news.is_ok(),
            () = tokio::time::sleep_until(self.until.min(Instant::now() + LOOKS_EVERY)) => Instant::now() < self.until,
        }
    }
}

/// Says who answers, and how old that is.
fn sign(ctx: &ApiContext, headers: &mut HeaderMap) {
    if let Ok(node) = HeaderValue::from_str(&ctx.cluster.instance) {
        headers.insert(NODE, node);
    }
    headers.insert(TERM, HeaderValue::from(ctx.node.projection.read().term().epoch.0));
    if leads(ctx) {
        return;
    }
    let age = ctx.node.outlook().age();
    if let Some(age) = age {
        headers.insert(AGE, HeaderValue::from(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)));
    }
    if age.is_none_or(|age| age > STALE_AFTER) {
        headers.insert(STALE, HeaderValue::from_static("true"));
    }
}

/// Whether another node has handed this on; refused where it is meant for another one than this.
fn received(ctx: &ApiContext, headers: &HeaderMap) -> Result<bool, ApiError> {
    if let Some(to) = headers.get(TO)
        && to.as_bytes() != ctx.cluster.instance.as_bytes()
    {
        return Err(ApiError::new(
            StatusCode::MISDIRECTED_REQUEST,
            "wrong_node",
            "this request is meant for another node, and nothing was done",
        ));
    }
    let known = headers.get(TERM).and_then(|term| term.to_str().ok()?.parse::<u64>().ok());
    let ours = ctx.node.projection.read().term().epoch.0;
    if known.is_some_and(|known| known > ours) {
        return Err(ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "not_leading",
            format!("this node is in term {ours} and whoever asks knows of a later one; nothing was done"),
        ));
    }
    Ok(headers.contains_key(VIA))
}

fn lost(leader: &Candidate, why: &str) -> ApiError {
    let message = format!("this node does not lead and cannot reach the leader, so nothing was done: {why}");
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "leader_unreachable", message)
        .hint("ask another node; `chronos doctor` shows which addresses were tried, --advertise_address sets them")
        .leader(cluster::address::first(&leader.addresses))
        .retry_after(Duration::ZERO)
}

/// A body that is at hand until somebody reads it.
#[derive(Clone)]
struct Unread(Arc<Mutex<Option<Body>>>);

impl Unread {
    fn take(&self) -> Option<Body> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn into_sent(self) -> reqwest::Body {
        let body =
            futures_util::stream::once(async move { self.take().unwrap_or_default().into_data_stream() });
        reqwest::Body::wrap_stream(body.flatten())
    }
}

/// Why the leader has not answered.
enum Failed {
    /// Nothing was sent that matters; here is the request again.
    Unsent(Box<Request>, ApiError),
    /// It cannot be sent again.
    Over(ApiError),
}

/// Sends the request to the leader, once.
async fn hand_on(
    ctx: &ApiContext,
    leader: &Candidate,
    at: &Address,
    request: Request,
    until: Instant,
) -> Result<Response, Failed> {
    let (parts, body) = request.into_parts();
    let headers = headers_for(ctx, leader, &parts).map_err(Failed::Over)?;
    let (method, target) = (&parts.method, parts.uri.path_and_query().map_or("/", |target| target.as_str()));
    let unbounded = !matches!(*method, Method::PUT | Method::PATCH | Method::DELETE | Method::POST)
        || parts.uri.path() == super::once::WITHOUT;
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    let has_body = headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::CONTENT_TYPE);
    let body = Unread(Arc::new(Mutex::new(Some(body))));
    let mut sent =
        ctx.cluster.http.request(method.clone(), format!("{}{target}", at.base())).headers(headers);
    if has_body {
        sent = sent.body(body.clone().into_sent());
    }
    let answer = async {
        if unbounded { Ok(sent.send().await) } else { tokio::time::timeout(ANSWER_WITHIN, sent.send()).await }
    };
    let answer = tokio::select! {
        answer = answer => answer,
        why = in_vain(ctx, leader, is_read, until) => {
            tracing::warn!(leader = leader.node, why, "the leader was not waited for any longer");
            return Err(match body.take().filter(|_| is_read) {
                Some(body) => Failed::Unsent(Box::new(Request::from_parts(parts, body)), lost(leader, &why)),
                None if is_read => Failed::Over(lost(leader, &why)),
                None => Failed::Over(error::outcome_unknown(why).retry_after(Duration::ZERO)),
            });
        }
    };
    match answer {
        Ok(Ok(answer)) => Ok(handed_back(ctx, answer).await),
        Ok(Err(problem)) if problem.is_connect() || is_read => {
            let refused = lost(leader, &problem.without_url().to_string());
            Err(match body.take() {
                Some(body) => Failed::Unsent(Box::new(Request::from_parts(parts, body)), refused),
                None => Failed::Over(refused),
            })
        }
        Ok(Err(problem)) => {
            tracing::warn!(%problem, leader = leader.node, "the answer of the leader was lost");
            let told = "the answer of the leader was lost on its way to this node";
            Err(Failed::Over(error::outcome_unknown(told)))
        }
        Err(_) => {
            let told = format!("the leader has not answered within {} s", ANSWER_WITHIN.as_secs());
            Err(Failed::Over(error::outcome_unknown(told)))
        }
    }
}

/// Whether another process than this one leads, as far as the store tells.
fn another_leads(seen: &Outlook, leader: &Candidate) -> bool {
    seen.leader.as_ref().is_some_and(|leads| leads.instance() != leader.instance())
}

/// Returns once it is in vain to wait for the answer of this leader, and says why: another one leads, or `until` has come
/// and it is not reached any more. One that is reached is at work, and is waited for.
async fn in_vain(ctx: &ApiContext, leader: &Candidate, is_read: bool, until: Instant) -> String {
    let (mut outlook, mut way) = (ctx.node.watch_outlook(), ctx.cluster.watch_way());
    let another = async {
        // Who has ended brings no more news.
        if outlook.wait_for(|seen| another_leads(seen, leader)).await.is_err() {
            std::future::pending::<()>().await;
        }
        if !is_read {
            tokio::time::sleep(LAST_WORDS).await;
        }
    };
    let unreached = async {
        tokio::time::sleep_until(until).await;
        if way.wait_for(|way| !matches!(way, Way::Found(..))).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let node = &leader.node;
    tokio::select! {
        () = another => format!("node {node} led and has not answered, and another one leads now"),
        () = unreached => format!("node {node} led and has not answered, and is not reached any more"),
    }
}

/// What goes along: all that came, whom it is meant for, and for whom it is asked.
fn headers_for(ctx: &ApiContext, leader: &Candidate, parts: &Parts) -> Result<HeaderMap, ApiError> {
    let mut headers = parts.headers.clone();
    OF_ONE_CONNECTION.iter().for_each(|name| drop(headers.remove(name)));
    // The client that sends it says itself whom it connects to and how long the body is.
    headers.remove(header::HOST);
    let peer = parts.extensions.get::<ConnectInfo<Peer>>().map(|ConnectInfo(Peer(peer))| peer.ip());
    for (name, value) in [
        (TO, leader.instance()),
        (VIA, via(&ctx.cluster.instance, peer)),
        (TERM, ctx.node.projection.read().term().epoch.0.to_string()),
    ] {
        let value = HeaderValue::from_str(&value)
            .map_err(|_| ApiError::invalid("X-Chronos-To", "the leader has no name that fits a header"))?;
        headers.insert(name, value);
    }
    Ok(headers)
}

/// The answer of the leader, once what it tells of is seen here.
async fn handed_back(ctx: &ApiContext, answer: reqwest::Response) -> Response {
    let seq = answer.headers().get(SEQ).and_then(|seq| seq.to_str().ok()?.parse().ok());
    if let Some(seq) = seq {
        ctx.node.projection.wait_for(Seq(seq), super::SHOWN_WITHIN).await;
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status();
    *response.headers_mut() = answer.headers().clone();
    OF_ONE_CONNECTION.iter().for_each(|name| drop(response.headers_mut().remove(name)));
    *response.body_mut() = Body::from_stream(answer.bytes_stream());
    response
}

/// `node for address`, as [`for_whom`] reads it.
fn via(instance: &str, peer: Option<IpAddr>) -> String {
    let peer = peer.map(|peer| peer.to_canonical().to_string()).unwrap_or_default();
    format!("{instance} for {peer}")
}

/// The address that asked first, as the node says that handed the request on.
pub(super) fn for_whom(headers: &HeaderMap) -> Option<IpAddr> {
    headers.get(VIA)?.to_str().ok()?.split_once(" for ")?.1.parse().ok()
}
