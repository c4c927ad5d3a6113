//! Counts that a worker writes and the cold side reads, and the one that goes the other way.

use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use tachyon_driver_ether::Foreign;

/// Most ports of a node: more than anyone puts into one machine, and few enough to go through on each turn.
pub const PORTS_MAX: usize = 16;

/// What one worker counts; lines of its own, as only that worker writes there. The counts of events are written when there is
/// one, the others once a turn.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct WorkerCounts {
    /// Packets that were no frames for this worker, by port and cause.
    foreign: [[AtomicU64; Foreign::COUNT]; PORTS_MAX],
    /// Frames to a shard of another worker, by port.
    pub(crate) other_worker: [AtomicU64; PORTS_MAX],
    /// Items that the kernel has not finished, and those that it has, by port.
    pub(crate) in_flight: [AtomicU64; PORTS_MAX],
    pub(crate) finished: [AtomicU64; PORTS_MAX],
    /// Times that the worker looked for what is finished.
    pub(crate) looks: AtomicU64,
    /// Packets received in several pieces and put together by copying.
    pub(crate) joined: AtomicU64,
    /// Copies that no neighbour was known for.
    pub(crate) unreachable: AtomicU64,
    /// Frames copied because the socket takes packets in one piece only.
    pub(crate) copied: AtomicU64,
}

/// Both sides' view.
#[derive(Debug)]
pub(crate) struct Shared {
    workers: Vec<WorkerCounts>,
    /// Packets that the kernel dropped for want of room, by worker; written by the cold side.
    missed: Vec<AtomicU64>,
}

impl Shared {
    pub(crate) fn new(workers: usize) -> Arc<Self> {
        let counts = (0..workers).map(|_| WorkerCounts::default()).collect();
        Arc::new(Self { workers: counts, missed: (0..workers).map(|_| AtomicU64::new(0)).collect() })
    }

    #[inline(always)]
    pub(crate) fn worker(&self, worker: u16) -> &WorkerCounts {
        &self.workers[usize::from(worker)]
    }

    /// Counts a packet that was no frame for this node.
    #[cold]
    pub(crate) fn count_foreign(&self, worker: u16, port: usize, cause: Foreign) {
        add(&self.worker(worker).foreign[port][cause.index()]);
    }

    /// All workers' counts of one port and cause.
    pub(crate) fn foreign(&self, port: usize, cause: Foreign) -> u64 {
        self.sum(|counts| &counts.foreign[port][cause.index()])
    }

    /// All workers' counts together.
    pub(crate) fn sum(&self, count: impl Fn(&WorkerCounts) -> &AtomicU64) -> u64 {
        self.workers.iter().map(|counts| count(counts).load(Ordering::Relaxed)).sum()
    }

    pub(crate) fn add_missed(&self, worker: usize, packets: u64) {
        self.missed[worker].fetch_add(packets, Ordering::Relaxed);
    }

    pub(crate) fn missed(&self, worker: u16) -> u64 {
        self.missed[usize::from(worker)].load(Ordering::Relaxed)
    }
}

/// Adds one to a count that only the calling thread writes.
#[inline]
pub(crate) fn add(count: &AtomicU64) {
    count.store(count.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}
