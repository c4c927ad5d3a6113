//! What the ports of a node are opened with.

use crate::{device::Device, eal::EalConfig, pool::CACHE, steer::Owners};
use std::net::IpAddr;
use tachyon_driver_api::BURST_MAX;
use tachyon_driver_ether::{Mac, Network};

/// One port as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// What people call it.
    pub name: String,
    /// What it stands on.
    pub device: Device,
    /// Its addresses, with their networks and gateways.
    pub networks: Vec<Network>,
    /// The VLAN that its packets are tagged with.
    pub vlan: Option<u16>,
    /// Longest IP packet in bytes.
    pub mtu: u16,
    /// Its Ethernet address, where the device does not bring one.
    pub mac: Option<Mac>,
    /// Neighbours that are not asked for.
    pub neighbours: Vec<(IpAddr, Mac)>,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DpdkConfig {
    /// How DPDK is started.
    pub eal: EalConfig,
    /// At least one, at most 16.
    pub ports: Vec<PortConfig>,
    /// Shard n is at this UDP port + n.
    pub base_port: u16,
    /// The shards of each worker.
    pub shards: Vec<Vec<u16>>,
    /// Descriptors of each queue.
    pub receive_descriptors: u16,
    /// Descriptors of each queue.
    pub transmit_descriptors: u16,
}

/// An arena: where it lies, its length, and the size of the pages it stands on, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its first address, exposed.
    pub base: usize,
    /// Its length.
    pub bytes: usize,
    /// Its pages.
    pub page_bytes: usize,
}

impl DpdkConfig {
    /// Buffers that a worker's devices and pool hold; what goes beyond is the worker's.
    #[must_use]
    pub fn buffers_held(&self) -> usize {
        let rings = usize::from(self.receive_descriptors) + usize::from(self.transmit_descriptors);
        self.ports.len() * rings + CACHE as usize * 2 + BURST_MAX
    }

    pub(crate) fn owners(&self) -> Owners {
        let most = self.shards.iter().flatten().copied().max().map_or(0, |shard| usize::from(shard) + 1);
        let mut queues = vec![0; most];
        for (worker, shards) in (0u16..).zip(&self.shards) {
            shards.iter().for_each(|shard| queues[usize::from(*shard)] = worker);
        }
        Owners { base_port: self.base_port, queues }
    }
}
