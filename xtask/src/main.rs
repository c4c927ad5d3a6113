//! The project's own commands: `cargo xtask demo`, `test`, `tidy`, `bench`.
//!
//! Each runs what a person would otherwise type, and installs or names what is missing. Nothing of the product lives here.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "talking to the person at the terminal is its job")]

mod bench;
mod capture;
mod crash;
mod demo;
mod install;
mod lab;
mod node;
mod spec;
mod test;
mod tidy;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use std::{path::PathBuf, process::Command};

/// Tachyon's development commands.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Builds everything, runs a node on loopback under load and shows where every message went.
    Demo(demo::Args),
    /// Runs every test that needs no special hardware.
    Test(test::Args),
    /// Checks the house rules: layers, sizes of files, unsafe only in its islands, dead links.
    Tidy,
    /// Measures.
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Sends a capture file through a node that needs no network, and looks at what comes out.
    Capture(capture::Args),
    /// Runs a job in a virtual machine whose network cards are owned by DPDK.
    #[command(subcommand)]
    Lab(lab::Lab),
    /// Cuts, damages and kills the truth log's writer, and replays a log; nothing acknowledged may be lost.
    Crash(crash::Args),
    /// Checks the model of the truth log, and that its properties notice broken ones.
    Spec,
}

fn main() -> Result<()> {
    match Args::parse().command {
        Task::Demo(args) => demo::run(&args),
        Task::Test(args) => test::run(&args),
        Task::Tidy => tidy::run(),
        Task::Bench(bench) => bench::run(&bench),
        Task::Capture(args) => capture::run(&args),
        Task::Lab(lab) => lab::run(&lab),
        Task::Crash(args) => crash::run_all(&args),
        Task::Spec => spec::run(),
    }
}

/// The top of the checkout.
fn root() -> PathBuf {
    let mut root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.pop();
    root
}

/// A cargo command at the top of the checkout.
fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    command
}

/// Runs a command to its end; its failure is ours.
fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}

/// Where cargo builds.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// How programs are built.
#[derive(Clone, Copy)]
enum Build {
    /// As what is shipped.
    Release,
    /// As the tests are, with all that is asserted on the way.
    Dev,
}

impl Build {
    /// Where cargo leaves a program of this build.
    fn program(self, name: &str) -> PathBuf {
        let folder = match self {
            Self::Release => "release",
            Self::Dev => "debug",
        };
        target().join(folder).join(name)
    }
}
