//! What a person is told of the ports while the node runs, and the little that can be done about them then.

use crate::{Lanes, PortError};
use alloc::{string::String, vec::Vec};
use core::{fmt, net::IpAddr};

/// How a port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortState {
    /// Frames can pass.
    Ready,
    /// The device has no link.
    LinkDown,
    /// An operator stopped it.
    Stopped,
    /// It is not there yet: the other side has not connected, or a device is still starting.
    Waiting,
    /// It cannot work any more without a restart.
    Failed,
}

/// One port, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortReport {
    /// What people call it; at most 16 bytes, unique in a node.
    pub name: String,
    /// The driver, such as `uring`.
    pub driver: &'static str,
    /// The device or address it stands on.
    pub device: String,
    /// How it is.
    pub state: PortState,
    /// Why it is not ready, and what to do, in one line; empty if it is.
    pub why: String,
    /// Its hardware address, if it has one.
    pub mac: Option<[u8; 6]>,
    /// Speed of its link in Mbit/s, if it is known.
    pub speed_mbps: Option<u32>,
    /// Largest IP packet in bytes, if the driver decides that.
    pub mtu: Option<u32>,
    /// The NUMA node it is at, if it is at one.
    pub numa_node: Option<u32>,
    /// Queues that are open: one for each worker.
    pub queues: u16,
    /// How frames find the queue of their shard: `flow rules`, `rss key`, `sockets` or `none`.
    pub steering: String,
    /// Its IP addresses, each with its network where it has one.
    pub addresses: Vec<String>,
    /// What driver and device count, by their own names; totals since the start.
    pub counters: Vec<(String, u64)>,
}

/// Something that a device or its driver said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Something does not work; otherwise it is weaker than it could be.
    pub is_error: bool,
    /// What it is, and what to do where that is known.
    pub text: String,
}

/// All ports of a node, beside the workers that own their queues. Nothing here is called by a worker, and nothing here may
/// make one wait.
pub trait Ports: fmt::Debug {
    /// How each port is, in the order of the configuration.
    fn reports(&mut self) -> Vec<PortReport>;

    /// Stops a port: its device neither receives nor sends until it is started. A port that is stopped stays so.
    ///
    /// # Errors
    /// There is no port of that name, or it cannot be stopped; and what to do.
    fn stop(&mut self, name: &str) -> Result<(), PortError>;

    /// Starts a port that was stopped. A port that runs goes on.
    ///
    /// # Errors
    /// There is no port of that name, or it cannot be started; and what to do.
    fn start(&mut self, name: &str) -> Result<(), PortError>;

    /// What is to be done from time to time, such as asking for neighbours; called every few milliseconds with a clock that
    /// only rises, in nanoseconds.
    fn tick(&mut self, now_ns: u64);

    /// Frames will go to this address: finds out how to reach it before the first one does.
    fn want(&mut self, to: IpAddr);

    /// Its lanes, if frames need an agreement with a peer before they can go.
    fn lanes(&mut self) -> Option<&mut dyn Lanes> {
        None
    }

    /// What devices said since the last call, oldest first.
    fn said(&mut self) -> Vec<Said> {
        Vec::new()
    }
}
