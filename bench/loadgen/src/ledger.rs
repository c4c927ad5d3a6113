//! The arithmetic that proves what became of everything: the node's three ledgers as differences over a run, and what was
//! lost before it and after it, each with a source that has a name.

use serde_json::{Value, json};
use std::collections::BTreeMap;

/// One ledger of the node: total = well + Σ reasons + held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Frames or messages seen, or copies due.
    pub total: u64,
    /// Frames admitted, messages accepted, or copies given to the device.
    pub well: u64,
    /// Copies not settled yet; 0 for the other two.
    pub held: u64,
    /// What ended otherwise, by reason code.
    pub reasons: BTreeMap<String, u64>,
}

impl Ledger {
    /// What ended otherwise, all reasons together.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.reasons.values().sum()
    }

    /// The count of one reason.
    #[must_use]
    pub fn reason(&self, code: &str) -> u64 {
        self.reasons.get(code).copied().unwrap_or(0)
    }

    /// What the ledger fails to account for; 0, always.
    #[must_use]
    pub fn gap(&self) -> i64 {
        self.total.wrapping_sub(self.well + self.held + self.refused()).cast_signed()
    }

    /// This ledger since `start`. Held copies are a level, not a count, so what was held at the start is part of what
    /// came in: it is added to the total.
    #[must_use]
    pub fn since(&self, start: &Self) -> Self {
        let reasons = self.reasons.iter().map(|(code, count)| (code.clone(), count.wrapping_sub(start.reason(code))));
        Self {
            total: self.total.wrapping_sub(start.total).wrapping_add(start.held),
            well: self.well.wrapping_sub(start.well),
            held: self.held,
            reasons: reasons.filter(|(_, count)| *count != 0).collect(),
        }
    }

    fn json(&self, total: &str, well: &str) -> Value {
        json!({ total: self.total, well: self.well, "refused": self.refused(), "held": self.held, "reasons": self.reasons })
    }
}

/// What one route's copies came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Copies due.
    pub due: u64,
    /// Copies given to the device.
    pub given: u64,
    /// Copies that ended otherwise.
    pub refused: u64,
}

/// All that the node counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledgers {
    /// Frames.
    pub frames: Ledger,
    /// Messages of admitted frames.
    pub messages: Ledger,
    /// Copies.
    pub copies: Ledger,
    /// Datagrams (skbs) the kernel dropped because the node's socket was full.
    pub socket_overflow: u64,
    /// Times the node's driver had no buffer to receive into.
    pub receive_starved: u64,
    /// Syscalls of the node's driver.
    pub syscalls: u64,
}

impl Ledgers {
    /// What was counted since `start`.
    #[must_use]
    pub fn since(&self, start: &Self) -> Self {
        Self {
            frames: self.frames.since(&start.frames),
            messages: self.messages.since(&start.messages),
            copies: self.copies.since(&start.copies),
            socket_overflow: self.socket_overflow.wrapping_sub(start.socket_overflow),
            receive_starved: self.receive_starved.wrapping_sub(start.receive_starved),
            syscalls: self.syscalls.wrapping_sub(start.syscalls),
        }
    }

    /// Whether nothing that comes in or goes out moved between two readings, and nothing is held.
    #[must_use]
    pub fn settled(&self, before: &Self) -> bool {
        self.frames == before.frames
            && self.messages == before.messages
            && self.copies == before.copies
            && self.socket_overflow == before.socket_overflow
            && self.copies.held == 0
    }

    /// The ledgers as the report shows them.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "frames": self.frames.json("seen", "admitted"),
            "messages": self.messages.json("seen", "accepted"),
            "copies": self.copies.json("due", "given"),
        })
    }
}

/// Reasons of copies that a device had and did not bring to a good end.
const IN_DOUBT: [&str; 3] = ["E_TX_CQ_ERROR", "E_TX_QP_RESET", "E_TX_TIMEOUT"];
/// All reasons of copies whose frame already had a number.
const REFUSED_BY_DEVICE: [&str; 5] =
    ["E_TX_CONGESTION", "E_TX_SUBMIT_FAIL", "E_TX_CQ_ERROR", "E_TX_QP_RESET", "E_TX_TIMEOUT"];

/// What our side counted, to be held against the node's ledgers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OurCounts {
    /// Frames handed to the driver towards the node.
    pub offered_frames: u64,
    /// Those among them that the driver then reported as not sent.
    pub send_errors: u64,
    /// Those among these that may have arrived all the same.
    pub unknown: u64,
    /// Most frames that one dropped datagram (skb) can stand for.
    pub frames_per_run_max: u64,
    /// Most copies that one frame to a subscriber holds.
    pub copies_per_frame_max: u64,
    /// Copies that subscribers read out of frames that verified.
    pub copies_received: u64,
    /// Frames of the node that never arrived, seen as gaps in their numbers.
    pub gap_frames: u64,
    /// Datagrams (skbs) the kernel dropped because a subscriber's socket was full.
    pub subscriber_overflow: u64,
    /// Frames a subscriber received and could not verify, or that came twice; must be 0.
    pub subscriber_anomalies: u64,
    /// Frames that the node's RDMA device or queues say they dropped before the node saw them.
    pub fabric_dropped: u64,
    /// Frames went as RDMA datagrams, which nobody resends and not every device counts when it drops one.
    pub datagrams: bool,
}

/// Where a loss happened; the names that reports use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nothing was lost.
    None,
    /// The node's socket was full.
    SocketOverflow,
    /// The node's driver had no buffer to receive into.
    ReceiveStarved,
    /// Our own driver could not send.
    SendErrors,
    /// A subscriber's socket was full.
    SubscriberOverflow,
    /// The node's RDMA device or queues counted it, see the report's `fabric`.
    FabricCounters,
    /// RDMA datagrams were lost that no device counted.
    FabricDatagrams,
    /// The frame numbers have gaps, and no counter says why.
    FrameGaps,
    /// No counter explains it.
    Unknown,
}

impl Source {
    /// The name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::SocketOverflow => "socket_overflow",
            Self::ReceiveStarved => "receive_starved",
            Self::SendErrors => "send_errors",
            Self::SubscriberOverflow => "subscriber_overflow",
            Self::FabricCounters => "fabric_counters",
            Self::FabricDatagrams => "fabric_datagrams",
            Self::FrameGaps => "frame_gaps",
            Self::Unknown => "unknown",
        }
    }
}

/// What all of it adds up to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// Frames offered that the node never saw.
    pub lost_before: u64,
    /// Why.
    pub before: Source,
    /// Copies the node gave to its device that no subscriber read.
    pub lost_after: u64,
    /// Why.
    pub after: Source,
    /// What no ledger and no named source explains; 0, or there is a bug. In frames, messages and copies together.
    pub unaccounted: u64,
    /// One line for each thing that does not add up.
    pub findings: Vec<String>,
}

impl Proof {
    /// Holds our counts against the node's, both over the same run and both settled.
    #[must_use]
    pub fn of(node: &Ledgers, ours: &OurCounts) -> Self {
        let mut proof = Self {
            lost_before: 0,
            before: Source::None,
            lost_after: 0,
            after: Source::None,
            unaccounted: 0,
            findings: Vec::new(),
        };
        for (name, ledger) in [("frames", &node.frames), ("messages", &node.messages), ("copies", &node.copies)] {
            proof.charge(ledger.gap().unsigned_abs(), &format!("{name} that the node's own ledger does not explain"));
        }
        proof.charge(node.copies.held, "copies still held after the run");
        proof.settle_before(node, ours);
        proof.settle_after(node, ours);
        proof.charge(ours.subscriber_anomalies, "frames that a subscriber could not verify or got twice");
        proof
    }

    fn charge(&mut self, count: u64, what: &str) {
        if count > 0 {
            self.unaccounted = self.unaccounted.saturating_add(count);
            self.findings.push(format!("{count} {what}"));
        }
    }

    fn settle_before(&mut self, node: &Ledgers, ours: &OurCounts) {
        let (offered, seen) = (ours.offered_frames, node.frames.total);
        // What surely never left cannot have been seen; of what nobody knows, any part can.
        let most = offered.saturating_sub(ours.send_errors.saturating_sub(ours.unknown));
        self.charge(seen.saturating_sub(most), "frames that the node saw and this program did not offer");
        self.lost_before = offered.saturating_sub(seen);
        if self.lost_before == 0 {
            return;
        }
        // A dropped skb is a run before it was split, so it stands for one frame at least and a whole run at most.
        let overflow_most = node.socket_overflow.saturating_mul(ours.frames_per_run_max);
        let (source, most) = if node.socket_overflow > 0 {
            (Source::SocketOverflow, overflow_most.saturating_add(ours.send_errors))
        } else if node.receive_starved > 0 {
            (Source::ReceiveStarved, u64::MAX)
        } else if ours.fabric_dropped > 0 {
            let counted = ours.fabric_dropped.saturating_add(ours.send_errors);
            (Source::FabricCounters, if ours.datagrams { u64::MAX } else { counted })
        } else if ours.send_errors > 0 && (!ours.datagrams || ours.send_errors >= self.lost_before) {
            (Source::SendErrors, ours.send_errors)
        } else if ours.datagrams {
            (Source::FabricDatagrams, u64::MAX)
        } else {
            (Source::Unknown, 0)
        };
        self.before = source;
        self.charge(self.lost_before.saturating_sub(most), "frames lost before the node that no counter explains");
    }

    fn settle_after(&mut self, node: &Ledgers, ours: &OurCounts) {
        let (given, received) = (node.copies.well, ours.copies_received);
        // What a device did not see acknowledged may have arrived all the same: the acknowledgement was lost, not the frame.
        let doubtful: u64 = IN_DOUBT.iter().map(|code| node.copies.reason(code)).sum();
        let excess = received.saturating_sub(given);
        self.charge(excess.saturating_sub(doubtful), "copies that subscribers read and the node did not give");
        self.lost_after = given.saturating_sub(received);
        if self.lost_after == 0 {
            // Frames are numbered before a device refuses them, and each carries one copy at least.
            let refused: u64 = REFUSED_BY_DEVICE.iter().map(|code| node.copies.reason(code)).sum();
            let gaps = ours.gap_frames.saturating_sub(refused);
            self.charge(gaps, "frames of the node missing although every copy arrived");
            return;
        }
        self.after = if ours.subscriber_overflow > 0 {
            Source::SubscriberOverflow
        } else if ours.gap_frames > 0 {
            Source::FrameGaps
        } else if ours.datagrams {
            Source::FabricDatagrams // the last ones of a shard leave no gap
        } else {
            Source::Unknown
        };
        if self.after == Source::Unknown {
            self.charge(self.lost_after, "copies lost after the node without a gap or a counter");
        } else if !ours.datagrams {
            let runs = ours.subscriber_overflow.saturating_mul(ours.frames_per_run_max);
            let most = ours.gap_frames.saturating_add(runs).saturating_mul(ours.copies_per_frame_max);
            let beyond = self.lost_after.saturating_sub(most);
            self.charge(beyond, "copies lost after the node, more than its missing frames can have held");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Ledger, Ledgers, OurCounts, Proof, Source};
    use proptest::prelude::*;

    fn ledger(total: u64, well: u64, reasons: &[(&str, u64)]) -> Ledger {
        let reasons = reasons.iter().map(|(code, count)| ((*code).to_owned(), *count)).collect();
        Ledger { total, well, held: 0, reasons }
    }

    fn node() -> Ledgers {
        Ledgers {
            frames: ledger(100, 90, &[("E_AUTH_REPLAY", 10)]),
            messages: ledger(900, 800, &[("E_GOV_THROTTLED", 100)]),
            copies: ledger(1600, 1500, &[("E_TX_CONGESTION", 100)]),
            ..Ledgers::default()
        }
    }

    fn ours() -> OurCounts {
        OurCounts {
            offered_frames: 100,
            copies_received: 1500,
            frames_per_run_max: 44,
            copies_per_frame_max: 22,
            ..OurCounts::default()
        }
    }

    #[test]
    fn what_adds_up_leaves_nothing_unaccounted() {
        let proof = Proof::of(&node(), &ours());
        assert_eq!((proof.unaccounted, proof.before, proof.after), (0, Source::None, Source::None));
    }

    #[test]
    fn what_a_device_did_not_see_acknowledged_may_have_arrived() {
        let reasons = [("E_TX_QP_RESET", 60), ("E_TX_TIMEOUT", 30), ("E_TX_CONGESTION", 10)];
        let failed = Ledgers { copies: ledger(1600, 1500, &reasons), ..node() };
        let of = |copies_received, gap_frames| Proof::of(&failed, &OurCounts { copies_received, gap_frames, ..ours() });
        assert_eq!((of(1590, 0).unaccounted, of(1591, 0).unaccounted), (0, 1), "congestion comes before the device");
        assert_eq!((of(1500, 100).unaccounted, of(1500, 101).unaccounted), (0, 1), "what was refused leaves gaps");
        assert_eq!((of(1499, 0).after, of(1499, 0).unaccounted), (Source::Unknown, 1));
    }

    #[test]
    fn of_sends_whose_end_is_unknown_the_node_may_have_seen_any_part_and_of_others_none() {
        // 110 frames: 98 ended well, 3 surely did not leave, and of 9 nobody knows.
        let failed = OurCounts { offered_frames: 110, send_errors: 12, unknown: 9, ..ours() };
        let of = |seen: u64, ours: &OurCounts| {
            let frames = ledger(seen, seen, &[]);
            Proof::of(&Ledgers { frames, ..node() }, ours).unaccounted
        };
        for (seen, unaccounted) in [(97, 1), (98, 0), (100, 0), (107, 0), (108, 1), (110, 3)] {
            assert_eq!(of(seen, &failed), unaccounted, "{seen}");
        }
        let known = OurCounts { unknown: 0, ..failed };
        assert_eq!((of(98, &known), of(99, &known), of(97, &known)), (0, 1, 1), "without doubt it is exact");
    }

    #[test]
    fn loss_with_a_counter_is_named_and_accounted() {
        let lossy = Ledgers { socket_overflow: 2, ..node() };
        let proof = Proof::of(&lossy, &OurCounts { offered_frames: 180, ..ours() });
        assert_eq!((proof.lost_before, proof.before, proof.unaccounted), (80, Source::SocketOverflow, 0));
    }

    #[test]
    fn loss_beyond_what_the_counter_can_stand_for_is_unaccounted() {
        let lossy = Ledgers { socket_overflow: 1, ..node() };
        let proof = Proof::of(&lossy, &OurCounts { offered_frames: 180, ..ours() });
        assert_eq!(proof.unaccounted, 80 - 44);
    }

    #[test]
    fn loss_without_a_counter_is_unaccounted() {
        let proof = Proof::of(&node(), &OurCounts { offered_frames: 101, ..ours() });
        assert_eq!((proof.before, proof.unaccounted), (Source::Unknown, 1));
        let proof = Proof::of(&node(), &OurCounts { copies_received: 1490, ..ours() });
        assert_eq!((proof.after, proof.unaccounted), (Source::Unknown, 10));
    }

    #[test]
    fn what_rdma_loses_is_named_by_its_counters_or_as_datagrams() {
        let lost = OurCounts { offered_frames: 110, ..ours() };
        let proof = Proof::of(&node(), &OurCounts { fabric_dropped: 7, ..lost });
        assert_eq!(
            (proof.before, proof.unaccounted),
            (Source::FabricCounters, 3),
            "connections lose nothing uncounted"
        );
        let datagrams = OurCounts { datagrams: true, ..lost };
        for (ours, source) in [
            (datagrams, Source::FabricDatagrams),
            (OurCounts { fabric_dropped: 7, ..datagrams }, Source::FabricCounters),
            (OurCounts { send_errors: 9, ..datagrams }, Source::FabricDatagrams),
            (OurCounts { send_errors: 10, ..datagrams }, Source::SendErrors),
        ] {
            let proof = Proof::of(&node(), &ours);
            assert_eq!((proof.lost_before, proof.before, proof.unaccounted), (10, source, 0));
        }
        let proof = Proof::of(&node(), &OurCounts { copies_received: 1480, ..ours() });
        assert_eq!((proof.after, proof.unaccounted), (Source::Unknown, 20));
        let proof = Proof::of(&node(), &OurCounts { copies_received: 1480, datagrams: true, ..ours() });
        assert_eq!((proof.after, proof.unaccounted), (Source::FabricDatagrams, 0));
    }

    #[test]
    fn copies_lost_after_the_node_are_named_by_their_gaps() {
        let proof = Proof::of(&node(), &OurCounts { copies_received: 1480, gap_frames: 1, ..ours() });
        assert_eq!((proof.lost_after, proof.after, proof.unaccounted), (20, Source::FrameGaps, 0));
        let proof = Proof::of(&node(), &OurCounts { copies_received: 1477, gap_frames: 1, ..ours() });
        assert_eq!((proof.lost_after, proof.unaccounted), (23, 1), "a frame holds 22");
        let overflow = OurCounts { copies_received: 500, subscriber_overflow: 1, gap_frames: 1, ..ours() };
        assert_eq!(Proof::of(&node(), &overflow).unaccounted, 1_000 - 45 * 22);
    }

    #[test]
    fn more_than_was_offered_is_unaccounted_too() {
        let proof = Proof::of(&node(), &OurCounts { offered_frames: 99, copies_received: 1501, ..ours() });
        assert_eq!((proof.lost_before, proof.lost_after, proof.unaccounted), (0, 0, 2));
    }

    #[test]
    fn a_ledger_that_does_not_close_is_found() {
        let mut broken = node();
        broken.messages.total += 3;
        let proof = Proof::of(&broken, &ours());
        assert_eq!(proof.unaccounted, 3, "{:?}", proof.findings);
    }

    proptest! {
        #[test]
        fn a_difference_of_ledgers_that_close_closes(
            a in proptest::collection::vec(0u64..1 << 40, 5), b in proptest::collection::vec(0u64..1 << 40, 5),
        ) {
            let at = |well: u64, held: u64, x: u64, y: u64| Ledger {
                total: well + held + x + y,
                held,
                ..ledger(0, well, &[("E_X", x), ("E_Y", y)])
            };
            let start = at(a[0], a[1], a[2], 0);
            let end = at(a[0] + b[0], b[1], a[2] + b[2], b[3]);
            prop_assert_eq!(end.since(&start).gap(), 0);
            prop_assert_eq!(end.since(&start).reason("E_X"), b[2]);
        }
    }
}
