//! `tachyond`: a Tachyon node's data plane.
//!
//! It reads one file, opens its driver's queues on pinned threads, gives up its privileges, and from then on turns the
//! engine's loop. One thread beside the workers talks to the control process over one Unix socket. If control is not
//! there, the node goes on, or starts, with the last good ruleset.
//!
//! This crate deliberately judges nothing and knows no frame: that is `engine` and `policy`. It is the only one that names
//! drivers. Where things are: [`topology`] declares workers and cores, [`ports`] opens the drivers and [`transports`] makes one
//! queue of theirs, [`setup`] builds
//! everything once, [`worker`] is the thread around the loop, [`taps`] is what workers record into for the truth log,
//! [`housekeeping`] the thread beside it, [`sandbox`] what is
//! given up.
#![deny(unsafe_code)]

#[cfg(any(not(feature = "dpdk"), not(feature = "verbs"), not(feature = "xdp")))]
mod absent;
#[cfg(feature = "xdp")]
mod afxdp;
mod alloc_seal;
#[cfg(feature = "dpdk")]
mod dpdk;
#[cfg(feature = "xdp")]
mod filters;
mod housekeeping;
#[cfg(feature = "hwloc")]
mod hwloc;
mod leases;
mod left_over;
mod notify;
mod port_desk;
mod ports;
#[cfg(feature = "verbs")]
mod rdma;
mod sandbox;
mod setup;
mod state;
mod taps;
mod topology;
mod transports;
mod voice;
mod worker;

#[cfg(not(feature = "dpdk"))]
use absent::dpdk;
#[cfg(not(feature = "verbs"))]
use absent::rdma;
#[cfg(not(feature = "xdp"))]
use absent::{afxdp, filters};

use anyhow::Context;
use clap::Parser;
use std::{
    fs,
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
};
use tachyon_config::{DEFAULT_NODE_FILE, NodeFile, Source};

#[global_allocator]
static ALLOCATOR: alloc_seal::SealedAllocator = alloc_seal::SealedAllocator;

/// The data plane of a Tachyon node: receives, governs, batches and transmits frames.
#[derive(Debug, Parser)]
#[command(name = "tachyond", version)]
struct Arguments {
    /// The node file.
    #[arg(long, value_name = "FILE", default_value = "/etc/tachyon/node.toml")]
    config: PathBuf,
    /// Say each event as one JSON object per line.
    #[arg(long)]
    json: bool,
    /// Only check the node file.
    #[arg(long)]
    check: bool,
    /// Print the commented default node file, which is its manual.
    #[arg(long)]
    print_default_config: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let voice = voice::Voice::new(arguments.json);
    match run(&arguments, voice) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            voice.say("error", &format!("{error:#}"), &[]);
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "printing is what --print-default-config asks for")]
fn run(arguments: &Arguments, voice: voice::Voice) -> anyhow::Result<()> {
    if arguments.print_default_config {
        print!("{DEFAULT_NODE_FILE}");
        return Ok(());
    }
    let name = arguments.config.display().to_string();
    let text = fs::read_to_string(&arguments.config)
        .with_context(|| format!("cannot read {name}; `tachyond --print-default-config` prints one to start from"))?;
    let source = Source { name: &name, text: &text, manual: "tachyond --print-default-config" };
    let file = NodeFile::parse(&source).map_err(|diagnostic| anyhow::anyhow!("{diagnostic}"))?;
    if arguments.check {
        voice.say("checked", &format!("{name} is fine"), &[]);
        return Ok(());
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, stop.clone()).context("cannot listen for signals")?;
    }
    let house = setup::build(&file, voice, stop)?;
    setup::announce(&house, &file);
    notify::ready();
    house.run();
    voice.say("stopped", "all workers have published their last counters", &[]);
    Ok(())
}
