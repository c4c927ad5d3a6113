//! What `govern` costs: ns per message, uniform random topics and senders, 22 messages a frame, 256 sessions, prefetched one
//! frame ahead. `cargo run --release -p tachyon-policy --example govern_cost [topics [senders]]`.
#![expect(clippy::print_stdout, reason = "a program whose result is what it prints")]

use std::{env, hint::black_box, time::Instant};
use tachyon_policy::compile::{Durability, Quota, RulesetSource, SenderSource, TopicSource, WhenFull, compile};
use tachyon_policy::{
    FrameContext, Inputs, Publisher, SenderState, Shards, Tables, TopicState, Verdict, govern, prefetch, verify,
};
use tachyon_wire::{Message, frame::SHARDS_DEFAULT};
use zerocopy::FromZeros;

/// Frames of a full datagram at MTU 1500.
const MESSAGES: usize = 22;
/// 1.4 MB of messages: they stay in L2, as frames that a driver just wrote would be in cache.
const FRAMES: usize = 1_000;
const SESSIONS: u64 = 256;
/// The best of these is printed: what the code costs when nothing else disturbs it.
const ROUNDS: usize = 400;

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Every topic and sender has a limit that this load does not reach, so each message passes every check.
fn source(topics: u32, senders: u32) -> RulesetSource {
    let quota = Quota::new(100_000_000, 1_000_000_000, 1_000_000).expect("within range");
    let topic = |topic_id| TopicSource {
        topic_id,
        quota,
        tag_required: true,
        quarantine: false,
        durability: Durability::Volatile,
        when_full: WhenFull::default(),
        publishers: topic_id % 256,
        subscribers: 256 + topic_id % 16,
    };
    // 256 rights groups: every session may publish on each, and one more principal makes each set different.
    let mut sets: Vec<Vec<u32>> = (0..256).map(|group| (0..256).chain([256 + group]).collect()).collect();
    sets.extend((0..16).map(|slot| vec![slot]));
    RulesetSource {
        version: 1,
        shard_count: SHARDS_DEFAULT,
        principals: 512,
        sets,
        topics: (1..topics).map(topic).collect(),
        senders: (0..senders).map(|sender_id| SenderSource { sender_id, quota }).collect(),
    }
}

struct Frame {
    publisher: Publisher,
    shard: u16,
    messages: Vec<Message>,
}

fn frame(state: &mut u64, topics: u32, senders: u32) -> Frame {
    let session = random(state) % SESSIONS;
    let shard = u16::try_from(random(state) % u64::from(SHARDS_DEFAULT)).expect("below the shard count");
    let message = |_| {
        let mut message = Message::new_zeroed();
        message.flags.set(1 | 1 << 5 | 48 << 16);
        let slots = u64::from(topics) / u64::from(SHARDS_DEFAULT);
        let slot = 1 + random(state) % (slots - 1);
        message.topic_id.set(u32::try_from(slot).expect("a slot") * u32::from(SHARDS_DEFAULT) + u32::from(shard));
        message.sender_id.set(u32::try_from(random(state) % u64::from(senders)).expect("a sender"));
        message
    };
    let messages = (0..MESSAGES).map(message).collect();
    let principal = u32::try_from(session).expect("a session");
    let publisher = Publisher { principal, sender_low: 0, sender_high: senders - 1, class_cap: 0, system: false };
    Frame { publisher, shard, messages }
}

fn main() {
    let mut arguments = env::args().skip(1).map(|text| text.parse::<u32>().expect("a number"));
    let topics = arguments.next().unwrap_or(65_536);
    let senders = arguments.next().unwrap_or(topics);
    let image = verify(compile(&source(topics, senders)).expect("compiles"), SHARDS_DEFAULT).expect("verifies");
    let shards: Vec<u16> = (0..SHARDS_DEFAULT).collect();
    let shards = Shards::new(SHARDS_DEFAULT, topics, &shards);
    let mut tables = Tables {
        topics: &mut vec![TopicState::default(); shards.topic_states(SHARDS_DEFAULT.into())],
        senders: &mut vec![SenderState::default(); senders as usize],
        shards,
        default_share: 65_536,
        path: tachyon_policy::Path::detect(),
    };
    let mut state = 0x7ac4_0003;
    let frames: Vec<Frame> = (0..FRAMES).map(|_| frame(&mut state, topics, senders)).collect();
    let mut tick_ns = 0;
    let mut best = [f64::MAX; 2];
    for (ahead, best) in [true, false].into_iter().zip(&mut best) {
        for _ in 0..ROUNDS {
            tick_ns += 1_000_000;
            let start = Instant::now();
            black_box(round(&frames, &image.ruleset(), tick_ns, &mut tables, ahead));
            *best = best.min(start.elapsed().as_nanos() as f64 / (FRAMES * MESSAGES) as f64);
        }
    }
    println!("{topics} topics, {senders} senders: {:.2} ns per message, {:.2} without prefetch", best[0], best[1]);
}

/// Judges every frame once. Returns how many messages were refused, which is none.
fn round(
    frames: &[Frame],
    ruleset: &tachyon_policy::Ruleset<'_>,
    tick_ns: u64,
    tables: &mut Tables<'_>,
    ahead: bool,
) -> usize {
    let inputs = Inputs { tick_ns, ruleset: Ok(*ruleset), pressure: 0 };
    let mut verdicts = [Verdict::default(); MESSAGES];
    let mut refused = 0;
    for (index, frame) in frames.iter().enumerate() {
        if let Some(next) = frames.get(index + 1).filter(|_| ahead) {
            prefetch(&next.messages, tables, next.shard);
        }
        let Frame { publisher, shard, messages } = frame;
        let context = FrameContext { publisher, authenticated: true, shard: *shard, lane_refs_allowed: false };
        govern(&inputs, &context, messages, tables, &mut verdicts, &mut |_| {});
        refused += verdicts.iter().filter(|verdict| !verdict.is_accepted()).count();
    }
    assert_eq!(refused, 0);
    refused
}
