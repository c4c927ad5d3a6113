//! The frame's tag: AEGISMAC-128L under a key that belongs to one session and epoch.

use crate::{Frame, FrameHeader, LINE};
use aegis::aegis128l::Aegis128LMac;
use zerocopy::{FromBytes, IntoBytes};

/// BLAKE3 context under which frame keys are derived; part of the wire contract.
pub const KEY_CONTEXT: &str = "tachyon 1 frame key";
/// Bytes of a master key.
pub const MASTER_BYTES: usize = 32;
/// Bytes of a tag.
pub const TAG_BYTES: usize = 16;

/// Key of one session in one epoch. Small and `Copy`, so that a session table can hold it; never printed.
#[derive(Clone, Copy)]
pub struct FrameKey {
    bytes: [u8; 16],
}

impl FrameKey {
    /// No key at all: what an empty slot of a session table holds.
    pub const ZERO: Self = Self { bytes: [0; 16] };

    /// A key from its 16 bytes. Only tests and tools that check other programs have a use for it.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self { bytes }
    }

    /// The 16 bytes, for golden vectors. Keep them out of logs.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.bytes
    }
}

impl core::fmt::Debug for FrameKey {
    /// Says that there is a key, and no more.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("FrameKey(..)")
    }
}

/// The key of an epoch: the first 16 bytes of BLAKE3 derive_key([`KEY_CONTEXT`], master ‖ `session_id` ‖ `epoch`), both
/// u32 little endian. Costs two compressions, about 200 ns: once per epoch, not per frame.
#[must_use]
pub fn derive(master: &[u8; MASTER_BYTES], session_id: u32, epoch: u32) -> FrameKey {
    let mut hasher = blake3::Hasher::new_derive_key(KEY_CONTEXT);
    hasher.update(master);
    hasher.update(&session_id.to_le_bytes());
    hasher.update(&epoch.to_le_bytes());
    let mut bytes = [0; 16];
    hasher.finalize_xof().fill(&mut bytes);
    FrameKey { bytes }
}

/// The tag of a frame with its `tag` taken as zero, whatever stands there. The nonce comes from the header: `session_id`,
/// `epoch`, `shard`, `frame_id`, each as u32 little endian. Nothing is written: the header is copied.
///
/// # Panics
/// If there are fewer than 64 bytes: what has no header has no nonce.
#[inline]
#[must_use]
pub fn compute(key: &FrameKey, frame: &[u8]) -> [u8; TAG_BYTES] {
    mac(key, frame).finalize()
}

/// Whether the frame's tag is right under this key; compares in constant time.
#[inline]
#[must_use]
pub fn verify(key: &FrameKey, frame: &Frame<'_>) -> bool {
    mac(key, frame.bytes).verify(&frame.header.tag).is_ok()
}

#[inline]
fn mac(key: &FrameKey, frame: &[u8]) -> Aegis128LMac<TAG_BYTES> {
    let (header, rest) = FrameHeader::read_from_prefix(frame).expect("a frame is at least 64 bytes");
    let header = FrameHeader { tag: [0; TAG_BYTES], ..header };
    let mut nonce = [0; 16];
    nonce[..4].copy_from_slice(header.session_id.as_bytes());
    nonce[4..8].copy_from_slice(header.epoch.as_bytes());
    nonce[8..12].copy_from_slice(&u32::from(header.shard.get()).to_le_bytes());
    nonce[12..].copy_from_slice(header.frame_id.as_bytes());
    let mut mac = Aegis128LMac::new_with_nonce(&key.bytes, &nonce);
    mac.update(header.as_bytes());
    mac.update(rest);
    mac
}

const _: () = assert!(size_of::<FrameHeader>() == LINE);
