//! What is sent: which topic and sender each message names, and which shard each run of frames goes to. Everything is
//! drawn before the first frame, from a seed, so that sending costs one load per message and a run can be repeated.

use std::collections::BTreeMap;

/// The exponent of the Zipf choice: the usual skew of key popularity in storage benchmarks (YCSB's default, 0.99).
pub const ZIPF_EXPONENT: f64 = 0.99;
/// Fewest drawn messages of one shard: enough that a frame's worth of them does not repeat at once.
const RING_MIN: usize = 1 << 10;
/// Most drawn messages of one shard: 512 KiB, so that 16 shards stay within the caches they share with nobody.
const RING_MAX: usize = 1 << 16;
/// Runs after which the sequence of shards repeats.
const SHARD_RUNS: usize = 1 << 12;

/// SplitMix64: eight lines, passes statistical tests, and the same numbers on every machine.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    #[inline]
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which is not 0.
    #[inline]
    pub fn below(&mut self, limit: u32) -> u32 {
        let wide = (self.next() >> 32) * u64::from(limit);
        u32::try_from(wide >> 32).unwrap_or(0)
    }

    /// A number in [0, 1).
    #[inline]
    #[expect(clippy::cast_precision_loss, reason = "53 bits are what an f64 holds exactly")]
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// True with probability `share`.
    #[inline]
    pub fn chance(&mut self, share: f64) -> bool {
        share > 0.0 && self.unit() < share
    }
}

/// How topics are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Choice {
    /// Every topic as often as every other.
    Uniform,
    /// The first topic most often: weight 1 / rank^[`ZIPF_EXPONENT`].
    Zipf,
}

impl Choice {
    /// The weight of each of `topics` topics.
    #[must_use]
    pub fn weights(self, topics: usize) -> Vec<f64> {
        match self {
            Self::Uniform => vec![1.0; topics],
            Self::Zipf => (1..=u32::try_from(topics).unwrap_or(u32::MAX))
                .map(|rank| f64::from(rank).powf(-ZIPF_EXPONENT))
                .collect(),
        }
    }
}

/// Draws indexes with given weights: a cumulative sum and a binary search.
#[derive(Clone, Debug)]
pub struct Drawer {
    cumulative: Vec<f64>,
}

impl Drawer {
    /// A drawer of these weights, none negative.
    #[must_use]
    pub fn new(weights: impl IntoIterator<Item = f64>) -> Self {
        let cumulative = weights.into_iter().scan(0.0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        });
        Self { cumulative: cumulative.collect() }
    }

    /// The sum of the weights.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.cumulative.last().copied().unwrap_or(0.0)
    }

    /// One index; 0 if there are no weights.
    pub fn draw(&self, random: &mut Random) -> usize {
        let point = random.unit() * self.total();
        let index = self.cumulative.partition_point(|sum| *sum <= point);
        index.min(self.cumulative.len().saturating_sub(1))
    }
}

/// A message's topic, and which sender of its session's range sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick {
    /// The topic.
    pub topic_id: u32,
    /// Offset into the session's sender range.
    pub sender: u32,
}

/// What one phase changes about the choice.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bias {
    /// A sender (offset into the range) that gets this share of the messages on top.
    pub sender: Option<(u32, f64)>,
    /// A topic that gets this share of the frames' messages on top.
    pub topic: Option<(u32, f64)>,
}

/// What is drawn for one phase.
#[derive(Clone, Debug)]
pub struct Plan {
    rings: BTreeMap<u16, Vec<Pick>>,
    shards: Vec<u16>,
}

impl Plan {
    /// Draws a plan. `topics` are the ids in order of popularity, `senders` is how many of the session's range are used
    /// (not 0). A shard is chosen as often as its topics' weights together say, and within it each topic as often as its
    /// own weight says, so the whole follows `choice`.
    ///
    /// # Panics
    /// If `topics` is empty or `shard_count` is 0, which the arguments' own checks exclude.
    #[must_use]
    pub fn draw(topics: &[u32], choice: Choice, senders: u32, shard_count: u16, bias: Bias, seed: u64) -> Self {
        assert!(!topics.is_empty() && shard_count > 0, "a plan needs topics and shards");
        let mut random = Random::new(seed);
        let weights = biased(topics, choice.weights(topics.len()), bias.topic);
        let mut by_shard: BTreeMap<u16, Vec<(u32, f64)>> = BTreeMap::new();
        for (topic_id, weight) in weights {
            let shard = u16::try_from(topic_id % u32::from(shard_count)).unwrap_or(0);
            by_shard.entry(shard).or_default().push((topic_id, weight));
        }
        let rings = by_shard.iter().map(|(shard, topics)| (*shard, ring(topics, senders, bias.sender, &mut random)));
        let rings = rings.collect();
        let numbers: Vec<u16> = by_shard.keys().copied().collect();
        let drawer = Drawer::new(by_shard.values().map(|topics| topics.iter().map(|(_, weight)| weight).sum()));
        let shards = (0..SHARD_RUNS).map(|_| numbers[drawer.draw(&mut random)]).collect();
        Self { rings, shards }
    }

    /// The shard of run number `run`.
    #[must_use]
    pub fn shard(&self, run: usize) -> u16 {
        self.shards[run % self.shards.len()]
    }

    /// The drawn messages of a shard, to be used in a circle; empty if no topic lies in it.
    #[must_use]
    pub fn ring(&self, shard: u16) -> &[Pick] {
        self.rings.get(&shard).map_or(&[], Vec::as_slice)
    }
}

/// Topics with weights in which the favoured topic, known before or not, has its share of the whole.
fn biased(topics: &[u32], weights: Vec<f64>, favoured: Option<(u32, f64)>) -> Vec<(u32, f64)> {
    let mut pairs: Vec<(u32, f64)> = topics.iter().copied().zip(weights).collect();
    if let Some((topic_id, share)) = favoured {
        pairs.retain(|(id, _)| *id != topic_id);
        let rest: f64 = pairs.iter().map(|(_, weight)| weight).sum();
        let share = share.clamp(0.0, 1.0);
        if share >= 1.0 || pairs.is_empty() {
            return vec![(topic_id, 1.0)];
        }
        pairs.push((topic_id, rest * share / (1.0 - share)));
    }
    pairs
}

fn ring(topics: &[(u32, f64)], senders: u32, flood: Option<(u32, f64)>, random: &mut Random) -> Vec<Pick> {
    let drawer = Drawer::new(topics.iter().map(|(_, weight)| *weight));
    let length = (topics.len() * 8).next_power_of_two().clamp(RING_MIN, RING_MAX);
    let pick = |_| {
        let (topic_id, _) = topics[drawer.draw(random)];
        let sender = match flood {
            Some((sender, share)) if random.chance(share) => sender,
            _ => random.below(senders.max(1)),
        };
        Pick { topic_id, sender }
    };
    (0..length).map(pick).collect()
}

#[cfg(test)]
mod tests {
    use super::{Bias, Choice, Drawer, Plan, Random};
    use proptest::prelude::*;

    #[test]
    fn zipf_ranks_come_as_often_as_their_weights_say() {
        let weights = Choice::Zipf.weights(1000);
        let drawer = Drawer::new(weights.clone());
        let mut random = Random::new(7);
        let mut counts = vec![0u32; 1000];
        for _ in 0..1_000_000 {
            counts[drawer.draw(&mut random)] += 1;
        }
        for rank in [0, 1, 9, 99] {
            let expected = weights[rank] / drawer.total() * 1e6;
            let found = f64::from(counts[rank]);
            assert!((found - expected).abs() < 5.0 * expected.sqrt(), "rank {rank}: {found} against {expected}");
        }
    }

    #[test]
    fn a_favoured_topic_and_a_flooding_sender_get_their_share() {
        let topics: Vec<u32> = (1..=160).collect();
        let bias = Bias { sender: Some((3, 0.5)), topic: Some((16, 0.25)) };
        let plan = Plan::draw(&topics, Choice::Uniform, 100, 16, bias, 1);
        let runs = 4096;
        let hot = (0..runs).filter(|run| plan.shard(*run) == 0).count();
        // Shard 0 holds 9 other topics of 159 and the favoured one.
        let expected = 0.25 + 0.75 * 9.0 / 159.0;
        assert!((hot as f64 / runs as f64 - expected).abs() < 0.03, "{hot}");
        let ring = plan.ring(1);
        let flood = ring.iter().filter(|pick| pick.sender == 3).count() as f64 / ring.len() as f64;
        assert!((flood - 0.505).abs() < 0.06, "{flood}");
    }

    #[test]
    fn the_same_seed_draws_the_same_plan() {
        let draw = |seed| {
            let plan = Plan::draw(&[1, 2, 3], Choice::Zipf, 9, 2, Bias::default(), seed);
            (plan.shards.clone(), plan.rings)
        };
        assert_eq!(draw(5), draw(5));
        assert_ne!(draw(5), draw(6));
    }

    proptest! {
        #[test]
        fn every_pick_lies_in_its_shard_and_in_the_range(
            count in 1u32..300, first in 1u32..1000, senders in 1u32..70, bits in 0u32..7, seed: u64, zipf: bool,
        ) {
            let topics: Vec<u32> = (first..first + count).collect();
            let choice = if zipf { Choice::Zipf } else { Choice::Uniform };
            let shards = 1u16 << bits;
            let plan = Plan::draw(&topics, choice, senders, shards, Bias::default(), seed);
            for run in 0..4096 {
                let ring = plan.ring(plan.shard(run));
                prop_assert!(!ring.is_empty(), "a chosen shard has messages");
            }
            for shard in 0..shards {
                for pick in plan.ring(shard) {
                    prop_assert_eq!(pick.topic_id % u32::from(shards), u32::from(shard));
                    prop_assert!(topics.contains(&pick.topic_id) && pick.sender < senders);
                }
            }
        }
    }
}
