//! A link in memory and its two ends.

use crate::ring::{Consumer, Producer, ring};
use std::{
    collections::VecDeque,
    thread,
    time::{Duration, Instant},
};
use tachyon_driver_api::{
    BURST_MAX, Buffer, Completion, CompletionBatch, Pool, QueueStats, Received, RxBatch, RxQueue, Transmit, TxBatch,
    TxQueue,
};
use tachyon_wire::Reason;

/// What a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkConfig {
    /// Most buffers in flight in each direction: a power of two. In flight is a buffer from `tx_burst` to its completion.
    pub depth: usize,
    /// Largest frame in bytes, header included; larger ones complete with `E_TX_SUBMIT_FAIL`.
    pub frame_bytes_max: u32,
}

impl Default for LinkConfig {
    fn default() -> Self {
        // Four bursts, so that either end may be late by a few turns; 22 messages and a header, as over IPv4 at MTU 1500.
        Self { depth: 4 * BURST_MAX, frame_bytes_max: 64 + 22 * 64 }
    }
}

/// One end of a link, to be polled by one thread; the other end may be polled by the same thread or another.
///
/// One end is a worker's and the other is the outside, everything that the worker can reach: the address that travels
/// with an item is always the outside one. What the outside receives names in `source` whom the worker addressed; what it
/// sends arrives as if it came from the `destination` it gave. [`tachyon_wire::Endpoint::NONE`] is impossible to send to.
///
/// A completion comes once the other end received the item, because only then it gives an empty buffer for it. Buffers in
/// flight when an end is dropped stay in flight.
#[derive(Debug)]
pub struct MemQueue {
    config: LinkConfig,
    /// To the other end: what was sent.
    outgoing: Producer<Received>,
    /// From the other end: an empty buffer for each item of `outgoing` that it received, in the same order.
    exchanged: Consumer<Buffer>,
    /// The tokens of what is in `outgoing` and `exchanged`, in order.
    tokens: VecDeque<u32>,
    /// What was taken and could not be sent.
    failed: VecDeque<Completion>,
    /// From the other end: what it sent.
    incoming: Consumer<Received>,
    /// To the other end: an empty buffer for each item received.
    exchange: Producer<Buffer>,
    starved: u64,
}

/// Makes a link and returns its ends, the worker's and the outside one. Both must use buffers of one size.
///
/// # Panics
/// `config.depth` is no power of two.
#[must_use]
pub fn pair(config: LinkConfig) -> (MemQueue, MemQueue) {
    let (worker_out, outside_in) = ring(config.depth);
    let (outside_out, worker_in) = ring(config.depth);
    let (worker_gives, outside_gets) = ring(config.depth);
    let (outside_gives, worker_gets) = ring(config.depth);
    let end = |outgoing, exchanged, incoming, exchange| MemQueue {
        config,
        outgoing,
        exchanged,
        tokens: VecDeque::with_capacity(config.depth),
        failed: VecDeque::with_capacity(config.depth),
        incoming,
        exchange,
        starved: 0,
    };
    (end(worker_out, worker_gets, worker_in, worker_gives), end(outside_out, outside_gets, outside_in, outside_gives))
}

impl MemQueue {
    /// What the link is.
    #[must_use]
    pub const fn config(&self) -> LinkConfig {
        self.config
    }

    /// Items that the other end sent and this one did not receive yet.
    pub fn waiting(&mut self) -> usize {
        self.incoming.len()
    }

    fn can_send(&self, item: &Transmit) -> bool {
        item.stride != 0
            && item.len != 0
            && item.stride.min(item.len) <= self.config.frame_bytes_max
            && u64::from(item.offset) + u64::from(item.len) <= u64::from(item.buffer.capacity())
            && !item.destination.is_none()
    }
}

impl RxQueue for MemQueue {
    #[inline]
    fn rx_burst(&mut self, pool: &mut Pool, into: &mut RxBatch) -> usize {
        let wanted = self.incoming.len().min(into.remaining_capacity());
        let count = wanted.min(pool.free());
        if count < wanted {
            self.starved += 1;
        }
        if count == 0 {
            return 0;
        }
        for _ in 0..count {
            let (Some(item), Some(spare)) = (self.incoming.take(), pool.get()) else {
                unreachable!("both were counted")
            };
            debug_assert_eq!(spare.capacity(), item.buffer.capacity(), "both ends use buffers of one size");
            let staged = self.exchange.stage(spare);
            debug_assert!(staged.is_ok(), "as many places as items in flight");
            into.push(item);
        }
        // In this order: whoever sees the empty buffer, and so counts one item less in flight, finds its room free.
        self.incoming.release();
        self.exchange.publish();
        count
    }

    fn wait(&mut self, ns: u64) {
        /// How long to give way before sleeping. An idle poll may take 10 µs (design, budgets), and a sleep is longer.
        const GIVE_WAY: Duration = Duration::from_micros(10);
        /// One sleep. About what Linux makes of the shortest sleep there is (timer slack of 50 µs).
        const NAP: Duration = Duration::from_micros(50);
        let (start, limit) = (Instant::now(), Duration::from_nanos(ns));
        while self.incoming.len() == 0 && self.exchanged.len() == 0 && self.failed.is_empty() {
            let slept = start.elapsed();
            if slept >= limit {
                return;
            }
            if slept < GIVE_WAY { thread::yield_now() } else { thread::sleep(NAP.min(limit - slept)) }
        }
    }

    fn stats(&self) -> QueueStats {
        QueueStats { starved: self.starved, ..QueueStats::default() }
    }

    fn held(&self) -> usize {
        self.tokens.len() + self.failed.len()
    }
}

impl TxQueue for MemQueue {
    #[inline]
    fn tx_burst(&mut self, from: &mut TxBatch) -> usize {
        let count = from.len().min(self.config.depth - self.held());
        for item in from.drain(..count) {
            if self.can_send(&item) {
                let Transmit { buffer, offset, len, stride, shard, destination, token } = item;
                let stride = stride.min(len);
                let staged = self.outgoing.stage(Received { buffer, offset, len, stride, shard, source: destination });
                debug_assert!(staged.is_ok(), "as many places as items in flight");
                self.tokens.push_back(token);
            } else {
                let error = Some(Reason::TxSubmitFail);
                self.failed.push_back(Completion { token: item.token, buffer: item.buffer, error });
            }
        }
        if count > 0 {
            self.outgoing.publish();
        }
        count
    }

    #[inline]
    fn completions(&mut self, into: &mut CompletionBatch) -> usize {
        let before = into.len();
        while into.remaining_capacity() > 0
            && let Some(completion) = self.failed.pop_front()
        {
            into.push(completion);
        }
        while into.remaining_capacity() > 0
            && let Some(buffer) = self.exchanged.take()
        {
            let token = self.tokens.pop_front().expect("one token for each item in flight");
            into.push(Completion { token, buffer, error: None });
        }
        let count = into.len() - before;
        if count > 0 {
            self.exchanged.release();
        }
        count
    }
}
