//! Writes and syncs that the kernel does while we go on: one io_uring, and the aligned, registered memory it writes from.
//!
//! The only file of the log with unsafe code: the kernel reads memory that Rust knows nothing of. Everything that is begun
//! is counted, and memory is lent out, and given back to the system, only when the kernel is done with it.
#![expect(unsafe_code, reason = "mapping memory and submitting requests that point to it cannot be had otherwise")]

use crate::storage::FileId;
use io_uring::{IoUring, opcode, types};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::{
    collections::VecDeque,
    io,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    ptr::NonNull,
};

/// Marks a completion as one of a sync; below it is the file. Without it: the slot.
const SYNC: u64 = 1 << 32;

/// What came out of something that was begun.
pub(crate) enum Done {
    Write(usize, io::Result<usize>),
    Sync(FileId, io::Result<()>),
}

/// Slots of memory, and the ring that writes from them.
pub(crate) struct Ring {
    /// Nothing where the kernel refuses io_uring: then everything is done at once, by plain calls.
    ring: Option<IoUring>,
    memory: NonNull<u8>,
    memory_bytes: usize,
    slot_bytes: usize,
    /// By slot, whether the kernel may still read it.
    in_flight: Vec<bool>,
    syncs: usize,
    unsubmitted: usize,
    /// Completions of plain calls.
    done: VecDeque<Done>,
}

// SAFETY: the memory belongs to this value alone, and neither it nor the ring cares which thread uses it.
unsafe impl Send for Ring {}

impl Ring {
    /// Maps `slots` + 1 slots, the last of them for reading, and registers them.
    pub(crate) fn new(slots: usize, slot_bytes: usize) -> io::Result<Self> {
        let memory_bytes = (slots + 1) * slot_bytes;
        // SAFETY: a new private mapping; nothing else points to it.
        let memory = unsafe {
            let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::POPULATE);
            mmap_anonymous(core::ptr::null_mut(), memory_bytes, protection, flags)?
        };
        let memory = NonNull::new(memory.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let entries = u32::try_from(2 * slots + 2).unwrap_or(u32::MAX).next_power_of_two();
        let mut this = Self {
            ring: IoUring::new(entries).ok(),
            memory,
            memory_bytes,
            slot_bytes,
            in_flight: vec![false; slots + 1],
            syncs: 0,
            unsubmitted: 0,
            done: VecDeque::new(),
        };
        let parts: Vec<_> =
            (0..slots).map(|slot| libc::iovec { iov_base: this.at(slot, 0).cast(), iov_len: slot_bytes }).collect();
        if let Some(ring) = &this.ring {
            // SAFETY: the parts lie in the mapping, which outlives the ring (`drop` unmaps it after the last request).
            let registered = unsafe { ring.submitter().register_buffers(&parts) };
            if registered.is_err() {
                this.ring = None; // too little lockable memory: plain calls do
            }
        }
        Ok(this)
    }

    /// Whether io_uring is used.
    pub(crate) const fn is_ring(&self) -> bool {
        self.ring.is_some()
    }

    fn at(&self, slot: usize, offset: usize) -> *mut u8 {
        debug_assert!(slot * self.slot_bytes + offset <= self.memory_bytes);
        self.memory.as_ptr().wrapping_add(slot * self.slot_bytes + offset)
    }

    /// A slot's memory; empty while the kernel may read it.
    pub(crate) fn slot(&mut self, slot: usize) -> &mut [u8] {
        if self.in_flight.get(slot) != Some(&false) {
            return &mut [];
        }
        // SAFETY: the slot lies in the mapping, the kernel is done with it, and `self` is borrowed for as long as this is.
        unsafe { core::slice::from_raw_parts_mut(self.at(slot, 0), self.slot_bytes) }
    }

    /// The slot that is only for reading.
    pub(crate) fn spare(&mut self) -> &mut [u8] {
        self.slot(self.in_flight.len() - 1)
    }

    /// Begins to write a slot's bytes `from..to` to `offset`.
    pub(crate) fn write(
        &mut self,
        fd: BorrowedFd<'_>,
        offset: u64,
        slot: usize,
        from: usize,
        to: usize,
    ) -> io::Result<()> {
        let sound = slot + 1 < self.in_flight.len() && !self.in_flight[slot] && from < to && to <= self.slot_bytes;
        if !sound {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if self.ring.is_none() {
            let result = rustix::io::pwrite(fd, &self.slot(slot)[from..to], offset).map_err(Into::into);
            self.done.push_back(Done::Write(slot, result));
            return Ok(());
        }
        let (memory, bytes) = (self.at(slot, from), u32::try_from(to - from).unwrap_or(u32::MAX));
        let index = u16::try_from(slot).map_err(|_| io::ErrorKind::InvalidInput)?;
        let write = opcode::WriteFixed::new(types::Fd(fd.as_raw_fd()), memory, bytes, index).offset(offset);
        self.push(&write.build().user_data(slot as u64))?;
        self.in_flight[slot] = true;
        Ok(())
    }

    /// Begins to sync the data of a file, and what is needed to read it again.
    pub(crate) fn sync(&mut self, fd: BorrowedFd<'_>, file: FileId) -> io::Result<()> {
        if self.ring.is_none() {
            let result = rustix::fs::fdatasync(fd).map_err(Into::into);
            self.done.push_back(Done::Sync(file, result));
            return Ok(());
        }
        let raw: RawFd = fd.as_raw_fd();
        let sync = opcode::Fsync::new(types::Fd(raw)).flags(types::FsyncFlags::DATASYNC);
        self.push(&sync.build().user_data(SYNC | u64::from(file.0)))?;
        self.syncs += 1;
        Ok(())
    }

    fn push(&mut self, entry: &io_uring::squeue::Entry) -> io::Result<()> {
        let Some(ring) = &mut self.ring else { return Err(io::ErrorKind::Unsupported.into()) };
        // SAFETY: what the entry points to is a slot that `in_flight` keeps from being lent out, changed or unmapped until
        // the request has completed; a sync points to nothing.
        let pushed = unsafe { ring.submission().push(entry) };
        self.unsubmitted += usize::from(pushed.is_ok());
        pushed.map_err(|_| io::ErrorKind::ResourceBusy.into())
    }

    /// Hands everything to the kernel and takes one completion, without waiting.
    pub(crate) fn poll(&mut self) -> io::Result<Option<Done>> {
        if self.unsubmitted > 0 {
            self.submit(0)?;
        }
        Ok(self.done.pop_front().or_else(|| self.reap()))
    }

    fn submit(&mut self, wanted: usize) -> io::Result<()> {
        let Some(ring) = &mut self.ring else { return Ok(()) };
        match ring.submitter().submit_and_wait(wanted) {
            Ok(count) => self.unsubmitted = self.unsubmitted.saturating_sub(count),
            // The next turn hands them on.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn reap(&mut self) -> Option<Done> {
        let entry = self.ring.as_mut()?.completion().next()?;
        let result = entry.result();
        let result = usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result));
        let data = entry.user_data();
        if data & SYNC != 0 {
            self.syncs = self.syncs.saturating_sub(1);
            let file = FileId(u32::try_from(data & !SYNC).unwrap_or(u32::MAX));
            return Some(Done::Sync(file, result.map(drop)));
        }
        let slot = usize::try_from(data).unwrap_or(usize::MAX);
        if let Some(in_flight) = self.in_flight.get_mut(slot) {
            *in_flight = false;
        }
        Some(Done::Write(slot, result))
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        while self.in_flight.contains(&true) || self.syncs > 0 {
            let waited = self.submit(1);
            while self.reap().is_some() {}
            if waited.is_err() {
                return; // the kernel may still read the memory, so it is left to it
            }
        }
        // SAFETY: nothing is in flight, slots are lent out only while `self` is borrowed, and the ring's registration does
        // not need the mapping to stay: the kernel holds its own references to the pages.
        let _ = unsafe { munmap(self.memory.as_ptr().cast(), self.memory_bytes) };
    }
}

impl core::fmt::Debug for Ring {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Ring({} slots of {} bytes)", self.in_flight.len() - 1, self.slot_bytes)
    }
}
