//! Rules that change under load: every burst is judged by exactly one version.

use crate::fabric::{Config, Fabric, Rules, message, reasons};
use tachyon_wire::{Message, Reason};

/// Odd versions let topics 1 to 4 pass, even ones 5 to 8; their routes are in other places of the image.
fn rules(version: u64) -> Rules {
    let odd = version % 2 == 1;
    let rules = if odd { Rules::new(version) } else { Rules::new(version).topic(12, &[0], &[2]) };
    (1..=8u32).fold(rules.senders(), |rules, topic| {
        let allowed = (topic <= 4) == odd;
        rules.topic(topic, if allowed { &[0] } else { &[1] }, if odd { &[0, 1] } else { &[1, 2] })
    })
}

fn fabric() -> Fabric {
    let mut fabric = Fabric::new(Config::default(), rules(1));
    for slot in 0..3 {
        fabric.subscriber(slot == 1, 64, 1472);
    }
    fabric.publisher(0, true);
    fabric
}

/// Pairs of messages, the first allowed by odd versions only and the second by even ones only.
fn pairs(shard: u16, count: u64, number: u64) -> Vec<Message> {
    let first = if shard == 0 { 4 } else { u32::from(shard) };
    let pair = |index| [message(first, 0, 0, number + index, 0), message(first + 4, 0, 0, number + index, 0)];
    (0..count).flat_map(pair).collect()
}

#[test]
fn judges_every_burst_by_exactly_one_version() {
    let mut fabric = fabric();
    let (mut number, mut swaps) = (0, 0);
    for turn in 0..600u64 {
        if turn % 3 == 0 {
            fabric.apply(rules(2 + turn / 3));
            swaps += 1;
        }
        let version = 2 + turn / 3;
        let before = fabric.worker.stats().counters;
        let mut frames = 0;
        for shard in 0..4 {
            let messages = pairs(shard, 1 + (turn + u64::from(shard)) % 11, number);
            number += messages.len() as u64 / 2;
            frames += messages.len() as u64 / 2;
            fabric.publish(0, shard, 0, &messages);
        }
        fabric.step(900);
        fabric.collect();
        let after = fabric.worker.stats().counters;
        assert_eq!(after.messages_accepted - before.messages_accepted, frames, "one of each pair");
        assert_eq!(after.ruleset_version, version);
    }
    let counters = fabric.finish();
    assert_eq!(counters.ruleset_swaps, swaps);
    assert_eq!(reasons(&counters.messages_refused), [(Reason::Denylisted, number)]);
    assert_eq!(counters.copies_given, number * 2);
    // What a version let pass went where that version said, whatever came after it.
    for subscriber in &fabric.subscribers {
        for copy in &subscriber.received {
            let by_odd = copy.message.topic_id.get() <= 4;
            assert!(subscriber.slot == 1 || (subscriber.slot == 0) == by_odd, "to {}: {copy:?}", subscriber.slot);
        }
    }
    assert_eq!(fabric.subscribers[1].received.len() as u64, number);
}

#[test]
fn looks_at_the_ruleset_once_per_burst() {
    // Control may swap between any two looks, so a second look could judge by rules that the lanes do not belong to.
    let mut fabric = fabric();
    fabric.apply(rules(2));
    fabric.worker.host().flips = true;
    for turn in 0..200u64 {
        let before = fabric.worker.stats().counters;
        let looks = fabric.worker.host().looks;
        for shard in 0..4 {
            fabric.publish(0, shard, 0, &pairs(shard, 5, turn * 5));
        }
        fabric.step(900);
        fabric.collect();
        let after = fabric.worker.stats().counters;
        assert_eq!(after.messages_accepted - before.messages_accepted, 20, "one of each pair");
        let seen = u64::try_from(looks + 1).unwrap() % 2;
        assert_eq!(after.ruleset_version, 1 + seen, "the version that was seen is the one that judged");
        assert_eq!(fabric.worker.host().looks, looks + 1, "one look");
    }
    fabric.finish();
    for subscriber in &fabric.subscribers {
        for copy in &subscriber.received {
            let by_odd = copy.message.topic_id.get() <= 4;
            assert!(subscriber.slot == 1 || (subscriber.slot == 0) == by_odd, "to {}: {copy:?}", subscriber.slot);
        }
    }
}

#[test]
fn a_route_that_changes_takes_effect_for_the_next_burst_only() {
    let to = |version: u64, slot: u32| Rules::new(version).senders().topic(1, &[0], &[slot]);
    let mut fabric = Fabric::new(Config::default(), to(1, 0));
    fabric.subscriber(false, 64, 1472);
    fabric.subscriber(false, 64, 1472);
    fabric.publisher(0, true);
    for version in 2..40 {
        fabric.publish(0, 1, 0, &[message(1, 0, 0, version, 0)]);
        fabric.step(100);
        fabric.apply(to(version, u32::from(version % 2 == 1)));
    }
    fabric.finish();
    assert_eq!(fabric.subscribers[0].received.len() + fabric.subscribers[1].received.len(), 38);
    for subscriber in &fabric.subscribers {
        for copy in &subscriber.received {
            // Published under the version before the one it names.
            let before = crate::fabric::mark(&copy.message).0 - 1;
            assert_eq!(u64::from(subscriber.slot), if before > 1 { before % 2 } else { 0 });
        }
    }
}
