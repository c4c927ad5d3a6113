//! Every path marks the messages that pass `wire`'s checks one by one, bit by bit.

use proptest::prelude::*;
use tachyon_kernels::{Ordinary, Path, ordinary};
use tachyon_wire::{
    Message,
    message::{SYSTEM_PACKET, check},
};
use zerocopy::{FromBytes, little_endian::U32};

/// A good message, then as many of its bits turned as the test asks for: near misses are what a comparison gets wrong.
fn message() -> impl Strategy<Value = [u8; 64]> {
    let good = (0u32..64, 0u32..20, 0u8..4, prop::collection::vec(any::<u8>(), 0..=48), any::<[bool; 2]>());
    let turned = prop::collection::vec((0usize..512, any::<bool>()), 0..3);
    (good, turned).prop_map(|((topic, sender, class, payload, [system, governed]), turned)| {
        let mut bytes = [0; 64];
        let length = payload.len() as u64;
        let flags = 1 | u64::from(system) << 4 | u64::from(governed) << 3;
        let flags = flags | u64::from(class <= 1) << 5 | length << 16 | u64::from(class) << 22;
        bytes[..8].copy_from_slice(&flags.to_le_bytes());
        bytes[8..12].copy_from_slice(&topic.to_le_bytes());
        bytes[12..16].copy_from_slice(&sender.to_le_bytes());
        bytes[16..16 + payload.len()].copy_from_slice(&payload);
        for (bit, in_head) in turned {
            let bit = if in_head { bit % 128 } else { bit };
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        bytes
    })
}

fn like() -> impl Strategy<Value = Ordinary> {
    let senders = prop_oneof![Just((0, u32::MAX)), (0u32..20, 0u32..20), Just((u32::MAX, u32::MAX))];
    (0u32..5, 0u32..40, senders, any::<bool>(), 0u8..=4).prop_map(|(bits, shard, (low, high), system, class_end)| {
        Ordinary {
            shard_mask: (1 << bits) - 1,
            // Now and then a shard that the fabric does not have.
            shard: if shard < 36 { shard % (1 << bits) } else { shard },
            sender_low: low,
            sender_high: high,
            system,
            class_end,
        }
    })
}

/// One check at a time, as `wire` has them.
fn modelled(messages: &[Message], like: &Ordinary) -> u64 {
    let is_ordinary = |message: &Message| {
        let with_topic = Message { topic_id: U32::new(1), ..*message }; // topic 0 is left to the ruleset
        check(&with_topic, false).is_ok()
            && message.inline_payload().is_some()
            && message.topic_id.get() & like.shard_mask == like.shard
            && (like.system || message.flags.get() & SYSTEM_PACKET == 0)
            && (like.sender_low..=like.sender_high).contains(&message.sender_id.get())
            && message.class() < like.class_end
    };
    (0..).zip(messages.iter().take(64)).fold(0, |marks, (bit, message)| marks | u64::from(is_ordinary(message)) << bit)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn all_paths_agree(messages in prop::collection::vec(message(), 0..=70), like in like(), offset in 0usize..64) {
        // Frames start at any offset, so the lines are not aligned.
        let mut bytes = vec![0; offset];
        messages.iter().for_each(|message| bytes.extend_from_slice(message));
        let messages = <[Message]>::ref_from_bytes(&bytes[offset..]).unwrap();
        let expected = modelled(messages, &like);
        for path in Path::all() {
            prop_assert_eq!(ordinary(path, messages, &like), expected, "{:?}", path);
        }
    }
}

#[test]
fn marks_what_is_good() {
    let messages: Vec<Message> = (1..=64).map(|topic| Message::inline(topic * 4, 7, 2, &[9; 48]).unwrap()).collect();
    let like = Ordinary { shard_mask: 3, shard: 0, sender_low: 7, sender_high: 7, system: false, class_end: 3 };
    for path in Path::all() {
        assert_eq!(ordinary(path, &messages, &like), u64::MAX);
        assert_eq!(ordinary(path, &messages, &Ordinary { class_end: 2, ..like }), 0);
        assert_eq!(ordinary(path, &messages[..5], &like), 0b1_1111);
    }
}
