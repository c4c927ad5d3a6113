//! A descriptor's bytes in this process's memory.

use crate::sync::AtomicU64;
use core::ptr::{NonNull, null_mut};
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
// SAFETY: all access through `&Mapping` is by atomics (`words`), or to bytes that nobody writes (`bytes`'s contract).
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps to read. Every page is touched now, so that no worker takes the faults.
    pub(crate) fn read_only(fd: impl AsFd, len: usize) -> io::Result<Self> {
        Self::new(fd, len, ProtFlags::READ)
    }

    /// Maps to read and write, every page touched now.
    pub(crate) fn read_write(fd: impl AsFd, len: usize) -> io::Result<Self> {
        Self::new(fd, len, ProtFlags::READ | ProtFlags::WRITE)
    }

    fn new(fd: impl AsFd, len: usize, protection: ProtFlags) -> io::Result<Self> {
        // SAFETY: the kernel picks an address that is free, so no memory of ours is replaced.
        let base = unsafe { mmap(null_mut(), len, protection, MapFlags::SHARED | MapFlags::POPULATE, fd, 0)? };
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
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is the range that `new` mapped; slices of it borrow `self`, so none is left.
        let result = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert!(result.is_ok(), "munmap of our own range cannot fail");
    }
}
