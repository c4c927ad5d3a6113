//! What the engine does for the truth log: it tells it of each turn, holds what has to wait, and says in acks what is so.

use crate::fabric::{Config, Draws, Fabric, Reply, Rules, SESSIONS_MAX, mark, message, reasons};
use std::collections::BTreeSet;
use tachyon_policy::compile::{Durability, WhenFull};
use tachyon_wire::{
    Message, Reason,
    ack::{AckBody, CLASS_ADMITTED, CLASS_DURABLE, CLASS_LOGGED},
    command::Command,
    frame::ACK_WANTED,
    tap::{self, FRAME_REFUSED, FRAME_STUBS, FRAME_WHOLE, Part},
};

const VOLATILE: u32 = 1;
const LOGGED: u32 = 5;
const DURABLE: u32 = 9;

fn rules(when_full: WhenFull) -> Rules {
    let rules = Rules::new(1).senders().topic(VOLATILE, &[0], &[0]).topic(LOGGED, &[0], &[0]).with(|topic| {
        (topic.durability, topic.when_full) = (Durability::Logged, when_full);
    });
    rules.topic(DURABLE, &[0], &[0, 1]).with(|topic| {
        let mark = when_full == WhenFull::Mark;
        (topic.durability, topic.when_full) = (Durability::Durable, if mark { WhenFull::Nack } else { when_full });
    })
}

fn fabric(when_full: WhenFull) -> Fabric {
    let config = Config { held_buffers: 64, log_bytes: 1 << 20, ..Config::default() };
    let mut fabric = Fabric::new(config, rules(when_full));
    fabric.subscriber(false, 128, 1472);
    fabric.subscriber(true, 128, 1472);
    fabric.publisher(0, true);
    fabric
}

fn messages(topics: &[u32]) -> Vec<Message> {
    (0..).zip(topics).map(|(number, topic)| message(*topic, 0, 0, number, 0)).collect()
}

fn acks(fabric: &Fabric, class: u8) -> Vec<AckBody> {
    let replies = fabric.publishers[0].replies.iter();
    let acks = replies.filter_map(|(_, reply)| if let Reply::Ack(ack) = reply { Some(*ack) } else { None });
    acks.filter(|ack| ack.class == class).collect()
}

fn numbers(fabric: &Fabric, subscriber: usize) -> Vec<u64> {
    fabric.subscribers[subscriber].received.iter().map(|copy| mark(&copy.message).0).collect()
}

#[test]
fn forwards_durable_messages_only_once_they_are_stable() {
    let mut fabric = fabric(WhenFull::Nack);
    let topics = [VOLATILE, DURABLE, LOGGED, DURABLE, DURABLE];
    fabric.publish(0, 1, ACK_WANTED, &messages(&topics));
    for _ in 0..20 {
        fabric.step(1_000);
        fabric.collect();
    }
    assert_eq!(numbers(&fabric, 0), [0, 2], "the others wait");
    assert_eq!(fabric.worker.stats().counters.messages_held, 3);
    assert_eq!(acks(&fabric, CLASS_ADMITTED).len(), 1);
    fabric.worker.tap().written = fabric.worker.tap().head();
    fabric.drain_held();
    assert_eq!(acks(&fabric, CLASS_LOGGED).last().map(|ack| ack.cumulative.get()), Some(1));
    assert_eq!(acks(&fabric, CLASS_DURABLE).len(), 0, "written is not stable");
    assert_eq!(numbers(&fabric, 0), [0, 2]);
    fabric.worker.tap().sync();
    let counters = fabric.finish();
    assert_eq!((numbers(&fabric, 0), numbers(&fabric, 1)), (vec![0, 2, 1, 3, 4], vec![1, 3, 4]));
    assert_eq!((counters.messages_held, counters.copies_due), (0, 2 + 6));
    assert_eq!(acks(&fabric, CLASS_DURABLE).last().map(|ack| ack.cumulative.get()), Some(1));
    for copy in &fabric.subscribers[1].received {
        let identity = copy.identity.expect("durable copies say where they are from");
        let place = (identity.session_id.get(), identity.epoch.get(), identity.frame_id.get(), identity.shard.get());
        assert_eq!(place, (fabric.publishers[0].session_id, 3, 1, 1));
        assert_eq!(u64::from(identity.index.get()), mark(&copy.message).0);
    }
}

#[test]
fn repeats_every_class_that_was_reached() {
    let mut fabric = fabric(WhenFull::Nack);
    let frame = fabric.publish(0, 1, ACK_WANTED, &messages(&[DURABLE]));
    fabric.step(1_000);
    fabric.worker.tap().sync();
    fabric.finish();
    let before = fabric.publishers[0].replies.len();
    fabric.send(0, 1, &frame);
    fabric.finish();
    let again: Vec<u8> = fabric.publishers[0].replies[before..]
        .iter()
        .map(|(_, reply)| if let Reply::Ack(ack) = reply { ack.class } else { u8::MAX })
        .collect();
    assert_eq!(again, [CLASS_ADMITTED, CLASS_LOGGED, CLASS_DURABLE]);
    assert_eq!(acks(&fabric, CLASS_DURABLE).last().map(|ack| ack.cumulative.get()), Some(1));
}

#[test]
fn says_nothing_of_a_session_that_another_left_its_place_to() {
    let mut fabric = fabric(WhenFull::Nack);
    for _ in 0..1_100 {
        fabric.publish(0, 1, 0, &messages(&[DURABLE]));
        fabric.step(1_000);
        fabric.worker.tap().sync();
        fabric.collect();
    }
    fabric.drain();
    let before = fabric.publishers[0].session_id;
    fabric.command(Command::CloseSession(before));
    fabric.publishers[0].renew(before + SESSIONS_MAX);
    fabric.command(Command::OpenSession(fabric.publishers[0].open()));
    let mut heads = Vec::new();
    for _ in 0..2 {
        fabric.publish(0, 1, ACK_WANTED, &messages(&[DURABLE]));
        fabric.step(1_000);
        heads.push(fabric.worker.tap().head());
    }
    let tap = fabric.worker.tap();
    (tap.written, tap.stable) = (heads[0], heads[0]);
    fabric.drain_held();
    assert_eq!(
        acks(&fabric, CLASS_DURABLE).last().map(|ack| ack.cumulative.get()),
        Some(1),
        "the second is not stable"
    );
    fabric.worker.tap().sync();
    fabric.finish();
    assert_eq!(acks(&fabric, CLASS_DURABLE).last().map(|ack| ack.cumulative.get()), Some(2));
}

#[test]
fn does_what_the_policy_says_where_the_log_takes_nothing() {
    let topics = [VOLATILE, LOGGED, DURABLE];
    // What subscriber 0 gets, and whether the publisher is told.
    let cases = [
        (WhenFull::Taildrop, vec![0], false),
        (WhenFull::Nack, vec![0], true),
        (WhenFull::Mark, vec![0, 1], true),
        (WhenFull::Buffer, vec![0], false),
    ];
    for (policy, passed, told) in cases {
        for reason in [Reason::PersistTimeout, Reason::PersistDiskFull] {
            let mut fabric = fabric(policy);
            if reason == Reason::PersistTimeout {
                fabric.worker.tap().capacity = 0; // no room
            } else {
                fabric.worker.tap().refuses = Some(reason);
            }
            fabric.publish(0, 1, ACK_WANTED, &messages(&topics));
            fabric.step(1_000);
            fabric.worker.tap().sync();
            let counters = fabric.finish();
            // A log that refuses still has a ring, in which logged messages wait for better times.
            let waits = reason == Reason::PersistDiskFull;
            let passed = if waits { vec![0, 1] } else { passed.clone() };
            assert_eq!(numbers(&fabric, 0), passed, "{policy:?} {reason:?}");
            let refused = if passed.len() == 1 { 3 } else { 2 };
            assert_eq!(reasons(&counters.copies_refused), [(reason, refused)], "{policy:?}");
            let nacks =
                fabric.publishers[0].replies.iter().filter(|(_, reply)| matches!(reply, Reply::Nack(_))).count();
            assert_eq!(nacks, usize::from(told), "{policy:?} {reason:?}");
            assert_eq!(counters.turns_lost > 0, !waits);
        }
    }
}

#[test]
fn says_in_records_what_it_judged() {
    let mut fabric = fabric(WhenFull::Nack);
    fabric.publish(0, 1, 0, &messages(&[VOLATILE, VOLATILE]));
    let mixed = fabric.publish(0, 1, 0, &messages(&[DURABLE, 99_999 * 4 + 1, VOLATILE]));
    let mut forged = fabric.publishers[0].frame(1, 0, &messages(&[DURABLE]));
    forged[70] ^= 1;
    fabric.send(0, 1, &forged);
    fabric.publish(0, 2, 0, &[message(2, 0, 0, 0, 0)]);
    fabric.step(1_000);
    let record = fabric.worker.tap().all.last().unwrap().clone();
    let (turn, mut parts) = tap::read(&record).unwrap();
    assert_eq!((turn.items.get(), turn.commands.get(), turn.refuses), (3, 0, 0), "shard 2 has nothing for the log");
    assert_eq!(turn.flags & tap::TURN_DURABLE, tap::TURN_DURABLE);
    assert_eq!(turn.flags & tap::TURN_SINCE_BOOT, tap::TURN_SINCE_BOOT);
    let frames: Vec<_> =
        parts.by_ref().filter_map(|part| if let Part::Frame(frame) = part { Some(frame) } else { None }).collect();
    assert!(parts.is_whole());
    assert_eq!(
        frames.iter().map(|frame| frame.entry.form).collect::<Vec<_>>(),
        [FRAME_STUBS, FRAME_WHOLE, FRAME_REFUSED]
    );
    assert_eq!(frames[0].stubs.len(), 2 * tap::STUB_BYTES);
    assert_eq!(
        frames[0].stubs[..16],
        messages(&[VOLATILE])[0]
            .flags
            .get()
            .to_le_bytes()
            .iter()
            .chain(&VOLATILE.to_le_bytes())
            .chain(&[0; 4])
            .copied()
            .collect::<Vec<_>>()[..]
    );
    assert_eq!(frames[1].reasons, [tap::HELD, Reason::Denylisted.number(), 0]);
    assert_eq!(frames[2].entry.reason, Reason::BadTag.number());
    assert_eq!(frames[2].head, &forged[..64]);
    drop(mixed);
    fabric.worker.tap().sync();
    fabric.finish();
}

/// Whatever the disk does, in whatever order: everything adds up at each turn, nothing is acknowledged before it is so,
/// and in the end every durable message that was taken is forwarded once, in order.
#[test]
fn holds_and_forwards_under_any_disk() {
    for seed in 0..60 {
        println!("seed {seed}");
        let mut draws = Draws(seed);
        let config = Config {
            held_buffers: [4, 64][draws.below(2)],
            log_bytes: [8 << 10, 1 << 20][draws.below(2)],
            fill_window_ns: 2_000,
            ..Config::default()
        };
        let policy = *draws.pick(&[WhenFull::Taildrop, WhenFull::Nack, WhenFull::Buffer]);
        let mut fabric = Fabric::new(config, rules(policy));
        fabric.subscriber(false, 128, 1472);
        fabric.subscriber(false, 128, 1472);
        fabric.publisher(0, draws.below(2) == 0);
        let mut number = 0;
        let mut stable_ids = BTreeSet::new();
        for _ in 0..400 {
            if draws.below(3) > 0 {
                let count = 1 + draws.below(22);
                let topics: Vec<u32> = (0..count).map(|_| *draws.pick(&[VOLATILE, LOGGED, DURABLE, DURABLE])).collect();
                let messages: Vec<Message> = topics
                    .iter()
                    .map(|topic| {
                        number += 1;
                        message(*topic, 0, 0, number, 0)
                    })
                    .collect();
                fabric.publish(0, 1, if draws.below(2) == 0 { ACK_WANTED } else { 0 }, &messages);
            }
            if draws.below(3) == 0 {
                fabric.worker.tap().advance(false);
            }
            if draws.below(4) == 0 {
                fabric.worker.tap().advance(true);
            }
            fabric.step(500);
            fabric.collect();
            for ack in acks(&fabric, CLASS_DURABLE) {
                stable_ids.insert(ack.cumulative.get());
            }
        }
        fabric.worker.tap().sync();
        fabric.drain();
        fabric.worker.tap().sync();
        let counters = fabric.finish();
        assert_eq!(counters.messages_held, 0);
        let durable = |copy: &&crate::fabric::Received| copy.message.topic_id.get() == DURABLE;
        let numbers: Vec<u64> =
            fabric.subscribers[1].received.iter().filter(durable).map(|copy| mark(&copy.message).0).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "once each, in order");
        let refused: u64 = reasons(&counters.copies_refused).iter().map(|(_, count)| count).sum();
        assert_eq!(counters.copies_due, counters.copies_given + refused);
    }
}
