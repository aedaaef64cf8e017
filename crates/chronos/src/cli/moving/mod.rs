//! Moving in from an old Chronos, moving out again, and a look at both side by side.

pub(super) mod compare;
pub(super) mod definition;
pub(super) mod folder;
pub(super) mod import;
pub(super) mod leave;
mod names;
mod old;
mod plan;
mod tree;
mod watch;
