//! The supervisor as a process of its own, for the tests of this crate.
fn main() {}
