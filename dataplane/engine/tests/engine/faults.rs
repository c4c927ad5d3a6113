//! Whatever the device does, nothing goes missing: offered = seen + lost before us, and every ledger adds up.

use crate::fabric::{Config, Draws, Fabric, Rules, message, reasons};
use tachyon_driver_mem::Faults;
use tachyon_wire::{Message, Reason, frame::ACK_WANTED};

fn rules(version: u64) -> Rules {
    (1..=8).fold(Rules::new(version).senders(), |rules, topic| rules.topic(topic, &[0], &[0, 1, topic % 4]))
}

/// Traffic of every kind for some turns, swaps among it. Every step asserts ledgers and buffers.
fn run(faults: Faults, seed: u64, turns: u64) -> Fabric {
    println!("seed {seed}, {faults:?}");
    let config = Config { faults, seed, pool: 128, outside: 192, ..Config::default() };
    let mut fabric = Fabric::new(config, rules(1));
    for slot in 0..4 {
        fabric.subscriber(slot % 2 == 0, 8, 1472);
    }
    fabric.publisher(0, true);
    fabric.publisher(0, false);
    fabric.lossy = faults.submit_fail + faults.cq_error + faults.timeout > 0;
    let mut draws = Draws(seed);
    for turn in 0..turns {
        for _ in 0..draws.below(6) {
            let publisher = draws.below(2);
            let shard = u16::try_from(draws.below(4)).unwrap();
            let frames: Vec<Vec<u8>> = (0..1 + draws.below(2))
                .map(|_| {
                    let topic = |odd: u32| if shard == 0 { 4 } else { u32::from(shard) } + 4 * odd;
                    let messages: Vec<Message> =
                        (0..8).map(|_| message(topic(draws.id(3)), draws.id(64), 0, turn, fabric.now)).collect();
                    fabric.publishers[publisher].frame(shard, ACK_WANTED, &messages)
                })
                .collect();
            let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
            let source = fabric.publishers[publisher].endpoint;
            fabric.send_from(source, shard, &frames); // a full link is not our matter
        }
        if turn % 17 == 16 {
            fabric.apply(rules(turn));
        }
        fabric.step(200 + draws.next() % 4_000);
        if draws.below(4) > 0 {
            fabric.collect();
        }
    }
    fabric.set_faults(Faults { stall_calls: faults.stall_calls, delay_calls: faults.delay_calls, ..Faults::default() });
    fabric
}

fn each(faults: Faults, seeds: std::ops::Range<u64>, expect: impl Fn(&Fabric) -> bool) {
    let mut happened = false;
    for seed in seeds {
        let mut fabric = run(faults, seed, 60);
        let before = fabric.finish();
        happened |= expect(&fabric);
        // Credit and buffers came back, whatever became of them: all passes again.
        for _ in 0..10 {
            fabric.publish(0, 1, 0, &[message(1, 0, 0, 1, 0); 22]);
            fabric.drain();
        }
        let after = fabric.finish();
        assert_eq!(after.copies_given - before.copies_given, after.copies_due - before.copies_due);
        assert!(after.copies_due > before.copies_due);
    }
    assert!(happened, "these faults did not happen");
}

const SOME: u32 = 6_000;

#[test]
fn adds_up_when_buffers_are_dropped_duplicated_and_reordered() {
    let counts = |fabric: &Fabric| fabric.fault_counts();
    each(Faults { drop: SOME, ..Faults::default() }, 0..12, |fabric| counts(fabric).dropped > 0);
    each(Faults { duplicate: SOME, ..Faults::default() }, 12..24, |fabric| {
        let replays = fabric.worker.stats().counters.frames_refused[Reason::Replay.index()];
        assert_eq!(replays, counts(fabric).duplicated, "each duplicate is a replay");
        counts(fabric).duplicated > 0
    });
    each(Faults { reorder: SOME * 3, ..Faults::default() }, 24..36, |fabric| {
        assert_eq!(reasons(&fabric.worker.stats().counters.frames_refused), []);
        counts(fabric).reordered > 0
    });
}

#[test]
fn adds_up_when_buffers_are_damaged_cut_and_late() {
    let counts = |fabric: &Fabric| fabric.fault_counts();
    each(Faults { corrupt: SOME, ..Faults::default() }, 36..48, |fabric| {
        let counters = fabric.worker.stats().counters;
        assert_eq!(counters.frames_refused.iter().sum::<u64>(), counts(fabric).corrupted, "every flip is found");
        counts(fabric).corrupted > 0
    });
    each(Faults { truncate: SOME, ..Faults::default() }, 48..60, |fabric| {
        let refused = fabric.worker.stats().counters.frames_refused;
        assert_eq!(refused.iter().sum::<u64>(), refused[Reason::BadFrame.index()]);
        counts(fabric).cut > 0
    });
    each(Faults { stall: SOME, stall_calls: 5, ..Faults::default() }, 60..72, |fabric| counts(fabric).stalls > 0);
}

#[test]
fn adds_up_when_sending_fails_is_refused_and_completes_late() {
    let failed = |fabric: &Fabric, reason: Reason| fabric.worker.stats().counters.copies_refused[reason.index()] > 0;
    let none = Faults::default();
    each(Faults { submit_fail: SOME, ..none }, 72..84, |fabric| failed(fabric, Reason::TxSubmitFail));
    each(Faults { cq_error: SOME, ..none }, 84..96, |fabric| failed(fabric, Reason::TxCqError));
    each(Faults { timeout: SOME, ..none }, 96..108, |fabric| failed(fabric, Reason::TxTimeout));
    each(Faults { refuse: SOME * 4, ..none }, 108..120, |fabric| fabric.fault_counts().refused > 0);
    each(Faults { delay: SOME * 4, delay_calls: 7, ..none }, 120..132, |fabric| fabric.fault_counts().delayed > 0);
}

#[test]
fn adds_up_under_any_mixture_of_faults() {
    for seed in 1_000..1_100 {
        let mut draws = Draws(seed ^ 0xfeed);
        let mut some = || if draws.below(2) == 0 { 0 } else { draws.id(9_000) };
        let faults = Faults {
            drop: some(),
            duplicate: some(),
            reorder: some(),
            corrupt: some(),
            truncate: some(),
            stall: some(),
            stall_calls: 4,
            submit_fail: some(),
            cq_error: some(),
            timeout: some(),
            refuse: some(),
            delay: some(),
            delay_calls: 9,
        };
        run(faults, seed, 60).finish();
    }
}

#[test]
fn does_the_same_twice_with_the_same_seed() {
    let faults = Faults {
        drop: 2_000,
        duplicate: 2_000,
        reorder: 2_000,
        corrupt: 2_000,
        truncate: 2_000,
        stall: 2_000,
        stall_calls: 3,
        submit_fail: 2_000,
        refuse: 2_000,
        delay: 2_000,
        delay_calls: 5,
        ..Faults::default()
    };
    let outcome = |seed| {
        let mut fabric = run(faults, seed, 200);
        let counters = fabric.finish();
        let bytes: Vec<Vec<u8>> = fabric.subscribers.iter().map(|subscriber| subscriber.bytes.clone()).collect();
        let replies: Vec<_> = fabric.publishers.iter().map(|publisher| publisher.replies.clone()).collect();
        (counters, fabric.worker.stats().residence, bytes, replies)
    };
    for seed in 5_000..5_004 {
        let (first, second) = (outcome(seed), outcome(seed));
        assert!(first.2.iter().any(|bytes| bytes.len() > 10_000));
        assert!(first == second, "seed {seed}");
        assert!(first.2 != outcome(seed + 100).2);
    }
}
