//! Frames over devices that this process owns, through DPDK: network cards by vfio, and software devices that make the same
//! code run anywhere.
//!
//! Every worker has one queue of every port. The arena is DPDK's external memory, so what a device received can be sent by
//! any other driver that knows the arena, without a copy. A worker calls the devices' receive and send functions and
//! nothing else of DPDK's; opening, links, statistics and neighbours are the business of one other thread ([`DpdkPorts`]).
//!
//! It deliberately knows no frame: it finds UDP payloads for its ports and sends such. What else arrives is counted by
//! cause, and of that only neighbour discovery and echo requests are answered.
//!
//! System calls after the start: none by devices on the PCI bus; by software devices whatever their other side needs.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::cast_lossless,
    reason = "DPDK's constants come in whatever type their value fits, and lengths were compared with 16 bits before"
)]

mod config;
mod device;
mod eal;
pub mod log;
mod packets;
mod pool;
mod port;
mod ports;
mod queue;
mod shared;
mod steer;
mod wires;

pub use config::{DpdkConfig, PortConfig, Region};
pub use device::{Device, PciAddress};
pub use eal::{Eal, EalConfig, HugePages};
pub use packets::{Packet, Packets, RawQueue};
pub use pool::HEADROOM_BYTES;
pub use ports::{DpdkPorts, DpdkSeat};
pub use queue::DpdkQueue;
pub use shared::PORTS_MAX;
pub use tachyon_driver_ether as ether;
