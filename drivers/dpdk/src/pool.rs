//! The worker's buffers as DPDK sees them: one packet descriptor for each, in a pool that its drivers take from.
//!
//! Descriptors lie in DPDK's memory, what they describe in the arena. They are ordinary descriptors whose memory is
//! elsewhere, rather than such with DPDK's "external buffer" flag: drivers give those back one by one through a slower path
//! instead. The pool carries the mark of external memory all the same, because drivers that register memory
//! with their device look for it.
//!
//! A descriptor that is in the pool, or in a device's ring, owns its buffer for DPDK; one that is not belongs to the
//! [`Buffer`] of the same number, which is with the worker. So buffers change sides by exchange, and their number never does.

use crate::{
    eal::{Eal, error_of, last_error},
    packets::Packet,
};
use core::{
    ffi::{CStr, c_uint, c_void},
    ptr::{self, NonNull},
};
use std::ffi::CString;
use tachyon_driver_api::{BURST_MAX, Buffer, Pool, PortError};
use tachyon_driver_dpdk_sys::{self as sys, mbuf, rte_mbuf, rte_mempool};

/// Bytes that a buffer has in front of it for headers, as the arena leaves it: two lines, for the 66 bytes of Ethernet, VLAN,
/// IPv6 and UDP.
pub const HEADROOM_BYTES: u32 = 128;
/// Where a descriptor's memory starts, in bytes before the buffer: so that a frame behind 42 bytes of headers that a device
/// wrote at its usual 128 ends up on a cache line (128 + 42 - 106 = 64).
const BEFORE_BYTES: usize = 106;
/// Descriptors that a thread keeps to itself before it goes to the shared part of the pool: a few bursts.
pub(crate) const CACHE: u32 = 256;
/// The longest memory that a descriptor can speak of: its lengths have 16 bits.
const BYTES_MAX: u32 = 65_535;

/// See the module.
#[derive(Debug)]
pub(crate) struct ArenaPool {
    pool: NonNull<rte_mempool>,
    /// By buffer number, from `first` on.
    descriptors: Vec<NonNull<rte_mbuf>>,
    first: u32,
    base: NonNull<u8>,
    capacity: u32,
    /// 2^48 over the stride, rounded up: an address becomes a number by a multiplication.
    reciprocal: u64,
}

// SAFETY: a pool goes to one worker's thread with everything in it; DPDK's part of it is made for several threads.
unsafe impl Send for ArenaPool {}

/// What the descriptors are made for, on their way through a C callback.
struct Plan {
    start: *mut u8,
    stride: usize,
    bytes: u16,
    made: Vec<NonNull<rte_mbuf>>,
}

impl ArenaPool {
    /// Makes the descriptors for all buffers of `pool`, which must be one run of equal ones; none of the buffers changes
    /// sides yet.
    pub(crate) fn new(_: Eal, name: &str, pool: &mut Pool, socket: i32) -> Result<Self, PortError> {
        let mut buffers: Vec<Buffer> = std::iter::from_fn(|| pool.get()).collect();
        buffers.sort_by_key(Buffer::index);
        let made = Self::over(name, &buffers, socket);
        buffers.into_iter().rev().for_each(|buffer| pool.put(buffer)); // the first buffer is taken first
        made
    }

    fn over(name: &str, buffers: &[Buffer], socket: i32) -> Result<Self, PortError> {
        let [first, second, ..] = buffers else {
            return Err(PortError("the pool has fewer than two buffers".to_owned()));
        };
        let address = |buffer: &Buffer| buffer.address().as_ptr().addr();
        let (base, capacity) = (first.address(), first.capacity());
        let stride = address(second) - address(first);
        let regular = buffers.iter().enumerate().all(|(index, buffer)| {
            let number = first.index() as usize + index;
            buffer.index() as usize == number
                && address(buffer) == base.as_ptr().addr() + index * stride
                && buffer.capacity() == capacity
        });
        if !regular || stride < (capacity + HEADROOM_BYTES) as usize {
            return Err(PortError(format!(
                "DPDK needs buffers in one run with {HEADROOM_BYTES} bytes in front of each; take them with Arena::take_behind"
            )));
        }
        let bytes = capacity + BEFORE_BYTES as u32;
        if bytes > BYTES_MAX {
            return Err(PortError(format!(
                "buffers of {capacity} bytes are too long for DPDK: set buffer_bytes to at most {}",
                (BYTES_MAX - HEADROOM_BYTES) / 64 * 64
            )));
        }
        let mut plan = Plan {
            // Stays inside the headroom, which is part of the arena.
            start: base.as_ptr().wrapping_sub(BEFORE_BYTES),
            stride,
            bytes: bytes as u16,
            made: Vec::with_capacity(buffers.len()),
        };
        let pool = create(name, buffers.len(), &mut plan, socket)?;
        let first = first.index();
        let reciprocal = (1u64 << 48).div_ceil(stride as u64);
        Ok(Self { pool, descriptors: plan.made, first, base, capacity, reciprocal })
    }

    pub(crate) const fn as_ptr(&self) -> *mut rte_mempool {
        self.pool.as_ptr()
    }

    /// Takes as many descriptors out of DPDK's pool as there are buffers with the worker.
    pub(crate) fn withdraw(&mut self, buffers: usize) -> Result<(), PortError> {
        for _ in 0..buffers {
            if self.take().is_none() {
                return Err(PortError(format!("DPDK's pool has fewer than {buffers} descriptors")));
            }
        }
        Ok(())
    }

    /// Descriptors in the pool: neither with the worker nor in a device.
    pub(crate) fn available(&self) -> usize {
        // SAFETY: the pool is never freed while `self` lives.
        unsafe { sys::rte_mempool_avail_count(self.as_ptr()) as usize }
    }

    /// The descriptor of a buffer of this pool; `None` for another's.
    #[inline(always)]
    pub(crate) fn descriptor(&self, buffer: &Buffer) -> Option<NonNull<rte_mbuf>> {
        self.descriptors.get(buffer.index().wrapping_sub(self.first) as usize).copied()
    }

    /// The buffer of a descriptor that the driver gave us, and where its packet starts in it.
    #[inline(always)]
    pub(crate) fn buffer(&self, m: NonNull<rte_mbuf>) -> Buffer {
        // SAFETY: the descriptor is ours, so its fields can be read. Its memory starts BEFORE_BYTES before its buffer's.
        let base = unsafe { mbuf::buf_addr(m.as_ptr()).add(BEFORE_BYTES) };
        let distance = base.addr().wrapping_sub(self.base.as_ptr().addr()) as u64;
        let index = index_of(distance, self.reciprocal);
        // SAFETY: the descriptor came out of DPDK's side, so no `Buffer` of this number exists; its range is the arena's and
        // stays. `base` is not null, as it lies within the arena.
        unsafe { Buffer::from_raw(NonNull::new_unchecked(base), self.capacity, self.first + index) }
    }

    /// Takes a free descriptor from DPDK's side.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<NonNull<rte_mbuf>> {
        let mut taken = [ptr::null_mut()];
        if self.take_many(&mut taken) { NonNull::new(taken[0]) } else { None }
    }

    /// Takes `into.len()` descriptors from DPDK's side, or none.
    #[inline(always)]
    pub(crate) fn take_many(&mut self, into: &mut [*mut rte_mbuf]) -> bool {
        // SAFETY: writes as many pointers as there is room for, or none; the descriptors are then ours.
        unsafe { sys::rte_mempool_get_bulk(self.as_ptr(), into.as_mut_ptr().cast(), into.len() as c_uint) == 0 }
    }

    /// Gives descriptors to DPDK's side.
    ///
    /// # Safety
    /// The caller owns the buffers of these descriptors and gives them up.
    #[inline(always)]
    pub(crate) unsafe fn give_many(&mut self, from: &[*mut rte_mbuf]) {
        // SAFETY: descriptors of this pool that the caller gives up.
        unsafe { sys::rte_mempool_put_bulk(self.as_ptr(), from.as_ptr().cast(), from.len() as c_uint) }
    }

    /// Gives buffers from `pool` to DPDK's side, up to `count`; returns how many.
    #[inline]
    pub(crate) fn refill(&mut self, pool: &mut Pool, count: usize) -> usize {
        let mut given = [ptr::null_mut::<rte_mbuf>(); BURST_MAX];
        let mut done = 0;
        for slot in given.iter_mut().take(count) {
            let Some(buffer) = pool.get() else { break };
            let Some(m) = self.descriptor(&buffer) else {
                pool.put(buffer); // another pool's buffer can only come in by a bug of the caller
                break;
            };
            *slot = m.as_ptr();
            done += 1;
        }
        if done > 0 {
            // SAFETY: the buffers just came out of the worker's pool and are given up here.
            unsafe { self.give_many(&given[..done]) };
        }
        done
    }

    /// The same for any number.
    pub(crate) fn refill_all(&mut self, pool: &mut Pool, count: usize) -> usize {
        let mut done = 0;
        while done < count {
            match self.refill(pool, (count - done).min(BURST_MAX)) {
                0 => break,
                given => done += given,
            }
        }
        done
    }

    /// A buffer of this pool with a packet that a device received into memory of its own; that packet goes back. `None` if there
    /// is no buffer, and then the packet is gone.
    #[cold]
    pub(crate) fn copy_in(&mut self, from: NonNull<rte_mbuf>) -> Option<NonNull<rte_mbuf>> {
        let to = self.take();
        // SAFETY: both descriptors are ours; as many bytes are copied as both have room for.
        unsafe {
            if let Some(to) = to {
                let (to, from) = (to.as_ptr(), from.as_ptr());
                let start = sys::RTE_PKTMBUF_HEADROOM as u16;
                let len = mbuf::data_len(from).min(mbuf::buf_len(to) - start);
                let bytes = mbuf::buf_addr(from).add(usize::from(mbuf::data_off(from)));
                ptr::copy_nonoverlapping(bytes, mbuf::buf_addr(to).add(usize::from(start)), usize::from(len));
                mbuf::set_data_off(to, start);
                mbuf::set_data_len(to, len);
                mbuf::set_ol_flags(to, mbuf::ol_flags(from));
            }
            Packet::own(from).free();
        }
        to
    }

    /// A packet of the buffer's own descriptor: `len` bytes that start `offset` bytes into it, or before it if negative.
    ///
    /// # Safety
    /// The range lies inside the descriptor's memory, and the caller gives the buffer up.
    #[inline(always)]
    pub(crate) unsafe fn packet(&self, m: NonNull<rte_mbuf>, offset: i32, len: u32) -> Packet {
        let m = m.as_ptr();
        // SAFETY: the descriptor is the caller's, and the caller promised the range.
        unsafe {
            mbuf::set_data_off(m, (BEFORE_BYTES as i32 + offset) as u16);
            mbuf::set_data_len(m, len as u16);
            mbuf::set_pkt_len(m, len);
            Packet::own(NonNull::new_unchecked(m))
        }
    }

    /// Lets `owners` packets share a buffer: its descriptor goes back to the pool after the last of them.
    ///
    /// # Safety
    /// The caller gives the buffer up, and makes exactly as many packets by [`ArenaPool::shared_packet`].
    pub(crate) unsafe fn share(&mut self, m: NonNull<rte_mbuf>, owners: u16) {
        unsafe extern "C" fn give_back(_: *mut c_void, m: *mut c_void) {
            // SAFETY: the descriptor that `share` was called for, whose last owner is done.
            unsafe { sys::rte_pktmbuf_free(m.cast()) }
        }
        let sharing = Self::sharing(m);
        // SAFETY: there is room for this behind every descriptor of the pool (see `create`), and the caller owns it.
        unsafe {
            (*sharing).free_cb = Some(give_back);
            (*sharing).fcb_opaque = m.as_ptr().cast();
            (*sharing).refcnt = owners;
        }
    }

    /// A packet of a shared buffer: `len` bytes from `offset` on, described by `share`.
    ///
    /// # Safety
    /// See [`ArenaPool::share`]; the range lies inside the buffer, and `share` is the caller's.
    pub(crate) unsafe fn shared_packet(
        &mut self,
        share: NonNull<rte_mbuf>,
        m: NonNull<rte_mbuf>,
        offset: u32,
        len: u32,
    ) -> Packet {
        // SAFETY: as the caller promised; the memory stays its own until `give_back` was called.
        unsafe {
            let start = mbuf::buf_addr(m.as_ptr()).add(BEFORE_BYTES + offset as usize);
            let share = share.as_ptr();
            sys::rte_pktmbuf_attach_extbuf(share, start.cast(), start.addr() as u64, len as u16, Self::sharing(m));
            mbuf::set_data_off(share, 0);
            mbuf::set_data_len(share, len as u16);
            mbuf::set_pkt_len(share, len);
            Packet::own(NonNull::new_unchecked(share))
        }
    }

    /// Where a descriptor's owners are counted: behind it, see `create`.
    fn sharing(m: NonNull<rte_mbuf>) -> *mut sys::rte_mbuf_ext_shared_info {
        m.as_ptr().wrapping_add(1).cast()
    }
}

/// `distance / stride` for a distance that is a multiple of the stride, by its reciprocal.
#[inline(always)]
const fn index_of(distance: u64, reciprocal: u64) -> u32 {
    // The reciprocal is less than one too large in 2^48, so the product is too large by less than distance / 2^48, which is
    // less than one for any arena there is; rounding down then gives the number.
    ((distance as u128 * reciprocal as u128) >> 48) as u32
}

/// Packets in DPDK's own memory: headers and descriptors for pieces of a buffer, or whole packets for a device that takes
/// no other memory.
#[derive(Debug)]
pub(crate) struct SmallPool(NonNull<rte_mempool>);

// SAFETY: as for `ArenaPool`.
unsafe impl Send for SmallPool {}

impl SmallPool {
    pub(crate) fn new(_: Eal, name: &str, count: u32, bytes: u32, socket: i32) -> Result<Self, PortError> {
        let name = c_name(name)?;
        let room = (sys::RTE_PKTMBUF_HEADROOM + bytes) as u16;
        // SAFETY: the name is a C string; the rest are numbers.
        let pool = unsafe { sys::rte_pktmbuf_pool_create(name.as_ptr(), count, CACHE.min(count / 2), 0, room, socket) };
        NonNull::new(pool).map(Self).ok_or_else(|| refused(&name))
    }

    /// A descriptor with its own small memory.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<NonNull<rte_mbuf>> {
        // SAFETY: the pool lives as long as `self`.
        NonNull::new(unsafe { sys::rte_pktmbuf_alloc(self.0.as_ptr()) })
    }

    pub(crate) const fn as_ptr(&self) -> *mut rte_mempool {
        self.0.as_ptr()
    }

    pub(crate) fn available(&self) -> usize {
        // SAFETY: the pool lives as long as `self`.
        unsafe { sys::rte_mempool_avail_count(self.0.as_ptr()) as usize }
    }
}

fn create(name: &str, count: usize, plan: &mut Plan, socket: i32) -> Result<NonNull<rte_mempool>, PortError> {
    unsafe extern "C" fn describe(pool: *mut rte_mempool, plan: *mut c_void, object: *mut c_void, index: c_uint) {
        // SAFETY: `plan` is the one that `create` passes for the time of the call, and the object is a descriptor of this pool
        // that nobody else has yet. The memory it gets is that of its buffer, headroom included.
        unsafe {
            let plan = &mut *plan.cast::<Plan>();
            sys::rte_pktmbuf_init(pool, ptr::null_mut(), object, index);
            let m = object.cast::<rte_mbuf>();
            let start = plan.start.wrapping_add(plan.stride * index as usize);
            mbuf::set_buf_addr(m, start);
            mbuf::set_buf_iova(m, start.addr() as u64); // devices see the process's addresses: EAL runs with --iova-mode=va
            mbuf::set_buf_len(m, plan.bytes);
            mbuf::set_ol_flags(m, 0);
            plan.made.push(NonNull::new_unchecked(m));
        }
    }
    let name = c_name(name)?;
    let element = (size_of::<rte_mbuf>() + size_of::<sys::rte_mbuf_ext_shared_info>()) as c_uint;
    let private = size_of::<sys::rte_pktmbuf_pool_private>() as c_uint;
    let cache = CACHE.min(count as u32 / 2);
    // SAFETY: C strings and numbers in; the pool that comes out is used until it is complete by this thread alone. `plan` lives
    // through `obj_iter`, which calls `describe` once for each object in the order of their making.
    unsafe {
        let pool = sys::rte_mempool_create_empty(name.as_ptr(), count as c_uint, element, cache, private, socket, 0);
        let pool = NonNull::new(pool).ok_or_else(|| refused(&name))?;
        let fail = |what: &str, result: i32| {
            sys::rte_mempool_free(pool.as_ptr());
            PortError(format!("DPDK cannot {what} {}: {}", name.to_string_lossy(), error_of(result)))
        };
        let ring: &CStr = c"ring_mp_mc";
        let result = sys::rte_mempool_set_ops_byname(pool.as_ptr(), ring.as_ptr(), ptr::null_mut());
        if result != 0 {
            return Err(fail("choose a ring for pool", result));
        }
        let mut private: sys::rte_pktmbuf_pool_private = std::mem::zeroed();
        private.mbuf_data_room_size = plan.bytes;
        private.flags = sys::RTE_PKTMBUF_POOL_F_PINNED_EXT_BUF;
        sys::rte_pktmbuf_pool_init(pool.as_ptr(), (&raw mut private).cast());
        let result = sys::rte_mempool_populate_default(pool.as_ptr());
        if result < 0 {
            return Err(fail("fill pool (raise memory_mb in [dpdk])", result));
        }
        sys::rte_mempool_obj_iter(pool.as_ptr(), Some(describe), (&raw mut *plan).cast());
        Ok(pool)
    }
}

fn c_name(name: &str) -> Result<CString, PortError> {
    CString::new(name).map_err(|_| PortError("a pool's name holds a zero byte".to_owned()))
}

fn refused(name: &CStr) -> PortError {
    PortError(format!("DPDK cannot make pool {}: {}; raise memory_mb in [dpdk]", name.to_string_lossy(), last_error()))
}

#[cfg(test)]
mod tests {
    use super::index_of;

    #[test]
    fn an_address_becomes_a_number_for_every_stride_and_every_buffer_up_to_a_terabyte() {
        for stride in [1_728_u32, 2_240, 2_304, 4_096, 9_152, 65_472] {
            let reciprocal = (1u64 << 48).div_ceil(u64::from(stride));
            for index in (0..1_048_576_u64).step_by(7).chain([1_048_575]) {
                assert_eq!(u64::from(index_of(index * u64::from(stride), reciprocal)), index, "stride {stride}");
            }
        }
    }
}
