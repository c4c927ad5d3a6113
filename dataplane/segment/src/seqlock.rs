//! A sequence lock over words: one writer that never waits, any number of readers that see a whole publication or know
//! that they did not.
//!
//! The writer makes the sequence odd, stores the words, and makes it even again. A reader that finds the same even number
//! before and after has read one publication. The words are relaxed atomics, so a race is a retry and never undefined;
//! the two fences on each side are what keeps the words between the two looks at the sequence (Boehm, "Can seqlocks get
//! along with programming language memory models?", MSPC 2012). The reader's loads are relaxed and followed by a fence,
//! because its mapping is read-only and only relaxed loads are promised not to write.

use crate::sync::{AtomicU64, Ordering, fence};

/// One sequence and the words it guards.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a> {
    /// Even: at rest. Odd: being written, or its writer died while writing.
    pub(crate) sequence: &'a AtomicU64,
    /// What is published.
    pub(crate) words: &'a [AtomicU64],
}

impl Block<'_> {
    /// Publishes `values`; only the block's one writer calls this. A predecessor that died half-way left the sequence
    /// odd; stepping from there to the next odd number keeps every reader of the half-written words out.
    #[inline]
    pub(crate) fn publish(&self, values: &[u64]) {
        let odd = (self.sequence.load(Ordering::Relaxed) + 1) | 1;
        self.sequence.store(odd, Ordering::Relaxed);
        fence(Ordering::Release);
        for (word, value) in self.words.iter().zip(values) {
            word.store(*value, Ordering::Relaxed);
        }
        self.sequence.store(odd + 1, Ordering::Release);
    }

    /// Copies the words into `values`; false if they belong to more than one publication.
    #[inline]
    #[must_use]
    pub(crate) fn try_read(&self, values: &mut [u64]) -> bool {
        let before = self.sequence.load(Ordering::Relaxed);
        if before % 2 == 1 {
            return false;
        }
        fence(Ordering::Acquire);
        for (value, word) in values.iter_mut().zip(self.words) {
            *value = word.load(Ordering::Relaxed);
        }
        fence(Ordering::Acquire);
        self.sequence.load(Ordering::Relaxed) == before
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_writer_that_died_while_writing_leaves_a_block_that_the_next_one_heals() {
        let sequence = AtomicU64::new(7);
        let words = [AtomicU64::new(1), AtomicU64::new(99)];
        let block = Block { sequence: &sequence, words: &words };
        let mut seen = [0; 2];
        assert!(!block.try_read(&mut seen), "odd means half-written");
        block.publish(&[5, 6]);
        assert_eq!(sequence.load(Ordering::Relaxed), 10, "never 8, which a reader may have seen before the crash");
        assert!(block.try_read(&mut seen));
        assert_eq!(seen, [5, 6]);
    }
}

/// Run with `RUSTFLAGS="--cfg loom" cargo test -p tachyon-segment --release seqlock`.
#[cfg(all(test, loom))]
mod model {
    use super::*;
    use loom::{sync::Arc, thread};
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::AtomicUsize as Plain; // one that the model does not look at

    struct Shared {
        sequence: AtomicU64,
        words: [AtomicU64; 2],
    }

    impl Shared {
        fn new() -> Arc<Self> {
            Arc::new(Self { sequence: AtomicU64::new(0), words: [AtomicU64::new(0), AtomicU64::new(0)] })
        }
        fn block(&self) -> Block<'_> {
            Block { sequence: &self.sequence, words: &self.words }
        }
    }

    /// Explores all interleavings of two publications with two looks; returns how many there were and how many of the
    /// looks succeeded.
    fn explore(publish: fn(&Block<'_>, &[u64]), look: fn(&Block<'_>, &mut [u64]) -> bool) -> (usize, usize) {
        let (runs, whole) = (std::sync::Arc::new(Plain::new(0)), std::sync::Arc::new(Plain::new(0)));
        let (runs_inside, whole_inside) = (runs.clone(), whole.clone());
        loom::model(move || {
            runs_inside.fetch_add(1, Ordering::Relaxed);
            let shared = Shared::new();
            let theirs = shared.clone();
            let writer = thread::spawn(move || {
                publish(&theirs.block(), &[1, 1]);
                publish(&theirs.block(), &[2, 2]);
            });
            for _ in 0..2 {
                let mut seen = [9, 9];
                if look(&shared.block(), &mut seen) {
                    whole_inside.fetch_add(1, Ordering::Relaxed);
                    assert_eq!(seen[0], seen[1], "a torn publication passed as whole");
                }
                thread::yield_now();
            }
            writer.join().unwrap();
        });
        (runs.load(Ordering::Relaxed), whole.load(Ordering::Relaxed))
    }

    fn look(block: &Block<'_>, values: &mut [u64]) -> bool {
        block.try_read(values)
    }

    fn publish(block: &Block<'_>, values: &[u64]) {
        block.publish(values);
    }

    /// The writer's mistake: nothing keeps the words behind the odd sequence.
    fn publish_without_release_fence(block: &Block<'_>, values: &[u64]) {
        let odd = (block.sequence.load(Ordering::Relaxed) + 1) | 1;
        block.sequence.store(odd, Ordering::Relaxed);
        for (word, value) in block.words.iter().zip(values) {
            word.store(*value, Ordering::Relaxed);
        }
        block.sequence.store(odd + 1, Ordering::Release);
    }

    /// The reader's mistake: nothing keeps the words before the second look.
    fn look_without_second_fence(block: &Block<'_>, values: &mut [u64]) -> bool {
        let before = block.sequence.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        for (value, word) in values.iter_mut().zip(block.words) {
            *value = word.load(Ordering::Relaxed);
        }
        before % 2 == 0 && block.sequence.load(Ordering::Relaxed) == before
    }

    #[test]
    fn readers_see_whole_publications_in_every_interleaving() {
        let (runs, whole) = explore(publish, look);
        println!("explored {runs} interleavings, {whole} looks succeeded");
        assert!(runs > 100 && whole > 100, "too few to mean anything");
    }

    #[test]
    fn the_model_finds_a_missing_release_fence() {
        let found = catch_unwind(AssertUnwindSafe(|| explore(publish_without_release_fence, look)));
        assert!(found.is_err(), "a writer without its fence went unnoticed, so the model proves nothing");
    }

    #[test]
    fn the_model_finds_a_missing_acquire_fence() {
        let found = catch_unwind(AssertUnwindSafe(|| explore(publish, look_without_second_fence)));
        assert!(found.is_err(), "a reader without its fence went unnoticed, so the model proves nothing");
    }
}
