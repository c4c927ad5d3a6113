//! Owned memory that holds frames, and the worker's own stock of it.

use alloc::vec::Vec;
use core::ptr::NonNull;

/// A piece of the arena with exactly one owner: a pool, a driver, an open egress frame or a batch. Move-only, so that a
/// buffer that was given to a device cannot be touched. It has no `Drop`: it returns by [`Pool::put`], and a pool that
/// does not get all of its buffers back says so.
pub struct Buffer {
    base: NonNull<u8>,
    capacity: u32,
    index: u32,
}

// SAFETY: a `Buffer` is the only owner of its range (see `from_raw`), so moving it to another thread moves the range.
unsafe impl Send for Buffer {}

impl Buffer {
    /// Makes the owner of `capacity` bytes at `base`.
    ///
    /// # Safety
    /// The range is valid for reads and writes for the rest of the process, initialised, and nobody else, device or
    /// kernel included, touches it while this `Buffer` or a slice of it is held by other than a driver.
    #[must_use]
    pub const unsafe fn from_raw(base: NonNull<u8>, capacity: u32, index: u32) -> Self {
        Self { base, capacity, index }
    }

    /// Its number in the arena.
    #[inline]
    #[must_use]
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// Bytes it can hold.
    #[inline]
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Its address, for the descriptor that hands it to a device.
    #[inline]
    #[must_use]
    pub const fn address(&self) -> NonNull<u8> {
        self.base
    }

    /// All its bytes.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `from_raw` promised a valid, initialised range that only this owner touches.
        unsafe { core::slice::from_raw_parts(self.base.as_ptr(), self.capacity as usize) }
    }

    /// All its bytes, to write.
    #[inline]
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `&mut self` makes this the only slice.
        unsafe { core::slice::from_raw_parts_mut(self.base.as_ptr(), self.capacity as usize) }
    }
}

impl core::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Buffer({}, {} bytes)", self.index, self.capacity)
    }
}

/// One worker's free buffers, all of one size. Counted by that worker alone, so there is nothing to lock. Last in, first
/// out: the buffer that was touched last is the one still in cache.
#[derive(Debug)]
pub struct Pool {
    free: Vec<Buffer>,
    total: usize,
}

impl Pool {
    /// A pool of these buffers; it never grows past them.
    #[must_use]
    pub fn new(buffers: Vec<Buffer>) -> Self {
        Self { total: buffers.len(), free: buffers }
    }

    /// Takes a buffer, if one is free.
    #[inline]
    pub fn get(&mut self) -> Option<Buffer> {
        self.free.pop()
    }

    /// Puts a buffer back. Buffers may change pools when drivers exchange them, but their number may not: more than
    /// [`Pool::total`] is a bug, and would allocate.
    #[inline]
    pub fn put(&mut self, buffer: Buffer) {
        debug_assert!(self.free.len() < self.total, "a pool got more buffers than it owns");
        self.free.push(buffer);
    }

    /// Bytes that the smallest of its free buffers holds; 0 if none is free.
    #[must_use]
    pub fn buffer_bytes(&self) -> u32 {
        self.free.iter().map(Buffer::capacity).min().unwrap_or(0)
    }

    /// Buffers that are free now.
    #[inline]
    #[must_use]
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Buffers it owns, free or not.
    #[inline]
    #[must_use]
    pub const fn total(&self) -> usize {
        self.total
    }
}
