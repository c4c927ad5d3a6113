//! The generated input: a ruleset, sessions, and a ring of frames that can be stamped anew for each pass.

use std::collections::VecDeque;
use tachyon_driver_api::Buffer;
use tachyon_driver_arena::{Arena, ArenaConfig, Pages};
use tachyon_policy::{
    Verified,
    compile::{Durability, Quota, RulesetSource, SenderSource, TopicSource, compile},
    verify,
};
use tachyon_wire::{
    Endpoint, FrameHeader, LINE, Message,
    build::{self, FrameFields, FrameWriter, Seal},
    command,
    tag::{self, FrameKey},
};
use zerocopy::FromBytes;

/// Messages a frame, as many as fit into 1,472 bytes.
pub(crate) const MESSAGES: usize = 22;
/// Bytes of such a frame.
pub(crate) const FRAME: usize = LINE * (1 + MESSAGES);
/// Frames in a received buffer: what a GRO buffer of 64 KiB holds.
pub(crate) const FRAMES: usize = 44;
/// Shards of the fabric; the one worker owns them all.
pub(crate) const SHARDS: u16 = 16;
/// Publishing sessions.
pub(crate) const SESSIONS: u32 = 256;
/// Senders of each.
pub(crate) const SENDERS: u32 = 16;
/// Destinations, each with a route of its own.
pub(crate) const DESTINATIONS: u32 = 16;
/// Bytes of a buffer: what the node file has by default.
pub(crate) const BUFFER_BYTES: u32 = 67_648;
/// The epoch of every session.
const EPOCH: u32 = 1;
/// Where the frames come from.
pub(crate) const SOURCE: Endpoint = Endpoint::v4([127, 0, 0, 1], 9);

/// SplitMix64: small, and the same everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from(((x >> 32) * u64::from(bound)) >> 32).unwrap_or(0)
    }
}

/// Every topic known, with rates and quotas that are checked and never reached; `routed` gives each one of 16 routes.
pub(crate) fn ruleset(topics: u32, routed: bool) -> Verified<Vec<u8>> {
    let quota = Quota::new(1_000_000_000, 1_000_000_000, 1_000_000_000).expect("a rate that the clock can hold");
    let mut sets = vec![vec![], vec![0]];
    sets.extend((0..DESTINATIONS).map(|slot| vec![slot]));
    let source = RulesetSource {
        version: 1,
        shard_count: SHARDS,
        principals: 1,
        sets,
        topics: (1..topics)
            .map(|topic_id| TopicSource {
                topic_id,
                quota,
                tag_required: false,
                quarantine: false,
                durability: Durability::Volatile,
                publishers: 1,
                subscribers: if routed { 2 + (topic_id / u32::from(SHARDS)) % DESTINATIONS } else { 0 },
            })
            .collect(),
        senders: (0..SESSIONS * SENDERS).map(|sender_id| SenderSource { sender_id, quota }).collect(),
    };
    let image = compile(&source).expect("the ruleset compiles");
    verify(image, SHARDS).expect("the ruleset is sound")
}

/// Opens session `number` of [`SESSIONS`].
pub(crate) fn session(number: u32) -> command::OpenSession {
    command::OpenSession {
        session_id: (SESSIONS + number).into(),
        reply_session_id: (3 * SESSIONS + number).into(),
        principal: 0.into(),
        sender_low: (number * SENDERS).into(),
        sender_high: (number * SENDERS + SENDERS - 1).into(),
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

/// What is received in one pass: buffers full of frames of one shard each.
pub(crate) struct Ring {
    templates: Vec<(Vec<u8>, u16)>,
    tagged: bool,
    keys: Vec<FrameKey>,
    /// Last frame id by session and shard.
    ids: Vec<u32>,
    topics: u32,
    random: Random,
}

impl Ring {
    /// `count` buffers' worth of frames.
    pub(crate) fn new(count: usize, topics: u32, tagged: bool, seed: u64) -> Self {
        let mut random = Random(seed);
        let mut template = |number: usize| {
            let shard = u16::try_from(number % usize::from(SHARDS)).unwrap_or(0);
            let mut bytes = vec![0; FRAME * FRAMES];
            bytes.chunks_mut(FRAME).for_each(|frame| fill(frame, shard, topics, &mut random));
            (bytes, shard)
        };
        let templates = (0..count).map(&mut template).collect();
        Self {
            templates,
            tagged,
            keys: (0..SESSIONS).map(|number| tag::derive(&master(number), SESSIONS + number, EPOCH)).collect(),
            ids: vec![0; SESSIONS as usize * usize::from(SHARDS)],
            topics,
            random,
        }
    }

    /// Gives every frame a new identity, so that no window has seen it, and copies all of them out.
    pub(crate) fn load(&mut self, spare: &mut Vec<Buffer>, into: &mut VecDeque<(Buffer, u16)>) {
        for (template, shard) in &mut self.templates {
            for frame in template.chunks_mut(FRAME) {
                fill(frame, *shard, self.topics, &mut self.random);
                let (header, _) = FrameHeader::mut_from_prefix(frame).expect("a frame has a header");
                let number = (header.session_id.get() - SESSIONS) as usize;
                let id = &mut self.ids[number * usize::from(SHARDS) + usize::from(*shard)];
                *id += 1;
                header.frame_id.set(*id);
                header.epoch.set(EPOCH);
                build::seal(frame, if self.tagged { Seal::Tag(&self.keys[number]) } else { Seal::Crc });
            }
            let mut buffer = spare.pop().expect("as many buffers as templates");
            buffer.bytes_mut()[..template.len()].copy_from_slice(template);
            into.push_back((buffer, *shard));
        }
    }

    /// Messages in a pass.
    pub(crate) fn messages(&self) -> usize {
        self.templates.len() * FRAMES * MESSAGES
    }
}

fn fill(frame: &mut [u8], shard: u16, topics: u32, random: &mut Random) {
    let number = random.below(SESSIONS);
    let fields = FrameFields { frame_id: 1, session_id: SESSIONS + number, shard, epoch: 1, ..FrameFields::default() };
    let mut writer = FrameWriter::new(frame, fields);
    for _ in 0..MESSAGES {
        let per_shard = topics / u32::from(SHARDS);
        let topic = (1 + random.below(per_shard - 1)) * u32::from(SHARDS) + u32::from(shard);
        let sender = number * SENDERS + random.below(SENDERS);
        let message = Message::inline(topic, sender, 2, &[1; 32]);
        writer.push(&message.expect("an inline payload of 32 bytes")).expect("22 messages fit");
    }
    let _ = writer.finish(Seal::Crc); // sealed anew for each pass
}

/// An arena for `buffers` buffers.
pub(crate) fn arena(buffers: usize) -> Arena {
    let bytes = buffers * BUFFER_BYTES as usize;
    Arena::create(ArenaConfig { bytes, buffer_bytes: BUFFER_BYTES, pages: Pages::Auto, lock: false, numa_node: None })
        .expect("memory for the buffers")
}
