//! A queue on loopback with its own pool, for the tests.

use std::{
    cell::RefCell,
    net::{IpAddr, Ipv4Addr},
};
use tachyon_driver_api::{Pool, Port, Received};
use tachyon_driver_arena::{Arena, ArenaConfig, Pages};
use tachyon_driver_uring::{ArenaRegion, BUFFER_BYTES, UringConfig, UringPort, UringQueue};

pub(crate) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const BUFFERS: usize = 288;

thread_local! {
    /// Buffers that a station gave back: arenas never unmap, so the next station takes these.
    static SPARE: RefCell<Vec<(Pool, ArenaRegion)>> = const { RefCell::new(Vec::new()) };
}

/// A pool of `buffers` new buffers, and where they lie.
pub(crate) fn new_pool(buffers: usize, buffer_bytes: u32) -> (Pool, ArenaRegion) {
    let bytes = buffers * buffer_bytes as usize;
    let config = ArenaConfig { bytes, buffer_bytes, pages: Pages::Ordinary, lock: false, numa_node: None };
    let mut arena = Arena::create(config).unwrap();
    let (base, bytes) = arena.region();
    (Pool::new(arena.take(buffers).unwrap()), ArenaRegion { base: base.as_ptr().addr(), bytes })
}

pub(crate) struct Station {
    pub(crate) port: UringPort,
    queue: Option<UringQueue>,
    pub(crate) pool: Pool,
    region: ArenaRegion,
    /// What came while something else was awaited.
    pub(crate) arrived: Vec<Received>,
}

impl Station {
    /// Opens a queue for `shards`; `config` sees the arena before.
    pub(crate) fn open(mut config: UringConfig, shards: &[u16]) -> Self {
        let (mut pool, region) = SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| new_pool(BUFFERS, BUFFER_BYTES));
        config.arena = config.arena.or(Some(region));
        let mut port = UringPort::new(config).unwrap();
        let queue = port.open(shards, &mut pool).unwrap();
        Self { port, queue: Some(queue), pool, region, arrived: Vec::new() }
    }

    pub(crate) fn parts(&mut self) -> (&mut UringQueue, &mut Pool) {
        (self.queue.as_mut().unwrap(), &mut self.pool)
    }

    pub(crate) fn queue(&mut self) -> &mut UringQueue {
        self.queue.as_mut().unwrap()
    }
}

impl Drop for Station {
    fn drop(&mut self) {
        let Some(queue) = self.queue.take() else { return };
        queue.close(&mut self.pool);
        self.arrived.drain(..).for_each(|received| self.pool.put(received.buffer));
        if !std::thread::panicking() {
            assert_eq!(self.pool.free(), self.pool.total(), "closing the queue gave every buffer back");
            let pool = std::mem::replace(&mut self.pool, Pool::new(Vec::new()));
            SPARE.with_borrow_mut(|spare| spare.push((pool, self.region)));
        }
    }
}
