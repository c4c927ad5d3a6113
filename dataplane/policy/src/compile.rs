//! From the records control keeps to the one flat image that workers judge by.
//!
//! The image depends on what the source says, not on the order in which it says it: the same rules give the same bytes.
//! Topics with the same publishers share a rights group, topics with the same subscribers share a route.

use crate::image::{HEADER, Sections, bucket_fits, checksum};
use alloc::{collections::BTreeMap, vec, vec::Vec};
use tachyon_wire::image::{
    FAN_OUT_MAX, FULL_BUFFER, FULL_MARK, FULL_NACK, FULL_TAILDROP, ImageHeader, LAYOUT, MAGIC, PRINCIPALS_MAX,
    RIGHTS_WORDS_MAX, ROUTE_DURABLE, ROUTE_LOGGED, ROUTE_NONE, ROUTE_VOLATILE, ROUTES_MAX, RouteRule, SENDER_SLOTS_MAX,
    SUBSCRIBERS_MAX, SenderRule, TOPIC_DURABLE, TOPIC_FULL_SHIFT, TOPIC_KNOWN, TOPIC_LOGGED, TOPIC_QUARANTINE,
    TOPIC_SLOTS_MAX, TOPIC_TAG_REQUIRED, Target, TopicRule, VERSION_MAX,
};
use zerocopy::{FromZeros, IntoBytes, byteorder::little_endian::U64};

pub use crate::source::{CompileError, Durability, Quota, RulesetSource, SenderSource, SetId, TopicSource, WhenFull};

/// Rights groups, group 0 (nobody) among them.
pub(crate) const GROUPS_MAX: u32 = RIGHTS_WORDS_MAX * 64;

/// Kinds of [`Durability`].
const DURABILITIES: usize = 3;

/// Compiles a source into an image that [`verify`](crate::verify) accepts.
///
/// # Errors
/// The first record found wrong, topics by rising id.
pub fn compile(source: &RulesetSource) -> Result<Vec<u8>, CompileError> {
    check_header(source)?;
    let senders = sender_rules(source)?;
    let mut topics = Topics::new(source);
    let mut in_order: Vec<&TopicSource> = source.topics.iter().collect();
    in_order.sort_by_key(|topic| topic.topic_id);
    for topic in in_order {
        topics.add(topic)?;
    }
    topics.single_targets_first();
    Ok(write_image(source, &topics, &senders))
}

/// Writes the checksum of an image into its header, for images made or changed by hand, as tests and fuzzers do.
pub fn seal(image: &mut [u8]) {
    let checksum = checksum(image);
    if let Some(field) = image.get_mut(HEADER - checksum.len()..HEADER) {
        field.copy_from_slice(&checksum);
    }
}

fn check_header(source: &RulesetSource) -> Result<(), CompileError> {
    if !(1..=VERSION_MAX).contains(&source.version) {
        return Err(CompileError::Version(source.version));
    }
    if !source.shard_count.is_power_of_two() {
        return Err(CompileError::ShardCount(source.shard_count));
    }
    if source.principals > PRINCIPALS_MAX { Err(CompileError::Principals(source.principals)) } else { Ok(()) }
}

fn sender_rules(source: &RulesetSource) -> Result<Vec<SenderRule>, CompileError> {
    let slots = source.senders.iter().map(|sender| sender.sender_id as usize + 1).max().unwrap_or(0);
    if let Some(sender) = source.senders.iter().find(|sender| sender.sender_id >= SENDER_SLOTS_MAX) {
        return Err(CompileError::SenderId(sender.sender_id));
    }
    let mut rules = vec![SenderRule::default(); slots];
    for SenderSource { sender_id, quota } in &source.senders {
        let rule = &mut rules[*sender_id as usize];
        if rule.burst.get() != 0 {
            return Err(CompileError::DuplicateSender(*sender_id));
        }
        if !bucket_fits(quota.period, quota.burst) {
            return Err(CompileError::SenderQuota(*sender_id));
        }
        // A burst of 0 would say "slot not in use", so a sender without limit has one of 1.
        *rule = SenderRule { period: quota.period.into(), burst: quota.burst.max(1).into(), ..*rule };
    }
    Ok(rules)
}

/// The sections that grow with the topics.
struct Topics<'a> {
    source: &'a RulesetSource,
    rules: Vec<TopicRule>,
    /// By set id: its group or route, once a topic used it so. Spares looking at a shared set again.
    set_groups: Vec<Option<u16>>,
    /// By durability first.
    set_routes: [Vec<Option<u32>>; DURABILITIES],
    /// By sorted members: sets that are equal under different ids share a group or a route.
    groups: BTreeMap<Vec<u32>, u16>,
    /// A route's topics have one durability, so that what leaves by it is for the log as a whole or not at all.
    routes: [BTreeMap<Vec<u32>, u32>; DURABILITIES],
    route_rules: Vec<RouteRule>,
    targets: Vec<Target>,
}

impl<'a> Topics<'a> {
    fn new(source: &'a RulesetSource) -> Self {
        Self {
            source,
            rules: vec![TopicRule::default()],
            set_groups: vec![None; source.sets.len()],
            set_routes: [(); DURABILITIES].map(|()| vec![None; source.sets.len()]),
            groups: BTreeMap::from([(Vec::new(), 0)]),
            routes: [(); DURABILITIES].map(|()| BTreeMap::from([(Vec::new(), ROUTE_NONE)])),
            route_rules: Vec::new(),
            targets: Vec::new(),
        }
    }

    /// Adds a topic; ids must rise.
    fn add(&mut self, topic: &TopicSource) -> Result<(), CompileError> {
        let id = topic.topic_id;
        if id == 0 || id >= TOPIC_SLOTS_MAX {
            return Err(CompileError::TopicId(id));
        }
        let slot = id as usize;
        if slot < self.rules.len() {
            return Err(CompileError::DuplicateTopic(id));
        }
        if !bucket_fits(topic.quota.period, topic.quota.burst) {
            return Err(CompileError::TopicQuota(id));
        }
        if topic.durability == Durability::Durable && topic.when_full == WhenFull::Mark {
            return Err(CompileError::DurableMark(id));
        }
        let rule = TopicRule {
            period: topic.quota.period.into(),
            burst: topic.quota.burst.into(),
            route: self.route(topic)?.into(),
            group: self.group(id, topic.publishers)?.into(),
            flags: topic_flags(topic).into(),
            topic_id: id.into(),
            reserved: U64::ZERO,
        };
        self.rules.resize(slot, TopicRule::default());
        self.rules.push(rule);
        Ok(())
    }

    /// Numbers routes with one target first, in the order in which topics first took them, so that each of those has its
    /// target's number: the worker then finds where such a message goes without asking for the route.
    fn single_targets_first(&mut self) {
        let single = |rule: &RouteRule| rule.target_count.get() == 1;
        let mut order: Vec<usize> = (0..self.route_rules.len()).collect();
        order.sort_by_key(|index| !single(&self.route_rules[*index])); // stable
        let (rules, targets) = (core::mem::take(&mut self.route_rules), core::mem::take(&mut self.targets));
        let mut renumbered = vec![0_u32; rules.len()];
        for (new, old) in (0_u32..).zip(&order) {
            let rule = rules[*old];
            let first = rule.first_target.get() as usize;
            renumbered[*old] = new;
            self.route_rules.push(RouteRule {
                route_id: (new + 1).into(),
                first_target: u32::try_from(self.targets.len()).unwrap_or(u32::MAX).into(),
                ..rule
            });
            self.targets.extend(&targets[first..first + usize::from(rule.target_count.get())]);
        }
        // A slot that is not in use stays all zeros.
        for rule in self.rules.iter_mut().filter(|rule| rule.flags.get() & TOPIC_KNOWN != 0) {
            if let Some(route) = renumbered.get(rule.route.get() as usize) {
                rule.route.set(*route);
            }
        }
    }

    fn group(&mut self, topic_id: u32, set: SetId) -> Result<u16, CompileError> {
        if let Some(Some(group)) = self.set_groups.get(set as usize) {
            return Ok(*group);
        }
        let members = self.members(topic_id, set)?;
        if let Some(principal) = members.last().filter(|principal| **principal >= self.source.principals) {
            return Err(CompileError::UnknownPrincipal { topic_id, principal: *principal });
        }
        let next = u16::try_from(self.groups.len()).map_err(|_| CompileError::TooManyGroups { topic_id });
        let group = match self.groups.get(&members) {
            Some(group) => *group,
            None => *self.groups.entry(members).or_insert(next?),
        };
        self.set_groups[set as usize] = Some(group);
        Ok(group)
    }

    fn route(&mut self, topic: &TopicSource) -> Result<u32, CompileError> {
        let (kind, set) = (topic.durability as usize, topic.subscribers as usize);
        if let Some(Some(route)) = self.set_routes[kind].get(set) {
            return Ok(*route);
        }
        let members = self.members(topic.topic_id, topic.subscribers)?;
        let route = match self.routes[kind].get(&members) {
            Some(route) => *route,
            None => self.new_route(topic.topic_id, kind, members)?,
        };
        self.set_routes[kind][set] = Some(route);
        Ok(route)
    }

    fn new_route(&mut self, topic_id: u32, kind: usize, members: Vec<u32>) -> Result<u32, CompileError> {
        if let Some(slot) = members.last().filter(|slot| **slot >= SUBSCRIBERS_MAX) {
            return Err(CompileError::SubscriberSlot { topic_id, slot: *slot });
        }
        let too_many = CompileError::FanOut { topic_id, subscribers: members.len() };
        let target_count = u16::try_from(members.len()).ok().filter(|count| *count <= FAN_OUT_MAX).ok_or(too_many)?;
        // Below 2²², so both numbers fit: at most ROUTES_MAX routes of at most FAN_OUT_MAX targets.
        let index = u32::try_from(self.route_rules.len()).unwrap_or(ROUTES_MAX);
        let first_target = u32::try_from(self.targets.len()).unwrap_or(u32::MAX);
        if index >= ROUTES_MAX {
            return Err(CompileError::TooManyRoutes { topic_id });
        }
        self.route_rules.push(RouteRule {
            route_id: (index + 1).into(),
            first_target: first_target.into(),
            target_count: target_count.into(),
            for_log: [ROUTE_VOLATILE, ROUTE_LOGGED, ROUTE_DURABLE][kind],
            reserved: [0; 5],
        });
        self.targets.extend(members.iter().copied().map(Target::new));
        self.routes[kind].insert(members, index);
        Ok(index)
    }

    /// A set's members, rising, each once.
    fn members(&self, topic_id: u32, set: SetId) -> Result<Vec<u32>, CompileError> {
        let set_unknown = CompileError::UnknownSet { topic_id, set };
        let mut members = self.source.sets.get(set as usize).ok_or(set_unknown)?.clone();
        members.sort_unstable();
        members.dedup();
        Ok(members)
    }

    /// The rights section: a row for each principal, bit g for each group g that it belongs to.
    fn rights(&self) -> (u32, Vec<U64>) {
        let words = self.groups.len().div_ceil(64);
        let mut rights = vec![U64::ZERO; words * self.source.principals as usize];
        for (members, group) in &self.groups {
            let (word, bit) = (usize::from(group / 64), group % 64);
            for principal in members {
                rights[*principal as usize * words + word] |= U64::new(1 << bit);
            }
        }
        (u32::try_from(words).unwrap_or(RIGHTS_WORDS_MAX), rights)
    }
}

fn topic_flags(topic: &TopicSource) -> u16 {
    let when_full = match topic.when_full {
        WhenFull::Taildrop => FULL_TAILDROP,
        WhenFull::Mark => FULL_MARK,
        WhenFull::Nack => FULL_NACK,
        WhenFull::Buffer => FULL_BUFFER,
    };
    let durability = match topic.durability {
        Durability::Volatile => 0,
        Durability::Logged => TOPIC_LOGGED | when_full << TOPIC_FULL_SHIFT,
        Durability::Durable => TOPIC_DURABLE | when_full << TOPIC_FULL_SHIFT,
    };
    let tag = if topic.tag_required { TOPIC_TAG_REQUIRED } else { 0 };
    let quarantine = if topic.quarantine { TOPIC_QUARANTINE } else { 0 };
    TOPIC_KNOWN | durability | tag | quarantine
}

fn write_image(source: &RulesetSource, topics: &Topics<'_>, senders: &[SenderRule]) -> Vec<u8> {
    let (rights_words, rights) = topics.rights();
    // Every length was held against its limit, and the limits fit.
    let count = |records: usize| u32::try_from(records).unwrap_or(u32::MAX).into();
    let mut header = ImageHeader::new_zeroed();
    header.magic = MAGIC;
    header.layout = LAYOUT.into();
    header.version = source.version.into();
    header.shard_count = u32::from(source.shard_count).into();
    header.topic_slots = count(topics.rules.len());
    header.sender_slots = count(senders.len());
    header.principals = source.principals.into();
    header.rights_words = rights_words.into();
    header.routes = count(topics.route_rules.len());
    header.targets = count(topics.targets.len());
    let sections = Sections::of(&header).expect("the limits keep an image below 1 GiB");
    header.length = (sections.length as u64).into();
    let mut image = vec![0; sections.length];
    image[..HEADER].copy_from_slice(header.as_bytes());
    image[sections.topics].copy_from_slice(topics.rules.as_bytes());
    image[sections.senders].copy_from_slice(senders.as_bytes());
    image[sections.rights].copy_from_slice(rights.as_bytes());
    image[sections.routes].copy_from_slice(topics.route_rules.as_bytes());
    image[sections.targets].copy_from_slice(topics.targets.as_bytes());
    seal(&mut image);
    image
}
