//! Arbitrary bytes as a ruleset image: `verify` must never panic, and whatever it lets through must be safe to judge by.
//!
//! From `dataplane/policy`: `cargo fuzz run image fuzz/corpus/image fuzz/seeds/image` (on stable with RUSTC_BOOTSTRAP=1).
#![no_main]

use libfuzzer_sys::fuzz_target;
use tachyon_policy::compile::seal;
use tachyon_policy::{
    FrameContext, Inputs, Publisher, SenderState, Shards, Tables, TopicState, Verdict, govern, prefetch, set_lease,
    verify,
};
use tachyon_wire::Message;
use tachyon_wire::command::Lease;
use tachyon_wire::image::ImageHeader;
use zerocopy::{FromBytes, FromZeros};

const SHARD_COUNT: u16 = 2;

fuzz_target!(|data: &[u8]| {
    let _ = verify(data, SHARD_COUNT);
    // A fuzzer does not guess checksums and lengths: put right what stands between it and the record checks.
    let mut image = data.to_vec();
    let length = image.len() as u64;
    if let Ok((header, _)) = ImageHeader::mut_from_prefix(&mut image) {
        header.length = length.into();
    }
    seal(&mut image);
    let Ok(image) = verify(image, SHARD_COUNT) else { return };
    let ruleset = image.ruleset();
    for index in 0..ruleset.routes() {
        let (_, targets) = ruleset.route(u32::try_from(index).expect("few")).expect("verified");
        assert!((1..=64).contains(&targets.len()));
    }
    let mut tables = Tables {
        topics: &mut [TopicState::default(); 16],
        senders: &mut [SenderState::default(); 4],
        shards: Shards::new(SHARD_COUNT, 16, &[1, 0]),
        default_share: 32_768,
        path: tachyon_policy::Path::detect(),
    };
    for (turn, tick_ns) in [0, 1_000, 500, u64::MAX].into_iter().enumerate() {
        let inputs = Inputs { tick_ns, ruleset: Ok(ruleset), pressure: u8::try_from(turn).expect("few") };
        set_lease(&inputs, &mut tables, Lease { sender_id: 1.into(), share: 9_999.into() });
        for shard in 0..SHARD_COUNT {
            judge(&inputs, shard, &mut tables);
        }
    }
});

/// A frame of one shard: every topic with a place in the table, and some without.
fn judge(inputs: &Inputs<'_>, shard: u16, tables: &mut Tables<'_>) {
    let publisher = Publisher { principal: 0, sender_low: 0, sender_high: 7, class_cap: 0, system: false };
    let context = FrameContext { publisher: &publisher, authenticated: shard == 0, shard, lane_refs_allowed: true };
    let messages: Vec<Message> = (0..20).map(|slot| message(slot * 2 + u32::from(shard), slot % 6)).collect();
    let mut verdicts = vec![Verdict::default(); messages.len()];
    prefetch(&messages, tables, shard);
    govern(inputs, &context, &messages, tables, &mut verdicts, &mut |_| {});
    for (message, verdict) in messages.iter().zip(&verdicts).filter(|(_, verdict)| verdict.is_accepted()) {
        let rule = inputs.ruleset.expect("usable").topic(message.topic_id.get()).expect("known");
        assert!(rule.flags.get() & 1 == 1 && rule.route.get() == verdict.route());
    }
}

fn message(topic_id: u32, sender_id: u32) -> Message {
    let mut message = Message::new_zeroed();
    message.flags.set(1 | 1 << 5);
    message.topic_id.set(topic_id);
    message.sender_id.set(sender_id);
    message
}
