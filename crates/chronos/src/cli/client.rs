//! Asks a server over HTTP and turns what goes wrong into a [`Failure`] that says what is known.

use std::path::Path;
use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode, Url};
use scheduler::ids::JobName;
use serde_json::Value;

use super::ServerAt;
use super::failure::{Exit, Failure};
use super::netrc::{self, Login};
use crate::notify::settings::Secret;

/// A server, as far as the command line knows it.
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
    login: Option<Login>,
}

/// What a server answered.
pub(crate) struct Answer {
    /// Null where there is no body.
    pub(crate) body: Value,
}

impl Client {
    /// Longest wait for a connection: a server on another continent answers within it.
    const CONNECT_MAX: Duration = Duration::from_secs(10);
    /// Longest wait for a whole answer; the server gives up a change earlier, and says so.
    const ANSWER_MAX: Duration = Duration::from_secs(60);
    /// How long a change is asked for again after its answer was lost first: a server that starts anew is back by then,
    /// and another leads where one has died.
    const AGAIN_WITHIN: Duration = Duration::from_secs(15);
    /// How long it waits before it asks again.
    const AGAIN_AFTER: Duration = Duration::from_millis(300);
    /// A silent stream whose server is gone is noticed within about so long.
    const ALIVE: Duration = Duration::from_secs(30);

    /// The server that the command line names, and who asks it: the URL says so, or `--user`, or `~/.netrc`.
    pub(crate) fn of(at: &ServerAt) -> Result<Self, Failure> {
        // An empty variable names nobody.
        let login = match at.user.as_ref().filter(|user| !user.0.is_empty()) {
            Some(user) => Some(login(&at.server, &user.0)?),
            None => None,
        };
        Self::build(&at.server, login, at.ca_file.as_deref())
    }

    /// A server, and the name and password for it.
    pub(crate) fn with_login(server: &str, login: Option<Login>) -> Result<Self, Failure> {
        Self::build(server, login, None)
    }

    fn build(server: &str, login: Option<Login>, ca_file: Option<&Path>) -> Result<Self, Failure> {
        let mut base = url(server)?;
        let named = !base.username().is_empty() || base.password().is_some();
        let login = match login {
            Some(login) => {
                // Who was named beside the URL is meant.
                let _ = (base.set_username(""), base.set_password(None));
                Some(login)
            }
            None if named => None,
            None => netrc::login(base.host_str().unwrap_or_default(), None)?,
        };
        let tls = match (base.scheme(), ca_file) {
            ("http", _) => crate::tls::unused(),
            (_, None) => crate::tls::of_this_machine(),
            (_, Some(path)) => crate::tls::of_this_machine_and(path)
                .map_err(|why| Failure::usage(why).hint("--ca_file names a file of certificates in PEM"))?,
        };
        let http = reqwest::Client::builder()
            .connect_timeout(Self::CONNECT_MAX)
            .tcp_keepalive(Self::ALIVE)
            // What is asked goes to the server that was named, as it was written.
            .no_proxy()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("chronos/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| Failure::new(Exit::Failed, e))?;
        Ok(Self { http, base, login })
    }

    fn request(&self, method: Method, path: &[&str]) -> reqwest::RequestBuilder {
        let request = self.http.request(method, self.url(path));
        match &self.login {
            Some(Login { user, password }) => request.basic_auth(user, Some(&password.0)),
            None => request,
        }
    }

    /// Asks something that changes nothing.
    pub(crate) async fn get(&self, path: &[&str], query: &[(&str, String)]) -> Result<Value, Failure> {
        let request = self.request(Method::GET, path).query(query).timeout(Self::ANSWER_MAX);
        let response = self.accepted(request).await?;
        let body = response.bytes().await.map_err(|e| self.unreachable(e))?;
        parse(&body)
    }

    /// The same of a server that may be another program: an answer that is larger is refused.
    pub(crate) async fn get_at_most(&self, path: &[&str], bytes_max: usize) -> Result<Value, Failure> {
        let request = self.request(Method::GET, path).timeout(Self::ANSWER_MAX);
        let mut response = self.accepted(request).await?;
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|e| self.unreachable(e))? {
            body.extend_from_slice(&piece);
            if body.len() > bytes_max {
                let message = format!("{} answers with more than {} MiB", self.shown(), bytes_max >> 20);
                return Err(Failure::new(Exit::Failed, anyhow::anyhow!(message)));
            }
        }
        parse(&body)
    }

    /// Begins to read bytes that may have no end.
    pub(crate) async fn bytes(
        &self,
        path: &[&str],
        query: &[(&str, String)],
    ) -> Result<reqwest::Response, Failure> {
        let request = self.request(Method::GET, path).query(query);
        self.accepted(request.header("accept", "application/octet-stream")).await
    }

    /// The next piece of an answer.
    pub(crate) async fn piece(&self, response: &mut reqwest::Response) -> Result<Option<Vec<u8>>, Failure> {
        let piece = response.chunk().await.map_err(|e| {
            Failure::new(Exit::Failed, e.without_url())
                .context(format!("{} broke off its answer, which is not whole", self.shown()))
        })?;
        Ok(piece.map(Into::into))
    }

    /// Sends bytes that may take long, and waits as long for what comes of them. Never repeated.
    pub(crate) async fn send(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        content_type: &str,
        body: reqwest::Body,
    ) -> Result<Answer, Failure> {
        let request = self.request(Method::POST, path).query(query).header("content-type", content_type);
        self.change_once(request.body(body)).await
    }

    async fn accepted(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, Failure> {
        let response = request.send().await.map_err(|e| self.unreachable(e))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.map_err(|e| self.unreachable(e))?;
        Err(refused(status, &body))
    }

    /// Asks for a change, under a key of its own: where the answer is lost it asks again, and it is done once.
    pub(crate) async fn change(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, String)],
        body: Option<&Value>,
    ) -> Result<Answer, Failure> {
        // Where the old API would answer with nothing, it tells what was done; the others know no such parameter.
        let verbose: &[_] = if path.starts_with(&["v1", "scheduler"]) { &[("verbose", "true")] } else { &[] };
        let mut request = self
            .request(method, path)
            .query(query)
            .query(verbose)
            .header("idempotency-key", request_key()?)
            .timeout(Self::ANSWER_MAX);
        if let Some(body) = body {
            request = request.json(body);
        }
        let mut doubt: Option<Doubt> = None;
        loop {
            let Some(attempt) = request.try_clone() else { return self.change_once(request).await };
            match self.change_once(attempt).await {
                Err(failure) if failure.exit == Exit::OutcomeUnknown => {
                    doubt = Some(Doubt::of(failure, doubt, Instant::now()));
                }
                // It may have been done before the server went away.
                Err(failure) if failure.exit == Exit::Unreachable && doubt.is_some() => {}
                answer => return answer,
            }
            if let Some(Doubt { failure, .. }) = doubt.take_if(|doubt| Instant::now() >= doubt.until) {
                return Err(failure);
            }
            tokio::time::sleep(Self::AGAIN_AFTER).await;
        }
    }

    async fn change_once(&self, request: reqwest::RequestBuilder) -> Result<Answer, Failure> {
        let response = request.send().await.map_err(|e| self.lost(e))?;
        let status = response.status();
        let body = response.bytes().await.map_err(|e| self.lost(e))?;
        if !status.is_success() {
            return Err(refused(status, &body));
        }
        Ok(Answer { body: serde_json::from_slice(&body).unwrap_or_default() })
    }

    /// One request to a server that may be another program, never repeated: what it answers, whatever that is.
    pub(crate) async fn plain(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, String)],
        body: Option<&Value>,
    ) -> Result<(StatusCode, Value), Failure> {
        let mut request = self.request(method, path).query(query).timeout(Self::ANSWER_MAX);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|e| self.unreachable(e))?;
        let status = response.status();
        let body = response.bytes().await.map_err(|e| self.unreachable(e))?;
        Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
    }

    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }

    fn unreachable(&self, cause: reqwest::Error) -> Failure {
        let distrusted = std::iter::successors(Some(&cause as &dyn std::error::Error), |e| e.source())
            .any(|e| e.to_string().contains("certificate"));
        let hint = if distrusted {
            "if it is signed by an authority of your own, name its certificate with --ca_file or CHRONOS_CA_FILE"
        } else {
            "start one with `chronos server`, or say where it is with --server or CHRONOS_SERVER"
        };
        Failure::new(Exit::Unreachable, cause.without_url())
            .context(format!("the server at {} does not answer", self.shown()))
            .hint(hint)
    }

    /// A change that never reached the server has not happened; of any other nobody here can tell.
    fn lost(&self, cause: reqwest::Error) -> Failure {
        if cause.is_connect() || cause.is_builder() {
            return self.unreachable(cause);
        }
        Failure::new(Exit::OutcomeUnknown, cause.without_url())
            .context(format!(
                "the answer of {} was lost: the change may or may not have been made",
                self.shown()
            ))
            .hint(LOOK_FIRST)
    }

    /// Where it is, without who asks.
    pub(crate) fn shown(&self) -> String {
        let mut base = self.base.clone();
        let _ = (base.set_username(""), base.set_password(None));
        base.as_str().trim_end_matches('/').to_owned()
    }
}

/// What people can do about a change of which nobody knows whether it was made. Its key was used up: the next command has
/// another one.
const LOOK_FIRST: &str = "look before you try again: `chronos audit` lists what was changed, `chronos show JOB` and `chronos runs JOB` what is";

/// A change of which nobody knows whether it was made, and until when it is asked for again.
struct Doubt {
    failure: Failure,
    until: Instant,
}

impl Doubt {
    /// The time counts from the first doubt: what went before was waiting for an answer.
    fn of(failure: Failure, before: Option<Self>, now: Instant) -> Self {
        let until = before.map_or(now + Client::AGAIN_WITHIN, |before| before.until);
        Self { failure, until }
    }
}

fn url(server: &str) -> Result<Url, Failure> {
    let wrong = |why: &str| {
        // It may have a password in it.
        let shown = server.rsplit_once('@').map_or(server, |(_, rest)| rest);
        Failure::usage(format!("`{shown}` is not the URL of a server: {why}"))
            .hint("write something like http://127.0.0.1:4400")
    };
    let base = Url::parse(server).map_err(|e| wrong(&e.to_string()))?;
    match base.scheme() {
        "http" | "https" => Ok(base),
        _ => Err(wrong("only http:// and https:// are spoken")),
    }
}

/// `name:password`, or a name whose password is in `~/.netrc`.
fn login(server: &str, text: &str) -> Result<Login, Failure> {
    if let Some((user, password)) = text.split_once(':') {
        return Ok(Login { user: user.to_owned(), password: Secret(password.to_owned()) });
    }
    let host = url(server)?.host_str().unwrap_or_default().to_owned();
    netrc::login(&host, Some(text))?.ok_or_else(|| {
        Failure::usage(format!("there is no password for `{text}` at {host}"))
            .hint("write it as NAME:PASSWORD into CHRONOS_USER, or put a line into ~/.netrc")
    })
}

/// A key that no other request has.
fn request_key() -> Result<String, Failure> {
    let random: [u8; 16] = ring::rand::generate(&ring::rand::SystemRandom::new())
        .map_err(|_| Failure::new(Exit::Failed, anyhow::anyhow!("the machine has no random numbers")))?
        .expose();
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Checks a name before it becomes part of a URL: `..` would be taken for a step up.
pub(crate) fn job_name(text: &str) -> Result<&str, Failure> {
    JobName::new(text).map_err(|e| Failure::new(Exit::Usage, e))?;
    Ok(text)
}

fn parse(body: &[u8]) -> Result<Value, Failure> {
    if body.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(body).map_err(|e| {
        Failure::new(Exit::Failed, e)
            .context("the answer is not JSON")
            .hint("is there a Chronos server at this URL, and not something else?")
    })
}

/// What the server says of one thing that it refuses.
pub(crate) fn refusal(body: &Value) -> Failure {
    let text = |key: &str| body[key].as_str().filter(|text| !text.is_empty()).map(String::from);
    let message = text("message").unwrap_or_else(|| "it is refused".into());
    Failure { exit: Exit::Refused, error: anyhow::anyhow!(message), hint: text("hint"), code: text("code") }
}

/// The failure that an answer other than 2xx tells of.
fn refused(status: StatusCode, body: &[u8]) -> Failure {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |key: &str| body[key].as_str().filter(|text| !text.is_empty());
    let exit = match (status, text("code")) {
        (_, Some("outcome_unknown")) => Exit::OutcomeUnknown,
        (StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT, _) => {
            Exit::Unreachable
        }
        _ if status.is_client_error() => Exit::Refused,
        _ => Exit::Failed,
    };
    let message = text("message").map_or_else(|| format!("the server answered {status}"), Into::into);
    let owned = |key: &str| text(key).map(Into::into);
    // That of the server is for whoever has sent a key of his own.
    let hint = if exit == Exit::OutcomeUnknown { Some(LOOK_FIRST.into()) } else { owned("hint") };
    Failure { exit, error: anyhow::anyhow!(message), hint, code: owned("code") }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Reads one request, and answers it or breaks off.
    async fn serve(listener: &TcpListener, answer: Option<&str>) -> String {
        let (mut stream, _) = listener.accept().await.expect("a client");
        let (mut text, mut buffer) = (String::new(), [0; 4096]);
        while !text.contains("\r\n\r\n") {
            let n = stream.read(&mut buffer).await.expect("a request");
            text.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
        if let Some(body) = answer {
            let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length:";
            let answer = format!("{head} {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.expect("it is read");
        }
        let key = text.lines().find_map(|line| line.strip_prefix("idempotency-key: "));
        key.expect("every change has a key").to_owned()
    }

    #[test]
    fn a_change_is_asked_for_again_for_so_long_after_the_first_doubt() {
        let unknown = || {
            let body =
                br#"{"code": "outcome_unknown", "message": "m", "hint": "send it again if it had a key"}"#;
            refused(StatusCode::SERVICE_UNAVAILABLE, body)
        };
        let (first, later) = (Instant::now(), Instant::now() + Client::AGAIN_WITHIN / 2);
        let doubt = Doubt::of(unknown(), None, first);
        assert_eq!(doubt.until, first + Client::AGAIN_WITHIN, "however long the first answer took");
        let doubt = Doubt::of(unknown(), Some(doubt), later);
        assert_eq!(doubt.until, first + Client::AGAIN_WITHIN, "it ends");
        assert_eq!(doubt.failure.hint.as_deref(), Some(LOOK_FIRST), "who runs a command has sent no key");
    }

    #[tokio::test]
    async fn a_change_whose_answer_is_lost_is_asked_for_again_under_its_key() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let client = Client::with_login(&url, None).expect("a client");
        let served = async {
            let first = serve(&listener, None).await;
            (first, serve(&listener, Some(r#"{"run": "1-m1"}"#)).await)
        };
        let change = client.change(Method::PUT, &["v1"], &[], None);
        let (answer, (first, second)) = tokio::join!(change, served);
        assert_eq!(answer.ok().map(|answer| answer.body["run"].clone()), Some("1-m1".into()));
        assert_eq!(first, second);
        assert_eq!(first.len(), 32);
    }
}
