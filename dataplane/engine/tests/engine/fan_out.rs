//! Routes with several targets: messages wait for each other within a burst and are copied together, and nobody can tell.

use crate::fabric::{Config, Fabric, Rules, mark, message, reasons};
use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
};
use tachyon_wire::{Message, Reason, command::Command};

/// By topic, the numbers that a subscriber got, in order of arrival.
fn numbers(fabric: &Fabric, subscriber: usize) -> BTreeMap<u32, Vec<u64>> {
    let mut numbers: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    for copy in &fabric.subscribers[subscriber].received {
        numbers.entry(copy.message.topic_id.get()).or_default().push(mark(&copy.message).0);
    }
    numbers
}

/// Everything in order, but perhaps not all of it.
fn is_part(part: &BTreeMap<u32, Vec<u64>>, whole: &BTreeMap<u32, Vec<u64>>) -> bool {
    part.iter().all(|(topic, numbers)| {
        let known: BTreeSet<u64> = whole[topic].iter().copied().collect();
        numbers.is_sorted_by(|one, next| one < next) && numbers.iter().all(|number| known.contains(number))
    })
}

/// A publisher and how far it has counted.
struct Source {
    publisher: usize,
    number: u64,
    sent: BTreeMap<u32, Vec<u64>>,
}

impl Source {
    fn new(fabric: &mut Fabric) -> Self {
        Self { publisher: fabric.publisher(0, true), number: 0, sent: BTreeMap::new() }
    }

    /// A frame of `count` messages in shard 1, topics in turn.
    fn publish(&mut self, fabric: &mut Fabric, topics: &[u32], count: usize) {
        let messages: Vec<Message> = (0..count)
            .map(|_| {
                self.number += 1;
                let topic = topics[usize::try_from(self.number).unwrap() % topics.len()];
                self.sent.entry(topic).or_default().push(self.number);
                message(topic, 0, 0, self.number, fabric.now)
            })
            .collect();
        fabric.publish(self.publisher, 1, 0, &messages);
    }
}

#[test]
fn targets_of_every_kind_get_what_is_theirs() {
    for fill_window_ns in [0, 700, 5_000] {
        // Slots 0 to 2 take frames of other sizes, 3 has little credit, and 4 is nobody.
        let all = [0, 1, 2, 3, 4];
        let rules = Rules::new(1).senders().topic(1, &[0], &all).topic(5, &[0], &[0]);
        let rules = rules.topic(9, &[0], &[0, 1]).topic(13, &[0], &[1]).topic(17, &[0], &all);
        let config = Config { pool: 512, outside: 512, depth: 512, fill_window_ns, ..Config::default() };
        let mut fabric = Fabric::new(config, rules);
        fabric.subscriber(false, 128, 1472);
        fabric.subscriber(true, 128, 320);
        fabric.subscriber(false, 128, 4096);
        fabric.subscriber(false, 2, 1472);
        let mut source = Source::new(&mut fabric);
        for round in 0..120usize {
            for part in 0..1 + round % 5 {
                source.publish(&mut fabric, &[1, 5, 9, 13, 17], 1 + (7 * round + part) % 22);
                source.publish(&mut fabric, &[1], 1 + (5 * round + part) % 22);
            }
            fabric.step(300);
            if round % 3 == 0 {
                fabric.collect();
            }
        }
        let counters = fabric.finish();
        let wide = (source.sent[&1].len() + source.sent[&17].len()) as u64;
        let due = 5 * wide
            + source
                .sent
                .iter()
                .map(|(topic, sent)| match topic {
                    9 => 2 * sent.len() as u64,
                    5 | 13 => sent.len() as u64,
                    _ => 0,
                })
                .sum::<u64>();
        assert_eq!(counters.copies_due, due);
        let only = |topics: &[u32]| -> BTreeMap<u32, Vec<u64>> {
            source
                .sent
                .iter()
                .filter(|(topic, _)| topics.contains(topic))
                .map(|(key, sent)| (*key, sent.clone()))
                .collect()
        };
        assert_eq!(numbers(&fabric, 0), only(&[1, 5, 9, 17]));
        assert_eq!(numbers(&fabric, 1), only(&[1, 9, 13, 17]));
        assert_eq!(numbers(&fabric, 2), only(&[1, 17]));
        let (congested, got) = (numbers(&fabric, 3), fabric.subscribers[3].received.len() as u64);
        assert!(is_part(&congested, &source.sent) && got > 0 && got < wide, "{got} of {wide}");
        let refused = [(Reason::TxSubmitFail, wide), (Reason::TxCongestion, wide - got)];
        let refused: BTreeSet<_> = refused.into_iter().collect();
        assert_eq!(reasons(&counters.copies_refused).into_iter().collect::<BTreeSet<_>>(), refused);
        let routes = &fabric.worker.stats().routes;
        let sum = |of: fn(&tachyon_wire::counters::RouteCounters) -> u64| routes.iter().map(of).sum::<u64>();
        assert_eq!(sum(|route| route.accepted), counters.messages_accepted);
        assert_eq!((sum(|route| route.due), sum(|route| route.given)), (due, counters.copies_given));
        assert_eq!(sum(|route| route.refused), 2 * wide - got);
    }
}

#[test]
fn frames_are_as_full_as_each_target_takes_them() {
    let mut fabric = Fabric::new(Config::default(), Rules::new(1).senders().topic(1, &[0], &[0, 1, 2]));
    for frame_bytes_max in [1472, 384, 4096] {
        fabric.subscriber(false, 128, frame_bytes_max);
    }
    let mut source = Source::new(&mut fabric);
    for count in [20, 3, 22, 21, 1, 22, 22, 15] {
        source.publish(&mut fabric, &[1], count);
    }
    fabric.finish();
    // 126 messages, 22, 5 and 63 of them a frame.
    let frames: Vec<usize> = fabric.subscribers.iter().map(|subscriber| subscriber.frames).collect();
    assert_eq!(frames, [6, 26, 2]);
}

#[test]
fn more_routes_than_can_wait_at_a_time() {
    let pairs: Vec<[u32; 2]> = (0..14).flat_map(|one| (0..one).map(move |other| [other, one])).collect();
    let topics: Vec<u32> = (0..90).map(|number| 1 + 4 * number).collect();
    let rules =
        topics.iter().zip(&pairs).fold(Rules::new(1).senders(), |rules, (topic, pair)| rules.topic(*topic, &[0], pair));
    let mut fabric = Fabric::new(Config { pool: 1024, outside: 1024, depth: 1024, ..Config::default() }, rules);
    for _ in 0..14 {
        fabric.subscriber(false, 256, 1472);
    }
    let mut source = Source::new(&mut fabric);
    for round in 0..60 {
        source.publish(&mut fabric, &topics, 22);
        source.publish(&mut fabric, &topics[7..40], 11 + round % 11);
        source.publish(&mut fabric, &topics, 21);
        if round % 10 == 9 {
            fabric.drain();
        }
    }
    let counters = fabric.finish();
    assert_eq!((counters.copies_due, counters.copies_given), (2 * source.number, 2 * source.number));
    for subscriber in 0..14 {
        assert!(is_part(&numbers(&fabric, subscriber), &source.sent));
    }
}

#[test]
fn a_message_with_a_payload_stays_behind_those_before_it() {
    let mut fabric = Fabric::new(Config::default(), Rules::new(1).senders().topic(1, &[0], &[0, 1]));
    fabric.subscriber(false, 64, 1472);
    fabric.subscriber(true, 64, 512);
    let mut source = Source::new(&mut fabric);
    for round in 0..20 {
        source.publish(&mut fabric, &[1], 1 + round % 9);
        let id = fabric.publishers[source.publisher].next_id(1);
        let fields = fabric.publishers[source.publisher].fields(1, 0, id);
        let frame = fabric.publishers[source.publisher].write(fields, |writer| {
            writer.push_with_payload(1, 0, 3, 0, &[7; 100]).unwrap();
        });
        fabric.send(source.publisher, 1, &frame);
        source.publish(&mut fabric, &[1], 2);
        fabric.step(300);
        fabric.collect();
    }
    fabric.finish();
    for subscriber in &fabric.subscribers {
        let mut before = 0;
        for round in 0..20 {
            let at = before + 1 + round % 9;
            assert!(subscriber.received[before..at].iter().all(|copy| copy.payload.is_none()), "round {round}");
            assert!(subscriber.received[at].payload.is_some(), "round {round}");
            before = at + 3;
        }
        assert_eq!(subscriber.received.len(), before);
    }
}

#[test]
fn removed_and_added_targets_get_what_was_accepted_while_they_were_there() {
    let mut fabric = Fabric::new(Config::default(), Rules::new(1).senders().topic(1, &[0], &[0, 1, 2]));
    for _ in 0..3 {
        fabric.subscriber(false, 64, 1472);
    }
    let add = fabric.subscribers[0].add();
    let mut source = Source::new(&mut fabric);
    let mut expected = Vec::new();
    for round in 0..30 {
        let there = round % 3 != 1;
        source.publish(&mut fabric, &[1], 1 + round % 22);
        source.publish(&mut fabric, &[1], 3);
        let from = source.number - 4 - (round % 22) as u64;
        expected.extend((from + 1..=source.number).filter(|_| there));
        let command = if there { Command::AddSubscriber(add) } else { Command::RemoveSubscriber(0) };
        fabric.worker.host().commands.push_back(command);
        if round % 7 == 0 {
            fabric.apply(Rules::new(2 + round as u64).senders().topic(1, &[0], &[0, 1, 2]));
        }
        fabric.step(100);
        fabric.collect();
    }
    let counters = fabric.finish();
    assert_eq!(numbers(&fabric, 0)[&1], expected);
    assert_eq!(numbers(&fabric, 1), source.sent);
    assert_eq!(numbers(&fabric, 2), source.sent);
    let missed = source.number - expected.len() as u64;
    assert_eq!(reasons(&counters.copies_refused), [(Reason::TxSubmitFail, missed)]);
    let route = fabric.worker.stats().routes[0];
    assert_eq!((route.accepted, route.due, route.refused), (source.number, 3 * source.number, missed));
}

#[test]
fn a_panic_while_messages_wait_is_charged_for_all_of_their_copies() {
    let rules = Rules::new(1).senders().topic(1, &[0], &[0, 1]).topic(5, &[0], &[0, 1, 2]);
    let mut fabric = Fabric::new(Config::default(), rules);
    for _ in 0..3 {
        fabric.subscriber(false, 128, 1472);
    }
    let mut source = Source::new(&mut fabric);
    let mut panicked = 0;
    for round in 0..8 {
        // Two buffers for each of two targets fill up, which are sent while topic 5 still waits.
        source.publish(&mut fabric, &[5], 3 + round);
        (0..7).for_each(|_| source.publish(&mut fabric, &[1], 22));
        fabric.queue.panics.set(true);
        let now = fabric.now + 1;
        let turn = catch_unwind(AssertUnwindSafe(|| fabric.worker.poll(now)));
        assert!(turn.is_err(), "the turn panicked");
        fabric.worker.recover();
        let counters = &fabric.worker.stats().counters;
        assert_eq!(counters.unaccounted(), [0; 3]);
        assert_eq!(fabric.worker.buffers_missing(), 0);
        let fives = 3 * (3 + round as u64);
        let three = source.sent[&5].len() as u64;
        assert_eq!(counters.copies_due, 2 * counters.messages_accepted + three, "what waits is due");
        let refused = counters.copies_refused[Reason::InternalPanic.index()];
        assert!(refused - panicked >= fives, "round {round}: {refused} after {panicked}");
        fabric.drain();
        source.publish(&mut fabric, &[1, 5], 10);
        fabric.drain();
        panicked = fabric.worker.stats().counters.copies_refused[Reason::InternalPanic.index()];
    }
    let counters = fabric.finish();
    assert_eq!(reasons(&counters.copies_refused), [(Reason::InternalPanic, panicked)]);
    for subscriber in 0..3 {
        assert!(is_part(&numbers(&fabric, subscriber), &source.sent));
    }
    assert_eq!(numbers(&fabric, 2)[&5].len(), 8 * 5, "what was held when it panicked is gone, and all after it came");
}
