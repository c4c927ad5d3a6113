//! The registered memory: one memfd, mapped once, cut into buffers of one size that every open driver may register.
//!
//! It exists so that a frame that one driver received can be sent by another without being copied, and so that the only
//! large allocation of a node happens once, before packets, where it can fail with a clear text. It deliberately never
//! takes a buffer back, never grows and never unmaps: pools own the buffers once they are taken, and devices may write
//! into them until the process ends.

mod error;
mod map;

pub use error::ArenaError;

use map::Mapping;
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr::NonNull,
};
use tachyon_driver_api::Buffer;

/// Buffers are multiples of this many bytes, so that two workers never write to one cache line.
const CACHE_LINE: u32 = 64;

/// Which pages to stand on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pages {
    /// The largest that are there: 1 GiB pages if the arena fills at least one, then 2 MiB, then ordinary ones, which is
    /// told in [`Arena::degraded`].
    #[default]
    Auto,
    /// 1 GiB pages or an error.
    Huge1G,
    /// 2 MiB pages or an error.
    Huge2M,
    /// Ordinary pages; the kernel is asked to merge them into huge ones.
    Ordinary,
}

/// What the arena shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArenaConfig {
    /// Size in bytes; rounded up to whole pages of the kind that is used.
    pub bytes: usize,
    /// Size of each buffer in bytes: a multiple of 64.
    pub buffer_bytes: u32,
    /// Which pages to stand on.
    pub pages: Pages,
    /// Whether to lock the pages in memory, so that nothing on the packet's way can fault. If the system does not allow
    /// it, the arena goes on without and says so.
    pub lock: bool,
    /// The NUMA node whose memory to use; `None` leaves it to the kernel.
    pub numa_node: Option<u32>,
}

/// The memory of one NUMA node. Pre-faulted when [`Arena::create`] returns.
///
/// Dropping it closes the descriptor and leaves the mapping: buffers point into it, and so do devices that nobody can
/// call back for certain. That is one mapping per arena and process, kept on purpose.
#[derive(Debug)]
pub struct Arena {
    descriptor: OwnedFd,
    mapping: Mapping,
    buffer_bytes: u32,
    taken: u32,
    degraded: Vec<String>,
}

impl Arena {
    /// Makes the memory: maps it, places it on its NUMA node, touches every page and locks it.
    ///
    /// # Errors
    /// The sizes make no sense, the demanded pages are not there, or memory is short; the text says what to do.
    pub fn create(config: ArenaConfig) -> Result<Self, ArenaError> {
        let ArenaConfig { bytes, buffer_bytes, pages, lock, numa_node } = config;
        if buffer_bytes == 0 || !buffer_bytes.is_multiple_of(CACHE_LINE) {
            return Err(ArenaError(format!(
                "buffers of {buffer_bytes} bytes: the size must be a multiple of {CACHE_LINE} and not 0"
            )));
        }
        if bytes < buffer_bytes as usize || u32::try_from(bytes / buffer_bytes as usize).is_err() {
            return Err(ArenaError(format!(
                "an arena of {bytes} bytes cannot be cut into buffers of {buffer_bytes}: it needs 1 to {} of them",
                u32::MAX
            )));
        }
        let mut degraded = Vec::new();
        let (descriptor, mapping) = map::map(bytes, pages, numa_node, &mut degraded)?;
        if lock {
            map::lock(&mapping, &mut degraded);
        }
        Ok(Self { descriptor, mapping, buffer_bytes, taken: 0, degraded })
    }

    /// Hands out the next `count` buffers, in rising order of address; each is handed out once.
    ///
    /// # Errors
    /// Fewer than `count` are left; none is handed out then.
    pub fn take(&mut self, count: usize) -> Result<Vec<Buffer>, ArenaError> {
        self.take_behind(0, count)
    }

    /// The same, with the first `headroom_bytes` of each buffer left to the driver, for the headers that it puts in front of
    /// a frame.
    ///
    /// # Errors
    /// As [`Arena::take`]; or the headroom leaves nothing, or is no multiple of 64.
    pub fn take_behind(&mut self, headroom_bytes: u32, count: usize) -> Result<Vec<Buffer>, ArenaError> {
        if headroom_bytes >= self.buffer_bytes || !headroom_bytes.is_multiple_of(CACHE_LINE) {
            return Err(ArenaError(format!(
                "a headroom of {headroom_bytes} in buffers of {} bytes: it must be a multiple of {CACHE_LINE} and smaller",
                self.buffer_bytes
            )));
        }
        if count > self.left() {
            return Err(ArenaError(format!(
                "{count} buffers of {} bytes were asked for and {} of {} are left: give the arena at least {} bytes more, \
                 or ask for fewer",
                self.buffer_bytes,
                self.left(),
                self.buffers(),
                (count - self.left()) * self.buffer_bytes as usize
            )));
        }
        let buffers = (0..count).map(|_| self.next_buffer(headroom_bytes)).collect();
        Ok(buffers)
    }

    fn next_buffer(&mut self, headroom_bytes: u32) -> Buffer {
        let index = self.taken;
        self.taken += 1;
        let offset = index as usize * self.buffer_bytes as usize;
        debug_assert!(offset + self.buffer_bytes as usize <= self.mapping.bytes(), "take counted before");
        // SAFETY: `offset + buffer_bytes` lies within the mapping (`take_behind` checked the number left, and that the
        // headroom is the smaller part), so the result does too; the mapping is never unmapped, is writable and holds zeros
        // from the kernel. `taken` only rises, so no other `Buffer` covers this range.
        unsafe {
            let base = self.mapping.base().add(offset + headroom_bytes as usize);
            Buffer::from_raw(base, self.buffer_bytes - headroom_bytes, index)
        }
    }

    /// Buffers that the arena holds, taken or not. What lies behind the last whole one is not used.
    #[must_use]
    pub fn buffers(&self) -> usize {
        (self.mapping.bytes() / self.buffer_bytes as usize).min(u32::MAX as usize)
    }

    /// Buffers that nobody took yet.
    #[must_use]
    pub fn left(&self) -> usize {
        self.buffers() - self.taken as usize
    }

    /// Size of each buffer in bytes.
    #[must_use]
    pub const fn buffer_bytes(&self) -> u32 {
        self.buffer_bytes
    }

    /// Where the memory lies and how many bytes it has, for a driver to register. Aligned to [`Arena::page_bytes`].
    #[must_use]
    pub const fn region(&self) -> (NonNull<u8>, usize) {
        (self.mapping.base(), self.mapping.bytes())
    }

    /// Size in bytes of the pages it stands on, as mapped: 1 GiB, 2 MiB, or the ordinary size.
    #[must_use]
    pub const fn page_bytes(&self) -> usize {
        self.mapping.page_bytes()
    }

    /// The memfd, for a process that maps it itself, to read: it is sealed against resizing, and against every further mapping
    /// that writes.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// What is slower or weaker than it could be, each with its cause and its fix; empty if nothing is.
    #[must_use]
    pub fn degraded(&self) -> &[String] {
        &self.degraded
    }
}
