//! Decides when a job is due and what happens next. Does nothing else.
//!
//! Time comes in as an argument; changes to keep and effects to release go out as data. There is
//! no clock, I/O, thread or randomness here: one seed replays a month of cluster life.
//! A [`Scheduler`] lives for one term of one leader: a deposed node drops it, the next loads anew.
//! Start at [`Scheduler::step`], then [`run::RunState`], then [`schedule`].
//! **Invariant:** depends on neither tokio nor serde, and never on `store`, `engine` or `chronos`.

mod afoot;
mod apply;
mod attempts;
mod backfilling;
mod book;
mod door;
mod given_up;
mod graph;
mod jitter;
mod joins;
mod launch_loop;
mod outbox;
mod post;
mod queue;
mod scheduler;
mod slots;
mod spawn;
mod staging;
mod watch;
mod weight;

pub mod audit;
pub mod backfill;
pub mod clock;
pub mod ids;
pub mod job;
pub mod limits;
pub mod moment;
pub mod notice;
pub mod receipt;
pub mod request;
pub mod restore;
pub mod revision;
pub mod run;
pub mod schedule;
pub mod state;

pub use apply::{SET_BATCH, SET_BYTES_MAX, SET_MAX};
pub use door::{HEIRS_MAX, WAITING_MAX};
pub use given_up::GivenUp;
pub use joins::JOINS_MAX;
pub use launch_loop::QuickFailures;
pub use post::{NOTICES_MAX, SETTLED_MAX};
pub use scheduler::{Effect, Event, Scheduler, Settings, Step, TaskNews};
