//! Every reason for a frame or a message is charged once, where the order of checks says.

use crate::fabric::{Config, Draws, Fabric, Rules, message, reasons};
use tachyon_policy::compile::Quota;
use tachyon_wire::{
    Endpoint, Message, Reason,
    command::{Command, SESSION_SYSTEM},
    frame::KIND_ACK,
    message::{ArenaReference, SYSTEM_PACKET, ShmReference},
};

fn rules() -> Rules {
    let unlimited = Rules::new(1).senders().sender(70, Quota::UNLIMITED);
    let slow = Quota::new(1, 1_000_000_000, 1).unwrap();
    let mut rules = unlimited.topic(1, &[0, 1], &[0]).topic(5, &[1], &[0]);
    rules = rules.topic(9, &[0], &[0]).with(|topic| topic.tag_required = true);
    rules = rules.topic(13, &[0], &[0]).with(|topic| topic.quota = slow);
    rules = rules.topic(17, &[1], &[0]).with(|topic| topic.quarantine = true);
    rules.sender(90, slow)
}

/// Publisher 0 must tag, 1 need not, 2 is pinned to an address and port, 3 to an address; both must tag.
fn fabric() -> Fabric {
    let mut fabric = Fabric::new(Config { shards: &[1, 2], ..Config::default() }, rules());
    fabric.subscriber(true, 64, 1472);
    for (tagged, pinned) in [
        (true, Endpoint::NONE),
        (false, Endpoint::NONE),
        (true, Endpoint::v4([10, 2, 0, 2], 40_002)),
        (true, Endpoint::v4([10, 2, 0, 3], 0)),
    ] {
        let number = fabric.publisher(0, tagged);
        let mut open = fabric.publishers[number].open();
        open.pinned = pinned;
        open.sender_high = 100.into();
        fabric.command(Command::OpenSession(open));
    }
    fabric
}

/// The one frame reason that was charged since the last look, or `None` if the frame was admitted.
fn outcome(fabric: &mut Fabric) -> Option<Reason> {
    let before = fabric.worker.stats().counters;
    for _ in 0..2 {
        fabric.step(10_000);
        fabric.collect();
    }
    let after = fabric.worker.stats().counters;
    assert_eq!(after.frames_seen, before.frames_seen + 1, "one frame");
    let mut charged = after.frames_refused;
    charged.iter_mut().zip(before.frames_refused).for_each(|(after, before)| *after -= before);
    let charged = reasons(&charged);
    assert_eq!(charged.len() as u64 + after.frames_admitted - before.frames_admitted, 1, "{charged:?}");
    if charged.is_empty() {
        return None;
    }
    assert_eq!(after.messages_seen, before.messages_seen, "messages of a refused frame are not counted");
    Some(charged[0].0)
}

fn sends(fabric: &mut Fabric, publisher: usize, port: u16, frame: &[u8]) -> Option<Reason> {
    fabric.send(publisher, port, frame);
    outcome(fabric)
}

/// A good frame of a publisher to shard 1.
fn good(fabric: &mut Fabric, publisher: usize) -> Vec<u8> {
    fabric.publishers[publisher].frame(1, 0, &[message(1, 0, 0, 1, 0), message(1, 0, 3, 2, 0)])
}

/// A good frame, changed and sealed anew.
fn changed(fabric: &mut Fabric, publisher: usize, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = good(fabric, publisher);
    change(&mut frame);
    let publisher = &fabric.publishers[publisher];
    if frame.len() >= 64 {
        publisher.reseal(&mut frame);
    }
    frame
}

#[test]
fn charges_every_frame_reason() {
    let mut fabric = fabric();
    let frame = good(&mut fabric, 0);
    assert_eq!(sends(&mut fabric, 0, 1, &frame), None);
    assert_eq!(sends(&mut fabric, 0, 1, &frame), Some(Reason::Replay));
    let too_large = fabric.publishers[0].frame(1, 0, &[message(1, 0, 0, 1, 0); 23]);
    assert_eq!(sends(&mut fabric, 0, 1, &too_large), Some(Reason::TooLarge));
    let frame = good(&mut fabric, 0);
    assert_eq!(sends(&mut fabric, 0, 2, &frame), Some(Reason::WrongShard), "header against port");
    assert_eq!(sends(&mut fabric, 0, 1, &frame), None, "a refused frame is not settled");
    let elsewhere = fabric.publishers[0].frame(3, 0, &[message(3, 0, 0, 1, 0)]);
    assert_eq!(sends(&mut fabric, 0, 3, &elsewhere), Some(Reason::WrongShard), "port against owner");
    assert_eq!(sends(&mut fabric, 0, 60, &elsewhere), Some(Reason::WrongShard));
    assert_eq!(sends(&mut fabric, 0, 999, &elsewhere), Some(Reason::WrongShard));
    assert_eq!(sends(&mut fabric, 0, 3, &elsewhere[..127]), Some(Reason::BadFrame), "the layout comes first");

    let unknown = changed(&mut fabric, 0, |frame| frame[24..28].copy_from_slice(&0x777u32.to_le_bytes()));
    assert_eq!(sends(&mut fabric, 0, 1, &unknown), Some(Reason::NoSession));
    let neighbour = changed(&mut fabric, 0, |frame| frame[24..28].copy_from_slice(&0x140u32.to_le_bytes()));
    assert_eq!(sends(&mut fabric, 0, 1, &neighbour), Some(Reason::NoSession), "same slot, another id");
    let zero = changed(&mut fabric, 0, |frame| frame[24..28].fill(0));
    assert_eq!(sends(&mut fabric, 0, 1, &zero), Some(Reason::NoSession));

    let frame = good(&mut fabric, 2);
    assert_eq!(sends(&mut fabric, 0, 1, &frame), Some(Reason::NoSession), "pinned to another address");
    let near = Endpoint::v4([10, 2, 0, 2], 40_003);
    assert!(fabric.send_from(near, 1, &[&frame]));
    assert_eq!(outcome(&mut fabric), Some(Reason::NoSession), "pinned to another port");
    assert_eq!(sends(&mut fabric, 2, 1, &frame), None);
    let frame = good(&mut fabric, 3);
    assert!(fabric.send_from(Endpoint::v4([10, 2, 0, 3], 1), 1, &[&frame]));
    assert_eq!(outcome(&mut fabric), None, "any port of the pinned address");

    let mut forged = good(&mut fabric, 0);
    forged[50] ^= 1;
    assert_eq!(sends(&mut fabric, 0, 1, &forged), Some(Reason::BadTag));
    let mut other = good(&mut fabric, 2);
    other[24..28].copy_from_slice(&0x100u32.to_le_bytes());
    fabric.publishers[3].reseal(&mut other);
    assert_eq!(sends(&mut fabric, 0, 1, &other), Some(Reason::BadTag), "another session's key");
    let mut bare = good(&mut fabric, 0);
    tachyon_wire::build::seal(&mut bare, tachyon_wire::build::Seal::Crc);
    assert_eq!(sends(&mut fabric, 0, 1, &bare), Some(Reason::TagRequired));
    bare[100] ^= 1;
    assert_eq!(sends(&mut fabric, 0, 1, &bare), Some(Reason::TagRequired), "whatever its crc");
    let mut damaged = good(&mut fabric, 1);
    damaged[100] ^= 1;
    assert_eq!(sends(&mut fabric, 1, 1, &damaged), Some(Reason::BadCrc));
    let mut tagged = good(&mut fabric, 1);
    fabric.publishers[0].reseal(&mut tagged);
    assert_eq!(sends(&mut fabric, 1, 1, &tagged), Some(Reason::BadTag), "a tag that is present is verified");
    fabric.finish();
}

#[test]
fn charges_stale_epochs_windows_and_jumps() {
    let mut fabric = fabric();
    let at = |fabric: &Fabric, publisher: usize, epoch: u32, id: u32| {
        let publisher = &fabric.publishers[publisher];
        let fields = tachyon_wire::build::FrameFields { epoch, ..publisher.fields(1, 0, id) };
        publisher.write(fields, |writer| writer.push(&message(1, 0, 0, 1, 0)).unwrap())
    };
    let table = [
        // (publisher, epoch, frame id, outcome)
        (0, 3, 5_000, None),
        (0, 3, 5_000 - 1_023, None),
        (0, 3, 5_000 - 1_023, Some(Reason::Replay)),
        (0, 3, 5_000 - 1_024, Some(Reason::Stale)),
        (0, 2, 5_001, Some(Reason::Stale)),
        (0, 0, 5_001, Some(Reason::Stale)),
        (0, 3, 1 << 31, None),
        (0, 3, (1 << 31) + 1, Some(Reason::Stale)),
        (0, 3, u32::MAX, Some(Reason::Stale)),
        (0, 9, 1, None),
        (0, 8, 2, Some(Reason::Stale)),
        (0, 3, 5_001, Some(Reason::Stale)),
        (0, 9, 1, Some(Reason::Replay)),
        (0, u32::MAX, 1, None),
        (0, u32::MAX, 2, None),
        (0, 9, 2, Some(Reason::Stale)),
        (1, 3, 65_537, Some(Reason::Stale)),
        (1, 3, 65_536, None),
        (1, 3, 65_536 * 2 + 1, Some(Reason::Stale)),
        (1, 3, 65_536 * 2, None),
        (1, 5, 1, Some(Reason::Stale)),
        (1, 4, 1, None),
        (1, 3, 65_536 * 2 + 1, Some(Reason::Stale)),
    ];
    for (number, (publisher, epoch, id, expected)) in table.into_iter().enumerate() {
        let frame = at(&fabric, publisher, epoch, id);
        assert_eq!(sends(&mut fabric, publisher, 1, &frame), expected, "row {number}");
    }
    fabric.finish();
}

#[test]
fn never_lets_a_frame_that_is_not_verified_move_a_window() {
    let mut fabric = fabric();
    for publisher in [0, 1] {
        for (epoch, id) in [(3u32, 60_000u32), (4, 1)] {
            let mut forged = good(&mut fabric, publisher);
            forged[40..44].copy_from_slice(&epoch.to_le_bytes());
            forged[12..16].copy_from_slice(&id.to_le_bytes());
            let expected = if publisher == 0 { Reason::BadTag } else { Reason::BadCrc };
            assert_eq!(sends(&mut fabric, publisher, 1, &forged), Some(expected));
        }
        let frame = good(&mut fabric, publisher);
        assert_eq!(sends(&mut fabric, publisher, 1, &frame), None);
    }
    fabric.finish();
}

#[test]
fn charges_payload_ranges_that_lie_and_settles_their_frames() {
    let mut fabric = fabric();
    type Lie = fn(&mut Vec<u8>);
    let lies: [(&str, Lie); 7] = [
        ("offset into the messages", |frame| frame[84..92].copy_from_slice(&64u64.to_le_bytes())),
        ("offset past the end", |frame| frame[84..92].copy_from_slice(&4096u64.to_le_bytes())),
        ("offset that wraps", |frame| frame[84..92].copy_from_slice(&u64::MAX.to_le_bytes())),
        ("length 0", |frame| frame[92..96].fill(0)),
        ("length too long", |frame| frame[92..96].copy_from_slice(&129u32.to_le_bytes())),
        ("length absurd", |frame| frame[92..96].copy_from_slice(&u32::MAX.to_le_bytes())),
        ("padding not zero", |frame| *frame.last_mut().unwrap() = 1),
    ];
    for (what, lie) in lies {
        let publisher = &mut fabric.publishers[0];
        let id = publisher.next_id(1);
        let fields = publisher.fields(1, 0, id);
        let mut frame = publisher.write(fields, |writer| writer.push_with_payload(1, 0, 0, 0, &[7; 100]).unwrap());
        lie(&mut frame);
        publisher.reseal(&mut frame);
        assert_eq!(sends(&mut fabric, 0, 1, &frame), Some(Reason::RefInvalid), "{what}");
        assert_eq!(sends(&mut fabric, 0, 1, &frame), Some(Reason::Replay), "{what}, again");
    }
    fabric.finish();
}

#[test]
fn refuses_every_truncation_and_every_bit_flip_of_a_good_frame() {
    let mut fabric = fabric();
    for publisher in [0, 1] {
        let frame = good(&mut fabric, publisher);
        for length in 1..frame.len() {
            assert_eq!(sends(&mut fabric, publisher, 1, &frame[..length]), Some(Reason::BadFrame), "{length} bytes");
        }
        for bit in 0..frame.len() * 8 {
            let mut flipped = frame.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let refused = sends(&mut fabric, publisher, 1, &flipped);
            let byte = bit / 8;
            let layout = Some(Reason::BadFrame);
            let expected = match (byte, publisher) {
                (0..4 | 6..12 | 16..20 | 30..32 | 44..48, _) => layout,
                (20..24, 0) | (48..64, 1) => layout,
                (28..30, _) => Some(Reason::WrongShard),
                (24..28, _) => Some(Reason::NoSession),
                _ => refused, // flags and ids, some bits of which change what is checked
            };
            let expected = match (byte, refused) {
                // The lowest route bits and the slot of a neighbour that is open: its key is another.
                (24..28, Some(Reason::BadTag | Reason::BadCrc | Reason::TagRequired)) => refused,
                _ => expected,
            };
            assert!(refused.is_some(), "bit {bit} was admitted");
            assert_eq!(refused, expected, "bit {bit}");
            if byte >= 64 {
                let broken = if publisher == 0 { Reason::BadTag } else { Reason::BadCrc };
                assert_eq!(refused, Some(broken), "bit {bit}");
            }
        }
        assert_eq!(sends(&mut fabric, publisher, 1, &frame), None, "none of them was settled");
    }
    fabric.finish();
}

#[test]
fn refuses_random_bytes_and_absurd_counts_and_lengths() {
    let mut fabric = fabric();
    let mut draws = Draws(42);
    for _ in 0..3_000 {
        let mut frame = if draws.below(2) == 0 { good(&mut fabric, 0) } else { vec![0; 1 + draws.below(1_600)] };
        let from = if frame[0] == 0 { 0 } else { draws.below(frame.len()) };
        for byte in &mut frame[from..] {
            *byte = draws.next().to_le_bytes()[0];
        }
        assert!(sends(&mut fabric, 0, 1, &frame).is_some());
    }
    for publisher in [0, 1] {
        for count in [0u16, 1, 3, 22, 255, 256, 257, 0x7fff, u16::MAX] {
            let frame = changed(&mut fabric, publisher, |frame| frame[30..32].copy_from_slice(&count.to_le_bytes()));
            let expected = if count == 1 { Reason::RefInvalid } else { Reason::BadFrame };
            assert_eq!(sends(&mut fabric, publisher, 1, &frame), Some(expected), "count {count}");
        }
        for len in [0u32, 64, 127, 129, 192, 1 << 20, u32::MAX - 63, u32::MAX] {
            let frame = changed(&mut fabric, publisher, |frame| frame[16..20].copy_from_slice(&len.to_le_bytes()));
            assert_eq!(sends(&mut fabric, publisher, 1, &frame), Some(Reason::BadFrame), "len {len}");
        }
        for (at, value) in [(6, 2u8), (7, 4), (7, 1), (7, 9), (4, 0x20), (5, 1), (44, 1), (8, 1), (0, b'r')] {
            let frame = changed(&mut fabric, publisher, |frame| frame[at] = value);
            assert_eq!(sends(&mut fabric, publisher, 1, &frame), Some(Reason::BadFrame), "byte {at}");
        }
    }
    let ack_with_messages = changed(&mut fabric, 0, |frame| frame[7] = KIND_ACK);
    assert_eq!(sends(&mut fabric, 0, 1, &ack_with_messages), Some(Reason::BadFrame));
    fabric.finish();
}

/// What one message in a frame of its own comes to.
fn verdict(fabric: &mut Fabric, publisher: usize, message: &Message) -> Option<Reason> {
    let mut frame = fabric.publishers[publisher].frame(1, 0, &[crate::fabric::message(1, 0, 0, 0, 0)]);
    frame[64..128].copy_from_slice(zerocopy::IntoBytes::as_bytes(message));
    fabric.publishers[publisher].reseal(&mut frame);
    let before = fabric.worker.stats().counters;
    assert_eq!(sends(fabric, publisher, 1, &frame), None);
    let after = fabric.worker.stats().counters;
    let mut charged = after.messages_refused;
    charged.iter_mut().zip(before.messages_refused).for_each(|(after, before)| *after -= before);
    let charged = reasons(&charged);
    assert_eq!(charged.len() as u64 + after.messages_accepted - before.messages_accepted, 1);
    charged.first().map(|(reason, _)| *reason)
}

#[test]
fn charges_every_message_reason() {
    let mut fabric = fabric();
    let mut bad = message(1, 0, 0, 1, 0);
    bad.topic_id = 0.into();
    assert_eq!(verdict(&mut fabric, 0, &bad), Some(Reason::BadPacket));
    let mut bad = message(1, 0, 0, 1, 0);
    bad.flags = (bad.flags.get() | 1 << 40).into();
    assert_eq!(verdict(&mut fabric, 0, &bad), Some(Reason::BadPacket));
    let shm = ShmReference {
        segment_id: 1.into(),
        offset: 0.into(),
        length: 4.into(),
        checksum: 0.into(),
        reserved: [0; 20],
    };
    assert_eq!(verdict(&mut fabric, 0, &Message::shm(1, 0, 0, shm).unwrap()), Some(Reason::ModeForbidden));
    let arena = ArenaReference {
        arena_id: 4.into(),
        offset: 0.into(),
        length: 4.into(),
        checksum: 0.into(),
        reserved: [0; 24],
    };
    assert_eq!(verdict(&mut fabric, 0, &Message::arena(1, 0, 0, arena).unwrap()), Some(Reason::ModeForbidden));
    let table = [
        (0, message(2, 0, 0, 1, 0), Some(Reason::TopicShard)),
        (0, message(1, 0, 0, 1, 0).with_marks(SYSTEM_PACKET), Some(Reason::SystemDenied)),
        (0, message(1, 101, 0, 1, 0), Some(Reason::Sender)),
        (0, message(1, u32::MAX, 0, 1, 0), Some(Reason::Sender)),
        (0, message(5, 0, 0, 1, 0), Some(Reason::Denylisted)),
        (0, message(17, 0, 0, 1, 0), Some(Reason::Denylisted)),
        (0, message(401, 0, 0, 1, 0), Some(Reason::Denylisted)),
        (0, message(0xffff_fff1, 0, 0, 1, 0), Some(Reason::Denylisted)),
        (1, message(9, 0, 0, 1, 0), Some(Reason::TopicTagRequired)),
        (0, message(9, 0, 0, 1, 0), None),
        (0, message(1, 80, 0, 1, 0), Some(Reason::QuotaExceeded)),
        (0, message(1, 90, 0, 1, 0), None),
        (0, message(1, 90, 0, 1, 0), Some(Reason::QuotaExceeded)),
        (0, message(13, 0, 0, 1, 0), None),
        (0, message(13, 0, 0, 1, 0), Some(Reason::Throttled)),
        (0, message(1, 70, 3, 1, 0), None),
    ];
    for (row, (publisher, message, expected)) in table.into_iter().enumerate() {
        assert_eq!(verdict(&mut fabric, publisher, &message), expected, "row {row}");
    }
    let mut open = fabric.publishers[0].open();
    open.flags |= SESSION_SYSTEM;
    fabric.command(Command::OpenSession(open));
    assert_eq!(verdict(&mut fabric, 0, &message(1, 0, 0, 1, 0).with_marks(SYSTEM_PACKET)), None);
    let counters = fabric.finish();
    assert_eq!((counters.quarantined, fabric.worker.host().quarantined.len()), (1, 1));
    assert_eq!(fabric.worker.host().quarantined[0].0, message(17, 0, 0, 1, 0));
}

#[test]
fn judges_each_message_of_a_frame_by_itself_and_in_order() {
    let mut fabric = fabric();
    let messages: Vec<Message> =
        (0..22u64).map(|number| message([1, 2, 5, 1][usize::try_from(number % 4).unwrap()], 0, 1, number, 0)).collect();
    fabric.publish(0, 1, 0, &messages);
    let counters = fabric.finish();
    assert_eq!(counters.messages_accepted, 11);
    assert_eq!(reasons(&counters.messages_refused), [(Reason::TopicShard, 6), (Reason::Denylisted, 5)]);
    let got: Vec<u64> =
        fabric.subscribers[0].received.iter().map(|copy| crate::fabric::mark(&copy.message).0).collect();
    let expected: Vec<u64> = (0..22).filter(|number| number % 4 == 0 || number % 4 == 3).collect();
    assert_eq!(got, expected);
}

#[test]
fn counts_quarantined_messages_only_as_far_as_the_ring_takes_them() {
    let mut fabric = fabric();
    fabric.worker.host().quarantine_room = 5;
    for _ in 0..8 {
        fabric.publish(0, 1, 0, &[message(17, 0, 0, 1, 0)]);
        fabric.step(1_000);
    }
    let counters = fabric.finish();
    assert_eq!(counters.quarantined, 5);
    assert_eq!(reasons(&counters.messages_refused), [(Reason::Denylisted, 8)]);
}

#[test]
fn closed_sessions_are_unknown_and_come_back_where_they_were() {
    let mut fabric = fabric();
    let first = good(&mut fabric, 0);
    assert_eq!(sends(&mut fabric, 0, 1, &first), None);
    fabric.command(Command::CloseSession(0x9999));
    fabric.command(Command::CloseSession(0x140)); // another id in the same slot
    let second = good(&mut fabric, 0);
    assert_eq!(sends(&mut fabric, 0, 1, &second), None);
    fabric.command(Command::CloseSession(0x100));
    let third = good(&mut fabric, 0);
    assert_eq!(sends(&mut fabric, 0, 1, &third), Some(Reason::NoSession));
    let open = fabric.publishers[0].open();
    fabric.command(Command::OpenSession(open));
    assert_eq!(sends(&mut fabric, 0, 1, &second), Some(Reason::Replay), "what was settled stays settled");
    assert_eq!(sends(&mut fabric, 0, 1, &third), None);
    let mut higher = open;
    higher.epoch_floor = 9.into();
    fabric.command(Command::OpenSession(higher));
    let fourth = good(&mut fabric, 0);
    assert_eq!(sends(&mut fabric, 0, 1, &fourth), Some(Reason::Stale), "below the floor");
    fabric.publishers[0].epoch = 9;
    let fifth = good(&mut fabric, 0);
    assert_eq!(sends(&mut fabric, 0, 1, &fifth), None);
    fabric.command(Command::OpenSession(open));
    assert_eq!(sends(&mut fabric, 0, 1, &fifth), Some(Reason::Replay), "a lower floor opens nothing");
    assert_eq!(sends(&mut fabric, 0, 1, &fourth), Some(Reason::Stale));
    fabric.finish();
}
