//! Instructions per message, counted by callgrind, against the checked-in baseline: the one cost that a busy machine cannot
//! blur, so that a test can hold the loop to it.

use super::micro;
use crate::{Build, root};
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

/// More than this times the baseline is a fault.
const ALLOWED: f64 = 1.05;
/// Rounds of the two runs of a case: set-up and input are the same in both, so their difference is the loop alone.
const ROUNDS: [u64; 2] = [4, 20];
/// What is counted: a name, and the words that make the case. On the scalar path, and once on the best that valgrind has,
/// which is AVX2: it knows no AVX-512.
const CASES: &[(&str, &[&str])] = &[
    ("crc_crc", SCALAR),
    ("tag_tag", &["--instructions", "scalar", "--ingress", "tag", "--egress", "tag"]),
    ("single_message_tag_crc", &["--instructions", "scalar", "--ingress", "tag", "--messages", "1"]),
    ("fan_out_16", &["--instructions", "scalar", "--fan-out", "16"]),
    ("crc_crc_avx2", &["--instructions", "avx2"]),
];
const SCALAR: &[&str] = &["--instructions", "scalar"];

/// What to do with what was counted.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Makes what is counted now the baseline.
    #[arg(long)]
    update: bool,
    /// Prints the result as one JSON object.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if !installed() {
        bail!("valgrind is not installed: `apt-get install valgrind`, then run this again");
    }
    micro::build()?;
    let counted = count()?;
    if args.update {
        fs::write(baseline_path(), format!("{:#}\n", counted))?;
    }
    let (report, faults) = judge(&counted, &baseline()?);
    if args.json {
        println!(
            "{}",
            json!({ "cases": report, "machine": counted["machine"], "compared": !report.is_empty(), "reached": faults.is_empty() })
        );
    } else {
        print(&report);
    }
    if faults.is_empty() { Ok(()) } else { bail!("{}", faults.join("\n")) }
}

/// The comparison as a test: skipped, and said so, where valgrind is not installed.
pub(crate) fn compare() -> Result<()> {
    if !installed() {
        println!("instruction counts: skipped, valgrind is not installed (`apt-get install valgrind`)");
        return Ok(());
    }
    run(&Args { update: false, json: false })
}

fn installed() -> bool {
    Command::new("valgrind").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

fn baseline_path() -> PathBuf {
    root().join("bench/micro/instructions.json")
}

fn baseline() -> Result<Value> {
    let path = baseline_path();
    let text = fs::read_to_string(&path).with_context(|| {
        format!("no baseline at {}: make one with `cargo xtask bench instructions --update`", path.display())
    })?;
    serde_json::from_str(&text).with_context(|| format!("{} is no JSON: make it anew with --update", path.display()))
}

/// Counts every case.
fn count() -> Result<Value> {
    let mut cases = Map::new();
    let mut features = Value::Null;
    for (name, words) in CASES {
        let [short, long] = ROUNDS.map(|rounds| one(words, rounds));
        let ((less, few, _), (more, many, seen)) = (short?, long?);
        let per_message = (more - less) as f64 / (many - few) as f64;
        cases.insert((*name).to_owned(), ((per_message * 100.0).round() / 100.0).into());
        features = seen;
    }
    Ok(json!({ "instructions_per_message": cases, "machine": features }))
}

/// One run: instructions, messages, and the instruction sets that the program saw.
fn one(words: &[&str], rounds: u64) -> Result<(u64, u64, Value)> {
    let folder = root().join("target/bench");
    fs::create_dir_all(&folder)?;
    let counts = folder.join("instructions.callgrind");
    let output = Command::new("valgrind")
        .args(["--quiet", "--tool=callgrind"])
        .arg(format!("--callgrind-out-file={}", counts.display()))
        .arg(Build::Release.program("tachyon-micro"))
        .args(["instructions", "--rounds", &rounds.to_string()])
        .args(words)
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        bail!("tachyon-micro under valgrind ended with {}: run `tachyon-micro instructions` to see why", output.status);
    }
    let said: Value = serde_json::from_slice(&output.stdout).context("tachyon-micro prints one JSON object")?;
    let text = fs::read_to_string(&counts)?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals:").or_else(|| line.strip_prefix("summary:")));
    let total = total.and_then(|total| total.trim().parse().ok()).context("callgrind wrote no total")?;
    Ok((total, said["messages"].as_u64().context("it says how many messages it moved")?, said["machine"].clone()))
}

/// What was counted beside the baseline, and what is too much.
fn judge(counted: &Value, baseline: &Value) -> (Vec<Value>, Vec<String>) {
    let (mut report, mut faults) = (Vec::new(), Vec::new());
    if counted["machine"] != baseline["machine"] {
        // Other instruction sets are other code paths of the libraries, so the counts say nothing about ours.
        println!(
            "instruction counts: not compared, the baseline was counted with {} and this machine has {}",
            baseline["machine"], counted["machine"]
        );
        return (report, faults);
    }
    for (name, count) in counted["instructions_per_message"].as_object().into_iter().flatten() {
        let count = count.as_f64().unwrap_or(f64::INFINITY);
        let Some(before) = baseline["instructions_per_message"][name].as_f64() else {
            faults.push(format!("{name} has no baseline: `cargo xtask bench instructions --update` makes one"));
            continue;
        };
        let ratio = count / before;
        report.push(json!({ "case": name, "instructions_per_message": count, "baseline": before, "ratio": ratio }));
        if ratio > ALLOWED {
            faults.push(format!(
                "{name}: {count:.1} instructions per message, {:.1} % more than the baseline of {before:.1}. If that is meant, say \
                 why in the commit and run `cargo xtask bench instructions --update`",
                (ratio - 1.0) * 100.0
            ));
        }
    }
    (report, faults)
}

fn print(report: &[Value]) {
    println!("{:<28}{:>14}{:>12}{:>10}", "instructions per message", "now", "baseline", "ratio");
    for row in report {
        let number = |key: &str| row[key].as_f64().unwrap_or(f64::NAN);
        let name = row["case"].as_str().unwrap_or_default();
        println!(
            "{name:<28}{:>14.2}{:>12.2}{:>10.3}",
            number("instructions_per_message"),
            number("baseline"),
            number("ratio")
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_five_percent_is_a_fault() {
        let counts = |count: f64| json!({ "instructions_per_message": { "crc_crc": count }, "machine": "m" });
        assert!(judge(&counts(104.9), &counts(100.0)).1.is_empty());
        assert_eq!(judge(&counts(105.1), &counts(100.0)).1.len(), 1);
        assert!(judge(&counts(50.0), &counts(100.0)).1.is_empty());
        let none = json!({ "instructions_per_message": {}, "machine": "m" });
        assert_eq!(judge(&counts(1.0), &none).1.len(), 1);
    }
}
