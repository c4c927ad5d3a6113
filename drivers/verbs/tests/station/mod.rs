//! One node with one or more workers of this driver, on the stub.
#![allow(dead_code, reason = "each test program uses its own part")]

use tachyon_driver_api::{CompletionBatch, Pool, Port, Received, RxBatch, RxQueue, Transmit, TxBatch, TxQueue};
use tachyon_driver_arena::{Arena, ArenaConfig, Pages};
use tachyon_driver_verbs::{
    ArenaRegion, Errand, RingSize, VerbsConfig, VerbsPorts, VerbsQueue,
    stub::{StubDevice, StubFabric, World},
};
use tachyon_wire::Endpoint;

pub(crate) const MTU: u32 = 1_024;
pub(crate) const BUFFERS: usize = 1_024;
const BUFFER_BYTES: u32 = 2_048;

pub(crate) struct Worker {
    pub(crate) queue: VerbsQueue<StubDevice>,
    pub(crate) pool: Pool,
}

pub(crate) struct Station {
    pub(crate) ports: VerbsPorts<StubFabric>,
    pub(crate) workers: Vec<Worker>,
    pub(crate) ip: [u8; 4],
    pub(crate) now_ns: u64,
    next_token: u32,
}

/// The IPv4-mapped form.
pub(crate) fn mapped(ip: [u8; 4]) -> [u8; 16] {
    Endpoint::v4(ip, 0).ip
}

impl Station {
    pub(crate) fn new(world: &World, ip: [u8; 4], change: impl FnOnce(&mut VerbsConfig)) -> Self {
        Self::new_at(world, mapped(ip), ip, change)
    }

    pub(crate) fn new_at(world: &World, gid: [u8; 16], ip: [u8; 4], change: impl FnOnce(&mut VerbsConfig)) -> Self {
        let mut arena = Arena::create(ArenaConfig {
            bytes: 2 * BUFFERS * BUFFER_BYTES as usize,
            buffer_bytes: BUFFER_BYTES,
            pages: Pages::Ordinary,
            lock: false,
            numa_node: None,
        })
        .expect("4 MiB of memory");
        let (base, bytes) = arena.region();
        let region = ArenaRegion { base: base.as_ptr().expose_provenance(), bytes };
        let mut config = VerbsConfig::new(std::net::Ipv4Addr::from(ip).into(), region, u64::from(ip[3]));
        change(&mut config);
        let workers = config.workers;
        let fabric = world.fabric(gid, MTU, region);
        let mut ports = VerbsPorts::with(fabric, config).expect("the stub gives everything");
        let workers = (0..workers)
            .map(|worker| {
                let mut pool = Pool::new(arena.take(BUFFERS).expect("each worker's part"));
                let queue = ports.seat(worker).expect("its first").open(&[], &mut pool).expect("enough buffers");
                Worker { queue, pool }
            })
            .collect();
        Self { ports, workers, ip, now_ns: 1, next_token: 0 }
    }

    /// Lets a millisecond pass.
    pub(crate) fn tick(&mut self) {
        self.now_ns += 1_000_000;
        self.ports.tick(self.now_ns);
    }

    /// Where a worker is reached by datagrams.
    pub(crate) fn datagrams(&mut self, worker: u16) -> Endpoint {
        self.ports.datagrams(worker).expect("there is this worker").endpoint()
    }

    pub(crate) fn receive(&mut self, worker: usize) -> Vec<Received> {
        let mut batch = RxBatch::new();
        let Worker { queue, pool } = &mut self.workers[worker];
        queue.rx_burst(pool, &mut batch);
        batch.into_iter().collect()
    }

    /// Sends one frame, and returns its token.
    pub(crate) fn send(&mut self, worker: usize, shard: u16, destination: Endpoint, bytes: &[u8], stride: u32) -> u32 {
        self.next_token += 1;
        let Worker { queue, pool } = &mut self.workers[worker];
        let mut buffer = pool.get().expect("a free buffer");
        buffer.bytes_mut()[64..64 + bytes.len()].copy_from_slice(bytes);
        let len = u32::try_from(bytes.len()).expect("short");
        let token = self.next_token;
        let mut batch = TxBatch::new();
        batch.push(Transmit { buffer, offset: 64, len, stride, shard, destination, token });
        assert_eq!(queue.tx_burst(&mut batch), 1, "there is room");
        token
    }

    /// Token and reason of everything that ended.
    pub(crate) fn ended(&mut self, worker: usize) -> Vec<(u32, Option<tachyon_wire::Reason>)> {
        let mut batch = CompletionBatch::new();
        let Worker { queue, pool } = &mut self.workers[worker];
        queue.completions(&mut batch);
        batch
            .drain(..)
            .map(|completion| {
                pool.put(completion.buffer);
                (completion.token, completion.error)
            })
            .collect()
    }

    /// Whether every buffer is where it should be.
    pub(crate) fn is_whole(&self, worker: usize) -> bool {
        let Worker { queue, pool } = &self.workers[worker];
        pool.free() + queue.held() == pool.total()
    }

    pub(crate) fn state_of(&self, to: Endpoint) -> &'static str {
        let name = format!("{}:{}", std::net::Ipv6Addr::from(to.ip).to_ipv4_mapped().expect("IPv4"), to.port);
        self.ports.report().lanes.iter().find(|lane| lane.to == name).map_or("none", |lane| lane.state)
    }
}

/// Connects worker `a` of one with worker `b` of the other; each calls the other by this endpoint.
pub(crate) fn connect(
    (us, a, our_name): (&mut Station, u16, Endpoint),
    (peer, b, peer_name): (&mut Station, u16, Endpoint),
    rings: (Option<RingSize>, Option<RingSize>),
) {
    let ours = us.ports.offer(a, peer_name, rings.0).expect("a first offer");
    let theirs = peer.ports.accept(b, our_name, &ours, rings.1).expect("a good offer");
    us.ports.connect(a, peer_name, &theirs).expect("a good answer");
}

/// Carries what connections that come back need, from us to a peer whose worker 0 calls us by this name.
pub(crate) fn carry(us: &mut Station, peer: &mut Station, name_of_us: Endpoint, ring: Option<RingSize>) {
    for errand in us.ports.errands() {
        match errand {
            Errand::Renew { .. } => peer.ports.reset(0, name_of_us).expect("a connection"),
            Errand::Offer { worker, to, details, .. } => {
                if let Ok(answer) = peer.ports.accept(0, name_of_us, &details, ring) {
                    us.ports.connect(worker, to, &answer).expect("an answer to a fresh offer");
                }
            }
        }
    }
}
