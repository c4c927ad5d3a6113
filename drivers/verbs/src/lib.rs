//! Frames over RoCE v2 queue pairs that this process owns, through verbs.
//!
//! A worker has one completion queue, one shared receive queue, one queue pair for datagrams and one per connected peer, and
//! shares none of it with another worker. Frames go in three ways, each destination by its own *lane*: as datagrams, as sends
//! on a connection, or as writes into a ring in the subscriber's memory ([`ring`]). There are no UDP ports here, so the
//! shard of a frame travels beside it, as the immediate. The arena is registered once, at the start; nothing is registered
//! after that but a subscriber's own ring, on the subscriber's side.
//!
//! A queue pair in error is a matter of its own lane: what was on it ends with its reason, what comes later ends at once as
//! `E_TX_QP_RESET`, and the cold side ([`VerbsPorts`]) brings it back, a bounded number of times. Nothing of that is done by
//! a worker.
//!
//! It deliberately knows no frame, exchanges no details by itself (whoever has a control channel carries [`Details`]), and
//! serves one device per port: a node with two opens two.
//!
//! Syscalls after the start: none by devices that map their doorbells; a software device (rxe) makes one per burst, and an
//! idle worker in event mode sleeps in `ppoll` and reads the completion channel.
#![expect(
    clippy::cast_possible_truncation,
    reason = "sequence numbers, immediates and packed identities are cut to their width on purpose, and lengths were compared"
)]

mod config;
mod connection;
mod details;
pub mod device;
mod devices;
mod finder;
mod flight;
mod hardware;
mod lanes;
mod names;
mod ports;
mod posting;
mod queue;
mod receives;
mod reports;
pub mod ring;
mod sending;
pub mod stub;
mod table;
mod wires;

pub use config::{ArenaRegion, VerbsConfig};
pub use details::{DETAILS_BYTES, Details, RingDetails};
pub use device::Secret;
pub use devices::{DevicePort, DeviceReport, Devices, Gid, GidKind, devices};
pub use hardware::{AddressHandle, Hardware, QueuePair, RingRegion};
pub use ports::{Errand, RingSize, VerbsPorts, VerbsSeat};
pub use posting::HardwareDevice;
pub use queue::VerbsQueue;
pub use reports::{LaneReport, PortReport};
