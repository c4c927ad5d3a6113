//! Publisher and subscriber against a stand-in node over the memory driver, in virtual time: all counts must meet.

use crate::stand_in::{EGRESS, EGRESS_MASTER, FRAME_BYTES, MESSAGES, Node, SENDERS, SESSIONS, SHARDS, master};
use std::{collections::BTreeMap, sync::Arc};
use tachyon_driver_api::{Pool, RxQueue, TxQueue};
use tachyon_driver_arena::{Arena, ArenaConfig, Pages};
use tachyon_driver_mem::{LinkConfig, MemQueue, Outside, pair};
use tachyon_loadgen::{
    clock::SECOND_NS,
    forge::{Kind, Victim},
    ledger::{Ledger, OurCounts, Proof, Source},
    plan::{Bias, Choice, Plan},
    publisher::{Part, Publisher, Setup, Shape, Stream},
    reader::{Incoming, Reader},
    report::expected_at_least,
    schedule::{Rate, Schedule},
    subscriber::Subscriber,
};
use tachyon_wire::{
    Endpoint,
    tag::{self, FrameKey},
};

const BASE_PORT: u16 = 24_640;
const DELAY_NS: u64 = 7_000;

fn pools() -> [Pool; 4] {
    let buffers = 64;
    let config = ArenaConfig {
        bytes: 4 * buffers * 65_536,
        buffer_bytes: 65_536,
        pages: Pages::Ordinary,
        lock: false,
        numa_node: None,
    };
    let mut arena = Arena::create(config).unwrap();
    std::array::from_fn(|_| Pool::new(arena.take(buffers).unwrap()))
}

fn publisher(queue: MemQueue, pool: Pool, tagged: bool) -> Publisher<MemQueue> {
    let stream = |session: u32| {
        let victim = Victim {
            key: tagged.then(|| tag::derive(&master(session), session, 1)),
            foreign_key: FrameKey::from_bytes([0x5a; 16]),
            foreign_sender: 100 + SENDERS,
            shard_count: SHARDS,
        };
        Stream::new(session, 1, 100, victim)
    };
    let shape = Shape { messages: MESSAGES, frames_most: 16, payload_bytes: 16, class: 2, ack: false, until: None };
    assert_eq!(shape.frame_bytes(), FRAME_BYTES as usize);
    let setup = Setup {
        shape,
        node: Endpoint::v4([10, 0, 0, 1], BASE_PORT),
        streams: (1..=SESSIONS).map(stream).collect(),
        kinds: Kind::possible(tagged, SHARDS, false),
        reader: Reader::new(FRAME_BYTES, []),
        seed: 11,
    };
    Publisher::new(queue, pool, setup)
}

struct Outcome {
    node: Node,
    offered: tachyon_loadgen::offered::Offered,
    heard: tachyon_loadgen::subscriber::Heard,
    gaps: u64,
    anomalies: u64,
}

impl Outcome {
    fn proof(&self) -> Proof {
        let ours = OurCounts {
            offered_frames: self.offered.frames,
            send_errors: self.offered.send_errors,
            frames_per_run_max: 1,
            copies_per_frame_max: MESSAGES.into(),
            copies_received: self.heard.copies,
            gap_frames: self.gaps,
            subscriber_overflow: 0,
            subscriber_anomalies: self.anomalies,
            ..OurCounts::default()
        };
        Proof::of(&self.node.ledgers, &ours)
    }
}

/// A second of 200,000 messages in virtual time, in turns of 100 µs.
fn second(tagged: bool, loss_before: f64, loss_after: f64) -> Outcome {
    let [publish_pool, in_pool, out_pool, subscribe_pool] = pools();
    let config = LinkConfig { frame_bytes_max: FRAME_BYTES, ..LinkConfig::default() };
    let ((publish, inside), (subscribe, outside)) = (pair(config), pair(config));
    let (mut inside, mut outside) = (Outside::new(inside, in_pool), Outside::new(outside, out_pool));
    let mut publisher = publisher(publish, publish_pool, tagged);
    let incoming = Incoming { session_id: EGRESS, master: EGRESS_MASTER, tagged: true };
    let mut subscriber = Subscriber::new(subscribe, subscribe_pool, Reader::new(FRAME_BYTES, [incoming]));
    let mut node = Node::new(tagged, loss_before, loss_after);
    let topics: Vec<u32> = (1..=50).collect();
    let plan = Plan::draw(&topics, Choice::Zipf, SENDERS, SHARDS, Bias::default(), 5);
    let frames_per_run = 4;
    let schedule = Schedule::new(Rate::PerSecond(200_000.0), frames_per_run * MESSAGES, 1000, 1000 + SECOND_NS);
    publisher.begin(Part { schedule, plan: Arc::new(plan), frames_per_run, forged: 0.2, replayed: 0.1 });
    let mut now = 0;
    while !publisher.idle(now) {
        publisher.turn(now);
        // The last tenth is not lost, so that every gap has a frame behind it.
        let may_lose = now < SECOND_NS * 9 / 10;
        for delivered in inside.receive() {
            assert_eq!(delivered.destination, Endpoint::v4([10, 0, 0, 1], BASE_PORT + delivered.shard));
            if let Some(copies) = node.take(&delivered.frame, delivered.shard, may_lose) {
                assert!(outside.send(Endpoint::v4([10, 0, 0, 1], 1), delivered.shard, 0, &[&copies]));
            }
        }
        drain(&mut subscriber, now + DELAY_NS);
        now += 100_000;
    }
    let anomalies = subscriber.anomalies().values().sum();
    Outcome { node, offered: publisher.end(), heard: subscriber.end(), gaps: subscriber.gaps(), anomalies }
}

fn drain<Q: RxQueue + TxQueue>(subscriber: &mut Subscriber<Q>, now: u64) {
    while subscriber.turn(|| now) > 0 {}
}

#[test]
fn every_frame_that_was_offered_is_found_in_the_ledger_it_must_end_in() {
    for tagged in [true, false] {
        let outcome = second(tagged, 0.0, 0.0);
        let (node, offered) = (&outcome.node.ledgers, &outcome.offered);
        assert!((18_100..=18_200).contains(&offered.frames), "{offered:?}");
        assert_eq!((offered.missed, offered.exhausted, offered.send_errors), (0, 0, 0));
        assert_eq!(offered.messages, offered.frames * u64::from(MESSAGES));
        let proof = outcome.proof();
        assert_eq!((proof.unaccounted, proof.lost_before, proof.lost_after), (0, 0, 0), "{:?}", proof.findings);
        // Without losses what must come at least is what came, exactly.
        let mut counted: BTreeMap<&str, u64> = BTreeMap::new();
        for (code, count) in node.frames.reasons.iter().chain(&node.messages.reasons) {
            counted.insert(code, *count);
        }
        assert_eq!(counted, expected_at_least(offered, tagged, MESSAGES, 0), "tagged {tagged}");
        assert!(offered.replayed > 1000 && offered.forged_frames() > 2000, "{offered:?}");
        assert_eq!(outcome.heard.routes, BTreeMap::from([(5, outcome.heard.copies)]));
    }
}

#[test]
fn latency_counts_from_the_intended_time_and_not_from_the_sending() {
    let outcome = second(true, 0.0, 0.0);
    let latency = &outcome.heard.latency;
    assert_eq!(latency.len(), outcome.heard.copies);
    // Runs are due at 1 + 220 k µs and turns come every 100 µs, so a run waits 19, 39, 59, 79 or 99 µs for its turn.
    let within = |value: u64, expected: u64| value.abs_diff(expected) <= expected / 500;
    assert!(within(latency.min(), 19_000 + DELAY_NS) && within(latency.max(), 99_000 + DELAY_NS), "{latency:?}");
}

#[test]
fn losses_before_and_after_are_found_and_named() {
    let outcome = second(true, 0.05, 0.05);
    let lost = outcome.node.ledgers.socket_overflow;
    assert!(lost > 500 && outcome.node.lost_after > 500, "the test must lose something");
    let proof = outcome.proof();
    assert_eq!((proof.lost_before, proof.before), (lost, Source::SocketOverflow));
    assert_eq!((proof.lost_after, proof.after), (outcome.node.lost_after, Source::FrameGaps));
    assert_eq!(proof.unaccounted, 0, "{:?}", proof.findings);
    for (code, least) in expected_at_least(&outcome.offered, true, MESSAGES, lost) {
        let of = |ledger: &Ledger| ledger.reason(code);
        assert!(of(&outcome.node.ledgers.frames) + of(&outcome.node.ledgers.messages) >= least, "{code}");
    }
}

#[test]
fn a_node_that_hides_a_loss_or_a_copy_is_found_out() {
    let mut outcome = second(true, 0.05, 0.0);
    let lost = std::mem::take(&mut outcome.node.ledgers.socket_overflow);
    assert_eq!((outcome.proof().before, outcome.proof().unaccounted), (Source::Unknown, lost));
    let mut outcome = second(true, 0.0, 0.0);
    outcome.node.ledgers.copies.well -= 1;
    assert!(outcome.proof().unaccounted > 0);
}
