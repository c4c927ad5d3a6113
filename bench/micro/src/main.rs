//! The budget table: what each stage of the loop costs per message, beside what the design allows.
//!
//! Every figure is the median of several passes over the same generated input, on one core. Stages that stand alone are
//! measured alone; batching is what the whole loop costs beyond them. It makes no claim about a network: that is what the
//! load generator measures.
#![deny(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the table is its output")]

#[expect(unsafe_code, reason = "an allocator cannot be counted otherwise")]
mod allocations;
mod input;
mod replay;
mod stages;
mod whole;

use clap::Parser;
use serde_json::{Value, json};

#[global_allocator]
static COUNTING: allocations::Counting = allocations::Counting;

/// Prints the budget table.
#[derive(Parser)]
struct Args {
    /// One JSON object instead of the table.
    #[arg(long)]
    json: bool,
    /// Passes per figure; the median is shown.
    #[arg(long, default_value_t = 9)]
    passes: usize,
    /// Seed of topics, senders and sessions.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// One row: the stage, its budget in the first specification, the two targets, and which figure of a column it shows.
const ROWS: &[(&str, Option<f64>, f64, f64, &str)] = &[
    ("receive", Some(10.0), 0.5, 0.5, "receive"),
    ("frame checks, crc32c", None, 2.5, 2.5, "checks_crc"),
    ("frame checks, tag", None, 5.0, 5.0, "checks_tag"),
    ("govern", Some(25.0), 3.0, 18.0, "govern"),
    ("batch and copy out", Some(20.0), 3.0, 5.0, "batch"),
    ("egress header, crc32c", None, 1.0, 1.0, "seal_crc"),
    ("egress header, tag", None, 5.5, 5.5, "seal_tag"),
    ("ledgers, histograms", None, 0.5, 0.5, "ledgers"),
    ("dispatch (one empty turn)", Some(11.0), 0.5, 0.5, "dispatch"),
    ("crc -> crc", Some(66.0), 10.0, 30.0, "crc_crc"),
    ("tag -> crc", None, 14.0, 34.0, "tag_crc"),
    ("tag -> tag", None, 20.0, 40.0, "tag_tag"),
];

fn main() {
    let args = Args::parse();
    let columns = [65_536, 1_000_000].map(|topics| column(topics, &args));
    let allocations: u64 = columns.iter().map(|column| column["allocations"].as_u64().unwrap_or(u64::MAX)).sum();
    if args.json {
        let rows: Vec<Value> = ROWS
            .iter()
            .map(|(stage, first, near, far, key)| {
                json!({"stage": stage, "first_specification_ns": first, "target_64k_ns": near, "target_1m_ns": far,
                       "measured_64k_ns": columns[0][key], "measured_1m_ns": columns[1][key]})
            })
            .collect();
        println!(
            "{}",
            json!({"rows": rows, "allocations": allocations, "seed": args.seed, "passes": args.passes, "cpu": cpu()})
        );
        return;
    }
    println!(
        "ns per message on one core of {}: 22 messages a frame, 256 sessions, 16 destinations, seed {}",
        cpu(),
        args.seed
    );
    println!(
        "{:<28}{:>10}{:>12}{:>12}{:>12}{:>12}",
        "stage", "first spec", "target 64k", "measured", "target 1M", "measured"
    );
    for (stage, first, near, far, key) in ROWS {
        let first = first.map_or("-".to_owned(), |ns| format!("{ns:.0}"));
        let measured = |column: &Value| format!("{:.1}", column[key].as_f64().unwrap_or(f64::NAN));
        println!("{stage:<28}{first:>10}{near:>12}{:>12}{far:>12}{:>12}", measured(&columns[0]), measured(&columns[1]));
    }
    println!("allocations in the loop: {allocations}");
}

/// All figures at one number of topics.
fn column(topics: u32, args: &Args) -> Value {
    let alone = stages::measure(topics, args.seed, args.passes);
    let whole = |tagged_in, tagged_out, routed| {
        whole::measure(topics, args.seed, args.passes, whole::Case { tagged_in, tagged_out, routed })
    };
    let (unrouted, crc_crc) = (whole(false, false, false), whole(false, false, true));
    let (tag_crc, tag_tag) = (whole(true, false, true), whole(true, true, true));
    json!({
        "receive": alone.receive, "checks_crc": alone.checks_crc, "checks_tag": alone.checks_tag, "govern": alone.govern,
        "batch": (crc_crc.ns - unrouted.ns - alone.seal_crc).max(0.0),
        "seal_crc": alone.seal_crc, "seal_tag": alone.seal_tag, "ledgers": alone.ledgers, "dispatch": alone.dispatch,
        "crc_crc": crc_crc.ns, "tag_crc": tag_crc.ns, "tag_tag": tag_tag.ns,
        "allocations": unrouted.allocations + crc_crc.allocations + tag_crc.allocations + tag_tag.allocations,
    })
}

/// The model name that the kernel tells.
fn cpu() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or_else(|| "an unknown CPU".to_owned(), |(_, name)| name.to_owned())
}

/// The median of some figures.
fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
