//! What jobs have that do not say, by the flags of the server.
//!
//! Chronos wrote its flags into every job at its creation. Here a job stays as its author wrote it, and what it does not say
//! is filled in wherever it is shown or run, deep in conversions that know nothing of settings. One process has one set of
//! flags, so they are set once, at its start; a process without flags has the defaults of Chronos.

use std::sync::OnceLock;

use super::job::{CPUS, DISK, MEM, USER};
use crate::config::Unsaid;

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
