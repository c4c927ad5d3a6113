//! What was taken to be sent and did not end yet.
//!
//! Every item has a place in one slab and is in one of two lists of its queue pair: *pending* until all of its frames were
//! posted, then *posted* until the last of them completed. A piece of work has a sequence number on its queue pair; a
//! queue pair completes in order, so a completion ends everything up to its number, the unsignalled ones included.

use tachyon_driver_api::{Completion, Transmit};
use tachyon_wire::Reason;

const NOBODY: u32 = u32::MAX;

/// An item in the driver.
#[derive(Debug)]
struct Slot {
    transmit: Option<Transmit>,
    /// Bytes whose frames were posted.
    cut: u32,
    /// The number of its last piece of work, once all are posted.
    last: u32,
    lane: u16,
    error: Option<Reason>,
    next: u32,
}

/// Items in order, by place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct List {
    head: u32,
    tail: u32,
}

impl List {
    pub(crate) const EMPTY: Self = Self { head: NOBODY, tail: NOBODY };

    pub(crate) const fn head(&self) -> Option<u32> {
        if self.head == NOBODY { None } else { Some(self.head) }
    }
}

/// All items of a queue.
#[derive(Debug)]
pub(crate) struct Flight {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

/// One frame of an item.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    pub(crate) address: u64,
    pub(crate) len: u32,
    pub(crate) shard: u16,
    pub(crate) lane: u16,
}

impl Flight {
    pub(crate) fn new(items: u32) -> Self {
        let slot = |_| Slot { transmit: None, cut: 0, last: 0, lane: 0, error: None, next: NOBODY };
        Self { slots: (0..items).map(slot).collect(), free: (0..items).rev().collect() }
    }

    /// Items that there is room for.
    #[inline]
    pub(crate) fn room(&self) -> usize {
        self.free.len()
    }

    /// Items in it.
    #[inline]
    pub(crate) fn items(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Puts an item at the end of a list; the caller looked at [`Flight::room`].
    #[inline]
    pub(crate) fn add(&mut self, list: &mut List, transmit: Transmit, lane: u16) {
        let Some(place) = self.free.pop() else { return };
        self.slots[place as usize] =
            Slot { transmit: Some(transmit), cut: 0, last: 0, lane, error: None, next: NOBODY };
        self.append(list, place);
    }

    #[inline]
    fn append(&mut self, list: &mut List, place: u32) {
        self.slots[place as usize].next = NOBODY;
        match list.head() {
            None => list.head = place,
            Some(_) => self.slots[list.tail as usize].next = place,
        }
        list.tail = place;
    }

    #[inline]
    fn detach(&mut self, list: &mut List) -> Option<u32> {
        let place = list.head()?;
        list.head = self.slots[place as usize].next;
        Some(place)
    }

    /// The place behind this one in its list.
    #[inline]
    pub(crate) fn after(&self, place: u32) -> Option<u32> {
        let next = self.slots[place as usize].next;
        (next != NOBODY).then_some(next)
    }

    /// Cuts the next frame off an item, which `number` will be; the second value says whether it was the last one.
    #[inline]
    pub(crate) fn cut(&mut self, place: u32, number: u32) -> Option<(Frame, bool)> {
        let slot = &mut self.slots[place as usize];
        let transmit = slot.transmit.as_ref()?;
        let len = transmit.stride.min(transmit.len - slot.cut);
        let start = transmit.buffer.address().as_ptr().expose_provenance() as u64;
        let address = start + u64::from(transmit.offset) + u64::from(slot.cut);
        let frame = Frame { address, len, shard: transmit.shard, lane: slot.lane };
        slot.cut += len;
        slot.last = number;
        Some((frame, slot.cut >= transmit.len))
    }

    /// Bytes of an item whose frames were posted.
    #[inline]
    pub(crate) fn is_cut(&self, place: u32) -> u32 {
        self.slots[place as usize].cut
    }

    /// The first pending item has all its frames posted.
    #[inline]
    pub(crate) fn posted(&mut self, pending: &mut List, posted: &mut List) {
        if let Some(place) = self.detach(pending) {
            self.append(posted, place);
        }
    }

    /// The first pending item will not be posted to its end: it ends with what of it was, up to this number.
    pub(crate) fn break_off(&mut self, pending: &mut List, posted: &mut List, last: u32, error: Reason) {
        if let Some(place) = self.detach(pending) {
            let slot = &mut self.slots[place as usize];
            slot.last = last;
            slot.error.get_or_insert(error);
            self.append(posted, place);
        }
    }

    /// Marks the item that has this number; its frames before and behind it count no more.
    pub(crate) fn mark(&mut self, posted: &List, number: u32, error: Reason) {
        let mut at = posted.head();
        while let Some(place) = at {
            if !is_before(self.slots[place as usize].last, number) {
                self.slots[place as usize].error.get_or_insert(error);
                return;
            }
            at = self.after(place);
        }
    }

    /// Takes the first item if its last number is not behind `number`.
    #[inline]
    pub(crate) fn take_up_to(&mut self, posted: &mut List, number: u32) -> Option<(Completion, u16)> {
        let place = posted.head()?;
        if is_before(number, self.slots[place as usize].last) {
            return None;
        }
        self.take(posted)
    }

    /// Takes the first item.
    #[inline]
    pub(crate) fn take(&mut self, list: &mut List) -> Option<(Completion, u16)> {
        let place = self.detach(list)?;
        let slot = &mut self.slots[place as usize];
        let transmit = slot.transmit.take()?;
        self.free.push(place);
        Some((Completion { token: transmit.token, buffer: transmit.buffer, error: slot.error }, slot.lane))
    }
}

/// Whether a sequence number comes before another; at most a queue's depth is between two that are compared.
#[inline]
pub(crate) const fn is_before(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) > u32::MAX / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::ptr::NonNull;
    use tachyon_driver_api::Buffer;
    use tachyon_wire::Endpoint;

    fn transmit(token: u32, len: u32, stride: u32) -> Transmit {
        let bytes = NonNull::from(Box::leak(vec![0_u8; 4_096].into_boxed_slice())).cast();
        // SAFETY: leaked, so valid for ever, and nobody else has it.
        let buffer = unsafe { Buffer::from_raw(bytes, 4_096, token) };
        Transmit { buffer, offset: 64, len, stride, shard: 5, destination: Endpoint::NONE, token }
    }

    #[test]
    fn a_completion_ends_everything_up_to_its_number() {
        let mut flight = Flight::new(4);
        let (mut pending, mut posted) = (List::EMPTY, List::EMPTY);
        for (token, len) in [(1, 64), (2, 150), (3, 64)] {
            flight.add(&mut pending, transmit(token, len, 64), 0);
        }
        // Numbers wrap while they are in flight.
        let mut number = u32::MAX - 2;
        let mut lens = Vec::new();
        while let Some(place) = pending.head() {
            let (frame, last) = flight.cut(place, number).unwrap();
            lens.push(frame.len);
            number = number.wrapping_add(1);
            if last {
                flight.posted(&mut pending, &mut posted);
            }
        }
        assert_eq!(lens, [64, 64, 64, 22, 64]);
        assert!(flight.take_up_to(&mut posted, u32::MAX - 3).is_none());
        let token = |taken: Option<(Completion, u16)>| taken.map(|(completion, _)| completion.token);
        assert_eq!(token(flight.take_up_to(&mut posted, u32::MAX)), Some(1));
        assert_eq!(token(flight.take_up_to(&mut posted, u32::MAX)), None, "its last frame is number 0");
        assert_eq!(token(flight.take_up_to(&mut posted, 1)), Some(2));
        assert_eq!(token(flight.take_up_to(&mut posted, 1)), Some(3));
        assert_eq!((flight.room(), flight.items()), (4, 0));
    }

    #[test]
    fn an_item_that_fails_in_its_middle_fails_as_a_whole() {
        let mut flight = Flight::new(2);
        let (mut pending, mut posted) = (List::EMPTY, List::EMPTY);
        flight.add(&mut pending, transmit(1, 192, 64), 0);
        let place = pending.head().unwrap();
        flight.cut(place, 0);
        flight.cut(place, 1);
        flight.break_off(&mut pending, &mut posted, 1, Reason::TxTimeout);
        flight.mark(&posted, 0, Reason::TxQpReset);
        assert!(flight.take_up_to(&mut posted, 0).is_none(), "the device still has its second frame");
        let (completion, _) = flight.take_up_to(&mut posted, 1).unwrap();
        assert_eq!(completion.error, Some(Reason::TxTimeout), "the first cause stays");
    }
}
