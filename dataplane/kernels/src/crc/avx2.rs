//! One line in four registers of 16 bytes, and the crc instruction beside them.

use super::{
    fold::{finish, key, word_crc, words_crc},
    power, times_x,
};
use core::arch::x86_64::{
    __m128i, _mm_and_si128, _mm_clmulepi64_si128, _mm_cvtsi32_si128, _mm_cvtsi128_si64, _mm_loadu_si128, _mm_set_epi32,
    _mm_set_epi64x, _mm_setzero_si128, _mm_unpackhi_epi64, _mm_xor_si128,
};
use tachyon_wire::LINE;

/// A line.
type Quarters = [__m128i; 4];

/// Chains of the crc instruction, which takes three cycles and can start every one.
const CHAINS: usize = 4;
/// Bits that each chain takes while a line is folded: eight crc instructions and eight multiplications, which have a port
/// each, take about the same time; and all chains together take a line.
const STEP_BITS: u32 = 128;
/// The same in bytes.
const STEP: usize = STEP_BITS as usize / 8;
const _: () = assert!(CHAINS * STEP == LINE);
/// Steps that chains take at most: 16 KiB with what is folded beside them. All that is longer is folded alone.
const STEPS_MAX: usize = 128;
/// With fewer steps it costs more to put the parts together than it saves.
const STEPS_MIN: usize = 4;

/// crc32c of the bytes; with `HEADER`, of those of a frame whose crc and tag count as zero.
///
/// One half of the lines is folded; meanwhile the crc instruction, which is as fast on a port of its own, goes through the
/// other half in chains.
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
    let steps = match lines.len() / 2 {
        steps @ STEPS_MIN.. => steps.min(STEPS_MAX),
        _ => 0,
    };
    let (folded, chained) = lines.split_at(lines.len() - steps);
    let (beside, alone) = folded.split_at(steps);
    let chains = along(&mut sum, beside, chained);
    for line in alone {
        forward_line(&mut sum, line);
    }
    let crc = remainder(sum);
    finish(if steps == 0 { crc } else { together(crc, chains, steps) }, rest)
}

/// Folds the lines and runs through the quarters of `chained`, which are as many lines.
#[inline]
#[target_feature(enable = "avx2,pclmulqdq,sse4.2")]
fn along(sum: &mut Quarters, lines: &[[u8; LINE]], chained: &[[u8; LINE]]) -> [u32; CHAINS] {
    let steps = chained.as_flattened().as_chunks::<STEP>().0;
    let (a, rest) = steps.split_at(lines.len());
    let (b, rest) = rest.split_at(lines.len());
    let (c, d) = rest.split_at(lines.len());
    let mut crcs = [0; CHAINS];
    for ((((line, a), b), c), d) in lines.iter().zip(a).zip(b).zip(c).zip(d) {
        forward_line(sum, line);
        for (crc, step) in crcs.iter_mut().zip([a, b, c, d]) {
            *crc = words_crc(*crc, step.as_chunks().0);
        }
    }
    crcs
}

/// The remainder of the whole from that of what was folded and those of the chains behind it.
#[inline]
#[target_feature(enable = "avx2,pclmulqdq,sse4.2")]
#[expect(clippy::cast_sign_loss, reason = "the vector types of the architecture are signed")]
fn together(folded: u32, [a, b, c, d]: [u32; CHAINS], steps: usize) -> u32 {
    let moved = |crc: u32, steps: usize| {
        let factors = [crc, SHIFT[steps]].map(|factor| _mm_set_epi64x(0, i64::from(factor)));
        _mm_clmulepi64_si128::<0x00>(factors[0], factors[1])
    };
    let first = _mm_xor_si128(moved(folded, 4 * steps), moved(a, 3 * steps));
    let sum = _mm_xor_si128(first, _mm_xor_si128(moved(b, 2 * steps), moved(c, steps)));
    word_crc(0, _mm_cvtsi128_si64(sum) as u64) ^ d
}

/// By steps: what moves a remainder over so many of them, less the x³³ that the product and the crc of it bring along.
static SHIFT: [u32; CHAINS * STEPS_MAX + 1] = shifts();

const fn shifts() -> [u32; CHAINS * STEPS_MAX + 1] {
    let mut table = [0; CHAINS * STEPS_MAX + 1];
    let mut power = power(STEP_BITS - 33);
    let mut steps = 1;
    while steps < table.len() {
        table[steps] = power;
        let mut bit = 0;
        while bit < STEP_BITS {
            power = times_x(power);
            bit += 1;
        }
        steps += 1;
    }
    table
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

/// A line moved forward onto the next.
#[inline]
#[target_feature(enable = "avx2,pclmulqdq")]
fn forward_line(sum: &mut Quarters, line: &[u8; LINE]) {
    let keys = keys(const { key(512) });
    for (sum, quarter) in sum.iter_mut().zip(load(line)) {
        *sum = forward(*sum, keys, quarter);
    }
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
