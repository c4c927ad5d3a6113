//! The one place that names drivers: from the node file to what each worker opens its queue with, and to the cold side
//! that housekeeping keeps. Everything below is generic.

use anyhow::bail;
use std::{
    io::ErrorKind,
    net::{IpAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};
use tachyon_config::{Driver, NodeFile, Switch};
use tachyon_driver_api::Ports;
use tachyon_driver_uring::{ArenaRegion, UringConfig, UringPorts};

/// What one worker opens its queue with, on its own thread.
#[derive(Debug)]
pub(crate) enum PortSeat {
    /// Sockets of its own.
    Uring(UringConfig),
}

/// The driver that the node file names, while the node is built.
#[derive(Debug)]
pub(crate) enum Devices {
    /// UDP sockets; each worker gets this with its own arena.
    Uring(UringConfig),
}

impl Devices {
    /// Makes what the driver needs before there is a worker.
    ///
    /// # Errors
    /// This build does not have the driver.
    pub(crate) fn open(file: &NodeFile) -> anyhow::Result<Self> {
        match file.network.driver {
            Driver::Uring => {
                wait_for_sockets(file);
                Ok(Self::Uring(uring(file)))
            }
            Driver::Dpdk => bail!("this tachyond was built without DPDK; build it with --features dpdk"),
        }
    }

    /// What a worker opens its queue with; its buffers lie in `region`.
    pub(crate) fn seat(&self, region: ArenaRegion) -> PortSeat {
        match self {
            Self::Uring(config) => PortSeat::Uring(UringConfig { arena: Some(region), ..config.clone() }),
        }
    }

    /// What is left once every worker has its queue: the cold side.
    pub(crate) fn cold(self, queues: u16) -> Box<dyn Ports> {
        match self {
            Self::Uring(config) => Box::new(UringPorts::new(&config, queues)),
        }
    }
}

/// The driver's name.
pub(crate) const fn driver(file: &NodeFile) -> &'static str {
    match file.network.driver {
        Driver::Uring => "uring",
        Driver::Dpdk => "dpdk",
    }
}

/// Where publishers find the node: where it listens, or the first port's first address.
pub(crate) fn address(file: &NodeFile) -> IpAddr {
    let first = file.ports.first().and_then(|port| port.addresses.first());
    first.map_or(file.network.address, |network| network.ip())
}

fn uring(file: &NodeFile) -> UringConfig {
    let network = &file.network;
    UringConfig {
        receive_buffer_bytes: network.socket_buffer_bytes,
        send_buffer_bytes: network.socket_buffer_bytes,
        frame_bytes_max: file.frame_bytes_max(),
        gso: network.gso,
        zero_copy: network.zero_copy,
        force_fallback: network.io_uring == Switch::Off,
        rx_buffers: file.memory.receive_buffers,
        ..UringConfig::new(network.address, network.base_port)
    }
}

/// Longest wait for the sockets of a node that was just killed.
const SOCKETS_PATIENCE: Duration = Duration::from_secs(2);

/// Waits until the sockets can be bound, for a while: the kernel takes an io_uring down after its process has ended, and
/// holds its sockets until then. Whatever is still wrong with them afterwards is for the driver to say.
fn wait_for_sockets(file: &NodeFile) {
    let end = Instant::now() + SOCKETS_PATIENCE;
    let taken = |shard| {
        let bound = UdpSocket::bind((file.network.address, file.network.base_port + shard));
        bound.is_err_and(|error| error.kind() == ErrorKind::AddrInUse)
    };
    while (0..file.network.shard_count).any(taken) && Instant::now() < end {
        thread::sleep(Duration::from_millis(20));
    }
}
