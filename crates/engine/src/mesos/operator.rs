//! What an operator asks the leading master: of one framework, and for its end.

use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, LOCATION};
use reqwest::{Client, Method, StatusCode};
use serde::Deserialize;
use tokio::time::timeout;

use super::connection;
use super::master::{Found, MasterUrl, Masters, Search};
use super::options::MesosLogin;

/// A master answers within this, or is in trouble: what it tells of a framework may be long.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// How long it may take until it is known where the master is.
const FOUND_WITHIN: Duration = Duration::from_secs(20);
/// Masters that lead to each other are not followed for ever.
const REDIRECTS_MAX: usize = 5;
/// What is refused is told with so much of what the master says.
const TOLD_MAX: usize = 300;

/// How a framework is, as the master sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Somebody is subscribed as it.
    Connected,
    /// Nobody is; its tasks go on until its timeout.
    Away,
    /// It is over, and so are its tasks.
    Over,
}

/// A framework, as the master shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Framework {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Who it is to the master; empty where it did not say.
    pub principal: String,
    /// How it is.
    pub standing: Standing,
    /// Tasks of it that have not ended.
    pub tasks: usize,
}

/// Why the master did not say, or do, what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OperatorError {
    /// None answers, or none leads. Asking again may help.
    #[error("{0}")]
    Unreachable(String),
    /// It does not want to.
    #[error("{0}")]
    Refused(String),
}

/// What became of the wish to end a framework.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Teardown {
    /// The master does it.
    Begun,
    /// The master has none of this id.
    Unknown,
}

/// Asks the leading master, wherever it is by now.
pub struct Operator {
    masters: Masters,
    login: Option<MesosLogin>,
    http: Client,
    search: Search,
}

impl Operator {
    /// To be called in a tokio runtime.
    /// # Errors
    /// If no TLS can be had.
    pub fn new(masters: Masters, login: Option<MesosLogin>) -> std::io::Result<Self> {
        let http = connection::client().map_err(std::io::Error::other)?;
        let search = Search::begin(&masters);
        Ok(Self { masters, login, http, search })
    }

    /// The framework of this id, if the master knows it.
    /// # Errors
    /// [`OperatorError`].
    pub async fn framework(&self, id: &str) -> Result<Option<Framework>, OperatorError> {
        let path = format!("/master/frameworks?framework_id={}", encoded(id));
        let (url, status, body) = self.ask(Method::GET, &path, None).await?;
        if status != StatusCode::OK {
            return Err(refusal(&url, status, &body));
        }
        let all: Frameworks = serde_json::from_slice(&body).map_err(|error| {
            OperatorError::Unreachable(format!("what answers at {url} is no master of Mesos: {error}"))
        })?;
        Ok(all.find(id))
    }

    /// Ends the framework of this id, and all of its tasks.
    /// # Errors
    /// [`OperatorError`]; where it is [`OperatorError::Unreachable`] it may have been done.
    pub async fn teardown(&self, id: &str) -> Result<Teardown, OperatorError> {
        let form = format!("frameworkId={}", encoded(id));
        let (url, status, body) = self.ask(Method::POST, "/master/teardown", Some(form)).await?;
        match status {
            StatusCode::OK | StatusCode::ACCEPTED => Ok(Teardown::Begun),
            StatusCode::BAD_REQUEST if text(&body).contains("No framework found") => Ok(Teardown::Unknown),
            status => Err(refusal(&url, status, &body)),
        }
    }

    /// One question to whoever leads.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        form: Option<String>,
    ) -> Result<(MasterUrl, StatusCode, Vec<u8>), OperatorError> {
        let mut problems = Vec::new();
        for url in self.found().await? {
            match self.ask_at(url, &method, path, form.clone()).await {
                Ok((_, StatusCode::SERVICE_UNAVAILABLE, body)) => {
                    problems.push(format!("the master is not ready yet: {}", text(&body)));
                }
                Ok(answer) => return Ok(answer),
                Err(why) => problems.push(why),
            }
        }
        Err(OperatorError::Unreachable(problems.join("; ")))
    }

    async fn found(&self) -> Result<Vec<MasterUrl>, OperatorError> {
        let mut found = self.search.found();
        let known = timeout(FOUND_WITHIN, found.wait_for(|found| matches!(found, Found::At(_)))).await;
        match known.ok().and_then(Result::ok).map(|found| found.clone()) {
            Some(Found::At(urls)) => Ok(urls),
            _ => Err(OperatorError::Unreachable(match &*self.search.found().borrow() {
                Found::Nowhere(why) => format!("no master of Mesos is known: {why}"),
                Found::At(_) => format!("no master of Mesos was known in time at {}", self.masters),
            })),
        }
    }

    async fn ask_at(
        &self,
        mut url: MasterUrl,
        method: &Method,
        path: &str,
        form: Option<String>,
    ) -> Result<(MasterUrl, StatusCode, Vec<u8>), String> {
        for _ in 0..REDIRECTS_MAX {
            let mut request = self.http.request(method.clone(), format!("{url}{path}"));
            if let Some(form) = &form {
                request =
                    request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form.clone());
            }
            if let Some(login) = &self.login {
                request = request.basic_auth(&login.principal, Some(&login.secret));
            }
            let answered = timeout(ANSWER_MAX, async {
                let response = request.send().await?;
                let (status, headers) = (response.status(), response.headers().clone());
                Ok::<_, reqwest::Error>((status, headers, response.bytes().await?))
            });
            let (status, headers, body) = match answered.await {
                Err(_) => return Err(format!("the master at {url} does not answer")),
                Ok(Err(error)) => {
                    return Err(format!("no master answers at {url}: {}", connection::described(&error)));
                }
                Ok(Ok(answer)) => answer,
            };
            if !status.is_redirection() {
                return Ok((url, status, body.to_vec()));
            }
            let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
            url = location
                .and_then(|location| url.redirect(location))
                .ok_or_else(|| format!("the master at {url} does not lead, and does not say who does"))?;
        }
        Err(format!("the masters lead to each other, in the end to {url}"))
    }
}

fn refusal(url: &MasterUrl, status: StatusCode, body: &[u8]) -> OperatorError {
    OperatorError::Refused(match status {
        StatusCode::UNAUTHORIZED => format!(
            "the master at {url} wants to know who asks ({status}); name a principal that it knows with \
             --mesos_authentication_principal and its secret with --mesos_authentication_secret_file"
        ),
        StatusCode::FORBIDDEN => format!(
            "the master at {url} does not allow this ({status}); its --acls have to let this principal view frameworks \
             and tear them down"
        ),
        _ => format!("the master at {url} refuses ({status}): {}", text(body)),
    })
}

fn text(body: &[u8]) -> String {
    String::from_utf8_lossy(body).trim().chars().take(TOLD_MAX).collect()
}

/// A value of a form or of a query, as of RFC 3986.
fn encoded(value: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    value
        .bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// What `/master/frameworks` says.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Frameworks {
    frameworks: Vec<Shown>,
    completed_frameworks: Vec<Shown>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Shown {
    id: String,
    name: String,
    principal: String,
    connected: bool,
    active: bool,
    tasks: Vec<serde::de::IgnoredAny>,
    unreachable_tasks: Vec<serde::de::IgnoredAny>,
}

impl Frameworks {
    fn find(self, id: &str) -> Option<Framework> {
        let living = self.frameworks.into_iter().map(|shown| (false, shown));
        let over = self.completed_frameworks.into_iter().map(|shown| (true, shown));
        let (over, shown) = living.chain(over).find(|(_, shown)| shown.id == id)?;
        let standing = match over {
            true => Standing::Over,
            false if shown.connected || shown.active => Standing::Connected,
            false => Standing::Away,
        };
        let tasks = if over { 0 } else { shown.tasks.len() + shown.unreachable_tasks.len() };
        let Shown { id, name, principal, .. } = shown;
        Some(Framework { id, name, principal, standing, tasks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_framework_is_found_among_those_that_live_and_those_that_are_over() {
        let all = r#"{"frameworks":[
            {"id":"a","name":"chronos","principal":"p","connected":true,"active":true,"tasks":[{},{}],"unreachable_tasks":[{}]},
            {"id":"b","name":"marathon","connected":false,"active":false,"tasks":[{}]}],
            "completed_frameworks":[{"id":"c","name":"chronos","tasks":[],"completed_tasks":[{}]}],"unregistered_frameworks":[]}"#;
        let find = |id: &str| {
            let found = serde_json::from_str::<Frameworks>(all).expect("JSON").find(id)?;
            Some((found.name, found.principal, found.standing, found.tasks))
        };
        assert_eq!(find("a"), Some(("chronos".into(), "p".into(), Standing::Connected, 3)));
        assert_eq!(find("b"), Some(("marathon".into(), String::new(), Standing::Away, 1)));
        assert_eq!(find("c"), Some(("chronos".into(), String::new(), Standing::Over, 0)));
        assert_eq!(find("d"), None);
    }

    #[test]
    fn an_id_in_a_form_is_no_more_than_a_value() {
        assert_eq!(encoded("2f6c-0001"), "2f6c-0001");
        assert_eq!(encoded("a&b=c d"), "a%26b%3Dc%20d");
    }
}
