//! `tachyon-load`: open-loop publishers and counting subscribers in one program, and the proof of what became of what
//! they sent.
//!
//! It is a client like any other: it opens sessions and reads counters through the management interface, and drives the
//! same driver traits as the node. It deliberately does not configure the node: what it may publish is up to the rules.
#![forbid(unsafe_code)]

use clap::Parser;
use serde_json::Value;
use std::{
    io::{self, Write},
    process::ExitCode,
};
use tachyon_loadgen::{
    args::{Cli, Verb},
    run, table,
};

fn main() -> ExitCode {
    let Cli { command: Verb::Run(args) } = Cli::parse();
    let mut show = |line: &Value| {
        if args.progress {
            // Whoever reads our output may stop reading; the run goes on to its report.
            let _ = writeln!(io::stdout(), "{line}").and_then(|()| io::stdout().flush());
        }
    };
    let report = match run::run(&args, &mut show) {
        Ok(report) => report,
        Err(error) => {
            let _ = writeln!(io::stderr(), "tachyon-load: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let text = if args.json { format!("{report}\n") } else { table::text(&report) };
    match io::stdout().write_all(text.as_bytes()) {
        // 2 tells a script that the run worked and its sums do not.
        Ok(()) if report["unaccounted"].as_u64().is_some_and(|count| count > 0) => ExitCode::from(2),
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
