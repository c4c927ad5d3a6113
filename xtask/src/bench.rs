//! `cargo xtask bench`.

mod disk;
mod dpdk;
mod flame;
mod instructions;
mod log;
mod micro;
mod middle;
mod overload;
mod relay;
mod xdp;

use crate::{Build, node};
use anyhow::{Context, Result, bail};
use clap::Subcommand;
use serde_json::{Value, json};
use std::{fs, process::Stdio};

pub(crate) use dpdk::soak as soak_dpdk;
pub(crate) use instructions::compare as compare_instructions;

/// What to measure.
#[derive(Subcommand)]
pub(crate) enum Bench {
    /// The budget table, stage by stage, ns per message.
    Micro(Words),
    /// The whole loop: topics, senders, sessions, frame sizes, proofs, working sets, fan-out. `--profile` draws a flame graph.
    Loop(Words),
    /// What others take for the same work; `loop` shows them too.
    Peers(Words),
    /// Ruleset swaps as a worker feels them, and what compiling costs.
    Swap(Words),
    /// Latency of the internal bus, publisher to subscriber, beside an empty relay.
    Bus(Words),
    /// One worker per core, on 1, 2, 4 … cores.
    Scale(Words),
    /// Instructions per message against the checked-in baseline; fails at 5 % more.
    Instructions(instructions::Args),
    /// A node beside relays that only receive and send: messages per CPU-second, and latency at a tenth of the load.
    Relay(relay::Args),
    /// The DPDK driver beside testpmd, with nothing to do, and with the governed loop behind it.
    Dpdk(Words),
    /// The pre-filter beside xdp-filter, what it costs, and XDP sockets beside io_uring, on veth pairs. Needs root.
    Xdp(Words),
    /// What the truth log costs a worker, and what writing it takes beside plain writes.
    Log(log::Args),
    /// A disk that stalls, is full or fails below the truth log: what it does to a node. Needs root.
    Disk(disk::Args),
    /// A node that is offered twice and ten times what it can take: what becomes of all of it.
    Overload(overload::Args),
}

/// What is passed on.
#[derive(clap::Args)]
pub(crate) struct Words {
    /// Passed on, such as `--json`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

pub(crate) fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Micro(words) => micro::run("table", &words.words),
        Bench::Loop(words) => micro::run_loop(&words.words),
        Bench::Peers(words) => micro::run("peers", &words.words),
        Bench::Swap(words) => micro::run("swap", &words.words),
        Bench::Bus(words) => micro::run("bus", &words.words),
        Bench::Scale(words) => micro::run("scale", &words.words),
        Bench::Instructions(args) => instructions::run(args),
        Bench::Relay(args) => relay::run(args),
        Bench::Dpdk(words) => dpdk::run(&words.words),
        Bench::Xdp(words) => xdp::run(&words.words),
        Bench::Log(args) => log::run(args),
        Bench::Disk(args) => disk::run(args),
        Bench::Overload(args) => overload::run(args),
    }
}

/// Runs the load generator to its end; returns its report, whether or not it adds up.
fn load(words: &[String]) -> Result<Value> {
    let output = node::load(Build::Release)
        .args(["--topics", "4096", "--sessions", "4", "--senders", "32"])
        .args(words)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start tachyon-load")?;
    let text = String::from_utf8(output.stdout)?;
    let last = text.lines().last().with_context(|| format!("tachyon-load ended with {}", output.status))?;
    serde_json::from_str(last).context("tachyon-load prints JSON lines")
}

/// What the figures were taken on; how busy it was with other things too.
fn machine() -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
    json!({
        "cpu": model.trim_start_matches([' ', '\t', ':']),
        "cores": node::cores(),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "load_average": read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" "),
    })
}

/// The middle of some figures; of two in the middle the lower one. Not a number if there are none.
fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

/// One thing that has to be reached.
fn target(name: &str, value: f64, limit: f64, at_least: bool) -> Value {
    let reached = if at_least { value >= limit } else { value <= limit };
    let relation = if at_least { "at least" } else { "at most" };
    json!({ "name": name, "value": value, "relation": relation, "limit": limit, "reached": reached })
}

/// Prints a result with its targets; fails if one was missed.
fn finish(as_json: bool, result: &Value) -> Result<()> {
    if as_json {
        println!("{result}");
    } else {
        println!("{}", serde_json::to_string_pretty(result)?);
        print_end(result);
    }
    if result["targets"].as_array().into_iter().flatten().any(|target| target["reached"] != true) {
        bail!("a target was missed");
    }
    Ok(())
}

/// The targets and the machine, for a person.
fn print_end(result: &Value) {
    println!();
    for target in result["targets"].as_array().into_iter().flatten() {
        let reached = if target["reached"] == true { "reached" } else { "MISSED" };
        let name = target["name"].as_str().unwrap_or_default();
        let value = target["value"].as_f64().unwrap_or(f64::NAN);
        let relation = target["relation"].as_str().unwrap_or_default();
        println!("{reached:<8} {name:<62} {value:>10.2}, {relation} {}", target["limit"]);
    }
    let machine = &result["machine"];
    let of = |key: &str| machine[key].as_str().unwrap_or_default().to_owned();
    println!("on {}, {} cores, Linux {}, load {}", of("cpu"), machine["cores"], of("kernel"), of("load_average"));
}
