//! Where in a ring's memory a record lies: arithmetic and nothing else, the same for both sides.

use tachyon_wire::tap::{KIND_SKIP, KIND_TURN};

/// A ring's memory. Positions are multiples of 8, and no position is more than `bytes` ahead of what is still needed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Bytes of the memory, a power of two.
    pub(super) bytes: u64,
}

impl Shape {
    /// Where a position lies, in bytes from the memory's start.
    #[inline]
    pub(super) const fn offset(self, position: u64) -> u64 {
        position & (self.bytes - 1)
    }

    /// Bytes from a position to the memory's end; never 0.
    #[inline]
    pub(super) const fn to_end(self, position: u64) -> u64 {
        self.bytes - self.offset(position)
    }

    /// Bytes that are free: what lies behind `head` up to what still lies at `stable`.
    #[inline]
    pub(super) const fn free(self, head: u64, stable: u64) -> u64 {
        self.bytes - (head - stable)
    }

    /// Bytes that the next record may have. At least half of the memory while nothing in it is needed.
    #[inline]
    pub(super) fn room(self, head: u64, stable: u64) -> u64 {
        let (free, tail) = (self.free(head, stable), self.to_end(head));
        free.min(tail).max(free.saturating_sub(tail))
    }

    /// The position at which a record of `bytes` starts: `head`, or the memory's start where it does not fit before the end.
    #[inline]
    pub(super) fn start(self, head: u64, stable: u64, bytes: u64) -> Option<u64> {
        let (free, tail) = (self.free(head, stable), self.to_end(head));
        if bytes <= free.min(tail) {
            return Some(head);
        }
        (bytes <= free.saturating_sub(tail)).then_some(head + tail)
    }
}

/// What the first 8 bytes of a record say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// A record of so many bytes.
    Record(u64),
    /// So many bytes of nothing, up to the memory's end.
    Skip(u64),
    /// Neither.
    Unknown,
}

impl Head {
    /// Reads the word in front of a record: a length of 32 bits, then a kind of 8.
    #[inline]
    pub(super) const fn read(word: u64) -> Self {
        let [a, b, c, d, kind, ..] = word.to_ne_bytes();
        let length = u32::from_le_bytes([a, b, c, d]) as u64;
        match kind {
            KIND_TURN => Self::Record(length),
            KIND_SKIP => Self::Skip(length),
            _ => Self::Unknown,
        }
    }

    /// The word of a record with another length, its kind and flags as they were.
    #[inline]
    pub(super) const fn with_length(word: u64, bytes: u64) -> u64 {
        let [a, b, c, d, ..] = bytes.to_le_bytes();
        let [.., kind, flags, pressure, refuses] = word.to_ne_bytes();
        u64::from_ne_bytes([a, b, c, d, kind, flags, pressure, refuses])
    }

    /// The word of a [`Head::Skip`].
    #[inline]
    pub(super) const fn skip(bytes: u64) -> u64 {
        // A ring has far less than 4 GiB, and from a position to its end it is no more.
        let [a, b, c, d, ..] = bytes.to_le_bytes();
        u64::from_ne_bytes([a, b, c, d, KIND_SKIP, 0, 0, 0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { bytes: 64 };

    #[test]
    fn a_record_lies_in_one_piece_and_never_on_what_is_needed() {
        for stable in (0..128).step_by(8) {
            for used in (0..=64).step_by(8) {
                let head = stable + used;
                let room = SHAPE.room(head, stable);
                for bytes in (8..=64).step_by(8) {
                    let start = SHAPE.start(head, stable, bytes);
                    assert_eq!(start.is_some(), bytes <= room, "{bytes} at {head}, {stable} needed");
                    let Some(start) = start else { continue };
                    assert!(start == head || SHAPE.offset(start) == 0, "only the memory's end is skipped");
                    assert!(bytes <= SHAPE.to_end(start), "in one piece");
                    assert!(start + bytes - stable <= 64, "nothing that is needed is written over");
                }
            }
        }
    }

    #[test]
    fn half_of_the_memory_is_always_there_when_nothing_is_needed() {
        assert_eq!((0..64).step_by(8).map(|head| SHAPE.room(head, head)).min(), Some(32));
    }

    #[test]
    fn a_skip_reads_as_what_was_written() {
        for bytes in [8, 1 << 30] {
            assert_eq!(Head::read(Head::skip(bytes)), Head::Skip(bytes));
        }
        assert_eq!(Head::read(0), Head::Unknown);
    }
}
