//! The benchmarks that need no network: `tachyon-micro`, built and run.

use super::flame;
use crate::{Build, cargo, root, run as run_command};
use anyhow::{Context, Result, bail};
use std::{
    fs,
    process::{Command, Stdio},
};

/// Passes of a profiled run: some seconds of it.
const PROFILED_PASSES: &str = "200";
/// Only what is below this function was measured; what prepares the input is not in the picture.
const MEASURED: &str = "whole::Loop::drain";

/// Builds `tachyon-micro` and runs one of its commands.
pub(crate) fn run(command: &str, words: &[String]) -> Result<()> {
    build()?;
    run_command(Command::new(Build::Release.program("tachyon-micro")).arg(command).args(words))
}

/// As a user would get it.
pub(crate) fn build() -> Result<()> {
    run_command(&mut cargo(&["build", "--release", "--locked", "--quiet", "-p", "tachyon-micro"]))
}

/// The whole loop, or with `--profile` a picture of where its base case spends its time.
pub(crate) fn run_loop(words: &[String]) -> Result<()> {
    let (profile, rest): (Vec<&String>, Vec<&String>) = words.iter().partition(|word| *word == "--profile");
    let rest: Vec<String> = rest.into_iter().cloned().collect();
    if profile.is_empty() { run("loop", &rest) } else { picture(&rest) }
}

/// Samples the base case, or the case that the words say, and draws the samples.
fn picture(words: &[String]) -> Result<()> {
    let json = words.iter().any(|word| word == "--json");
    let case: Vec<&String> = words.iter().filter(|word| *word != "--json" && *word != "--quick").collect();
    if Command::new("perf").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        bail!(
            "perf is not installed: `apt-get install linux-perf` (Debian) or linux-tools (Ubuntu), then run this again"
        );
    }
    build()?;
    let folder = root().join("target/bench");
    fs::create_dir_all(&folder)?;
    let samples = folder.join("loop.perf");
    let _ = fs::remove_file(&samples); // or perf would keep the one before as well
    // A clock and not cycles: it is what a virtual machine has. The loop's frame alone is some 10 KiB of stack.
    let status = Command::new("perf")
        .args(["record", "--quiet", "-e", "cpu-clock", "-F", "999", "--call-graph", "dwarf,32768", "-o"])
        .arg(&samples)
        .arg("--")
        .arg(Build::Release.program("tachyon-micro"))
        .args(["row", "--passes", PROFILED_PASSES])
        .args(&case)
        .stdout(Stdio::null())
        .status()
        .context("cannot start perf")?;
    if !status.success() {
        bail!(
            "perf record ended with {status}: as another user than root it needs `sysctl kernel.perf_event_paranoid=1`"
        );
    }
    let script =
        Command::new("perf").args(["script", "-F", "ip,sym", "-i"]).arg(&samples).stderr(Stdio::null()).output()?;
    let stacks = flame::Stacks::read(&String::from_utf8_lossy(&script.stdout), MEASURED);
    if stacks.samples() == 0 {
        bail!("perf took no sample inside the loop: `perf script -i {}` shows what it took", samples.display());
    }
    let title = format!("tachyon-micro row {}", case.into_iter().cloned().collect::<Vec<_>>().join(" "));
    let svg = folder.join("loop.svg");
    fs::write(&svg, stacks.svg(title.trim()))?;
    if json {
        println!(
            "{}",
            serde_json::json!({ "flame_graph": svg, "samples": stacks.samples(), "functions": stacks.leaves() })
        );
    } else {
        println!("{} samples of the loop in {}", stacks.samples(), svg.display());
        for (name, share) in stacks.leaves() {
            println!("{:>6.1} %  {name}", share * 100.0);
        }
    }
    Ok(())
}
