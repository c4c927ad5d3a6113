//! `cargo xtask bench log`: what the truth log costs a worker, and what writing it takes beside plain writes.

use super::{machine, median, micro, print_end, target};
use crate::{built, cargo};
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

pub(crate) fn run(args: &Args) -> Result<()> {
    micro::build()?;
    let begun = machine();
    let cost = cost(args)?;
    let append = append(args)?;
    let logged = cost["rows"][1]["extra_ns"].as_f64().unwrap_or(f64::NAN);
    let appended = append[0]["ratio"].as_f64().unwrap_or(f64::NAN);
    let targets = json!([
        target("logged messages: ns more each", logged, COST_MAX_NS, false),
        target("appending over plain writes", appended, APPEND_MIN, true),
    ]);
    let result = json!({"rounds": args.rounds, "loop": cost, "append": append, "targets": targets, "machine": begun});
    if args.json {
        println!("{result}");
    } else {
        println!("{}", serde_json::to_string_pretty(&result)?);
        print_end(&result);
    }
    if targets.as_array().into_iter().flatten().any(|target| target["reached"] != true) {
        bail!("a target was missed");
    }
    Ok(())
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
            let output = Command::new(built("tachyon-micro"))
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
