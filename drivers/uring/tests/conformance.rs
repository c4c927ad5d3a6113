//! The suite that every driver must pass, in each mode of this one, on loopback.
#![expect(clippy::unwrap_used, reason = "test helpers panic where a test would")]

mod station;

use station::{LOOPBACK, Station};
use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
};
use tachyon_driver_api::{
    Pool, Port,
    conformance::{Abilities, CountingAllocator, Rig, Sent, run_all},
};
use tachyon_driver_uring::{UringConfig, UringQueue};
use tachyon_wire::Endpoint;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const SHARDS: [u16; 3] = [0, 1, 6];

struct Loopback {
    station: Station,
    ip: IpAddr,
    peers: Vec<UdpSocket>,
    runs: bool,
}

fn set(socket: &UdpSocket, level: i32, option: i32, value: i32) {
    // SAFETY: the value lives through the call, and its length is the one passed.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), 4) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

fn endpoint(address: SocketAddr) -> Endpoint {
    match address.ip() {
        IpAddr::V4(ip) => Endpoint::v4(ip.octets(), address.port()),
        IpAddr::V6(ip) => Endpoint::v6(ip.octets(), address.port()),
    }
}

impl Loopback {
    fn new(config: UringConfig) -> Self {
        let (ip, runs) = (config.bind_ip, config.gso);
        let peers = [0, 0].map(|port| UdpSocket::bind((ip, port)).unwrap());
        for peer in &peers {
            peer.set_nonblocking(true).unwrap();
            // Room for every frame of a check, at a kilobyte of the kernel's own per frame.
            set(peer, libc::SOL_SOCKET, libc::SO_RCVBUF, 1 << 20);
        }
        Self { station: Station::open(config, &SHARDS), ip, peers: peers.into(), runs }
    }
}

impl Rig for Loopback {
    type Queue = UringQueue;

    fn abilities(&self) -> Abilities {
        Abilities {
            shards: SHARDS.to_vec(),
            peers: self.peers.iter().map(|peer| endpoint(peer.local_addr().unwrap())).collect(),
            frame_bytes_max: self.station.port.info().frame_bytes_max as usize,
            sources: true,
            batches: self.runs,
            offsets: false,
            lossy: false,
            // To the broadcast address only sockets with SO_BROADCAST may send; nothing leaves.
            impossible: self.ip.is_ipv4().then(|| Endpoint::v4([255; 4], 9)),
        }
    }

    fn parts(&mut self) -> (&mut UringQueue, &mut Pool) {
        self.station.parts()
    }

    fn inject(&mut self, shard: u16, _: u32, frames: &[&[u8]]) {
        let peer = &self.peers[0];
        let run = if frames.len() > 1 { i32::try_from(frames[0].len()).unwrap() } else { 0 };
        if self.runs {
            set(peer, libc::SOL_UDP, libc::UDP_SEGMENT, run);
        }
        let bytes = frames.concat();
        let sent = peer.send_to(&bytes, (self.ip, self.station.port.local_port(shard).unwrap())).unwrap();
        assert_eq!(sent, bytes.len());
    }

    fn sent(&mut self) -> Vec<Sent> {
        let mut sent = Vec::new();
        let mut bytes = vec![0; 65_536];
        for peer in &self.peers {
            let destination = endpoint(peer.local_addr().unwrap());
            while let Ok((len, source)) = peer.recv_from(&mut bytes) {
                let shard =
                    SHARDS.into_iter().find(|&shard| self.station.port.local_port(shard) == Some(source.port()));
                sent.push(Sent { destination, shard: shard.unwrap(), frame: bytes[..len].to_vec() });
            }
        }
        sent
    }
}

fn passes(config: &UringConfig, io_uring: bool) {
    let mut asked = false;
    run_all(|| {
        let mut rig = Loopback::new(config.clone());
        asked |= rig.station.queue().is_io_uring();
        rig
    });
    if io_uring && !asked {
        eprintln!("this kernel refuses io_uring, so the fallback was tested instead");
    }
}

#[test]
fn io_uring_passes() {
    passes(&UringConfig::new(LOOPBACK, 0), true);
}

#[test]
fn io_uring_passes_over_ipv6() {
    passes(&UringConfig::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 0), true);
}

#[test]
fn io_uring_without_runs_passes() {
    passes(&UringConfig { gso: false, ..UringConfig::new(LOOPBACK, 0) }, true);
}

#[test]
fn zero_copy_passes() {
    passes(&UringConfig { zero_copy: true, ..UringConfig::new(LOOPBACK, 0) }, true);
}

#[test]
fn the_fallback_passes() {
    passes(&UringConfig { force_fallback: true, ..UringConfig::new(LOOPBACK, 0) }, false);
}

#[test]
fn the_fallback_passes_over_ipv6() {
    let config = UringConfig { force_fallback: true, ..UringConfig::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 0) };
    passes(&config, false);
}
