//! The scheduler through its widest pure boundary: events in, ledger and launches out.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod alerts;
mod apply;
mod audit;
mod backfill;
mod editing;
mod given_up;
mod herd;
mod jitter;
mod joins;
mod launch_loop;
mod laws;
mod places;
mod receipts;
mod reruns;
mod restore;
mod runs;
mod slots;
mod staging;
mod world;
