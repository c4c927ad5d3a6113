//! A buffer that is filled a line at a time.

use crate::Buffer;
use tachyon_wire::LINE;

/// [`LINE`] as the type that lengths have here.
const LINE_BYTES: u32 = 64;
const _: () = assert!(LINE == LINE_BYTES as usize);

/// A buffer, or none yet, where it goes on, and how far it may be filled for now. That a line has room is one comparison:
/// where the last one may start is checked against the buffer when it is set, not for each line.
#[derive(Debug)]
pub struct OpenBuffer {
    buffer: Option<Buffer>,
    /// Where the next line goes.
    end: u32,
    /// Lines start before here; so they end inside the buffer. 0 without one.
    stop: u32,
}

impl OpenBuffer {
    /// No buffer, and so no room.
    pub const NONE: Self = Self { buffer: None, end: 0, stop: 0 };

    /// This buffer, empty, and without room before [`OpenBuffer::go_on`] gives it some.
    #[must_use]
    pub const fn new(buffer: Buffer) -> Self {
        Self { buffer: Some(buffer), end: 0, stop: 0 }
    }

    /// Goes on at byte `end`, up to `limit` or the buffer's end.
    #[inline]
    pub fn go_on(&mut self, end: u32, limit: u32) {
        self.stop = limit.min(self.capacity()).saturating_sub(LINE_BYTES - 1);
        self.end = end;
    }

    /// Where the next line goes, in bytes.
    #[inline]
    #[must_use]
    pub const fn end(&self) -> u32 {
        self.end
    }

    /// Up to where it may be filled, if that is a line or more.
    #[inline]
    #[must_use]
    pub const fn limit(&self) -> u32 {
        self.stop + LINE_BYTES - 1
    }

    /// Whether another line has room.
    #[inline]
    #[must_use]
    pub const fn has_room(&self) -> bool {
        self.end < self.stop
    }

    /// Lines that have room.
    #[inline]
    #[must_use]
    pub const fn room(&self) -> u32 {
        (self.stop + LINE_BYTES - 1).saturating_sub(self.end) / LINE_BYTES
    }

    /// The next line, to be written; none if it has no room.
    #[inline(always)]
    pub fn next_line(&mut self) -> Option<&mut [u8; LINE]> {
        let Self { buffer, end, stop } = self;
        if *end >= *stop {
            return None;
        }
        // SAFETY: `stop` is above 0 only while there is a buffer; see `go_on` and `take`.
        let base = unsafe { buffer.as_ref().unwrap_unchecked() }.address();
        // SAFETY: `go_on` saw to it that a line that starts before `stop` ends inside the buffer, which `Buffer::from_raw`
        // promised to be valid and initialised, and `&mut self` makes this the only reference into it.
        let line = unsafe { base.add(*end as usize).cast::<[u8; LINE]>().as_mut() };
        *end += LINE_BYTES; // no more than the buffer's capacity, so it cannot be too much
        Some(line)
    }

    /// The next lines, as many as have room of so many, to be written at once.
    #[inline]
    pub fn next_lines(&mut self, count: usize) -> &mut [[u8; LINE]] {
        let count = count.min(self.room() as usize);
        let start = self.end as usize;
        // Room is inside the buffer, so this is no more than its capacity.
        self.end += u32::try_from(count * LINE).unwrap_or(0);
        self.bytes_mut().get_mut(start..start + count * LINE).unwrap_or_default().as_chunks_mut().0
    }

    /// Bytes that the buffer can hold; 0 without one.
    #[inline]
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.buffer.as_ref().map_or(0, Buffer::capacity)
    }

    /// All bytes of the buffer; none without one.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], Buffer::bytes)
    }

    /// The same, to write.
    #[inline]
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.buffer.as_mut().map_or(&mut [], Buffer::bytes_mut)
    }

    /// The buffer, which then is not here any more.
    #[inline]
    pub fn take(&mut self) -> Option<Buffer> {
        self.stop = 0;
        self.buffer.take()
    }
}

#[cfg(test)]
mod tests {
    use super::OpenBuffer;
    use crate::Buffer;
    use alloc::vec;
    use core::ptr::NonNull;

    fn buffer(bytes: usize) -> Buffer {
        let memory = vec![0_u8; bytes].leak();
        let capacity = u32::try_from(memory.len()).unwrap();
        // SAFETY: the memory is leaked, and nothing but this buffer knows it.
        unsafe { Buffer::from_raw(NonNull::from(memory).cast(), capacity, 0) }
    }

    /// Lines that are given until there is no more room, which is told before each.
    fn filled(open: &mut OpenBuffer) -> u32 {
        let mut count = 0;
        loop {
            let (room, before) = (open.room(), open.end());
            assert_eq!(open.has_room(), room > 0);
            let Some(line) = open.next_line() else {
                assert_eq!((room, open.end()), (0, before));
                return count;
            };
            count += 1;
            line.fill(u8::try_from(count).unwrap());
            assert_eq!((open.room(), open.end()), (room - 1, before + 64));
        }
    }

    #[test]
    fn lines_end_where_limit_and_buffer_do() {
        for (capacity, start, limit, lines) in [
            (640, 0, 640, 10),
            (640, 64, 640, 9),
            (640, 0, 639, 9),
            (639, 0, u32::MAX, 9),
            (640, 577, u32::MAX, 0),
            (640, 576, u32::MAX, 1),
            (640, u32::MAX, u32::MAX, 0),
            (63, 0, 64, 0),
            (0, 0, 64, 0),
        ] {
            let mut open = OpenBuffer::new(buffer(capacity));
            assert_eq!(filled(&mut open), 0, "none before it is said how many");
            open.go_on(start, limit);
            assert_eq!(filled(&mut open), lines, "{capacity} bytes from {start} to {limit}");
            for (line, number) in
                open.bytes().get(start as usize..).unwrap_or_default().as_chunks::<64>().0.iter().zip(1..)
            {
                assert_eq!(line, &[if number <= lines { u8::try_from(number).unwrap() } else { 0 }; 64]);
            }
        }
    }

    #[test]
    fn several_lines_are_as_many_as_have_room() {
        let mut open = OpenBuffer::new(buffer(640));
        open.go_on(64, 512);
        for (asked, given, end) in [(3, 3, 256), (9, 4, 512), (1, 0, 512)] {
            assert_eq!((open.next_lines(asked).len(), open.end()), (given, end));
        }
        assert_eq!(open.limit(), 512);
    }

    #[test]
    fn without_its_buffer_it_has_no_room() {
        let mut open = OpenBuffer::new(buffer(640));
        open.go_on(0, 640);
        assert!(open.take().is_some() && open.next_line().is_none() && open.take().is_none());
        open.go_on(0, 640);
        assert!(open.next_line().is_none() && open.next_lines(1).is_empty() && open.bytes().is_empty());
        assert_eq!((OpenBuffer::NONE.has_room(), OpenBuffer::NONE.capacity()), (false, 0));
    }
}
