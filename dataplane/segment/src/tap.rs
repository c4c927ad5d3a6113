//! The tap: one ring per worker through which its turns go to the truth log, and what the log says back.
//!
//! It is two pieces of memory, so that neither side can write what the other believes. The *ring* is written by the worker
//! alone: its file is sealed against every further mapping that writes, before anybody else has it. The *cursors*, one page,
//! are written by control, and the worker trusts nothing of them: positions count only between the last ones and the ring's
//! head, and only where a record ends. Both are sealed against resizing, so no access faults.
//!
//! A position counts the ring's bytes from its beginning and only rises. Records are those of [`tachyon_wire::tap`]; each
//! lies in one piece, and where one does not fit before the memory's end, a skip fills that up. Memory is used again when
//! control says that the records in it are stable and the worker has done what waited for that, and not before: whatever control
//! loses, it finds here again.

mod reader;
mod shape;
mod writer;

pub use reader::{TapError, TapReader, TapState};
pub use writer::{Sample, TapWriter};

use crate::{
    mapping::Mapping,
    stats::{FNV_START, PAGE_BYTES, fnv1a, split},
    sync::{AtomicU64, Ordering},
};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};
use tachyon_wire::tap::{ENTRY_BYTES, HEAD_BYTES, ITEM_BYTES, KIND_SKIP, KIND_TURN, STUB_BYTES, TURN_BYTES};

/// Fewest bytes of a ring: a page.
pub const TAP_BYTES_MIN: u64 = PAGE_BYTES as u64;
/// Most bytes of a ring: 1 GiB, so that a length of 32 bits can skip it, and half a second of the fastest loop.
pub const TAP_BYTES_MAX: u64 = 1 << 30;

/// First words of the two pieces.
const RING_MAGIC: u64 = u64::from_le_bytes(*b"TYTAPRG1");
const CURSORS_MAGIC: u64 = u64::from_le_bytes(*b"TYTAPCU1");
/// Raised when the meaning of a word changes without its place.
const LAYOUT_VERSION: u64 = 1;

const WORD: usize = size_of::<u64>();
/// Words of the header that both pieces start with: magic, layout, boot id (two), worker, bytes of the ring.
const HEADER_WORDS: usize = 6;

// Words behind the header, each group on a cache line of its own.
/// In the ring: where the last record ends.
const HEAD: usize = 8;
/// In the ring: its memory, from the second page on.
const DATA: usize = PAGE_BYTES / WORD;
/// In the cursors: 0 nobody writes the log, 1 somebody does, 256 + a reason's number: somebody does and refuses.
const STATE: usize = 8;
/// In the cursors: whoever writes the log changes it all the time.
const BEAT: usize = 9;
/// In the cursors: up to here records were written.
const WRITTEN: usize = 10;
/// In the cursors: up to here records are stable.
const STABLE: usize = 11;

const STATE_ABSENT: u64 = 0;
const STATE_RUNNING: u64 = 1;
const STATE_REFUSES: u64 = 256;

/// What both sides must agree on, as one number.
pub(crate) const LAYOUT: u64 = {
    let sizes = [TURN_BYTES, ITEM_BYTES, ENTRY_BYTES, STUB_BYTES, HEAD_BYTES, HEAD, DATA, STATE, BEAT, WRITTEN, STABLE];
    let mut hash = fnv1a(FNV_START, &[LAYOUT_VERSION, KIND_TURN as u64, KIND_SKIP as u64]);
    let mut index = 0;
    while index < sizes.len() {
        hash = fnv1a(hash, &[sizes[index] as u64]);
        index += 1;
    }
    hash
};

/// Seals of the cursors: control may write them, and nobody may resize them.
const CURSORS_SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);
/// Seals of the ring: besides, no descriptor of it writes or is mapped to write any more.
const RING_SEALS: SealFlags = CURSORS_SEALS.union(SealFlags::FUTURE_WRITE);

/// A worker's tap as `tachyond` holds it: the descriptors that control is given, however often it connects.
#[derive(Debug)]
pub struct TapRing {
    ring: OwnedFd,
    cursors: OwnedFd,
    bytes: u64,
    hangups: Arc<AtomicU64>,
    writer: Option<TapWriter>,
}

impl TapRing {
    /// Makes the ring and the cursors of a worker: nothing recorded, and nobody who writes the log. All of it is in memory
    /// when this returns.
    ///
    /// # Errors
    /// `InvalidInput` if `bytes` is no power of two from [`TAP_BYTES_MIN`] to [`TAP_BYTES_MAX`]; otherwise what the kernel
    /// says.
    pub fn create(worker: u16, boot_id: [u8; 16], bytes: u64) -> io::Result<Self> {
        if !bytes.is_power_of_two() || !(TAP_BYTES_MIN..=TAP_BYTES_MAX).contains(&bytes) {
            let text = format!(
                "a tap of {bytes} bytes is impossible: choose a power of two from {TAP_BYTES_MIN} to {TAP_BYTES_MAX}"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let ring = memory_file("tachyon-tap", ring_len(bytes)?)?;
        let cursors = memory_file("tachyon-tap-cursors", PAGE_BYTES)?;
        let ours = Mapping::read_write(&ring, ring_len(bytes)?)?;
        write_header(&ours, header(RING_MAGIC, worker, boot_id, bytes));
        // This mapping ends at once: from here on control alone writes there.
        write_header(&Mapping::read_write(&cursors, PAGE_BYTES)?, header(CURSORS_MAGIC, worker, boot_id, bytes));
        fcntl_add_seals(&ring, RING_SEALS)?;
        fcntl_add_seals(&cursors, CURSORS_SEALS)?;
        let hangups = Arc::new(AtomicU64::new(0));
        let writer = TapWriter::new(ours, Mapping::read_only(&cursors, PAGE_BYTES)?, bytes, hangups.clone());
        Ok(Self { ring, cursors, bytes, hangups, writer: Some(writer) })
    }

    /// The worker's hand on the ring. There is only one, because it alone writes; `None` if it was taken already.
    #[must_use]
    pub fn writer(&mut self) -> Option<TapWriter> {
        self.writer.take()
    }

    /// Bytes of the ring.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The ring, for control to read: nothing can be written, mapped writable or resized through it.
    #[must_use]
    pub fn ring_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }

    /// The cursors, for control to write.
    #[must_use]
    pub fn cursors_fd(&self) -> BorrowedFd<'_> {
        self.cursors.as_fd()
    }

    /// Says that control's connection ended. Until the cursors show that somebody is alive all the same, the log counts as
    /// gone, without the wait for a silence.
    pub fn hung_up(&self) {
        self.hangups.fetch_add(1, Ordering::Relaxed);
    }
}

/// Bytes of the ring's file.
fn ring_len(bytes: u64) -> io::Result<usize> {
    let bytes =
        usize::try_from(bytes).map_err(|_| refuse(format!("{bytes} bytes are more than this machine can map")))?;
    Ok(PAGE_BYTES + bytes)
}

fn memory_file(name: &str, len: usize) -> io::Result<OwnedFd> {
    let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&fd, len as u64)?;
    Ok(fd)
}

/// What stands in front of both pieces.
fn header(magic: u64, worker: u16, boot_id: [u8; 16], bytes: u64) -> [u64; HEADER_WORDS] {
    let (low, high) = split(boot_id);
    [magic, LAYOUT, low, high, u64::from(worker), bytes]
}

fn write_header(mapping: &Mapping, header: [u64; HEADER_WORDS]) {
    for (word, value) in mapping.words().iter().zip(header) {
        word.store(value, Ordering::Release);
    }
}

/// Maps one of the pieces that `tachyond` handed over, by `map`, if it is what it should be.
fn adopt(
    fd: impl AsFd,
    what: &str,
    len: usize,
    expected: [u64; HEADER_WORDS],
    map: fn(BorrowedFd<'_>, usize) -> io::Result<Mapping>,
) -> io::Result<Mapping> {
    check_size(fd.as_fd(), what, len)?;
    let mapping = map(fd.as_fd(), len)?;
    let found = core::array::from_fn(|index| mapping.words()[index].load(Ordering::Relaxed));
    let [magic, layout, low, high, worker, bytes] = found;
    if magic != expected[0] {
        return Err(refuse(format!("the first bytes of the {what} are others")));
    }
    if layout != expected[1] {
        return Err(refuse(format!(
            "the {what} has another layout; run tachyond and tachyon-control of the same version"
        )));
    }
    if [low, high] != [expected[2], expected[3]] {
        return Err(refuse(format!("the {what} belongs to another start of tachyond than the one that said hello")));
    }
    if [worker, bytes] != [expected[4], expected[5]] {
        return Err(refuse(format!("the {what} is of worker {worker} and {bytes} bytes, and another was announced")));
    }
    Ok(mapping)
}

/// Refuses a descriptor that could shrink under us or has another size.
fn check_size(fd: BorrowedFd<'_>, what: &str, len: usize) -> io::Result<()> {
    let seals = fcntl_get_seals(fd).map_err(|error| refuse(format!("the {what} is no sealed memory file: {error}")))?;
    if !seals.contains(SealFlags::SHRINK | SealFlags::SEAL) {
        return Err(refuse(format!("the {what} is not sealed against shrinking: has {seals:?}")));
    }
    match usize::try_from(fstat(fd)?.st_size) {
        Ok(found) if found == len => Ok(()),
        found => Err(refuse(format!("the {what} has {} bytes instead of {len}", found.unwrap_or(0)))),
    }
}

fn refuse(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("tap refused: {why}"))
}

#[cfg(test)]
mod tests;
