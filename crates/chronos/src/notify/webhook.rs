//! Web hooks: one POST of JSON for each notice, with the fields that Chronos had and all that is new beside them.

use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode};
use ring::hmac;
use serde_json::{Map, Value, json};

use scheduler::notice::{Alert, Notice};

use super::settings::{Secret, WebhookSettings};
use super::{Letter, Step, Trouble};
use crate::wire::job::instant;

/// For the whole exchange: whoever needs longer can put it into a queue.
const POST_MAX: Duration = Duration::from_secs(30);
/// How much of a refusal is kept, to say why.
const ANSWER_MAX: usize = 200;

/// Posts to one URL.
#[derive(Debug)]
pub(super) struct Hook {
    settings: WebhookSettings,
    http: Client,
}

impl Hook {
    pub(super) fn new(settings: WebhookSettings) -> Result<Self, String> {
        let tls = if settings.url.scheme() == "https" {
            crate::tls::of_this_machine()
        } else {
            crate::tls::unused()
        };
        let http = Client::builder()
            .tls_backend_preconfigured(tls)
            .timeout(POST_MAX)
            .no_proxy()
            // A redirected POST would take the credentials to somebody that nobody named.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("chronos/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| e.to_string())?;
        Ok(Self { settings, http })
    }

    /// Posts one body. Says how it went.
    pub(super) async fn post(&self, id: &str, body: &Value, steps: &mut Vec<Step>) -> Result<(), Trouble> {
        let body = body.to_string();
        let mut request = self
            .http
            .post(self.settings.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header("X-Chronos-Notice-Id", id);
        if let Some((name, value)) = &self.settings.header {
            request = request.header(*name, &value.0);
        }
        if let Some((user, password)) = &self.settings.login {
            request = request.basic_auth(user, Some(&password.0));
        }
        if let Some(key) = &self.settings.key {
            request =
                request.header("X-Chronos-Signature", format!("sha256={}", signature(key, body.as_bytes())));
        }
        let answer = request.body(body).send().await.map_err(|e| {
            let what = chain(&e.without_url());
            let hint = format!("check --{}, and whether this machine may connect there", self.settings.flag);
            Trouble::later("post", what, hint)
        })?;
        let status = answer.status();
        if status.is_success() {
            steps.push(Step::done("post", format!("answered {status}")));
            return Ok(());
        }
        Err(refusal(self.settings.flag, status, answer).await)
    }
}

/// What an answer other than 2xx means.
async fn refusal(flag: &str, status: StatusCode, mut answer: Response) -> Trouble {
    let patience = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(seconds);
    let told = answer.chunk().await.ok().flatten().unwrap_or_default();
    let told: String = String::from_utf8_lossy(&told[..told.len().min(ANSWER_MAX)]).into_owned();
    let told = super::text::plain(told.trim());
    let what =
        if told.is_empty() { format!("answered {status}") } else { format!("answered {status}: {told}") };
    let passing = status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS | StatusCode::TOO_EARLY
        );
    if passing {
        return Trouble { after: patience, ..Trouble::later("post", what, "") };
    }
    let hint = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if flag == "http_notification_url" => {
            "check --http_notification_credentials".into()
        }
        status if status.is_redirection() => {
            format!("redirects are not followed: give --{flag} the URL that it leads to")
        }
        _ => format!("check --{flag}"),
    };
    Trouble::never("post", what, hint)
}

/// `Retry-After`: seconds, or a date.
fn seconds(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::parse(text.trim()).ok()?.timestamp();
    Duration::try_from(at.duration_since(jiff::Timestamp::now())).ok()
}

/// HMAC with SHA-256, in hexadecimal.
fn signature(key: &Secret, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.0.as_bytes());
    hmac::sign(&key, body).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// What Chronos told of a job beside its name, owner and command, in its order.
pub(super) const COUNTED: [&str; 11] = [
    "cpus",
    "softError",
    "errorCount",
    "errorsSinceLastSuccess",
    "executor",
    "executorFlags",
    "lastError",
    "lastSuccess",
    "mem",
    "retries",
    "successCount",
];

/// The body of a notice. First the fields of Chronos, in its order and, as there, all of them texts; they are about
/// the first alert, whose job is `job` if it still exists. Then what is new.
pub(super) fn payload(notice: &Notice, letter: &Letter, job: Option<&Map<String, Value>>) -> Value {
    let mut body = Map::new();
    let field = |key: &str| job.and_then(|job| job.get(key)).map(as_text).unwrap_or_default();
    body.insert("subject".into(), letter.subject.as_str().into());
    body.insert("message".into(), letter.body.as_str().into());
    let owner = field("owner");
    if !owner.is_empty() {
        body.insert("to".into(), owner.into());
    }
    let name = notice.alerts.first().map_or("", |alert| alert.name.as_str());
    body.insert("job".into(), name.into());
    for key in ["command"].into_iter().chain(COUNTED) {
        body.insert(key.into(), field(key).into());
    }
    body.insert("uris".into(), job.map(uris).unwrap_or_default().into());
    body.insert("id".into(), letter.id.as_str().into());
    body.insert("count".into(), notice.count().into());
    let counts = notice.counts.iter().map(|(kind, count)| (kind.word().to_owned(), json!(count)));
    body.insert("counts".into(), counts.collect::<Map<_, _>>().into());
    body.insert("alerts".into(), notice.alerts.iter().map(alert_json).collect());
    Value::Object(body)
}

/// An alert, as web hooks and the API tell it.
pub(crate) fn alert_json(alert: &Alert) -> Value {
    json!({
        "kind": alert.kind.word(),
        "job": alert.name.as_str(),
        "run": alert.run.map(|run| run.to_string()),
        "due": instant(alert.due),
        "at": instant(alert.at),
        "slots": alert.slots,
        "detail": &*alert.detail,
    })
}

pub(super) fn as_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Those of `fetch`, then those of `uris`, as Chronos joined them.
pub(super) fn uris(job: &Map<String, Value>) -> String {
    let list = |key: &str| job.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let fetch = list("fetch").into_iter().map(|item| as_text(&item["uri"]));
    fetch.chain(list("uris").iter().map(as_text)).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, test case 2.
    #[test]
    fn a_body_is_signed() {
        let signed = signature(&Secret("Jefe".into()), b"what do ya want for nothing?");
        assert_eq!(signed, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn patience_is_asked_for_in_seconds_or_as_a_date() {
        assert_eq!(seconds("120"), Some(Duration::from_secs(120)));
        assert!(seconds("Tue, 01 Jan 2999 00:00:00 GMT").is_some_and(|wait| wait.as_secs() > 1_000_000));
        assert_eq!(seconds("soon"), None);
        assert_eq!(seconds("Tue, 01 Jan 2019 00:00:00 GMT"), None);
    }
}
