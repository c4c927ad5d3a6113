//! More than fits: it is refused with a reason, nothing is lost, and it passes.

use crate::fabric::{Config, Fabric, Rules, message, reasons};
use tachyon_wire::{Message, Reason, counters::Counters, frame::ACK_WANTED};

fn rules() -> Rules {
    (1..=8).fold(Rules::new(1).senders(), |rules, topic| rules.topic(topic, &[0], &[0, 1]))
}

fn fabric(pool: usize, credit: u32) -> Fabric {
    let config = Config { pool, outside: 320, ..Config::default() };
    let mut fabric = Fabric::new(config, rules());
    fabric.subscriber(false, credit, 1472);
    fabric.subscriber(true, credit, 1472);
    fabric.publisher(0, false);
    fabric
}

/// Up to `frames` full frames, spread over shards and classes, as far as the link takes them.
fn offer(fabric: &mut Fabric, frames: u16, flags: u16) {
    for number in 0..frames {
        let shard = number % 4;
        let topic = if shard == 0 { 4 } else { u32::from(shard) };
        let messages: Vec<Message> =
            (0..22u8).map(|index| message(topic + 4 * u32::from(index % 2), 0, index % 4, 7, fabric.now)).collect();
        let frame = fabric.publishers[0].frame(shard, flags, &messages);
        let source = fabric.publishers[0].endpoint;
        fabric.send_from(source, shard, &[&frame]);
    }
}

/// Reads at most so many buffers of what the worker sent: what the outside can do in one turn.
fn goodput(fabric: &mut Fabric, turns: u64, frames: u16, every: u64) -> (Counters, Counters) {
    let before = fabric.worker.stats().counters;
    for turn in 0..turns {
        offer(fabric, frames, ACK_WANTED);
        fabric.step(2_000);
        if turn % every == 0 {
            fabric.collect();
        }
    }
    (before, fabric.worker.stats().counters)
}

#[test]
fn charges_congestion_to_a_subscriber_without_credit_and_goes_on_receiving() {
    let mut fabric = fabric(256, 3);
    for turn in 0..200 {
        offer(&mut fabric, 8, 0);
        fabric.step(1_000);
        assert_eq!(fabric.worker.stats().counters.frames_seen, (turn + 1) * 8, "receive goes on");
    }
    let counters = fabric.worker.stats().counters;
    assert!(counters.copies_refused[Reason::TxCongestion.index()] > 50_000);
    assert_eq!(counters.messages_accepted, 200 * 8 * 22);
    assert_eq!(counters.pressure, 0, "credit keeps one subscriber from taking all buffers");
    fabric.drain();
    let before = fabric.worker.stats().counters;
    for _ in 0..20 {
        offer(&mut fabric, 2, 0);
        fabric.drain();
    }
    let after = fabric.finish();
    assert_eq!(after.copies_given - before.copies_given, 20 * 2 * 22 * 2, "all of it passes again");
    assert_eq!(after.messages_refused.iter().sum::<u64>(), 0);
}

#[test]
fn takes_no_copy_for_a_subscriber_whose_credit_is_zero() {
    let mut fabric = fabric(64, 0);
    offer(&mut fabric, 4, 0);
    let counters = fabric.finish();
    assert_eq!(reasons(&counters.copies_refused), [(Reason::TxCongestion, counters.copies_due)]);
}

#[test]
fn runs_out_of_buffers_sheds_and_recovers_when_the_outside_does_not_read() {
    for pool in [2, 3, 8, 16, 64, 200] {
        let mut fabric = fabric(pool, 1_000);
        for _ in 0..100 {
            offer(&mut fabric, 40, ACK_WANTED);
            fabric.step(500);
        }
        let counters = fabric.worker.stats().counters;
        let short = counters.copies_refused[Reason::ArenaOom.index()] + counters.messages_refused[Reason::Shed.index()];
        assert!(short > 0 || counters.receive_starved > 0, "pool of {pool}: {counters:?}");
        fabric.drain();
        let before = fabric.worker.stats().counters;
        for _ in 0..20 {
            offer(&mut fabric, 1, 0);
            fabric.drain();
        }
        let after = fabric.finish();
        assert_eq!(after.frames_admitted - before.frames_admitted, 20, "pool of {pool}");
        if pool >= 64 {
            assert_eq!(after.copies_given - before.copies_given, 20 * 22 * 2, "pool of {pool}");
        }
    }
}

#[test]
fn sheds_the_last_classes_first() {
    let mut fabric = fabric(64, 1_000);
    let mut levels = [0; 5];
    for _ in 0..60 {
        offer(&mut fabric, 3, 0);
        let before = fabric.worker.stats().counters;
        fabric.step(100);
        let after = fabric.worker.stats().counters;
        let level = usize::try_from(after.pressure).unwrap();
        let shed = after.messages_refused[Reason::Shed.index()] - before.messages_refused[Reason::Shed.index()];
        let by_class = [6u64, 6, 5, 5]; // of the 22 messages of a frame
        let frames = after.frames_admitted - before.frames_admitted;
        assert_eq!(shed, frames * by_class[4 - level..].iter().sum::<u64>(), "level {level}");
        levels[level] += 1;
    }
    assert!(levels[0] > 0 && levels[1..].iter().filter(|count| **count > 0).count() >= 3, "{levels:?}");
    fabric.finish();
}

#[test]
fn keeps_its_goodput_at_twice_and_ten_times_what_the_outside_takes() {
    for factor in [1, 2, 10] {
        let mut fabric = fabric(128, 24);
        let turns = 400;
        let (before, after) = goodput(&mut fabric, turns, 4 * factor, 2);
        let given = after.copies_given - before.copies_given;
        println!("at {factor} times: {given} copies given of {}", after.copies_due - before.copies_due);
        assert!(given >= turns * 4 * 22, "at {factor} times: {given} copies");
        let (before, after) = goodput(&mut fabric, 100, 4, 1);
        let due = after.copies_due - before.copies_due;
        let given = after.copies_given - before.copies_given;
        assert!(given * 10 >= due * 9, "it recovers: {given} of {due}");
        fabric.finish();
    }
}

#[test]
fn survives_subscribers_that_cannot_be_reached() {
    let mut fabric = fabric(64, 1_000);
    let mut add = fabric.subscribers[0].add();
    add.endpoint = tachyon_wire::Endpoint::NONE;
    fabric.command(tachyon_wire::command::Command::AddSubscriber(add));
    for _ in 0..50 {
        offer(&mut fabric, 4, 0);
        fabric.step(1_000);
        fabric.collect();
    }
    let counters = fabric.finish();
    assert_eq!(counters.copies_given, counters.messages_accepted, "the other one gets everything");
    assert_eq!(reasons(&counters.copies_refused), [(Reason::TxSubmitFail, counters.messages_accepted)]);
}
