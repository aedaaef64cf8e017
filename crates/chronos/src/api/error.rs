//! What goes wrong, as clients see it: always JSON, always with a stable `code`.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use scheduler::ids::JobName;
use scheduler::request::Refusal;
use serde::Serialize;
use store::StoreError;
use utoipa::ToSchema;

use crate::node::AskError;
use crate::wire::job::wrong_schedule;
use crate::wire::shape::{Kind, Problem};

/// Why a request was not answered as asked.
#[derive(Clone, Debug)]
pub struct ApiError {
    pub(super) status: StatusCode,
    pub(super) body: Box<ErrorBody>,
    /// What goes with it.
    header: Option<(HeaderName, HeaderValue)>,
}

/// The body of every answer that is not 2xx.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct ErrorBody {
    /// What is wrong, for people.
    pub message: String,
    /// The reason phrase of the HTTP status, as Chronos had it.
    pub status: String,
    /// For programs; never changes.
    pub code: &'static str,
    /// Path of the field or parameter that is wrong.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hint: String,
    /// `host:port` of the node that leads, where this one does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let phrase = status.canonical_reason().unwrap_or_default().to_owned();
        let body = ErrorBody { message: message.into(), status: phrase, code, ..ErrorBody::default() };
        Self { status, body: Box::new(body), header: None }
    }

    /// A parameter or field that says something impossible.
    pub(super) fn invalid(field: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid", message).field(field)
    }

    pub(super) fn field(mut self, field: &str) -> Self {
        self.body.field = field.into();
        self
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.body.hint = hint.into();
        self
    }

    /// How to log in. The realm is one that fits a header, which was seen to at the start.
    pub(super) fn challenge(mut self, realm: &str) -> Self {
        let value = HeaderValue::from_str(&format!("Basic realm=\"{realm}\", charset=\"UTF-8\""));
        let value = value.unwrap_or(HeaderValue::from_static("Basic"));
        self.header = Some((header::WWW_AUTHENTICATE, value));
        self
    }

    /// When to come again.
    pub(super) fn retry_after(mut self, wait: Duration) -> Self {
        self.header = Some((header::RETRY_AFTER, HeaderValue::from(wait.as_secs().saturating_add(1))));
        self
    }

    pub(super) fn leader(mut self, leader: Option<String>) -> Self {
        self.body.leader = leader;
        self
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(&*self.body)).into_response();
        if matches!(self.body.code, "busy" | "not_leading" | "behind" | "store_unavailable") {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        let (status, code) = match problem.kind {
            Kind::Malformed => (StatusCode::BAD_REQUEST, "malformed"),
            Kind::Invalid => (StatusCode::BAD_REQUEST, "invalid"),
            Kind::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
        };
        Self::new(status, code, problem.message).field(&problem.field).hint(problem.hint)
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let (status, code, field) = match &refusal {
            Refusal::NoSuchJob(_) => (StatusCode::NOT_FOUND, "no_such_job", ""),
            Refusal::NoSuchRun(_) => (StatusCode::NOT_FOUND, "no_such_run", ""),
            Refusal::NoSuchTask(_) => (StatusCode::NOT_FOUND, "no_such_task", ""),
            Refusal::VersionMismatch { .. } => (StatusCode::PRECONDITION_FAILED, "version_mismatch", ""),
            Refusal::Schedule { cause, .. } => return wrong_schedule(cause, "").into(),
            Refusal::NoParents(_) => (StatusCode::BAD_REQUEST, "no_parents", "parents"),
            Refusal::MissingParents { .. } => (StatusCode::BAD_REQUEST, "missing_parents", "parents"),
            Refusal::TooManyParents { .. } => (StatusCode::BAD_REQUEST, "too_many_parents", "parents"),
            Refusal::Cycle { .. } => (StatusCode::BAD_REQUEST, "cycle", "parents"),
            Refusal::Disabled(_) => (StatusCode::CONFLICT, "disabled", ""),
            Refusal::TooManyWaiting { .. } => (StatusCode::CONFLICT, "too_many_waiting", ""),
            Refusal::TooManyHeirs { .. } => (StatusCode::CONFLICT, "too_many_heirs", ""),
            Refusal::NoSchedule(_) => (StatusCode::CONFLICT, "no_schedule", ""),
            Refusal::Range { .. } => (StatusCode::BAD_REQUEST, "invalid_range", "from"),
            Refusal::Pace(_) => (StatusCode::BAD_REQUEST, "invalid", "rate"),
            Refusal::TooManyBackfills => (StatusCode::CONFLICT, "too_many_backfills", ""),
            Refusal::NoSuchBackfill(_) => (StatusCode::NOT_FOUND, "no_such_backfill", ""),
            Refusal::StillLive(_) => (StatusCode::CONFLICT, "still_live", ""),
            Refusal::NoSuchNotice(_) => (StatusCode::NOT_FOUND, "no_such_notice", ""),
            Refusal::NoticeDelivered(_) => (StatusCode::CONFLICT, "delivered", ""),
            Refusal::Twice(_) => (StatusCode::BAD_REQUEST, "twice", "jobs"),
            Refusal::SetTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "set_too_large", "jobs"),
            Refusal::SetUnderWay => (StatusCode::TOO_MANY_REQUESTS, "busy", ""),
            Refusal::KeyReused(_) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused", "Idempotency-Key")
            }
            Refusal::TooManyEnds { .. } => (StatusCode::CONFLICT, "too_many_ends", "jobs"),
            Refusal::PauseOver(_) => (StatusCode::BAD_REQUEST, "invalid", "until"),
        };
        Self::new(status, code, refusal.to_string()).field(field).hint(refusal.hint())
    }
}

impl From<AskError> for ApiError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Refused(refusal) => refusal.into(),
            AskError::NotLeading => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "not_leading", error.to_string())
                    .hint("ask the node that leads")
            }
            AskError::Busy => Self::new(StatusCode::TOO_MANY_REQUESTS, "busy", error.to_string())
                .hint("nothing has changed; ask again later"),
            AskError::OutcomeUnknown => outcome_unknown(error.to_string()),
            AskError::Full(why) => Self::new(StatusCode::INSUFFICIENT_STORAGE, "store_full", why)
                .hint("delete jobs, or move to PostgreSQL: a backup of this server can be restored there"),
        }
    }
}

pub(super) fn no_such_job(name: &JobName) -> ApiError {
    Refusal::NoSuchJob(name.clone()).into()
}

/// A defect of ours; the process goes on.
pub(super) fn defect() -> ApiError {
    let message = "this request met a defect of the server";
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
        .hint("the server goes on; please report what was asked, with the log of the server")
}

/// The one error after which nobody may simply try again.
pub(super) fn outcome_unknown(message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "outcome_unknown", message).hint(
        "send it again if it had an `Idempotency-Key`, else look first whether the change has been made",
    )
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", error.to_string())
            .hint("the history cannot be read now; jobs and live runs still can")
    }
}
