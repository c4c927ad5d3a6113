//! The report: one JSON object that says what was offered, what became of it, and whether it adds up.

use crate::{
    args::Phase,
    clock::SECOND_NS,
    crew::Summary,
    forge::Kind,
    lanes::{Fabric, FabricReport, counts_losses},
    ledger::{Ledgers, OurCounts, Proof},
    offered::Offered,
    reader::Anomaly,
    schedule::Rate,
    session::Reading,
    subscriber::Heard,
};
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use tachyon_wire::{Ledger as Book, Reason};

/// One phase, over.
#[derive(Clone, Debug)]
pub struct PhaseDone {
    /// What was to be done.
    pub phase: Phase,
    /// What all publishers offered.
    pub offered: Offered,
    /// What each subscriber heard.
    pub heard: Vec<Heard>,
    /// The node's ledgers over this phase.
    pub ledgers: Ledgers,
    /// From the first intended time to when the node had seen everything, ns.
    pub active_ns: u64,
}

/// Everything a report is made of.
#[derive(Debug)]
pub struct Run {
    /// The driver.
    pub driver: &'static str,
    /// Seed of every random choice.
    pub seed: u64,
    /// Whether publishers' frames carried tags.
    pub tagged: bool,
    /// Messages in each frame.
    pub frame_messages: u32,
    /// Whether messages carried their intended time.
    pub timed: bool,
    /// Whether there was a node that counts; without one the report has no ledgers and proves nothing.
    pub counted: bool,
    /// Frames that a run takes at most.
    pub frames_most: u32,
    /// Copies that a frame to a subscriber takes at most.
    pub copies_most: u32,
    /// The phases, in order.
    pub phases: Vec<PhaseDone>,
    /// What was only known at the end, of each crew.
    pub summaries: Vec<Summary>,
    /// The node's counters before the first frame.
    pub start: Reading,
    /// The node's counters after the last one.
    pub end: Reading,
    /// Versions of the ruleset that were seen in force.
    pub ruleset_versions: Vec<u64>,
    /// What works with less than was asked for.
    pub degraded: Vec<String>,
    /// What became of the RDMA lanes, if that is how frames went.
    pub fabric: Option<(Fabric, FabricReport)>,
}

/// What RDMA is to reach through a node on hardware of the ConnectX class: latency at the median and at 99 %, in ns, and
/// messages a second.
const TARGET_P50_NS: u64 = 1_000;
const TARGET_P99_NS: u64 = 2_000;
const TARGET_PER_SECOND: u64 = 10_000_000;

impl Run {
    /// What all publishers offered in all phases.
    #[must_use]
    pub fn offered(&self) -> Offered {
        let mut sum = Offered::default();
        self.phases.iter().for_each(|phase| sum.merge(&phase.offered));
        sum
    }

    /// What each subscriber heard in all phases.
    #[must_use]
    pub fn heard(&self) -> Vec<Heard> {
        let mut sums: Vec<Heard> = Vec::new();
        for phase in &self.phases {
            sums.resize_with(sums.len().max(phase.heard.len()), Heard::default);
            sums.iter_mut().zip(&phase.heard).for_each(|(sum, heard)| sum.merge(heard));
        }
        sums
    }

    /// Our counts, to be held against the node's.
    #[must_use]
    pub fn our_counts(&self) -> OurCounts {
        let offered = self.offered();
        let subscribers = || self.summaries.iter().flat_map(|summary| &summary.subscribers);
        OurCounts {
            offered_frames: offered.frames,
            send_errors: offered.send_errors,
            unknown: offered.unknown,
            frames_per_run_max: u64::from(self.frames_most),
            copies_per_frame_max: u64::from(self.copies_most),
            copies_received: self.heard().iter().map(|heard| heard.copies).sum(),
            gap_frames: subscribers().map(|subscriber| subscriber.gap_frames).sum(),
            subscriber_overflow: subscribers().map(|subscriber| subscriber.overflow).sum(),
            subscriber_anomalies: subscribers().flat_map(|subscriber| subscriber.anomalies.values()).sum(),
            fabric_dropped: self.node_fabric().iter().filter(|(name, _)| counts_losses(name)).map(|(_, n)| n).sum(),
            datagrams: self.fabric.as_ref().is_some_and(|(fabric, _)| *fabric == Fabric::RdmaDatagram),
        }
    }

    /// What the node's RDMA device and queues counted in the run.
    fn node_fabric(&self) -> BTreeMap<String, u64> {
        let before = |name: &String| self.start.fabric.get(name).copied().unwrap_or(0);
        let since = self.end.fabric.iter().map(|(name, count)| (name.clone(), count.saturating_sub(before(name))));
        since.filter(|(_, count)| *count > 0).collect()
    }

    /// The RDMA lanes, and what was reached on them of what is asked for.
    fn fabric_json(&self, ledgers: &Ledgers, whole: &Heard) -> Value {
        let Some((fabric, report)) = &self.fabric else { return json!({}) };
        let residence = residence(&self.start, &self.end);
        let end_to_end = self.latency_json(&whole.latency);
        let at_most = |name: &str, measured: &Value, most: u64| {
            json!({
                "name": name,
                "unit": "ns",
                "measured": measured,
                "at_most": most,
                "reached": measured.as_u64().is_some_and(|ns| ns <= most),
            })
        };
        let rate = per_second(ledgers.messages.well, self.active_ns());
        json!({
            "fabric": report.json(*fabric, &self.node_fabric()),
            "targets": [
                at_most("residence p50", &residence["p50"], TARGET_P50_NS),
                at_most("residence p99", &residence["p99"], TARGET_P99_NS),
                at_most("end to end p50", &end_to_end["p50"], TARGET_P50_NS),
                at_most("end to end p99", &end_to_end["p99"], TARGET_P99_NS),
                {
                    "name": "messages/s",
                    "unit": "1/s",
                    "measured": rate,
                    "at_least": TARGET_PER_SECOND,
                    "reached": rate >= TARGET_PER_SECOND,
                },
            ],
        })
    }

    /// The report.
    #[must_use]
    pub fn json(&self) -> Value {
        let (offered, heard) = (self.offered(), self.heard());
        let mut whole = Heard::default();
        heard.iter().for_each(|part| whole.merge(part));
        merged([
            self.offered_json(&offered),
            self.subscribers_json(&heard, &whole),
            json!({
                "driver": self.driver,
                "seed": self.seed,
                "active_seconds": seconds(self.active_ns()),
                "phases": self.phases.iter().map(|phase| self.phase_json(phase)).collect::<Vec<_>>(),
                "degraded": self.degraded,
            }),
            if self.counted { self.proof_json(&offered) } else { self.unproved_json(&offered, &whole) },
            self.fabric_json(&self.end.ledgers.since(&self.start.ledgers), &whole),
        ])
    }

    /// From the first intended time to when everything was seen, over all phases.
    fn active_ns(&self) -> u64 {
        self.phases.iter().map(|phase| phase.active_ns).sum()
    }

    /// What the node's ledgers say, held against our counts.
    fn proof_json(&self, offered: &Offered) -> Value {
        let ledgers = self.end.ledgers.since(&self.start.ledgers);
        let ours = self.our_counts();
        let proof = Proof::of(&ledgers, &ours);
        let expected = expected_at_least(offered, self.tagged, self.frame_messages, proof.lost_before);
        let unexpected = unexpected(&expected, &ledgers);
        json!({
            "lost_before_us": {
                "frames": proof.lost_before,
                "source": proof.before.name(),
                "socket_overflow": ledgers.socket_overflow,
                "receive_starved": ledgers.receive_starved,
                "send_errors": ours.send_errors,
                "unknown": ours.unknown,
            },
            "lost_after_us": {
                "copies": proof.lost_after,
                "source": proof.after.name(),
                "gap_frames": ours.gap_frames,
                "subscriber_overflow": ours.subscriber_overflow,
            },
            "ledgers": ledgers.json(),
            "unaccounted": proof.unaccounted,
            "findings": proof.findings,
            "expected_at_least": expected,
            "unexpected": unexpected,
            "messages_per_second": per_second(ledgers.messages.well, self.active_ns()),
            "residence_ns": residence(&self.start, &self.end),
            "syscalls_per_message": ratio(ledgers.syscalls, ledgers.messages.total),
            "ruleset_versions": self.ruleset_versions,
            "heap_calls": self.end.heap_calls.saturating_sub(self.start.heap_calls),
        })
    }

    /// What can be said where nobody but us counts: how much was lost on the way, not where.
    fn unproved_json(&self, offered: &Offered, whole: &Heard) -> Value {
        let ours = self.our_counts();
        json!({
            "lost_on_the_way": {
                "frames": offered.frames.saturating_sub(whole.frames),
                "gap_frames": ours.gap_frames,
                "subscriber_overflow": ours.subscriber_overflow,
                "send_errors": ours.send_errors,
            },
            "ledgers": null,
            "unaccounted": null,
            "messages_per_second": per_second(whole.copies, self.active_ns()),
        })
    }

    fn offered_json(&self, offered: &Offered) -> Value {
        let kinds = Kind::ALL.iter().zip(offered.forged).filter(|(_, frames)| *frames > 0).map(|(kind, frames)| {
            let reason = kind.reason(self.tagged);
            (kind.name().to_owned(), json!({ "frames": frames, "ends_in": reason.code() }))
        });
        let mut replies = crate::offered::Replies::default();
        self.summaries.iter().for_each(|summary| replies.merge(&summary.replies));
        json!({
            "offered_frames": offered.frames,
            "offered_messages": offered.messages,
            "offered_runs": offered.runs,
            "forged": { "frames": offered.forged_frames(), "kinds": kinds.collect::<Map<_, _>>() },
            "replayed": { "frames": offered.replayed, "ends_in": Reason::Replay.code() },
            "settled": {
                "acked_frames": offered.settled.acked,
                "refused_frames": offered.settled.refused,
                "retransmitted_frames": offered.settled.retransmitted,
                "given_up_frames": offered.settled.given_up,
            },
            "behind": {
                "late_frames": offered.late,
                "missed_frames": offered.missed,
                "behind_max_ns": offered.behind_max_ns,
                "exhausted_frames": offered.exhausted,
            },
            "replies": {
                "acks": replies.acks,
                "nacks": replies.nacks,
                "heartbeats": replies.heartbeats,
                "anomalies": replies.anomalies,
            },
        })
    }

    fn subscribers_json(&self, heard: &[Heard], whole: &Heard) -> Value {
        let summaries = self.summaries.iter().flat_map(|summary| &summary.subscribers);
        let each = heard.iter().zip(summaries).map(|(heard, summary)| {
            let anomalies =
                summary.anomalies.iter().map(|(anomaly, count)| (Anomaly::name(*anomaly).to_owned(), json!(count)));
            json!({
                "copies": heard.copies,
                "doubles": heard.doubles,
                "frames": heard.frames,
                "gap_frames": summary.gap_frames,
                "overflow": summary.overflow,
                "anomalies": anomalies.collect::<Map<_, _>>(),
            })
        });
        json!({
            "received_copies": whole.copies,
            "doubles_dropped": whole.doubles,
            "subscribers": each.collect::<Vec<_>>(),
            "routes": self.routes_json(whole),
            "end_to_end_ns": self.latency_json(&whole.latency),
        })
    }

    /// What the node says about each route over the run, beside what was read.
    fn routes_json(&self, whole: &Heard) -> Value {
        let mut routes: BTreeMap<u32, Value> = BTreeMap::new();
        for (route_id, end) in &self.end.routes {
            let start = self.start.routes.get(route_id).copied().unwrap_or_default();
            let received = whole.routes.get(route_id).copied().unwrap_or(0);
            let due = end.due.saturating_sub(start.due);
            if due > 0 || received > 0 {
                let given = end.given.saturating_sub(start.given);
                let refused = end.refused.saturating_sub(start.refused);
                routes
                    .insert(*route_id, json!({ "due": due, "given": given, "refused": refused, "received": received }));
            }
        }
        for (route_id, received) in &whole.routes {
            routes.entry(*route_id).or_insert_with(|| json!({ "received": received }));
        }
        routes.into_iter().map(|(route_id, value)| (route_id.to_string(), value)).collect::<Map<_, _>>().into()
    }

    fn latency_json(&self, latency: &Histogram<u64>) -> Value {
        if !self.timed || latency.is_empty() {
            return Value::Null;
        }
        json!({
            "p50": latency.value_at_quantile(0.5),
            "p99": latency.value_at_quantile(0.99),
            "p999": latency.value_at_quantile(0.999),
            "max": latency.max(),
            "count": latency.len(),
        })
    }

    /// One phase as the report shows it.
    #[must_use]
    pub fn phase_json(&self, done: &PhaseDone) -> Value {
        let mut whole = Heard::default();
        done.heard.iter().for_each(|part| whole.merge(part));
        let rate = match done.phase.rate {
            Rate::Max => json!("max"),
            Rate::PerSecond(rate) => json!(rate),
        };
        let more = json!({
            "name": done.phase.name,
            "seconds": done.phase.seconds,
            "rate": rate,
            "received_copies": whole.copies,
            "end_to_end_ns": self.latency_json(&whole.latency),
        });
        let counted = if self.counted {
            json!({
                "ledgers": done.ledgers.json(),
                "messages_per_second": per_second(done.ledgers.messages.well, done.active_ns),
                "lost_before_us": done.offered.frames.saturating_sub(done.ledgers.frames.total),
            })
        } else {
            json!({ "ledgers": null, "messages_per_second": per_second(whole.copies, done.active_ns) })
        };
        let offered = json!({
            "offered_frames": done.offered.frames,
            "offered_messages": done.offered.messages,
            "forged_frames": done.offered.forged_frames(),
            "replayed_frames": done.offered.replayed,
            "late_frames": done.offered.late,
            "missed_frames": done.offered.missed,
        });
        merged([more, counted, offered])
    }
}

/// What each reason must come to at least: what was sent to end in it, less everything that may have been lost before it
/// was judged. Reasons of the message ledger count messages.
#[must_use]
pub fn expected_at_least(
    offered: &Offered,
    tagged: bool,
    frame_messages: u32,
    lost: u64,
) -> BTreeMap<&'static str, u64> {
    let mut sent: BTreeMap<Reason, u64> = BTreeMap::new();
    for (kind, frames) in Kind::ALL.iter().zip(offered.forged) {
        *sent.entry(kind.reason(tagged)).or_default() += frames;
    }
    // A repeat whose original was lost is judged as if it were the original, so losses count here too.
    *sent.entry(Reason::Replay).or_default() += offered.replayed;
    let least = sent.into_iter().map(|(reason, frames)| {
        let frames = frames.saturating_sub(lost);
        let each = if reason.ledger() == Book::Messages { u64::from(frame_messages) } else { 1 };
        (reason.code(), frames * each)
    });
    least.filter(|(_, count)| *count > 0).collect()
}

/// Reasons that came to less than they must.
fn unexpected(expected: &BTreeMap<&'static str, u64>, ledgers: &Ledgers) -> Vec<String> {
    let short = expected.iter().filter_map(|(code, least)| {
        let counted = ledgers.frames.reason(code) + ledgers.messages.reason(code);
        (counted < *least).then(|| format!("{code}: at least {least} were sent to end so, the node counted {counted}"))
    });
    short.collect()
}

/// Quantiles of what was added to the node's residence histogram between two readings.
fn residence(start: &Reading, end: &Reading) -> Value {
    let since = end.residence.iter().map(|(bucket, count)| {
        let before = start.residence.get(bucket).copied().unwrap_or(0);
        (bucket.1, count.saturating_sub(before))
    });
    let buckets: Vec<(u64, u64)> = since.filter(|(_, count)| *count > 0).collect();
    let total: u64 = buckets.iter().map(|(_, count)| count).sum();
    let Some((last, _)) = buckets.last().copied() else { return Value::Null };
    // The node keeps one maximum since its start; it belongs to this run only if it rose, or lies in our last bucket.
    let max = if end.residence_max > start.residence_max { end.residence_max } else { last.min(end.residence_max) };
    let quantile = |permille: u64| {
        let rank = (total * permille).div_ceil(1000).max(1);
        let mut seen = 0;
        let found = buckets.iter().find(|(_, count)| {
            seen += count;
            seen >= rank
        });
        found.map_or(max, |(highest, _)| (*highest).min(max))
    };
    json!({ "p50": quantile(500), "p99": quantile(990), "p999": quantile(999), "max": max, "count": total })
}

#[expect(clippy::cast_precision_loss, reason = "a report shows far fewer than 53 bits")]
fn ratio(over: u64, under: u64) -> Value {
    if under == 0 { Value::Null } else { json!(over as f64 / under as f64) }
}

#[expect(clippy::cast_precision_loss, reason = "a report shows far fewer than 53 bits")]
fn seconds(ns: u64) -> f64 {
    ns as f64 / SECOND_NS as f64
}

fn per_second(count: u64, ns: u64) -> u64 {
    let rate = u128::from(count) * u128::from(SECOND_NS) / u128::from(ns.max(1));
    u64::try_from(rate).unwrap_or(u64::MAX)
}

fn merged(parts: impl IntoIterator<Item = Value>) -> Value {
    let mut whole = Map::new();
    for part in parts {
        if let Value::Object(part) = part {
            whole.extend(part);
        }
    }
    whole.into()
}

#[cfg(test)]
mod tests {
    use super::{expected_at_least, residence};
    use crate::{forge::Kind, offered::Offered, session::Reading};
    use std::collections::BTreeMap;

    #[test]
    fn expectations_sum_kinds_of_one_reason_and_allow_for_losses() {
        let mut offered = Offered { replayed: 7, ..Offered::default() };
        for (kind, frames) in [(Kind::Damaged, 3), (Kind::ForeignKey, 4), (Kind::ForeignSender, 5)] {
            let index = Kind::ALL.iter().position(|other| *other == kind).unwrap();
            offered.forged[index] = frames;
        }
        let exact = expected_at_least(&offered, true, 22, 0);
        assert_eq!(exact, BTreeMap::from([("E_AUTH_BAD_TAG", 7), ("E_AUTH_REPLAY", 7), ("E_AUTH_SENDER", 110)]));
        let lossy = expected_at_least(&offered, true, 22, 5);
        assert_eq!(lossy, BTreeMap::from([("E_AUTH_BAD_TAG", 2), ("E_AUTH_REPLAY", 2)]));
    }

    #[test]
    fn residence_is_what_came_between_two_readings() {
        let reading = |buckets: &[((u64, u64), u64)], residence_max| Reading {
            residence: buckets.iter().copied().collect(),
            residence_max,
            ..Reading::default()
        };
        let start = reading(&[((100, 103), 5), ((900_000, 999_999), 1)], 950_000);
        let end = reading(&[((100, 103), 995), ((200, 207), 10), ((900_000, 999_999), 1)], 950_000);
        let found = residence(&start, &end);
        assert_eq!((found["p50"].as_u64(), found["p999"].as_u64()), (Some(103), Some(207)));
        assert_eq!(found["max"].as_u64(), Some(207), "the old maximum is not ours");
    }
}
