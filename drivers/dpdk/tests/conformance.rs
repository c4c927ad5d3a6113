//! The suite that every driver must pass, over shared memory between two stations of this driver.
#![expect(clippy::unwrap_used, reason = "test helpers panic where a test would")]

mod station;

use station::{BASE_PORT, Station, port, socket};
use tachyon_driver_api::{
    Pool, PortState, Received,
    conformance::{Abilities, CountingAllocator, Rig, Sent, run_all},
};
use tachyon_driver_dpdk::{Device, DpdkQueue};
use tachyon_wire::Endpoint;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const SHARDS: [u16; 3] = [0, 1, 6];
const US: [u8; 4] = [192, 0, 2, 1];
const PEER: [u8; 4] = [192, 0, 2, 2];
const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const PEER_PORT: u16 = 5_000;

struct Pair {
    us: Station,
    peer: Station,
}

impl Pair {
    fn new() -> Self {
        let socket = socket();
        let memif = |server| Device::Memif { socket: socket.clone(), id: 0, server };
        let us = port("us", memif(true), US, OUR_MAC, &[(PEER, PEER_MAC)]);
        let peer = port("peer", memif(false), PEER, PEER_MAC, &[(US, OUR_MAC)]);
        let mut pair = Self {
            us: Station::open(vec![us], &SHARDS, BASE_PORT),
            peer: Station::open(vec![peer], &[0, 1], PEER_PORT),
        };
        let Self { us, peer } = &mut pair;
        us.until("both ends connect", |us| {
            peer.tick();
            assert!(peer.receive().is_empty() && us.receive().is_empty());
            us.state(0) == PortState::Ready && peer.state(0) == PortState::Ready
        });
        // Once more, so that both saw what the last tick said.
        us.receive();
        peer.receive();
        pair
    }
}

impl Rig for Pair {
    type Queue = DpdkQueue;

    fn abilities(&self) -> Abilities {
        Abilities {
            shards: SHARDS.to_vec(),
            peers: [0, 1].map(|shard| Endpoint::v4(PEER, PEER_PORT + shard)).into(),
            frame_bytes_max: 1_472,
            sources: true,
            batches: false,
            offsets: false,
            lossy: false,
            // Nobody has this address, and nobody answers for it.
            impossible: Some(Endpoint::v4([192, 0, 2, 77], 9)),
        }
    }

    fn parts(&mut self) -> (&mut DpdkQueue, &mut Pool) {
        self.us.parts()
    }

    fn inject(&mut self, shard: u16, _: u32, frames: &[&[u8]]) {
        self.peer.send(0, Endpoint::v4(US, BASE_PORT + shard), frames);
    }

    fn sent(&mut self) -> Vec<Sent> {
        let mut sent = Vec::new();
        loop {
            let received = self.peer.receive();
            if received.is_empty() {
                return sent;
            }
            for Received { buffer, offset, len, shard, source, .. } in received {
                assert_eq!(source.ip, Endpoint::v4(US, 0).ip);
                let frame = buffer.bytes()[offset as usize..(offset + len) as usize].to_vec();
                self.peer.pool.put(buffer);
                let destination = Endpoint::v4(PEER, PEER_PORT + shard);
                sent.push(Sent { destination, shard: source.port.get() - BASE_PORT, frame });
            }
        }
    }
}

#[test]
fn passes_over_shared_memory() {
    run_all(Pair::new);
}
