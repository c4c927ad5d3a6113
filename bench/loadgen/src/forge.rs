//! Frames that must not pass: one kind per check that a node makes, each with the one reason in which it must end.
//!
//! A forged frame is a genuine one with exactly one thing wrong, because that is the only kind that shows which check
//! caught it. All of them are as long as their neighbours, so that they travel in the same runs as genuine frames.

use tachyon_wire::{
    FrameHeader, LINE, Message, Reason,
    build::{Seal, seal},
    image::TOPIC_SLOTS_MAX,
    message::{INLINE_LENGTH_MASK, INLINE_MAX, INLINE_PAYLOAD, REF_ARENA, SYSTEM_PACKET},
    tag::FrameKey,
};
use zerocopy::{
    FromBytes,
    byteorder::little_endian::{U16, U32, U64},
};

/// Frame ids above this are stale, whatever the window says (2³¹, the wire contract's limit of one epoch).
const FRAME_ID_MAX: u32 = 1 << 31;
/// One line, in the type of `len`.
const LINE_BYTES: u32 = 64;
const _: () = assert!(LINE == LINE_BYTES as usize);
/// A flag that no message may have.
const FLAG_UNKNOWN: u64 = 1 << 40;

/// What is wrong with a forged frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// One bit of a message was flipped after sealing.
    Damaged,
    /// The tag was made with a key of somebody else.
    ForeignKey,
    /// A crc where the session must carry tags.
    Untagged,
    /// A session that nobody opened.
    UnknownSession,
    /// `len` claims one line more than there is.
    LyingLength,
    /// The header names another shard than the port.
    WrongShard,
    /// A frame number past the end of an epoch.
    StaleNumber,
    /// A message refers to a payload that is not in the frame.
    MissingPayload,
    /// A message flag that does not exist.
    UnknownFlag,
    /// A topic of another shard.
    ForeignTopic,
    /// SYSTEM_PACKET without the right to it.
    SystemPacket,
    /// A sender outside the session's range.
    ForeignSender,
    /// A topic that nobody registered.
    UnknownTopic,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 13] = [
        Self::Damaged,
        Self::ForeignKey,
        Self::Untagged,
        Self::UnknownSession,
        Self::LyingLength,
        Self::WrongShard,
        Self::StaleNumber,
        Self::MissingPayload,
        Self::UnknownFlag,
        Self::ForeignTopic,
        Self::SystemPacket,
        Self::ForeignSender,
        Self::UnknownTopic,
    ];

    /// The name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Damaged => "damaged",
            Self::ForeignKey => "foreign_key",
            Self::Untagged => "untagged",
            Self::UnknownSession => "unknown_session",
            Self::LyingLength => "lying_length",
            Self::WrongShard => "wrong_shard",
            Self::StaleNumber => "stale_number",
            Self::MissingPayload => "missing_payload",
            Self::UnknownFlag => "unknown_flag",
            Self::ForeignTopic => "foreign_topic",
            Self::SystemPacket => "system_packet",
            Self::ForeignSender => "foreign_sender",
            Self::UnknownTopic => "unknown_topic",
        }
    }

    /// The one reason in which it must end. If that is a reason of the message ledger, the frame is admitted and each of
    /// its messages ends so.
    #[must_use]
    pub const fn reason(self, tagged: bool) -> Reason {
        match self {
            Self::Damaged if tagged => Reason::BadTag,
            Self::Damaged => Reason::BadCrc,
            Self::ForeignKey => Reason::BadTag,
            Self::Untagged => Reason::TagRequired,
            Self::UnknownSession => Reason::NoSession,
            Self::LyingLength => Reason::BadFrame,
            Self::WrongShard => Reason::WrongShard,
            Self::StaleNumber => Reason::Stale,
            Self::MissingPayload => Reason::RefInvalid,
            Self::UnknownFlag => Reason::BadPacket,
            Self::ForeignTopic => Reason::TopicShard,
            Self::SystemPacket => Reason::SystemDenied,
            Self::ForeignSender => Reason::Sender,
            Self::UnknownTopic => Reason::Denylisted,
        }
    }

    /// The kinds that can be made in a fabric like this: no forged tags where there are none, no other shard where there
    /// is one only, no foreign sender where the session owns all of them.
    #[must_use]
    pub fn possible(tagged: bool, shard_count: u16, owns_all_senders: bool) -> Vec<Self> {
        let possible = |kind: &Self| match kind {
            Self::ForeignKey | Self::Untagged => tagged,
            Self::ForeignTopic => shard_count > 1,
            Self::ForeignSender => !owns_all_senders,
            _ => true,
        };
        Self::ALL.into_iter().filter(possible).collect()
    }
}

/// What a forger must know about the session that it abuses.
#[derive(Clone, Copy, Debug)]
pub struct Victim {
    /// The session's own key; `None` if its frames carry a crc.
    pub key: Option<FrameKey>,
    /// A key of somebody else.
    pub foreign_key: FrameKey,
    /// A sender outside its range.
    pub foreign_sender: u32,
    /// Shards of the fabric.
    pub shard_count: u16,
}

/// Turns a complete frame, sealed or not, into a forged one of this kind, and seals it as that kind must be. `serial`
/// rises with every call, so that no two stale frames have one number. Frames shorter than one message are left alone.
pub fn forge(kind: Kind, frame: &mut [u8], victim: &Victim, serial: u32) {
    let Ok((header, rest)) = FrameHeader::mut_from_prefix(frame) else { return };
    let Ok(messages) = <[Message]>::mut_from_bytes(rest) else { return };
    let shard = header.shard.get();
    match kind {
        Kind::UnknownSession => header.session_id = U32::new(!header.session_id.get()),
        Kind::WrongShard => header.shard = U16::new(shard ^ 1),
        Kind::LyingLength => header.len = U32::new(header.len.get() + LINE_BYTES),
        Kind::StaleNumber => header.frame_id = U32::new((FRAME_ID_MAX + 1).saturating_add(serial)),
        Kind::Damaged | Kind::ForeignKey | Kind::Untagged => {}
        _ => messages.iter_mut().for_each(|message| forge_message(kind, message, shard, victim)),
    }
    let how = match (&victim.key, kind) {
        (None, _) | (_, Kind::Untagged) => Seal::Crc,
        // Under its own key, another shard's number would meet a nonce that a genuine frame of that shard has too.
        (Some(_), Kind::ForeignKey | Kind::WrongShard) => Seal::Tag(&victim.foreign_key),
        (Some(key), _) => Seal::Tag(key),
    };
    seal(frame, how);
    if let (Kind::Damaged, Some(last)) = (kind, frame.last_mut()) {
        *last ^= 1;
    }
}

fn forge_message(kind: Kind, message: &mut Message, shard: u16, victim: &Victim) {
    let flags = message.flags.get();
    match kind {
        Kind::MissingPayload => {
            // All zeros but the length: arena 0, which is this frame, and no payload area behind the messages.
            message.flags = U64::new(flags & !(INLINE_PAYLOAD | INLINE_LENGTH_MASK) | REF_ARENA);
            message.data = [0; INLINE_MAX];
            message.data[12] = 1;
        }
        Kind::UnknownFlag => message.flags = U64::new(flags | FLAG_UNKNOWN),
        Kind::SystemPacket => message.flags = U64::new(flags | SYSTEM_PACKET),
        Kind::ForeignTopic => {
            let topic_id = message.topic_id.get();
            // One more lies in the next shard, and is not 0.
            message.topic_id = U32::new(if topic_id == u32::MAX { 1 } else { topic_id + 1 });
        }
        Kind::ForeignSender => message.sender_id = U32::new(victim.foreign_sender),
        Kind::UnknownTopic => message.topic_id = U32::new(TOPIC_SLOTS_MAX + u32::from(shard)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, Victim, forge};
    use tachyon_wire::{
        Lane, Ledger, Message, Reason,
        build::{FrameFields, FrameWriter, Seal},
        crc, frame, message, payload,
        tag::{self, FrameKey},
    };

    const SHARDS: u16 = 16;
    const SHARD: u16 = 3;
    const SESSION: u32 = 77;
    const SENDERS: std::ops::RangeInclusive<u32> = 100..=199;

    fn frame_of(victim: &Victim) -> Vec<u8> {
        let mut bytes = vec![0; 64 * 5];
        let fields = FrameFields { frame_id: 9, session_id: SESSION, shard: SHARD, epoch: 1, ..FrameFields::default() };
        let mut writer = FrameWriter::new(&mut bytes, fields);
        for number in 0..4 {
            let topic_id = u32::from(SHARD) + u32::from(SHARDS) * number;
            writer.push(&Message::inline(topic_id, 100 + number, 2, &[5; 16]).unwrap()).unwrap();
        }
        let length = writer.finish(victim.key.as_ref().map_or(Seal::Crc, Seal::Tag));
        assert_eq!(length, bytes.len());
        bytes
    }

    /// The node's frame and message checks in their order, as far as they need no ruleset: the first reason found.
    fn judge(bytes: &[u8], victim: &Victim) -> Option<Reason> {
        let lane = Lane { frame_bytes_max: 1472, references: false };
        let frame = match frame::parse(bytes, &lane) {
            Ok(frame) => frame,
            Err(reason) => return Some(reason),
        };
        if frame.header.shard.get() != SHARD {
            return Some(Reason::WrongShard);
        }
        if frame.header.session_id.get() != SESSION {
            return Some(Reason::NoSession);
        }
        match (&victim.key, frame.is_authenticated()) {
            (Some(_), false) => return Some(Reason::TagRequired),
            (Some(key), true) if !tag::verify(key, &frame) => return Some(Reason::BadTag),
            (None, _) if !crc::verify(&frame) => return Some(Reason::BadCrc),
            _ => {}
        }
        if frame.header.frame_id.get() > 1 << 31 {
            return Some(Reason::Stale);
        }
        if let Err(reason) = payload::check(&frame) {
            return Some(reason);
        }
        let reasons: Vec<Option<Reason>> = frame.messages.iter().map(judge_message).collect();
        assert!(reasons.windows(2).all(|pair| pair[0] == pair[1]), "every message ends alike: {reasons:?}");
        reasons[0]
    }

    fn judge_message(message: &Message) -> Option<Reason> {
        if let Err(reason) = message::check(message, false) {
            return Some(reason);
        }
        let topic_id = message.topic_id.get();
        if topic_id % u32::from(SHARDS) != u32::from(SHARD) {
            return Some(Reason::TopicShard);
        }
        if message.flags.get() & message::SYSTEM_PACKET != 0 {
            return Some(Reason::SystemDenied);
        }
        if !SENDERS.contains(&message.sender_id.get()) {
            return Some(Reason::Sender);
        }
        (topic_id >= 1 << 20).then_some(Reason::Denylisted)
    }

    fn victim(tagged: bool) -> Victim {
        Victim {
            key: tagged.then(|| tag::derive(&[1; 32], SESSION, 1)),
            foreign_key: FrameKey::from_bytes([9; 16]),
            foreign_sender: 200,
            shard_count: SHARDS,
        }
    }

    #[test]
    fn every_kind_ends_in_its_reason_and_in_no_other() {
        for tagged in [false, true] {
            let victim = victim(tagged);
            assert_eq!(judge(&frame_of(&victim), &victim), None, "the genuine frame passes");
            for kind in Kind::possible(tagged, SHARDS, false) {
                let mut bytes = frame_of(&victim);
                forge(kind, &mut bytes, &victim, 5);
                assert_eq!(judge(&bytes, &victim), Some(kind.reason(tagged)), "{}, tagged {tagged}", kind.name());
            }
        }
    }

    #[test]
    fn kinds_cover_the_frame_and_the_message_ledger() {
        let of = |ledger| Kind::ALL.iter().filter(|kind| kind.reason(true).ledger() == ledger).count();
        assert_eq!((of(Ledger::Frames), of(Ledger::Messages)), (8, 5));
    }

    #[test]
    fn kinds_that_cannot_be_made_are_left_out() {
        let kinds = Kind::possible(false, 1, true);
        for kind in [Kind::ForeignKey, Kind::Untagged, Kind::ForeignTopic, Kind::ForeignSender] {
            assert!(!kinds.contains(&kind), "{}", kind.name());
        }
    }
}
