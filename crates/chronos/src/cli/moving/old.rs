//! An old Chronos that answers: its jobs as it lists them.

use reqwest::Url;
use serde_json::Value;

use crate::cli::client::Client;
use crate::cli::failure::{Exit, Failure};

/// An old Chronos. It is only ever asked, never told anything.
pub(super) struct OldChronos {
    client: Client,
}

/// Where Chronos 3 lists its jobs, and where Chronos 2 did.
const LISTS: [&[&str]; 2] = [&["v1", "scheduler", "jobs"], &["scheduler", "jobs"]];

impl OldChronos {
    /// `user` is `USER:PASSWORD`; both may be in the URL instead.
    pub(super) fn new(url: &str, user: Option<&str>) -> Result<Self, Failure> {
        let Some(user) = user else { return Ok(Self { client: Client::new(url)? }) };
        let Some((user, password)) = user.split_once(':') else {
            return Err(Failure::usage("the user of the old Chronos is given without a password")
                .hint("write USER:PASSWORD"));
        };
        let with_user = Url::parse(url).ok().and_then(|mut url| {
            url.set_username(user).ok()?;
            url.set_password(Some(password)).ok()?;
            Some(url)
        });
        // What is no URL is refused there, with the reason.
        Ok(Self { client: Client::new(with_user.as_ref().map_or(url, Url::as_str))? })
    }

    /// All its jobs, in no particular order.
    pub(super) async fn jobs(&self) -> Result<Vec<Value>, Failure> {
        let answer = match self.client.get(LISTS[0], &[]).await {
            Err(failure) if failure.exit == Exit::Refused => match self.client.get(LISTS[1], &[]).await {
                // Neither is there: what was said first is about the Chronos that more people have.
                Err(second) if second.exit == Exit::Refused => Err(failure),
                answer => answer,
            },
            answer => answer,
        };
        let answer = answer.map_err(|failure| {
            let hint = match failure.exit {
                Exit::Refused => "is it the URL of a Chronos, and does it want USER:PASSWORD?",
                Exit::Unreachable => "say where the old Chronos is, as in http://chronos.example.org:8080",
                _ => return failure,
            };
            failure.context("cannot list the jobs of the old Chronos").hint(hint)
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
