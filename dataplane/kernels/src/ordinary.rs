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
}

/// From bit 23, the class's upper bit, to bit 5, PRIORITY_HIGH, which is its opposite.
const PRIORITY_FROM_CLASS: u32 = CLASS_SHIFT + 1 - 5;

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
    use super::{MARKED, Marks, Message, Ordinary, PRIORITY_FROM_CLASS, TAILS};
    use core::arch::x86_64::{
        __m128i, __m256i, _mm_loadu_si128, _mm256_and_si256, _mm256_broadcastsi128_si256, _mm256_castsi128_si256,
        _mm256_cmpgt_epi32, _mm256_inserti128_si256, _mm256_loadu_si256, _mm256_or_si256, _mm256_set1_epi32,
        _mm256_sllv_epi32, _mm256_sub_epi32, _mm256_subs_epu8, _mm256_testz_si256, _mm256_xor_si256,
        _mm512_broadcast_i32x4, _mm512_castsi128_si512, _mm512_inserti32x4, _mm512_loadu_si512, _mm512_min_epu32,
        _mm512_sllv_epi32, _mm512_sub_epi32, _mm512_subs_epu8, _mm512_ternarylogic_epi64, _mm512_test_epi64_mask,
    };
    use core::hint::cold_path;
    use tachyon_wire::message::{CLASS_MASK, CLASS_SHIFT, INLINE_PAYLOAD, PRIORITY_HIGH};

    /// What the first 16 bytes of an ordinary message are, as the words `[flags, flags >> 32, topic_id, sender_id]`:
    /// `((word ^ raised) & and) - less <= most` for each of them, where `raised` is the first word shifted left by
    /// [`PRIORITY_FROM_CLASS`], and zero for the others; and no byte of them is above that of `bytes`.
    ///
    /// Raised, PRIORITY_HIGH meets the class's upper bit, and one of the two is set. What else is raised meets bits that
    /// may be anything, or, from bit 24 on, comes from bits that have to be zero where they are.
    struct Words {
        and: [u32; 4],
        less: [u32; 4],
        most: [u32; 4],
        /// Only the byte that ends with the class is limited: below the class is the length, so it is one comparison.
        bytes: [u32; 4],
    }

    impl Words {
        /// `None` if no message can be ordinary, which words cannot say.
        #[inline(always)]
        fn of(like: &Ordinary) -> Option<Self> {
            const CLASS_HIGH: u32 = 1 << (CLASS_SHIFT + 1);
            let free = low(like.free() | PRIORITY_HIGH) & !CLASS_HIGH;
            let range = like.sender_high.checked_sub(like.sender_low)?;
            let class_most = u32::from(like.class_end.checked_sub(1)?);
            Some(Self {
                and: [!free, u32::MAX, like.shard_mask, u32::MAX],
                less: [low(INLINE_PAYLOAD) | CLASS_HIGH, 0, like.shard, like.sender_low],
                most: [0, 0, 0, range],
                bytes: [class_most << CLASS_SHIFT | !low(CLASS_MASK), u32::MAX, u32::MAX, u32::MAX],
            })
        }
    }

    /// The lower word of some bits of `flags`.
    const fn low(flags: u64) -> u32 {
        (flags & 0xffff_ffff) as u32
    }

    /// With fewer messages there is no group to look at.
    pub(super) const LEAST: usize = 4;
    /// By how much each word is raised; a word shifted by its length is zero.
    const RAISED: [u32; 4] = [PRIORITY_FROM_CLASS, 32, 32, 32];

    /// Marks all of each group of N that `is_met` says passes, and asks the scalar twin for the messages of all others.
    #[inline(always)]
    fn by_groups<const N: usize>(
        messages: &[Message],
        like: &Ordinary,
        is_met: impl Fn(&[Message; N]) -> bool,
    ) -> Marks {
        let mut unmet: Marks = 0;
        for (index, group) in messages.as_chunks::<N>().0.iter().enumerate() {
            if !is_met(group) {
                cold_path();
                unmet |= ((1 << N) - 1) << (index * N);
            }
        }
        // The last ones once more with some of those before: a group costs less than one message by itself.
        if !messages.len().is_multiple_of(N)
            && let Some(group) = messages.last_chunk::<N>()
            && !is_met(group)
        {
            cold_path();
            unmet |= ((1 << N) - 1) << (messages.len() - N);
        }
        let all = Marks::MAX >> (MARKED - messages.len());
        if unmet == 0 { all } else { all & !unmet | one_by_one(messages, unmet, like) }
    }

    #[cold]
    #[inline(never)]
    fn one_by_one(messages: &[Message], asked: Marks, like: &Ordinary) -> Marks {
        let asked = (0..).zip(messages).filter(|(index, _)| asked >> index & 1 != 0);
        asked.fold(0, |marks, (index, message)| marks | Marks::from(like.is_met_by(message)) << index)
    }

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

    /// Which bytes of a message have to be zero.
    #[inline(always)]
    fn tail_mask(message: &Message) -> &'static [u8; 64] {
        let [_, _, length_and_class, ..] = message.flags.to_bytes();
        &TAILS[usize::from(length_and_class & 63)].0
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2")]
    pub(super) fn ordinary_avx512(messages: &[Message], like: &Ordinary) -> Marks {
        /// (a ^ b) & c.
        const XOR_AND: i32 = 0x28;
        /// a | (b ^ c).
        const OR_XOR: i32 = 0xf6;
        /// a | b & c.
        const OR_AND: i32 = 0xf8;
        let Some(words) = Words::of(like) else { return 0 };
        let wide = |words: [u32; 4]| _mm512_broadcast_i32x4(four(words));
        let (and, less, most, bytes) = (wide(words.and), wide(words.less), wide(words.most), wide(words.bytes));
        let raised = wide(RAISED);
        by_groups(messages, like, |group| {
            let [a, b, c, d] = group;
            let heads = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(head(a)), head(b));
            let heads = _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(heads, head(c)), head(d));
            let first = _mm512_ternarylogic_epi64::<XOR_AND>(heads, _mm512_sllv_epi32(heads, raised), and);
            let first = _mm512_sub_epi32(first, less);
            let above = _mm512_subs_epu8(heads, bytes);
            let mut unmet = _mm512_ternarylogic_epi64::<OR_XOR>(above, first, _mm512_min_epu32(first, most));
            for message in group {
                // SAFETY: a message has 64 bytes, and so has a mask.
                let (line, mask) = unsafe {
                    (
                        _mm512_loadu_si512(core::ptr::from_ref(message).cast()),
                        _mm512_loadu_si512(tail_mask(message).as_ptr().cast()),
                    )
                };
                unmet = _mm512_ternarylogic_epi64::<OR_AND>(unmet, line, mask);
            }
            _mm512_test_epi64_mask(unmet, unmet) == 0
        })
    }

    #[target_feature(enable = "avx2,bmi1,bmi2")]
    pub(super) fn ordinary_avx2(messages: &[Message], like: &Ordinary) -> Marks {
        let Some(words) = Words::of(like) else { return 0 };
        let wide = |words: [u32; 4]| _mm256_broadcastsi128_si256(four(words));
        let (and, bytes, raised) = (wide(words.and), wide(words.bytes), wide(RAISED));
        // The only comparison is signed: both sides are moved by half the range.
        let half = _mm256_set1_epi32(i32::MIN);
        let (less, most) = (_mm256_xor_si256(wide(words.less), half), _mm256_xor_si256(wide(words.most), half));
        by_groups(messages, like, |[a, b]| {
            let heads = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(head(a)), head(b));
            let first = _mm256_and_si256(_mm256_xor_si256(heads, _mm256_sllv_epi32(heads, raised)), and);
            let words = _mm256_cmpgt_epi32(_mm256_sub_epi32(first, less), most);
            let unmet = _mm256_or_si256(words, _mm256_subs_epu8(heads, bytes));
            let unmet = _mm256_or_si256(unmet, _mm256_or_si256(tail_avx2(a), tail_avx2(b)));
            _mm256_testz_si256(unmet, unmet) == 1
        })
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
