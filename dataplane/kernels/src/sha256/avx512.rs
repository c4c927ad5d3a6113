//! Sixteen inputs at once, a lane of every register for each.

use super::{BLOCK, HASH_BYTES, Job, K, START, State, bytes};
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
pub(super) const LEAST: usize = 12;
/// The same where the alternative is the scalar twin.
pub(super) const LEAST_WITHOUT_SHA: usize = 3;

/// Exclusive or of three.
const XOR3: i32 = 0x96;
/// The second where the first is set, else the third.
const CHOOSE: i32 = 0xca;
/// What at least two of three say.
const MAJORITY: i32 = 0xe8;

/// A word of the state, or of the blocks, of each lane.
type States = [__m512i; 8];
type Words = [__m512i; 16];

/// What a lane reads that has no job: no byte of it counts, but it has to be memory.
static IDLE: [u8; BLOCK] = [0; BLOCK];

/// Hashes the jobs until fewer than `least` of them are left, and gives those back.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2")]
pub(super) fn by_sixteens<'a, J: Iterator<Item = Job<'a>>>(
    mut jobs: J,
    least: usize,
    hashes: &mut [[u8; HASH_BYTES]],
) -> impl Iterator<Item = Job<'a>> + use<'a, J> {
    let idle = Job { prefix: 0, input: &IDLE, place: 0, at: 0, state: START };
    let mut lanes = [idle; LANES];
    let (mut busy, mut states) = (0, [_mm512_setzero_si512(); 8]);
    let mut free = !busy;
    loop {
        let mut taken: __mmask16 = 0;
        for lane in set(free) {
            let Some(job) = jobs.next() else { break };
            (lanes[lane], taken) = (job, taken | 1 << lane);
        }
        busy |= taken;
        for (words, start) in states.iter_mut().zip(START) {
            *words = _mm512_mask_set1_epi32(*words, taken, start.cast_signed());
        }
        if (busy.count_ones() as usize) < least {
            break;
        }
        let words = words(&lanes);
        compress(&mut states, words);
        free = 0;
        for lane in set(busy) {
            lanes[lane].at += BLOCK;
            free |= __mmask16::from(lanes[lane].is_done()) << lane;
        }
        if free != 0 {
            let states = columns(&states);
            for lane in set(free) {
                hashes[lanes[lane].place] = bytes(&states[lane]);
                lanes[lane] = idle;
            }
            busy &= !free;
        }
    }
    let states = columns(&states);
    lanes
        .into_iter()
        .zip(states)
        .enumerate()
        .filter(move |(lane, _)| busy >> lane & 1 == 1)
        .map(|(_, (job, state))| Job { state, ..job })
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

/// The words of the next block of each lane, padding and all.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2")]
fn words(lanes: &[Job<'_>; LANES]) -> Words {
    let (mut first, mut last): (__mmask16, __mmask16) = (0, 0);
    let (mut prefixes, mut bits_high, mut bits_low) = ([0; LANES], [0; LANES], [0; LANES]);
    let mut rows = [_mm512_setzero_si512(); LANES];
    for (lane, job) in lanes.iter().enumerate() {
        rows[lane] = row(job);
        first |= __mmask16::from(job.at == 0) << lane;
        last |= __mmask16::from(job.at + BLOCK == job.padded_bytes()) << lane;
        prefixes[lane] = u32::from(job.prefix) << 24;
        [bits_high[lane], bits_low[lane]] = halves(job.bits());
    }
    let mut words = transposed(rows);
    // Where a prefix or a length belongs, a row has zeros.
    words[0] = _mm512_mask_or_epi32(words[0], first, words[0], load(&prefixes));
    words[14] = _mm512_mask_mov_epi32(words[14], last, load(&bits_high));
    words[15] = _mm512_mask_mov_epi32(words[15], last, load(&bits_low));
    words
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the halves of a number")]
const fn halves(number: u64) -> [u32; 2] {
    [(number >> 32) as u32, number as u32]
}

/// The next block of a job, but for prefix and length.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,bmi1,bmi2")]
fn row(job: &Job<'_>) -> __m512i {
    // Behind the end there is a byte 0x80, whose place may be in this block, in one to come, or in the one before.
    let (end, at) = (job.input.len() + 1, job.at);
    let marker =
        if end < at { 0 } else { u32::try_from(end - at).ok().and_then(|end| 1_u64.checked_shl(end)).unwrap_or(0) };
    let before_end = if end < at { 0 } else { marker.wrapping_sub(1) };
    // The first byte of the first block is the prefix's.
    let input = before_end & !u64::from(at == 0);
    let block = job.input.as_ptr().wrapping_add(at).wrapping_sub(1);
    let padding = _mm512_maskz_set1_epi8(marker, 0x80_u8.cast_signed());
    // SAFETY: byte `i` of the block is byte `at + i - 1` of the input. Those are read whose bits are set: they are neither
    // before the input's start nor behind its end. What is not set is not read, and cannot fault.
    unsafe { _mm512_mask_loadu_epi8(padding, input, block.cast()) }
}

/// Sixteen rows of sixteen words, the highest byte first, as sixteen columns of numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq")]
fn transposed(rows: [__m512i; LANES]) -> Words {
    let swap = _mm512_broadcast_i32x4(_mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3));
    let zero = _mm512_setzero_si512();
    let (mut pairs, mut fours, mut eights, mut words) = ([zero; 16], [zero; 16], [zero; 16], [zero; 16]);
    // Each quarter of a register is transposed for itself: words of two rows side by side, then of four.
    for at in (0..16).step_by(2) {
        pairs[at] = _mm512_unpacklo_epi32(rows[at], rows[at + 1]);
        pairs[at + 1] = _mm512_unpackhi_epi32(rows[at], rows[at + 1]);
    }
    for at in (0..16).step_by(4) {
        fours[at] = _mm512_unpacklo_epi64(pairs[at], pairs[at + 2]);
        fours[at + 1] = _mm512_unpackhi_epi64(pairs[at], pairs[at + 2]);
        fours[at + 2] = _mm512_unpacklo_epi64(pairs[at + 1], pairs[at + 3]);
        fours[at + 3] = _mm512_unpackhi_epi64(pairs[at + 1], pairs[at + 3]);
    }
    // Then the quarters are.
    for at in 0..4 {
        for half in [at, at + 8] {
            eights[half] = _mm512_shuffle_i32x4::<0x88>(fours[half], fours[half + 4]);
            eights[half + 4] = _mm512_shuffle_i32x4::<0xdd>(fours[half], fours[half + 4]);
        }
        for quarter in [at, at + 4] {
            words[quarter] = _mm512_shuffle_i32x4::<0x88>(eights[quarter], eights[quarter + 8]);
            words[quarter + 8] = _mm512_shuffle_i32x4::<0xdd>(eights[quarter], eights[quarter + 8]);
        }
    }
    words.map(|word| _mm512_shuffle_epi8(word, swap))
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

/// The state of each lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn columns(states: &States) -> [State; LANES] {
    let mut columns = [[0; 8]; LANES];
    for (at, words) in states.iter().enumerate() {
        for (column, word) in columns.iter_mut().zip(store(*words)) {
            column[at] = word;
        }
    }
    columns
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(words: &[u32; LANES]) -> __m512i {
    // SAFETY: the reference covers the 64 bytes that are read, and the load asks for no alignment.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(words: __m512i) -> [u32; LANES] {
    let mut numbers = [0; LANES];
    // SAFETY: the array is the 64 bytes that are written, and the store asks for no alignment.
    unsafe { _mm512_storeu_si512(numbers.as_mut_ptr().cast(), words) };
    numbers
}
