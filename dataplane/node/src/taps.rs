//! The truth log's taps: where each worker records its turns, and what control is given to read them.

use crate::topology::WorkerPlan;
use anyhow::Context;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use tachyon_driver_arena::Arena;
use tachyon_engine::{Log, NoTap, Tap};
use tachyon_segment::{Sample, TapRing, TapWriter, handover::TapAnswer};

/// A worker's way to the log; none where the node keeps no log.
#[derive(Debug, Default)]
pub(crate) struct NodeTap(Option<TapWriter>);

impl Tap for NodeTap {
    #[inline]
    fn is_there(&self) -> bool {
        self.0.is_some()
    }

    #[inline]
    fn sample(&mut self, now_ns: u64) -> Log {
        let Some(writer) = &mut self.0 else { return NoTap.sample(now_ns) };
        let Sample { written, stable, room, scarce, refuses } = writer.sample(now_ns);
        Log { written, stable, room, scarce, refuses }
    }

    #[inline]
    fn begin(&mut self, bytes_max: usize) -> Option<&mut [u8]> {
        self.0.as_mut()?.begin(bytes_max)
    }

    #[inline]
    fn commit(&mut self, bytes: usize) -> u64 {
        self.0.as_mut().map_or(0, |writer| writer.commit(bytes))
    }

    #[inline]
    fn record(&self, position: u64) -> Option<(&[u8], u64)> {
        self.0.as_ref()?.record(position)
    }

    #[inline]
    fn release(&mut self, position: u64) {
        if let Some(writer) = &mut self.0 {
            writer.release(position);
        }
    }
}

/// What control is given of one worker. It stays as it is however often control connects, so that a control process that
/// comes back finds what it left.
#[derive(Debug)]
struct Handed {
    ring: TapRing,
    arena: OwnedFd,
    answer: TapAnswer,
}

/// The taps of all workers.
#[derive(Debug)]
pub(crate) struct Taps {
    boot_id: [u8; 16],
    /// `None` where the node keeps no log.
    ring_bytes: Option<u64>,
    workers: Vec<Handed>,
}

impl Taps {
    /// No worker has one yet.
    pub(crate) const fn new(boot_id: [u8; 16], ring_bytes: Option<u64>) -> Self {
        Self { boot_id, ring_bytes, workers: Vec::new() }
    }

    /// Makes the next worker's, whose buffers lie in `arena` with so much headroom.
    pub(crate) fn add(&mut self, worker: &WorkerPlan, arena: &Arena, headroom_bytes: u32) -> anyhow::Result<NodeTap> {
        let Some(ring_bytes) = self.ring_bytes else { return Ok(NodeTap::default()) };
        let number = worker.worker;
        let mut ring = TapRing::create(number, self.boot_id, ring_bytes)
            .with_context(|| format!("no memory for worker {number}'s {ring_bytes} bytes; lower ring_mib in [log]"))?;
        let writer = ring.writer();
        let answer = TapAnswer {
            worker: number,
            boot_id: self.boot_id,
            ring_bytes,
            arena_bytes: arena.region().1 as u64,
            buffer_bytes: arena.buffer_bytes(),
            headroom_bytes,
            shards: worker.shards.clone(),
        };
        let arena = arena.fd().try_clone_to_owned().context("cannot keep the arena's descriptor")?;
        self.workers.push(Handed { ring, arena, answer });
        Ok(NodeTap(writer))
    }

    /// A worker's tap for control: what it is, and its descriptors.
    ///
    /// # Errors
    /// There is none; the text says why.
    pub(crate) fn tap(&self, worker: u16) -> Result<(&TapAnswer, [BorrowedFd<'_>; 3]), String> {
        if self.ring_bytes.is_none() {
            return Err("this node keeps no log; set enabled = true in [log] of its node file and restart it".into());
        }
        let handed = self
            .workers
            .iter()
            .find(|handed| handed.answer.worker == worker)
            .ok_or_else(|| format!("there is no worker {worker}"))?;
        Ok((&handed.answer, [handed.ring.ring_fd(), handed.ring.cursors_fd(), handed.arena.as_fd()]))
    }

    /// Tells the workers that control's connection ended.
    pub(crate) fn hung_up(&self) {
        self.workers.iter().for_each(|handed| handed.ring.hung_up());
    }
}
