//! What any endpoint may answer beside its own: added to the document, so that every answer is in it.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use utoipa::openapi::path::Operation;
use utoipa::openapi::{Content, HttpMethod, OpenApi, Ref, RefOr, Response};

/// The document with what [`guard`](super::guard) and the node behind the endpoints may refuse.
pub(super) fn added(mut document: OpenApi) -> OpenApi {
    let mut used = BTreeSet::new();
    for (path, item) in &mut document.paths.paths {
        let methods = [
            (HttpMethod::Get, &mut item.get),
            (HttpMethod::Post, &mut item.post),
            (HttpMethod::Put, &mut item.put),
            (HttpMethod::Patch, &mut item.patch),
            (HttpMethod::Delete, &mut item.delete),
        ];
        for (method, operation) in methods {
            if let Some(operation) = operation {
                used.extend(add(path, &method, operation));
            }
        }
    }
    let components = document.components.get_or_insert_default();
    components.responses.extend(used.into_iter().map(|code| (name(code), refusal(code))));
    document
}

/// Adds what an endpoint may refuse, and returns that.
fn add(path: &str, method: &HttpMethod, operation: &mut Operation) -> Vec<StatusCode> {
    if path == "/ping" {
        // Answers always.
        return Vec::new();
    }
    // A header or parameter that cannot be read; no password, or too many wrong ones; the name of a host that is not
    // ours; a defect; the store.
    let mut codes = vec![
        StatusCode::BAD_REQUEST,
        StatusCode::UNAUTHORIZED,
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::MISDIRECTED_REQUEST,
        StatusCode::INTERNAL_SERVER_ERROR,
        StatusCode::SERVICE_UNAVAILABLE,
    ];
    if path.contains('{') {
        codes.push(StatusCode::NOT_FOUND);
    }
    if path.starts_with("/v1/scheduler") {
        codes.push(StatusCode::NOT_ACCEPTABLE);
    }
    if *method != HttpMethod::Get {
        codes.extend([
            StatusCode::FORBIDDEN,
            StatusCode::PAYLOAD_TOO_LARGE,
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            StatusCode::UNPROCESSABLE_ENTITY,
        ]);
    }
    for code in &codes {
        let reference = || RefOr::Ref(Ref::from_response_name(name(*code)));
        operation.responses.responses.entry(code.as_str().into()).or_insert_with(reference);
    }
    codes
}

fn name(code: StatusCode) -> String {
    code.canonical_reason().unwrap_or_default().replace(' ', "")
}

fn refusal(code: StatusCode) -> RefOr<Response> {
    let mut response = Response::new(code.canonical_reason().unwrap_or_default());
    let content = Content::new(Some(Ref::from_schema_name("ErrorBody")));
    response.content.insert("application/json".into(), content.into());
    response.into()
}
