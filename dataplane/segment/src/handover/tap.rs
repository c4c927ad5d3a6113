//! A worker's tap as it is handed over: what control has to know to read it, beside its three descriptors.

use super::records::{LAYOUT, check_layout};
use zerocopy::{
    FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::little_endian::{U16, U32, U64},
};

const TAP_MAGIC: [u8; 4] = *b"TYT1";
/// Most shards of a fabric, and so of a worker.
const SHARDS_MAX: usize = 64;

/// What `tachyond` says of a worker's tap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapAnswer {
    /// The worker.
    pub worker: u16,
    /// Which start of `tachyond` it belongs to.
    pub boot_id: [u8; 16],
    /// Bytes of the ring, a power of two.
    pub ring_bytes: u64,
    /// Bytes of the arena in which the worker's buffers lie, perhaps among those of other workers. Buffer n starts at
    /// n × `buffer_bytes`.
    pub arena_bytes: u64,
    /// Bytes of a buffer, headroom included.
    pub buffer_bytes: u32,
    /// Bytes at a buffer's start that are the driver's own.
    pub headroom_bytes: u32,
    /// The shards that the worker owns, at most 64.
    pub shards: Vec<u16>,
}

/// [`TapAnswer`] as it travels.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct TapRecord {
    magic: [u8; 4],
    number: U32,
    layout: U64,
    boot_id: [u8; 16],
    ring_bytes: U64,
    arena_bytes: U64,
    buffer_bytes: U32,
    headroom_bytes: U32,
    worker: U16,
    shard_count: U16,
    shards: [U16; SHARDS_MAX],
}

impl TapAnswer {
    pub(super) fn to_record(&self, number: u32) -> TapRecord {
        let mut record = TapRecord::new_zeroed();
        record.magic = TAP_MAGIC;
        record.number = number.into();
        record.layout = LAYOUT.into();
        record.boot_id = self.boot_id;
        record.ring_bytes = self.ring_bytes.into();
        record.arena_bytes = self.arena_bytes.into();
        record.buffer_bytes = self.buffer_bytes.into();
        record.headroom_bytes = self.headroom_bytes.into();
        record.worker = self.worker.into();
        for ((into, shard), count) in record.shards.iter_mut().zip(&self.shards).zip(1_u16..) {
            *into = (*shard).into();
            record.shard_count = count.into();
        }
        record
    }

    /// With the request's number. `None`: these bytes are no such answer, but perhaps a reply.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Result<(u32, Self), String>> {
        let record = TapRecord::ref_from_bytes(bytes).ok().filter(|record| record.magic == TAP_MAGIC)?;
        Some(Self::from_record(record))
    }

    fn from_record(record: &TapRecord) -> Result<(u32, Self), String> {
        check_layout(record.layout)?;
        let count = usize::from(record.shard_count.get());
        let shards = record.shards.get(..count).ok_or_else(|| format!("a worker with {count} shards cannot be"))?;
        let answer = Self {
            worker: record.worker.get(),
            boot_id: record.boot_id,
            ring_bytes: record.ring_bytes.get(),
            arena_bytes: record.arena_bytes.get(),
            buffer_bytes: record.buffer_bytes.get(),
            headroom_bytes: record.headroom_bytes.get(),
            shards: shards.iter().map(|shard| shard.get()).collect(),
        };
        Ok((record.number.get(), answer))
    }
}
