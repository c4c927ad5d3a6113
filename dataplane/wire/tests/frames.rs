//! Hostile bytes and the round trip from writer to parser.
#![expect(clippy::unwrap_used, reason = "in a test the panic is the report")]

use proptest::prelude::*;
use std::{format, panic};
use tachyon_wire::{
    Frame, LINE, Lane, Message, Reason,
    ack::{AckBody, NackBody},
    build::{self, Body, FrameFields, FrameWriter, PushError, Seal},
    crc,
    frame::{self, AUTHENTICATED, PROVENANCE, Provenance},
    message::{self, INLINE_MAX},
    payload,
    tag::{self, FrameKey},
};
use zerocopy::{FromBytes, IntoBytes};

const LANE: Lane = Lane { frame_bytes_max: 65_472, references: false };
const KEY: FrameKey = FrameKey::from_bytes(*b"sixteen bytes ok");

fn fields() -> FrameFields {
    FrameFields { frame_id: 7, session_id: 0x0102_0304, shard: 3, epoch: 9, sent_ns: 1, ..FrameFields::default() }
}

/// Every kind of frame, small: with payload, provenance, ack, nack, heartbeat.
fn samples(seal: Seal<'_>) -> Vec<Vec<u8>> {
    let mut samples = Vec::new();
    for flags in [0, PROVENANCE] {
        let mut buffer = [0; 1472];
        let mut writer = FrameWriter::new(&mut buffer, FrameFields { flags, ..fields() });
        writer.push(&Message::inline(3, 1, 0, b"hello").unwrap()).unwrap();
        writer.push_with_payload(19, 1, 2, 0, &[5; 70]).unwrap();
        let used = writer.finish(seal);
        samples.push(buffer[..used].to_vec());
    }
    let ack = AckBody::new(1, 2, 3, 0, 100);
    let nack = NackBody::new(1, 2, 3, 4, Reason::Sender);
    for body in [Body::Ack(&ack), Body::Nack(&nack), Body::Heartbeat] {
        let mut buffer = [0; 256];
        let used = build::control(&mut buffer, &fields(), body, seal).unwrap();
        samples.push(buffer[..used].to_vec());
    }
    samples
}

/// The frame checks that need bytes alone, as a receiver that knows [`KEY`] and needs no tag runs them.
fn receive(bytes: &[u8]) -> Result<Frame<'_>, Reason> {
    let frame = frame::parse(bytes, &LANE)?;
    if frame.is_authenticated() {
        if !tag::verify(&KEY, &frame) {
            return Err(Reason::BadTag);
        }
    } else if !crc::verify(&frame) {
        return Err(Reason::BadCrc);
    }
    payload::check(&frame)?;
    Ok(frame)
}

#[test]
fn refuses_every_truncation() {
    for sample in [samples(Seal::Crc), samples(Seal::Tag(&KEY))].concat() {
        assert!(receive(&sample).is_ok());
        for length in 0..sample.len() {
            assert_eq!(receive(&sample[..length]).unwrap_err(), Reason::BadFrame, "{length} of {}", sample.len());
        }
    }
}

#[test]
fn refuses_bytes_behind_the_frame() {
    for sample in [samples(Seal::Crc), samples(Seal::Tag(&KEY))].concat() {
        for more in [1, 63, 64, 65, 128] {
            let longer = [sample.clone(), vec![0; more]].concat();
            assert_eq!(receive(&longer).unwrap_err(), Reason::BadFrame);
        }
    }
}

#[test]
fn refuses_every_single_bit_flip() {
    for (seal, sealed) in [(Seal::Crc, Reason::BadCrc), (Seal::Tag(&KEY), Reason::BadTag)] {
        for sample in samples(seal) {
            for bit in 0..sample.len() * 8 {
                let mut bytes = sample.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                let reason = receive(&bytes).unwrap_err();
                // AUTHENTICATED itself leaves the other seal's field empty, so it changes which seal is looked at.
                assert!(reason == Reason::BadFrame || reason == sealed, "bit {bit}: {}", reason.code());
                if bit / 8 >= LINE && sample[7] == 0 && sample[4] & 0x10 == 0 {
                    assert_eq!(reason, sealed, "bit {bit} of messages or payload is for the seal to find");
                }
            }
        }
    }
}

#[test]
fn refuses_every_byte_value_where_a_field_has_one() {
    let sample = samples(Seal::Crc).remove(0);
    // Bytes of magic, flags, version, kind, len and count take no other value: resealed, only the layout can tell. The
    // low byte of flags does (DURABLE, ACK_WANTED, TRACE), and session, epoch, frame_id, shard, sent_ns are free.
    for at in [0, 1, 2, 3, 5, 6, 7, 16, 17, 18, 19, 30, 31, 44, 45, 46, 47] {
        for value in 0..=255 {
            if value == sample[at] {
                continue;
            }
            let mut bytes = sample.clone();
            bytes[at] = value;
            build::seal(&mut bytes, Seal::Crc);
            let reason = receive(&bytes).unwrap_err();
            // Another count moves the payload area, which its own check finds.
            assert!(reason == Reason::BadFrame || (at == 30 && reason == Reason::RefInvalid), "byte {at} = {value}");
        }
    }
}

#[test]
fn refuses_what_is_above_the_lane_before_it_looks_at_it() {
    let lane = Lane { frame_bytes_max: 64, references: false };
    assert_eq!(frame::parse(&[0xff; 65], &lane).unwrap_err(), Reason::TooLarge);
    assert_eq!(frame::parse(&[0xff; 64], &lane).unwrap_err(), Reason::BadFrame);
}

#[test]
fn parses_at_every_offset() {
    for sample in samples(Seal::Tag(&KEY)) {
        for offset in [0, 1, 2, 3, 7, 42, 46, 62, 63, 66] {
            let shifted = [vec![0xee; offset], sample.clone()].concat();
            assert!(receive(&shifted[offset..]).is_ok(), "offset {offset}");
        }
    }
}

#[test]
fn writer_says_when_a_frame_is_full() {
    let good = Message::inline(3, 1, 0, b"x").unwrap();
    let mut buffer = [0; 1472];
    let mut writer = FrameWriter::new(&mut buffer, fields());
    for _ in 0..22 {
        writer.push(&good).unwrap();
    }
    assert_eq!(writer.push(&good), Err(PushError::Full));
    assert_eq!(writer.finish(Seal::Crc), 1472);
    let mut buffer = [0; 1472];
    let mut writer = FrameWriter::new(&mut buffer, FrameFields { flags: PROVENANCE, ..fields() });
    for _ in 0..17 {
        writer.push(&good).unwrap();
    }
    assert_eq!(writer.push(&good), Err(PushError::Full));
    assert_eq!(writer.finish(Seal::Crc), 1472);
    let mut buffer = vec![0; 65_472];
    let mut writer = FrameWriter::new(&mut buffer, fields());
    for _ in 0..256 {
        writer.push(&good).unwrap();
    }
    assert_eq!(writer.push(&good), Err(PushError::Full), "256 is the most, whatever the room");
    assert_eq!(writer.push_with_payload(3, 1, 0, 0, b"x"), Err(PushError::Full));
}

#[test]
fn writer_refuses_what_it_cannot_place() {
    let mut buffer = [0; 1472];
    let mut writer = FrameWriter::new(&mut buffer, fields());
    assert_eq!(writer.push_with_payload(3, 1, 0, 0, &[]), Err(PushError::Invalid));
    assert_eq!(writer.push_with_payload(0, 1, 0, 0, b"x"), Err(PushError::Invalid));
    assert_eq!(writer.push_with_payload(3, 1, 4, 0, b"x"), Err(PushError::Invalid));
    assert_eq!(writer.push_with_payload(3, 1, 0, 0, &[0; 1345]), Err(PushError::Full));
    assert_eq!(writer.count(), 0);
    assert!(Message::inline(3, 1, 0, &[0; 49]).is_none());
    assert!(build::control(&mut [0; 63], &fields(), Body::Heartbeat, Seal::Crc).is_err());
}

#[test]
fn debug_output_never_shows_a_key() {
    let text = format!("{KEY:?} {:?}", Seal::Tag(&KEY));
    assert!(!text.contains("115") && !text.contains("73"), "{text}");
    assert_eq!(format!("{KEY:?}"), "FrameKey(..)");
}

/// What a publisher may put into a frame.
#[derive(Clone, Debug)]
struct Item {
    topic: u32,
    sender: u32,
    class: u8,
    payload: Vec<u8>,
}

fn item() -> impl Strategy<Value = Item> {
    let payload =
        prop_oneof![prop::collection::vec(any::<u8>(), 0..=INLINE_MAX), prop::collection::vec(any::<u8>(), 49..300)];
    (1..=u32::MAX, any::<u32>(), 0_u8..4, payload).prop_map(|(topic, sender, class, payload)| Item {
        topic,
        sender,
        class,
        payload,
    })
}

fn write(buffer: &mut [u8], fields: FrameFields, items: &[Item], seal: Seal<'_>) -> usize {
    let mut writer = FrameWriter::new(buffer, fields);
    for (item, index) in items.iter().zip(0..) {
        match Message::inline(item.topic, item.sender, item.class, &item.payload) {
            Some(message) => writer.push(&message).unwrap(),
            None => writer.push_with_payload(item.topic, item.sender, item.class, 0, &item.payload).unwrap(),
        }
        writer.identify(&identity(index));
    }
    writer.finish(seal)
}

fn identity(index: u16) -> Provenance {
    let (shard, index) = (7.into(), index.into());
    Provenance { session_id: 5.into(), epoch: 6.into(), frame_id: 8.into(), shard, index }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn reads_back_what_was_written(
        items in prop::collection::vec(item(), 1..40),
        flags in (0_u16..0x20).prop_map(|flags| flags & !AUTHENTICATED),
        tagged in any::<bool>(),
        frame_id in 1..=u32::MAX,
        sent_ns in any::<u64>(),
    ) {
        let seal = if tagged { Seal::Tag(&KEY) } else { Seal::Crc };
        let fields = FrameFields { flags, frame_id, sent_ns, ..fields() };
        let mut buffer = vec![0xcc; 65_472];
        let used = write(&mut buffer, fields, &items, seal);
        let frame = receive(&buffer[..used]).map_err(|reason| TestCaseError::fail(reason.code()))?;
        prop_assert_eq!(frame.header.flags.get(), flags | u16::from(tagged));
        prop_assert_eq!((frame.header.frame_id.get(), frame.header.sent_ns.get()), (frame_id, sent_ns));
        prop_assert_eq!(frame.messages.len(), items.len());
        for (index, item) in items.iter().enumerate() {
            let message = &frame.messages[index];
            prop_assert_eq!(message::check(message, false), Ok(()));
            prop_assert_eq!((message.topic_id.get(), message.sender_id.get()), (item.topic, item.sender));
            prop_assert_eq!(message.class(), item.class);
            prop_assert_eq!(payload::of(&frame, index), Ok(&item.payload[..]));
        }
        let identities = if flags & PROVENANCE == 0 { 0 } else { items.len() };
        prop_assert_eq!(frame.provenance.len(), identities);
        prop_assert!(frame.provenance.iter().zip(0..).all(|(found, index)| *found == identity(index)));
    }

    /// Canonical: a message that passes is the only byte string with its meaning, so making it anew gives it back.
    #[test]
    fn a_message_that_passes_has_one_byte_string(bytes in message_bytes(), references in any::<bool>()) {
        let message = Message::read_from_bytes(&bytes).unwrap();
        if message::check(&message, references).is_ok() {
            let (topic, sender, class) = (message.topic_id.get(), message.sender_id.get(), message.class());
            let anew = match message.reference() {
                Some(message::Reference::Arena(place)) => Message::arena(topic, sender, class, place),
                Some(message::Reference::Shm(place)) => Message::shm(topic, sender, class, place),
                None => Message::inline(topic, sender, class, message.inline_payload().unwrap()),
            };
            let anew = anew.unwrap().with_marks(message.flags.get());
            prop_assert_eq!(anew.as_bytes(), &bytes[..]);
        }
    }

    #[test]
    fn the_message_check_agrees_with_its_definition(bytes in message_bytes(), references in any::<bool>()) {
        let message = Message::read_from_bytes(&bytes).unwrap();
        prop_assert_eq!(message::check(&message, references), definition(&bytes, references));
    }

    #[test]
    fn random_bytes_end_in_one_reason_and_never_in_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(receive(&bytes).is_err());
    }

    /// A good frame with a few bytes changed and sealed again, so that the layout checks behind the seal are reached too.
    #[test]
    fn changed_and_resealed_frames_never_panic(
        which in 0_usize..5,
        changes in prop::collection::vec((0_usize..400, any::<u8>()), 1..6),
    ) {
        let mut bytes = samples(Seal::Crc).swap_remove(which);
        for (at, value) in changes {
            let length = bytes.len();
            bytes[at % length] = value;
        }
        build::seal(&mut bytes, Seal::Crc);
        if let Ok(frame) = receive(&bytes) {
            for index in 0..=frame.messages.len() {
                let _ = payload::of(&frame, index);
                let _ = frame.messages.get(index).map(|message| message::check(message, false));
            }
            let _ = (frame.ack(), frame.nack());
        }
    }
}

/// Messages near the good ones: any bytes at all would hardly ever pass.
fn message_bytes() -> impl Strategy<Value = Vec<u8>> {
    let flags = (any::<u64>(), 0_u32..4, 0_u64..3, 0_u64..52, 0_u64..4, any::<bool>()).prop_map(
        |(noise, spare, mode, length, class, priority)| {
            let noise = if spare == 0 { 1 << (noise % 64) } else { 0 };
            (1 << mode | length << 16 | class << 22 | u64::from(priority) << 5) ^ noise
        },
    );
    let data = prop::collection::vec(prop_oneof![3 => Just(0_u8), 1 => any::<u8>()], 48);
    let zeroed_from = 0_usize..=48;
    (flags, 0_u32..5, any::<u32>(), data, zeroed_from).prop_map(|(flags, topic, sender, mut data, zeroed_from)| {
        data[zeroed_from..].fill(0);
        [&flags.to_le_bytes()[..], &topic.to_le_bytes(), &sender.to_le_bytes(), &data].concat()
    })
}

/// The message checks 1 and 2 as `WIRE.md` words them, byte by byte.
fn definition(bytes: &[u8], references: bool) -> Result<(), Reason> {
    let flags = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    let bit = |index: u32| flags >> index & 1 == 1;
    let length = usize::try_from(flags >> 16 & 63).unwrap();
    let class = flags >> 22 & 3;
    let data = &bytes[16..];
    let zero = |range: &[u8]| range.iter().all(|byte| *byte == 0);
    let number =
        |at: usize, width: usize| (0..width).rev().fold(0_u64, |sum, index| sum << 8 | u64::from(data[at + index]));
    let mut good = bytes[8..12] != [0; 4];
    good &= [bit(0), bit(1), bit(2)].iter().filter(|mode| **mode).count() == 1;
    good &= (6..16).chain(24..64).all(|index| !bit(index));
    good &= bit(5) == (class < 2);
    let reference = |at: usize| {
        let (offset, length, checksum) = (number(at, 8), number(at + 8, 4), number(at + 12, 8));
        length > 0 && offset.checked_add(length).is_some() && checksum >> 32 == 0 && zero(&data[at + 20..])
    };
    good &= if bit(0) {
        length <= 48 && zero(&data[length.min(48)..])
    } else {
        length == 0 && reference(if bit(1) { 4 } else { 8 })
    };
    if !good {
        return Err(Reason::BadPacket);
    }
    let elsewhere = bit(2) || bit(1) && number(0, 4) != 0;
    if elsewhere && !references { Err(Reason::ModeForbidden) } else { Ok(()) }
}

#[test]
fn sealing_what_has_no_header_is_a_bug_that_says_so() {
    assert!(panic::catch_unwind(|| build::seal(&mut [0; 63], Seal::Crc)).is_err());
}
