//! What the pre-filter and the XDP sockets cost and save, on veth pairs in network namespaces that end with the process.
//!
//! A veth is no network card: there is no DMA, a packet is memory that changes hands, and what a program saves by ending a
//! packet early is everything that the kernel would have done with it. Rates are per CPU-second of the one thread that
//! sends and has its own soft interrupts in it; medians of turns that alternate with the peer's. Needs root.
#![deny(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the table is its output")]
#![expect(
    clippy::cast_possible_truncation,
    reason = "lengths of packets and sizes of structures that the kernel takes as 32 bits"
)]

mod bed;
mod cost;
mod drops;
mod figures;
mod goodput;
mod kernel;
mod lanes;
mod packets;
mod table;

use anyhow::{Context, Result};
use bed::Bed;
use clap::{Parser, ValueEnum};
use serde_json::{Value, json};
use std::{path::PathBuf, process::ExitCode};
use tachyon_micro::machine;

/// What the pre-filter and the XDP sockets cost and save.
#[derive(Parser)]
struct Args {
    /// One JSON object instead of the table, as the last line.
    #[arg(long)]
    json: bool,
    /// Turns per figure; the median is shown.
    #[arg(long, default_value_t = 11)]
    turns: usize,
    /// Some of the rows; all of them without it.
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// Where tachyond, tachyon-control, tachyon and tachyon-load are; beside this program if left out.
    #[arg(long, value_name = "FOLDER")]
    programs: Option<PathBuf>,
    /// Turns of the good traffic under a flood, which take seconds each.
    #[arg(long, default_value_t = 3)]
    goodput_turns: usize,
    /// One turn of the good traffic under a flood, filtered, as one JSON object; nothing is measured.
    #[arg(long)]
    show_flood: bool,
}

/// A part of the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Junk beside xdp-filter and a program that looks at nothing.
    Drops,
    /// What one packet costs the program.
    Cost,
    /// XDP sockets beside io_uring.
    Lanes,
    /// A node under a flood, with the filter and without.
    Goodput,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("tachyon-xdp-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures and prints; whether everything that is held to something reached it.
fn run(args: &Args) -> Result<bool> {
    let cores = machine::allowed();
    let core = cores.last().copied().context("no core to run on")?;
    let other = cores.first().copied().unwrap_or(core);
    let here = std::env::current_exe()?.parent().map(Into::into);
    let programs = args.programs.clone().or(here).context("where the programs are")?;
    if args.show_flood {
        println!("{}", goodput::show(&programs, (core, other))?);
        return Ok(true);
    }
    let machine_before = machine::describe();
    pin(core)?;
    let (mut rows, mut program) = (Vec::new(), Value::Null);
    let mut goodput = Value::Null;
    for part in Part::value_variants() {
        if !args.only.is_empty() && !args.only.contains(part) {
            continue;
        }
        let mut done = |row: Value| {
            if !args.json {
                table::print(&row);
            }
            rows.push(row);
        };
        // Each part has a bed of its own, or its interfaces would meet the last part's.
        match part {
            Part::Drops => drops::rows(Bed::new()?, args.turns, &mut done),
            Part::Cost => cost::rows(&Bed::new()?, args.turns, &mut done).map(|facts| program = facts),
            Part::Lanes => lanes::rows(&Bed::new()?, args.turns, &mut done),
            Part::Goodput => {
                goodput::rows(&programs, (core, other), args.goodput_turns, &mut done).map(|found| goodput = found)
            }
        }
        .with_context(|| format!("{part:?}"))?;
    }
    let reached = rows.iter().all(|row| row["reached"] != false);
    if args.json {
        println!("{}", json!({ "rows": rows, "program": program, "goodput": goodput, "machine": machine_before }));
    } else {
        if let Some(count) = program["verified_instructions"].as_u64() {
            println!("\nthe verifier went through {count} instructions on Linux {}", program["kernel"]);
        }
        if goodput.is_object() {
            println!("goodput: {goodput:#}");
        }
        machine::print(&machine_before);
    }
    Ok(reached)
}

/// Keeps the thread on one core, so that the soft interrupts it raises run there, in its time.
fn pin(core: usize) -> Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    rustix::thread::sched_setaffinity(None, &set).with_context(|| format!("cannot stay on core {core}"))
}
