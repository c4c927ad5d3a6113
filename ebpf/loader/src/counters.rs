//! The ledger of an interface.

use crate::contract;
use tachyon_wire::Reason;

const ENDS: usize = contract::ENDS as usize;

/// What became of the packets that reached the device since the tables were made, all CPUs together.
///
/// While packets arrive, one on each CPU may have been seen and not ended yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    ends: [u64; ENDS],
}

impl Counters {
    /// From the values of each CPU.
    pub(crate) fn sum<'a>(cpus: impl IntoIterator<Item = &'a Vec<u8>>) -> Self {
        let mut ends = [0_u64; ENDS];
        for cpu in cpus {
            for (end, bytes) in ends.iter_mut().zip(cpu.as_chunks::<8>().0) {
                *end = end.wrapping_add(u64::from_ne_bytes(*bytes));
            }
        }
        Self { ends }
    }

    /// Packets the program was given.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.ends[contract::SEEN as usize]
    }

    /// Packets that are not ours, given to the kernel untouched.
    #[must_use]
    pub fn passed_foreign(&self) -> u64 {
        self.ends[contract::PASSED_FOREIGN as usize]
    }

    /// Frames given to the kernel's sockets.
    #[must_use]
    pub fn passed_ours(&self) -> u64 {
        self.ends[contract::PASSED_OURS as usize]
    }

    /// Frames given to an AF_XDP socket. The kernel counts those for which it had no room with the socket.
    #[must_use]
    pub fn redirected(&self) -> u64 {
        self.ends[contract::REDIRECTED as usize]
    }

    /// Packets dropped for this reason.
    #[must_use]
    pub fn dropped(&self, reason: Reason) -> u64 {
        self.ends[reason.index()]
    }

    /// All packets dropped.
    #[must_use]
    pub fn dropped_all(&self) -> u64 {
        self.ends[..contract::PASSED_FOREIGN as usize].iter().sum()
    }

    /// Packets seen that ended nowhere. Zero whenever no packet is being judged.
    #[must_use]
    pub fn unaccounted(&self) -> i64 {
        let ended = self.dropped_all() + self.passed_foreign() + self.passed_ours() + self.redirected();
        self.seen().wrapping_sub(ended).cast_signed()
    }
}
