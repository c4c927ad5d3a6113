//! The suite that every driver must pass, on files in the place of a network.

use std::{
    fs::{self, File},
    io::Write,
    net::IpAddr,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};
use tachyon_driver_api::{
    Pool, Port,
    conformance::{Abilities, CountingAllocator, Rig, Sent, run_all},
};
use tachyon_driver_arena::{Arena, ArenaConfig, Pages};
use tachyon_driver_ether::{Checked, Hop, Interface, Network, Receiver, UdpChecksum};
use tachyon_loadgen::{
    capture::{CaptureConfig, CapturePorts, CaptureQueue},
    hire::{Ports, Role},
    pcap::Follower,
};
use tachyon_wire::Endpoint;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const OURS: [u8; 4] = [192, 0, 2, 2];
const OURS_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 1];
const PEER: [u8; 4] = [192, 0, 2, 1];
const PEER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 2];
/// Ports of the two peers at that address.
const PEER_PORTS: [u16; 2] = [24_640, 24_641];
const BASE_PORT: u16 = 26_640;
const SHARDS: u16 = 8;
const FRAME_BYTES: usize = 1472;

struct CaptureRig {
    queue: CaptureQueue,
    pool: Pool,
    ports: CapturePorts,
    interface: Interface,
    written: Follower,
    read: File,
    paths: [PathBuf; 2],
}

fn interface(ip: [u8; 4], mac: [u8; 6], base_port: u16, shard_count: u16) -> Interface {
    let network = Network { ip: IpAddr::from(ip), prefix: 24, gateway: None };
    Interface { mac, vlan: None, networks: std::iter::once(network).collect(), base_port, shard_count, mtu: 1500 }
}

fn rig() -> CaptureRig {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = |what: &str| {
        std::env::temp_dir().join(format!("tachyon-load-conformance-{}-{number}-{what}.pcap", std::process::id()))
    };
    let paths = [path("in"), path("out")];
    let ports = CapturePorts::new(CaptureConfig {
        write: paths[0].clone(),
        read: Some(paths[1].clone()),
        answers: true,
        from: OURS.into(),
        to: PEER.into(),
        from_mac: OURS_MAC,
        to_mac: PEER_MAC,
        vlan: None,
        shard_count: SHARDS,
        frame_bytes_max: u32::try_from(FRAME_BYTES).expect("small"),
    })
    .expect("a folder for temporary files");
    let buffers = 256;
    let config =
        ArenaConfig { bytes: buffers * 2048, buffer_bytes: 2048, pages: Pages::Ordinary, lock: false, numa_node: None };
    let mut arena = Arena::create(config).expect("half a MiB");
    let mut pool = Pool::new(arena.take(buffers).expect("all of it"));
    let shards: Vec<u16> = (0..SHARDS).collect();
    let mut port = ports.port(Role::Listen(BASE_PORT), &arena).expect("possible");
    let queue = port.open(&shards, &mut pool).expect("possible");
    let written = Follower::new(&ports.flush().expect("begun")).expect("readable");
    let mut read = File::create(&paths[1]).expect("writable");
    let header = [&0xa1b2_3c4du32.to_le_bytes()[..], &[2, 0, 4, 0], &[0; 12], &1u32.to_le_bytes()].concat();
    read.write_all(&header).expect("room");
    CaptureRig { queue, pool, ports, interface: interface(PEER, PEER_MAC, PEER_PORTS[0], 2), written, read, paths }
}

impl Rig for CaptureRig {
    type Queue = CaptureQueue;

    fn abilities(&self) -> Abilities {
        Abilities {
            shards: vec![0, 3, 7],
            peers: PEER_PORTS.map(|port| Endpoint::v4(PEER, port)).to_vec(),
            frame_bytes_max: FRAME_BYTES,
            sources: true,
            batches: false,
            offsets: false,
            lossy: false,
            impossible: Some(Endpoint::v4([198, 51, 100, 1], 24_640)),
        }
    }

    fn parts(&mut self) -> (&mut CaptureQueue, &mut Pool) {
        (&mut self.queue, &mut self.pool)
    }

    fn inject(&mut self, shard: u16, _offset: u32, frames: &[&[u8]]) {
        let hop = Hop::new(&self.interface, 0, OURS_MAC, OURS.into()).expect("an address of that family");
        for frame in frames {
            let mut packet = vec![0; hop.header_bytes()];
            hop.write(&mut packet, PEER_PORTS[0], BASE_PORT + shard, frame, UdpChecksum::Compute);
            packet.extend_from_slice(frame);
            let length = u32::try_from(packet.len()).expect("small").to_le_bytes();
            self.read.write_all(&[&[0; 8], &length[..], &length, &packet].concat()).expect("room");
        }
    }

    fn sent(&mut self) -> Vec<Sent> {
        self.ports.flush().expect("not finished");
        let receiver = Receiver::new(&self.interface);
        let mut sent = Vec::new();
        while let Some(packet) = self.written.packet().expect("a capture") {
            let found = receiver.find(packet, Checked::default()).expect("only what the queue sent");
            assert_eq!(found.source.ip, Endpoint::v4(OURS, 0).ip);
            sent.push(Sent {
                destination: Endpoint::v4(PEER, PEER_PORTS[usize::from(found.shard)]),
                shard: found.source.port.get() - BASE_PORT,
                frame: packet[found.offset as usize..][..found.len as usize].to_vec(),
            });
        }
        sent
    }
}

impl Drop for CaptureRig {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.paths[1]);
    }
}

#[test]
fn captures_conform() {
    let ran = run_all(rig);
    assert!(ran.len() >= 10, "{ran:?}");
}
