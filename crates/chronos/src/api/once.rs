//! `Idempotency-Key`: a client that did not hear the answer sends the same request again, and it is done once.
//!
//! The key travels with the change: the scheduler keeps what it came to in the batch that makes it durable, so the
//! next leader knows it too. Handlers need not know of this; [`around`] hands the key to [`ApiContext::ask`].

use std::cell::Cell;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use ring::digest::{Context, SHA256};
use scheduler::receipt::{Once, Receipt, RequestKey};
use scheduler::request::{Answer, Refusal};
use serde_json::{Value, json};

use super::ApiContext;
use super::error::ApiError;
use super::extract;

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// It takes the place of all receipts, and its body is not read into memory.
pub(super) const WITHOUT: &str = "/v1/restore";

tokio::task_local! {
    /// The request that is being handled, if it has a key.
    static PRESENT: Keyed;
}

struct Keyed {
    once: Once,
    replayed: Cell<bool>,
}

/// The change that the present request asks for, under its key if it has one.
pub(super) fn keyed(request: scheduler::request::Request) -> scheduler::request::Request {
    let with_key = |keyed: &Keyed| keyed.once.clone();
    match PRESENT.try_with(with_key) {
        Ok(once) => scheduler::request::Request::Once { once, request: Box::new(request) },
        Err(_) => request,
    }
}

/// What the present request was answered, and notes if that was before.
pub(super) fn opened(answer: Answer) -> Answer {
    let Answer::Before(answer) = answer else { return answer };
    // Only a request with a key is answered so.
    let _ = PRESENT.try_with(|keyed| keyed.replayed.set(true));
    *answer
}

/// Handles a request that may have been handled before.
pub(super) async fn around(State(ctx): State<ApiContext>, request: Request, next: Next) -> Response {
    if !request.headers().contains_key(KEY) || matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    match once(request).await {
        Ok((once, request)) => handle(&ctx, once, request, next).await,
        Err(error) => error.into_response(),
    }
}

async fn handle(ctx: &ApiContext, once: Once, request: Request, next: Next) -> Response {
    let known = {
        let projection = ctx.node.projection.read();
        projection.state().receipts.get(&once.key).cloned()
    };
    let handler = async {
        let response = next.run(request).await;
        (response, PRESENT.with(|keyed| keyed.replayed.get()))
    };
    let keyed = Keyed { once: once.clone(), replayed: Cell::new(false) };
    let (mut response, mut replayed) = PRESENT.scope(keyed, handler).await;
    // What it was about may be gone since, so that the handler did not come to ask.
    if let Some(receipt) = known.filter(|_| response.status().is_client_error()) {
        if receipt.once.digest != once.digest {
            return ApiError::from(Refusal::KeyReused(once.key)).into_response();
        }
        (response, replayed) = (told(&receipt), true);
    }
    if replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

/// The key of a request, and the request with its body read: what is asked under a key is all of it.
async fn once(request: Request) -> Result<(Once, Request), ApiError> {
    let path = request.uri().path();
    let invalid = |message: &str| ApiError::invalid("Idempotency-Key", message);
    if path == WITHOUT {
        return Err(invalid(&format!("`Idempotency-Key` has no effect on `{path}`"))
            .hint("leave it out, and look what became of the first request before you repeat it"));
    }
    let mut given = request.headers().get_all(KEY).iter();
    let key = given.next().filter(|_| given.next().is_none()).and_then(|value| value.to_str().ok());
    // The draft of the standard has it in quotes; most clients send it bare.
    let key = key.map(|key| key.strip_prefix('"').and_then(|key| key.strip_suffix('"')).unwrap_or(key));
    let key = key.and_then(RequestKey::new).ok_or_else(|| {
        invalid("`Idempotency-Key`: expected 1 to 255 visible ASCII characters")
            .hint("send a UUID, for example")
    })?;
    let max = extract::body_max(path);
    let (parts, body): (Parts, Body) = request.into_parts();
    let body = extract::whole(body, max).await?;
    let mut digest = Context::new(&SHA256);
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
    for piece in [parts.method.as_str(), target, "\n"] {
        digest.update(piece.as_bytes());
        digest.update(b" ");
    }
    for condition in [header::IF_MATCH, header::IF_NONE_MATCH] {
        for value in parts.headers.get_all(&condition) {
            digest.update(value.as_bytes());
        }
        digest.update(b"\n");
    }
    digest.update(&body);
    let digest = digest.finish();
    let half = digest.as_ref().first_chunk::<16>().copied().unwrap_or_default();
    Ok((Once { key, digest: u128::from_be_bytes(half) }, Request::from_parts(parts, Body::from(body))))
}

/// The answer of a receipt where what it was about is no longer there.
fn told(receipt: &Receipt) -> Response {
    let what = match &receipt.answer {
        Answer::Put { uid, version, changed } => {
            json!({ "uid": uid.to_string(), "version": version, "changed": changed })
        }
        Answer::Triggered(run) | Answer::Marked(run) => json!({ "run": run.to_string() }),
        Answer::Deleted { live: runs } | Answer::Killed { runs } | Answer::Cancelled { runs } => {
            json!({ "runs": runs })
        }
        Answer::Backfilling { id, slots } => json!({ "id": id.to_string(), "slots": slots }),
        Answer::Applied(_)
        | Answer::Paused
        | Answer::Resumed
        | Answer::NoticeRetried
        | Answer::Noted
        | Answer::Before(_) => Value::Object(serde_json::Map::new()),
    };
    Json(what).into_response()
}
