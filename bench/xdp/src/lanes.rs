//! Forwarding through XDP sockets beside io_uring, on one veth that both have in turn: the pre-filter on it is replaced by the
//! one that gives frames to the socket, or by the one that gives them to the kernel.
//!
//! One thread puts a burst onto the wire from the far end, takes it with the driver, copies each frame into a fresh buffer
//! and sends it back, and a program drops it at the far end. So its CPU time has everything in it that either lane costs this
//! machine, soft interrupts included, and the same source and the same end for both.

use crate::{
    bed::{Bed, Cable, THEM, US},
    drops::median_ratio,
    figures::{Rates, median, row},
    kernel::{self, Answer},
    packets::{self, PINNED, SHARD, frame, packet},
};
use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};
use std::{
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};
use tachyon_driver_afxdp::{AfxdpConfig, AfxdpPorts, AfxdpQueue, HEADROOM_BYTES, PortConfig};
use tachyon_driver_api::{CompletionBatch, Pool, Port, PortState, Ports, RxBatch, RxQueue, Transmit, TxBatch, TxQueue};
use tachyon_driver_arena::{Arena, ArenaConfig, Pages};
use tachyon_driver_uring::{ArenaRegion, BUFFER_BYTES, UringConfig, UringPort, UringQueue};
use tachyon_loader::{Config, Content, Deliver, Program};
use tachyon_wire::{Endpoint, frame::BASE_PORT};

/// Frames on the wire at once: so many that what it costs to set up the source is little for each.
const BURST: usize = 1_024;
/// Bursts of one turn.
const BURSTS: usize = 24;
/// Room in our sockets for one burst, each frame in a page of its own, and half as much again.
const SOCKET_BYTES: u32 = 32 << 20;
/// Buffers of the XDP socket, most of them with the kernel.
const XDP_BUFFERS: usize = 8_192;
const DESCRIPTORS: u32 = 4_096;
/// What XDP sockets have to reach of io_uring with frames of one message, and of 22.
const ONE_MESSAGE: f64 = 2.0;
const MANY_MESSAGES: f64 = 1.0;
const SINK_PORT: u16 = 5_000;
/// How long the cold side may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Turns in which nothing comes, after which the rest of a burst is lost.
const IDLE_MAX: usize = 20_000;

/// A lane with its buffers.
struct Lane<Q> {
    queue: Q,
    pool: Pool,
    /// Must live as long as the queue.
    _arena: Arena,
    /// The filter that gives it frames.
    program: Program,
    /// Whether the frames of a burst leave as one run.
    runs: bool,
}

/// What a turn came to, in ns a frame: everything, the driver's own calls, and what the source alone takes, measured with
/// packets that are dropped as soon as they arrive.
#[derive(Clone, Copy, Default)]
struct Turn {
    all: f64,
    worker: f64,
    source: f64,
}

impl Turn {
    /// What the lane costs this machine: everything but the source.
    fn lane(&self) -> f64 {
        self.all - self.source
    }
}

fn arena(buffers: usize, stride: u32) -> Result<Arena> {
    let bytes = buffers * stride as usize;
    let config = ArenaConfig { bytes, buffer_bytes: stride, pages: Pages::Ordinary, lock: false, numa_node: None };
    Arena::create(config).map_err(|error| anyhow!("the arena: {error}"))
}

fn filter(deliver: Deliver) -> Result<Program> {
    let config = Config { deliver, ..Config::default() };
    Ok(Program::load(&config, &Content { sessions: &packets::sessions(), ..Content::default() })?)
}

fn over_uring(runs: bool) -> Result<Lane<UringQueue>> {
    let buffers = 512;
    let mut arena = arena(buffers, BUFFER_BYTES)?;
    let (base, bytes) = arena.region();
    let mut pool = Pool::new(arena.take(buffers).context("buffers")?);
    let mut config = UringConfig::new(IpAddr::from(US), BASE_PORT);
    config.arena = Some(ArenaRegion { base: base.as_ptr().addr(), bytes });
    config.gso = runs;
    config.receive_buffer_bytes = SOCKET_BYTES;
    let mut port = UringPort::new(config).map_err(|error| anyhow!("io_uring: {error}"))?;
    let queue = port.open(&[SHARD], &mut pool).map_err(|error| anyhow!("io_uring: {error}"))?;
    Ok(Lane { queue, pool, _arena: arena, program: filter(Deliver::Kernel)?, runs })
}

fn over_xdp(cable: &Cable) -> Result<(Lane<AfxdpQueue>, AfxdpPorts)> {
    let program = filter(Deliver::ByQueue)?;
    let map: OwnedFd = program.tables().xskmap().try_clone_to_owned()?;
    let port = PortConfig::new("east", &cable.name(), Some(Arc::new(map)));
    let config =
        AfxdpConfig { receive_descriptors: DESCRIPTORS, ..AfxdpConfig::new(vec![port], BASE_PORT, vec![vec![SHARD]]) };
    let mut arena = arena(XDP_BUFFERS, 2_048)?;
    let mut pool = Pool::new(arena.take_behind(HEADROOM_BYTES, XDP_BUFFERS).context("buffers")?);
    let mut ports = AfxdpPorts::new(config).map_err(|error| anyhow!("XDP sockets: {error}"))?;
    let mut seat = ports.seat(0).context("a seat")?;
    let mut queue = seat.open(&[SHARD], &mut pool).map_err(|error| anyhow!("XDP sockets: {error}"))?;
    ports.want(IpAddr::from(THEM));
    let begun = Instant::now();
    // Until the port is ready and a frame to the other end can leave.
    loop {
        ensure!(begun.elapsed() < PATIENCE, "the port does not become ready: {:?}", ports.reports());
        ports.tick(1_000_000_000 + u64::try_from(begun.elapsed().as_nanos())?);
        receive(&mut queue, &mut pool);
        if ports.reports().first().is_some_and(|report| report.state == PortState::Ready)
            && sent(&mut queue, &mut pool)?
        {
            break;
        }
        std::thread::yield_now();
    }
    Ok((Lane { queue, pool, _arena: arena, program, runs: false }, ports))
}

/// Takes what is there and throws it away; how much that was.
fn receive(queue: &mut impl RxQueue, pool: &mut Pool) -> usize {
    let mut batch = RxBatch::new();
    queue.rx_burst(pool, &mut batch);
    batch.drain(..).map(|item| pool.put(item.buffer)).count()
}

/// Sends one frame; whether it left.
fn sent(queue: &mut (impl RxQueue + TxQueue), pool: &mut Pool) -> Result<bool> {
    let (mut out, mut done) = (TxBatch::new(), CompletionBatch::new());
    let buffer = pool.get().context("a buffer")?;
    let destination = Endpoint::v4(THEM.octets(), SINK_PORT);
    out.push(Transmit { buffer, offset: 0, len: 64, stride: 64, shard: SHARD, destination, token: 0 });
    queue.tx_burst(&mut out);
    let begun = Instant::now();
    loop {
        queue.completions(&mut done);
        if let Some(completion) = done.pop() {
            pool.put(completion.buffer);
            return Ok(completion.error.is_none());
        }
        ensure!(begun.elapsed() < PATIENCE, "nothing completes");
        receive(queue, pool);
        queue.tx_burst(&mut out);
    }
}

impl<Q: RxQueue + TxQueue> Lane<Q> {
    /// Takes frames and sends each on from a fresh buffer, or those of a burst in one run. Adds how many came to `frames`,
    /// and how many items are on their way out to `open`.
    fn step(&mut self, frames: &mut usize, open: &mut usize) -> Result<()> {
        let (mut received, mut out) = (RxBatch::new(), TxBatch::new());
        let destination = Endpoint::v4(THEM.octets(), SINK_PORT);
        self.queue.rx_burst(&mut self.pool, &mut received);
        let mut fresh: Option<Transmit> = None;
        for item in received.drain(..) {
            let bytes = &item.buffer.bytes()[item.offset as usize..][..item.len as usize];
            for frame in bytes.chunks(item.stride as usize) {
                let len = u32::try_from(frame.len())?;
                let mut run = match fresh.take() {
                    Some(run) => run,
                    None => {
                        let buffer = self.pool.get().context("a free buffer")?;
                        Transmit { buffer, offset: 0, len: 0, stride: len, shard: SHARD, destination, token: 0 }
                    }
                };
                run.buffer.bytes_mut()[run.len as usize..][..frame.len()].copy_from_slice(frame);
                run.len += len;
                *frames += 1;
                // 64 KiB with headers is the most that the kernel takes at once, and 64 frames of it.
                if self.runs && run.len + len <= 60_000 && run.len < 64 * len {
                    fresh = Some(run);
                } else {
                    out.push(run);
                }
                if out.is_full() {
                    self.send(&mut out, open);
                }
            }
            self.pool.put(item.buffer);
        }
        out.extend(fresh);
        self.send(&mut out, open);
        Ok(())
    }

    fn send(&mut self, out: &mut TxBatch, open: &mut usize) {
        *open += out.len();
        loop {
            self.queue.tx_burst(out);
            self.complete(open);
            if out.is_empty() {
                return;
            }
        }
    }

    fn complete(&mut self, open: &mut usize) {
        let mut done = CompletionBatch::new();
        self.queue.completions(&mut done);
        *open -= done.len();
        done.drain(..).for_each(|completion| self.pool.put(completion.buffer));
    }

    fn turn(&mut self, bed: &Bed, cable: &Cable, packet: &[u8]) -> Result<Turn> {
        let (mut frames, mut open, mut worker) = (0, 0, Duration::ZERO);
        let begun = kernel::cpu();
        for burst in 1..=BURSTS {
            cable.send(bed, packet, u32::try_from(BURST)?)?;
            let at = kernel::cpu();
            let mut idle = 0;
            while (frames < burst * BURST || open > 0) && idle < IDLE_MAX {
                let before = frames;
                self.step(&mut frames, &mut open)?;
                self.complete(&mut open);
                idle = if frames > before { 0 } else { idle + 1 };
            }
            worker += kernel::cpu() - at;
            ensure!(idle < IDLE_MAX, "{} frames were lost, so this is no measurement", burst * BURST - frames);
        }
        let all = kernel::cpu() - begun;
        let each = |time: Duration| time.as_nanos() as f64 / frames as f64;
        Ok(Turn { all: each(all), worker: each(worker), source: 0.0 })
    }
}

/// Both lanes by turns, with frames of both lengths.
pub(crate) fn rows(bed: &Bed, turns: usize, done: &mut dyn FnMut(Value)) -> Result<()> {
    let (cable, nowhere) = (bed.cable(0)?, bed.cable(1)?);
    let end = kernel::always(Answer::Drop)?;
    let _end = bed.there(|| Ok(kernel::attach(end.as_fd(), cable.them)?))?;
    let _nowhere = kernel::attach(end.as_fd(), nowhere.us)?;
    let first = filter(Deliver::Kernel)?;
    let link = kernel::attach(first.as_fd(), cable.us)?;
    let (mut xdp, mut ports) = over_xdp(&cable)?;
    for (runs, peer) in [(false, "io_uring, each frame alone"), (true, "io_uring, runs of equal frames")] {
        let mut uring = over_uring(runs)?;
        for (messages, target) in [(1, ONE_MESSAGE), (22, MANY_MESSAGES)] {
            let packet = packet(&frame(PINNED, messages, 0));
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for turn in 0..=turns {
                kernel::replace(link.as_fd(), xdp.program.as_fd())?;
                let mine = xdp.turn(bed, &cable, &packet)?;
                kernel::replace(link.as_fd(), uring.program.as_fd())?;
                let others = uring.turn(bed, &cable, &packet)?;
                let source = source_ns(bed, &nowhere, &packet)?;
                if turn > 0 {
                    ours.push(Turn { source, ..mine });
                    theirs.push(Turn { source, ..others });
                }
            }
            done(beside(messages, peer, &ours, &theirs, target));
        }
        uring.queue.close(&mut uring.pool);
    }
    xdp.queue.close(&mut ports, &mut xdp.pool);
    Ok(())
}

/// What the same packets cost that are dropped as soon as they arrive: the source and the wire.
fn source_ns(bed: &Bed, nowhere: &Cable, packet: &[u8]) -> Result<f64> {
    let begun = kernel::cpu();
    for _ in 0..BURSTS {
        nowhere.send(bed, packet, u32::try_from(BURST)?)?;
    }
    Ok((kernel::cpu() - begun).as_nanos() as f64 / (BURST * BURSTS) as f64)
}

fn beside(messages: usize, peer: &str, ours: &[Turn], theirs: &[Turn], target: f64) -> Value {
    let rates = |of: fn(&Turn) -> f64| {
        let rates = |turns: &[Turn]| turns.iter().map(|turn| 1e3 / of(turn)).collect::<Vec<_>>();
        let (ours, theirs) = (rates(ours), rates(theirs));
        Rates { ours: median(&ours), theirs: median(&theirs), ratio: median_ratio(&ours, &theirs) }
    };
    let bytes = 64 * (messages + 1);
    let case = format!("lane: frames of {messages} messages, {bytes} bytes");
    let mut lane = row(&case, &rates(Turn::lane), peer, Some(target));
    for (part, of) in [("with_source", (|turn| turn.all) as fn(&Turn) -> f64), ("calls_alone", |turn| turn.worker)] {
        let Rates { ours, theirs, ratio } = rates(of);
        lane[part] = json!({ "ours_mpps": ours, "peer_mpps": theirs, "ratio": ratio });
    }
    lane
}
