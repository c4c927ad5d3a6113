//! How large everything is, and the memory for it, handed in once.

use crate::{
    egress::{InFlight, Subscriber},
    fan::Fan,
    ingress::Session,
    kept::{Held, Pending},
    lane::Lane,
    reply::KeptNack,
    stream::Stream,
    window::Window,
};
use tachyon_driver_api::Transmit;
use tachyon_kernels::Path;
use tachyon_policy::{SenderState, TopicState};
use tachyon_wire::{counters::WorkerStats, tap::Setup};

/// The limits of one worker. All of them are fixed at start-up.
#[derive(Clone, Debug)]
pub struct Limits {
    /// This worker's number, from 0.
    pub worker: u16,
    /// Workers of the node; each starts with an equal part of every sender's quota.
    pub workers: u16,
    /// Shards of the fabric, a power of two.
    pub shard_count: u16,
    /// The shards this worker owns.
    pub shards: &'static [u16],
    /// Slots in the session table, a power of two.
    pub sessions_max: u32,
    /// Topic slots of the node, as in the ruleset image.
    pub topics_max: u32,
    /// Sender slots of the node.
    pub senders_max: u32,
    /// Subscriber slots of the node.
    pub subscribers_max: u32,
    /// Entries of the image's targets section that can be served.
    pub targets_max: u32,
    /// Buffers of the worker's pool, and thus the most that can be in flight.
    pub buffers: u32,
    /// How many of them the driver holds to receive into.
    pub receive_buffers: u32,
    /// Largest frame this lane takes, in bytes (1,472 at MTU 1500 over IPv4).
    pub frame_bytes_max: u32,
    /// How many buffers may wait for the truth log, at most a quarter of all; 0 where there is none.
    pub held_buffers: u32,
    /// Longest wait for an egress frame to fill, ns. The design allows 5,000.
    pub fill_window_ns: u64,
    /// Number of this boot: the high half of every epoch that this node sends under.
    pub boot: u16,
    /// What to add to a tick to get Unix nanoseconds, for `sent_ns`.
    pub unix_offset_ns: u64,
    /// Which instructions the loop may use; changes what it costs and nothing else.
    pub path: Path,
}

impl Limits {
    /// Shards this worker owns.
    #[must_use]
    pub fn owned(&self) -> usize {
        self.shards.len()
    }

    /// Its shards, a bit each: a fabric has at most 64.
    #[must_use]
    pub fn owned_shards(&self) -> u64 {
        self.shards.iter().fold(0, |shards, shard| shards | 1 << (shard % 64))
    }

    /// The same as the truth log is told it, for buffers of this size.
    pub(crate) fn setup(&self, buffer_bytes: u32) -> Setup {
        Setup {
            shards: self.owned_shards().into(),
            unix_offset_ns: self.unix_offset_ns.into(),
            fill_window_ns: self.fill_window_ns.into(),
            sessions_max: self.sessions_max.into(),
            topics_max: self.topics_max.into(),
            senders_max: self.senders_max.into(),
            subscribers_max: self.subscribers_max.into(),
            targets_max: self.targets_max.into(),
            buffers: self.buffers.into(),
            receive_buffers: self.receive_buffers.into(),
            buffer_bytes: buffer_bytes.into(),
            frame_bytes_max: self.frame_bytes_max.into(),
            held_buffers: self.held_buffers.into(),
            boot: self.boot.into(),
            workers: self.workers.into(),
            shard_count: self.shard_count.into(),
            reserved: 0.into(),
        }
    }

    /// Topic slots that the shards of this worker can have.
    #[must_use]
    pub fn topic_states(&self) -> usize {
        self.topics_max.div_ceil(u32::from(self.shard_count)) as usize * self.owned()
    }
}

/// All memory of a worker besides its buffers. Whoever starts it allocates this once, zeroed or `EMPTY`.
#[derive(Debug)]
pub struct Memory<'a> {
    /// [`Limits::topic_states`] records.
    pub topics: &'a mut [TopicState],
    /// `senders_max` records.
    pub senders: &'a mut [SenderState],
    /// `sessions_max` records.
    pub sessions: &'a mut [Session],
    /// `sessions_max × owned` records.
    pub windows: &'a mut [Window],
    /// [`Limits::held_buffers`] entries.
    pub held: &'a mut [Option<Held>],
    /// As many as windows, or none where there is no log.
    pub pending: &'a mut [Pending],
    /// Nacks kept for repetition; a power of two.
    pub nacks: &'a mut [KeptNack],
    /// `subscribers_max` records.
    pub subscribers: &'a mut [Subscriber],
    /// `subscribers_max × owned` records.
    pub streams: &'a mut [Stream],
    /// `targets_max × owned` entries, each [`crate::egress::CLOSED`].
    pub lane_of: &'a mut [u32],
    /// [`crate::fan::FANS`] records.
    pub fans: &'a mut [Fan],
    /// `targets_max × owned` entries, each [`crate::egress::CLOSED`].
    pub fan_of: &'a mut [u32],
    /// One entry per buffer.
    pub lanes: &'a mut [Lane],
    /// One entry per buffer.
    pub ready: &'a mut [Option<Transmit>],
    /// One entry per buffer.
    pub in_flight: &'a mut [InFlight],
    /// Free tokens of `in_flight`; one entry per buffer.
    pub tokens: &'a mut [u32],
    /// Counters, carried over a restart of the worker.
    pub stats: &'a mut WorkerStats,
}

/// Nacks a worker keeps for repetition. Direct-mapped: up to 64 per session and shard as the wire document allows, fewer
/// where many publishers are refused at once. 8,192 entries are 512 KiB.
pub const NACKS_KEPT: usize = 8_192;

#[cfg(feature = "setup")]
impl Memory<'static> {
    /// Allocates a worker's memory for the rest of the process.
    #[must_use]
    pub fn leak(limits: &Limits) -> Self {
        use alloc::{boxed::Box, vec, vec::Vec};
        fn many<T: Clone>(value: T, count: usize) -> &'static mut [T] {
            vec![value; count].leak()
        }
        fn made<T>(make: fn() -> T, count: usize) -> &'static mut [T] {
            (0..count).map(|_| make()).collect::<Vec<T>>().leak()
        }
        let owned = limits.owned();
        let buffers = limits.buffers as usize;
        let (sessions, subscribers) = (limits.sessions_max as usize, limits.subscribers_max as usize);
        Self {
            topics: many(TopicState::default(), limits.topic_states()),
            senders: many(SenderState::default(), limits.senders_max as usize),
            sessions: made(|| Session::EMPTY, sessions),
            windows: made(|| Window::EMPTY, sessions * owned),
            held: made(|| None, limits.held_buffers as usize),
            pending: many(Pending::NONE, if limits.held_buffers > 0 { sessions * owned } else { 0 }),
            nacks: many(KeptNack::EMPTY, NACKS_KEPT),
            subscribers: made(|| Subscriber::EMPTY, subscribers),
            streams: made(|| Stream::EMPTY, subscribers * owned),
            lane_of: many(crate::egress::CLOSED, limits.targets_max as usize * owned),
            fans: many(Fan::EMPTY, crate::fan::FANS),
            fan_of: many(crate::egress::CLOSED, limits.targets_max as usize * owned),
            lanes: made(|| Lane::EMPTY, buffers),
            ready: made(|| None, buffers),
            in_flight: many(InFlight::EMPTY, buffers),
            tokens: many(0, buffers),
            stats: Box::leak(Box::new(WorkerStats {
                counters: tachyon_wire::counters::Counters::ZERO,
                residence: tachyon_wire::counters::Histogram::ZERO,
                routes: [tachyon_wire::counters::RouteCounters::default(); tachyon_wire::counters::ROUTES_COUNTED],
            })),
        }
    }
}
