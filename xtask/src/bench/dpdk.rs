//! `cargo xtask bench dpdk`: builds the benchmark of the DPDK driver and runs it.

use crate::{Build, cargo, install, run as run_command};
use anyhow::{Result, bail};
use std::process::Command;

/// Frames of the soak that every full test run does: some twenty seconds of 220 million messages.
const SOAK_FRAMES: &str = "10000000";

pub(crate) fn run(words: &[String]) -> Result<()> {
    build()?;
    run_command(Command::new(Build::Release.program(PROGRAM)).args(words))
}

const PROGRAM: &str = "tachyon-dpdk-bench";

fn build() -> Result<()> {
    if !install::has_dpdk() {
        bail!("libdpdk is not installed: apt-get install libdpdk-dev libclang-dev, and dpdk-dev for testpmd");
    }
    run_command(&mut cargo(&["build", "--release", "--locked", "--quiet", "-p", "tachyon-bench-dpdk"]))
}

/// Sends millions of frames through a governed worker over DPDK and fails if a message, a buffer or a descriptor is missing.
pub(crate) fn soak() -> Result<()> {
    if !install::has_dpdk() {
        println!("not soaked: DPDK (apt-get install libdpdk-dev libclang-dev)");
        return Ok(());
    }
    build()?;
    run_command(Command::new(Build::Release.program(PROGRAM)).args(["--soak", SOAK_FRAMES]))
}
