//! Seeds that have found something, and some that have not yet.

use simulator::{Profile, Trace, play};

/// Beside what CI plays in release.
const FRESH: u64 = 150;

#[test]
fn seeds_that_found_a_bug_stay_found() {
    let kept = include_str!("seeds.txt").lines().map(|line| line.split('#').next().unwrap_or("").trim());
    for line in kept.filter(|line| !line.is_empty()) {
        check(line.parse().unwrap());
    }
}

#[test]
fn promises_hold_in_every_history() {
    (0..FRESH).for_each(check);
}

#[test]
fn one_seed_is_one_history() {
    for seed in 0..10 {
        let (one, other) = (play(seed, Profile::Small, Trace::Off), play(seed, Profile::Small, Trace::Kept));
        assert_eq!(one.hash, other.hash, "seed {seed} is not deterministic, or its trace has a part in it");
    }
}

#[track_caller]
fn check(seed: u64) {
    if let Some(violation) = play(seed, Profile::Small, Trace::Off).violation {
        panic!("{violation}\nreplay: cargo run --release -p simulator -- --seed {seed}");
    }
}
