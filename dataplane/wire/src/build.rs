//! Makes frames: for publishers, for nodes that answer, for tools. It writes what it is told and judges nothing, so tests
//! can make bad frames with it too.

use crate::{
    FrameHeader, LINE, Message,
    ack::{AckBody, NackBody},
    crc,
    frame::{
        AUTHENTICATED, KIND_ACK, KIND_DATA, KIND_HEARTBEAT, KIND_NACK, MAGIC, MESSAGES_MAX, PROVENANCE, Provenance,
        VERSION, provenance_lines,
    },
    message::{ARENA_FRAME, ArenaReference},
    tag::{self, FrameKey},
};
use zerocopy::{
    FromBytes, IntoBytes,
    byteorder::little_endian::{U16, U32, U64},
};

/// Where messages start.
const FIRST: usize = LINE;

/// What the sender decides about a frame's header; the rest follows from its content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameFields {
    /// Header flags. AUTHENTICATED is set by the seal.
    pub flags: u16,
    /// 0 on ingress; on egress the route that was taken.
    pub route_id: u32,
    /// From 1, per session, shard and epoch.
    pub frame_id: u32,
    /// The stream this frame belongs to.
    pub session_id: u32,
    /// The shard of every topic in this frame.
    pub shard: u16,
    /// The sender's clock in Unix nanoseconds.
    pub sent_ns: u64,
    /// Of the session's key.
    pub epoch: u32,
}

impl FrameFields {
    /// The header of a frame with `len` bytes behind it and `count` messages, not yet sealed.
    #[inline]
    #[must_use]
    pub fn header(&self, kind: u8, count: u16, len: u32) -> FrameHeader {
        FrameHeader {
            magic: MAGIC,
            flags: U16::new(self.flags & !AUTHENTICATED),
            version: VERSION,
            kind,
            route_id: U32::new(self.route_id),
            frame_id: U32::new(self.frame_id),
            len: U32::new(len),
            crc32c: U32::ZERO,
            session_id: U32::new(self.session_id),
            shard: U16::new(self.shard),
            count: U16::new(count),
            sent_ns: U64::new(self.sent_ns),
            epoch: U32::new(self.epoch),
            reserved: U32::ZERO,
            tag: [0; 16],
        }
    }
}

/// What closes a frame.
#[derive(Clone, Copy, Debug)]
pub enum Seal<'k> {
    /// A crc32c: finds damage.
    Crc,
    /// A tag: proves the sender.
    Tag(&'k FrameKey),
}

/// Fills in `crc32c` or `tag`, and AUTHENTICATED, of an otherwise complete frame. What stood in the three before does not
/// matter.
///
/// # Panics
/// If there are fewer than 64 bytes: a frame has a header.
#[inline]
pub fn seal(frame: &mut [u8], seal: Seal<'_>) {
    let (header, _) = FrameHeader::mut_from_prefix(frame).expect("a frame is at least 64 bytes");
    header.crc32c = U32::ZERO;
    header.tag = [0; 16];
    let flags = header.flags.get();
    match seal {
        Seal::Crc => {
            header.flags = U16::new(flags & !AUTHENTICATED);
            let crc32c = crc::of(frame); // both fields are zero just now
            frame[20..24].copy_from_slice(&crc32c.to_le_bytes());
        }
        Seal::Tag(key) => {
            header.flags = U16::new(flags | AUTHENTICATED);
            let tag = tag::compute(key, frame);
            frame[48..LINE].copy_from_slice(&tag);
        }
    }
}

/// Why a message was not taken; the frame is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushError {
    /// No room: finish this frame and begin another.
    Full,
    /// Topic 0, a class above 3, or an empty or over-long payload.
    Invalid,
}

impl core::fmt::Display for PushError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Full => "the frame is full",
            Self::Invalid => "topic 0, a class above 3, or an empty or over-long payload",
        })
    }
}

impl core::error::Error for PushError {}

/// Writes one data frame into a buffer whose length is the frame's greatest size. Messages come one by one; payloads are
/// kept behind them and moved up a line for each message that follows, so push large payloads last.
#[derive(Debug)]
pub struct FrameWriter<'a> {
    buffer: &'a mut [u8],
    fields: FrameFields,
    count: usize,
    used: usize,
}

impl<'a> FrameWriter<'a> {
    /// Begins a frame. With PROVENANCE in the flags each message gets an identity of zeros until
    /// [`FrameWriter::identify`] says which.
    #[must_use]
    pub fn new(buffer: &'a mut [u8], fields: FrameFields) -> Self {
        Self { buffer, fields, count: 0, used: FIRST }
    }

    /// Messages so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes of the frame so far, header included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.used
    }

    /// Adds a message as it is. One that refers to arena 0 is [`PushError::Invalid`]: its payload would be missing.
    ///
    /// # Errors
    /// [`PushError`].
    #[inline]
    pub fn push(&mut self, message: &Message) -> Result<(), PushError> {
        if message.is_in_frame() {
            return Err(PushError::Invalid);
        }
        self.make_room(0)?;
        self.insert(message);
        Ok(())
    }

    /// Adds a message whose payload travels in this frame, with its checksum computed. `marks` as in
    /// [`Message::with_marks`].
    ///
    /// # Errors
    /// [`PushError`].
    pub fn push_with_payload(
        &mut self,
        topic_id: u32,
        sender_id: u32,
        class: u8,
        marks: u64,
        payload: &[u8],
    ) -> Result<(), PushError> {
        let place = ArenaReference {
            arena_id: U32::new(ARENA_FRAME),
            offset: U64::ZERO, // known in `finish`
            length: U32::new(u32::try_from(payload.len()).map_err(|_| PushError::Invalid)?),
            checksum: U64::new(u64::from(crc::of(payload))),
            reserved: [0; 24],
        };
        let message = Message::arena(topic_id, sender_id, class, place).ok_or(PushError::Invalid)?.with_marks(marks);
        let padded = payload.len().next_multiple_of(LINE);
        self.make_room(padded)?;
        self.insert(&message);
        let (range, _) = self.buffer[self.used..].split_at_mut(padded);
        range[..payload.len()].copy_from_slice(payload);
        range[payload.len()..].fill(0);
        self.used += padded;
        Ok(())
    }

    /// Says under which identity the last message was first admitted. Without PROVENANCE in the flags, or before the first
    /// message, there is nowhere to write it and nothing happens.
    pub fn identify(&mut self, identity: &Provenance) {
        if self.lines_of_provenance(self.count) > 0 {
            let at = FIRST + self.count * LINE + (self.count - 1) * size_of::<Provenance>();
            self.buffer[at..at + size_of::<Provenance>()].copy_from_slice(identity.as_bytes());
        }
    }

    /// Completes and seals the frame. Returns its length in bytes: what the carrier is to send from the buffer's start.
    ///
    /// # Panics
    /// If the buffer is shorter than 64 bytes.
    #[must_use]
    pub fn finish(self, how: Seal<'_>) -> usize {
        let Self { buffer, fields, count, used } = self;
        let mut offset = FIRST + count * LINE;
        if fields.flags & PROVENANCE != 0 {
            offset += provenance_lines(count) * LINE;
        }
        let (messages, _) =
            <[Message]>::mut_from_prefix_with_elems(&mut buffer[FIRST..], count).expect("counted while written");
        for message in messages {
            let Some(mut place) = message.in_frame() else { continue };
            place.offset = U64::new(offset as u64);
            offset += (place.length.get() as usize).next_multiple_of(LINE);
            message.data = zerocopy::transmute!(place);
        }
        let count = u16::try_from(count).unwrap_or(u16::MAX);
        let len = u32::try_from(used - FIRST).unwrap_or(u32::MAX);
        buffer[..FIRST].copy_from_slice(fields.header(KIND_DATA, count, len).as_bytes());
        seal(&mut buffer[..used], how);
        used
    }

    fn lines_of_provenance(&self, count: usize) -> usize {
        if self.fields.flags & PROVENANCE == 0 { 0 } else { provenance_lines(count) }
    }

    /// Whether one more message and `payload` more bytes behind it still fit.
    fn make_room(&self, payload: usize) -> Result<(), PushError> {
        let provenance = self.lines_of_provenance(self.count + 1) - self.lines_of_provenance(self.count);
        let needed = self.used + LINE + provenance * LINE + payload;
        let fits = needed <= self.buffer.len() && self.count < MESSAGES_MAX && u32::try_from(needed).is_ok();
        if fits { Ok(()) } else { Err(PushError::Full) }
    }

    fn insert(&mut self, message: &Message) {
        let at = FIRST + self.count * LINE;
        let provenance = self.lines_of_provenance(self.count);
        self.insert_line(at, message.as_bytes());
        self.count += 1;
        if self.lines_of_provenance(self.count) > provenance {
            self.insert_line(at + LINE + provenance * LINE, &[0; LINE]);
        }
    }

    /// Moves everything from `at` up by one line and writes `line` into the gap.
    fn insert_line(&mut self, at: usize, line: &[u8]) {
        self.buffer.copy_within(at..self.used, at + LINE);
        self.buffer[at..at + LINE].copy_from_slice(line);
        self.used += LINE;
    }
}

/// Body of a frame that is not data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// An ack.
    Ack(&'a AckBody),
    /// A nack.
    Nack(&'a NackBody),
    /// A heartbeat has none.
    Heartbeat,
}

/// Writes an ack, a nack or a heartbeat to the start of `buffer`, sealed, and returns its length in bytes.
///
/// # Errors
/// [`PushError::Full`] if the buffer is too short: 192 bytes for an ack, 128 for a nack, 64 for a heartbeat.
pub fn control(buffer: &mut [u8], fields: &FrameFields, body: Body<'_>, how: Seal<'_>) -> Result<usize, PushError> {
    let (kind, bytes): (u8, &[u8]) = match body {
        Body::Ack(ack) => (KIND_ACK, ack.as_bytes()),
        Body::Nack(nack) => (KIND_NACK, nack.as_bytes()),
        Body::Heartbeat => (KIND_HEARTBEAT, &[]),
    };
    let frame = buffer.get_mut(..LINE + bytes.len()).ok_or(PushError::Full)?;
    let len = u32::try_from(bytes.len()).map_err(|_| PushError::Full)?;
    frame[..LINE].copy_from_slice(fields.header(kind, 0, len).as_bytes());
    frame[LINE..].copy_from_slice(bytes);
    seal(frame, how);
    Ok(frame.len())
}
