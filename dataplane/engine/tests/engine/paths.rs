//! Which instructions the loop uses changes nothing that can be seen: the same input gives the same bytes, in the same order,
//! and the same counters, on every path that this CPU has.

use crate::fabric::{Config, Draws, Fabric, Rules, message, reasons};
use std::hash::Hasher;
use tachyon_engine::Path;
use tachyon_policy::compile::Quota;
use tachyon_wire::{Message, Reason, counters::Counters, frame::ACK_WANTED};
use zerocopy::IntoBytes;

const STEPS: usize = 3_000;
const TOPICS: u32 = 48;

fn rules() -> Rules {
    let quota = |period, burst| Quota::new(1, period, burst).unwrap();
    let mut rules = (0..6).fold(Rules::new(1), |rules, sender| rules.sender(sender, Quota::UNLIMITED));
    rules = rules.sender(6, quota(900, 30)).sender(7, quota(400, 3));
    for topic in 1..TOPICS {
        let publishers: &[u32] = if topic % 9 == 0 { &[1] } else { &[0, 1] };
        let slots: Vec<u32> = (0..topic % 4).map(|slot| (slot + topic) % 4).collect();
        rules = rules.topic(topic, publishers, &slots).with(|rule| {
            rule.tag_required = topic % 8 == 0;
            rule.quarantine = topic % 2 == 0;
            rule.quota = if topic % 5 == 0 { quota(700, 9) } else { Quota::UNLIMITED };
        });
    }
    rules
}

/// A good message most of the time; else one with a bit of it turned, or for another shard.
fn drawn(draws: &mut Draws, shard: u16) -> Message {
    let topic = draws.id(TOPICS / 4) * 4 + if draws.below(40) == 0 { 1 } else { u32::from(shard) };
    let (sender, class) = (draws.id(9), u8::try_from(draws.below(4)).unwrap());
    let mut message = message(topic.max(1), sender, class, draws.next(), 0);
    if draws.below(12) == 0 {
        let bits = if draws.below(2) == 0 { 128 } else { 512 };
        let bit = draws.below(bits);
        message.as_mut_bytes()[bit / 8] ^= 1 << (bit % 8);
    }
    message
}

/// What came out, and what was counted.
fn run(path: Path, seed: u64) -> (u64, Counters) {
    let mut draws = Draws(seed);
    let config = Config { path, pool: 384, outside: 320, buffer_bytes: 2048, ..Config::default() };
    let mut fabric = Fabric::new(config, rules());
    for slot in 0..4 {
        fabric.subscriber(slot % 2 == 0, 500, [1472, 256, 704, 1472][slot]);
    }
    for number in 0..4 {
        fabric.publisher(u32::from(number == 2), number % 2 == 0);
    }
    for _ in 0..STEPS {
        let (number, shard) = (draws.below(4), u16::try_from(draws.below(4)).unwrap());
        let messages: Vec<Message> = (0..1 + draws.below(22)).map(|_| drawn(&mut draws, shard)).collect();
        let flags = if draws.below(6) == 0 { ACK_WANTED } else { 0 };
        let mut frame = fabric.publishers[number].frame(shard, flags, &messages);
        if draws.below(30) == 0 {
            let bit = draws.below(frame.len() * 8);
            frame[bit / 8] ^= 1 << (bit % 8);
        }
        fabric.send(number, shard, &frame);
        if draws.below(3) == 0 {
            fabric.step(draws.next() % 3_000);
            fabric.collect();
        }
    }
    let counters = fabric.finish();
    (fabric.digest.finish(), counters)
}

#[test]
fn give_the_same_bytes_and_counters() {
    for seed in [1, 0x7ac4_0101, 0xfeed] {
        println!("seed {seed}");
        let expected = run(Path::SCALAR, seed);
        let refused = reasons(&expected.1.messages_refused);
        assert!(expected.1.messages_accepted > 10_000 && refused.len() > 6, "{refused:?}");
        assert!(expected.1.frames_refused[Reason::BadTag.index()] > 5);
        for path in Path::all() {
            assert_eq!(run(path, seed), expected, "{}", path.name());
        }
    }
}
