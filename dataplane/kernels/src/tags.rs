//! Tags of several frames at once.
//!
//! AEGIS spends eight AES rounds on every 32 bytes of a frame, and nothing else of note. One frame alone fills a quarter of
//! a 512-bit register, so frames go four by four, each in its own quarter. The frames of a call are grouped by length; where
//! a group differs, what is left of the longer ones goes by pairs and alone, at the cost that it would have had anyway.
//! Of frames of 22 messages one costs 104 ns alone, 55 in a pair and 44 among four (3.0 GHz Xeon; the program that says so
//! is `examples/kernels_cost.rs`).

use crate::path::{Level, Path};
use tachyon_wire::tag::{FrameKey, TAG_BYTES};

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod aegis;

/// Frames to give at once: more gain nothing.
pub const TOGETHER: usize = 8;

/// A frame whose tag is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// Of the frame's session and epoch.
    pub key: &'a FrameKey,
    /// The whole frame.
    pub frame: &'a [u8],
}

/// For each job the tag of its frame with `tag` taken as zero, whatever stands there: what
/// [`tachyon_wire::tag::compute`] says of each. Multiples of four cost least, and calls whose frames are of one length or
/// sorted, the longest first. Frames whose length is no multiple of 64 are taken, slowly.
///
/// # Panics
/// If a frame has fewer than 64 bytes, as the twin does, or `out` is shorter than `jobs`.
#[inline]
pub fn tags(path: Path, jobs: &[Job<'_>], out: &mut [[u8; TAG_BYTES]]) {
    let out = &mut out[..jobs.len()];
    match path.0 {
        Level::Scalar => scalar(jobs, out),
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        // SAFETY: a path of this level proves that the CPU has what the function enables.
        Level::Avx2 => unsafe { aegis::one_by_one(jobs, out) },
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        // SAFETY: as above.
        Level::Avx512 => unsafe { aegis::by_fours(jobs, out) },
    }
}

/// Whether two tags are the same, in a time that does not depend on where they differ.
#[inline]
#[must_use]
pub fn equal(a: &[u8; TAG_BYTES], b: &[u8; TAG_BYTES]) -> bool {
    // One number each, so that there is nothing to look at in turn.
    u128::from_ne_bytes(*a) ^ u128::from_ne_bytes(*b) == 0
}

fn scalar(jobs: &[Job<'_>], out: &mut [[u8; TAG_BYTES]]) {
    for (job, tag) in jobs.iter().zip(out) {
        *tag = tachyon_wire::tag::compute(job.key, job.frame);
    }
}
