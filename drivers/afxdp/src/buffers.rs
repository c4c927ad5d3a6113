//! The worker's buffers as the kernel sees them: where each lies in the registered memory, and whether the kernel has it.
//!
//! A [`Buffer`] that is given to the kernel is kept here as a number, and made anew when the kernel gives it back, so there is
//! exactly one owner at any time and nothing to search. What the kernel says is compared with what it was given.

use core::ptr::NonNull;
use tachyon_driver_api::{Buffer, Pool, PortError};

/// Bytes that a buffer has in front of it, as the arena leaves it: the kernel's `XDP_PACKET_HEADROOM` (linux/bpf.h). The kernel
/// uses them while it receives; we put headers there when we send.
pub const HEADROOM_BYTES: u32 = 256;
/// The smallest chunk that the kernel takes (`XDP_UMEM_MIN_CHUNK_SIZE`).
const CHUNK_BYTES_MIN: u32 = 2_048;
/// Log2 of it: buffers are counted in such units, so that their numbers come of a short division.
const UNIT_SHIFT: u32 = 11;
/// Room for the headers of one frame among several, a power of two above the longest headers (66 bytes).
pub(crate) const HEADER_ROOM: u64 = 128;

/// How the worker's buffers lie in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// The registered memory: its address, on a page, and its length.
    pub(crate) base: usize,
    pub(crate) bytes: usize,
    /// What the kernel fills with one piece of a packet.
    pub(crate) chunk_bytes: u32,
    /// Between the start of a buffer and the packet in it.
    pub(crate) lead_bytes: u32,
    /// From one buffer to the next.
    stride: u32,
    /// From `base` to the first buffer's chunk.
    skew: u32,
    /// The first buffer's number in the arena.
    first: u32,
    count: u32,
}

impl Layout {
    /// How the buffers of `pool` lie: one run of equal ones, each with the headroom before it.
    pub(crate) fn of(pool: &mut Pool, lead_bytes: u32, page_bytes: u32) -> Result<Self, PortError> {
        let mut buffers: Vec<Buffer> = core::iter::from_fn(|| pool.get()).collect();
        buffers.sort_by_key(Buffer::index);
        let layout = Self::over(&buffers, lead_bytes, page_bytes);
        buffers.into_iter().rev().for_each(|buffer| pool.put(buffer)); // the first buffer is taken first
        layout
    }

    fn over(buffers: &[Buffer], lead_bytes: u32, page_bytes: u32) -> Result<Self, PortError> {
        let refuse = |why: String| Err(PortError(why));
        let [first, second, ..] = buffers else { return refuse("the pool has fewer than two buffers".to_owned()) };
        let address = |buffer: &Buffer| buffer.address().as_ptr().expose_provenance();
        let (start, capacity) = (address(first), first.capacity());
        let stride = address(second).wrapping_sub(start);
        let regular = buffers.iter().enumerate().all(|(place, buffer)| {
            buffer.index() as usize == first.index() as usize + place
                && address(buffer) == start + place * stride
                && buffer.capacity() == capacity
        });
        if !regular || stride != (capacity + HEADROOM_BYTES) as usize {
            return refuse(format!(
                "the pool's buffers are not one run of equal ones with {HEADROOM_BYTES} bytes before each: take them in one go \
                 by `Arena::take_behind({HEADROOM_BYTES}, ...)`"
            ));
        }
        let stride = capacity + HEADROOM_BYTES;
        let fits = if stride >= page_bytes {
            stride.is_multiple_of(page_bytes)
        } else {
            stride >= CHUNK_BYTES_MIN && stride.is_power_of_two()
        };
        let chunk_bytes = stride.min(page_bytes);
        let chunk = start - HEADROOM_BYTES as usize;
        if !fits || !chunk.is_multiple_of(chunk_bytes as usize) {
            return refuse(format!(
                "buffers take {stride} bytes of the arena: the kernel's chunks are {CHUNK_BYTES_MIN} bytes or a page \
                 ({page_bytes}); make buffers that long, or several pages"
            ));
        }
        if lead_bytes > chunk_bytes / 8 {
            return refuse(format!("lead_bytes is {lead_bytes}: choose at most {}", chunk_bytes / 8));
        }
        let base = chunk - chunk % page_bytes as usize;
        let count = u32::try_from(buffers.len()).map_err(|_| PortError("the pool has too many buffers".to_owned()))?;
        let bytes = chunk - base + count as usize * stride as usize;
        let skew = u32::try_from(chunk - base).unwrap_or(0); // less than a page
        Ok(Self { base, bytes, chunk_bytes, lead_bytes, stride, skew, first: first.index(), count })
    }

    /// Bytes of a packet that one chunk takes.
    pub(crate) const fn chunk_room(&self) -> u32 {
        self.chunk_bytes - HEADROOM_BYTES - self.lead_bytes
    }

    /// Bytes that a buffer holds.
    pub(crate) const fn capacity(&self) -> u32 {
        self.stride - HEADROOM_BYTES
    }

    /// The longest packet that a buffer takes when it is received in pieces.
    pub(crate) const fn packet_room(&self) -> u32 {
        self.capacity() - self.lead_bytes
    }

    pub(crate) const fn count(&self) -> u32 {
        self.count
    }

    /// Where a buffer's chunk starts in the registered memory.
    #[inline(always)]
    pub(crate) const fn chunk_at(&self, number: u32) -> u64 {
        self.skew as u64 + number as u64 * self.stride as u64
    }

    /// Which buffer an address in the registered memory belongs to.
    #[inline(always)]
    fn number_at(&self, at: u64) -> Option<u32> {
        let units = at.checked_sub(u64::from(self.skew))? >> UNIT_SHIFT;
        let number = u32::try_from(units).ok()? / (self.stride >> UNIT_SHIFT);
        (number < self.count).then_some(number)
    }
}

/// Who has a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The worker.
    Away,
    /// The driver, free or between two calls.
    Ours,
    /// The kernel, to receive into by the socket of this port.
    Receiving(u8),
    /// The kernel, to be sent by the socket of this port.
    Sending(u8),
    /// The kernel, to be sent by the socket of this port; a copy, so nobody waits for it.
    Copied(u8),
    /// The driver for ever: it holds the headers of several frames.
    Headers,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    place: Place,
    /// Pieces of it that the kernel has to send.
    pieces: u16,
    token: u32,
}

/// What the kernel finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finished {
    /// All of an item: its buffer's number and its token.
    Item(u32, u32),
    /// A part of one, or headers.
    Part,
    /// Nothing that it was given.
    Unknown,
}

/// All buffers of a worker.
#[derive(Debug)]
pub(crate) struct Buffers {
    layout: Layout,
    slots: Vec<Slot>,
    /// Free ones of ours, by number.
    spare: Vec<u32>,
    /// The first of the buffers that hold headers; they lie side by side.
    header_first: u32,
    /// The port whose socket has each room for headers.
    header_users: Vec<Option<u8>>,
    header_free: Vec<u32>,
    held: usize,
}

impl Buffers {
    /// Nothing is given to anybody yet. Allocates all that it ever will.
    pub(crate) fn new(layout: Layout) -> Self {
        let count = layout.count as usize;
        let slot = Slot { place: Place::Away, pieces: 0, token: 0 };
        let (header_users, header_free) = (Vec::new(), Vec::new());
        let spare = Vec::with_capacity(count);
        Self { layout, slots: vec![slot; count], spare, header_first: 0, header_users, header_free, held: 0 }
    }

    /// Takes the next buffers of `pool` for the headers of at least `rooms` frames, for ever.
    pub(crate) fn make_headers(&mut self, pool: &mut Pool, rooms: u32) -> Result<(), PortError> {
        let count = rooms.div_ceil(self.rooms_each());
        let mut last = None;
        for _ in 0..count {
            let number = pool.get().and_then(|buffer| self.number_of(&buffer));
            let Some(number) = number.filter(|number| last.is_none_or(|last| last + 1 == *number)) else {
                return Err(PortError(format!("the pool has no {count} buffers to spare for headers: enlarge it")));
            };
            self.accept(number);
            self.slots[number as usize].place = Place::Headers;
            last = Some(number);
        }
        self.header_first = last.map_or(0, |last| last + 1 - count);
        let rooms = count * self.rooms_each();
        self.header_users = vec![None; rooms as usize];
        self.header_free = (0..rooms).rev().collect();
        Ok(())
    }

    pub(crate) const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Buffers that are not the worker's.
    pub(crate) const fn held(&self) -> usize {
        self.held
    }

    /// The number of a buffer; `None` for one of another pool.
    #[inline(always)]
    pub(crate) fn number_of(&self, buffer: &Buffer) -> Option<u32> {
        let number = buffer.index().wrapping_sub(self.layout.first);
        let address = self.layout.base + self.layout.chunk_at(number) as usize + HEADROOM_BYTES as usize;
        let ours = number < self.layout.count && buffer.address().as_ptr().addr() == address;
        ours.then_some(number)
    }

    /// A buffer of the worker's becomes ours.
    #[inline(always)]
    pub(crate) fn accept(&mut self, number: u32) {
        let slot = &mut self.slots[number as usize];
        debug_assert_eq!(slot.place, Place::Away, "a buffer came in twice");
        slot.place = Place::Ours;
        self.held += 1;
    }

    /// One of ours becomes the worker's.
    #[inline(always)]
    pub(crate) fn hand_out(&mut self, number: u32) -> Buffer {
        let slot = &mut self.slots[number as usize];
        debug_assert_eq!(slot.place, Place::Ours, "only what is ours is given away");
        slot.place = Place::Away;
        self.held -= 1;
        let layout = &self.layout;
        let start = layout.base + layout.chunk_at(number) as usize + HEADROOM_BYTES as usize;
        let base = core::ptr::with_exposed_provenance_mut(start);
        // SAFETY: the range is that of the `Buffer` which was taken in under this number (`Layout::over` saw all of them and
        // exposed their addresses), it was given up then, and the slot says that nobody has it since; the kernel included, as
        // it gave it back or its socket is closed. The arena is never unmapped and no address in it is zero.
        unsafe { Buffer::from_raw(NonNull::new_unchecked(base), layout.capacity(), number + layout.first) }
    }

    /// The bytes of one of ours, from the start of the buffer.
    #[inline(always)]
    pub(crate) fn bytes(&self, number: u32) -> &[u8] {
        debug_assert_eq!(self.slots[number as usize].place, Place::Ours);
        let start = self.layout.base + self.layout.chunk_at(number) as usize + HEADROOM_BYTES as usize;
        // SAFETY: as in `hand_out`; the slot says that it is ours alone, for as long as `self` is not changed.
        unsafe {
            let base = core::ptr::with_exposed_provenance(start);
            core::slice::from_raw_parts(base, self.layout.capacity() as usize)
        }
    }

    /// The room for headers in front of one of ours.
    #[inline(always)]
    pub(crate) fn header_before(&mut self, number: u32, bytes: usize) -> &mut [u8] {
        debug_assert_eq!(self.slots[number as usize].place, Place::Ours);
        debug_assert!(bytes <= HEADROOM_BYTES as usize);
        let start = self.layout.base + self.layout.chunk_at(number) as usize + HEADROOM_BYTES as usize - bytes;
        // SAFETY: the bytes before a buffer are the driver's (`Layout::over` saw to it), and the kernel does not have them.
        unsafe { core::slice::from_raw_parts_mut(core::ptr::with_exposed_provenance_mut(start), bytes) }
    }

    /// Copies between two of ours; what does not fit is not copied, and then it says false.
    pub(crate) fn copy(&mut self, (from, from_at): (u32, usize), (to, to_at): (u32, usize), bytes: usize) -> bool {
        let room = self.layout.capacity() as usize;
        let fits = from != to && from_at.saturating_add(bytes) <= room && to_at.saturating_add(bytes) <= room;
        if !fits {
            return false;
        }
        let source: *const u8 = self.bytes(from)[from_at..].as_ptr();
        debug_assert_eq!(self.slots[to as usize].place, Place::Ours);
        let start = self.layout.base + self.layout.chunk_at(to) as usize + HEADROOM_BYTES as usize + to_at;
        // SAFETY: both ranges lie inside their buffers, which are ours and not the same one.
        unsafe { core::ptr::copy_nonoverlapping(source, core::ptr::with_exposed_provenance_mut(start), bytes) };
        true
    }

    /// A free one of ours.
    #[inline(always)]
    pub(crate) fn take_spare(&mut self) -> Option<u32> {
        self.spare.pop()
    }

    /// How many of ours are free.
    #[inline(always)]
    pub(crate) fn spares(&self) -> usize {
        self.spare.len()
    }

    /// One of ours is free.
    #[inline(always)]
    pub(crate) fn put_spare(&mut self, number: u32) {
        debug_assert_eq!(self.slots[number as usize].place, Place::Ours);
        self.spare.push(number);
    }

    /// One of ours goes to the kernel to be filled; the address for the ring.
    #[inline(always)]
    pub(crate) fn give_to_fill(&mut self, number: u32, port: u8) -> u64 {
        self.slots[number as usize].place = Place::Receiving(port);
        self.layout.chunk_at(number)
    }

    /// The kernel filled a chunk: the buffer, ours again, and where the packet starts in it. `None` for what it was not given.
    #[inline(always)]
    pub(crate) fn filled(&mut self, at: u64, len: u32, port: u8) -> Option<(u32, u32)> {
        let number = self.layout.number_at(at)?;
        let slot = &mut self.slots[number as usize];
        let offset = (at - self.layout.chunk_at(number)).checked_sub(u64::from(HEADROOM_BYTES))?;
        let inside = offset + u64::from(len) <= u64::from(self.layout.capacity());
        if slot.place != Place::Receiving(port) || !inside {
            return None;
        }
        slot.place = Place::Ours;
        Some((number, offset as u32))
    }

    /// One of ours goes to the kernel to be sent in so many pieces.
    #[inline(always)]
    pub(crate) fn give_to_send(&mut self, number: u32, port: u8, pieces: u16, token: u32) {
        self.slots[number as usize] = Slot { place: Place::Sending(port), pieces, token };
    }

    /// One of ours with a copy of a frame goes to the kernel to be sent in one piece.
    pub(crate) fn give_copy(&mut self, number: u32, port: u8) {
        self.slots[number as usize].place = Place::Copied(port);
    }

    /// The kernel has sent what is at this address.
    #[inline(always)]
    pub(crate) fn finished(&mut self, at: u64, port: u8) -> Finished {
        let Some(number) = self.layout.number_at(at) else { return Finished::Unknown };
        let slot = &mut self.slots[number as usize];
        match slot.place {
            Place::Sending(by) if by == port && slot.pieces > 0 => {
                slot.pieces -= 1;
                if slot.pieces > 0 {
                    return Finished::Part;
                }
                slot.place = Place::Ours;
                Finished::Item(number, slot.token)
            }
            Place::Copied(by) if by == port => {
                slot.place = Place::Ours;
                self.put_spare(number);
                Finished::Part
            }
            Place::Headers => {
                self.free_header(number, at);
                Finished::Part
            }
            _ => Finished::Unknown,
        }
    }

    /// The socket of a port is closed, so the kernel has nothing of it any more: what it had to fill is spare, and what it had to
    /// send goes to `unsent`, by number and token.
    pub(crate) fn take_back(&mut self, port: u8, mut unsent: impl FnMut(u32, u32)) {
        for number in 0..self.layout.count {
            let Slot { place, token, .. } = self.slots[number as usize];
            match place {
                Place::Receiving(by) | Place::Copied(by) if by == port => {
                    self.slots[number as usize].place = Place::Ours;
                    self.put_spare(number);
                }
                Place::Sending(by) if by == port => {
                    self.slots[number as usize].place = Place::Ours;
                    unsent(number, token);
                }
                _ => {}
            }
        }
        for (room, user) in (0..).zip(&mut self.header_users) {
            if *user == Some(port) {
                *user = None;
                self.header_free.push(room);
            }
        }
    }

    /// Gives the buffers that held headers back, for the end.
    pub(crate) fn give_up_headers(&mut self, pool: &mut Pool) {
        for number in 0..self.layout.count {
            let slot = &mut self.slots[number as usize];
            if slot.place == Place::Headers {
                slot.place = Place::Ours;
                pool.put(self.hand_out(number));
            }
        }
        (self.header_users, self.header_free) = (Vec::new(), Vec::new());
    }

    /// Takes a room for the headers of one frame: its address.
    #[inline]
    pub(crate) fn take_header(&mut self, port: u8) -> Option<u64> {
        let room = self.header_free.pop()?;
        self.header_users[room as usize] = Some(port);
        Some(self.header_at(room))
    }

    /// Rooms for headers that are free.
    #[inline]
    pub(crate) fn headers_free(&self) -> usize {
        self.header_free.len()
    }

    /// The bytes of a room that was taken and not given to the kernel yet.
    #[inline]
    pub(crate) fn header(&mut self, at: u64, bytes: usize) -> &mut [u8] {
        debug_assert!(bytes <= HEADER_ROOM as usize);
        let start = self.layout.base + at as usize;
        // SAFETY: `take_header` made the address; nobody else has that room, and it is as long as that.
        unsafe { core::slice::from_raw_parts_mut(core::ptr::with_exposed_provenance_mut(start), bytes) }
    }

    fn rooms_each(&self) -> u32 {
        self.layout.capacity() / HEADER_ROOM as u32
    }

    fn header_at(&self, room: u32) -> u64 {
        let (number, place) = (room / self.rooms_each(), room % self.rooms_each());
        self.layout.chunk_at(self.header_first + number) + u64::from(HEADROOM_BYTES) + u64::from(place) * HEADER_ROOM
    }

    fn free_header(&mut self, number: u32, at: u64) {
        let place = (at - self.layout.chunk_at(number)).saturating_sub(u64::from(HEADROOM_BYTES)) / HEADER_ROOM;
        let room = (number - self.header_first) * self.rooms_each() + place as u32;
        // What the kernel was not given it cannot give back.
        if self.header_users.get_mut(room as usize).and_then(Option::take).is_some() {
            self.header_free.push(room);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory that stays for the rest of the test program, as an arena's does.
    fn pool(count: u32, stride: u32) -> Pool {
        let layout = std::alloc::Layout::from_size_align((count * stride) as usize, 4_096).unwrap();
        // SAFETY: the layout is not empty.
        let base = unsafe { std::alloc::alloc_zeroed(layout) };
        let buffer = |index: u32| {
            // SAFETY: inside the allocation, which is never freed, and no two overlap.
            unsafe {
                let start = base.add((index * stride + HEADROOM_BYTES) as usize);
                Buffer::from_raw(NonNull::new(start).unwrap(), stride - HEADROOM_BYTES, index + 5)
            }
        };
        Pool::new((0..count).map(buffer).collect())
    }

    #[test]
    fn every_address_of_a_buffer_leads_back_to_it_and_no_other_does() {
        for stride in [2_048, 4_096, 12_288] {
            let mut pool = pool(16, stride);
            let layout = Layout::of(&mut pool, 22, 4_096).unwrap();
            let mut buffers = Buffers::new(layout);
            for expected in 0..16 {
                let buffer = pool.get().unwrap();
                let number = buffers.number_of(&buffer).unwrap();
                assert_eq!(number, expected, "the first buffer is taken first");
                buffers.accept(number);
                let at = buffers.give_to_fill(number, 3);
                assert_eq!(at, u64::from(number * stride));
                assert_eq!(buffers.filled(at + 278, 100, 2), None, "another port's");
                assert_eq!(buffers.filled(at + 255, 1, 3), None, "before the buffer");
                assert_eq!(buffers.filled(at + 256, stride - 255, 3), None, "longer than the buffer");
                assert_eq!(buffers.filled(at + 278, 100, 3), Some((number, 22)));
                assert_eq!(buffers.filled(at + 278, 100, 3), None, "given back twice");
                let again = buffers.hand_out(number);
                assert_eq!((again.address(), again.index()), (buffer.address(), buffer.index()));
            }
            assert_eq!((buffers.held(), buffers.layout.number_at(u64::from(16 * stride))), (0, None));
        }
    }

    #[test]
    fn an_item_is_finished_with_its_last_piece_and_taken_back_with_its_socket() {
        let mut pool = pool(4, 2_048);
        let mut buffers = Buffers::new(Layout::of(&mut pool, 0, 4_096).unwrap());
        for _ in 0..4 {
            let number = buffers.number_of(&pool.get().unwrap()).unwrap();
            buffers.accept(number);
        }
        buffers.give_to_send(1, 0, 2, 77);
        assert_eq!(buffers.finished(2_048 + 300, 0), Finished::Part);
        assert_eq!(buffers.finished(2_048 + 400, 1), Finished::Unknown, "another port's");
        assert_eq!(buffers.finished(2_048 + 400, 0), Finished::Item(1, 77));
        assert_eq!(buffers.finished(2_048 + 400, 0), Finished::Unknown, "sent twice");
        buffers.give_to_send(1, 0, 1, 78);
        buffers.give_to_fill(2, 0);
        buffers.give_to_fill(3, 1);
        let mut unsent = Vec::new();
        buffers.take_back(0, |number, token| unsent.push((number, token)));
        assert_eq!(unsent, [(1, 78)]);
        assert_eq!((buffers.take_spare(), buffers.take_spare()), (Some(2), None));
    }

    #[test]
    fn room_for_headers_comes_back_once() {
        let mut pool = pool(4, 2_048);
        let mut buffers = Buffers::new(Layout::of(&mut pool, 0, 4_096).unwrap());
        buffers.make_headers(&mut pool, 20).unwrap();
        assert_eq!((buffers.headers_free(), buffers.held(), pool.free()), (28, 2, 2));
        let taken: Vec<u64> = core::iter::from_fn(|| buffers.take_header(0)).collect();
        assert_eq!(taken.len(), 28);
        assert_eq!(buffers.finished(taken[27], 0), Finished::Part);
        assert_eq!(buffers.finished(taken[27], 0), Finished::Part);
        assert_eq!(buffers.headers_free(), 1);
        assert_eq!(buffers.take_header(1), Some(taken[27]));
        buffers.take_back(0, |_, _| ());
        assert_eq!(buffers.headers_free(), 27);
    }

    #[test]
    fn pools_that_do_not_fit_the_kernels_chunks_are_refused() {
        for stride in [2_112, 6_144, 1_024] {
            let PortError(why) = Layout::of(&mut pool(4, stride), 22, 4_096).unwrap_err();
            assert!(why.contains("chunks"), "{why}");
        }
        let mut two = pool(4, 2_048);
        let _ = two.get();
        let rest = two.get();
        let _ = two.get();
        rest.into_iter().for_each(|buffer| two.put(buffer));
        let PortError(why) = Layout::of(&mut two, 22, 4_096).unwrap_err();
        assert!(why.contains("one run"), "{why}");
    }
}
