//! The emulator's control socket, as far as the lab needs it.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

/// A connection that takes commands. Its answers come at once or the emulator is broken, so waiting has a limit.
pub(crate) struct Qmp {
    stream: BufReader<UnixStream>,
}

const ANSWER_MAX: Duration = Duration::from_secs(10);

impl Qmp {
    pub(crate) fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path).with_context(|| format!("no emulator listens at {}", path.display()))?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        let mut qmp = Self { stream: BufReader::new(stream) };
        qmp.command("qmp_capabilities", &json!({}))?; // leaves the greeting's mode, in which nothing else is taken
        Ok(qmp)
    }

    /// Pulls the plug of a card, or puts it back. The card at the other end of the wire keeps its link.
    pub(crate) fn set_link(&mut self, card: &str, up: bool) -> Result<()> {
        self.command("set_link", &json!({ "name": card, "up": up }))
    }

    /// Takes a card out of the machine, as one would a card in a hot-plug slot: the guest is asked to let go of it first.
    pub(crate) fn remove(&mut self, card: &str) -> Result<()> {
        self.command("device_del", &json!({ "id": card }))
    }

    fn command(&mut self, name: &str, arguments: &Value) -> Result<()> {
        writeln!(self.stream.get_mut(), "{}", json!({ "execute": name, "arguments": arguments }))?;
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                bail!("the emulator closed its control socket at {name}");
            }
            let answer: Value = serde_json::from_str(&line)?;
            if let Some(error) = answer.get("error") {
                bail!("the emulator refuses {name} {arguments}: {}", error["desc"]);
            }
            if answer.get("return").is_some() {
                return Ok(()); // greeting and events, which come in between, have neither
            }
        }
    }
}
