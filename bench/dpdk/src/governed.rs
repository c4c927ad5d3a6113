//! The whole loop over a device: the real worker on one end of a memif, prepared frames from the other.

use crate::{
    Bench as Setting,
    clock::cpu,
    forward::{HEADER_BYTES, Kind, testpmd},
    generator::{Generator, SUBSCRIBERS},
    station::{self, BASE_PORT, Station, connect},
    testpmd::Turn,
};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tachyon_driver_api::RxQueue;
use tachyon_driver_dpdk::{Device, DpdkQueue, Eal, RawQueue};
use tachyon_engine::Worker;
use tachyon_micro::{
    case::Case,
    input, machine, median,
    ring::Ring,
    whole::{self, Bench, Clock, Loop},
};

/// Buffers of the worker: what its device holds, an open one for each destination and shard, and some on their way.
const BUFFERS: usize = 4_096;
/// Frames that are sent before the worker's turn: four bursts, as a busy port has them.
pub(crate) const ROUND: usize = 256;
/// The least that the sum of both, testpmd's forwarding and the loop without a device, shall be of the whole.
const TARGET: f64 = 1.0;
/// Messages of a full frame.
const MESSAGES: usize = 22;

/// A worker over one end of a memif.
pub(crate) struct Node {
    station: Station,
    pub(crate) worker: Worker<'static, DpdkQueue, Bench, Ring>,
    started: Instant,
}

impl Node {
    /// The server's end, opened on the calling thread.
    pub(crate) fn station(eal: Eal, device: Device, case: &Case) -> Result<Station, String> {
        Station::open(eal, vec![(device, 0)], BASE_PORT, case.place.shards, BUFFERS)
    }

    /// The worker, once the links are up.
    pub(crate) fn over(mut station: Station, case: &Case) -> Self {
        let (queue, pool) = station.take_parts();
        let buffers = u32::try_from(BUFFERS).unwrap_or(0);
        let receive_buffers = u32::try_from(queue.held()).unwrap_or(0);
        let limits = tachyon_engine::Limits { buffers, receive_buffers, ..whole::limits(case) };
        let rulesets = Arc::new(vec![input::ruleset(case, 1)]);
        let worker = whole::worker_within(limits, case, SUBSCRIBERS, rulesets, pool, queue);
        Self { station, worker, started: Instant::now() }
    }

    /// One turn; whether it did anything.
    #[inline]
    pub(crate) fn poll(&mut self) -> bool {
        let now = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let work = self.worker.poll(now);
        work.received > 0 || work.sent > 0 || work.completed > 0
    }

    /// Turns until everything that was there is received, judged and sent.
    #[inline(never)]
    pub(crate) fn drain(&mut self) {
        loop {
            let busy = self.poll();
            if !busy && self.worker.stats().counters.copies_held == 0 {
                return;
            }
        }
    }

    /// The device's queue, for whoever polls it in the worker's stead.
    pub(crate) fn raw(&self) -> RawQueue {
        self.station.raw(0)
    }

    /// Descriptors in DPDK's pools.
    pub(crate) fn pool_count(&mut self) -> (usize, usize) {
        self.worker.queue().pool_count()
    }

    /// Holds the ledgers against what was offered, and gives everything back.
    pub(crate) fn end(mut self, offered: u64) -> Result<(), String> {
        let counters = self.worker.stats().counters;
        if counters.unaccounted() != [0; 3] || counters.messages_accepted != offered || counters.copies_given != offered
        {
            return Err(format!(
                "the ledgers do not add up: {offered} messages were offered, {} accepted and {} given; unaccounted {:?}",
                counters.messages_accepted,
                counters.copies_given,
                counters.unaccounted()
            ));
        }
        if self.worker.buffers_missing() != 0 {
            return Err(format!("the worker misses {} buffers", self.worker.buffers_missing()));
        }
        self.station.give_back(self.worker.into_parts());
        self.station.close()
    }
}

/// Both ends on one thread, as testpmd has them: the generator sends a round, then the worker takes all of it.
pub(crate) struct Both {
    pub(crate) node: Node,
    pub(crate) generator: Generator,
}

impl Both {
    pub(crate) fn open(eal: Eal, case: &Case, seed: u64) -> Result<Self, String> {
        let socket = station::socket();
        Self::over([0, 1].map(|number| station::memif(&socket, number)), eal, case, seed)
    }

    /// The same over any two devices that are connected.
    pub(crate) fn over([ours, theirs]: [Device; 2], eal: Eal, case: &Case, seed: u64) -> Result<Self, String> {
        let mut station = Node::station(eal, ours, case)?;
        let mut generator = Generator::open(eal, theirs, case, seed)?;
        connect(&mut [&mut station, &mut generator.station])?;
        Ok(Self { node: Node::over(station, case), generator })
    }

    /// Sends a round; returns how many frames that were.
    pub(crate) fn load(&mut self) -> usize {
        let mut sent = 0;
        while sent < ROUND {
            sent += self.generator.send(ROUND - sent);
        }
        while !self.generator.is_sent() {}
        sent
    }

    /// Rounds for a while; only the worker's part of them counts.
    pub(crate) fn turn(&mut self, time: Duration) -> Turn {
        let (end, mut spent, mut count) = (Instant::now() + time, Duration::ZERO, 0);
        while Instant::now() < end {
            count += self.load();
            let before = cpu();
            self.node.drain();
            spent += cpu().saturating_sub(before);
            self.generator.take_in();
        }
        Turn { packets: count as u64, cpu: spent }
    }

    /// Ends both; what went wrong, if anything did.
    pub(crate) fn end(self) -> Result<u64, String> {
        let packets = self.generator.taken_in;
        let offered = self.generator.close()?;
        self.node.end(offered)?;
        Ok(packets)
    }
}

fn ns(turn: Turn) -> f64 {
    turn.cpu.as_secs_f64() * 1e9 / turn.packets as f64
}

fn frame_bytes(case: &Case) -> u32 {
    u32::try_from(64 * (1 + case.messages)).unwrap_or(0)
}

/// The row with both ends on one thread, where nothing but the worker's part counts.
pub(crate) fn row(setting: &Setting) -> Result<Value, String> {
    let case = Case { messages: MESSAGES, ..Case::BASE };
    let mut both = Both::open(setting.eal, &case, setting.seed)?;
    let mut beside = Beside::start(setting, &case)?;
    let mut figures = Vec::new();
    for pair in 0..=setting.pairs {
        let us = both.turn(setting.turn);
        let figure = Figures { us: ns(us), ..beside.turn(setting)? };
        if pair > 0 {
            figures.push(figure);
        }
    }
    beside.alone.check();
    let frames = both.generator.source.offered / MESSAGES as u64;
    let packets = both.end()?;
    let note = "both ends on one thread; only the worker's turns count";
    Ok(Figures::row(&figures, &case, note, json!({ "frames": frames, "egress_frames": packets })))
}

/// What one pair came to, in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Figures {
    /// Of a frame, ours.
    us: f64,
    /// Of a frame, testpmd's.
    testpmd: f64,
    /// Of a message, the loop without a device.
    alone: f64,
}

impl Figures {
    fn row(figures: &[Self], case: &Case, note: &str, more: Value) -> Value {
        let of = |figure: fn(&Self) -> f64| median(figures.iter().map(figure).collect());
        let (us, testpmd, alone) = (of(|one| one.us), of(|one| one.testpmd), of(|one| one.alone));
        let ratios = figures.iter().map(|one| (one.testpmd + case.messages as f64 * one.alone) / one.us);
        let ratio = median(ratios.collect());
        let mut row = json!({
            "row": "governed", "governed": true, "vdev": Kind::Memif.name(), "burst": 64,
            "frame_bytes": frame_bytes(case), "messages_per_frame": case.messages, "ns_per_frame": us,
            "testpmd_ns_per_frame": testpmd, "loop_ns_per_message": alone, "ratio": ratio, "pairs": figures.len(),
            "tachyon_mpps": 1e3 / us, "testpmd_mpps": 1e3 / testpmd, "target": TARGET, "reached": ratio >= TARGET,
            "unaccounted": 0, "note": note,
        });
        if let (Some(row), Value::Object(more)) = (row.as_object_mut(), more) {
            row.extend(more);
        }
        row
    }
}

/// What the governed loop is compared with: testpmd over the same devices, and the loop without one.
struct Beside {
    testpmd: crate::testpmd::Testpmd,
    alone: Loop,
}

impl Beside {
    fn start(setting: &Setting, case: &Case) -> Result<Self, String> {
        let testpmd = testpmd(setting, Kind::Memif, 32, frame_bytes(case) + HEADER_BYTES)?;
        let rulesets = Arc::new(vec![input::ruleset(&Case::BASE, 1)]);
        let alone = Loop::new(&Case::BASE, setting.seed, rulesets, Clock::Since(Instant::now()));
        Ok(Self { testpmd, alone })
    }

    fn turn(&mut self, setting: &Setting) -> Result<Figures, String> {
        let testpmd = ns(self.testpmd.turn(setting.turn)?);
        // The fastest, because a pass is timed by the wall and some are interrupted; this can only count against us.
        let (end, mut alone) = (Instant::now() + setting.turn, f64::INFINITY);
        while Instant::now() < end {
            alone = alone.min(self.alone.pass().0);
        }
        Ok(Figures { us: f64::NAN, testpmd, alone })
    }
}

/// The row with the generator on a thread and a core of its own. Turns of the worker in which nothing arrived are taken out
/// at what such a turn costs, so that a generator which is slower than the worker does not count against it.
pub(crate) fn apart(setting: &Setting) -> Result<Option<Value>, String> {
    let Some(other_core) = setting.other_core else { return Ok(None) };
    let case = Case { messages: MESSAGES, ..Case::BASE };
    let socket = station::socket();
    let device = station::memif(&socket, 1);
    let mut station = Node::station(setting.eal, station::memif(&socket, 0), &case)?;
    let (eal, seed) = (setting.eal, setting.seed);
    let gate = Gate::default();
    let gate = &gate;
    thread::scope(|scope| {
        let case_there = case;
        let generator = scope.spawn(move || {
            machine::pin(other_core);
            let mut generator = Generator::open(eal, device, &case_there, seed)?;
            generate(&mut generator, gate)?;
            let egress = generator.taken_in;
            Ok::<_, String>((generator.close()?, egress))
        });
        let outcome = connect(&mut [&mut station]).and_then(|()| {
            let mut node = Node::over(station, &case);
            let figures = take_turns(setting, &case, &mut node, gate);
            gate.stop.store(true, Ordering::Release);
            // The generator sends the last of what it made; then nothing is left anywhere.
            while !generator.is_finished() {
                node.drain();
            }
            node.drain();
            Ok((node, figures?))
        });
        gate.stop.store(true, Ordering::Release);
        let generator = generator.join().map_err(|_| "the generator panicked".to_owned())?;
        let (node, (figures, idle)) = outcome?;
        let (offered, egress) = generator?;
        node.end(offered)?;
        let note = "generator on another core; turns without input are taken out at what they cost";
        let more = json!({ "frames": offered / MESSAGES as u64, "egress_frames": egress, "idle_share": median(idle) });
        Ok(Some(Figures::row(&figures, &case, note, more)))
    })
}

/// Says to the generator's thread what to do.
#[derive(Debug, Default)]
struct Gate {
    run: AtomicBool,
    stop: AtomicBool,
}

fn generate(generator: &mut Generator, gate: &Gate) -> Result<(), String> {
    connect(&mut [&mut generator.station])?;
    while !gate.stop.load(Ordering::Acquire) {
        if gate.run.load(Ordering::Acquire) {
            generator.send(64);
        } else {
            thread::yield_now();
        }
        generator.take_in();
    }
    // Until the worker has been silent for a while, so that nothing is under way when this end closes.
    let mut quiet = Instant::now();
    while quiet.elapsed() < Duration::from_millis(300) {
        if !generator.is_sent() || generator.take_in() > 0 {
            quiet = Instant::now();
        }
    }
    Ok(())
}

type Turns = (Vec<Figures>, Vec<f64>);

fn take_turns(setting: &Setting, case: &Case, node: &mut Node, gate: &Gate) -> Result<Turns, String> {
    let mut beside = Beside::start(setting, case)?;
    let (mut figures, mut idle_shares) = (Vec::new(), Vec::new());
    for pair in 0..=setting.pairs {
        let idle_ns = idle_turn_ns(node);
        gate.run.store(true, Ordering::Release);
        let frames = node.worker.stats().counters.frames_seen;
        let (before, end, mut idle) = (cpu(), Instant::now() + setting.turn, 0_u64);
        while Instant::now() < end {
            idle += (0..256).filter(|_| !node.poll()).count() as u64;
        }
        let spent = cpu().saturating_sub(before).as_secs_f64() * 1e9;
        gate.run.store(false, Ordering::Release);
        let frames = node.worker.stats().counters.frames_seen - frames;
        let idle_ns = idle as f64 * idle_ns;
        // What was still under way belongs to no turn.
        let end = Instant::now() + Duration::from_millis(20);
        while Instant::now() < end {
            node.drain();
        }
        let figure = Figures { us: (spent - idle_ns) / frames as f64, ..beside.turn(setting)? };
        if pair > 0 {
            figures.push(figure);
            idle_shares.push(idle_ns / spent);
        }
    }
    beside.alone.check();
    Ok((figures, idle_shares))
}

/// What a turn costs in which nothing arrives.
fn idle_turn_ns(node: &mut Node) -> f64 {
    const TURNS: u32 = 100_000;
    let before = cpu();
    (0..TURNS).for_each(|_| _ = node.poll());
    cpu().saturating_sub(before).as_secs_f64() * 1e9 / f64::from(TURNS)
}
