//! What the tests share: packets byte by byte, and a loaded program that is asked for its verdict on them.
#![allow(dead_code, reason = "each test file uses a part of this")]

use std::{
    net::{IpAddr, SocketAddr},
    os::unix::fs::MetadataExt,
};
use tachyon_loader::{Config, Content, Counters, Program, Session, Verdict};
use tachyon_wire::{
    Endpoint, Message, Reason,
    build::{FrameFields, FrameWriter, Seal},
    frame::BASE_PORT,
};

/// Where a frame begins in a packet without VLAN tag and options.
pub(crate) const FRAME_V4: usize = 14 + 20 + 8;
/// The same over IPv6.
pub(crate) const FRAME_V6: usize = 14 + 40 + 8;

/// Open to any source.
pub(crate) const OPEN: u32 = 0x0001_0001;
/// Pinned to [`PINNED_IP`].
pub(crate) const PINNED: u32 = 0x0001_0002;
/// Pinned to [`PINNED_IP`] and port 40,000.
pub(crate) const PINNED_PORT: u32 = 0x0001_0003;
/// Pinned to an IPv6 address.
pub(crate) const PINNED_V6: u32 = 0x0001_0004;
/// Opened by a node, from anywhere.
pub(crate) const NODE: u32 = 0x0001_0005;
pub(crate) const SHARD: u16 = 3;
pub(crate) const PINNED_IP: &str = "192.0.2.10:40000";
pub(crate) const PINNED_IP_V6: &str = "[2001:db8::10]:40000";

/// How a packet ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Foreign,
    Ours,
    Redirected,
    Dropped(Reason),
}

/// Whether this test can load programs; says so if not.
pub(crate) fn is_root() -> bool {
    let root = std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    if !root {
        println!("skipped: loading a program into the kernel needs root");
    }
    root
}

pub(crate) fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address and a port")
}

pub(crate) fn endpoint(source: SocketAddr) -> Endpoint {
    match source.ip() {
        IpAddr::V4(ip) => Endpoint::v4(ip.octets(), source.port()),
        IpAddr::V6(ip) => Endpoint::v6(ip.octets(), source.port()),
    }
}

pub(crate) fn sessions() -> Vec<Session> {
    let session = |id, pinned| Session { id, pinned, by_node: id == NODE };
    let any_port = |text: &str| {
        let mut source = address(text);
        source.set_port(0);
        endpoint(source)
    };
    vec![
        session(OPEN, Endpoint::NONE),
        session(NODE, Endpoint::NONE),
        session(PINNED, any_port(PINNED_IP)),
        session(PINNED_PORT, endpoint(address(PINNED_IP))),
        session(PINNED_V6, any_port(PINNED_IP_V6)),
    ]
}

/// A frame of this session with these topics, sealed by a crc.
pub(crate) fn frame(session_id: u32, shard: u16, topics: &[u32]) -> Vec<u8> {
    let fields = FrameFields { session_id, shard, frame_id: 7, epoch: 1, ..FrameFields::default() };
    let mut buffer = vec![0; 64 * (topics.len() + 1)];
    let mut writer = FrameWriter::new(&mut buffer, fields);
    for topic in topics {
        writer.push(&Message::inline(*topic, 9, 2, b"prefilter").expect("a message")).expect("room");
    }
    assert_eq!(writer.finish(Seal::Crc), 64 * (topics.len() + 1));
    buffer
}

/// A good frame of a session: one message, in [`SHARD`].
pub(crate) fn good(session_id: u32) -> Vec<u8> {
    frame(session_id, SHARD, &[u32::from(SHARD)])
}

/// A UDP packet from this source to a port, with right lengths and a UDP checksum that is there but not right.
pub(crate) fn packet(source: SocketAddr, port: u16, payload: &[u8]) -> Vec<u8> {
    let udp_bytes = (8 + payload.len()) as u16;
    let mut packet = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    match source.ip() {
        IpAddr::V4(ip) => {
            packet.extend([0x08, 0x00, 0x45, 0]);
            packet.extend((20 + udp_bytes).to_be_bytes());
            packet.extend([0, 1, 0x40, 0, 64, 17, 0, 0]);
            packet.extend(ip.octets());
            packet.extend([192, 0, 2, 1]);
        }
        IpAddr::V6(ip) => {
            packet.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            packet.extend(udp_bytes.to_be_bytes());
            packet.extend([17, 64]);
            packet.extend(ip.octets());
            packet.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        }
    }
    packet.extend(source.port().to_be_bytes());
    packet.extend(port.to_be_bytes());
    packet.extend(udp_bytes.to_be_bytes());
    packet.extend([0x12, 0x34]);
    packet.extend(payload);
    packet
}

/// The same with some bytes changed.
pub(crate) fn with(mut packet: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    packet[at..at + bytes.len()].copy_from_slice(bytes);
    packet
}

/// The same with some bytes put in.
pub(crate) fn inserted(mut packet: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    packet.splice(at..at, bytes.iter().copied());
    packet
}

/// The port of [`SHARD`].
pub(crate) const PORT: u16 = BASE_PORT + SHARD;

/// A program without an interface.
pub(crate) struct Bed {
    pub(crate) program: Program,
    before: Counters,
}

impl Bed {
    pub(crate) fn new(config: &Config, content: &Content<'_>) -> Self {
        let program = Program::load(config, content).expect("the program loads");
        let before = program.tables().counters().expect("counters");
        Self { program, before }
    }

    /// What becomes of a packet, by answer and by ledger, which must agree.
    pub(crate) fn judge(&mut self, packet: &[u8]) -> End {
        let verdict = self.program.test_run(packet, 1).expect("a run").verdict;
        let after = self.program.tables().counters().expect("counters");
        let before = std::mem::replace(&mut self.before, after);
        let after = &self.before;
        assert_eq!(after.seen(), before.seen() + 1);
        assert_eq!(after.unaccounted(), 0);
        let ended = |was: u64, is: u64| is == was + 1;
        let end = if ended(before.passed_foreign(), after.passed_foreign()) {
            End::Foreign
        } else if ended(before.passed_ours(), after.passed_ours()) {
            End::Ours
        } else if ended(before.redirected(), after.redirected()) {
            End::Redirected
        } else {
            let counted = |reason: &&Reason| ended(before.dropped(**reason), after.dropped(**reason));
            End::Dropped(*Reason::ALL.iter().find(counted).expect("every packet ends somewhere"))
        };
        let expected = match end {
            End::Dropped(_) => Verdict::Drop,
            End::Redirected => Verdict::Redirect,
            End::Foreign | End::Ours => Verdict::Pass,
        };
        assert_eq!(verdict, expected, "the answer and the ledger disagree: {end:?}");
        end
    }
}
