//! A queue that hands over prepared buffers and takes back whatever is sent at once: the loop without a device.

use std::collections::VecDeque;
use tachyon_driver_api::{
    Buffer, Completion, CompletionBatch, Pool, QueueStats, Received, RxBatch, RxQueue, TxBatch, TxQueue,
};

/// Buffers handed over per call: a busy node's burst.
pub(crate) const PER_CALL: usize = 4;

/// Prepared input, and output that is dropped.
#[derive(Debug)]
pub(crate) struct Replay {
    /// What is still to be received.
    pub(crate) input: VecDeque<Received>,
    /// Buffers to prepare the next pass in: one out of the worker's pool for each that was handed over.
    pub(crate) spare: Vec<Buffer>,
    done: VecDeque<Completion>,
}

impl Replay {
    pub(crate) fn new(spare: Vec<Buffer>) -> Self {
        Self { input: VecDeque::with_capacity(spare.len()), spare, done: VecDeque::with_capacity(4_096) }
    }
}

impl RxQueue for Replay {
    fn rx_burst(&mut self, pool: &mut Pool, into: &mut RxBatch) -> usize {
        let count = PER_CALL.min(self.input.len()).min(pool.free());
        self.spare.extend((0..count).filter_map(|_| pool.get()));
        into.extend(self.input.drain(..count));
        count
    }

    fn wait(&mut self, _ns: u64) {}

    fn stats(&self) -> QueueStats {
        QueueStats::default()
    }

    fn held(&self) -> usize {
        self.done.len()
    }
}

impl TxQueue for Replay {
    fn tx_burst(&mut self, from: &mut TxBatch) -> usize {
        let count = from.len();
        for item in from.drain(..) {
            self.done.push_back(Completion { token: item.token, buffer: item.buffer, error: None });
        }
        count
    }

    fn completions(&mut self, into: &mut CompletionBatch) -> usize {
        let count = self.done.len().min(into.remaining_capacity());
        into.extend(self.done.drain(..count));
        count
    }
}
