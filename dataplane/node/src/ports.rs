//! The one place that names drivers: from the node file to what each worker opens its queue with, and to the cold sides
//! that housekeeping keeps. Everything below is generic.

use crate::{
    afxdp, dpdk,
    filters::Filters,
    rdma,
    topology::Plan,
    transports::{Kind, Reach, Transports},
};
use std::{
    io::ErrorKind,
    net::{IpAddr, UdpSocket},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};
use tachyon_config::{Device, Driver, NodeFile, Switch};
use tachyon_driver_api::{Pool, Port, PortError, PortInfo, Ports};
use tachyon_driver_uring::{ArenaRegion, UringConfig, UringPort, UringPorts, UringQueue};
use tachyon_wire::Endpoint;

/// What one worker opens its queue with, on its own thread.
pub(crate) type PortSeat = Transports<rdma::Seat, dpdk::Seat, afxdp::Seat, UringSeat>;

/// Sockets of one worker.
#[derive(Debug)]
pub(crate) struct UringSeat {
    config: UringConfig,
    /// Made on the worker's thread, because that looks at what the kernel allows there.
    port: Option<UringPort>,
}

impl Port for UringSeat {
    type Queue = UringQueue;

    fn open(&mut self, shards: &[u16], pool: &mut Pool) -> Result<UringQueue, PortError> {
        self.port.insert(UringPort::new(self.config.clone())?).open(shards, pool)
    }

    fn info(&self) -> PortInfo {
        let unopened = || PortInfo {
            driver: Driver::Uring.name(),
            device: self.config.bind_ip.to_string(),
            frame_bytes_max: self.config.frame_bytes_max,
            degraded: Vec::new(),
        };
        self.port.as_ref().map_or_else(unopened, UringPort::info)
    }
}

impl Reach for UringQueue {
    /// The kernel finds a way, or says that there is none.
    #[inline]
    fn reaches(&self, _: &Endpoint) -> bool {
        true
    }
}

/// An arena.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Region {
    pub(crate) base: usize,
    pub(crate) bytes: usize,
    /// Of the pages it stands on.
    #[cfg_attr(not(feature = "dpdk"), expect(dead_code, reason = "only DPDK wants to know"))]
    pub(crate) page_bytes: usize,
}

/// The drivers that are there, while the node is built.
#[derive(Debug)]
pub(crate) struct Devices {
    /// In order of preference.
    order: Vec<Driver>,
    /// Whether the node file names one driver only, which then has to be there.
    single: bool,
    /// Those that are not there, and why.
    missing: Vec<String>,
    verbs: Option<rdma::Cold>,
    dpdk: Option<dpdk::Cold>,
    afxdp: Option<afxdp::Cold>,
    /// Each worker gets this with its own arena.
    uring: Option<UringConfig>,
}

impl Devices {
    /// Opens what can be opened before there is memory, and looks for the rest; what is not there goes to `degraded`.
    ///
    /// # Errors
    /// The only driver of the node file is not there, or none of several is.
    pub(crate) fn open(
        file: &NodeFile,
        plan: &Plan,
        filters: &Filters,
        degraded: &mut Vec<String>,
    ) -> anyhow::Result<Self> {
        let order = file.network.driver.list().to_vec();
        let (single, missing) = (order.len() == 1, Vec::new());
        let mut devices = Self { order, single, missing, verbs: None, dpdk: None, afxdp: None, uring: None };
        for driver in devices.order.clone() {
            let result = match driver {
                Driver::Rdma => rdma::find(file).map(|_| ()),
                Driver::Dpdk => dpdk::open(file, plan, filters).map(|ports| devices.dpdk = Some(ports)),
                Driver::Afxdp => afxdp::open(file, plan, filters).map(|ports| devices.afxdp = Some(ports)),
                Driver::Uring => {
                    wait_for_sockets(file);
                    devices.uring = Some(uring(file));
                    Ok(())
                }
            };
            result.or_else(|error| devices.leave_out(driver, error, degraded))?;
        }
        let (wanted, frame_bytes_max) = (file.frame_bytes_max(), devices.frame_bytes_max(file));
        if frame_bytes_max < wanted {
            degraded.push(format!(
                "frames have at most {frame_bytes_max} bytes and not {wanted}, because of the MTU of {}: raise it, or set \
                 frame_bytes_max in [network]",
                devices.title(Driver::Afxdp)
            ));
        }
        if let Some(uring) = &mut devices.uring {
            uring.frame_bytes_max = frame_bytes_max;
        }
        Ok(devices)
    }

    /// Opens what needs the workers' memory: all of it, in `regions`.
    ///
    /// # Errors
    /// As with [`Devices::open`].
    pub(crate) fn open_with(
        &mut self,
        file: &NodeFile,
        regions: &[Region],
        seed: u64,
        degraded: &mut Vec<String>,
    ) -> anyhow::Result<()> {
        if !self.order.contains(&Driver::Rdma) {
            return Ok(());
        }
        let (alone, before) = (self.order.len() == 1, self.frame_bytes_max(file));
        match rdma::open(file, regions, alone, seed) {
            Ok(ports) => self.verbs = Some(ports),
            Err(error) => return self.leave_out(Driver::Rdma, error, degraded),
        }
        if file.rdma.events && !alone {
            degraded.push("rdma: events = true changes nothing beside other drivers; an idle worker polls".into());
        }
        let (wanted, frame_bytes_max) = (before, self.frame_bytes_max(file));
        if frame_bytes_max < wanted {
            degraded.push(format!(
                "frames have at most {frame_bytes_max} bytes and not {wanted}, because that is the path MTU of {}: raise the MTU of \
                 its interface (4200 gives 4096)",
                self.title(Driver::Rdma)
            ));
        }
        if let Some(uring) = &mut self.uring {
            uring.frame_bytes_max = frame_bytes_max;
        }
        if self.is_soft() {
            degraded.push(format!(
                "{} is software, whose doorbell the kernel takes only from threads that never gave up a right: workers keep user and \
                 capabilities, so use it for trials only",
                self.title(Driver::Rdma)
            ));
        }
        Ok(())
    }

    /// Goes on without a driver, if there is another one.
    fn leave_out(&mut self, driver: Driver, error: anyhow::Error, degraded: &mut Vec<String>) -> anyhow::Result<()> {
        if self.single {
            return Err(error);
        }
        self.order.retain(|one| *one != driver);
        self.missing.push(format!("{}: {error:#}", driver.name()));
        if self.order.is_empty() {
            anyhow::bail!("none of the drivers in [network] is there; {}", self.missing.join("; "));
        }
        degraded.push(format!("{} is left out: {error:#}", driver.name()));
        Ok(())
    }

    /// Whether the workers' threads must keep their rights, see [`rdma::is_soft`].
    pub(crate) fn is_soft(&self) -> bool {
        self.verbs.as_ref().is_some_and(rdma::is_soft)
    }

    /// The names of those that are there, in order.
    pub(crate) fn names(&self) -> String {
        self.order.iter().map(|driver| driver.name()).collect::<Vec<_>>().join(", ")
    }

    /// The same with what each stands on, for people.
    pub(crate) fn titles(&mut self) -> String {
        let order = self.order.clone();
        let titles = order.into_iter().map(|driver| match self.title(driver) {
            title if title.is_empty() => driver.name().to_owned(),
            title => format!("{} ({title})", driver.name()),
        });
        titles.collect::<Vec<_>>().join(", ")
    }

    fn title(&mut self, driver: Driver) -> String {
        let title = match driver {
            Driver::Rdma => self.verbs.as_ref().map(rdma::title),
            Driver::Dpdk => self.dpdk.as_mut().map(dpdk::title),
            Driver::Afxdp => self.afxdp.as_mut().map(afxdp::title),
            Driver::Uring => None,
        };
        title.unwrap_or_default()
    }

    /// What a worker opens its queue with; its buffers lie in `region`.
    pub(crate) fn seat(&mut self, worker: u16, region: Region) -> anyhow::Result<PortSeat> {
        let kind = |driver: &Driver| match driver {
            Driver::Rdma => Kind::Verbs,
            Driver::Dpdk => Kind::Dpdk,
            Driver::Afxdp => Kind::Afxdp,
            Driver::Uring => Kind::Uring,
        };
        let arena = Some(ArenaRegion { base: region.base, bytes: region.bytes });
        let uring = self.uring.clone().map(|config| UringSeat { config: UringConfig { arena, ..config }, port: None });
        Ok(PortSeat {
            order: self.order.iter().map(kind).collect(),
            verbs: self.verbs.as_mut().map(|ports| rdma::seat(ports, worker)).transpose()?,
            dpdk: self.dpdk.as_mut().map(|ports| dpdk::seat(ports, worker, region)).transpose()?,
            afxdp: self.afxdp.as_mut().map(|ports| afxdp::seat(ports, worker)).transpose()?,
            uring,
        })
    }

    /// Buffers that the drivers hold to receive into, of each worker's.
    pub(crate) fn receive_buffers(&self, file: &NodeFile) -> u32 {
        let verbs = self.verbs.as_ref().map_or(0, |_| rdma::receive_buffers(file));
        let dpdk = self.dpdk.as_ref().map_or(0, dpdk::receive_buffers);
        let afxdp = self.afxdp.as_ref().map_or(0, |_| file.afxdp_buffers_kept());
        verbs + dpdk + afxdp + self.uring.as_ref().map_or(0, |config| config.rx_buffers.into())
    }

    /// Largest frame in bytes, header included, that each of them carries.
    pub(crate) fn frame_bytes_max(&self, file: &NodeFile) -> u32 {
        let carried = self.verbs.as_ref().map_or(u32::MAX, rdma::frame_bytes_max);
        let fits = self.afxdp.as_ref().map_or(u32::MAX, afxdp::frame_bytes_max);
        carried.min(fits).min(file.frame_bytes_max())
    }

    /// Bytes in front of each buffer that are the drivers'.
    pub(crate) const fn headroom_bytes(&self) -> u32 {
        match (&self.dpdk, &self.afxdp) {
            (_, Some(_)) => afxdp::HEADROOM_BYTES,
            (Some(_), None) => dpdk::HEADROOM_BYTES,
            (None, None) => 0,
        }
    }

    /// Lets frames come, once every worker has its queue. Returns what is degraded.
    pub(crate) fn start(&mut self, plan: &Plan) -> anyhow::Result<Vec<String>> {
        self.dpdk.as_mut().map_or_else(|| Ok(Vec::new()), |ports| dpdk::start(ports, plan))
    }

    /// Folders of files that ports open while the node runs.
    pub(crate) fn folders(&self, file: &NodeFile) -> Vec<PathBuf> {
        let files = file.ports.iter().filter(|_| self.dpdk.is_some()).flat_map(|port| match &port.device {
            Device::Pcap { read, write } => [read.as_ref(), write.as_ref()],
            Device::Memif { socket, .. } => [Some(socket), None],
            _ => [None, None],
        });
        let paths = files.flatten().map(|path| Path::new(path.as_str()).parent().unwrap_or(Path::new("/")));
        paths.map(|path| if path.as_os_str().is_empty() { PathBuf::from(".") } else { path.to_owned() }).collect()
    }

    /// Folders that they read while the node runs.
    pub(crate) fn read(&self) -> Vec<PathBuf> {
        self.verbs.as_ref().map(rdma::files).unwrap_or_default()
    }

    /// Where publishers find the node by UDP: the first address of the first port, or where sockets listen; with neither, its
    /// RDMA address.
    pub(crate) fn address(&self, file: &NodeFile) -> IpAddr {
        let ports = file.ports.iter().filter(|_| self.dpdk.is_some());
        let first = ports.flat_map(|port| &port.addresses).next().map(|network| network.ip());
        let sockets = || self.uring.as_ref().map(|_| file.network.address);
        first.or_else(sockets).or_else(|| file.rdma_address()).unwrap_or(file.network.address)
    }

    /// What is left after that: the cold sides, in order.
    pub(crate) fn cold(self, queues: u16) -> Vec<Box<dyn Ports>> {
        let mut verbs = self.verbs.map(rdma::cold);
        let mut dpdk = self.dpdk.map(dpdk::cold);
        let mut afxdp = self.afxdp.map(afxdp::cold);
        let mut uring = self.uring.map(|config| Box::new(UringPorts::new(&config, queues)) as Box<dyn Ports>);
        let take = |driver: &Driver| match driver {
            Driver::Rdma => verbs.take(),
            Driver::Dpdk => dpdk.take(),
            Driver::Afxdp => afxdp.take(),
            Driver::Uring => uring.take(),
        };
        self.order.iter().filter_map(take).collect()
    }
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
