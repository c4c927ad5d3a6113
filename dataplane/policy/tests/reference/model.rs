//! The second model: slow, obvious, and written from the prose of the design. It reads the ruleset's source, not the image,
//! keeps everything in maps, and calculates in 128 bits, so that nothing wraps and nothing needs to be clever.

use std::collections::HashMap;
use tachyon_policy::compile::{Durability, Quota, RulesetSource, SenderSource, TopicSource};
use tachyon_policy::{FrameContext, Publisher};
use tachyon_wire::{Message, Reason};
use zerocopy::IntoBytes;

/// 18 years, where the clock stops.
const CLOCK_END_NS: u64 = 576_460_752_303_423_488;

/// What should become of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Refused {
        reason: Reason,
        quarantine: bool,
    },
    /// With the sorted subscriber slots it must reach.
    Accepted {
        durable: bool,
        subscribers: Vec<u32>,
    },
}

/// A word on a sender that was refused for quota: sender, refused messages, tick.
pub(crate) type Word = (u32, u32, u64);

#[derive(Clone, Default)]
struct Bucket {
    /// When it is full again, in 1/16 ns.
    full_at: u128,
    period: u128,
    burst: u128,
    /// Under which version it was last looked at.
    version: u64,
}

impl Bucket {
    fn span(&self) -> u128 {
        self.period * self.burst
    }

    fn adopt(&mut self, version: u64, quota: Option<(u128, u128)>, now: u128) {
        if self.version != version {
            (self.period, self.burst) = quota.unwrap_or((0, 0));
            self.full_at = self.full_at.min(now + self.span());
            self.version = version;
        }
    }

    /// Messages may pass while less than `burst - 1` of them are outstanding.
    fn has_room(&self, now: u128) -> bool {
        self.period == 0 || self.full_at <= now + (self.burst - 1) * self.period
    }

    fn spend(&mut self, now: u128) {
        self.full_at = self.full_at.max(now) + self.period;
    }
}

#[derive(Clone, Default)]
struct Sender {
    bucket: Bucket,
    share: Option<u32>,
    refused: u32,
    last_word_ms: Option<u64>,
}

pub(crate) struct Model {
    pub(crate) shard_count: u16,
    pub(crate) owned: Vec<u16>,
    pub(crate) slots_per_shard: u32,
    pub(crate) sender_states: u32,
    pub(crate) default_share: u32,
    topics: HashMap<u32, Bucket>,
    senders: HashMap<u32, Sender>,
}

/// The ruleset in force, for look-ups by id.
pub(crate) struct Rules {
    pub(crate) source: RulesetSource,
    topics: HashMap<u32, TopicSource>,
    senders: HashMap<u32, SenderSource>,
}

impl Rules {
    pub(crate) fn new(source: RulesetSource) -> Self {
        let topics = source.topics.iter().map(|topic| (topic.topic_id, *topic)).collect();
        let senders = source.senders.iter().map(|sender| (sender.sender_id, *sender)).collect();
        Self { source, topics, senders }
    }

    fn may_publish(&self, topic: &TopicSource, principal: u32) -> bool {
        self.source.sets[topic.publishers as usize].contains(&principal)
    }

    fn part_of_quota(&self, sender_id: u32, share: u32) -> Option<(u128, u128)> {
        let Quota { period, burst } = self.senders.get(&sender_id)?.quota;
        if share == 0 {
            return Some((u128::from(period), 0));
        }
        let local_period = (u128::from(period) * 65_536).div_ceil(u128::from(share)).min(1 << 62);
        let local_burst = (u128::from(burst) * u128::from(share) / 65_536).max(1);
        Some((local_period, local_burst))
    }
}

fn clock(tick_ns: u64) -> u128 {
    u128::from(tick_ns.min(CLOCK_END_NS)) * 16
}

impl Model {
    pub(crate) fn new(shard_count: u16, owned: &[u16], slots_per_shard: u32, sender_states: u32, share: u32) -> Self {
        let owned = owned.to_vec();
        let (topics, senders) = (HashMap::new(), HashMap::new());
        Self { shard_count, owned, slots_per_shard, sender_states, default_share: share, topics, senders }
    }

    pub(crate) fn judge(
        &mut self,
        rules: Result<&Rules, Reason>,
        tick_ns: u64,
        pressure: u8,
        frame: &FrameContext<'_>,
        message: &Message,
        words: &mut Vec<Word>,
    ) -> Expected {
        let before_topic = |reason| Expected::Refused { reason, quarantine: false };
        if let Some(reason) = packet(message, frame.lane_refs_allowed) {
            return before_topic(reason);
        }
        if let Some(reason) = self.session(frame.publisher, frame.shard, message) {
            return before_topic(reason);
        }
        let rules = match rules {
            Ok(rules) => rules,
            Err(reason) => return before_topic(reason),
        };
        let topic_id = message.topic_id.get();
        let topic = rules.topics.get(&topic_id);
        if !self.owned.contains(&frame.shard) || topic_id / u32::from(self.shard_count) >= self.slots_per_shard {
            return before_topic(if topic.is_some() { Reason::InternalOverflow } else { Reason::Denylisted });
        }
        let now = clock(tick_ns);
        let version = rules.source.version;
        let bucket = self.topics.entry(topic_id).or_default();
        bucket.adopt(version, topic.map(|topic| (topic.quota.period.into(), topic.quota.burst.into())), now);
        let Some(topic) = topic else { return before_topic(Reason::Denylisted) };
        match self.under_rules(rules, topic, now, tick_ns, pressure, frame, message, words) {
            Some(reason) => Expected::Refused { reason, quarantine: topic.quarantine },
            None => {
                let mut subscribers = rules.source.sets[topic.subscribers as usize].clone();
                subscribers.sort_unstable();
                subscribers.dedup();
                Expected::Accepted { durable: topic.durability == Durability::Durable, subscribers }
            }
        }
    }

    fn session(&self, publisher: &Publisher, shard: u16, message: &Message) -> Option<Reason> {
        if message.topic_id.get() % u32::from(self.shard_count) != u32::from(shard) {
            return Some(Reason::TopicShard);
        }
        if message.flags.get() & 0x10 != 0 && !publisher.system {
            return Some(Reason::SystemDenied);
        }
        let range = publisher.sender_low..=publisher.sender_high;
        if range.contains(&message.sender_id.get()) { None } else { Some(Reason::Sender) }
    }

    #[expect(clippy::too_many_arguments, reason = "everything a verdict may depend on, spelled out")]
    fn under_rules(
        &mut self,
        rules: &Rules,
        topic: &TopicSource,
        now: u128,
        tick_ns: u64,
        pressure: u8,
        frame: &FrameContext<'_>,
        message: &Message,
        words: &mut Vec<Word>,
    ) -> Option<Reason> {
        if !rules.may_publish(topic, frame.publisher.principal) {
            return Some(Reason::Denylisted);
        }
        if refers_outside(message) && topic.durability != Durability::Volatile {
            return Some(Reason::ModeForbidden);
        }
        if topic.tag_required && !frame.authenticated {
            return Some(Reason::TopicTagRequired);
        }
        let claimed = (message.flags.get() >> 22) & 3;
        let class = claimed.max(u64::from(frame.publisher.class_cap));
        if class + u64::from(pressure) >= 4 {
            return Some(Reason::Shed);
        }
        let sender_id = message.sender_id.get();
        let known = rules.senders.contains_key(&sender_id);
        if sender_id >= self.sender_states {
            return Some(if known { Reason::InternalOverflow } else { Reason::QuotaExceeded });
        }
        let sender = self.senders.entry(sender_id).or_default();
        let share = sender.share.unwrap_or(self.default_share);
        sender.bucket.adopt(rules.source.version, rules.part_of_quota(sender_id, share), now);
        if !known {
            return Some(Reason::QuotaExceeded);
        }
        if share == 0 || !sender.bucket.has_room(now) {
            sender.complain(sender_id, tick_ns, words);
            return Some(Reason::QuotaExceeded);
        }
        let bucket = self.topics.get_mut(&topic.topic_id).unwrap();
        if !bucket.has_room(now) {
            return Some(Reason::Throttled);
        }
        bucket.spend(now);
        sender.bucket.spend(now);
        None
    }

    pub(crate) fn set_lease(&mut self, rules: Result<&Rules, Reason>, tick_ns: u64, sender_id: u32, share: u32) {
        if sender_id >= self.sender_states {
            return;
        }
        let now = clock(tick_ns);
        let share = share.min(65_536);
        let sender = self.senders.entry(sender_id).or_default();
        let old_share = sender.share.replace(share).unwrap_or(self.default_share);
        let Ok(rules) = rules else {
            sender.bucket.full_at = now + (1 << 62);
            sender.bucket.version = 0;
            return;
        };
        let bucket = &mut sender.bucket;
        bucket.adopt(rules.source.version, rules.part_of_quota(sender_id, old_share), now);
        let (period, burst) = rules.part_of_quota(sender_id, share).unwrap_or((0, 0));
        // What is left in the bucket, in time, then in parts of a message of the new size.
        let owed = bucket.full_at.saturating_sub(now);
        let left = bucket.span().saturating_sub(owed);
        if let Some(left) = (left * period).checked_div(bucket.period) {
            bucket.full_at = now + period * burst - left.min(period * burst);
        }
        (bucket.period, bucket.burst) = (period, burst);
    }
}

impl Sender {
    fn complain(&mut self, sender_id: u32, tick_ns: u64, words: &mut Vec<Word>) {
        self.refused += 1;
        let ms = tick_ns / 1_000_000 % 65_535;
        if self.last_word_ms != Some(ms) {
            words.push((sender_id, self.refused, tick_ns));
            self.refused = 0;
            self.last_word_ms = Some(ms);
        }
    }
}

fn bytes_at(data: &[u8], offset: usize, count: usize) -> u64 {
    data[offset..offset + count].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn refers_outside(message: &Message) -> bool {
    let bytes = message.as_bytes();
    match bytes[0] & 7 {
        2 => bytes_at(bytes, 16, 4) != 0,
        4 => true,
        _ => false,
    }
}

/// The message's own layout, byte by byte.
fn packet(message: &Message, outside_allowed: bool) -> Option<Reason> {
    let bytes = message.as_bytes();
    let flags = bytes_at(bytes, 0, 8);
    let data = &bytes[16..];
    let (inline_length, class) = (flags >> 16 & 63, flags >> 22 & 3);
    let unknown = flags >> 24 != 0 || flags >> 6 & 0x3ff != 0;
    let high = flags >> 5 & 1 == 1;
    let well_formed = match flags & 7 {
        1 => inline_length <= 48 && (0..48).all(|at| at < inline_length || data[usize::try_from(at).unwrap()] == 0),
        2 => reference(data, 4, inline_length),
        4 => reference(data, 8, inline_length),
        _ => false,
    };
    if bytes_at(bytes, 8, 4) == 0 || unknown || high != (class < 2) || !well_formed {
        return Some(Reason::BadPacket);
    }
    if refers_outside(message) && !outside_allowed { Some(Reason::ModeForbidden) } else { None }
}

/// A reference whose `offset` stands behind an id of `id_bytes`.
fn reference(data: &[u8], id_bytes: usize, inline_length: u64) -> bool {
    let offset = bytes_at(data, id_bytes, 8);
    let length = bytes_at(data, id_bytes + 8, 4);
    let checksum = bytes_at(data, id_bytes + 12, 8);
    let zeros = data[id_bytes + 20..].iter().all(|byte| *byte == 0);
    let ends = u128::from(offset) + u128::from(length);
    inline_length == 0 && length >= 1 && checksum < 1 << 32 && zeros && ends < 1 << 64
}
