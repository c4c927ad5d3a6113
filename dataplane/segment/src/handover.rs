//! How control and `tachyond` meet: one Unix socket of datagrams (`SOCK_SEQPACKET`), on which `tachyond` listens.
//!
//! On connecting, control gets a [`Hello`] with the descriptor of the statistics segment. From then on it sends one
//! [`Request`] at a time and gets one [`Reply`] for each, with the request's number; who asks for a port gets a
//! [`PortStatus`] instead, and asks for one after the other; lanes and pre-filters are told like ports, and who offers one gets a [`LaneAnswer`]. A ruleset and a list of
//! denied sources travel as the descriptor of a sealed memory file, and a worker's tap as three, with a [`TapAnswer`];
//! everything else fits its datagram. Both ends check who the other is (`SO_PEERCRED`) and refuse
//! records of another layout, each with a reason that says what to do.

mod control_end;
mod filters;
mod lanes;
mod node_end;
mod ports;
mod records;
mod socket;
mod tap;

pub use control_end::{CallError, ControlEnd};
pub use filters::{FilterState, FilterStatus, INTERFACE_NAME_MAX, Prefix};
pub use lanes::{LANE_DETAILS_BYTES, LaneAnswer, LaneKind, LaneRequest, LaneState, LaneStatus};
pub use node_end::{Connection, Incoming, Listener, set_socket_rights};
pub use ports::{PORT_COUNTERS_MAX, PORT_NAME_MAX, PortState, PortStatus};
pub use records::{Accepted, Hello, REPLY_TEXT_MAX, Reply, Request};
pub use socket::Peer;
pub use tap::TapAnswer;

#[cfg(test)]
mod tests;
