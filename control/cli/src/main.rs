//! `tachyon`: the command line of a node, a thin gRPC client of `tachyon-control` over its Unix socket.
//!
//! It shows what the node counts, hands rules files over and explains reasons, for a person or, with `--json`, for a
//! program. It deliberately keeps no state, reads no counters of its own and decides nothing: rules are judged by
//! `tachyon-control` (by the same check from `tachyon-config` where none runs), and counts come from there. Only `doctor`
//! looks at the machine itself, and only `log` reads files of the node: the truth log, by the library that wrote it.
#![forbid(unsafe_code)]

mod arguments;
mod connection;
mod doctor;
mod drops;
mod explain;
mod failure;
mod json;
mod lanes;
mod log;
mod manual;
mod output;
mod ports;
mod prefilter;
mod replay;
mod routes;
mod rules;
mod sample;
mod status;
mod table;
mod top;

use arguments::{Arguments, Command, RulesCommand};
use clap::Parser as _;
use connection::Connection;
use failure::{Exit, Failure};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match start(&arguments) {
        Ok(code) => code,
        Err(failure) => {
            output::message(&failure.to_string());
            failure.exit.into()
        }
    }
}

fn start(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| Failure {
        exit: Exit::Unreachable,
        what: format!("cannot wait for answers: {error}"),
        place: "this process".to_owned(),
        help: "the system is out of file descriptors or memory; free some".to_owned(),
    })?;
    runtime.block_on(run(arguments))
}

async fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let connection = Connection::open(&arguments.socket);
    let done = match &arguments.command {
        Command::Status(form) => status::run(&mut connection.await?, *form).await,
        Command::Rules(RulesCommand::Check(file)) => rules::check(connection, file).await,
        Command::Rules(RulesCommand::Apply(file)) => rules::apply(connection, file).await,
        Command::Rules(RulesCommand::Show(form)) => rules::show(&mut connection.await?, *form).await,
        Command::Drops { all, form } => drops::run(&mut connection.await?, *all, *form).await,
        Command::Top(options) => top::run(&mut connection.await?, options).await,
        Command::Routes(form) => routes::run(&mut connection.await?, *form).await,
        Command::Lanes(form) => lanes::run(&mut connection.await?, *form).await,
        Command::Ports(options) => ports::run(&mut connection.await?, options).await,
        Command::Prefilter(command) => prefilter::run(connection, command).await,
        Command::Explain { code, form } => {
            explain::run(code.as_deref(), *form);
            Ok(())
        }
        Command::Log(command) => return log::run(command),
        // It ends with codes of its own.
        Command::Doctor(options) => return Ok(doctor::run(options)),
        Command::Completions { shell } => {
            manual::completions(*shell);
            Ok(())
        }
        Command::Man { to } => manual::man(to.as_deref()),
    };
    done.map(|()| ExitCode::SUCCESS)
}
