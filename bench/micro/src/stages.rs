//! Single stages, each over the same input as the whole loop.

use crate::{
    input::{self, FRAME, FRAMES, MESSAGES, Ring, SESSIONS, SHARDS, SOURCE},
    median, whole,
};
use std::{collections::VecDeque, hint::black_box, time::Instant};
use tachyon_driver_api::{Buffer, CompletionBatch, Pool, RxBatch, RxQueue, Transmit, TxBatch, TxQueue};
use tachyon_driver_mem::{LinkConfig, pair};
use tachyon_engine::{Memory, ingress::Ingress};
use tachyon_policy::{FrameContext, Inputs, Publisher, Shards, Tables, Verdict, govern, prefetch};
use tachyon_wire::{
    Message,
    build::{self, Seal},
    counters::Counters,
    tag::FrameKey,
};
use zerocopy::FromBytes;

/// Buffers in a pass, as many as for the whole loop.
const BUFFERS: usize = whole::BUFFERS;

/// Nanoseconds per message of each stage.
pub(crate) struct Stages {
    pub(crate) receive: f64,
    pub(crate) checks_crc: f64,
    pub(crate) checks_tag: f64,
    pub(crate) govern: f64,
    pub(crate) seal_crc: f64,
    pub(crate) seal_tag: f64,
    pub(crate) ledgers: f64,
    pub(crate) dispatch: f64,
}

/// Runs `pass` a few times; it returns how many messages it was about and the nanoseconds it took.
fn figure(passes: usize, mut pass: impl FnMut() -> (usize, f64)) -> f64 {
    let figures = (0..passes + 2).map(|_| pass()).skip(2).map(|(messages, ns)| ns / messages as f64);
    median(figures.collect())
}

fn timed(work: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    work();
    begun.elapsed().as_secs_f64() * 1e9
}

pub(crate) fn measure(topics: u32, seed: u64, passes: usize) -> Stages {
    Stages {
        receive: receive(passes),
        checks_crc: checks(topics, seed, passes, false),
        checks_tag: checks(topics, seed, passes, true),
        govern: judge(topics, seed, passes),
        seal_crc: seal(topics, seed, passes, Seal::Crc),
        seal_tag: seal(topics, seed, passes, Seal::Tag(&FrameKey::from_bytes([3; 16]))),
        ledgers: ledgers(passes),
        dispatch: dispatch(topics, passes),
    }
}

/// One frame per buffer over a memory link, as a NIC would deliver it.
fn receive(passes: usize) -> f64 {
    let (mut worker, mut outside) = pair(LinkConfig::default());
    let mut arena = input::arena(256);
    let mut pools = [128, 128].map(|count| Pool::new(arena.take(count).expect("the arena is large enough")));
    figure(passes, || {
        let (mut messages, mut ns) = (0, 0.0);
        for _ in 0..512 {
            let mut batch = TxBatch::new();
            while let (false, Some(buffer)) = (batch.len() == 32, pools[1].get()) {
                let len = u32::try_from(FRAME).unwrap_or(0);
                batch.push(Transmit { buffer, offset: 0, len, stride: len, shard: 0, destination: SOURCE, token: 0 });
            }
            messages += batch.len() * MESSAGES;
            outside.tx_burst(&mut batch);
            let mut into = RxBatch::new();
            ns += timed(|| {
                worker.rx_burst(&mut pools[0], &mut into);
            });
            into.drain(..).for_each(|item| pools[0].put(item.buffer));
            let mut done = CompletionBatch::new();
            outside.completions(&mut done);
            done.drain(..).for_each(|completion| pools[1].put(completion.buffer));
        }
        (messages, ns)
    })
}

/// The frames of a pass, with somewhere to put them.
struct Input {
    ring: Ring,
    spare: Vec<Buffer>,
    loaded: VecDeque<(Buffer, u16)>,
}

impl Input {
    fn new(topics: u32, tagged: bool, seed: u64) -> Self {
        let spare = input::arena(BUFFERS).take(BUFFERS).expect("the arena is large enough");
        Self { ring: Ring::new(BUFFERS, topics, tagged, seed), spare, loaded: VecDeque::new() }
    }

    fn load(&mut self) {
        self.spare.extend(self.loaded.drain(..).map(|(buffer, _)| buffer));
        self.ring.load(&mut self.spare, &mut self.loaded);
    }

    fn frames(&self) -> impl Iterator<Item = (&[u8], u16)> {
        self.loaded
            .iter()
            .flat_map(|(buffer, shard)| buffer.bytes()[..FRAME * FRAMES].chunks(FRAME).map(|frame| (frame, *shard)))
    }
}

fn checks(topics: u32, seed: u64, passes: usize, tagged: bool) -> f64 {
    let limits = whole::limits(1_024);
    let memory = Memory::leak(&limits);
    let mut ingress =
        Ingress::new(memory.sessions, memory.windows, limits.owned(), limits.frame_bytes_max, 1, whole::path());
    for number in 0..SESSIONS {
        ingress.open(&input::session(number));
    }
    let mut input = Input::new(topics, tagged, seed);
    figure(passes, || {
        input.load();
        let ns = timed(|| {
            for (frame, shard) in input.frames() {
                let mut found = [ingress.find(frame, shard, usize::from(shard), &SOURCE)];
                ingress.check_tags(&mut found);
                let admitted = found[0].as_ref().map(|found| ingress.settle(found));
                assert!(matches!(black_box(admitted), Ok(Ok(_))), "a good frame passes every check");
            }
        });
        (input.ring.messages(), ns)
    })
}

fn judge(topics: u32, seed: u64, passes: usize) -> f64 {
    let limits = whole::limits(topics);
    let memory = Memory::leak(&limits);
    let shards = Shards::new(SHARDS, topics, limits.shards);
    let mut tables =
        Tables { topics: memory.topics, senders: memory.senders, shards, default_share: 65_536, path: whole::path() };
    let verified = input::ruleset(topics, true);
    let inputs = Inputs { tick_ns: 1_000_000_000, ruleset: Ok(verified.ruleset()), pressure: 0 };
    let mut input = Input::new(topics, false, seed);
    input.load();
    figure(passes, || {
        let frames: Vec<(&[Message], u16, Publisher)> = input
            .frames()
            .map(|(frame, shard)| {
                let (header, _) = tachyon_wire::FrameHeader::ref_from_prefix(frame).expect("a frame has a header");
                let number = header.session_id.get() - SESSIONS;
                let session = input::session(number);
                let publisher = Publisher {
                    principal: 0,
                    sender_low: session.sender_low.get(),
                    sender_high: session.sender_high.get(),
                    class_cap: 0,
                    system: false,
                };
                (<[Message]>::ref_from_bytes(&frame[64..]).expect("22 messages"), shard, publisher)
            })
            .collect();
        let ns = timed(|| {
            for stage in frames.chunks(8) {
                stage.iter().for_each(|(messages, shard, _)| prefetch(messages, &tables, *shard));
                for (messages, shard, publisher) in stage {
                    let frame =
                        FrameContext { publisher, authenticated: false, shard: *shard, lane_refs_allowed: false };
                    let mut verdicts = [Verdict::default(); MESSAGES];
                    govern(&inputs, &frame, messages, &mut tables, &mut verdicts, &mut |_| {});
                    black_box(&verdicts);
                }
            }
        });
        (frames.len() * MESSAGES, ns)
    })
}

fn seal(topics: u32, seed: u64, passes: usize, how: Seal<'_>) -> f64 {
    let mut input = Input::new(topics, false, seed);
    figure(passes, || {
        input.load();
        let ns = timed(|| {
            for (buffer, _) in &mut input.loaded {
                buffer.bytes_mut()[..FRAME * FRAMES].chunks_mut(FRAME).for_each(|frame| build::seal(frame, how));
            }
        });
        (input.ring.messages(), ns)
    })
}

/// What counting a burst of one received buffer costs: its histogram entries and the copy that readers see.
fn ledgers(passes: usize) -> f64 {
    let mut stats = Box::new(Counters::ZERO);
    let mut published = Box::new(Counters::ZERO);
    let mut histogram = Box::new(tachyon_wire::counters::Histogram::ZERO);
    figure(passes, || {
        let ns = timed(|| {
            for burst in 0..1_000 {
                for destination in 0..u64::from(input::DESTINATIONS) {
                    histogram.record(2_000 + burst + destination, 60);
                }
                stats.messages_accepted += 1;
                *black_box(&mut *published) = *black_box(&*stats);
            }
        });
        (1_000 * FRAMES * MESSAGES, ns)
    })
}

/// A turn that finds nothing, spread over the messages of one received buffer.
fn dispatch(topics: u32, passes: usize) -> f64 {
    let mut worker = whole::worker(topics, whole::Case { tagged_in: false, tagged_out: false, routed: true });
    figure(passes, || {
        let ns = timed(|| {
            for turn in 0..1_000 {
                black_box(worker.poll(1_000_000_000 + turn));
            }
        });
        (1_000 * FRAMES * MESSAGES, ns)
    })
}
