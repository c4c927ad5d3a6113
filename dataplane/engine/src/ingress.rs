//! From bytes to an admitted frame: the frame checks in the order of the wire document.

use crate::{
    stream::Stream,
    window::{WINDOW, Window},
};
use arrayvec::ArrayVec;
use core::ops::Range;
use tachyon_kernels::{
    Path, crc, prefetch_read,
    tags::{self, Job},
};
use tachyon_policy::Publisher;
use tachyon_wire::{
    Endpoint, FrameHeader, Reason, command,
    frame::{self, AUTHENTICATED, Frame, Lane},
    payload,
    tag::{self, FrameKey, TAG_BYTES},
};
use zerocopy::FromBytes;

/// One ingress session, as every worker of the node knows it. The first line is all that most frames touch.
#[derive(Clone)]
#[repr(C, align(64))]
pub struct Session {
    /// Its id; 0 marks a free slot.
    pub id: u32,
    /// The opposite session.
    pub reply_id: u32,
    /// What `policy` needs to know of it.
    pub publisher: Publisher,
    /// A closed session keeps its slot, so that it goes on where it was if it comes back: no frame may be settled twice
    /// under one key, and no reply sent twice under one nonce.
    is_open: bool,
    by_node: bool,
    tag_required: bool,
    pinned: Endpoint,
    // From here on what is read once per epoch.
    master: [u8; 32],
    /// Master key of the opposite direction.
    pub reply_master: [u8; 32],
}

impl Session {
    /// A free slot.
    pub const EMPTY: Self = Self {
        id: 0,
        reply_id: 0,
        publisher: Publisher { principal: 0, sender_low: 0, sender_high: 0, class_cap: 0, system: false },
        is_open: false,
        by_node: false,
        tag_required: true,
        pinned: Endpoint::NONE,
        master: [0; 32],
        reply_master: [0; 32],
    };
}

impl Session {
    /// Whether its frames must carry tags, and so their answers too, also under an epoch that no frame came under yet.
    #[must_use]
    pub fn needs_tags(&self) -> bool {
        self.tag_required
    }
}

impl core::fmt::Debug for Session {
    /// Never prints a key.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Session({})", self.id)
    }
}

/// A frame of the stage, and what is known of it. Filled where it stands: a record of this size that is written in pieces
/// and then moved makes the move wait for all of them (8 ns a frame).
#[derive(Clone, Copy, Debug)]
pub struct Found<'f> {
    /// The frame; only if it was not refused.
    pub frame: Frame<'f>,
    /// Slot in the session table.
    pub session: usize,
    /// Index into the windows.
    pub window: usize,
    /// What vouches for it.
    proof: Proof,
    /// The key, if it is one that the window does not hold yet.
    new_key: FrameKey,
    /// The check that failed, if one did.
    pub refused: Option<Reason>,
}

impl Found<'_> {
    /// Nothing yet.
    pub const NONE: Self = Self {
        frame: Frame::EMPTY,
        session: 0,
        window: 0,
        proof: Proof::Crc,
        new_key: FrameKey::ZERO,
        refused: Some(Reason::InternalInvariant),
    };

    /// Whether it has a tag, which then has to be compared.
    #[inline]
    #[must_use]
    pub fn is_tagged(&self) -> bool {
        self.proof != Proof::Crc
    }
}

/// What vouches for a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    /// Its crc, which was right.
    Crc,
    /// Its tag, under the key that its window holds.
    HeldKey,
    /// Its tag, under a key derived for it.
    NewKey,
}

/// A frame that failed one, and whether its sender is entitled to a reply: only once its tag or crc was verified.
#[derive(Clone, Copy, Debug)]
pub struct Refused {
    /// The first check that failed.
    pub reason: Reason,
    /// Session slot and window of a verified frame, whose sender may be answered.
    pub verified: Option<(usize, usize)>,
}

impl From<Reason> for Refused {
    fn from(reason: Reason) -> Self {
        Self { reason, verified: None }
    }
}

/// Frames whose tags are compared together.
const TAGS: usize = tags::TOGETHER;

/// Sessions and their windows in the shards of one worker.
#[derive(Debug)]
pub struct Ingress<'a> {
    sessions: &'a mut [Session],
    windows: &'a mut [Window],
    owned: usize,
    lane: Lane,
    boot: u16,
    path: Path,
}

impl<'a> Ingress<'a> {
    /// `sessions` has a power of two of slots; `windows` has `owned` for each.
    pub fn new(
        sessions: &'a mut [Session],
        windows: &'a mut [Window],
        owned: usize,
        frame_bytes_max: u32,
        boot: u16,
        path: Path,
    ) -> Self {
        Self { sessions, windows, owned, lane: Lane { frame_bytes_max, references: false }, boot, path }
    }

    #[inline]
    fn slot(&self, session_id: u32) -> usize {
        session_id as usize & (self.sessions.len() - 1)
    }

    /// The windows that start anew if this session is opened: none if it is the one that has the slot, open or closed.
    #[must_use]
    pub fn anew(&self, open: &command::OpenSession) -> Range<usize> {
        let slot = self.slot(open.session_id.get());
        let session = &self.sessions[slot];
        let same = session.id == open.session_id.get() && session.master == open.master;
        let start = slot * self.owned;
        start..if same { start } else { start + self.owned }
    }

    /// Opens, or replaces, a session; its windows start anew unless it is the same session again.
    pub fn open(&mut self, open: &command::OpenSession) {
        let same = self.anew(open).is_empty();
        let slot = self.slot(open.session_id.get());
        let (floor, restoring) = (open.epoch_floor.get(), open.flags & command::SESSION_RESTORING != 0);
        let before = &self.sessions[slot];
        let same_reply = before.reply_id == open.reply_session_id.get() && before.reply_master == open.reply_master;
        self.sessions[slot] = Session {
            id: open.session_id.get(),
            reply_id: open.reply_session_id.get(),
            publisher: Publisher {
                principal: open.principal.get(),
                sender_low: open.sender_low.get(),
                sender_high: open.sender_high.get(),
                class_cap: open.class_cap,
                system: open.flags & command::SESSION_SYSTEM != 0,
            },
            is_open: !restoring,
            by_node: open.flags & command::SESSION_NODE != 0,
            tag_required: open.flags & command::SESSION_TAG_REQUIRED != 0,
            pinned: open.pinned,
            master: open.master,
            reply_master: open.reply_master,
        };
        for window in &mut self.windows[slot * self.owned..][..self.owned] {
            if !same {
                *window = Window::opened(floor, self.boot);
            } else if window.epoch < floor && !restoring {
                // While it is restored, one that is there already knows more than the log.
                window.restart(floor, None);
            }
            if !same_reply {
                window.reply = Stream::of_boot(self.boot);
            }
        }
    }

    /// Gives a window back a part of what it was before a restart: see [`command::Restore`].
    /// The window's index, if it goes on under that epoch.
    pub fn restore(&mut self, owned: u16, restore: &command::Restore) -> Option<usize> {
        let (_, index) = self.places(restore.session_id.get(), owned)?;
        let (window, epoch, top) = (&mut self.windows[index], restore.epoch.get(), restore.top.get());
        if window.epoch != epoch {
            if !window.is_untouched() {
                return None;
            }
            window.restart(epoch, None);
        }
        let first = u32::from(restore.word) * 64;
        for back in 0..WINDOW.min(top) {
            let id = top - back;
            // Where it is among the bits of all words, counted from the first of these.
            let at = (id % WINDOW).wrapping_sub(first);
            let (Some(seen), Some(refused)) =
                (restore.seen.get(at as usize / 64), restore.refused.get(at as usize / 64))
            else {
                continue;
            };
            if seen.get() >> (at % 64) & 1 != 0 {
                window.restore(top, id, refused.get() >> (at % 64) & 1 != 0);
            }
        }
        Some(index)
    }

    /// Ends a session.
    pub fn close(&mut self, session_id: u32) {
        let slot = self.slot(session_id);
        if self.sessions[slot].id == session_id {
            self.sessions[slot].is_open = false;
        }
    }

    /// The session in a slot.
    #[inline]
    #[must_use]
    pub fn session(&self, slot: usize) -> &Session {
        &self.sessions[slot]
    }

    /// The window at an index.
    #[inline]
    pub fn window(&mut self, index: usize) -> &mut Window {
        &mut self.windows[index]
    }

    /// A session's slot, and its window in the worker's `owned`-th shard; `None` if the slot is another session's by now.
    #[must_use]
    pub fn places(&self, session_id: u32, owned: u16) -> Option<(usize, usize)> {
        let slot = self.slot(session_id);
        let there = self.sessions.get(slot)?.id == session_id && usize::from(owned) < self.owned;
        there.then_some((slot, slot * self.owned + usize::from(owned)))
    }

    /// A session and one of its windows.
    pub fn both(&mut self, session: usize, window: usize) -> (&Session, &mut Window) {
        (&self.sessions[session], &mut self.windows[window])
    }

    /// What this lane takes.
    #[must_use]
    pub fn lane(&self) -> Lane {
        self.lane
    }

    /// Asks the cache for what [`Ingress::find`] and [`Ingress::settle`] will read of these bytes' session.
    #[inline]
    pub fn prefetch(&self, bytes: &[u8], owned: usize) {
        if let Ok((header, _)) = FrameHeader::ref_from_prefix(bytes) {
            let slot = self.slot(header.session_id.get());
            prefetch_read(self.sessions, slot);
            Window::prefetch(self.windows, slot * self.owned + owned, header.frame_id.get());
        }
    }

    /// Makes every check of one frame, in the wire document's order, up to its crc; a tag is left to
    /// [`Ingress::check_tags`]. It came to `shard`'s port from `source`. The worker's `owned`-th shard is that; past all of
    /// them, it is another worker's.
    #[inline]
    pub fn find<'f>(&self, bytes: &'f [u8], shard: u16, owned: usize, source: &Endpoint, found: &mut Found<'f>) {
        found.refused = self.find_in_order(bytes, shard, owned, source, found).err();
    }

    #[inline(always)]
    fn find_in_order<'f>(
        &self,
        bytes: &'f [u8],
        shard: u16,
        owned: usize,
        source: &Endpoint,
        found: &mut Found<'f>,
    ) -> Result<(), Reason> {
        found.frame = frame::parse(bytes, &self.lane)?;
        let header = found.frame.header;
        let slot = self.slot(header.session_id.get());
        let session = &self.sessions[slot];
        let known = session.is_open && session.id == header.session_id.get() && session.id != 0;
        frame::check_route(&found.frame, known && session.by_node)?;
        if header.shard.get() != shard || owned >= self.owned {
            return Err(Reason::WrongShard);
        }
        if !known || !(session.pinned.is_none() || session.pinned.pins(source)) {
            return Err(Reason::NoSession);
        }
        (found.session, found.window) = (slot, slot * self.owned + owned);
        let (window, epoch) = (&self.windows[found.window], header.epoch.get());
        found.proof = if header.flags.get() & AUTHENTICATED != 0 {
            if window.key.is_some() && window.epoch == epoch {
                Proof::HeldKey
            } else {
                found.new_key = tag::derive(&session.master, session.id, epoch);
                Proof::NewKey
            }
        } else if session.tag_required {
            // The crc is what a session without tags needs; where it needs tags, the lack of one is the reason.
            return Err(Reason::TagRequired);
        } else if crc::verify_frame(self.path, &found.frame) {
            Proof::Crc
        } else {
            return Err(Reason::BadCrc);
        };
        Ok(())
    }

    /// Compares the tags of some frames, all at once. What was refused already, and what has no tag, stays as it is.
    pub fn check_tags(&self, found: &mut [Found<'_>]) {
        for group in found.chunks_mut(TAGS) {
            let tags = self.tags(group);
            let tagged = group.iter_mut().filter(|found| found.refused.is_none() && found.is_tagged());
            for (found, tag) in tagged.zip(&tags) {
                if !tags::equal(tag, &found.frame.header.tag) {
                    found.refused = Some(Reason::BadTag);
                }
            }
        }
    }

    /// The tags that those of these frames which have one ought to have, in order.
    fn tags(&self, group: &[Found<'_>]) -> [[u8; TAG_BYTES]; TAGS] {
        let mut jobs: ArrayVec<Job<'_>, TAGS> = ArrayVec::new();
        for found in group.iter().filter(|found| found.refused.is_none()) {
            let key = match found.proof {
                Proof::Crc => continue,
                Proof::HeldKey => self.windows[found.window].key.as_ref().unwrap_or(&found.new_key),
                Proof::NewKey => &found.new_key,
            };
            jobs.push(Job { key, frame: found.frame.bytes });
        }
        let mut tags = [[0; TAG_BYTES]; TAGS];
        if !jobs.is_empty() {
            tags::tags(self.path, &jobs, &mut tags);
        }
        tags
    }

    /// Admits a frame whose seal was right: moves its session's epoch and window.
    ///
    /// # Errors
    /// The first of the last checks that failed.
    #[inline]
    pub fn settle(&mut self, found: &Found<'_>) -> Result<(), Refused> {
        if let Some(reason) = found.refused {
            return Err(reason.into());
        }
        let (frame, index) = (&found.frame, found.window);
        let (tagged, epoch, id) = (found.is_tagged(), frame.header.epoch.get(), frame.header.frame_id.get());
        let window = &mut self.windows[index];
        let new_key = if found.proof == Proof::NewKey { Some(found.new_key) } else { None };
        let refused = |reason| Refused { reason, verified: Some((found.session, index)) };
        // The ack of an older epoch's frame tells its sender which epoch there is now.
        let is_older = epoch < window.epoch;
        let stale = |reason: Reason| if is_older { refused(reason) } else { reason.into() };
        follow_epoch(window, epoch, tagged, new_key).map_err(stale)?;
        window.settle(id, tagged).map_err(refused)?;
        if let Err(reason) = payload::check(frame) {
            window.mark_refused(epoch, id);
            return Err(refused(reason));
        }
        Ok(())
    }
}

/// Follows the sender to a newer epoch and refuses an older one. Without a tag nobody vouches for the number, so then
/// only the very next epoch is followed. A frame was found before those ahead of it were settled, so the window may
/// meanwhile be past its epoch, or hold its new key already.
#[inline]
fn follow_epoch(window: &mut Window, epoch: u32, tagged: bool, new_key: Option<FrameKey>) -> Result<(), Reason> {
    if epoch == window.epoch {
        if new_key.is_some() {
            window.key = new_key;
        }
        return Ok(());
    }
    if epoch < window.epoch || (!tagged && epoch != window.epoch + 1) {
        return Err(Reason::Stale);
    }
    window.restart(epoch, new_key);
    Ok(())
}
