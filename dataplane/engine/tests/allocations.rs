//! After start-up the worker allocates and frees nothing, whatever comes: a counting allocator says so.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod fabric;

use fabric::{Config, Draws, Fabric, Rules, message};
use tachyon_driver_api::conformance::{CountingAllocator, allocations};
use tachyon_driver_mem::Faults;
use tachyon_policy::compile::Quota;
use tachyon_wire::{
    Message,
    command::{Command, Lease},
    frame::ACK_WANTED,
};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Half of the topics are refused, one is limited, one goes to quarantine, sender 9 has a quota.
fn rules(version: u64) -> Rules {
    let slow = Quota::new(1, 100_000, 2).unwrap();
    let rules = (0..9).fold(Rules::new(version), |rules, sender| rules.sender(sender, Quota::UNLIMITED));
    (1..16u32).fold(rules.sender(9, slow), |rules, topic| {
        let allowed = (topic / 4 + u32::from(version.is_multiple_of(2))).is_multiple_of(2);
        rules.topic(topic, if allowed { &[0] } else { &[1] }, &[0, 1, 2]).with(|rule| {
            rule.quarantine = topic == 5;
            rule.quota = if topic == 6 { slow } else { Quota::UNLIMITED };
        })
    })
}

#[test]
fn allocates_nothing_after_start_up() {
    assert!(allocations(|| drop(std::hint::black_box(Box::new(1)))) > 0, "the allocator counts");
    let faults = Faults { duplicate: 2_000, truncate: 2_000, corrupt: 2_000, cq_error: 1_000, ..Faults::default() };
    let config = Config { faults, pool: 192, outside: 256, ..Config::default() };
    let mut fabric = Fabric::new(config, rules(1));
    fabric.lossy = true;
    for slot in 0..3 {
        fabric.subscriber(slot == 1, 12, 1472);
    }
    fabric.publisher(0, true);
    fabric.publisher(0, false);
    for version in 2..6 {
        fabric.apply(rules(version));
    }
    let commands = [
        Command::OpenSession(fabric.publishers[0].open()),
        Command::AddSubscriber(fabric.subscribers[1].add()),
        Command::CloseSession(0x777),
        Command::RemoveSubscriber(100),
        Command::Lease(Lease { sender_id: 9.into(), share: 30_000.into() }),
        Command::RemoveSubscriber(2),
        Command::AddSubscriber(fabric.subscribers[2].add()),
    ];
    let mut draws = Draws(3);
    let (mut counted, mut received) = (0, 0);
    for turn in 0..6_000u64 {
        for _ in 0..draws.below(5) {
            let publisher = draws.below(2);
            let shard = u16::try_from(draws.below(4)).unwrap();
            let topics: Vec<u32> = (0..4).map(|step| (u32::from(shard) + 4 * step).max(1)).collect();
            let messages: Vec<Message> = (0..1 + draws.below(22))
                .map(|_| message(*draws.pick(&topics), draws.id(12), 1, turn, fabric.now))
                .collect();
            let frame = fabric.publishers[publisher].frame(shard, ACK_WANTED, &messages);
            let source = fabric.publishers[publisher].endpoint;
            fabric.send_from(source, shard, &[&frame]);
        }
        if turn % 3 == 0 {
            let next = commands[usize::try_from(turn / 3).unwrap() % commands.len()];
            fabric.worker.host().commands.push_back(next);
        }
        if turn % 20 == 0 {
            fabric.worker.host().in_force = Ok(usize::try_from(turn / 20).unwrap() % 5);
        }
        fabric.now += 700;
        let now = fabric.now;
        counted += allocations(|| received += fabric.worker.poll(now).received);
        if turn % 4 != 0 {
            fabric.collect();
        }
    }
    let counters = fabric.worker.stats().counters;
    println!("{received} buffers, {} messages, {} swaps", counters.messages_seen, counters.ruleset_swaps);
    assert!(counters.messages_seen > 50_000 && counters.ruleset_swaps > 200 && counters.replies_sent > 1_000);
    assert!(counters.quarantined > 0 && counters.copies_refused.iter().sum::<u64>() > 0);
    assert_eq!(counted, 0, "allocations in {received} buffers");
    fabric.finish();
}
