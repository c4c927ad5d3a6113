//! Random operations against the worker and against the model of it: the same verdicts, the same bytes, the same replies.

use crate::fabric::{
    Config, Draws, Fabric, Reply, Rules, SESSIONS_MAX, message,
    model::{Model, Told},
    reasons,
};
use proptest::{prelude::*, test_runner::TestCaseError};
use std::collections::{BTreeMap, BTreeSet};
use tachyon_policy::compile::{Durability, Quota};
use tachyon_wire::{
    Endpoint, Message,
    ack::AckBody,
    command::{Command, SESSION_NODE, SESSION_SYSTEM},
    frame::ACK_WANTED,
    message::SYSTEM_PACKET,
};

/// Quarantined messages that the worker hands over per burst.
const QUARANTINED_PER_BURST: u64 = 8;
const SHARDS: [u16; 3] = [0, 1, 2];

/// Three kinds of rules that differ in rights, limits, routes and what topics ask for.
fn rules(version: u64) -> Rules {
    let kind = u32::try_from(version % 3).unwrap();
    let slow = Quota::new(1, 3_000, 4 + kind).unwrap();
    let mut rules = (0..6).fold(Rules::new(version), |rules, sender| rules.sender(sender, Quota::UNLIMITED));
    rules = rules.sender(6, slow).sender(7, Quota::new(1, 700, 3).unwrap());
    for topic in 1..16u32 {
        let publishers: &[u32] = if (topic + kind).is_multiple_of(5) { &[1] } else { &[0, 1] };
        let slots: Vec<u32> = (0..(topic + kind) % 4).map(|slot| (slot + kind) % 4).collect();
        rules = rules.topic(topic, publishers, &slots).with(|rule| {
            rule.tag_required = topic % 7 == kind;
            rule.quarantine = topic % 2 == 0;
            rule.quota = if topic % 6 == kind { slow } else { Quota::UNLIMITED };
            rule.durability = if topic % 11 == kind { Durability::Durable } else { Durability::Volatile };
        });
    }
    rules
}

struct Pair {
    fabric: Fabric,
    model: Model,
    version: u64,
    /// Frames of the past: publisher, shard, bytes.
    sent: Vec<(usize, u16, Vec<u8>)>,
    /// On their way into the worker: bytes, port, source.
    under_way: Vec<(Vec<u8>, u16, Endpoint)>,
    quarantined: u64,
}

impl Pair {
    fn new() -> Self {
        let config = Config { shards: &SHARDS, pool: 384, outside: 320, buffer_bytes: 2048, ..Config::default() };
        let mut pair = Self {
            fabric: Fabric::new(config, None),
            model: Model::new(4, &SHARDS, 1472, SESSIONS_MAX),
            version: 0,
            sent: Vec::new(),
            under_way: Vec::new(),
            quarantined: 0,
        };
        for slot in 0..4 {
            pair.fabric.subscriber(slot % 2 == 0, 500, [1472, 256, 704, 1472][slot]);
            pair.fabric.subscribers[slot].damaged = true;
            pair.model.add(&pair.fabric.subscribers[slot].add());
        }
        for number in 0..4 {
            pair.fabric.publisher(u32::from(number == 2), number != 1);
            pair.open(number, 3);
        }
        pair.swap();
        pair
    }

    /// Publisher 0 must tag, 1 need not, 2 is a node with the system right, 3 is pinned.
    fn open(&mut self, number: usize, floor: u32) {
        let mut open = self.fabric.publishers[number].open();
        open.epoch_floor = floor.into();
        open.sender_high = 9.into();
        open.flags |= if number == 2 { SESSION_SYSTEM | SESSION_NODE } else { 0 };
        open.pinned = if number == 3 { self.fabric.publishers[3].endpoint } else { Endpoint::NONE };
        self.model.open(&open);
        self.fabric.command(Command::OpenSession(open));
    }

    fn swap(&mut self) {
        self.version += 1;
        let rules = rules(self.version);
        let image = rules.clone().verified();
        let ruleset = image.ruleset();
        let route = |topic: u32| Some((topic, ruleset.route(ruleset.topic(topic)?.route.get())?.0.route_id.get()));
        self.model.routes = (1..16).filter_map(route).collect();
        self.model.rules = Some(rules.source.clone());
        self.fabric.apply(rules);
    }

    fn send(&mut self, bytes: &[u8], port: u16, source: Endpoint) {
        if !bytes.is_empty() && self.fabric.send_from(source, port, &[bytes]) {
            self.under_way.push((bytes.to_vec(), port, source));
        }
    }

    /// A frame of random messages, good and bad, under the publisher's next id.
    fn frame(&mut self, number: usize, shard: u16, draws: &mut Draws) -> Vec<u8> {
        let publisher = &mut self.fabric.publishers[number];
        let id = publisher.next_id(shard);
        let mut fields = publisher.fields(shard, if draws.below(2) == 0 { ACK_WANTED } else { 0 }, id);
        fields.route_id = if draws.below(12) == 0 { 5 } else { 0 };
        let now = self.fabric.now;
        let mut raw: Vec<Message> = Vec::new();
        let mut frame = publisher.write(fields, |writer| {
            for index in 0..1 + draws.below(12) as u64 {
                let topic = match draws.below(12) {
                    0 => 1 + draws.id(40),
                    _ => (u32::from(shard) + 4 * draws.id(4)).max(1),
                };
                let (sender, class) = (draws.id(11), u8::try_from(draws.below(4)).unwrap());
                let marks = if draws.below(15) == 0 { SYSTEM_PACKET } else { 0 };
                if draws.below(6) == 0 {
                    let body = vec![7; 1 + draws.below(300)];
                    let _ = writer.push_with_payload(topic, sender, class, marks, &body);
                } else {
                    let mut message = message(topic, sender, class, index, now).with_marks(marks);
                    if draws.below(15) == 0 {
                        message.data[40] = 1;
                    }
                    raw.push(message);
                    let _ = writer.push(&message);
                }
            }
        });
        if frame.len() > 1472 {
            frame = self.fabric.publishers[number].frame_as(shard, fields.flags, id, &raw[..raw.len().min(22)]);
        }
        frame
    }

    /// One turn of the worker, and the same of the model; what they say must be the same.
    fn step(&mut self, ns: u64) -> Result<(), TestCaseError> {
        let lost = self.fabric.worker.stats().counters.replies_lost;
        self.fabric.step(ns);
        let now = self.fabric.now;
        for (bytes, port, source) in std::mem::take(&mut self.under_way) {
            self.model.receive(&bytes, port, source, now);
        }
        let told = std::mem::take(&mut self.model.told);
        self.fabric.collect();
        let counters = &self.fabric.worker.stats().counters;
        let model = &self.model;
        prop_assert_eq!(counters.pressure, 0, "the model knows no pressure");
        prop_assert_eq!((counters.frames_admitted, counters.messages_accepted), (model.admitted, model.accepted));
        prop_assert_eq!(reasons(&counters.frames_refused), listed(&model.frames_refused));
        prop_assert_eq!(reasons(&counters.messages_refused), listed(&model.messages_refused));
        prop_assert_eq!(reasons(&counters.copies_refused), listed(&model.copies_refused));
        self.quarantined += (model.quarantined - model.quarantined_before).min(QUARANTINED_PER_BURST);
        prop_assert_eq!(counters.quarantined, self.quarantined);
        let lost = counters.replies_lost - lost;
        self.model.quarantined_before = self.model.quarantined;
        self.compare_replies(&told, lost)
    }

    fn compare_replies(&mut self, told: &[Told], lost: u64) -> Result<(), TestCaseError> {
        let mut acks: BTreeMap<(u32, u16), Vec<AckBody>> = BTreeMap::new();
        let mut nacks: BTreeSet<Told> = BTreeSet::new();
        for publisher in &mut self.fabric.publishers {
            for (shard, reply) in publisher.take_replies() {
                match reply {
                    Reply::Ack(ack) => acks.entry((ack.session_id.get(), shard)).or_default().push(ack),
                    Reply::Nack(nack) => {
                        nacks.insert(Told::Nack {
                            session_id: nack.session_id.get(),
                            epoch: nack.epoch.get(),
                            shard,
                            frame_id: nack.frame_id.get(),
                            reason: nack.reason,
                            accepted: (0..256).filter(|index| nack.is_accepted(*index)).collect(),
                        });
                    }
                }
            }
        }
        // At a new epoch all nacks of the old one are dropped, also those of the same burst.
        let is_due = |told: &&Told| match told {
            Told::Nack { session_id, epoch, shard, .. } => self.model.window((*session_id, *shard)).epoch == *epoch,
            Told::Ack { .. } => false,
        };
        let expected: BTreeSet<Told> = told.iter().filter(is_due).cloned().collect();
        prop_assert!(nacks.is_subset(&expected), "{:?} is not in {:?}", nacks, expected);
        prop_assert!(expected.len() as u64 - nacks.len() as u64 <= lost, "{:?} lacks of {:?}", nacks, expected);
        // An ack speaks of the end of the burst, so of what the model said last.
        let mut last = BTreeMap::new();
        for one in told {
            if let Told::Ack { session_id, shard, epoch, settled, refused } = one {
                last.insert((*session_id, *shard), (*epoch, settled, refused));
            }
        }
        prop_assert_eq!(acks.keys().collect::<Vec<_>>(), last.keys().collect::<Vec<_>>());
        for (key, acks) in acks {
            let (epoch, shard) = (self.model.window(key).epoch, key.1);
            let window = self.model.window(key);
            for ack in acks {
                prop_assert_eq!((ack.epoch.get(), ack.shard.get()), (epoch, shard));
                agree(&ack, &window.settled, &window.refused)?;
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(), TestCaseError> {
        self.step(1_000)?;
        self.fabric.finish();
        let mut got: BTreeMap<(u32, u32), Vec<_>> = BTreeMap::new();
        for copy in self.fabric.subscribers.iter().flat_map(|subscriber| &subscriber.received) {
            let key = (copy.session_id, copy.message.topic_id.get());
            got.entry(key).or_default().push((copy.route_id, copy.message, copy.payload.clone()));
        }
        let expected = self.model.egress.iter().map(|(key, copies)| {
            (*key, copies.iter().map(|copy| (copy.route_id, copy.message, copy.payload.clone())).collect::<Vec<_>>())
        });
        prop_assert_eq!(got, expected.collect::<BTreeMap<_, _>>());
        Ok(())
    }

    fn run(&mut self, kind: u8, choice: u32, seed: u64) -> Result<(), TestCaseError> {
        let mut draws = Draws(seed);
        let number = choice as usize % 4;
        let shard = u16::try_from(choice / 4 % 13).unwrap().min(12) % 4;
        let source = self.fabric.publishers[number].endpoint;
        match kind {
            0..=9 => {
                let frame = self.frame(number, shard, &mut draws);
                self.send(&frame, shard, source);
                self.sent.push((number, shard, frame));
            }
            10 => {
                // A frame of the past, or with a change that may or may not be sealed anew.
                let Some((number, shard, frame)) = self.sent.get(draws.below(self.sent.len().max(1))).cloned() else {
                    return Ok(());
                };
                self.send(&frame, shard, self.fabric.publishers[number].endpoint);
            }
            11 | 12 => {
                let mut frame = self.frame(number, shard, &mut draws);
                match draws.below(5) {
                    0 => frame.truncate(draws.below(frame.len())),
                    1 => frame.extend_from_slice(&[0; 64]),
                    _ => {
                        let at = if draws.below(2) == 0 { draws.below(64) } else { draws.below(frame.len()) };
                        frame[at] ^= 1 << draws.below(8);
                    }
                }
                if draws.below(2) == 0 && frame.len() >= 64 {
                    self.fabric.publishers[number].reseal(&mut frame);
                }
                let port = if draws.below(5) == 0 { 3 } else { shard };
                let source = if number == 3 && draws.below(3) == 0 { Endpoint::v4([1; 4], 1) } else { source };
                self.send(&frame, port, source);
            }
            13 => *self.fabric.publishers[number].last.entry(shard).or_default() += draws.id(1_500),
            14 => {
                let publisher = &mut self.fabric.publishers[number];
                let back = publisher.last.clone();
                publisher.epoch = publisher.epoch + draws.id(3) - u32::from(draws.below(4) == 0);
                publisher.last = if draws.below(3) == 0 { back } else { BTreeMap::new() };
            }
            15..=17 => {
                self.step(100)?;
                self.tell(kind, number, &mut draws);
            }
            _ => self.step(draws.next() % 6_000)?,
        }
        Ok(())
    }

    /// Rules, subscribers and sessions change.
    fn tell(&mut self, kind: u8, number: usize, draws: &mut Draws) {
        match kind {
            15 => {
                if draws.below(6) == 0 {
                    self.model.rules = None;
                    self.fabric.worker.host().in_force = Err(tachyon_wire::Reason::RulesetUnavailable);
                } else {
                    self.swap();
                }
            }
            16 => {
                let subscriber = &mut self.fabric.subscribers[number];
                match draws.below(3) {
                    0 => {
                        self.model.remove(subscriber.slot);
                        self.fabric.command(Command::RemoveSubscriber(u32::try_from(number).unwrap()));
                    }
                    _ => {
                        let add = subscriber.add();
                        self.model.add(&add);
                        self.fabric.command(Command::AddSubscriber(add));
                    }
                }
            }
            _ => {
                if draws.below(2) == 0 {
                    self.model.close(self.fabric.publishers[number].session_id);
                    self.fabric.command(Command::CloseSession(self.fabric.publishers[number].session_id));
                } else {
                    let floor = self.fabric.publishers[number].epoch + draws.id(2);
                    self.open(number, floor);
                }
            }
        }
    }
}

fn listed<K: Copy>(counts: &BTreeMap<K, u64>) -> Vec<(K, u64)> {
    counts.iter().map(|(key, count)| (*key, *count)).collect()
}

/// An ack says what these sets say, as far as it reaches.
fn agree(ack: &AckBody, settled: &BTreeSet<u32>, refused: &BTreeSet<u32>) -> Result<(), TestCaseError> {
    let top = settled.last().copied().unwrap_or(0);
    let open = ((top + 1).saturating_sub(1_024).max(1)..).find(|id| !settled.contains(id)).unwrap();
    prop_assert_eq!(ack.cumulative.get(), open - 1);
    for id in open..open + 256 {
        prop_assert_eq!(ack.is_settled(id), settled.contains(&id), "frame {}", id);
    }
    for id in open.saturating_sub(256).max(1)..open + 256 {
        prop_assert_eq!(ack.is_refused(id), refused.contains(&id) && id + 1_024 > top, "frame {}", id);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn does_what_the_model_does(operations in prop::collection::vec((0u8..22, any::<u32>(), any::<u64>()), 1..120)) {
        let mut pair = Pair::new();
        for (kind, choice, seed) in operations {
            pair.run(kind, choice, seed)?;
            if pair.under_way.len() > 20 {
                pair.step(50)?;
            }
        }
        pair.finish()?;
    }
}
