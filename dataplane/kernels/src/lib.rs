//! The few instructions that the language has no safe name for: today, prefetch.
//!
//! An island, so that `policy` and `engine` can forbid `unsafe`. Each kernel has a scalar twin beside it that gives the same
//! result on any machine, and takes slices and indices, never pointers. The crate deliberately knows nothing of rules,
//! frames or state: whatever needs a branch on meaning belongs above it.
#![no_std]

mod prefetch;

pub use prefetch::{prefetch_read, prefetch_write};
