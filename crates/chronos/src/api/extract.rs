//! What handlers take from a request, with errors that name what is wrong.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use futures_util::StreamExt as _;
use jiff::Timestamp;
use scheduler::ids::{BackfillId, JobName, RunKey};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::wire::shape::{Field, Problem, Reader};

use super::error::ApiError;

/// The job that the path names.
pub(super) struct Job(pub(super) JobName);

impl<S: Send + Sync> FromRequestParts<S> for Job {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let text = segment(parts, state).await?;
        JobName::new(&text).map(Self).map_err(|e| ApiError::invalid("name", e.to_string()))
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
    let Path(text) = Path::<String>::from_request_parts(parts, state)
        .await
        .map_err(|e| ApiError::invalid("", format!("the path cannot be read: {}", e.body_text())))?;
    Ok(text)
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

/// The whole body, within its bound.
pub(super) struct Document(pub(super) Bytes);

impl<S: Send + Sync> FromRequest<S> for Document {
    type Rejection = ApiError;

    async fn from_request(request: Request<Body>, _: &S) -> Result<Self, ApiError> {
        let max = super::guard::body_max(request.uri().path());
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

/// The object that a body holds, in its normal form; an empty body is an empty object.
pub(super) fn object(body: &[u8], fields: &[Field]) -> Result<Map<String, Value>, ApiError> {
    let value = match body {
        [] => Value::Object(Map::new()),
        body => serde_json::from_slice(body).map_err(|e| {
            ApiError::new(StatusCode::BAD_REQUEST, "malformed", format!("the body is not valid JSON: {e}"))
        })?,
    };
    let Value::Object(object) = value else {
        return Err(Problem::invalid("", "the body is not a JSON object", "send {\"key\": \"value\"}").into());
    };
    Ok(Reader::default().read_object(&object, fields, &[], "")?)
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

/// Never fails; for handlers that look at headers.
pub(super) struct Accept(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Accept {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let accept = parts.headers.get("accept").and_then(|v| v.to_str().ok()).unwrap_or_default();
        Ok(Self(accept.to_owned()))
    }
}
