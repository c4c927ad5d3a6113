//! crc32c of frames and payloads, folded with carry-less multiplications.
//!
//! A line is multiplied forward onto a later one until a single line, then 16 bytes, remain; what those leave modulo the
//! polynomial is what the whole leaves. The two fields of a header that count as zero are masked in the register that
//! holds the first line, so no header is copied and nothing is multiplied out afterwards, as the twin in `wire` must.

use crate::path::{Level, Path};
use tachyon_wire::{Frame, LINE, crc::times_x};

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod avx2;
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod avx512;
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod fold;

/// Lines behind a header that a crc is moved over at most; as many as a frame may have messages.
const LINES_MAX: usize = 256;

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

/// What [`frame_crc`] gives, of a frame the [`crc32c`] of whose lines behind the header is known to be `behind`: frames that
/// differ in nothing but the header need one pass over the rest together, and a multiplication each.
#[inline]
#[must_use]
pub fn joined_crc(path: Path, frame: &[u8], behind: u32) -> u32 {
    let Some((header, rest)) = frame.split_first_chunk::<LINE>() else { return frame_crc(path, frame) };
    match SHIFT.get(rest.len() / LINE) {
        Some(factor) if !rest.is_empty() && rest.len().is_multiple_of(LINE) => {
            moved(path, header_crc(path, header), *factor) ^ behind
        }
        _ => frame_crc(path, frame),
    }
}

/// [`frame_crc`] of a header alone, for which folding would take longer than the crc instruction.
#[inline]
fn header_crc(path: Path, header: &[u8; LINE]) -> u32 {
    match path.0 {
        Level::Scalar => tachyon_wire::crc::compute(header),
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        // SAFETY: a path of these levels proves that the CPU has what the function enables.
        Level::Avx2 | Level::Avx512 => unsafe { fold::header_crc(header) },
    }
}

/// `crc` · `factor` · x³³ modulo the polynomial.
#[inline]
fn moved(path: Path, crc: u32, factor: u32) -> u32 {
    match path.0 {
        Level::Scalar => product(product(crc, factor), const { power(33) }),
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        // SAFETY: a path of these levels proves that the CPU has what the function enables.
        Level::Avx2 | Level::Avx512 => unsafe { fold::moved(crc, factor) },
    }
}

/// The product of two remainders.
fn product(a: u32, b: u32) -> u32 {
    let (mut sum, mut power) = (0, b);
    for bit in (0..32).rev() {
        sum ^= if a >> bit & 1 == 1 { power } else { 0 };
        power = times_x(power);
    }
    sum
}

/// By lines: what moves a remainder over so many of them, less x³³; that of none is not used.
static SHIFT: [u32; LINES_MAX + 1] = shifts();

const fn shifts() -> [u32; LINES_MAX + 1] {
    const BITS: u32 = 512;
    const { assert!(BITS as usize == 8 * LINE) };
    let mut table = [0; LINES_MAX + 1];
    let mut power = power(BITS - 33);
    let mut lines = 1;
    while lines < table.len() {
        table[lines] = power;
        let mut bit = 0;
        while bit < BITS {
            power = times_x(power);
            bit += 1;
        }
        lines += 1;
    }
    table
}

/// xⁿ modulo the polynomial.
const fn power(n: u32) -> u32 {
    let mut power: u32 = 1 << 31;
    let mut exponent = 0;
    while exponent < n {
        power = times_x(power);
        exponent += 1;
    }
    power
}
