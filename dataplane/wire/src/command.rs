//! What control tells the data plane. Plain bytes: the same records travel over the Unix socket and into a worker.

use crate::{Endpoint, Message, frame::Provenance};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::little_endian::{U16, U32, U64},
};

/// Session flag: frames must carry a tag.
pub const SESSION_TAG_REQUIRED: u8 = 1 << 0;
/// Session flag: may send SYSTEM_PACKET messages.
pub const SESSION_SYSTEM: u8 = 1 << 1;
/// Session flag: opened by another node; `route_id` of its frames is ignored on ingress.
pub const SESSION_NODE: u8 = 1 << 2;
/// Session flag: its windows of an earlier start follow, as [`Restore`]. Nothing is taken from it until it is opened once more
/// without this flag, and, if windows came, with an `epoch_floor` of 0, or they would begin anew.
pub const SESSION_RESTORING: u8 = 1 << 3;

/// Opens an ingress session on every worker, with the opposite session on which that worker answers.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct OpenSession {
    /// The publisher's session. Its low bits are its slot in the node's session table.
    pub session_id: U32,
    /// The opposite session, under which acks, nacks and heartbeats travel.
    pub reply_session_id: U32,
    /// Row of the rights section.
    pub principal: U32,
    /// First sender id of the session's range.
    pub sender_low: U32,
    /// Last sender id of the range (inclusive).
    pub sender_high: U32,
    /// Lowest epoch that is still accepted.
    pub epoch_floor: U32,
    /// The best class (0–3) this session may claim; a better one is judged as this one.
    pub class_cap: u8,
    /// [`SESSION_TAG_REQUIRED`], [`SESSION_SYSTEM`], [`SESSION_NODE`].
    pub flags: u8,
    /// Where its frames must come from; [`Endpoint::NONE`] = anywhere.
    pub pinned: Endpoint,
    /// Master key of the publisher's direction.
    pub master: [u8; 32],
    /// Master key of the opposite direction.
    pub reply_master: [u8; 32],
}

/// Adds a subscriber to one worker: an egress session and where its frames go.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct AddSubscriber {
    /// The permanent slot that the ruleset's targets name.
    pub slot: U32,
    /// The worker this record is for: each has its own egress session.
    pub worker: U16,
    /// 1 if egress frames carry tags, 0 if they carry a crc.
    pub tagged: u8,
    /// Zero.
    pub reserved: u8,
    /// Egress session of that worker towards this subscriber.
    pub session_id: U32,
    /// Buffers that may be queued or in flight towards this subscriber; more is `E_TX_CONGESTION`.
    pub credit: U32,
    /// Largest frame in bytes, header included (1472 at MTU 1500 over IPv4).
    pub frame_bytes_max: U32,
    /// Address, and the port of shard 0; shard n is at port + n.
    pub endpoint: Endpoint,
    /// Master key of this direction.
    pub master: [u8; 32],
}

/// Words of 64 frames that one [`Restore`] speaks of.
pub const RESTORE_WORDS: usize = 4;

/// A quarter of what a session's window in a shard was, as the truth log has it: so that no frame that it holds is judged again after
/// a restart. It adds to the window and takes nothing away, and does nothing where frames of another epoch came since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Restore {
    /// The session; it was opened with [`SESSION_RESTORING`].
    pub session_id: U32,
    /// The epoch that it goes on under.
    pub epoch: U32,
    /// Highest frame of that epoch in the log.
    pub top: U32,
    /// The shard.
    pub shard: U16,
    /// The first of the words; frame `id` of the last 1,024 is bit `id % 64` of word `id / 64 % 16`.
    pub word: u8,
    /// Zero.
    pub reserved: u8,
    /// Frames that the log has.
    pub seen: [U64; RESTORE_WORDS],
    /// Frames of those in which a message was refused.
    pub refused: [U64; RESTORE_WORDS],
}

/// A durable message that the truth log has, and whose copies may not have left before a restart: it is copied onto its route once
/// more, under its old identity, by which a subscriber that has it knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Again {
    /// Under which it was admitted; its shard is the message's.
    pub identity: Provenance,
    /// The message, without a payload in its frame.
    pub message: Message,
}

/// Sets the part of a sender's quota that one worker may spend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Lease {
    /// The sender.
    pub sender_id: U32,
    /// Part of the quota in 1/65,536; the parts of all workers add up to 65,536 at most.
    pub share: U32,
}

/// The whole of a quota.
pub const SHARE_ALL: u32 = 65_536;

/// A worker's word on a sender that reached its lease, for the rebalancing thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Demand {
    /// The sender.
    pub sender_id: U32,
    /// Messages refused for quota since the last word.
    pub refused: U32,
    /// Tick of this word, in nanoseconds.
    pub tick: U64,
}

/// One command as a worker sees it.
#[derive(Clone, Copy, Debug)]
pub enum Command {
    /// Opens, or replaces, an ingress session.
    OpenSession(OpenSession),
    /// Ends an ingress session.
    CloseSession(u32),
    /// Adds, or replaces, a subscriber.
    AddSubscriber(AddSubscriber),
    /// Ends a subscriber, by slot.
    RemoveSubscriber(u32),
    /// Changes a lease.
    Lease(Lease),
    /// Gives a session back a part of its window.
    Restore(Restore),
    /// Forwards a message of before the restart.
    Again(Again),
}

impl core::fmt::Debug for OpenSession {
    /// Names the ids; never prints a key.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "OpenSession({}, replies under {})", self.session_id, self.reply_session_id)
    }
}

impl core::fmt::Debug for AddSubscriber {
    /// Names the ids; never prints the key.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "AddSubscriber({}, worker {}, session {})", self.slot, self.worker, self.session_id)
    }
}
