//! Lanes as they are agreed on and told: what a peer offers, what it is answered, and how each one is.
//!
//! The details of both ends pass through here unread; they are the drivers' affair, and the secrets in them are never printed.

use super::records::{LAYOUT, check_layout, put_text, text};
use std::fmt;
use tachyon_wire::Endpoint;
use zerocopy::{
    FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::little_endian::{U16, U32, U64},
};

const ANSWER_MAGIC: [u8; 4] = *b"TYD1";
const LANE_MAGIC: [u8; 4] = *b"TYL1";
/// Bytes of one end's part of the agreement.
pub const LANE_DETAILS_BYTES: usize = 64;
/// Three lines of a terminal, as with replies.
const WHY_MAX: usize = 200;

/// How frames go on a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneKind {
    /// As datagrams.
    Datagrams,
    /// As sends on a reliable connection.
    Connection,
    /// As writes into a ring in the peer's memory.
    Ring,
}

/// By the number that travels.
const KINDS: [LaneKind; 3] = [LaneKind::Datagrams, LaneKind::Connection, LaneKind::Ring];

/// How a lane is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneState {
    /// Frames can pass.
    Connected,
    /// It failed or is not agreed on yet; the peer is to offer it anew.
    Waiting,
    /// It is being taken down, before it can be agreed on again.
    Ending,
    /// It failed more often than it may; the peer may still offer it anew.
    Failed,
}

/// By the number that travels.
const STATES: [LaneState; 4] = [LaneState::Connected, LaneState::Waiting, LaneState::Ending, LaneState::Failed];

/// A peer's offer of a lane to one worker.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LaneRequest {
    /// The worker.
    pub worker: u16,
    /// Where frames for the peer are addressed to; [`Endpoint::NONE`]: nothing is to be agreed on, and the answer tells the name
    /// that the details stand for. So whoever asks can look whose name that is before frames for it go anywhere.
    pub to: Endpoint,
    /// Port numbers from that one on which are the same peer; at least 1.
    pub ports: u16,
    /// Whether its frames go by the next driver once the lane has failed for good.
    pub falls_back: bool,
    /// The peer's part.
    pub details: [u8; LANE_DETAILS_BYTES],
}

impl fmt::Debug for LaneRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LaneRequest(worker {}, {:?}, {} ports)", self.worker, self.to, self.ports)
    }
}

/// [`LaneRequest`] as it travels.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct OfferRecord {
    to: Endpoint,
    worker: U16,
    ports: U16,
    falls_back: U16,
    details: [u8; LANE_DETAILS_BYTES],
}

impl LaneRequest {
    pub(super) fn to_record(self) -> OfferRecord {
        OfferRecord {
            to: self.to,
            worker: self.worker.into(),
            ports: self.ports.into(),
            falls_back: u16::from(self.falls_back).into(),
            details: self.details,
        }
    }

    pub(super) fn from_record(record: &OfferRecord) -> Result<Self, String> {
        let (ports, falls_back) = (record.ports.get(), record.falls_back.get());
        let last = u32::from(record.to.port.get()) + u32::from(ports.saturating_sub(1));
        if ports == 0 || last > u32::from(u16::MAX) || falls_back > 1 {
            return Err(format!("a lane to {ports} ports from {} on, with {falls_back}, cannot be", record.to.port));
        }
        Ok(Self {
            worker: record.worker.get(),
            to: record.to,
            ports,
            falls_back: falls_back == 1,
            details: record.details,
        })
    }
}

/// Which lane is to end, as it travels.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct DropRecord {
    to: Endpoint,
    worker: U16,
    zero: U16,
}

impl DropRecord {
    pub(super) fn new(worker: u16, to: Endpoint) -> Self {
        Self { to, worker: worker.into(), zero: 0.into() }
    }

    pub(super) fn parts(&self) -> Result<(u16, Endpoint), String> {
        let zero = self.zero.get();
        if zero == 0 { Ok((self.worker.get(), self.to)) } else { Err(format!("{zero} where a zero belongs")) }
    }
}

/// What a peer is answered to its offer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LaneAnswer {
    /// Where frames for the peer are addressed to.
    pub to: Endpoint,
    /// Our part; zeros if only a name was asked for.
    pub details: [u8; LANE_DETAILS_BYTES],
}

impl fmt::Debug for LaneAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LaneAnswer({:?})", self.to)
    }
}

/// [`LaneAnswer`] as it travels.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct AnswerRecord {
    magic: [u8; 4],
    number: U32,
    layout: U64,
    to: Endpoint,
    details: [u8; LANE_DETAILS_BYTES],
}

impl LaneAnswer {
    pub(super) fn to_record(self, number: u32) -> AnswerRecord {
        let (layout, number) = (LAYOUT.into(), number.into());
        AnswerRecord { magic: ANSWER_MAGIC, number, layout, to: self.to, details: self.details }
    }

    /// With the request's number. `None`: these bytes are no such answer, but perhaps a reply.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Result<(u32, Self), String>> {
        let record = AnswerRecord::ref_from_bytes(bytes).ok().filter(|record| record.magic == ANSWER_MAGIC)?;
        let answer = Self { to: record.to, details: record.details };
        Some(check_layout(record.layout).map(|()| (record.number.get(), answer)))
    }
}

/// What `tachyond` says of a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneStatus {
    /// The worker.
    pub worker: u16,
    /// Where frames for the peer are addressed to.
    pub to: Endpoint,
    /// How they go.
    pub kind: LaneKind,
    /// How it is.
    pub state: LaneState,
    /// What the last failure was; empty if there was none.
    pub why: String,
    /// Tries to bring it back since it stood for a while.
    pub attempts: u32,
    /// Whether its frames go by the next driver now.
    pub fell_back: bool,
}

/// [`LaneStatus`] as it travels.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct LaneRecord {
    magic: [u8; 4],
    number: U32,
    layout: U64,
    lanes: U32,
    attempts: U32,
    to: Endpoint,
    worker: U16,
    kind: U16,
    state: U16,
    fell_back: U16,
    why: [u8; WHY_MAX],
}

/// Answer to a question for one lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LaneTold {
    /// The request's number.
    pub(super) number: u32,
    /// How many lanes there are.
    pub(super) lanes: u32,
    /// The lane that was asked for.
    pub(super) lane: LaneStatus,
}

impl LaneTold {
    pub(super) fn to_record(number: u32, lanes: u32, lane: &LaneStatus) -> LaneRecord {
        let mut record = LaneRecord::new_zeroed();
        record.magic = LANE_MAGIC;
        record.number = number.into();
        record.layout = LAYOUT.into();
        record.lanes = lanes.into();
        record.attempts = lane.attempts.into();
        record.to = lane.to;
        record.worker = lane.worker.into();
        record.kind = (lane.kind as u16).into();
        record.state = (lane.state as u16).into();
        record.fell_back = u16::from(lane.fell_back).into();
        put_text(&mut record.why, &lane.why);
        record
    }

    /// `None`: these bytes are no such answer, but perhaps a reply.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Result<Self, String>> {
        let record = LaneRecord::ref_from_bytes(bytes).ok().filter(|record| record.magic == LANE_MAGIC)?;
        Some(Self::from_record(record))
    }

    fn from_record(record: &LaneRecord) -> Result<Self, String> {
        check_layout(record.layout)?;
        let (kind, state) = (record.kind.get(), record.state.get());
        let lane = LaneStatus {
            worker: record.worker.get(),
            to: record.to,
            kind: *KINDS.get(usize::from(kind)).ok_or_else(|| format!("there is no kind {kind} of lane"))?,
            state: *STATES.get(usize::from(state)).ok_or_else(|| format!("there is no state {state} of a lane"))?,
            why: text(&record.why),
            attempts: record.attempts.get(),
            fell_back: record.fell_back.get() != 0,
        };
        Ok(Self { number: record.number.get(), lanes: record.lanes.get(), lane })
    }
}
