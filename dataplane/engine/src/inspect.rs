//! What a worker's state came to, for whoever replays a log and writes it down. Nothing here is called while packets pass.

use crate::{Host, Tap, Worker, window::Frames};
use tachyon_driver_api::{RxQueue, TxQueue};

/// What a session did in one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowState {
    /// The epoch followed.
    pub epoch: u32,
    /// Highest frame settled; 0 = none.
    pub top: u32,
    /// Frame `id`, of the last 1,024, is bit `id % 64` of word `id / 64 % 16`: settled.
    pub seen: [u64; 16],
    /// The same: a message in it was refused.
    pub refused: [u64; 16],
}

impl<Q: RxQueue + TxQueue, H: Host, T: Tap> Worker<'_, Q, H, T> {
    /// When a topic's bucket is full again, in 1/16 ns of the tick; `None` for a topic of another worker.
    #[must_use]
    pub fn topic_level(&self, topic_id: u32) -> Option<u64> {
        self.tables.topic(topic_id).map(tachyon_policy::TopicState::level)
    }

    /// The same of this worker's part of a sender's quota; `None` past the table.
    #[must_use]
    pub fn sender_level(&self, sender_id: u32) -> Option<u64> {
        self.tables.senders.get(sender_id as usize).map(tachyon_policy::SenderState::level)
    }

    /// The window of a session in a shard; `None` if it is not open here.
    pub fn window_state(&mut self, session_id: u32, shard: u16) -> Option<WindowState> {
        let owned = *self.tables.shards.owned.get(usize::from(shard))?;
        let (_, place) = self.ingress.places(session_id, owned)?;
        let window = self.ingress.window(place);
        let (top, frames) = window.state();
        let (seen, refused) = (frames.map(|Frames { seen, .. }| seen), frames.map(|Frames { refused, .. }| refused));
        Some(WindowState { epoch: window.epoch, top, seen, refused })
    }

    /// Buffers the worker cannot account for: its pool's total less those that are free, received, open, queued, in
    /// flight or with the device. Zero, always.
    #[must_use]
    pub fn buffers_missing(&self) -> i64 {
        let egress = &self.egress;
        let queued = egress.open + egress.ready.len() + egress.pending.len();
        let here = self.pool.free() + self.received.len() + queued + self.kept.held();
        let count = |buffers: usize| i64::try_from(buffers).unwrap_or(i64::MAX);
        count(self.pool.total()) - count(here + self.queue.held())
    }
}
