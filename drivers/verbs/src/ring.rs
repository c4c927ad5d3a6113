//! Messages beside the bytes, and the ring in a subscriber's memory.
//!
//! Every send carries an immediate of 32 bits. Of a plain send its high half says what it is, its low half is the value:
//!
//! | high | low | what it is |
//! |---:|---|---|
//! | 0 | shard | a frame |
//! | 1 | count | credits: so many slots of the ring were released since the connection began, modulo 2¹⁶ |
//! | 2 | 0 | nothing: whoever waits for credits for long asks the peer's device whether it is there |
//!
//! Of a write into a ring the high half is the slot and the low half the shard. The length of the frame is the length of
//! the write.
//!
//! A ring is `slots` slots of `slot_bytes` each, a power of two and at most 32,768. The writer fills them in order, slot
//! `n mod slots` with its n-th frame, and has at most `slots` frames in it that were not released. The reader copies a frame
//! out, releases its slot, and tells the total after each quarter of the ring. What it has not told is less than a quarter,
//! so a writer whose frames were read always has room again, and a quiet ring costs no packets. The total is cumulative, so that
//! a reader that is late says everything with one send. Neither side believes the other: a slot out of order or a frame longer than a slot is refused by the reader, and a total that releases what
//! was never written is refused by the writer.

use crate::device::Secret;

/// Most slots of a ring, so that a total modulo 2^16 is never ambiguous.
pub const SLOTS_MAX: u32 = 1 << 15;

/// What an immediate of a plain send says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// A frame of this shard.
    Frame(u16),
    /// Slots released in all.
    Credits(u16),
    /// Nothing; that it is acknowledged is what matters.
    Probe,
}

impl Said {
    #[inline]
    pub(crate) const fn encode(self) -> u32 {
        match self {
            Self::Frame(shard) => shard as u32,
            Self::Credits(total) => 1 << 16 | total as u32,
            Self::Probe => 2 << 16,
        }
    }

    #[inline]
    pub(crate) const fn decode(immediate: u32) -> Option<Self> {
        let low = immediate as u16;
        match immediate >> 16 {
            0 => Some(Self::Frame(low)),
            1 => Some(Self::Credits(low)),
            2 if low == 0 => Some(Self::Probe),
            _ => None,
        }
    }
}

/// The writer's view of a peer's ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writer {
    pub(crate) rkey: Secret<u32>,
    address: u64,
    slots: u32,
    slot_bytes: u32,
    written: u32,
    released: u32,
}

impl Writer {
    pub(crate) const fn new(rkey: Secret<u32>, address: u64, slots: u32, slot_bytes: u32) -> Self {
        Self { rkey, address, slots, slot_bytes, written: 0, released: 0 }
    }

    /// Frames that may be written now.
    #[inline]
    pub(crate) const fn credits(&self) -> u32 {
        self.slots - self.written.wrapping_sub(self.released)
    }

    #[inline]
    pub(crate) const fn slot_bytes(&self) -> u32 {
        self.slot_bytes
    }

    /// The immediate and the address for the next frame. The caller looked at [`Writer::credits`].
    #[inline]
    pub(crate) const fn next(&mut self, shard: u16) -> (u32, u64) {
        let slot = self.written & (self.slots - 1);
        self.written = self.written.wrapping_add(1);
        (slot << 16 | shard as u32, self.address + slot as u64 * self.slot_bytes as u64)
    }

    /// The peer says what it released; false if that cannot be.
    pub(crate) const fn release(&mut self, total: u16) -> bool {
        let more = total.wrapping_sub(self.released as u16) as u32;
        if more > self.written.wrapping_sub(self.released) {
            return false;
        }
        self.released = self.released.wrapping_add(more);
        true
    }
}

/// The reader's view of its own ring. The memory is only ever named by address, because the peer may write there any time.
#[derive(Debug)]
pub(crate) struct Reader<R> {
    address: u64,
    slots: u32,
    slot_bytes: u32,
    received: u32,
    told: u32,
    pub(crate) keep: R,
}

impl<R> Reader<R> {
    pub(crate) const fn new(address: u64, slots: u32, slot_bytes: u32, keep: R) -> Self {
        Self { address, slots, slot_bytes, received: 0, told: 0, keep }
    }

    /// The address of a frame that was written, if its slot is the next one and it fits.
    #[inline]
    pub(crate) const fn take(&mut self, slot: u32, len: u32) -> Option<u64> {
        if slot != self.received & (self.slots - 1) || len > self.slot_bytes {
            return None;
        }
        self.received = self.received.wrapping_add(1);
        Some(self.address + slot as u64 * self.slot_bytes as u64)
    }

    /// The total to tell, if it is time to: a quarter is free.
    #[inline]
    pub(crate) const fn due(&self) -> Option<u16> {
        let free = self.received.wrapping_sub(self.told);
        let quarter = if self.slots < 4 { 1 } else { self.slots / 4 };
        if free >= quarter { Some(self.received as u16) } else { None }
    }

    #[inline]
    pub(crate) const fn tell(&mut self) {
        self.told = self.received;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_understood() {
        for said in [Said::Frame(0), Said::Frame(u16::MAX), Said::Credits(0), Said::Credits(u16::MAX), Said::Probe] {
            assert_eq!(Said::decode(said.encode()), Some(said));
        }
        assert_eq!((Said::decode(3 << 16), Said::decode(2 << 16 | 1)), (None, None));
    }

    #[test]
    fn a_ring_goes_round_many_times_and_is_never_overrun() {
        let (mut writer, mut reader) = (Writer::new(Secret(1), 4_096, 8, 128), Reader::new(4_096, 8, 128, ()));
        let mut inside = std::collections::VecDeque::new();
        let mut state = 1_u64;
        for _ in 0..300_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            if state >> 63 == 0 && writer.credits() > 0 {
                let (immediate, address) = writer.next(3);
                inside.push_back((immediate >> 16, address));
                assert!(inside.len() <= 8, "more frames than slots");
            } else if let Some((slot, address)) = inside.pop_front() {
                assert_eq!(reader.take(slot, 128), Some(address));
            }
            if let Some(total) = reader.due() {
                reader.tell();
                assert!(writer.release(total));
            }
            assert!(!inside.is_empty() || writer.credits() > 6, "what was not told is less than a quarter");
        }
    }

    #[test]
    fn neither_side_believes_nonsense() {
        let (mut writer, mut reader) = (Writer::new(Secret(1), 0, 4, 64), Reader::new(0, 4, 64, ()));
        writer.next(0);
        assert!(!writer.release(2), "two were released and one was written");
        assert_eq!(writer.credits(), 3);
        assert!(writer.release(1) && writer.release(1), "to hear the same again does no harm");
        assert_eq!(reader.take(1, 64), None, "slot 0 is next");
        assert_eq!(reader.take(0, 65), None, "a slot has 64 bytes");
        assert_eq!(reader.take(0, 64), Some(0));
    }
}
