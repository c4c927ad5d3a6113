//! The packets of a neighbour, read and written: ARP, neighbour discovery, echo. Only bytes; who is asked when, and what
//! is believed, is in [`crate::Responder`].

use crate::{
    Interface, Mac, checksum,
    hop::write_ethernet,
    packet::{
        ALL_NODES, ARP_BYTES, ECHO_REPLY, ECHO_REPLY_V6, ECHO_REQUEST_V6, ETHERNET_BYTES, IPV4_BYTES, IPV6_BYTES,
        NEIGHBOUR_ADVERTISEMENT, NEIGHBOUR_SOLICITATION, PROTOCOL_ICMPV6, TAG_BYTES, TYPE_ARP, TYPE_IPV4, TYPE_IPV6,
        group_mac, solicited_group,
    },
};
use core::net::Ipv6Addr;

/// ARP operations (RFC 826).
pub(crate) const ARP_REQUEST: u16 = 1;
pub(crate) const ARP_REPLY: u16 = 2;
/// Hardware type Ethernet, protocol type IPv4, and the lengths of their addresses.
const ARP_KIND: [u8; 6] = [0, 1, 0x08, 0x00, 6, 4];
/// Hop limit of neighbour discovery: nobody behind a router can have sent a packet that still has it (RFC 4861).
const DISCOVERY_HOPS: u8 = 255;
/// Hop limit of echo replies.
const ECHO_HOPS: u8 = 64;
/// Options that carry an Ethernet address (RFC 4861): the source's in solicitations, the target's in advertisements.
const OPTION_SOURCE: u8 = 1;
const OPTION_TARGET: u8 = 2;
/// Bytes of a solicitation or advertisement before its options, and of an option with an Ethernet address.
const DISCOVERY_BYTES: usize = 24;
const OPTION_BYTES: usize = 8;
/// Flags of an advertisement (RFC 4861, section 4.4).
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// Room that any request or advertisement needs, with a VLAN tag.
pub(crate) const SMALL_BYTES: usize = ETHERNET_BYTES + TAG_BYTES + IPV6_BYTES + DISCOVERY_BYTES + OPTION_BYTES;

/// An ARP packet for Ethernet and IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arp {
    pub(crate) operation: u16,
    pub(crate) sender_mac: Mac,
    pub(crate) sender: [u8; 4],
    pub(crate) target_mac: Mac,
    pub(crate) target: [u8; 4],
}

impl Arp {
    /// Reads what follows the Ethernet header.
    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        let b = body.first_chunk::<ARP_BYTES>()?;
        (b[..6] == ARP_KIND).then_some(Self {
            operation: u16::from_be_bytes([b[6], b[7]]),
            sender_mac: [b[8], b[9], b[10], b[11], b[12], b[13]],
            sender: [b[14], b[15], b[16], b[17]],
            target_mac: [b[18], b[19], b[20], b[21], b[22], b[23]],
            target: [b[24], b[25], b[26], b[27]],
        })
    }

    /// Writes the whole packet; its length.
    pub(crate) fn write(&self, out: &mut [u8], from: &Interface, to: Mac) -> usize {
        let at = write_ethernet(out, to, from, TYPE_ARP);
        let body = &mut out[at..at + ARP_BYTES];
        body[..6].copy_from_slice(&ARP_KIND);
        body[6..8].copy_from_slice(&self.operation.to_be_bytes());
        body[8..14].copy_from_slice(&self.sender_mac);
        body[14..18].copy_from_slice(&self.sender);
        body[18..24].copy_from_slice(&self.target_mac);
        body[24..28].copy_from_slice(&self.target);
        at + ARP_BYTES
    }
}

/// What a neighbour solicitation or advertisement says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Discovery {
    /// A solicitation asks; an advertisement answers.
    pub(crate) asks: bool,
    /// The IPv6 source.
    pub(crate) from: [u8; 16],
    /// The address that is asked for, or that the sender has.
    pub(crate) target: [u8; 16],
    /// Whether an advertisement may replace what is known.
    pub(crate) replaces: bool,
    /// The Ethernet address among the options, if any: the sender's in solicitations, the target's in advertisements.
    pub(crate) mac: Option<Mac>,
}

impl Discovery {
    /// Reads and validates an IPv6 packet as RFC 4861 demands (7.1.1 and 7.1.2); `None` if it must be ignored.
    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        let (head, rest) = body.split_first_chunk::<IPV6_BYTES>()?;
        let message = rest.get(..usize::from(u16::from_be_bytes([head[4], head[5]])))?;
        let (fixed, mut options) = message.split_first_chunk::<DISCOVERY_BYTES>()?;
        let [kind, code, ..] = *fixed;
        let asks = kind == NEIGHBOUR_SOLICITATION;
        if head[7] != DISCOVERY_HOPS || code != 0 || !is_icmpv6_right(head, message) {
            return None;
        }
        if !asks && kind != NEIGHBOUR_ADVERTISEMENT {
            return None;
        }
        let (from, to, target) = (sixteen(&head[8..24]), sixteen(&head[24..40]), sixteen(&fixed[8..24]));
        let wanted = if asks { OPTION_SOURCE } else { OPTION_TARGET };
        let mut mac = None;
        while let [kind, units, ..] = *options {
            let bytes = usize::from(units) * OPTION_BYTES;
            let (option, after) = options.split_at_checked(bytes).filter(|_| bytes > 0)?;
            if kind == wanted && bytes == OPTION_BYTES {
                mac = option[2..8].try_into().ok();
            }
            options = after;
        }
        let solicited = fixed[4] & SOLICITED != 0;
        let is_right = options.is_empty()
            // Neither may be an IPv4 address in IPv6 form: that is how we remember those found by ARP.
            && [from, target].iter().all(|ip| Ipv6Addr::from(*ip).to_ipv4_mapped().is_none())
            && target[0] != 0xff
            // Whoever has no address yet asks a group and cannot name itself; nobody answers many at once as if alone.
            && !(asks && from == [0; 16] && (mac.is_some() || to != solicited_group(target)))
            && !(!asks && to[0] == 0xff && solicited);
        is_right.then_some(Self { asks, from, target, replaces: asks || fixed[4] & OVERRIDE != 0, mac })
    }
}

/// Writes a solicitation for `target`, to its group or, to confirm what is known, to its Ethernet address; its length.
pub(crate) fn solicit(
    out: &mut [u8],
    from: &Interface,
    source: [u8; 16],
    target: [u8; 16],
    known: Option<Mac>,
) -> usize {
    let to = if known.is_some() { target } else { solicited_group(target) };
    let mac = known.unwrap_or_else(|| group_mac(to));
    let kind = [NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    discovery(out, from, mac, [source, to, target], kind, OPTION_SOURCE)
}

/// Writes the advertisement of our address `target` in answer to a solicitation from `asker`; its length. Whoever asks
/// without an address of its own, to find out whether ours is taken, is answered by the group of all nodes, but only at
/// its own Ethernet address (RFC 6085), so that one question never becomes a packet to everybody.
pub(crate) fn advertise(out: &mut [u8], from: &Interface, to: Mac, asker: [u8; 16], target: [u8; 16]) -> usize {
    let (ip, flags) = if asker == [0; 16] { (ALL_NODES, OVERRIDE) } else { (asker, SOLICITED | OVERRIDE) };
    let kind = [NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
    discovery(out, from, to, [target, ip, target], kind, OPTION_TARGET)
}

/// Writes source, destination and target, the first eight bytes of the message, and our Ethernet address as an option.
fn discovery(
    out: &mut [u8],
    from: &Interface,
    to: Mac,
    [source, ip, target]: [[u8; 16]; 3],
    kind: [u8; 8],
    option: u8,
) -> usize {
    let at = write_ethernet(out, to, from, TYPE_IPV6);
    let packet = &mut out[at..at + IPV6_BYTES + DISCOVERY_BYTES + OPTION_BYTES];
    let message_bytes = u8::try_from(DISCOVERY_BYTES + OPTION_BYTES).unwrap_or(0);
    packet[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, message_bytes, PROTOCOL_ICMPV6, DISCOVERY_HOPS]);
    packet[8..24].copy_from_slice(&source);
    packet[24..40].copy_from_slice(&ip);
    let (head, message) = packet.split_at_mut(IPV6_BYTES);
    message[..8].copy_from_slice(&kind);
    message[8..24].copy_from_slice(&target);
    message[24..26].copy_from_slice(&[option, 1]);
    message[26..32].copy_from_slice(&from.mac);
    let sum = icmpv6_sum(head, message);
    message[2..4].copy_from_slice(&checksum::field(sum));
    at + IPV6_BYTES + DISCOVERY_BYTES + OPTION_BYTES
}

/// Writes the answer to an IPv4 echo request whose header was found right; its length. `None` if the request is damaged,
/// has options (which could send the answer anywhere), or is longer than `out`.
pub(crate) fn echo_v4(out: &mut [u8], from: &Interface, to: Mac, body: &[u8]) -> Option<usize> {
    let packet = body.get(..usize::from(u16::from_be_bytes([*body.get(2)?, *body.get(3)?])))?;
    let message = packet.get(IPV4_BYTES..).filter(|message| message.len() >= 8)?;
    if packet[0] != 0x45 || message[1] != 0 || !checksum::is_right(checksum::sum(message)) {
        return None;
    }
    let at = write_ethernet(out, to, from, TYPE_IPV4);
    let answer = out.get_mut(at..at + packet.len())?;
    answer.copy_from_slice(packet);
    answer[8] = ECHO_HOPS;
    answer[10..12].fill(0);
    answer[12..16].copy_from_slice(&packet[16..20]);
    answer[16..20].copy_from_slice(&packet[12..16]);
    let sum = checksum::sum(&answer[..IPV4_BYTES]);
    answer[10..12].copy_from_slice(&checksum::field(sum));
    let message = &mut answer[IPV4_BYTES..];
    message[..4].copy_from_slice(&[ECHO_REPLY, 0, 0, 0]);
    let sum = checksum::sum(message);
    message[2..4].copy_from_slice(&checksum::field(sum));
    Some(at + packet.len())
}

/// The same for IPv6.
pub(crate) fn echo_v6(out: &mut [u8], from: &Interface, to: Mac, body: &[u8]) -> Option<usize> {
    let length = usize::from(u16::from_be_bytes([*body.get(4)?, *body.get(5)?]));
    let packet = body.get(..IPV6_BYTES + length)?;
    let (head, message) = packet.split_at(IPV6_BYTES);
    if message.len() < 8 || message[..2] != [ECHO_REQUEST_V6, 0] || !is_icmpv6_right(head, message) {
        return None;
    }
    let at = write_ethernet(out, to, from, TYPE_IPV6);
    let answer = out.get_mut(at..at + packet.len())?;
    answer.copy_from_slice(packet);
    answer[7] = ECHO_HOPS;
    answer[8..24].copy_from_slice(&packet[24..40]);
    answer[24..40].copy_from_slice(&packet[8..24]);
    let (head, message) = answer.split_at_mut(IPV6_BYTES);
    message[..4].copy_from_slice(&[ECHO_REPLY_V6, 0, 0, 0]);
    let sum = icmpv6_sum(head, message);
    message[2..4].copy_from_slice(&checksum::field(sum));
    Some(at + packet.len())
}

fn is_icmpv6_right(head: &[u8], message: &[u8]) -> bool {
    checksum::is_right(icmpv6_sum(head, message))
}

fn icmpv6_sum(head: &[u8], message: &[u8]) -> u64 {
    let length = u16::try_from(message.len()).unwrap_or(0);
    checksum::sum(&head[8..40])
        + checksum::word(u16::from(PROTOCOL_ICMPV6))
        + checksum::word(length)
        + checksum::sum(message)
}

fn sixteen(bytes: &[u8]) -> [u8; 16] {
    bytes.try_into().unwrap_or_default()
}
