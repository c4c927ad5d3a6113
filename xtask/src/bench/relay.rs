//! `cargo xtask bench relay`: one publisher and one subscriber, and in the node's place a node or a relay that only
//! receives and sends. All of them take turns, so that whatever else the machine does falls on all alike.

use super::{
    load, machine, median,
    middle::{Kind, Middle},
    print_end, target,
};
use crate::node;
use anyhow::{Result, bail};
use serde_json::{Value, json};

/// How long and how often.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Rounds; the figures are medians over them.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// How long load is offered each time, in seconds.
    #[arg(long, default_value_t = 2.5)]
    seconds: f64,
    /// Messages in each of the publisher's frames; 22 fill a packet.
    #[arg(long, default_value_t = 22)]
    messages_per_frame: u32,
    /// Prints one JSON object as the last line.
    #[arg(long)]
    json: bool,
}

const NODE_CRC: Kind = Kind::Node("crc");
const NODE_TAG: Kind = Kind::Node("tag");
const PLAIN: Kind = Kind::Relay("recvmmsg");
const GSO: Kind = Kind::Relay("gso");
/// The node's driver with nothing behind it.
const EMPTY: Kind = Kind::Relay("uring");
/// In the order of a round. The publisher's frames always carry tags.
const AT_SATURATION: [Kind; 5] = [NODE_CRC, NODE_TAG, PLAIN, GSO, EMPTY];
/// Those whose latency is compared.
const AT_TENTH: [Kind; 3] = [NODE_CRC, NODE_TAG, EMPTY];

/// One figure of one round.
struct Figure {
    kind: Kind,
    name: &'static str,
    value: f64,
}

/// All figures of all rounds.
#[derive(Default)]
struct Figures(Vec<Figure>);

impl Figures {
    fn add(&mut self, kind: Kind, name: &'static str, value: f64) {
        self.0.push(Figure { kind, name, value });
    }

    fn sum(&self, kind: Kind, name: &str) -> f64 {
        self.0.iter().filter(|figure| figure.kind == kind && figure.name == name).map(|figure| figure.value).sum()
    }

    fn median(&self, kind: Kind, name: &str) -> f64 {
        let figures = self.0.iter().filter(|figure| figure.kind == kind && figure.name == name);
        median(figures.map(|figure| figure.value).collect())
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    node::build(&["tachyon-peers"], args.json)?;
    let begun = machine();
    let mut figures = Figures::default();
    for round in 1..=args.rounds {
        for kind in AT_SATURATION {
            say(args, round, kind, "at saturation");
            saturate(args, kind, &mut figures)?;
        }
    }
    let tenth = figures.median(EMPTY, CARRIED) / 10.0;
    for round in 1..=args.rounds {
        for kind in AT_TENTH {
            say(args, round, kind, "at a tenth");
            wait_at_tenth(args, kind, tenth, &mut figures)?;
        }
    }
    let result = json!({
        "messages_per_frame": args.messages_per_frame,
        "rounds": args.rounds,
        "seconds": args.seconds,
        "tenth_messages_per_second": tenth.round(),
        "rows": AT_SATURATION.map(|kind| row(&figures, kind)),
        "targets": targets(&figures),
        "machine": begun,
    });
    if args.json {
        println!("{result}");
    } else {
        print(&result);
    }
    if result["targets"].as_array().into_iter().flatten().any(|target| target["reached"] != true) {
        bail!("a target was missed");
    }
    Ok(())
}

fn say(args: &Args, round: u32, kind: Kind, what: &str) {
    if !args.json {
        println!("round {round} of {}: {} {what}", args.rounds, kind.name());
    }
}

const PER_CPU_SECOND: &str = "messages_per_cpu_second";
/// What the subscriber got in each second.
const CARRIED: &str = "carried_per_second";
const UNACCOUNTED: &str = "unaccounted";
const RESIDENCE_P99: &str = "residence_p99_ns";

/// As much as the publisher can send; only what was forwarded counts, against the CPU time it took.
fn saturate(args: &Args, kind: Kind, figures: &mut Figures) -> Result<()> {
    let middle = Middle::start(kind, false)?;
    let before = middle.cpu_seconds()?;
    let report = offer(args, &middle, "max")?;
    note_unaccounted(kind, &report, figures);
    let cpu = middle.cpu_seconds()? - before;
    figures.add(kind, PER_CPU_SECOND, middle.stop(&report)? / cpu);
    let seconds = report["active_seconds"].as_f64().unwrap_or(f64::NAN);
    figures.add(kind, CARRIED, report["received_copies"].as_f64().unwrap_or(f64::NAN) / seconds);
    Ok(())
}

/// A tenth of what the empty relay carried, and how long it takes.
fn wait_at_tenth(args: &Args, kind: Kind, rate: f64, figures: &mut Figures) -> Result<()> {
    let middle = Middle::start(kind, true)?;
    let report = offer(args, &middle, &format!("{rate:.0}"))?;
    note_unaccounted(kind, &report, figures);
    middle.stop(&report)?;
    let ns = |key: &str, quantile: &str| report[key][quantile].as_f64().unwrap_or(f64::NAN);
    figures.add(kind, "p50_ns", ns("end_to_end_ns", "p50"));
    figures.add(kind, "p99_ns", ns("end_to_end_ns", "p99"));
    if let Kind::Node(_) = kind {
        figures.add(kind, RESIDENCE_P99, ns("residence_ns", "p99"));
    }
    Ok(())
}

/// A node counts, and must account for everything.
fn note_unaccounted(kind: Kind, report: &Value, figures: &mut Figures) {
    if let Some(count) = report["unaccounted"].as_f64() {
        figures.add(kind, UNACCOUNTED, count);
    }
}

fn offer(args: &Args, middle: &Middle, rate: &str) -> Result<Value> {
    let (seconds, messages) = (args.seconds.to_string(), args.messages_per_frame.to_string());
    let mut words = middle.words();
    words.extend(["--rate", rate, "--seconds", &seconds, "--messages-per-frame", &messages].map(Into::into));
    load(&words)
}

fn row(figures: &Figures, kind: Kind) -> Value {
    let figure = |name: &str| json!(figures.median(kind, name));
    let each = figures.median(kind, PER_CPU_SECOND);
    json!({
        "mode": kind.name(),
        PER_CPU_SECOND: each,
        "cpu_ns_per_message": 1e9 / each,
        "ratio_to_tachyond": each / figures.median(NODE_CRC, PER_CPU_SECOND),
        CARRIED: figure(CARRIED),
        "p50_ns": figure("p50_ns"),
        "p99_ns": figure("p99_ns"),
        RESIDENCE_P99: figure(RESIDENCE_P99),
    })
}

/// What issue and design ask of the node, for both kinds of egress.
fn targets(figures: &Figures) -> Vec<Value> {
    let of = |kind, name: &str| figures.median(kind, name);
    let mut targets = Vec::new();
    for kind in [NODE_CRC, NODE_TAG] {
        let name = kind.name();
        for (other, limit) in [(PLAIN, 3.0), (GSO, 1.0)] {
            let ratio = of(kind, PER_CPU_SECOND) / of(other, PER_CPU_SECOND);
            let what = format!("{name}: messages per CPU-second over {}", other.name());
            targets.push(target(&what, ratio, limit, true));
        }
        for quantile in ["p50_ns", "p99_ns"] {
            let ratio = of(kind, quantile) / of(EMPTY, quantile);
            targets.push(target(&format!("{name}: {quantile} over the empty relay's"), ratio, 1.5, false));
        }
        targets.push(target(&format!("{name}: unaccounted, all rounds"), figures.sum(kind, UNACCOUNTED), 0.0, false));
        targets.push(target(&format!("{name}: {RESIDENCE_P99}"), of(kind, RESIDENCE_P99), 10_000.0, false));
    }
    targets
}

fn print(result: &Value) {
    println!();
    println!(
        "{:<24} {:>16} {:>10} {:>8} {:>14} {:>10} {:>10} {:>14}",
        "", "messages/CPU-s", "ns/message", "ratio", "carried/s", "P50 µs", "P99 µs", "residence P99"
    );
    for row in result["rows"].as_array().into_iter().flatten() {
        let cell = |key: &str, scale: f64, digits: usize| match row[key].as_f64() {
            Some(value) => format!("{:.digits$}", value * scale),
            None => "-".to_owned(),
        };
        println!(
            "{:<24} {:>14} M {:>10} {:>8} {:>12} M {:>10} {:>10} {:>14}",
            row["mode"].as_str().unwrap_or_default(),
            cell(PER_CPU_SECOND, 1e-6, 2),
            cell("cpu_ns_per_message", 1.0, 1),
            cell("ratio_to_tachyond", 1.0, 2),
            cell(CARRIED, 1e-6, 2),
            cell("p50_ns", 1e-3, 1),
            cell("p99_ns", 1e-3, 1),
            cell(RESIDENCE_P99, 1e-3, 1),
        );
    }
    print_end(result);
}
