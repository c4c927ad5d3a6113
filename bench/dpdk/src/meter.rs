//! A policer made of DPDK's own meters, over the same devices and the same frames as the governed loop.

use crate::{
    Bench,
    clock::cpu,
    forward::{Kind, medians},
    governed::Both,
    testpmd::Turn,
};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tachyon_driver_dpdk::RawQueue;
use tachyon_micro::case::Case;

#[expect(unsafe_code, reason = "DPDK is C")]
mod c {
    use tachyon_driver_dpdk::RawQueue;

    // SAFETY: as defined in meter.c, with the same integers.
    unsafe extern "C" {
        fn tachyon_meter_open(count: u32) -> i32;
        fn tachyon_meter_forward(port: u16, queue: u16, received: *mut u32) -> u32;
    }

    /// The meters, made once.
    pub(super) struct Meters(());

    impl Meters {
        /// Makes `count` meters, a power of two.
        pub(super) fn open(count: u32) -> Result<Self, i32> {
            static OPENED: std::sync::Once = std::sync::Once::new();
            let mut error = -1;
            // SAFETY: it writes its own statics alone, and `Once` makes this the only call in the process.
            OPENED.call_once(|| error = unsafe { tachyon_meter_open(count) });
            if error == 0 { Ok(Self(())) } else { Err(error) }
        }

        /// Polices a burst of the queue; packets received, and sent.
        pub(super) fn forward(&mut self, queue: &mut RawQueue) -> (u32, u32) {
            let (port, number) = queue.numbers();
            let mut received = 0;
            // SAFETY: `queue` says that port and queue are set up and ours, and `self` that there are meters and that nobody
            // else is in here. Packets of one message are longer than what is read of them; see `row`.
            let sent = unsafe { tachyon_meter_forward(port, number, &raw mut received) };
            (received, sent)
        }
    }
}

/// What is wanted: as fast, while doing more.
const TARGET: f64 = 1.0;

/// One row: frames of one message, ours governed and theirs policed, in turns on one thread.
pub(crate) fn row(bench: &Bench) -> Result<Value, String> {
    let case = Case { messages: 1, ..Case::BASE };
    let mut both = Both::open(bench.eal, &case, bench.seed)?;
    let mut meters = c::Meters::open(case.topics).map_err(|error| format!("no meters: error {error}"))?;
    let mut raw = both.node.raw();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let mut offered_to_them = 0;
    for pair in 0..=bench.pairs {
        let us = both.turn(bench.turn);
        let before = both.generator.source.offered;
        let them = police(&mut both, &mut meters, &mut raw, bench.turn)?;
        offered_to_them += both.generator.source.offered - before;
        if pair > 0 {
            ours.push(us.mpps());
            theirs.push(them.mpps());
        }
    }
    both.generator.source.offered -= offered_to_them;
    both.end()?;
    let (ours, theirs, ratio) = medians(ours, theirs);
    Ok(json!({
        "row": "policing peer", "peer": "rte_meter", "vdev": Kind::Memif.name(), "burst": 32,
        "frame_bytes": 128, "governed": true, "peer_mpps": theirs, "tachyon_mpps": ours, "ratio": ratio,
        "pairs": bench.pairs, "target": TARGET, "reached": ratio > TARGET, "unaccounted": 0,
        "note": format!("srTCM, colour-aware, {} flows; ours checks crc, session, window, rights and two quotas", case.topics),
    }))
}

/// Rounds of the policer for a while; only its part of them counts.
fn police(both: &mut Both, meters: &mut c::Meters, raw: &mut RawQueue, time: Duration) -> Result<Turn, String> {
    let (end, mut spent, mut count) = (Instant::now() + time, Duration::ZERO, 0_u64);
    while Instant::now() < end {
        let loaded = both.load();
        let before = cpu();
        let (mut sent, mut quiet) = (0, false);
        while !quiet {
            let (received, forwarded) = meters.forward(raw);
            sent += forwarded as usize;
            quiet = received == 0;
        }
        spent += cpu().saturating_sub(before);
        if sent != loaded || both.generator.take_in() != sent {
            return Err(format!("the policer sent {sent} of {loaded} packets"));
        }
        count += sent as u64;
    }
    Ok(Turn { packets: count, cpu: spent })
}
