//! `cargo run --release -p tachyon-log --example crash_points -- [seeds] [records]`: enumerates crashes and prints what
//! came of them as one line of JSON; fails if anything that was promised is not there.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

mod enumerate;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|word| word.parse().expect("numbers: seeds, records"));
    let (seeds, records) = (numbers.next().unwrap_or(20), numbers.next().unwrap_or(60));
    let mut outcome = enumerate::Outcome::default();
    for seed in 0..seeds {
        outcome.add(enumerate::enumerate(seed, records, 1));
    }
    let enumerate::Outcome { points, acked_lost, false_verify, not_recovered } = outcome;
    println!(
        "{{\"points\":{points},\"acked_lost\":{acked_lost},\"false_verify\":{false_verify},\"not_recovered\":{not_recovered}}}"
    );
    if acked_lost + false_verify + not_recovered == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
