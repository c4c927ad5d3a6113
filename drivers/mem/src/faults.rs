//! Seeded faults around any queue.

use std::collections::VecDeque;
use tachyon_driver_api::{
    Buffer, Completion, CompletionBatch, Pool, QueueStats, Received, RxBatch, RxQueue, TxBatch, TxQueue,
};
use tachyon_wire::Reason;

/// Most buffers that [`Faulty`] keeps in each of its places (received and stalled, failed, delayed). Four bursts: enough
/// for a stall of a few turns under full load, after which the pressure goes back to the queue below, as it should.
pub const FAULTS_HELD_MAX: usize = 4 * tachyon_driver_api::BURST_MAX;

/// How often each fault happens, in 1/65,536: 0 is never, 65,536 always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Per buffer received: it is lost, with all its frames.
    pub drop: u32,
    /// Per buffer received: a copy follows it, if the pool has a buffer for it.
    pub duplicate: u32,
    /// Per buffer received: the next one overtakes it, if there is a next one by the next call.
    pub reorder: u32,
    /// Per buffer received: one bit is flipped.
    pub corrupt: u32,
    /// Per buffer received: it ends early, at any byte, and at least one byte is left.
    pub truncate: u32,
    /// Per `rx_burst`: nothing is received for [`Faults::stall_calls`] calls, this one included.
    pub stall: u32,
    /// Calls that a stall lasts.
    pub stall_calls: u32,
    /// Per item to send: it is not sent and completes with `E_TX_SUBMIT_FAIL`.
    pub submit_fail: u32,
    /// Per item to send: it is not sent and completes with `E_TX_CQ_ERROR`.
    pub cq_error: u32,
    /// Per item to send: it is not sent and completes with `E_TX_TIMEOUT`.
    pub timeout: u32,
    /// Per `tx_burst` with something to send: it takes nothing.
    pub refuse: u32,
    /// Per completion: it comes [`Faults::delay_calls`] calls of `completions` later.
    pub delay: u32,
    /// Calls that a completion is delayed by.
    pub delay_calls: u32,
}

/// What was done. Frames: handed on or still held = arrived + duplicated − dropped − cut away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Frames that the queue below received.
    pub arrived: u64,
    /// Frames lost whole with their buffer.
    pub dropped: u64,
    /// Frames that came once more.
    pub duplicated: u64,
    /// Frames with one bit flipped.
    pub corrupted: u64,
    /// Frames that were handed on shorter than they were.
    pub cut: u64,
    /// Frames lost whole because their buffer ended before them.
    pub cut_away: u64,
    /// Buffers that another one overtook.
    pub reordered: u64,
    /// Stalls begun.
    pub stalls: u64,
    /// Items that completed with `E_TX_SUBMIT_FAIL` by our doing.
    pub submit_failed: u64,
    /// Items that completed with `E_TX_CQ_ERROR` by our doing.
    pub cq_errors: u64,
    /// Items that completed with `E_TX_TIMEOUT` by our doing.
    pub timeouts: u64,
    /// Calls of `tx_burst` that took nothing by our doing.
    pub refused: u64,
    /// Completions that came later.
    pub delayed: u64,
}

impl FaultCounts {
    /// Frames that were handed on or are still held.
    #[must_use]
    pub const fn seen(&self) -> u64 {
        self.arrived + self.duplicated - self.dropped - self.cut_away
    }
}

/// A queue that fails on purpose. What happens to the nth buffer received and the nth item sent depends on the seed alone,
/// not on how they fell into bursts; with all faults at 0 it is the queue below.
#[derive(Debug)]
pub struct Faulty<Q> {
    below: Q,
    faults: Faults,
    counts: FaultCounts,
    /// Draws per buffer received, per item sent, and per call, so that polling more often does not change the first two.
    on_receive: Draws,
    on_send: Draws,
    on_call: Draws,
    /// Received from below, faults not yet drawn.
    fresh: RxBatch,
    /// To be overtaken by the next one.
    aside: Option<Received>,
    /// To be handed on.
    ready: VecDeque<Received>,
    stalled_calls: u32,
    /// Taken, and left by the queue below.
    to_send: TxBatch,
    failed: VecDeque<Completion>,
    done: CompletionBatch,
    /// Each with the call in which it is due.
    delayed: VecDeque<(Completion, u64)>,
    completion_calls: u64,
}

impl<Q> Faulty<Q> {
    /// Wraps a queue.
    #[must_use]
    pub fn new(below: Q, faults: Faults, seed: u64) -> Self {
        let mut seeds = Draws(seed);
        Self {
            below,
            faults,
            counts: FaultCounts::default(),
            on_receive: Draws(seeds.next()),
            on_send: Draws(seeds.next()),
            on_call: Draws(seeds.next()),
            fresh: RxBatch::new(),
            aside: None,
            ready: VecDeque::with_capacity(FAULTS_HELD_MAX),
            stalled_calls: 0,
            to_send: TxBatch::new(),
            failed: VecDeque::with_capacity(FAULTS_HELD_MAX),
            done: CompletionBatch::new(),
            delayed: VecDeque::with_capacity(FAULTS_HELD_MAX),
            completion_calls: 0,
        }
    }

    /// What was done so far.
    #[must_use]
    pub const fn counts(&self) -> FaultCounts {
        self.counts
    }

    /// Changes the faults from now on; what is held goes on as it was drawn.
    pub const fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// The queue below.
    pub const fn below(&mut self) -> &mut Q {
        &mut self.below
    }

    /// Draws the faults of one received buffer and puts what is left of it into `ready`.
    fn receive(&mut self, mut item: Received, pool: &mut Pool) {
        let frames = frames_in(&item);
        self.counts.arrived += frames;
        if self.on_receive.happens(self.faults.drop) {
            self.counts.dropped += frames;
            pool.put(item.buffer);
            return;
        }
        let mut copy = None;
        if self.on_receive.happens(self.faults.duplicate)
            && let Some(buffer) = pool.get()
        {
            copy = Some(copy_into(buffer, &item));
            self.counts.duplicated += frames;
        }
        if self.on_receive.happens(self.faults.corrupt) {
            let bit = self.on_receive.below(u64::from(item.len) * 8);
            let byte = item.offset as usize + usize::try_from(bit / 8).expect("an offset in a buffer");
            item.buffer.bytes_mut()[byte] ^= 1 << (bit % 8);
            self.counts.corrupted += 1;
        }
        if self.on_receive.happens(self.faults.truncate) && item.len > 1 {
            self.truncate(&mut item);
        }
        let overtaken = self.aside.take();
        if overtaken.is_none() && self.on_receive.happens(self.faults.reorder) {
            self.aside = Some(item);
        } else {
            self.ready.push_back(item);
        }
        self.ready.extend(copy);
        self.counts.reordered += u64::from(overtaken.is_some());
        self.ready.extend(overtaken);
    }

    fn truncate(&mut self, item: &mut Received) {
        let before = frames_in(item);
        let drawn = 1 + self.on_receive.below(u64::from(item.len) - 1);
        item.len = u32::try_from(drawn).expect("less than it was");
        self.counts.cut_away += before - frames_in(item);
        // A cut between two frames shortens none of those that are left.
        self.counts.cut += u64::from(before == frames_in(item) || !item.len.is_multiple_of(item.stride));
        item.stride = item.stride.min(item.len);
    }

    fn stalls(&mut self) -> bool {
        if self.stalled_calls == 0 && self.faults.stall_calls > 0 && self.on_call.happens(self.faults.stall) {
            self.stalled_calls = self.faults.stall_calls;
            self.counts.stalls += 1;
        }
        let stalls = self.stalled_calls > 0;
        self.stalled_calls = self.stalled_calls.saturating_sub(1);
        stalls
    }

    fn draw_error(&mut self) -> Option<Reason> {
        let Faults { submit_fail, cq_error, timeout, .. } = self.faults;
        let kinds = [
            (submit_fail, Reason::TxSubmitFail, &mut self.counts.submit_failed),
            (cq_error, Reason::TxCqError, &mut self.counts.cq_errors),
            (timeout, Reason::TxTimeout, &mut self.counts.timeouts),
        ];
        for (parts, reason, count) in kinds {
            if self.on_send.happens(parts) {
                *count += 1;
                return Some(reason);
            }
        }
        None
    }
}

impl<Q: RxQueue + TxQueue> RxQueue for Faulty<Q> {
    fn rx_burst(&mut self, pool: &mut Pool, into: &mut RxBatch) -> usize {
        /// What one buffer can add to `ready`: itself, its copy, and the one that it overtook.
        const ADDED_MAX: usize = 3;
        self.below.tx_burst(&mut self.to_send);
        self.below.rx_burst(pool, &mut self.fresh);
        if self.fresh.is_empty() {
            // Nothing came that could overtake it.
            self.ready.extend(self.aside.take());
        }
        let room = FAULTS_HELD_MAX.saturating_sub(self.ready.len()) / ADDED_MAX;
        let mut fresh = core::mem::take(&mut self.fresh);
        for item in fresh.drain(..room.min(fresh.len())) {
            self.receive(item, pool);
        }
        self.fresh = fresh;
        if self.stalls() {
            return 0;
        }
        let count = into.remaining_capacity().min(self.ready.len());
        into.extend(self.ready.drain(..count));
        count
    }

    fn wait(&mut self, ns: u64) {
        // What is held is due in a number of calls, so the caller has to go on calling.
        if self.held() == self.below.held() {
            self.below.wait(ns);
        }
    }

    fn stats(&self) -> QueueStats {
        self.below.stats()
    }

    fn held(&self) -> usize {
        let received = self.fresh.len() + usize::from(self.aside.is_some()) + self.ready.len();
        let sent = self.to_send.len() + self.failed.len() + self.done.len() + self.delayed.len();
        self.below.held() + received + sent
    }
}

impl<Q: RxQueue + TxQueue> TxQueue for Faulty<Q> {
    fn tx_burst(&mut self, from: &mut TxBatch) -> usize {
        if !from.is_empty() && self.on_call.happens(self.faults.refuse) {
            self.counts.refused += 1;
            return 0;
        }
        self.below.tx_burst(&mut self.to_send);
        let count = from.len().min(self.to_send.remaining_capacity()).min(FAULTS_HELD_MAX - self.failed.len());
        for item in from.drain(..count) {
            match self.draw_error() {
                None => self.to_send.push(item),
                error => self.failed.push_back(Completion { token: item.token, buffer: item.buffer, error }),
            }
        }
        self.below.tx_burst(&mut self.to_send);
        count
    }

    fn completions(&mut self, into: &mut CompletionBatch) -> usize {
        let before = into.len();
        self.completion_calls += 1;
        while into.remaining_capacity() > 0
            && let Some(completion) = self.failed.pop_front()
        {
            into.push(completion);
        }
        while into.remaining_capacity() > 0
            && self.delayed.front().is_some_and(|(_, due)| *due <= self.completion_calls)
            && let Some((completion, _)) = self.delayed.pop_front()
        {
            into.push(completion);
        }
        self.below.completions(&mut self.done);
        let count = into.remaining_capacity().min(self.done.len());
        for completion in self.done.drain(..count) {
            if self.delayed.len() < FAULTS_HELD_MAX && self.on_call.happens(self.faults.delay) {
                self.counts.delayed += 1;
                self.delayed.push_back((completion, self.completion_calls + u64::from(self.faults.delay_calls)));
            } else {
                into.push(completion);
            }
        }
        into.len() - before
    }
}

fn frames_in(item: &Received) -> u64 {
    u64::from(item.len.div_ceil(item.stride))
}

fn copy_into(mut buffer: Buffer, item: &Received) -> Received {
    let range = item.offset as usize..(item.offset + item.len) as usize;
    buffer.bytes_mut()[range.clone()].copy_from_slice(&item.buffer.bytes()[range]);
    Received { buffer, ..*item }
}

/// splitmix64 (Steele, Lea and Flood, 2014): passes BigCrush, and any seed will do.
#[derive(Debug)]
struct Draws(u64);

impl Draws {
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Whether something of this probability, in 1/65,536, happens now.
    const fn happens(&mut self, parts: u32) -> bool {
        self.next() >> 48 < parts as u64
    }

    /// A number below `limit`, which is not 0.
    const fn below(&mut self, limit: u64) -> u64 {
        // The bias is limit/2⁶⁴, and a buffer has fewer than 2³⁵ bits.
        self.next() % limit
    }
}
