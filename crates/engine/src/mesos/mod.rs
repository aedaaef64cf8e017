//! Tasks on a Mesos cluster.

pub mod constraints;
pub mod matching;
pub mod misfit;
pub mod place;
pub mod resources;
pub mod task_info;
