//! What is written is what was asked for, found again by the receiver and right by the definition of each checksum.

use crate::{
    model,
    ports::{interface, ip, mac},
};
use proptest::prelude::*;
use tachyon_driver_ether::{Checked, Foreign, Hop, Interface, Receiver, UdpChecksum, address_bytes};

fn packet(hop: &Hop, ports: [u16; 2], payload: &[u8], checksum: UdpChecksum) -> Vec<u8> {
    let mut packet = vec![0xcc; hop.header_bytes()];
    hop.write(&mut packet, ports[0], ports[1], payload, checksum);
    packet.extend(payload);
    packet
}

proptest! {
    #[test]
    fn what_is_written_is_found(
        vlan in prop_oneof![Just(None), Just(Some(77u16))], v6: bool, from in 1u16.., shard in 0u16..16,
        payload in proptest::collection::vec(any::<u8>(), 1..1472), device: bool,
    ) {
        let (sender, receiver) = (interface(9, vlan), interface(7, vlan));
        let to = ip(if v6 { "2001:db8::7" } else { "192.0.2.7" });
        let hop = Hop::new(&sender, 3, mac(7), to).unwrap();
        prop_assert_eq!(hop.port(), 3);
        let expected = 14 + if vlan.is_some() { 4 } else { 0 } + if v6 { 40 } else { 20 } + 8;
        prop_assert_eq!(hop.header_bytes(), expected);
        for checksum in [UdpChecksum::None, UdpChecksum::Compute] {
            let packet = packet(&hop, [from, 24_640 + shard], &payload, checksum);
            let found = Receiver::new(&receiver).find(&packet, Checked::default()).unwrap();
            prop_assert_eq!((found.offset as usize, found.len as usize), (expected, payload.len()));
            prop_assert_eq!((found.shard, found.source.port.get()), (shard, from));
            let source = ip(if v6 { "2001:db8::9" } else { "192.0.2.9" });
            prop_assert_eq!(found.source.ip, address_bytes(source));
            prop_assert!(model::find(&receiver, &packet, Checked::default()).is_ok());
            let field = &packet[expected - 2..expected];
            prop_assert_eq!(field == [0, 0], !v6 && checksum == UdpChecksum::None);
        }
        if device {
            // The device adds what it sees, its own field included, and stores the complement.
            let mut packet = packet(&hop, [from, 24_640 + shard], &payload, UdpChecksum::Device);
            // Left undone it passes only where a sender may have been so near that no device came in between.
            let near = Checked { partial: true, ..Checked::default() };
            let undone = Receiver::new(&receiver).find(&packet, Checked::default());
            let by_chance = !model::sum(&[&packet[expected - 8..]]) == 0; // of one in 65,536 the field is right as it is
            prop_assert!(by_chance || undone == Err(Foreign::UdpChecksum));
            prop_assert!(Receiver::new(&receiver).find(&packet, near).is_ok());
            let mut other = packet.clone();
            other[expected - 1] ^= 1;
            prop_assert!(by_chance || Receiver::new(&receiver).find(&other, near).is_err());
            let sum = !model::sum(&[&packet[expected - 8..]]);
            packet[expected - 2..expected].copy_from_slice(&if sum == 0 { 0xffff } else { sum }.to_be_bytes());
            prop_assert!(Receiver::new(&receiver).find(&packet, Checked::default()).is_ok());
        }
    }
}

#[test]
fn the_header_is_the_one_that_was_written_by_hand() {
    let hop = Hop::new(&interface(9, Some(77)), 0, mac(7), ip("192.0.2.7")).unwrap();
    let packet = packet(&hop, [24_641, 24_640], &[0xab; 64], UdpChecksum::None);
    let expected = [
        [0, 0, 0x5e, 0, 0x53, 7, 0, 0, 0x5e, 0, 0x53, 9].as_slice(),
        &[0x81, 0, 0, 77, 0x08, 0],
        // Version and length, traffic class, total 92, identification 0, DF, 64 hops, UDP.
        &[0x45, 0x6a, 0, 92, 0, 0, 0x40, 0, 64, 17],
        // Computed by hand: ffff - (456a + 005c + 4000 + 4011 + c000 + 0209 + c000 + 0207), carries added.
        &[0xb6, 0x16],
        &[192, 0, 2, 9, 192, 0, 2, 7],
        &[0x60, 0x41, 0x60, 0x40, 0, 72, 0, 0],
    ];
    assert_eq!(packet[..46], expected.concat());
}

#[test]
fn a_checksum_of_zero_is_written_as_all_ones() {
    let hop = Hop::new(&interface(9, None), 0, mac(7), ip("192.0.2.7")).unwrap();
    let mut seen = false;
    for fill in 0..=u16::MAX {
        let packet = packet(&hop, [24_641, 24_640], &fill.to_be_bytes(), UdpChecksum::Compute);
        assert_ne!(packet[40..42], [0, 0], "zero would mean that there is none");
        seen |= packet[40..42] == [0xff, 0xff];
    }
    assert!(seen, "one of all fills makes the sum zero");
}

#[test]
fn without_an_address_of_the_family_there_are_no_headers() {
    let mut port: Interface = interface(9, None);
    port.networks.retain(|network| network.ip.is_ipv4());
    assert!(Hop::new(&port, 0, mac(7), ip("2001:db8::7")).is_none());
    assert!(Hop::new(&port, 0, mac(7), ip("203.0.113.5")).is_some());
}
