//! Decides when a job is due and what happens next. Does nothing else.
#![warn(missing_docs)]

pub mod schedule;
