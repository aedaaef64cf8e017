//! How the cluster is used.

use std::fmt;
use std::time::Duration;

use super::master::Masters;
use crate::Share;

/// How the cluster is found, and what this framework is in it.
#[derive(Clone, Debug)]
pub struct MesosOptions {
    /// Where the master is, or who knows.
    pub masters: Masters,
    /// Who this framework is to the master, where it wants to know.
    pub login: Option<MesosLogin>,
    /// Its name.
    pub name: String,
    /// The user that tasks run as which name none; an agent's own if empty.
    pub user: String,
    /// The role to which offers are made.
    pub role: String,
    /// Whether agents keep tasks through their own restarts.
    pub checkpoint: bool,
    /// How long the master keeps tasks of a framework that is not there.
    pub failover_timeout: Duration,
    /// Where people find this framework, as the master shows it.
    pub webui_url: Option<String>,
    /// The machine that this framework runs on, as the master shows it.
    pub hostname: String,
    /// For how long what is of no use is declined.
    pub decline_for: Duration,
    /// Offers are asked for anew no oftener.
    pub revive_every: Duration,
    /// How often all tasks are asked for, whatever was heard of them.
    pub reconcile_every: Duration,
    /// What tasks get that do not say.
    pub share: Share,
    /// Between the polite and the forceful end of a task that Mesos itself ends.
    pub kill_grace: Duration,
    /// What becomes of tasks that an old Chronos has begun as this framework.
    pub old_tasks: OldTasks,
}

/// What becomes of tasks that are of this framework and not of this program, as their names tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OldTasks {
    /// They run to their end.
    #[default]
    Keep,
    /// They are ended.
    Kill,
}

/// A principal and its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct MesosLogin {
    /// Who.
    pub principal: String,
    /// What only it knows; a newline at the end of its file is no part of it.
    pub secret: String,
}

impl fmt::Debug for MesosLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MesosLogin").field("principal", &self.principal).finish_non_exhaustive()
    }
}

impl MesosOptions {
    /// As Chronos was used where nobody said more.
    pub fn new(masters: Masters) -> Self {
        Self {
            masters,
            login: None,
            name: "chronos".into(),
            user: String::new(),
            role: "*".into(),
            checkpoint: true,
            failover_timeout: Duration::from_secs(7 * 24 * 3600),
            webui_url: None,
            hostname: String::new(),
            decline_for: Duration::from_secs(300),
            revive_every: Duration::from_secs(5),
            reconcile_every: Duration::from_secs(600),
            share: Share::default(),
            kill_grace: Duration::from_secs(3),
            old_tasks: OldTasks::default(),
        }
    }
}
