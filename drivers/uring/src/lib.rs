//! Frames over the kernel's UDP sockets, through io_uring: for hosts without a device that a worker could own.
//!
//! One worker has one ring, and on it one socket per owned shard at `base_port + shard`. The kernel receives straight into
//! the worker's buffers (a provided buffer ring, one multishot receive per socket, `UDP_GRO`) and sends runs of equal frames
//! in one go (`UDP_SEGMENT`); one syscall per turn of the loop carries both directions, and an idle turn makes none. Where
//! the kernel refuses io_uring the same queue uses `recvmmsg` and `sendmmsg` with the same offloads, and
//! [`PortInfo::degraded`](tachyon_driver_api::PortInfo::degraded) says so.
//!
//! It deliberately does not look into frames, does not resolve names, joins no multicast groups, and never lets IP fragment:
//! a frame above the path's MTU ends in `E_TX_SUBMIT_FAIL`. A zone (link-local scope) is no part of an endpoint, so
//! link-local IPv6 is out.
//!
//! Syscalls after [`Port::open`](tachyon_driver_api::Port::open), for a sandbox: `io_uring_enter` while polling, or
//! `recvmmsg`, `sendmmsg` and `ppoll` in the fallback; `getsockopt` (drop counts) when idle; `io_uring_register`, `munmap`
//! and `close` when a queue is closed.

mod address;
mod calls;
mod config;
mod control;
mod flight;
mod port;
mod ports;
mod provided;
mod queue;
mod received;
mod ring;
mod socket;

pub use config::{ArenaRegion, BUFFER_BYTES, UringConfig};
pub use port::UringPort;
pub use ports::UringPorts;
pub use queue::UringQueue;
