//! A link in memory as the conformance suite wants it.

use tachyon_driver_api::{
    Pool, RxQueue, TxQueue,
    conformance::{Abilities, Rig, Sent},
};
use tachyon_driver_arena::{Arena, ArenaConfig, Pages};
use tachyon_driver_mem::{LinkConfig, MemQueue, Outside, pair};
use tachyon_wire::Endpoint;

pub(crate) struct MemRig<Q> {
    queue: Q,
    pool: Pool,
    outside: Outside,
    pub(crate) lossy: bool,
}

/// A link whose worker end is wrapped.
pub(crate) fn rig<Q>(wrap: impl FnOnce(MemQueue) -> Q) -> MemRig<Q> {
    const BUFFERS: usize = 512;
    let (worker, outside) = pair(LinkConfig::default());
    let mut arena = Arena::create(ArenaConfig {
        bytes: 2 * BUFFERS * 2048,
        buffer_bytes: 2048,
        pages: Pages::Ordinary,
        lock: false,
        numa_node: None,
    })
    .expect("2 MiB of memory");
    let pool = Pool::new(arena.take(BUFFERS).expect("half of the arena"));
    let outside = Outside::new(outside, Pool::new(arena.take(BUFFERS).expect("half of the arena")));
    MemRig { queue: wrap(worker), pool, outside, lossy: false }
}

impl<Q: RxQueue + TxQueue> Rig for MemRig<Q> {
    type Queue = Q;

    fn abilities(&self) -> Abilities {
        Abilities {
            shards: vec![0, 3, 7],
            peers: vec![Endpoint::v4([192, 0, 2, 1], 1000), Endpoint::v4([192, 0, 2, 2], 2000)],
            frame_bytes_max: LinkConfig::default().frame_bytes_max as usize,
            sources: true,
            batches: true,
            offsets: true,
            lossy: self.lossy,
            impossible: Some(Endpoint::NONE),
        }
    }

    fn parts(&mut self) -> (&mut Q, &mut Pool) {
        (&mut self.queue, &mut self.pool)
    }

    fn inject(&mut self, shard: u16, offset: u32, frames: &[&[u8]]) {
        let source = self.abilities().peers[0];
        assert!(self.outside.send(source, shard, offset, frames), "the link is full");
    }

    fn sent(&mut self) -> Vec<Sent> {
        let delivered = self.outside.receive().into_iter();
        delivered.map(|one| Sent { destination: one.destination, shard: one.shard, frame: one.frame }).collect()
    }
}
