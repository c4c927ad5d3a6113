//! Counting what a thread allocates and frees.

use alloc::alloc::{GlobalAlloc, Layout};
use core::cell::Cell;
use std::{alloc::System, thread_local};

thread_local! {
    /// Constant and without a destructor, so that looking at it allocates nothing itself.
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counting calls per thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct CountingAllocator;

fn count() {
    COUNT.with(|count| count.set(count.get() + 1));
}

// SAFETY: every call goes to `System` as it came.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// How often this thread allocated or freed while `run` ran. Always 0 unless [`CountingAllocator`] is the global allocator.
pub fn allocations(run: impl FnOnce()) -> u64 {
    let before = COUNT.with(Cell::get);
    run();
    COUNT.with(Cell::get) - before
}
