//! What the loop costs: per message, per stage, per copy, per ruleset swap and per core, beside what the design allows.
//!
//! Every figure is the median of several passes over generated input, on one core unless the command says otherwise;
//! preparing the input is never timed, and every run ends by holding the ledgers against what was offered. It makes no
//! claim about a network: that is what the load generator measures. It is a library because other benchmarks put the same
//! worker, over the same input, behind a device.
#![deny(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the tables are its output")]

#[expect(unsafe_code, reason = "an allocator cannot be counted otherwise")]
pub mod allocations;
mod bus;
pub mod case;
mod cycle;
#[expect(unsafe_code, reason = "no cache can be flushed otherwise")]
mod flush;
pub mod input;
mod instructions;
pub mod machine;
mod peers;
mod random;
mod replay;
pub mod ring;
mod rows;
mod scale;
mod stages;
mod swap;
mod table;
pub mod whole;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// What the loop costs.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// The budget table, stage by stage.
    Table(Common),
    /// The whole loop, one dimension at a time, the cases that have a target, and the peers.
    Loop(Common),
    /// One case of the whole loop.
    Row {
        #[command(flatten)]
        case: case::Case,
        #[command(flatten)]
        common: Common,
    },
    /// What others take for the same work: a naive loop, the rings of crossbeam and rtrb, DPDK's table and meter.
    Peers {
        #[command(flatten)]
        args: peers::Args,
        #[command(flatten)]
        common: Common,
    },
    /// Ruleset swaps under full load: what the adopting burst and the millisecond after it take longer.
    Swap {
        #[command(flatten)]
        args: swap::Args,
        #[command(flatten)]
        common: Common,
    },
    /// Latency from publisher to subscriber through rings in memory, beside an empty relay.
    Bus {
        #[command(flatten)]
        args: bus::Args,
        #[command(flatten)]
        common: Common,
    },
    /// One worker per core, on 1, 2, 4 … cores.
    Scale {
        #[command(flatten)]
        args: scale::Args,
        #[command(flatten)]
        common: Common,
    },
    /// A run for callgrind to count; `cargo xtask bench instructions` does.
    Instructions {
        #[command(flatten)]
        case: case::Case,
        #[command(flatten)]
        args: instructions::Args,
        /// Seed of everything that is drawn.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
}

/// What all of them take.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Common {
    /// One JSON object instead of the table, as the last line.
    #[arg(long)]
    json: bool,
    /// Passes per figure; the median is shown.
    #[arg(long)]
    passes: Option<usize>,
    /// Seed of everything that is drawn.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A third of the work, for a first look.
    #[arg(long)]
    quick: bool,
}

impl Common {
    fn passes(&self) -> usize {
        self.passes.unwrap_or(if self.quick { 3 } else { 9 }).max(1)
    }
}

/// The program: runs what its arguments ask for.
#[must_use]
pub fn run() -> ExitCode {
    let result = match Args::parse().command {
        Task::Table(common) => {
            alone();
            table::run(&common);
            Ok(())
        }
        Task::Loop(common) => {
            let second_core = alone();
            cycle::run(&common, second_core)
        }
        Task::Row { case, common } => {
            alone();
            cycle::one(&case, &common)
        }
        Task::Peers { args, common } => {
            let second_core = alone();
            peers::run(args, second_core, &common)
        }
        Task::Swap { args, common } => {
            alone();
            swap::run(args, &common);
            Ok(())
        }
        Task::Bus { args, common } => bus::run(args, &common),
        Task::Scale { args, common } => scale::run(args, &common),
        Task::Instructions { case, args, seed } => instructions::run(&case, args, seed),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tachyon-micro: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Stays on one core, the last: interrupts and everybody else's threads prefer the first. Returns another one that it left.
pub fn alone() -> Option<usize> {
    let allowed = machine::allowed();
    let (last, rest) = allowed.split_last()?;
    machine::pin(*last);
    rest.first().copied()
}

/// The median of some figures, of which there is at least one.
#[must_use]
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
