//! Bodies of acks and nacks: what a receiver says about the frames of the opposite session.

use crate::{LINE, Reason, reason::Ledger};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::little_endian::{U16, U32},
};

/// Bits in one map.
pub const MAP_BITS: u32 = 256;

/// Ack class: adjudicated, and what was accepted is on its way.
pub const CLASS_ADMITTED: u8 = 0;
/// Ack class: in the truth log.
pub const CLASS_LOGGED: u8 = 1;
/// Ack class: on stable storage.
pub const CLASS_DURABLE: u8 = 2;

/// 256 bits; bit i is bit i mod 8 of byte i / 8.
#[derive(Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(transparent)]
pub struct Map {
    bytes: [u8; 32],
}

impl Map {
    /// No bit set.
    pub const EMPTY: Self = Self { bytes: [0; 32] };

    /// Bit `index`; false past the end.
    #[inline]
    #[must_use]
    pub fn get(&self, index: u32) -> bool {
        self.bytes.get(index as usize / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1)
    }

    /// Sets bit `index`; past the end it does nothing, because a map can say nothing about what it does not reach.
    #[inline]
    pub fn set(&mut self, index: u32) {
        if let Some(byte) = self.bytes.get_mut(index as usize / 8) {
            *byte |= 1 << (index % 8);
        }
    }

    /// Bits that are set.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.bytes.iter().map(|byte| byte.count_ones()).sum()
    }
}

impl core::fmt::Debug for Map {
    /// The indices of the bits that are set.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries((0..MAP_BITS).filter(|index| self.get(*index))).finish()
    }
}

/// Body of an ack: two lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct AckBody {
    /// The session that is spoken of.
    pub session_id: U32,
    /// Its epoch.
    pub epoch: U32,
    /// The shard that is spoken of; equal to the header's.
    pub shard: U16,
    /// [`CLASS_ADMITTED`], [`CLASS_LOGGED`] or [`CLASS_DURABLE`].
    pub class: u8,
    /// Zero.
    pub reserved: u8,
    /// Every frame up to this one is settled at that class; 0 if none is.
    pub cumulative: U32,
    /// Bit i: frame `cumulative` + 1 + i is settled.
    pub settled: Map,
    /// Zero.
    pub padding: [u8; 16],
    /// Bit i: a message of frame `cumulative` − i was refused.
    pub refused_before: Map,
    /// Bit i: a message of frame `cumulative` + 1 + i was refused.
    pub refused_after: Map,
}

const _: () = assert!(size_of::<AckBody>() == 2 * LINE);

impl AckBody {
    /// An ack that says "settled up to `cumulative`" and nothing more.
    #[must_use]
    pub fn new(session_id: u32, epoch: u32, shard: u16, class: u8, cumulative: u32) -> Self {
        Self {
            session_id: U32::new(session_id),
            epoch: U32::new(epoch),
            shard: U16::new(shard),
            class,
            cumulative: U32::new(cumulative),
            ..Self::default()
        }
    }

    /// Says that this frame is settled. Frames that the map does not reach are left to a later ack.
    #[inline]
    pub fn settle(&mut self, frame_id: u32) {
        if let Some(ahead) = frame_id.checked_sub(self.cumulative.get()).and_then(|ahead| ahead.checked_sub(1)) {
            self.settled.set(ahead);
        }
    }

    /// Says that a message of this frame was refused, as far as the maps reach.
    #[inline]
    pub fn refuse(&mut self, frame_id: u32) {
        let cumulative = self.cumulative.get();
        match frame_id.checked_sub(cumulative) {
            None | Some(0) => self.refused_before.set(cumulative - frame_id),
            Some(ahead) => self.refused_after.set(ahead - 1),
        }
    }

    /// Whether this ack says that the frame is settled.
    #[inline]
    #[must_use]
    pub fn is_settled(&self, frame_id: u32) -> bool {
        match frame_id.checked_sub(self.cumulative.get()) {
            None | Some(0) => frame_id != 0,
            Some(ahead) => self.settled.get(ahead - 1),
        }
    }

    /// Whether this ack says that a message of the frame was refused. Frames more than 255 before `cumulative`, or more
    /// than 256 behind it, are out of its reach: false means nothing there.
    #[inline]
    #[must_use]
    pub fn is_refused(&self, frame_id: u32) -> bool {
        let cumulative = self.cumulative.get();
        match frame_id.checked_sub(cumulative) {
            None | Some(0) => frame_id != 0 && self.refused_before.get(cumulative - frame_id),
            Some(ahead) => self.refused_after.get(ahead - 1),
        }
    }

    /// Whether the body keeps the layout in a frame of this shard.
    #[must_use]
    pub fn is_canonical(&self, shard: u16) -> bool {
        self.shard.get() == shard && self.class <= CLASS_DURABLE && self.reserved == 0 && self.padding == [0; 16]
    }
}

/// Body of a nack: one line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct NackBody {
    /// The session that is spoken of.
    pub session_id: U32,
    /// Its epoch.
    pub epoch: U32,
    /// The shard that is spoken of; equal to the header's.
    pub shard: U16,
    /// Number of the [`Reason`] of the first refused message; never 0.
    pub reason: u8,
    /// Zero.
    pub reserved: u8,
    /// The frame.
    pub frame_id: U32,
    /// Bit i: message i was accepted.
    pub accepted: Map,
    /// Zero.
    pub padding: [u8; 16],
}

const _: () = assert!(size_of::<NackBody>() == LINE);

impl NackBody {
    /// A nack of this frame in which, so far, no message was accepted.
    #[must_use]
    pub fn new(session_id: u32, epoch: u32, shard: u16, frame_id: u32, reason: Reason) -> Self {
        debug_assert!(
            matches!(reason.ledger(), Ledger::Messages | Ledger::Any) || reason.is_of_log(),
            "a nack speaks of messages, or says that the log does not take them"
        );
        Self {
            session_id: U32::new(session_id),
            epoch: U32::new(epoch),
            shard: U16::new(shard),
            reason: reason.number(),
            frame_id: U32::new(frame_id),
            ..Self::default()
        }
    }

    /// Says that message `index` was accepted.
    #[inline]
    pub fn accept(&mut self, index: u32) {
        self.accepted.set(index);
    }

    /// Whether message `index` was accepted.
    #[inline]
    #[must_use]
    pub fn is_accepted(&self, index: u32) -> bool {
        self.accepted.get(index)
    }

    /// Whether the body keeps the layout in a frame of this shard. Numbers of reasons that this crate does not know are
    /// let through: a newer node may have more of them.
    #[must_use]
    pub fn is_canonical(&self, shard: u16) -> bool {
        self.shard.get() == shard
            && self.reason != 0
            && self.reserved == 0
            && self.frame_id.get() != 0
            && self.padding == [0; 16]
    }
}
