//! `tachyon-nats-bench`: prints what JetStream takes on a disk, one line of JSON for each row. The measuring is in the
//! library beside it.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use clap::Parser;
use std::{path::PathBuf, time::Duration};
use tachyon_bench_nats::{Plan, rows};

/// Acknowledged messages a second of NATS JetStream with file storage.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// A folder on the disk that is meant; the server's files go into a folder of their own there.
    directory: PathBuf,
    /// How long each row takes.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Connections that publish at the same time, where in batches.
    #[arg(long, default_value_t = 2)]
    connections: usize,
    /// Most unacknowledged messages of each of them.
    #[arg(long, default_value_t = 4_096)]
    unacknowledged: usize,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let plan = Plan {
        directory: arguments.directory,
        duration: Duration::from_secs_f64(arguments.seconds),
        connections: arguments.connections.max(1),
        unacknowledged_max: arguments.unacknowledged.max(1),
    };
    for row in rows(&plan)? {
        println!("{}", serde_json::to_string(&row)?);
    }
    Ok(())
}
