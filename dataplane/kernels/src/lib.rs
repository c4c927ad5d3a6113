//! What the language has no safe name for, or no fast one: prefetch, lines copied one here and one there, tags of several
//! frames at once, crcs by carry-less multiplication, SHA-256 of many records at once, the check for ordinary messages.
//!
//! An island, so that `policy` and `engine` can forbid `unsafe`. Each kernel has a scalar twin, here or in `wire`, that
//! gives the same result on any machine, and takes slices and indices, never pointers. Which instructions it may use it
//! is told by a [`Path`], which only detection can make. The crate knows the layout of a frame's header, as far as tag and
//! crc need it, and deliberately nothing of rules or state: whatever needs a branch on meaning belongs above it.
#![no_std]

pub mod copy;
pub mod crc;
mod ordinary;
mod path;
mod prefetch;
pub mod sha256;
pub mod tags;

pub use ordinary::{MARKED, Marks, Ordinary, ordinary};
pub use path::Path;
pub use prefetch::{prefetch_read, prefetch_write, prefetch_write_lines};
