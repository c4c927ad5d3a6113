//! `cargo xtask lab xdp`: builds the tests of the pre-filter and of the XDP driver, and has them run on another kernel.

use crate::{cargo, install, root, target};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use tachyon_lab::xdp::{DRIVER_TESTS, LOADER_TESTS, Programs};

pub(super) fn run(folder: &Path, kernel: &str) -> Result<Value> {
    if !install::has_bpf() || !install::is_there(&["ethtool", "--version"]) {
        bail!("the pre-filter and its tests need more: apt-get install clang libbpf-dev ethtool");
    }
    let programs = build()?;
    let mut result = tachyon_lab::xdp::run(folder, kernel, &programs)?;
    // The third kernel of the list is the one that this runs on, if it may be asked.
    result["here"] = here(&programs.prefilter).unwrap_or_default();
    Ok(result)
}

/// Builds the test programs, of which cargo says where they lie, and the example.
fn build() -> Result<Programs> {
    let example = ["build", "--quiet", "--locked", "--package", "tachyon-loader", "--example", "prefilter"];
    crate::run(&mut cargo(&example))?;
    let words = ["test", "--quiet", "--locked", "--no-run", "--message-format", "json"];
    let packages = ["--package", "tachyon-loader", "--package", "tachyon-driver-afxdp"];
    let mut command = cargo(&[&words[..], &packages].concat());
    command.args(LOADER_TESTS.into_iter().chain(DRIVER_TESTS).flat_map(|name| ["--test", name]));
    let output = command.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    ensure!(output.status.success(), "{command:?} ended with {}", output.status);
    let mut tests = Vec::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let message: Value = serde_json::from_str(line).context("cargo speaks JSON")?;
        let name = message["target"]["name"].as_str().unwrap_or_default();
        if let Some(path) = message["executable"].as_str() {
            tests.push((name.to_owned(), PathBuf::from(path)));
        }
    }
    let prefilter = target().join("debug/examples/prefilter");
    Ok(Programs { prefilter, tests, vectors: root().join("spec/vectors") })
}

/// What this machine's own verifier says; it speaks to root alone.
fn here(prefilter: &Path) -> Option<Value> {
    let output = Command::new(prefilter).arg("verify").stderr(Stdio::null()).output().ok()?;
    serde_json::from_slice(&output.stdout).ok().filter(|_| output.status.success())
}

/// The result, for a person.
pub(super) fn print(result: &Value) {
    println!(
        "lab: the pre-filter and XDP sockets in a guest with Linux {}",
        result["kernel"].as_str().unwrap_or_default()
    );
    println!(
        "  on a veth: {} in its driver, {} in the kernel; the JIT is {}",
        result["native"].as_str().unwrap_or_default(),
        result["generic"].as_str().unwrap_or_default(),
        if result["jit"] == true { "on" } else { "off" }
    );
    println!("  kernel                     instructions  states  at once  an instruction's  stack  bytes, compiled");
    for counts in [&result["verifier"], &result["here"]] {
        if let Some(kernel) = counts["kernel"].as_str() {
            println!(
                "  {kernel:<26} {:>12}  {:>6}  {:>7}  {:>16}  {:>5}  {:>5}  {:>8}",
                counts["verified_instructions"],
                counts["states"],
                counts["states_peak"],
                counts["states_per_instruction_max"],
                counts["stack_bytes"].as_str().unwrap_or_default(),
                counts["translated_bytes"],
                counts["jited_bytes"]
            );
        }
    }
    for row in result["rows"].as_array().into_iter().flatten() {
        let seconds = row["seconds"].as_f64().unwrap_or(f64::NAN);
        println!(
            "  {:<14} {:>3} tests passed in {seconds:6.1} s",
            row["name"].as_str().unwrap_or_default(),
            row["passed"]
        );
        for why in row["left_out"].as_array().into_iter().flatten() {
            println!("    {}", why.as_str().unwrap_or_default());
        }
    }
    let seconds = |key: &str| result[key].as_f64().unwrap_or(f64::NAN);
    println!("  booted in {:.1} s, done after {:.1} s", seconds("boot_s"), seconds("wall_s"));
}
