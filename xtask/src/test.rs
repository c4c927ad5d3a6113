//! `cargo xtask test`.

use crate::cargo;
use anyhow::Result;

/// What to leave out.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leaves out the model checking of the rings and the sequence lock (about a minute).
    #[arg(long)]
    quick: bool,
}

/// Every crate's tests, then the lock-free structures under a model checker.
pub(crate) fn run_tests(quick: bool) -> Result<()> {
    crate::run(&mut cargo(&["test", "--locked", "--workspace", "--all-features"]))?;
    if quick {
        return Ok(());
    }
    // Loom replaces the atomics, so these are builds of their own; in release, or the search takes minutes.
    for package in ["tachyon-driver-mem", "tachyon-segment"] {
        let mut command =
            cargo(&["test", "--locked", "--release", "--target-dir", "target/loom", "-p", package, "--lib", "loom"]);
        let flags = "--cfg loom -C debug-assertions";
        crate::run(command.env("RUSTFLAGS", flags).env("LOOM_MAX_PREEMPTIONS", "3"))?;
    }
    Ok(())
}

pub(crate) fn run(args: &Args) -> Result<()> {
    run_tests(args.quick)
}
