//! The program against the one parser: golden vectors, generated frames and mutated ones must come to the same end, as far
//! as headers tell. `PREFILTER_FRAMES` sets how many frames of each kind are tried (a million take about 10 s),
//! `PREFILTER_SEED` repeats a run, and `PREFILTER_VECTORS` is where the golden vectors are if this does not run in the checkout.
#![allow(
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "test helpers panic where a test would, say what was skipped or measured, and sizes are small"
)]

mod bed;

use bed::{Bed, End, NODE, OPEN, PINNED, PINNED_IP, PINNED_IP_V6, PINNED_PORT, PINNED_V6, SHARD, address, endpoint};
use serde_json::Value;
use std::{env, fs, net::SocketAddr, path::PathBuf};
use tachyon_loader::{Config, Content, Session, TopicBlocks};
use tachyon_wire::{
    Endpoint, Lane, Message, Reason,
    ack::{AckBody, NackBody},
    build::{Body, FrameFields, FrameWriter, Seal, control},
    frame::{self, BASE_PORT, FrameHeader, KIND_ACK, KIND_DATA, KIND_NACK, LINE, PROVENANCE, provenance_lines},
    image::TOPIC_SLOTS_MAX,
};
use zerocopy::{FromBytes, IntoBytes};

const FRAME_MAX: u32 = 1472;

/// The frame with a canonical body: whatever else the parser finds wrong is wrong in the header, and the filter's to find.
fn with_canonical_body(bytes: &[u8]) -> Vec<u8> {
    let mut frame = bytes.to_vec();
    let Ok((header, _)) = FrameHeader::read_from_prefix(bytes) else { return frame };
    let shard = header.shard.get();
    let body = &mut frame[LINE..];
    match header.kind {
        KIND_ACK if body.len() == 2 * LINE => {
            body.copy_from_slice(AckBody::new(1, 1, shard, 0, 1).as_bytes());
        }
        KIND_NACK if body.len() == LINE => {
            body.copy_from_slice(NackBody::new(1, 1, shard, 1, Reason::BadPacket).as_bytes());
        }
        KIND_DATA if header.flags.get() & PROVENANCE != 0 => {
            let count = usize::from(header.count.get());
            if let Some(lines) = body.get_mut(count * LINE..(count + provenance_lines(count)) * LINE) {
                lines.fill(0);
            }
        }
        _ => {}
    }
    frame
}

/// What the parser and the engine's checks before the seal come to, and then the filter's own rule for topics.
fn expected(bytes: &[u8], shard: u16, source: SocketAddr, max: u32, sessions: &[Session]) -> End {
    let frame = with_canonical_body(bytes);
    let frame = match frame::parse(&frame, &Lane { frame_bytes_max: max, references: false }) {
        Ok(frame) => frame,
        Err(reason) => return End::Dropped(reason),
    };
    let session = sessions.iter().find(|session| session.id == frame.header.session_id.get());
    if let Err(reason) = frame::check_route(&frame, session.is_some_and(|session| session.by_node)) {
        return End::Dropped(reason);
    }
    if frame.header.shard.get() != shard {
        return End::Dropped(Reason::WrongShard);
    }
    let from_there = |session: &Session| session.pinned.is_none() || session.pinned.pins(&endpoint(source));
    if !session.is_some_and(from_there) {
        return End::Dropped(Reason::NoSession);
    }
    match frame.messages.first() {
        Some(first) if first.topic_id.get() >= TOPIC_SLOTS_MAX => End::Dropped(Reason::FilterTopic),
        _ => End::Ours,
    }
}

fn setting(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// xorshift64*; seeded, and the seed printed, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn from_setting(salt: u64) -> Self {
        let seed = setting("PREFILTER_SEED", 0x7ac4_0001);
        println!("PREFILTER_SEED={seed}");
        Self((seed ^ salt).max(1))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, count: usize) -> usize {
        (self.next() % count as u64) as usize
    }

    fn of<T: Copy>(&mut self, choice: &[T]) -> T {
        choice[self.below(choice.len())]
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

/// A frame that is right but for, now and then, one field that is drawn freely.
fn generated(random: &mut Random) -> Vec<u8> {
    let fields = FrameFields {
        session_id: random.of(&[OPEN, NODE, PINNED, PINNED_PORT, PINNED_V6, 99, 0]),
        shard: if random.one_in(8) { random.next() as u16 % 20 } else { SHARD },
        frame_id: if random.one_in(16) { 0 } else { random.next() as u32 },
        route_id: if random.one_in(6) { random.next() as u32 } else { 0 },
        flags: random.of(&[0, 0, PROVENANCE, frame::ACK_WANTED, frame::TRACE, frame::DURABLE]),
        epoch: random.next() as u32,
        ..FrameFields::default()
    };
    let mut buffer = vec![0; 2048];
    let used = match random.below(6) {
        0 => control(&mut buffer, &fields, Body::Ack(&AckBody::new(5, 6, fields.shard, 1, 9)), Seal::Crc),
        1 => {
            control(&mut buffer, &fields, Body::Nack(&NackBody::new(5, 6, fields.shard, 7, Reason::Sender)), Seal::Crc)
        }
        2 => control(&mut buffer, &fields, Body::Heartbeat, Seal::Crc),
        _ => {
            let mut writer = FrameWriter::new(&mut buffer, fields);
            for _ in 0..=random.below(24) {
                let topic =
                    if random.one_in(4) { random.next() as u32 } else { random.next() as u32 % TOPIC_SLOTS_MAX };
                let message = Message::inline(topic.max(1), 9, 1, b"generated").expect("a message");
                writer.push(&message).expect("room");
            }
            Ok(writer.finish(Seal::Crc))
        }
    };
    buffer.truncate(used.expect("room"));
    if random.one_in(3) {
        draw_a_field(&mut buffer, random);
    }
    buffer
}

/// Offset and bytes of each field of the header.
const FIELDS: [(usize, usize); 15] = [
    (0, 4),
    (4, 2),
    (6, 1),
    (7, 1),
    (8, 4),
    (12, 4),
    (16, 4),
    (20, 4),
    (24, 4),
    (28, 2),
    (30, 2),
    (32, 8),
    (40, 4),
    (44, 4),
    (48, 16),
];

fn draw_a_field(frame: &mut [u8], random: &mut Random) {
    let (at, bytes) = random.of(&FIELDS);
    let value = if random.one_in(2) { random.next() % 8 } else { random.next() << 16 ^ random.next() };
    let both = [value.to_le_bytes(), value.to_le_bytes()].concat();
    frame[at..at + bytes].copy_from_slice(&both[..bytes]);
}

/// Bytes of a frame with bits turned, cut, lengthened, or with lengths that lie.
fn mutated(mut frame: Vec<u8>, random: &mut Random) -> Vec<u8> {
    for _ in 0..=random.below(3) {
        match random.below(5) {
            0 => frame.truncate(random.below(frame.len() + 1)),
            1 => frame.extend(vec![0; random.of(&[1, 63, 64, 128])]),
            2 if frame.len() >= LINE => draw_a_field(&mut frame, random),
            _ if frame.is_empty() => {}
            _ => {
                // Headers are short beside bodies, and most checks are there.
                let reach = if random.one_in(4) { frame.len() } else { frame.len().min(LINE) };
                let at = random.below(reach);
                frame[at] ^= 1 << random.below(8);
            }
        }
    }
    frame
}

const SOURCES: [&str; 4] = [PINNED_IP, "192.0.2.10:40001", PINNED_IP_V6, "198.51.100.9:7"];

fn compare(bed: &mut Bed, frame: &[u8], random: &mut Random, sessions: &[Session], ends: &mut Vec<(End, u64)>) {
    let source = address(random.of(&SOURCES));
    let wanted = expected(frame, SHARD, source, FRAME_MAX, sessions);
    let found = bed.judge(&bed::packet(source, bed::PORT, frame));
    assert_eq!(found, wanted, "from {source}: {frame:02x?}");
    match ends.iter_mut().find(|(end, _)| *end == found) {
        Some((_, count)) => *count += 1,
        None => ends.push((found, 1)),
    }
}

fn bed(sessions: &[Session]) -> Bed {
    let config = Config { frame_bytes_max: FRAME_MAX, ..Config::default() };
    Bed::new(&config, &Content { sessions, topics: Some(&TopicBlocks::ALL), ..Content::default() })
}

#[test]
fn generated_frames_come_to_the_same_end() {
    if !bed::is_root() {
        return;
    }
    let sessions = bed::sessions();
    let (mut bed, mut random, mut ends) = (bed(&sessions), Random::from_setting(1), Vec::new());
    for _ in 0..setting("PREFILTER_FRAMES", 200_000) {
        compare(&mut bed, &generated(&mut random), &mut random, &sessions, &mut ends);
    }
    println!("{ends:?}");
    assert!(ends.len() == 6, "every end was reached: {ends:?}");
}

#[test]
fn mutated_frames_come_to_the_same_end() {
    if !bed::is_root() {
        return;
    }
    let sessions = bed::sessions();
    let (mut bed, mut random, mut ends) = (bed(&sessions), Random::from_setting(2), Vec::new());
    for _ in 0..setting("PREFILTER_FRAMES", 200_000) {
        let frame = generated(&mut random);
        compare(&mut bed, &mutated(frame, &mut random), &mut random, &sessions, &mut ends);
    }
    println!("{ends:?}");
}

/// Whatever the headers say, one end is counted, and the kernel's verifier was right to trust the program.
#[test]
fn mutated_packets_end_once() {
    if !bed::is_root() {
        return;
    }
    let sessions = bed::sessions();
    let (mut bed, mut random) = (bed(&sessions), Random::from_setting(3));
    for _ in 0..setting("PREFILTER_FRAMES", 200_000) {
        let mut packet = bed::packet(address(random.of(&SOURCES)), bed::PORT, &generated(&mut random));
        for _ in 0..=random.below(4) {
            let at = random.below(bed::FRAME_V6);
            let any = random.next() as u8;
            packet[at] = random.of(&[0, 1, 0x45, 0x4f, 0x60, 0x81, 0x86, 0xff, any]);
        }
        packet.truncate(14.max(random.below(4 * packet.len())));
        bed.judge(&packet);
    }
}

fn number(value: &Value) -> u32 {
    value.as_u64().and_then(|number| number.try_into().ok()).expect("a number of 32 bits")
}

fn pinned(text: &str) -> Endpoint {
    match (text.parse::<SocketAddr>(), text.parse()) {
        (Ok(source), _) => endpoint(source),
        (_, Ok(ip)) => endpoint(SocketAddr::new(ip, 0)),
        _ => Endpoint::NONE,
    }
}

fn sessions_of(vector: &Value) -> Vec<Session> {
    let session = |row: &Value| Session {
        id: number(&row["session_id"]),
        pinned: pinned(row["pinned"].as_str().expect("text")),
        by_node: row["opened_by_node"].as_bool().expect("a boolean"),
    };
    vector["sessions"].as_array().expect("a list").iter().map(session).collect()
}

#[test]
fn golden_vectors_come_to_the_same_end() {
    if !bed::is_root() {
        return;
    }
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../spec/vectors");
    let folder = env::var_os("PREFILTER_VECTORS").map_or(here, PathBuf::from);
    let mut beds: Vec<((u32, u32), Bed)> = Vec::new();
    let mut tried = 0;
    for entry in fs::read_dir(folder).expect("spec/vectors") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let vector: Value = serde_json::from_str(&fs::read_to_string(&path).expect("text")).expect("JSON");
        let bytes = fs::read(path.with_extension("bin")).expect("bytes");
        let assumes = &vector["assumes"];
        if assumes["receiver"] != "node" {
            continue; // a subscriber's frames come to no node
        }
        let of = (number(&assumes["frame_bytes_max"]), number(&assumes["shard_count"]));
        let at = beds.iter().position(|(known, _)| *known == of).unwrap_or_else(|| {
            let config = Config { frame_bytes_max: of.0, shard_count: of.1 as u16, ..Config::default() };
            beds.push((of, Bed::new(&config, &Content::default())));
            beds.len() - 1
        });
        let bed = &mut beds[at].1;
        let sessions = sessions_of(&vector);
        sessions.iter().for_each(|session| bed.program.tables().session_add(session).expect("room"));
        let (shard, source) =
            (number(&assumes["port_shard"]) as u16, address(assumes["source"].as_str().expect("text")));
        let wanted = expected(&bytes, shard, source, of.0, &sessions);
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        assert_eq!(bed.judge(&bed::packet(source, BASE_PORT + shard, &bytes)), wanted, "{name}");
        assert_as_the_vector_says(&name, &vector, wanted);
        for session in &sessions {
            assert!(bed.program.tables().session_remove(session.id).expect("removed"), "{name}");
        }
        tried += 1;
    }
    assert!(tried > 100, "{tried} vectors");
}

/// The comparison above is with the parser; this one is with the file. Only bodies of acks, nacks and provenance, which
/// the filter does not read, and topics that no node has, may make a difference.
fn assert_as_the_vector_says(name: &str, vector: &Value, end: End) {
    let refused = &vector["refused"];
    let early = refused["check"].as_u64().is_some_and(|check| check <= 4);
    let body = [
        "ack-zero",
        "nack-zero",
        "ack-padding",
        "ack-class",
        "ack-shard",
        "nack-padding",
        "nack-reason-0",
        "nack-shard",
        "nack-frame-0",
    ];
    let read_by_nobody = body.contains(&name) || name.starts_with("provenance-");
    match end {
        End::Dropped(Reason::FilterTopic) => assert!(!early, "{name}"),
        End::Dropped(reason) => assert!(early && refused["reason"] == reason.code(), "{name}: {reason:?}"),
        _ => assert!(!early || read_by_nobody, "{name} passes, and should not: {refused}"),
    }
}
