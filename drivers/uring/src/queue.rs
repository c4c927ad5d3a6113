//! The queue that a worker polls, in whichever mode the kernel allows.

use crate::{calls::Calls, ring::Ring};
use tachyon_driver_api::{CompletionBatch, Pool, QueueStats, RxBatch, RxQueue, TxBatch, TxQueue};

/// Both directions of one worker's sockets. It belongs to the thread that opened it: io_uring lets no other one in.
pub struct UringQueue(pub(crate) Mode);

/// Chosen when the queue is opened.
pub(crate) enum Mode {
    /// io_uring.
    Ring(Box<Ring>),
    /// `recvmmsg` and `sendmmsg`.
    Calls(Box<Calls>),
}

impl UringQueue {
    /// The port that a shard's socket is bound to; `None` if this queue does not own it.
    #[must_use]
    pub fn local_port(&self, shard: u16) -> Option<u16> {
        let sockets = match &self.0 {
            Mode::Ring(ring) => &ring.sockets,
            Mode::Calls(calls) => &calls.sockets,
        };
        sockets.iter().find(|socket| socket.shard == shard).map(|socket| socket.port)
    }

    /// Whether it runs on io_uring.
    #[must_use]
    pub const fn is_io_uring(&self) -> bool {
        matches!(self.0, Mode::Ring(_))
    }

    /// Stops receiving, waits for the kernel to let go, and puts every buffer back into `pool`. Dropping a queue does the
    /// same, but its buffers are lost to the pool.
    pub fn close(self, pool: &mut Pool) {
        match self.0 {
            Mode::Ring(ring) => ring.close(pool),
            Mode::Calls(calls) => calls.close(pool),
        }
    }
}

impl core::fmt::Debug for UringQueue {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "UringQueue({})", if self.is_io_uring() { "io_uring" } else { "recvmmsg" })
    }
}

impl RxQueue for UringQueue {
    #[inline]
    fn rx_burst(&mut self, pool: &mut Pool, into: &mut RxBatch) -> usize {
        match &mut self.0 {
            Mode::Ring(ring) => ring.rx_burst(pool, into),
            Mode::Calls(calls) => calls.rx_burst(pool, into),
        }
    }

    fn wait(&mut self, ns: u64) {
        match &mut self.0 {
            Mode::Ring(ring) => ring.wait(ns),
            Mode::Calls(calls) => calls.wait(ns),
        }
    }

    fn stats(&self) -> QueueStats {
        match &self.0 {
            Mode::Ring(ring) => ring.stats,
            Mode::Calls(calls) => calls.stats,
        }
    }

    fn held(&self) -> usize {
        match &self.0 {
            Mode::Ring(ring) => ring.held(),
            Mode::Calls(calls) => calls.held(),
        }
    }
}

impl TxQueue for UringQueue {
    #[inline]
    fn tx_burst(&mut self, from: &mut TxBatch) -> usize {
        match &mut self.0 {
            Mode::Ring(ring) => ring.flight.accept(from),
            Mode::Calls(calls) => calls.tx_burst(from),
        }
    }

    #[inline]
    fn completions(&mut self, into: &mut CompletionBatch) -> usize {
        match &mut self.0 {
            Mode::Ring(ring) => ring.completions(into),
            Mode::Calls(calls) => calls.completions(into),
        }
    }
}
