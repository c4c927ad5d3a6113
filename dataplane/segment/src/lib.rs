//! What `tachyond` and the control process share: sealed ruleset images, the statistics segment, the taps of the truth log,
//! and the socket over which they change hands.
//!
//! It exists so that the two processes can crash, restart and be upgraded apart: memory is shared only where one side
//! writes and the other can only read, everything else is a datagram that is checked before it is believed. A descriptor
//! is mapped only with the seals that make it safe: an image that nobody can change any more, statistics that nobody can
//! shrink under the reader, a tap that only its worker writes.
//!
//! The crate deliberately judges nothing: whether an image is a valid ruleset is for `policy`, what a request does is for
//! `node`. It starts no thread and keeps no state between calls.
//!
//! It is one of the few places with `unsafe`: mapping descriptors, and looking at the mappings as words.

// Under the model checker only its own tests are built.
#[cfg(any(not(loom), test))]
mod position;
#[cfg(any(not(loom), test))]
mod seqlock;
#[cfg(any(not(loom), test))]
mod sync;

#[cfg(not(loom))]
pub mod handover;
#[cfg(not(loom))]
mod image;
#[cfg(not(loom))]
mod mapping;
#[cfg(not(loom))]
mod stats;
#[cfg(not(loom))]
mod tap;

#[cfg(not(loom))]
pub use image::{IMAGE_BYTES_MAX, SealedImage, seal_image};
#[cfg(not(loom))]
pub use stats::{ReadError, StatsReader, StatsSegment, StatsWriter, WORKERS_MAX, WorkerState, WorkerStatus};
#[cfg(not(loom))]
pub use tap::{Sample, TAP_BYTES_MAX, TAP_BYTES_MIN, TapError, TapReader, TapRing, TapState, TapWriter};
