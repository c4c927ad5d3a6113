//! What every driver is, and nothing else: the two hot traits, the cold ones, the buffer they hand over, and (feature
//! `conformance`) the suite that each driver must pass.
//!
//! Hot calls never fail, never allocate and never block: they move what they can and leave the rest with the caller.
//! The crate deliberately knows no policy, no frame and no device.
#![no_std]
extern crate alloc;
#[cfg(feature = "conformance")]
extern crate std;

mod buffer;
#[cfg(feature = "conformance")]
pub mod conformance;
mod lanes;
mod open;
mod port;
mod queue;
mod report;

pub use buffer::{Buffer, Pool};
pub use lanes::{LANE_DETAILS_BYTES, LaneAnswer, LaneKind, LaneReport, LaneRequest, LaneState, Lanes, NoLane};
pub use open::OpenBuffer;
pub use port::{Port, PortError, PortInfo};
pub use queue::{
    BURST_MAX, Completion, CompletionBatch, QueueStats, Received, RxBatch, RxQueue, Transmit, TxBatch, TxQueue,
};
pub use report::{PortReport, PortState, Ports, Said};
