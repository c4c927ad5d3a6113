//! The kernel as the other side: real sockets behind a veth verify checksums, our own kernel answers for neighbours and takes
//! back what we do not want, and another driver sends from the same memory.
//!
//! Needs root, for network namespaces, XDP programs and XDP sockets; says so and does nothing without.
#![expect(clippy::unwrap_used, reason = "test helpers panic where a test would")]

mod station;

use station::{BASE_PORT, Cable, OUR_MAC, Setup, Station, THEM, THEM_V6, US, US_V6, endpoint, ip, packet_v4};
use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    process::Command,
    time::Duration,
};
use tachyon_driver_api::{
    CompletionBatch, Pool, Port, PortState, Ports, Received, RxBatch, RxQueue, Transmit, TxBatch, TxQueue,
};
use tachyon_driver_uring::{UringConfig, UringPort, UringQueue};
use tachyon_wire::Endpoint;

fn pattern(len: u32) -> Vec<u8> {
    (0..len).map(|i| (i * 7).to_le_bytes()[0]).collect()
}

fn bytes_of(received: &Received) -> &[u8] {
    &received.buffer.bytes()[received.offset as usize..][..received.len as usize]
}

/// Frames of this length there and back over both families; neither side is told where the other is.
fn there_and_back(mtu: u16, setup: &Setup, len: u32) -> Option<(u64, Vec<String>)> {
    let cable = Cable::new(mtu)?;
    let mut us = Station::open(setup);
    if len > 4_096 && !us.takes_pieces() {
        return None;
    }
    for (to, from) in
        [(IpAddr::from(US), SocketAddr::from((THEM, 5_000))), (US_V6.into(), SocketAddr::from((THEM_V6, 5_000)))]
    {
        let socket = cable.socket(from);
        let wire = cable.wire();
        let frame = pattern(len);
        socket.send_to(&frame, (to, BASE_PORT + 2)).unwrap();
        us.until("the frame arrives", |us| {
            let received = us.receive();
            let found = !received.is_empty();
            for received in received {
                assert_eq!(bytes_of(&received), frame.as_slice());
                assert_eq!((received.shard, received.source), (2, endpoint(from)));
                us.pool.put(received.buffer);
            }
            found
        });
        us.reach(from);
        assert_eq!(us.send_once(1, endpoint(from), &frame), None);
        // A wrong checksum the kernel would not take, but one that says "none" it would.
        let at = if to.is_ipv4() { 40 } else { 60 };
        let seen = wire.seen().into_iter().filter(|packet| packet.len() > len as usize && packet[6..12] == OUR_MAC);
        let checksums: Vec<_> = seen.map(|packet| [packet[at], packet[at + 1]]).collect();
        assert!(!checksums.is_empty() && !checksums.contains(&[0, 0]), "{checksums:?}");
        let mut bytes = vec![0; 16_384];
        us.until("the kernel gets the answer", |us| {
            us.discard();
            // First comes what looked for the neighbour.
            socket.recv_from(&mut bytes).is_ok_and(|(len, source)| {
                len > 64 && (&bytes[..len], source) == (frame.as_slice(), SocketAddr::from((to, BASE_PORT + 1)))
            })
        });
    }
    Some((us.counter("packets_joined"), us.degraded.clone()))
}

#[test]
fn the_kernel_takes_what_we_send_and_we_take_what_it_sends() {
    let setup = Setup { udp_checksum: true, ..Setup::new(&[0, 1, 2]) };
    let Some((joined, degraded)) = there_and_back(1_500, &setup, 1_408) else { return };
    assert_eq!(joined, 0, "22 messages are one piece");
    assert!(degraded.iter().any(|line| line.contains("the kernel copies each packet")), "{degraded:?}");
}

#[test]
fn long_frames_come_and_go_in_pieces() {
    let setup = Setup { udp_checksum: true, stride: 12_288, ..Setup::new(&[0, 1, 2]) };
    let Some((joined, _)) = there_and_back(9_000, &setup, 8_896) else { return };
    assert_eq!(joined, 2);
}

/// A sender on this machine leaves checksums to a device, and a veth is none that would make them.
#[test]
fn what_a_program_on_this_machine_sends_needs_no_checksum() {
    let Some(cable) = Cable::new(1_500) else { return };
    cable.there(|| {
        let left = Command::new("ethtool").args(["-K", "them", "tx", "on"]).output();
        assert!(left.is_ok_and(|output| output.status.success()));
    });
    let mut us = Station::open(&Setup::new(&[0]));
    for (to, from) in
        [(IpAddr::from(US), SocketAddr::from((THEM, 5_000))), (US_V6.into(), SocketAddr::from((THEM_V6, 5_000)))]
    {
        let (socket, frame) = (cable.socket(from), pattern(128));
        us.until("the frame arrives", |us| {
            socket.send_to(&frame, (to, BASE_PORT)).unwrap();
            us.discard() > 0
        });
    }
    assert_eq!(us.counter("not_frames_udp_checksum"), 0);
}

/// As on kernels before 6.6, whatever the interface's MTU is: what fits one chunk comes and goes, and the rest is said.
#[test]
fn on_an_interface_of_long_packets_one_piece_carries_what_fits_it() {
    let setup = Setup { udp_checksum: true, one_piece: true, ..Setup::new(&[0, 1, 2]) };
    let Some((joined, degraded)) = there_and_back(9_000, &setup, 1_408) else { return };
    assert_eq!(joined, 0);
    let says = |what: &str| degraded.iter().any(|line| line.contains(what));
    assert!(says("packets have one piece") && says("packets end at 1770 bytes"), "{degraded:?}");
    assert!(says("packets have at most 1770 bytes instead of 9014"), "{degraded:?}");
}

#[test]
fn a_frame_received_by_one_driver_goes_out_by_the_other_from_the_same_memory() {
    let Some(cable) = Cable::new(1_500) else { return };
    let mut us = Station::open(&Setup::new(&[0]));
    let there = cable.socket(SocketAddr::from((THEM, 5_000)));
    let here = UdpSocket::bind("127.0.0.1:0").unwrap();
    here.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut uring = Loopback::open(&mut us);

    // In by XDP, out by io_uring.
    let frame = pattern(1_408);
    there.send_to(&frame, (US, BASE_PORT)).unwrap();
    let mut received = Vec::new();
    us.until("the frame arrives by XDP", |us| {
        received.extend(us.receive());
        !received.is_empty()
    });
    let received = received.remove(0);
    assert_eq!(received.offset % 64, 0, "behind the usual headers a frame starts on a cache line");
    let destination = Endpoint::v4([127, 0, 0, 1], here.local_addr().unwrap().port());
    let (buffer, offset, len) = (received.buffer, received.offset, received.len);
    uring.send(&mut us.pool, Transmit { buffer, offset, len, stride: len, shard: 0, destination, token: 1 });
    let mut bytes = [0; 2_000];
    let (got, _) = here.recv_from(&mut bytes).unwrap();
    assert_eq!(&bytes[..got], frame.as_slice());

    // In by io_uring, out by XDP: the headers get memory of their own, and what was received is not written.
    us.reach(there.local_addr().unwrap());
    there.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    there.recv_from(&mut bytes).unwrap();
    here.send_to(&frame, uring.address()).unwrap();
    let received = uring.receive(&mut us.pool);
    assert!(received.offset > 0);
    let (before, at) = (received.buffer.bytes().to_vec(), received.buffer.address());
    let destination = Endpoint::v4(THEM.octets(), 5_000);
    let (buffer, offset, len) = (received.buffer, received.offset, received.len);
    assert_eq!(us.transmit(Transmit { buffer, offset, len, stride: len, shard: 0, destination, token: 1 }), None);
    let (got, _) = there.recv_from(&mut bytes).unwrap();
    assert_eq!(&bytes[..got], frame.as_slice());
    // SAFETY: the arena stays mapped, and nothing is received meanwhile.
    let after = unsafe { std::slice::from_raw_parts(at.as_ptr(), before.len()) };
    assert_eq!(after, before, "a received byte was written");
    assert!(us.is_copied(1));
    uring.close(&mut us.pool);
}

#[test]
fn one_worker_forwards_between_two_ports_from_the_same_memory() {
    let Some(cable) = Cable::new(1_500) else { return };
    let there = format!("/proc/{}/fd/{}", std::process::id(), cable.namespace());
    for line in [
        "link add west type veth peer name wall".to_owned(),
        format!("link set wall netns {there}"),
        "link set west up".to_owned(),
        "addr add 198.51.100.1/24 dev west".to_owned(),
    ] {
        assert!(ip(&line), "{line}");
    }
    cable.there(|| {
        assert!(ip("link set wall up") && ip("addr add 198.51.100.2/24 dev wall"));
        let offload = Command::new("ethtool").args(["-K", "wall", "tx", "off"]).output();
        assert!(offload.is_ok_and(|output| output.status.success()));
    });
    let mut us = Station::open(&Setup { west: Some("west"), ..Setup::new(&[0]) });
    let east = cable.socket(SocketAddr::from((THEM, 5_000)));
    let west = cable.socket(SocketAddr::from(([198, 51, 100, 2], 5_000)));
    let sides = [(&east, IpAddr::from(US), &west), (&west, IpAddr::from([198, 51, 100, 1]), &east)];
    for (round, (from, ours, to)) in sides.into_iter().cycle().take(8).enumerate() {
        let to_address = to.local_addr().unwrap();
        us.reach(to_address);
        let frame = pattern(64 + 128 * u32::try_from(round).unwrap());
        let mut received: Option<Received> = None;
        us.until("the frame arrives", |us| {
            from.send_to(&frame, (ours, BASE_PORT)).unwrap();
            for more in us.receive() {
                if let Some(before) = received.replace(more) {
                    us.pool.put(before.buffer); // sent again before the first one came
                }
            }
            received.is_some()
        });
        let received = received.unwrap();
        let destination = endpoint(to_address);
        let (buffer, offset, len) = (received.buffer, received.offset, received.len);
        assert_eq!(us.transmit(Transmit { buffer, offset, len, stride: len, shard: 0, destination, token: 1 }), None);
        us.until("the frame arrives at the other side", |us| {
            us.discard();
            kernel_gets(to, &frame)
        });
    }
    us.ports.stop("west").unwrap();
    us.until("west is stopped", |us| {
        us.discard();
        us.send_once(0, endpoint(west.local_addr().unwrap()), &[0; 64]).is_some()
    });
    us.reach(east.local_addr().unwrap());
    assert!(us.is_copied(8));
}

/// An io_uring queue that shares a station's buffers.
struct Loopback {
    queue: UringQueue,
}

impl Loopback {
    fn open(us: &mut Station) -> Self {
        let mut config = UringConfig::new(IpAddr::from([127, 0, 0, 1]), 0);
        (config.rx_buffers, config.frame_bytes_max) = (16, 1_408);
        let mut port = UringPort::new(config).unwrap();
        Self { queue: port.open(&[0], &mut us.pool).unwrap() }
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.queue.local_port(0).unwrap()))
    }

    fn send(&mut self, pool: &mut Pool, item: Transmit) {
        let (mut from, mut done, mut received) = (TxBatch::new(), CompletionBatch::new(), RxBatch::new());
        from.push(item);
        while done.is_empty() {
            self.queue.tx_burst(&mut from);
            self.queue.rx_burst(pool, &mut received);
            self.queue.completions(&mut done);
        }
        for completion in done {
            assert_eq!(completion.error, None);
            pool.put(completion.buffer);
        }
    }

    fn receive(&mut self, pool: &mut Pool) -> Received {
        let mut received = RxBatch::new();
        while received.is_empty() {
            self.queue.rx_burst(pool, &mut received);
        }
        received.remove(0)
    }

    fn close(self, pool: &mut Pool) {
        self.queue.close(pool);
    }
}

/// Whether the next datagram of a socket of the kernel's is this.
fn kernel_gets(socket: &UdpSocket, frame: &[u8]) -> bool {
    let mut bytes = [0; 2_000];
    socket.recv_from(&mut bytes).is_ok_and(|(len, _)| &bytes[..len] == frame)
}

#[test]
fn packets_pass_to_the_kernel_while_the_port_is_stopped_and_what_is_not_ours_always_does() {
    let Some(cable) = Cable::new(1_500) else { return };
    let mut us = Station::open(&Setup::new(&[0]));
    let there = cable.socket(SocketAddr::from((THEM, 5_000)));
    let ours = UdpSocket::bind((US, BASE_PORT)).unwrap();
    let other = UdpSocket::bind((US, BASE_PORT - 1)).unwrap();
    for socket in [&ours, &other] {
        socket.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
    }
    for round in 0..3_u8 {
        us.until("the port is ready", |us| us.state() == PortState::Ready);
        let frame = [round; 64];
        us.until("our frame comes to us", |us| {
            there.send_to(&frame, (US, BASE_PORT)).unwrap();
            us.discard() > 0
        });
        us.until("another port's comes to the kernel", |us| {
            there.send_to(&frame, (US, BASE_PORT - 1)).unwrap();
            us.discard();
            kernel_gets(&other, &frame)
        });
        us.ports.stop("east").unwrap();
        us.until("every buffer is back", |us| {
            us.discard();
            let held = us.queue().held();
            held < 32
        });
        assert_eq!(us.state(), PortState::Stopped);
        us.until("our frame comes to the kernel", |_| {
            there.send_to(&frame, (US, BASE_PORT)).unwrap();
            kernel_gets(&ours, &frame)
        });
        assert_eq!(us.discard(), 0);
        us.ports.start("east").unwrap();
    }
    us.until("the port is ready", |us| us.state() == PortState::Ready);
}

/// What is no frame for us, in packets that a program would never redirect, is counted by what it is.
#[test]
fn junk_is_counted_by_its_cause() {
    let Some(cable) = Cable::new(1_500) else { return };
    let wire = cable.wire();
    let mut us = Station::open(&Setup { all: true, ..Setup::new(&[0, 1]) });
    let good = packet_v4(false, 0, (5_000, BASE_PORT), &[7; 100]);
    let broken = |at: usize, bits: u8| {
        let mut packet = good.clone();
        packet[at] ^= bits;
        packet
    };
    let mut other_v6 = vec![0; 80];
    other_v6[..12].copy_from_slice(&good[..12]);
    other_v6[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
    let mut tagged = packet_v4(true, 0, (5_000, BASE_PORT), &[7; 100]);
    tagged[15] = 9;
    let causes: [(&str, Vec<u8>); 12] = [
        ("not_frames_runt", good[..20].to_vec()),
        ("not_frames_vlan", tagged),
        ("not_frames_not_ip", broken(12, 0x10)),
        ("not_frames_other_mac", broken(5, 1)),
        ("not_frames_other_address", packet_to(&good, [192, 0, 2, 9])),
        ("not_frames_other_address", other_v6),
        ("not_frames_ip_checksum", broken(24, 1)),
        ("not_frames_udp_checksum", broken(90, 1)),
        ("not_frames_other_port", packet_v4(false, 0, (5_000, BASE_PORT + 2), &[7; 100])),
        ("not_frames_length", good[..good.len() - 1].to_vec()),
        ("not_frames_length", packet_v4(false, 0, (5_000, BASE_PORT), &[])),
        ("not_frames_neighbour", [&good[..12], &[8, 6], &[0; 46]].concat()),
    ];
    // Whatever the two kernels have to say to each other comes here too.
    for (cause, packet) in causes {
        let before = us.counter(cause);
        wire.send(&packet);
        us.until(cause, |us| {
            assert_eq!(us.discard(), 0, "{cause}");
            us.counter(cause) > before
        });
    }
    wire.send(&good);
    us.until("a good one among them arrives", |us| us.discard() == 1);
    assert_eq!(us.pool.free() + us.queue().held(), us.pool.total());
}

/// The same packet to another address, with right checksums: one word of the address changes, and both sums by as much.
fn packet_to(good: &[u8], to: [u8; 4]) -> Vec<u8> {
    let mut packet = good.to_vec();
    let change = u16::from(to[3]) - u16::from(packet[33]);
    packet[33] = to[3];
    for at in [24, 40] {
        let sum = u16::from_be_bytes([packet[at], packet[at + 1]]);
        packet[at..at + 2].copy_from_slice(&sum.wrapping_sub(change).to_be_bytes());
    }
    packet
}
