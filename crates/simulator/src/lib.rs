//! A seed becomes a cluster: two nodes with the real scheduler over a model store and a model engine, with users, faults
//! and clocks that are wrong; then everything heals, and progress is demanded. Checkers watch over the promises.
//!
//! Start at [`play`]; then `cluster`, which is the world, `node`, which mirrors the product's driver, and `checkers`.
//! **Invariant:** deterministic. The same seed and profile give the same history, to the last event.

mod calendar;
mod checkers;
mod cluster;
mod model_engine;
mod model_store;
mod node;
mod random;
mod users;

/// How large a history is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Some minutes, some jobs: what CI plays by the thousand.
    Small,
    /// Up to an hour, up to fifty jobs.
    Big,
}

/// What came of a seed.
#[derive(Clone, Debug)]
pub struct Report {
    /// The first broken promise, if any.
    pub violation: Option<String>,
    /// The history, line by line, if it was asked for.
    pub trace: Vec<String>,
    /// Two histories with the same hash are the same.
    pub hash: u64,
    /// How much happened.
    pub events: u64,
    /// How many runs ended.
    pub runs: usize,
}

/// Whether the history is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    /// Line by line; slow.
    Kept,
    /// Only its hash is.
    Off,
}

/// Plays the history of a seed. A panic of the scheduler is a broken promise like any other.
pub fn play(seed: u64, profile: Profile, trace: Trace) -> Report {
    let played =
        std::panic::catch_unwind(|| cluster::Cluster::new(seed, profile, trace == Trace::Kept).play());
    played.unwrap_or_else(|panic| {
        let text =
            panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        let violation = Some(format!("promise 7, panic: {}", text.unwrap_or("without a message")));
        Report { violation, trace: Vec::new(), hash: 0, events: 0, runs: 0 }
    })
}
