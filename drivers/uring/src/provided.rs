//! The ring of buffers that the kernel receives into, and what the kernel writes in front of the frames.

use crate::{
    address::{self, SOCKADDR_BYTES},
    control::{self, RX_CONTROL_BYTES, RxControl},
};
use core::{
    ptr::{self, NonNull},
    sync::atomic::{AtomicU16, Ordering},
};
use io_uring::{IoUring, types::BufRingEntry};
use std::io;
use tachyon_driver_api::{Buffer, Pool};
use tachyon_wire::Endpoint;

/// Room for the source address: a `sockaddr_in6`, rounded up to 8 so that the control data is aligned.
const NAME_BYTES: u32 = 32;
/// `io_uring_recvmsg_out`: four words, the bytes of name, control data and frames, and the message's flags.
const OUT_BYTES: usize = 16;
/// Where the first frame starts in a buffer: on a cache line.
pub(crate) const FRAMES_OFFSET: u32 = 128;
/// Where the control data starts.
const CONTROL_OFFSET: usize = OUT_BYTES + NAME_BYTES as usize;
/// The only buffer group.
pub(crate) const GROUP: u16 = 0;
/// Most entries of a ring: the kernel's limit.
const ENTRIES_MAX: u16 = 32_768;
/// Bytes that the kernel may fill before it comes to a buffer again: an eighth of an L2 cache of 2 MiB, which also holds the
/// kernel's own copies. Sending runs of 32 KiB on cost 20 % more time with 256 buffers in the ring than with 8.
const CACHED_BYTES: usize = 256 << 10;
/// Fewest buffers in the ring: what one run and the frames around it need without a second call.
const POSTED_MIN: usize = 8;

const _: () = assert!(CONTROL_OFFSET + RX_CONTROL_BYTES == FRAMES_OFFSET as usize);
const _: () = assert!(OUT_BYTES + SOCKADDR_BYTES <= CONTROL_OFFSET);

/// The template of every receive: how much room the kernel leaves for name and control data.
pub(crate) fn message_template() -> libc::msghdr {
    // SAFETY: `msghdr` has integers and pointers only, for which zero is a value: "none of it".
    let mut message: libc::msghdr = unsafe { core::mem::zeroed() };
    (message.msg_namelen, message.msg_controllen) = (NAME_BYTES, RX_CONTROL_BYTES);
    message
}

/// What the kernel said about what it received.
pub(crate) struct Head {
    pub(crate) source: Endpoint,
    pub(crate) control: RxControl,
    /// Bytes that arrived; more than fit if the buffer was too small.
    pub(crate) bytes: u32,
}

/// Reads what the kernel wrote in front of the frames; `None` if the buffer is too small to hold it.
#[inline]
pub(crate) fn head(buffer: &Buffer) -> Option<Head> {
    let bytes = buffer.bytes().first_chunk::<{ FRAMES_OFFSET as usize }>()?;
    let word = |at: usize| bytes[at..].first_chunk::<4>().map_or(0, |word| u32::from_ne_bytes(*word));
    let name = bytes[OUT_BYTES..].first_chunk::<SOCKADDR_BYTES>()?;
    let control = &bytes[CONTROL_OFFSET..];
    let control_bytes = (word(4) as usize).min(control.len());
    Some(Head {
        source: if word(0) == 0 { Endpoint::NONE } else { address::decode(name) },
        control: control::parse(&control[..control_bytes]),
        bytes: word(8),
    })
}

/// The ring, shared with the kernel, and the buffers that are in it or filled and not handed on.
pub(crate) struct Provided {
    entries: NonNull<BufRingEntry>,
    map_bytes: usize,
    mask: u16,
    tail: u16,
    buffers: Box<[Option<Buffer>]>,
    free: Vec<u16>,
    /// Buffers that the kernel filled and nobody took yet.
    filled: usize,
    /// Bytes received per buffer, a moving average over about 16.
    average: usize,
    /// Whether the pool had less than the ring wanted.
    short: bool,
}

impl Provided {
    /// Registers a ring of `entries` (rounded up to a power of two) with `ring`, empty.
    pub(crate) fn register(ring: &IoUring, entries: u16) -> io::Result<Self> {
        let entries = entries.clamp(1, ENTRIES_MAX).next_power_of_two();
        let map_bytes = usize::from(entries) * size_of::<BufRingEntry>();
        // SAFETY: a new anonymous mapping; nothing else is at the address the kernel chooses.
        let base = unsafe {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(ptr::null_mut(), map_bytes, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
        };
        let base = NonNull::new(base.cast::<BufRingEntry>())
            .filter(|_| base != libc::MAP_FAILED)
            .ok_or_else(io::Error::last_os_error)?;
        // The map is owned from here on, so that it goes away on every way out.
        let provided = Self {
            entries: base,
            map_bytes,
            mask: entries - 1,
            tail: 0,
            buffers: (0..entries).map(|_| None).collect(),
            free: (0..entries).rev().collect(),
            filled: 0,
            average: 0,
            short: false,
        };
        // SAFETY: page-aligned, `entries` long, and unmapped only after the ring is gone (`Ring` drops it first).
        unsafe { ring.submitter().register_buf_ring_with_flags(base.as_ptr() as u64, entries, GROUP, 0)? };
        Ok(provided)
    }

    /// Fills the ring from the pool: with what fits in a cache at the sizes that come, as far as the pool has it.
    #[inline]
    pub(crate) fn refill(&mut self, pool: &mut Pool) {
        let before = self.tail;
        let wanted = (CACHED_BYTES / self.average.max(1)).max(POSTED_MIN);
        self.short = false;
        while self.held() - self.filled < wanted
            && let Some(&id) = self.free.last()
        {
            let Some(buffer) = pool.get() else {
                self.short = true;
                break;
            };
            let Some(place) = self.buffers.get_mut(usize::from(id)) else { break };
            // SAFETY: `tail & mask` is below the number of entries, and the kernel does not read this entry before `tail`
            // is stored. Only the first three fields are written: the fourth of entry 0 is the tail itself.
            let entry = unsafe { &mut *self.entries.as_ptr().add(usize::from(self.tail & self.mask)) };
            entry.set_addr(buffer.address().as_ptr() as u64);
            entry.set_len(buffer.capacity());
            entry.set_bid(id);
            *place = Some(buffer);
            self.free.pop();
            self.tail = self.tail.wrapping_add(1);
        }
        if self.tail != before {
            // SAFETY: the mapping is alive and its first entry holds the tail, two bytes on an even address.
            let tail = unsafe { &*BufRingEntry::tail(self.entries.as_ptr()).cast::<AtomicU16>() };
            tail.store(self.tail, Ordering::Release);
        }
    }

    /// Takes a filled buffer out, with this many bytes in it.
    #[inline]
    pub(crate) fn take(&mut self, id: u16, bytes: usize) -> Option<Buffer> {
        let buffer = self.buffers.get_mut(usize::from(id))?.take()?;
        self.average = (15 * self.average + bytes) / 16;
        self.free.push(id);
        self.filled = self.filled.saturating_sub(1);
        Some(buffer)
    }

    /// The kernel filled one more.
    #[inline]
    pub(crate) fn mark_filled(&mut self) {
        self.filled += 1;
    }

    /// Whether the kernel has buffers to receive into.
    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        self.held() > self.filled
    }

    /// Whether the pool had less than the ring wanted when it was last filled.
    #[inline]
    pub(crate) const fn is_short(&self) -> bool {
        self.short
    }

    /// Buffers in the ring, or filled and not taken.
    #[inline]
    pub(crate) fn held(&self) -> usize {
        self.buffers.len() - self.free.len()
    }

    /// Entries of the ring.
    pub(crate) fn entries(&self) -> usize {
        self.buffers.len()
    }

    /// Gives back every buffer. The kernel may write into none of them any more.
    pub(crate) fn abandon(&mut self, pool: &mut Pool) {
        self.buffers.iter_mut().filter_map(Option::take).for_each(|buffer| pool.put(buffer));
        self.free.clear();
        self.free.extend((0..=self.mask).rev());
        self.filled = 0;
    }
}

impl Drop for Provided {
    fn drop(&mut self) {
        // SAFETY: made by `register` with this length; the kernel pinned its own reference to the pages.
        unsafe { libc::munmap(self.entries.as_ptr().cast(), self.map_bytes) };
    }
}
