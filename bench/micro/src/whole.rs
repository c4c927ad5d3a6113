//! The whole loop: the real worker over prepared input.

use crate::{
    allocations,
    case::{Case, Durability, Proof, WorkingSet},
    flush::flush,
    input::{self, Source},
    median,
    replay::Replay,
    ring::Ring,
};
use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};
use tachyon_driver_api::{Pool, RxQueue, TxQueue};
use tachyon_engine::{Host, Limits, Memory, Worker};
use tachyon_policy::Verified;
use tachyon_wire::{
    Endpoint, Message, Reason,
    command::{AddSubscriber, Command, Demand},
    counters::{Counters, WorkerStats},
};

/// Buffers of the worker: enough for every destination and shard to have one open and one in flight.
pub(crate) const POOL: usize = 1_024;
/// Messages of a pass over a ring that stays in L2; over another ring a pass is once around.
const PASS: usize = 1 << 18;

/// A host that holds one of some rulesets and keeps no ledgers.
#[derive(Debug)]
pub struct Bench {
    /// The rulesets there are.
    pub(crate) rulesets: Arc<Vec<Verified<Vec<u8>>>>,
    /// Which of them is in force.
    pub(crate) current: usize,
    commands: VecDeque<Command>,
}

impl Host for Bench {
    type Image = Vec<u8>;

    fn ruleset(&mut self) -> Result<&Verified<Vec<u8>>, Reason> {
        self.rulesets.get(self.current).ok_or(Reason::RulesetUnavailable)
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

/// The limits of the bench's worker.
pub fn limits(case: &Case) -> Limits {
    let place = case.place;
    let shards: Vec<u16> = (place.first..place.first + place.owned).collect();
    Limits {
        worker: 0,
        workers: place.workers,
        shard_count: place.shards,
        shards: shards.leak(),
        sessions_max: case.sessions,
        topics_max: case.topics,
        senders_max: case.senders,
        subscribers_max: case.destinations,
        targets_max: case.destinations,
        buffers: u32::try_from(POOL).unwrap_or(0),
        receive_buffers: 0,
        frame_bytes_max: 1_472,
        held_buffers: if case.durability == Durability::None { 0 } else { u32::try_from(POOL / 4).unwrap_or(0) },
        fill_window_ns: 5_000,
        boot: 1,
        unix_offset_ns: 0,
        path: case.path(),
    }
}

/// Where all subscribers of a worker without a device are.
const SUBSCRIBERS: Endpoint = Endpoint::v4([127, 0, 0, 1], 40_000);

fn subscriber(slot: u32, tagged: bool, endpoint: Endpoint) -> AddSubscriber {
    AddSubscriber {
        slot: slot.into(),
        worker: 0.into(),
        tagged: u8::from(tagged),
        reserved: 0,
        session_id: (1 << 20 | slot).into(),
        credit: 256.into(),
        frame_bytes_max: 1_472.into(),
        endpoint,
        master: [slot.to_le_bytes()[0]; 32],
    }
}

/// A worker over any queue, with its sessions and subscribers open and nothing received yet.
pub(crate) fn worker<Q: RxQueue + TxQueue>(
    case: &Case,
    rulesets: Arc<Vec<Verified<Vec<u8>>>>,
    pool: Pool,
    queue: Q,
) -> Worker<'static, Q, Bench, Ring> {
    worker_within(limits(case), case, SUBSCRIBERS, rulesets, pool, queue)
}

/// The same with limits of the caller's, which differ from [`limits`] in buffers alone, and all subscribers at `endpoint`.
/// The one place that makes workers here, and so the one where a choice between the loop's code paths belongs.
pub fn worker_within<Q: RxQueue + TxQueue>(
    limits: Limits,
    case: &Case,
    endpoint: Endpoint,
    rulesets: Arc<Vec<Verified<Vec<u8>>>>,
    pool: Pool,
    queue: Q,
) -> Worker<'static, Q, Bench, Ring> {
    let mut commands: VecDeque<Command> =
        (0..case.sessions).map(|number| Command::OpenSession(input::session(case, number))).collect();
    let tagged = case.egress == Proof::Tag;
    commands.extend((0..case.destinations).map(|slot| Command::AddSubscriber(subscriber(slot, tagged, endpoint))));
    let host = Bench { rulesets, current: 0, commands };
    let tap = Ring::new(case.durability != Durability::None);
    let mut worker = Worker::with_tap(limits.clone(), Memory::leak(&limits), pool, queue, host, tap);
    while !worker.host().commands.is_empty() {
        worker.poll(0);
    }
    worker
}

/// What the time of a turn is.
#[derive(Clone, Copy, Debug)]
pub enum Clock {
    /// Real.
    Since(Instant),
    /// Made up, and the same in every run: so many nanoseconds.
    Steps(u64),
}

impl Clock {
    /// The time now.
    pub(crate) fn tick(&mut self) -> u64 {
        /// About what a turn of four full buffers takes.
        const TURN_NS: u64 = 40_000;
        match self {
            Self::Since(start) => u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX),
            Self::Steps(now) => {
                *now += TURN_NS;
                *now
            }
        }
    }
}

/// A worker with the input of its case.
#[derive(Debug)]
pub struct Loop {
    pub(crate) worker: Worker<'static, Replay, Bench, Ring>,
    pub(crate) source: Source,
    pub(crate) clock: Clock,
    pub(crate) case: Case,
}

impl Loop {
    /// Every window, key and topic was used before this returns.
    pub fn new(case: &Case, seed: u64, rulesets: Arc<Vec<Verified<Vec<u8>>>>, clock: Clock) -> Self {
        Self::with(case, Source::new(case, seed), rulesets, clock, case.ring())
    }

    /// The same with input of the caller's, and `ring` buffers to receive it in.
    pub(crate) fn with(
        case: &Case,
        source: Source,
        rulesets: Arc<Vec<Verified<Vec<u8>>>>,
        clock: Clock,
        ring: usize,
    ) -> Self {
        let mut arena = input::arena(ring + POOL);
        let mut take = |count| arena.take(count).expect("the arena is large enough");
        let queue = Replay::new(take(ring));
        let pool = Pool::new(take(POOL));
        let worker = worker(case, rulesets, pool, queue);
        let mut new = Self { worker, source, clock, case: *case };
        let mut at = 0;
        while new.introduce(&mut at) {
            new.drain();
        }
        for _ in 0..new.source.buffers().div_ceil(ring) {
            new.load(ring);
            new.drain();
        }
        new
    }

    fn introduce(&mut self, at: &mut u32) -> bool {
        let queue = self.worker.queue();
        self.source.introduce(at, &mut queue.spare, &mut queue.input)
    }

    /// Prepares the next `count` buffers, and puts them where the case wants them.
    pub(crate) fn load(&mut self, count: usize) {
        let queue = self.worker.queue();
        self.source.load(count, &mut queue.spare, &mut queue.input);
        if self.case.working_set == WorkingSet::Dram {
            queue.input.iter().for_each(|item| flush(&item.buffer.bytes()[..item.len as usize]));
        }
    }

    /// Takes back what was prepared, but for the first `count` buffers.
    pub(crate) fn keep(&mut self, count: usize) {
        let queue = self.worker.queue();
        let rest = count.min(queue.input.len())..;
        for item in queue.input.drain(rest) {
            queue.spare.push(item.buffer);
            self.source.offered -= self.case.per_buffer() as u64;
        }
    }

    /// Turns until everything prepared was received, and everything accepted was sent. A function of its own, so that a
    /// profile shows what is measured apart from what prepares it.
    #[inline(never)]
    pub(crate) fn drain(&mut self) {
        loop {
            let idle = self.worker.poll(self.clock.tick()).idle && self.worker.queue().input.is_empty();
            if idle && self.worker.stats().counters.copies_held == 0 {
                return;
            }
        }
    }

    /// Turns until everything prepared was received, and the time that took.
    pub(crate) fn timed(&mut self) -> Duration {
        let begun = Instant::now();
        self.drain();
        begun.elapsed()
    }

    /// How a pass is cut: so many rounds, each of as many buffers as are in use at a time.
    pub(crate) fn rounds(&self) -> (usize, usize) {
        let ring = self.case.ring();
        if self.case.working_set == WorkingSet::L2 {
            ((PASS / self.case.per_buffer()).div_ceil(ring).max(1), ring)
        } else {
            (1, ring)
        }
    }

    /// A pass: nanoseconds per message, and allocator calls in what was timed.
    pub fn pass(&mut self) -> (f64, u64) {
        let (rounds, buffers) = self.rounds();
        let (mut spent, mut allocated) = (Duration::ZERO, 0);
        for _ in 0..rounds {
            self.load(buffers);
            let calls = allocations::calls();
            spent += self.timed();
            allocated += allocations::calls() - calls;
        }
        let messages = rounds * buffers * self.case.per_buffer();
        (spent.as_secs_f64() * 1e9 / messages as f64, allocated)
    }

    /// Holds what the worker counted against what it was given.
    ///
    /// # Panics
    /// Something is not accounted for: then the time it took means nothing.
    pub fn check(&self) {
        let counters = &self.worker.stats().counters;
        check(counters, self.source.offered, self.case.fan_out);
        assert_eq!(self.worker.buffers_missing(), 0, "no buffer was lost");
    }
}

/// Holds ledgers against `offered` messages.
pub fn check(counters: &Counters, offered: u64, fan_out: u32) {
    assert_eq!(counters.unaccounted(), [0; 3], "the ledgers add up");
    assert_eq!(counters.messages_accepted, offered, "every message was accepted: {counters:?}");
    assert_eq!(counters.copies_given, offered * u64::from(fan_out), "every copy was sent");
}

/// What a case came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figure {
    /// Nanoseconds per message, the median of all passes.
    pub(crate) ns: f64,
    /// The fastest pass.
    pub(crate) least: f64,
    /// The slowest.
    pub(crate) most: f64,
    /// Allocator calls in all timed passes.
    pub(crate) allocations: u64,
}

/// Runs a case.
pub(crate) fn measure(case: &Case, seed: u64, passes: usize) -> Figure {
    let rulesets = Arc::new(vec![input::ruleset(case, 1)]);
    let mut whole = Loop::new(case, seed, rulesets, Clock::Since(Instant::now()));
    let passes: Vec<(f64, u64)> = (0..passes).map(|_| whole.pass()).collect();
    whole.check();
    let figures: Vec<f64> = passes.iter().map(|(ns, _)| *ns).collect();
    Figure {
        least: figures.iter().copied().fold(f64::INFINITY, f64::min),
        most: figures.iter().copied().fold(0.0, f64::max),
        ns: median(figures),
        allocations: passes.iter().map(|(_, allocations)| allocations).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Choice;

    /// What a figure rests on: all that was offered was received, accepted and sent on, and counted so.
    #[test]
    fn every_kind_of_case_adds_up() {
        let base = Case { topics: 1_024, sessions: 16, senders: 4, ..Case::BASE };
        let cases = [
            base,
            Case { choice: Choice::Zipf, messages: 8, ..base },
            Case { ingress: Proof::Tag, messages: 1, ..base },
            Case { egress: Proof::Tag, fan_out: 4, ..base },
            Case { fan_out: 0, destinations: 1, ..base },
            Case { fan_out: 16, ..base },
            Case { durability: Durability::Stubs, ..base },
            Case { durability: Durability::Logged, messages: 3, ..base },
            Case { durability: Durability::Durable, fan_out: 4, ..base },
            base.fitted(0),
        ];
        for case in cases {
            let rulesets = Arc::new(vec![input::ruleset(&case, 1)]);
            let source = Source::of(&case, 3, 8 * case.per_buffer());
            let mut whole = Loop::with(&case, source, rulesets, Clock::Steps(0), 8);
            let before = whole.source.offered;
            whole.load(8);
            whole.keep(5);
            whole.drain();
            whole.check();
            assert_eq!(whole.source.offered - before, 5 * case.per_buffer() as u64, "{case:?}");
        }
    }

    #[test]
    fn each_session_is_introduced_once_in_each_shard() {
        let case = Case { topics: 1_024, sessions: 256, ..Case::BASE };
        let (mut source, mut at, mut frames) = (Source::of(&case, 3, 1), 0, 0);
        let mut spare = input::arena(4).take(4).expect("the arena is large enough");
        let mut into = VecDeque::new();
        while source.introduce(&mut at, &mut spare, &mut into) {
            frames += into.iter().map(|item| item.len / item.stride).sum::<u32>();
            spare.extend(into.drain(..).map(|item| item.buffer));
        }
        assert_eq!(frames, 256 * 16);
    }
}
