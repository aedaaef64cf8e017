//! What jobs have that do not say, by the flags of the server.
//!
//! Chronos wrote its flags into every job at its creation. Here a job stays as its author wrote it, and what it does not say
//! is filled in wherever it is shown or run, deep in conversions that know nothing of settings. One process has one set of
//! flags, so they are set once, at its start; a process without flags has the defaults of Chronos.

use std::sync::OnceLock;

/// What Chronos wrote into jobs that did not say, unless its flags said otherwise: its `--mesos_task_cpu`.
pub const CPUS: f64 = 0.1;
/// Likewise, in MB: `--mesos_task_mem`.
pub const MEM: f64 = 128.0;
/// Likewise, in MB: `--mesos_task_disk`.
pub const DISK: f64 = 256.0;
/// Likewise: `--user`.
pub const USER: &str = "root";

/// What jobs have that do not say; some of it is shown, and told to tasks, whatever runs them.
#[derive(Clone, Debug, PartialEq)]
pub struct Unsaid {
    /// Processors.
    pub cpus: f64,
    /// Memory, in MB.
    pub mem: f64,
    /// Disk, in MB.
    pub disk: f64,
    /// The user.
    pub user: String,
}

/// The flags, and whether tasks run on Mesos.
struct Said {
    unsaid: Unsaid,
    on_mesos: bool,
}

static SAID: OnceLock<Said> = OnceLock::new();

/// Called once, before the first job is read; later calls change nothing.
pub fn set(unsaid: Unsaid, on_mesos: bool) {
    let _ = SAID.set(Said { unsaid, on_mesos });
}

fn said() -> &'static Said {
    SAID.get_or_init(|| Said {
        unsaid: Unsaid { cpus: CPUS, mem: MEM, disk: DISK, user: USER.into() },
        on_mesos: false,
    })
}

/// What jobs have that do not say.
pub fn get() -> &'static Unsaid {
    &said().unsaid
}

/// Whether the tasks of this process run on Mesos.
pub fn on_mesos() -> bool {
    said().on_mesos
}
