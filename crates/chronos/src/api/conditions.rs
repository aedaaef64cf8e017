//! Conditions on the version of a job: `ETag`, `If-Match`, `If-None-Match` (RFC 9110, section 13).
//!
//! A tag names a creation and a version of a job, so it belongs to its definition: it does not change while the job
//! runs. The condition is held against the job where the change is decided, so nothing can come between.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use scheduler::ids::{JobName, JobUid};
use scheduler::request::{Expect, Request};

use super::error::ApiError;

/// Tags in one header; nobody can mean more versions than are kept.
const TAGS_MAX: usize = 64;

/// How a job must be for the change to be made.
pub(super) struct Conditions(pub(super) Option<Expect>);

impl Conditions {
    /// The request, to be done only if the job is as the client believes.
    pub(super) fn on(self, job: &JobName, request: Request) -> Request {
        match self.0 {
            Some(expect) => Request::When { job: job.clone(), expect, then: Box::new(request) },
            None => request,
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Conditions {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        match (given(&parts.headers, &header::IF_MATCH)?, given(&parts.headers, &header::IF_NONE_MATCH)?) {
            (None, None) => Ok(Self(None)),
            (Some(text), None) if text.trim() == "*" => Ok(Self(Some(Expect::Present))),
            (Some(text), None) => tags(&text).map(|tags| Self(Some(Expect::OneOf(tags)))),
            (None, Some(text)) if text.trim() == "*" => Ok(Self(Some(Expect::Absent))),
            (None, Some(_)) => Err(ApiError::invalid("If-None-Match", "`If-None-Match`: expected `*`")
                .hint("`*` means: only if there is no such job")),
            (Some(_), Some(_)) => {
                Err(ApiError::invalid("If-Match", "`If-Match` and `If-None-Match` are both given")
                    .hint("send one of the two"))
            }
        }
    }
}

/// A change that is not about one job, so that there is no version it could wait for. A condition that it does not hold
/// is not left aside: who sends it would believe that it held.
pub(super) struct Unconditional;

impl<S: Send + Sync> FromRequestParts<S> for Unconditional {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        for (name, shown) in [(header::IF_MATCH, "If-Match"), (header::IF_NONE_MATCH, "If-None-Match")] {
            if parts.headers.contains_key(name) {
                return Err(ApiError::invalid(shown, format!("`{shown}` has no meaning here")).hint(
                    "leave it out; to change a job on a condition, PUT or PATCH /v1/jobs/{name} with it",
                ));
            }
        }
        Ok(Self)
    }
}

fn given(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, ApiError> {
    let lines: Result<Vec<_>, _> = headers.get_all(name).iter().map(HeaderValue::to_str).collect();
    let lines = lines.map_err(|_| malformed())?;
    Ok((!lines.is_empty()).then(|| lines.join(",")))
}

/// Weak tags and those of someone else match nothing, and so are left out.
fn tags(text: &str) -> Result<Vec<(JobUid, u32)>, ApiError> {
    let mut tags = Vec::new();
    for (i, tag) in text.split(',').map(str::trim).enumerate() {
        let (tag, weak) = tag.strip_prefix("W/").map_or((tag, false), |tag| (tag, true));
        let tag = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).ok_or_else(malformed)?;
        if i == TAGS_MAX {
            return Err(ApiError::invalid("If-Match", format!("`If-Match` has more than {TAGS_MAX} tags")));
        }
        if let Some((uid, version)) = tag.rsplit_once('-').filter(|_| !weak)
            && let (Ok(uid), Ok(version)) = (uid.parse(), version.parse())
        {
            tags.push((uid, version));
        }
    }
    Ok(tags)
}

fn malformed() -> ApiError {
    ApiError::invalid("If-Match", "`If-Match`: expected `*` or tags in quotes")
        .hint("send what `ETag` said, quotes included")
}

/// The tag of a version, as text.
pub(super) fn tag(uid: JobUid, version: u32) -> String {
    format!("\"{uid}-{version}\"")
}

/// The header that names a version.
pub(super) fn etag(uid: JobUid, version: u32) -> [(HeaderName, HeaderValue); 1] {
    let value = HeaderValue::try_from(tag(uid, version)).unwrap_or(HeaderValue::from_static("\"\""));
    [(header::ETAG, value)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_read_as_they_were_written() {
        let check = |text: &str, found: &[(u64, u32)]| {
            let expected: Vec<_> = found.iter().map(|(uid, version)| (JobUid(*uid), *version)).collect();
            assert_eq!(tags(text).ok(), Some(expected), "{text}");
        };
        check(&tag(JobUid(1 << 50), 7), &[(1 << 50, 7)]);
        check("\"1-1\", \"a-2\"", &[(1, 1), (10, 2)]);
        check("W/\"1-1\"", &[]);
        check("\"of-someone-else\"", &[]);
        check("\"\"", &[]);
        assert!(tags("1-1").is_err());
        assert!(tags("\"1-1").is_err());
        assert!(tags("").is_err());
    }
}
