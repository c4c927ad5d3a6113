//! From bytes to an admitted frame: the frame checks in the order of the wire document.

use crate::{stream::Stream, window::Window};
use core::ops::Range;
use tachyon_kernels::prefetch_read;
use tachyon_policy::Publisher;
use tachyon_wire::{
    Endpoint, FrameHeader, Reason, command, crc,
    frame::{self, AUTHENTICATED, Frame, Lane},
    payload,
    tag::{self, FrameKey},
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

impl core::fmt::Debug for Session {
    /// Never prints a key.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Session({})", self.id)
    }
}

/// A frame that passed every frame check, and where its session stands.
#[derive(Clone, Copy, Debug)]
pub struct Admitted<'f> {
    /// The frame.
    pub frame: Frame<'f>,
    /// Slot in the session table.
    pub session: usize,
    /// Index into the windows.
    pub window: usize,
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

/// Sessions and their windows in the shards of one worker.
#[derive(Debug)]
pub struct Ingress<'a> {
    sessions: &'a mut [Session],
    windows: &'a mut [Window],
    owned: usize,
    lane: Lane,
    boot: u16,
}

impl<'a> Ingress<'a> {
    /// `sessions` has a power of two of slots; `windows` has `owned` for each.
    pub fn new(
        sessions: &'a mut [Session],
        windows: &'a mut [Window],
        owned: usize,
        frame_bytes_max: u32,
        boot: u16,
    ) -> Self {
        Self { sessions, windows, owned, lane: Lane { frame_bytes_max, references: false }, boot }
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
        let floor = open.epoch_floor.get();
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
            is_open: true,
            by_node: open.flags & command::SESSION_NODE != 0,
            tag_required: open.flags & command::SESSION_TAG_REQUIRED != 0,
            pinned: open.pinned,
            master: open.master,
            reply_master: open.reply_master,
        };
        for window in &mut self.windows[slot * self.owned..][..self.owned] {
            if !same {
                *window = Window::opened(floor, self.boot);
            } else if window.epoch < floor {
                window.restart(floor, None);
            }
            if !same_reply {
                window.reply = Stream::of_boot(self.boot);
            }
        }
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

    /// A session and one of its windows.
    pub fn both(&mut self, session: usize, window: usize) -> (&Session, &mut Window) {
        (&self.sessions[session], &mut self.windows[window])
    }

    /// What this lane takes.
    #[must_use]
    pub fn lane(&self) -> Lane {
        self.lane
    }

    /// Asks the cache for what [`Ingress::admit`] will read of these bytes' session.
    #[inline]
    pub fn prefetch(&self, bytes: &[u8], owned: usize) {
        if let Ok((header, _)) = FrameHeader::ref_from_prefix(bytes) {
            let slot = self.slot(header.session_id.get());
            prefetch_read(self.sessions, slot);
            Window::prefetch(self.windows, slot * self.owned + owned, header.frame_id.get());
        }
    }

    /// Checks one frame that came to `shard`'s port from `source`. The worker's `owned`-th shard is that; past all of them,
    /// it is another worker's.
    ///
    /// # Errors
    /// The first check that failed, in the wire document's order.
    #[inline]
    pub fn admit<'f>(
        &mut self,
        bytes: &'f [u8],
        shard: u16,
        owned: usize,
        source: &Endpoint,
    ) -> Result<Admitted<'f>, Refused> {
        let frame = frame::parse(bytes, &self.lane)?;
        let header = frame.header;
        let slot = self.slot(header.session_id.get());
        let session = &self.sessions[slot];
        let known = session.is_open && session.id == header.session_id.get() && session.id != 0;
        frame::check_route(&frame, known && session.by_node)?;
        if header.shard.get() != shard || owned >= self.owned {
            return Err(Reason::WrongShard.into());
        }
        if !known || !(session.pinned.is_none() || session.pinned.pins(source)) {
            return Err(Reason::NoSession.into());
        }
        let index = slot * self.owned + owned;
        let window = &mut self.windows[index];
        let tagged = header.flags.get() & AUTHENTICATED != 0;
        let key = verify(session, window, &frame, tagged)?;
        follow_epoch(window, header.epoch.get(), key)?;
        let id = header.frame_id.get();
        let refused = |reason| Refused { reason, verified: Some((slot, index)) };
        window.settle(id, tagged).map_err(refused)?;
        if let Err(reason) = payload::check(&frame) {
            window.mark_refused(header.epoch.get(), id);
            return Err(refused(reason));
        }
        Ok(Admitted { frame, session: slot, window: index })
    }
}

/// Checks tag or crc; returns the key if it is one the window does not hold yet.
#[inline]
fn verify(session: &Session, window: &mut Window, frame: &Frame<'_>, tagged: bool) -> Result<Option<FrameKey>, Reason> {
    let epoch = frame.header.epoch.get();
    if !tagged {
        // The crc is what a session without tags needs; where it needs tags, the lack of one is the reason.
        return match (session.tag_required, crc::verify(frame)) {
            (true, _) => Err(Reason::TagRequired),
            (false, true) => Ok(None),
            (false, false) => Err(Reason::BadCrc),
        };
    }
    if let Some(key) = &window.key
        && window.epoch == epoch
    {
        return if tag::verify(key, frame) { Ok(None) } else { Err(Reason::BadTag) };
    }
    let key = tag::derive(&session.master, session.id, epoch);
    if tag::verify(&key, frame) { Ok(Some(key)) } else { Err(Reason::BadTag) }
}

/// Follows the sender to a newer epoch and refuses an older one. Without a tag nobody vouches for the number, so then
/// only the very next epoch is followed.
#[inline]
fn follow_epoch(window: &mut Window, epoch: u32, new_key: Option<FrameKey>) -> Result<(), Reason> {
    if epoch == window.epoch {
        if new_key.is_some() {
            window.key = new_key;
        }
        return Ok(());
    }
    if epoch < window.epoch || (new_key.is_none() && epoch != window.epoch + 1) {
        return Err(Reason::Stale);
    }
    window.restart(epoch, new_key);
    Ok(())
}
