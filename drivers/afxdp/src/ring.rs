//! The four rings that an XDP socket shares with the kernel: one side writes descriptors and a count, the other reads them.

use crate::calls;
use core::{
    ffi::c_void,
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering},
};
use std::{io, os::fd::BorrowedFd};

/// A ring of a socket as the kernel maps it; unmapped with this value.
#[derive(Debug)]
struct Mapped {
    base: NonNull<u8>,
    bytes: usize,
    producer: usize,
    consumer: usize,
    flags: usize,
    entries: usize,
    size: u32,
}

// SAFETY: memory shared with the kernel, reached through atomics and by the one owner of the ring.
unsafe impl Send for Mapped {}

impl Mapped {
    fn new(fd: BorrowedFd<'_>, kind: Kind, size: u32, entry_bytes: usize) -> io::Result<Self> {
        let offsets = calls::ring_offsets(fd)?;
        let (at, offset) = match kind {
            Kind::Receive => (offsets.rx, libc::XDP_PGOFF_RX_RING as u64),
            Kind::Transmit => (offsets.tx, libc::XDP_PGOFF_TX_RING as u64),
            Kind::Fill => (offsets.fr, libc::XDP_UMEM_PGOFF_FILL_RING),
            Kind::Completion => (offsets.cr, libc::XDP_UMEM_PGOFF_COMPLETION_RING),
        };
        let bytes = at.desc as usize + size as usize * entry_bytes;
        let base = calls::map(fd, offset, bytes)?;
        let (producer, consumer) = (at.producer as usize, at.consumer as usize);
        Ok(Self { base, bytes, producer, consumer, flags: at.flags as usize, entries: at.desc as usize, size })
    }

    #[inline(always)]
    fn count(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: the kernel's own offset of an aligned 32-bit count inside the mapping, which lives as long as `self`.
        unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(offset).cast()) }
    }

    /// Where the entry of a running number lies. Sizes are powers of two (`Kind::set_size`'s callers saw to it).
    #[inline(always)]
    fn entry<T>(&self, number: u32) -> *mut T {
        let place = (number & (self.size - 1)) as usize;
        // SAFETY: `place` is below the ring's size, and the mapping has room for that many entries behind `entries`.
        unsafe { self.base.as_ptr().add(self.entries).cast::<T>().add(place) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: made by `calls::map` with this length; no reference into it outlives `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast::<c_void>(), self.bytes) };
    }
}

/// Which ring of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Receive,
    Transmit,
    Fill,
    Completion,
}

impl Kind {
    /// Has the kernel make the ring; `size` is a power of two.
    pub(crate) fn set_size(self, fd: BorrowedFd<'_>, size: u32) -> io::Result<()> {
        let option = match self {
            Self::Receive => libc::XDP_RX_RING,
            Self::Transmit => libc::XDP_TX_RING,
            Self::Fill => libc::XDP_UMEM_FILL_RING,
            Self::Completion => libc::XDP_UMEM_COMPLETION_RING,
        };
        calls::set_option(fd, libc::SOL_XDP, option, &size)
    }
}

/// A ring that we write. `T` is the entry that the kernel expects there.
#[derive(Debug)]
pub(crate) struct Producer<T> {
    ring: Mapped,
    /// The next number to write; what lies before it and was not published yet is the kernel's after `publish`.
    next: u32,
    /// The kernel's count when it was last looked at.
    taken: u32,
    entry: core::marker::PhantomData<T>,
}

impl<T: Copy> Producer<T> {
    pub(crate) fn new(fd: BorrowedFd<'_>, kind: Kind, size: u32) -> io::Result<Self> {
        let ring = Mapped::new(fd, kind, size, size_of::<T>())?;
        Ok(Self { ring, next: 0, taken: 0, entry: core::marker::PhantomData })
    }

    /// Entries that can be written now, at least `wanted` if the kernel made room for so many.
    #[inline(always)]
    pub(crate) fn free(&mut self, wanted: u32) -> u32 {
        // A count beyond what was written can only be damage; it makes no room, now or the next time.
        let free = self.ring.size.saturating_sub(self.next.wrapping_sub(self.taken));
        if free >= wanted {
            return free;
        }
        // Acquire: the kernel read the entries before it counted them.
        self.taken = self.ring.count(self.ring.consumer).load(Ordering::Acquire);
        self.ring.size.saturating_sub(self.next.wrapping_sub(self.taken))
    }

    /// Writes an entry; the caller asked for its room by [`Producer::free`].
    #[inline(always)]
    pub(crate) fn write(&mut self, entry: T) {
        // SAFETY: inside the mapping, aligned as the kernel laid it out, and the kernel reads it only after `publish`.
        unsafe { self.ring.entry::<T>(self.next).write(entry) };
        self.next = self.next.wrapping_add(1);
    }

    /// Lets the kernel see what was written.
    #[inline(always)]
    pub(crate) fn publish(&mut self) {
        // Release: whoever sees the count sees the entries.
        self.ring.count(self.ring.producer).store(self.next, Ordering::Release);
    }

    /// Whether the kernel has not taken everything yet.
    #[inline(always)]
    pub(crate) fn has_waiting(&self) -> bool {
        self.ring.count(self.ring.consumer).load(Ordering::Relaxed) != self.next
    }

    /// Whether the kernel wants a call before it looks at the ring again.
    #[inline(always)]
    pub(crate) fn wants_wakeup(&self) -> bool {
        self.ring.count(self.ring.flags).load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// A ring that the kernel writes.
#[derive(Debug)]
pub(crate) struct Consumer<T> {
    ring: Mapped,
    /// The next number to read.
    next: u32,
    /// The kernel's count when it was last looked at.
    written: u32,
    entry: core::marker::PhantomData<T>,
}

impl<T: Copy> Consumer<T> {
    pub(crate) fn new(fd: BorrowedFd<'_>, kind: Kind, size: u32) -> io::Result<Self> {
        let ring = Mapped::new(fd, kind, size, size_of::<T>())?;
        Ok(Self { ring, next: 0, written: 0, entry: core::marker::PhantomData })
    }

    /// The next entry, if there is one; it is the kernel's again after [`Consumer::release`].
    #[inline(always)]
    pub(crate) fn read(&mut self) -> Option<T> {
        if self.next == self.written {
            // Acquire: whoever sees the count sees the entries, and the packets that they speak of.
            self.written = self.ring.count(self.ring.producer).load(Ordering::Acquire);
            if self.next == self.written {
                return None;
            }
        }
        // SAFETY: inside the mapping and written by the kernel before it counted.
        let entry = unsafe { self.ring.entry::<T>(self.next).read() };
        self.next = self.next.wrapping_add(1);
        Some(entry)
    }

    /// Gives the kernel the room of what was read.
    #[inline(always)]
    pub(crate) fn release(&mut self) {
        // Release: the entries were read before.
        self.ring.count(self.ring.consumer).store(self.next, Ordering::Release);
    }
}
