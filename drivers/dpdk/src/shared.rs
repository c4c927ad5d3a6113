//! What the cold side tells the workers about each port, and what they answer.
//!
//! A port may be polled only while it runs, and stopping it while another thread polls is undefined. So the cold side writes
//! a port's new state, raises the generation, and waits until every worker has seen that; a worker loads one number a
//! turn, which nobody writes while nothing changes.

use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU64, Ordering};
use std::sync::Arc;
use tachyon_driver_ether::Foreign;

/// Most ports of a node: more than anyone puts into one machine, and few enough to go through on each turn.
pub const PORTS_MAX: usize = 16;

/// What a worker may do with a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Nothing: it is not started, or about to be stopped.
    None,
    /// Receive, but not send: its link is down.
    Receive,
    /// Both.
    Both,
}

impl Use {
    const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Receive,
            2 => Self::Both,
            _ => Self::None,
        }
    }
}

/// One port, as the cold side wrote it.
#[derive(Debug, Default)]
struct Slot {
    usable: AtomicU8,
    /// DPDK's number of it.
    number: AtomicU16,
}

/// One worker's answers; a line of its own, as only that worker writes there.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Answers {
    /// The last generation that it acted on.
    seen: AtomicU64,
    /// Packets that were no frames for this node, by port and cause. Written only when there is one.
    foreign: [[AtomicU64; Foreign::COUNT]; PORTS_MAX],
    /// Copies that no neighbour was known for.
    unreachable: AtomicU64,
    /// Frames copied because the device takes packets in one piece only.
    copied: AtomicU64,
}

/// Both sides' view of the ports.
#[derive(Debug)]
pub(crate) struct Shared {
    generation: AtomicU64,
    slots: [Slot; PORTS_MAX],
    answers: Vec<Answers>,
    /// Packets that devices dropped for want of room, all ports together.
    missed: AtomicU64,
}

impl Shared {
    pub(crate) fn new(workers: u16) -> Arc<Self> {
        let answers = (0..workers).map(|_| Answers::default()).collect();
        Arc::new(Self { generation: AtomicU64::new(0), slots: Default::default(), answers, missed: AtomicU64::new(0) })
    }

    /// Says what may be done with a port from now on; returns the generation to wait for.
    pub(crate) fn allow(&self, port: usize, number: u16, usable: Use) -> u64 {
        let slot = &self.slots[port];
        slot.number.store(number, Ordering::Relaxed);
        // Release: a worker that looks for another port's sake may see this before it sees the generation, and then must see
        // the number, and the port as it was set up before.
        slot.usable.store(usable as u8, Ordering::Release);
        // Release: whoever sees the new generation sees the slot.
        self.generation.fetch_add(1, Ordering::Release) + 1
    }

    /// What may be done with a port, and its number.
    pub(crate) fn port(&self, port: usize) -> (Use, u16) {
        let slot = &self.slots[port];
        (Use::from_number(slot.usable.load(Ordering::Acquire)), slot.number.load(Ordering::Relaxed))
    }

    #[inline(always)]
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// A worker that will no longer touch what was taken away up to this generation says so.
    pub(crate) fn answer(&self, worker: u16, generation: u64) {
        // Release: what the worker did with the port lies before it.
        self.answers[usize::from(worker)].seen.store(generation, Ordering::Release);
    }

    /// A worker that is gone touches nothing any more.
    pub(crate) fn leave(&self, worker: u16) {
        self.answer(worker, u64::MAX);
    }

    /// Whether every worker has seen this generation.
    pub(crate) fn all_saw(&self, generation: u64) -> bool {
        self.answers.iter().all(|answers| answers.seen.load(Ordering::Acquire) >= generation)
    }

    /// Counts a packet that was no frame for this node.
    #[cold]
    pub(crate) fn count_foreign(&self, worker: u16, port: usize, cause: Foreign) {
        add(&self.answers[usize::from(worker)].foreign[port][cause as usize]);
    }

    #[cold]
    pub(crate) fn count_unreachable(&self, worker: u16) {
        add(&self.answers[usize::from(worker)].unreachable);
    }

    #[cold]
    pub(crate) fn count_copied(&self, worker: u16) {
        add(&self.answers[usize::from(worker)].copied);
    }

    /// All workers' counts of one port and cause.
    pub(crate) fn foreign(&self, port: usize, cause: Foreign) -> u64 {
        self.answers.iter().map(|answers| answers.foreign[port][cause as usize].load(Ordering::Relaxed)).sum()
    }

    pub(crate) fn set_missed(&self, packets: u64) {
        self.missed.store(packets, Ordering::Relaxed);
    }

    pub(crate) fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    pub(crate) fn unreachable(&self) -> u64 {
        self.answers.iter().map(|answers| answers.unreachable.load(Ordering::Relaxed)).sum()
    }

    pub(crate) fn copied(&self) -> u64 {
        self.answers.iter().map(|answers| answers.copied.load(Ordering::Relaxed)).sum()
    }
}

/// Adds one to a count that only the calling thread writes.
fn add(count: &AtomicU64) {
    count.store(count.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}
