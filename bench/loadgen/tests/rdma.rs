//! The cold side of RDMA lanes against a node's driver, both on the device in memory; the node's control is played.
#![cfg(feature = "verbs")]
#![expect(clippy::unwrap_used, reason = "helpers of tests, which end at the first surprise as tests do")]

use anyhow::{Result, anyhow};
use tachyon_driver_api::{CompletionBatch, Pool, Port, RxBatch, RxQueue, Transmit, TxBatch, TxQueue};
use tachyon_driver_arena::{Arena, ArenaConfig, Pages};
use tachyon_driver_verbs::{
    ArenaRegion, Details, VerbsConfig, VerbsPorts, VerbsQueue,
    stub::{StubDevice, StubFabric, World},
};
use tachyon_loadgen::{
    lanes::{Carrier, DETAILS_BYTES, Fabric, Names, NodeLane, Owner},
    rdma::End,
};
use tachyon_wire::Endpoint;

const MTU: u32 = 1_024;
const BUFFERS: usize = 256;
const WORKERS: u16 = 2;
const SHARDS: u16 = 8;
const NODE: Endpoint = Endpoint::v4([10, 0, 0, 1], 24_640);
/// What the node calls us, whatever carries the frames.
const US: Endpoint = Endpoint::v4([10, 0, 0, 2], 26_640);

type Ports = VerbsPorts<StubFabric>;
type Worker = (VerbsQueue<StubDevice>, Pool);

fn station(world: &World, last: u8, workers: u16) -> (Ports, Vec<Worker>) {
    let bytes = usize::from(workers) * BUFFERS * 2_048;
    let config = ArenaConfig { bytes, buffer_bytes: 2_048, pages: Pages::Ordinary, lock: false, numa_node: None };
    let mut arena = Arena::create(config).unwrap();
    let (base, bytes) = arena.region();
    let region = ArenaRegion { base: base.as_ptr().expose_provenance(), bytes };
    let mut config = VerbsConfig::new(std::net::Ipv4Addr::new(10, 0, 0, last).into(), region, last.into());
    (config.workers, config.shard_count, config.receive_depth) = (workers, SHARDS, 64);
    let fabric = world.fabric(Endpoint::v4([10, 0, 0, last], 0).ip, MTU, region);
    let mut ports = VerbsPorts::with(fabric, config).unwrap();
    let open = |worker| {
        let mut pool = Pool::new(arena.take(BUFFERS).unwrap());
        (ports.seat(worker).unwrap().open(&[], &mut pool).unwrap(), pool)
    };
    let queues = (0..workers).map(open).collect();
    (ports, queues)
}

/// The node, and the control process that is in front of it.
struct Node {
    ports: Ports,
    queues: Vec<Worker>,
    offers: Vec<(Owner, u16)>,
    refuses: bool,
    /// It says of lanes that fail that their frames go by UDP.
    falls_back: bool,
    now_ns: u64,
}

impl Node {
    fn new(world: &World) -> Self {
        let (ports, queues) = station(world, 1, WORKERS);
        Self { ports, queues, offers: Vec::new(), refuses: false, falls_back: false, now_ns: 0 }
    }

    fn tick(&mut self) {
        self.now_ns += 1_000_000;
        for (queue, pool) in &mut self.queues {
            queue.rx_burst(pool, &mut RxBatch::new());
        }
        self.ports.tick(self.now_ns);
    }

    /// The shards of all frames that a worker got.
    fn received(&mut self, worker: usize) -> Vec<u16> {
        let (queue, pool) = &mut self.queues[worker];
        let mut shards = Vec::new();
        for _ in 0..16 {
            let mut batch = RxBatch::new();
            queue.rx_burst(pool, &mut batch);
            for received in batch {
                shards.push(received.shard);
                pool.put(received.buffer);
            }
        }
        shards.sort_unstable();
        shards
    }
}

impl Carrier for Node {
    fn connect(&mut self, owner: Owner, worker: u16, details: [u8; DETAILS_BYTES]) -> Result<[u8; DETAILS_BYTES]> {
        if self.refuses {
            return Err(anyhow!("not now"));
        }
        self.offers.push((owner, worker));
        let theirs = Details::decode(&details)?;
        let ours = match theirs {
            Details::Datagrams { .. } => {
                self.ports.reach(worker, US, &theirs)?;
                self.ports.datagrams(worker)?
            }
            Details::Connection { .. } => self.ports.accept(worker, US, &theirs, None)?,
        };
        Ok(ours.encode())
    }

    fn lanes(&mut self, _owner: Owner) -> Result<Vec<NodeLane>> {
        let lane = |lane: tachyon_driver_verbs::LaneReport| NodeLane {
            worker: lane.worker,
            wants_offer: lane.state == "waiting" || lane.state == "failed",
            fell_back: self.falls_back && lane.state != "connected",
            why: lane.why,
        };
        Ok(self.ports.report().lanes.into_iter().map(lane).collect())
    }
}

/// Our queue and its cold side, with a lane to each worker of the node.
fn joined(fabric: Fabric, owner: Owner) -> (World, Node, End<StubFabric>, Worker) {
    let world = World::new(7);
    let mut node = Node::new(&world);
    let (ports, mut queues) = station(&world, 2, 1);
    let mut end = End::new(ports, owner, fabric, Names { node: NODE, workers: WORKERS, shard_count: SHARDS });
    end.agree_all(&mut node).unwrap();
    (world, node, end, queues.remove(0))
}

/// Sends a frame to each shard by its name; how many were not taken.
fn send_to_all((queue, pool): &mut Worker) -> usize {
    let mut batch = TxBatch::new();
    for shard in 0..SHARDS {
        let destination = Endpoint { port: (NODE.port.get() + shard).into(), ..NODE };
        let buffer = pool.get().unwrap();
        batch.push(Transmit { buffer, offset: 0, len: 128, stride: 128, shard, destination, token: 1 });
    }
    queue.rx_burst(pool, &mut RxBatch::new()); // takes up orders
    assert_eq!(queue.tx_burst(&mut batch), usize::from(SHARDS));
    let (mut failed, mut ended) = (0, 0);
    for _ in 0..1_000 {
        queue.rx_burst(pool, &mut RxBatch::new());
        let mut done = CompletionBatch::new();
        queue.completions(&mut done);
        for completion in done {
            ended += 1;
            failed += usize::from(completion.error.is_some());
            pool.put(completion.buffer);
        }
    }
    assert_eq!(ended, usize::from(SHARDS), "everything comes back");
    failed
}

#[test]
fn each_shards_frames_come_to_the_worker_that_owns_it() {
    for fabric in [Fabric::RdmaDatagram, Fabric::RdmaConnection, Fabric::RdmaRing] {
        let (_world, mut node, _end, mut ours) = joined(fabric, Owner::Session(5));
        assert_eq!(send_to_all(&mut ours), 0, "{fabric:?}");
        assert_eq!((node.received(0), node.received(1)), (vec![0, 2, 4, 6], vec![1, 3, 5, 7]), "{fabric:?}");
        assert_eq!(node.offers, [(Owner::Session(5), 0), (Owner::Session(5), 1)]);
    }
}

#[test]
fn only_a_subscriber_that_asked_for_rings_has_some() {
    for (fabric, owner, kind) in [
        (Fabric::RdmaRing, Owner::Subscriber(3), "ring"),
        (Fabric::RdmaRing, Owner::Session(3), "connection"),
        (Fabric::RdmaConnection, Owner::Subscriber(3), "connection"),
    ] {
        let (_world, node, end, _ours) = joined(fabric, owner);
        assert_eq!(end.kinds(), [kind, kind], "{fabric:?} {owner:?}");
        assert_eq!(node.offers.len(), 2);
    }
}

#[test]
fn a_lane_that_failed_at_the_node_is_offered_again_and_carries_frames_again() {
    let (_world, mut node, mut end, mut ours) = joined(Fabric::RdmaConnection, Owner::Session(5));
    assert_eq!(send_to_all(&mut ours), 0);
    let names = Names { node: NODE, workers: WORKERS, shard_count: SHARDS };
    node.received(0);
    node.ports.reset(0, US).unwrap(); // the node starts again, as far as this lane is concerned
    node.refuses = true;
    let mut now_ns = tachyon_loadgen::clock::now_ns();
    let mut turn = |end: &mut End<StubFabric>, node: &mut Node, ours: &mut Worker| {
        now_ns += 1_000_000;
        node.tick();
        ours.0.rx_burst(&mut ours.1, &mut RxBatch::new());
        let troubles = end.tick(now_ns, node);
        let looked = end.look(now_ns, node);
        troubles.len() + usize::from(looked.is_err())
    };
    let mut troubles = 0;
    for _ in 0..300 {
        troubles += turn(&mut end, &mut node, &mut ours);
    }
    assert!(troubles > 0, "a refused offer is told");
    assert_ne!(end.state_of(&names.of(0)), Some("connected"));
    assert_eq!(end.state_of(&names.of(1)), Some("connected"), "the other worker's lane is its own");
    node.refuses = false;
    for _ in 0..3_000 {
        turn(&mut end, &mut node, &mut ours);
        if end.state_of(&names.of(0)) == Some("connected") {
            break;
        }
    }
    node.received(0);
    node.received(1);
    assert_eq!(send_to_all(&mut ours), 0, "by every name");
    assert_eq!((node.received(0).len(), node.received(1).len()), (4, 4));
}

#[test]
fn a_lane_that_fell_back_is_left_to_udp_for_a_while() {
    let (_world, mut node, mut end, mut ours) = joined(Fabric::RdmaConnection, Owner::Session(5));
    let names = Names { node: NODE, workers: WORKERS, shard_count: SHARDS };
    assert_eq!(send_to_all(&mut ours), 0);
    node.falls_back = true;
    node.ports.reset(0, US).unwrap();
    let start_ns = tachyon_loadgen::clock::now_ns();
    let offers = node.offers.len();
    // In steps of 10 ms, for 4 s of a time of our own and then for 4 more.
    let mut run = |from: u64| {
        for step in from..from + 400 {
            let now_ns = start_ns + step * 10_000_000;
            node.tick();
            ours.0.rx_burst(&mut ours.1, &mut RxBatch::new());
            end.tick(now_ns, &mut node);
            end.look(now_ns, &mut node).unwrap();
        }
        (node.offers.len() - offers, end.state_of(&names.of(0)))
    };
    assert_eq!(run(0).0, 0, "it was offered although its frames had just gone to UDP");
    let (offered, state) = run(400);
    assert_eq!((offered > 0, state), (true, Some("connected")), "{offered} offers");
}
