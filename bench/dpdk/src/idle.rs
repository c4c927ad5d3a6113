//! What a turn costs in which nothing arrives.

use crate::{
    Bench,
    clock::cpu,
    station::{BASE_PORT, BUFFERS, Station, connect},
};
use serde_json::{Value, json};
use tachyon_driver_api::{RxBatch, RxQueue, conformance::allocations};
use tachyon_driver_dpdk::{Device, Packets};
use tachyon_micro::median;

/// Polls of a turn: some milliseconds.
const POLLS: u32 = 2_000_000;
/// The most nanoseconds of a poll that are asked for.
const TARGET_NS: f64 = 15.0;

/// One row: `rx_burst` over one device that has nothing, and beside it the device's own call alone.
pub(crate) fn row(bench: &Bench, device: Device) -> Result<Value, String> {
    let name = device.driver();
    let mut station = Station::open(bench.eal, vec![(device, 0)], BASE_PORT, 1, BUFFERS)?;
    connect(&mut [&mut station])?;
    let mut raw = station.raw(0);
    let (mut whole, mut device_alone, mut allocated) = (Vec::new(), Vec::new(), 0);
    for _ in 0..bench.pairs {
        let (queue, pool) = station.parts();
        let mut batch = RxBatch::new();
        let before = cpu();
        allocated += allocations(|| (0..POLLS).for_each(|_| _ = queue.rx_burst(pool, &mut batch)));
        whole.push(ns(before));
        assert!(batch.is_empty(), "there is nothing to receive");
        let mut packets = Packets::new();
        let before = cpu();
        (0..POLLS).for_each(|_| _ = raw.receive(&mut packets, 32));
        device_alone.push(ns(before));
    }
    station.close()?;
    let (whole, device_alone) = (median(whole), median(device_alone));
    Ok(json!({
        "row": "idle poll", "vdev": name, "ns_per_poll": whole, "device_ns_per_poll": device_alone,
        "allocations": allocated, "pairs": bench.pairs, "target": TARGET_NS,
        "reached": whole <= TARGET_NS && allocated == 0,
    }))
}

fn ns(before: std::time::Duration) -> f64 {
    cpu().saturating_sub(before).as_secs_f64() * 1e9 / f64::from(POLLS)
}
