//! Output of a task, read from its sandbox through its agent: the master has no part in it, nor has who leads.
//!
//! The agent's operator API is asked and not `/files/read`, which writes bytes that are no text into JSON as they are; here
//! they come as base64, and with the size of the file.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::StatusCode;
use scheduler::ids::TaskId;
use serde::Deserialize;
use serde_json::json;

use super::MesosLogin;
use super::place::Place;
use crate::{EngineError, OUTPUT_PIECE_MAX, Output, Stream};

/// For an answer: whoever follows output asks again.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// For the connection: an agent that is gone does not even refuse.
const CONNECTED_WITHIN: Duration = Duration::from_secs(3);
/// Longest answer: a piece as base64, and the words around it.
const ANSWER_MAX: usize = OUTPUT_PIECE_MAX * 4 / 3 + 4096;

/// Reads output from agents.
pub struct Sandboxes {
    client: reqwest::Client,
    login: Option<MesosLogin>,
}

/// Whether more can come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// The task may write.
    Alive,
    /// It has ended.
    Gone,
}

#[derive(Deserialize)]
struct Answer {
    read_file: Piece,
}

#[derive(Deserialize)]
struct Piece {
    size: u64,
    #[serde(default)]
    data: String,
}

impl Sandboxes {
    /// `login` is shown to agents that ask for one.
    /// # Errors
    /// What keeps this machine from making requests.
    pub fn new(login: Option<MesosLogin>) -> Result<Self, reqwest::Error> {
        // Agents are named by the master, and are not behind a proxy of this machine's.
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(crate::tls::of_this_machine())
            .no_proxy()
            .connect_timeout(CONNECTED_WITHIN)
            .timeout(ANSWER_WITHIN)
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Self { client, login })
    }

    /// A piece of what the task wrote.
    /// # Errors
    /// [`EngineError::OutputGone`]: the agent has removed it. [`EngineError::Unknown`]: the agent did not say.
    pub async fn output(
        &self,
        task: &TaskId,
        place: &Place,
        stream: Stream,
        offset: u64,
        writer: Writer,
    ) -> Result<Output, EngineError> {
        let file = match stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        };
        // A path that agents know since 1.5; the executor of a task has the task's name.
        let path = format!("/frameworks/{}/executors/{task}/runs/latest/{file}", place.framework);
        let call = json!({"type": "READ_FILE", "read_file": {"path": path, "offset": offset, "length": OUTPUT_PIECE_MAX}});
        let unknown = |what: String| EngineError::Unknown(format!("agent {}: {what}", place.url.authority()));
        let mut request = self
            .client
            .post(format!("{}/api/v1", place.url))
            .header("content-type", "application/json")
            .header("accept", "application/json")
            .body(call.to_string());
        if let Some(MesosLogin { principal, secret }) = &self.login {
            request = request.basic_auth(principal, Some(secret));
        }
        let mut response = request.send().await.map_err(|error| unknown(chain(&error)))?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| unknown(chain(&error)))? {
            if body.len() + piece.len() > ANSWER_MAX {
                return Err(unknown("its answer is too long".into()));
            }
            body.extend_from_slice(&piece);
        }
        match (status, writer) {
            (StatusCode::OK, _) => {}
            // Files may still be on their way to it.
            (StatusCode::NOT_FOUND, Writer::Alive) => {
                return Ok(Output { next: offset, ..Output::default() });
            }
            (StatusCode::NOT_FOUND, Writer::Gone) => {
                return Err(EngineError::OutputGone(format!(
                    "agent {} of Mesos has removed what this attempt wrote: agents keep the files of ended tasks for their \
                     --gc_delay, and for less when their disk fills",
                    place.url.authority()
                )));
            }
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => {
                let who = match &self.login {
                    Some(login) => format!("`{}` with this secret", login.principal),
                    None => "nobody in particular".into(),
                };
                return Err(unknown(format!(
                    "it does not show files to {who} ({status}); --mesos_authentication_principal and \
                     --mesos_authentication_secret_file say as whom this server asks"
                )));
            }
            (status, _) => {
                let said: String = String::from_utf8_lossy(&body).chars().take(200).collect();
                return Err(unknown(format!("{status}: {said}")));
            }
        }
        let not_ours = || unknown("its answer is not one of an agent of Mesos".into());
        let Answer { read_file } = serde_json::from_slice(&body).map_err(|_| not_ours())?;
        let bytes = BASE64_STANDARD.decode(read_file.data).map_err(|_| not_ours())?;
        let next = offset + bytes.len() as u64;
        let complete = writer == Writer::Gone && next >= read_file.size;
        Ok(Output { bytes, next, dropped: 0, complete })
    }
}

/// An error with its reasons, in one line.
fn chain(error: &reqwest::Error) -> String {
    let first: &dyn std::error::Error = error;
    let all = std::iter::successors(Some(first), |error| error.source());
    all.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
