//! What one check found.

use serde_json::{Value, json};

/// How a finding bears on the node; a worse state is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    /// As it should be.
    Fine,
    /// Worth knowing, and not in the way of what the node file asks for.
    Note,
    /// The node starts, and is slower, less steady or weaker than it could be.
    Degraded,
    /// The node does not start, or takes down what the machine needs.
    Fails,
}

impl State {
    /// The stable name, also in JSON.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Note => "note",
            Self::Degraded => "degraded",
            Self::Fails => "fails",
        }
    }
}

/// What one check found, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// The stable name of the check, such as `clock`; some checks find several things.
    pub(crate) check: &'static str,
    pub(crate) state: State,
    /// What is so.
    pub(crate) found: String,
    /// Why it matters and what to do; empty where nothing is to be done.
    pub(crate) help: String,
    /// The exact lines to type, as root, in this order.
    pub(crate) commands: Vec<String>,
}

impl Finding {
    pub(crate) fn new(check: &'static str, state: State, found: impl Into<String>) -> Self {
        Self { check, state, found: found.into(), help: String::new(), commands: Vec::new() }
    }

    pub(crate) fn fine(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, State::Fine, found)
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = help.into();
        self
    }

    pub(crate) fn command(mut self, command: impl Into<String>) -> Self {
        self.commands.push(command.into());
        self
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "check": self.check,
            "state": self.state.name(),
            "found": self.found,
            "help": self.help,
            "commands": self.commands,
        })
    }
}

/// How to add words to the kernel's command line on the distributions that Tachyon is packaged for; they count from the next
/// boot on.
pub(crate) fn boot_with(finding: Finding, words: &str) -> Finding {
    // A file of its own for each set of words, so that one fix does not overwrite another.
    let name = words.split(['=', '.', ' ']).next().unwrap_or("kernel");
    let line = format!("GRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX {words}\"");
    finding
        .command("mkdir -p /etc/default/grub.d")
        .command(format!("echo '{line}' > /etc/default/grub.d/tachyon-{name}.cfg"))
        .command("update-grub && reboot")
}
