//! The ruleset image: what control compiles and workers judge by.
//!
//! One flat, immutable, little-endian byte string: header, then sections in the order of the header's counts, each
//! starting on a 64-byte boundary and padded with zeros. Positions follow from the counts, so there are no offsets to lie.
//! Topics, senders, principals and subscribers have permanent slots: `topic_id` and `sender_id` *are* the index into
//! their section, so finding a record is one load, no hash, no search.

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::little_endian::{U16, U32, U64},
};

/// First bytes of an image.
pub const MAGIC: [u8; 4] = *b"RTR1";
/// Layout version of this module.
pub const LAYOUT: u32 = 2;
/// Most topic slots: one million and a little (20 bits), 32 MiB of records.
pub const TOPIC_SLOTS_MAX: u32 = 1 << 20;
/// Most sender slots, for the same reason.
pub const SENDER_SLOTS_MAX: u32 = 1 << 20;
/// Most subscribers of one route (fan-out).
pub const FAN_OUT_MAX: u16 = 64;
/// Most routes.
pub const ROUTES_MAX: u32 = 1 << 16;
/// Most entries of the targets section: every route at full fan-out.
pub const TARGETS_MAX: u32 = ROUTES_MAX * FAN_OUT_MAX as u32;
/// Most principals: as many as sessions at full speed.
pub const PRINCIPALS_MAX: u32 = 1 << 16;
/// Most words in a row of rights: one bit for each group that the 16 bits of a topic's `group` can name.
pub const RIGHTS_WORDS_MAX: u32 = (1 << 16) / 64;
/// Highest version: workers remember 32 bits of it beside each rule, and 2³² swaps at one a second take 136 years.
pub const VERSION_MAX: u64 = u32::MAX as u64;
/// Most subscriber slots of a node.
pub const SUBSCRIBERS_MAX: u32 = 1 << 12;
/// Rates are held as time per message in sixteenths of a nanosecond: exact to 0.6 % at 100 M messages a second, and 64
/// bits of it last 36 years.
pub const TICKS_PER_NS: u64 = 16;
/// Largest period times burst: half of the clock's range, so that no sum in the bucket can wrap.
pub const BUCKET_SPAN_MAX: u64 = 1 << 62;

/// Topic flag: the slot is in use; clear means unknown, which means refused.
pub const TOPIC_KNOWN: u16 = 1 << 0;
/// Topic flag: only authenticated frames may publish.
pub const TOPIC_TAG_REQUIRED: u16 = 1 << 1;
/// Topic flag: refused messages also go to the quarantine ring.
pub const TOPIC_QUARANTINE: u16 = 1 << 2;
/// Topic flag: written to the truth log.
pub const TOPIC_LOGGED: u16 = 1 << 3;
/// Topic flag: forwarded only once it is on stable storage.
pub const TOPIC_DURABLE: u16 = 1 << 4;
/// Where, in a topic's flags, it says what becomes of its messages while the truth log takes none: one of the `FULL_` numbers.
pub const TOPIC_FULL_SHIFT: u16 = 5;
/// The two bits there.
pub const TOPIC_FULL_MASK: u16 = 3 << TOPIC_FULL_SHIFT;
/// They are not forwarded.
pub const FULL_TAILDROP: u16 = 0;
/// They are forwarded and not written. Not for durable topics.
pub const FULL_MARK: u16 = 1;
/// They are not forwarded, and the publisher is told by a nack.
pub const FULL_NACK: u16 = 2;
/// They may take the last quarter of the ring and of the buffers that are kept for the log; then as [`FULL_TAILDROP`].
pub const FULL_BUFFER: u16 = 3;
/// Every topic flag that may be set.
pub const TOPIC_FLAGS_KNOWN: u16 = 0x7f;
/// `route` of a topic that nobody subscribes to: accepted, no copies.
pub const ROUTE_NONE: u32 = u32::MAX;

/// First 128 bytes of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ImageHeader {
    /// [`MAGIC`].
    pub magic: [u8; 4],
    /// [`LAYOUT`].
    pub layout: U32,
    /// Ruleset version, from 1, strictly increasing, at most [`VERSION_MAX`].
    pub version: U64,
    /// Bytes of the whole image.
    pub length: U64,
    /// Power of two; must equal the node's.
    pub shard_count: U32,
    /// Records in the topics section; slot 0 is never known.
    pub topic_slots: U32,
    /// Records in the senders section.
    pub sender_slots: U32,
    /// Rows of the rights section.
    pub principals: U32,
    /// 64-bit words in a row of rights; bit g of a row says "may publish on topics of group g".
    pub rights_words: U32,
    /// Records in the routes section.
    pub routes: U32,
    /// Entries in the targets section.
    pub targets: U32,
    /// Zero.
    pub reserved: [u8; 44],
    /// BLAKE3 of the image with this field zero.
    pub checksum: [u8; 32],
}

const _: () = assert!(size_of::<ImageHeader>() == 128);

/// One topic's rule: half a cache line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TopicRule {
    /// Time per message in 1/16 ns; 0 = no limit.
    pub period: U64,
    /// Messages that may come at once; at least 1 where `period` is not 0.
    pub burst: U32,
    /// Index into the routes section, or [`ROUTE_NONE`].
    pub route: U32,
    /// Rights group; group 0 is in nobody's rights.
    pub group: U16,
    /// [`TOPIC_KNOWN`] and the rest.
    pub flags: U16,
    /// The slot's own number again, so that a shifted section cannot pass; 0 where unknown.
    pub topic_id: U32,
    /// Zero.
    pub reserved: U64,
}

const _: () = assert!(size_of::<TopicRule>() == 32);

/// One sender's quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SenderRule {
    /// Time per message in 1/16 ns over the whole node; 0 = no limit.
    pub period: U64,
    /// Messages that may come at once over the whole node; at least 1, also where `period` is 0. A record of zeros is a
    /// slot that is not in use, and what it sends is refused: a missing rule never means allow.
    pub burst: U32,
    /// Zero.
    pub reserved: U32,
}

/// One route: a run of the targets section.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RouteRule {
    /// What egress frames carry as `route_id`; never 0.
    pub route_id: U32,
    /// First entry of its run in the targets section.
    pub first_target: U32,
    /// Entries in its run, 1 to [`FAN_OUT_MAX`], rising, so that none is there twice.
    pub target_count: U16,
    /// What its topics are for the truth log: [`ROUTE_VOLATILE`], [`ROUTE_LOGGED`] or [`ROUTE_DURABLE`].
    pub for_log: u8,
    /// Zero.
    pub reserved: [u8; 5],
}

/// [`RouteRule::for_log`]: nothing of it is written.
pub const ROUTE_VOLATILE: u8 = 0;
/// [`RouteRule::for_log`]: all of it is written.
pub const ROUTE_LOGGED: u8 = 1;
/// [`RouteRule::for_log`]: all of it is written before it is forwarded.
pub const ROUTE_DURABLE: u8 = 2;

/// One entry of the targets section: a subscriber's slot.
pub type Target = U32;
