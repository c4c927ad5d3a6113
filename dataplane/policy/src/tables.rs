//! What a worker keeps between bursts: a copy of each rule beside the level of its bucket, and who owns which shard.
//!
//! Buckets are GCRA (the generic cell rate algorithm, virtual scheduling form of ITU-T I.371): a bucket is one number, the time `tat` at which it would be full
//! again. A message may pass at `now` iff `tat - (burst - 1) × period ≤ now`, and then moves `tat` to
//! `max(tat, now) + period`. Nothing is refilled, so an idle bucket costs nothing, and a clock that runs backwards only
//! makes buckets look emptier. Times are in 1/16 ns since the clock's start.

use crate::{Verdict, image::Ruleset};
use tachyon_kernels::Path;
use tachyon_wire::{
    command::{Demand, SHARE_ALL},
    image::{BUCKET_SPAN_MAX, SenderRule, TICKS_PER_NS, TOPIC_DURABLE, TOPIC_LOGGED, TopicRule},
};
use zerocopy::{FromZeros, Immutable, KnownLayout, byteorder::little_endian::U32};

/// Most shards of a fabric, so that the owner table is two cache lines: 4 for each of 16 workers.
pub const SHARDS_MAX: usize = 64;
/// Where the clock stands still: 2⁵⁹ ns, 18 years after its start. Limits then run dry, so ticks must count from the
/// node's start or the machine's, not from 1970.
pub const TICK_MAX_NS: u64 = 1 << 59;

/// A sender that keeps being refused for quota says so at most once per this time: the shortest interval in which leases
/// are rebalanced.
const DEMAND_INTERVAL_NS: u64 = 1_000_000;

/// [`SenderState::more`] of a sender from whom nothing is accepted: a burst of 0, less one.
pub(crate) const SHUT: u32 = 0_u32.wrapping_sub(1);

/// The most that [`SenderState::more_under`] says of a sender for whom one comparison is enough; two thousand million
/// messages at once are none that anyone waits for. Half of what there is, as then the number fits into the comparison.
pub(crate) const MORE_ORDINARY: u64 = (SHUT >> 1) as u64;

/// A topic's rule and bucket, as one worker holds them: half a cache line. All zeros means untouched.
#[derive(Clone, Copy, Debug, Default, FromZeros, Immutable, KnownLayout)]
#[repr(C, align(32))]
pub struct TopicState {
    /// When the bucket is full again.
    pub(crate) tat: u64,
    /// The rule's time per message; 0 = no limit.
    pub(crate) period: u64,
    /// Messages that may pass at once, less the first.
    pub(crate) more: u32,
    /// The verdict on a message that passes every check.
    pub(crate) accept: Verdict,
    /// Version, group and flags, so that one comparison looks at all of them; see [`TopicState::stamp`].
    pub(crate) stamp: u64,
}

/// A sender's quota and bucket, as one worker holds them: half a cache line. All zeros means untouched.
#[derive(Clone, Copy, Debug, Default, FromZeros, Immutable, KnownLayout)]
#[repr(C, align(32))]
pub struct SenderState {
    /// When the bucket is full again.
    pub(crate) tat: u64,
    /// Time per message of this worker's share; 0 = no limit.
    pub(crate) period: u64,
    /// Burst of this worker's share, less one; [`SHUT`] where the burst is 0, which is refused: no record, or no share.
    pub(crate) more: u32,
    /// Version of the ruleset that the copy was made from; 0 = none.
    pub(crate) version: u32,
    /// Leased share in 1/65,536, plus 1; 0 = the tables' default share.
    pub(crate) share: u32,
    /// Messages refused since the last demand, saturating: 65,535 within 1 ms is more than a worker can judge.
    pub(crate) refused: u16,
    /// Millisecond of the last demand, from 1 to 65,535 and round again; 0 = none yet.
    pub(crate) demanded: u16,
}

const _: () = assert!(size_of::<TopicState>() == 32 && size_of::<SenderState>() == 32);

/// Which shards a worker owns and where their topics lie in its table.
#[derive(Clone, Copy, Debug)]
pub struct Shards {
    /// Shards of the fabric, a power of two, at most [`SHARDS_MAX`].
    pub shard_count: u16,
    /// Topic slots of one shard: a shard's run in the topic table.
    pub slots_per_shard: u32,
    /// By shard: its run's number in the topic table, or `u16::MAX` where another worker owns it.
    pub owned: [u16; SHARDS_MAX],
}

impl Shards {
    /// The shards of a fabric with room for `topic_slots` topics, of which `owned` are this worker's.
    ///
    /// # Panics
    /// If `shard_count` is no power of two up to [`SHARDS_MAX`], or an owned shard is not below it.
    #[must_use]
    pub fn new(shard_count: u16, topic_slots: u32, owned: &[u16]) -> Self {
        assert!(shard_count.is_power_of_two() && usize::from(shard_count) <= SHARDS_MAX);
        assert!(owned.iter().all(|shard| *shard < shard_count));
        let mut runs = [u16::MAX; SHARDS_MAX];
        for (run, shard) in (0..).zip(owned) {
            runs[usize::from(*shard)] = run;
        }
        Self { shard_count, slots_per_shard: topic_slots.div_ceil(shard_count.into()), owned: runs }
    }

    /// Records that the topic table needs for `owned` shards.
    #[must_use]
    pub fn topic_states(&self, owned: usize) -> usize {
        self.slots_per_shard as usize * owned
    }

    /// First record of a shard's run; past any table where the shard is not owned.
    #[inline]
    pub(crate) fn run_start(&self, shard: u16) -> usize {
        match self.owned.get(usize::from(shard)) {
            None | Some(&u16::MAX) => usize::MAX,
            Some(run) => usize::from(*run) * self.slots_per_shard as usize,
        }
    }

    /// A topic's number within its shard's run is its id shifted right by this.
    #[inline]
    pub(crate) fn topic_shift(&self) -> u32 {
        self.shard_count.trailing_zeros()
    }
}

/// A worker's mutable state. Memory belongs to the caller; all zeros is a fresh table.
#[derive(Debug)]
pub struct Tables<'a> {
    /// The runs of all owned shards, one behind the other.
    pub topics: &'a mut [TopicState],
    /// By sender id.
    pub senders: &'a mut [SenderState],
    /// Who owns what.
    pub shards: Shards,
    /// Share, in 1/65,536, of every sender's quota that this worker may spend until told otherwise: 65,536 / workers.
    /// Must not change while the tables are in use.
    pub default_share: u32,
    /// Which instructions the worker's CPU has. Changes no verdict.
    pub path: Path,
}

/// The clock in 1/16 ns. It stops at [`TICK_MAX_NS`], so no later sum can wrap.
#[inline]
pub(crate) fn now(tick_ns: u64) -> u64 {
    tick_ns.min(TICK_MAX_NS) * TICKS_PER_NS
}

/// The verdict on a message that passes every check of its topic.
fn verdict(rule: &TopicRule) -> Verdict {
    let verdict = Verdict::accepted(rule.route.get(), rule.flags.get() & TOPIC_DURABLE != 0);
    if rule.flags.get() & TOPIC_LOGGED != 0 { verdict.logged() } else { verdict }
}

/// The last `tat` at which a limited bucket lets a message through; `more` is its burst less one. Does not wrap: `now` is at
/// most 2⁶³, and the span 2⁶² and a little.
#[inline(always)]
pub(crate) fn latest(period: u64, more: u64, now: u64) -> u64 {
    more.wrapping_mul(period).wrapping_add(now)
}

/// Whether a bucket lets one message through.
#[inline]
pub(crate) fn has_room(tat: u64, period: u64, more: u32, now: u64) -> bool {
    (period == 0) | (tat <= latest(period, more.into(), now))
}

/// The bucket after one message that it let through. No sum wraps: `tat` is at most a span after `now`, or the period is 0
/// and `tat` what an earlier limit or a later clock left.
#[inline(always)]
pub(crate) fn spent(tat: u64, period: u64, now: u64) -> u64 {
    tat.max(now).wrapping_add(period)
}

/// The level a bucket keeps when its rule changes: never emptier than empty.
fn clamped(tat: u64, period: u64, burst: u32, now: u64) -> u64 {
    tat.min(now.saturating_add(span(period, burst)))
}

/// Time from empty to full.
pub(crate) fn span(period: u64, burst: u32) -> u64 {
    period.saturating_mul(burst.into())
}

impl Tables<'_> {
    /// What is kept of a topic; `None` for one of another worker's shards.
    #[must_use]
    pub fn topic(&self, topic_id: u32) -> Option<&TopicState> {
        let shard = u16::try_from(topic_id & u32::from(self.shards.shard_count).wrapping_sub(1)).ok()?;
        let slot = topic_id >> self.shards.topic_shift();
        let place = self.shards.run_start(shard).checked_add(slot as usize)?;
        self.topics.get(place).filter(|_| slot < self.shards.slots_per_shard)
    }
}

impl TopicState {
    /// When the bucket is full again, in 1/16 ns of the tick; 0 = it was never touched.
    #[must_use]
    pub const fn level(&self) -> u64 {
        self.tat
    }

    /// Bits 0–15 the topic's group, 16–31 its flags; 32–63 the version of the ruleset that the copy was made from, 0 = none.
    /// The group is lowest because the bit it names is found by its lowest six bits, whatever stands above them.
    #[inline]
    pub(crate) const fn stamp(version: u32, flags: u16, group: u16) -> u64 {
        group as u64 | (flags as u64) << 16 | (version as u64) << 32
    }

    #[inline]
    pub(crate) fn version(&self) -> u32 {
        (self.stamp >> 32) as u32
    }

    #[inline]
    pub(crate) fn flags(&self) -> u16 {
        (self.stamp >> 16 & 0xffff) as u16
    }

    #[inline]
    pub(crate) fn group(&self) -> u16 {
        (self.stamp & 0xffff) as u16
    }

    /// Copies the rule in force, on the first touch after a swap. Cold: once per topic and version.
    #[cold]
    #[inline(never)]
    pub(crate) fn adopt(&mut self, ruleset: &Ruleset<'_>, version: u32, topic_id: u32, now: u64) {
        let rule = ruleset.topic(topic_id).copied().unwrap_or_default();
        let (period, burst) = (rule.period.get(), rule.burst.get());
        *self = Self {
            tat: clamped(self.tat, period, burst, now),
            period,
            more: burst.saturating_sub(1),
            accept: verdict(&rule),
            stamp: Self::stamp(version, rule.flags.get(), rule.group.get()),
        };
    }
}

impl SenderState {
    /// When the bucket is full again, in 1/16 ns of the tick; 0 = it was never touched.
    #[must_use]
    pub const fn level(&self) -> u64 {
        self.tat
    }

    /// [`SenderState::more`], if it is a number below [`SHUT`] and the record is of the version of `stamp`, which is as
    /// [`TopicState::stamp`] has it; [`SHUT`] or above if not. One comparison for the version and for senders from whom
    /// nothing is accepted.
    #[inline(always)]
    pub(crate) fn more_under(&self, stamp: u64) -> u64 {
        (u64::from(self.more) | u64::from(self.version) << 32).wrapping_sub(stamp)
    }

    /// Burst of this worker's share.
    pub(crate) fn burst(&self) -> u32 {
        self.more.wrapping_add(1)
    }

    /// The share in force.
    pub(crate) fn share(&self, default_share: u32) -> u32 {
        self.share.checked_sub(1).unwrap_or(default_share).min(SHARE_ALL)
    }

    /// Copies the part of the quota that this worker may spend, on the first touch after a swap.
    #[cold]
    #[inline(never)]
    pub(crate) fn adopt(&mut self, ruleset: &Ruleset<'_>, version: u32, sender_id: u32, default_share: u32, now: u64) {
        let (period, burst) = match ruleset.sender(sender_id) {
            Some(rule) => part(rule, self.share(default_share)),
            None => (0, 0),
        };
        let tat = clamped(self.tat, period, burst, now);
        *self = Self { tat, period, more: burst.wrapping_sub(1), version, ..*self };
    }
}

impl SenderState {
    /// Counts a message refused for quota, and makes a demand of it unless there was one in this millisecond. Senders that
    /// the rules do not know make none: no share would help them.
    #[cold]
    pub(crate) fn refuse(&mut self, ruleset: &Ruleset<'_>, sender_id: u32, tick_ns: u64) -> Option<Demand> {
        ruleset.sender(sender_id)?;
        self.refused = self.refused.saturating_add(1);
        let interval = u16::try_from(tick_ns / DEMAND_INTERVAL_NS % u64::from(u16::MAX)).unwrap_or(0) + 1;
        if interval == self.demanded {
            return None;
        }
        let refused = core::mem::take(&mut self.refused).into();
        self.demanded = interval;
        Some(Demand { sender_id: sender_id.into(), refused: U32::new(refused), tick: tick_ns.into() })
    }
}

/// A share of a quota as period and burst. Rounded so that parts of at most [`SHARE_ALL`] never let through more than the
/// whole, but for the one message of burst that each part has at least. No share: burst 0, which is refused.
pub(crate) fn part(rule: &SenderRule, share: u32) -> (u64, u32) {
    let (period, burst) = (rule.period.get(), rule.burst.get());
    if share == 0 {
        return (period, 0);
    }
    let whole = u128::from(period) * u128::from(SHARE_ALL);
    let period = u64::try_from(whole.div_ceil(share.into())).unwrap_or(u64::MAX).min(BUCKET_SPAN_MAX);
    let burst = u64::from(burst) * u64::from(share) / u64::from(SHARE_ALL);
    (period, u32::try_from(burst).unwrap_or(u32::MAX).max(1))
}
