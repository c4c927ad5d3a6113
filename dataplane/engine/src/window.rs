//! The replay window of one session and shard: 1,024 frames, each settled at most once.

use crate::stream::Stream;
use tachyon_kernels::prefetch_read;
use tachyon_wire::{Reason, tag::FrameKey};

/// Frames that may be unsettled at once (the wire document fixes it).
pub const WINDOW: u32 = 1_024;
/// In a session without tags nobody vouches for `frame_id`, so one frame may not move the window further than this.
pub const UNTAGGED_JUMP_MAX: u32 = 65_536;
/// Frame ids above this are stale: the sender should have moved to its next epoch.
pub const FRAME_ID_MAX: u32 = 1 << 31;

const WORDS: usize = WINDOW as usize / 64;

/// What one session did in one shard under one epoch. The first line is all that most frames touch beside one line of
/// `frames`.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct Window {
    /// The epoch followed.
    pub epoch: u32,
    /// Highest frame id settled; 0 = none yet.
    top: u32,
    /// Every frame up to this one is settled, or left the window unseen.
    cumulative: u32,
    /// The opposite direction: acks and nacks.
    pub reply: Stream,
    /// The key of `epoch`, once a frame of it was checked.
    pub key: Option<FrameKey>,
    /// The classes of acks that are due at the end of this burst, a bit each.
    pub ack_due: u8,
    /// Frame `id` is bit `id % 64` of word `id / 64 % 16`.
    frames: [Frames; WORDS],
}

/// What the window knows of 64 frames, side by side, so that settling one touches one line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frames {
    /// Settled.
    pub(crate) seen: u64,
    /// A message in it was refused.
    pub(crate) refused: u64,
}

impl Frames {
    const NONE: Self = Self { seen: 0, refused: 0 };

    /// Forgets what was known of the frame that has this one's place.
    #[inline]
    fn forget(&mut self, id: u32) {
        self.seen &= !bit(id);
        self.refused &= !bit(id);
    }
}

const _: () = assert!(core::mem::offset_of!(Window, frames) == 64);

impl Window {
    /// A window that saw nothing.
    pub const EMPTY: Self = Self {
        epoch: 0,
        top: 0,
        cumulative: 0,
        key: None,
        frames: [Frames::NONE; WORDS],
        ack_due: 0,
        reply: Stream::EMPTY,
    };

    /// Asks the cache for what settling a frame will read.
    #[inline]
    pub fn prefetch(windows: &[Self], index: usize, id: u32) {
        prefetch_read(windows, index);
        if let Some(window) = windows.get(index) {
            prefetch_read(&window.frames, word(id));
        }
    }

    /// The window of a session that was opened under `epoch`, answered under this boot's first epoch.
    #[must_use]
    pub fn opened(epoch: u32, boot: u16) -> Self {
        Self { epoch, reply: Stream::of_boot(boot), ..Self::EMPTY }
    }

    /// Starts anew under an epoch. Replies go on under theirs.
    #[cold]
    pub fn restart(&mut self, epoch: u32, key: Option<FrameKey>) {
        let reply = core::mem::replace(&mut self.reply, Stream::EMPTY);
        *self = Self { epoch, key, reply, ..Self::EMPTY };
    }

    /// Settles a frame whose tag or crc was verified.
    ///
    /// # Errors
    /// [`Reason::Stale`] if it is older than the window (or, untagged, too far ahead), [`Reason::Replay`] if it was
    /// settled before.
    #[inline]
    pub fn settle(&mut self, id: u32, tagged: bool) -> Result<(), Reason> {
        if id > self.top {
            if id > FRAME_ID_MAX || (!tagged && id - self.top > UNTAGGED_JUMP_MAX) {
                return Err(Reason::Stale);
            }
            self.advance(id);
        } else if self.top - id >= WINDOW {
            return Err(Reason::Stale);
        } else if self.is_seen(id) {
            return Err(Reason::Replay);
        }
        self.frames[word(id)].seen |= bit(id);
        Ok(())
    }

    /// Marks a settled frame as one in which a message was refused. Frames are checked some at a time before they are
    /// judged, so by now the window may be past this one, or in another epoch: then its bit is another frame's.
    #[inline]
    pub fn mark_refused(&mut self, epoch: u32, id: u32) {
        if epoch == self.epoch && self.top.checked_sub(id).is_some_and(|behind| behind < WINDOW) {
            self.frames[word(id)].refused |= bit(id);
        }
    }

    /// Moves the top to `id`, forgetting what falls out of the window.
    #[inline]
    fn advance(&mut self, id: u32) {
        // Most frames are the next one.
        if id - self.top > 1 {
            self.skip_to(id);
        }
        self.frames[word(id)].forget(id);
        self.top = id;
    }

    /// Forgets what falls out of the window for frames that are skipped on the way to `id`.
    #[inline(never)]
    fn skip_to(&mut self, id: u32) {
        if id - self.top >= WINDOW {
            self.frames = [Frames::NONE; WORDS];
        } else {
            (self.top + 1..id).for_each(|gone| self.frames[word(gone)].forget(gone));
        }
    }

    #[inline]
    fn is_seen(&self, id: u32) -> bool {
        self.frames[word(id)].seen & bit(id) != 0
    }

    /// Whether a frame of this epoch is settled, by being seen or by having left the window.
    #[must_use]
    pub fn is_settled(&self, id: u32) -> bool {
        id <= self.top && (self.top - id >= WINDOW || self.is_seen(id))
    }

    /// Whether a message of this frame was refused, as far as the window remembers.
    #[must_use]
    pub fn is_refused(&self, id: u32) -> bool {
        id <= self.top && self.top - id < WINDOW && self.frames[word(id)].refused & bit(id) != 0
    }

    /// Whether no frame of its epoch came to it yet.
    pub(crate) const fn is_untouched(&self) -> bool {
        self.top == 0 && self.key.is_none()
    }

    /// Takes over what was known of a frame before a restart, if it is not too old by now.
    pub(crate) fn restore(&mut self, top: u32, id: u32, refused: bool) {
        if top > self.top {
            self.advance(top);
        }
        if id >= 1 && self.top.checked_sub(id).is_some_and(|behind| behind < WINDOW) {
            let frames = &mut self.frames[word(id)];
            frames.seen |= bit(id);
            frames.refused |= if refused { bit(id) } else { 0 };
        }
    }

    /// The highest frame that is settled, and what is known of it and those before it.
    pub(crate) const fn state(&self) -> (u32, [Frames; WORDS]) {
        (self.top, self.frames)
    }

    /// Every frame up to the returned one is settled.
    pub fn cumulative(&mut self) -> u32 {
        self.cumulative = self.cumulative.max(self.top.saturating_sub(WINDOW));
        while self.cumulative < self.top && self.is_seen(self.cumulative + 1) {
            self.cumulative += 1;
        }
        self.cumulative
    }
}

#[inline]
const fn word(id: u32) -> usize {
    ((id % WINDOW) / 64) as usize
}

#[inline]
const fn bit(id: u32) -> u64 {
    1 << (id % 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    extern crate std;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    /// The window as the wire document says it: a set of settled ids and the highest of them.
    #[derive(Default)]
    struct Model {
        settled: BTreeSet<u32>,
    }

    impl Model {
        fn settle(&mut self, id: u32, tagged: bool) -> Result<(), Reason> {
            let top = self.settled.last().copied().unwrap_or(0);
            if id > FRAME_ID_MAX || (id > top && !tagged && id - top > UNTAGGED_JUMP_MAX) || id + WINDOW <= top {
                return Err(Reason::Stale);
            }
            if self.settled.insert(id) { Ok(()) } else { Err(Reason::Replay) }
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_set_of_ids(steps in prop::collection::vec((0u32..4, 0u32..3000, any::<bool>()), 1..400)) {
            let (mut window, mut model, mut at) = (Window::EMPTY, Model::default(), 1u32);
            for (kind, distance, tagged) in steps {
                let id = match kind {
                    0 => at + 1,
                    1 => at.saturating_sub(distance).max(1),
                    2 => at + distance,
                    _ => at + distance * 60,
                };
                let got = window.settle(id, tagged);
                prop_assert_eq!(got, model.settle(id, tagged), "id {} after {}", id, at);
                if got.is_ok() { at = at.max(id); }
            }
            let top = model.settled.last().copied().unwrap_or(0);
            let first_open = ((top + 1).saturating_sub(WINDOW).max(1)..).find(|id| !model.settled.contains(id));
            prop_assert_eq!(Some(window.cumulative() + 1), first_open);
        }
    }

    #[test]
    fn forgets_refusals_with_the_frames_they_belong_to() {
        let mut window = Window::EMPTY;
        window.settle(5, true).unwrap();
        window.mark_refused(0, 5);
        assert!(window.is_refused(5));
        window.settle(5 + WINDOW, true).unwrap();
        assert!(!window.is_refused(5) && !window.is_refused(5 + WINDOW) && window.is_settled(5));
    }

    #[test]
    fn refuses_ids_past_the_end_of_an_epoch() {
        let mut window = Window::EMPTY;
        assert_eq!(window.settle(FRAME_ID_MAX + 1, true), Err(Reason::Stale));
        assert_eq!(window.settle(FRAME_ID_MAX, true), Ok(()));
        let ids: Vec<u32> = (FRAME_ID_MAX - WINDOW + 1..FRAME_ID_MAX).collect();
        assert!(ids.iter().all(|id| window.settle(*id, true).is_ok()));
    }
}
