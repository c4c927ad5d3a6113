//! The 64-byte message: its layout, how one is made, and the one place that checks it.

use crate::Reason;
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::little_endian::{U32, U64},
};

/// `flags`: the payload is in `data` itself.
pub const INLINE_PAYLOAD: u64 = 1 << 0;
/// `flags`: the payload is in an arena; arena 0 is the frame that carries the message.
pub const REF_ARENA: u64 = 1 << 1;
/// `flags`: the payload is in a shared-memory segment.
pub const REF_SHM: u64 = 1 << 2;
/// `flags`: informs only; no check is ever skipped for it.
pub const GOVERNANCE_REQUIRED: u64 = 1 << 3;
/// `flags`: for the fabric's own use; needs a right of its own.
pub const SYSTEM_PACKET: u64 = 1 << 4;
/// `flags`: set exactly if the class is P0 or P1.
pub const PRIORITY_HIGH: u64 = 1 << 5;
/// Where the inline length (0–48) stands in `flags`.
pub const INLINE_LENGTH_SHIFT: u32 = 16;
/// Six bits of inline length.
pub const INLINE_LENGTH_MASK: u64 = 0x3f << INLINE_LENGTH_SHIFT;
/// Where the class (P0–P3) stands in `flags`.
pub const CLASS_SHIFT: u32 = 22;
/// Two bits of class.
pub const CLASS_MASK: u64 = 0b11 << CLASS_SHIFT;
/// Every bit that may be set.
pub const FLAGS_KNOWN: u64 = 0x3f | INLINE_LENGTH_MASK | CLASS_MASK;
/// The three mode bits, of which exactly one is set.
pub const MODE_MASK: u64 = INLINE_PAYLOAD | REF_ARENA | REF_SHM;
/// The last class; P0 is the first to keep, P3 the first to shed.
pub const CLASS_MAX: u8 = 3;
/// `arena_id` that means "the frame that carries the message".
pub const ARENA_FRAME: u32 = 0;
/// Bytes of payload that fit into the message itself.
pub const INLINE_MAX: usize = 48;

/// One message: 64 bytes, little endian, alignment 1, exactly one byte string per meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Message {
    /// Payload mode, class and the bits above.
    pub flags: U64,
    /// The topic; 0 is reserved.
    pub topic_id: U32,
    /// Who sent it; must lie in the session's range.
    pub sender_id: U32,
    /// Inline payload, or a reference.
    pub data: [u8; INLINE_MAX],
}

const _: () = assert!(size_of::<Message>() == 64 && align_of::<Message>() == 1);

/// `data` of a REF_ARENA message, packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ArenaReference {
    /// [`ARENA_FRAME`], or an arena of a shared-memory lane.
    pub arena_id: U32,
    /// Bytes from the start of the frame, or of that arena.
    pub offset: U64,
    /// Bytes of payload, at least 1.
    pub length: U32,
    /// crc32c of the payload, zero-extended.
    pub checksum: U64,
    /// Zero.
    pub reserved: [u8; 24],
}

/// `data` of a REF_SHM message, packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ShmReference {
    /// The shared-memory segment.
    pub segment_id: U64,
    /// Bytes from the start of the segment.
    pub offset: U64,
    /// Bytes of payload, at least 1.
    pub length: U32,
    /// crc32c of the payload, zero-extended.
    pub checksum: U64,
    /// Zero.
    pub reserved: [u8; 20],
}

const _: () = assert!(size_of::<ArenaReference>() == INLINE_MAX && size_of::<ShmReference>() == INLINE_MAX);

/// Where a message's payload is, if it is not in the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference {
    /// REF_ARENA.
    Arena(ArenaReference),
    /// REF_SHM.
    Shm(ShmReference),
}

impl Message {
    /// A message that carries its payload itself. `None` if `topic_id` is 0, the class is above [`CLASS_MAX`], or the
    /// payload is longer than [`INLINE_MAX`] bytes.
    #[must_use]
    pub fn inline(topic_id: u32, sender_id: u32, class: u8, payload: &[u8]) -> Option<Self> {
        let mut data = [0; INLINE_MAX];
        data.get_mut(..payload.len())?.copy_from_slice(payload);
        let length = (payload.len() as u64) << INLINE_LENGTH_SHIFT;
        Self::new(INLINE_PAYLOAD | length, topic_id, sender_id, class, data)
    }

    /// A message whose payload is in an arena. For a payload that travels in the frame itself use
    /// [`crate::build::FrameWriter::push_with_payload`], which knows the offset. `None` as in [`Message::inline`], or if
    /// the length is 0.
    #[must_use]
    pub fn arena(topic_id: u32, sender_id: u32, class: u8, place: ArenaReference) -> Option<Self> {
        let data = ArenaReference { reserved: [0; 24], ..place };
        if data.length.get() == 0 {
            return None;
        }
        Self::new(REF_ARENA, topic_id, sender_id, class, zerocopy::transmute!(data))
    }

    /// A message whose payload is in a shared-memory segment. `None` as in [`Message::arena`].
    #[must_use]
    pub fn shm(topic_id: u32, sender_id: u32, class: u8, place: ShmReference) -> Option<Self> {
        let data = ShmReference { reserved: [0; 20], ..place };
        if data.length.get() == 0 {
            return None;
        }
        Self::new(REF_SHM, topic_id, sender_id, class, zerocopy::transmute!(data))
    }

    fn new(flags: u64, topic_id: u32, sender_id: u32, class: u8, data: [u8; INLINE_MAX]) -> Option<Self> {
        if topic_id == 0 || class > CLASS_MAX {
            return None;
        }
        let priority = if class <= 1 { PRIORITY_HIGH } else { 0 };
        let flags = U64::new(flags | priority | u64::from(class) << CLASS_SHIFT);
        Some(Self { flags, topic_id: U32::new(topic_id), sender_id: U32::new(sender_id), data })
    }

    /// The same message with [`GOVERNANCE_REQUIRED`] and [`SYSTEM_PACKET`] as given; other bits of `marks` are ignored.
    #[must_use]
    pub fn with_marks(mut self, marks: u64) -> Self {
        let mask = GOVERNANCE_REQUIRED | SYSTEM_PACKET;
        self.flags = U64::new(self.flags.get() & !mask | marks & mask);
        self
    }

    /// The claimed class, 0 (first to keep) to 3.
    #[inline]
    #[must_use]
    pub fn class(&self) -> u8 {
        // Two bits always fit; the mask is what makes that so.
        (self.flags.get() >> CLASS_SHIFT & 0b11).to_le_bytes()[0]
    }

    /// The inline length as it stands in `flags`: 0–48 in a message that passed [`check`], up to 63 in one that did not.
    #[inline]
    #[must_use]
    pub fn inline_length(&self) -> usize {
        usize::from((self.flags.get() >> INLINE_LENGTH_SHIFT & 0x3f).to_le_bytes()[0])
    }

    /// The payload, if the message carries it itself and its length is at most 48.
    #[inline]
    #[must_use]
    pub fn inline_payload(&self) -> Option<&[u8]> {
        if self.flags.get() & MODE_MASK == INLINE_PAYLOAD { self.data.get(..self.inline_length()) } else { None }
    }

    /// Where the payload is, if the mode is exactly REF_ARENA or exactly REF_SHM.
    #[inline]
    #[must_use]
    pub fn reference(&self) -> Option<Reference> {
        match self.flags.get() & MODE_MASK {
            REF_ARENA => Some(Reference::Arena(zerocopy::transmute!(self.data))),
            REF_SHM => Some(Reference::Shm(zerocopy::transmute!(self.data))),
            _ => None,
        }
    }

    /// The reference, if the payload travels in the frame: mode exactly REF_ARENA, arena 0. Only such messages take part
    /// in the payload area.
    #[inline]
    #[must_use]
    pub fn in_frame(&self) -> Option<ArenaReference> {
        if !self.is_in_frame() {
            return None;
        }
        Some(zerocopy::transmute!(self.data))
    }

    /// Whether [`Message::in_frame`] has something to say.
    #[inline]
    #[must_use]
    pub fn is_in_frame(&self) -> bool {
        let [a, b, c, d, ..] = self.data;
        self.flags.get() & MODE_MASK == REF_ARENA && u32::from_le_bytes([a, b, c, d]) == ARENA_FRAME
    }
}

/// 63 zeros, then ones: the 48 bytes that start at 63 − length are the bytes of `data` that must be zero behind an inline
/// payload of that length. Six bits of length never leave it, and it is two cache lines where a table of masks is 48.
static WINDOW: [u8; 63 + INLINE_MAX] = window();

const fn window() -> [u8; 63 + INLINE_MAX] {
    let mut bytes = [0; 63 + INLINE_MAX];
    let mut index = 63;
    while index < bytes.len() {
        bytes[index] = 0xff;
        index += 1;
    }
    bytes
}

/// The first two message checks: [`Reason::BadPacket`] unless `topic_id`, `flags` and reference keep the layout and the
/// bytes are canonical; then [`Reason::ModeForbidden`] for REF_SHM and arenas other than 0 unless `references` (see
/// [`crate::Lane`]). A good INLINE message, the common case, passes in one branch; all else is told apart out of line.
///
/// # Errors
/// The reason that ends this message.
#[inline]
pub fn check(message: &Message, references: bool) -> Result<(), Reason> {
    let flags = message.flags.get();
    // PRIORITY_HIGH is set exactly if the class is P0 or P1: bit 5 is the opposite of the class's upper bit, bit 23.
    let expected = INLINE_PAYLOAD | (!flags >> (CLASS_SHIFT + 1 - 5)) & PRIORITY_HIGH;
    let unlike = (flags ^ expected) & !(GOVERNANCE_REQUIRED | SYSTEM_PACKET | INLINE_LENGTH_MASK | CLASS_MASK);
    let length = message.inline_length();
    let sound = (unlike == 0) & (message.topic_id.get() != 0) & (length <= INLINE_MAX);
    if sound & tail_is_zero(&message.data, length) { Ok(()) } else { check_other(message, references) }
}

#[inline]
fn tail_is_zero(data: &[u8; INLINE_MAX], length: usize) -> bool {
    let start = 63 - (length & 63);
    let Some(mask) = WINDOW[start..].first_chunk::<INLINE_MAX>() else { return false };
    let (words, masks): ([U64; 6], [U64; 6]) = (zerocopy::transmute!(*data), zerocopy::transmute!(*mask));
    words.iter().zip(&masks).fold(0, |set, (word, mask)| set | word.get() & mask.get()) == 0
}

/// Everything that is not a good INLINE message.
#[cold]
fn check_other(message: &Message, references: bool) -> Result<(), Reason> {
    let flags = message.flags.get();
    let priority_is_right = (flags & PRIORITY_HIGH != 0) == (message.class() <= 1);
    if flags & !FLAGS_KNOWN != 0 || flags & INLINE_LENGTH_MASK != 0 || !priority_is_right || message.topic_id.get() == 0
    {
        return Err(Reason::BadPacket);
    }
    let (offset, length, checksum, zeros, allowed) = match message.reference() {
        Some(Reference::Arena(place)) => {
            let allowed = references || place.arena_id.get() == ARENA_FRAME;
            (place.offset, place.length, place.checksum, place.reserved == [0; 24], allowed)
        }
        Some(Reference::Shm(place)) => {
            (place.offset, place.length, place.checksum, place.reserved == [0; 20], references)
        }
        // No mode, several, or INLINE with something wrong.
        None => return Err(Reason::BadPacket),
    };
    let wraps = offset.get().checked_add(u64::from(length.get())).is_none();
    let wide = checksum.get() > u64::from(u32::MAX);
    if !zeros || wraps || wide || length.get() == 0 {
        return Err(Reason::BadPacket);
    }
    if allowed { Ok(()) } else { Err(Reason::ModeForbidden) }
}
