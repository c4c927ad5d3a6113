//! `cargo xtask bench xdp`: builds the benchmark of the pre-filter and the XDP sockets, and the node it floods, and runs it.

use crate::{Build, install, node, run as run_command};
use anyhow::{Result, bail};
use std::process::Command;

pub(crate) fn run(words: &[String]) -> Result<()> {
    let tools: [(&[&str], &str); 4] = [
        (&["clang", "--version"], "clang"),
        (&["pkg-config", "--exists", "libbpf"], "libbpf-dev"),
        (&["ethtool", "--version"], "ethtool"),
        (&["which", "xdp-filter"], "xdp-tools"),
    ];
    let missing: Vec<&str> =
        tools.iter().filter(|(shows, _)| !install::is_there(shows)).map(|(_, name)| *name).collect();
    if !missing.is_empty() {
        bail!("something is not installed: apt-get install {}", missing.join(" "));
    }
    node::build(&["tachyon-bench-xdp"], true)?;
    run_command(Command::new(Build::Release.program("tachyon-xdp-bench")).args(words))
}
