//! `cargo xtask lab`.

use crate::{cargo, root};
use anyhow::Result;
use clap::Subcommand;
use serde_json::Value;
use std::path::PathBuf;

/// What to run there.
#[derive(Subcommand)]
pub(crate) enum Lab {
    /// DPDK forwards between two cards that it owns; every queue is used, RSS obeys, links go and come.
    Smoke(Args),
}

/// How.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Prints one JSON object and nothing else.
    #[arg(long)]
    json: bool,
    /// The guest's kernel: 6.1, Debian 12's own, or 6.12, from its backports.
    #[arg(long, default_value = "6.1")]
    kernel: String,
}

pub(crate) fn run(lab: &Lab) -> Result<()> {
    let Lab::Smoke(args) = lab;
    crate::run(&mut cargo(&["build", "--quiet", "--locked", "--package", "tachyon-lab", "--bins"]))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let udp = target.join("debug/tachyon-lab-udp");
    let result = tachyon_lab::smoke::run(&target.join("lab"), &args.kernel, &udp)?;
    if args.json {
        println!("{result}");
    } else {
        print_smoke(&result);
    }
    Ok(())
}

/// The result, for a person.
fn print_smoke(result: &Value) {
    let kernel = result["kernel"].as_str().unwrap_or_default();
    println!("lab: testpmd owned two cards of a guest with Linux {kernel}, and no datagram was lost");
    println!("  by default its queues took {} packets", result["spread"]);
    for group in result["steered"].as_array().into_iter().flatten() {
        let first = group["first_port"].as_u64().unwrap_or_default();
        println!("  ports {first} to {}: {}", first + 3, group["packets_by_queue"]);
    }
    println!("  links off and on were seen by testpmd, with interrupts, and by the kernel");
    let seconds = |key: &str| result[key].as_f64().unwrap_or(f64::NAN);
    println!("  booted in {:.1} s, done after {:.1} s", seconds("boot_s"), seconds("wall_s"));
}
