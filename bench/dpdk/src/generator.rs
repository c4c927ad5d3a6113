//! The other end of a worker's device: sends valid frames that were never sent before, and takes in what the worker sends.

use crate::station::{BASE_PORT, BUFFERS, ENDS, Station};
use tachyon_driver_api::{BURST_MAX, CompletionBatch, Transmit, TxBatch, TxQueue};
use tachyon_driver_dpdk::{Device, Eal, Packet, Packets, RawQueue};
use tachyon_micro::{case::Case, input::Source};
use tachyon_wire::Endpoint;

/// Where the worker's subscribers are: at the generator, on a port of its own.
pub(crate) const SUBSCRIBERS: Endpoint = Endpoint::v4(ENDS[1].ip, SUBSCRIBERS_PORT);
const SUBSCRIBERS_PORT: u16 = 40_000;
/// Stock of topics in messages, after which they repeat: every topic 16 times on average.
const STOCK: usize = 1 << 20;

/// See the module.
pub(crate) struct Generator {
    pub(crate) station: Station,
    raw: Option<RawQueue>,
    pub(crate) source: Source,
    messages: usize,
    waiting: TxBatch,
    /// Packets of the worker that came back.
    pub(crate) taken_in: u64,
}

impl Generator {
    /// Opens the client's end of a memif on the calling thread, which has to be the one that calls the rest.
    pub(crate) fn open(eal: Eal, device: Device, case: &Case, seed: u64) -> Result<Self, String> {
        let station = Station::open(eal, vec![(device, 1)], SUBSCRIBERS_PORT, 1, BUFFERS)?;
        let source = Source::of(case, seed, STOCK);
        let (messages, waiting) = (case.messages, TxBatch::new());
        Ok(Self { station, raw: None, source, messages, waiting, taken_in: 0 })
    }

    /// Makes and sends frames, at most `count` and as many as the device takes at once; returns how many it made.
    pub(crate) fn send(&mut self, count: usize) -> usize {
        let (queue, pool) = self.station.parts();
        let room = BURST_MAX - self.waiting.len();
        let mut made = 0;
        while made < count.min(room)
            && let Some(mut buffer) = pool.get()
        {
            let (bytes, shard) = self.source.frame(buffer.bytes_mut(), self.messages, 0);
            let len = u32::try_from(bytes).unwrap_or(0);
            let destination = Endpoint::v4(ENDS[0].ip, BASE_PORT + shard);
            self.waiting.push(Transmit { buffer, offset: 0, len, stride: len, shard: 0, destination, token: 0 });
            made += 1;
        }
        queue.tx_burst(&mut self.waiting);
        let mut done = CompletionBatch::new();
        while queue.completions(&mut done) > 0 {
            done.drain(..).for_each(|completion| pool.put(completion.buffer));
        }
        made
    }

    /// Whether everything that was made is on its way.
    pub(crate) fn is_sent(&mut self) -> bool {
        if !self.waiting.is_empty() {
            self.send(0);
        }
        self.waiting.is_empty()
    }

    /// Takes in what the worker sent, and drops it; returns how many packets that were.
    pub(crate) fn take_in(&mut self) -> usize {
        let raw = self.raw.get_or_insert_with(|| self.station.raw(0));
        let (mut packets, mut count) = (Packets::new(), 0);
        while raw.receive(&mut packets, BURST_MAX) > 0 {
            count += packets.len();
            packets.drain(..).for_each(Packet::free);
        }
        self.taken_in += count as u64;
        count
    }

    /// Ends it; returns what was sent in messages.
    pub(crate) fn close(mut self) -> Result<u64, String> {
        self.take_in();
        let offered = self.source.offered;
        self.station.close()?;
        Ok(offered)
    }
}
