//! The records of the socket, as bytes and as types.

use super::{
    filters::{FilterRecord, INTERFACE_NAME_MAX},
    lanes::{DropRecord, LaneRecord, LaneRequest, OfferRecord},
    ports::{PORT_NAME_MAX, PortRecord},
    tap::TapRecord,
};
use crate::{stats, tap};
use std::{fmt, os::fd::OwnedFd};
use tachyon_wire::{
    Endpoint,
    command::{AddSubscriber, Again, OpenSession, Restore},
};
use zerocopy::{
    FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::little_endian::{U16, U32, U64},
};

const HELLO_MAGIC: [u8; 4] = *b"TYH1";
const REQUEST_MAGIC: [u8; 4] = *b"TYQ1";
const REPLY_MAGIC: [u8; 4] = *b"TYA1";
/// Raised when the meaning of a record changes without its size.
const VERSION: u64 = 1;

/// Most bytes of a reply's text: three lines of a terminal.
pub const REPLY_TEXT_MAX: usize = 200;
/// Most bytes of the hello's list of what is degraded: some ten lines.
const DEGRADED_MAX: usize = 2048;
/// Room for the names of all drivers at once.
const DRIVER_MAX: usize = 48;

/// What both ends must agree on, as one number.
pub(super) const LAYOUT: u64 = stats::fnv1a(
    stats::FNV_START,
    &[
        VERSION,
        stats::LAYOUT,
        tap::LAYOUT,
        size_of::<HelloRecord>() as u64,
        size_of::<RequestHeader>() as u64,
        size_of::<ReplyRecord>() as u64,
        size_of::<PortRecord>() as u64,
        size_of::<LaneRecord>() as u64,
        size_of::<FilterRecord>() as u64,
        size_of::<OfferRecord>() as u64,
        size_of::<TapRecord>() as u64,
        size_of::<OpenSession>() as u64,
        size_of::<AddSubscriber>() as u64,
        size_of::<Restore>() as u64,
        size_of::<Again>() as u64,
    ],
);

/// What `tachyond` is, told once per connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Random, new at each start; counters begin at zero with it.
    pub boot_id: [u8; 16],
    /// Number of this start: the high half of every epoch that the node sends under.
    pub boot_number: u16,
    /// Workers; `AddSubscriber` is sent once for each.
    pub workers: u16,
    /// Shards of the fabric.
    pub shard_count: u16,
    /// Where shard 0 listens; shard n is at port + n. An unspecified address means all addresses of the host.
    pub listen: Endpoint,
    /// Largest frame in bytes.
    pub frame_bytes_max: u32,
    /// Slots of the session table, a power of two: a session's low bits are its slot.
    pub sessions_max: u32,
    /// Subscriber slots.
    pub subscribers_max: u32,
    /// Topic slots that a ruleset may have.
    pub topics_max: u32,
    /// Sender slots that a ruleset may have.
    pub senders_max: u32,
    /// Targets that a ruleset may have.
    pub targets_max: u32,
    /// Version of the ruleset in force; 0 = none.
    pub ruleset_version: u64,
    /// The drivers, in the order in which a frame's way is looked for, with `, ` between them.
    pub driver: String,
    /// What is slower or weaker than it could be, one each.
    pub degraded: Vec<String>,
}

/// [`Hello`] as it travels.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct HelloRecord {
    magic: [u8; 4],
    boot_number: U16,
    workers: U16,
    layout: U64,
    boot_id: [u8; 16],
    ruleset_version: U64,
    listen: Endpoint,
    shard_count: U16,
    frame_bytes_max: U32,
    sessions_max: U32,
    subscribers_max: U32,
    topics_max: U32,
    senders_max: U32,
    targets_max: U32,
    driver: [u8; DRIVER_MAX],
    degraded: [u8; DEGRADED_MAX],
}

impl Hello {
    pub(super) fn to_record(&self) -> HelloRecord {
        let mut record = HelloRecord::new_zeroed();
        record.magic = HELLO_MAGIC;
        record.layout = LAYOUT.into();
        record.boot_number = self.boot_number.into();
        record.workers = self.workers.into();
        record.boot_id = self.boot_id;
        record.ruleset_version = self.ruleset_version.into();
        record.listen = self.listen;
        record.shard_count = self.shard_count.into();
        record.frame_bytes_max = self.frame_bytes_max.into();
        record.sessions_max = self.sessions_max.into();
        record.subscribers_max = self.subscribers_max.into();
        record.topics_max = self.topics_max.into();
        record.senders_max = self.senders_max.into();
        record.targets_max = self.targets_max.into();
        put_text(&mut record.driver, &self.driver);
        put_text(&mut record.degraded, &self.degraded.join("\n"));
        record
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let record = HelloRecord::read_from_bytes(bytes)
            .map_err(|_| format!("a hello has {} bytes, not {}", size_of::<HelloRecord>(), bytes.len()))?;
        if record.magic != HELLO_MAGIC {
            return Err("whoever listens there is not tachyond".into());
        }
        check_layout(record.layout)?;
        Ok(Self {
            boot_id: record.boot_id,
            boot_number: record.boot_number.get(),
            workers: record.workers.get(),
            shard_count: record.shard_count.get(),
            listen: record.listen,
            frame_bytes_max: record.frame_bytes_max.get(),
            sessions_max: record.sessions_max.get(),
            subscribers_max: record.subscribers_max.get(),
            topics_max: record.topics_max.get(),
            senders_max: record.senders_max.get(),
            targets_max: record.targets_max.get(),
            ruleset_version: record.ruleset_version.get(),
            driver: text(&record.driver),
            degraded: text(&record.degraded).lines().map(str::to_owned).collect(),
        })
    }
}

/// What control asks for.
pub enum Request {
    /// Opens, or replaces, a publisher's session.
    OpenSession(Box<OpenSession>),
    /// Ends a publisher's session.
    CloseSession(u32),
    /// Adds, or replaces, a subscriber on the worker that it names.
    AddSubscriber(Box<AddSubscriber>),
    /// Ends a subscriber on all workers, by slot.
    RemoveSubscriber(u32),
    /// Brings a ruleset into force.
    Ruleset(OwnedFd),
    /// How a port is, by its place from 0. The first place has the node look at all of them, the others tell what it saw
    /// then, so that a list that is read in order is of one moment.
    Port(u32),
    /// Stops a port, by name.
    StopPort(String),
    /// Starts a port that was stopped, by name.
    StartPort(String),
    /// Agrees on a lane between a worker and a peer; answered by our part.
    ConnectLane(Box<LaneRequest>),
    /// Ends a worker's lane to a peer.
    DropLane(u16, Endpoint),
    /// How a lane is, by its place; as with [`Request::Port`].
    Lane(u32),
    /// How a pre-filter is, by its place; as with [`Request::Port`].
    Filter(u32),
    /// Attaches the pre-filter to this interface.
    AttachFilter(String),
    /// Detaches it: everything passes to the kernel.
    DetachFilter(String),
    /// Sources from which nothing is taken, in place of those before: a sealed list of [`super::Prefix`].
    Denied(OwnedFd),
    /// A worker's tap; answered by it.
    Tap(u16),
    /// A part of a session's window of before the node's start, for the worker that has the shard.
    Restore(Box<Restore>),
    /// A message of before the node's start that is to be forwarded once more.
    Again(Box<Again>),
}

impl fmt::Debug for Request {
    /// Names the request and its ids; never prints a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OpenSession(open) => write!(f, "OpenSession({})", open.session_id),
            Self::CloseSession(id) => write!(f, "CloseSession({id})"),
            Self::AddSubscriber(add) => write!(f, "AddSubscriber({}, worker {})", add.slot, add.worker),
            Self::RemoveSubscriber(slot) => write!(f, "RemoveSubscriber({slot})"),
            Self::Ruleset(_) => f.write_str("Ruleset"),
            Self::Port(place) => write!(f, "Port({place})"),
            Self::StopPort(name) => write!(f, "StopPort({name})"),
            Self::StartPort(name) => write!(f, "StartPort({name})"),
            Self::ConnectLane(lane) => write!(f, "ConnectLane(worker {}, {} ports)", lane.worker, lane.ports),
            Self::DropLane(worker, to) => write!(f, "DropLane(worker {worker}, {to:?})"),
            Self::Lane(place) => write!(f, "Lane({place})"),
            Self::Filter(place) => write!(f, "Filter({place})"),
            Self::AttachFilter(interface) => write!(f, "AttachFilter({interface})"),
            Self::DetachFilter(interface) => write!(f, "DetachFilter({interface})"),
            Self::Denied(_) => f.write_str("Denied"),
            Self::Tap(worker) => write!(f, "Tap(worker {worker})"),
            Self::Restore(part) => {
                let (session, epoch, top) = (part.session_id, part.epoch, part.top);
                write!(f, "Restore({session}, shard {}, epoch {epoch}, top {top}, word {})", part.shard, part.word)
            }
            Self::Again(again) => {
                let of = again.identity;
                write!(f, "Again({}, shard {}, epoch {}, frame {})", of.session_id, of.shard, of.epoch, of.frame_id)
            }
        }
    }
}

const KIND_OPEN_SESSION: u16 = 1;
const KIND_CLOSE_SESSION: u16 = 2;
const KIND_ADD_SUBSCRIBER: u16 = 3;
const KIND_REMOVE_SUBSCRIBER: u16 = 4;
const KIND_RULESET: u16 = 5;
const KIND_PORT: u16 = 6;
const KIND_STOP_PORT: u16 = 7;
const KIND_START_PORT: u16 = 8;
const KIND_CONNECT_LANE: u16 = 9;
const KIND_DROP_LANE: u16 = 10;
const KIND_LANE: u16 = 11;
const KIND_FILTER: u16 = 12;
const KIND_ATTACH_FILTER: u16 = 13;
const KIND_DETACH_FILTER: u16 = 14;
const KIND_DENIED: u16 = 15;
const KIND_TAP: u16 = 16;
const KIND_RESTORE: u16 = 17;
const KIND_AGAIN: u16 = 18;

/// In front of every request's body.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RequestHeader {
    magic: [u8; 4],
    number: U32,
    layout: U64,
    kind: U16,
    reserved: [u8; 6],
}

/// Most bytes of a request: its header and the largest body.
pub(super) const REQUEST_BYTES_MAX: usize = {
    let (open, add, offer) = (size_of::<OpenSession>(), size_of::<AddSubscriber>(), size_of::<OfferRecord>());
    let most = if open > add { open } else { add };
    size_of::<RequestHeader>() + if most > offer { most } else { offer }
};

impl Request {
    /// The bytes, and the descriptor that goes with them.
    pub(super) fn to_bytes(&self, number: u32) -> (Vec<u8>, Option<&OwnedFd>) {
        let (offer, drop);
        let (kind, body, fd): (u16, &[u8], _) = match self {
            Self::OpenSession(open) => (KIND_OPEN_SESSION, open.as_bytes(), None),
            Self::CloseSession(id) => (KIND_CLOSE_SESSION, &id.to_le_bytes(), None),
            Self::AddSubscriber(add) => (KIND_ADD_SUBSCRIBER, add.as_bytes(), None),
            Self::RemoveSubscriber(slot) => (KIND_REMOVE_SUBSCRIBER, &slot.to_le_bytes(), None),
            Self::Ruleset(fd) => (KIND_RULESET, &[], Some(fd)),
            Self::Port(place) => (KIND_PORT, &place.to_le_bytes(), None),
            Self::StopPort(name) => (KIND_STOP_PORT, name.as_bytes(), None),
            Self::StartPort(name) => (KIND_START_PORT, name.as_bytes(), None),
            Self::ConnectLane(lane) => {
                offer = lane.to_record();
                (KIND_CONNECT_LANE, offer.as_bytes(), None)
            }
            Self::DropLane(worker, to) => {
                drop = DropRecord::new(*worker, *to);
                (KIND_DROP_LANE, drop.as_bytes(), None)
            }
            Self::Lane(place) => (KIND_LANE, &place.to_le_bytes(), None),
            Self::Filter(place) => (KIND_FILTER, &place.to_le_bytes(), None),
            Self::AttachFilter(interface) => (KIND_ATTACH_FILTER, interface.as_bytes(), None),
            Self::DetachFilter(interface) => (KIND_DETACH_FILTER, interface.as_bytes(), None),
            Self::Denied(fd) => (KIND_DENIED, &[], Some(fd)),
            Self::Tap(worker) => (KIND_TAP, &worker.to_le_bytes(), None),
            Self::Restore(part) => (KIND_RESTORE, part.as_bytes(), None),
            Self::Again(again) => (KIND_AGAIN, again.as_bytes(), None),
        };
        let header = RequestHeader {
            magic: REQUEST_MAGIC,
            number: number.into(),
            layout: LAYOUT.into(),
            kind: kind.into(),
            reserved: [0; 6],
        };
        ([header.as_bytes(), body].concat(), fd)
    }

    /// The number and the request; if it is refused, the number as far as it could be read, and why.
    pub(super) fn from_bytes(bytes: &[u8], fd: Option<OwnedFd>) -> Result<(u32, Self), (u32, String)> {
        let (header, body) = RequestHeader::read_from_prefix(bytes).map_err(|_| {
            (0, format!("a request has at least {} bytes, not {}", size_of::<RequestHeader>(), bytes.len()))
        })?;
        let number = header.number.get();
        Self::from_parts(&header, body, fd).map(|request| (number, request)).map_err(|text| (number, text))
    }

    fn from_parts(header: &RequestHeader, body: &[u8], fd: Option<OwnedFd>) -> Result<Self, String> {
        if header.magic != REQUEST_MAGIC || header.reserved != [0; 6] {
            return Err("these bytes are no request".into());
        }
        check_layout(header.layout)?;
        let kind = header.kind.get();
        if fd.is_some() != [KIND_RULESET, KIND_DENIED].contains(&kind) {
            return Err("a ruleset or a list comes with one descriptor, every other request with none".into());
        }
        let wrong_size = || format!("a request of kind {kind} does not have {} bytes behind its header", body.len());
        let id = || U32::read_from_bytes(body).map(U32::get).map_err(|_| wrong_size());
        let name = |what: &str, most| match str::from_utf8(body) {
            Ok(name) if (1..=most).contains(&name.len()) => Ok(name.to_owned()),
            _ => Err(format!("{what}'s name is text of 1 to {most} bytes")),
        };
        let port = || name("a port", PORT_NAME_MAX);
        let interface = || name("an interface", INTERFACE_NAME_MAX);
        match (kind, fd) {
            (KIND_OPEN_SESSION, _) => {
                Ok(Self::OpenSession(Box::new(OpenSession::read_from_bytes(body).map_err(|_| wrong_size())?)))
            }
            (KIND_CLOSE_SESSION, _) => Ok(Self::CloseSession(id()?)),
            (KIND_ADD_SUBSCRIBER, _) => {
                Ok(Self::AddSubscriber(Box::new(AddSubscriber::read_from_bytes(body).map_err(|_| wrong_size())?)))
            }
            (KIND_REMOVE_SUBSCRIBER, _) => Ok(Self::RemoveSubscriber(id()?)),
            (KIND_RULESET, Some(fd)) if body.is_empty() => Ok(Self::Ruleset(fd)),
            (KIND_RULESET, _) => Err(wrong_size()),
            (KIND_PORT, _) => Ok(Self::Port(id()?)),
            (KIND_STOP_PORT, _) => Ok(Self::StopPort(port()?)),
            (KIND_START_PORT, _) => Ok(Self::StartPort(port()?)),
            (KIND_CONNECT_LANE, _) => {
                let record = OfferRecord::read_from_bytes(body).map_err(|_| wrong_size())?;
                LaneRequest::from_record(&record).map(|lane| Self::ConnectLane(Box::new(lane)))
            }
            (KIND_DROP_LANE, _) => {
                let record = DropRecord::read_from_bytes(body).map_err(|_| wrong_size())?;
                record.parts().map(|(worker, to)| Self::DropLane(worker, to))
            }
            (KIND_LANE, _) => Ok(Self::Lane(id()?)),
            (KIND_FILTER, _) => Ok(Self::Filter(id()?)),
            (KIND_ATTACH_FILTER, _) => Ok(Self::AttachFilter(interface()?)),
            (KIND_DETACH_FILTER, _) => Ok(Self::DetachFilter(interface()?)),
            (KIND_DENIED, Some(fd)) if body.is_empty() => Ok(Self::Denied(fd)),
            (KIND_DENIED, _) => Err(wrong_size()),
            (KIND_TAP, _) => Ok(Self::Tap(U16::read_from_bytes(body).map_err(|_| wrong_size())?.get())),
            (KIND_RESTORE, _) => Ok(Self::Restore(Box::new(Restore::read_from_bytes(body).map_err(|_| wrong_size())?))),
            (KIND_AGAIN, _) => Ok(Self::Again(Box::new(Again::read_from_bytes(body).map_err(|_| wrong_size())?))),
            _ => Err(format!("there is no request of kind {kind}")),
        }
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// Done, or handed to the workers.
    Yes,
    /// It can never work like this; the text says why.
    Refused,
    /// Not now (a worker's command ring is full); the same request may be sent again.
    Busy,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The request's number.
    pub number: u32,
    /// How it ended.
    pub accepted: Accepted,
    /// Why, in one sentence; cut at [`REPLY_TEXT_MAX`] bytes.
    pub text: String,
}

/// [`Reply`] as it travels.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct ReplyRecord {
    magic: [u8; 4],
    number: U32,
    layout: U64,
    accepted: U16,
    reserved: [u8; 6],
    text: [u8; REPLY_TEXT_MAX],
}

impl Reply {
    pub(super) fn to_record(&self) -> ReplyRecord {
        let mut record = ReplyRecord::new_zeroed();
        record.magic = REPLY_MAGIC;
        record.number = self.number.into();
        record.layout = LAYOUT.into();
        record.accepted = match self.accepted {
            Accepted::Yes => 0,
            Accepted::Refused => 1,
            Accepted::Busy => 2,
        }
        .into();
        put_text(&mut record.text, &self.text);
        record
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let record = ReplyRecord::read_from_bytes(bytes)
            .map_err(|_| format!("a reply has {} bytes, not {}", size_of::<ReplyRecord>(), bytes.len()))?;
        if record.magic != REPLY_MAGIC {
            return Err("these bytes are no reply".into());
        }
        check_layout(record.layout)?;
        let accepted = match record.accepted.get() {
            0 => Accepted::Yes,
            1 => Accepted::Refused,
            2 => Accepted::Busy,
            other => return Err(format!("there is no reply of kind {other}")),
        };
        Ok(Self { number: record.number.get(), accepted, text: text(&record.text) })
    }
}

pub(super) fn check_layout(layout: U64) -> Result<(), String> {
    if layout.get() == LAYOUT {
        return Ok(());
    }
    Err("the other side has another layout; run tachyond and tachyon-control of the same version".into())
}

/// Writes as much of `text` as fits, whole characters only, and zeros behind it.
pub(super) fn put_text(into: &mut [u8], text: &str) {
    let cut = text.floor_char_boundary(into.len());
    into[..cut].copy_from_slice(&text.as_bytes()[..cut]);
    into[cut..].fill(0);
}

pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
