//! The suite that every driver must pass, over a veth whose other end is the kernel's.
//!
//! Needs root, for network namespaces, XDP programs and XDP sockets; says so and does nothing without.
#![expect(clippy::unwrap_used, reason = "test helpers panic where a test would")]

mod station;

use station::{BASE_PORT, Cable, Setup, Station, THEM, THEM_V6, US, US_V6, Wire, endpoint, packet_v4};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use tachyon_driver_afxdp::AfxdpQueue;
use tachyon_driver_api::{
    Pool,
    conformance::{Abilities, CountingAllocator, Rig, Sent, run_all},
};
use tachyon_wire::Endpoint;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const SHARDS: [u16; 3] = [0, 1, 6];
const PEER_PORT: u16 = 5_000;

struct Pair {
    // First, because it lets go of the interface.
    us: Station,
    them: [UdpSocket; 2],
    wire: Wire,
    to: IpAddr,
    offsets: bool,
    frame_bytes_max: usize,
}

impl Pair {
    fn new(cable: &Cable, setup: &Setup, v6: bool, frame_bytes_max: usize) -> Self {
        let (to, from): (IpAddr, IpAddr) = if v6 { (US_V6.into(), THEM_V6.into()) } else { (US.into(), THEM.into()) };
        let mut us = Station::open(setup);
        let them = [0, 1].map(|place| cable.socket(SocketAddr::new(from, PEER_PORT + place)));
        us.reach(SocketAddr::new(from, PEER_PORT));
        let mut bytes = [0; 64];
        them[0].recv_from(&mut bytes).unwrap();
        for socket in &them {
            socket.set_nonblocking(true).unwrap();
        }
        Self { us, them, wire: cable.wire(), to, offsets: setup.lead_bytes == 0, frame_bytes_max }
    }
}

impl Rig for Pair {
    type Queue = AfxdpQueue;

    fn abilities(&self) -> Abilities {
        let [first, second] = &self.them;
        let nobody = match self.to {
            IpAddr::V4(_) => Endpoint::v4([192, 0, 2, 77], 9),
            IpAddr::V6(_) => Endpoint::v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 77], 9),
        };
        Abilities {
            shards: SHARDS.to_vec(),
            peers: [first, second].map(|socket| endpoint(socket.local_addr().unwrap())).into(),
            frame_bytes_max: self.frame_bytes_max,
            sources: true,
            batches: false,
            offsets: self.offsets,
            lossy: false,
            // Nobody has this address, and nobody answers for it.
            impossible: Some(nobody),
        }
    }

    fn parts(&mut self) -> (&mut AfxdpQueue, &mut Pool) {
        self.us.parts()
    }

    fn inject(&mut self, shard: u16, offset: u32, frames: &[&[u8]]) {
        for frame in frames {
            // Behind headers of the lengths that there are: IPv4 and a tag, and options of the length that IPv6 has more.
            let (tagged, options) = match offset {
                46 => (true, 0),
                62 => (false, 20),
                66 => (true, 20),
                _ => {
                    self.them[0].send_to(frame, (self.to, BASE_PORT + shard)).unwrap();
                    continue;
                }
            };
            self.wire.send(&packet_v4(tagged, options, (PEER_PORT, BASE_PORT + shard), frame));
        }
    }

    fn sent(&mut self) -> Vec<Sent> {
        let mut sent = Vec::new();
        let mut bytes = vec![0; 16_384];
        for socket in &self.them {
            let destination = endpoint(socket.local_addr().unwrap());
            while let Ok((len, source)) = socket.recv_from(&mut bytes) {
                assert_eq!(source.ip(), self.to);
                sent.push(Sent { destination, shard: source.port() - BASE_PORT, frame: bytes[..len].to_vec() });
            }
        }
        sent
    }
}

fn passes(mtu: u16, setup: &Setup, v6: bool) {
    let Some(cable) = Cable::new(mtu) else { return };
    if mtu > 4_096 && !Station::open(setup).takes_pieces() {
        return;
    }
    let frame_bytes_max = usize::from(mtu) - if v6 { 48 } else { 28 };
    run_all(|| Pair::new(&cable, setup, v6, frame_bytes_max));
}

#[test]
fn passes_over_ipv4() {
    passes(1_500, &Setup::new(&SHARDS), false);
}

#[test]
fn passes_over_ipv6() {
    passes(1_500, &Setup::new(&SHARDS), true);
}

#[test]
fn passes_with_frames_at_every_offset() {
    passes(1_500, &Setup { lead_bytes: 0, ..Setup::new(&SHARDS) }, false);
}

#[test]
fn passes_in_packets_of_several_pieces() {
    passes(9_000, &Setup { stride: 12_288, ..Setup::new(&SHARDS) }, false);
}

#[test]
fn passes_in_packets_of_several_pieces_over_ipv6() {
    passes(9_000, &Setup { stride: 12_288, ..Setup::new(&SHARDS) }, true);
}

#[test]
fn passes_where_packets_have_one_piece() {
    passes(1_500, &Setup { one_piece: true, ..Setup::new(&SHARDS) }, false);
}

#[test]
fn passes_with_busy_polling() {
    passes(1_500, &Setup { busy_poll_us: 20, stride: 4_096, ..Setup::new(&SHARDS) }, false);
}
