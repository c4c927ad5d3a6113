//! `cargo xtask crash`: everything that the truth log promises for when something dies, one number for each kind of failure.
//!
//! Three ways, from the most exact to the most real: every boundary between two things that the writer does to its disk, cut
//! there, with torn and reordered writes, in a disk of our own with a seed; every bit of a log flipped; and real
//! processes, killed while they write to a real folder.

use crate::{Build, cargo, run};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::{
    env, fs,
    process::{Command, Stdio},
    time::Instant,
};

/// How much of it.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Processes that are killed with SIGKILL.
    #[arg(long, default_value_t = 300)]
    kills: u32,
    /// Seeds of the disk with faults; each gives some 600 points at which it is cut.
    #[arg(long, default_value_t = 20)]
    seeds: u32,
    /// Messages that are recorded and replayed.
    #[arg(long, default_value_t = 1_000_000)]
    replayed: u64,
    /// Leaves out flipping every bit of a log of 1 MiB, which takes some five minutes.
    #[arg(long)]
    no_bits: bool,
    /// Prints one JSON object as the last line.
    #[arg(long)]
    json: bool,
}

/// Bits of the log that is damaged bit by bit: 16 segments of 64 KiB at least.
const BITS: u64 = 8 << 20;

pub(crate) fn run_all(args: &Args) -> Result<()> {
    let begun = Instant::now();
    say(args, "cutting the writer at every boundary");
    let points = points(args)?;
    say(args, &format!("killing {} writers", args.kills));
    test(args, "kill", &[("TACHYON_LOG_KILLS", args.kills.to_string())])?;
    if !args.no_bits {
        say(args, "flipping every bit of a log");
        test(args, "damage", &[])?;
    }
    say(args, &format!("replaying {} messages", args.replayed));
    let replay_mismatch = replay(args)?;
    let count = |name: &str| points[name].as_u64().unwrap_or(u64::MAX);
    let result = json!({
        "points": count("points"),
        "kills": args.kills,
        "acked_lost": count("acked_lost"),
        "false_verify": count("false_verify"),
        "not_recovered": count("not_recovered"),
        "replay_mismatch": replay_mismatch,
        "replayed_messages": args.replayed,
        "flipped_bits": if args.no_bits { 0 } else { BITS },
        "seconds": begun.elapsed().as_secs(),
    });
    println!("{result}");
    for promise in ["acked_lost", "false_verify", "not_recovered", "replay_mismatch"] {
        ensure!(result[promise] == 0, "{promise} is {} and has to be 0", result[promise]);
    }
    Ok(())
}

fn say(args: &Args, what: &str) {
    if !args.json {
        println!("{what}");
    }
}

/// What the enumeration came to.
fn points(args: &Args) -> Result<Value> {
    /// Records of each run: enough for several segments, and for an old one to be removed.
    const RECORDS: &str = "60";
    let words = ["run", "--release", "--locked", "--quiet", "-p", "tachyon-log", "--example", "crash_points", "--"];
    let output = cargo(&words).arg(args.seeds.to_string()).arg(RECORDS).stderr(Stdio::inherit()).output()?;
    let text = String::from_utf8(output.stdout)?;
    serde_json::from_str(text.trim()).with_context(|| format!("crash_points said: {text}"))
}

/// A test of the log's own, in release; it fails if a promise is broken.
fn test(args: &Args, name: &str, environment: &[(&str, String)]) -> Result<()> {
    let mut command = cargo(&["test", "--release", "--locked", "--quiet", "-p", "tachyon-log", "--test", name]);
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    if args.json {
        command.stdout(Stdio::null());
    }
    run(&mut command)
}

/// Records some traffic and replays it; returns how many records came out otherwise.
fn replay(args: &Args) -> Result<u64> {
    run(&mut cargo(&["build", "--release", "--locked", "--quiet", "-p", "tachyon-sim"]))?;
    let folder = env::temp_dir().join(format!("tachyon-crash-{}", std::process::id()));
    let program = Build::Release.program("tachyon-replay");
    let (messages, directory) = (args.replayed.to_string(), folder.to_string_lossy().into_owned());
    let record = ["record", "--messages", &messages, "--seed", "1", "--directory", &directory];
    let outcome = (|| {
        run(Command::new(&program).args(record).stdout(Stdio::null()))?;
        let output = Command::new(&program).args(["run", "--directory", &directory, "--json"]).output()?;
        let report: Value = serde_json::from_slice(&output.stdout).context("tachyon-replay's report")?;
        report["mismatches"].as_u64().context("tachyon-replay's mismatches")
    })();
    let _ = fs::remove_dir_all(&folder);
    outcome
}
