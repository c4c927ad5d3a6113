//! Bytes that are no frame: frame checks 1 and 2.

use crate::{
    good::{control, data, fields, inline, with_provenance},
    world::{EPOCH, Expect, OPEN, Receiver, SHARD, TAGGED, Vector, message, vector},
};
use tachyon_wire::{
    Reason,
    ack::{AckBody, NackBody},
    build::{self, Body, FrameFields, Seal},
    frame::{ACK_WANTED, PROVENANCE},
};

/// All vectors of this module.
pub(crate) fn vectors() -> Vec<Vector> {
    [lengths(), headers(), counts(), bodies()].into_iter().flatten().collect()
}

fn bad(name: &'static str, about: &'static str, bytes: Vec<u8>) -> Vector {
    vector(name, about, bytes, Expect::Refused(Reason::BadFrame, 2))
}

/// A good frame, changed, and sealed again: only the change is wrong with it.
fn changed(mut bytes: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    change(&mut bytes);
    build::seal(&mut bytes, Seal::Crc);
    bytes
}

fn set(at: usize, value: &[u8]) -> impl FnOnce(&mut Vec<u8>) + use<> {
    let value = value.to_vec();
    move |bytes| bytes[at..at + value.len()].copy_from_slice(&value)
}

fn one() -> Vec<u8> {
    inline(fields(OPEN), 1)
}

fn lengths() -> Vec<Vector> {
    let too_large = |name, about, bytes| vector(name, about, bytes, Expect::Refused(Reason::TooLarge, 1));
    let cut = |length: usize| one()[..length].to_vec();
    let longer = |more: usize| [one(), vec![0; more]].concat();
    vec![
        too_large("too-large", "23 messages where 22 fit.", inline(fields(OPEN), 23)),
        too_large("too-large-by-a-byte", "Size is looked at before all else.", vec![0x5a; 1473]),
        bad("empty", "No bytes at all.", Vec::new()),
        bad("one-byte", "One byte.", cut(1)),
        bad("header-cut", "63 bytes.", cut(63)),
        bad("header-alone", "A data frame cut behind its header.", cut(64)),
        bad("message-cut", "Cut inside the message.", cut(127)),
        bad("byte-behind", "A byte behind the frame.", longer(1)),
        bad("line-behind", "A line behind the frame that len does not know.", longer(64)),
        bad("len-short", "len says less than there is.", changed(longer(64), set(16, &64_u32.to_le_bytes()))),
        bad("len-long", "len says more than there is.", changed(one(), set(16, &128_u32.to_le_bytes()))),
        bad("len-odd", "A length that is no multiple of 64.", changed(longer(32), set(16, &96_u32.to_le_bytes()))),
        bad("len-absurd", "len is 2³² − 1.", changed(one(), set(16, &[0xff; 4]))),
        bad("len-counts-header", "len counts the header too.", changed(one(), set(16, &128_u32.to_le_bytes()))),
        bad("random", "1,472 bytes of noise.", noise(1472)),
    ]
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_u32;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    };
    core::iter::repeat_with(next).take(length).collect()
}

fn headers() -> Vec<Vector> {
    let tagged_with_crc = {
        let mut bytes = inline(fields(TAGGED), 1);
        bytes[20] = 1;
        bytes
    };
    let untagged_with_tag = {
        let mut bytes = one();
        bytes[63] = 1;
        bytes
    };
    let routed = |session_id| inline(FrameFields { route_id: 12, ..fields(session_id) }, 1);
    vec![
        bad("magic", "Another magic.", changed(one(), set(0, b"RTT2"))),
        bad("magic-swapped", "Magic as a big-endian number.", changed(one(), set(0, b"1TTR"))),
        bad("version-0", "Version 0.", changed(one(), set(6, &[0]))),
        bad("version-2", "Version 2.", changed(one(), set(6, &[2]))),
        bad("kind-4", "Kind 4 is reserved for fragments.", changed(one(), set(7, &[4]))),
        bad("kind-255", "No such kind.", changed(one(), set(7, &[255]))),
        bad("flags-unknown", "A flag that is not known.", changed(one(), set(4, &0x20_u16.to_le_bytes()))),
        bad("flags-top-bit", "The highest flag.", changed(one(), set(4, &0x8000_u16.to_le_bytes()))),
        bad("reserved", "The zero field is not.", changed(one(), set(44, &[1, 0, 0, 0]))),
        bad("frame-id-0", "frame_id is 0.", changed(one(), set(12, &[0; 4]))),
        bad("crc-beside-tag", "AUTHENTICATED, and crc32c is not zero.", tagged_with_crc),
        bad("tag-without-flag", "Not AUTHENTICATED, and tag is not zero.", untagged_with_tag),
        bad("route-on-ingress", "A publisher sets route_id.", routed(TAGGED)),
        bad("route-unknown-session", "Nobody opened this session, so route_id must be 0.", routed(0x0009_0009)),
    ]
}

fn counts() -> Vec<Vector> {
    let jumbo = |vector: Vector| vector.with(|vector| vector.frame_bytes_max = 65_472);
    let count = |count: u16| set(30, &count.to_le_bytes());
    let lines_257 = changed(inline(fields(OPEN), 256), |bytes| {
        bytes.resize(64 + 257 * 64, 0);
        bytes[16..20].copy_from_slice(&(257_u32 * 64).to_le_bytes());
        bytes[30..32].copy_from_slice(&257_u16.to_le_bytes());
    });
    let no_identities = data(FrameFields { flags: PROVENANCE, ..fields(OPEN) }, |writer| {
        writer.push(&message(0)).expect("room");
    });
    let no_identities = changed(no_identities, |bytes| {
        bytes.truncate(128);
        bytes[16..20].copy_from_slice(&64_u32.to_le_bytes());
    });
    vec![
        bad("count-0", "A data frame without messages.", changed(one(), count(0))),
        bad("count-above-len", "More messages than there are lines.", changed(one(), count(2))),
        bad("count-absurd", "65,535 messages.", changed(one(), count(u16::MAX))),
        jumbo(bad("count-257", "257 messages, all there.", lines_257)),
        bad("provenance-missing", "PROVENANCE, and no line for it.", no_identities),
        bad(
            "provenance-padding",
            "Behind the identities something is not zero.",
            changed(with_provenance(fields(OPEN), 1), |bytes| *bytes.last_mut().expect("bytes") = 1),
        ),
    ]
}

fn bodies() -> Vec<Vector> {
    let ack = AckBody::new(0x0001_0077, EPOCH, SHARD, 0, 10);
    let nack = NackBody::new(0x0001_0077, EPOCH, SHARD, 42, Reason::Throttled);
    let ack = || control(&fields(OPEN), Body::Ack(&ack));
    let nack = || control(&fields(OPEN), Body::Nack(&nack));
    let beat = || control(&fields(OPEN), Body::Heartbeat);
    let flags = |flags: u16| set(4, &flags.to_le_bytes());
    let shorter = |bytes: &mut Vec<u8>| {
        bytes.truncate(128);
        bytes[16..20].copy_from_slice(&64_u32.to_le_bytes());
    };
    let longer = |bytes: &mut Vec<u8>| {
        let len = u32::try_from(bytes.len()).expect("short");
        bytes[16..20].copy_from_slice(&len.to_le_bytes());
        bytes.resize(bytes.len() + 64, 0);
    };
    vec![
        bad("ack-class", "There is no class 3.", changed(ack(), set(74, &[3]))),
        bad("ack-zero", "Byte 11 of the body is not zero.", changed(ack(), set(75, &[1]))),
        bad("ack-padding", "Behind the map something is not zero.", changed(ack(), set(127, &[1]))),
        bad("ack-shard", "The body speaks of another shard than the header.", changed(ack(), set(72, &[4]))),
        bad("ack-count", "An ack with a count.", changed(ack(), set(30, &[1]))),
        bad("ack-short", "An ack of one line.", changed(ack(), shorter)),
        bad("ack-long", "An ack of three lines.", changed(ack(), longer)),
        bad(
            "ack-route",
            "An ack with a route_id; nobody takes it, not even a subscriber.",
            changed(ack(), set(8, &[1])),
        )
        .with(|vector| vector.receiver = Receiver::Subscriber),
        bad("ack-wants-ack", "Acks are not acked.", changed(ack(), flags(ACK_WANTED))),
        bad("nack-frame-0", "A nack of frame 0.", changed(nack(), set(76, &[0; 4]))),
        bad("nack-reason-0", "A nack without a reason.", changed(nack(), set(74, &[0]))),
        bad("nack-zero", "Byte 11 of the body is not zero.", changed(nack(), set(75, &[1]))),
        bad("nack-padding", "Behind the map something is not zero.", changed(nack(), set(112, &[1]))),
        bad("nack-shard", "The body speaks of another shard than the header.", changed(nack(), set(72, &[4]))),
        bad("heartbeat-body", "A heartbeat with a line.", changed(beat(), longer)),
        bad("heartbeat-provenance", "PROVENANCE without messages.", changed(beat(), flags(PROVENANCE))),
    ]
}
