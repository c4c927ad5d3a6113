//! The two clocks: one that never jumps, for schedules and latencies, and the wall clock that frames inform by.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds in a second.
pub const SECOND_NS: u64 = 1_000_000_000;

fn read(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(SECOND_NS).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// CLOCK_MONOTONIC in nanoseconds: one time line for every thread and process of this host.
#[must_use]
pub fn now_ns() -> u64 {
    read(ClockId::Monotonic)
}

/// Unix nanoseconds, for `sent_ns`.
#[must_use]
pub fn unix_ns() -> u64 {
    read(ClockId::Realtime)
}
