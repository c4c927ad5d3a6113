//! What may be written behind `tachyon`.

use crate::log::arguments::LogCommand;
use clap::{
    Args, Parser, Subcommand,
    builder::{PossibleValue, PossibleValuesParser},
};
use std::{path::PathBuf, time::Duration};
use tachyon_config::SourcePrefix;
use tachyon_wire::reason::Reason;

const AFTER_HELP: &str = "\
Exit codes:
  0  done
  1  refused: by the node, or by the check of a rules file; of `tachyon log`: damage was found, or a proof does not hold
  2  usage: an argument is wrong, or a file that it names cannot be read
  3  unreachable: tachyon-control does not answer, or tachyond is not connected to it
`tachyon doctor` says more with them, see its help.

Data goes to standard output, messages to standard error. NO_COLOR switches colours off.

Examples:
  tachyon status
  tachyon rules check rules.toml && tachyon rules apply rules.toml
  tachyon drops
  tachyon top --once --json
  tachyon explain E_GOV_THROTTLED
  tachyon prefilter deny add 203.0.113.0/24
  tachyon log verify
  tachyon doctor --config node.toml";

const AFTER_DOCTOR: &str = "\
Exit codes:
  0  fine: nothing is in the way
  1  fails: something keeps the node from starting, such as a core that is not there
  2  degraded: a node works here, and would be faster or steadier; also a wrong argument, with nothing on standard output

Lines that begin with # are to be typed as root. What other users may not read is taken as not there.";

/// Manages a Tachyon node: its state, its rules, and what it refused and why.
#[derive(Debug, Parser)]
#[command(name = "tachyon", version, after_help = AFTER_HELP, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Arguments {
    /// Unix socket of tachyon-control.
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "TACHYON_SOCKET",
        default_value = "/run/tachyon/control.sock"
    )]
    pub(crate) socket: PathBuf,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The state of the node: processes, ruleset, ledgers, workers, what is degraded.
    Status(Form),
    /// Checks, applies or shows the rules.
    #[command(subcommand)]
    Rules(RulesCommand),
    /// What was refused: every reason with its count, its ledger and what to do; first what a pre-filter dropped before the
    /// node.
    Drops {
        /// Also the reasons that never happened.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        form: Form,
    },
    /// The live view: rates of the node, its workers, its routes, and of what it refuses.
    Top(Top),
    /// Every route: its subscribers and what carries their copies, its topics, its counts.
    Routes(Form),
    /// The RDMA lanes that were agreed on: whose each is, how it is, and why it is not connected. Without administrators'
    /// rights, those of what this user opened.
    Lanes(Form),
    /// The ports of the node: their devices, how they are, what they count; stops and starts them.
    #[command(args_conflicts_with_subcommands = true)]
    Ports(Ports),
    /// What is dropped at the device, before the node: how each filter is, and the sources that are denied.
    #[command(subcommand)]
    Prefilter(PrefilterCommand),
    /// The truth log: judges it, shows it, proves what is in it. Reads its folder; needs no node and changes nothing.
    #[command(subcommand)]
    Log(LogCommand),
    /// What a reason means and what to do; without CODE, every reason. Needs no node.
    Explain {
        /// Name or number of a reason: E_GOV_THROTTLED, GOV_THROTTLED or 31.
        #[arg(ignore_case = true, hide_possible_values = true, value_parser = codes())]
        code: Option<String>,
        #[command(flatten)]
        form: Form,
    },
    /// What this machine lacks for a node, and the lines that give it. Needs no node and changes nothing.
    #[command(after_help = AFTER_DOCTOR)]
    Doctor(Doctor),
    /// Prints the completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Prints the man page.
    Man {
        /// Writes the pages of all commands into this folder instead.
        #[arg(long, value_name = "DIR")]
        to: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RulesCommand {
    /// Says what is wrong with a rules file; changes nothing. Works without a node too.
    Check(RulesFile),
    /// Puts a rules file in force, or changes nothing and says why.
    Apply(RulesFile),
    /// Prints the rules file in force, byte for byte.
    Show(Form),
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// The node file whose needs are checked. Without it: /etc/tachyon/node.toml, or the defaults if that is not there.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where `proc` and `sys` are read: for tests, which bring a machine of their own.
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    pub(crate) root: PathBuf,
    #[command(flatten)]
    pub(crate) form: Form,
}

#[derive(Debug, Args)]
pub(crate) struct RulesFile {
    /// The rules file; `-` reads standard input.
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) form: Form,
}

#[derive(Debug, Args)]
pub(crate) struct Ports {
    /// Also every counter of driver and device.
    #[arg(long, short)]
    pub(crate) verbose: bool,
    #[command(flatten)]
    pub(crate) form: Form,
    #[command(subcommand)]
    pub(crate) change: Option<PortsCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PortsCommand {
    /// Stops a port: it neither receives nor sends until it is started again.
    Stop(PortName),
    /// Starts a port that was stopped.
    Start(PortName),
}

#[derive(Debug, Args)]
pub(crate) struct PortName {
    /// Its name, as `tachyon ports` shows it.
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) form: Form,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PrefilterCommand {
    /// Every filter: its mode and why it is not native, its program, what it costs and holds, and what it dropped.
    Status(Form),
    /// Attaches the filter of an interface.
    Attach(InterfaceName),
    /// Detaches it: everything passes to the kernel until it is attached again.
    Detach(InterfaceName),
    /// The sources from which nothing is taken, unless a session is pinned to their address.
    #[command(subcommand)]
    Deny(DenyCommand),
}

#[derive(Debug, Args)]
pub(crate) struct InterfaceName {
    /// Its name, as `tachyon prefilter status` shows it.
    pub(crate) interface: String,
    #[command(flatten)]
    pub(crate) form: Form,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DenyCommand {
    /// Denies prefixes; they are denied until they are removed themselves, also after restarts.
    Add(DenyChange),
    /// Denies prefixes no longer. Those that the rules deny stay denied.
    Del(DenyChange),
    /// Prints every denied prefix, one a line, as `--from-file` reads them.
    List(Form),
}

#[derive(Debug, Args)]
pub(crate) struct DenyChange {
    /// Addresses (`10.1.2.3`), or beginnings of addresses with their bits (`10.0.0.0/8`, `2001:db8::/32`).
    #[arg(value_name = "PREFIX", required_unless_present = "from_file", value_parser = prefix)]
    pub(crate) prefixes: Vec<SourcePrefix>,
    /// Also those of a file, one a line; `#` begins a remark. `-` reads standard input.
    #[arg(long, value_name = "FILE")]
    pub(crate) from_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) form: Form,
}

#[derive(Debug, Args)]
pub(crate) struct Top {
    /// One view of one interval, then ends.
    #[arg(long)]
    pub(crate) once: bool,
    /// Seconds between two views, 0.1 to 3600.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    pub(crate) interval: Duration,
    #[command(flatten)]
    pub(crate) form: Form,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Form {
    /// Prints JSON: one document, on one line.
    #[arg(long)]
    pub(crate) json: bool,
}

fn prefix(text: &str) -> Result<SourcePrefix, String> {
    text.parse().map_err(|wrong| format!("{wrong}; {}", SourcePrefix::HELP))
}

/// Below 0.1 s a view shows the node's bursts rather than its rates; above an hour nobody is watching.
fn interval(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    if !(0.1..=3600.0).contains(&seconds) {
        return Err("give 0.1 to 3600 seconds".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Every way to write a reason. With them the parser itself proposes the right one for a misspelt one.
fn codes() -> PossibleValuesParser {
    PossibleValuesParser::new(Reason::ALL.iter().map(|reason| {
        let code = reason.code();
        PossibleValue::new(code).help(reason.help()).alias(short(code)).alias(reason.number().to_string())
    }))
}

/// The reason that one of [`codes`] names.
pub(crate) fn reason(written: &str) -> Option<Reason> {
    let named = |reason: &Reason| {
        let code = reason.code();
        code.eq_ignore_ascii_case(written)
            || short(code).eq_ignore_ascii_case(written)
            || reason.number().to_string() == written
    };
    Reason::ALL.iter().copied().find(named)
}

/// Every code begins with `E_`, which is easily left out.
fn short(code: &'static str) -> &'static str {
    code.strip_prefix("E_").unwrap_or(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_reason_is_found_by_code_by_short_code_and_by_number() {
        for reason in Reason::ALL {
            let number = reason.number().to_string();
            for written in [reason.code(), short(reason.code()), &reason.code().to_lowercase(), &number] {
                assert_eq!(super::reason(written), Some(*reason), "{written}");
                assert!(Arguments::try_parse_from(["tachyon", "explain", written]).is_ok(), "{written}");
            }
        }
    }

    #[test]
    fn refuses_an_interval_that_shows_nothing() {
        for wrong in ["0", "0.05", "-1", "nan", "inf", "4000", "soon"] {
            assert!(interval(wrong).is_err(), "{wrong}");
        }
        assert_eq!(interval("0.25"), Ok(Duration::from_millis(250)));
    }
}
