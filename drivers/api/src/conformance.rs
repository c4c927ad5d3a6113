//! The suite that every driver must pass: one text for all of them.
//!
//! A driver implements [`Rig`], a queue under test with a peer outside it, and calls [`run_all`] in its
//! `tests/conformance.rs`, in a program whose global allocator is [`CountingAllocator`]. Each check gets a rig of its own.
//! Through every check, and not in one of their own, the suite looks at what must always hold: no buffer is lost or made,
//! counts only rise, no hot call allocates or frees, and what is received lies inside its buffer.

mod allocations;
mod checks;
mod hands;

pub use allocations::{CountingAllocator, allocations};

use crate::{Pool, RxQueue, TxQueue};
use alloc::vec::Vec;
use hands::Hands;
use std::eprintln;
use tachyon_wire::Endpoint;

/// What a driver and its rig can do; what they cannot is not asked of them, and said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// The shards that the queue was opened for; at least one.
    pub shards: Vec<u16>,
    /// Where the outside peer receives; the first is also where it sends from. At least one.
    pub peers: Vec<Endpoint>,
    /// Largest frame in bytes; at least 192.
    pub frame_bytes_max: usize,
    /// Whether a received buffer names its source.
    pub sources: bool,
    /// Whether several frames injected together arrive in one buffer.
    pub batches: bool,
    /// Whether [`Rig::inject`] can place a frame at any offset in the buffer.
    pub offsets: bool,
    /// Whether frames may be lost between peer and queue. They may never be damaged or overtake each other.
    pub lossy: bool,
    /// A destination to which sending fails with an error that the driver sees.
    pub impossible: Option<Endpoint>,
}

/// One frame that the peer got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Which of [`Abilities::peers`] got it.
    pub destination: Endpoint,
    /// The shard whose port it left from.
    pub shard: u16,
    /// The frame.
    pub frame: Vec<u8>,
}

/// A queue under test, its pool, and a peer outside it. The pool has at least 256 buffers, and between peer and queue
/// there is room for 192 frames of 192 bytes each way.
pub trait Rig {
    /// The queue under test.
    type Queue: RxQueue + TxQueue;

    /// What it can do; always the same.
    fn abilities(&self) -> Abilities;

    /// The queue and the pool it was opened with.
    fn parts(&mut self) -> (&mut Self::Queue, &mut Pool);

    /// Sends frames from the first peer to the port of a shard. All are as long as the first but for the last, which may be
    /// shorter; where the driver has [`Abilities::batches`] they travel together. Where it has [`Abilities::offsets`] the
    /// first arrives at `offset` in its buffer.
    fn inject(&mut self, shard: u16, offset: u32, frames: &[&[u8]]);

    /// What the peers got since the last call, per peer in order, one by one whatever they travelled in.
    fn sent(&mut self) -> Vec<Sent>;
}

/// Runs every check, each on a new rig, and returns the names of those that were run.
///
/// # Panics
/// At the first check that fails, with what was seen; the line before names the check. Also if the program's global
/// allocator is not [`CountingAllocator`], because then nothing would prove that hot calls do not allocate.
pub fn run_all<R: Rig>(mut make_rig: impl FnMut() -> R) -> Vec<&'static str> {
    let counted = allocations(|| drop(core::hint::black_box(alloc::boxed::Box::new(1))));
    assert!(counted > 0, "make CountingAllocator this test program's #[global_allocator]");
    let mut ran = Vec::new();
    for (name, needs, check) in checks::all::<R>() {
        let rig = make_rig();
        if !needs(&rig.abilities()) {
            eprintln!("conformance: {name}: not asked of this driver");
            continue;
        }
        eprintln!("conformance: {name}");
        let mut hands = Hands::new(rig);
        check(&mut hands);
        hands.finish();
        ran.push(name);
    }
    ran
}
