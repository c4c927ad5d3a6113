//! A position in a ring that one process moves on and another looks at: bytes since the ring's start, which only rises.
//!
//! It goes both ways. A worker writes a record and publishes where it ends, so control sees nothing of a record or all of
//! it. Control reads records, publishes up to where it needs them no more, and only then the worker writes over them. The
//! load is relaxed and followed by a fence, as in the sequence lock, because the mapping of who looks is read-only.

use crate::sync::{AtomicU64, Ordering, fence};

/// One position.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Position<'a>(pub(crate) &'a AtomicU64);

impl Position<'_> {
    /// Moves it on; only the one who owns it calls this. Whatever was read or written before is so for whoever sees this.
    #[inline]
    pub(crate) fn publish(self, position: u64) {
        self.0.store(position, Ordering::Release);
    }

    /// Where it is; what its owner did before it published that has happened for the caller.
    #[inline]
    #[must_use]
    pub(crate) fn look(self) -> u64 {
        let position = self.0.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        position
    }
}

/// Run with `RUSTFLAGS="--cfg loom" cargo test -p tachyon-segment --release position`.
#[cfg(all(test, loom))]
mod model {
    use super::*;
    use loom::{cell::UnsafeCell, sync::Arc, thread};
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::AtomicUsize as Plain; // one that the model does not look at

    type Publish = fn(Position<'_>, u64);
    type Look = fn(Position<'_>) -> u64;

    /// Places of the ring, and the records that pass through it: one more, so that one place is written twice.
    const PLACES: u64 = 2;
    const RECORDS: u64 = 3;

    struct Ring {
        places: [UnsafeCell<u64>; 2],
        head: AtomicU64,
        stable: AtomicU64,
    }

    // SAFETY: the model's cells report every access that another thread's is not ordered against; that is what is tested.
    unsafe impl Sync for Ring {}

    fn place(ring: &Ring, position: u64) -> &UnsafeCell<u64> {
        &ring.places[usize::try_from(position % PLACES).unwrap()]
    }

    /// Explores all interleavings of a worker that records and a reader; returns how many there were.
    fn explore([publish_head, publish_stable]: [Publish; 2], [look_at_head, look_at_stable]: [Look; 2]) -> usize {
        let runs = std::sync::Arc::new(Plain::new(0));
        let runs_inside = runs.clone();
        loom::model(move || {
            runs_inside.fetch_add(1, Ordering::Relaxed);
            let ring = Arc::new(Ring {
                places: [UnsafeCell::new(0), UnsafeCell::new(0)],
                head: AtomicU64::new(0),
                stable: AtomicU64::new(0),
            });
            let theirs = ring.clone();
            let worker = thread::spawn(move || {
                for head in 0..RECORDS {
                    while head - look_at_stable(Position(&theirs.stable)) >= PLACES {
                        thread::yield_now();
                    }
                    // SAFETY: the reader gave the place back; if it did not, the model reports it.
                    place(&theirs, head).with_mut(|record| unsafe { *record = head + 100 });
                    publish_head(Position(&theirs.head), head + 1);
                }
            });
            for position in 0..RECORDS {
                while look_at_head(Position(&ring.head)) <= position {
                    thread::yield_now();
                }
                // SAFETY: the worker published the place; if it did not, the model reports it.
                let record = place(&ring, position).with(|record| unsafe { *record });
                assert_eq!(record, position + 100, "a record that is not the published one");
                publish_stable(Position(&ring.stable), position + 1);
            }
            worker.join().unwrap();
        });
        runs.load(Ordering::Relaxed)
    }

    fn publish(at: Position<'_>, position: u64) {
        at.publish(position);
    }

    fn look(at: Position<'_>) -> u64 {
        at.look()
    }

    /// The owner's mistake: what it did before may come after.
    fn publish_relaxed(at: Position<'_>, position: u64) {
        at.0.store(position, Ordering::Relaxed);
    }

    /// The other's mistake: what it does behind may come before.
    fn look_without_fence(at: Position<'_>) -> u64 {
        at.0.load(Ordering::Relaxed)
    }

    #[test]
    fn records_are_whole_and_never_overwritten_while_read_in_every_interleaving() {
        let runs = explore([publish; 2], [look; 2]);
        println!("explored {runs} interleavings");
        assert!(runs > 10, "too few to mean anything");
    }

    #[test]
    fn the_model_finds_each_mistake_of_ordering() {
        let right: ([Publish; 2], [Look; 2]) = ([publish; 2], [look; 2]);
        for (name, publishes, looks) in [
            ("records published without release", [publish_relaxed as Publish, publish], right.1),
            ("places given back without release", [publish, publish_relaxed], right.1),
            ("records looked at without a fence", right.0, [look_without_fence as Look, look]),
            ("places taken without a fence", right.0, [look, look_without_fence]),
        ] {
            let found = catch_unwind(AssertUnwindSafe(|| explore(publishes, looks)));
            assert!(found.is_err(), "{name}: unnoticed, so the model proves nothing");
        }
    }
}
