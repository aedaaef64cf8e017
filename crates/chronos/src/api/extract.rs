//! What handlers take from a request, with errors that name what is wrong.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use futures_util::StreamExt as _;
use jiff::Timestamp;
use scheduler::ids::{BackfillId, JobName, RunKey};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::wire::shape::{Field, Problem, Reader, stray};
use crate::wire::twice;

use super::error::ApiError;

/// The job that the path names.
pub(super) struct Job(pub(super) JobName);

impl<S: Send + Sync> FromRequestParts<S> for Job {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        job_name("name", &segment(parts, state).await?).map(Self)
    }
}

/// The run that the path names.
pub(super) struct Run(pub(super) RunKey);

impl<S: Send + Sync> FromRequestParts<S> for Run {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let text = segment(parts, state).await?;
        let clipped: String = text.chars().take(80).collect();
        text.parse().map(Self).map_err(|()| {
            ApiError::invalid("key", format!("`{clipped}` is not the key of a run"))
                .hint("keys are listed by GET /v1/runs; they look like `1-i0`")
        })
    }
}

/// The backfill that the path names.
pub(super) struct Backfill(pub(super) BackfillId);

impl<S: Send + Sync> FromRequestParts<S> for Backfill {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let text = segment(parts, state).await?;
        let clipped: String = text.chars().take(80).collect();
        text.parse().map(Self).map_err(|()| {
            ApiError::invalid("id", format!("`{clipped}` is not the id of a backfill"))
                .hint("they are listed by GET /v1/backfills; they look like `1-b3`")
        })
    }
}

async fn segment<S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<String, ApiError> {
    segments(parts, state).await
}

/// What the path names, one or several.
async fn segments<T: DeserializeOwned + Send, S: Send + Sync>(
    parts: &mut Parts,
    state: &S,
) -> Result<T, ApiError> {
    let Path(named) = Path::<T>::from_request_parts(parts, state)
        .await
        .map_err(|e| ApiError::invalid("", format!("the path cannot be read: {}", e.body_text())))?;
    Ok(named)
}

/// What the path names, where it is nothing of its own.
pub(super) struct Segments<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Segments<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        segments(parts, state).await.map(Self)
    }
}

/// The parameters of the query.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let read = Query::<T>::try_from_uri(&parts.uri);
        read.map(|Query(params)| Self(params)).map_err(|e| {
            // "Failed to deserialize query string: limit: invalid digit found in string"
            let text = e.body_text();
            let told = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
            let field = told.split_once(':').map_or("", |(field, _)| field).to_owned();
            ApiError::invalid(&field, format!("the query cannot be read: {told}"))
        })
    }
}

/// Largest body; a definition has at most 64 KiB, so this is room enough to say what is too large about it.
const BODY_MAX: usize = 1024 * 1024;
/// The same for a set of jobs, which is bounded by its own content: names and what is around them come on top.
const SET_BODY_MAX: usize = 2 * scheduler::SET_BYTES_MAX;

/// Largest body that is read at a path.
pub(super) fn body_max(path: &str) -> usize {
    if path == "/v1/apply" { SET_BODY_MAX } else { BODY_MAX }
}

/// The whole body, within its bound.
pub(super) struct Document(pub(super) Bytes);

impl<S: Send + Sync> FromRequest<S> for Document {
    type Rejection = ApiError;

    async fn from_request(request: Request<Body>, _: &S) -> Result<Self, ApiError> {
        let max = body_max(request.uri().path());
        whole(request.into_body(), max).await.map(Self)
    }
}

/// Reads a body to its end, which must come within so many bytes.
pub(super) async fn whole(body: Body, max: usize) -> Result<Bytes, ApiError> {
    let mut read = Vec::new();
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|e| {
            let message = format!("the body cannot be read: {e}");
            ApiError::new(StatusCode::BAD_REQUEST, "malformed", message)
        })?;
        if read.len() + piece.len() > max {
            let message = format!("the body has more than {max} bytes");
            return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message));
        }
        read.extend_from_slice(&piece);
    }
    Ok(read.into())
}

/// The object that a body holds, in its normal form; an empty body is an empty object. A key that is not known is
/// refused: whoever misspells `dryRun` does not want it done.
pub(super) fn object(body: &[u8], fields: &[Field]) -> Result<Map<String, Value>, ApiError> {
    let object = plain_object(document(body)?.once()?)?;
    let known: Vec<&str> = fields.iter().map(|field| field.name).collect();
    if let Some(problem) = stray(&object, &known) {
        return Err(problem.into());
    }
    Ok(Reader::default().read_object(&object, fields, &[], "")?)
}

/// The same where Chronos answered, which did not look at what it did not know.
pub(super) fn lenient_object(body: &[u8], fields: &[Field]) -> Result<Map<String, Value>, ApiError> {
    Ok(Reader::default().read_object(&plain_object(document(body)?.value)?, fields, &[], "")?)
}

fn document(body: &[u8]) -> Result<twice::Document, ApiError> {
    let body = if body.is_empty() { &b"{}"[..] } else { body };
    twice::Document::of_json(body).map_err(|e| {
        ApiError::new(StatusCode::BAD_REQUEST, "malformed", format!("the body is not valid JSON: {e}"))
    })
}

fn plain_object(value: Value) -> Result<Map<String, Value>, ApiError> {
    match value {
        Value::Object(object) => Ok(object),
        _ => Err(Problem::invalid("", "the body is not a JSON object", "send {\"key\": \"value\"}").into()),
    }
}

/// Reads the name of a job.
pub(super) fn job_name(field: &str, text: &str) -> Result<JobName, ApiError> {
    JobName::new(text).map_err(|e| ApiError::invalid(field, format!("`{field}`: {e}")))
}

/// The same of a query, where it may be absent.
pub(super) fn job_of(text: Option<&str>) -> Result<Option<JobName>, ApiError> {
    text.map(|text| job_name("job", text)).transpose()
}

/// Reads an instant of a query: RFC 3339.
pub(super) fn instant(field: &str, text: &str) -> Result<Timestamp, ApiError> {
    text.parse().map_err(|_| {
        let clipped: String = text.chars().take(60).collect();
        ApiError::invalid(field, format!("`{field}`: `{clipped}` is not a time"))
            .hint("write it like 2030-01-01T00:00:00Z")
    })
}

/// The same, where it may be absent.
pub(super) fn instant_of(field: &str, text: &Option<String>) -> Result<Option<Timestamp>, ApiError> {
    text.as_deref().map(|text| instant(field, text)).transpose()
}

/// Bounds a page.
pub(super) fn limit(given: Option<usize>, default: usize, max: usize) -> Result<usize, ApiError> {
    match given.unwrap_or(default) {
        n if (1..=max).contains(&n) => Ok(n),
        n => Err(ApiError::invalid("limit", format!("`limit` is {n}: expected 1 to {max}"))),
    }
}

/// What a client accepts; empty if it does not say. Never fails.
pub(super) struct Accept(pub(super) String);

/// How much a client that accepts this wants a media type, by the range that names it best; 0 is not at all.
/// # Source
/// RFC 9110 §12.5.1.
pub(super) fn quality(accept: &str, wanted: &str) -> f32 {
    if accept.trim().is_empty() {
        return 1.0;
    }
    let (kind, _) = wanted.split_once('/').unwrap_or((wanted, ""));
    let mut best = (0, 0.0);
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let precise = match name.as_str() {
            name if name == wanted => 3,
            name if name.strip_suffix("/*") == Some(kind) => 2,
            // Java's own client says `*`.
            "*/*" | "*" => 1,
            _ => continue,
        };
        let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok()).unwrap_or(1.0);
        if precise > best.0 {
            best = (precise, weight);
        }
    }
    best.1
}

impl<S: Send + Sync> FromRequestParts<S> for Accept {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(accept(&parts.headers)))
    }
}

/// All that a client says it accepts.
pub(super) fn accept(headers: &HeaderMap) -> String {
    let said: Vec<_> = headers.get_all("accept").iter().filter_map(|value| value.to_str().ok()).collect();
    said.join(",")
}

#[cfg(test)]
mod tests {
    use super::quality;

    #[test]
    fn what_is_accepted_is_said_by_the_range_that_names_it_best() {
        let wants = |accept: &str| (quality(accept, "application/json"), quality(accept, "text/plain"));
        for (accept, wanted) in [
            ("", (1.0, 1.0)),
            ("*/*", (1.0, 1.0)),
            ("application/json", (1.0, 0.0)),
            ("text/html, image/gif, *; q=.2, */*; q=.2", (0.2, 0.2)),
            ("application/json;q=0, */*", (0.0, 1.0)),
            ("text/*;q=0.5, Application/JSON; charset=utf-8;q=0.4", (0.4, 0.5)),
            ("application/xml", (0.0, 0.0)),
            (",;q=,", (0.0, 0.0)),
        ] {
            assert_eq!(wants(accept), wanted, "{accept}");
        }
    }
}
