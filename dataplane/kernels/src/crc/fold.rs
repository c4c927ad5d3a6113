//! What both foldings share: the constants, and the end of the bytes.
//!
//! Bits are reflected: the lowest bit of the first byte has the highest power. In a 64-bit word bit 63 − i is the
//! coefficient of xⁱ, and a 32-bit constant in its low half stands for itself · x³²; the product of two words comes out one
//! power higher. So a multiplication by a constant k is one by k · x³³, which [`key`] leaves out.

use core::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u64};

/// The polynomial, bit-reflected: bit 31 − i is the coefficient of xⁱ.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// What moves 16 bytes forward by `bits`: the factors of their first eight bytes, which weigh x⁶⁴ more, and of the last.
pub(super) const fn key(bits: u32) -> [i64; 2] {
    [power(bits + 64 - 33) as i64, power(bits - 33) as i64]
}

/// xⁿ modulo the polynomial.
pub(super) const fn power(n: u32) -> u32 {
    let mut power: u32 = 1 << 31;
    let mut exponent = 0;
    while exponent < n {
        power = times_x(power);
        exponent += 1;
    }
    power
}

pub(super) const fn times_x(power: u32) -> u32 {
    power >> 1 ^ if power & 1 == 1 { POLYNOMIAL } else { 0 }
}

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
