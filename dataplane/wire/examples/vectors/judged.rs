//! Frames that keep the layout and are refused by what the receiver knows: frame checks 3 to 7.

use crate::{
    good::{bytes, data, fields, inline},
    world::{EPOCH, Expect, NEWEST, OPEN, SHARD, TAGGED, Vector, master, message, vector},
};
use tachyon_wire::{
    Reason,
    build::{self, FrameFields, Seal},
    tag,
};

/// All vectors of this module.
pub(crate) fn vectors() -> Vec<Vector> {
    [senders(), seals(), windows(), payloads()].into_iter().flatten().collect()
}

fn refused(reason: Reason, check: u8) -> impl Fn(&'static str, &'static str, Vec<u8>) -> Vector {
    move |name, about, bytes| vector(name, about, bytes, Expect::Refused(reason, check))
}

fn senders() -> Vec<Vector> {
    let shard = refused(Reason::WrongShard, 3);
    let nobody = refused(Reason::NoSession, 4);
    let of = |shard| inline(FrameFields { shard, ..fields(TAGGED) }, 1);
    let pinned = |vector: Vector, to: &'static str| vector.with_sessions(|session| session.pinned = to);
    vec![
        shard("shard-of-another-port", "Shard 4 came to the port of shard 3.", of(4)),
        shard("shard-above-count", "Shard 16 of 16.", of(16)),
        shard("shard-absurd", "Shard 65,535.", of(u16::MAX)),
        nobody("session-unknown", "Nobody opened this session.", inline(fields(0x0009_0009), 1)),
        nobody("session-0", "Session 0 is never opened.", inline(fields(0), 1)),
        pinned(nobody("pinned-elsewhere", "Pinned to another address.", inline(fields(TAGGED), 1)), "192.0.2.11"),
        pinned(nobody("pinned-other-port", "Pinned to another port.", inline(fields(TAGGED), 1)), "192.0.2.10:40001"),
    ]
}

fn seals() -> Vec<Vector> {
    let bad_tag = refused(Reason::BadTag, 5);
    let resealed = |session_id: u32, key_session: u32, epoch: u32| {
        let key = tag::derive(&master(key_session), session_id, epoch);
        let mut bytes = inline(fields(session_id), 1);
        build::seal(&mut bytes, Seal::Tag(&key));
        bytes
    };
    let flipped = |session_id: u32, at: usize| {
        let mut bytes = inline(fields(session_id), 1);
        bytes[at] ^= 0x10;
        bytes
    };
    let mut whole_crc = inline(fields(OPEN), 1);
    let wrong = tachyon_wire::crc::of(&whole_crc); // of the frame with its own crc still in it
    whole_crc[20..24].copy_from_slice(&wrong.to_le_bytes());
    let mut untagged = inline(fields(TAGGED), 1);
    build::seal(&mut untagged, Seal::Crc);
    vec![
        bad_tag("tag-forged", "One bit of the tag.", flipped(TAGGED, 50)),
        bad_tag("tag-message-changed", "One bit of a message.", flipped(TAGGED, 90)),
        bad_tag("tag-header-changed", "One bit of sent_ns.", flipped(TAGGED, 33)),
        bad_tag("tag-other-master", "Another session's master key.", resealed(TAGGED, OPEN, EPOCH)),
        bad_tag("tag-other-epoch", "The key of another epoch.", resealed(TAGGED, TAGGED, EPOCH + 1)),
        bad_tag("tag-in-open-session-bad", "A tag that is present is always verified.", resealed(OPEN, TAGGED, EPOCH)),
        refused(Reason::BadCrc, 5)("crc-wrong", "One bit of a message.", flipped(OPEN, 90)),
        refused(Reason::BadCrc, 5)("crc-field-wrong", "One bit of the crc.", flipped(OPEN, 22)),
        refused(Reason::BadCrc, 5)("crc-over-itself", "The crc field was not taken as zero.", whole_crc),
        refused(Reason::TagRequired, 5)("tag-required", "A good crc where a tag is needed.", untagged),
    ]
}

fn windows() -> Vec<Vector> {
    let at = |session_id, frame_id, epoch| inline(FrameFields { frame_id, epoch, ..fields(session_id) }, 1);
    let (stale, replay) = (refused(Reason::Stale, 6), refused(Reason::Replay, 6));
    vec![
        stale("stale-behind-window", "1,024 behind the newest.", at(TAGGED, NEWEST - 1024, EPOCH)),
        stale("stale-id-1", "The first frame of a long epoch, again.", at(TAGGED, 1, EPOCH)),
        stale("stale-epoch", "An epoch that is over, under its own key.", at(TAGGED, NEWEST + 1, EPOCH - 1)),
        stale("stale-epoch-untagged", "An epoch that is over.", at(OPEN, NEWEST + 1, EPOCH - 1)),
        stale("stale-above-2-31", "An id above 2³¹.", at(TAGGED, (1 << 31) + 1, EPOCH)),
        stale("stale-jump", "A jump of 65,537 without a tag.", at(OPEN, NEWEST + 65_537, EPOCH)),
        stale("stale-epoch-jump", "Two epochs ahead without a tag.", at(OPEN, 1, EPOCH + 2)),
        replay("replay-newest", "The newest frame again.", at(TAGGED, NEWEST, EPOCH)),
        replay("replay-old", "A settled frame at the window's end.", at(TAGGED, NEWEST - 1022, EPOCH)),
        replay("replay-untagged", "A settled frame again.", at(OPEN, NEWEST - 10, EPOCH)),
    ]
}

fn payloads() -> Vec<Vector> {
    let bad = refused(Reason::RefInvalid, 7);
    let topic = u32::from(SHARD) + 32;
    let two = || {
        data(fields(OPEN), |writer| {
            writer.push_with_payload(topic, 120, 1, 0, &bytes(64)).expect("room");
            writer.push_with_payload(topic, 120, 1, 0, &bytes(10)).expect("room");
        })
    };
    // Messages at 64 and 128; payloads at 192 (64 bytes) and 256 (10 bytes and padding). In a reference the offset
    // stands at 20 and the length at 28 of its message.
    let change = |changes: &[(usize, u64)]| {
        let mut bytes = two();
        for (at, value) in changes {
            let width = if at % 64 == 20 { 8 } else { 4 };
            bytes[*at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        }
        build::seal(&mut bytes, Seal::Crc);
        bytes
    };
    let (offset_1, length_1, offset_2, length_2) = (64 + 20, 64 + 28, 128 + 20, 128 + 28);
    let mut padding = two();
    padding[256 + 10] = 1;
    build::seal(&mut padding, Seal::Crc);
    let mut unclaimed = inline(fields(OPEN), 1);
    unclaimed.resize(192, 0);
    unclaimed[16..20].copy_from_slice(&128_u32.to_le_bytes());
    build::seal(&mut unclaimed, Seal::Crc);
    let mut claimed = data(fields(OPEN), |writer| {
        writer.push(&message(0)).expect("room");
        writer.push_with_payload(topic, 120, 1, 0, b"gone").expect("room");
    });
    claimed.truncate(192);
    claimed[16..20].copy_from_slice(&128_u32.to_le_bytes());
    build::seal(&mut claimed, Seal::Crc);
    vec![
        bad("payload-swapped", "Ranges in the other order.", change(&[(offset_1, 256), (offset_2, 192)])),
        bad("payload-overlap", "Both messages claim the first range.", change(&[(offset_2, 192)])),
        bad("payload-gap", "A line that nobody claims.", change(&[(length_1, 64), (offset_2, 320)])),
        bad("payload-unaligned", "A range that starts inside a line.", change(&[(offset_2, 250)])),
        bad("payload-length-0", "A range of no bytes.", change(&[(length_2, 0)])),
        bad("payload-past-end", "A range that ends behind the frame.", change(&[(length_2, 65)])),
        bad("payload-length-absurd", "2³² − 1 bytes.", change(&[(length_2, u64::from(u32::MAX))])),
        bad("payload-offset-absurd", "An offset of 2⁶⁴ − 64.", change(&[(offset_1, u64::MAX - 63)])),
        bad("payload-in-header", "A range over the frame's own header.", change(&[(offset_1, 0)])),
        bad("payload-in-messages", "A range over the messages.", change(&[(offset_1, 64)])),
        bad(
            "payload-short-length",
            "A shorter length, so that what follows is no zero padding.",
            change(&[(length_1, 63)]),
        ),
        bad("payload-padding", "Behind the payload something is not zero.", padding),
        bad("payload-unclaimed", "A payload line, and no message that has one.", unclaimed),
        bad("payload-missing", "A message claims a payload that is not there.", claimed),
    ]
}
