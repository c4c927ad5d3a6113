//! Two inputs that take turns at the SHA instructions: the one for two rounds takes five cycles, but another can start every
//! three (Sapphire Rapids, measured), so an input alone leaves two fifths of them unused, and two leave nothing.
//!
//! The instructions exist in the old encoding alone, which waits for the upper halves of wide registers wherever these hold
//! something. So nothing here may enable AVX, not even for copies that the compiler makes: it cost a factor of eight.
//!
//! The state's words stand as the instructions want them, the highest first: a, b, e, f and c, d, g, h.

use super::{BLOCK, HASH_BYTES, Job, K, bytes};
use core::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_loadu_si128, _mm_set_epi8, _mm_set_epi32, _mm_setzero_si128,
    _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8, _mm_shuffle_epi32,
    _mm_storeu_si128,
};

/// A job whose state stands as the instructions want it.
struct Stream<'a> {
    job: Job<'a>,
    state: [__m128i; 2],
}

impl<'a> Stream<'a> {
    #[inline]
    #[target_feature(enable = "sha,sse4.1,ssse3")]
    fn new(job: Job<'a>) -> Self {
        let [a, b, c, d, e, f, g, h] = job.state.map(u32::cast_signed);
        Self { job, state: [_mm_set_epi32(a, b, e, f), _mm_set_epi32(c, d, g, h)] }
    }

    #[inline]
    #[target_feature(enable = "sha,sse4.1,ssse3")]
    fn hash(&self) -> [u8; HASH_BYTES] {
        let [[f, e, b, a], [h, g, d, c]] = self.state.map(|half| words(half));
        bytes(&[a, b, c, d, e, f, g, h])
    }
}

/// Hashes what the jobs have left, two at a time: where one ends, the next takes its place.
#[target_feature(enable = "sha,sse4.1,ssse3")]
pub(super) fn by_pairs<'a>(mut jobs: impl Iterator<Item = Job<'a>>, hashes: &mut [[u8; HASH_BYTES]]) {
    let Some(first) = jobs.next() else { return };
    let mut alone = Stream::new(first);
    for second in jobs {
        let (mut a, mut b) = (alone, Stream::new(second));
        while !a.job.is_done() && !b.job.is_done() {
            advance([&mut a, &mut b]);
        }
        if b.job.is_done() {
            core::mem::swap(&mut a, &mut b);
        }
        hashes[a.job.place] = a.hash();
        alone = b;
    }
    while !alone.job.is_done() {
        advance([&mut alone]);
    }
    hashes[alone.job.place] = alone.hash();
}

/// As many blocks as all of the streams have next.
#[inline]
#[target_feature(enable = "sha,sse4.1,ssse3")]
fn advance<const N: usize>(mut streams: [&mut Stream<'_>; N]) {
    let mut edges = [[0; BLOCK]; N];
    let mut blocks: [&[[u8; BLOCK]]; N] = [&[]; N];
    let mut states = [[_mm_setzero_si128(); 2]; N];
    for (((blocks, state), stream), edge) in blocks.iter_mut().zip(&mut states).zip(&streams).zip(&mut edges) {
        (*blocks, *state) = (stream.job.blocks(edge), stream.state);
    }
    let common = blocks.iter().map(|blocks| blocks.len()).min().unwrap_or(0);
    for at in 0..common {
        compress(&mut states, blocks.map(|blocks| &blocks[at]));
    }
    for (stream, state) in streams.iter_mut().zip(states) {
        (stream.state, stream.job.at) = (state, stream.job.at + common * BLOCK);
    }
}

/// A block each.
#[inline]
#[target_feature(enable = "sha,sse4.1,ssse3")]
fn compress<const N: usize>(states: &mut [[__m128i; 2]; N], blocks: [&[u8; BLOCK]; N]) {
    let k = K.as_chunks::<4>().0;
    let mut words = blocks.map(|block| load(block));
    let before = *states;
    sixteen_times!(I => for (words, [abef, cdgh]) in words.iter_mut().zip(states.iter_mut()) {
        let added = _mm_add_epi32(words[I % 4], load_constants(&k[I]));
        *cdgh = _mm_sha256rnds2_epu32(*cdgh, *abef, added);
        *abef = _mm_sha256rnds2_epu32(*abef, *cdgh, _mm_shuffle_epi32::<0x0e>(added));
        if I < 12 {
            // The words of the rounds that come four times four later, from the last sixteen.
            let [a, b, c, d] = [words[I % 4], words[(I + 1) % 4], words[(I + 2) % 4], words[(I + 3) % 4]];
            let sum = _mm_add_epi32(_mm_sha256msg1_epu32(a, b), _mm_alignr_epi8::<4>(d, c));
            words[I % 4] = _mm_sha256msg2_epu32(sum, d);
        }
    });
    for (state, before) in states.iter_mut().zip(before) {
        *state = [_mm_add_epi32(state[0], before[0]), _mm_add_epi32(state[1], before[1])];
    }
}

/// A block as numbers, which it holds with their highest byte first.
#[inline]
#[target_feature(enable = "ssse3")]
fn load(block: &[u8; BLOCK]) -> [__m128i; 4] {
    let swap = _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
    let block: *const __m128i = block.as_ptr().cast();
    // SAFETY: the reference covers the 64 bytes that are read, and the loads ask for no alignment.
    let quarters = unsafe {
        [
            _mm_loadu_si128(block),
            _mm_loadu_si128(block.add(1)),
            _mm_loadu_si128(block.add(2)),
            _mm_loadu_si128(block.add(3)),
        ]
    };
    quarters.map(|quarter| _mm_shuffle_epi8(quarter, swap))
}

#[inline]
#[target_feature(enable = "sse2")]
fn load_constants(constants: &[u32; 4]) -> __m128i {
    // SAFETY: the reference covers the 16 bytes that are read, and the load asks for no alignment.
    unsafe { _mm_loadu_si128(constants.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "sse2")]
fn words(half: __m128i) -> [u32; 4] {
    let mut words = [0; 4];
    // SAFETY: the array is the 16 bytes that are written, and the store asks for no alignment.
    unsafe { _mm_storeu_si128(words.as_mut_ptr().cast(), half) };
    words
}
