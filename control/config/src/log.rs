//! `[log]` of the node file: what recording for the truth log takes of a node's memory.

use crate::{
    NodeFile,
    node_file::{power_of_two, within},
};
use serde::Deserialize;

/// What workers record for the truth log, which `tachyon-control` writes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSection {
    /// Whether they do. Without it nothing is accepted that a log has to keep.
    pub enabled: bool,
    /// Ring between each worker and the log in MiB, a power of two. From 8 on, half of it holds the longest turn: 64 buffers
    /// of 64 KiB, of whose frames about three quarters are recorded if none is to be logged itself.
    #[serde(deserialize_with = "power_of_two::<8, 1_024, _, _>")]
    pub ring_mib: u32,
    /// Buffers of each worker that may wait for the log, in percent: at most a quarter, by the design.
    #[serde(deserialize_with = "within::<1, 25, _, _>")]
    pub held_percent: u32,
}

impl Default for LogSection {
    fn default() -> Self {
        Self {
            enabled: false,
            ring_mib: 16, // some ten milliseconds of the fastest loop's stubs, or seconds of whole frames
            held_percent: 25,
        }
    }
}

impl NodeFile {
    /// Buffers of each worker that may wait for the truth log; 0 where there is none.
    #[must_use]
    pub fn held_buffers(&self) -> u32 {
        let share = u64::from(self.buffers_per_worker()) * u64::from(self.log.held_percent) / 100;
        if self.log.enabled { u32::try_from(share).unwrap_or(u32::MAX).max(1) } else { 0 }
    }
}
