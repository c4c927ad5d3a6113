//! The three ledgers and what else a worker counts. A worker counts in its private copy; `segment` publishes it.

use crate::reason::REASON_SLOTS;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Buckets of a [`Histogram`]: 32 per power of two (3 % wide) up to 2³⁶ ns, 69 s.
pub const HISTOGRAM_BUCKETS: usize = 32 * 32;
/// Routes that are counted one by one; the rest share the last entry.
pub const ROUTES_COUNTED: usize = 256;

/// A worker's counters, native endian, all `u64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Counters {
    /// Frames that the driver handed over.
    pub frames_seen: u64,
    /// Frames whose messages were judged, and frames without messages that were settled.
    pub frames_admitted: u64,
    /// Frames refused, by reason number.
    pub frames_refused: [u64; REASON_SLOTS],
    /// Messages in admitted frames.
    pub messages_seen: u64,
    /// Messages accepted.
    pub messages_accepted: u64,
    /// Messages refused, by reason number.
    pub messages_refused: [u64; REASON_SLOTS],
    /// Σ accepted × fan-out.
    pub copies_due: u64,
    /// Copies given to the device.
    pub copies_given: u64,
    /// Copies that ended otherwise, by reason number.
    pub copies_refused: [u64; REASON_SLOTS],
    /// Copies in open frames, in queues or in flight.
    pub copies_held: u64,
    /// Accepted messages of durable topics that wait for the truth log; their copies come due when they are forwarded.
    pub messages_held: u64,
    /// Turns that the truth log was told of.
    pub turns_recorded: u64,
    /// Turns that it should have been told of, and was not.
    pub turns_lost: u64,
    /// Bytes of those it was told of, without the frames that are in buffers.
    pub bytes_recorded: u64,
    /// Refused messages that were copied to the quarantine ring.
    pub quarantined: u64,
    /// Bursts that received at least one buffer.
    pub bursts: u64,
    /// Turns of the loop.
    pub turns: u64,
    /// Bytes received and sent, headers included.
    pub bytes_received: u64,
    /// Bytes given to the device.
    pub bytes_sent: u64,
    /// Frames given to the device.
    pub frames_sent: u64,
    /// Acks and nacks among them.
    pub replies_sent: u64,
    /// Acks and nacks that could not be sent (no buffer, or the device refused); the publisher asks again.
    pub replies_lost: u64,
    /// Syscalls the driver made.
    pub syscalls: u64,
    /// Datagrams the kernel dropped because a socket was full (counts skbs, not GRO segments).
    pub socket_overflow: u64,
    /// Times the driver had no free buffer to receive into.
    pub receive_starved: u64,
    /// Version of the ruleset in force; 0 = none.
    pub ruleset_version: u64,
    /// Rulesets adopted.
    pub ruleset_swaps: u64,
    /// Pressure level 0–4.
    pub pressure: u64,
    /// Free buffers of the worker's pool.
    pub buffers_free: u64,
    /// Tick of the last burst in ns.
    pub tick: u64,
}

impl Counters {
    /// All zero.
    pub const ZERO: Self = Self {
        frames_seen: 0,
        frames_admitted: 0,
        frames_refused: [0; REASON_SLOTS],
        messages_seen: 0,
        messages_accepted: 0,
        messages_refused: [0; REASON_SLOTS],
        copies_due: 0,
        copies_given: 0,
        copies_refused: [0; REASON_SLOTS],
        copies_held: 0,
        messages_held: 0,
        turns_recorded: 0,
        turns_lost: 0,
        bytes_recorded: 0,
        quarantined: 0,
        bursts: 0,
        turns: 0,
        bytes_received: 0,
        bytes_sent: 0,
        frames_sent: 0,
        replies_sent: 0,
        replies_lost: 0,
        syscalls: 0,
        socket_overflow: 0,
        receive_starved: 0,
        ruleset_version: 0,
        ruleset_swaps: 0,
        pressure: 0,
        buffers_free: 0,
        tick: 0,
    };

    /// What each ledger fails to account for: frames, messages, copies. All zero, always.
    #[must_use]
    pub fn unaccounted(&self) -> [i64; 3] {
        let gap = |total: u64, parts: u64| total.wrapping_sub(parts).cast_signed();
        let sum = |reasons: &[u64]| reasons.iter().sum::<u64>();
        [
            gap(self.frames_seen, self.frames_admitted + sum(&self.frames_refused)),
            gap(self.messages_seen, self.messages_accepted + sum(&self.messages_refused)),
            gap(self.copies_due, self.copies_given + sum(&self.copies_refused) + self.copies_held),
        ]
    }
}

/// What one route's copies came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RouteCounters {
    /// Messages accepted onto this route.
    pub accepted: u64,
    /// Copies due.
    pub due: u64,
    /// Copies given to the device.
    pub given: u64,
    /// Copies that ended otherwise.
    pub refused: u64,
}

/// A log-linear histogram of nanoseconds: values below 32 exactly, then 32 buckets per power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Histogram {
    /// Counts by bucket.
    pub buckets: [u64; HISTOGRAM_BUCKETS],
    /// Largest value seen.
    pub max: u64,
}

impl Histogram {
    /// Empty.
    pub const ZERO: Self = Self { buckets: [0; HISTOGRAM_BUCKETS], max: 0 };

    /// Adds `count` values of `ns` nanoseconds.
    #[inline]
    pub fn record(&mut self, ns: u64, count: u64) {
        let index = Self::index(ns);
        self.buckets[index] += count;
        self.max = self.max.max(ns);
    }

    /// The bucket of a value; values past the end share the last one.
    #[inline]
    #[must_use]
    pub fn index(ns: u64) -> usize {
        if ns < 32 {
            return usize::try_from(ns).unwrap_or(usize::MAX);
        }
        let exponent = 63 - ns.leading_zeros(); // ≥ 5
        let within = (ns >> (exponent - 5)) & 31;
        let index = (u64::from(exponent - 4) << 5) | within;
        usize::try_from(index).unwrap_or(usize::MAX).min(HISTOGRAM_BUCKETS - 1)
    }

    /// The smallest value that falls into a bucket.
    #[must_use]
    pub fn lowest(index: usize) -> u64 {
        let index = index as u64;
        if index < 32 { index } else { (32 + (index & 31)) << ((index >> 5) - 1) }
    }

    /// The value below which `permille`/1000 of the counted values lie (upper edge of its bucket), 0 if empty.
    #[must_use]
    pub fn quantile(&self, permille: u64) -> u64 {
        let total: u64 = self.buckets.iter().sum();
        let rank = (total * permille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if total > 0 && seen >= rank {
                return if index + 1 == HISTOGRAM_BUCKETS {
                    self.max
                } else {
                    self.max.min(Self::lowest(index + 1) - 1)
                };
            }
        }
        0
    }

    /// Adds another histogram to this one.
    pub fn merge(&mut self, other: &Self) {
        for (sum, value) in self.buckets.iter_mut().zip(other.buckets) {
            *sum += value;
        }
        self.max = self.max.max(other.max);
    }
}

/// All that a worker publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct WorkerStats {
    /// The ledgers.
    pub counters: Counters,
    /// First byte seen to handed to the kernel, one value per message, ns.
    pub residence: Histogram,
    /// Copies by route index.
    pub routes: [RouteCounters; ROUTES_COUNTED],
}
