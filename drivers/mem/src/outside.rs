//! The outside end of a link with a pool of its own, in calls that are made for tests: they allocate and say what is wrong.

use crate::MemQueue;
use tachyon_driver_api::{CompletionBatch, Pool, RxBatch, RxQueue, Transmit, TxBatch, TxQueue};
use tachyon_wire::Endpoint;

/// One frame that the worker sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// Whom the worker addressed.
    pub destination: Endpoint,
    /// The shard whose port it left from.
    pub shard: u16,
    /// The frame.
    pub frame: Vec<u8>,
}

/// Everything that a worker can reach.
#[derive(Debug)]
pub struct Outside {
    queue: MemQueue,
    pool: Pool,
}

impl Outside {
    /// The outside end of a link and the buffers it sends and receives with, of the size of the worker's.
    #[must_use]
    pub const fn new(queue: MemQueue, pool: Pool) -> Self {
        Self { queue, pool }
    }

    /// Sends frames in one buffer, as if from `source`, the first at `offset`. All are as long as the first, but for the
    /// last, which may be shorter. Returns whether there was room and a buffer for them.
    ///
    /// # Panics
    /// The frames are of different lengths, are empty, or do not fit into a buffer, or `source` is `Endpoint::NONE`.
    pub fn send(&mut self, source: Endpoint, shard: u16, offset: u32, frames: &[&[u8]]) -> bool {
        self.recover();
        let stride = frames.first().map_or(0, |frame| frame.len());
        assert!(stride > 0 && !source.is_none(), "frames have bytes and come from somewhere");
        let Some(mut buffer) = self.pool.get() else { return false };
        let mut end = offset as usize;
        for (number, frame) in frames.iter().enumerate() {
            let last = number + 1 == frames.len();
            assert!(frame.len() == stride || (last && frame.len() < stride), "only the last frame may be shorter");
            buffer.bytes_mut()[end..end + frame.len()].copy_from_slice(frame);
            end += frame.len();
        }
        let number = |bytes: usize| u32::try_from(bytes).expect("a buffer's size is a u32");
        let (len, stride) = (number(end) - offset, number(stride));
        let mut batch = TxBatch::new();
        batch.push(Transmit { buffer, offset, len, stride, shard, destination: source, token: 0 });
        self.queue.tx_burst(&mut batch);
        match batch.pop() {
            None => true,
            Some(refused) => {
                self.pool.put(refused.buffer);
                false
            }
        }
    }

    /// Receives every frame that the worker sent, one by one and in order.
    pub fn receive(&mut self) -> Vec<Delivered> {
        let mut delivered = Vec::new();
        let mut batch = RxBatch::new();
        while self.queue.rx_burst(&mut self.pool, &mut batch) > 0 {
            for item in batch.drain(..) {
                let bytes = &item.buffer.bytes()[item.offset as usize..][..item.len as usize];
                delivered.extend(bytes.chunks(item.stride as usize).map(|frame| Delivered {
                    destination: item.source,
                    shard: item.shard,
                    frame: frame.to_vec(),
                }));
                self.pool.put(item.buffer);
            }
        }
        self.recover();
        delivered
    }

    /// Buffers that it still has; all of them once the worker received everything and `receive` was called after that.
    #[must_use]
    pub fn free(&self) -> usize {
        self.pool.free()
    }

    fn recover(&mut self) {
        let mut done = CompletionBatch::new();
        while self.queue.completions(&mut done) > 0 {
            for completion in done.drain(..) {
                assert_eq!(completion.error, None, "the worker can be reached");
                self.pool.put(completion.buffer);
            }
        }
    }
}
