//! Responders that talk to each other over a wire of vectors, and to peers that lie to them.

use crate::{
    model,
    ports::{interface, ip, mac},
};
use std::net::IpAddr;
use tachyon_driver_ether::{Foreign, Interface, Mac, News, Receiver, Responder, WANTED_MAX, address_bytes};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;

fn responder(last: u8, vlan: Option<u16>) -> Responder {
    Responder::new(vec![interface(last, vlan)], &[])
}

/// Takes a turn: what was sent and what was told.
fn tick(responder: &mut Responder, now_ns: u64) -> (Vec<Vec<u8>>, Vec<News>) {
    let (mut sent, mut told) = (Vec::new(), Vec::new());
    responder.tick(now_ns, &mut |_, packet| sent.push(packet.to_vec()), &mut |news| told.push(news));
    (sent, told)
}

/// Hands over a packet, likewise.
fn handle(responder: &mut Responder, packet: &[u8], now_ns: u64) -> (Vec<Vec<u8>>, Vec<News>) {
    let (mut sent, mut told) = (Vec::new(), Vec::new());
    responder.handle(0, packet, now_ns, &mut |_, packet| sent.push(packet.to_vec()), &mut |news| told.push(news));
    (sent, told)
}

fn reached(to: &str, mac: Mac) -> News {
    News::Reached { to: address_bytes(ip(to)), port: 0, mac }
}

fn lost(to: &str) -> News {
    News::Lost { to: address_bytes(ip(to)) }
}

/// An ARP packet as it lies on the wire without a VLAN.
fn arp(to: Mac, from: Mac, operation: u8, sender: (Mac, [u8; 4]), target: (Mac, [u8; 4])) -> Vec<u8> {
    let head = [0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, operation];
    [&to[..], &from, &head, &sender.0, &sender.1, &target.0, &target.1].concat()
}

fn request(from: u8, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    arp([0xff; 6], mac(from), 1, (mac(from), sender), ([0; 6], target))
}

/// An ICMPv6 packet without a VLAN, checksum included.
fn icmpv6(to: Mac, from: Mac, source: &str, destination: &str, hops: u8, message: &[u8]) -> Vec<u8> {
    let addresses = [address_bytes(ip(source)), address_bytes(ip(destination))].concat();
    let mut message = message.to_vec();
    message[2..4].fill(0);
    let sum = !model::datagram_sum(&addresses, 58, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let length = u16::try_from(message.len()).unwrap().to_be_bytes();
    let head = [0x86, 0xdd, 0x60, 0, 0, 0, length[0], length[1], 58, hops];
    [&to[..], &from, &head, &addresses, &message].concat()
}

fn discovery(kind: u8, flags: u8, target: &str, option: Option<(u8, Mac)>) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, flags, 0, 0, 0];
    message.extend(address_bytes(ip(target)));
    if let Some((kind, mac)) = option {
        message.extend([kind, 1]);
        message.extend(mac);
    }
    message
}

#[test]
fn two_nodes_find_each_other_in_both_families_and_with_a_vlan() {
    for vlan in [None, Some(77)] {
        for (theirs, ours) in [("192.0.2.7", "192.0.2.9"), ("2001:db8::7", "2001:db8::9")] {
            let (mut asks, mut answers) = (responder(9, vlan), responder(7, vlan));
            asks.want(ip(theirs), 0);
            answers.want(ip(ours), 0);
            let (questions, told) = tick(&mut asks, 0);
            assert_eq!((questions.len(), told.len()), (1, 0));
            let find = Receiver::new(&interface(7, vlan)).find(&questions[0], Default::default());
            assert_eq!(find, Err(Foreign::Neighbour));
            // The question itself tells who asks.
            let (replies, told) = handle(&mut answers, &questions[0], 1);
            assert_eq!((replies.len(), &told[..]), (1, &[reached(ours, mac(9))][..]), "{theirs}");
            assert_eq!(replies[0][..12], [mac(9), mac(7)].concat(), "answers go to whoever asked and to nobody else");
            assert!(replies[0].len() <= questions[0].len());
            let (sent, told) = handle(&mut asks, &replies[0], 2);
            assert_eq!((sent.len(), &told[..]), (0, &[reached(theirs, mac(7))][..]));
            // Nothing more until it has to be confirmed, and then at its address.
            assert_eq!(tick(&mut asks, 29 * SECOND), (vec![], vec![]));
            let (again, _) = tick(&mut asks, 31 * SECOND);
            assert_eq!(again[0][..6], mac(7));
            let (replies, _) = handle(&mut answers, &again[0], 31 * SECOND);
            assert_eq!(handle(&mut asks, &replies[0], 31 * SECOND), (vec![], vec![]), "nothing changed");
        }
    }
}

#[test]
fn questions_are_repeated_ever_more_slowly_and_then_given_up() {
    for to in ["192.0.2.7", "2001:db8::7"] {
        let mut responder = responder(9, None);
        responder.want(ip(to), 0);
        let (mut times, mut told) = (Vec::new(), Vec::new());
        for turn in 0..200 {
            let (sent, news) = tick(&mut responder, turn * 50 * MS);
            times.extend(sent.iter().map(|_| turn * 50));
            told.extend(news.into_iter().map(|news| (turn * 50, news)));
        }
        assert_eq!(times, [0, 250, 750, 1750, 3750]);
        assert_eq!(told, [(7750, lost(to))]);
        responder.want(ip(to), 20 * SECOND);
        assert_eq!(tick(&mut responder, 20 * SECOND).0.len(), 1, "who is wanted again is asked for again");
    }
}

#[test]
fn a_neighbour_that_falls_silent_is_asked_directly_and_then_by_everybody_and_lost() {
    let mut responder = responder(9, None);
    responder.want(ip("192.0.2.7"), 0);
    tick(&mut responder, 0);
    let reply = arp(mac(9), mac(7), 2, (mac(7), [192, 0, 2, 7]), (mac(9), [192, 0, 2, 9]));
    handle(&mut responder, &reply, MS);
    let (mut to, mut told) = (Vec::new(), Vec::new());
    for turn in 1..1000 {
        let (sent, news) = tick(&mut responder, turn * 50 * MS);
        to.extend(sent.iter().map(|packet| packet[0]));
        told.extend(news);
    }
    assert_eq!(to, [0, 0, 0xff, 0xff, 0xff]);
    assert_eq!(told, [lost("192.0.2.7")]);
}

#[test]
fn whoever_is_behind_a_gateway_is_reached_through_it() {
    let mut responder = responder(9, None);
    let far = ["198.51.100.1", "203.0.113.2"];
    far.iter().for_each(|to| responder.want(ip(to), 0));
    let (questions, _) = tick(&mut responder, 0);
    assert_eq!(questions.len(), 1, "one gateway, one question");
    assert_eq!(questions[0][38..42], [192, 0, 2, 254]);
    let reply = arp(mac(9), mac(0xfe), 2, (mac(0xfe), [192, 0, 2, 254]), (mac(9), [192, 0, 2, 9]));
    assert_eq!(handle(&mut responder, &reply, 1).1, far.map(|to| reached(to, mac(0xfe))));
    responder.want(ip("198.51.100.3"), 2);
    let (sent, told) = tick(&mut responder, 2);
    assert_eq!((sent.len(), told), (0, vec![reached("198.51.100.3", mac(0xfe))]), "it is known already");
    responder.want(ip("2001:db8:1::1"), 3);
    assert_eq!(tick(&mut responder, 3).0[0][..6], [0x33, 0x33, 0xff, 0, 0, 0xfe]);
}

#[test]
fn the_port_with_the_narrowest_network_is_taken() {
    let mut narrow = interface(10, None);
    narrow.networks[0].ip = ip("192.0.2.10");
    narrow.networks[0].prefix = 28;
    let mut responder = Responder::new(vec![interface(9, None), narrow], &[]);
    responder.want(ip("192.0.2.7"), 0);
    responder.want(ip("192.0.2.77"), 0);
    let mut ports = Vec::new();
    responder.tick(0, &mut |port, packet| ports.push((packet[41], port)), &mut |_| {});
    assert_eq!(ports, [(77, 0), (7, 1)]);
}

#[test]
fn fixed_neighbours_are_told_and_never_asked_for_or_moved() {
    let fixed = [(ip("192.0.2.7"), 0, mac(0x70)), (ip("192.0.2.254"), 0, mac(0x71)), (ip("192.0.2.8"), 5, mac(0x72))];
    let mut responder = Responder::new(vec![interface(9, None)], &fixed);
    let told = [reached("192.0.2.7", mac(0x70)), reached("192.0.2.254", mac(0x71))];
    assert_eq!(tick(&mut responder, 0), (vec![], told.to_vec()), "the port of the third does not exist");
    responder.want(ip("198.51.100.1"), 1);
    assert_eq!(tick(&mut responder, 1), (vec![], vec![reached("198.51.100.1", mac(0x71))]));
    let other = arp(mac(9), mac(7), 2, (mac(7), [192, 0, 2, 7]), (mac(9), [192, 0, 2, 9]));
    assert_eq!(handle(&mut responder, &other, 2), (vec![], vec![]));
    assert_eq!(tick(&mut responder, 1000 * SECOND), (vec![], vec![]));
}

#[test]
fn who_cannot_be_reached_at_all_is_lost_at_once() {
    let mut port = interface(9, None);
    port.networks.iter_mut().for_each(|network| network.gateway = None);
    let mut responder = Responder::new(vec![port], &[]);
    let hopeless = ["198.51.100.1", "192.0.2.9", "233.252.0.1", "0.0.0.0", "255.255.255.255", "2001:db8:1::1"];
    hopeless.iter().for_each(|to| responder.want(ip(to), 0));
    assert_eq!(tick(&mut responder, 0), (vec![], hopeless.map(lost).to_vec()));
}

#[test]
fn a_neighbour_may_move_but_not_every_moment() {
    let mut responder = responder(9, None);
    responder.want(ip("192.0.2.7"), 0);
    tick(&mut responder, 0);
    let announce = |device: u8| arp([0xff; 6], mac(device), 1, (mac(device), [192, 0, 2, 7]), ([0; 6], [192, 0, 2, 7]));
    assert_eq!(handle(&mut responder, &announce(7), 0).1, [reached("192.0.2.7", mac(7))]);
    for turn in 0..100 {
        assert_eq!(handle(&mut responder, &announce(8 + turn % 2), u64::from(turn) * 9 * MS).1, []);
    }
    assert_eq!(handle(&mut responder, &announce(8), SECOND).1, [reached("192.0.2.7", mac(8))]);
}

#[test]
fn an_advertisement_without_override_changes_nothing_that_is_known() {
    let mut responder = responder(9, None);
    responder.want(ip("2001:db8::7"), 0);
    tick(&mut responder, 0);
    let advertise = |device: u8, flags| {
        let message = discovery(136, flags, "2001:db8::7", Some((2, mac(device))));
        icmpv6(mac(9), mac(device), "2001:db8::7", "2001:db8::9", 255, &message)
    };
    assert_eq!(handle(&mut responder, &advertise(7, 0x40), 0).1, [reached("2001:db8::7", mac(7))]);
    assert_eq!(handle(&mut responder, &advertise(8, 0x40), 2 * SECOND).1, []);
    assert_eq!(handle(&mut responder, &advertise(8, 0x60), 2 * SECOND).1, [reached("2001:db8::7", mac(8))]);
}

#[test]
fn whoever_asks_whether_our_address_is_taken_is_told_so() {
    let mut responder = responder(9, None);
    let (sent, _) = handle(&mut responder, &request(7, [0; 4], [192, 0, 2, 9]), 0);
    assert_eq!(sent, [arp(mac(7), mac(9), 2, (mac(9), [192, 0, 2, 9]), (mac(7), [0; 4]))]);
    let probe = discovery(135, 0, "2001:db8::9", None);
    let group = [0x33, 0x33, 0xff, 0, 0, 9];
    let (sent, _) = handle(&mut responder, &icmpv6(group, mac(7), "::", "ff02::1:ff00:9", 255, &probe), 0);
    let answer = discovery(136, 0x20, "2001:db8::9", Some((2, mac(9))));
    assert_eq!(sent, [icmpv6(mac(7), mac(9), "2001:db8::9", "ff02::1", 255, &answer)]);
}

#[test]
fn an_echo_comes_back_as_it_went() {
    for length in [0, 1, 56, 1472] {
        let mut responder = responder(9, None);
        let data: Vec<u8> = (0..length).map(|byte| u8::try_from(byte % 251).unwrap()).collect();
        let mut message = [&[8, 0, 0, 0, 0, 1, 0, 2], &data[..]].concat();
        let sum = !model::sum(&[&message]);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let total = u16::try_from(20 + message.len()).unwrap().to_be_bytes();
        let mut header = [0x45, 0, total[0], total[1], 0, 1, 0x40, 0, 3, 1, 0, 0, 192, 0, 2, 7, 192, 0, 2, 9];
        let sum = !model::sum(&[&header]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        let ping = [&mac(9)[..], &mac(7), &[0x08, 0], &header, &message, &[0xee; 6]].concat();
        let pong = handle(&mut responder, &ping, 0).0.remove(0);
        assert_eq!(pong.len(), ping.len() - 6, "padding does not come back");
        assert_eq!(pong[..14], [&mac(7)[..], &mac(9), &[0x08, 0]].concat());
        assert_eq!((model::sum(&[&pong[14..34]]), model::sum(&[&pong[34..]])), (0xffff, 0xffff));
        assert_eq!((&pong[26..34], pong[34]), (&[192, 0, 2, 9, 192, 0, 2, 7][..], 0));
        assert_eq!(pong[38..], message[4..]);
        let mut damaged = ping.clone();
        damaged[38] ^= 1;
        assert_eq!(handle(&mut responder, &damaged, 0), (vec![], vec![]));

        let ask = [&[128, 0, 0, 0, 0, 1, 0, 2], &data[..data.len().min(1452)]].concat();
        let answer = [&[129], &ask[1..]].concat();
        let ping = icmpv6(mac(9), mac(7), "2001:db8::7", "2001:db8::9", 3, &ask);
        let pong = icmpv6(mac(7), mac(9), "2001:db8::9", "2001:db8::7", 64, &answer);
        assert_eq!(handle(&mut responder, &ping, 0).0, [pong]);
    }
}

#[test]
fn insane_senders_get_no_answer() {
    let mut responder = responder(9, None);
    responder.want(ip("192.0.2.7"), 0);
    responder.want(ip("2001:db8::7"), 0);
    let us = [192, 0, 2, 9];
    let from = |source: Mac, sender: [u8; 4]| arp([0xff; 6], source, 1, (mac(7), sender), ([0; 6], us));
    let ask = |mac_from, source, hops, message: &[u8]| icmpv6(mac(9), mac_from, source, "2001:db8::9", hops, message);
    let good = discovery(135, 0, "2001:db8::9", Some((1, mac(7))));
    let endless = [&discovery(135, 0, "2001:db8::9", None)[..], &[1, 0, 0, 0, 0, 0, 0, 0]].concat();
    let packets = [
        from([1, 0, 0x5e, 0, 0x53, 7], [192, 0, 2, 7]),
        from([0; 6], [192, 0, 2, 7]),
        from(mac(9), [192, 0, 2, 7]),
        from(mac(7), us),
        from(mac(7), [233, 252, 0, 1]),
        from(mac(7), [255; 4]),
        ask(mac(7), "2001:db8::7", 254, &good),
        ask(mac(7), "::", 255, &good),
        ask(mac(7), "2001:db8::9", 255, &good),
        ask(mac(7), "ff02::1", 255, &good),
        ask([0xff; 6], "2001:db8::7", 255, &good),
        ask(mac(7), "2001:db8::7", 255, &good[..23]),
        ask(mac(7), "2001:db8::7", 255, &endless),
        ask(mac(7), "2001:db8::7", 255, &discovery(135, 0, "2001:db8::8", None)),
        ask(mac(7), "2001:db8::7", 255, &[133, 0, 0, 0, 0, 0, 0, 0]),
        ask(mac(7), "2001:db8::7", 255, &[134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]),
    ];
    for packet in &packets {
        assert_eq!(handle(&mut responder, packet, 0).0, Vec::<Vec<u8>>::new(), "{packet:02x?}");
    }
    // The same sender, sane, is answered: the packets above failed for what they say.
    assert_eq!(handle(&mut responder, &from(mac(7), [192, 0, 2, 7]), 0).0.len(), 1);
    assert_eq!(handle(&mut responder, &ask(mac(7), "2001:db8::7", 255, &good), 0).0.len(), 1);
    // An IPv4 address in IPv6 form would move an IPv4 neighbour.
    let mapped = discovery(136, 0x60, "::ffff:192.0.2.7", Some((2, mac(8))));
    assert_eq!(handle(&mut responder, &ask(mac(8), "2001:db8::8", 255, &mapped), 9 * SECOND).1, []);
}

#[test]
fn a_storm_changes_nothing_and_is_answered_once_each() {
    let mut responder = responder(9, None);
    responder.want(ip("192.0.2.7"), 0);
    let mut answers = 0;
    for number in 0..100_000u32 {
        let [_, _, high, low] = number.to_be_bytes();
        let target = if number % 2 == 0 { [192, 0, 2, 9] } else { [192, 0, 2, 10] };
        let (sent, told) = handle(&mut responder, &request(8, [198, 51, high, low.max(1)], target), u64::from(number));
        assert!(told.is_empty());
        assert!(sent.iter().all(|packet| packet.len() == 42));
        answers += sent.len();
    }
    assert_eq!(answers, 50_000);
    assert_eq!(tick(&mut responder, SECOND).0.len(), 1, "still only the one that is wanted is asked for");
}

#[test]
fn what_packets_name_pushes_out_nobody_who_was_announced() {
    let mut port: Interface = interface(9, None);
    port.networks[0].prefix = 8;
    let mut responder = Responder::new(vec![port], &[]);
    let all = u32::try_from(WANTED_MAX).unwrap();
    let address = |number: u32| IpAddr::from((0xc000_0300 + number).to_be_bytes());
    let lost = |number| News::Lost { to: address_bytes(address(number)) };
    (0..all - 1).for_each(|number| responder.want(address(number), 1));
    responder.note(address(all), 2);
    responder.note(address(all + 1), 3);
    let (_, told) = tick(&mut responder, 3);
    assert_eq!(told, [lost(all)], "one noted takes the place of another, although many are older");
    responder.want(address(all + 1), 4); // announced now
    responder.note(address(all + 2), 5);
    assert!(tick(&mut responder, 5).1.is_empty(), "there is no place");
    responder.want(address(all + 2), 6);
    assert_eq!(tick(&mut responder, 6).1, [lost(0)], "one announced has its place");
}

#[test]
fn wishes_are_bounded_asked_for_in_portions_and_the_oldest_is_forgotten_first() {
    let mut port: Interface = interface(9, None);
    port.networks[0].prefix = 8;
    let mut responder = Responder::new(vec![port], &[]);
    let all = u32::try_from(WANTED_MAX).unwrap();
    let address = |number: u32| IpAddr::from((0xc000_0300 + number).to_be_bytes());
    (0..all).for_each(|number| responder.want(address(number), u64::from(number)));
    responder.want(address(0), u64::from(all));
    let (sent, _) = tick(&mut responder, u64::from(all));
    assert_eq!(sent.len(), 64, "one turn's portion");
    responder.want(address(all), u64::from(all) + 1);
    let gone = News::Lost { to: address_bytes(address(1)) };
    let (_, told) = tick(&mut responder, u64::from(all) + 1);
    assert_eq!(told, [gone], "the first one was wanted again, so the second is the oldest");
    (0..1000).for_each(|number| responder.want(address(all + 1 + number), SECOND));
    let (mut told, mut asked) = (Vec::new(), std::collections::BTreeSet::new());
    for turn in 0..100 {
        let (sent, news) = tick(&mut responder, SECOND + turn * MS);
        told.extend(news);
        asked.extend(sent.iter().map(|packet| packet[38..42].to_vec()));
    }
    assert_eq!(told.len(), 64, "no more is forgotten between two turns than can be told");
    assert!(asked.len() > 4000 && asked.len() <= WANTED_MAX, "{}", asked.len());
}
