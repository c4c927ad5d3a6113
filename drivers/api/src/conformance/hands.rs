//! What a worker does with a queue, with every standing rule checked at every step.

use super::{Abilities, Rig, Sent, allocations};
use crate::{Buffer, CompletionBatch, QueueStats, Received, RxBatch, RxQueue, Transmit, TxBatch, TxQueue};
use alloc::vec::Vec;
use core::time::Duration;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};
use tachyon_wire::{Endpoint, Reason};

/// How long to wait for something that must come. Long, because test machines are busy; only a
/// failure takes it.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long nothing may come before a lossy link is taken to have lost the rest.
const QUIET: Duration = Duration::from_millis(100);
/// One idle wait, in nanoseconds.
const WAIT_NS: u64 = 100_000;

/// One frame that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Got {
    pub(super) shard: u16,
    pub(super) offset: u32,
    /// How many frames its buffer had.
    pub(super) together: usize,
    pub(super) frame: Vec<u8>,
}

/// A rig in use.
pub(super) struct Hands<R: Rig> {
    pub(super) rig: R,
    pub(super) abilities: Abilities,
    /// Buffers that are neither the pool's nor the queue's.
    in_hand: usize,
    held_at_first: usize,
    stats: QueueStats,
    next_token: u32,
    /// What the queue took and did not complete yet, and how each that it did complete ended.
    open: BTreeSet<u32>,
    pub(super) ended: BTreeMap<u32, Option<Reason>>,
    pub(super) sent: Vec<Sent>,
    done: CompletionBatch,
}

impl<R: Rig> Hands<R> {
    pub(super) fn new(mut rig: R) -> Self {
        let abilities = rig.abilities();
        let (queue, pool) = rig.parts();
        assert!(pool.total() >= 256, "the rig's pool has only {} buffers", pool.total());
        let (held_at_first, stats) = (queue.held(), queue.stats());
        Self {
            rig,
            abilities,
            in_hand: 0,
            held_at_first,
            stats,
            next_token: 1,
            open: BTreeSet::new(),
            ended: BTreeMap::new(),
            sent: Vec::new(),
            done: CompletionBatch::new(),
        }
    }

    /// What must hold between any two calls.
    pub(super) fn check_standing_rules(&mut self) {
        let in_hand = self.in_hand;
        let (queue, pool) = self.rig.parts();
        let (free, held, total) = (pool.free(), queue.held(), pool.total());
        assert_eq!(free + held + in_hand, total, "buffers: {free} free, {held} held by the queue, {in_hand} in hand");
        let (was, now) = (self.stats, queue.stats());
        assert!(
            now.syscalls >= was.syscalls && now.overflow >= was.overflow && now.starved >= was.starved,
            "counts fell from {was:?} to {now:?}"
        );
        self.stats = now;
    }

    /// Calls `rx_burst` once.
    pub(super) fn rx(&mut self, into: &mut RxBatch) -> usize {
        let before: Vec<u32> = into.iter().map(|item| item.buffer.index()).collect();
        let (queue, pool) = self.rig.parts();
        let mut count = 0;
        let allocated = allocations(|| count = queue.rx_burst(pool, into));
        assert_eq!(allocated, 0, "rx_burst allocated or freed");
        assert_eq!(into.len(), before.len() + count, "rx_burst returned another number than it moved");
        let kept: Vec<u32> = into[..before.len()].iter().map(|item| item.buffer.index()).collect();
        assert_eq!(kept, before, "rx_burst touched what was in the batch");
        for item in &into[before.len()..] {
            let Received { offset, len, stride, shard, .. } = *item;
            assert!(stride > 0 && stride <= len, "stride {stride}, len {len}");
            assert!(u64::from(offset) + u64::from(len) <= u64::from(item.buffer.capacity()), "{item:?}");
            assert!(self.abilities.shards.contains(&shard), "shard {shard} was not opened");
            let source = if self.abilities.sources { self.abilities.peers[0] } else { Endpoint::NONE };
            assert_eq!(item.source, source);
        }
        self.in_hand += count;
        self.check_standing_rules();
        count
    }

    /// Takes the frames out of a batch and gives its buffers back.
    pub(super) fn take_frames(&mut self, batch: &mut RxBatch) -> Vec<Got> {
        let mut got = Vec::new();
        let (_, pool) = self.rig.parts();
        for Received { buffer, offset, len, stride, shard, .. } in batch.drain(..) {
            let bytes = &buffer.bytes()[offset as usize..][..len as usize];
            let frames = bytes.chunks(stride as usize);
            let together = frames.len();
            let mut at = offset;
            for frame in frames {
                got.push(Got { shard, offset: at, together, frame: frame.to_vec() });
                at += stride;
            }
            pool.put(buffer);
            self.in_hand -= 1;
        }
        self.check_standing_rules();
        got
    }

    /// Receives until `count` frames came or, on a lossy link, nothing came for a while; then looks whether more comes.
    pub(super) fn receive(&mut self, count: usize) -> Vec<Got> {
        let mut got = Vec::new();
        let mut batch = RxBatch::new();
        let mut last = Instant::now();
        let patience = if self.abilities.lossy { QUIET } else { PATIENCE };
        while got.len() < count && last.elapsed() < patience {
            if self.rx(&mut batch) > 0 {
                last = Instant::now();
                got.extend(self.take_frames(&mut batch));
            } else {
                self.rig.parts().0.wait(WAIT_NS);
            }
        }
        for _ in 0..3 {
            self.rx(&mut batch);
            got.extend(self.take_frames(&mut batch));
        }
        got
    }

    /// Whether `got` is what was offered: exactly, or with gaps where the link may lose.
    pub(super) fn assert_arrived<F: AsRef<[u8]>>(&self, offered: &[F], got: &[Got]) {
        let mut rest = offered.iter();
        for (place, one) in got.iter().enumerate() {
            let found = rest.any(|frame| frame.as_ref() == one.frame);
            assert!(found, "frame {place} of those received was not offered, came twice, or overtook another: {one:?}");
        }
        if self.abilities.lossy {
            assert!(offered.is_empty() || !got.is_empty(), "nothing of {} frames arrived", offered.len());
        } else {
            assert_eq!(got.len(), offered.len(), "frames that arrived, of those offered");
        }
    }

    /// Takes a buffer out of the pool.
    pub(super) fn take_buffer(&mut self) -> Option<Buffer> {
        let buffer = self.rig.parts().1.get();
        self.in_hand += usize::from(buffer.is_some());
        buffer
    }

    /// Gives a buffer back.
    pub(super) fn give_back(&mut self, buffer: Buffer) {
        self.rig.parts().1.put(buffer);
        self.in_hand -= 1;
    }

    /// Makes an item to send out of equally long frames (the last may be shorter), if the pool has a buffer; its token is
    /// new.
    pub(super) fn item(
        &mut self,
        shard: u16,
        destination: Endpoint,
        offset: u32,
        frames: &[Vec<u8>],
    ) -> Option<Transmit> {
        let mut buffer = self.take_buffer()?;
        let bytes = frames.concat();
        buffer.bytes_mut()[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
        let token = self.next_token;
        self.next_token += 1;
        let number = |bytes: usize| u32::try_from(bytes).expect("a buffer's size is a u32");
        let (len, stride) = (number(bytes.len()), number(frames[0].len()));
        Some(Transmit { buffer, offset, len, stride, shard, destination, token })
    }

    /// Calls `tx_burst` once.
    pub(super) fn tx(&mut self, from: &mut TxBatch) -> usize {
        let before: Vec<u32> = from.iter().map(|item| item.token).collect();
        let (queue, _) = self.rig.parts();
        let mut count = 0;
        let allocated = allocations(|| count = queue.tx_burst(from));
        assert_eq!(allocated, 0, "tx_burst allocated or freed");
        assert!(count <= before.len(), "tx_burst took more than there was");
        let left: Vec<u32> = from.iter().map(|item| item.token).collect();
        assert_eq!(left, before[count..], "tx_burst takes from the front and leaves the rest as it was");
        self.open.extend(&before[..count]);
        self.in_hand -= count;
        self.check_standing_rules();
        count
    }

    /// Calls `completions` once, into a batch with room for `room`, and gives the buffers back.
    pub(super) fn complete(&mut self, room: usize) -> usize {
        let mut batch = core::mem::take(&mut self.done);
        let (queue, pool) = self.rig.parts();
        // A batch has a fixed capacity, so what fills it up are completions of our own.
        while batch.remaining_capacity() > room
            && let Some(buffer) = pool.get()
        {
            batch.push(crate::Completion { token: 0, buffer, error: None });
        }
        let (before, mut count) = (batch.len(), 0);
        let free = batch.remaining_capacity();
        let allocated = allocations(|| count = queue.completions(&mut batch));
        assert_eq!(allocated, 0, "completions allocated or freed");
        assert_eq!(batch.len(), before + count, "completions returned another number than it moved");
        assert!(count <= free);
        for (place, completion) in batch.drain(..).enumerate() {
            pool.put(completion.buffer);
            if place < before {
                assert_eq!(completion.token, 0, "completions touched what was in the batch");
                continue;
            }
            let token = completion.token;
            assert!(self.open.remove(&token), "token {token} completed twice or was never taken");
            self.ended.insert(token, completion.error);
        }
        self.done = batch;
        self.check_standing_rules();
        count
    }

    /// Lets the peer receive and collects it.
    pub(super) fn collect_sent(&mut self) -> usize {
        let sent = self.rig.sent();
        let count = sent.len();
        self.sent.extend(sent);
        count
    }

    /// Drives the queue until everything that it took completed and the peers got `frames` frames (fewer where the link
    /// may lose).
    pub(super) fn settle(&mut self, frames: usize) {
        let mut ignored = RxBatch::new();
        let mut last = Instant::now();
        loop {
            // Receiving drives the device too.
            self.rx(&mut ignored);
            self.take_frames(&mut ignored);
            let moved = self.collect_sent() + self.complete(crate::BURST_MAX);
            if moved > 0 {
                last = Instant::now();
                continue;
            }
            if self.open.is_empty() && (self.sent.len() >= frames || (self.abilities.lossy && last.elapsed() > QUIET)) {
                return;
            }
            assert!(
                last.elapsed() < PATIENCE,
                "{} never completed, {} of {frames} sent",
                self.open.len(),
                self.sent.len()
            );
            self.rig.parts().0.wait(WAIT_NS);
        }
    }

    /// Ends a check: everything drains, and nothing more comes.
    pub(super) fn finish(&mut self) {
        self.settle(0);
        assert_eq!(self.in_hand, 0, "the check kept buffers");
        let (queue, pool) = self.rig.parts();
        assert!(
            queue.held() <= self.held_at_first,
            "the queue holds {} buffers with nothing in flight, and held {} at first",
            queue.held(),
            self.held_at_first
        );
        assert_eq!(pool.free() + queue.held(), pool.total(), "buffers at the end");
    }
}

/// A frame that no other number has: the number, then bytes that follow from number and place.
pub(super) fn frame(number: u64, len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = number.to_le_bytes().into_iter().cycle().take(len).collect();
    for (place, byte) in frame.iter_mut().enumerate().skip(8) {
        let mixed = (number ^ place as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        *byte = mixed.to_be_bytes()[0];
    }
    frame
}
