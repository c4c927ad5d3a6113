//! What both foldings share: the constants, and the end of the bytes.
//!
//! Bits are reflected: the lowest bit of the first byte has the highest power. In a 64-bit word bit 63 − i is the
//! coefficient of xⁱ, and a 32-bit constant in its low half stands for itself · x³²; the product of two words comes out one
//! power higher. So a multiplication by a constant k is one by k · x³³, which [`key`] leaves out.

use super::power;
use core::arch::x86_64::{_mm_clmulepi64_si128, _mm_crc32_u8, _mm_crc32_u64, _mm_cvtsi128_si64, _mm_set_epi64x};
use tachyon_wire::LINE;

/// What moves 16 bytes forward by `bits`: the factors of their first eight bytes, which weigh x⁶⁴ more, and of the last.
pub(super) const fn key(bits: u32) -> [i64; 2] {
    [power(bits + 64 - 33) as i64, power(bits - 33) as i64]
}

/// The product of two remainders and x³³: what moves a remainder forward, where `factor` leaves out the x³³ that the
/// carry-less product and the crc of eight bytes bring along.
#[inline]
#[target_feature(enable = "pclmulqdq,sse4.2")]
#[expect(clippy::cast_sign_loss, reason = "the vector types of the architecture are signed")]
pub(super) fn moved(crc: u32, factor: u32) -> u32 {
    let factors = [crc, factor].map(|factor| _mm_set_epi64x(0, i64::from(factor)));
    word_crc(0, _mm_cvtsi128_si64(_mm_clmulepi64_si128::<0x00>(factors[0], factors[1])) as u64)
}

/// crc32c of a header whose crc and tag count as zero.
#[inline]
#[target_feature(enable = "sse4.2")]
pub(super) fn header_crc(header: &[u8; LINE]) -> u32 {
    let words = header.as_chunks::<8>().0;
    let mut crc = u32::MAX;
    for (place, word) in words.iter().enumerate() {
        crc = word_crc(crc, u64::from_le_bytes(*word) & HEADER_WORDS[place]);
    }
    !crc
}

/// The bits of a header's words that count: not the crc, which is bytes 20 to 23, and not the tag, from byte 48 on.
const HEADER_WORDS: [u64; LINE / 8] = [u64::MAX, u64::MAX, 0xffff_ffff, u64::MAX, u64::MAX, u64::MAX, 0, 0];

/// The crc goes on over bytes that fill no line. `crc` is the bare remainder, not yet inverted.
#[inline]
#[target_feature(enable = "sse4.2")]
pub(super) fn finish(crc: u32, rest: &[u8]) -> u32 {
    let (words, bytes) = rest.as_chunks::<8>();
    let mut crc = words_crc(crc, words);
    for byte in bytes {
        crc = _mm_crc32_u8(crc, *byte);
    }
    !crc
}

/// The crc goes on over words.
#[inline]
#[target_feature(enable = "sse4.2")]
pub(super) fn words_crc(crc: u32, words: &[[u8; 8]]) -> u32 {
    words.iter().fold(crc, |crc, word| word_crc(crc, u64::from_le_bytes(*word)))
}

/// The crc goes on over eight bytes.
#[inline]
#[target_feature(enable = "sse4.2")]
#[expect(clippy::cast_possible_truncation, reason = "the instruction leaves the upper half zero")]
pub(super) fn word_crc(crc: u32, word: u64) -> u32 {
    _mm_crc32_u64(u64::from(crc), word) as u32
}
