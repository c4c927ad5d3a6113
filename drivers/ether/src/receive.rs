//! Where the frame is in a received packet, if it carries one for us.

use crate::{
    Foreign, Interface, Mac, NETWORKS_MAX, checksum,
    interface::is_unicast,
    packet::{
        self, ALL_NODES, ARP_BYTES, ECHO_REQUEST, ECHO_REQUEST_V6, ETHERNET_BYTES, IPV4_BYTES, IPV6_BYTES,
        NEIGHBOUR_ADVERTISEMENT, NEIGHBOUR_SOLICITATION, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_UDP, TYPE_ARP,
        TYPE_IPV4, TYPE_IPV6, UDP_BYTES,
    },
};
use arrayvec::ArrayVec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tachyon_wire::Endpoint;

/// Bytes of the headers that nearly every packet has: Ethernet without a tag, IPv4 without options, UDP.
const PLAIN_BYTES: usize = ETHERNET_BYTES + IPV4_BYTES + UDP_BYTES;
/// The bits of IPv4's flags and offset that only fragments have set: MORE FRAGMENTS, and any offset.
const FRAGMENT_BITS: u16 = 0x3fff;
/// IPv6 next headers that are extensions (IANA's list of extension header types).
const EXTENSIONS: [u8; 11] = [0, 43, 44, 50, 51, 60, 135, 139, 140, 253, 254];

/// What is known of a packet's checksums before anybody looks: what the device already verified, so that it need not be done again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// The IPv4 header checksum.
    pub ip: bool,
    /// The UDP checksum.
    pub udp: bool,
    /// It may come from a sender on this machine that left its UDP checksum to a device which the packet never met; then the field
    /// holds what that device would have begun with. Nothing is lost by taking it: the packet was on no wire, and its frame is
    /// sealed.
    pub partial: bool,
}

/// A frame in a packet: the payload of its UDP datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where it starts in the packet, in bytes.
    pub offset: u32,
    /// Its length in bytes; never 0.
    pub len: u32,
    /// The shard whose port it came to.
    pub shard: u16,
    /// Whom it came from.
    pub source: Endpoint,
}

/// Finds frames in the packets of one port.
#[derive(Clone, Debug)]
pub struct Receiver {
    mac: Mac,
    vlan: Option<u16>,
    v4: ArrayVec<[u8; 4], NETWORKS_MAX>,
    v6: ArrayVec<[u8; 16], NETWORKS_MAX>,
    base_port: u16,
    shard_count: u16,
}

impl Receiver {
    /// A receiver for the packets of this port.
    #[must_use]
    pub fn new(interface: &Interface) -> Self {
        let networks = interface.networks.iter();
        let v4 = networks.clone().filter_map(|network| match network.ip {
            IpAddr::V4(ip) => Some(ip.octets()),
            IpAddr::V6(_) => None,
        });
        let v6 = networks.filter_map(|network| match network.ip {
            IpAddr::V4(_) => None,
            IpAddr::V6(ip) => Some(ip.octets()),
        });
        let Interface { mac, vlan, base_port, shard_count, .. } = *interface;
        Self { mac, vlan, v4: v4.collect(), v6: v6.collect(), base_port, shard_count }
    }

    /// Finds the frame in a packet that starts with its Ethernet header; `checked` is what the device verified of it.
    ///
    /// # Errors
    /// What the packet is instead.
    #[inline]
    pub fn find(&self, packet: &[u8], checked: Checked) -> Result<Found, Foreign> {
        match self.find_plain(packet, checked) {
            Some(found) => Ok(found),
            None => self.find_any(packet, checked),
        }
    }

    /// The same, with what was found handed to `take` where it was found: as a result it would be written to the stack in
    /// pieces and moved from there whole, and the move waits for the pieces (5 ns a packet).
    ///
    /// # Errors
    /// What the packet is instead; `take` is not called then.
    #[inline(always)]
    pub fn find_then(&self, packet: &[u8], checked: Checked, mut take: impl FnMut(Found)) -> Result<(), Foreign> {
        if let Some(found) = self.find_plain(packet, checked) {
            take(found);
            return Ok(());
        }
        self.find_any(packet, checked).map(take)
    }

    /// The packets that nearly all traffic consists of. Everything is compared before anything is decided, and whatever
    /// does not fit is looked at again by [`Self::find_any`], which alone knows reasons.
    #[inline(always)]
    fn find_plain(&self, packet: &[u8], checked: Checked) -> Option<Found> {
        let head = packet.first_chunk::<PLAIN_BYTES>()?;
        let at = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let to = [head[30], head[31], head[32], head[33]];
        let from = [head[26], head[27], head[28], head[29]];
        let total = usize::from(at(16));
        let shard = u32::from(at(36)).wrapping_sub(u32::from(self.base_port));
        // Options would move the ports; 0x45 is version 4 and five words of header.
        let shaped = head[12..15] == [0x08, 0x00, 0x45]
            && head[..6] == self.mac
            && self.vlan.is_none()
            && at(20) & FRAGMENT_BITS == 0
            && head[23] == PROTOCOL_UDP
            && total > IPV4_BYTES + UDP_BYTES
            && total <= packet.len() - ETHERNET_BYTES
            && usize::from(at(38)) == total - IPV4_BYTES
            && shard < u32::from(self.shard_count);
        if !shaped || !self.v4.contains(&to) || !self.is_sender_v4(from) {
            return None;
        }
        if !checked.ip && !checksum::is_right(checksum::sum(&head[ETHERNET_BYTES..ETHERNET_BYTES + IPV4_BYTES])) {
            return None;
        }
        if !checked.udp && head[40..42] != [0, 0] {
            let datagram = packet.get(ETHERNET_BYTES + IPV4_BYTES..ETHERNET_BYTES + total)?;
            if !is_datagram_right(&head[26..34], datagram) {
                return None;
            }
        }
        Some(Found {
            offset: number(PLAIN_BYTES),
            len: number(total - IPV4_BYTES - UDP_BYTES),
            shard: u16::try_from(shard).unwrap_or(0),
            source: Endpoint::v4(from, at(34)),
        })
    }

    /// Any packet, header by header.
    #[cold]
    #[inline(never)]
    fn find_any(&self, packet: &[u8], checked: Checked) -> Result<Found, Foreign> {
        let opened = packet::open(packet, self.vlan)?;
        let (ours, group) = (opened.to == self.mac, packet::is_group(opened.to));
        match opened.ether_type {
            TYPE_ARP | TYPE_IPV4 | TYPE_IPV6 if !ours && !group => Err(Foreign::OtherMac),
            TYPE_ARP if opened.body.len() < ARP_BYTES => Err(Foreign::Runt),
            TYPE_ARP => Err(Foreign::Neighbour),
            TYPE_IPV4 if group => Err(Foreign::OtherMac),
            TYPE_IPV4 => self.find_v4(opened.body, opened.at, checked),
            TYPE_IPV6 if group && self.is_discovery(opened.body) => Err(Foreign::Neighbour),
            TYPE_IPV6 if group => Err(Foreign::OtherMac),
            TYPE_IPV6 => self.find_v6(opened.body, opened.at, checked),
            _ => Err(Foreign::NotIp),
        }
    }

    fn find_v4(&self, body: &[u8], at: usize, checked: Checked) -> Result<Found, Foreign> {
        let head = body.first_chunk::<IPV4_BYTES>().ok_or(Foreign::Runt)?;
        if head[0] >> 4 != 4 {
            return Err(Foreign::NotIp);
        }
        let header_bytes = usize::from(head[0] & 0xf) * 4;
        let total = usize::from(u16::from_be_bytes([head[2], head[3]]));
        if header_bytes < IPV4_BYTES || total < header_bytes {
            return Err(Foreign::Length);
        }
        let (header, datagram) = body.get(..total).ok_or(Foreign::Length)?.split_at(header_bytes);
        if !checked.ip && !checksum::is_right(checksum::sum(header)) {
            return Err(Foreign::IpChecksum);
        }
        let from = [head[12], head[13], head[14], head[15]];
        let to = [head[16], head[17], head[18], head[19]];
        if !self.v4.contains(&to) || !self.is_sender_v4(from) {
            return Err(Foreign::OtherAddress);
        }
        if u16::from_be_bytes([head[6], head[7]]) & FRAGMENT_BITS != 0 {
            return Err(Foreign::Fragment);
        }
        match (head[9], datagram.first()) {
            (PROTOCOL_ICMP, Some(&ECHO_REQUEST)) => return Err(Foreign::Neighbour),
            (PROTOCOL_UDP, _) => {}
            _ => return Err(Foreign::NotUdp),
        }
        let (shard, port) = self.udp(datagram)?;
        if datagram[6..8] != [0, 0] && !is_checked(checked, &head[12..20], datagram) {
            return Err(Foreign::UdpChecksum);
        }
        Ok(found(at + header_bytes, datagram, shard, Endpoint::v4(from, port)))
    }

    fn find_v6(&self, body: &[u8], at: usize, checked: Checked) -> Result<Found, Foreign> {
        let (head, rest) = body.split_first_chunk::<IPV6_BYTES>().ok_or(Foreign::Runt)?;
        if head[0] >> 4 != 6 {
            return Err(Foreign::NotIp);
        }
        let length = usize::from(u16::from_be_bytes([head[4], head[5]]));
        let datagram = rest.get(..length).ok_or(Foreign::Length)?;
        let (from, to) = addresses_v6(head);
        if !self.v6.contains(&to) || !self.is_sender_v6(from) {
            return Err(Foreign::OtherAddress);
        }
        match (head[6], datagram.first()) {
            (extension, _) if EXTENSIONS.contains(&extension) => return Err(Foreign::Extension),
            (PROTOCOL_ICMPV6, Some(&(ECHO_REQUEST_V6 | NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT))) => {
                return Err(Foreign::Neighbour);
            }
            (PROTOCOL_UDP, _) => {}
            _ => return Err(Foreign::NotUdp),
        }
        let (shard, port) = self.udp(datagram)?;
        // Without it nothing would protect the addresses: IPv6 has no checksum of its own.
        if datagram[6..8] == [0, 0] || !is_checked(checked, &head[8..40], datagram) {
            return Err(Foreign::UdpChecksum);
        }
        Ok(found(at + IPV6_BYTES, datagram, shard, Endpoint::v6(from, port)))
    }

    /// The shard and the source port of a datagram whose lengths are right; it has a whole UDP header then.
    fn udp(&self, datagram: &[u8]) -> Result<(u16, u16), Foreign> {
        let head = datagram.first_chunk::<UDP_BYTES>().ok_or(Foreign::Length)?;
        let shard = u16::from_be_bytes([head[2], head[3]]).checked_sub(self.base_port);
        let shard = shard.filter(|shard| *shard < self.shard_count).ok_or(Foreign::OtherPort)?;
        // An empty payload is no frame, and a stride of 0 would never end.
        if usize::from(u16::from_be_bytes([head[4], head[5]])) != datagram.len() || datagram.len() == UDP_BYTES {
            return Err(Foreign::Length);
        }
        Ok((shard, u16::from_be_bytes([head[0], head[1]])))
    }

    /// Whether an IPv6 packet to an Ethernet group is neighbour discovery in one of the groups that we listen in.
    fn is_discovery(&self, body: &[u8]) -> bool {
        let Some((head, rest)) = body.split_first_chunk::<IPV6_BYTES>() else { return false };
        let length = usize::from(u16::from_be_bytes([head[4], head[5]]));
        let (_, to) = addresses_v6(head);
        let kind = rest.get(..length).and_then(|message| message.first());
        head[0] >> 4 == 6
            && head[6] == PROTOCOL_ICMPV6
            && matches!(kind, Some(&(NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT)))
            && (to == ALL_NODES || self.v6.iter().any(|ours| packet::solicited_group(*ours) == to))
    }

    /// Whether a packet can come from this address: that of a single machine, and none of ours.
    #[inline]
    fn is_sender_v4(&self, from: [u8; 4]) -> bool {
        is_unicast(Ipv4Addr::from(from).into()) && !self.v4.contains(&from)
    }

    /// The same; and no IPv4 address in IPv6 form, or a sender could take on the endpoint of any IPv4 peer.
    fn is_sender_v6(&self, from: [u8; 16]) -> bool {
        let ip = Ipv6Addr::from(from);
        is_unicast(ip.into()) && ip.to_ipv4_mapped().is_none() && !self.v6.contains(&from)
    }
}

/// Source and destination.
fn addresses_v6(head: &[u8; IPV6_BYTES]) -> ([u8; 16], [u8; 16]) {
    let (mut from, mut to) = ([0; 16], [0; 16]);
    from.copy_from_slice(&head[8..24]);
    to.copy_from_slice(&head[24..40]);
    (from, to)
}

/// The sum of the pseudo header (RFC 768), which a device begins with; `addresses` are both, as they lie in the IP header.
#[inline]
fn pseudo_sum(addresses: &[u8], datagram: &[u8]) -> u64 {
    let length = u16::try_from(datagram.len()).unwrap_or(0);
    checksum::sum(addresses) + checksum::word(u16::from(PROTOCOL_UDP)) + checksum::word(length)
}

/// Whether a datagram matches its checksum.
#[inline]
fn is_datagram_right(addresses: &[u8], datagram: &[u8]) -> bool {
    checksum::is_right(pseudo_sum(addresses, datagram) + checksum::sum(datagram))
}

/// Whether a datagram's checksum says nothing against it.
fn is_checked(checked: Checked, addresses: &[u8], datagram: &[u8]) -> bool {
    let is_partial = || datagram[6..8] == checksum::fold(pseudo_sum(addresses, datagram)).to_ne_bytes();
    checked.udp || is_datagram_right(addresses, datagram) || (checked.partial && is_partial())
}

fn found(datagram_at: usize, datagram: &[u8], shard: u16, source: Endpoint) -> Found {
    Found { offset: number(datagram_at + UDP_BYTES), len: number(datagram.len() - UDP_BYTES), shard, source }
}

/// A number of bytes of one packet; IP's own lengths keep it below 2^17.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "lengths of one packet")]
const fn number(bytes: usize) -> u32 {
    bytes as u32
}
