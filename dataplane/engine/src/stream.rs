//! The sending side of a session in one shard: which frame id and epoch come next, under which key.

use crate::window::FRAME_ID_MAX;
use tachyon_wire::tag::{self, FrameKey};

/// One direction of one session in one shard, as this worker sends it.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Epoch of the key.
    pub epoch: u32,
    /// The id the next frame gets, from 1.
    next: u32,
    key: Option<FrameKey>,
}

impl Stream {
    /// A stream that was not opened.
    pub const EMPTY: Self = Self { epoch: 0, next: 1, key: None };

    /// A stream that starts under the first epoch of a boot: the boot number is the epoch's high half, so that no nonce
    /// is used twice even if the node forgets all else.
    #[must_use]
    pub fn of_boot(boot: u16) -> Self {
        Self { epoch: u32::from(boot) << 16, ..Self::EMPTY }
    }

    /// Frame id and epoch of the next frame. A key never meets one nonce twice: ids only rise, and past the last one of an
    /// epoch the next epoch begins.
    #[inline]
    pub fn advance(&mut self) -> (u32, u32) {
        if self.next > FRAME_ID_MAX {
            *self = Self { epoch: self.epoch + 1, ..Self::EMPTY };
        }
        let id = self.next;
        self.next += 1;
        (id, self.epoch)
    }

    /// The key of the session in an epoch; kept for the one in which the stream is.
    #[inline]
    pub fn key(&mut self, epoch: u32, master: &[u8; 32], session_id: u32) -> FrameKey {
        let derived = || tag::derive(master, session_id, epoch);
        if epoch == self.epoch { *self.key.get_or_insert_with(derived) } else { derived() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_to_the_next_epoch_when_its_ids_are_spent() {
        let mut stream = Stream::of_boot(7);
        assert_eq!(stream.advance().0, 1);
        stream.next = FRAME_ID_MAX;
        let (id, epoch) = stream.advance();
        assert_eq!((id, epoch), (FRAME_ID_MAX, 7 << 16));
        let (id, epoch) = stream.advance();
        assert_eq!((id, epoch), (1, (7 << 16) + 1));
    }
}
