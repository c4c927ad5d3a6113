//! One subscriber: reads, verifies and counts every frame that a node sends it.

use crate::{
    events::Events,
    publisher::intended_ns,
    reader::{Anomaly, Reader},
    track::{Arrival, Track},
};
use hdrhistogram::Histogram;
use std::collections::{BTreeMap, HashMap};
use tachyon_driver_api::{CompletionBatch, Pool, QueueStats, RxBatch, RxQueue, TxQueue};
use tachyon_wire::{Frame, frame::KIND_DATA};

/// The longest latency that is told apart, a minute; longer ones count as this long. A run waits for the node far less.
const LATENCY_MAX_NS: u64 = 60_000_000_000;
/// Significant digits of a latency: 0.1 % of its value.
const LATENCY_DIGITS: u8 = 3;

/// An empty histogram of latencies in nanoseconds.
///
/// # Panics
/// Never: the bounds are constants that the histogram takes.
#[must_use]
pub fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_NS, LATENCY_DIGITS).expect("constant bounds are valid")
}

/// What a subscriber read in one phase.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Copies, in frames that verified and came for the first time.
    pub copies: u64,
    /// Those among them that came before, by their identity, and that a program would drop.
    pub doubles: u64,
    /// Those frames.
    pub frames: u64,
    /// Copies by `route_id`.
    pub routes: BTreeMap<u32, u64>,
    /// From the intended time to when this program had the frame, ns.
    pub latency: Histogram<u64>,
}

impl Default for Heard {
    fn default() -> Self {
        Self { copies: 0, doubles: 0, frames: 0, routes: BTreeMap::new(), latency: latency_histogram() }
    }
}

impl Heard {
    /// Adds another phase or subscriber to this one.
    ///
    /// # Panics
    /// Never: all histograms here have the same bounds.
    pub fn merge(&mut self, other: &Self) {
        self.copies += other.copies;
        self.doubles += other.doubles;
        self.frames += other.frames;
        for (route, copies) in &other.routes {
            *self.routes.entry(*route).or_default() += copies;
        }
        self.latency.add(&other.latency).expect("same bounds");
    }
}

/// A subscriber on one queue of any driver.
#[derive(Debug)]
pub struct Subscriber<Q> {
    queue: Q,
    pool: Pool,
    reader: Reader,
    received: RxBatch,
    tracks: HashMap<(u32, u32, u16), Track>,
    events: Events,
    heard: Heard,
    anomalies: BTreeMap<Anomaly, u64>,
}

impl<Q: RxQueue + TxQueue> Subscriber<Q> {
    /// A subscriber that reads frames under the reader's sessions.
    #[must_use]
    pub fn new(queue: Q, pool: Pool, reader: Reader) -> Self {
        Self {
            queue,
            pool,
            reader,
            received: RxBatch::new(),
            tracks: HashMap::new(),
            events: Events::default(),
            heard: Heard::default(),
            anomalies: BTreeMap::new(),
        }
    }

    /// One turn: reads a burst. `clock` tells the time once the burst is there; that time is when its frames arrived.
    /// Returns how much there was to do.
    pub fn turn(&mut self, clock: impl Fn() -> u64) -> usize {
        // A subscriber sends nothing, but a driver may need to be asked all the same.
        let mut done = CompletionBatch::new();
        self.queue.completions(&mut done);
        let mut received = std::mem::take(&mut self.received);
        let count = self.queue.rx_burst(&mut self.pool, &mut received);
        let now_ns = if count > 0 { clock() } else { 0 };
        for item in received.drain(..) {
            let (start, end) = (item.offset as usize, item.offset as usize + item.len as usize);
            for bytes in item.buffer.bytes()[start..end].chunks(item.stride as usize) {
                self.read(bytes, item.shard, now_ns);
            }
            self.pool.put(item.buffer);
        }
        self.received = received;
        count
    }

    fn read(&mut self, bytes: &[u8], shard: u16, now_ns: u64) {
        let frame = match self.reader.check(bytes, shard) {
            Ok(frame) => frame,
            Err(anomaly) => return self.note(anomaly),
        };
        let header = frame.header;
        let stream = (header.session_id.get(), header.epoch.get(), header.shard.get());
        match self.tracks.entry(stream).or_default().arrive(header.frame_id.get()) {
            Arrival::New => {}
            Arrival::Duplicate => return self.note(Anomaly::Duplicate),
            Arrival::TooLate => return self.note(Anomaly::TooLate),
        }
        if header.kind == KIND_DATA {
            self.count(&frame, now_ns);
        }
    }

    fn note(&mut self, anomaly: Anomaly) {
        *self.anomalies.entry(anomaly).or_default() += 1;
    }

    fn count(&mut self, frame: &Frame<'_>, now_ns: u64) {
        let copies = u64::from(frame.header.count.get());
        self.heard.copies += copies;
        self.heard.frames += 1;
        self.heard.doubles += frame.provenance.iter().filter(|event| !self.events.is_new(event)).count() as u64;
        *self.heard.routes.entry(frame.header.route_id.get()).or_default() += copies;
        // Neighbours mostly come from one run and have one intended time: recorded together, they cost one look-up.
        let same_time = frame.messages.chunk_by(|one, next| intended_ns(one) == intended_ns(next));
        for messages in same_time {
            if let Some(intended) = messages.first().and_then(intended_ns) {
                let latency = now_ns.saturating_sub(intended).clamp(1, LATENCY_MAX_NS);
                self.heard.latency.saturating_record_n(latency, messages.len() as u64);
            }
        }
    }

    /// Ends the phase: what was read in it.
    pub fn end(&mut self) -> Heard {
        std::mem::take(&mut self.heard)
    }

    /// What was read so far in this phase.
    #[must_use]
    pub const fn heard(&self) -> &Heard {
        &self.heard
    }

    /// Frames that could not be counted, by cause.
    #[must_use]
    pub const fn anomalies(&self) -> &BTreeMap<Anomaly, u64> {
        &self.anomalies
    }

    /// Numbers that are missing from the node's frames, over all its sessions, shards and epochs.
    #[must_use]
    pub fn gaps(&self) -> u64 {
        self.tracks.values().map(Track::gaps).sum()
    }

    /// The queue's own counts.
    #[must_use]
    pub fn queue_stats(&self) -> QueueStats {
        self.queue.stats()
    }

    /// Sleeps until there may be something to read, at most `ns`.
    pub fn wait(&mut self, ns: u64) {
        self.queue.wait(ns);
    }
}
