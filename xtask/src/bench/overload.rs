//! `cargo xtask bench overload`: a node that is offered more than it can take loses nothing without saying so, and goes
//! on doing what it can. A neighbour on its core, to which it gives way, makes it slow enough for one publisher to be ten
//! times too much; nothing in the node is made smaller for it.

use super::{load, machine, print_end, target};
use crate::{
    Build,
    node::{self, Node, Start},
};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::process::{Child, Command, Stdio};

/// How long.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long load is offered each time, in seconds.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Prints one JSON object as the last line.
    #[arg(long)]
    json: bool,
}

/// How much the node gives way: 10 leaves it a tenth of a core that somebody else wants whole (weights 110 and 1024 of
/// the kernel's scheduler).
const NICE: u8 = 10;
/// What is offered, as a share of what the node takes.
const FACTORS: [f64; 4] = [0.5, 1.0, 2.0, 10.0];
/// How much of its best the node has to go on doing at ten times that: half, for what it refuses costs it too.
const GOODPUT_LEAST: f64 = 0.5;

/// A process that wants the node's core whole, until it is dropped.
struct Neighbour(Child);

impl Neighbour {
    fn start() -> Result<Self> {
        let child = Command::new("taskset")
            .args(["-c", &node::last_core().to_string(), "sh", "-c", "while :; do :; done"])
            .stdin(Stdio::null())
            .spawn();
        Ok(Self(child.context("cannot start taskset, which Debian's util-linux brings")?))
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended by itself, which is as good
        let _ = self.0.wait();
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    node::build(&[], args.json)?;
    let begun = machine();
    let node =
        Node::start(&Start { build: Build::Release, files: "bench", values: &[("idle", "wait")], nice: Some(NICE) })?;
    let neighbour = Neighbour::start()?;
    let capacity = number(&offer(args, &node, "max")?, "messages_per_second")?;
    let mut rows = Vec::new();
    for factor in FACTORS {
        let rate = format!("{:.0}", capacity * factor);
        if !args.json {
            println!("offering {factor} times {capacity:.0} messages/s");
        }
        rows.push(row(factor, capacity, args.seconds, &offer(args, &node, &rate)?)?);
    }
    drop(neighbour);
    node.stop()?;
    let best = rows.iter().filter_map(|row| row["goodput_per_second"].as_f64()).fold(0.0, f64::max);
    let mut targets = Vec::new();
    for row in &rows {
        let named = |what: &str| format!("{what} at {} times capacity", row["factor"]);
        targets.push(target(&named("unaccounted"), number(row, "unaccounted")?, 0.0, false));
        let factor = number(row, "factor")?;
        if factor >= 2.0 {
            let goodput = number(row, "goodput_per_second")? / best;
            targets.push(target(&named("goodput over the best"), goodput, GOODPUT_LEAST, true));
            let offered = number(row, "offered_over_capacity")?;
            targets.push(target(&named("really offered"), offered, factor * 0.9, true));
        }
    }
    let result = json!({ "capacity": capacity, "rows": rows, "targets": targets, "machine": begun });
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

fn offer(args: &Args, node: &Node, rate: &str) -> Result<Value> {
    let mut words = node.words();
    words.extend(["--rate", rate, "--seconds", &args.seconds.to_string()].map(Into::into));
    load(&words)
}

fn row(factor: f64, capacity: f64, seconds: f64, report: &Value) -> Result<Value> {
    Ok(json!({
        "factor": factor,
        "offered_over_capacity": number(report, "offered_messages")? / seconds / capacity,
        "offered_frames": report["offered_frames"],
        "goodput_per_second": report["messages_per_second"],
        "lost_before_us": report["lost_before_us"],
        "lost_after_us": report["lost_after_us"],
        "ledgers": report["ledgers"],
        "unaccounted": report["unaccounted"],
        "findings": report["findings"],
    }))
}

fn number(value: &Value, key: &str) -> Result<f64> {
    value[key].as_f64().with_context(|| format!("`{key}` is missing in {value}"))
}

fn print(result: &Value) {
    println!();
    println!(
        "{:>7} {:>10} {:>14} {:>14} {:>24} {:>12}",
        "factor", "offered ×", "goodput/s", "lost before", "source", "unaccounted"
    );
    for row in result["rows"].as_array().into_iter().flatten() {
        let before = &row["lost_before_us"];
        println!(
            "{:>7} {:>10.2} {:>14} {:>14} {:>24} {:>12}",
            row["factor"],
            row["offered_over_capacity"].as_f64().unwrap_or(f64::NAN),
            row["goodput_per_second"],
            before["frames"],
            before["source"].as_str().unwrap_or_default(),
            row["unaccounted"],
        );
        for finding in row["findings"].as_array().into_iter().flatten() {
            println!("        {}", finding.as_str().unwrap_or_default());
        }
    }
    print_end(result);
}
