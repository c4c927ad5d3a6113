//! `tachyon log`: judges, shows and proves what the truth log of a node holds, from its files alone.
//!
//! What the bytes mean is for `tachyon-log` and `tachyon-wire`; here is which files are read, and how it is shown. Nothing is ever
//! written to a log's folder.

pub(crate) mod arguments;
mod checkpoint;
mod clock;
mod decisions;
mod describe;
mod export;
mod filter;
mod pcapng;
mod prove;
mod rows;
mod shards;
mod show;
mod tail;
mod verify;

use crate::failure::{Exit, Failure};
use arguments::LogCommand;
use std::{path::Path, process::ExitCode};
use tachyon_log::Error;

/// Ends with 0, with 1 where damage was found or a proof does not hold, with 2 where something cannot be read.
pub(crate) fn run(command: &LogCommand) -> Result<ExitCode, Failure> {
    match command {
        LogCommand::Verify(options) => verify::run(options),
        LogCommand::Show(options) => show::run(options),
        LogCommand::Tail(options) => tail::run(options),
        LogCommand::Prove(options) => prove::run(options).map(|()| ExitCode::SUCCESS),
        LogCommand::CheckProof(options) => prove::check(options),
        LogCommand::Checkpoint(options) => checkpoint::run(options).map(|()| ExitCode::SUCCESS),
        LogCommand::Export(options) => export::run(options),
        LogCommand::Replay(command) => Err(crate::replay::run(command)),
    }
}

/// 1 where damage was found.
fn exit_code(damaged: bool) -> ExitCode {
    if damaged { Exit::Refused.into() } else { ExitCode::SUCCESS }
}

/// What the log's library could not do with the files below `path`.
fn failed(path: &Path) -> impl Fn(Error) -> Failure + '_ {
    |error| match error {
        Error::Storage { what, source } => Failure {
            exit: Exit::Usage,
            what: format!("cannot {what}: {source}"),
            place: path.display().to_string(),
            help: "run it as a user that may read the log".to_owned(),
        },
        error => Failure {
            exit: Exit::Refused,
            what: error.to_string(),
            place: path.display().to_string(),
            help: "`tachyon log verify` lists all that is damaged".to_owned(),
        },
    }
}

/// Something that was asked for and is not there, or an argument that does not fit.
fn usage(what: impl Into<String>, place: &Path, help: impl Into<String>) -> Failure {
    Failure { exit: Exit::Usage, what: what.into(), place: place.display().to_string(), help: help.into() }
}

/// Something that does not hold.
fn refused(what: impl Into<String>, place: &Path, help: impl Into<String>) -> Failure {
    Failure { exit: Exit::Refused, ..usage(what, place, help) }
}

/// Lower-case hex.
fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
