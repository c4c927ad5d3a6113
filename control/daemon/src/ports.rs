//! The node's ports: who may set them, and what is asked of `tachyond`. Control keeps nothing of them, because they are
//! the node file's.

use crate::{
    refusal::Refusal,
    state::{Caller, State},
};
use tachyon_segment::handover::{ControlEnd, PORT_NAME_MAX, PortStatus, Request};
use tracing::info;

impl State {
    /// The node's ports, in the order of its file.
    ///
    /// # Errors
    /// There is no node, or it went away.
    pub(crate) fn ports(&mut self) -> Result<Vec<PortStatus>, Refusal> {
        self.ask(ControlEnd::ports)
    }

    /// Starts or stops a port.
    ///
    /// # Errors
    /// The caller may not, there is no such port, or the node says why it cannot.
    pub(crate) fn set_port(&mut self, caller: Caller, name: &str, running: bool) -> Result<(), Refusal> {
        self.only_administrators(caller, "set ports")?;
        // A longer one would not get through to the node, which says the same of one that it does not have.
        if name.is_empty() || name.len() > PORT_NAME_MAX {
            let text = format!("no port is named `{name}`: names have 1 to {PORT_NAME_MAX} bytes; see `tachyon ports`");
            return Err(Refusal::Invalid(text));
        }
        let name = name.to_owned();
        info!(port = name, running, uid = caller.uid, "setting a port");
        self.call(&if running { Request::StartPort(name) } else { Request::StopPort(name) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registry;
    use tachyon_config::ControlFile;

    #[test]
    fn only_administrators_set_ports() {
        let folder = std::env::temp_dir().join(format!("tachyon-ports-{}", std::process::id()));
        let (registry, stored) = Registry::open(&folder).unwrap();
        let config = ControlFile { admin_uids: vec![7], ..ControlFile::default() };
        let mut state = State::new(config, 5, registry, stored).unwrap();
        let mut set = |uid| state.set_port(Caller { uid, pid: None }, "east", false).unwrap_err();
        let denied = set(6);
        assert!(matches!(&denied, Refusal::Denied(text) if text.contains("user 6 may not set ports")), "{denied:?}");
        for uid in [0, 5, 7] {
            assert!(matches!(set(uid), Refusal::Unavailable(_)), "user {uid} may, but there is no node");
        }
        drop(state);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
