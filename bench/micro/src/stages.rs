//! Single stages, each over the same input as the whole loop.

use crate::{
    case::{Case, Proof},
    input::{self, SOURCE, Source},
    median,
    replay::Replay,
    whole,
};
use arrayvec::ArrayVec;
use std::{collections::VecDeque, hint::black_box, sync::Arc, time::Instant};
use tachyon_driver_api::{Buffer, CompletionBatch, Pool, Received, RxBatch, RxQueue, Transmit, TxBatch, TxQueue};
use tachyon_driver_mem::{LinkConfig, pair};
use tachyon_engine::{
    Limits, Memory,
    ingress::{Found, Ingress},
};
use tachyon_kernels::{
    crc,
    tags::{self, Job},
};
use tachyon_policy::{FrameContext, Inputs, Publisher, Shards, Tables, Verdict, Verified, govern, prefetch};
use tachyon_wire::{
    FrameHeader, LINE, Message,
    counters::Counters,
    tag::{FrameKey, TAG_BYTES},
};
use zerocopy::FromBytes;

/// Rounds of a pass, so that tables are walked and not learnt by heart: 62 thousand messages.
pub(crate) const ROUNDS: usize = 16;

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

pub(crate) fn measure(case: &Case, seed: u64, passes: usize) -> Stages {
    let tagged = Case { ingress: Proof::Tag, ..*case };
    Stages {
        receive: receive(case, passes),
        checks_crc: checks(case, seed, passes),
        checks_tag: checks(&tagged, seed, passes),
        govern: judge(case, seed, passes),
        seal_crc: seal(case, seed, passes, None),
        seal_tag: seal(case, seed, passes, Some(FrameKey::from_bytes([3; 16]))),
        ledgers: ledgers(case, passes),
        dispatch: dispatch(case, passes),
    }
}

/// One frame per buffer over a memory link, as a NIC would deliver it.
fn receive(case: &Case, passes: usize) -> f64 {
    let (mut worker, mut outside) = pair(LinkConfig::default());
    let mut arena = input::arena(256);
    let mut pools = [128, 128].map(|count| Pool::new(arena.take(count).expect("the arena is large enough")));
    figure(passes, || {
        let (mut messages, mut ns) = (0, 0.0);
        for _ in 0..512 {
            let mut batch = TxBatch::new();
            while let (false, Some(buffer)) = (batch.len() == 32, pools[1].get()) {
                let len = u32::try_from(case.frame_bytes()).unwrap_or(0);
                batch.push(Transmit { buffer, offset: 0, len, stride: len, shard: 0, destination: SOURCE, token: 0 });
            }
            messages += batch.len() * case.messages;
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

/// The frames of a round, with somewhere to put them.
pub(crate) struct Input {
    case: Case,
    source: Source,
    spare: Vec<Buffer>,
    loaded: VecDeque<Received>,
}

impl Input {
    pub(crate) fn new(case: &Case, seed: u64) -> Self {
        let spare = input::arena(case.ring()).take(case.ring()).expect("the arena is large enough");
        Self { case: *case, source: Source::new(case, seed), spare, loaded: VecDeque::new() }
    }

    /// Makes the frames of the next round.
    pub(crate) fn load(&mut self) {
        self.spare.extend(self.loaded.drain(..).map(|item| item.buffer));
        self.source.load(self.case.ring(), &mut self.spare, &mut self.loaded);
    }

    /// One frame for each session and shard; false once all were there.
    fn introduce(&mut self, at: &mut u32) -> bool {
        self.spare.extend(self.loaded.drain(..).map(|item| item.buffer));
        self.source.introduce(at, &mut self.spare, &mut self.loaded)
    }

    /// What was received, buffer by buffer.
    #[cfg_attr(not(has_dpdk), expect(dead_code, reason = "DPDK's row takes whole buffers"))]
    pub(crate) fn buffers(&self) -> impl Iterator<Item = &[u8]> {
        self.loaded.iter().map(|item| &item.buffer.bytes()[..item.len as usize])
    }

    fn frames(&self) -> impl Iterator<Item = (&[u8], u16)> {
        self.loaded.iter().flat_map(|item| {
            let bytes = &item.buffer.bytes()[..item.len as usize];
            bytes.chunks(item.stride as usize).map(|frame| (frame, item.shard))
        })
    }

    /// Messages of a round.
    pub(crate) fn messages(&self) -> usize {
        self.case.ring() * self.case.per_buffer()
    }
}

fn checks(case: &Case, seed: u64, passes: usize) -> f64 {
    let limits = whole::limits(case);
    let memory = Memory::leak(&Limits { topics_max: 1_024, ..limits.clone() });
    let mut ingress =
        Ingress::new(memory.sessions, memory.windows, limits.owned(), limits.frame_bytes_max, 1, limits.path);
    (0..case.sessions).for_each(|number| ingress.open(&input::session(case, number)));
    let mut input = Input::new(case, seed);
    let mut admit = |input: &Input| {
        // As many frames as the loop has in a stage.
        const STAGE: usize = 4;
        let mut stage = [Found::NONE; STAGE];
        let mut filled = 0;
        for (frame, shard) in input.frames() {
            ingress.find(frame, shard, usize::from(shard), &SOURCE, &mut stage[filled]);
            filled = (filled + 1) % STAGE;
            if filled == 0 {
                ingress.check_tags(&mut stage);
                for found in &stage {
                    assert!(black_box(ingress.settle(found)).is_ok(), "a good frame passes every check");
                }
            }
        }
    };
    let mut at = 0;
    while input.introduce(&mut at) {
        admit(&input);
    }
    figure(passes, || {
        let mut ns = 0.0;
        for _ in 0..ROUNDS {
            input.load();
            ns += timed(|| admit(&input));
        }
        (ROUNDS * input.messages(), ns)
    })
}

fn judge(case: &Case, seed: u64, passes: usize) -> f64 {
    let mut govern = Govern::new(case, seed);
    figure(passes, || govern.pass())
}

/// The stage that judges, with its input.
pub(crate) struct Govern {
    input: Input,
    tables: Tables<'static>,
    verified: Verified<Vec<u8>>,
}

impl Govern {
    /// Every topic was met before this returns.
    pub(crate) fn new(case: &Case, seed: u64) -> Self {
        let limits = whole::limits(case);
        let memory = Memory::leak(&limits);
        let shards = Shards::new(limits.shard_count, case.topics, limits.shards);
        let (topics, senders) = (memory.topics, memory.senders);
        let tables = Tables { topics, senders, shards, default_share: 65_536, path: limits.path };
        let mut new = Self { input: Input::new(case, seed), tables, verified: input::ruleset(case, 1) };
        (0..new.warm_up()).for_each(|_| {
            new.round();
        });
        new
    }

    /// Rounds after which every topic was met.
    pub(crate) fn warm_up(&self) -> usize {
        self.input.source.buffers() / self.input.case.ring()
    }

    /// A pass: its messages and nanoseconds.
    pub(crate) fn pass(&mut self) -> (usize, f64) {
        (ROUNDS * self.input.messages(), (0..ROUNDS).map(|_| self.round()).sum())
    }

    fn round(&mut self) -> f64 {
        let Self { input, tables, verified } = self;
        let inputs = Inputs { tick_ns: 1_000_000_000, ruleset: Ok(verified.ruleset()), pressure: 0 };
        input.load();
        let frames: Vec<_> =
            input.frames().map(|(frame, shard)| (messages(frame), shard, publisher(&input.case, frame))).collect();
        timed(|| {
            for stage in frames.chunks(8) {
                stage.iter().for_each(|(messages, shard, _)| prefetch(messages, tables, *shard));
                for (messages, shard, publisher) in stage {
                    let frame =
                        FrameContext { publisher, authenticated: false, shard: *shard, lane_refs_allowed: false };
                    let mut verdicts = [Verdict::default(); MESSAGES];
                    govern(&inputs, &frame, messages, tables, &mut verdicts, &mut |_| {});
                    black_box(&verdicts);
                }
            }
        })
    }
}

/// Messages of a frame at most.
const MESSAGES: usize = 22;

fn messages(frame: &[u8]) -> &[Message] {
    <[Message]>::ref_from_bytes(&frame[LINE..]).expect("whole messages")
}

/// What the engine would tell of the session that this frame names.
fn publisher(case: &Case, frame: &[u8]) -> Publisher {
    let (header, _) = FrameHeader::ref_from_prefix(frame).expect("a frame has a header");
    let session = input::session(case, header.session_id.get() - input::session_id(case, 0));
    Publisher {
        principal: 0,
        sender_low: session.sender_low.get(),
        sender_high: session.sender_high.get(),
        class_cap: 0,
        system: false,
    }
}

/// The crc or tag of every frame, by the kernels that the loop seals with; with a key, tags by the group.
fn seal(case: &Case, seed: u64, passes: usize, key: Option<FrameKey>) -> f64 {
    let (path, mut input) = (case.path(), Input::new(case, seed));
    figure(passes, || {
        input.load();
        let frames: Vec<&[u8]> = input.frames().map(|(frame, _)| frame).collect();
        let ns = timed(|| match &key {
            None => frames.iter().for_each(|frame| {
                black_box(crc::frame_crc(path, frame));
            }),
            Some(key) => {
                for group in frames.chunks(tags::TOGETHER) {
                    let jobs: ArrayVec<Job<'_>, { tags::TOGETHER }> =
                        group.iter().map(|frame| Job { key, frame }).collect();
                    let mut out = [[0; TAG_BYTES]; tags::TOGETHER];
                    tags::tags(path, &jobs, &mut out);
                    black_box(&out);
                }
            }
        });
        (input.messages(), ns)
    })
}

/// What counting a burst of one received buffer costs: its histogram entries and the copy that readers see.
fn ledgers(case: &Case, passes: usize) -> f64 {
    let mut stats = Box::new(Counters::ZERO);
    let mut published = Box::new(Counters::ZERO);
    let mut histogram = Box::new(tachyon_wire::counters::Histogram::ZERO);
    figure(passes, || {
        let ns = timed(|| {
            for burst in 0..1_000 {
                for destination in 0..u64::from(case.destinations) {
                    histogram.record(2_000 + burst + destination, 60);
                }
                stats.messages_accepted += 1;
                *black_box(&mut *published) = *black_box(&*stats);
            }
        });
        (1_000 * case.per_buffer(), ns)
    })
}

/// A turn that finds nothing, spread over the messages of one received buffer.
fn dispatch(case: &Case, passes: usize) -> f64 {
    let pool = Pool::new(input::arena(whole::POOL).take(whole::POOL).expect("the arena is large enough"));
    let rulesets = Arc::new(vec![input::ruleset(case, 1)]);
    let mut worker = whole::worker(case, rulesets, pool, Replay::new(Vec::new()));
    figure(passes, || {
        let ns = timed(|| {
            for turn in 0..1_000 {
                black_box(worker.poll(1_000_000_000 + turn));
            }
        });
        (1_000 * case.per_buffer(), ns)
    })
}
