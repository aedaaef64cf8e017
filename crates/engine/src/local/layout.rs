//! Where things are in the folder of the local engine.
//!
//! ```text
//! lock             held by the living supervisor (flock)
//! id               what marks the processes of this folder
//! socket           where it listens
//! journal          what must not be forgotten; see `journal.rs`
//! supervisor.log   what it has to say
//! tasks/<xx>/<id>/ one task: work/ (its working directory), stdout, stderr, end
//! trash/           what is being removed
//! ```

pub(super) use crate::task_folders::{FAN, TASKS, fan_folder, task_folder};

pub(super) const LOCK: &str = "lock";
pub(super) const ID: &str = "id";
pub(super) const SOCKET: &str = "socket";
pub(super) const JOURNAL: &str = "journal";
pub(super) const LOG: &str = "supervisor.log";
pub(super) const TRASH: &str = "trash";
