//! The scheduler through its widest pure boundary: events in, ledger and launches out.

mod joins;
mod laws;
mod runs;
mod slots;
mod world;
