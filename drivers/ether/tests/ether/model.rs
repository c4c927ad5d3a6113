//! The same decision as the receiver's, slow and obvious: field by field, word by word.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tachyon_driver_ether::{Checked, Foreign, Interface};

/// Offset, length, shard, source address, source port.
pub(crate) type Frame = (usize, usize, u16, IpAddr, u16);

fn word(bytes: &[u8], at: usize) -> usize {
    usize::from(bytes[at]) * 256 + usize::from(bytes[at + 1])
}

/// The one's complement sum in network order (RFC 1071).
pub(crate) fn sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(pair[0]) * 256 + u32::from(pair.get(1).copied().unwrap_or(0));
            sum = if sum > 0xffff { sum - 0xffff } else { sum };
        }
    }
    u16::try_from(sum).unwrap()
}

/// The sum of a datagram with its pseudo header; `addresses` are source and destination together.
pub(crate) fn datagram_sum(addresses: &[u8], protocol: u8, datagram: &[u8]) -> u16 {
    let length = u16::try_from(datagram.len()).unwrap().to_be_bytes();
    sum(&[addresses, &[0, protocol], &length, datagram])
}

pub(crate) fn find(port: &Interface, packet: &[u8], checked: Checked) -> Result<Frame, Foreign> {
    if packet.len() < 14 {
        return Err(Foreign::Runt);
    }
    let (ours, group) = (packet[..6] == port.mac, packet[0] % 2 == 1);
    let tagged = word(packet, 12) == 0x8100;
    if tagged && packet.len() < 18 {
        return Err(Foreign::Runt);
    }
    let vlan = if tagged { Some(word(packet, 14) % 4096) } else { None };
    let vlan_is_right = match port.vlan {
        Some(expected) => vlan == Some(usize::from(expected)),
        None => vlan.is_none() || vlan == Some(0),
    };
    let at = if tagged { 18 } else { 14 };
    let kind = word(packet, at - 2);
    if !vlan_is_right || kind == 0x88a8 || (tagged && kind == 0x8100) {
        return Err(Foreign::Vlan);
    }
    if ![0x0800, 0x0806, 0x86dd].contains(&kind) {
        return Err(Foreign::NotIp);
    }
    if !ours && !group {
        return Err(Foreign::OtherMac);
    }
    let body = &packet[at..];
    match (kind, group) {
        (0x0806, _) => Err(if body.len() < 28 { Foreign::Runt } else { Foreign::Neighbour }),
        (0x0800, true) => Err(Foreign::OtherMac),
        (0x0800, false) => v4(port, body, at, checked),
        (_, true) => Err(if is_group_discovery(port, body) { Foreign::Neighbour } else { Foreign::OtherMac }),
        (_, false) => v6(port, body, at, checked),
    }
}

fn is_sender(port: &Interface, ip: IpAddr) -> bool {
    let mapped = matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
    let own = port.networks.iter().any(|network| network.ip == ip);
    !(ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) || mapped || own)
}

fn v4(port: &Interface, body: &[u8], at: usize, checked: Checked) -> Result<Frame, Foreign> {
    if body.len() < 20 {
        return Err(Foreign::Runt);
    }
    if body[0] / 16 != 4 {
        return Err(Foreign::NotIp);
    }
    let (header, total) = (usize::from(body[0] % 16) * 4, word(body, 2));
    if header < 20 || total < header || total > body.len() {
        return Err(Foreign::Length);
    }
    if !checked.ip && sum(&[&body[..header]]) != 0xffff {
        return Err(Foreign::IpChecksum);
    }
    let address = |at: usize| IpAddr::V4(Ipv4Addr::new(body[at], body[at + 1], body[at + 2], body[at + 3]));
    let (from, to) = (address(12), address(16));
    if !port.networks.iter().any(|network| network.ip == to) || !is_sender(port, from) {
        return Err(Foreign::OtherAddress);
    }
    let more_fragments = body[6] & 0x20 != 0;
    let offset = word(body, 6) % 8192;
    if more_fragments || offset != 0 {
        return Err(Foreign::Fragment);
    }
    let datagram = &body[header..total];
    if body[9] == 1 && datagram.first() == Some(&8) {
        return Err(Foreign::Neighbour);
    }
    if body[9] != 17 {
        return Err(Foreign::NotUdp);
    }
    udp(port, datagram, &body[12..20], at + header, from, checked)
}

fn v6(port: &Interface, body: &[u8], at: usize, checked: Checked) -> Result<Frame, Foreign> {
    if body.len() < 40 {
        return Err(Foreign::Runt);
    }
    if body[0] / 16 != 6 {
        return Err(Foreign::NotIp);
    }
    if 40 + word(body, 4) > body.len() {
        return Err(Foreign::Length);
    }
    let address = |at: usize| IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(&body[at..at + 16]).unwrap()));
    let (from, to) = (address(8), address(24));
    if !port.networks.iter().any(|network| network.ip == to) || !is_sender(port, from) {
        return Err(Foreign::OtherAddress);
    }
    let datagram = &body[40..40 + word(body, 4)];
    match body[6] {
        0 | 43 | 44 | 50 | 51 | 60 | 135 | 139 | 140 | 253 | 254 => Err(Foreign::Extension),
        58 if [Some(&128), Some(&135), Some(&136)].contains(&datagram.first()) => Err(Foreign::Neighbour),
        17 => udp(port, datagram, &body[8..40], at + 40, from, checked),
        _ => Err(Foreign::NotUdp),
    }
}

fn udp(
    port: &Interface,
    datagram: &[u8],
    addresses: &[u8],
    at: usize,
    from: IpAddr,
    checked: Checked,
) -> Result<Frame, Foreign> {
    if datagram.len() < 8 {
        return Err(Foreign::Length);
    }
    let (source, destination) = (word(datagram, 0), word(datagram, 2));
    let first = usize::from(port.base_port);
    if destination < first || destination >= first + usize::from(port.shard_count) {
        return Err(Foreign::OtherPort);
    }
    if word(datagram, 4) != datagram.len() || datagram.len() == 8 {
        return Err(Foreign::Length);
    }
    let zero = word(datagram, 6) == 0;
    let right = datagram_sum(addresses, 17, datagram) == 0xffff;
    if (zero && from.is_ipv6()) || (!zero && !checked.udp && !right) {
        return Err(Foreign::UdpChecksum);
    }
    let shard = u16::try_from(destination - first).unwrap();
    Ok((at + 8, datagram.len() - 8, shard, from, u16::try_from(source).unwrap()))
}

fn is_group_discovery(port: &Interface, body: &[u8]) -> bool {
    if body.len() < 41 || body[0] / 16 != 6 || body[6] != 58 {
        return false;
    }
    let length = word(body, 4);
    let to = &body[24..40];
    let all_nodes = "ff02::1".parse::<Ipv6Addr>().unwrap().octets();
    let ours = port.networks.iter().any(|network| match network.ip {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => {
            let mut group = "ff02::1:ff00:0".parse::<Ipv6Addr>().unwrap().octets();
            group[13..].copy_from_slice(&ip.octets()[13..]);
            to == group
        }
    });
    length > 0 && 40 + length <= body.len() && [135, 136].contains(&body[40]) && (ours || to == all_nodes)
}
