//! What stands between publisher and subscriber: a node, or a relay in its place, both on the last core.

use crate::{
    Build,
    node::{self, Node, SHARDS, Start},
};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader, Lines},
    process::{Child, ChildStdout, Command, Stdio},
};

/// Which of them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `tachyond` with control and rules; the word is what its frames to subscribers carry.
    Node(&'static str),
    /// A relay; the word is how it talks to the kernel.
    Relay(&'static str),
}

impl Kind {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Node(egress) => format!("tachyond, {egress} egress"),
            Self::Relay(mode) => format!("relay, {mode}"),
        }
    }
}

/// One that runs until it is dropped.
pub(crate) enum Middle {
    Node(Box<Node>, &'static str),
    Relay(Relay),
}

impl Middle {
    /// Starts it. `spin`: it never sleeps, else it sleeps whenever there is nothing to do, so that its CPU time is work.
    pub(crate) fn start(kind: Kind, spin: bool) -> Result<Self> {
        match kind {
            Kind::Node(egress) => {
                let values = [("idle", if spin { "spin" } else { "wait" })];
                let node = Node::start(&Start { build: Build::Release, files: "bench", values: &values, nice: None })?;
                Ok(Self::Node(Box::new(node), egress))
            }
            Kind::Relay(mode) => Relay::start(mode, if spin { "0" } else { "1000000" }).map(Self::Relay),
        }
    }

    /// What the load generator is told to reach it.
    pub(crate) fn words(&self) -> Vec<String> {
        match self {
            Self::Node(node, egress) => [node.words(), ["--egress", egress].map(Into::into).into()].concat(),
            Self::Relay(relay) => {
                let (at, port) = (format!("127.0.0.1:{}", relay.base_port), relay.base_port + SHARDS);
                ["--relay", &at, "--listen-port", &port.to_string()].map(Into::into).into()
            }
        }
    }

    /// CPU time of the thread that does the work, in seconds.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        match self {
            Self::Node(node, _) => cpu_seconds(node.data_pid(), "worker-0"),
            Self::Relay(relay) => cpu_seconds(relay.child.id(), "tachyon-peers"),
        }
    }

    /// Ends it; how many messages it gave to the device, by its own count. `report` is the load generator's.
    pub(crate) fn stop(self, report: &Value) -> Result<f64> {
        let forwarded = match self {
            Self::Node(node, _) => {
                node.stop()?;
                report["ledgers"]["copies"]["given"].as_f64()
            }
            Self::Relay(mut relay) => {
                drop(relay.child.stdin.take());
                relay.line()?["messages"].as_f64()
            }
        };
        forwarded.context("it did not say how much it forwarded")
    }
}

/// A relay.
pub(crate) struct Relay {
    child: Child,
    output: Lines<BufReader<ChildStdout>>,
    base_port: u16,
}

impl Relay {
    fn start(mode: &str, wait_ns: &str) -> Result<Self> {
        let base_port = node::free_ports(2 * SHARDS)?;
        let mut child = Command::new(Build::Release.program("tachyon-peers"))
            .args(["relay", "--mode", mode, "--wait-ns", wait_ns, "--shards", &SHARDS.to_string()])
            .args(["--base-port", &base_port.to_string(), "--to", &format!("127.0.0.1:{}", base_port + SHARDS)])
            .args(["--cpu", &node::last_core().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start tachyon-peers")?;
        let output = BufReader::new(child.stdout.take().context("its output is piped")?).lines();
        let mut relay = Self { child, output, base_port };
        relay.line().context("the relay did not start")?;
        Ok(relay)
    }

    /// What it prints next.
    fn line(&mut self) -> Result<Value> {
        let line = self.output.next().context("the relay ended early")??;
        serde_json::from_str(&line).context("tachyon-peers prints JSON lines")
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended by itself, which is as good
        let _ = self.child.wait();
    }
}

/// CPU time of a process's threads of this name, and of those that the kernel started for their io_uring, in seconds.
fn cpu_seconds(pid: u32, name: &str) -> Result<f64> {
    let mut sum_ns = 0.0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread = thread?.path();
        let comm = fs::read_to_string(thread.join("comm"))?;
        if comm.trim() == name || comm.starts_with("iou-wrk") {
            let stat = fs::read_to_string(thread.join("schedstat"))?;
            sum_ns += stat.split(' ').next().unwrap_or_default().parse::<f64>().context("schedstat")?;
        }
    }
    if sum_ns == 0.0 {
        bail!("process {pid} has no thread {name}");
    }
    Ok(sum_ns / 1e9)
}
