//! What a port is opened with.

use std::net::IpAddr;

/// What the driver is called in reports.
pub(crate) const DRIVER: &str = "uring";
/// Largest frame on Ethernet at MTU 1500 over IPv4: 1500 − 20 (IP) − 8 (UDP) = 1472 = 64 + 22 × 64.
pub(crate) const FRAME_BYTES_DEFAULT: u32 = 1_472;
/// 4 MiB: what `net.core.rmem_max` allows on a stock kernel from 6.12 on; about 1 ms of 25 Gbit/s.
const SOCKET_BUFFER_BYTES_DEFAULT: u32 = 4 << 20;
/// 64 receive buffers, one burst: more are not read before the next one is filled, and cost cache.
const RX_BUFFERS_DEFAULT: u16 = 64;
/// What a buffer for this driver should have: 128 bytes in front of the first frame and 65,507, the largest datagram, are
/// 65,664 in whole lines; up to 1,057 lines, because with an odd number of lines the starts of neighbours fall into
/// different sets of a cache (with 64 KiB all fall into one, which costs up to 20 %).
pub const BUFFER_BYTES: u32 = 1_057 * 64;
/// 256 buffers in flight: four bursts of 64.
const TX_DEPTH_DEFAULT: u16 = 256;

/// The memory that all buffers lie in, to be registered with the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArenaRegion {
    /// Its first address.
    pub base: usize,
    /// Its length in bytes.
    pub bytes: usize,
}

/// How to open a port.
#[derive(Clone, Debug)]
pub struct UringConfig {
    /// The address to bind; unspecified means all. An IPv4 address reaches IPv4 only, `::` reaches both.
    pub bind_ip: IpAddr,
    /// Shard `n` is at `base_port + n`; 0: each shard gets a port of the kernel's choice, see
    /// [`UringPort::local_port`](crate::UringPort::local_port).
    pub base_port: u16,
    /// Bytes of frames that the kernel may hold per socket before it drops.
    pub receive_buffer_bytes: u32,
    /// Bytes of frames that the kernel may hold per socket before a send has to be tried again.
    pub send_buffer_bytes: u32,
    /// Largest frame in bytes, header included.
    pub frame_bytes_max: u32,
    /// Send and receive runs of equal frames in one go (`UDP_SEGMENT`, `UDP_GRO`).
    pub gso: bool,
    /// Send without copying (`SEND_ZC`): pays for large frames on a NIC, costs on loopback, where the kernel copies anyway.
    pub zero_copy: bool,
    /// Use `recvmmsg` and `sendmmsg` even where the kernel has io_uring.
    pub force_fallback: bool,
    /// Most buffers that the kernel holds to receive into, per queue; rounded up to a power of two, at most 32,768. With long
    /// runs it gets fewer, as many as fit in a cache.
    pub rx_buffers: u16,
    /// Buffers in flight, per queue; at most 16,384.
    pub tx_depth: u16,
    /// Registered for `zero_copy`, so that pages are not pinned per send; ignored without it, as copying needs no pinning.
    pub arena: Option<ArenaRegion>,
}

impl UringConfig {
    /// The defaults, on this address.
    #[must_use]
    pub const fn new(bind_ip: IpAddr, base_port: u16) -> Self {
        Self {
            bind_ip,
            base_port,
            receive_buffer_bytes: SOCKET_BUFFER_BYTES_DEFAULT,
            send_buffer_bytes: SOCKET_BUFFER_BYTES_DEFAULT,
            frame_bytes_max: FRAME_BYTES_DEFAULT,
            gso: true,
            zero_copy: false,
            force_fallback: false,
            rx_buffers: RX_BUFFERS_DEFAULT,
            tx_depth: TX_DEPTH_DEFAULT,
            arena: None,
        }
    }
    /// Address and UDP ports, for people.
    pub(crate) fn device(&self) -> String {
        match self.base_port {
            0 => format!("{}, ephemeral ports", self.bind_ip),
            base => format!("{}, ports from {base}", self.bind_ip),
        }
    }
}
