//! The generated input: rulesets, sessions, and a stock of topics from which frames are made anew for each pass.

use crate::{
    case::{self, Case, Choice, Proof},
    random::{Random, Zipf},
};
use std::collections::VecDeque;
use tachyon_driver_api::{Buffer, Received};
use tachyon_driver_arena::{Arena, ArenaConfig, Pages};
use tachyon_policy::{
    Verified,
    compile::{Durability, Quota, RulesetSource, SenderSource, TopicSource, WhenFull, compile},
    verify,
};
use tachyon_wire::{
    Endpoint, FrameHeader, LINE, Message,
    build::{self, FrameFields, Seal},
    command,
    frame::{KIND_DATA, KIND_HEARTBEAT},
    tag::{self, FrameKey},
};
use zerocopy::{FromBytes, IntoBytes};

/// Bytes of a buffer: what the node file has by default.
pub(crate) const BUFFER_BYTES: u32 = 67_648;
/// Where the frames come from.
pub(crate) const SOURCE: Endpoint = Endpoint::v4([127, 0, 0, 1], 9);
/// Bytes at the start of each payload in which a publisher can leave a mark.
pub(crate) const MARK: usize = 8;
/// The epoch of every session.
const EPOCH: u32 = 1;
/// Frames in a buffer that introduces sessions.
const INTRODUCED: u32 = 64;

/// Every topic known, with rates and quotas that are checked and never reached.
pub(crate) fn source(case: &Case, version: u64) -> RulesetSource {
    let quota = Quota::new(1_000_000_000, 1_000_000_000, 1_000_000_000).expect("a rate that the clock can hold");
    let group = case.fan_out.max(1);
    let groups = case.destinations / group;
    let mut sets = vec![vec![], vec![0]];
    sets.extend((0..groups).map(|number| (number * group..(number + 1) * group).collect()));
    let shards = u32::from(case.place.shards);
    RulesetSource {
        version,
        shard_count: case.place.shards,
        principals: 1,
        sets,
        topics: (1..case.topics)
            .map(|topic_id| TopicSource {
                topic_id,
                quota,
                tag_required: false,
                quarantine: false,
                durability: durability(case, topic_id),
                when_full: WhenFull::default(),
                publishers: 1,
                subscribers: if case.fan_out > 0 { 2 + (topic_id / shards) % groups } else { 0 },
            })
            .collect(),
        senders: (0..case.senders).map(|sender_id| SenderSource { sender_id, quota }).collect(),
    }
}

/// The last topics, one in each shard, are never published on where frames are to be stubs; see [`published`].
fn durability(case: &Case, topic_id: u32) -> Durability {
    match case.durability {
        case::Durability::None => Durability::Volatile,
        case::Durability::Stubs if topic_id < published(case) => Durability::Volatile,
        case::Durability::Stubs | case::Durability::Logged => Durability::Logged,
        case::Durability::Durable => Durability::Durable,
    }
}

/// Topics that are published on: those below this number.
fn published(case: &Case) -> u32 {
    let kept_back = if case.durability == case::Durability::Stubs { u32::from(case.place.shards) } else { 0 };
    case.topics - kept_back
}

/// The source, compiled and verified.
pub fn ruleset(case: &Case, version: u64) -> Verified<Vec<u8>> {
    let image = compile(&source(case, version)).expect("the ruleset compiles");
    verify(image, case.place.shards).expect("the ruleset is sound")
}

/// First and last sender of a session. Where there are fewer senders than sessions, neighbours share one.
pub(crate) fn senders(case: &Case, number: u32) -> (u32, u32) {
    let start = |number: u32| {
        let start = u64::from(number) * u64::from(case.senders) / u64::from(case.sessions);
        u32::try_from(start).unwrap_or(u32::MAX)
    };
    (start(number), start(number).max(start(number + 1).saturating_sub(1)))
}

/// The id of session `number`; its slot in the table is `number`.
pub(crate) fn session_id(case: &Case, number: u32) -> u32 {
    case.sessions + number
}

/// Opens session `number`.
pub(crate) fn session(case: &Case, number: u32) -> command::OpenSession {
    let (low, high) = senders(case, number);
    command::OpenSession {
        session_id: session_id(case, number).into(),
        reply_session_id: (3 * case.sessions + number).into(),
        principal: 0.into(),
        sender_low: low.into(),
        sender_high: high.into(),
        epoch_floor: 1.into(),
        class_cap: 0,
        flags: 0,
        pinned: Endpoint::NONE,
        master: master(number),
        reply_master: [0; 32],
    }
}

fn master(number: u32) -> [u8; 32] {
    let mut master = [7; 32];
    master[..4].copy_from_slice(&number.to_le_bytes());
    master
}

/// Draws topics.
struct Draw {
    topics: u32,
    zipf: Option<Zipf>,
}

impl Draw {
    fn new(case: &Case) -> Self {
        let topics = published(case);
        let zipf = (case.choice == Choice::Zipf).then(|| Zipf::new(topics - 1));
        Self { topics, zipf }
    }

    /// A topic, from 1. Which topic has which rank is scattered, so that popular ones share neither shard nor line.
    fn topic(&self, random: &mut Random) -> u32 {
        /// A prime above the most topics there are, so that the product reaches each once.
        const SCATTER: u64 = 2_654_435_761;
        let many = self.topics - 1;
        match &self.zipf {
            None => 1 + random.below(many),
            Some(zipf) => {
                let rank = u64::from(zipf.draw(random) - 1);
                1 + u32::try_from(rank * SCATTER % u64::from(many)).unwrap_or(0)
            }
        }
    }
}

/// Makes what is received: buffers full of frames of one shard each, never the same frame twice.
///
/// Topics come from a stock that is far larger than a pass; session and senders are drawn for each frame anew, so that
/// tables are walked as a real crowd would walk them, and not in a short circle that a cache learns by heart.
#[derive(Debug)]
pub struct Source {
    case: Case,
    /// By buffer: its shard, and the topics of its messages.
    stock: Vec<(u16, Vec<u32>)>,
    next: usize,
    /// Frames that were taken singly out of the next buffer.
    taken: usize,
    random: Random,
    keys: Vec<FrameKey>,
    /// Last frame id by session and shard.
    ids: Vec<u32>,
    /// Messages made so far.
    pub offered: u64,
}

impl Source {
    /// A stock after which topics repeat; a million topics are all met often enough only in a larger one.
    pub fn new(case: &Case, seed: u64) -> Self {
        Self::of(case, seed, if case.topics > 1 << 17 { 4 << 20 } else { 1 << 20 })
    }

    /// A stock of about so many messages.
    pub fn of(case: &Case, seed: u64, messages: usize) -> Self {
        let key = |number| tag::derive(&master(number), session_id(case, number), EPOCH);
        let mut random = Random(seed);
        Self {
            stock: stock(case, messages.div_ceil(case.per_buffer()), &mut random),
            next: 0,
            taken: 0,
            keys: (0..case.sessions).map(key).collect(),
            ids: vec![0; case.sessions as usize * usize::from(case.place.shards)],
            offered: 0,
            random,
            case: *case,
        }
    }

    /// Buffers after which topics repeat.
    pub(crate) fn buffers(&self) -> usize {
        self.stock.len()
    }

    /// Makes the next `count` buffers.
    pub(crate) fn load(&mut self, count: usize, spare: &mut Vec<Buffer>, into: &mut VecDeque<Received>) {
        let (bytes, messages) = (self.case.frame_bytes(), self.case.messages);
        for _ in 0..count {
            let at = self.next;
            self.next = (at + 1) % self.stock.len();
            let (shard, topics) = std::mem::take(&mut self.stock[at]);
            let mut buffer = spare.pop().expect("as many buffers as are asked for");
            for (frame, topics) in buffer.bytes_mut().chunks_mut(bytes).zip(topics.chunks(messages)) {
                let number = self.random.below(self.case.sessions);
                self.stamp(frame, number, shard, topics, 0);
            }
            into.push_back(received(buffer, topics.len() / messages * bytes, bytes, shard));
            self.stock[at] = (shard, topics);
        }
    }

    /// Makes buffers with one frame for each session and shard, so that every window and key was used once: what opening a
    /// session costs is no part of what a message costs. As many as there are spare buffers; false once there are no more.
    pub(crate) fn introduce(&mut self, at: &mut u32, spare: &mut Vec<Buffer>, into: &mut VecDeque<Received>) -> bool {
        let bytes = 2 * LINE;
        let case = self.case;
        while let Some(shard) = u16::try_from(*at / case.sessions).ok().filter(|shard| *shard < case.place.owned) {
            let Some(mut buffer) = spare.pop() else { return true };
            let shard = case.place.first + shard;
            let first = *at % case.sessions;
            let last = (first + INTRODUCED).min(case.sessions);
            let topic = u32::from(case.place.shards + shard);
            for (number, frame) in (first..last).zip(buffer.bytes_mut().chunks_mut(bytes)) {
                self.stamp(frame, number, shard, &[topic], 0);
            }
            *at += last - first;
            into.push_back(received(buffer, (last - first) as usize * bytes, bytes, shard));
        }
        !into.is_empty()
    }

    /// Makes the next single frame, of `messages` messages that all carry `mark`; its bytes and its shard.
    pub fn frame(&mut self, buffer: &mut [u8], messages: usize, mark: u64) -> (usize, u16) {
        let at = self.next;
        let (shard, topics) = std::mem::take(&mut self.stock[at]);
        let number = self.random.below(self.case.sessions);
        let messages = &topics[self.taken..][..messages];
        self.stamp(buffer, number, shard, messages, mark);
        let bytes = LINE * (1 + messages.len());
        self.taken += messages.len();
        if self.taken + messages.len() > topics.len() {
            (self.next, self.taken) = ((at + 1) % self.stock.len(), 0);
        }
        self.stock[at] = (shard, topics);
        (bytes, shard)
    }

    /// Makes a received buffer of one frame with one message.
    pub(crate) fn single(&mut self, mut buffer: Buffer) -> Received {
        let (bytes, shard) = self.frame(buffer.bytes_mut(), 1, 0);
        received(buffer, bytes, bytes, shard)
    }

    /// Makes a received buffer of one frame without a message.
    pub(crate) fn heartbeat(&mut self, mut buffer: Buffer) -> Received {
        let number = self.random.below(self.case.sessions);
        let shard = self.case.place.first;
        self.stamp(buffer.bytes_mut(), number, shard, &[], 0);
        received(buffer, LINE, LINE, shard)
    }

    /// Writes a frame of session `number` with a message for each of these topics, or a heartbeat, and seals it.
    fn stamp(&mut self, frame: &mut [u8], number: u32, shard: u16, topics: &[u32], mark: u64) {
        let id = &mut self.ids[number as usize * usize::from(self.case.place.shards) + usize::from(shard)];
        *id += 1;
        let session_id = session_id(&self.case, number);
        let fields = FrameFields { frame_id: *id, session_id, shard, epoch: EPOCH, ..FrameFields::default() };
        let length = |lines: usize| u32::try_from(lines * LINE).unwrap_or(0);
        let count = u16::try_from(topics.len()).unwrap_or(0);
        let (header, messages) = FrameHeader::mut_from_prefix(frame).expect("a frame has a header");
        let kind = if topics.is_empty() { KIND_HEARTBEAT } else { KIND_DATA };
        *header = fields.header(kind, count, length(topics.len()));
        let (low, high) = senders(&self.case, number);
        let mut payload = [1; 32];
        payload[..MARK].copy_from_slice(&mark.to_le_bytes());
        let mut message = Message::inline(1, 0, 2, &payload).expect("an inline payload of 32 bytes");
        for (line, topic) in messages.chunks_mut(LINE).zip(topics) {
            message.topic_id.set(*topic);
            message.sender_id.set(low + self.random.below(high - low + 1));
            line.copy_from_slice(message.as_bytes());
        }
        self.offered += topics.len() as u64;
        let frame = &mut frame[..LINE * (1 + topics.len())];
        match self.case.ingress {
            Proof::Crc => build::seal(frame, Seal::Crc),
            Proof::Tag => build::seal(frame, Seal::Tag(&self.keys[number as usize])),
        }
    }
}

/// Topics drawn one by one, each put to the frame of its shard that is being filled: popular topics make busy shards.
fn stock(case: &Case, wanted: usize, random: &mut Random) -> Vec<(u16, Vec<u32>)> {
    let owned = case.place.first..case.place.first + case.place.owned;
    let draw = Draw::new(case);
    let mut filling = vec![Vec::new(); usize::from(case.place.shards)];
    let mut stock = Vec::with_capacity(wanted);
    while stock.len() < wanted {
        let topic = draw.topic(random);
        let shard = u16::try_from(topic % u32::from(case.place.shards)).unwrap_or(0);
        if !owned.contains(&shard) {
            continue;
        }
        let topics: &mut Vec<u32> = &mut filling[usize::from(shard)];
        topics.push(topic);
        if topics.len() == case.per_buffer() {
            stock.push((shard, std::mem::take(topics)));
        }
    }
    stock
}

fn received(buffer: Buffer, len: usize, stride: usize, shard: u16) -> Received {
    let number = |bytes: usize| u32::try_from(bytes).unwrap_or(0);
    Received { buffer, offset: 0, len: number(len), stride: number(stride), shard, source: SOURCE }
}

/// An arena for `buffers` buffers.
pub(crate) fn arena(buffers: usize) -> Arena {
    let bytes = buffers * BUFFER_BYTES as usize;
    Arena::create(ArenaConfig { bytes, buffer_bytes: BUFFER_BYTES, pages: Pages::Auto, lock: false, numa_node: None })
        .expect("memory for the buffers")
}
