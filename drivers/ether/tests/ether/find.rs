//! What the receiver makes of packets, whole, cut, bent and lying, against the model.

use crate::{
    model,
    ports::{interface, ip, mac},
};
use proptest::prelude::*;
use std::net::IpAddr;
use tachyon_driver_ether::{Checked, Foreign, Interface, Receiver, address};

/// A packet to be put together.
#[derive(Clone, Debug)]
struct Shape {
    tag: Option<u16>,
    v6: bool,
    options: usize,
    payload: Vec<u8>,
    padding: usize,
    shard: u16,
    source_port: u16,
    checksum: bool,
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// Puts a valid packet together, to port 7 from host 9.
fn build(shape: &Shape) -> Vec<u8> {
    let mut packet = [mac(7), mac(9)].concat();
    if let Some(tag) = shape.tag {
        packet.extend([0x81, 0]);
        packet.extend(tag.to_be_bytes());
    }
    let (from, to) = if shape.v6 { ("2001:db8::9", "2001:db8::7") } else { ("192.0.2.9", "192.0.2.7") };
    let addresses = [octets(ip(from)), octets(ip(to))].concat();
    let length = u16::try_from(8 + shape.payload.len()).unwrap();
    let mut datagram = [shape.source_port, 24_640 + shape.shard, length, 0].map(u16::to_be_bytes).concat();
    datagram.extend(&shape.payload);
    if shape.checksum || shape.v6 {
        let sum = !model::datagram_sum(&addresses, 17, &datagram);
        datagram[6..8].copy_from_slice(&if sum == 0 { 0xffff } else { sum }.to_be_bytes());
    }
    if shape.v6 {
        packet.extend([0x86, 0xdd, 0x66, 0xa1, 0x23, 0x45]);
        packet.extend(length.to_be_bytes());
        packet.extend([17, 61]);
        packet.extend(&addresses);
    } else {
        let words = 5 + shape.options;
        let total = u16::try_from(words * 4).unwrap() + length;
        let mut header = vec![0x40 | u8::try_from(words).unwrap(), 0x6a];
        header.extend(total.to_be_bytes());
        header.extend([0xab, 0xcd, 0x40, 0, 61, 17, 0, 0]);
        header.extend(&addresses);
        header.resize(words * 4, 1); // NO OPERATION
        let sum = !model::sum(&[&header]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend([0x08, 0]);
        packet.extend(header);
    }
    packet.extend(datagram);
    packet.extend(vec![0xee; shape.padding]);
    packet
}

fn shapes() -> impl Strategy<Value = (Option<u16>, Shape)> {
    let tags = prop_oneof![
        Just((None, None)),
        Just((None, Some(0))),
        Just((None, Some(0xe000))),
        Just((Some(77), Some(77))),
        Just((Some(77), Some(0xf000 | 77)))
    ];
    let payload = prop_oneof![
        9 => proptest::collection::vec(any::<u8>(), 1..200),
        1 => proptest::collection::vec(any::<u8>(), 1408..=1472)
    ];
    (tags, any::<bool>(), 0usize..=10, payload, 0usize..40, 0u16..16, any::<u16>(), any::<bool>()).prop_map(
        |((vlan, tag), v6, options, payload, padding, shard, source_port, checksum)| {
            // Most packets have no options, and the receiver treats them apart.
            let options = options.saturating_sub(6);
            (vlan, Shape { tag, v6, options, payload, padding, shard, source_port, checksum })
        },
    )
}

/// What the receiver says, in the model's words.
fn found(port: &Interface, packet: &[u8], checked: Checked) -> Result<model::Frame, Foreign> {
    Receiver::new(port).find(packet, checked).map(|found| {
        let source = address(&found.source.ip);
        (found.offset as usize, found.len as usize, found.shard, source, found.source.port.get())
    })
}

const ALL_CHECKED: [Checked; 4] = [
    Checked { ip: false, udp: false, partial: false },
    Checked { ip: true, udp: false, partial: false },
    Checked { ip: false, udp: true, partial: false },
    Checked { ip: true, udp: true, partial: false },
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn valid_packets_of_every_shape_are_found((vlan, shape) in shapes()) {
        let packet = build(&shape);
        let (offset, len, shard, source, port) = found(&interface(7, vlan), &packet, Checked::default()).unwrap();
        prop_assert_eq!(&packet[offset..offset + len], &shape.payload[..]);
        prop_assert_eq!((shard, port), (shape.shard, shape.source_port));
        prop_assert_eq!(source, ip(if shape.v6 { "2001:db8::9" } else { "192.0.2.9" }));
    }

    #[test]
    fn bent_packets_are_judged_as_by_the_model(
        (vlan, shape) in shapes(), bends in proptest::collection::vec((0usize..90, any::<u8>()), 0..4),
        repair: bool, other_vlan in proptest::option::weighted(0.1, prop_oneof![Just(None), Just(Some(5u16))]),
    ) {
        let mut packet = build(&shape);
        for (at, value) in bends {
            if let Some(byte) = packet.get_mut(at) {
                *byte = value;
            }
        }
        if repair {
            repair_header(&mut packet);
        }
        let port = interface(7, other_vlan.unwrap_or(vlan));
        for checked in ALL_CHECKED {
            prop_assert_eq!(found(&port, &packet, checked), model::find(&port, &packet, checked));
        }
    }

    #[test]
    fn bytes_without_any_shape_are_judged_as_by_the_model(packet in proptest::collection::vec(any::<u8>(), 0..100)) {
        let port = interface(7, None);
        let checked = Checked::default();
        prop_assert_eq!(found(&port, &packet, checked), model::find(&port, &packet, checked));
    }
}

/// Makes the IPv4 header checksum right again, so that what lies behind it is looked at.
fn repair_header(packet: &mut [u8]) {
    let at = if packet[12..14] == [0x81, 0] { 18 } else { 14 };
    let Some(ip) = packet.get_mut(at..) else { return };
    let bytes = usize::from(ip.first().copied().unwrap_or(0) % 16) * 4;
    if bytes >= 20 && ip.len() >= bytes && ip[0] / 16 == 4 {
        ip[10..12].fill(0);
        let sum = !model::sum(&[&ip[..bytes]]);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

fn all_shapes() -> Vec<(Option<u16>, Shape)> {
    let mut shapes = Vec::new();
    for (vlan, tag) in [(None, None), (None, Some(0)), (Some(77), Some(77))] {
        for (v6, options) in [(false, 0), (false, 3), (true, 0)] {
            for checksum in [false, true] {
                let payload = (0..64).collect();
                let shape = Shape { tag, v6, options, payload, padding: 6, shard: 3, source_port: 9, checksum };
                shapes.push((vlan, shape));
            }
        }
    }
    shapes
}

#[test]
fn a_packet_cut_at_any_length_is_judged_as_by_the_model() {
    for (vlan, shape) in all_shapes() {
        let (packet, port) = (build(&shape), interface(7, vlan));
        for length in 0..=packet.len() {
            for checked in ALL_CHECKED {
                let cut = &packet[..length];
                assert_eq!(found(&port, cut, checked), model::find(&port, cut, checked), "{shape:?} at {length}");
            }
        }
    }
}

#[test]
fn every_value_of_every_header_byte_is_judged_as_by_the_model() {
    for (vlan, shape) in all_shapes() {
        let (original, port) = (build(&shape), interface(7, vlan));
        let receiver = Receiver::new(&port);
        for at in 0..original.len().min(86) {
            for value in 0..=255 {
                let mut packet = original.clone();
                packet[at] = value;
                for repair in [false, true] {
                    if repair {
                        repair_header(&mut packet);
                    }
                    let expected = model::find(&port, &packet, Checked::default());
                    assert_eq!(
                        receiver.find(&packet, Checked::default()).err(),
                        expected.err(),
                        "{shape:?}: {at} {value}"
                    );
                }
            }
        }
    }
}

#[test]
fn lies_in_every_length_field_are_found_out() {
    for (vlan, shape) in all_shapes() {
        let (original, port) = (build(&shape), interface(7, vlan));
        let ip_at = if shape.tag.is_some() { 18 } else { 14 };
        let udp_at = ip_at + if shape.v6 { 40 } else { 20 + 4 * shape.options };
        for at in [ip_at + if shape.v6 { 4 } else { 2 }, udp_at + 4] {
            for lie in 0..=u16::try_from(original.len() + 40).unwrap() {
                let mut packet = original.clone();
                packet[at..at + 2].copy_from_slice(&lie.to_be_bytes());
                repair_header(&mut packet);
                for checked in ALL_CHECKED {
                    assert_eq!(found(&port, &packet, checked), model::find(&port, &packet, checked), "{shape:?} {lie}");
                }
            }
        }
    }
}

fn plain() -> Shape {
    let payload = vec![1; 64];
    Shape { tag: None, v6: false, options: 0, payload, padding: 0, shard: 0, source_port: 9, checksum: true }
}

#[test]
fn each_fault_has_its_name() {
    let port = interface(7, None);
    let bent = |v6: bool, at: usize, bytes: &[u8]| {
        let mut packet = build(&Shape { v6, ..plain() });
        packet[at..at + bytes.len()].copy_from_slice(bytes);
        repair_header(&mut packet);
        found(&port, &packet, Checked::default()).unwrap_err()
    };
    assert_eq!(bent(false, 12, &[0x88, 0xcc]), Foreign::NotIp);
    assert_eq!(bent(false, 0, &mac(8)), Foreign::OtherMac);
    assert_eq!(bent(false, 0, &[0xff; 6]), Foreign::OtherMac, "a frame is never a broadcast");
    for source in [[192, 0, 2, 7], [0; 4], [233, 252, 0, 1], [255; 4]] {
        assert_eq!(bent(false, 26, &source), Foreign::OtherAddress, "{source:?}");
    }
    assert_eq!(bent(false, 30, &[192, 0, 2, 8]), Foreign::OtherAddress);
    let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 9];
    assert_eq!(bent(true, 22, &mapped), Foreign::OtherAddress, "nobody takes on an IPv4 peer's endpoint");
    for bits in [[0x20, 0], [0, 1], [0x1f, 0xff], [0x60, 0]] {
        assert_eq!(bent(false, 20, &bits), Foreign::Fragment, "{bits:?}");
    }
    assert_eq!(bent(true, 20, &[44]), Foreign::Extension);
    assert_eq!(bent(false, 23, &[6]), Foreign::NotUdp);
    assert_eq!(bent(true, 60, &[0, 0]), Foreign::UdpChecksum, "IPv6 requires a checksum");
    assert_eq!(bent(false, 41, &[0x55]), Foreign::UdpChecksum);
    for port in [24_639u16, 24_656, 0, 65_535] {
        assert_eq!(bent(false, 36, &port.to_be_bytes()), Foreign::OtherPort, "{port}");
    }
    let mut damaged = build(&plain());
    damaged[22] ^= 1;
    assert_eq!(found(&port, &damaged, Checked::default()), Err(Foreign::IpChecksum));
    assert!(found(&port, &damaged, Checked { ip: true, ..Checked::default() }).is_ok());
    let empty = build(&Shape { payload: Vec::new(), ..plain() });
    assert_eq!(found(&port, &empty, Checked::default()), Err(Foreign::Length));
}

#[test]
fn shards_at_the_end_of_the_port_range_do_not_wrap_around() {
    let port = Interface { base_port: 65_530, ..interface(7, None) };
    let to = |number: u16| {
        let mut packet = build(&Shape { checksum: false, ..plain() });
        packet[36..38].copy_from_slice(&number.to_be_bytes());
        found(&port, &packet, Checked::default()).map(|found| found.2)
    };
    assert_eq!((to(65_530), to(65_535)), (Ok(0), Ok(5)));
    assert_eq!((to(0), to(5), to(65_529)), (Err(Foreign::OtherPort), Err(Foreign::OtherPort), Err(Foreign::OtherPort)));
}
