//! Sixteen inputs at once, a lane of every register for each.

use super::{BLOCK, HASH_BYTES, Job, K, START};
use core::arch::x86_64::{
    __m512i, __mmask16, _mm_set_epi8, _mm512_add_epi32, _mm512_broadcast_i32x4, _mm512_loadu_si512,
    _mm512_mask_loadu_epi8, _mm512_mask_mov_epi32, _mm512_mask_or_epi32, _mm512_mask_set1_epi32,
    _mm512_maskz_set1_epi8, _mm512_ror_epi32, _mm512_set1_epi32, _mm512_setzero_si512, _mm512_shuffle_epi8,
    _mm512_shuffle_i32x4, _mm512_srli_epi32, _mm512_storeu_si512, _mm512_ternarylogic_epi32, _mm512_unpackhi_epi32,
    _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};

/// Inputs that are hashed at once.
pub(super) const LANES: usize = 16;
/// With fewer lanes in use, pairs cost less: a step takes as long for one lane as for all.
pub(super) const LEAST: usize = 11;
/// The same where the alternative is the scalar twin.
pub(super) const LEAST_WITHOUT_SHA: usize = 2;

/// Exclusive or of three.
const XOR3: i32 = 0x96;
/// The second where the first is set, else the third.
const CHOOSE: i32 = 0xca;
/// What at least two of three say.
const MAJORITY: i32 = 0xe8;

/// A word of the state, or of the blocks, of each lane.
type States = [__m512i; 8];
type Words = [__m512i; 16];

/// What a lane reads that has no job. No byte of it counts, but a load is slow where there is no memory, even of nothing.
static IDLE: [u8; BLOCK] = [0; BLOCK];

/// Where the lanes are.
struct Lanes<'a> {
    inputs: [&'a [u8]; LANES],
    /// Which of the inputs it is.
    places: [usize; LANES],
    /// Bytes in the state, the prefix among them.
    at: [usize; LANES],
    /// Bytes that will be, padding and all.
    ends: [usize; LANES],
    /// Bits of prefix and input: the upper halves, and the lower.
    bits: [[u32; LANES]; 2],
}

/// Hashes the jobs, all of which have the same prefix, until fewer than `least` of them are left, and gives those back.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,popcnt")]
pub(super) fn by_sixteens<'a, J: Iterator<Item = Job<'a>>>(
    prefix: u8,
    mut jobs: J,
    least: usize,
    hashes: &mut [[u8; HASH_BYTES]],
) -> impl Iterator<Item = Job<'a>> + use<'a, J> {
    let mut lanes = Lanes::idle();
    let (mut busy, mut states) = (0, [_mm512_setzero_si512(); 8]);
    loop {
        let taken = lanes.take(!busy, &mut jobs);
        busy |= taken;
        for (words, start) in states.iter_mut().zip(START) {
            *words = _mm512_mask_set1_epi32(*words, taken, start.cast_signed());
        }
        if (busy.count_ones() as usize) < least {
            return lanes.left(prefix, busy, columns(states));
        }
        compress(&mut states, lanes.words(prefix, taken));
        let done = lanes.advance(busy);
        if done != 0 {
            let columns = columns(states);
            for lane in set(done) {
                hashes[lanes.places[lane]] = columns[lane];
                (lanes.inputs[lane], lanes.at[lane]) = (&IDLE, 0);
            }
            busy &= !done;
        }
    }
}

impl<'a> Lanes<'a> {
    #[inline]
    const fn idle() -> Self {
        let zeros = [0; LANES];
        Self { inputs: [&IDLE; LANES], places: zeros, at: zeros, ends: zeros, bits: [[0; LANES]; 2] }
    }

    /// Puts jobs into the free lanes, as many as there are of both, and says into which.
    #[inline]
    fn take(&mut self, free: __mmask16, jobs: &mut impl Iterator<Item = Job<'a>>) -> __mmask16 {
        let mut taken = 0;
        for lane in set(free) {
            let Some(job) = jobs.next() else { break };
            (self.inputs[lane], self.places[lane], self.at[lane]) = (job.input, job.place, 0);
            self.ends[lane] = job.padded_bytes();
            [self.bits[0][lane], self.bits[1][lane]] = halves(job.bits());
            taken |= 1 << lane;
        }
        taken
    }

    /// Goes on to the next block, and says which lanes have none.
    #[inline]
    fn advance(&mut self, busy: __mmask16) -> __mmask16 {
        let mut done = 0;
        for lane in set(busy) {
            self.at[lane] += BLOCK;
            done |= __mmask16::from(self.at[lane] == self.ends[lane]) << lane;
        }
        done
    }

    /// The jobs of the lanes that are not done.
    #[inline]
    fn left(self, prefix: u8, busy: __mmask16, columns: [[u8; HASH_BYTES]; LANES]) -> impl Iterator<Item = Job<'a>> {
        set(busy).map(move |lane| {
            let mut state = START;
            for (word, bytes) in state.iter_mut().zip(columns[lane].as_chunks().0) {
                *word = u32::from_be_bytes(*bytes);
            }
            Job { prefix, input: self.inputs[lane], place: self.places[lane], at: self.at[lane], state }
        })
    }

    /// The words of the next block of each lane, padding and all; for `first` it is the first block.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2")]
    fn words(&self, prefix: u8, first: __mmask16) -> Words {
        let mut rows = [_mm512_setzero_si512(); LANES];
        for ((row, input), at) in rows.iter_mut().zip(self.inputs).zip(self.at) {
            *row = block(input, at);
        }
        let mut last = 0;
        for (lane, (at, end)) in self.at.iter().zip(self.ends).enumerate() {
            last |= __mmask16::from(at + BLOCK == end) << lane;
        }
        let mut words = transposed(rows);
        // Where prefix and length belong, a block has zeros.
        let prefix = _mm512_set1_epi32((u32::from(prefix) << 24).cast_signed());
        words[0] = _mm512_mask_or_epi32(words[0], first, words[0], prefix);
        words[14] = _mm512_mask_mov_epi32(words[14], last, load_words(&self.bits[0]));
        words[15] = _mm512_mask_mov_epi32(words[15], last, load_words(&self.bits[1]));
        words
    }
}

/// The lanes whose bits are set.
#[inline]
fn set(mut bits: __mmask16) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let lane = bits.trailing_zeros() as usize;
        bits &= bits.wrapping_sub(1);
        (lane < LANES).then_some(lane)
    })
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the halves of a number")]
const fn halves(number: u64) -> [u32; 2] {
    [(number >> 32) as u32, number as u32]
}

/// The block of `prefix` and input that starts at `at`, but for prefix and length.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,bmi1,bmi2")]
fn block(input: &[u8], at: usize) -> __m512i {
    if at > 0
        && let Some(rest) = input.get(at - 1..)
        && let Some(whole) = rest.first_chunk()
    {
        return load(whole);
    }
    // Behind the end there is a byte 0x80, in this block, in one to come, or in the one before.
    let (before_end, marker) = match (input.len() + 1).checked_sub(at) {
        Some(end @ 0..BLOCK) => ((1 << end) - 1, 1 << end),
        Some(_) => (u64::MAX, 0),
        None => (0, 0),
    };
    // The first byte of the first block is the prefix's.
    let from_input = before_end & !u64::from(at == 0);
    let block = input.as_ptr().wrapping_add(at).wrapping_sub(1);
    let padding = _mm512_maskz_set1_epi8(marker, 0x80_u8.cast_signed());
    // SAFETY: byte `i` of the block is byte `at + i - 1` of the input. Those are read whose bits are set: they are neither
    // before the input's start nor behind its end. What is not set is not read, and cannot fault.
    unsafe { _mm512_mask_loadu_epi8(padding, from_input, block.cast()) }
}

/// Sixteen rows of sixteen words, the highest byte first, as sixteen columns of numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq")]
fn transposed(rows: [__m512i; LANES]) -> Words {
    let fours = by_quarters(rows);
    let mut words = fours;
    for at in 0..4 {
        let [a, b, c, d] = [fours[at], fours[at + 4], fours[at + 8], fours[at + 12]];
        let (even, odd) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
        let (even_after, odd_after) = (_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xdd>(c, d));
        words[at] = swapped(_mm512_shuffle_i32x4::<0x88>(even, even_after));
        words[at + 4] = swapped(_mm512_shuffle_i32x4::<0x88>(odd, odd_after));
        words[at + 8] = swapped(_mm512_shuffle_i32x4::<0xdd>(even, even_after));
        words[at + 12] = swapped(_mm512_shuffle_i32x4::<0xdd>(odd, odd_after));
    }
    words
}

/// Of each four rows, the first words of all quarters side by side, then the second, third and fourth ones: each quarter is
/// transposed for itself.
#[inline]
#[target_feature(enable = "avx512f")]
fn by_quarters<const ROWS: usize>(mut rows: [__m512i; ROWS]) -> [__m512i; ROWS] {
    for rows in rows.as_chunks_mut::<4>().0 {
        let [a, b, c, d] = *rows;
        let (ab, ab_after) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let (cd, cd_after) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        *rows = [
            _mm512_unpacklo_epi64(ab, cd),
            _mm512_unpackhi_epi64(ab, cd),
            _mm512_unpacklo_epi64(ab_after, cd_after),
            _mm512_unpackhi_epi64(ab_after, cd_after),
        ];
    }
    rows
}

/// Each word with its bytes in the other order.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq")]
fn swapped(words: __m512i) -> __m512i {
    let swap = _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
    _mm512_shuffle_epi8(words, _mm512_broadcast_i32x4(swap))
}

/// A block of each lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn compress(states: &mut States, mut words: Words) {
    let (first, later) = K.split_at(16);
    let mut state = *states;
    sixteen_times!(I => state = round(state, words[I], first[I]));
    for k in later.as_chunks::<16>().0 {
        sixteen_times!(I => {
            let [far, middle, near] = [words[(I + 1) % 16], words[(I + 9) % 16], words[(I + 14) % 16]];
            let far = xor3(ror::<7>(far), ror::<18>(far), _mm512_srli_epi32::<3>(far));
            let near = xor3(ror::<17>(near), ror::<19>(near), _mm512_srli_epi32::<10>(near));
            words[I] = add(add(words[I], far), add(middle, near));
            state = round(state, words[I], k[I]);
        });
    }
    for (states, state) in states.iter_mut().zip(state) {
        *states = add(*states, state);
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn round([a, b, c, d, e, f, g, h]: States, word: __m512i, k: u32) -> States {
    let sum = xor3(ror::<6>(e), ror::<11>(e), ror::<25>(e));
    let known = add(h, add(word, _mm512_set1_epi32(k.cast_signed())));
    let first = add(add(known, _mm512_ternarylogic_epi32::<CHOOSE>(e, f, g)), sum);
    let sum = xor3(ror::<2>(a), ror::<13>(a), ror::<22>(a));
    let second = add(sum, _mm512_ternarylogic_epi32::<MAJORITY>(a, b, c));
    [add(first, second), a, b, c, add(d, first), e, f, g]
}

#[inline]
#[target_feature(enable = "avx512f")]
fn add(a: __m512i, b: __m512i) -> __m512i {
    _mm512_add_epi32(a, b)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn ror<const BITS: i32>(a: __m512i) -> __m512i {
    _mm512_ror_epi32::<BITS>(a)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn xor3(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
    _mm512_ternarylogic_epi32::<XOR3>(a, b, c)
}

/// What is published of each lane's state.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq")]
fn columns(states: States) -> [[u8; HASH_BYTES]; LANES] {
    // Quarter `q` of one register has words of the lanes from `4 * q` on, one lane a register.
    let quarters = by_quarters(states).map(|words| store(swapped(words)));
    let mut columns = [[0; HASH_BYTES]; LANES];
    for (lane, column) in columns.iter_mut().enumerate() {
        for (half, bytes) in column.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            *bytes = quarters[4 * half + lane % 4][lane / 4];
        }
    }
    columns
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(block: &[u8; BLOCK]) -> __m512i {
    // SAFETY: the reference covers the 64 bytes that are read, and the load asks for no alignment.
    unsafe { _mm512_loadu_si512(block.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_words(words: &[u32; LANES]) -> __m512i {
    // SAFETY: as above.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(words: __m512i) -> [[u8; 16]; 4] {
    let mut quarters = [[0; 16]; 4];
    // SAFETY: the array is the 64 bytes that are written, and the store asks for no alignment.
    unsafe { _mm512_storeu_si512(quarters.as_mut_ptr().cast(), words) };
    quarters
}
