//! crc32c of frames and payloads, folded with carry-less multiplications.
//!
//! A line is multiplied forward onto a later one until a single line, then 16 bytes, remain; what those leave modulo the
//! polynomial is what the whole leaves. The two fields of a header that count as zero are masked in the register that
//! holds the first line, so no header is copied and nothing is multiplied out afterwards, as the twin in `wire` must.

use crate::path::{Level, Path};
use tachyon_wire::Frame;

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod avx2;
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod avx512;
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod fold;

/// crc32c of any bytes, of any length, starting anywhere; the same as [`tachyon_wire::crc::of`]. Made for multiples of 64
/// bytes: what is left behind the last whole line goes at eight bytes an instruction.
#[inline]
#[must_use]
pub fn crc32c(path: Path, bytes: &[u8]) -> u32 {
    match path.0 {
        Level::Scalar => tachyon_wire::crc::of(bytes),
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        // SAFETY: a path of this level proves that the CPU has what the function enables.
        Level::Avx2 => unsafe { avx2::crc32c::<false>(bytes) },
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        // SAFETY: as above.
        Level::Avx512 => unsafe { avx512::crc32c::<false>(bytes) },
    }
}

/// crc32c of a frame with its `crc32c` and `tag` taken as zero, whatever stands there; the same as
/// [`tachyon_wire::crc::compute`]. Bytes that are shorter than a header are taken as they are.
#[inline]
#[must_use]
pub fn frame_crc(path: Path, frame: &[u8]) -> u32 {
    match path.0 {
        Level::Scalar => tachyon_wire::crc::compute(frame),
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        // SAFETY: a path of this level proves that the CPU has what the function enables.
        Level::Avx2 => unsafe { avx2::crc32c::<true>(frame) },
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        // SAFETY: as above.
        Level::Avx512 => unsafe { avx512::crc32c::<true>(frame) },
    }
}

/// Whether the frame's `crc32c` is right; the same as [`tachyon_wire::crc::verify`]. For frames without a tag, as the
/// parser gives them; one with a tag has no crc.
#[inline]
#[must_use]
pub fn verify_frame(path: Path, frame: &Frame<'_>) -> bool {
    match path.0 {
        Level::Scalar => tachyon_wire::crc::verify(frame),
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        _ => frame_crc(path, frame.bytes) == frame.header.crc32c.get(),
    }
}
