//! Decides when a job is due and what happens next. Does nothing else.
//!
//! Time comes in as an argument; changes to keep and effects to release go out as data. There is
//! no clock, I/O, thread or randomness here: one seed replays a month of cluster life.

pub mod ids;
pub mod job;
pub mod request;
pub mod run;
pub mod schedule;
pub mod state;
