//! The worker as the design says it, slow and obvious: sets and maps, one frame at a time. It shares the parser, the seals
//! and `message::check` with the worker, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use tachyon_policy::compile::{Durability, Quota, RulesetSource, SenderSource, TopicSource};
use tachyon_wire::{
    Endpoint, Frame, Lane, Message, Reason,
    command::{AddSubscriber, OpenSession, SESSION_NODE, SESSION_SYSTEM, SESSION_TAG_REQUIRED},
    crc,
    frame::{self, ACK_WANTED},
    message::{self, SYSTEM_PACKET},
    payload, tag,
};

/// What a publisher has to be told, by what it asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Told {
    /// Everything that is settled, and everything in which something was refused, of this session, epoch and shard.
    Ack { session_id: u32, epoch: u32, shard: u16, settled: BTreeSet<u32>, refused: BTreeSet<u32> },
    /// A frame, the first reason, and which messages were accepted.
    Nack { session_id: u32, epoch: u32, shard: u16, frame_id: u32, reason: u8, accepted: Vec<u32> },
}

#[derive(Clone, Debug, Default)]
pub(crate) struct ModelWindow {
    pub(crate) epoch: u32,
    pub(crate) settled: BTreeSet<u32>,
    pub(crate) refused: BTreeSet<u32>,
    /// The last 64 places, by frame id.
    nacks: BTreeMap<u32, (u32, Told)>,
}

#[derive(Clone)]
struct ModelSession {
    open: OpenSession,
    windows: BTreeMap<u16, ModelWindow>,
    is_open: bool,
}

/// A bucket: how much of it is spent, in 1/16 ns, at which time, under which version.
#[derive(Clone, Copy, Default)]
struct Bucket {
    debt: u128,
    at: u128,
    version: u64,
}

/// A copy that a subscriber has to get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) route_id: u32,
    pub(crate) message: Message,
    pub(crate) payload: Option<Vec<u8>>,
}

#[derive(Default)]
pub(crate) struct Model {
    shard_count: u16,
    owned: BTreeSet<u16>,
    frame_bytes_max: u32,
    sessions_max: u32,
    pub(crate) rules: Option<RulesetSource>,
    /// By topic: the route id of its set of subscribers in the rules' image.
    pub(crate) routes: BTreeMap<u32, u32>,
    sessions: BTreeMap<u32, ModelSession>,
    subscribers: BTreeMap<u32, AddSubscriber>,
    topics: BTreeMap<u32, Bucket>,
    senders: BTreeMap<u32, Bucket>,
    pub(crate) admitted: u64,
    pub(crate) frames_refused: BTreeMap<Reason, u64>,
    pub(crate) accepted: u64,
    pub(crate) messages_refused: BTreeMap<Reason, u64>,
    pub(crate) copies_refused: BTreeMap<Reason, u64>,
    /// By egress session and topic, in order.
    pub(crate) egress: BTreeMap<(u32, u32), Vec<Expected>>,
    pub(crate) quarantined: u64,
    /// The same before the last burst.
    pub(crate) quarantined_before: u64,
    pub(crate) told: Vec<Told>,
}

impl Model {
    pub(crate) fn new(shard_count: u16, owned: &[u16], frame_bytes_max: u32, sessions_max: u32) -> Self {
        let owned = owned.iter().copied().collect();
        Self { shard_count, owned, frame_bytes_max, sessions_max, ..Self::default() }
    }

    pub(crate) fn open(&mut self, open: &OpenSession) {
        let id = open.session_id.get();
        let slot = id % self.sessions_max;
        self.sessions.retain(|other, _| *other == id || other % self.sessions_max != slot);
        let known = self.sessions.get(&id).filter(|session| session.open.master == open.master);
        let mut windows = known.map(|session| session.windows.clone()).unwrap_or_default();
        for shard in &self.owned {
            let window = windows.entry(*shard).or_default();
            if window.epoch < open.epoch_floor.get() {
                *window = ModelWindow { epoch: open.epoch_floor.get(), ..ModelWindow::default() };
            }
        }
        self.sessions.insert(id, ModelSession { open: *open, windows, is_open: true });
    }

    /// What a session has settled in a shard.
    pub(crate) fn window(&self, (session_id, shard): (u32, u16)) -> &ModelWindow {
        &self.sessions[&session_id].windows[&shard]
    }

    pub(crate) fn close(&mut self, session_id: u32) {
        if let Some(session) = self.sessions.get_mut(&session_id) {
            session.is_open = false;
        }
    }

    pub(crate) fn add(&mut self, add: &AddSubscriber) {
        self.subscribers.insert(add.slot.get(), *add);
    }

    pub(crate) fn remove(&mut self, slot: u32) {
        self.subscribers.remove(&slot);
    }

    /// Judges what came to the port of `shard`.
    pub(crate) fn receive(&mut self, bytes: &[u8], shard: u16, source: Endpoint, now: u64) {
        match self.admit(bytes, shard, source) {
            Err(reason) => *self.frames_refused.entry(reason).or_default() += 1,
            Ok(frame) => {
                self.admitted += 1;
                self.judge(&frame, shard, now);
            }
        }
    }

    fn admit<'a>(&mut self, bytes: &'a [u8], port: u16, source: Endpoint) -> Result<Frame<'a>, Reason> {
        let frame = frame::parse(bytes, &Lane { frame_bytes_max: self.frame_bytes_max, references: false })?;
        let header = frame.header;
        let session = self.sessions.get_mut(&header.session_id.get()).filter(|session| session.is_open);
        frame::check_route(&frame, session.as_ref().is_some_and(|session| session.open.flags & SESSION_NODE != 0))?;
        let shard = header.shard.get();
        if shard != port || !self.owned.contains(&port) {
            return Err(Reason::WrongShard);
        }
        let session = session.ok_or(Reason::NoSession)?;
        let pinned = session.open.pinned;
        if !pinned.is_none() && (pinned.ip != source.ip || (pinned.port.get() != 0 && pinned.port != source.port)) {
            return Err(Reason::NoSession);
        }
        let (id, epoch) = (header.frame_id.get(), header.epoch.get());
        let tagged = frame.is_authenticated();
        if tagged {
            let key = tag::derive(&session.open.master, header.session_id.get(), epoch);
            if tag::compute(&key, bytes) != header.tag {
                return Err(Reason::BadTag);
            }
        } else if session.open.flags & SESSION_TAG_REQUIRED != 0 {
            return Err(Reason::TagRequired);
        } else if crc::compute(bytes) != header.crc32c.get() {
            return Err(Reason::BadCrc);
        }
        let window = session.windows.get_mut(&shard).unwrap();
        let wants = header.flags.get() & ACK_WANTED != 0;
        if epoch < window.epoch && wants {
            self.told.push(ack(window, header.session_id.get(), shard));
        }
        if epoch < window.epoch || (!tagged && epoch > window.epoch + 1) {
            return Err(Reason::Stale);
        }
        if epoch > window.epoch {
            *window = ModelWindow { epoch, ..ModelWindow::default() };
        }
        let verdict = settle(window, id, tagged);
        let verdict = verdict.and_then(|()| {
            payload::check(&frame).inspect_err(|_| {
                window.refused.insert(id);
            })
        });
        if let Err(reason) = verdict {
            if wants {
                let kept = window.nacks.get(&(id % 64)).filter(|(of, _)| *of == id);
                self.told.extend(kept.map(|(_, nack)| nack.clone()));
                self.told.push(ack(window, header.session_id.get(), shard));
            }
            return Err(reason);
        }
        Ok(frame)
    }

    fn judge(&mut self, frame: &Frame<'_>, shard: u16, now: u64) {
        let session_id = frame.header.session_id.get();
        let open = self.sessions[&session_id].open;
        let (mut first, mut accepted) = (None, Vec::new());
        for (index, message) in (0..).zip(frame.messages) {
            match self.judge_message(message, &open, frame.is_authenticated(), shard, now) {
                Ok(topic) => {
                    // There is no log, so nobody takes what has to wait for it.
                    if topic.durability != Durability::Durable {
                        accepted.push(index);
                    }
                    self.accepted += 1;
                    self.forward(&topic, message, frame);
                }
                Err((reason, quarantine)) => {
                    first = first.or(Some(reason));
                    *self.messages_refused.entry(reason).or_default() += 1;
                    self.quarantined += u64::from(quarantine);
                }
            }
        }
        let (id, epoch) = (frame.header.frame_id.get(), frame.header.epoch.get());
        let window = self.sessions.get_mut(&session_id).unwrap().windows.get_mut(&shard).unwrap();
        let wants = frame.header.flags.get() & ACK_WANTED != 0;
        if let Some(reason) = first {
            window.refused.insert(id);
            if wants {
                let reason = reason.number();
                let nack = Told::Nack { session_id, epoch, shard, frame_id: id, reason, accepted };
                window.nacks.insert(id % 64, (id, nack.clone()));
                self.told.push(nack);
            }
        }
        if wants {
            self.told.push(ack(window, session_id, shard));
        }
    }

    /// The checks in the design's order. The second part of an error: whether it goes to quarantine.
    fn judge_message(
        &mut self,
        message: &Message,
        open: &OpenSession,
        tagged: bool,
        shard: u16,
        now: u64,
    ) -> Result<TopicSource, (Reason, bool)> {
        let plain = |reason| (reason, false);
        message::check(message, false).map_err(plain)?;
        let (topic_id, sender_id) = (message.topic_id.get(), message.sender_id.get());
        if topic_id % u32::from(self.shard_count) != u32::from(shard) {
            return Err(plain(Reason::TopicShard));
        }
        if message.flags.get() & SYSTEM_PACKET != 0 && open.flags & SESSION_SYSTEM == 0 {
            return Err(plain(Reason::SystemDenied));
        }
        if !(open.sender_low.get()..=open.sender_high.get()).contains(&sender_id) {
            return Err(plain(Reason::Sender));
        }
        let rules = self.rules.as_ref().ok_or(plain(Reason::RulesetUnavailable))?;
        let topic = rules.topics.iter().find(|topic| topic.topic_id == topic_id).copied();
        let topic = topic.ok_or(plain(Reason::Denylisted))?;
        let refused = |reason| Err((reason, topic.quarantine));
        let now = u128::from(now) * 16;
        let bucket = self.topics.entry(topic_id).or_default();
        bucket.adopt(topic.quota, rules.version, now);
        if !rules.sets[topic.publishers as usize].contains(&open.principal.get()) {
            return refused(Reason::Denylisted);
        }
        if topic.tag_required && !tagged {
            return refused(Reason::TopicTagRequired);
        }
        let sender = rules.senders.iter().find(|sender| sender.sender_id == sender_id).copied();
        let Some(SenderSource { quota, .. }) = sender else { return refused(Reason::QuotaExceeded) };
        let sender = self.senders.entry(sender_id).or_default();
        sender.adopt(quota, rules.version, now);
        if !sender.has_room(quota, now) {
            return refused(Reason::QuotaExceeded);
        }
        if !bucket.has_room(topic.quota, now) {
            return refused(Reason::Throttled);
        }
        sender.debt += u128::from(quota.period);
        bucket.debt += u128::from(topic.quota.period);
        Ok(topic)
    }

    fn forward(&mut self, topic: &TopicSource, message: &Message, frame: &Frame<'_>) {
        let rules = self.rules.as_ref().unwrap();
        let targets: BTreeSet<u32> = rules.sets[topic.subscribers as usize].iter().copied().collect();
        let body = message.is_in_frame().then(|| {
            let at = message.in_frame().unwrap();
            let start = usize::try_from(at.offset.get()).unwrap();
            frame.bytes[start..start + at.length.get() as usize].to_vec()
        });
        for slot in &targets {
            let size = 128 + body.as_ref().map_or(0, |body| body.len().next_multiple_of(64));
            let reason = match (topic.durability, self.subscribers.get(slot)) {
                (Durability::Durable, _) => Some(Reason::PersistUnavailable),
                (_, None) => Some(Reason::TxSubmitFail),
                (_, Some(add)) if size > add.frame_bytes_max.get() as usize => Some(Reason::TxSubmitFail),
                _ => None,
            };
            if let Some(reason) = reason {
                *self.copies_refused.entry(reason).or_default() += 1;
                continue;
            }
            let mut copied = *message;
            if body.is_some() {
                copied.data[4..12].copy_from_slice(&128u64.to_le_bytes());
            }
            let key = (self.subscribers[slot].session_id.get(), topic.topic_id);
            let expected = Expected { route_id: self.routes[&topic.topic_id], message: copied, payload: body.clone() };
            self.egress.entry(key).or_default().push(expected);
        }
    }
}

impl Bucket {
    /// Lets time pass, and takes over a new rule: a bucket is never emptier than empty.
    fn adopt(&mut self, quota: Quota, version: u64, now: u128) {
        self.debt = self.debt.saturating_sub(now - self.at);
        self.at = now;
        if self.version != version {
            self.debt = self.debt.min(u128::from(quota.period) * u128::from(quota.burst));
            self.version = version;
        }
    }

    fn has_room(&self, quota: Quota, _now: u128) -> bool {
        quota.period == 0 || self.debt + u128::from(quota.period) <= u128::from(quota.period) * u128::from(quota.burst)
    }
}

fn settle(window: &mut ModelWindow, id: u32, tagged: bool) -> Result<(), Reason> {
    let top = window.settled.last().copied().unwrap_or(0);
    if id > 1 << 31 || id + 1024 <= top || (!tagged && id > top + 65_536) {
        return Err(Reason::Stale);
    }
    if window.settled.insert(id) { Ok(()) } else { Err(Reason::Replay) }
}

fn ack(window: &ModelWindow, session_id: u32, shard: u16) -> Told {
    let (settled, refused) = (window.settled.clone(), window.refused.clone());
    Told::Ack { session_id, epoch: window.epoch, shard, settled, refused }
}
