//! Offsets, constants and known answers, written out by hand so that no code of the crate checks itself.
#![expect(clippy::unwrap_used, reason = "in a test the panic is the report")]

use tachyon_wire::{
    Message, Reason,
    ack::{AckBody, Map, NackBody},
    build::{FrameFields, FrameWriter, Seal},
    frame::{self, ACK_WANTED},
    message::{ArenaReference, ShmReference},
    reason::REASON_SLOTS,
    tag::{self, FrameKey},
};
use zerocopy::IntoBytes;

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn the_header_stands_where_the_document_says() {
    let fields = FrameFields {
        flags: ACK_WANTED,
        route_id: 0x1112_1314,
        frame_id: 0x2122_2324,
        session_id: 0x3132_3334,
        shard: 0x4142,
        sent_ns: 0x5152_5354_5556_5758,
        epoch: 0x6162_6364,
    };
    let header = fields.header(2, 0x7172, 0x8182_8384);
    let expected = [
        "52545431",
        "0400",
        "01",
        "02",
        "14131211",
        "24232221",
        "84838281",
        "00000000",
        "34333231",
        "4241",
        "7271",
        "5857565554535251",
        "64636261",
        "00000000",
        "00000000000000000000000000000000",
    ];
    assert_eq!(header.as_bytes(), unhex(&expected.concat()));
}

#[test]
fn the_message_stands_where_the_document_says() {
    let message = Message::inline(0x0102_0304, 0x1112_1314, 1, b"abc").unwrap();
    assert_eq!(
        message.as_bytes()[..20],
        unhex("21004300000000000403020114131211616263ff")[..19].iter().copied().chain([0]).collect::<Vec<_>>()[..]
    );
    let arena = ArenaReference {
        arena_id: 0x0102_0304.into(),
        offset: 0x1112_1314_1516_1718.into(),
        length: 0x2122_2324.into(),
        checksum: 0x3132_3334.into(),
        reserved: [0; 24],
    };
    assert_eq!(arena.as_bytes()[..24], unhex("04030201181716151413121124232221343332310000000000")[..24]);
    let shm = ShmReference {
        segment_id: 0x4142_4344_4546_4748.into(),
        offset: 0x1112_1314_1516_1718.into(),
        length: 0x2122_2324.into(),
        checksum: 0x3132_3334.into(),
        reserved: [0; 20],
    };
    assert_eq!(shm.as_bytes()[..28], unhex("48474645444342411817161514131211242322213433323100000000")[..]);
}

#[test]
fn acks_and_nacks_stand_where_the_document_says() {
    let mut ack = AckBody::new(0x0102_0304, 0x1112_1314, 0x2122, 2, 1000);
    ack.settle(1001 + 9); // bit 9: byte 1, bit 1
    ack.refuse(1000 - 8); // bit 8: byte 1, bit 0
    ack.refuse(1001 + 255); // bit 255: byte 31, bit 7
    let bytes = ack.as_bytes();
    assert_eq!(bytes[..16], unhex("04030201141312112221 02 00 e8030000".replace(' ', "").as_str())[..]);
    assert_eq!((bytes[17], bytes[65], bytes[127]), (2, 1, 0x80));
    assert_eq!(bytes.iter().filter(|byte| **byte != 0).count(), 16 - 3 + 3);
    let mut nack = NackBody::new(0x0102_0304, 0x1112_1314, 0x2122, 0x3132_3334, Reason::Throttled);
    nack.accept(0);
    nack.accept(255);
    let bytes = nack.as_bytes();
    assert_eq!(bytes[..16], unhex("04030201141312112221 1f 00 34333231".replace(' ', "").as_str())[..]);
    assert_eq!((bytes[16], bytes[47]), (1, 0x80));
}

#[test]
fn ack_maps_answer_at_both_ends_and_nowhere_else() {
    let mut ack = AckBody::new(1, 2, 3, 0, 300);
    for id in [301, 556, 557, 300, 45, 44, 0] {
        ack.refuse(id);
        ack.settle(id);
    }
    let settled: Vec<u32> = (300..700).filter(|id| ack.is_settled(*id)).collect();
    assert_eq!(settled, [300, 301, 556]);
    let refused: Vec<u32> = (0..700).filter(|id| ack.is_refused(*id)).collect();
    assert_eq!(refused, [45, 300, 301, 556]);
    let nothing = AckBody::new(1, 2, 3, 0, 0);
    assert!(!nothing.is_settled(0) && !nothing.is_settled(1) && !nothing.is_settled(u32::MAX));
    let mut map = Map::EMPTY;
    map.set(256);
    assert_eq!((map.count(), map.get(256), map.get(u32::MAX)), (0, false, false));
}

#[test]
fn the_mac_is_the_one_of_the_rfc() {
    // RFC 10032, AEGISMAC-128L test vector. The crate's MAC is fed as this crate feeds it: key, explicit nonce, data.
    let mac = |data: &[&[u8]]| {
        let key = unhex("10010000000000000000000000000000").try_into().unwrap();
        let nonce = unhex("10000200000000000000000000000000").try_into().unwrap();
        let mut mac = aegis::aegis128l::Aegis128LMac::<16>::new_with_nonce(&key, &nonce);
        data.iter().for_each(|part| mac.update(part));
        mac.finalize()
    };
    let data = unhex("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122");
    let expected = unhex("d3f09b2842ad301687d6902c921d7818");
    assert_eq!(mac(&[&data])[..], expected);
    assert_eq!(mac(&[&data[..32], &data[32..]])[..], expected, "in parts");
}

#[test]
fn a_tag_is_the_mac_of_the_frame_with_the_tag_zero() {
    let key = tag::derive(&[7; 32], 0x0102_0304, 0x1112_1314);
    let mut input = vec![7; 32];
    input.extend(unhex("0403020114131211"));
    assert_eq!(key.to_bytes()[..], blake3::derive_key("tachyon 1 frame key", &input)[..16]);
    let fields = FrameFields {
        frame_id: 9,
        session_id: 0x0102_0304,
        shard: 0x2122,
        epoch: 0x1112_1314,
        ..FrameFields::default()
    };
    let mut buffer = [0; 1472];
    let mut writer = FrameWriter::new(&mut buffer, fields);
    for topic in 1..6 {
        writer.push(&Message::inline(topic, 1, 0, b"payload").unwrap()).unwrap();
    }
    let used = writer.finish(Seal::Tag(&key));
    let mut zeroed = buffer[..used].to_vec();
    zeroed[48..64].fill(0);
    let nonce = unhex("04030201141312112221000009000000").try_into().unwrap();
    let mut mac = aegis::aegis128l::Aegis128LMac::<16>::new_with_nonce(&key.to_bytes(), &nonce);
    mac.update(&zeroed);
    assert_eq!(mac.finalize()[..], buffer[48..64]);
    let frame = frame::parse(&buffer[..used], &frame::Lane { frame_bytes_max: 1472, references: false }).unwrap();
    assert!(tag::verify(&key, &frame));
    assert!(!tag::verify(&FrameKey::ZERO, &frame));
}

#[test]
fn reasons_have_one_number_and_one_name_each() {
    let mut numbers: Vec<u8> = Reason::ALL.iter().map(|reason| reason.number()).collect();
    assert!(numbers.is_sorted() && numbers.iter().all(|number| *number != 0 && usize::from(*number) < REASON_SLOTS));
    numbers.dedup();
    assert_eq!(numbers.len(), Reason::ALL.len());
    for reason in Reason::ALL {
        assert_eq!(Reason::from_number(reason.number()), Some(*reason));
        assert!(reason.code().starts_with("E_") && reason.help().ends_with('.'));
        assert_eq!(Reason::ALL.iter().filter(|other| other.code() == reason.code()).count(), 1);
    }
}
