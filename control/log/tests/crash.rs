//! A crash at every step: whatever was acknowledged is there afterwards, and nothing else poses as it.

#[path = "../examples/crash_points/enumerate.rs"]
mod enumerate;
mod support;

use enumerate::{Outcome, enumerate};

#[test]
fn no_crash_loses_what_was_acknowledged() {
    let mut outcome = Outcome::default();
    for seed in 0..8 {
        outcome.add(enumerate(seed, 60, 1));
    }
    let Outcome { points, acked_lost, false_verify, not_recovered } = outcome;
    assert_eq!((acked_lost, false_verify, not_recovered), (0, 0, 0), "of {points} points");
    assert!(points >= 10_000, "only {points} points");
}
