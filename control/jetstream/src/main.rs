//! `tachyon-jetstream`: reads its file and exports until it is told to end. What it does is in the library beside it; this
//! part deliberately only turns arguments and signals on.
#![forbid(unsafe_code)]

use anyhow::Context;
use clap::Parser;
use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};
use tachyon_jetstream::{Accepts, Decided, EveryMessage, Exporter, Settings, Status};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Takes the truth log to a NATS JetStream stream, each message once.
#[derive(Parser)]
#[command(name = "tachyon-jetstream", version)]
struct Arguments {
    /// The exporter file; without it the defaults hold.
    #[arg(long, env = "TACHYON_JETSTREAM_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the log lies, instead of the file's `log_dir`.
    #[arg(long, value_name = "DIR")]
    log_dir: Option<PathBuf>,
    /// Where positions are kept, instead of the file's `state_dir`.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// One NATS message for each frame instead of each message, whatever the file says.
    #[arg(long)]
    frames: bool,
    /// End when everything in the log is exported.
    #[arg(long)]
    until_end: bool,
    /// Write a line of JSON a second to standard output.
    #[arg(long)]
    json: bool,
    /// Say what is wrong with the exporter file, and end.
    #[arg(long)]
    check: bool,
    /// Print the commented default file, and end.
    #[arg(long)]
    print_default_config: bool,
}

fn main() -> ExitCode {
    match start(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing can be done about a standard error that cannot be written.
            let _ = writeln!(io::stderr(), "tachyon-jetstream: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: Arguments) -> anyhow::Result<()> {
    if arguments.print_default_config {
        return Ok(io::stdout().write_all(Settings::MANUAL.as_bytes())?);
    }
    let mut settings = arguments.config.as_deref().map_or_else(|| Ok(Settings::default()), read)?;
    if arguments.check {
        return Ok(());
    }
    settings.log_dir = arguments.log_dir.unwrap_or(settings.log_dir);
    settings.state_dir = arguments.state_dir.unwrap_or(settings.state_dir);
    settings.frames |= arguments.frames;
    let (until_end, status) = (arguments.until_end, Status::new(arguments.json));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2) // one that reads the log, one that talks to the server
        .enable_all()
        .build()?;
    if settings.refused_too {
        runtime.block_on(run(settings, until_end, status, || EveryMessage))
    } else {
        runtime.block_on(run(settings, until_end, status, Decided::default))
    }
}

async fn run<A: Accepts>(settings: Settings, until_end: bool, status: Status, make: fn() -> A) -> anyhow::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let (stop, stopped) = watch::channel(false);
    let exporter = Exporter::new(settings, until_end, make, status, stopped)?;
    tokio::spawn(async move {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        stop.send_replace(true);
        // Kept until the program ends: a stop that nobody can send any more is no stop.
        std::future::pending::<()>().await;
    });
    exporter.run().await
}

fn read(path: &Path) -> anyhow::Result<Settings> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    match Settings::parse(&path.display().to_string(), &text) {
        Ok((settings, warnings)) => {
            for warning in warnings {
                writeln!(io::stderr(), "{warning}")?;
            }
            Ok(settings)
        }
        Err(problems) => {
            let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
            anyhow::bail!("the exporter file is refused\n{}", all.join("\n"))
        }
    }
}
