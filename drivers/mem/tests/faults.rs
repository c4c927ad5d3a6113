//! Every fault is counted exactly: what was offered is what was seen and what was lost, whatever the seed.

use std::collections::BTreeMap;
use tachyon_driver_api::{CompletionBatch, Pool, RxBatch, RxQueue, Transmit, TxBatch, TxQueue};
use tachyon_driver_arena::{Arena, ArenaConfig, Pages};
use tachyon_driver_mem::{FaultCounts, Faults, Faulty, LinkConfig, MemQueue, Outside, pair};
use tachyon_wire::{Endpoint, Reason};

const BUFFERS: usize = 512;
const FRAME: usize = 128;
const FRAME_LEN: u32 = 128;
const HALF: u32 = 32_768;
const ALWAYS: u32 = 65_536;
const PEER: Endpoint = Endpoint::v4([192, 0, 2, 1], 1000);

struct Run {
    queue: Faulty<MemQueue>,
    pool: Pool,
    outside: Outside,
    offered: u64,
    /// Each frame received, in order.
    seen: Vec<Vec<u8>>,
}

impl Run {
    fn new(faults: Faults, seed: u64) -> Self {
        eprintln!("seed {seed}, {faults:?}");
        let (worker, outside) = pair(LinkConfig::default());
        let mut arena = Arena::create(ArenaConfig {
            bytes: 2 * BUFFERS * 2048,
            buffer_bytes: 2048,
            pages: Pages::Ordinary,
            lock: false,
            numa_node: None,
        })
        .expect("2 MiB of memory");
        let pool = Pool::new(arena.take(BUFFERS).expect("half of the arena"));
        let outside = Outside::new(outside, Pool::new(arena.take(BUFFERS).expect("half of the arena")));
        Self { queue: Faulty::new(worker, faults, seed), pool, outside, offered: 0, seen: Vec::new() }
    }

    /// A frame that says its number in its first bytes and is otherwise the same everywhere.
    fn frame(number: u64) -> Vec<u8> {
        let mut frame = vec![0xab; FRAME];
        frame[..8].copy_from_slice(&number.to_le_bytes());
        frame
    }

    /// Offers `buffers` buffers of `frames` frames each and receives what comes of them, all within the link's depth.
    fn receive(&mut self, buffers: u64, frames: u64) {
        for _ in 0..buffers {
            let batch: Vec<Vec<u8>> = (0..frames).map(|place| Self::frame(self.offered + place)).collect();
            let slices: Vec<&[u8]> = batch.iter().map(Vec::as_slice).collect();
            self.offered += frames;
            while !self.outside.send(PEER, 0, 42, &slices) {
                self.poll(0);
            }
        }
        while self.queue.below().waiting() > 0 || self.queue.held() > 0 {
            self.poll(0);
        }
    }

    fn poll(&mut self, elsewhere: usize) {
        let mut batch = RxBatch::new();
        self.queue.rx_burst(&mut self.pool, &mut batch);
        let in_hand = batch.len();
        assert_eq!(self.pool.free() + self.queue.held() + in_hand + elsewhere, BUFFERS);
        for item in batch {
            assert!(item.stride > 0 && item.stride <= item.len);
            let bytes = &item.buffer.bytes()[item.offset as usize..][..item.len as usize];
            self.seen.extend(bytes.chunks(item.stride as usize).map(<[u8]>::to_vec));
            self.pool.put(item.buffer);
        }
    }

    /// Sends `count` frames, and returns how each ended.
    fn send(&mut self, count: u32) -> BTreeMap<u32, Option<Reason>> {
        let mut ended = BTreeMap::new();
        let mut batch = TxBatch::new();
        let mut next = 0;
        while ended.len() < count as usize {
            while next < count
                && !batch.is_full()
                && let Some(mut buffer) = self.pool.get()
            {
                buffer.bytes_mut()[..FRAME].copy_from_slice(&Self::frame(u64::from(next)));
                batch.push(Transmit {
                    buffer,
                    offset: 0,
                    len: FRAME_LEN,
                    stride: FRAME_LEN,
                    shard: 0,
                    destination: PEER,
                    token: next,
                });
                next += 1;
            }
            self.queue.tx_burst(&mut batch);
            self.seen.extend(self.outside.receive().into_iter().map(|one| one.frame));
            let mut done = CompletionBatch::new();
            self.queue.completions(&mut done);
            assert_eq!(self.pool.free() + self.queue.held() + batch.len() + done.len(), BUFFERS);
            for completion in done {
                assert!(ended.insert(completion.token, completion.error).is_none(), "completed twice");
                self.pool.put(completion.buffer);
            }
            // Drives what the fault layer took and the link did not.
            self.poll(batch.len());
        }
        assert_eq!(self.queue.held(), 0);
        ended
    }

    fn number_of(frame: &[u8]) -> u64 {
        u64::from_le_bytes(frame[..8].try_into().expect("eight bytes"))
    }
}

#[test]
fn without_faults_nothing_happens() {
    let mut run = Run::new(Faults::default(), 1);
    run.receive(300, 3);
    assert!(run.seen.iter().enumerate().all(|(place, frame)| *frame == Run::frame(place as u64)));
    assert_eq!(run.queue.counts(), FaultCounts { arrived: 900, ..FaultCounts::default() });
    assert!(run.send(300).values().all(Option::is_none));
}

#[test]
fn dropped_frames_are_those_that_are_missing() {
    let mut run = Run::new(Faults { drop: HALF, ..Faults::default() }, 2);
    run.receive(1000, 3);
    let counts = run.queue.counts();
    assert_eq!(run.offered, run.seen.len() as u64 + counts.dropped);
    assert!((1200..1800).contains(&counts.dropped), "half of 3,000, not {}", counts.dropped);
    assert_eq!(counts.seen(), run.seen.len() as u64);
}

#[test]
fn duplicated_frames_come_twice_and_equal() {
    let mut run = Run::new(Faults { duplicate: HALF, ..Faults::default() }, 3);
    run.receive(1000, 2);
    let counts = run.queue.counts();
    assert_eq!(run.seen.len() as u64, run.offered + counts.duplicated);
    assert!((800..1200).contains(&counts.duplicated));
    let mut times = BTreeMap::new();
    for frame in &run.seen {
        assert_eq!(*frame, Run::frame(Run::number_of(frame)));
        *times.entry(Run::number_of(frame)).or_insert(0_u64) += 1;
    }
    assert_eq!(times.len() as u64, run.offered);
    assert_eq!(times.values().filter(|times| **times == 2).count() as u64, counts.duplicated);
}

#[test]
fn duplicates_need_a_buffer_and_are_not_counted_without_one() {
    let mut run = Run::new(Faults { duplicate: ALWAYS, ..Faults::default() }, 4);
    let hoard: Vec<_> = (0..BUFFERS - 1).map(|_| run.pool.get().unwrap()).collect();
    assert!(run.outside.send(PEER, 0, 0, &[&Run::frame(0)]));
    let mut batch = RxBatch::new();
    assert_eq!(run.queue.rx_burst(&mut run.pool, &mut batch), 1);
    assert_eq!(run.queue.counts(), FaultCounts { arrived: 1, ..FaultCounts::default() });
    hoard.into_iter().for_each(|buffer| run.pool.put(buffer));
}

#[test]
fn reordered_buffers_were_overtaken_by_one_and_nothing_is_lost() {
    let mut run = Run::new(Faults { reorder: HALF / 2, ..Faults::default() }, 5);
    run.receive(1000, 1);
    let numbers: Vec<u64> = run.seen.iter().map(|frame| Run::number_of(frame)).collect();
    let overtaken = numbers.windows(2).filter(|pair| pair[0] > pair[1]).count() as u64;
    assert_eq!(overtaken, run.queue.counts().reordered);
    assert!(overtaken > 100);
    let mut sorted = numbers;
    sorted.sort_unstable();
    assert!(sorted.into_iter().eq(0..run.offered));
}

#[test]
fn a_buffer_set_aside_is_not_kept_if_nothing_follows() {
    let mut run = Run::new(Faults { reorder: ALWAYS, ..Faults::default() }, 6);
    run.receive(1, 1);
    assert_eq!(run.seen, [Run::frame(0)]);
    assert_eq!(run.queue.counts().reordered, 0);
}

#[test]
fn corrupted_frames_differ_in_one_bit() {
    let mut run = Run::new(Faults { corrupt: HALF, ..Faults::default() }, 7);
    run.receive(1000, 3);
    let flipped: Vec<u32> = run
        .seen
        .iter()
        .enumerate()
        .map(|(place, frame)| {
            let good = Run::frame(place as u64);
            assert_eq!(frame.len(), good.len());
            frame.iter().zip(&good).map(|(one, other)| (one ^ other).count_ones()).sum()
        })
        .collect();
    assert!(flipped.iter().all(|bits| *bits <= 1));
    assert_eq!(u64::from(flipped.iter().sum::<u32>()), run.queue.counts().corrupted);
    assert!(run.queue.counts().corrupted > 400);
}

#[test]
fn truncated_buffers_account_for_frames_cut_and_cut_away() {
    for frames in [1, 3] {
        let mut run = Run::new(Faults { truncate: HALF, ..Faults::default() }, 8);
        run.receive(1000, frames);
        let counts = run.queue.counts();
        assert_eq!(run.offered, run.seen.len() as u64 + counts.cut_away);
        assert_eq!(run.seen.iter().filter(|frame| frame.len() < FRAME).count() as u64, counts.cut);
        assert!(counts.cut > 400);
        assert_eq!(counts.cut_away > 0, frames > 1);
    }
}

#[test]
fn stalls_delay_and_lose_nothing() {
    let mut run = Run::new(Faults { stall: HALF, stall_calls: 4, ..Faults::default() }, 9);
    assert!(run.outside.send(PEER, 0, 0, &[&Run::frame(0)]));
    let mut calls = 0;
    while run.seen.is_empty() {
        run.poll(0);
        calls += 1;
    }
    assert_eq!((calls - 1) % 4, 0, "stalls of four calls each, then one that receives");
    run.offered = 1;
    run.receive(1000, 2);
    assert!(run.seen.iter().enumerate().all(|(place, frame)| *frame == Run::frame(place as u64)));
    assert_eq!(run.seen.len() as u64, run.offered);
    assert!(run.queue.counts().stalls > 0);
}

#[test]
fn a_stall_holds_a_bounded_number_of_buffers_and_leaves_the_rest_below() {
    let mut run = Run::new(Faults { stall: ALWAYS, stall_calls: 1, ..Faults::default() }, 10);
    for number in 0..256 {
        assert!(run.outside.send(PEER, 0, 0, &[&Run::frame(number)]));
    }
    for _ in 0..50 {
        run.poll(0);
    }
    assert!(run.seen.is_empty());
    assert!(run.queue.held() <= tachyon_driver_mem::FAULTS_HELD_MAX + 64, "{}", run.queue.held());
    run.queue.set_faults(Faults::default());
    run.offered = 256;
    run.receive(0, 1);
    assert_eq!(run.seen.len(), 256);
}

#[test]
fn failed_sends_complete_once_with_their_reason_and_are_not_sent() {
    let faults = Faults { submit_fail: 8_000, cq_error: 8_000, timeout: 8_000, ..Faults::default() };
    let mut run = Run::new(faults, 11);
    let ended = run.send(3000);
    let counts = run.queue.counts();
    let with = |reason| ended.values().filter(|error| **error == reason).count() as u64;
    assert_eq!(with(Some(Reason::TxSubmitFail)), counts.submit_failed);
    assert_eq!(with(Some(Reason::TxCqError)), counts.cq_errors);
    assert_eq!(with(Some(Reason::TxTimeout)), counts.timeouts);
    assert!(counts.submit_failed > 200 && counts.cq_errors > 200 && counts.timeouts > 200, "{counts:?}");
    let good: Vec<u64> =
        ended.iter().filter(|(_, error)| error.is_none()).map(|(token, _)| u64::from(*token)).collect();
    assert!(run.seen.iter().map(|frame| Run::number_of(frame)).eq(good), "exactly the others arrive, in order");
}

#[test]
fn refused_and_delayed_sends_all_end_well() {
    let faults = Faults { refuse: HALF, delay: HALF, delay_calls: 7, ..Faults::default() };
    let mut run = Run::new(faults, 12);
    let ended = run.send(3000);
    assert!(ended.values().all(Option::is_none));
    assert_eq!(run.seen.len(), 3000);
    assert!(run.queue.counts().refused > 10 && run.queue.counts().delayed > 1000, "{:?}", run.queue.counts());
}

#[test]
fn all_faults_together_account_for_every_frame_under_many_seeds() {
    let faults = Faults {
        drop: 5_000,
        duplicate: 5_000,
        reorder: 5_000,
        corrupt: 5_000,
        truncate: 5_000,
        stall: 5_000,
        stall_calls: 3,
        submit_fail: 2_000,
        cq_error: 2_000,
        timeout: 2_000,
        refuse: 5_000,
        delay: 5_000,
        delay_calls: 9,
    };
    for seed in 0..20 {
        let mut run = Run::new(faults, seed);
        run.receive(500, 1 + seed % 4);
        let counts = run.queue.counts();
        assert_eq!(counts.arrived, run.offered);
        assert_eq!(counts.seen(), run.seen.len() as u64);
        run.seen.clear();
        let ended = run.send(500);
        let counts = run.queue.counts();
        let failed = counts.submit_failed + counts.cq_errors + counts.timeouts;
        assert_eq!(ended.values().flatten().count() as u64, failed);
        assert_eq!(run.seen.len() as u64 + failed, 500);
        assert_eq!(run.pool.free(), BUFFERS);
    }
}

#[test]
fn the_same_seed_does_the_same_however_the_calls_fall() {
    let faults = Faults { drop: 9_000, corrupt: 9_000, truncate: 9_000, ..Faults::default() };
    let seen = |step: u64| {
        let mut run = Run::new(faults, 99);
        (0..240 / step).for_each(|_| run.receive(step, 2));
        run.seen
    };
    assert_eq!(seen(1), seen(80));
}
