//! A worker's queue with its pool and the cold side of its ports, on one end of a veth whose other end is the kernel's, for
//! the tests. Both ends lie in network namespaces of their own, which end with the test.
#![allow(dead_code, reason = "each test program uses a part of it")]

pub(crate) mod redirect;

use redirect::{Redirect, Redirected};
use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    process::Command,
    time::{Duration, Instant},
};
use tachyon_driver_afxdp::{AfxdpConfig, AfxdpPorts, AfxdpQueue, HEADROOM_BYTES, PortConfig};
use tachyon_driver_api::{
    CompletionBatch, Pool, Port, PortState, Ports, Received, RxBatch, RxQueue, Transmit, TxBatch, TxQueue,
};
use tachyon_driver_arena::{Arena, ArenaConfig, Pages};
use tachyon_wire::{Endpoint, Reason};

pub(crate) const BASE_PORT: u16 = 24_640;
pub(crate) const BUFFERS: usize = 1_024;
pub(crate) const US: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const THEM: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub(crate) const US_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub(crate) const THEM_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
pub(crate) const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const THEIR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const PATIENCE: Duration = Duration::from_secs(20);

/// Two namespaces with a veth between them: `us` in the one that the calling thread is in from now on, `them` in the other.
pub(crate) struct Cable {
    ours: File,
    theirs: File,
}

pub(crate) fn ip(line: &str) -> bool {
    let output = Command::new("ip").args(line.split(' ')).output();
    output.is_ok_and(|output| {
        if !output.status.success() {
            eprintln!("ip {line}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        output.status.success()
    })
}

fn new_namespace() -> io::Result<File> {
    // SAFETY: no memory is passed; only this thread changes its namespace.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(io::Error::last_os_error());
    }
    File::open("/proc/thread-self/ns/net")
}

fn enter(namespace: &File) {
    // SAFETY: a descriptor and a flag.
    assert_eq!(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
}

impl Cable {
    /// `None`, with a line that says why, where this may not be made.
    pub(crate) fn new(mtu: u16) -> Option<Self> {
        let made = new_namespace().and_then(|theirs| Ok(Self { theirs, ours: new_namespace()? }));
        let Ok(cable) = made else {
            eprintln!("not tested: this needs root and network namespaces");
            return None;
        };
        let tools = Command::new("ethtool").arg("--version").output().is_ok_and(|output| output.status.success());
        if !tools || !Command::new("ip").arg("-V").output().is_ok_and(|output| output.status.success()) {
            eprintln!("not tested: this needs ip and ethtool");
            return None;
        }
        assert!(ip("link set lo up"));
        cable.plug(mtu);
        Some(cable)
    }

    /// Lays the veth, the first time or after it was taken away.
    pub(crate) fn plug(&self, mtu: u16) {
        let there = format!("/proc/{}/fd/{}", std::process::id(), self.theirs.as_raw_fd());
        let mac = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
        for line in [
            format!("link add us mtu {mtu} address {} type veth peer name them", mac(OUR_MAC)),
            format!("link set them mtu {mtu} address {}", mac(THEIR_MAC)),
            format!("link set them netns {there}"),
            "link set us up".to_owned(),
            format!("addr add {US}/24 dev us"),
            format!("addr add {US_V6}/64 dev us nodad"),
        ] {
            assert!(ip(&line), "{line}");
        }
        self.there(|| {
            for line in [
                "link set them up".to_owned(),
                format!("addr add {THEM}/24 dev them"),
                format!("addr add {THEM_V6}/64 dev them nodad"),
            ] {
                assert!(ip(&line), "{line}");
            }
            // Checksums that the kernel leaves to a device nobody has would be wrong in our eyes.
            let offload = Command::new("ethtool").args(["-K", "them", "tx", "off"]).output();
            assert!(offload.is_ok_and(|output| output.status.success()));
        });
    }

    /// The descriptor of the other namespace.
    pub(crate) fn namespace(&self) -> i32 {
        self.theirs.as_raw_fd()
    }

    /// Does something in the other namespace.
    pub(crate) fn there<T>(&self, what: impl FnOnce() -> T) -> T {
        enter(&self.theirs);
        let result = what();
        enter(&self.ours);
        result
    }

    /// A socket on the other side.
    pub(crate) fn socket(&self, address: SocketAddr) -> UdpSocket {
        let socket = self.there(|| UdpSocket::bind(address).unwrap());
        set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 4 << 20);
        socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        socket
    }

    /// A way to put any packet onto the wire from the other side.
    pub(crate) fn wire(&self) -> Wire {
        self.there(|| Wire::new("them"))
    }
}

pub(crate) fn index_of(name: &str) -> u32 {
    let name = std::ffi::CString::new(name).unwrap();
    // SAFETY: a string that ends with zero.
    unsafe { libc::if_nametoindex(name.as_ptr()) }
}

pub(crate) fn set(socket: &impl AsRawFd, level: i32, option: i32, value: i32) {
    // SAFETY: the value lives through the call, and its length is the one passed.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), 4) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

/// A packet socket.
pub(crate) struct Wire(OwnedFd);

impl Wire {
    fn new(interface: &str) -> Self {
        // SAFETY: no memory is passed.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        // SAFETY: new, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: plain numbers, for which zeros are a value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
        address.sll_protocol = u16::try_from(libc::ETH_P_ALL).unwrap().to_be();
        address.sll_ifindex = i32::try_from(index_of(interface)).unwrap();
        let length = u32::try_from(size_of_val(&address)).unwrap();
        // SAFETY: the address lives through the call, and its length is the one passed.
        let result = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        Self(fd)
    }

    pub(crate) fn send(&self, packet: &[u8]) {
        // SAFETY: the packet lives through the call, and its length is the one passed.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), packet.as_ptr().cast(), packet.len(), 0) };
        assert_eq!(usize::try_from(sent), Ok(packet.len()), "{}", io::Error::last_os_error());
    }
}

impl Wire {
    /// What came by since the last call.
    pub(crate) fn seen(&self) -> Vec<Vec<u8>> {
        let mut seen = Vec::new();
        loop {
            let mut packet = vec![0; 16_384];
            let (start, room) = (packet.as_mut_ptr(), packet.len());
            // SAFETY: the packet's memory lives through the call, and its length is the one passed.
            let got = unsafe { libc::recv(self.0.as_raw_fd(), start.cast(), room, libc::MSG_DONTWAIT) };
            let Ok(got) = usize::try_from(got) else { return seen };
            packet.truncate(got);
            seen.push(packet);
        }
    }
}

/// The one's complement sum of big-endian words.
fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0))).sum()
}

fn checksum(mut sum: u32) -> [u8; 2] {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap()).to_be_bytes()
}

/// A UDP packet over IPv4 from them to us, with so many bytes of options and a priority tag or none.
pub(crate) fn packet_v4(tagged: bool, options: usize, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let number = |number: usize| u16::try_from(number).unwrap().to_be_bytes();
    let mut packet = [OUR_MAC, THEIR_MAC].concat();
    if tagged {
        packet.extend([0x81, 0, 0xe0, 0]);
    }
    packet.extend([8, 0]);
    let mut head = vec![0x45 + u8::try_from(options / 4).unwrap(), 0];
    head.extend(number(28 + options + payload.len()));
    head.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    head.extend(THEM.octets());
    head.extend(US.octets());
    head.extend(vec![1; options]); // "no operation"
    let sum_of_head = checksum(sum(&head));
    head[10..12].copy_from_slice(&sum_of_head);
    packet.extend(&head);
    let mut udp = [ports.0.to_be_bytes(), ports.1.to_be_bytes(), number(8 + payload.len()), [0, 0]].concat();
    udp.extend(payload);
    let pseudo = sum(&head[12..20]) + 17 + u32::try_from(udp.len()).unwrap();
    let sum_of_udp = checksum(pseudo + sum(&udp));
    udp[6..8].copy_from_slice(&sum_of_udp);
    packet.extend(udp);
    packet
}

pub(crate) fn endpoint(address: SocketAddr) -> Endpoint {
    match address.ip() {
        IpAddr::V4(ip) => Endpoint::v4(ip.octets(), address.port()),
        IpAddr::V6(ip) => Endpoint::v6(ip.octets(), address.port()),
    }
}

/// How a station is opened.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) shards: Vec<u16>,
    /// Bytes of the arena for each buffer.
    pub(crate) stride: u32,
    pub(crate) buffers: usize,
    pub(crate) descriptors: u32,
    pub(crate) one_piece: bool,
    pub(crate) udp_checksum: bool,
    pub(crate) lead_bytes: u32,
    pub(crate) busy_poll_us: u32,
    pub(crate) all: bool,
    /// Another port called west, on this interface.
    pub(crate) west: Option<&'static str>,
}

impl Setup {
    pub(crate) fn new(shards: &[u16]) -> Self {
        Self {
            shards: shards.to_vec(),
            stride: 2_048,
            buffers: BUFFERS,
            descriptors: 256,
            one_piece: false,
            udp_checksum: false,
            lead_bytes: 22,
            busy_poll_us: 0,
            all: false,
            west: None,
        }
    }
}

pub(crate) struct Station {
    pub(crate) ports: AfxdpPorts,
    queue: Option<AfxdpQueue>,
    pub(crate) pool: Pool,
    pub(crate) arena: Arena,
    pub(crate) degraded: Vec<String>,
    pub(crate) frame_bytes_max: u32,
    pub(crate) redirect: Redirect,
    west: Option<(&'static str, Redirect)>,
    started: Instant,
}

impl Station {
    /// One worker on our end of the cable.
    pub(crate) fn open(setup: &Setup) -> Self {
        let redirected = if setup.all { Redirected::All } else { Redirected::Ports(BASE_PORT, 16) };
        let redirect = Redirect::new(index_of("us"), redirected).unwrap();
        let west = setup.west.map(|interface| (interface, Redirect::new(index_of(interface), redirected).unwrap()));
        let places = [("east", "us", &redirect)];
        let places = places.into_iter().chain(west.iter().map(|(interface, redirect)| ("west", *interface, redirect)));
        let ports = places.map(|(name, interface, redirect)| PortConfig {
            force_one_piece: setup.one_piece,
            udp_checksum: setup.udp_checksum,
            busy_poll_us: setup.busy_poll_us,
            ..PortConfig::new(name, interface, Some(redirect.map.clone()))
        });
        let config = AfxdpConfig {
            receive_descriptors: setup.descriptors,
            transmit_descriptors: setup.descriptors,
            lead_bytes: setup.lead_bytes,
            ..AfxdpConfig::new(ports.collect(), BASE_PORT, vec![setup.shards.clone()])
        };
        let mut arena = Arena::create(ArenaConfig {
            bytes: setup.buffers * setup.stride as usize,
            buffer_bytes: setup.stride,
            pages: Pages::Ordinary,
            lock: false,
            numa_node: None,
        })
        .unwrap();
        let mut pool = Pool::new(arena.take_behind(HEADROOM_BYTES, setup.buffers).unwrap());
        let mut ports = AfxdpPorts::new(config).unwrap();
        let mut seat = ports.seat(0).unwrap();
        let queue = seat.open(&setup.shards, &mut pool).unwrap();
        let info = seat.info();
        let started = Instant::now();
        let (degraded, frame_bytes_max, queue) = (info.degraded, info.frame_bytes_max, Some(queue));
        let mut station = Self { ports, queue, pool, arena, degraded, frame_bytes_max, redirect, west, started };
        station.until("the port is ready", |us| us.ports.reports().iter().all(|port| port.state == PortState::Ready));
        station
    }

    pub(crate) fn parts(&mut self) -> (&mut AfxdpQueue, &mut Pool) {
        (self.queue.as_mut().unwrap(), &mut self.pool)
    }

    pub(crate) fn queue(&mut self) -> &mut AfxdpQueue {
        self.queue.as_mut().unwrap()
    }

    /// Lets the cold side work.
    pub(crate) fn tick(&mut self) {
        let now = u64::try_from(self.started.elapsed().as_nanos()).unwrap() + 1_000_000_000;
        self.ports.tick(now);
    }

    /// Receives what is there.
    pub(crate) fn receive(&mut self) -> Vec<Received> {
        let mut batch = RxBatch::new();
        let (queue, pool) = self.parts();
        queue.rx_burst(pool, &mut batch);
        batch.into_iter().collect()
    }

    /// Receives and gives back what is there; how much that was.
    pub(crate) fn discard(&mut self) -> usize {
        let received = self.receive();
        let count = received.len();
        received.into_iter().for_each(|received| self.pool.put(received.buffer));
        count
    }

    /// Waits until something holds, while the cold side works.
    pub(crate) fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < end, "waited in vain: {what}; {:?}", self.ports.reports());
            self.tick();
            std::thread::yield_now();
        }
    }

    /// Waits until frames can be sent to an address.
    pub(crate) fn reach(&mut self, to: SocketAddr) {
        self.ports.want(to.ip());
        self.until("the neighbour is found", |us| {
            us.discard();
            us.send_once(0, endpoint(to), &[0; 64]).is_none()
        });
    }

    pub(crate) fn state(&mut self) -> PortState {
        self.ports.reports()[0].state
    }

    /// An item of one frame.
    pub(crate) fn item(&mut self, shard: u16, destination: Endpoint, frame: &[u8]) -> Transmit {
        let mut buffer = self.pool.get().unwrap();
        buffer.bytes_mut()[..frame.len()].copy_from_slice(frame);
        let len = u32::try_from(frame.len()).unwrap();
        Transmit { buffer, offset: 0, len, stride: len, shard, destination, token: 7 }
    }

    /// Sends one frame and waits until it is complete; what became of it.
    pub(crate) fn send_once(&mut self, shard: u16, destination: Endpoint, frame: &[u8]) -> Option<Reason> {
        let item = self.item(shard, destination, frame);
        self.transmit(item)
    }

    /// Sends an item and waits until it is complete; what became of it.
    pub(crate) fn transmit(&mut self, item: Transmit) -> Option<Reason> {
        let mut from = TxBatch::new();
        from.push(item);
        let mut completions = CompletionBatch::new();
        let end = Instant::now() + PATIENCE;
        loop {
            self.queue().tx_burst(&mut from);
            self.discard();
            self.queue().completions(&mut completions);
            if let Some(completion) = completions.pop() {
                self.pool.put(completion.buffer);
                return completion.error;
            }
            assert!(Instant::now() < end, "nothing completes");
        }
    }

    /// The worker ends without a word, as one does that panicked too often. Its buffers stay where they are.
    pub(crate) fn abandon(&mut self) {
        drop(self.queue.take());
    }

    /// Whether packets can have several pieces here.
    pub(crate) fn has_pieces(&self) -> bool {
        !self.degraded.iter().any(|line| line.contains("packets have one piece (the kernel refused more"))
    }

    /// The same; says so if this kernel is too old for them.
    pub(crate) fn takes_pieces(&self) -> bool {
        if !self.has_pieces() {
            eprintln!(
                "not tested: this kernel's XDP sockets take packets in one piece, Linux 6.6 was the first with more"
            );
        }
        self.has_pieces()
    }

    /// Frames that were copied to be sent, of so many that stood behind received bytes: none where packets have pieces.
    pub(crate) fn is_copied(&mut self, frames: u64) -> bool {
        self.counter("items_copied") == if self.has_pieces() { 0 } else { frames }
    }

    /// A counter of the port.
    pub(crate) fn counter(&mut self, name: &str) -> u64 {
        let rows = self.ports.reports();
        rows[0].counters.iter().find(|(known, _)| known == name).map_or(0, |(_, count)| *count)
    }
}

impl Drop for Station {
    fn drop(&mut self) {
        let Some(queue) = self.queue.take() else { return };
        let missing = queue.close(&mut self.ports, &mut self.pool);
        if !std::thread::panicking() {
            assert_eq!(missing, 0, "buffers that did not come back");
        }
    }
}
