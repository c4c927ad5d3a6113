//! The hot path's view of a device: receive a burst, send a burst, take back what is done.

use crate::{Buffer, Pool};
use arrayvec::ArrayVec;
use tachyon_wire::{Endpoint, Reason};

/// Most items of one batch. 64: enough to hide one cache miss per item behind the others, few enough to stay in L1.
pub const BURST_MAX: usize = 64;

/// What arrived: one buffer with one or more frames of one shard, one sender and one stride.
#[derive(Debug)]
pub struct Received {
    /// The memory; the receiver owns it and puts it back into its pool.
    pub buffer: Buffer,
    /// Where the first frame starts in it.
    pub offset: u32,
    /// Bytes of all frames together.
    pub len: u32,
    /// Bytes from one frame to the next; the last may be shorter. Equal to `len` for a single frame; never 0.
    pub stride: u32,
    /// The shard whose port it came to.
    pub shard: u16,
    /// Whom it came from; [`Endpoint::NONE`] where the transport has no addresses.
    pub source: Endpoint,
}

/// What to send: one buffer with one or more frames to one destination.
#[derive(Debug)]
pub struct Transmit {
    /// The memory; the driver owns it until the completion.
    pub buffer: Buffer,
    /// Where the first frame starts in it.
    pub offset: u32,
    /// Bytes of all frames together.
    pub len: u32,
    /// Bytes from one frame to the next; only the last may be shorter.
    pub stride: u32,
    /// The shard whose port it leaves from.
    pub shard: u16,
    /// Where it goes, port included.
    pub destination: Endpoint,
    /// The caller's mark; comes back with the completion.
    pub token: u32,
}

/// What became of a [`Transmit`].
#[derive(Debug)]
pub struct Completion {
    /// The caller's mark.
    pub token: u32,
    /// A free buffer for the one that was sent; not always the same one (drivers may exchange buffers), but of one size.
    pub buffer: Buffer,
    /// `None`: the device took it. Otherwise the copy ledger's reason.
    pub error: Option<Reason>,
}

/// A batch of received buffers.
pub type RxBatch = ArrayVec<Received, BURST_MAX>;
/// A batch to send.
pub type TxBatch = ArrayVec<Transmit, BURST_MAX>;
/// A batch of completions.
pub type CompletionBatch = ArrayVec<Completion, BURST_MAX>;

/// What a queue counted by itself; totals since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Syscalls made.
    pub syscalls: u64,
    /// Datagrams the kernel or device dropped for want of room, as far as it says.
    pub overflow: u64,
    /// Times the pool had no buffer to receive into.
    pub starved: u64,
}

/// The receiving half of a queue.
pub trait RxQueue {
    /// Moves received buffers to the back of `into`, up to its free room, in order of arrival; returns how many. Buffers
    /// that the device needs to receive into come out of `pool`. Also drives the device: what an earlier
    /// [`TxQueue::tx_burst`] queued is handed over at the latest here.
    fn rx_burst(&mut self, pool: &mut Pool, into: &mut RxBatch) -> usize;

    /// Sleeps until there may be something to receive or complete, at most `ns` nanoseconds. Only called when idle.
    fn wait(&mut self, ns: u64);

    /// The queue's own counts.
    fn stats(&self) -> QueueStats;

    /// Buffers the queue holds now, to receive into or in flight.
    fn held(&self) -> usize;
}

/// The sending half of a queue.
pub trait TxQueue {
    /// Takes items from the front of `from`, in order; returns how many. What is left still belongs to the caller.
    fn tx_burst(&mut self, from: &mut TxBatch) -> usize;

    /// Moves completions to the back of `into`, up to its free room; returns how many. Every item taken by `tx_burst`
    /// comes back exactly once.
    fn completions(&mut self, into: &mut CompletionBatch) -> usize;
}
