//! Forwarding without a look at the packets: what the driver costs, beside DPDK's own program over the same devices.

use crate::{
    Bench,
    clock::cpu,
    station::{self, BASE_PORT, BUFFERS, Station, connect},
    testpmd::{Setup, Testpmd, Turn},
};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tachyon_driver_api::{CompletionBatch, RxBatch, RxQueue, Transmit, TxBatch, TxQueue};
use tachyon_driver_dpdk::{Device, Packets, RawQueue};
use tachyon_micro::median;
use tachyon_wire::Endpoint;

/// Headers in front of a frame: Ethernet 14, IPv4 20, UDP 8.
pub(crate) const HEADER_BYTES: u32 = 42;
/// Rounds between two looks at the clock.
const ROUNDS: usize = 1_024;
/// Frames that circulate through the hot traits: a burst each way.
const CIRCULATING: usize = 64;

/// The devices, two of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Packets from nowhere into nothing.
    Null,
    /// Each sends to itself.
    Ring,
    /// Shared memory between the two.
    Memif,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Null => "net_null",
            Self::Ring => "net_ring",
            Self::Memif => "net_memif",
        }
    }

    /// The least share of testpmd's rate that is asked for.
    const fn target(self) -> f64 {
        match self {
            Self::Null | Self::Ring => 0.97,
            Self::Memif => 0.9,
        }
    }

    fn ours(self, packet_bytes: u16) -> Vec<(Device, usize)> {
        let socket = station::socket();
        let device = |number| match self {
            Self::Null => Device::Null { packet_bytes, receive: true },
            Self::Ring => Device::Ring,
            Self::Memif => station::memif(&socket, number),
        };
        vec![(device(0), 0), (device(1), 1)]
    }

    /// The same for testpmd, with the arguments that our driver gives its devices.
    fn theirs(self, packet_bytes: u32) -> [String; 2] {
        let socket = station::socket();
        [(0, "server"), (1, "client")].map(|(number, role)| match self {
            Self::Null => format!("net_null{number},size={packet_bytes},copy=0"),
            Self::Ring => format!("net_ring{number}"),
            Self::Memif => format!(
                "net_memif{number},role={role},id=0,socket={},socket-abstract=no,zero-copy=no,bsize=2048,rsize=10",
                socket.display()
            ),
        })
    }
}

/// testpmd over two devices of this kind.
pub(crate) fn testpmd(bench: &Bench, kind: Kind, burst: usize, packet_bytes: u32) -> Result<Testpmd, String> {
    let setup = Setup {
        devices: kind.theirs(packet_bytes),
        burst,
        packet_bytes,
        circulates: kind != Kind::Null,
        cores: bench.cores.clone(),
        core: bench.core,
    };
    Testpmd::start(bench.eal, &setup)
}

/// One row: pairs of turns, ours first.
pub(crate) fn row(bench: &Bench, kind: Kind, burst: usize, packet_bytes: u32) -> Result<Value, String> {
    let mut peer = testpmd(bench, kind, burst, packet_bytes)?;
    let bytes = u16::try_from(packet_bytes).unwrap_or(u16::MAX);
    let mut station = Station::open(bench.eal, kind.ours(bytes), BASE_PORT, 1, BUFFERS)?;
    connect(&mut [&mut station])?;
    let mut queues = [station.raw(0), station.raw(1)];
    if kind != Kind::Null {
        station.inject(burst, packet_bytes - HEADER_BYTES, 0)?;
        station.inject(burst, packet_bytes - HEADER_BYTES, 1)?;
    }
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for pair in 0..=bench.pairs {
        let us = forward(&mut queues, burst, bench.turn);
        let them = peer.turn(bench.turn)?;
        if us.packets == 0 || them.packets == 0 {
            return Err(format!("{}: nothing is forwarded: {us:?}, {them:?}", kind.name()));
        }
        // The first pair warms both up.
        if pair > 0 {
            ours.push(us.mpps());
            theirs.push(them.mpps());
        }
    }
    if kind != Kind::Null {
        swallow(&mut queues);
    }
    station.close()?;
    let (ours, theirs, ratio) = medians(ours, theirs);
    Ok(json!({
        "row": "io", "vdev": kind.name(), "burst": burst, "frame_bytes": packet_bytes, "testpmd_mpps": theirs,
        "tachyon_mpps": ours, "ratio": ratio, "pairs": bench.pairs, "target": kind.target(),
        "reached": ratio >= kind.target(),
    }))
}

/// The medians of both, and of the pairs' ratios: what the machine does to one of a pair it mostly does to the other.
pub(crate) fn medians(ours: Vec<f64>, theirs: Vec<f64>) -> (f64, f64, f64) {
    let ratios = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect();
    (median(ours), median(theirs), median(ratios))
}

/// What testpmd's io mode does: what one port receives the other sends, and what it does not take is dropped.
fn forward(queues: &mut [RawQueue; 2], burst: usize, time: Duration) -> Turn {
    let mut packets = Packets::new();
    let (before, end, mut count) = (cpu(), Instant::now() + time, 0);
    while Instant::now() < end {
        for _ in 0..ROUNDS {
            for (from, to) in [(0, 1), (1, 0)] {
                if queues[from].receive(&mut packets, burst) > 0 {
                    count += queues[to].send_from(&mut packets) as u64;
                    if !packets.is_empty() {
                        packets.drain(..).for_each(tachyon_driver_dpdk::Packet::free);
                    }
                }
            }
        }
    }
    Turn { packets: count, cpu: cpu().saturating_sub(before) }
}

/// Takes out what circulates.
pub(crate) fn swallow(queues: &mut [RawQueue]) {
    let mut packets = Packets::new();
    let mut quiet = 0;
    while quiet < 100 {
        quiet += 1;
        for queue in &mut *queues {
            if queue.receive(&mut packets, 64) > 0 {
                quiet = 0;
                packets.drain(..).for_each(tachyon_driver_dpdk::Packet::free);
            }
        }
    }
}

/// Through the traits that the engine uses, headers found and written and each frame copied once, as the engine copies;
/// without a target, because testpmd does none of it. Over memif alone: a ring brings a node its own packets back, which
/// it refuses, and what net_null makes up are no frames.
pub(crate) fn hot(bench: &Bench, frame_bytes: u32) -> Result<Value, String> {
    let mut station = Station::open(bench.eal, Kind::Memif.ours(0), BASE_PORT, 1, BUFFERS)?;
    connect(&mut [&mut station])?;
    for end in [0, 1] {
        station.inject(CIRCULATING / 2, frame_bytes, end)?;
    }
    let mut rates = Vec::new();
    for pair in 0..=bench.pairs {
        let turn = relay(&mut station, bench.turn);
        if turn.packets == 0 {
            return Err("nothing circulates through the hot traits".to_owned());
        }
        if pair > 0 {
            rates.push(turn.mpps());
        }
    }
    let mut queues = [station.raw(0), station.raw(1)];
    swallow(&mut queues);
    station.close()?;
    Ok(json!({
        "row": "hot traits", "vdev": Kind::Memif.name(), "burst": CIRCULATING / 2, "frame_bytes": frame_bytes,
        "tachyon_mpps": median(rates), "pairs": bench.pairs,
    }))
}

fn relay(station: &mut Station, time: Duration) -> Turn {
    let (queue, pool) = station.parts();
    let (mut received, mut from, mut done) = (RxBatch::new(), TxBatch::new(), CompletionBatch::new());
    let (before, end, mut count) = (cpu(), Instant::now() + time, 0);
    while Instant::now() < end {
        for _ in 0..ROUNDS / 8 {
            queue.rx_burst(pool, &mut received);
            for item in received.drain(..) {
                if let Some(mut buffer) = pool.get() {
                    let bytes = &item.buffer.bytes()[item.offset as usize..][..item.len as usize];
                    buffer.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
                    let (len, stride) = (item.len, item.len);
                    let destination = Endpoint { ip: item.source.ip, port: BASE_PORT.into() };
                    from.push(Transmit { buffer, offset: 0, len, stride, shard: 0, destination, token: 0 });
                }
                pool.put(item.buffer);
            }
            count += queue.tx_burst(&mut from) as u64;
            queue.completions(&mut done);
            done.drain(..).for_each(|completion| pool.put(completion.buffer));
        }
    }
    let turn = Turn { packets: count, cpu: cpu().saturating_sub(before) };
    // What was taken and not yet settled, before the batches go.
    for item in from.drain(..) {
        pool.put(item.buffer);
    }
    turn
}
