//! The kernel as the other side: real sockets behind a veth answer, verify checksums and ask who is where.
//!
//! Needs root, for a network namespace and packet sockets; says so and does nothing without.
#![expect(clippy::unwrap_used, reason = "test helpers panic where a test would")]

mod station;

use station::{BASE_PORT, Station, port};
use std::{
    fs::File,
    net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    process::Command,
    thread,
    time::Duration,
};
use tachyon_driver_api::{
    CompletionBatch, Pool, Port, PortState, Ports, Received, RxBatch, RxQueue, Transmit, TxBatch, TxQueue,
};
use tachyon_driver_dpdk::{Device, PortConfig, ether::Network};
use tachyon_driver_uring::{UringConfig, UringPort};
use tachyon_loader::{Config, Deliver, Prefilter, Session};
use tachyon_wire::{
    Endpoint, Message, Reason,
    build::{FrameFields, FrameWriter, Seal},
};

const US: [u8; 4] = [192, 0, 2, 1];
const KERNEL: [u8; 4] = [192, 0, 2, 2];
const US_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const KERNEL_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// A namespace of its own with one end of a veth; the other end is here. Gone with this value.
struct Cable {
    namespace: String,
    here: String,
}

fn ip(line: &str) -> bool {
    let output = Command::new("ip").args(line.split(' ')).output();
    output.is_ok_and(|output| {
        if !output.status.success() {
            eprintln!("ip {line}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        output.status.success()
    })
}

impl Cable {
    fn new(tag: &str, vlan: Option<u16>) -> Option<Self> {
        let id = std::process::id();
        let (namespace, here) = (format!("tachyon-{tag}-{id}"), format!("ty{tag}{id}"));
        if !ip(&format!("netns add {namespace}")) {
            eprintln!("not tested: this needs root and network namespaces");
            return None;
        }
        let cable = Self { namespace, here };
        let Self { namespace, here } = &cable;
        let there = if vlan.is_some() { "tagged" } else { "there" };
        let mut lines = vec![format!("link add {here} type veth peer name there netns {namespace}")];
        if let Some(vlan) = vlan {
            lines.push(format!("-n {namespace} link add link there name tagged type vlan id {vlan}"));
        }
        lines.extend([
            format!("link set {here} up"),
            format!("-n {namespace} link set there up"),
            format!("-n {namespace} link set {there} up"),
            format!("-n {namespace} addr add 192.0.2.2/24 dev {there}"),
            format!("-n {namespace} addr add {KERNEL_V6}/64 dev {there} nodad"),
        ]);
        for line in &lines {
            let made = ip(line);
            if !made && line.contains("type vlan") {
                eprintln!("not tested: this kernel has no VLAN devices");
                return None;
            }
            assert!(made, "{line}");
        }
        // Checksums that the kernel leaves to a device nobody has would look wrong to a packet socket.
        let offload =
            Command::new("ip").args(["netns", "exec", namespace, "ethtool", "-K", "there", "tx", "off"]).output();
        if !offload.is_ok_and(|output| output.status.success()) {
            eprintln!("not tested: this needs ethtool");
            return None;
        }
        Some(cable)
    }

    /// A socket on the other side.
    fn socket(&self, address: SocketAddr) -> UdpSocket {
        let path = format!("/run/netns/{}", self.namespace);
        // A thread of its own, because it changes its namespace; sockets keep the one they were made in.
        let open = move || {
            let namespace = File::open(path).unwrap();
            // SAFETY: a file descriptor and a flag.
            assert_eq!(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
            UdpSocket::bind(address).unwrap()
        };
        let socket = thread::spawn(open).join().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        socket
    }

    fn port(&self, vlan: Option<u16>) -> PortConfig {
        let device = Device::AfPacket(self.here.clone());
        let mut port = port("us", device, US, MAC, &[]);
        port.networks.push(Network { ip: US_V6.into(), prefix: 64, gateway: None });
        PortConfig { vlan, ..port }
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        ip(&format!("link del {}", self.here));
        ip(&format!("netns del {}", self.namespace));
    }
}

/// Frames there and back over both families; neither side is told where the other is.
fn there_and_back(tag: &str, vlan: Option<u16>) {
    there_and_back_over(Device::AfPacket, tag, vlan);
}

fn there_and_back_over(device: impl Fn(String) -> Device, tag: &str, vlan: Option<u16>) {
    let Some(cable) = Cable::new(tag, vlan) else { return };
    let port = PortConfig { device: device(cable.here.clone()), ..cable.port(vlan) };
    let mut us = Station::open(vec![port], &[0, 1, 2], BASE_PORT);
    us.until("the link is up", |us| us.state(0) == PortState::Ready);
    us.receive();
    for (to, from) in
        [(IpAddr::from(US), SocketAddr::from((KERNEL, 5_000))), (US_V6.into(), SocketAddr::from((KERNEL_V6, 5_000)))]
    {
        let socket = cable.socket(from);
        let frame: Vec<u8> = (0..1_408_u32).map(|i| (i * 7).to_le_bytes()[0]).collect();
        socket.send_to(&frame, (to, BASE_PORT + 2)).unwrap();
        us.until("the frame arrives", |us| {
            let received = us.receive();
            let found = !received.is_empty();
            for received in received {
                let (start, end) = (received.offset as usize, (received.offset + received.len) as usize);
                assert_eq!(&received.buffer.bytes()[start..end], frame.as_slice());
                assert_eq!((received.shard, received.source.port.get()), (2, 5_000));
                us.pool.put(received.buffer);
            }
            found
        });
        let endpoint = match from.ip() {
            IpAddr::V4(ip) => Endpoint::v4(ip.octets(), 5_000),
            IpAddr::V6(ip) => Endpoint::v6(ip.octets(), 5_000),
        };
        us.ports.want(from.ip());
        let mut bytes = [0; 2_000];
        us.until("the kernel gets the answer", |us| {
            us.send_once(1, endpoint, &frame);
            us.receive().into_iter().for_each(|received| us.pool.put(received.buffer));
            let got = socket.recv_from(&mut bytes);
            got.is_ok_and(|(len, source)| {
                assert_eq!((&bytes[..len], source), (frame.as_slice(), SocketAddr::from((to, BASE_PORT + 1))));
                true
            })
        });
    }
}

#[test]
fn the_kernel_finds_us_and_takes_what_we_send() {
    there_and_back("plain", None);
}

#[test]
fn the_kernel_finds_us_behind_xdp_sockets() {
    there_and_back_over(|interface| Device::AfXdp { interface, program: None }, "xdp", None);
}

/// A file that goes with this value.
struct Object(std::path::PathBuf);

impl Object {
    fn new(tag: &str, bytes: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("tachyon-{tag}-{}.o", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        Self(path)
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A frame of session 7 for shard 2.
fn frame_of_session_7() -> Vec<u8> {
    let fields = FrameFields { session_id: 7, shard: 2, frame_id: 1, epoch: 1, ..FrameFields::default() };
    let mut frame = vec![0; 128];
    let mut writer = FrameWriter::new(&mut frame, fields);
    writer.push(&Message::inline(2, 9, 1, b"xdp").unwrap()).unwrap();
    assert_eq!(writer.finish(Seal::Crc), 128);
    frame
}

/// DPDK's driver loads our filter and gives it its sockets; everything else is as without one, and junk never comes in.
#[test]
fn behind_our_filter_junk_ends_at_the_interface_and_the_kernel_still_finds_us() {
    let Some(cable) = Cable::new("filt", None) else { return };
    let config = Config { base_port: BASE_PORT, deliver: Deliver::AllByQueue, ..Config::default() };
    let object = Object::new("filt", &tachyon_loader::object(&config).unwrap());
    let device = Device::AfXdp { interface: cable.here.clone(), program: Some(object.0.clone()) };
    let mut us = Station::open(vec![PortConfig { device, ..cable.port(None) }], &[0, 1, 2], BASE_PORT);
    us.until("the link is up", |us| us.state(0) == PortState::Ready);
    let filter = Prefilter::beside(&cable.here, &config).unwrap().expect("our filter is on the interface");
    filter.tables().session_add(&Session { id: 7, pinned: Endpoint::NONE, by_node: false }).unwrap();

    let socket = cable.socket(SocketAddr::from((KERNEL, 5_000)));
    let (good, junk) = (frame_of_session_7(), [0x55; 128]);
    let mut other = good.clone();
    other[8..12].copy_from_slice(&1_u32.to_le_bytes()); // a route, which only another node may ask for
    let mut received = Vec::new();
    us.until("a good frame arrives, by an address that the kernel asked us for", |us| {
        for frame in [&junk[..], &other, &good] {
            socket.send_to(frame, (IpAddr::from(US), BASE_PORT + 2)).unwrap();
        }
        received.extend(us.receive());
        !received.is_empty()
    });
    for received in received {
        let (start, end) = (received.offset as usize, (received.offset + received.len) as usize);
        assert_eq!(&received.buffer.bytes()[start..end], good.as_slice(), "nothing else comes in");
        us.pool.put(received.buffer);
    }
    let ledger = filter.tables().counters().unwrap();
    assert!(ledger.dropped(Reason::BadFrame) >= 2 && ledger.redirected() > 1, "{ledger:?}");
    // What the kernel sent by itself before DPDK's sockets were in the map stayed with the kernel, so foreign packets say nothing here.
    assert_eq!((ledger.passed_ours(), ledger.unaccounted()), (0, 0), "all of it is DPDK's");
    drop(us);
    assert!(Prefilter::beside(&cable.here, &config).unwrap().is_none(), "it goes with its port");
}

#[test]
fn the_kernel_finds_us_on_a_vlan() {
    there_and_back("vlan", Some(7));
}

#[test]
fn a_frame_received_by_one_driver_goes_out_by_the_other_from_the_same_memory() {
    let Some(cable) = Cable::new("swap", None) else { return };
    let mut us = Station::open(vec![cable.port(None)], &[0], BASE_PORT);
    us.until("the link is up", |us| us.state(0) == PortState::Ready);
    us.receive();
    let there = cable.socket(SocketAddr::from((KERNEL, 5_000)));
    let here = UdpSocket::bind("127.0.0.1:0").unwrap();
    here.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut uring = Loopback::open(&mut us);

    // In by DPDK, out by io_uring.
    let frame: Vec<u8> = (0..1_472_u32).map(|i| (i * 11).to_le_bytes()[0]).collect();
    there.send_to(&frame, (IpAddr::from(US), BASE_PORT)).unwrap();
    let mut received = Vec::new();
    us.until("the frame arrives by DPDK", |us| {
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

    // In by io_uring, out by DPDK: the headers get memory of their own, and what was received is not written.
    here.send_to(&frame, uring.address()).unwrap();
    let received = uring.receive(&mut us.pool);
    us.ports.want(IpAddr::from(KERNEL));
    us.until("the kernel is found", |us| {
        us.receive().into_iter().for_each(|received| us.pool.put(received.buffer));
        us.send_once(0, Endpoint::v4(KERNEL, 5_001), &frame)
    });
    let before = received.buffer.bytes()[..received.offset as usize].to_vec();
    let at = received.buffer.address();
    let destination = Endpoint::v4(KERNEL, 5_000);
    let (buffer, offset, len) = (received.buffer, received.offset, received.len);
    assert_eq!(us.transmit(Transmit { buffer, offset, len, stride: len, shard: 0, destination, token: 1 }), None);
    there.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let (got, _) = there.recv_from(&mut bytes).unwrap();
    assert_eq!(&bytes[..got], frame.as_slice());
    // SAFETY: the arena stays mapped, and nothing is received meanwhile.
    let after = unsafe { std::slice::from_raw_parts(at.as_ptr(), offset as usize) };
    assert_eq!(after, before.as_slice(), "a received byte was written");
    assert_eq!(us.counter(0, "items_copied"), 0);
    uring.close(&mut us.pool);
}

/// An io_uring queue that shares a station's buffers.
struct Loopback {
    queue: tachyon_driver_uring::UringQueue,
}

impl Loopback {
    fn open(us: &mut Station) -> Self {
        let mut config = UringConfig::new(IpAddr::from([127, 0, 0, 1]), 0);
        config.rx_buffers = 16;
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
