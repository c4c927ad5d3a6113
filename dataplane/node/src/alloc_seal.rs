//! The allocator that proves that a sealed thread neither allocates nor frees. The only `unsafe` of this crate: a global
//! allocator cannot be written without it.
#![expect(
    unsafe_code,
    reason = "`GlobalAlloc` is an unsafe trait; each method only adds a look at two thread-local cells"
)]

use core::cell::Cell;
use std::alloc::{GlobalAlloc, Layout, System};

thread_local! {
    // Constant and without destructor, so that touching them never allocates by itself.
    static SEAL: Cell<Seal> = const { Cell::new(Seal::Open) };
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

/// What a thread may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seal {
    /// Use the heap freely.
    Open,
    /// Be counted for each use.
    Counted,
    /// End the process at the first use.
    Strict,
}

/// Sets what this thread may do from here on.
pub(crate) fn seal(seal: Seal) {
    SEAL.set(seal);
}

/// How often this thread used the heap while it was sealed.
pub(crate) fn calls() -> u64 {
    CALLS.get()
}

/// The system's allocator, watched.
pub(crate) struct SealedAllocator;

#[inline]
fn watch() {
    match SEAL.get() {
        Seal::Open => {}
        Seal::Counted => CALLS.set(CALLS.get() + 1),
        Seal::Strict => {
            seal(Seal::Open); // for what ending the process needs
            eprintln!("tachyond: a sealed worker thread used the heap (strict_heap = true); ending");
            std::process::abort();
        }
    }
}

// SAFETY: every call goes to `System` with the caller's own arguments, so its promises are `System`'s.
unsafe impl GlobalAlloc for SealedAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        watch();
        // SAFETY: the caller keeps `GlobalAlloc`'s contract, which is `System`'s.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        watch();
        // SAFETY: as above, and `pointer` came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        watch();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        watch();
        // SAFETY: as above, and `pointer` came from `System`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_a_sealed_thread_does_and_nothing_else() {
        let mut kept = Vec::with_capacity(4);
        seal(Seal::Counted);
        kept.extend([1, 2, 3, 4]);
        assert_eq!(calls(), 0, "within capacity nothing is allocated");
        std::thread::scope(|scope| {
            seal(Seal::Open);
            let other = scope.spawn(|| drop(Vec::<u8>::with_capacity(10)));
            seal(Seal::Counted);
            other.join().unwrap();
            seal(Seal::Open);
        });
        let before = calls();
        seal(Seal::Counted);
        kept.push(5);
        drop(kept);
        seal(Seal::Open);
        assert_eq!(calls() - before, 2, "one growth, one free");
        drop(Box::new(1));
        assert_eq!(calls() - before, 2);
    }
}
