//! The cold side of drivers whose frames can only go once both ends have agreed on a *lane*: who carries the details from
//! one end to the other is not their business.

use crate::PortError;
use alloc::{string::String, vec::Vec};
use core::fmt;
use tachyon_wire::Endpoint;

/// Bytes of one end's part of the agreement; what they mean is the driver's affair.
pub const LANE_DETAILS_BYTES: usize = 64;

/// How frames go on a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneKind {
    /// As datagrams: nothing is resent.
    Datagrams,
    /// As sends on a reliable connection.
    Connection,
    /// As writes into a ring in the peer's memory, on a reliable connection.
    Ring,
}

/// How a lane is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneState {
    /// Frames can pass.
    Connected,
    /// It failed or is not agreed on yet; the peer is to offer it anew.
    Waiting,
    /// It is being taken down, before it can be agreed on again.
    Ending,
    /// It failed more often than it may; the peer may still offer it anew.
    Failed,
}

/// What a peer asks of one worker.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LaneRequest {
    /// The worker.
    pub worker: u16,
    /// Where frames for the peer are addressed to; whoever has no name of its own is called as [`Lanes::name`] says.
    pub to: Endpoint,
    /// Port numbers from that one on which are the same peer: a subscriber's shards; at least 1.
    pub ports: u16,
    /// Once the lane has failed for good, frames go by the next driver, until the lane is agreed on again. Otherwise they
    /// end with the lane's reason.
    pub falls_back: bool,
    /// The peer's part.
    pub details: [u8; LANE_DETAILS_BYTES],
}

/// Without the details, which hold keys.
impl fmt::Debug for LaneRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LaneRequest(worker {}, {:?}, {} ports)", self.worker, self.to, self.ports)
    }
}

/// Why there is no lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoLane {
    /// It cannot be; and what to do.
    Never(String),
    /// Something has to end or to be found out first; the same offer may be made again in a moment.
    Later(String),
}

impl From<PortError> for NoLane {
    fn from(PortError(text): PortError) -> Self {
        Self::Never(text)
    }
}

/// What the peer is answered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LaneAnswer {
    /// Where frames for the peer are addressed to.
    pub to: Endpoint,
    /// Our part.
    pub details: [u8; LANE_DETAILS_BYTES],
}

/// The same.
impl fmt::Debug for LaneAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LaneAnswer({:?})", self.to)
    }
}

/// One worker's way to one peer, for people and for the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneReport {
    /// The worker.
    pub worker: u16,
    /// Where frames for the peer are addressed to.
    pub to: Endpoint,
    /// How they go.
    pub kind: LaneKind,
    /// How it is.
    pub state: LaneState,
    /// What the last failure was; empty if there was none since it stood.
    pub why: String,
    /// Tries to bring it back since it stood for a while.
    pub attempts: u32,
    /// Whether its frames go by the next driver now.
    pub fell_back: bool,
}

/// The lanes of a port. Called by the thread that owns the port's cold side.
pub trait Lanes {
    /// What a peer of these details is called that was given no name. Nothing is agreed on by that.
    ///
    /// # Errors
    /// The details cannot be.
    fn name(&self, details: &[u8; LANE_DETAILS_BYTES]) -> Result<Endpoint, PortError>;

    /// Agrees on a lane with a peer: what it was before ends. Where that does not come about, frames of a peer that had a lane go
    /// nowhere that they did not go before.
    ///
    /// # Errors
    /// The details cannot be, the device gives no more, or it cannot be yet.
    fn connect(&mut self, request: &LaneRequest) -> Result<LaneAnswer, NoLane>;

    /// Ends a lane. One that is not there is ended already.
    fn disconnect(&mut self, worker: u16, to: Endpoint);

    /// All lanes.
    fn lanes(&self) -> Vec<LaneReport>;
}
