//! What publishers count: what they offered, and what the node answered.

use crate::forge::Kind;
use tachyon_wire::Reason;

/// What was offered in one phase.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offered {
    /// Frames handed to the driver, forged and repeated ones included.
    pub frames: u64,
    /// Messages in them.
    pub messages: u64,
    /// Runs they were handed over in.
    pub runs: u64,
    /// Forged frames among them, in the order of [`Kind::ALL`].
    pub forged: [u64; Kind::ALL.len()],
    /// Repeated frames among them.
    pub replayed: u64,
    /// What became of frames that were kept until they are settled.
    pub settled: Settled,
    /// Frames handed over more than [`LATE_NS`](crate::schedule::LATE_NS) after their time.
    pub late: u64,
    /// The longest any run was handed over after its time, ns.
    pub behind_max_ns: u64,
    /// Frames planned for this phase and never offered, because the generator did not keep up.
    pub missed: u64,
    /// Frames that the driver then reported as not sent.
    pub send_errors: u64,
    /// Those among them that may have arrived all the same.
    pub unknown: u64,
    /// Frames not offered because a session's numbers were used up.
    pub exhausted: u64,
}

impl Offered {
    /// Counts a run of so many frames that did not end well.
    ///
    /// A device that had them and saw no good end of theirs may have brought them to the node: what was lost may have been the
    /// acknowledgement. Of several frames some may have gone before one could not; one alone that was never given to a
    /// device, or that the node had no room for, is surely not there.
    pub fn failed(&mut self, frames: u32, reason: Reason) {
        self.send_errors += u64::from(frames);
        let went = matches!(reason, Reason::TxCqError | Reason::TxQpReset | Reason::TxTimeout);
        if went || frames > 1 {
            self.unknown += u64::from(frames);
        }
    }

    /// Adds another phase or publisher to this one.
    pub fn merge(&mut self, other: &Self) {
        self.frames += other.frames;
        self.messages += other.messages;
        self.runs += other.runs;
        for (sum, count) in self.forged.iter_mut().zip(other.forged) {
            *sum += count;
        }
        self.replayed += other.replayed;
        self.settled.merge(&other.settled);
        self.late += other.late;
        self.behind_max_ns = self.behind_max_ns.max(other.behind_max_ns);
        self.missed += other.missed;
        self.send_errors += other.send_errors;
        self.unknown += other.unknown;
        self.exhausted += other.exhausted;
    }

    /// Forged frames of all kinds.
    #[must_use]
    pub fn forged_frames(&self) -> u64 {
        self.forged.iter().sum()
    }
}

/// What became of frames that are kept until they are settled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Times one of them was sent again; those are offered frames too, without messages of their own.
    pub retransmitted: u64,
    /// Settled at the class that was asked for, every message accepted.
    pub acked: u64,
    /// Settled, with a message refused.
    pub refused: u64,
    /// Sent so often in vain that nothing more was to be expected.
    pub given_up: u64,
}

impl Settled {
    /// Adds another phase's or publisher's.
    pub const fn merge(&mut self, other: &Self) {
        self.retransmitted += other.retransmitted;
        self.acked += other.acked;
        self.refused += other.refused;
        self.given_up += other.given_up;
    }
}

/// What the node answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replies {
    /// Acks.
    pub acks: u64,
    /// Nacks.
    pub nacks: u64,
    /// Heartbeats: the node restarted, or greets.
    pub heartbeats: u64,
    /// Frames that were none of these, or did not verify.
    pub anomalies: u64,
}

impl Replies {
    /// Adds another publisher's.
    pub const fn merge(&mut self, other: &Self) {
        self.acks += other.acks;
        self.nacks += other.nacks;
        self.heartbeats += other.heartbeats;
        self.anomalies += other.anomalies;
    }
}

#[cfg(test)]
mod tests {
    use super::Offered;
    use tachyon_wire::Reason;

    #[test]
    fn what_a_device_had_may_have_arrived_and_what_it_never_had_did_not() {
        let mut offered = Offered::default();
        for (frames, reason, unknown) in [
            (1, Reason::TxTimeout, 1),
            (1, Reason::TxQpReset, 2),
            (1, Reason::TxCqError, 3),
            (1, Reason::TxCongestion, 3),
            (1, Reason::TxSubmitFail, 3),
            (4, Reason::TxCongestion, 7),
        ] {
            offered.failed(frames, reason);
            assert_eq!(offered.unknown, unknown, "{reason:?}");
        }
        assert_eq!(offered.send_errors, 9);
    }
}
