//! What a worker says of its turns to the truth log: the records of the ring between `tachyond` and control.
//!
//! A *turn record* is a [`Turn`], then its commands, then its items: one [`Item`] for each received buffer of a recorded
//! shard, in the order in which they were judged, each followed by its frames. All of it is little endian, and every part is
//! a multiple of 8 bytes, so that records lie aligned in the ring. The same bytes are the body of the log's records of
//! decisions, so that whoever replays a log makes them anew and compares.
//!
//! A frame is recorded in one of three forms. [`FRAME_WHOLE`]: its bytes are in the arena, and stay there until the log has
//! them. [`FRAME_STUBS`]: no message of it is for the log, so its header and the first 16 bytes of each message are kept, which
//! is all that judging looks at. [`FRAME_REFUSED`]: it was not admitted; its first 64 bytes are kept, and the reason.

use crate::Endpoint;
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::little_endian::{U16, U32, U64},
};

/// Every part of a record is a multiple of this many bytes long.
pub const ALIGN: usize = 8;

/// [`Turn::kind`]: a turn.
pub const KIND_TURN: u8 = 1;
/// [`Turn::kind`]: nothing more up to the end of the ring's memory; the next record is at its start. Only the first 8
/// bytes of a [`Turn`] are there.
pub const KIND_SKIP: u8 = 2;

/// [`Turn::flags`]: a frame in this record holds an accepted message of a durable topic, which waits for the log.
pub const TURN_DURABLE: u8 = 1 << 0;
/// [`Turn::flags`]: every shard of the worker is recorded, so senders' quotas and egress can be followed as well.
pub const TURN_COMPLETE: u8 = 1 << 1;
/// [`Turn::flags`]: all that the recorded shards did since the node's start is in records: none of their turns was lost and
/// none was before the first record.
pub const TURN_SINCE_BOOT: u8 = 1 << 2;
/// [`Turn::flags`]: messages that were not taken ([`Turn::refuses`]) are those of topics that may not use the reserve.
pub const TURN_RESERVE: u8 = 1 << 4;
/// [`Turn::flags`]: in this turn copies were refused for what no record tells (a full queue, no free buffer), or messages were
/// forwarded that the log did not take ([`crate::image::FULL_MARK`]), so what left differs from what a replay
/// would send.
pub const TURN_DEVICE: u8 = 1 << 3;

/// In front of a turn record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Turn {
    /// Bytes of the whole record, this header included; a multiple of [`ALIGN`].
    pub length: U32,
    /// [`KIND_TURN`] or [`KIND_SKIP`].
    pub kind: u8,
    /// [`TURN_DURABLE`] and the rest.
    pub flags: u8,
    /// Pressure level under which it was judged, 0–4.
    pub pressure: u8,
    /// Number of the reason for which messages for the log were not taken in this turn; 0 = they were.
    pub refuses: u8,
    /// Number of the turn, from 1, rising by 1 for each that ought to be recorded: a jump is a loss.
    pub turn: U64,
    /// The tick, ns.
    pub tick: U64,
    /// Version of the ruleset it was judged under; 0 = none.
    pub ruleset_version: U64,
    /// Free buffers of the worker's pool before judging.
    pub free_buffers: U32,
    /// The worker.
    pub worker: U16,
    /// The shard in whose log commands go, and turns without an item of a recorded shard: the worker's first.
    pub lead_shard: U16,
    /// Commands that follow.
    pub commands: U16,
    /// Items that follow the commands.
    pub items: U16,
    /// Egress frames of routes for the log that were sealed by the end of this turn, since the node's start, modulo 2³².
    pub egress_frames: U32,
    /// The digest of all of them: see [`digest`].
    pub egress_digest: U64,
    /// Up to the turn of this number, itself included, what was held for the log was forwarded by the end of this turn, because
    /// the log had it on stable storage; 0 = none. A number and no position in the ring, because only the ring's owner knows where
    /// its memory ends.
    pub stable: U64,
}

/// Bytes of a [`Turn`].
pub const TURN_BYTES: usize = 64;
const _: () = assert!(size_of::<Turn>() == TURN_BYTES);

/// In front of a command's bytes, as [`crate::command`] has them, padded with zeros to a multiple of [`ALIGN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CommandHeader {
    /// 1 open session, 2 close session, 3 add subscriber, 4 remove subscriber, 5 lease, 6 setup, 7 restore, 8 again, 9 parts.
    pub number: u8,
    /// Zero.
    pub reserved: [u8; 3],
    /// Bytes of the command, without what pads it.
    pub length: U32,
}

/// [`CommandHeader::number`] of `OpenSession`.
pub const COMMAND_OPEN_SESSION: u8 = 1;
/// [`CommandHeader::number`] of `CloseSession`; the body is the session's id.
pub const COMMAND_CLOSE_SESSION: u8 = 2;
/// [`CommandHeader::number`] of `AddSubscriber`.
pub const COMMAND_ADD_SUBSCRIBER: u8 = 3;
/// [`CommandHeader::number`] of `RemoveSubscriber`; the body is the slot.
pub const COMMAND_REMOVE_SUBSCRIBER: u8 = 4;
/// [`CommandHeader::number`] of `Lease`.
pub const COMMAND_LEASE: u8 = 5;

/// [`CommandHeader::number`] of [`Setup`]: no command of control's, but what the worker was started with. It is the first part of
/// turn 1, and in no other.
pub const COMMAND_SETUP: u8 = 6;
/// [`CommandHeader::number`] of `Restore`.
pub const COMMAND_RESTORE: u8 = 7;
/// [`CommandHeader::number`] of `Again`.
pub const COMMAND_AGAIN: u8 = 8;

/// [`CommandHeader::number`] of [`TurnParts`]: no command of control's and never in the ring, but what the log's writer says of a turn that
/// it took apart. It is the first part of a shard's first body.
pub const COMMAND_PARTS: u8 = 9;

/// What of a turn is where, when more than one record of decisions has it: without this, a part that a crash took away would not be
/// missed. A turn that has none is one body in one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TurnParts {
    /// The shards in whose logs the turn has a part, a bit each.
    pub shards: U64,
    /// Frames of this shard's part that are [`FRAME_WHOLE`].
    pub frames: U32,
    /// Bodies of this shard's part.
    pub bodies: U16,
    /// Zero.
    pub reserved: U16,
}

const _: () = assert!(size_of::<TurnParts>() == 16);

/// What a worker was started with, as far as it decides what becomes of messages and what egress frames look like. Whoever
/// replays a log starts its worker with the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Setup {
    /// The worker's shards, a bit each.
    pub shards: U64,
    /// What is added to a tick to get Unix nanoseconds.
    pub unix_offset_ns: U64,
    /// Longest wait for an egress frame to fill, ns.
    pub fill_window_ns: U64,
    /// Slots in the session table.
    pub sessions_max: U32,
    /// Topic slots.
    pub topics_max: U32,
    /// Sender slots.
    pub senders_max: U32,
    /// Subscriber slots.
    pub subscribers_max: U32,
    /// Entries of a ruleset's targets section.
    pub targets_max: U32,
    /// Buffers of the worker.
    pub buffers: U32,
    /// How many of them the driver holds to receive into.
    pub receive_buffers: U32,
    /// Bytes of a buffer.
    pub buffer_bytes: U32,
    /// Largest frame that is taken, bytes.
    pub frame_bytes_max: U32,
    /// How many buffers may wait for the log.
    pub held_buffers: U32,
    /// Number of this boot.
    pub boot: U16,
    /// Workers of the node.
    pub workers: U16,
    /// Shards of the fabric.
    pub shard_count: U16,
    /// Zero.
    pub reserved: U16,
}

const _: () = assert!(size_of::<Setup>() == 72);

/// One received buffer: frames of one peer, behind each other, all of `stride` bytes but perhaps the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Item {
    /// Number of the buffer in its arena.
    pub buffer: U32,
    /// Where its first frame starts, from where the buffer's own bytes begin (behind the driver's headroom).
    pub offset: U32,
    /// Bytes of all its frames.
    pub length: U32,
    /// Bytes from one frame to the next, at least 1.
    pub stride: U32,
    /// The shard whose port it came to.
    pub shard: U16,
    /// Its place among the burst's items, those of shards that are not recorded counted too.
    pub place: U16,
    /// Frames that follow.
    pub frames: U16,
    /// Where it came from.
    pub source: Endpoint,
}

/// Bytes of an [`Item`].
pub const ITEM_BYTES: usize = 40;
const _: () = assert!(size_of::<Item>() == ITEM_BYTES);

/// [`FrameEntry::form`]: the frame's bytes are those of its item.
pub const FRAME_WHOLE: u8 = 0;
/// [`FrameEntry::form`]: header and stubs follow.
pub const FRAME_STUBS: u8 = 1;
/// [`FrameEntry::form`]: not admitted; 64 bytes follow, the frame's first, zeros behind what it has.
pub const FRAME_REFUSED: u8 = 2;

/// [`FrameEntry::flags`]: words on its messages follow, a byte each, padded with zeros to [`ALIGN`]: 0 accepted, [`HELD`],
/// [`WITHHELD`], or the number of its reason. Without them all were accepted, and held if [`ENTRY_DURABLE`] is set.
pub const ENTRY_REASONS: u8 = 1 << 0;
/// A message that was accepted, and waits until the log has it.
pub const HELD: u8 = 0x80;
/// A message that was accepted, and goes nowhere, because the log did not take it.
pub const WITHHELD: u8 = 0x81;
/// [`FrameEntry::flags`]: it holds messages that wait until the log has them.
pub const ENTRY_DURABLE: u8 = 1 << 1;
/// [`FrameEntry::flags`]: it holds accepted messages that the log takes.
pub const ENTRY_LOGGED: u8 = 1 << 2;

/// One frame of an item, in their order. What follows it: of a whole frame nothing; of stubs the header (64 bytes) and the
/// first [`STUB_BYTES`] of each message; of a refused frame its head; then, if flagged, the reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FrameEntry {
    /// [`FRAME_WHOLE`], [`FRAME_STUBS`] or [`FRAME_REFUSED`].
    pub form: u8,
    /// [`ENTRY_REASONS`] and the rest.
    pub flags: u8,
    /// Number of the reason of a frame that was not admitted; else 0.
    pub reason: u8,
    /// Zero.
    pub reserved: u8,
    /// Its messages; 0 of a frame that was not admitted.
    pub count: U16,
    /// Zero.
    pub reserved_2: U16,
}

/// Bytes of a [`FrameEntry`].
pub const ENTRY_BYTES: usize = 8;
const _: () = assert!(size_of::<FrameEntry>() == ENTRY_BYTES);

/// Bytes of a message that are kept where its topic is not for the log: flags, topic and sender.
pub const STUB_BYTES: usize = 16;
/// Bytes that are kept of a frame's start where not all of it is.
pub const HEAD_BYTES: usize = 64;

/// Adds one sealed egress frame to a digest: FNV-1a over 64-bit words, one for session and frame id and one for the seal
/// (the tag's first half, or the crc). It tells a difference, it does not resist forgers; the log's hashes do that.
#[inline]
#[must_use]
pub const fn digest(before: u64, session_id: u32, frame_id: u32, seal: u64) -> u64 {
    /// Prime of the 64-bit FNV.
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let words = (session_id as u64) << 32 | frame_id as u64;
    ((before ^ words).wrapping_mul(PRIME) ^ seal).wrapping_mul(PRIME)
}

impl FramePart<'_> {
    /// Whether the message at `index` was accepted.
    #[must_use]
    pub fn is_accepted(&self, index: usize) -> bool {
        let accepted = |word: &u8| [0, HELD, WITHHELD].contains(word);
        self.entry.form != FRAME_REFUSED && self.reasons.get(index).is_none_or(accepted)
    }

    /// Whether the message at `index` waits until the log has it.
    #[must_use]
    pub fn is_held(&self, index: usize) -> bool {
        match self.reasons.get(index) {
            Some(word) => *word == HELD,
            None => self.reasons.is_empty() && self.entry.flags & ENTRY_DURABLE != 0,
        }
    }
}

/// A part of a record that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// A command: its number and its bytes.
    Command(u8, &'a [u8]),
    /// A received buffer; its frames follow.
    Item(&'a Item),
    /// A frame of the last item.
    Frame(FramePart<'a>),
}

/// A frame of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FramePart<'a> {
    /// Form, flags, reason and count.
    pub entry: &'a FrameEntry,
    /// The header, or the first bytes; empty of a whole frame.
    pub head: &'a [u8],
    /// [`STUB_BYTES`] for each message, of stubs.
    pub stubs: &'a [u8],
    /// For each message 0, [`HELD`], [`WITHHELD`], or the number of its reason; may be empty, see [`ENTRY_REASONS`].
    pub reasons: &'a [u8],
}

/// Reads the parts of a turn record, in order. It is checked at each step and simply ends where the bytes make no sense;
/// [`Parts::is_whole`] tells whether it came to the end.
#[derive(Clone, Debug)]
pub struct Parts<'a> {
    bytes: &'a [u8],
    commands: u16,
    items: u16,
    frames: u16,
    sound: bool,
}

/// A record's header and its parts.
#[must_use]
pub fn read(record: &[u8]) -> Option<(&Turn, Parts<'_>)> {
    let (turn, bytes) = Turn::ref_from_prefix(record).ok()?;
    let whole = turn.kind == KIND_TURN && turn.length.get() as usize == record.len();
    let parts = Parts { bytes, commands: turn.commands.get(), items: turn.items.get(), frames: 0, sound: true };
    whole.then_some((turn, parts))
}

impl<'a> Parts<'a> {
    /// Whether everything that the header announced was read, and nothing is left.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.sound && self.bytes.is_empty() && self.commands == 0 && self.items == 0 && self.frames == 0
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(length.checked_next_multiple_of(ALIGN)?)?;
        self.bytes = rest;
        taken.get(..length)
    }

    fn part(&mut self) -> Option<Part<'a>> {
        if self.commands > 0 {
            self.commands -= 1;
            let header = CommandHeader::read_from_bytes(self.take(size_of::<CommandHeader>())?).ok()?;
            return Some(Part::Command(header.number, self.take(header.length.get() as usize)?));
        }
        if self.frames > 0 {
            self.frames -= 1;
            return self.frame().map(Part::Frame);
        }
        self.items -= 1;
        let item = Item::ref_from_bytes(self.take(ITEM_BYTES)?).ok()?;
        self.frames = item.frames.get();
        Some(Part::Item(item))
    }

    fn frame(&mut self) -> Option<FramePart<'a>> {
        let entry = FrameEntry::ref_from_bytes(self.take(ENTRY_BYTES)?).ok()?;
        let count = usize::from(entry.count.get());
        let head = if entry.form == FRAME_WHOLE { &[] } else { self.take(HEAD_BYTES)? };
        let stubs = if entry.form == FRAME_STUBS { self.take(count * STUB_BYTES)? } else { &[] };
        let reasons = if entry.flags & ENTRY_REASONS != 0 { self.take(count)? } else { &[] };
        (entry.form <= FRAME_REFUSED).then_some(FramePart { entry, head, stubs, reasons })
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = Part<'a>;

    fn next(&mut self) -> Option<Part<'a>> {
        if !self.sound || (self.commands == 0 && self.items == 0 && self.frames == 0) {
            return None;
        }
        let part = self.part();
        self.sound = part.is_some();
        part
    }
}
