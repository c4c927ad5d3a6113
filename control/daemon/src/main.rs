//! `tachyon-control`: reads its file and runs until it is told to end. What it does is in the library beside it; this
//! part deliberately only turns arguments, signals and the log on.
#![forbid(unsafe_code)]

use anyhow::Context;
use clap::Parser;
use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};
use tachyon_config::{ControlFile, LogLevel, RULES_MANUAL};
use tokio::signal::unix::{SignalKind, signal};
use tracing::Level;
use tracing_subscriber::{Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

/// Owns rules, topics, sessions and subscribers of a node, and tells tachyond of them.
#[derive(Parser)]
#[command(name = "tachyon-control", version)]
struct Arguments {
    /// The control file; without it the defaults hold.
    #[arg(long, env = "TACHYON_CONTROL_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the sockets lie, instead of the file's `run_dir`.
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Where the registry lies, instead of the file's `state_dir`.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Say what is wrong with the control file, and end.
    #[arg(long)]
    check: bool,
    /// Print the commented default control file, and end.
    #[arg(long)]
    print_default_config: bool,
    /// Print the commented default rules, and end.
    #[arg(long)]
    print_default_rules: bool,
}

fn main() -> ExitCode {
    match start(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing can be done about a standard error that cannot be written.
            let _ = writeln!(io::stderr(), "tachyon-control: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.print_default_config {
        return Ok(io::stdout().write_all(ControlFile::MANUAL.as_bytes())?);
    }
    if arguments.print_default_rules {
        return Ok(io::stdout().write_all(RULES_MANUAL.as_bytes())?);
    }
    let mut config = arguments.config.as_deref().map_or_else(|| Ok(ControlFile::default()), read)?;
    if arguments.check {
        return Ok(());
    }
    config.run_dir = arguments.run_dir.clone().unwrap_or(config.run_dir);
    config.state_dir = arguments.state_dir.clone().unwrap_or(config.state_dir);
    log(config.log_level);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2) // the slow path: one that waits for the disk, one that answers
        .enable_all()
        .build()?
        .block_on(run(config))
}

async fn run(config: ControlFile) -> anyhow::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let end = async move {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        tracing::info!("ending");
    };
    tachyon_control::serve(config, end).await
}

fn read(path: &Path) -> anyhow::Result<ControlFile> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    match ControlFile::parse(&path.display().to_string(), &text) {
        Ok((config, warnings)) => {
            for warning in warnings {
                writeln!(io::stderr(), "{warning}")?;
            }
            Ok(config)
        }
        Err(problems) => {
            let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
            anyhow::bail!("the control file is refused\n{}", all.join("\n"))
        }
    }
}

fn log(level: LogLevel) {
    let level = match level {
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Trace => Level::TRACE,
    };
    // Only our own events: libraries below us see what is sent, keys too, and we do not vouch for what they say of it.
    let ours = Targets::new().with_target("tachyon_control", level);
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_target(false);
    tracing_subscriber::registry().with(lines.with_filter(ours)).init();
}
