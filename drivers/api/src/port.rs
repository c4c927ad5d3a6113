//! The cold side of a driver: opening queues and saying what they are.

use crate::{Pool, RxQueue, TxQueue};
use alloc::{string::String, vec::Vec};
use core::fmt;

/// What an operator wants to know about a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortInfo {
    /// The driver, such as `uring`.
    pub driver: &'static str,
    /// The device or address it stands on.
    pub device: String,
    /// Largest frame in bytes, header included.
    pub frame_bytes_max: u32,
    /// What is slower or weaker than it could be, each with its cause and its fix.
    pub degraded: Vec<String>,
}

/// Why a port or queue could not be opened: what happened, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortError(pub String);

impl fmt::Display for PortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for PortError {}

/// A device that a driver opened.
pub trait Port {
    /// What a worker gets: both directions of one queue.
    type Queue: RxQueue + TxQueue;

    /// Opens the queue of one worker for these shards; the buffers it receives into at first come out of `pool`. To be
    /// called on the thread that will poll it.
    ///
    /// # Errors
    /// What happened, where, and what to do.
    fn open(&mut self, shards: &[u16], pool: &mut Pool) -> Result<Self::Queue, PortError>;

    /// What the port is.
    fn info(&self) -> PortInfo;
}
