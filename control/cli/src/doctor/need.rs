//! What a node file needs from the machine.

use super::xdp::XdpNeed;
use tachyon_config::{Device, Driver, Idle, NodeFile, Pages, Switch};

/// What the checks hold the machine against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    /// The driver, as the node file writes it.
    pub(crate) driver: String,
    /// Whether that driver takes a device from the kernel through vfio.
    pub(crate) vfio: bool,
    /// Workers, and the cores they are pinned to; no cores: `tachyond` chooses.
    pub(crate) workers: u16,
    pub(crate) cores: Vec<u16>,
    /// Whether idle workers keep their cores.
    pub(crate) spins: bool,
    /// Bytes of buffers of one worker.
    pub(crate) buffer_bytes_per_worker: u64,
    /// Bytes of all tables, roughly.
    pub(crate) table_bytes: u64,
    pub(crate) pages: Pages,
    /// Whether memory shall be locked.
    pub(crate) locks: bool,
    /// Whether io_uring may be used.
    pub(crate) io_uring: bool,
    /// Bytes the kernel shall hold per socket and direction.
    pub(crate) socket_buffer_bytes: u64,
    /// File descriptors, at most.
    pub(crate) descriptors: u64,
    /// What pre-filters and XDP sockets need.
    pub(crate) xdp: XdpNeed,
}

impl Need {
    pub(crate) fn of(file: &NodeFile) -> Self {
        let (memory, limits, workers) = (&file.memory, &file.limits, u64::from(file.workers.count));
        let shards = u64::from(file.network.shard_count);
        Self {
            driver: file.network.driver.to_string(),
            vfio: file.ports.iter().any(|port| matches!(port.device, Device::Pci(_))),
            workers: file.workers.count,
            cores: file.workers.cores.clone(),
            spins: file.workers.idle == Idle::Spin,
            buffer_bytes_per_worker: u64::from(file.buffers_per_worker()) * u64::from(file.buffer_bytes()),
            // The sizes that the node file's manual gives: topics and senders 32 bytes, targets 4 a shard, sessions 3 KiB.
            table_bytes: 32 * u64::from(limits.topics_max)
                + 32 * u64::from(limits.senders_max) * workers
                + 4 * u64::from(limits.targets_max) * shards
                + 3_072 * u64::from(limits.sessions_max),
            pages: memory.pages,
            locks: memory.lock,
            io_uring: file.network.driver.has(Driver::Uring) && file.network.io_uring == Switch::Auto,
            socket_buffer_bytes: u64::from(file.network.socket_buffer_bytes),
            // A socket a shard; a ring, an arena, an eventfd and spares a worker; and what the process has anyway.
            descriptors: 2 * shards + 16 * workers + 64,
            xdp: XdpNeed::of(file),
        }
    }

    /// Bytes of buffers of all workers.
    pub(crate) fn buffer_bytes(&self) -> u64 {
        self.buffer_bytes_per_worker * u64::from(self.workers)
    }
}
