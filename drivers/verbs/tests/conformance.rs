//! The suite that every driver must pass, on the stub: by datagrams, by connections, and into rings both ways.
#![expect(clippy::unwrap_used, reason = "test helpers panic where a test would")]

mod station;

use station::{MTU, Station, connect};
use tachyon_driver_api::{
    Pool, Received,
    conformance::{Abilities, CountingAllocator, Rig, Sent, run_all},
};
use tachyon_driver_verbs::{
    RingSize, VerbsQueue,
    stub::{Faults, StubDevice, World},
};
use tachyon_wire::Endpoint;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const SHARDS: [u16; 3] = [0, 1, 6];
const US: [u8; 4] = [192, 0, 2, 1];
const PEER: [u8; 4] = [192, 0, 2, 2];

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Datagrams,
    Connections,
    Rings,
}

struct Pair {
    us: Station,
    peer: Station,
    our_name: Endpoint,
    peers: Vec<Endpoint>,
    lossy: bool,
}

impl Pair {
    fn new(kind: Kind, faults: Faults, seed: u64) -> Self {
        let world = World::new(seed);
        world.set_faults(faults);
        let mut us = Station::new(&world, US, |_| {});
        let mut peer = Station::new(&world, PEER, |config| config.workers = 2);
        let mut our_name = us.datagrams(0);
        let mut peers: Vec<Endpoint> = [0, 1].map(|worker| peer.datagrams(worker)).into();
        if kind == Kind::Datagrams {
            for (worker, name) in (0..).zip(&peers) {
                let (ours, theirs) = (us.ports.datagrams(0).unwrap(), peer.ports.datagrams(worker).unwrap());
                us.ports.reach(0, *name, &theirs).unwrap();
                peer.ports.reach(worker, our_name, &ours).unwrap();
            }
        } else {
            // Connected peers are called whatever control calls them.
            our_name = Endpoint::v4(US, 24_640);
            peers = [0, 1].map(|worker| Endpoint::v4(PEER, 5_000 + worker)).into();
            // Towards us a ring has the room that the suite asks for, because nobody drives the peer while we receive.
            let size = |slots| Some(RingSize { slots, slot_bytes: MTU }).filter(|_| kind == Kind::Rings);
            for (worker, name) in (0..).zip(&peers) {
                connect((&mut us, 0, our_name), (&mut peer, worker, *name), (size(256), size(16)));
            }
        }
        let mut pair = Self { us, peer, our_name, peers, lossy: faults.lose > 0 };
        pair.us.receive(0);
        for worker in [0, 1] {
            assert!(pair.peer.receive(worker).is_empty());
        }
        pair
    }
}

impl Rig for Pair {
    type Queue = VerbsQueue<StubDevice>;

    fn abilities(&self) -> Abilities {
        Abilities {
            shards: SHARDS.to_vec(),
            peers: self.peers.clone(),
            frame_bytes_max: MTU as usize,
            sources: true,
            batches: false,
            offsets: false,
            lossy: self.lossy,
            impossible: Some(Endpoint::v4([192, 0, 2, 77], 9)),
        }
    }

    fn parts(&mut self) -> (&mut VerbsQueue<StubDevice>, &mut Pool) {
        let worker = &mut self.us.workers[0];
        (&mut worker.queue, &mut worker.pool)
    }

    fn inject(&mut self, shard: u16, _: u32, frames: &[&[u8]]) {
        for frame in frames {
            self.peer.send(0, shard, self.our_name, frame, u32::try_from(frame.len()).unwrap());
            self.peer.ended(0);
        }
    }

    fn sent(&mut self) -> Vec<Sent> {
        let mut sent = Vec::new();
        for (worker, destination) in self.peers.clone().into_iter().enumerate() {
            self.peer.ended(worker);
            loop {
                let received = self.peer.receive(worker);
                if received.is_empty() {
                    break;
                }
                for Received { buffer, offset, len, shard, source, .. } in received {
                    assert_eq!(source, self.our_name);
                    let frame = buffer.bytes()[offset as usize..(offset + len) as usize].to_vec();
                    self.peer.workers[worker].pool.put(buffer);
                    sent.push(Sent { destination, shard, frame });
                }
            }
        }
        sent
    }
}

fn passes(kind: Kind, faults: Faults) {
    let mut seed = 0;
    let ran = run_all(|| {
        seed += 1;
        Pair::new(kind, faults, seed)
    });
    assert_eq!(ran.len(), 10, "all but batches and offsets");
}

#[test]
fn datagrams_pass() {
    passes(Kind::Datagrams, Faults::default());
}

#[test]
fn connections_pass() {
    passes(Kind::Connections, Faults::default());
}

#[test]
fn rings_pass() {
    passes(Kind::Rings, Faults::default());
}

#[test]
fn what_only_takes_time_changes_nothing() {
    for kind in [Kind::Datagrams, Kind::Connections, Kind::Rings] {
        passes(kind, Faults { delay: 30_000, hold: 20_000, ..Faults::default() });
    }
}

#[test]
fn datagrams_that_are_lost_are_no_more_than_that() {
    passes(Kind::Datagrams, Faults { lose: 1_000, ..Faults::default() });
}
