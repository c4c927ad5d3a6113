//! The headers in front of a frame, for drivers that own raw queues: Ethernet, VLAN, IPv4, IPv6 and UDP, and the answers
//! that a neighbour owes (ARP, IPv6 neighbour discovery, echo).
//!
//! A kernel does all of this for a socket; a driver that bypasses the kernel has to do it itself, and every such driver
//! does it in the same way. A worker finds frames with a [`Receiver`] and writes headers with the [`Hop`]s it keeps in
//! [`Neighbours`]; one [`Responder`] for all ports finds out who is where and tells the workers by [`News`].
//!
//! The crate deliberately knows no device, no thread and no clock, and routes by nothing but its own networks and their
//! gateways: whoever needs more gives fixed neighbours. It configures no address from router advertisements, has no
//! link-local address of its own, reassembles nothing, and joins no multicast group, so the device has to deliver
//! multicast where IPv6 is used. What a worker calls allocates nothing; the responder allocates only when it is made.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

mod answer;
mod checksum;
mod foreign;
mod hop;
mod interface;
mod neighbours;
mod packet;
mod receive;
mod responder;
mod table;

pub use foreign::Foreign;
pub use hop::{Hop, UdpChecksum};
pub use interface::{Interface, NETWORKS_MAX, Network, address, address_bytes};
pub use neighbours::Neighbours;
pub use receive::{Checked, Found, Receiver};
pub use responder::{News, Responder, WANTED_MAX};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// The longest headers in front of a frame in bytes: Ethernet 14, VLAN tag 4, IPv6 40, UDP 8.
pub const HEADER_BYTES_MAX: usize = 66;
