//! What travels: job definitions as JSON, in the form of Chronos and losslessly, and what engines are told.
//!
//! Types of their own, converted at the edge: [`job::read`] and [`job::write`] are the door of job definitions,
//! [`task::spec`] the one to the engine. [`shape`] says what is wrong with a document, and where.

mod alerts;
mod classic;
pub mod container;
pub mod duration;
pub mod honour;
pub mod job;
pub mod outcome;
pub mod patch;
pub mod rate;
pub mod shape;
pub mod task;
pub mod twice;
pub mod unsaid;

pub use job::{Door, Reading};
pub use shape::Problem;
pub use task::spec as task_spec;
