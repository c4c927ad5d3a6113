//! A descriptor's bytes in this process's memory.

use crate::sync::{AtomicU64, Ordering};
use core::{
    ops::Range,
    ptr::{NonNull, null_mut},
};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::{io, os::fd::AsFd};

/// A shared mapping of the first `len` bytes of a file, unmapped on drop.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread, and this value is its only owner.
unsafe impl Send for Mapping {}
// SAFETY: all access through `&Mapping` is by atomics (`words`), or to bytes that nobody writes (the contracts of `bytes` and
// `bytes_of`).
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps to read. Every page is touched now, so that no worker takes the faults.
    pub(crate) fn read_only(fd: impl AsFd, len: usize) -> io::Result<Self> {
        Self::new(fd, len, ProtFlags::READ, MapFlags::POPULATE)
    }

    /// Maps to read, pages as they are touched: for memory so large that its page tables are worth saving.
    pub(crate) fn read_only_lazily(fd: impl AsFd, len: usize) -> io::Result<Self> {
        Self::new(fd, len, ProtFlags::READ, MapFlags::empty())
    }

    /// Maps to read and write, every page touched now.
    pub(crate) fn read_write(fd: impl AsFd, len: usize) -> io::Result<Self> {
        Self::new(fd, len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::POPULATE)
    }

    fn new(fd: impl AsFd, len: usize, protection: ProtFlags, pages: MapFlags) -> io::Result<Self> {
        // SAFETY: the kernel picks an address that is free, so no memory of ours is replaced.
        let base = unsafe { mmap(null_mut(), len, protection, MapFlags::SHARED | pages, fd, 0)? };
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap returned the null page"))?;
        Ok(Self { base, len })
    }

    /// The mapping as words that the other process may be changing. Callers of a read-only mapping only load, relaxed.
    pub(crate) fn words(&self) -> &[AtomicU64] {
        // SAFETY: the range is mapped for as long as `self` lives, page-aligned (so word-aligned), the length is rounded
        // down to whole words, every bit pattern is a valid `AtomicU64`, and atomics may change under a shared reference.
        // The file is sealed against shrinking (checked by each caller before mapping), so no access faults.
        unsafe { core::slice::from_raw_parts(self.base.as_ptr().cast::<AtomicU64>(), self.len / size_of::<u64>()) }
    }

    /// The mapping as bytes.
    ///
    /// # Safety
    /// Nobody, in this process or another, can write or shrink the file any more.
    pub(crate) unsafe fn bytes(&self) -> &[u8] {
        // SAFETY: the range is mapped for as long as `self` lives, and the caller promises that it does not change.
        unsafe { core::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }

    /// A part of the mapping as bytes.
    ///
    /// # Safety
    /// Nobody, in this process or another, writes the range while the slice is held.
    pub(crate) unsafe fn bytes_of(&self, range: Range<usize>) -> &[u8] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {} bytes", self.len);
        // SAFETY: the range lies in the mapping, which lives as long as `self`; the caller promises that it does not change.
        unsafe { core::slice::from_raw_parts(self.base.as_ptr().add(range.start), range.len()) }
    }

    /// A part of a mapping made by [`Mapping::read_write`] as bytes to write.
    ///
    /// # Safety
    /// Nobody else, in this process by another mapping or in another process, writes the range while the slice is held.
    pub(crate) unsafe fn bytes_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {} bytes", self.len);
        // SAFETY: the range lies in the mapping, which lives as long as `self`, and `&mut self` makes this the only slice of
        // it; the caller promises that nobody else writes.
        unsafe { core::slice::from_raw_parts_mut(self.base.as_ptr().add(range.start), range.len()) }
    }

    /// Copies a part of what the other process may be writing, in place of what `into` held. What arrives may be of several
    /// moments, but nothing is assumed of it. False if the range is not within the mapping.
    #[must_use]
    pub(crate) fn copy(&self, offset: usize, len: usize, into: &mut Vec<u8>) -> bool {
        let words = offset
            .checked_add(len)
            .filter(|end| *end <= self.len)
            .and_then(|end| self.words().get(offset / size_of::<u64>()..end.div_ceil(size_of::<u64>())));
        let Some(words) = words else { return false };
        into.resize(len, 0);
        let (lead, bytes_of) =
            (offset % size_of::<u64>(), |word: &AtomicU64| word.load(Ordering::Relaxed).to_ne_bytes());
        let mut rest = into.as_mut_slice();
        let mut words = words.iter();
        if lead != 0
            && let Some(first) = words.next()
        {
            let taken = rest.len().min(size_of::<u64>() - lead);
            let (front, behind) = rest.split_at_mut(taken);
            front.copy_from_slice(&bytes_of(first)[lead..lead + taken]);
            rest = behind;
        }
        for (piece, word) in rest.chunks_mut(size_of::<u64>()).zip(words) {
            piece.copy_from_slice(&bytes_of(word)[..piece.len()]);
        }
        true
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is the range that `new` mapped; slices of it borrow `self`, so none is left.
        let result = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert!(result.is_ok(), "munmap of our own range cannot fail");
    }
}
