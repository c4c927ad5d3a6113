//! What became of frames, told wherever reading begins: over turns of several shards and of several bodies, over crashes that
//! took decisions away, and over starts of the node.

use tachyon_log::{
    decided::{Settled, Waiting},
    fault::Random,
    format::RawRecord,
    record::{Arrival, Clock, Kind},
    turn::{Encoder, burst, split},
};
use tachyon_wire::{
    Endpoint,
    tap::{
        ENTRY_DURABLE, ENTRY_REASONS, FRAME_REFUSED, FRAME_STUBS, FRAME_WHOLE, FrameEntry, HEAD_BYTES, HELD, Item,
        KIND_TURN, Part, STUB_BYTES, Turn, read,
    },
};
use zerocopy::{FromZeros, IntoBytes};

const SHARD: u16 = 3;
const WORKER: u16 = 5;

/// Records of one shard's log, and what became of each frame, by its sequence; `None` where that is lost.
#[derive(Default)]
struct Log {
    records: Vec<(Kind, Vec<u8>)>,
    words: Vec<(u64, Option<Vec<u8>>)>,
    boot: u8,
    turn: u64,
}

impl Log {
    fn record(&mut self, kind: Kind, body: &[u8]) -> u64 {
        self.records.push((kind, body.to_vec()));
        self.records.len() as u64 - 1
    }

    fn clock(&mut self, boot: u8) {
        let clock = Clock { boot_id: [self.boot; 16], unix_ns: 0.into(), boot, reserved: [0; 7] };
        self.record(Kind::Clock, clock.as_bytes());
    }

    fn start(&mut self) {
        self.boot += 1;
        self.turn = 0;
        self.clock(1);
    }

    /// The next turn as the writer appends it, up to `end` records of it; then the writer, or the node, is gone.
    fn turn(&mut self, random: &mut Random, end: usize) {
        self.turn += 1;
        let (record, words) = made(self.turn, random);
        let max = if random.one_in(3) { 600 } else { 1 << 16 };
        let split = split(&record, max).expect("a turn");
        let Some(part) = split.parts.into_iter().find(|part| part.shard == SHARD) else { return };
        let arrival = Arrival { source: Endpoint::NONE, worker: WORKER.into(), burst: burst(self.turn).into() };
        let mut frames: Vec<(u64, Option<Vec<u8>>)> = Vec::new();
        for whole in part.frames.iter().take(end) {
            let sequence = self.record(Kind::Frame, arrival.as_bytes());
            assert_eq!(whole.item.shard.get(), SHARD);
            frames.push((sequence, None));
            self.now_and_then(random);
        }
        let mut decided = 0;
        for body in part.bodies.iter().take(end.saturating_sub(part.frames.len())) {
            self.record(Kind::Decisions, body);
            let parts = read(body).expect("a body").1;
            let whole = |part: &Part<'_>| matches!(part, Part::Frame(frame) if frame.entry.form == FRAME_WHOLE);
            for _ in parts.filter(whole) {
                frames[decided].1 = Some(words[decided].clone());
                decided += 1;
            }
            self.now_and_then(random);
        }
        self.words.extend(frames);
    }

    /// Something that stands between records of a turn, as where the writer had to wait.
    fn now_and_then(&mut self, random: &mut Random) {
        if random.one_in(8) {
            self.clock(0);
        }
        if random.one_in(8) {
            self.record(Kind::Decisions, b"no turn");
        }
    }

    /// What is told of the frames, if records from `from` on are read.
    fn told(&self, from: usize) -> Vec<(u64, Option<Vec<u8>>)> {
        let (mut waiting, mut told) = (Waiting::default(), Vec::new());
        for (sequence, (kind, body)) in self.records.iter().enumerate().skip(from) {
            let sequence = sequence as u64;
            let record = RawRecord { sequence, tick: 0, kind: *kind as u8, body, leaf: &[] };
            waiting.take(&record, |_, _| sequence);
            told.extend(std::iter::from_fn(|| waiting.settled()).map(|Settled { kept, words }| (kept, words)));
        }
        waiting.give_up();
        told.extend(std::iter::from_fn(|| waiting.settled()).map(|Settled { kept, words }| (kept, words)));
        assert!(waiting.is_empty());
        told
    }
}

fn below(random: &mut Random, limit: u64) -> usize {
    usize::try_from(random.below(limit)).expect("small")
}

/// A turn of two shards, and the words on the whole frames of ours.
fn made(number: u64, random: &mut Random) -> (Vec<u8>, Vec<Vec<u8>>) {
    let (mut encoder, mut all) = (Encoder::default(), Vec::new());
    let items = random.below(5);
    for _ in 0..items {
        let (shard, frames) = (SHARD + u16::from(random.one_in(4)), 1 + random.below(3));
        let mut item = Item::new_zeroed();
        (item.shard, item.frames) = (shard.into(), u16::try_from(frames).expect("small").into());
        encoder.item(&item);
        for _ in 0..frames {
            let form = [FRAME_WHOLE, FRAME_WHOLE, FRAME_STUBS, FRAME_REFUSED][below(random, 4)];
            let count = if form == FRAME_REFUSED { 0 } else { 1 + below(random, 4) };
            let words: Vec<u8> = (0..count).map(|_| [0, HELD, 40, 41][below(random, 4)]).collect();
            let (durable, plain) = (random.one_in(2), random.one_in(2));
            let flags = if durable { ENTRY_DURABLE } else { 0 } | if plain { 0 } else { ENTRY_REASONS };
            let words = if plain { vec![if durable { HELD } else { 0 }; count] } else { words };
            let entry = FrameEntry {
                form,
                flags: if form == FRAME_REFUSED { 0 } else { flags },
                reason: 0,
                reserved: 0,
                count: u16::try_from(count).expect("small").into(),
                reserved_2: 0.into(),
            };
            let head = vec![0; if form == FRAME_WHOLE { 0 } else { HEAD_BYTES }];
            let stubs = vec![0; if form == FRAME_STUBS { count * STUB_BYTES } else { 0 }];
            let reasons = if plain || form == FRAME_REFUSED { Vec::new() } else { words.clone() };
            encoder.frame(&entry, &head, &stubs, &reasons);
            if form == FRAME_WHOLE && shard == SHARD {
                all.push(words);
            }
        }
    }
    let mut turn = Turn::new_zeroed();
    (turn.kind, turn.turn, turn.worker, turn.lead_shard) = (KIND_TURN, number.into(), WORKER.into(), SHARD.into());
    (encoder.finish(&turn), all)
}

#[test]
fn frames_get_their_own_decisions_wherever_reading_begins() {
    let (mut frames, mut lost) = (0, 0);
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let mut log = Log::default();
        for _ in 0..4 {
            log.start();
            for _ in 0..30 {
                // Now and then the log lost what it was not asked to keep, and goes on with the next turn.
                let end = if random.one_in(10) { below(&mut random, 6) } else { usize::MAX };
                log.turn(&mut random, end);
            }
        }
        frames += log.words.len();
        lost += log.words.iter().filter(|(_, words)| words.is_none()).count();
        for from in 0..=log.records.len() {
            let expected: Vec<_> = log.words.iter().filter(|(sequence, _)| *sequence >= from as u64).cloned().collect();
            assert_eq!(log.told(from), expected, "seed {seed} from record {from}");
        }
    }
    assert!(frames > 4_000 && lost > 100, "{frames} frames, {lost} without decisions");
}

#[test]
fn a_frame_comes_out_with_its_decisions_and_not_before() {
    let (mut log, mut random) = (Log::default(), Random::new(1));
    log.start();
    (0..20).for_each(|_| log.turn(&mut random, usize::MAX));
    let mut waiting = Waiting::default();
    let mut waits = 0;
    for (sequence, (kind, body)) in log.records.iter().enumerate() {
        let record = RawRecord { sequence: sequence as u64, tick: 0, kind: *kind as u8, body, leaf: &[] };
        waiting.take(&record, |_, _| ());
        let came = std::iter::from_fn(|| waiting.settled()).count();
        waits += usize::from(*kind == Kind::Frame);
        assert!(came == 0 || *kind == Kind::Decisions);
        waits -= came;
    }
    assert_eq!((waits, waiting.is_empty()), (0, true), "whole turns leave nothing behind");
}
