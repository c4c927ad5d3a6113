//! `cargo xtask bench log`: what the truth log costs a worker, what writing it takes beside plain writes, and how many durable
//! messages a node acknowledges beside NATS JetStream on the same disk.

use super::{finish, load, machine, median, micro, target};
use crate::{
    Build, cargo, install,
    node::{self, Node, Start},
};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

/// How much of it, and where.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Rounds in which all take turns; figures are medians over them.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// A folder on the disk that is measured; some gigabytes are written there and removed.
    #[arg(long, default_value = "target/bench/log")]
    folder: PathBuf,
    /// Seconds that each writes.
    #[arg(long, default_value_t = 3)]
    seconds: u32,
    /// Prints one JSON object as the last line.
    #[arg(long)]
    json: bool,
}

/// What the log may cost a message of a logged topic, ns.
const COST_MAX_NS: f64 = 4.0;
/// What appending has to reach of what others write to the same disk.
const APPEND_MIN: f64 = 0.8;

/// Durable messages a second over JetStream's, published one by one and so at their safest, and batched with its defaults.
const STRICT_MIN: f64 = 20.0;
const BATCHED_MIN: f64 = 5.0;
/// More than any disk here takes, so that what is acknowledged is what the disk lets through.
const OFFERED: &str = "2M";

pub(crate) fn run(args: &Args) -> Result<()> {
    micro::build()?;
    node::build(&[], args.json)?;
    let begun = machine();
    let cost = cost(args)?;
    let append = append(args)?;
    let logged = cost["rows"][1]["extra_ns"].as_f64().unwrap_or(f64::NAN);
    let appended = append[0]["ratio"].as_f64().unwrap_or(f64::NAN);
    let durable = durable(args)?;
    let over = |name: &str| durable[name].as_f64().unwrap_or(f64::NAN);
    let targets = json!([
        target("logged messages: ns more each", logged, COST_MAX_NS, false),
        target("appending over plain writes", appended, APPEND_MIN, true),
        target("durable messages over JetStream, one by one", over("over_one_by_one"), STRICT_MIN, true),
        target("durable messages over JetStream, batched", over("over_batched"), BATCHED_MIN, true),
    ]);
    let result = json!({"rounds": args.rounds, "loop": cost, "append": append, "durable": durable, "targets": targets, "machine": begun});
    finish(args.json, &result)
}

/// The loop with a log that has everything at once, beside the loop without one. Each row is a process of its own, and they
/// take turns: a median of differences within one round, not a difference of two medians.
fn cost(args: &Args) -> Result<Value> {
    const KINDS: [&str; 4] = ["none", "stubs", "logged", "durable"];
    let mut figures = [(); KINDS.len()].map(|()| Vec::new());
    for round in 1..=args.rounds {
        for (kind, figures) in KINDS.iter().zip(&mut figures) {
            if !args.json {
                println!("round {round} of {}: the loop, {kind}", args.rounds);
            }
            let output = Command::new(Build::Release.program("tachyon-micro"))
                .args(["row", "--json", "--durability", kind])
                .stderr(Stdio::inherit())
                .output()
                .context("cannot start tachyon-micro")?;
            let row: Value = serde_json::from_slice(&output.stdout).context("tachyon-micro's row")?;
            figures.push(row["ns_per_message"].as_f64().context("ns_per_message")?);
        }
    }
    let base = figures[0].clone();
    let rows: Vec<Value> = KINDS[1..]
        .iter()
        .zip(&figures[1..])
        .map(|(kind, figures)| {
            let extra = figures.iter().zip(&base).map(|(with, without)| with - without).collect();
            json!({"durability": kind, "ns_per_message": median(figures.clone()), "extra_ns": median(extra)})
        })
        .collect();
    Ok(json!({"without_ns": median(base), "rows": rows}))
}

/// Appending beside plain writes of the same size, and beside fio where it is installed.
fn append(args: &Args) -> Result<Vec<Value>> {
    fs::create_dir_all(&args.folder)?;
    let words = ["run", "--release", "--locked", "--quiet", "-p", "tachyon-log", "--example", "append_rate", "--"];
    let output = cargo(&words)
        .arg(&args.folder)
        .args([args.seconds.to_string(), args.rounds.to_string()])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start append_rate")?;
    let text = String::from_utf8(output.stdout)?;
    serde_json::from_str(&text).with_context(|| format!("append_rate said: {text}"))
}

/// A node with durable topics and JetStream take turns on one disk; messages have 64 bytes in both.
fn durable(args: &Args) -> Result<Value> {
    if !install::has_nats() {
        println!("JetStream: left out, nats-server is not installed (`apt-get install nats-server`)");
        return Ok(Value::Null);
    }
    crate::run(&mut cargo(&["build", "--release", "--locked", "--quiet", "-p", "tachyon-bench-nats"]))?;
    let (mut ours, mut one_by_one, mut batched, mut rows) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 1..=args.rounds {
        if !args.json {
            println!("round {round} of {}: durable messages", args.rounds);
        }
        ours.push(acknowledged(args)?);
        let output = Command::new(Build::Release.program("tachyon-nats-bench"))
            .arg(&args.folder)
            .args(["--seconds", &args.seconds.to_string()])
            .stderr(Stdio::inherit())
            .output()
            .context("cannot start tachyon-nats-bench")?;
        for line in String::from_utf8(output.stdout)?.lines() {
            let row: Value = serde_json::from_str(line).with_context(|| format!("tachyon-nats-bench said: {line}"))?;
            let rate = row["acknowledged_per_second"].as_f64().unwrap_or(f64::NAN);
            match (row["message_bytes"].as_u64(), row["publishing"].as_str()) {
                (Some(64), Some("one by one")) => one_by_one.push(rate),
                (Some(64), Some("batched")) if row["sync"] == "default" => batched.push(rate),
                _ => {}
            }
            rows.push(row);
        }
    }
    let (ours, one_by_one, batched) = (median(ours), median(one_by_one), median(batched));
    Ok(json!({
        "durable_per_second": ours,
        "jetstream_one_by_one_per_second": one_by_one, "over_one_by_one": ours / one_by_one,
        "jetstream_batched_per_second": batched, "over_batched": ours / batched,
        "jetstream": rows,
    }))
}

/// Durable messages that a node forwards in a second, which it does only once they are on stable storage, with more offered than
/// the disk takes. Fails if one is not accounted for.
fn acknowledged(args: &Args) -> Result<f64> {
    let log = std::env::current_dir()?.join(&args.folder).join("truth");
    let _ = fs::remove_dir_all(&log);
    fs::create_dir_all(&log)?;
    let values =
        [("log", &*log.to_string_lossy()), ("durability", "durable")].map(|(name, value)| (name, value.to_owned()));
    let values = values.each_ref().map(|(name, value)| (*name, value.as_str()));
    let node = Node::start(&Start { build: Build::Release, files: "log", values: &values, nice: None })?;
    let words =
        [node.words(), ["--rate", OFFERED, "--seconds"].map(str::to_owned).to_vec(), vec![args.seconds.to_string()]];
    let report = load(&words.concat())?;
    node.stop()?;
    fs::remove_dir_all(&log)?;
    if report["unaccounted"] != 0 {
        bail!("of the durable messages {} are not accounted for", report["unaccounted"]);
    }
    let number = |name: &str| report[name].as_f64().with_context(|| format!("tachyon-load reports no {name}"));
    // What was offered last is forwarded after the load has ended.
    let drained = report["end_to_end_ns"]["max"].as_f64().unwrap_or(f64::NAN) / 1e9;
    Ok(number("received_copies")? / (number("active_seconds")? + drained))
}
