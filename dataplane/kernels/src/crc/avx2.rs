//! One line in four registers of 16 bytes.

use super::fold::{finish, key, word_crc};
use core::arch::x86_64::{
    __m128i, _mm_and_si128, _mm_clmulepi64_si128, _mm_cvtsi32_si128, _mm_cvtsi128_si64, _mm_loadu_si128, _mm_set_epi32,
    _mm_set_epi64x, _mm_setzero_si128, _mm_unpackhi_epi64, _mm_xor_si128,
};
use tachyon_wire::LINE;

/// A line.
type Quarters = [__m128i; 4];

/// crc32c of the bytes; with `HEADER`, of those of a frame whose crc and tag count as zero.
#[target_feature(enable = "avx2,pclmulqdq,sse4.2")]
pub(super) fn crc32c<const HEADER: bool>(bytes: &[u8]) -> u32 {
    let (lines, rest) = bytes.as_chunks::<LINE>();
    let Some((first, lines)) = lines.split_first() else { return finish(u32::MAX, rest) };
    let mut sum = load(first);
    if HEADER {
        sum[1] = _mm_and_si128(sum[1], _mm_set_epi32(-1, -1, 0, -1)); // the crc
        sum[3] = _mm_setzero_si128(); // the tag
    }
    sum[0] = _mm_xor_si128(sum[0], _mm_cvtsi32_si128(-1));
    let by_line = keys(const { key(512) });
    for line in lines {
        let line = load(line);
        for quarter in 0..4 {
            sum[quarter] = forward(sum[quarter], by_line, line[quarter]);
        }
    }
    finish(remainder(sum), rest)
}

/// What a line leaves modulo the polynomial, 32 powers up.
#[inline]
#[target_feature(enable = "avx2,pclmulqdq,sse4.2")]
#[expect(clippy::cast_sign_loss, reason = "the vector types of the architecture are signed")]
fn remainder([a, b, c, d]: Quarters) -> u32 {
    let ab = forward(a, keys(const { key(384) }), forward(b, keys(const { key(256) }), d));
    let sum = forward(c, keys(const { key(128) }), ab);
    let crc = word_crc(0, _mm_cvtsi128_si64(sum) as u64);
    word_crc(crc, _mm_cvtsi128_si64(_mm_unpackhi_epi64(sum, sum)) as u64)
}

/// `sum` moved forward onto `other`.
#[inline]
#[target_feature(enable = "avx2,pclmulqdq")]
fn forward(sum: __m128i, keys: __m128i, other: __m128i) -> __m128i {
    let first = _mm_clmulepi64_si128::<0x00>(sum, keys);
    let last = _mm_clmulepi64_si128::<0x11>(sum, keys);
    _mm_xor_si128(first, _mm_xor_si128(last, other))
}

#[inline]
#[target_feature(enable = "avx2")]
fn keys(key: [i64; 2]) -> __m128i {
    _mm_set_epi64x(key[1], key[0])
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(line: &[u8; LINE]) -> Quarters {
    let line: *const __m128i = line.as_ptr().cast();
    // SAFETY: the reference covers the 64 bytes that are read, and the loads ask for no alignment.
    unsafe {
        [
            _mm_loadu_si128(line),
            _mm_loadu_si128(line.add(1)),
            _mm_loadu_si128(line.add(2)),
            _mm_loadu_si128(line.add(3)),
        ]
    }
}
