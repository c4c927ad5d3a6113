//! Buffers that wait for the device, and the marks of those that it has.

use core::ops::Range;
use tachyon_driver_api::Transmit;

/// First in, first out: buffers that wait for the device.
#[derive(Debug)]
pub(crate) struct Ready<'a> {
    items: &'a mut [Option<Transmit>],
    head: usize,
    len: usize,
}

impl<'a> Ready<'a> {
    pub(crate) fn new(items: &'a mut [Option<Transmit>]) -> Self {
        Self { items, head: 0, len: 0 }
    }

    #[inline(always)]
    pub(crate) fn push(&mut self, item: Transmit) {
        let at = self.around(self.head + self.len);
        debug_assert!(self.items[at].is_none(), "more buffers are queued than there are");
        self.items[at] = Some(item);
        self.len += 1;
    }

    pub(crate) fn pop(&mut self) -> Option<Transmit> {
        let item = self.items[self.head].take()?;
        self.head = self.around(self.head + 1);
        self.len -= 1;
        Some(item)
    }

    /// Where the item stands that was pushed this many before the last.
    pub(crate) fn place(&self, back: usize) -> usize {
        self.around((self.head + self.len).saturating_sub(back + 1))
    }

    /// A place that is past the end by less than a whole round; a division would cost more than all the rest of a push.
    #[inline(always)]
    fn around(&self, at: usize) -> usize {
        if at < self.items.len() { at } else { at - self.items.len() }
    }

    /// Some bytes of the item that stands there.
    pub(crate) fn bytes(&self, place: usize, range: Range<usize>) -> Option<&[u8]> {
        self.items.get(place)?.as_ref()?.buffer.bytes().get(range)
    }

    /// The item that stands there.
    pub(crate) fn at_mut(&mut self, place: usize) -> Option<&mut Transmit> {
        self.items.get_mut(place)?.as_mut()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

/// Free marks for what is in flight.
#[derive(Debug)]
pub(crate) struct Tokens<'a> {
    free: &'a mut [u32],
    count: usize,
}

impl<'a> Tokens<'a> {
    pub(crate) fn new(free: &'a mut [u32]) -> Self {
        for (number, token) in (0..).zip(free.iter_mut()) {
            *token = number;
        }
        Self { count: free.len(), free }
    }

    pub(crate) fn get(&mut self) -> Option<u32> {
        self.count = self.count.checked_sub(1)?;
        Some(self.free[self.count])
    }

    pub(crate) fn put(&mut self, token: u32) {
        self.free[self.count] = token;
        self.count += 1;
    }
}
