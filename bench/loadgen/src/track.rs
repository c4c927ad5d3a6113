//! What a stream of numbered frames says about itself: which were seen, which are missing, which came twice.

/// Frames behind the newest one that are told apart, a power of two: four times the node's own window of 1,024, because a
/// subscriber reads several sockets in turn and must not call a frame lost that is only late.
pub const WINDOW: u32 = 4096;
const WORDS: usize = (WINDOW / 64) as usize;

/// One session's frames of one shard under one epoch.
#[derive(Clone, Debug)]
pub struct Track {
    highest: u32,
    seen: u64,
    duplicates: u64,
    window: [u64; WORDS],
}

/// What became of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Seen for the first time.
    New,
    /// Seen before.
    Duplicate,
    /// Older than the window: cannot be told from a duplicate, so it is counted as neither.
    TooLate,
}

impl Default for Track {
    fn default() -> Self {
        Self { highest: 0, seen: 0, duplicates: 0, window: [0; WORDS] }
    }
}

impl Track {
    /// Counts a frame id, which is not 0.
    pub fn arrive(&mut self, frame_id: u32) -> Arrival {
        if frame_id > self.highest {
            self.advance(frame_id);
        } else if self.highest - frame_id >= WINDOW {
            return Arrival::TooLate;
        }
        let (word, bit) = Self::place(frame_id);
        if self.window[word] & bit != 0 {
            self.duplicates += 1;
            return Arrival::Duplicate;
        }
        self.window[word] |= bit;
        self.seen += 1;
        Arrival::New
    }

    /// Clears the places of the ids between the old newest and the new one.
    fn advance(&mut self, frame_id: u32) {
        if frame_id - self.highest >= WINDOW {
            self.window = [0; WORDS];
        } else {
            for id in self.highest + 1..=frame_id {
                let (word, bit) = Self::place(id);
                self.window[word] &= !bit;
            }
        }
        self.highest = frame_id;
    }

    const fn place(frame_id: u32) -> (usize, u64) {
        let position = frame_id % WINDOW;
        ((position / 64) as usize, 1 << (position % 64))
    }

    /// Ids from 1 to the newest that were never seen. What was sent after the newest one cannot be known here.
    #[must_use]
    pub fn gaps(&self) -> u64 {
        u64::from(self.highest) - self.seen
    }

    /// Frames that came again.
    #[must_use]
    pub const fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// The newest id.
    #[must_use]
    pub const fn highest(&self) -> u32 {
        self.highest
    }
}

#[cfg(test)]
mod tests {
    use super::{Arrival, Track, WINDOW};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn frames_in_order_leave_no_gaps() {
        let mut track = Track::default();
        for id in 1..=100_000 {
            assert_eq!(track.arrive(id), Arrival::New);
        }
        assert_eq!((track.gaps(), track.duplicates(), track.highest()), (0, 0, 100_000));
    }

    #[test]
    fn a_first_frame_that_is_not_the_first_counts_those_before_it() {
        let mut track = Track::default();
        track.arrive(5);
        assert_eq!(track.gaps(), 4);
    }

    #[test]
    fn a_late_frame_closes_its_gap_and_a_repeat_does_not_close_two() {
        let mut track = Track::default();
        for id in [1, 2, 5, 4, 4] {
            track.arrive(id);
        }
        assert_eq!((track.gaps(), track.duplicates()), (1, 1));
    }

    #[test]
    fn a_frame_older_than_the_window_is_no_duplicate() {
        let mut track = Track::default();
        track.arrive(1);
        track.arrive(WINDOW + 2);
        assert_eq!(track.arrive(2), Arrival::TooLate);
        assert_eq!(track.gaps(), u64::from(WINDOW));
    }

    proptest! {
        #[test]
        fn agrees_with_a_set_of_all_ids(ids in proptest::collection::vec(1u32..9000, 1..2000)) {
            let mut track = Track::default();
            let (mut known, mut duplicates, mut highest) = (BTreeSet::new(), 0, 0);
            for id in ids {
                if id <= highest && highest - id >= WINDOW {
                    prop_assert_eq!(track.arrive(id), Arrival::TooLate);
                    return Ok(()); // From here on a set knows more than a window can.
                }
                highest = highest.max(id);
                let expected = if known.insert(id) { Arrival::New } else { duplicates += 1; Arrival::Duplicate };
                prop_assert_eq!(track.arrive(id), expected);
                prop_assert_eq!(track.gaps(), u64::from(highest) - known.len() as u64);
                prop_assert_eq!(track.duplicates(), duplicates);
            }
        }
    }
}
