//! One node in a folder of its own: its programs, its files, its two processes, and their end.

use crate::{Build, cargo, install, root, run};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    fs,
    net::UdpSocket,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::{available_parallelism, sleep},
    time::{Duration, Instant},
};

/// Shards of the fabric, and so ports that each side needs in a row.
pub(crate) const SHARDS: u16 = 16;
/// How long a process may take to come up: pages are touched and sockets opened, which a busy machine makes slow.
const PATIENCE: Duration = Duration::from_secs(20);

/// The programs of a node and its load.
const PACKAGES: [&str; 4] = ["tachyon-node", "tachyon-daemon", "tachyon-cli", "tachyon-loadgen"];

/// Builds node, load and these further packages in release, the node with whatever libraries there are.
pub(crate) fn build(more: &[&str], quiet: bool) -> Result<()> {
    let mut command = cargo(&["build", "--release", "--locked"]);
    for package in PACKAGES.iter().chain(more) {
        command.args(["-p", package]);
    }
    if install::has_hwloc() {
        command.args(["--features", "tachyon-node/hwloc"]);
    }
    if install::has_dpdk() {
        command.args(["--features", "tachyon-node/dpdk"]);
    }
    if install::has_verbs() {
        command.args(["--features", "tachyon-node/verbs"]);
    }
    if install::has_bpf() {
        command.args(["--features", "tachyon-node/xdp"]);
    }
    if quiet {
        command.arg("--quiet");
    }
    run(&mut command)
}

/// What a node is started with.
pub(crate) struct Start<'a> {
    /// Which of its programs.
    pub(crate) build: Build,
    /// Folder of its files below `xtask/`: `node.toml`, `control.toml` and `rules.toml` at least.
    pub(crate) files: &'a str,
    /// What {names} in the files stand for, beside {dir}, {base_port} and {core}.
    pub(crate) values: &'a [(&'a str, &'a str)],
    /// How much it gives way to others on its core, as `nice` takes it.
    pub(crate) nice: Option<u8>,
}

/// A node that runs until it is dropped.
pub(crate) struct Node {
    build: Build,
    dir: PathBuf,
    subscriber_port: u16,
    data: Child,
    control: Option<Child>,
}

impl Node {
    /// Starts both processes and applies the first rules.
    pub(crate) fn start(start: &Start<'_>) -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("tachyon-node-{}", std::process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let base_port = free_ports(2 * SHARDS)?;
        let fill = |text: &str| {
            let text = text
                .replace("{dir}", &dir.to_string_lossy())
                .replace("{base_port}", &base_port.to_string())
                .replace("{core}", &last_core().to_string());
            start.values.iter().fold(text, |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
        };
        for file in fs::read_dir(root().join("xtask").join(start.files))? {
            let file = file?;
            fs::write(dir.join(file.file_name()), fill(&fs::read_to_string(file.path())?))?;
        }
        let mut command = match start.nice {
            None => Command::new(start.build.program("tachyond")),
            Some(nice) => {
                let mut command = Command::new("nice");
                command.args(["-n", &nice.to_string()]).arg(start.build.program("tachyond"));
                command
            }
        };
        let data = command.arg("--config").arg(dir.join("node.toml")).stdout(Stdio::null()).spawn();
        let data = data.context("cannot start tachyond")?;
        let mut node = Self { build: start.build, subscriber_port: base_port + SHARDS, dir, data, control: None };
        node.await_socket("tachyond.sock")?;
        node.start_control()?;
        node.apply("rules.toml")?;
        Ok(node)
    }

    /// What `tachyond` is to the kernel.
    pub(crate) fn data_pid(&self) -> u32 {
        self.data.id()
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the load generator is told to reach it.
    pub(crate) fn words(&self) -> Vec<String> {
        let (socket, port) = (self.control_socket(), self.subscriber_port.to_string());
        ["--control", &socket.to_string_lossy(), "--listen-port", &port].map(Into::into).into()
    }

    fn control_socket(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    /// Starts control and waits until it answers and has the node.
    pub(crate) fn start_control(&mut self) -> Result<()> {
        let child = Command::new(self.build.program("tachyon-control"))
            .arg("--config")
            .arg(self.dir.join("control.toml"))
            .spawn();
        self.control = Some(child.context("cannot start tachyon-control")?);
        let begun = Instant::now();
        while !self.status().is_ok_and(|status| status["data_plane"]["connected"] == true) {
            if begun.elapsed() > PATIENCE {
                let status = self.status().context("tachyon-control does not answer")?;
                bail!("tachyon-control has no node: {}", status["data_plane"]["problem"]);
            }
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Ends control as a crash would.
    pub(crate) fn kill_control(&mut self) -> Result<()> {
        let mut control = self.control.take().context("control runs")?;
        control.kill()?;
        control.wait()?;
        Ok(())
    }

    /// Applies one of its rules files; returns what the command line said.
    pub(crate) fn apply(&self, name: &str) -> Result<String> {
        let said = self.ask(&["rules", "apply", &self.dir.join(name).to_string_lossy()])?;
        Ok(format!("rules: {}", said.trim()))
    }

    /// What `tachyon status` says.
    pub(crate) fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.ask(&["status", "--json"])?)?)
    }

    fn ask(&self, words: &[&str]) -> Result<String> {
        let output = Command::new(self.build.program("tachyon"))
            .arg("--socket")
            .arg(self.control_socket())
            .args(words)
            .output()?;
        if !output.status.success() {
            bail!("tachyon {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    fn await_socket(&mut self, name: &str) -> Result<()> {
        let begun = Instant::now();
        while !self.dir.join(name).exists() {
            if let Some(status) = self.data.try_wait()? {
                bail!("tachyond ended at once with {status}");
            }
            if begun.elapsed() > PATIENCE {
                bail!("tachyond did not open {name} within {PATIENCE:?}");
            }
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Ends both processes and removes the folder.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.end();
        fs::remove_dir_all(&self.dir).with_context(|| format!("cannot remove {}", self.dir.display()))
    }

    fn end(&mut self) {
        for child in self.control.iter_mut().chain([&mut self.data]) {
            let _ = child.kill(); // it may have ended by itself, which is as good
            let _ = child.wait();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.end();
    }
}

/// The core that a node has, which the load then leaves alone.
pub(crate) fn last_core() -> usize {
    cores() - 1
}

/// The load generator, which stays off the node's core.
pub(crate) fn load(build: Build) -> Command {
    let mut command = Command::new(build.program("tachyon-load"));
    command.args(["run", "--json"]);
    if cores() == 2 {
        command.args(["--cpu", "0"]); // with more, the kernel finds it a free one by itself
    }
    command
}

/// Cores that there are.
pub(crate) fn cores() -> usize {
    available_parallelism().map_or(1, usize::from)
}

/// The first port of a run of free UDP ports on loopback: from the default base port on, below the ephemeral ones.
pub(crate) fn free_ports(count: u16) -> Result<u16> {
    let free = |port| UdpSocket::bind(("127.0.0.1", port)).is_ok();
    let mut starts = (24_640..32_768 - count).step_by(usize::from(count));
    starts
        .find(|start| (*start..start + count).all(free))
        .with_context(|| format!("no {count} free UDP ports in a row on loopback"))
}
