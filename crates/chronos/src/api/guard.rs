//! What every request passes before and after its handler: who may ask, how, and what comes along with the answer.

use std::any::Any;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use scheduler::ids::Seq;
use serde_json::json;

use super::classic::{WARNINGS, ascii};
use super::error::{ApiError, defect};
use super::methods::{Methods, Stray};
use super::{ApiContext, extract, forward};

/// How long a read waits for the batch it wants to see: longer than any commit in health.
const SEEN_WITHIN: Duration = Duration::from_secs(5);

/// Refuses what a browser on this machine may have been tricked into asking, and requests of the wrong form.
pub(super) async fn admit(
    State((ctx, methods)): State<(ApiContext, Arc<Methods>)>,
    request: Request,
    next: Next,
) -> Response {
    if !methods.know(request.extensions().get(), request.method()) {
        // There is nothing to be reached.
        return match host(&ctx, &request) {
            Ok(()) => next.run(request).await,
            Err(refused) => refused.into_response(),
        };
    }
    let checked =
        host(&ctx, &request).and_then(|()| form(&ctx, &request)).and_then(|()| acceptable(&request));
    if let Err(refused) = checked {
        return refused.into_response();
    }
    let stray = methods.stray(request.extensions().get(), request.method(), request.uri());
    match stray {
        Some(stray) if Stray::is_refused(request.uri().path()) => stray.refusal().into_response(),
        Some(stray) => warned(next.run(request).await, stray.warning()),
        None => next.run(request).await,
    }
}

/// The answer with one more warning.
fn warned(mut answer: Response, warning: String) -> Response {
    let said = answer.headers().get(WARNINGS).and_then(|said| said.to_str().ok());
    let mut warnings: Vec<String> = said.and_then(|said| serde_json::from_str(said).ok()).unwrap_or_default();
    warnings.push(warning);
    answer.headers_mut().insert(WARNINGS, ascii(&json!(warnings)));
    answer
}

/// On loopback only names of this machine are answered, so that a page whose own name was made to point here
/// (DNS rebinding) learns and changes nothing. `/ping` says nothing that is worth guarding.
fn host(ctx: &ApiContext, request: &Request) -> Result<(), ApiError> {
    if !ctx.settings.loopback || request.uri().path() == "/ping" {
        return Ok(());
    }
    let named = request.uri().authority().map(|a| a.as_str());
    let Some(host) = named.or_else(|| request.headers().get(header::HOST)?.to_str().ok()) else {
        // HTTP/1.0 has none, and no browser speaks it.
        return Ok(());
    };
    let name = host
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
        .map_or(host, |(name, _)| name);
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let ours = name.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
        || ctx.settings.hosts.iter().any(|known| known.eq_ignore_ascii_case(name));
    if ours {
        return Ok(());
    }
    let message = "this server listens on the loopback address and does not answer to that Host";
    Err(ApiError::new(StatusCode::MISDIRECTED_REQUEST, "unknown_host", message)
        .field("Host")
        .hint("ask for localhost or 127.0.0.1, or name the host with --hostname"))
}

/// A body is JSON. A POST says so even when it is empty: a form or a script of another site cannot, without asking first.
fn form(ctx: &ApiContext, request: &Request) -> Result<(), ApiError> {
    let headers = request.headers();
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if !changes {
        return Ok(());
    }
    let cross_site = headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site");
    if cross_site && !ctx.settings.access.invites(headers) {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "cross_site",
            "pages of other sites may not change anything here",
        )
        .hint("name the site with --cors_origin if it may"));
    }
    let given =
        headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?").to_ascii_lowercase());
    let essence = given.as_deref().map(|t| t.split(';').next().unwrap_or_default().trim());
    let has_body = headers.contains_key(header::TRANSFER_ENCODING)
        || headers.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0");
    let needed = has_body || essence.is_some() || request.method() == Method::POST;
    // Neither can be sent by a page of another site without asking first.
    let lines = essence == Some(super::backup::LINES) && request.uri().path() == "/v1/restore";
    let patch = request.method() == Method::PATCH && essence == Some("application/merge-patch+json");
    if !needed || lines || patch || essence == Some("application/json") {
        return Ok(());
    }
    let found = essence.map_or_else(|| "nothing".into(), |t| format!("`{t}`"));
    let message = format!("expected `Content-Type: application/json`, found {found}");
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message)
        .field("Content-Type")
        .hint("send the body as JSON and say so in the header"))
}

/// What the endpoints of Chronos answer with, as far as they say so: JSON, and text where they draw the graph.
fn answered_with(path: &str) -> Option<&'static [&'static str]> {
    let rest = path.strip_prefix("/v1").unwrap_or(path).strip_prefix("/scheduler/")?;
    Some(match rest {
        rest if rest.starts_with("graph/") => &["text/plain"],
        // Text that Chronos called JSON.
        rest if rest.starts_with("job/success/") => &["application/json", "text/plain"],
        _ => &["application/json"],
    })
}

/// Those who want another form than there is are told so before anything is done.
fn acceptable(request: &Request) -> Result<(), ApiError> {
    let accept = extract::accept(request.headers());
    let Some(forms) = answered_with(request.uri().path()) else { return Ok(()) };
    if forms.iter().any(|form| extract::quality(&accept, form) > 0.0) {
        return Ok(());
    }
    let clipped: String = accept.chars().take(80).collect();
    let message = format!("this endpoint answers with {}, not with `{clipped}`", forms.join(" or "));
    Err(ApiError::new(StatusCode::NOT_ACCEPTABLE, "not_acceptable", message)
        .field("Accept")
        .hint("leave `Accept` out, or add */* to it"))
}

/// Says which methods a path knows. Nothing is allowed to other sites by that.
pub(super) async fn options(request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let mut response = next.run(request).await;
    let status = said(&method, response.status());
    if status == response.status() {
        return response;
    }
    let headers = response.headers_mut();
    let known = headers.get(header::ALLOW).and_then(|allow| allow.to_str().ok()).unwrap_or_default();
    if let Ok(allow) = HeaderValue::try_from(format!("{known},OPTIONS")) {
        headers.insert(header::ALLOW, allow);
    }
    headers.remove(header::CONTENT_TYPE);
    headers.remove(header::CONTENT_LENGTH);
    *response.status_mut() = status;
    *response.body_mut() = Body::empty();
    response
}

/// What a client is told in the end: a path that knows no OPTIONS says what it knows.
fn said(method: &Method, status: StatusCode) -> StatusCode {
    match status {
        StatusCode::METHOD_NOT_ALLOWED if *method == Method::OPTIONS => StatusCode::NO_CONTENT,
        status => status,
    }
}

/// A read that has seen a write waits until this node has seen it too.
pub(super) async fn catch_up(State(ctx): State<ApiContext>, request: Request, next: Next) -> Response {
    let wanted = match request.headers().get(forward::SEQ) {
        Some(value) if request.method() == Method::GET => value.to_str().ok().map(str::parse),
        _ => return next.run(request).await,
    };
    let Some(Ok(seq)) = wanted else {
        return ApiError::invalid("X-Chronos-Seq", "`X-Chronos-Seq` is not a number").into_response();
    };
    if ctx.node.projection.wait_for(Seq(seq), SEEN_WITHIN).await {
        return next.run(request).await;
    }
    let at = ctx.node.projection.seq().0;
    let message = format!(
        "this node is at change {at} and has not seen change {seq} within {} s",
        SEEN_WITHIN.as_secs()
    );
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "behind", message).into_response()
}

/// Counts requests and their time by route, never by path: names of jobs would be without number.
pub(super) async fn measure(request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map_or("none", |path| path.as_str()).to_owned();
    // Any word may be a method, and would be kept for ever.
    let known = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
    ];
    let method =
        known.iter().find(|known| *known == request.method()).map_or("other", Method::as_str).to_owned();
    let asked = request.method().clone();
    let response = next.run(request).await;
    let status = said(&asked, response.status()).as_u16().to_string();
    let labels = [("method", method), ("route", route), ("status", status)];
    metrics::counter!("chronos_http_requests_total", &labels).increment(1);
    metrics::histogram!("chronos_http_request_seconds", &labels[..2]).record(begun.elapsed());
    response
}

/// Says to browsers what they may not do with an answer.
pub(super) async fn harden(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers: &mut HeaderMap = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    // The page says itself what it may do; everything else is no page.
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Answers for a handler that could not.
pub(super) fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let told =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(panic = told.unwrap_or("?"), "a request met a defect");
    defect().into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_what_the_client_is_told() {
        let refused = StatusCode::METHOD_NOT_ALLOWED;
        assert_eq!(said(&Method::OPTIONS, refused), StatusCode::NO_CONTENT);
        assert_eq!(said(&Method::PATCH, refused), refused);
        assert_eq!(said(&Method::OPTIONS, StatusCode::NOT_FOUND), StatusCode::NOT_FOUND);
    }
}
