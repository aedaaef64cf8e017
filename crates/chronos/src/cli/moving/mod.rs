//! Moving in from an old Chronos, moving out again, and a look at both side by side.

pub(super) mod compare;
pub(super) mod definition;
pub(super) mod folder;
pub(super) mod given;
pub(super) mod handover;
pub(super) mod import;
pub(super) mod inherit;
pub(super) mod leave;
mod names;
mod old;
mod plan;
pub(super) mod settle;
mod tree;
mod watch;
