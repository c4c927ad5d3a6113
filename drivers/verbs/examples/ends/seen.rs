//! Which frames of a stream came, for programs that number them.

use tachyon_driver_api::Buffer;

/// The number that a frame begins with.
pub(crate) fn number(buffer: &Buffer, offset: u32) -> u64 {
    let bytes = buffer.bytes()[offset as usize..].first_chunk();
    bytes.map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes))
}

/// Numbers kept: more than ever are on their way, delayed ones included.
const SEEN: usize = 1 << 16;

/// Which of the last frames of a stream have come: a bit for each, so that one that comes twice is not taken for two.
#[derive(Debug)]
pub(crate) struct Seen {
    /// One more than the highest number.
    next: u64,
    bits: Box<[u64; SEEN / 64]>,
    /// Frames that came after one with a higher number: they were overtaken, or came twice.
    pub(crate) out_of_order: u64,
    /// Frames that came twice.
    pub(crate) repeated: u64,
}

impl Default for Seen {
    fn default() -> Self {
        Self { next: 0, bits: Box::new([0; SEEN / 64]), out_of_order: 0, repeated: 0 }
    }
}

impl Seen {
    pub(crate) fn note(&mut self, number: u64) {
        let place = |number: u64| {
            let at = usize::try_from(number % SEEN as u64).unwrap_or(0);
            (at / 64, 1_u64 << (at % 64))
        };
        self.out_of_order += u64::from(number < self.next);
        for skipped in self.next..number.saturating_add(1).min(self.next.saturating_add(SEEN as u64)) {
            let (word, bit) = place(skipped);
            self.bits[word] &= !bit; // it stood for an older one
        }
        let (word, bit) = place(number);
        self.repeated += u64::from(self.bits[word] & bit != 0);
        self.bits[word] |= bit;
        self.next = self.next.max(number.saturating_add(1));
    }
}
