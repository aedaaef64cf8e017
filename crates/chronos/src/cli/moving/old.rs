//! An old Chronos that answers: its jobs as it lists them.

use std::path::Path;

use serde_json::Value;

use crate::cli::ServerAt;
use crate::cli::client::Client;
use crate::cli::failure::{Exit, Failure};
use crate::notify::settings::Secret;

/// An old Chronos. It is only ever asked, never told anything.
pub(super) struct OldChronos {
    client: Client,
}

/// Where Chronos 3 lists its jobs, and where Chronos 2 did.
const LISTS: [&[&str]; 2] = [&["v1", "scheduler", "jobs"], &["scheduler", "jobs"]];

/// Longest list: a hundred thousand jobs, far more than one can hold.
const LIST_BYTES_MAX: usize = 128 * 1024 * 1024;

impl OldChronos {
    /// `user` is `NAME:PASSWORD`; both may be in the URL instead, or in `~/.netrc`.
    pub(super) fn new(url: &str, user: Option<&Secret>, ca_file: Option<&Path>) -> Result<Self, Failure> {
        let ca_file = ca_file.map(Path::to_owned);
        let at = ServerAt { server: url.to_owned(), user: user.cloned(), ca_file };
        Ok(Self { client: Client::of(&at)? })
    }

    /// All its jobs, in no particular order.
    pub(super) async fn jobs(&self) -> Result<Vec<Value>, Failure> {
        let answer = match self.client.get_at_most(LISTS[0], LIST_BYTES_MAX).await {
            Err(failure) if failure.exit == Exit::Refused => {
                match self.client.get_at_most(LISTS[1], LIST_BYTES_MAX).await {
                    // Neither is there: what was said first is about the Chronos that more people have.
                    Err(second) if second.exit == Exit::Refused => Err(failure),
                    answer => answer,
                }
            }
            answer => answer,
        };
        let answer = answer.map_err(|failure| {
            let hint = match failure.exit {
                Exit::Refused => Some("is it the URL of a Chronos, and does it want NAME:PASSWORD?"),
                Exit::Unreachable => {
                    Some("say where the old Chronos is, as in http://chronos.example.org:8080")
                }
                _ => None,
            };
            let failure = failure.context("cannot list the jobs of the old Chronos");
            match hint {
                Some(hint) => failure.hint(hint),
                None => failure,
            }
        })?;
        match answer {
            Value::Array(jobs) => Ok(jobs),
            _ => {
                let message = "the old Chronos answered with something that is no list of jobs";
                Err(Failure::new(Exit::Failed, anyhow::anyhow!(message)).hint("is it the URL of a Chronos?"))
            }
        }
    }
}
