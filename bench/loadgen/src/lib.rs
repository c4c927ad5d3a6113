//! Load for a Tachyon node, and the proof of what became of it.
//!
//! It exists so that every claim about a node can be checked from outside: load is open loop, so a node that stalls is
//! measured with the waits it caused; every frame that was offered is found again in a ledger of the node or in a named
//! loss before it; every copy that the node gave away is read, verified and counted. Bad frames are made on purpose, each
//! with the one reason in which it must end.
//!
//! The crate deliberately knows no driver but through the driver traits (one place opens `uring`, and one puts files in
//! the place of a network), never slows down for the node, and decides nothing about rules.
#![forbid(unsafe_code)]

pub mod args;
pub mod capture;
pub mod clock;
pub mod crew;
pub mod events;
pub mod forge;
pub mod hire;
pub mod lanes;
pub mod ledger;
pub mod offered;
pub mod open;
pub mod pcap;
pub mod plan;
pub mod publisher;
#[cfg(feature = "verbs")]
pub mod rdma;
#[cfg(not(feature = "verbs"))]
#[path = "rdma_absent.rs"]
pub mod rdma;
pub mod reader;
pub mod relay;
pub mod report;
pub mod run;
pub mod schedule;
pub mod session;
pub mod subscriber;
pub mod table;
pub mod track;
pub mod unsettled;
