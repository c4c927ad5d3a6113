//! Where things lie in a packet, and its Ethernet and VLAN headers.

use crate::{Foreign, Mac};

/// Bytes of an Ethernet header.
pub(crate) const ETHERNET_BYTES: usize = 14;
/// Bytes of a VLAN tag.
pub(crate) const TAG_BYTES: usize = 4;
/// Bytes of an IPv4 header without options.
pub(crate) const IPV4_BYTES: usize = 20;
/// Bytes of an IPv6 header.
pub(crate) const IPV6_BYTES: usize = 40;
/// Bytes of a UDP header.
pub(crate) const UDP_BYTES: usize = 8;
/// Bytes of an ARP packet for Ethernet and IPv4.
pub(crate) const ARP_BYTES: usize = 28;

/// EtherType of IPv4 (IEEE 802 numbers, as all of these).
pub(crate) const TYPE_IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub(crate) const TYPE_ARP: u16 = 0x0806;
/// EtherType of a VLAN tag.
pub(crate) const TYPE_TAG: u16 = 0x8100;
/// EtherType of a service tag (IEEE 802.1ad).
pub(crate) const TYPE_SERVICE_TAG: u16 = 0x88a8;
/// EtherType of IPv6.
pub(crate) const TYPE_IPV6: u16 = 0x86dd;

/// IP protocol numbers (IANA).
pub(crate) const PROTOCOL_ICMP: u8 = 1;
pub(crate) const PROTOCOL_UDP: u8 = 17;
pub(crate) const PROTOCOL_ICMPV6: u8 = 58;

/// ICMP echo (RFC 792) and ICMPv6 echo and neighbour discovery (RFC 4443, RFC 4861).
pub(crate) const ECHO_REQUEST: u8 = 8;
pub(crate) const ECHO_REPLY: u8 = 0;
pub(crate) const ECHO_REQUEST_V6: u8 = 128;
pub(crate) const ECHO_REPLY_V6: u8 = 129;
pub(crate) const NEIGHBOUR_SOLICITATION: u8 = 135;
pub(crate) const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// The identifier bits of a VLAN tag; the others are priority and say nothing about where a packet belongs.
const VLAN_BITS: u16 = 0x0fff;

/// A packet whose Ethernet and VLAN headers were read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opened<'a> {
    pub(crate) to: Mac,
    pub(crate) from: Mac,
    /// EtherType of what follows.
    pub(crate) ether_type: u16,
    /// Where that begins.
    pub(crate) at: usize,
    /// It, padding included.
    pub(crate) body: &'a [u8],
}

/// Reads a packet's Ethernet header and its VLAN tag, which has to be that of the port.
pub(crate) fn open(packet: &[u8], vlan: Option<u16>) -> Result<Opened<'_>, Foreign> {
    let (header, rest) = packet.split_first_chunk::<ETHERNET_BYTES>().ok_or(Foreign::Runt)?;
    let [t0, t1, t2, t3, t4, t5, f0, f1, f2, f3, f4, f5, high, low] = *header;
    let (to, from) = ([t0, t1, t2, t3, t4, t5], [f0, f1, f2, f3, f4, f5]);
    let ether_type = u16::from_be_bytes([high, low]);
    if ether_type != TYPE_TAG {
        // A port without a VLAN has no service provider's tags either.
        if vlan.is_some() || ether_type == TYPE_SERVICE_TAG {
            return Err(Foreign::Vlan);
        }
        return Ok(Opened { to, from, ether_type, at: ETHERNET_BYTES, body: rest });
    }
    let (tag, body) = rest.split_first_chunk::<TAG_BYTES>().ok_or(Foreign::Runt)?;
    let found = u16::from_be_bytes([tag[0], tag[1]]) & VLAN_BITS;
    let ether_type = u16::from_be_bytes([tag[2], tag[3]]);
    // Number 0 is no VLAN: such a tag only carries a priority.
    if found != vlan.unwrap_or(0) || ether_type == TYPE_TAG || ether_type == TYPE_SERVICE_TAG {
        return Err(Foreign::Vlan);
    }
    Ok(Opened { to, from, ether_type, at: ETHERNET_BYTES + TAG_BYTES, body })
}

/// Whether an Ethernet address names a group (the broadcast address included) instead of one device.
pub(crate) const fn is_group(mac: Mac) -> bool {
    mac[0] & 1 != 0
}

/// The Ethernet group that packets to an IPv6 group go to (RFC 2464, section 7).
pub(crate) const fn group_mac(group: [u8; 16]) -> Mac {
    [0x33, 0x33, group[12], group[13], group[14], group[15]]
}

/// The group in which the owner of an IPv6 address listens for solicitations (RFC 4291, section 2.7.1).
pub(crate) const fn solicited_group(ip: [u8; 16]) -> [u8; 16] {
    [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, ip[13], ip[14], ip[15]]
}

/// The group of all nodes of a link (RFC 4291, section 2.7.1).
pub(crate) const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
