//! Many frames, and then nothing may be missing: no message without an end, and no buffer or descriptor lost.

use crate::governed::Both;
use serde_json::{Value, json};
use std::time::Instant;
use tachyon_driver_dpdk::{Device, Eal};
use tachyon_micro::case::Case;

/// Sends `frames` frames through a governed worker.
pub(crate) fn run(eal: Eal, frames: u64, messages: usize, seed: u64) -> Result<Value, String> {
    let case = Case { messages, ..Case::BASE };
    let cable = |far| Device::Crossed { cable: "soak".to_owned(), far };
    let mut both = Both::over([cable(false), cable(true)], eal, &case, seed)?;
    let counts = both.node.pool_count();
    let begun = Instant::now();
    let mut sent = 0;
    while sent < frames {
        sent += both.load() as u64;
        both.node.drain();
        both.generator.take_in();
    }
    let seconds = begun.elapsed().as_secs_f64();
    let after = both.node.pool_count();
    let egress = both.end()?;
    // Completions exchange buffers one for one, so between rounds the pools hold what they held before.
    if after != counts {
        return Err(format!("DPDK's pools held {counts:?} descriptors before and {after:?} after"));
    }
    Ok(json!({
        "row": "soak", "vdev": "net_ring", "frames": sent, "messages": sent * messages as u64, "egress_frames": egress,
        "unaccounted": 0, "missing_buffers": 0, "seconds": seconds,
    }))
}
