//! What the ports of a node are opened with.

use std::{os::fd::OwnedFd, sync::Arc};

/// Headers that nearly every packet has: Ethernet 14, IPv4 20, UDP 8.
const USUAL_HEADER_BYTES: u32 = 42;

/// Under which key an interface's XDP program looks for a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MapKey {
    /// The receive queue. Frames of another worker's shards come to it too, and end there.
    #[default]
    Queue,
    /// The receive queue times this many shards, and the shard; a socket has one key for each shard of its worker. Frames of
    /// another worker's shards find no socket, and pass to the kernel.
    QueueAndShard(u16),
}

/// One port as it is configured: an interface of the kernel, which keeps its addresses, routes and neighbours.
#[derive(Clone, Debug)]
pub struct PortConfig {
    /// What people call it.
    pub name: String,
    /// The interface, such as `eth0`. Not a VLAN interface: XDP runs on the device below, and there packets have a tag.
    pub interface: String,
    /// Worker n owns the receive and transmit queue with this number + n.
    pub first_queue: u32,
    /// The `XSKMAP` by which the interface's XDP program finds our sockets, see [`MapKey`]. Interfaces with the same queue
    /// numbers need maps of their own. `None` leaves it to somebody else, and until then nothing comes.
    pub xskmap: Option<Arc<OwnedFd>>,
    /// Its keys.
    pub map_key: MapKey,
    /// Have the kernel copy packets even where the device could use our memory.
    pub force_copy: bool,
    /// Send packets in one piece even where they could have several.
    pub force_one_piece: bool,
    /// Compute UDP checksums over IPv4 too, where frames protect themselves. Over IPv6 they always are.
    pub udp_checksum: bool,
    /// How long one call may serve the device in µs, in place of its interrupts; then each turn makes a call. 0: never.
    pub busy_poll_us: u32,
}

impl PortConfig {
    /// The first queues of an interface, as fast as they can be.
    #[must_use]
    pub fn new(name: &str, interface: &str, xskmap: Option<Arc<OwnedFd>>) -> Self {
        Self {
            name: name.to_owned(),
            interface: interface.to_owned(),
            first_queue: 0,
            xskmap,
            map_key: MapKey::Queue,
            force_copy: false,
            force_one_piece: false,
            udp_checksum: false,
            busy_poll_us: 0,
        }
    }
}

/// All of it.
#[derive(Clone, Debug)]
pub struct AfxdpConfig {
    /// At least one, at most 16.
    pub ports: Vec<PortConfig>,
    /// Shard n is at this UDP port + n.
    pub base_port: u16,
    /// The shards of each worker.
    pub shards: Vec<Vec<u16>>,
    /// Buffers that each socket has to receive into: a power of two.
    pub receive_descriptors: u32,
    /// Packets, or pieces of them, that each socket has to send: a power of two, at least 256.
    pub transmit_descriptors: u32,
    /// Bytes between the start of a buffer and a packet in it: by default so many that a frame behind the usual 42 bytes of
    /// headers starts on a cache line.
    pub lead_bytes: u32,
}

impl AfxdpConfig {
    /// These ports, with rings for a few bursts.
    #[must_use]
    pub const fn new(ports: Vec<PortConfig>, base_port: u16, shards: Vec<Vec<u16>>) -> Self {
        let lead_bytes = 64 - USUAL_HEADER_BYTES;
        Self { ports, base_port, shards, receive_descriptors: 1_024, transmit_descriptors: 1_024, lead_bytes }
    }

    /// Buffers of each worker that its sockets hold when they are full; what goes beyond is the worker's. Up to 64 more where a
    /// socket takes packets in one piece only.
    #[must_use]
    pub fn buffers_held(&self) -> usize {
        let rings = self.receive_descriptors as usize + self.transmit_descriptors as usize;
        self.ports.len() * rings + crate::port::HEADER_ROOMS as usize / crate::port::HEADER_ROOMS_MIN as usize
    }
}
