//! `tachyon log replay` and `tachyon log snapshot`: start `tachyon-replay`, the program beside this one, because this one does not
//! link the engine.

use crate::failure::{Exit, Failure};
use clap::{Args, Subcommand};
use std::{
    env,
    ffi::{OsStr, OsString},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::Command,
};

/// The program that replays.
const PROGRAM: &str = "tachyon-replay";

/// What is done by playing the log through the engine once more.
#[derive(Debug, Subcommand)]
pub(crate) enum ReplayCommand {
    /// Judges everything in the log once more and says whether anything differs; `-- --help` lists its options.
    Replay(Options),
    /// Writes down what topics, senders and sessions came to; `-- --help` lists its options.
    Snapshot(Options),
}

/// Handed on as they are.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Options of `tachyon-replay`, such as --directory DIR.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    options: Vec<OsString>,
}

/// Becomes the other program, whose exit code is then ours; returns only if it cannot be started.
pub(crate) fn run(command: &ReplayCommand) -> Failure {
    let (name, Options { options }) = match command {
        ReplayCommand::Replay(options) => ("run", options),
        ReplayCommand::Snapshot(options) => ("snapshot", options),
    };
    let program = beside(env::current_exe().ok());
    let error = Command::new(&program).arg(name).args(options).exec();
    Failure {
        exit: Exit::Usage,
        what: format!("cannot start {}: {error}", program.display()),
        place: "this machine".to_owned(),
        help: "install tachyon-replay beside tachyon, or into a folder of PATH".to_owned(),
    }
}

/// The program beside this one, or the one in PATH if there is none.
fn beside(this: Option<PathBuf>) -> PathBuf {
    let program = this.map(|this| this.with_file_name(PROGRAM)).filter(|program| program.exists());
    program.unwrap_or_else(|| OsStr::new(PROGRAM).into())
}

#[cfg(test)]
mod tests {
    use super::{PROGRAM, beside};
    use std::{env, fs, path::PathBuf, process};

    #[test]
    fn the_program_beside_this_one_comes_first() {
        let folder = env::temp_dir().join(format!("tachyon-beside-{}", process::id()));
        fs::create_dir_all(&folder).expect("made");
        let this = folder.join("tachyon");
        assert_eq!(beside(Some(this.clone())), PathBuf::from(PROGRAM));
        fs::write(folder.join(PROGRAM), "").expect("written");
        assert_eq!(beside(Some(this)), folder.join(PROGRAM));
        assert_eq!(beside(None), PathBuf::from(PROGRAM));
        fs::remove_dir_all(&folder).expect("removed");
    }
}
