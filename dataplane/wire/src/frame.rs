//! The frame: a 64-byte header and the messages that travel together; and the one parser.

use crate::{
    Message, Reason,
    ack::{AckBody, NackBody},
};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::little_endian::{U16, U32, U64},
};

/// Everything on the wire is a multiple of this many bytes: one cache line.
pub const LINE: usize = 64;
/// First bytes of every frame.
pub const MAGIC: [u8; 4] = *b"RTT1";
/// The version this crate speaks.
pub const VERSION: u8 = 1;
/// Most messages in one data frame.
pub const MESSAGES_MAX: usize = 256;
/// Default destination port of shard 0: below Linux's ephemeral range (32768), so that no client socket sits on it.
pub const BASE_PORT: u16 = 24_640;
/// Default number of shards of a fabric.
pub const SHARDS_DEFAULT: u16 = 16;

/// Header `flags`: the tag authenticates the frame.
pub const AUTHENTICATED: u16 = 1 << 0;
/// Header `flags`: the sender asks for durability.
pub const DURABLE: u16 = 1 << 1;
/// Header `flags`: acks and nacks are wanted.
pub const ACK_WANTED: u16 = 1 << 2;
/// Header `flags`: the frame is to be traced.
pub const TRACE: u16 = 1 << 3;
/// Header `flags`: event identities follow the messages.
pub const PROVENANCE: u16 = 1 << 4;

/// `kind`: messages.
pub const KIND_DATA: u8 = 0;
/// `kind`: two lines that say what is settled.
pub const KIND_ACK: u8 = 1;
/// `kind`: one line that says what was refused.
pub const KIND_NACK: u8 = 2;
/// `kind`: no body; "I am here, under this epoch".
pub const KIND_HEARTBEAT: u8 = 3;

/// Every header flag that may be set.
pub const FLAGS_KNOWN: u16 = 0x1f;

/// The first line of every frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FrameHeader {
    /// [`MAGIC`].
    pub magic: [u8; 4],
    /// [`AUTHENTICATED`], [`DURABLE`], [`ACK_WANTED`], [`TRACE`], [`PROVENANCE`].
    pub flags: U16,
    /// [`VERSION`].
    pub version: u8,
    /// [`KIND_DATA`], [`KIND_ACK`], [`KIND_NACK`], [`KIND_HEARTBEAT`].
    pub kind: u8,
    /// 0 on ingress; on egress the route that was taken.
    pub route_id: U32,
    /// From 1, per session, shard and epoch.
    pub frame_id: U32,
    /// Bytes behind the header.
    pub len: U32,
    /// Over the frame with `crc32c` and `tag` zero; zero if authenticated.
    pub crc32c: U32,
    /// The stream this frame belongs to.
    pub session_id: U32,
    /// The shard of every topic in this frame.
    pub shard: U16,
    /// Messages in this frame.
    pub count: U16,
    /// The sender's clock in Unix nanoseconds; informs, decides nothing.
    pub sent_ns: U64,
    /// Of the session's key.
    pub epoch: U32,
    /// Zero.
    pub reserved: U32,
    /// AEGISMAC-128L of the frame with `tag` zero; zero if not authenticated.
    pub tag: [u8; 16],
}

const _: () = assert!(size_of::<FrameHeader>() == LINE && align_of::<FrameHeader>() == 1);

/// [`FrameHeader::start`] of data without flags.
const DATA_START: u64 = u32::from_le_bytes(MAGIC) as u64 | (VERSION as u64) << 48 | (KIND_DATA as u64) << 56;

impl FrameHeader {
    /// Its first eight bytes, magic to kind, as one number.
    #[inline(always)]
    fn start(&self) -> u64 {
        self.as_bytes().first_chunk().map_or(0, |start| u64::from_le_bytes(*start))
    }

    /// All zeros, which is no valid header.
    pub const ZERO: Self = Self {
        magic: [0; 4],
        flags: U16::ZERO,
        version: 0,
        kind: 0,
        route_id: U32::ZERO,
        frame_id: U32::ZERO,
        len: U32::ZERO,
        crc32c: U32::ZERO,
        session_id: U32::ZERO,
        shard: U16::ZERO,
        count: U16::ZERO,
        sent_ns: U64::ZERO,
        epoch: U32::ZERO,
        reserved: U32::ZERO,
        tag: [0; 16],
    };
}

/// The identity under which a message was first admitted; 16 bytes per message behind the messages of a frame with
/// [`PROVENANCE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Provenance {
    /// Ingress session.
    pub session_id: U32,
    /// Its epoch.
    pub epoch: U32,
    /// The frame.
    pub frame_id: U32,
    /// The shard.
    pub shard: U16,
    /// The message's place in that frame.
    pub index: U16,
}

const _: () = assert!(size_of::<Provenance>() == 16);

/// What the lane that a frame came by allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane {
    /// Largest frame in bytes, header included.
    pub frame_bytes_max: u32,
    /// Whether messages may refer to REF_SHM and to arenas other than 0; true on shared-memory lanes only.
    pub references: bool,
}

/// A frame that kept the layout: a view of received bytes, nothing copied.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// The first line.
    pub header: &'a FrameHeader,
    /// The messages; empty unless the kind is data.
    pub messages: &'a [Message],
    /// One identity per message, or empty without [`PROVENANCE`].
    pub provenance: &'a [Provenance],
    /// The payload area, padding included; empty unless the kind is data.
    pub payload: &'a [u8],
    /// Where the payload area starts, in bytes from the start of the frame.
    pub payload_offset: u32,
    /// The whole frame.
    pub bytes: &'a [u8],
}

impl<'a> Frame<'a> {
    /// No frame: what an empty place holds.
    pub const EMPTY: Self = Self {
        header: &FrameHeader::ZERO,
        messages: &[],
        provenance: &[],
        payload: &[],
        payload_offset: 0,
        bytes: &[],
    };

    /// Whether a tag is present, and so must be verified.
    #[inline]
    #[must_use]
    pub fn is_authenticated(&self) -> bool {
        self.header.flags.get() & AUTHENTICATED != 0
    }

    /// The body, if the kind is ack.
    #[must_use]
    pub fn ack(&self) -> Option<&'a AckBody> {
        if self.header.kind != KIND_ACK {
            return None;
        }
        AckBody::ref_from_bytes(self.bytes.get(LINE..)?).ok()
    }

    /// The body, if the kind is nack.
    #[must_use]
    pub fn nack(&self) -> Option<&'a NackBody> {
        if self.header.kind != KIND_NACK {
            return None;
        }
        NackBody::ref_from_bytes(self.bytes.get(LINE..)?).ok()
    }
}

/// Lines of provenance behind `count` messages: 16 bytes each, padded to a line.
#[inline]
#[must_use]
pub const fn provenance_lines(count: usize) -> usize {
    count.div_ceil(LINE / size_of::<Provenance>())
}

/// The first two frame checks: [`Reason::TooLarge`], then [`Reason::BadFrame`]. `bytes` is what the carrier delivered,
/// nothing more and nothing less.
///
/// `route_id` is checked only where no session is needed to judge it: it must be 0 unless the kind is data. A node that
/// receives data calls [`check_route`] next; a subscriber takes any route.
///
/// # Errors
/// The reason that ends the frame.
#[inline]
pub fn parse<'a>(bytes: &'a [u8], lane: &Lane) -> Result<Frame<'a>, Reason> {
    if bytes.len() > lane.frame_bytes_max as usize {
        return Err(Reason::TooLarge);
    }
    parse_layout(bytes).ok_or(Reason::BadFrame)
}

// Inlined by force: a `Frame` that is returned through memory and copied costs more than all of its checks (27 against
// 9 ns a frame, 2.6 GHz Xeon).
#[inline(always)]
fn parse_layout(bytes: &[u8]) -> Option<Frame<'_>> {
    let (header, body) = FrameHeader::ref_from_prefix(bytes).ok()?;
    let flags = header.flags.get();
    // As numbers that have to be zero, so that one comparison is enough for all of them.
    let [low, high]: [U64; 2] = zerocopy::transmute!(header.tag);
    let seal_other = if flags & AUTHENTICATED != 0 { header.crc32c.get().into() } else { low.get() | high.get() };
    let lengths = (header.len.get() as usize ^ body.len()) | (body.len() % LINE);
    let faults = lengths as u64 | u64::from(header.reserved.get()) | seal_other;
    if header.frame_id.get() == 0 || faults != 0 {
        return None;
    }
    if header.start() & !(u64::from(FLAGS_KNOWN) << 32) == DATA_START {
        return parse_data(bytes, header, body);
    }
    if !is_sound_control(header, body) {
        return None;
    }
    let payload_offset = u32::try_from(bytes.len()).ok()?;
    Some(Frame { header, messages: &[], provenance: &[], payload: &[], payload_offset, bytes })
}

/// What is particular to the kinds without messages.
#[cold]
fn is_sound_control(header: &FrameHeader, body: &[u8]) -> bool {
    let start = header.start() & !(u64::from(flags_allowed(header.kind)) << 32);
    let start_is_sound = start == DATA_START | u64::from(header.kind) << 56;
    let body_is_sound = match header.kind {
        KIND_ACK => AckBody::ref_from_bytes(body).is_ok_and(|ack| ack.is_canonical(header.shard.get())),
        KIND_NACK => NackBody::ref_from_bytes(body).is_ok_and(|nack| nack.is_canonical(header.shard.get())),
        KIND_HEARTBEAT => body.is_empty(),
        _ => false,
    };
    start_is_sound && body_is_sound && header.count.get() == 0 && header.route_id.get() == 0
}

/// The flags that mean something on frames of this kind; the others must be clear. An ack is never acked, and only
/// messages are durable or have a provenance.
#[inline]
const fn flags_allowed(kind: u8) -> u16 {
    match kind {
        KIND_DATA => FLAGS_KNOWN,
        KIND_HEARTBEAT => AUTHENTICATED | ACK_WANTED | TRACE,
        _ => AUTHENTICATED | TRACE,
    }
}

#[inline(always)]
fn parse_data<'a>(bytes: &'a [u8], header: &'a FrameHeader, body: &'a [u8]) -> Option<Frame<'a>> {
    let count = usize::from(header.count.get());
    if count == 0 || count > MESSAGES_MAX {
        return None;
    }
    let (messages, rest) = <[Message]>::ref_from_prefix_with_elems(body, count).ok()?;
    let (provenance, payload): (&[Provenance], _) = if header.flags.get() & PROVENANCE != 0 {
        let (lines, payload) = rest.split_at_checked(provenance_lines(count) * LINE)?;
        let (provenance, padding) = <[Provenance]>::ref_from_prefix_with_elems(lines, count).ok()?;
        if padding.iter().any(|byte| *byte != 0) {
            return None;
        }
        (provenance, payload)
    } else {
        (&[], rest)
    };
    let payload_offset = u32::try_from(bytes.len() - payload.len()).ok()?;
    Some(Frame { header, messages, provenance, payload, payload_offset, bytes })
}

/// The last part of the second frame check, for nodes: `route_id` is 0 on ingress, except in sessions that were opened by
/// a node, whose frames carry the route they took there. An unknown session was opened by nobody, so there it is checked.
///
/// # Errors
/// [`Reason::BadFrame`].
#[inline]
pub fn check_route(frame: &Frame<'_>, opened_by_node: bool) -> Result<(), Reason> {
    if frame.header.route_id.get() == 0 || opened_by_node { Ok(()) } else { Err(Reason::BadFrame) }
}
