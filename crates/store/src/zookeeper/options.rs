//! Where the ensemble is, and how it is used.

use std::fmt;
use std::time::Duration;

use crate::StoreError;

/// Shorter ones make every long pause of a machine a fail-over.
const SESSION_MIN: Duration = Duration::from_secs(4);

/// Where the store is, and how it is used.
#[derive(Clone)]
pub struct Options {
    /// `host:port` of each server, with commas between them.
    pub hosts: String,
    /// The node below which everything is, as of an old Chronos: `/chronos/state`.
    pub path: String,
    /// After so long without a word from us the servers let another lead; at least 4 s. They may have bounds of
    /// their own.
    pub session_timeout: Duration,
    /// `user:password`, as what the scheme `digest` knows this node.
    pub auth: Option<String>,
    /// Of each job the last so many records of the history stay, whatever retention keeps; of many jobs fewer, see
    /// [`Limits::history`].
    pub history_per_job: u64,
    /// Of the audit the last so many entries stay, whatever retention keeps.
    pub audit_max: u64,
    /// What the store takes. Those of all nodes are the same; only tests have others.
    pub limits: Limits,
    /// The id of the only store that is meant; another one is not touched, and none is made.
    pub expected: Option<String>,
}

/// What a store is meant for at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Jobs: a new leader reads them all, and every server keeps all of them in memory.
    pub jobs: usize,
    /// Bytes of state and history together, for the same reason.
    pub bytes: u64,
    /// Records of the history in all; with so many jobs that this is less than what each may keep, each keeps less.
    pub history: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { jobs: 100_000, bytes: 256 * 1024 * 1024, history: 400_000 }
    }
}

/// How much of the history stays.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keep {
    per_job: u64,
    in_all: u64,
}

impl Keep {
    /// Whatever the number of jobs: what was last, and what it was before.
    const LEAST: u64 = 2;

    /// Of so many jobs each keeps so many records.
    pub(super) fn each_of(self, jobs: usize) -> u64 {
        self.per_job.min((self.in_all / (jobs.max(1) as u64)).max(Self::LEAST))
    }
}

impl Options {
    /// As an old Chronos has them, on these servers.
    pub fn new(hosts: impl Into<String>) -> Self {
        Self {
            hosts: hosts.into(),
            path: "/chronos/state".into(),
            session_timeout: Duration::from_secs(10),
            auth: None,
            history_per_job: 20,
            audit_max: 10_000,
            limits: Limits::default(),
            expected: None,
        }
    }

    pub(super) fn keep(&self) -> Keep {
        Keep { per_job: self.history_per_job, in_all: self.limits.history }
    }

    /// What is meant, if it can be.
    pub(super) fn checked(mut self) -> Result<Self, StoreError> {
        let wrong = |what: String| Err(StoreError::Unavailable(what));
        // As Chronos does: what it took as --zk_hosts or --master is taken here.
        let hosts = self.hosts.trim();
        let hosts = hosts.strip_prefix("zk://").unwrap_or(hosts).split('/').next().unwrap_or_default();
        let hosts: Vec<&str> = hosts.split(',').map(str::trim).collect();
        for host in &hosts {
            let port = host.rsplit_once(':').filter(|(name, _)| !name.is_empty()).map(|(_, port)| port);
            if port.and_then(|port| port.parse::<u16>().ok()).is_none_or(|port| port == 0) {
                return wrong(format!("--zk_hosts: `{host}` is not `host:port`"));
            }
        }
        self.hosts = hosts.join(",");
        let path = self.path.trim_end_matches('/').to_owned();
        let is_name = |part: &str| !part.is_empty() && part != "." && part != "..";
        if !path.starts_with('/') || !path[1..].split('/').all(is_name) || path.chars().any(char::is_control)
        {
            return wrong(format!(
                "--zk_path: `{}` is not a path of ZooKeeper; write one like `/chronos/state`",
                self.path
            ));
        }
        self.path = path;
        if self.session_timeout < SESSION_MIN {
            return wrong(format!(
                "--zk_timeout: {:?} is too short, the least is {SESSION_MIN:?}",
                self.session_timeout
            ));
        }
        if self.auth.as_ref().is_some_and(|auth| auth.split_once(':').is_none_or(|(user, _)| user.is_empty()))
        {
            return wrong("--zk_auth: write `user:password`".into());
        }
        Ok(self)
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hosts, path, session_timeout, auth, .. } = self;
        f.debug_struct("Options")
            .field("hosts", hosts)
            .field("path", path)
            .field("session_timeout", session_timeout)
            .field("auth", &auth.as_ref().map(|_| "(secret)"))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_as_the_servers_are_told_them() {
        let hosts = |text: &str| Options::new(text).checked().map(|options| options.hosts).ok();
        for text in ["a:1,b:2", " a:1, b:2 ", "zk://a:1,b:2/mesos"] {
            assert_eq!(hosts(text).as_deref(), Some("a:1,b:2"), "{text}");
        }
        for text in ["a", "a:1,", "a:1,b", ":1"] {
            assert_eq!(hosts(text), None, "{text}");
        }
    }
}
