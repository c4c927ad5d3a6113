//! Frames over XDP sockets (`AF_XDP`): one worker has a queue of a network interface to itself, and the interface stays the
//! kernel's, which goes on with ARP, neighbour discovery, ICMP and whatever else is not ours.
//!
//! An XDP program on the interface redirects the datagrams of our UDP ports into sockets; it belongs to somebody else, who
//! gives us the map by which it finds them. The worker's buffers are the sockets' memory: what arrives lies in one of them,
//! and what is sent goes out from where it lies, by the kernel's hand (copy mode, on any device) or the device's (zero copy).
//! Packets of our ports come back to the kernel as soon as a socket is closed.
//!
//! Each socket registers the worker's memory for itself, so that one can be closed and opened without the others; without
//! `CAP_IPC_LOCK` each of them counts against `RLIMIT_MEMLOCK`, and so does one more, by which is seen that a device let
//! go. A packet in several pieces (longer than a page, roughly) comes in as many buffers and is copied behind its first piece;
//! all others are never copied by us.
//!
//! Closing a socket brings everything back that the kernel had, after a device with zero copy let go of it. One thing is left:
//! some devices (virtio) send from our pages in copy mode too, so what was on its way when its socket was closed, and ended
//! with an error, may leave with bytes that were written later.
//!
//! It deliberately trusts no program: every packet is looked at again from Ethernet to UDP, with its checksums. It configures
//! no address and answers no neighbour. VLANs are out: a tag on the wire is taken only if it says "no VLAN" (priority tags),
//! and none is sent. No hardware steering: which queue a shard's packets come to is the device's business, and those that
//! come to another worker are counted and dropped.
//!
//! System calls after the start, for a sandbox: a worker makes `sendto` and `recvfrom` on its sockets and `ppoll` when idle;
//! the cold side speaks rtnetlink, asks sockets for their counts, and opens them again (`socket`, `setsockopt`, `getsockopt`,
//! `mmap`, `bind`, `bpf`, `munmap`, `close`).
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "offsets and lengths inside buffers were compared with their sizes before, and constants of the kernel fit"
)]

mod buffers;
mod calls;
mod config;
mod lane;
mod netlink;
mod port;
mod ports;
mod queue;
mod resolver;
mod ring;
mod shared;
mod socket;
mod wires;

pub use buffers::HEADROOM_BYTES;
pub use config::{AfxdpConfig, MapKey, PortConfig};
pub use port::AfxdpSeat;
pub use ports::AfxdpPorts;
pub use queue::AfxdpQueue;
pub use shared::PORTS_MAX;
