//! Frames that are admitted with every message passing, of every kind and shape.

use crate::world::{
    CHAINED, EPOCH, Expect, NEWEST, NEXT, OPEN, Receiver, SHARD, TAGGED, Vector, master, message, passes, vector,
};
use tachyon_wire::{
    Message, Reason,
    ack::{AckBody, CLASS_ADMITTED, CLASS_DURABLE, NackBody},
    build::{self, Body, FrameFields, FrameWriter, Seal},
    frame::{ACK_WANTED, DURABLE, PROVENANCE, Provenance, TRACE},
    message::{GOVERNANCE_REQUIRED, SYSTEM_PACKET},
    tag,
};

/// Largest frame that a UDP datagram carries, rounded down to lines.
const FRAME_MAX: u32 = 65_472;

/// The header fields of a frame that the assumed receiver has not settled.
pub(crate) fn fields(session_id: u32) -> FrameFields {
    FrameFields {
        session_id,
        shard: SHARD,
        frame_id: NEXT,
        epoch: EPOCH,
        sent_ns: 1_767_225_600_000_000_000, // 2026-01-01T00:00:00Z
        ..FrameFields::default()
    }
}

/// Finishes a frame with what its session needs: a tag, or a crc in [`OPEN`].
pub(crate) fn data(fields: FrameFields, fill: impl FnOnce(&mut FrameWriter<'_>)) -> Vec<u8> {
    let key = tag::derive(&master(fields.session_id), fields.session_id, fields.epoch);
    let mut buffer = vec![0xaa; FRAME_MAX as usize];
    let mut writer = FrameWriter::new(&mut buffer, fields);
    fill(&mut writer);
    let used = writer.finish(if fields.session_id == OPEN { Seal::Crc } else { Seal::Tag(&key) });
    buffer.truncate(used);
    buffer
}

/// A frame of `count` good messages.
pub(crate) fn inline(fields: FrameFields, count: u32) -> Vec<u8> {
    data(fields, |writer| (0..count).for_each(|index| writer.push(&message(index)).expect("room")))
}

/// A frame without messages, sealed like [`data`].
pub(crate) fn control(fields: &FrameFields, body: Body<'_>) -> Vec<u8> {
    let key = tag::derive(&master(fields.session_id), fields.session_id, fields.epoch);
    let seal = if fields.session_id == OPEN { Seal::Crc } else { Seal::Tag(&key) };
    let mut buffer = [0; 192];
    let used = build::control(&mut buffer, fields, body, seal).expect("room");
    buffer[..used].to_vec()
}

/// The identity that the tests give to message `index`.
pub(crate) fn identity(index: u16) -> Provenance {
    Provenance {
        session_id: 0x0002_0001.into(),
        epoch: 9.into(),
        frame_id: (77 + u32::from(index)).into(),
        shard: SHARD.into(),
        index: index.into(),
    }
}

/// A frame whose messages have identities.
pub(crate) fn with_provenance(fields: FrameFields, count: u16) -> Vec<u8> {
    data(FrameFields { flags: fields.flags | PROVENANCE, ..fields }, |writer| {
        for index in 0..count {
            writer.push(&message(index.into())).expect("room");
            writer.identify(&identity(index));
        }
    })
}

/// A payload that is no run of equal bytes.
pub(crate) fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 7 + 3).to_le_bytes()[0]).collect()
}

/// All vectors of this module.
pub(crate) fn vectors() -> Vec<Vector> {
    [examples(), sizes(), contents(), payloads(), windows(), lanes(), controls()].into_iter().flatten().collect()
}

/// The two frames that the document works through, byte by byte.
fn examples() -> Vec<Vector> {
    let hello = |session_id| {
        data(fields(session_id), |writer| {
            let message = Message::inline(u32::from(SHARD) + 16, 150, 1, b"hello, tachyon").expect("good");
            writer.push(&message).expect("room");
        })
    };
    vec![
        vector("example-crc", "The document's example under a crc.", hello(OPEN), passes(1)),
        vector("example-tag", "The same message under a tag.", hello(TAGGED), passes(1)),
    ]
}

fn sizes() -> Vec<Vector> {
    let jumbo = |vector: Vector| vector.with(|vector| vector.frame_bytes_max = FRAME_MAX);
    vec![
        vector("data-1-crc", "One INLINE message under a crc.", inline(fields(OPEN), 1), passes(1)),
        vector("data-1-tag", "One INLINE message under a tag.", inline(fields(TAGGED), 1), passes(1)),
        vector("data-22-crc", "22 messages: what MTU 1500 over IPv4 holds.", inline(fields(OPEN), 22), passes(22)),
        vector("data-22-tag", "22 messages under a tag.", inline(fields(TAGGED), 22), passes(22)),
        vector("data-21-ipv6", "21 messages: what MTU 1500 over IPv6 holds.", inline(fields(TAGGED), 21), passes(21))
            .with(|vector| {
                vector.frame_bytes_max = 1452;
                vector.source = "[2001:db8::10]:40000";
            }),
        jumbo(vector("data-139-tag", "139 messages: what MTU 9000 holds.", inline(fields(TAGGED), 139), passes(139))),
        jumbo(vector("data-256-crc", "256 messages, the most there can be.", inline(fields(OPEN), 256), passes(256))),
        jumbo(vector("data-256-tag", "256 messages under a tag.", inline(fields(TAGGED), 256), passes(256))),
        vector("data-exact-maximum", "A frame of exactly the lane's maximum.", inline(fields(TAGGED), 3), passes(3))
            .with(|vector| vector.frame_bytes_max = 256),
    ]
}

fn contents() -> Vec<Vector> {
    let topic = u32::from(SHARD) + 16;
    let inlines = |list: &[(u8, &[u8], u64)]| {
        data(fields(TAGGED), |writer| {
            for (class, payload, marks) in list {
                let message = Message::inline(topic, 100, *class, payload).expect("good").with_marks(*marks);
                writer.push(&message).expect("room");
            }
        })
    };
    let payload = bytes(48);
    let lengths = [0, 1, 7, 8, 9, 31, 32, 33, 47, 48].map(|length| (2, &payload[..length], 0));
    let classes = [0, 1, 2, 3].map(|class| (class, &payload[..4], 0));
    let ids = data(fields(TAGGED), |writer| {
        for (topic, sender) in [(u32::from(SHARD), 100), (0xffff_fff0 + u32::from(SHARD), 199)] {
            writer.push(&Message::inline(topic, sender, 3, b"edge").expect("good")).expect("room");
        }
    });
    let all_flags = FrameFields { flags: DURABLE | ACK_WANTED | TRACE, ..fields(TAGGED) };
    vec![
        vector(
            "data-inline-lengths",
            "Inline lengths 0, 1, 7, 8, 9, 31, 32, 33, 47, 48.",
            inlines(&lengths),
            passes(10),
        ),
        vector("data-classes", "Classes P0 to P3; PRIORITY_HIGH on the first two.", inlines(&classes), passes(4)),
        vector(
            "data-governance-required",
            "GOVERNANCE_REQUIRED changes nothing.",
            inlines(&[(3, b"a", GOVERNANCE_REQUIRED), (3, b"a", 0)]),
            passes(2),
        ),
        vector(
            "data-system",
            "SYSTEM_PACKET in a session with that right.",
            inlines(&[(0, b"s", SYSTEM_PACKET)]),
            passes(1),
        )
        .with_sessions(|session| session.system = true),
        vector("data-id-edges", "Least and greatest topic_id and sender_id.", ids, passes(2)),
        vector("data-all-flags", "DURABLE, ACK_WANTED and TRACE.", inline(all_flags, 2), passes(2)),
        vector(
            "data-provenance-1",
            "One identity, three quarters of a line of padding.",
            with_provenance(fields(TAGGED), 1),
            passes(1),
        ),
        vector("data-provenance-5", "Five identities in two lines.", with_provenance(fields(OPEN), 5), passes(5)),
        vector(
            "data-provenance-17",
            "17 messages with identities fill 1,472 bytes.",
            with_provenance(fields(TAGGED), 17),
            passes(17),
        ),
    ]
}

fn payloads() -> Vec<Vector> {
    let topic = u32::from(SHARD) + 32;
    let carry = |fields: FrameFields, lengths: &[usize]| {
        data(fields, |writer| {
            for length in lengths {
                if *length == 0 {
                    writer.push(&message(1)).expect("room");
                } else {
                    writer.push_with_payload(topic, 120, 1, 0, &bytes(*length)).expect("room");
                }
            }
        })
    };
    let with_identities = FrameFields { flags: PROVENANCE, ..fields(TAGGED) };
    let corrupt = data(fields(OPEN), |writer| writer.push_with_payload(topic, 120, 1, 0, b"as sent").expect("room"));
    let mut corrupt = corrupt;
    corrupt[128] ^= 1; // the payload's first byte; the frame is sealed again, so only the reader can tell
    build::seal(&mut corrupt, Seal::Crc);
    vec![
        vector("payload-1-byte", "One payload of one byte: a line, padded.", carry(fields(OPEN), &[1]), passes(1)),
        vector("payload-64-bytes", "A payload of exactly one line.", carry(fields(TAGGED), &[64]), passes(1)),
        vector(
            "payload-mixed",
            "INLINE messages between payloads.",
            carry(fields(TAGGED), &[0, 64, 0, 65, 1]),
            passes(5),
        ),
        vector(
            "payload-1344",
            "The largest payload of one message at 1,472 bytes.",
            carry(fields(OPEN), &[1344]),
            passes(1),
        ),
        vector("payload-behind-provenance", "Payload behind identities.", carry(with_identities, &[0, 70]), passes(2)),
        vector(
            "payload-checksum-wrong",
            "The node does not look at checksums: it admits this, and the reader discards it.",
            corrupt,
            passes(1),
        ),
    ]
}

fn windows() -> Vec<Vector> {
    let at = |session_id, frame_id, epoch| inline(FrameFields { frame_id, epoch, ..fields(session_id) }, 1);
    let fresh = |vector: Vector| {
        vector.with_sessions(|session| {
            session.window.newest = 0;
            session.window.missing = Vec::new();
        })
    };
    vec![
        vector("window-late", "Late, inside the window, not settled.", at(TAGGED, NEWEST - 3, EPOCH), passes(1)),
        vector("window-oldest", "The oldest that the window still holds.", at(TAGGED, NEWEST - 1023, EPOCH), passes(1)),
        vector("window-jump-tagged", "Any jump ahead under a tag.", at(TAGGED, 1 << 31, EPOCH), passes(1)),
        vector("window-jump-untagged", "The longest jump without one.", at(OPEN, NEWEST + 65_536, EPOCH), passes(1)),
        fresh(vector("window-first", "The first frame of all.", at(TAGGED, 1, EPOCH), passes(1))),
        fresh(vector("window-first-not-1", "A first id may exceed 1.", at(TAGGED, 900_000, EPOCH), passes(1))),
        fresh(vector("window-first-untagged", "Without a tag, up to 65,536.", at(OPEN, 65_536, EPOCH), passes(1))),
        vector("epoch-next", "The sender moved on.", at(TAGGED, 1, EPOCH + 1), passes(1)),
        vector("epoch-far", "Under a tag any newer epoch is followed.", at(TAGGED, 40, 7 << 16), passes(1)),
        vector("epoch-next-untagged", "Without a tag only the next one.", at(OPEN, 1, EPOCH + 1), passes(1)),
    ]
}

fn lanes() -> Vec<Vector> {
    let routed = FrameFields { route_id: 12, ..fields(CHAINED) };
    let pinned = |name, about, pinned: &'static str| {
        vector(name, about, inline(fields(TAGGED), 1), passes(1)).with_sessions(|session| session.pinned = pinned)
    };
    let tag_where_none_is_needed = vector(
        "tag-in-open-session",
        "A session that needs no tag takes one, and verifies it.",
        inline(fields(TAGGED), 1),
        passes(1),
    );
    vec![
        vector("route-from-node", "In a session that a node opened route_id is ignored.", inline(routed, 2), passes(2)),
        vector("egress-data", "What a subscriber gets: the route that was taken.", inline(routed, 2), passes(2))
            .with(|vector| vector.receiver = Receiver::Subscriber),
        vector(
            "egress-durable",
            "Egress of a durable topic always carries identities.",
            with_provenance(FrameFields { flags: DURABLE, ..routed }, 3),
            passes(3),
        )
        .with(|vector| vector.receiver = Receiver::Subscriber),
        pinned("pinned-address", "From its pinned address, any port.", "192.0.2.10"),
        pinned("pinned-address-and-port", "From its pinned address and port.", "192.0.2.10:40000"),
        tag_where_none_is_needed.with_sessions(|session| session.tag_required = false),
    ]
}

fn controls() -> Vec<Vector> {
    let mut full = AckBody::new(0x0001_0077, EPOCH, SHARD, CLASS_DURABLE, 300);
    [302, 303, 400, 556].into_iter().for_each(|id| full.settle(id));
    [45, 299, 300, 303, 556].into_iter().for_each(|id| full.refuse(id));
    let mut nack = NackBody::new(0x0001_0077, EPOCH, SHARD, 42, Reason::Throttled);
    [0, 7, 8, 255].into_iter().for_each(|index| nack.accept(index));
    let nothing = AckBody::new(0x0001_0077, EPOCH, SHARD, CLASS_ADMITTED, 0);
    let admitted = || Expect::Admitted(Vec::new());
    let wanted = FrameFields { flags: ACK_WANTED, ..fields(TAGGED) };
    vec![
        vector("ack-empty", "Nothing is settled yet.", control(&fields(OPEN), Body::Ack(&nothing)), admitted()),
        vector(
            "ack-maps",
            "All three maps, both ends of each.",
            control(&fields(TAGGED), Body::Ack(&full)),
            admitted(),
        ),
        vector(
            "nack",
            "Four messages accepted, the others throttled.",
            control(&fields(TAGGED), Body::Nack(&nack)),
            admitted(),
        ),
        vector("heartbeat-crc", "No body.", control(&fields(OPEN), Body::Heartbeat), admitted()),
        vector("heartbeat-tag", "One that wants an ack.", control(&wanted, Body::Heartbeat), admitted()),
    ]
}
