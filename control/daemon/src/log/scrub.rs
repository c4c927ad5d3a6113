//! Reading the logs again in the background, at a low rate, to find damage while a copy can still be had.

use super::Now;
use std::io;
use tachyon_log::{Error, Files, Verifier, verify::Verification};
use tracing::debug;

/// Bytes that are read at once: a small part of a group's time on the disk.
const SLICE_BYTES: u64 = 64 * 1024;
/// At least so long from the start of one pass over all shards to the next.
const PASS_NS: u64 = 60_000_000_000;

/// What a pass over one shard found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The shard.
    pub(crate) shard: u16,
    /// What is wrong, and what to do; `None` if all holds.
    pub(crate) damage: Option<String>,
}

/// One shard after the other, over and over.
pub(crate) struct Scrub<R> {
    bytes_per_s: u64,
    allowed_bytes: u64,
    looked_at: u64,
    pass_at: u64,
    /// Shards that this pass has still to read, with the sequence up to which all is durable.
    left: Vec<u16>,
    current: Option<(u16, R, Verification)>,
}

impl<R: Files> Scrub<R> {
    /// At this rate; 0 = never.
    pub(crate) const fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s, allowed_bytes: 0, looked_at: 0, pass_at: 0, left: Vec::new(), current: None }
    }

    /// Reads a slice if the rate allows it. `shards` are all there are; `open` gives a shard's files, the sequence up to which
    /// it is durable, and its key.
    pub(crate) fn step(
        &mut self,
        now: Now,
        shards: impl Iterator<Item = u16>,
        open: impl FnOnce(u16) -> Option<(R, u64, Verifier)>,
    ) -> Option<Found> {
        let passed = now.tick.saturating_sub(self.looked_at);
        self.looked_at = now.tick;
        let earned = u128::from(self.bytes_per_s) * u128::from(passed.min(1_000_000_000)) / 1_000_000_000;
        self.allowed_bytes = (self.allowed_bytes + u64::try_from(earned).unwrap_or(0)).min(16 * SLICE_BYTES);
        if self.allowed_bytes < SLICE_BYTES {
            // What is too little to count is kept for the next time.
            if earned == 0 {
                self.looked_at = now.tick - passed;
            }
            return None;
        }
        if self.current.is_none() && !self.begin(now, shards, open) {
            return None;
        }
        self.allowed_bytes -= SLICE_BYTES;
        let (shard, files, verification) = self.current.as_mut()?;
        let (shard, outcome) = (*shard, verification.step(files, SLICE_BYTES));
        let damage = match outcome {
            Ok(None) => return None,
            Ok(Some(report)) => {
                let grave = report.findings.iter().find(|damage| damage.fault.is_grave());
                grave.map(|damage| format!("damaged: {damage}; see `tachyon log verify`"))
            }
            // Retention took the segment that was to come next.
            Err(Error::Storage { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                self.current = None;
                return None;
            }
            Err(error) => Some(format!("cannot be read: {error}")),
        };
        self.current = None;
        debug!("log of shard {shard}: read again, {}", damage.as_deref().unwrap_or("all holds"));
        Some(Found { shard, damage })
    }

    fn begin(
        &mut self,
        now: Now,
        shards: impl Iterator<Item = u16>,
        open: impl FnOnce(u16) -> Option<(R, u64, Verifier)>,
    ) -> bool {
        if self.left.is_empty() {
            if now.tick < self.pass_at {
                return false;
            }
            self.left = shards.collect();
            self.pass_at = now.tick.saturating_add(PASS_NS);
        }
        let Some(shard) = self.left.pop() else { return false };
        let Some((mut files, durable, verifier)) = open(shard) else { return false };
        let begun = Verification::new(&mut files, Some(verifier), &[]);
        self.current = begun.ok().map(|verification| (shard, files, verification.until(durable)));
        self.current.is_some()
    }
}
