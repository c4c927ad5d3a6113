//! `govern` against a second model, verdict by verdict, on more than a million generated messages and on every path that
//! this CPU has.
//!
//! `TACHYON_SEED` repeats a run; the seed is printed. `TACHYON_MESSAGES` sets how many messages are compared.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod model;
mod world;

use model::{Expected, Model, Rules, Word};
use std::{collections::BTreeMap, env};
use tachyon_policy::compile::compile;
use tachyon_policy::{
    FrameContext, Inputs, Path, Publisher, SenderState, Shards, TICK_MAX_NS, Tables, TopicState, Verdict, Verified,
    govern, prefetch, set_lease, verify,
};
use tachyon_wire::{
    Message, Reason,
    command::{Demand, Lease},
    image::ROUTE_NONE,
};
use world::{Random, SENDER_STATES, TOPIC_SLOTS, message, next_tick, publisher, source};

const MESSAGES: u64 = 4_000_000;
/// Each world has its own tables, rulesets and clock.
const MESSAGES_OF_A_WORLD: u64 = 40_000;
const SHARD_COUNT: u16 = 4;
const OWNED: [u16; 3] = [2, 0, 3];

type Counts = BTreeMap<&'static str, u64>;

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn agrees_with_the_reference_model_on_every_verdict() {
    let seed = number("TACHYON_SEED").unwrap_or(0x7ac4_0001);
    let messages = number("TACHYON_MESSAGES").unwrap_or(MESSAGES);
    println!("TACHYON_SEED={seed}");
    let mut random = Random(seed);
    let mut counts = Counts::new();
    let mut words = 0;
    while counts.values().sum::<u64>() < messages {
        let mut world = World::new(&mut random);
        let start = counts.values().sum::<u64>();
        while counts.values().sum::<u64>() < start + MESSAGES_OF_A_WORLD {
            words += world.step(&mut random, &mut counts);
        }
    }
    println!("verdicts by reason: {counts:?}, demands: {words}");
    let accepted = counts.get("accepted").copied().unwrap_or(0);
    assert!(accepted > messages / 10, "too few accepted: {accepted}");
    for reason in EXERCISED {
        let count = counts.get(reason.code()).copied().unwrap_or(0);
        assert!(count > messages / 2_000, "{} too rarely exercised: {count}", reason.code());
    }
    assert!(words > 100);
}

/// Every reason that `govern` can give.
const EXERCISED: [Reason; 13] = [
    Reason::BadPacket,
    Reason::ModeForbidden,
    Reason::TopicShard,
    Reason::SystemDenied,
    Reason::Sender,
    Reason::RulesetUnavailable,
    Reason::RulesetInvalid,
    Reason::Denylisted,
    Reason::TopicTagRequired,
    Reason::Shed,
    Reason::QuotaExceeded,
    Reason::Throttled,
    Reason::InternalOverflow,
];

struct World {
    tick_ns: u64,
    version: u64,
    pressure: u8,
    rules: Result<(Rules, Verified<Vec<u8>>), Reason>,
    publishers: Vec<Publisher>,
    model: Model,
    topics: Vec<TopicState>,
    senders: Vec<SenderState>,
    shards: Shards,
    path: Path,
}

impl World {
    fn new(random: &mut Random) -> Self {
        let shards = Shards::new(SHARD_COUNT, TOPIC_SLOTS, &OWNED);
        let paths: Vec<_> = Path::all().collect();
        let default_share = *random.pick(&[65_536, 32_768, 4_096, 0]);
        let ends = [TICK_MAX_NS - 1_000_000, u64::MAX - 1_000_000];
        let tick_ns = if random.one_in(6) { *random.pick(&ends) } else { random.below(1 << 40) };
        let mut world = Self {
            tick_ns: if random.one_in(4) { 0 } else { tick_ns },
            version: 0,
            pressure: 0,
            rules: Err(Reason::RulesetUnavailable),
            publishers: (0..8).map(|_| publisher(random)).collect(),
            model: Model::new(SHARD_COUNT, &OWNED, shards.slots_per_shard, SENDER_STATES, default_share),
            topics: vec![TopicState::default(); shards.topic_states(OWNED.len())],
            senders: vec![SenderState::default(); SENDER_STATES as usize],
            shards,
            path: *random.pick(&paths),
        };
        world.swap(random);
        world
    }

    fn swap(&mut self, random: &mut Random) {
        self.version += 1 + random.below(3);
        let source = source(random, self.version, SHARD_COUNT);
        let image = verify(compile(&source).unwrap(), SHARD_COUNT).unwrap();
        assert_eq!(image.version(), self.version);
        self.rules = Ok((Rules::new(source), image));
    }

    /// Perhaps changes what is not a frame, then judges one frame both ways. Returns the demands made.
    fn step(&mut self, random: &mut Random, counts: &mut Counts) -> u64 {
        self.tick_ns = next_tick(random, self.tick_ns);
        match random.below(2_000) {
            0..20 => self.swap(random),
            20 => self.rules = Err(Reason::RulesetUnavailable),
            21 => self.rules = Err(Reason::RulesetInvalid),
            22..40 => self.pressure = u8::try_from(random.below(6).saturating_sub(1)).unwrap(),
            40..80 => self.pressure = 0,
            80..180 => self.lease(random),
            _ => {}
        }
        let publisher = *random.pick(&self.publishers);
        let shard = if random.one_in(40) { 1 } else { *random.pick(&OWNED) };
        // Now and then more than the kernels look at in one go.
        let count = if random.one_in(50) { 1 + random.below(256) } else { 1 + random.below(40) };
        let messages: Vec<_> = (0..count).map(|_| message(random, &publisher, shard, SHARD_COUNT)).collect();
        let frame = FrameContext {
            publisher: &publisher,
            authenticated: !random.one_in(3),
            shard,
            lane_refs_allowed: random.one_in(2),
        };
        self.compare(&frame, &messages, counts)
    }

    fn lease(&mut self, random: &mut Random) {
        let sender_id = random.below32(SENDER_STATES + 4);
        let share = *random.pick(&[0, 1, 100, 4_096, 32_768, 65_535, 65_536, 70_000]);
        self.model.set_lease(self.rules.as_ref().map(|rules| &rules.0).map_err(|r| *r), self.tick_ns, sender_id, share);
        let inputs = Inputs {
            tick_ns: self.tick_ns,
            ruleset: self.rules.as_ref().map(|rules| rules.1.ruleset()).map_err(|reason| *reason),
            pressure: self.pressure,
        };
        let mut tables = Tables {
            topics: &mut self.topics,
            senders: &mut self.senders,
            shards: self.shards,
            default_share: self.model.default_share,
            path: self.path,
        };
        set_lease(&inputs, &mut tables, Lease { sender_id: sender_id.into(), share: share.into() });
    }

    fn compare(&mut self, frame: &FrameContext<'_>, messages: &[Message], counts: &mut Counts) -> u64 {
        let inputs = Inputs {
            tick_ns: self.tick_ns,
            ruleset: self.rules.as_ref().map(|rules| rules.1.ruleset()).map_err(|reason| *reason),
            pressure: self.pressure,
        };
        let mut tables = Tables {
            topics: &mut self.topics,
            senders: &mut self.senders,
            shards: self.shards,
            default_share: self.model.default_share,
            path: self.path,
        };
        let mut words: Vec<Word> = Vec::new();
        let mut verdicts = vec![Verdict::default(); messages.len()];
        let mut demand = |word: Demand| words.push((word.sender_id.get(), word.refused.get(), word.tick.get()));
        prefetch(messages, &tables, frame.shard);
        govern(&inputs, frame, messages, &mut tables, &mut verdicts, &mut demand);
        let mut expected_words = Vec::new();
        for (message, verdict) in messages.iter().zip(&verdicts) {
            let rules = self.rules.as_ref().map(|rules| &rules.0).map_err(|reason| *reason);
            let expected = self.model.judge(rules, self.tick_ns, self.pressure, frame, message, &mut expected_words);
            let given = told(verdict, &inputs);
            assert_eq!(given, expected, "{message:?}\n{frame:?}\n{inputs:?}");
            let reason = Reason::from_number(verdict.reason()).map_or("accepted", Reason::code);
            *counts.entry(reason).or_default() += 1;
        }
        assert_eq!(words, expected_words, "{frame:?}\n{inputs:?}");
        words.len() as u64
    }
}

/// A verdict in the model's words: the route by the subscribers it leads to.
fn told(verdict: &Verdict, inputs: &Inputs<'_>) -> Expected {
    if let Some(reason) = Reason::from_number(verdict.reason()) {
        assert_eq!((verdict.is_accepted(), verdict.is_durable(), verdict.route()), (false, false, ROUTE_NONE));
        return Expected::Refused { reason, quarantine: verdict.is_quarantined() };
    }
    assert!(verdict.is_accepted() && !verdict.is_quarantined());
    let route = inputs.ruleset.unwrap().route(verdict.route());
    assert_eq!(route.is_none(), verdict.route() == ROUTE_NONE);
    let subscribers = route.map_or(vec![], |(_, targets)| targets.iter().map(|slot| slot.get()).collect());
    Expected::Accepted { durable: verdict.is_durable(), subscribers }
}
