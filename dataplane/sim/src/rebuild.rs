//! Frames of which the log keeps a part, made whole again so that a worker judges them as it did.
//!
//! Judging looks at a frame's header and at the first 16 bytes of its messages; the rest is zeros here, under a seal of ours. What was
//! refused has to be refused again, by the same check.

use std::collections::HashMap;
use tachyon_wire::{
    FrameHeader, LINE, Lane, Reason,
    ack::{AckBody, NackBody},
    build::{Seal, seal},
    crc,
    frame::{self, AUTHENTICATED, KIND_ACK, KIND_NACK},
    message::REF_ARENA,
    tag::{self, FrameKey},
    tap::{FRAME_REFUSED, FRAME_WHOLE, FramePart, STUB_BYTES},
};
use zerocopy::{FromBytes, IntoBytes};

/// Where a header has its crc, and where its tag.
const SEALS: [core::ops::Range<usize>; 2] = [20..24, 48..64];
/// Where a message has its topic.
const TOPIC: core::ops::Range<usize> = 8..12;

/// What of a recorded head the replayed one cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// Nothing.
    Same,
    /// The seal: it is ours.
    Resealed,
    /// All of it: the frame is not the recorded one.
    Other,
}

impl Head {
    /// Clears what cannot be compared.
    pub fn clear(self, head: &mut [u8]) {
        match self {
            Self::Same => {}
            Self::Resealed => SEALS.into_iter().for_each(|seal| head[seal].fill(0)),
            Self::Other => head.fill(0),
        }
    }
}

/// A frame to judge again.
#[derive(Debug)]
pub struct Rebuilt {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What of its head can be compared.
    pub head: Head,
    /// Its verdict was taken from the record.
    pub on_trust: bool,
}

/// The keys of open sessions, and what judging needs to know besides.
#[derive(Debug)]
pub struct Sealer {
    sessions: HashMap<u32, ([u8; 32], bool)>,
    derived: HashMap<(u32, u32), FrameKey>,
    lane: Lane,
    /// An id of no topic is this and the shard.
    pub topic_past_all: u32,
}

impl Sealer {
    /// For frames up to this size; ids from `topics_max` on are no topic's.
    #[must_use]
    pub fn new(frame_bytes_max: u32, topics_max: u32, shard_count: u16) -> Self {
        let lane = Lane { frame_bytes_max, references: false };
        let topic_past_all = topics_max.next_multiple_of(shard_count.max(1).into());
        Self { sessions: HashMap::new(), derived: HashMap::new(), lane, topic_past_all }
    }

    /// A session was opened under this key, which is known or only its name.
    pub fn open(&mut self, session_id: u32, master: [u8; 32], known: bool) {
        self.sessions.insert(session_id, (master, known));
        self.derived.retain(|(session, _), _| *session != session_id);
    }

    /// Whether a frame's seal can be looked at: it has a crc, or its key is known.
    fn is_known(&self, header: &FrameHeader) -> bool {
        header.flags.get() & AUTHENTICATED == 0
            || self.sessions.get(&header.session_id.get()).is_none_or(|(_, known)| *known)
    }

    /// Closes a frame as its header says that it is closed.
    fn seal(&mut self, bytes: &mut [u8]) {
        let Ok((header, _)) = FrameHeader::read_from_prefix(bytes) else { return };
        if header.flags.get() & AUTHENTICATED == 0 {
            return seal(bytes, Seal::Crc);
        }
        let (id, epoch) = (header.session_id.get(), header.epoch.get());
        let Some((master, _)) = self.sessions.get(&id) else { return };
        let key = self.derived.entry((id, epoch)).or_insert_with(|| tag::derive(master, id, epoch));
        seal(bytes, Seal::Tag(key));
    }

    /// Makes a frame of `length` bytes from what was recorded of it; `whole` has its bytes if they were. Messages at which
    /// `stand_in` says so become those of no topic.
    #[must_use]
    pub fn rebuild(
        &mut self,
        part: &FramePart<'_>,
        length: usize,
        whole: Option<&[u8]>,
        stand_in: impl Fn(usize) -> bool,
    ) -> Rebuilt {
        match part.entry.form {
            FRAME_WHOLE => self.whole(whole.unwrap_or_default(), usize::from(part.entry.count.get()), stand_in),
            FRAME_REFUSED => self.refused(part, length),
            _ => self.stubs(part, length, stand_in),
        }
    }

    fn whole(&mut self, bytes: &[u8], count: usize, stand_in: impl Fn(usize) -> bool) -> Rebuilt {
        let mut bytes = bytes.to_vec();
        let known = FrameHeader::ref_from_prefix(&bytes).is_ok_and(|(header, _)| self.is_known(header));
        let changed = self.stand_in(&mut bytes, count, stand_in);
        if !known || changed {
            self.seal(&mut bytes);
        }
        Rebuilt { bytes, head: Head::Same, on_trust: !known }
    }

    fn stubs(&mut self, part: &FramePart<'_>, length: usize, stand_in: impl Fn(usize) -> bool) -> Rebuilt {
        let mut bytes = opened(part.head, length);
        for (message, stub) in bytes[LINE.min(length)..].chunks_mut(LINE).zip(part.stubs.chunks(STUB_BYTES)) {
            message[..STUB_BYTES].copy_from_slice(stub);
        }
        self.stand_in(&mut bytes, part.stubs.len() / STUB_BYTES, stand_in);
        self.seal(&mut bytes);
        Rebuilt { bytes, head: Head::Resealed, on_trust: false }
    }

    /// Gives messages a topic that is none, in their shard. Whether there were any.
    fn stand_in(&self, bytes: &mut [u8], count: usize, stand_in: impl Fn(usize) -> bool) -> bool {
        let shard = FrameHeader::ref_from_prefix(bytes).map_or(0, |(header, _)| u32::from(header.shard.get()));
        let topic = (self.topic_past_all + shard).to_le_bytes();
        let mut any = false;
        for index in (0..count).filter(|index| stand_in(*index)) {
            if let Some(message) = bytes.get_mut(LINE * (1 + index)..LINE * (2 + index)) {
                message[TOPIC].copy_from_slice(&topic);
                any = true;
            }
        }
        any
    }

    fn refused(&mut self, part: &FramePart<'_>, length: usize) -> Rebuilt {
        let mut bytes = opened(part.head, length);
        let rebuilt = |bytes, head, on_trust| Rebuilt { bytes, head, on_trust };
        let Some(reason) = Reason::from_number(part.entry.reason) else { return broken(bytes) };
        match reason {
            Reason::Stale | Reason::Replay => self.seal(&mut bytes),
            Reason::RefInvalid => {
                // A claim to a payload that is not there, or a payload that nobody claims.
                if frame::parse(&bytes, &self.lane).is_ok_and(|frame| frame.payload.is_empty())
                    && let Some(flags) = bytes.get_mut(LINE..LINE + 8)
                {
                    flags.copy_from_slice(&REF_ARENA.to_le_bytes());
                }
                self.seal(&mut bytes);
            }
            Reason::BadFrame => {
                let parsed = frame::parse(&bytes, &self.lane);
                // What broke the layout may have been behind the part that was kept.
                return match parsed {
                    Ok(frame) if frame.header.route_id.get() == 0 => broken(bytes),
                    _ => rebuilt(bytes, Head::Same, false),
                };
            }
            Reason::BadCrc => {
                let right = frame::parse(&bytes, &self.lane).is_ok_and(|frame| crc::verify(&frame));
                if let Some(last) = bytes.last_mut().filter(|_| right) {
                    *last ^= 1;
                }
                return rebuilt(bytes, Head::Same, false);
            }
            _ => return rebuilt(bytes, Head::Same, false),
        }
        rebuilt(bytes, Head::Resealed, false)
    }
}

/// A frame of this length that begins so, with zeros behind, or a body without content where zeros would break the layout.
fn opened(head: &[u8], length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let known = head.len().min(length);
    bytes[..known].copy_from_slice(&head[..known]);
    let Ok((header, _)) = FrameHeader::read_from_prefix(&bytes) else { return bytes };
    let (shard, body) = (header.shard, &mut bytes[LINE..]);
    match header.kind {
        KIND_ACK if body.len() == size_of::<AckBody>() => {
            body.copy_from_slice(AckBody { shard, ..AckBody::default() }.as_bytes());
        }
        KIND_NACK if body.len() == size_of::<NackBody>() => {
            let nack = NackBody { shard, reason: 1, frame_id: 1.into(), ..NackBody::default() };
            body.copy_from_slice(nack.as_bytes());
        }
        _ => {}
    }
    bytes
}

/// A frame that is surely refused for its layout.
fn broken(mut bytes: Vec<u8>) -> Rebuilt {
    if let Some(magic) = bytes.first_mut() {
        *magic ^= 0xff;
    }
    Rebuilt { bytes, head: Head::Other, on_trust: true }
}
