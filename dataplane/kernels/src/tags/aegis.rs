//! AEGISMAC-128L in one half of a register, or in both.

use super::Job;
use core::arch::x86_64::{
    __m128i, __m256i, _mm_aesenc_si128, _mm_loadu_si128, _mm_set_epi64x, _mm_setzero_si128, _mm_storeu_si128,
    _mm_xor_si128, _mm256_aesenc_epi128, _mm256_castsi128_si256, _mm256_castsi256_si128, _mm256_extracti128_si256,
    _mm256_inserti128_si256, _mm256_setzero_si256, _mm256_xor_si256,
};
use tachyon_wire::{
    LINE,
    tag::{FrameKey, TAG_BYTES},
};

/// Jobs that are paired with each other.
const BATCH: usize = 16;
/// What one update absorbs.
const RATE: usize = 32;
/// The two constants of the initial state, as numbers.
const C0: u128 = u128::from_le_bytes([
    0x00, 0x01, 0x01, 0x02, 0x03, 0x05, 0x08, 0x0d, 0x15, 0x22, 0x37, 0x59, 0x90, 0xe9, 0x79, 0x62,
]);
const C1: u128 = u128::from_le_bytes([
    0xdb, 0x3d, 0x18, 0x55, 0x6d, 0xc2, 0x2f, 0xf1, 0x20, 0x11, 0x31, 0x42, 0x73, 0xb5, 0x28, 0xdd,
]);

/// The algorithm, for one width of register.
macro_rules! state {
    ($name:ident, $vector:ty, $features:literal, $round:ident, $xor:ident) => {
        /// The state of as many frames as the register has room for.
        #[derive(Clone, Copy)]
        struct $name([$vector; 8]);

        impl $name {
            /// The state after key and nonce.
            #[inline]
            #[target_feature(enable = $features)]
            fn new(key: $vector, nonce: $vector, c0: $vector, c1: $vector) -> Self {
                let (mixed, key0, key1) = ($xor(key, nonce), $xor(key, c0), $xor(key, c1));
                let mut state = Self([mixed, c1, c0, c1, mixed, key0, key1, key0]);
                for _ in 0..10 {
                    state.update(nonce, key);
                }
                state
            }

            /// Absorbs two blocks. They enter as round keys, not by a later exclusive or: that takes them and one more
            /// step out of the longest chain of a round.
            #[inline]
            #[target_feature(enable = $features)]
            fn update(&mut self, first: $vector, second: $vector) {
                let [s0, s1, s2, s3, s4, s5, s6, s7] = self.0;
                self.0 = [
                    $xor(s0, $round(s7, first)),
                    $round(s0, s1),
                    $round(s1, s2),
                    $round(s2, s3),
                    $xor(s4, $round(s3, second)),
                    $round(s4, s5),
                    $round(s5, s6),
                    $round(s6, s7),
                ];
            }

            /// The tag; `sizes` are the bits absorbed and the bits of a tag, 64 bits each.
            #[inline]
            #[target_feature(enable = $features)]
            fn finish(mut self, sizes: $vector) -> $vector {
                let last = $xor(sizes, self.0[2]);
                for _ in 0..7 {
                    self.update(last, last);
                }
                let [s0, s1, s2, s3, s4, s5, s6, _] = self.0;
                $xor($xor($xor(s0, s1), $xor(s2, s3)), $xor($xor(s4, s5), s6))
            }
        }
    };
}

state!(One, __m128i, "avx2,aes", _mm_aesenc_si128, _mm_xor_si128);
state!(Two, __m256i, "avx2,vaes", _mm256_aesenc_epi128, _mm256_xor_si256);

/// A job in lines. None has fewer than one.
#[derive(Clone, Copy)]
struct Lines<'a> {
    key: &'a FrameKey,
    header: &'a [u8; LINE],
    rest: &'a [[u8; RATE]],
}

impl<'a> Lines<'a> {
    /// None where the frame does not consist of lines.
    #[inline]
    fn new(job: &Job<'a>) -> Option<Self> {
        let (header, rest) = job.frame.split_first_chunk::<LINE>()?;
        let (rest, odd) = rest.as_chunks::<RATE>();
        (odd.is_empty() && rest.len().is_multiple_of(2)).then_some(Self { key: job.key, header, rest })
    }

    /// Four words of the header, as `wire` puts them together.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn nonce(&self) -> __m128i {
        let word = |at: usize| u64::from(u32::from_le_bytes([0, 1, 2, 3].map(|byte| self.header[at + byte])));
        let (frame_id, session_id, epoch) = (word(12), word(24), word(40));
        let shard = word(28) & 0xffff;
        pair(session_id | epoch << 32, shard | frame_id << 32)
    }

    /// The header as it is absorbed: three blocks, for the fourth is the tag.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn header(&self) -> [__m128i; 3] {
        [0, 16, 32].map(|at| load(self.header[at..].first_chunk().unwrap_or(&[0; 16])))
    }

    /// Bits of the frame, and of a tag.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn sizes(&self) -> __m128i {
        let bytes = LINE + self.rest.len() * RATE;
        pair(bytes as u64 * 8, TAG_BYTES as u64 * 8)
    }
}

/// Each frame alone, on machines that have no rounds for two.
#[target_feature(enable = "avx2,aes")]
pub(super) fn one_by_one(jobs: &[Job<'_>], out: &mut [[u8; TAG_BYTES]]) {
    for (job, tag) in jobs.iter().zip(out) {
        *tag = one(job);
    }
}

/// Two frames at a time, of lengths as near as there are.
#[target_feature(enable = "avx2,aes,vaes")]
pub(super) fn by_pairs(jobs: &[Job<'_>], out: &mut [[u8; TAG_BYTES]]) {
    for (jobs, out) in jobs.chunks(BATCH).zip(out.chunks_mut(BATCH)) {
        let order = longest_first(jobs);
        let (pairs, last) = order[..jobs.len()].as_chunks::<2>();
        for [long, short] in pairs.iter().map(|pair| pair.map(usize::from)) {
            [out[long], out[short]] = two(&jobs[long], &jobs[short]);
        }
        for last in last.iter().copied().map(usize::from) {
            out[last] = one(&jobs[last]);
        }
    }
}

/// The places of a batch's jobs, those of the longest frames first. By insertion: mostly all are of one length.
#[inline]
fn longest_first(jobs: &[Job<'_>]) -> [u8; BATCH] {
    let mut order = [0; BATCH];
    for (place, job) in (0_u8..).zip(jobs) {
        let mut at = usize::from(place);
        while at > 0 && jobs[usize::from(order[at - 1])].frame.len() < job.frame.len() {
            order[at] = order[at - 1];
            at -= 1;
        }
        order[at] = place;
    }
    order
}

#[inline]
#[target_feature(enable = "avx2,aes")]
fn one(job: &Job<'_>) -> [u8; TAG_BYTES] {
    let Some(lines) = Lines::new(job) else { return tachyon_wire::tag::compute(job.key, job.frame) };
    let mut state = One::new(load(&lines.key.to_bytes()), lines.nonce(), number(C0), number(C1));
    let [a, b, c] = lines.header();
    state.update(a, b);
    state.update(c, _mm_setzero_si128());
    absorb(&mut state, lines.rest);
    store(state.finish(lines.sizes()))
}

/// The tags of two frames, the first of which is not the shorter one.
#[inline]
#[target_feature(enable = "avx2,aes,vaes")]
fn two(long: &Job<'_>, short: &Job<'_>) -> [[u8; TAG_BYTES]; 2] {
    let (Some(x), Some(y)) = (Lines::new(long), Lines::new(short)) else { return [one(long), one(short)] };
    let keys = both(load(&x.key.to_bytes()), load(&y.key.to_bytes()));
    let mut state =
        Two::new(keys, both(x.nonce(), y.nonce()), both(number(C0), number(C0)), both(number(C1), number(C1)));
    let ([a, b, c], [d, e, f]) = (x.header(), y.header());
    state.update(both(a, d), both(b, e));
    state.update(both(c, f), _mm256_setzero_si256());
    for (x, y) in x.rest.iter().zip(y.rest) {
        let ([a, b], [c, d]) = (blocks(x), blocks(y));
        state.update(both(a, c), both(b, d));
    }
    if let Some(more @ [_, ..]) = x.rest.get(y.rest.len()..) {
        let mut alone = One(state.0.map(|pair| _mm256_castsi256_si128(pair)));
        absorb(&mut alone, more);
        for (pair, alone) in state.0.iter_mut().zip(alone.0) {
            *pair = _mm256_inserti128_si256::<0>(*pair, alone);
        }
    }
    let tags = state.finish(both(x.sizes(), y.sizes()));
    [store(_mm256_castsi256_si128(tags)), store(_mm256_extracti128_si256::<1>(tags))]
}

#[inline]
#[target_feature(enable = "avx2,aes")]
fn absorb(state: &mut One, rest: &[[u8; RATE]]) {
    for block in rest {
        let [first, second] = blocks(block);
        state.update(first, second);
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn both(low: __m128i, high: __m128i) -> __m256i {
    _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), high)
}

#[inline]
#[target_feature(enable = "avx2")]
fn blocks(bytes: &[u8; RATE]) -> [__m128i; 2] {
    let (blocks, _) = bytes.as_chunks::<16>();
    [0, 1].map(|at| load(&blocks[at]))
}

#[inline]
#[target_feature(enable = "avx2")]
#[expect(clippy::cast_possible_wrap, reason = "the vector types of the architecture are signed")]
fn pair(low: u64, high: u64) -> __m128i {
    _mm_set_epi64x(high as i64, low as i64)
}

#[inline]
#[target_feature(enable = "avx2")]
fn number(number: u128) -> __m128i {
    load(&number.to_le_bytes())
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(block: &[u8; 16]) -> __m128i {
    // SAFETY: the reference covers the 16 bytes that are read, and the load asks for no alignment.
    unsafe { _mm_loadu_si128(block.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(block: __m128i) -> [u8; 16] {
    let mut bytes = [0; 16];
    // SAFETY: the array is the 16 bytes that are written, and the store asks for no alignment.
    unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), block) };
    bytes
}
