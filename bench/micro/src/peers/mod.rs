//! What the loop is measured against: the same work done by what an engineer would reach for first.
//!
//! A peer and our own code take turns on the same core, over frames that two sources with one seed make: what the machine
//! does to one it does to the other, and neither meets a frame that the other does not. Each set of peers has a process of
//! its own, as the loop's rows have. A peer that is not there says so in its row.

mod dpdk;
mod naive;
mod rings;

use crate::{Common, cycle, machine, median};
use clap::ValueEnum;
use serde_json::{Value, json};

/// What `peers` takes beside the rest.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Args {
    /// One set, in this process; without it all of them, each in a process of its own.
    #[arg(value_enum)]
    set: Option<Set>,
    /// Where the other end of the rings runs; without it on the first core that this process may use beside its own.
    #[arg(long)]
    second_core: Option<usize>,
}

/// Peers that are measured together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Set {
    /// The naive loop, crc to crc.
    NaiveCrc,
    /// The naive loop, tag to tag.
    NaiveTag,
    /// The naive loop, crc to crc, with a fast hash.
    NaiveFoldhash,
    /// The rings of crossbeam and rtrb.
    Rings,
    /// DPDK's hash table and meter.
    Dpdk,
}

impl Set {
    fn rows(self, common: &Common, second_core: Option<usize>) -> Vec<Value> {
        let (seed, rounds) = (common.seed, common.passes());
        match self {
            Self::NaiveCrc => naive::crc(seed, rounds),
            Self::NaiveTag => naive::tag(seed, rounds),
            Self::NaiveFoldhash => naive::foldhash(seed, rounds),
            Self::Rings => rings::rows(seed, rounds, second_core),
            Self::Dpdk => dpdk::rows(seed, rounds),
        }
    }

    /// The set in a process of its own.
    fn apart(self, common: &Common, second_core: Option<usize>) -> Result<Vec<Value>, String> {
        let name = self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        let mut words = vec![name.clone()];
        words.extend(second_core.map(|core| format!("--second-core={core}")));
        match cycle::child("peers", common, &words) {
            Ok(mut result) => match result["rows"].take() {
                Value::Array(rows) => Ok(rows),
                _ => Err(format!("the peers \"{name}\" gave no rows")),
            },
            // DPDK ends the process where it finds the machine wanting: no reason to lose all other figures.
            Err(error) if self == Self::Dpdk => Ok(vec![missing(dpdk::NAME, dpdk::WHAT, &error)]),
            Err(error) => Err(error),
        }
    }
}

/// Every set, each in a process of its own.
pub(crate) fn all(common: &Common, second_core: Option<usize>) -> Result<Vec<Value>, String> {
    let sets = Set::value_variants().iter().map(|set| set.apart(common, second_core));
    Ok(sets.collect::<Result<Vec<_>, _>>()?.concat())
}

/// Measures and prints. `second_core` is one that this process may use beside its own.
pub(crate) fn run(args: Args, second_core: Option<usize>, common: &Common) -> Result<(), String> {
    let second_core = args.second_core.or(second_core);
    let rows = match args.set {
        Some(set) => set.rows(common, second_core),
        None => all(common, second_core)?,
    };
    let machine = machine::describe();
    if common.json {
        let (seed, passes) = (common.seed, common.passes());
        println!("{}", json!({ "rows": rows, "seed": seed, "passes": passes, "machine": machine }));
        return Ok(());
    }
    println!("ns per message, the median of {} turns, seed {}", common.passes(), common.seed);
    machine::print(&machine);
    print(&rows);
    Ok(())
}

/// The rows, for a person, under what they did.
pub(crate) fn print(rows: &[Value]) {
    println!("\n{:<34}{:>8}{:>10}", "peer", "ns", "to ours");
    let mut before = "";
    for row in rows {
        let of = |key: &str| row[key].as_str().unwrap_or_default();
        if before != of("what") {
            before = of("what");
            println!("{before}:");
        }
        let figure = |key: &str, unit| row[key].as_f64().map_or("-".to_owned(), |value| format!("{value:.1}{unit}"));
        let (name, note) = (of("name"), of("note"));
        println!("{name:<34}{:>8}{:>10}  {note}", figure("ns_per_message", ""), figure("ratio_to_ours", "x"));
    }
}

/// What somebody, or we beside them, took for the work `what`: nanoseconds per message, and how many times ours that is.
fn row(name: &str, what: &str, ns: f64, ours: f64, note: &str) -> Value {
    json!({
        "name": name, "what": what, "ns_per_message": ns, "messages_per_second": (1e9 / ns).round(),
        "ratio_to_ours": ns / ours, "note": note,
    })
}

/// A row without a figure, and why there is none.
fn missing(name: &str, what: &str, note: &str) -> Value {
    json!({
        "name": name, "what": what, "ns_per_message": null, "messages_per_second": null, "ratio_to_ours": null,
        "note": note,
    })
}

/// Lets the contenders take turns, each giving ns per message of its turn, and returns the median of each. The first round
/// only warms up.
fn take_turns<const N: usize>(rounds: usize, mut contenders: [&mut dyn FnMut() -> f64; N]) -> [f64; N] {
    let mut figures: [Vec<f64>; N] = std::array::from_fn(|_| Vec::with_capacity(rounds));
    for round in 0..=rounds.max(1) {
        for (contender, figures) in contenders.iter_mut().zip(&mut figures) {
            let ns = contender();
            if round > 0 {
                figures.push(ns);
            }
        }
    }
    figures.map(median)
}

/// A turn: one pass that brings a contender's tables back into the caches after the other's turn, and one that counts.
fn turn(mut pass: impl FnMut() -> f64) -> f64 {
    pass();
    pass()
}
