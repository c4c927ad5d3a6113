//! What is not for us, and what goes wrong: counted with its cause, survived, and nothing lost.
#![expect(clippy::unwrap_used, reason = "test helpers panic where a test would")]

mod station;

use station::{BASE_PORT, BUFFER_BYTES, BUFFERS, Station, port, socket};
use std::{fs, path::PathBuf, sync::Mutex};
use tachyon_driver_api::{
    Buffer, CompletionBatch, PortState, Ports, Received, RxBatch, RxQueue, Transmit, TxBatch, TxQueue,
};
use tachyon_driver_dpdk::{
    Device,
    ether::{Foreign, Hop, Interface, UdpChecksum},
};
use tachyon_wire::{Endpoint, Reason};

const US: [u8; 4] = [192, 0, 2, 1];
const PEER: [u8; 4] = [192, 0, 2, 2];
const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// DPDK opens devices for one thread at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> std::sync::MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A good packet from the peer to our shard 0.
fn good(payload: &[u8]) -> Vec<u8> {
    let peer = Interface {
        mac: PEER_MAC,
        vlan: None,
        networks: [station::network(PEER)].into_iter().collect(),
        base_port: 5_000,
        shard_count: 1,
        mtu: 9_000,
    };
    let hop = Hop::new(&peer, 0, OUR_MAC, std::net::IpAddr::from(US)).unwrap();
    let mut packet = vec![0; hop.header_bytes()];
    hop.write(&mut packet, 5_000, BASE_PORT, payload, UdpChecksum::Compute);
    packet.extend(payload);
    packet
}

/// The same with some bytes changed, under a good IP checksum unless that is what changed.
fn changed(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut packet = good(&[7; 128]);
    packet[at..at + bytes.len()].copy_from_slice(bytes);
    if (14..24).contains(&at) {
        packet[24..26].fill(0);
        let words = packet[14..34].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
        let sum = words.sum::<u32>();
        let folded = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
        packet[24..26].copy_from_slice(&(!folded).to_be_bytes());
    }
    packet
}

/// A capture file of these packets.
fn capture(name: &str, packets: &[Vec<u8>]) -> PathBuf {
    let mut bytes: Vec<u8> = Vec::new();
    bytes.extend(0xa1b2_c3d4_u32.to_le_bytes());
    bytes.extend([2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend(65_535_u32.to_le_bytes());
    bytes.extend(1_u32.to_le_bytes());
    for packet in packets {
        let len = u32::try_from(packet.len()).unwrap().to_le_bytes();
        bytes.extend([[0; 4], [0; 4], len, len].concat());
        bytes.extend(packet);
    }
    let path = std::env::temp_dir().join(format!("tachyon-{name}-{}.pcap", std::process::id()));
    fs::write(&path, bytes).unwrap();
    path
}

fn pcap(path: &std::path::Path) -> Device {
    Device::Pcap { read: Some(path.to_owned()), write: None }
}

#[test]
fn what_is_not_for_us_is_counted_by_its_cause_and_what_is_arrives() {
    let _alone = alone();
    let mut vlan = good(&[1; 128]);
    vlan.splice(12..12, [0x81, 0x00, 0x00, 0x07]);
    let packets = [
        (good(&[1; 1_472]), None),
        (vlan, Some(Foreign::Vlan)),
        (changed(12, &[0x08, 0x06]), Some(Foreign::Neighbour)),
        (changed(12, &[0x88, 0xcc]), Some(Foreign::NotIp)),
        (changed(20, &[0x20, 0x00]), Some(Foreign::Fragment)),
        (changed(23, &[6]), Some(Foreign::NotUdp)),
        (changed(24, &[0xff, 0xff]), Some(Foreign::IpChecksum)),
        (changed(40, &[0x12, 0x34]), Some(Foreign::UdpChecksum)),
        (changed(0, &[2, 9, 9, 9, 9, 9]), Some(Foreign::OtherMac)),
        (vec![0xff; 13], Some(Foreign::Runt)),
        (good(&[1; 4_000]), Some(Foreign::MultiSegment)),
        (good(&[2; 64]), None),
    ];
    let path = capture("causes", &packets.iter().map(|(packet, _)| packet.clone()).collect::<Vec<_>>());
    let mut us = Station::open(vec![port("us", pcap(&path), US, OUR_MAC, &[])], &[0], BASE_PORT);
    let mut lengths = Vec::new();
    us.until("every packet was looked at", |us| {
        for Received { buffer, len, shard, source, .. } in us.receive() {
            assert_eq!((shard, source), (0, Endpoint::v4(PEER, 5_000)));
            lengths.push(len);
            us.pool.put(buffer);
        }
        let refused: u64 =
            Foreign::ALL.iter().map(|cause| us.counter(0, &format!("not_frames_{}", cause.name()))).sum();
        refused + lengths.len() as u64 == packets.len() as u64
    });
    assert_eq!(lengths, [1_472, 64]);
    for cause in Foreign::ALL {
        let expected = packets.iter().filter(|(_, found)| *found == Some(*cause)).count() as u64;
        assert_eq!(us.counter(0, &format!("not_frames_{}", cause.name())), expected, "{cause:?}");
    }
    fs::remove_file(path).unwrap();
}

#[test]
fn a_port_whose_file_is_not_there_yet_waits_for_it() {
    let _alone = alone();
    let path = capture("later", &[good(&[3; 128])]);
    let hidden = path.with_extension("hidden");
    fs::rename(&path, &hidden).unwrap();
    let mut us = Station::open(vec![port("us", pcap(&path), US, OUR_MAC, &[])], &[0], BASE_PORT);
    us.tick();
    assert!(us.receive().is_empty() && us.state(0) == PortState::Waiting);
    assert!(us.ports.reports()[0].why.contains("waits for"));
    fs::rename(&hidden, &path).unwrap();
    us.until("the frame arrives", |us| {
        let received = us.receive();
        let found = received.len() == 1;
        received.into_iter().for_each(|received| us.pool.put(received.buffer));
        found
    });
    fs::remove_file(path).unwrap();
}

struct Pair {
    us: Station,
    peer: Station,
}

/// Two stations that are connected twice, so that each has another port that must not notice.
fn pair() -> Pair {
    let socket = socket();
    let memif = |id, server| Device::Memif { socket: socket.clone(), id, server };
    let second = |ip: [u8; 4]| [198, 51, 100, ip[3]];
    let ports = |server, ip: [u8; 4], mac, other: [u8; 4], other_mac| {
        vec![
            port("first", memif(0, server), ip, mac, &[(other, other_mac)]),
            port("second", memif(1, server), second(ip), mac, &[(second(other), other_mac)]),
        ]
    };
    let mut us = Station::open(ports(true, US, OUR_MAC, PEER, PEER_MAC), &[0], BASE_PORT);
    let mut peer = Station::open(ports(false, PEER, PEER_MAC, US, OUR_MAC), &[0], 5_000);
    us.until("both ends connect", |us| {
        peer.tick();
        peer.receive();
        us.receive();
        (0..2).all(|port| us.state(port) == PortState::Ready && peer.state(port) == PortState::Ready)
    });
    us.receive();
    peer.receive();
    Pair { us, peer }
}

fn item(us: &mut Station, to: [u8; 4]) -> Transmit {
    let buffer = us.pool.get().unwrap();
    Transmit { buffer, offset: 0, len: 128, stride: 128, shard: 0, destination: Endpoint::v4(to, 5_000), token: 1 }
}

fn send(us: &mut Station, to: [u8; 4]) -> Option<Reason> {
    let item = item(us, to);
    us.transmit(item)
}

const PEER_SECOND: [u8; 4] = [198, 51, 100, 2];

#[test]
fn a_stopped_port_refuses_copies_and_the_other_goes_on() {
    let _alone = alone();
    let Pair { mut us, mut peer } = pair();
    us.ports.stop("first").unwrap();
    assert!(us.ports.stop("first").is_err(), "it is being stopped");
    us.until("the worker let go", |us| {
        us.receive();
        us.state(0) == PortState::Stopped
    });
    assert_eq!(send(&mut us, PEER), Some(Reason::TxSubmitFail));
    assert_eq!(send(&mut us, PEER_SECOND), None);
    assert!(us.ports.stop("third").unwrap_err().0.contains("there are first, second"));
    us.until("it can be started again", |us| us.ports.start("first").is_ok());
    us.until("it runs again", |us| {
        peer.tick();
        peer.receive().into_iter().for_each(|received| peer.pool.put(received.buffer));
        us.receive();
        us.state(0) == PortState::Ready
    });
    us.receive();
    assert_eq!(send(&mut us, PEER), None);
}

#[test]
fn a_peer_that_leaves_takes_the_link_down_and_one_that_comes_back_brings_it_up() {
    let _alone = alone();
    let Pair { mut us, mut peer } = pair();
    peer.ports.stop("first").unwrap();
    us.until("the link is down", |us| {
        peer.tick();
        peer.receive();
        us.receive();
        us.state(0) == PortState::LinkDown
    });
    us.receive();
    assert_eq!(send(&mut us, PEER), Some(Reason::TxSubmitFail));
    assert_eq!(send(&mut us, PEER_SECOND), None);
    peer.ports.start("first").unwrap();
    us.until("the link is up", |us| {
        peer.tick();
        peer.receive().into_iter().for_each(|received| peer.pool.put(received.buffer));
        us.receive();
        us.state(0) == PortState::Ready
    });
    us.receive();
    assert_eq!(send(&mut us, PEER), None);
}

#[test]
fn a_pool_that_ran_dry_is_counted_and_receiving_goes_on_when_buffers_come_back() {
    let _alone = alone();
    let Pair { mut us, mut peer } = pair();
    let frame = [5u8; 192];
    // The worker keeps everything it gets until its pool and DPDK's are empty.
    let mut kept: Vec<Buffer> = Vec::new();
    for _ in 0..BUFFERS {
        peer.send(0, Endpoint::v4(US, BASE_PORT), &[&frame]);
        kept.extend(us.receive().into_iter().map(|received| received.buffer));
    }
    assert!(us.queue().stats().starved > 0, "the pool had none");
    assert_eq!(us.pool.free(), 0);
    us.until("what the device could not place is known", |us| {
        us.receive().into_iter().for_each(|received| kept.push(received.buffer));
        us.queue().stats().overflow > 0 || kept.len() == BUFFERS
    });
    kept.drain(..).for_each(|buffer| us.pool.put(buffer));
    let mut batch = RxBatch::new();
    us.until("it receives again", |us| {
        peer.send(0, Endpoint::v4(US, BASE_PORT), &[&frame]);
        let (queue, pool) = us.parts();
        queue.rx_burst(pool, &mut batch);
        let got = !batch.is_empty();
        batch.drain(..).for_each(|received| us.pool.put(received.buffer));
        got
    });
}

#[test]
fn who_was_announced_is_known_before_the_first_frame() {
    let _alone = alone();
    let socket = socket();
    let memif = |server| Device::Memif { socket: socket.clone(), id: 0, server };
    // Nobody is told who is where: both sides have to ask.
    let mut us = Station::open(vec![port("us", memif(true), US, OUR_MAC, &[])], &[0], BASE_PORT);
    let mut peer = Station::open(vec![port("peer", memif(false), PEER, PEER_MAC, &[])], &[0], 5_000);
    let mut work = |us: &mut Station| {
        peer.tick();
        peer.receive().into_iter().for_each(|received| peer.pool.put(received.buffer));
        us.receive();
    };
    us.until("both ends connect", |us| {
        work(us);
        us.state(0) == PortState::Ready
    });
    us.receive();
    us.ports.want(std::net::IpAddr::from(PEER));
    us.until("the neighbour answered", |us| {
        work(us);
        us.counter(0, "not_frames_neighbour") > 0
    });
    us.tick();
    us.receive();
    assert_eq!(send(&mut us, PEER), None);
    assert_eq!(us.counter(0, "items_unreachable"), 0);
}

#[test]
fn whoever_is_sent_to_is_asked_for_although_nobody_announced_it_and_again_after_it_was_away() {
    let _alone = alone();
    let socket = socket();
    let memif = |server| Device::Memif { socket: socket.clone(), id: 0, server };
    let mut us = Station::open(vec![port("us", memif(true), US, OUR_MAC, &[])], &[0], BASE_PORT);
    let mut peer = Station::open(vec![port("peer", memif(false), PEER, PEER_MAC, &[])], &[0], 5_000);
    let mut work = |us: &mut Station| {
        peer.tick();
        peer.receive().into_iter().for_each(|received| peer.pool.put(received.buffer));
        us.receive();
    };
    us.until("both ends connect", |us| {
        work(us);
        us.state(0) == PortState::Ready
    });
    us.receive();
    assert_eq!(send(&mut us, PEER), Some(Reason::TxSubmitFail), "nobody is known yet");
    assert_eq!(us.counter(0, "items_unreachable"), 1);
    us.until("the neighbour answered", |us| {
        work(us);
        send(us, PEER).is_none()
    });
    // For two minutes nobody answers, so it is given up and forgotten.
    let now_ns = us.now_ns();
    for second in 0..120 {
        us.ports.tick(now_ns + second * 1_000_000_000);
    }
    us.receive();
    assert_eq!(send(&mut us, PEER), Some(Reason::TxSubmitFail), "it was given up");
    let mut second = 120;
    us.until("it is found again", |us| {
        work(us);
        second += 1;
        us.ports.tick(now_ns + second * 1_000_000_000);
        send(us, PEER).is_none()
    });
}

#[test]
fn a_second_server_at_one_socket_gets_a_clear_error() {
    let _alone = alone();
    let socket = socket();
    let memif = |id| Device::Memif { socket: socket.clone(), id, server: true };
    let _first = Station::open(vec![port("first", memif(0), US, OUR_MAC, &[])], &[0], BASE_PORT);
    let error = Station::try_open(vec![port("again", memif(0), PEER, PEER_MAC, &[])], &[0]).unwrap_err();
    assert!(error.0.starts_with("port again: memif 0 at ") && error.0.contains("no other server"), "{error}");
    let nowhere = Device::AfPacket("no-such-if".into());
    let error = Station::try_open(vec![port("none", nowhere, PEER, PEER_MAC, &[])], &[0]).unwrap_err();
    assert!(error.0.contains("`ip link` lists interfaces"), "{error}");
}

#[test]
fn two_ports_of_one_process_are_connected_by_a_cable() {
    let _alone = alone();
    let end = |far| Device::Crossed { cable: "cable".into(), far };
    let mut us = Station::open(vec![port("us", end(false), US, OUR_MAC, &[(PEER, PEER_MAC)])], &[0], BASE_PORT);
    let mut peer = Station::open(vec![port("peer", end(true), PEER, PEER_MAC, &[(US, OUR_MAC)])], &[0], 5_000);
    us.tick();
    peer.tick();
    us.receive();
    peer.receive();
    let frames: Vec<Vec<u8>> = (1..=23_u8).map(|lines| vec![lines; usize::from(lines) * 64]).collect();
    for frame in &frames {
        us.send(0, Endpoint::v4(PEER, 5_000), &[frame]);
        peer.send(0, Endpoint::v4(US, BASE_PORT), &[frame]);
        for station in [&mut us, &mut peer] {
            let mut received = Vec::new();
            station.until("the frame arrives", |station| {
                received.extend(station.receive());
                !received.is_empty()
            });
            let Received { buffer, offset, len, .. } = received.remove(0);
            assert_eq!(&buffer.bytes()[offset as usize..(offset + len) as usize], frame.as_slice());
            station.pool.put(buffer);
        }
    }
}

#[test]
fn a_frame_of_mtu_9000_fits_a_larger_buffer_in_one_piece() {
    let _alone = alone();
    let path = capture("jumbo", &[good(&[8; 8_960])]);
    let config = tachyon_driver_dpdk::PortConfig { mtu: 9_000, ..port("us", pcap(&path), US, OUR_MAC, &[]) };
    let mut us = Station::open_with(vec![config], &[0], BASE_PORT, 9_152, BUFFERS);
    us.until("the frame arrives", |us| {
        let received = us.receive();
        let found = received.iter().any(|received| received.len == 8_960);
        received.into_iter().for_each(|received| us.pool.put(received.buffer));
        found
    });
    fs::remove_file(path).unwrap();
}

/// We with `count` cables, and a peer at the other ends.
fn cables(tag: &str, count: u8) -> (Station, Station) {
    let end = |number: u8, far| Device::Crossed { cable: format!("{tag}{number}"), far };
    let ip = |number: u8, host| [198, 51, number, host];
    let ports = |far, (host, mac): (u8, _), (other, other_mac)| {
        let one = |number| {
            port(&format!("port-{number}"), end(number, far), ip(number, host), mac, &[(ip(number, other), other_mac)])
        };
        (0..count).map(one).collect()
    };
    let open = |ports, base_port| Station::open_with(ports, &[0], base_port, BUFFER_BYTES, 2 * BUFFERS);
    let mut us = open(ports(false, (1, OUR_MAC), (2, PEER_MAC)), BASE_PORT);
    let mut peer = open(ports(true, (2, PEER_MAC), (1, OUR_MAC)), 5_000);
    for station in [&mut us, &mut peer] {
        station.tick();
        station.receive();
    }
    (us, peer)
}

/// Empties the cables, whose packets are the other end's.
fn drain(station: &mut Station) {
    for _ in 0..100 {
        station.receive().into_iter().for_each(|received| station.pool.put(received.buffer));
    }
}

#[test]
fn every_port_of_several_has_its_turn_however_much_the_others_receive() {
    let _alone = alone();
    let (mut us, mut peer) = cables("turn", 3);
    for number in 0..3 {
        for _ in 0..128 {
            peer.send(0, Endpoint::v4([198, 51, number, 1], BASE_PORT), &[&[number; 64]]);
        }
    }
    let mut got = [0; 3];
    for _ in 0..3 {
        for Received { buffer, source, .. } in us.receive() {
            got[usize::from(source.ip[14])] += 1;
            us.pool.put(buffer);
        }
    }
    assert_eq!(got, [64; 3]);
    drain(&mut us);
}

/// Offers an item once; what became of it, if it ended.
fn offer(us: &mut Station, item: Transmit) -> Option<Option<Reason>> {
    let (mut from, mut done) = (TxBatch::new(), CompletionBatch::new());
    from.push(item);
    us.queue().tx_burst(&mut from);
    us.queue().completions(&mut done);
    from.drain(..).for_each(|item| us.pool.put(item.buffer));
    let ended = done.pop()?;
    us.pool.put(ended.buffer);
    Some(ended.error)
}

#[test]
fn a_device_that_takes_nothing_for_long_holds_the_others_up_once() {
    let _alone = alone();
    let (mut us, mut peer) = cables("stall", 2);
    let to = |number| Endpoint::v4([198, 51, number, 2], 5_000);
    let one = |us: &mut Station, number| {
        let buffer = us.pool.get().unwrap();
        Transmit { buffer, offset: 0, len: 64, stride: 64, shard: 0, destination: to(number), token: 1 }
    };
    // Nobody looks at the other ends, so the first cable is full at some point.
    let stuck = (0..2_000).find_map(|_| {
        let item = one(&mut us, 0);
        us.transmit(item)
    });
    assert_eq!(stuck, Some(Reason::TxTimeout));
    for _ in 0..3 {
        let item = one(&mut us, 0);
        assert_eq!(offer(&mut us, item), Some(Some(Reason::TxTimeout)), "it is known to take nothing");
        let item = one(&mut us, 1);
        assert_eq!(offer(&mut us, item), Some(None));
    }
    drain(&mut peer);
    let item = one(&mut us, 0);
    assert_eq!(offer(&mut us, item), Some(None), "it takes again");
    drain(&mut peer);
}

#[test]
fn an_item_for_which_no_descriptors_come_ends() {
    let _alone = alone();
    let (mut us, mut peer) = cables("dry", 2);
    // Each frame of several in a buffer takes two descriptors, which come back when the peer has read it.
    let sixteen = |us: &mut Station, number| {
        let (buffer, destination) = (us.pool.get().unwrap(), Endpoint::v4([198, 51, number, 2], 5_000));
        Transmit { buffer, offset: 0, len: 1_024, stride: 64, shard: 0, destination, token: 1 }
    };
    let mut ended = None;
    for (number, most) in [(0, 63), (1, 63)] {
        for _ in 0..most {
            let item = sixteen(&mut us, number);
            ended = ended.or(us.transmit(item));
        }
    }
    assert_eq!(ended, Some(Reason::TxTimeout));
    drain(&mut peer);
    let item = sixteen(&mut us, 1);
    assert_eq!(us.transmit(item), None, "there are some again");
    drain(&mut peer);
}

#[test]
fn a_worker_that_is_gone_keeps_no_port_from_stopping() {
    let _alone = alone();
    let (mut us, _peer) = cables("gone", 1);
    us.abandon();
    us.ports.stop("port-0").unwrap();
    us.tick();
    assert_eq!(us.ports.reports()[0].why, "stopped by an operator; `tachyon ports start` starts it");
}

#[test]
fn more_news_than_there_is_room_for_at_once_is_told_bit_by_bit() {
    let _alone = alone();
    let socket = socket();
    let memif = |server| Device::Memif { socket: socket.clone(), id: 0, server };
    let host = |number: u16| [192, 0, 2 + (number / 200).to_le_bytes()[0], 2 + (number % 200).to_le_bytes()[0]];
    let known: Vec<_> = (0..5_000).map(|number| (host(number), PEER_MAC)).collect();
    let mut us = Station::open(vec![port("us", memif(true), US, OUR_MAC, &known)], &[0], BASE_PORT);
    let mut peer = Station::open(vec![port("peer", memif(false), PEER, PEER_MAC, &[])], &[0], 5_000);
    us.until("both ends connect", |us| {
        us.receive();
        peer.tick();
        peer.receive();
        us.state(0) == PortState::Ready && peer.state(0) == PortState::Ready
    });
    peer.receive(); // its buffers are for us to fill
    for _ in 0..2 {
        us.tick();
        us.receive();
    }
    for number in [0, 4_095, 4_096, 4_999] {
        assert_eq!(send(&mut us, host(number)), None, "{number}");
    }
}

#[test]
fn a_device_that_would_cut_or_make_up_longer_packets_than_fit_is_refused_with_its_own_error_only() {
    let _alone = alone();
    let open = |device, mtu| {
        let config = tachyon_driver_dpdk::PortConfig { mtu, ..port("us", device, US, OUR_MAC, &[]) };
        Station::try_open(vec![config], &[0]).unwrap_err().0
    };
    let error = open(Device::AfXdp { interface: "no-such-if".into(), program: None }, 3_000);
    assert!(error.starts_with("port us: net_af_xdp no-such-if: an MTU of 3000") && error.contains("1774"), "{error}");
    let error = open(Device::Null { packet_bytes: 1_519, receive: true }, 1_500);
    assert!(error.contains("packets of 1519 bytes") && error.contains("1518"), "{error}");
    // What DPDK said about one device is not said about the next.
    let first = open(Device::AfPacket("no-such-if".into()), 1_500);
    let second = open(Device::AfPacket("nor-such-if".into()), 1_500);
    assert!(first.contains("no-such-if") && !second.contains("no-such-if"), "{second}");
}

#[test]
fn devices_are_not_closed_under_a_worker() {
    let _alone = alone();
    let (mut us, mut peer) = cables("close", 1);
    us.ports.close();
    assert_eq!(us.state(0), PortState::Ready, "a worker may be polling");
    us.send(0, Endpoint::v4([198, 51, 0, 2], 5_000), &[&[1; 64]]);
    us.receive();
    us.ports.close();
    assert_eq!(us.state(0), PortState::Stopped, "it has let go");
    us.receive();
    drain(&mut peer);
}
