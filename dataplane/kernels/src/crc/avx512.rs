//! One line a register, four of them at once, so that the multiplier never waits for its own results.

use super::fold::{finish, key, word_crc};
use core::arch::x86_64::{
    __m128i, __m512i, _mm_cvtsi32_si128, _mm_cvtsi128_si64, _mm_set_epi64x, _mm_unpackhi_epi64, _mm_xor_si128,
    _mm256_castsi256_si128, _mm256_extracti128_si256, _mm256_xor_si256, _mm512_broadcast_i32x4, _mm512_castsi512_si256,
    _mm512_clmulepi64_epi128, _mm512_extracti64x4_epi64, _mm512_loadu_si512, _mm512_maskz_mov_epi32,
    _mm512_maskz_mov_epi64, _mm512_set_epi64, _mm512_ternarylogic_epi64, _mm512_xor_si512, _mm512_zextsi128_si512,
};
use tachyon_wire::LINE;

/// The words of a header that count: not 5, the crc, and not 12 to 15, the tag.
const HEADER_WORDS: u16 = 0x0fdf;
/// Exclusive or of three.
const XOR3: i32 = 0x96;
/// Bits of a line.
const BITS: u32 = 512;

/// crc32c of the bytes; with `HEADER`, of those of a frame whose crc and tag count as zero.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vpclmulqdq,avx2,sse4.2")]
pub(super) fn crc32c<const HEADER: bool>(bytes: &[u8]) -> u32 {
    let (lines, rest) = bytes.as_chunks::<LINE>();
    let Some((first, lines)) = lines.split_first() else { return finish(u32::MAX, rest) };
    let mut first = load(first);
    if HEADER {
        first = _mm512_maskz_mov_epi32(HEADER_WORDS, first);
    }
    let start = _mm512_zextsi128_si512(_mm_cvtsi32_si128(-1));
    finish(remainder(fold(_mm512_xor_si512(first, start), lines)), rest)
}

/// The line that leaves the same as `first` and all that follow it.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vpclmulqdq,avx2")]
fn fold(first: __m512i, lines: &[[u8; LINE]]) -> __m512i {
    let by_one = keys(const { key(BITS) });
    let Some(([b, c, d], lines)) = lines.split_first_chunk::<3>() else {
        return lines.iter().fold(first, |sum, line| forward(sum, by_one, load(line)));
    };
    let (mut a, mut b, mut c, mut d) = (first, load(b), load(c), load(d));
    let by_four = keys(const { key(4 * BITS) });
    let (fours, lines) = lines.as_chunks::<4>();
    for [e, f, g, h] in fours {
        a = forward(a, by_four, load(e));
        b = forward(b, by_four, load(f));
        c = forward(c, by_four, load(g));
        d = forward(d, by_four, load(h));
    }
    for line in lines {
        (a, b, c, d) = (b, c, d, forward(a, by_four, load(line)));
    }
    let (by_two, by_three) = (keys(const { key(2 * BITS) }), keys(const { key(3 * BITS) }));
    let ab = forward(b, by_two, _mm512_clmulepi64_epi128::<0x00>(a, by_three));
    let cd = forward(c, by_one, d);
    _mm512_ternarylogic_epi64::<XOR3>(ab, _mm512_clmulepi64_epi128::<0x11>(a, by_three), cd)
}

/// `sum` moved forward onto `line`.
#[inline]
#[target_feature(enable = "avx512f,vpclmulqdq")]
fn forward(sum: __m512i, keys: __m512i, line: __m512i) -> __m512i {
    let firsts = _mm512_clmulepi64_epi128::<0x00>(sum, keys);
    let lasts = _mm512_clmulepi64_epi128::<0x11>(sum, keys);
    _mm512_ternarylogic_epi64::<XOR3>(firsts, lasts, line)
}

/// What a line leaves modulo the polynomial, 32 powers up: three quarters go onto the fourth, and the crc instruction does
/// what no multiplication does in fewer steps.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,vpclmulqdq,avx2,sse4.2")]
#[expect(clippy::cast_sign_loss, reason = "the vector types of the architecture are signed")]
fn remainder(line: __m512i) -> u32 {
    const A: [i64; 2] = key(384);
    const B: [i64; 2] = key(256);
    const C: [i64; 2] = key(128);
    let keys = _mm512_set_epi64(0, 0, C[1], C[0], B[1], B[0], A[1], A[0]);
    let sums = forward(line, keys, _mm512_maskz_mov_epi64(0b1100_0000, line));
    let halves = _mm256_xor_si256(_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64::<1>(sums));
    let sum: __m128i = _mm_xor_si128(_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves));
    let crc = word_crc(0, _mm_cvtsi128_si64(sum) as u64);
    word_crc(crc, _mm_cvtsi128_si64(_mm_unpackhi_epi64(sum, sum)) as u64)
}

#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn keys(key: [i64; 2]) -> __m512i {
    _mm512_broadcast_i32x4(_mm_set_epi64x(key[1], key[0]))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(line: &[u8; LINE]) -> __m512i {
    // SAFETY: the reference covers the 64 bytes that are read, and the load asks for no alignment.
    unsafe { _mm512_loadu_si512(line.as_ptr().cast()) }
}
