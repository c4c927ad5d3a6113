//! Packets byte by byte, with right lengths and checksums where nothing else is said.

use crate::bed::{OUR_MAC, THEIR_MAC, THEM, US};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tachyon_loader::Session;
use tachyon_wire::{
    Endpoint, Message,
    build::{FrameFields, FrameWriter, Seal},
    frame::BASE_PORT,
};

/// Open to any source.
pub(crate) const OPEN: u32 = 0x0001_0001;
/// Pinned to [`THEM`] and [`SOURCE_PORT`].
pub(crate) const PINNED: u32 = 0x0001_0002;
/// Pinned to [`THEM_V6`] and [`SOURCE_PORT`], and opened by a node.
pub(crate) const NODE: u32 = 0x0001_0003;
/// Nobody's.
pub(crate) const UNKNOWN: u32 = 0x0001_0004;
pub(crate) const SHARD: u16 = 0;
/// Of that shard: topics are spread over 16 shards by their number.
const TOPIC: u32 = 16;
pub(crate) const SOURCE_PORT: u16 = 40_000;
pub(crate) const THEM_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
const US_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// Where a frame begins in a packet over IPv4.
pub(crate) const FRAME: usize = 14 + 20 + 8;

/// The sessions above.
pub(crate) fn sessions() -> Vec<Session> {
    vec![
        Session { id: OPEN, pinned: Endpoint::NONE, by_node: false },
        Session { id: PINNED, pinned: Endpoint::v4(THEM.octets(), SOURCE_PORT), by_node: false },
        Session { id: NODE, pinned: Endpoint::v6(THEM_V6.octets(), SOURCE_PORT), by_node: true },
    ]
}

/// A frame of so many messages, sealed by a crc.
pub(crate) fn frame(session_id: u32, messages: usize, route_id: u32) -> Vec<u8> {
    let fields = FrameFields { session_id, shard: SHARD, frame_id: 7, epoch: 1, route_id, ..FrameFields::default() };
    let mut bytes = vec![0; 64 * (messages + 1)];
    let mut writer = FrameWriter::new(&mut bytes, fields);
    for _ in 0..messages {
        let message = Message::inline(TOPIC, 9, 2, b"prefilter").expect("9 bytes fit");
        writer.push(&message).expect("the buffer has room for all of them");
    }
    let len = writer.finish(Seal::Crc);
    bytes.truncate(len);
    bytes
}

/// The one's complement sum of big-endian words.
fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |byte| u32::from(*byte))).sum()
}

fn folded(mut sum: u32) -> [u8; 2] {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

fn udp(pseudo: u32, payload: &[u8]) -> Vec<u8> {
    let len = (8 + payload.len()) as u16;
    let mut udp = [SOURCE_PORT.to_be_bytes(), (BASE_PORT + SHARD).to_be_bytes(), len.to_be_bytes(), [0, 0]].concat();
    udp.extend(payload);
    let checksum = folded(pseudo + 17 + u32::from(len) + sum(&udp));
    udp[6..8].copy_from_slice(&checksum);
    udp
}

/// A datagram from [`THEM`] to our port.
pub(crate) fn packet(payload: &[u8]) -> Vec<u8> {
    packet_from(THEM, payload)
}

/// A datagram from anybody to our port.
pub(crate) fn packet_from(source: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let mut packet = [OUR_MAC, THEIR_MAC].concat();
    packet.extend([8, 0, 0x45, 0]);
    packet.extend(((28 + payload.len()) as u16).to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet.extend([source.octets(), US.octets()].concat());
    let checksum = folded(sum(&packet[14..34]));
    packet[24..26].copy_from_slice(&checksum);
    packet.extend(udp(sum(&packet[26..34]), payload));
    packet
}

/// The same over IPv6, and with a VLAN tag or without: the longest way to a frame.
pub(crate) fn packet_v6(tagged: bool, payload: &[u8]) -> Vec<u8> {
    let mut packet = [OUR_MAC, THEIR_MAC].concat();
    if tagged {
        packet.extend([0x81, 0, 0, 1]);
    }
    packet.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    packet.extend(((8 + payload.len()) as u16).to_be_bytes());
    packet.extend([17, 64]);
    let addresses = [THEM_V6.octets(), US_V6.octets()].concat();
    packet.extend(&addresses);
    packet.extend(udp(sum(&addresses), payload));
    packet
}

/// The same with some bytes changed. The checksum is not made right: nobody looks at it.
pub(crate) fn with(mut packet: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    packet[at..at + bytes.len()].copy_from_slice(bytes);
    packet
}

/// xorshift64*, so that every run asks for the same addresses.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn address(&mut self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.next())
    }

    fn next(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    /// Prefixes of 24 to 32 bits, as lists of bad neighbourhoods have. None has [`THEM`] in it.
    pub(crate) fn prefixes(&mut self, count: usize) -> Vec<tachyon_loader::Prefix> {
        let mut prefixes = Vec::with_capacity(count);
        while prefixes.len() < count {
            let bits = 24 + (self.next() % 9) as u8;
            let address = self.address();
            if address.octets()[..2] != THEM.octets()[..2] {
                prefixes.extend(tachyon_loader::Prefix::new(IpAddr::V4(address), bits));
            }
        }
        prefixes
    }
}
