//! Admitted frames with messages that are refused before any rule is asked.

use crate::{
    good::{data, fields},
    world::{Expect, OPEN, SHARD, TAGGED, Vector, message, vector},
};
use tachyon_wire::{
    Message, Reason,
    build::{self, Seal},
    message::{
        ArenaReference, CLASS_SHIFT, INLINE_LENGTH_SHIFT, INLINE_PAYLOAD, PRIORITY_HIGH, REF_ARENA, REF_SHM,
        SYSTEM_PACKET, ShmReference,
    },
};
use zerocopy::IntoBytes;

const BAD_PACKET: Option<(Reason, u8)> = Some((Reason::BadPacket, 1));
const FORBIDDEN: Option<(Reason, u8)> = Some((Reason::ModeForbidden, 2));
const TOPIC_SHARD: Option<(Reason, u8)> = Some((Reason::TopicShard, 3));
const SYSTEM: Option<(Reason, u8)> = Some((Reason::SystemDenied, 4));
const SENDER: Option<(Reason, u8)> = Some((Reason::Sender, 5));

/// Topic and sender that pass.
const TOPIC: u32 = SHARD as u32 + 16;
const FROM: u32 = 150;
/// Class P3, the one without PRIORITY_HIGH that is easiest to write.
const P3: u64 = 3 << CLASS_SHIFT;

/// All vectors of this module. Every frame begins and ends with a good message: what is refused ends alone.
pub(crate) fn vectors() -> Vec<Vector> {
    [packets(), modes(), identities()].into_iter().flatten().collect()
}

fn frame(name: &'static str, about: &'static str, list: &[(Message, Option<(Reason, u8)>)]) -> Vector {
    let mut all = vec![(message(0), None)];
    all.extend_from_slice(list);
    all.push((message(1), None));
    let mut bytes = data(fields(OPEN), |writer| all.iter().for_each(|_| writer.push(&message(2)).expect("room")));
    for (index, (message, _)) in all.iter().enumerate() {
        bytes[64 + index * 64..][..64].copy_from_slice(message.as_bytes());
    }
    build::seal(&mut bytes, Seal::Crc);
    vector(name, about, bytes, Expect::Admitted(all.iter().map(|(_, verdict)| *verdict).collect()))
}

fn raw(flags: u64, data: [u8; 48]) -> Message {
    Message { flags: flags.into(), topic_id: TOPIC.into(), sender_id: FROM.into(), data }
}

fn arena(arena_id: u32) -> ArenaReference {
    ArenaReference {
        arena_id: arena_id.into(),
        offset: 4096.into(),
        length: 5.into(),
        checksum: 7.into(),
        reserved: [0; 24],
    }
}

fn shm(segment_id: u64) -> ShmReference {
    ShmReference {
        segment_id: segment_id.into(),
        offset: 4096.into(),
        length: 5.into(),
        checksum: 7.into(),
        reserved: [0; 20],
    }
}

fn packets() -> Vec<Vector> {
    let zeros = [0; 48];
    let length = |length: u64| length << INLINE_LENGTH_SHIFT;
    let mut tail = zeros;
    tail[3] = 1;
    let mut last = zeros;
    last[47] = 1;
    let flags = [
        raw(0, zeros),
        raw(P3, zeros),
        raw(P3 | INLINE_PAYLOAD | REF_SHM, zeros),
        raw(P3 | INLINE_PAYLOAD | REF_ARENA, zeros),
        raw(P3 | INLINE_PAYLOAD | 1 << 6, zeros),
        raw(P3 | INLINE_PAYLOAD | 1 << 15, zeros),
        raw(P3 | INLINE_PAYLOAD | 1 << 24, zeros),
        raw(P3 | INLINE_PAYLOAD | 1 << 63, zeros),
        raw(P3 | INLINE_PAYLOAD | PRIORITY_HIGH, zeros),
        raw(INLINE_PAYLOAD, zeros),
        raw(u64::MAX, [0xff; 48]),
        Message { topic_id: 0.into(), ..message(3) },
    ];
    let inline = [
        raw(P3 | INLINE_PAYLOAD | length(49), zeros),
        raw(P3 | INLINE_PAYLOAD | length(63), zeros),
        raw(P3 | INLINE_PAYLOAD | length(3), tail),
        raw(P3 | INLINE_PAYLOAD, last),
        raw(P3 | INLINE_PAYLOAD | length(47), last),
    ];
    let place = |change: fn(&mut ArenaReference)| {
        let mut place = arena(9);
        change(&mut place);
        raw(P3 | REF_ARENA, zerocopy::transmute!(place))
    };
    let references = [
        raw(P3 | REF_ARENA | length(1), zerocopy::transmute!(arena(9))),
        place(|place| place.length = 0.into()),
        place(|place| place.checksum = (1 << 32).into()),
        place(|place| place.reserved[0] = 1),
        place(|place| place.reserved[23] = 1),
        place(|place| place.offset = u64::MAX.into()),
        raw(P3 | REF_SHM, zerocopy::transmute!(ShmReference { length: 0.into(), ..shm(9) })),
        raw(P3 | REF_SHM, zerocopy::transmute!(ShmReference { checksum: u64::MAX.into(), ..shm(9) })),
        raw(P3 | REF_SHM, [0xff; 48]),
        raw(P3 | REF_SHM | PRIORITY_HIGH, zerocopy::transmute!(shm(9))),
        raw(P3 | REF_SHM | 1 << 6, zerocopy::transmute!(shm(9))),
        Message { topic_id: 0.into(), ..raw(P3 | REF_SHM, zerocopy::transmute!(shm(9))) },
    ];
    let list = |messages: &[Message]| messages.iter().map(|message| (*message, BAD_PACKET)).collect::<Vec<_>>();
    vec![
        frame(
            "message-flags",
            "No mode, two modes, unknown bits, PRIORITY_HIGH that belies the class, topic 0.",
            &list(&flags),
        ),
        frame("message-inline", "Lengths above 48; data behind the length that is not zero.", &list(&inline)),
        frame("message-reference", "References that break the layout.", &list(&references)),
    ]
}

fn modes() -> Vec<Vector> {
    let arena = Message::arena(TOPIC, FROM, 3, arena(9)).expect("good");
    let shm = Message::shm(TOPIC, FROM, 0, shm(u64::MAX)).expect("good");
    vec![
        frame(
            "message-mode-forbidden",
            "Another arena, and shared memory, on a network lane.",
            &[(arena, FORBIDDEN), (shm, FORBIDDEN)],
        ),
        frame("message-mode-allowed", "The same on a shared-memory lane.", &[(arena, None), (shm, None)])
            .with(|vector| vector.references = true),
    ]
}

fn identities() -> Vec<Vector> {
    let by = |topic, sender| Message::inline(topic, sender, 3, b"x").expect("good");
    let system = by(TOPIC, FROM).with_marks(SYSTEM_PACKET);
    let all = [
        (Message { topic_id: 0.into(), ..system }, BAD_PACKET),
        (Message { topic_id: 20.into(), sender_id: 9.into(), ..system }, TOPIC_SHARD),
        (Message { sender_id: 9.into(), ..system }, SYSTEM),
        (by(TOPIC, 9), SENDER),
        (by(TOPIC, FROM), None),
    ];
    let tagged = data(fields(TAGGED), |writer| writer.push(&by(TOPIC + 1, FROM)).expect("room"));
    vec![
        frame(
            "message-topic-shard",
            "Topics of other shards.",
            &[(by(4, FROM), TOPIC_SHARD), (by(16, FROM), TOPIC_SHARD)],
        ),
        frame("message-system-denied", "SYSTEM_PACKET without the right.", &[(system, SYSTEM)]),
        frame(
            "message-sender",
            "Below and above the session's range, and both ends of it.",
            &[
                (by(TOPIC, 99), SENDER),
                (by(TOPIC, 200), SENDER),
                (by(TOPIC, 0), SENDER),
                (by(TOPIC, 100), None),
                (by(TOPIC, 199), None),
            ],
        ),
        frame(
            "message-order",
            "Each message is wrong in what its check and all later ones look at: the first one counts.",
            &all,
        ),
        vector(
            "message-topic-shard-tag",
            "A topic of another shard, under a tag.",
            tagged,
            Expect::Admitted(vec![TOPIC_SHARD]),
        ),
    ]
}
