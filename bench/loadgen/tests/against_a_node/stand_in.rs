//! A node that fits on one page: frame checks, the message checks that need no rules, ledgers, and one copy of what passes.

use std::collections::HashSet;
use tachyon_loadgen::{ledger::Ledgers, plan::Random};
use tachyon_wire::{
    Frame, Lane, Message, Reason,
    build::{FrameFields, FrameWriter, Seal},
    crc, frame, message, payload, tag,
};

pub(crate) const SHARDS: u16 = 4;
pub(crate) const FRAME_BYTES: u32 = 64 * 12;
pub(crate) const MESSAGES: u32 = 11;
pub(crate) const SENDERS: u32 = 10;
pub(crate) const SESSIONS: u32 = 3;
pub(crate) const EGRESS: u32 = 900;
pub(crate) const EGRESS_MASTER: [u8; 32] = [8; 32];

pub(crate) fn master(session: u32) -> [u8; 32] {
    [u8::try_from(session).unwrap(); 32]
}

/// The frame checks and the message checks that need no rules, ledgers for both, and one copy of what passes.
pub(crate) struct Node {
    tagged: bool,
    known: HashSet<(u32, u16, u32)>,
    pub(crate) ledgers: Ledgers,
    next: [u32; SHARDS as usize],
    random: Random,
    loss_before: f64,
    loss_after: f64,
    pub(crate) lost_after: u64,
}

impl Node {
    pub(crate) fn new(tagged: bool, loss_before: f64, loss_after: f64) -> Self {
        let (known, ledgers, random) = (HashSet::new(), Ledgers::default(), Random::new(3));
        Self { tagged, known, ledgers, next: [1; 4], random, loss_before, loss_after, lost_after: 0 }
    }

    /// Judges a frame that came to the port of `shard`: the frame to send on, if any message of it passed.
    pub(crate) fn take(&mut self, bytes: &[u8], shard: u16, may_lose: bool) -> Option<Vec<u8>> {
        if may_lose && self.random.chance(self.loss_before) {
            self.ledgers.socket_overflow += 1;
            return None;
        }
        self.ledgers.frames.total += 1;
        let lane = Lane { frame_bytes_max: FRAME_BYTES, references: false };
        let judged = frame::parse(bytes, &lane).and_then(|frame| {
            self.judge(&frame, shard)?;
            Ok(frame)
        });
        match judged {
            Err(reason) => {
                *self.ledgers.frames.reasons.entry(reason.code().into()).or_default() += 1;
                None
            }
            Ok(frame) => {
                self.ledgers.frames.well += 1;
                self.forward(&frame, may_lose)
            }
        }
    }

    fn judge(&mut self, frame: &Frame<'_>, shard: u16) -> Result<(), Reason> {
        let header = frame.header;
        frame::check_route(frame, false)?;
        if header.shard.get() != shard {
            return Err(Reason::WrongShard);
        }
        let session = header.session_id.get();
        if !(1..=SESSIONS).contains(&session) {
            return Err(Reason::NoSession);
        }
        if frame.is_authenticated() {
            let key = tag::derive(&master(session), session, header.epoch.get());
            if !tag::verify(&key, frame) {
                return Err(Reason::BadTag);
            }
        } else if self.tagged {
            return Err(Reason::TagRequired);
        } else if !crc::verify(frame) {
            return Err(Reason::BadCrc);
        }
        if header.frame_id.get() > 1 << 31 {
            return Err(Reason::Stale);
        }
        if !self.known.insert((session, shard, header.frame_id.get())) {
            return Err(Reason::Replay);
        }
        payload::check(frame)
    }

    fn forward(&mut self, frame: &Frame<'_>, may_lose: bool) -> Option<Vec<u8>> {
        let shard = frame.header.shard.get();
        let mut bytes = [0; FRAME_BYTES as usize];
        let frame_id = self.next[usize::from(shard)];
        let fields =
            FrameFields { route_id: 5, frame_id, session_id: EGRESS, shard, epoch: 1, ..FrameFields::default() };
        let mut writer = FrameWriter::new(&mut bytes, fields);
        for message in frame.messages {
            self.ledgers.messages.total += 1;
            match judge_message(message, shard) {
                Some(reason) => *self.ledgers.messages.reasons.entry(reason.code().into()).or_default() += 1,
                None => writer.push(message).unwrap(),
            }
        }
        let copies = writer.count() as u64;
        if copies == 0 {
            return None;
        }
        self.ledgers.messages.well += copies;
        self.ledgers.copies.total += copies;
        self.ledgers.copies.well += copies;
        self.next[usize::from(shard)] += 1;
        let length = writer.finish(Seal::Tag(&tag::derive(&EGRESS_MASTER, EGRESS, 1)));
        if may_lose && self.random.chance(self.loss_after) {
            self.lost_after += copies;
            return None;
        }
        Some(bytes[..length].to_vec())
    }
}

fn judge_message(message: &Message, shard: u16) -> Option<Reason> {
    if let Err(reason) = message::check(message, false) {
        return Some(reason);
    }
    if message.topic_id.get() % u32::from(SHARDS) != u32::from(shard) {
        return Some(Reason::TopicShard);
    }
    if message.flags.get() & message::SYSTEM_PACKET != 0 {
        return Some(Reason::SystemDenied);
    }
    if message.sender_id.get() >= 100 + SENDERS {
        return Some(Reason::Sender);
    }
    (message.topic_id.get() >= 1 << 20).then_some(Reason::Denylisted)
}
