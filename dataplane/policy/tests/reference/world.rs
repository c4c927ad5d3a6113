//! Random rulesets, sessions, clocks and messages: mostly good, often nearly good. All from one seed.

use tachyon_policy::Publisher;
use tachyon_policy::compile::{Durability, Quota, RulesetSource, SenderSource, TopicSource, WhenFull};
use tachyon_wire::Message;
use zerocopy::{FromZeros, IntoBytes};

/// SplitMix64: small, and the same everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn below32(&mut self, end: u32) -> u32 {
        u32::try_from(self.below(end.into())).unwrap()
    }

    pub(crate) fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[usize::try_from(self.below(items.len() as u64)).unwrap()]
    }

    /// Spread evenly over orders of magnitude, from 1 to `most`.
    fn magnitude(&mut self, most: u64) -> u64 {
        let bits = self.below(u64::from(most.ilog2()) + 1);
        (1 << bits | self.next() & ((1 << bits) - 1)).min(most)
    }
}

/// Topics have ids below this, and so have most messages.
pub(crate) const TOPIC_IDS: u32 = 400;
/// Topics at and above this have no place in the worker's table.
pub(crate) const TOPIC_SLOTS: u32 = 360;
pub(crate) const SENDER_IDS: u32 = 64;
pub(crate) const SENDER_STATES: u32 = 56;
pub(crate) const PRINCIPALS: u32 = 8;
const MINUTE_NS: u64 = 60_000_000_000;

/// From one a minute to 100 M a second.
fn quota(random: &mut Random) -> Quota {
    if random.one_in(3) {
        return Quota { period: 0, burst: random.below32(3) };
    }
    let slowest = *random.pick(&[1_000, 1_000, 1_000_000, MINUTE_NS]);
    let per_ns = random.magnitude(slowest).max(10);
    let burst = u32::try_from(random.magnitude(1_000)).unwrap();
    let quota = Quota::new(1, per_ns, burst).unwrap();
    // Now and then the most that an image may say.
    if random.one_in(50) { Quota { period: (1 << 62) / u64::from(burst), burst } } else { quota }
}

pub(crate) fn source(random: &mut Random, version: u64, shard_count: u16) -> RulesetSource {
    let mut sets = vec![vec![]];
    for _ in 0..200 {
        let members = random.below(5);
        sets.push((0..members).map(|_| random.below32(PRINCIPALS)).collect());
    }
    sets.push((0..PRINCIPALS).collect());
    let everyone = u32::try_from(sets.len() - 1).unwrap();
    // Now few groups, now more than one word of rights has bits.
    let (alike, groups) = *random.pick(&[(5, 40), (2, everyone + 1)]);
    let topics = (1..TOPIC_IDS).filter_map(|topic_id| {
        let known = !random.one_in(20);
        known.then(|| TopicSource {
            topic_id,
            quota: quota(random),
            tag_required: random.one_in(4),
            quarantine: random.one_in(3),
            durability: *random.pick(&[Durability::Volatile, Durability::Logged, Durability::Durable]),
            when_full: *random.pick(&[WhenFull::Taildrop, WhenFull::Nack, WhenFull::Buffer]),
            publishers: if random.one_in(alike) { random.below32(groups) } else { everyone },
            subscribers: random.below32(everyone + 1),
        })
    });
    let topics = topics.collect();
    let senders = (0..SENDER_IDS).filter(|_| !random.one_in(12)).collect::<Vec<_>>();
    let senders = senders.into_iter().map(|sender_id| SenderSource { sender_id, quota: quota(random) }).collect();
    RulesetSource { version, shard_count, principals: PRINCIPALS, sets, topics, senders }
}

pub(crate) fn publisher(random: &mut Random) -> Publisher {
    let sender_low = random.below32(40);
    Publisher {
        // Sometimes a principal that the rules do not have.
        principal: if random.one_in(20) { PRINCIPALS } else { random.below32(PRINCIPALS) },
        sender_low,
        sender_high: sender_low + random.below32(30),
        class_cap: if random.one_in(3) { u8::try_from(random.below(4)).unwrap() } else { 0 },
        system: random.one_in(2),
    }
}

/// The next tick: mostly within a burst or a little later, at times far on, at times back.
pub(crate) fn next_tick(random: &mut Random, tick_ns: u64) -> u64 {
    match random.below(1_000) {
        0..400 => tick_ns,
        400..900 => tick_ns.saturating_add(random.below(3_000)),
        900..970 => tick_ns.saturating_add(random.below(2_000_000)),
        970..990 => tick_ns.saturating_add(random.magnitude(10 * MINUTE_NS)),
        _ => tick_ns.saturating_sub(random.magnitude(MINUTE_NS)),
    }
}

/// A message that passes every check that needs no rules, before it is perhaps spoiled.
pub(crate) fn message(random: &mut Random, publisher: &Publisher, shard: u16, shard_count: u16) -> Message {
    let mut message = Message::new_zeroed();
    let class = random.below(4);
    let length = random.below(49);
    let system = u64::from(publisher.system && random.one_in(8));
    let informs = random.below(2);
    message.flags.set(1 | informs << 3 | system << 4 | u64::from(class < 2) << 5 | length << 16 | class << 22);
    let slots = TOPIC_IDS / u32::from(shard_count);
    // A few topics are busy, so that buckets empty.
    let slot =
        if random.one_in(2) { random.below32(8) + 1 } else { random.below32(slots) + u32::from(random.one_in(8)) };
    message.topic_id.set(slot * u32::from(shard_count) + u32::from(shard));
    message.sender_id.set(publisher.sender_low + random.below32(publisher.sender_high - publisher.sender_low + 1));
    for byte in &mut message.data[..usize::try_from(length).unwrap()] {
        *byte = u8::try_from(random.below(256)).unwrap();
    }
    // At times in several ways at once, so that the order of the checks shows.
    for _ in 0..*random.pick(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 4]) {
        spoil(random, &mut message);
    }
    message
}

fn spoil(random: &mut Random, message: &mut Message) {
    match random.below(8) {
        0 => message.topic_id.set(0),
        1 => message.topic_id.set(message.topic_id.get() + 1 + random.below32(3)),
        2 => message.sender_id.set(random.below32(100)),
        3 => message.flags |= 0x10,
        4 => message.data[47] = 1,
        5 => {
            let bit = usize::try_from(random.below(512)).unwrap();
            message.as_mut_bytes()[bit / 8] ^= 1 << (bit % 8);
        }
        _ => refer(random, message),
    }
}

/// Turns a message into a reference, mostly a sound one.
fn refer(random: &mut Random, message: &mut Message) {
    let shm = random.one_in(2);
    let mode = if shm { 4 } else { 2 };
    message.flags.set(message.flags.get() & !0x3f_0007 | mode);
    message.data = [0; 48];
    let id_bytes = if shm { 8 } else { 4 };
    message.data[0] = u8::try_from(random.below(2)).unwrap();
    message.data[id_bytes + 1] = u8::try_from(random.below(256)).unwrap();
    message.data[id_bytes + 8] = 1;
    message.data[id_bytes + 12] = 7;
    match random.below(12) {
        0 => message.data[id_bytes + 8] = 0,
        1 => message.data[id_bytes + 16] = 1,
        2 => message.data[id_bytes + 20] = 1,
        3 => message.data[id_bytes..id_bytes + 8].fill(0xff),
        4 => message.flags |= 1 << 16,
        5 => message.flags |= 1,
        _ => {}
    }
}
