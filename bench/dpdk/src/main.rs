//! What DPDK costs through our driver: beside DPDK's own forwarding program, with nothing to do, and with the whole
//! governed loop behind it.
//!
//! All devices are software, so figures are those of calls, memory and our own work, never of a network card. Rates are
//! per CPU-second of the thread that polls, medians of turns that alternate with the peer's on one core. Our packets lie in
//! the arena: descriptors of DPDK whose memory is elsewhere, in a pool of the size and with the cache that testpmd has.
#![deny(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the table is its output")]

mod clock;
mod forward;
mod generator;
mod governed;
mod idle;
mod meter;
mod soak;
mod station;
mod table;
mod testpmd;

use clap::{Parser, ValueEnum};
use forward::Kind;
use serde_json::{Value, json};
use std::{process::ExitCode, time::Duration};
use tachyon_driver_api::conformance::CountingAllocator;
use tachyon_driver_dpdk::{Device, Eal, EalConfig, HugePages};
use tachyon_micro::machine;

#[global_allocator]
static COUNTING: CountingAllocator = CountingAllocator;

/// What DPDK costs through our driver.
#[derive(Parser)]
struct Args {
    /// One JSON object instead of the table, as the last line.
    #[arg(long)]
    json: bool,
    /// Pairs of turns per figure; the median is shown.
    #[arg(long, default_value_t = 11)]
    pairs: usize,
    /// Length of a turn in milliseconds.
    #[arg(long, default_value_t = 200)]
    turn_ms: u64,
    /// Seed of everything that is drawn.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Some of the rows; all of them without it.
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// Instead of measuring, sends so many frames through the governed loop and looks whether anything is missing.
    #[arg(long, value_name = "FRAMES")]
    soak: Option<u64>,
    /// Messages of each of those frames.
    #[arg(long, default_value_t = 22, value_parser = clap::value_parser!(u8).range(1..=22))]
    soak_messages: u8,
}

/// A part of the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Plain forwarding beside testpmd over net_null and net_ring.
    Io,
    /// The same over net_memif.
    Memif,
    /// The traits that the engine uses, without an engine.
    Hot,
    /// Polls in which nothing arrives.
    Idle,
    /// The whole loop.
    Governed,
    /// The policing peer.
    Meter,
}

/// What all measurements share.
struct Bench {
    eal: Eal,
    pairs: usize,
    turn: Duration,
    seed: u64,
    /// The cores that the process may use.
    cores: Vec<usize>,
    /// The one that polls, ours and testpmd's.
    core: usize,
    /// Another one, if there is any.
    other_core: Option<usize>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("tachyon-dpdk-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Measures and prints; whether everything that is held to something reached it.
fn run(args: &Args) -> Result<bool, String> {
    let cores = machine::allowed();
    let eal = Eal::start(&EalConfig { memory_mib: 256, huge_pages: HugePages::Auto, pci: Vec::new() })
        .map_err(|error| error.0)?;
    let other_core = tachyon_micro::alone();
    let core = machine::allowed().first().copied().unwrap_or(0);
    if let Some(frames) = args.soak {
        let row = soak::run(eal, frames, usize::from(args.soak_messages), args.seed)?;
        println!("{row}");
        return Ok(true);
    }
    let turn = Duration::from_millis(args.turn_ms.max(1));
    let bench = Bench { eal, pairs: args.pairs.max(1), turn, seed: args.seed, cores, core, other_core };
    let mut rows = Vec::new();
    for part in Part::value_variants() {
        if args.only.is_empty() || args.only.contains(part) {
            measure(*part, &bench, &mut |row| {
                if !args.json {
                    table::print(&row);
                }
                rows.push(row);
            })?;
        }
    }
    let reached = rows.iter().all(|row| row["reached"] != false);
    let pages = if eal.huge_pages() { "2 MiB" } else { "4 KiB" };
    if args.json {
        let machine = machine::describe();
        println!("{}", json!({ "rows": rows, "dpdk": Eal::version(), "pages": pages, "machine": machine }));
    } else {
        println!("\n{}, its memory on pages of {pages}, on", Eal::version());
        machine::print(&machine::describe());
    }
    Ok(reached)
}

fn measure(part: Part, bench: &Bench, done: &mut dyn FnMut(Value)) -> Result<(), String> {
    match part {
        Part::Io => {
            for kind in [Kind::Null, Kind::Ring] {
                for burst in [1, 4, 32] {
                    done(forward::row(bench, kind, burst, 64)?);
                }
            }
        }
        Part::Memif => {
            for packet_bytes in [64, 1_514] {
                done(forward::row(bench, Kind::Memif, 32, packet_bytes)?);
            }
        }
        Part::Hot => {
            for frame_bytes in [64, 1_472] {
                done(forward::hot(bench, frame_bytes)?);
            }
        }
        Part::Idle => {
            for device in [Device::Null { packet_bytes: 64, receive: false }, Device::Ring] {
                done(idle::row(bench, device)?);
            }
        }
        Part::Governed => {
            done(governed::row(bench)?);
            if let Some(row) = governed::apart(bench)? {
                done(row);
            }
        }
        Part::Meter => done(meter::row(bench)?),
    }
    Ok(())
}
