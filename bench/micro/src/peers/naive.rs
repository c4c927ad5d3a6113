//! The loop as a good engineer would write it first: hash maps, `governor` limiters, one message at a time into a queue per
//! subscriber.
//!
//! It makes every check that ours makes, by the same functions of `wire` and under the same compiled rules, and sends
//! frames that a subscriber takes. What it lacks is layout: state lies where the maps put it, and nothing is asked for
//! ahead of time. It spends no time on what ours does beside: counters for readers, histograms, completions, acks.
//!
//! Rates and quotas are one direct limiter per topic and sender, in the map that the topic or sender is looked up in
//! anyway. `governor`'s keyed limiters have one quota for all keys, which is not what the rules say, and are no faster (a
//! check over 65,536 keys: direct in a map 84 ns, keyed 124; 2.6 GHz Xeon). Hashing is the standard library's, as it comes,
//! with one row that says what a faster hash would change.

use super::{row, take_turns, turn};
use crate::{
    case::{Case, Proof},
    input::{self, SOURCE, Source},
    whole::{Clock, Loop},
};
use crossbeam_queue::ArrayQueue;
use foldhash::fast::RandomState as FastState;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use serde_json::Value;
use std::{
    collections::{HashMap, HashSet, VecDeque, hash_map::RandomState},
    hash::{BuildHasher, Hash},
    hint::black_box,
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tachyon_driver_api::{Buffer, Received};
use tachyon_policy::{Publisher, Ruleset};
use tachyon_wire::{
    Endpoint, Message, Reason,
    build::{FrameFields, FrameWriter, Seal},
    command, crc,
    frame::{self, Frame, Lane},
    image::{TICKS_PER_NS, TOPIC_KNOWN, TOPIC_TAG_REQUIRED},
    message, payload,
    tag::{self, FrameKey},
};

/// Frames that a session may repeat or overtake; the wire document fixes it.
const WINDOW: u32 = 1_024;
/// How far an untagged session may jump ahead.
const JUMP_MAX: u32 = 65_536;
/// Frame ids end here; behind it comes the next epoch.
const FRAME_ID_MAX: u32 = 1 << 31;
/// Room for a subscriber's messages: more than one received buffer holds.
const QUEUE: usize = 1_024;
/// Epoch that the generated frames come under, and the node's first.
const EPOCH: u32 = 1;
/// The one principal of the generated rules; every session is its.
const PRINCIPAL: u32 = 0;
/// Classes of messages; none is shed here, but the check is made.
const CLASSES: u8 = 4;

/// What was agreed with a publisher.
struct Session {
    publisher: Publisher,
    pinned: Endpoint,
    key: FrameKey,
}

/// What was seen of a session in one shard.
#[derive(Default)]
struct Replay<S> {
    highest: u32,
    seen: HashSet<u32, S>,
}

/// A topic's rule, its bucket, and who gets what is published on it.
struct Topic {
    tag_required: bool,
    rate: Option<DefaultDirectRateLimiter>,
    subscribers: Vec<usize>,
}

/// Where copies go: one queue, one session.
struct Subscriber {
    queue: ArrayQueue<Message>,
    session_id: u32,
    key: FrameKey,
    /// The next frame's id, by shard.
    next_id: HashMap<u16, u32>,
}

/// The whole of it.
struct Naive<S> {
    case: Case,
    lane: Lane,
    sessions: HashMap<u32, Session, S>,
    replays: HashMap<(u32, u16), Replay<S>, S>,
    /// Which principal may publish on which topic.
    rights: HashSet<(u32, u32), S>,
    topics: HashMap<u32, Topic, S>,
    senders: HashMap<u32, Option<DefaultDirectRateLimiter>, S>,
    subscribers: Vec<Subscriber>,
    pressure: u8,
    /// The frame being built; the one before is gone once it was handed over.
    egress: Vec<u8>,
    accepted: u64,
    delivered: u64,
    refused: HashMap<Reason, u64>,
}

fn map<K: Eq + Hash, V, S: BuildHasher + Default>(items: impl Iterator<Item = (K, V)>) -> HashMap<K, V, S> {
    items.collect()
}

/// A limit of the compiled rules as `governor` has it; none where the rules have none.
fn limiter(period: u64, burst: u32) -> Option<DefaultDirectRateLimiter> {
    let quota = Quota::with_period(Duration::from_nanos(period / TICKS_PER_NS))?;
    Some(RateLimiter::direct(quota.allow_burst(NonZeroU32::new(burst)?)))
}

/// Whether the compiled rules give a principal the right to publish on a topic.
fn may_publish(rules: &Ruleset<'_>, principal: u32, topic_id: u32) -> bool {
    let group = rules.topic(topic_id).map_or(0, |rule| usize::from(rule.group.get()));
    rules.rights_row(principal).get(group / 64).is_some_and(|word| word.get() >> (group % 64) & 1 != 0)
}

impl<S: BuildHasher + Default> Naive<S> {
    fn new(rules: &Ruleset<'_>, case: &Case) -> Self {
        let sessions = (0..case.sessions)
            .map(|number| input::session(case, number))
            .map(|open| (open.session_id.get(), Session::from(&open)));
        let topics = (1..case.topics).filter_map(|topic_id| Some((topic_id, Topic::of(rules, topic_id)?)));
        let senders = (0..case.senders).filter_map(|sender_id| {
            let rule = rules.sender(sender_id)?;
            Some((sender_id, limiter(rule.period.get(), rule.burst.get())))
        });
        Self {
            case: *case,
            lane: Lane { frame_bytes_max: 1_472, references: false },
            sessions: map(sessions),
            replays: HashMap::default(),
            rights: (1..case.topics)
                .filter(|topic_id| may_publish(rules, PRINCIPAL, *topic_id))
                .map(|id| (PRINCIPAL, id))
                .collect(),
            topics: map(topics),
            senders: map(senders),
            subscribers: (0..case.destinations).map(Subscriber::new).collect(),
            pressure: 0,
            egress: vec![0; case.frame_bytes()],
            accepted: 0,
            delivered: 0,
            refused: HashMap::new(),
        }
    }

    /// Takes a received buffer, which holds frames of one shard, through the whole loop.
    fn receive(&mut self, bytes: &[u8], stride: usize, shard: u16) {
        for frame in bytes.chunks(stride) {
            match self.admit(frame, shard, &SOURCE) {
                Ok((frame, publisher)) => {
                    for message in frame.messages {
                        if let Err(reason) = self.judge(message, &frame, &publisher) {
                            *self.refused.entry(reason).or_default() += 1;
                        }
                    }
                }
                Err(reason) => *self.refused.entry(reason).or_default() += 1,
            }
        }
        self.send(shard);
    }

    /// The frame checks, in the wire document's order.
    fn admit<'f>(&mut self, bytes: &'f [u8], shard: u16, from: &Endpoint) -> Result<(Frame<'f>, Publisher), Reason> {
        let frame = frame::parse(bytes, &self.lane)?;
        let header = frame.header;
        frame::check_route(&frame, false)?;
        if header.shard.get() != shard || shard >= self.case.place.shards {
            return Err(Reason::WrongShard);
        }
        let session_id = header.session_id.get();
        let session = self.sessions.get(&session_id).ok_or(Reason::NoSession)?;
        if !session.pinned.is_none() && !session.pinned.pins(from) {
            return Err(Reason::NoSession);
        }
        let tagged = frame.is_authenticated();
        if tagged && !tag::verify(&session.key, &frame) {
            return Err(Reason::BadTag);
        }
        if !tagged && !crc::verify(&frame) {
            return Err(Reason::BadCrc);
        }
        if header.epoch.get() != EPOCH {
            return Err(Reason::Stale);
        }
        self.replays.entry((session_id, shard)).or_default().settle(header.frame_id.get(), tagged)?;
        payload::check(&frame)?;
        Ok((frame, session.publisher))
    }

    /// The message checks, in the wire document's order; an accepted message is in its subscribers' queues.
    fn judge(&mut self, message: &Message, frame: &Frame<'_>, publisher: &Publisher) -> Result<(), Reason> {
        message::check(message, self.lane.references)?;
        let (topic_id, sender_id) = (message.topic_id.get(), message.sender_id.get());
        if topic_id % u32::from(self.case.place.shards) != u32::from(frame.header.shard.get()) {
            return Err(Reason::TopicShard);
        }
        if message.flags.get() & message::SYSTEM_PACKET != 0 && !publisher.system {
            return Err(Reason::SystemDenied);
        }
        if !(publisher.sender_low..=publisher.sender_high).contains(&sender_id) {
            return Err(Reason::Sender);
        }
        let topic = self.topics.get(&topic_id).ok_or(Reason::Denylisted)?;
        if !self.rights.contains(&(publisher.principal, topic_id)) {
            return Err(Reason::Denylisted);
        }
        if topic.tag_required && !frame.is_authenticated() {
            return Err(Reason::TopicTagRequired);
        }
        if message.class().max(publisher.class_cap) >= CLASSES - self.pressure {
            return Err(Reason::Shed);
        }
        let quota = self.senders.get(&sender_id).ok_or(Reason::QuotaExceeded)?;
        if quota.as_ref().is_some_and(|quota| quota.check().is_err()) {
            return Err(Reason::QuotaExceeded);
        }
        // What the sender spent stays spent if the topic has no room: these limiters cannot be asked without spending.
        if topic.rate.as_ref().is_some_and(|rate| rate.check().is_err()) {
            return Err(Reason::Throttled);
        }
        self.accepted += 1;
        for subscriber in &topic.subscribers {
            if self.subscribers[*subscriber].queue.push(*message).is_err() {
                *self.refused.entry(Reason::TxCongestion).or_default() += 1;
            }
        }
        Ok(())
    }

    /// Empties every queue into sealed frames, each handed over as soon as it is complete.
    fn send(&mut self, shard: u16) {
        let sent_ns = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        for (slot, subscriber) in (1..).zip(&mut self.subscribers) {
            while !subscriber.queue.is_empty() {
                let next_id = subscriber.next_id.entry(shard).or_insert(1);
                let fields = FrameFields {
                    flags: 0,
                    route_id: slot,
                    frame_id: *next_id,
                    session_id: subscriber.session_id,
                    shard,
                    sent_ns: u64::try_from(sent_ns).unwrap_or(u64::MAX),
                    epoch: EPOCH,
                };
                *next_id += 1;
                let mut writer = FrameWriter::new(&mut self.egress, fields);
                while writer.count() < self.case.messages
                    && let Some(message) = subscriber.queue.pop()
                {
                    writer.push(&message).expect("as many messages fit as came in a frame");
                }
                self.delivered += writer.count() as u64;
                let bytes = writer.finish(match self.case.egress {
                    Proof::Crc => Seal::Crc,
                    Proof::Tag => Seal::Tag(&subscriber.key),
                });
                black_box(&self.egress[..bytes]);
            }
        }
    }
}

impl From<&command::OpenSession> for Session {
    fn from(open: &command::OpenSession) -> Self {
        let publisher = Publisher {
            principal: open.principal.get(),
            sender_low: open.sender_low.get(),
            sender_high: open.sender_high.get(),
            class_cap: open.class_cap,
            system: open.flags & command::SESSION_SYSTEM != 0,
        };
        let key = tag::derive(&open.master, open.session_id.get(), EPOCH);
        Self { publisher, pinned: open.pinned, key }
    }
}

impl<S: BuildHasher + Default> Replay<S> {
    /// Settles a frame at most once.
    fn settle(&mut self, id: u32, tagged: bool) -> Result<(), Reason> {
        if id > FRAME_ID_MAX || id + WINDOW <= self.highest || (!tagged && id > self.highest + JUMP_MAX) {
            return Err(Reason::Stale);
        }
        if !self.seen.insert(id) {
            return Err(Reason::Replay);
        }
        if id > self.highest {
            // Steps are short but for a jump ahead, after which little is left to keep.
            if id - self.highest < WINDOW {
                for gone in (self.highest + 1).saturating_sub(WINDOW)..(id + 1).saturating_sub(WINDOW) {
                    self.seen.remove(&gone);
                }
            } else {
                self.seen.retain(|seen| seen + WINDOW > id);
            }
            self.highest = id;
        }
        Ok(())
    }
}

impl Topic {
    /// The rule that ours goes by, taken out of the same image.
    fn of(rules: &Ruleset<'_>, topic_id: u32) -> Option<Self> {
        let rule = rules.topic(topic_id).filter(|rule| rule.flags.get() & TOPIC_KNOWN != 0)?;
        let targets = rules.route(rule.route.get()).map_or(&[][..], |(_, targets)| targets);
        Some(Self {
            tag_required: rule.flags.get() & TOPIC_TAG_REQUIRED != 0,
            rate: limiter(rule.period.get(), rule.burst.get()),
            subscribers: targets.iter().map(|slot| slot.get() as usize).collect(),
        })
    }
}

impl Subscriber {
    fn new(slot: u32) -> Self {
        let session_id = 10_000 + slot;
        let key = tag::derive(&[slot.to_le_bytes()[0]; 32], session_id, EPOCH);
        Self { queue: ArrayQueue::new(QUEUE), session_id, key, next_id: HashMap::new() }
    }
}

/// The naive loop with its own input, which is the same as ours if it was asked for as often.
struct Peer<S> {
    naive: Naive<S>,
    source: Source,
    spare: Vec<Buffer>,
    loaded: VecDeque<Received>,
}

impl<S: BuildHasher + Default> Peer<S> {
    /// Met every session, shard and topic before this returns, as [`Loop::with`] did.
    fn new(case: &Case, source: Source, ring: usize) -> Self {
        let mut new = Self {
            naive: Naive::new(&input::ruleset(case, 1).ruleset(), case),
            source,
            spare: input::arena(ring).take(ring).expect("the arena is large enough"),
            loaded: VecDeque::new(),
        };
        let mut at = 0;
        while new.source.introduce(&mut at, &mut new.spare, &mut new.loaded) {
            new.drain();
        }
        for _ in 0..new.source.buffers().div_ceil(ring) {
            new.round(ring);
        }
        new
    }

    /// Makes the next `count` buffers, and takes them through the loop; what the latter takes.
    fn round(&mut self, count: usize) -> Duration {
        self.source.load(count, &mut self.spare, &mut self.loaded);
        let begun = Instant::now();
        self.drain();
        begun.elapsed()
    }

    #[inline(never)]
    fn drain(&mut self) {
        for item in self.loaded.drain(..) {
            self.naive.receive(&item.buffer.bytes()[..item.len as usize], item.stride as usize, item.shard);
            self.spare.push(item.buffer);
        }
    }

    /// A pass of as many messages as ours has; ns per message.
    fn pass(&mut self, (rounds, buffers): (usize, usize)) -> f64 {
        let spent: Duration = (0..rounds).map(|_| self.round(buffers)).sum();
        spent.as_secs_f64() * 1e9 / (rounds * buffers * self.naive.case.per_buffer()) as f64
    }

    /// # Panics
    /// If its verdicts were others than ours, which accepts and sends everything.
    fn check(&self) {
        let offered = self.source.offered;
        assert!(self.naive.refused.is_empty(), "the naive loop refused {:?}", self.naive.refused);
        assert_eq!(self.naive.accepted, offered, "the naive loop accepted every message");
        assert_eq!(self.naive.delivered, offered * u64::from(self.naive.case.fan_out), "and sent every copy");
    }
}

/// With crc on both sides.
pub(super) fn crc(seed: u64, rounds: usize) -> Vec<Value> {
    with_ours::<RandomState>("crc -> crc", &Case::BASE, seed, rounds)
}

/// With tags on both sides.
pub(super) fn tag(seed: u64, rounds: usize) -> Vec<Value> {
    let case = Case { ingress: Proof::Tag, egress: Proof::Tag, ..Case::BASE };
    with_ours::<RandomState>("tag -> tag", &case, seed, rounds)
}

/// How much of it is the standard library's careful hash.
pub(super) fn foldhash(seed: u64, rounds: usize) -> Vec<Value> {
    let [ours, naive] = measure::<FastState>(&Case::BASE, seed, rounds);
    let what = "whole loop crc -> crc, 65,536 topics, 22 a frame";
    vec![row("naive crc -> crc, foldhash", what, naive, ours, "the naive loop with a fast hash in all its maps")]
}

fn with_ours<S: BuildHasher + Default>(name: &str, case: &Case, seed: u64, rounds: usize) -> Vec<Value> {
    let [ours, naive] = measure::<S>(case, seed, rounds);
    let what = format!("whole loop {name}, 65,536 topics, 22 a frame");
    let note = "std HashMap, governor, crossbeam ArrayQueue, one message at a time";
    vec![
        row(&format!("ours {name}"), &what, ours, ours, "the worker itself, in turns with the next row"),
        row(&format!("naive {name}"), &what, naive, ours, note),
    ]
}

/// Ours and the naive loop, both ready to run over the same frames.
fn both<S: BuildHasher + Default>(case: &Case, source: impl Fn() -> Source) -> (Loop, Peer<S>) {
    let rulesets = Arc::new(vec![input::ruleset(case, 1)]);
    let ours = Loop::with(case, source(), rulesets, Clock::Since(Instant::now()), case.ring());
    (ours, Peer::new(case, source(), case.ring()))
}

/// Ours and the naive loop in turns; ns per message of each.
fn measure<S: BuildHasher + Default>(case: &Case, seed: u64, rounds: usize) -> [f64; 2] {
    let (mut ours, mut peer) = both::<S>(case, || Source::new(case, seed));
    let size = ours.rounds();
    let figures = take_turns(rounds, [&mut || turn(|| ours.pass().0), &mut || turn(|| peer.pass(size))]);
    ours.check();
    peer.check();
    assert_eq!(ours.source.offered, peer.source.offered, "both were offered the same");
    figures
}

#[cfg(test)]
mod tests {
    use super::*;
    use tachyon_wire::LINE;

    const CASE: Case = Case { topics: 1_024, ..Case::BASE };
    /// What a message of the tests needs of a frame.
    const BYTES: usize = 2 * LINE;

    /// One frame of one message, sealed with a crc, of the first session.
    fn frame(id: u32, topic: u32, sender: u32) -> Vec<u8> {
        let mut bytes = vec![0; BYTES];
        let shard = u16::try_from(topic % u32::from(CASE.place.shards)).expect("a shard");
        let session_id = input::session_id(&CASE, 0);
        let fields = FrameFields { frame_id: id, session_id, shard, epoch: EPOCH, ..FrameFields::default() };
        let mut writer = FrameWriter::new(&mut bytes, fields);
        let message = Message::inline(topic, sender, 2, b"payload").expect("a short payload");
        writer.push(&message).expect("one message fits");
        assert_eq!(writer.finish(Seal::Crc), BYTES);
        bytes
    }

    #[test]
    fn refuses_what_ours_refuses_and_for_the_same_reasons() {
        let mut naive = Naive::<RandomState>::new(&input::ruleset(&CASE, 1).ruleset(), &CASE);
        let stranger = input::senders(&CASE, 0).1 + 1;
        let good = frame(1, 17, 0);
        let mut damaged = frame(2, 17, 0);
        damaged[100] ^= 1;
        for bytes in [&good, &good, &damaged, &frame(3, 17, stranger), &frame(4, CASE.topics + 1, 0), &frame(5, 33, 1)]
        {
            naive.receive(bytes, BYTES, 1);
        }
        naive.receive(&frame(6, 18, 0), BYTES, 1);
        let mut refused: Vec<_> = naive.refused.into_iter().collect();
        refused.sort();
        let mut expected = [Reason::Replay, Reason::BadCrc, Reason::Sender, Reason::Denylisted, Reason::WrongShard];
        expected.sort();
        assert_eq!(refused, expected.map(|reason| (reason, 1)));
        assert_eq!((naive.accepted, naive.delivered), (2, 2));
    }

    #[test]
    fn both_meet_the_same_frames_and_send_all_of_them_on() {
        for proof in [Proof::Crc, Proof::Tag] {
            let case = Case { ingress: proof, egress: proof, ..CASE };
            let (mut ours, mut peer) = both::<RandomState>(&case, || Source::of(&case, 3, 8 * case.per_buffer()));
            let few = (3, case.ring());
            peer.pass(few);
            for _ in 0..few.0 {
                ours.load(few.1);
                ours.drain();
            }
            ours.check();
            peer.check();
            assert_eq!(ours.source.offered, peer.source.offered);
            let [mut one, mut other] = [[0; BYTES]; 2];
            assert_eq!(ours.source.frame(&mut one, 1, 0), peer.source.frame(&mut other, 1, 0));
            assert_eq!(one, other, "the next frame of both");
        }
    }

    #[test]
    fn forgets_frames_that_left_the_window_and_refuses_them() {
        let mut replay = Replay::<RandomState>::default();
        for id in 1..=3 * WINDOW {
            assert_eq!(replay.settle(id, false), Ok(()));
        }
        assert_eq!(replay.seen.len(), WINDOW as usize);
        assert_eq!(replay.settle(2 * WINDOW, false), Err(Reason::Stale));
        assert_eq!(replay.settle(2 * WINDOW + 1, false), Err(Reason::Replay));
        assert_eq!(replay.settle(3 * WINDOW + JUMP_MAX + 1, false), Err(Reason::Stale));
        assert_eq!(replay.settle(9 * WINDOW, true), Ok(()));
        assert_eq!(replay.seen.len(), 1);
    }
}
