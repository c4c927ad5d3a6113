//! The one place that names drivers: from the node file to what each worker opens its queue with, and to the cold side
//! that housekeeping keeps. Everything below is generic.

use crate::topology::Plan;
use std::{
    io::ErrorKind,
    net::{IpAddr, UdpSocket},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};
use tachyon_config::{Device, Driver, NodeFile, Switch};
use tachyon_driver_api::Ports;
use tachyon_driver_uring::{ArenaRegion, UringConfig, UringPorts};

/// What one worker opens its queue with, on its own thread.
#[derive(Debug)]
pub(crate) enum PortSeat {
    /// Sockets of its own.
    Uring(UringConfig),
    /// One queue of each device.
    #[cfg(feature = "dpdk")]
    Dpdk(tachyon_driver_dpdk::DpdkSeat),
}

/// The driver that the node file names, while the node is built.
#[derive(Debug)]
pub(crate) enum Devices {
    /// UDP sockets; each worker gets this with its own arena.
    Uring(UringConfig),
    /// Devices of our own.
    #[cfg(feature = "dpdk")]
    Dpdk(Box<tachyon_driver_dpdk::DpdkPorts>),
}

/// A worker's arena.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Region {
    pub(crate) base: usize,
    pub(crate) bytes: usize,
    /// Of the pages it stands on.
    #[cfg_attr(not(feature = "dpdk"), expect(dead_code, reason = "only devices of our own want to know"))]
    pub(crate) page_bytes: usize,
}

impl Devices {
    /// Makes what the driver needs before there is a worker.
    ///
    /// # Errors
    /// This build does not have the driver, or a device cannot be opened.
    pub(crate) fn open(file: &NodeFile, plan: &Plan) -> anyhow::Result<Self> {
        match file.network.driver {
            Driver::Uring => {
                wait_for_sockets(file);
                Ok(Self::Uring(uring(file)))
            }
            #[cfg(feature = "dpdk")]
            Driver::Dpdk => {
                Ok(Self::Dpdk(Box::new(tachyon_driver_dpdk::DpdkPorts::open(crate::dpdk::config(file, plan)?)?)))
            }
            #[cfg(not(feature = "dpdk"))]
            Driver::Dpdk => {
                let _ = plan;
                anyhow::bail!("this tachyond was built without DPDK; build it with --features dpdk")
            }
        }
    }

    /// What a worker opens its queue with; its buffers lie in `region`.
    pub(crate) fn seat(&mut self, worker: u16, region: Region) -> anyhow::Result<PortSeat> {
        match self {
            Self::Uring(config) => {
                let arena = Some(ArenaRegion { base: region.base, bytes: region.bytes });
                let _ = worker;
                Ok(PortSeat::Uring(UringConfig { arena, ..config.clone() }))
            }
            #[cfg(feature = "dpdk")]
            Self::Dpdk(ports) => crate::dpdk::seat(ports, worker, region),
        }
    }

    /// Buffers that the driver holds to receive into, of each worker's.
    pub(crate) fn receive_buffers(&self) -> u32 {
        match self {
            Self::Uring(config) => config.rx_buffers.into(),
            #[cfg(feature = "dpdk")]
            Self::Dpdk(ports) => ports.buffers_held(),
        }
    }

    /// Lets frames come, once every worker has its queue. Returns what is degraded.
    pub(crate) fn start(&mut self, plan: &Plan) -> anyhow::Result<Vec<String>> {
        match self {
            Self::Uring(_) => {
                let _ = plan; // sockets are bound when they are opened
                Ok(Vec::new())
            }
            #[cfg(feature = "dpdk")]
            Self::Dpdk(ports) => crate::dpdk::start(ports, plan),
        }
    }

    /// What is left after that: the cold side.
    pub(crate) fn cold(self, queues: u16) -> Box<dyn Ports> {
        match self {
            Self::Uring(config) => Box::new(UringPorts::new(&config, queues)),
            #[cfg(feature = "dpdk")]
            Self::Dpdk(ports) => ports,
        }
    }
}

/// Bytes in front of each buffer that are the driver's.
pub(crate) const fn headroom_bytes(file: &NodeFile) -> u32 {
    match file.network.driver {
        Driver::Uring => 0,
        #[cfg(feature = "dpdk")]
        Driver::Dpdk => tachyon_driver_dpdk::HEADROOM_BYTES,
        #[cfg(not(feature = "dpdk"))]
        Driver::Dpdk => 0,
    }
}

/// Folders of files that ports open while the node runs.
pub(crate) fn folders(file: &NodeFile) -> Vec<PathBuf> {
    let files = file.ports.iter().flat_map(|port| match &port.device {
        Device::Pcap { read, write } => [read.as_ref(), write.as_ref()],
        Device::Memif { socket, .. } => [Some(socket), None],
        _ => [None, None],
    });
    let paths = files.flatten().map(|path| Path::new(path.as_str()).parent().unwrap_or(Path::new("/")));
    paths.map(|path| if path.as_os_str().is_empty() { PathBuf::from(".") } else { path.to_owned() }).collect()
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
