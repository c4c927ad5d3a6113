//! From rules, topics and subscribers to what the compiler takes: which topic follows which entry, who may publish on it,
//! who gets it.

use crate::record::{RulesText, Subscriber};
use std::collections::{BTreeSet, HashMap};
use tachyon_config::{Durability, Identity, Limit, Pattern, PatternIndex, Rules, TopicRules, WhenLogFull};
use tachyon_policy::compile::{self, Quota, RulesetSource, SenderSource, SetId, TopicSource};
use tachyon_segment::handover::{Hello, Prefix};
use tachyon_wire::image::{FAN_OUT_MAX, SENDER_SLOTS_MAX, TARGETS_MAX, TOPIC_SLOTS_MAX};

/// Permanent rows of rights by identity name.
pub(crate) type Principals = HashMap<String, u32>;

/// Rules with what is needed to look things up in them.
#[derive(Debug)]
pub(crate) struct InForce {
    /// As they were applied.
    pub(crate) text: RulesText,
    /// As they were read.
    pub(crate) rules: Rules,
    topics: PatternIndex<usize>,
    publishers: PatternIndex<u32>,
    identities: HashMap<String, usize>,
    denied: BTreeSet<Prefix>,
}

impl InForce {
    /// Every identity of the rules must have its row in `principals`.
    #[must_use]
    pub(crate) fn new(text: RulesText, rules: Rules, principals: &Principals) -> Self {
        let topics = rules.topics.iter().zip(0..).map(|(entry, index)| (&entry.pattern, index)).collect();
        let rows = rules.identities.iter().filter_map(|identity| Some((identity, *principals.get(&identity.name)?)));
        let publishers = rows.flat_map(|(identity, row)| identity.publish.iter().map(move |pattern| (pattern, row)));
        let publishers = publishers.collect();
        let identities = rules.identities.iter().zip(0..).map(|(identity, index)| (identity.name.clone(), index));
        let denied = rules.denied.iter().filter_map(|prefix| Prefix::new(prefix.ip(), prefix.bits())).collect();
        Self { text, topics, publishers, identities: identities.collect(), denied, rules }
    }

    /// What the pre-filter is to deny.
    #[must_use]
    pub(crate) const fn denied(&self) -> &BTreeSet<Prefix> {
        &self.denied
    }

    /// The identity of this name.
    #[must_use]
    pub(crate) fn identity(&self, name: &str) -> Option<&Identity> {
        self.rules.identities.get(*self.identities.get(name)?)
    }

    /// The entry that a topic follows: the most specific one that matches.
    #[must_use]
    pub(crate) fn topic(&self, name: &str) -> Option<&TopicRules> {
        self.rules.topics.get(*self.topics.matching(name).next()?)
    }
}

/// Whether one of the patterns matches.
#[must_use]
pub(crate) fn any_matches(patterns: &[Pattern], name: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(name))
}

/// Limits that a ruleset must keep to be of use to a node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Topic slots, the unused slot 0 among them.
    pub(crate) topics: u32,
    /// Sender slots.
    pub(crate) senders: u32,
    /// Targets.
    pub(crate) targets: u32,
}

impl Limits {
    /// Those of the connected node, or the widest there can be.
    #[must_use]
    pub(crate) fn of(hello: Option<&Hello>) -> Self {
        let widest = Self { topics: TOPIC_SLOTS_MAX, senders: SENDER_SLOTS_MAX, targets: TARGETS_MAX };
        hello.map_or(widest, |hello| Self {
            topics: hello.topics_max,
            senders: hello.senders_max,
            targets: hello.targets_max,
        })
    }
}

/// What the compiler takes, and what is worth saying about it.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Complete but for its version.
    pub(crate) source: RulesetSource,
    /// Registered topics that no entry matches: they are not in the source.
    pub(crate) unmatched: u32,
}

impl Plan {
    /// Lays out a ruleset for `shard_count` shards. `topics` are by id, from 1.
    ///
    /// # Errors
    /// What stands against it and what to do.
    pub(crate) fn new<'a>(
        in_force: &InForce,
        topics: &[String],
        subscribers: impl Iterator<Item = &'a Subscriber>,
        principals: u32,
        shard_count: u16,
    ) -> Result<Self, String> {
        let audience = Audience::new(in_force, subscribers);
        let mut sets = Sets::default();
        let mut source = RulesetSource { shard_count, principals, ..RulesetSource::default() };
        let mut unmatched = 0;
        for (name, topic_id) in topics.iter().zip(1_u32..) {
            let Some(entry) = in_force.topic(name) else {
                unmatched += 1;
                continue;
            };
            let subscribers = audience.of(name);
            if subscribers.len() > usize::from(FAN_OUT_MAX) {
                let count = subscribers.len();
                return Err(format!(
                    "topic `{name}` would have {count} subscribers, at most {FAN_OUT_MAX}; end one first"
                ));
            }
            source.topics.push(TopicSource {
                topic_id,
                quota: quota(entry.limit)?,
                tag_required: entry.tag,
                quarantine: entry.quarantine,
                durability: durability(entry.durability),
                when_full: when_full(entry.when_log_full),
                publishers: sets.intern(in_force.publishers.matching(name).copied().collect()),
                subscribers: sets.intern(subscribers),
            });
        }
        source.sets = sets.members;
        source.senders = senders(&in_force.rules)?;
        Ok(Self { source, unmatched })
    }

    /// Holds it against a node's limits.
    ///
    /// # Errors
    /// The first that it breaks, and what to do.
    pub(crate) fn check(&self, limits: Limits) -> Result<(), String> {
        let topics = self.source.topics.last().map_or(0, |topic| topic.topic_id);
        let senders = self.source.senders.iter().map(|sender| sender.sender_id).max().unwrap_or(0);
        let mut routes: Vec<SetId> = self.source.topics.iter().map(|topic| topic.subscribers).collect();
        routes.sort_unstable();
        routes.dedup();
        let targets: usize = routes.iter().filter_map(|set| self.source.sets.get(*set as usize)).map(Vec::len).sum();
        if topics >= limits.topics {
            let max = limits.topics - 1;
            return Err(format!(
                "topic id {topics} is above the node's last, {max}; raise topics_max in the node file"
            ));
        }
        if !self.source.senders.is_empty() && senders >= limits.senders {
            let max = limits.senders - 1;
            return Err(format!(
                "sender {senders} is above the node's last, {max}; raise senders_max in the node file"
            ));
        }
        if targets > limits.targets as usize {
            let max = limits.targets;
            return Err(format!(
                "{targets} subscribers of all routes together, at most {max}; raise targets_max in the node file"
            ));
        }
        Ok(())
    }
}

/// Who gets which topic.
struct Audience<'a> {
    /// Subscriber slot and the patterns that its identity may subscribe to.
    index: PatternIndex<(u32, &'a [Pattern])>,
}

impl<'a> Audience<'a> {
    fn new<'s>(in_force: &'a InForce, subscribers: impl Iterator<Item = &'s Subscriber>) -> Self {
        let mut wanted: Vec<(Pattern, (u32, &[Pattern]))> = Vec::new();
        for subscriber in subscribers {
            let Some(identity) = in_force.identity(&subscriber.owner.identity) else { continue };
            let patterns = subscriber.topics.iter().filter_map(|text| text.parse().ok());
            wanted.extend(patterns.map(|pattern| (pattern, (subscriber.slot, identity.subscribe.as_slice()))));
        }
        Self { index: wanted.iter().map(|(pattern, value)| (pattern, *value)).collect() }
    }

    /// Slots, rising, each once.
    fn of(&self, name: &str) -> Vec<u32> {
        let allowed = self.index.matching(name).filter(|(_, allowed)| any_matches(allowed, name));
        let mut slots: Vec<u32> = allowed.map(|(slot, _)| *slot).collect();
        slots.sort_unstable();
        slots.dedup();
        slots
    }
}

/// Sets that are the same are kept once.
#[derive(Default)]
struct Sets {
    ids: HashMap<Vec<u32>, SetId>,
    members: Vec<Vec<u32>>,
}

impl Sets {
    fn intern(&mut self, mut set: Vec<u32>) -> SetId {
        set.sort_unstable();
        set.dedup();
        if let Some(id) = self.ids.get(&set) {
            return *id;
        }
        let id = SetId::try_from(self.members.len()).unwrap_or(SetId::MAX); // at most two for each of 2²⁰ topics
        self.members.push(set.clone());
        self.ids.insert(set, id);
        id
    }
}

fn quota(limit: Option<Limit>) -> Result<Quota, String> {
    let Some(Limit { rate, burst }) = limit else { return Ok(Quota::UNLIMITED) };
    let too_large = || format!("{} messages at once with {}/{} ns are too many", burst, rate.messages, rate.per_ns);
    Quota::new(rate.messages, rate.per_ns, burst).ok_or_else(too_large)
}

const fn when_full(when_log_full: WhenLogFull) -> compile::WhenFull {
    match when_log_full {
        WhenLogFull::Taildrop => compile::WhenFull::Taildrop,
        WhenLogFull::Mark => compile::WhenFull::Mark,
        WhenLogFull::Nack => compile::WhenFull::Nack,
        WhenLogFull::Buffer => compile::WhenFull::Buffer,
    }
}

const fn durability(durability: Durability) -> compile::Durability {
    match durability {
        Durability::Volatile => compile::Durability::Volatile,
        Durability::Logged => compile::Durability::Logged,
        Durability::Durable => compile::Durability::Durable,
    }
}

fn senders(rules: &Rules) -> Result<Vec<SenderSource>, String> {
    let mut senders = Vec::new();
    for identity in &rules.identities {
        let Some((low, high)) = identity.senders else { continue };
        let quota = quota(identity.sender_limit)?;
        senders.extend((low..=high).map(|sender_id| SenderSource { sender_id, quota }));
    }
    Ok(senders)
}

#[cfg(test)]
#[path = "ruleset_tests.rs"]
mod tests;
