//! What happened between two readings of the counters.

use std::collections::BTreeMap;
use tachyon_proto::v1;

/// One interval: counts are those of the interval; levels (held copies, free buffers, state, pressure) are those at its
/// end.
pub(crate) struct Interval {
    /// Length in nanoseconds, at least 1.
    pub(crate) elapsed_ns: u64,
    /// What was counted in it.
    pub(crate) counts: v1::StatsResponse,
}

impl Interval {
    /// `None` where the readings cannot be compared: `tachyond` was started anew between them, or no time has passed.
    pub(crate) fn between(before: &v1::StatsResponse, after: &v1::StatsResponse) -> Option<Self> {
        let elapsed_ns = after.read_ns.checked_sub(before.read_ns).filter(|elapsed| *elapsed > 0)?;
        if before.boot_id != after.boot_id {
            return None;
        }
        let mut counts = after.clone();
        counts.ledgers = Some(ledgers(before.ledgers.as_ref(), after.ledgers.as_ref()));
        counts.activity = Some(activity(before.activity.as_ref(), after.activity.as_ref()));
        counts.residence = Some(histogram(before.residence.as_ref(), after.residence.as_ref()));
        for worker in &mut counts.workers {
            let before = before.workers.iter().find(|earlier| earlier.worker == worker.worker);
            worker.ledgers = Some(ledgers(before.and_then(|worker| worker.ledgers.as_ref()), worker.ledgers.as_ref()));
            worker.residence =
                Some(histogram(before.and_then(|worker| worker.residence.as_ref()), worker.residence.as_ref()));
        }
        for route in &mut counts.routes {
            let same = |earlier: &&v1::Route| earlier.index == route.index && earlier.route_id == route.route_id;
            if let Some(before) = before.routes.iter().find(same) {
                subtract_route(route, before);
            }
        }
        Some(Self { elapsed_ns, counts })
    }

    /// So many in the interval, as so many per second.
    pub(crate) fn per_second(&self, counted: u64) -> u64 {
        let rate = u128::from(counted) * 1_000_000_000 / u128::from(self.elapsed_ns.max(1));
        u64::try_from(rate).unwrap_or(u64::MAX)
    }
}

fn ledgers(before: Option<&v1::Ledgers>, after: Option<&v1::Ledgers>) -> v1::Ledgers {
    let (before, mut after) = (before.cloned().unwrap_or_default(), after.cloned().unwrap_or_default());
    if let (Some(before), Some(after)) = (&before.frames, &mut after.frames) {
        after.seen = after.seen.saturating_sub(before.seen);
        after.admitted = after.admitted.saturating_sub(before.admitted);
        subtract_reasons(&mut after.reasons, &before.reasons);
    }
    if let (Some(before), Some(after)) = (&before.messages, &mut after.messages) {
        after.seen = after.seen.saturating_sub(before.seen);
        after.accepted = after.accepted.saturating_sub(before.accepted);
        subtract_reasons(&mut after.reasons, &before.reasons);
    }
    if let (Some(before), Some(after)) = (&before.copies, &mut after.copies) {
        after.due = after.due.saturating_sub(before.due);
        after.given = after.given.saturating_sub(before.given);
        subtract_reasons(&mut after.reasons, &before.reasons);
    }
    after
}

/// Leaves only what happened.
fn subtract_reasons(after: &mut BTreeMap<String, u64>, before: &BTreeMap<String, u64>) {
    after.retain(|code, count| {
        *count = count.saturating_sub(before.get(code).copied().unwrap_or(0));
        *count > 0
    });
}

fn activity(before: Option<&v1::Activity>, after: Option<&v1::Activity>) -> v1::Activity {
    let (before, after) = (before.copied().unwrap_or_default(), after.copied().unwrap_or_default());
    v1::Activity {
        quarantined: after.quarantined.saturating_sub(before.quarantined),
        bursts: after.bursts.saturating_sub(before.bursts),
        turns: after.turns.saturating_sub(before.turns),
        bytes_received: after.bytes_received.saturating_sub(before.bytes_received),
        bytes_sent: after.bytes_sent.saturating_sub(before.bytes_sent),
        frames_sent: after.frames_sent.saturating_sub(before.frames_sent),
        replies_sent: after.replies_sent.saturating_sub(before.replies_sent),
        replies_lost: after.replies_lost.saturating_sub(before.replies_lost),
        syscalls: after.syscalls.saturating_sub(before.syscalls),
        socket_overflow: after.socket_overflow.saturating_sub(before.socket_overflow),
        receive_starved: after.receive_starved.saturating_sub(before.receive_starved),
        ruleset_swaps: after.ruleset_swaps.saturating_sub(before.ruleset_swaps),
        buffers_free: after.buffers_free,
    }
}

/// The percentiles are those of the values counted in the interval, each the upper end of its bucket.
fn histogram(before: Option<&v1::Histogram>, after: Option<&v1::Histogram>) -> v1::Histogram {
    let earlier: BTreeMap<u64, u64> = before
        .map(|before| before.buckets.iter().map(|bucket| (bucket.lowest, bucket.count)).collect())
        .unwrap_or_default();
    let mut buckets = after.map(|after| after.buckets.clone()).unwrap_or_default();
    buckets.retain_mut(|bucket| {
        bucket.count = bucket.count.saturating_sub(earlier.get(&bucket.lowest).copied().unwrap_or(0));
        bucket.count > 0
    });
    v1::Histogram {
        count: buckets.iter().map(|bucket| bucket.count).sum(),
        p50: percentile(&buckets, 500),
        p99: percentile(&buckets, 990),
        p999: percentile(&buckets, 999),
        max: percentile(&buckets, 1_000),
        buckets,
    }
}

/// The value that `per_mille` of 1,000 values do not pass; 0 where there is none.
fn percentile(buckets: &[v1::Bucket], per_mille: u64) -> u64 {
    let total: u64 = buckets.iter().map(|bucket| bucket.count).sum();
    let rank = (u128::from(total) * u128::from(per_mille)).div_ceil(1_000);
    let mut passed = 0_u128;
    for bucket in buckets {
        passed += u128::from(bucket.count);
        if passed >= rank {
            return bucket.highest;
        }
    }
    0
}

fn subtract_route(route: &mut v1::Route, before: &v1::Route) {
    route.accepted = route.accepted.saturating_sub(before.accepted);
    route.due = route.due.saturating_sub(before.due);
    route.given = route.given.saturating_sub(before.given);
    route.refused = route.refused.saturating_sub(before.refused);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(lowest: u64, highest: u64, count: u64) -> v1::Bucket {
        v1::Bucket { lowest, highest, count }
    }

    #[test]
    fn percentiles_are_those_of_the_interval() {
        let before = v1::Histogram { buckets: vec![bucket(100, 199, 1_000)], ..Default::default() };
        let buckets = vec![bucket(100, 199, 1_060), bucket(200, 399, 30), bucket(400, 799, 10)];
        let after = v1::Histogram { buckets, ..Default::default() };
        let interval = histogram(Some(&before), Some(&after));
        assert_eq!((interval.count, interval.p50, interval.p99, interval.max), (100, 199, 799, 799));
        assert_eq!(percentile(&interval.buckets, 900), 399, "60 + 30 of 100 values are at most 399");
        assert_eq!(percentile(&[], 500), 0);
    }

    #[test]
    fn a_rate_is_counted_against_the_time_that_passed() {
        let before = v1::StatsResponse { boot_id: "a".to_owned(), read_ns: 1_000, ..Default::default() };
        let after = v1::StatsResponse { read_ns: 500_001_000, ..before.clone() };
        let interval = Interval::between(&before, &after).expect("half a second passed");
        assert_eq!(interval.per_second(21), 42);
    }

    #[test]
    fn readings_of_two_starts_are_not_compared() {
        let before = v1::StatsResponse { boot_id: "a".to_owned(), read_ns: 1, ..Default::default() };
        let after = v1::StatsResponse { boot_id: "b".to_owned(), read_ns: 2, ..Default::default() };
        assert!(Interval::between(&before, &after).is_none());
        assert!(Interval::between(&before, &before).is_none(), "no time has passed");
    }

    #[test]
    fn only_reasons_that_happened_in_the_interval_are_left() {
        let codes = |pairs: &[(&str, u64)]| pairs.iter().map(|(code, count)| ((*code).to_owned(), *count)).collect();
        let mut after: BTreeMap<String, u64> = codes(&[("E_A", 5), ("E_B", 7), ("E_C", 1)]);
        subtract_reasons(&mut after, &codes(&[("E_A", 5), ("E_B", 4)]));
        assert_eq!(after, codes(&[("E_B", 3), ("E_C", 1)]));
    }
}
