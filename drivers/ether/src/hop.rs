//! Headers towards one destination: everything that does not depend on the frame is ready, with its checksums.

use crate::{
    HEADER_BYTES_MAX, Interface, Mac, address_bytes, checksum,
    packet::{
        ETHERNET_BYTES, IPV4_BYTES, IPV6_BYTES, PROTOCOL_UDP, TAG_BYTES, TYPE_IPV4, TYPE_IPV6, TYPE_TAG, UDP_BYTES,
    },
};
use core::net::IpAddr;

/// Header bytes of the four shapes: IPv4 and IPv6, without and with a VLAN tag.
const V4: usize = ETHERNET_BYTES + IPV4_BYTES + UDP_BYTES;
const V4_TAGGED: usize = V4 + TAG_BYTES;
const V6: usize = ETHERNET_BYTES + IPV6_BYTES + UDP_BYTES;
const V6_TAGGED: usize = V6 + TAG_BYTES;
const _: () = assert!(V4 == 42 && V4_TAGGED == 46 && V6 == 62 && V6_TAGGED == HEADER_BYTES_MAX);

/// DSCP 26 (AF31, which RoCE fabrics commonly map to their lossless queue) with ECT(0), so that a switch marks before
/// it drops.
const TRAFFIC_CLASS: u8 = 26 << 2 | 0b10;
/// Hops a packet may take, as hosts commonly set it (RFC 1700's recommended default).
const HOPS_MAX: u8 = 64;
/// IPv4 DON'T FRAGMENT: frames are never fragmented, and with it the identification may be 0 (RFC 6864).
const DONT_FRAGMENT: [u8; 2] = [0x40, 0x00];

/// What goes into the UDP checksum field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UdpChecksum {
    /// Zero over IPv4, where frames protect themselves; computed all the same over IPv6, which requires it.
    None,
    /// The checksum.
    Compute,
    /// The sum of the pseudo header, not complemented, which the device completes.
    Device,
}

/// The headers from one of our ports to one destination address.
#[derive(Clone, Copy, Debug)]
pub struct Hop {
    /// With lengths, UDP ports and checksums zero, and zeros behind it.
    template: [u8; HEADER_BYTES_MAX],
    header_bytes: u8,
    port: u16,
    /// Sum of the template's IPv4 header.
    ip_sum: u32,
    /// Sum of the pseudo header but for the length.
    pseudo_sum: u32,
}

impl Hop {
    /// Headers from the port with this index and interface towards `to`, by way of the device with `next_hop_mac`;
    /// `None` if the port has no address of that family to send from.
    #[must_use]
    pub fn new(from: &Interface, port: u16, next_hop_mac: Mac, to: IpAddr) -> Option<Self> {
        let source = from.source_towards(to)?;
        let mut bytes = [0; HEADER_BYTES_MAX];
        let ether_type = if to.is_ipv4() { TYPE_IPV4 } else { TYPE_IPV6 };
        let at = write_ethernet(&mut bytes, next_hop_mac, from, ether_type);
        let ip = &mut bytes[at..];
        let (ip_bytes, addresses) = match (source, to) {
            (IpAddr::V4(source), IpAddr::V4(to)) => {
                ip[..12].copy_from_slice(&[0x45, TRAFFIC_CLASS, 0, 0, 0, 0, 0, 0, HOPS_MAX, PROTOCOL_UDP, 0, 0]);
                ip[6..8].copy_from_slice(&DONT_FRAGMENT);
                ip[12..16].copy_from_slice(&source.octets());
                ip[16..20].copy_from_slice(&to.octets());
                (IPV4_BYTES, 12..20)
            }
            _ => {
                let class = [0x60 | TRAFFIC_CLASS >> 4, TRAFFIC_CLASS << 4, 0, 0, 0, 0, PROTOCOL_UDP, HOPS_MAX];
                ip[..8].copy_from_slice(&class);
                ip[8..24].copy_from_slice(&address_bytes(source));
                ip[24..40].copy_from_slice(&address_bytes(to));
                (IPV6_BYTES, 8..40)
            }
        };
        let ip_sum = u32::from(checksum::fold(checksum::sum(&ip[..ip_bytes])));
        let pseudo = checksum::sum(&ip[addresses]) + checksum::word(u16::from(PROTOCOL_UDP));
        let pseudo_sum = u32::from(checksum::fold(pseudo));
        let header_bytes = u8::try_from(at + ip_bytes + UDP_BYTES).ok()?;
        Some(Self { template: bytes, header_bytes, port, ip_sum, pseudo_sum })
    }

    /// The index of the port that packets leave from.
    #[inline]
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Bytes of the headers: 42, 46, 62 or 66.
    #[inline]
    #[must_use]
    pub const fn header_bytes(&self) -> usize {
        self.header_bytes as usize
    }

    /// Writes the headers for a payload into `header`, which has exactly [`Hop::header_bytes`] bytes; the payload lies
    /// behind it and is no longer than the port's MTU allows.
    #[inline]
    pub fn write(
        &self,
        header: &mut [u8],
        source_port: u16,
        destination_port: u16,
        payload: &[u8],
        checksum: UdpChecksum,
    ) {
        debug_assert_eq!(header.len(), self.header_bytes(), "as long as the headers are");
        let ports = [source_port, destination_port];
        // The length is a constant in each arm, so that all of it becomes a few moves.
        match self.header_bytes() {
            V4 => self.fill::<V4>(header, ports, payload, checksum),
            V4_TAGGED => self.fill::<V4_TAGGED>(header, ports, payload, checksum),
            V6 => self.fill::<V6>(header, ports, payload, checksum),
            _ => self.fill::<V6_TAGGED>(header, ports, payload, checksum),
        }
    }

    #[inline]
    fn fill<const BYTES: usize>(&self, header: &mut [u8], ports: [u16; 2], payload: &[u8], checksum: UdpChecksum) {
        let (Some(header), Some(template)) = (header.first_chunk_mut::<BYTES>(), self.template.first_chunk::<BYTES>())
        else {
            return;
        };
        *header = *template;
        let is_v4 = BYTES < V6;
        let udp_at = BYTES - UDP_BYTES;
        let udp_bytes = length(UDP_BYTES + payload.len());
        if is_v4 {
            let ip_at = udp_at - IPV4_BYTES;
            let total = length(IPV4_BYTES + UDP_BYTES + payload.len());
            header[ip_at + 2..ip_at + 4].copy_from_slice(&total.to_be_bytes());
            let sum = u64::from(self.ip_sum) + checksum::word(total);
            header[ip_at + 10..ip_at + 12].copy_from_slice(&checksum::field(sum));
        } else {
            let length_at = udp_at - IPV6_BYTES + 4;
            header[length_at..length_at + 2].copy_from_slice(&udp_bytes.to_be_bytes());
        }
        let [source, destination] = ports;
        header[udp_at..udp_at + 2].copy_from_slice(&source.to_be_bytes());
        header[udp_at + 2..udp_at + 4].copy_from_slice(&destination.to_be_bytes());
        header[udp_at + 4..udp_at + 6].copy_from_slice(&udp_bytes.to_be_bytes());
        let pseudo = u64::from(self.pseudo_sum) + checksum::word(udp_bytes);
        let field = match checksum {
            UdpChecksum::None if is_v4 => [0, 0],
            UdpChecksum::Device => checksum::fold(pseudo).to_ne_bytes(),
            UdpChecksum::None | UdpChecksum::Compute => {
                let ports = checksum::word(source) + checksum::word(destination) + checksum::word(udp_bytes);
                match checksum::field(pseudo + ports + checksum::sum(payload)) {
                    // Zero would mean that there is none (RFC 768); both are zero in one's complement.
                    [0, 0] => [0xff, 0xff],
                    field => field,
                }
            }
        };
        header[udp_at + 6..udp_at + 8].copy_from_slice(&field);
    }
}

/// Writes the Ethernet header of a packet that leaves from a port, with the port's VLAN tag; where the next one starts.
/// Tags carry no priority: switches take it from the traffic class.
pub(crate) fn write_ethernet(bytes: &mut [u8], to: Mac, from: &Interface, ether_type: u16) -> usize {
    bytes[..6].copy_from_slice(&to);
    bytes[6..12].copy_from_slice(&from.mac);
    let mut at = 12;
    if let Some(vlan) = from.vlan {
        bytes[12..14].copy_from_slice(&TYPE_TAG.to_be_bytes());
        bytes[14..16].copy_from_slice(&vlan.to_be_bytes());
        at += TAG_BYTES;
    }
    bytes[at..at + 2].copy_from_slice(&ether_type.to_be_bytes());
    at + 2
}

/// A length field. Payloads are at most an MTU long, which a `u16` holds.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "at most an MTU, which is a u16")]
const fn length(bytes: usize) -> u16 {
    debug_assert!(bytes <= 0xffff, "longer than an IP packet can be");
    bytes as u16
}
