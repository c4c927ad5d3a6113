//! AEGISMAC-128L of one, two and four frames in registers of 128, 256 and 512 bits.

use super::Job;
use core::arch::x86_64::{
    __m128i, __m256i, __m512i, _mm_aesenc_si128, _mm_loadu_si128, _mm_set_epi64x, _mm_setzero_si128, _mm_storeu_si128,
    _mm_xor_si128, _mm256_aesenc_epi128, _mm256_castsi128_si256, _mm256_castsi256_si128, _mm256_extracti128_si256,
    _mm256_inserti128_si256, _mm256_loadu_si256, _mm256_permute2x128_si256, _mm256_setzero_si256, _mm256_xor_si256,
    _mm512_aesenc_epi128, _mm512_castsi256_si512, _mm512_castsi512_si256, _mm512_extracti64x4_epi64,
    _mm512_inserti64x4, _mm512_setzero_si512, _mm512_shuffle_i64x2, _mm512_xor_si512,
};
use tachyon_wire::{
    LINE,
    tag::{FrameKey, TAG_BYTES},
};

/// Jobs that are sorted together.
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

            /// Absorbs two blocks. They enter as round keys, and the old block is added to the result: so what leads
            /// from a block to its successor is one exclusive or, not that and a round, and a frame alone is bound by
            /// how many rounds start each cycle, not by how long each takes.
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
state!(Four, __m512i, "avx512f,vaes", _mm512_aesenc_epi128, _mm512_xor_si512);

/// A job that consists of lines, at least one.
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

    #[inline]
    #[target_feature(enable = "avx2")]
    fn key(&self) -> __m128i {
        load(&self.key.to_bytes())
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

/// Four frames at a time, of lengths as near as there are, then what remains.
#[target_feature(enable = "avx512f,avx2,aes,vaes")]
pub(super) fn by_fours(jobs: &[Job<'_>], out: &mut [[u8; TAG_BYTES]]) {
    for (jobs, out) in jobs.chunks(BATCH).zip(out.chunks_mut(BATCH)) {
        // Mostly all are of one length. Then nothing waits for a sort whose results pass through memory.
        if jobs.is_sorted_by(|a, b| a.frame.len() >= b.frame.len()) {
            batch(jobs, out);
            continue;
        }
        let order = longest_first(jobs);
        let order = &order[..jobs.len()];
        let (mut sorted, mut tags) = ([jobs[0]; BATCH], [[0; TAG_BYTES]; BATCH]);
        for (slot, place) in sorted.iter_mut().zip(order) {
            *slot = jobs[usize::from(*place)];
        }
        batch(&sorted[..jobs.len()], &mut tags);
        for (tag, place) in tags.iter().zip(order) {
            out[usize::from(*place)] = *tag;
        }
    }
}

/// Jobs in the order of their lengths, the longest first. `out` may be longer.
#[target_feature(enable = "avx512f,avx2,aes,vaes")]
fn batch(jobs: &[Job<'_>], out: &mut [[u8; TAG_BYTES]]) {
    let (fours, rest) = jobs.as_chunks::<4>();
    let (out, out_rest) = out.split_at_mut(fours.len() * 4);
    for ([a, b, c, d], out) in fours.iter().zip(out.as_chunks_mut::<4>().0) {
        *out = four([a, b, c, d]);
    }
    match rest {
        [a] => out_rest[0] = one(a),
        [a, b] => out_rest[..2].copy_from_slice(&two([a, b])),
        // Three and one again cost less than two and one.
        [a, b, c] => out_rest[..3].copy_from_slice(&four([a, b, c, c])[..3]),
        _ => {}
    }
}

/// The places of a batch's jobs, those of the longest frames first; by insertion, for they are few.
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
    let mut state = One::new(lines.key(), lines.nonce(), number(C0), number(C1));
    let [a, b, c] = lines.header();
    state.update(a, b);
    state.update(c, _mm_setzero_si128());
    absorb(&mut state, lines.rest);
    store(state.finish(lines.sizes()))
}

/// The tags of two frames, the longer one first.
#[inline]
#[target_feature(enable = "avx2,aes,vaes")]
fn two(jobs: [&Job<'_>; 2]) -> [[u8; TAG_BYTES]; 2] {
    let [Some(x), Some(y)] = jobs.map(Lines::new) else { return [one(jobs[0]), one(jobs[1])] };
    let (c0, c1) = (number(C0), number(C1));
    let mut state = Two::new(both(x.key(), y.key()), both(x.nonce(), y.nonce()), both(c0, c0), both(c1, c1));
    let ([a, b, c], [d, e, f]) = (x.header(), y.header());
    state.update(both(a, d), both(b, e));
    state.update(both(c, f), _mm256_setzero_si256());
    absorb_two(&mut state, [x.rest, y.rest]);
    halves(state.finish(both(x.sizes(), y.sizes()))).map(|tag| store(tag))
}

/// The tags of four frames, from the longest to the shortest.
#[inline]
#[target_feature(enable = "avx512f,avx2,aes,vaes")]
fn four(jobs: [&Job<'_>; 4]) -> [[u8; TAG_BYTES]; 4] {
    let [Some(x), Some(y), Some(z), Some(w)] = jobs.map(Lines::new) else { return jobs.map(|job| one(job)) };
    let (c0, c1) = (number(C0), number(C1));
    let keys = all([x.key(), y.key(), z.key(), w.key()]);
    let nonces = all([x.nonce(), y.nonce(), z.nonce(), w.nonce()]);
    let mut state = Four::new(keys, nonces, all([c0; 4]), all([c1; 4]));
    let (x0, y0, z0, w0) = (x.header(), y.header(), z.header(), w.header());
    state.update(all([x0[0], y0[0], z0[0], w0[0]]), all([x0[1], y0[1], z0[1], w0[1]]));
    state.update(all([x0[2], y0[2], z0[2], w0[2]]), _mm512_setzero_si512());
    absorb_four(&mut state, [x.rest, y.rest, z.rest, w.rest]);
    let tags = state.finish(all([x.sizes(), y.sizes(), z.sizes(), w.sizes()]));
    let ([a, b], [c, d]) = (halves(lower(tags)), halves(upper(tags)));
    [store(a), store(b), store(c), store(d)]
}

/// Four frames as far as the shortest goes, then as two pairs.
#[inline]
#[target_feature(enable = "avx512f,avx2,aes,vaes")]
fn absorb_four(state: &mut Four, [x, y, z, w]: [&[[u8; RATE]]; 4]) {
    for (((x, y), z), w) in x.iter().zip(y).zip(z).zip(w) {
        let (front, back) = (join(load_two(x), load_two(y)), join(load_two(z), load_two(w)));
        state.update(_mm512_shuffle_i64x2::<0x88>(front, back), _mm512_shuffle_i64x2::<0xdd>(front, back));
    }
    let common = w.len();
    if x.len() > common {
        let mut front = Two(state.0.map(|all| lower(all)));
        let mut back = Two(state.0.map(|all| upper(all)));
        absorb_two(&mut front, [&x[common..], &y[common..]]);
        absorb_two(&mut back, [&z[common..], &[]]);
        for ((all, front), back) in state.0.iter_mut().zip(front.0).zip(back.0) {
            *all = join(front, back);
        }
    }
}

/// Two frames as far as the shorter one goes, then the longer one alone.
#[inline]
#[target_feature(enable = "avx2,aes,vaes")]
fn absorb_two(state: &mut Two, [x, y]: [&[[u8; RATE]]; 2]) {
    for (x, y) in x.iter().zip(y) {
        let (x, y) = (load_two(x), load_two(y));
        state.update(_mm256_permute2x128_si256::<0x20>(x, y), _mm256_permute2x128_si256::<0x31>(x, y));
    }
    if let Some(more @ [_, ..]) = x.get(y.len()..) {
        let mut alone = One(state.0.map(|both| _mm256_castsi256_si128(both)));
        absorb(&mut alone, more);
        for (both, alone) in state.0.iter_mut().zip(alone.0) {
            *both = _mm256_inserti128_si256::<0>(*both, alone);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,aes")]
fn absorb(state: &mut One, rest: &[[u8; RATE]]) {
    for block in rest {
        let [first, second] = halves(load_two(block));
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
fn halves(both: __m256i) -> [__m128i; 2] {
    [_mm256_castsi256_si128(both), _mm256_extracti128_si256::<1>(both)]
}

#[inline]
#[target_feature(enable = "avx512f,avx2")]
fn all([a, b, c, d]: [__m128i; 4]) -> __m512i {
    join(both(a, b), both(c, d))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn join(lower: __m256i, upper: __m256i) -> __m512i {
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(lower), upper)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn lower(all: __m512i) -> __m256i {
    _mm512_castsi512_si256(all)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn upper(all: __m512i) -> __m256i {
    _mm512_extracti64x4_epi64::<1>(all)
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
fn load_two(blocks: &[u8; RATE]) -> __m256i {
    // SAFETY: the reference covers the 32 bytes that are read, and the load asks for no alignment.
    unsafe { _mm256_loadu_si256(blocks.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(block: __m128i) -> [u8; 16] {
    let mut bytes = [0; 16];
    // SAFETY: the array is the 16 bytes that are written, and the store asks for no alignment.
    unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), block) };
    bytes
}
