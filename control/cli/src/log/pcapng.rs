//! A capture file of recorded frames: pcapng, as the IETF draft draft-ietf-opsawg-pcapng has it. Each frame stands in UDP, IP and
//! Ethernet as it could have come, from its source to the port of its shard; headers that the log does not hold are zeros or, where
//! a checksum asks for it, right.

use std::{
    io::{self, Write},
    net::{IpAddr, Ipv6Addr},
};
use tachyon_wire::Endpoint;

/// Section header, interface description and enhanced packet blocks.
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;
/// Says in which byte order the file is.
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
/// Ethernet.
const LINK_TYPE: u32 = 1;
/// Most bytes of a packet that readers should expect: what libpcap takes at most.
const PACKET_BYTES_MAX: u32 = 262_144;
/// Options of all blocks, of a section and of an interface.
const COMMENT: u16 = 1;
const SECTION_APPLICATION: u16 = 4;
const INTERFACE_NAME: u16 = 2;
const INTERFACE_RESOLUTION: u16 = 9;
/// Most bytes of a UDP datagram's payload over IPv4: 65,535 without two headers.
pub(crate) const FRAME_BYTES_MAX: usize = 65_507;
/// Locally administered addresses of nobody.
const ETHERNET: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
const UDP: u8 = 17;
const HOPS: u8 = 64;

/// A frame and where it stands.
pub(crate) struct Packet<'a> {
    /// Index of its shard among those that the file was begun with.
    pub(crate) interface: u32,
    pub(crate) unix_ns: u64,
    pub(crate) source: Endpoint,
    /// Destination port.
    pub(crate) port: u16,
    pub(crate) frame: &'a [u8],
    pub(crate) comment: String,
}

/// Begins a file with an interface for each shard.
pub(crate) fn begin(out: &mut impl Write, shards: &[u16]) -> io::Result<()> {
    let mut body = Vec::new();
    body.extend(BYTE_ORDER.to_le_bytes());
    body.extend([1, 0, 0, 0]); // version 1.0
    body.extend(u64::MAX.to_le_bytes()); // length of the section: not said
    option(
        &mut body,
        COMMENT,
        b"Made from a truth log. The node's own addresses are not in it: destinations are zeros.",
    );
    option(&mut body, SECTION_APPLICATION, b"tachyon log export");
    end_options(&mut body);
    block(out, SECTION, &body)?;
    for shard in shards {
        let mut body = Vec::new();
        body.extend(LINK_TYPE.to_le_bytes()); // and two bytes of zeros
        body.extend(PACKET_BYTES_MAX.to_le_bytes());
        option(&mut body, INTERFACE_NAME, format!("shard {shard}").as_bytes());
        option(&mut body, INTERFACE_RESOLUTION, &[9]); // nanoseconds
        end_options(&mut body);
        block(out, INTERFACE, &body)?;
    }
    Ok(())
}

/// Writes one frame.
pub(crate) fn write(out: &mut impl Write, packet: &Packet<'_>) -> io::Result<()> {
    let bytes = packet_bytes(packet);
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let [high, low] = [packet.unix_ns >> 32, packet.unix_ns & 0xffff_ffff];
    let mut body = Vec::with_capacity(bytes.len() + 64);
    body.extend(packet.interface.to_le_bytes());
    body.extend(&high.to_le_bytes()[..4]);
    body.extend(&low.to_le_bytes()[..4]);
    body.extend(length.to_le_bytes()); // captured, and as it was
    body.extend(length.to_le_bytes());
    body.extend(&bytes);
    body.resize(body.len().next_multiple_of(4), 0);
    option(&mut body, COMMENT, packet.comment.as_bytes());
    end_options(&mut body);
    block(out, PACKET, &body)
}

fn block(out: &mut impl Write, kind: u32, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len() + 12).unwrap_or(u32::MAX).to_le_bytes();
    out.write_all(&kind.to_le_bytes())?;
    out.write_all(&length)?;
    out.write_all(body)?;
    out.write_all(&length)
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend(code.to_le_bytes());
    body.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_le_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn end_options(body: &mut Vec<u8>) {
    body.extend([0; 4]);
}

/// Ethernet, IP, UDP, frame.
fn packet_bytes(packet: &Packet<'_>) -> Vec<u8> {
    let udp_bytes = u16::try_from(packet.frame.len() + 8).unwrap_or(u16::MAX);
    let mut bytes = ETHERNET.to_vec();
    let pseudo = match Ipv6Addr::from(packet.source.ip).to_canonical() {
        IpAddr::V4(source) => {
            bytes.extend([0x08, 0x00]);
            let mut header = vec![0x45, 0];
            header.extend((udp_bytes.saturating_add(20)).to_be_bytes());
            header.extend([0, 0, 0x40, 0, HOPS, UDP, 0, 0]); // not to be fragmented
            header.extend(source.octets());
            header.extend([0; 4]);
            let sum = checksum(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            bytes.extend(header);
            source.octets().to_vec()
        }
        IpAddr::V6(source) => {
            bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            bytes.extend(udp_bytes.to_be_bytes());
            bytes.extend([UDP, HOPS]);
            bytes.extend(source.octets());
            bytes.extend([0; 16]);
            source.octets().to_vec()
        }
    };
    let mut datagram = Vec::with_capacity(usize::from(udp_bytes));
    datagram.extend(packet.source.port.get().to_be_bytes());
    datagram.extend(packet.port.to_be_bytes());
    datagram.extend(udp_bytes.to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(packet.frame);
    // The pseudo header: the sums of both IP versions' come to the same, because lengths and zeros stand wherever they stand.
    let summed = [&pseudo, [0, UDP].as_slice(), &udp_bytes.to_be_bytes(), &datagram].concat();
    let sum = match checksum(&summed) {
        0 => u16::MAX, // 0 would say that there is none
        sum => sum,
    };
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    bytes.extend(datagram);
    bytes
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum: u64 = words.map(u64::from).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::checksum;

    #[test]
    fn the_checksum_is_that_of_the_example_in_rfc_1071() {
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(checksum(&[0xff]), !0xff00);
    }
}
