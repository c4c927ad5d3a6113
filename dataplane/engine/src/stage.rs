//! The frames of a burst, some at a time.

use arrayvec::ArrayVec;
use tachyon_driver_api::Received;

/// Frames that are checked, and their topics prefetched, before the first of them is judged; fewer if they have
/// [`STAGE_BYTES`] before.
pub(crate) const STAGE: usize = 8;
/// Bytes of such frames, about: 4 frames of 22 messages touch 176 lines of state. That is something to hide a miss behind,
/// and enough tags to make at once, and little enough that the first is still in L1 when its turn comes.
const STAGE_BYTES: usize = 4 * 1_472;

/// A frame that waits for its turn: whose buffer it is in, and the place of its shard among the worker's.
pub(crate) struct Waiting<'f> {
    pub(crate) item: &'f Received,
    /// Its place in the burst.
    pub(crate) place: usize,
    pub(crate) bytes: &'f [u8],
    pub(crate) owned: u16,
}

/// Frames that are judged together.
pub(crate) type Stage<'f> = ArrayVec<Waiting<'f>, STAGE>;

/// Cuts a burst into frames. By hand, because an iterator made of iterators costs three times as much for each.
pub(crate) struct Frames<'f> {
    received: &'f [Received],
    /// The buffer whose frames are next, and its bytes that are left.
    place: usize,
    rest: &'f [u8],
}

impl<'f> Frames<'f> {
    pub(crate) fn of(received: &'f [Received]) -> Self {
        Self { received, place: 0, rest: received.first().map_or(&[], bytes_of) }
    }

    /// Fills a stage with the next frames. Each is shown to `meet`, which says the place of its shard.
    #[inline]
    pub(crate) fn next_stage(&mut self, stage: &mut Stage<'f>, meet: impl Fn(&Received, &[u8]) -> u16) {
        stage.clear();
        let mut left = STAGE_BYTES;
        while left > 0
            && !stage.is_full()
            && let Some((place, item, bytes)) = self.next()
        {
            stage.push(Waiting { item, place, bytes, owned: meet(item, bytes) });
            left = left.saturating_sub(bytes.len());
        }
    }

    /// The next frame. A carrier without a byte carries one frame, an empty one, so that it is counted and refused.
    #[inline(always)]
    fn next(&mut self) -> Option<(usize, &'f Received, &'f [u8])> {
        let item = self.received.get(self.place)?;
        let (bytes, rest) = self.rest.split_at(self.rest.len().min(item.stride.max(1) as usize));
        let place = self.place;
        self.rest = rest;
        if rest.is_empty() {
            self.place += 1;
            self.rest = self.received.get(self.place).map_or(&[], bytes_of);
        }
        Some((place, item, bytes))
    }
}

/// How many frames [`Frames`] makes of a buffer.
pub(crate) fn frames_in(item: &Received) -> u64 {
    bytes_of(item).len().div_ceil(item.stride.max(1) as usize).max(1) as u64
}

/// The bytes of a buffer's frames.
fn bytes_of(item: &Received) -> &[u8] {
    let bytes = item.buffer.bytes().get(item.offset as usize..).unwrap_or_default();
    bytes.get(..item.len as usize).unwrap_or_default()
}
