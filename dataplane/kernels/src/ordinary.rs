//! Which messages of a frame are ordinary: those that pass every check for which no rule is needed, in the way that nearly
//! all do.
//!
//! The checks are those of [`tachyon_wire::message::check`] for an INLINE message, but for topic 0, which no ruleset knows;
//! and that topic, sender and class are within what the session and the moment allow. All of them are comparisons of the
//! message's first four words with what the frame says once, so they are made for several messages at a time. A message
//! that is not ordinary is not refused: it is judged one check at a time, and gets its one reason there.

use crate::path::{Level, Path};
use tachyon_wire::{
    Message,
    message::{
        CLASS_MASK, CLASS_SHIFT, GOVERNANCE_REQUIRED, INLINE_LENGTH_MASK, INLINE_MAX, INLINE_PAYLOAD, PRIORITY_HIGH,
        SYSTEM_PACKET,
    },
};
use zerocopy::IntoBytes;

/// What the messages of one frame are compared with.
#[derive(Clone, Copy, Debug)]
pub struct Ordinary {
    /// Shards of the fabric, less one.
    pub shard_mask: u32,
    /// The frame's shard.
    pub shard: u32,
    /// First sender id that the session may use.
    pub sender_low: u32,
    /// Last sender id that the session may use (inclusive).
    pub sender_high: u32,
    /// Whether SYSTEM_PACKET may be set.
    pub system: bool,
    /// Classes below this number are not shed; 0 sheds all.
    pub class_end: u8,
}

/// Marks for up to 64 messages, bit i for message i.
pub type Marks = u64;

/// Messages that one [`Marks`] speaks of.
pub const MARKED: usize = 64;

/// Marks the ordinary messages among the first [`MARKED`] of these.
#[inline]
#[must_use]
pub fn ordinary(path: Path, messages: &[Message], like: &Ordinary) -> Marks {
    let messages = messages.get(..MARKED).unwrap_or(messages);
    match path.0 {
        // SAFETY: a path of this level proves that the CPU has what the function enables.
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        Level::Avx512 if messages.len() >= x86::LEAST => unsafe { x86::ordinary_avx512(messages, like) },
        // SAFETY: as above.
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        Level::Avx2 if messages.len() >= x86::LEAST => unsafe { x86::ordinary_avx2(messages, like) },
        _ => scalar(messages, like),
    }
}

/// The scalar twin, check by check.
fn scalar(messages: &[Message], like: &Ordinary) -> Marks {
    (0..).zip(messages).fold(0, |marks, (index, message)| marks | Marks::from(like.is_met_by(message)) << index)
}

impl Ordinary {
    fn is_met_by(&self, message: &Message) -> bool {
        let flags = message.flags.get();
        let priority = flags >> PRIORITY_FROM_CLASS & PRIORITY_HIGH;
        let unlike = (flags ^ priority ^ (INLINE_PAYLOAD | PRIORITY_HIGH)) & !self.free();
        let elsewhere = message.topic_id.get() & self.shard_mask ^ self.shard;
        let sender_id = message.sender_id.get();
        (unlike == 0)
            & (elsewhere == 0)
            & (self.sender_low <= sender_id)
            & (sender_id <= self.sender_high)
            & (message.class() < self.class_end)
            & tail_is_zero(message)
    }

    /// The bits of `flags` that may be set or clear.
    fn free(&self) -> u64 {
        let system = if self.system { SYSTEM_PACKET } else { 0 };
        GOVERNANCE_REQUIRED | system | INLINE_LENGTH_MASK | CLASS_MASK
    }

    /// The comparisons as words. A message's first 16 bytes are the words `[flags, flags >> 32, topic_id, sender_id]`.
    fn words(&self) -> Words {
        Words {
            xor: [low(INLINE_PAYLOAD | PRIORITY_HIGH), 0, self.shard, 0],
            less: [0, 0, 0, self.sender_low],
            and: [low(!self.free()), u32::MAX, self.shard_mask, u32::MAX],
            most: [0, 0, 0, self.sender_high.wrapping_sub(self.sender_low)],
            class_most: [u32::from(self.class_end.wrapping_sub(1)) << CLASS_SHIFT, 0, 0, 0],
            none: self.class_end == 0 || self.sender_low > self.sender_high || self.shard & !self.shard_mask != 0,
        }
    }
}

/// The lower word of some bits of `flags`.
const fn low(flags: u64) -> u32 {
    (flags & 0xffff_ffff) as u32
}

const PRIORITY: u32 = low(PRIORITY_HIGH);
const CLASS: u32 = low(CLASS_MASK);
/// From bit 23, the class's upper bit, to bit 5, PRIORITY_HIGH, which is its opposite.
const PRIORITY_FROM_CLASS: u32 = CLASS_SHIFT + 1 - 5;

/// A message is ordinary if, word by word, `((word ^ priority ^ xor) - less) & and <= most`, where `priority` is bit 5 of
/// the first word if its bit 23 is set; and its class is at most `class_most`, and its tail is zero.
struct Words {
    xor: [u32; 4],
    less: [u32; 4],
    and: [u32; 4],
    most: [u32; 4],
    class_most: [u32; 4],
    /// No message can be ordinary: what the words cannot say.
    none: bool,
}

/// By inline length: which bytes of a message have to be zero. Lengths that six bits can say and a message cannot have ask
/// for the first byte too, which is not zero in any INLINE message, so that no message passes with them.
static TAILS: [Line; 64] = tails();

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u8; 64]);

const fn tails() -> [Line; 64] {
    let mut lines = [Line([0; 64]); 64];
    let mut length = 0;
    while length < lines.len() {
        let mut index = if length > INLINE_MAX { 0 } else { 16 + length };
        while index < 64 {
            lines[length].0[index] = 0xff;
            index += 1;
        }
        length += 1;
    }
    lines
}

fn tail_is_zero(message: &Message) -> bool {
    let tail = &TAILS[message.inline_length() & 63].0;
    let word = |bytes: &[u8; 8]| u64::from_ne_bytes(*bytes);
    let (words, masks) = (message.as_bytes().as_chunks::<8>().0, tail.as_chunks::<8>().0);
    words.iter().zip(masks).fold(0, |set, (bytes, mask)| set | word(bytes) & word(mask)) == 0
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod x86 {
    use super::{CLASS, Marks, Message, Ordinary, PRIORITY, PRIORITY_FROM_CLASS, TAILS};
    use core::arch::x86_64::{
        __m128i, __m256i, __m512i, _mm_loadu_si128, _mm256_and_si256, _mm256_broadcastsi128_si256,
        _mm256_castsi128_si256, _mm256_cmpeq_epi32, _mm256_inserti128_si256, _mm256_loadu_si256, _mm256_max_epu32,
        _mm256_movemask_epi8, _mm256_or_si256, _mm256_srli_epi32, _mm256_sub_epi32, _mm256_testz_si256,
        _mm256_xor_si256, _mm512_and_si512, _mm512_broadcast_i32x4, _mm512_castsi128_si512, _mm512_cmpgt_epu32_mask,
        _mm512_inserti32x4, _mm512_loadu_si512, _mm512_srli_epi32, _mm512_sub_epi32, _mm512_test_epi8_mask,
        _mm512_xor_si512,
    };

    /// With fewer messages there is no group of four to look at.
    pub(super) const LEAST: usize = 4;

    #[inline(always)]
    fn four(words: [u32; 4]) -> __m128i {
        // SAFETY: 16 bytes of a local array.
        unsafe { _mm_loadu_si128(words.as_ptr().cast()) }
    }

    /// The first 16 bytes.
    #[inline(always)]
    fn head(message: &Message) -> __m128i {
        // SAFETY: a message has 64 bytes.
        unsafe { _mm_loadu_si128(core::ptr::from_ref(message).cast()) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2")]
    pub(super) fn ordinary_avx512(messages: &[Message], like: &Ordinary) -> Marks {
        let words = like.words();
        if words.none {
            return 0;
        }
        let wide = |words: [u32; 4]| _mm512_broadcast_i32x4(four(words));
        let (xor, less, and, most) = (wide(words.xor), wide(words.less), wide(words.and), wide(words.most));
        let priority = wide([PRIORITY, 0, 0, 0]);
        let (class, class_most) = (wide([CLASS, 0, 0, 0]), wide(words.class_most));
        let mut marks = 0;
        let mut start = 0;
        loop {
            let Some(group) = messages.get(start..).and_then(<[Message]>::first_chunk::<4>) else { return marks };
            let heads = _mm512_castsi128_si512(head(&group[0]));
            let heads = _mm512_inserti32x4::<1>(heads, head(&group[1]));
            let heads = _mm512_inserti32x4::<2>(heads, head(&group[2]));
            let heads: __m512i = _mm512_inserti32x4::<3>(heads, head(&group[3]));
            let expected = _mm512_and_si512(_mm512_srli_epi32::<PRIORITY_FROM_CLASS>(heads), priority);
            let first = _mm512_xor_si512(_mm512_xor_si512(heads, expected), xor);
            let first = _mm512_and_si512(_mm512_sub_epi32(first, less), and);
            let unmet = _mm512_cmpgt_epu32_mask(first, most)
                | _mm512_cmpgt_epu32_mask(_mm512_and_si512(heads, class), class_most);
            let tails =
                tail_avx512(&group[0]) | tail_avx512(&group[1]) | tail_avx512(&group[2]) | tail_avx512(&group[3]);
            marks |= marked(unmet == 0 && tails == 0, group, like) << start;
            match messages.len() - start - group.len() {
                0 => return marks,
                left => start += left.min(group.len()),
            }
        }
    }

    /// The marks of a group: all, if all of it meets every comparison; else whichever do.
    #[inline(always)]
    fn marked<const N: usize>(all: bool, group: &[Message; N], like: &Ordinary) -> Marks {
        if all { (1 << N) - 1 } else { one_by_one(group, like) }
    }

    #[cold]
    #[inline(never)]
    fn one_by_one(group: &[Message], like: &Ordinary) -> Marks {
        super::scalar(group, like)
    }

    /// Which bytes of a message have to be zero.
    #[inline(always)]
    fn tail_mask(message: &Message) -> &'static [u8; 64] {
        let [_, _, length_and_class, ..] = message.flags.to_bytes();
        &TAILS[usize::from(length_and_class & 63)].0
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn tail_avx512(message: &Message) -> u64 {
        // SAFETY: a message has 64 bytes, and so has a mask.
        let (line, mask) = unsafe {
            (
                _mm512_loadu_si512(core::ptr::from_ref(message).cast()),
                _mm512_loadu_si512(tail_mask(message).as_ptr().cast()),
            )
        };
        _mm512_test_epi8_mask(line, mask)
    }

    #[target_feature(enable = "avx2,bmi1,bmi2")]
    pub(super) fn ordinary_avx2(messages: &[Message], like: &Ordinary) -> Marks {
        let words = like.words();
        if words.none {
            return 0;
        }
        let wide = |words: [u32; 4]| _mm256_broadcastsi128_si256(four(words));
        let (xor, less, and, most) = (wide(words.xor), wide(words.less), wide(words.and), wide(words.most));
        let priority = wide([PRIORITY, 0, 0, 0]);
        let (class, class_most) = (wide([CLASS, 0, 0, 0]), wide(words.class_most));
        // There is no unsigned comparison: a word is at most another if that is the greater of the two.
        let at_most = |word: __m256i, most| _mm256_cmpeq_epi32(_mm256_max_epu32(word, most), most);
        let mut marks = 0;
        let mut start = 0;
        loop {
            let Some(group) = messages.get(start..).and_then(<[Message]>::first_chunk::<2>) else { return marks };
            let heads = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(head(&group[0])), head(&group[1]));
            let expected =
                _mm256_and_si256(_mm256_srli_epi32::<{ PRIORITY_FROM_CLASS.cast_signed() }>(heads), priority);
            let first = _mm256_xor_si256(_mm256_xor_si256(heads, expected), xor);
            let first = _mm256_and_si256(_mm256_sub_epi32(first, less), and);
            let met = _mm256_and_si256(at_most(first, most), at_most(_mm256_and_si256(heads, class), class_most));
            let tails = _mm256_or_si256(tail_avx2(&group[0]), tail_avx2(&group[1]));
            let all = _mm256_movemask_epi8(met) == -1 && _mm256_testz_si256(tails, tails) == 1;
            marks |= marked(all, group, like) << start;
            match messages.len() - start - group.len() {
                0 => return marks,
                left => start += left.min(group.len()),
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn tail_avx2(message: &Message) -> __m256i {
        let (line, mask) =
            (core::ptr::from_ref(message).cast::<__m256i>(), tail_mask(message).as_ptr().cast::<__m256i>());
        // SAFETY: a message has 64 bytes, and so has a mask.
        unsafe {
            let low = _mm256_and_si256(_mm256_loadu_si256(line), _mm256_loadu_si256(mask));
            _mm256_or_si256(low, _mm256_and_si256(_mm256_loadu_si256(line.add(1)), _mm256_loadu_si256(mask.add(1))))
        }
    }
}
