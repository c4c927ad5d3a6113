//! RDMA's own queue, on its device in memory, before sockets that are a fake: a lane is agreed on, fails for good, and is back.

use super::{Kind, Transports, tests::Fake};
use std::collections::BTreeMap;
use tachyon_driver_api::{
    CompletionBatch, LaneRequest, Lanes, Pool, Port, PortError, PortInfo, Ports, RxBatch, RxQueue, Transmit, TxBatch,
    TxQueue,
};
use tachyon_driver_arena::{Arena, ArenaConfig, Pages};
use tachyon_driver_verbs::{
    ArenaRegion, Details, VerbsConfig, VerbsPorts, VerbsQueue, VerbsSeat,
    stub::{StubDevice, StubFabric, World},
};
use tachyon_wire::{Endpoint, Reason};

const BUFFERS: usize = 512;
const MTU: u32 = 1_024;
const NODE: Endpoint = Endpoint::v4([192, 0, 2, 1], 24_640);
/// Reached by a lane at four ports from this one on.
const PEER: Endpoint = Endpoint::v4([192, 0, 2, 2], 5_000);
/// Reached by sockets only.
const OTHER: Endpoint = Endpoint::v4([192, 0, 2, 3], 5_000);

/// Makes a cold side on a device in memory, and a worker's buffers there.
fn open(world: &World, ip: [u8; 4]) -> (VerbsPorts<StubFabric>, Pool) {
    let (pages, buffer_bytes) = (Pages::Ordinary, 2_048);
    let bytes = BUFFERS * buffer_bytes as usize;
    let mut arena = Arena::create(ArenaConfig { bytes, buffer_bytes, pages, lock: false, numa_node: None }).unwrap();
    let (base, bytes) = arena.region();
    let region = ArenaRegion { base: base.as_ptr().expose_provenance(), bytes };
    let fabric = world.fabric(Endpoint::v4(ip, 0).ip, MTU, region);
    let config = VerbsConfig {
        ports_per_peer: 4,
        receive_depth: 64,
        reconnects_max: 2,
        ..VerbsConfig::new(ip.into(), region, ip[3].into())
    };
    (VerbsPorts::with(fabric, config).unwrap(), Pool::new(arena.take(BUFFERS).unwrap()))
}

impl Port for Fake {
    type Queue = Self;

    fn open(&mut self, _: &[u16], _: &mut Pool) -> Result<Self, PortError> {
        Ok(self.clone())
    }

    fn info(&self) -> PortInfo {
        PortInfo { driver: "fake", device: "memory".into(), frame_bytes_max: 2_048, degraded: vec!["fake".into()] }
    }
}

type Seats = Transports<VerbsSeat<StubFabric>, Fake, Fake, Fake>;

/// A node's worker and the peer's.
struct Bench {
    cold: VerbsPorts<StubFabric>,
    queue: <Seats as Port>::Queue,
    pool: Pool,
    sockets: Fake,
    peer: VerbsPorts<StubFabric>,
    peer_queue: VerbsQueue<StubDevice>,
    peer_pool: Pool,
    now_ns: u64,
    token: u32,
    ended: BTreeMap<u32, Option<Reason>>,
}

impl Bench {
    fn new() -> Self {
        let world = World::new(1);
        let (mut cold, mut pool) = open(&world, [192, 0, 2, 1]);
        let (mut peer, mut peer_pool) = open(&world, [192, 0, 2, 2]);
        let sockets = Fake::new(2, None);
        let order = vec![Kind::Verbs, Kind::Uring];
        let mut seats = Seats { order, verbs: cold.seat(0), dpdk: None, afxdp: None, uring: Some(sockets.clone()) };
        let info = seats.info();
        assert_eq!((info.device.as_str(), info.frame_bytes_max, info.degraded.len()), ("stub, memory", MTU, 1));
        let queue = seats.open(&[0], &mut pool).unwrap();
        let peer_queue = peer.seat(0).unwrap().open(&[], &mut peer_pool).unwrap();
        let (now_ns, token, ended) = (0, 0, BTreeMap::new());
        Self { cold, queue, pool, sockets, peer, peer_queue, peer_pool, now_ns, token, ended }
    }

    /// The peer offers a connection, and the node takes it.
    fn agree(&mut self) {
        let details = self.peer.offer(0, NODE, None).unwrap().encode();
        let request = LaneRequest { worker: 0, to: PEER, ports: 4, falls_back: true, details };
        let answer = Lanes::connect(&mut self.cold, &request).unwrap();
        self.peer.connect(0, NODE, &Details::decode(&answer.details).unwrap()).unwrap();
        self.turn();
    }

    /// A millisecond and a turn of both sides; returns frames that reached the peer.
    fn turn(&mut self) -> usize {
        self.now_ns += 1_000_000;
        Ports::tick(&mut self.cold, self.now_ns);
        self.peer.tick(self.now_ns);
        let (mut received, mut arrived, mut done) = (RxBatch::new(), RxBatch::new(), CompletionBatch::new());
        self.queue.rx_burst(&mut self.pool, &mut received);
        assert!(received.is_empty());
        self.peer_queue.rx_burst(&mut self.peer_pool, &mut arrived);
        self.queue.completions(&mut done);
        for completion in done {
            assert!(self.ended.insert(completion.token, completion.error).is_none(), "it ended twice");
            self.pool.put(completion.buffer);
        }
        assert_eq!(self.pool.free() + self.queue.held(), BUFFERS);
        let count = arrived.len();
        arrived.into_iter().for_each(|one| self.peer_pool.put(one.buffer));
        count
    }

    /// Sends to each of these, and returns the tokens.
    fn send(&mut self, to: &[Endpoint]) -> Vec<u32> {
        let mut batch = TxBatch::new();
        for destination in to {
            self.token += 1;
            let (buffer, token) = (self.pool.get().unwrap(), self.token);
            let destination = *destination;
            batch.push(Transmit { buffer, offset: 0, len: 64, stride: 64, shard: 0, destination, token });
        }
        let tokens = batch.iter().map(|item| item.token).collect();
        assert_eq!(self.queue.tx_burst(&mut batch), to.len());
        tokens
    }

    fn ends(&mut self, tokens: &[u32]) -> Vec<Option<Reason>> {
        self.turn();
        tokens.iter().map(|token| self.ended[token]).collect()
    }
}

fn port(more: u16) -> Endpoint {
    Endpoint::v6(PEER.ip, PEER.port.get() + more)
}

#[test]
fn a_lane_is_used_while_it_stands_and_sockets_before_and_after() {
    let mut bench = Bench::new();
    let before = bench.send(&[PEER, OTHER]);
    assert_eq!((bench.ends(&before), bench.sockets.tokens()), (vec![None; 2], before.clone()));
    bench.agree();
    let during = bench.send(&[PEER, port(3), OTHER, port(4), PEER]);
    assert_eq!(bench.turn(), 3, "by the lane");
    assert_eq!(bench.ends(&during), vec![None; 5]);
    let by_sockets = |bench: &Bench, from: usize| bench.sockets.tokens()[from..].to_vec();
    assert_eq!(by_sockets(&bench, 2), [during[2], during[3]]);
    // The peer goes away: what the lane has ends by its reasons, until it has failed for good.
    bench.peer.reset(0, NODE).unwrap();
    let lost = bench.send(&[PEER, port(1), OTHER]);
    let (timeout, reset) = (Some(Reason::TxTimeout), Some(Reason::TxQpReset));
    bench.turn();
    assert_eq!(bench.ends(&lost), [timeout, reset, None]);
    for _ in 0..200 {
        bench.turn();
    }
    assert!(bench.cold.lanes()[0].fell_back);
    let over = bench.send(&[PEER, port(3), OTHER]);
    assert_eq!((bench.ends(&over), by_sockets(&bench, 5)), (vec![None; 3], over.clone()));
    bench.agree();
    let back = bench.send(&[PEER, port(3), OTHER]);
    assert_eq!(bench.turn(), 2, "by the lane again");
    assert_eq!((bench.ends(&back), by_sockets(&bench, 8)), (vec![None; 3], vec![back[2]]));
    assert_eq!(bench.ended.len(), bench.token as usize, "every item ended once");
}
