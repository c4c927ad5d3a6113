//! Why a command did not succeed, and the exit code that says so to a script.

use std::{fmt, process::ExitCode};

/// The stable exit codes besides 0; `--help` documents them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The node, or the check of a rules file, says no.
    Refused = 1,
    /// An argument is wrong, or a file that it names cannot be read. Also what clap ends with.
    Usage = 2,
    /// `tachyon-control` does not answer, or `tachyond` is not connected to it.
    Unreachable = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// What happened, where, and what to do.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) what: String,
    pub(crate) place: String,
    /// Empty where `what` says it already.
    pub(crate) help: String,
}

impl fmt::Display for Failure {
    /// The form in which the problems of a rules file are shown too.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}\n --> {}", self.what, self.place)?;
        if self.help.is_empty() { Ok(()) } else { write!(f, "\n  = help: {}", self.help) }
    }
}
