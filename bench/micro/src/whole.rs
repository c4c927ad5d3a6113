//! The whole loop: the real worker over prepared input.

use crate::{
    allocations,
    input::{self, DESTINATIONS, Ring, SENDERS, SESSIONS, SHARDS},
    median,
    replay::Replay,
};
use std::{collections::VecDeque, time::Instant};
use tachyon_driver_api::Pool;
use tachyon_engine::{Host, Limits, Memory, Worker};
use tachyon_policy::Verified;
use tachyon_wire::{
    Endpoint, Message, Reason,
    command::{AddSubscriber, Command, Demand},
    counters::WorkerStats,
};

/// Buffers received in a pass: 256 KiB of frames, which is what the io_uring driver keeps posted and reuses.
pub(crate) const BUFFERS: usize = 4;
/// Buffers of the worker: enough for every destination and shard to have one open and one in flight.
const POOL: usize = 1_024;
/// Passes before the first that counts.
const WARM_UP: usize = 3;

/// What the loop does.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    /// Frames come with tags, not crcs.
    pub(crate) tagged_in: bool,
    /// Frames leave with tags.
    pub(crate) tagged_out: bool,
    /// Topics have a subscriber.
    pub(crate) routed: bool,
}

/// What it came to.
pub(crate) struct Figure {
    /// Nanoseconds per message.
    pub(crate) ns: f64,
    /// Allocator calls in all timed passes.
    pub(crate) allocations: u64,
}

/// A host that holds one ruleset and keeps the last ledgers.
pub(crate) struct Bench {
    ruleset: Verified<Vec<u8>>,
    commands: VecDeque<Command>,
}

impl Host for Bench {
    type Image = Vec<u8>;

    fn ruleset(&mut self) -> Result<&Verified<Vec<u8>>, Reason> {
        Ok(&self.ruleset)
    }

    fn command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    fn demand(&mut self, _demand: Demand) {}

    fn quarantine(&mut self, _message: &Message, _reason: u8) -> bool {
        false
    }

    fn publish(&mut self, stats: &WorkerStats, _whole: bool) {
        std::hint::black_box(stats);
    }
}

/// The instructions the loop may use.
pub(crate) fn path() -> tachyon_engine::Path {
    tachyon_engine::Path::detect()
}

/// The limits of the bench's worker.
pub(crate) fn limits(topics: u32) -> Limits {
    static OWNED: [u16; SHARDS as usize] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    Limits {
        worker: 0,
        workers: 1,
        shard_count: SHARDS,
        shards: &OWNED,
        sessions_max: SESSIONS,
        topics_max: topics,
        senders_max: SESSIONS * SENDERS,
        subscribers_max: DESTINATIONS,
        targets_max: DESTINATIONS,
        buffers: u32::try_from(POOL).unwrap_or(0),
        receive_buffers: 0,
        frame_bytes_max: 1_472,
        fill_window_ns: 5_000,
        boot: 1,
        unix_offset_ns: 0,
        path: path(),
    }
}

fn subscriber(slot: u32, tagged: bool) -> AddSubscriber {
    AddSubscriber {
        slot: slot.into(),
        worker: 0.into(),
        tagged: u8::from(tagged),
        reserved: 0,
        session_id: (10_000 + slot).into(),
        credit: 64.into(),
        frame_bytes_max: 1_472.into(),
        endpoint: Endpoint::v4([127, 0, 0, 1], 40_000),
        master: [slot.to_le_bytes()[0]; 32],
    }
}

/// A worker with its sessions and subscribers open, and nothing received yet.
pub(crate) fn worker(topics: u32, case: Case) -> Worker<'static, Replay, Bench> {
    let mut arena = input::arena(BUFFERS + POOL);
    let mut take = |count| arena.take(count).expect("the arena is large enough");
    let queue = Replay::new(take(BUFFERS));
    let pool = Pool::new(take(POOL));
    let mut commands: VecDeque<Command> =
        (0..SESSIONS).map(|number| Command::OpenSession(input::session(number))).collect();
    commands.extend((0..DESTINATIONS).map(|slot| Command::AddSubscriber(subscriber(slot, case.tagged_out))));
    let host = Bench { ruleset: input::ruleset(topics, case.routed), commands };
    let limits = limits(topics);
    let mut worker = Worker::new(limits.clone(), Memory::leak(&limits), pool, queue, host);
    while !worker.host().commands.is_empty() {
        worker.poll(0);
    }
    worker
}

/// Median time of a pass through the ring, per message.
pub(crate) fn measure(topics: u32, seed: u64, passes: usize, case: Case) -> Figure {
    let mut worker = worker(topics, case);
    let mut ring = Ring::new(BUFFERS, topics, case.tagged_in, seed);
    let mut figures = Vec::new();
    let mut allocated = 0;
    let start = Instant::now();
    for pass in 0..WARM_UP + passes {
        let queue = worker.queue();
        ring.load(&mut queue.spare, &mut queue.input);
        let (calls, begun) = (allocations::calls(), Instant::now());
        loop {
            let now = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let idle = worker.poll(now).idle && worker.queue().input.is_empty();
            if idle && worker.stats().counters.copies_held == 0 {
                break;
            }
        }
        let spent = begun.elapsed();
        if pass >= WARM_UP {
            allocated += allocations::calls() - calls;
            figures.push(spent.as_secs_f64() * 1e9 / ring.messages() as f64);
        }
    }
    let counters = &worker.stats().counters;
    let offered = (ring.messages() * (WARM_UP + passes)) as u64;
    assert_eq!(counters.unaccounted(), [0; 3], "the ledgers add up");
    assert_eq!(counters.messages_accepted, offered, "every message was accepted");
    assert_eq!(counters.copies_given, if case.routed { offered } else { 0 }, "every copy was sent");
    Figure { ns: median(figures), allocations: allocated }
}
