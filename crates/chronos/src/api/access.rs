//! Who asks: every request but `/ping` is logged in here, if the server wants that, and what it changes is done in the
//! name of its `Principal`.
//!
//! Passwords are compared in constant time, and whoever guesses is slowed: see `throttle.rs`.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::hmac;
use scheduler::audit::Author;

use super::error::ApiError;
use super::throttle::{Mark, Throttle, Turn};
use super::{ApiContext, forward};
use crate::config::{AccessSettings, Credentials};
use crate::tls::listener::Peer;

/// Names a request, in its answer, the log and the audit; a client may give its own.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest name that a client may give.
const REQUEST_ID_MAX: usize = 64;

tokio::task_local! {
    /// In whose name the present request changes things.
    static AUTHOR: Author;
}

/// Who asks, as far as the door knows. Tokens, and what each may do, will be further things to know here; handlers ask
/// the principal and not the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Principal {
    /// Nobody had to say who they are.
    Anyone,
    /// This user knew the password.
    User(Arc<str>),
}

impl Principal {
    /// What it is called in the audit; empty for anyone.
    fn name(&self) -> &str {
        match self {
            Self::Anyone => "",
            Self::User(name) => name,
        }
    }
}

/// Who may ask.
#[derive(Debug, Default)]
pub struct Access {
    login: Option<Login>,
    realm: String,
    origins: Vec<String>,
    throttle: Throttle,
}

/// The one user there is.
struct Login {
    user: Arc<str>,
    /// What is compared is made of a key that nobody knows: neither the time that it takes nor what is kept says
    /// anything of the password.
    key: hmac::Key,
    tag: hmac::Tag,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Login {
    fn new(credentials: &Credentials) -> Result<Self, ring::error::Unspecified> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &ring::rand::SystemRandom::new())?;
        let tag = hmac::sign(&key, credentials.both.0.as_bytes());
        Ok(Self { user: credentials.user.as_str().into(), key, tag })
    }

    fn admits(&self, both: &[u8]) -> bool {
        hmac::verify(&self.key, both, self.tag.as_ref()).is_ok()
    }

    /// By which a wrong one is known again, and nothing else of it.
    fn mark(&self, both: &[u8]) -> Mark {
        let tag = hmac::sign(&self.key, both);
        tag.as_ref().first_chunk().copied().unwrap_or_default()
    }
}

impl Access {
    /// As the settings say.
    /// # Errors
    /// A machine without random numbers.
    pub fn new(settings: &AccessSettings) -> Result<Self, ring::error::Unspecified> {
        Ok(Self {
            login: settings.credentials.as_ref().map(Login::new).transpose()?,
            realm: settings.realm.clone(),
            origins: settings.origins.clone(),
            throttle: Throttle::default(),
        })
    }

    /// Whether pages of this origin may use the API.
    pub(super) fn invites(&self, headers: &HeaderMap) -> bool {
        self.allowed_origin(headers).is_some()
    }

    /// What is said to a page of another origin, if it may know.
    fn allowed_origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(header::ORIGIN)?;
        if self.origins.iter().any(|known| known == "*") {
            return Some(HeaderValue::from_static("*"));
        }
        let text = origin.to_str().ok()?;
        self.origins.iter().any(|known| known == text).then(|| origin.clone())
    }

    /// Who asks.
    async fn principal(&self, headers: &HeaderMap, peer: IpAddr) -> Result<Principal, ApiError> {
        let Some(login) = &self.login else { return Ok(Principal::Anyone) };
        let Some(given) = headers.get(header::AUTHORIZATION) else {
            return Err(self.unknown("this server wants a name and a password"));
        };
        let both = basic(given);
        let wrong = match &both {
            Some(both) if login.admits(both) => None,
            Some(both) => Some(login.mark(both)),
            None => Some(Mark::default()),
        };
        let refused = || metrics::counter!("chronos_logins_refused_total").increment(1);
        match self.throttle.judge(peer, wrong, Instant::now()) {
            Turn::Now => {}
            Turn::After(wait) => tokio::time::sleep(wait).await,
            Turn::Never(wait) => {
                refused();
                return Err(too_many(wait));
            }
        }
        if wrong.is_none() {
            return Ok(Principal::User(login.user.clone()));
        }
        refused();
        tracing::warn!(%peer, "a login was refused");
        if both.is_none() {
            return Err(self.unknown("`Authorization` is not `Basic` with a name and a password in base64"));
        }
        Err(self.unknown("name or password are wrong"))
    }

    fn unknown(&self, message: &str) -> ApiError {
        ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
            .challenge(&self.realm)
            .hint("send `Authorization: Basic`; the command line takes --user, CHRONOS_USER or ~/.netrc")
    }
}

fn too_many(wait: Duration) -> ApiError {
    let message = "too many logins with a wrong password came from this address";
    ApiError::new(StatusCode::TOO_MANY_REQUESTS, "too_many_logins", message)
        .retry_after(wait)
        .hint("wait some seconds")
}

/// `name:password`, as it was before it was encoded.
fn basic(value: &HeaderValue) -> Option<Vec<u8>> {
    let (scheme, rest) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("basic").then(|| BASE64.decode(rest.trim()).ok())?
}

/// Finds out who asks, and lets them.
pub(super) async fn identify(State(ctx): State<ApiContext>, mut request: Request, next: Next) -> Response {
    let access = &ctx.settings.access;
    let cors = access.allowed_origin(request.headers());
    let mut response = if cors.is_some() && is_preflight(&request) {
        // Browsers ask this without a password.
        StatusCode::NO_CONTENT.into_response()
    } else {
        let id = request_id(request.headers());
        let peer = request.extensions().get::<ConnectInfo<Peer>>().map(|ConnectInfo(Peer(peer))| peer.ip());
        let from = peer.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let principal = match request.uri().path() {
            // Load balancers ask it and know no password; it says nothing.
            "/ping" => Ok(Principal::Anyone),
            _ => access.principal(request.headers(), from).await,
        };
        let mut response = match principal {
            Ok(principal) => {
                let via = peer.map(|peer| peer.to_canonical().to_string()).unwrap_or_default();
                // Of whom another node says that they asked it comes first, as in `X-Forwarded-For`.
                let client = forward::for_whom(request.headers()).map(|client| format!("{client},"));
                let author =
                    Author::new(principal.name(), &format!("{}{via} {id}", client.unwrap_or_default()));
                if let Ok(id) = HeaderValue::from_str(&id) {
                    request.headers_mut().insert(REQUEST_ID, id);
                }
                request.extensions_mut().insert(principal);
                AUTHOR.scope(author, next.run(request)).await
            }
            Err(refused) => refused.into_response(),
        };
        if let Ok(id) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        response
    };
    if !access.origins.is_empty() {
        let headers = response.headers_mut();
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
        if let Some(origin) = cors {
            allow(headers, origin);
        }
    }
    response
}

fn is_preflight(request: &Request) -> bool {
    request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// What a page of another origin may do.
fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    // Never beside `*`: browsers would not send a password to everyone's pages, and shall not.
    if origin != "*" {
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, POST, PUT, PATCH, DELETE"),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "authorization, content-type, if-match, if-none-match, idempotency-key, x-chronos-seq, x-request-id",
        ),
        (
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            "etag, idempotency-replayed, location, retry-after, x-chronos-age-ms, x-chronos-output-dropped, x-chronos-run, \
             x-chronos-seq, x-chronos-stale, x-chronos-warnings, x-request-id, x-total-count",
        ),
        (header::ACCESS_CONTROL_MAX_AGE, "600"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// What the client calls the request, if that is a name; else one of ours.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
    let sane =
        |id: &&str| (1..=REQUEST_ID_MAX).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
    given.filter(sane).map_or_else(|| format!("{:016x}", rand::random::<u64>()), Into::into)
}

/// In whose name the present request changes things.
pub(super) fn author() -> Author {
    AUTHOR.try_with(Author::clone).unwrap_or_default()
}

/// Where a request came from and what it was called, as [`identify`] noted it.
pub(super) fn origin_of(author: &Author) -> (&str, &str) {
    author.via().split_once(' ').unwrap_or(("", author.via()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_clients_write_it() {
        let read = |text: &str| basic(&HeaderValue::from_str(text).expect("a header"));
        assert_eq!(read("Basic dXNlcjpwYTpzcw=="), Some(b"user:pa:ss".to_vec()));
        assert_eq!(read("basic  dXNlcjpwYTpzcw=="), Some(b"user:pa:ss".to_vec()));
        for bad in ["Basic", "Basic !", "Bearer dXNlcjpwYXNz", "", "dXNlcjpwYXNz"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
