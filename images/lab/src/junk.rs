//! What a network card meets beside frames, for use in the guest: `tachyon-lab-junk DEVICE TO_MAC FROM_IP TO_IP COUNT`
//! sends COUNT packets of each kind of [`kinds`], in turn, as they are, through the kernel's device.
//!
//! A packet socket sends any bytes. It takes its address from what the kernel says of the device itself.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail};
use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{AddressFamily, LinkAddr, SockFlag, SockType, bind, socket},
};
use std::{fs::File, io::Write, net::Ipv4Addr, os::fd::AsRawFd, thread, time::Duration};

type Mac = [u8; 6];

const BROADCAST: Mac = [0xff; 6];
const TYPE_IPV4: u16 = 0x0800;
/// IP protocol numbers (IANA).
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
/// The first port that a node listens at.
const BASE_PORT: u16 = 24_640;
/// Between two rounds, so that what is sent beside the load does not push it out of the receiver's ring.
const PAUSE: Duration = Duration::from_millis(2);

/// Who sends to whom.
struct Ends {
    from_mac: Mac,
    to_mac: Mac,
    from: Ipv4Addr,
    to: Ipv4Addr,
}

fn main() -> Result<()> {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let [device, to_mac, from, to, count] = words[..] else {
        bail!("say: DEVICE TO_MAC FROM_IP TO_IP COUNT");
    };
    let (mut socket, from_mac) = open(device)?;
    let ends = Ends { from_mac, to_mac: mac(to_mac)?, from: from.parse()?, to: to.parse()? };
    let kinds = kinds(&ends);
    for _ in 0..count.parse()? {
        for packet in &kinds {
            socket.write_all(packet).context("cannot send")?;
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// A packet socket at a device, and the device's own address.
fn open(device: &str) -> Result<(File, Mac)> {
    let mut addresses = getifaddrs()?.filter(|entry| entry.interface_name == device);
    let address: LinkAddr = addresses
        .find_map(|entry| entry.address?.as_link_addr().copied())
        .with_context(|| format!("there is no device {device}"))?;
    // Protocol 0: it only sends.
    let socket =
        socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), None).context("raw sockets need root")?;
    bind(socket.as_raw_fd(), &address).with_context(|| format!("cannot bind to {device}"))?;
    Ok((File::from(socket), address.addr().context("the device has no address")?))
}

fn mac(text: &str) -> Result<Mac> {
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
    bytes.try_into().ok().context("an Ethernet address has six bytes")
}

/// One packet of each kind; the comment is what a node counts it as. Short ones are padded by the devices on their way.
fn kinds(ends: &Ends) -> Vec<Vec<u8>> {
    let udp = |port| udp(port, &[7; 64]);
    let sealed = |mut datagram: Vec<u8>| {
        let sum = checksum(&[&pseudo(ends, PROTOCOL_UDP, datagram.len()), &datagram]);
        datagram[6..8].copy_from_slice(&sum.to_be_bytes());
        datagram
    };
    let plain = ipv4(ends, PROTOCOL_UDP, 0, &sealed(udp(BASE_PORT)));
    let mut short = plain.clone();
    short.truncate(28);
    let mut damaged = plain.clone();
    damaged[8] ^= 1; // the time to live; the header's checksum stays
    let mut wrong = sealed(udp(BASE_PORT));
    wrong[6] ^= 1;
    let mut tagged = vec![0, 7]; // VLAN 7
    tagged.extend(TYPE_IPV4.to_be_bytes());
    tagged.extend(&plain);
    vec![
        ethernet(ends, BROADCAST, 0x0806, &arp(ends)), // neighbour
        ethernet(ends, ends.to_mac, TYPE_IPV4, &ipv4(ends, PROTOCOL_UDP, 0x2000, &udp(BASE_PORT))), // fragment
        ethernet(ends, ends.to_mac, 0x8100, &tagged),  // vlan
        ethernet(ends, ends.to_mac, TYPE_IPV4, &ipv4(ends, PROTOCOL_TCP, 0, &tcp(ends))), // not_udp
        ethernet(ends, [0x33, 0x33, 0, 0, 0, 1], 0x86dd, &router_advertisement()), // other_mac
        ethernet(ends, ends.to_mac, TYPE_IPV4, &short), // length
        ethernet(ends, ends.to_mac, TYPE_IPV4, &damaged), // ip_checksum
        ethernet(ends, ends.to_mac, TYPE_IPV4, &ipv4(ends, PROTOCOL_UDP, 0, &wrong)), // udp_checksum
        ethernet(ends, ends.to_mac, TYPE_IPV4, &ipv4(ends, PROTOCOL_UDP, 0, &sealed(udp(9)))), // other_port
        ethernet(ends, ends.to_mac, 0x88cc, &[2, 7, 4, 0]), // not_ip: discovery of switches
    ]
}

fn ethernet(ends: &Ends, to: Mac, ether_type: u16, body: &[u8]) -> Vec<u8> {
    [&to[..], &ends.from_mac, &ether_type.to_be_bytes(), body].concat()
}

/// Who has the address after the node's? A storm asks for anything.
fn arp(ends: &Ends) -> Vec<u8> {
    let [a, b, c, d] = ends.to.octets();
    let ask = [0, 1, 8, 0, 6, 4, 0, 1]; // Ethernet, IPv4, lengths of both, a request
    [&ask[..], &ends.from_mac, &ends.from.octets(), &[0; 6], &[a, b, c, d.wrapping_add(76)]].concat()
}

fn ipv4(ends: &Ends, protocol: u8, fragment: u16, body: &[u8]) -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend(u16::try_from(20 + body.len()).unwrap_or(u16::MAX).to_be_bytes());
    header.extend([0, 1]);
    header.extend(fragment.to_be_bytes());
    header.extend([64, protocol, 0, 0]);
    header.extend(ends.from.octets());
    header.extend(ends.to.octets());
    let sum = checksum(&[&header]);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header.extend(body);
    header
}

fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap_or(u16::MAX);
    [&9_000_u16.to_be_bytes()[..], &port.to_be_bytes(), &length.to_be_bytes(), &[0, 0], payload].concat()
}

/// The first packet of a connection, with a right checksum.
fn tcp(ends: &Ends) -> Vec<u8> {
    let mut segment = vec![0x23, 0x28, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0];
    let sum = checksum(&[&pseudo(ends, PROTOCOL_TCP, segment.len()), &segment]);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    segment
}

/// A router's announcement to all nodes (RFC 4861, section 4.2). Nobody gets as far as its checksum.
fn router_advertisement() -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 16, 58, 255];
    packet.extend(std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9).octets());
    packet.extend(std::net::Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).octets());
    packet.extend([134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
    packet
}

/// What TCP and UDP checksums cover beside the packet's own bytes.
fn pseudo(ends: &Ends, protocol: u8, length: usize) -> Vec<u8> {
    let length = u16::try_from(length).unwrap_or(u16::MAX);
    [&ends.from.octets()[..], &ends.to.octets(), &[0, protocol], &length.to_be_bytes()].concat()
}

/// The internet checksum (RFC 1071) of parts that each have an even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let sum: u32 = words.map(|word| u32::from(word[0]) << 8 | word.get(1).copied().map_or(0, u32::from)).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    !u16::try_from(folded).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_that_of_the_standard() {
        // RFC 1071, section 3.
        assert_eq!(checksum(&[&[0x00, 0x01, 0xf2, 0x03], &[0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
    }

    #[test]
    fn headers_are_right_where_they_mean_to_be() {
        let ends =
            Ends { from_mac: [2; 6], to_mac: [4; 6], from: Ipv4Addr::new(10, 0, 1, 2), to: Ipv4Addr::new(10, 0, 1, 1) };
        let packets = kinds(&ends);
        let right = |at: usize| checksum(&[&packets[at][14..34]]) == 0;
        assert!(right(1) && right(3) && right(7) && right(8));
        assert!(!right(6), "its header is damaged");
        assert_eq!(checksum(&[&pseudo(&ends, PROTOCOL_TCP, 20), &packets[3][34..]]), 0);
    }
}
