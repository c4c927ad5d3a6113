//! A bounded ring with one producer and one consumer, which publish and release whole batches.
//!
//! Each side keeps its own index and a copy of the other's that it renews only when it runs out, so a batch costs one
//! store, and the line that the other side writes is read rarely.

use crate::sync::{Arc, AtomicUsize, Ordering, UnsafeCell};
use core::{fmt, mem::MaybeUninit};

/// An index on a line of its own. 128 bytes: x86-64 prefetches lines in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Padded(AtomicUsize);

struct Ring<T> {
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
    /// Items ever taken out; written by the consumer.
    head: Padded,
    /// Items ever put in; written by the producer.
    tail: Padded,
    /// How head and tail are stored. Fields under loom alone, so that a test can prove that loom notices a wrong one.
    #[cfg(loom)]
    head_order: Ordering,
    #[cfg(loom)]
    tail_order: Ordering,
}

// SAFETY: a slot is reached by the producer while it is outside head..tail and by the consumer while it is inside, and
// the indices that say so are stored with Release after the last access and loaded with Acquire before the first. So a
// `T` only ever moves from one thread to another.
unsafe impl<T: Send> Sync for Ring<T> {}

impl<T> Ring<T> {
    fn slot(&self, index: usize) -> &UnsafeCell<MaybeUninit<T>> {
        // The length is a power of two, so this wraps; indices run on and wrap at the word.
        &self.slots[index & (self.slots.len() - 1)]
    }

    #[cfg(not(loom))]
    const fn orders(&self) -> (Ordering, Ordering) {
        (Ordering::Release, Ordering::Release)
    }

    #[cfg(loom)]
    const fn orders(&self) -> (Ordering, Ordering) {
        (self.head_order, self.tail_order)
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        let tail = self.tail.0.load(Ordering::Acquire);
        let mut head = self.head.0.load(Ordering::Acquire);
        while head != tail {
            // SAFETY: both ends are gone and have stored their indices (see their `drop`), so head..tail is what was put
            // in and not taken out.
            self.slot(head).with_mut(|slot| unsafe { (*slot).assume_init_drop() });
            head = head.wrapping_add(1);
        }
    }
}

/// The end that puts items in.
pub(crate) struct Producer<T> {
    ring: Arc<Ring<T>>,
    tail: usize,
    head_seen: usize,
}

/// The end that takes items out.
pub(crate) struct Consumer<T> {
    ring: Arc<Ring<T>>,
    head: usize,
    tail_seen: usize,
}

/// Makes a ring with room for `capacity` items.
///
/// # Panics
/// `capacity` is no power of two.
pub(crate) fn ring<T>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    ends(Ring {
        slots: slots(capacity),
        head: Padded(AtomicUsize::new(0)),
        tail: Padded(AtomicUsize::new(0)),
        #[cfg(loom)]
        head_order: Ordering::Release,
        #[cfg(loom)]
        tail_order: Ordering::Release,
    })
}

fn slots<T>(capacity: usize) -> Box<[UnsafeCell<MaybeUninit<T>>]> {
    assert!(capacity.is_power_of_two(), "a ring of {capacity} items: must be a power of two");
    (0..capacity).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect()
}

fn ends<T>(ring: Ring<T>) -> (Producer<T>, Consumer<T>) {
    let ring = Arc::new(ring);
    (Producer { ring: ring.clone(), tail: 0, head_seen: 0 }, Consumer { ring, head: 0, tail_seen: 0 })
}

impl<T> Producer<T> {
    /// Puts an item in, unseen by the consumer until [`Producer::publish`]; gives it back if there is no room.
    #[inline]
    pub(crate) fn stage(&mut self, item: T) -> Result<(), T> {
        if self.tail.wrapping_sub(self.head_seen) == self.ring.slots.len() {
            self.head_seen = self.ring.head.0.load(Ordering::Acquire);
            if self.tail.wrapping_sub(self.head_seen) == self.ring.slots.len() {
                return Err(item);
            }
        }
        // SAFETY: `tail` is less than the length ahead of a head that the consumer stored, so the consumer is done with
        // this slot, and it does not look at it before `tail` is published.
        self.ring.slot(self.tail).with_mut(|slot| unsafe { (*slot).write(item) });
        self.tail = self.tail.wrapping_add(1);
        Ok(())
    }

    /// Shows the consumer everything that was staged.
    #[inline]
    pub(crate) fn publish(&mut self) {
        self.ring.tail.0.store(self.tail, self.ring.orders().1);
    }
}

impl<T> Consumer<T> {
    /// Items that can be taken now.
    #[inline]
    pub(crate) fn len(&mut self) -> usize {
        self.tail_seen = self.ring.tail.0.load(Ordering::Acquire);
        self.tail_seen.wrapping_sub(self.head)
    }

    /// Takes the oldest item out; its room is not the producer's before [`Consumer::release`].
    #[inline]
    pub(crate) fn take(&mut self) -> Option<T> {
        if self.head == self.tail_seen && self.len() == 0 {
            return None;
        }
        // SAFETY: `head` is behind a tail that the producer stored, so the slot holds an item that the producer is done
        // with, and `head` moves on, so it is read once.
        let item = self.ring.slot(self.head).with(|slot| unsafe { (*slot).assume_init_read() });
        self.head = self.head.wrapping_add(1);
        Some(item)
    }

    /// Gives the producer the room of everything that was taken.
    #[inline]
    pub(crate) fn release(&mut self) {
        self.ring.head.0.store(self.head, self.ring.orders().0);
    }
}

impl<T> Drop for Producer<T> {
    fn drop(&mut self) {
        self.publish();
    }
}

impl<T> Drop for Consumer<T> {
    fn drop(&mut self) {
        self.release();
    }
}

impl<T> fmt::Debug for Producer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Producer({} put in)", self.tail)
    }
}

impl<T> fmt::Debug for Consumer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Consumer({} taken out)", self.head)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::{rc::Rc, thread};

    #[test]
    fn gives_items_back_when_full_and_goes_on_after_release() {
        let (mut producer, mut consumer) = ring(2);
        assert_eq!((producer.stage(1), producer.stage(2), producer.stage(3)), (Ok(()), Ok(()), Err(3)));
        assert_eq!(consumer.take(), None, "nothing is seen before it is published");
        producer.publish();
        assert_eq!((consumer.len(), consumer.take()), (2, Some(1)));
        assert_eq!(producer.stage(3), Err(3), "room is not there before it is released");
        consumer.release();
        assert_eq!(producer.stage(3), Ok(()));
        producer.publish();
        assert_eq!((consumer.take(), consumer.take(), consumer.take()), (Some(2), Some(3), None));
    }

    #[test]
    #[should_panic(expected = "power of two")]
    fn refuses_a_capacity_that_is_no_power_of_two() {
        let _ = ring::<u8>(3);
    }

    #[test]
    fn drops_what_was_put_in_and_not_taken_out_once_each() {
        let counted = Rc::new(());
        let (mut producer, mut consumer) = ring(8);
        for _ in 0..6 {
            assert!(producer.stage(counted.clone()).is_ok());
        }
        producer.publish();
        for _ in 0..2 {
            assert!(consumer.take().is_some());
        }
        assert_eq!(Rc::strong_count(&counted), 5);
        drop((producer, consumer));
        assert_eq!(Rc::strong_count(&counted), 1);
    }

    #[test]
    fn hands_a_million_items_in_order_to_another_thread() {
        const ITEMS: u64 = 1_000_000;
        let (mut producer, mut consumer) = ring(64);
        let sender = thread::spawn(move || {
            for item in 0..ITEMS {
                while producer.stage(item).is_err() {
                    producer.publish();
                    thread::yield_now();
                }
                if item % 7 == 0 {
                    producer.publish();
                }
            }
            producer.publish();
        });
        let mut expected = 0;
        while expected < ITEMS {
            match consumer.take() {
                Some(item) => {
                    assert_eq!(item, expected);
                    expected += 1;
                }
                None => thread::yield_now(),
            }
            if expected % 5 == 0 {
                consumer.release();
            }
            if consumer.len() == 0 {
                consumer.release();
            }
        }
        sender.join().unwrap();
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::thread;
    use std::sync::{Arc, atomic::AtomicUsize as Count};

    const ITEMS: usize = 3;

    /// Three boxed items through a ring of two, so that it wraps, fills and runs empty. Returns the interleavings seen.
    fn explore(head_order: Ordering, tail_order: Ordering) -> usize {
        let explored = Arc::new(Count::new(0));
        let counted = explored.clone();
        let mut model = loom::model::Builder::new();
        // Three forced switches are enough for any two of the four accesses to swap; without a bound it takes hours.
        model.preemption_bound = Some(3);
        model.check(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            let (head, tail) = (Padded(AtomicUsize::new(0)), Padded(AtomicUsize::new(0)));
            let (mut producer, mut consumer) = ends(Ring { slots: slots(2), head, tail, head_order, tail_order });
            let sender = thread::spawn(move || {
                for item in 0..ITEMS {
                    let mut staged = Box::new(item);
                    while let Err(back) = producer.stage(staged) {
                        staged = back;
                        thread::yield_now();
                    }
                    producer.publish();
                }
            });
            for expected in 0..ITEMS {
                // Without yielding first, loom 0.7.2 sees one interleaving only and finds nothing.
                thread::yield_now();
                let item = loop {
                    match consumer.take() {
                        Some(item) => break item,
                        None => thread::yield_now(),
                    }
                };
                assert_eq!(*item, expected);
                consumer.release();
            }
            sender.join().expect("the sender ends");
        });
        explored.load(Ordering::Relaxed)
    }

    #[test]
    fn loom_finds_no_race_in_the_ring() {
        let explored = explore(Ordering::Release, Ordering::Release);
        eprintln!("loom explored {explored} interleavings");
        assert!(explored > 100, "{explored} interleavings prove nothing");
    }

    /// The same with a seeded bug, because a model that cannot fail proves nothing.
    #[test]
    #[should_panic(expected = "Causality violation")]
    fn loom_finds_the_race_when_the_tail_is_stored_relaxed() {
        explore(Ordering::Release, Ordering::Relaxed);
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn loom_finds_the_race_when_the_head_is_stored_relaxed() {
        explore(Ordering::Relaxed, Ordering::Release);
    }
}
